//! `openapi`: holds a route to a document of OpenAPI 3.0 or 3.1. Its paths and methods are all that there is; parameters, bodies and, where that is
//! asked for, answers are what it says.
//!
//! | module | what it is for |
//! |---|---|
//! | [`document`], [`read`] | a document, compiled; how it is read |
//! | [`params`], [`body`] | texts that become values: parameters, media types |
//! | [`answers`] | what a service answers |
//! | [`security`] | who may ask |
//! | [`mock`], [`sample`] | answers from the document; values that are as a schema says |
//! | [`place`] | where in a file something is wrong |
//!
//! `servers` is not looked at: where an API is, the route says.

mod answers;
mod body;
mod counts;
pub mod document;
pub mod mock;
mod params;
mod place;
mod read;
pub mod sample;
mod security;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;
use smallvec::SmallVec;

use self::body::Kind;
use self::counts::Counts;
use self::document::{Document, Loaded, Met, Operation, Options};
use self::params::{MOST_PAIRS, pairs};
use self::security::{Needed, Proving, Schemes, Security};
use super::contract::{MOST_TOLD, Mode, steps, told};
use super::json::Limits;
use super::media::{MediaType, UNCODED};
use super::report::{Outcome, Part, Report, Wrong};
use super::request::{LONGER, UNREADABLE};
use crate::context::Context;
use crate::exchange::{Exchange, OperationName};
use crate::head::{BodyFraming, HeaderEdit, RequestHead};
use crate::node::Node;
use crate::policy::{Compile, OnBody, OnRequest, PlanBuilder, Policy, Stage};
use crate::problem::{Problem, Problems, Severity};
use crate::reply::{Flow, Reply};
use crate::route::templates::{Taken, Template};
use crate::schema::{Direction, Violation};
use crate::value::{Size, Spanned};
use crate::wire::coding;

/// The longest body that is looked at, and the longest answer, where nobody says otherwise.
const DEFAULT_MAX_BODY: u64 = 1 << 20;
const DEFAULT_UP_TO: u64 = 1 << 20;
/// The longest answer that may be held back.
const MOST_UP_TO: u64 = 16 << 20;
/// As deep as JSON and XML may be nested.
const DEEPEST: usize = 127;
/// So many faults of a document are told.
const MOST_FAULTS: usize = 50;

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenapiConfig {
    /// The document: OpenAPI 3.0 or 3.1, as YAML (`.yaml`, `.yml`) or JSON, up to 32MiB. A relative name counts from the configuration's folder. It is
    /// read when the configuration is loaded; references stay in it, and nothing is fetched.
    pub file: Spanned<String>,
    /// What stands before the document's paths, as clients see them: `/v1`. Its `servers` are not looked at. Default: the route's path without
    /// `/*`.
    #[serde(default)]
    pub base: Option<Spanned<String>>,
    /// What is done with requests that are not as the document says: refused (`enforce`), counted and let pass (`report`), or nothing (`off`).
    #[serde(default)]
    pub mode: Mode,
    /// What is done with what cannot be served of the document, such as a pattern with lookaround or a reference to another file: the configuration is
    /// refused (`error`), or such an operation is closed (501), and such a pattern not looked at (`skip`). `portcullis openapi check` lists it.
    #[serde(default)]
    pub unsupported: Unsupported,
    /// What is done with a query parameter that the document does not know: it passes (`pass`), or it is refused (`refuse`).
    #[serde(default)]
    pub unknown_query: Unknown,
    /// Whether `format` in schemas asserts something: `date-time`, `date`, `time`, `email`, `hostname`, `ipv4`, `ipv6`, `uri`, `uuid` and `json-pointer`
    /// do then. Default: false.
    #[serde(default)]
    pub formats: bool,
    /// The longest body that is looked at: JSON, forms, XML and text. A longer one is refused with 413. Other bodies are not bounded by this. Default:
    /// 1MiB.
    #[serde(default)]
    pub max_body: Option<Spanned<Size>>,
    /// Whether the document's word on who may ask counts (`security`): an operation that needs a scheme is closed to whoever did not prove who he is by a
    /// method of `authn` that satisfies it. A scheme that none does is a problem of `check`. `off` where the service sees to it. Default: `enforce`.
    #[serde(default)]
    pub security: Security,
    /// By the name of a security scheme: the methods of `authn` that satisfy it, one of them. Default, by the scheme's type: `api_key` for `apiKey`, `basic` for
    /// HTTP Basic, `jwt` or `introspection` for bearer tokens, OAuth 2.0 and OpenID Connect, `mtls` for `mutualTLS`.
    #[serde(default)]
    pub schemes: Schemes,
    /// What is done with answers that are not as the document says: clients get 502 instead (`enforce`), or they go out and are counted
    /// (`report`). Default: `off`. Answers are held back until they are whole then.
    #[serde(default)]
    pub answers: Option<Mode>,
    /// The longest answer that is looked at, up to 16MiB. A longer one is not as the document says. Default: 1MiB.
    #[serde(default)]
    pub answers_up_to: Option<Spanned<Size>>,
}

