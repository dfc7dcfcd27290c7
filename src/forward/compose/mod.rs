//! Answers that are made of those of several services: which calls are made when, and what becomes of what they come to.
//!
//! Every call goes through the engine that calls services, as any request does. All of them run on the task of the client's request, so that
//! a client that leaves takes them along, and nothing of one client is ever at hand for another.

mod call;
mod crowd;
mod fields;
mod graphql;
mod kept;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use parking_lot::Mutex;
use pingora_http::ResponseHeader;
use serde_json::{Map, Value, json};

use crate::cel;
use crate::jose::json;
use crate::journey::{Given, Journey, no_memory};
use crate::json::{Exact, Members};
use crate::listen::share::Purse;
use crate::reply::{Reply, push_json};
use crate::route::compose::merge::{Body, Whole};
use crate::route::compose::request::Rendered;
use crate::route::compose::state::{self, Fault, State};
use crate::route::compose::text::{Found, Known};
use crate::route::compose::{Fallback, Part};
use crate::snapshot::Composed;
use crate::upstream::call::Caller;
use call::{Asking, Ended, Got, How};
pub(super) use call::{is_part, may_be_part};
use crowd::Crowd;

const X_PORTCULLIS_PARTS: HeaderName = HeaderName::from_static("x-portcullis-parts");

/// What a part has come to.
struct Done {
    state: State,
    took: Duration,
    /// What stands in the answer.
    body: Option<Body>,
    /// What others may look at.
    value: Option<Exact>,
    got: Vec<Arc<Got>>,
}

/// One question, and what else may be asked instead. `None` of either: a value is missing that it cannot be without.
struct Question {
    request: Option<Rendered>,
    other: Option<Rendered>,
}

impl Question {
    fn of(part: &Part, known: &Known<'_>) -> Question {
        let other = match &part.fallback {
            Some(Fallback::Call(other)) => other.request.render(known),
            _ => None,
        };
        Question { request: part.request.render(known), other }
    }

    /// Whether there is something to ask, or something that stands in for the part without being asked for.
    fn has_answer(&self, part: &Part) -> bool {
        self.request.is_some() || self.other.is_some() || matches!(part.fallback, Some(Fallback::Json(_)))
    }

    /// What it takes of memory.
    fn takes(&self) -> usize {
        let takes = |request: &Rendered| request.target.len() + 2 * request.body.as_ref().map_or(0, Bytes::len);
        self.request.iter().chain(&self.other).map(takes).sum()
    }
}

/// What one question has come to.
struct One {
    state: State,
    body: Body,
    value: Option<Exact>,
    got: Option<Arc<Got>>,
}

impl Done {
    fn without(state: State) -> Done {
        Done { state, took: Duration::ZERO, body: None, value: None, got: Vec::new() }
    }
}

/// Makes the calls of a composed answer, and the answer of what they come to. `body` is the request's, if any call has something of it: JSON, for
/// which memory was paid once it is read.
///
/// What was charged to `purse` is for as long as the answer is; it is given back with it.
///
/// # Errors
/// The refusal to give instead.
pub async fn gather(
    caller: &Arc<Caller>,
    journey: &mut Journey,
    purse: Option<Purse>,
    body: Option<Bytes>,
) -> Result<(Given, Option<Purse>), Box<Reply>> {
    let view = journey.view.clone();
    let route = view.route(journey.routed);
    let Some((composed, metrics)) = route.and_then(|route| Some((route.answer.composed()?, &route.metrics))) else {
        return Err(Reply::new(StatusCode::INTERNAL_SERVER_ERROR, "compose", "no_parts", "The answer cannot be made."));
    };
    let asking = Asking {
        caller,
        view: &view,
        composed,
        metrics,
        head: &journey.head,
        exchange: &journey.exchange,
        purse: Mutex::new(purse),
        asked: Mutex::default(),
        due: journey.due().first(),
        deadline: journey.told_deadline(),
        is_clients_own: journey.has_own_deadline(),
    };
    if let Some(facade) = &composed.graphql {
        let asked = Gathering { composed, asking: &asking, body: None };
        let body = body.map(|body| json::value(&body).ok_or_else(malformed)).transpose()?;
        let executed = graphql::answer(&asked, facade, journey, body).await?;
        let purse = asking.purse.into_inner();
        let (told, log) = executed.finish(composed, journey);
        journey.outcome.parts = Some(log.into());
        let (head, body) = told?;
        return journey.dress(head, body, "graphql").map(|given| (given, purse));
    }
    let body = body.map(|body| Exact::read(&body).map_err(|_| malformed())).transpose()?;
    let (dones, failed) = Gathering { composed, asking: &asking, body: body.as_ref() }.run().await;
    let mut purse = asking.purse.into_inner();
    let parts = &composed.composition.parts;
    let states = parts.iter().zip(&dones).map(|(part, done)| (part, done.state, done.took));
    journey.outcome.parts = Some(state::list(states, true).into());
    for (counts, done) in composed.counts.iter().zip(&dones) {
        counts.note(done.state.word());
    }
    if let Some(number) = failed
        && let (Some(part), Some(done)) = (parts.get(number), dones.get(number))
        && let State::Failed(fault) = done.state
    {
        let known = Known {
            head: &journey.head,
            exchange: &journey.exchange,
            parts: &Members::default(),
            body: body.as_ref(),
            item: None,
            field: None,
        };
        let lacks = fault == Fault::NoValue && part.request.lacks_of_body(&known);
        return Err(refusal(composed, part, fault, lacks));
    }
    let (head, body) = answer(composed, &dones, journey, body.is_some(), &mut purse)?;
    journey.dress(head, body, "compose").map(|given| (given, purse))
}

