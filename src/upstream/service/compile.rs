//! From what is written of a service to a service.

mod function;

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::{Converts, Kept, Service, Site};
use crate::breaker::config::{BreakerConfig, Scope};
use crate::breaker::{self, Breaker};
use crate::context::Context;
use crate::credentials::UpstreamAuth;
use crate::function::Function;
use crate::head::{AnswerLimits, MAX_ANSWER_FIELDS};
use crate::ledger::Ledger;
use crate::problem::{Place, Problem, Problems};
use crate::retry::budget::Budget;
use crate::retry::config::RetriesConfig;
use crate::retry::hedge::{Hedging, HedgingConfig};
use crate::retry::{self, Speaks};
use crate::transcode::config::{Serve, TranscodeConfig};
use crate::upstream::address::Address;
use crate::upstream::balance::subset::Subset;
use crate::upstream::cluster::{Board, Cluster, Member, Source, Spread};
use crate::upstream::config::{AnswerLimitsConfig, EndpointConfig, Protocol, ServiceConfig, TimeoutsConfig, UpstreamTlsConfig};
use crate::upstream::connect_calls::ConnectCalls;
use crate::upstream::discover::config::{Compiled as Found, DiscoverConfig};
use crate::upstream::dns::Name;
use crate::upstream::eligible::Panic;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::gate::Queue;
use crate::upstream::guard::Guard;
use crate::upstream::health::Check;
use crate::upstream::health_config::Initial;
use crate::upstream::outlier;
use crate::upstream::peer::{PeerTemplate, Timeouts, Tls};
use crate::upstream::reflection::Transcoding;
use crate::upstream::sticky::Sticky;
use crate::value::{Spanned, count_within, period_within};
use crate::wait::Pace;

/// The most endpoints that one service lists.
pub(in crate::upstream) const MOST_ENDPOINTS: usize = 10_000;
pub const MOST_WEIGHT: u32 = 1000;
/// The most connections to one endpoint that one core makes ahead.
const MOST_WARM: u32 = 1000;
const MOST_PRIORITY: u32 = 100;
/// The most requests under way at one endpoint.
const MOST_REQUESTS: u32 = 1_000_000;
/// How many requests wait for a connection, unless the file says.
const USUAL_PENDING: u32 = 100;
const HOUR: u64 = 3_600_000;

impl Service {
    /// Compiles the entry `name` under `services:`, which was written at `place`. Files are read relative to `base`; host names are
    /// not resolved here (see [`crate::upstream::dns::resolve`]). `None` only if there was a problem.
    pub fn compile(
        name: &str,
        place: Place,
        config: &ServiceConfig,
        base: &Path,
        problems: &mut Problems,
        kept: Kept<'_>,
    ) -> Option<Arc<Self>> {
        Self::compile_at(&Site::default(), name, place, config, base, problems, kept)
    }

    /// The same for a gateway that knows where it is.
    pub fn compile_at(
        site: &Site,
        name: &str,
        place: Place,
        config: &ServiceConfig,
        base: &Path,
        problems: &mut Problems,
        kept: Kept<'_>,
    ) -> Option<Arc<Self>> {
        let named = check_name(name, place, problems);
        let (config, function) = match &config.lambda {
            None => (Cow::Borrowed(config), None),
            Some(lambda) => {
                let (config, function) = function::reached(name, lambda, config, base, problems, kept)?;
                (Cow::Owned(config), Some(function))
            }
        };
        let addresses = read_addresses(name, place, &config, problems);
        let listed = addresses.as_deref().unwrap_or_default();
        let service = Self::build(site, name, name, listed, &config, base, function, problems, kept);
        service.filter(|_| named && addresses.is_some())
    }

    /// The service that a route means by a host and a port without an entry under `services:`, all defaults.
    pub fn implied(host: &str, port: u16, place: Place, problems: &mut Problems, kept: Kept<'_>) -> Option<Arc<Self>> {
        let address = match Address::of_host(host, port) {
            Ok(address) => address,
            Err(bad) => {
                problems.push(Problem::error(place, bad.message).hint(bad.hint));
                return None;
            }
        };
        let key = address.to_string();
        let listed = [Listed { address, weight: 1, priority: 0, zone: None, most: None, place }];
        Self::build(&Site::default(), host, &key, &listed, &ServiceConfig::default(), Path::new(""), None, problems, kept)
    }

