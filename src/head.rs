//! A request's head as every policy sees it: one buffer, and ranges into it.
//!
//! Both protocols build this type, and nothing below the door sees any other. It is immutable: what a policy wants
//! changed on the way to the backend it writes into the exchange's [`HeaderEdits`].

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, Version};
use smallvec::SmallVec;

use crate::authority;
use crate::path::Spelling;

/// A range of bytes in the head's buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    pub fn of(self, buffer: &[u8]) -> &[u8] {
        buffer.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// One header field as it arrived: the name keeps the client's spelling.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: Span,
    pub value: Span,
}

impl Field {
    /// Whether it has that name, whatever its case. By length first, without a look at the buffer: most fields have another name.
    #[inline]
    pub fn is_named(&self, name: &str, buffer: &[u8]) -> bool {
        self.name.len() == name.len() && self.name.of(buffer).eq_ignore_ascii_case(name.as_bytes())
    }
}

impl BodyFraming {
    /// Whether a body is to come, as far as the head says.
    pub fn is_some(self) -> bool {
        !matches!(self, BodyFraming::None | BodyFraming::Length(0))
    }
}

/// Methods that have a body, whose absence is a mistake.
pub const WITH_BODY: [Method; 3] = [Method::POST, Method::PUT, Method::PATCH];

/// How the request's body is delimited (RFC 9112, section 6; for HTTP/2 the stream's end).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    None,
    Length(u64),
    /// Chunked in HTTP/1.1, or an HTTP/2 stream that goes on after its head, without a Content-Length.
    Streamed,
}

/// Fields that say how a message travels, and where to. Nobody sets them but who writes the message.
pub const TRAVEL_FIELDS: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Stands for the method of a head that could not be read. It is a token, but nobody's method.
const UNREAD_METHOD: &str = "-";

#[derive(Debug, Clone)]
pub struct RequestHead {
    /// The bytes that the fields' spans point into.
    pub buffer: Bytes,
    pub fields: SmallVec<[Field; 16]>,
    pub method: Method,
    pub version: Version,
    /// Canonical (dot segments resolved, slashes merged, needless escapes decoded, `%2F`, `%5C` and `%3B` kept), always begins with `/`;
    /// or `*` for `OPTIONS *`. The same bytes are matched, authorised, logged and counted.
    pub path: String,
    /// How the path was written, and that it can be read otherwise. `None` for nearly all: they are written as they are matched.
    pub spelling: Option<Box<Spelling>>,
    /// Without the `?`. `None` when the target has no `?`.
    pub query: Option<Span>,
    /// Lower case, without port, brackets kept around an IPv6 address. Empty where an HTTP/1.0 client sent none.
    pub host: String,
    /// The host, and the port where it is not the scheme's own, in the one spelling there is ([`crate::authority`]). The same bytes are
    /// matched, keyed, forwarded, signed and told.
    pub authority: Span,
    /// The authority as the client wrote it in its `Host` field, or in the target where there is none: what a signature of the field covers.
    pub written_host: Span,
    /// How many `Via` fields there are.
    pub vias: u8,
    pub body: BodyFraming,
    /// `Expect: 100-continue`.
    pub expects_continue: bool,
    /// An upgrade to WebSocket is asked for (`Connection: upgrade`), on HTTP/1.1. No other protocol is.
    pub upgrade: bool,
    /// Whether the client keeps the connection open after this exchange.
    pub keep_alive: bool,
}

impl RequestHead {
    pub fn query(&self) -> Option<&str> {
        self.query_bytes().map(|query| std::str::from_utf8(query).unwrap_or_default())
    }

    /// The query for those who only copy it.
    pub fn query_bytes(&self) -> Option<&[u8]> {
        self.query.map(|span| span.of(&self.buffer))
    }

    /// Asks for another query.
    pub fn set_query(&mut self, query: Option<&str>) {
        self.query = query.map(|query| {
            let mut buffer = BytesMut::with_capacity(self.buffer.len() + query.len());
            buffer.extend_from_slice(&self.buffer);
            buffer.extend_from_slice(query.as_bytes());
            let span = Span { start: self.buffer.len() as u32, end: buffer.len() as u32 };
            self.buffer = buffer.freeze();
            span
        });
    }

    pub fn authority(&self) -> &[u8] {
        self.authority.of(&self.buffer)
    }

    /// The method for the log: nothing if it could not be read.
    pub fn loggable_method(&self) -> &str {
        Some(self.method.as_str()).filter(|method| *method != UNREAD_METHOD).unwrap_or_default()
    }

