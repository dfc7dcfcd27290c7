//! What the readers of bytes from outside promise, whatever the bytes: each function takes any input and panics where a promise is broken.
//!
//! Used twice: by `make fuzz`, which looks for inputs with libFuzzer, and by the tests, which run the seeds and a few thousand changes of
//! them. The first byte of an input says where it is cut in two, for how packets cut a message must not change what it says.

use std::path::Path;

use bytes::BytesMut;
use http::Method;
use portcullis::config::Source;
use portcullis::head::{AnswerLimits, BodyFraming};
use portcullis::listen::proxy_protocol::{Parse, parse};
use portcullis::tcp::hello::{Greeting, MOST, Reader};
use portcullis::upstream::discover::message::{self, Data};
use portcullis::wire::answer;
use portcullis::wire::body::{BodyDecoder, Decoded};
use portcullis::wire::head::{self, HeadLimits, HeadScan};

/// A target, and the folder of its seeds.
pub type Target = (&'static str, fn(&[u8]));

pub static TARGETS: [Target; 7] =
    [("head", head), ("answer", answer), ("chunked", chunked), ("proxy", proxy), ("hello", hello), ("yaml", yaml), ("dns", dns)];

/// The input without its first byte, and where that says it is cut.
fn cut(data: &[u8]) -> Option<(&[u8], usize)> {
    let (first, rest) = data.split_first()?;
    Some((rest, usize::from(*first).min(rest.len())))
}

/// A request head: the method, the target, the fields, the framing, and what is left; or why it is refused.
type Read = Result<Option<(String, String, Vec<(Vec<u8>, Vec<u8>)>, BodyFraming, Vec<u8>)>, &'static str>;

fn read_head(pieces: &[&[u8]]) -> Read {
    let (mut scan, mut buffer, limits) = (HeadScan::default(), BytesMut::new(), HeadLimits::default());
    for (number, piece) in pieces.iter().enumerate() {
        buffer.extend_from_slice(piece);
        if scan.find(&mut buffer, &limits).map_err(|bad| bad.reason)? {
            let head = head::take(&mut buffer, &limits).map_err(|refused| refused.bad.reason)?;
            for (name, value) in head.headers() {
                assert!(!name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic() && *byte != b':'), "{name:?}");
                assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{value:?}");
            }
            assert!(!head.path.bytes().any(|byte| byte <= b' ' || byte == 0x7f), "{:?}", head.path);
            let fields = head.headers().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            let rest = [&buffer[..], &pieces[number + 1..].concat()].concat();
            return Ok(Some((head.method.to_string(), head.path.to_string(), fields, head.body, rest)));
        }
    }
    Ok(None)
}

/// What a request head says does not depend on how it was cut, and a good one has nothing in it that begins another line.
pub fn head(data: &[u8]) {
    let Some((data, at)) = cut(data) else { return };
    let whole = read_head(&[data]);
    let (one, other) = data.split_at(at);
    assert_eq!(read_head(&[one, other]), whole, "cut at {at}");
}

/// A backend's answer: read at once or in two pieces, and told on as Pingora's header map, it is the same.
pub fn answer(data: &[u8]) {
    let Some((data, at)) = cut(data) else { return };
    let (one, other) = data.split_at(at);
    for method in [Method::GET, Method::HEAD] {
        let limits = AnswerLimits::default();
        let told = |pieces: &[&[u8]]| {
            let mut buffer = BytesMut::new();
            for (number, piece) in pieces.iter().enumerate() {
                buffer.extend_from_slice(piece);
                match answer::take(&mut buffer, &method, &limits) {
                    Ok(None) => {}
                    Ok(Some(head)) => {
                        let fields: Vec<_> = head.headers().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
                        let breaks = |bytes: &[u8]| bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
                        assert!(!fields.iter().any(|(name, value)| breaks(name) || breaks(value)), "{fields:?}");
                        let rest = [&buffer[..], &pieces[number + 1..].concat()].concat();
                        return Ok(Some((head.status, fields, head.length, head.body, head.keep_alive, rest)));
                    }
                    Err(bad) => return Err(bad),
                }
            }
            Ok(None)
        };
        let whole = told(&[data]);
        // A head that is beyond its bounds may be refused before it is found to be malformed, and the other way round.
        let cut = told(&[one, other]);
        assert!(cut == whole || (cut.is_err() && whole.is_err()), "cut at {at}: {cut:?}, whole {whole:?}");
    }
}

