//! The messages of a request's body, one at a time, out of the pieces that it comes in: a line each, or the elements of one array. Not more is
//! held than one of them.

use bytes::{Buf, Bytes, BytesMut};

use crate::wire::media::{is_json, is_lines};

/// How they are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A line each (NDJSON).
    Lines,
    /// The elements of one array of JSON.
    Array,
    /// Whatever comes, as it comes: it is no JSON.
    Raw,
}

impl Form {
    /// `None`: it is of another type.
    pub fn of(content_type: Option<&[u8]>) -> Option<Form> {
        match content_type.unwrap_or_default() {
            kind if is_lines(kind) => Some(Form::Lines),
            kind if is_json(kind) => Some(Form::Array),
            _ => None,
        }
    }
}

/// Why there is no next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    TooLarge,
    /// It is no array, or does not end as one.
    NoArray,
}

/// Where an array stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Before,
    /// Behind the opening bracket: an element, or the end.
    First,
    /// Behind a comma.
    Next,
    Inside {
        depth: u32,
        text: bool,
        escaped: bool,
    },
    /// Behind an element.
    Behind,
    Over,
}

/// What has come and is no message yet.
#[derive(Debug)]
pub struct Values {
    form: Form,
    most: usize,
    held: BytesMut,
    /// So much of it was looked at.
    seen: usize,
    at: At,
    ended: bool,
}

impl Values {
    /// Of up to so many bytes each.
    pub fn new(form: Form, most: usize) -> Self {
        Values { form, most, held: BytesMut::new(), seen: 0, at: At::Before, ended: false }
    }

    pub fn add(&mut self, piece: &[u8]) {
        self.held.extend_from_slice(piece);
    }

    /// Nothing more comes.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// How much is held.
    pub fn held(&self) -> usize {
        self.held.capacity()
    }

    /// # Errors
    /// See [`Bad`].
    pub fn next(&mut self) -> Result<Option<Bytes>, Bad> {
        let found = match self.form {
            Form::Lines => self.line(),
            Form::Array => self.element()?,
            Form::Raw => (!self.held.is_empty()).then(|| self.held.split().freeze()),
        };
        let pending = if found.is_some() { 0 } else { self.held.len() };
        match found.as_ref().map_or(pending, Bytes::len) > self.most {
            true => Err(Bad::TooLarge),
            false => Ok(found),
        }
    }

    fn take(&mut self, length: usize, behind: usize) -> Bytes {
        let value = self.held.split_to(length).freeze();
        self.held.advance(behind.min(self.held.len()));
        self.seen = 0;
        value
    }

    fn line(&mut self) -> Option<Bytes> {
        loop {
            let fresh = self.held.get(self.seen..).unwrap_or_default();
            let line = match fresh.iter().position(|&byte| byte == b'\n') {
                Some(at) => self.take(self.seen + at, 1),
                None if self.ended && !self.held.is_empty() => self.take(self.held.len(), 0),
                None => {
                    self.seen = self.held.len();
                    return None;
                }
            };
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
    }

    fn element(&mut self) -> Result<Option<Bytes>, Bad> {
        while let Some(&byte) = self.held.get(self.seen) {
            let blank = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
            match (self.at, byte) {
                (At::Inside { depth: 0, text: false, .. }, b',' | b']') => {
                    self.at = At::Behind;
                    return Ok(Some(self.take(self.seen, 0)));
                }
                (At::Inside { depth, text, escaped }, byte) => {
                    self.at = match byte {
                        _ if escaped => At::Inside { depth, text, escaped: false },
                        b'\\' if text => At::Inside { depth, text, escaped: true },
                        b'"' => At::Inside { depth, text: !text, escaped: false },
                        b'[' | b'{' if !text => At::Inside { depth: depth.saturating_add(1), text, escaped },
                        // Whether they match is for the reader to say.
                        b']' | b'}' if !text => At::Inside { depth: depth.checked_sub(1).ok_or(Bad::NoArray)?, text, escaped },
                        _ => self.at,
                    };
                    self.seen += 1;
                }
                (_, _) if blank => self.held.advance(1),
                (At::Before, b'[') => self.skip(At::First),
                (At::First | At::Behind, b']') => self.skip(At::Over),
                (At::Behind, b',') => self.skip(At::Next),
                (At::First | At::Next, byte) if !matches!(byte, b',' | b']' | b'}') => {
                    self.at = At::Inside { depth: 0, text: false, escaped: false };
                }
                _ => return Err(Bad::NoArray),
            }
        }
        // No body at all is no message.
        match self.ended && !matches!(self.at, At::Over | At::Before) {
            true => Err(Bad::NoArray),
            false => Ok(None),
        }
    }

    fn skip(&mut self, at: At) {
        self.held.advance(1);
        self.at = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(form: Form, body: &[u8], size: usize) -> Result<Vec<String>, Bad> {
        let mut values = Values::new(form, 40);
        let mut all = Vec::new();
        for piece in body.chunks(size) {
            values.add(piece);
            while let Some(value) = values.next()? {
                all.push(String::from_utf8_lossy(&value).trim().to_owned());
            }
        }
        values.end();
        while let Some(value) = values.next()? {
            all.push(String::from_utf8_lossy(&value).trim().to_owned());
        }
        Ok(all)
    }

    #[test]
    fn values_come_out_however_they_are_cut() {
        let array = br#" [ {"a":"],[\"\\"} ,[1,{"b":[]}], 3 ,"x" ] "#;
        let lines = b"{\"a\":1}\r\n\n  \n{\"b\":\"\\n\"}\n3";
        for size in 1..50 {
            let expected = [r#"{"a":"],[\"\\"}"#, r#"[1,{"b":[]}]"#, "3", r#""x""#].map(str::to_owned);
            assert_eq!(values(Form::Array, array, size), Ok(expected.to_vec()), "{size}");
            let expected = [r#"{"a":1}"#, r#"{"b":"\n"}"#, "3"].map(str::to_owned);
            assert_eq!(values(Form::Lines, lines, size), Ok(expected.to_vec()), "{size}");
            assert_eq!(values(Form::Array, b" []\n", size), Ok(Vec::new()));
            for bad in ["{}", "[", "[1", "[1,", "[1,]", "[,1]", "[1]]", "[1] 2", "[1}", "[\"", "[\"\\", "1"] {
                assert_eq!(values(Form::Array, bad.as_bytes(), size), Err(Bad::NoArray), "{bad}");
            }
            let long = format!("[{{\"a\":\"{}\"}}]", "x".repeat(40));
            assert_eq!(values(Form::Array, long.as_bytes(), size), Err(Bad::TooLarge));
            assert_eq!(values(Form::Lines, long.as_bytes(), size), Err(Bad::TooLarge));
        }
        assert_eq!((values(Form::Array, b"", 1), values(Form::Lines, b"", 1)), (Ok(Vec::new()), Ok(Vec::new())));
        assert_eq!(values(Form::Raw, b"abc", 2), Ok(vec!["ab".to_owned(), "c".to_owned()]));
    }

    #[test]
    fn the_form_is_known_by_the_media_type() {
        for (kind, form) in [
            (None, None),
            (Some("application/json; charset=utf-8"), Some(Form::Array)),
            (Some("application/merge-patch+json"), Some(Form::Array)),
            (Some("Application/X-NDJSON"), Some(Form::Lines)),
            (Some("text/plain"), None),
        ] {
            assert_eq!(Form::of(kind.map(str::as_bytes)), form, "{kind:?}");
        }
    }
}
