#!/usr/bin/env bash
# Installs what a folder of the tests needs from the npm registry, exactly as its package-lock.json says, and its scripts beside that. Once: as
# long as the lock file is the one that was installed, this does nothing. Needs node (20 or later) and npm, but not root.
set -euo pipefail
from=${1:?"usage: npm.sh FROM INTO"} into=${2:?"usage: npm.sh FROM INTO"}
mkdir -p "$into"
into=$(cd "$into" && pwd)
cd "$from"
exec 9>"$into/.lock"
flock 9
if ! cmp -s package-lock.json "$into/.installed"; then
    cp package.json package-lock.json "$into/"
    npm ci --prefix "$into" --no-audit --no-fund --ignore-scripts --loglevel error
    cp package-lock.json "$into/.installed"
fi
find . -maxdepth 1 -name "*.mjs" -exec cp {} "$into/" \;
