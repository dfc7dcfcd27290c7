//! TLS for the clients: the handshake, which certificate serves whom, and which protocol is spoken afterwards.
//!
//! An acceptor is part of the snapshot: a reload that reads new files serves new connections with them, while connections that
//! stand keep theirs. Session tickets are sealed with keys that each acceptor makes up for itself, so a reload costs returning
//! clients one full handshake. OCSP stapling and fetching certificates are not here.

mod certificate;
mod client_auth;
pub mod config;
mod revocation;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use pingora_core::protocols::IO;
use pingora_core::protocols::tls::SslStream;
use pingora_core::protocols::tls::server::handshake;
use pingora_core::tls::error::ErrorStack;
use pingora_core::tls::ssl::{
    AlpnError, NameType, SslAcceptor, SslAcceptorBuilder, SslContext, SslMethod, SslMode, SslOptions, SslRef, SslVersion,
    select_next_proto,
};
use tokio::time::Instant;

pub use self::certificate::CertificateFacts;
use self::certificate::Loaded;
use self::client_auth::ClientAuth;
use self::config::{ClientAuthMode, TlsConfig, TlsVersion};
use super::config::ListenerProtocol;
use crate::exchange::TlsFacts;
use crate::problem::{Place, Problem, Problems};

/// Forward-secret AEAD suites of TLS 1.2; those of 1.3 are all fine as they come. Finite-field DHE, which Mozilla's intermediate
/// list still has, is left out: no client of today needs it, and it makes the server work far harder than the client.
const CIPHERS: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:\
                       ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

/// What the two sides agreed to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    H1,
    H2,
}

/// A finished handshake.
#[derive(Debug)]
pub struct Secured<S> {
    pub stream: SslStream<S>,
    pub facts: TlsFacts,
    /// HTTP/1.1 for a client that did not negotiate (RFC 9112; HTTP/2 must be negotiated, RFC 9113, section 3.2).
    pub protocol: Protocol,
}

/// Why there was no handshake.
#[derive(Debug)]
pub enum HandshakeError {
    TimedOut,
    /// The client's certificate was missing, or refused for this reason.
    BadCertificate(&'static str),
    /// Why, as a stable word, and in the TLS library's words, which hold nothing of the client's.
    Failed(&'static str, Box<pingora_core::Error>),
}

impl HandshakeError {
    /// A stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            HandshakeError::TimedOut => "handshake_timeout",
            HandshakeError::BadCertificate(reason) => reason,
            HandshakeError::Failed(reason, _) => reason,
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::TimedOut => f.write_str("the TLS handshake took too long"),
            HandshakeError::BadCertificate(reason) => f.write_str(reason),
            HandshakeError::Failed(_, error) => error.fmt(f),
        }
    }
}

impl std::error::Error for HandshakeError {}

/// Takes TLS connections for one listener.
pub struct TlsAcceptor {
    acceptor: SslAcceptor,
    by_name: Arc<ByName>,
    /// The first certificate's.
    default: SslContext,
    certificates: Vec<CertificateFacts>,
    client_auth: Option<ClientAuthMode>,
}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

impl TlsAcceptor {
    /// Reads the files. `place` is the listener's, for what has no place of its own; `base` is the folder that relative names count
    /// from. `None` only if a problem was found.
    pub fn compile(
        config: &TlsConfig,
        speaks: ListenerProtocol,
        place: Place,
        base: &Path,
        problems: &mut Problems,
    ) -> Option<TlsAcceptor> {
        if config.certificates.is_empty() {
            let hint = "write `certificates: [ { cert: edge.pem, key: edge.key } ]`";
            problems.push(Problem::error(place, "`tls.certificates` is empty").hint(hint));
            return None;
        }
        // Every certificate is looked at, so that every problem is found.
        let loaded: Vec<_> = config.certificates.iter().map(|written| certificate::load(written, base, problems)).collect();
        let loaded = loaded.into_iter().collect::<Option<Vec<Loaded>>>()?;
        warn_of_doubles(config, &loaded, problems);
        let client_auth = match &config.client_auth {
            Some(written) => Some(ClientAuth::compile(written, base, problems)?),
            None => None,
        };
        TlsAcceptor::build(config, speaks, loaded, client_auth.as_ref())
            .map_err(|error| problems.push(Problem::error(place, format!("TLS cannot be set up: {error}"))))
            .ok()
    }

