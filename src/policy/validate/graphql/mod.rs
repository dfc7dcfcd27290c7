//! `graphql`: what a route that carries GraphQL lets clients ask for: how deep, how wide, how much at once, and which operations.
//!
//! No schema is needed: a document is measured as it is written, with its fragments where they are spread ([`document`]). What the service
//! could read in another way than this does is refused: a name twice, a document in the query beside one in the body, an upgrade behind
//! which nobody looks.
//!
//! Deliberately not here: whether a document fits the service's schema, and who may ask for which field, which only the service knows;
//! operations over WebSockets.

mod document;
mod persisted;
pub mod request;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use super::media::{MediaType, ranges};
use crate::exchange::{Exchange, OperationName, OperationNames};
use crate::head::RequestHead;
use crate::path;
use crate::policy::{Compile, OnBody, OnRequest, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::reply::{Flow, Page, Reply, push_json};
use crate::tally::Counter;
use crate::value::{Size, Spanned, count_within};
use crate::wire::coding;
use document::{Kind, Measured, Weights, Wrong};
use persisted::Persisted;
use request::{Asked, Body};

const DEFAULT_MAX_BODY: u64 = 1 << 20;
/// What clients accept that want to be told of errors in GraphQL's own form.
pub const RESPONSE: &str = "application/graphql-response+json";
pub const JSON: &str = "application/json";

/// Whether a client is told of GraphQL's errors by the status, too: whoever does not ask for plain JSON alone, or rather.
pub fn prefers_response(head: &RequestHead) -> bool {
    let weight = |kind: &str| {
        let named = ranges(head).filter(|(range, _)| range.eq_ignore_ascii_case(kind.as_bytes())).map(|(_, weight)| weight);
        named.reduce(|one, other| if other > one { other } else { one })
    };
    match (weight(RESPONSE), weight(JSON)) {
        (Some(response), Some(json)) => response >= json,
        (None, Some(_)) => false,
        _ => true,
    }
}

/// What they are told.
const PAGE: &str = r#"{"errors":[{"message":"{{detail}}","extensions":{"code":"{{reason}}","policy":"{{policy}}","request_id":"{{request_id}}"}}]}"#;

/// Holds requests of GraphQL to bounds, without a schema: `POST` with JSON, and `GET` with a query. Documents are measured as they are
/// written, fragments wherever they are spread; what nobody could measure is refused.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GraphqlConfig {
    /// How deep fields may stand in each other, 1 to 200. Default: 15.
    pub max_depth: Option<Spanned<u32>>,
    /// The most aliases in an operation, 0 to 100000. Default: 30.
    pub max_aliases: Option<Spanned<u32>>,
    /// The most fields of an operation itself, 1 to 100000. Default: 30.
    pub max_root_fields: Option<Spanned<u32>>,
    /// The most directives in an operation, 0 to 100000. Default: 50.
    pub max_directives: Option<Spanned<u32>>,
    /// The most tokens in a document, blanks and comments included, 10 to 100000. Default: 10000.
    pub max_tokens: Option<Spanned<u32>>,
    /// The most operations in one request, an array of them, 1 to 100. Default: 1, and an array is refused.
    pub batch: Option<Spanned<u32>>,
    /// Whether clients may ask for the schema (`__schema`, `__type`). Default: true.
    pub introspection: Option<bool>,
    /// Documents that are known.
    pub persisted: Option<PersistedConfig>,
    /// What operations cost, and the most that one request may. It is also what a `rate_limit` with `cost: graphql` counts.
    pub cost: Option<CostConfig>,
    /// The longest body; a longer one is refused with 413. Default: 1MiB.
    pub max_body: Option<Spanned<Size>>,
}

/// Documents that are known before anybody asks for them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PersistedConfig {
    /// A file of JSON: a manifest of persisted queries as Apollo's tools write it, or an object whose values are documents. Clients name a
    /// document by its SHA-256 (`extensions.persistedQuery.sha256Hash`), and the service gets it whole.
    pub file: Spanned<String>,
    /// Whether nothing else may be asked for. Default: true.
    pub only: Option<bool>,
}

