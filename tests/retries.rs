//! Every way of refusing and of dying, at every point, against bodies of every size: a backend sees a request whole at most as often as
//! allowed and never a part of one taken for the whole, and what the client and the log are told is true.

mod client;
mod conditions;
pub mod faulty;

use std::net::Shutdown;

use client::{Kind, Told, ask};
use faulty::{Fault, Faulty};

use crate::harness::{Client, Gateway, Port, eventually};
use crate::peers::{Act, Asked, Origin, answer};

const SIZES: [usize; 6] = [0, 1024, 65_535, 65_536, 65_537, 1 << 20];

/// One gateway with a service for each fault, behind `/NUMBER/*`.
struct Setup {
    gateway: Gateway,
    faulty: Vec<(Fault, Faulty)>,
    protocol: &'static str,
}

fn setup(protocol: &'static str, faults: &[Fault], server: &str) -> Setup {
    let faulty: Vec<_> = faults.iter().map(|fault| (*fault, Faulty::start(protocol != "http1", *fault))).collect();
    let (mut services, mut routes) = (String::new(), String::new());
    for (number, (_, backend)) in faulty.iter().enumerate() {
        // A busy machine is slow.
        let timeouts = "timeouts: { connect: 20s }";
        services +=
            &format!("  s{number}: {{ endpoints: ['127.0.0.1:{}'], protocol: {protocol}, {timeouts} }}\n", backend.port());
        routes += &format!("  - {{ path: /{number}/*, service: s{number} }}\n");
    }
    let listeners = "listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]";
    Setup { gateway: Gateway::start(&format!("{listeners}\n{server}\nservices:\n{services}routes:\n{routes}")), faulty, protocol }
}

