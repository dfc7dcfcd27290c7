use super::*;

/// A vector behind its length.
fn vector_of(width: usize, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    [&length[length.len() - width..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector_of(2, content)].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(0, &vector_of(2, &[&[0][..], &vector_of(2, name)].concat()))
}

/// As browsers send it: GREASE (RFC 8701) wherever there is room for it.
fn grease() -> Vec<u8> {
    extension(0x3a3a, b"")
}

fn message(extensions: &[u8]) -> Vec<u8> {
    let body = [
        &[3, 3][..],
        &[7; 32],
        &vector_of(1, &[9; 32]),
        &vector_of(2, &[0x2a, 0x2a, 0x13, 0x01]),
        &vector_of(1, &[0]),
        &vector_of(2, extensions),
    ]
    .concat();
    [&[1][..], &vector_of(3, &body)].concat()
}

fn record(content: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &vector_of(2, content)].concat()
}

fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    record(&message(&extensions.concat()))
}

fn told(bytes: &[u8]) -> Option<Greeting> {
    Reader::default().push(bytes)
}

fn named(name: &str) -> Option<Greeting> {
    Some(Greeting::Hello(Some(name.into())))
}

#[test]
fn a_name_is_found_wherever_it_stands() {
    assert_eq!(told(&hello(&[sni(b"a.example.org")])), named("a.example.org"));
    assert_eq!(
        told(&hello(&[grease(), extension(16, b"\0\x03\x02h2"), sni(b"A.Example.ORG."), grease()])),
        named("a.example.org")
    );
    // The outer name of an encrypted hello.
    assert_eq!(told(&hello(&[extension(0xfe0d, &[5; 200]), sni(b"public.example")])), named("public.example"));
    assert_eq!(told(&hello(&[grease()])), Some(Greeting::Hello(None)));
    let old = [&[1][..], &vector_of(3, &[&[3, 1][..], &[7; 32], &[0], &[0, 2, 0, 47], &[1, 0]].concat())].concat();
    assert_eq!(told(&record(&old)), Some(Greeting::Hello(None)));
}

#[test]
fn it_makes_no_difference_how_it_is_cut() {
    let whole = hello(&[grease(), sni(b"a.example.org"), extension(21, &[0; 300])]);
    for cut in 1..whole.len() {
        let mut reader = Reader::default();
        assert_eq!(reader.push(&whole[..cut]), None, "{cut}");
        assert_eq!(reader.push(&whole[cut..]), named("a.example.org"), "{cut}");
    }
    let mut reader = Reader::default();
    let single: Vec<_> = whole.iter().filter_map(|byte| reader.push(&[*byte])).collect();
    assert_eq!(single, [Greeting::Hello(Some("a.example.org".into()))]);
}

#[test]
fn it_makes_no_difference_in_how_many_records_it_comes() {
    let message = message(&[grease(), sni(b"a.example.org")].concat());
    for size in [1, 2, 3, 7, 40, message.len() - 1] {
        let records: Vec<u8> = message.chunks(size).flat_map(record).collect();
        assert_eq!(told(&records), named("a.example.org"), "{size}");
    }
}

#[test]
fn what_is_no_tls_is_told_from_its_first_bytes() {
    for other in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        b"\x80\x2e\x01\x03\x01",
        b"\x16\x02",
        b"\x16\x03\x09",
        b"\x16\x03\x01\0\0",
        b"\x16\x03\x01\xff\xff",
    ] {
        assert_eq!(told(other), Some(Greeting::Other), "{other:?}");
    }
    assert_eq!(told(b"\x16\x03\x01\x02"), None);
}

#[test]
fn what_could_be_read_in_two_ways_is_malformed() {
    let bad = Some(Greeting::Bad("hello_malformed"));
    let two = |name: &[u8], other: &[u8]| {
        let entry = |name: &[u8]| [&[0][..], &vector_of(2, name)].concat();
        extension(0, &vector_of(2, &[entry(name), entry(other)].concat()))
    };
    assert_eq!(told(&hello(&[sni(b"a.example.org"), sni(b"b.example.org")])), bad);
    assert_eq!(told(&hello(&[two(b"a.example.org", b"b.example.org")])), bad);
    for name in [&b""[..], b".", b"a\0.example.org", b"a b", b"\xc3\xa4.example.org", &[b'a'; 300]] {
        assert_eq!(told(&hello(&[sni(name)])), bad, "{name:?}");
    }
    // Something behind the list, another kind of name, and an extension that ends beyond its hello.
    assert_eq!(
        told(&hello(&[extension(0, &[&vector_of(2, &[&[0][..], &vector_of(2, b"a")].concat())[..], &[0]].concat())])),
        bad
    );
    assert_eq!(told(&hello(&[extension(0, &vector_of(2, &[&[1][..], &vector_of(2, b"a")].concat()))])), bad);
    assert_eq!(told(&hello(&[vec![0, 0, 0, 9, 0]])), bad);
    // Another message, and bytes between or behind what belongs together.
    assert_eq!(told(&record(&[2, 0, 0, 0])), bad);
    let whole = message(&sni(b"a"));
    assert_eq!(told(&[&record(&whole[..20])[..], &[20, 3, 3, 0, 1, 1]].concat()), bad);
    assert_eq!(told(&record(&[&whole[..], &[0]].concat())), bad);
}

#[test]
fn there_is_a_bound_to_it() {
    let large = Some(Greeting::Bad("hello_too_large"));
    assert_eq!(told(&record(&[1, 0, 0x40, 0x01])), large);
    // Padding up to the bound is fine, in one record or in many.
    let room = 16 * 1024 - (message(&extension(21, &[])).len() - 4);
    let most = message(&extension(21, &vec![0; room]));
    let records: Vec<u8> = most.chunks(16 * 1024).flat_map(record).collect();
    assert_eq!(told(&records), Some(Greeting::Hello(None)));
    let tiny: Vec<u8> = most.chunks(1).flat_map(record).collect();
    assert_eq!(told(&tiny), large);
    let mut reader = Reader::default();
    assert!(tiny.chunks(1000).find_map(|bytes| reader.push(bytes)) == large && reader.message.len() < MOST);
}
