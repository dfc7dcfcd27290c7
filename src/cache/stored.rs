//! A stored answer's head: one buffer, and ranges into it.
//!
//! It is what is written to clients, so that neither a hit nor what is stored costs a header map. Pingora's state machine, and what of
//! Pingora judges conditions and ranges, gets one made of it.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use pingora_core::Result;
use pingora_http::{HeaderNameVariant, ResponseHeader};
use smallvec::SmallVec;

use super::control::list_of;
use super::{layout, rules};
use crate::head::{Field, Span};
use crate::wire::answer::AnswerHead;
use crate::wire::body::BodyDecoder;
use crate::wire::encode;

/// What the buffer and the list of fields cost as allocations of their own.
const ALLOCATIONS: usize = 64;

/// Digests of the very content of a message (RFC 9530, section 2; RFC 2616, section 14.15): that of a part is not the whole's, nor the other
/// way round. `Repr-Digest` is of what both are of.
pub(super) const OF_CONTENT: [&str; 2] = ["content-digest", "content-md5"];

/// What describes a body (RFC 9110, section 15.4.5).
const DESCRIBING: [&str; 5] = ["content-length", "content-type", "transfer-encoding", "content-encoding", "accept-ranges"];

/// Whether a 304 leaves it out.
fn describes(name: &[u8]) -> bool {
    is_one_of(name, &DESCRIBING) || is_one_of(name, &OF_CONTENT)
}

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// See the module.
#[derive(Debug, Clone)]
pub struct StoredHead {
    pub status: StatusCode,
    /// What the spans point into.
    pub buffer: Bytes,
    /// The status's own phrase; the backend's is not kept.
    pub reason: Span,
    pub fields: Box<[Field]>,
}

/// What is told of an answer besides what it says itself.
pub(super) struct Told<'a> {
    /// Where it has none.
    pub(super) date: Option<&'a [u8]>,
    /// Of its body, in bytes.
    pub(super) length: usize,
    /// Fields that are not for others.
    pub(super) withheld: &'a [Box<[u8]>],
}

/// An answer as it lies in memory; see [`layout`].
pub(super) struct Laid {
    pub(super) key: Bytes,
    pub(super) head: StoredHead,
    pub(super) body: Bytes,
}

impl StoredHead {
    /// A copy in memory of its own. As an upstream codec made them, fields are corners of its read buffer, which would stay for as long
    /// as the entry.
    pub(super) fn of(header: &ResponseHeader) -> Result<Self> {
        // Without the backend's spelling, which a header map made of this would not have either.
        let mut plain = ResponseHeader::build_no_case(header.status, Some(header.headers.len()))?;
        for (name, value) in &header.headers {
            plain.append_header(name, value.clone())?;
        }
        let mut names = Vec::with_capacity(plain.headers.len());
        plain.map(|name, _| {
            names.push(match name {
                HeaderNameVariant::Case(name) => name.as_slice().to_vec(),
                HeaderNameVariant::Titled(name) => name.as_bytes().to_vec(),
            });
            Ok(())
        })?;
        let values = plain.headers.values().map(HeaderValue::as_bytes);
        Ok(StoredHead::written(header.status, names.iter().map(Vec::as_slice).zip(values)))
    }

    /// That of an answer whose body turned out to be so long: without what belonged to its connection (RFC 9111, section 3.1), and without
    /// the `Age` that it came with. `date` where it has none. Nor are the `withheld` fields for others.
    #[inline]
    pub(super) fn of_answer(answer: &AnswerHead, Told { date, length, withheld }: Told<'_>, (key, body): (&[u8], Bytes)) -> Laid {
        let goes = |name: &[u8]| is(name, "age") || withheld.iter().any(|known| rules::is_withheld(name, known));
        StoredHead::told(answer.status, answer, date, length, goes, (key, body))
    }

    /// That of the whole that an answer is a part of, so long in all.
    pub(super) fn of_part(answer: &AnswerHead, Told { date, length, withheld }: Told<'_>, (key, body): (&[u8], Bytes)) -> Laid {
        let goes = |name: &[u8]| {
            is(name, "age")
                || is(name, "content-range")
                || is_one_of(name, &OF_CONTENT)
                || withheld.iter().any(|known| rules::is_withheld(name, known))
        };
        StoredHead::told(StatusCode::OK, answer, date, length, goes, (key, body))
    }

