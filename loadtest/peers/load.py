"""Asking once, asking a lot, asking at a fixed rate, and holding connections open."""

import collections
import contextlib
import http.client
import json
import pathlib
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time

from . import machine
from .machine import BODY, Failed, Process

HERE = pathlib.Path(__file__).parent
Answer = collections.namedtuple("Answer", "status headers body tls")
CONNECTIONS = 64


def client_tls():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the certificate is our own, made a moment ago
    return context


def ask(port, path, headers=(), tls=False, timeout=10):
    """One GET on a connection of its own."""
    kind = http.client.HTTPSConnection if tls else http.client.HTTPConnection
    extra = {"context": client_tls()} if tls else {}
    connection = kind("127.0.0.1", port, timeout=timeout, **extra)
    try:
        connection.request("GET", path, headers=dict(headers))
        secured = (connection.sock.version(), connection.sock.cipher()[0]) if tls else None
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read(), secured)
    except http.client.HTTPException as error:
        raise OSError(f"malformed answer: {error!r}") from error
    finally:
        connection.close()


class Meter:
    """What the proxy cost between two moments, and how much of its core others took."""

    def __init__(self, process):
        self.process = process
        self.cpu, self.core, self.clock = process.cpu_seconds(), machine.core_ticks(machine.PROXY_CORE), time.monotonic()

    def read(self, requests):
        cpu, core = self.process.cpu_seconds() - self.cpu, machine.core_ticks(machine.PROXY_CORE)
        wall = time.monotonic() - self.clock
        others = (core - self.core) / machine.TICK - cpu
        return {
            "cpu_us": cpu / requests * 1e6,
            "busy": cpu / wall,
            "others": max(0.0, others / wall),
            "rss_kib": self.process.rss_kib(),
        }


def run(command, folder, seconds, environment=None, slack=None):
    """Runs a load generator on its core; its output."""
    process = Process(command, machine.LOAD_CORE, folder, "load", environment, slack)
    try:
        process.popen.wait(seconds + 30)
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[0]} did not end") from None
    finally:
        process.stop()
    return process.output.read_text(errors="replace")


def report(output):
    line = next((line for line in output.splitlines() if line.startswith("REPORT ")), None)
    if line is None:
        raise Failed(f"the load generator said: {output.strip()[-300:]}")
    return json.loads(line[7:])


