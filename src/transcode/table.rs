//! Which rule a request takes: a tree of segments, in which what stands for itself goes before `*`, and that before `**`, from left to
//! right, as among routes. A path whose rules are all for other methods of HTTP is told apart from one that has none.
//!
//! A lookup visits each place of the tree at most once, whatever a client sends.

use std::collections::HashMap;

use http::Method;

use super::template::{Segment, Template};

/// Of HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    Is(Method),
    Any,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, usize, ahash::RandomState>,
    one: Option<usize>,
    /// Rules whose templates end here.
    here: Vec<End>,
    /// Rules that take all that is left.
    rest: Vec<End>,
}

#[derive(Debug)]
struct End {
    method: Verb,
    /// What stands behind the colon.
    verb: Option<Box<str>>,
    rule: usize,
}

#[derive(Debug)]
pub struct Table {
    nodes: Vec<Node>,
}

/// What a path and a method of HTTP come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'p> {
    /// The rule, and the path's segments without its verb.
    Rule(usize, Vec<&'p str>),
    /// There are rules for these methods only.
    Others(Vec<Method>),
    Nothing,
}

impl Default for Table {
    fn default() -> Self {
        Table { nodes: vec![Node::default()] }
    }
}

impl Table {
    /// Adds a rule. The number of the one that is for the same requests already, if there is one: that one stays.
    pub fn add(&mut self, method: Verb, template: &Template, rule: usize) -> Option<usize> {
        let mut at = 0;
        let mut takes_rest = false;
        for segment in &template.segments {
            let new = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else { break };
            let next = match segment {
                Segment::Rest => {
                    takes_rest = true;
                    break;
                }
                Segment::One => *node.one.get_or_insert(new),
                Segment::Literal(word) => *node.literals.entry(word.clone()).or_insert(new),
            };
            if next == new {
                self.nodes.push(Node::default());
            }
            at = next;
        }
        let node = self.nodes.get_mut(at)?;
        let ends = if takes_rest { &mut node.rest } else { &mut node.here };
        let same = |end: &&End| end.verb == template.verb && end.method == method;
        if let Some(known) = ends.iter().find(same) {
            return Some(known.rule);
        }
        let end = End { verb: template.verb.clone(), rule, method };
        // The one for all methods is asked last.
        match end.method {
            Verb::Any => ends.push(end),
            Verb::Is(_) => ends.insert(0, end),
        }
        None
    }

    /// `path` is canonical. A HEAD request takes a rule for GET where there is none for HEAD. `verbs`: what stands behind the last colon may be
    /// one.
    pub fn find<'p>(&self, method: &Method, path: &'p str, verbs: bool) -> Found<'p> {
        let found = self.find_exactly(method, path, verbs);
        match &found {
            Found::Others(methods) if *method == Method::HEAD && methods.contains(&Method::GET) => {
                self.find_exactly(&Method::GET, path, verbs)
            }
            _ => found,
        }
    }

    fn find_exactly<'p>(&self, method: &Method, path: &'p str, verbs: bool) -> Found<'p> {
        let relative = path.strip_prefix('/').unwrap_or(path);
        let mut search = Search { table: self, method, others: Vec::new() };
        // With what stands behind the last colon as a verb, and then without.
        if let Some((plain, verb)) = relative.rsplit_once(':').filter(|(_, verb)| verbs && !verb.contains('/')) {
            let segments = segments(plain);
            if let Some(rule) = search.below(0, &segments, Some(verb)) {
                return Found::Rule(rule, segments);
            }
        }
        let segments = segments(relative);
        if let Some(rule) = search.below(0, &segments, None) {
            return Found::Rule(rule, segments);
        }
        if search.others.is_empty() { Found::Nothing } else { Found::Others(search.others) }
    }
}

fn segments(relative: &str) -> Vec<&str> {
    if relative.is_empty() { Vec::new() } else { relative.split('/').collect() }
}

struct Search<'t> {
    table: &'t Table,
    method: &'t Method,
    others: Vec<Method>,
}

