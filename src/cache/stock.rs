//! The same store under Pingora's own state machine (`HttpCache`), for a stock server. The hooks of `ProxyHttp` make one call each:
//!
//! | hook | call |
//! |---|---|
//! | `request_cache_filter` | [`Cache::enable`]; keep the [`Use`] in the request's context |
//! | `cache_key_callback` | [`key()`](super::key()) (pingora's default panics) |
//! | `cache_hit_filter` | [`on_hit`] |
//! | `should_serve_stale` | [`is_excused`] |
//! | `cache_miss` | [`on_miss`] |
//! | `cache_vary_filter` | [`vary()`] |
//! | `response_cache_filter` | [`Cache::judge`] |
//! | `range_header_filter` | [`range()`](super::range()) |
//! | `response_filter` | [`Outcome::of`](super::Outcome::of), append its [`Outcome::field`](super::Outcome::field) as
//!   [`CACHE_STATUS`](super::CACHE_STATUS) |
//! | `logging` | [`Cache::count`] |

use std::any::Any;
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{self, HeaderName};
use pingora_cache::key::{CacheHashKey, HashBinary};
use pingora_cache::predictor::CacheablePredictor;
use pingora_cache::storage::{
    HandleHit, HandleMiss, HitHandler, MissFinishType, MissHandler, PurgeOutcome, PurgeTarget, PurgeType,
};
use pingora_cache::trace::{Span, SpanHandle};
use pingora_cache::{
    CacheEntryKey, CacheKey, CacheMeta, CacheOptionOverrides, ForcedFreshness, HttpCache, NoCacheReason, RespCacheable, Storage,
};
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::ResponseHeader;

use super::changed::Place;
use super::control::Control;
use super::entry::{Entry, Index, Marks, Meta};
use super::hit::{Excuse, Stale};
use super::key::Beside;
use super::memory::{Filling, MemoryTier};
use super::moment::Moment;
use super::rules::Came;
use super::said::Said;
use super::tags::{self, Tags};
use super::{Cache, CachePolicy, LOCK_RETRIES, LOCK_WAIT, StoredHead, Use, Validation, Wishes, key, reason, rules, setback};

impl Cache {
    /// `request_cache_filter`: turns the cache on for this request, if it may use it ([`rules::request`]).
    /// Keep the answer in the request's context: the other hooks want it.
    pub fn enable(&'static self, cache: &mut HttpCache, policy: &CachePolicy, used: Use) -> Use {
        // Enabling twice would panic; a subrequest may come with its cache set up.
        if !matches!(used, Use::Bypass(_)) && !cache.enabled() && !cache.bypassing() {
            let mut options = CacheOptionOverrides::default();
            options.wait_timeout = Some(LOCK_WAIT);
            options.max_lock_retries = Some(LOCK_RETRIES);
            cache.enable(self.storage, self.eviction, Some(self), Some(self.lock), Some(options));
            cache.set_max_file_size_bytes(policy.max_body);
        }
        used
    }

    /// Forgets what is stored under a key, with all its variants: pingora counts a variant only as long as its primary stands.
    /// `true` if something was.
    pub async fn purge_key(&'static self, key: &CacheKey) -> bool {
        // Nor is what is being fetched now stored as if it were from after this.
        let (target, now) = (key::target_of(key.primary_key()), Moment::now());
        self.storage.changes.note(Place::of(target), now);
        if let Some(redis) = self.storage.redis.get() {
            redis.changed(now.get(), &[target.into()]);
        }
        let mut key = key.to_compact();
        key.variance = None;
        let purged = self.storage.purge(PurgeTarget::Active(&key), PurgeType::Invalidation, &Span::inactive().handle()).await;
        matches!(purged, Ok(PurgeOutcome::Purged(_)))
    }

    /// `response_cache_filter`: the metadata to store of an answer, or why it is not stored. `asked` is when it was asked for, `validation`
    /// the 304 that stands for it. `wishes`: of who has asked.
    pub fn judge(
        &self,
        answer: &ResponseHeader,
        http: &HttpCache,
        asked: Option<Instant>,
        validation: Option<&Validation>,
        (policy, wishes): (&CachePolicy, &Wishes),
    ) -> RespCacheable {
        match self.judge_alone(answer, http, asked, validation, policy) {
            RespCacheable::Cacheable(meta) if wishes.for_all && !rules::is_for_all(&Said::by_header(meta.response_header())) => {
                RespCacheable::Uncacheable(reason(rules::Refusal::Credentials))
            }
            judged => judged,
        }
    }

