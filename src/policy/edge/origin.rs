//! Which web origins are meant: exact ones, those of a host's subdomains or of any port, and those that a regular expression takes.
//!
//! An origin is what browsers send as `Origin` (Fetch, "the Origin header"; RFC 6454): a scheme, a host and a port, in lower case and without
//! the scheme's own port. Anything else is nobody's origin, and is never taken.

use ahash::AHashSet;
use regex::bytes::{Regex, RegexBuilder};

use crate::authority::without_default_port;
use crate::head::RequestHead;
use crate::problem::{Place, Problem, Problems};
use crate::value::Spanned;

/// The longest value that is looked at: a scheme, the longest host there is, and a port.
const LONGEST: usize = 512;

/// What a compiled expression may take, in bytes.
const LARGEST_PATTERN: usize = 1 << 20;

/// A set of origins.
#[derive(Default)]
pub struct Origins {
    /// Every one, and requests that have none.
    everyone: bool,
    null: bool,
    exact: AHashSet<Box<[u8]>>,
    wild: Vec<Wild>,
    patterns: Vec<Regex>,
}

/// `https://*.example.com`, `http://localhost:*`.
struct Wild {
    scheme: Box<str>,
    host: Box<str>,
    /// The hosts below it, and not it.
    below: bool,
    /// `None`: any.
    port: Option<Box<str>>,
}

/// An origin's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    pub scheme: &'a str,
    pub host: &'a str,
    /// Without the colon; empty where there is none.
    pub port: &'a str,
}

impl<'a> Parts<'a> {
    /// The parts of an origin as browsers write it; `None` for anything else, `null` included.
    pub fn of(origin: &'a [u8]) -> Option<Parts<'a>> {
        let text = std::str::from_utf8(origin).ok().filter(|text| text.len() <= LONGEST)?;
        let (scheme, authority) = text.split_once("://")?;
        let port_at = authority.rfind(':').filter(|at| authority.get(*at..).is_some_and(|rest| !rest.contains(']')));
        let (host, port) =
            port_at.and_then(|at| Some((authority.get(..at)?, authority.get(at + 1..)?))).unwrap_or((authority, ""));
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'));
        let is_name = |host: &str| host.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_'));
        let is_address = |host: &str| host.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b':' | b'.'));
        let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => !address.is_empty() && is_address(address),
            None => !host.is_empty() && is_name(host),
        };
        let is_port = match port_at {
            Some(_) => port.parse::<u16>().is_ok() && port.bytes().all(|byte| byte.is_ascii_digit()),
            None => true,
        };
        (is_scheme && is_host && is_port).then_some(Parts { scheme, host, port })
    }

    /// The host, and the port where it is not the scheme's own.
    pub fn authority(origin: &'a [u8]) -> Option<(&'a str, &'a [u8])> {
        let parts = Parts::of(origin)?;
        let authority = origin.get(parts.scheme.len() + 3..)?;
        Some((parts.scheme, without_default_port(authority, parts.scheme)))
    }
}

/// The request's `Origin`; `None` where there is none, or more than one.
pub fn of(head: &RequestHead) -> Option<&[u8]> {
    let mut all = head.header_all("origin");
    let first = all.next()?;
    if all.next().is_some() { None } else { Some(first) }
}

impl Origins {
    /// What is written as origins, and as expressions for them. What is wrong goes to `problems`.
    pub fn compile(written: &[Spanned<String>], patterns: &[Spanned<String>], problems: &mut Problems) -> Origins {
        let mut origins = Origins::default();
        for text in written {
            if let Err((message, hint)) = origins.add(&text.value) {
                let problem = Problem::error(text.place, message);
                problems.push(if hint.is_empty() { problem } else { problem.hint(hint) });
            }
        }
        if origins.everyone && (written.len() > 1 || !patterns.is_empty()) {
            let place = written.iter().find(|text| text.value == "*").map_or(Place::NOWHERE, |text| text.place);
            problems.push(Problem::error(place, "`*` is every origin: it stands alone").hint("leave the others out, or the `*`"));
        }
        for text in patterns {
            match whole(&text.value) {
                Ok(pattern) => origins.patterns.push(pattern),
                Err(error) => {
                    let said = error.to_string();
                    let last = said.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
                    let problem = Problem::error(text.place, format!("this is no regular expression: {last}"));
                    problems.push(problem.hint("lookaround and backreferences are not there: no client may make matching slow"));
                }
            }
        }
        origins
    }

    fn add(&mut self, text: &str) -> Result<(), (String, &'static str)> {
        match text {
            "*" => self.everyone = true,
            "null" => self.null = true,
            _ => {
                let Some((scheme, rest)) = text.split_once("://") else {
                    return Err((
                        format!("`{text}` is no origin"),
                        "an origin has a scheme and a host: `https://app.example.com`",
                    ));
                };
                if rest.contains(['/', '?', '#']) {
                    return Err((
                        format!("`{text}` has a path, and origins have none"),
                        "write the scheme, the host and the port only",
                    ));
                }
                if rest.contains('@') {
                    return Err((format!("`{text}` is no origin"), "origins name no user"));
                }
                if !rest.is_ascii() {
                    return Err((format!("`{text}` is not as browsers write it"), "write the host in its ASCII form: `xn--...`"));
                }
                let lower = text.to_ascii_lowercase();
                let (any_port, bare) = match lower.strip_suffix(":*") {
                    Some(bare) => (true, bare.to_owned()),
                    None => (false, lower),
                };
                let scheme = scheme.to_ascii_lowercase();
                let below = bare.contains("://*.");
                let plain = bare.replacen("://*.", "://", 1);
                let Some(parts) = Parts::of(plain.as_bytes()) else {
                    let hint = "a `*` stands for subdomains (`https://*.example.com`) or for the port (`http://localhost:*`)";
                    return Err((format!("`{text}` is no origin"), if text.contains('*') { hint } else { "" }));
                };
                let own = match parts.scheme {
                    "https" => "443",
                    "http" => "80",
                    _ => "",
                };
                let port = if parts.port == own { "" } else { parts.port };
                if below || any_port {
                    let port = (!any_port).then(|| port.into());
                    self.wild.push(Wild { scheme: scheme.into(), host: parts.host.into(), below, port });
                } else {
                    let port = if port.is_empty() { String::new() } else { format!(":{port}") };
                    self.exact.insert(format!("{scheme}://{}{port}", parts.host).into_bytes().into());
                }
            }
        }
        Ok(())
    }

