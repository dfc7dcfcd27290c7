//! What people write under a listener's `tls:`.

use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use crate::value::{OneOrMany, Spanned};

/// TLS on a listener.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// At least one. The client's server name (SNI) chooses by the certificates' DNS names, exact before wildcard; the first serves
    /// whoever names none or an unknown one.
    pub certificates: Vec<CertificateConfig>,
    /// The oldest TLS version that is spoken: "1.2" or "1.3". Default: "1.2".
    #[serde(default)]
    pub min_version: TlsVersion,
    /// Offer HTTP/2 (ALPN `h2`) before HTTP/1.1. Default: true.
    #[serde(default = "yes")]
    pub h2: bool,
    /// Ask clients for a certificate (mutual TLS). Default: clients are not asked.
    #[serde(default)]
    pub client_auth: Option<ClientAuthConfig>,
}

/// Which client certificates are taken.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientAuthConfig {
    /// `required` (the default): without a good certificate there is no connection. `optional`: a client may do without, which routes
    /// with `authn: { mtls: ... }` then refuse; a bad certificate ends the handshake all the same.
    #[serde(default)]
    pub mode: ClientAuthMode,
    /// PEM files with the certificate authorities (roots, or intermediates to be trusted as such) that issue client certificates.
    pub ca: OneOrMany<Spanned<PathBuf>>,
    /// PEM files with certificate revocation lists (RFC 5280). With any, every authority of a client's chain needs one that has not
    /// expired, or the handshake fails. Read again by each reload. Default: none, nothing is looked up.
    #[serde(default)]
    pub crl: Option<OneOrMany<Spanned<PathBuf>>>,
    /// The most intermediate certificates between a client's and an authority's. Default: 4; at most 16.
    #[serde(default)]
    pub depth: Option<Spanned<u32>>,
}

/// Whether a client may do without a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthMode {
    #[default]
    Required,
    Optional,
}

/// A certificate and its key.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// PEM file: the certificate, then its intermediates. Relative to the configuration file.
    pub cert: Spanned<PathBuf>,
    /// PEM file: the private key, not encrypted. Relative to the configuration file.
    pub key: Spanned<PathBuf>,
}

/// A TLS version that may be the least.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsVersion {
    #[default]
    V1_2,
    V1_3,
}

impl<'de> Deserialize<'de> for TlsVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Version;
        impl de::Visitor<'_> for Version {
            type Value = TlsVersion;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a TLS version, \"1.2\" or \"1.3\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TlsVersion, E> {
                match text {
                    "1.2" => Ok(TlsVersion::V1_2),
                    "1.3" => Ok(TlsVersion::V1_3),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            // Without quotes YAML reads a number, and everybody forgets the quotes.
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<TlsVersion, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Version)
    }
}

impl JsonSchema for TlsVersion {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TlsVersion".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": ["1.2", "1.3", 1.2, 1.3] })
    }
}

fn yes() -> bool {
    true
}
