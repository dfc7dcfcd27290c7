//! The target and the host that the service sees, where they are not the client's.
//!
//! What comes out is as canonical as what went in, because it is made of whole segments of a canonical path and of checked text; it
//! is not normalised again per request. The query is always kept as it is.

use super::config::RouteConfig;
use super::matcher::Matcher;
use super::pattern::{PathPattern, Segment, static_segment};
use crate::authority;
use crate::problem::{Problem, Problems};
use crate::value::Spanned;

/// A compiled `strip_prefix`, `rewrite` or `rewrite_host`.
#[derive(Debug, Clone)]
pub struct Rewrite {
    path: PathRewrite,
    /// By what the service's paths and the clients' differ. `None` where the one says nothing of the other.
    beginnings: Option<Beginnings>,
    host: Option<Box<str>>,
}

/// What the service's paths begin with, and so many segments of the client's in its place. What is behind them is the same.
#[derive(Debug, Clone, Default)]
struct Beginnings {
    inside: Box<[Piece]>,
    outside: usize,
}

#[derive(Debug, Clone)]
enum PathRewrite {
    Keep,
    /// Leaves so many leading segments out.
    Strip(usize),
    Template(Box<[Piece]>),
}

#[derive(Debug, Clone)]
enum Piece {
    /// Canonical, slashes included.
    Text(Box<str>),
    /// The client's segment at this position: where the parameter stands in the route's path.
    Param(usize),
    /// What is left of the client's path after so many segments, with its slash.
    Rest(usize),
}

impl Rewrite {
    /// Checks and compiles a route's rewriting. `None` if it asks for none, or if something is wrong with it, which then is in
    /// `problems`.
    pub fn compile(config: &RouteConfig, matcher: &Matcher, problems: &mut Problems) -> Option<Rewrite> {
        let path = match (&config.strip_prefix, &config.rewrite) {
            (None, None) => Ok((PathRewrite::Keep, Some(Beginnings::default()))),
            (Some(prefix), None) => located(prefix, "strip_prefix", strip(prefix, &matcher.path)),
            (None, Some(template)) => located(template, "rewrite", parse(template, &matcher.path)),
            (Some(prefix), Some(_)) => {
                let problem = Problem::error(prefix.place, "`strip_prefix` and `rewrite` both say what the service sees");
                Err(problem.hint("say it with `rewrite` alone"))
            }
        };
        let host = config.rewrite_host.as_ref().map(|host| located(host, "rewrite_host", check_host(host))).transpose();
        let path = path.map_err(|problem| problems.push(problem));
        let host = host.map_err(|problem| problems.push(problem));
        match (path.ok()?, host.ok()?) {
            ((PathRewrite::Keep, _), None) => None,
            ((path, beginnings), host) => Some(Rewrite { path, beginnings, host }),
        }
    }

    /// The `Host` that the service sees, if it is not the client's.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// What the service's paths begin with, and what the client's, of this canonical path, has in its place: nothing, or whole segments.
    /// `None` where the one says nothing of the other.
    pub fn beginnings<'p>(&self, path: &'p str) -> Option<(String, &'p str)> {
        let Beginnings { inside, outside } = self.beginnings.as_ref()?;
        let mut beginning = String::new();
        inside.iter().for_each(|piece| piece.push(path, &mut beginning));
        beginning.truncate(beginning.trim_end_matches('/').len());
        Some((beginning, first_segments(path, *outside)))
    }

    /// What has to be put before the service's paths for them to be the client's. `None` where that is not how they differ.
    pub fn prefix<'p>(&self, path: &'p str) -> Option<&'p str> {
        let beginnings = self.beginnings.as_ref()?;
        beginnings.inside.is_empty().then(|| first_segments(path, beginnings.outside))
    }

    /// The path and query that the service sees, or `None` if they are the client's. The parameters are found again by their
    /// position in the path, which must have been matched to this route; it may hold empty segments, which do not count.
    pub fn target(&self, path: &str, query: Option<&str>) -> Option<String> {
        let room = path.len() + query.map_or(0, |query| query.len() + 1);
        let mut target = String::with_capacity(room + 32);
        match &self.path {
            PathRewrite::Keep => return None,
            PathRewrite::Strip(count) => target.push_str(after_segments(path, *count)),
            PathRewrite::Template(pieces) => pieces.iter().for_each(|piece| piece.push(path, &mut target)),
        }
        if target.is_empty() {
            target.push('/');
        }
        if target == path {
            return None;
        }
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        Some(target)
    }
}

