//! Certificate revocation lists (RFC 5280, section 5): read here, and given to the TLS library, which then looks every certificate of a
//! chain up in the list of its issuer and checks the list itself as well: signature, dates and scope.

use std::path::{Path, PathBuf};

use pingora_core::tls::error::ErrorStack;
use pingora_core::tls::x509::store::X509StoreBuilder;
use x509_parser::pem::Pem;

use crate::problem::{Problem, Problems};
use crate::value::Spanned;

/// The lists of one listener.
#[derive(Default)]
pub(super) struct Revocations(Vec<List>);

/// OpenSSL reads a file of lists itself; BoringSSL is given each list, DER.
#[cfg(not(feature = "boringssl"))]
type List = PathBuf;
#[cfg(feature = "boringssl")]
type List = Vec<u8>;

impl Revocations {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the lists of a file, whose text is `pem`.
    pub fn read(&mut self, pem: &[u8], file: &Spanned<PathBuf>, base: &Path, problems: &mut Problems) {
        let list = |item: Result<Pem, _>| {
            let list = item.ok().filter(|pem: &Pem| pem.label == "X509 CRL")?;
            Some((next_update(&list.contents)?, list.contents))
        };
        let lists: Option<Vec<_>> = Pem::iter_from_buffer(pem).map(list).collect();
        let Some(lists) = lists.filter(|lists| !lists.is_empty()) else {
            let message = format!("{} holds no certificate revocation list", file.value.display());
            problems.push(Problem::error(file.place, message).hint("a PEM file with `-----BEGIN X509 CRL-----` is expected"));
            return;
        };
        for end in lists.iter().filter_map(|(end, _)| *end).filter(|end| *end < jiff::Timestamp::now()) {
            let message = format!("the revocation list in {} has expired on {end}", file.value.display());
            let problem = Problem::warning(file.place, message);
            problems.push(problem.hint("until there is a newer one, every client of this authority is refused"));
        }
        self.keep(base.join(&file.value), lists.into_iter().map(|(_, der)| der));
    }

    #[cfg(not(feature = "boringssl"))]
    fn keep(&mut self, path: PathBuf, _: impl Iterator<Item = Vec<u8>>) {
        self.0.push(path);
    }

    #[cfg(feature = "boringssl")]
    fn keep(&mut self, _: PathBuf, lists: impl Iterator<Item = Vec<u8>>) {
        self.0.extend(lists);
    }

    #[cfg(not(feature = "boringssl"))]
    pub fn add_to(&self, store: &mut X509StoreBuilder) -> Result<(), ErrorStack> {
        use pingora_core::tls::ssl::SslFiletype;
        use pingora_core::tls::x509::store::X509Lookup;

        let lookup = store.add_lookup(X509Lookup::file())?;
        self.0.iter().try_for_each(|path| lookup.load_crl_file(path, SslFiletype::PEM).map(drop))
    }

    /// The library can do it, but its Rust binding has no name for it.
    #[cfg(feature = "boringssl")]
    #[allow(unsafe_code)]
    pub fn add_to(&self, store: &mut X509StoreBuilder) -> Result<(), ErrorStack> {
        use foreign_types_shared::ForeignType;
        use pingora_core::tls::ssl_sys;

        for der in &self.0 {
            let (mut at, length) = (der.as_ptr(), der.len().try_into().unwrap_or(0));
            // SAFETY: `at` points to as many bytes as are said, which outlive the call, and nothing is kept of them.
            let list = unsafe { ssl_sys::d2i_X509_CRL(std::ptr::null_mut(), &mut at, length) };
            if list.is_null() {
                return Err(ErrorStack::get());
            }
            // SAFETY: both are valid; the store takes a reference of its own, and the one that was made above is given back, once.
            let added = unsafe {
                let added = ssl_sys::X509_STORE_add_crl(store.as_ptr(), list);
                ssl_sys::X509_CRL_free(list);
                added
            };
            if added != 1 {
                return Err(ErrorStack::get());
            }
        }
        Ok(())
    }
}

/// When there will be a newer list, if this one says so; `None` if it is no list.
fn next_update(der: &[u8]) -> Option<Option<jiff::Timestamp>> {
    let (rest, list) = x509_parser::parse_x509_crl(der).ok()?;
    let end = list.next_update().and_then(|end| jiff::Timestamp::from_second(end.timestamp()).ok());
    rest.is_empty().then_some(end)
}
