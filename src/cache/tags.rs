//! The tags that a service gives its answers, to have all that bear one purged at once: `Surrogate-Key: a b` (as Fastly has it) and
//! `Cache-Tag: a,b` (as Cloudflare has it).
//!
//! They are for this cache, so clients do not see them unless the route says so.

use std::sync::Arc;

use http::HeaderName;

use super::control::list_of;
use super::said::Said;

const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");

/// The fields that hold tags.
pub const FIELDS: [HeaderName; 2] = [SURROGATE_KEY, CACHE_TAG];

/// The longest tag, and the most that all of an answer's may have, in bytes.
pub const LONGEST: usize = 1024;
const MOST_BYTES: usize = 16 * 1024;
const MOST: usize = 1000;

/// No field has it, so none of its tags do.
const BETWEEN: char = '\n';

/// More, or longer ones, than any answer may have: what a purge might miss is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

/// An answer's tags, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tags(Arc<str>);

impl Tags {
    /// `None` if it has none, as most have.
    #[inline]
    pub fn of(said: &Said<'_>) -> Result<Option<Self>, TooMany> {
        if said.names_tags() { Tags::named(said) } else { Ok(None) }
    }

    fn named(said: &Said<'_>) -> Result<Option<Self>, TooMany> {
        let words = said.surrogate_key.iter().flat_map(|line| line.split(|&byte| byte == b' ' || byte == b'\t'));
        let members = said.cache_tag.iter().flat_map(|line| list_of(line));
        let mut found: Vec<&str> = Vec::new();
        let mut bytes = 0;
        for tag in words.filter(|word| !word.is_empty()).chain(members) {
            bytes += tag.len() + 1;
            // One that is no text could not be named in a purge.
            let tag = std::str::from_utf8(tag).map_err(|_| TooMany)?;
            if tag.len() > LONGEST || bytes > MOST_BYTES || found.len() >= MOST {
                return Err(TooMany);
            }
            found.push(tag);
        }
        found.sort_unstable();
        found.dedup();
        Ok((!found.is_empty()).then(|| Tags(found.join("\n").into())))
    }

    pub(super) fn as_text(&self) -> &str {
        &self.0
    }

    /// Of what [`Tags::as_text`] said.
    pub(super) fn of_text(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Tags(text.into()))
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(BETWEEN)
    }

    /// In bytes.
    pub fn weight(&self) -> usize {
        self.0.len() + 16
    }
}

/// Their names.
pub fn fields() -> [Box<[u8]>; 2] {
    FIELDS.map(|name| name.as_str().as_bytes().into())
}

/// Whether a field of an answer holds tags.
pub fn is_one(name: &[u8]) -> bool {
    match name.len() {
        9 => name.eq_ignore_ascii_case(CACHE_TAG.as_str().as_bytes()),
        13 => name.eq_ignore_ascii_case(SURROGATE_KEY.as_str().as_bytes()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora_http::ResponseHeader;

    fn tags(fields: &[(&'static str, &str)]) -> Result<Vec<String>, TooMany> {
        let mut answer = ResponseHeader::build(200, None).unwrap();
        for (name, value) in fields {
            answer.append_header(*name, *value).unwrap();
        }
        let tags = Tags::of(&Said::by_header(&answer))?;
        Ok(tags.iter().flat_map(Tags::iter).map(str::to_owned).collect())
    }

    #[test]
    fn both_fields_are_read_and_each_tag_counts_once() {
        let fields = [("surrogate-key", "b  a,x b"), ("cache-tag", "c, a ,,d"), ("Surrogate-Key", "e")];
        assert_eq!(tags(&fields).unwrap(), ["a", "a,x", "b", "c", "d", "e"]);
        assert!(tags(&[("surrogate-key", " "), ("cache-tag", ",")]).unwrap().is_empty());
        assert!(tags(&[("x", "a")]).unwrap().is_empty());
    }

    #[test]
    fn too_many_and_too_long_ones_are_refused() {
        let long = "x".repeat(LONGEST);
        assert_eq!(tags(&[("cache-tag", &long)]).unwrap().len(), 1);
        assert_eq!(tags(&[("cache-tag", &format!("{long}x"))]), Err(TooMany));
        let many = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(tags(&[("surrogate-key", &many(MOST))]).unwrap().len(), MOST);
        assert_eq!(tags(&[("surrogate-key", &many(MOST + 1))]), Err(TooMany));
        assert_eq!(tags(&[("surrogate-key", &vec![&*long; 17].join(" "))]), Err(TooMany));
    }
}
