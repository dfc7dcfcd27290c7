//! HTTP/1.1 requests that two parsers could read in two ways: the known families, one by one.

use std::io::Write;

use super::wire::*;

/// What a second parser would take for a request.
const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\nX: ";

fn head(line: &str, fields: &str) -> Vec<u8> {
    format!("{line}\r\nHost: a\r\n{fields}\r\n\r\n").into_bytes()
}

/// `POST /ok/x` with these field lines and this body.
fn post(fields: &str, body: &str) -> Vec<u8> {
    [head("POST /ok/x HTTP/1.1", fields), body.as_bytes().to_vec()].concat()
}

/// Refused at the door: this status and reason, `Connection: close`, a closed connection, and no byte to a backend.
fn refused(port: u16, attack: &[u8], status: u16, reason: &str) -> Result<(), String> {
    let talk = talk(port, attack, SOON);
    let fail = |why: &str| Err(format!("{}\n  {why}: {}", attack[..attack.len().min(300)].escape_ascii(), talk.show()));
    if !talk.closed {
        return fail("not closed");
    }
    let replies = talk.replies().map_err(|why| format!("{}\n  {why}", attack.escape_ascii()))?;
    let [reply] = &replies[..] else { return fail("not one answer") };
    if (reply.status, reply.reason().as_str()) != (status, reason) {
        return fail(&format!("wanted {status} {reason}"));
    }
    if reply.field("connection") != Some("close") || !reply.whole || reply.field("x-request-id").is_none() {
        return fail("an incomplete refusal");
    }
    Ok(())
}

