//! The proxy road: Pingora's `ProxyHttp`, as a table of contents of what happens to a request after the gauntlet.
//!
//! By the time Pingora hears of a request it has been routed, validated, authenticated and admitted ([`crate::journey`]), and
//! its head is the one that the backend shall see. What is left for the hooks: the cache, the choice of an endpoint, retries, and
//! the answer's way back.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use pingora_cache::key::HashBinary;
use pingora_cache::storage::HitHandler;
use pingora_cache::{CacheKey, CacheMeta, CachePhase, ForcedFreshness, NoCacheReason, RespCacheable};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result, RetryType};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, RangeType, Session, range_header_filter};

use crate::cache;
use crate::downstream::{CLIENT_GONE, CLIENT_STALLED, EARLY_ANSWER, NO_ANSWER, apply_to_response, reply_parts, seen_upstream};
use crate::head::HeaderEdit;
use crate::journey::{CLIENT_CLOSED, CLIENT_STOPPED, Journey, body_refusal};
use crate::reply::Reply;
use crate::upstream::{Protocol, check_names, connect_failure};
use crate::wire::answer::BadAnswer;
use crate::wire::{encode, trailers};

/// What a hook remembers. `None` only if Pingora calls a hook for a request that never passed the door, which then fails.
pub type Ctx = Option<Box<Journey>>;

tokio::task_local! {
    /// The journey on its way from the door to `new_ctx`, which has no argument to take it from.
    pub static HANDED_OVER: Cell<Ctx>;
}

/// The gateway as Pingora sees it.
pub struct Gateway;

/// A request for this many parts of a stored answer gets the whole: Pingora's own default, which has no name.
const MOST_RANGES: usize = 200;
const NO_JOURNEY: ErrorType = ErrorType::Custom("NoJourney");
/// Tells connections apart that are made for one attempt only.
static REPLAYS: AtomicU64 = AtomicU64::new(0);