class Load:
    """One measurement of one proxy: `process` is what costs, `port` is where it listens."""

    def __init__(self, process, port, folder, seconds, warm_up, scenario, headers):
        self.process, self.port, self.folder = process, port, folder
        self.seconds, self.warm_up, self.scenario, self.headers = seconds, warm_up, scenario, headers
        self.url = f"{'https' if scenario.want.tls else 'http'}://127.0.0.1:{port}{scenario.path}"

    def wrk(self):
        scenario = self.scenario
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", "--timeout", "10s", "-s", HERE / "wrk.lua"]
        for name, value in self.headers:
            command += ["-H", f"{name}: {value}"]
        environment = {"ROUTES": str(scenario.want.routes)}
        warming = Process([*command, "-d60s", self.url], machine.LOAD_CORE, self.folder, "warm", environment)
        time.sleep(self.warm_up)
        warming.stop(signal.SIGINT)
        meter = Meter(self.process)
        got = report(run([*command, f"-d{self.seconds}s", self.url], self.folder, self.seconds, environment))
        result = meter.read(max(1, got["requests"]))
        if got["socket_errors"]:
            raise Failed(f"{got['socket_errors']} socket errors")
        wanted = 0 if scenario.status < 400 else got["requests"]
        if got["refused"] != wanted:
            raise Failed(f"{got['refused']} of {got['requests']} answers had a status from 400 up, wanted {wanted}")
        if not got["requests"]:
            raise Failed("not one answer")
        if scenario.body is not None and got["bytes"] < got["requests"] * len(scenario.body):
            raise Failed(f"{got['bytes']} bytes are too few for {got['requests']} answers")
        latencies = {f"{name}_us": got[name] for name in ("p50", "p99", "p999")}
        return result | latencies | {"rps": got["requests"] / (got["microseconds"] / 1e6), "requests": got["requests"]}

    def h2load(self):
        log = self.folder / "h2load.log"
        command = ["h2load", "-t1", "-c16", "-m16"]
        for name, value in self.headers:
            command += ["-H", f"{name}: {value}"]
        run([*command, "-D", f"{round(self.warm_up * 1000)}ms", self.url], self.folder, self.warm_up)
        meter = Meter(self.process)
        output = run([*command, "-D", f"{self.seconds}s", f"--log-file={log}", self.url], self.folder, self.seconds)
        counts = self.h2load_counts(output)
        result = meter.read(counts["done"])
        if "Application protocol: h2" not in output:
            raise Failed("not HTTP/2")
        # Bodies of streams that were under way at the end may count as well, a few at most.
        if not 0 <= counts["data"] - counts["done"] * len(self.scenario.body) <= 256 * len(self.scenario.body):
            raise Failed(f"{counts['data']} bytes of bodies for {counts['done']} answers")
        times = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
        log.unlink()
        for name, share in (("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)):
            result[name] = times[min(len(times) - 1, int(len(times) * share))]
        return result | {"rps": counts["done"] / self.seconds, "requests": counts["done"]}

    @staticmethod
    def h2load_counts(output):
        found = re.search(r"requests: .* (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
        codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output)
        data = re.search(r"\((\d+)\) data", output)
        if not (found and codes and data):
            raise Failed(f"h2load said: {output.strip()[-300:]}")
        done, succeeded, failed, errored, timeout = map(int, found.groups())
        good, *bad = map(int, codes.groups())
        # At the end of a timed run some answers are still under way: their status has come, their end has not.
        if failed or errored or timeout or any(bad) or not done <= good <= done + 256 or succeeded != done or not done:
            raise Failed(f"h2load: {found.group(0)}; {codes.group(0)}")
        return {"done": done, "data": int(data.group(1))}

    def handshakes(self):
        """New connections with one request each, 200 at a time, never resumed."""
        batch = 200
        command = ["h2load", "--h1", "-t1", f"-c{batch}", f"-n{batch}", self.url]
        run(command, self.folder, 10)
        meter = Meter(self.process)
        spent, count, until = 0.0, 0, time.monotonic() + self.seconds
        while time.monotonic() < until:
            output = run(command, self.folder, 10)
            counts = self.h2load_counts(output)
            took = re.search(r"finished in ([\d.]+)(us|ms|s)", output)
            if counts["done"] != batch or not took:
                raise Failed(f"{counts['done']} of {batch} handshakes")
            spent += float(took.group(1)) * {"us": 1e-6, "ms": 1e-3, "s": 1}[took.group(2)]
            count += batch
        result = meter.read(count)
        # Between the batches nothing is asked of it, so that time does not count.
        result["busy"] = min(1.0, result["cpu_us"] * 1e-6 * count / spent)
        return result | {"rps": count / spent, "requests": count}

    def paced(self, pacer, rate):
        """Requests that are due at fixed moments; see pacer.rs."""
        command = [pacer, f"127.0.0.1:{self.port}", self.scenario.path, f"{rate:.1f}", self.seconds, self.warm_up, CONNECTIONS]
        meter = Meter(self.process)
        output = run(command, self.folder, self.seconds + self.warm_up, slack=1)
        if "FAILED" in output:
            raise Failed(f"at {rate:,.0f} requests/s: {output.strip()[-200:]}")
        got = report(output)
        result = meter.read(got["all"]) | {f"{name}_us": got[name] for name in ("p50", "p99", "p999")}
        return result | {"rps": rate, "requests": got["requests"], "late_p99_us": got["late_p99"], "waited": got["waited"]}

    def idle(self, count):
        """Memory for each connection that has had one answer and now waits."""
        tls = client_tls() if self.scenario.want.tls else None
        request = f"GET {self.scenario.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()

        def ask_on(connection):
            connection.sendall(request)
            got = b""
            while BODY not in got:
                more = connection.recv(65_536)
                if not more:
                    raise Failed(f"closed a connection; {len(connections)} were open")
                got += more
            if not got.startswith(b"HTTP/1.1 200 "):
                raise Failed(f"answered {got[:40]!r}")

        def connect():
            connection = socket.create_connection(("127.0.0.1", self.port), 10)
            return tls.wrap_socket(connection, server_hostname="localhost") if tls else connection

        connections = []
        with contextlib.ExitStack() as opened:
            try:
                for _ in range(20):  # whatever it makes ready at first
                    with connect() as connection:
                        for _ in range(10):
                            ask_on(connection)
                time.sleep(0.3)
                before = self.process.rss_kib()
                for _ in range(count):
                    connections.append(opened.enter_context(connect()))
                    ask_on(connections[-1])
                time.sleep(1.0)
                after = self.process.rss_kib()
                poll = select.poll()
                for connection in connections:
                    poll.register(connection, select.POLLIN | select.POLLHUP)
                # TLS sends its tickets late; that is no end of the connection.
                if ended := [event for _, event in poll.poll(0) if not tls or event & select.POLLHUP]:
                    raise Failed(f"{len(ended)} of {count} idle connections did not stay open")
                for connection in connections[:: max(1, count // 100)]:
                    ask_on(connection)
            except OSError as error:
                raise Failed(f"after {len(connections)} connections: {error}") from error
        return {
            "rss_before_kib": before,
            "rss_kib": after,
            "per_connection_kib": (after - before) / count,
            "connections": count,
            "requests": count,
        }


def build_pacer(target):
    """Compiles pacer.rs where it is missing or older than its source."""
    source, binary = HERE / "pacer.rs", pathlib.Path(target, "peers-pacer")
    if binary.exists() and binary.stat().st_mtime > source.stat().st_mtime:
        return binary
    if not shutil.which("rustc"):
        sys.exit("rustc is missing: the pacer for latencies at a fixed rate cannot be built")
    binary.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["rustc", "--edition=2024", "-O", "-o", binary, source], check=True)
    return binary
