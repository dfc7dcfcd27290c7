//! One call for a part of a composed answer, through the engine that makes every call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode, header};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::fields::Fields;
use crate::cache::is_overriding;
use crate::core::WorkerState;
use crate::exchange::{Deadline, Exchange};
use crate::forward::mirror::told;
use crate::head::{BodyFraming, HeaderEdit, RequestHead};
use crate::listen::share::Purse;
use crate::policy::validate::json::{self, FaultKind};
use crate::route::compose::Part;
use crate::route::compose::request::Rendered;
use crate::route::compose::state::Fault;
use crate::upstream::call::{Answer, Call, CallError, Caller, Own, Piece, Tries};
use crate::upstream::{AttemptOutcome, Service};
use crate::wire::answer::AnswerHead;

/// How deep a part may be nested.
const DEEPEST: usize = 64;
/// What is allocated at first for a body that comes in pieces.
const SMALLEST: usize = 1024;

/// What one call has got.
#[derive(Debug)]
pub struct Got {
    pub status: StatusCode,
    /// One JSON value, or nothing.
    pub body: Bytes,
    pub fields: Fields,
}

pub type Ended = Result<Arc<Got>, Fault>;

/// What the calls for one client's request share.
pub struct Asking<'a> {
    pub caller: &'a Caller,
    pub view: &'a WorkerState,
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
    pub service: &'a Service,
    pub timeout: Option<Duration>,
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
        let How { part, service, timeout } = *how;
        let began = Instant::now();
        let own = timeout.map(|timeout| began + timeout);
        let due = own.into_iter().chain(self.due).min();
        if due.is_some_and(|due| due <= began) {
            return Err(Fault::Timeout);
        }
        let (head, exchange) = (self.head_of(part, request), self.exchange_of(request, due));
        let mut tries = Tries::default();
        tries.due = due;
        let asked = {
            let asking = self.read(how, &head, &exchange, request, &mut tries);
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
        ended
    }

    /// The client's head, as far as the service is to see it, for another request.
    fn head_of(&self, part: &Part, request: &Rendered) -> RequestHead {
        let mut head = self.head.clone();
        let RequestHead { fields, buffer, .. } = &mut head;
        let named = |name: &[u8], known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        fields.retain(|field| {
            let name = field.name.of(buffer);
            let listed = part.client_fields.as_ref().is_none_or(|listed| listed.iter().any(|known| named(name, known)));
            named(name, "host") || listed && !is_about_the_message(name)
        });
        head.method = request.method.clone();
        head.path = request.target.split('?').next().unwrap_or_default().to_owned();
        (head.query, head.spelling) = (None, None);
        head.body = request.body.as_ref().map_or(BodyFraming::None, |body| BodyFraming::Length(body.len() as u64));
        (head.expects_continue, head.upgrade) = (false, false);
        head
    }

    fn exchange_of(&self, request: &Rendered, due: Option<Instant>) -> Exchange {
        let mut exchange = told(self.exchange);
        let edits = &mut exchange.to_upstream;
        edits.push(HeaderEdit::Set(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")));
        edits.push(HeaderEdit::Set(header::ACCEPT, HeaderValue::from_static("application/json")));
        edits.extend(request.fields.iter().map(|(name, value)| match value {
            Some(value) => HeaderEdit::Set(name.clone(), value.clone()),
            None => HeaderEdit::Remove(name.clone()),
        }));
        let said = edits.iter().any(|edit| self.deadline.is_some_and(|deadline| edit.name() == deadline.name()));
        let at = due.map(Instant::into_std).into_iter().chain(self.deadline.map(|deadline| deadline.at)).min();
        exchange.deadline = at.filter(|_| !said).map(|at| Deadline { at, grpc: false });
        exchange
    }

    async fn read(&self, how: &How<'_>, head: &RequestHead, exchange: &Exchange, request: &Rendered, tries: &mut Tries) -> Ended {
        let How { part, service, .. } = *how;
        let call = Call { head, exchange, target: Some(&request.target), fill: None };
        let mut client = Own(request.body.clone().unwrap_or_default());
        let asked = self.caller.send(service, &call, tries, &mut client, &self.view.tls).await;
        let answer = asked.map_err(|error| match error {
            CallError::Service(reply) if reply.status == StatusCode::GATEWAY_TIMEOUT => Fault::Timeout,
            _ => Fault::Unavailable,
        })?;
        let status = answer.head.status;
        if !status.is_success() {
            self.caller.put_away(answer, service).await;
            let code = status.as_u16();
            return Err(if status.is_redirection() { Fault::Redirect(code) } else { Fault::Status(code) });
        }
        let fields = Fields::of(&answer.head);
        if let Some(fault) = unreadable(&answer.head, part) {
            self.caller.put_away(answer, service).await;
            return Err(fault);
        }
        let body = match self.body(answer, service, part.max_body).await {
            Err(fault) => {
                if fault == Fault::CutOff {
                    tries.failed(service, AttemptOutcome::Broken);
                }
                return Err(fault);
            }
            Ok(body) => body,
        };
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Arc::new(Got { status, body: Bytes::new(), fields }));
        }
        match json::check(&body, DEEPEST) {
            Ok(()) => Ok(Arc::new(Got { status, body, fields })),
            Err(fault) if fault.kind == FaultKind::TooDeep => Err(Fault::TooDeep),
            Err(_) => Err(Fault::Malformed),
        }
    }

    /// The whole body, and the connection back where it came from.
    async fn body(&self, mut answer: Answer, service: &Service, most: usize) -> Result<Bytes, Fault> {
        let mut body = BytesMut::new();
        let mut ended = answer.head.body.is_done();
        while !ended {
            let data = match answer.take() {
                Ok(Some(Piece::Data(data, last))) => {
                    ended = last;
                    data
                }
                Ok(Some(Piece::Trailers(_) | Piece::End)) => break,
                Ok(None) => {
                    answer.more(&mut Own(Bytes::new()), service, false).await.map_err(|_| Fault::CutOff)?;
                    continue;
                }
                Err(_) => return Err(Fault::CutOff),
            };
            let (needed, before) = (body.len() + data.len(), body.capacity());
            if needed > most {
                return Err(Fault::TooLarge);
            }
            if needed > before {
                // What is charged is what is allocated.
                let after = needed.max((2 * before).min(most)).max(SMALLEST);
                if !self.pays(after - before) {
                    return Err(Fault::Memory);
                }
                body.reserve(after - body.len());
            }
            body.extend_from_slice(&data);
        }
        self.caller.keep(answer, service);
        Ok(body.freeze())
    }
}

