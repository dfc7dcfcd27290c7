//! The store as a whole, over a file.

use super::file::FileStore;
use super::*;
use crate::consumers::KeyFault;
use crate::consumers::tests::compile;
use crate::consumers::{Consumers, KeyDigest};

struct Lab {
    keys: Arc<KeyStore>,
    consumers: Consumers,
}

impl Lab {
    async fn open(path: &std::path::Path) -> Lab {
        let keys = Arc::new(KeyStore::new(&Tallies::default()));
        keys.store.set(Arc::new(FileStore::open(path).unwrap())).ok().unwrap();
        keys.refresh().await.unwrap();
        Lab { keys, consumers: compile(serde_json::json!([{ "name": "acme", "scopes": ["read"] }, { "name": "globex" }])).0 }
    }

    async fn create(&self, consumer: &str) -> (String, String) {
        let minted = self.keys.create(Order { consumer: consumer.into(), ..Order::default() }, "pk_").await.unwrap();
        (minted.record.id, minted.key.reveal())
    }

    fn whose(&self, key: &str, now: u64) -> Result<String, KeyFault> {
        let proved = self.keys.issued().prove(&KeyDigest::of(key.as_bytes()), now, &self.consumers)?;
        Ok(proved.identity.consumer.as_deref().unwrap_or_default().to_owned())
    }
}

#[tokio::test]
async fn a_key_lives_from_its_issue_to_its_revocation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.redb");
    let lab = Lab::open(&path).await;
    let (id, key) = lab.create("acme").await;
    assert_eq!(lab.whose(&key, now()), Ok("acme".into()));
    let other = Lab::open(&path).await;
    assert_eq!(other.whose(&key, now()), Ok("acme".into()), "another process finds it");
    assert!(matches!(lab.keys.revoke("globex", &id).await, Err(KeyError::Unknown)));
    lab.keys.revoke("acme", &id).await.unwrap();
    assert_eq!(lab.whose(&key, now()), Err(KeyFault::Unknown));
    assert!(other.whose(&key, now()).is_ok());
    other.keys.refresh().await.unwrap();
    assert_eq!(other.whose(&key, now()), Err(KeyFault::Unknown));
    assert!(matches!(lab.keys.revoke("acme", &id).await, Err(KeyError::Unknown)));
    let bytes = std::fs::read(&path).unwrap();
    let secret = &key.as_bytes()[12..];
    assert!(!bytes.windows(secret.len()).any(|window| window == secret), "only the hash is kept");
}

#[tokio::test]
async fn a_rotation_overlaps() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::open(&folder.path().join("keys.redb")).await;
    let (id, old) = lab.create("acme").await;
    let (minted, retired) = lab.keys.rotate("acme", &id, 60, None, "pk_").await.unwrap();
    assert_eq!((retired.replaced_by.as_deref(), minted.record.expires), (Some(&*minted.record.id), None));
    let new = minted.key.reveal();
    assert!(lab.whose(&old, now()).is_ok() && lab.whose(&new, now()).is_ok());
    assert_eq!(lab.whose(&old, now() + 61), Err(KeyFault::Expired));
    assert!(lab.whose(&new, now() + 61).is_ok());
    assert!(matches!(lab.keys.rotate("acme", &id, 60, None, "pk_").await, Err(KeyError::Over(_))));
    // A lifetime goes on, and an overlap does not prolong it.
    let order = Order { consumer: "acme".into(), expires: Some(now() + 100), scopes: Some(vec!["x".into()]), label: None };
    let short = lab.keys.create(order, "pk_").await.unwrap().record;
    let (minted, retired) = lab.keys.rotate("acme", &short.id, 1000, None, "pk_").await.unwrap();
    assert_eq!(retired.expires, short.expires);
    assert!(minted.record.expires.unwrap() >= short.expires.unwrap() && minted.record.scopes == short.scopes);
}

#[tokio::test]
async fn two_that_rotate_at_once_make_one_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.redb");
    let (one, two) = (Lab::open(&path).await, Lab::open(&path).await);
    let (id, _) = one.create("acme").await;
    two.keys.refresh().await.unwrap();
    one.keys.rotate("acme", &id, 60, None, "pk_").await.unwrap();
    assert!(matches!(two.keys.rotate("acme", &id, 60, None, "pk_").await, Err(KeyError::Conflict)));
    // But a revocation is never lost.
    two.keys.revoke("acme", &id).await.unwrap();
    one.keys.refresh().await.unwrap();
    assert_eq!(one.keys.list("acme", None, 10).0.len(), 1);
}

#[tokio::test]
async fn lists_are_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::open(&folder.path().join("keys.redb")).await;
    for _ in 0..5 {
        lab.create("acme").await;
        lab.create("globex").await;
    }
    let (first, more) = lab.keys.list("acme", None, 3);
    assert!(first.len() == 3 && more);
    let (rest, more) = lab.keys.list("acme", first.last().map(|record| &*record.id), 3);
    assert!(rest.len() == 2 && !more && rest.iter().all(|record| record.consumer == "acme" && !first.contains(record)));
    assert!(lab.keys.list("nobody", None, 3).0.is_empty());
}

#[tokio::test]
async fn what_expired_long_ago_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::open(&folder.path().join("keys.redb")).await;
    for expires in [now() - FORGOTTEN - 1, now() - 1, now() + 1000] {
        let order = Order { consumer: "acme".into(), expires: Some(expires), ..Order::default() };
        lab.keys.create(order, "pk_").await.unwrap();
    }
    lab.keys.sweep().await.unwrap();
    assert_eq!(lab.keys.list("acme", None, 10).0.len(), 2);
}

#[tokio::test]
async fn nothing_is_promised_before_the_store_was_read() {
    let keys = KeyStore::new(&Tallies::default());
    let consumers = compile(serde_json::json!([{ "name": "acme" }])).0;
    assert_eq!(keys.issued().prove(&KeyDigest::of(b"k"), 1, &consumers).unwrap_err(), KeyFault::StoreUnavailable);
    assert!(matches!(keys.create(Order::default(), "pk_").await, Err(KeyError::Unavailable(_))));
}