pub fn malformed() -> Box<Reply> {
    let detail = "The body is not JSON, nested too deeply, or has an object with a name twice.";
    Reply::new(StatusCode::BAD_REQUEST, "compose", "malformed_json", detail)
}

/// What the client is told where a part failed that the answer cannot be without. `lacks`: for want of something in the request's body.
fn refusal(composed: &Composed, part: &Part, fault: Fault, lacks: bool) -> Box<Reply> {
    let passed = fault.status().and_then(|status| StatusCode::from_u16(status).ok()).filter(|status| part.pass.contains(status));
    let failed = composed.composition.failed;
    let mut reply = match (passed, fault) {
        (_, Fault::Memory) => no_memory(),
        (None, _) if lacks => {
            let detail = "A call needs a value that the body has not, or none that may stand there.";
            Reply::new(StatusCode::BAD_REQUEST, "compose", "body_lacks_value", detail)
        }
        (Some(status), _) => Reply::new(status, "compose", "part_refused", "A service that the answer needs has said so."),
        (None, Fault::Timeout) => {
            let detail = "A part that the answer needs took too long.";
            Reply::new(failed.unwrap_or(StatusCode::GATEWAY_TIMEOUT), "compose", "part_timeout", detail)
        }
        (None, _) => {
            let detail = "A part that the answer needs cannot be had.";
            Reply::new(failed.unwrap_or(StatusCode::BAD_GATEWAY), "compose", "part_failed", detail)
        }
    };
    let mut members = b",\"part\":".to_vec();
    push_json(&mut members, &part.name);
    members.extend_from_slice(format!(",\"why\":\"{}\"", fault.word()).as_bytes());
    reply.members = String::from_utf8(members).ok().map(Into::into);
    reply.decided_by(&*part.name)
}

struct Gathering<'a> {
    composed: &'a Composed,
    asking: &'a Asking<'a>,
    body: Option<&'a Exact>,
}

/// What calls were answered that others look at.
#[derive(Default)]
struct Seen {
    values: Members,
    /// The same for conditions, which reckon with numbers.
    rounded: Map<String, Value>,
    /// What those take, in bytes.
    weight: usize,
}

