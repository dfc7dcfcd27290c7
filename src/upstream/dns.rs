//! What stands for endpoints that are found: host names, records, a file. Asked off the event loops, and kept while whoever knows is away.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::discover::family::Family;
use super::discover::{Discovery, Found, Said, System};
use super::endpoint::Endpoint;
use super::service::Service;
use crate::address::EndpointAddress;
use crate::problem::{Place, Problem, Problems};

/// The most endpoints that one name stands for, or one file lists.
const MOST_ADDRESSES: usize = 10_000;
/// How long one question to the resolver may take.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Something to ask for endpoints, and those that it stands for. Lives in the ledger.
pub struct Name {
    discovery: Box<dyn Discovery>,
    known: Mutex<Known>,
}

/// An endpoint that was found.
#[derive(Clone)]
pub struct Located {
    /// `None`: as is configured.
    pub said: Option<Said>,
    pub endpoint: Arc<Endpoint>,
}

#[derive(Default)]
struct Known {
    /// In the order of their addresses.
    endpoints: Vec<Located>,
    /// Whether the last answer was a failure; `None` before the first one.
    failing: Option<bool>,
    /// Why it failed.
    why: String,
    /// When the last answer wants to be asked for again.
    again: Option<Duration>,
}

/// What an answer changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolved {
    /// The endpoints are others now.
    Changed,
    Same,
    /// It failed, after it had worked or for the first time. The last good addresses stay.
    Lost,
}

impl Name {
    /// A host name, as the system resolves it.
    pub fn new(host: &str, port: u16, family: Family) -> Self {
        Self::of(Box::new(System::new(host, port, family)))
    }

    pub fn of(discovery: Box<dyn Discovery>) -> Self {
        Name { discovery, known: Mutex::default() }
    }

    /// The host name, or whatever else is asked.
    pub fn host(&self) -> &str {
        self.discovery.what()
    }

    /// What that is.
    pub fn kind(&self) -> &'static str {
        self.discovery.kind()
    }

    /// What it stands for now; empty until it resolved for the first time.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.known.lock().endpoints.iter().map(|located| located.endpoint.clone()).collect()
    }

    /// The same with what was said of each.
    pub fn located(&self) -> Vec<Located> {
        self.known.lock().endpoints.clone()
    }

    pub fn is_resolved(&self) -> bool {
        !self.known.lock().endpoints.is_empty()
    }

    /// Whether it was ever asked.
    pub fn is_tried(&self) -> bool {
        self.known.lock().failing.is_some()
    }

    /// Whether the last answer was none.
    pub fn is_failing(&self) -> bool {
        self.known.lock().failing == Some(true)
    }

    /// Why the last answer was none.
    pub fn why(&self) -> String {
        self.known.lock().why.clone()
    }

    /// When the last answer wants to be asked for again, if it says so.
    pub fn again(&self) -> Option<Duration> {
        self.known.lock().again
    }

    /// Takes in an answer. Endpoints whose addresses stay are kept with their health and counts.
    pub fn update(&self, answer: Result<Found, String>) -> Resolved {
        let mut known = self.known.lock();
        let found = match answer {
            Ok(found) if found.may_be_none || found.endpoints.as_ref().is_none_or(|found| !found.is_empty()) => found,
            failed => {
                known.why = failed.err().unwrap_or_else(|| "there are none".to_owned());
                return if known.failing.replace(true) == Some(true) { Resolved::Same } else { Resolved::Lost };
            }
        };
        known.failing = Some(false);
        known.again = found.again;
        let Some(mut announced) = found.endpoints else { return Resolved::Same };
        // Resolvers rotate their answers: only the set counts.
        announced.sort_unstable_by_key(|one| one.address);
        announced.dedup_by_key(|one| one.address);
        announced.truncate(MOST_ADDRESSES);
        let before = known.endpoints.iter().map(|located| (located.endpoint.address(), &located.said));
        if before.eq(announced.iter().map(|one| (one.address, &one.said))) {
            return Resolved::Same;
        }
        let mut before: HashMap<EndpointAddress, Arc<Endpoint>> =
            known.endpoints.drain(..).map(|located| (located.endpoint.address(), located.endpoint)).collect();
        known.endpoints.extend(announced.into_iter().map(|one| {
            let known = before.remove(&one.address);
            let endpoint = known.unwrap_or_else(|| Arc::new(Endpoint::new(one.address, &one.authority, one.host.as_deref())));
            Located { said: one.said, endpoint }
        }));
        Resolved::Changed
    }

    /// Asks. Never blocks the event loop.
    pub async fn lookup(&self) -> Result<Found, String> {
        self.discovery.find().await
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(16).build();
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
            let mut message = match name.is_failing() || !name.is_tried() {
                true => format!("the {} `{}` of the service `{service}` does not resolve", name.kind(), name.host()),
                false => format!("the {} `{}` of the service `{service}` names no endpoints", name.kind(), name.host()),
            };
            if name.kind() != "host" && name.is_failing() {
                message = format!("{message}: {}", name.why());
            }
            let hint = "the service answers 503 until it does; it is asked again and again";
            problems.push(Problem::warning(*place, message).hint(hint));
        }
    }
    for service in services {
        service.cluster.board().publish();
    }
}

