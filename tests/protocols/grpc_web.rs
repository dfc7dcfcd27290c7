//! gRPC-Web to a server of gRPC: Google's own client, and what no client of that kind would send.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::peer::{Peer, play_npm};
use crate::harness::{Answer, Backend, Client, Gateway, curl, filled, request};

const YAML: &str = "
    listeners: [ { bind: '127.0.0.1:$PORT', h2c: true, limits: { body: 100KiB } } ]
    server: { workers: 1 }
    services:
      grpc: { endpoints: ['127.0.0.1:$BACKEND'], protocol: grpc }
      plain: { endpoints: ['127.0.0.1:$PLAIN'] }
    routes:
      - { path: /portcullis.test.Echo/*, service: grpc }
      - { path: /private/*, service: grpc, policies: { authn: { api_key: {} } } }
      - { path: /hurried/*, service: grpc, strip_prefix: /hurried, timeout: 400ms }
      - { path: /hashed/*, service: grpc, strip_prefix: /hashed, buffer_request: true, policies: { compress: {}, response_headers: { set: { X-Seen: '1' } } } }
      - { path: /pages/*, service: grpc, strip_prefix: /pages, policies: { cors: { origins: 'https://app.example.com' } } }
      - { path: /plain/*, service: plain }
";

struct Setup {
    gateway: Gateway,
    plain: Backend,
    _server: Peer,
}

fn setup() -> Setup {
    let (server, plain) = (Peer::start("grpc_server.py", &[]), Backend::http());
    let gateway = Gateway::start(&filled(YAML, &[("$BACKEND", server.port()), ("$PLAIN", plain.port())]));
    Setup { gateway, plain, _server: server }
}

impl Setup {
    fn play(&self, format: &str, calls: Value) -> Vec<Value> {
        let base = format!("http://127.0.0.1:{}", self.gateway.port());
        play_npm("web_client.js", &[&base, format, &calls.to_string()]).as_array().unwrap().clone()
    }

    /// A call as bytes, over HTTP/1.1.
    fn call(&self, path: &str, kind: &str, more: &[(&str, &str)], body: &[u8]) -> Answer {
        let fields = [&[("Content-Type", kind)], more].concat();
        request(self.gateway.port(), "POST", path, &fields, body)
    }
}

fn message(flag: u8, payload: &[u8]) -> Vec<u8> {
    [&[flag][..], &u32::try_from(payload.len()).unwrap().to_be_bytes(), payload].concat()
}

/// The messages of an answer: their flags and payloads.
fn messages(mut body: &[u8]) -> Vec<(u8, String)> {
    let mut all = Vec::new();
    while !body.is_empty() {
        let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
        all.push((body[0], String::from_utf8_lossy(&body[5..5 + length]).into_owned()));
        body = &body[5 + length..];
    }
    all
}

/// Several texts, each padded, one behind the other.
fn decoded(text: &[u8]) -> Vec<u8> {
    text.chunks(4).flat_map(|group| STANDARD.decode(group).unwrap()).collect()
}

const UNARY: &str = "/portcullis.test.Echo/Unary";

#[test]
fn googles_client_makes_its_calls_in_both_forms() {
    let setup = setup();
    for format in ["binary", "text"] {
        let all = setup.play(
            format,
            json!([
                { "path": UNARY, "message": "hello" },
                { "path": "/portcullis.test.Echo/Fail" },
                { "path": "/portcullis.test.Echo/Headers", "metadata": { "x-api-version": "2" } },
                { "path": "/private/Unary" },
                { "path": "/nowhere/Unary" },
                { "path": "/hurried/portcullis.test.Echo/Slow" },
                { "path": "/hashed/portcullis.test.Echo/Unary", "message": "again" },
            ]),
        );
        assert_eq!((&all[0]["messages"], &all[0]["code"]), (&json!(["hello"]), &json!(0)), "{format} {}", all[0]);
        assert_eq!(
            (&all[0]["trailing"]["x-trailing"], &all[0]["trailing"]["x-length"]),
            (&json!("after"), &json!("5")),
            "{}",
            all[0]
        );
        assert_eq!((&all[1]["code"], &all[1]["details"]), (&json!(8), &json!("no more: äöü %")), "{format} {}", all[1]);
        let seen: Value = serde_json::from_str(all[2]["messages"][0].as_str().unwrap()).unwrap();
        assert_eq!((&seen["x-api-version"], &seen["x-forwarded-for"]), (&json!("2"), &json!("127.0.0.1")), "{seen}");
        assert_eq!((&all[3]["code"], &all[4]["code"], &all[5]["code"]), (&json!(16), &json!(12), &json!(4)), "{format} {all:?}");
        assert_eq!((&all[6]["messages"], &all[6]["code"]), (&json!(["again"]), &json!(0)), "{format} {}", all[6]);
    }
    // Only its text form can stream.
    let all = setup.play("text", json!([{ "path": "/portcullis.test.Echo/Count", "message": "[10, 0.1]", "stream": true }]));
    assert_eq!(all[0]["messages"], json!((0..10).map(|number| number.to_string()).collect::<Vec<_>>()), "{}", all[0]);
    let times: Vec<_> = all[0]["times"].as_array().unwrap().iter().map(|time| time.as_u64().unwrap()).collect();
    assert!(times[9] - times[0] > 500, "they came one by one: {times:?}");
    let all = setup.play("text", json!([{ "path": "/portcullis.test.Echo/FailMidway", "stream": true }]));
    assert_eq!((&all[0]["messages"], &all[0]["code"]), (&json!(["one", "two"]), &json!(15)), "{}", all[0]);
    let line = setup.gateway.wait_log(|line| line["path"] == "/portcullis.test.Echo/Fail");
    assert_eq!((&line["protocol"], &line["status"], &line["grpc_status"]), (&json!("h1"), &json!(200), &json!(8)), "{line}");
}

#[test]
fn the_trailers_are_the_last_message() {
    let setup = setup();
    for (kind, told) in [
        ("application/grpc-web", "application/grpc-web"),
        ("application/grpc-web+proto", "application/grpc-web"),
        ("application/grpc-web+json", "application/grpc-web"),
    ] {
        let answer = setup.call(UNARY, kind, &[], &message(0, b"hello"));
        assert!(answer.status == 200 && answer.header("content-type").unwrap().starts_with(told), "{answer:?}");
        assert_eq!(answer.header("content-length"), None, "{answer:?}");
        let all = messages(&answer.body);
        assert_eq!((all.len(), &all[0]), (2, &(0, "hello".to_owned())), "{all:?}");
        assert!(
            all[1].0 == 0x80 && all[1].1.contains("grpc-status: 0\r\n") && all[1].1.contains("x-trailing: after\r\n"),
            "{all:?}"
        );
    }
    // Over HTTP/2.
    let file = setup.gateway.files().write("call", message(0, b"hello"));
    let body = format!("@{}", file.display());
    let fields = ["--http2-prior-knowledge", "-H", "content-type: application/grpc-web+proto", "--data-binary", &body];
    let answer = curl(&[&fields[..], &[&setup.gateway.url(UNARY)]].concat());
    assert_eq!(messages(&answer.body)[0], (0, "hello".to_owned()), "{answer:?}");
    // `Accept` has the word on the answer's form.
    let answer = setup.call(UNARY, "application/grpc-web", &[("Accept", "application/grpc-web-text")], &message(0, b"hello"));
    assert!(answer.header("content-type").unwrap().starts_with("application/grpc-web-text"), "{answer:?}");
    assert_eq!(messages(&decoded(&answer.body))[0], (0, "hello".to_owned()));
}

#[test]
fn text_comes_in_pieces_of_any_cut() {
    let setup = setup();
    let call = message(0, b"hello, and more of it");
    let whole = STANDARD.encode(&call);
    // Two texts, of which the first is padded.
    let parts = [STANDARD.encode(&call[..7]), STANDARD.encode(&call[7..])].concat();
    for text in [whole, parts] {
        for size in [1, 3, 5, text.len()] {
            let mut client = Client::connect(setup.gateway.port());
            let head = "Content-Type: application/grpc-web-text+proto\r\nTransfer-Encoding: chunked\r\n";
            client.send(format!("POST {UNARY} HTTP/1.1\r\nHost: a\r\n{head}\r\n"));
            for piece in text.as_bytes().chunks(size) {
                client.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
            }
            client.send("0\r\n\r\n");
            let answer = client.answer_to("POST");
            assert_eq!(messages(&decoded(&answer.body))[0], (0, "hello, and more of it".to_owned()), "{size}: {answer:?}");
            // The connection goes on.
            assert_eq!(client.get("/plain/a").status, 200);
        }
        let answer = setup.call(&format!("/hashed{UNARY}"), "application/grpc-web-text", &[], text.as_bytes());
        assert_eq!(messages(&decoded(&answer.body))[0].1, "hello, and more of it", "{answer:?}");
        assert_eq!(answer.header("x-seen"), Some("1"), "{answer:?}");
    }
}

#[test]
fn what_is_wrong_with_a_call_is_a_status_in_the_head() {
    let setup = setup();
    for (path, kind, body, status) in [
        (UNARY, "application/grpc-web-text", &b"this is no base64!"[..], "3"),
        (UNARY, "application/grpc-web-text", b"AAAAAA", "3"),
        ("/hashed/portcullis.test.Echo/Unary", "application/grpc-web-text", b"AAAAAA", "3"),
        (UNARY, "application/grpc-web", &message(0, &vec![b'x'; 150_000]), "8"),
        (UNARY, "application/grpc-web-text", STANDARD.encode(message(0, &vec![b'x'; 150_000])).as_bytes(), "8"),
    ] {
        let answer = setup.call(path, kind, &[], body);
        assert_eq!((answer.status, answer.header("grpc-status"), answer.body.len()), (200, Some(status), 0), "{kind} {answer:?}");
    }
    // The bound is on the message, and not on the base64 of it.
    let large = STANDARD.encode(message(0, &vec![b'x'; 100_000]));
    let answer = setup.call(UNARY, "application/grpc-web-text", &[], large.as_bytes());
    assert_eq!(messages(&decoded(&answer.body))[0].1.len(), 100_000);
    let late = setup.call("/portcullis.test.Echo/Slow", "application/grpc-web", &[("grpc-timeout", "300m")], &message(0, b""));
    let told = late.header("grpc-status").map(str::to_owned).unwrap_or_else(|| messages(&late.body)[0].1.clone());
    assert!(told.contains('4'), "{late:?}");
    // After its first messages, the end of its time is told where the trailers would be.
    let ask = message(0, b"[1000, 0.05]");
    let late = setup.call("/portcullis.test.Echo/Count", "application/grpc-web", &[("grpc-timeout", "700m")], &ask);
    let all = messages(&late.body);
    let (flag, last) = all.last().unwrap();
    assert!(all.len() > 3 && *flag == 0x80 && last.contains("grpc-status: 4"), "{all:?}");
}

/// A page of another origin: its preflight is answered, and it may read what became of its call.
#[test]
fn pages_of_other_origins_call_where_cors_lets_them() {
    let setup = setup();
    let page = ("Origin", "https://app.example.com");
    let path = "/pages/portcullis.test.Echo/Unary";
    let asks = [page, ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "content-type,x-grpc-web")];
    let answer = request(setup.gateway.port(), "OPTIONS", path, &asks, b"");
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (204, Some("https://app.example.com")),
        "{answer:?}"
    );
    for (path, message_of) in [(path, true), ("/pages/portcullis.test.Nobody/Call", false)] {
        let answer = setup.call(path, "application/grpc-web+proto", &[page], &message(0, b"hello"));
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"), "{answer:?}");
        let exposed = answer.header("access-control-expose-headers").unwrap().to_ascii_lowercase();
        assert!(exposed.contains("grpc-status") && exposed.contains("grpc-message"), "{answer:?}");
        assert_eq!(!answer.body.is_empty(), message_of, "{answer:?}");
    }
}

#[test]
fn other_services_get_such_calls_as_they_came() {
    let setup = setup();
    let answer = setup.call("/plain/it", "application/grpc-web-text", &[], b"AAAA");
    assert_eq!(answer.status, 200);
    let asked = setup.plain.requests().into_iter().find(|asked| asked.target == "/plain/it").unwrap();
    assert_eq!((asked.header("content-type"), &asked.body[..]), (Some("application/grpc-web-text"), &b"AAAA"[..]));
}
