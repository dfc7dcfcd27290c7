//! The endpoints of one service in one generation, and the published choice among those that may be asked.
//!
//! A cluster is rebuilt with every generation; what it stands on is kept in the ledger and shared with the generations before it:
//! the [`Endpoint`]s, the resolved [`Name`]s and the [`Board`], through which a change of health or of addresses reaches every
//! generation that is still in use.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use log::{info, warn};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::aim::Aim;
use super::balance::levels::{Level, Levels};
use super::balance::subset::Subset;
use super::balance::{self, Ask, Balance, Seat, slow_start};
use super::discover::family::Family;
use super::dns::{Located, Name};
use super::eligible::{Choice, Panic, Then, eligible};
use super::endpoint::{Crowd, Endpoint, EndpointRef, EndpointView};
use super::health_config::Initial;
use super::occurrences::Occurrences;
use super::sticky::{Id, Sticky};
use crate::address::EndpointAddress;
use crate::problem::Place;
use crate::stripe::Striped;
use crate::tally::Tallies;

/// Where a member's addresses come from.
#[derive(Clone)]
pub enum Source {
    Fixed(Arc<Endpoint>),
    Named(Arc<Name>),
}

/// One configured endpoint. Every address of a host name gets the full weight.
#[derive(Clone)]
pub struct Member {
    pub source: Source,
    /// As configured; 0 is drained.
    pub weight: u32,
    /// The lowest comes first.
    pub priority: u32,
    pub zone: Option<Arc<str>>,
    /// How many requests may be under way at each of its addresses.
    pub most: Option<u32>,
    pub place: Place,
}

/// How requests are spread over a cluster.
#[derive(Clone)]
pub struct Spread {
    pub balance: Balance,
    /// The gateway's own zone.
    pub zone: Option<Arc<str>>,
    /// By how much the healthy share of a level is overestimated before requests spill over.
    pub overprovisioning: f64,
    pub slow_start: Option<Duration>,
    pub subset: Option<Subset>,
    pub sticky: Option<Arc<Sticky>>,
    /// Which addresses of host names come first.
    pub family: Family,
}

/// What endpoints of one level have in common: their priority, whether they are in another zone, and not of the preferred family.
type Rank = (u32, bool, bool);

/// An endpoint where it stands.
struct Placed<'a> {
    member: Cow<'a, Member>,
    endpoint: Arc<Endpoint>,
}

impl Placed<'_> {
    /// 0 is drained.
    fn weight(&self) -> u32 {
        self.endpoint.weight_or(self.member.weight)
    }

    /// Whether it gets no new requests, as an operator wants it.
    fn is_drained(&self) -> bool {
        self.weight() == 0 || self.endpoint.is_drained()
    }

    fn seat(&self, weight: u32, steady: u32) -> Seat {
        let mut seat = Seat::new(self.endpoint.clone(), weight);
        (seat.steady, seat.most) = (steady, self.member.most);
        seat
    }
}

/// What is published: who may be asked.
struct Published {
    levels: Levels,
    /// Whether some endpoint may be full.
    limited: bool,
    /// Where sessions may go that are bound already, by what the endpoint is called; the drained are among them.
    bound: Box<[(Id, Seat)]>,
}

impl Published {
    fn of(&self, id: Id) -> Option<&Seat> {
        let at = self.bound.binary_search_by_key(&id, |(known, _)| *known).ok()?;
        self.bound.get(at).map(|(_, seat)| seat)
    }
}

/// Whose turn it is on one thread.
struct Turns {
    next: AtomicU64,
    /// Draws of those whose turn it is not.
    drawn: AtomicU64,
    seed: u64,
}

/// What the generations of one service share: whose turn it is, and who wants to hear of changes.
pub struct Board {
    /// The service's, for the log and the metrics.
    name: Box<str>,
    turns: Striped<Turns>,
    crowd: Arc<Crowd>,
    clusters: Mutex<Generations>,
    /// Wakes the service's watcher.
    wake: Notify,
    occurrences: Occurrences,
    /// Too few endpoints were well when the present generation's choice was last built.
    panics: AtomicBool,
}

/// The clusters of a service's generations that are in use.
#[derive(Default)]
struct Generations {
    all: Vec<Weak<Cluster>>,
    /// That of the generation that was taken last. One that was only compiled may be refused.
    taken: Weak<Cluster>,
}

