//! The real redis-server: alone, or several that form a Cluster.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::files::Files;
use super::port::Port;

/// How long a server may take to start, and a Cluster to agree.
const PATIENCE: Duration = Duration::from_secs(30);

/// A Redis that keeps nothing on disk. It ends with this value, a paused one included.
pub struct Redis {
    process: Child,
    port: Port,
    files: Files,
    args: Vec<String>,
}

impl Redis {
    #[track_caller]
    pub fn start() -> Redis {
        Redis::start_with(&Files::new(), &[])
    }

    /// With these arguments besides: `--requirepass x`. `$PORT` becomes the port; it is the plain one unless they say otherwise.
    #[track_caller]
    pub fn start_with(files: &Files, args: &[&str]) -> Redis {
        Redis::start_on(Port::lease(), files, args)
    }

    /// On a port that somebody knows already.
    #[track_caller]
    pub fn start_on(port: Port, files: &Files, args: &[&str]) -> Redis {
        let args: Vec<String> = args.iter().map(|arg| arg.replace("$PORT", &port.number().to_string())).collect();
        let redis = Redis { process: launch(&port, files, &args), port, files: files.clone(), args };
        redis.wait();
        redis
    }

    #[track_caller]
    fn wait(&self) {
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port())).is_err() {
            assert!(Instant::now() < until, "redis-server did not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.files.dir().join(format!("redis-{}.log", self.port()))).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// It stops where it is: connections stay open and nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again, on the same port and with nothing in it.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.process = launch(&self.port, &self.files, &self.args);
        self.wait();
    }

    /// What `redis-cli` says to these words.
    #[track_caller]
    pub fn cli(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port().to_string()]).args(words).output();
        let output = output.unwrap_or_else(|error| panic!("these tests need redis-cli: {error}"));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

fn launch(port: &Port, files: &Files, args: &[String]) -> Child {
    let (number, folder) = (port.number().to_string(), files.dir());
    let plain = if args.iter().any(|arg| arg == "--port") { vec![] } else { vec!["--port", &number] };
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"])
        .args(plain)
        .arg("--dir")
        .arg(folder)
        .arg("--logfile")
        .arg(folder.join(format!("redis-{number}.log")))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("these tests need redis-server: {error}"))
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three nodes with a third of the slots each, and a replica of the first.
pub struct Cluster {
    pub nodes: Vec<Redis>,
    pub replica: Redis,
    _buses: Vec<Port>,
}

impl Cluster {
    #[track_caller]
    pub fn start() -> Cluster {
        let files = Files::new();
        let buses: Vec<Port> = (0..4).map(|_| Port::lease()).collect();
        let start = |bus: &Port| {
            let number = bus.number().to_string();
            let conf = format!("nodes-{number}.conf");
            let args = ["--cluster-enabled", "yes", "--cluster-port", &number, "--cluster-config-file", &conf];
            Redis::start_with(&files, &[&args[..], &["--cluster-node-timeout", "1000"]].concat())
        };
        let mut all: Vec<Redis> = buses.iter().map(start).collect();
        for (node, slots) in all.iter().zip([["0", "5460"], ["5461", "10922"], ["10923", "16383"]]) {
            assert_eq!(node.cli(&["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]]), "OK");
        }
        for (node, bus) in all.iter().zip(&buses).skip(1) {
            let meet = ["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), &bus.number().to_string()];
            assert_eq!(all[0].cli(&meet), "OK");
        }
        let replica = all.pop().unwrap();
        let first = all[0].cli(&["CLUSTER", "MYID"]);
        within("the replica knows its master", || replica.cli(&["CLUSTER", "REPLICATE", &first]) == "OK");
        let agreed = |node: &Redis| node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
        within("all nodes agree", || all.iter().chain([&replica]).all(agreed));
        within("the replica follows", || replica.cli(&["INFO", "replication"]).contains("master_link_status:up"));
        within("everybody knows of the replica", || {
            all.iter().all(|node| node.cli(&["CLUSTER", "NODES"]).lines().any(|line| line.contains("slave")))
        });
        Cluster { nodes: all, replica, _buses: buses }
    }

    /// For `nodes:`.
    pub fn addresses(&self) -> String {
        self.nodes.iter().map(|node| format!("'127.0.0.1:{}'", node.port())).collect::<Vec<_>>().join(", ")
    }
}

#[track_caller]
fn within(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
