//! Many pointers at once, asked from the root on: what is kept of a document, and what is dropped.

use smallvec::SmallVec;

use super::lex;
use super::pointer::{Pointer, Token, index};

/// What becomes of what the pointers name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is all that is left, with the objects and arrays around it.
    Keep,
    /// It goes.
    Remove,
}

/// Where one is within the pointers.
pub type States = SmallVec<[u32; 4]>;

/// What becomes of a value.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays as it is, with everything in it.
    Whole,
    /// It goes.
    Gone,
    /// It is an object or array of which something may go.
    Part(States),
}

/// The same, where one place within the pointers says it: of a value that is no object or array, and of one that is.
#[derive(Clone, Copy)]
pub struct Passing {
    scalar: Quick,
    container: Quick,
}

impl Passing {
    #[inline]
    pub fn of(self, container: bool) -> Quick {
        if container { self.container } else { self.scalar }
    }
}

/// See [`Passing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quick {
    Whole,
    Gone,
    Part(u32),
}

/// The first bytes of a name, by which most are told apart.
#[inline(always)]
pub fn key(text: &[u8], at: usize, length: usize) -> u64 {
    match text.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(chunk) if length < 8 => u64::from_le_bytes(*chunk) & !(u64::MAX << (8 * length)),
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => {
            let mut bytes = [0; 8];
            for (byte, known) in bytes.iter_mut().zip(text.get(at..).unwrap_or_default().iter().take(length)) {
                *byte = *known;
            }
            u64::from_le_bytes(bytes)
        }
    }
}

#[derive(Debug)]
struct Named {
    key: u64,
    name: Box<str>,
    /// Of the element that it names.
    number: Option<u64>,
    next: u32,
}

#[derive(Debug, Default)]
struct State {
    names: Vec<Named>,
    each: Option<u32>,
    /// Where `**` leads, which begins here.
    deep: Option<u32>,
    /// It is within `**`: whatever comes leads here again.
    stays: bool,
    /// A pointer ends here.
    end: bool,
}

/// Pointers, compiled.
#[derive(Debug)]
pub struct Program {
    mode: Mode,
    states: Vec<State>,
}

impl Program {
    pub fn new<'a>(mode: Mode, pointers: impl IntoIterator<Item = &'a Pointer>) -> Program {
        let mut program = Program { mode, states: vec![State::default()] };
        for pointer in pointers {
            let mut at = 0;
            for token in &pointer.0 {
                at = program.next(at, token);
            }
            if let Some(state) = program.states.get_mut(at as usize) {
                state.end = true;
            }
        }
        program
    }

    fn next(&mut self, at: u32, token: &Token) -> u32 {
        let fresh = u32::try_from(self.states.len()).unwrap_or(u32::MAX);
        let Some(state) = self.states.get_mut(at as usize) else { return at };
        let known = match token {
            Token::Each => *state.each.get_or_insert(fresh),
            Token::Deep => *state.deep.get_or_insert(fresh),
            Token::Name(name) => match state.names.iter().find(|known| known.name == *name) {
                Some(known) => known.next,
                None => {
                    let key = key(name.as_bytes(), 0, name.len());
                    state.names.push(Named { key, name: name.clone(), number: index(name), next: fresh });
                    fresh
                }
            },
        };
        if known == fresh {
            self.states.push(State { stays: *token == Token::Deep, ..State::default() });
        }
        known
    }

    /// What becomes of the whole document.
    pub fn root(&self, container: bool) -> Fate {
        let mut states = States::new();
        self.enter(&mut states, 0);
        self.judge(states, container)
    }

    /// What becomes of the member with this name, quotes and all, of an object that is one of `states`.
    #[inline]
    pub fn member(&self, states: &States, quoted: &[u8], container: bool) -> Fate {
        let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        if lex::plain(inner) == inner.len() {
            return self.plain_member(states, quoted, container);
        }
        // What no text can be is no pointer's name.
        let name = lex::said(quoted);
        self.step(states, container, |known| name.as_deref() == Some(&*known.name))
    }

    /// The same of a name that is written without escapes.
    #[inline]
    pub fn plain_member(&self, states: &States, quoted: &[u8], container: bool) -> Fate {
        let name = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        self.step(states, container, |known| *known.name.as_bytes() == *name)
    }

    /// What becomes of the element with this number.
    #[inline]
    pub fn element(&self, states: &States, number: u64, container: bool) -> Fate {
        self.step(states, container, |known| known.number == Some(number))
    }

    /// What becomes of the member with this name, which is written without escapes, where that is quickly said: of most members of most objects.
    #[inline(always)]
    pub fn quick_member(&self, state: u32, name: &[u8], key: u64) -> Option<Passing> {
        let state = self.states.get(state as usize).filter(|state| !state.stays)?;
        let is = |known: &&Named| {
            known.key == key && known.name.len() == name.len() && (name.len() <= 8 || *known.name.as_bytes() == *name)
        };
        self.quick(state.names.iter().find(is).map(|known| known.next), state.each)
    }

    /// The same of the element with this number.
    #[inline(always)]
    pub fn quick_element(&self, state: u32, number: u64) -> Option<Passing> {
        let state = self.states.get(state as usize).filter(|state| !state.stays)?;
        let named = state.names.iter().find(|known| known.number == Some(number));
        self.quick(named.map(|known| known.next), state.each)
    }

    #[inline(always)]
    fn quick(&self, named: Option<u32>, each: Option<u32>) -> Option<Passing> {
        let (named_is, other) = match self.mode {
            Mode::Keep => (Quick::Whole, Quick::Gone),
            Mode::Remove => (Quick::Gone, Quick::Whole),
        };
        let only = match (named, each) {
            (None, None) => return Some(Passing { scalar: other, container: other }),
            (Some(one), None) | (None, Some(one)) => one,
            (Some(_), Some(_)) => return None,
        };
        let next = self.states.get(only as usize).filter(|next| next.deep.is_none())?;
        Some(match next.end {
            true => Passing { scalar: named_is, container: named_is },
            false => Passing { scalar: other, container: Quick::Part(only) },
        })
    }

    fn step(&self, states: &States, container: bool, is: impl Fn(&Named) -> bool) -> Fate {
        let mut next = States::new();
        for &number in states {
            let Some(state) = self.states.get(number as usize) else { continue };
            if let Some(found) = state.names.iter().find(|known| is(known)) {
                self.enter(&mut next, found.next);
            }
            if let Some(each) = state.each {
                self.enter(&mut next, each);
            }
            if state.stays {
                self.enter(&mut next, number);
            }
        }
        self.judge(next, container)
    }

    fn enter(&self, states: &mut States, number: u32) {
        if states.contains(&number) {
            return;
        }
        states.push(number);
        if let Some(deep) = self.states.get(number as usize).and_then(|state| state.deep) {
            self.enter(states, deep);
        }
    }

    fn judge(&self, states: States, container: bool) -> Fate {
        let named = states.iter().any(|number| self.states.get(*number as usize).is_some_and(|state| state.end));
        let (named_is, other_is) = match self.mode {
            Mode::Keep => (Fate::Whole, Fate::Gone),
            Mode::Remove => (Fate::Gone, Fate::Whole),
        };
        match named {
            true => named_is,
            false if states.is_empty() || !container => other_is,
            false => Fate::Part(states),
        }
    }
}
