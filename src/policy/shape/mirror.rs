//! `mirror`: copies of requests to another service, whose answers no client gets.
//!
//! What is copied and how much of it may be under way is decided here. The copies themselves are made where requests are taken to their
//! services ([`crate::forward`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::oneshot;

use crate::cel::{Expression, Kind};
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::listen::trace;
use crate::policy::{Compile, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::stripe::Striped;
use crate::tally::Counter;
use crate::value::{Period, Share, Size, Spanned, count_within, period_within};

const DEFAULT_IN_FLIGHT: u32 = 32;
const DEFAULT_BODY: u64 = 64 << 10;
const LARGEST_BODY: u64 = 1 << 20;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// So much of an answer's body is compared.
pub const MOST_COMPARED: usize = 1 << 20;

/// Copies of requests to another service: to try a new version with real requests, for instance. A copy is what the service itself gets,
/// with `X-Portcullis-Mirror: 1`. Clients neither wait for it nor see anything of it. Upgrades, gRPC calls, requests for event streams and
/// answers that come from the cache are not copied.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MirrorConfig {
    /// Who gets the copies, by its name under `services`.
    pub service: Spanned<String>,
    /// How many of the requests are copied. Default: all.
    #[serde(default)]
    pub share: Share,
    /// Only requests for which this CEL expression is true.
    #[serde(default)]
    pub when: Option<Spanned<String>>,
    /// Compares the copy's answer with the client's: its status, and the first MiB of its body. Differences are counted, and told in the
    /// diagnostic log at most once a second. Not on routes with a cache. Default: false.
    #[serde(default)]
    pub compare: bool,
    /// How many copies may be under way on each core, 1 to 10000; more are left out. Default: 32.
    #[serde(default)]
    pub max_in_flight: Option<Spanned<u32>>,
    /// The largest body that is copied, up to 1MiB; requests with a larger one are not. Default: `64KiB`.
    #[serde(default)]
    pub body: Option<Spanned<Size>>,
    /// How long a copy may take in all, `10ms` to `1m`. Default: `5s`.
    #[serde(default)]
    pub timeout: Option<Spanned<Period>>,
}

/// The compiled policy.
pub struct Mirror {
    pub service: Arc<str>,
    pub compare: bool,
    pub body: usize,
    pub timeout: Duration,
    pub counts: Counts,
    share: Share,
    when: Option<Expression>,
    most: usize,
    /// By core.
    in_flight: Arc<Striped<AtomicUsize>>,
    /// In milliseconds: no difference is told before.
    quiet_until: AtomicU64,
}

/// What became of the copies.
pub struct Counts {
    pub answered: Arc<Counter>,
    pub failed: Arc<Counter>,
    pub dropped: Arc<Counter>,
    pub too_large: Arc<Counter>,
    pub unfinished: Arc<Counter>,
    same: Arc<Counter>,
    other_status: Arc<Counter>,
    other_body: Arc<Counter>,
}

impl Policy for Mirror {
    const NAME: &'static str = "mirror";
    const STAGE: Stage = Stage::Shape;
    const SUMMARY: &'static str = "Sends copies of requests to another service, and compares its answers if asked to.";
    type Config = MirrorConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let service = cx.service(&config.service);
        let when = config.when.as_ref().map(|when| Expression::compile(&when.value, when.place, cx.problems, Kind::Bool));
        let most = config
            .max_in_flight
            .as_ref()
            .map_or(Some(DEFAULT_IN_FLIGHT), |most| count_within("max_in_flight", most, 1, 10_000, cx.problems));
        let body = config.body.as_ref().map_or(Some(DEFAULT_BODY), |size| {
            let good = size.value.0 <= LARGEST_BODY;
            if !good {
                cx.problems.push(Problem::error(size.place, "`body` is at most 1MiB"));
            }
            good.then_some(size.value.0)
        });
        let timeout = config
            .timeout
            .as_ref()
            .map_or(Some(DEFAULT_TIMEOUT), |timeout| period_within("timeout", timeout, 10, 60_000, cx.problems));
        let in_flight = cx.ledger.keep(&format!("{}/mirror", cx.scope), || Striped::new(|_| AtomicUsize::new(0)));
        Some(Mirror {
            service: service?,
            compare: config.compare,
            body: usize::try_from(body?).ok()?,
            timeout: timeout?,
            counts: Counts::new(cx),
            share: config.share,
            when: when.map_or(Some(None), |when| when.map(Some))?,
            most: most? as usize,
            in_flight,
            quiet_until: AtomicU64::new(0),
        })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.options().mirror = Some(self);
    }
}