impl Piece {
    fn push(&self, path: &str, target: &mut String) {
        target.push_str(match self {
            Piece::Text(text) => text,
            Piece::Param(at) => segment_at(path, *at),
            Piece::Rest(count) => after_segments(path, *count),
        });
    }
}

fn located<T>(text: &Spanned<String>, key: &str, result: Result<T, String>) -> Result<T, Problem> {
    result.map_err(|why| Problem::error(text.place, format!("`{}` is no {key}: {why}", text.value)))
}

/// What follows the first `count` segments that are not empty: nothing, or all of it from its slash on.
fn after_segments(path: &str, count: usize) -> &str {
    let mut rest = path;
    for _ in 0..count {
        let segment = rest.trim_start_matches('/');
        let Some(end) = memchr::memchr(b'/', segment.as_bytes()) else { return "" };
        rest = segment.get(end..).unwrap_or_default();
    }
    rest
}

/// The first `count` segments of a canonical path, without a slash behind them.
fn first_segments(path: &str, count: usize) -> &str {
    let rest = after_segments(path, count).len();
    path.get(..path.len() - rest).unwrap_or_default().trim_end_matches('/')
}

fn segment_at(path: &str, at: usize) -> &str {
    after_segments(path, at).split('/').find(|segment| !segment.is_empty()).unwrap_or_default()
}

fn strip(prefix: &str, path: &PathPattern) -> Result<(PathRewrite, Option<Beginnings>), String> {
    let trimmed = prefix.strip_suffix("/*").or(prefix.strip_suffix('/')).unwrap_or(prefix);
    if trimmed.is_empty() {
        return Err("it strips nothing; leave it out".to_owned());
    }
    let prefix = PathPattern::parse(trimmed)?;
    if prefix.prefix || !path.segments.starts_with(&prefix.segments) {
        return Err(format!("the route's path `{path}` does not begin with these segments"));
    }
    let outside = prefix.segments.len();
    Ok((PathRewrite::Strip(outside), Some(Beginnings { inside: [].into(), outside })))
}

fn parse(template: &str, path: &PathPattern) -> Result<(PathRewrite, Option<Beginnings>), String> {
    let relative = template.strip_prefix('/').ok_or("a path begins with a slash")?;
    let (mut written, mut rest): (Vec<Vec<Piece>>, bool) = (Vec::new(), false);
    let mut segments = relative.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "*" | "{*}" if !last => return Err("the star stands at the end".to_owned()),
            "*" | "{*}" if !path.prefix => return Err(format!("the route's path `{path}` has no star to take it from")),
            "*" | "{*}" => rest = true,
            "" if !last => return Err("it holds an empty segment".to_owned()),
            segment => {
                let mut pieces = Vec::new();
                push_segment(segment, path, &mut pieces)?;
                written.push(pieces);
            }
        }
    }
    let beginnings = (path.prefix == rest).then(|| beginnings(&written, path));
    // Brings its own slash, or nothing.
    let rest = rest.then_some(Piece::Rest(path.segments.len()));
    Ok((PathRewrite::Template(join(slashed(&written).chain(rest))), beginnings))
}

fn slashed(segments: &[Vec<Piece>]) -> impl Iterator<Item = Piece> {
    segments.iter().flat_map(|pieces| std::iter::once(Piece::Text("/".into())).chain(pieces.iter().cloned()))
}

/// What is left of both when the segments are left out in which they end alike.
fn beginnings(written: &[Vec<Piece>], path: &PathPattern) -> Beginnings {
    let alike = |(pieces, (at, segment)): &(&Vec<Piece>, (usize, &Segment))| match (pieces.as_slice(), segment) {
        ([], Segment::Static(known)) => known.is_empty(),
        ([Piece::Text(text)], Segment::Static(known)) => text == known,
        ([Piece::Param(place)], Segment::Param(_)) => place == at,
        _ => false,
    };
    let segments = path.segments.iter().enumerate().rev();
    let common = written.iter().rev().zip(segments).take_while(alike).count();
    let inside = written.get(..written.len() - common).unwrap_or_default();
    Beginnings { inside: join(slashed(inside)), outside: path.segments.len() - common }
}

/// One segment: text, a parameter, or both as in `{sku}.json`.
fn push_segment(segment: &str, path: &PathPattern, pieces: &mut Vec<Piece>) -> Result<(), String> {
    let mixed = segment.contains('{');
    let mut rest = segment;
    while !rest.is_empty() {
        let (text, after) = rest.split_once('{').map_or((rest, None), |(text, after)| (text, Some(after)));
        if text.contains(['}', '*']) {
            return Err("a parameter is written {name}, and a star stands alone".to_owned());
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(static_text(text, mixed)?));
        }
        let Some(after) = after else { break };
        let (name, after) = after.split_once('}').ok_or("a brace is not closed")?;
        let is_param = |segment: &Segment| matches!(segment, Segment::Param(known) if **known == *name);
        let at = path.segments.iter().position(is_param);
        pieces.push(Piece::Param(at.ok_or_else(|| format!("the route's path `{path}` has no parameter {{{name}}}"))?));
        rest = after;
    }
    Ok(())
}

