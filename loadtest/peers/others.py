"""The proxies in C++ and Go: Envoy, Traefik and Caddy."""

from .machine import text_of
from .proxies import TOOLS, Peer, number


def envoy_header(name, value):
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def envoy_address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


class Envoy(Peer):
    key, name, binary = "envoy", "Envoy", "envoy"
    kinds = {
        "plain": "its router; statistics are always on",
        "gauntlet": "`jwt_authn` (**RS256**, JWKS in the file, `jwt_cache_config`), `local_ratelimit` (one bucket for all), header mutation, statistics, JSON access log",
        "unauthorized": "`direct_response` 401",
        "limited": "`local_ratelimit`",
        "routes": "a list of routes, which it walks from the top",
    }
    token = "rs256"

    def path(self):
        # The wheel's command is a Python script around this.
        for folder in TOOLS:
            for found in folder.parent.glob("lib/python*/site-packages/envoy/_bin/envoy"):
                return str(found)
        return super().path()

    def version(self):
        return number(text_of(self.path(), "--version").rpartition("version:")[2])

    def command(self, want, place):
        api = "type.googleapis.com/envoy.extensions"
        fixtures = place.fixtures
        filters = []
        if want.kind == "gauntlet":
            provider = {
                "issuer": "bench",
                "audiences": ["bench"],
                "local_jwks": {"inline_string": fixtures.jwks},
                "jwt_cache_config": {"jwt_cache_size": 1000},
            }
            filters += [
                {
                    "name": "envoy.filters.http.jwt_authn",
                    "typed_config": {
                        "@type": f"{api}.filters.http.jwt_authn.v3.JwtAuthentication",
                        "providers": {"bench": provider},
                        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}],
                    },
                }
            ]
        if want.kind in ("gauntlet", "limited"):
            always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
            many = {"max_tokens": 1_000_000_000, "tokens_per_fill": 1_000_000_000, "fill_interval": "1s"}
            one = {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "86400s"}
            filters += [
                {
                    "name": "envoy.filters.http.local_ratelimit",
                    "typed_config": {
                        "@type": f"{api}.filters.http.local_ratelimit.v3.LocalRateLimit",
                        "stat_prefix": "limit",
                        "token_bucket": many if want.kind == "gauntlet" else one,
                        "filter_enabled": always,
                        "filter_enforced": always,
                    },
                }
            ]
        filters += [{"name": "envoy.filters.http.router", "typed_config": {"@type": f"{api}.filters.http.router.v3.Router"}}]
        onward = {"route": {"cluster": "backend"}}
        if want.kind == "unauthorized":
            onward = {"direct_response": {"status": 401}}
        if want.routes:
            routes = [{"match": {"path_separated_prefix": f"/r{n}"}} | onward for n in range(want.routes)]
        else:
            routes = [{"match": {"prefix": "/"}} | onward]
        table = {"name": "all", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}
        manager = {
            "@type": f"{api}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "edge",
            "codec_type": "AUTO",
            "http_filters": filters,
            "route_config": table,
        }
        if want.kind == "gauntlet":
            table["request_headers_to_add"] = [envoy_header("X-Gate", "portcullis")]
            table["request_headers_to_remove"] = ["X-Debug"]
            table["response_headers_to_add"] = [envoy_header("X-Frame-Options", "DENY")]
            fields = {
                "time": "%START_TIME%", "id": "%REQ(X-REQUEST-ID)%", "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
                "host": "%REQ(:AUTHORITY)%", "method": "%REQ(:METHOD)%", "path": "%REQ(:PATH)%", "protocol": "%PROTOCOL%",
                "status": "%RESPONSE_CODE%", "bytes": "%BYTES_SENT%", "ms": "%DURATION%", "upstream": "%UPSTREAM_HOST%",
                "agent": "%REQ(USER-AGENT)%",
            }  # fmt: skip
            log = {
                "@type": f"{api}.access_loggers.file.v3.FileAccessLog",
                "path": str(place.log),
                "log_format": {"json_format": fields},
            }
            manager["access_log"] = [{"name": "envoy.access_loggers.file", "typed_config": log}]
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        if want.tls:
            pair = {"certificate_chain": {"filename": str(fixtures.certificate)}, "private_key": {"filename": str(fixtures.key)}}
            chain["transport_socket"] = {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": f"{api}.transport_sockets.tls.v3.DownstreamTlsContext",
                    # TLS 1.3 is not on by default for the server side of older releases.
                    "common_tls_context": {
                        "alpn_protocols": ["h2", "http/1.1"],
                        "tls_certificates": [pair],
                        "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
                    },
                },
            }
        cluster = {
            "name": "backend",
            "type": "STATIC",
            "connect_timeout": "5s",
            "circuit_breakers": {
                "thresholds": [{"max_connections": 10_000, "max_requests": 10_000, "max_pending_requests": 10_000}]
            },
            "load_assignment": {
                "cluster_name": "backend",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": envoy_address(fixtures.backend_port)}}]}],
            },
        }
        config = {
            "admin": {"address": envoy_address(place.admin)},
            "static_resources": {
                "listeners": [{"name": "edge", "address": envoy_address(place.port), "filter_chains": [chain]}],
                "clusters": [cluster],
            },
        }
        return ["-c", place.write("envoy.json", config), "--concurrency", "1", "--disable-hot-restart", "-l", "critical"]