    #[allow(clippy::too_many_arguments, reason = "what `compile` and `implied` have in common")]
    fn build(
        site: &Site,
        name: &str,
        key: &str,
        listed: &[Listed],
        config: &ServiceConfig,
        base: &Path,
        function: Option<Arc<Function>>,
        problems: &mut Problems,
        kept: Kept<'_>,
    ) -> Option<Arc<Self>> {
        let spread = compile_spread(site, name, key, config, base, problems, kept.ledger);
        let timeouts = compile_timeouts(&config.timeouts, problems);
        let limits = compile_limits(&config.limits, problems);
        let grace = period_within("body_grace", &config.timeouts.body_grace, 1000, 24 * HOUR, problems);
        let most = compile_most(config.max_requests.as_ref(), problems);
        let queue = compile_queue(config, problems);
        let hedged = config.hedging.is_some();
        let retries =
            compile_retries(&config.retries, (config.protocol, config.transcode.is_some()), hedged, key, problems, kept)
                .map(Arc::new);
        let keep_alive = count_within("keep_alive", &config.keep_alive, 0, 65_536, problems);
        let transcoder = config
            .transcode
            .as_ref()
            .map(|transcode| compile_transcoder(transcode, config.protocol, (key, base), problems, kept));
        let auth = config
            .upstream_auth
            .as_ref()
            .map(|auth| UpstreamAuth::compile(auth, &mut context(key, auth.place, base, problems, kept)));
        let warm = count_within("warm", &config.warm, 0, MOST_WARM, problems);
        if let (Some(keep_alive), Some(warm)) = (keep_alive, warm)
            && warm > keep_alive
        {
            let problem =
                Problem::error(config.warm.place, format!("`warm: {warm}` is more than `keep_alive` keeps, {keep_alive}"));
            problems.push(problem.hint("raise `keep_alive`"));
        }
        let retry_after = period_within("retry_after", &config.retry_after, 1000, HOUR, problems);
        let dns_refresh = period_within("dns_refresh", &config.dns_refresh, 1000, HOUR, problems);
        let tls = config.tls.0.as_ref().map(|tls| compile_tls(tls, listed, base, problems));
        let found = config.discover.as_ref().map(|discover| {
            let found = DiscoverConfig::compile(discover, config.tls.0.is_some(), config.dns_family.value, base, problems)?;
            let nameless = config.tls.0.as_ref().is_some_and(|tls| tls.verify.value && tls.server_name.is_none());
            if nameless && !found.named {
                let problem = Problem::error(discover.place, "no name to verify the certificates of what is found against");
                problems.push(problem.hint("set `tls.server_name` to the name that the certificates carry"));
                return None;
            }
            Some((found, discover.place))
        });
        let check = match &config.health_check {
            Some(check) => {
                let tls = tls.as_ref().and_then(Option::as_ref);
                Some(Check::compile(check, config.protocol, tls, problems))
            }
            None => None,
        };
        let outliers = config.outlier_detection.compile(problems);
        let panic = config.panic.as_ref().map(|panic| Panic::compile(panic, problems));
        let breaker = config.circuit_breaker.as_ref().map(|breaker| breaker.compile(problems).zip(Some(breaker.scope.value)));
        // An inner `None` is a problem that has been told.
        let transcoder = transcoder.map_or(Some(None), |one| one.map(Some))?;
        let (protocol, known) = (config.protocol, transcoder.as_ref());
        let connect = ConnectCalls::compile(config.connect.as_deref(), key, protocol, known, kept.tallies, problems)?;
        let auth = auth.map_or(Some(None), |one| one.map(Some))?;
        let converts = Converts { transcoder, function, auth };
        let as_is = converts.transcoder.is_none() && converts.function.is_none() && converts.auth.is_none();
        let (panic, breaker) = (panic.map_or(Some(None), |one| one.map(Some)), breaker.map_or(Some(None), |one| one.map(Some)));
        let (tls, check) = (tls.map_or(Some(None), |tls| tls.map(Some))?, check.map_or(Some(None), |check| check.map(Some))?);
        let found = found.map_or(Some(None), |found| found.map(Some))?;
        let (timeouts, spread, retries, queue) = (timeouts?, spread?, retries?, queue?);
        // There, who has no place waits for one.
        let most = if queue.is_some() && config.protocol.is_http2() { Some(None) } else { most };
        let alone = matches!(listed, [Listed { address: Address::Fixed(_), .. }]) && found.is_none();
        // Unix sockets and addresses of a file have no family to choose.
        let named = listed.iter().any(|one| matches!(one.address, Address::Named(..)))
            || config.discover.as_ref().is_some_and(|discover| discover.file.is_none());
        if config.dns_family.place.is_known() && !named {
            problems.push(Problem::error(config.dns_family.place, "`dns_family` has no effect: the service has no host name"));
            return None;
        }
        let hedging = match &config.hedging {
            None => None,
            Some(hedging) => {
                if alone && hedging.value != HedgingConfig::Off {
                    let problem = Problem::error(hedging.place, "`hedging` has no effect: there is no second endpoint");
                    problems.push(problem.hint("a copy is sent to another endpoint than the first"));
                    return None;
                }
                let sticky = spread.sticky.is_some();
                compile_hedging(
                    hedging,
                    (key, None),
                    &timeouts,
                    ((config.protocol, config.transcode.is_some()), &retries, sticky),
                    problems,
                    kept,
                )?
            }
        };
        let balance_decay = spread.balance.decay();
        let (slow_start, aimed) = (spread.slow_start, spread.balance.key().is_some() || spread.sticky.is_some());
        let breakers: Vec<_> = breaker?.map(|(rules, scope)| guard(rules, scope, key, None, kept)).into_iter().collect();
        let outliers = outliers?.map(Arc::new);
        let pace = Pace { silence: timeouts.response, grace: grace?, rate: config.limits.body_rate.value.0 };
        Some(Arc::new(Service {
            name: name.into(),
            key: key.into(),
            balance: spread.balance.clone(),
            sticky: spread.sticky.clone(),
            cluster: form_cluster(key, listed, found, (check.as_ref().map(|check| check.initial), panic?), most?, spread, kept),
            protocol: config.protocol,
            timeouts,
            limits: limits?,
            pace,
            retries,
            hedging,
            queue,
            keep_alive: keep_alive? as usize,
            converts: (!as_is).then(|| Arc::new(converts)),
            connect,
            warm: warm? as usize,
            retry_after: retry_after?,
            dns_refresh: dns_refresh?,
            policies: config.policies.clone(),
            check: check.map(Arc::new),
            notes_answers: looks_at_answers(&breakers, outliers.as_deref()),
            outliers,
            breakers,
            slow_start,
            aimed,
            named,
            balance_decay,
            peers: PeerTemplate::new(timeouts, config.protocol.plain(), tls.as_ref()),
            calls: (config.protocol == Protocol::Auto)
                .then(|| Arc::new(PeerTemplate::new(timeouts, Protocol::Grpc, tls.as_ref()))),
        }))
    }

