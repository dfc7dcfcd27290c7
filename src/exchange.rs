//! What one request remembers, from its first byte to its log line.

use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::VIA;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use crate::grpc::{self, GRPC_TIMEOUT};
use crate::head::{Edited, HeaderEdit, HeaderEdits, RequestHead};
use crate::via::Via;

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How many milliseconds are left of a request's deadline. A span and no time of day, as Envoy and gRPC have it: clocks differ.
pub const X_REQUEST_DEADLINE: HeaderName = HeaderName::from_static("x-request-deadline");

/// How many fields a request has that goes to a service, the gateway's among them; few have more.
const MOSTLY: usize = 20;

/// The name of one request: 1 to 128 characters of `A-Za-z0-9._-`. The 32 of one that the gateway made need no allocation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(SmallVec<[u8; 32]>);

impl RequestId {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<[u8; 32]> for RequestId {
    fn from(digits: [u8; 32]) -> Self {
        RequestId(digits.into())
    }
}

impl From<&str> for RequestId {
    fn from(text: &str) -> Self {
        RequestId(text.as_bytes().into())
    }
}

impl Deref for RequestId {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// What a backend is told about the client, whatever the client says itself: `X-Forwarded-*`, `Via` and the like. What policies change
/// comes after it.
///
/// Made once for a connection, and for every request behind a proxy. Mostly it is wanted as it stands in an HTTP/1.1 head and in no other
/// form: the others are made when somebody asks for them.
#[derive(Debug, Default)]
pub struct ForwardedHeaders {
    /// As it stands in an HTTP/1.1 head.
    pub wire: Vec<u8>,
    /// The fields but for `Via`, and where in `wire` their values stand; `None` for one that is removed.
    pub fields: SmallVec<[ToldField; 6]>,
    pub forms: Forms,
    /// `http` or `https`: how the client came, as far as can be known.
    pub scheme: &'static str,
    /// What the backend may make of where the client went: the scheme, the host and the port that it is told. Not who the client is.
    pub origin: Vec<u8>,
    /// The version in which the request came.
    pub version: http::Version,
    /// What the gateway calls itself, if it does.
    pub via: Option<Arc<Via>>,
}

/// The other forms of what is told, once somebody has asked for them.
#[derive(Debug, Default)]
pub struct Forms {
    edits: OnceLock<HeaderEdits>,
    map: OnceLock<HeaderMap>,
    authority: OnceLock<Option<Authority>>,
}

/// A field's name, and where its value stands.
pub type ToldField = (&'static HeaderName, Option<Range<usize>>);

/// With its length, so that no two lists of parts have the same bytes.
pub fn push_framed(out: &mut Vec<u8>, part: &[u8]) {
    out.extend_from_slice(&(part.len() as u64).to_le_bytes());
    out.extend_from_slice(part);
}

/// [`ForwardedHeaders::origin`] of a client that came straight to this host and port.
pub fn origin_of(scheme: &str, host: &[u8], port: u16) -> Vec<u8> {
    let mut origin = Vec::with_capacity(64);
    [scheme.as_bytes(), host, &port.to_be_bytes()].into_iter().for_each(|part| push_framed(&mut origin, part));
    origin
}

impl ForwardedHeaders {
    /// Of edits that are there already.
    pub fn new(edits: HeaderEdits) -> Self {
        let mut wire = Vec::with_capacity(256);
        for (name, value) in Edited::new(&edits).added() {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                wire.extend_from_slice(part);
            }
        }
        let forms = Forms { edits: edits.into(), ..Forms::default() };
        ForwardedHeaders { wire, forms, scheme: "http", ..ForwardedHeaders::default() }
    }

    /// Each replaces, removes or (`Via`) extends the client's fields of its name.
    pub fn edits(&self) -> &HeaderEdits {
        self.forms.edits.get_or_init(|| {
            let text = Bytes::copy_from_slice(&self.wire);
            let edit = |(name, place): &ToldField| {
                let name: &HeaderName = name;
                let value = place.clone().filter(|place| place.end <= text.len()).map(|place| text.slice(place));
                match value.map(HeaderValue::from_maybe_shared) {
                    Some(Ok(value)) => HeaderEdit::Set(name.clone(), value),
                    _ => HeaderEdit::Remove(name.clone()),
                }
            };
            let via = self.via.as_ref().map(|via| HeaderEdit::Add(VIA, via.value(self.version).clone()));
            self.fields.iter().map(edit).chain(via).collect()
        })
    }

    /// The authority that all requests name which are told this, as an HTTP/2 head has it. `None` if it is none for HTTP/2.
    pub fn authority(&self, named: &[u8]) -> Option<Authority> {
        let read = || Authority::from_maybe_shared(Bytes::copy_from_slice(named)).ok();
        self.forms.authority.get_or_init(read).clone()
    }

    /// The fields that replace the client's, as a map: what an HTTP/2 head begins with.
    pub fn map(&self) -> &HeaderMap {
        self.forms.map.get_or_init(|| {
            // With room for the client's, of which there are mostly no more: the copies are as large.
            let mut map = HeaderMap::with_capacity(MOSTLY);
            for edit in self.edits() {
                if let HeaderEdit::Set(name, value) = edit {
                    map.insert(name.clone(), value.clone());
                }
            }
            map
        })
    }
}

/// Whether a client's field of that name never reaches a backend as it came, because the gateway says it itself: what
/// is [`ForwardedHeaders`], the request id, the trace, the deadline, the attempt's number, and the marks of copies and of fallbacks.
pub fn is_gateways(name: &[u8]) -> bool {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    match name.len() {
        9 => is("forwarded") || is("x-real-ip"),
        11 => is("traceparent"),
        12 => is("x-request-id"),
        15 => is("x-forwarded-for"),
        16 => is("x-forwarded-host") || is("x-forwarded-port"),
        17 => is("x-forwarded-proto"),
        18 => is("x-request-deadline"),
        19 => is("x-portcullis-mirror"),
        20 => is("x-portcullis-attempt"),
        21 => is("x-portcullis-fallback"),
        _ => false,
    }
}

/// Whether a field of that name says who the client has proved to be.
pub fn is_identity(name: &[u8]) -> bool {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    match name.len() {
        11 => is("client-cert"),
        17 => is("client-cert-chain"),
        13 => is("x-auth-method") || is("x-auth-scopes"),
        14 => is("x-auth-subject"),
        15 => is("x-consumer-name"),
        _ => false,
    }
}

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

/// What was told, and the authority it was told under.
pub type ForwardedUnder = (Box<[u8]>, Arc<ForwardedHeaders>);

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
    pub told: parking_lot::Mutex<Option<ForwardedUnder>>,
}

#[derive(Debug, Clone)]
pub struct TlsFacts {
    pub version: &'static str,
    pub cipher: &'static str,
    pub server_name: Option<Arc<str>>,
    /// The certificate that the client proved to hold, if it was asked for one.
    pub client: Option<Arc<ClientCertificate>>,
}

/// A verified client certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The whole of it, DER.
    pub der: Vec<u8>,
    /// The certificates that vouch for it, in order, without the authority's own; DER.
    pub chain: Vec<Vec<u8>>,
    /// SHA-256 of `der`.
    pub fingerprint: [u8; 32],
    /// The subject's distinguished name, as RFC 4514 writes it; empty if there is none.
    pub subject: String,
    pub common_name: Option<String>,
    /// From the subject's alternative names, in the order of the certificate.
    pub dns: Vec<String>,
    pub uris: Vec<String>,
    pub emails: Vec<String>,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: u64,
}

