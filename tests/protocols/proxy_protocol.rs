//! The PROXY protocol in front of HTTP and of TLS.

use serde_json::json;

use super::{SERVER, tool};
use crate::harness::{Backend, Client, Files, Gateway, curl, eventually, try_curl};

/// A plaintext listener and one with TLS, both behind a load balancer on loopback, and one that takes direct connections, too.
fn gateway(files: &Files, backend: &Backend) -> (Gateway, String) {
    let (cert, key, _) = files.certificate(&["proxied.example.com"]);
    let gateway = Gateway::start_in(
        files,
        &format!(
            "
             listeners:
               - {{ bind: '127.0.0.1:$PORT', h2c: true, proxy_protocol: {{ trusted: [127.0.0.0/8] }}, timeouts: {{ handshake: 2s }} }}
               - bind: 127.0.0.1:$PORT2
                 tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ] }}
                 proxy_protocol: {{ trusted: [127.0.0.1] }}
               - {{ bind: '127.0.0.1:$PORT3', h2c: true, proxy_protocol: {{ trusted: [127.0.0.1], required: false }} }}
             services: {{ backend: {{ endpoints: ['127.0.0.1:{}'] }} }}
             routes: [ {{ path: /*, service: backend }} ]
             {SERVER}
            ",
            cert.display(),
            key.display(),
            backend.port()
        ),
    );
    (gateway, cert.display().to_string())
}

/// A version 2 header for this client, and TLVs that nobody needs.
fn v2(client: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    let tlv = b"\x04\x00\x03abc";
    header.extend_from_slice(&u16::try_from(12 + tlv.len()).unwrap().to_be_bytes());
    header.extend_from_slice(&client);
    header.extend_from_slice(&[192, 0, 2, 1]);
    header.extend_from_slice(&40_000_u16.to_be_bytes());
    header.extend_from_slice(&443_u16.to_be_bytes());
    header.extend_from_slice(tlv);
    header
}

const REQUEST: &[u8] = b"GET /v2 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";

#[test]
fn curl_s_header_is_understood_before_http_and_before_tls() {
    let backend = Backend::http();
    let (gateway, cert) = gateway(&Files::new(), &backend);
    let resolve = format!("proxied.example.com:{}:127.0.0.1", gateway.port2());
    let secure = format!("https://proxied.example.com:{}/", gateway.port2());
    for args in [
        vec!["--http1.1", &*gateway.url("/")],
        vec!["--http2-prior-knowledge", &gateway.url("/")],
        vec!["--http1.1", "--cacert", &cert, "--resolve", &resolve, &secure],
        vec!["--http2", "--cacert", &cert, "--resolve", &resolve, &secure],
    ] {
        let answer = curl(&[&["--haproxy-protocol"], &args[..]].concat());
        assert_eq!(answer.status, 200, "{args:?} {answer:?}");
        assert_eq!(answer.json()["headers"]["x-forwarded-for"], "127.0.0.1");
    }
}

#[test]
fn the_client_it_names_is_the_client() {
    let backend = Backend::http();
    let (gateway, _) = gateway(&Files::new(), &backend);
    let v1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n".to_vec();
    let v1_6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n".to_vec();
    for (header, client) in [(v1, "203.0.113.7"), (v1_6, "2001:db8::7"), (v2([203, 0, 113, 9]), "203.0.113.9")] {
        for port in [gateway.port(), gateway.port3()] {
            let mut connection = Client::connect(port);
            connection.send([&header, REQUEST].concat());
            let answer = connection.answer_to("GET");
            assert_eq!(answer.status, 200, "{answer:?}");
            // What the client itself says is not believed.
            assert_eq!(answer.json()["headers"]["x-forwarded-for"], client);
            assert_eq!(answer.json()["headers"]["x-real-ip"], client);
            // The header is for the whole connection.
            assert_eq!(connection.get("/again").json()["headers"]["x-forwarded-for"], client);
        }
        let line = gateway.wait_log(|line| line["client"] == client);
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
    // Byte by byte, as slow as it gets.
    let mut connection = Client::connect(gateway.port());
    for byte in [&v2([203, 0, 113, 10])[..], REQUEST].concat() {
        connection.send([byte]);
    }
    assert_eq!(connection.answer_to("GET").json()["headers"]["x-forwarded-for"], "203.0.113.10");
    // LOCAL: the load balancer's own health check.
    let mut connection = Client::connect(gateway.port());
    connection.send([b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00", REQUEST].concat());
    assert_eq!(connection.answer_to("GET").json()["headers"]["x-forwarded-for"], "127.0.0.1");
}

#[test]
fn a_v2_header_before_tls_is_understood() {
    let backend = Backend::http();
    let files = Files::new();
    let (gateway, _) = gateway(&files, &backend);
    // A relay that puts the header in front of whatever openssl sends.
    let port = gateway.port2();
    let relay = Backend::scripted(move |client| {
        let mut server = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        std::io::Write::write_all(&mut server, &v2([203, 0, 113, 11])).unwrap();
        let (mut to, mut from) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let up = std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
        let _ = std::io::copy(&mut server, &mut { client });
        let _ = server.shutdown(std::net::Shutdown::Both);
        drop(up);
    });
    let to = format!("127.0.0.1:{}", relay.port());
    let request = b"GET /tls HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let (_, said) = tool("openssl", &["s_client", "-quiet", "-connect", &to], request);
    assert!(said.contains("HTTP/1.1 200 OK"), "{said}");
    let line = gateway.wait_log(|line| line["path"] == "/tls");
    assert_eq!((&line["client"], &line["tls"]), (&json!("203.0.113.11"), &json!("TLSv1.3")), "{line}");
}

#[test]
fn whoever_lacks_a_required_header_is_closed_and_counted() {
    let backend = Backend::http();
    let (gateway, _) = gateway(&Files::new(), &backend);
    let refused = || gateway.metric("portcullis_connections_refused_total{reason=\"proxy_protocol\"}");
    for (count, bytes) in [REQUEST, b"PROXY TCP4 nonsense\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n"].iter().enumerate() {
        let mut connection = Client::connect(gateway.port());
        connection.send(bytes);
        assert_eq!(connection.rest(), b"");
        eventually("it is counted", || refused() == count as f64 + 1.0);
    }
    // One that says nothing at all is not waited for longer than the handshake may take.
    assert_eq!(Client::connect(gateway.port()).rest(), b"");
    eventually("it is counted", || refused() == 4.0);
    assert_eq!(backend.connections(), 0);
    // Where the header is optional, the same request is a direct one.
    let mut connection = Client::connect(gateway.port3());
    connection.send(REQUEST);
    assert_eq!(connection.answer_to("GET").json()["headers"]["x-forwarded-for"], "127.0.0.1");
    let direct = format!("http://127.0.0.1:{}/direct", gateway.port3());
    assert_eq!(curl(&["--http2-prior-knowledge", &direct]).status, 200);
}

#[test]
fn a_header_where_none_is_expected_is_no_request() {
    let backend = Backend::http();
    let gateway = Gateway::start(&format!(
        "
         listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
         services: {{ backend: {{ endpoints: ['127.0.0.1:{}'] }} }}
         routes: [ {{ path: /*, service: backend }} ]
        ",
        backend.port()
    ));
    let mut connection = Client::connect(gateway.port());
    connection.send([b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n", REQUEST].concat());
    assert_eq!(connection.answer_to("GET").status, 400);
    assert!(connection.is_closed());
    assert!(try_curl(&["--haproxy-protocol", &gateway.url("/")]).is_ok_and(|answer| answer.status == 400));
    assert_eq!(backend.connections(), 0);
}
