//! Requests of routes that have a cache and find nothing fresh in it at once: waiting for somebody else's answer, filling, validating, and
//! parts of what is stored. On Pingora's state machine (`HttpCache`), with the steps that its proxy takes on it (pingora-proxy 0.9.1,
//! `proxy_cache`), around the one engine that calls services.

use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName};
use http::{Method, StatusCode, Version};
use pingora_cache::key::CacheHashKey;
use pingora_cache::lock::LockWaitOutcome;
use pingora_cache::{CacheMeta, CachePhase, ForcedFreshness, HitStatus, HttpCache, NoCacheReason, RespCacheable};
use pingora_core::protocols::http::conditional_filter::{not_modified_filter, to_304};
use pingora_error::Error;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{MultiRangeInfo, RangeType};

use super::hit::Ask;
use super::{Failed, broke_off, call_failed, client_failed};
use crate::cache::{self, CACHE_STATUS, CachePolicy, Outcome, Use, Validation};
use crate::downstream::{Downstream, apply_to_response, seen_upstream};
use crate::journey::Journey;
use crate::upstream::Service;
use crate::upstream::call::{Answer, Broken, Call, Caller, Fill, Own, Piece};
use crate::wire::encode::is_bodiless;
use crate::wire::trailers;

/// What a request may do with the cache of its route, and what came of it so far.
struct Cached<'a> {
    http: HttpCache,
    policy: &'a CachePolicy,
    used: Use,
    /// The 304 by which the service said that a stored answer still holds.
    validation: Option<Box<Validation>>,
}

/// Takes one request to what is stored, or to its service and the answer back and into the cache.
///
/// # Errors
/// See [`Failed`].
pub async fn run(
    caller: &Caller,
    journey: &mut Journey,
    down: &mut Downstream,
    service: &Service,
    Ask { policy, used, key, chosen }: Ask,
) -> Result<(), Failed> {
    let policy = &*policy;
    let mut cached = Cached { http: HttpCache::new(), policy, used, validation: None };
    journey.view.cache.enable(&mut cached.http, policy, used);
    cached.http.set_cache_key(key);
    if !cached.http.cacheable_prediction() {
        cached.http.bypass();
    }
    if cached.http.enabled() && cached.look_up(journey, down).await? {
        // Nobody is asked.
        journey.outcome.service = chosen;
        return cached.give_stored(journey, down).await;
    }
    let fill = cached.http.enabled().then(|| Fill { validators: validators(cached.http.maybe_cache_meta()) });
    let answer = {
        let target = journey.upstream_target();
        let Journey { view, head, exchange, tries, .. } = &mut *journey;
        let call = Call { head, exchange, target: target.as_deref(), fill: fill.as_ref() };
        caller.send(service, &call, tries, down, &view.tls).await
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            // Lets one of the requests that wait behind this one take its place.
            cached.disable(NoCacheReason::UpstreamError);
            return Err(call_failed(error));
        }
    };
    journey.answer_began(down.uploaded());
    cached.answered(caller, journey, down, service, answer, fill.is_some()).await
}

fn validators(meta: Option<&CacheMeta>) -> Vec<(HeaderName, http::HeaderValue)> {
    let Some(meta) = meta else { return Vec::new() };
    let pairs = [(header::IF_MODIFIED_SINCE, header::LAST_MODIFIED), (header::IF_NONE_MATCH, header::ETAG)];
    pairs.into_iter().filter_map(|(asked, stored)| Some((asked, meta.headers().get(stored)?.clone()))).collect()
}

impl Drop for Cached<'_> {
    /// A request that ends in the middle lets go of its key: of a lock that is only dropped, Pingora's table keeps an entry for ever.
    fn drop(&mut self) {
        self.disable(NoCacheReason::UpstreamError);
    }
}

