//! One call for a part of a composed answer, through the engine that makes every call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::fields::Fields;
use super::kept::Kept;
use crate::cache::{Keeping, credentials, is_overriding};
use crate::core::WorkerState;
use crate::exchange::{Deadline, Exchange, is_identity};
use crate::head::{BodyFraming, HeaderEdit, RequestHead};
use crate::listen::share::{Purse, grown};
use crate::observe::RouteMetrics;
use crate::policy::validate::json::{self, FaultKind};
use crate::route::compose::Part;
use crate::route::compose::request::Rendered;
use crate::route::compose::state::{Fault, State};
use crate::snapshot::{Composed, Road};
use crate::upstream::call::{Answer, Call, CallError, Caller, Own, Piece, Tries};
use crate::upstream::{AttemptOutcome, Service};
use crate::wire::answer::AnswerHead;
use crate::wire::coding::is_coded;
use crate::wire::media::is_json;

/// How deep a part may be nested.
const DEEPEST: usize = 64;

/// What one call has got.
#[derive(Debug)]
pub struct Got {
    pub status: StatusCode,
    /// Whether the service was asked for it.
    pub state: State,
    /// One JSON value, or nothing.
    pub body: Bytes,
    pub fields: Fields,
}

pub type Ended = Result<Arc<Got>, Fault>;

/// What the calls for one client's request share.
pub struct Asking<'a> {
    pub caller: &'a Arc<Caller>,
    pub view: &'a WorkerState,
    pub composed: &'a Composed,
    pub metrics: &'a Arc<RouteMetrics>,
    pub head: &'a RequestHead,
    pub exchange: &'a Exchange,
    /// What they take of the memory for bodies.
    pub purse: Mutex<Option<Purse>>,
    /// The same question is asked once.
    pub asked: Mutex<HashMap<Vec<u8>, Arc<OnceCell<Ended>>, ahash::RandomState>>,
    /// When the client's request has to be answered.
    pub due: Option<Instant>,
    /// What services are told of that.
    pub deadline: Option<Deadline>,
    /// The deadline is one that the client has set itself.
    pub is_clients_own: bool,
}

/// How one call is made.
pub struct How<'a> {
    pub part: &'a Part,
    pub service: &'a Arc<Service>,
    pub road: &'a Road,
    pub timeout: Option<Duration>,
    /// See [`Part::last_good`].
    pub last_good: Option<Duration>,
}

