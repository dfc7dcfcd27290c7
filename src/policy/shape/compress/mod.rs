//! `compress`: answers in fewer bytes, for clients that take them so.
//!
//! On each answer anew, a hit of the cache included: what is stored is stored as the service sent it, and serves clients of every coding.
//! Pieces leave when the service's do, so that streams of events stay live.
//!
//! Deliberately not here: bodies of requests; what is coded already; parts of a body (206); gRPC and gRPC-Web, whatever their messages are.

mod accept;
mod encoder;

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::grpc::Dialect;
use crate::policy::{Compile, Follows, OnResponse, Outgoing, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::reply::Flow;
use crate::value::{OneOrMany, Size, Spanned};
use crate::wire::coding::is_coded;
use crate::wire::media::LINES;
use crate::wire::stages::Validator;
use encoder::{Allowance, Encoder};

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Coding {
    Zstd,
    Br,
    Gzip,
}

impl Coding {
    const ALL: [Coding; 3] = [Coding::Zstd, Coding::Br, Coding::Gzip];

    fn of(name: &[u8]) -> Option<Coding> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            2 if is("br") => Some(Coding::Br),
            4 if is("zstd") => Some(Coding::Zstd),
            4 if is("gzip") => Some(Coding::Gzip),
            6 if is("x-gzip") => Some(Coding::Gzip),
            _ => None,
        }
    }

    fn name(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Coding::Zstd => "zstd",
            Coding::Br => "br",
            Coding::Gzip => "gzip",
        })
    }
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CompressConfig {
    /// `zstd`, `br` (brotli) and `gzip`, the one first that is taken where a client likes several alike. Default: `[ zstd, br, gzip ]`.
    pub codings: Spanned<OneOrMany<Coding>>,
    /// Media types, such as `application/json`, `text/*` or `*+json`. Default: texts, JSON, XML, scripts, SVG and WebAssembly.
    pub types: Spanned<OneOrMany<Spanned<String>>>,
    /// Answers that are known to be shorter go out as they are. Default: 1KiB.
    pub min_size: Size,
}

impl Default for CompressConfig {
    fn default() -> Self {
        let types = TYPES.into_iter().chain(LINES).map(|kind| Spanned::nowhere(kind.to_owned()));
        CompressConfig {
            codings: Spanned::nowhere(OneOrMany(Coding::ALL.to_vec())),
            types: Spanned::nowhere(OneOrMany(types.collect())),
            min_size: Size(1024),
        }
    }
}

/// Beside lines of JSON.
const TYPES: [&str; 9] = [
    "text/*",
    "*+json",
    "*+xml",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/yaml",
    "application/wasm",
    "font/ttf",
];

/// A media type, or many, in lower case.
enum Kind {
    One(Box<str>),
    /// `text/*`, with its slash.
    Of(Box<str>),
    /// `*+json`, with its plus.
    Like(Box<str>),
}

impl Kind {
    fn parse(text: &str) -> Option<Kind> {
        let text = text.to_ascii_lowercase();
        let is_token =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic() && !b"*/;,".contains(&byte));
        if let Some(suffix) = text.strip_prefix("*+") {
            return is_token(suffix).then(|| Kind::Like(format!("+{suffix}").into()));
        }
        match text.split_once('/')? {
            (kind, "*") if is_token(kind) => Some(Kind::Of(format!("{kind}/").into())),
            (kind, sub) if is_token(kind) && is_token(sub) => Some(Kind::One(text.into())),
            _ => None,
        }
    }

    fn takes(&self, found: &[u8]) -> bool {
        let is = |part: Option<&[u8]>, wanted: &str| part.is_some_and(|part| part.eq_ignore_ascii_case(wanted.as_bytes()));
        match self {
            Kind::One(wanted) => is(Some(found), wanted),
            Kind::Of(wanted) => is(found.get(..wanted.len()), wanted),
            Kind::Like(wanted) => is(found.len().checked_sub(wanted.len()).and_then(|at| found.get(at..)), wanted),
        }
    }
}

/// The compiled policy.
pub struct Compress {
    codings: Vec<Coding>,
    types: Vec<Kind>,
    min_size: u64,
}

impl Compress {
    /// Whether an answer is one that a client might get coded, whatever this one takes.
    fn is_worth_it(&self, answer: &Outgoing<'_>) -> bool {
        let kind = answer.first(&header::CONTENT_TYPE).unwrap_or_default();
        let kind = kind.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let coded = answer.all(&header::CONTENT_ENCODING).into_iter().any(is_coded);
        let long = answer.length().is_none_or(|length| length >= self.min_size);
        long && !coded
            && self.types.iter().any(|known| known.takes(kind))
            && !answer.lists(&header::CACHE_CONTROL, "no-transform")
    }

    fn chosen(&self, answer: &Outgoing<'_>) -> Option<Coding> {
        let asks_for_as_is =
            answer.head.header_all("cache-control").any(|value| memchr::memmem::find(value, b"no-transform").is_some());
        let chosen = accept::choose(answer.head.header_all("accept-encoding"), &self.codings);
        chosen.filter(|_| !asks_for_as_is)
    }
}