impl Generations {
    fn present(&self) -> Weak<Cluster> {
        let lives = |cluster: &&Weak<Cluster>| cluster.strong_count() > 0;
        Some(&self.taken).filter(lives).or_else(|| self.all.iter().rfind(lives)).cloned().unwrap_or_default()
    }
}

/// How a service stands.
pub struct Standing {
    pub available: usize,
    pub all: usize,
}

impl Board {
    pub fn new(name: &str, tallies: Arc<Tallies>) -> Self {
        // Each thread starts at another point of the cycle: otherwise all of them would send their first request to the same
        // endpoint.
        let turns = |stripe| Turns {
            next: AtomicU64::new(stripe as u64),
            drawn: AtomicU64::new(0),
            seed: ahash::RandomState::new().hash_one(stripe),
        };
        Board {
            name: name.into(),
            turns: Striped::new(turns),
            crowd: Arc::default(),
            clusters: Mutex::default(),
            wake: Notify::new(),
            occurrences: Occurrences::new(tallies),
            panics: AtomicBool::new(false),
        }
    }

    /// Something has come of requests that the service's watcher should have a look at.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits for that.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Counts an endpoint that is left out.
    pub(super) fn count_ejected(&self, reason: &'static str) {
        let help = "Endpoints that were left out for what came of their requests, by reason.";
        let labels = [("service", &*self.name), ("reason", reason)];
        self.occurrences.count("portcullis_upstream_ejections_total", help, &labels, reason);
    }

    /// Counts one that would have been, had not too many been left out already.
    pub(super) fn count_prevented(&self, reason: &'static str) {
        let help = "Endpoints that would have been left out if not so many had been already, by reason.";
        let labels = [("service", &*self.name), ("reason", reason)];
        self.occurrences.count("portcullis_upstream_ejections_prevented_total", help, &labels, reason);
    }

    /// Counts a change of what health checks say.
    pub(super) fn count_health(&self, healthy: bool) {
        let help = "Changes of endpoints' health, by what health checks found.";
        let to = if healthy { "healthy" } else { "unhealthy" };
        let labels = [("service", &*self.name), ("to", to)];
        self.occurrences.count("portcullis_upstream_health_changes_total", help, &labels, to);
    }

    /// Counts a question for endpoints that had no answer.
    pub(super) fn count_not_found(&self, kind: &'static str) {
        let help = "Questions for a service's endpoints that had no answer that can be used, by what was asked: a host, a record or a file.";
        let labels = [("service", &*self.name), ("kind", kind)];
        self.occurrences.count("portcullis_upstream_discovery_failures_total", help, &labels, kind);
    }

    /// Counts an answer that came too slowly to be waited for.
    pub(super) fn count_too_slow(&self) {
        let help = "Answers that were given up because their bodies came more slowly than `limits.body_rate`.";
        self.occurrences.count("portcullis_upstream_answers_too_slow_total", help, &[("service", &*self.name)], "");
    }

    /// Counts endpoints that an operator takes out or back.
    pub fn count_drained(&self, drained: bool) {
        let help = "Endpoints that an operator took out, or back.";
        let to = if drained { "drained" } else { "undrained" };
        let labels = [("service", &*self.name), ("to", to)];
        self.occurrences.count("portcullis_upstream_drains_total", help, &labels, to);
    }

    /// Notes whether too few endpoints are well, and says so when that changes.
    fn note_panic(&self, choice: Choice) {
        let panics = choice != Choice::Well;
        if self.panics.swap(panics, Ordering::AcqRel) == panics {
            return;
        }
        let name = &self.name;
        match choice {
            Choice::Panic(Then::AskAll) => warn!("service `{name}`: too few endpoints are well: all of them are asked"),
            Choice::Panic(Then::Refuse) => warn!("service `{name}`: too few endpoints are well: requests are answered 503"),
            Choice::Well => info!("service `{name}`: enough endpoints are well again"),
        }
        if panics {
            let help = "How often too few endpoints of a service were well.";
            self.occurrences.count("portcullis_upstream_panics_total", help, &[("service", name)], "");
        }
    }

    pub fn panics(&self) -> bool {
        self.panics.load(Ordering::Acquire)
    }