    /// The same service behind a circuit breaker of a route's.
    pub fn behind(
        &self,
        route: &str,
        config: &Spanned<BreakerConfig>,
        problems: &mut Problems,
        kept: Kept<'_>,
    ) -> Option<Arc<Self>> {
        if config.scope.value == Scope::Endpoint {
            let problem = Problem::error(config.scope.place, "a route's circuit breaker is about its service as a whole");
            problems.push(problem.hint("a service's own may have `scope: endpoint`"));
            return None;
        }
        let rules = config.compile(problems)?;
        let mut service = self.clone();
        service.breakers.push(guard(rules, Scope::Service, &self.key, Some(route), kept));
        service.notes_answers = true;
        Some(Arc::new(service))
    }

    /// The same service with a route's own word on what is tried again.
    pub fn retried(&self, config: &RetriesConfig, hedged: bool, problems: &mut Problems, kept: Kept<'_>) -> Option<Arc<Self>> {
        if let Some(place) = config.budget.place() {
            let problem = Problem::error(place, "a retry budget is its service's, for all routes together");
            problems.push(problem.hint("write `budget` under the service's `retries`"));
            return None;
        }
        let mut service = self.clone();
        let rules = compile_retries(config, (self.protocol, self.transcodes()), hedged, &self.key, problems, kept)?;
        service.retries = Arc::new(rules.within(&self.retries));
        Some(Arc::new(service))
    }

