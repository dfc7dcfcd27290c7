//! The endpoints of one service in one generation, and the published choice among those that may be asked.
//!
//! A cluster is rebuilt with every generation; what it stands on is kept in the ledger and shared with the generations before it:
//! the [`Endpoint`]s, the resolved [`Name`]s and the [`Board`], through which a change of health or of addresses reaches every
//! generation that is still in use.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use log::{info, warn};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::balance::{Ask, Balance, Pick, Seat};
use super::dns::Name;
use super::eligible::{Choice, Panic, Then, eligible};
use super::endpoint::{Endpoint, EndpointRef};
use super::health_config::Initial;
use super::occurrences::Occurrences;
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
    pub weight: u32,
    pub place: Place,
}

/// What the generations of one service share: whose turn it is, and who wants to hear of changes.
pub struct Board {
    /// The service's, for the log and the metrics.
    name: Box<str>,
    turns: Striped<AtomicU64>,
    clusters: Mutex<Vec<Weak<Cluster>>>,
    /// Wakes the service's watcher.
    wake: Notify,
    occurrences: Occurrences,
    /// Too few endpoints were well when the present generation's choice was last built.
    panics: AtomicBool,
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
        Board {
            name: name.into(),
            turns: Striped::new(|stripe| AtomicU64::new(stripe as u64)),
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

    fn ticket(&self) -> u64 {
        self.turns.mine().map_or(0, |turn| turn.fetch_add(1, Ordering::Relaxed))
    }

    fn join(&self, cluster: &Arc<Cluster>) {
        let mut clusters = self.clusters.lock();
        clusters.retain(|known| known.strong_count() > 0);
        clusters.push(Arc::downgrade(cluster));
    }

    /// How many endpoints the present generation has, and how many of them may be asked.
    pub fn standing(&self) -> Option<Standing> {
        // A cluster may be dropped here as well.
        let present = self.clusters.lock().iter().rev().find_map(Weak::upgrade)?;
        Some(Standing { available: present.available(), all: present.endpoints().len() })
    }

    /// Makes every generation's choice follow a change of health or of addresses.
    pub fn publish(&self) {
        // Collected first, because a cluster may be dropped here, and its drop must not find the lock taken.
        let clusters: Vec<_> = self.clusters.lock().iter().filter_map(Weak::upgrade).collect();
        clusters.iter().for_each(|cluster| cluster.publish());
    }
}

/// The endpoints of one service in one generation.
pub struct Cluster {
    members: Vec<Member>,
    /// Without checks, nothing that earlier checks said counts.
    checked: Option<Initial>,
    panic: Option<Panic>,
    balance: Balance,
    board: Arc<Board>,
    /// Those that may be asked, and which of them is next.
    choice: ArcSwap<Box<dyn Pick>>,
    publishing: Mutex<()>,
}

impl Cluster {
    pub fn new(
        members: Vec<Member>,
        checked: Option<Initial>,
        panic: Option<Panic>,
        balance: Balance,
        board: Arc<Board>,
    ) -> Arc<Self> {
        let choice = ArcSwap::from_pointee(balance.build(Vec::new()));
        let cluster =
            Arc::new(Cluster { members, checked, panic, balance, board: board.clone(), choice, publishing: Mutex::new(()) });
        // First join, then publish: a change in between is published twice rather than not at all.
        board.join(&cluster);
        cluster.publish();
        cluster
    }

    /// Builds the choice anew from what is known now.
    fn publish(&self) {
        // One at a time, or an older view could overwrite a newer one.
        let _turn = self.publishing.lock();
        let (eligible, choice) = eligible(self.endpoints(), self.checked, self.panic);
        self.board.note_panic(choice);
        let seats = eligible.into_iter().map(|(weight, endpoint)| Seat::new(endpoint, weight)).collect();
        self.choice.store(Arc::new(self.balance.build(seats)));
    }

    /// The next endpoint whose address is not among `exclude`. See [`super::Service::pick`].
    pub fn pick(&self, exclude: &[EndpointAddress]) -> Option<Arc<EndpointRef>> {
        let choice = self.choice.load();
        choice.pick(&Ask { turn: self.board.ticket(), exclude })?.hold()
    }

    /// Every endpoint with its weight, whether it may be asked or not.
    pub fn endpoints(&self) -> Vec<(u32, Arc<Endpoint>)> {
        let mut endpoints = Vec::with_capacity(self.members.len());
        for member in &self.members {
            match &member.source {
                Source::Fixed(endpoint) => endpoints.push((member.weight, endpoint.clone())),
                Source::Named(name) => endpoints.extend(name.endpoints().into_iter().map(|endpoint| (member.weight, endpoint))),
            }
        }
        endpoints
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
        self.choice.load().seats().len()
    }

    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }
}