    fn build(
        config: &TlsConfig,
        speaks: ListenerProtocol,
        loaded: Vec<Loaded>,
        client_auth: Option<&ClientAuth>,
    ) -> Result<TlsAcceptor, ErrorStack> {
        let mut contexts = Vec::with_capacity(loaded.len());
        for certificate in &loaded {
            contexts.push(context(config, speaks, certificate, client_auth)?.build().into_context());
        }
        let certificates: Vec<CertificateFacts> = loaded.iter().map(|certificate| certificate.facts.clone()).collect();
        let by_name = Arc::new(ByName::new(&certificates, &contexts));
        let default = contexts.into_iter().next().ok_or_else(ErrorStack::get)?;
        // The first certificate's context again, this time with the one look at the server name that serves all.
        let first = loaded.first().ok_or_else(ErrorStack::get)?;
        let mut acceptor = context(config, speaks, first, client_auth)?;
        let names = by_name.clone();
        acceptor.set_servername_callback(move |ssl: &mut SslRef, _alert: &mut _| {
            let chosen = ssl.servername(NameType::HOST_NAME).and_then(|name| names.find(name)).cloned();
            if let Some(context) = chosen {
                // Fails only without memory; the default certificate is then as good an answer as any.
                let _ = ssl.set_ssl_context(&context);
            }
            Ok(())
        });
        let client_auth = config.client_auth.as_ref().map(|written| written.mode);
        Ok(TlsAcceptor { acceptor: acceptor.build(), by_name, default, certificates, client_auth })
    }

    /// The same settings for somebody else's handshakes, with the first certificate. Who takes it chooses by server name with
    /// [`TlsAcceptor::context_for`].
    pub fn builder(config: &TlsConfig, place: Place, base: &Path, problems: &mut Problems) -> Option<SslAcceptorBuilder> {
        let first = certificate::load(config.certificates.first()?, base, problems)?;
        let client_auth = match &config.client_auth {
            Some(written) => Some(ClientAuth::compile(written, base, problems)?),
            None => None,
        };
        context(config, ListenerProtocol::Http, &first, client_auth.as_ref())
            .map_err(|error| problems.push(Problem::error(place, format!("TLS cannot be set up: {error}"))))
            .ok()
    }

    /// What serves a client that asks for this name, or for none.
    pub fn context_for(&self, name: Option<&str>) -> &SslContext {
        name.and_then(|name| self.by_name.find(name)).unwrap_or(&self.default)
    }

    /// The DNS names that the certificates are for, wildcards as `*.example.com`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.certificates.iter().flat_map(|certificate| &certificate.names).map(|name| &**name)
    }

    /// Whether clients are asked for a certificate, and may do without.
    pub fn client_auth(&self) -> Option<ClientAuthMode> {
        self.client_auth
    }

    /// The handshake, done by `deadline`. The stream is anything that Pingora can proxy, and so is what comes back.
    pub async fn accept<S: IO>(&self, stream: S, deadline: Instant) -> Result<Secured<S>, HandshakeError> {
        let stream = tokio::time::timeout_at(deadline, handshake(&self.acceptor, stream))
            .await
            .map_err(|_| HandshakeError::TimedOut)?
            .map_err(|error| match client_auth::take_reason() {
                Some(reason) => HandshakeError::BadCertificate(reason),
                None => match reason(&error.to_string()) {
                    MISSING => HandshakeError::BadCertificate(MISSING),
                    reason => HandshakeError::Failed(reason, error),
                },
            })?;
        let ssl = stream.ssl();
        let facts = facts(ssl);
        let protocol = match ssl.selected_alpn_protocol() {
            Some(b"h2") => Protocol::H2,
            _ => Protocol::H1,
        };
        Ok(Secured { stream, facts, protocol })
    }

    /// What is served, in the order of the configuration.
    pub fn certificates(&self) -> &[CertificateFacts] {
        &self.certificates
    }
}

/// What a finished handshake proved.
pub fn facts(ssl: &SslRef) -> TlsFacts {
    TlsFacts {
        version: ssl.version_str(),
        cipher: ssl.current_cipher().map_or("", |cipher| cipher.name()),
        server_name: ssl.servername(NameType::HOST_NAME).and_then(NameText::new).map(|name| Arc::from(name.as_str())),
        client: client_auth::facts(ssl).map(Arc::new),
    }
}

const MISSING: &str = "client_certificate_missing";

/// Why a handshake failed, as a stable word. The libraries have no code for it that comes through, but words that have stood for decades;
/// BoringSSL's are in capitals.
fn reason(error: &str) -> &'static str {
    let error = error.to_ascii_lowercase().replace('_', " ");
    let known = [
        ("peer did not return a certificate", MISSING),
        ("no application protocol", "no_common_protocol"),
        ("no shared cipher", "no_common_cipher"),
        ("unsupported protocol", "tls_version"),
        ("version too low", "tls_version"),
        // The client's word on the certificate that it was shown.
        ("alert unknown ca", "client_refused_certificate"),
        ("alert certificate", "client_refused_certificate"),
        ("alert bad certificate", "client_refused_certificate"),
        ("alert unsupported certificate", "client_refused_certificate"),
        ("alert", "client_alert"),
        ("unexpected eof", "handshake_aborted"),
        ("connection reset", "handshake_aborted"),
        ("broken pipe", "handshake_aborted"),
    ];
    known.iter().find(|(words, _)| error.contains(words)).map_or("handshake_failed", |(_, reason)| reason)
}

