//! The cache: what is in it, and out of it.
//!
//! | | |
//! |---|---|
//! | `POST /cache/purge` | takes out what a URL, a prefix, a host or a tag names, here and on every gateway that shares a Redis |
//! | `GET /cache/explain?url=...&method=GET&header=Name:Value` | what is stored of a URL, and what such a request would get |
//! | `GET /cache/top?limit=20` | the largest entries, and what each route has |

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, response};
use bytes::BytesMut;
use serde::Deserialize;
use serde_json::json;

use super::{Admin, Peer, problem};
use crate::cache::sharing::Order;
use crate::cache::tags::LONGEST as LONGEST_TAG;
use crate::cache::watch::Asking;
use crate::cache::{Purge, Within, host};
use crate::carrier;
use crate::exchange::{Connection, Exchange};
use crate::route::Found;
use crate::snapshot::Snapshot;
use crate::wire::head::{self, HeadLimits};

/// The longest request body, in bytes, and the most that one order names.
const LONGEST_BODY: usize = 1 << 20;
const MOST: usize = 1000;
/// The longest URL, prefix or host.
const LONGEST_NAME: usize = 8192;

pub(super) fn router() -> Router<Admin> {
    Router::new()
        .route("/cache/purge", post(purge))
        .route("/cache/explain", get(explain))
        .route("/cache/top", get(top))
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
}

/// Makes a purge of what a person has written.
type Read = fn(&str) -> Result<Purge, &'static str>;

/// What is to be purged; any of it may be left out, but not all.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    urls: Vec<String>,
    prefixes: Vec<String>,
    hosts: Vec<String>,
    tags: Vec<String>,
    everything: bool,
    /// How far the tags go: one of these three.
    host: Option<String>,
    route: Option<String>,
    everywhere: bool,
    /// It may be given for as long as stale answers may.
    soft: bool,
}

impl Wanted {
    fn order(&self, snapshot: &Snapshot) -> Result<Order, String> {
        let count = self.urls.len() + self.prefixes.len() + self.hosts.len() + self.tags.len();
        if count == 0 && !self.everything {
            return Err("the body names what to purge: `urls`, `prefixes`, `hosts`, `tags` or `everything`".to_owned());
        }
        if count > MOST {
            return Err(format!("one request purges at most {MOST} things; `prefixes`, `hosts` and `tags` name many at once"));
        }
        let bad = |what: &str, text: &str, why: &str| format!("{what} `{}`: {why}", text.escape_debug());
        let mut purges = Vec::with_capacity(count + 1);
        let ways: [(&str, &[String], Read); 3] = [
            ("the URL", &self.urls, Purge::url),
            ("the prefix", &self.prefixes, Purge::prefix),
            ("the host", &self.hosts, Purge::host),
        ];
        for (what, texts, read) in ways {
            for text in texts {
                if text.len() > LONGEST_NAME {
                    return Err(format!("{what} has more than {LONGEST_NAME} bytes"));
                }
                purges.push(read(text).map_err(|why| bad(what, text, why))?);
            }
        }
        if self.tags.is_empty() && (self.everywhere || self.host.is_some() || self.route.is_some()) {
            return Err("`host`, `route` and `everywhere` say how far `tags` go, and there are none".to_owned());
        }
        for tag in &self.tags {
            if tag.is_empty() || tag.len() > LONGEST_TAG || tag.contains(['\n', '\r']) {
                return Err(bad("the tag", tag, "it has 1 to 1024 bytes"));
            }
            purges.push(Purge::Tag(tag.clone(), self.within(snapshot)?));
        }
        if self.everything {
            purges.push(Purge::Everything);
        }
        Ok(Order { soft: self.soft, purges })
    }

    /// A tag is what a service says of its own answers, and another service may say the same of its own.
    fn within(&self, snapshot: &Snapshot) -> Result<Within, String> {
        match (&self.host, &self.route, self.everywhere) {
            (None, None, true) => Ok(Within::Everywhere),
            (Some(text), None, false) => {
                Ok(Within::Host(host(text).map_err(|why| format!("the host `{}`: {why}", text.escape_debug()))?))
            }
            (None, Some(route), false) => match snapshot.routes.iter().any(|known| *known.id == **route) {
                true => Ok(Within::Route(route.clone())),
                false => Err(format!("there is no route `{}`; `GET /routes` has them all", route.escape_debug())),
            },
            _ => Err("`tags` go with one of `host`, `route` and `everywhere: true`, which says whose they are".to_owned()),
        }
    }
}

