//! The signatures of RFC 7515, appendix A, and RFC 7520, section 4: what others sign must verify here, to the letter.

use jsonwebtoken::Algorithm;

use super::Fault;
use super::jwk::read_set;
use super::key::{JwtKeyConfig, VerifyKey};
use super::token::Token;
use crate::problem::{Place, Problems};

/// RFC 7515: `{"iss":"joe", "exp":1300819380, "http://example.com/is_root":true}`, with its line breaks.
const JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
/// RFC 7520: a sentence, which is no JSON.
const FRODO: &str = "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4";

const A2_KEY: &str = r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#;
const A2_SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const A3_KEY: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
const A3_SIGNATURE: &str = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

const BILBO: &str = r#"{"kty":"RSA","kid":"bilbo.baggins@hobbiton.example","use":"sig","n":"n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw","e":"AQAB"}"#;
const RS256_HEADER: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9";
const RS256_SIGNATURE: &str = "MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xuglII7PNDi84wnB-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9eRo4QPocSadnHXFxnt8Is9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcIe8u9ipH84ogoree7vjbU5y18kDquDg";
const PS384_HEADER: &str = "eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9";
const PS384_SIGNATURE: &str = "cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw";

fn published(key: &str, algorithm: Algorithm) -> Vec<VerifyKey> {
    read_set(format!("{{\"keys\":[{key}]}}").as_bytes(), &[algorithm]).unwrap()
}

fn shared(secret: &[u8]) -> Vec<VerifyKey> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("k"), secret).unwrap();
    let config: JwtKeyConfig = serde_json::from_value(serde_json::json!({ "secret": { "file": "k" } })).unwrap();
    let mut problems = Problems::default();
    let key = VerifyKey::compile(&config, &[Algorithm::HS256], folder.path(), Place::NOWHERE, &mut problems);
    vec![key.unwrap_or_else(|| panic!("{problems:?}"))]
}

fn decoded(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// Whether the keys' owner signed the token. RFC 7520's payload is no set of claims, which is found out after that.
fn judge(token: &str, keys: &[VerifyKey]) -> Result<(), Fault> {
    let token = Token::parse(token.as_bytes())?;
    token.check_header(&["jwt".into()])?;
    token.claims(keys.iter()).map(drop)
}

/// The last character but one, changed.
fn bent(token: &str) -> String {
    let at = token.len() - 2;
    let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
    format!("{}{other}{}", &token[..at], &token[at + 1..])
}

#[test]
fn rfc_7515() {
    let secret = decoded("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow");
    for (name, header, signature, keys) in [
        ("A.1", "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", shared(&secret)),
        ("A.2", "eyJhbGciOiJSUzI1NiJ9", A2_SIGNATURE, published(A2_KEY, Algorithm::RS256)),
        ("A.3", "eyJhbGciOiJFUzI1NiJ9", A3_SIGNATURE, published(A3_KEY, Algorithm::ES256)),
    ] {
        let token = format!("{header}.{JOE}.{signature}");
        assert_eq!(judge(&token, &keys), Ok(()), "{name}");
        assert_eq!(judge(&bent(&token), &keys), Err(Fault::BadSignature), "{name}, bent");
        assert_eq!(judge(&format!("eyJhbGciOiJub25lIn0.{JOE}."), &keys), Err(Fault::UnsupportedAlgorithm), "A.5: unsecured");
    }
    // A.4 is ES512 on P-521, which is not supported: neither the key nor the token.
    let p521 = r#"{"keys":[{"kty":"EC","crv":"P-521","x":"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk","y":"ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"}]}"#;
    assert!(read_set(p521.as_bytes(), &[]).is_err());
    let es512 = "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
    assert_eq!(judge(es512, &published(A3_KEY, Algorithm::ES256)), Err(Fault::UnsupportedAlgorithm));
    // A.6 and A.7 are the JSON serialisations, which no token in a request has.
    let json = format!(r#"{{"payload":"{JOE}","protected":"eyJhbGciOiJFUzI1NiJ9","signature":"{A3_SIGNATURE}"}}"#);
    assert_eq!(judge(&json, &published(A3_KEY, Algorithm::ES256)), Err(Fault::Malformed));
}

#[test]
fn rfc_7520() {
    let secret = decoded("hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg");
    let hs256 = "eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9";
    let detached = "s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0";
    for (name, header, signature, keys) in [
        ("4.1", RS256_HEADER, RS256_SIGNATURE, published(BILBO, Algorithm::RS256)),
        ("4.2", PS384_HEADER, PS384_SIGNATURE, published(BILBO, Algorithm::PS384)),
        ("4.4", hs256, detached, shared(&secret)),
    ] {
        let token = format!("{header}.{FRODO}.{signature}");
        assert_eq!(judge(&token, &keys), Err(Fault::Malformed), "{name}: signed well, but no claims");
        assert_eq!(judge(&bent(&token), &keys), Err(Fault::BadSignature), "{name}, bent");
        assert_eq!(judge(&format!("{header}..{signature}"), &keys), Err(Fault::BadSignature), "{name}, as 4.5: detached");
    }
    // One key, one algorithm: the same key's other signature is refused.
    let token = format!("{PS384_HEADER}.{FRODO}.{PS384_SIGNATURE}");
    assert_eq!(judge(&token, &published(BILBO, Algorithm::RS256)), Err(Fault::UnsupportedAlgorithm));
    let es512 = format!(
        "eyJhbGciOiJFUzUxMiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.{FRODO}.AE_R_YZCChjn4791jSQCrdPZCNYqHXCTZH0-JZGYNlaAjP2kqaluUIIUnC9qvbu9Plon7KRTzoNEuT4Va2cmL1eJAQy3mtPBu_u_sDDyYjnAMDxXPn7XrT0lw-kvAD890jl8e2puQens_IEKBpHABlsbEPX6sFY8OcGDqoRuBomu9xQ2"
    );
    assert_eq!(judge(&es512, &published(BILBO, Algorithm::RS256)), Err(Fault::UnsupportedAlgorithm), "4.3");
}
