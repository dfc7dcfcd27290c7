//! `validate`: the header fields and query parameters that a request must have, the types its content may have, and whether a JSON body
//! is JSON.
//!
//! A `Content-Type` is asked for only where there is a body. Refusals name what is missing, which the configuration wrote, and a byte's
//! offset, and never repeat anything that the client sent.
//!
//! With schemas it holds a request to a contract: [`super::contract`].
//!
//! Deliberately not here: OpenAPI, which is [`super::openapi`].

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use super::content::ContentCheck;
use super::contract::{BodyConfig, Contract, Mode, SchemaConfig, Written};
use super::json::{self, Fault, FaultKind, Limits};
use super::media::{MediaType, Pattern};
use crate::exchange::Exchange;
use crate::head::{BodyFraming, RequestHead, WITH_BODY};
use crate::policy::{Compile, OnBody, OnRequest, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::value::{Size, Spanned};
use crate::wire::coding;

const DEFAULT_MAX_BODY: u64 = 1 << 20;
const DEFAULT_MAX_DEPTH: u32 = 128;
const MOST_MAX_DEPTH: u32 = 10_000;
/// What is told of a body that is longer than what is looked at, where nobody is refused.
pub const LONGER: (&str, &str) = ("max_body", "is longer than `max_body`, and was not looked at");
/// What is told of a body whose coding nobody can undo, where nobody is refused.
pub const UNREADABLE: (&str, &str) = ("contentEncoding", "must be in a coding that is known here");
/// As deep as a body may be that becomes a tree, which takes stack.
const MOST_TREE_DEPTH: u32 = 127;

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ValidateConfig {
    /// Header fields that must be there and not empty; else 400.
    pub required_headers: Vec<Spanned<String>>,
    /// Query parameters that must be there, spelled as here, without percent-encoding; they may be empty. Else 400.
    pub required_query: Vec<Spanned<String>>,
    /// What a body's `Content-Type` may be: `application/json`, `application/*`, `*/*+json`. A body of another type, or of none, is
    /// refused with 415. Default: anything.
    pub content_types: Option<Vec<Spanned<String>>>,
    /// Whether a body whose type is JSON (`application/json` or any `+json`) must be well-formed JSON in UTF-8; else 400. Such a body is
    /// read into memory before a backend is asked. Default: false, unless `body` has a schema.
    pub json: bool,
    /// Whether a body of the type `application/x-www-form-urlencoded` must be one: escapes that are escapes, UTF-8, up to 1000 fields; else 400. Default: false.
    pub form: bool,
    /// Whether a body of the type `multipart/form-data` must be one (RFC 7578), read strictly: what two readers could read in two ways is refused with 400.
    /// Default: false.
    pub multipart: bool,
    /// Whether a body whose type is XML (`application/xml`, `text/xml` or any `+xml`) must be well-formed, in UTF-8, nested up to 128 deep, without a document
    /// type, and so without entities; else 400. Default: false.
    pub xml: bool,
    /// Whether an object in a JSON body may have a name twice. Two readers take two different values then, so that what is checked here may
    /// not be what the service sees. Default: false.
    pub duplicate_names: bool,
    /// How deep arrays and objects in a JSON body may be nested, 1 to 10000; with a schema up to 127. Default: 128, or 127.
    pub max_json_depth: Option<Spanned<u32>>,
    /// The most members of an object in a JSON body. Default: as many as the body holds.
    pub max_json_members: Option<Spanned<u32>>,
    /// The most elements of an array in a JSON body. Default: as many as the body holds.
    pub max_json_elements: Option<Spanned<u32>>,
    /// The longest text in a JSON body, names included, in bytes as it is written. Default: as long as the body.
    pub max_json_string: Option<Spanned<Size>>,
    /// The longest body that is checked as JSON; a longer one is refused with 413, or passes without
    /// having been looked at, and is counted, where `mode: report` alone has them looked at. Other bodies are not bounded by this. Default: 1MiB.
    pub max_body: Option<Spanned<Size>>,
    /// What a JSON body has to be.
    pub body: Option<BodyConfig>,
    /// What header fields have to be, by name, each a JSON Schema. A number is asked for with `type: integer`, a list with `type: array` (its
    /// parts have commas), and `required: true` refuses requests without the field.
    pub headers: BTreeMap<String, SchemaConfig>,
    /// The same for query parameters. A list is a parameter that comes several times.
    pub query: BTreeMap<String, SchemaConfig>,
    /// The same for what the `{name}` segments of the route's path take.
    pub path: BTreeMap<String, SchemaConfig>,
    /// Whether `format` in schemas asserts something: `date-time`, `date`, `time`, `email`, `hostname`, `ipv4`, `ipv6`, `uri`, `uuid` and `json-pointer`
    /// do then. Default: false, as JSON Schema has it.
    pub formats: bool,
    /// What is done with requests that break the schemas: refused (`enforce`), counted and let pass (`report`), or nothing (`off`). Everything
    /// else that is written here holds in any mode.
    pub mode: Mode,
}

/// The compiled policy.
pub struct Validate {
    headers: Vec<(HeaderName, String)>,
    query: Vec<(String, String)>,
    content_types: Option<Vec<Pattern>>,
    /// What a 415 says it would take (RFC 9110, sections 12.5.1 and 15.5.16).
    accept: HeaderValue,
    json: Option<Arc<JsonCheck>>,
    /// Other kinds of bodies that are looked at.
    content: Option<Arc<ContentCheck>>,
    contract: Option<Arc<Contract>>,
}

struct JsonCheck {
    limits: Limits,
    max_body: usize,
    contract: Option<Arc<Contract>>,
    /// What is not even JSON is reported as what breaks the schema: nobody asked for more.
    reports: bool,
}

fn refuse(status: StatusCode, reason: &'static str, detail: impl Into<std::borrow::Cow<'static, str>>) -> Box<Reply> {
    Reply::new(status, Validate::NAME, reason, detail)
}

fn empty_json() -> Flow {
    refuse(StatusCode::BAD_REQUEST, "json_empty", "The body is empty, which is not JSON.").refuse()
}

impl Validate {
    fn unsupported(&self, reason: &'static str, detail: &'static str) -> Flow {
        refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason, detail).header(header::ACCEPT, self.accept.clone()).refuse()
    }

    fn check_content(&self, head: &RequestHead, exchange: &Exchange) -> Flow {
        let mut types = head.header_all("content-type");
        let first = types.next();
        // A schema that is on trial alone refuses nobody.
        let nothing_else = self.content_types.is_none() && self.content.is_none();
        let on_trial = nothing_else && self.json.as_ref().is_some_and(|check| check.reports);
        let several = types.next().is_some();
        if several && !on_trial {
            return refuse(StatusCode::BAD_REQUEST, "ambiguous_content_type", "There is more than one Content-Type.").refuse();
        }
        let media = first.and_then(MediaType::parse);
        let has_body = head.body.is_some();
        // Nothing at all is held to the schema of a body too, or whoever leaves it out would get by.
        let contract = self.contract.as_ref().filter(|contract| contract.has_body());
        let lacking = contract.filter(|_| !has_body && WITH_BODY.contains(&head.method));
        let enforced = lacking.is_some_and(|contract| contract.mode == Mode::Enforce);
        if (has_body || enforced && first.is_some())
            && let Some(patterns) = &self.content_types
        {
            match &media {
                None => return self.unsupported("content_type_missing", "The body needs a Content-Type."),
                Some(media) if !patterns.iter().any(|pattern| pattern.matches(media)) => {
                    return self.unsupported("content_type_unsupported", "This Content-Type is not taken here.");
                }
                Some(_) => {}
            }
        }
        // Bytes that are to be read in another charset are none of those that are looked at.
        if let (Some(check), Some(media)) = (&self.content, &media)
            && has_body
            && check.looks_at(media)
            && !media.is_utf8()
        {
            return self.unsupported("charset_unsupported", "Forms and XML are taken in UTF-8 only.");
        }
        // What stands behind such a coding would be looked at by whoever undoes it, and by nobody here.
        let coded = has_body && coding::is_unknown(head);
        let looked_at = |media: &MediaType<'_>| {
            let json = self.json.as_ref().is_some_and(|check| !check.reports) && media.is_json();
            json || self.content.as_ref().is_some_and(|check| check.looks_at(media))
        };
        if coded && media.as_ref().is_some_and(looked_at) {
            let detail = "Bodies are taken in the codings that Accept-Encoding names.";
            let reply = refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding_unsupported", detail);
            return reply.header(header::ACCEPT_ENCODING, coding::TAKEN).refuse();
        }
        if let (Some(check), Some(contract)) = (&self.json, contract)
            && check.reports
        {
            let typed = has_body || lacking.is_some() && first.is_some();
            let told = match &media {
                _ if several => Some(("content_type", "must be there once")),
                media if self.content_types.is_none() && typed && media.as_ref().is_none_or(|media| !media.is_json()) => {
                    Some(("content_type", "must be JSON"))
                }
                Some(media) if has_body && media.is_json() && !media.is_utf8() => Some(("charset", "must be in UTF-8")),
                Some(media) if coded && media.is_json() => Some(UNREADABLE),
                Some(media) if media.is_json() && check.passes(head) => Some(LONGER),
                _ => lacking.map(|_| ("json", "must be there")),
            };
            if let Some((keyword, detail)) = told {
                contract.note_body(keyword, detail, exchange);
            }
            return Flow::Continue(());
        }
        if let (Some(check), Some(media)) = (&self.json, media)
            && media.is_json()
        {
            self.check_json_head(check, &media, head)?;
        }
        match lacking {
            Some(_) if enforced => empty_json(),
            // Of a schema on trial beside `json: true`, which is none.
            Some(contract) => {
                contract.note_body("json", "must be there", exchange);
                Flow::Continue(())
            }
            None => Flow::Continue(()),
        }
    }

    /// What can be said of a JSON body before it is read.
    fn check_json_head(&self, check: &JsonCheck, media: &MediaType<'_>, head: &RequestHead) -> Flow {
        if head.body != BodyFraming::None && !media.is_utf8() {
            return self.unsupported("charset_unsupported", "JSON is taken in UTF-8 only.");
        }
        match head.body {
            BodyFraming::Length(0) => empty_json(),
            // Many clients send a Content-Type with every GET. Where a body is the point of the method, its absence is a mistake.
            BodyFraming::None if WITH_BODY.contains(&head.method) => empty_json(),
            BodyFraming::Length(length) if length > check.max_body as u64 => {
                refuse(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The request body is too large.").refuse()
            }
            _ => Flow::Continue(()),
        }
    }
}