    /// The same service with a route's own word on second copies.
    pub fn hedged(
        &self,
        config: &Spanned<HedgingConfig>,
        route: &str,
        problems: &mut Problems,
        kept: Kept<'_>,
    ) -> Option<Arc<Self>> {
        let about = ((self.protocol, self.transcodes()), &*self.retries, self.sticky.is_some());
        let hedging = compile_hedging(config, (&self.key, Some(route)), &self.timeouts, about, problems, kept)?;
        Some(Arc::new(Service { hedging, ..self.clone() }))
    }
}

/// For what is compiled elsewhere, as part of a service.
fn context<'a>(key: &'a str, place: Place, base: &'a Path, problems: &'a mut Problems, kept: Kept<'a>) -> Context<'a> {
    let Kept { ledger, tallies, background } = kept;
    Context { problems, place, scope: key, base, ledger, tallies, background }
}

fn looks_at_answers(breakers: &[Arc<Guard>], outliers: Option<&outlier::Rules>) -> bool {
    !breakers.is_empty() || outliers.is_some_and(outlier::Rules::looks_at_answers)
}

/// What is spent on retries is counted for the service as a whole, whichever route it is for.
fn compile_retries(
    config: &RetriesConfig,
    (protocol, transcodes): (Protocol, bool),
    hedged: bool,
    key: &str,
    problems: &mut Problems,
    kept: Kept<'_>,
) -> Option<retry::Rules> {
    let budget = kept.ledger.keep(&format!("service:{key}:retries"), || Budget::new(Instant::now()));
    let calls_only = protocol == Protocol::Grpc && !transcodes;
    let speaks = Speaks { http2: protocol.is_http2(), calls_only, transcodes, hedged };
    retry::Rules::compile(config, speaks, key, budget, kept.tallies, problems)
}

/// The outer `None` only if there was a problem.
#[allow(clippy::option_option, reason = "off, and a bad one")]
fn compile_hedging(
    config: &Spanned<HedgingConfig>,
    (service, route): (&str, Option<&str>),
    timeouts: &Timeouts,
    ((protocol, transcodes), retries, sticky): ((Protocol, bool), &retry::Rules, bool),
    problems: &mut Problems,
    kept: Kept<'_>,
) -> Option<Option<Arc<Hedging>>> {
    if config.value == HedgingConfig::Off {
        return Some(None);
    }
    if sticky {
        let problem = Problem::error(config.place, "`hedging` sends copies to other endpoints, and sessions are `sticky`");
        problems.push(problem.hint("leave one of them out"));
        return None;
    }
    if protocol == Protocol::Grpc && !transcodes && !retries.repeats(&http::Method::POST, |_| Some(b"1")) {
        let problem = Problem::error(config.place, "gRPC calls are POST, which is not sent twice, for it may be done twice");
        problems.push(problem.hint("if this service's calls may be done twice, say so: `retries: { methods: [ POST ] }`"));
        return None;
    }
    let limit = timeouts.attempt.unwrap_or(timeouts.response).min(timeouts.response);
    let before = problems.error_count();
    let hedging = Hedging::compile(config, service, route, limit, (kept.ledger, kept.tallies), problems);
    (problems.error_count() == before).then(|| hedging.map(Arc::new))
}

fn guard(rules: breaker::Rules, scope: Scope, service: &str, route: Option<&str>, kept: Kept<'_>) -> Arc<Guard> {
    let key = || format!("service:{service}:breaker:{}", route.unwrap_or_default());
    let breaker = (scope == Scope::Service).then(|| kept.ledger.keep(&key(), Breaker::default));
    Arc::new(Guard::new(rules, service, route, breaker, kept.tallies))
}

/// An endpoint as listed, read.
pub(in crate::upstream) struct Listed {
    pub address: Address,
    pub weight: u32,
    pub priority: u32,
    pub zone: Option<Arc<str>>,
    pub most: Option<u32>,
    place: Place,
}

