"""Processes on their cores, what the kernel says they cost, and the files and the backend that every proxy is measured with."""

import atexit
import base64
import ctypes
import hashlib
import hmac
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

TICK = os.sysconf("SC_CLK_TCK")
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
PROXY_CORE, LOAD_CORE = 0, 1
BODY = b'{"id":1001,"name":"portcullis","about":"a hundred bytes of JSON, as an API may answer","price":1995}'
assert len(BODY) == 100
LIBC = ctypes.CDLL(None)
STARTED = []


class Failed(Exception):
    """A measurement that must not count; its text goes into the table."""


class EndedAtOnce(Failed):
    """It could not even start; the one failure that may be another process's doing, which took its port."""


class Process:
    """A process of ours, pinned to one core. It ends with us, whatever happens to us."""

    def __init__(self, command, core, folder, name, environment=None, slack=None):
        self.output = pathlib.Path(folder, f"{name}.output")
        self.name = name

        def before():
            LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
            if slack:
                LIBC.prctl(29, slack)  # PR_SET_TIMERSLACK

        with open(self.output, "wb") as output:
            # A session of its own, so that the terminal's Ctrl-C reaches only us, and we end things in order.
            self.popen = subprocess.Popen(
                ["taskset", "-c", str(core), *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=os.environ | (environment or {}),
                start_new_session=True,
                preexec_fn=before,
            )
        self.pid = self.popen.pid
        STARTED.append(self)

    def alive(self):
        return self.popen.poll() is None

    def said(self, limit=2000):
        return self.output.read_text(errors="replace")[-limit:].strip()

    def tree(self):
        """This process and all below it."""
        found, todo = [], [self.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    todo += map(int, pathlib.Path(f"/proc/{pid}/task/{task}/children").read_text().split())
            except OSError:
                pass
        return found

    def cpu_seconds(self):
        """User and system time of all threads and children so far, those that have ended included."""
        ticks = 0
        for pid in self.tree():
            try:
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
            except OSError:
                pass
        return ticks / TICK

    def rss_kib(self):
        total = 0
        for pid in self.tree():
            try:
                total += int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_KIB
            except OSError:
                pass
        return total

    def stop(self, how=signal.SIGTERM, patience=3.0):
        below = self.tree()[1:] if self.alive() else []
        if self.alive():
            self.popen.send_signal(how)
            try:
                self.popen.wait(patience)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait(10)
        for pid in below:
            # Only what is still a child of nobody else's: workers that outlived their master.
            if pathlib.Path(f"/proc/{pid}").exists() and session_of(pid) == self.pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        if self in STARTED:
            STARTED.remove(self)


def session_of(pid):
    try:
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3])
    except OSError:
        return None


def stop_everything():
    for process in list(reversed(STARTED)):
        process.stop(patience=1.0)


