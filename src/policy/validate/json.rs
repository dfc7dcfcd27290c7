//! Is this well-formed JSON (RFC 8259)? Reads the text once, builds nothing, and uses no recursion, so that depth costs a byte per level.
//!
//! Strict UTF-8, no byte order mark, exactly one value. Lone `\u` surrogates are well-formed, and pass. So are duplicate names, of which two
//! readers take two different values: they are refused where [`Limits::unique`] says so.
//!
//! Deliberately not here: what the values mean (a schema's business).

use std::borrow::Cow;

use ahash::AHashSet;
use smallvec::SmallVec;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Nothing but white space.
    Empty,
    NotUtf8,
    /// Another byte, or the end, where the grammar wants something else.
    Syntax,
    TooDeep,
    DuplicateName,
    TooManyMembers,
    TooManyElements,
    StringTooLong,
}

impl FaultKind {
    /// What would have been right.
    pub fn must(self) -> &'static str {
        match self {
            FaultKind::Empty => "must not be empty",
            FaultKind::NotUtf8 => "must be UTF-8",
            FaultKind::Syntax => "must be well-formed JSON",
            FaultKind::TooDeep => "must not be nested so deeply",
            FaultKind::DuplicateName => "must not have a name twice in an object",
            FaultKind::TooManyMembers => "must not have so many members in an object",
            FaultKind::TooManyElements => "must not have so many elements in an array",
            FaultKind::StringTooLong => "must not have so long a text",
        }
    }
}

/// How large a value may be, in every respect but the whole of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How deep arrays and objects may be nested.
    pub depth: usize,
    /// The most members of one object.
    pub members: u32,
    /// The most elements of one array.
    pub elements: u32,
    /// The longest string, names included, in bytes as it is written.
    pub string: usize,
    /// No object has a name twice.
    pub unique: bool,
}

impl Limits {
    /// Nothing but the depth.
    pub fn deep(depth: usize) -> Self {
        Limits { depth, members: u32::MAX, elements: u32::MAX, string: usize::MAX, unique: false }
    }
}

/// An array or object that is open.
struct Open {
    /// The byte that closes it.
    close: u8,
    /// What is in it so far.
    count: u32,
    /// Tells the names of one object from those of others.
    number: u32,
}

/// What is wrong, and at which byte, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub offset: usize,
    pub kind: FaultKind,
}

/// What the grammar allows next.
enum Expect {
    Value,
    /// After `[`.
    ValueOrEnd,
    /// After `{`.
    NameOrEnd,
    /// After a comma in an object.
    Name,
    /// After a value.
    Next,
}

/// Checks that `text` is one JSON value whose arrays and objects are nested at most `max_depth` deep.
///
/// # Errors
/// The first fault.
pub fn check(text: &[u8], max_depth: usize) -> Result<(), Fault> {
    check_within(text, &Limits::deep(max_depth))
}

