//! `bounds`: how large a request may be, and which methods it may use.
//!
//! The bounds are a route's own, within those of the door, which has refused by then what no route would take. `max_body` is given to
//! the road, which counts what really arrives; a declared length over it is refused here, before any of it is read.
//!
//! Deliberately not here: deadlines, and what the body is made of (`validate`).

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::exchange::Exchange;
use crate::head::{BodyFraming, RequestHead};
use crate::policy::{Compile, OnRequest, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::value::{Size, Spanned};

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BoundsConfig {
    /// The longest request body, whatever its framing: `2MiB`. A longer one is refused with 413. 0 takes no body. Default: the server's.
    pub max_body: Option<Size>,
    /// The longest path and query together, in bytes, the `?` included, as the backend would get them. A longer one is refused with 414.
    pub max_uri: Option<Spanned<Size>>,
    /// The most header fields, at least 1. More are refused with 431.
    pub max_headers: Option<Spanned<u32>>,
    /// The most bytes of all header fields together: names, values, and 4 for each field's colon, space and line end. More are refused
    /// with 431.
    pub max_header_size: Option<Spanned<Size>>,
    /// The only methods that are taken; others are refused with 405. Methods are case-sensitive, and `GET` does not include `HEAD`.
    pub methods: Option<Vec<Spanned<String>>>,
}

/// The compiled policy.
pub struct Bounds {
    max_body: Option<u64>,
    max_uri: usize,
    max_headers: usize,
    max_header_size: usize,
    methods: Option<(Vec<Method>, HeaderValue)>,
}

impl Bounds {
    fn header_size(head: &RequestHead) -> usize {
        head.headers().map(|(name, value)| name.len() + value.len() + 4).sum()
    }
}

impl OnRequest for Bounds {
    fn on_request(&self, head: &RequestHead, _: &mut Exchange) -> Flow {
        if let Some((methods, allow)) = &self.methods
            && !methods.contains(&head.method)
        {
            return Reply::new(
                StatusCode::METHOD_NOT_ALLOWED,
                Self::NAME,
                "method_not_allowed",
                "This method is not allowed here.",
            )
            .header(header::ALLOW, allow.clone())
            .refuse();
        }
        if head.path.len() + head.query().map_or(0, |query| query.len() + 1) > self.max_uri {
            return Reply::new(StatusCode::URI_TOO_LONG, Self::NAME, "uri_too_long", "The path and query are too long.").refuse();
        }
        let too_large =
            |reason, detail| Reply::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Self::NAME, reason, detail).refuse();
        if head.fields.len() > self.max_headers {
            return too_large("too_many_headers", "There are too many header fields.");
        }
        if self.max_header_size != usize::MAX && Self::header_size(head) > self.max_header_size {
            return too_large("headers_too_large", "The header fields are too large.");
        }
        match (head.body, self.max_body) {
            (BodyFraming::Length(length), Some(most)) if length > most => {
                Reply::new(StatusCode::PAYLOAD_TOO_LARGE, Self::NAME, "body_too_large", "The request body is too large.").refuse()
            }
            _ => Flow::Continue(()),
        }
    }
}

impl Policy for Bounds {
    const NAME: &'static str = "bounds";
    const STAGE: Stage = Stage::Edge;
    const SUMMARY: &'static str = "Bounds a request's body, target and header fields, and its methods (413, 414, 431, 405).";
    type Config = BoundsConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let before = cx.problems.len();
        let bound = |size: Option<&Spanned<Size>>, name: &str, cx: &mut Compile<'_>| match size {
            Some(size) if size.value.0 == 0 => {
                cx.problems.push(Problem::error(size.place, format!("{name} of 0 would refuse every request")));
                0
            }
            Some(size) => usize::try_from(size.value.0).unwrap_or(usize::MAX),
            None => usize::MAX,
        };
        let max_uri = bound(config.max_uri.as_ref(), "max_uri", cx);
        let max_header_size = bound(config.max_header_size.as_ref(), "max_header_size", cx);
        let max_headers = config.max_headers.as_ref();
        if let Some(count) = max_headers.filter(|count| count.value == 0) {
            cx.problems.push(Problem::error(count.place, "max_headers of 0 would refuse every request"));
        }
        let methods = config.methods.as_deref().and_then(|methods| compile_methods(methods, cx));
        let policy = Bounds {
            max_body: config.max_body.map(|Size(bytes)| bytes),
            max_uri,
            max_headers: max_headers.map_or(usize::MAX, |count| count.value as usize),
            max_header_size,
            methods,
        };
        (cx.problems.len() == before).then_some(policy)
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        if let Some(most) = self.max_body {
            let bound = &mut plan.options().max_body;
            *bound = Some(bound.map_or(most, |known| known.min(most)));
        }
        plan.on_request(self);
    }
}

