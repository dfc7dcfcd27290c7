#!/usr/bin/env bash
# Puts AWS's own library for Python, which signs requests, and an emulator of its services, which runs functions, into a folder. Once: where they
# are there already, this does nothing. Needs python3 with pip and venv, but not root.
set -euo pipefail
into=${1:?"usage: install.sh FOLDER"}
mkdir -p "$into"
into=$(cd "$into" && pwd)
exec 9>"$into/.lock"
flock 9
if [ "$(cat "$into/.installed" 2>/dev/null)" != 1 ]; then
    rm -rf "$into/venv"
    python3 -m venv "$into/venv"
    "$into/venv/bin/pip" install --quiet --disable-pip-version-check ministack==1.5.33 botocore==1.43.106
    echo 1 >"$into/.installed"
fi
