//! The proved identity as the backend hears of it: four header fields that a client can never set.
//!
//! Whether they are believed is between the gateway and the backend's network; they are not signed.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::exchange::Identity;
use crate::head::{HeaderEdit, HeaderEdits, RequestHead};

pub static X_CONSUMER_NAME: HeaderName = HeaderName::from_static("x-consumer-name");
pub static X_AUTH_SUBJECT: HeaderName = HeaderName::from_static("x-auth-subject");
pub static X_AUTH_METHOD: HeaderName = HeaderName::from_static("x-auth-method");
pub static X_AUTH_SCOPES: HeaderName = HeaderName::from_static("x-auth-scopes");

/// Every field that says who the client is.
pub static IDENTITY_HEADERS: [&HeaderName; 4] = [&X_CONSUMER_NAME, &X_AUTH_SUBJECT, &X_AUTH_METHOD, &X_AUTH_SCOPES];

/// The longest value that goes upstream, in bytes after encoding. A longer one is left out: backends refuse whole requests for less.
pub const MAX_VALUE: usize = 4096;

/// Who a credential proves its bearer to be, and what the backend hears of it, prepared once for each credential.
#[derive(Debug)]
pub struct Proved {
    pub identity: Arc<Identity>,
    pub headers: IdentityHeaders,
    /// Fields that the method itself sets or removes, such as those from a token's claims.
    pub extra: Vec<HeaderEdit>,
}

impl Proved {
    pub fn new(identity: Identity) -> Self {
        Proved { headers: IdentityHeaders::of(&identity), identity: Arc::new(identity), extra: Vec::new() }
    }

    /// Tells the backend who it is. Without [`Proved::extra`].
    pub fn write(&self, edits: &mut HeaderEdits) {
        self.headers.write(self.identity.method, edits);
    }
}

/// The values for one identity, made once and then only shared.
#[derive(Debug, Clone, Default)]
pub struct IdentityHeaders {
    consumer: Option<HeaderValue>,
    subject: Option<HeaderValue>,
    scopes: Option<HeaderValue>,
}

impl IdentityHeaders {
    pub fn of(identity: &Identity) -> Self {
        let consumer = identity.consumer.as_deref().and_then(header_value);
        let subject = match identity.consumer.as_deref() {
            // An API key's subject is its consumer: share the bytes.
            Some(name) if *name == *identity.subject => consumer.clone(),
            _ => header_value(&identity.subject),
        };
        let scopes = (!identity.scopes.is_empty()).then(|| identity.scopes.join(" ")).and_then(|scopes| header_value(&scopes));
        IdentityHeaders { consumer, subject, scopes }
    }

    /// Replaces whatever the client sent under these names. What has no value is removed, never left alone.
    pub fn write(&self, method: &'static str, edits: &mut HeaderEdits) {
        edits.push(set_or_remove(&X_CONSUMER_NAME, self.consumer.as_ref()));
        edits.push(set_or_remove(&X_AUTH_SUBJECT, self.subject.as_ref()));
        edits.push(HeaderEdit::Set(X_AUTH_METHOD.clone(), HeaderValue::from_static(method)));
        edits.push(set_or_remove(&X_AUTH_SCOPES, self.scopes.as_ref()));
    }
}

pub fn set_or_remove(name: &HeaderName, value: Option<&HeaderValue>) -> HeaderEdit {
    match value {
        Some(value) => HeaderEdit::Set(name.clone(), value.clone()),
        None => HeaderEdit::Remove(name.clone()),
    }
}

/// `text` as a header value. What has no place in one is percent-encoded, and so is `%` itself, which makes it reversible.
/// `None` for nothing at all and for more than a backend would take.
pub fn header_value(text: &str) -> Option<HeaderValue> {
    let encoded = encode(text, |_| false);
    if encoded.is_empty() || encoded.len() > MAX_VALUE {
        return None;
    }
    HeaderValue::from_str(&encoded).ok()
}

/// Percent-encodes `%`, what `also` asks for, everything but printable ASCII, and the spaces at either end, which a header would lose.
pub fn encode(text: &str, also: impl Fn(u8) -> bool) -> Cow<'_, str> {
    let start = text.len() - text.trim_start_matches(' ').len();
    let end = text.trim_end_matches(' ').len();
    let plain = |(at, byte): (usize, u8)| match byte {
        b'%' => false,
        b' ' => start < at && at < end && !also(byte),
        0x21..=0x7e => !also(byte),
        _ => false,
    };
    if text.bytes().enumerate().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for (at, byte) in text.bytes().enumerate() {
        if plain((at, byte)) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase());
            }
        }
    }
    Cow::Owned(out)
}

/// Removes the client's fields that are one of `names` to a backend which reads `_` and `-` alike (CGI's variables do, RFC 3875,
/// section 4.1.18): `X_Auth_Subject` would forge `X-Auth-Subject`. The plain spellings are taken care of by exact edits.
pub fn remove_lookalikes<'a>(head: &RequestHead, names: impl Iterator<Item = &'a HeaderName> + Clone, edits: &mut HeaderEdits) {
    for (field, _) in head.headers() {
        if memchr::memchr(b'_', field).is_some()
            && names.clone().any(|name| looks_like(field, name.as_str().as_bytes()))
            && let Ok(field) = HeaderName::from_bytes(field)
        {
            edits.push(HeaderEdit::Remove(field));
        }
    }
}

fn looks_like(field: &[u8], name: &[u8]) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    field.len() == name.len() && field.iter().zip(name).all(|(left, right)| fold(*left) == fold(*right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_trip() {
        assert_eq!(header_value("Ada Lovelace").unwrap(), "Ada Lovelace");
        assert_eq!(header_value(" a\r\nX-Admin: 1 ").unwrap(), "%20a%0D%0AX-Admin: 1%20");
        assert_eq!(header_value("50%é").unwrap(), "50%25%C3%A9");
        assert_eq!(header_value("  ").unwrap(), "%20%20");
        assert!(header_value("").is_none());
        assert!(header_value(&"é".repeat(1000)).is_none());
    }

    #[test]
    fn underscores_do_not_help() {
        let head = RequestHead::build("GET", "/", &[("X_Auth_Subject", "admin"), ("x-auth_scopes", "root"), ("a_b", "1")]);
        let mut edits = HeaderEdits::new();
        remove_lookalikes(&head, IDENTITY_HEADERS.iter().copied(), &mut edits);
        let removed: Vec<_> = edits
            .iter()
            .map(|edit| match edit {
                HeaderEdit::Remove(name) => name.as_str(),
                _ => "",
            })
            .collect();
        assert_eq!(removed, ["x_auth_subject", "x-auth_scopes"]);
    }
}