    #[inline]
    fn told(
        status: StatusCode,
        answer: &AnswerHead,
        date: Option<&[u8]>,
        length: usize,
        goes: impl Fn(&[u8]) -> bool,
        (key, body): (&[u8], Bytes),
    ) -> Laid {
        let mut digits = itoa::Buffer::new();
        let length = (status != StatusCode::NO_CONTENT).then(|| (&b"Content-Length"[..], digits.format(length).as_bytes()));
        let date = date.map(|date| (&b"Date"[..], date));
        let fields = kept(answer).filter(|(name, _)| !goes(name));
        StoredHead::laid(status, fields.chain(date).chain(length), key, body)
    }

    /// With what a 304 says in place of what it said before (RFC 9111, sections 3.2 and 4.3.4). `date` where that has none.
    pub(super) fn updated(&self, by: &AnswerHead, date: Option<&[u8]>) -> Self {
        let says = |name: &[u8]| kept(by).any(|(said, _)| said.eq_ignore_ascii_case(name) && !rules::is_kept(name));
        let goes = |name: &[u8]| says(name) || date.is_some() && is(name, "date");
        let new = kept(by).filter(|(name, _)| !is(name, "age") && !rules::is_kept(name));
        let date = date.map(|date| (&b"Date"[..], date));
        StoredHead::written(self.status, self.headers().filter(|(name, _)| !goes(name)).chain(new).chain(date))
    }

    /// Without the fields that are for others.
    pub(super) fn without(&self, withheld: &[Box<[u8]>]) -> Self {
        let goes = |name: &[u8]| withheld.iter().any(|known| rules::is_withheld(name, known));
        StoredHead::written(self.status, self.headers().filter(|(name, _)| !goes(name)))
    }

    fn written<'f>(status: StatusCode, fields: impl Iterator<Item = (&'f [u8], &'f [u8])>) -> Self {
        StoredHead::laid(status, fields, b"", Bytes::new()).head
    }

    /// One with these fields, in one piece of memory with the key before it and, if it is short, the body behind it. All that is written is
    /// looked for first, so that it is copied once, into what is kept.
    #[inline]
    fn laid<'f>(status: StatusCode, fields: impl Iterator<Item = (&'f [u8], &'f [u8])>, key: &[u8], body: Bytes) -> Laid {
        let phrase = status.canonical_reason().unwrap_or_default().as_bytes();
        let (mut found, mut length) = (SmallVec::<[(&[u8], &[u8]); 16]>::new(), phrase.len());
        fields.for_each(|(name, value)| {
            length += name.len() + value.len();
            found.push((name, value));
        });
        let mut reason = Span::default();
        let mut fields = Vec::with_capacity(found.len());
        let (key, buffer, body) = layout::lay(key, length, body, |bytes| {
            let base = bytes.len();
            let mut put = |text: &[u8]| {
                let start = (bytes.len() - base) as u32;
                bytes.extend_from_slice(text);
                Span { start, end: (bytes.len() - base) as u32 }
            };
            reason = put(phrase);
            fields.extend(found.iter().map(|(name, value)| Field { name: put(name), value: put(value) }));
        });
        Laid { key, head: StoredHead { status, buffer, reason, fields: fields.into_boxed_slice() }, body }
    }

    /// The first field of that name.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&[u8]> {
        self.headers().find(|(known, _)| is(known, name.as_str())).map(|(_, value)| value)
    }

    /// As it is written to clients, with a body so long.
    pub fn to_answer(&self, length: usize) -> AnswerHead {
        AnswerHead {
            buffer: self.buffer.clone(),
            status: self.status,
            reason: self.reason,
            fields: SmallVec::from_slice(&self.fields),
            // It need not be read.
            body: BodyDecoder::Done,
            length: (!encode::is_bodiless(self.status)).then_some(length as u64),
            keep_alive: true,
            version: http::Version::HTTP_11,
        }
    }

    /// Every field, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|field| (field.name.of(&self.buffer), field.value.of(&self.buffer)))
    }

    /// The members of all `Vary` fields.
    pub(super) fn vary(&self) -> impl Iterator<Item = &[u8]> {
        self.headers().filter(|(name, _)| is(name, "vary")).flat_map(|(_, value)| list_of(value))
    }

    /// The whole body is known now: a hit is framed by its length, whatever framing it arrived in.
    pub(super) fn with_length(&self, length: usize) -> Self {
        let sized = self.status != StatusCode::NO_CONTENT;
        let replaced = |name: &[u8]| is(name, "transfer-encoding") || sized && is(name, "content-length");
        let mut digits = itoa::Buffer::new();
        let length = sized.then(|| (&b"Content-Length"[..], digits.format(length).as_bytes()));
        StoredHead::written(self.status, self.headers().filter(|(name, _)| !replaced(name)).chain(length))
    }

    /// The answer to a client that has this one already: 304, without what describes a body (RFC 9110, section 15.4.5).
    pub(super) fn not_modified(&self) -> Self {
        StoredHead::written(StatusCode::NOT_MODIFIED, self.headers().filter(|(name, _)| !describes(name)))
    }

    /// The same as a header map.
    pub fn to_header(&self) -> Result<ResponseHeader> {
        let mut header = ResponseHeader::build_no_case(self.status, Some(self.fields.len() + 2))?;
        for field in &self.fields {
            let value = self.buffer.slice(field.value.start as usize..field.value.end as usize);
            // Both were valid before and were copied byte for byte.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(field.name.of(&self.buffer)), HeaderValue::from_maybe_shared(value))
            {
                header.append_header(name, value)?;
            }
        }
        Ok(header)
    }

    /// The most that one with fields of these lengths can weigh. It gets two at most that its answer has not, of less than 64 bytes each.
    pub(super) fn most_of(fields: impl Iterator<Item = usize>) -> usize {
        const FIELD: usize = std::mem::size_of::<Field>();
        fields.map(|length| length + FIELD).sum::<usize>() + 2 * (64 + FIELD) + ALLOCATIONS
    }

    /// In bytes.
    pub(super) fn weight(&self) -> usize {
        self.buffer.len() + std::mem::size_of_val(&*self.fields) + ALLOCATIONS
    }
}

