//! What clients write must not write the log, and no noise may bring the process down.

use super::wire::*;

#[test]
fn no_text_of_a_client_breaks_a_log_line() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let nasty: Vec<Vec<u8>> = [
        &b"a\",\"status\":200,\"x\":\""[..],
        b"a\\",
        b"a\\\"b",
        b"\x80\xff\xfe",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x80\xa8x\xe2\x80\xa9",
        b"\xc2\x85\xc2\x9b31m",
        b"{}[]",
        b"%0d%0a{\"a\":1}",
        b"a\tb",
        b"'; DROP",
        b"${jndi:ldap://x}",
        b"<script>",
        b"\xf0\x9f\x98\x80",
        b"\xef\xbb\xbfbom",
        b"\xd8\x80\xe2\x80\xae\xe2\x81\xa6bidi",
    ]
    .iter()
    .map(|text| text.to_vec())
    .chain([vec![b'a'; 7000], "\u{1f600}".repeat(1500).into_bytes(), vec![0x80; 3000]])
    .collect();
    each(&nasty, |text| {
        let escaped: String = text.iter().map(|byte| format!("%{byte:02x}")).collect();
        let raw: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'\t').collect();
        let attacks = [
            [b"GET /ok/x HTTP/1.1\r\nHost: a\r\nUser-Agent: ", &text[..], b"\r\n\r\n"].concat(),
            [
                b"GET /ok/x HTTP/1.1\r\nHost: a\r\nX-Request-Id: ",
                &text[..],
                b"\r\ntraceparent: ",
                &text[..],
                b"\r\nX-Forwarded-For: ",
                &text[..],
                b"\r\n\r\n",
            ]
            .concat(),
            [b"GET /ok/x HTTP/1.1\r\nHost: ", &text[..], b"\r\nUser-Agent: ", &text[..], b"\r\n\r\n"].concat(),
            [b"GET /ok/", &raw[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat(),
            [b"GET /ok/x?", &raw[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat(),
            [&raw[..], b" /ok/x HTTP/1.1\r\nHost: a\r\n\r\n"].concat(),
            format!("GET /ok/{escaped} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes(),
            format!("GET /nowhere/{escaped}?{escaped} HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n").into_bytes(),
            [b"GET /key/x HTTP/1.1\r\nHost: a\r\nX-API-Key: ", &text[..], b"\r\nAuthorization: Bearer ", &text[..], b"\r\n\r\n"]
                .concat(),
        ];
        for attack in attacks {
            let mut stream = connect(gateway.port());
            let talk = ask(&mut stream, &attack, 1);
            let fine =
                talk.replies().is_ok_and(|all| matches!(&all[..], [one] if one.whole && one.status < 500 || one.status == 505));
            if !fine {
                return Err(format!("{}\n  {}", attack[..attack.len().min(300)].escape_ascii(), talk.show()));
            }
        }
        Ok(())
    });
    let wanted = nasty.len() * 9;
    crate::harness::eventually("every request has left its line", || gateway.log().len() >= wanted);
    assert_eq!(gateway.log().len(), wanted, "one line a request, no more");
    still_well(&gateway);
}

#[test]
fn noise_is_survived() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let seeds: Vec<u64> = (1..=200).collect();
    each(&seeds, |&seed| {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        let length = 1 + usize::from(next()) * 8;
        let mut bytes: Vec<u8> = (0..length).map(|_| next()).collect();
        let begin: &[u8] = match seed % 5 {
            0 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            1 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            2 => b"GET / HTTP/1.1\r\nHost: a\r\n",
            3 => b"POST /ok/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            _ => b"",
        };
        bytes.splice(0..0, begin.iter().copied());
        shout(gateway.port(), &bytes);
        Ok(())
    });
    assert_eq!(ask(&mut connect(gateway.port()), b"GET /ok/x HTTP/1.1\r\nHost: a\r\n\r\n", 1).replies().unwrap()[0].status, 200);
    backend.seen().unwrap();
    still_well(&gateway);
}
