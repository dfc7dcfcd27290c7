//! What a place to keep API keys must be able to do.

use std::fmt;

use async_trait::async_trait;

use super::record::Record;

/// One key's change: what is there before, and what after. `None` is nothing.
#[derive(Debug, Clone)]
pub struct Change {
    pub id: String,
    pub before: Option<Record>,
    pub after: Option<Record>,
}

/// How far a store's changes have been followed; what is in it is the store's own business. The default has seen nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position(pub String);

/// What is new in a store.
#[derive(Debug)]
pub struct News {
    /// Where to go on.
    pub position: Position,
    /// These are all keys that there are, rather than what changed.
    pub whole: bool,
    /// Keys by their ids; `None` is gone.
    pub keys: Vec<(String, Option<Record>)>,
}

/// Why a store did not do what it was asked to.
#[derive(Debug)]
pub enum StoreError {
    /// Somebody else changed the key first. Nothing was done.
    Conflict,
    /// It cannot be reached, or is broken. Whether a change was made is not known.
    Unavailable(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Conflict => f.write_str("somebody else changed the key first"),
            StoreError::Unavailable(why) => f.write_str(why),
        }
    }
}

/// A place where API keys outlive the process, shared by all that have the same one open.
///
/// Both calls are bounded in time by the store, and never block the thread that polls them.
#[async_trait]
pub trait Store: Send + Sync {
    /// Makes all of these changes, or none. Once it returns they survive a crash, as far as the store promises that at all.
    async fn apply(&self, changes: &[Change]) -> Result<(), StoreError>;

    /// What has changed since then, by whomever; all there is if the store no longer knows.
    async fn news(&self, since: &Position) -> Result<News, StoreError>;
}
