//! Generated attacks: two requests on one connection, changed at random but always in the same way.

use super::wire::*;
use crate::harness::Dice;

const FRAMING: [&str; 24] = [
    "Content-Length: 0",
    "Content-Length: 4",
    "Content-Length: LENGTH",
    "Content-Length: +LENGTH",
    "Content-Length: LENGTH, LENGTH",
    "Content-Length: 99999",
    "Content-Length:LENGTH ",
    "Content-Length : LENGTH",
    "content-length: 00LENGTH",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding:chunked ",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding:\r\n chunked",
    "transfer_encoding: chunked",
    "Connection: close, content-length",
    "Connection: transfer-encoding",
    "Expect: 100-continue",
    "Upgrade: websocket\r\nConnection: upgrade",
    "Upgrade: h2c\r\nConnection: upgrade, http2-settings",
    "TE: chunked",
    "Trailer: content-length",
];
const LINES: [&str; 10] = [
    "POST /ok/a HTTP/1.1",
    "GET /ok/a HTTP/1.1",
    "HEAD /ok/a HTTP/1.1",
    "OPTIONS /ok/a HTTP/1.1",
    "DELETE /ok/a HTTP/1.1",
    "POST http://h/ok/a HTTP/1.1",
    "POST /nowhere HTTP/1.1",
    "POST /get/a HTTP/1.1",
    "POST /small/a HTTP/1.1",
    "POST /ok/a HTTP/1.0",
];
const BYTES: &[u8] = b"\r\n\t \0:;,0159afxX\x0b\x0c\x7f\x80\xa0\xff-_+\"\\/";

fn attack(seed: u64) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let hidden = "GET /smuggled HTTP/1.1\r\nHost: h\r\nX: y\r\n\r\n";
    let body = match dice.roll(6) {
        0 => hidden.to_owned(),
        1 => format!("0\r\n\r\n{hidden}"),
        2 => format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()),
        3 => format!("{:x};x=y\r\n{hidden}\r\n0\r\nX: y\r\n\r\n{hidden}", hidden.len()),
        4 => format!("4\r\nabcd\r\n{hidden}\r\n0\r\n\r\n"),
        _ => format!("{:x}\r\n{hidden}", hidden.len() + 9),
    };
    let mut fields = vec!["Host: h".to_owned(), "X-A: b".to_owned()];
    for _ in 0..1 + dice.roll(3) {
        let field = dice.pick(&FRAMING).replace("LENGTH", &body.len().to_string());
        fields.insert(dice.roll(fields.len() + 1), field);
    }
    let line = dice.pick(&LINES);
    let mut head = format!("{line}\r\n{}\r\n\r\n", fields.join("\r\n")).into_bytes();
    for _ in 0..dice.roll(3) {
        // Mostly where it hurts: at the ends of lines and around colons.
        let ends: Vec<usize> = (0..head.len()).filter(|&at| b"\r\n:".contains(&head[at])).collect();
        let at = if dice.roll(3) > 0 && !ends.is_empty() { ends[dice.roll(ends.len())] } else { dice.roll(head.len()) };
        let byte = BYTES[dice.roll(BYTES.len())];
        match dice.roll(4) {
            0 => drop(head.remove(at)),
            1 => head.insert(at, byte),
            2 => head[at] = byte,
            _ => head.insert(at, head[at]),
        }
    }
    [&head[..], body.as_bytes(), b"GET /ok/b HTTP/1.1\r\nHost: h\r\n\r\n"].concat()
}

#[test]
fn no_mutation_smuggles_a_request() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let seeds: Vec<u64> = (1..=600).collect();
    each(&seeds, |&seed| {
        let attack = attack(seed);
        let talk = shout(gateway.port(), &attack);
        // A HEAD is answered without body, which the reader of answers has to know; what counts then is the backend's view.
        let answers = if attack.starts_with(b"HEAD") { Ok(Vec::new()) } else { talk.replies() };
        match answers {
            Ok(all) if all.iter().all(|reply| reply.status < 500 || reply.status == 505) => Ok(()),
            other => Err(format!("seed {seed}: {}\n  {other:?}\n  {}", attack.escape_ascii(), talk.show())),
        }
    });
    let seen = backend.seen().unwrap();
    assert!(
        seen.iter()
            .all(|seen| ["/ok/a", "/ok/b", "/get/a", "/small/a"].contains(&seen.target.as_str())
                || !seen.target.contains("smuggled")),
        "{seen:?}"
    );
    // The generator must not be so wild that nothing comes through.
    let through = |target: &str| seen.iter().filter(|seen| seen.target == target).count();
    assert!(through("/ok/a") > 30 && through("/ok/b") > 10, "{} {}", through("/ok/a"), through("/ok/b"));
    still_well(&gateway);
}
