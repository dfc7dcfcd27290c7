#!/usr/bin/env python3
"""What the cache costs: a hit on disk beside nginx's, a lookup among many answers, the memory of each beside Varnish's, and a purge of them.

Each gateway has one worker, and the same nginx behind it, which gives one file for whatever it is asked. What is counted is the CPU time of the
gateway's processes alone, from the kernel, and their resident memory. Portcullis and nginx take turns, and the median of the rounds counts.

- *disk*: answers of 10 KiB, many more than memory has room for, asked for one after the other: no hit is in memory, and the page cache has them
  all, for both.
- *lookup*: hits of a small answer, at random among 1,000 and among `--entries` others.
- *memory*: what each of so many small answers takes. Varnish is left out if it is not installed.

- *purge*: hits on another host, before and while `--entries` answers are purged again and again, by prefix, tag and host, and then URL by URL,
  more of them than are remembered one by one. The answers are in memory, on disk and in a Redis, if that is installed.

    loadtest/cache.py target/release/portcullis [--entries 1000000] [--rounds 3] [--seconds 5] [--only purge]

Fails if a hit on disk takes more than three times of nginx's CPU, a lookup among many more than twice of one among few, or a hundredth of the hits
during a purge more than three times as long as before.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")
SMALL, LARGE = 100, 10 * 1024
OBJECTS = 4000

ORIGIN = """user root; daemon off; pid {dir}/origin.pid; worker_processes 1; error_log {dir}/origin.err;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {dir}/ob; proxy_temp_path {dir}/op; fastcgi_temp_path {dir}/of; uwsgi_temp_path {dir}/ou;
scgi_temp_path {dir}/os; keepalive_requests 100000000; keepalive_timeout 600s; open_file_cache max=10 inactive=600s;
server {{ listen 127.0.0.1:{port} backlog=4096; root {dir}/files; add_header Cache-Control max-age=86400; add_header Cache-Tag all; etag off;
location /small/ {{ try_files /small =404; }} location /large/ {{ try_files /large =404; }} }} }}"""

NGINX = """user root; daemon off; pid {dir}/nginx.pid; worker_processes 1; error_log {dir}/nginx.err;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {dir}/nb; proxy_temp_path {dir}/np; fastcgi_temp_path {dir}/nf; uwsgi_temp_path {dir}/nu;
scgi_temp_path {dir}/ns; keepalive_requests 100000000; keepalive_timeout 600s; sendfile on; tcp_nopush on;
proxy_cache_path {dir}/nginx-cache levels=1:2 keys_zone=all:64m max_size=4g inactive=1d;
upstream origin {{ server 127.0.0.1:{origin}; keepalive 16; keepalive_requests 100000000; }}
server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
proxy_cache all; }} }} }}"""

OWN = """listeners: [ {{ bind: 127.0.0.1:{port} }} ]
admin: {{ bind: 127.0.0.1:{admin} }}
access_log: {{ output: false }}
server: {{ workers: 1, cache_memory: {memory}{disk} }}
{more}
services: {{ origin: {{ endpoints: [ 127.0.0.1:{origin} ] }} }}
routes: [ {{ path: /*, service: origin, policies: {{ cache: {{}} }} }} ]
"""

# One after the other, or at random among so many.
WALK = """local at = tonumber(os.getenv("FROM")); local most = tonumber(os.getenv("COUNT"))
local random = os.getenv("RANDOM"); local path = os.getenv("TARGET"); local threads = 0
function setup(thread) thread:set("begin", threads); threads = threads + 1 end
function init() math.randomseed(os.time() + begin); at = at + begin * 7919 end
function request()
  at = random == "1" and math.random(most) or (at + 1) % most
  return wrk.format("GET", path .. at, {["Host"] = os.getenv("HOST_FIELD")})
end
function done(summary, latency, requests)
  local errors = summary.errors.status + summary.errors.read + summary.errors.timeout
  io.write(string.format("DONE %d %d %d %d\\n", summary.requests, errors, latency:percentile(99), latency.max))
end
"""


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Process:
    def __init__(self, name, command, port):
        self.name, self.port = name, port
        self.child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        sys.exit(f"{name} did not come up")

    def pids(self):
        found, known = [], [self.child.pid]
        while known:
            pid = known.pop()
            found.append(pid)
            try:
                children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            except OSError:
                continue
            known += [int(child) for child in children]
        return found

    def cpu(self):
        """Seconds, of all its processes."""
        total = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def resident(self):
        """Bytes that are its own: what it has mapped of files is not."""
        total = 0
        for pid in self.pids():
            for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1]) * 1024
        return total

    def stop(self):
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(15)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def load(port, script, target, count, seconds, random=False, start=0, connections=16):
    return loaded(port, script, target, count, seconds, random, start, connections)[0]


def loaded(port, script, target, count, seconds, random=False, start=0, connections=16, host="many.example"):
    """How many requests there were, and the microseconds that the slowest hundredth of them, and the slowest, took."""
    env = dict(os.environ, TARGET=target, COUNT=str(count), RANDOM="1" if random else "0", FROM=str(start), HOST_FIELD=host)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script, f"http://127.0.0.1:{port}"]
    told = subprocess.run(command, env=env, capture_output=True, text=True).stdout
    done = [line.split()[1:] for line in told.splitlines() if line.startswith("DONE")]
    if not done or int(done[0][1]):
        sys.exit(f"the load failed: {told}")
    return int(done[0][0]), int(done[0][2]), int(done[0][3])


def fill(process, script, target, count):
    """Asks for all of them at least once."""
    asked = 0
    while asked < count * 1.02:
        asked += load(process.port, script, target, count, 5, start=asked, connections=32)


def per_request(process, script, target, count, seconds, random):
    before, begun = process.cpu(), time.monotonic()
    requests = load(process.port, script, target, count, seconds, random=random)
    spent = process.cpu() - before
    return spent / requests * 1e6, requests / (time.monotonic() - begun)


def own(options, folder, origin, memory, disk="", more=""):
    port, admin = free_port(), free_port()
    path = folder / f"own-{port}.yaml"
    path.write_text(OWN.format(port=port, admin=admin, origin=origin, memory=memory, disk=disk, more=more))
    process = Process("portcullis", [str(options.binary), "run", "-c", str(path)], port)
    process.admin = admin
    return process


def metric(process, name):
    told = subprocess.run(["curl", "-s", f"http://127.0.0.1:{process.admin}/metrics"], capture_output=True, text=True).stdout
    return sum(float(line.rsplit(" ", 1)[1]) for line in told.splitlines() if line.startswith(name))


def on_disk(options, folder, script, origin):
    """Medians of microseconds for each hit: ours and nginx's."""
    disk = f", cache_disk: {{ path: {folder}/own-cache, max_size: 2GiB }}"
    ours = own(options, folder, origin, "2MiB", disk)
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(dir=folder, port=port, origin=origin))
    theirs = Process("nginx", ["nginx", "-p", str(folder), "-c", str(config)], port)
    try:
        fill(ours, script, "/large/", OBJECTS)
        fill(theirs, script, "/large/", OBJECTS)
        time.sleep(1)
        hits, figures = metric(ours, "portcullis_cache_disk_hits_total"), ([], [])
        asked = 0
        for _ in range(options.rounds):
            for number, process in enumerate((ours, theirs)):
                spent, rate = per_request(process, script, "/large/", OBJECTS, options.seconds, False)
                figures[number].append(spent)
                asked += rate * options.seconds if process is ours else 0
        share = (metric(ours, "portcullis_cache_disk_hits_total") - hits) / asked
        mine, other = (statistics.median(each) for each in figures)
        print(f"hit of 10 KiB on disk: {mine:.1f} us of CPU, nginx {other:.1f} us: {mine / other:.2f} times ({share:.0%} from disk)")
        return mine / other, share
    finally:
        ours.stop()
        theirs.stop()


def lookups(options, folder, script, origin):
    figures, resident = {}, {}
    gateway = own(options, folder, origin, f"{max(64, options.entries * 2 // 1024)}MiB")
    try:
        fill(gateway, script, "/small/", 1000)
        empty = gateway.resident()
        few = [per_request(gateway, script, "/small/", 1000, options.seconds, True)[0] for _ in range(options.rounds)]
        # Twice: what is given for the first time costs more.
        fill(gateway, script, "/small/", options.entries)
        fill(gateway, script, "/small/", options.entries)
        held, entries = gateway.resident() - empty, options.entries - 1000
        many = [per_request(gateway, script, "/small/", options.entries, options.seconds, True)[0] for _ in range(options.rounds)]
        few, many = statistics.median(few), statistics.median(many)
        print(f"hit among 1,000: {few:.1f} us of CPU, among {options.entries:,}: {many:.1f} us: {many / few:.2f} times")
        print(f"memory of an answer of {SMALL} bytes: {held / entries:.0f} bytes")
        return many / few
    finally:
        gateway.stop()


def purges(options, folder, script, origin):
    """How many times as long the slowest hundredth of the hits takes during each kind of purge."""
    disk, more, redis = f", cache_disk: {{ path: {folder}/purged-cache, max_size: 8GiB }}", "", None
    if shutil.which("redis-server"):
        port = free_port()
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        redis = Process("Redis", command, port)
        disk, more = disk + ", cache_redis: {}", f"redis: {{ nodes: '127.0.0.1:{port}' }}"
    gateway = own(options, folder, origin, f"{max(64, options.entries * 2 // 1024)}MiB", disk, more)

    def order(what):
        url, body = f"http://127.0.0.1:{gateway.admin}/cache/purge", json.dumps(what).encode()
        with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})) as answer:
            answer.read()

    def again(what):
        while True:
            yield what

    def each():
        """More than are remembered, a thousand at a time."""
        for start in range(0, 400_000, 1000):
            yield {"urls": [f"http://many.example/small/{number}" for number in range(start, start + 1000)]}

    kinds = {
        "prefix": again({"prefixes": ["http://many.example/small/"]}),
        "tag": again({"tags": ["all"], "host": "many.example"}),
        "host": again({"hosts": ["many.example"]}),
        "URL by URL": each(),
    }
    worst = 0
    try:
        for kind, orders in kinds.items():
            fill(gateway, script, "/small/", options.entries)
            # Twice: the first time none of them is a hit.
            [(_, before, slowest)] = [loaded(gateway.port, script, "/large/", 500, options.seconds, True, host="few.example")
                                      for _ in range(2)][1:]
            ends, made = threading.Event(), []

            def purge():
                for what in orders:
                    if ends.is_set():
                        return
                    begun = time.monotonic()
                    order(what)
                    made.append(time.monotonic() - begun)

            purging = threading.Thread(target=purge)
            purging.start()
            _, during, most = loaded(gateway.port, script, "/large/", 500, options.seconds, True, host="few.example")
            ends.set()
            purging.join()
            worst = max(worst, during / before)
            print(f"{len(made)} purges of {options.entries:,} by {kind}, {statistics.median(made) * 1000:.1f} ms each: a hundredth of the hits "
                  f"takes {during / 1000:.1f} ms, the slowest {most / 1000:.1f} ms; before {before / 1000:.1f} and {slowest / 1000:.1f} ms")
        return worst
    finally:
        gateway.stop()
        if redis:
            redis.stop()


def varnish(options, folder, script, origin):
    if not shutil.which("varnishd"):
        return
    port = free_port()
    command = ["varnishd", "-F", "-n", str(folder / "varnish"), "-a", f"127.0.0.1:{port}", "-b", f"127.0.0.1:{origin}",
               "-s", f"malloc,{max(64, options.entries * 4 // 1024)}m", "-j", "none"]
    process = Process("varnish", command, port)
    try:
        fill(process, script, "/small/", 1000)
        empty = process.resident()
        fill(process, script, "/small/", options.entries)
        fill(process, script, "/small/", options.entries)
        print(f"memory of the same in Varnish: {(process.resident() - empty) / (options.entries - 1000):.0f} bytes")
    finally:
        process.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--only", choices=["disk", "lookup", "purge"])
    options = parser.parse_args()
    options.binary = options.binary.resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "files").mkdir()
        (folder / "files" / "small").write_bytes(b"s" * SMALL)
        (folder / "files" / "large").write_bytes(os.urandom(LARGE))
        script = folder / "walk.lua"
        script.write_text(WALK)
        port = free_port()
        config = folder / "origin.conf"
        config.write_text(ORIGIN.format(dir=folder, port=port))
        origin = Process("the origin", ["nginx", "-p", str(folder), "-c", str(config)], port)
        try:
            ratio, share, lookup, purged = 0, 1, 0, 0
            if options.only in (None, "disk"):
                ratio, share = on_disk(options, folder, str(script), port)
            if options.only in (None, "lookup"):
                lookup = lookups(options, folder, str(script), port)
                varnish(options, folder, str(script), port)
            if options.only in (None, "purge"):
                purged = purges(options, folder, str(script), port)
        finally:
            origin.stop()
    wrong = []
    if ratio > 3:
        wrong.append("a hit on disk takes more than three times of nginx's CPU")
    if share < 0.9:
        wrong.append("most hits were not from disk")
    if lookup > 2:
        wrong.append("a lookup among many takes more than twice of one among few")
    if purged > 3:
        wrong.append("a hundredth of the hits takes more than three times as long during a purge")
    sys.exit("; ".join(wrong) or 0)


if __name__ == "__main__":
    main()
