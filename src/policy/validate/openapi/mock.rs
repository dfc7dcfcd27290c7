//! Answers from a document, where there is no service yet: its examples, or values that are as its schemas say.
//!
//! All of them are made when the configuration is loaded. A client may choose: `Prefer: code=404, example=cat` (RFC 7240).

use std::path::Path;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use pingora_http::ResponseHeader;
use serde_json::Value;

use super::super::media::{MediaType, preference};
use super::document::{Document, Met, Options, Status};
use super::sample::Sampler;
use super::{Base, document};
use crate::head::RequestHead;
use crate::problem::{Problem, Problems};
use crate::reply::Reply;
use crate::route::{Mock, MockConfig};
use crate::schema::Direction;
use crate::value::Spanned;
use crate::wire::encode::is_bodiless;

/// The longest answer, and all of a document's together, in bytes.
const LONGEST: usize = 256 << 10;
const MOST_BYTES: usize = 64 << 20;
/// The most examples of one answer.
const MOST_EXAMPLES: usize = 32;

/// The mocks of a document.
pub struct Mocks {
    document: std::sync::Arc<Document>,
    base: Base,
    /// Clients may choose.
    prefer: bool,
    /// By the operation's number.
    answers: Vec<Vec<Given>>,
}

impl std::fmt::Debug for Mocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mocks").field("operations", &self.answers.len()).finish()
    }
}

impl Given {
    fn has_body(&self) -> bool {
        !self.kind.is_empty()
    }
}

/// One answer.
struct Given {
    status: Status,
    /// The example's name.
    name: Box<str>,
    media: HeaderValue,
    /// The same without parameters; empty where there is no body.
    kind: Box<str>,
    is_json: bool,
    body: Bytes,
}

impl Mocks {
    /// `prefix`: the route's path without `/*`. What is wrong goes to `problems`.
    pub fn compile(config: &Spanned<MockConfig>, prefix: &str, folder: &Path, problems: &mut Problems) -> Option<Mocks> {
        let name = &config.openapi;
        let path = folder.join(&name.value);
        let mut wrong = |message: String| problems.push(Problem::error(name.place, message));
        let text = document::text(&path).map_err(|why| wrong(format!("{} {why}", name.value))).ok()?;
        let yaml = document::is_yaml(&path);
        let (loaded, value) = Document::compile_and_keep(&text, yaml, Options { formats: false, answers: false });
        let (Some(document), Some(value)) = (loaded.document, value) else {
            loaded.faults.iter().for_each(|fault| wrong(fault.said(&name.value)));
            return None;
        };
        let base = config.base.as_ref().map_or(prefix, |base| base.value.as_str());
        let base = Base::parse(base).map_err(|why| wrong(format!("`base`: {why}"))).ok()?;
        let mut total = 0;
        let mut answers = Vec::with_capacity(document.operations.len());
        for operation in &document.operations {
            let sampler = Sampler::new(&value, Direction::ToClient);
            let item = value.get("paths").and_then(|paths| paths.get(&*operation.path)).map(|item| sampler.followed(item));
            let written = item.and_then(|item| item.get(operation.method.as_str().to_ascii_lowercase()));
            let of = written.map(|written| given(&sampler, written)).unwrap_or_default();
            total += of.iter().map(|one| one.body.len()).sum::<usize>();
            answers.push(of);
        }
        if total > MOST_BYTES {
            wrong(format!("the examples of {} take more than 64MiB", name.value));
            return None;
        }
        Some(Mocks { document, base, prefer: config.prefer, answers })
    }

    fn chosen(&self, number: u32, head: &RequestHead) -> Result<(StatusCode, Option<&Given>), Box<Reply>> {
        let all = self.answers.get(number as usize).map_or(&[][..], Vec::as_slice);
        let (code, example) = if self.prefer { preferred(head) } else { (None, None) };
        let wanted = |one: &&Given| code.is_none_or(|code| one.status.takes(code));
        let status = match code {
            Some(code) => code,
            // The first success, in their order.
            None => {
                let success = all.iter().find_map(|one| match one.status {
                    Status::Exact(status) if (200..300).contains(&status) => Some(status),
                    Status::Class(2) | Status::Default => Some(200),
                    _ => None,
                });
                let other = all.first().map(|one| match one.status {
                    Status::Exact(status) => status,
                    Status::Class(class) => class * 100,
                    Status::Default => 200,
                });
                success.or(other).unwrap_or(200)
            }
        };
        let not_there = || {
            let detail = "The document has no such answer: `Prefer` asks for a code or an example that is not in it.";
            Reply::new(StatusCode::NOT_FOUND, "route", "no_example", detail)
        };
        let exact = all.iter().filter(wanted).any(|one| one.status == Status::Exact(status));
        let mut here: Vec<&Given> =
            all.iter().filter(|one| if exact { one.status == Status::Exact(status) } else { one.status.takes(status) }).collect();
        if code.is_some() && here.is_empty() {
            return Err(not_there());
        }
        if let Some(example) = example {
            here.retain(|one| one.name.as_bytes() == example);
            if here.is_empty() {
                return Err(not_there());
            }
        }
        let mut given = here.iter().find(|one| one.is_json).or_else(|| here.iter().find(|one| one.has_body()));
        // The one that the client likes best, the first of several. Who says nothing takes anything.
        let mut best = 0;
        for one in here.iter().filter(|one| one.has_body()) {
            let liked = if head.header("accept").is_some() { preference(head, &one.kind) } else { 1000 };
            if liked > best {
                (best, given) = (liked, Some(one));
            }
        }
        let status = StatusCode::from_u16(status).map_err(|_| not_there())?;
        Ok((status, given.copied()))
    }
}

