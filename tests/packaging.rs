//! What comes with the binary: the unit, the examples, the documentation, the scripts. Whatever they say has to be true.

pub mod reference;

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::harness::{self, Backend, Files, Gateway, Port, get, portcullis_with, request};

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs a tool, and says which package has it if it is not there.
#[track_caller]
fn tool(command: &mut Command, package: &str) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}; it is in Debian's package {package}"));
    (output.status.success(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

/// The unit as it would be installed, in a folder of its own, with the binary under test.
fn unit(files: &Files) -> PathBuf {
    let text = read("systemd/portcullis.service");
    assert_eq!(text.matches("=/usr/local/bin/portcullis ").count(), 2, "ExecStart and the check of ExecReload");
    files.write("portcullis.service", text.replace("=/usr/local/bin/portcullis ", &format!("={BINARY} ")))
}

#[test]
fn systemd_accepts_the_unit() {
    let files = Files::new();
    let (accepted, said) = tool(Command::new("systemd-analyze").arg("verify").arg(unit(&files)), "systemd");
    assert!(accepted && said.is_empty(), "{said}");
}

#[test]
fn the_unit_exposes_little() {
    let files = Files::new();
    let mut command = Command::new("systemd-analyze");
    // In tenths: at most 2.0 of 10.
    command.args(["security", "--offline=true", "--threshold=20"]).arg(unit(&files));
    let (little, said) = tool(&mut command, "systemd");
    assert!(little, "{said}");
}

#[test]
fn the_grace_period_fits_into_the_unit() {
    let unit = read("systemd/portcullis.service");
    let limit = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    let schema = portcullis::config::schema::schema();
    let grace = schema["$defs"]["ServerConfig"]["properties"]["grace"]["default"].as_str().unwrap();
    assert!(limit.parse::<u64>().unwrap() > grace.trim_end_matches('s').parse::<u64>().unwrap(), "{limit} {grace}");
}

/// Everything that the examples refer to.
pub fn surroundings() -> Files {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["shop.example.com"]);
    for folder in ["certs", "secrets"] {
        std::fs::create_dir(files.dir().join(folder)).unwrap();
    }
    for name in ["edge", "shop", "admin"] {
        std::fs::copy(&cert, files.dir().join(format!("certs/{name}.pem"))).unwrap();
        std::fs::copy(&key, files.dir().join(format!("certs/{name}.key"))).unwrap();
    }
    let issuer = rcgen::KeyPair::generate().unwrap();
    files.write("secrets/partner-jwt.pem", issuer.public_key_pem());
    files
}

#[track_caller]
pub fn assert_passes(files: &Files, name: &str, yaml: &str) {
    files.write("example.yaml", yaml);
    let value = "0123456789abcdef0123456789abcdef";
    let secrets = [("SHOP_JWT_SECRET", value), ("ADMIN_TOKEN", value), ("INTROSPECTION_SECRET", "s3cret")];
    let ran = portcullis_with(files.dir(), &["check", "example.yaml"], &secrets);
    assert!(ran.code == 0 && ran.stdout.contains("ok ("), "{name}: {}{}", ran.stdout, ran.stderr);
}

#[test]
fn every_example_passes_the_check() {
    let files = surroundings();
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("conf")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            assert_passes(&files, &path.display().to_string(), &std::fs::read_to_string(&path).unwrap());
            count += 1;
        }
    }
    assert!(count >= 3, "{count} examples");
}

/// The fenced blocks of a language in a page.
pub fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(&*fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_readme_shows_the_examples_as_they_are() {
    let readme = read("README.md");
    let shown = blocks(&readme, "yaml");
    for example in ["conf/smallest.yaml", "conf/shop.yaml"] {
        let text = read(example);
        // Without the comment at the top, which the page says in its own words.
        let body = text.split_inclusive('\n').skip_while(|line| line.starts_with('#')).collect::<String>();
        assert!(shown.contains(&&*body), "{example} has changed, and README.md has not");
    }
    let files = surroundings();
    for block in shown.into_iter().filter(|block| block.starts_with("listeners:")) {
        assert_passes(&files, "README.md", block);
    }
}

#[test]
fn the_reference_is_the_schema() {
    let schema = portcullis::config::schema::schema();
    let tables = reference::tables(&schema);
    for key in reference::keys(&schema) {
        assert!(tables.contains(&format!("`{key}`")) || tables.contains(&format!("{key}:")), "`{key}` is in no table");
    }
    let page = read("docs/reference.md");
    let (head, generated) = page.split_once(reference::MARK).expect("the mark in docs/reference.md");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(root().join("docs/reference.md"), format!("{head}{}{tables}", reference::MARK)).unwrap();
        return;
    }
    assert!(generated == tables, "docs/reference.md is not what the schema says; write it anew with `make reference`");
}

