//! Fetching behind the clients' backs what they have got stale (RFC 5861, section 3): on a task of its own, so that no client waits for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};

use super::judge::Judge;
use super::{filling, shared, stale};
use crate::cache::{Cache, CachePolicy, Fetch};
use crate::downstream::seen_upstream;
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::journey::Journey;
use crate::observe::{Fetched, RouteMetrics};
use crate::upstream::call::{Call, CallError, Caller, Fill, Own, Tries};
use crate::upstream::{AttemptOutcome, Service, TlsConnector};

/// The longest that one may take. Until then nobody else does it.
const LONGEST: Duration = Duration::from_secs(60);

pub(super) struct Refresh {
    pub caller: Arc<Caller>,
    pub cache: &'static Cache,
    pub policy: Arc<CachePolicy>,
    pub judge: Judge,
    pub metrics: Arc<RouteMetrics>,
    pub fetch: Fetch,
    pub tls: Arc<TlsConnector>,
    pub service: Arc<Service>,
    pub head: RequestHead,
    pub exchange: Exchange,
    pub target: Option<String>,
    pub body: Bytes,
}

/// Begins one, on a task of this worker.
///
/// `body`: what it asks by, if it asks by its body.
pub fn begin(caller: &Arc<Caller>, journey: &Journey, service: &Service, policy: &Arc<CachePolicy>, fetch: Fetch, body: Bytes) {
    let (Some(service), Some(route)) = (shared(journey, service), journey.route()) else { return };
    let mut head = RequestHead::clone(&journey.head);
    if head.method == Method::HEAD {
        head.method = Method::GET;
    }
    let refresh = Refresh {
        caller: caller.clone(),
        cache: journey.view.cache,
        policy: policy.clone(),
        judge: Judge::of(journey),
        metrics: route.metrics.clone(),
        fetch,
        tls: journey.view.tls.clone(),
        service,
        head,
        exchange: journey.exchange.retold(),
        target: journey.upstream_target(),
        body,
    };
    refresh.begin();
}

impl Refresh {
    /// Begins it, on a task of this worker.
    pub(super) fn begin(self) {
        tokio::spawn(self.run());
    }

    async fn run(self) {
        let (service, metrics) = (self.service.clone(), self.metrics.clone());
        let mut tries = Tries::default();
        // Whatever goes wrong with it, the turn is given up when the fetch is dropped.
        let fetched = tokio::time::timeout(LONGEST, self.ask(&mut tries)).await.unwrap_or_else(|_| {
            tries.failed(&service, AttemptOutcome::TimedOut);
            Fetched::Failed(format!("it took more than {} s", LONGEST.as_secs()).into())
        });
        tries.end();
        metrics.fetched(&service.key, &fetched);
    }

    async fn ask(self, tries: &mut Tries) -> Fetched {
        let Refresh { caller, cache, policy, judge, mut fetch, tls, service, head, exchange, target, body, .. } = self;
        if cache.is_fetched(&mut fetch, &policy).await {
            return Fetched::Found;
        }
        let answer = loop {
            let fill = Fill { validators: fetch.validators() };
            let call = Call { head: &head, exchange: &exchange, target: target.as_deref(), fill: Some(&fill), stands_for: None };
            let answer = match caller.send(&service, &call, tries, &mut Own(body.clone()), &tls).await {
                Ok(answer) => answer,
                Err(error) => {
                    fetch.failed();
                    let reason = match error {
                        CallError::Service(reply) => reply.reason,
                        CallError::Client(_) => "its body cannot be sent",
                    };
                    return Fetched::Failed(reason.into());
                }
            };
            if answer.head.status != StatusCode::NOT_MODIFIED || !fetch.validates() {
                break answer;
            }
            let validated = cache.validated(fetch, &answer.head, tries.started, &policy);
            caller.keep(answer, &service);
            match validated {
                Ok(_) => return Fetched::Validated,
                Err(anew) => fetch = *anew,
            }
        };
        let status = answer.head.status;
        let refused = || Fetched::Failed(format!("it answered {}", status.as_u16()).into());
        if stale::is_error(status) && fetch.has_better() {
            return refused();
        }
        if !judge.admits(&answer.head, tries) {
            fetch.failed();
            return Fetched::Failed("its answer is not for clients".into());
        }
        let seen = |name: &_| seen_upstream(&head, &exchange, name);
        let keeping = cache.admit(fetch, &answer.head, &head.method, tries.started, &policy, seen);
        match filling::store(cache, (keeping, &judge), answer, &caller, &service, tries).await {
            Fetched::NotStored if stale::is_error(status) => refused(),
            fetched => fetched,
        }
    }
}