/// See [`OpenapiConfig::unsupported`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unsupported {
    #[default]
    Error,
    Skip,
}

/// See [`OpenapiConfig::unknown_query`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    #[default]
    Pass,
    Refuse,
}

/// The compiled policy.
pub struct Openapi(Arc<Contract>);

struct Contract {
    document: Arc<Document>,
    /// Held, so that another generation finds it in the ledger.
    _kept: Kept,
    base: Base,
    mode: Mode,
    refuses_unknown_query: bool,
    /// Nobody wrote a bound: what is longer passes where nothing is refused.
    passes_longer: bool,
    max_body: usize,
    limits: Limits,
    answers: Mode,
    up_to: usize,
    /// Who may ask, where the document says it.
    needed: Option<Needed>,
    report: Arc<Report>,
    counts: Counts,
}

/// What stands before the document's paths: segments in the spelling of requests, or any.
pub struct Base(Vec<Option<Box<str>>>);

impl Base {
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub fn parse(text: &str) -> Result<Base, String> {
        let text = text.trim_end_matches('/');
        if text.is_empty() {
            return Ok(Base(Vec::new()));
        }
        Ok(Base(Template::parse(text)?.segments()))
    }

    /// The path below it.
    pub fn below<'a>(&self, path: &'a str) -> Option<&'a str> {
        let mut rest = path;
        for segment in &self.0 {
            let text = rest.strip_prefix('/')?;
            let end = memchr::memchr(b'/', text.as_bytes()).unwrap_or(text.len());
            let (here, below) = text.split_at_checked(end)?;
            if segment.as_ref().is_some_and(|segment| **segment != *here) {
                return None;
            }
            rest = below;
        }
        Some(rest)
    }
}

/// The step that looks for the operation; and, in a contract that is enforced, at all but the body.
struct Meeting(Arc<Contract>);
/// The step that looks at the parameters once it is known who asks: of a contract on trial.
struct Late(Arc<Contract>);
/// The step that looks at the body.
struct Body(Arc<Contract>);

fn refuse(status: StatusCode, reason: &'static str, detail: impl Into<std::borrow::Cow<'static, str>>) -> Box<Reply> {
    Reply::new(status, Openapi::NAME, reason, detail)
}

impl Contract {
    fn meet<'a>(&'a self, head: &RequestHead, path: &'a str) -> Met<'a> {
        self.base.below(path).map_or(Met::Nothing, |path| self.document.meet(&head.method, path))
    }

