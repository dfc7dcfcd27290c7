//! `validate`: the header fields and query parameters that a request must have, the types its content may have, and whether a JSON body
//! is JSON.
//!
//! A `Content-Type` is asked for only where there is a body. Refusals name what is missing, which the configuration wrote, and a byte's
//! offset, and never repeat anything that the client sent.
//!
//! Deliberately not here: JSON Schema and OpenAPI.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use super::json::{self, FaultKind};
use super::media::{MediaType, Pattern};
use crate::exchange::Exchange;
use crate::head::{BodyFraming, RequestHead};
use crate::policy::{Compile, OnBody, OnRequest, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::value::{Size, Spanned};

const DEFAULT_MAX_BODY: u64 = 1 << 20;
const DEFAULT_MAX_DEPTH: u32 = 128;
const MOST_MAX_DEPTH: u32 = 10_000;

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
    /// read into memory before a backend is asked. Default: false.
    pub json: bool,
    /// How deep arrays and objects in a JSON body may be nested, 1 to 10000. Default: 128.
    pub max_json_depth: Option<Spanned<u32>>,
    /// The longest body that is checked as JSON; a longer one is refused with 413. Other bodies are not bounded by this. Default: 1MiB.
    pub max_body: Option<Spanned<Size>>,
}

/// The compiled policy.
pub struct Validate {
    headers: Vec<(HeaderName, String)>,
    query: Vec<(String, String)>,
    content_types: Option<Vec<Pattern>>,
    /// What a 415 says it would take (RFC 9110, sections 12.5.1 and 15.5.16).
    accept: HeaderValue,
    json: Option<JsonCheck>,
}

#[derive(Clone, Copy)]
struct JsonCheck {
    max_depth: usize,
    max_body: usize,
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

    fn check_content(&self, head: &RequestHead) -> Flow {
        let mut types = head.header_all("content-type");
        let first = types.next();
        if types.next().is_some() {
            return refuse(StatusCode::BAD_REQUEST, "ambiguous_content_type", "There is more than one Content-Type.").refuse();
        }
        let media = first.and_then(MediaType::parse);
        let has_body = !matches!(head.body, BodyFraming::None | BodyFraming::Length(0));
        if has_body && let Some(patterns) = &self.content_types {
            match &media {
                None => return self.unsupported("content_type_missing", "The body needs a Content-Type."),
                Some(media) if !patterns.iter().any(|pattern| pattern.matches(media)) => {
                    return self.unsupported("content_type_unsupported", "This Content-Type is not taken here.");
                }
                Some(_) => {}
            }
        }
        match (self.json, media) {
            (Some(check), Some(media)) if media.is_json() => self.check_json_head(check, &media, head),
            _ => Flow::Continue(()),
        }
    }

    /// What can be said of a JSON body before it is read.
    fn check_json_head(&self, check: JsonCheck, media: &MediaType<'_>, head: &RequestHead) -> Flow {
        if head.body != BodyFraming::None && !media.is_utf8() {
            return self.unsupported("charset_unsupported", "JSON is taken in UTF-8 only.");
        }
        match head.body {
            BodyFraming::Length(0) => empty_json(),
            // Many clients send a Content-Type with every GET. Where a body is the point of the method, its absence is a mistake.
            BodyFraming::None if [Method::POST, Method::PUT, Method::PATCH].contains(&head.method) => empty_json(),
            BodyFraming::Length(length) if length > check.max_body as u64 => {
                refuse(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The request body is too large.").refuse()
            }
            _ => Flow::Continue(()),
        }
    }
}

impl OnRequest for Validate {
    fn on_request(&self, head: &RequestHead, _: &mut Exchange) -> Flow {
        let missing =
            self.headers.iter().find(|(name, _)| head.header(name.as_str()).is_none_or(|value| value.trim_ascii().is_empty()));
        if let Some((_, detail)) = missing {
            return refuse(StatusCode::BAD_REQUEST, "header_missing", detail.clone()).refuse();
        }
        if let Some((_, detail)) = self.query.iter().find(|(name, _)| head.query_param(name).is_none()) {
            return refuse(StatusCode::BAD_REQUEST, "query_parameter_missing", detail.clone()).refuse();
        }
        if self.content_types.is_some() || self.json.is_some() {
            return self.check_content(head);
        }
        Flow::Continue(())
    }
}

impl OnBody for JsonCheck {
    fn bound(&self) -> usize {
        self.max_body
    }

