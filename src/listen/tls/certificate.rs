//! Certificates and keys as files: reading them, and saying what is wrong with them. Nothing of a key file's content ever gets into
//! a message.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{Timestamp, ToSpan};
use pingora_core::tls::pkey::{PKey, Private};
use pingora_core::tls::x509::X509;

use super::config::CertificateConfig;
use crate::problem::{Problem, Problems};
use crate::value::Spanned;

/// No chain or key is this long: a wrong file name is the likelier reason.
const LONGEST_FILE: u64 = 1 << 20;
/// When to begin warning of the end.
const EXPIRES_SOON_DAYS: i64 = 14;

/// What a certificate says about itself, for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Its DNS names, lower case, wildcards as `*.example.com`.
    pub names: Vec<Arc<str>>,
    pub not_before: Option<Timestamp>,
    /// `None` also for 9999-12-31, which stands for "never" (RFC 5280, section 4.1.2.5).
    pub not_after: Option<Timestamp>,
}

pub(super) struct Loaded {
    pub leaf: X509,
    pub intermediates: Vec<X509>,
    pub key: PKey<Private>,
    pub facts: CertificateFacts,
}

/// Reads a certificate and its key. `None` only if a problem was found.
pub(super) fn load(written: &CertificateConfig, base: &Path, problems: &mut Problems) -> Option<Loaded> {
    // Both files are looked at before giving up, so that both problems are found.
    let chain = read(&written.cert, base, problems).and_then(|pem| chain(&pem, &written.cert, problems));
    let key = read(&written.key, base, problems).and_then(|pem| key(&pem, &written.key, problems));
    let (chain, key) = (chain?, key?);
    let mut chain = chain.into_iter();
    let leaf = chain.next()?;
    if !leaf.public_key().is_ok_and(|public| public.public_eq(&key)) {
        let message =
            format!("the key in {} does not belong to the first certificate in {}", show(&written.key), show(&written.cert));
        let hint = "the server's own certificate comes first in the file, then its intermediates";
        problems.push(Problem::error(written.key.place, message).hint(hint));
        return None;
    }
    let facts = facts(&leaf);
    check_dates(&facts, &written.cert, problems);
    Some(Loaded { leaf, intermediates: chain.collect(), key, facts })
}

pub(super) fn read(file: &Spanned<PathBuf>, base: &Path, problems: &mut Problems) -> Option<Vec<u8>> {
    let path = base.join(&file.value);
    let mut content = Vec::new();
    // Opening a directory works, reading it does not: both are covered by one error.
    let result = File::open(&path).and_then(|opened| opened.take(LONGEST_FILE + 1).read_to_end(&mut content));
    let message = match result {
        Ok(length) if length as u64 <= LONGEST_FILE => return Some(content),
        Ok(_) => format!("{} is too long for a PEM file", path.display()),
        Err(error) => format!("{} cannot be read: {error}", path.display()),
    };
    problems.push(Problem::error(file.place, message));
    None
}

pub(super) fn chain(pem: &[u8], file: &Spanned<PathBuf>, problems: &mut Problems) -> Option<Vec<X509>> {
    match X509::stack_from_pem(pem) {
        Ok(chain) if !chain.is_empty() => return Some(chain),
        Ok(_) => {
            let message = format!("{} holds no certificate", show(file));
            let hint = "a PEM file with `-----BEGIN CERTIFICATE-----` is expected";
            problems.push(Problem::error(file.place, message).hint(hint));
        }
        // The library's words could quote a file that is not what it should be.
        Err(_) => problems.push(Problem::error(file.place, format!("a certificate in {} is damaged", show(file)))),
    }
    None
}

fn key(pem: &[u8], file: &Spanned<PathBuf>, problems: &mut Problems) -> Option<PKey<Private>> {
    // Without a callback the library would ask for an encrypted key's passphrase on the terminal, and wait.
    if let Ok(key) = PKey::private_key_from_pem_callback(pem, |_| Ok(0)) {
        return Some(key);
    }
    let encrypted = memchr::memmem::find(pem, b"ENCRYPTED").is_some();
    let message = if encrypted {
        format!("the key in {} is encrypted", show(file))
    } else {
        format!("{} holds no private key that can be read", show(file))
    };
    let hint = if encrypted {
        "store it unencrypted, readable by the gateway's user only"
    } else {
        "a PEM file with `-----BEGIN PRIVATE KEY-----` is expected"
    };
    problems.push(Problem::error(file.place, message).hint(hint));
    None
}

fn facts(leaf: &X509) -> CertificateFacts {
    let alternatives = leaf.subject_alt_names();
    let names = alternatives.iter().flatten().filter_map(|name| name.dnsname());
    CertificateFacts {
        names: names.map(|name| Arc::from(name.trim_end_matches('.').to_ascii_lowercase())).collect(),
        not_before: timestamp(&leaf.not_before().to_string()),
        not_after: timestamp(&leaf.not_after().to_string()),
    }
}

/// Both TLS libraries show a time as `Jan  2 15:04:05 2027 GMT`, and no other way to ask for it is common to both.
pub(super) fn timestamp(text: &str) -> Option<Timestamp> {
    let civil = jiff::civil::DateTime::strptime("%b %e %H:%M:%S %Y", text.trim_end_matches(" GMT")).ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

/// An expired certificate is a warning, not an error: refusing the whole configuration would not renew it, and clients that ignore
/// dates are served.
fn check_dates(facts: &CertificateFacts, file: &Spanned<PathBuf>, problems: &mut Problems) {
    let now = Timestamp::now();
    let soon = now.checked_add((EXPIRES_SOON_DAYS * 24).hours()).unwrap_or(now);
    let message = match (facts.not_before, facts.not_after) {
        (_, Some(end)) if end < now => format!("the certificate in {} has expired on {end}", show(file)),
        (_, Some(end)) if end < soon => format!("the certificate in {} expires soon, on {end}", show(file)),
        (Some(start), _) if start > now => format!("the certificate in {} is valid only from {start}", show(file)),
        _ => return,
    };
    problems.push(Problem::warning(file.place, message).hint("clients refuse it outside of its dates"));
}

fn show(file: &Spanned<PathBuf>) -> impl std::fmt::Display + '_ {
    file.value.display()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_librarys_dates() {
        let expected: Timestamp = "2027-01-02T15:04:05Z".parse().unwrap();
        assert_eq!(timestamp("Jan  2 15:04:05 2027 GMT"), Some(expected));
        // RFC 5280, section 4.1.2.5: no end is known.
        assert_eq!(timestamp("Dec 31 23:59:59 9999 GMT"), None);
        assert_eq!(timestamp("Bad time value"), None);
    }
}