/// What operations cost.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CostConfig {
    /// The most that one request may cost, 1 to 1000000000.
    pub max: Spanned<u32>,
    /// What a field costs that has fields of its own; others cost nothing. Default: 1.
    #[serde(default)]
    pub default: Option<u32>,
    /// What fields of these names cost, wherever they stand.
    #[serde(default)]
    pub fields: BTreeMap<String, u32>,
    /// Arguments that say how many there will be of a field: it, and all that stands in it, cost so many times as much. Default:
    /// `[first, last, limit]`.
    #[serde(default)]
    pub list_arguments: Option<Vec<String>>,
    /// The most that such an argument counts, and what counts where it is no number, 1 to 1000000. Default: 1000.
    #[serde(default)]
    pub max_list: Option<Spanned<u32>>,
}

/// The compiled policy.
pub struct Graphql {
    depth: u32,
    aliases: u32,
    root_fields: u32,
    directives: u32,
    tokens: usize,
    batch: usize,
    introspection: bool,
    persisted: Option<Persisted>,
    only_persisted: bool,
    weights: Weights,
    most_cost: u64,
    max_body: usize,
    page: Arc<Page>,
    json_page: Arc<Page>,
    counts: [Arc<Counter>; 3],
}

/// What is told of a request's operations.
struct Told {
    name: String,
    cost: u64,
    only_queries: bool,
}

impl OperationNames for Told {
    fn operation_name(&self, _: u32) -> &str {
        &self.name
    }

    fn operation_cost(&self, _: u32) -> Option<u64> {
        Some(self.cost)
    }

    fn may_change(&self, _: u32) -> bool {
        !self.only_queries
    }
}

fn refuse(status: StatusCode, reason: &'static str, detail: &'static str) -> Box<Reply> {
    Reply::new(status, Graphql::NAME, reason, detail)
}

impl Graphql {
    /// What a refusal looks like to a client that prefers GraphQL's own form.
    /// `always`: the route answers GraphQL by itself, and nothing else is expected of it.
    pub fn page(&self, head: &RequestHead, status: StatusCode, always: bool) -> Option<Arc<Page>> {
        let accepts = ranges(head).any(|(range, _)| range.eq_ignore_ascii_case(RESPONSE.as_bytes()));
        let page = match accepts || always && prefers_response(head) {
            true => &self.page,
            false if always => &self.json_page,
            false => return None,
        };
        (status.is_client_error() || status.is_server_error()).then(|| page.clone())
    }

    /// The most tokens of a document.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The document that is asked for. The service has to be told it where the request names it by its hash alone.
    fn document<'a>(&'a self, asked: &'a Asked) -> Result<&'a str, Box<Reply>> {
        let known = |hash: &str| self.persisted.as_ref().and_then(|persisted| persisted.get(hash));
        match (&asked.query, &asked.hash) {
            (None, None) => Err(refuse(StatusCode::BAD_REQUEST, "no_query", "The request has no document.")),
            // Clients of Apollo's send the document along then.
            (None, Some(hash)) => match known(hash) {
                Some(document) => Ok(document),
                None if self.only_persisted => Err(Self::not_persisted()),
                None => Err(refuse(StatusCode::BAD_REQUEST, "persisted_query_not_found", "PersistedQueryNotFound")),
            },
            (Some(query), hash) => {
                let looks = hash.is_some() || self.only_persisted;
                let own = if looks { persisted::hash(query) } else { String::new() };
                if hash.as_ref().is_some_and(|hash| *hash != own) {
                    let detail = "The document is not the one of the hash beside it.";
                    return Err(refuse(StatusCode::BAD_REQUEST, "hash_mismatch", detail));
                }
                if self.only_persisted && known(&own).is_none() {
                    return Err(Self::not_persisted());
                }
                Ok(query)
            }
        }
    }

    fn not_persisted() -> Box<Reply> {
        refuse(StatusCode::BAD_REQUEST, "not_persisted", "Only operations that are known beforehand can be asked for.")
    }

