"""Shared caches, each set up to do what its origin says: what the public tests of HTTP caches are run against.

Each begins with the configuration that the tests' own project has for it, and has what its documentation offers beside that for an origin to be
obeyed in: heuristic freshness where it has any (Portcullis runs with `heuristic: {}`), conditional requests to the origin, and answers that are
fresh for seconds only. Nothing is set that breaks a rule to pass a test.
"""

import os
import pathlib
import re
import shutil
import time

from .load import ask
from .machine import EndedAtOnce, Failed, Process, text_of

SBIN = ":/usr/sbin:/sbin"
CORES = f"0-{(os.cpu_count() or 1) - 1}"


class Cache:
    """One of them. `settings` says for the page how it is set up."""

    key = name = binary = package = settings = ""
    # What says its version, and where in that it is.
    version_command, version_pattern = ["-v"], r"(\d+\.\d+\.\d+)"
    patience = 5.0

    def path(self):
        return shutil.which(self.binary, path=os.environ.get("PATH", "") + SBIN)

    def version(self):
        found = re.search(self.version_pattern, text_of(self.path(), *self.version_command))
        return found.group(1) if found else "?"

    def command(self, folder, port, origin):
        """Writes the configuration; the command line, and what its environment needs."""
        raise NotImplementedError

    def start(self, folder, port, origin):
        # Those that give up being root have to be able to write there.
        folder.mkdir()
        folder.chmod(0o777)
        command, environment = self.command(folder, port, origin)
        process = Process([self.path(), *command], CORES, folder, self.key, environment)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if not process.alive():
                raise EndedAtOnce(f"{self.name} ended at once: {process.said()}")
            if answers(port):
                return process
            time.sleep(0.1)
        said = process.said()
        process.stop()
        raise Failed(f"{self.name} did not answer within 60 s: {said}")


def answers(port):
    """Whether the origin's page comes through."""
    try:
        return ask(port, "/", {"Host": "localhost", "Cache-Control": "no-store"}, timeout=2).status == 200
    except OSError:
        return False


def user(name):
    """Whom to run as, for those that refuse to be root."""
    return name if os.geteuid() == 0 else ""


class Portcullis(Cache):
    key, name = "portcullis", "Portcullis"
    version_command = ["--version"]
    given = None  # the binary
    config = pathlib.Path(__file__).parents[2] / "tests/cache_suite/gateway.yaml"

    def path(self):
        return str(self.given)

    def command(self, folder, port, origin):
        text = self.config.read_text().replace("$PORT", str(port)).replace("$ORIGIN", str(origin))
        path = folder / "gateway.yaml"
        path.write_text(text + "admin: { enabled: false }\naccess_log: { output: false }\n")
        return ["run", "-c", str(path)], {}


APACHE = """ServerRoot {folder}
ServerName localhost
{user}
Listen 127.0.0.1:{port}
PidFile {folder}/pid
DefaultRuntimeDir {folder}
ErrorLog {folder}/error.log
Mutex posixsem
{modules}
ThreadsPerChild 64
MaxRequestWorkers 256
ProxyPass "/" "http://127.0.0.1:{origin}/" ttl=3
CacheEnable disk /
CacheRoot {folder}/cache
CacheDefaultExpire 0
CacheIgnoreNoLastMod On
CacheStoreExpired On
CacheHeader On
CacheQuickHandler Off
UseCanonicalName On
"""


class Apache(Cache):
    key, name, binary, package = "apache", "Apache httpd", "apache2", "apache2"
    settings = "`CacheEnable disk /`, `CacheStoreExpired On`, `CacheIgnoreNoLastMod On`, `CacheDefaultExpire 0`, `CacheQuickHandler Off`"
    modules = "mpm_event authz_core cache cache_disk proxy proxy_http"

    def command(self, folder, port, origin):
        (folder / "cache").mkdir()
        (folder / "cache").chmod(0o777)
        modules = "\n".join(f"LoadModule {one}_module /usr/lib/apache2/modules/mod_{one}.so" for one in self.modules.split())
        who = user("www-data")
        config = folder / "apache.conf"
        config.write_text(
            APACHE.format(folder=folder, port=port, origin=origin, modules=modules, user=f"User {who}\nGroup {who}" if who else "")
        )
        return ["-d", str(folder), "-f", str(config), "-DFOREGROUND"], {}


NGINX = """{user}daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 2;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  proxy_temp_path {folder}/proxy;
  proxy_cache_path {folder}/cache levels=1:2 keys_zone=all:8m max_size=1g inactive=1h;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{origin};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_cache all;
      proxy_cache_revalidate on;
    }}
  }}
}}
"""


class Nginx(Cache):
    key, name, binary, package = "nginx", "nginx", "nginx", "nginx-light"
    settings = "`proxy_cache`, `proxy_cache_revalidate on`, `proxy_http_version 1.1`; it has no heuristic freshness"

    def command(self, folder, port, origin):
        config = folder / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, port=port, origin=origin, user="user root;\n" if user("root") else ""))
        return ["-p", str(folder), "-c", str(config)], {}