/// What tells questions apart.
fn key(how: &How<'_>, request: &Rendered) -> Vec<u8> {
    let How { part, service, timeout } = *how;
    let mut key = format!("{}\n{}\n{timeout:?}\n{:?}\n", std::ptr::from_ref(service).addr(), part.max_body, part.client_fields)
        .into_bytes();
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

/// Why the body behind a head cannot be a part, if that can be told.
fn unreadable(head: &AnswerHead, part: &Part) -> Option<Fault> {
    if head.body.is_done() {
        return None;
    }
    if head.length.is_some_and(|length| length > part.max_body as u64) {
        return Some(Fault::TooLarge);
    }
    let coded = |coding: &[u8]| !coding.trim_ascii().eq_ignore_ascii_case(b"identity");
    if head.header_all("content-encoding").any(coded) {
        return Some(Fault::Coded);
    }
    let kind = head.header_all("content-type").next()?;
    let essence = kind.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    let is_json = essence == b"application/json" || essence == b"text/json" || essence.ends_with(b"+json");
    (!is_json).then_some(Fault::NotJson)
}

/// Fields of the client's that are about its own message, or about the answer as the client would have it; and those by which a service
/// may answer for another target than the call's.
fn is_about_the_message(name: &[u8]) -> bool {
    let begins = |start: &[u8]| name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start));
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    let about = ["accept", "accept-encoding", "range", "te", "trailer", "expect", "grpc-timeout", "cache-control", "pragma"];
    begins(b"content-") || begins(b"if-") || begins(b"sec-websocket-") || is_overriding(name) || about.into_iter().any(is)
}
