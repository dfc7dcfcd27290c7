//! HTTP/2 frames by hand: what no library would send. Fields go out as literals without indexing (RFC 7541, section 6.2.2), so nothing
//! has to be encoded; of answers only the frames and the bodies are read.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::wire::*;
use crate::harness::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// How a stream ended.
#[derive(Debug, Default)]
pub(super) struct Answer {
    body: Vec<u8>,
    headers: usize,
    pub(super) ended: bool,
    /// By RST_STREAM, GOAWAY or the connection's end.
    pub(super) broken: Option<String>,
}

impl Answer {
    pub(super) fn problem(&self) -> (u64, String) {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        (body["status"].as_u64().unwrap_or(0), body["reason"].as_str().unwrap_or_default().to_owned())
    }

    fn is_refusal(&self) -> bool {
        let (status, reason) = self.problem();
        self.ended && (400..500).contains(&status) && !reason.is_empty()
    }
}

pub(super) struct Client {
    socket: TcpStream,
    read: Vec<u8>,
    /// What the gateway lets a client send: on the connection, on a new stream, and on the stream that sends.
    connection: i64,
    initial: i64,
    stream: (u32, i64),
}

impl Client {
    pub(super) fn connect(port: u16) -> Self {
        let mut socket = connect(port);
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let mut client = Client { socket, read: Vec::new(), connection: 65_535, initial: 65_535, stream: (0, 0) };
        client.send(SETTINGS, 0, 0, b"");
        client
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        self.socket.write_all(&frame).is_ok()
    }

    pub(super) fn headers(&mut self, stream: u32, fields: &[(&[u8], &[u8])], end: bool) -> bool {
        self.send(HEADERS, END_HEADERS | if end { END_STREAM } else { 0 }, stream, &literal(fields))
    }

    pub(super) fn data(&mut self, stream: u32, data: &[u8], end: bool) -> bool {
        let mut pieces = data.chunks(16_384).peekable();
        if data.is_empty() {
            return self.send(DATA, u8::from(end), stream, b"");
        }
        while let Some(piece) = pieces.next() {
            let size = piece.len() as i64;
            if self.stream.0 != stream {
                self.stream = (stream, 0);
            }
            let until = Instant::now() + SOON;
            while self.connection < size || self.initial + self.stream.1 < size {
                if !matches!(self.frame(until), Ok(Some(_))) {
                    return false;
                }
            }
            self.connection -= size;
            self.stream.1 -= size;
            if !self.send(DATA, u8::from(end && pieces.peek().is_none()), stream, piece) {
                return false;
            }
        }
        true
    }

