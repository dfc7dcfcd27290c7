//! What every test needs: the gateway itself, backends behind it and clients in front of it.
//!
//! Everything runs on loopback and ends with the value that stands for it, a panicking test included. Nothing waits for a fixed
//! time: [`eventually`] polls. A tool that is missing (curl, nginx) fails the test that wants it.

#![allow(dead_code, unused_imports, reason = "a toolbox: what one module does not use, the next one does")]

mod backend;
mod browser;
mod client;
mod clock;
mod curl;
mod dice;
mod dns;
mod files;
pub mod frames;
mod gateway;
mod h2_backend;
mod installed;
mod nginx;
mod port;
mod postgres;
mod redis;
mod slow_file;

use std::time::{Duration, Instant};

pub use backend::{Backend, RecordedRequest};
pub use browser::in_browser;
pub use client::{Answer, Client, find, get, passes, raw, request};
pub use clock::Clock;
pub use curl::{curl, try_curl};
pub use dice::Dice;
pub use dns::Dns;
pub use files::Files;
pub use gateway::{Gateway, Ran, portcullis, portcullis_with, served, served_with};
pub use h2_backend::H2Backend;
pub use installed::installed;
pub use nginx::Nginx;
pub use port::Port;
pub use postgres::{Postgres, psql, psql_version};
pub use redis::{Cluster, Redis};
pub use slow_file::SlowFile;

/// Polls until the condition holds, for at most 10 seconds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < until, "not within 10 seconds: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// In hexadecimal digits.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes.as_ref());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a configuration has of an API key or a password that stands in it.
pub fn key_hash(key: &str) -> String {
    format!("sha256:{}", sha256(key))
}

/// `yaml` with each of these names replaced by its port: `filled(yaml, &[("$BACKEND", backend.port())])`.
pub fn filled(yaml: &str, ports: &[(&str, u16)]) -> String {
    let mut yaml = yaml.to_owned();
    for (name, port) in ports {
        assert!(yaml.contains(name), "{name} is not used");
        yaml = yaml.replace(name, &port.to_string());
    }
    yaml
}

/// `text` without the indentation that all its lines share, so that YAML can be written in place.
fn dedented(text: &str) -> String {
    let indents = text.lines().filter(|line| !line.trim().is_empty()).map(|line| line.len() - line.trim_start().len());
    let common = indents.min().unwrap_or(0);
    text.lines().map(|line| line.get(common..).unwrap_or("").to_owned() + "\n").collect()
}