impl Asking<'_> {
    /// Whether there is memory for so many bytes more, until the answer is given.
    pub fn pays(&self, bytes: usize) -> bool {
        self.purse.lock().as_mut().is_none_or(|purse| purse.charge(bytes))
    }

    /// Makes a call, or waits for one that is the same.
    pub async fn ask(&self, how: &How<'_>, request: &Rendered) -> Ended {
        if request.method != Method::GET {
            return self.send(how, request).await;
        }
        let key = key(how, request);
        let cell = self.asked.lock().entry(key).or_default().clone();
        cell.get_or_init(|| self.send(how, request)).await.clone()
    }

    async fn send(&self, how: &How<'_>, request: &Rendered) -> Ended {
        let How { part, service, road, timeout, last_good } = *how;
        let began = Instant::now();
        let own = timeout.map(|timeout| began + timeout);
        let due = own.into_iter().chain(self.due).min();
        let head = self.head_of(part, road, request);
        let exchange = self.exchange_of(part, road, &head, request, due);
        let kept = self.kept(how, &head, &exchange);
        let last_good = last_good.zip(kept.as_ref()).map(|(within, kept)| (within, kept.key.clone(), kept.wishes));
        let is_over = |fault| {
            let (within, key, wishes) = last_good.as_ref()?;
            self.last_good(how, &head, &exchange, (key, wishes), *within, fault)
        };
        if due.is_some_and(|due| due <= began) {
            return is_over(Fault::Timeout).unwrap_or(Err(Fault::Timeout));
        }
        let mut tries = Tries::default();
        tries.due = due;
        let asked = {
            let asking = self.read(how, &head, &exchange, request, &mut tries, kept);
            match due {
                Some(due) => tokio::time::timeout_at(due, asking).await,
                None => Ok(asking.await),
            }
        };
        let had = tries.had(None);
        let ended = asked.unwrap_or_else(|_| {
            // That the client's request is over says something of a service that had most of its time, and if the time was not the client's.
            let most = had.is_some_and(|had| had * 2 >= began.elapsed());
            if own.is_some_and(|own| Some(own) == due) || most && !self.is_clients_own {
                tries.failed(service, AttemptOutcome::TimedOut);
            }
            Err(Fault::Timeout)
        });
        tries.end();
        if let Some(served) = self.view.snapshot.service_metrics.get(&service.key) {
            if let Some(had) = had {
                served.observe(had);
            }
            (0..tries.retries()).for_each(|_| served.retried());
        }
        match ended {
            Err(fault) => is_over(fault).unwrap_or(ended),
            ended => ended,
        }
    }

    /// The client's head, as far as the service is to see it, for another request.
    fn head_of(&self, part: &Part, road: &Road, request: &Rendered) -> RequestHead {
        let mut head = self.head.clone();
        let RequestHead { fields, buffer, .. } = &mut head;
        let named = |name: &[u8], known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        fields.retain(|field| {
            let name = field.name.of(buffer);
            let listed = part.client_fields.as_ref().is_none_or(|listed| listed.iter().any(|known| named(name, known)));
            named(name, "host") || listed && !is_about_the_message(name)
        });
        head.method = request.method.clone();
        let (path, query) = match request.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (request.target.as_str(), None),
        };
        head.path = path.to_owned();
        head.spelling = None;
        // For whoever knows requests by it: the service is asked for the target.
        head.set_query(query.filter(|_| road.cache.is_some() || request.method != Method::GET));
        head.body = request.body.as_ref().map_or(BodyFraming::None, |body| BodyFraming::Length(body.len() as u64));
        (head.expects_continue, head.upgrade) = (false, false);
        head
    }

    fn exchange_of(&self, part: &Part, road: &Road, head: &RequestHead, request: &Rendered, due: Option<Instant>) -> Exchange {
        let mut exchange = self.exchange.retold();
        exchange.ends_in_value = request.ends_in_value;
        if part.anonymous {
            exchange.identity = None;
            let says_who = |name: &HeaderName| {
                credentials::is_usual(name) || is_identity(name.as_str().as_bytes()) || self.composed.identity.contains(name)
            };
            for edit in exchange.to_upstream.iter_mut().filter(|edit| says_who(edit.name())) {
                *edit = HeaderEdit::Remove(edit.name().clone());
            }
        }
        for step in &road.steps {
            // They are those that change fields, and refuse nobody.
            let _ = step.on_request(head, &mut exchange);
        }
        let edits = &mut exchange.to_upstream;
        edits.push(HeaderEdit::Set(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")));
        edits.push(HeaderEdit::Set(header::ACCEPT, HeaderValue::from_static("application/json")));
        edits.extend(request.fields.iter().map(|(name, value)| match value {
            Some(value) => HeaderEdit::Set(name.clone(), value.clone()),
            None => HeaderEdit::Remove(name.clone()),
        }));
        let said = edits.iter().any(|edit| self.deadline.is_some_and(|deadline| edit.name() == deadline.name()));
        let at = due.map(Instant::into_std).into_iter().chain(self.deadline.map(|deadline| deadline.at)).min();
        exchange.deadline =
            at.filter(|_| !said).map(|at| Deadline { at, grpc: false, asked: self.deadline.and_then(|deadline| deadline.asked) });
        exchange
    }

    async fn read(
        &self,
        how: &How<'_>,
        head: &RequestHead,
        exchange: &Exchange,
        request: &Rendered,
        tries: &mut Tries,
        kept: Option<Kept>,
    ) -> Ended {
        let How { part, service, .. } = *how;
        let asked = match kept {
            Some(kept) => match self.look(how, (head, exchange), &request.target, tries, kept).await? {
                Ok(asked) => Some(asked),
                Err(hit) => match self.stored(part, &hit).await {
                    // Another client was to bring it, and has left or had no time for it: the service may be well, and is asked once more.
                    Err(Fault::CutOff) => None,
                    ended => return ended,
                },
            },
            None => None,
        };
        let (mut answer, mut keeping) = match asked {
            Some(asked) => asked,
            None => {
                let call = Call { head, exchange, target: Some(&request.target), fill: None, stands_for: None };
                let mut client = Own(request.body.clone().unwrap_or_default());
                let asked = self.caller.send(service, &call, tries, &mut client, &self.view.tls).await;
                (asked.map_err(unanswered)?, Keeping::Nothing)
            }
        };
        let status = answer.head.status;
        if !request.method.is_safe() && self.view.snapshot.caches() && (status.is_success() || status.is_redirection()) {
            let named = ["location", "content-location"].into_iter().flat_map(|name| answer.head.header_all(name));
            if let Some(noted) = self.view.cache.changed(head, exchange.scheme(), named) {
                // Before the client hears of it. Boxed: few have a cache on disk.
                Box::pin(noted.written()).await;
            }
        }
        if let Some(fault) = unwanted(status) {
            // It is kept as it is for any other route: there may be nothing there for a while.
            if keeping.is_storing() {
                if self.body(&mut answer, service, part.max_body, &mut keeping).await.is_ok() {
                    keeping.done(self.view.cache, &answer.head);
                    self.caller.keep(answer, service);
                }
            } else {
                self.caller.put_away(answer, service).await;
            }
            return Err(fault);
        }
        let mut fields = Fields::of(&answer.head, None);
        if let (Some(sticky), Some(aim), Some(flight)) = (&service.sticky, &tries.aim, tries.flight()) {
            let secure = exchange.scheme() == "https";
            let set_cookies = answer.head.header_all("set-cookie");
            fields.set_cookie.extend(sticky.answered(&aim.session, flight.endpoint().address(), status, set_cookies, secure));
        }
        if let Some(fault) = unreadable(&answer.head, answer.head.body.is_done(), part.max_body) {
            keeping.give_up();
            self.caller.put_away(answer, service).await;
            return Err(fault);
        }
        let body = match self.body(&mut answer, service, part.max_body, &mut keeping).await {
            Err(fault) => {
                keeping.give_up();
                if fault == Fault::CutOff {
                    tries.failed(service, AttemptOutcome::Broken);
                }
                return Err(fault);
            }
            Ok(body) => body,
        };
        let read = part_of(status, State::Ok, body, fields);
        match &read {
            Ok(_) => {
                keeping.done(self.view.cache, &answer.head);
            }
            // Nobody is served by what nobody can read.
            Err(_) => keeping.give_up(),
        }
        self.caller.keep(answer, service);
        read
    }

    /// The whole body.
    async fn body(&self, answer: &mut Answer, service: &Service, most: usize, keeping: &mut Keeping) -> Result<Bytes, Fault> {
        let mut body = Gathered { asking: self, bytes: BytesMut::new(), most };
        let mut ended = answer.head.body.is_done();
        while !ended {
            match answer.take() {
                Ok(Some(Piece::Data(data, last))) => {
                    ended = last;
                    keeping.add(self.view.cache, &data);
                    if keeping.is_full() {
                        // Boxed: few are so long.
                        Box::pin(keeping.room()).await;
                    }
                    body.add(&data)?;
                }
                Ok(Some(Piece::Trailers(_) | Piece::End)) => break,
                Ok(None) => {
                    keeping.flows(&answer.head);
                    answer.more(&mut Own(Bytes::new()), service, false).await.map_err(|_| Fault::CutOff)?;
                }
                Err(_) => return Err(Fault::CutOff),
            }
        }
        Ok(body.bytes.freeze())
    }
}

/// A body that is gathered, and paid.
pub struct Gathered<'a> {
    pub asking: &'a Asking<'a>,
    pub bytes: BytesMut,
    pub most: usize,
}

