//! What is sent by those who mean no good, and what it gives.

use super::bounds::{connect_from, echo};
use super::*;

fn vector(width: usize, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    [&length[length.len() - width..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(2, content)].concat()
}

fn sni(name: &str) -> Vec<u8> {
    extension(0, &vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat()))
}

/// A hello with these extensions, in records of at most so many bytes.
fn hello(extensions: &[Vec<u8>], cut: usize) -> Vec<u8> {
    let body = [
        &[3, 3][..],
        &[7; 32],
        &vector(1, &[9; 32]),
        &vector(2, &[0x13, 0x01]),
        &vector(1, &[0]),
        &vector(2, &extensions.concat()),
    ]
    .concat();
    let message = [&[1][..], &vector(3, &body)].concat();
    message.chunks(cut).flat_map(|part| [&[22, 3, 1][..], &vector(2, part)].concat()).collect()
}

/// Two names, each with a service that says again what it hears, behind its own name.
fn by_name(listener: &str) -> Gateway {
    let says = |name: &'static [u8]| {
        listening(move |mut stream| {
            let _ = stream.write_all(name);
            let mut writes = stream.try_clone().unwrap();
            let _ = std::io::copy(&mut stream, &mut writes);
        })
    };
    Gateway::start(&format!(
        "
        listeners: [ {{ name: edge, bind: '127.0.0.1:$PORT', protocol: tcp{listener} }} ]
        services: {{ a: {{ endpoints: [ '127.0.0.1:{}' ] }}, b: {{ endpoints: [ '127.0.0.1:{}' ] }} }}
        tcp_routes: [ {{ listeners: edge, sni: a.test, service: a }}, {{ listeners: edge, sni: b.test, service: b }} ]
        server: {{ workers: 2 }}
        ",
        says(b"A"),
        says(b"B")
    ))
}

#[test]
fn a_hello_is_read_however_it_is_cut_and_goes_on_as_it_came() {
    let gateway = by_name("");
    for cut in [1, 7, 60, 16_000] {
        let whole = hello(&[extension(0x3a3a, b""), sni("b.test"), extension(21, &[0; 300])], cut);
        for piece in [1, 5, whole.len()] {
            // With one record for each byte, and one packet for each byte of those, it is long enough.
            if cut == 1 && piece == 1 {
                continue;
            }
            let mut client = connect(gateway.port());
            for part in whole.chunks(piece) {
                client.write_all(part).unwrap();
            }
            assert_eq!(ask(&mut client, b"", 1 + whole.len()).unwrap(), [&b"B"[..], &whole].concat(), "{cut} {piece}");
        }
    }
    // With an encrypted hello inside, the name is that of the outer one, whatever is inside.
    let encrypted = hello(&[extension(0xfe0d, &[5; 250]), sni("a.test")], 16_000);
    assert_eq!(ask(&mut connect(gateway.port()), &encrypted, 1).unwrap(), b"A");
}

