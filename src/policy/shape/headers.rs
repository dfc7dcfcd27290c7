//! `request_headers` and `response_headers`: sets, adds and removes header fields, on the way to the backend and on the answer that came
//! from a backend or the cache.
//!
//! Order: `remove`, then `set`, then `add`. A value that cannot be made (its placeholder stands for nothing, or for bytes that are not
//! legal in a header) fails closed: an `add` is left out, and a `set` becomes a removal, so that a field which the client sent can never
//! pass for the one that the gateway would have set.
//!
//! Deliberately not here: fields that frame the message or belong to one connection, which are the road's; `Host`, which is
//! `rewrite_host`'s; the gateway's own refusals.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::template::Template;
use crate::exchange::Exchange;
use crate::head::{HeaderEdit, HeaderEdits, RequestHead};
use crate::policy::{Compile, OnRequest, OnResponse, Outgoing, PlanBuilder, Policy, Stage};
use crate::problem::{Place, Problem};
use crate::reply::Flow;
use crate::value::Spanned;

#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeadersConfig {
    /// Fields to set: every field of that name is replaced by one with this value. Values may hold `{request_id}`, `{client_address}`,
    /// `{consumer}`, `{subject}`, `{param.NAME}` and, for requests, `{host}`; `{{` is a literal brace. A value that cannot be made removes
    /// the field.
    pub set: Assignments,
    /// Fields to add to those that are there. A value that cannot be made is left out.
    pub add: Assignments,
    /// Fields to remove, before the others are set and added.
    pub remove: Vec<Spanned<String>>,
}

/// Header names and their values, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Assignments(pub Vec<(String, Spanned<String>)>);

impl<'de> Deserialize<'de> for Assignments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor;

        impl<'de> Visitor<'de> for MapVisitor {
            type Value = Assignments;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of header names to values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Assignments, A::Error> {
                let mut list = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    list.push(entry);
                }
                Ok(Assignments(list))
            }
        }

        deserializer.deserialize_map(MapVisitor)
    }
}

impl JsonSchema for Assignments {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HeaderAssignments".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        std::collections::BTreeMap::<String, String>::json_schema(generator)
    }
}

enum Op {
    Remove(HeaderName),
    Set(HeaderName, Template),
    Add(HeaderName, Template),
}

struct Ops(Vec<Op>);

impl Op {
    /// Whether an answer of the gateway's own has this as well: not what describes a backend's content or how long it may be kept, which
    /// would be wrong of a refusal.
    fn is_about_the_site(&self) -> bool {
        const OF_CONTENT: [&str; 15] = [
            "accept-ranges",
            "age",
            "cache-control",
            "cdn-cache-control",
            "digest",
            "etag",
            "expires",
            "last-modified",
            "link",
            "location",
            "pragma",
            "refresh",
            "repr-digest",
            "retry-after",
            "set-cookie",
        ];
        match self {
            // A refusal has nothing that somebody else put there.
            Op::Remove(_) => false,
            Op::Set(name, _) | Op::Add(name, _) => {
                let name = name.as_str();
                let of_content = name.starts_with("content-") && !name.starts_with("content-security-policy");
                !of_content && name != "www-authenticate" && OF_CONTENT.binary_search(&name).is_err()
            }
        }
    }
}

impl Ops {
    fn apply(&self, head: Option<&RequestHead>, exchange: &Exchange, edits: &mut HeaderEdits) {
        Self::apply_all(self.0.iter(), head, exchange, edits);
    }

