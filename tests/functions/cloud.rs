//! A stand-in for AWS, whose own library checks every signature (tests/aws/lambda.py).

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::*;

/// AWS's library for Python, and the interpreter that has it.
pub fn python() -> PathBuf {
    installed("aws", &["tests/aws/install.sh"]).join("venv/bin/python")
}

pub struct Cloud {
    process: Child,
    port: u16,
}

impl Cloud {
    pub fn start() -> Cloud {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws/lambda.py");
        let mut process = Command::new(python()).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Cloud { process, port: line.trim().parse().unwrap() }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// All that it was asked.
    pub fn seen(&self) -> Vec<Seen> {
        let seen = get(self.port, "/seen").json();
        seen.as_array().unwrap().iter().map(Seen::of).collect()
    }

    /// What was asked of those whose path begins so.
    pub fn asked(&self, start: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.target.starts_with(start)).collect()
    }

    /// From now on, and until this is said again, it fails what begins with this segment.
    pub fn fails(&self, segment: &str) {
        assert_eq!(get(self.port, &format!("/control?{segment}")).status, 200);
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A request that came.
#[derive(Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub body: String,
    fields: Vec<(String, String)>,
}

impl Seen {
    fn of(seen: &Value) -> Seen {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let fields = seen["fields"].as_array().unwrap().iter().map(|field| (text(&field[0]), text(&field[1]))).collect();
        Seen { method: text(&seen["method"]), target: text(&seen["target"]), body: text(&seen["body"]), fields }
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| &**value).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }
}