impl ClientCertificate {
    /// The fingerprint as it is written: 64 hexadecimal digits.
    pub fn fingerprint_digits(&self) -> String {
        self.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Where routes have their names.
pub trait RouteNames: Send + Sync {
    fn route_name(&self, number: u32) -> &str;
}

/// Every route has this name: for tests.
impl RouteNames for &'static str {
    fn route_name(&self, _: u32) -> &str {
        self
    }
}

/// The name of the route that a request took, looked up when it is asked for: few requests do, and a counted reference to the name
/// would be one that all cores count.
#[derive(Clone)]
pub struct RouteName {
    pub names: Arc<dyn RouteNames>,
    pub number: u32,
}

impl Deref for RouteName {
    type Target = str;

    fn deref(&self) -> &str {
        self.names.route_name(self.number)
    }
}

/// Where operations have their names.
pub trait OperationNames: Send + Sync {
    fn operation_name(&self, number: u32) -> &str;

    /// What it costs, where that is known.
    fn operation_cost(&self, _: u32) -> Option<u64> {
        None
    }

    /// Whether it is known to be none that only asks, whatever the method says.
    fn may_change(&self, _: u32) -> bool {
        false
    }
}

/// The operation that a request asks for: of a document of OpenAPI, or of one of GraphQL.
#[derive(Clone)]
pub struct OperationName {
    pub names: Arc<dyn OperationNames>,
    pub number: u32,
}

impl Deref for OperationName {
    type Target = str;

