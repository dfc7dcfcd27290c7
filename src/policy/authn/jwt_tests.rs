//! Tokens under attack, with real keys made here.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::json;

use super::tests::{Lab, NOW, run, upstream};
use super::token_cache::TokenCache;
use super::*;

const SECRET: [u8; 64] = [b's'; 64];

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn signed(header: &str, payload: &[u8], key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", b64(header), b64(payload));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn with_header(header: &str, payload: &str) -> String {
    signed(header, payload.as_bytes(), &EncodingKey::from_secret(&SECRET), Algorithm::HS256)
}

pub fn hs256(payload: &str) -> String {
    with_header(r#"{"alg":"HS256","typ":"JWT"}"#, payload)
}

fn good() -> String {
    format!(r#"{{"sub":"u1","exp":{}}}"#, NOW + 100)
}

fn claims(extra: &str) -> String {
    format!(r#"{{"sub":"u1","exp":{},{extra}}}"#, NOW + 100)
}

fn config(extra: serde_json::Value) -> serde_json::Value {
    let mut jwt = json!({ "keys": [{ "id": "k1", "secret": { "file": "secret" }, "algorithm": "HS256" }] });
    jwt.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({ "jwt": jwt })
}

fn policy(lab: &Lab, extra: serde_json::Value) -> Authn {
    lab.compile(config(extra))
}

/// The cache of every policy with this configuration.
fn cache(lab: &Lab, config: &serde_json::Value) -> Option<Arc<TokenCache>> {
    let config: AuthnConfig = serde_json::from_value(config.clone()).unwrap();
    let mut problems = Default::default();
    let mut cx = crate::policy::testing::context(&mut problems, "test", &lab.ledger, &lab.consumers, lab.folder.path());
    let capacity = capacity(&config, &mut cx).unwrap();
    BearerMethod::compile_all(&config, capacity, &mut cx).unwrap().remove(0).cache().cloned()
}

fn reason_at(policy: &Authn, token: &str, now: u64) -> &'static str {
    run(policy, "/", &[("authorization", &format!("Bearer {token}"))], now).map_or_else(|reply| reply.reason, |_| "ok")
}

fn reason(policy: &Authn, token: &str) -> &'static str {
    reason_at(policy, token, NOW)
}

fn identity(policy: &Authn, token: &str) -> Arc<Identity> {
    run(policy, "/", &[("authorization", &format!("Bearer {token}"))], NOW)
        .unwrap_or_else(|reply| panic!("{reply:?}"))
        .identity
        .unwrap()
}

#[test]
fn every_algorithm_is_accepted_and_no_other_beside_it() {
    let lab = Lab::new();
    let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let p256 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    for (name, pair) in [("rsa", &rsa), ("p256", &p256), ("p384", &p384), ("ed", &ed)] {
        lab.write(name, pair.public_key_pem());
    }
    let hmac = EncodingKey::from_secret(&SECRET);
    let rsa_key = EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap();
    let ec = |pair: &rcgen::KeyPair| EncodingKey::from_ec_der(&pair.serialize_der());
    let cases = [
        ("HS256", "secret", hmac.clone()),
        ("HS384", "secret", hmac.clone()),
        ("HS512", "secret", hmac),
        ("RS256", "rsa", rsa_key.clone()),
        ("RS384", "rsa", rsa_key.clone()),
        ("RS512", "rsa", rsa_key.clone()),
        ("PS256", "rsa", rsa_key.clone()),
        ("PS384", "rsa", rsa_key.clone()),
        ("PS512", "rsa", rsa_key),
        ("ES256", "p256", ec(&p256)),
        ("ES384", "p384", ec(&p384)),
        ("EdDSA", "ed", EncodingKey::from_ed_der(&ed.serialize_der())),
    ];
    let tokens: Vec<(&str, String)> = cases
        .iter()
        .map(|(name, _, key)| (*name, signed(&format!(r#"{{"alg":"{name}"}}"#), good().as_bytes(), key, name.parse().unwrap())))
        .collect();
    for (name, file, _) in &cases {
        let source = if *file == "secret" { "secret" } else { "public_key" };
        let policy = lab.compile(json!({ "jwt": { "keys": [{ source: { "file": file }, "algorithm": name }] } }));
        for (other, token) in &tokens {
            let expected = if other == name { "ok" } else { "unsupported_algorithm" };
            assert_eq!(reason(&policy, token), expected, "{name} key, {other} token");
        }
    }
    // An elliptic curve's signature is two numbers of fixed size here (RFC 7518, section 3.4), never DER; and a PEM tells its curve.
    let implied =
        lab.compile(json!({ "jwt": { "keys": [{ "public_key": { "file": "p384" } }, { "public_key": { "file": "rsa" } }] } }));
    assert_eq!(reason(&implied, &tokens[10].1), "ok");
    assert_eq!(reason(&implied, &tokens[3].1), "ok");
    assert_eq!(reason(&implied, &tokens[6].1), "unsupported_algorithm");
    let confused = signed(
        r#"{"alg":"HS256"}"#,
        good().as_bytes(),
        &EncodingKey::from_secret(rsa.public_key_pem().as_bytes()),
        Algorithm::HS256,
    );
    assert_eq!(reason(&implied, &confused), "unsupported_algorithm", "the public key as an HMAC secret");
}

#[test]
fn unsigned_and_tampered_tokens_are_refused() {
    let policy = policy(&Lab::new(), json!({}));
    for none in ["none", "None", "NONE", "nOnE"] {
        let header = format!(r#"{{"alg":"{none}"}}"#);
        assert_eq!(reason(&policy, &format!("{}.{}.", b64(&header), b64(good()))), "unsupported_algorithm");
        assert_eq!(reason(&policy, &with_header(&header, &good())), "unsupported_algorithm");
    }
    let token = hs256(&good());
    assert_eq!(reason(&policy, &token), "ok");
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = message.split_once('.').unwrap();
    assert_eq!(reason(&policy, &format!("{message}.")), "bad_signature");
    assert_eq!(reason(&policy, message), "malformed_token");
    assert_eq!(reason(&policy, &format!("{token}.")), "malformed_token");
    assert_eq!(reason(&policy, &format!("{token}.a.b")), "malformed_token", "five parts are an encrypted token");
    let admin = b64(format!(r#"{{"sub":"admin","exp":{}}}"#, NOW + 100));
    assert_eq!(reason(&policy, &format!("{header}.{admin}.{signature}")), "bad_signature");
    assert_eq!(reason(&policy, &format!("{message}.{}", &signature[..40])), "bad_signature");
    let foreign = signed(r#"{"alg":"HS256"}"#, good().as_bytes(), &EncodingKey::from_secret(&[b't'; 64]), Algorithm::HS256);
    assert_eq!(reason(&policy, &foreign), "bad_signature");
}

#[test]
fn signatures_of_another_curve_or_of_nothing_are_refused() {
    let lab = Lab::new();
    let p256 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    lab.write("p256", p256.public_key_pem());
    let policy = lab.compile(json!({ "jwt": { "keys": [{ "public_key": { "file": "p256" } }] } }));
    let message = format!("{}.{}", b64(r#"{"alg":"ES256"}"#), b64(good()));
    let sign = |pair: &rcgen::KeyPair, algorithm| {
        jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_ec_der(&pair.serialize_der()), algorithm).unwrap()
    };
    let right = sign(&p256, Algorithm::ES256);
    assert_eq!(reason(&policy, &format!("{message}.{right}")), "ok");
    assert_eq!(reason(&policy, &format!("{message}.{}", sign(&p384, Algorithm::ES384))), "bad_signature", "P-384 as ES256");
    assert_eq!(reason(&policy, &format!("{message}.{}", b64([0; 64]))), "bad_signature", "r and s are 0");
    let mut high = URL_SAFE_NO_PAD.decode(&right).unwrap();
    high[32..].fill(0xff);
    assert_eq!(reason(&policy, &format!("{message}.{}", b64(high))), "bad_signature", "s beyond the order");
    let der = rcgen::SigningKey::sign(&p256, message.as_bytes()).unwrap();
    assert_eq!(reason(&policy, &format!("{message}.{}", b64(der))), "bad_signature", "DER in place of two numbers");
}

#[test]
fn headers_that_bring_keys_or_demands_are_refused() {
    let policy = policy(&Lab::new(), json!({}));
    for member in [
        r#""crit":["b64"],"b64":false"#,
        r#""crit":[]"#,
        r#""jwk":{"kty":"oct","k":"AA"}"#,
        r#""jku":"https://evil"#,
        r#""x5u":"https://evil"#,
    ] {
        let close = if member.ends_with("evil") { "\"" } else { "" };
        assert_eq!(
            reason(&policy, &with_header(&format!(r#"{{"alg":"HS256",{member}{close}}}"#), &good())),
            "unsupported_header"
        );
    }
    assert_eq!(reason(&policy, &with_header(r#"{"alg":"HS256","x5c":["AA"],"x5t":"AA"}"#, &good())), "ok");
    assert_eq!(reason(&policy, &with_header(r#"{"alg":"HS256","kid":"k1"}"#, &good())), "ok");
    for kid in ["../../etc/passwd", "/dev/null", "https://evil.example/k", "k1' OR '1'='1", "k1;--", "k1\\u0000", "K1", "", "k1 "]
    {
        let header = format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#);
        assert_eq!(reason(&policy, &with_header(&header, &good())), "unknown_key", "{kid}");
    }
    for (header, expected) in [
        (r#"{"alg":"HS256","kid":1}"#, "malformed_token"),
        (r#"{"alg":"HS256","alg":"HS256"}"#, "malformed_token"),
        (r#"{"alg":"none","\u0061lg":"HS256"}"#, "malformed_token"),
        (r#"{"alg":["HS256"]}"#, "malformed_token"),
        (r#"{"typ":"JWT"}"#, "malformed_token"),
        (r#"["HS256"]"#, "malformed_token"),
        (r#"{"alg":"hs256"}"#, "unsupported_algorithm"),
        (r#"{"alg":"HS256 "}"#, "unsupported_algorithm"),
        (r#"{"alg":"HS512"}"#, "unsupported_algorithm"),
        (r#"{"alg":"HS256","typ":"logout+jwt"}"#, "unsupported_type"),
        (r#"{"alg":"HS256","typ":"application/AT+JWT"}"#, "ok"),
    ] {
        assert_eq!(reason(&policy, &with_header(header, &good())), expected, "{header}");
    }
}

#[test]
fn text_that_is_not_exactly_a_token_is_refused() {
    let policy = policy(&Lab::new(), json!({}));
    let token = hs256(&good());
    for text in [
        "".to_owned(),
        ".".into(),
        "..".into(),
        "a.b.c".into(),
        format!("{token}="),
        token.replace('.', ".="),
        format!("{} {token}", &token[..4]),
        token.replacen("ey", "e\u{e9}", 1),
        format!("{}\n", token.replacen('.', "\n.", 1)),
    ] {
        assert_eq!(reason(&policy, &text), "malformed_token", "{text:?}");
    }
    assert_eq!(reason(&policy, &format!("{token}{}", "A".repeat(16 * 1024))), "token_too_large");
    assert_eq!(reason(&policy, &hs256(&claims(&format!(r#""x":"{}""#, "x".repeat(100_000))))), "token_too_large");
    // The last character of 32 bytes in base64 has two bits to spare: a second spelling of one signature.
    let last = token.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let sibling = alphabet.chars().nth(alphabet.find(last).unwrap() + 1).unwrap();
    assert_eq!(reason(&policy, &format!("{}{sibling}", &token[..token.len() - 1])), "malformed_token");
    let key = EncodingKey::from_secret(&SECRET);
    let raw = |payload: &[u8]| reason(&policy, &signed(r#"{"alg":"HS256"}"#, payload, &key, Algorithm::HS256));
    assert_eq!(raw(b"{\"sub\":\"\xff\",\"exp\":9999999999}"), "malformed_token");
    assert_eq!(raw(br#"{"sub":"u1","sub":"admin","exp":9999999999}"#), "malformed_token");
    assert_eq!(raw(br#"{"sub":"u1","exp":9999999999,"a":{"b":1,"b":2}}"#), "malformed_token");
    assert_eq!(raw(br#"[1]"#), "malformed_token");
    assert_eq!(raw(br#""#), "malformed_token");
    assert_eq!(raw(format!("{{\"a\":{}", "[".repeat(5000)).as_bytes()), "malformed_token");
}

#[test]
fn time_is_kept_with_leeway() {
    let lab = Lab::new();
    let strict = policy(&lab, json!({}));
    let token = hs256(&format!(r#"{{"sub":"u1","nbf":{},"exp":{}}}"#, NOW, NOW + 100));
    for (now, expected) in [(NOW - 61, "not_yet_valid"), (NOW - 60, "ok"), (NOW + 159, "ok"), (NOW + 160, "expired")] {
        assert_eq!(reason_at(&strict, &token, now), expected, "{now}");
    }
    let none = policy(&lab, json!({ "leeway": "0s" }));
    assert_eq!(reason_at(&none, &token, NOW + 99), "ok");
    assert_eq!(reason_at(&none, &token, NOW + 100), "expired");
    assert_eq!(reason(&strict, &hs256(r#"{"sub":"u1"}"#)), "missing_claim");
    assert_eq!(reason(&policy(&lab, json!({ "allow_no_expiry": true })), &hs256(r#"{"sub":"u1"}"#)), "ok");
    for exp in ["\"9999999999\"", "null", "[]", "true"] {
        assert_eq!(reason(&strict, &hs256(&format!(r#"{{"sub":"u1","exp":{exp}}}"#))), "malformed_claim");
    }
    assert_eq!(reason(&strict, &hs256(r#"{"sub":"u1","exp":-1}"#)), "expired");
    assert_eq!(reason(&strict, &hs256(r#"{"sub":"u1","exp":1e300}"#)), "ok");
    assert_eq!(reason_at(&strict, &hs256(r#"{"sub":"u1","exp":18446744073709551615}"#), u64::MAX), "expired");
}

#[test]
fn claims_are_checked() {
    let lab = Lab::new();
    let policy = policy(&lab, json!({ "issuer": ["https://a", "https://b"], "audience": "shop", "require": ["tenant", "x.y"] }));
    let rest = r#""tenant":"t","x":{"y":0}"#;
    for (extra, expected) in [
        (format!(r#""iss":"https://b","aud":"shop",{rest}"#), "ok"),
        (format!(r#""iss":"https://a","aud":["other","shop"],{rest}"#), "ok"),
        (format!(r#""iss":"https://a/","aud":"shop",{rest}"#), "wrong_issuer"),
        (format!(r#""aud":"shop",{rest}"#), "wrong_issuer"),
        (format!(r#""iss":["https://a"],"aud":"shop",{rest}"#), "malformed_claim"),
        (format!(r#""iss":"https://a","aud":"shop2",{rest}"#), "wrong_audience"),
        (format!(r#""iss":"https://a","aud":[],{rest}"#), "wrong_audience"),
        (format!(r#""iss":"https://a","aud":["bank","shop2"],{rest}"#), "wrong_audience"),
        (format!(r#""iss":"https://a","aud":["bank",["shop"]],{rest}"#), "malformed_claim"),
        (format!(r#""iss":"https://a",{rest}"#), "wrong_audience"),
        (format!(r#""iss":"https://a","aud":["shop",1],{rest}"#), "malformed_claim"),
        (format!(r#""iss":"https://a","aud":{{"shop":1}},{rest}"#), "malformed_claim"),
        (r#""iss":"https://a","aud":"shop","tenant":null,"x":{"y":0}"#.into(), "missing_claim"),
        (r#""iss":"https://a","aud":"shop","tenant":"t","x":{}"#.into(), "missing_claim"),
    ] {
        assert_eq!(reason(&policy, &hs256(&claims(&extra))), expected, "{extra}");
    }
    let policy = super::jwt_tests::policy(&lab, json!({}));
    for (subject, expected) in [("\"\"", "missing_claim"), ("7", "malformed_claim"), ("null", "malformed_claim")] {
        assert_eq!(reason(&policy, &hs256(&format!(r#"{{"sub":{subject},"exp":9999999999}}"#))), expected);
    }
    assert_eq!(reason(&policy, &hs256(r#"{"exp":9999999999}"#)), "missing_claim");
}

#[test]
fn identities_are_what_tokens_say() {
    let lab = Lab::new();
    let plain = policy(&lab, json!({ "groups_claim": "realm.roles" }));
    let scopes = |extra: &str| -> Vec<String> {
        identity(&plain, &hs256(&claims(extra))).scopes.iter().map(|scope| scope.to_string()).collect()
    };
    assert_eq!(scopes(r#""scope":"a  b\tc d\" e""#), ["a", "e"], "what is no scope is dropped");
    assert_eq!(scopes(r#""scp":["a","b c",1]"#), ["a"]);
    assert_eq!(scopes(r#""scope":"a","scp":"admin""#), ["a"]);
    assert_eq!(reason(&plain, &hs256(&claims(r#""scope":{"a":1}"#))), "malformed_claim");
    let acme = |extra: &str| identity(&plain, &hs256(&format!(r#"{{"sub":"u-acme","exp":{}{extra}}}"#, NOW + 9)));
    let found = acme(r#","iss":"https://a","realm":{"roles":["dev"]}"#);
    assert_eq!((found.consumer.as_deref(), &*found.credential, found.scopes.len()), (Some("acme"), "https://a", 2));
    assert_eq!(found.groups, [Arc::<str>::from("gold"), Arc::from("dev")]);
    assert_eq!(found.claims.as_ref().unwrap()["iss"], "https://a");
    assert_eq!(acme(r#","scope":"""#).scopes.len(), 0, "a token without scopes does not get the consumer's");
}

#[test]
fn claims_go_upstream_safely() {
    let map = json!({ "X-Name": "name", "X-Roles": "roles", "X-N": "n", "X-Obj": "obj", "X-None": "none" });
    let policy = policy(&Lab::new(), json!({ "claims_to_headers": map }));
    let token = hs256(&claims(r#""name":"a\r\nX-Admin: 1","roles":["a,b","c",true],"n":5,"obj":{"a":1}"#));
    let bearer = format!("Bearer {token}");
    let fields = [("authorization", &*bearer), ("x-obj", "forged"), ("X-None", "forged")];
    // The second time it comes from the cache.
    for _ in 0..2 {
        let found = upstream(&run(&policy, "/", &fields, NOW).unwrap(), &fields);
        let names: Vec<&str> = found.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["x-auth-method", "x-auth-subject", "x-n", "x-name", "x-roles"]);
        assert_eq!(found[3].1, "a%0D%0AX-Admin: 1");
        assert_eq!(found[4].1, "a%2Cb,c,true");
    }
}

#[test]
fn the_cache_never_outlives_a_token_or_a_key() {
    let lab = Lab::new();
    let first = policy(&lab, json!({}));
    let token = hs256(&good());
    let cache = cache(&lab, &config(json!({}))).unwrap();
    assert_eq!(reason(&first, &token), "ok");
    assert_eq!((reason(&first, &token), cache.len()), ("ok", 1));
    assert_eq!(reason(&first, &token.replacen('.', ".e", 1)), "bad_signature", "a hit needs the whole token");
    assert_eq!(cache.len(), 1, "bad tokens are not kept");

    let same = policy(&lab, json!({}));
    assert_eq!((reason_at(&same, &token, NOW + 159), cache.len()), ("ok", 1), "a reload that changes nothing keeps the cache");
    let other = super::jwt_tests::cache(&lab, &config(json!({ "audience": "shop" }))).unwrap();
    assert!(!Arc::ptr_eq(&cache, &other));
    assert_eq!((reason_at(&same, &token, NOW + 160), cache.len()), ("expired", 0));
    assert_eq!(reason(&same, &token), "ok");

    lab.write("secret", [b'r'; 64]);
    let rotated = policy(&lab, json!({}));
    assert_eq!(reason(&rotated, &token), "bad_signature");
    lab.write("secret", SECRET);
    let mut lab = lab;
    lab.consume(json!([{ "name": "new", "subjects": ["u1"] }]));
    let after = policy(&lab, json!({}));
    assert_eq!(identity(&after, &token).consumer.as_deref(), Some("new"));
    assert_eq!(identity(&same, &token).consumer, None, "each generation has its own consumers");
    assert_eq!(identity(&after, &token).consumer.as_deref(), Some("new"));
    assert!(Arc::ptr_eq(&identity(&after, &token), &identity(&after, &token)), "looked up once");
    assert_eq!(cache.len(), 1, "a reload of the consumers keeps what tokens say");
}

#[test]
fn the_cache_is_bounded() {
    let lab = Lab::new();
    let mut config = json!({ "jwt": { "keys": [{ "secret": { "file": "secret" } }] }, "token_cache": 64 });
    let policy = lab.compile(config.clone());
    let kept = cache(&lab, &config).unwrap();
    for n in 0..300 {
        assert_eq!(reason(&policy, &hs256(&claims(&format!(r#""n":{n}"#)))), "ok");
    }
    assert!((32..=64).contains(&kept.len()));
    let lab = Lab::new();
    let policy = lab.compile(config.clone());
    let kept = cache(&lab, &config).unwrap();
    let long = "x".repeat(7000);
    for n in 0..300 {
        assert_eq!(reason(&policy, &hs256(&claims(&format!(r#""n":{n},"x":"{long}""#)))), "ok");
    }
    assert!((1..=16).contains(&kept.len()), "long tokens count several times");
    config["token_cache"] = json!(0);
    let policy = lab.compile(config);
    assert!(cache(&lab, &json!({ "jwt": {"keys": [{ "secret": { "file": "secret" } }] }, "token_cache": 0 })).is_none());
    assert_eq!(reason(&policy, &hs256(&good())), "ok");
}

#[test]
fn several_issuers_each_with_their_own_key() {
    let lab = Lab::new();
    lab.write("other", [b'o'; 32]);
    let policy = lab.compile(json!({ "jwt": [
        { "issuer": "https://a", "keys": [{ "secret": { "file": "secret" } }], "claims_to_headers": { "X-A": "v" } },
        { "issuer": "https://b", "keys": [{ "secret": { "file": "other" } }], "claims_to_headers": { "X-B": "v" } },
    ] }));
    let by = |secret: &[u8], issuer: &str| {
        let payload = claims(&format!(r#""iss":"{issuer}","v":"{issuer}""#));
        signed(r#"{"alg":"HS256"}"#, payload.as_bytes(), &EncodingKey::from_secret(secret), Algorithm::HS256)
    };
    let (a, b) = (by(&SECRET, "https://a"), by(&[b'o'; 32], "https://b"));
    assert_eq!(reason(&policy, &a), "ok");
    let bearer = format!("Bearer {b}");
    let fields = [("authorization", &*bearer), ("x-a", "forged"), ("x-b", "forged")];
    let found = upstream(&run(&policy, "/", &fields, NOW).unwrap(), &fields);
    assert!(found.contains(&("x-b".into(), "https://b".into())) && !found.iter().any(|(name, _)| name == "x-a"));
    assert_eq!(reason(&policy, &by(&[b'o'; 32], "https://a")), "wrong_issuer", "b's key does not speak for a");
    assert_eq!(reason(&policy, &by(&[b'x'; 32], "https://a")), "bad_signature");
}

#[test]
fn weak_and_wrong_keys_are_problems() {
    let lab = Lab::new();
    lab.write("short", [b's'; 31]);
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    lab.write("private", pair.serialize_pem());
    lab.write("public", pair.public_key_pem());
    let mut off_curve = pair.public_key_pem();
    off_curve.replace_range(70..74, if &off_curve[70..74] == "AAAA" { "AAAB" } else { "AAAA" });
    lab.write("off", off_curve);
    // RFC 8017's RSAPublicKey: a 1024-bit modulus (with a leading zero) and 65537.
    let mut small = vec![0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00];
    small.extend([0xc7; 128]);
    small.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
    let body = base64::engine::general_purpose::STANDARD.encode(small);
    lab.write("small", format!("-----BEGIN RSA PUBLIC KEY-----\n{body}\n-----END RSA PUBLIC KEY-----\n"));
    let key = |name: &str| json!({ "public_key": { "file": name } });
    for (json, expected) in [
        (json!({ "keys": [{ "secret": { "file": "short" } }] }), "at least 32 bytes"),
        (json!({ "keys": [{ "secret": { "file": "secret" }, "algorithm": "RS256" }] }), "does not suit"),
        (json!({ "keys": [{ "secret": { "file": "public" } }] }), "PEM"),
        (json!({ "keys": [{ "secret": { "file": "secret" }, "public_key": { "file": "public" } }] }), "either"),
        (json!({ "keys": [{}] }), "either"),
        (json!({ "keys": [{ "secret": { "file": "gone" } }] }), "gone"),
        (json!({ "keys": [{ "secret": { "file": "secret" }, "algorithm": "none" }] }), "no JWT algorithm"),
        (json!({ "keys": [key("private")] }), "private key"),
        (json!({ "keys": [key("secret")] }), "no public key"),
        (json!({ "keys": [key("off")] }), "damaged"),
        (json!({ "keys": [key("small")] }), "this one has 1024"),
        (json!({ "keys": [key("public")], "algorithms": ["RS256"] }), "none of `algorithms`"),
        (json!({ "keys": [{ "secret": { "file": "secret" } }], "algorithms": ["HS256", "HS512"] }), "more than one"),
        (json!({ "keys": [{ "secret": { "file": "secret" }, "algorithm": "HS384" }], "algorithms": ["HS256"] }), "not among"),
        (json!({ "keys": [key("public")], "leeway": "601s" }), "at most 10m"),
        (json!({ "keys": [key("public")], "audience": [] }), "cannot be empty"),
        (json!({ "keys": [key("public")], "issuer": "" }), "cannot be empty"),
        (json!({ "keys": [key("public")], "claims_to_headers": { "Host": "h" } }), "cannot be set"),
        (json!({ "keys": [key("public")], "claims_to_headers": { "X-Auth-Subject": "h" } }), "cannot be set"),
        (json!({ "keys": [key("public")], "claims_to_headers": { "a b": "h" } }), "no header name"),
    ] {
        let (policy, problems) = lab.try_compile(json!({ "jwt": json.clone() }));
        let said: Vec<&str> = problems.iter().map(|problem| &*problem.message).collect();
        assert!(policy.is_none() && said.iter().any(|message| message.contains(expected)), "{json}: {said:?}");
    }
    let (_, problems) = lab.try_compile(json!({ "jwt": { "keys": [key("public")] } }));
    assert!(!problems.has_errors() && problems.len() == 1, "no audience is worth a warning");
}