class Traefik(Peer):
    key, name, binary = "traefik", "Traefik", "traefik"
    kinds = {
        "plain": "file provider, one router",
        "gauntlet": "**no JWT**; `rateLimit` by address, `headers`, Prometheus metrics, JSON access log (buffered)",
        "unauthorized": "`basicAuth` finds no credentials",
        "limited": "`rateLimit`",
        "routes": "one router each",
    }
    token = None

    def version(self):
        return number(text_of(self.path(), "version"))

    def command(self, want, place):
        middlewares = {}
        if want.kind == "gauntlet":
            middlewares = {
                "limit": {"rateLimit": {"average": 1_000_000_000, "burst": 1_000_000_000, "period": "1s"}},
                "fields": {
                    "headers": {
                        "customRequestHeaders": {"X-Gate": "portcullis", "X-Debug": ""},
                        "customResponseHeaders": {"X-Frame-Options": "DENY"},
                    }
                },
            }
        elif want.kind == "unauthorized":
            middlewares = {"who": {"basicAuth": {"users": ["bench:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="]}}}
        elif want.kind == "limited":
            middlewares = {"limit": {"rateLimit": {"average": 1, "burst": 1, "period": "24h"}}}
        router = {"service": "backend", "entryPoints": ["edge"]}
        if middlewares:
            router["middlewares"] = list(middlewares)
        if want.tls:
            router["tls"] = {}
        if want.routes:
            routers = {f"r{n}": router | {"rule": f"PathPrefix(`/r{n}/`)"} for n in range(want.routes)}
        else:
            routers = {"all": router | {"rule": "PathPrefix(`/`)"}}
        http = {
            "routers": routers,
            "services": {
                "backend": {"loadBalancer": {"servers": [{"url": f"http://{place.backend}"}], "serversTransport": "pool"}}
            },
            "serversTransports": {"pool": {"maxIdleConnsPerHost": 256}},
        }
        if middlewares:
            http["middlewares"] = middlewares
        dynamic = {"http": http}
        if want.tls:
            pair = {"certFile": str(place.fixtures.certificate), "keyFile": str(place.fixtures.key)}
            dynamic["tls"] = {"stores": {"default": {"defaultCertificate": pair}}}
        # JSON is YAML.
        command = [
            f"--entryPoints.edge.address=127.0.0.1:{place.port}",
            f"--providers.file.filename={place.write('dynamic.yaml', dynamic)}",
            "--providers.file.watch=false",
            "--global.checkNewVersion=false",
            "--global.sendAnonymousUsage=false",
            "--log.level=ERROR",
        ]
        if want.kind == "gauntlet":
            command += [
                f"--accessLog.filePath={place.log}",
                "--accessLog.format=json",
                "--accessLog.bufferingSize=1000",
                f"--entryPoints.metrics.address=127.0.0.1:{place.admin}",
                "--metrics.prometheus.entryPoint=metrics",
            ]
        return command


class Caddy(Peer):
    key, name, binary = "caddy", "Caddy", "caddy"
    kinds = {"plain": "`reverse_proxy`", "unauthorized": "`respond` 401"}

    def version(self):
        return number(text_of(self.path(), "version"))

    def command(self, want, place):
        handler = {
            "handler": "reverse_proxy",
            "upstreams": [{"dial": place.backend}],
            "transport": {"protocol": "http", "keep_alive": {"max_idle_conns_per_host": 256}},
        }
        if want.kind == "unauthorized":
            handler = {"handler": "static_response", "status_code": 401}
        server = {
            "listen": [f"127.0.0.1:{place.port}"],
            "protocols": ["h1", "h2"],
            "automatic_https": {"disable": True},
            "routes": [{"handle": [handler]}],
        }
        apps = {"http": {"servers": {"edge": server}}}
        if want.tls:
            server["tls_connection_policies"] = [{}]
            pair = {"certificate": str(place.fixtures.certificate), "key": str(place.fixtures.key)}
            apps["tls"] = {"certificates": {"load_files": [pair]}}
        silent = {"logs": {"default": {"level": "ERROR"}}}
        config = {"admin": {"disabled": True, "config": {"persist": False}}, "logging": silent, "apps": apps}
        return ["run", "--config", place.write("caddy.json", config)]