    /// The operation, and what its path's places took, under every reading of the path.
    fn find<'a>(&'a self, head: &'a RequestHead, exchange: &'a Exchange) -> Result<(u32, Places<'a>), Box<Reply>> {
        let (number, taken) = match self.meet(head, &head.path) {
            Met::Operation(number, taken) => (number, taken),
            Met::OtherMethod(allow) => {
                let detail = "The API has this path, but not by this method.";
                return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).header(header::ALLOW, allow));
            }
            Met::Nothing => return Err(refuse(StatusCode::NOT_FOUND, "no_operation", "The API has no such path.")),
        };
        let mut places: Places<'a> = SmallVec::new();
        places.push(taken);
        for reading in exchange.written.iter().flat_map(|written| &written.readings).filter(|reading| !reading.destination) {
            match self.meet(head, &reading.path) {
                Met::Operation(other, taken) if other == number => places.push(taken),
                _ => return Err(Reply::ambiguous_path()),
            }
        }
        if self.document.operations.get(number as usize).is_none_or(|operation| operation.lost) {
            let detail = "This operation cannot be held to its contract, and is closed.";
            return Err(refuse(StatusCode::NOT_IMPLEMENTED, "operation_unsupported", detail));
        }
        Ok((number, places))
    }

    fn operation(&self, exchange: &Exchange) -> Option<(u32, &Operation)> {
        let number = exchange.documented?;
        Some((number, self.document.operations.get(number as usize)?))
    }

    /// What is wrong with parameters.
    fn params<'a>(&'a self, operation: &'a Operation, head: &RequestHead, places: &Places<'_>, wrong: &mut Vec<Wrong<'a>>) {
        let schema = &self.document.schema;
        let query = head.query().unwrap_or_default();
        let Some(query) = pairs(query) else {
            let violation = Violation::whole("maxProperties", format!("must have at most {MOST_PAIRS} parameters"));
            wrong.push(Wrong::new(Part::Query, "", violation));
            return;
        };
        let nothing = Taken::new();
        for param in &operation.params {
            let readings = if param.part == Part::Path { places.as_slice() } else { places.get(..1).unwrap_or_default() };
            for taken in if readings.is_empty() { std::slice::from_ref(&nothing) } else { readings } {
                if wrong.len() >= MOST_TOLD {
                    return;
                }
                let mut add = |violation| wrong.push(Wrong::new(param.part, &param.name, violation));
                let found = match param.read(schema, head, taken, &query, &operation.params) {
                    Ok(None) if param.required => {
                        add(Violation::whole("required", "must be there"));
                        continue;
                    }
                    Ok(None) => continue,
                    Ok(Some(found)) => found,
                    Err(detail) => {
                        add(Violation::whole("style", detail));
                        continue;
                    }
                };
                let (Some(node), false) = (param.node, param.is_rightly_empty(&query)) else { continue };
                let length = head.query_bytes().map_or(0, <[u8]>::len) + head.path.len();
                let check = |value, most| schema.broken_at(node, value, steps(length), most, Direction::ToService);
                if found.len() > 1 && found.iter().any(|value| check(value, 1).is_none()) {
                    continue;
                }
                let told = found.first().and_then(|first| Some((first, check(first, MOST_TOLD)?)));
                if let Some((value, told)) = told {
                    let each = told.violations.into_iter();
                    wrong.extend(each.map(|violation| Wrong::in_value(param.part, &param.name, violation, value, schema)));
                }
            }
        }
        if self.refuses_unknown_query {
            let params = || operation.params.iter().filter(|param| param.part == Part::Query);
            let known = |name: &str| params().any(|param| param.takes_name(schema, name));
            if query.iter().any(|(name, _)| !known(name)) {
                // Its name is the client's.
                wrong.push(Wrong::new(Part::Query, "", Violation::whole("unknown", "has a parameter that is not known")));
            }
        }
        wrong.truncate(MOST_TOLD);
    }

    /// What is wrong with a body before it is read. `Err` is a refusal of its own.
    fn body_head<'a>(&self, operation: &'a Operation, head: &RequestHead, wrong: &mut Vec<Wrong<'a>>) -> Result<(), Box<Reply>> {
        let has_body = head.body.is_some();
        let mut add = |violation| wrong.push(Wrong::new(Part::Body, "", violation));
        let Some(body) = &operation.body else {
            if has_body {
                add(Violation::whole("requestBody", "must not be there: the operation takes none"));
            }
            return Ok(());
        };
        if !has_body {
            if body.required {
                add(Violation::whole("required", "must be there"));
            }
            return Ok(());
        }
        let mut types = head.header_all("content-type");
        let media = types.next().and_then(MediaType::parse);
        if types.next().is_some() {
            add(Violation::whole("contentType", "must have one Content-Type"));
            return Ok(());
        }
        let unsupported = |reason, detail: &'static str| {
            Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason, detail).header(header::ACCEPT, body.accept.clone()))
        };
        let Some(media) = media else { return unsupported("content_type_missing", "The body needs a Content-Type.") };
        if !body.content.iter().any(|one| one.pattern.matches(&media)) {
            return unsupported("content_type_unsupported", "This Content-Type is not taken here.");
        }
        if Kind::of(&media).is_none() {
            return Ok(());
        }
        if !media.is_utf8() {
            return unsupported("charset_unsupported", "Text is taken in UTF-8 only.");
        }
        if coding::is_unknown(head) {
            let detail = "Bodies are taken in the codings that Accept-Encoding names.";
            let reply = refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding_unsupported", detail);
            return Err(reply.header(header::ACCEPT_ENCODING, coding::TAKEN));
        }
        if self.lets_pass(head) {
            add(Violation::whole(LONGER.0, LONGER.1));
        }
        Ok(())
    }

    /// All but the body.
    fn judge(&self, head: &RequestHead, exchange: &Exchange, number: u32, places: &Places<'_>) -> Flow {
        let Some(operation) = self.document.operations.get(number as usize) else { return Flow::Continue(()) };
        let mut wrong = Vec::new();
        self.params(operation, head, places, &mut wrong);
        if let Err(reply) = self.body_head(operation, head, &mut wrong) {
            // What is wrong beside it is told first: it may have to be put right anyway.
            if self.mode == Mode::Enforce && wrong.is_empty() {
                self.counts.broken(&operation.id, number, Outcome::Refused);
                return reply.refuse();
            }
            wrong.push(Wrong::new(Part::Body, "", Violation::whole("contentType", reply.detail.into_owned())));
        }
        self.verdict(wrong, false, exchange, number, operation)
    }

    fn verdict(&self, wrong: Vec<Wrong<'_>>, more: bool, exchange: &Exchange, number: u32, operation: &Operation) -> Flow {
        if wrong.is_empty() {
            return Flow::Continue(());
        }
        let outcome = if self.mode == Mode::Report { Outcome::Reported } else { Outcome::Refused };
        let consumer = exchange.consumer().map(|name| &**name);
        for one in &wrong {
            self.report.note_of(&operation.id, one, consumer);
        }
        self.report.count(wrong.first().map_or(Part::Body, |one| one.part), outcome);
        self.counts.broken(&operation.id, number, outcome);
        if outcome == Outcome::Reported {
            return Flow::Continue(());
        }
        let detail = "The request is not what is taken here: `errors` says where.";
        let mut reply = refuse(StatusCode::BAD_REQUEST, "contract_broken", detail);
        reply.members = Some(told(&wrong, more || wrong.len() >= MOST_TOLD).into());
        reply.refuse()
    }

    /// Tells of a body that was not looked at, of a contract on trial: it refuses nobody.
    fn note_body(&self, (keyword, detail): (&'static str, &'static str), exchange: &Exchange) {
        let Some((number, operation)) = self.operation(exchange) else { return };
        let wrong = vec![Wrong::new(Part::Body, "", Violation::whole(keyword, detail))];
        let _ = self.verdict(wrong, false, exchange, number, operation);
    }

    /// The media type of a body that is looked at, and what it is.
    fn looks_at<'a>(&'a self, operation: &'a Operation, head: &'a RequestHead) -> Option<(&'a body::Media, MediaType<'a>, Kind)> {
        let media = head.header("content-type").and_then(MediaType::parse)?;
        let one = operation.body.as_ref()?.content.iter().find(|one| one.pattern.matches(&media))?;
        Some((one, media, Kind::of(&media)?))
    }

    /// Whether its length says that it is let pass, because it is too long to be looked at.
    fn lets_pass(&self, head: &RequestHead) -> bool {
        self.passes_longer && matches!(head.body, BodyFraming::Length(length) if length > self.max_body as u64)
    }
}

