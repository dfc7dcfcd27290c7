//! Client certificates: who vouches for them, what was revoked, and what a verified one says.
//!
//! The TLS library builds and verifies the chain during the handshake (RFC 5280), dates, purpose and revocation included. Sessions are not
//! resumed on a listener that asks for certificates: a certificate that was revoked since would come back with its session.

use std::cell::Cell;
use std::path::Path;

use pingora_core::tls::error::ErrorStack;
use pingora_core::tls::ssl::{SslAcceptorBuilder, SslOptions, SslRef, SslSessionCacheMode, SslVerifyMode};
use pingora_core::tls::x509::store::X509StoreBuilder;
use pingora_core::tls::x509::verify::X509VerifyFlags;
use pingora_core::tls::x509::{X509, X509NameEntryRef, X509NameRef, X509Ref, X509StoreContextRef};

use super::certificate;
use super::config::{ClientAuthConfig, ClientAuthMode};
use super::revocation::Revocations;
use crate::exchange::ClientCertificate;
use crate::problem::{Problem, Problems, Severity};

const DEFAULT_DEPTH: u32 = 4;
const MAX_DEPTH: u32 = 16;

thread_local! {
    /// Why the handshake that was last refused on this thread was: set by the library's callback, taken when its error comes back,
    /// with no other handshake in between.
    static REFUSED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// What the last handshake was refused for, if it was for the client's certificate.
pub(super) fn take_reason() -> Option<&'static str> {
    REFUSED.take()
}

/// [`ClientAuthConfig`], read.
pub(super) struct ClientAuth {
    mode: ClientAuthMode,
    depth: u32,
    authorities: Vec<X509>,
    revocations: Revocations,
}

impl ClientAuth {
    /// `None` only if a problem was found.
    pub fn compile(config: &ClientAuthConfig, base: &Path, problems: &mut Problems) -> Option<Self> {
        let errors = |problems: &Problems| problems.iter().filter(|problem| problem.severity == Severity::Error).count();
        let before = errors(problems);
        let mut authorities = Vec::new();
        for file in &config.ca.0 {
            let read = certificate::read(file, base, problems).and_then(|pem| certificate::chain(&pem, file, problems));
            authorities.extend(read.into_iter().flatten());
        }
        let mut revocations = Revocations::default();
        for file in config.crl.iter().flat_map(|files| &files.0) {
            if let Some(pem) = certificate::read(file, base, problems) {
                revocations.read(&pem, file, base, problems);
            }
        }
        if let Some(depth) = config.depth.as_ref().filter(|depth| depth.value > MAX_DEPTH) {
            problems.push(Problem::error(depth.place, "`depth` is at most 16"));
        }
        let good = errors(problems) == before;
        let depth = config.depth.as_ref().map_or(DEFAULT_DEPTH, |depth| depth.value);
        good.then_some(ClientAuth { mode: config.mode, depth, authorities, revocations })
    }

    /// Makes a context ask for certificates and verify them.
    pub fn apply(&self, context: &mut SslAcceptorBuilder) -> Result<(), ErrorStack> {
        let mut store = X509StoreBuilder::new()?;
        for authority in &self.authorities {
            store.add_cert(authority.clone())?;
            // Tells the client which of its certificates would do.
            context.add_client_ca(authority)?;
        }
        let mut flags = X509VerifyFlags::PARTIAL_CHAIN;
        if !self.revocations.is_empty() {
            flags |= X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL;
            self.revocations.add_to(&mut store)?;
        }
        #[cfg(not(feature = "boringssl"))]
        store.set_flags(flags)?;
        #[cfg(feature = "boringssl")]
        store.verify_param_mut().set_flags(flags);
        context.set_cert_store(store.build());
        context.set_verify_depth(self.depth);
        let mode = match self.mode {
            ClientAuthMode::Required => SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
            ClientAuthMode::Optional => SslVerifyMode::PEER,
        };
        let deepest = self.depth + 1;
        context.set_verify_callback(mode, move |good, chain| {
            if !good {
                REFUSED.set(Some(reason(error_number(chain, deepest))));
            }
            good
        });
        context.set_session_cache_mode(SslSessionCacheMode::OFF);
        context.set_options(SslOptions::NO_TICKET);
        Ok(())
    }
}

#[cfg(not(feature = "boringssl"))]
fn error_number(chain: &X509StoreContextRef, _: u32) -> i32 {
    chain.error().as_raw()
}

/// BoringSSL stops at the deepest place that it may look at, and says of the certificate there that its issuer is missing.
#[cfg(feature = "boringssl")]
fn error_number(chain: &X509StoreContextRef, deepest: u32) -> i32 {
    match chain.verify_result().err().map_or(0, |error| error.as_raw()) {
        ISSUER_MISSING | ISSUER_NOT_HERE if chain.error_depth() >= deepest => CHAIN_TOO_LONG,
        number => number,
    }
}

#[cfg(feature = "boringssl")]
const ISSUER_MISSING: i32 = 2;
#[cfg(feature = "boringssl")]
const ISSUER_NOT_HERE: i32 = 20;
const CHAIN_TOO_LONG: i32 = 22;

