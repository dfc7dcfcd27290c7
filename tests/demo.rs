//! `portcullis demo`: what it prints holds, it shows every policy, and it leaves nothing behind.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_yaml::Value;

use crate::harness::{Files, eventually, get, portcullis, portcullis_with};

/// A demo that runs until it is told to end. Its temporary folder is in a folder of its own.
struct Demo {
    process: Child,
    files: Files,
}

impl Demo {
    fn start() -> Demo {
        let files = Files::new();
        std::fs::create_dir(files.dir().join("tmp")).unwrap();
        let output = |name: &str| Stdio::from(File::create(files.dir().join(name)).unwrap());
        let process = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .arg("demo")
            .env("TMPDIR", files.dir().join("tmp"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .spawn()
            .unwrap();
        Demo { process, files }
    }

    fn page(&self) -> String {
        std::fs::read_to_string(self.files.dir().join("stdout")).unwrap()
    }

    /// The page, once it is complete.
    fn whole_page(&mut self) -> String {
        let until = Instant::now() + Duration::from_secs(30);
        while !self.page().contains("tail -n 1 ") {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", std::fs::read_to_string(self.files.dir().join("stderr")).unwrap());
            assert!(Instant::now() < until, "no page within 30 seconds");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.page()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Waits for its end, which must be a clean one.
    #[track_caller]
    fn ends_well(&mut self) {
        let mut status = None;
        eventually("the demo ends", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        let said = std::fs::read_to_string(self.files.dir().join("stderr")).unwrap();
        // Of the one service that is down on purpose, the log may have said so.
        let said: Vec<_> =
            said.lines().filter(|line| !line.contains("service `reports-service`: 0 of 1 endpoints left")).collect();
        assert_eq!((status.and_then(|status| status.code()), said), (Some(0), Vec::new()));
        assert_eq!(self.leftovers(), [] as [PathBuf; 0]);
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.files.dir().join("tmp")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The rest of the line that begins with `label`.
fn place<'a>(page: &'a str, label: &str) -> &'a str {
    let line = page.lines().map(str::trim).find_map(|line| line.strip_prefix(label));
    line.unwrap_or_else(|| panic!("no `{label}` in:\n{page}")).trim()
}

fn port(page: &str) -> u16 {
    let url = place(page, "gateway").split_whitespace().next().unwrap();
    url.rsplit(':').next().unwrap().parse().unwrap()
}

/// The keys of every `policies` table, wherever it stands.
fn policies(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Mapping(entries) => {
            for (key, value) in entries {
                if let (Some("policies"), Value::Mapping(table)) = (key.as_str(), value) {
                    let on = table.iter().filter(|(_, value)| **value != Value::Bool(false));
                    found.extend(on.map(|(name, _)| name.as_str().unwrap().to_owned()));
                }
                policies(value, found);
            }
        }
        Value::Sequence(items) => items.iter().for_each(|item| policies(item, found)),
        _ => {}
    }
}

#[test]
fn every_line_of_the_demo_gives_what_it_says() {
    let files = Files::new();
    let ran = portcullis_with(files.dir(), &["demo", "--verify"], &[("TMPDIR", files.dir().to_str().unwrap())]);
    assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("lines gave what they say"), "{}", ran.stdout);
    // Once in order and once backwards.
    for status in [200, 400, 401, 403, 404, 405, 413, 414, 415, 429, 431, 502, 503, 504] {
        let count = ran.stdout.lines().filter(|line| line.starts_with("ok") && line.contains(&status.to_string())).count();
        assert!(count >= 2, "no line shows {status}:\n{}", ran.stdout);
    }
    assert_eq!(std::fs::read_dir(files.dir()).unwrap().count(), 0, "something was left behind");
}

#[test]
fn the_configuration_shows_every_policy_and_passes_the_check() {
    let mut demo = Demo::start();
    let page = demo.whole_page();
    let config = Path::new(place(&page, "configuration"));
    let text = std::fs::read_to_string(config).unwrap();
    let mut shown = BTreeSet::new();
    policies(&serde_yaml::from_str(&text).unwrap(), &mut shown);
    let listed = portcullis(demo.files.dir(), &["policies"]).stdout;
    let all: BTreeSet<String> = listed.lines().map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect();
    assert!(!all.is_empty());
    assert_eq!(shown, all);
    let check = portcullis(demo.files.dir(), &["check", config.to_str().unwrap()]);
    assert_eq!((check.code, check.stderr.as_str()), (0, ""));
    let key = page.split("X-API-Key: ").nth(1).unwrap().split_whitespace().next().unwrap().trim_matches('\'');
    assert!(key.starts_with("demo_") && key.len() > 20 && !text.contains(key), "the configuration holds only the key's hash");
    let folder = std::fs::metadata(config.parent().unwrap()).unwrap();
    assert_eq!(folder.permissions().mode() & 0o077, 0, "the folder holds credentials");
}

#[test]
fn two_demos_run_side_by_side_and_leave_nothing_behind() {
    let (mut one, mut two) = (Demo::start(), Demo::start());
    let (first, second) = (one.whole_page(), two.whole_page());
    assert_ne!(port(&first), port(&second));
    assert_ne!(place(&first, "configuration"), place(&second, "configuration"));
    for page in [&first, &second] {
        let answer = get(port(page), "/products/42");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["headers"]["x-sku"], "42");
    }
    assert_eq!((one.leftovers().len(), two.leftovers().len()), (1, 1));
    one.signal(Signal::INT);
    one.ends_well();
    assert_eq!(get(port(&second), "/products/42").status, 200);
    two.signal(Signal::TERM);
    two.ends_well();
}

#[test]
fn a_port_that_is_taken_is_left_alone() {
    // This test takes them, after any demo of another test has given them back; what another program keeps is taken as well.
    let take = |port: u16| {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match TcpListener::bind(("127.0.0.1", port)) {
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
                taken => break taken,
            }
        }
    };
    let _taken = [8080, 8443, 8081, 9901].map(take);
    let mut demo = Demo::start();
    let page = demo.whole_page();
    assert_ne!(port(&page), 8080);
    assert!(!place(&page, "admin").ends_with(":9901"));
    assert_eq!(get(port(&page), "/products/42").status, 200);
}

#[test]
fn a_demo_that_is_ended_while_it_starts_leaves_nothing_behind() {
    for wait in [0, 30, 60, 120] {
        let mut demo = Demo::start();
        eventually("the demo has its folder", || !demo.leftovers().is_empty());
        std::thread::sleep(Duration::from_millis(wait));
        demo.signal(Signal::TERM);
        demo.ends_well();
    }
}

#[test]
fn quit_ends_a_demo_instead_of_starting_another() {
    let mut demo = Demo::start();
    demo.whole_page();
    demo.signal(Signal::QUIT);
    demo.ends_well();
}
