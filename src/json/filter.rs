//! A document without what is to be dropped of it, as it comes: pieces in, pieces out.
//!
//! What is kept is copied as it is written, in runs as long as nothing between is dropped, and no tree is built: beside the pieces themselves there is a byte for each level, the place within the
//! pointers for each level that is looked into, and the name of one member. Of a name that an object has twice, both are judged alike.
//! What is no JSON is a fault as soon as it is seen, and one that ends too early is one at its end: what came before must then not be taken
//! for an answer.

mod items;

use std::sync::Arc;

use super::letter::Letter;
use super::lex::{self, Number};
use super::program::{Fate, Program, States};
use super::{DEEPEST, Fault, LONGEST_NAME};

/// What the grammar wants next.
#[derive(Debug, Clone, Copy)]
enum Lex {
    Value,
    /// After `[`.
    ValueOrEnd,
    /// After a comma in an object.
    Name,
    /// After `{`.
    NameOrEnd,
    Colon,
    /// After a value.
    Next,
    /// Within a text.
    Text,
    /// Behind its backslash.
    Escape,
    /// So many digits of `\u`.
    Hex(u8),
    Number(Number),
    /// The rest of a word.
    Word(&'static [u8]),
    /// Nothing but space.
    Done,
}

/// A value that is not looked into.
#[derive(Debug, Clone, Copy)]
struct Raw {
    copied: bool,
    /// How many levels are around it.
    depth: usize,
}

/// An object or array that is looked into.
struct Frame {
    states: States,
    /// The one of them, where it is one.
    state: Option<u32>,
    /// The number of the element.
    index: u64,
    /// Something of it was written.
    written: bool,
}

impl Frame {
    #[inline]
    fn new(states: States) -> Frame {
        let state = if let [state] = states.as_slice() { Some(*state) } else { None };
        Frame { states, state, index: 0, written: false }
    }
}

/// See the module.
pub struct Filter {
    program: Arc<Program>,
    lex: Lex,
    /// What opened each level.
    levels: Vec<u8>,
    frames: Vec<Frame>,
    raw: Option<Raw>,
    /// The text that is read is a member's name.
    in_name: bool,
    name: Vec<u8>,
    /// The same, where the name stands whole in this piece.
    name_here: Option<(usize, usize)>,
    /// Where in this piece that begins which is copied, or the name.
    from: usize,
    /// What of this piece is to be written next.
    run: (usize, usize),
    /// Bytes of a letter that the next piece completes.
    letter: Letter,
    out: Vec<u8>,
    begun: bool,
    fault: Option<Fault>,
}

impl Filter {
    pub fn new(program: Arc<Program>) -> Filter {
        Filter {
            program,
            lex: Lex::Value,
            levels: Vec::new(),
            frames: Vec::new(),
            raw: None,
            in_name: false,
            name: Vec::new(),
            name_here: None,
            from: 0,
            run: (0, 0),
            letter: Letter::default(),
            out: Vec::new(),
            begun: false,
            fault: None,
        }
    }

    /// The whole document.
    ///
    /// # Errors
    /// It is none.
    pub fn whole(program: Arc<Program>, text: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut filter = Filter::new(program);
        let first = filter.piece(text)?;
        let rest = filter.end()?;
        Ok(if rest.is_empty() { first } else { [first, rest].concat() })
    }

    /// What is left of one more piece.
    ///
    /// # Errors
    /// This is no JSON.
    pub fn piece(&mut self, piece: &[u8]) -> Result<Vec<u8>, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        self.out.reserve(piece.len());
        match self.letter.take(piece).and_then(|()| self.read(piece)) {
            Ok(()) => Ok(std::mem::take(&mut self.out)),
            Err(fault) => {
                self.fault = Some(fault);
                Err(fault)
            }
        }
    }

