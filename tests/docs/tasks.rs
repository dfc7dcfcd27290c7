//! The pages for who comes from another gateway: every task is pasted and run, with the services and commands that the page names.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::{page, root};
use crate::harness::{Gateway, Port};
use crate::packaging::blocks;

/// The stand-in services of a page, on ports of their own.
struct Echo(Child, [Port; 2]);

impl Echo {
    fn start() -> Echo {
        let ports = [Port::lease(), Port::lease()];
        let mut process = Command::new("python3")
            .arg(root().join("examples/echo.py"))
            .args(ports.iter().map(|port| port.number().to_string()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3, which Debian has in its package python3");
        let mut said = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.starts_with("answering on"), "{said}");
        Echo(process, ports)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command of a console, and what it prints.
fn commands(console: &str) -> Vec<(&str, &str)> {
    let parts = console.split("$ ").enumerate();
    // A `$` within a command is followed by something else than a space.
    parts.skip(1).map(|(_, part)| part.split_once('\n').unwrap_or((part, ""))).collect()
}

/// Runs every task, and returns how many there were.
fn run(path: &str) -> usize {
    let text = page(path);
    let echo = Echo::start();
    let mut wrong = Vec::new();
    let mut count = 0;
    for task in text.split("\n## ").skip(1) {
        let title = task.lines().next().unwrap();
        let (yaml, console) = (blocks(task, "yaml"), blocks(task, "console"));
        let ([yaml], [console]) = (&yaml[..], &console[..]) else {
            assert_eq!(title, "Words", "{path}: a task is one file and what it answers");
            continue;
        };
        count += 1;
        let [one, two] = &echo.1;
        let services = |text: &str| text.replace("9001", &one.number().to_string()).replace("9002", &two.number().to_string());
        let gateway = Gateway::start(&services(&yaml.replace("127.0.0.1:8080", "127.0.0.1:$PORT")));
        let here = |text: &str| services(&text.replace("127.0.0.1:8080", &format!("127.0.0.1:{}", gateway.port())));
        for (command, told) in commands(console) {
            let output = Command::new("bash").args(["-c", &here(command)]).stdin(Stdio::null()).output().unwrap();
            let printed = String::from_utf8_lossy(&output.stdout).replace('\r', "");
            // Names of fields have no case.
            if !printed.trim_end().eq_ignore_ascii_case(here(told).trim_end()) {
                wrong.push(format!("{path}: {title}: $ {command}\n{told}but printed\n{printed}{}", gateway.stderr()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    count
}

#[test]
fn what_comes_from_nginx_runs() {
    assert!(run("docs/guide/from-nginx.md") >= 10);
}

#[test]
fn what_comes_from_kong_runs() {
    assert!(run("docs/guide/from-kong.md") >= 10);
}

#[test]
fn what_comes_from_traefik_runs() {
    assert!(run("docs/guide/from-traefik.md") >= 10);
}
