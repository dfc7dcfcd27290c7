#!/usr/bin/env bash
# Builds the release binary twice: once to count where requests spend their time, once with what was learned (profile-guided
# optimisation). The result is target/pgo/portcullis; target/release is left alone, so that the two can be compared:
#
#   scripts/release-pgo.sh           both builds, 10 minutes each on a small machine
#   TRAINING='--seconds 2 --scenarios plain,gauntlet' scripts/release-pgo.sh
#
# The training is `loadtest/peers.py` with Portcullis alone: the scenarios of the comparisons in which it works hard,.
# Needs what `make bench-peers` needs, and an llvm-profdata of the LLVM in rustc: older ones refuse what newer compilers write. It is
# looked for in $LLVM_PROFDATA, among rustc's components (`rustup component add llvm-tools`) and on the path (`scripts/need.sh pgo`).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CARGO="${CARGO:-cargo}"
FOLDER="$PWD/target/pgo"
TRAINING="${TRAINING:---seconds 4 --scenarios plain,gauntlet,unauthorized,limited,cache,routes-100,body-10k,body-1m,tls,handshakes,h2}"
host=$(rustc -vV | sed -n 's/^host: //p')
major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')

of_this_llvm() { "$1" --version 2>/dev/null | grep -q "LLVM version $major\."; }

profdata=
for candidate in "${LLVM_PROFDATA:-}" "$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata" "llvm-profdata-$major" llvm-profdata; do
    if [ -n "$candidate" ] && of_this_llvm "$candidate"; then
        profdata=$candidate
        break
    fi
done
if [ -z "$profdata" ]; then
    echo "release-pgo: no llvm-profdata of LLVM $major here: scripts/need.sh pgo, or name one with LLVM_PROFDATA" >&2
    exit 1
fi

# A build of its own folder and for a named target, so that neither build scripts nor anything in target/release is touched. cargo
# remembers a compiler's refusal of flags, even after the profile that it missed is there; hence the third variable.
build() { # FLAG...
    CARGO_TARGET_DIR="$FOLDER" CARGO_CACHE_RUSTC_INFO=0 CARGO_ENCODED_RUSTFLAGS="$(IFS=$'\x1f' && echo "$*")" \
        "$CARGO" build --locked --release --bin portcullis --target "$host"
}

rm -rf "$FOLDER/raw"
build "-Cprofile-generate=$FOLDER/raw"
# shellcheck disable=SC2086 # several words
loadtest/peers.py --portcullis "$FOLDER/$host/release/portcullis" --peers portcullis --no-install --rounds 1 \
    --out "$FOLDER/training" $TRAINING
"$profdata" merge -o "$FOLDER/portcullis.profdata" "$FOLDER/raw"
# Functions that the training never reached have no counts, which is no news.
build "-Cprofile-use=$FOLDER/portcullis.profdata" -Cllvm-args=-no-pgo-warn-mismatch
cp "$FOLDER/$host/release/portcullis" "$FOLDER/portcullis"
ls -l "$FOLDER/portcullis"