    /// The next frame; `None` if the connection ended or nothing came in time.
    fn frame(&mut self, until: Instant) -> Result<Option<Frame>, String> {
        let mut piece = [0; 65536];
        loop {
            if self.read.len() >= 9 {
                let length = usize::from(self.read[0]) << 16 | usize::from(self.read[1]) << 8 | usize::from(self.read[2]);
                if self.read.len() >= 9 + length {
                    let frame: Vec<u8> = self.read.drain(..9 + length).collect();
                    let stream = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
                    let frame = Frame { kind: frame[3], flags: frame[4], stream, payload: frame[9..].to_vec() };
                    let number = |at: usize| i64::from(u32::from_be_bytes(frame.payload[at..at + 4].try_into().unwrap()));
                    if frame.kind == WINDOW_UPDATE && frame.stream == 0 {
                        self.connection += number(0);
                    } else if frame.kind == WINDOW_UPDATE && frame.stream == self.stream.0 {
                        self.stream.1 += number(0);
                    }
                    if frame.kind == SETTINGS && frame.flags == 0 {
                        for at in (0..frame.payload.len()).step_by(6).filter(|&at| frame.payload[at..at + 2] == [0, 4]) {
                            self.initial = number(at + 2);
                        }
                        self.send(SETTINGS, 1, 0, b"");
                    }
                    if frame.kind == DATA && length > 0 {
                        let grant = u32::try_from(length).unwrap().to_be_bytes();
                        self.send(WINDOW_UPDATE, 0, 0, &grant);
                        self.send(WINDOW_UPDATE, 0, frame.stream, &grant);
                    }
                    return Ok(Some(frame));
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left)).unwrap();
            match self.socket.read(&mut piece) {
                Ok(0) => return Err("closed".to_owned()),
                Ok(count) => self.read.extend_from_slice(&piece[..count]),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Reads until this stream ends one way or the other.
    pub(super) fn answer(&mut self, stream: u32, patience: Duration) -> Answer {
        let mut answer = Answer::default();
        let until = Instant::now() + patience;
        loop {
            match self.frame(until) {
                Err(why) => {
                    answer.broken = Some(why);
                    return answer;
                }
                Ok(None) => return answer,
                Ok(Some(frame)) if frame.kind == GOAWAY && frame.payload[4..8] != [0; 4] => {
                    answer.broken = Some(format!("GOAWAY {:?}", &frame.payload[4..8]));
                    return answer;
                }
                Ok(Some(frame)) if frame.stream == stream => match frame.kind {
                    RST_STREAM => {
                        answer.broken = Some(format!("RST_STREAM {:?}", frame.payload));
                        return answer;
                    }
                    DATA | HEADERS => {
                        if frame.kind == DATA {
                            answer.body.extend(frame.payload);
                        } else {
                            answer.headers += 1;
                        }
                        if frame.flags & END_STREAM != 0 {
                            answer.ended = true;
                            return answer;
                        }
                    }
                    _ => {}
                },
                Ok(Some(_)) => {}
            }
        }
    }
}

fn literal(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(text.len(), &mut block);
            block.extend_from_slice(text);
        }
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541, section 5.1).
fn length(length: usize, out: &mut Vec<u8>) {
    if length < 127 {
        return out.push(length as u8);
    }
    out.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        out.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    out.push(rest as u8);
}

pub(super) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn fields(list: &[(&str, &str)]) -> Fields {
    list.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

pub(super) fn borrowed(list: &Fields) -> Vec<(&[u8], &[u8])> {
    list.iter().map(|(name, value)| (&name[..], &value[..])).collect()
}

/// An ordinary request, with the pseudo-header fields of this name replaced and these fields behind it.
pub(super) fn request(method: &str, replaced: &[(&str, &str)], more: &[(&str, &str)]) -> Fields {
    let base = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", "/ok/x")];
    let pseudo: Vec<_> = base
        .iter()
        .map(|(name, value)| (*name, replaced.iter().find(|(known, _)| known == name).map_or(*value, |(_, value)| *value)))
        .collect();
    fields(&[&pseudo[..], more].concat())
}

fn without(name: &str) -> Fields {
    request("GET", &[], &[]).into_iter().filter(|(known, _)| known != name.as_bytes()).collect()
}

#[test]
fn malformed_streams_never_reach_a_backend() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let mut cases: Vec<(Fields, &[u8], bool)> = Vec::new();
    let get = |more: &[(&str, &str)]| request("GET", &[], more);
    for (name, value) in [
        ("connection", "close"),
        ("connection", "x"),
        ("proxy-connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("upgrade", "h2c"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, deflate"),
        ("X-Upper", "a"),
        ("x y", "a"),
        ("x\r\ny", "a"),
        ("x:y", "a"),
        ("", "a"),
        ("x\0", "a"),
        ("x\u{e4}", "a"),
        ("x", "a\r\nhost: b"),
        ("x", "a\nb"),
        ("x", "a\rb"),
        ("x", "a\0b"),
        ("x", "a\u{7f}b"),
        ("x", "a\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("transfer-encoding", "chunked\r\nx: y"),
        ("host", "b"),
        ("host", ""),
        ("host", "a b"),
        (":path", "/smuggled"),
        (":method", "GET"),
        (":authority", "b"),
        (":scheme", "http"),
        (":status", "200"),
        (":protocol", "websocket"),
        (":x", "y"),
        ("content-length", "+1"),
        ("content-length", "1, 1"),
        ("content-length", "x"),
        ("content-length", "-1"),
        ("content-length", ""),
        ("content-length", "99999999999999999999"),
        ("expect", "x"),
    ] {
        cases.push((get(&[(name, value)]), b"", true));
    }
    cases.push((get(&[("host", "a"), ("host", "a")]), b"", true));
    cases.push((get(&[("x", "y"), (":path", "/smuggled")]), b"", true));
    for value in [
        "",
        "ok/x",
        "http://b/ok/x",
        "/ok/x y",
        "/ok/x\r\n",
        "/ok/x HTTP/1.1\r\nhost: a\r\n\r\nGET /smuggled",
        "/ok/x\0",
        "/ok/x\u{7f}",
        "/ok/\u{e4}",
        "/ok/\\x",
        "/ok/%",
        "/ok/%00",
        "/../smuggled",
        "/ok/..%2f..%2fsmuggled",
        "*",
        "//..",
        "/ok/x?a b",
        "/ok/x\t",
    ] {
        cases.push((request("GET", &[(":path", value)], &[]), b"", true));
    }
    for value in ["b@a", "a/b", "a b", "a\r\nx: y", "a\0", "a:x", "a:99999", "", "a,b", "[::1", "a#b", "a?b", "\u{e4}"] {
        cases.push((request("GET", &[(":authority", value)], &[]), b"", true));
    }
    for value in ["", "G T", "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\nGET", "GET\0", "G\u{e4}T", "CONNECT", "GET:"] {
        cases.push((request(value, &[], &[]), b"", true));
    }
    for name in [":method", ":path", ":scheme"] {
        cases.push((without(name), b"", true));
    }
    cases.push((without(":authority"), b"", true));
    // What Content-Length says and what comes.
    for (length, body) in
        [("5", &b"hell"[..]), ("4", b"hello"), ("0", b"hello"), ("5", b""), ("40", b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n")]
    {
        cases.push((request("POST", &[], &[("content-length", length)]), body, false));
    }
    cases.push((request("POST", &[], &[("content-length", "5")]), b"", true));
    cases.push((request("POST", &[], &[("content-length", "4"), ("content-length", "5")]), b"hello", false));
    cases.push((request("POST", &[], &[("content-length", "5"), ("content-length", "5")]), b"hello", false));
    each(&cases, |(fields, body, end)| {
        let mut client = Client::connect(gateway.port());
        client.headers(1, &borrowed(fields), *end);
        if !end {
            client.data(1, body, true);
        }
        let answer = client.answer(1, SOON);
        let shown: Vec<_> =
            fields.iter().map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii())).collect();
        if answer.is_refusal()
            || answer.broken.is_some() && answer.headers == 0
            || answer.headers > 0 && answer.ended && answer.body.is_empty()
        {
            Ok(())
        } else {
            Err(format!("{shown:?} {}\n  {answer:?} {}", body.escape_ascii(), answer.body.escape_ascii()))
        }
    });
    let seen = backend.seen().unwrap();
    // A length of 0 is a whole request without body before the frames that contradict it come.
    let empty = |seen: &Seen| seen.field("content-length") == Some("0") && seen.body.is_empty();
    assert!(seen.iter().all(|seen| !seen.whole || empty(seen)), "{seen:?}");
    still_well(&gateway);
}

#[test]
fn methods_are_what_they_are_over_http_1() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let mut client = Client::connect(gateway.port());
    let cases = [("get", 400, "method_case"), ("dElete", 400, "method_case"), ("TRACE", 405, "trace"), ("TRACK", 405, "trace")];
    for ((method, status, reason), stream) in cases.into_iter().zip((1..).step_by(2)) {
        client.headers(stream, &borrowed(&request(method, &[(":path", "/ok/x?key=secret")], &[])), true);
        assert_eq!(client.answer(stream, SOON).problem(), (status, reason.to_owned()), "{method}");
        let line = gateway.wait_log(|line| line["method"] == method);
        assert_eq!((&line["path"], &line["host"], &line["protocol"]), (&"/ok/x".into(), &"a".into(), &"h2".into()), "{line}");
    }
    assert!(backend.is_untouched());
    still_well(&gateway);
}

#[test]
fn what_http_2_refuses_is_told_to_the_operator() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let mut client = Client::connect(gateway.port());
    // What the gateway itself can refuse gets a problem document and a log line, as over HTTP/1.1; its neighbours live on.
    let big = "x".repeat(40_000);
    let host: (&str, &str) = ("host", "b");
    let cases: [(Fields, u64, &str); 4] = [
        (request("GET", &[], &[host]), 400, "host"),
        (request("GET", &[(":authority", "u@a")], &[]), 400, "host"),
        (request("GET", &[(":path", "/ok/..%2f..%2fx")], &[]), 400, "path_hidden_traversal"),
        (request("GET", &[], &[("x-big", &big)]), 431, "head_too_large"),
    ];
    for ((fields, status, reason), stream) in cases.iter().zip((1..).step_by(2)) {
        let block = literal(&borrowed(fields));
        let mut pieces = block.chunks(16_000).peekable();
        let mut kind = HEADERS;
        while let Some(piece) = pieces.next() {
            let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            client.send(kind, last | if kind == HEADERS { END_STREAM } else { 0 }, stream, piece);
            kind = CONTINUATION;
        }
        assert_eq!(client.answer(stream, SOON).problem(), (*status, (*reason).to_owned()), "{reason}");
        let id = gateway.wait_log(|line| line["reason"] == *reason && line["protocol"] == "h2");
        assert_eq!((&id["method"], &id["client"]), (&"GET".into(), &"127.0.0.1".into()), "{id}");
    }
    // What the protocol's library resets before anybody hears of it is counted, and told at most once a second.
    let count = |reason: &str| gateway.metric(&format!("portcullis_connections_refused_total{{reason=\"{reason}\"}}"));
    let mut stream = 101;
    for fields in [
        without(":method"),
        request("GET", &[], &[("connection", "close")]),
        request("GET", &[(":path", "/ok/a`b")], &[]),
        request("GET", &[("x", "")], &[(":path", "/smuggled")]),
    ] {
        client.headers(stream, &borrowed(&fields), true);
        assert!(client.answer(stream, SOON).broken.is_some_and(|why| why.starts_with("RST_STREAM")), "{fields:?}");
        stream += 2;
    }
    gateway.wait_metric("portcullis_connections_refused_total{reason=\"h2_malformed_request\"}", 4.0);
    client.headers(stream, &borrowed(&request("GET", &[], &[])), true);
    assert_eq!(client.answer(stream, SOON).body, b"/ok/x");
    // The library cannot tell a field that breaks the rules from a broken connection: it ends all of it, and that is told as well.
    let mut client = Client::connect(gateway.port());
    client.headers(1, &borrowed(&request("GET", &[], &[("X-Upper", "a")])), true);
    assert!(client.answer(1, SOON).broken.is_some());
    gateway.wait_metric("portcullis_connections_refused_total{reason=\"h2_connection_error\"}", 1.0);
    crate::harness::eventually("the operator is told", || {
        let mut client = Client::connect(gateway.port());
        client.headers(1, &borrowed(&without(":method")), true);
        client.answer(1, SOON);
        gateway.stderr().contains("HTTP/2 of 127.0.0.1:") && gateway.stderr().contains("refused: h2_malformed_request")
    });
    // Who just leaves has broken no rule.
    drop(client);
    assert!(count("h2_connection_error") < 1.5);
    still_well(&gateway);
}

#[test]
fn odd_but_clear_streams_pass_clean() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let hidden = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = hidden.len().to_string();
    let cases = [
        request("POST", &[], &[]),
        request("POST", &[], &[("content-length", &length)]),
        request("POST", &[], &[("host", "a"), ("te", "trailers")]),
        request("POST", &[], &[("cookie", "a=1"), ("cookie", "b=2")]),
        request("POST", &[], &[("transfer_encoding", "chunked"), ("content_length", "1")]),
        request("POST", &[(":path", "/ok/../ok//./%78")], &[("x-forwarded-for", "6.6.6.6"), ("http2-settings", "AAMAAABkAAQ")]),
        fields(&[(":method", "POST"), (":scheme", "http"), (":path", "/ok/x"), ("host", "a")]),
    ];
    for fields in &cases {
        let before = backend.seen().unwrap().len();
        let mut client = Client::connect(gateway.port());
        client.headers(1, &borrowed(fields), false);
        // Empty frames, at the beginning, in the middle and at the end.
        for piece in [&b""[..], b"", &hidden.as_bytes()[..9], b"", &hidden.as_bytes()[9..], b""] {
            client.data(1, piece, false);
        }
        client.data(1, b"", true);
        let answer = client.answer(1, SOON);
        assert!(answer.ended && answer.body == b"/ok/x", "{fields:?} {answer:?}");
        let seen = backend.seen().unwrap();
        let [seen] = &seen[before..] else { panic!("{seen:?}") };
        assert!(seen.whole && seen.target == "/ok/x" && seen.body == hidden.as_bytes(), "{seen:?}");
        let names = seen.names();
        assert!(
            !names
                .iter()
                .any(|name| name.contains('_') || ["te", "http2-settings", "upgrade", "connection"].contains(&name.as_str())),
            "{names:?}"
        );
        assert!(!format!("{seen:?}").contains("6.6.6.6"), "{seen:?}");
        assert!(names.iter().filter(|name| *name == "cookie").count() <= 1);
    }
    assert!(backend.seen().unwrap().iter().any(|seen| seen.field("cookie") == Some("a=1; b=2")));
    still_well(&gateway);
}