    fn apply_all<'a>(
        ops: impl Iterator<Item = &'a Op>,
        head: Option<&RequestHead>,
        exchange: &Exchange,
        edits: &mut HeaderEdits,
    ) {
        for op in ops {
            match op {
                Op::Remove(name) => edits.push(HeaderEdit::Remove(name.clone())),
                Op::Set(name, template) => edits.push(match template.render(head, exchange) {
                    Some(value) => HeaderEdit::Set(name.clone(), value),
                    None => HeaderEdit::Remove(name.clone()),
                }),
                Op::Add(name, template) => {
                    if let Some(value) = template.render(head, exchange) {
                        edits.push(HeaderEdit::Add(name.clone(), value));
                    }
                }
            }
        }
    }

    /// The fields that two clients may get different values of.
    fn per_client(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.iter().filter_map(|op| match op {
            Op::Set(name, template) | Op::Add(name, template) => template.is_per_client().then_some(name),
            Op::Remove(_) => None,
        })
    }

    fn look_at_params(&self) -> bool {
        self.0.iter().any(|op| matches!(op, Op::Set(_, template) | Op::Add(_, template) if template.uses_params()))
    }

    fn compile(config: &HeadersConfig, request: bool, cx: &mut Compile<'_>) -> Option<Self> {
        let before = cx.problems.len();
        let mut ops = Vec::new();
        for text in &config.remove {
            ops.extend(name(text, text.place, cx).map(Op::Remove));
        }
        let mut set: Vec<HeaderName> = Vec::new();
        for (text, value) in &config.set.0 {
            if let (Some(name), Some(template)) = (name(text, value.place, cx), template(value, request, cx)) {
                if set.contains(&name) {
                    cx.problems.push(Problem::error(value.place, format!("`{name}` is set twice; case makes no difference")));
                }
                set.push(name.clone());
                ops.push(Op::Set(name, template));
            }
        }
        for (text, value) in &config.add.0 {
            if let (Some(name), Some(template)) = (name(text, value.place, cx), template(value, request, cx)) {
                ops.push(Op::Add(name, template));
            }
        }
        (cx.problems.len() == before).then_some(Ops(ops))
    }
}

/// RFC 9110, section 7.6.1, and what frames a message or names its target.
const RESERVED: [&str; 8] =
    ["connection", "content-length", "transfer-encoding", "host", "te", "trailer", "upgrade", "keep-alive"];

/// A field that may be changed, or a problem.
pub fn name(text: &str, place: Place, cx: &mut Compile<'_>) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        cx.problems.push(Problem::error(place, format!("`{text}` is not a header name")));
        return None;
    };
    if RESERVED.contains(&name.as_str()) || name.as_str().starts_with("proxy-") {
        let problem =
            Problem::error(place, format!("`{text}` belongs to the connection or frames the message: it cannot be changed"));
        let hint = if name == http::header::HOST { "use `rewrite_host`" } else { "leave it out: the gateway takes care of it" };
        cx.problems.push(problem.hint(hint));
        return None;
    }
    Some(name)
}

fn template(value: &Spanned<String>, request: bool, cx: &mut Compile<'_>) -> Option<Template> {
    let template = Template::parse(value).map_err(|error| cx.problems.push(Problem::error(value.place, error))).ok()?;
    let params: Vec<String> = template.params().map(str::to_owned).collect();
    if !params.iter().all(|name| cx.param(name, value.place)) {
        return None;
    }
    if !request && template.uses_host() {
        cx.problems.push(Problem::error(value.place, "`{host}` is only known in `request_headers`"));
        return None;
    }
    Some(template)
}

/// The compiled policy `request_headers`.
pub struct RequestHeaders(Ops);

impl OnRequest for RequestHeaders {
    fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        let mut edits = std::mem::take(&mut exchange.to_upstream);
        self.0.apply(Some(head), exchange, &mut edits);
        exchange.to_upstream = edits;
        Flow::Continue(())
    }
}

impl Policy for RequestHeaders {
    const NAME: &'static str = "request_headers";
    const STAGE: Stage = Stage::Shape;
    const SUMMARY: &'static str = "Sets, adds and removes header fields on the way to the backend.";
    type Config = HeadersConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        Ops::compile(config, true, cx).map(RequestHeaders)
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.options().per_client.extend(self.0.per_client().cloned());
        plan.options().by_params |= self.0.look_at_params();
        plan.on_request(self);
    }
}

/// The compiled policy `response_headers`.
pub struct ResponseHeaders {
    all: Ops,
    /// Those that the gateway's own answers have too, by number.
    of_the_site: Box<[usize]>,
}

impl OnResponse for ResponseHeaders {
    fn on_response(&self, answer: &mut Outgoing<'_>) -> Flow {
        let exchange = answer.exchange;
        self.all.apply(None, exchange, answer.edits());
        Flow::Continue(())
    }

    /// What is said of the site as a whole (HSTS, CORS, a policy for content) holds for a refusal too: a browser shows a page of
    /// another origin none that lacks its CORS fields. What is about the content of an answer does not.
    fn on_refusal(&self, _: &RequestHead, exchange: &mut Exchange) {
        let mut edits = std::mem::take(&mut exchange.to_client);
        Ops::apply_all(self.of_the_site.iter().filter_map(|at| self.all.0.get(*at)), None, exchange, &mut edits);
        exchange.to_client = edits;
    }
}

