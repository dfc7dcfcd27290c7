//! The names that an expression may use, and how each is read.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use cel::common::types::{CelBool, CelInt, CelList, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use serde_json::{Map, Value};

use super::Expression;
use super::check::{CIDR_PREFIX, PATTERN_PREFIX, TURN};
use super::values::{self, Source, View};
use crate::exchange::{Exchange, Identity};
use crate::head::{BodyFraming, RequestHead};

/// What a variable holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Bool,
    Int,
    Text,
    List,
    Map,
}

/// A variable: its name, what it holds, and a line about it.
pub struct Variable {
    pub name: &'static str,
    pub shape: Shape,
    pub about: &'static str,
}

const fn variable(name: &'static str, shape: Shape, about: &'static str) -> Variable {
    Variable { name, shape, about }
}

/// Every variable there is. Text that is not known is empty.
pub static VARIABLES: &[Variable] = &[
    variable("request.method", Shape::Text, "GET, POST ..."),
    variable("request.path", Shape::Text, "canonical, as it is matched"),
    variable("request.host", Shape::Text, "in lower case, without the port"),
    variable("request.query", Shape::Map, "each parameter's values, decoded: \"1\" in request.query.page"),
    variable("request.headers", Shape::Map, "by name in lower case; several fields of a name are joined with a comma"),
    variable("request.client", Shape::Text, "the client's address, behind trusted proxies"),
    variable("request.protocol", Shape::Text, "HTTP/1.1, HTTP/2"),
    variable("request.scheme", Shape::Text, "http or https, as trusted proxies say"),
    variable("request.tls_version", Shape::Text, "TLSv1.3, or empty"),
    variable("request.server_name", Shape::Text, "the name that the client asked for in TLS, or empty"),
    variable("request.listener", Shape::Text, "the listener's name"),
    variable("request.content_length", Shape::Int, "the body's length in bytes, -1 if it is not announced"),
    variable("request.time", Shape::Int, "seconds since 1970: timestamp(request.time).getHours(\"Europe/Berlin\")"),
    variable("identity.authenticated", Shape::Bool, "whether the client proved who it is"),
    variable("identity.consumer", Shape::Text, "the consumer's name"),
    variable("identity.credential", Shape::Text, "which credential, in a form that is no secret"),
    variable("identity.method", Shape::Text, "jwt, api_key ..."),
    variable("identity.subject", Shape::Text, "a token's subject, or the consumer's name"),
    variable("identity.scopes", Shape::List, "texts"),
    variable("identity.groups", Shape::List, "texts"),
    variable("identity.plan", Shape::Text, "the consumer's plan"),
    variable("identity.claims", Shape::Map, "a token's claims"),
    variable("route.id", Shape::Text, "the route's id"),
    variable("route.params", Shape::Map, "what the path's {name} segments matched, undecoded"),
];

/// What has been had of the parts of a composed answer: each is a member of it.
pub const PARTS: &str = "parts";

/// What one evaluation reads from.
pub(super) struct Facts<'a> {
    pub head: &'a RequestHead,
    pub exchange: &'a Exchange,
    pub expression: &'a Expression,
    /// What parts of a composed answer have come to, where it may be asked.
    pub parts: Option<&'a Map<String, Value>>,
    /// How many turns its macros may still take, and one; 0 once they took too many.
    pub turns: AtomicU32,
}

static ANONYMOUS: LazyLock<Identity> = LazyLock::new(Identity::default);
static NO_CLAIMS: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

impl VariableResolver for Facts<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        if variable == TURN {
            return self.turn();
        }
        if let Some((root, field)) = variable.split_once('.') {
            return match root {
                "request" => self.request(field),
                "identity" => self.identity(field),
                "route" => self.route(field),
                // What stands in it is looked up in it: the evaluator asks for the longest name first.
                PARTS if !field.contains('.') => {
                    Some(CowVal::Owned(values::json(self.parts?.get(field).unwrap_or(&Value::Null))))
                }
                _ => None,
            };
        }
        if let Some(number) = variable.strip_prefix(PATTERN_PREFIX) {
            return self.expression.patterns.get(number.parse::<usize>().ok()?).map(|pattern| CowVal::Borrowed(pattern));
        }
        let number = variable.strip_prefix(CIDR_PREFIX)?.parse::<usize>().ok()?;
        self.expression.networks.get(number).map(|network| CowVal::Borrowed(network))
    }
}