impl OnRequest for Validate {
    fn asks_for_body(&self) -> bool {
        self.content_types.is_some() || self.json.is_some() || self.content.is_some()
    }

    fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        let missing =
            self.headers.iter().find(|(name, _)| head.header(name.as_str()).is_none_or(|value| value.trim_ascii().is_empty()));
        if let Some((_, detail)) = missing {
            return refuse(StatusCode::BAD_REQUEST, "header_missing", detail.clone()).refuse();
        }
        if let Some((_, detail)) = self.query.iter().find(|(name, _)| head.query_param(name).is_none()) {
            return refuse(StatusCode::BAD_REQUEST, "query_parameter_missing", detail.clone()).refuse();
        }
        if let Some(contract) = &self.contract {
            contract.head(head, exchange)?;
        }
        if self.content_types.is_some() || self.json.is_some() || self.content.is_some() {
            return self.check_content(head, exchange);
        }
        Flow::Continue(())
    }
}

impl JsonCheck {
    /// Whether this is a body that is let pass because it is too long to be looked at.
    fn passes(&self, head: &RequestHead) -> bool {
        self.reports && matches!(head.body, BodyFraming::Length(length) if length > self.max_body as u64)
    }
}

impl OnBody for JsonCheck {
    fn bound(&self) -> usize {
        self.max_body
    }

