#!/usr/bin/env python3
"""Attacks a gateway of its own on loopback, with nothing but the defaults, and says what was bounded.

    loadtest/attack.py target/release/portcullis            # about two minutes
    loadtest/attack.py target/release/portcullis --short    # some seconds; a part of the test suite

One address (127.0.0.1) takes all it can get without a credential; another (127.0.0.2) asks for something ordinary meanwhile:

- places: HTTP/2 connections full of streams that trickle, then of requests that the service never answers;
- memory: bodies that a route wants to check, each sent but for its last byte, before anybody has proved who he is;
- connections: slow clients, of whose bodies a byte has come, and the connections that the service has because of them.

Prints a line of figures for each, with the bound; exits with 1 if one was passed. Needs Python 3.9 and nothing else.
"""

import argparse
import asyncio
import contextlib
import os
import pathlib
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ATTACKER, NEIGHBOUR = "127.0.0.1", "127.0.0.2"
HASH = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

CONFIG = """
listeners: [ {{ bind: 127.0.0.1:{port}, h2c: true }} ]
admin: {{ bind: 127.0.0.1:{admin} }}
access_log: {{ output: {{ file: access.log }} }}
consumers: [ {{ name: known, api_keys: [ {{ hash: '{hash}' }} ] }} ]
routes:
  - {{ path: /*, service: 127.0.0.1, port: {backend} }}
  - {{ path: /json, service: 127.0.0.1, port: {backend}, policies: {{ validate: {{ json: true }} }} }}
  - path: /key
    service: 127.0.0.1
    port: {backend}
    policies: {{ validate: {{ json: true }}, authn: {{ api_key: {{}} }} }}
"""

MIB = 1 << 20


class Service:
    """Answers at once, but for /hang, which it never does. Knows how many connections it has."""

    def __init__(self):
        self.open = self.most = 0
        self.port = None
        ready = threading.Event()
        threading.Thread(target=self._run, args=(ready,), daemon=True).start()
        ready.wait()

    def _run(self, ready):
        async def main():
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4096)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await server.serve_forever()

        asyncio.run(main())

    async def _serve(self, reader, writer):
        self.open += 1
        self.most = max(self.most, self.open)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                if b" /hang" in head.split(b"\r\n")[0]:
                    await reader.read()
                    break
                if b"content-length:" in head:
                    await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                await writer.drain()
        self.open -= 1
        writer.close()


class Gateway:
    def __init__(self, binary, folder, service):
        self.port, self.admin = free_port(), free_port()
        config = pathlib.Path(folder, "gateway.yaml")
        config.write_text(CONFIG.format(port=self.port, admin=self.admin, backend=service.port, hash=HASH))
        log = open(pathlib.Path(folder, "stderr"), "wb")
        self.process = subprocess.Popen([binary, "run", "-c", str(config)], cwd=folder, stdout=log, stderr=log)
        until = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                if urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=2).status == 200:
                    return
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit("the gateway does not serve:\n" + pathlib.Path(folder, "stderr").read_text())
            time.sleep(0.02)

    def metric(self, name, label=""):
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10).read().decode()
        rows = (row.rsplit(" ", 1) for row in text.splitlines() if row.startswith(name) and label in row)
        return sum(float(value) for series, value in rows if series.split("{")[0] == name)

    def resident(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def connect(port, source=ATTACKER):
    return socket.create_connection(("127.0.0.1", port), 10, (source, 0))


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def fields(*pairs):
    # Literals without indexing, without Huffman codes (RFC 7541, section 6.2.2).
    return b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in pairs)


def flood(port, streams, method, path):
    """One HTTP/2 connection with so many requests; a POST has begun its body and does not end it."""
    one = connect(port)
    head = fields((b":method", method), (b":scheme", b"http"), (b":authority", b"a"), (b":path", path))
    out = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frame(4, 0, 0)]
    for stream in range(1, 2 * streams, 2):
        out.append(frame(1, 4 if method == b"POST" else 5, stream, head))
        if method == b"POST":
            out.append(frame(0, 0, stream, b"x"))
    with contextlib.suppress(OSError):
        one.sendall(b"".join(out))
    one.setblocking(False)
    return one


def listen(connections):
    for one in connections:
        with contextlib.suppress(OSError):
            while one.recv(65536):
                pass


