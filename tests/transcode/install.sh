#!/usr/bin/env bash
# Puts PyPI's `grpcio-reflection`, of the version of Debian's `python3-grpcio`, into a folder, by its digest. Once: where it is there already,
# this does nothing. Needs python3 with pip, but not root.
set -euo pipefail
into=${1:?"usage: install.sh FOLDER"}
version=1.51.1
digest=b70af764a83e42a44f65df1edb232e972ab69e72bc7fbbad481e66c29a9d8cb8
mkdir -p "$into"
into=$(cd "$into" && pwd)
exec 9>"$into/.lock"
flock 9
if [ "$(cat "$into/.installed" 2>/dev/null)" != "$digest" ]; then
    rm -rf "$into/download" "$into/grpc_reflection"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$into/download" "grpcio-reflection==$version"
    wheel="$into/download/grpcio_reflection-$version-py3-none-any.whl"
    echo "$digest  $wheel" | sha256sum --check --quiet
    python3 -m zipfile -e "$wheel" "$into"
    rm -rf "$into/download"
    echo "$digest" >"$into/.installed"
fi
