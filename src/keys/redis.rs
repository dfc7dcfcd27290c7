//! API keys in Redis, for gateways that share them.
//!
//! A hash holds the records by their ids, and a stream the ids in the order of their changes. A gateway asks a few times a second
//! what came after the last change that it knows. If that one is no longer there, because the stream was trimmed, Redis came back
//! with older data after a failover, or came back empty, it reads everything: what Redis says is what counts.
//!
//! Both keys carry the hash tag `{api_keys}`, so that they share a slot of a Cluster. Redis must not evict them: give it
//! `maxmemory-policy noeviction` (its default) or a `volatile-` one.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;

use super::record::Record;
use super::store::{Change, News, Position, Store, StoreError};
use crate::redis::{Redis, Script, Unavailable, cmd};

/// For one command: no request waits for it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Records of one `HSCAN`, and changes of one look.
const BATCH: usize = 1_000;
/// About so many changes are remembered; who is further behind reads everything.
const REMEMBERED: &[u8] = b"10000";

/// A change that is there already was made by this very call, which Redis may see twice.
static APPLY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "for i = 2, #ARGV, 3 do
           local known = redis.call('HGET', KEYS[1], ARGV[i]) or ''
           if known ~= ARGV[i + 1] and known ~= ARGV[i + 2] then return 0 end
         end
         for i = 2, #ARGV, 3 do
           if ARGV[i + 2] == '' then
             redis.call('HDEL', KEYS[1], ARGV[i])
           else
             redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
           end
           redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], '*', 'id', ARGV[i])
         end
         return 1",
    )
});

/// `{ '', last }`: read everything, then go on from `last`. Else `{ 'id', last, id, record, id, record ... }`.
static NEWS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local seen = ARGV[1]
         local changes = seen ~= '' and redis.call('XRANGE', KEYS[2], seen, '+', 'COUNT', ARGV[2]) or {}
         if not changes[1] or changes[1][1] ~= seen then
           local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
           local last = newest and newest[1] or '0-0'
           return { last == seen and 'id' or '', last }
         end
         local answer, told = { 'id', changes[#changes][1] }, {}
         for i = 2, #changes do
           local id = changes[i][2][2]
           if not told[id] then
             told[id] = true
             answer[#answer + 1] = id
             answer[#answer + 1] = redis.call('HGET', KEYS[1], id) or ''
           end
         end
         return answer",
    )
});

/// Redis, as a place for keys.
pub struct RedisStore {
    redis: Arc<Redis>,
    records: String,
    changes: String,
}

impl RedisStore {
    pub fn new(redis: Arc<Redis>) -> Self {
        let name = |what| format!("{}{{api_keys}}:{what}", redis.prefix());
        RedisStore { records: name("records"), changes: name("changes"), redis }
    }

    async fn everything(&self) -> Result<HashMap<String, Option<Record>>, StoreError> {
        let (mut cursor, mut found) = (0u64, HashMap::new());
        loop {
            let mut scan = cmd("HSCAN");
            scan.arg(&self.records).arg(cursor).arg("COUNT").arg(BATCH);
            let (next, batch): (u64, Vec<Vec<u8>>) = self.redis.within(PATIENCE).run(&scan).await.map_err(away)?;
            // The same entry may come twice.
            found.extend(entries(&batch));
            cursor = next;
            if cursor == 0 {
                return Ok(found);
            }
            // A long list is read while requests are served on the same thread.
            tokio::task::yield_now().await;
        }
    }
}

fn away(error: Unavailable) -> StoreError {
    StoreError::Unavailable(format!("Redis: {error}"))
}

/// Ids and records in turn; an empty record is none.
fn entries(flat: &[Vec<u8>]) -> impl Iterator<Item = (String, Option<Record>)> {
    let (pairs, _) = flat.as_chunks::<2>();
    pairs.iter().map(|[id, bytes]| {
        let id = String::from_utf8_lossy(id).into_owned();
        let record = Record::decode(bytes);
        if record.is_none() && !bytes.is_empty() {
            log::error!("the key store's entry {id:?} cannot be read: that key is not accepted");
        }
        (id, record)
    })
}

#[async_trait]
impl Store for RedisStore {
    async fn apply(&self, changes: &[Change]) -> Result<(), StoreError> {
        let encoded = |record: &Option<Record>| record.as_ref().map(Record::encode).unwrap_or_default();
        let triples: Vec<(Vec<u8>, Vec<u8>)> =
            changes.iter().map(|change| (encoded(&change.before), encoded(&change.after))).collect();
        let mut args: Vec<&[u8]> = vec![REMEMBERED];
        for (change, (before, after)) in changes.iter().zip(&triples) {
            args.extend([change.id.as_bytes(), before, after]);
        }
        let keys = [self.records.as_bytes(), self.changes.as_bytes()];
        let done: u8 = self.redis.within(PATIENCE).eval(&APPLY, &keys, &args).await.map_err(away)?;
        if done == 1 { Ok(()) } else { Err(StoreError::Conflict) }
    }

    async fn news(&self, since: &Position) -> Result<News, StoreError> {
        let keys = [self.records.as_bytes(), self.changes.as_bytes()];
        let count = (BATCH + 1).to_string();
        let args = [since.0.as_bytes(), count.as_bytes()];
        let answer: Vec<Vec<u8>> = self.redis.within(PATIENCE).eval(&NEWS, &keys, &args).await.map_err(away)?;
        let nonsense = || StoreError::Unavailable("Redis: an answer that the question does not allow".to_owned());
        let (kind, last) = answer.first().zip(answer.get(1)).ok_or_else(nonsense)?;
        let position = Position(String::from_utf8(last.clone()).map_err(|_| nonsense())?);
        if kind.is_empty() {
            // What changes meanwhile comes with the next look, which goes on from before.
            return Ok(News { position, whole: true, keys: self.everything().await?.into_iter().collect() });
        }
        Ok(News { position, whole: false, keys: entries(answer.get(2..).unwrap_or_default()).collect() })
    }
}