SQUID = """http_port 127.0.0.1:{port} accel defaultsite=localhost no-vhost
cache_peer 127.0.0.1 parent {origin} 0 no-query no-digest originserver default name=origin login=PASSTHRU
cache_peer_access origin allow all
never_direct allow all
http_access allow all
refresh_pattern . 0 20% 4320
minimum_expiry_time 0 seconds
connect_retries 3
shutdown_lifetime 1 second
pinger_enable off
pid_filename {folder}/pid
access_log none
cache_log {folder}/cache.log
coredump_dir {folder}
visible_hostname squid
{user}
"""


class Squid(Cache):
    key, name, binary, package = "squid", "Squid", "squid", "squid"
    settings = "`accel`, `login=PASSTHRU`, in memory, `refresh_pattern . 0 20% 4320` (its default), `minimum_expiry_time 0 seconds`"
    version_command, version_pattern = ["-v"], r"Version (\S+)"

    def command(self, folder, port, origin):
        who = user("proxy")
        config = folder / "squid.conf"
        config.write_text(SQUID.format(folder=folder, port=port, origin=origin, user=f"cache_effective_user {who}" if who else ""))
        # A service of its own name: the parts of Squid find one another by that.
        return ["-N", "-f", str(config), "-n", f"suite{port}"], {}


RECORDS = {
    "proxy.config.http.server_ports": "STRING {port}:ip-in=127.0.0.1",
    "proxy.config.http.cache.http": "INT 1",
    # Answers with a lifetime or a Last-Modified, which is what heuristic freshness takes.
    "proxy.config.http.cache.required_headers": "INT 1",
    "proxy.config.url_remap.remap_required": "INT 1",
    "proxy.config.reverse_proxy.enabled": "INT 1",
    "proxy.config.http.connect_attempts_max_retries": "INT 3",
    "proxy.config.cache.ram_cache.size": "INT 64M",
    "proxy.config.log.logging_enabled": "INT 0",
    "proxy.config.admin.user_id": "STRING {user}",
    "proxy.config.exec_thread.autoconfig": "INT 0",
    "proxy.config.exec_thread.limit": "INT 2",
}


class TrafficServer(Cache):
    key, name, binary, package = "trafficserver", "Apache Traffic Server", "traffic_server", "trafficserver"
    settings = "`reverse_proxy.enabled 1`, `cache.required_headers 1` (heuristic freshness), else its defaults"
    version_command, version_pattern = ["-V"], r"Traffic Server (\S+)"

    def command(self, folder, port, origin):
        # Debian's has the system's folders compiled in; a run root names others.
        folders = {name: folder / name for name in ("sysconfdir", "datadir", "localstatedir", "runtimedir", "logdir", "cachedir")}
        for one in folders.values():
            one.mkdir()
            one.chmod(0o777)
        program = pathlib.Path(self.path()).parent
        fixed = {"prefix": folder, "exec_prefix": folder, "bindir": program, "sbindir": program, "includedir": folder, "libdir": folder}
        places = fixed | {"libexecdir": folder} | folders
        root = folder / "runroot.yaml"
        root.write_text("".join(f"{name}: {where}\n" for name, where in places.items()))
        values = {"port": port, "user": user("trafficserver") or "#-1"}
        files = {
            "records.config": "".join(f"CONFIG {name} {value.format(**values)}\n" for name, value in RECORDS.items()),
            "remap.config": f"map / http://127.0.0.1:{origin}/\n",
            "storage.config": f"{folders['cachedir']} 64M\n",
            "logging.yaml": "logging: {}\n",
            "ip_allow.yaml": "ip_allow:\n  - apply: in\n    ip_addrs: 127.0.0.1\n    action: allow\n    methods: ALL\n",
        }
        for name, text in files.items():
            (folders["sysconfdir"] / name).write_text(text)
        return [f"--run-root={root}"], {"TS_RUNROOT": str(root)}


class Varnish(Cache):
    key, name, binary, package = "varnish", "Varnish", "varnishd", "varnish"
    settings = "its own VCL, `default_ttl=0`, `default_grace=0`, `default_keep=3600`; it has no heuristic freshness"
    version_command, version_pattern = ["-V"], r"varnish-(\S+)"

    def command(self, folder, port, origin):
        # Nothing is fresh by default, no stale answer is given that nobody allows, and what is stale is kept to be asked about.
        parameters = [word for one in ("default_ttl=0", "default_grace=0", "default_keep=3600") for word in ("-p", one)]
        where = ["-a", f"127.0.0.1:{port}", "-b", f"127.0.0.1:{origin}", "-n", str(folder / "varnish")]
        return ["-F", "-j", "none", *where, "-s", "malloc,64M", *parameters], {}


ALL = [Portcullis, Apache, Nginx, Squid, TrafficServer, Varnish]
