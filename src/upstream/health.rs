//! Active health checks: what is asked, and whether the answer is good. When it is asked is the watchers' business.
//!
//! The ready-made checks of `pingora-load-balancing` are not used: each owns a connector of its own, with two TLS contexts and the
//! system's trust store in both, which adds up with a thousand checked services; and they read bodies to the end. Here all checks
//! share one connector, and the head of the answer decides.

use std::sync::OnceLock;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderValue, Uri, header};
use pingora_core::connectors::TransportConnector;
use pingora_core::connectors::http::Connector;
use pingora_http::RequestHeader;

use super::config::{HealthCheckConfig, Protocol, StatusRange};
use super::endpoint::{Endpoint, Thresholds};
use super::peer::{PeerTemplate, Timeouts, Tls, check_names};
use crate::problem::{Place, Problem, Problems};
use crate::value::{Spanned, count_within, period_within};

/// The longest reason that is kept, in characters.
const LONGEST_REASON: usize = 300;
/// How many interim (1xx) answers are read before the final one.
const MOST_INTERIM: usize = 8;

/// The connectors that all checks share. Made when first needed: they load the system's trust store.
#[derive(Default)]
pub struct Prober {
    http: OnceLock<Connector>,
    transport: OnceLock<TransportConnector>,
}

/// A service's health check, compiled.
pub struct Check {
    kind: Kind,
    pub interval: Duration,
    timeout: Duration,
    pub thresholds: Thresholds,
    protocol: Protocol,
    peers: PeerTemplate,
    /// What was asked for, to tell whether a reload changed it.
    asked: String,
}

#[derive(Debug)]
enum Kind {
    Tcp,
    Http { path: PathAndQuery, host: Option<HeaderValue>, status: Vec<StatusRange> },
}

impl Check {
    /// `None` only if there was a problem.
    pub fn compile(
        config: &Spanned<HealthCheckConfig>,
        protocol: Protocol,
        tls: Option<&Tls>,
        problems: &mut Problems,
    ) -> Option<Self> {
        let kind = compile_kind(config, config.place, problems);
        let interval = period_within("interval", &config.interval, 100, 3_600_000, problems);
        let timeout = period_within("timeout", &config.timeout, 10, 60_000, problems);
        let healthy_after = count_within("healthy_after", &config.healthy_after, 1, 100, problems);
        let unhealthy_after = count_within("unhealthy_after", &config.unhealthy_after, 1, 100, problems);
        let (kind, interval, timeout) = (kind?, interval?, timeout?);
        let thresholds = Thresholds { healthy_after: healthy_after?, unhealthy_after: unhealthy_after? };
        let peers = PeerTemplate::new(Timeouts::all(timeout), protocol, tls).unshared();
        let asked = format!("{kind:?} {interval:?} {timeout:?} {thresholds:?} {:?}", peers.identity());
        Some(Check { kind, interval, timeout, thresholds, protocol, peers, asked })
    }

    /// Whether both ask the same in the same way: then a reload leaves the running checks alone.
    pub fn same_as(&self, other: &Check) -> bool {
        self.asked == other.asked
    }

    /// Asks once. Ends within the check's timeout, and tells why the endpoint is not well.
    pub async fn run(&self, prober: &Prober, endpoint: &Endpoint) -> Result<(), String> {
        let question = async {
            match &self.kind {
                Kind::Tcp => self.ask_tcp(prober, endpoint).await,
                Kind::Http { path, host, status } => self.ask_http(prober, endpoint, path, host.as_ref(), status).await,
            }
        };
        match tokio::time::timeout(self.timeout, question).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(why.chars().take(LONGEST_REASON).collect()),
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        }
    }

    async fn ask_tcp(&self, prober: &Prober, endpoint: &Endpoint) -> Result<(), String> {
        let connector = prober.transport.get_or_init(|| TransportConnector::new(None));
        let peer = self.peers.peer(endpoint, None);
        let stream = connector.new_stream(&peer).await.map_err(plainly)?;
        check_names(stream.get_ssl_digest().as_deref()).map_err(|error| error.to_string())
    }

    async fn ask_http(
        &self,
        prober: &Prober,
        endpoint: &Endpoint,
        path: &PathAndQuery,
        host: Option<&HeaderValue>,
        status: &[StatusRange],
    ) -> Result<(), String> {
        let request = self.request(endpoint, path, host)?;
        let connector = prober.http.get_or_init(|| Connector::new(None));
        let answered = ask(connector, &self.peers.peer(endpoint, None), request, self.timeout).await;
        let answered = answered.map_err(plainly)?;
        if status.iter().any(|range| range.contains(answered)) { Ok(()) } else { Err(format!("answered {answered}")) }
    }

    fn request(
        &self,
        endpoint: &Endpoint,
        path: &PathAndQuery,
        host: Option<&HeaderValue>,
    ) -> Result<Box<RequestHeader>, String> {
        let host = match host {
            Some(host) => host.clone(),
            None => HeaderValue::from_str(endpoint.host_header()).map_err(|error| error.to_string())?,
        };
        let said = |error: Box<pingora_core::Error>| error.to_string();
        let mut request = RequestHeader::build("GET", path.as_str().as_bytes(), None).map_err(said)?;
        match self.protocol {
            Protocol::Http1 => request.insert_header(header::CONNECTION, "close").map_err(said)?,
            // Otherwise `:scheme` would be `https` over plain TCP as well, which strict servers refuse.
            Protocol::Http2 | Protocol::Grpc => {
                let scheme = if self.peers.is_tls() { "https" } else { "http" };
                let uri = Uri::builder().scheme(scheme).authority(host.as_bytes()).path_and_query(path.clone());
                request.set_uri(uri.build().map_err(|error| error.to_string())?);
            }
        }
        request.insert_header(header::HOST, host).map_err(said)?;
        request.insert_header(header::USER_AGENT, "portcullis-health-check").map_err(said)?;
        Ok(Box::new(request))
    }
}