    fn wants(&self, head: &RequestHead) -> bool {
        // A length of 0 was judged with the head.
        head.body != BodyFraming::None
            && !(self.reports && head.body == BodyFraming::Length(0) && WITH_BODY.contains(&head.method))
            && !self.passes(head)
            // On trial, that was told with the head.
            && !(self.reports && coding::is_unknown(head))
            && head.header("content-type").and_then(MediaType::parse).is_some_and(|media| {
                // What is in another charset was told with the head.
                media.is_json() && (!self.reports || media.is_utf8())
            })
    }

    fn passes_longer(&self) -> bool {
        self.reports
    }

    fn on_longer(&self, exchange: &mut Exchange) {
        if let (Some(contract), (keyword, detail)) = (&self.contract, LONGER) {
            contract.note_body(keyword, detail, exchange);
        }
    }

    fn reads_content(&self) -> bool {
        true
    }

    fn on_unreadable(&self, _: &RequestHead, exchange: &mut Exchange) -> Option<Flow> {
        let contract = self.contract.as_ref().filter(|_| self.reports)?;
        contract.note_body(UNREADABLE.0, UNREADABLE.1, exchange);
        Some(Flow::Continue(()))
    }

    fn on_body(&self, _: &RequestHead, body: &Bytes, exchange: &mut Exchange) -> Flow {
        match (json::check_within(body, &self.limits), &self.contract) {
            (Err(_), Some(contract)) if self.reports => {
                contract.note_body("json", "must be JSON, within its bounds", exchange);
                Flow::Continue(())
            }
            (Err(fault), _) => malformed(fault),
            (Ok(()), Some(contract)) => contract.body(body, exchange),
            (Ok(()), None) => Flow::Continue(()),
        }
    }
}

