//! Peers written in Python, on Debian's own interpreter and packages (`python3-grpcio`, `python3-websockets`), and in JavaScript, on Node.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::harness::installed;

/// Not whichever `python3` comes first in the path: the packages belong to this one.
const PYTHON: &str = "/usr/bin/python3";

fn script(name: &str) -> Command {
    let mut command = Command::new(if name.ends_with(".js") { "node" } else { PYTHON });
    command.arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name));
    command
}

/// A server that runs until this value is dropped. It also ends by itself when this process does, for its standard input closes.
pub struct Peer {
    _running: Conversation,
    port: u16,
}

impl Peer {
    #[track_caller]
    pub fn start(name: &str, args: &[&str]) -> Peer {
        let mut running = Conversation::start(name, args);
        let port = running.line().parse().unwrap_or_else(|_| panic!("{name} did not start (are its packages installed?)"));
        Peer { _running: running, port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A script that is spoken to while it runs. It ends with this value.
pub struct Conversation {
    process: Child,
    said: BufReader<ChildStdout>,
}

impl Conversation {
    #[track_caller]
    pub fn start(name: &str, args: &[&str]) -> Conversation {
        let mut process = script(name)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("these tests need {PYTHON} and node: {error}"));
        let said = BufReader::new(process.stdout.take().unwrap());
        Conversation { process, said }
    }

    /// The next line that it says.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    pub fn say(&mut self, line: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{line}").unwrap();
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a client to its end and reads the line of JSON that it prints.
#[track_caller]
pub fn play(name: &str, args: &[&str]) -> serde_json::Value {
    finished(script(name), name, args)
}

#[track_caller]
fn finished(mut command: Command, name: &str, args: &[&str]) -> serde_json::Value {
    let output = command
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("these tests need {PYTHON} and node: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {args:?} failed: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{name} {args:?}: {error}: {output:?}"))
}

/// Runs one of the clients in tests/grpc, which stand on packages of npm's. Installs those first where `make test` did not.
#[track_caller]
pub fn play_npm(name: &str, args: &[&str]) -> serde_json::Value {
    let folder = installed("grpc", &["tests/npm.sh", "tests/grpc"]);
    let mut command = Command::new("node");
    command
        .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/grpc").join(name))
        .env("NODE_PATH", folder.join("node_modules"));
    finished(command, name, args)
}