fn journey(ctx: &mut Ctx) -> Result<&mut Journey> {
    ctx.as_deref_mut().ok_or_else(|| Error::new(NO_JOURNEY))
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Ctx;

    fn new_ctx(&self) -> Self::CTX {
        HANDED_OVER.try_with(Cell::take).unwrap_or_default()
    }

    /// None of Pingora's own: compression and the like are policies.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    // The cache.

    fn request_cache_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<()> {
        let journey = journey(ctx)?;
        if let Some(policy) = journey.cache_policy() {
            let used = journey.cache_use(&policy);
            journey.cache_use = Some(journey.view.cache.enable(&mut session.cache, &policy, used));
        }
        Ok(())
    }

    fn cache_key_callback(&self, _session: &Session, ctx: &mut Self::CTX) -> Result<CacheKey> {
        let journey = journey(ctx)?;
        let (Some(route), Some(policy)) = (journey.route(), journey.cache_policy()) else { return Err(Error::new(NO_JOURNEY)) };
        let seen = |name: &_| seen_upstream(&journey.head, &journey.exchange, name);
        Ok(cache::key(&journey.head, &journey.exchange, seen, &route.id, &policy))
    }

    async fn cache_hit_filter(
        &self,
        _session: &mut Session,
        _meta: &CacheMeta,
        _hit: &mut HitHandler,
        is_fresh: bool,
        ctx: &mut Self::CTX,
    ) -> Result<Option<ForcedFreshness>> {
        Ok(journey(ctx)?.cache_use.and_then(|used| cache::on_hit(used, is_fresh)))
    }

    fn cache_miss(&self, session: &mut Session, ctx: &mut Self::CTX) {
        if let Some(used) = ctx.as_deref().and_then(|journey| journey.cache_use) {
            cache::on_miss(&mut session.cache, used);
        }
    }

    fn cache_vary_filter(&self, meta: &CacheMeta, ctx: &mut Self::CTX, _request: &RequestHeader) -> Option<HashBinary> {
        let journey = ctx.as_deref()?;
        let policy = journey.cache_policy()?;
        // The same as for the lane, which has no header map to look into.
        cache::vary(&policy, meta, |name| seen_upstream(&journey.head, &journey.exchange, name))
    }

    fn response_cache_filter(&self, session: &Session, answer: &ResponseHeader, ctx: &mut Self::CTX) -> Result<RespCacheable> {
        let journey = journey(ctx)?;
        let Some(policy) = journey.cache_policy() else {
            return Ok(RespCacheable::Uncacheable(NoCacheReason::Custom("no_policy")));
        };
        let (stored, key) = (journey.view.cache, session.cache.maybe_cache_key());
        let asked = journey.tries.started.and_then(|started| SystemTime::now().checked_sub(started.elapsed()));
        if let (Some(key), Some(asked)) = (key, asked)
            && stored.was_changed(key, asked)
        {
            // It may be what there was before the change.
            return Ok(RespCacheable::Uncacheable(NoCacheReason::Custom("changed")));
        }
        Ok(match (&journey.validation, session.cache.maybe_cache_meta()) {
            (Some(validation), Some(meta)) => validation.store(answer, meta, key, stored, &policy),
            _ => cache::store(answer, &policy),
        })
    }

    fn range_header_filter(&self, session: &mut Session, answer: &mut ResponseHeader, _ctx: &mut Self::CTX) -> RangeType {
        let range = session.req_header().headers.get(header::RANGE).map(|range| range.as_bytes());
        let length = answer.headers.get(header::CONTENT_LENGTH).map(|length| length.as_bytes());
        let of_nothing = range.is_some_and(cache::asks_for_no_bytes) || range.is_some() && length == Some(b"0");
        if of_nothing && answer.status == StatusCode::OK && answer.insert_header(header::ACCEPT_RANGES, "bytes").is_ok() {
            // Pingora takes no bytes for a part like another, looks for it behind the stored body's end, and closes the connection
            // without an answer. To ignore the field is every server's choice (RFC 9110, section 14.2).
            return RangeType::None;
        }
        range_header_filter(session.req_header(), answer, Some(MOST_RANGES))
    }

    // The way to the backend.

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        let journey = journey(ctx)?;
        journey.outcome.interim = 0;
        if journey.tries.attempts > 0 && session.as_ref().retry_buffer_truncated() {
            // Whatever made Pingora ask again: what would be sent is not the request.
            return Err(Error::explain(ErrorType::ConnectionClosed, "the body's beginning is gone"));
        }
        let view = journey.view.clone();
        let Some(service) = journey.choose_service(&view) else { return Err(Error::new(NO_JOURNEY)) };
        let Some(flight) = journey.tries.begin(service) else {
            journey.refusal = Some(service.unavailable());
            return Err(Error::new(ErrorType::HTTPStatus(503)));
        };
        let mut peer = service.peer(flight.endpoint(), None);
        journey.tries.started = Some(Instant::now());
        if journey.tries.has_replayed() {
            // A connection of its own, which is never kept: the next kept one may be as dead as the last.
            peer.group_key = REPLAYS.fetch_add(1, Ordering::Relaxed);
            peer.options.idle_timeout = Some(Duration::ZERO);
        }
        if let Some(fate) = &journey.fate {
            fate.may_answer_early(service.protocol == Protocol::Http1);
        }
        // Whether the answer is a stream, its head will say. While one is taken into the cache the session may be gone, so that the road
        // has to see to the limit; it has but one, and what is stored is no stream.
        let streams = journey.cache_policy().is_none() || journey.asks_for_stream();
        if let (true, Some(fate)) = (streams, &journey.fate) {
            peer.options.read_timeout = Some(service.timeouts.stream);
            fate.await_head(service.timeouts.response);
            fate.may_switch(journey.head.upgrade && service.protocol == Protocol::Http1);
        }
        Ok(peer)
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        let journey = journey(ctx)?;
        let service = journey.service();
        if service.is_none_or(|service| service.protocol == Protocol::Http1) {
            // Only HTTP/2 may carry it without naming it in `Connection`.
            request.remove_header(&header::TE);
        }
        if let Some(HeaderEdit::Set(name, left)) = journey.call_time_left() {
            request.insert_header(name, left)?;
        }
        Ok(())
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        digest: Option<&Digest>,
        _ctx: &mut Self::CTX,
    ) -> Result<()> {
        // A connection is only ever reused for a peer that asks the same of it.
        if reused { Ok(()) } else { check_names(digest.and_then(|digest| digest.ssl_digest.as_deref())) }
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Self::CTX,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(journey) = ctx.as_deref_mut() {
            // Nothing of the request has been sent, so another endpoint may have it, whatever the method.
            let view = journey.view.clone();
            let service = journey.choose_service(&view);
            error.set_retry(service.is_some_and(|service| journey.tries.connect_failed(service)));
        }
        error
    }

    /// Decides alone whether a request is sent again. What Pingora and its HTTP/2 client say about it knows neither of the body, whose
    /// beginning may be gone, nor of the service's bound.
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Self::CTX,
        reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("peer: {peer}"));
        let whole = session.response_written().is_none() && !session.as_ref().retry_buffer_truncated();
        let dead = reused && matches!(error.retry, RetryType::ReusedOnly);
        let again = match ctx.as_deref_mut() {
            Some(journey) if whole && was_refused(&error) => {
                let view = journey.view.clone();
                let service = journey.choose_service(&view);
                service.is_some_and(|service| journey.tries.was_refused(service))
            }
            // A kept connection that the backend had just closed: try again if asking twice does no harm.
            Some(journey) if whole && dead => session.req_header().method.is_idempotent() && journey.tries.replay(),
            _ => false,
        };
        error.set_retry(again);
        if let (false, ErrorSource::Upstream, Some(flight)) =
            (again, error.esource(), ctx.as_deref().and_then(|journey| journey.tries.flight()))
        {
            flight.endpoint().record_failure();
        }
        error
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        answer: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        let journey = journey(ctx)?;
        // Later it is the one that the client is answered in.
        journey.outcome.answered_in = answer.version;
        if answer.status == StatusCode::SWITCHING_PROTOCOLS && !journey.head.upgrade {
            // Nobody asked for it. To the client everything behind it would be the answer, to the backend everything behind the
            // request a protocol that no one here understands.
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "101 without a request to upgrade"));
        }
        let limits = journey.service().map(|service| service.limits).unwrap_or_default();
        let interim = answer.status.is_informational() && answer.status != StatusCode::SWITCHING_PROTOCOLS;
        journey.outcome.interim += u32::from(interim);
        let checked = if journey.outcome.interim > limits.interim {
            Err(BadAnswer::TooLarge)
        } else {
            encode::check_answer(answer, &limits)
        };
        if let Err(bad) = checked {
            journey.refusal = Some(bad.reply());
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "an answer that cannot be passed on"));
        }
        if journey.cache_use.is_some() && !interim {
            // Now, so that whoever gets it later is told the same.
            cache::rules::date_it(answer, SystemTime::now());
            journey.validation = cache::Validation::of(answer);
        }
        if !answer.status.is_informational() || answer.status == StatusCode::SWITCHING_PROTOCOLS {
            journey.answer_began(journey.fate.as_ref().and_then(|fate| fate.uploaded()));
            journey.note_grpc_status(&answer.headers);
        }
        Ok(())
    }

    fn upstream_response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut http::HeaderMap,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        journey(ctx)?.note_grpc_status(trailers);
        Ok(())
    }

    // The way back.

    async fn response_filter(&self, session: &mut Session, answer: &mut ResponseHeader, ctx: &mut Self::CTX) -> Result<()> {
        let journey = journey(ctx)?;
        if answer.status.is_informational() && answer.status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        journey.changed(answer.status, answer.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())));
        if let (Some(validation), CachePhase::RevalidatedNoCache(_)) = (&journey.validation, session.cache.phase())
            && answer.status != StatusCode::NOT_MODIFIED
        {
            validation.update(answer);
        }
        journey.answered(answer.status);
        if let Some(via) = journey.exchange.via(journey.outcome.answered_in) {
            answer.append_header(header::VIA, via.clone())?;
        }
        apply_to_response(answer, &journey.exchange.request_id, &journey.exchange.to_client);
        if let Some(used) = journey.cache_use {
            let outcome = cache::Outcome::of(&session.cache, used);
            journey.outcome.cache = outcome.word();
            journey.view.cache.count(outcome);
            answer.append_header(cache::CACHE_STATUS, outcome.field())?;
        }
        Ok(())
    }

    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        fields: &mut HeaderMap,
        ctx: &mut Self::CTX,
    ) -> Result<Option<Bytes>> {
        let journey = journey(ctx)?;
        let limits = journey.service().map(|service| service.limits).unwrap_or_default();
        if trailers::size(fields) > limits.head {
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "more trailers than an answer may have"));
        }
        trailers::filter(fields, &journey.exchange.to_client);
        Ok(None)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Self::CTX) -> FailToProxy {
        let nothing = FailToProxy { error_code: 0, can_reuse_downstream: false };
        let Some(journey) = ctx.as_deref_mut() else { return nothing };
        if error.etype == EARLY_ANSWER {
            // The client has its answer. What failed is the backend's connection, on purpose.
            return FailToProxy { error_code: journey.outcome.status, can_reuse_downstream: true };
        }
        if error.etype == CLIENT_STALLED {
            // What the log says of it is seen to in `logging`, for there are roads on which this is no failure.
            return nothing;
        }
        let reply = journey.refusal.take().or_else(|| explain(error, journey));
        let Some(reply) = reply else {
            if session.response_written().is_some() {
                journey.outcome.client_closed = true;
                return nothing;
            }
            journey.outcome.status = CLIENT_CLOSED.as_u16();
            journey.outcome.verdict = Some(crate::exchange::Verdict { policy: "client", reason: "client_closed" });
            return nothing;
        };
        if session.response_written().is_some() {
            // Too late for another answer: the client learns of it by the answer's early end.
            journey.outcome.verdict = Some(crate::exchange::Verdict { policy: reply.policy, reason: "answer_broke_off" });
            return nothing;
        }
        journey.refused(&reply);
        if let (true, Some(fate)) = (reply.close, &journey.fate) {
            fate.make_last();
        }
        match send(session, &reply, journey).await {
            Ok(()) => FailToProxy { error_code: reply.status.as_u16(), can_reuse_downstream: !reply.close },
            Err(_) => nothing,
        }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Self::CTX) {
        if let Some(journey) = ctx.as_deref_mut() {
            if journey.fate.as_ref().is_some_and(|fate| fate.is_stalled()) {
                journey.outcome.verdict = Some(CLIENT_STOPPED);
            }
            let down = session.as_downstream();
            journey.outcome.upload =
                journey.fate.as_ref().and_then(|fate| fate.uploaded()).map(|at| at - journey.exchange.started);
            journey.ended(down.body_bytes_read() as u64, down.body_bytes_sent() as u64);
        }
        // The line itself is written when the journey is dropped.
        drop(ctx.take());
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Self::CTX, error: &Error) -> bool {
        // The access log says it, with more; a flood of failing requests must not become a flood of diagnostics.
        log::debug!("{error}");
        true
    }

    fn suppress_proxy_warn_log(&self, _session: &Session, _ctx: &Self::CTX, _error: &Error, _at: ProxyWarnLogContext) -> bool {
        true
    }
}

