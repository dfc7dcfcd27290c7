//! Paths with places for values (`/pets/{id}`, `/files/{name}.json`), as documents of OpenAPI list them, found by the same tree as routes.

use std::ops::ControlFlow;

use smallvec::SmallVec;

use super::pattern::{PathPattern, Segment, static_segment};
use super::trie::{Trie, TrieBuilder};

/// What the places took, from left to right, undecoded.
pub type Taken<'a> = SmallVec<[&'a str; 4]>;

/// The most segments of a path, as of a route's.
const MOST_SEGMENTS: usize = 64;

/// A part of a segment that is neither text alone nor one place alone.
enum Piece {
    Text(Box<str>),
    Place,
}

/// One path.
pub struct Template {
    pattern: PathPattern,
    /// For each segment with a place: its pieces, if there is more to it than the place.
    mixed: Vec<Option<Vec<Piece>>>,
    /// The names of the places, from left to right.
    pub names: Vec<Box<str>>,
}

impl Template {
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub fn parse(path: &str) -> Result<Template, String> {
        let relative = path.strip_prefix('/').ok_or("a path begins with a slash")?;
        let mut template =
            Template { pattern: PathPattern { segments: Vec::new(), prefix: false }, mixed: Vec::new(), names: Vec::new() };
        if relative.contains(['?', '#']) {
            return Err("a path has neither a query nor a fragment".to_owned());
        }
        let count = relative.split('/').count();
        if count > MOST_SEGMENTS {
            return Err(format!("a path has at most {MOST_SEGMENTS} segments"));
        }
        for (at, segment) in relative.split('/').enumerate() {
            match segment {
                "" if at + 1 == count => template.pattern.segments.push(Segment::Static("".into())),
                "" => return Err("an empty segment matches nothing: requests' slashes are merged".to_owned()),
                text if !text.contains(['{', '}']) => template.pattern.segments.push(Segment::Static(static_segment(text)?)),
                mixed => template.mixed(mixed)?,
            }
        }
        Ok(template)
    }

    fn mixed(&mut self, segment: &str) -> Result<(), String> {
        let mut pieces = Vec::new();
        let mut rest = segment;
        while !rest.is_empty() {
            let (text, after) = rest.split_once('{').map_or((rest, None), |(text, after)| (text, Some(after)));
            if text.contains('}') {
                return Err("a `}` closes nothing".to_owned());
            }
            if !text.is_empty() {
                // Not as a segment of its own: a dot would be one that leads elsewhere.
                let spelled = static_segment(&format!("x{text}"))?;
                pieces.push(Piece::Text(spelled.get(1..).unwrap_or_default().into()));
            }
            let Some(after) = after else { break };
            let (name, after) = after.split_once('}').ok_or("a `{` is not closed")?;
            if matches!(pieces.last(), Some(Piece::Place)) {
                return Err("nothing tells where one value ends and the next begins".to_owned());
            }
            if self.names.iter().any(|known| **known == *name) {
                return Err(format!("`{{{name}}}` stands here twice"));
            }
            self.names.push(name.into());
            pieces.push(Piece::Place);
            rest = after;
        }
        self.pattern.segments.push(Segment::Param("".into()));
        self.mixed.push(if matches!(pieces.as_slice(), [Piece::Place]) { None } else { Some(pieces) });
        Ok(())
    }

    /// Its segments as requests have them, `None` for one that has a place.
    pub fn segments(&self) -> Vec<Option<Box<str>>> {
        let segment = |segment: &Segment| if let Segment::Static(text) = segment { Some(text.clone()) } else { None };
        self.pattern.segments.iter().map(segment).collect()
    }

    /// What tells it from others, which is not how its places are called.
    pub fn shape(&self) -> String {
        let mut out = String::new();
        let mut mixed = self.mixed.iter();
        for segment in &self.pattern.segments {
            out.push('/');
            match segment {
                Segment::Static(text) => out.push_str(text),
                Segment::Param(_) => match mixed.next() {
                    Some(Some(pieces)) => pieces.iter().for_each(|piece| match piece {
                        Piece::Text(text) => out.push_str(text),
                        Piece::Place => out.push_str("{}"),
                    }),
                    _ => out.push_str("{}"),
                },
            }
        }
        out
    }

    /// How much of its segments with places is text: the more, the sooner it is tried.
    fn text(&self) -> usize {
        let pieces = self.mixed.iter().flatten().flatten();
        pieces.map(|piece| if let Piece::Text(text) = piece { text.len() } else { 0 }).sum()
    }