impl Counts {
    fn new(cx: &Compile<'_>) -> Self {
        let copies = |outcome| {
            let help = "Copies of requests for another service, by what became of them.";
            cx.tallies.counter("portcullis_mirrored_requests_total", help, &[("scope", cx.scope), ("outcome", outcome)])
        };
        let compared = |outcome| {
            let help = "Answers to copies that were compared with the clients' answers, by what differed first.";
            cx.tallies.counter("portcullis_mirror_compared_total", help, &[("scope", cx.scope), ("outcome", outcome)])
        };
        Counts {
            answered: copies("answered"),
            failed: copies("failed"),
            dropped: copies("dropped"),
            too_large: copies("too_large"),
            unfinished: copies("unfinished"),
            same: compared("same"),
            other_status: compared("status"),
            other_body: compared("body"),
        }
    }
}

impl Mirror {
    /// Whether this request is to be copied.
    pub fn wants(&self, head: &RequestHead, exchange: &Exchange) -> bool {
        self.share.takes(trace::random())
            // A condition that fails on a request is not met.
            && self.when.as_ref().is_none_or(|when| when.bool(head, exchange).unwrap_or(false))
    }

    /// A place for a copy that can be sent now, if there is one.
    pub fn place(&self) -> Option<Place> {
        let taken = self.in_flight.mine().is_some_and(|mine| mine.fetch_add(1, Ordering::Relaxed) < self.most);
        // Made at once, for it gives back what was taken also where that was too much.
        let place = Place(self.in_flight.clone());
        if !taken {
            self.counts.dropped.add(1);
        }
        Some(place).filter(|_| taken)
    }

    /// Counts how an answer to a copy compares to the client's. `whose` is the route and the request.
    pub fn compare(&self, client: &Seen, copy: &Seen, whose: (&str, &str)) {
        let same_status = client.status == copy.status;
        if same_status && client.digest == copy.digest {
            return self.counts.same.add(1);
        }
        if same_status {
            self.counts.other_body.add(1)
        } else {
            self.counts.other_status.add(1)
        }
        let now = since_start();
        let until = self.quiet_until.load(Ordering::Relaxed);
        if now >= until && self.quiet_until.compare_exchange(until, now + 1000, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let digits = |seen: &Seen| seen.digest.to_hex().chars().take(16).collect::<String>();
            let (route, request) = whose;
            log::warn!(
                "mirror of `{route}`: the client's answer was {} (body {}), that of `{}` {} (body {}), for request {request}",
                client.status.as_u16(),
                digits(client),
                self.service,
                copy.status.as_u16(),
                digits(copy),
            );
        }
    }
}

/// Milliseconds since this was first asked.
fn since_start() -> u64 {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A copy's place among those that are under way on its core.
pub struct Place(Arc<Striped<AtomicUsize>>);

impl Drop for Place {
    fn drop(&mut self) {
        // On the core where it was taken: a copy stays there.
        if let Some(mine) = self.0.mine() {
            mine.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What is compared of an answer.
pub struct Seen {
    pub status: StatusCode,
    pub digest: blake3::Hash,
}

/// The digest of a body's beginning.
#[derive(Default)]
pub struct Digest {
    hasher: blake3::Hasher,
    seen: usize,
}

impl Digest {
    pub fn see(&mut self, piece: &[u8]) {
        let part = piece.get(..piece.len().min(MOST_COMPARED - self.seen)).unwrap_or_default();
        self.seen += part.len();
        self.hasher.update(part);
    }

    pub fn seen(&self, status: StatusCode) -> Seen {
        Seen { status, digest: self.hasher.finalize() }
    }
}

/// Looks at the client's answer, for whoever waits with the copy's.
pub struct Watch {
    digest: Digest,
    told: oneshot::Sender<Seen>,
}

impl Watch {
    pub fn new() -> (Watch, oneshot::Receiver<Seen>) {
        let (told, seen) = oneshot::channel();
        (Watch { digest: Digest::default(), told }, seen)
    }

    pub fn see(&mut self, piece: &[u8]) {
        self.digest.see(piece);
    }

    /// The answer was whole.
    pub fn end(self, status: StatusCode) {
        let _ = self.told.send(self.digest.seen(status));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_beginning_counts_in_whatever_pieces() {
        let (mut one, mut two) = (Digest::default(), Digest::default());
        one.see(&vec![7; MOST_COMPARED + 10]);
        for piece in vec![7; MOST_COMPARED].chunks(1000) {
            two.see(piece);
        }
        two.see(b"and more");
        assert_eq!(one.seen(StatusCode::OK).digest, two.seen(StatusCode::OK).digest);
    }
}