impl Facts<'_> {
    /// One turn of a macro; nothing once there have been too many, which ends the evaluation.
    fn turn<'b>(&'b self) -> Option<CowVal<'b, 'b>> {
        static TRUE: LazyLock<CelBool> = LazyLock::new(|| CelBool::from(true));
        let left = self.turns.load(Ordering::Relaxed).saturating_sub(1);
        self.turns.store(left, Ordering::Relaxed);
        (left > 0).then(|| CowVal::Borrowed(&*TRUE as &dyn Val))
    }

    fn request<'b>(&'b self, field: &str) -> Option<CowVal<'b, 'b>> {
        let (head, exchange) = (self.head, self.exchange);
        let tls = exchange.connection.tls.as_ref();
        Some(match field {
            "method" => text(head.method.as_str()),
            "path" => text(&head.path),
            "host" => text(&head.host),
            "client" => CowVal::owned(CelString::from(exchange.client.to_canonical().to_string())),
            "protocol" => text(if head.version == http::Version::HTTP_2 {
                "HTTP/2"
            } else if head.version == http::Version::HTTP_10 {
                "HTTP/1.0"
            } else {
                "HTTP/1.1"
            }),
            "scheme" => text(exchange.scheme()),
            "tls_version" => text(tls.map_or("", |tls| tls.version)),
            "server_name" => text(tls.and_then(|tls| tls.server_name.as_deref()).unwrap_or_default()),
            "listener" => text(&exchange.connection.listener),
            "content_length" => CowVal::owned(CelInt::from(match head.body {
                BodyFraming::None => 0,
                BodyFraming::Length(length) => i64::try_from(length).unwrap_or(i64::MAX),
                BodyFraming::Streamed => -1,
            })),
            "time" => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                CowVal::owned(CelInt::from(i64::try_from(now).unwrap_or(i64::MAX)))
            }
            "headers" => view(Source::Headers(head)),
            "query" => view(Source::Query(head)),
            _ => {
                let member = field.strip_prefix("headers.").map(|name| (Source::Headers(head), name));
                let (source, name) = member.or_else(|| Some((Source::Query(head), field.strip_prefix("query.")?)))?;
                CowVal::Owned(source.get(name)?)
            }
        })
    }

    fn identity<'b>(&'b self, field: &str) -> Option<CowVal<'b, 'b>> {
        let identity: &Identity = self.exchange.identity.as_deref().unwrap_or(&ANONYMOUS);
        let claims = || identity.claims.as_deref().and_then(Value::as_object).unwrap_or(&NO_CLAIMS);
        Some(match field {
            "authenticated" => CowVal::owned(CelBool::from(self.exchange.identity.is_some())),
            "consumer" => text(identity.consumer.as_deref().unwrap_or_default()),
            "credential" => text(&identity.credential),
            "method" => text(identity.method),
            "subject" => text(&identity.subject),
            "scopes" => texts(&identity.scopes),
            "groups" => texts(&identity.groups),
            "plan" => text(identity.plan.as_deref().unwrap_or_default()),
            "claims" => view(Source::Object(claims())),
            _ => CowVal::Owned(values::json(claims().get(field.strip_prefix("claims.")?)?)),
        })
    }

    fn route<'b>(&'b self, field: &str) -> Option<CowVal<'b, 'b>> {
        Some(match field {
            "id" => text(self.exchange.route.as_deref().unwrap_or_default()),
            "params" => view(Source::Params(&self.exchange.params)),
            _ => text(self.exchange.param(field.strip_prefix("params.")?)?),
        })
    }
}

fn text(text: &str) -> CowVal<'_, '_> {
    CowVal::owned(CelString::from(text))
}

fn texts(list: &[Arc<str>]) -> CowVal<'_, '_> {
    let list: Vec<Box<dyn Val + '_>> = list.iter().map(|item| Box::new(CelString::from(&**item)) as _).collect();
    CowVal::owned(CelList::from(list))
}

fn view(source: Source<'_>) -> CowVal<'_, '_> {
    CowVal::owned(View::new(source))
}

/// A text that may have had to be put together.
pub(super) fn cow(text: Cow<'_, str>) -> CelString<'_> {
    match text {
        Cow::Borrowed(text) => CelString::from(text),
        Cow::Owned(text) => CelString::from(text),
    }
}