    pub fn written_host(&self) -> &[u8] {
        self.written_host.of(&self.buffer)
    }

    /// Names another place in the buffer as the authority, and as the value of `Host`.
    pub fn set_authority(&mut self, authority: Span) {
        self.authority = authority;
        let RequestHead { fields, buffer, .. } = self;
        for field in fields.iter_mut().filter(|field| field.is_named("host", buffer)) {
            field.value = authority;
        }
    }

    /// Leaves the port out where the scheme means it anyway.
    pub fn drop_default_port(&mut self, scheme: &str) {
        let authority = self.authority();
        let spare = authority.len() - authority::without_default_port(authority, scheme).len();
        if spare > 0 {
            self.set_authority(Span { end: self.authority.end - spare as u32, ..self.authority });
        }
    }

    /// Takes fields away, as if they had never come.
    pub fn remove_fields(&mut self, unwanted: impl Fn(&[u8]) -> bool) {
        let RequestHead { fields, buffer, .. } = self;
        fields.retain(|field| !unwanted(field.name.of(buffer)));
    }

    /// The first field of that name, whatever its case. `name` is lower case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|field| field.is_named(name, &self.buffer)).map(|field| field.value.of(&self.buffer))
    }

    /// The first field of that name, if it is printable ASCII.
    pub fn header_str(&self, name: &str) -> Option<&str> {
        self.header(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Every field of that name, in order.
    pub fn header_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |field| field.is_named(name, &self.buffer)).map(|field| field.value.of(&self.buffer))
    }

    /// Every field, in order, names as the client spelled them.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|field| (field.name.of(&self.buffer), field.value.of(&self.buffer)))
    }

    /// The value of a query parameter: the first `name=value` pair, undecoded. A name without `=` has an empty value.
    pub fn query_param(&self, name: &str) -> Option<&str> {
        self.query_pairs().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Every `name=value` pair of the query, undecoded.
    pub fn query_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.query().unwrap_or_default().split('&');
        pairs.filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    /// A cookie's value (RFC 6265, section 5.4), undecoded.
    pub fn cookie<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.header_all("cookie").flat_map(|line| line.split(|&byte| byte == b';')).find_map(|pair| {
            let pair = pair.trim_ascii();
            let at = memchr::memchr(b'=', pair)?;
            (pair.get(..at)? == name.as_bytes()).then(|| pair.get(at + 1..).unwrap_or_default())
        })
    }

    /// Stands in for a head that could not be read, in its log line.
    pub fn unreadable() -> Self {
        let mut head = Self::build(UNREAD_METHOD, "", &[]);
        head.keep_alive = false;
        head
    }

    /// A head for unit tests and benches: `build("GET", "/a?b=1", &[("host", "x")])`. The path is taken as it stands.
    pub fn build(method: &str, target: &str, headers: &[(&str, &str)]) -> Self {
        let mut buffer = Vec::new();
        let mut put = |text: &[u8]| {
            let start = buffer.len() as u32;
            buffer.extend_from_slice(text);
            Span { start, end: buffer.len() as u32 }
        };
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let query = query.map(|query| put(query.as_bytes()));
        let fields: SmallVec<[Field; 16]> =
            headers.iter().map(|(name, value)| Field { name: put(name.as_bytes()), value: put(value.as_bytes()) }).collect();
        let written = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host")).map_or("", |(_, value)| value);
        let written_host = put(written.as_bytes());
        let canonical = authority::canonical(written.as_bytes());
        let host = canonical.as_ref().map_or_else(|| written.to_ascii_lowercase(), |canonical| canonical.host().to_owned());
        let authority = put(canonical.as_ref().map_or(written, |canonical| &canonical.text).as_bytes());
        let mut head = RequestHead {
            fields,
            method: Method::from_bytes(method.as_bytes()).unwrap_or_default(),
            version: Version::HTTP_11,
            path: path.to_owned(),
            spelling: None,
            query,
            host,
            authority,
            written_host,
            vias: 0,
            body: BodyFraming::None,
            expects_continue: false,
            upgrade: false,
            keep_alive: true,
            buffer: buffer.into(),
        };
        head.set_authority(authority);
        head
    }
}

/// The most fields that any configuration can allow: as many as Pingora's reader takes, on the other road.
pub const MAX_ANSWER_FIELDS: usize = 256;

