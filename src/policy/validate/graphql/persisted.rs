//! Documents that are known before anybody asks for them, by their SHA-256: what a build of the clients has written down.

use std::collections::HashMap;

use aws_lc_rs::digest;
use serde_json::Value;

/// The most documents in a file, and the longest file, in bytes.
const MOST: usize = 100_000;
pub const LONGEST: u64 = 64 * 1024 * 1024;

/// Documents by the hexadecimal digits of their SHA-256.
#[derive(Debug, Default)]
pub struct Persisted(HashMap<String, Box<str>>);

/// SHA-256 in hexadecimal digits.
pub fn hash(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Persisted {
    /// Reads a manifest of Apollo's (`operations`, each with a `body`), or an object of documents, as Relay and others write it, whatever its names are.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(text).map_err(|_| "it is not JSON".to_owned())?;
        let Value::Object(members) = value else { return Err("it is no JSON object".to_owned()) };
        let documents: Vec<&str> = match members.get("operations") {
            Some(Value::Array(operations)) => {
                let body = |operation: &'_ Value| operation.get("body").and_then(Value::as_str).map(str::to_owned);
                if operations.iter().any(|operation| body(operation).is_none()) {
                    return Err("not every one of its `operations` has a `body`".to_owned());
                }
                operations.iter().filter_map(|operation| operation.get("body")?.as_str()).collect()
            }
            _ => {
                if members.values().any(|document| !document.is_string()) {
                    return Err("it is neither a manifest with `operations` nor an object of documents".to_owned());
                }
                members.values().filter_map(Value::as_str).collect()
            }
        };
        if documents.is_empty() || documents.len() > MOST {
            return Err(format!("it has {} documents, and 1 to {MOST} can be known", documents.len()));
        }
        Ok(Persisted(documents.into_iter().map(|document| (hash(document), document.into())).collect()))
    }

    pub fn get(&self, hash: &str) -> Option<&str> {
        self.0.get(hash).map(|document| &**document)
    }

    pub fn documents(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(|document| &**document)
    }
}
