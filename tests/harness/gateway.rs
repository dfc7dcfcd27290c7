//! The real binary.

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::client::{Client, get};
use super::port::Port;
use super::{Files, dedented};

/// The binary that is tested: the one built along with these tests, or the one that `PORTCULLIS_BINARY` names (a release build, a
/// package's).
fn binary() -> OsString {
    std::env::var_os("PORTCULLIS_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_portcullis").into())
}

/// A machine that is busy with everything else starts a process slowly.
const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway that serves. It ends, with any successor of its, when this value is dropped.
pub struct Gateway {
    process: Child,
    ports: Ports,
    files: Files,
}

struct Ports {
    listeners: [Port; 3],
    admin: Port,
}

impl Ports {
    fn lease() -> Ports {
        Ports { listeners: [Port::lease(), Port::lease(), Port::lease()], admin: Port::lease() }
    }

    fn fill(&self, yaml: &str) -> String {
        let [one, two, three] = self.listeners.each_ref().map(|port| port.number().to_string());
        let admin = self.admin.number().to_string();
        yaml.replace("$PORT2", &two).replace("$PORT3", &three).replace("$PORT", &one).replace("$ADMIN", &admin)
    }
}

/// What serves where a test does not say it: `PORTCULLIS_ENGINE=pingora` takes whole modules to a stock Pingora server.
fn engine() -> String {
    std::env::var("PORTCULLIS_ENGINE").unwrap_or_else(|_| "portcullis".to_owned())
}

/// What the test did not write itself.
fn completed(yaml: &str) -> String {
    let mut yaml = dedented(yaml);
    for (key, section) in [
        ("admin:", "admin: { bind: \"127.0.0.1:$ADMIN\" }\n"),
        ("access_log:", "access_log: { output: { file: access.log } }\n"),
        ("server:", &format!("server: {{ workers: 2, engine: {} }}\n", engine())),
    ] {
        if !yaml.lines().any(|line| line.starts_with(key)) {
            yaml.push_str(section);
        }
    }
    yaml
}

impl Gateway {
    /// Starts the binary with this configuration, which may be indented. `$PORT`, `$PORT2`, `$PORT3` and `$ADMIN` become free
    /// ports. Unless it has its own, it gets an admin listener on `$ADMIN`, an access log in a file and two workers. Waits until it
    /// serves, and panics with what it says if it does not.
    #[track_caller]
    pub fn start(yaml: &str) -> Gateway {
        Gateway::start_in_with(&Files::new(), yaml, &[])
    }

    /// With these environment variables.
    #[track_caller]
    pub fn start_with(yaml: &str, env: &[(&str, &str)]) -> Gateway {
        Gateway::start_in_with(&Files::new(), yaml, env)
    }

    /// In a folder with files that the configuration refers to; relative paths begin there. One gateway for each folder.
    #[track_caller]
    pub fn start_in(files: &Files, yaml: &str) -> Gateway {
        Gateway::start_in_with(files, yaml, &[])
    }

    #[track_caller]
    pub fn start_in_with(files: &Files, yaml: &str, env: &[(&str, &str)]) -> Gateway {
        assert!(!files.dir().join("gateway.yaml").exists(), "one gateway for each folder");
        for _ in 0..5 {
            match Gateway::try_start(files, yaml, env) {
                Ok(gateway) => return gateway,
                Err(said) if said.contains("in use") => {}
                Err(said) => panic!("the gateway did not start:\n{said}"),
            }
        }
        panic!("five times, somebody else took the port");
    }

