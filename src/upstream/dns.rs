//! Host names of endpoints: resolved by the system's resolver (so `/etc/hosts` counts), off the event loops, and kept while the
//! resolver is away.
//!
//! Not in here: TTLs, which the system's resolver does not tell; names are asked again every `dns_refresh`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::endpoint::Endpoint;
use super::service::Service;
use crate::address::EndpointAddress;
use crate::problem::{Place, Problem, Problems};

/// The most addresses of one name that become endpoints.
const MOST_ADDRESSES: usize = 256;
/// How long one question to the resolver may take.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// A host name with a port, and the endpoints it stands for. Lives in the ledger.
pub struct Name {
    host: Box<str>,
    port: u16,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// In the order of their addresses.
    endpoints: Vec<Arc<Endpoint>>,
    /// Whether the last answer was a failure; `None` before the first one.
    failing: Option<bool>,
}

/// What an answer of the resolver changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolved {
    /// The endpoints are others now.
    Changed,
    Same,
    /// It failed, after it had worked or for the first time. The last good addresses stay.
    Lost,
}

impl Name {
    pub fn new(host: &str, port: u16) -> Self {
        Name { host: host.into(), port, known: Mutex::default() }
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// What it stands for now; empty until it resolved for the first time.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.known.lock().endpoints.clone()
    }

    pub fn is_resolved(&self) -> bool {
        !self.known.lock().endpoints.is_empty()
    }

    /// Whether the resolver was ever asked.
    pub fn is_tried(&self) -> bool {
        self.known.lock().failing.is_some()
    }

    /// Takes in an answer. Endpoints whose addresses stay are kept with their health and counts.
    pub fn update(&self, answer: Result<Vec<SocketAddr>, String>) -> Resolved {
        let mut known = self.known.lock();
        let mut addresses = match answer {
            Ok(addresses) if !addresses.is_empty() => addresses,
            _ => return if known.failing.replace(true) == Some(true) { Resolved::Same } else { Resolved::Lost },
        };
        known.failing = Some(false);
        // Resolvers rotate their answers: only the set counts.
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MOST_ADDRESSES);
        if known
            .endpoints
            .iter()
            .map(|endpoint| endpoint.address())
            .eq(addresses.iter().map(|address| EndpointAddress::Inet(*address)))
        {
            return Resolved::Same;
        }
        let authority = format!("{}:{}", self.host, self.port);
        let endpoints = addresses.iter().map(|address| {
            let same = known.endpoints.iter().find(|endpoint| endpoint.address() == *address);
            same.cloned().unwrap_or_else(|| Arc::new(Endpoint::new((*address).into(), &authority, Some(&self.host))))
        });
        known.endpoints = endpoints.collect();
        Resolved::Changed
    }

    /// Asks the system's resolver. Never blocks the event loop: the question runs on the runtime's blocking threads.
    pub async fn lookup(&self) -> Result<Vec<SocketAddr>, String> {
        match tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((&*self.host, self.port))).await {
            Ok(Ok(addresses)) => Ok(addresses.collect()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {LOOKUP_TIMEOUT:?}")),
        }
    }
}

/// Resolves the names that have no addresses yet, all at once and for at most `limit`, and warns of each that did not resolve.
/// Blocks: for `check`, the start and the reload, never for an event loop. A name that fails here is not lost, only late.
pub fn resolve(services: &[Arc<Service>], limit: Duration, problems: &mut Problems) {
    let mut wanted: Vec<(Arc<Name>, Place, String)> = Vec::new();
    for service in services {
        for (name, place) in service.cluster.names().filter(|(name, _)| !name.is_resolved()) {
            wanted.push((name.clone(), place, service.name.to_string()));
        }
    }
    if wanted.is_empty() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(16).build();
    let answers = match runtime {
        Ok(runtime) => {
            let answers = runtime.block_on(lookup_all(wanted.iter().map(|(name, ..)| name.clone()), limit));
            // The resolver cannot be interrupted; its threads end on their own.
            runtime.shutdown_background();
            answers
        }
        Err(error) => {
            problems.push(Problem::warning(Place::NOWHERE, format!("host names cannot be resolved: {error}")));
            return;
        }
    };
    for (name, answer) in answers {
        name.update(answer);
    }
    for (name, place, service) in &wanted {
        if !name.is_resolved() {
            let message = format!("the host `{}` of the service `{service}` does not resolve", name.host());
            let hint = "the service answers 503 until it does; it is asked again and again";
            problems.push(Problem::warning(*place, message).hint(hint));
        }
    }
    for service in services {
        service.cluster.board().publish();
    }
}

/// Asks for all names at once; those without an answer within `limit` are left out.
async fn lookup_all(
    names: impl Iterator<Item = Arc<Name>>,
    limit: Duration,
) -> Vec<(Arc<Name>, Result<Vec<SocketAddr>, String>)> {
    let mut questions = JoinSet::new();
    for name in names {
        questions.spawn(async move {
            let answer = name.lookup().await;
            (name, answer)
        });
    }
    let mut answers = Vec::new();
    let all = async {
        while let Some(answer) = questions.join_next().await {
            answers.extend(answer.ok());
        }
    };
    // Late answers come from the watchers.
    let _ = tokio::time::timeout(limit, all).await;
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(last: &[u8]) -> Vec<SocketAddr> {
        last.iter().map(|last| ([10, 0, 0, *last], 80).into()).collect()
    }

    #[test]
    fn endpoints_stay_while_their_addresses_do() {
        let name = Name::new("catalog", 80);
        assert!(!name.is_tried());
        assert_eq!(name.update(Ok(addresses(&[2, 1]))), Resolved::Changed);
        let before = name.endpoints();
        assert_eq!(name.update(Ok(addresses(&[1, 2, 2]))), Resolved::Same);
        assert_eq!(name.update(Ok(addresses(&[3, 2]))), Resolved::Changed);
        let after = name.endpoints();
        assert!(Arc::ptr_eq(&before[1], &after[0]));
        assert_eq!(after[1].address(), addresses(&[3])[0]);
    }

    #[test]
    fn the_last_good_addresses_survive_the_resolver() {
        let name = Name::new("catalog", 80);
        assert_eq!(name.update(Err("gone".into())), Resolved::Lost);
        assert!(name.is_tried() && !name.is_resolved());
        name.update(Ok(addresses(&[1])));
        assert_eq!(name.update(Err("gone".into())), Resolved::Lost);
        assert_eq!(name.update(Ok(Vec::new())), Resolved::Same);
        assert!(name.is_resolved());
        assert_eq!(name.update(Ok(addresses(&[1]))), Resolved::Same);
    }

    #[test]
    fn an_endless_answer_is_cut() {
        let name = Name::new("catalog", 80);
        name.update(Ok((0..2000u16).map(|port| ([10, 0, (port >> 8) as u8, port as u8], 80).into()).collect()));
        assert_eq!(name.endpoints().len(), MOST_ADDRESSES);
    }

    #[tokio::test]
    async fn the_system_resolver_knows_localhost() {
        let answer = Name::new("localhost", 8080).lookup().await.unwrap();
        assert!(answer.iter().all(|address| address.ip().is_loopback() && address.port() == 8080) && !answer.is_empty());
        assert!(Name::new("no-such-host.invalid", 80).lookup().await.is_err());
    }
}