impl Setup {
    /// Asks with every body, in every way, and holds what all sides say against each other. `times` is how often the fault is met.
    fn run(&self, kinds: &[Kind], method: &str, times: usize) {
        let mut asked = 0;
        for (number, (fault, backend)) in self.faulty.iter().enumerate() {
            for size in SIZES {
                for kind in kinds {
                    let part = (size / 2).clamp(1, 16 * 1024);
                    backend.arm(times, part);
                    let mut body: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
                    if let (Kind::Grpc, Some((prefix, message))) = (kind, body.split_first_chunk_mut::<5>()) {
                        // One message, and not longer than messages may be.
                        let [a, b, c, d] = u32::try_from(message.len()).unwrap().to_be_bytes();
                        *prefix = [0, a, b, c, d];
                    }
                    let path = format!("/{number}/{method}-{times}-{kind:?}-{size}");
                    let told = ask(self.gateway.port(), *kind, method, &path, &body);
                    asked += 1;
                    let what = format!("{} {fault:?} {method} {kind:?} {size} x{times}: {told:?}", self.protocol);
                    self.judge(backend, *fault, method, &body, times, &told, &what);
                }
            }
        }
        let mut lines = Vec::new();
        eventually("every request has left its line", || {
            lines = self.gateway.log();
            lines.retain(|line| line["path"].as_str().is_some_and(|path| path.contains(&format!("{method}-{times}-"))));
            lines.len() >= asked
        });
        for line in &lines {
            let number: usize = line["path"].as_str().unwrap()[1..].split('/').next().unwrap().parse().unwrap();
            let reasons: &[&str] = match self.faulty[number].0 {
                // A connection that ends right behind the head may take it along.
                Fault::HalfAnswer => &["answer_broke_off", "connection_lost"],
                fault if fault.is_refusal() => &["upstream_refused"],
                _ => &["connection_lost", "connect_failure", "upstream_error"],
            };
            let reason = line["reason"].as_str();
            assert!(
                reason.is_none() && line["status"] == 200 || reason.is_some_and(|reason| reasons.contains(&reason)),
                "{:?} {line}",
                self.faulty[number].0
            );
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn judge(&self, backend: &Faulty, fault: Fault, method: &str, body: &[u8], times: usize, told: &Told, what: &str) {
        let seen = backend.seen();
        assert!(seen.whole.iter().all(|whole| whole == body), "{what}: a part was taken for the whole");
        // One more for each that was refused or never begun, as `retries` says; one more for a dead kept connection.
        let idempotent = method != "POST";
        let most = 1 + usize::from(fault.is_refusal()) + usize::from(idempotent && !fault.is_refusal());
        assert!(seen.heads <= most, "{what}: asked {} times", seen.heads);
        assert!(seen.whole.len() <= if idempotent { 2 } else { 1 }, "{what}: whole {} times", seen.whole.len());
        let good = told.body.as_deref() == Ok(body.len().to_string().as_bytes());
        if good {
            assert!(!seen.whole.is_empty(), "{what}: answered what never came");
        } else if fault == Fault::HalfAnswer {
            assert!(told.body.is_err() || told.is_failure(), "{what}: half an answer was passed on as a whole one");
        } else {
            // Who writes all of a long body before it reads may find the connection closed.
            let lost = told.status == 0 && body.len() > 65_536;
            assert!(told.is_failure() || lost, "{what}");
        }
        if fault.is_refusal() && body.len() <= 65_536 && !(body.is_empty() && fault.comes_after_part()) {
            assert_eq!(seen.heads, 2, "{what}: what was refused before it was begun is asked for again, once");
            assert_eq!(good, times == 1, "{what}");
        }
    }
}

#[test]
fn http1_backends_that_die_see_each_request_whole_or_not() {
    let setup = setup("http1", &Fault::HTTP1, "server: { workers: 1 }");
    setup.run(&Kind::ALL, "POST", 1);
    setup.run(&Kind::ALL, "PUT", usize::MAX);
}

#[test]
fn http2_backends_that_refuse_or_die_see_each_request_whole_or_not() {
    let faults = [&Fault::HTTP1[..], &Fault::REFUSALS].concat();
    let setup = setup("http2", &faults, "server: { workers: 1 }");
    setup.run(&Kind::ALL, "POST", 1);
    setup.run(&Kind::ALL, "PUT", usize::MAX);
}

#[test]
fn grpc_backends_that_refuse_or_die_see_each_call_whole_or_not() {
    let faults = [&Fault::HTTP1[..], &Fault::REFUSALS].concat();
    let setup = setup("grpc", &faults, "server: { workers: 1 }");
    setup.run(&[Kind::Grpc], "POST", 1);
    setup.run(&[Kind::Grpc], "POST", usize::MAX);
}

#[test]
fn a_backend_that_always_refuses_is_asked_as_often_as_retries_says() {
    for attempts in [0, 3] {
        let backend = Faulty::start(true, Fault::RefuseAfterHead);
        backend.arm(usize::MAX, 0);
        let gateway = Gateway::start(&format!(
            "
             listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]
             services:
               it: {{ endpoints: ['127.0.0.1:{}'], protocol: http2, retries: {{ attempts: {attempts} }}, retry_after: 7s }}
             routes: [ {{ path: /*, service: it }} ]
            ",
            backend.port()
        ));
        let mut client = Client::connect(gateway.port());
        let answer = client.request("POST", "/", &[], b"pay");
        answer.assert_problem(503, "upstream", "upstream_refused");
        assert_eq!(answer.header("retry-after"), Some("7"));
        assert_eq!(backend.seen().heads, attempts + 1);
        let line = gateway.wait_log(|line| line["status"] == 503);
        assert_eq!(
            (&line["reason"], line["retries"].as_u64().unwrap_or(0)),
            (&"upstream_refused".into(), attempts as u64),
            "{line}"
        );
    }
}

#[test]
fn what_a_policy_has_read_whole_is_repeated_whole_however_long_it_is() {
    for fault in Fault::REFUSALS {
        let backend = Faulty::start(true, fault);
        let gateway = Gateway::start(&format!(
            "
             listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
             services: {{ it: {{ endpoints: ['127.0.0.1:{}'], protocol: http2 }} }}
             routes: [ {{ path: /*, service: it, policies: {{ validate: {{ json: true }} }} }} ]
            ",
            backend.port()
        ));
        backend.arm(1, 16 * 1024);
        let body = format!("[\"{}\"]", "a".repeat(300_000)).into_bytes();
        let mut client = Client::connect(gateway.port());
        let answer = client.request("POST", "/", &[("Content-Type", "application/json")], &body);
        assert_eq!((answer.status, answer.text()), (200, body.len().to_string()), "{fault:?} {answer:?}");
        assert!(backend.seen().whole == [body], "{fault:?}");
    }
}

/// One endpoint answers once a connection, dies on the second request and stops listening; the other one is well. `retries` is for them
/// both together.
#[test]
fn a_dead_kept_connection_does_not_cost_the_endpoints_that_are_well() {
    let dying = Port::lease();
    let listener = std::net::TcpListener::bind(("127.0.0.1", dying.number())).unwrap();
    let once = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut read = [0; 4096];
        let _ = std::io::Read::read(&mut stream, &mut read);
        std::io::Write::write_all(&mut stream, &answer(200, &[], "dying")).unwrap();
        // The next request on this connection finds no one, here or anywhere.
        let _ = std::io::Read::read(&mut stream, &mut read);
        drop(listener);
        let _ = stream.shutdown(Shutdown::Both);
    });
    let well = Origin::start(|_: &Asked| Act::Send(answer(200, &[], "well")));
    let gateway = Gateway::start(&format!(
        "listeners:\n  - bind: 127.0.0.1:$PORT\nserver:\n  workers: 1\nservices:\n  it:\n    endpoints: \
         [127.0.0.1:{}, 127.0.0.1:{}]\nroutes:\n  - path: /*\n    service: it\n",
        dying.number(),
        well.port()
    ));
    let mut client = Client::connect(gateway.port());
    let said: Vec<_> = (0..4).map(|_| client.get("/")).map(|answer| (answer.status, answer.text())).collect();
    assert_eq!(said.iter().filter(|said| said.0 == 200).count(), 4, "{said:?}");
    assert_eq!(said.iter().filter(|said| said.1 == "dying").count(), 1, "{said:?}");
    once.join().unwrap();
}
