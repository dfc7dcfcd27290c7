//! Services that speak HTTP/2: what passes through to them and back, and how their connections are shared.

use std::io::{Read, Write};

use serde_json::{Value, json};

use super::peer::{Peer, play};
use crate::harness::*;

struct Setup {
    gateway: Gateway,
    _service: Peer,
}

/// `streams`: how many requests one connection to the service carries at once.
fn setup(streams: &str) -> Setup {
    let service = Peer::start("h2_service.js", &[streams]);
    let gateway = Gateway::start(&format!(
        "
         listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]
         server: {{ workers: 1 }}
         services: {{ it: {{ endpoints: ['127.0.0.1:{}'], protocol: http2 }} }}
         routes:
           - {{ path: /*, service: it }}
           - {{ path: /cached/*, service: it, policies: {{ cache: {{ ttl: 1m }} }} }}
           - {{ path: /busy/*, service: it, retries: {{ on: [ 503 ], methods: [ POST ], backoff: {{ base: 0s }} }} }}
           - {{ path: /busy/read, service: it, retries: {{ on: [ 503 ], methods: [ POST ] }}, policies: {{ validate: {{ json: true }} }} }}
           - {{ path: /changed/*, service: it, policies: {{ request_headers: {{ set: {{ x-late: ours }} }} }} }}
        ",
        service.port()
    ));
    Setup { gateway, _service: service }
}

impl Setup {
    fn play(&self, requests: &Value) -> Value {
        play("h2_client.js", &[&format!("http://127.0.0.1:{}", self.gateway.port()), &requests.to_string()])
    }

    fn one(&self, request: &Value) -> Value {
        self.play(&json!([request]))[0].clone()
    }
}

fn seen(facts: &Value) -> Value {
    serde_json::from_str(facts["body"].as_str().unwrap()).unwrap_or_else(|error| panic!("{error}: {facts}"))
}

#[test]
fn trailers_pass_in_both_directions() {
    let setup = setup("100");
    let trailers = json!({ "x-late": "yes", "x-consumer-name": "root", "x-forwarded-for": "6.6.6.6", "content-type": "a/b" });
    let request = |path: &str| json!({ "path": path, "method": "POST", "body": "hello", "trailers": trailers });
    let facts = setup.one(&request("/a"));
    assert_eq!(facts["trailers"], json!({ "x-checksum": "abc" }), "{facts}");
    // What could say who the client is, or what a message is, is no trailer.
    assert_eq!((&seen(&facts)["trailers"], &seen(&facts)["body"]), (&json!({ "x-late": "yes" }), &json!(5)), "{facts}");
    // What a policy has set, a trailer does not change back.
    let facts = setup.one(&request("/changed/a"));
    assert_eq!((&seen(&facts)["trailers"], &seen(&facts)["headers"]["x-late"]), (&json!({}), &json!("ours")), "{facts}");
    // Nor where the body's length was told, nor under a name that a service may fold into another.
    let told = json!({ "path": "/changed/a", "method": "POST", "headers": { "content-length": "5" }, "body": "hello",
        "trailers": { "x-late": "theirs", "x_auth_subject": "root", "x-fine": "1" } });
    let facts = setup.one(&told);
    assert_eq!(seen(&facts)["trailers"], json!({ "x-fine": "1" }), "{facts}");
    // A client of HTTP/1.1's gets them if it says that it takes them.
    let mut client = Client::connect(setup.gateway.port());
    client.send("GET /b HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close\r\n\r\n");
    let answer = String::from_utf8_lossy(&client.rest()).into_owned();
    assert!(answer.ends_with("\r\n0\r\nx-checksum: abc\r\n\r\n"), "{answer}");
}

#[test]
fn trailers_are_sent_again_with_their_body() {
    let setup = setup("100");
    for path in ["/busy/a", "/busy/read"] {
        let request = json!({ "path": path, "method": "POST", "headers": { "content-type": "application/json" }, "body": "[1]",
            "trailers": { "x-late": "yes", "x-consumer-name": "root" } });
        let facts = setup.one(&request);
        let seen = seen(&facts);
        assert_eq!(seen["headers"]["x-portcullis-attempt"], "2", "{path}: {facts}");
        assert_eq!((&seen["body"], &seen["trailers"]), (&json!(3), &json!({ "x-late": "yes" })), "{path}: {facts}");
    }
}

#[test]
fn interim_answers_and_expectations_pass() {
    let setup = setup("100");
    let facts = setup.one(&json!({ "path": "/hints" }));
    assert_eq!((&facts["status"], &facts["interim"]), (&json!(200), &json!([103])), "{facts}");
    let facts = setup.one(&json!({ "path": "/a", "method": "POST", "headers": { "expect": "100-continue" }, "body": "hello" }));
    assert_eq!((&facts["interim"], &seen(&facts)["headers"]["expect"]), (&json!([100]), &json!("100-continue")), "{facts}");
    for (target, interim) in
        [("/hints", "103 Early Hints\r\nlink: </style.css>\r\n\r\nHTTP/1.1 100 Continue"), ("/a", "100 Continue")]
    {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", setup.gateway.port())).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let fields = "Host: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close";
        stream.write_all(format!("POST {target} HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes()).unwrap();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("100 Continue\r\n\r\n") {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..count]);
        }
        assert_eq!(String::from_utf8_lossy(&seen), format!("HTTP/1.1 {interim}\r\n\r\n"));
        stream.write_all(b"hello").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"body\":5"), "{answer}");
    }
    // A service that refuses before the body is there never asks for it, and the client is not asked either.
    let mut client = Client::connect(setup.gateway.port());
    client.send("POST /early HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.answer_to("POST").status, 403);
}

#[test]
fn a_service_that_breaks_off_is_told_from_one_that_ends() {
    let setup = setup("100");
    // CANCEL reaches the client as what it is; what is about the gateway (ENHANCE_YOUR_CALM) does not.
    for (said, heard) in [(8, 8), (11, 2)] {
        let path = format!("/reset/{said}");
        let facts = setup.one(&json!({ "path": path }));
        assert_eq!((&facts["status"], &facts["reset"]), (&json!(200), &json!(heard)), "{path}");
        let line = setup.gateway.wait_log(|line| line["path"] == path.as_str());
        assert_eq!(line["reason"], "answer_broke_off", "{line}");
    }
    // HTTP/1.1 has no end for it: the body is not whole.
    let mut client = Client::connect(setup.gateway.port());
    client.send("GET /reset/8 HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = String::from_utf8_lossy(&client.rest()).into_owned();
    assert!(answer.contains("a part") && !answer.ends_with("0\r\n\r\n"), "{answer}");
    // It is the service's own word that nothing was done: asked again, and then told so.
    let facts = setup.one(&json!({ "path": "/refuse", "method": "POST", "body": "x" }));
    assert_eq!(facts["status"], 503, "{facts}");
    setup.gateway.wait_log(|line| line["path"] == "/refuse" && line["reason"] == "upstream_refused" && line["retries"] == 1);
}

#[test]
fn an_answer_of_unknown_length_is_stored() {
    let setup = setup("100");
    let answer = |path: &str| get(setup.gateway.port(), path);
    let first = answer("/cached/a");
    assert!(first.header("cache-status").unwrap().ends_with("fwd=miss; stored"), "{first:?}");
    assert!(first.header("content-length").is_none());
    let second = answer("/cached/a");
    assert!(second.header("cache-status").unwrap().contains("hit"), "{second:?}");
    assert_eq!(first.body, second.body);
}

#[test]
fn requests_share_a_connection_up_to_what_the_service_takes() {
    let requests = |count: usize| Value::Array(vec![json!({ "path": "/slow" }); count]);
    let connections =
        |facts: &Value| facts.as_array().unwrap().iter().map(|one| seen(one)["connections"].as_u64().unwrap()).max();
    let wide = setup("100");
    let facts = wide.play(&requests(50));
    assert_eq!(connections(&facts), Some(1), "one is made for all who wait for it");
    // The service's bound is known once the first connection is there.
    let narrow = setup("5");
    assert_eq!(connections(&narrow.play(&requests(1))), Some(1));
    let facts = narrow.play(&requests(20));
    let most = connections(&facts).unwrap();
    assert!((4..=5).contains(&most), "{most}");
    assert!(facts.as_array().unwrap().iter().all(|one| one["status"] == 200), "{facts}");
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_else() {
    // As many as fill a connection's window of the usual size many times over.
    let backend = Backend::answering(|request| match request.target.as_str() {
        "/long" => {
            let body = vec![b'x'; 4 << 20];
            [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes(), body].concat()
        }
        _ => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
    });
    let inner = Gateway::start(&format!(
        "
         listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]
         routes: [ {{ path: /*, service: 127.0.0.1, port: {} }} ]
        ",
        backend.port()
    ));
    let outer = Gateway::start(&format!(
        "
         listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
         server: {{ workers: 1 }}
         services: {{ it: {{ endpoints: ['127.0.0.1:{}'], protocol: http2 }} }}
         routes: [ {{ path: /*, service: it }} ]
        ",
        inner.port()
    ));
    let mut stopped: Vec<Client> = (0..40).map(|_| Client::connect(outer.port())).collect();
    for client in &mut stopped {
        client.send("GET /long HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    let in_flight = || {
        let services: Value = serde_json::from_str(&outer.admin_get("/upstreams").1).unwrap();
        services["services"][0]["endpoints"][0]["in_flight"].clone()
    };
    eventually("all of them wait for their clients", || in_flight() == 40);
    for _ in 0..20 {
        assert_eq!(get(outer.port(), "/short").text(), "ok");
    }
    for mut client in stopped {
        assert_eq!(client.answer_to("GET").body.len(), 4 << 20);
    }
}
