//! Refusals that come before the request is all there, and the clients that people have. Many of those write their whole request before
//! they look for an answer.

use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::*;

/// Sends 3 MB with POST to each URL, ten times, and prints the statuses and reasons that came, one a line.
const NODE: &str = r#"
const body = Buffer.alloc(3000000, 0x20);
function once(url) {
  return new Promise((done) => {
    const client = url.startsWith('https:') ? require('https') : require('http');
    const options = { method: 'POST', rejectUnauthorized: false, agent: false,
                      headers: { 'content-type': 'application/json', 'content-length': body.length } };
    const request = client.request(url, options, (answer) => {
      let text = '';
      answer.on('data', (piece) => text += piece);
      answer.on('end', () => done(answer.statusCode + ' ' + JSON.parse(text).reason));
      answer.on('error', (error) => done('broken ' + error.code));
    });
    request.on('error', (error) => done('error ' + error.code));
    request.end(body);
  });
}
(async () => {
  for (const url of process.argv.slice(1)) for (let n = 0; n < 10; n++) console.log(await once(url));
})();
"#;

const PYTHON: &str = r#"
import http.client, json, ssl, sys, urllib.parse
unchecked = ssl._create_unverified_context()
for url in sys.argv[1:]:
    parts = urllib.parse.urlsplit(url)
    for _ in range(10):
        if parts.scheme == "https":
            client = http.client.HTTPSConnection(parts.netloc, timeout=30, context=unchecked)
        else:
            client = http.client.HTTPConnection(parts.netloc, timeout=30)
        try:
            client.request("POST", parts.path, b" " * 3000000, {"Content-Type": "application/json"})
            answer = client.getresponse()
            print(answer.status, json.loads(answer.read())["reason"])
        except Exception as error:
            print("error", error)
"#;

fn start(files: &Files) -> (Backend, Gateway) {
    let backend = Backend::http();
    let (cert, key, _) = files.certificate(&["localhost"]);
    let yaml = format!(
        "
        listeners:
          - {{ bind: 127.0.0.1:$PORT, h2c: true }}
          - bind: 127.0.0.1:$PORT2
            tls: {{ certificates: [ {{ cert: {}, key: {} }} ] }}
        consumers:
          - {{ name: known, api_keys: [ {{ hash: 'sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08' }} ] }}
        routes:
          - {{ path: /key, service: 127.0.0.1, port: $BACKEND, policies: {{ authn: {{ api_key: {{}} }} }} }}
          - {{ path: /small, service: 127.0.0.1, port: $BACKEND, policies: {{ bounds: {{ max_body: 1KiB }} }} }}
        ",
        cert.display(),
        key.display()
    );
    let gateway = Gateway::start_in(files, &filled(&yaml, &[("$BACKEND", backend.port())]));
    (backend, gateway)
}

fn urls(gateway: &Gateway) -> Vec<String> {
    let bases = [format!("http://127.0.0.1:{}", gateway.port()), format!("https://127.0.0.1:{}", gateway.port2())];
    bases.iter().flat_map(|base| ["/key", "/small", "/nowhere"].map(|path| format!("{base}{path}"))).collect()
}

const TOLD: [&str; 3] = ["401 missing_credentials", "413 body_too_large", "404 no_route"];

fn assert_told(command: &mut Command, name: &str) {
    let output = command.output().unwrap_or_else(|error| panic!("these tests need {name}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    let wanted: Vec<&str> = (0..2).flat_map(|_| TOLD).flat_map(|told| [told; 10]).collect();
    assert_eq!(lines, wanted, "{name}");
}

#[test]
fn clients_that_write_first_hear_why_they_are_refused() {
    let files = Files::new();
    let (backend, gateway) = start(&files);
    let urls = urls(&gateway);
    assert_told(Command::new("node").arg("-e").arg(NODE).args(&urls), "node");
    assert_told(Command::new("python3").arg("-c").arg(PYTHON).args(&urls), "python3");
    let body = files.write("body", vec![b' '; 3_000_000]);
    for (url, told) in urls.iter().zip(TOLD.iter().cycle()) {
        for version in ["--http1.1", "--http2", "--http2-prior-knowledge"] {
            let data = format!("@{}", body.display());
            let sent = ["-k", version, "-H", "Expect:", "-H", "Content-Type: application/json", "--data-binary", &data, url];
            let answer = curl(&sent);
            assert_eq!(format!("{} {}", answer.status, answer.json()["reason"].as_str().unwrap()), *told, "{url} {version}");
        }
    }
    assert!(backend.requests().is_empty());
    gateway.wait_metric("portcullis_lingering_connections", 0.0);
}

/// Whether the gateway still reads of this connection what nobody wants.
fn lingers(client: &Client) -> bool {
    let mut stream = client.stream();
    stream.write_all(&[b' '; 64 * 1024]).is_ok()
}

#[test]
fn those_who_linger_are_counted_and_bounded() {
    let files = Files::new();
    let (_backend, gateway) = start(&files);
    let mut open = Vec::new();
    for _ in 0..70 {
        let mut client = Client::connect(gateway.port());
        client.send("POST /key HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n");
        client.answer_to("POST").assert_problem(401, "authn", "missing_credentials");
        open.push(client);
    }
    let lingering = || gateway.metric("portcullis_lingering_connections");
    assert!(lingering() <= 64.0, "{}", lingering());
    let began = Instant::now();
    // Silent, they are gone in five seconds; while they send, they may go on for longer.
    while began.elapsed() < Duration::from_secs(7) {
        assert!(lingers(&open[0]), "after {:?}", began.elapsed());
        std::thread::sleep(Duration::from_millis(200));
    }
    eventually("only the one that sends is left", || lingering() == 1.0);
    assert_eq!(gateway.metric("portcullis_in_flight"), 0.0, "they have no place");
    drop(open);
    eventually("and that ends with its client", || lingering() == 0.0);
}

/// A rest that is short is read, and the connection goes on.
#[test]
fn a_refusal_costs_no_connection_where_the_rest_is_short() {
    let files = Files::new();
    let (_backend, gateway) = start(&files);
    let mut client = Client::connect(gateway.port());
    for _ in 0..3 {
        client.send_request("POST", "/key", &[], &[b'x'; 30_000]);
        let answer = client.answer_to("POST");
        assert_eq!((answer.status, answer.header("connection")), (401, None));
    }
    let mut rest = [0; 1];
    client.stream().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(client.stream().read(&mut rest).is_err(), "it is open");
}
