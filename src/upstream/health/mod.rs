//! Active health checks: what is asked, and whether the answer is good. When it is asked is the watchers' business.
//!
//! The ready-made checks of `pingora-load-balancing` are not used: each owns a connector of its own, with two TLS contexts and the
//! system's trust store in both, which adds up with a thousand checked services; and they read bodies to the end. Here all checks
//! share one connector, and the head of the answer decides, or the beginning of its body where that is asked for.

mod compile;
mod grpc;

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Uri, header};
use pingora_core::connectors::TransportConnector;
use pingora_core::connectors::http::Connector;
use pingora_http::RequestHeader;

use self::compile::Expected;
use super::config::Protocol;
use super::endpoint::{Endpoint, Thresholds};
use super::health_config::{HealthCheckConfig, Initial};
use super::peer::{PeerTemplate, Timeouts, Tls, check_names};
use crate::grpc::GRPC_STATUS;
use crate::problem::{Problem, Problems};
use crate::value::{Spanned, StatusRange, count_within, period_within};

/// The longest reason that is kept, in characters.
const LONGEST_REASON: usize = 300;
/// How much of an answer's body is looked at, in bytes.
const LONGEST_BODY: usize = 64 * 1024;
/// How many interim (1xx) answers are read before the final one.
const MOST_INTERIM: usize = 8;

/// The connectors that all checks share. Made when first needed: they load the system's trust store.
#[derive(Default)]
pub struct Prober {
    http: OnceLock<Connector>,
    transport: OnceLock<TransportConnector>,
}

impl Prober {
    fn http(&self) -> &Connector {
        self.http.get_or_init(|| Connector::new(None))
    }
}

/// A service's health check, compiled.
pub struct Check {
    kind: Kind,
    interval: Duration,
    unhealthy_interval: Duration,
    timeout: Duration,
    pub thresholds: Thresholds,
    /// What an endpoint counts as before its first check.
    pub initial: Initial,
    port: Option<u16>,
    protocol: Protocol,
    peers: PeerTemplate,
    /// What was asked for, to tell whether a reload changed it.
    asked: String,
}

#[derive(Debug)]
enum Kind {
    Tcp,
    Http(Question),
    /// `grpc.health.v1.Health/Check` of a service of the server's; the empty name is the server as a whole.
    Grpc(Box<str>),
}

/// What is asked over HTTP, and what is a good answer.
#[derive(Debug)]
struct Question {
    method: Method,
    path: PathAndQuery,
    host: Option<HeaderValue>,
    fields: Vec<(HeaderName, HeaderValue)>,
    status: Vec<StatusRange>,
    body: Option<Expected>,
}

impl Check {
    /// `None` only if there was a problem.
    pub fn compile(
        config: &Spanned<HealthCheckConfig>,
        protocol: Protocol,
        tls: Option<&Tls>,
        problems: &mut Problems,
    ) -> Option<Self> {
        let kind = compile::kind(config, config.place, problems);
        let interval = period_within("interval", &config.interval, 100, 3_600_000, problems);
        let sooner = config.unhealthy_interval.as_ref();
        let sooner = sooner.map(|sooner| period_within("unhealthy_interval", sooner, 100, 3_600_000, problems));
        let timeout = period_within("timeout", &config.timeout, 10, 60_000, problems);
        let healthy_after = count_within("healthy_after", &config.healthy_after, 1, 100, problems);
        let unhealthy_after = count_within("unhealthy_after", &config.unhealthy_after, 1, 100, problems);
        let port = config.port.as_ref().map(|port| {
            let fits = u16::try_from(port.value).ok().filter(|port| *port > 0);
            if fits.is_none() {
                problems.push(Problem::error(port.place, format!("`port` is {}, which is not between 1 and 65535", port.value)));
            }
            fits
        });
        let (kind, interval, timeout) = (kind?, interval?, timeout?);
        // An inner `None` is a problem that has been told.
        let unhealthy_interval = sooner.unwrap_or(Some(interval))?;
        let port = port.map_or(Some(None), |port| port.map(Some))?;
        let thresholds = Thresholds { healthy_after: healthy_after?, unhealthy_after: unhealthy_after? };
        // A service that is asked in gRPC's words hears them in its protocol.
        let protocol = if matches!(kind, Kind::Grpc(_)) { Protocol::Grpc } else { protocol.plain() };
        let peers = PeerTemplate::new(Timeouts::all(timeout), protocol, tls).unshared();
        let initial = config.initial;
        let asked = format!(
            "{kind:?} {interval:?} {unhealthy_interval:?} {timeout:?} {thresholds:?} {initial:?} {port:?} {:?}",
            peers.identity()
        );
        Some(Check { kind, interval, unhealthy_interval, timeout, thresholds, initial, port, protocol, peers, asked })
    }

    /// How long until an endpoint is asked again.
    pub fn interval(&self, endpoint: &Endpoint) -> Duration {
        if endpoint.passes_checks(self.initial) { self.interval } else { self.unhealthy_interval }
    }

    /// Whether both ask the same in the same way: then a reload leaves the running checks alone.
    pub fn same_as(&self, other: &Check) -> bool {
        self.asked == other.asked
    }

