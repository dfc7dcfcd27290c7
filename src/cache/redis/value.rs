//! One answer as it stands in Redis: when it was asked for, whose it is, its metadata and its body, with a digest over all of it.
//!
//! What is torn, foreign, or of another version of this program is no answer. When it was asked for stands before all else and in digits,
//! as the scripts compare it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header;
use pingora_cache::key::HashBinary;

use super::names::Digest;
use crate::cache::disk::bytes::{In, Out};
use crate::cache::disk::record;
use crate::cache::entry::{Entry, Meta};
use crate::wire::coding::is_coded;

/// Another one with every change of what follows, or of how metadata is written.
pub(super) const MAGIC: &str = "pcr1";
/// Of a time in digits: microseconds up to the year 2286.
pub(super) const DIGITS: usize = 16;
const CODE: usize = 32;
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

fn code(head: &[u8], rest: &[u8]) -> [u8; CODE] {
    *blake3::Hasher::new().update(head).update(rest).finalize().as_bytes()
}

/// An answer as it is written. `asked` and `now` are by the clock of Redis. Bodies longer than `compress_above` are compressed, unless they
/// are already, or become no shorter by that.
pub(super) fn write(
    entry: &Entry,
    variance: Option<HashBinary>,
    key: &Digest,
    asked: u64,
    now: u64,
    compress_above: usize,
) -> Vec<u8> {
    let body = &entry.body;
    let is_coded = entry.meta.head.header(&header::CONTENT_ENCODING).is_some_and(is_coded);
    let packed = if body.len() > compress_above && !is_coded { zstd::bulk::compress(body, LEVEL).ok() } else { None };
    let packed = packed.filter(|packed| packed.len() <= body.len() / 8 * 7);
    let mut meta = Out::default();
    record::write_meta(&mut meta, &entry.meta, SystemTime::now());
    let mut out = Out(Vec::with_capacity(256 + meta.0.len() + packed.as_ref().map_or(body.len(), Vec::len)));
    out.0.extend_from_slice(MAGIC.as_bytes());
    out.0.extend_from_slice(digits(asked).as_bytes());
    let head = out.0.len();
    out.0.resize(head + CODE, 0);
    out.u64(body.len() as u64);
    out.0.push(u8::from(packed.is_some()));
    out.0.extend_from_slice(key);
    out.0.push(u8::from(variance.is_some()));
    out.0.extend_from_slice(&variance.unwrap_or_default());
    out.u64(now);
    out.text(&meta.0);
    out.0.extend_from_slice(packed.as_deref().unwrap_or(body));
    let (before, rest) = out.0.split_at_mut(head);
    if let Some((place, rest)) = rest.split_first_chunk_mut::<CODE>() {
        *place = code(before, rest);
    }
    out.0
}

/// How much work it is to read that: its length, or that of the body that it says it becomes.
pub(super) fn length(bytes: &[u8]) -> usize {
    let says = bytes.get(MAGIC.len() + DIGITS + CODE..).and_then(|rest| In(rest).u64());
    says.and_then(|length| usize::try_from(length).ok()).unwrap_or_default().max(bytes.len())
}

/// The answer that these bytes are, if it is one of this key, and its body is no longer than that.
pub(super) fn read(bytes: Vec<u8>, key: &Digest, longest: usize) -> Option<Value> {
    let bytes = Bytes::from(bytes);
    let (head, rest) = bytes.split_at_checked(MAGIC.len() + DIGITS)?;
    let asked = time_of(head.strip_prefix(MAGIC.as_bytes())?)?;
    let (known, rest) = rest.split_first_chunk::<CODE>()?;
    if code(head, rest) != *known {
        return None;
    }
    let mut from = In(rest);
    let (length, is_packed) = (usize::try_from(from.u64()?).ok()?, from.bytes(1)? == [1]);
    if from.array()? != *key {
        return None;
    }
    let (is_variant, variance) = (from.bytes(1)? == [1], from.array()?);
    let written = from.u64()?;
    let (meta, written_there) = record::read_meta(&mut In(from.text()?), 1)?;
    if length > longest || !is_packed && from.0.len() != length {
        return None;
    }
    let body = match is_packed {
        // In memory of its own: what it is counted as.
        false => Bytes::copy_from_slice(from.0),
        true => Bytes::from(zstd::bulk::decompress(from.0, length).ok()?.into_boxed_slice()),
    };
    let variance = is_variant.then_some(variance);
    (body.len() == length).then_some(Value { asked, variance, meta, body, written, written_there })
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
            let value = read(bytes.clone(), &KEY, 100_000).unwrap();
            assert_eq!((value.asked, value.variance, &value.body), (1_700_000_000_000_000, Some([3; 16]), &entry.body));
            assert_eq!(value.meta.fresh_until, entry.meta.fresh_until);
            assert!(value.meta.head.headers().eq(entry.meta.head.headers()));
            assert!(read(bytes.clone(), &[8; 32], 100_000).is_none(), "another one's key");
            assert!(length == 0 || read(bytes, &KEY, length - 1).is_none(), "longer than is wanted");
        }
    }

    #[test]
    fn whatever_is_changed_of_it_makes_it_none() {
        let whole = write(&entry(vec![b'x'; 300]), None, &KEY, 1_700_000_000_000_000, 1_700_000_000_100_000, 100);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(read(bytes, &KEY, 1_000).is_none(), "{at}");
            assert!(read(whole[..at].to_vec(), &KEY, 1_000).is_none(), "{at}");
        }
        assert!(read([&whole[..], b"x"].concat(), &KEY, 1_000).is_none());
        assert!(read(b"foreign".to_vec(), &KEY, 1_000).is_none());
    }

    #[test]
    fn what_a_clock_that_is_wrong_has_written_is_as_old_as_it_is() {
        let hour = Duration::from_secs(3600);
        let (now, mut entry) = (SystemTime::now(), entry(Vec::new()));
        for there in [now + hour, now - hour, now] {
            entry.meta.fresh_until = there + Duration::from_secs(60);
            let bytes = write(&entry, None, &KEY, 1_700_000_000_000_000, 1_700_000_000_000_000, 100);
            let mut value = read(bytes, &KEY, 1_000).unwrap();
            value.written_there = there;
            value.by_own_clock(|_| Some(Duration::from_secs(20))).unwrap();
            let left = value.meta.fresh_until.duration_since(now).unwrap();
            // It was written 20 s ago, whatever that clock said.
            assert!(left.abs_diff(Duration::from_secs(40)) < Duration::from_secs(2), "{left:?}");
        }
    }
}
