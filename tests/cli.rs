//! The commands that end by themselves.

use crate::harness::*;

#[test]
fn help_teaches() {
    let files = Files::new();
    for flag in ["--help", "-h", "help"] {
        let ran = portcullis(files.dir(), &[flag]);
        assert_eq!(ran.code, 0);
        for command in ["run", "check", "routes", "policies", "schema", "demo", "upgrade", "completions"] {
            assert!(ran.stdout.lines().any(|line| line.trim_start().starts_with(command)), "{command} in {}", ran.stdout);
        }
    }
    let long = portcullis(files.dir(), &["--help"]).stdout;
    assert!(long.contains("portcullis demo"), "where to begin: {long}");
    for command in ["run", "check", "routes", "policies", "schema", "demo", "upgrade", "completions"] {
        let ran = portcullis(files.dir(), &[command, "--help"]);
        assert_eq!(ran.code, 0, "{command}");
        assert!(ran.stdout.contains("Usage: portcullis"), "{command}");
    }
    let run = portcullis(files.dir(), &["run", "--help"]).stdout;
    for signal in ["HUP", "QUIT", "TERM", "INT"] {
        assert!(run.contains(signal), "{signal} in {run}");
    }
    let version = portcullis(files.dir(), &["--version"]);
    assert_eq!(version.stdout, format!("portcullis {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn mistakes_are_answered_with_2_and_a_hint() {
    let files = Files::new();
    for args in [&[][..], &["chek"], &["run"], &["check"], &["completions", "dos"], &["upgrade"], &["routes"]] {
        let ran = portcullis(files.dir(), args);
        assert_eq!((ran.code, &*ran.stdout), (2, ""), "{args:?}");
        assert!(ran.stderr.contains("Usage") || ran.stderr.contains("try '--help'"), "{args:?}: {}", ran.stderr);
    }
    assert!(portcullis(files.dir(), &["chek"]).stderr.contains("'check'"));
}

#[test]
fn completions_for_every_shell() {
    let files = Files::new();
    for (shell, sign) in [("bash", "complete -F"), ("zsh", "#compdef portcullis"), ("fish", "complete -c portcullis")] {
        let ran = portcullis(files.dir(), &["completions", shell]);
        assert_eq!(ran.code, 0, "{shell}");
        assert!(ran.stdout.contains(sign) && ran.stdout.contains("upgrade"), "{shell}");
    }
    // bash, which every machine has, must take it.
    let script = files.write("completions.bash", portcullis(files.dir(), &["completions", "bash"]).stdout);
    let status = std::process::Command::new("bash").arg("-n").arg(script).status().expect("these tests need bash");
    assert!(status.success());
}

#[test]
fn policies_are_listed_in_the_order_of_execution() {
    let files = Files::new();
    let ran = portcullis(files.dir(), &["policies"]);
    assert_eq!(ran.code, 0);
    let stages: Vec<&str> = ran.stdout.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    let order = ["edge", "validate", "authn", "authz", "admit", "shape"];
    let positions: Vec<usize> = stages.iter().map(|stage| order.iter().position(|known| known == stage).expect(stage)).collect();
    assert!(positions.is_sorted(), "{}", ran.stdout);
    for line in ran.stdout.lines() {
        assert!(line.split_whitespace().count() > 4, "a sentence for each: {line}");
    }
}

#[test]
fn routes_of_a_bad_file_are_its_problems() {
    let files = Files::new();
    files.write("bad.yaml", "listeners: [ { bind: ':8080' } ]\nroutes: [ { path: /a, service: nobody } ]\n");
    for command in ["routes", "check", "run"] {
        for named in [&[command, "-c", "bad.yaml"][..], &[command, "bad.yaml"], &[command, "--config", "bad.yaml"]] {
            let ran = portcullis(files.dir(), named);
            assert_eq!((ran.code, &*ran.stdout), (1, ""), "{named:?}");
            assert!(ran.stderr.contains("bad.yaml:2:32") && ran.stderr.contains("unknown service `nobody`"), "{}", ran.stderr);
        }
        for none in [&[command][..], &[command, "bad.yaml", "-c", "bad.yaml"]] {
            assert_eq!(portcullis(files.dir(), none).code, 2, "{none:?}");
        }
    }
}

#[test]
fn an_upgrade_of_nobody_fails() {
    let files = Files::new();
    let ran = portcullis(files.dir(), &["upgrade", "--pid-file", "none.pid"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("no running gateway"), "{}", ran.stderr);
    // Neither is a process, but to the system they are all of them, and this one's group.
    for odd in ["-1", "0"] {
        files.write("odd.pid", format!("{odd}\n"));
        for args in [&["upgrade", "--pid-file", "odd.pid"][..], &["upgrade", &format!("--pid={odd}")]] {
            let ran = portcullis(files.dir(), args);
            assert_eq!((ran.code, ran.stderr.trim()), (1, "a process id is a positive number"), "{args:?}");
        }
    }
}