    /// Asks once. Ends within the check's timeout, and tells why the endpoint is not well.
    pub async fn run(&self, prober: &Prober, endpoint: &Endpoint) -> Result<(), String> {
        let moved = self.port.and_then(|port| endpoint.at_port(port));
        let endpoint = moved.as_ref().unwrap_or(endpoint);
        let question = async {
            match &self.kind {
                Kind::Tcp => self.ask_tcp(prober, endpoint).await,
                Kind::Http(question) => self.ask_http(prober, endpoint, question).await,
                Kind::Grpc(service) => self.ask_grpc(prober, endpoint, service).await,
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

    async fn ask_http(&self, prober: &Prober, endpoint: &Endpoint, question: &Question) -> Result<(), String> {
        let request = self.request(endpoint, question)?;
        let peer = self.peers.peer(endpoint, None);
        let wanted = question.body.as_ref().map(|_| LONGEST_BODY);
        let answer = ask(prober.http(), &peer, request, None, wanted, self.timeout).await.map_err(plainly)?;
        if !question.status.iter().any(|range| range.contains(answer.status)) {
            return Err(format!("answered {}", answer.status));
        }
        match &question.body {
            Some(expected) if !expected.is_in(&answer.body) => Err(format!("answered {} without {expected}", answer.status)),
            _ => Ok(()),
        }
    }

    async fn ask_grpc(&self, prober: &Prober, endpoint: &Endpoint, service: &str) -> Result<(), String> {
        let question = Question {
            method: Method::POST,
            path: PathAndQuery::from_static("/grpc.health.v1.Health/Check"),
            host: None,
            fields: vec![
                (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
                (header::TE, HeaderValue::from_static("trailers")),
            ],
            status: Vec::new(),
            body: None,
        };
        let request = self.request(endpoint, &question)?;
        let peer = self.peers.peer(endpoint, None);
        let message = grpc::question(service);
        let answer =
            ask(prober.http(), &peer, request, Some(message), Some(grpc::LONGEST), self.timeout).await.map_err(plainly)?;
        grpc::judge(answer.status, answer.grpc_status.as_deref(), &answer.body)
    }

    fn request(&self, endpoint: &Endpoint, question: &Question) -> Result<Box<RequestHeader>, String> {
        let host = match &question.host {
            Some(host) => host.clone(),
            None => HeaderValue::from_str(endpoint.host_header()).map_err(|error| error.to_string())?,
        };
        let said = |error: Box<pingora_core::Error>| error.to_string();
        let path = &question.path;
        let mut request = RequestHeader::build(question.method.clone(), path.as_str().as_bytes(), None).map_err(said)?;
        match self.protocol {
            Protocol::Http1 | Protocol::Auto => request.insert_header(header::CONNECTION, "close").map_err(said)?,
            // Otherwise `:scheme` would be `https` over plain TCP as well, which strict servers refuse.
            Protocol::Http2 | Protocol::Grpc => {
                let scheme = if self.peers.is_tls() { "https" } else { "http" };
                let uri = Uri::builder().scheme(scheme).authority(host.as_bytes()).path_and_query(path.clone());
                request.set_uri(uri.build().map_err(|error| error.to_string())?);
            }
        }
        request.insert_header(header::HOST, host).map_err(said)?;
        request.insert_header(header::USER_AGENT, "portcullis-health-check").map_err(said)?;
        if question.method == Method::POST && self.protocol == Protocol::Http1 {
            // Some servers want it said that there is no body.
            request.insert_header(header::CONTENT_LENGTH, "0").map_err(said)?;
        }
        for (name, value) in &question.fields {
            request.insert_header(name.clone(), value.clone()).map_err(said)?;
        }
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

/// What a check looks at of an answer.
struct Answered {
    status: u16,
    /// In the head, where it is that of a call that failed.
    grpc_status: Option<String>,
    body: Vec<u8>,
}

/// Sends the request on a new connection, and reads the final answer's head, and of its body as much as is `wanted`. The rest is not read:
/// the connection is closed.
async fn ask(
    connector: &Connector,
    peer: &pingora_core::upstreams::peer::HttpPeer,
    request: Box<RequestHeader>,
    message: Option<Bytes>,
    wanted: Option<usize>,
    timeout: Duration,
) -> pingora_core::Result<Answered> {
    // Nothing is ever given back to the connector's pool, so this connection is new: one that is kept could hide that no new one
    // can be made.
    let (mut session, _) = connector.get_http_session(peer).await?;
    check_names(session.digest().and_then(|digest| digest.ssl_digest.as_deref()))?;
    session.set_write_timeout(Some(timeout));
    session.set_read_timeout(Some(timeout));
    session.write_request_header(request).await?;
    if let Some(message) = message {
        session.write_request_body(message, true).await?;
    }
    session.finish_request_body().await?;
    let mut answered = Answered { status: 0, grpc_status: None, body: Vec::new() };
    for _ in 0..MOST_INTERIM {
        session.read_response_header().await?;
        if let Some(head) = session.response_header() {
            answered.status = head.status.as_u16();
            answered.grpc_status = head.headers.get(GRPC_STATUS).and_then(|status| status.to_str().ok()).map(str::to_owned);
        }
        // An HTTP/2 session hides interim answers, and cannot be read twice.
        if !(100..200).contains(&answered.status) || session.as_http1().is_none() {
            break;
        }
    }
    while let Some(room) = wanted.and_then(|wanted| wanted.checked_sub(answered.body.len())).filter(|room| *room > 0) {
        let Some(piece) = session.read_response_body().await? else { break };
        answered.body.extend_from_slice(piece.get(..room).unwrap_or(&piece));
    }
    session.shutdown().await;
    Ok(answered)
}
