//! One answer as it stands in Redis: a head that says when it was asked for, whose it is, and its metadata, and its body behind that.
//!
//! The head has a code over all of itself, and the digest of the body, so that another head can be put before the same body without the
//! body being sent again. What is torn, foreign, or of another version of this program is no answer. When it was asked for, and where the
//! body begins, stand before all else and in digits, as the scripts read them.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header;
use pingora_cache::key::HashBinary;

use super::names::Digest;
use crate::cache::disk::bytes::{In, Out};
use crate::cache::disk::record;
use crate::cache::entry::{Entry, Meta};

/// Another one with every change of what follows, or of how metadata is written.
pub(super) const MAGIC: &str = "pcr2";
/// Of a time in digits: microseconds up to the year 2286.
pub(super) const DIGITS: usize = 16;
/// Of the place where the body begins.
const START: usize = 8;
const CODE: usize = 32;
/// Of a head, before its code.
const FIXED: usize = MAGIC.len() + DIGITS + START + CODE;
const LEVEL: i32 = 3;

/// An answer that was read.
pub(super) struct Value {
    /// By the clock of Redis, in microseconds.
    pub(super) asked: u64,
    /// The place that it stands in: `None` for the first.
    pub(super) variance: Option<HashBinary>,
    pub(super) meta: Meta,
    pub(super) body: Bytes,
    /// When it was written, by the clock of Redis.
    written: u64,
    /// And by that of its gateway.
    written_there: SystemTime,
}

/// A time as it stands before all else, and in the key that says when a target was changed.
pub(super) fn digits(micros: u64) -> String {
    format!("{micros:0DIGITS$}")
}