/// What the places of a path took, under each of its readings.
type Places<'a> = SmallVec<[Taken<'a>; 1]>;

impl OnRequest for Meeting {
    fn asks_for_body(&self) -> bool {
        self.0.mode == Mode::Enforce
    }

    fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        let contract = &*self.0;
        let (number, places) = match contract.find(head, exchange) {
            Ok(found) => found,
            Err(reply) if contract.mode == Mode::Report && reply.reason != "operation_unsupported" => {
                let consumer = exchange.consumer().map(|name| &**name);
                let (keyword, detail) = match reply.status {
                    StatusCode::METHOD_NOT_ALLOWED => ("method", "must be by a method that the path has"),
                    _ => ("paths", "must be one of the document's"),
                };
                contract.report.note(&Wrong::new(Part::Path, "", Violation::whole(keyword, detail)), consumer);
                contract.report.count(Part::Path, Outcome::Reported);
                return Flow::Continue(());
            }
            Err(reply) if contract.mode == Mode::Enforce => return reply.refuse(),
            Err(_) => return Flow::Continue(()),
        };
        let name = OperationName { names: contract.document.clone(), number };
        contract.counts.met(&name, number);
        let flow =
            if contract.mode == Mode::Enforce { contract.judge(head, exchange, number, &places) } else { Flow::Continue(()) };
        drop(places);
        if contract.answers != Mode::Off {
            exchange.to_upstream.push(HeaderEdit::Set(header::ACCEPT_ENCODING, UNCODED));
            let operation = contract.document.operations.get(number as usize);
            if contract.answers == Mode::Enforce && operation.is_some_and(answers::is_looked_into) {
                // Of a part nobody can say whether it is of what was agreed on.
                exchange.to_upstream.extend([header::RANGE, header::IF_RANGE].map(HeaderEdit::Remove));
            }
        }
        let path = contract.document.operations.get(number as usize).map_or("", |operation| &operation.path);
        exchange.ends_in_value = path.ends_with('}');
        exchange.operation = Some(name);
        exchange.documented = Some(number);
        flow
    }
}

