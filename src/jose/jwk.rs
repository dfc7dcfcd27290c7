//! A published set of keys (JWK Set, RFC 7517) read into keys that can check signatures.
//!
//! Only public keys of signatures count. A shared secret (`oct`) that somebody published is nobody's secret any more, and a key for
//! encryption is none for signatures; both are passed over, as are keys of types that are not known, which section 5 asks for.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::json;
use super::key::{RSA, VerifyKey};

/// The most keys of a set that are used. A token that names none is tried with all of its algorithm.
pub const MAX_KEYS: usize = 64;

/// The keys of a set, each for one algorithm: the one that the set names; or, of those that suit the key's type, the `allowed` ones;
/// or, where nothing was said, the customary one.
///
/// # Errors
///
/// It is no JWK Set, or none of its keys can be used: a sentence for the log.
pub fn read_set(body: &[u8], allowed: &[Algorithm]) -> Result<Vec<VerifyKey>, &'static str> {
    let set = json::object(body).ok_or("it is no JSON object, or has a member twice")?;
    let Some(Value::Array(keys)) = set.get("keys") else { return Err("it has no list `keys`") };
    let mut usable: Vec<VerifyKey> = keys.iter().filter_map(Value::as_object).flat_map(|key| read_key(key, allowed)).collect();
    if usable.is_empty() {
        return Err("none of its keys can check a token");
    }
    usable.truncate(MAX_KEYS);
    Ok(usable)
}

fn read_key(key: &Map<String, Value>, allowed: &[Algorithm]) -> Vec<VerifyKey> {
    usable(key, allowed).unwrap_or_default()
}

fn usable(key: &Map<String, Value>, allowed: &[Algorithm]) -> Option<Vec<VerifyKey>> {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    if key.contains_key("use") && text("use") != Some("sig") {
        return None;
    }
    if let Some(operations) = key.get("key_ops") {
        operations.as_array()?.iter().find(|operation| operation.as_str() == Some("verify"))?;
    }
    let (suits, material): (&[Algorithm], Vec<u8>) = match (text("kty")?, text("crv")) {
        ("RSA", _) => (&RSA, rsa_public_key(&number(text("n")?)?, &number(text("e")?)?)),
        ("EC", Some("P-256")) => (&[Algorithm::ES256], point(text("x")?, text("y")?, 32)?),
        ("EC", Some("P-384")) => (&[Algorithm::ES384], point(text("x")?, text("y")?, 48)?),
        ("OKP", Some("Ed25519")) => (&[Algorithm::EdDSA], bytes(text("x")?).filter(|x| x.len() == 32)?),
        _ => return None,
    };
    let algorithms: Vec<Algorithm> = match key.get("alg") {
        // RFC 9864 gives EdDSA on this curve a name of its own.
        Some(Value::String(name)) if name == "Ed25519" => vec![Algorithm::EdDSA],
        Some(named) => vec![named.as_str()?.parse().ok()?],
        None if allowed.is_empty() => suits.first().copied().into_iter().collect(),
        None => suits.to_vec(),
    };
    let pinned = algorithms.into_iter().filter(|name| suits.contains(name) && (allowed.is_empty() || allowed.contains(name)));
    Some(pinned.filter_map(|algorithm| VerifyKey::published(text("kid"), algorithm, &material)).collect())
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// A whole number, its leading zeros gone: some publish the sign's zero, although RFC 7518, section 6.3.1.1, forbids it.
fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = bytes(text)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).filter(|rest| !rest.is_empty()).map(<[u8]>::to_vec)
}

/// An uncompressed point (SEC 1, section 2.3.3). The coordinates have the curve's full size (RFC 7518, section 6.2.1.2).
fn point(x: &str, y: &str, size: usize) -> Option<Vec<u8>> {
    let (x, y) = (bytes(x)?, bytes(y)?);
    (x.len() == size && y.len() == size).then(|| [&[4][..], &x, &y].concat())
}

