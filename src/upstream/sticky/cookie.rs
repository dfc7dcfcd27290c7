//! The cookie that tells where a session goes, and the cookies that endpoints set.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;

use super::Id;
use super::config::{SameSite, Secure};
use crate::carrier::cookie_values;
use crate::head::RequestHead;

/// The gateway's own.
pub struct OwnCookie {
    pub name: Box<str>,
    /// What stands behind the value, but for `Secure`.
    pub attributes: Box<str>,
    pub secure: Secure,
}

impl OwnCookie {
    /// `; Path=/; HttpOnly; SameSite=Lax` and the like.
    pub fn attributes(path: &str, max_age: Option<u64>, http_only: bool, same_site: SameSite) -> Box<str> {
        let mut text = format!("; Path={path}");
        if let Some(seconds) = max_age {
            text.push_str(&format!("; Max-Age={seconds}"));
        }
        if http_only {
            text.push_str("; HttpOnly");
        }
        text.push_str(match same_site {
            SameSite::Lax => "; SameSite=Lax",
            SameSite::Strict => "; SameSite=Strict",
            SameSite::None => "; SameSite=None",
        });
        text.into()
    }

    /// The first value that may be one of the gateway's.
    pub fn read(&self, head: &RequestHead) -> Option<Id> {
        cookie_values(head, &self.name).find_map(|value| {
            // The decoder wants room for a little more than there is.
            let mut bytes = [0; 24];
            let length = URL_SAFE_NO_PAD.decode_slice(value, &mut bytes).ok()?;
            bytes.first_chunk().filter(|bytes| bytes.len() == length).map(|bytes| Id::from_le_bytes(*bytes))
        })
    }

    /// `secure`: whether the client has come over TLS.
    pub fn write(&self, id: Id, secure: bool) -> Option<HeaderValue> {
        let value = URL_SAFE_NO_PAD.encode(id.to_le_bytes());
        let secure = match self.secure {
            Secure::Always => true,
            Secure::Never => false,
            Secure::Auto => secure,
        };
        let secure = if secure { "; Secure" } else { "" };
        HeaderValue::try_from(format!("{}={value}{}{secure}", self.name, self.attributes)).ok()
    }
}

/// The value that a `Set-Cookie` field gives the cookie of that name, unless it takes it away.
pub fn set_value<'a>(field: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut parts = field.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let value = parts.next()?.strip_prefix(name.as_bytes())?.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
    let ends = parts.any(|part| {
        let at = part.iter().position(|byte| *byte == b'=').unwrap_or(part.len());
        let (name, age) = part.split_at_checked(at).unwrap_or((part, b""));
        let age = age.strip_prefix(b"=").unwrap_or_default().trim_ascii();
        name.trim_ascii().eq_ignore_ascii_case(b"max-age") && (age == b"0" || age.starts_with(b"-"))
    });
    (!value.is_empty() && !ends).then_some(value)
}