impl<'a> Gathering<'a> {
    /// What all parts have come to, and the number of the one that the answer cannot be without, if it failed.
    async fn run(&self) -> (Vec<Done>, Option<usize>) {
        let parts = &self.composed.composition.parts;
        let mut dones: Vec<Option<Done>> = parts.iter().map(|_| None).collect();
        let mut begun = vec![false; parts.len()];
        let mut seen = Seen::default();
        let mut under_way = Crowd::default();
        let mut failed = None;
        'gathering: loop {
            let mut settled = Vec::new();
            for (number, part) in parts.iter().enumerate() {
                let ready = |after: &usize| dones.get(*after).is_some_and(Option::is_some);
                if begun.get(number).copied().unwrap_or(true) || !part.after.iter().all(ready) {
                    continue;
                }
                begun.get_mut(number).into_iter().for_each(|begun| *begun = true);
                match self.questions(part, &seen) {
                    Ok(questions) => under_way.add(number, self.part(part, questions)),
                    Err(state) => settled.push((number, self.instead(part, state))),
                }
            }
            if settled.is_empty() {
                let Some(ended) = under_way.next().await else { break };
                settled.push(ended);
            }
            for (number, mut done) in settled {
                let Some(part) = parts.get(number) else { break };
                if let Some(value) = done.value.take() {
                    if part.judged {
                        seen.weight += done.got.iter().map(|got| got.body.len()).sum::<usize>();
                        seen.rounded.insert(part.name.to_string(), value.rounded());
                    }
                    seen.values.insert(part.name.to_string(), value);
                }
                let is_over = matches!(done.state, State::Failed(_)) && !part.optional;
                if let Some(slot) = dones.get_mut(number) {
                    *slot = Some(done);
                }
                if is_over {
                    failed = Some(number);
                    break 'gathering;
                }
            }
        }
        (dones.into_iter().map(|done| done.unwrap_or_else(|| Done::without(State::Cancelled))).collect(), failed)
    }

    /// A part that no call was made for: what the file has in its stead, if it failed and there is something.
    fn instead(&self, part: &Part, state: State) -> Done {
        match (state, &part.fallback) {
            (State::Failed(fault), Some(Fallback::Json(value))) if fault != Fault::Memory => {
                let one = self.stand_in(part, value);
                Done { state: State::Fallback, body: Some(one.body), value: one.value, ..Done::without(state) }
            }
            _ => Done::without(state),
        }
    }

    /// The questions to ask for a part: one, or one for each element.
    fn questions(&self, part: &Part, seen: &Seen) -> Result<Vec<Question>, State> {
        let Asking { head, exchange, .. } = *self.asking;
        if let Some(when) = &part.when {
            match when.bool_among(head, exchange, cel::Parts { values: &seen.rounded, weight: seen.weight }) {
                Ok(true) => {}
                Ok(false) => return Err(State::Skipped),
                Err(_) => return Err(State::Failed(Fault::Condition)),
            }
        }
        let known = Known { head, exchange, parts: &seen.values, body: self.body, item: None, field: None };
        let question = |known: &Known<'_>| {
            let question = Question::of(part, known);
            // The answer is not given without it, and nobody is asked for nothing.
            if !(question.has_answer(part) || (part.optional && part.each.is_some())) {
                return Err(State::Failed(Fault::NoValue));
            }
            if self.asking.pays(question.takes()) { Ok(question) } else { Err(State::Failed(Fault::Memory)) }
        };
        let Some(each) = &part.each else { return Ok(vec![question(&known)?]) };
        let items = match each.list.get(&known) {
            None | Some(Found::Exact(Exact::Null)) => &[][..],
            Some(Found::Exact(Exact::List(items))) => items,
            Some(_) => return Err(State::Failed(Fault::NoValue)),
        };
        if items.len() > each.most {
            return Err(State::Failed(Fault::TooMany));
        }
        items.iter().map(|item| question(&Known { item: Some(item), ..known })).collect()
    }

    async fn part(&self, part: &'a Part, questions: Vec<Question>) -> Done {
        let began = Instant::now();
        let Some(each) = &part.each else {
            let Some(question) = questions.first() else { return Done::without(State::Failed(Fault::NoValue)) };
            let One { state, body, value, got } = self.one(part, question).await;
            let body = (!matches!(state, State::Failed(_))).then_some(body);
            return Done { state, took: began.elapsed(), body, value, got: got.into_iter().collect() };
        };
        let is_over = |one: &One| matches!(one.state, State::Failed(_)) && !part.optional;
        let ones = crowd::all(questions.iter().map(|question| self.one(part, question)), each.at_once, is_over).await;
        let state = ones.iter().flatten().map(|one| one.state).reduce(State::with).unwrap_or(State::Ok);
        let mut done = Done { took: began.elapsed(), ..Done::without(state) };
        let (mut bodies, mut values) = (Vec::new(), Vec::new());
        for one in ones.into_iter().flatten() {
            bodies.push(one.body);
            values.extend(one.value);
            done.got.extend(one.got);
        }
        done.value = part.read.then_some(Exact::List(values));
        done.body = Some(Body::Many(bodies));
        done
    }

    async fn one(&self, part: &Part, question: &Question) -> One {
        let how = |service: usize, timeout, last_good| {
            let (known, road) = (self.composed.services.get(service)?, self.composed.roads.get(service)?);
            Some(How { part, service: known, road, timeout, last_good })
        };
        let asked: Ended = match (how(part.service, part.timeout, part.last_good), &question.request) {
            (Some(how), Some(request)) => self.asking.ask(&how, request).await,
            (None, _) => Err(Fault::Unavailable),
            (_, None) => Err(Fault::NoValue),
        };
        let fault = match asked.and_then(|got| self.taken(part, got)) {
            Ok(one) => return one,
            Err(fault) => fault,
        };
        match &part.fallback {
            Some(Fallback::Json(value)) if fault != Fault::Memory => self.stand_in(part, value),
            Some(Fallback::Call(other)) if fault != Fault::Memory => {
                let asked = match how(other.service, other.timeout, None).zip(question.other.as_ref()) {
                    Some((how, request)) => self.asking.ask(&how, request).await,
                    None => Err(fault),
                };
                match asked.and_then(|got| self.taken(part, got)) {
                    Ok(one) => One { state: State::Fallback, ..one },
                    Err(_) => failed(part, fault),
                }
            }
            _ => failed(part, fault),
        }
    }

    /// What stands in the file for a part.
    fn stand_in(&self, part: &Part, value: &Exact) -> One {
        let body = Body::Value(part.standing.shape(value.clone()));
        One { state: State::Fallback, body, value: part.read.then(|| value.clone()), got: None }
    }

    /// What an answer comes to: as it came where nobody looks into it.
    fn taken(&self, part: &Part, got: Arc<Got>) -> Result<One, Fault> {
        let plain = part.standing.is_plain();
        if got.body.is_empty() {
            return Ok(One { state: got.state, body: Body::NULL, value: part.read.then_some(Exact::Null), got: Some(got) });
        }
        if plain && !part.read {
            return Ok(One { state: got.state, body: Body::Raw(got.body.clone()), value: None, got: Some(got) });
        }
        // What a condition looks at is there once more as it reckons with it, and once while it does.
        let times = 1 + usize::from(part.read && !plain) + 2 * usize::from(part.judged);
        if !self.asking.pays(json::takes(&got.body).saturating_mul(times)) {
            return Err(Fault::Memory);
        }
        let value = Exact::read(&got.body).map_err(|_| Fault::Malformed)?;
        let (body, value) = match (plain, part.read) {
            (true, _) => (Body::Raw(got.body.clone()), Some(value)),
            (false, true) => (Body::Value(part.standing.shape(value.clone())), Some(value)),
            (false, false) => (Body::Value(part.standing.shape(value)), None),
        };
        Ok(One { state: got.state, body, value, got: Some(got) })
    }
}