    /// The same, whoever has asked.
    fn judge_alone(
        &self,
        answer: &ResponseHeader,
        http: &HttpCache,
        asked: Option<Instant>,
        validation: Option<&Validation>,
        policy: &CachePolicy,
    ) -> RespCacheable {
        let (key, came) = (http.maybe_cache_key(), self.came(asked));
        if key.is_some_and(|key| self.was_changed(Place::of(key::target_of(key.primary_key())), came)) {
            // It may be what there was before the change.
            return RespCacheable::Uncacheable(NoCacheReason::Custom("changed"));
        }
        match (validation, http.maybe_cache_meta()) {
            (Some(validation), Some(meta)) => validation.store(answer, meta, key, self, policy, came),
            _ if self.is_beyond(answer, key) => RespCacheable::Uncacheable(NoCacheReason::ResponseTooLarge),
            _ if policy.asks_twice() && !key.is_some_and(|key| self.was_asked(key::halves(key.primary_bin()))) => {
                RespCacheable::Uncacheable(NoCacheReason::Custom("first_request"))
            }
            _ => store(answer, policy, came),
        }
    }

    /// One for which there is never room, or not for a body so long as it says.
    fn is_beyond(&self, answer: &ResponseHeader, key: Option<&CacheKey>) -> bool {
        let length = Said::by_header(answer).content_length;
        let length = length.and_then(|length| std::str::from_utf8(length).ok()?.parse::<usize>().ok());
        let fields = answer.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
        let beside = Entry::beside(key.map_or(&[], |key| key.primary_key()), None, StoredHead::most_of(fields));
        !self.storage.fits(beside) || length.is_some_and(|length| length > self.storage.most(beside))
    }

    /// Forgets one entry.
    pub(super) fn forget(&self, key: &CacheKey) {
        self.storage.forget(Index::of(key), key.primary_key());
    }
}

/// Asked by Pingora before it looks for anything, and by no more than a primary key: what stands there is looked for all the same, for it
/// may have variants that are fresh, whatever becomes of another one.
impl CacheablePredictor for Cache {
    fn cacheable_prediction(&self, key: &CacheKey) -> bool {
        self.predicted_uncacheable_reason(key).is_none()
    }

    fn predicted_uncacheable_reason(&self, key: &CacheKey) -> Option<NoCacheReason> {
        let reason = self.predictor.predicted_uncacheable_reason(key)?;
        let primary = Index { primary: key.primary_bin(), variance: None };
        let stands = self.storage.find(&primary, key.primary_key(), plain(key.user_tag()));
        let counts = |entry: &Entry| entry.meta.variance.is_some() || entry.meta.fresh_until > SystemTime::now();
        if stands.is_some_and(|entry| counts(&entry)) { None } else { Some(reason) }
    }

    fn mark_cacheable(&self, key: &CacheKey) -> bool {
        self.predictor.mark_cacheable(key)
    }

    fn mark_uncacheable(&self, key: &CacheKey, reason: NoCacheReason) -> Option<bool> {
        self.predictor.mark_uncacheable(key, reason)
    }
}

/// What time it is for what is stored; see [`setback`].
pub(super) fn now_for(meta: &CacheMeta) -> SystemTime {
    setback::now_for(meta.extensions().get::<Marks>().map_or(u64::MAX, |marks| marks.asked))
}

/// `cache_hit_filter`: what the client says of the answers that it takes. A request that may not store must not validate either, because
/// pingora would turn it into a GET for the whole.
pub fn on_hit(used: Use, wishes: &Wishes, policy: &CachePolicy, meta: &CacheMeta, is_fresh: bool) -> Option<ForcedFreshness> {
    let for_others = wishes.for_all && !rules::is_for_all(&Said::by_header(meta.response_header()));
    if for_others || policy.refuses(meta.response_header().status) {
        return Some(ForcedFreshness::ForceMiss);
    }
    let now = now_for(meta);
    let age = now.duration_since(meta.epoch()).unwrap_or_default();
    let (left, since) = (meta.fresh_until().duration_since(now), now.duration_since(meta.fresh_until()));
    let suits = is_fresh && meta.is_fresh(now) && wishes.take(age, left.unwrap_or_default());
    if suits {
        return None;
    }
    let takes = wishes.take_stale(age, since.unwrap_or_default());
    if !is_fresh && takes && may_be_given(meta, policy, Excuse::Asked) {
        return Some(ForcedFreshness::ForceFresh);
    }
    match used {
        Use::ReadOnly | Use::LookOnly => Some(ForcedFreshness::ForceMiss),
        _ => is_fresh.then_some(ForcedFreshness::ForceExpired),
    }
}

