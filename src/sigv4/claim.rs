//! A signature as a request brings it: in its `Authorization` field, or in its query.

use std::borrow::Cow;

use super::{ALGORITHM, Scope, TERMINATOR, read_stamp};
use crate::carrier::decode;

/// The most fields that one signature covers.
const MOST_FIELDS: usize = 100;
/// The longest time that a presigned request may be good for: a week.
const LONGEST: u64 = 604_800;

/// What is claimed of a request. Nothing of it is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub key_id: String,
    /// The day within the scope.
    day: String,
    pub region: String,
    pub service: String,
    /// The names of the signed fields, in lower case and sorted, each once.
    pub fields: Vec<String>,
    pub signature: Vec<u8>,
}

/// What a query says beside that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presigned {
    pub claim: Claim,
    /// When it was signed, as it says.
    pub at: String,
    /// For how many seconds from then on it is good.
    pub expires: u64,
    /// The query without the signature: what was signed.
    pub signed: String,
    /// A temporary key's token.
    pub token: Option<String>,
}

impl Claim {
    /// Reads an `Authorization` field. `None` if it is no such claim, or is not well-formed.
    pub fn read(authorization: &str) -> Option<Claim> {
        let rest = authorization.strip_prefix(ALGORITHM)?;
        let (mut credential, mut fields, mut signature) = (None, None, None);
        for part in rest.strip_prefix(' ')?.split(',') {
            let (name, value) = part.trim().split_once('=')?;
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut fields,
                "Signature" => &mut signature,
                _ => return None,
            };
            if place.replace(value).is_some() {
                return None;
            }
        }
        Claim::of(credential?, fields?, signature?)
    }

    fn of(credential: &str, fields: &str, signature: &str) -> Option<Claim> {
        // A key's id may have slashes: the four parts behind it have none.
        let mut parts = credential.rsplitn(5, '/');
        let (end, service, region, day, key_id) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_day = day.len() == 8 && day.bytes().all(|byte| byte.is_ascii_digit());
        let is_one = |text: &str| !text.is_empty() && text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_graphic());
        if end != TERMINATOR || !is_day || ![service, region, key_id].into_iter().all(is_one) {
            return None;
        }
        let fields: Vec<String> = fields.split(';').map(str::to_owned).collect();
        let is_name = |name: &String| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
            !name.is_empty() && name.bytes().all(plain)
        };
        let sorted = fields.windows(2).all(|pair| pair.first() < pair.last());
        if fields.len() > MOST_FIELDS || !sorted || !fields.iter().all(is_name) {
            return None;
        }
        Some(Claim {
            key_id: key_id.to_owned(),
            day: day.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
            fields,
            signature: digits(signature)?,
        })
    }

    /// The scope, for a signature of this time. `None` if it is of another day than the scope.
    pub fn scope<'a>(&'a self, at: &'a str) -> Option<Scope<'a>> {
        let scope = Scope { at, region: &self.region, service: &self.service };
        (scope.day() == self.day).then_some(scope)
    }

    pub fn covers(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field == name)
    }
}

/// Whether a query has a signature in it.
pub fn is_presigned(query: &str) -> bool {
    query.split('&').any(|pair| *name_of(pair) == *b"X-Amz-Signature")
}

impl Presigned {
    /// Reads a query that [has a signature](is_presigned). `None` if it is not well-formed.
    pub fn read(query: &str) -> Option<Presigned> {
        let (mut algorithm, mut credential, mut at, mut expires) = (None, None, None, None);
        let (mut fields, mut signature, mut token) = (None, None, None);
        let mut signed = Vec::new();
        for pair in query.split('&') {
            let place = match &*name_of(pair) {
                b"X-Amz-Algorithm" => Some(&mut algorithm),
                b"X-Amz-Credential" => Some(&mut credential),
                b"X-Amz-Date" => Some(&mut at),
                b"X-Amz-Expires" => Some(&mut expires),
                b"X-Amz-SignedHeaders" => Some(&mut fields),
                b"X-Amz-Security-Token" => Some(&mut token),
                b"X-Amz-Signature" => Some(&mut signature),
                _ => None,
            };
            let is_signature = *name_of(pair) == *b"X-Amz-Signature";
            if let Some(place) = place {
                let value = pair.split_once('=').map_or("", |(_, value)| value);
                if place.replace(String::from_utf8(decode(value).into_owned()).ok()?).is_some() {
                    return None;
                }
            }
            if !is_signature {
                signed.push(pair);
            }
        }
        let at = at?;
        read_stamp(&at)?;
        let expires: u64 = expires.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()?;
        if algorithm? != ALGORITHM || !(1..=LONGEST).contains(&expires) {
            return None;
        }
        let claim = Claim::of(&credential?, &fields?, &signature?)?;
        Some(Presigned { claim, at, expires, signed: signed.join("&"), token })
    }
}

fn name_of(pair: &str) -> Cow<'_, [u8]> {
    decode(pair.split('=').next().unwrap_or_default())
}

/// 32 bytes in hexadecimal digits, in lower case as everybody writes them.
fn digits(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    (0..32).map(|at| u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()).collect()
}
