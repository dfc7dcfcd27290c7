use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::*;

fn v2(version_command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = V2_SIGNATURE.to_vec();
    header.extend([version_command, family]);
    header.extend((payload.len() as u16).to_be_bytes());
    header.extend(payload);
    header
}

const TCP4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb];

fn with_crc(mut wrong: u32) -> Vec<u8> {
    let mut header = v2(0x21, 0x11, &[TCP4, &[TLV_CRC32C, 0, 4, 0, 0, 0, 0]].concat());
    let at = header.len() - 4;
    wrong ^= !crc32c(!0, &header);
    header[at..].copy_from_slice(&wrong.to_be_bytes());
    header
}

fn done(consumed: usize, source: &str, destination: &str) -> Parse {
    Parse::Done { consumed, source: Some(source.parse().unwrap()), destination: Some(destination.parse().unwrap()) }
}

#[test]
fn reads_version_1() {
    let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET / HTTP/1.1\r\n";
    assert_eq!(parse(line), done(45, "192.0.2.1:56324", "198.51.100.2:443"));
    let line = b"PROXY TCP6 2001:db8::1 2001:db8::2 0 65535\r\n";
    assert_eq!(parse(line), done(line.len(), "[2001:db8::1]:0", "[2001:db8::2]:65535"));
    for unknown in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN ffff:f...f:ffff anything 65535\r\n"] {
        assert_eq!(parse(unknown), Parse::Done { consumed: unknown.len(), source: None, destination: None });
    }
}

#[test]
fn refuses_what_version_1_does_not_allow() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
        "PROXY TCP4  192.0.2.1 198.51.100.2 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 056324 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +80 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2  443\r\n",
        "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n",
        "PROXY tcp4 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY TCP4 192.0.2.1\r\n198.51.100.2 1 2\r\n",
    ] {
        assert!(matches!(parse(line.as_bytes()), Parse::Invalid(_)), "{line:?}: {:?}", parse(line.as_bytes()));
    }
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    assert_eq!(parse(&endless[..106]), Parse::Incomplete);
    assert!(matches!(parse(&endless), Parse::Invalid(_)));
    let longest = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 91], b"\r\n"].concat();
    assert_eq!(longest.len(), V1_MAX);
    assert!(matches!(parse(&longest), Parse::Done { consumed: V1_MAX, .. }));
    let too_long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 92], b"\r\n"].concat();
    assert!(matches!(parse(&too_long), Parse::Invalid(_)));
}

#[test]
fn reads_version_2() {
    let header = v2(0x21, 0x11, TCP4);
    assert_eq!(parse(&[&header[..], b"beyond"].concat()), done(28, "192.0.2.1:56324", "198.51.100.2:443"));
    let mut six = [0u8; 36];
    six[..16].copy_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
    six[16..32].copy_from_slice(&"2001:db8::2".parse::<Ipv6Addr>().unwrap().octets());
    six[32..].copy_from_slice(&[0, 1, 0, 2]);
    assert_eq!(parse(&v2(0x21, 0x21, &six)), done(52, "[2001:db8::1]:1", "[2001:db8::2]:2"));
    let with_tlvs = v2(0x21, 0x11, &[TCP4, &[0x01, 0, 2, b'h', b'2', 0x04, 0, 0]].concat());
    assert!(matches!(parse(&with_tlvs), Parse::Done { source: Some(_), .. }));
    assert!(matches!(
        parse(&v2(0x21, 0x11, &[TCP4, &[4, 0x0f, 0xe1], &[0; 4065]].concat())),
        Parse::Done { consumed: V2_MAX, .. }
    ));
}

#[test]
fn local_and_unspecified_connections_have_no_addresses() {
    for header in [
        v2(0x20, 0x00, &[]),
        v2(0x20, 0x11, TCP4),
        v2(0x20, 0x11, &[]),
        v2(0x20, 0x7f, b"whatever"),
        v2(0x21, 0x00, &[]),
        v2(0x21, 0x31, &[7; 216]),
    ] {
        let consumed = header.len();
        assert_eq!(parse(&header), Parse::Done { consumed, source: None, destination: None }, "{header:?}");
    }
}

#[test]
fn refuses_what_version_2_does_not_allow() {
    for (header, why) in [
        (v2(0x11, 0x11, TCP4), "version 1 in a binary header"),
        (v2(0x31, 0x11, TCP4), "version 3"),
        (v2(0x22, 0x11, TCP4), "an unknown command"),
        (v2(0x21, 0x41, TCP4), "an unknown family"),
        (v2(0x21, 0x13, TCP4), "an unknown transport"),
        (v2(0x21, 0x12, TCP4), "a datagram"),
        (v2(0x21, 0x11, &TCP4[..11]), "addresses cut short"),
        (v2(0x21, 0x21, TCP4), "IPv4 addresses as IPv6"),
        (v2(0x21, 0x11, &[TCP4, &[0x04, 0]].concat()), "half a field"),
        (v2(0x21, 0x11, &[TCP4, &[0x04, 0, 9, 1]].concat()), "a field beyond the end"),
        (v2(0x21, 0x11, &[TCP4, &[TLV_CRC32C, 0, 2, 1, 1]].concat()), "a checksum of two bytes"),
        (with_crc(1), "a wrong checksum"),
        (v2(0x21, 0x11, &[0; 4081]), "too long"),
    ] {
        assert!(matches!(parse(&header), Parse::Invalid(_)), "{why}: {:?}", parse(&header));
    }
    // A length that is refused is refused before anyone waits for that much.
    assert!(matches!(parse(&v2(0x21, 0x11, &[0; 4081])[..16]), Parse::Invalid(_)));
    assert!(matches!(parse(&with_crc(0)), Parse::Done { source: Some(_), .. }));
}

