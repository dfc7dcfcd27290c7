//! Requests of GraphQL that the gateway answers itself: its schema's fields are what services answer to calls.
//!
//! After the specification of September 2025, and GraphQL over HTTP. The guard (`policy::validate::graphql`) has looked at the request
//! before: how deep, how wide and how costly it is, and that it is one. Clients are told which field could not be had, and how that came in
//! one word, never what a service has said.

mod run;
mod tree;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::call::Got;
use super::{Done, Gathering, Head, Made, State, head, state};
use crate::graphql::validate::validate;
use crate::graphql::{Document, Wrong, ast, coerce, locations};
use crate::journey::{Journey, no_memory};
use crate::policy::validate::graphql::request::{self, Asked, Body};
use crate::policy::validate::graphql::{JSON, RESPONSE, prefers_response};
use crate::reply::Reply;
use crate::route::compose::facade::Facade;
use crate::snapshot::Composed;
use run::{Over, Running};

/// The most tokens of a document, where the guard does not say.
const MOST_TOKENS: usize = 10_000;
/// What a document takes of memory once it is read, for each of its bytes.
const TIMES: usize = 16;
/// The longest message, in letters.
const LONGEST_MESSAGE: usize = 400;

/// What a request has come to.
pub(super) struct Executed {
    /// Paid for, if it is long. Or the refusal to give instead.
    body: Result<Vec<u8>, Box<Reply>>,
    dones: Vec<Done>,
    /// It was not executed at all.
    refused: bool,
    by_body: bool,
}

impl Executed {
    /// The answer, or the refusal to give instead, and what the log says of the parts. Whichever it is, the calls were made and are counted.
    pub(super) fn finish(self, composed: &Composed, journey: &Journey) -> (Made, String) {
        for (counts, done) in composed.counts.iter().zip(&self.dones).filter(|(_, done)| done.state != State::Skipped) {
            counts.note(done.state.word());
        }
        let parts = composed.composition.parts.iter().zip(&self.dones).filter(|(_, done)| done.state != State::Skipped);
        let log = state::list(parts.map(|(part, done)| (part, done.state, done.took)), true);
        (self.given(composed, journey), log)
    }

    fn given(self, composed: &Composed, journey: &Journey) -> Made {
        let body = self.body?;
        let told = prefers_response(&journey.head);
        let status = if self.refused && told { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        let kind = if told { RESPONSE } else { JSON };
        let given = Head { status, kind, length: body.len(), by_body: self.by_body };
        let mut head = head(composed, &self.dones, journey, &given)?;
        if self.refused {
            // No part has said anything of it, and it is about this schema.
            let _ = head.insert_header(http::header::CACHE_CONTROL, "no-store");
        }
        Ok((head, body.into()))
    }
}

fn refuse(status: StatusCode, reason: &'static str, detail: &'static str) -> Box<Reply> {
    Reply::new(status, "graphql", reason, detail)
}

/// Executes a request. `body`: what a POST has brought.
///
/// # Errors
/// The refusal to give instead: it is no request of GraphQL, or there is no memory for it.
pub(super) async fn answer(
    gathering: &Gathering<'_>,
    facade: &Facade,
    journey: &Journey,
    body: Option<Value>,
) -> Result<Executed, Box<Reply>> {
    let by_body = body.is_some();
    let asked = match body {
        Some(body) => match request::of_value(body) {
            Some(Body::One(asked)) => asked,
            Some(Body::Many(_)) => {
                let detail = "So many operations cannot be asked for at once.";
                return Err(refuse(StatusCode::BAD_REQUEST, "batch_too_large", detail));
            }
            None => return Err(malformed()),
        },
        None => {
            // The guard has put the document in that was named by its hash.
            let target = journey.exchange.upstream_target.as_deref();
            let query = target.and_then(|target| target.split_once('?')).map(|(_, query)| query).or(journey.head.query());
            request::of_query(query.unwrap_or_default()).ok_or_else(malformed)?
        }
    };
    let Asked { query, operation, variables, .. } = asked;
    let text = query.ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "no_query", "The request has no document."))?;
    if !gathering.asking.pays(text.len().saturating_mul(TIMES)) {
        return Err(no_memory());
    }
    let refused = |wrong: &[Wrong]| {
        let places = locations(&text, wrong.iter().flat_map(|wrong| wrong.at.iter().copied()));
        let errors: Vec<Value> = wrong.iter().map(|wrong| told(wrong, &places)).collect();
        Ok(Executed {
            body: Ok(json!({ "errors": errors }).to_string().into_bytes()),
            dones: nothing(gathering),
            refused: true,
            by_body,
        })
    };
    let guard = journey.route().and_then(|route| route.plan.options.graphql.as_ref());
    let document = match Document::parse(&text, guard.map_or(MOST_TOKENS, |guard| guard.tokens())) {
        Ok(document) => document,
        Err(wrong) => return refused(&[wrong]),
    };
    let wrong = validate(&facade.schema, &document);
    if !wrong.is_empty() {
        return refused(&wrong);
    }
    let operation = match document.operation(operation.as_deref()) {
        Ok(operation) => operation,
        Err(why) => return refused(&[Wrong { message: why.to_owned(), at: Vec::new() }]),
    };
    if operation.kind != ast::Kind::Query && journey.head.method != Method::POST {
        let reply = refuse(StatusCode::METHOD_NOT_ALLOWED, "mutation_with_get", "What changes something is sent with POST.");
        return Err(reply.header(http::header::ALLOW, http::HeaderValue::from_static("POST")));
    }
    let variables = {
        let none_left = Cell::new(false);
        let pays = |bytes| {
            none_left.set(none_left.get() || !gathering.asking.pays(bytes));
            !none_left.get()
        };
        match coerce::variables(&facade.schema, operation, variables.unwrap_or_default(), &pays) {
            Ok(variables) => variables,
            Err(_) if none_left.get() => return Err(no_memory()),
            Err(wrong) => return refused(&[wrong]),
        }
    };
    let mut running = Running::new(gathering, facade, &document, &variables, nothing(gathering));
    let over = match running.execute(operation).await {
        Ok(()) => {
            let (body, dones) = running.finish(&text);
            match body {
                Some(body) => return Ok(Executed { body: Ok(body), dones, refused: false, by_body }),
                None => return Ok(unanswered(Over::Memory, operation, dones, by_body)),
            }
        }
        Err(over) => over,
    };
    Ok(unanswered(over, operation, running.dones(), by_body))
}