/// Heads that are refused, with their status and reason.
pub fn bad_heads() -> Vec<(Vec<u8>, u16, &'static str)> {
    let chunk = format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len());
    let both = format!("0\r\n\r\n{HIDDEN}");
    let mut cases: Vec<(Vec<u8>, u16, &'static str)> = Vec::new();
    let mut add = |attack: Vec<u8>, status: u16, reason: &'static str| cases.push((attack, status, reason));

    // CL.TE and TE.CL, in both orders and whatever the values.
    for fields in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "content-length: 4\r\ntransfer-encoding: CHUNKED",
        "Content-Length: 4\r\nTransfer-Encoding:\tchunked",
    ] {
        add(post(fields, &both), 400, "ambiguous_framing");
        add(post(fields, &chunk), 400, "ambiguous_framing");
    }
    // TE.TE: codings that one parser takes for chunked and another does not.
    for value in [
        "xchunked",
        "chunkedx",
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "identity, chunked",
        "chunked, identity",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "\"chunked\"",
        "'chunked'",
        "chunked;q=1",
        "chunked; a=b",
        "",
        "cow",
        "chunk",
        "chu\tnked",
        "chunked\u{a0}",
        "\u{a0}chunked",
    ] {
        add(post(&format!("Transfer-Encoding: {value}"), &chunk), 400, "transfer_encoding");
        add(post(&format!("Content-Length: 4\r\nTransfer-Encoding: {value}"), &chunk), 400, "transfer_encoding");
    }
    add(post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", &chunk), 400, "transfer_encoding");
    add(post("Transfer-Encoding: chunked\r\ntransfer-encoding: identity", &chunk), 400, "transfer_encoding");
    add(post("Transfer-Encoding: cow\r\nTransfer-Encoding: chunked", &chunk), 400, "transfer_encoding");
    add(b"POST /ok/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(), 400, "transfer_encoding");
    for field in [
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding: chunked\u{b}",
        "Transfer-Encoding:\u{b}chunked",
        "Transfer-Encoding:\u{c}chunked",
        "Transfer-Encoding: chunked\0",
        "Transfer\0-Encoding: chunked",
        "Transfer-Encoding\u{b}: chunked",
        "X: a\r\n Transfer-Encoding: chunked",
        "X: a\r\n\tTransfer-Encoding: chunked",
        "X: a\rTransfer-Encoding: chunked",
        "Transfer-Encoding:\r chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding\r: chunked",
        "Transfer Encoding: chunked",
        "(Transfer-Encoding): chunked",
        "Transfer-Encoding",
        "Transfer-Encoding chunked",
        "Tr\u{e4}nsfer-Encoding: chunked",
        "\u{feff}Transfer-Encoding: chunked",
        "Transfer-Encoding\u{a0}: chunked",
        "\u{7f}Transfer-Encoding: chunked",
        "Transfer-Encoding: chunked\u{7f}",
        "\"Transfer-Encoding\": chunked",
        "Content-Length : 4",
        "Content-Length\t: 4",
        "Content-\0Length: 4",
        " Content-Length: 4",
        "\tContent-Length: 4",
        ": 4",
        "Content-Length\r\n: 4",
        "Content-Length: 4\r\n 4",
    ] {
        add(post(&format!("{field}\r\nX-Y: z"), &chunk), 400, "malformed_header");
        // The same as the very first field.
        let attack = format!("POST /ok/x HTTP/1.1\r\n{field}\r\nHost: a\r\n\r\n{chunk}");
        add(attack.into_bytes(), 400, "malformed_header");
    }
    // Content-Length that is no number, or not one.
    for value in [
        "+4",
        "-4",
        "-0",
        "0x4",
        "4 4",
        "4,4",
        "4, 4",
        "4,",
        ",4",
        "",
        "4.0",
        "4e0",
        "\"4\"",
        "4;",
        "\u{b2}",
        "99999999999999999999",
        "18446744073709551616",
        "18446744073709551620",
        "4\u{a0}",
        "four",
        "1_0",
        "0b1",
        "0o4",
        "4L",
        "00",
        "04",
        "0044",
    ] {
        add(post(&format!("Content-Length: {value}"), HIDDEN), 400, "content_length");
    }
    add(post("Content-Length: 4\r\nContent-Length: 4", HIDDEN), 400, "content_length");
    add(post("Content-Length: 4\r\nContent-Length: 5", HIDDEN), 400, "content_length");
    add(post("Content-Length: 0\r\nCONTENT-LENGTH: 44", HIDDEN), 400, "content_length");
    // Lines that end with something else than CR LF.
    add(b"GET /ok/x HTTP/1.1\nHost: a\n\n".to_vec(), 400, "bare_line_feed");
    add(b"GET /ok/x HTTP/1.1\r\nHost: a\n\r\n".to_vec(), 400, "bare_line_feed");
    add(b"GET /ok/x HTTP/1.1\r\nHost: a\r\n\n".to_vec(), 400, "bare_line_feed");
    add(
        format!("POST /ok/x HTTP/1.1\r\nHost: a\r\nX: a\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{chunk}")
            .into_bytes(),
        400,
        "bare_line_feed",
    );
    add(
        format!("POST /ok/x HTTP/1.1\r\nHost: a\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n{chunk}").into_bytes(),
        400,
        "bare_line_feed",
    );
    add(b"\nGET /ok/x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 400, "bare_line_feed");
    add(b"GET /ok/x HTTP/1.1\rHost: a\r\r\n\r\n".to_vec(), 400, "malformed_request_line");
    // Hosts: none, two, or one that the target contradicts.
    let line = "GET /ok/x HTTP/1.1\r\n";
    for fields in [
        "",
        "Host: a\r\nHost: a",
        "Host: a\r\nhost: b",
        "Host:",
        "Host: a b",
        "Host: a, b",
        "Host: a/b",
        "Host: a\\b",
        "Host: u@a",
        "Host: a#b",
        "Host: a?b",
        "Host: a:b",
        "Host: a:99999",
        "Host: a:-1",
        "Host: a:+1",
        "Host: [::1",
        "Host: [::1]x",
        "Host: [a]",
        "Host: \u{e4}",
        "Host: a%00b",
        "Host: \"a\"",
        "Host: http://a",
        "Host: .",
        "Host: a:80:80",
    ] {
        let fields = if fields.is_empty() { String::new() } else { format!("{fields}\r\n") };
        add(format!("{line}{fields}\r\n").into_bytes(), 400, "host");
    }
    for target in [
        "http://b/ok/x",
        "HTTP://b/ok/x",
        "http://a:81/ok/x",
        "http://u@a/ok/x",
        "http:///ok/x",
        "http://a@b/ok/x",
        "http://b?/ok/x",
        "http://a.b/ok/x",
    ] {
        add(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes(), 400, "host");
    }
    add(b"GET http://a/ok/x HTTP/1.1\r\n\r\n".to_vec(), 400, "host");
    add(b"GET http://a/ok/x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_vec(), 400, "host");
    // Request lines.
    for line in [
        "GET  /ok/x HTTP/1.1",
        "GET /ok/x HTTP/1.10",
        "GET /ok/x HTTP/1.1 ",
        "GET /ok/x HTTP/1.1 HTTP/1.1",
        "GET\t/ok/x HTTP/1.1",
        " GET /ok/x HTTP/1.1",
        "G\0T /ok/x HTTP/1.1",
        "GET:/ok/x HTTP/1.1",
        "/ok/x HTTP/1.1",
        "GET HTTP/1.1",
        "GET(/ok/x HTTP/1.1",
        "GET /ok/x",
        "G@T /ok/x HTTP/1.1",
        "\u{e4} /ok/x HTTP/1.1",
        "THISMETHODISMUCHLONGERTHANANYMETHODTHATTHEREIS /ok/x HTTP/1.1",
    ] {
        add(head(line, "X: y"), 400, "malformed_request_line");
    }
    for line in [
        "GET /ok/x  HTTP/1.1",
        "GET /ok/x HTTP/1",
        "GET /ok/x HTTP/3",
        "GET /ok/x http/1.1",
        "GET /ok/x HTTP 1.1",
        "GET /ok/x FOO/1.1",
        "GET /ok/x HTTP/01.1",
        "GET /ok/x HTTP/1.",
        "GET /ok/x /smuggled HTTP/1.1",
        "GET /ok/x H",
    ] {
        add(head(line, "X: y"), 400, "malformed_request_line");
    }
    for line in ["GET /ok/x HTTP/2.0", "GET /ok/x HTTP/0.9", "GET /ok/x HTTP/3.1", "PRI * HTTP/2.0"] {
        add(head(line, "X: y"), 505, "http_version");
    }
    for line in
        ["get /ok/x HTTP/1.1", "post /ok/x HTTP/1.1", "dElete /ok/x HTTP/1.1", "GEt /ok/x HTTP/1.1", "Purge /ok/x HTTP/1.1"]
    {
        add(head(line, "X: y"), 400, "method_case");
    }
    for line in ["TRACE /ok/x HTTP/1.1", "TRACK /ok/x HTTP/1.1", "TRACE /nowhere HTTP/1.0"] {
        add(head(line, "X: y"), 405, "trace");
    }
    for names in ["Content-Length", "close, Host", "x-real-ip, x-forwarded-for", "traceparent", "X-Request-Id"] {
        add(head("GET /ok/x HTTP/1.1", &format!("Connection: {names}")), 400, "connection_header");
    }
    // What begins like no request at all.
    add(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400, "tls_on_plain_port");
    add(b"SSH-2.0-X\r\n".to_vec(), 400, "malformed_request_line");
    add(b"EHLO a\r\n".to_vec(), 400, "malformed_request_line");
    add(b"*1\r\n$4\r\nPING\r\n".to_vec(), 400, "malformed_request_line");
    add(b"\0\0\0".to_vec(), 400, "malformed_request_line");
    add(b"GET /ok/x\r\n".to_vec(), 400, "malformed_request_line");
    add(b"\r\n\r\n\r\nGET /ok/x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 400, "malformed_request_line");
    add(head("CONNECT a:80 HTTP/1.1", "X: y"), 405, "connect");
    for target in ["ok/x", "*", "ftp://a/ok/x", "//", "http:/ok/x", "javascript:x", "a:80", "?x", "#x"] {
        if target != "//" {
            add(head(&format!("GET {target} HTTP/1.1"), "X: y"), 400, "request_target");
        }
    }
    for (target, reason) in [
        ("/ok/%", "path_bad_escape"),
        ("/ok/%2", "path_bad_escape"),
        ("/ok/%zz", "path_bad_escape"),
        ("/ok/%u0041", "path_bad_escape"),
        ("/ok/%00", "path_nul"),
        ("/ok/a%00/../../smuggled", "path_nul"),
        ("/ok/../../smuggled", "path_above_root"),
        ("/..", "path_above_root"),
        ("/%2e%2e/smuggled", "path_above_root"),
        ("/ok/..;/smuggled", "path_hidden_traversal"),
        ("/ok/..%2fsmuggled", "path_hidden_traversal"),
        ("/ok/..%5csmuggled", "path_hidden_traversal"),
        ("/ok/..\\smuggled", "path_backslash"),
        ("/ok/x#y", "path_delimiter"),
        ("/ok/x?y#z", "path_delimiter"),
    ] {
        add(head(&format!("GET {target} HTTP/1.1"), "X: y"), 400, reason);
    }
    add(head("POST /ok/x HTTP/1.1", "Expect: 200-maybe\r\nContent-Length: 4"), 417, "expectation");
    add(head("POST /ok/x HTTP/1.1", "Expect: 100-continue, x\r\nContent-Length: 4"), 417, "expectation");
    add(head("POST /ok/x HTTP/1.1", "Expect: x\r\nContent-Length: 4"), 417, "expectation");
    cases
}

#[test]
fn ambiguous_heads_are_refused_and_the_connection_closed() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let cases = bad_heads();
    each(&cases, |(attack, status, reason)| {
        refused(gateway.port(), attack, *status, reason)?;
        // Whatever stands behind a refused head is never read as a request.
        let behind = [&attack[..], b"GET /ok/behind HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        refused(gateway.port(), &behind, *status, reason)
    });
    assert!(backend.is_untouched(), "{:?}", backend.seen());
    still_well(&gateway);
}

#[test]
fn header_names_and_targets_of_high_bytes_are_refused() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let bytes: Vec<u8> = (0..=255).collect();
    each(&bytes, |&byte| {
        let with = |before: &str, after: &str| [before.as_bytes(), &[byte], after.as_bytes()].concat();
        let mut attacks = Vec::new();
        let token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if !token && byte != b':' {
            attacks.push(with("POST /ok/x HTTP/1.1\r\nHost: a\r\nTransfer-Encodin", ": chunked\r\n\r\n0\r\n\r\n"));
        }
        if (byte < 32 && byte != b'\t') || byte == 127 {
            attacks.push(with("GET /ok/x HTTP/1.1\r\nHost: a\r\nX: a", "b\r\n\r\n"));
        }
        if !(33..127).contains(&byte) {
            attacks.push(with("GET /ok/x", " HTTP/1.1\r\nHost: a\r\n\r\n"));
            attacks.push(with("GET /ok/x?a=", "b HTTP/1.1\r\nHost: a\r\n\r\n"));
        }
        for attack in attacks {
            let talk = talk(gateway.port(), &attack, SOON);
            let refused = talk
                .replies()
                .is_ok_and(|all| matches!(&all[..], [one] if matches!(one.status, 400 | 505) && !one.reason().is_empty()));
            if !refused || !talk.closed {
                return Err(format!("{}\n  {}", attack.escape_ascii(), talk.show()));
            }
        }
        Ok(())
    });
    assert!(backend.is_untouched());
    still_well(&gateway);
}

/// Chunked bodies that are not framed as the RFC says.
pub fn broken_bodies() -> Vec<String> {
    let long = "a".repeat(300);
    let many = format!("1;{}\r\na\r\n", "e".repeat(200)).repeat(100);
    [
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "0000000000000000005\r\nhello\r\n0\r\n\r\n",
        "5g\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "5;\r\nhello\r\n0\r\n\r\n",
        "5;=v\r\nhello\r\n0\r\n\r\n",
        "5;k=\r\nhello\r\n0\r\n\r\n",
        "5;k=v;\r\nhello\r\n0\r\n\r\n",
        "5;k=\"v\r\nhello\r\n0\r\n\r\n",
        "5;k=v w\r\nhello\r\n0\r\n\r\n",
        "0;\r\n\r\n",
        "0\r\nX : a\r\n\r\n",
        "0\r\nX y: a\r\n\r\n",
        "0\r\nX: a\0b\r\n\r\n",
        "0\r\nX: a\x7f\r\n\r\n",
        "0\r\n\tX: a\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a\0b\r\nhello\r\n0\r\n\r\n",
        "5,\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "0\r\nGET /smuggled HTTP/1.1\r\n\r\n",
        "0\r\n: x\r\n\r\n",
        "0\r\nX: a\r\n folded\r\n\r\n",
        "0\r\nX: a\n\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
        "\u{ff15}\r\nhello\r\n0\r\n\r\n",
        "3;\r\nabc\r\n\u{0}0\r\n\r\n",
        "5;a=\"\nb\"\r\nhello\r\n0\r\n\r\n",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain([
        format!("5;{long}\r\nhello\r\n0\r\n\r\n"),
        format!("{many}0\r\n\r\n"),
        format!("0\r\n{}\r\n", format!("X: {long}\r\n").repeat(40)),
    ])
    .collect()
}

#[test]
fn broken_bodies_never_become_a_second_request() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let cases = broken_bodies();
    each(&cases, |body| {
        for path in ["/ok/x", "/json/x"] {
            let kind = "Content-Type: application/json";
            let attack = format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\n{kind}\r\nTransfer-Encoding: chunked\r\n\r\n{body}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
            );
            refused(gateway.port(), attack.as_bytes(), 400, "malformed_body")?;
        }
        Ok(())
    });
    let seen = backend.seen().unwrap();
    assert!(seen.iter().all(|seen| seen.target == "/ok/x" && !seen.whole), "{seen:?}");
    still_well(&gateway);
}

/// Requests that look odd, and can be read in one way only: all of them carry the body `hidden`.
pub fn good_requests() -> Vec<Vec<u8>> {
    let hidden = format!("{HIDDEN}y\r\n\r\n");
    let sized = |fields: &str| post(&format!("{fields}\r\nContent-Length: {}", hidden.len()), &hidden);
    let chunked = |fields: &str, body: String| post(&format!("{fields}\r\nTransfer-Encoding: chunked"), &body);
    let chunk = format!("{:X}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    let halves = format!("00001\r\nG\r\n{:x} ;\ta=b ; c = \"d e\"\r\n{}\r\n000\r\n\r\n", hidden.len() - 1, &hidden[1..]);
    let trailers = format!(
        "{:x}\r\n{hidden}\r\n0\r\nContent-Length: 99\r\nHost: evil\r\nX-Real-IP: 1.2.3.4\r\nTransfer-Encoding: x\r\n\r\n",
        hidden.len()
    );
    vec![
        sized("X: y"),
        sized("Transfer_Encoding: chunked"),
        sized("Transfer-Encodin: chunked"),
        sized("X-Transfer-Encoding: chunked"),
        sized("Connection: close, Transfer-Encoding, X-Gone\r\nX-Gone: 1"),
        sized("Connection: x-gone\r\nConnection: cookie\r\nX-Gone: 1\r\nCookie: a=b"),
        sized("Content_Length: 0\r\ncontent.length: 0"),
        sized("Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"),
        sized("Upgrade: websocket\r\nConnection: Upgrade"),
        sized("TE: trailers, chunked\r\nTrailer: X\r\nKeep-Alive: timeout=1\r\nProxy-Connection: keep-alive"),
        sized("X-HTTP-Method-Override: GET\r\nX-Original-URL: /smuggled\r\nX-Rewrite-URL: /smuggled"),
        [
            format!("\r\nPOST /ok/x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", hidden.len()).into_bytes(),
            hidden.clone().into_bytes(),
        ]
        .concat(),
        [
            format!("POST http://a/ok/x HTTP/1.1\r\nHost: A\r\nContent-Length: {}\r\n\r\n", hidden.len()).into_bytes(),
            hidden.clone().into_bytes(),
        ]
        .concat(),
        [
            format!("POST /ok/../ok/./x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", hidden.len()).into_bytes(),
            hidden.clone().into_bytes(),
        ]
        .concat(),
        [
            format!("POST //ok//%78 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", hidden.len()).into_bytes(),
            hidden.clone().into_bytes(),
        ]
        .concat(),
        // A body on a GET is a body.
        [
            format!("GET /ok/x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", hidden.len()).into_bytes(),
            hidden.clone().into_bytes(),
        ]
        .concat(),
        [
            format!("OPTIONS /ok/x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", hidden.len()).into_bytes(),
            hidden.clone().into_bytes(),
        ]
        .concat(),
        [
            format!("POST /ok/x HTTP/1.0\r\nHost: a\r\nContent-Length: {}\r\n\r\n", hidden.len()).into_bytes(),
            hidden.clone().into_bytes(),
        ]
        .concat(),
        chunked("X: y", chunk.clone()),
        chunked("X: y", halves),
        chunked("Trailer: Host", trailers),
        chunked("Connection: Transfer-Encoding, close", chunk.clone()),
        post("Transfer-Encoding:\t chuNKed \t", &chunk),
    ]
}

#[test]
fn odd_but_clear_requests_pass_once_and_clean() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let hidden = format!("{HIDDEN}y\r\n\r\n");
    let cases = good_requests();
    let cases: Vec<_> = cases.iter().enumerate().collect();
    each(&cases, |(number, attack)| {
        // A field of its own tells each case's request apart.
        let name = format!("X-Case-{number}");
        let line = find(attack, b" HTTP/1.").unwrap();
        let end = line + find(&attack[line..], b"\r\n").unwrap() + 2;
        let attack = [&attack[..end], format!("{name}: y\r\n").as_bytes(), &attack[end..]].concat();
        let mut stream = connect(gateway.port());
        let talk = ask(&mut stream, &attack, 1);
        let show = || format!("{}\n  {}", attack.escape_ascii(), talk.show());
        let [reply] = &talk.replies()?[..] else { return Err(show()) };
        let seen = backend.seen().map_err(|why| format!("{}\n  {why}", show()))?;
        let seen: Vec<_> = seen.into_iter().filter(|seen| seen.field(&name).is_some()).collect();
        let [seen] = &seen[..] else { return Err(format!("{}\n  {seen:?}", show())) };
        if reply.status != 200 || seen.target != "/ok/x" || seen.body != hidden.as_bytes() || !seen.whole {
            return Err(format!("{}\n  {seen:?}", show()));
        }
        let foreign = ["upgrade", "http2-settings", "te", "trailer", "keep-alive", "proxy-connection", "connection", "expect"];
        if let Some(name) = seen.names().iter().find(|name| foreign.contains(&name.as_str()) || name.contains('_')) {
            return Err(format!("{}\n  the backend saw {name}: {seen:?}", show()));
        }
        if seen.field("x-forwarded-for") != Some("127.0.0.1")
            || seen.field("x-real-ip") != Some("127.0.0.1")
            || seen.field("traceparent").is_none()
        {
            return Err(format!("{}\n  the gateway's own fields: {seen:?}", show()));
        }
        Ok(())
    });
    assert_eq!(backend.seen().unwrap().len(), cases.len());
    still_well(&gateway);
}

#[test]
fn what_follows_a_refusal_begins_exactly_behind_its_body() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let hidden = format!("{HIDDEN}y\r\n\r\n");
    let filler = |size: usize| format!("{}{hidden}", "a".repeat(size));
    let chunked = |body: &str| format!("{:x}\r\n{body}\r\n0\r\nTrailer: x\r\n\r\n", body.len());
    let mut cases: Vec<(String, u16, bool)> = Vec::new();
    for (line, fields, status) in [
        ("POST /nowhere HTTP/1.1", "", 404),
        ("POST /smuggled HTTP/1.1", "", 404),
        ("POST /get/x HTTP/1.1", "", 405),
        ("POST /json/x HTTP/1.1", "Content-Type: text/plain\r\n", 415),
        ("POST /json/x HTTP/1.1", "Content-Type: application/json\r\n", 400),
        ("POST /key/x HTTP/1.1", "", 401),
        ("GET /key/x HTTP/1.1", "X-API-Key: a\r\nX-API-Key: b\r\n", 400),
        ("POST /small/x HTTP/1.1", "", 413),
    ] {
        for size in [2000, 20_000] {
            let body = filler(size);
            let mut add = |more: &str, body: &str, kept| {
                cases.push((format!("{line}\r\nHost: a\r\n{fields}{more}\r\n\r\n{body}"), status, kept))
            };
            add(&format!("Content-Length: {}", body.len()), &body, true);
            // Whether the client sends a body that it was told it need not is its own choice: the connection ends.
            add(&format!("Expect: 100-continue\r\nContent-Length: {}", body.len()), &body, false);
            // Of a body without a length too much may come before it is known to be too much.
            add("Transfer-Encoding: chunked", &chunked(&body), status != 413);
        }
        let huge = filler(500_000);
        cases.push((format!("{line}\r\nHost: a\r\n{fields}Content-Length: {}\r\n\r\n{huge}", huge.len()), status, false));
        cases.push((format!("{line}\r\nHost: a\r\n{fields}Transfer-Encoding: chunked\r\n\r\n{}", chunked(&huge)), status, false));
    }
    each(&cases, |(attack, status, kept)| {
        let bytes = [attack.as_bytes(), b"GET /ok/after HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        let talk = talk(gateway.port(), &bytes, std::time::Duration::from_millis(1500));
        let show = || format!("{}\n  wanted {status} {kept}: {}", &attack[..attack.len().min(200)].escape_debug(), talk.show());
        let replies = talk.replies().map_err(|why| format!("{why}\n  {}", show()))?;
        let replies: Vec<_> = replies.iter().filter(|reply| reply.status != 100).collect();
        let Some(first) = replies.first() else { return Err(show()) };
        let statuses: Vec<_> = replies.iter().map(|reply| reply.status).collect();
        // 401 is also a fair answer to two keys.
        let right = first.status == *status || (*status == 400 && first.status == 401);
        if !right || first.reason().is_empty() {
            return Err(show());
        }
        match (&statuses[1..], talk.closed) {
            ([200], false) if replies[1].text() == "/ok/after" => Ok(()),
            // Closing is always safe; but a small body is worth the connection.
            ([], true) if !kept => Ok(()),
            _ => Err(show()),
        }
    });
    let seen = backend.seen().unwrap();
    assert!(seen.iter().all(|seen| seen.target == "/ok/after" || !seen.whole), "{seen:?}");
    still_well(&gateway);
}

#[test]
fn a_refused_upgrade_leaves_http_in_charge() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let socket =
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let cases = [
        socket.to_owned(),
        socket.replace("13", "777"),
        socket.replace("Upgrade: websocket", "Upgrade: websocket, h2c"),
        socket.replace("Upgrade: websocket", "Upgrade: h2c\r\nUpgrade: websocket"),
        socket.replace("Upgrade: websocket", "Upgrade: websocket\r\nUpgrade: h2c"),
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA".to_owned(),
        "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA".to_owned(),
        "Connection: Upgrade\r\nUpgrade: H2C".to_owned(),
        "Connection: Upgrade\r\nUpgrade: HTTP/2.0".to_owned(),
        "Connection: Upgrade\r\nUpgrade: TLS/1.2".to_owned(),
        "Connection: Upgrade\r\nUpgrade: h2".to_owned(),
        "Upgrade: websocket".to_owned(),
    ];
    each(&cases, |fields| {
        // The smuggled request waits behind the upgrade: if the gateway had begun a tunnel, the backend would get it.
        let attack = format!(
            "GET /ok/x HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\nGET /ok/y HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let talk = talk(gateway.port(), attack.as_bytes(), QUIET);
        let statuses: Vec<_> = talk.replies()?.iter().map(|reply| reply.status).collect();
        match statuses[..] {
            [200, 404, 200] => Ok(()),
            _ => Err(format!("{fields}\n  {}", talk.show())),
        }
    });
    let seen = backend.seen().unwrap();
    assert_eq!(seen.len(), 2 * cases.len());
    for seen in seen {
        let tunnel = seen.field("upgrade").is_some_and(|protocol| !protocol.eq_ignore_ascii_case("websocket"));
        assert!(!tunnel && seen.field("http2-settings").is_none(), "{seen:?}");
    }
    still_well(&gateway);
}

#[test]
fn a_connection_that_says_close_carries_nothing_more() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let cases = [
        "GET /ok/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /ok/x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, CLOSE\r\n\r\n",
        "GET /ok/x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: x,close\r\n\r\n",
        "GET /ok/x HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ];
    each(&cases, |attack| {
        let talk = talk(gateway.port(), format!("{attack}GET /ok/behind HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), SOON);
        if talk.closed && talk.replies()?.len() == 1 { Ok(()) } else { Err(format!("{attack:?}\n  {}", talk.show())) }
    });
    assert!(backend.seen().unwrap().iter().all(|seen| seen.target == "/ok/x"));
    still_well(&gateway);
}

#[test]
fn a_body_that_breaks_off_is_never_completed() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let cases = [
        "Content-Length: 100\r\n\r\nhalf".to_owned(),
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhel".to_owned(),
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\n\r\n5".to_owned(),
    ];
    each(&cases, |rest| {
        let mut stream = connect(gateway.port());
        stream.write_all(format!("POST /ok/x HTTP/1.1\r\nHost: a\r\n{rest}").as_bytes()).unwrap();
        std::thread::sleep(QUIET / 4);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let talk = listen(&mut stream, SOON);
        if talk.closed && talk.bytes.is_empty() { Ok(()) } else { Err(format!("{rest:?}\n  {}", talk.show())) }
    });
    let seen = backend.seen().unwrap();
    assert!(seen.iter().all(|seen| !seen.whole), "{seen:?}");
    still_well(&gateway);
}
