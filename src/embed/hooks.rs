//! `ProxyHttp`, as a table of contents of what happens to a request on a stock server.

use std::any::Any;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version, header};
use pingora_cache::key::HashBinary;
use pingora_cache::storage::HitHandler;
use pingora_cache::{CacheKey, CacheMeta, CachePhase, ForcedFreshness, NoCacheReason, RespCacheable};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result, RetryType};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, RangeType, Session};

use super::Gateway;
use super::arrival;
use super::ctx::{Ctx, NO_JOURNEY, admit, end, journey, set_up};
use super::reply::{LATE, explain, give, refuse, send, was_refused};
use super::staged::Staged;
use crate::cache;
use crate::downstream::{BODY_TOO_LARGE, CLIENT_GONE, UNREAD, apply_to_response, is_endless, seen_upstream};
use crate::exchange::{Connection, Verdict};
use crate::grpc::{Dialect, Messages};
use crate::head::BodyFraming;
use crate::journey::{CLIENT_CLOSED, Journey};
use crate::policy::shape::cache::not_cached;
use crate::upstream::aim::Aim;
use crate::upstream::call::meant;
use crate::upstream::{AttemptOutcome, Protocol, check_names};
use crate::wire::answer::BadAnswer;
use crate::wire::view::AnswerView;
use crate::wire::{encode, trailers};

