//! The gateway on a stock Pingora server: mounted in somebody else's program, and as `server: { engine: pingora }`.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::embedded;
use crate::harness::{Backend, Client, Files, Gateway, Port, eventually, get, portcullis, request};

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

const STOCK: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT } ]
    server: { workers: 2, engine: pingora, grace: 30s, upgrade_socket: $DIR/upgrade.sock }
    routes:
      - { path: /open/*, service: 127.0.0.1, port: $BACKEND }
      - { path: /json, service: 127.0.0.1, port: $BACKEND, policies: { validate: { json: true, max_body: 1MiB } } }
    ";

fn stock(backend: &Backend) -> Gateway {
    let files = Files::new();
    let yaml = STOCK.replace("$DIR", &files.dir().display().to_string()).replace("$BACKEND", &backend.port().to_string());
    Gateway::start_in(&files, &yaml)
}

#[test]
fn the_pingora_engine_reloads_and_ends_when_nothing_is_under_way() {
    let backend = Backend::answering(|request| {
        if request.target == "/open/slow" {
            std::thread::sleep(Duration::from_millis(700));
        }
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
    });
    let mut gateway = stock(&backend);
    let port = gateway.port();
    assert_eq!(get(port, "/open/a").status, 200);
    gateway.wait_log(|line| line["path"] == "/open/a" && line["status"] == 200);
    let yaml = std::fs::read_to_string(gateway.config_path()).unwrap();
    gateway.rewrite(&yaml.replace("/open/*", "\"/{any}/*\""));
    gateway.signal("HUP");
    eventually("the new route serves", || get(port, "/new/a").status == 200);
    // What would be served otherwise than the file says is refused.
    gateway.rewrite(&yaml.replace("listeners: [ {", "listeners: [ { h2c: true,"));
    assert_eq!(gateway.reload().0, 422);
    // Nobody waits for the sockets, so that QUIT would end the service.
    gateway.signal("QUIT");
    eventually("it says so", || gateway.stderr().contains("QUIT is not obeyed"));
    let slow = std::thread::spawn(move || get(port, "/new/../open/slow").status);
    eventually("it is under way", || backend.requests().last().is_some_and(|seen| seen.target == "/open/slow"));
    gateway.signal("TERM");
    assert_eq!(slow.join().unwrap(), 200);
    // Not only when the grace is over.
    assert!(gateway.wait_exit(Duration::from_secs(10)).success());
    assert!(gateway.log().iter().any(|line| line["path"] == "/open/slow" && line["status"] == 200));
    assert!(!gateway.dir().join("gateway.pid").exists());
}

#[test]
fn the_pingora_engine_hands_its_sockets_to_the_next_process() {
    let backend = Backend::http();
    let mut gateway = stock(&backend);
    let (port, before) = (gateway.port(), gateway.pid());
    let mut next = gateway.run_beside(&["--take-over"]);
    eventually("it waits for the sockets", || gateway.dir().join("upgrade.sock").exists());
    gateway.signal("QUIT");
    // Meanwhile nobody is turned away.
    eventually("the next process serves", || {
        assert_eq!(get(port, "/open/a").status, 200);
        gateway.pid() != before && next.id() == gateway.pid()
    });
    assert!(gateway.wait_exit(Duration::from_secs(20)).success());
    assert_eq!(get(port, "/open/b").status, 200);
    eventually("the operator's API is the next one's", || std::net::TcpStream::connect(("127.0.0.1", gateway.admin())).is_ok());
    next.kill().unwrap();
    next.wait().unwrap();
}

#[test]
fn a_body_that_a_policy_reads_goes_on_whole_where_its_length_is_known() {
    let backend = Backend::http();
    let gateway = stock(&backend);
    let json = [("Content-Type", "application/json")];
    for size in [0, 10, 60_000, 70_000, 200_000, 1_000_000] {
        let body = format!("\"{}\"", "x".repeat(size)).into_bytes();
        assert_eq!(request(gateway.port(), "POST", "/json", &json, &body).status, 200, "{size}");
        assert!(backend.last().body == body, "{size}");
    }
    let chunks = |size: usize| format!("{size:x}\r\n\"{}\"\r\n0\r\n\r\n", "x".repeat(size - 2)).into_bytes();
    let chunked = [json[0], ("Transfer-Encoding", "chunked")];
    let short = request(gateway.port(), "POST", "/json", &chunked, &chunks(60_000));
    assert_eq!((short.status, backend.last().body.len(), backend.last().header("content-length")), (200, 60_000, Some("60000")));
    let long = request(gateway.port(), "POST", "/json", &chunked, &chunks(70_000));
    long.assert_problem(411, "door", "length_required");
    request(gateway.port(), "POST", "/json", &json, b"{").assert_problem(400, "validate", "json_malformed");
}

#[test]
fn what_the_pingora_engine_cannot_do_is_refused_with_its_place() {
    let files = Files::new();
    files.write(
        "gateway.yaml",
        "\
listeners:
  - bind: 127.0.0.1:8080
    max_connections: 10
    proxy_protocol: { trusted: [ 10.0.0.0/8 ] }
    timeouts: { header: 5s }
    limits: { body_rate: 1KiB }
server: { engine: pingora }
routes: [ { path: /, service: 127.0.0.1, port: 1 } ]
",
    );
    let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
    assert_eq!(ran.code, 1);
    for (place, what) in [
        ("gateway.yaml:3:", "`max_connections` cannot be had with `engine: pingora`"),
        ("gateway.yaml:4:", "the PROXY protocol cannot be had"),
        ("gateway.yaml:5:", "`timeouts.header` cannot be had"),
        ("gateway.yaml:6:", "`limits.body_rate` cannot be had"),
    ] {
        assert!(ran.stderr.contains(place) && ran.stderr.contains(what), "{}", ran.stderr);
    }
    assert!(ran.stderr.contains("4 errors"), "{}", ran.stderr);
    // Whoever does not ask for it may write all of that.
    let own = std::fs::read_to_string(files.dir().join("gateway.yaml")).unwrap().replace("pingora", "portcullis");
    files.write("gateway.yaml", own);
    assert_eq!(portcullis(files.dir(), &["check", "gateway.yaml"]).code, 0);
}