fn compile_methods(methods: &[Spanned<String>], cx: &mut Compile<'_>) -> Option<(Vec<Method>, HeaderValue)> {
    if methods.is_empty() {
        cx.problems.push(Problem::error(cx.place, "an empty list of methods would refuse every request"));
        return None;
    }
    let mut known = Vec::new();
    for name in methods {
        match Method::from_bytes(name.as_bytes()) {
            Ok(_) if name.bytes().any(|byte| byte.is_ascii_lowercase()) => {
                let hint = format!("write {}", name.to_ascii_uppercase());
                cx.problems.push(Problem::error(name.place, format!("methods are case-sensitive: `{}`", name.value)).hint(hint));
            }
            Ok(method) if !known.contains(&method) => known.push(method),
            Ok(_) => {}
            Err(_) => cx.problems.push(Problem::error(name.place, format!("`{}` is not a method", name.value))),
        }
    }
    let allow = known.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    HeaderValue::try_from(allow).ok().map(|allow| (known, allow))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::testing::{compile, complaint, plan};

    fn status(config: serde_json::Value, head: &RequestHead) -> Option<u16> {
        let policy = compile::<Bounds>(config).unwrap();
        policy.on_request(head, &mut Exchange::for_tests()).break_value().map(|reply| reply.status.as_u16())
    }

    #[test]
    fn each_bound_is_inclusive() {
        let mut head = RequestHead::build("POST", "/abc?d=e", &[("host", "x"), ("a", "bcd")]);
        head.body = BodyFraming::Length(10);
        assert_eq!(status(json!({}), &head), None);
        assert_eq!(status(json!({ "max_body": 10 }), &head), None);
        assert_eq!(status(json!({ "max_body": 9 }), &head), Some(413));
        assert_eq!(status(json!({ "max_body": 0 }), &head), Some(413));
        assert_eq!(status(json!({ "max_uri": 8 }), &head), None);
        assert_eq!(status(json!({ "max_uri": 7 }), &head), Some(414));
        assert_eq!(status(json!({ "max_headers": 2 }), &head), None);
        assert_eq!(status(json!({ "max_headers": 1 }), &head), Some(431));
        assert_eq!(status(json!({ "max_header_size": 17 }), &head), None);
        assert_eq!(status(json!({ "max_header_size": 16 }), &head), Some(431));
        head.body = BodyFraming::Streamed;
        assert_eq!(status(json!({ "max_body": 9 }), &head), None);
    }

    #[test]
    fn another_method_is_told_which_are_allowed() {
        let policy = compile::<Bounds>(json!({ "methods": ["GET", "HEAD", "GET"] })).unwrap();
        let refused = policy.on_request(&RequestHead::build("get", "/", &[]), &mut Exchange::for_tests()).break_value().unwrap();
        assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(refused.headers[0], (header::ALLOW, HeaderValue::from_static("GET, HEAD")));
        assert!(policy.on_request(&RequestHead::build("HEAD", "/", &[]), &mut Exchange::for_tests()).is_continue());
    }

    #[test]
    fn the_road_learns_the_bound() {
        assert_eq!(plan(compile::<Bounds>(json!({ "max_body": 5 })).unwrap()).options.max_body, Some(5));
        assert_eq!(plan(compile::<Bounds>(json!({ "max_uri": 5 })).unwrap()).options.max_body, None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(complaint::<Bounds>(json!({ "max_uri": 0 })).contains("max_uri"));
        assert!(complaint::<Bounds>(json!({ "max_headers": 0 })).contains("max_headers"));
        assert!(complaint::<Bounds>(json!({ "methods": [] })).contains("empty"));
        assert!(complaint::<Bounds>(json!({ "methods": ["get"] })).contains("case-sensitive"));
        assert!(complaint::<Bounds>(json!({ "methods": ["G T"] })).contains("not a method"));
        assert!(complaint::<Bounds>(json!({ "max_bodies": 1 })).contains("unknown field"));
    }
}