/// A service's name stands in logs, metrics and ledger keys: 1 to 64 letters, digits, `.`, `_` and `-`.
pub fn check_name(name: &str, place: Place, problems: &mut Problems) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    let fine = plain && (1..=64).contains(&name.len());
    if !fine {
        let problem = Problem::error(place, format!("`{name}` cannot be a service's name"));
        problems.push(problem.hint("a name has 1 to 64 letters, digits, `.`, `_` and `-`"));
    }
    fine
}

/// `None` only if there was a problem.
fn read_addresses(name: &str, place: Place, config: &ServiceConfig, problems: &mut Problems) -> Option<Vec<Listed>> {
    let whole = place;
    let place = if config.endpoints.place.is_known() { config.endpoints.place } else { place };
    if config.endpoints.is_empty() && config.discover.is_some() {
        return Some(Vec::new());
    }
    if config.endpoints.is_empty() && problems.has_lost(whole, "endpoints") {
        return None;
    }
    if config.endpoints.is_empty() {
        let problem = Problem::error(place, format!("the service `{name}` has no endpoints"));
        problems.push(problem.hint("for example `endpoints: [10.0.0.1:9001]`"));
        return None;
    }
    if config.endpoints.len() > MOST_ENDPOINTS {
        problems.push(Problem::error(place, format!("the service `{name}` lists more than {MOST_ENDPOINTS} endpoints")));
        return None;
    }
    let mut known = HashSet::with_capacity(config.endpoints.len());
    let mut listed = Vec::with_capacity(config.endpoints.len());
    for endpoint in config.endpoints.iter() {
        listed.extend(read_address(endpoint, config.tls.0.is_some(), &mut known, problems));
    }
    (listed.len() == config.endpoints.len()).then_some(listed)
}

pub(in crate::upstream) fn read_address(
    config: &EndpointConfig,
    tls: bool,
    known: &mut HashSet<Address>,
    problems: &mut Problems,
) -> Option<Listed> {
    let weight = count_within("weight", &config.weight, 0, MOST_WEIGHT, problems);
    let priority = count_within("priority", &config.priority, 0, MOST_PRIORITY, problems);
    let most = compile_most(config.max_requests.as_ref(), problems);
    let zone = config.zone.as_ref().map(|zone| zone.value.as_str().into());
    let place = config.address.place;
    let address = match Address::parse_of(&config.address, tls) {
        Ok(address) => address,
        Err(bad) => {
            problems.push(Problem::error(place, bad.message).hint(bad.hint));
            return None;
        }
    };
    if !known.insert(address.clone()) {
        problems.push(Problem::error(place, format!("`{address}` is listed twice")).hint("give it a `weight` instead"));
        return None;
    }
    Some(Listed { address, weight: weight?, priority: priority?, zone, most: most?, place })
}

/// `None` only if there was a problem.
#[allow(clippy::option_option, reason = "no bound, and a bad one")]
fn compile_most(most: Option<&Spanned<u32>>, problems: &mut Problems) -> Option<Option<u32>> {
    match most {
        Some(most) => count_within("max_requests", most, 1, MOST_REQUESTS, problems).map(Some),
        None => Some(None),
    }
}

