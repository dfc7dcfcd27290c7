#!/usr/bin/env bash
# Makes sure that the tools of the named groups are there:
#
#   scripts/need.sh build          what `cargo build` needs beside the Rust toolchain
#   scripts/need.sh build test     what the tests need as well
#   scripts/need.sh openssl        what a build with OpenSSL instead of BoringSSL needs as well
#   scripts/need.sh peers          what `make bench-peers` takes from the distribution
#   scripts/need.sh pgo            what `make release-pgo` needs beside that
#   scripts/need.sh caches         what `make bench-cache-suite` compares with
#   scripts/need.sh instructions   what `make bench-instructions` needs
#
# A tool counts as present if it can be used, wherever it came from. What is missing is installed with apt, if this is Debian (or
# one of its children) and the user is root; otherwise the command to run is printed, and the exit code is 1. No service that
# comes with a package is started or left enabled: the tests start their own.
set -euo pipefail

has() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }

# package  how to tell that it is there
build_needs() {
    need build-essential 'has cc && has c++ && has make'
    need cmake 'has cmake'
    need pkg-config 'has pkg-config'
    # BoringSSL's Rust bindings are made from its headers with libclang.
    need clang 'has clang'
    need libclang-dev '[ -n "$(ls /usr/lib/llvm-*/lib/libclang.so* /usr/lib/*/libclang-[0-9]*.so* 2>/dev/null)" ]'
}

# Building it takes modules that a minimal perl does not have.
openssl_needs() {
    need perl 'perl -MIPC::Cmd -MFindBin -MData::Dumper -e 1'
}

# The Python modules are Debian's, so Debian's own interpreter is asked, whatever else is called python3 here.
test_needs() {
    need curl 'has curl'
    need nginx-light 'has nginx'
    need wrk 'has wrk'
    need nghttp2-client 'has h2load && has nghttp'
    need openssl 'has openssl'
    need python3 '[ -x /usr/bin/python3 ]'
    need python3-pip "python3 -m pip --version"
    need python3-grpcio "/usr/bin/python3 -c 'import grpc'"
    need python3-websockets "/usr/bin/python3 -c 'import websockets'"
    need redis-server 'has redis-server && has redis-cli'
    need haproxy 'has haproxy'
    # Debian has its server on nobody's path.
    need postgresql '[ -n "$(ls /usr/lib/postgresql/*/bin/postgres 2>/dev/null)" ] && has psql'
    need mosquitto 'has mosquitto'
    need mosquitto-clients 'has mosquitto_pub && has mosquitto_sub'
    need dnsmasq-base 'has dnsmasq'
    # A real browser for what only browsers do.
    need chromium-headless-shell 'has chromium-headless-shell'
    need systemd 'has systemd-analyze'
    # The OpenID provider of the tests is an npm package, which wants this version.
    need nodejs "node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)'"
    need npm 'has npm'
}

peers_needs() {
    need nginx-light 'has nginx'
    need haproxy 'has haproxy'
    need h2o 'has h2o'
    need wrk 'has wrk'
    need nghttp2-client 'has h2load'
    need openssl 'has openssl'
    need util-linux 'has taskset'
    need python3 'has python3'
    need python3-venv "python3 -c 'import ensurepip'"
    # Building pingap takes it.
    need protobuf-compiler 'has protoc'
}

# Of the LLVM that the compiler was made with.
pgo_needs() {
    local major
    major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    need "llvm-$major" "has llvm-profdata-$major"
}

instructions_needs() {
    need valgrind 'has valgrind'
    need nginx-light 'has nginx'
    need nghttp2-client 'has h2load'
    need python3 'has python3'
}

caches_needs() {
    need apache2 'has apache2'
    need nginx-light 'has nginx'
    need squid 'has squid'
    need trafficserver 'has traffic_server'
    need varnish 'has varnishd'
    need util-linux 'has taskset'
    need python3 'has python3'
}

missing=()

need() {
    if ! eval "$2" >/dev/null 2>&1; then
        missing+=("$1")
    fi
}

# Installs packages by name, and keeps them from starting or enabling anything.
install_packages() {
    if ! has apt-get; then
        echo "need.sh: missing: $* (names of Debian packages); this system has no apt-get, so please install them yourself" >&2
        return 1
    fi
    if [ "$(id -u)" != 0 ]; then
        echo "need.sh: missing: $*; as root: apt-get update && apt-get install --no-install-recommends $*" >&2
        return 1
    fi
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        # Package scripts ask this before they start a service; 101 forbids it.
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 0755 "$policy"
        trap "rm -f $policy" EXIT
    fi
    echo "need.sh: installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q -o DPkg::Lock::Timeout=300 update
    apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@"
    local package
    for package in "$@"; do
        case $package in
        nginx-light) systemctl --quiet disable nginx.service >/dev/null 2>&1 || true ;;
        haproxy | h2o | redis-server | postgresql | mosquitto | squid | trafficserver) systemctl --quiet disable "$package.service" >/dev/null 2>&1 || true ;;
        apache2) systemctl --quiet disable apache2.service apache-htcacheclean.service >/dev/null 2>&1 || true ;;
        varnish) systemctl --quiet disable varnish.service varnishncsa.service >/dev/null 2>&1 || true ;;
        esac
    done
}

for group in "$@"; do
    case $group in
    build) build_needs ;;
    test) test_needs ;;
    openssl) openssl_needs ;;
    peers) peers_needs ;;
    pgo) pgo_needs ;;
    caches) caches_needs ;;
    instructions) instructions_needs ;;
    *) echo "need.sh: unknown group \`$group\`; known: build, test, openssl, peers, pgo, caches, instructions" >&2 && exit 2 ;;
    esac
done
if [ ${#missing[@]} -gt 0 ]; then
    wanted=("${missing[@]}")
    install_packages "${wanted[@]}"
    # Trust what can be used, not what was said.
    missing=()
    for group in "$@"; do "${group}_needs"; done
    if [ ${#missing[@]} -gt 0 ]; then
        echo "need.sh: installed, but still not usable: ${missing[*]}" >&2
        exit 1
    fi
fi
if ! has cargo; then
    echo "need.sh: the Rust toolchain is missing: \`cargo\` is not on the path" >&2
    exit 1
fi