def core_ticks(core):
    """What a core has given to processes and lost to the host, in ticks since boot. Interrupts are nobody's."""
    for line in pathlib.Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _wait, _irq, _softirq, steal = map(int, line.split()[1:9])
            return user + nice + system + steal
    return 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def raise_file_limit():
    """As many open files as we are allowed to have; our children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (65_536, hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
            return wanted
        except (ValueError, OSError):
            continue
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*arguments, data=None):
    done = subprocess.run(["openssl", *map(str, arguments)], input=data, capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"openssl {' '.join(map(str, arguments))}: {done.stderr.decode(errors='replace')}")
    return done.stdout


class Fixtures:
    """A folder in memory with keys, a certificate and tokens, and the backend on the load generator's core."""

    def __init__(self):
        memory = pathlib.Path("/dev/shm")
        in_memory = memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="portcullis-peers-", dir=memory if in_memory else None))
        self.folder.chmod(0o755)
        # Whatever happens: first everything ends, then its files go. (The last one registered is the first one called.)
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        atexit.register(stop_everything)
        self.certificate, self.key = self.folder / "edge.pem", self.folder / "edge.key"
        openssl(
            *[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
            ],
            *["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", self.key, "-out", self.certificate],
        )
        self.bundle = self.folder / "edge-bundle.pem"
        self.bundle.write_bytes(self.certificate.read_bytes() + self.key.read_bytes())
        self.secret = b"0123456789abcdef0123456789abcdef"
        self.hs256 = self.token("HS256", lambda text: hmac.new(self.secret, text, hashlib.sha256).digest())
        rsa = self.folder / "rsa.pem"
        openssl("genrsa", "-out", rsa, "2048")
        modulus = openssl("rsa", "-in", rsa, "-noout", "-modulus").decode().strip().partition("=")[2]
        self.jwks = json.dumps(
            {
                "keys": [
                    {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k", "n": base64url(bytes.fromhex(modulus)), "e": "AQAB"}
                ]
            }
        )
        self.rs256 = self.token("RS256", lambda text: openssl("dgst", "-sha256", "-sign", rsa, data=text), kid="k")
        self.backend_port = free_port()
        self.backend = self.start_backend()

    @staticmethod
    def token(algorithm, sign, **head):
        head = {"alg": algorithm, "typ": "JWT"} | head
        claims = {"iss": "bench", "aud": "bench", "sub": "user-1", "exp": int(time.time()) + 86_400}
        text = ".".join(base64url(json.dumps(part).encode()) for part in (head, claims))
        return f"{text}.{base64url(sign(text.encode()))}"

    def start_backend(self):
        folder = self.folder / "backend"
        folder.mkdir()
        files = folder / "files"
        files.mkdir()
        (files / "10k").write_bytes(big_body(10 << 10))
        (files / "1m").write_bytes(big_body(1 << 20))
        (folder / "nginx.conf").write_text(
            "\n".join(
                [
                    *nginx_frame(folder),
                    "http {",
                    *nginx_http(folder),
                    "default_type application/json; sendfile on; tcp_nopush on;",
                    "open_file_cache max=10; open_file_cache_valid 1h;",
                    "server {",
                    f"listen 127.0.0.1:{self.backend_port} backlog=4096;",
                    f"location / {{ return 200 '{BODY.decode()}'; }}",
                    "location = /echo { return 200 'gate=$http_x_gate debug=$http_x_debug'; }",
                    "location = /cached { add_header Cache-Control 'public, max-age=3600'; add_header X-Serial $request_id;",
                    f"return 200 '{BODY.decode()}'; }}",
                    "location = /status { stub_status; }",
                    f"location = /10k {{ root {files}; }}",
                    f"location = /1m {{ root {files}; }}",
                    "} }",
                ]
            )
        )
        backend = Process(["nginx", "-c", folder / "nginx.conf"], LOAD_CORE, folder, "backend")
        until = time.time() + 5
        while time.time() < until:
            try:
                socket.create_connection(("127.0.0.1", self.backend_port), 1).close()
                return backend
            except OSError:
                time.sleep(0.05)
        sys.exit(f"the backend did not start: {backend.said()}")

    def backend_connections(self):
        """How many connections the backend has accepted so far."""
        with socket.create_connection(("127.0.0.1", self.backend_port), 5) as connection:
            connection.sendall(b"GET /status HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        return int(answer.rpartition(b"requests")[2].split()[0])


def big_body(size):
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def nginx_frame(folder):
    """Before `http {`. As root the worker stays root, so that it may use our folders."""
    return [
        "daemon off; worker_processes 1;",
        *(["user root;"] if os.geteuid() == 0 else []),
        f"pid {folder}/nginx.pid; error_log {folder}/error.log crit;",
        "events { worker_connections 19000; }",
    ]


def nginx_http(folder):
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return [
        "access_log off; keepalive_requests 1000000000; keepalive_timeout 300s;",
        " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds),
    ]


def text_of(*command):
    """What a command prints, or nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        return (done.stdout + done.stderr).strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def describe():
    """The machine, in a few words."""
    cpu = pathlib.Path("/proc/cpuinfo").read_text()
    model = next(
        (line.partition(":")[2].strip() for line in cpu.splitlines() if line.startswith("model name")), os.uname().machine
    )
    memory = int(pathlib.Path("/proc/meminfo").read_text().split()[1]) / (1 << 20)
    release = {}
    for line in pathlib.Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        release[name] = value.strip('"')
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB; {release.get('PRETTY_NAME', 'Linux')}, Linux {os.uname().release}"