#[test]
fn a_stream_that_breaks_off_is_never_completed() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    // NO_ERROR, CANCEL, and a connection that just ends.
    for code in [Some(0u32), Some(8), None] {
        for path in ["/ok/x", "/json/x"] {
            let mut client = Client::connect(gateway.port());
            client.headers(1, &borrowed(&request("POST", &[(":path", path)], &[("content-type", "application/json")])), false);
            client.data(1, b"[1", false);
            std::thread::sleep(QUIET / 4);
            match code {
                Some(code) => drop(client.send(RST_STREAM, 0, 1, &code.to_be_bytes())),
                None => continue,
            }
            // The connection lives on.
            client.headers(3, &borrowed(&request("GET", &[(":path", "/ok/y")], &[])), true);
            assert_eq!(client.answer(3, SOON).body, b"/ok/y");
        }
    }
    let log = || gateway.log().iter().filter(|line| line["method"] == "POST").count();
    crate::harness::eventually("every request has left its line", || log() == 6);
    let seen = backend.seen().unwrap();
    assert!(seen.iter().all(|seen| seen.target == "/ok/y" || !seen.whole), "{seen:?}");
    still_well(&gateway);
}

#[test]
fn trailers_of_a_request_change_nothing() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    for trailers in [
        &[(&b"x-real-ip"[..], &b"6.6.6.6"[..]), (b"content-length", b"1"), (b"host", b"evil")][..],
        &[(b":path", b"/smuggled")],
        &[(b"transfer-encoding", b"chunked")],
        &[(b"x", b"a\r\nGET /smuggled HTTP/1.1\r\n")],
    ] {
        let mut client = Client::connect(gateway.port());
        client.headers(1, &borrowed(&request("POST", &[], &[])), false);
        client.data(1, b"hello", false);
        client.headers(1, trailers, true);
        let answer = client.answer(1, SOON);
        assert!(answer.ended || answer.broken.is_some(), "{answer:?}");
    }
    let seen = backend.seen().unwrap();
    assert!(!format!("{seen:?}").contains("6.6.6.6") && !format!("{seen:?}").contains("evil"), "{seen:?}");
    still_well(&gateway);
}