/// What is told of a request whose answer there is no room for.
fn unanswered(over: Over, operation: &ast::Operation, dones: Vec<Done>, by_body: bool) -> Executed {
    let detail = "The answer would have more values than one may have.";
    let was_asked = dones.iter().any(|done| done.state != State::Skipped);
    if operation.kind != ast::Kind::Mutation || !was_asked {
        let refusal = match over {
            Over::Memory => no_memory(),
            Over::Values => refuse(StatusCode::BAD_REQUEST, "too_many_values", detail),
        };
        return Executed { body: Err(refusal), dones, refused: false, by_body };
    }
    // What was changed is changed: nobody should take it for a request that was refused, and send it again.
    let (code, message) = match over {
        Over::Memory => ("body_budget", "It was done, and there is no memory left for its answer."),
        Over::Values => ("too_many_values", detail),
    };
    let error = json!({ "message": message, "extensions": { "code": code } });
    let body = json!({ "errors": [error], "data": null }).to_string().into_bytes();
    Executed { body: Ok(body), dones, refused: false, by_body }
}

fn malformed() -> Box<Reply> {
    refuse(StatusCode::BAD_REQUEST, "malformed_request", "This is no request of GraphQL over HTTP.")
}

/// Nothing was asked for yet.
fn nothing(gathering: &Gathering<'_>) -> Vec<Done> {
    gathering.composed.composition.parts.iter().map(|_| Done::without(State::Skipped)).collect()
}

fn told(wrong: &Wrong, places: &Places) -> Value {
    let mut error = Map::new();
    // Names in it are the client's, and may be long.
    let message: String = wrong.message.chars().take(LONGEST_MESSAGE).collect();
    error.insert("message".to_owned(), message.into());
    if !wrong.at.is_empty() {
        error.insert("locations".to_owned(), wrong.at.iter().map(|at| place(places, *at)).collect());
    }
    Value::Object(error)
}

/// Lines and columns by offsets.
type Places = std::collections::BTreeMap<u32, (usize, usize)>;

fn place(places: &Places, at: u32) -> Value {
    let (line, column) = places.get(&at).copied().unwrap_or((1, 1));
    json!({ "line": line, "column": column })
}

/// Notes how one call has ended.
fn note(done: &mut Done, state: State, took: Duration, got: Option<Arc<Got>>) {
    done.state = if done.state == State::Skipped { state } else { done.state.with(state) };
    done.took = done.took.max(took);
    done.got.extend(got);
}