impl OnRequest for Late {
    fn asks_for_body(&self) -> bool {
        true
    }

    fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        let contract = &*self.0;
        match contract.find(head, exchange) {
            Ok((number, places)) if exchange.documented.is_some() => contract.judge(head, exchange, number, &places),
            _ => Flow::Continue(()),
        }
    }
}

impl OnBody for Body {
    fn bound(&self) -> usize {
        self.0.max_body
    }

    fn wants(&self, head: &RequestHead) -> bool {
        let contract = &*self.0;
        let has_none = !head.body.is_some();
        if has_none || coding::is_unknown(head) || contract.lets_pass(head) {
            return false;
        }
        match contract.meet(head, &head.path) {
            Met::Operation(number, _) => {
                let operation = contract.document.operations.get(number as usize);
                operation.is_some_and(|operation| contract.looks_at(operation, head).is_some())
            }
            _ => false,
        }
    }

    fn passes_longer(&self) -> bool {
        self.0.passes_longer
    }

    fn on_longer(&self, exchange: &mut Exchange) {
        self.0.note_body(LONGER, exchange);
    }

    fn reads_content(&self) -> bool {
        true
    }

    fn on_unreadable(&self, _: &RequestHead, exchange: &mut Exchange) -> Option<Flow> {
        let on_trial = self.0.mode == Mode::Report;
        on_trial.then(|| {
            self.0.note_body(UNREADABLE, exchange);
            Flow::Continue(())
        })
    }

