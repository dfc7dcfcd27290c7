//! A token from its text to its claims: RFC 7519 in the compact serialisation of RFC 7515, with the advice of RFC 8725.
//!
//! Nothing in a payload is looked at before its signature was verified.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::Fault;
use super::json;
use super::key::VerifyKey;

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;

/// Header members that make a token refused. `crit` (RFC 7515, section 4.1.11) demands what this gateway does not implement, `b64`
/// (RFC 7797) included. `jwk`, `jku` and `x5u` bring or point to a key: no honest issuer needs them here, and an implementation that
/// followed them would let everybody sign. `x5c`, `x5t` and the like are common in honest tokens, and are never read.
const REFUSED_MEMBERS: [&str; 4] = ["crit", "jwk", "jku", "x5u"];

/// A token taken apart. Only the header was decoded.
pub struct Token<'a> {
    /// `header.payload`, which is what was signed.
    message: &'a [u8],
    payload: &'a [u8],
    signature: Vec<u8>,
    algorithm: Option<Algorithm>,
    kid: Option<String>,
    /// `typ`, without `application/`, in lower case.
    kind: Option<String>,
}

impl<'a> Token<'a> {
    pub fn parse(text: &'a [u8]) -> Result<Self, Fault> {
        if text.len() > MAX_TOKEN {
            return Err(Fault::TooLarge);
        }
        let mut parts = text.split(|&byte| byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Fault::Malformed);
        };
        let message = text.get(..header.len() + 1 + payload.len()).ok_or(Fault::Malformed)?;
        let mut header = json::object(&decode(header)?).ok_or(Fault::Malformed)?;
        if REFUSED_MEMBERS.iter().any(|name| header.contains_key(*name)) {
            return Err(Fault::UnsupportedHeader);
        }
        let Some(Value::String(algorithm)) = header.get("alg") else { return Err(Fault::Malformed) };
        let algorithm = algorithm.parse().ok();
        let kind = text_member(&mut header, "typ")?.map(|kind| normal_type(&kind));
        let kid = text_member(&mut header, "kid")?;
        // After `alg` was read: a stripped signature is best explained by `none`, which is refused as the algorithm it is.
        let signature = decode(signature)?;
        Ok(Token { message, payload, signature, algorithm, kid, kind })
    }

    /// What can be refused before any key is looked at.
    pub fn check_header(&self, types: &[Box<str>]) -> Result<(), Fault> {
        match &self.kind {
            Some(kind) if !types.iter().any(|known| **known == **kind) => Err(Fault::UnsupportedType),
            // `none`, in whatever case, is no algorithm at all.
            _ if self.algorithm.is_none() => Err(Fault::UnsupportedAlgorithm),
            _ => Ok(()),
        }
    }

    /// The claims, if one of `keys` signed them.
    pub fn claims<'k>(&self, keys: impl Iterator<Item = &'k VerifyKey>) -> Result<Map<String, Value>, Fault> {
        let suits = |key: &&VerifyKey| match (&key.id, &self.kid) {
            (Some(id), Some(kid)) => **id == **kid,
            _ => true,
        };
        let mut known = keys.filter(suits).peekable();
        if known.peek().is_none() {
            return Err(Fault::UnknownKey);
        }
        // A token cannot choose: the key says which algorithm it is for.
        let mut fitting = known.filter(|key| Some(key.algorithm) == self.algorithm).peekable();
        if fitting.peek().is_none() {
            return Err(Fault::UnsupportedAlgorithm);
        }
        if !fitting.any(|key| key.verifies(self.message, &self.signature)) {
            return Err(Fault::BadSignature);
        }
        json::object(&decode(self.payload)?).ok_or(Fault::Malformed)
    }
}

/// `typ` is a media type, whose `application/` may be left out, and which has no case (RFC 7515, section 4.1.9).
pub fn normal_type(kind: &str) -> String {
    let lower = kind.to_ascii_lowercase();
    lower.strip_prefix("application/").map(str::to_owned).unwrap_or(lower)
}

fn text_member(header: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Fault> {
    match header.get_mut(name).map(Value::take) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Fault::Malformed),
    }
}

/// Strict base64url (RFC 7515, section 2): no padding, no line breaks, and no stray bits in the last character, so that one token has
/// one text.
fn decode(text: &[u8]) -> Result<Vec<u8>, Fault> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Fault::Malformed)
}

/// A claim that is a NumericDate (RFC 7519, section 2): seconds since 1970, possibly with a fraction. What lies before 1970 is 0.
pub fn date(claims: &Map<String, Value>, name: &str, round: fn(f64) -> f64) -> Result<Option<u64>, Fault> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => match (number.as_u64(), number.as_f64()) {
            (Some(seconds), _) => Ok(Some(seconds)),
            // A float-to-integer cast saturates at both ends, which is what is wanted.
            (None, Some(seconds)) => Ok(Some(round(seconds) as u64)),
            (None, None) => Err(Fault::MalformedClaim),
        },
        Some(_) => Err(Fault::MalformedClaim),
    }
}

/// A claim that is a string, or a list of strings.
pub fn texts<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<Option<Vec<&'a str>>, Fault> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(vec![text])),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().ok_or(Fault::MalformedClaim)).collect::<Result<Vec<_>, _>>().map(Some)
        }
        Some(_) => Err(Fault::MalformedClaim),
    }
}

/// A claim by its name, or, where there is none of that name, by the path that its dots make (`realm_access.roles`).
pub fn lookup<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let mut steps = name.split('.');
        let first = claims.get(steps.next()?)?;
        steps.try_fold(first, |value, step| value.as_object()?.get(step))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_numbers() {
        let date = |json: &str, round| date(&json::object(json.as_bytes()).unwrap(), "exp", round);
        assert_eq!(date(r#"{"exp":10}"#, f64::floor), Ok(Some(10)));
        assert_eq!(date(r#"{"exp":10.9}"#, f64::floor), Ok(Some(10)));
        assert_eq!(date(r#"{"exp":10.1}"#, f64::ceil), Ok(Some(11)));
        assert_eq!(date(r#"{"exp":-5}"#, f64::floor), Ok(Some(0)));
        assert_eq!(date(r#"{"exp":1e300}"#, f64::floor), Ok(Some(u64::MAX)));
        assert_eq!(date(r#"{"exp":"10"}"#, f64::floor), Err(Fault::MalformedClaim));
        assert_eq!(date(r#"{"exp":null}"#, f64::floor), Err(Fault::MalformedClaim));
    }

    #[test]
    fn dots_make_a_path_only_where_no_name_has_them() {
        let claims = json::object(br#"{"a.b":1,"a":{"b":2,"c":{"d":3}}}"#).unwrap();
        assert_eq!(lookup(&claims, "a.b").unwrap(), 1);
        assert_eq!(lookup(&claims, "a.c.d").unwrap(), 3);
        assert!(lookup(&claims, "a.c.d.e").is_none() && lookup(&claims, "").is_none());
    }
}
