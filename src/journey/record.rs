//! The end of a request, whatever it was: its metrics, its line in the access log, and what it held for its time given back.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

use super::refusals::CLIENT_CLOSED;
use super::{Journey, without};
use crate::exchange::{Ending, Verdict};
use crate::observe::Record;
use crate::observe::record::trace_id;

impl Drop for Journey {
    fn drop(&mut self) {
        self.settle();
        let metrics = &self.view.metrics;
        metrics.request_ended();
        let took = self.exchange.started.elapsed();
        let outcome = &self.outcome;
        if !self.exchange.held.is_empty() {
            let answered_by = outcome.verdict.map(|verdict| verdict.policy);
            let ending = Ending { status: outcome.status, answered_by, upstream: outcome.upstream, took };
            self.exchange.held.drain(..).for_each(|held| held.release(&ending));
        }
        let route = self.route().map_or(metrics.no_route(), |route| &route.metrics);
        if let (Some(route), Some(service)) = (self.route(), outcome.service)
            && let Some(answers) = route.answers.get(service as usize)
        {
            answers.observe(outcome.status);
        }
        route.observe(&self.head.method, outcome.status, took, outcome.bytes_in, outcome.bytes_out);
        if let Some(verdict) = outcome.verdict
            && outcome.own != Some(verdict.policy)
        {
            metrics.refusal(verdict.policy, verdict.reason);
            route.refused(verdict.policy, verdict.reason);
        }
        let most = self.view.snapshot.counted_consumers;
        if most > 0
            && let Some(consumer) = self.exchange.consumer()
        {
            metrics.consumer(consumer, outcome.status, most);
        }
        if !outcome.cache.is_empty() {
            metrics.cache(outcome.cache);
            let saved = if matches!(outcome.cache, "hit" | "stale" | "revalidated") { outcome.bytes_out } else { 0 };
            route.cached(outcome.cache, saved);
        }
        if (outcome.upstream.is_some() || self.tries.attempts > 1)
            && let Some(served) = self.service().and_then(|service| self.view.snapshot.service_metrics.get(&service.key))
        {
            if let Some(time) = outcome.upstream {
                served.observe(time);
            }
            (0..self.tries.retries()).for_each(|_| served.retried());
        }
        if self.view.access_log.is_on()
            && let Some(suppressed) = self.samples()
        {
            let query = self.loggable_query();
            self.view.access_log.write(&self.record(took, &query, suppressed));
        }
    }
}

impl Journey {
    /// A request that ends without an answer, or in the middle of one, ran out of time, or its client went away.
    fn settle(&mut self) {
        if let Some(control) = self.control.as_deref().filter(|_| !self.ended) {
            // It was dropped where it stood, before it could say so itself.
            (self.outcome.bytes_in, self.outcome.bytes_out) = control.moved();
        }
        let cut = self.control.as_ref().is_some_and(|control| control.is_cut()) || !self.ended && self.view.drain.is_over();
        if cut && self.outcome.verdict.is_none() {
            if self.outcome.status == 0 {
                self.outcome.status = StatusCode::SERVICE_UNAVAILABLE.as_u16();
            }
            self.outcome.verdict = Some(Verdict { policy: "door", reason: "shutdown" });
            return;
        }
        if self.outcome.status != 0 {
            return;
        }
        let (status, verdict) = (CLIENT_CLOSED, Verdict { policy: "client", reason: "client_closed" });
        self.outcome.status = status.as_u16();
        self.outcome.verdict = Some(verdict);
    }

    /// Whether this request is logged: all are, but for refusals beyond a rate. If so, how many of its client's were left out before it.
    fn samples(&self) -> Option<u64> {
        let refused = self.outcome.verdict.is_some_and(|verdict| verdict.policy != "client");
        if refused && (400..500).contains(&self.outcome.status) {
            return self.view.access_log.samples(self.exchange.client);
        }
        Some(0)
    }

    /// The query without any credential: also on a route that takes none there, and on no route at all, because a client that
    /// mistakes the path still sends its key.
    fn loggable_query(&self) -> Cow<'_, [u8]> {
        let snapshot = &self.view.snapshot;
        match self.head.query_bytes() {
            Some(query) if snapshot.access_log.query && snapshot.credential_queries.is_empty() => Cow::Borrowed(query),
            Some(_) if snapshot.access_log.query => {
                let query = without(self.head.query().unwrap_or_default(), &snapshot.credential_queries);
                Cow::Owned(query.into_owned().into_bytes())
            }
            _ => Cow::Borrowed(b""),
        }
    }

    fn record<'a>(&'a self, took: Duration, query: &'a [u8], suppressed: u64) -> Record<'a> {
        let (head, exchange, outcome) = (&self.head, &self.exchange, &self.outcome);
        let identity = exchange.identity.as_deref();
        Record {
            time: self.wall,
            request_id: exchange.request_id.as_bytes(),
            trace_id: trace_id(&exchange.traceparent),
            client: Some(exchange.client),
            peer: Some(exchange.connection.peer),
            listener: &exchange.connection.listener,
            protocol: if head.version == http::Version::HTTP_2 { "h2" } else { "h1" },
            tls: exchange.connection.tls.as_ref().map_or("", |tls| tls.version),
            host: head.host.as_bytes(),
            method: head.loggable_method().as_bytes(),
            path: head.path.as_bytes(),
            query,
            route: self.route().map_or("", |route| &route.id),
            view: self.route().and_then(|route| route.view.as_ref()).map_or("", |view| &view.name),
            service: self.service().map_or("", |service| &service.key),
            endpoint: self.tries.endpoint,
            consumer: identity.and_then(|identity| identity.consumer.as_deref()).unwrap_or_default(),
            subject: identity.map_or("", |identity| &identity.subject),
            credential: identity.map_or("", |identity| &identity.credential),
            status: outcome.status,
            answered_by: match outcome.verdict {
                Some(verdict) => verdict.policy,
                None if outcome.own.is_some() => outcome.own.unwrap_or_default(),
                None if outcome.fallback == "static" => "fallback",
                None if matches!(outcome.cache, "hit" | "stale") => "cache",
                None => "upstream",
            },
            reason: outcome.verdict.map_or("", |verdict| verdict.reason),
            decided_by: outcome.decided_by.as_deref().unwrap_or_default(),
            suppressed,
            bytes_in: outcome.bytes_in,
            bytes_out: outcome.bytes_out,
            duration: took,
            upstream: outcome.upstream,
            upload: outcome.upload,
            stages: exchange.stages,
            retries: self.tries.retries(),
            retried_for: &self.tries.why,
            hedge: self.tries.hedge,
            cache: outcome.cache,
            cache_tier: outcome.cache_tier,
            fallback: outcome.fallback,
            parts: outcome.parts.as_deref().unwrap_or_default(),
            fault: exchange.fault,
            operation: exchange.operation.as_deref().unwrap_or_default(),
            client_closed: outcome.client_closed,
            grpc_method: self.tries.transcoded.as_ref().map_or("", |transcoded| &*transcoded.method),
            grpc_status: outcome.grpc_status.or_else(|| self.tries.transcoded.as_ref()?.status),
            tunnelled: outcome.tunnelled.as_ref().map(|all| (all.messages_in, all.messages_out, all.code, all.closed_by)),
            user_agent: head.header("user-agent").unwrap_or_default(),
            generation: self.view.snapshot.generation,
        }
    }
}