async fn send(session: &mut Session, reply: &Reply, journey: &Journey) -> Result<()> {
    let (answer, body) = reply_parts(reply, journey.dialect, &journey.exchange.to_client, &journey.exchange.request_id)?;
    if session.req_header().method == http::Method::HEAD || body.is_empty() {
        // The head is all there is, and says so: a call's status that came before an end of its own would be no status.
        return match session.write_response_tasks(vec![HttpTask::Header(Box::new(answer), true)]).await {
            Err(error) if error.etype != EARLY_ANSWER => Err(error),
            _ => Ok(()),
        };
    }
    session.write_response_header(Box::new(answer), false).await?;
    session.write_response_body(Some(Bytes::from(body)), true).await?;
    // Pingora does not finish an exchange that failed; unfinished, the client's connection would be closed without a word.
    session.as_downstream_mut().finish_body().await
}

/// Whether the backend has said that it did nothing about the request: it may be asked for again then, whatever the method (RFC 9113,
/// section 8.7). Streams above the last one that a GOAWAY names are the only ones that it ends.
fn was_refused(error: &Error) -> bool {
    h2_cause(error).is_some_and(|cause| {
        let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        cause.is_remote() && (refused || cause.is_go_away())
    })
}

fn h2_cause(error: &Error) -> Option<&h2::Error> {
    error.root_cause().downcast_ref()
}