fn is(name: &[u8], known: &str) -> bool {
    name.eq_ignore_ascii_case(known.as_bytes())
}

/// The fields of an answer that may be kept for others, but for those that say how long it is.
fn kept(answer: &AnswerHead) -> impl Iterator<Item = (&[u8], &[u8])> {
    encode::end_to_end(answer).filter(|(name, _)| {
        !matches!(name.len(), 14 | 25) || !is(name, "content-length") && !is(name, "proxy-authentication-info")
    })
}

/// The answer to a client that has this one already; see [`StoredHead::not_modified`].
pub fn not_modified(answer: &AnswerHead) -> AnswerHead {
    let left = encode::end_to_end(answer).filter(|(name, _)| !describes(name));
    AnswerHead { version: answer.version, ..StoredHead::written(StatusCode::NOT_MODIFIED, left).to_answer(0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header;
    use pingora_core::protocols::http::conditional_filter::to_304;

    fn header() -> ResponseHeader {
        let mut header = ResponseHeader::build(200, None).unwrap();
        let fields = [
            ("cONTENT-tYPE", "text/plain"),
            ("X-A", "1"),
            ("x-a", "2"),
            ("ETag", "\"v\""),
            ("Transfer-Encoding", "chunked"),
            ("Content-Encoding", "gzip"),
            ("Accept-Ranges", "none"),
            ("Vary", "a,, B"),
            ("vary", "c"),
            ("X-Empty", ""),
        ];
        for (name, value) in fields {
            header.append_header(name, value).unwrap();
        }
        header
    }

    fn lines(head: &StoredHead) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        head.headers().map(|(name, value)| format!("{}: {}\r\n", text(name), text(value))).collect()
    }

    fn wire(header: &ResponseHeader) -> String {
        let mut bytes = Vec::new();
        header.header_to_h1_wire(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_head_is_spelled_as_its_header_map_is() {
        let stored = StoredHead::of(&header()).unwrap().with_length(5);
        let map = stored.to_header().unwrap();
        assert_eq!(lines(&stored).concat(), wire(&map));
        assert_eq!(map.headers.get("content-length").unwrap(), "5");
        assert!(!map.headers.contains_key(header::TRANSFER_ENCODING));
        assert_eq!(map.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(stored.reason.of(&stored.buffer), b"OK");
        assert_eq!(stored.vary().collect::<Vec<_>>(), [&b"a"[..], b"B", b"c"]);
    }

    #[test]
    fn not_modified_is_pingoras() {
        let stored = StoredHead::of(&header()).unwrap().with_length(5);
        let mut map = stored.to_header().unwrap();
        to_304(&mut map);
        let unchanged = stored.not_modified();
        let (mut ours, theirs) = (lines(&unchanged), wire(&map));
        let mut theirs: Vec<&str> = theirs.split_inclusive('\n').collect();
        ours.sort();
        theirs.sort_unstable();
        assert_eq!(ours, theirs);
        assert_eq!((unchanged.status, unchanged.reason.of(&unchanged.buffer)), (map.status, &b"Not Modified"[..]));
    }
}