    /// Whose turn it is, and the thread's seed.
    fn ticket(&self) -> (u64, u64) {
        self.turns.mine().map_or((0, 0), |turns| (turns.next.fetch_add(1, Ordering::Relaxed), turns.seed))
    }

    /// The same for who asks a second time: any turn, so that none is taken from the requests to come.
    fn another_ticket(&self) -> (u64, u64) {
        let draw = |turns: &Turns| (balance::mix(turns.drawn.fetch_add(1, Ordering::Relaxed) ^ !turns.seed), turns.seed);
        self.turns.mine().map_or((0, 0), draw)
    }

    fn join(&self, cluster: &Arc<Cluster>) {
        let mut clusters = self.clusters.lock();
        clusters.all.retain(|known| known.strong_count() > 0);
        clusters.all.push(Arc::downgrade(cluster));
    }

    /// From now on this one is that of the present generation.
    pub fn take(&self, cluster: &Arc<Cluster>) {
        let cluster_ref = Arc::downgrade(cluster);
        let before = std::mem::replace(&mut self.clusters.lock().taken, cluster_ref);
        if !std::ptr::eq(before.as_ptr(), Arc::as_ptr(cluster)) {
            // What was built when it was compiled is as good but for shares, which depend on what is noted now.
            cluster.note_and_publish(cluster.spread.slow_start.is_some());
        }
    }

    /// How many endpoints the present generation has, and how many of them may be asked.
    pub fn standing(&self) -> Option<Standing> {
        // A cluster may be dropped here as well.
        let present = self.clusters.lock().present().upgrade()?;
        Some(Standing { available: present.available(), all: present.endpoints().len() })
    }

    /// Makes every generation's choice follow a change of health or of addresses: the present one's at once, and that of one that has
    /// passed when a request of its asks for it, for it may have no more than a download under way.
    pub fn publish(&self) {
        // Collected first, because a cluster may be dropped here, and its drop must not find the lock taken.
        let (clusters, present): (Vec<_>, _) = {
            let clusters = self.clusters.lock();
            (clusters.all.iter().filter_map(Weak::upgrade).collect(), clusters.present())
        };
        for cluster in clusters {
            if std::ptr::eq(present.as_ptr(), Arc::as_ptr(&cluster)) {
                cluster.publish();
            } else {
                cluster.stale.store(true, Ordering::Release);
            }
        }
    }

    fn is_present(&self, cluster: &Cluster) -> bool {
        std::ptr::eq(self.clusters.lock().present().as_ptr(), cluster)
    }
}

/// The endpoints of one service in one generation.
pub struct Cluster {
    members: Vec<Member>,
    /// Without checks, nothing that earlier checks said counts.
    checked: Option<Initial>,
    panic: Option<Panic>,
    spread: Spread,
    board: Arc<Board>,
    /// Those that may be asked, and which of them is next.
    choice: ArcSwap<Published>,
    publishing: Mutex<()>,
    /// Some endpoint starts slowly: its share is to grow.
    warming: AtomicBool,
    /// Of a generation that has passed: what is published may be so no more.
    stale: AtomicBool,
}

impl Cluster {
    pub fn new(
        members: Vec<Member>,
        checked: Option<Initial>,
        panic: Option<Panic>,
        spread: Spread,
        board: Arc<Board>,
    ) -> Arc<Self> {
        let none = Levels::new(Vec::new(), 1.0, spread.balance.build(Vec::new()));
        let choice = ArcSwap::from_pointee(Published { levels: none, limited: false, bound: Box::default() });
        let (publishing, warming, stale) = (Mutex::new(()), AtomicBool::new(false), AtomicBool::new(false));
        let cluster =
            Arc::new(Cluster { members, checked, panic, spread, board: board.clone(), choice, publishing, warming, stale });
        // First join, then publish: a change in between is published twice rather than not at all.
        board.join(&cluster);
        cluster.publish();
        cluster
    }

    /// Builds the choice anew from what is known now.
    fn publish(&self) {
        self.note_and_publish(true);
    }