/// The stable word for why a certificate was refused.
fn reason(number: i32) -> &'static str {
    // OpenSSL's numbers, X509_V_ERR_...; BoringSSL has the same.
    match number {
        3 => "client_crl_missing",
        10 => "client_certificate_expired",
        12 => "client_crl_expired",
        CHAIN_TOO_LONG => "client_chain_too_long",
        23 => "client_certificate_revoked",
        26 => "client_certificate_purpose",
        _ => "client_certificate_untrusted",
    }
}

/// What the client's certificate says, if it brought one.
pub(super) fn facts(ssl: &SslRef) -> Option<ClientCertificate> {
    let leaf = ssl.peer_certificate()?;
    let der = leaf.to_der().ok()?;
    let mut fingerprint = [0; 32];
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    fingerprint.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    let alternatives = leaf.subject_alt_names();
    let names = || alternatives.iter().flatten();
    Some(ClientCertificate {
        chain: intermediates(ssl),
        fingerprint,
        subject: distinguished_name(leaf.subject_name()),
        common_name: common_name(&leaf),
        dns: names().filter_map(|name| name.dnsname()).map(str::to_ascii_lowercase).collect(),
        uris: names().filter_map(|name| name.uri()).map(str::to_owned).collect(),
        emails: names().filter_map(|name| name.email()).map(str::to_owned).collect(),
        // A date that cannot be read is one that is over.
        not_after: match leaf.not_after().to_string().as_str() {
            // RFC 5280, section 4.1.2.5: no end is known.
            "Dec 31 23:59:59 9999 GMT" => u64::MAX,
            text => certificate::timestamp(text).and_then(|end| u64::try_from(end.as_second()).ok()).unwrap_or(0),
        },
        der,
    })
}

/// What stands between the client's certificate and the authority's.
#[cfg(not(feature = "boringssl"))]
fn intermediates(ssl: &SslRef) -> Vec<Vec<u8>> {
    let Some(chain) = ssl.verified_chain() else { return Vec::new() };
    let last = chain.len().saturating_sub(1);
    chain.iter().take(last).skip(1).filter_map(|certificate| certificate.to_der().ok()).collect()
}

/// BoringSSL does not tell what it verified, so this looks for it among what the client sent: of that, what vouches for the certificate
/// before it, up to the first that vouches for itself. What else a client sends is left out.
#[cfg(feature = "boringssl")]
fn intermediates(ssl: &SslRef) -> Vec<Vec<u8>> {
    let vouches = |above: &X509Ref, below: &X509Ref| {
        above.issued(below).is_ok() && above.public_key().is_ok_and(|key| below.verify(&key).unwrap_or(false))
    };
    let mut sent: Vec<_> = ssl.peer_cert_chain().into_iter().flatten().map(|certificate| certificate.to_owned()).collect();
    let (mut chain, mut below) = (Vec::new(), ssl.peer_certificate());
    while let Some(last) = &below {
        let Some(at) = sent.iter().position(|above| vouches(above, last) && !vouches(above, above)) else { break };
        let next = sent.swap_remove(at);
        chain.extend(next.to_der());
        below = Some(next);
    }
    chain
}

fn common_name(leaf: &X509Ref) -> Option<String> {
    let subject = leaf.subject_name();
    let mut names = subject.entries().filter(|entry| entry.object().nid().short_name().is_ok_and(|name| name == "CN"));
    // Which of two would count is anyone's guess.
    let (name, None) = (names.next()?, names.next()) else { return None };
    text_of(name)
}

/// All of it, also after a NUL, where a name could pretend to end.
#[cfg(not(feature = "boringssl"))]
fn text_of(entry: &X509NameEntryRef) -> Option<String> {
    entry.data().to_string().ok()
}

/// `as_utf8` would end at a NUL, so the bytes are read: those of the usual string types are UTF-8 as they are, and a type with two
/// bytes for a character shows by its NULs.
#[cfg(feature = "boringssl")]
fn text_of(entry: &X509NameEntryRef) -> Option<String> {
    let bytes = entry.data().as_slice();
    if bytes.contains(&0) { None } else { String::from_utf8(bytes.to_vec()).ok() }
}

/// As RFC 4514 writes it: the last attribute first, special characters escaped.
fn distinguished_name(name: &X509NameRef) -> String {
    let entries: Vec<_> = name.entries().collect();
    let mut text = String::new();
    for entry in entries.into_iter().rev() {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(entry.object().nid().short_name().unwrap_or("OID"));
        text.push('=');
        escape(&text_of(entry).unwrap_or_default(), &mut text);
    }
    text
}

fn escape(value: &str, out: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (at, character) in value.chars().enumerate() {
        match character {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => out.extend(['\\', character]),
            '#' | ' ' if at == 0 => out.extend(['\\', character]),
            ' ' if at == last => out.push_str("\\ "),
            '\0'..='\x1f' | '\x7f' => out.push_str(&format!("\\{:02X}", character as u32)),
            _ => out.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn names_cannot_pretend_to_have_other_parts() {
        let escaped = |value: &str| {
            let mut out = String::new();
            escape(value, &mut out);
            out
        };
        assert_eq!(escaped("a,CN=root"), "a\\,CN\\=root");
        assert_eq!(escaped(" #x "), "\\ #x\\ ");
        assert_eq!(escaped("#x\n"), "\\#x\\0A");
    }
}
