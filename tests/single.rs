//! One process for each address and each pid file.

use std::process::{Child, Command, Stdio};

use crate::harness::*;

const SERVES: &str = "
    listeners: [ { bind: '127.0.0.1:$PORT' } ]
    routes: [ { path: /*, service: localhost, port: 1 } ]
";

/// A second process of the same binary, whose configuration is made from the first one's.
fn second(gateway: &Gateway, change: impl Fn(&str) -> String, more: &[&str]) -> Ran {
    let files = Files::new();
    let config = files.write("second.yaml", change(&std::fs::read_to_string(gateway.config_path()).unwrap()));
    portcullis(files.dir(), &[&["run", "--config", config.to_str().unwrap()], more].concat())
}

#[track_caller]
fn assert_refused(ran: &Ran, gateway: &Gateway, said: &str) {
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    assert!(ran.stderr.contains(&format!("process {}", gateway.pid())), "it names who is there: {}", ran.stderr);
    assert_eq!(get(gateway.admin(), "/readyz").status, 200, "the first one goes on");
    assert_eq!(pid_file(gateway), gateway.pid().to_string());
}

fn pid_file(gateway: &Gateway) -> String {
    std::fs::read_to_string(gateway.dir().join("gateway.pid")).unwrap().trim().to_owned()
}

#[test]
fn a_second_process_on_the_same_addresses_is_refused() {
    let gateway = Gateway::start(SERVES);
    let spare = Port::lease();
    let own = gateway.dir().join("gateway.pid").display().to_string();
    let (port, admin) = (gateway.port().to_string(), gateway.admin().to_string());
    let free = spare.number().to_string();
    assert_refused(&second(&gateway, str::to_owned, &[]), &gateway, "is in use by process");
    assert_refused(&second(&gateway, str::to_owned, &["--pid-file", &own]), &gateway, "is in use by process");
    // Every address takes this one's connections, too, and so does the operator's.
    let everywhere = second(&gateway, |yaml| yaml.replace(&format!("127.0.0.1:{port}"), &format!(":{port}")), &[]);
    assert_refused(&everywhere, &gateway, "is in use by process");
    assert_refused(&second(&gateway, |yaml| yaml.replace(&port, &free), &[]), &gateway, &format!("127.0.0.1:{admin}"));
}

#[test]
fn nobodys_pid_file_is_touched() {
    let mut gateway = Gateway::start(SERVES);
    let (one, two) = (Port::lease(), Port::lease());
    let own = gateway.dir().join("gateway.pid");
    let elsewhere = |yaml: &str| {
        let yaml = yaml.replace(&gateway.port().to_string(), &one.number().to_string());
        yaml.replace(&gateway.admin().to_string(), &two.number().to_string())
    };
    let ran = second(&gateway, elsewhere, &["--pid-file", own.to_str().unwrap()]);
    assert_refused(&ran, &gateway, "pid file of process");
    // What has become another's is not removed either.
    let beside = gateway.dir().join("beside");
    std::fs::write(&beside, "another's").unwrap();
    std::fs::rename(&beside, &own).unwrap();
    gateway.signal("TERM");
    assert!(gateway.wait_exit(std::time::Duration::from_secs(20)).success());
    assert_eq!(std::fs::read_to_string(&own).unwrap(), "another's");
}

#[test]
fn a_pid_file_that_was_left_over_is_replaced() {
    let files = Files::new();
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let stale = files.write("stale.pid", format!("{}\n", ended.id()));
    let (one, two) = (Port::lease(), Port::lease());
    let yaml = SERVES.replace("$PORT", &one.number().to_string());
    let config = files.write("run.yaml", format!("{yaml}    admin: {{ bind: '127.0.0.1:{}' }}\n", two.number()));
    let mut started = start(&files, &config, &["--pid-file", stale.to_str().unwrap()]);
    eventually("it is replaced", || std::fs::read_to_string(&stale).is_ok_and(|pid| pid.trim() == started.id().to_string()));
    kill(&mut started);
}

#[test]
fn of_two_that_start_at_once_one_serves() {
    for _ in 0..20 {
        let files = Files::new();
        let (one, two) = (Port::lease(), Port::lease());
        let yaml = SERVES.replace("$PORT", &one.number().to_string());
        let config = files.write("run.yaml", format!("{yaml}    admin: {{ bind: '127.0.0.1:{}' }}\n", two.number()));
        let mut both = [start(&files, &config, &[]), start(&files, &config, &[])];
        let ended = |child: &mut Child| child.try_wait().unwrap().is_some();
        eventually("one of them ends", || both.iter_mut().any(ended));
        eventually("the other one serves", || std::net::TcpStream::connect(("127.0.0.1", one.number())).is_ok());
        // Until then the address may be that of the one which ends, and a connection to it is reset.
        let url = format!("http://127.0.0.1:{}/readyz", two.number());
        let ready = || try_curl(&[&url]).is_ok_and(|answer| answer.status == 200);
        eventually("and is ready", ready);
        assert_eq!(both.iter_mut().filter_map(|child| child.try_wait().unwrap()).count(), 1, "one of them lives");
        both.iter_mut().for_each(kill);
    }
}

#[test]
fn a_reload_does_not_take_an_address_that_somebody_has() {
    let (gateway, other) = (Gateway::start(SERVES), Gateway::start(SERVES));
    let yaml = std::fs::read_to_string(gateway.config_path()).unwrap();
    let bind = |port: u16| format!("{{ bind: '127.0.0.1:{port}' }}");
    let with = |address: String| yaml.replace(&bind(gateway.port()), &format!("{}, {address}", bind(gateway.port())));
    std::fs::write(gateway.config_path(), with(bind(other.port()))).unwrap();
    let (status, said) = gateway.reload();
    assert_eq!(status, 422, "{said}");
    assert!(said.to_string().contains(&format!("in use by process {}", other.pid())), "{said}");
    assert_eq!(get(gateway.port(), "/").status, 502, "it serves as before");
    // Its own it may shadow: one address instead of all, or beside them.
    std::fs::write(gateway.config_path(), yaml.replace(&bind(gateway.port()), &format!("{{ bind: ':{}' }}", gateway.port())))
        .unwrap();
    assert_eq!(gateway.reload().0, 200);
}

fn start(files: &Files, config: &std::path::Path, more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.current_dir(files.dir()).args(["run", "--config"]).arg(config).args(more).env_remove("NOTIFY_SOCKET");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
