#!/usr/bin/env python3
"""What limits cost that gateways share in a Redis, and whether they hold under load.

Starts its own redis-server, nginx and gateways on free ports of the loopback interface, loads them with wrk for a bounded time, prints
three tables and ends with an error if a promise does not hold. Needs wrk, nginx and redis-server (`scripts/need.sh test`).

    loadtest/shared_limits.py --portcullis target/release/portcullis [--seconds 5] [--pause 10]
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")
# By how much the 99th percentile may grow beside the deadline while Redis is paused: one machine does all of this.
TOLERANCE = 0.020
DEADLINE = 0.010

ROUTES = {
    "none": "{}",
    "local": "{ rate_limit: { limit: 1000000/s } }",
    "leased": "{ rate_limit: { limit: 1000000/s, shared: { mode: leased, fail: local } } }",
    "exact": "{ rate_limit: { limit: 1000000/s, shared: { mode: exact, fail: open } } }",
    "tight-exact": "{ rate_limit: { limit: 1000/s, burst: 100, shared: { mode: exact, fail: closed } } }",
    "tight-leased": "{ rate_limit: { limit: 1000/s, burst: 100, shared: { mode: leased, lease: 20, fail: closed } } }",
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nothing listens on port {port}")


def cpu(process):
    """Seconds of CPU time that the process has used."""
    with open(f"/proc/{process.pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Machine:
    def __init__(self, binary, folder, workers):
        self.folder, self.processes = folder, []
        self.redis_port, backend = free_port(), free_port()
        self.redis = self.start(
            ["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", folder], "redis"
        )
        conf = os.path.join(folder, "nginx.conf")
        with open(conf, "w") as file:
            file.write(
                f"daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
                f"events {{ worker_connections 1024; }}\n"
                f"http {{ access_log off; keepalive_requests 100000000;\n"
                f"server {{ listen 127.0.0.1:{backend}; location / {{ return 200 'ok'; }} }} }}\n"
            )
        self.start(["nginx", "-p", folder, "-c", conf, "-e", f"{folder}/error.log"], "nginx")
        wait_for(self.redis_port)
        wait_for(backend)
        self.gateways = []
        # Two with the usual deadline, and two for what is counted: a busy machine must not make Redis look dead.
        for number, deadline in enumerate((DEADLINE, DEADLINE, 1, 1)):
            port, admin = free_port(), free_port()
            config = os.path.join(folder, f"gateway{number}.yaml")
            routes = "".join(f"  - {{ path: /{name}, service: s, policies: {policies} }}\n" for name, policies in ROUTES.items())
            with open(config, "w") as file:
                file.write(
                    f"listeners: [ {{ bind: '127.0.0.1:{port}' }} ]\nadmin: {{ bind: '127.0.0.1:{admin}' }}\n"
                    f"redis: {{ nodes: '127.0.0.1:{self.redis_port}', deadline: {round(deadline * 1000)}ms }}\n"
                    f"server: {{ workers: {workers} }}\naccess_log: {{ output: false }}\n"
                    f"services: {{ s: {{ endpoints: [ '127.0.0.1:{backend}' ] }} }}\nroutes:\n{routes}"
                )
            process = self.start([binary, "run", "--config", config], f"gateway{number}")
            wait_for(admin)
            wait_for(port)
            self.gateways.append((process, port, admin))

    def start(self, command, name):
        log = open(os.path.join(self.folder, f"{name}.log"), "w")
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()

    def metric(self, gateway, name, *labels):
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.gateways[gateway][2]}/metrics").read().decode()
        lines = [line for line in text.splitlines() if re.match(rf"{name}[{{ ]", line)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in labels))

    def wrk(self, gateway, path, seconds, connections=16):
        url = f"http://127.0.0.1:{self.gateways[gateway][1]}/{path}"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", url]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def seconds_of(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}[unit]


def outcome(wrk):
    text = wrk.communicate()[0]
    requests, took = re.search(r"(\d+) requests in ([\d.]+\w+),", text).groups()
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    quantile = lambda name: seconds_of(re.search(rf"^ +{name} +(\S+)", text, re.M).group(1))
    errors = re.search(r"Socket errors: (.*)", text)
    return {
        "requests": int(requests), "took": seconds_of(took), "refused": int(refused.group(1)) if refused else 0,
        "p50": quantile("50%"), "p99": quantile("99%"), "errors": errors.group(1) if errors else "",
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--portcullis", required=True)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--pause", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    problems = []
    with tempfile.TemporaryDirectory(prefix="portcullis-shared-") as folder:
        machine = Machine(os.path.abspath(args.portcullis), folder, args.workers)
        try:
            costs(machine, args.seconds)
            accuracy(machine, args.seconds, problems)
            pauses(machine, args.pause, problems)
        finally:
            machine.redis.send_signal(signal.SIGCONT)
            machine.stop()
    for problem in problems:
        print(f"NOT KEPT: {problem}")
    sys.exit(1 if problems else 0)


def costs(machine, seconds):
    print("| limit | requests/s | p50 | p99 | gateway's CPU per request | Redis's CPU per request |\n|---|---|---|---|---|---|")
    gateway = machine.gateways[0][0]
    for path in ("none", "local", "leased", "exact"):
        machine.wrk(0, path, 1).communicate()
        before, redis_before = cpu(gateway), cpu(machine.redis)
        run = outcome(machine.wrk(0, path, seconds))
        used, redis_used = cpu(gateway) - before, cpu(machine.redis) - redis_before
        each = 1e6 / run["requests"]
        print(
            f"| {path} | {run['requests'] / run['took']:.0f} | {run['p50'] * 1e6:.0f} us | {run['p99'] * 1e6:.0f} us "
            f"| {used * each:.1f} us | {redis_used * each:.1f} us |", flush=True
        )
    print()


def accuracy(machine, seconds, problems):
    print("| two gateways, 1000/s, burst 100 | asked | admitted | limit x time + burst | difference | bound |\n|---|---|---|---|---|---|")
    for path in ("tight-exact", "tight-leased"):
        for gateway in (2, 3):
            machine.wrk(gateway, path, 1, 1).communicate()
        time.sleep(2)
        count = lambda: sum(
            machine.metric(gateway, "portcullis_requests_total", f'route="/{path}"', 'status_class="2xx"') for gateway in (2, 3)
        )
        before = count()
        runs = [outcome(wrk) for wrk in [machine.wrk(gateway, path, 2 * seconds, 8) for gateway in (2, 3)]]
        time.sleep(0.2)
        admitted, asked = count() - before, sum(run["requests"] for run in runs)
        expected = 1000 * max(run["took"] for run in runs) + 100
        bound = sum(machine.metric(gateway, "portcullis_lease_over_admission_bound", path) for gateway in (2, 3))
        difference = (admitted - expected) / expected
        print(f"| {path[6:]} | {asked} | {admitted:.0f} | {expected:.0f} | {difference:+.2%} | {bound:.0f} |", flush=True)
        if path == "tight-exact" and abs(difference) > 0.01:
            problems.append(f"exact is {difference:+.2%} off")
        # The rest of a per cent is for the two loads, which do not begin in the same moment.
        if path == "tight-leased" and not -0.02 * expected - bound <= admitted - expected <= bound + 0.005 * expected:
            problems.append(f"leased admitted {admitted:.0f} of {expected:.0f}, with a bound of {bound:.0f}")
    print()


def pauses(machine, pause, problems):
    print(f"| Redis paused for {pause} s | requests | refused or failed | p50 | p99 | p99 without the pause |\n|---|---|---|---|---|---|")
    for path in ("exact", "leased"):
        steady = outcome(machine.wrk(0, path, pause + 2))
        wrk = machine.wrk(0, path, pause + 2)
        time.sleep(1)
        machine.redis.send_signal(signal.SIGSTOP)
        time.sleep(pause)
        machine.redis.send_signal(signal.SIGCONT)
        run = outcome(wrk)
        fail = "open" if path == "exact" else "local"
        print(
            f"| {path}, fail: {fail} | {run['requests']} | {run['refused']} {run['errors']} | {run['p50'] * 1e6:.0f} us "
            f"| {run['p99'] * 1e6:.0f} us | {steady['p99'] * 1e6:.0f} us |", flush=True
        )
        if run["refused"] or run["errors"]:
            problems.append(f"{path}: {run['refused']} requests failed while Redis was paused {run['errors']}")
        if run["p99"] > steady["p99"] + DEADLINE + TOLERANCE:
            problems.append(f"{path}: p99 grew from {steady['p99'] * 1e3:.1f} ms to {run['p99'] * 1e3:.1f} ms")
        time.sleep(2)


main()