/// Everything of a context but the choice by server name.
fn context(
    config: &TlsConfig,
    speaks: ListenerProtocol,
    certificate: &Loaded,
    client_auth: Option<&ClientAuth>,
) -> Result<SslAcceptorBuilder, ErrorStack> {
    let mut context = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
    let least = match config.min_version {
        TlsVersion::V1_2 => SslVersion::TLS1_2,
        TlsVersion::V1_3 => SslVersion::TLS1_3,
    };
    context.set_min_proto_version(Some(least))?;
    context.set_cipher_list(CIPHERS)?;
    context.set_options(SslOptions::NO_COMPRESSION | SslOptions::NO_RENEGOTIATION);
    // Two for OpenSSL, which change nothing with BoringSSL. An idle connection keeps no record buffers: about 34 KiB less for each.
    context.set_mode(SslMode::RELEASE_BUFFERS);
    // One read per record instead of two, its header and its body.
    context.set_read_ahead(true);
    // Sessions come back through any of a listener's contexts, and the library wants a name for whose they are.
    context.set_session_id_context(b"portcullis")?;
    // What else is spoken inside of TLS is not known here, and what a client offers is passed over.
    if speaks == ListenerProtocol::Http {
        let offer: &'static [u8] = if config.h2 { b"\x02h2\x08http/1.1" } else { b"\x08http/1.1" };
        context.set_alpn_select_callback(move |_, offered| {
            // No common protocol: `no_application_protocol` (RFC 7301, section 3.2), which also stops cross-protocol attacks.
            select_next_proto(offer, offered).ok_or(AlpnError::ALERT_FATAL)
        });
    }
    context.set_certificate(&certificate.leaf)?;
    for intermediate in &certificate.intermediates {
        context.add_extra_chain_cert(intermediate.clone())?;
    }
    context.set_private_key(&certificate.key)?;
    if let Some(client_auth) = client_auth {
        client_auth.apply(&mut context)?;
    }
    Ok(context)
}

/// Two certificates for one name: only the first is ever served, which may not be what was meant.
fn warn_of_doubles(config: &TlsConfig, loaded: &[Loaded], problems: &mut Problems) {
    let mut known: HashMap<&str, usize> = HashMap::new();
    for (at, (written, certificate)) in config.certificates.iter().zip(loaded).enumerate() {
        for name in &certificate.facts.names {
            if *known.entry(name).or_insert(at) != at {
                let message = format!("an earlier certificate already serves `{name}`; this one will not");
                problems.push(Problem::warning(written.cert.place, message));
                break;
            }
        }
    }
}

/// Which certificate serves which name.
struct ByName {
    exact: HashMap<Box<str>, SslContext>,
    /// `*.example.com` under `example.com`.
    wildcard: HashMap<Box<str>, SslContext>,
}

impl ByName {
    fn new(certificates: &[CertificateFacts], contexts: &[SslContext]) -> Self {
        let mut by_name = ByName { exact: HashMap::new(), wildcard: HashMap::new() };
        for (certificate, context) in certificates.iter().zip(contexts) {
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut by_name.wildcard, parent),
                    None => (&mut by_name.exact, &**name),
                };
                map.entry(name.into()).or_insert_with(|| context.clone());
            }
        }
        by_name
    }

    /// A wildcard stands for exactly one label (RFC 9525, section 6.3).
    fn find(&self, name: &str) -> Option<&SslContext> {
        let name = NameText::new(name)?;
        let name = name.as_str();
        self.exact.get(name).or_else(|| {
            let (label, parent) = name.split_once('.')?;
            (!label.is_empty()).then(|| self.wildcard.get(parent))?
        })
    }
}

/// A server name in lower case and without a final dot, on the stack.
struct NameText {
    bytes: [u8; 255],
    length: usize,
}

impl NameText {
    /// `None` for what is no host name: it could not be in a certificate, and must not get into logs.
    fn new(name: &str) -> Option<Self> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if name.is_empty() || !name.bytes().all(plain) {
            return None;
        }
        let mut bytes = [0; 255];
        let target = bytes.get_mut(..name.len())?;
        target.copy_from_slice(name.as_bytes());
        target.make_ascii_lowercase();
        Some(NameText { bytes, length: name.len() })
    }

    fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
