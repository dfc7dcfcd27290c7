//! What people write under `consumers:`.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::exchange::ClientCertificate;
use crate::value::{Secret, Spanned};

/// One consumer of the APIs: a person, a team, an application.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsumerConfig {
    /// What policies, limits and logs call this consumer. Unique, not empty.
    pub name: Spanned<String>,
    /// The API keys that belong to it, as hashes.
    #[serde(default)]
    pub api_keys: Vec<ApiKeyConfig>,
    /// Its passwords for HTTP Basic, as hashes.
    #[serde(default)]
    pub passwords: Vec<PasswordConfig>,
    /// The `sub` claims whose tokens belong to it.
    #[serde(default)]
    pub subjects: Vec<Spanned<String>>,
    /// The `iss` claim that a token must have for `subjects` to apply. Default: any issuer that the `authn` policy accepts; set it
    /// when that is more than one, because two issuers may use one subject for different people.
    #[serde(default)]
    pub issuer: Option<Spanned<String>>,
    /// The client certificates that belong to it, by a name in them or by their fingerprint.
    #[serde(default)]
    pub certificates: Vec<Spanned<CertificateName>>,
    /// The keys that it signs requests with (RFC 9421).
    #[serde(default)]
    pub signing_keys: Vec<SigningKeyConfig>,
    /// The keys that it signs requests with as AWS has it (Signature Version 4).
    #[serde(default)]
    pub aws_keys: Vec<AwsKeyConfig>,
    /// What its API keys may do. A token brings its own scopes; these apply only to a token that has no scope claim at all.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The groups it belongs to.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The plan that it has subscribed to, such as `free` or `pro`: limits may differ by it.
    #[serde(default)]
    pub plan: Option<Spanned<String>>,
}

/// A key that a consumer signs its requests with: either `public_key` or `secret`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SigningKeyConfig {
    /// The `keyid` of its signatures. Unique among all consumers.
    pub id: Spanned<String>,
    /// A public key in PEM: RSA with 2048 to 8192 bits, P-256, P-384 or Ed25519.
    #[serde(default)]
    pub public_key: Option<Spanned<Secret>>,
    /// The shared secret of `hmac-sha256`, at least 32 bytes, used as the bytes it is.
    #[serde(default)]
    pub secret: Option<Spanned<Secret>>,
    /// `ed25519`, `ecdsa-p256-sha256`, `ecdsa-p384-sha384`, `rsa-pss-sha512`, `rsa-v1_5-sha256` or `hmac-sha256`. Default: the one that
    /// suits the key, for RSA `rsa-pss-sha512`.
    #[serde(default)]
    pub algorithm: Option<Spanned<String>>,
}

/// A key that a consumer signs its requests with, as AWS has it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "AwsKey")]
pub struct AwsKeyConfig {
    /// The id, which stands in every request: 1 to 128 letters, digits, `.`, `_` and `-`. Unique among all consumers.
    pub access_key_id: Spanned<String>,
    /// The secret, at least 16 bytes. It has to be known here as it is, for signatures of this kind cannot be checked otherwise.
    pub secret_access_key: Spanned<Secret>,
}

/// The names of RFC 9421, section 6.2, and what the same algorithms are called elsewhere.
pub const SIGNING_ALGORITHMS: [(&str, jsonwebtoken::Algorithm); 6] = [
    ("ed25519", jsonwebtoken::Algorithm::EdDSA),
    ("ecdsa-p256-sha256", jsonwebtoken::Algorithm::ES256),
    ("ecdsa-p384-sha384", jsonwebtoken::Algorithm::ES384),
    ("rsa-pss-sha512", jsonwebtoken::Algorithm::PS512),
    ("rsa-v1_5-sha256", jsonwebtoken::Algorithm::RS256),
    ("hmac-sha256", jsonwebtoken::Algorithm::HS256),
];

/// What a client certificate is known by: exactly one of these, compared whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CertificateName {
    /// A URI among its alternative names, such as `spiffe://example.com/billing`.
    Uri(String),
    /// A DNS name among them, in lower case.
    Dns(String),
    /// An email address among them.
    Email(String),
    /// Its subject, as RFC 4514 writes it: `CN=client,O=Example`.
    Subject(String),
    /// `sha256:` and the 64 hexadecimal digits of its SHA-256.
    Fingerprint(String),
}

/// Every name that a certificate has.
pub fn certificate_names(certificate: &ClientCertificate) -> impl Iterator<Item = CertificateName> + '_ {
    let subject = Some(&certificate.subject).filter(|subject| !subject.is_empty());
    std::iter::once(CertificateName::Fingerprint(format!("sha256:{}", certificate.fingerprint_digits())))
        .chain(certificate.uris.iter().cloned().map(CertificateName::Uri))
        .chain(certificate.dns.iter().cloned().map(CertificateName::Dns))
        .chain(certificate.emails.iter().cloned().map(CertificateName::Email))
        .chain(subject.cloned().map(CertificateName::Subject))
}

/// An API key, as it is stored: never the key itself.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyConfig {
    /// What logs call this key. Default: `sha256:` and the first 8 digits of its hash.
    #[serde(default)]
    pub id: Option<Spanned<String>>,
    /// `sha256:` and the 64 hexadecimal digits of the key's SHA-256. The key must be 256 random bits, in any text form.
    pub hash: Spanned<String>,
}

/// A password, as it is stored: never the password itself.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordConfig {
    /// The name that comes with the password, without `:`. Default: the consumer's name.
    #[serde(default)]
    pub username: Option<Spanned<String>>,
    /// The password's Argon2id hash in the PHC string format, as `portcullis hash-password` prints it. At most 256 MiB, 16 passes and 16
    /// lanes. Give all of them the same parameters: how long a check takes tells them apart.
    pub hash: Spanned<String>,
}
