//! Routes with `rewrite_back`: what the service says of its own addresses becomes what the client knows them by, and where a WebDAV client
//! wants something to go becomes what the service knows it by.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::Journey;
use crate::authority::{self, canonical};
use crate::core::WorkerState;
use crate::exchange::{Exchange, Params, Reading, Written};
use crate::head::{HeaderEdit, RequestHead, Span};
use crate::path::{self, AmbiguousPaths};
use crate::policy::Outgoing;
use crate::reply::Reply;
use crate::route::back::{self, Back, Own, Sides};
use crate::route::{Found, Rewrite, RouteTable};
use crate::snapshot::Route;
use crate::upstream::Service;
use crate::wire::answer::AnswerHead;

const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const DESTINATION: HeaderName = HeaderName::from_static("destination");
const IF: HeaderName = HeaderName::from_static("if");
/// The longest prefix that a trusted proxy is believed.
const LONGEST_PREFIX: usize = 1024;

type Map = fn(&[u8], &Sides<'_>) -> Option<Vec<u8>>;

const FIELDS: [(HeaderName, Map); 5] = [
    (header::LOCATION, |value, sides| sides.map(value)),
    (header::CONTENT_LOCATION, |value, sides| sides.map(value)),
    (header::REFRESH, back::refresh),
    (header::LINK, back::link),
    (header::SET_COOKIE, back::cookie),
];

/// What is known of one request's two sides. Holds what it needs by itself, for interim answers are written where no journey is at hand.
pub struct Mending {
    view: Arc<WorkerState>,
    routed: Option<u32>,
    stand_in: Option<Arc<Service>>,
    beginnings: Option<(String, String)>,
    asked: String,
    came: String,
    scheme: &'static str,
    public: String,
    /// The `Host` that the service was sent.
    seen: String,
}

impl Mending {
    fn back(&self) -> Option<&Back> {
        self.view.route(self.routed)?.back.as_deref()
    }

    fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        let route = self.view.route(self.routed);
        route.into_iter().flat_map(|route| route.answer.services()).chain(&self.stand_in)
    }

    /// Whose name an authority is that is not the one under which the client came.
    fn owner(&self, scheme: &str, authority: &str) -> Option<Own> {
        if authority.as_bytes() == authority::without_default_port(self.seen.as_bytes(), scheme) {
            return Some(Own::Services);
        }
        if self.back()?.names(scheme, authority) {
            return Some(Own::Services);
        }
        let (host, port) = (authority::host(authority), authority::port(authority.as_bytes()));
        let port = port.and_then(|port| std::str::from_utf8(port).ok());
        let whole = format!("{host}:{}", port.unwrap_or_else(|| authority::default_port(scheme)));
        // A service that knows under which name it was asked, and its own port (nginx's `port_in_redirect`).
        let known_host = host == authority::host(&self.public) || host == authority::host(&self.seen);
        let own_port = port.filter(|_| known_host);
        // As an address is written, and not otherwise.
        let at = whole.parse::<SocketAddr>().ok().filter(|at| at.to_string() == whole);
        let mut endpoints = self.services().flat_map(|service| service.cluster.endpoints());
        let own = endpoints.any(|(_, endpoint)| {
            let named = endpoint.authority();
            named.eq_ignore_ascii_case(&whole)
                || own_port.is_some_and(|own| named.rsplit_once(':').is_some_and(|(_, port)| port == own))
                || at.is_some() && endpoint.address().inet() == at
        });
        own.then_some(Own::Services)
    }

    fn is_services_host(&self, host: &str) -> bool {
        let named =
            host == authority::host(&self.seen) || self.back().is_some_and(|back| back.hosts().any(|known| known == host));
        let is = |endpoint: &str| endpoint.rsplit_once(':').is_some_and(|(known, _)| known.eq_ignore_ascii_case(host));
        named || self.services().flat_map(|service| service.cluster.endpoints()).any(|(_, endpoint)| is(endpoint.authority()))
    }

    fn with<T>(&self, work: impl FnOnce(&Sides<'_>) -> T) -> T {
        work(&Sides {
            beginnings: self.beginnings.as_ref().map(|(inside, outside)| (&**inside, &**outside)),
            asked: &self.asked,
            came: &self.came,
            scheme: self.scheme,
            public: &self.public,
            tls: self.services().any(|service| service.is_tls()),
            owner: &|scheme, authority| self.owner(scheme, authority),
            is_services_host: &|host| self.is_services_host(host),
        })
    }

    /// An address that the service names, as the client knows it.
    pub fn map<'a>(&self, reference: &'a [u8]) -> Cow<'a, [u8]> {
        self.with(|sides| sides.map(reference)).map_or(Cow::Borrowed(reference), Cow::Owned)
    }

    fn answer(&self, answer: &mut Outgoing<'_>) {
        let cookies = self.back().is_some_and(|back| back.cookies);
        self.with(|sides| {
            for (name, map) in FIELDS.iter().filter(|(name, _)| cookies || *name != header::SET_COOKIE) {
                answer.mend(name, |value| map(value, sides));
            }
        });
    }

    /// A `Link` field of an interim answer.
    pub fn link(&self, value: &HeaderValue) -> HeaderValue {
        let mapped = self.with(|sides| back::link(value.as_bytes(), sides));
        mapped.and_then(|mapped| HeaderValue::try_from(mapped).ok()).unwrap_or_else(|| value.clone())
    }

    /// An interim answer, where there is something to map in it.
    pub fn interim(&self, answer: &AnswerHead) -> Option<AnswerHead> {
        let mut mended: Option<(BytesMut, AnswerHead)> = None;
        for (at, field) in answer.fields.iter().enumerate().filter(|(_, field)| field.is_named("link", &answer.buffer)) {
            let Some(value) = self.with(|sides| back::link(field.value.of(&answer.buffer), sides)) else { continue };
            let (buffer, head) =
                mended.get_or_insert_with(|| (BytesMut::from(&answer.buffer[..]), answer.with_status(answer.status)));
            let start = u32::try_from(buffer.len()).ok()?;
            buffer.extend_from_slice(&value);
            let end = u32::try_from(buffer.len()).ok()?;
            if let Some(field) = head.fields.get_mut(at) {
                field.value = Span { start, end };
            }
        }
        mended.map(|(buffer, head)| AnswerHead { buffer: Bytes::from(buffer), reason: answer.reason, ..head })
    }
}