/// What the log line and the metrics hold is documented, name by name.
#[test]
fn every_log_field_and_metric_is_documented() {
    let backend = Backend::http();
    let gateway = Gateway::start(&format!(
        "
        listeners: [ {{ bind: 127.0.0.1:$PORT }} ]
        access_log: {{ output: {{ file: access.log }}, query: true }}
        services: {{ s: {{ endpoints: [ 127.0.0.1:{} ] }} }}
        consumers:
          - {{ name: acme, api_keys: [ {{ hash: 'sha256:{}' }} ] }}
        routes:
          - {{ path: /open, service: s, policies: {{ cache: {{ ttl: 30s }} }} }}
          - {{ path: /closed, service: s, policies: {{ authn: {{ api_key: {{}} }} }} }}
        ",
        backend.port(),
        // The SHA-256 of `key`.
        "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683",
    ));
    get(gateway.port(), "/open?a=b");
    get(gateway.port(), "/closed");
    request(gateway.port(), "GET", "/closed", &[("X-API-Key", "key"), ("User-Agent", "test")], b"");
    let lines = gateway.wait_lines(3);
    let (log_page, metrics_page) = (read("docs/operate/access-log.md"), read("docs/operate/metrics.md"));
    let mut fields: Vec<&String> = lines.iter().flat_map(|line| line.as_object().unwrap().keys()).collect();
    fields.sort();
    fields.dedup();
    assert!(fields.len() > 20, "{fields:?}");
    for field in fields {
        assert!(log_page.contains(&format!("`{field}`")), "the log's field `{field}` is not in docs/operate/access-log.md");
    }
    let (_, metrics) = gateway.admin_get("/metrics");
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(metrics_page.contains(&format!("`{name}`")), "the {kind} `{name}` is not in docs/operate/metrics.md");
    }
}

/// A process with nothing left behind, its successor included.
struct Service {
    process: Child,
    pid_file: PathBuf,
}

impl Service {
    fn pid(&self) -> Option<i32> {
        std::fs::read_to_string(&self.pid_file).ok()?.trim().parse().ok()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(successor) = self.pid().and_then(Pid::from_raw) {
            let _ = kill_process(successor, Signal::KILL);
        }
    }
}

/// Receives until `enough`, and at most for 20 seconds.
fn notes(socket: &UnixDatagram, mut enough: impl FnMut(&[String]) -> bool) -> Vec<String> {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let mut heard = Vec::new();
    while !enough(&heard) {
        assert!(Instant::now() < until, "heard only {heard:?}");
        let mut buffer = [0; 4096];
        if let Ok(count) = socket.recv(&mut buffer) {
            heard.extend(String::from_utf8_lossy(&buffer[..count]).lines().map(str::to_owned));
        }
    }
    heard
}