    fn wants(&self, head: &RequestHead) -> bool {
        head.body != BodyFraming::None
            && head.header("content-type").and_then(MediaType::parse).is_some_and(|media| media.is_json())
    }

    fn on_body(&self, _: &RequestHead, body: &Bytes, _: &mut Exchange) -> Flow {
        let Err(fault) = json::check(body, self.max_depth) else { return Flow::Continue(()) };
        let (reason, what) = match fault.kind {
            FaultKind::Empty => return empty_json(),
            FaultKind::NotUtf8 => ("json_not_utf8", "is not UTF-8"),
            FaultKind::Syntax => ("json_malformed", "is not well-formed JSON"),
            FaultKind::TooDeep => ("json_too_deep", "is nested too deeply"),
        };
        refuse(StatusCode::BAD_REQUEST, reason, format!("The body {what}, at byte {}.", fault.offset)).refuse()
    }
}

impl Policy for Validate {
    const NAME: &'static str = "validate";
    const STAGE: Stage = Stage::Validate;
    const SUMMARY: &'static str = "Checks required header fields and query parameters, content types and JSON (400, 413, 415).";
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
        let content_types = config.content_types.as_deref().map(|types| patterns(types, cx));
        let json = json_check(config, cx);
        let accept = match config.content_types.as_deref() {
            Some(types) => types.iter().map(|text| text.as_str()).collect::<Vec<_>>().join(", "),
            None => "application/json".to_owned(),
        };
        // Patterns are tokens: they make a legal value.
        let accept = HeaderValue::try_from(accept).unwrap_or(HeaderValue::from_static("*/*"));
        let json = config.json.then_some(json);
        (cx.problems.len() == before).then_some(Validate { headers, query, content_types, accept, json })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        let json = self.json;
        // The head first: what is wrong there needs no body.
        plan.on_request(self);
        if let Some(check) = json {
            plan.on_body(Arc::new(check));
        }
    }
}

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

fn json_check(config: &ValidateConfig, cx: &mut Compile<'_>) -> JsonCheck {
    if !config.json {
        let unused = [
            ("max_json_depth", config.max_json_depth.as_ref().map(|depth| depth.place)),
            ("max_body", config.max_body.as_ref().map(|size| size.place)),
        ];
        for (name, place) in unused {
            if let Some(place) = place {
                cx.problems.push(
                    Problem::error(place, format!("`{name}` bounds the JSON check, which is off")).hint("add `json: true`"),
                );
            }
        }
    }
    let depth = config.max_json_depth.as_ref();
    if let Some(depth) = depth.filter(|depth| !(1..=MOST_MAX_DEPTH).contains(&depth.value)) {
        cx.problems.push(Problem::error(depth.place, format!("max_json_depth is between 1 and {MOST_MAX_DEPTH}")));
    }
    let size = config.max_body.as_ref();
    if let Some(size) = size.filter(|size| size.value.0 == 0) {
        cx.problems.push(Problem::error(size.place, "no JSON fits in 0 bytes"));
    }
    JsonCheck {
        max_depth: depth.map_or(DEFAULT_MAX_DEPTH, |depth| depth.value) as usize,
        max_body: usize::try_from(size.map_or(DEFAULT_MAX_BODY, |size| size.value.0)).unwrap_or(usize::MAX),
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
    fn the_refusal_repeats_nothing() {
        let check = JsonCheck { max_depth: 9, max_body: 100 };
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
