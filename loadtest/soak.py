#!/usr/bin/env python3
"""Does memory stay where it is? An hour of mixed load, and the resident memory of the gateway once a minute.

    loadtest/soak.py --binary target/release/portcullis                     one hour
    loadtest/soak.py --binary target/release/portcullis --seconds 90        the same, shorter: a sample every second or two

The load: keep-alive requests, through the cache and past a rate limit that refuses most of them; HTTP/2; a new
connection for every request; bodies in chunks; clients that go away in the middle of a body or of an answer; nonsense; a reload every now
and then. Caches and tables are small, so that they are full early. Fails if the gateway ends, if requests that must succeed do not, or
if the last half of the samples grows by more than noise: 4 MiB and 5 % are forgiven, and in a run of less than ten minutes, which is
half warming up, 8 MiB.

Needs wrk, h2load and nginx. Everything listens on loopback and lives in a temporary folder.
"""

import argparse
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from instructions import free_port, wait_for

NGINX = """daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx.err; events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u;
scgi_temp_path {dir}/s; keepalive_requests 100000000; client_max_body_size 10m; server {{ listen 127.0.0.1:{backend};
location / {{ return 200 "fine"; }} location /large {{ root {dir}/files; }} }} }}"""

CONFIG = """listeners: [ {{ bind: "127.0.0.1:{port}", h2c: true, max_connections_per_address: 60000, timeouts: {{ body: 2s, header: 2s }} }} ]
admin: {{ bind: "127.0.0.1:{admin}" }}
access_log: {{ output: {{ file: /dev/null }} }}
services: {{ backend: {{ endpoints: [ "127.0.0.1:{backend}" ] }} }}
routes:
  - {{ path: /plain/*, service: backend }}
  - {{ path: /large/*, service: backend }}
  - {{ path: /cached/*, service: backend, policies: {{ cache: {{ ttl: 1s }} }} }}
  - {{ path: /limited/*, service: backend, policies: {{ rate_limit: {{ limit: 100/s, by: "header:x-client", max_keys: 1000 }} }} }}
server: {{ cache_memory: 1MiB }}
"""


