#!/usr/bin/env bash
# Puts the JSON Schema Test Suite into a folder, as the source package of PyPI's `jsonschema` carries it, by its digest. Once: where the suite
# is there already, this does nothing. Needs python3 with pip, but not root.
set -euo pipefail
into=${1:?"usage: install.sh FOLDER"}
version=4.26.0
digest=0c26707e2efad8aa1bfc5b7ce170f3fccc2e4918ff85989ba9ffa9facb2be326
mkdir -p "$into"
into=$(cd "$into" && pwd)
exec 9>"$into/.lock"
flock 9
if [ "$(cat "$into/.installed" 2>/dev/null)" != "$digest" ]; then
    rm -rf "$into/download" "$into/json"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary jsonschema --dest "$into/download" "jsonschema==$version"
    echo "$digest  $into/download/jsonschema-$version.tar.gz" | sha256sum --check --quiet
    tar -xzf "$into/download/jsonschema-$version.tar.gz" -C "$into" --strip-components=1 "jsonschema-$version/json"
    rm -rf "$into/download"
    echo "$digest" >"$into/.installed"
fi