#[test]
fn knows_the_checksum() {
    assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
}

#[test]
fn other_protocols_are_told_apart_at_once() {
    for other in
        [&b"G"[..], b"GET / HTTP/1.1\r\n", b"PROPFIND /", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\n", b"\r\n\r\nG", b"proxy "]
    {
        assert_eq!(parse(other), Parse::NotProxy, "{other:?}");
    }
    for begun in [&b""[..], b"P", b"PRO", b"PROXY ", b"\r\n\r\n\0"] {
        assert_eq!(parse(begun), Parse::Incomplete, "{begun:?}");
    }
}

#[test]
fn every_cut_of_a_header_is_incomplete() {
    for header in [b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n".to_vec(), v2(0x21, 0x11, TCP4), with_crc(0)] {
        for cut in 0..header.len() {
            assert_eq!(parse(&header[..cut]), Parse::Incomplete, "{cut}");
        }
    }
}

proptest! {
    #[test]
    fn never_panics_and_never_consumes_more_than_there_is(
        prefix in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 1.1.1.1 ", &V2_SIGNATURE[..], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x20"]),
        bytes in prop::collection::vec(any::<u8>(), 0..5000),
    ) {
        let bytes = [prefix, &bytes].concat();
        if let Parse::Done { consumed, .. } = parse(&bytes) {
            prop_assert!(consumed <= bytes.len() && consumed <= V2_MAX);
            prop_assert_eq!(parse(&bytes), parse(&bytes[..consumed]), "what follows a header must not matter");
        }
    }
}

/// Sends `bytes` in pieces of `step`, and returns what was received and what was left in the stream.
async fn through_a_socket(bytes: &[u8], step: usize) -> (io::Result<Received>, Vec<u8>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let bytes = bytes.to_vec();
    let sender = tokio::spawn(async move {
        for piece in bytes.chunks(step) {
            let _ = client.write_all(piece).await;
            tokio::task::yield_now().await;
        }
    });
    let received = read_header_within(&mut server, Duration::from_secs(5)).await;
    sender.await.unwrap();
    let mut rest = Vec::new();
    let _ = server.read_to_end(&mut rest).await;
    (received, rest)
}

#[tokio::test]
async fn takes_the_header_and_nothing_else_from_a_stream() {
    let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n".to_vec();
    let short = b"PROXY UNKNOWN\r\n".to_vec();
    for header in [line, short, v2(0x21, 0x11, TCP4), with_crc(0), v2(0x20, 0, &[])] {
        for step in [1, 7, 1000] {
            let (received, rest) = through_a_socket(&[&header[..], b"\x16\x03\x01 next \n"].concat(), step).await;
            assert!(matches!(received, Ok(Received::Header(_))), "{received:?}");
            assert_eq!(rest, b"\x16\x03\x01 next \n");
        }
    }
}

#[tokio::test]
async fn a_stream_without_a_header_keeps_every_byte() {
    for bytes in [&b"PROPFIND / HTTP/1.1\r\n\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", b"\r\n\r\nGET", b"PRI * HTTP/2.0\r\n\r\nSM"] {
        for step in [1, 5, 1000] {
            let (received, rest) = through_a_socket(bytes, step).await;
            let Ok(Received::None { read }) = received else { panic!("{received:?}") };
            assert_eq!([&read[..], &rest].concat(), bytes);
        }
    }
}

#[tokio::test]
async fn a_broken_or_silent_sender_ends_in_an_error() {
    let (received, _) = through_a_socket(b"PROXY TCP4 nonsense\r\n", 3).await;
    assert_eq!(received.unwrap_err().kind(), io::ErrorKind::InvalidData);
    for cut in [&b"PROXY TC"[..], b"PROXY TCP4 192.0", &v2(0x21, 0x11, TCP4)[..20]] {
        let (received, _) = through_a_socket(cut, 1000).await;
        assert_eq!(received.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
    let (received, _) = through_a_socket(b"", 1000).await;
    assert_eq!(received.unwrap_err().kind(), io::ErrorKind::ConnectionAborted, "who says nothing breaks nothing");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let received = read_header_within(&mut server, Duration::from_millis(20)).await;
    assert_eq!(received.unwrap_err().kind(), io::ErrorKind::TimedOut);
}