/// A chunked body: the same bytes, the same end and the same refusal however it was cut; nothing behind its end is taken.
pub fn chunked(data: &[u8]) {
    let Some((data, at)) = cut(data) else { return };
    let read = |pieces: &[&[u8]]| {
        let (mut decoder, mut buffer, mut body) = (BodyDecoder::new(BodyFraming::Streamed), BytesMut::new(), Vec::new());
        for (number, piece) in pieces.iter().enumerate() {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buffer) {
                    Ok(Decoded::Data(data)) => {
                        assert!(!data.is_empty());
                        body.extend_from_slice(&data);
                    }
                    Ok(Decoded::NeedMore) => break,
                    Ok(Decoded::Trailers(fields)) => {
                        let rest = [&buffer[..], &pieces[number + 1..].concat()].concat();
                        return Ok((body, Some((fields.to_vec(), rest))));
                    }
                    Ok(Decoded::End) => {
                        let rest = [&buffer[..], &pieces[number + 1..].concat()].concat();
                        return Ok((body, Some((Vec::new(), rest))));
                    }
                    Err(bad) => return Err((body, bad)),
                }
            }
        }
        Ok((body, None))
    };
    let (one, other) = data.split_at(at);
    assert_eq!(read(&[one, other]), read(&[data]), "cut at {at}");
}

/// A PROXY header: what the beginning of a connection says of it, more bytes never unsay.
pub fn proxy(data: &[u8]) {
    let mut before = Parse::Incomplete;
    for end in 0..=data.len().min(8192) {
        let now = parse(&data[..end]);
        if let Parse::Done { consumed, .. } = now {
            assert!(consumed <= end, "{consumed} of {end}");
        }
        assert!(before == Parse::Incomplete || before == now, "{before:?}, then {now:?} at {end}");
        before = now;
    }
}

/// A configuration: every problem has its place in the file, and can be shown.
pub fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (source, document) = Source::from_text(Path::new("fuzz.yaml"), text.to_owned());
    assert!(document.is_some() || source.problems.has_errors(), "nothing was read, and nobody says why");
    let lines = portcullis::node::text_lines(text).count() + 1;
    for problem in source.problems.iter() {
        assert!(!problem.message.is_empty());
        assert!(problem.place.line as usize <= lines, "{problem:?}");
    }
    source.report(false);
}

/// A DNS server's answer: names are what could be connected to, and one that is cut off says the same, or that there is more, or nothing.
pub fn dns(data: &[u8]) {
    let Some((data, at)) = cut(data) else { return };
    for kind in [message::A, message::AAAA, message::SRV] {
        let question = message::question(7, "a.test", kind).expect("a name");
        let whole = message::answer(data, &question);
        for record in whole.iter().flat_map(|answer| &answer.records) {
            let named = match &record.data {
                Data::Address(_) => "",
                Data::Alias(name) | Data::Service { target: name, .. } => name,
            };
            for name in [&*record.owner, named] {
                assert!(
                    name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()),
                    "{name}"
                );
            }
        }
        if let Some(part) = message::answer(&data[..at], &question) {
            assert!(part.truncated || Some(&part) == whole.as_ref(), "{part:?}, then {whole:?}");
        }
    }
}

/// A TLS hello says the same however it was cut, nothing behind it matters, and the name is one that can be logged and compared.
pub fn hello(data: &[u8]) {
    let Some((data, at)) = cut(data) else { return };
    let told = |pieces: &[&[u8]]| {
        let mut reader = Reader::default();
        pieces.iter().find_map(|piece| reader.push(piece))
    };
    let whole = told(&[data]);
    let (one, other) = data.split_at(at);
    assert_eq!(told(&[one, other]), whole, "cut at {at}");
    let single: Vec<&[u8]> = data.chunks(1).collect();
    assert_eq!(told(&single), whole, "byte by byte");
    if whole.is_some() {
        assert_eq!(told(&[data, b"\x16\x03\x01\x00\x05more!"]), whole);
    } else {
        assert!(data.len() <= MOST);
    }
    if let Some(Greeting::Hello(Some(name))) = whole {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_:".contains(&byte);
        assert!((1..=253).contains(&name.len()) && name.bytes().all(plain) && !name.ends_with('.'), "{name}");
    }
}