impl Search<'_> {
    /// As deep as the deepest template is long.
    fn below(&mut self, at: usize, left: &[&str], verb: Option<&str>) -> Option<usize> {
        let node = self.table.nodes.get(at)?;
        match left.split_first() {
            None => {
                if let Some(rule) = self.end(&node.here, verb) {
                    return Some(rule);
                }
            }
            Some((segment, left)) => {
                if let Some(rule) = node.literals.get(*segment).and_then(|next| self.below(*next, left, verb)) {
                    return Some(rule);
                }
                if let Some(rule) = node.one.filter(|_| !segment.is_empty()).and_then(|next| self.below(next, left, verb)) {
                    return Some(rule);
                }
            }
        }
        self.end(&node.rest, verb)
    }

    fn end(&mut self, ends: &[End], verb: Option<&str>) -> Option<usize> {
        for end in ends.iter().filter(|end| end.verb.as_deref() == verb) {
            match &end.method {
                Verb::Any => return Some(end.rule),
                Verb::Is(method) if method == self.method => return Some(end.rule),
                Verb::Is(method) if self.others.contains(method) => {}
                Verb::Is(method) => self.others.push(method.clone()),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rules: &[(&str, &str)]) -> Table {
        let mut table = Table::default();
        for (number, (method, template)) in rules.iter().enumerate() {
            let method = if *method == "*" { Verb::Any } else { Verb::Is(method.parse().unwrap()) };
            assert_eq!(table.add(method, &Template::parse(template).unwrap(), number), None, "{template}");
        }
        table
    }

    fn rule(table: &Table, method: &str, path: &str) -> Option<usize> {
        match table.find(&method.parse().unwrap(), path, true) {
            Found::Rule(rule, _) => Some(rule),
            _ => None,
        }
    }

    #[test]
    fn the_nearest_rule_is_taken() {
        let table = table(&[
            ("GET", "/v1/books/{book}"),
            ("GET", "/v1/books/first"),
            ("GET", "/v1/{rest=**}"),
            ("GET", "/v1/books/{book}:read"),
            ("POST", "/v1/books/{book}:read"),
            ("GET", "/v1/{name=books/*/pages/*}"),
            ("*", "/any"),
            ("GET", "/"),
        ]);
        for (path, number) in [
            ("/v1/books/7", Some(0)),
            ("/v1/books/first", Some(1)),
            ("/v1/books/7/8", Some(2)),
            ("/v1", Some(2)),
            ("/v1/", Some(2)),
            ("/v1/books/7:read", Some(3)),
            ("/v1/books/7:other", Some(0)),
            ("/v1/books/a:b:read", Some(3)),
            ("/v1/books/7/pages/8", Some(5)),
            // Not empty.
            ("/v1/books/", Some(2)),
            ("/any", Some(6)),
            ("/any/", None),
            ("/", Some(7)),
            ("/v2", None),
        ] {
            assert_eq!(rule(&table, "GET", path), number, "{path}");
        }
        assert_eq!(table.find(&Method::GET, "/v1/books/7:read", false), Found::Rule(0, vec!["v1", "books", "7:read"]));
        assert_eq!((rule(&table, "POST", "/v1/books/7:read"), rule(&table, "BREW", "/any")), (Some(4), Some(6)));
    }

    #[test]
    fn another_method_is_told_from_another_path() {
        let table = table(&[("GET", "/a/{b}"), ("PUT", "/a/{b}"), ("DELETE", "/a/c"), ("HEAD", "/h"), ("GET", "/h")]);
        let others = |method: &str, path: &str| match table.find(&method.parse().unwrap(), path, true) {
            Found::Others(mut methods) => {
                methods.sort_by_key(ToString::to_string);
                methods.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            }
            other => format!("{other:?}"),
        };
        assert_eq!((others("POST", "/a/b"), others("POST", "/a/c")), ("GET,PUT".to_owned(), "DELETE,GET,PUT".to_owned()));
        assert_eq!(others("POST", "/b"), "Nothing");
        // What is more general has the method that is asked for.
        assert_eq!(rule(&table, "PUT", "/a/c"), Some(1));
        assert_eq!(
            (rule(&table, "HEAD", "/a/b"), rule(&table, "HEAD", "/h"), rule(&table, "HEAD", "/a/c")),
            (Some(0), Some(3), Some(0))
        );
    }

    #[test]
    fn the_same_requests_have_one_rule() {
        let mut table = table(&[("GET", "/a/{b}/c"), ("GET", "/x/**")]);
        let add = |table: &mut Table, method, text| table.add(method, &Template::parse(text).unwrap(), 9);
        assert_eq!(add(&mut table, Verb::Is(Method::GET), "/a/*/c"), Some(0));
        assert_eq!(add(&mut table, Verb::Is(Method::GET), "/x/{y=**}"), Some(1));
        assert_eq!(add(&mut table, Verb::Is(Method::GET), "/x/{y=**}:z"), None);
        assert_eq!(add(&mut table, Verb::Any, "/a/*/c"), None);
        assert_eq!((rule(&table, "GET", "/a/b/c"), rule(&table, "PUT", "/a/b/c")), (Some(0), Some(9)));
    }

    #[test]
    fn a_lookup_is_cheap_whatever_is_asked() {
        // Every place has both ways on.
        let texts: Vec<String> =
            (0..1u32 << 10).map(|bits| (0..10).map(|at| if bits >> at & 1 == 1 { "/a" } else { "/*" }).collect()).collect();
        let rules: Vec<_> = texts.iter().map(|text| ("GET", text.as_str())).collect();
        let table = table(&rules);
        let before = std::time::Instant::now();
        for _ in 0..100 {
            assert_eq!(table.find(&Method::GET, &"/a".repeat(11), true), Found::Nothing);
        }
        assert!(before.elapsed() < std::time::Duration::from_secs(2), "{:?}", before.elapsed());
    }
}