impl Journey {
    /// How addresses of the service's are mapped to the client's. `None` where the route does not say that they are.
    pub fn mending(&self) -> Option<Mending> {
        let Journey { view, routed, exchange, head, stand_in, .. } = self;
        let route = self.route()?;
        route.back.as_ref()?;
        let came = &*head.path;
        let beginnings = match &route.rewrite {
            Some(rewrite) => rewrite.beginnings(came).map(|(inside, outside)| (inside, outside.to_owned())),
            None => Some(Default::default()),
        };
        let sent = exchange.upstream_target.as_deref().unwrap_or(came);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some(Mending {
            view: view.clone(),
            routed: *routed,
            stand_in: stand_in.clone(),
            beginnings,
            asked: sent.split('?').next().unwrap_or_default().to_owned(),
            came: came.to_owned(),
            scheme: exchange.scheme(),
            public: self.public_authority(),
            seen: exchange.upstream_host.clone().unwrap_or_else(|| text(head.authority())),
        })
    }

    /// The host under which the client came to the outermost proxy that is trusted, as services are told it.
    pub fn public_authority(&self) -> String {
        let Some(told) = &self.exchange.told else { return String::new() };
        let of = |name: &str| {
            let field = told.edits().iter().find(|edit| edit.name().as_str() == name)?;
            if let HeaderEdit::Set(_, value) = field { value.to_str().ok() } else { None }
        };
        let host = of("x-forwarded-host").unwrap_or_default();
        match of("x-forwarded-port") {
            Some(port)
                if !host.is_empty()
                    && authority::port(host.as_bytes()).is_none()
                    && port != authority::default_port(told.scheme) =>
            {
                format!("{host}:{port}")
            }
            _ => host.to_owned(),
        }
    }