fn failed(part: &Part, fault: Fault) -> One {
    One { state: State::Failed(fault), body: Body::NULL, value: part.read.then_some(Exact::Null), got: None }
}

/// An answer's head and body, or the refusal to give instead.
type Made = Result<(Box<ResponseHeader>, Bytes), Box<Reply>>;

/// The answer's head and body. `by_body`: the request has one, which is nothing that a cache tells requests apart by.
fn answer(composed: &Composed, dones: &[Done], journey: &Journey, by_body: bool, purse: &mut Option<Purse>) -> Made {
    let composition = &composed.composition;
    let meta = composition.meta.then(|| meta(composed, dones));
    let mut whole = Whole::default();
    for (part, done) in composition.parts.iter().zip(dones) {
        match &done.body {
            Some(body) => whole.put(&part.standing, body),
            None => whole.promise(&part.standing),
        }
    }
    if let Some(meta) = &meta {
        whole.add("_meta", meta);
    }
    // Paid before it is there: many elements may be one answer's bytes over and over.
    let length = whole.length();
    if !purse.as_mut().is_none_or(|purse| purse.charge(length)) {
        return Err(no_memory());
    }
    let mut body = Vec::with_capacity(length);
    whole.write(&mut body);
    let given = Head { status: StatusCode::OK, kind: "application/json", length: body.len(), by_body };
    Ok((head(composed, dones, journey, &given)?, body.into()))
}

