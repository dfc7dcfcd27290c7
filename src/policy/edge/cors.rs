//! `cors`: what pages of other origins may read and send, as browsers ask for it (the Fetch standard).
//!
//! A browser asks beforehand about a request that a page could not have made without scripts (OPTIONS with `Origin` and
//! `Access-Control-Request-Method`, a "preflight"). The gateway answers that itself, when the route is chosen and the client's address has
//! passed (`ip_restriction`, `address_limit`): a preflight has no credentials, so nothing that asks for them can stand before it. Every other answer of the route says whether
//! the page may read it, the gateway's own refusals included, for a page that cannot read a 401 or a 429 cannot act on it.
//!
//! A service's own `Access-Control-*` fields are replaced: two words on the same thing are none to a browser. It is done behind the cache's
//! store, so that one entry serves every origin.
//!
//! Deliberately not here: refusing requests. A page's request that needs no preflight has been sent whatever the answer says: `csrf`.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;
use smallvec::SmallVec;

use super::origin::{self, Origins};
use crate::exchange::Exchange;
use crate::grpc::Dialect;
use crate::head::{HeaderEdit, RequestHead};
use crate::policy::{Compile, OnResponse, Outgoing, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::tally::Counter;
use crate::value::{OneOrMany, Period, Spanned, period_within};

/// What the gateway itself says in fields that a page has no other way to see.
const OWN: [&str; 4] = ["Retry-After", "RateLimit", "RateLimit-Policy", "X-Request-Id"];
/// What a call's end says, where it has no message.
const OF_CALLS: [&str; 3] = ["Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin"];

const PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// What a service may have said itself.
const FIELDS: [HeaderName; 7] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    PRIVATE_NETWORK,
];

/// The most field names that a page may ask for at once, and the most bytes of them.
const MOST_NAMES: usize = 100;
const LONGEST_LIST: usize = 4096;

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CorsConfig {
    /// The origins whose pages may read answers, as browsers write them: `https://app.example.com`. `https://*.example.com` are the hosts below
    /// that one, `http://localhost:*` is any port, `"null"` are pages without an origin (sandboxed frames, local files), `"*"` is everybody.
    #[serde(default)]
    pub origins: OneOrMany<Spanned<String>>,
    /// More of them, as regular expressions for the whole origin: `https://pr-[0-9]+\\.preview\\.example\\.com`.
    #[serde(default)]
    pub origin_patterns: OneOrMany<Spanned<String>>,
    /// The methods that pages may use. GET, HEAD and POST are always among them, for a page has them without scripts. Default: those that the
    /// route takes.
    pub methods: Option<Vec<Spanned<String>>>,
    /// The header fields that pages may send beside those that any page may. Default: those that the page asks for.
    pub headers: Option<Vec<Spanned<String>>>,
    /// The header fields of answers that pages may read beside those that any page may, `Retry-After`, `RateLimit`, `RateLimit-Policy` and
    /// `X-Request-Id`.
    #[serde(default)]
    pub expose: OneOrMany<Spanned<String>>,
    /// Pages may send cookies, client certificates and passwords that the browser keeps, and read what is answered to them. Not together
    /// with `"*"` or `"null"`, which any page can be.
    #[serde(default)]
    pub credentials: bool,
    /// How long a browser may remember the answer to a preflight, up to a day. Default: `10m`.
    pub max_age: Option<Spanned<Period>>,
    /// Pages of the public internet may ask a gateway in a private network (`Access-Control-Allow-Private-Network`).
    #[serde(default)]
    pub private_network: bool,
}

/// The compiled policy.
pub struct Cors {
    origins: Origins,
    credentials: bool,
    methods: Option<(Vec<Method>, HeaderValue)>,
    headers: Option<(Vec<HeaderName>, HeaderValue)>,
    expose: HeaderValue,
    /// The same, for gRPC-Web.
    expose_of_call: HeaderValue,
    max_age: HeaderValue,
    private_network: bool,
    allowed: Arc<Counter>,
    denied: Arc<Counter>,
    other_origin: Arc<Counter>,
}

/// What a browser wants to know before it sends a request.
pub struct Preflight<'a> {
    /// The method of the request.
    pub method: Method,
    /// The lists of its fields that not every page may send.
    pub fields: SmallVec<[&'a [u8]; 2]>,
}

impl<'a> Preflight<'a> {
    /// What OPTIONS asks, if it is a browser's question: any other OPTIONS is a request like others.
    pub fn of(head: &'a RequestHead) -> Option<Self> {
        if head.method != Method::OPTIONS || head.header("origin").is_none() {
            return None;
        }
        let method = Method::from_bytes(head.header("access-control-request-method")?).ok()?;
        Some(Preflight { method, fields: head.header_all("access-control-request-headers").collect() })
    }

