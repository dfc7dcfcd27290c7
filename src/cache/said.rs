//! What an answer says that counts for the cache, gathered in one walk over its fields: most of them say nothing of it.

use http::{StatusCode, Version};
use pingora_http::ResponseHeader;
use smallvec::SmallVec;

use super::stored::StoredHead;
use crate::wire::answer::AnswerHead;
use crate::wire::streams::is_stream;

/// The values of all fields of one name.
pub type Lines<'a> = SmallVec<[&'a [u8]; 2]>;

/// See the module.
#[derive(Debug)]
pub struct Said<'a> {
    pub status: StatusCode,
    pub version: Version,
    pub set_cookie: bool,
    pub transfer_encoding: bool,
    /// Its media type says that it ends when its parties say so.
    pub stream: bool,
    /// The first of each.
    pub content_length: Option<&'a [u8]>,
    pub date: Option<&'a [u8]>,
    /// Another one says something else.
    pub dates_differ: bool,
    pub last_modified: Option<&'a [u8]>,
    /// It can be validated.
    pub etag: bool,
    pub age: Lines<'a>,
    pub cache_control: Lines<'a>,
    /// `Portcullis-Cache-Control` and `CDN-Cache-Control`.
    pub own_control: Lines<'a>,
    pub cdn_control: Lines<'a>,
    pub expires: Lines<'a>,
    pub vary: Lines<'a>,
    /// Those that name tags.
    pub surrogate_key: Lines<'a>,
    pub cache_tag: Lines<'a>,
}

impl<'a> Said<'a> {
    fn new(status: StatusCode, version: Version) -> Self {
        Said {
            status,
            version,
            set_cookie: false,
            transfer_encoding: false,
            stream: false,
            content_length: None,
            date: None,
            dates_differ: false,
            last_modified: None,
            etag: false,
            age: Lines::new(),
            cache_control: Lines::new(),
            own_control: Lines::new(),
            cdn_control: Lines::new(),
            expires: Lines::new(),
            vary: Lines::new(),
            surrogate_key: Lines::new(),
            cache_tag: Lines::new(),
        }
    }

    pub fn by(answer: &'a AnswerHead) -> Self {
        let mut said = Said::new(answer.status, answer.version);
        answer.headers().for_each(|(name, value)| said.hear(name, value));
        said
    }

    pub fn by_header(answer: &'a ResponseHeader) -> Self {
        let mut said = Said::new(answer.status, answer.version);
        answer.headers.iter().for_each(|(name, value)| said.hear(name.as_str().as_bytes(), value.as_bytes()));
        said
    }

    pub fn by_stored(head: &'a StoredHead) -> Self {
        let mut said = Said::new(head.status, Version::HTTP_11);
        head.headers().for_each(|(name, value)| said.hear(name, value));
        said
    }

    /// Whether it bears tags.
    pub fn names_tags(&self) -> bool {
        !self.surrogate_key.is_empty() || !self.cache_tag.is_empty()
    }

    fn hear(&mut self, name: &[u8], value: &'a [u8]) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            3 if is("age") => self.age.push(value),
            4 if is("date") => self.dates_differ |= *self.date.get_or_insert(value) != value,
            4 if is("etag") => self.etag = true,
            4 if is("vary") => self.vary.push(value),
            7 if is("expires") => self.expires.push(value),
            9 if is("cache-tag") => self.cache_tag.push(value),
            10 if is("set-cookie") => self.set_cookie = true,
            11 if is("set-cookie2") => self.set_cookie = true,
            12 if is("content-type") => self.stream |= is_stream(value),
            13 if is("cache-control") => self.cache_control.push(value),
            13 if is("surrogate-key") => self.surrogate_key.push(value),
            13 if is("last-modified") => {
                self.last_modified.get_or_insert(value);
            }
            14 if is("content-length") => {
                self.content_length.get_or_insert(value);
            }
            17 if is("transfer-encoding") => self.transfer_encoding = true,
            17 if is("cdn-cache-control") => self.cdn_control.push(value),
            24 if is("portcullis-cache-control") => self.own_control.push(value),
            _ => {}
        }
    }
}