/// What an answer's head says that is not its parts'.
struct Head {
    status: StatusCode,
    kind: &'static str,
    length: usize,
    /// See [`answer`].
    by_body: bool,
}

/// The head of an answer made of these parts.
fn head(composed: &Composed, dones: &[Done], journey: &Journey, given: &Head) -> Result<Box<ResponseHeader>, Box<Reply>> {
    let composition = &composed.composition;
    let partial = dones.iter().any(|done| !done.state.is_whole());
    let credentials = &journey.view.snapshot.credentials;
    let proves = journey.exchange.identity.is_some() || credentials.forbid(&journey.head, &[]).is_some();
    let private = composition.private || proves;
    let mut varies: Vec<&str> = composition.varies.iter().map(|name| &**name).collect();
    if private {
        // So that not even a client's own cache mistakes one of its users for another.
        let read = journey.route().map(|route| route.plan.options.credential_headers.as_slice()).unwrap_or_default();
        varies.extend(read.iter().map(HeaderName::as_str));
        varies.extend(read.is_empty().then_some("authorization"));
    }
    // Which of two forms it has.
    varies.extend(composed.graphql.is_some().then_some("accept"));
    let made = || {
        let mut head = Box::new(ResponseHeader::build(given.status, Some(8))?);
        head.insert_header(header::CONTENT_TYPE, given.kind)?;
        head.insert_header(header::CONTENT_LENGTH, given.length)?;
        let all = dones.iter().flat_map(|done| done.got.iter().map(|got| &got.fields));
        let with_cookies = composition.set_cookie.iter().filter_map(|number| dones.get(*number));
        let cookies: Vec<HeaderValue> =
            with_cookies.flat_map(|done| &done.got).flat_map(|got: &Arc<Got>| got.fields.set_cookie.clone()).collect();
        if matches!(journey.head.method, Method::GET | Method::HEAD)
            && let Some(said) = fields::cache_control(all.clone(), partial || given.by_body, private || !cookies.is_empty())
        {
            head.insert_header(header::CACHE_CONTROL, said)?;
        }
        if let Some(vary) = fields::vary(all, &varies) {
            head.insert_header(header::VARY, vary)?;
        }
        for cookie in cookies {
            head.append_header(header::SET_COOKIE, cookie)?;
        }
        if !dones.iter().all(|done| done.state.is_plain()) {
            let states = composition.parts.iter().zip(dones).map(|(part, done)| (part, done.state, done.took));
            // Of a schema there may be many more than a request asks for.
            let states = states.filter(|(_, state, _)| composed.graphql.is_none() || *state != State::Skipped);
            let mut list = state::list(states, false);
            if composed.graphql.is_some() {
                // No key of a dictionary has a capital letter.
                list.make_ascii_lowercase();
            }
            head.insert_header(X_PORTCULLIS_PARTS, list)?;
        }
        Ok::<_, Box<pingora_error::Error>>(head)
    };
    made().map_err(|_| {
        let detail = "The parts' header fields cannot stand in one answer.";
        Reply::new(StatusCode::BAD_GATEWAY, "compose", "unfit_fields", detail)
    })
}

/// What the answer says of its parts.
fn meta(composed: &Composed, dones: &[Done]) -> Exact {
    let of = |(part, done): (&Part, &Done)| {
        let source = match done.state {
            State::Ok => "live",
            State::Hit(_) => "cache",
            State::Stale(_) => "stale",
            State::Fallback => "fallback",
            _ => "none",
        };
        let code = match done.state {
            State::Failed(fault) => fault.status(),
            _ => done.got.first().map(|got| got.status.as_u16()),
        };
        let mut told = json!({ "state": done.state.word(), "source": source, "ms": u64::try_from(done.took.as_millis()).unwrap_or(u64::MAX) });
        if let Value::Object(members) = &mut told {
            members.extend(code.map(|code| ("status".to_owned(), code.into())));
            members.extend(done.state.age().map(|age| ("age".to_owned(), age.into())));
        }
        (part.name.to_string(), told)
    };
    Value::Object(composed.composition.parts.iter().zip(dones).map(of).collect()).into()
}
