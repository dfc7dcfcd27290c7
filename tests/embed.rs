//! The gateway on a stock Pingora server: mounted in somebody else's program, and as `server: { engine: pingora }`.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::embedded;
use crate::harness::{Backend, Client, Files, Port, eventually, get, request};

/// The example, in a process of its own: this test binary, which runs [`the_example_as_a_process`] alone.
struct Example {
    process: Child,
    files: Files,
    gateway: Port,
    status: Port,
}

const CONFIG: &str = "\
listeners: [ { bind: 127.0.0.1:1, timeouts: { keep_alive: 5s } } ]
access_log: { output: { file: access.log } }
services: { shop: { endpoints: [ 127.0.0.1:$BACKEND ] } }
consumers: [ { name: acme, api_keys: [ { hash: \"sha256:a3c69185a3add9800cdd7372609c466230b71cc509d46597adf484e0a7851795\" } ] } ]
routes:
  - { path: /open/*, service: shop }
  - { path: /closed, service: shop, policies: { authn: { api_key: {} } } }
  - { path: /few, service: shop, policies: { rate_limit: { by: client_address, limit: 1/hour, burst: 1 } } }
";

impl Example {
    fn start(config: &str) -> Example {
        let (files, gateway, status) = (Files::new(), Port::lease(), Port::lease());
        let file = files.write("gateway.yaml", config);
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embed::the_example_as_a_process", "--ignored", "--nocapture"])
            .env("EMBEDDED_FILE", &file)
            .env("EMBEDDED_GATEWAY", format!("127.0.0.1:{}", gateway.number()))
            .env("EMBEDDED_STATUS", format!("127.0.0.1:{}", status.number()))
            .current_dir(files.dir())
            .stdin(Stdio::null())
            .stdout(File::create(files.dir().join("stdout")).unwrap())
            .stderr(File::create(files.dir().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut example = Example { process, files, gateway, status };
        let until = Instant::now() + Duration::from_secs(30);
        let serves = |port: &Port| std::net::TcpStream::connect(("127.0.0.1", port.number())).is_ok();
        while !(serves(&example.gateway) && serves(&example.status)) {
            let ended = example.process.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "{ended:?}\n{}", example.said());
            std::thread::sleep(Duration::from_millis(10));
        }
        example
    }

    fn said(&self) -> String {
        let read = |name| std::fs::read_to_string(self.files.dir().join(name)).unwrap_or_default();
        format!("{}{}", read("stdout"), read("stderr"))
    }

    fn log(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.files.dir().join("access.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what the example said\n{}---", self.said());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "not a test, but what another one starts"]
fn the_example_as_a_process() {
    let Some(file) = std::env::var_os("EMBEDDED_FILE") else { return };
    let [gateway, status] = ["EMBEDDED_GATEWAY", "EMBEDDED_STATUS"].map(|name| std::env::var(name).unwrap());
    env_logger::Builder::new().filter_level(log::LevelFilter::Info).init();
    let ended = embedded::serve(file.to_str().unwrap(), &gateway, &status);
    assert_eq!(format!("{ended:?}"), format!("{:?}", std::process::ExitCode::SUCCESS));
}

#[test]
fn the_example_serves_the_gateway_beside_another_service() {
    let backend = Backend::answering(|request| {
        if request.target == "/open/slow" {
            std::thread::sleep(Duration::from_millis(700));
        }
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
    });
    let mut example = Example::start(&CONFIG.replace("$BACKEND", &backend.port().to_string()));
    let port = example.gateway.number();
    assert_eq!(get(example.status.number(), "/").text(), "a service of its own\n");

    let open = get(port, "/open/a?b=c");
    assert_eq!(open.status, 200);
    let seen = backend.last();
    assert_eq!(seen.target, "/open/a?b=c");
    assert_eq!(seen.header("via"), Some("1.1 portcullis"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(open.header("x-request-id"), seen.header("x-request-id"));

    for (path, status, reason) in [("/none", 404, "no_route"), ("/closed", 401, "missing_credentials")] {
        let refused = get(port, path);
        assert_eq!((refused.status, refused.header("content-type")), (status, Some("application/problem+json")), "{path}");
        assert_eq!(refused.json()["reason"], reason, "{path}");
    }
    let key = request(port, "GET", "/closed", &[("X-Api-Key", "acme-key-0123456789")], b"");
    assert_eq!(key.status, 200);
    assert_eq!(backend.last().header("x-consumer-name"), Some("acme"));
    assert_eq!([get(port, "/few").status, get(port, "/few").status], [200, 429]);

    // A refusal keeps the connection, and the next request on it is as good as the first.
    let mut client = Client::connect(port);
    assert_eq!(client.request("GET", "/closed", &[], b"").status, 401);
    assert_eq!(client.request("POST", "/closed", &[], b"short").status, 401);
    assert_eq!(client.request("POST", "/open/b", &[], b"body").status, 200);
    assert_eq!(backend.last().body, b"body");

    eventually("every request has its line", || example.log().len() == 9);
    let line = example.log().into_iter().find(|line| line["path"] == "/closed" && line["status"] == 401).unwrap();
    assert_eq!((line["answered_by"].as_str(), line["reason"].as_str()), (Some("authn"), Some("missing_credentials")));

    // TERM lets what is under way finish.
    let slow = std::thread::spawn(move || get(port, "/open/slow").status);
    eventually("the request is under way", || backend.requests().last().is_some_and(|seen| seen.target == "/open/slow"));
    example.signal(Signal::TERM);
    assert_eq!(slow.join().unwrap(), 200);
    eventually("it ends", || example.process.try_wait().unwrap().is_some());
    assert!(example.process.wait().unwrap().success());
    assert!(example.log().iter().any(|line| line["path"] == "/open/slow" && line["status"] == 200));
}

#[test]
fn a_reload_takes_effect_whole_or_not_at_all() {
    let backend = Backend::http();
    let config = CONFIG.replace("$BACKEND", &backend.port().to_string());
    let example = Example::start(&config);
    let port = example.gateway.number();
    assert_eq!(get(port, "/new").status, 404);
    example.files.write("gateway.yaml", format!("{config}  - {{ path: /new, service: shop }}\n"));
    example.signal(Signal::HUP);
    eventually("the new route serves", || get(port, "/new").status == 200);
    example.files.write("gateway.yaml", "routes: nonsense");
    example.signal(Signal::HUP);
    eventually("it is refused", || example.said().contains("the old one goes on serving"));
    assert_eq!(get(port, "/new").status, 200);
}

#[test]
fn a_bad_file_says_everything_that_is_wrong() {
    let files = Files::new();
    let file =
        files.write("gateway.yaml", "listeners: [ { bind: nowhere } ]\nroutes: [ { path: /, service: none, timeout: soon } ]\n");
    let Err(failure) = portcullis::embed::Gateway::from_file(&file) else { panic!("it was taken") };
    let failure = failure.to_string();
    assert!(failure.contains("`nowhere` is no address to listen on") && failure.contains("timeout"), "{failure}");
}
