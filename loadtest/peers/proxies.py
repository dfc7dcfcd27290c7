"""Portcullis, and the proxies written in C: how each is found, configured, started and stopped."""

import dataclasses
import json
import os
import re
import shutil
import signal
import time

from . import machine
from .load import ask
from .machine import EndedAtOnce, Failed, Process, nginx_frame, nginx_http, text_of

TOOLS = []  # folders that are looked into before PATH


@dataclasses.dataclass(frozen=True)
class Want:
    """What a proxy has to be set up for."""

    kind: str = "plain"  # gauntlet, unauthorized, limited, cache, routes
    routes: int = 0
    tls: bool = False


class Place:
    """Where one start of a proxy lives: its folder, its ports, and what all of them share."""

    def __init__(self, fixtures, name):
        self.fixtures = fixtures
        self.folder = fixtures.folder / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.port, self.admin = machine.free_port(), machine.free_port()
        self.backend = f"127.0.0.1:{fixtures.backend_port}"
        self.log = self.folder / "access.log"

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text if isinstance(text, str) else json.dumps(text, indent=1))
        return path


class Peer:
    """A proxy. `kinds` says what it can be set up for, and what it then does, in the table's words."""

    key = name = binary = ""
    kinds = {}
    environment = {}
    stop_signal = signal.SIGTERM
    token = "hs256"  # which token its gauntlet takes; None if it cannot check any
    counts_as_portcullis = False
    absent = "run as root: scripts/need.sh peers"  # how to get it

    def __init__(self):
        self.process = self.place = None

    def path(self):
        for folder in TOOLS:
            if os.access(folder / self.binary, os.X_OK):
                return str(folder / self.binary)
        return shutil.which(self.binary, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")

    def version(self):
        raise NotImplementedError

    def command(self, want, place):
        """Writes the configuration; the command line."""
        raise NotImplementedError

    def start(self, want, fixtures, asked, headers):
        """Starts it on its core and waits until it answers."""
        self.place = Place(fixtures, self.key)
        command = [self.path(), *self.command(want, self.place)]
        environment = {"HOME": str(self.place.folder), "GOMAXPROCS": "1"} | self.environment
        self.process = Process(command, machine.PROXY_CORE, self.place.folder, self.key, environment)
        until = time.time() + 60
        while time.time() < until:
            if not self.process.alive():
                raise EndedAtOnce(f"{self.name} ended at once: {self.process.said(600)}")
            try:
                status = ask(self.place.port, asked, headers, tls=want.tls, timeout=2).status
                if status not in (404, 500, 502, 503):
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise Failed(f"{self.name} did not answer within 60 s: {self.process.said(600)}")

    def stop(self):
        if self.process:
            self.process.stop(self.stop_signal)
            self.process = None
        if self.place:
            shutil.rmtree(self.place.folder, ignore_errors=True)
            self.place = None


class Portcullis(Peer):
    key, name = "portcullis", "Portcullis"
    kinds = {
        "plain": "no policies; its metrics are always on",
        "gauntlet": "JWT (HS256, verified-token cache), rate limit by subject, request and response headers, metrics by route, JSON access log",
        "unauthorized": "`authn` finds no token; problem+json body",
        "limited": "`rate_limit` by address; problem+json body",
        "cache": "its cache, in memory",
        "routes": "one route each",
    }
    stop_signal = signal.SIGINT  # at once; TERM would let what is under way finish
    counts_as_portcullis = True
    server = "workers: 1"
    given = None  # the binary

    def path(self):
        return str(self.given)

    def version(self):
        return text_of(self.path(), "--version").split()[-1]

    def command(self, want, place):
        fixtures = place.fixtures
        lines = [
            f"listeners: [ {{ bind: 127.0.0.1:{place.port}, max_connections_per_address: 60000%s }} ]"
            % (f", tls: {{ certificates: [ {{ cert: {fixtures.certificate}, key: {fixtures.key} }} ] }}" if want.tls else ""),
            f"services: {{ backend: {{ endpoints: [ {place.backend} ], keep_alive: 256 }} }}",
            f"admin: {{ bind: 127.0.0.1:{place.admin} }}",
            f"server: {{ {self.server} }}",
            "access_log: { output: { file: access.log } }" if want.kind == "gauntlet" else "access_log: { output: false }",
        ]
        if want.kind in ("gauntlet", "unauthorized"):
            (place.folder / "secret").write_bytes(fixtures.secret)
            keys = "[ { secret: { file: secret }, algorithm: HS256 } ]"
            lines += ["policies:", f"  authn: {{ jwt: {{ issuer: bench, audience: bench, keys: {keys} }} }}"]
        if want.kind == "gauntlet":
            lines += [
                "  rate_limit: { by: subject, limit: 1000000000/s }",
                "  request_headers: { set: { X-Gate: portcullis }, remove: [ X-Debug ] }",
                "  response_headers: { set: { X-Frame-Options: DENY } }",
            ]
        if want.kind == "limited":
            lines += ["policies: { rate_limit: { by: client_address, limit: 1/d } }"]
        if want.kind == "cache":
            lines += ["policies: { cache: { ttl: 1h } }"]
        lines += ["routes:", *(f"  - {{ path: /r{n}/*, service: backend }}" for n in range(want.routes))]
        if not want.routes:
            lines += ["  - { path: /*, service: backend }"]
        return ["run", "-c", place.write("gateway.yaml", "\n".join(lines) + "\n")]


class Nginx(Peer):
    key, name, binary = "nginx", "nginx", "nginx"
    kinds = {
        "plain": "`proxy_pass` to a keep-alive `upstream`",
        "gauntlet": "**no JWT**; `limit_req` by address, `proxy_set_header`, `add_header`, JSON access log (buffered); no metrics by route",
        "unauthorized": "`return 401`",
        "limited": "`limit_req`",
        "cache": "`proxy_cache` (files in memory)",
        "routes": "one `location` each",
    }
    token = None

    def version(self):
        return text_of(self.path(), "-v").rpartition("/")[2]

    def command(self, want, place):
        fixtures = place.fixtures
        http = nginx_http(place.folder) + [
            f"upstream backend {{ server {place.backend}; keepalive 256; keepalive_requests 1000000000; }}",
            # Big answers are not to be written to disk because the client is slower than the backend.
            "proxy_http_version 1.1; proxy_set_header Connection ''; proxy_max_temp_file_size 0;",
        ]
        location = "proxy_pass http://backend;"
        if want.kind == "gauntlet":
            form = ",".join(
                f'"{name}":"${variable}"'
                for name, variable in {
                    "time": "time_iso8601", "id": "request_id", "client": "remote_addr", "host": "host", "method": "request_method",
                    "path": "uri", "status": "status", "bytes": "body_bytes_sent", "seconds": "request_time",
                    "upstream": "upstream_addr", "upstream_seconds": "upstream_header_time", "agent": "http_user_agent",
                }.items()
            )  # fmt: skip
            http += [
                f"log_format json escape=json '{{{form}}}';",
                "limit_req_zone $binary_remote_addr zone=all:10m rate=1000000r/s;",
            ]
            location += (
                f" access_log {place.log} json buffer=64k flush=1s; limit_req zone=all burst=100000 nodelay;"
                # Fields set here replace those set outside, so the one that keeps connections open has to be said again.
                " proxy_set_header Connection ''; proxy_set_header X-Gate portcullis; proxy_set_header X-Debug '';"
                " add_header X-Frame-Options DENY;"
            )
        elif want.kind == "limited":
            http += ["limit_req_zone $binary_remote_addr zone=all:10m rate=1r/m; limit_req_status 429;"]
            location += " limit_req zone=all;"
        elif want.kind == "unauthorized":
            location = "return 401;"
        elif want.kind == "cache":
            http += [f"proxy_cache_path {place.folder}/cache keys_zone=all:10m;"]
            location += " proxy_cache all;"
        secure = "ssl http2" if want.tls else ""
        locations = [f"location /r{n}/ {{ {location} }}" for n in range(want.routes)] or [f"location / {{ {location} }}"]
        server = [f"listen 127.0.0.1:{place.port} {secure} backlog=4096;", *locations]
        if want.tls:
            server += [
                f"ssl_certificate {fixtures.certificate}; ssl_certificate_key {fixtures.key}; ssl_protocols TLSv1.2 TLSv1.3;"
            ]
        config = [*nginx_frame(place.folder), "http {", *http, "server {", *server, "} }", ""]
        return ["-c", place.write("nginx.conf", "\n".join(config))]


class HAProxy(Peer):
    key, name, binary = "haproxy", "HAProxy", "haproxy"
    kinds = {
        "plain": "one backend, `http-reuse always`",
        "gauntlet": "JWT (HS256, `jwt_verify` for each request: it keeps no verified tokens), stick-table rate by subject, `set-header`, `del-header`, JSON access log (unbuffered); counters by proxy",
        "unauthorized": "`http-request deny deny_status 401`",
        "limited": "stick-table rate, `deny_status 429`",
        "cache": "its small-object cache, in memory",
        "routes": "one map file of path prefixes",
    }

    def version(self):
        return text_of(self.path(), "-v").split()[2]

    def command(self, want, place):
        fixtures = place.fixtures
        tls = f" ssl crt {fixtures.bundle} alpn h2,http/1.1" if want.tls else ""
        config = [
            "global", " nbthread 1", " maxconn 15000", " no strict-limits", " log stdout format raw local0",
            "defaults", " mode http", " timeout connect 5s", " timeout client 300s", " timeout server 60s",
            " timeout http-keep-alive 300s", " option http-keep-alive", " http-reuse always",
        ]  # fmt: skip
        if want.kind == "cache":
            config += ["cache all", " total-max-size 16", " max-age 3600"]
        config += ["frontend edge", f" bind 127.0.0.1:{place.port} backlog 4096{tls}"]
        if want.kind == "gauntlet":
            secret = fixtures.secret.decode()
            config += [
                " log global",
                ' log-format \'{"time":"%Tl","id":"%ID","client":"%ci","method":"%HM","path":"%HPO","status":%ST,"bytes":%B,'
                '"ms":%Ta,"upstream":"%s","upstream_ms":%Tr}\'',
                " unique-id-format %{+X}o%pid-%Ts-%rt",
                " stick-table type string len 64 size 100k expire 10s store http_req_rate(1s)",
                " http-request set-var(txn.algorithm) http_auth_bearer,jwt_header_query('$.alg')",
                " http-request set-var(txn.subject) http_auth_bearer,jwt_payload_query('$.sub')",
                " http-request set-var(txn.end) http_auth_bearer,jwt_payload_query('$.exp','int')",
                " http-request set-var(txn.now) date",
                " http-request deny deny_status 401 unless { var(txn.algorithm) -m str HS256 }",
                " http-request deny deny_status 401 unless { http_auth_bearer,jwt_payload_query('$.iss') -m str bench }",
                " http-request deny deny_status 401 unless { http_auth_bearer,jwt_payload_query('$.aud') -m str bench }",
                f' http-request deny deny_status 401 unless {{ http_auth_bearer,jwt_verify(txn.algorithm,"{secret}") -m int 1 }}',
                " http-request deny deny_status 401 if { var(txn.end),sub(txn.now) -m int lt 0 }",
                " http-request track-sc0 var(txn.subject)",
                " http-request deny deny_status 429 if { sc_http_req_rate(0) gt 1000000000 }",
                " http-request set-header X-Gate portcullis",
                " http-request del-header X-Debug",
                " http-response set-header X-Frame-Options DENY",
            ]
        elif want.kind == "unauthorized":
            config += [" http-request deny deny_status 401"]
        elif want.kind == "limited":
            config += [
                " stick-table type ip size 100k expire 1h store http_req_rate(1h)",
                " http-request track-sc0 src",
                " http-request deny deny_status 429 if { sc_http_req_rate(0) gt 1 }",
            ]
        elif want.kind == "cache":
            config += [" http-request cache-use all", " http-response cache-store all"]
        if want.routes:
            names = place.write("routes.map", "".join(f"/r{n}/ backend\n" for n in range(want.routes)))
            config += [f" use_backend %[path,map_beg({names},nowhere)]", "backend nowhere", " http-request deny deny_status 404"]
        else:
            config += [" default_backend backend"]
        config += ["backend backend", f" server one {place.backend}"]
        place.log = place.folder / f"{self.key}.output"
        return ["-db", "-f", place.write("haproxy.cfg", "\n".join(config) + "\n")]


class H2o(Peer):
    key, name, binary = "h2o", "h2o", "h2o"
    kinds = {"plain": "`proxy.reverse.url`"}

    def version(self):
        return text_of(self.path(), "-v").splitlines()[0].split()[-1]

    def command(self, want, place):
        fixtures = place.fixtures
        tls = f"\n  ssl: {{ certificate-file: {fixtures.certificate}, key-file: {fixtures.key} }}" if want.tls else ""
        return [
            "-c",
            place.write(
                "h2o.yaml",
                f"""num-threads: 1
num-name-resolution-threads: 1
max-connections: 15000
http1-request-timeout: 300
http2-idle-timeout: 300
{"user: root" if os.geteuid() == 0 else ""}
listen:
  host: 127.0.0.1
  port: {place.port}{tls}
hosts:
  default:
    paths:
      /:
        proxy.reverse.url: http://{place.backend}/
        proxy.preserve-host: ON
""",
            ),
        ]


class Direct(Peer):
    """No proxy at all: what the load generator and the backend take by themselves."""

    key, name = "direct", "no proxy"
    kinds = {"plain": "what the backend and the load generator themselves take"}

    def path(self):
        return "-"

    def version(self):
        return ""

    def start(self, want, fixtures, asked, headers):
        self.process = fixtures.backend
        self.place = type("Place", (), {"port": fixtures.backend_port, "folder": fixtures.folder / "none"})

    def stop(self):
        self.process = self.place = None


def number(text):
    found = re.search(r"\d+(\.\d+)+", text)
    return found.group(0) if found else "?"