impl Gathered<'_> {
    pub fn add(&mut self, data: &[u8]) -> Result<(), Fault> {
        if self.bytes.len() + data.len() > self.most {
            return Err(Fault::TooLarge);
        }
        if let Some(after) = grown(&self.bytes, data.len(), self.most) {
            if !self.asking.pays(after - self.bytes.capacity()) {
                return Err(Fault::Memory);
            }
            self.bytes.reserve(after - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

/// Why a service has not answered.
pub fn unanswered(error: CallError) -> Fault {
    match error {
        CallError::Service(reply) if reply.status == StatusCode::GATEWAY_TIMEOUT => Fault::Timeout,
        _ => Fault::Unavailable,
    }
}

/// Why an answer of this status is no part.
pub fn unwanted(status: StatusCode) -> Option<Fault> {
    let code = status.as_u16();
    match status.is_redirection() {
        true => Some(Fault::Redirect(code)),
        false => (!status.is_success()).then_some(Fault::Status(code)),
    }
}

/// An answer, if its body is one value of JSON, or nothing.
pub fn part_of(status: StatusCode, state: State, body: Bytes, fields: Fields) -> Ended {
    if let Some(fault) = unsound(&body) {
        return Err(fault);
    }
    let body = if is_nothing(&body) { Bytes::new() } else { body };
    Ok(Arc::new(Got { status, state, body, fields }))
}

fn is_nothing(body: &[u8]) -> bool {
    body.iter().all(u8::is_ascii_whitespace)
}

/// Why a body is neither one value of JSON nor nothing.
fn unsound(body: &[u8]) -> Option<Fault> {
    if is_nothing(body) {
        return None;
    }
    match json::check(body, DEEPEST) {
        Ok(()) => None,
        Err(fault) if fault.kind == FaultKind::TooDeep => Some(Fault::TooDeep),
        Err(_) => Some(Fault::Malformed),
    }
}

/// What tells questions apart.
fn key(how: &How<'_>, request: &Rendered) -> Vec<u8> {
    let How { part, service, road, timeout, last_good } = *how;
    let Part { max_body, client_fields, anonymous, .. } = part;
    let place = Arc::as_ptr(service).addr();
    let mut key =
        format!("{place}\n{}\n{max_body}\n{timeout:?}\n{last_good:?}\n{anonymous}\n{client_fields:?}\n", road.id).into_bytes();
    key.extend_from_slice(request.target.as_bytes());
    for (name, value) in &request.fields {
        key.push(b'\n');
        key.extend_from_slice(name.as_str().as_bytes());
        if let Some(value) = value {
            key.push(b':');
            key.extend_from_slice(value.as_bytes());
        }
    }
    key
}

/// Whether an answer is one to keep, by its head: a part, or one whose status says that there is none.
pub fn may_be_part(head: &AnswerHead, most: usize) -> bool {
    unwanted(head.status).is_some() || unreadable(head, head.body.is_done(), most).is_none()
}

/// The same of its whole body.
pub fn is_part(status: StatusCode, body: &[u8]) -> bool {
    unwanted(status).is_some() || unsound(body).is_none()
}

/// Why the body behind a head cannot be a part, if that can be told. `empty`: there is none. `most`: the bytes of the longest part.
pub fn unreadable(head: &AnswerHead, empty: bool, most: usize) -> Option<Fault> {
    if empty {
        return None;
    }
    if head.length.is_some_and(|length| length > most as u64) {
        return Some(Fault::TooLarge);
    }
    if head.header_all("content-encoding").any(is_coded) {
        return Some(Fault::Coded);
    }
    let kind = head.header_all("content-type").next()?;
    (!is_json(kind)).then_some(Fault::NotJson)
}

/// Fields of the client's that are about its own message, or about the answer as the client would have it; and those by which a service
/// may answer for another target than the call's.
fn is_about_the_message(name: &[u8]) -> bool {
    let begins = |start: &[u8]| name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start));
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    let about = ["accept", "accept-encoding", "range", "te", "trailer", "expect", "grpc-timeout", "cache-control", "pragma"];
    begins(b"content-") || begins(b"if-") || begins(b"sec-websocket-") || is_overriding(name) || about.into_iter().any(is)
}