async fn purge(State(admin): State<Admin>, Peer(by): Peer, body: Result<Bytes, BytesRejection>) -> response::Result<Response> {
    let body = body.map_err(|rejection| problem(rejection.status(), "the body is too long, or did not come", json!({})))?;
    let wanted: Wanted = serde_json::from_slice(&body)
        .map_err(|error| problem(StatusCode::BAD_REQUEST, &format!("the body is no order to purge: {error}"), json!({})))?;
    let snapshot = admin.core.snapshot.load_full();
    let order = wanted.order(&snapshot).map_err(|why| problem(StatusCode::UNPROCESSABLE_ENTITY, &why, json!({})))?;
    let cache = admin.core.cache;
    // They are written one after the other: the last one is there when all are.
    let noted = order.purges.iter().map(|purge| cache.purge(purge, order.soft)).last().flatten();
    // A client that leaves takes along what waits below, but not what the others have to be told.
    let redis = snapshot.redis.as_ref().filter(|_| snapshot.caches());
    let telling = redis.map(|redis| (redis, cache.sharing.telling(&order)));
    let how = if order.soft { "marked stale" } else { "purged" };
    log::info!("audit: {how} {} of the cache{by}", named(&order.purges));
    let mut answer = json!({ "purged": order.purges.len(), "soft": order.soft });
    if let Some(noted) = noted {
        let written = noted.written().await;
        if !written {
            log::error!("a purge is not on disk yet: what it concerns may be there again if this process is killed now");
        }
        if let Some(answer) = answer.as_object_mut() {
            answer.insert("disk".to_owned(), if written { "written" } else { "not_written" }.into());
        }
    }
    let mut say = |others: &str, why: Option<String>| {
        if let Some(answer) = answer.as_object_mut() {
            answer.insert("others".to_owned(), others.into());
            answer.extend(why.map(|why| ("detail".to_owned(), why.into())));
        }
    };
    let status = match telling {
        None => {
            say("none", None);
            StatusCode::OK
        }
        Some((redis, telling)) => match telling.told(redis).await {
            Ok(()) => {
                say("told", None);
                StatusCode::OK
            }
            Err(error) => {
                log::warn!("the other gateways were not told of a purge, and will be: Redis: {error}");
                let why = format!("purged here; the other gateways have not been told, and will be when Redis is back: {error}");
                say("not_told", Some(why));
                StatusCode::ACCEPTED
            }
        },
    };
    Ok((status, Json(answer)).into_response())
}

/// The parameters of a query, decoded.
fn parameters(query: Option<&str>) -> Vec<(String, String)> {
    let text = |text: &str| String::from_utf8_lossy(&carrier::decode(text)).into_owned();
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(name, value)| (text(name), text(value))).collect()
}

async fn top(State(admin): State<Admin>, RawQuery(query): RawQuery) -> response::Result<Response> {
    let mut limit = 20;
    for (name, value) in parameters(query.as_deref()) {
        let wanted = value.parse().ok().filter(|limit| (1..=MOST).contains(limit) && name == "limit");
        limit = wanted.ok_or_else(|| problem(StatusCode::BAD_REQUEST, "the query takes `limit`, from 1 to 1000", json!({})))?;
    }
    let cache = admin.core.cache;
    let told = tokio::task::spawn_blocking(move || cache.top(limit)).await;
    Ok(told.map_or_else(
        |_| problem(StatusCode::SERVICE_UNAVAILABLE, "the process is ending", json!({})),
        |told| Json(told).into_response(),
    ))
}

