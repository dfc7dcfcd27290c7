"""The proxies on the same engine as Portcullis: Pingora with nothing on it, and pingap."""

import json
import signal

from .machine import text_of
from .proxies import Peer, number


class BarePingora(Peer):
    """The least that Pingora's own proxy costs; see examples/bare_pingora.rs."""

    key, name = "bare-pingora", "bare Pingora"
    kinds = {"plain": "Pingora 0.9.1's `ProxyHttp` without a single hook but the peer; same allocator, profile and TLS library"}
    stop_signal = signal.SIGINT  # at once; TERM would wait for its grace period
    built = None  # the binary
    absent = "cargo build --release --features bare-pingora --example bare_pingora"

    def path(self):
        return str(self.built) if self.built and self.built.exists() else None

    def version(self):
        return "0.9.1"

    def command(self, want, place):
        pair = [place.fixtures.certificate, place.fixtures.key] if want.tls else []
        return [f"127.0.0.1:{place.port}", place.backend, *pair]


class Pingap(Peer):
    key, name, binary = "pingap", "pingap", "pingap"
    kinds = {
        "plain": "one location",
        "gauntlet": "JWT (HS256, verified for each request), `limit` by address, `request_headers`, `response_headers`, JSON access log (buffered); no metrics by route",
        "unauthorized": "`jwt` finds no token",
        "limited": "`limit` by address",
        "cache": "`cache`, in memory",
        "routes": "one location each",
    }
    stop_signal = signal.SIGINT

    def version(self):
        return number(text_of(self.path(), "--version"))

    @staticmethod
    def plugins(want, fixtures):
        """By name, in the order in which a request meets them."""
        jwt = {
            "category": "jwt",
            "header": "Authorization",
            "algorithm": "HS256",
            "secret": fixtures.secret.decode(),
            "issuers": ["bench"],
            "audiences": ["bench"],
        }
        return {
            "gauntlet": {
                "who": jwt,
                "often": {"category": "limit", "tag": "ip", "type": "rate", "max": 1_000_000_000, "interval": "1s"},
                "asked": {"category": "request_headers", "set_headers": ["X-Gate:portcullis"], "remove_headers": ["X-Debug"]},
                "told": {"category": "response_headers", "set_headers": ["X-Frame-Options:DENY"]},
            },
            "unauthorized": {"who": jwt},
            "limited": {"often": {"category": "limit", "tag": "ip", "type": "rate", "max": 1, "interval": "1h"}},
            "cache": {"kept": {"category": "cache", "directory": "memory://?max_size=100mb", "max_ttl": "1h"}},
        }.get(want.kind, {})

    def command(self, want, place):
        fixtures = place.fixtures
        plugins = self.plugins(want, fixtures)
        paths = {f"r{n}": f"/r{n}/" for n in range(want.routes)} or {"all": "/"}
        edge = {"addr": f"127.0.0.1:{place.port}", "threads": 1, "locations": list(paths)}
        config = {
            "basic": {
                "threads": 1,
                "log_level": "ERROR",
                "upstream_keepalive_pool_size": 256,
                "pid_file": str(place.folder / "pingap.pid"),
                "upgrade_sock": str(place.folder / "pingap.sock"),
                "grace_period": "1s",
                "graceful_shutdown_timeout": "1s",
            },
            "upstreams": {"backend": {"addrs": [place.backend]}},
            "locations": {
                name: {"upstream": "backend", "path": path} | ({"plugins": list(plugins)} if plugins else {})
                for name, path in paths.items()
            },
            "servers": {"edge": edge},
        }
        if plugins:
            config["plugins"] = plugins
        if want.kind == "gauntlet":
            edge["access_log"] = f"{place.log}?rolling=never&flush_timeout=1s&channel_buffer=100000 json"
        if want.tls:
            edge |= {"global_certificates": True, "enabled_h2": True}
            config["certificates"] = {
                "edge": {"tls_cert": str(fixtures.certificate), "tls_key": str(fixtures.key), "is_default": True}
            }
        return ["-c", place.write("pingap.toml", toml(config))]


def toml(config):
    """Two levels of tables and plain values: JSON's strings, numbers, booleans and lists of strings are TOML's as well."""
    lines = []

    def table(name, values):
        lines.append(f"[{name}]")
        lines.extend(f"{key} = {json.dumps(value)}" for key, value in values.items())

    for name, values in config.items():
        if name == "basic":
            table(name, values)
        else:
            for key, inner in values.items():
                table(f"{name}.{key}", inner)
    return "\n".join([*lines, ""])