/// What has expired, by the rule of both engines.
fn may_be_given(meta: &CacheMeta, policy: &CachePolicy, excuse: Excuse) -> bool {
    let header = meta.response_header();
    let stale = Stale {
        since: now_for(meta).duration_since(meta.fresh_until()).unwrap_or_default(),
        status: header.status,
        while_revalidate: meta.stale_while_revalidate_sec(),
        if_error: meta.stale_if_error_sec(),
    };
    stale.is_excused(excuse, policy, || Said::by_header(header))
}

/// `should_serve_stale`: in the place of an error. While another one is fetched, nobody gets a stale answer here: Pingora would send the
/// whole request through all policies once more.
pub fn is_excused(error: Option<&Error>, meta: Option<&CacheMeta>, policy: &CachePolicy) -> bool {
    let failed = error.is_some_and(|error| match error.etype {
        ErrorType::HTTPStatus(status) => matches!(status, 500 | 502 | 503 | 504),
        _ => *error.esource() == ErrorSource::Upstream,
    });
    failed && meta.is_some_and(|meta| may_be_given(meta, policy, Excuse::Error(None)))
}

/// `cache_miss`: goes on to the backend, as a request that stores its answer or as one that does not.
pub fn on_miss(cache: &mut HttpCache, used: Use) {
    if used == Use::Full {
        cache.cache_miss();
    } else {
        // Lets one of the requests that wait behind this one take its place.
        cache.disable(NoCacheReason::Deferred);
    }
}

/// `cache_vary_filter`: which variant of a stored answer a request wants; see [`key::variance`].
pub fn vary<'v, V>(policy: &CachePolicy, meta: &CacheMeta, seen: impl Fn(&HeaderName) -> V) -> Option<HashBinary>
where
    V: IntoIterator<Item = &'v [u8]>,
{
    key::variance(policy, rules::list(&meta.headers().get_all(header::VARY)), seen)
}

/// `response_cache_filter`: the metadata to store, or why the answer is not stored.
pub fn store(answer: &ResponseHeader, policy: &CachePolicy, came: Came) -> RespCacheable {
    let said = Said::by_header(answer);
    match rules::response(&said, policy, came) {
        Err(refusal) => RespCacheable::Uncacheable(reason(refusal)),
        Ok(fresh) => {
            let mut header = answer.clone();
            rules::strip(&mut header);
            if !policy.keep_tags {
                tags::FIELDS.iter().for_each(|name| {
                    header.remove_header(name);
                });
            }
            for listed in Control::of(&said).withheld() {
                let listed = listed.to_ascii_lowercase();
                let names: Vec<HeaderName> =
                    header.headers.keys().filter(|name| rules::is_withheld(name.as_str().as_bytes(), &listed)).cloned().collect();
                names.iter().for_each(|name| {
                    header.remove_header(name);
                });
            }
            let now = came.now;
            let mut meta =
                CacheMeta::new(now + fresh.remaining, setback::onward(), fresh.while_revalidate, fresh.if_error, header);
            // The `Age` of a hit counts from here.
            meta.set_epoch_override(now.checked_sub(fresh.age).unwrap_or(now));
            meta.extensions_mut().insert(Marks {
                asked: came.asked,
                tags: Tags::of(&said).ok().flatten(),
                on_disk: policy.on_disk,
                in_redis: policy.in_redis,
            });
            RespCacheable::Cacheable(meta)
        }
    }
}

/// A key's tag as it is stored: where it is looked for is a matter of who asks.
fn plain(tag: &str) -> &str {
    if Beside::of(tag).is_some() { "" } else { tag }
}

#[async_trait]
impl Storage for MemoryTier {
    async fn lookup(&'static self, key: &CacheKey, _: &SpanHandle) -> Result<Option<(CacheMeta, HitHandler)>> {
        let (index, primary, tag) = (Index::of(key), key.primary_key(), plain(key.user_tag()));
        let found = match self.find(&index, primary, tag) {
            None => {
                let beside = Beside::of(key.user_tag()).unwrap_or(Beside { disk: true, redis: true });
                let loaded = self.load(index, primary, beside).await;
                loaded.and_then(|entry| self.still(&index, primary, tag, entry))
            }
            found => found,
        };
        // One that is on disk alone was stored by the engine's own way.
        let Some(entry) = found.filter(|entry| entry.long.is_none()) else { return Ok(None) };
        let body = entry.body.clone();
        let hit: HitHandler = Box::new(Hit { unread: Some(body.clone()), body, weight: entry.weight });
        Ok(Some((entry.meta.to_meta()?, hit)))
    }

