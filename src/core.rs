//! What every worker shares: the current generation, and the things that outlive generations.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::cache::Cache;
use crate::ledger::Ledger;
use crate::listen::guard::InFlight;
use crate::listen::roster::Roster;
use crate::observe::{AccessLog, Metrics};
use crate::snapshot::Snapshot;
use crate::upstream::TlsConnector;

/// Where the process stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Running,
    /// No new connections; those that are open get one more request each.
    Draining,
}

pub struct Core {
    pub snapshot: ArcSwap<Snapshot>,
    pub ledger: Arc<Ledger>,
    pub metrics: Arc<Metrics>,
    pub access_log: Arc<AccessLog>,
    pub cache: &'static Cache,
    pub in_flight: Arc<InFlight>,
    pub tls: TlsConnector,
    /// The open connections, worker by worker.
    pub rosters: Box<[Arc<Roster>]>,
    pub phase: watch::Sender<Phase>,
}

impl Core {
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() == Phase::Draining
    }
}