/// What went wrong in the words of the system, where it has any, and on one line.
fn plainly(error: Box<pingora_core::Error>) -> String {
    match error.root_cause().downcast_ref::<std::io::Error>() {
        Some(cause) => cause.to_string(),
        None => error.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

/// Sends the request on a new connection, and tells the final answer's status. The body is not read: the connection is closed.
async fn ask(
    connector: &Connector,
    peer: &pingora_core::upstreams::peer::HttpPeer,
    request: Box<RequestHeader>,
    timeout: Duration,
) -> pingora_core::Result<u16> {
    // Nothing is ever given back to the connector's pool, so this connection is new: one that is kept could hide that no new one
    // can be made.
    let (mut session, _) = connector.get_http_session(peer).await?;
    check_names(session.digest().and_then(|digest| digest.ssl_digest.as_deref()))?;
    session.set_write_timeout(Some(timeout));
    session.set_read_timeout(Some(timeout));
    session.write_request_header(request).await?;
    session.finish_request_body().await?;
    let mut status = 0;
    for _ in 0..MOST_INTERIM {
        session.read_response_header().await?;
        status = session.response_header().map_or(0, |head| head.status.as_u16());
        // An HTTP/2 session hides interim answers, and cannot be read twice.
        if !(100..200).contains(&status) || session.as_http1().is_none() {
            break;
        }
    }
    session.shutdown().await;
    Ok(status)
}

fn compile_kind(config: &HealthCheckConfig, place: Place, problems: &mut Problems) -> Option<Kind> {
    let tcp = config.tcp.as_ref().filter(|tcp| tcp.value);
    let path = match (&config.path, tcp) {
        (Some(_), Some(tcp)) => {
            problems.push(Problem::error(tcp.place, "a health check has either `path` or `tcp: true`, not both"));
            return None;
        }
        (None, None) => {
            let problem = Problem::error(place, "a health check needs `path` or `tcp: true`");
            problems.push(problem.hint("for example `path: /healthz`"));
            return None;
        }
        (None, Some(_)) => return Some(Kind::Tcp),
        (Some(path), None) => path,
    };
    let mut fine = true;
    let parsed = PathAndQuery::try_from(path.as_str()).ok().filter(|_| path.starts_with('/') && !path.contains('#'));
    if parsed.is_none() {
        let message = format!("`{}` is not a path that can be requested", path.value);
        problems.push(Problem::error(path.place, message).hint("it starts with `/` and has neither spaces nor `#`"));
    }
    let host = config.host.as_ref().and_then(|host| {
        // What is a valid authority is a valid field value, too.
        let valid = http::uri::Authority::try_from(host.as_str()).is_ok() && !host.contains('@');
        let value = HeaderValue::from_str(host).ok().filter(|_| valid);
        if value.is_none() {
            problems.push(Problem::error(host.place, format!("`{}` is not a host", host.value)));
            fine = false;
        }
        value
    });
    if config.status.is_empty() {
        problems.push(Problem::error(config.status.place, "`status` is empty: no answer could ever count as well"));
        fine = false;
    }
    parsed.filter(|_| fine).map(|path| Kind::Http { path, host, status: config.status.value.clone() })
}