    /// Maps what the service's answer says.
    pub(super) fn mend(&self, answer: &mut Outgoing<'_>) {
        if let Some(mending) = self.mending() {
            mending.answer(answer);
        }
    }

    /// Where a WebDAV request wants something to go, as the service knows it. It must be what this route serves, by its rules.
    ///
    /// RFC 4918, sections 9.8, 9.9, 10.3 and 10.4.
    ///
    /// # Errors
    /// It is none, or somewhere else.
    pub(super) fn destination(&self, route: u32, of: &Route) -> Result<Destination, Box<Reply>> {
        let table = self.view.snapshot.tables.of(&self.exchange.connection.listener);
        let mut destination = Destination::default();
        if matches!(self.head.method.as_str(), "COPY" | "MOVE") {
            let mut fields = self.head.header_all("destination");
            match (fields.next(), fields.next()) {
                (None, _) => {}
                (Some(field), None) => {
                    let (target, path) = self.inside(field, route, of, table)?;
                    destination.reading = self.judge_destination(path, of, table)?;
                    destination.edits.push(HeaderEdit::Set(DESTINATION, target));
                }
                (Some(_), Some(_)) => return Err(malformed_destination()),
            }
        }
        if self.head.header_all("if").any(|field| field.contains(&b'<')) {
            // The resources that are named beside the conditions; those of other routes stay what they are.
            let map = |tag: &[u8]| self.inside(tag, route, of, table).ok().map(|(target, _)| target.as_bytes().to_vec());
            let mapped: Vec<_> = self.head.header_all("if").map(|field| (field, back::link_targets(field, map))).collect();
            if mapped.iter().any(|(_, mapped)| mapped.is_some()) {
                destination.edits.push(HeaderEdit::Remove(IF));
                let values =
                    mapped.into_iter().map(|(field, mapped)| HeaderValue::from_bytes(mapped.as_deref().unwrap_or(field)));
                destination.edits.extend(values.flatten().map(|value| HeaderEdit::Add(IF, value)));
            }
        }
        Ok(destination)
    }

    /// A resource that the client names, as the service knows it: the path alone, which means the same whatever the service takes its own
    /// scheme and host to be. And its path as it is matched.
    fn inside(&self, named: &[u8], route: u32, of: &Route, table: &RouteTable) -> Result<(HeaderValue, String), Box<Reply>> {
        let named = std::str::from_utf8(named.trim_ascii()).map_err(|_| malformed_destination())?;
        let target = match named.split_once("://") {
            None => named,
            Some((scheme, rest)) => {
                let scheme = ["http", "https"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known));
                let (scheme, end) = (scheme.ok_or_else(elsewhere)?, rest.find(['/', '?', '#']).unwrap_or(rest.len()));
                let (authority, target) = rest.split_at(end);
                let authority = canonical(authority.as_bytes()).ok_or_else(malformed_destination)?;
                let authority = authority::without_default_port(authority.text.as_bytes(), scheme);
                let public = self.public_authority();
                if authority != public.as_bytes() && authority != authority::without_default_port(self.head.authority(), scheme) {
                    return Err(elsewhere());
                }
                if target.is_empty() { "/" } else { target }
            }
        };
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        if path.starts_with("//") || query.is_some_and(|query| path::check_query(query.as_bytes()).is_err()) {
            return Err(malformed_destination());
        }
        let (path, spelling) = path::read(path).map_err(|_| malformed_destination())?;
        let kept = of.ambiguous_paths.unwrap_or(self.bounds.paths.ambiguous) == AmbiguousPaths::Keep;
        if !kept && spelling.is_some_and(|spelling| spelling.ambiguous) {
            return Err(Reply::ambiguous_path());
        }
        match table.find_as(&self.head, &path) {
            Found::Route { index, .. } if index == route => {}
            _ => return Err(elsewhere()),
        }
        let rewritten = of.rewrite.as_ref().and_then(|rewrite| rewrite.target(&path, query));
        let target = rewritten.unwrap_or_else(|| query.map_or_else(|| path.clone(), |query| format!("{path}?{query}")));
        Ok((HeaderValue::try_from(target).map_err(|_| malformed_destination())?, path))
    }

    /// What is written somewhere is judged by the rules of the place, as far as those look at paths.
    fn judge_destination(&self, path: String, of: &Route, table: &RouteTable) -> Result<Option<Reading>, Box<Reply>> {
        let options = &of.plan.options;
        let params = match table.find_as(&self.head, &path) {
            Found::Route { params, .. } => params.into_iter().map(|(name, value)| (name.clone(), value.into())).collect(),
            _ => Params::default(),
        };
        // Nobody here can repeat what an external service says of a path, or count for two.
        if options.by_path && path != self.head.path || options.by_params && params != self.exchange.params {
            return Err(elsewhere());
        }
        Ok(options.by_readings.then_some(Reading { path, params, destination: true }))
    }
}

