//! The keys that tokens are checked with. Each is tied to exactly one algorithm when it is compiled (RFC 8725, section 3.1); a token
//! can only agree with it. That is what defeats `none` and the public key that is passed off as an HMAC secret.

use std::path::Path;

use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::fingerprint::feed;
use crate::problem::{Place, Problem, Problems, did_you_mean};
use crate::value::{Secret, Spanned};

/// One key that tokens may be signed with: either `secret` or `public_key`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JwtKeyConfig {
    /// The `kid` of the tokens that it signs. Without one, the key is tried for every token of its algorithm, whatever its `kid`.
    #[serde(default)]
    pub id: Option<Spanned<String>>,
    /// The shared secret of an HMAC algorithm, used as the bytes it is: at least 32, 48 or 64 of them for HS256, HS384 or HS512.
    #[serde(default)]
    pub secret: Option<Spanned<Secret>>,
    /// A public key in PEM (`BEGIN PUBLIC KEY` or `BEGIN RSA PUBLIC KEY`): RSA with 2048 to 8192 bits, P-256, P-384 or Ed25519.
    #[serde(default)]
    pub public_key: Option<Spanned<Secret>>,
    /// The one algorithm of this key: HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA.
    /// Default: the one entry of `algorithms` that suits the key; without `algorithms` HS256, RS256, ES256, ES384 or EdDSA, as the
    /// key's type wants it.
    #[serde(default)]
    pub algorithm: Option<Spanned<String>>,
}

const HMAC: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
pub const RSA: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];
const NAMES: [&str; 12] =
    ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// A key that is ready to check signatures.
pub struct VerifyKey {
    pub id: Option<Box<str>>,
    pub algorithm: Algorithm,
    key: DecodingKey,
}

/// Without the key, which may be a shared secret.
impl std::fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifyKey").field("id", &self.id).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl VerifyKey {
    /// `None` if anything is wrong, which then stands in `problems`. `allowed` is the method's list; empty allows all.
    pub fn compile(
        config: &JwtKeyConfig,
        allowed: &[Algorithm],
        base: &Path,
        whole: Place,
        problems: &mut Problems,
    ) -> Option<Self> {
        let named = match &config.algorithm {
            Some(name) => Some((parse_algorithm(name, problems)?, name.place)),
            None => None,
        };
        let (key, algorithm) = match (&config.secret, &config.public_key) {
            (Some(secret), None) => shared_secret(secret, named, allowed, base, problems)?,
            (None, Some(pem)) => public_key(pem, named, allowed, base, problems)?,
            // What is wrong with the one that was written has been said.
            (None, None) if problems.has_lost(whole, "secret") || problems.has_lost(whole, "public_key") => return None,
            (secret, _) => {
                let place = secret.as_ref().map_or(whole, |secret| secret.place);
                problems.push(Problem::error(place, "a JWT key is either a `secret` or a `public_key`"));
                return None;
            }
        };
        Some(VerifyKey { id: config.id.as_ref().map(|id| id.value.as_str().into()), algorithm, key })
    }

    /// A public key as its parts are published. `material` is an RSAPublicKey in DER, an uncompressed point, or 32 bytes of Ed25519.
    /// `None` if no token could ever be checked with it.
    pub fn published(id: Option<&str>, algorithm: Algorithm, material: &[u8]) -> Option<Self> {
        let key = match algorithm.family() {
            AlgorithmFamily::Rsa => DecodingKey::from_rsa_der(material),
            AlgorithmFamily::Ec => DecodingKey::from_ec_der(material),
            AlgorithmFamily::Ed => DecodingKey::from_ed_der(material),
            AlgorithmFamily::Hmac => return None,
        };
        unusable(&key, material).is_none().then(|| VerifyKey { id: id.map(Box::from), algorithm, key })
    }

    /// Whether `signature` (the decoded bytes) is this key's for `message` (`header.payload`, as received).
    pub fn verifies(&self, message: &[u8], signature: &Vec<u8>) -> bool {
        // The provider is named instead of asked for: whether a process-wide one was installed then makes no difference.
        (DEFAULT_PROVIDER.verifier_factory)(&self.algorithm, &self.key)
            .is_ok_and(|verifier| verifier.verify(message, signature).is_ok())
    }

    /// Mixes in everything that a verdict depends on.
    pub fn feed(&self, print: &mut blake3::Hasher) {
        feed(print, self.id.as_deref().unwrap_or_default().as_bytes());
        feed(print, &[u8::from(self.id.is_some()), self.algorithm as u8]);
        feed(print, self.key.try_get_as_bytes().unwrap_or_default());
    }
}

pub fn parse_algorithm(name: &Spanned<String>, problems: &mut Problems) -> Option<Algorithm> {
    let parsed = name.value.parse().ok();
    if parsed.is_none() {
        let problem = Problem::error(name.place, format!("`{}` is no JWT algorithm that is supported", name.value));
        let known = did_you_mean(&name.value, NAMES).map(str::to_owned).unwrap_or_else(|| NAMES.join(", "));
        problems.push(problem.hint(known));
    }
    parsed
}

type Named = Option<(Algorithm, Place)>;