    fn deref(&self) -> &str {
        self.names.operation_name(self.number)
    }
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
pub trait OnEnd: Send + Sync {
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

/// How much a request matters when not all can be served: where load is shed, the lowest goes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

/// What the gateway made of a path that was not written as it is matched, once its route was known.
#[derive(Debug, Default)]
pub struct Written {
    /// The path that the backend is sent if nothing rewrites it, where that is not the canonical one.
    pub sent: Option<String>,
    /// What else a backend could take the path for, where a policy that looks at it has to agree to each.
    pub readings: Vec<Reading>,
}

/// Another reading of a request's path, under the route that was chosen.
#[derive(Debug)]
pub struct Reading {
    pub path: String,
    pub params: Params,
    /// It is not the path itself, but where the request wants something to go.
    pub destination: bool,
}

/// What a route's `{name}` segments matched, undecoded.
pub type Params = SmallVec<[(Arc<str>, Box<str>); 4]>;

/// A deadline that the service is told of. It is told what is left of it when it is asked, so that a second attempt has less.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    pub at: Instant,
    /// In gRPC's own words.
    pub grpc: bool,
    /// The caller's own, which is no sooner: the gateway may give the request less time.
    pub asked: Option<Instant>,
}

impl Deadline {
    /// Whether it is the one that the caller has set itself: that it is exceeded says nothing about the service.
    pub fn is_callers(self) -> bool {
        self.asked.is_some_and(|asked| asked <= self.at)
    }

    pub fn name(self) -> &'static HeaderName {
        static NAMES: [HeaderName; 2] = [X_REQUEST_DEADLINE, GRPC_TIMEOUT];
        let [plain, grpc] = &NAMES;
        if self.grpc { grpc } else { plain }
    }