#[test]
fn what_is_no_hello_reaches_nobody_and_says_why() {
    let gateway = by_name(", timeouts: { handshake: 1s }");
    let large: Vec<Vec<u8>> = (0..5).map(|number| extension(0x7000 + number, &[0; 4000])).chain([sni("a.test")]).collect();
    let twice = hello(&[sni("a.test"), sni("b.test")], 16_000);
    let two_in_one = {
        let entry = |name: &str| [&[0][..], &vector(2, name.as_bytes())].concat();
        hello(&[extension(0, &vector(2, &[entry("a.test"), entry("b.test")].concat()))], 16_000)
    };
    for (bytes, reason) in [
        (twice, "hello_malformed"),
        (two_in_one, "hello_malformed"),
        (hello(&[sni("a.test\0.b.test")], 16_000), "hello_malformed"),
        (hello(&[sni("")], 16_000), "hello_malformed"),
        ([hello(&[sni("a.test")], 16_000), b"and more of it".to_vec()].concat(), ""),
        (hello(&large, 16_000), "hello_too_large"),
        (hello(&[sni("c.test")], 16_000), "no_route"),
        (hello(&[], 16_000), "no_route"),
        (b"\x80\x2e\x01\x03\x01".to_vec(), "not_tls"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), "not_tls"),
        (hello(&[sni("a.test")], 16_000)[..40].to_vec(), "hello_timeout"),
    ] {
        let before = gateway.log().len();
        let mut client = connect(gateway.port());
        client.write_all(&bytes).unwrap();
        if reason.is_empty() {
            // Bytes behind a whole hello are the service's to judge.
            assert_eq!(ask(&mut client, b"", 1).unwrap(), b"A");
            drop(client);
            eventually("its line", || gateway.log().len() > before);
            continue;
        }
        let got = rest(&mut client).unwrap_or_default();
        assert!(got.is_empty() || got == [21, 3, 3, 0, 2, 2, 112], "{reason}: {got:?}");
        eventually(reason, || gateway.log().len() > before);
        let line = gateway.log().pop().unwrap();
        assert_eq!((&line["reason"], &line["bytes_out"]), (&json!(reason), &json!(0)), "{line}");
        assert!(line["service"].is_null(), "{line}");
    }
    // Who breaks off in the middle of it leaves a line, and who says nothing none: balancers look whether somebody is there.
    let mut client = connect(gateway.port());
    client.write_all(&hello(&[sni("a.test")], 16_000)[..40]).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    reset(client);
    gateway.wait_log(|line| line["reason"] == "hello_aborted");
    let before = gateway.log().len();
    assert_eq!(rest(&mut connect(gateway.port())).unwrap_or_default(), b"");
    assert_eq!(gateway.log().len(), before);
}

#[test]
fn a_thousand_who_say_nothing_keep_nobody_out_for_long() {
    let gateway = by_name(", max_connections_per_address: 4000, timeouts: { handshake: 2s }");
    let began = Instant::now();
    let word = hello(&[sni("a.test")], 16_000);
    let mut silent: Vec<_> = (0..1500).map(|_| connect(gateway.port())).collect();
    for (number, client) in silent.iter_mut().enumerate().filter(|(number, _)| number % 3 == 0) {
        client.write_all(&word[..1 + number % 60]).unwrap();
    }
    // Somebody else meanwhile.
    for _ in 0..20 {
        assert_eq!(ask(&mut connect_from(2, gateway.port()), &word, 1).unwrap(), b"A");
    }
    for client in &mut silent {
        assert_eq!(rest(client).unwrap_or_default(), b"");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    drop(silent);
    eventually("nothing is left of them", || {
        let listed: serde_json::Value = serde_json::from_str(&gateway.admin_get("/connections").1).unwrap();
        listed["matched"] == 0
    });
}

#[test]
fn a_second_header_of_the_proxy_protocol_is_what_the_client_says() {
    let back = echo();
    let yaml = plain(&[back], ", max_connections_per_address: 1", "");
    let gateway = Gateway::start(&yaml.replace("protocol: tcp", "protocol: tcp, proxy_protocol: { trusted: [ 127.0.0.1 ] }"));
    let (first, second) = ("PROXY TCP4 192.0.2.7 198.51.100.1 4000 6432\r\n", "PROXY TCP4 10.0.0.1 198.51.100.1 4000 6432\r\n");
    let mut client = connect(gateway.port());
    client.write_all(first.as_bytes()).unwrap();
    assert_eq!(ask(&mut client, second.as_bytes(), second.len()).unwrap(), second.as_bytes(), "it goes to the service");
    // Counted is who the first one names, whoever brings it.
    let mut again = connect(gateway.port());
    again.write_all(first.as_bytes()).unwrap();
    assert_eq!(rest(&mut again).unwrap_or_default(), b"");
    gateway.wait_log(|line| line["reason"] == "max_connections_per_address" && line["client"] == "192.0.2.7");
    let mut other = connect(gateway.port());
    other.write_all(second.as_bytes()).unwrap();
    assert_eq!(ask(&mut other, b"x", 1).unwrap(), b"x");
    drop(client);
    assert_eq!(gateway.wait_log(|line| line["reason"] == "client_closed")["client"], "192.0.2.7");
}
