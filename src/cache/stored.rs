//! A stored answer's head: one buffer, and ranges into it.
//!
//! It is what is written to clients, so that a hit costs no header map. Pingora's state machine gets one made of it, for revalidations and
//! ranges.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use pingora_core::Result;
use pingora_http::{HeaderNameVariant, ResponseHeader};

use super::rules;
use crate::head::{Field, Span};

/// What the buffer and the list of fields cost as allocations of their own.
const ALLOCATIONS: usize = 64;

/// See the module. The fields are spelled as Pingora spells them, in its order.
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

    /// Every field, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|field| (field.name.of(&self.buffer), field.value.of(&self.buffer)))
    }

    /// The members of all `Vary` fields.
    pub(super) fn vary(&self) -> impl Iterator<Item = &[u8]> {
        self.headers().filter(|(name, _)| name.eq_ignore_ascii_case(b"vary")).flat_map(|(_, value)| rules::list_of(value))
    }

    /// The whole body is known now: a hit is framed by its length, whatever framing it arrived in.
    pub(super) fn with_length(&self, length: usize) -> Self {
        let sized = self.status != StatusCode::NO_CONTENT;
        let replaced = |name: &[u8]| {
            name.eq_ignore_ascii_case(b"transfer-encoding") || sized && name.eq_ignore_ascii_case(b"content-length")
        };
        let mut writer = Writer::new(self.status, self.fields.len() + 1);
        for (name, value) in self.headers().filter(|(name, _)| !replaced(name)) {
            writer.field(name, value);
        }
        if sized {
            writer.field(b"Content-Length", length.to_string().as_bytes());
        }
        writer.done()
    }

    /// The answer to a client that has this one already: 304, without what describes a body (RFC 9110, section 15.4.5).
    pub(super) fn not_modified(&self) -> Self {
        const DESCRIBING: [&[u8]; 5] =
            [b"content-length", b"content-type", b"transfer-encoding", b"content-encoding", b"accept-ranges"];
        let mut writer = Writer::new(StatusCode::NOT_MODIFIED, self.fields.len());
        for (name, value) in self.headers() {
            if !DESCRIBING.iter().any(|known| name.eq_ignore_ascii_case(known)) {
                writer.field(name, value);
            }
        }
        writer.done()
    }

    /// The same as a header map.
    pub(super) fn to_header(&self) -> Result<ResponseHeader> {
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

struct Writer {
    status: StatusCode,
    bytes: Vec<u8>,
    reason: Span,
    fields: Vec<Field>,
}

impl Writer {
    fn new(status: StatusCode, fields: usize) -> Self {
        let mut writer = Writer { status, bytes: Vec::new(), reason: Span::default(), fields: Vec::with_capacity(fields) };
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

    fn done(self) -> StoredHead {
        let Writer { status, bytes, reason, fields } = self;
        StoredHead { status, buffer: bytes.into_boxed_slice().into(), reason, fields: fields.into_boxed_slice() }
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