fn static_text(text: &str, mixed: bool) -> Result<Box<str>, String> {
    // Together with what a client sends, dots, escaped slashes and path parameters could become a dot segment again.
    if mixed && (text.contains(['%', ';']) || text.bytes().all(|byte| byte == b'.')) {
        return Err("beside a parameter in one segment, text needs more than dots and must not hold % or ;".to_owned());
    }
    static_segment(text)
}

fn join(pieces: impl Iterator<Item = Piece>) -> Box<[Piece]> {
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces {
        match (joined.last_mut(), piece) {
            (Some(Piece::Text(before)), Piece::Text(text)) => *before = format!("{before}{text}").into(),
            (_, piece) => joined.push(piece),
        }
    }
    joined.into()
}

fn check_host(host: &str) -> Result<Box<str>, String> {
    let canonical = authority::canonical(host.as_bytes()).ok_or("a host name is needed, with or without a port")?;
    Ok(canonical.text.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::path::normalise;

    fn compile(yaml: &str) -> (Option<Rewrite>, Problems) {
        let mut problems = Problems::default();
        let config = serde_yaml::from_str(yaml).unwrap();
        let matcher = Matcher::compile(&config, &mut problems).unwrap();
        (Rewrite::compile(&config, &matcher, &mut problems), problems)
    }

    fn target(yaml: &str, target: &str) -> Option<String> {
        let (rewrite, problems) = compile(yaml);
        assert!(problems.is_empty(), "{yaml}: {problems:?}");
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        rewrite.unwrap().target(path, query)
    }

    #[test]
    fn says_by_what_the_paths_differ() {
        for (yaml, path, inside, outside, prefix) in [
            ("{ path: /shop/*, strip_prefix: /shop }", "/shop/a/b", "", "/shop", Some("/shop")),
            ("{ path: /shop/*, strip_prefix: /shop }", "/shop", "", "/shop", Some("/shop")),
            ("{ path: '/t/{x}/*', strip_prefix: '/t/{x}' }", "/t/y/z", "", "/t/y", Some("/t/y")),
            ("{ path: /shop/*, rewrite: '/*' }", "/shop/a", "", "/shop", Some("/shop")),
            ("{ path: /shop/*, rewrite: '/v2/*' }", "/shop/a", "/v2", "/shop", None),
            ("{ path: /api/v2/*, rewrite: '/v2/*' }", "/api/v2/a", "", "/api", Some("/api")),
            ("{ path: '/items/{id}', rewrite: '/v2/items/{id}' }", "/items/7", "/v2", "", None),
            ("{ path: '/{t}/api/*', rewrite: '/of/{t}/*' }", "/acme/api/x", "/of/acme", "/acme/api", None),
            ("{ path: /a/, rewrite: /b/ }", "/a/", "/b", "/a", None),
            ("{ path: /a/, rewrite: /b }", "/a/", "/b", "/a", None),
            ("{ path: /*, rewrite_host: app.internal }", "/a", "", "", Some("")),
        ] {
            let rewrite = compile(yaml).0.unwrap();
            assert_eq!(rewrite.beginnings(path), Some((inside.to_owned(), outside)), "{yaml}");
            assert_eq!(rewrite.prefix(path), prefix, "{yaml}");
        }
        let everything = compile("{ path: /shop/*, rewrite: /index.html }").0.unwrap();
        assert_eq!((everything.beginnings("/shop/a"), everything.prefix("/shop/a")), (None, None));
    }

    #[test]
    fn strips_whole_segments() {
        for (path, prefix, from, to) in [
            ("/api/*", "/api", "/api/a", "/a"),
            ("/api/*", "/api/", "/api/a", "/a"),
            ("/api/*", "/api/*", "/api/a", "/a"),
            ("/api/*", "/api", "/api", "/"),
            ("/api/*", "/api", "/api/", "/"),
            ("/api/*", "/api", "/api/a/?b=c", "/a/?b=c"),
            ("/api/*", "/api", "/api?b", "/?b"),
            ("/api/v1/{x}", "/api/v1", "/api/v1/y", "/y"),
            ("/t/{x}/*", "/t/{x}", "/t/y/z", "/z"),
            ("/a/b", "/a/b", "/a/b", "/"),
            ("/a/", "/a", "/a/", "/"),
            // As where slashes are not merged.
            ("/api/*", "/api", "//api//a///b/", "//a///b/"),
            ("/api/*", "/api", "//api//", "//"),
            ("/t/{x}/*", "/t/{x}", "/t//y//z", "//z"),
        ] {
            let yaml = format!("path: '{path}'\nstrip_prefix: '{prefix}'");
            assert_eq!(target(&yaml, from).as_deref(), Some(to), "{path} {prefix} {from}");
        }
    }

    #[test]
    fn fills_templates() {
        for (path, template, from, to) in [
            ("/p/{sku}", "/v2/items/{sku}", "/p/7?q=1", Some("/v2/items/7?q=1")),
            ("/{a}/{b}", "/{b}/{a}/", "/x/y", Some("/y/x/")),
            ("/p/{sku}", "/i-{sku}.json", "/p/7%2F8", Some("/i-7%2F8.json")),
            ("/x/*", "/y/*", "/x", Some("/y")),
            ("/x/*", "/y/*", "/x/", Some("/y/")),
            ("/x/*", "/y/{*}", "/x/a/b", Some("/y/a/b")),
            ("/x/*", "/*", "/x", Some("/")),
            ("/x/*", "/*", "/x/a", Some("/a")),
            ("/x/*", "/fixed", "/x/a", Some("/fixed")),
            ("/x/{p}/*", "/{p}{p}/*", "/x/1/2", Some("/11/2")),
            ("/x", "/", "/x?", Some("/?")),
            ("/x/{p}/*", "/{p}/*", "//x//1//a//b", Some("/1//a//b")),
            ("/x/*", "/x/*", "/x/a", None),
            ("/x", "/caf\u{e9}/%7e", "/x", Some("/caf%C3%A9/~")),
        ] {
            let yaml = format!("path: '{path}'\nrewrite: '{template}'");
            assert_eq!(target(&yaml, from).as_deref(), to, "{path} {template} {from}");
        }
    }

    #[test]
    fn hosts() {
        let (rewrite, _) = compile("path: /\nrewrite_host: 'Backend.internal.:8080'");
        let rewrite = rewrite.unwrap();
        assert_eq!(rewrite.host(), Some("backend.internal:8080"));
        assert_eq!(rewrite.target("/", None), None);
        assert!(compile("path: /").0.is_none());
    }

    #[test]
    fn refuses_what_cannot_work() {
        for yaml in [
            "path: /api/*\nstrip_prefix: /ap",
            "path: /api/*\nstrip_prefix: /api/v1",
            "path: /api/*\nstrip_prefix: api",
            "path: /api/*\nstrip_prefix: /",
            "path: /{a}/*\nstrip_prefix: /{b}",
            "path: /api/*\nstrip_prefix: /api\nrewrite: /*",
            "path: /{a}\nrewrite: /{b}",
            "path: /{a}\nrewrite: /*",
            "path: /{a}\nrewrite: /{a",
            "path: /{a}\nrewrite: /a}",
            "path: /{a}\nrewrite: /..{a}",
            "path: /{a}\nrewrite: /{a};x",
            "path: /a/*\nrewrite: /*/b",
            "path: /a/*\nrewrite: /b*",
            "path: /a/*\nrewrite: b",
            "path: /a/*\nrewrite: //b",
            "path: /a/*\nrewrite: /b/../c",
            "path: /a/*\nrewrite: '/b?c=d'",
            "path: /a\nrewrite_host: 'a b'",
            "path: /a\nrewrite_host: ''",
            "path: /a\nrewrite_host: 'u@h'",
            "path: /a\nrewrite_host: 'http://h'",
        ] {
            let (rewrite, problems) = compile(yaml);
            assert!(rewrite.is_none() && problems.len() == 1, "{yaml} {problems:?}");
        }
    }

    proptest! {
        #[test]
        fn stays_canonical(one in "[a.;%2FfeEcC5]{1,6}", two in "[a.;%2FfeEcC5/]{0,8}") {
            let raw = format!("/x/{one}/{two}");
            let Ok(path) = normalise(raw.as_bytes()) else { return Ok(()) };
            let yaml = "path: '/x/{p}/*'\nrewrite: '/.a{p}{p}..b/{p}.x/*'";
            let matches = path.starts_with("/x/") && path.len() > 3;
            if matches && let Some(target) = target(yaml, &path) {
                let again = normalise(target.as_bytes());
                prop_assert_eq!(again.as_deref(), Ok(&*target));
            }
        }
    }
}