/// The outer `None` only if there was a problem.
#[allow(clippy::option_option, reason = "no bound, and a bad one")]
fn compile_queue(config: &ServiceConfig, problems: &mut Problems) -> Option<Option<Queue>> {
    let wait = period_within("queue", &config.timeouts.queue, 1, 600_000, problems);
    let pending = match &config.max_pending {
        Some(pending) => count_within("max_pending", pending, 0, MOST_REQUESTS, problems)?,
        None => USUAL_PENDING,
    };
    let refuse = |place: Place, message: &str, hint: &str, problems: &mut Problems| {
        problems.push(Problem::error(place, message.to_owned()).hint(hint.to_owned()));
        None
    };
    let bound = config.max_connections.as_ref().or(config.max_pending.as_ref());
    if let Some(bound) = bound.filter(|_| config.protocol == Protocol::Auto) {
        let message = "`protocol: auto` has both connections and streams: neither can be counted for the other";
        return refuse(bound.place, message, "give the calls a service of their own, with `protocol: grpc`", problems);
    }
    let most = match (&config.max_connections, &config.max_pending, &config.max_requests) {
        (Some(most), ..) if config.protocol.is_http2() => {
            let message = "HTTP/2 has one connection of each core to an endpoint for all requests";
            return refuse(
                most.place,
                message,
                "bound the requests with `max_requests`, and who waits with `max_pending`",
                problems,
            );
        }
        (Some(most), ..) if config.warm.value > 0 => {
            let message = "`max_connections` bounds the connections of all cores together, and `warm` is for each core";
            return refuse(most.place, message, "leave `warm` out", problems);
        }
        (Some(most), ..) => count_within("max_connections", most, 1, 65_536, problems)?,
        (None, Some(pending), Some(most)) if config.protocol.is_http2() => {
            if config.endpoints.iter().any(|endpoint| endpoint.max_requests.is_some()) {
                let message = "with `max_pending`, `max_requests` is the service's, for each of its endpoints";
                return refuse(pending.place, message, "leave `max_requests` of the endpoints out", problems);
            }
            count_within("max_requests", most, 1, MOST_REQUESTS, problems)?
        }
        (None, Some(pending), _) => {
            let message = "`max_pending` has no effect: there is nothing to wait for";
            let what = if config.protocol.is_http2() { "max_requests" } else { "max_connections" };
            return refuse(pending.place, message, &format!("set `{what}`"), problems);
        }
        (None, None, _) if config.timeouts.queue.place.is_known() => {
            let message = "`timeouts.queue` has no effect: there is nothing to wait for";
            return refuse(config.timeouts.queue.place, message, "set `max_connections`", problems);
        }
        (None, None, _) => return Some(None),
    };
    Some(Some(Queue { most: most as usize, pending: pending as usize, wait: wait? }))
}

/// `None` only if there was a problem.
fn compile_spread(
    site: &Site,
    name: &str,
    key: &str,
    config: &ServiceConfig,
    base: &Path,
    problems: &mut Problems,
    ledger: &Ledger,
) -> Option<Spread> {
    let before = problems.error_count();
    config.balance.check(problems);
    let slow_start = config.slow_start.as_ref().and_then(|window| period_within("slow_start", window, 100, HOUR, problems));
    let Spanned { value: overprovisioning, place } = config.overprovisioning;
    if !(1.0..=10.0).contains(&overprovisioning) {
        problems.push(Problem::error(place, "`overprovisioning` is not between 1 and 10"));
    }
    let subset = config.subset.as_ref().and_then(|size| {
        let gateway = site.number;
        if gateway.is_none() {
            let problem = Problem::error(size.place, "which part of the endpoints is this gateway's?");
            problems.push(problem.hint("say which gateway of the fleet it is with `server.number`, from 0"));
        }
        let size = count_within("subset", size, 1, MOST_ENDPOINTS as u32, problems)? as usize;
        Some(Subset { size, gateway: gateway? })
    });
    let sticky = config.sticky.as_ref().and_then(|sticky| Sticky::compile(sticky, name, key, base, problems, ledger));
    (problems.error_count() == before).then(|| Spread {
        balance: config.balance.clone(),
        zone: site.zone.clone(),
        overprovisioning,
        slow_start,
        subset,
        sticky: sticky.map(Arc::new),
        family: config.dns_family.value,
    })
}

fn compile_transcoder(
    config: &Spanned<TranscodeConfig>,
    protocol: Protocol,
    (service, base): (&str, &Path),
    problems: &mut Problems,
    kept: Kept<'_>,
) -> Option<Transcoding> {
    if config.serve == Serve::Grpc && protocol == Protocol::Grpc {
        let problem = Problem::error(config.place, "`serve: grpc` is for a service of REST, and this one speaks gRPC");
        problems.push(problem.hint("gRPC clients can call it as it is"));
        return None;
    }
    if config.serve == Serve::Rest && !protocol.is_http2() {
        let problem = Problem::error(config.place, "`transcode` makes calls of gRPC's, and the service speaks HTTP/1.1");
        problems.push(problem.hint("protocol: grpc; or serve: grpc, where the clients speak gRPC and the service REST"));
        return None;
    }
    Transcoding::compile(config, (service, base), problems, kept)
}