class Odd(threading.Thread):
    """Clients that behave badly, one after the other."""

    def __init__(self, port, until):
        super().__init__(daemon=True)
        self.port, self.until, self.count, self.failed = port, until, 0, []

    def run(self):
        dice = random.Random(7)
        kinds = [self.fresh, self.chunked, self.half_a_body, self.leaves, self.nonsense, self.key]
        while time.time() < self.until:
            kind = dice.choice(kinds)
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=10) as stream:
                    kind(stream, dice)
            except OSError as error:
                if kind in (self.fresh, self.chunked):
                    self.failed.append(f"{kind.__name__}: {error}")
            self.count += 1
            time.sleep(0.002)

    def ask(self, stream, request, status):
        stream.sendall(request)
        answer = stream.recv(65536)
        if not answer.startswith(b"HTTP/1.1 %d" % status):
            self.failed.append(f"wanted {status}: {answer[:200]!r}")

    def fresh(self, stream, _dice):
        self.ask(stream, b"GET /plain/new HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200)

    def chunked(self, stream, dice):
        size = dice.randrange(1, 50_000)
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"a" * size)
        self.ask(stream, b"POST /plain/body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body, 200)

    def half_a_body(self, stream, dice):
        stream.sendall(b"POST /plain/half HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"a" * dice.randrange(100_000))

    def leaves(self, stream, _dice):
        stream.sendall(b"GET /large/file HTTP/1.1\r\nHost: a\r\n\r\n")
        stream.recv(1000)

    def nonsense(self, stream, dice):
        stream.sendall(dice.randbytes(dice.randrange(1, 3000)))
        stream.settimeout(0.2)
        stream.recv(1000)

    def key(self, stream, dice):
        """Another key of the rate limit, and of the cache, for every request."""
        head = b"GET /%s/%d HTTP/1.1\r\nHost: a\r\nX-Client: %d\r\nConnection: close\r\n\r\n"
        number = dice.randrange(1 << 40)
        self.ask(stream, head % (dice.choice([b"limited", b"cached"]), number, number), 200)


def resident(pid):
    """In MiB."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB", text, re.M).group(1)) / 1024


def growth(samples):
    """How much a straight line through (time, value) pairs rises from the first to the last."""
    times, values = [at for at, _ in samples], [value for _, value in samples]
    mean_time, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((at - mean_time) ** 2 for at in times)
    slope = sum((at - mean_time) * (value - mean) for at, value in samples) / spread
    return slope * (times[-1] - times[0]), mean


def load_commands(port, seconds):
    base = f"http://127.0.0.1:{port}"
    limited = ["-H", "x-client: one"]
    return [
        ["wrk", "-t1", "-c16", f"-d{seconds}s", "--timeout", "10s", f"{base}/plain/a"],
        ["wrk", "-t1", "-c8", f"-d{seconds}s", "--timeout", "10s", f"{base}/cached/a"],
        ["wrk", "-t1", "-c4", f"-d{seconds}s", "--timeout", "10s", *limited, f"{base}/limited/a"],
        ["h2load", "-c4", "-m8", "-t1", "-D", str(seconds), f"{base}/plain/h2"],
    ]


def failures(said):
    """What the load generators say of requests that must succeed; the limited ones must not."""
    wrong = []
    for command, text in said:
        must_succeed = "/limited/" not in command[-1]
        if "Socket errors" in text or must_succeed and "Non-2xx" in text:
            wrong.append(f"{command[-1]}: {text}")
        h2 = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text)
        if command[0] == "h2load" and (not h2 or any(int(count) for count in h2.groups()[1:])):
            wrong.append(f"{command[-1]}: {text}")
    return wrong


def soak(given, folder):
    ports = {"port": free_port(), "backend": free_port(), "admin": free_port()}
    pathlib.Path(folder, "files", "large").mkdir(parents=True)
    pathlib.Path(folder, "files", "large", "file").write_bytes(b"x" * 2_000_000)
    pathlib.Path(folder, "nginx.conf").write_text(NGINX.format(dir=folder, **ports))
    pathlib.Path(folder, "gateway.yaml").write_text(CONFIG.format(**ports))
    processes = []

    def start(command, **more):
        processes.append(subprocess.Popen(command, stderr=subprocess.STDOUT, text=True, **more))
        return processes[-1]

    try:
        start(["nginx", "-p", folder, "-c", f"{folder}/nginx.conf", "-e", f"{folder}/nginx.err"], stdout=subprocess.DEVNULL)
        log = pathlib.Path(folder, "gateway.log").open("w")
        gateway = start([given.binary, "run", "-c", f"{folder}/gateway.yaml"], stdout=log)
        wait_for(f"http://127.0.0.1:{ports['admin']}/readyz", 60)
        wait_for(f"http://127.0.0.1:{ports['port']}/plain/a", 20)
        began, until = time.time(), time.time() + given.seconds
        odd = [Odd(ports["port"], until) for _ in range(3)]
        loads = [(command, start(command, stdout=subprocess.PIPE)) for command in load_commands(ports["port"], given.seconds)]
        for thread in odd:
            thread.start()
        every, samples = max(1.0, given.seconds / 60), []
        while time.time() < until:
            time.sleep(every)
            if gateway.poll() is not None:
                sys.exit(f"the gateway ended: {pathlib.Path(folder, 'gateway.log').read_text()[-2000:]}")
            samples.append((time.time() - began, resident(gateway.pid)))
            if len(samples) % 10 == 0:
                request = urllib.request.Request(f"http://127.0.0.1:{ports['admin']}/reload", method="POST")
                urllib.request.urlopen(request, timeout=10).read()
                print(f"{samples[-1][0]:6.0f} s  {samples[-1][1]:7.1f} MiB", flush=True)
        said = [(command, process.communicate(timeout=60)[0]) for command, process in loads]
        for thread in odd:
            thread.join(30)
        wrong = failures(said) + [failure for thread in odd for failure in thread.failed]
        return samples, wrong, sum(thread.count for thread in odd), said
    finally:
        for process in reversed(processes):
            if process.poll() is None:
                process.send_signal(signal.SIGINT if process.args[0] == given.binary else signal.SIGTERM)
                process.wait(60)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--seconds", type=int, default=3600)
    given = arguments.parse_args()
    given.binary = os.path.abspath(given.binary)
    with tempfile.TemporaryDirectory() as folder:
        samples, wrong, odd, said = soak(given, folder)
    for command, text in said:
        rate = re.search(r"Requests/sec:\s+([\d.]+)|, ([\d.]+) req/s", text)
        print(f"{command[-1]}: {next(filter(None, rate.groups()), '?') if rate else '?'} requests/s")
    grown, mean = growth(samples[len(samples) // 2 :])
    print(f"{odd:,} odd clients; {mean:.1f} MiB in the last half, {grown:+.1f} MiB over it")
    for failure in wrong[:20]:
        print(f"FAILED: {failure}")
    allowed = max(4.0 if given.seconds >= 600 else 8.0, 0.05 * mean)
    if grown > allowed:
        print(f"FAILED: memory grew by {grown:.1f} MiB over the last half, more than {allowed:.1f}")
    return 1 if wrong or grown > allowed else 0


if __name__ == "__main__":
    sys.exit(main())