/// RSAPublicKey (RFC 8017, appendix A.1.1) in DER.
fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let integer = |number: &[u8]| {
        // A first bit that is set would make it negative.
        let padded =
            if number.first().is_some_and(|first| first & 0x80 != 0) { [&[0][..], number].concat() } else { number.to_vec() };
        der(0x02, &padded)
    };
    der(0x30, &[integer(modulus), integer(exponent)].concat())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let short = u8::try_from(content.len()).ok().filter(|length| *length < 0x80);
    let mut out = vec![tag];
    match short {
        Some(length) => out.push(length),
        None => {
            let significant = length.iter().skip_while(|byte| **byte == 0);
            out.push(0x80 | u8::try_from(significant.clone().count()).unwrap_or_default());
            out.extend(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The keys of RFC 7517, appendix A.1, and RFC 8037, appendix A.2.
    const EC: &str = r#""kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM""#;
    const RSA_KEY: &str = r#""kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB""#;
    const ED: &str = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;

    fn set(keys: &[String]) -> String {
        format!("{{\"keys\":[{}]}}", keys.join(","))
    }

    fn read(keys: &[String], allowed: &[Algorithm]) -> Vec<(Option<String>, Algorithm)> {
        let keys = read_set(set(keys).as_bytes(), allowed).unwrap_or_default();
        keys.iter().map(|key| (key.id.as_deref().map(str::to_owned), key.algorithm)).collect()
    }

    fn one(key: &str, extra: &str, allowed: &[Algorithm]) -> Vec<Algorithm> {
        read(&[format!("{{{key}{extra}}}")], allowed).into_iter().map(|(_, algorithm)| algorithm).collect()
    }

    #[test]
    fn every_key_has_one_algorithm() {
        let all = [format!("{{{EC},\"kid\":\"a\"}}"), format!("{{{RSA_KEY}}}"), format!("{{{ED},\"kid\":\"c\"}}")];
        assert_eq!(
            read(&all, &[]),
            [(Some("a".into()), Algorithm::ES256), (None, Algorithm::RS256), (Some("c".into()), Algorithm::EdDSA)]
        );
        assert_eq!(one(RSA_KEY, r#","alg":"PS384""#, &[]), [Algorithm::PS384]);
        assert_eq!(one(ED, r#","alg":"Ed25519""#, &[]), [Algorithm::EdDSA]);
        assert_eq!(
            one(RSA_KEY, "", &[Algorithm::PS256, Algorithm::RS512, Algorithm::ES256]),
            [Algorithm::RS512, Algorithm::PS256]
        );
        assert_eq!(one(EC, r#","use":"sig","key_ops":["verify","x"]"#, &[Algorithm::ES256]), [Algorithm::ES256]);
    }

    #[test]
    fn what_is_no_key_for_signatures_is_passed_over() {
        for (key, extra) in [
            (EC, r#","use":"enc""#),
            (EC, r#","use":7"#),
            (EC, r#","key_ops":["sign"]"#),
            (EC, r#","key_ops":"verify""#),
            (EC, r#","alg":"ES384""#),
            (EC, r#","alg":"HS256""#),
            (EC, r#","alg":"none""#),
            (EC, r#","alg":["ES256"]"#),
            (RSA_KEY, r#","alg":"RSA-OAEP""#),
            (
                r#""kty":"oct","alg":"HS256","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow""#,
                "",
            ),
            (r#""kty":"EC","crv":"P-521","x":"AA","y":"AA""#, ""),
            (
                r#""kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4""#,
                "",
            ),
            (
                r#""kty":"EC","crv":"P-384","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM""#,
                "",
            ),
            (r#""kty":"OKP","crv":"X25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#, ""),
            (r#""kty":"RSA","n":"AQAB","e":"AQAB""#, ""),
            (r#""kty":"RSA","e":"AQAB""#, ""),
            (r#""kty":1"#, ""),
        ] {
            assert_eq!(one(key, extra, &[]), [], "{key}{extra}");
        }
        assert_eq!(one(RSA_KEY, "", &[Algorithm::ES256]), [], "an algorithm that is not allowed");
    }

    #[test]
    fn a_set_without_a_usable_key_is_none() {
        for body in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#, r#"{"keys":[1,{}]}"#, r#"{"keys":[],"keys":[]}"#] {
            assert!(read_set(body.as_bytes(), &[]).is_err(), "{body}");
        }
        let many: Vec<String> = (0..200).map(|n| format!("{{{EC},\"kid\":\"{n}\"}}")).collect();
        assert_eq!(read(&many, &[]).len(), MAX_KEYS);
        assert!(read_set(json!({ "keys": [1] }).to_string().as_bytes(), &[]).is_err());
    }
}