impl Policy for ResponseHeaders {
    const NAME: &'static str = "response_headers";
    const STAGE: Stage = Stage::Shape;
    const SUMMARY: &'static str = "Sets, adds and removes header fields on the answer.";
    type Config = HeadersConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let all = Ops::compile(config, false, cx)?;
        let of_the_site = all.0.iter().enumerate().filter(|(_, op)| op.is_about_the_site()).map(|(at, _)| at).collect();
        Some(ResponseHeaders { all, of_the_site })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.on_response(self);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::testing::{answered, compile, complaint, plan};

    fn upstream(config: Value, exchange: &mut Exchange) -> Vec<String> {
        let plan = plan(compile::<RequestHeaders>(config).unwrap());
        let head = RequestHead::build("GET", "/", &[("host", "shop.example")]);
        assert!(plan.heads().all(|run| run.on_request(&head, exchange).is_continue()));
        exchange.to_upstream.iter().map(show).collect()
    }

    fn show(edit: &HeaderEdit) -> String {
        match edit {
            HeaderEdit::Remove(name) => format!("-{name}"),
            HeaderEdit::Set(name, value) => format!("={name}: {}", value.to_str().unwrap()),
            HeaderEdit::Add(name, value) => format!("+{name}: {}", value.to_str().unwrap()),
        }
    }

    #[test]
    fn removes_then_sets_then_adds_after_what_others_did() {
        let mut exchange = Exchange::for_tests();
        exchange.to_upstream.push(HeaderEdit::Remove(http::header::AUTHORIZATION));
        let config = json!({
            "add": { "Via": "1.1 edge" },
            "set": { "X-Request-Id": "{request_id}", "X-Host": "h-{host}", "X-Zone": "eu" },
            "remove": ["Cookie"],
        });
        let edits = upstream(config, &mut exchange);
        let expected = [
            "-authorization",
            "-cookie",
            "=x-request-id: test-request",
            "=x-host: h-shop.example",
            "=x-zone: eu",
            "+via: 1.1 edge",
        ];
        let (mut edits, mut expected) = (edits, expected.map(String::from).to_vec());
        // The order within `set` is the file's, which this test's reader may not keep.
        edits[2..5].sort();
        expected[2..5].sort();
        assert_eq!(edits, expected);
    }

    #[test]
    fn a_client_cannot_pass_for_a_consumer() {
        let config = json!({ "set": { "X-Consumer": "{consumer}" }, "add": { "X-Subject": "{subject}" } });
        assert_eq!(upstream(config, &mut Exchange::for_tests()), ["-x-consumer"]);
    }

    #[test]
    fn a_parameter_cannot_smuggle_a_line() {
        let mut exchange = Exchange::for_tests();
        exchange.params.push(("sku".into(), "1\r\nX-Admin: yes".into()));
        assert_eq!(upstream(json!({ "set": { "X-Sku": "{param.sku}" } }), &mut exchange), ["-x-sku"]);
    }

    #[test]
    fn answers_are_shaped_when_they_come() {
        let plan = plan(
            compile::<ResponseHeaders>(json!({ "set": { "X-Served-For": "{client_address}" }, "remove": ["Server"] })).unwrap(),
        );
        assert!(plan.steps.is_empty());
        let edits = answered(&*plan.response[0], &RequestHead::build("GET", "/", &[]), "HTTP/1.1 200 OK\r\n\r\n").unwrap();
        assert_eq!(edits.iter().map(show).collect::<Vec<_>>(), ["-server", "=x-served-for: 192.0.2.1"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for reserved in [
            "Connection",
            "content-length",
            "Transfer-Encoding",
            "HOST",
            "TE",
            "Trailer",
            "Upgrade",
            "Keep-Alive",
            "Proxy-Authorization",
        ] {
            let [set, add] = ["set", "add"].map(|op| json!({ op: { reserved: "x" } }));
            for config in [set, add, json!({ "remove": [reserved] })] {
                assert!(complaint::<RequestHeaders>(config.clone()).contains("cannot be changed"), "{config}");
                assert!(complaint::<ResponseHeaders>(config).contains("cannot be changed"));
            }
        }
        assert!(complaint::<RequestHeaders>(json!({ "set": { "a b": "x" } })).contains("header name"));
        assert!(complaint::<RequestHeaders>(json!({ "set": { "a": "x\r\ny" } })).contains("printable"));
        assert!(complaint::<RequestHeaders>(json!({ "set": { "a": "1", "A": "2" } })).contains("twice"));
        assert!(complaint::<ResponseHeaders>(json!({ "set": { "a": "{host}" } })).contains("request_headers"));
        assert!(complaint::<ResponseHeaders>(json!({ "sets": {} })).contains("unknown field"));
    }
}
