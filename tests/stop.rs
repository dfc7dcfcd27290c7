//! Stopping at an unusual moment.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Backend, Client, Files, Gateway, Port, eventually, served};

/// Ends with the value that stands for it.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Workers that began after the order to drain did not hear of it, and the process sat out its whole grace period.
#[test]
fn a_gateway_that_is_stopped_while_it_starts_does_not_wait_for_its_grace_period() {
    let (files, port, admin) = (Files::new(), Port::lease(), Port::lease());
    let config = files.write(
        "gateway.yaml",
        format!(
            "listeners: [ {{ bind: 127.0.0.1:{} }} ]\nadmin: {{ bind: 127.0.0.1:{} }}\nserver: {{ grace: 1m, workers: 4 }}\n\
             routes: [ {{ path: /*, service: 127.0.0.1, port: 9 }} ]\naccess_log: {{ output: false }}\n",
            port.number(),
            admin.number()
        ),
    );
    for _ in 0..5 {
        let child =
            Command::new(env!("CARGO_BIN_EXE_portcullis")).arg("run").arg("-c").arg(&config).stderr(Stdio::null()).spawn();
        let mut process = Process(child.unwrap());
        // It listens before its workers run.
        eventually("it listens", || TcpStream::connect(("127.0.0.1", port.number())).is_ok());
        kill_process(Pid::from_child(&process.0), Signal::TERM).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while process.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "it still waits after 20 seconds");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Never answers.
fn silent() -> Backend {
    Backend::scripted(|mut stream| {
        use std::io::Read;
        while matches!(stream.read(&mut [0; 4096]), Ok(count) if count > 0) {}
    })
}

#[test]
fn what_the_grace_cuts_off_leaves_a_line_each() {
    let backend = silent();
    let mut gateway = Gateway::start(&format!(
        "
         listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
         routes: [ {{ path: /*, service: 127.0.0.1, port: {} }} ]
         server: {{ grace: 1s, workers: 2 }}
        ",
        backend.port()
    ));
    let mut clients = Vec::new();
    for path in ["/one", "/two"] {
        let mut client = Client::connect(gateway.port());
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        clients.push(client);
    }
    gateway.wait_metric("portcullis_in_flight", 2.0);
    gateway.signal("TERM");
    assert!(gateway.wait_exit(Duration::from_secs(20)).success());
    for path in ["/one", "/two"] {
        let line = gateway.wait_log(|line| line["path"] == path);
        assert_eq!((&line["status"], &line["answered_by"], &line["reason"]), (&503.into(), &"door".into(), &"shutdown".into()));
    }
    assert_eq!(gateway.log().len(), 2);
}

/// The request came before the order to stop, its answer after it.
#[test]
fn an_answer_given_while_draining_is_its_connections_last() {
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let backend = Backend::answering(move |_| {
        gone.lock().unwrap().recv().unwrap();
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
    });
    served(
        &format!(
            "listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]\nroutes: [ {{ path: /*, service: 127.0.0.1, port: {} }} ]\n",
            backend.port()
        ),
        |gateway| {
            let before = backend.requests().len();
            let mut client = Client::connect(gateway.port());
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            gateway.wait_metric("portcullis_in_flight", 1.0);
            eventually("it is with the backend", || backend.requests().len() > before);
            gateway.signal("TERM");
            eventually("it drains", || gateway.admin_get("/readyz").0 == 503);
            go.send(()).unwrap();
            let answer = client.answer_to("GET");
            assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{answer:?}");
            assert!(client.is_closed());
        },
    );
}