    /// What is left of it, rounded down: the service must not think that it has longer.
    pub fn left(self) -> HeaderValue {
        let left = self.at.saturating_duration_since(Instant::now());
        match self.grpc {
            // It is made of digits and a letter.
            true => HeaderValue::try_from(grpc::write_timeout(left)).unwrap_or(HeaderValue::from_static("0n")),
            false => HeaderValue::from(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// One request's memory. Policies read and write it; the log line and the metrics are made from it.
pub struct Exchange {
    pub connection: Arc<Connection>,
    /// The other end is a proxy whose word on who connected to it is believed.
    pub trusted: bool,
    /// The other end may say who the client has proved to be.
    pub trusted_identity: bool,
    /// The real client: the connection's, or what a trusted proxy forwarded.
    pub client: IpAddr,
    pub started: Instant,
    pub request_id: RequestId,
    /// `00-<trace>-<span>-<flags>` (W3C Trace Context), as it goes to the backend.
    pub traceparent: [u8; 55],
    /// What the backend is told about the client. The request id and the trace are not in it.
    pub told: Option<Arc<ForwardedHeaders>>,
    /// What the service is told of how long it has, where that is bounded.
    pub deadline: Option<Deadline>,
    /// The route, once there is one.
    pub route: Option<RouteName>,
    /// The operation, where the route knows of any.
    pub operation: Option<OperationName>,
    /// Which operation of its document of OpenAPI the route has met, whatever other name there is for it.
    pub documented: Option<u32>,
    /// The path ends in a value, whatever it looks like: a word behind a colon is a part of it.
    pub ends_in_value: bool,
    pub params: Params,
    pub identity: Option<Arc<Identity>>,
    /// Policies' changes to the request on its way to the backend.
    pub to_upstream: HeaderEdits,
    /// Policies' changes to whatever answer the client gets, a refusal included (`RateLimit`). Every answer carries the request id.
    pub to_client: HeaderEdits,
    /// What is left of the limit that the `RateLimit` field in `to_client` tells of.
    pub limit_left: Option<u64>,
    /// What there is to know of a path that was not written as it is matched. `None` for nearly all.
    pub written: Option<Box<Written>>,
    /// The path and query to ask the backend for, where they differ from the client's.
    pub upstream_target: Option<String>,
    /// The `Host` the backend sees, where it differs from the client's.
    pub upstream_host: Option<String>,
    /// Time spent in each stage, indexed by `Stage as usize`.
    pub stages: [Duration; 6],
    pub priority: Priority,
    /// The faults that were injected on purpose: `delay`, `abort` or both. Empty for all others.
    pub fault: &'static str,
    /// The request's body, where a step keeps it for one that waits.
    pub body: Option<bytes::Bytes>,
    /// Of the whole body that the service gets, where it is part of a cache's key.
    pub body_digest: Option<Box<[u8; 32]>>,
    /// What steps have made of a body for the path and the query, in one spelling: a cache's key has it beside the body, which need not have it
    /// any more.
    pub made_of_body: Option<Box<str>>,
    /// The body that goes on in place of the one that a step was shown.
    pub new_body: Option<bytes::Bytes>,
    /// Its answer is one that the cache has given to somebody before.
    pub shown_again: bool,
    /// What is given back when the request ends.
    pub held: smallvec::SmallVec<[Box<dyn OnEnd>; 1]>,
}

impl Exchange {
    /// The name of the consumer that the client has proved to be.
    pub fn consumer(&self) -> Option<&Arc<str>> {
        self.identity.as_ref()?.consumer.as_ref()
    }

    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(known, _)| &**known == name).map(|(_, value)| &**value)
    }

    /// What a service is told of it, for another request about the same.
    pub fn retold(&self) -> Exchange {
        let mut copy = Exchange::begun(self.connection.clone(), self.request_id.clone(), Instant::now());
        copy.trusted = self.trusted;
        copy.trusted_identity = self.trusted_identity;
        copy.client = self.client;
        copy.traceparent = self.traceparent;
        copy.told.clone_from(&self.told);
        copy.route.clone_from(&self.route);
        copy.to_upstream.clone_from(&self.to_upstream);
        copy.upstream_host.clone_from(&self.upstream_host);
        copy.ends_in_value = self.ends_in_value;
        // By these an endpoint may be chosen, and functions are told them.
        copy.params.clone_from(&self.params);
        copy.identity.clone_from(&self.identity);
        copy
    }

    /// `http` or `https`: how the client came to the outermost proxy that is trusted, or to the gateway itself. Backends are told the same.
    pub fn scheme(&self) -> &'static str {
        match &self.told {
            Some(told) => told.scheme,
            None if self.connection.tls.is_some() => "https",
            None => "http",
        }
    }

    /// What an answer that came in this version of HTTP gets as `Via`.
    pub fn via(&self, came: http::Version) -> Option<&http::HeaderValue> {
        self.told.as_ref()?.via.as_ref().map(|via| via.value(came))
    }

    /// The path that the backend is sent if nothing rewrites it.
    pub fn sent_path<'a>(&'a self, head: &'a RequestHead) -> &'a str {
        self.written.as_ref().and_then(|written| written.sent.as_deref()).unwrap_or(&head.path)
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

    /// Of a request that the gateway makes of its own accord, about nobody's.
    pub fn of_nobody(what: &str) -> Self {
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        let connection = Connection {
            peer: nobody,
            local: nobody,
            client: nobody,
            listener: what.into(),
            tls: None,
            told: Default::default(),
        };
        Exchange::new(Arc::new(connection), what.into())
    }

    pub fn new(connection: Arc<Connection>, request_id: RequestId) -> Self {
        Self::begun(connection, request_id, Instant::now())
    }

    /// [`Exchange::new`], of a request whose time of arrival is known. Nothing is called here, so that it can be made in its place.
    #[inline(always)]
    pub fn begun(connection: Arc<Connection>, request_id: RequestId, started: Instant) -> Self {
        Exchange {
            trusted: false,
            trusted_identity: false,
            client: connection.client.ip(),
            connection,
            started,
            request_id,
            traceparent: *b"00-00000000000000000000000000000000-0000000000000000-00",
            told: None,
            deadline: None,
            route: None,
            operation: None,
            documented: None,
            ends_in_value: false,
            params: Default::default(),
            identity: None,
            to_upstream: HeaderEdits::new(),
            to_client: HeaderEdits::new(),
            limit_left: None,
            written: None,
            upstream_target: None,
            upstream_host: None,
            stages: [Duration::ZERO; 6],
            priority: Priority::default(),
            fault: "",
            body: None,
            body_digest: None,
            made_of_body: None,
            new_body: None,
            shown_again: false,
            held: Default::default(),
        }
    }
}