impl Cached<'_> {
    fn disable(&mut self, reason: NoCacheReason) {
        if self.http.enabled() || self.http.bypassing() {
            self.http.disable(reason);
        }
    }

    /// Looks for a stored answer, and waits for one that somebody else is fetching. `true` if there is a fresh one.
    async fn look_up(&mut self, journey: &Journey, down: &mut Downstream) -> Result<bool, Failed> {
        let mut waits = 0;
        loop {
            let found = match self.http.cache_lookup().await {
                Ok(found) => found,
                Err(error) => {
                    log::warn!("cannot look into the cache: {error}");
                    cache::on_miss(&mut self.http, self.used);
                    return Ok(false);
                }
            };
            let mut status = None;
            if let Some((meta, handler)) = found {
                let wanted = self.variance(&meta, journey);
                if let Some(variance) = self.http.cache_key().variance_bin() {
                    if Some(variance) != meta.variance() {
                        self.http.disable(NoCacheReason::InternalError);
                        return Ok(false);
                    }
                } else if let Some(variance) = wanted
                    && !self.http.cache_vary_lookup(variance, &meta)
                {
                    // Another variant than the one that stands first.
                    continue;
                }
                let fresh = meta.is_fresh(SystemTime::now());
                let found = match cache::on_hit(self.used, fresh) {
                    Some(ForcedFreshness::ForceMiss) => HitStatus::ForceMiss,
                    _ if fresh => HitStatus::Fresh,
                    _ => HitStatus::Expired,
                };
                self.http.cache_found(meta, handler, found);
                status = Some(found);
            }
            match status {
                Some(found) if found.is_fresh() => return Ok(true),
                _ if !self.http.enabled() => return Ok(false),
                _ if self.http.is_cache_locked() => {
                    let outcome = tokio::select! {
                        biased;
                        outcome = self.http.cache_lock_wait() => outcome,
                        () = down.gone() => return Err(Failed::ClientGone),
                    };
                    match outcome {
                        LockWaitOutcome::GiveUp => self.http.disable(NoCacheReason::CacheLockGiveUp),
                        LockWaitOutcome::Abandoned { reason, .. } => self.http.disable(reason),
                        LockWaitOutcome::WaitTimeout => self.http.disable(NoCacheReason::CacheLockTimeout),
                        _ if self.http.cache_lock_max_retries().is_some_and(|most| waits >= most) => {
                            self.http.disable(NoCacheReason::CacheLockRetryLimit);
                        }
                        // There may be an answer now, or the next one may fetch it.
                        _ => {
                            waits += 1;
                            continue;
                        }
                    }
                    return Ok(false);
                }
                Some(HitStatus::Expired) => return Ok(false),
                _ => {
                    cache::on_miss(&mut self.http, self.used);
                    return Ok(false);
                }
            }
        }
    }

    fn variance(&self, meta: &CacheMeta, journey: &Journey) -> Option<pingora_cache::key::HashBinary> {
        cache::vary(self.policy, meta, |name| seen_upstream(&journey.head, &journey.exchange, name))
    }

    /// Whether, and how, an answer is stored.
    fn judge(&self, answer: &ResponseHeader, journey: &Journey) -> RespCacheable {
        journey.view.cache.judge(answer, &self.http, journey.tries.started, self.validation.as_deref(), self.policy)
    }

    /// An answer's head has come. `asked_for_the_whole`: the client's own conditions were not passed on.
    async fn answered(
        &mut self,
        caller: &Caller,
        journey: &mut Journey,
        down: &mut Downstream,
        service: &Service,
        answer: Answer,
        asked_for_the_whole: bool,
    ) -> Result<(), Failed> {
        let Ok(mut head) = answer.head.to_header() else {
            self.disable(NoCacheReason::UpstreamError);
            return Err(Failed::Answer(crate::wire::answer::BadAnswer::Malformed.reply()));
        };
        // Whether its end can be told from a broken one depends on it.
        head.set_version(answer.head.version);
        // Now, so that whoever gets it later is told the same.
        cache::rules::date_it(&mut head, SystemTime::now());
        self.validation = Validation::of(&head);
        journey.outcome.answered_in = answer.head.version;
        if self.http.enabled() && head.status == StatusCode::NOT_MODIFIED && self.http.maybe_cache_meta().is_some() {
            caller.keep(answer, service);
            self.validated(&head, journey).await;
            return self.give_stored(journey, down).await;
        }
        if (self.http.enabled() || self.http.bypassing())
            && let Err(error) = self.consider(&head, journey).await
        {
            log::warn!("an answer could not be stored: {error}");
            self.disable(NoCacheReason::StorageError);
        }
        if answer.head.body.is_done() {
            // Before the client hears of it, who may ask again at once.
            self.stored(false).await;
        }
        if asked_for_the_whole && self.is_unchanged(&head, journey) {
            to_304(&mut head);
        }
        let bodiless = answer.head.body.is_done() || is_bodiless(head.status) || journey.head.method == Method::HEAD;
        self.tell(&mut head, journey);
        let told = down.write_head(Box::new(head), bodiless).await.map_err(|error| client_failed(&error));
        self.pass_on(caller, journey, down, service, answer, bodiless, told).await
    }

    /// The service says that what is stored still holds.
    async fn validated(&mut self, answer: &ResponseHeader, journey: &Journey) {
        let merged = self.http.revalidate_merge_header(answer);
        match self.judge(&merged, journey) {
            RespCacheable::Cacheable(mut meta) => {
                if let Some(variance) = self.http.maybe_cache_meta().and_then(CacheMeta::variance) {
                    meta.set_variance(variance);
                }
                if let Err(error) = self.http.revalidate_cache_meta(meta).await {
                    // The answer may be used all the same.
                    log::warn!("a validated answer could not be stored: {error}");
                }
            }
            // It was validated, and may be used this once (RFC 9111, section 4.3.4).
            RespCacheable::Uncacheable(reason) => {
                self.http.response_became_uncacheable(reason);
                self.http.revalidate_uncacheable(merged, reason);
            }
        }
    }

    /// Decides whether an answer is stored, and gets ready for its body.
    async fn consider(&mut self, answer: &ResponseHeader, journey: &Journey) -> pingora_error::Result<()> {
        let meta = match self.judge(answer, journey) {
            RespCacheable::Cacheable(meta) => meta,
            RespCacheable::Uncacheable(reason) => {
                if !self.http.bypassing() {
                    // The next request need not wait for another one's answer.
                    self.http.response_became_uncacheable(reason);
                }
                self.http.disable(reason);
                return Ok(());
            }
        };
        let length = meta.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if self.http.bypassing() {
            let too_large =
                self.http.predicted_uncacheable_reason().is_none_or(|reason| reason == NoCacheReason::ResponseTooLarge);
            if too_large && length.is_none() {
                // Whether it has become shorter is known at its end.
                self.http.disable(NoCacheReason::PredictedResponseTooLarge);
                return Ok(());
            }
            self.http.response_became_cacheable();
            if journey.head.method != Method::GET || answer.status != StatusCode::OK {
                // It may be an answer to a condition of its client's.
                self.http.disable(NoCacheReason::Deferred);
                return Ok(());
            }
            cache::on_miss(&mut self.http, self.used);
            if !self.http.enabled() {
                return Ok(());
            }
        }
        if length.is_some_and(|length| self.http.max_file_size_bytes().is_some_and(|most| length > most)) {
            self.http.response_became_uncacheable(NoCacheReason::ResponseTooLarge);
            self.http.disable(NoCacheReason::ResponseTooLarge);
            return Ok(());
        }
        let variance = self.variance(&meta, journey);
        self.http.set_cache_meta(meta);
        self.http.update_variance(variance);
        self.http.set_miss_handler().await
    }

    /// The body, to the cache and to the client. A client that goes away in the middle does not end what others may want.
    #[allow(clippy::too_many_arguments, reason = "the ends of one pipe")]
    async fn pass_on(
        &mut self,
        caller: &Caller,
        journey: &mut Journey,
        down: &mut Downstream,
        service: &Service,
        mut answer: Answer,
        bodiless: bool,
        mut told: Result<(), Failed>,
    ) -> Result<(), Failed> {
        let measured = matches!(self.http.phase(), CachePhase::Disabled(NoCacheReason::PredictedResponseTooLarge));
        let mut ended = answer.head.body.is_done();
        let mut fields = None;
        while !ended {
            if !self.is_filling() && (told.is_err() || bodiless) {
                // Nobody wants the rest.
                return told;
            }
            let piece = match answer.take() {
                Ok(piece) => piece,
                // The client has had all that it gets.
                Err(broken) if bodiless => return self.broke_alone(&broken, journey, told),
                Err(broken) => {
                    if told.is_ok() {
                        // What waits for its first piece is all that there will be.
                        let _ = down.flush().await;
                    }
                    return self.broke(broken, journey, down);
                }
            };
            match piece {
                Some(Piece::Data(data, last)) => {
                    ended = last;
                    self.store(&data, last, measured).await;
                    if told.is_ok() && !bodiless {
                        told = down.write_body(data, last).await.map_err(|error| client_failed(&error));
                    }
                }
                Some(Piece::Trailers(section)) => (ended, fields) = (true, Some(section)),
                Some(Piece::End) => ended = true,
                None => {
                    if told.is_ok() {
                        told = down.flush().await.map_err(|error| client_failed(&error));
                    }
                    let silence = if down.is_endless() { service.timeouts.stream } else { service.timeouts.response };
                    let more = match told {
                        Ok(()) => answer.more(down, service, silence).await,
                        Err(_) => answer.more(&mut Own(Bytes::new()), service, silence).await,
                    };
                    match more {
                        Ok(()) => {}
                        Err(Broken::Client(error)) if self.is_filling() => told = Err(client_failed(&error)),
                        Err(broken) if bodiless => return self.broke_alone(&broken, journey, told),
                        Err(broken) => return self.broke(broken, journey, down),
                    }
                }
            }
        }
        self.stored(measured).await;
        told?;
        let finished = match fields {
            Some(mut fields) if !bodiless => {
                trailers::filter(&mut fields, &journey.exchange.to_client);
                down.finish_with(fields, trailers::wanted(&journey.head)).await
            }
            _ => down.finish().await,
        };
        finished.map_err(|error| broke_off(Broken::Client(error), journey, down))?;
        caller.keep(answer, service);
        Ok(())
    }

    fn is_filling(&self) -> bool {
        self.http.enabled()
    }

    fn broke(&mut self, broken: Broken, journey: &mut Journey, down: &mut Downstream) -> Result<(), Failed> {
        self.disable(NoCacheReason::UpstreamError);
        Err(broke_off(broken, journey, down))
    }

    /// The service failed while only the cache was still being filled.
    fn broke_alone(&mut self, broken: &Broken, journey: &mut Journey, told: Result<(), Failed>) -> Result<(), Failed> {
        self.disable(NoCacheReason::UpstreamError);
        if let Some(outcome) = broken.outcome() {
            journey.service_failed(outcome);
        }
        told
    }

    /// A piece of the body, into the cache.
    async fn store(&mut self, data: &Bytes, last: bool, measured: bool) {
        if measured {
            self.http.track_body_bytes_for_max_file_size(data.len());
        }
        if !self.is_filling() {
            return;
        }
        if !self.http.track_body_bytes_for_max_file_size(data.len()) {
            self.http.response_became_uncacheable(NoCacheReason::ResponseTooLarge);
            self.http.disable(NoCacheReason::ResponseTooLarge);
            return;
        }
        let written = match self.http.miss_handler() {
            Some(handler) => handler.write_body(data.clone(), last).await,
            None => Err(Error::new(pingora_error::ErrorType::InternalError)),
        };
        if written.is_err() {
            self.http.disable(NoCacheReason::StorageError);
        } else if last {
            self.finish().await;
        }
    }

    /// The body is whole.
    async fn stored(&mut self, measured: bool) {
        if measured && !self.http.exceeded_max_file_size() {
            self.http.response_became_cacheable();
        }
        if self.is_filling() {
            self.finish().await;
        }
    }

    async fn finish(&mut self) {
        if self.http.miss_handler().is_some()
            && let Err(error) = self.http.finish_miss_handler().await
        {
            log::debug!("an answer was not stored: {error}");
            self.http.disable(NoCacheReason::StorageError);
        }
    }

    /// Gives what is stored, or the part of it that is asked for.
    async fn give_stored(&mut self, journey: &mut Journey, down: &mut Downstream) -> Result<(), Failed> {
        let mut head = self.http.cache_meta().response_header_copy();
        if !self.http.upstream_used() {
            let age = self.http.cache_meta().age().as_secs();
            put(&mut head, header::AGE, &age.to_string());
        }
        head.set_version(Version::HTTP_11);
        let mut body = BytesMut::new();
        let mut whole = Bytes::new();
        loop {
            match self.http.hit_handler().read_body().await {
                // The memory tier gives all of it at once.
                Ok(Some(piece)) if whole.is_empty() => whole = piece,
                Ok(Some(piece)) => {
                    body.extend_from_slice(&whole);
                    body.extend_from_slice(&piece);
                    whole = body.split().freeze();
                }
                Ok(None) => break,
                Err(error) => {
                    log::warn!("cannot read a stored answer: {error}");
                    return Err(Failed::BrokeOff);
                }
            }
        }
        let unchanged = self.is_unchanged(&head, journey);
        if unchanged {
            to_304(&mut head);
        }
        let parts = parts(&mut head, whole.len(), journey);
        let body = match &parts {
            _ if unchanged || journey.head.method == Method::HEAD => Bytes::new(),
            RangeType::Invalid => Bytes::new(),
            RangeType::None => whole,
            RangeType::Single(range) => whole.slice(range.start.min(whole.len())..range.end.min(whole.len())),
            RangeType::Multi(ranges) => assemble(ranges, &whole),
        };
        self.tell(&mut head, journey);
        let end = body.is_empty();
        let written = async {
            down.write_head(Box::new(head), end).await?;
            if !end {
                down.write_body(body, true).await?;
            }
            down.finish().await
        };
        written.await.map_err(|error| client_failed(&error))?;
        // What it tells the store, nobody waits for.
        let _ = self.http.finish_hit_handler().await;
        Ok(())
    }

    /// Whether the client has this answer already (RFC 9110, section 13.2.2).
    fn is_unchanged(&self, answer: &ResponseHeader, journey: &Journey) -> bool {
        let asked = asked(journey, &[header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE]);
        asked.is_some_and(|asked| not_modified_filter(&asked, answer))
    }

    /// The gateway's own word on an answer, and the policies'.
    fn tell(&self, answer: &mut ResponseHeader, journey: &mut Journey) {
        if let (Some(validation), CachePhase::RevalidatedNoCache(_)) = (&self.validation, self.http.phase())
            && answer.status != StatusCode::NOT_MODIFIED
        {
            validation.update(answer);
        }
        journey.answered(answer.status);
        let exchange = &journey.exchange;
        if let Some(via) = exchange.via(journey.outcome.answered_in) {
            // Only an absurd number of fields could fail here; the answer then goes out without that one.
            let _ = answer.append_header(header::VIA, via.clone());
        }
        apply_to_response(answer, &exchange.request_id, &exchange.to_client);
        let outcome = Outcome::of(&self.http, self.used);
        journey.outcome.cache = outcome.word();
        journey.view.cache.count(outcome);
        let _ = answer.append_header(CACHE_STATUS, outcome.field());
    }
}