    fn on_body(&self, head: &RequestHead, body: &Bytes, exchange: &mut Exchange) -> Flow {
        let contract = &*self.0;
        let Some((number, operation)) = contract.operation(exchange) else { return Flow::Continue(()) };
        let Some((one, media, kind)) = contract.looks_at(operation, head) else { return Flow::Continue(()) };
        let mut wrong = Vec::new();
        let mut more = false;
        let mut add = |violation| wrong.push(Wrong::new(Part::Body, "", violation));
        let schema = &contract.document.schema;
        let is_required = operation.body.as_ref().is_some_and(|body| body.required);
        // Chunked, and nothing in it.
        if body.is_empty() {
            if is_required {
                add(Violation::whole("required", "must be there"));
            }
            return contract.verdict(wrong, false, exchange, number, operation);
        }
        match one.read(kind, schema, &media, body, &contract.limits) {
            Err(malformed) => add(body::violation(malformed)),
            Ok(Some(value)) => {
                let told =
                    one.node.and_then(|node| schema.broken_at(node, &value, steps(body.len()), MOST_TOLD, Direction::ToService));
                if let Some(told) = told {
                    more = told.more;
                    let each = told.violations.into_iter();
                    wrong.extend(each.map(|violation| Wrong::in_value(Part::Body, "", violation, &value, schema)));
                }
            }
            Ok(None) => {}
        }
        contract.verdict(wrong, more, exchange, number, operation)
    }
}

/// A document that is shared by those who hold it.
pub type Kept = Arc<OnceLock<Loaded>>;

/// A document, from the ledger where another generation has it already.
pub fn load(name: &Spanned<String>, options: Options, cx: &Context<'_>) -> Kept {
    let path = cx.base.join(&name.value);
    let text = match document::text(&path) {
        Ok(text) => text,
        Err(why) => {
            let loaded = Loaded { document: None, faults: vec![document::Fault::whole(why, None)] };
            return Arc::new(OnceLock::from(loaded));
        }
    };
    let yaml = document::is_yaml(&path);
    let hash = blake3::hash(text.as_bytes()).to_hex();
    // Compiled outside of the ledger, which others need meanwhile.
    let kept: Kept = cx.ledger.keep(&format!("openapi:{hash}:{yaml}:{options:?}"), OnceLock::new);
    kept.get_or_init(|| Document::compile(&text, yaml, options));
    kept
}

/// Says what is wrong with a document. Whether it can be served all the same.
pub fn say(name: &Spanned<String>, loaded: &Loaded, unsupported: Unsupported, cx: &mut Context<'_>) -> bool {
    let skips = unsupported == Unsupported::Skip && loaded.document.is_some();
    for fault in loaded.faults.iter().take(MOST_FAULTS) {
        let severity = if skips { Severity::Warning } else { Severity::Error };
        let mut problem = Problem { severity, place: name.place, message: fault.said(&name.value), hint: None };
        problem.hint = match fault.hint {
            Some(hint) => Some(hint.to_owned()),
            None if skips => None,
            None if loaded.document.is_none() => None,
            None if fault.only_pattern => {
                Some("`unsupported: skip` serves the document without looking at the pattern".to_owned())
            }
            None => Some("`unsupported: skip` serves the document without these operations".to_owned()),
        };
        cx.problems.push(problem);
    }
    if loaded.faults.len() > MOST_FAULTS {
        let more = format!("{}: {} more faults", name.value, loaded.faults.len() - MOST_FAULTS);
        cx.problems.push(Problem::warning(name.place, more).hint(format!("portcullis openapi check {}", name.value)));
    }
    loaded.document.is_some() && (skips || loaded.faults.is_empty())
}