    /// Notes what is the present generation's to note, and builds the choice anew if `anew`, or if it is not what is known now.
    fn note_and_publish(&self, anew: bool) {
        // One at a time, or an older view could overwrite a newer one.
        let _turn = self.publishing.lock();
        let anew = self.stale.swap(false, Ordering::AcqRel) || anew;
        let now = Instant::now();
        // What is noted of endpoints and told to people is the present generation's word alone.
        let present = self.board.is_present(self);
        let placed = self.placed();
        let all = placed.iter().map(|one| (one.weight(), one.endpoint.clone())).collect();
        let (eligible, choice) = eligible(all, self.checked, self.panic);
        if present {
            self.board.note_panic(choice);
        }
        let eligible: HashSet<_> = eligible.iter().map(|(_, endpoint)| Arc::as_ptr(endpoint)).collect();
        let well: Vec<bool> = placed.iter().map(|one| eligible.contains(&Arc::as_ptr(&one.endpoint))).collect();
        for (one, well) in placed.iter().zip(&well).filter(|_| present) {
            one.endpoint.arrival.note(*well, now);
            if self.spread.balance.counts_all() {
                one.endpoint.join(&self.board.crowd);
            }
        }
        if !anew {
            return;
        }
        let bound = if choice == Choice::Panic(Then::Refuse) { Box::default() } else { self.bound(&placed, &well) };
        let share = |one: &Placed<'_>| self.spread.slow_start.map_or(1.0, |window| one.endpoint.arrival.share(window, now));
        let asked = || placed.iter().zip(&well).filter(|(_, well)| **well).map(|(one, _)| one);
        // A ring knows no shares, and is much to build for nothing.
        let warming = self.spread.balance.key().is_none() && asked().any(|one| share(one) < 1.0);
        self.warming.store(warming, Ordering::Relaxed);
        // Each level's endpoints, and how many of them there would be.
        let mut levels: Vec<(Rank, Vec<Seat>, usize)> = Vec::new();
        for (one, well) in placed.iter().zip(well).filter(|(one, _)| !one.is_drained()) {
            let level = (one.member.priority, self.is_elsewhere(&one.member), self.stands_by(one));
            let at = levels.binary_search_by_key(&level, |(level, ..)| *level).unwrap_or_else(|at| {
                levels.insert(at, (level, Vec::new(), 0));
                at
            });
            let Some((_, seats, all)) = levels.get_mut(at) else { continue };
            *all += 1;
            if well {
                let steady = one.weight();
                let scaled = || (f64::from(steady.saturating_mul(slow_start::SCALE)) * share(one)).round() as u32;
                let weight = if warming { scaled().max(1) } else { steady };
                seats.push(one.seat(weight, steady));
            }
        }
        let build = |(_, seats, all)| Level { pick: self.spread.balance.build(seats), all };
        let none = self.spread.balance.build(Vec::new());
        let levels = Levels::new(levels.into_iter().map(build).collect(), self.spread.overprovisioning, none);
        let limited = self.members.iter().any(|member| member.most.is_some());
        self.choice.store(Arc::new(Published { levels, limited, bound }));
    }

    /// Publishes what has changed since this generation has passed, or since a newer one came that was not taken.
    fn refresh(&self) {
        if self.stale.load(Ordering::Acquire) && self.stale.swap(false, Ordering::AcqRel) {
            self.publish();
        }
    }

    /// Those that sticky sessions may go to: who may be asked, and the drained that are well.
    fn bound(&self, placed: &[Placed<'_>], well: &[bool]) -> Box<[(Id, Seat)]> {
        let Some(sticky) = &self.spread.sticky else { return Box::default() };
        let stays = |one: &Placed<'_>| {
            let endpoint = &one.endpoint;
            let healthy = self.checked.is_none_or(|initial| endpoint.passes_checks(initial));
            one.is_drained() && healthy && !endpoint.is_ejected() && !endpoint.is_shut()
        };
        let may = placed.iter().zip(well).filter(|(one, well)| **well || stays(one)).map(|(one, _)| one);
        let mut bound: Vec<_> = may.map(|one| (sticky.id(one.endpoint.address()), one.seat(1, 1))).collect();
        bound.sort_unstable_by_key(|(id, _)| *id);
        bound.into()
    }

    /// Whether it is in another zone than the gateway, as far as both say.
    fn is_elsewhere(&self, member: &Member) -> bool {
        self.spread.zone.is_some() && member.zone != self.spread.zone
    }

