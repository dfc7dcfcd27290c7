//! The PROXY protocol: who may say whose connection it is, and what becomes of those who may not.

use std::io::Write;
use std::time::{Duration, Instant};

use super::wire::*;
use crate::harness::Gateway;

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [V2, &[command, family], &length, payload].concat()
}

fn start(backend: u16, trusted: &str, required: bool) -> Gateway {
    let yaml = "
listeners:
  - bind: 127.0.0.1:$PORT
    proxy_protocol: { trusted: [ 'TRUSTED' ], required: REQUIRED }
    timeouts: { handshake: 700ms }
routes:
  - { path: /ok/*, service: 127.0.0.1, port: BACKEND }
";
    let yaml =
        yaml.replace("TRUSTED", trusted).replace("REQUIRED", &required.to_string()).replace("BACKEND", &backend.to_string());
    Gateway::start(&yaml)
}

const ASK: &[u8] =
    b"GET /ok/x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\r\n";

#[test]
fn a_trusted_peer_names_the_client() {
    let backend = Recorder::start();
    for required in [true, false] {
        let gateway = start(backend.port(), "127.0.0.1/32", required);
        let v4 = [&[192, 0, 2, 9, 192, 0, 2, 1][..], &[0x1f, 0x90, 0, 80]].concat();
        let v6 = [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9][..], &[0; 16], &[0, 1, 0, 2]].concat();
        let mapped = [&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 9][..], &[0; 16], &[0, 1, 0, 2]].concat();
        for (header, client) in [
            (b"PROXY TCP4 192.0.2.9 192.0.2.1 8080 80\r\n".to_vec(), "192.0.2.9"),
            (b"PROXY TCP6 2001:db8::9 2001:db8::1 8080 80\r\n".to_vec(), "2001:db8::9"),
            (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
            (b"PROXY UNKNOWN GET /smuggled HTTP/1.1\r\n".to_vec(), "127.0.0.1"),
            (v2(0x21, 0x11, &v4), "192.0.2.9"),
            (v2(0x21, 0x21, &v6), "2001:db8::9"),
            (v2(0x21, 0x21, &mapped), "192.0.2.9"),
            (v2(0x20, 0x00, b""), "127.0.0.1"),
        ] {
            let before = backend.seen().unwrap().len();
            // In one piece, and byte by byte.
            for slowly in [false, true] {
                let mut stream = connect(gateway.port());
                for byte in header.chunks(if slowly { 1 } else { header.len() }) {
                    stream.write_all(byte).unwrap();
                    if slowly {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                let talk = ask(&mut stream, ASK, 1);
                assert!(
                    matches!(&talk.replies().unwrap()[..], [one] if one.status == 200),
                    "{}: {}",
                    header.escape_ascii(),
                    talk.show()
                );
            }
            for seen in backend.seen().unwrap().iter().skip(before).filter(|seen| seen.field("x-real-ip") == Some(client)) {
                assert_eq!(seen.field("x-forwarded-for"), Some(client));
                assert!(!format!("{seen:?}").contains("6.6.6.6"), "{seen:?}");
            }
            let named = backend.seen().unwrap().iter().filter(|seen| seen.field("x-real-ip") == Some(client)).count();
            assert!(named >= 2, "{client}: {}", header.escape_ascii());
        }
        still_well(&gateway);
    }
}

#[test]
fn a_broken_header_closes_without_a_word() {
    let backend = Recorder::start();
    let gateway = start(backend.port(), "127.0.0.0/8", true);
    let cases = [
        b"".to_vec(),
        b"PROXY TCP4 192.0.2.9 192.0.2.1 8080 80\n".to_vec(),
        b"PROXY TCP4 192.0.2.9 192.0.2.1 8080\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.9  192.0.2.1 8080 80\r\n".to_vec(),
        b"PROXY TCP4 999.0.2.9 192.0.2.1 8080 80\r\n".to_vec(),
        b"PROXY TCP4 2001:db8::1 192.0.2.1 8080 80\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.9 192.0.2.1 99999 80\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.9 192.0.2.1 08 80\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.9 192.0.2.1 +8 80\r\n".to_vec(),
        b"PROXY UDP4 192.0.2.9 192.0.2.1 80 80\r\n".to_vec(),
        b"proxy TCP4 192.0.2.9 192.0.2.1 80 80\r\n".to_vec(),
        [b"PROXY UNKNOWN ".to_vec(), vec![b'a'; 200], b"\r\n".to_vec()].concat(),
        v2(0x31, 0x11, &[0; 12]),
        v2(0x22, 0x11, &[0; 12]),
        v2(0x21, 0x12, &[0; 12]),
        v2(0x21, 0x11, &[0; 11]),
        v2(0x21, 0x77, &[0; 12]),
        v2(0x21, 0x11, &[0; 5000]),
        v2(0x21, 0x11, &[&[0; 12][..], &[4, 0, 99, 0]].concat()),
        v2(0x21, 0x11, &[&[0; 12][..], &[3, 0, 4, 1, 2, 3, 4]].concat()),
        ASK.to_vec(),
    ];
    each(&cases, |header| {
        let talk = talk(gateway.port(), &[&header[..], ASK].concat(), SOON);
        if talk.closed && talk.bytes.is_empty() { Ok(()) } else { Err(format!("{}\n  {}", header.escape_ascii(), talk.show())) }
    });
    // One that never comes whole has until the handshake's deadline.
    for begin in [&b""[..], b"PROXY", b"PROXY TCP4 192.0.2.9", &V2[..5], &v2(0x21, 0x11, &[0; 12])[..20]] {
        let since = Instant::now();
        let talk = talk(gateway.port(), begin, SOON);
        assert!(talk.closed && talk.bytes.is_empty() && since.elapsed() < SOON / 2, "{}: {}", begin.escape_ascii(), talk.show());
    }
    assert!(backend.is_untouched());
    assert!(gateway.admin_get("/metrics").1.contains("proxy_protocol"), "refused connections are counted");
    still_well(&gateway);
}

#[test]
fn an_untrusted_peer_names_nobody() {
    let backend = Recorder::start();
    let closed = start(backend.port(), "192.0.2.0/24", true);
    for begin in [&b"PROXY TCP4 192.0.2.9 192.0.2.1 8080 80\r\n"[..], b"", &v2(0x21, 0x11, &[0; 12])] {
        let talk = talk(closed.port(), &[begin, ASK].concat(), SOON);
        assert!(talk.closed && talk.bytes.is_empty(), "{}", talk.show());
    }
    assert!(backend.is_untouched());
    still_well(&closed);
    let open = start(backend.port(), "192.0.2.0/24", false);
    for begin in [&b"PROXY TCP4 192.0.2.9 192.0.2.1 8080 80\r\n"[..], b"PROXY UNKNOWN\r\n", &v2(0x21, 0x11, &[0; 12])] {
        let talk = talk(open.port(), &[begin, ASK].concat(), SOON);
        let replies = talk.replies().unwrap();
        assert!(
            talk.closed && matches!(&replies[..], [one] if matches!(one.status, 400 | 505) && !one.reason().is_empty()),
            "{}",
            talk.show()
        );
    }
    assert!(backend.is_untouched());
    let direct = ask(&mut connect(open.port()), ASK, 1);
    assert_eq!(direct.replies().unwrap()[0].status, 200);
    let seen = backend.seen().unwrap();
    assert_eq!(seen[0].field("x-forwarded-for"), Some("127.0.0.1"));
    assert!(!format!("{seen:?}").contains("6.6.6.6"), "{seen:?}");
    still_well(&open);
}