/// What the client is told about a failure; `None` if the client itself is the one that went away.
fn explain(error: &Error, journey: &Journey) -> Option<Box<Reply>> {
    use ErrorType::*;
    if let Some(reply) = body_refusal(&error.etype) {
        return Some(reply);
    }
    if error.etype == NO_ANSWER {
        return Some(response_timeout());
    }
    if error.etype == CLIENT_GONE || *error.esource() == ErrorSource::Downstream {
        return None;
    }
    if let Some(reply) = connect_failure(&error.etype) {
        return Some(reply);
    }
    if was_refused(error) {
        let wait = journey.service().map_or(Duration::from_secs(1), |service| service.retry_after);
        let detail = "The backend refused the request before it did anything about it.";
        let reply = Reply::new(StatusCode::SERVICE_UNAVAILABLE, "upstream", "upstream_refused", detail);
        return Some(reply.retry_after(wait));
    }
    let (status, reason, detail) = match &error.etype {
        _ if h2_cause(error).is_some_and(|cause| cause.is_reset() && cause.is_remote()) => {
            (StatusCode::BAD_GATEWAY, "upstream_reset", "The backend broke the request off.")
        }
        ReadTimedout | WriteTimedout => return Some(response_timeout()),
        InvalidHTTPHeader if is_beyond_pingora(error) => return Some(BadAnswer::TooLarge.reply()),
        InvalidHTTPHeader | H1Error | H2Error | InvalidH2 => return Some(BadAnswer::Malformed.reply()),
        ConnectionClosed | ReadError | WriteError => {
            (StatusCode::BAD_GATEWAY, "connection_lost", "The connection to the backend was lost.")
        }
        _ => (StatusCode::BAD_GATEWAY, "upstream_error", "The backend could not answer."),
    };
    Some(Reply::new(status, "upstream", reason, detail))
}

/// Whether Pingora's reader gave up on the size of an answer's head, which it bounds on its own as well.
fn is_beyond_pingora(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<httparse::Error>();
    cause.is_some_and(|cause| *cause == httparse::Error::TooManyHeaders)
        || error.to_string().contains("Response header larger than")
}

fn response_timeout() -> Box<Reply> {
    Reply::new(StatusCode::GATEWAY_TIMEOUT, "upstream", "response_timeout", "The backend did not answer in time.")
}
