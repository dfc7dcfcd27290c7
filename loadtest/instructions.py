#!/usr/bin/env python3
"""User-space instructions per request, counted by callgrind: the same on every run, whatever else the machine does.

Each scenario warms up with some requests over a keep-alive connection; then the counters are set to zero, and what more requests add,
divided by their number, is what one costs. Needs valgrind, nginx and h2load. The scenario
`bare_pingora` is examples/bare_pingora.rs, built beside the binary (left out where it is not there): what the engine alone costs.

    loadtest/instructions.py --binary target/release/portcullis             compares with loadtest/instructions.json, exit 1 on a
                                                                            growth of more than 3 %, or where what is
                                                                            promised is not kept
    loadtest/instructions.py --binary target/release/portcullis --record    writes that file, and compares with nothing
    loadtest/instructions.py --binary target/release/portcullis --functions plain   the costliest functions of one scenario
"""

import argparse
import base64
import collections
import hashlib
import hmac
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

RECORD = pathlib.Path(__file__).with_name("instructions.json")
WARM, MANY = 200, 2000
TOLERANCE = 1.03
BARE = "bare_pingora"

NGINX = """daemon off; pid {dir}/nginx.pid; worker_processes 1; error_log {dir}/nginx.err;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u;
scgi_temp_path {dir}/s; keepalive_requests 100000000; keepalive_timeout 600s; server {{ {listen} location / {{
default_type application/json; return 200 '{body}'; }} }} }}"""
BODY = '{"id":1,"name":"portcullis","description":"about one hundred bytes of JSON, more or less, to be sent"}'

BASE = """listeners: [ { bind: 127.0.0.1:%(port)d } ]
services: { backend: { endpoints: [ 127.0.0.1:%(backend)d ] } }
admin: { bind: 127.0.0.1:%(admin)d }
"""
GAUNTLET = """policies:
  authn: { jwt: { issuer: bench, audience: bench, keys: [ { secret: { file: secret.txt }, algorithm: HS256 } ] } }
  rate_limit: { by: subject, limit: 1000000000/s }
  request_headers: { set: { X-Gate: portcullis }, remove: [ X-Debug ] }
  response_headers: { set: { X-Frame-Options: DENY } }
"""
ONE_ROUTE = "routes: [ { path: /*, service: backend } ]\n"
CACHED = "policies: { cache: { ttl: 1h } }\n"
# A unary call: nginx answers it with one message, which is a file, and trailers.
PROTO = """syntax = "proto3";
message Asked { int32 id = 1; string color = 2; }
message Product { int32 id = 1; string name = 2; string description = 3; }
service Shop { rpc Get(Asked) returns (Product); }
"""
MESSAGE = b"\x08\x01\x12\x0aportcullis\x1a\x40" + b"about one hundred bytes of JSON, more or less, to be sent"[:64].ljust(64, b".")
GRPC = """root {dir}; error_page 405 =200 /message; try_files /message =404; default_type application/grpc;
add_trailer grpc-status 0 always;"""
TRANSCODED = BASE.replace(
    "endpoints: [ 127.0.0.1:%(backend)d ] }",
    """endpoints: [ 127.0.0.1:%(backend)d ], protocol: grpc,
    transcode: { protos: shop.proto, rules: [ { method: Shop.Get, get: "/products/{id}" } ] } }""",
)
TO_H2 = BASE.replace("endpoints: [ 127.0.0.1:%(backend)d ] }", "endpoints: [ 127.0.0.1:%(backend)d ], protocol: http2 }")
H2C = BASE.replace("%(port)d }", "%(port)d, h2c: true }")
TLS = BASE.replace("%(port)d }", "%(port)d, tls: { certificates: [ { cert: cert.pem, key: key.pem } ] } }")
SILENT = "access_log: { output: false }\n"


def many_routes(count):
    lines = ["routes:"] + [f"  - {{ path: /r{n}/*, service: backend }}" for n in range(count)]
    return "\n".join(lines + ["  - { path: /*, service: backend }", ""])


SCENARIOS = {
    "plain": (BASE + ONE_ROUTE + SILENT + "server: { workers: 1 }\n", [], 200),
    "gauntlet": (BASE + ONE_ROUTE + GAUNTLET + "access_log: { output: { file: access.log } }\nserver: { workers: 1 }\n", ["jwt"], 200),
    "refusal": (BASE + ONE_ROUTE + GAUNTLET + SILENT + "server: { workers: 1 }\n", [], 401),
    "hit": (BASE + ONE_ROUTE + CACHED + SILENT + "server: { workers: 1 }\n", [], 200),
    # Each request asks for what nobody has asked for before: it is fetched and stored.
    "miss": (BASE + ONE_ROUTE + CACHED + SILENT + "server: { workers: 1 }\n", ["fresh"], 200),
    "to_http2": (TO_H2 + ONE_ROUTE + SILENT + "server: { workers: 1 }\n", ["to_h2"], 200),
    "transcoded": (TRANSCODED + ONE_ROUTE + SILENT + "server: { workers: 1 }\n", ["to_h2", "grpc"], 200),
    # Each one with its connections, on both sides: opened, switched, and closed by the client.
    "websocket": (BASE + ONE_ROUTE + SILENT + "server: { workers: 1 }\n", ["websocket"], 101),
    "http2": (H2C + ONE_ROUTE + SILENT + "server: { workers: 1 }\n", ["h2"], 200),
    "tls": (TLS + ONE_ROUTE + SILENT + "server: { workers: 1 }\n", ["tls"], 200),
    "routes_10000": (BASE + many_routes(10_000) + SILENT + "server: { workers: 1 }\n", [], 200),
}