/// What a route makes of where a WebDAV request wants something to go.
#[derive(Default)]
pub(super) struct Destination {
    edits: Vec<HeaderEdit>,
    reading: Option<Reading>,
}

impl Destination {
    pub(super) fn apply(self, exchange: &mut Exchange) {
        exchange.to_upstream.extend(self.edits);
        if let Some(reading) = self.reading {
            exchange.written.get_or_insert_with(|| Box::new(Written::default())).readings.push(reading);
        }
    }
}

/// What the service's paths lack to be the client's.
pub(super) fn prefix_told(rewrite: &Rewrite, head: &RequestHead, trusted: bool) -> Option<HeaderEdit> {
    let edit = match rewrite.prefix(&head.path) {
        Some("") => return None,
        Some(ours) => {
            // A stranger's is taken away anyway.
            let theirs = trusted.then(|| trusted_prefix(head.header_all("x-forwarded-prefix"))).flatten();
            HeaderValue::try_from(format!("{}{ours}", theirs.unwrap_or_default())).ok()
        }
        // No prefix makes the one of the other, and a proxy's own would say that it does.
        None => None,
    };
    Some(match edit {
        Some(value) => HeaderEdit::Set(X_FORWARDED_PREFIX, value),
        None => HeaderEdit::Remove(X_FORWARDED_PREFIX),
    })
}

/// The prefix that a trusted proxy tells of: one plain path. It becomes a part of links, so nothing in it may be taken for a host.
fn trusted_prefix<'a>(mut fields: impl Iterator<Item = &'a [u8]>) -> Option<&'a str> {
    let (field, None) = (fields.next()?, fields.next()) else { return None };
    let prefix = std::str::from_utf8(field.trim_ascii()).ok()?.trim_end_matches('/');
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'?' | b'#' | b',' | b'"' | b'<' | b'>');
    let fine = prefix.starts_with('/') && prefix.len() <= LONGEST_PREFIX && prefix.bytes().all(plain);
    (fine && path::normalise(prefix.as_bytes()).is_ok_and(|canonical| canonical == prefix)).then_some(prefix)
}

fn malformed_destination() -> Box<Reply> {
    let detail = "Destination is one absolute URL of this host, or one absolute path.";
    Reply::new(StatusCode::BAD_REQUEST, "route", "malformed_destination", detail)
}

fn elsewhere() -> Box<Reply> {
    let detail = "The destination is not served where the request's own path is.";
    Reply::new(StatusCode::BAD_GATEWAY, "route", "foreign_destination", detail)
}