async fn explain(State(admin): State<Admin>, RawQuery(query): RawQuery) -> response::Result<Response> {
    let bad = |why: &str| problem(StatusCode::BAD_REQUEST, why, json!({}));
    let (mut url, mut method, mut listener, mut fields) = (None, "GET".to_owned(), None, Vec::new());
    for (name, value) in parameters(query.as_deref()) {
        match &*name {
            "url" => url = Some(value),
            "method" => method = value,
            "listener" => listener = Some(value),
            "header" => fields.push(value),
            _ => {
                return Err(bad("the query takes `url`, `method`, `header` (as Name:Value, several times) and `listener`").into());
            }
        }
    }
    let url = url.ok_or_else(|| bad("the query names a `url`"))?;
    let mut purge = Purge::url(&url).map_err(|why| bad(&format!("the URL `{}`: {why}", url.escape_debug())))?;
    let Purge::Target { host, path, query } = &purge else { return Err(bad("that is no URL").into()) };
    let query = query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    // What is kept for one port is not for another.
    let port = url.parse::<http::Uri>().ok().and_then(|url| url.port_u16());
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let mut head = format!("{method} {path}{query} HTTP/1.1\r\nHost: {host}{port}\r\n");
    for field in &fields {
        head.push_str(field);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    let mut buffer = BytesMut::from(head.as_bytes());
    let head = head::take(&mut buffer, &HeadLimits::default());
    let head = head.ok().filter(|_| buffer.is_empty()).ok_or_else(|| bad("that is no request: look at `method` and `header`"))?;
    let snapshot = admin.core.snapshot.load_full();
    let listener = listener.or_else(|| Some(snapshot.doors.first()?.name.to_string())).unwrap_or_default();
    let route = match snapshot.tables.of(&listener).find(&head) {
        Found::Route { index, .. } => snapshot.routes.get(index as usize).cloned(),
        _ => None,
    };
    // Whoever it is thought of as being: nobody, who has proved nothing.
    let views = route.as_ref().and_then(|route| route.views.as_ref());
    let (route, head) = match views.map(|views| (views, views.choose(&head, None))) {
        None => (route, head),
        Some((_, None)) => return Err(bad("there is no such view of that").into()),
        Some((views, Some(chosen))) => {
            let mut head = head;
            if let Some(query) = head.query().and_then(|query| views.without_parameter(query)) {
                head.set_query(Some(query.as_str()).filter(|query| !query.is_empty()));
            }
            purge = Purge::Target { host: host.clone(), path: path.clone(), query: head.query().map(Into::into) };
            (snapshot.routes.get(chosen.view.route as usize).cloned(), head)
        }
    };
    let cache = admin.core.cache;
    let exchange = nobodys(&listener, route.as_ref().and_then(|route| route.rewrite.as_ref()?.host()));
    let told = tokio::task::spawn_blocking(move || {
        let policy = route.as_ref().and_then(|route| route.plan.options.cache.as_deref());
        let options = route.as_ref().map(|route| &route.plan.options);
        let identified = options.is_some_and(|options| options.identified);
        let own = options.map_or(&[][..], |options| &options.credential_headers);
        let services = route.as_ref().map_or(&[][..], |route| route.answer.services());
        let services: Vec<&str> = services.iter().map(|service| &*service.key).collect();
        let (route, credentials) = (route.as_ref().map(|route| &*route.kept_as), &snapshot.credentials);
        let asking =
            Asking { head: &head, route, services: &services, policy, credentials, identified, own, exchange: &exchange };
        cache.explain(&purge, &asking)
    });
    Ok(told.await.map_or_else(|_| bad("the process is ending"), |told| Json(told).into_response()))
}

/// What is known of a request that is only thought of: nothing of its client.
fn nobodys(listener: &str, upstream_host: Option<&str>) -> Exchange {
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (listener, told) = (listener.into(), Default::default());
    let connection = Connection { peer: nowhere, local: nowhere, client: nowhere, listener, tls: None, told };
    let mut exchange = Exchange::new(Arc::new(connection), "explain".into());
    exchange.upstream_host = upstream_host.map(str::to_owned);
    exchange
}

/// For the audit: the first few.
fn named(purges: &[Purge]) -> String {
    const FEW: usize = 5;
    let first: Vec<_> = purges.iter().take(FEW).map(|purge| format!("{purge:?}")).collect();
    let more = purges.len().saturating_sub(FEW);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", first.join(", "))
}