    /// Whether it is an address of a host name's, and not of the family that is preferred.
    fn stands_by(&self, one: &Placed<'_>) -> bool {
        matches!(one.member.source, Source::Named(_)) && self.spread.family.stands_by(one.endpoint.address())
    }

    /// Lets the shares of endpoints grow that start slowly.
    pub fn warm_up(&self) {
        if self.warming.load(Ordering::Relaxed) && self.board.is_present(self) {
            self.publish();
        }
    }

    /// The endpoint that a request may go to, whose address is not among `exclude`. See [`super::Service::pick`].
    pub fn pick(&self, exclude: &[EndpointAddress], aim: Option<&Aim>) -> Option<Arc<EndpointRef>> {
        self.pick_of(exclude, aim, None)
    }

    /// The same among those that are `admitted`.
    pub fn pick_of(
        &self,
        exclude: &[EndpointAddress],
        aim: Option<&Aim>,
        admitted: Option<&dyn Fn(&Endpoint) -> bool>,
    ) -> Option<Arc<EndpointRef>> {
        self.refresh();
        let choice = self.choice.load();
        let first = exclude.is_empty() && admitted.is_none();
        let (turn, seed) = if first { self.board.ticket() } else { self.board.another_ticket() };
        let ask = Ask { turn, seed, exclude, limited: choice.limited, key: aim.and_then(Aim::key), admitted };
        let bound = aim.and_then(|aim| choice.of(aim.session.bound?)).filter(|seat| ask.takes(seat));
        bound.or_else(|| choice.levels.pick(&ask))?.hold()
    }

    fn placed(&self) -> Vec<Placed<'_>> {
        let mut placed = Vec::with_capacity(self.members.len());
        for member in &self.members {
            match &member.source {
                Source::Fixed(endpoint) => placed.push(Placed { member: Cow::Borrowed(member), endpoint: endpoint.clone() }),
                Source::Named(name) => placed.extend(name.located().into_iter().map(|Located { said, endpoint }| {
                    let member = match said {
                        // What is said of the endpoint goes before what is said of all that are found.
                        Some(said) => Cow::Owned(Member {
                            weight: said.weight,
                            priority: said.priority,
                            zone: said.zone,
                            most: said.most.or(member.most),
                            ..member.clone()
                        }),
                        None => Cow::Borrowed(member),
                    };
                    Placed { member, endpoint }
                })),
            }
        }
        match self.spread.subset {
            Some(subset) => subset.of(placed),
            None => placed,
        }
    }

    /// Every endpoint with its weight, whether it may be asked or not.
    pub fn endpoints(&self) -> Vec<(u32, Arc<Endpoint>)> {
        self.placed().into_iter().map(|one| (one.weight(), one.endpoint)).collect()
    }

    /// The same for people.
    pub fn views(&self, of: impl Fn(u32, &Endpoint) -> EndpointView) -> Vec<EndpointView> {
        let now = Instant::now();
        let view = |one: Placed<'_>| {
            let (weight, configured) = (one.weight(), one.member.weight);
            let slow = self.spread.slow_start.map(|window| f64::from(weight) * one.endpoint.arrival.share(window, now));
            let millis = |seconds: f32| (f64::from(seconds) * 1e5).round() / 100.0;
            EndpointView {
                configured_weight: (weight != configured).then_some(configured),
                effective_weight: slow.map(|weight| (weight * 100.0).round() / 100.0),
                priority: (one.member.priority > 0).then_some(one.member.priority),
                zone: one.member.zone.as_deref().map(str::to_owned),
                max_requests: one.member.most,
                ewma_ms: self.spread.balance.decay().and_then(|decay| one.endpoint.latency.seconds(now, decay)).map(millis),
                ..of(weight, &one.endpoint)
            }
        };
        self.placed().into_iter().map(view).collect()
    }

    /// The host names to resolve.
    pub fn names(&self) -> impl Iterator<Item = (&Arc<Name>, Place)> {
        self.members.iter().filter_map(|member| match &member.source {
            Source::Named(name) => Some((name, member.place)),
            Source::Fixed(_) => None,
        })
    }

    /// How many endpoints may be asked now.
    pub fn available(&self) -> usize {
        self.refresh();
        self.choice.load().levels.seats().count()
    }

    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }
}