/// Asks for all names at once; those without an answer within `limit` are left out.
async fn lookup_all(names: impl Iterator<Item = Arc<Name>>, limit: Duration) -> Vec<(Arc<Name>, Result<Found, String>)> {
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
    use crate::upstream::discover::Announced;

    fn found(addresses: impl Iterator<Item = EndpointAddress>) -> Found {
        let announce = |address| Announced { address, said: None, authority: "catalog:80".to_owned(), host: None };
        Found::new(addresses.map(announce).collect())
    }

    fn addresses(last: &[u8]) -> Found {
        found(last.iter().map(|last| ([10, 0, 0, *last], 80).into()))
    }

    #[test]
    fn endpoints_stay_while_their_addresses_do() {
        let name = Name::new("catalog", 80, Family::Any);
        assert!(!name.is_tried());
        assert_eq!(name.update(Ok(addresses(&[2, 1]))), Resolved::Changed);
        let before = name.endpoints();
        assert_eq!(name.update(Ok(addresses(&[1, 2, 2]))), Resolved::Same);
        assert_eq!(name.update(Ok(addresses(&[3, 2]))), Resolved::Changed);
        let after = name.endpoints();
        assert!(Arc::ptr_eq(&before[1], &after[0]));
        assert_eq!(after[1].address(), EndpointAddress::from(([10, 0, 0, 3], 80)));
    }

    #[test]
    fn the_last_good_addresses_survive_the_resolver() {
        let name = Name::new("catalog", 80, Family::Any);
        assert_eq!(name.update(Err("gone".into())), Resolved::Lost);
        assert!(name.is_tried() && !name.is_resolved());
        name.update(Ok(addresses(&[1])));
        assert_eq!(name.update(Err("gone".into())), Resolved::Lost);
        assert_eq!(name.update(Ok(Found::new(Vec::new()))), Resolved::Same);
        assert!(name.is_resolved());
        assert_eq!(name.update(Ok(addresses(&[1]))), Resolved::Same);
    }

    #[test]
    fn an_endless_answer_is_cut() {
        let name = Name::new("catalog", 80, Family::Any);
        let many = (0..20_000u16).map(|port| ([10, 0, (port >> 8) as u8, port as u8], 80).into());
        name.update(Ok(found(many)));
        assert_eq!(name.endpoints().len(), MOST_ADDRESSES);
    }

    #[test]
    fn another_weight_is_a_change_and_the_endpoint_stays() {
        let name = Name::new("catalog", 80, Family::Any);
        name.update(Ok(addresses(&[1, 2])));
        let before = name.endpoints();
        let mut heavier = addresses(&[1, 2]);
        let said = Said { weight: 5, priority: 0, zone: None, most: None };
        heavier.endpoints.as_mut().unwrap()[1].said = Some(said.clone());
        assert_eq!(name.update(Ok(heavier.clone())), Resolved::Changed);
        assert_eq!(name.located()[1].said, Some(said));
        assert!(Arc::ptr_eq(&before[1], &name.endpoints()[1]));
        assert_eq!(name.update(Ok(heavier)), Resolved::Same);
        assert_eq!(name.update(Ok(Found { endpoints: None, again: None, may_be_none: true })), Resolved::Same);
        assert_eq!(name.update(Ok(Found { endpoints: Some(Vec::new()), again: None, may_be_none: true })), Resolved::Changed);
        assert!(!name.is_resolved() && !name.is_failing());
    }

    #[tokio::test]
    async fn the_system_resolver_knows_localhost() {
        let answer = Name::new("localhost", 8080, Family::Any).lookup().await.unwrap().endpoints.unwrap();
        assert!(
            answer.iter().all(|one| one.address.inet().is_some_and(|at| at.ip().is_loopback() && at.port() == 8080))
                && !answer.is_empty()
        );
        assert!(Name::new("no-such-host.invalid", 80, Family::Any).lookup().await.is_err());
        // It is in every `/etc/hosts`, with an address of IPv4 at least.
        let of = async |family| Name::new("localhost", 8080, family).lookup().await;
        assert!(of(Family::Ipv4).await.unwrap().endpoints.unwrap().iter().all(|one| one.address.inet().unwrap().is_ipv4()));
        match of(Family::Ipv6).await {
            Ok(found) => assert!(found.endpoints.unwrap().iter().all(|one| one.address.inet().unwrap().is_ipv6())),
            Err(why) => assert_eq!(why, "it has no IPv6 address"),
        }
    }
}
