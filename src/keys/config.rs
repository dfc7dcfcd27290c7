//! `key_store:`, as people write it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::file::{self, FileStore};
use super::redis::RedisStore;
use super::{FIRST_LOOK, KeyStore};
use crate::ledger::Ledger;
use crate::problem::{Place, Problem, Problems};
use crate::redis::Redis;
use crate::tally::Tallies;
use crate::value::Spanned;

/// Reads the store on the event loop that will go on reading it, and waits for that.
fn first_look(keys: &Arc<KeyStore>, background: &tokio::runtime::Handle) -> Result<(), String> {
    let (told, outcome) = std::sync::mpsc::sync_channel(1);
    let keys = keys.clone();
    background.spawn(async move {
        // Nobody listens any more if it took too long.
        let _ = told.send(keys.refresh().await.map_err(|error| error.to_string()));
    });
    outcome.recv_timeout(FIRST_LOOK).unwrap_or_else(|_| Err("it does not answer".to_owned()))
}

/// Where API keys are kept that the admin API issues and revokes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeyStoreConfig {
    /// `file` (the default): on this machine, no server needed. `redis`: in the Redis under `redis`, shared by every gateway with the
    /// same prefix there.
    pub backend: Backend,
    /// The file, for `file`. It is made if it is missing, readable for its owner alone; it holds hashes, never keys. Default:
    /// `keys.redb` in the folder that systemd gives the service for its state, else `state/keys.redb` beside the configuration.
    pub path: Option<Spanned<String>>,
    /// What new keys begin with, so that people and scanners know them for what they are: up to 16 letters, digits, `_` and `-`.
    /// Default: `pk_`.
    pub prefix: Spanned<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    #[default]
    File,
    Redis,
}

impl Default for KeyStoreConfig {
    fn default() -> Self {
        KeyStoreConfig { backend: Backend::File, path: None, prefix: Spanned::nowhere("pk_".to_owned()) }
    }
}

/// What a store is opened in.
pub struct Setting<'a> {
    pub problems: &'a mut Problems,
    /// Where the store was written.
    pub place: Place,
    pub ledger: &'a Ledger,
    pub base: &'a Path,
    pub tallies: &'a Tallies,
    /// `None` where nothing is served: then nothing is opened, either.
    pub background: Option<&'a tokio::runtime::Handle>,
    pub redis: Option<&'a Arc<Redis>>,
    /// Whether there is a `redis:` in the configuration. With one that did not compile there is nothing more to say.
    pub redis_written: bool,
}

impl KeyStoreConfig {
    /// The store, open and read for the first time. Blocks while a file is opened, and up to 2 seconds for Redis: while that is away, the
    /// gateway starts all the same, and looks again.
    pub fn compile(&self, mut setting: Setting<'_>) -> Option<Arc<KeyStore>> {
        let path = self.checked(&mut setting)?;
        self.check_prefix(setting.problems)?;
        let (name, redis) = match self.backend {
            Backend::File => (format!("key_store/file/{}", path.display()), None),
            // An `Arc` that lives as long as its configuration does not change.
            Backend::Redis => {
                let redis = setting.redis?;
                (format!("key_store/redis/{:p}", Arc::as_ptr(redis)), Some(redis))
            }
        };
        let tallies = setting.tallies;
        let keys = setting.ledger.keep(&name, || KeyStore::new(tallies));
        let Some(background) = setting.background else { return Some(keys) };
        if keys.is_open() {
            return Some(keys);
        }
        match redis {
            Some(redis) => keys.open(Arc::new(RedisStore::new(redis.clone())), background),
            None => match FileStore::open(&path) {
                Ok(store) => keys.open(Arc::new(store), background),
                Err(why) => {
                    setting.problems.push(Problem::error(self.path_place(setting.place), why));
                    return None;
                }
            },
        }
        let Err(why) = first_look(&keys, background) else { return Some(keys) };
        if redis.is_some() {
            let message = format!("the key store cannot be read yet ({why}): the keys in it are refused with 503 until it can");
            setting.problems.push(Problem::warning(setting.place, message));
            return Some(keys);
        }
        setting.problems.push(Problem::error(self.path_place(setting.place), format!("the key store cannot be read: {why}")));
        None
    }

    fn path_place(&self, default: Place) -> Place {
        self.path.as_ref().map_or(default, |path| path.place)
    }

    /// The file's path, if what is written fits together.
    fn checked(&self, setting: &mut Setting<'_>) -> Option<PathBuf> {
        let problem = match (self.backend, &self.path) {
            (Backend::File, None) => return Some(file::default_path(setting.base)),
            (Backend::File, Some(path)) => {
                let path = setting.base.join(&path.value);
                if !path.is_dir() {
                    return Some(path);
                }
                Problem::error(self.path_place(setting.place), format!("`{}` is a folder, and has to be a file", path.display()))
            }
            (Backend::Redis, Some(path)) => Problem::error(path.place, "keys in Redis have no path").hint("leave `path` out"),
            (Backend::Redis, None) if setting.redis.is_some() => return Some(PathBuf::new()),
            (Backend::Redis, None) if setting.redis_written => return None,
            (Backend::Redis, None) => {
                Problem::error(setting.place, "there is no Redis to keep keys in").hint("write `redis: { nodes: [ HOST:PORT ] }`")
            }
        };
        setting.problems.push(problem);
        None
    }

    fn check_prefix(&self, problems: &mut Problems) -> Option<()> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if self.prefix.len() <= 16 && self.prefix.bytes().all(plain) {
            return Some(());
        }
        let message = "a key's prefix is up to 16 letters, digits, `_` and `-`";
        problems.push(Problem::error(self.prefix.place, message).hint("pk_"));
        None
    }
}