/// Bounds of what comes before an answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerLimits {
    /// One head, in bytes.
    pub head: usize,
    /// The fields of one head. At most [`MAX_ANSWER_FIELDS`].
    pub fields: usize,
    /// Interim answers (1xx) before the final one. More are an attack or a loop.
    pub interim: u32,
}

impl Default for AnswerLimits {
    fn default() -> Self {
        AnswerLimits { head: 64 * 1024, fields: 128, interim: 16 }
    }
}

/// One change to a set of header fields.
#[derive(Debug, Clone)]
pub enum HeaderEdit {
    /// Replaces every field of that name.
    Set(HeaderName, HeaderValue),
    /// Adds one more.
    Add(HeaderName, HeaderValue),
    Remove(HeaderName),
}

impl HeaderEdit {
    /// The field that is changed.
    pub fn name(&self) -> &HeaderName {
        match self {
            HeaderEdit::Set(name, _) | HeaderEdit::Add(name, _) | HeaderEdit::Remove(name) => name,
        }
    }
}

/// A list of edits, read through once, so that a head can be written without comparing every field with every edit.
pub struct Edited<'a> {
    edits: &'a [HeaderEdit],
    /// The lengths of the names that are replaced or removed, one bit each.
    lengths: u64,
    /// The edits, one bit each, that a later one may undo.
    doubtful: u64,
}

impl<'a> Edited<'a> {
    pub fn new(edits: &'a [HeaderEdit]) -> Self {
        let (mut lengths, mut doubtful, mut seen) = (0, 0, 0u64);
        for (at, edit) in edits.iter().enumerate().rev() {
            let name = edit.name().as_str().as_bytes();
            let looks = bit(name.len() * 5 + usize::from(name.last().copied().unwrap_or_default()));
            if seen & looks != 0 {
                doubtful |= bit(at);
            }
            if !matches!(edit, HeaderEdit::Add(..)) {
                seen |= looks;
                lengths |= bit(name.len());
            }
        }
        Edited { edits, lengths, doubtful }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Whether an edit replaces or removes the fields of that name, whatever its case.
    pub fn replaces(&self, name: &[u8]) -> bool {
        self.lengths & bit(name.len()) != 0 && is_replaced(self.edits, name)
    }

    /// The fields that the edits leave behind: what a later edit replaces or removes is not among them.
    pub fn added(&self) -> impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> {
        self.edits.iter().enumerate().filter_map(|(at, edit)| match edit {
            HeaderEdit::Set(name, value) | HeaderEdit::Add(name, value) => {
                let later = self.edits.get(at + 1..).unwrap_or_default();
                let gone = self.doubtful & bit(at) != 0 && is_replaced(later, name.as_str().as_bytes());
                (!gone).then_some((name, value))
            }
            HeaderEdit::Remove(_) => None,
        })
    }
}

fn is_replaced(edits: &[HeaderEdit], name: &[u8]) -> bool {
    edits.iter().any(|edit| !matches!(edit, HeaderEdit::Add(..)) && name.eq_ignore_ascii_case(edit.name().as_str().as_bytes()))
}

/// One of 64 bits; several numbers share each.
fn bit(number: usize) -> u64 {
    1 << (number % 64)
}

/// Changes in the order in which they apply. Most requests have few or none, and each takes 80 bytes: not kept where the request is, which
/// is copied when it is made.
pub type HeaderEdits = Vec<HeaderEdit>;

/// A member of a list of what a client accepts, and its weight in thousandths (RFC 9110, section 12.4.2). One that is no number is none.
pub fn weighed(member: &[u8]) -> (&[u8], u16) {
    let mut parts = member.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().unwrap_or_default();
    let said = parts.find_map(|part| {
        let (name, value) = part.split_at_checked(2)?;
        name.eq_ignore_ascii_case(b"q=").then_some(value)
    });
    (name, said.map_or(1000, weight))
}

/// `0.5`, `1`, `0.001`, in thousandths. What is no weight counts as none.
fn weight(value: &[u8]) -> u16 {
    let (whole, rest) = match value {
        [b'1', rest @ ..] => (1000, rest),
        [b'0', rest @ ..] => (0, rest),
        _ => return 0,
    };
    let digits = match rest {
        [] => return whole,
        [b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => digits,
        _ => return 0,
    };
    let fraction: u16 = digits.iter().zip([100, 10, 1]).map(|(digit, part)| u16::from(digit - b'0') * part).sum();
    if whole + fraction > 1000 { 0 } else { whole + fraction }
}