impl OnResponse for Compress {
    fn on_response(&self, answer: &mut Outgoing<'_>) -> Flow {
        let follows = answer.follows();
        // A call's messages have a coding of their own, which is all that its client undoes.
        if answer.first(&header::CONTENT_TYPE).is_some_and(|kind| Dialect::of(kind).is_grpc()) {
            return Flow::Continue(());
        }
        if answer.status() == StatusCode::NOT_MODIFIED {
            // What the client has may be coded, and then has a weak tag, and what the service says of its bytes is not true of it.
            if self.chosen(answer).is_some() {
                answer.changes_body(Validator::Weaken);
            }
            answer.vary("Accept-Encoding");
            return Flow::Continue(());
        }
        if follows == Follows::Part {
            // A part is of the body as it came; it says all the same what would have chosen the whole (RFC 9110, section 15.3.7).
            // Of several parts at once the type is not that of the whole, whose length they do not say either.
            answer.vary("Accept-Encoding");
            return Flow::Continue(());
        }
        let none = follows == Follows::Nothing && answer.head.method != Method::HEAD;
        if none || !self.is_worth_it(answer) {
            return Flow::Continue(());
        }
        answer.vary("Accept-Encoding");
        let Some(coding) = self.chosen(answer) else { return Flow::Continue(()) };
        if follows == Follows::Nothing {
            answer.set(header::CONTENT_ENCODING, coding.name());
            answer.changes_body(Validator::Weaken);
        } else if let Some(encoder) = Allowance::take(coding).and_then(|allowance| Encoder::new(coding, allowance)) {
            answer.set(header::CONTENT_ENCODING, coding.name());
            answer.pieces(Validator::Weaken, Box::new(encoder));
        }
        Flow::Continue(())
    }
}

impl Policy for Compress {
    const NAME: &'static str = "compress";
    const STAGE: Stage = Stage::Shape;
    const SUMMARY: &'static str = "Sends answers in zstd, brotli or gzip to clients that take them so.";
    type Config = CompressConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let before = cx.problems.len();
        let mut types = Vec::new();
        for text in config.types.iter() {
            match Kind::parse(&text.value) {
                Some(kind) => types.push(kind),
                None => {
                    let problem = Problem::error(text.place, format!("`{}` is no media type", text.value));
                    cx.problems.push(problem.hint("write `application/json`, `text/*` or `*+json`"));
                }
            }
        }
        for (place, key, none) in
            [(config.codings.place, "codings", config.codings.is_empty()), (config.types.place, "types", config.types.is_empty())]
        {
            if none {
                cx.problems.push(Problem::error(place, format!("`{key}` is empty: nothing would be compressed")));
            }
        }
        let (codings, min_size) = (config.codings.to_vec(), config.min_size.0);
        (cx.problems.len() == before).then_some(Compress { codings, types, min_size })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.on_response(self);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::head::{Edited, RequestHead};
    use crate::policy::testing::{answered, compile, complaint};

    /// The fields that are changed, for an answer of 2 KB with these fields.
    fn changed(method: &str, accept: &str, status: u16, fields: &str) -> Vec<String> {
        let policy = compile::<Compress>(json!({})).unwrap();
        let head = RequestHead::build(method, "/", &[("accept-encoding", accept)]);
        let edits = answered(&policy, &head, &format!("HTTP/1.1 {status} X\r\n{fields}\r\n")).unwrap();
        Edited::new(&edits).added().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    const LONG: &str = "Content-Type: application/json\r\nContent-Length: 2000\r\n";

    #[test]
    fn get_and_head_agree_and_caches_are_told() {
        let fields = format!("{LONG}ETag: \"a\"\r\n");
        for method in ["GET", "HEAD"] {
            let wanted = ["vary: Accept-Encoding", "content-encoding: zstd", "etag: W/\"a\""];
            assert_eq!(changed(method, "zstd, gzip", 200, &fields), wanted, "{method}");
            let wanted = ["vary: Accept-Encoding", "content-encoding: br", "etag: W/\"a\""];
            assert_eq!(changed(method, "gzip, br", 200, &fields), wanted, "{method}");
            assert_eq!(changed(method, "deflate", 200, &fields), ["vary: Accept-Encoding"], "{method}");
        }
        assert_eq!(changed("GET", "gzip", 304, "ETag: \"a\"\r\n"), ["etag: W/\"a\"", "vary: Accept-Encoding"]);
    }

    #[test]
    fn what_is_not_worth_it_or_must_not_be_changed_stays() {
        for fields in [
            "Content-Type: image/png\r\nContent-Length: 2000\r\n",
            "Content-Type: application/json\r\nContent-Length: 1023\r\n",
            "Content-Type: text/html\r\nContent-Encoding: br\r\n",
            "Content-Type: text/html\r\nCache-Control: public, no-transform\r\n",
            "Content-Length: 2000\r\n",
            "Content-Type: application/grpc+json-not\r\n",
            "Content-Type: application/grpc+json\r\n",
            "Content-Type: application/grpc-web-text+json; charset=utf-8\r\n",
        ] {
            assert_eq!(changed("GET", "gzip", 200, fields), Vec::<String>::new(), "{fields}");
        }
        assert_eq!(changed("GET", "gzip", 206, LONG), ["vary: Accept-Encoding"]);
        assert_eq!(changed("GET", "gzip", 204, LONG), Vec::<String>::new());
        assert_eq!(changed("GET", "gzip", 404, LONG).len(), 2);
    }

    #[test]
    fn types_are_types() {
        let takes = |kind: &str, found: &str| Kind::parse(kind).unwrap().takes(found.as_bytes());
        assert!(takes("Text/*", "text/HTML") && takes("*+JSON", "application/problem+json") && takes("a/b", "A/B"));
        assert!(!takes("text/*", "application/text") && !takes("*+json", "json") && !takes("a/b", "a/bc"));
        for wrong in ["text", "*/*", "text/", "text/html;charset=x", "*+", ""] {
            assert!(complaint::<Compress>(json!({ "types": [wrong] })).contains("media type"), "{wrong}");
        }
        assert!(complaint::<Compress>(json!({ "codings": [] })).contains("empty"));
    }
}
