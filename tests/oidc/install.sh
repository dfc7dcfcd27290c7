#!/usr/bin/env bash
# Installs the OpenID provider that the tests talk to: see tests/npm.sh.
set -euo pipefail
into=${1:?"usage: install.sh FOLDER"}
here=$(dirname "$0")
exec "$here/../npm.sh" "$here" "$into"
