//! Connections that are made before a request wants them: after the start, and where an endpoint is new or has come back.
//!
//! They wait in the pool like any other, and are closed like any other when they have been idle too long.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora_error::ErrorType;
use tokio::task::{JoinError, JoinSet};

use super::pool::Key;
use super::{Caller, connect_plain, connect_tls, key};
use crate::upstream::{Endpoint, Protocol, Service, TlsConnector};

/// How many endpoints are connected to at a time.
const AT_ONCE: usize = 16;
/// How soon an endpoint that could not be connected to is tried again, the first time and at most.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What one worker has connected to ahead of requests.
#[derive(Default)]
pub struct Warmer {
    known: HashMap<(Arc<str>, Key), State, ahash::RandomState>,
}

/// Whose connections were made, whether they could be, and how long to wait if not.
type Made = ((Arc<str>, Key), bool, Duration);

enum State {
    Warm,
    /// It could not be connected to: when to try again, and how long to wait then.
    Cold {
        at: Instant,
        wait: Duration,
    },
}

impl Warmer {
    /// Makes what is missing, until these services have `passed`: who does not accept must not keep them. Whether there is anybody to come
    /// back for.
    pub async fn turn(
        &mut self,
        caller: &Arc<Caller>,
        services: &[Arc<Service>],
        tls: &Arc<TlsConnector>,
        passed: impl Future<Output = ()>,
    ) -> bool {
        let mut passed = std::pin::pin!(passed);
        let mut before = std::mem::take(&mut self.known);
        let (mut tasks, mut wanted) = (JoinSet::new(), false);
        let now = Instant::now();
        for service in services.iter().filter(|service| service.warm > 0) {
            wanted = true;
            for (_, endpoint) in service.cluster.endpoints() {
                // One that comes back is new.
                if !service.may_ask(&endpoint) {
                    continue;
                }
                let id = (service.key.clone(), key(&endpoint, service));
                match before.remove(&id) {
                    Some(state @ State::Warm) => drop(self.known.insert(id, state)),
                    Some(State::Cold { at, wait }) if at > now => drop(self.known.insert(id, State::Cold { at, wait })),
                    earlier => {
                        let wait = match earlier {
                            Some(State::Cold { wait, .. }) => wait,
                            _ => FIRST_WAIT,
                        };
                        if tasks.len() >= AT_ONCE && !self.note_next(&mut tasks, passed.as_mut()).await {
                            self.known.extend(before);
                            return wanted;
                        }
                        let (caller, service, tls) = (caller.clone(), service.clone(), tls.clone());
                        tasks.spawn(async move {
                            let made = caller.warm_up(&service, &endpoint, &tls).await;
                            if made.is_err() {
                                endpoint.record_failure();
                            }
                            (id, made.is_ok(), wait)
                        });
                    }
                }
            }
        }
        while !tasks.is_empty() && self.note_next(&mut tasks, passed.as_mut()).await {}
        wanted
    }

    /// Waits for the next one, and notes it. `false`: they have passed.
    async fn note_next(&mut self, tasks: &mut JoinSet<Made>, passed: Pin<&mut impl Future<Output = ()>>) -> bool {
        tokio::select! {
            biased;
            made = tasks.join_next() => {
                self.note(made);
                true
            }
            () = passed => false,
        }
    }

    fn note(&mut self, made: Option<Result<Made, JoinError>>) {
        let Some(Ok((id, fine, wait))) = made else { return };
        let cold = || State::Cold { at: Instant::now() + wait, wait: (wait * 2).min(LONGEST_WAIT) };
        self.known.insert(id, if fine { State::Warm } else { cold() });
    }
}

impl Caller {
    /// Makes as many connections to an endpoint as its service wants to have ahead of requests. Over HTTP/2 one carries them all.
    async fn warm_up(&self, service: &Service, endpoint: &Endpoint, tls: &Arc<TlsConnector>) -> Result<(), ErrorType> {
        let key = key(endpoint, service);
        if service.protocol.plain() != Protocol::Http1 {
            return self.lines.place(key, || service.http2_peer(endpoint), service, tls, false).await.map(drop);
        }
        for _ in 0..service.warm {
            let line = match &key {
                Key::Plain(address) => connect_plain(address.get(), service).await?,
                Key::Tls(..) => connect_tls(endpoint, service, tls).await?,
            };
            self.idle.keep(line.waiting(), key.clone(), service);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::ledger::Ledger;
    use crate::problem::{Place, Problems};
    use crate::upstream::Kept;

    #[tokio::test]
    async fn who_does_not_answer_keeps_no_generation() {
        // Whoever connects waits for a handshake.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let yaml = format!(
            "{{ endpoints: ['{}'], tls: {{ verify: false }}, warm: 1, timeouts: {{ connect: 30s }} }}",
            silent.local_addr().unwrap()
        );
        let (config, ledger, mut problems) = (serde_yaml::from_str(&yaml).unwrap(), Ledger::default(), Problems::default());
        let kept = Kept { ledger: &ledger, tallies: &Arc::default(), background: None };
        let service = Service::compile("it", Place::NOWHERE, &config, Path::new(""), &mut problems, kept);
        let services = [service.unwrap_or_else(|| panic!("{problems:?}"))];
        let began = Instant::now();
        let passed = tokio::time::sleep(Duration::from_millis(50));
        assert!(Warmer::default().turn(&Arc::default(), &services, &Arc::default(), passed).await);
        while Arc::strong_count(&services[0]) > 1 {
            tokio::task::yield_now().await;
            assert!(began.elapsed() < Duration::from_secs(15));
        }
    }
}