    pub fn is_everyone(&self) -> bool {
        self.everyone
    }

    /// Whether any page can pass for one of these: a frame that is sandboxed has the origin `null`.
    pub fn has_null(&self) -> bool {
        self.null
    }

    pub fn is_empty(&self) -> bool {
        !self.everyone && !self.null && self.exact.is_empty() && self.wild.is_empty() && self.patterns.is_empty()
    }

    /// Whether this value of `Origin` is one of them.
    pub fn contain(&self, origin: &[u8]) -> bool {
        if self.everyone || self.exact.contains(origin) {
            return true;
        }
        if origin == b"null" {
            return self.null;
        }
        if self.wild.is_empty() && self.patterns.is_empty() {
            return false;
        }
        let Some(parts) = Parts::of(origin) else { return false };
        self.wild.iter().any(|wild| wild.takes(&parts)) || self.patterns.iter().any(|pattern| pattern.is_match(origin))
    }
}

impl Wild {
    fn takes(&self, origin: &Parts<'_>) -> bool {
        let host = match self.below {
            true => {
                origin.host.strip_suffix(&*self.host).and_then(|rest| rest.strip_suffix('.')).is_some_and(|sub| !sub.is_empty())
            }
            false => origin.host == &*self.host,
        };
        host && origin.scheme == &*self.scheme && self.port.as_deref().is_none_or(|port| port == origin.port)
    }
}

/// The expression for the whole of a value: one that takes a part of it would take `https://example.com.evil.test` as well.
fn whole(pattern: &str) -> Result<Regex, regex::Error> {
    let build = |text: &str| RegexBuilder::new(text).size_limit(LARGEST_PATTERN).dfa_size_limit(LARGEST_PATTERN).build();
    build(pattern)?;
    build(&format!("^(?:{pattern})$"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(written: &[&str], patterns: &[&str]) -> Result<Origins, String> {
        let list = |texts: &[&str]| texts.iter().map(|text| Spanned::nowhere((*text).to_owned())).collect::<Vec<_>>();
        let mut problems = Problems::default();
        let origins = Origins::compile(&list(written), &list(patterns), &mut problems);
        problems.iter().next().map_or(Ok(origins), |problem| Err(problem.message.clone()))
    }

    #[test]
    fn exact_origins_are_compared_as_browsers_write_them() {
        let known =
            origins(&["https://App.example.com:443", "http://localhost:3000", "http://[::1]:80", "capacitor://localhost"], &[]);
        let known = known.unwrap();
        for origin in ["https://app.example.com", "http://localhost:3000", "http://[::1]", "capacitor://localhost"] {
            assert!(known.contain(origin.as_bytes()), "{origin}");
        }
        for origin in [
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil.test",
            "https://evil.test/https://app.example.com",
            "https://APP.example.com",
            "null",
            "",
        ] {
            assert!(!known.contain(origin.as_bytes()), "{origin}");
        }
    }

    #[test]
    fn patterns_take_whole_origins() {
        let known =
            origins(&["https://*.example.com", "http://localhost:*"], &[r"https://pr-[0-9]+\.preview\.test", "a|https://b"]);
        let known = known.unwrap();
        for origin in [
            "https://a.example.com",
            "https://a.b.example.com",
            "http://localhost",
            "http://localhost:1",
            "https://pr-7.preview.test",
            "https://b",
        ] {
            assert!(known.contain(origin.as_bytes()), "{origin}");
        }
        for origin in [
            "https://example.com",
            "https://.example.com",
            "https://evilexample.com",
            "https://a.example.com.evil.test",
            "https://a.example.com:8443",
            "https://evil.test#.example.com",
            "https://u@a.example.com",
            "http://localhost:99999",
            "http://localhost.evil.test:1",
            "https://pr-7.preview.test.evil.test",
            "https://pr-7xpreview.test",
            "https://bc",
        ] {
            assert!(!known.contain(origin.as_bytes()), "{origin}");
        }
    }

    #[test]
    fn what_no_browser_sends_is_refused() {
        for (written, what) in [
            ("app.example.com", "is no origin"),
            ("https://app.example.com/", "has a path"),
            ("https://", "is no origin"),
            ("https://a.*.com", "is no origin"),
            ("https://*", "is no origin"),
            ("https://u@a.test", "is no origin"),
            ("https://b\u{fc}cher.test", "not as browsers write it"),
            ("https://a:99999", "is no origin"),
        ] {
            assert!(origins(&[written], &[]).is_err_and(|why| why.contains(what)), "{written}");
        }
        assert!(origins(&["*", "https://a.test"], &[]).is_err_and(|why| why.contains("stands alone")));
        for pattern in ["(?=a)", r"(a)\1", "(", "(?:a{1000}){1000}"] {
            assert!(origins(&[], &[pattern]).is_err_and(|why| why.contains("no regular expression")), "{pattern}");
        }
    }
}