    fn taken<'a>(&self, captured: &[&'a str]) -> Option<Taken<'a>> {
        let mut taken = Taken::new();
        for (segment, pieces) in captured.iter().zip(&self.mixed) {
            match pieces {
                None => taken.push(segment),
                Some(pieces) => take(pieces, segment, &mut taken)?,
            }
        }
        Some(taken)
    }
}

/// What the places of one segment take: each as little as it can, and something.
fn take<'a>(pieces: &[Piece], segment: &'a str, taken: &mut Taken<'a>) -> Option<()> {
    let mut rest = segment;
    let mut pieces = pieces.iter().peekable();
    while let Some(piece) = pieces.next() {
        match piece {
            Piece::Text(text) => rest = rest.strip_prefix(&**text)?,
            Piece::Place => {
                let end = match pieces.next() {
                    None => rest.len(),
                    Some(Piece::Place) => return None,
                    Some(Piece::Text(text)) if pieces.peek().is_none() => {
                        let end = rest.strip_suffix(&**text)?.len();
                        (end > 0).then(|| taken.push(rest.get(..end).unwrap_or_default()))?;
                        return Some(());
                    }
                    Some(Piece::Text(text)) => {
                        let first = rest.chars().next()?.len_utf8();
                        let end = first + rest.get(first..)?.find(&**text)?;
                        (end > 0).then(|| taken.push(rest.get(..end).unwrap_or_default()))?;
                        rest = rest.get(end + text.len()..)?;
                        continue;
                    }
                };
                (end > 0).then(|| taken.push(rest))?;
                rest = "";
            }
        }
    }
    rest.is_empty().then_some(())
}

/// Many of them.
pub struct Templates {
    trie: Trie,
    templates: Vec<Template>,
}

impl Templates {
    pub fn new(templates: Vec<Template>) -> Templates {
        let mut order: Vec<usize> = (0..templates.len()).collect();
        order.sort_by_key(|at| std::cmp::Reverse(templates.get(*at).map_or(0, Template::text)));
        let mut builder = TrieBuilder::new();
        for at in order {
            if let Some(template) = templates.get(at) {
                builder.insert(&template.pattern, at as u32);
            }
        }
        Templates { trie: builder.finish(), templates }
    }

    /// Calls `visit` with the number of each that the path is one of, the most specific first, and what its places took, until it says
    /// something.
    pub fn find<'a, T>(&'a self, path: &'a str, mut visit: impl FnMut(u32, Taken<'a>) -> Option<T>) -> Option<T> {
        let mut found = None;
        let _ = self.trie.walk(path, &mut |leaf, captured, _| {
            for number in &leaf.candidates {
                let taken = self.templates.get(*number as usize).and_then(|template| template.taken(captured));
                found = taken.and_then(|taken| visit(*number, taken));
                if found.is_some() {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_is_found_first() {
        let paths = ["/a/{id}", "/a/mine", "/a/{id}.json", "/{x}/b", "/a/{id}:cancel", "/f/{a}-{b}.{c}", "/", "/a/"];
        let templates = Templates::new(paths.iter().map(|path| Template::parse(path).unwrap()).collect());
        let all = |path: &str| {
            let mut found: Vec<(u32, Vec<String>)> = Vec::new();
            templates.find(path, |number, taken| {
                found.push((number, taken.iter().map(|text| (*text).to_owned()).collect()));
                None::<()>
            });
            found
        };
        let one = |number: u32, taken: &[&str]| (number, taken.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(all("/a/mine"), [one(1, &[]), one(0, &["mine"])]);
        assert_eq!(all("/a/7.json"), [one(2, &["7"]), one(0, &["7.json"])]);
        assert_eq!(all("/a/.json"), [one(0, &[".json"])]);
        assert_eq!(all("/a/b"), [one(0, &["b"]), one(3, &["a"])]);
        assert_eq!(all("/a/7:cancel"), [one(4, &["7"]), one(0, &["7:cancel"])]);
        assert_eq!(all("/f/1-2-3.x.y"), [one(5, &["1", "2-3", "x.y"])]);
        assert_eq!(all("/f/-2.x"), []);
        assert_eq!((all("/"), all("/a/"), all("/a")), (vec![one(6, &[])], vec![one(7, &[])], vec![]));
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused() {
        for path in ["a", "/{a}{b}", "/{a", "/a}", "//a", "/{a}/{a}", "/a?b=c", "/..", "/a#b"] {
            assert!(Template::parse(path).is_err(), "{path}");
        }
    }
}
