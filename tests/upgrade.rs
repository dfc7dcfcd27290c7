//! Replacing the process, and ending it.

mod calls;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Client, Gateway, Nginx, Ran, eventually, get, portcullis, request};
use crate::peers::{Act, Origin, Wrk, answer};

fn yaml(port: u16, workers: usize, more: &str) -> String {
    format!(
        "listeners:\n  - bind: 127.0.0.1:$PORT\n  - bind: 127.0.0.1:$PORT2\nroutes:\n  - path: /*\n    service: 127.0.0.1\n    port: \
         {port}\nserver:\n  workers: {workers}\n  grace: 20s\n{more}"
    )
}

/// Runs `portcullis upgrade` and waits for it.
fn upgrade(gateway: &Gateway) -> Ran {
    portcullis(gateway.dir(), &["upgrade", "--pid-file", "gateway.pid", "--timeout", "60"])
}

#[track_caller]
fn upgraded(gateway: &Gateway) {
    let before = gateway.pid();
    let ran = upgrade(gateway);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(gateway.pid() != before && ran.stdout.contains(&gateway.pid().to_string()), "{ran:?}");
}

/// Whether a process still runs. One that has ended and was not waited for does not.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// How many lines of the access log have this path.
fn logged(gateway: &Gateway, path: &str) -> usize {
    gateway.log().iter().filter(|line| line["path"] == path).count()
}

#[track_caller]
fn assert_exits_well(gateway: &mut Gateway) {
    assert_eq!(gateway.wait_exit(Duration::from_secs(25)).code(), Some(0));
}

fn pid_file(gateway: &Gateway) -> std::path::PathBuf {
    gateway.dir().join("gateway.pid")
}

