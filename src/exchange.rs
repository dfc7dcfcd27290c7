//! What one request remembers, from its first byte to its log line.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::head::HeaderEdits;

/// Who the client proved to be, by whatever method.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identity {
    /// The consumer's name in the configuration, if the credential belongs to one.
    pub consumer: Option<Arc<str>>,
    /// Which credential, in a form that is no secret: an API key's id, a token's issuer.
    pub credential: Arc<str>,
    /// `jwt`, `api_key` ...
    pub method: &'static str,
    /// A token's `sub`, or the consumer's name.
    pub subject: Arc<str>,
    pub scopes: Vec<Arc<str>>,
    pub groups: Vec<Arc<str>>,
    /// The plan that the consumer has subscribed to (`free`, `pro` ...): limits may differ by it.
    pub plan: Option<Arc<str>>,
    /// A token's claims.
    pub claims: Option<Arc<serde_json::Value>>,
}

/// What is known of the connection, shared by its requests.
#[derive(Debug)]
pub struct Connection {
    /// The other end of the socket.
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// The client's address as the PROXY protocol told it, if a trusted peer did; else `peer`.
    pub client: SocketAddr,
    /// The listener's name.
    pub listener: Arc<str>,
    pub tls: Option<TlsFacts>,
    /// What the last request's backend was told of this connection, and the authority it was told under: most requests of a
    /// connection name the same one.
    pub told: parking_lot::Mutex<Option<(Box<[u8]>, HeaderEdits)>>,
}

#[derive(Debug, Clone)]
pub struct TlsFacts {
    pub version: &'static str,
    pub cipher: &'static str,
    pub server_name: Option<Arc<str>>,
}

/// Why a request ended the way it did: a policy's name and a stable word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub policy: &'static str,
    pub reason: &'static str,
}

/// The stages of the gauntlet, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    Edge,
    Validate,
    Authn,
    Authz,
    Admit,
    Shape,
}

impl Stage {
    pub const ALL: [Stage; 6] = [Stage::Edge, Stage::Validate, Stage::Authn, Stage::Authz, Stage::Admit, Stage::Shape];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Edge => "edge",
            Stage::Validate => "validate",
            Stage::Authn => "authn",
            Stage::Authz => "authz",
            Stage::Admit => "admit",
            Stage::Shape => "shape",
        }
    }
}

/// Something that a policy took for the time of one request: a place among those served at once, for instance. Given back when the
/// request ends, whatever way it ends.
pub trait Hold: Send + Sync {
    fn release(self: Box<Self>, ending: &Ending);
}

/// How a request ended, as far as policies learn from it.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    /// 499 if the client went away first.
    pub status: u16,
    /// The policy that refused, or whatever else of the gateway's own answered.
    pub answered_by: Option<&'static str>,
    /// From the request sent to the backend to the head of its answer.
    pub upstream: Option<Duration>,
    /// From the request's head to now.
    pub took: Duration,
}

/// One request's memory. Policies read and write it; the log line and the metrics are made from it.
pub struct Exchange {
    pub connection: Arc<Connection>,
    /// The other end is a proxy whose word is believed.
    pub trusted: bool,
    /// The real client: the connection's, or what a trusted proxy forwarded.
    pub client: IpAddr,
    pub started: Instant,
    pub request_id: Arc<str>,
    /// `00-<trace>-<span>-<flags>` (W3C Trace Context), as it goes to the backend.
    pub traceparent: Arc<str>,
    /// The route's id, once there is one.
    pub route: Option<Arc<str>>,
    /// What the route's `{name}` segments matched, undecoded.
    pub params: smallvec::SmallVec<[(Arc<str>, Box<str>); 4]>,
    pub identity: Option<Arc<Identity>>,
    /// Changes to the request on its way to the backend.
    pub to_upstream: HeaderEdits,
    /// Changes to whatever answer the client gets, a refusal included (`RateLimit`, `X-Request-Id`).
    pub to_client: HeaderEdits,
    /// What is left of the limit that the `RateLimit` field in `to_client` tells of.
    pub limit_left: Option<u64>,
    /// The path and query to ask the backend for, where they differ from the client's.
    pub upstream_target: Option<String>,
    /// The `Host` the backend sees, where it differs from the client's.
    pub upstream_host: Option<String>,
    /// Time spent in each stage, indexed by `Stage as usize`.
    pub stages: [Duration; 6],
    /// What is given back when the request ends.
    pub held: smallvec::SmallVec<[Box<dyn Hold>; 1]>,
}

impl Exchange {
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(known, _)| &**known == name).map(|(_, value)| &**value)
    }

    /// Adds to the time spent in a stage.
    pub fn spent(&mut self, stage: Stage, time: Duration) {
        if let Some(slot) = self.stages.get_mut(stage as usize) {
            *slot += time;
        }
    }

    /// An exchange for unit tests and benches, from 192.0.2.1.
    pub fn for_tests() -> Self {
        let peer = SocketAddr::from(([192, 0, 2, 1], 40000));
        let connection = Connection {
            peer,
            local: SocketAddr::from(([192, 0, 2, 254], 80)),
            client: peer,
            listener: "test".into(),
            tls: None,
            told: Default::default(),
        };
        Exchange::new(Arc::new(connection), "test-request".into())
    }

    pub fn new(connection: Arc<Connection>, request_id: Arc<str>) -> Self {
        Exchange {
            trusted: false,
            client: connection.client.ip(),
            connection,
            started: Instant::now(),
            request_id,
            traceparent: "".into(),
            route: None,
            params: Default::default(),
            identity: None,
            to_upstream: HeaderEdits::new(),
            to_client: HeaderEdits::new(),
            limit_left: None,
            upstream_target: None,
            upstream_host: None,
            stages: [Duration::ZERO; 6],
            held: Default::default(),
        }
    }
}