/// What [`digits`] said.
pub(super) fn time_of(text: &[u8]) -> Option<u64> {
    let text = text.first_chunk::<DIGITS>().filter(|text| text.iter().all(u8::is_ascii_digit))?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn code(parts: [&[u8]; 2]) -> [u8; CODE] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// An answer's head as it is written. `asked` and `now` are by the clock of Redis.
pub(super) fn head(entry: &Entry, variance: Option<HashBinary>, key: &Digest, asked: u64, now: u64) -> Vec<u8> {
    let mut meta = Out::default();
    record::write_meta(&mut meta, &entry.meta, SystemTime::now());
    let mut out = Out(Vec::with_capacity(256 + meta.0.len()));
    let length = FIXED + CODE + key.len() + 1 + variance.unwrap_or_default().len() + 8 + 4 + meta.0.len();
    out.0.extend_from_slice(MAGIC.as_bytes());
    out.0.extend_from_slice(digits(asked).as_bytes());
    out.0.extend_from_slice(format!("{length:0START$}").as_bytes());
    out.0.extend_from_slice(&code([&entry.body, &[]]));
    out.0.resize(FIXED + CODE, 0);
    out.0.extend_from_slice(key);
    out.0.push(u8::from(variance.is_some()));
    out.0.extend_from_slice(&variance.unwrap_or_default());
    out.u64(now);
    out.text(&meta.0);
    let (before, rest) = out.0.split_at_mut(FIXED);
    if let Some((place, rest)) = rest.split_first_chunk_mut::<CODE>() {
        *place = code([before, rest]);
    }
    out.0
}

/// What a head says its body is, for the script that compares it.
pub(super) fn body_code(head: &[u8]) -> &[u8] {
    head.get(FIXED - CODE..FIXED).unwrap_or_default()
}

/// And its body. One longer than `compress_above` is compressed, unless it is already, or becomes no shorter by that.
pub(super) fn body(entry: &Entry, compress_above: usize) -> Vec<u8> {
    let body = &entry.body;
    let is_coded = entry.meta.head.header(&header::CONTENT_ENCODING).is_some();
    let packed = if body.len() > compress_above && !is_coded { zstd::bulk::compress(body, LEVEL).ok() } else { None };
    let packed = packed.filter(|packed| packed.len() <= body.len() / 8 * 7);
    let bytes = packed.as_deref().unwrap_or(body);
    let mut out = Out(Vec::with_capacity(16 + bytes.len()));
    out.u64(body.len() as u64);
    out.0.push(u8::from(packed.is_some()));
    out.0.extend_from_slice(bytes);
    out.0
}

/// Where a body begins, by its head.
fn start(bytes: &[u8]) -> Option<usize> {
    let text = bytes.get(MAGIC.len() + DIGITS..)?.first_chunk::<START>()?;
    std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

/// How much work it is to read that: its length, or that of the body that it says it becomes.
pub(super) fn length(bytes: &[u8]) -> usize {
    let says = start(bytes).and_then(|start| In(bytes.get(start..)?).u64());
    says.and_then(|length| usize::try_from(length).ok()).unwrap_or_default().max(bytes.len())
}

/// The answer that these bytes are, if it is one of this key, and its body is no longer than that.
pub(super) fn read(bytes: &[u8], key: &Digest, longest: usize) -> Option<Value> {
    let (head, body) = bytes.split_at_checked(start(bytes)?)?;
    let (before, rest) = head.split_at_checked(FIXED)?;
    let asked = time_of(before.strip_prefix(MAGIC.as_bytes())?)?;
    let (known, rest) = rest.split_first_chunk::<CODE>()?;
    if code([before, rest]) != *known {
        return None;
    }
    let mut from = In(rest);
    if from.array()? != *key {
        return None;
    }
    let (is_variant, variance) = (from.bytes(1)? == [1], from.array()?);
    let written = from.u64()?;
    let (meta, written_there) = record::read_meta(&mut In(from.text()?), 1)?;
    let mut body = In(body);
    let length = usize::try_from(body.u64()?).ok().filter(|length| *length <= longest)?;
    let body = match body.array()? {
        // In memory of its own: what it is counted as.
        [0] => Bytes::copy_from_slice(body.0),
        [1] => Bytes::from(zstd::bulk::decompress(body.0, length).ok()?.into_boxed_slice()),
        _ => return None,
    };
    let variance = is_variant.then_some(variance);
    let is_whole = body.len() == length && code([&body, &[]]) == body_code(before);
    is_whole.then_some(Value { asked, variance, meta, body, written, written_there })
}

impl Value {
    /// Times of day as this gateway's clock has them, where the other one's says something else. `since` is how long ago Redis's clock said
    /// a time.
    pub(super) fn by_own_clock(&mut self, since: impl Fn(u64) -> Option<Duration>) -> Option<()> {
        /// So much they may differ.
        const ALIKE: Duration = Duration::from_secs(1);
        let here = SystemTime::now().checked_sub(since(self.written)?)?;
        let shift = |time: SystemTime| match here.duration_since(self.written_there) {
            Ok(ahead) if ahead > ALIKE => time.checked_add(ahead),
            Err(behind) if behind.duration() > ALIKE => time.checked_sub(behind.duration()),
            _ => Some(time),
        };
        let meta = &self.meta;
        let [fresh_until, created, epoch] = [meta.fresh_until, meta.created, meta.epoch].map(shift);
        (self.meta.fresh_until, self.meta.created, self.meta.epoch) = (fresh_until?, created?, epoch?);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use pingora_http::ResponseHeader;

    use super::*;
    use crate::cache::stored::StoredHead;

    const KEY: Digest = [7; 32];

    /// All of it, one behind the other.
    fn write(entry: &Entry, variance: Option<HashBinary>, key: &Digest, asked: u64, now: u64, compress_above: usize) -> Vec<u8> {
        [head(entry, variance, key, asked, now), body(entry, compress_above)].concat()
    }

    fn entry(body: Vec<u8>) -> Entry {
        let mut answer = ResponseHeader::build(200, None).unwrap();
        answer.append_header("content-type", "text/plain").unwrap();
        let now = SystemTime::now();
        let meta = Meta {
            fresh_until: now + Duration::from_secs(60),
            created: now,
            epoch: now,
            variance: None,
            stale_while_revalidate: 0,
            stale_if_error: 0,
            asked: 1,
            tags: None,
            on_disk: true,
            in_redis: true,
            fallback: 0,
            head: StoredHead::of(&answer).unwrap(),
        };
        Entry::new(b"key", "", meta, Bytes::from(body))
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        for (length, above) in [(0, 0), (10, 1_000), (100_000, 1_000), (100_000, usize::MAX)] {
            let entry = entry(b"abc ".iter().copied().cycle().take(length).collect());
            let bytes = write(&entry, Some([3; 16]), &KEY, 1_700_000_000_000_000, 1_700_000_000_100_000, above);
            assert_eq!(bytes.len() < 50_000, above < length || length < 50_000, "{length} {above}");
            let value = read(&bytes, &KEY, 100_000).unwrap();
            assert_eq!((value.asked, value.variance, &value.body), (1_700_000_000_000_000, Some([3; 16]), &entry.body));
            assert_eq!(value.meta.fresh_until, entry.meta.fresh_until);
            assert!(value.meta.head.headers().eq(entry.meta.head.headers()));
            assert!(read(&bytes, &[8; 32], 100_000).is_none(), "another one's key");
            assert!(length == 0 || read(&bytes, &KEY, length - 1).is_none(), "longer than is wanted");
        }
    }

    #[test]
    fn whatever_is_changed_of_it_makes_it_none() {
        let whole = write(&entry(vec![b'x'; 300]), None, &KEY, 1_700_000_000_000_000, 1_700_000_000_100_000, 100);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(read(&bytes, &KEY, 1_000).is_none(), "{at}");
            assert!(read(&whole[..at], &KEY, 1_000).is_none(), "{at}");
        }
        assert!(read(&[&whole[..], b"x"].concat(), &KEY, 1_000).is_none());
        assert!(read(b"foreign", &KEY, 1_000).is_none());
    }

    #[test]
    fn another_head_goes_before_the_same_body() {
        let mut entry = entry(vec![b'x'; 9_000]);
        let first = write(&entry, None, &KEY, 1_700_000_000_000_000, 1_700_000_000_100_000, 100);
        entry.meta.fresh_until += Duration::from_secs(60);
        let renewed = head(&entry, None, &KEY, 1_700_000_001_000_000, 1_700_000_001_100_000);
        assert_eq!(body_code(&renewed), body_code(&first));
        let value = read(&[&renewed, &first[start(&first).unwrap()..]].concat(), &KEY, 10_000).unwrap();
        assert_eq!(
            (value.asked, value.meta.fresh_until, value.body.len()),
            (1_700_000_001_000_000, entry.meta.fresh_until, 9_000)
        );
        // Not before another one.
        entry.body = Bytes::from(vec![b'y'; 9_000]);
        assert!(read(&[renewed, body(&entry, 100)].concat(), &KEY, 10_000).is_none());
    }

    #[test]
    fn what_a_clock_that_is_wrong_has_written_is_as_old_as_it_is() {
        let hour = Duration::from_secs(3600);
        let (now, mut entry) = (SystemTime::now(), entry(Vec::new()));
        for there in [now + hour, now - hour, now] {
            entry.meta.fresh_until = there + Duration::from_secs(60);
            let bytes = write(&entry, None, &KEY, 1_700_000_000_000_000, 1_700_000_000_000_000, 100);
            let mut value = read(&bytes, &KEY, 1_000).unwrap();
            value.written_there = there;
            value.by_own_clock(|_| Some(Duration::from_secs(20))).unwrap();
            let left = value.meta.fresh_until.duration_since(now).unwrap();
            // It was written 20 s ago, whatever that clock said.
            assert!(left.abs_diff(Duration::from_secs(40)) < Duration::from_secs(2), "{left:?}");
        }
    }
}