fn compile_timeouts(config: &TimeoutsConfig, problems: &mut Problems) -> Option<Timeouts> {
    let connect = period_within("connect", &config.connect, 1, 60_000, problems);
    let response = period_within("response", &config.response, 1, 24 * HOUR, problems);
    let stream = period_within("stream", &config.stream, 1000, 24 * HOUR, problems);
    let write = period_within("write", &config.write, 1, 24 * HOUR, problems);
    let attempt = config.attempt.as_ref().map(|attempt| period_within("try", attempt, 1, 24 * HOUR, problems));
    if let (Some(attempt), Some(Some(limit)), Some(response)) = (&config.attempt, attempt, response)
        && limit >= response
    {
        let problem = Problem::error(attempt.place, "`try` has no effect: it is not shorter than `response`");
        problems.push(problem.hint("make it shorter, or leave it out"));
        return None;
    }
    // An inner `None` is a problem that has been told.
    let attempt = attempt.map_or(Some(None), |attempt| attempt.map(Some));
    let idle = period_within("idle", &config.idle, 1000, HOUR, problems);
    Some(Timeouts { connect: connect?, response: response?, attempt: attempt?, stream: stream?, write: write?, idle: idle? })
}

fn compile_limits(config: &AnswerLimitsConfig, problems: &mut Problems) -> Option<AnswerLimits> {
    let head = config.head.value.0;
    let fine = (1 << 10..=512 << 10).contains(&head);
    if !fine {
        problems.push(Problem::error(config.head.place, "`limits.head` must be 1KiB to 512KiB"));
    }
    let fields = count_within("limits.headers", &config.headers, 1, MAX_ANSWER_FIELDS as u32, problems);
    let interim = count_within("limits.interim", &config.interim, 1, 256, problems);
    Some(AnswerLimits { head: fine.then_some(head)? as usize, fields: fields? as usize, interim: interim? })
}

/// Pingora verifies nothing where it has no name to verify. That must not happen unasked.
fn compile_tls(config: &Spanned<UpstreamTlsConfig>, listed: &[Listed], base: &Path, problems: &mut Problems) -> Option<Tls> {
    let tls = Tls::compile(config, base, problems)?;
    let nameless = listed.iter().find(|listed| listed.address.host_name().is_none());
    match nameless {
        Some(listed) if tls.verify && tls.server_name.is_none() => {
            let message = format!("no name to verify the certificate of `{}` against", listed.address);
            let problem = Problem::error(listed.place, message);
            problems.push(problem.hint("set `tls.server_name` to the name that the certificate carries"));
            None
        }
        _ => Some(tls),
    }
}

fn form_cluster(
    key: &str,
    listed: &[Listed],
    found: Option<(Found, Place)>,
    (checked, panic): (Option<Initial>, Option<Panic>),
    most: Option<u32>,
    spread: Spread,
    Kept { ledger, tallies, .. }: Kept<'_>,
) -> Arc<Cluster> {
    let members = listed.iter().map(|listed| {
        let authority = listed.address.to_string();
        let source = match &listed.address {
            Address::Fixed(address) => {
                let key = format!("service:{key}:endpoint:{authority}");
                Source::Fixed(ledger.keep(&key, || Endpoint::new(*address, &authority, None)))
            }
            Address::Named(host, port) => {
                let family = spread.family;
                let key = format!("service:{key}:name:{authority}{}", family.key());
                Source::Named(ledger.keep(&key, || Name::new(host, *port, family)))
            }
        };
        let Listed { weight, priority, ref zone, place, .. } = *listed;
        Member { source, weight, priority, zone: zone.clone(), most: listed.most.or(most), place }
    });
    let found = found.map(|(found, place)| {
        let Found { key: of, discovery, .. } = found;
        let name = ledger.keep(&format!("service:{key}:{of}"), || Name::of(discovery));
        Member { source: Source::Named(name), weight: 1, priority: 0, zone: None, most, place }
    });
    let members = members.chain(found);
    let board = ledger.keep(&format!("service:{key}:board"), || Board::new(key, tallies.clone()));
    Cluster::new(members.collect(), checked, panic, spread, board)
}