#[test]
fn bodies_have_bounds_and_come_whole() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    // Over the bound, with and without a length that says so.
    for length in [Some("5000"), None] {
        let more: Vec<_> = length.iter().map(|length| ("content-length", *length)).collect();
        let mut client = Client::connect(gateway.port());
        client.headers(1, &borrowed(&request("POST", &[(":path", "/small/x")], &more)), false);
        client.data(1, &[b'a'; 5000], true);
        let answer = client.answer(1, SOON);
        assert_eq!(answer.problem(), (413, "body_too_large".to_owned()), "{length:?} {answer:?}");
        // The connection is none the worse for it.
        client.headers(3, &borrowed(&request("GET", &[], &[])), true);
        assert_eq!(client.answer(3, SOON).body, b"/ok/x");
    }
    assert!(backend.seen().unwrap().iter().all(|seen| seen.target == "/ok/x" || !seen.whole));
    // JSON is read whole before it goes on, also where it is longer than what Pingora would keep.
    for size in [100, 65_000, 65_536, 70_000, 200_000, 900_000] {
        for length in [true, false] {
            let body = format!("[\"{}\"]", "a".repeat(size));
            let text = body.len().to_string();
            let mut more = vec![("content-type", "application/json")];
            more.extend(length.then_some(("content-length", text.as_str())));
            let mut client = Client::connect(gateway.port());
            client.headers(1, &borrowed(&request("POST", &[(":path", "/json/x")], &more)), false);
            assert!(client.data(1, body.as_bytes(), false) && client.data(1, b"", true), "{size} {length}");
            let answer = client.answer(1, SOON);
            assert_eq!(answer.body, b"/json/x", "{size} {length} {answer:?}");
            let seen = backend.seen().unwrap();
            let whole = seen.iter().filter(|seen| seen.whole && seen.body == body.as_bytes()).count();
            assert_eq!(whole, if length { 1 } else { 2 }, "{size} {length}");
        }
    }
    let mut client = Client::connect(gateway.port());
    client.headers(1, &borrowed(&request("POST", &[(":path", "/json/x")], &[("content-type", "application/json")])), false);
    client.data(1, b"[1,", true);
    assert_eq!(client.answer(1, SOON).problem().0, 400);
    still_well(&gateway);
}