    fn measured(&self, document: &str, asked: &Asked) -> Result<Measured, Box<Reply>> {
        let bad = |reason, detail| Err(refuse(StatusCode::BAD_REQUEST, reason, detail));
        let measured =
            document::measure(document, self.tokens, asked.operation.as_deref(), asked.variables.as_ref(), &self.weights);
        let measured = match measured {
            Ok(measured) => measured,
            Err(Wrong::Syntax) => return bad("graphql_syntax", "The document is not GraphQL."),
            Err(Wrong::TooManyTokens) => return bad("too_many_tokens", "The document is too long."),
            Err(Wrong::TooDeep) => return bad("query_too_deep", "The document is nested too deeply."),
            Err(Wrong::Schema) => return bad("graphql_syntax", "The document defines types, and is no request."),
            Err(Wrong::Circle) => return bad("fragment_circle", "A fragment of the document spreads itself."),
            Err(Wrong::Fragment) => return bad("unknown_fragment", "A fragment of the document is not there, or twice."),
            Err(Wrong::Operation) => {
                return bad("unknown_operation", "The document has no such operation, or the request does not say which.");
            }
        };
        let sum = measured.sum;
        if sum.depth > self.depth {
            return bad("query_too_deep", "The document is nested too deeply.");
        }
        if sum.aliases > self.aliases {
            return bad("too_many_aliases", "The document has too many aliases.");
        }
        if sum.fields > self.root_fields {
            return bad("too_many_root_fields", "An operation of the document has too many fields.");
        }
        if sum.directives > self.directives {
            return bad("too_many_directives", "The document has too many directives.");
        }
        if sum.introspects && !self.introspection {
            return bad("introspection", "The schema cannot be asked for here.");
        }
        Ok(measured)
    }

    fn look(&self, all: &[Asked], exchange: &mut Exchange) -> Result<Kind, Box<Reply>> {
        let (mut cost, mut first, mut only_queries) = (0_u64, None, true);
        for asked in all {
            let measured = self.measured(self.document(asked)?, asked)?;
            // A leaf costs nothing, and its operation all the same: it is done.
            cost = cost.saturating_add(measured.cost.max(1));
            only_queries &= measured.kind == Kind::Query;
            for (kind, count) in Kind::ALL.iter().zip(&self.counts) {
                if *kind == measured.kind {
                    count.add(1);
                }
            }
            first.get_or_insert((measured.kind, measured.name));
        }
        let Some((kind, name)) = first else {
            return Err(refuse(StatusCode::BAD_REQUEST, "no_query", "The request has no document."));
        };
        if cost > self.most_cost {
            return Err(refuse(StatusCode::BAD_REQUEST, "query_too_costly", "The request costs too much."));
        }
        let mut told = kind.word().to_owned();
        if let Some(name) = name {
            told = format!("{told} {name}");
        }
        if all.len() > 1 {
            told = format!("{told} +{}", all.len() - 1);
        }
        exchange.operation = Some(OperationName { names: Arc::new(Told { name: told, cost, only_queries }), number: 0 });
        Ok(kind)
    }

    fn of_get(&self, head: &RequestHead, exchange: &mut Exchange) -> Result<(), Box<Reply>> {
        if head.body.is_some() {
            return Err(refuse(StatusCode::BAD_REQUEST, "body_with_get", "A query in the URL has no body."));
        }
        let query = head.query().unwrap_or_default();
        let Some(asked) = request::of_query(query) else { return Err(malformed()) };
        let added = match &asked.query {
            Some(_) => None,
            None => {
                let document = self.document(&asked)?;
                if request::names_document(query) {
                    let detail = "A document is named by its hash, or is there, and is not left empty.";
                    return Err(refuse(StatusCode::BAD_REQUEST, "no_query", detail));
                }
                Some(path::value(document.as_bytes()))
            }
        };
        let asked = [asked];
        if self.look(&asked, exchange)? == Kind::Mutation {
            let reply = refuse(StatusCode::METHOD_NOT_ALLOWED, "mutation_with_get", "What changes something is sent with POST.");
            return Err(reply.header(header::ALLOW, HeaderValue::from_static("POST")));
        }
        if let Some(added) = added {
            let target = exchange.upstream_target.take().unwrap_or_else(|| format!("{}?{query}", exchange.sent_path(head)));
            exchange.upstream_target = Some(format!("{target}&query={added}"));
        }
        Ok(())
    }

