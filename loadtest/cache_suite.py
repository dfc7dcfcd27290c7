#!/usr/bin/env python3
"""The public tests of HTTP caches (http-cache-tests, the version of tests/cache_suite) run against Portcullis, Apache httpd, nginx, Squid, Apache
Traffic Server and Varnish, one after the other, on this machine, over loopback. How each is set up: loadtest/peers/caches.py.

Each has the suite's own server behind it, begins empty, and is run `--rounds` times; of a test counts what came of it in most rounds, and what
did not always come out the same is named. What comes of it is written to `--out`, from which docs/develop/cache-tests.md takes it. That of Portcullis
is printed, but not written: the page has what its own test finds. A cache that is not installed is left out, and keeps what was recorded of it.

    loadtest/cache_suite.py target/release/portcullis --out docs/develop/cache-tests.json [--rounds 3] [--caches apache,varnish]
"""

import argparse
import atexit
import collections
import datetime
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from peers import caches  # noqa: E402
from peers.machine import EndedAtOnce, Failed, Process, free_port, stop_everything  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUITE = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "cache-suite"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def install():
    subprocess.run([ROOT / "tests/npm.sh", "tests/cache_suite", SUITE], cwd=ROOT, check=True)
    return json.loads((SUITE / "node_modules/http-cache-tests/package.json").read_text())["version"]


def server(folder):
    """The suite's own server, and its port."""
    port = free_port()
    environment = {"npm_config_protocol": "http", "npm_config_port": str(port), "npm_config_pidfile": str(folder / "server.pid")}
    # It gives files of the folder that it runs in, of which one is asked for to see whether a cache is there.
    (folder / "index.html").write_text("here\n")
    process = Process([shutil.which("node"), str(SUITE / "server.mjs")], caches.CORES, folder, "server", environment)
    until = time.monotonic() + 30
    while not caches.answers(port):
        if not process.alive() or time.monotonic() > until:
            sys.exit(f"the suite's server did not come up: {process.said()}")
        time.sleep(0.05)
    return process, port


def run(port):
    """What came of each test, by its name."""
    done = subprocess.run(
        ["node", str(SUITE / "run.mjs"), f"http://127.0.0.1:{port}"], capture_output=True, text=True, timeout=600, check=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {test["id"]: test for test in lines}


def steady(told):
    """A result without what differs from run to run: the names of resources and the times of day."""
    if not isinstance(told, list):
        return told
    text = UUID.sub("(id)", told[1])
    text = re.sub(r"\w{3}, \d{2} \w{3} \d{4} [\d:]{8} GMT", "(date)", text)
    text = re.sub(r"127\.0\.0\.1:\d+", "(address)", text)
    return [told[0], text]


def judge(rounds):
    """Of each test what came in most rounds, and the names of those that did not always come out the same."""
    results, unsteady = {}, []
    for name in sorted(rounds[0]):
        told = [json.dumps(steady(one[name]["result"])) for one in rounds if name in one]
        passed = sum(one == "true" for one in told)
        if 0 < passed < len(told):
            unsteady.append(name)
        if passed * 2 > len(told):
            results[name] = True
        else:
            failures = collections.Counter(one for one in told if one != "true")
            results[name] = json.loads(failures.most_common(1)[0][0])
    return {name: result for name, result in results.items() if result is not None}, unsteady


def count(tests, results, kind):
    """As docs/develop/cache-tests.md counts: what builds on a test that does not pass does not pass."""

    def passes(name):
        return results[name] is True and all(passes(one) for one in tests[name]["depends"] if one in results)

    of_kind = [name for name in results if tests[name]["kind"] == kind]
    return sum(passes(name) for name in of_kind), len(of_kind)


def measure(cache, origin, folder, rounds):
    done = []
    for number in range(rounds):
        place = folder / f"{cache.key}-{number}"
        process, port = started(cache, place, origin)
        try:
            done.append(run(port))
        finally:
            process.stop(patience=cache.patience)
            shutil.rmtree(place, ignore_errors=True)
    return done


def started(cache, place, origin):
    for attempt in range(3):
        port = free_port()
        try:
            return cache.start(place, port, origin), port
        except EndedAtOnce:
            # Somebody else may have taken its port.
            if attempt == 2:
                raise
            shutil.rmtree(place, ignore_errors=True)


def system():
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (AttributeError, OSError):
        return platform.platform()


def written(recorded):
    """JSON with one test a line, so that a difference can be read."""
    text = r'("(?:[^"\\]|\\.)*")'
    pair = re.compile(rf"\[\s+{text},\s+{text}\s+\]")
    return pair.sub(r"[\1, \2]", json.dumps(recorded, indent=1, ensure_ascii=False)) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--caches", help="only these: " + ",".join(one.key for one in caches.ALL))
    options = parser.parse_args()
    caches.Portcullis.given = options.binary.resolve()
    known = {one.key: one for one in caches.ALL}
    wanted = options.caches.split(",") if options.caches else list(known)
    if strange := [key for key in wanted if key not in known]:
        parser.error(f"no cache is called {', '.join(strange)}")
    if options.rounds < 1:
        parser.error("one round at least")
    suite = f"http-cache-tests {install()}"
    recorded = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    if recorded.get("suite") != suite:
        recorded = {"suite": suite, "caches": {}}

    folder = pathlib.Path(tempfile.mkdtemp(prefix="portcullis-caches-"))
    folder.chmod(0o755)
    # Whatever happens: first everything ends, then its files go. (The last one registered is the first one called.)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(stop_everything)
    _server, origin = server(folder)
    failed = []
    print(f"{'cache':<24}{'version':<14}{'must':>9}{'should':>9}  unsteady")
    for key in wanted:
        cache = known[key]()
        if not cache.path():
            print(f"{cache.name:<24}is not here: install the package {cache.package}")
            continue
        try:
            rounds = measure(cache, origin, folder, options.rounds)
        except Failed as problem:
            failed.append(str(problem))
            continue
        results, unsteady = judge(rounds)
        must, should = (count(rounds[0], results, kind) for kind in ("required", "optimal"))
        version = cache.version()
        print(f"{cache.name:<24}{version:<14}{must[0]:>5}/{must[1]}{should[0]:>6}/{should[1]}  {' '.join(unsteady)}", flush=True)
        if key != "portcullis":
            recorded["caches"][key] = {
                **{"name": cache.name, "version": version, "system": system(), "date": str(datetime.date.today())},
                **{"settings": cache.settings, "rounds": options.rounds, "unsteady": unsteady, "results": results},
            }
    if options.out:
        recorded["caches"] = {key: recorded["caches"][key] for key in sorted(recorded["caches"])}
        options.out.write_text(written(recorded))
    sys.exit("\n".join(failed) or 0)


if __name__ == "__main__":
    main()