/// Tells connections apart that are made for one attempt only.
static REPLAYS: AtomicU64 = AtomicU64::new(0);
/// A policy gives another answer.
const REPLACED: ErrorType = ErrorType::Custom("AnswerReplaced");

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Ctx;

    fn new_ctx(&self) -> Self::CTX {
        Ctx::default()
    }

    /// None of Pingora's own: compression and the like are policies.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    fn on_connection_reuse(&self, _session: &mut Session, ctx: &mut Self::CTX, before: Box<dyn Any + Send + Sync>) {
        ctx.connection = before.downcast::<Arc<Connection>>().ok().map(|connection| *connection);
    }

    fn persist_connection_context(&self, _session: &Session, ctx: &Self::CTX) -> Option<Box<dyn Any + Send + Sync>> {
        ctx.connection.clone().map(|connection| Box::new(connection) as Box<dyn Any + Send + Sync>)
    }

    // The gauntlet.

    /// Reads the head by our own rules, and begins the journey, which from here on leaves its log line whatever happens.
    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<()> {
        let view = self.view().ok_or_else(|| Error::new(NO_JOURNEY))?;
        let local = arrival::local(session).unwrap_or_else(|| ([0, 0, 0, 0], 0).into());
        let Some(door) = self.door(&view.snapshot, local).cloned() else {
            // Whose rules would count?
            log::error!("a connection to {local}, where no listener of the configuration is bound");
            return Err(Error::new(NO_JOURNEY));
        };
        let connection = match ctx.connection.take() {
            Some(connection) if connection.listener == door.name => connection,
            _ => arrival::connection(session, door.name.clone()),
        };
        set_up(session, &door);
        let (head, refused) = match arrival::read_head(session, &door.head_limits) {
            Ok(head) => (head, None),
            Err(refused) => (Box::new(refused.head), Some(refused.bad)),
        };
        ctx.body.owes_continue = head.expects_continue;
        let mut journey = Journey::begin(view, &door, &connection, head);
        if let Some(bad) = refused {
            let kind = session.get_header(header::CONTENT_TYPE).filter(|_| session.is_http2());
            journey.dialect = kind.map_or(Dialect::Plain, |kind| Dialect::of(kind.as_bytes()));
            ctx.refused = Some(bad.reply());
        }
        ctx.connection = Some(connection);
        ctx.journey = Some(journey);
        ctx.door = Some(door);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<bool> {
        match admit(self, session, ctx).await {
            Ok(ControlFlow::Continue(())) if journey(ctx)?.answers_by_itself() => {
                match journey(ctx)?.give_own() {
                    Ok(given) => give(session, journey(ctx)?, given).await,
                    Err(reply) => refuse(session, journey(ctx)?, &reply).await,
                }
                .map_err(|error| error.into_down())?;
                self.part(session, ctx).await;
                Ok(true)
            }
            Ok(ControlFlow::Continue(())) => Ok(false),
            Ok(ControlFlow::Break(reply)) if reply.status == CLIENT_CLOSED => Err(Error::new(CLIENT_GONE)),
            Ok(ControlFlow::Break(reply)) => {
                refuse(session, journey(ctx)?, &reply).await.map_err(|error| error.into_down())?;
                self.part(session, ctx).await;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    // The cache.

    fn request_cache_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<()> {
        let Ctx { journey: Some(journey), wishes, .. } = ctx else { return Err(Error::new(NO_JOURNEY)) };
        if let Some(policy) = journey.cache_policy().cloned() {
            let (used, wanted) = journey.cache_use(&policy);
            *wishes = wanted;
            journey.cache_use = Some(journey.view.cache.enable(&mut session.cache, &policy, used));
        }
        Ok(())
    }

    fn cache_key_callback(&self, _session: &Session, ctx: &mut Self::CTX) -> Result<CacheKey> {
        let journey = journey(ctx)?;
        let (Some(route), Some(policy)) = (journey.route(), journey.cache_policy()) else { return Err(Error::new(NO_JOURNEY)) };
        Ok(journey.cache_key(route, policy).to_pingora(policy))
    }

    async fn cache_hit_filter(
        &self,
        _session: &mut Session,
        meta: &CacheMeta,
        _hit: &mut HitHandler,
        is_fresh: bool,
        ctx: &mut Self::CTX,
    ) -> Result<Option<ForcedFreshness>> {
        let wishes = ctx.wishes;
        let journey = journey(ctx)?;
        let (Some(used), Some(policy)) = (journey.cache_use, journey.cache_policy()) else { return Ok(None) };
        Ok(cache::stock::on_hit(used, &wishes, policy, meta, is_fresh))
    }

    fn should_serve_stale(&self, session: &mut Session, ctx: &mut Self::CTX, error: Option<&Error>) -> bool {
        let (journey, stored) = (ctx.journey.as_deref(), session.cache.maybe_cache_meta());
        let policy = journey.and_then(|journey| journey.cache_policy());
        let excused = policy.is_some_and(|policy| cache::stock::is_excused(error, stored, policy));
        if let Some(journey) = ctx.journey.as_deref_mut().filter(|_| excused) {
            journey.refusal = None;
        }
        excused
    }

    fn cache_miss(&self, session: &mut Session, ctx: &mut Self::CTX) {
        if let Some(used) = ctx.journey.as_deref().and_then(|journey| journey.cache_use) {
            cache::stock::on_miss(&mut session.cache, used);
        }
    }

    fn cache_vary_filter(&self, meta: &CacheMeta, ctx: &mut Self::CTX, _request: &RequestHeader) -> Option<HashBinary> {
        let journey = ctx.journey.as_deref()?;
        let policy = journey.cache_policy()?;
        cache::stock::vary(policy, meta, |name| seen_upstream(&journey.head, &journey.exchange, name))
    }

    fn response_cache_filter(&self, session: &Session, answer: &ResponseHeader, ctx: &mut Self::CTX) -> Result<RespCacheable> {
        let wishes = ctx.wishes;
        let journey = journey(ctx)?;
        let Some(policy) = journey.cache_policy() else {
            return Ok(RespCacheable::Uncacheable(NoCacheReason::Custom("no_policy")));
        };
        let (cache, asked) = (journey.view.cache, journey.tries.started);
        Ok(cache.judge(answer, &session.cache, asked, journey.validation.as_deref(), (policy, &wishes)))
    }

    fn range_header_filter(&self, session: &mut Session, answer: &mut ResponseHeader, _ctx: &mut Self::CTX) -> RangeType {
        let empty = answer.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() == b"0");
        cache::range(session.req_header(), answer, empty)
    }

    // The way to the backend.

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        let asked = ctx.journey.as_deref().is_some_and(|journey| journey.tries.attempts > 0);
        if asked && ctx.body.whole.is_none() && session.as_ref().retry_buffer_truncated() {
            // Whatever made Pingora ask again: what would be sent is not the request.
            return Err(Error::explain(ErrorType::ConnectionClosed, "the body's beginning is gone"));
        }
        let Ctx { journey: Some(journey), body, messages, wishes, .. } = ctx else { return Err(Error::new(NO_JOURNEY)) };
        if wishes.only_if_cached && !matches!(journey.cache_use, None | Some(cache::Use::Bypass(_))) {
            journey.refusal = Some(not_cached());
            return Err(Error::new(ErrorType::HTTPStatus(504)));
        }
        (body.passed, *messages) = (0, None);
        let view = journey.view.clone();
        let Some(service) = journey.choose_service(&view) else { return Err(Error::new(NO_JOURNEY)) };
        journey.outcome.interim = 0;
        journey.tries.aim = Aim::of(service, &journey.head, &journey.exchange);
        let Some(flight) = journey.tries.begin(service) else {
            journey.refusal = Some(journey.tries.unavailable(service));
            return Err(Error::new(ErrorType::HTTPStatus(503)));
        };
        let mut peer = service.peer(flight.endpoint(), None);
        journey.tries.started = Some(Instant::now());
        if journey.is_made_of_messages() {
            *messages = Some(Messages::default());
        }
        if journey.tries.has_replayed() {
            // A connection of its own, which is never kept: the next kept one may be as dead as the last.
            peer.group_key = REPLAYS.fetch_add(1, Ordering::Relaxed);
            peer.options.idle_timeout = Some(Duration::ZERO);
        }
        // Pingora has one limit for the wait for the head, which begins while the client still sends, and for the silence after it.
        let sends_long =
            body.whole.is_none() && !matches!(journey.head.body, BodyFraming::Length(0..=UNREAD) | BodyFraming::None);
        let silence = match (journey.asks_for_stream(), sends_long) {
            (true, _) => service.timeouts.stream,
            (false, true) => service.timeouts.stream.max(service.timeouts.response),
            (false, false) => service.timeouts.response,
        };
        let left = journey.deadline().unwrap_or(Duration::MAX);
        if left.is_zero() {
            return Err(Error::new(LATE));
        }
        // A call's deadline is one on its stream, too.
        let bounded = !journey.asks_for_stream() || journey.is_grpc();
        peer.options.read_timeout = Some(if bounded { silence.min(left) } else { silence });
        peer.options.total_connection_timeout = Some(service.timeouts.connect.min(left));
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
        } else {
            // Their interim answers are not heard, so they are not asked for one.
            request.remove_header(&header::EXPECT);
        }
        if let Some(deadline) = journey.told_deadline() {
            request.insert_header(deadline.name(), deadline.left())?;
        }
        Ok(())
    }

    /// What a policy has had read goes on as it was read; what comes as it comes is held to its bound.
    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        if end_of_stream && ctx.uploaded.is_none() {
            ctx.uploaded = Some(Instant::now());
        }
        let Some(piece) = body else { return Ok(()) };
        if let Some(whole) = &ctx.body.whole {
            *piece = whole.clone();
            return Ok(());
        }
        if ctx.journey.as_deref().is_some_and(|journey| journey.head.upgrade) {
            return Ok(());
        }
        ctx.body.passed += piece.len() as u64;
        let within = match &mut ctx.messages {
            None => ctx.body.passed <= ctx.body.most,
            Some(messages) => messages.are_within(ctx.body.most, piece),
        };
        // As the client's fault: what it takes for its own, Pingora's HTTP/2 keeps to itself, and waits for the backend's answer.
        if within { Ok(()) } else { Err(Error::new(BODY_TOO_LARGE).into_down()) }
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
        if let Some(journey) = ctx.journey.as_deref_mut() {
            let view = journey.view.clone();
            let service = journey.choose_service(&view);
            // Nothing of the request has been sent, so another endpoint may have it, whatever the method.
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
        let Ctx { journey, body, uploaded, .. } = ctx;
        let Some(journey) = journey.as_deref_mut() else { return error };
        let view = journey.view.clone();
        let service = journey.choose_service(&view);
        let tries = &mut journey.tries;
        let at_hand = body.whole.is_some() || !session.as_ref().retry_buffer_truncated();
        let whole = session.response_written().is_none() && at_hand;
        let dead = reused && matches!(error.retry, RetryType::ReusedOnly);
        let again = match service {
            Some(service) if whole && was_refused(&error) => tries.was_refused(service),
            // A kept connection that the backend had just closed: try again if asking twice does no harm.
            Some(_) if whole && dead => session.req_header().method.is_idempotent() && tries.replay(),
            _ => false,
        };
        error.set_retry(again);
        if !again
            && *error.esource() == ErrorSource::Upstream
            && let Some(service) = service
        {
            let outcome = if matches!(error.etype, ErrorType::ReadTimedout | ErrorType::WriteTimedout) {
                AttemptOutcome::TimedOut
            } else {
                AttemptOutcome::Broken
            };
            // As on the gateway's own engine: who still sends may have been waited for too long.
            match journey.head.body == BodyFraming::None || uploaded.is_some() {
                true => tries.failed(service, outcome),
                false => tries.failed_for_the_client(),
            }
        }
        error
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        answer: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        let uploaded = ctx.uploaded;
        let journey = journey(ctx)?;
        // Later it is the one that the client is answered in.
        journey.outcome.answered_in = answer.version;
        if answer.status == StatusCode::SWITCHING_PROTOCOLS && !journey.head.upgrade {
            // Nobody asked for it. To the client everything behind it would be the answer, to the backend everything behind the
            // request a protocol that no one here understands.
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "101 without a request to upgrade"));
        }
        let limits = journey.service().map(|service| service.limits).unwrap_or_default();
        let interim = is_interim(answer);
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
        if !interim {
            let view = journey.view.clone();
            if let Some(service) = journey.choose_service(&view) {
                let Journey { tries, head, .. } = &mut *journey;
                let field = |name: &http::HeaderName| answer.headers.get(name).map(http::HeaderValue::as_bytes);
                tries.answered(service, head, answer.status, field, uploaded);
            }
        }
        if journey.cache_use.is_some() && !interim {
            // Now, so that whoever gets it later is told the same.
            cache::rules::date_it(answer);
            journey.validation = cache::Validation::of(answer);
        }
        if !interim {
            journey.answer_began(uploaded);
            let view = journey.view.clone();
            if let Some(service) = journey.choose_service(&view) {
                let set = answer.headers.get_all(header::SET_COOKIE).iter().map(http::HeaderValue::as_bytes);
                let field = |name: &http::HeaderName| answer.headers.get(name).map(http::HeaderValue::as_bytes);
                journey.bind(service, meant(answer.status, field), set);
            }
            journey.note_grpc_status(&answer.headers);
        }
        Ok(())
    }

    /// A call may never end, and half-open breakers do not wait for that.
    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        let journey = journey(ctx)?;
        if journey.tries.awaits_a_message() && body.as_ref().is_some_and(|piece| !piece.is_empty()) {
            let view = journey.view.clone();
            if let Some(service) = journey.choose_service(&view) {
                journey.tries.body_came(service);
            }
        }
        Ok(None)
    }

    fn upstream_response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        let journey = journey(ctx)?;
        journey.note_grpc_status(trailers);
        let view = journey.view.clone();
        if let Some(service) = journey.choose_service(&view) {
            journey.tries.ended_with(service, trailers);
        }
        Ok(())
    }

    // The way back.

    async fn response_filter(&self, session: &mut Session, answer: &mut ResponseHeader, ctx: &mut Self::CTX) -> Result<()> {
        if is_interim(answer) {
            // Of these, only what a browser loads in advance.
            if let Some(mending) = journey(ctx)?.mending() {
                let links: Vec<_> = answer.headers.get_all(header::LINK).iter().map(|link| mending.link(link)).collect();
                answer.remove_header(&header::LINK);
                for link in links {
                    answer.append_header(header::LINK, link)?;
                }
            }
            return Ok(());
        }
        ctx.endless = is_endless(answer);
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            // Either side may be silent for as long as the service's `timeouts.stream` says.
            session.set_read_timeout(None);
        }
        let journey = journey(ctx)?;
        let noted = journey
            .changed(answer.status, answer.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())));
        if let Some(noted) = noted {
            noted.written().await;
        }
        if let (Some(validation), CachePhase::RevalidatedNoCache(_)) = (&journey.validation, session.cache.phase())
            && answer.status != StatusCode::NOT_MODIFIED
        {
            validation.update(answer);
        }
        strip(answer);
        if journey.hides_tags() {
            cache::tags::FIELDS.iter().for_each(|name| {
                answer.remove_header(name);
            });
        }
        if journey.head.version == Version::HTTP_10 && answer.headers.contains_key(header::TRANSFER_ENCODING) {
            // The client knows no chunks: its answer ends with the connection.
            answer.remove_header(&header::TRANSFER_ENCODING);
            session.set_keepalive(None);
        }
        let answered = match journey.answered(AnswerView::from(&*answer)) {
            Ok(answered) => answered,
            Err(reply) => {
                journey.refusal = Some(reply);
                return Err(Error::new(REPLACED));
            }
        };
        answer.set_status(answered.status)?;
        let staged = answered.stages.map(|stages| Staged::new(stages, answer));
        if let Some(via) = journey.exchange.via(journey.outcome.answered_in) {
            answer.append_header(header::VIA, via.clone())?;
        }
        apply_to_response(answer, &journey.exchange.request_id, &journey.exchange.to_client);
        if staged.is_some() && journey.head.version == Version::HTTP_11 && !answer.headers.contains_key(header::TRANSFER_ENCODING)
        {
            // Its length is known at its end.
            answer.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        }
        if let Some(used) = journey.cache_use {
            let outcome = cache::Outcome::of(&session.cache, used);
            journey.outcome.cache = outcome.word();
            answer.append_header(cache::CACHE_STATUS, journey.cache_field(outcome))?;
        }
        ctx.staged = staged;
        Ok(())
    }

    /// The one place in which a request's time can be looked at while its answer is on the way; and where stages work on it.
    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        if let Some(staged) = &mut ctx.staged {
            match staged.piece(body.take().unwrap_or_default(), end_of_stream) {
                Ok(changed) => *body = Some(changed).filter(|changed| !changed.is_empty()),
                Err(reply) => {
                    journey(ctx)?.refusal = Some(reply);
                    return Err(Error::new(REPLACED));
                }
            }
        }
        let due = ctx.journey.as_deref().map(|journey| journey.due());
        let now = tokio::time::Instant::now();
        let late = due.is_some_and(|due| {
            let answer = due.answer.filter(|_| !ctx.endless);
            answer.into_iter().chain(due.call).any(|due| due <= now)
        });
        if late { Err(Error::new(LATE)) } else { Ok(None) }
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
        // What comes of stages at the end takes the trailers' place: Pingora cannot send both.
        let Some(staged) = &mut ctx.staged else { return Ok(None) };
        match staged.piece(Bytes::new(), true) {
            Ok(rest) => Ok(Some(rest).filter(|rest| !rest.is_empty())),
            Err(reply) => {
                super::ctx::journey(ctx)?.refusal = Some(reply);
                Err(Error::new(REPLACED))
            }
        }
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Self::CTX) -> FailToProxy {
        let nothing = FailToProxy { error_code: 0, can_reuse_downstream: false };
        let Some(journey) = ctx.journey.as_deref_mut() else { return nothing };
        let reply = journey.refusal.take().or_else(|| explain(error, journey));
        let begun = session.response_written().is_some_and(|answer| !is_interim(answer));
        let Some(reply) = reply else {
            if begun {
                journey.outcome.client_closed = true;
                return nothing;
            }
            journey.outcome.status = CLIENT_CLOSED.as_u16();
            journey.outcome.verdict = Some(Verdict { policy: "client", reason: "client_closed" });
            return nothing;
        };
        if begun {
            // Too late for another answer: the client learns of it by the answer's early end.
            journey.outcome.verdict = Some(Verdict { policy: reply.policy, reason: "answer_broke_off" });
            if journey.dialect.is_grpc() && session.is_http2() {
                // The one thing that a client can still be told in the middle of its call.
                let _ = session.write_response_trailers(reply.trailers()).await;
            }
            return nothing;
        }
        journey.refused(&reply);
        // Pingora closes it after whatever has failed on the way to a backend.
        session.set_keepalive(None);
        if send(session, &reply, journey).await.is_err() {
            return nothing;
        }
        self.part(session, ctx).await;
        FailToProxy { error_code: reply.status.as_u16(), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Self::CTX) {
        end(session, ctx);
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

fn is_interim(answer: &ResponseHeader) -> bool {
    answer.status.is_informational() && answer.status != StatusCode::SWITCHING_PROTOCOLS
}

/// Takes out what belongs to the backend's connection. The framing stays, for Pingora writes what it reads; so does an upgrade's answer.
fn strip(answer: &mut ResponseHeader) {
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        answer.remove_header(&header::CONTENT_LENGTH);
        return;
    }
    let chunked = answer.headers.contains_key(header::TRANSFER_ENCODING) && answer.version != Version::HTTP_2;
    encode::strip(answer);
    if chunked {
        // One value, and a name that is known: it cannot fail.
        let _ = answer.insert_header(header::TRANSFER_ENCODING, "chunked");
    }
}