    fn of_body(&self, body: &Bytes, exchange: &mut Exchange) -> Result<(), Box<Reply>> {
        let (all, is_one) = match request::of_body(body) {
            None => return Err(malformed()),
            Some(Body::One(asked)) => (vec![asked], true),
            Some(Body::Many(all)) => (all, false),
        };
        if !is_one && (self.batch == 1 || all.len() > self.batch) {
            return Err(refuse(StatusCode::BAD_REQUEST, "batch_too_large", "So many operations cannot be asked for at once."));
        }
        self.look(&all, exchange)?;
        for asked in all.iter().filter(|asked| asked.query.is_none()) {
            let document = self.document(asked)?;
            // It is an object with at least one member.
            let Some(at) = memchr::memchr(b'{', body).filter(|_| is_one && !says_query(body)) else {
                let detail = "An operation of several has to come with its document.";
                return Err(refuse(StatusCode::BAD_REQUEST, "no_query", detail));
            };
            let (before, behind) = body.split_at(at + 1);
            let mut filled = Vec::with_capacity(body.len() + document.len() + 16);
            filled.extend_from_slice(before);
            filled.extend_from_slice(b"\"query\":");
            push_json(&mut filled, document);
            filled.push(b',');
            filled.extend_from_slice(behind);
            exchange.new_body = Some(filled.into());
        }
        Ok(())
    }
}

/// Whether there is a member of that name, though it says nothing.
fn says_query(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|value| value.get("query").is_some())
}

fn malformed() -> Box<Reply> {
    refuse(StatusCode::BAD_REQUEST, "malformed_request", "This is no request of GraphQL over HTTP.")
}

/// What can be said before the body is there.
struct Before(Arc<Graphql>);

impl OnRequest for Before {
    fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        if head.upgrade {
            let detail = "Operations over another protocol cannot be looked at, and are not passed on.";
            return refuse(StatusCode::BAD_REQUEST, "not_looked_at", detail).refuse();
        }
        match head.method {
            Method::GET | Method::HEAD => match self.0.of_get(head, exchange) {
                Ok(()) => Flow::Continue(()),
                Err(reply) => reply.refuse(),
            },
            Method::POST => {
                if head.query().is_some_and(request::is_in_query) {
                    let detail = "The request stands in the body, or in the URL, and not in both.";
                    return refuse(StatusCode::BAD_REQUEST, "query_in_url", detail).refuse();
                }
                let mut types = head.header_all("content-type");
                let media = types.next().and_then(MediaType::parse);
                let fits =
                    media.is_some_and(|media| media.is("application", "json") && media.is_utf8()) && types.next().is_none();
                if coding::is_unknown(head) {
                    let detail = "Bodies are taken in the codings that Accept-Encoding names.";
                    let reply = refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding_unsupported", detail);
                    return reply.header(header::ACCEPT_ENCODING, coding::TAKEN).refuse();
                }
                if !fits {
                    let detail = "Requests of GraphQL are JSON (`application/json`) in UTF-8.";
                    let reply = refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail);
                    return reply.header(header::ACCEPT, HeaderValue::from_static("application/json")).refuse();
                }
                if !head.body.is_some() {
                    return refuse(StatusCode::BAD_REQUEST, "no_query", "The request has no document.").refuse();
                }
                Flow::Continue(())
            }
            _ => {
                let reply = refuse(StatusCode::METHOD_NOT_ALLOWED, "not_graphql", "GraphQL is asked for with GET or POST.");
                reply.header(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST")).refuse()
            }
        }
    }
}

impl OnBody for Graphql {
    fn bound(&self) -> usize {
        self.max_body
    }

    fn wants(&self, head: &RequestHead) -> bool {
        head.method == Method::POST
    }

    fn reads_content(&self) -> bool {
        true
    }

    fn on_body(&self, _: &RequestHead, body: &Bytes, exchange: &mut Exchange) -> Flow {
        match self.of_body(body, exchange) {
            Ok(()) => Flow::Continue(()),
            Err(reply) => reply.refuse(),
        }
    }
}

