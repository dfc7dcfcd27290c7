#!/usr/bin/env python3
"""CPU per request of what is not plain, beside nginx in the same run: a cache fill, an HTTP/2 service, a WebSocket message.

Both gateways have one worker and the same nginx, or the same echoing WebSocket server, behind them. They take turns, and the median of the
rounds counts. What is counted is the CPU time of the gateway's process alone, from the kernel's scheduler. nginx stores on disk, and
speaks HTTP/2 to services for gRPC only (`grpc_pass`), which takes any request. Needs nginx and h2load.

    loadtest/beside_nginx.py --binary target/release/portcullis [--rounds 3] [--requests 20000]
"""

import argparse
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import instructions as base

PEER = """user root; daemon off; pid {dir}/peer.pid; worker_processes 1; error_log {dir}/peer.err;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {dir}/pb; proxy_temp_path {dir}/pp; fastcgi_temp_path {dir}/pf; uwsgi_temp_path {dir}/pu;
scgi_temp_path {dir}/ps; keepalive_requests 100000000; keepalive_timeout 600s;
proxy_cache_path {dir}/cache levels=1:2 keys_zone=all:64m max_size=1g;
upstream plain {{ server 127.0.0.1:{plain}; keepalive 64; keepalive_requests 100000000; }}
upstream streams {{ server 127.0.0.1:{streams}; keepalive 64; keepalive_requests 100000000; }}
upstream echo {{ server 127.0.0.1:{echo}; }}
server {{ listen 127.0.0.1:{port};
location /fill/ {{ proxy_pass http://plain; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_cache all; proxy_cache_valid 200 1h; }}
location /streams/ {{ grpc_pass grpc://streams; }}
location /echo/ {{ proxy_pass http://echo; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;
proxy_set_header Connection upgrade; proxy_read_timeout 600s; }} }} }}"""
OWN = """listeners: [ {{ bind: 127.0.0.1:{port} }} ]
admin: {{ bind: 127.0.0.1:{admin} }}
access_log: {{ output: false }}
server: {{ workers: 1 }}
services:
  plain: {{ endpoints: [ 127.0.0.1:{plain} ] }}
  streams: {{ endpoints: [ 127.0.0.1:{streams} ], protocol: http2 }}
  echo: {{ endpoints: [ 127.0.0.1:{echo} ] }}
routes:
  - {{ path: /fill/*, service: plain, policies: {{ cache: {{ ttl: 1h }} }} }}
  - {{ path: /streams/*, service: streams }}
  - {{ path: /echo/*, service: echo }}
"""
# Binary, final, masked with zeros, 100 bytes.
FRAME = bytes([0x82, 0x80 | 100, 0, 0, 0, 0]) + b"m" * 100


def echo(port):
    listener = socket.create_server(("127.0.0.1", port))

    def serve(sock):
        with sock:
            if base.read_head(sock):
                sock.sendall(base.SWITCHED.encode())
                while got := sock.recv(65536):
                    sock.sendall(got)

    def accept():
        while True:
            try:
                sock = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener


def spent(pid):
    """Nanoseconds on a CPU, of all threads."""
    return sum(int(task.joinpath("schedstat").read_text().split()[0]) for task in pathlib.Path(f"/proc/{pid}/task").iterdir())


def worker_of(master):
    children = pathlib.Path(f"/proc/{master}/task/{master}/children").read_text().split()
    for pid in children:
        if "worker" in pathlib.Path(f"/proc/{pid}/cmdline").read_text():
            return int(pid)
    sys.exit("nginx has no worker")


def messages(port, number):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(base.ASKED.replace("/products/42", "/echo/a").encode())
        if not base.read_head(sock).startswith(b"HTTP/1.1 101 "):
            sys.exit("the gateway did not switch")
        for _ in range(number):
            sock.sendall(FRAME)
            left = len(FRAME)
            while left:
                left -= len(sock.recv(left))


def ask(folder, port, path, number, mark):
    url = f"http://127.0.0.1:{port}{path}"
    what, clients = [url], 8
    if path.startswith("/fill/"):
        pathlib.Path(folder, "urls.txt").write_text("".join(f"{url}?{mark}-{one}\n" for one in range(number)))
        # Each client of more would ask for the same ones.
        what, clients = ["-i", f"{folder}/urls.txt"], 1
    command = ["h2load", "--h1", "-n", str(number), "-c", str(clients), "-t", "1", *what]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    if f"{number} 2xx" not in said:
        sys.exit(f"{path}: h2load said:\n{said}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--requests", type=int, default=20_000)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ports = {name: base.free_port() for name in ("plain", "streams", "echo", "admin")}
        own, peer = base.free_port(), base.free_port()
        listen = f"listen 127.0.0.1:{ports['plain']};"
        backends = base.NGINX.format(dir=folder, body=base.BODY, listen=listen)
        second = f"server {{ listen 127.0.0.1:{ports['streams']} http2; location / {{ return 200 '{base.BODY}'; }} }} }}"
        pathlib.Path(folder, "nginx.conf").write_text(backends.rstrip()[:-1] + second)
        pathlib.Path(folder, "peer.conf").write_text(PEER.format(dir=folder, port=peer, **ports))
        pathlib.Path(folder, "gateway.yaml").write_text(OWN.format(port=own, **ports))
        listener = echo(ports["echo"])
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started = [
            subprocess.Popen(["nginx", "-c", f"{folder}/nginx.conf"], **quiet),
            subprocess.Popen(["nginx", "-c", f"{folder}/peer.conf"], **quiet),
            subprocess.Popen([given.binary, "run", "-c", f"{folder}/gateway.yaml"], **quiet),
        ]
        try:
            base.wait_for(f"http://127.0.0.1:{ports['admin']}/readyz", 60)
            time.sleep(1)
            gateways = {"portcullis": (own, started[2].pid), "nginx": (peer, worker_of(started[1].pid))}
            print(f"{'CPU per request, in microseconds':<34} {'portcullis':>10} {'nginx':>10} {'ratio':>7}")
            for title, path in [("cache fill", "/fill/a"), ("HTTP/2 service", "/streams/a"), ("WebSocket message", "/echo/a")]:
                taken = {name: [] for name in gateways}
                for turn in range(given.rounds + 1):
                    for name, (port, pid) in gateways.items():
                        before = spent(pid)
                        if path.startswith("/echo/"):
                            messages(port, given.requests)
                        else:
                            ask(folder, port, path, given.requests, f"{name}-{turn}")
                        # The first round only warms up.
                        if turn:
                            taken[name].append((spent(pid) - before) / given.requests / 1000)
                mine, its = (statistics.median(taken[name]) for name in ("portcullis", "nginx"))
                print(f"{title:<34} {mine:>10.1f} {its:>10.1f} {mine / its:>6.2f}x", flush=True)
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
                process.wait(20)
            listener.close()


if __name__ == "__main__":
    sys.exit(main())
