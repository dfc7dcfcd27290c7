//! What surrounds an answer's body: heads that are too large before it, and trailer fields behind it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use crate::harness::*;

const CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n5\r\nhello\r\n0\r\n\
    X-Checksum: abc\r\nX-Old: 1\r\nSet-Cookie: evil=1\r\nContent-Length: 3\r\nX-Consumer-Name: root\r\nVary: *\r\n\r\n";

const YAML: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ], PROTOCOL } }
    routes: [ { path: /*, service: a, policies: { response_headers: { remove: [ X-Old ] } } } ]
";

fn gateway(port: u16, protocol: &str) -> Gateway {
    Gateway::start(&filled(&YAML.replace("PROTOCOL", protocol), &[("$BACKEND", port)]))
}

/// Two answers, as they come on one connection.
fn two_answers(port: u16, fields: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let next = "GET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("GET /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n{next}").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// The head and the trailers of an HTTP/2 answer.
fn over_h2(port: u16) -> String {
    let url = format!("http://127.0.0.1:{port}/a");
    let ran = Command::new("curl").args(["-sS", "--http2-prior-knowledge", "-D", "-", "-o", "/dev/null", &url]).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap().to_ascii_lowercase()
}

const NEVER: [&str; 5] = ["x-old", "evil", "content-length", "x-consumer-name", "vary"];

#[track_caller]
fn assert_passes(port: u16) {
    // Whoever asks for them gets those that may come late, behind the body.
    for te in ["TE: trailers\r\n", "te: deflate;q=0.5, Trailers\r\nConnection: TE\r\n"] {
        let text = two_answers(port, te).to_ascii_lowercase();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("x-checksum"), "{text}");
        assert!(body.starts_with("5\r\nhello\r\n0\r\nx-checksum: abc\r\n\r\nhttp/1.1 200 ok\r\n"), "{text}");
        assert_eq!(text.matches("x-checksum").count(), 1, "who did not ask, got none: {text}");
        assert!(NEVER.iter().all(|name| !text.contains(name)), "{text}");
    }
    // Over HTTP/2 everybody can take them.
    let fields = over_h2(port);
    let (head, trailers) = fields.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("x-checksum") && trailers.contains("x-checksum: abc"), "{fields}");
    assert!(NEVER.iter().all(|name| !fields.contains(name)), "{fields}");
    // HTTP/1.0 has no place for them.
    let old = raw(port, b"GET /a HTTP/1.0\r\nHost: a\r\nTE: trailers\r\n\r\n");
    assert!(old.ends_with(b"\r\n\r\nhello"), "{}", String::from_utf8_lossy(&old));
}

#[test]
fn trailers_pass_to_those_who_take_them_and_never_into_the_head() {
    let backend = Backend::answering(|_| CHUNKS.as_bytes().to_vec());
    let inner = gateway(backend.port(), "");
    assert_passes(inner.port());
    // From a service that speaks HTTP/2.
    assert_passes(gateway(inner.port(), "protocol: http2").port());
}

#[test]
fn trailers_are_bounded_and_obey_the_rules_of_fields() {
    for (name, trailers) in [
        ("too many", "X: y\r\n".repeat(500)),
        ("a space before the colon", "X : y\r\n".to_owned()),
        ("a fold", "X: y\r\n z\r\n".to_owned()),
        ("a control character", "X: \u{1}\r\n".to_owned()),
    ] {
        let backend = Backend::answering(move |_| {
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n{trailers}\r\n").into_bytes()
        });
        let gateway = gateway(backend.port(), "limits: { head: 2KiB }");
        let answer = raw(gateway.port(), b"GET /a HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n");
        // The end that says the body is whole is missing.
        assert!(answer.ends_with(b"hello\r\n"), "{name}: {}", String::from_utf8_lossy(&answer));
    }
}

#[test]
fn trailers_of_a_request_do_not_reach_the_backend() {
    let backend = Backend::http();
    let yaml = filled(&YAML.replace("PROTOCOL", ""), &[("$BACKEND", backend.port())]);
    served(&yaml, |gateway| {
        let mut client = Client::connect(gateway.port());
        client.send("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Consumer-Name: root\r\nX-Late: 1\r\n\r\n");
        let seen = client.answer_to("POST").json();
        assert_eq!(seen["body"], "hi");
        assert!(!seen.to_string().contains("root") && !seen.to_string().contains("late"), "{seen}");
        assert_eq!(client.get("/b").status, 200);
    });
}

#[test]
fn an_answers_head_has_bounds_of_its_own() {
    let backend = Backend::answering(|request| {
        let number = |prefix: &str| request.target.strip_prefix(prefix).and_then(|rest| rest.parse::<usize>().ok()).unwrap_or(0);
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(number("/interim/"));
        let fields = "X: y\r\n".repeat(number("/fields/"));
        let long = "z".repeat(number("/bytes/"));
        format!("{interim}HTTP/1.1 200 OK\r\n{fields}X-Long: {long}\r\nContent-Length: 2\r\n\r\nok").into_bytes()
    });
    let with = |limits: &str| filled(&YAML.replace("PROTOCOL", limits), &[("$BACKEND", backend.port())]);
    let check = |gateway: &Gateway, fine: &[&str], beyond: &[&str]| {
        for target in fine {
            let mut client = Client::connect(gateway.port());
            client.send_request("GET", target, &[], b"");
            let mut answer = client.answer_to("GET");
            while answer.status == 103 {
                answer = client.answer_to("GET");
            }
            assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{target}");
        }
        for target in beyond {
            let mut client = Client::connect(gateway.port());
            client.send_request("GET", target, &[], b"");
            let mut answer = client.answer_to("GET");
            while answer.status == 103 {
                answer = client.answer_to("GET");
            }
            println!("{target}");
            answer.assert_problem(502, "upstream", "answer_head_too_large");
            let line = gateway.wait_log(|line| line["path"] == *target);
            assert_eq!(line["reason"], "answer_head_too_large");
        }
    };
    served(&with(""), |gateway| {
        let fine = ["/interim/16", "/fields/126", "/bytes/60000"];
        check(gateway, &fine, &["/interim/17", "/fields/127", "/fields/300", "/bytes/70000", "/bytes/2000000"]);
    });
    served(&with("limits: { head: 200KiB, headers: 256, interim: 40 }"), |gateway| {
        check(gateway, &["/interim/40", "/fields/254", "/bytes/190000"], &["/interim/41", "/fields/255", "/bytes/210000"]);
    });
    served(&with("limits: { head: 1KiB, headers: 5, interim: 1 }"), |gateway| {
        check(gateway, &["/interim/1", "/fields/3", "/bytes/900"], &["/interim/2", "/fields/4", "/bytes/1100"]);
    });
}

#[test]
fn the_bounds_of_answers_are_checked() {
    let files = Files::new();
    for (limits, words) in [
        ("{ head: 10 }", "`limits.head` must be 1KiB to 512KiB"),
        ("{ headers: 0 }", "`limits.headers` is 0"),
        ("{ headers: 257 }", "`limits.headers` is 257"),
        ("{ interim: 0 }", "`limits.interim` is 0"),
        ("{ trailers: 1 }", "trailers"),
    ] {
        let yaml = YAML.replace("$PORT", "0").replace("$BACKEND", "1").replace("PROTOCOL", &format!("limits: {limits}"));
        files.write("portcullis.yaml", yaml);
        let ran = portcullis(files.dir(), &["check", "portcullis.yaml"]);
        assert!(ran.code != 0 && format!("{}{}", ran.stdout, ran.stderr).contains(words), "{limits}: {ran:?}");
    }
}