def neighbour(gateway, count):
    """How many of so many ordinary requests of somebody else are served, and the longest wait."""
    served, longest = 0, 0.0
    for _ in range(count):
        began = time.monotonic()
        with contextlib.suppress(OSError), connect(gateway.port, NEIGHBOUR) as one:
            one.settimeout(10)
            one.sendall(b"GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            served += one.recv(64).startswith(b"HTTP/1.1 200")
        longest = max(longest, time.monotonic() - began)
    return served, longest


def settled(look, wanted, limit):
    """Looks until it is so, for so many seconds; what was seen last."""
    until = time.monotonic() + limit
    while True:
        seen = look()
        if wanted(seen) or time.monotonic() > until:
            return seen
        time.sleep(0.05)


class Report:
    def __init__(self):
        self.failed = 0

    def line(self, what, good, **figures):
        self.failed += not good
        told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
        print(f"{'bounded  ' if good else 'UNBOUNDED'}  {what}: {told}", flush=True)


def places(gateway, report, connections, asks):
    for what, method, path in (("streams that trickle", b"POST", b"/slow"), ("requests without answer", b"GET", b"/hang")):
        open_ones = []
        for _ in range(connections):
            open_ones.append(flood(gateway.port, 128, method, path))
            listen(open_ones[-1:])
        in_flight = lambda: int(gateway.metric("portcullis_in_flight"))
        settled(in_flight, lambda now: now >= 2048, 5)
        for number in range(3):
            listen(open_ones)
            held = in_flight()
        served, longest = neighbour(gateway, asks)
        refused = int(gateway.metric("portcullis_refusals_total", 'reason="too_many_in_flight"'))
        good = served == asks and held <= 2048 + 64
        figures = dict(connections=connections, streams=128 * connections, in_flight=held, bound=2048, refused=refused)
        report.line(what, good, **figures, neighbour_served=f"{served}/{asks}", longest_wait=f"{longest * 1000:.0f} ms")
        for one in open_ones:
            one.close()
        settled(in_flight, lambda now: now == 0, 40)


def memory(gateway, report, requests, size):
    for what, path, bound in (("bodies that are checked", "/json", 64 * MIB), ("bodies of strangers", "/key", 0)):
        before, open_ones, refused = gateway.resident(), [], 0
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {size + 1}\r\n\r\n".encode()
        for _ in range(requests):
            one = connect(gateway.port)
            one.settimeout(1)
            # A refused one may be closed before all of it is sent.
            with contextlib.suppress(OSError):
                one.sendall(head + b" " * size)
            open_ones.append(one)
        held = int(settled(lambda: gateway.metric("portcullis_buffered_bytes"), lambda now: bound and now >= bound - 2 * size, 3))
        grown = max(0, gateway.resident() - before)
        for one in open_ones:
            one.setblocking(False)
            with contextlib.suppress(OSError):
                refused += one.recv(16)[9:12] in (b"503", b"401")
        served, longest = neighbour(gateway, 5)
        # The bodies, what doubling a buffer leaves to the allocator for a while, and the buffers of the connections themselves.
        good = bound // 2 <= held <= bound and grown <= 2 * bound + 64 * 1024 * requests + 32 * MIB and served == 5
        figures = dict(requests=requests, sent=f"{requests * size // MIB} MiB", held=f"{held // MIB} MiB", bound=f"{bound // MIB} MiB")
        report.line(what, good, **figures, process_grew=f"{grown // MIB} MiB", refused=refused, neighbour_served=f"{served}/5")
        for one in open_ones:
            one.close()
        settled(lambda: gateway.metric("portcullis_in_flight"), lambda now: now == 0, 10)


def connections(gateway, service, report, clients, patient):
    settled(lambda: service.open, lambda now: now <= 8, 65 if patient else 0)
    before = service.open
    open_ones = []
    for _ in range(clients):
        one = connect(gateway.port)
        one.sendall(b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nx")
        open_ones.append(one)
    settled(lambda: gateway.metric("portcullis_in_flight"), lambda now: now >= clients, 10)
    served, _ = neighbour(gateway, 5)
    more = service.open - before
    figures = dict(clients=clients, connections_to_the_service=more, bound=8, neighbour_served=f"{served}/5")
    report.line("slow clients", more <= 8 and served == 5, **figures)
    if not patient:
        return
    began = time.monotonic()
    left = list(open_ones)
    while left and time.monotonic() - began < 60:
        for one in list(left):
            one.settimeout(0.001)
            try:
                one.sendall(b"x")
                if one.recv(1024):
                    left.remove(one)
            except TimeoutError:
                pass
            except OSError:
                left.remove(one)
    took = time.monotonic() - began
    report.line("a byte now and then", not left, clients=clients, left=len(left), over_after=f"{took:.0f} s", bound="20 s and 1 s per 500 bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--short", action="store_true", help="less of everything")
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65536), most))
    service, report = Service(), Report()
    with tempfile.TemporaryDirectory() as folder:
        gateway = Gateway(os.fspath(given.binary.resolve()), folder, service)
        try:
            memory(gateway, report, 150 if given.short else 800, 1_000_000)
            connections(gateway, service, report, 60 if given.short else 300, not given.short)
            places(gateway, report, 20 if given.short else 128, 5 if given.short else 50)
        finally:
            gateway.end()
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