/// What the unit's `Type=notify` and `NotifyAccess=all` rely on: who says what, and that a hand-over is not the service's end.
#[test]
fn systemd_is_told_the_truth() {
    let files = Files::new();
    let (port, admin) = (Port::lease(), Port::lease());
    files.write(
        "gateway.yaml",
        format!(
            "listeners: [ {{ bind: 127.0.0.1:{} }} ]\nadmin: {{ bind: 127.0.0.1:{} }}\nserver: {{ workers: 1, grace: 1m }}\n",
            port.number(),
            admin.number()
        ),
    );
    let socket = UnixDatagram::bind(files.dir().join("notify")).unwrap();
    let pid_file = files.dir().join("gateway.pid");
    let process = Command::new(BINARY)
        .args(["run", "-c", "gateway.yaml", "--pid-file", "gateway.pid"])
        .current_dir(files.dir())
        .env("NOTIFY_SOCKET", files.dir().join("notify"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(files.dir().join("stderr")).unwrap())
        .spawn()
        .unwrap();
    let mut service = Service { process, pid_file };
    let ready = |heard: &[String]| heard.iter().any(|note| note == "READY=1");
    assert_eq!(notes(&socket, ready), ["READY=1"]);

    let first = service.pid().unwrap();
    kill_process(Pid::from_raw(first).unwrap(), Signal::HUP).unwrap();
    assert_eq!(notes(&socket, ready), ["RELOADING=1", "READY=1"]);

    kill_process(Pid::from_raw(first).unwrap(), Signal::QUIT).unwrap();
    let mut ended = false;
    let heard = notes(&socket, |_| {
        // One more look at the socket after the end.
        let enough = ended;
        ended = service.process.try_wait().unwrap().is_some();
        enough
    });
    let second = service.pid().unwrap();
    assert_ne!(first, second);
    assert!(heard.contains(&format!("MAINPID={second}")) && ready(&heard), "{heard:?}");
    assert!(!heard.contains(&"STOPPING=1".to_owned()), "systemd would end the successor: {heard:?}");

    kill_process(Pid::from_raw(second).unwrap(), Signal::TERM).unwrap();
    assert_eq!(notes(&socket, |heard| !heard.is_empty()), ["STOPPING=1"]);
    // Long before the grace period is over, although it has only just begun to serve.
    harness::eventually("the successor ends", || {
        // A zombie of nobody's is gone for all that matters here.
        test_kill_process(Pid::from_raw(second).unwrap()).is_err() || service.pid().is_none()
    });
}

#[test]
fn make_install_puts_everything_where_systemd_looks() {
    let files = Files::new();
    let folder = files.dir().join("image");
    let install = || {
        let mut command = Command::new("make");
        command.arg("install").arg(format!("DESTDIR={}", folder.display())).arg(format!("BINARY={BINARY}"));
        command.current_dir(root()).env_remove("MAKEFLAGS").arg("PREFIX=/opt/edge");
        let (installed, said) = tool(&mut command, "make");
        assert!(installed, "{said}");
    };
    install();
    let unit = std::fs::read_to_string(folder.join("opt/edge/lib/systemd/system/portcullis.service")).unwrap();
    assert!(unit.contains("\nExecStart=/opt/edge/bin/portcullis run "), "{unit}");
    assert!(!unit.contains("/usr/local/bin"), "{unit}");
    assert!(folder.join("opt/edge/lib/sysusers.d/portcullis.conf").exists());
    let version = Command::new(folder.join("opt/edge/bin/portcullis")).arg("--version").output().unwrap();
    assert!(version.status.success());
    // A configuration that is there stays as it is.
    let config = folder.join("etc/portcullis/portcullis.yaml");
    std::fs::write(&config, "# mine\n").unwrap();
    install();
    assert_eq!(std::fs::read_to_string(config).unwrap(), "# mine\n");
}

/// Someone who is not root is told what to install, and nothing is touched.
#[test]
fn without_root_the_missing_packages_are_named() {
    let files = Files::new();
    let path = files.dir().join("bin");
    std::fs::create_dir(&path).unwrap();
    let script = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let place = files.write(name, text);
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(place, path.join(name)).unwrap();
    };
    script("id", "#!/bin/sh\necho 1000\n");
    script("apt-get", &format!("#!/bin/sh\ntouch {}\n", files.dir().join("touched").display()));
    let mut command = Command::new("/bin/bash");
    command.arg(root().join("scripts/need.sh")).args(["build", "test"]).env("PATH", &path);
    let (there, said) = tool(&mut command, "bash");
    assert!(!there, "{said}");
    for package in ["build-essential", "cmake", "wrk", "curl"] {
        assert!(said.contains(&format!(" {package}")), "{package}: {said}");
    }
    assert!(said.contains("as root: apt-get"), "{said}");
    assert!(!files.dir().join("touched").exists());
}

/// The load tests load this machine only.
#[test]
fn the_load_test_refuses_other_targets() {
    let mut command = Command::new("wrk");
    // An address for documentation: nobody's.
    command.args(["-t1", "-c1", "-d1s", "-s", "loadtest/wrk.lua", "http://192.0.2.1:9/"]).current_dir(root());
    let (ran, said) = tool(&mut command, "wrk");
    assert!(!ran && said.contains("not a loopback address"), "{said}");
}

#[test]
fn the_load_test_counts_what_comes_back() {
    let backend = Backend::http();
    let gateway = Gateway::start(&format!(
        "
        listeners: [ {{ bind: 127.0.0.1:$PORT }} ]
        services: {{ s: {{ endpoints: [ 127.0.0.1:{} ] }} }}
        routes: [ {{ path: /a, service: s }} ]
        ",
        backend.port()
    ));
    let mut command = Command::new("wrk");
    command.args(["-t1", "-c2", "-d1s", "-s", "loadtest/wrk.lua", &gateway.url("/")]).current_dir(root());
    let (ran, said) = tool(command.env("PATHS", "/a /b"), "wrk");
    assert!(ran && said.contains("answers by status:"), "{said}");
    assert!(said.lines().any(|line| line.starts_with("  200 ")) && said.lines().any(|line| line.starts_with("  404 ")), "{said}");
}

#[test]
fn idle_websockets_can_be_measured() {
    let mut command = Command::new("python3");
    command.args(["loadtest/websockets.py", BINARY, "--count", "300"]).current_dir(root());
    let (_, said) = tool(&mut command, "python3");
    // What they hold in a debug build is for another test.
    let figures: Vec<_> = said.lines().filter(|line| line.contains(" KiB (")).collect();
    assert!(figures.len() == 2 && figures.iter().all(|line| line.contains("one gateway") && line.ends_with(" 0 lost")), "{said}");
}

/// What docs/operate/security.md says of one address, with nothing configured.
#[test]
fn one_address_is_bounded_by_default() {
    let mut command = Command::new("python3");
    command.args(["loadtest/attack.py", BINARY, "--short"]).current_dir(root());
    let (held, said) = tool(&mut command, "python3");
    assert!(held, "{said}");
    for what in
        ["bodies that are checked", "bodies of strangers", "slow clients", "streams that trickle", "requests without answer"]
    {
        assert!(said.lines().any(|line| line.starts_with(&format!("bounded    {what}: "))), "{said}");
    }
}