#[test]
fn floods_of_frames_end_the_connection_or_nothing() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let ask = borrowed_request();
    let fine = || {
        let mut client = Client::connect(gateway.port());
        client.headers(1, &borrowed(&ask), true);
        assert_eq!(client.answer(1, SOON).body, b"/ok/x");
    };
    // Rapid reset (CVE-2023-44487).
    let mut client = Client::connect(gateway.port());
    for at in 0..20_000u32 {
        let stream = at * 2 + 1;
        if !client.headers(stream, &borrowed(&ask), true) || !client.send(RST_STREAM, 0, stream, &8u32.to_be_bytes()) {
            break;
        }
    }
    let ended = client.answer(u32::MAX, Duration::from_secs(3));
    assert!(ended.broken.is_some(), "20,000 resets went unanswered");
    fine();
    // Streams that are refused one by one.
    let mut client = Client::connect(gateway.port());
    for at in 0..2000u32 {
        if !client.headers(at * 2 + 1, &borrowed(&request("GET", &[], &[("transfer-encoding", "chunked")])), true) {
            break;
        }
    }
    drop(client);
    fine();
    // A head that never ends (CVE-2024-27316).
    let mut client = Client::connect(gateway.port());
    client.send(HEADERS, END_STREAM, 1, &literal(&borrowed(&ask)));
    let mut sent = 0;
    while sent < 20_000 && client.send(CONTINUATION, 0, 1, &literal(&[(b"x-filler", &[b'a'; 4000])])) {
        sent += 1;
    }
    assert!(client.answer(1, Duration::from_secs(3)).broken.is_some(), "{sent} frames");
    fine();
    // A head over the bound, within the protocol.
    let mut client = Client::connect(gateway.port());
    let wide = vec![b'a'; 15_000];
    client.send(HEADERS, END_STREAM, 1, &literal(&borrowed(&ask)));
    client.send(CONTINUATION, 0, 1, &literal(&[(b"x-a", &wide)]));
    client.send(CONTINUATION, 0, 1, &literal(&[(b"x-b", &wide)]));
    client.send(CONTINUATION, END_HEADERS, 1, &literal(&[(b"x-c", &wide)]));
    let answer = client.answer(1, SOON);
    assert!(answer.is_refusal() || answer.broken.is_some() || answer.ended && answer.body.is_empty(), "{answer:?}");
    fine();
    // Many fields, and a long target.
    let many: Vec<_> = (0..200).map(|_| ("x", "y")).collect();
    let mut client = Client::connect(gateway.port());
    client.headers(1, &borrowed(&request("GET", &[], &many)), true);
    assert_eq!(client.answer(1, SOON).problem(), (431, "too_many_headers".to_owned()));
    let long = format!("/ok/{}", "x".repeat(9000));
    client.headers(3, &borrowed(&request("GET", &[(":path", &long)], &[])), true);
    assert_eq!(client.answer(3, SOON).problem(), (414, "uri_too_long".to_owned()));
    // Pings, settings, empty frames, and frames out of place.
    for (kind, flags, stream, payload) in [
        (PING, 0, 0, &[0; 8][..]),
        (SETTINGS, 0, 0, b""),
        (DATA, 0, 1, b""),
        (DATA, 0, 5, b"x"),
        (WINDOW_UPDATE, 0, 0, &[0; 4]),
        (WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        (PING, 0, 0, b"x"),
        (HEADERS, END_HEADERS, 0, b""),
        (HEADERS, END_HEADERS, 2, b"\x82"),
        (CONTINUATION, END_HEADERS, 1, b"\x82"),
        (HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff"),
        (200, 255, 7, b"what"),
        (5, 4, 1, b"\0\0\0\x02\x82"),
    ] {
        let mut client = Client::connect(gateway.port());
        for _ in 0..500 {
            if !client.send(kind, flags, stream, payload) {
                break;
            }
        }
        drop(client);
    }
    fine();
    assert!(backend.seen().unwrap().iter().all(|seen| seen.target == "/ok/x"));
    still_well(&gateway);
}

fn borrowed_request() -> Fields {
    request("GET", &[], &[])
}

#[test]
fn silent_connections_do_not_stay() {
    let backend = Recorder::start();
    let gateway = crate::harness::Gateway::start(&format!(
        "
listeners:
  - {{ bind: '127.0.0.1:$PORT', h2c: true, timeouts: {{ header: 600ms, keep_alive: 700ms, body: 600ms, handshake: 600ms, request: 1500ms }} }}
routes:
  - {{ path: /ok/*, service: 127.0.0.1, port: {0} }}
  - {{ path: /json/*, service: 127.0.0.1, port: {0}, policies: {{ validate: {{ json: true }} }} }}
",
        backend.port()
    ));
    let closed = |client: &mut Client, what: &str| {
        let until = Instant::now() + SOON;
        loop {
            match client.frame(until) {
                Err(_) => return,
                Ok(Some(_)) => {}
                Ok(None) => panic!("{what}: still open"),
            }
        }
    };
    closed(&mut Client::connect(gateway.port()), "no stream at all");
    let mut client = Client::connect(gateway.port());
    client.headers(1, &borrowed(&borrowed_request()), true);
    assert_eq!(client.answer(1, SOON).body, b"/ok/x");
    closed(&mut client, "idle after a stream");
    let mut client = Client::connect(gateway.port());
    client.send(HEADERS, END_STREAM, 1, &literal(&borrowed(&borrowed_request())));
    closed(&mut client, "a head that does not end");
    // A body that stops.
    for path in ["/ok/x", "/json/x"] {
        let mut client = Client::connect(gateway.port());
        client.headers(1, &borrowed(&request("POST", &[(":path", path)], &[("content-type", "application/json")])), false);
        client.data(1, b"[", false);
        let answer = client.answer(1, SOON);
        assert_eq!(answer.problem(), (408, "body_timeout".to_owned()), "{path} {answer:?}");
    }
    still_well(&gateway);
}
