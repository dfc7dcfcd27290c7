//! Stopping at an unusual moment.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Files, Port, eventually};

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