fn shared_secret(
    secret: &Spanned<Secret>,
    named: Named,
    allowed: &[Algorithm],
    base: &Path,
    problems: &mut Problems,
) -> Option<(DecodingKey, Algorithm)> {
    let bytes = read(secret, base, problems)?;
    if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        let problem =
            Problem::error(secret.place, "this secret is a key in PEM, which everybody may know: anyone could sign with it");
        problems.push(problem.hint("public_key"));
        return None;
    }
    let algorithm = choose(&HMAC, named, allowed, secret.place, problems)?;
    let least = match algorithm {
        Algorithm::HS384 => 48,
        Algorithm::HS512 => 64,
        _ => 32,
    };
    if bytes.len() < least {
        // RFC 7518, section 3.2: a key of the same size as the hash output or larger must be used.
        let message = format!("a secret for {algorithm:?} has at least {least} bytes, this one has {}", bytes.len());
        problems.push(Problem::error(secret.place, message).hint(format!("openssl rand -hex {least}")));
        return None;
    }
    Some((DecodingKey::from_secret(&bytes), algorithm))
}

fn public_key(
    pem: &Spanned<Secret>,
    named: Named,
    allowed: &[Algorithm],
    base: &Path,
    problems: &mut Problems,
) -> Option<(DecodingKey, Algorithm)> {
    let bytes = read(pem, base, problems)?;
    let text = String::from_utf8_lossy(&bytes);
    if text.contains("PRIVATE KEY-----") {
        let problem =
            Problem::error(pem.place, "this is a private key; the gateway only checks tokens and must not be able to sign any");
        problems.push(problem.hint("openssl pkey -pubout"));
        return None;
    }
    let wanted = ["-----BEGIN PUBLIC KEY-----", "-----BEGIN RSA PUBLIC KEY-----"];
    let parsed = wanted.iter().any(|begin| text.trim_start().starts_with(begin)).then(|| parse_pem(&bytes)).flatten();
    let Some(key) = parsed else {
        problems.push(Problem::error(pem.place, "this is no public key in PEM (RSA, EC or Ed25519)"));
        return None;
    };
    let material = key.try_get_as_bytes().unwrap_or_default();
    let suits: &[Algorithm] = match (key.family(), material.len()) {
        (AlgorithmFamily::Rsa, _) => &RSA,
        (AlgorithmFamily::Ec, 65) => &[Algorithm::ES256],
        (AlgorithmFamily::Ec, 97) => &[Algorithm::ES384],
        (AlgorithmFamily::Ed, _) => &[Algorithm::EdDSA],
        _ => {
            problems.push(Problem::error(pem.place, "this key's curve is not supported").hint("P-256, P-384 or Ed25519"));
            return None;
        }
    };
    if let Some(wrong) = unusable(&key, material) {
        problems.push(Problem::error(pem.place, wrong));
        return None;
    }
    let algorithm = choose(suits, named, allowed, pem.place, problems)?;
    Some((key, algorithm))
}

fn read(secret: &Spanned<Secret>, base: &Path, problems: &mut Problems) -> Option<Vec<u8>> {
    secret.value.read(base).map_err(|message| problems.push(Problem::error(secret.place, message))).ok()
}

fn parse_pem(pem: &[u8]) -> Option<DecodingKey> {
    // The type stands in the PEM's algorithm identifier; but the RSA reader also takes PKCS#1, which has none, so that it goes last.
    DecodingKey::from_ec_pem(pem).or_else(|_| DecodingKey::from_ed_pem(pem)).or_else(|_| DecodingKey::from_rsa_pem(pem)).ok()
}

/// What is wrong with a key that no token could ever be checked with. Better said now than as `bad_signature` at night.
fn unusable(key: &DecodingKey, material: &[u8]) -> Option<String> {
    const DAMAGED: &str = "this public key is damaged, or on an unsupported curve";
    let algorithm: &'static dyn VerificationAlgorithm = match (key.family(), material.len()) {
        (AlgorithmFamily::Rsa, _) => {
            let Ok(key) = aws_lc_rs::rsa::PublicKey::from_der(material) else { return Some(DAMAGED.to_owned()) };
            let bits = significant_bits(key.modulus().big_endian_without_leading_zero());
            return (!(2048..=8192).contains(&bits)).then(|| format!("an RSA key has 2048 to 8192 bits, this one has {bits}"));
        }
        (AlgorithmFamily::Ec, 97) => &signature::ECDSA_P384_SHA384_FIXED,
        (AlgorithmFamily::Ec, _) => &signature::ECDSA_P256_SHA256_FIXED,
        _ => &signature::ED25519,
    };
    ParsedPublicKey::new(algorithm, material).is_err().then(|| DAMAGED.to_owned())
}

fn significant_bits(modulus: &[u8]) -> usize {
    (modulus.len() * 8).saturating_sub(modulus.first().map_or(0, |first| first.leading_zeros() as usize))
}

/// The one algorithm of a key that `suits` some.
fn choose(suits: &[Algorithm], named: Named, allowed: &[Algorithm], place: Place, problems: &mut Problems) -> Option<Algorithm> {
    if let Some((algorithm, place)) = named {
        if !suits.contains(&algorithm) {
            problems.push(Problem::error(place, format!("{algorithm:?} does not suit this key, {suits:?} would")));
            return None;
        }
        if !allowed.is_empty() && !allowed.contains(&algorithm) {
            problems.push(Problem::error(place, format!("{algorithm:?} is not among `algorithms`")));
            return None;
        }
        return Some(algorithm);
    }
    if allowed.is_empty() {
        return suits.first().copied();
    }
    let mut candidates = suits.iter().copied().filter(|algorithm| allowed.contains(algorithm));
    match (candidates.next(), candidates.next()) {
        (Some(only), None) => Some(only),
        (None, _) => {
            problems.push(Problem::error(place, format!("none of `algorithms` suits this key, {suits:?} would")));
            None
        }
        (Some(_), Some(_)) => {
            let problem = Problem::error(place, "more than one of `algorithms` suits this key, and a key has one algorithm");
            problems.push(problem.hint("say which with `algorithm`"));
            None
        }
    }
}