    /// The document has ended. Nothing at all is nothing.
    ///
    /// # Errors
    /// It ends too early.
    pub fn end(&mut self) -> Result<Vec<u8>, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let number = matches!(self.lex, Lex::Number(number) if number.is_whole() && self.levels.is_empty());
        match number || matches!(self.lex, Lex::Done) || !self.begun && self.letter.is_whole() {
            true => Ok(std::mem::take(&mut self.out)),
            false => Err(Fault::Truncated),
        }
    }

    fn read(&mut self, piece: &[u8]) -> Result<(), Fault> {
        let mut at = 0;
        self.from = 0;
        self.run = (0, 0);
        while at < piece.len() {
            let rest = piece.get(at..).unwrap_or_default();
            at = match self.lex {
                Lex::Text => self.text(piece, at + lex::plain(rest))?,
                Lex::Number(number) => self.number(piece, at, number)?,
                Lex::Escape => {
                    self.lex = match rest.first() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Lex::Text,
                        Some(b'u') => Lex::Hex(4),
                        _ => return Err(Fault::Syntax),
                    };
                    at + 1
                }
                Lex::Hex(left) => {
                    if !rest.first().is_some_and(u8::is_ascii_hexdigit) {
                        return Err(Fault::Syntax);
                    }
                    self.lex = if left > 1 { Lex::Hex(left - 1) } else { Lex::Text };
                    at + 1
                }
                Lex::Word(left) => {
                    let Some((wanted, left)) = left.split_first() else { return Err(Fault::Syntax) };
                    if rest.first() != Some(wanted) {
                        return Err(Fault::Syntax);
                    }
                    self.lex = Lex::Word(left);
                    if left.is_empty() {
                        self.ended(piece, at + 1);
                    }
                    at + 1
                }
                _ => match (self.items(piece, at), rest.first()) {
                    (ahead, _) if ahead > at => ahead,
                    (_, Some(byte)) if lex::is_space(*byte) => at + 1,
                    (_, Some(byte)) => self.mark(piece, at, *byte)?,
                    (_, None) => at,
                },
            };
        }
        // What is copied, or a name, goes on in the next piece.
        match self.raw {
            Some(raw) if raw.copied => self.write(piece, self.from, piece.len()),
            None if self.in_name => self.keep_name(piece.get(self.from..).unwrap_or_default())?,
            _ => {}
        }
        if let Some((from, to)) = self.name_here.take() {
            self.keep_name(piece.get(from..to).unwrap_or_default())?;
        }
        self.flush(piece);
        Ok(())
    }

    /// Writes a part of this piece, together with what was written of it before where that ends here.
    #[inline]
    fn write(&mut self, piece: &[u8], from: usize, to: usize) {
        if self.run.1 != from {
            self.flush(piece);
            self.run.0 = from;
        }
        self.run.1 = to;
    }

    #[inline]
    fn flush(&mut self, piece: &[u8]) {
        self.out.extend_from_slice(piece.get(self.run.0..self.run.1).unwrap_or_default());
        self.run.0 = self.run.1;
    }

    /// Writes a mark, as it stands in this piece, if it does.
    #[inline]
    fn write_mark(&mut self, piece: &[u8], at: Option<usize>, mark: u8) {
        match at {
            Some(at) if piece.get(at) == Some(&mark) => self.write(piece, at, at + 1),
            _ => {
                self.flush(piece);
                self.out.push(mark);
            }
        }
    }

    fn keep_name(&mut self, part: &[u8]) -> Result<(), Fault> {
        if self.name.len() + part.len() > LONGEST_NAME {
            return Err(Fault::NameTooLong);
        }
        self.name.extend_from_slice(part);
        Ok(())
    }

    /// Within a text, where its plain part ends.
    #[inline]
    fn text(&mut self, piece: &[u8], at: usize) -> Result<usize, Fault> {
        match piece.get(at) {
            Some(b'"') if self.in_name => {
                self.in_name = false;
                self.lex = Lex::Colon;
                if self.raw.is_none() {
                    self.keep_name(piece.get(self.from..=at).unwrap_or_default())?;
                }
            }
            Some(b'"') => self.ended(piece, at + 1),
            Some(b'\\') => self.lex = Lex::Escape,
            Some(_) => return Err(Fault::Syntax),
            None => return Ok(at),
        }
        Ok(at + 1)
    }

    #[inline]
    fn number(&mut self, piece: &[u8], mut at: usize, mut number: Number) -> Result<usize, Fault> {
        loop {
            if matches!(number, Number::Digits | Number::Fraction | Number::Power) {
                let digits = piece.get(at..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit());
                at += digits.count();
            }
            let Some(byte) = piece.get(at) else { break };
            match number.step(*byte) {
                Some(next) => number = next,
                None if number.is_whole() => {
                    self.ended(piece, at);
                    return Ok(at);
                }
                None => return Err(Fault::Syntax),
            }
            at += 1;
        }
        self.lex = Lex::Number(number);
        Ok(at)
    }

    /// A byte that is no space, outside of texts, numbers and words.
    #[inline]
    fn mark(&mut self, piece: &[u8], at: usize, byte: u8) -> Result<usize, Fault> {
        let level = self.levels.last().copied();
        match (self.lex, byte) {
            (Lex::Name | Lex::NameOrEnd, b'"') => {
                let end = at + 1 + lex::plain(piece.get(at + 1..).unwrap_or_default());
                if self.raw.is_none() {
                    self.name.clear();
                    self.from = at;
                }
                if piece.get(end) != Some(&b'"') {
                    self.in_name = true;
                    self.lex = Lex::Text;
                    return Ok(end);
                }
                // All of it is here, and says what is written.
                if self.raw.is_none() {
                    if end + 1 - at > LONGEST_NAME {
                        return Err(Fault::NameTooLong);
                    }
                    self.name_here = Some((at, end + 1));
                }
                if piece.get(end + 1) == Some(&b':') {
                    self.lex = Lex::Value;
                    return Ok(end + 2);
                }
                self.lex = Lex::Colon;
                return Ok(end + 1);
            }
            (Lex::Colon, b':') => self.lex = Lex::Value,
            (Lex::Next, b',') => {
                self.lex = if level == Some(b'{') { Lex::Name } else { Lex::Value };
                if let Some(frame) = self.frames.last_mut().filter(|_| self.raw.is_none()) {
                    frame.index += 1;
                }
            }
            (Lex::Next | Lex::NameOrEnd, b'}') if level == Some(b'{') => self.close(piece, at),
            (Lex::Next | Lex::ValueOrEnd, b']') if level == Some(b'[') => self.close(piece, at),
            (Lex::Value | Lex::ValueOrEnd, _) => return self.begin(piece, at, byte),
            _ => return Err(Fault::Syntax),
        }
        Ok(at + 1)
    }

    fn close(&mut self, piece: &[u8], at: usize) {
        self.levels.pop();
        if self.raw.is_none() {
            self.frames.pop();
            self.write(piece, at, at + 1);
        }
        self.ended(piece, at + 1);
    }

    /// The first byte of a value, and the rest of one that ends in this piece.
    #[inline]
    fn begin(&mut self, piece: &[u8], at: usize, byte: u8) -> Result<usize, Fault> {
        self.begun = true;
        let container = matches!(byte, b'{' | b'[');
        let mut part = None;
        if self.raw.is_none() {
            let fate = match (self.frames.last(), self.levels.last()) {
                (Some(frame), Some(b'{')) => match self.name_here {
                    Some((from, to)) => {
                        self.program.plain_member(&frame.states, piece.get(from..to).unwrap_or_default(), container)
                    }
                    None => self.program.member(&frame.states, &self.name, container),
                },
                (Some(frame), _) => self.program.element(&frame.states, frame.index, container),
                (None, _) => self.program.root(container),
            };
            match fate {
                Fate::Whole => {
                    self.announce(piece, at);
                    self.from = at;
                    self.raw = Some(Raw { copied: true, depth: self.levels.len() });
                }
                Fate::Gone => {
                    if self.frames.is_empty() {
                        // A document is never nothing.
                        self.out.extend_from_slice(b"null");
                    }
                    self.raw = Some(Raw { copied: false, depth: self.levels.len() });
                }
                Fate::Part(states) => {
                    self.announce(piece, at);
                    self.write(piece, at, at + 1);
                    part = Some(states);
                }
            }
            self.name_here = None;
        }
        self.lex = match byte {
            b'{' => Lex::NameOrEnd,
            b'[' => Lex::ValueOrEnd,
            b'"' => {
                self.lex = Lex::Text;
                return self.text(piece, at + 1 + lex::plain(piece.get(at + 1..).unwrap_or_default()));
            }
            _ => match (Number::begin(byte), lex::word(byte)) {
                (Some(number), _) => return self.number(piece, at + 1, number),
                (None, Some(word)) => {
                    let rest = piece.get(at..).unwrap_or_default();
                    if rest.starts_with(word) {
                        self.ended(piece, at + word.len());
                        return Ok(at + word.len());
                    }
                    Lex::Word(word.get(1..).unwrap_or_default())
                }
                (None, None) => return Err(Fault::Syntax),
            },
        };
        if container {
            if self.levels.len() >= DEEPEST {
                return Err(Fault::TooDeep);
            }
            self.levels.push(byte);
            self.frames.extend(part.map(Frame::new));
        }
        Ok(at + 1)
    }

    /// Writes what stands before the value at this place: the comma, and the name.
    #[inline]
    fn announce(&mut self, piece: &[u8], at: usize) {
        let Some(frame) = self.frames.last_mut() else { return };
        let follows = std::mem::replace(&mut frame.written, true);
        let named = self.levels.last() == Some(&b'{');
        let here = if named { self.name_here.map(|(from, _)| from) } else { Some(at) };
        if follows {
            self.write_mark(piece, here.and_then(|at| at.checked_sub(1)), b',');
        }
        if !named {
            return;
        }
        let behind = match self.name_here {
            Some((from, to)) => {
                self.write(piece, from, to);
                Some(to)
            }
            None => {
                self.flush(piece);
                self.out.extend_from_slice(&self.name);
                None
            }
        };
        self.write_mark(piece, behind, b':');
    }

    /// A value ends before `at`.
    #[inline]
    fn ended(&mut self, piece: &[u8], at: usize) {
        if let Some(raw) = self.raw.filter(|raw| raw.depth == self.levels.len()) {
            if raw.copied {
                self.write(piece, self.from, at);
            }
            self.raw = None;
        }
        self.lex = if self.levels.is_empty() { Lex::Done } else { Lex::Next };
    }
}
