//! Signatures of requests as AWS has them (Signature Version 4): the text that is signed, made of a request in one way for who signs and
//! for who checks.
//!
//! Deliberately not in here: where keys come from, and what a good signature proves.

mod claim;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use aws_lc_rs::{digest, hmac};

use crate::carrier::{decode, decode_escapes};

pub use claim::{Claim, Presigned, is_presigned};

/// The scheme of the `Authorization` field, and the algorithm that stands in what is signed.
pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// In place of a digest where the body is not signed.
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// The last part of every scope.
const TERMINATOR: &str = "aws4_request";

/// What a signature is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope<'a> {
    /// `20261128T210000Z`.
    pub at: &'a str,
    pub region: &'a str,
    pub service: &'a str,
}

impl Scope<'_> {
    fn day(&self) -> &str {
        self.at.get(..8).unwrap_or_default()
    }

    /// `20261128/eu-central-1/lambda/aws4_request`.
    pub fn path(&self) -> String {
        format!("{}/{}/{}/{TERMINATOR}", self.day(), self.region, self.service)
    }

    /// S3 has paths encoded once; all others have what is sent encoded once more.
    pub fn encodes_once(&self) -> bool {
        matches!(self.service, "s3" | "s3-object-lambda" | "s3express" | "s3-outposts")
    }
}

/// A request as its signature sees it.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    pub method: &'a str,
    /// As it is sent.
    pub path: &'a str,
    /// As it is sent, without the signature itself.
    pub query: Option<&'a str>,
    /// The signed fields, in lower case, sorted by name; those of one name in their order.
    pub fields: &'a [(&'a str, &'a [u8])],
    /// SHA-256 of the body in hexadecimal digits, or what stands in its place.
    pub payload: &'a str,
}

/// The signature of a request.
pub fn signature(secret: &[u8], scope: &Scope<'_>, signed: &Signed<'_>) -> [u8; 32] {
    mac(&key(secret, scope), text(scope, signed).as_bytes())
}

/// The whole `Authorization` field.
pub fn authorization(key_id: &str, secret: &[u8], scope: &Scope<'_>, signed: &Signed<'_>) -> String {
    let signature = hex(&signature(secret, scope, signed));
    format!("{ALGORITHM} Credential={key_id}/{}, SignedHeaders={}, Signature={signature}", scope.path(), names(signed.fields))
}

/// What the secret becomes within a scope.
fn key(secret: &[u8], scope: &Scope<'_>) -> [u8; 32] {
    let mut start = Vec::with_capacity(4 + secret.len());
    start.extend_from_slice(b"AWS4");
    start.extend_from_slice(secret);
    let mut key = mac(&start, scope.day().as_bytes());
    for part in [scope.region, scope.service, TERMINATOR] {
        key = mac(&key, part.as_bytes());
    }
    key
}

/// What is signed.
fn text(scope: &Scope<'_>, signed: &Signed<'_>) -> String {
    format!("{ALGORITHM}\n{}\n{}\n{}", scope.at, scope.path(), digest_of(canonical(scope, signed).as_slice()))
}

/// The request in the one spelling that there is for signatures.
fn canonical(scope: &Scope<'_>, signed: &Signed<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(signed.method.as_bytes());
    out.push(b'\n');
    match scope.encodes_once() {
        true => out.extend_from_slice(object(signed.path).as_bytes()),
        false => out.extend_from_slice(path(signed.path).as_bytes()),
    }
    out.push(b'\n');
    out.extend_from_slice(query(signed.query.unwrap_or_default()).as_bytes());
    out.push(b'\n');
    let mut last = None;
    for (name, value) in signed.fields {
        if last == Some(name) {
            out.push(b',');
        } else {
            if last.is_some() {
                out.push(b'\n');
            }
            out.extend_from_slice(name.as_bytes());
            out.push(b':');
        }
        push_value(&mut out, value);
        last = Some(name);
    }
    out.extend_from_slice(b"\n\n");
    out.extend_from_slice(names(signed.fields).as_bytes());
    out.push(b'\n');
    out.extend_from_slice(signed.payload.as_bytes());
    out
}

/// Every name once: `host;x-amz-date`.
fn names(fields: &[(&str, &[u8])]) -> String {
    let mut names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    names.dedup();
    names.join(";")
}

/// Without spaces around it, and with one where there are several.
fn push_value(out: &mut Vec<u8>, value: &[u8]) {
    let mut words = value.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    out.extend_from_slice(words.next().unwrap_or_default());
    for word in words {
        out.push(b' ');
        out.extend_from_slice(word);
    }
}

/// Without dot segments and empty ones, each segment encoded once more than it is sent.
fn path(sent: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in sent.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(sent.len() + 8);
    for segment in &kept {
        out.push('/');
        encode(&mut out, segment.as_bytes());
    }
    if out.is_empty() || sent.ends_with('/') || sent.ends_with("/.") || sent.ends_with("/..") {
        out.push('/');
    }
    out
}

/// As S3 has it: every segment in the one spelling that there is, and none left out.
fn object(sent: &str) -> String {
    let mut out = String::with_capacity(sent.len() + 8);
    for (number, segment) in sent.split('/').enumerate() {
        if number > 0 {
            out.push('/');
        }
        encode(&mut out, &decode_escapes(segment));
    }
    out
}

/// Parameters sorted by name and value, each decoded as services do and encoded in one way.
fn query(sent: &str) -> String {
    let encoded = |text: &str| {
        let mut out = String::with_capacity(text.len() + 8);
        encode(&mut out, &decode(text));
        out
    };
    let pairs = sent.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<(String, String)> = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encoded(name), encoded(value)))
        .collect();
    pairs.sort();
    let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// Everything but what RFC 3986 calls unreserved as `%XX`.
pub fn encode(out: &mut String, text: &[u8]) {
    for &byte in text {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// SHA-256 in hexadecimal digits.
pub fn digest_of(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn mac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    let mut out = [0; 32];
    out.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
    out
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// A time as signatures have it: `20261128T210000Z`. `None` for one that has no such form.
pub fn stamp(unix_seconds: u64) -> Option<String> {
    let time = jiff::Timestamp::from_second(i64::try_from(unix_seconds).ok()?).ok()?;
    Some(time.strftime("%Y%m%dT%H%M%SZ").to_string())
}

/// The same back, in seconds since 1970. Nothing but that form is read.
pub fn read_stamp(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes.get(8) != Some(&b'T') || bytes.get(15) != Some(&b'Z') {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to).filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    let read = |from, to| number(from, to)?.parse::<i16>().ok();
    let small = |from, to| read(from, to).and_then(|number| i8::try_from(number).ok());
    let (year, month, day) = (read(0, 4)?, small(4, 6)?, small(6, 8)?);
    let (hour, minute, second) = (small(9, 11)?, small(11, 13)?, small(13, 15)?);
    let time = jiff::civil::DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    u64::try_from(time.timestamp().as_second()).ok()
}
