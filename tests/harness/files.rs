//! Files that a configuration refers to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

/// A temporary folder. Removed with its last user, be that this value or the gateway that was started in it.
#[derive(Clone)]
pub struct Files {
    folder: Arc<TempDir>,
    certificates: Arc<AtomicU32>,
}

impl Files {
    pub fn new() -> Files {
        let folder = tempfile::Builder::new().prefix("portcullis-test-").tempdir().unwrap();
        Files { folder: Arc::new(folder), certificates: Arc::default() }
    }

    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the file whole: a reader sees the old or the new content.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir().join(name);
        let beside = self.dir().join(format!("{name}.new"));
        std::fs::write(&beside, bytes).unwrap();
        std::fs::rename(&beside, &path).unwrap();
        path
    }

    /// A self-signed certificate for these names, and its key: two files, and the certificate's PEM for a client to trust.
    pub fn certificate(&self, names: &[&str]) -> (PathBuf, PathBuf, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let number = self.certificates.fetch_add(1, Ordering::Relaxed);
        let pem = made.cert.pem();
        let cert = self.write(&format!("cert{number}.pem"), &pem);
        let key = self.write(&format!("key{number}.pem"), made.signing_key.serialize_pem());
        (cert, key, pem)
    }
}
