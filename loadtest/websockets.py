#!/usr/bin/env python3
"""Says what each of many idle WebSockets holds in the gateway: both of its connections, to the client and to the service.

    loadtest/websockets.py target/release/portcullis                  # 10,000, in about half a minute
    loadtest/websockets.py target/release/portcullis --count 300      # a part of the test suite

Clients, service and gateway are processes of their own, so that no one of them needs more descriptors than it may have. A gateway needs two for
each WebSocket; where the hard limit (`ulimit -Hn`) is too low for all of them, several gateways share them, and the figures say so. Clients come
from several loopback addresses. Nothing is sent once all are open; then each says a word, and is to hear it again.

Prints a line of figures for each set of rules; exits with 1 over the bound, or if a WebSocket was lost. Needs Python 3.9 and nothing else.
"""

import argparse
import base64
import contextlib
import hashlib
import multiprocessing
import os
import pathlib
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

CONFIG = """
listeners: [ {{ bind: 127.0.0.1:{port}, max_connections: 100000, max_connections_per_address: 100000 }} ]
admin: {{ bind: 127.0.0.1:{admin} }}
access_log: {{ output: {{ file: access.log }} }}
server: {{ max_in_flight: 100000, max_in_flight_per_address: 100000, workers: 2 }}
services: {{ quiet: {{ endpoints: [ 127.0.0.1:{service} ] }} }}
routes: [ {{ path: /*, service: quiet, policies: {{ websocket: {rules} }} }} ]
"""