    async fn get_miss_handler(&'static self, key: &CacheKey, meta: &CacheMeta, _: &SpanHandle) -> Result<MissHandler> {
        let index = Index::of(key);
        let promised = meta.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let meta = Meta::of(meta, index.variance.is_some()).ok();
        let tags = meta.as_ref().and_then(|meta| meta.tags.as_ref());
        let beside = Entry::beside(key.primary_key(), tags, meta.as_ref().map_or(0, |meta| meta.head.weight()));
        let filling = Filling::new(self, promised, beside, false);
        Ok(Box::new(Miss { filling, meta, key: key.clone(), index }))
    }

    async fn purge(&'static self, target: PurgeTarget<'_>, _: PurgeType, _: &SpanHandle) -> Result<PurgeOutcome> {
        if matches!(target, PurgeTarget::Exact(CacheEntryKey::Identified { .. })) {
            return Ok(PurgeOutcome::NotFound); // This tier gives no ids.
        }
        let removed = self.remove(Index::of_compact(target.key()), plain(target.key().user_tag()));
        Ok(if removed { PurgeOutcome::Purged(None) } else { PurgeOutcome::NotFound })
    }

    async fn expire(&'static self, target: PurgeTarget<'_>, _: &SpanHandle) -> Result<PurgeOutcome> {
        if matches!(target, PurgeTarget::Exact(CacheEntryKey::Identified { .. })) {
            return Ok(PurgeOutcome::NotFound);
        }
        // An answer is still fresh in the instant at which it expires.
        let past = SystemTime::now().checked_sub(std::time::Duration::from_secs(1)).unwrap_or(SystemTime::UNIX_EPOCH);
        let expired = self.change(Index::of_compact(target.key()), |entry| {
            let mut entry = entry.clone();
            entry.meta.fresh_until = entry.meta.fresh_until.min(past);
            Some(entry)
        });
        Ok(if expired { PurgeOutcome::Expired } else { PurgeOutcome::NotFound })
    }

    async fn update_meta(&'static self, key: &CacheKey, meta: &CacheMeta, _: &SpanHandle) -> Result<bool> {
        let index = Index::of(key);
        Ok(self.refresh(index, key.primary_key(), plain(key.user_tag()), Meta::of(meta, index.variance.is_some())?, None))
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

/// A body on its way out of the cache.
struct Hit {
    body: Bytes,
    unread: Option<Bytes>,
    weight: usize,
}

#[async_trait]
impl HandleHit for Hit {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        Ok(self.unread.take().filter(|body| !body.is_empty()))
    }

    async fn finish(self: Box<Self>, _: &'static (dyn Storage + Sync), _: &CacheKey, _: &SpanHandle) -> Result<()> {
        Ok(())
    }

    fn can_seek(&self) -> bool {
        true
    }

    /// `end` is exclusive, and may lie behind the body's end.
    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        let end = end.unwrap_or(usize::MAX).min(self.body.len());
        if start >= end {
            return Error::e_explain(ErrorType::InternalError, "range outside of the stored body");
        }
        self.unread = Some(self.body.slice(start..end));
        Ok(())
    }

    fn get_eviction_weight(&self) -> usize {
        self.weight
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

/// A body on its way into the cache.
struct Miss {
    filling: Filling,
    meta: Option<Meta>,
    key: CacheKey,
    index: Index,
}

#[async_trait]
impl HandleMiss for Miss {
    async fn write_body(&mut self, data: Bytes, _eof: bool) -> Result<()> {
        self.filling.add(&data);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<MissFinishType> {
        let Miss { mut filling, meta, key, index } = *self;
        let place = Place::of(key::target_of(key.primary_key()));
        let length = filling.length();
        let kept = filling.whole().zip(meta).and_then(|(body, mut meta)| {
            meta.set_length(length);
            let entry = Entry::at(place, key.primary_key(), plain(key.user_tag()), meta, body);
            filling.store(index, entry)
        });
        Ok(MissFinishType::Created(kept.map_or(0, |kept| kept.weight)))
    }
}