impl Policy for Graphql {
    const NAME: &'static str = "graphql";
    const STAGE: Stage = Stage::Validate;
    const SUMMARY: &'static str = "Bounds what clients ask of GraphQL: depth, breadth, cost, introspection, known operations.";
    type Config = GraphqlConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let before = cx.problems.len();
        let mut bounded = |what: &str, written: &Option<Spanned<u32>>, least: u32, most: u32, absent: u32| match written {
            Some(written) => count_within(what, written, least, most, cx.problems),
            None => Some(absent),
        };
        let depth = bounded("max_depth", &config.max_depth, 1, 200, 15);
        let aliases = bounded("max_aliases", &config.max_aliases, 0, 100_000, 30);
        let root_fields = bounded("max_root_fields", &config.max_root_fields, 1, 100_000, 30);
        let directives = bounded("max_directives", &config.max_directives, 0, 100_000, 50);
        let tokens = bounded("max_tokens", &config.max_tokens, 10, 100_000, 10_000);
        let batch = bounded("batch", &config.batch, 1, 100, 1);
        let most_cost =
            config.cost.as_ref().map_or(Some(u32::MAX), |cost| count_within("max", &cost.max, 1, 1_000_000_000, cx.problems));
        let longest = config.cost.as_ref().and_then(|cost| cost.max_list.as_ref());
        let longest = longest.map_or(Some(1000), |most| count_within("max_list", most, 1, 1_000_000, cx.problems));
        let weights = weights(config.cost.as_ref(), longest.unwrap_or(1));
        let max_body = config.max_body.as_ref().map_or(DEFAULT_MAX_BODY, |size| size.value.0);
        if let Some(size) = config.max_body.as_ref().filter(|size| !(1..=64 << 20).contains(&size.value.0)) {
            cx.problems.push(Problem::error(size.place, "`max_body` is from 1 byte to 64MiB"));
        }
        let persisted = config.persisted.as_ref().map(|persisted| known(persisted, tokens, &weights, cx));
        let mut page = |media| Page::parse(media, PAGE).map_err(|why| cx.problems.push(Problem::error(cx.place, why))).ok();
        let (page, json_page) = (page(RESPONSE), page(JSON));
        if cx.problems.len() > before {
            return None;
        }
        let help = "Operations of GraphQL that were asked for, by what they do.";
        let count = |kind: Kind| {
            let labels = [("scope", cx.scope), ("type", kind.word())];
            cx.tallies.counter("portcullis_graphql_operations_total", help, &labels)
        };
        Some(Graphql {
            depth: depth?,
            aliases: aliases?,
            root_fields: root_fields?,
            directives: directives?,
            tokens: tokens? as usize,
            batch: batch? as usize,
            introspection: config.introspection.unwrap_or(true),
            persisted: match persisted {
                Some(persisted) => Some(persisted?),
                None => None,
            },
            only_persisted: config.persisted.as_ref().is_some_and(|persisted| persisted.only.unwrap_or(true)),
            most_cost: if config.cost.is_some() { u64::from(most_cost?) } else { u64::MAX },
            weights,
            max_body: usize::try_from(max_body).ok()?,
            page: Arc::new(page?),
            json_page: Arc::new(json_page?),
            counts: Kind::ALL.map(count),
        })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.options().graphql = Some(self.clone());
        plan.on_request(Arc::new(Before(self.clone())));
        plan.on_body(self);
    }
}

fn weights(config: Option<&CostConfig>, longest: u32) -> Weights {
    let Some(config) = config else {
        return Weights { default: 1, longest: u64::from(longest), ..Weights::default() };
    };
    let lists = match &config.list_arguments {
        Some(names) => names.iter().map(|name| name.as_str().into()).collect(),
        None => ["first", "last", "limit"].map(Box::from).into(),
    };
    Weights {
        default: config.default.unwrap_or(1).into(),
        fields: config.fields.iter().map(|(name, cost)| (name.as_str().into(), u64::from(*cost))).collect(),
        lists,
        longest: u64::from(longest),
    }
}

/// What stands in the file, if all of it can be read. `None` only if there was a problem.
fn known(config: &PersistedConfig, tokens: Option<u32>, weights: &Weights, cx: &mut Compile<'_>) -> Option<Persisted> {
    let path = cx.base.join(&config.file.value);
    let read = || {
        let long = std::fs::metadata(&path).map_err(|error| error.to_string())?.len();
        if long > persisted::LONGEST {
            return Err("it is longer than 64MiB".to_owned());
        }
        Persisted::read(&std::fs::read(&path).map_err(|error| error.to_string())?)
    };
    let mut wrong = |why: String| {
        let message = format!("`{}` cannot be used: {why}", config.file.value);
        let problem = Problem::error(config.file.place, message);
        cx.problems.push(problem.hint("it is a manifest of persisted queries, or an object of documents"));
    };
    let persisted = read().map_err(&mut wrong).ok()?;
    let tokens = tokens.unwrap_or(u32::MAX) as usize;
    let unreadable = persisted.documents().filter(|document| {
        // Which operation is asked for is not known here.
        !matches!(document::measure(document, tokens, None, None, weights), Ok(_) | Err(Wrong::Operation))
    });
    let count = unreadable.count();
    if count > 0 {
        wrong(format!("{count} of its documents cannot be read, or are longer than `max_tokens`"));
        return None;
    }
    Some(persisted)
}