/// The code and the example that a client asks for.
fn preferred(head: &RequestHead) -> (Option<u16>, Option<&[u8]>) {
    let (mut code, mut example) = (None, None);
    let words = head.header_all("prefer").flat_map(|line| line.split(|byte| matches!(byte, b',' | b';')));
    for word in words {
        let mut halves = word.splitn(2, |byte| *byte == b'=');
        let (name, value) = (halves.next().unwrap_or_default().trim_ascii(), halves.next().unwrap_or_default().trim_ascii());
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        if name.eq_ignore_ascii_case(b"code") {
            code = std::str::from_utf8(value).ok().and_then(|code| code.parse().ok()).filter(|code| (200..=599).contains(code));
        } else if name.eq_ignore_ascii_case(b"example") {
            example = Some(value);
        }
    }
    (code, example)
}

/// Every answer of an operation, in the order of their statuses.
fn given<'v>(sampler: &Sampler<'v>, operation: &'v Value) -> Vec<Given> {
    let mut all = Vec::new();
    for (status, answer) in operation.get("responses").and_then(Value::as_object).into_iter().flatten() {
        let Some(status) = Status::parse(status) else { continue };
        let answer = sampler.followed(answer);
        let content = answer.get("content").and_then(Value::as_object);
        if content.is_none_or(serde_json::Map::is_empty) {
            all.push(Given {
                status,
                name: Box::default(),
                media: HeaderValue::from_static(""),
                kind: Box::default(),
                is_json: false,
                body: Bytes::new(),
            });
        }
        for (media, content) in content.into_iter().flatten() {
            let media = if media.contains('*') { "application/json" } else { media };
            let Some(kind) = MediaType::parse(media.as_bytes()) else { continue };
            let (is_json, kind) = (kind.is_json(), format!("{}/{}", kind.kind, kind.subtype));
            let Ok(name) = HeaderValue::try_from(media) else { continue };
            let is_events = kind == "text/event-stream";
            let mut add = |example: &str, value: &Value| {
                let text = match value {
                    Value::String(text) if !is_json => text.clone(),
                    // One event (WHATWG HTML, section 9.2.6), for that is what the stream's schema is about.
                    other if is_events => format!("data: {other}\n\n"),
                    other => other.to_string(),
                };
                if text.len() <= LONGEST {
                    let (media, kind, name) = (name.clone(), kind.as_str().into(), example.into());
                    all.push(Given { status, name, media, kind, is_json, body: text.into() });
                }
            };
            let examples = content.get("examples").and_then(Value::as_object);
            for (example, written) in examples.into_iter().flatten().take(MOST_EXAMPLES) {
                if let Some(value) = sampler.followed(written).get("value") {
                    add(example, value);
                }
            }
            match (content.get("example"), content.get("schema")) {
                (Some(value), _) => add("", value),
                (None, Some(schema)) if examples.is_none_or(serde_json::Map::is_empty) => {
                    let said = sampler.followed(schema).get("example");
                    add("", &said.cloned().unwrap_or_else(|| sampler.value(schema)));
                }
                // Nothing is known of it but what it is: a text without a letter, a stream without an event, any JSON.
                (None, None) if examples.is_none_or(serde_json::Map::is_empty) => match is_json {
                    true => add("", &Value::Null),
                    false => add("", &Value::String(String::new())),
                },
                _ => {}
            }
        }
    }
    all.sort_by_key(|one| one.status);
    all
}

impl Mock for Mocks {
    fn give(&self, head: &RequestHead) -> Result<pingora_error::Result<(ResponseHeader, Bytes)>, Box<Reply>> {
        let number = match self.base.below(&head.path).map(|path| self.document.meet(&head.method, path)) {
            Some(Met::Operation(number, _)) => number,
            Some(Met::OtherMethod(allow)) => {
                let detail = "The API has this path, but not by this method.";
                let reply = Reply::new(StatusCode::METHOD_NOT_ALLOWED, "route", "method_not_allowed", detail);
                return Err(reply.header(header::ALLOW, allow));
            }
            Some(Met::Nothing) | None => {
                return Err(Reply::new(StatusCode::NOT_FOUND, "route", "no_operation", "The API has no such path."));
            }
        };
        let (status, given) = self.chosen(number, head)?;
        let made = || {
            let mut answer = ResponseHeader::build(status, Some(4))?;
            let bodiless = is_bodiless(status);
            let body = given.filter(|_| !bodiless).map(|given| given.body.clone()).unwrap_or_default();
            if let Some(given) = given.filter(|_| !bodiless) {
                answer.insert_header(header::CONTENT_TYPE, given.media.clone())?;
            }
            if !bodiless {
                answer.insert_header(header::CONTENT_LENGTH, body.len())?;
            }
            let by = if self.prefer { "Prefer, Accept" } else { "Accept" };
            answer.insert_header(header::VARY, HeaderValue::from_static(by))?;
            if head.method != Method::GET && head.method != Method::HEAD {
                answer.insert_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))?;
            }
            Ok((answer, body))
        };
        Ok(made())
    }
}
