//! Templates of paths as `google.api.http` has them:
//!
//! ```text
//! Template = "/" Segments [ ":" Verb ]
//! Segments = Segment { "/" Segment }
//! Segment  = "*" | "**" | Literal | "{" FieldPath [ "=" Segments ] "}"
//! ```
//!
//! `*` is one segment that is not empty; `**` is any number of segments and stands last.

use crate::path;

/// The most segments of a template.
const MOST_SEGMENTS: usize = 64;
const LONGEST: usize = 2048;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Canonical.
    Literal(Box<str>),
    One,
    /// All that is left.
    Rest,
}

/// Where in a path the value of a field is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// `book.name`.
    pub field: Box<str>,
    /// The first segment.
    pub from: usize,
    /// Behind the last one. `None`: it is the path's.
    pub to: Option<usize>,
    /// It may be several segments: then slashes that are part of one stay encoded.
    pub several: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template {
    pub segments: Vec<Segment>,
    pub variables: Vec<Variable>,
    pub verb: Option<Box<str>>,
}

impl Template {
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub fn parse(text: &str) -> Result<Template, String> {
        if text.len() > LONGEST {
            return Err(format!("a template has at most {LONGEST} bytes"));
        }
        let Some(rest) = text.strip_prefix('/') else { return Err("a template begins with a slash".to_owned()) };
        let mut template = Template::default();
        // A colon in a variable or before the last slash begins no verb.
        let last = rest.rfind(['/', '}']).map_or(0, |at| at + 1);
        let rest = match rest.get(last..).and_then(|end| end.rfind(':')) {
            None => rest,
            Some(at) => {
                let (path, verb) = rest.split_at(last + at);
                let verb = verb.get(1..).unwrap_or_default();
                template.verb = Some(literal(verb).ok_or("what stands behind the colon is a word such as `cancel`")?);
                path
            }
        };
        if !rest.is_empty() {
            template.segments(rest, true)?;
        }
        if template.segments.len() > MOST_SEGMENTS {
            return Err(format!("a template has at most {MOST_SEGMENTS} segments"));
        }
        let rest = template.segments.iter().position(|segment| *segment == Segment::Rest);
        if rest.is_some_and(|at| at + 1 < template.segments.len()) {
            return Err("`**` stands last, for it takes all that is left".to_owned());
        }
        let mut fields: Vec<&str> = template.variables.iter().map(|variable| &*variable.field).collect();
        fields.sort_unstable();
        if let Some([twice, _]) = fields.windows(2).find(|two| two.first() == two.last()) {
            return Err(format!("the field `{twice}` stands in it twice"));
        }
        Ok(template)
    }

    /// `variables`: there may be some.
    fn segments(&mut self, text: &str, variables: bool) -> Result<(), String> {
        let mut left = text;
        loop {
            let end =
                match left.strip_prefix('{') {
                    Some(inner) if variables => {
                        let close = inner.find('}').ok_or("a `{` has no `}`")?;
                        self.variable(inner.get(..close).unwrap_or_default())?;
                        close + 2
                    }
                    Some(_) => return Err("a variable has none inside".to_owned()),
                    None => {
                        let end = left.find('/').unwrap_or(left.len());
                        self.segments.push(match left.get(..end).unwrap_or_default() {
                            "*" => Segment::One,
                            "**" => Segment::Rest,
                            "" => return Err("a segment is empty".to_owned()),
                            word => Segment::Literal(literal(word).ok_or_else(|| {
                                format!("`{word}` is no segment: `*`, `**` and `{{field}}` stand for whole ones")
                            })?),
                        });
                        end
                    }
                };
            left = match left.get(end..).unwrap_or_default() {
                "" => return Ok(()),
                rest => rest.strip_prefix('/').ok_or("a variable is a whole segment, or several")?,
            };
        }
    }

    fn variable(&mut self, text: &str) -> Result<(), String> {
        let (field, pattern) = text.split_once('=').map_or((text, None), |(field, pattern)| (field, Some(pattern)));
        let word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !field.split('.').all(word) {
            return Err(format!("`{field}` names no field"));
        }
        let from = self.segments.len();
        self.segments(pattern.unwrap_or("*"), false)?;
        let several = self.segments.len() - from > 1 || self.segments.last() == Some(&Segment::Rest);
        let to = Some(self.segments.len()).filter(|_| self.segments.last() != Some(&Segment::Rest));
        self.variables.push(Variable { field: field.into(), from, to, several });
        Ok(())
    }
}

/// The one spelling of a segment that stands for itself.
fn literal(word: &str) -> Option<Box<str>> {
    if word.is_empty() || word.contains(['*', '{', '}', '/', '=']) {
        return None;
    }
    let canonical = path::normalise(format!("/{word}").as_bytes()).ok()?.into_owned();
    canonical.strip_prefix('/').filter(|word| !word.is_empty() && !word.contains('/')).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(word: &str) -> Segment {
        Segment::Literal(word.into())
    }

    fn variable(field: &str, from: usize, to: Option<usize>, several: bool) -> Variable {
        Variable { field: field.into(), from, to, several }
    }

    #[test]
    fn templates_are_taken_apart() {
        use Segment::{One, Rest};
        let parsed = |text| Template::parse(text).unwrap();
        let simple = parsed("/v1/books/{book}");
        assert_eq!(simple.segments, [literal("v1"), literal("books"), One]);
        assert_eq!((simple.variables, simple.verb), (vec![variable("book", 2, Some(3), false)], None));
        let named = parsed("/v1/{name=shelves/*/books/*}:read");
        assert_eq!(named.segments, [literal("v1"), literal("shelves"), One, literal("books"), One]);
        assert_eq!((named.variables, named.verb.as_deref()), (vec![variable("name", 1, Some(5), true)], Some("read")));
        let all = parsed("/{a.b=**}:x");
        assert_eq!((all.segments, all.variables), (vec![Rest], vec![variable("a.b", 0, None, true)]));
        let two = parsed("/{parent=projects/*}/{id}/**");
        assert_eq!(two.segments, [literal("projects"), One, One, Rest]);
        assert_eq!(two.variables, [variable("parent", 0, Some(2), true), variable("id", 2, Some(3), false)]);
        assert_eq!((parsed("/").segments, parsed("/:all").verb.as_deref()), (vec![], Some("all")));
        // One spelling, and a colon that is part of a variable's neighbour.
        assert_eq!(parsed("/caf%c3%a9/%61").segments, [literal("caf%C3%A9"), literal("a")]);
        assert_eq!(parsed("/a:b/c").segments, [literal("a:b"), literal("c")]);
    }

    #[test]
    fn what_is_no_template_is_told_why() {
        for (text, why) in [
            ("v1", "slash"),
            ("", "slash"),
            ("/a//b", "empty"),
            ("/a/", "empty"),
            ("/**/a", "stands last"),
            ("/{a=**}/b", "stands last"),
            ("/{a", "no `}`"),
            ("/{a={b}}", "none inside"),
            ("/{a}b", "whole segment"),
            ("/x{a}", "no segment"),
            ("/a*", "no segment"),
            ("/{}", "no field"),
            ("/{a..b}", "no field"),
            ("/{a}/{a}", "twice"),
            ("/a:", "colon"),
            ("/a/..", "no segment"),
            ("/a/b c", "no segment"),
        ] {
            let said = Template::parse(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
        assert!(Template::parse(&"/a".repeat(65)).is_err() && Template::parse(&"/a".repeat(64)).is_ok());
    }
}