    fn names(&self) -> impl Iterator<Item = &'a [u8]> {
        let lists = self.fields.clone().into_iter();
        lists.flat_map(|list| list.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii).filter(|name| !name.is_empty())
    }

    /// The names of the fields, in the form in which they can be answered; `None` if one of them is none.
    fn list(&self) -> Option<SmallVec<[HeaderName; 8]>> {
        let length: usize = self.fields.iter().map(|list| list.len()).sum();
        if length > LONGEST_LIST || self.names().take(MOST_NAMES + 1).count() > MOST_NAMES {
            return None;
        }
        self.names().map(|name| HeaderName::from_bytes(name).ok()).collect()
    }
}

impl Cors {
    /// The value of `Access-Control-Allow-Origin` for whoever asks.
    fn allow(&self, head: &RequestHead) -> Option<HeaderValue> {
        if self.origins.is_everyone() {
            return Some(HeaderValue::from_static("*"));
        }
        let origin = origin::of(head).filter(|origin| self.origins.contain(origin))?;
        HeaderValue::from_bytes(origin).ok()
    }

    /// What an answer says to the page that asked: not the answer to a preflight.
    fn expose(&self, head: &RequestHead) -> &HeaderValue {
        let is_call = head.header("content-type").is_some_and(|kind| Dialect::of(kind).is_grpc());
        if is_call { &self.expose_of_call } else { &self.expose }
    }

