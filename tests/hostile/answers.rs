//! A hostile backend: answers that two parsers could read in two ways, that never end, or that come too early.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::wire::*;

/// Answers `/ok/fresh` and the like with `fresh`, and everything else with these bytes; then it closes, if asked to.
fn villain(bytes: Vec<u8>, close: bool) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let bytes = bytes.clone();
            std::thread::spawn(move || play(stream, &bytes, close));
        }
    });
    port
}

fn play(mut stream: TcpStream, bytes: &[u8], close: bool) {
    let mut buffer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        while find(&buffer, b"\r\n\r\n").is_none() {
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(count) => buffer.extend_from_slice(&piece[..count]),
            }
        }
        let line = find(&buffer, b"\r\n").unwrap_or(buffer.len());
        let fresh = find(&buffer[..line], b"fresh").is_some();
        buffer.clear();
        let answer: &[u8] = if fresh { b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfresh" } else { bytes };
        if stream.write_all(answer).is_err() || (close && !fresh) {
            return;
        }
    }
}

#[derive(Debug, PartialEq)]
enum Wanted {
    /// 502 with this reason.
    Bad,
    /// An honest answer with this body.
    Body(&'static str),
    /// An answer that visibly ends too early.
    Broken,
    /// No body, this status.
    Empty(u16),
}
use Wanted::{Bad, Body, Broken, Empty};

#[test]
fn hostile_answers_are_refused_or_made_clear() {
    let cases: Vec<(&str, Vec<u8>, bool, Wanted)> = vec![
        ("lengths that differ", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde".to_vec(), false, Bad),
        ("lengths in a list", b"HTTP/1.1 200 OK\r\nContent-Length: 4, 5\r\n\r\nabcde".to_vec(), false, Bad),
        ("a length with a sign", b"HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nabcd".to_vec(), false, Bad),
        ("a negative length", b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nabcd".to_vec(), false, Bad),
        ("no length in the field", b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nabcd".to_vec(), true, Bad),
        ("a length that overflows", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nabcd".to_vec(), false, Bad),
        ("length and chunks", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n".to_vec(), false, Body("abcd")),
        ("a bad chunk size", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\nzz\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison".to_vec(), false, Broken),
        ("a chunk without end", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcdXX0\r\n\r\n".to_vec(), false, Broken),
        ("chunks that break off", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n".to_vec(), true, Broken),
        ("a body that breaks off", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabcd".to_vec(), true, Broken),
        ("a second answer behind a body", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcdHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison".to_vec(), false, Body("abcd")),
        ("a second answer behind chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison".to_vec(), false, Body("abcd")),
        ("a body behind 204", b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison".to_vec(), false, Empty(204)),
        ("a length on 204", b"HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\npoison".to_vec(), false, Empty(204)),
        ("chunks on 204", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n6\r\npoison\r\n0\r\n\r\n".to_vec(), false, Empty(204)),
        ("a body behind 304", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison".to_vec(), false, Empty(304)),
        ("a folded field", b"HTTP/1.1 200 OK\r\nX-A: b\r\n Set-Cookie: evil=1\r\nContent-Length: 4\r\n\r\nabcd".to_vec(), false, Body("abcd")),
        ("a NUL in a value", b"HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 4\r\n\r\nabcd".to_vec(), false, Bad),
        ("a CR in a value", b"HTTP/1.1 200 OK\r\nX-A: b\rSet-Cookie: evil=1\r\nContent-Length: 4\r\n\r\nabcd".to_vec(), false, Bad),
        ("a field without colon", b"HTTP/1.1 200 OK\r\nX-A\r\nContent-Length: 4\r\n\r\nabcd".to_vec(), false, Bad),
        ("a field name with a space", b"HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 4\r\n\r\nabcd".to_vec(), false, Bad),
        ("no HTTP at all", b"SSH-2.0-OpenSSH_9.9\r\n\r\n".to_vec(), true, Bad),
        ("nothing", Vec::new(), true, Bad),
        ("half a head", b"HTTP/1.1 200 OK\r\nContent-Le".to_vec(), true, Bad),
        ("a version of its own", b"HTTP/7.5 200 OK\r\nContent-Length: 4\r\n\r\nabcd".to_vec(), false, Bad),
        ("a status of four digits", b"HTTP/1.1 2000 OK\r\nContent-Length: 4\r\n\r\nabcd".to_vec(), false, Bad),
        ("a status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 4\r\n\r\nabcd".to_vec(), false, Bad),
        ("status 000", b"HTTP/1.1 000 No\r\nContent-Length: 4\r\n\r\nabcd".to_vec(), false, Bad),
        ("a tunnel nobody asked for", b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison".to_vec(), false, Bad),
        ("a head of 2 MiB", [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'a'; 2 << 20], b"\r\nContent-Length: 4\r\n\r\nabcd".to_vec()].concat(), false, Bad),
        ("2000 fields", [b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: y\r\n".repeat(2000), b"Content-Length: 4\r\n\r\nabcd".to_vec()].concat(), false, Bad),
        ("hints, then an answer", [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(10), b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd".to_vec()].concat(), false, Body("abcd")),
        ("100 that nobody waits for", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd".to_vec(), false, Body("abcd")),
        ("fields of the connection", b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Inner\r\nX-Inner: 1\r\nKeep-Alive: timeout=9\r\nTrailer: X\r\nProxy-Connection: x\r\nContent-Length: 4\r\n\r\nabcd".to_vec(), false, Body("abcd")),
    ];
    each(&cases, |(name, bytes, close, wanted)| {
        let gateway = gateway(villain(bytes.clone(), *close));
        let mut stream = connect(gateway.port());
        let first = ask(&mut stream, b"GET /ok/evil HTTP/1.1\r\nHost: a\r\n\r\n", 1);
        let fail = |why: &str| Err(format!("{name}: {why}\n  {}", first.show()));
        let all = match first.replies() {
            Ok(all) => all,
            Err(why) => return fail(&why),
        };
        if *wanted == Broken && all.is_empty() && first.closed {
            // The backend broke off before anything was passed on.
            return Ok(());
        }
        let finals: Vec<_> = all.iter().filter(|reply| reply.status >= 200).collect();
        let [reply] = finals[..] else { return fail("not one answer") };
        let right = match wanted {
            Bad => reply.status == 502 && !reply.reason().is_empty() && reply.whole,
            Body(text) => reply.status == 200 && reply.whole && reply.text() == *text,
            Broken => reply.status == 200 && !reply.whole && first.closed,
            Empty(status) => reply.status == *status && reply.field("transfer-encoding").is_none(),
        };
        if !right || first.closed && *wanted != Broken && reply.field("connection") != Some("close") {
            return fail(&format!("wanted {wanted:?}"));
        }
        for field in ["set-cookie", "x-inner", "keep-alive", "trailer", "proxy-connection", "upgrade"] {
            if reply.field(field).is_some() {
                return fail(field);
            }
        }
        // Whoever comes next, on this connection or another, gets an answer of its own.
        for round in 0..3 {
            let request = format!("GET /ok/fresh{round} HTTP/1.1\r\nHost: a\r\n\r\n");
            // A connection that is going to be closed says so.
            let ends = first.closed || reply.field("connection") == Some("close");
            let mut stream = if ends || round > 0 { connect(gateway.port()) } else { stream.try_clone().unwrap() };
            let next = ask(&mut stream, request.as_bytes(), 1);
            if !next.replies().is_ok_and(|all| matches!(&all[..], [one] if one.text() == "fresh")) {
                return fail(&format!("poisoned: {}", next.show()));
            }
        }
        still_well(&gateway);
        Ok(())
    });
}

#[test]
fn a_body_in_answer_to_head_poisons_nobody() {
    let cases = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 51\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison".to_vec(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\npoison\r\n0\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison".to_vec(),
    ];
    each(&cases, |bytes| {
        let gateway = gateway(villain(bytes.clone(), false));
        let mut stream = connect(gateway.port());
        let first = ask_head(&mut stream, b"HEAD /ok/evil HTTP/1.1\r\nHost: a\r\n\r\n");
        let [reply] = &replies(&first.bytes, true)?[..] else { return Err(first.show()) };
        let next = ask(&mut stream, b"GET /ok/fresh HTTP/1.1\r\nHost: a\r\n\r\n", 1);
        let fresh = next.replies().is_ok_and(|all| matches!(&all[..], [one] if one.text() == "fresh"));
        if reply.status == 200 && fresh { Ok(()) } else { Err(format!("{}\n  {}", first.show(), next.show())) }
    });
}

#[test]
fn an_answer_before_the_request_is_read_ends_cleanly() {
    // The backend answers at the head and then takes whatever comes for requests: CL.0.
    let port = villain(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd".to_vec(), false);
    let gateway = gateway(port);
    let hidden = "GET /ok/fresh HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2000);
    // A backend that reads the body as requests has answers waiting on its connection: it must not be used again.
    each(&[hidden.len(), 60_000, 20_000], |&size| {
        for framing in ["length", "chunks"] {
            // As much as has to be there before a backend is asked.
            let (begun, body) = hidden.as_bytes()[..size].split_at(16_384);
            let mut stream = connect(gateway.port());
            let head = match framing {
                "length" => format!("POST /ok/evil HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"),
                _ => format!("POST /ok/evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n"),
            };
            stream.write_all(&[head.as_bytes(), begun].concat()).unwrap();
            let first = ask(&mut stream, b"", 1);
            let end: &[u8] = if framing == "length" { b"" } else { b"\r\n0\r\n\r\n" };
            let next = ask(&mut stream, &[body, end, b"GET /ok/fresh HTTP/1.1\r\nHost: a\r\n\r\n"].concat(), 1);
            let fine = first.replies().is_ok_and(|all| matches!(&all[..], [one] if one.text() == "abcd"));
            let after = match next.replies() {
                Ok(all) => all.is_empty() && next.closed || matches!(&all[..], [one] if one.text() == "fresh"),
                Err(_) => false,
            };
            if !fine || !after {
                return Err(format!("{size} {framing}\n  {}\n  {}", first.show(), next.show()));
            }
        }
        Ok(())
    });
    still_well(&gateway);
}

#[test]
fn endless_answers_end_at_the_deadline() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let gateway = gateway(listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                let count = stream.read(&mut buffer).unwrap_or(0);
                let hints = find(&buffer[..count], b"hints").is_some();
                let (head, piece): (&[u8], &[u8]) = match hints {
                    true => (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
                    false => (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
                };
                let _ = stream.write_all(head);
                while stream.write_all(piece).is_ok() {
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
        }
    });
    for (path, version) in [("hints", "1.1"), ("hints", "1.0"), ("body", "1.1")] {
        let since = Instant::now();
        let talk = talk(gateway.port(), format!("GET /short/{path} HTTP/{version}\r\nHost: a\r\n\r\n").as_bytes(), QUIET);
        let replies = talk.replies().unwrap_or_default();
        if path == "hints" {
            // The gateway has enough of them before the deadline has.
            let last = replies.last().unwrap_or_else(|| panic!("{}", talk.show()));
            let how = (last.status, last.reason());
            assert!(
                [(504, "request_timeout".to_owned()), (502, "answer_head_too_large".to_owned())].contains(&how),
                "{}",
                talk.show()
            );
        } else {
            assert!(talk.closed, "{path}");
            assert!(matches!(&replies[..], [one] if one.status == 200 && !one.whole), "{}", talk.show());
        }
        assert!(since.elapsed() < SOON, "{path}: {:?}", since.elapsed());
    }
    still_well(&gateway);
}
