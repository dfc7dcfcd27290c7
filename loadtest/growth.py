#!/usr/bin/env python3
"""Does a request cost the same however much is configured beside it?

Counts the user-space instructions of one request, with callgrind, at a small and at a large configuration of the same kind: routes, API
keys, endpoints, and policies of other routes. Fails if the large one costs more than 5 % more. The kind `changing` compares a thousand
endpoints that stay as they are with a thousand of which one changes its weight with every thousandth request (ten changes a second at
10,000 requests a second), and counts what the thread that serves requests does: putting the change into effect is another thread's work.

    loadtest/growth.py --binary target/release/portcullis
    loadtest/growth.py --binary target/release/portcullis routes api_keys

Needs valgrind, nginx and h2load. Counting begins after a warm-up, so that neither start-up nor the first connections to each endpoint are
in it. What callgrind does not see: instructions are counted, cache misses are not. Ten thousand routes do not fit into the caches that
one route fits into, and a request that meets a cold one waits for memory; `make bench` measures that part in time.
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

from instructions import BASE, BODY, NGINX, SILENT, free_port, wait_for, wait_until_quiet

WARM, COUNTED = 3000, 4000
TOLERANCE = 1.05
ONE_WORKER = "server: { workers: 1 }\n"


def routes(count):
    lines = ["routes:"] + [f"  - {{ path: /r{number}/*, service: backend }}" for number in range(count)]
    return BASE + "\n".join(lines) + "\n", f"/r{count // 2}/42?color=red", [], 1


def api_keys(count):
    lines = ["consumers:"]
    for number in range(count):
        digest = hashlib.sha256(f"key-{number}".encode()).hexdigest()
        lines.append(f"  - {{ name: c{number}, api_keys: [ {{ hash: 'sha256:{digest}' }} ] }}")
    route = "routes: [ { path: /*, service: backend, policies: { authn: { api_key: {} } } } ]\n"
    return BASE + "\n".join(lines) + "\n" + route, "/products/42", ["-H", f"x-api-key: key-{count // 2}"], 1


def endpoints(count):
    listed = ", ".join(f"127.0.{1 + number // 200}.{1 + number % 200}:%(backend)d" for number in range(count))
    config = BASE.replace("endpoints: [ 127.0.0.1:%(backend)d ]", f"endpoints: [ {listed} ]")
    return config + "routes: [ { path: /*, service: backend } ]\n", "/products/42", [], count


def policies(count):
    lines = ["routes:"]
    for number in range(count):
        own = f"rate_limit: {{ limit: {number + 1}/s, by: route }}, request_headers: {{ set: {{ X-P{number}: v }} }}, bounds: {{ max_uri: 4KiB }}"
        lines.append(f"  - {{ path: /p{number}/*, service: backend, policies: {{ {own} }} }}")
    return BASE + "\n".join(lines) + "\n  - { path: /*, service: backend }\n", "/products/42", [], 1


CHANGING = "changing"
# How many requests there are for each change.
PER_CHANGE = 1000
KINDS = {"routes": (routes, 10_000), "api_keys": (api_keys, 100_000), "endpoints": (endpoints, 1000), "policies": (policies, 100)}


def change(admin, port, number):
    """Gives one of the endpoints another weight."""
    address = f"127.0.{1 + number // 200}.{1 + number % 200}:{port}"
    url = f"http://127.0.0.1:{admin}/upstreams/backend/endpoints/{address}/weight"
    body = json.dumps({"weight": 2 + number % 5}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="PUT"), timeout=60):
        pass


def load(port, path, headers, requests):
    command = ["h2load", "--h1", "-n", str(requests), "-c", "1", "-t", "1", *headers, f"http://127.0.0.1:{port}{path}"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True).stdout
    if f"{requests} 2xx" not in said:
        sys.exit(f"not every request succeeded:\n{said}")


def per_request(binary, make, count, changes=None):
    """What one request costs; of the thread that serves requests alone, if it is said how many changes there are meanwhile."""
    config, path, headers, addresses = make(count)
    with tempfile.TemporaryDirectory() as folder:
        ports = {"port": free_port(), "backend": free_port(), "admin": free_port()}
        listen = [f"listen 127.0.0.1:{ports['backend']};"]
        if addresses > 1 or make is endpoints:
            listen = [f"listen 127.0.{1 + n // 200}.{1 + n % 200}:{ports['backend']};" for n in range(addresses)]
        pathlib.Path(folder, "gateway.yaml").write_text(config % ports + SILENT + ONE_WORKER)
        pathlib.Path(folder, "nginx.conf").write_text(NGINX.format(dir=folder, body=BODY, listen=" ".join(listen)))
        out = os.path.join(folder, "callgrind.out")
        nginx = subprocess.Popen(["nginx", "-c", f"{folder}/nginx.conf"], stderr=subprocess.DEVNULL)
        valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        valgrind += [] if changes is None else ["--separate-threads=yes"]
        gateway = subprocess.Popen(
            [*valgrind, binary, "run", "-c", f"{folder}/gateway.yaml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_for(f"http://127.0.0.1:{ports['admin']}/readyz", 900)
            wait_until_quiet(gateway.pid, 120)
            load(ports["port"], path, headers, WARM)
            subprocess.run(["callgrind_control", "-i", "on", str(gateway.pid)], check=True, capture_output=True, timeout=60)
            if changes is None:
                load(ports["port"], path, headers, COUNTED)
            for number in range(COUNTED // PER_CHANGE if changes is not None else 0):
                if number < changes:
                    change(ports["admin"], ports["backend"], 7 * number)
                load(ports["port"], path, headers, PER_CHANGE)
            subprocess.run(["callgrind_control", "-i", "off", str(gateway.pid)], check=True, capture_output=True, timeout=60)
        finally:
            gateway.send_signal(signal.SIGINT)
            gateway.wait(120)
            nginx.terminate()
            nginx.wait(10)
        if changes is not None:
            return served(folder)
        return total(out) / COUNTED


def total(path):
    return int(re.search(r"^totals: (\d+)", pathlib.Path(path).read_text(errors="replace"), re.M).group(1))


def served(folder):
    """What the thread that serves requests has done for each: the one that picks endpoints."""
    threads = [path for path in pathlib.Path(folder).glob("callgrind.out-*") if "::serve::" in path.read_text(errors="replace")]
    if not threads:
        sys.exit("no thread has served requests")
    return max(map(total, threads)) / COUNTED


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("kinds", nargs="*", choices=[*KINDS, CHANGING, []], default=[])
    given = arguments.parse_args()
    grown = []
    for name in given.kinds or [*KINDS, CHANGING]:
        if name == CHANGING:
            many = COUNTED // PER_CHANGE
            small, large = per_request(given.binary, endpoints, 1000, 0), per_request(given.binary, endpoints, 1000, many)
            words = ("still", f"{many} changes")
        else:
            make, many = KINDS[name]
            small, large = per_request(given.binary, make, 1), per_request(given.binary, make, many)
            words = ("at 1", f"at {many:,}")
        print(f"{name:<10} {words[0]}: {small:>9,.0f}   {words[1]}: {large:>9,.0f}   {large / small:.3f}", flush=True)
        if large > small * TOLERANCE:
            grown.append(name)
    if grown:
        print(f"FAILED: a request costs more than {TOLERANCE - 1:.0%} more with many {', '.join(grown)}")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