    /// The answer to a preflight. `takes`: the methods that the path takes, where the one that is asked for is not among them.
    pub fn answer(&self, head: &RequestHead, asked: &Preflight<'_>, takes: Option<&HeaderValue>) -> Box<Reply> {
        if self.allow(head).is_none() {
            self.other_origin.add(1);
            let detail = "Pages of this origin may not use this.";
            return Reply::new(StatusCode::FORBIDDEN, Self::NAME, "origin_not_allowed", detail);
        }
        let (method, methods) = self.methods(&asked.method, takes);
        let (fields, names) = match (&self.headers, asked.list()) {
            (_, None) => (false, None),
            (Some((known, value)), Some(names)) => (names.iter().all(|name| known.contains(name)), Some(value.clone())),
            (None, Some(names)) if names.is_empty() => (true, None),
            (None, Some(names)) => (true, list(names.iter().map(HeaderName::as_str))),
        };
        let granted = method && fields;
        if granted { &self.allowed } else { &self.denied }.add(1);
        // The browser reads from the lists what was missing, and tells whoever looks.
        let mut reply = match granted {
            true => Reply::new(StatusCode::NO_CONTENT, Self::NAME, "preflight", ""),
            false => Reply::new(StatusCode::NO_CONTENT, Self::NAME, "preflight_denied", ""),
        };
        if let Some(methods) = methods {
            reply = reply.header(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        if let Some(names) = names {
            reply = reply.header(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
        if self.private_network && head.header("access-control-request-private-network") == Some(b"true") {
            reply = reply.header(PRIVATE_NETWORK, HeaderValue::from_static("true"));
        }
        let depends = HeaderValue::from_static("Access-Control-Request-Method, Access-Control-Request-Headers");
        reply.header(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone()).header(header::VARY, depends)
    }

    /// Whether the page may use the method, and the list of those that it may.
    fn methods(&self, asked: &Method, takes: Option<&HeaderValue>) -> (bool, Option<HeaderValue>) {
        let anybodys = [Method::GET, Method::HEAD, Method::POST].contains(asked);
        match (&self.methods, takes) {
            (None, None) => (true, HeaderValue::from_str(asked.as_str()).ok()),
            (Some((known, value)), None) => (anybodys || known.contains(asked), Some(value.clone())),
            (None, Some(takes)) => (false, Some(takes.clone())),
            (Some((known, _)), Some(takes)) => {
                let takes = takes.to_str().unwrap_or_default().split(", ");
                (false, list(takes.filter(|name| known.iter().any(|method| method.as_str() == *name))))
            }
        }
    }
}

/// `a, b`. Nothing of no names.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> Option<HeaderValue> {
    let text = names.collect::<Vec<_>>().join(", ");
    HeaderValue::try_from(text).ok().filter(|value| !value.is_empty())
}

impl OnResponse for Cors {
    fn on_response(&self, answer: &mut Outgoing<'_>) -> Flow {
        for name in FIELDS {
            if !answer.all(&name).is_empty() {
                answer.remove(name);
            }
        }
        if !self.origins.is_everyone() {
            answer.vary("Origin");
        }
        if let Some(origin) = self.allow(answer.head) {
            answer.set(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            if self.credentials {
                answer.set(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
            answer.set(header::ACCESS_CONTROL_EXPOSE_HEADERS, self.expose(answer.head).clone());
        }
        Flow::Continue(())
    }

    fn on_refusal(&self, head: &RequestHead, exchange: &mut Exchange) {
        let edits = &mut exchange.to_client;
        if !self.origins.is_everyone() {
            edits.push(HeaderEdit::Add(header::VARY, HeaderValue::from_static("Origin")));
        }
        if let Some(origin) = self.allow(head) {
            edits.push(HeaderEdit::Set(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin));
            if self.credentials {
                edits.push(HeaderEdit::Set(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
            }
            if Preflight::of(head).is_none() {
                edits.push(HeaderEdit::Set(header::ACCESS_CONTROL_EXPOSE_HEADERS, self.expose(head).clone()));
            }
        }
    }
}

impl Policy for Cors {
    const NAME: &'static str = "cors";
    const STAGE: Stage = Stage::Edge;
    const SUMMARY: &'static str = "Lets pages of other origins read answers, and answers browsers that ask beforehand.";
    type Config = CorsConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let before = cx.problems.len();
        let origins = Origins::compile(&config.origins, &config.origin_patterns, cx.problems);
        if config.origins.is_empty() && config.origin_patterns.is_empty() {
            let problem = Problem::error(cx.place, "`cors` without an origin lets nobody in");
            cx.problems.push(problem.hint("`origins: [ https://app.example.com ]`"));
        }
        if config.credentials && (origins.is_everyone() || origins.has_null()) {
            let word = if origins.is_everyone() { "*" } else { "null" };
            let place = config.origins.iter().find(|text| text.value == word).map_or(cx.place, |text| text.place);
            let message = format!("`credentials` with `{word}` would let every page read what is another user's");
            cx.problems.push(Problem::error(place, message).hint("name the origins, or leave `credentials` out"));
        }
        let methods = config.methods.as_deref().map(|list| compile_methods(list, cx));
        let headers = config.headers.as_deref().map(|list| names(list, cx));
        let exposed = names(&config.expose, cx);
        let max_age = match &config.max_age {
            Some(age) => period_within("max_age", age, 0, 86_400_000, cx.problems).map_or(0, |age| age.as_secs()),
            None => 600,
        };
        let value = |names: &[&str]| list(names.iter().copied()).unwrap_or(HeaderValue::from_static("X-Request-Id"));
        let all: Vec<&str> = OWN.into_iter().chain(exposed.iter().map(HeaderName::as_str)).collect();
        let of_call: Vec<&str> = all.iter().copied().chain(OF_CALLS).collect();
        let count = |outcome| {
            let help = "Browsers' questions before a request of another origin, by their answer.";
            cx.tallies.counter("portcullis_cors_preflights_total", help, &[("scope", cx.scope), ("outcome", outcome)])
        };
        (cx.problems.len() == before).then(|| Cors {
            origins,
            credentials: config.credentials,
            methods: methods.map(|methods| {
                let value = list(methods.iter().map(Method::as_str)).unwrap_or(HeaderValue::from_static("GET"));
                (methods, value)
            }),
            headers: headers.map(|names| {
                let value = list(names.iter().map(HeaderName::as_str)).unwrap_or(HeaderValue::from_static("accept"));
                (names, value)
            }),
            expose: value(&all),
            expose_of_call: value(&of_call),
            max_age: HeaderValue::from(max_age),
            private_network: config.private_network,
            allowed: count("allowed"),
            denied: count("denied"),
            other_origin: count("origin"),
        })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.options().cors = Some(self.clone());
        plan.on_response(self);
    }
}

fn compile_methods(list: &[Spanned<String>], cx: &mut Compile<'_>) -> Vec<Method> {
    if list.is_empty() {
        cx.problems.push(Problem::error(cx.place, "`methods` names none").hint("leave it out for those that the route takes"));
    }
    let mut methods = Vec::new();
    for text in list {
        match Method::from_bytes(text.value.as_bytes()) {
            Ok(_) if text.value.contains('*') => {
                let problem = Problem::error(text.place, "`methods` names methods");
                cx.problems.push(problem.hint("leave it out for those that the route takes"));
            }
            Ok(_) if text.value.bytes().any(|byte| byte.is_ascii_lowercase()) => {
                cx.problems.push(Problem::error(text.place, format!("`{}` is no method: they are in capitals", text.value)));
            }
            Ok(method) => methods.push(method),
            Err(_) => cx.problems.push(Problem::error(text.place, format!("`{}` is no method", text.value))),
        }
    }
    methods
}

fn names(list: &[Spanned<String>], cx: &mut Compile<'_>) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for text in list {
        match HeaderName::from_bytes(text.value.as_bytes()) {
            Ok(_) if text.value.contains('*') => {
                let problem =
                    Problem::error(text.place, "fields are named: to browsers a `*` leaves out `Authorization`, and credentials");
                cx.problems.push(problem.hint("leave `headers` out for those that the page asks for"));
            }
            Ok(name) => names.push(name),
            Err(_) => cx.problems.push(Problem::error(text.place, format!("`{}` is not a header name", text.value))),
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::testing::{answered, compile, complaint};

    fn preflight(config: Value, fields: &[(&str, &str)], takes: Option<&'static str>) -> (u16, Vec<String>) {
        let policy = compile::<Cors>(config).unwrap();
        let head = RequestHead::build("OPTIONS", "/", fields);
        let asked = Preflight::of(&head).unwrap();
        let reply = policy.answer(&head, &asked, takes.map(HeaderValue::from_static).as_ref());
        let fields = reply.headers.iter().filter(|(name, _)| *name != header::VARY && *name != header::ACCESS_CONTROL_MAX_AGE);
        let show = |(name, value): &(HeaderName, HeaderValue)| {
            format!("{}: {}", name.as_str().trim_start_matches("access-control-allow-"), value.to_str().unwrap())
        };
        (reply.status.as_u16(), fields.map(show).collect())
    }

    const PAGE: (&str, &str) = ("origin", "https://a.test");

    #[test]
    fn what_is_asked_for_is_granted_or_said_to_be_missing() {
        fn ask<'a>(method: &'a str, names: &'a str) -> [(&'a str, &'a str); 3] {
            [PAGE, ("access-control-request-method", method), ("access-control-request-headers", names)]
        }
        let open = json!({ "origins": "https://a.test" });
        let (status, said) = preflight(open.clone(), &ask("PUT", "authorization, X-A"), None);
        assert_eq!((status, said), (204, vec!["methods: PUT".into(), "headers: authorization, x-a".into()]));
        let (_, said) = preflight(open.clone(), &ask("PUT", ""), Some("GET, HEAD"));
        assert_eq!(said, ["methods: GET, HEAD"]);
        let (_, said) = preflight(open.clone(), &ask("PUT", "a b, x"), None);
        assert_eq!(said, ["methods: PUT"], "what is no name is not said again");
        let many = "x,".repeat(3000);
        assert_eq!(preflight(open, &ask("PUT", &many), None).1, ["methods: PUT"]);
        let closed = json!({ "origins": "https://a.test", "methods": ["GET", "PUT"], "headers": ["X-A"] });
        let (_, said) = preflight(closed.clone(), &ask("DELETE", "x-b"), None);
        assert_eq!(said, ["methods: GET, PUT", "headers: x-a"]);
        // What the policy does not name is not granted because the path happens to take it.
        let (_, said) = preflight(closed, &ask("DELETE", "x-a"), Some("GET, PATCH"));
        assert_eq!(said, ["methods: GET", "headers: x-a"]);
        let other = json!({ "origins": "https://b.test" });
        assert_eq!(preflight(other, &ask("GET", ""), None), (403, vec![]));
    }

    #[test]
    fn a_service_s_own_words_are_replaced() {
        let policy = compile::<Cors>(json!({ "origins": "https://a.test", "credentials": true, "expose": "ETag" })).unwrap();
        let came =
            "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Max-Age: 1\r\nVary: accept, ORIGIN\r\n\r\n";
        let says = |fields: &[(&str, &str)]| {
            let edits = answered(&policy, &RequestHead::build("GET", "/", fields), came).unwrap();
            edits.iter().map(|edit| (matches!(edit, HeaderEdit::Remove(_)), edit.name().to_string())).collect::<Vec<_>>()
        };
        let gone = vec![(true, "access-control-allow-origin".to_owned()), (true, "access-control-max-age".to_owned())];
        assert_eq!(says(&[]), gone);
        assert_eq!(says(&[("origin", "https://b.test")]), gone);
        assert_eq!(says(&[PAGE, PAGE]), gone, "two origins are none");
        assert_eq!(says(&[PAGE]).len(), 5);
    }

    #[test]
    fn what_browsers_would_not_take_is_refused() {
        for (config, what) in [
            (json!({}), "lets nobody in"),
            (json!({ "origins": [] }), "lets nobody in"),
            (json!({ "origins": "*", "credentials": true }), "every page"),
            (json!({ "origins": ["https://a.test", "null"], "credentials": true }), "every page"),
            (json!({ "origins": "https://a.test", "methods": ["*"] }), "names methods"),
            (json!({ "origins": "https://a.test", "methods": ["put"] }), "in capitals"),
            (json!({ "origins": "https://a.test", "methods": [] }), "names none"),
            (json!({ "origins": "https://a.test", "headers": ["*"] }), "fields are named"),
            (json!({ "origins": "https://a.test", "expose": "a b" }), "not a header name"),
            (json!({ "origins": "https://a.test", "max_age": "2d" }), "max_age"),
        ] {
            let said = complaint::<Cors>(config.clone());
            assert!(said.contains(what), "{config}: {said}");
        }
    }
}
