//! gRPC-Web: calls as pages of browsers can make them, who see neither HTTP/2's frames nor trailers. Messages are those of gRPC; the
//! trailers come as a last message of their own kind, and all of it may be in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};

use super::{Dialect, framed};

/// The flag of the message that holds the trailers.
const TRAILERS: u8 = 0x80;

/// How an answer is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Web {
    Binary,
    /// In base64, each piece by itself, so that none has to wait for the next one.
    Text,
}

impl Web {
    /// How a client of this dialect wants its answer: as `Accept` says, or else as it asks itself.
    pub fn wanted(asked: Dialect, accept: Option<&[u8]>) -> Option<Web> {
        let own = match asked {
            Dialect::Web => Web::Binary,
            Dialect::WebText => Web::Text,
            Dialect::Plain | Dialect::Grpc | Dialect::Connect => return None,
        };
        let mut kinds = accept.unwrap_or_default().split(|byte| *byte == b',').map(|kind| Dialect::of(kind.trim_ascii()));
        Some(
            kinds
                .find_map(|kind| match kind {
                    Dialect::Web => Some(Web::Binary),
                    Dialect::WebText => Some(Web::Text),
                    Dialect::Plain | Dialect::Grpc | Dialect::Connect => None,
                })
                .unwrap_or(own),
        )
    }

    pub fn dialect(self) -> Dialect {
        match self {
            Web::Binary => Dialect::Web,
            Web::Text => Dialect::WebText,
        }
    }

    /// A piece of the answer.
    pub fn encode(self, piece: Bytes) -> Bytes {
        match self {
            Web::Binary => piece,
            Web::Text => STANDARD.encode(piece).into(),
        }
    }

    /// The message that ends the answer.
    pub fn trailers(self, fields: &HeaderMap) -> Bytes {
        let mut text = BytesMut::new();
        for (name, value) in fields {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                text.extend_from_slice(part);
            }
        }
        self.encode(framed(TRAILERS, &text))
    }

    /// What an answer of this media type becomes. `None` if it is no gRPC.
    pub fn content_type(self, kind: &[u8]) -> Option<HeaderValue> {
        let rest = (Dialect::of(kind) == Dialect::Grpc).then(|| kind.get(KIND.len()..)).flatten()?;
        HeaderValue::from_bytes(&[self.dialect().media_type().as_bytes(), rest].concat()).ok()
    }
}

const KIND: &[u8] = b"application/grpc";

/// The media type of gRPC itself for a call of this one; `+proto` and the like stay.
pub fn as_grpc(kind: &[u8]) -> Option<HeaderValue> {
    let skip = match Dialect::of(kind) {
        Dialect::Web => "-web".len(),
        Dialect::WebText => "-web-text".len(),
        Dialect::Plain | Dialect::Grpc | Dialect::Connect => return None,
    };
    let rest = kind.get(KIND.len() + skip..)?;
    HeaderValue::from_bytes(&[KIND, rest].concat()).ok()
}

/// Reads base64 that comes in pieces of any cut. It may be several texts, each padded, one behind the other.
#[derive(Debug, Default)]
pub struct TextReader {
    /// Of a group of four, what has come.
    begun: Vec<u8>,
}

/// It is no base64.
#[derive(Debug, PartialEq, Eq)]
pub struct NoText;

impl TextReader {
    /// What can be decoded by now.
    ///
    /// # Errors
    /// [`NoText`]
    pub fn decode(&mut self, piece: &[u8]) -> Result<Bytes, NoText> {
        let mut text = std::mem::take(&mut self.begun);
        text.extend_from_slice(piece);
        self.begun = text.split_off(text.len() - text.len() % 4);
        let mut out = Vec::with_capacity(text.len() / 4 * 3);
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            // Up to the group that is padded, which ends a text.
            let end = memchr::memchr(b'=', rest).map_or(rest.len(), |at| at - at % 4 + 4);
            let (whole, behind) = rest.split_at_checked(end).ok_or(NoText)?;
            STANDARD.decode_vec(whole, &mut out).map_err(|_| NoText)?;
            rest = behind;
        }
        Ok(out.into())
    }

    /// Whether nothing is missing.
    pub fn is_whole(&self) -> bool {
        self.begun.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_however_it_is_cut() {
        let text =
            [STANDARD.encode(b"hello"), STANDARD.encode(b"world!"), STANDARD.encode(b"?"), STANDARD.encode([0xff; 300])].concat();
        let expected = [&b"helloworld!?"[..], &[0xff; 300]].concat();
        for size in 1..text.len() {
            let mut reader = TextReader::default();
            let pieces: Vec<_> = text.as_bytes().chunks(size).map(|piece| reader.decode(piece).unwrap()).collect();
            assert_eq!(pieces.concat(), expected, "{size}");
            assert!(reader.is_whole());
        }
        for bad in ["a===", "====", "ab=c", "a\nbc", "ab-_", "aGVsbG9=", "\u{e9}\u{e9}"] {
            assert_eq!(TextReader::default().decode(bad.as_bytes()), Err(NoText), "{bad}");
        }
        let mut reader = TextReader::default();
        assert_eq!(reader.decode(b"aGVsb"), Ok(Bytes::from_static(b"hel")));
        assert!(!reader.is_whole());
    }

    #[test]
    fn media_types_become_those_of_the_other_side() {
        for (web, grpc) in [
            ("application/grpc-web", "application/grpc"),
            ("application/grpc-web+proto", "application/grpc+proto"),
            ("Application/GRPC-Web-Text+json; charset=utf-8", "application/grpc+json; charset=utf-8"),
        ] {
            assert_eq!(as_grpc(web.as_bytes()).unwrap(), grpc);
        }
        assert_eq!((as_grpc(b"application/grpc"), as_grpc(b"application/json"), as_grpc(b"")), (None, None, None));
        assert_eq!(Web::Text.content_type(b"application/grpc+proto").unwrap(), "application/grpc-web-text+proto");
        assert_eq!(Web::Binary.content_type(b"application/grpc").unwrap(), "application/grpc-web");
        assert_eq!(Web::Binary.content_type(b"text/html"), None);
        let wanted = |accept: &'static str| Web::wanted(Dialect::Web, Some(accept.as_bytes()));
        assert_eq!((wanted("*/*"), wanted("text/html, application/grpc-web-text+proto")), (Some(Web::Binary), Some(Web::Text)));
        assert_eq!((Web::wanted(Dialect::WebText, None), Web::wanted(Dialect::Grpc, None)), (Some(Web::Text), None));
    }

    #[test]
    fn trailers_are_a_message() {
        let mut fields = HeaderMap::new();
        fields.insert("grpc-status", HeaderValue::from_static("5"));
        fields.append("x-why", HeaderValue::from_static("a"));
        fields.append("x-why", HeaderValue::from_static("b"));
        let text = b"grpc-status: 5\r\nx-why: a\r\nx-why: b\r\n";
        let message = [&[0x80, 0, 0, 0, text.len() as u8][..], text].concat();
        assert_eq!(Web::Binary.trailers(&fields), message);
        assert_eq!(Web::Text.trailers(&fields), STANDARD.encode(message));
    }
}
