//! Which route takes a connection: the exact name before the longest wildcard, before all of TLS, before all.

use std::collections::HashMap;

use super::hello::Greeting;
use crate::route::HostPattern;

/// The routes of one listener.
#[derive(Debug)]
pub struct Names<T> {
    exact: HashMap<Box<str>, T, ahash::RandomState>,
    /// By what follows `*.`.
    wildcards: HashMap<Box<str>, T, ahash::RandomState>,
    /// Whatever begins with a TLS hello.
    tls: Option<T>,
    /// Whatever nobody else takes.
    any: Option<T>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Names { exact: HashMap::default(), wildcards: HashMap::default(), tls: None, any: None }
    }
}

impl<T> Names<T> {
    /// The place of a pattern, `None` being the one of what no pattern takes: empty, or taken already.
    pub fn slot(&mut self, pattern: Option<&HostPattern>) -> Slot<'_, T> {
        match pattern {
            None => Slot::One(&mut self.any),
            Some(HostPattern::Any) => Slot::One(&mut self.tls),
            Some(HostPattern::Exact(name)) => Slot::Of(&mut self.exact, name.clone()),
            Some(HostPattern::Wildcard(parent)) => Slot::Of(&mut self.wildcards, parent.clone()),
        }
    }

    /// Whether it matters what a client says first. Otherwise the service may speak first.
    pub fn are_asked_for(&self) -> bool {
        !self.exact.is_empty() || !self.wildcards.is_empty() || self.tls.is_some()
    }

    /// Who takes a connection that begins so.
    pub fn find(&self, greeting: &Greeting) -> Option<&T> {
        match greeting {
            Greeting::Hello(name) => self.named(name.as_deref()).or(self.any.as_ref()),
            Greeting::Other => self.any.as_ref(),
            Greeting::Bad(_) => None,
        }
    }

    /// Who takes a connection over TLS to this name.
    pub fn named(&self, name: Option<&str>) -> Option<&T> {
        name.and_then(|name| self.exact.get(name).or_else(|| self.under(name))).or(self.tls.as_ref())
    }

    /// The longest wildcard.
    fn under(&self, name: &str) -> Option<&T> {
        if self.wildcards.is_empty() {
            return None;
        }
        let parents = memchr::memchr_iter(b'.', name.as_bytes()).filter(|dot| *dot > 0).filter_map(|dot| name.get(dot + 1..));
        parents.filter_map(|parent| self.wildcards.get(parent)).next()
    }

    /// The names, each with whether it is a wildcard's parent.
    pub fn listed(&self) -> impl Iterator<Item = (&str, bool)> {
        let exact = self.exact.keys().map(|name| (&**name, false));
        exact.chain(self.wildcards.keys().map(|parent| (&**parent, true)))
    }

    /// Who takes what says nothing.
    pub fn any(&self) -> Option<&T> {
        self.any.as_ref()
    }

    pub fn is_empty(&self) -> bool {
        self.any.is_none() && !self.are_asked_for()
    }
}

/// A place for one route.
pub enum Slot<'a, T> {
    One(&'a mut Option<T>),
    Of(&'a mut HashMap<Box<str>, T, ahash::RandomState>, Box<str>),
}

impl<T> Slot<'_, T> {
    /// Whether it was empty, and this is there now.
    pub fn fill(self, value: T) -> bool {
        match self {
            Slot::One(place) if place.is_none() => {
                *place = Some(value);
                true
            }
            Slot::Of(map, name) if !map.contains_key(&name) => {
                map.insert(name, value);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(patterns: &[&str]) -> Names<usize> {
        let mut names = Names::default();
        for (at, text) in patterns.iter().enumerate() {
            let pattern = (!text.is_empty()).then(|| HostPattern::parse(text).unwrap());
            assert!(names.slot(pattern.as_ref()).fill(at), "{text}");
        }
        names
    }

    fn hello(name: &str) -> Greeting {
        Greeting::Hello((!name.is_empty()).then(|| name.into()))
    }

    #[test]
    fn the_nearest_name_wins() {
        let names = names(&["a.example.org", "*.example.org", "*.deep.example.org", "*", ""]);
        let found = |greeting: Greeting| names.find(&greeting).copied();
        assert_eq!(found(hello("a.example.org")), Some(0));
        assert_eq!(found(hello("b.example.org")), Some(1));
        assert_eq!(found(hello("x.y.example.org")), Some(1));
        assert_eq!(found(hello("x.deep.example.org")), Some(2));
        assert_eq!(found(hello("example.org")), Some(3));
        assert_eq!(found(hello("")), Some(3));
        assert_eq!(found(Greeting::Other), Some(4));
        assert_eq!(found(Greeting::Bad("hello_malformed")), None);
    }

    #[test]
    fn nothing_is_taken_that_nobody_wants_nor_twice() {
        let mut names = names(&["a.example.org"]);
        assert!(names.find(&hello("b.example.org")).is_none() && names.find(&Greeting::Other).is_none());
        assert!(names.find(&hello(".example.org")).is_none());
        assert!(!names.slot(Some(&HostPattern::parse("A.example.org.").unwrap())).fill(1));
        assert!(names.are_asked_for() && !names.is_empty());
        assert!(Names::<()>::default().is_empty());
    }
}
