//! The quick road: what stands whole in a piece, and is written as JSON mostly is.

use super::super::program::{Fate, Quick, States, key};
use super::super::{DEEPEST, LONGEST_NAME, lex};
use super::{Filter, Frame, Lex, Raw};

/// Where one is in an object or array.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Where the first member or element is, or the end.
    First,
    /// Behind a comma.
    Item,
    Behind,
}

/// Where a member or element ends, or what is to be read next: what is in it.
struct End {
    at: usize,
    opens: bool,
}

impl Filter {
    /// Reads on for as long as members, elements and ends stand whole in this piece, and are as they mostly are. Whatever else there is, the end of
    /// the piece and what is wrong included, is read byte by byte by the others, from where this ends.
    pub(super) fn items(&mut self, piece: &[u8], mut at: usize) -> usize {
        let Some(mut level) = self.levels.last().copied() else { return at };
        let mut place = match (self.lex, level) {
            (Lex::Next, _) => Place::Behind,
            (Lex::NameOrEnd | Lex::ValueOrEnd, _) => Place::First,
            (Lex::Name, _) | (Lex::Value, b'[') => Place::Item,
            _ => return at,
        };
        loop {
            at = lex::space(piece, at);
            let Some(&byte) = piece.get(at) else { break };
            if place != Place::Item && byte == lex::ending(level) {
                self.close(piece, at);
                at += 1;
                place = Place::Behind;
                match self.levels.last() {
                    Some(outer) => level = *outer,
                    // It is done, and says so.
                    None => return at,
                }
                continue;
            }
            if place == Place::Behind {
                if byte != b',' {
                    break;
                }
                at = lex::space(piece, at + 1);
                place = Place::Item;
                if let Some(frame) = self.frames.last_mut().filter(|_| self.raw.is_none()) {
                    frame.index += 1;
                }
            }
            let item = if self.raw.is_some() { self.raw_item(piece, at, level) } else { self.item(piece, at, level) };
            let Some(end) = item else { break };
            let opened = self.levels.last().filter(|_| end.opens);
            (at, place) = (end.at, if end.opens { Place::First } else { Place::Behind });
            level = opened.copied().unwrap_or(level);
        }
        self.lex = match (place, level) {
            (Place::Behind, _) => Lex::Next,
            (Place::First, b'{') => Lex::NameOrEnd,
            (Place::First, _) => Lex::ValueOrEnd,
            (Place::Item, b'{') => Lex::Name,
            (Place::Item, _) => Lex::Value,
        };
        at
    }

    /// Reads a member or element, or the beginning of one that is looked into, or that goes on in the next piece.
    #[inline(always)]
    fn item(&mut self, piece: &[u8], at: usize, level: u8) -> Option<End> {
        let Frame { states, state, index, .. } = self.frames.last()?;
        let (named, value, quick);
        if level == b'{' {
            // With an escape it is looked at more closely.
            named = lex::plain_string(piece, at).filter(|end| end - at <= LONGEST_NAME)?;
            let colon = lex::space(piece, named);
            if piece.get(colon) != Some(&b':') {
                return None;
            }
            value = lex::space(piece, colon + 1);
            let name = piece.get(at + 1..named - 1)?;
            quick = state.and_then(|state| self.program.quick_member(state, name, key(piece, at + 1, name.len())));
        } else {
            (named, value) = (at, at);
            quick = state.and_then(|state| self.program.quick_element(state, *index));
        }
        let first = *piece.get(value)?;
        let container = matches!(first, b'{' | b'[');
        let fate = match quick {
            Some(quick) => quick.of(container),
            None => {
                let fate = match level {
                    b'{' => self.program.plain_member(states, piece.get(at..named)?, container),
                    _ => self.program.element(states, *index, container),
                };
                match fate {
                    Fate::Whole => Quick::Whole,
                    Fate::Gone => Quick::Gone,
                    // As all else that is seldom.
                    Fate::Part(_) => return None,
                }
            }
        };
        let whole = match fate {
            Quick::Part(_) => None,
            _ if container => lex::container(piece, value, DEEPEST - self.levels.len()),
            _ => Some(lex::scalar(piece, value)?),
        };
        if whole.is_none() && self.levels.len() >= DEEPEST {
            return None;
        }
        if fate != Quick::Gone {
            self.announce_item(piece, (at, named), value);
            self.write(piece, value, whole.unwrap_or(value + 1));
        }
        if let Some(at) = whole {
            return Some(End { at, opens: false });
        }
        match fate {
            Quick::Part(state) => {
                self.frames.push(Frame::new(States::from_slice(&[state])));
            }
            _ => {
                self.from = value + 1;
                self.raw = Some(Raw { copied: fate == Quick::Whole, depth: self.levels.len() });
            }
        }
        self.levels.push(first);
        Some(End { at: value + 1, opens: true })
    }

    /// The same where nothing is looked into.
    fn raw_item(&mut self, piece: &[u8], at: usize, level: u8) -> Option<End> {
        let value = if level == b'{' { lex::member(piece, at)? } else { at };
        let first = *piece.get(value)?;
        if !matches!(first, b'{' | b'[') {
            return lex::scalar(piece, value).map(|at| End { at, opens: false });
        }
        if self.levels.len() >= DEEPEST {
            return None;
        }
        self.levels.push(first);
        Some(End { at: value + 1, opens: true })
    }

    /// [`Filter::announce`], of what stands whole in this piece.
    #[inline(always)]
    fn announce_item(&mut self, piece: &[u8], (from, to): (usize, usize), value: usize) {
        let Some(frame) = self.frames.last_mut() else { return };
        let mut begin = from;
        if std::mem::replace(&mut frame.written, true) {
            match from.checked_sub(1).filter(|&comma| piece.get(comma) == Some(&b',')) {
                Some(comma) => begin = comma,
                None => self.write_mark(piece, None, b','),
            }
        }
        if to == from || to + 1 == value {
            self.write(piece, begin, value);
        } else {
            self.write(piece, begin, to);
            self.write_mark(piece, None, b':');
        }
    }
}