fn accepts(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Takes a while for `/slow`, and says so.
fn slow(took: Duration) -> Origin {
    Origin::start(move |asked| {
        if asked.target == "/slow" {
            std::thread::sleep(took);
        }
        Act::Send(answer(200, &[], "fine"))
    })
}

#[test]
fn under_load_an_upgrade_fails_no_request_and_loses_no_line() {
    let nginx = Nginx::start("location / { return 200 'fine'; }");
    let mut gateway = Gateway::start(&yaml(nginx.port(), 2, ""));
    let old = gateway.pid();
    let mut wrk = Wrk::start(gateway.port(), "/loaded", 12, 8);
    let (stop, counted) = (AtomicBool::new(false), AtomicUsize::new(0));
    let load = std::thread::scope(|scope| {
        // Each on a connection of its own, so that there are always some that are just being made.
        for port in [gateway.port(), gateway.port2()] {
            let (stop, counted) = (&stop, &counted);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(get(port, "/counted").status, 200);
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let finished = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..2 {
                // So that there is traffic before, between and after.
                let before = counted.load(Ordering::SeqCst);
                eventually("requests are served", || counted.load(Ordering::SeqCst) > before + 20);
                upgraded(&gateway);
            }
            assert!(wrk.is_running(), "the load ended before the upgrades");
            wrk.finish()
        }));
        stop.store(true, Ordering::SeqCst);
        finished.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    assert!(load.failures.is_empty(), "{load:?}");
    assert!(load.requests > 200, "{load:?}");
    assert_exits_well(&mut gateway);
    assert!(gateway.pid() != old && !runs(old));
    let counted = counted.into_inner();
    assert!(counted > 20, "{counted}");
    eventually("every line is there", || logged(&gateway, "/counted") == counted);
    eventually("wrk's, too", || logged(&gateway, "/loaded") as u64 >= load.requests);
    let loaded = logged(&gateway, "/loaded") as u64;
    // Those that wrk cut off at its end.
    assert!(loaded <= load.requests + 8, "{loaded} lines, {load:?}");
}

#[test]
fn a_successor_that_cannot_start_changes_nothing() {
    let origin = Origin::named("fine");
    let mut gateway = Gateway::start(&yaml(origin.port(), 2, ""));
    let mut kept = Client::connect(gateway.port());
    assert_eq!(kept.get("/").status, 200);
    let first = gateway.pid();
    gateway.files().write("gateway.yaml", "listeners: nonsense\n");
    let began = Instant::now();
    let ran = upgrade(&gateway);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains(&format!("process {first} still serves")), "{ran:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "the command waits for nothing: {:?}", began.elapsed());
    assert!(gateway.stderr().contains("the upgrade failed, and this process goes on serving"), "{}", gateway.stderr());
    assert!(gateway.pid() == first && runs(first));
    assert_eq!(kept.get("/").status, 200, "even its open connections");
    for _ in 0..10 {
        assert_eq!(get(gateway.port(), "/").status, 200);
    }
    // With the file put right the next attempt succeeds.
    gateway.rewrite(&yaml(origin.port(), 2, ""));
    upgraded(&gateway);
    assert_eq!(get(gateway.port(), "/").status, 200);
    drop(kept);
    assert_exits_well(&mut gateway);
}

#[test]
fn every_socket_is_adopted_whatever_the_number_of_workers() {
    let origin = Origin::named("fine");
    for (before, after) in [(2, 1), (1, 3), (3, 2)] {
        let mut gateway = Gateway::start(&yaml(origin.port(), before, ""));
        gateway.rewrite(&yaml(origin.port(), after, ""));
        upgraded(&gateway);
        assert_exits_well(&mut gateway);
        // The kernel spreads connections over all sockets: one that nobody accepts from would swallow its share.
        for _ in 0..40 {
            assert_eq!(get(gateway.port(), "/").status, 200, "{before} -> {after}");
            assert_eq!(get(gateway.port2(), "/").status, 200, "{before} -> {after}");
        }
    }
}

#[test]
fn a_long_request_finishes_on_the_old_process() {
    let origin = slow(Duration::from_secs(3));
    let mut gateway = Gateway::start(&yaml(origin.port(), 2, ""));
    let (old, mut long) = (gateway.pid(), Client::connect(gateway.port()));
    long.send_request("GET", "/slow", &[], b"");
    eventually("the backend was asked", || origin.count("/slow") == 1);
    upgraded(&gateway);
    assert!(runs(old), "the old process has something to finish");
    assert_eq!(get(gateway.port(), "/").status, 200, "the new one serves meanwhile");
    let last = long.answer_to("GET");
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(long.is_closed());
    assert_exits_well(&mut gateway);
    eventually("its line is there", || logged(&gateway, "/slow") == 1);
    assert!(pid_file(&gateway).exists(), "the old process did not take the new one's pid file with it");
}

#[test]
fn the_admin_api_is_the_successors_at_once() {
    let origin = slow(Duration::from_secs(2));
    let mut gateway = Gateway::start(&yaml(origin.port(), 1, ""));
    assert_eq!(get(gateway.port(), "/").status, 200);
    let (old, mut long) = (gateway.pid(), Client::connect(gateway.port()));
    long.send_request("GET", "/slow", &[], b"");
    eventually("the backend was asked", || origin.count("/slow") == 1);
    upgraded(&gateway);
    eventually("the old gateway has stopped answering", || gateway.stderr().contains("has taken over"));
    assert!(runs(old));
    for _ in 0..20 {
        let ready = get(gateway.admin(), "/readyz");
        assert_eq!(ready.status, 200, "the gateway that drains answers: {}", String::from_utf8_lossy(&ready.body));
        let answer = request(gateway.admin(), "POST", "/reload", &[("Host", "localhost")], b"");
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    }
    assert_eq!(gateway.metric("portcullis_reloads_total{result=\"applied\"}"), 21.0);
    assert_eq!(long.answer_to("GET").status, 200);
    assert_exits_well(&mut gateway);
}

#[test]
fn a_successor_with_other_addresses_closes_the_old_ones() {
    let origin = Origin::named("fine");
    let mut gateway = Gateway::start(&yaml(origin.port(), 2, ""));
    let other = yaml(origin.port(), 2, "").replace("  - bind: 127.0.0.1:$PORT2\n", "");
    gateway.rewrite(&other);
    upgraded(&gateway);
    assert_exits_well(&mut gateway);
    assert_eq!(get(gateway.port(), "/").status, 200);
    assert!(!accepts(gateway.port2()));
}

#[test]
fn term_finishes_what_is_under_way() {
    let origin = slow(Duration::from_secs(2));
    let mut gateway = Gateway::start(&yaml(origin.port(), 2, ""));
    let (mut long, mut idle, mut silent) =
        (Client::connect(gateway.port()), Client::connect(gateway.port()), Client::connect(gateway.port()));
    assert_eq!(idle.get("/").status, 200);
    long.send_request("GET", "/slow", &[], b"");
    eventually("the backend was asked", || origin.count("/slow") == 1);
    gateway.signal("TERM");
    eventually("nobody is let in any more", || !accepts(gateway.port()));
    let began = Instant::now();
    let last = long.answer_to("GET");
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(long.is_closed());
    assert!(idle.is_closed());
    assert!(silent.is_closed());
    assert!(began.elapsed() < Duration::from_secs(15), "idle connections are closed long before the grace is over");
    assert_exits_well(&mut gateway);
    assert!(!pid_file(&gateway).exists());
    assert_eq!(logged(&gateway, "/slow"), 1);
}

#[test]
fn an_idle_connection_gets_one_last_answer() {
    let origin = Origin::named("fine");
    let mut gateway = Gateway::start(&yaml(origin.port(), 1, ""));
    let mut idle = Client::connect(gateway.port());
    assert_eq!(idle.get("/").status, 200);
    gateway.signal("TERM");
    eventually("it drains", || !accepts(gateway.port()));
    // A client that sends just now must not find its connection closed under its request.
    let heard = idle.get("/");
    assert_eq!((heard.status, heard.header("connection")), (200, Some("close")));
    assert!(idle.is_closed());
    assert_exits_well(&mut gateway);
}

#[test]
fn the_grace_is_not_exceeded() {
    let origin = slow(Duration::from_secs(8));
    let mut gateway = Gateway::start(&yaml(origin.port(), 1, "").replace("grace: 20s", "grace: 1s"));
    let mut long = Client::connect(gateway.port());
    long.send_request("GET", "/slow", &[], b"");
    eventually("the backend was asked", || origin.count("/slow") == 1);
    let began = Instant::now();
    gateway.signal("TERM");
    assert_exits_well(&mut gateway);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(long.try_answer_to("GET").is_err());
    assert!(gateway.stderr().contains("1 requests were still under way"), "{}", gateway.stderr());
}

#[test]
fn int_ends_at_once() {
    let origin = slow(Duration::from_secs(8));
    let mut gateway = Gateway::start(&yaml(origin.port(), 2, ""));
    assert_eq!(get(gateway.port(), "/logged").status, 200);
    let mut long = Client::connect(gateway.port());
    long.send_request("GET", "/slow", &[], b"");
    eventually("the backend was asked", || origin.count("/slow") == 1);
    let began = Instant::now();
    gateway.signal("INT");
    assert_exits_well(&mut gateway);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(!pid_file(&gateway).exists());
    assert_eq!(logged(&gateway, "/logged"), 1, "what was logged is written");
}
