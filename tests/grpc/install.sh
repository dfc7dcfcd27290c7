#!/usr/bin/env bash
# Installs what the gRPC clients of the tests stand on, from the npm registry, exactly as package-lock.json says, into target/grpc.
# Once: as long as the lock file is the one that was installed, this does nothing. Needs node (20 or later) and npm, but not root.
set -euo pipefail
into=${1:?"usage: install.sh FOLDER"}
mkdir -p "$into"
into=$(cd "$into" && pwd)
cd "$(dirname "$0")"
exec 9>"$into/.lock"
flock 9
if ! cmp -s package-lock.json "$into/.installed"; then
    cp package.json package-lock.json "$into/"
    npm ci --prefix "$into" --no-audit --no-fund --ignore-scripts --loglevel error
    cp package-lock.json "$into/.installed"
fi
