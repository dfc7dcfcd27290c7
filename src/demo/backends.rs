//! The sample services: real listeners on loopback, on a thread of their own. Each answers every path with what it saw, so that the
//! gateway's work can be read off the answer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_core::Stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::{Interval, interval};

/// Each service, and the name of its port in the configuration.
const INSTANCES: [(&str, &str); 6] = [
    ("catalog-service", "catalog_1"),
    ("catalog-service", "catalog_2"),
    ("catalog-service", "catalog_3"),
    ("catalog-canary", "canary"),
    ("cart-service", "cart"),
    ("checkout-service", "checkout"),
];
/// How long `/slow` takes: longer than its route's deadline.
const SLOW: Duration = Duration::from_secs(2);
const EVENTS: u32 = 3;
const BETWEEN_EVENTS: Duration = Duration::from_millis(200);

/// The running services. They end when this is dropped.
pub struct Backends {
    /// The name in the configuration, and the port.
    pub ports: Vec<(&'static str, u16)>,
    /// The private key of an issuer of tokens, in PKCS#8. Each service publishes the public one, under `/keys`.
    pub issuer_key: Vec<u8>,
    _stop: oneshot::Sender<()>,
}

/// A socket for this runtime, on a port that is free, and that port.
pub(super) fn listening(runtime: &Runtime) -> io::Result<(TcpListener, u16)> {
    let _inside = runtime.enter();
    let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let port = socket.local_addr()?.port();
    Ok((TcpListener::from_std(socket)?, port))
}

impl Backends {
    /// Starts all of them.
    ///
    /// # Errors
    /// The system gives no port, no thread, no event queue or no random bytes.
    pub fn start() -> io::Result<Self> {
        let issuer = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(io::Error::other)?;
        let keys: Arc<str> = jwk_set(issuer.public_key_raw()).to_string().into();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut ports = Vec::new();
        for (service, name) in INSTANCES {
            let (socket, port) = listening(&runtime)?;
            let instance = Arc::new(Instance { service, name, port, keys: keys.clone() });
            runtime.spawn(async move {
                if let Err(error) = axum::serve(socket, router(instance)).await {
                    log::error!("{service} ended: {error}");
                }
            });
            ports.push((name, port));
        }
        ports.push(("grpc", super::grpc::start(&runtime)?));
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("backends".to_owned()).spawn(move || {
            // An error means that the sender was dropped, which is how it is told to stop.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        Ok(Backends { ports, issuer_key: issuer.serialize_der(), _stop: stop })
    }
}

struct Instance {
    service: &'static str,
    name: &'static str,
    port: u16,
    /// What `/keys` answers.
    keys: Arc<str>,
}

/// The key of ES256 tokens as issuers publish it (RFC 7517), from an uncompressed point.
fn jwk_set(point: &[u8]) -> Value {
    let (x, y) = point.get(1..).and_then(|both| both.split_at_checked(32)).unwrap_or_default();
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    json!({ "keys": [{ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "demo-1", "x": part(x), "y": part(y) }] })
}

fn router(instance: Arc<Instance>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { axum::Json(json!({ "status": "ok" })) }))
        .route("/keys", get(keys))
        .route("/events", get(events))
        .route("/slow", any(slow))
        .route("/decide", any(decide))
        .fallback(saw)
        .with_state(instance)
}

async fn keys(State(instance): State<Arc<Instance>>) -> Response {
    ([(header::CONTENT_TYPE, "application/jwk-set+json")], instance.keys.to_string()).into_response()
}

/// What this instance saw of the request.
async fn saw(State(instance): State<Arc<Instance>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let seen = json!({
        "service": instance.service,
        "instance": format!("{}, port {}", instance.name.replace('_', " "), instance.port),
        "method": method.as_str(),
        "path": uri.path(),
        "query": uri.query(),
        "body_bytes": body.len(),
        "identity": {
            "consumer": text(&headers, "x-consumer-name"),
            "subject": text(&headers, "x-auth-subject"),
            "method": text(&headers, "x-auth-method"),
            "scopes": text(&headers, "x-auth-scopes"),
        },
        "headers": all(&headers),
    });
    ([(header::CONTENT_TYPE, "application/json"), (header::SERVER, "sample")], format!("{seen:#}\n")).into_response()
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Every field, sorted, the values of one name joined.
fn all(headers: &HeaderMap) -> Value {
    let mut fields: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        fields
            .entry(name.as_str())
            .and_modify(|known| *known = format!("{known}, {value}"))
            .or_insert_with(|| value.into_owned());
    }
    json!(fields)
}

async fn slow(State(instance): State<Arc<Instance>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    tokio::time::sleep(SLOW).await;
    saw(State(instance), method, uri, headers, body).await
}

/// Whether a request may pass, as the gateway's `external_auth` asks.
async fn decide(headers: HeaderMap) -> Response {
    match headers.get("x-ticket") {
        Some(ticket) if ticket == "valid" => ([("x-seat", "row 7")], "").into_response(),
        _ => (StatusCode::FORBIDDEN, "no ticket").into_response(),
    }
}

/// Server-sent events (WHATWG HTML, section 9.2), one by one.
async fn events() -> Response {
    let events = Events { clock: interval(BETWEEN_EVENTS), sent: 0 };
    let fields = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (fields, Body::from_stream(events)).into_response()
}

struct Events {
    clock: Interval,
    sent: u32,
}

impl Stream for Events {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.sent == EVENTS {
            return Poll::Ready(None);
        }
        ready!(self.clock.poll_tick(cx));
        self.sent += 1;
        Poll::Ready(Some(Ok(Bytes::from(format!("event: price\ndata: {{\"number\":{}}}\n\n", self.sent)))))
    }
}