    fn try_start(files: &Files, yaml: &str, env: &[(&str, &str)]) -> Result<Gateway, String> {
        let ports = Ports::lease();
        let config = files.write("gateway.yaml", ports.fill(&completed(yaml)));
        let process = command(files.dir(), env)
            .arg("run")
            .arg("--config")
            .arg(&config)
            .arg("--pid-file")
            .arg(files.dir().join("gateway.pid"))
            .stdin(Stdio::null())
            .stdout(File::create(files.dir().join("stdout")).unwrap())
            .stderr(File::create(files.dir().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut gateway = Gateway { process, ports, files: files.clone() };
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = gateway.process.try_wait().unwrap() {
                return Err(format!("{status}\n{}", gateway.stderr()));
            }
            if gateway.is_ready() {
                return Ok(gateway);
            }
            if Instant::now() > until {
                return Err(format!("not ready after {PATIENCE:?}\n{}", gateway.stderr()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn is_ready(&self) -> bool {
        // The file is written when everything listens, whatever the configuration says about the admin listener.
        let serves = self.files.dir().join("gateway.pid").exists();
        if !serves || TcpStream::connect(("127.0.0.1", self.admin())).is_err() {
            return serves && self.config().contains("enabled: false");
        }
        get(self.admin(), "/readyz").status == 200
    }

    fn config(&self) -> String {
        std::fs::read_to_string(self.config_path()).unwrap()
    }

    pub fn config_path(&self) -> PathBuf {
        self.files.dir().join("gateway.yaml")
    }

    pub fn port(&self) -> u16 {
        self.ports.listeners[0].number()
    }

    pub fn port2(&self) -> u16 {
        self.ports.listeners[1].number()
    }

    pub fn port3(&self) -> u16 {
        self.ports.listeners[2].number()
    }

    pub fn admin(&self) -> u16 {
        self.ports.admin.number()
    }

    /// `http://127.0.0.1:PORT` and this path, for curl.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port())
    }

    pub fn dir(&self) -> &Path {
        self.files.dir()
    }

    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Resident memory of the process that serves now, in bytes.
    #[track_caller]
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that it ever was, since the kernel was last asked to forget it.
    #[track_caller]
    pub fn most_resident(&self) -> u64 {
        self.memory("VmHWM:")
    }

    #[track_caller]
    fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
    }

    /// Of the process that serves now: after an upgrade, the successor's.
    pub fn pid(&self) -> u32 {
        let text = std::fs::read_to_string(self.files.dir().join("gateway.pid")).unwrap_or_default();
        text.trim().parse().unwrap_or_else(|_| self.process.id())
    }

    /// What the process and its successors have written there so far.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.files.dir().join("stderr")).unwrap_or_default()
    }

    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.files.dir().join("stdout")).unwrap_or_default()
    }

    /// Writes another configuration, with the same ports. Nothing happens until a reload.
    pub fn rewrite(&self, yaml: &str) {
        self.files.write("gateway.yaml", self.ports.fill(&completed(yaml)));
    }

    /// `POST /reload`: the status and the answer.
    #[track_caller]
    pub fn reload(&self) -> (u16, serde_json::Value) {
        let answer = Client::connect(self.admin()).request("POST", "/reload", &[], b"");
        (answer.status, answer.json())
    }

    #[track_caller]
    pub fn admin_get(&self, path: &str) -> (u16, String) {
        let answer = get(self.admin(), path);
        (answer.status, answer.text())
    }

    /// The sum of the samples of this name that have (at least) these labels: `portcullis_requests_total{status="2xx"}`. 0 if there
    /// is none.
    #[track_caller]
    pub fn metric(&self, name_with_labels: &str) -> f64 {
        let (_, text) = self.admin_get("/metrics");
        let (name, wanted) = sample(name_with_labels);
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (known, labels) = sample(series);
            (known == name && wanted.iter().all(|label| labels.contains(label))).then(|| value.parse::<f64>().unwrap())
        });
        samples.sum()
    }

    /// Waits until [`Gateway::metric`] is so: a request is counted after its answer is sent.
    #[track_caller]
    pub fn wait_metric(&self, name_with_labels: &str, value: f64) {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let now = self.metric(name_with_labels);
            if now == value {
                return;
            }
            assert!(Instant::now() < until, "{name_with_labels} is {now} instead of {value}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The access log's lines so far.
    pub fn log(&self) -> Vec<serde_json::Value> {
        let text = self.log_text();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
        lines.collect()
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.files.dir().join("access.log")).unwrap_or_default()
    }

    /// The first line of the access log that is so. Waits for it for 5 seconds.
    #[track_caller]
    pub fn wait_log(&self, what: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(line) = self.log().into_iter().find(|line| what(line)) {
                return line;
            }
            assert!(Instant::now() < until, "no such line in the access log:\n{}", self.log_text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for this many lines in the access log.
    #[track_caller]
    pub fn wait_lines(&self, count: usize) -> Vec<serde_json::Value> {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let lines = self.log();
            if lines.len() >= count {
                return lines;
            }
            assert!(Instant::now() < until, "{} lines instead of {count}:\n{}", lines.len(), self.log_text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends the serving process `HUP`, `QUIT`, `TERM`, `INT` ...
    #[track_caller]
    pub fn signal(&self, name: &str) {
        let signal = match name.trim_start_matches("SIG") {
            "HUP" => Signal::HUP,
            "QUIT" => Signal::QUIT,
            "TERM" => Signal::TERM,
            "INT" => Signal::INT,
            "KILL" => Signal::KILL,
            "STOP" => Signal::STOP,
            "CONT" => Signal::CONT,
            other => panic!("no signal {other}"),
        };
        kill_process(pid(self.pid()), signal).unwrap();
    }

    /// Waits until the process that was started here has ended.
    #[track_caller]
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the gateway still runs after {limit:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts another process with the same configuration, and these arguments.
    pub fn run_beside(&self, args: &[&str]) -> Child {
        let output = |name| File::options().append(true).open(self.files.dir().join(name)).unwrap();
        command(self.files.dir(), &[])
            .arg("run")
            .arg("--config")
            .arg(self.config_path())
            .arg("--pid-file")
            .arg(self.files.dir().join("gateway.pid"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .spawn()
            .unwrap()
    }

    /// Every process that runs this gateway's configuration. The path is unique, so these are ours.
    fn processes(&self) -> Vec<u32> {
        let config = self.config_path().into_os_string().into_encoded_bytes();
        let ours = |id: &u32| {
            let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == config)
        };
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(ours).collect()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log_text();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
            eprintln!("--- the gateway's stderr\n{}--- the end of its access log\n{last}\n---", self.stderr());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        for id in self.processes() {
            let _ = kill_process(pid(id), Signal::KILL);
        }
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
}

/// The name of a series and its labels, `key="value"` each. Values with commas are not split right; the tests have none.
fn sample(series: &str) -> (&str, Vec<&str>) {
    match series.split_once('{') {
        Some((name, labels)) => (name, labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).collect()),
        None => (series, Vec::new()),
    }
}

fn command(folder: &Path, env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary());
    command.current_dir(folder).envs(env.iter().copied());
    for inherited in ["RUST_LOG", "NO_COLOR", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"] {
        command.env_remove(inherited);
    }
    command
}

/// Runs a test against a gateway with this configuration.
#[track_caller]
pub fn served(yaml: &str, test: impl Fn(&Gateway)) {
    served_with(yaml, &[], test);
}

/// With these environment variables.
#[track_caller]
pub fn served_with(yaml: &str, env: &[(&str, &str)], test: impl Fn(&Gateway)) {
    if engine() != "portcullis" {
        return test(&Gateway::start_with(yaml, env));
    }
    let yaml = format!("{}server: {{ workers: 2 }}\n", dedented(yaml));
    test(&Gateway::start_with(&yaml, env));
}

/// What a command of the binary did.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command that ends, in this folder.
#[track_caller]
pub fn portcullis(folder: &Path, args: &[&str]) -> Ran {
    portcullis_with(folder, args, &[])
}

/// With these environment variables.
#[track_caller]
pub fn portcullis_with(folder: &Path, args: &[&str], env: &[(&str, &str)]) -> Ran {
    let output = command(folder, env).args(args).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}
