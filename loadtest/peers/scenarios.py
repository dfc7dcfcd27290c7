"""What is measured: with which proxies, what is asked, what the right answer is, and how the load is made."""

import dataclasses
import time

from .load import CONNECTIONS, ask
from .machine import BODY, Failed, big_body
from .proxies import Want

EVERYONE = ("portcullis", "bare-pingora", "nginx", "haproxy", "h2o", "envoy", "traefik", "caddy", "pingap")


@dataclasses.dataclass(frozen=True)
class Scenario:
    key: str
    title: str
    about: str
    want: Want = Want()
    peers: tuple = EVERYONE
    path: str = "/products/1001?color=red"
    status: int = 200
    body: bytes | None = BODY  # None: any
    load: str = "wrk"  # h2load, handshakes, paced, idle
    unit: str = "requests/s"
    rate: str = ""  # of `paced`: "half" of its own saturation, or the "same" for all

    def columns(self):
        """(key of the figure, title, better is "more" or "less", for the picture)"""
        if self.load == "idle":
            return [
                ("per_connection_kib", "KiB/connection", "less", True),
                ("rss_kib", "RSS with them", "less", False),
                ("rss_before_kib", "RSS before", "less", False),
            ]
        latencies = [(f"{name}_us", f"{title} µs", "less", self.load == "paced") for name, title in LATENCIES]
        cpu = ("cpu_us", "CPU µs each", "less", True)
        rss = ("rss_kib", "RSS", "less", False)
        if self.load == "paced":
            return [("rps", "rate", "", False), *latencies, cpu, rss]
        if self.load == "handshakes":
            latencies = []
        return [("rps", self.unit, "more", True), cpu, *latencies, rss]

    def asks(self, peer, fixtures):
        """The headers that go with every request to this proxy."""
        if self.want.kind != "gauntlet":
            return []
        token = {"hs256": fixtures.hs256, "rs256": fixtures.rs256, None: fixtures.hs256}[peer.token]
        return [("Authorization", f"Bearer {token}"), ("X-Debug", "1")]

    def ready_path(self):
        return f"/r{self.want.routes - 1}/item" if self.want.routes else self.path

    def verify(self, peer, headers):
        """The right answers, or `Failed`."""
        port, tls = peer.place.port, self.want.tls
        # The request that found it ready has taken the one that a limit allows; some count in another thread.
        paths = [self.path]
        if self.want.routes:
            paths = [f"/r{n}/item" for n in (0, self.want.routes // 2, self.want.routes - 1)]
        if self.want.kind == "limited":
            for _ in range(10):
                if ask(port, self.path, headers).status == self.status:
                    break
        for path in paths:
            answer = ask(port, path, headers, tls=tls)
            if answer.status != self.status:
                raise Failed(f"GET {path}: status {answer.status}, wanted {self.status}")
            if self.body is not None and answer.body != self.body:
                raise Failed(f"GET {path}: a body of {len(answer.body)} bytes, not the one of {len(self.body)}")
        if self.want.routes and ask(port, "/nowhere", headers).status != 404:
            raise Failed("GET /nowhere did not find that there is no route")
        if self.want.kind == "gauntlet":
            echo = ask(port, "/echo", headers)
            if echo.body != b"gate=portcullis debug=":
                raise Failed(f"the backend saw {echo.body[:80]!r}")
            if echo.headers.get("X-Frame-Options") != "DENY":
                raise Failed("the answer lacks X-Frame-Options")
            if peer.token:
                wrong = [(name, value[:-4] + "AAAA" if name == "Authorization" else value) for name, value in headers]
                for bad, what in (([], "no token"), (wrong, "a wrong signature")):
                    if (status := ask(port, self.path, bad).status) != 401:
                        raise Failed(f"{what} was answered {status}")
        if self.want.kind == "cache":
            first = ask(port, self.path, headers).headers.get("X-Serial")
            time.sleep(0.1)
            if first is None or first != ask(port, self.path, headers).headers.get("X-Serial"):
                raise Failed("a second request was not answered from the cache")


LATENCIES = (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9"))


def scenarios(idle, idle_tls):
    closed = f"{CONNECTIONS} connections, each asks again as soon as it has its answer"
    return [
        Scenario("plain", "Plain GET", f"A 100-byte JSON answer through the proxy. {closed}."),
        Scenario(
            "gauntlet",
            "The gauntlet",
            "The same request with a token in it and everything switched on that a gateway is bought for: token check, rate limit, "
            "headers changed both ways, metrics, access log. What each proxy does of that is in the last column; "
            "at least 95 % of the log's lines must be there in the end.",
            Want("gauntlet"),
            ("portcullis", "nginx", "haproxy", "envoy", "traefik", "pingap"),
        ),
        Scenario(
            "unauthorized",
            "Refusal: 401",
            "No backend is asked.",
            Want("unauthorized"),
            ("portcullis", "nginx", "haproxy", "envoy", "traefik", "caddy", "pingap"),
            status=401,
            body=None,
        ),
        Scenario(
            "limited",
            "Refusal: 429",
            "The limit was spent by the first request.",
            Want("limited"),
            ("portcullis", "nginx", "haproxy", "envoy", "traefik", "pingap"),
            status=429,
            body=None,
        ),
        Scenario("cache", "Cache hit", "The 100-byte answer from memory. (Envoy's cache filter is a work in progress; the others have none.)", Want("cache"), ("portcullis", "nginx", "haproxy", "pingap"), "/cached"),
        *(
            Scenario(
                f"routes-{count}",
                f"{count:,} routes",
                "Path prefixes, each asked for as often as any other, spread over the whole table. RSS shows what the table takes.",
                Want("routes", routes=count),
                ("portcullis", "nginx", "haproxy", "envoy", "traefik", "pingap"),
            )
            for count in (100, 10_000)
        ),
        Scenario("body-10k", "Answers of 10 KiB", f"{closed}.", path="/10k", body=big_body(10 << 10)),
        Scenario("body-1m", "Answers of 1 MiB", f"{closed}.", path="/1m", body=big_body(1 << 20)),
        Scenario("tls", "TLS, kept alive", f"Plain GET over TLS 1.3 (P-256 certificate). {closed}.", Want(tls=True)),
        Scenario(
            "handshakes",
            "TLS handshakes",
            "Full TLS 1.3 handshakes, 200 at a time, none resumed; one request on each connection. The client's share of the work is on "
            "the other core and about as much, so read the CPU time.",
            Want(tls=True),
            load="handshakes",
            unit="handshakes/s",
        ),
        Scenario("h2", "HTTP/2", "Plain GET over TLS and HTTP/2: 16 connections with 16 streams each; the backend is asked over HTTP/1.1.", Want(tls=True), load="h2load"),
        Scenario("paced-half", "Latency at half of its own saturation", "Plain GET at half of the requests/s that this proxy reached under “Plain GET”.", load="paced", rate="half"),
        Scenario("paced-same", "Latency at one rate for all", "Plain GET at half of what the slowest of them reached.", peers=("direct", *EVERYONE), load="paced", rate="same"),
        Scenario("idle", f"{idle:,} idle connections", "Opened, one answer each, then nothing. The kernel's socket buffers are not in it.", load="idle"),
        Scenario("idle-tls", f"{idle_tls:,} idle TLS connections", "The same over TLS.", Want(tls=True), load="idle"),
    ]  # fmt: skip