# What is promised of the cache, whatever was recorded: by growth of less than 3 % at a time it would be lost unseen. A hit of memory
# stays about where it once began (18,640; docs/develop/performance.md), and to store an answer while it passes costs at most half as much again
# as to pass it on.
MOST = {"hit": 19_000}
MOST_TIMES = {("miss", "plain"): 1.5}

# Told as multiples of bare Pingora's plain GET.
BESIDE_BARE = ["plain", "gauntlet"]


def bare_pingora(binary):
    return pathlib.Path(binary).resolve().parent / "examples" / BARE


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def token(secret):
    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    claims = part(json.dumps({"iss": "bench", "aud": "bench", "sub": "user-1", "exp": int(time.time()) + 86400}).encode())
    signed = head + b"." + claims
    return (signed + b"." + part(hmac.new(secret, signed, hashlib.sha256).digest())).decode()


def certificate(folder):
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    files = ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    command = ["openssl", "req", "-x509", *curve, "-nodes", "-days", "2", "-subj", "/CN=localhost", *files]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def wait_for(address, seconds):
    until = time.time() + seconds
    while time.time() < until:
        try:
            with urllib.request.urlopen(address, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"{address} did not answer within {seconds} s")


def wait_until_quiet(pid, seconds):
    """Until the process has stopped working on its own: what is made ready on a thread beside the first requests would be counted with one
    run and not with the other."""
    used = lambda: sum(map(int, pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    until, before = time.time() + seconds, used()
    while time.time() < until:
        time.sleep(0.5)
        now = used()
        if now - before <= 2:
            return
        before = now
    sys.exit(f"process {pid} was still busy after {seconds} s")


UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = base64.b64encode(hashlib.sha1(f"{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()
ASKED = f"GET /products/42?color=red HTTP/1.1\r\nHost: 127.0.0.1\r\n{UPGRADE}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
SWITCHED = f"HTTP/1.1 101 Switching Protocols\r\n{UPGRADE}Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"


def read_head(sock):
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        more = sock.recv(4096)
        if not more:
            return got
        got += more
    return got


def switch_all(port):
    """A backend that switches to WebSocket and says nothing, until its peer goes. One connection after the other."""
    listener = socket.create_server(("127.0.0.1", port))

    def serve():
        while True:
            try:
                sock = listener.accept()[0]
            except OSError:
                return
            with sock:
                if read_head(sock):
                    sock.sendall(SWITCHED.encode())
                    while sock.recv(4096):
                        pass

    threading.Thread(target=serve, daemon=True).start()
    return listener


def handshakes(port, number):
    for _ in range(number):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
            sock.sendall(ASKED.encode())
            said = read_head(sock)
            if not said.startswith(b"HTTP/1.1 101 "):
                sys.exit(f"websocket: wanted 101, was told:\n{said.decode(errors='replace')}")


def control(pid, what):
    subprocess.run(["callgrind_control", what, str(pid)], check=True, capture_output=True, timeout=60)


def count(binary, name, requests, keep=None):
    """Instructions of so many requests, behind those that warm up."""
    config, extras, status = SCENARIOS.get(name, ("", [], 200))
    with tempfile.TemporaryDirectory() as folder:
        ports = {"port": free_port(), "backend": free_port(), "admin": free_port()}
        secret = b"0123456789abcdef0123456789abcdef"
        pathlib.Path(folder, "secret.txt").write_bytes(secret)
        pathlib.Path(folder, "gateway.yaml").write_text(config % ports)
        # Where the backend is another one, nginx has a port of its own, and nothing to do.
        switching = switch_all(ports["backend"]) if "websocket" in extras else None
        listen = f"listen 127.0.0.1:{free_port() if switching else ports['backend']}{' http2' if 'to_h2' in extras else ''};"
        nginx = NGINX.replace("default_type application/json; return 200 '{body}';", GRPC) if "grpc" in extras else NGINX
        pathlib.Path(folder, "nginx.conf").write_text(nginx.format(dir=folder, body=BODY, listen=listen))
        # For nginx's worker, where it is another user.
        os.chmod(folder, 0o755)
        pathlib.Path(folder, "shop.proto").write_text(PROTO)
        pathlib.Path(folder, "message").write_bytes(b"\0" + len(MESSAGE).to_bytes(4, "big") + MESSAGE)
        if "tls" in extras:
            certificate(folder)
        out = keep or os.path.join(folder, "callgrind.out")
        nginx = subprocess.Popen(["nginx", "-c", f"{folder}/nginx.conf"], stderr=subprocess.DEVNULL)
        if name == BARE:
            command = [bare_pingora(binary), f"127.0.0.1:{ports['port']}", f"127.0.0.1:{ports['backend']}"]
            ready = f"http://127.0.0.1:{ports['port']}/"
        else:
            command = [binary, "run", "-c", f"{folder}/gateway.yaml"]
            ready = f"http://127.0.0.1:{ports['admin']}/readyz"
        gateway = subprocess.Popen(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(ready, 120)
            wait_until_quiet(gateway.pid, 120)
            headers = ["-H", f"authorization: Bearer {token(secret)}"] if "jwt" in extras else []
            url = f"{'https' if 'tls' in extras else 'http'}://127.0.0.1:{ports['port']}/products/42?color=red"

            def load(number):
                if switching:
                    return handshakes(ports["port"], number)
                version = [] if "h2" in extras else ["--h1"]
                what = [url]
                if "fresh" in extras:
                    # Told apart by how many are asked for, too: no URL of the first load is one of the second.
                    lines = "".join(f"{url}&number={number}-{one}\n" for one in range(number))
                    pathlib.Path(folder, "urls.txt").write_text(lines)
                    what = ["-i", f"{folder}/urls.txt"]
                command = ["h2load", *version, "-n", str(number), "-c", "1", "-t", "1", *headers, *what]
                said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
                wanted = f"{number} {status // 100}xx"
                if wanted not in said:
                    sys.exit(f"{name}: wanted {wanted}, h2load said:\n{said}")

            load(WARM)
            wait_until_quiet(gateway.pid, 120)
            control(gateway.pid, "--zero")
            load(requests)
            control(gateway.pid, "--dump")
        finally:
            gateway.send_signal(signal.SIGINT)
            gateway.wait(60)
            nginx.terminate()
            nginx.wait(10)
            if switching:
                switching.close()
        # What follows the dump, the end of the process among it, is in a file of its own.
        os.replace(f"{out}.1", out)
        totals = re.search(r"^(?:summary|totals): (\d+)", pathlib.Path(out).read_text(errors="replace"), re.M)
        return int(totals.group(1))


def functions(out):
    """What each function costs by itself. callgrind_annotate gives everything to the threads' first function: its one call began before
    the counters were set to zero, and it takes what was called zero times for the function's own."""
    names, costs, name, called = {}, collections.Counter(), "", False
    for line in pathlib.Path(out).read_text(errors="replace").splitlines():
        if line.startswith(("fn=", "cfn=")):
            number, _, text = line.partition("=")[2].partition(" ")
            names.setdefault(number, text)
            if line.startswith("fn="):
                name = names[number]
        elif line.startswith("calls="):
            called = True
        elif line[:1] in tuple("0123456789+-*"):
            # What stands behind a call is the cost of what was called.
            costs[name] += 0 if called else int(line.split()[1])
            called = False
    return costs


def broken_promises(measured):
    """What costs more than is promised, of what was measured."""
    told = [f"{name} takes {measured[name]:,}: {most:,} is the most" for name, most in MOST.items() if measured.get(name, 0) >= most]
    for (name, other), most in MOST_TIMES.items():
        if name in measured and other in measured and measured[name] > measured[other] * most:
            told.append(f"{name} takes {measured[name] / measured[other]:.2f}x of {other}: {most}x is the most")
    return told


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--record", action="store_true")
    arguments.add_argument("--functions", metavar="SCENARIO")
    arguments.add_argument("scenarios", nargs="*", default=[])
    given = arguments.parse_args()
    if given.functions:
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "callgrind.out")
            count(given.binary, given.functions, MANY, keep=out)
            for name, cost in functions(out).most_common(60):
                print(f"{cost / MANY:>9,.0f}  {name}")
        return 0
    measured = {}
    chosen = given.scenarios or [*SCENARIOS, BARE]
    if BARE in chosen and not bare_pingora(given.binary).exists():
        print(f"{BARE} is left out: {bare_pingora(given.binary)} is not there (make bare-pingora)")
        chosen = [name for name in chosen if name != BARE]
    for name in chosen:
        per_request = count(given.binary, name, MANY) / MANY
        measured[name] = round(per_request)
        print(f"{name:<22} {per_request:>9,.0f} instructions/request", flush=True)
    for name in BESIDE_BARE:
        if name in measured and BARE in measured:
            print(f"{name} costs {measured[name] / measured[BARE]:.2f}x of {BARE}")
    broken = broken_promises(measured)
    for said in broken:
        print(said)
    if given.record:
        known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        RECORD.write_text(json.dumps(known | measured, indent=2) + "\n")
        return 1 if broken else 0
    if not RECORD.exists():
        return 1 if broken else 0
    known = json.loads(RECORD.read_text())
    grown = [name for name, value in measured.items() if value > known.get(name, value) * TOLERANCE]
    for name in grown:
        print(f"{name} grew from {known[name]:,} to {measured[name]:,}")
    return 1 if grown or broken else 0


if __name__ == "__main__":
    sys.exit(main())