/// The parts of a stored answer that are asked for, and the head that says so.
fn parts(head: &mut ResponseHeader, length: usize, journey: &Journey) -> RangeType {
    let Some(asked) = asked(journey, &[header::RANGE, header::IF_RANGE]) else {
        if head.status == StatusCode::OK {
            put(head, header::ACCEPT_RANGES, "bytes");
        }
        return RangeType::None;
    };
    cache::range(&asked, head, length == 0)
}

/// The request with these fields alone, as the service would see them.
fn asked(journey: &Journey, names: &[HeaderName]) -> Option<RequestHeader> {
    cache::asked(&journey.head.method, names, |name| seen_upstream(&journey.head, &journey.exchange, name))
}

/// Several parts in one body (RFC 9110, section 14.6).
fn assemble(ranges: &MultiRangeInfo, whole: &Bytes) -> Bytes {
    let mut body = Vec::with_capacity(ranges.calculate_multipart_length());
    for range in &ranges.ranges {
        body.extend_from_slice(format!("\r\n--{}\r\n", ranges.boundary).as_bytes());
        if let Some(kind) = &ranges.content_type {
            body.extend_from_slice(format!("Content-Type: {kind}\r\n").as_bytes());
        }
        let last = range.end.saturating_sub(1);
        body.extend_from_slice(format!("Content-Range: bytes {}-{last}/{}\r\n\r\n", range.start, whole.len()).as_bytes());
        body.extend_from_slice(whole.get(range.clone()).unwrap_or_default());
    }
    body.extend_from_slice(format!("\r\n--{}--\r\n", ranges.boundary).as_bytes());
    body.into()
}

fn put(head: &mut ResponseHeader, name: HeaderName, value: &str) {
    // Both are made here, and fit.
    let _ = head.insert_header(name, value);
}
