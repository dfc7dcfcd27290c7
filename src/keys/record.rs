//! What is kept of an API key: everything but the key.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::consumers::KeyDigest;
use crate::consumers::issued::IssuedKey;

/// One API key, as the store keeps it. Fields that a newer version added are passed over.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// No secret: logs, metrics and people call the key by it.
    pub id: String,
    /// The consumer's name in the configuration.
    pub consumer: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub hash: String,
    /// What the operator wrote beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What it may do, in place of what its consumer may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// In seconds since 1970.
    pub created: u64,
    /// In seconds since 1970; from that second on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// The key that a rotation put in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<String>,
}

impl Record {
    /// `None` for what cannot be a record: such a key is not accepted.
    pub fn decode(bytes: &[u8]) -> Option<Record> {
        let record: Record = serde_json::from_slice(bytes).ok()?;
        KeyDigest::parse(&record.hash).is_some().then_some(record)
    }

    /// The same bytes for the same record, so that stores can compare.
    pub fn encode(&self) -> Vec<u8> {
        // A struct of texts and numbers has no way to fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub fn digest(&self) -> Option<KeyDigest> {
        KeyDigest::parse(&self.hash)
    }

    pub fn is_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }

    /// As the request path wants it.
    pub fn issued(&self) -> Option<(KeyDigest, IssuedKey)> {
        Some((self.digest()?, IssuedKey::new(&self.id, &self.consumer, self.scopes.as_deref(), self.expires)))
    }
}

/// Without the hash: it is no secret that opens anything, but logs are no place for it.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("id", &self.id).field("consumer", &self.consumer).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn record(id: &str, consumer: &str) -> Record {
        Record {
            id: id.to_owned(),
            consumer: consumer.to_owned(),
            hash: KeyDigest::of(id.as_bytes()).to_string(),
            label: None,
            scopes: None,
            created: 1_700_000_000,
            expires: None,
            replaced_by: None,
        }
    }

    #[test]
    fn comes_back_as_it_went() {
        let record = Record { label: Some("é \"x\"".into()), scopes: Some(vec![]), expires: Some(7), ..record("a", "acme") };
        assert_eq!(Record::decode(&record.encode()), Some(record.clone()));
        assert!(record.is_expired(7) && !record.is_expired(6));
        let newer = String::from_utf8(record.encode()).unwrap().replacen('{', "{\"colour\":\"red\",", 1);
        assert_eq!(Record::decode(newer.as_bytes()), Some(record.clone()));
        assert!(!format!("{record:?}").contains("sha256"));
    }

    #[test]
    fn what_is_no_record_is_no_key() {
        for bytes in [&b""[..], b"{}", b"\xff", br#"{"id":"a","consumer":"b","hash":"sha256:00","created":1}"#] {
            assert!(Record::decode(bytes).is_none());
        }
    }
}
