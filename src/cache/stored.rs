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
use super::rules;
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

impl StoredHead {
    /// A copy in memory of its own. As an upstream codec made them, fields are corners of its read buffer, which would stay for as long
    /// as the entry.
    pub(super) fn of(header: &ResponseHeader) -> Result<Self> {
        // Without the backend's spelling, which a header map made of this would not have either.
        let mut plain = ResponseHeader::build_no_case(header.status, Some(header.headers.len()))?;
        for (name, value) in &header.headers {
            plain.append_header(name, value.clone())?;
        }
        let mut writer = Writer::new(header.status, plain.headers.len());
        plain.map(|name, value| {
            let name = match name {
                HeaderNameVariant::Case(name) => name.as_slice(),
                HeaderNameVariant::Titled(name) => name.as_bytes(),
            };
            writer.field(name, value.as_bytes());
            Ok(())
        })?;
        Ok(writer.done())
    }

    /// That of an answer whose body turned out to be so long: without what belonged to its connection (RFC 9111, section 3.1), and without
    /// the `Age` that it came with. `date` where it has none. Nor are the `withheld` fields for others.
    pub(super) fn of_answer(answer: &AnswerHead, date: Option<&[u8]>, length: usize, withheld: &[Box<[u8]>]) -> Self {
        StoredHead::told(answer.status, answer, date, length, |name| {
            is(name, "age") || withheld.iter().any(|known| rules::is_withheld(name, known))
        })
    }

    /// That of the whole that an answer is a part of, so long in all.
    pub(super) fn of_part(answer: &AnswerHead, date: Option<&[u8]>, total: usize, withheld: &[Box<[u8]>]) -> Self {
        StoredHead::told(StatusCode::OK, answer, date, total, |name| {
            is(name, "age")
                || is(name, "content-range")
                || is_one_of(name, &OF_CONTENT)
                || withheld.iter().any(|known| rules::is_withheld(name, known))
        })
    }

    #[inline]
    fn told(status: StatusCode, answer: &AnswerHead, date: Option<&[u8]>, length: usize, goes: impl Fn(&[u8]) -> bool) -> Self {
        let mut writer = Writer::with_capacity(status, answer.fields.len() + 1, answer.buffer.len());
        kept(answer).filter(|(name, _)| !goes(name)).for_each(|(name, value)| writer.field(name, value));
        if let Some(date) = date {
            writer.field(b"Date", date);
        }
        if writer.status != StatusCode::NO_CONTENT {
            writer.field(b"Content-Length", itoa::Buffer::new().format(length).as_bytes());
        }
        writer.done()
    }

    /// With what a 304 says in place of what it said before (RFC 9111, sections 3.2 and 4.3.4). `date` where that has none.
    pub(super) fn updated(&self, by: &AnswerHead, date: Option<&[u8]>) -> Self {
        let says = |name: &[u8]| kept(by).any(|(said, _)| said.eq_ignore_ascii_case(name) && !rules::is_kept(name));
        let goes = |name: &[u8]| says(name) || date.is_some() && is(name, "date");
        let mut writer = Writer::new(self.status, self.fields.len() + by.fields.len() + 1);
        self.headers().filter(|(name, _)| !goes(name)).for_each(|(name, value)| writer.field(name, value));
        let new = kept(by).filter(|(name, _)| !is(name, "age") && !rules::is_kept(name));
        new.for_each(|(name, value)| writer.field(name, value));
        if let Some(date) = date {
            writer.field(b"Date", date);
        }
        writer.done()
    }

    /// Without the fields that are for others.
    pub(super) fn without(&self, withheld: &[Box<[u8]>]) -> Self {
        let goes = |name: &[u8]| withheld.iter().any(|known| rules::is_withheld(name, known));
        let mut writer = Writer::new(self.status, self.fields.len());
        self.headers().filter(|(name, _)| !goes(name)).for_each(|(name, value)| writer.field(name, value));
        writer.done()
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
        let mut writer = Writer::new(self.status, self.fields.len() + 1);
        for (name, value) in self.headers().filter(|(name, _)| !replaced(name)) {
            writer.field(name, value);
        }
        if sized {
            writer.field(b"Content-Length", itoa::Buffer::new().format(length).as_bytes());
        }
        writer.done()
    }

    /// The answer to a client that has this one already: 304, without what describes a body (RFC 9110, section 15.4.5).
    pub(super) fn not_modified(&self) -> Self {
        let mut writer = Writer::new(StatusCode::NOT_MODIFIED, self.fields.len());
        let left = self.headers().filter(|(name, _)| !describes(name));
        left.for_each(|(name, value)| writer.field(name, value));
        writer.done()
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
    let mut writer = Writer::new(StatusCode::NOT_MODIFIED, answer.fields.len());
    let left = encode::end_to_end(answer).filter(|(name, _)| !describes(name));
    left.for_each(|(name, value)| writer.field(name, value));
    AnswerHead { version: answer.version, ..writer.done().to_answer(0) }
}

/// Where it stands until its length is known: it is then copied once, into what is kept.
struct Writer {
    status: StatusCode,
    bytes: SmallVec<[u8; 512]>,
    reason: Span,
    fields: SmallVec<[Field; 16]>,
}

impl Writer {
    #[inline(always)]
    fn new(status: StatusCode, fields: usize) -> Self {
        Writer::with_capacity(status, fields, 256)
    }

    /// Inlined, so that it is made where it stands: it is most of a kilobyte, which would be copied from call to call with each miss.
    #[inline(always)]
    fn with_capacity(status: StatusCode, fields: usize, bytes: usize) -> Self {
        let (bytes, fields) = (SmallVec::with_capacity(bytes), SmallVec::with_capacity(fields));
        let mut writer = Writer { status, bytes, reason: Span::default(), fields };
        writer.reason = writer.put(status.canonical_reason().unwrap_or_default().as_bytes());
        writer
    }

    fn put(&mut self, text: &[u8]) -> Span {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(text);
        Span { start, end: self.bytes.len() as u32 }
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        let (name, value) = (self.put(name), self.put(value));
        self.fields.push(Field { name, value });
    }

    #[inline(always)]
    fn done(self) -> StoredHead {
        let Writer { status, bytes, reason, fields } = self;
        StoredHead { status, buffer: Box::<[u8]>::from(&*bytes).into(), reason, fields: Box::from(&*fields) }
    }
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