fn malformed(fault: Fault) -> Flow {
    let (reason, what) = match fault.kind {
        FaultKind::Empty => return empty_json(),
        FaultKind::NotUtf8 => ("json_not_utf8", "is not UTF-8"),
        FaultKind::Syntax => ("json_malformed", "is not well-formed JSON"),
        FaultKind::TooDeep => ("json_too_deep", "is nested too deeply"),
        FaultKind::DuplicateName => ("json_duplicate_name", "has an object with a name twice"),
        FaultKind::TooManyMembers => ("json_too_many_members", "has an object with too many members"),
        FaultKind::TooManyElements => ("json_too_many_elements", "has an array with too many elements"),
        FaultKind::StringTooLong => ("json_string_too_long", "has a text that is too long"),
    };
    refuse(StatusCode::BAD_REQUEST, reason, format!("The body {what}, at byte {}.", fault.offset)).refuse()
}

impl Policy for Validate {
    const NAME: &'static str = "validate";
    const STAGE: Stage = Stage::Validate;
    const SUMMARY: &'static str =
        "Holds requests to a contract: header fields, parameters, content types, JSON and JSON Schema (400, 413, 415).";
    type Config = ValidateConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let before = cx.problems.len();
        let mut headers = Vec::new();
        for name in &config.required_headers {
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(header) => headers.push((header, format!("The header field {} is missing.", name.value))),
                Err(_) => cx.problems.push(Problem::error(name.place, format!("`{}` is not a header name", name.value))),
            }
        }
        let mut query = Vec::new();
        for name in &config.required_query {
            if name.is_empty() || name.contains(['&', '=', '#', '?', ' ']) {
                let message = format!("`{}` cannot be the name of a query parameter as it stands in a target", name.value);
                cx.problems.push(Problem::error(name.place, message));
            }
            query.push((name.value.clone(), format!("The query parameter {} is missing.", name.value)));
        }
        let written = Written {
            body: config.body.as_ref(),
            headers: &config.headers,
            query: &config.query,
            path: &config.path,
            mode: config.mode,
            formats: config.formats,
        };
        let contract = Contract::compile(&written, cx).map(Arc::new);
        let enforces = contract.as_ref().is_some_and(|contract| contract.has_body() && contract.mode == Mode::Enforce);
        let mut content_types = config.content_types.as_deref().map(|types| patterns(types, cx));
        if content_types.is_none() && enforces {
            content_types = Some(JSON_TYPES.iter().filter_map(|text| Pattern::parse(text)).collect());
        }
        let json = json_check(config, contract.as_ref(), cx);
        let accept = match config.content_types.as_deref() {
            Some(types) => types.iter().map(|text| text.as_str()).collect::<Vec<_>>().join(", "),
            None if enforces => JSON_TYPES.join(", "),
            None => "application/json".to_owned(),
        };
        // Patterns are tokens: they make a legal value.
        let accept = HeaderValue::try_from(accept).unwrap_or(HeaderValue::from_static("*/*"));
        let json = (config.json || contract.as_ref().is_some_and(|contract| contract.has_body())).then(|| Arc::new(json));
        let max_body = config.max_body.as_ref().map_or(DEFAULT_MAX_BODY, |size| size.value.0);
        let content = ContentCheck::new(config.form, config.multipart, config.xml, max_body).map(Arc::new);
        (cx.problems.len() == before).then_some(Validate { headers, query, content_types, accept, json, content, contract })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        let (json, content) = (self.json.clone(), self.content.clone());
        plan.options().by_params |= self.contract.as_ref().is_some_and(|contract| contract.look_at_params());
        // The head first: what is wrong there needs no body.
        plan.on_request(self);
        if let Some(check) = json {
            plan.on_body(check);
        }
        if let Some(check) = content {
            plan.on_body(check);
        }
    }
}