/// The bound that was written, or the default.
fn size(key: &str, written: Option<&Spanned<Size>>, default: u64, most: u64, cx: &mut Compile<'_>) -> Option<usize> {
    let size = written.map_or(default, |size| size.value.0);
    match usize::try_from(size) {
        Ok(size) if (1..=most).contains(&(size as u64)) => Some(size),
        _ => {
            let place = written.map_or(cx.place, |size| size.place);
            cx.problems.push(Problem::error(place, format!("`{key}` is from 1 to {}", Size(most))));
            None
        }
    }
}

impl Openapi {
    /// Says which security schemes of the document nothing proves on a route with this `authn`.
    pub fn look_for_proof(&self, authn: Option<&Node>, problems: &mut Problems) {
        if let Some(needed) = &self.0.needed {
            needed.look(&self.0.document, authn, problems);
            if self.0.mode == Mode::Report {
                needed.look_at_trial(&self.0.document, authn, problems);
            }
        }
    }
}

impl Policy for Openapi {
    const NAME: &'static str = "openapi";
    const STAGE: Stage = Stage::Validate;
    const SUMMARY: &'static str =
        "Holds a route to a document of OpenAPI: paths, methods, parameters, bodies, answers (400, 404, 405, 413, 415, 502).";
    type Config = OpenapiConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let answers = config.answers.unwrap_or(Mode::Off);
        let max_body = size("max_body", config.max_body.as_ref(), DEFAULT_MAX_BODY, 1 << 30, cx);
        let up_to = size("answers_up_to", config.answers_up_to.as_ref(), DEFAULT_UP_TO, MOST_UP_TO, cx);
        let written = config.base.as_ref().map(|base| (base.value.as_str(), base.place));
        let (base, place) = written.unwrap_or((cx.prefix, cx.place));
        let base = Base::parse(base).map_err(|why| cx.problems.push(Problem::error(place, format!("`base`: {why}")))).ok();
        let options = Options { formats: config.formats, answers: answers != Mode::Off };
        let loaded = load(&config.file, options, &cx.context());
        let found = loaded.get()?;
        if !say(&config.file, found, config.unsupported, &mut cx.context()) {
            return None;
        }
        let document = found.document.clone()?;
        let needed = (config.security == Security::Enforce && config.mode != Mode::Off)
            .then(|| Needed::compile(&document, &config.schemes, config.file.place, cx.problems));
        Some(Openapi(Arc::new(Contract {
            needed,
            counts: Counts::of(document.operations.len(), cx),
            document,
            _kept: loaded,
            base: base?,
            mode: config.mode,
            refuses_unknown_query: config.unknown_query == Unknown::Refuse,
            passes_longer: config.mode == Mode::Report && config.max_body.is_none(),
            max_body: max_body?,
            limits: Limits { unique: true, ..Limits::deep(DEEPEST) },
            answers,
            up_to: up_to?,
            report: Report::of(cx.ledger, cx.tallies, cx.scope),
        })))
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        let contract = &self.0;
        if contract.mode == Mode::Off && contract.answers == Mode::Off {
            return;
        }
        plan.options().by_readings = true;
        plan.options().openapi = Some(self.clone());
        plan.on_request(Arc::new(Meeting(contract.clone())));
        if contract.needed.is_some() {
            plan.on_request_at(Stage::Authz, Arc::new(Proving(contract.clone())));
        }
        if contract.mode == Mode::Report {
            plan.on_request_at(Stage::Authz, Arc::new(Late(contract.clone())));
        }
        if contract.mode != Mode::Off {
            plan.on_body(Arc::new(Body(contract.clone())));
        }
        if contract.answers != Mode::Off {
            plan.holds_answers();
            plan.on_response_as_seen(Arc::new(answers::Answers(contract.clone())));
        }
    }
}