/// Checks that `text` is one JSON value within these limits.
///
/// # Errors
/// The first fault.
pub fn check_within(text: &[u8], limits: &Limits) -> Result<(), Fault> {
    if let Err(error) = std::str::from_utf8(text) {
        return Err(Fault { offset: error.valid_up_to(), kind: FaultKind::NotUtf8 });
    }
    let mut reader = Reader { text, at: 0, limits, objects: 0 };
    let mut open: SmallVec<[Open; 16]> = SmallVec::new();
    let mut names: AHashSet<(u32, Cow<'_, [u8]>)> = AHashSet::new();
    let mut expect = Expect::Value;
    reader.space();
    if reader.peek().is_none() {
        return Err(Fault { offset: text.len(), kind: FaultKind::Empty });
    }
    loop {
        reader.space();
        match expect {
            Expect::ValueOrEnd | Expect::NameOrEnd if reader.peek() == open.last().map(|open| open.close) => {
                reader.at += 1;
                open.pop();
                expect = Expect::Next;
            }
            Expect::NameOrEnd | Expect::Name => {
                let start = reader.at;
                reader.take(b'"')?;
                reader.string()?;
                if let Some(object) = open.last_mut() {
                    reader.count(object, start, limits.members, FaultKind::TooManyMembers)?;
                    if limits.unique && !names.insert((object.number, decoded(text.get(start..reader.at).unwrap_or_default()))) {
                        return Err(Fault { offset: start, kind: FaultKind::DuplicateName });
                    }
                }
                reader.space();
                reader.take(b':')?;
                expect = Expect::Value;
            }
            Expect::Value | Expect::ValueOrEnd => {
                if let Some(array) = open.last_mut().filter(|open| open.close == b']') {
                    reader.count(array, reader.at, limits.elements, FaultKind::TooManyElements)?;
                }
                expect = reader.value(&mut open)?;
            }
            Expect::Next => match (open.last().map(|open| open.close), reader.peek()) {
                (None, None) => return Ok(()),
                (Some(close), Some(byte)) if close == byte => {
                    reader.at += 1;
                    open.pop();
                }
                (Some(close), Some(b',')) => {
                    reader.at += 1;
                    expect = if close == b'}' { Expect::Name } else { Expect::Value };
                }
                _ => return Err(reader.fault()),
            },
        }
    }
}

/// What a name says, whatever its escapes.
fn decoded(name: &[u8]) -> Cow<'_, [u8]> {
    match name.contains(&b'\\').then(|| serde_json::from_slice::<String>(name)) {
        Some(Ok(name)) => Cow::Owned(format!("\"{name}\"").into_bytes()),
        _ => Cow::Borrowed(name),
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    limits: &'a Limits,
    /// How many objects there were.
    objects: u32,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn fault(&self) -> Fault {
        Fault { offset: self.at, kind: FaultKind::Syntax }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, wanted: u8) -> Result<(), Fault> {
        if self.peek() != Some(wanted) {
            return Err(self.fault());
        }
        self.at += 1;
        Ok(())
    }

    fn count(&self, open: &mut Open, at: usize, most: u32, kind: FaultKind) -> Result<(), Fault> {
        open.count = open.count.saturating_add(1);
        if open.count > most { Err(Fault { offset: at, kind }) } else { Ok(()) }
    }

    fn value(&mut self, open: &mut SmallVec<[Open; 16]>) -> Result<Expect, Fault> {
        let (close, expect) = match self.peek() {
            Some(b'{') => (b'}', Expect::NameOrEnd),
            Some(b'[') => (b']', Expect::ValueOrEnd),
            Some(b'"') => {
                self.at += 1;
                return self.string().map(|()| Expect::Next);
            }
            Some(b't') => return self.word(b"true"),
            Some(b'f') => return self.word(b"false"),
            Some(b'n') => return self.word(b"null"),
            _ => return self.number().map(|()| Expect::Next),
        };
        if open.len() >= self.limits.depth {
            return Err(Fault { offset: self.at, kind: FaultKind::TooDeep });
        }
        self.at += 1;
        self.objects = self.objects.wrapping_add(1);
        open.push(Open { close, count: 0, number: self.objects });
        Ok(expect)
    }

    fn word(&mut self, word: &[u8]) -> Result<Expect, Fault> {
        word.iter().try_for_each(|&byte| self.take(byte))?;
        Ok(Expect::Next)
    }

    /// After the opening quote, up to and with the closing one.
    fn string(&mut self) -> Result<(), Fault> {
        let start = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    let length = self.at - start;
                    self.at += 1;
                    let fits = length <= self.limits.string;
                    return if fits { Ok(()) } else { Err(Fault { offset: start, kind: FaultKind::StringTooLong }) };
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                Some(0x20..) => self.at += 1,
                _ => return Err(self.fault()),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let hex = match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 0,
            Some(b'u') => 4,
            _ => return Err(self.fault()),
        };
        self.at += 1;
        for _ in 0..hex {
            if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                return Err(self.fault());
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// At least one.
    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.fault()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(text: &[u8]) -> (usize, FaultKind) {
        let fault = check(text, 128).unwrap_err();
        (fault.offset, fault.kind)
    }

    #[test]
    fn takes_what_is_json() {
        for text in [
            "0",
            "-0",
            "-0.0e-0",
            "1E+9",
            "12345678901234567890e999",
            "\"\"",
            "\"\\ud800\\/\u{7f}\u{10ffff}\"",
            " \t\r\n null \n",
            "[]",
            "{}",
            "[[],{}]",
            "{\"a\":1,\"a\":[1,2,{\"b\":null}]}",
            "[ 1 , true , false ]",
            "{ \"\" : { } }",
        ] {
            assert_eq!(check(text.as_bytes(), 128), Ok(()), "{text}");
        }
    }

    #[test]
    fn points_at_what_is_not() {
        use FaultKind::*;
        for (text, offset, kind) in [
            (&b""[..], 0, Empty),
            (b" \n", 2, Empty),
            (b"\xef\xbb\xbf1", 0, Syntax),
            (b"\"\xff\"", 1, NotUtf8),
            (b"1 2", 2, Syntax),
            (b"01", 1, Syntax),
            (b"-", 1, Syntax),
            (b"1.", 2, Syntax),
            (b".5", 0, Syntax),
            (b"+1", 0, Syntax),
            (b"1e", 2, Syntax),
            (b"[1,]", 3, Syntax),
            (b"[1", 2, Syntax),
            (b"[,1]", 1, Syntax),
            (b"{\"a\":1,}", 7, Syntax),
            (b"{\"a\"}", 4, Syntax),
            (b"{a:1}", 1, Syntax),
            (b"{1:1}", 1, Syntax),
            (b"[1}", 2, Syntax),
            (b"{\"a\":1]", 6, Syntax),
            (b"]", 0, Syntax),
            (b"nul", 3, Syntax),
            (b"nulll", 4, Syntax),
            (b"NaN", 0, Syntax),
            (b"'a'", 0, Syntax),
            (b"\"a", 2, Syntax),
            (b"\"\n\"", 1, Syntax),
            (b"\"\0\"", 1, Syntax),
            (b"\"\\x\"", 2, Syntax),
            (b"\"\\u12g4\"", 5, Syntax),
            (b"[1]//", 3, Syntax),
            (b"\"\xed\xa0\x80\"", 1, NotUtf8),
            (b"\"\xc0\x80\"", 1, NotUtf8),
            (b"{} \0", 3, Syntax),
        ] {
            assert_eq!(fault(text), (offset, kind), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn depth_is_bounded_and_costs_no_stack() {
        let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert_eq!(check(&nested(128), 128), Ok(()));
        assert_eq!(check(&nested(129), 128), Err(Fault { offset: 128, kind: FaultKind::TooDeep }));
        assert_eq!(check(&nested(5_000_000), usize::MAX), Ok(()));
        assert_eq!(check(b"1", 0), Ok(()));
        assert_eq!(fault(&vec![b'['; 1_000_000]).1, FaultKind::TooDeep);
    }

    #[test]
    fn what_is_too_much_is_named() {
        let limits = Limits { depth: 9, members: 2, elements: 2, string: 3, unique: true };
        let judge = |text: &str| check_within(text.as_bytes(), &limits).map_err(|fault| (fault.offset, fault.kind));
        use FaultKind::*;
        for (text, said) in [
            (r#"{"a":[1,2],"b":{"a":1,"b":2}}"#, Ok(())),
            (r#"[{"a":1},{"a":1}]"#, Ok(())),
            (r#"{"a":1,"a":2}"#, Err((7, DuplicateName))),
            (r#"{"a":1,"\u0061":2}"#, Err((8, StringTooLong))),
            (r#"{"a":{"b":1},"b":2,"c":3}"#, Err((19, TooManyMembers))),
            ("[1,2,3]", Err((5, TooManyElements))),
            ("[[1,2],[1,2]]", Ok(())),
            (r#"["abc","abcd"]"#, Err((8, StringTooLong))),
        ] {
            assert_eq!(judge(text), said, "{text}");
        }
        let unique = Limits { unique: true, ..Limits::deep(9) };
        let escaped = check_within(br#"{"a":{"a":1},"\u0061":2}"#, &unique);
        assert_eq!(escaped.map_err(|fault| fault.kind), Err(DuplicateName));
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in r#"[\[\]{}:,"\\ 0-2ea.truflsn-]{0,12}"#) {
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(check(text.as_bytes(), 128).is_ok(), theirs, "{}", text);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = check(&bytes, 5);
        }

        #[test]
        fn a_changed_byte_is_judged_like_serde_json(at in 0usize..60, byte in 0x20u8..0x7f) {
            let mut text = br#"{"name": "a\u00e9b", "list": [1, -2.5e3, true, null, {}]}  "#.to_vec();
            if let Some(place) = text.get_mut(at) {
                *place = byte;
            }
            let theirs = serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(check(&text, 128).is_ok(), theirs);
        }
    }
}