/// What a body with a schema may be, where nobody says otherwise.
const JSON_TYPES: [&str; 2] = ["application/json", "*/*+json"];

fn patterns(types: &[Spanned<String>], cx: &mut Compile<'_>) -> Vec<Pattern> {
    if types.is_empty() {
        cx.problems.push(Problem::error(cx.place, "an empty list of content types would refuse every body"));
    }
    let mut patterns = Vec::new();
    for text in types {
        match Pattern::parse(text) {
            Some(pattern) => patterns.push(pattern),
            None => cx.problems.push(
                Problem::error(text.place, format!("`{}` is not a media type", text.value))
                    .hint("write `application/json`, `application/*`, `*/*+json` or `*/*`"),
            ),
        }
    }
    patterns
}

fn json_check(config: &ValidateConfig, contract: Option<&Arc<Contract>>, cx: &mut Compile<'_>) -> JsonCheck {
    let has_schema = config.body.is_some();
    let counts = [
        ("max_json_depth", &config.max_json_depth),
        ("max_json_members", &config.max_json_members),
        ("max_json_elements", &config.max_json_elements),
    ];
    let sizes = [("max_json_string", &config.max_json_string), ("max_body", &config.max_body)];
    let placed = counts.iter().map(|(name, count)| (*name, count.as_ref().map(|count| count.place)));
    let placed = placed.chain(sizes.iter().map(|(name, size)| (*name, size.as_ref().map(|size| size.place))));
    let looks = config.form || config.multipart || config.xml;
    for (name, place) in placed.filter(|(name, _)| !(config.json || has_schema || looks && *name == "max_body")) {
        if let Some(place) = place {
            cx.problems
                .push(Problem::error(place, format!("`{name}` bounds the JSON check, which is off")).hint("add `json: true`"));
        }
    }
    let depth = config.max_json_depth.as_ref();
    let most_depth = if has_schema { MOST_TREE_DEPTH } else { MOST_MAX_DEPTH };
    if let Some(depth) = depth.filter(|depth| !(1..=most_depth).contains(&depth.value)) {
        let with = if has_schema { ", with a schema" } else { "" };
        cx.problems.push(Problem::error(depth.place, format!("max_json_depth is between 1 and {most_depth}{with}")));
    }
    for (name, size) in sizes {
        if let Some(size) = size.as_ref().filter(|size| size.value.0 == 0) {
            cx.problems.push(Problem::error(size.place, format!("no JSON fits in {name} of 0 bytes")));
        }
    }
    let bytes = |size: &Option<Spanned<Size>>, default: u64| {
        usize::try_from(size.as_ref().map_or(default, |size| size.value.0)).unwrap_or(usize::MAX)
    };
    let count = |count: &Option<Spanned<u32>>| count.as_ref().map_or(u32::MAX, |count| count.value);
    let contract = contract.filter(|contract| contract.has_body()).cloned();
    let reports = !config.json && contract.as_ref().is_some_and(|contract| contract.mode == Mode::Report);
    JsonCheck {
        limits: Limits {
            depth: depth.map_or(DEFAULT_MAX_DEPTH.min(most_depth), |depth| depth.value) as usize,
            members: count(&config.max_json_members),
            elements: count(&config.max_json_elements),
            string: bytes(&config.max_json_string, u64::MAX),
            unique: !config.duplicate_names,
        },
        max_body: bytes(&config.max_body, DEFAULT_MAX_BODY),
        reports,
        contract,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::testing::{compile, complaint, plan};

    fn head(method: &str, body: BodyFraming, headers: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::build(method, "/?a=1&b", headers);
        head.body = body;
        head
    }

    /// The refusal's status and reason, on the head and then on the body.
    fn run(config: Value, head: &RequestHead, body: &[u8]) -> Option<(u16, &'static str)> {
        let plan = plan(compile::<Validate>(config).unwrap());
        let mut exchange = Exchange::for_tests();
        let early = plan.heads().find_map(|run| run.on_request(head, &mut exchange).break_value());
        let refusal = early.or_else(|| {
            let run = plan.bodies().find(|run| run.wants(head))?;
            run.on_body(head, &Bytes::copy_from_slice(body), &mut exchange).break_value()
        });
        refusal.map(|reply| (reply.status.as_u16(), reply.reason))
    }

    #[test]
    fn asks_for_headers_and_query() {
        let get = head("GET", BodyFraming::None, &[("X-Version", "1"), ("X-Empty", " ")]);
        assert_eq!(run(json!({ "required_headers": ["x-version"], "required_query": ["a", "b"] }), &get, b""), None);
        assert_eq!(run(json!({ "required_headers": ["X-Empty"] }), &get, b""), Some((400, "header_missing")));
        assert_eq!(run(json!({ "required_headers": ["X-Other"] }), &get, b""), Some((400, "header_missing")));
        assert_eq!(run(json!({ "required_query": ["c"] }), &get, b""), Some((400, "query_parameter_missing")));
    }

    #[test]
    fn content_types_count_only_with_a_body() {
        let types = || json!({ "content_types": ["application/json", "*/*+json"] });
        let post = |value| head("POST", BodyFraming::Streamed, &[("Content-Type", value)]);
        assert_eq!(run(types(), &head("GET", BodyFraming::None, &[]), b""), None);
        assert_eq!(run(types(), &head("POST", BodyFraming::Length(0), &[]), b""), None);
        assert_eq!(run(types(), &head("POST", BodyFraming::Length(1), &[]), b""), Some((415, "content_type_missing")));
        assert_eq!(run(types(), &post("application/json; charset=latin1"), b""), None);
        assert_eq!(run(types(), &post("application/hal+json"), b""), None);
        assert_eq!(run(types(), &post("text/plain"), b""), Some((415, "content_type_unsupported")));
        assert_eq!(run(types(), &post("nonsense"), b""), Some((415, "content_type_missing")));
        let twice = head("POST", BodyFraming::Streamed, &[("Content-Type", "application/json"), ("content-type", "text/plain")]);
        assert_eq!(run(types(), &twice, b""), Some((400, "ambiguous_content_type")));
    }

    #[test]
    fn a_415_says_what_would_be_taken() {
        let policy = compile::<Validate>(json!({ "content_types": ["application/json", "text/*"] })).unwrap();
        let post = head("POST", BodyFraming::Streamed, &[("Content-Type", "image/png")]);
        let reply = policy.on_request(&post, &mut Exchange::for_tests()).break_value().unwrap();
        assert_eq!(reply.headers[0], (header::ACCEPT, HeaderValue::from_static("application/json, text/*")));
    }

    #[test]
    fn json_must_be_json() {
        let json = || json!({ "json": true, "max_json_depth": 2, "max_body": 20 });
        let post = |value, body: &[u8]| head("POST", BodyFraming::Length(body.len() as u64), &[("Content-Type", value)]);
        let judge = |value, body: &[u8]| run(json(), &post(value, body), body);
        assert_eq!(judge("application/json", b"{\"a\":[1]}"), None);
        assert_eq!(judge("text/plain", b"{"), None);
        assert_eq!(judge("application/merge-patch+json", b"{"), Some((400, "json_malformed")));
        assert_eq!(judge("application/json", b"[[[1]]]"), Some((400, "json_too_deep")));
        assert_eq!(judge("application/json", b"\"\xff\""), Some((400, "json_not_utf8")));
        assert_eq!(judge("application/json", b""), Some((400, "json_empty")));
        assert_eq!(judge("application/json;charset=utf-16", b"1"), Some((415, "charset_unsupported")));
        assert_eq!(judge("application/json", &[b' '; 21]), Some((413, "body_too_large")));
        let streamed = head("POST", BodyFraming::Streamed, &[("Content-Type", "application/json")]);
        assert_eq!(run(json(), &streamed, b""), Some((400, "json_empty")));
        let typed = |method| head(method, BodyFraming::None, &[("Content-Type", "application/json")]);
        assert_eq!(run(json(), &typed("GET"), b""), None);
        assert_eq!(run(json(), &typed("PUT"), b""), Some((400, "json_empty")));
    }

    #[test]
    fn a_body_that_is_left_out_does_not_get_by_its_schema() {
        let held = || json!({ "body": { "schema": { "type": "object" } } });
        let trial = || json!({ "body": { "schema": { "type": "object" } }, "mode": "report" });
        for method in ["POST", "PUT", "PATCH"] {
            for framing in [BodyFraming::None, BodyFraming::Length(0)] {
                assert_eq!(run(held(), &head(method, framing, &[]), b""), Some((400, "json_empty")), "{method}");
                let text = head(method, framing, &[("Content-Type", "text/plain")]);
                assert_eq!(run(held(), &text, b""), Some((415, "content_type_unsupported")), "{method}");
                let empty = head(method, framing, &[("Content-Type", "application/json")]);
                assert_eq!(run(held(), &empty, b""), Some((400, "json_empty")), "{method}");
                let twice = head(method, framing, &[("Content-Type", "application/json"), ("Content-Type", "text/plain")]);
                for head in [head(method, framing, &[]), text, empty, twice] {
                    assert_eq!(run(trial(), &head, b""), None, "{method}");
                }
            }
        }
        assert_eq!(run(held(), &head("GET", BodyFraming::None, &[]), b""), None);
        assert_eq!(run(held(), &head("DELETE", BodyFraming::Length(0), &[]), b""), None);
    }

    #[test]
    fn a_schema_sees_what_the_service_sees() {
        let held = json!({ "body": { "schema": { "properties": { "id": { "type": "integer" } } } } });
        let body = br#"{"id":{"$serde_json::private::RawValue":"5"}}"#;
        let post = head("POST", BodyFraming::Length(body.len() as u64), &[("Content-Type", "application/json")]);
        assert_eq!(run(held, &post, body), Some((400, "contract_broken")));
    }

    #[test]
    fn what_is_too_long_passes_on_trial() {
        let wants = |config: Value, length: u64| {
            let post = head("POST", BodyFraming::Length(length), &[("Content-Type", "application/json")]);
            let plan = plan(compile::<Validate>(config).unwrap());
            plan.bodies().any(|run| run.wants(&post))
        };
        let trial = json!({ "body": { "schema": {} }, "mode": "report" });
        let bounded = json!({ "body": { "schema": {} }, "mode": "report", "max_body": 10 });
        assert!(wants(trial.clone(), 1 << 20) && !wants(trial, (1 << 20) + 1));
        assert!(wants(bounded.clone(), 10) && !wants(bounded, 11) && wants(json!({ "body": { "schema": {} } }), 2 << 20));
        let passes = |config: Value| plan(compile::<Validate>(config).unwrap()).bodies().all(|run| run.passes_longer());
        assert!(passes(json!({ "body": { "schema": {} }, "mode": "report" })));
        assert!(!passes(json!({ "body": { "schema": {} }, "mode": "report", "json": true })));
        assert!(!passes(json!({ "body": { "schema": {} } })));
    }

    #[test]
    fn the_refusal_repeats_nothing() {
        let check = JsonCheck { limits: Limits::deep(9), max_body: 100, contract: None, reports: false };
        let head = head("POST", BodyFraming::Streamed, &[]);
        let reply = check.on_body(&head, &b"{\"secret\": oops}"[..].into(), &mut Exchange::for_tests()).break_value().unwrap();
        assert_eq!(reply.detail, "The body is not well-formed JSON, at byte 11.");
    }

    #[test]
    fn a_plan_reads_bodies_only_for_json() {
        assert!(plan(compile::<Validate>(json!({ "content_types": ["text/*"] })).unwrap()).bodies().next().is_none());
        let plan = plan(compile::<Validate>(json!({ "json": true })).unwrap());
        assert_eq!(plan.bodies().next().unwrap().bound(), 1 << 20);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(complaint::<Validate>(json!({ "required_headers": ["a b"] })).contains("header name"));
        assert!(complaint::<Validate>(json!({ "required_query": ["a=b"] })).contains("query parameter"));
        assert!(complaint::<Validate>(json!({ "content_types": ["json"] })).contains("media type"));
        assert!(complaint::<Validate>(json!({ "content_types": [] })).contains("empty"));
        assert!(complaint::<Validate>(json!({ "json": true, "max_json_depth": 0 })).contains("max_json_depth"));
        assert!(complaint::<Validate>(json!({ "json": true, "max_body": 0 })).contains("0 bytes"));
        assert!(complaint::<Validate>(json!({ "max_body": 5 })).contains("which is off"));
    }
}