# Rules, and the most bytes that a WebSocket may hold under them.
RULES = [("false", 16 * 1024), ("{ max_message: 64KiB, messages: 100/s, idle: 1h, ping: 1m }", 17 * 1024)]
KEY = base64.b64encode(b"sixteen bytes it").decode()
ACCEPT = base64.b64encode(hashlib.sha1((KEY + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
REQUEST = (
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
).encode()
SWITCHED = (
    f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
).encode()
# A text of one word, masked with zeros as a client may, and as a service sends it.
WORD, BACK = b"\x81\x82\0\0\0\0hi", b"\x81\x02hi"
# Opened before the first look, so that what is made once is there.
WARM = 200
# Descriptors that a process needs for everything else.
SPARE = 150


def serve(listener):
    """Switches with everybody, and says again what it hears."""
    selector = selectors.DefaultSelector()
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ, None)
    while True:
        for key, _ in selector.select():
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        opened, _ = listener.accept()
                        selector.register(opened, selectors.EVENT_READ, bytearray())
                continue
            data = b""
            with contextlib.suppress(OSError):
                data = key.fileobj.recv(4096)
            if not data:
                selector.unregister(key.fileobj)
                key.fileobj.close()
            elif data.startswith(b"GET "):
                key.fileobj.sendall(SWITCHED)
            elif data[0] == 0x81:
                key.fileobj.sendall(BACK)


def until(stream, end, limit=30):
    stream.settimeout(limit)
    read = b""
    while not read.endswith(end):
        piece = stream.recv(4096)
        if not piece:
            raise ConnectionError(f"ended after {read!r}")
        read += piece
    return read


def client(port, address, pipe):
    """Opens as many as it is told to, and holds them: one word for each turn, and an answer."""
    held = []
    while True:
        order, count = pipe.recv()
        wrong = 0
        if order == "open":
            for _ in range(count):
                try:
                    stream = socket.create_connection(("127.0.0.1", port), source_address=(address, 0), timeout=30)
                    stream.sendall(REQUEST)
                    head = until(stream, b"\r\n\r\n")
                    wrong += not head.startswith(b"HTTP/1.1 101 ")
                    held.append(stream)
                except OSError as error:
                    print(f"{address}: {error}", file=sys.stderr)
                    wrong += 1
        elif order == "speak":
            for stream in held:
                try:
                    stream.sendall(WORD)
                    wrong += until(stream, BACK) != BACK
                except OSError:
                    wrong += 1
        pipe.send(wrong)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def resident(process):
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS")


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


class Part:
    """A gateway with its service and its clients."""

    def __init__(self, stack, binary, rules, count, address):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.service = multiprocessing.Process(target=serve, args=(self.listener,), daemon=True)
        self.service.start()
        stack.callback(self.service.terminate)
        service = self.listener.getsockname()[1]
        self.listener.close()
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        self.port, admin = free_port(), free_port()
        self.config = pathlib.Path(folder, "gateway.yaml")
        self.config.write_text(CONFIG.format(port=self.port, admin=admin, service=service, rules=rules))
        self.metrics = f"http://127.0.0.1:{admin}/metrics"
        self.gateway = subprocess.Popen([binary, "run", "-c", str(self.config)], cwd=folder, stdout=subprocess.DEVNULL)
        stack.callback(self.gateway.wait)
        stack.callback(self.gateway.kill)
        self.count, self.clients = count, []
        for number in range(4):
            ours, theirs = multiprocessing.Pipe()
            held = multiprocessing.Process(target=client, args=(self.port, f"127.0.0.{address + number}", theirs), daemon=True)
            held.start()
            stack.callback(held.terminate)
            self.clients.append((held, ours))
        until = time.monotonic() + 20
        while self.open() is None:
            if time.monotonic() > until or self.gateway.poll() is not None:
                raise SystemExit("the gateway did not start")
            time.sleep(0.05)

    def open(self):
        """How many WebSockets the gateway has, as it says."""
        try:
            text = urllib.request.urlopen(self.metrics, timeout=10).read().decode()
        except OSError:
            return None
        lines = [line for line in text.splitlines() if line.startswith("portcullis_websockets_open")]
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)

    def order(self, order, count=0):
        shares = [count // 4 + (number < count % 4) for number in range(4)]
        for (_, pipe), share in zip(self.clients, shares):
            pipe.send((order, share))

    def lost(self):
        return sum(pipe.recv() for _, pipe in self.clients)


def settled(parts, expected):
    until = time.monotonic() + 30
    while [part.open() for part in parts] != expected and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(0.5)
    return [part.open() for part in parts] == expected


def measure(binary, rules, most, count, limit):
    share = (limit - SPARE) // 2 - WARM
    gateways = -(-count // share)
    with contextlib.ExitStack() as stack:
        shares = [count // gateways + (number < count % gateways) for number in range(gateways)]
        parts = [Part(stack, binary, rules, each, 10 + 4 * number) for number, each in enumerate(shares)]
        for part in parts:
            part.order("open", WARM)
        lost = sum(part.lost() for part in parts)
        whole = settled(parts, [WARM] * gateways)
        before = sum(resident(part.gateway) for part in parts)
        began = time.monotonic()
        for part in parts:
            part.order("open", part.count)
        lost += sum(part.lost() for part in parts)
        took = time.monotonic() - began
        whole &= settled(parts, [WARM + part.count for part in parts])
        each = (sum(resident(part.gateway) for part in parts) - before) / count
        used = max(descriptors(pid) for part in parts for pid in
                   [part.gateway.pid, part.service.pid] + [held.pid for held, _ in part.clients])
        for part in parts:
            part.order("speak")
        lost += sum(part.lost() for part in parts)
        through = "one gateway" if gateways == 1 else f"{gateways} gateways"
        print(f"{each / 1024:.1f} KiB ({each:,.0f} bytes) for each of {count:,} idle WebSockets through {through}, with {rules}: "
              f"opened in {took:.1f} s, {used:,} descriptors in the largest process, {lost} lost")
        return whole and lost == 0 and each < most


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("binary")
    arguments.add_argument("--count", type=int, default=10_000)
    given = arguments.parse_args()
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    # No more than is needed, where there is no limit to speak of.
    limit = min(limit, 2 * (given.count + WARM) + SPARE + 100) if limit != resource.RLIM_INFINITY else 2 * (given.count + WARM) + SPARE + 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    fine = [measure(os.path.abspath(given.binary), rules, most, given.count, limit) for rules, most in RULES]
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()
