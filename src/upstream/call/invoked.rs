//! Calls to a service that is a function ([`crate::function`]): the request becomes an event, the function is invoked with it, and what it
//! returns becomes an answer as any service would have given. Nothing of the request goes along but what is in the event.

mod streamed;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::authorised::{Signing, unavailable};
use super::client::Client;
use super::request::{self, Parts};
use super::transcoded::{Framed, Made, built};
use super::{Answer, Call, CallError, Caller, Connection, Piece, Tries, call_error};
use crate::clock::unix_seconds;
use crate::exchange::Exchange;
use crate::function::answer::{self, Bad, Told};
use crate::function::config::Invoke;
use crate::function::event::Asked;
use crate::function::{Ended, Function, MOST_ANSWER, Report};
use crate::head::{BodyFraming, HeaderEdit, RequestHead};
use crate::jose::json;
use crate::reply::Reply;
use crate::sigv4;
use crate::upstream::{AttemptOutcome, Service, TlsConnector};

pub use streamed::Streamed;

const NAME: &str = "lambda";
const INVOCATION_TYPE: HeaderName = HeaderName::from_static("x-amz-invocation-type");
const LOG_TYPE: HeaderName = HeaderName::from_static("x-amz-log-type");
/// The service's own word on what is wrong with an invocation.
const ERROR_TYPE: &str = "x-amzn-errortype";
const FUNCTION_ERROR: &str = "x-amz-function-error";
const LOG_RESULT: &str = "x-amz-log-result";

/// Invokes the function with what a request means.
///
/// # Errors
/// See [`CallError`].
pub async fn send<C: Client>(
    caller: &Caller,
    function: &Arc<Function>,
    service: &Service,
    call: &Call<'_>,
    (tries, client): (&mut Tries, &mut C),
    tls: &Arc<TlsConnector>,
) -> Result<Answer, CallError> {
    if call.head.upgrade {
        let detail = "A function takes no WebSocket.";
        return Err(CallError::Service(Reply::new(StatusCode::NOT_IMPLEMENTED, NAME, "no_websocket", detail)));
    }
    // A client's promise that a request may be repeated is no field of the invocation.
    let by_method = service.retries.repeats(call.method(), |_| None);
    let stands_for = if !by_method && call.repeats(service) { &Method::GET } else { call.method() };
    let most = function.most_event();
    let body = client.whole(most).await.map_err(CallError::Client)?;
    let event = event(function, call, &body, client)?;
    drop(body);
    let payload = sigv4::digest_of(&event);
    let mut own: Vec<(String, Vec<u8>)> = Vec::with_capacity(2);
    let kind = if function.invoke == Invoke::Async { "Event" } else { "RequestResponse" };
    own.push((INVOCATION_TYPE.as_str().to_owned(), kind.into()));
    if function.report {
        own.push((LOG_TYPE.as_str().to_owned(), b"Tail".to_vec()));
    }
    let host = function.host.as_bytes();
    let signing = Signing::new(&function.signer, &Method::POST, &function.target, host).over(own, payload);
    let edits = signing.sign().await.ok_or_else(|| unavailable(service))?;
    let mut exchange = Exchange::begun(call.exchange.connection.clone(), call.exchange.request_id.clone(), Instant::now());
    exchange.traceparent = call.exchange.traceparent;
    exchange.upstream_host = Some(function.host.clone());
    exchange.to_upstream = edits;
    exchange.to_upstream.push(HeaderEdit::Set(header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
    exchange.to_upstream.push(HeaderEdit::Set(INVOCATION_TYPE, HeaderValue::from_static(kind)));
    if function.report {
        exchange.to_upstream.push(HeaderEdit::Set(LOG_TYPE, HeaderValue::from_static("Tail")));
    }
    let mut head = RequestHead::build("POST", &function.target, &[("Host", &function.host)]);
    head.body = BodyFraming::Length(event.len() as u64);
    let inner = Call { head: &head, exchange: &exchange, target: None, fill: None, stands_for: Some(stands_for) };
    let mut framed = Framed { client, frame: event.into() };
    let answer = caller.dispatch_signed(service, &inner, tries, &mut framed, tls, Some(&signing)).await?;
    let is_head = call.fill.is_none() && call.head.method == Method::HEAD;
    Invoked { caller, function, service, is_head }.read(answer, (tries, &mut framed)).await
}

/// The request as it would have been sent, as an event. Its length is known, and paid for, before it is written.
fn event<C: Client>(function: &Function, call: &Call<'_>, body: &Bytes, client: &mut C) -> Result<Vec<u8>, CallError> {
    let parts = Parts {
        head: call.head,
        target: call.target,
        exchange: call.exchange,
        buffered: Some(body.len()).filter(|length| *length > 0),
        empty: body.is_empty(),
        expects: false,
        attempt: 1,
        fill: call.fill,
    };
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        // As it was meant once, and so that nothing is lost.
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    };
    let fields: Vec<(String, String)> = request::listed(&parts).iter().map(|(name, value)| (text(name), text(value))).collect();
    let own;
    let target = match call.target {
        Some(target) => target,
        None => {
            own = request::target(call.head);
            &own
        }
    };
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let asked = Asked {
        method: call.method().as_str(),
        path,
        query,
        host: &text(request::authority(call.head, call.exchange)),
        fields: &fields,
        body,
        version: call.head.version,
        client: call.exchange.client,
        request_id: &call.exchange.request_id,
        route: call.exchange.route.as_deref().unwrap_or_default(),
        params: &call.exchange.params,
        at: unix_seconds(),
    };
    let too_large = || {
        let detail = "The request is longer than an event can be.";
        CallError::Service(Reply::new(StatusCode::PAYLOAD_TOO_LARGE, NAME, "event_too_large", detail))
    };
    let (most, length) = (function.most_event(), asked.body_length());
    if length > most {
        return Err(too_large());
    }
    client.pays(length.saturating_add(4 << 10)).map_err(CallError::Client)?;
    let event = asked.event(function.format, function.multi_value);
    if event.len() > most { Err(too_large()) } else { Ok(event) }
}

/// One invocation's answer on its way.
struct Invoked<'a> {
    caller: &'a Caller,
    function: &'a Arc<Function>,
    service: &'a Service,
    is_head: bool,
}

impl Invoked<'_> {
    async fn read<C: Client>(self, answer: Answer, (tries, client): (&mut Tries, &mut C)) -> Result<Answer, CallError> {
        let status = answer.head.status;
        if !status.is_success() {
            return Err(self.refused(answer, status).await);
        }
        if self.function.invoke == Invoke::Async {
            self.caller.put_away(answer, self.service).await;
            self.function.count(Ended::Well);
            return self.made(Told { status: StatusCode::ACCEPTED, fields: HeaderMap::new(), body: Vec::new() });
        }
        if self.function.invoke == Invoke::Stream {
            return self.stream(answer, (tries, client)).await;
        }
        let failed = first(&answer, FUNCTION_ERROR).map(word);
        if let Some(report) = first(&answer, LOG_RESULT).and_then(Report::read) {
            self.function.count_report(&report);
        }
        let payload = self.payload(answer, (tries, client)).await?;
        if let Some(failed) = failed {
            self.function.count(Ended::Failed);
            tries.failed(self.service, AttemptOutcome::Status(StatusCode::BAD_GATEWAY));
            let detail = "The function has failed.";
            return Err(at_fault(StatusCode::BAD_GATEWAY, "function_error", detail, failed));
        }
        self.returned(&payload, (tries, client))
    }

    /// The answer that was returned as a whole.
    fn returned<C: Client>(&self, payload: &[u8], (tries, client): (&mut Tries, &mut C)) -> Result<Answer, CallError> {
        let read = client.pays_while(json::takes(payload), || answer::read(self.function.format, payload));
        match read.map_err(|none| CallError::Client(none.error))? {
            Ok(told) => {
                self.function.count(Ended::Well);
                if told.status.is_server_error() {
                    tries.failed(self.service, AttemptOutcome::Status(told.status));
                }
                self.made(told)
            }
            Err(bad) => {
                self.function.count(Ended::Unusable);
                Err(self.unusable(tries, bad))
            }
        }
    }

    fn unusable(&self, tries: &mut Tries, bad: Bad) -> CallError {
        tries.failed(self.service, AttemptOutcome::Status(StatusCode::BAD_GATEWAY));
        let detail = "What the function has returned is no answer.";
        at_fault(StatusCode::BAD_GATEWAY, "bad_function_answer", detail, bad.why().into())
    }

    /// The function was not invoked.
    async fn refused(&self, answer: Answer, status: StatusCode) -> CallError {
        let kind = first(&answer, ERROR_TYPE).map_or_else(String::new, word);
        let after = first(&answer, header::RETRY_AFTER.as_str()).and_then(|after| std::str::from_utf8(after).ok()?.parse().ok());
        let decided = format!("{} {kind}", status.as_u16()).trim_end().to_owned();
        self.caller.put_away(answer, self.service).await;
        if status == StatusCode::TOO_MANY_REQUESTS {
            self.function.count(Ended::Throttled);
            let detail = "As many of the function are running as may be.";
            let reply = Reply::new(StatusCode::SERVICE_UNAVAILABLE, NAME, "function_throttled", detail);
            let after = after.map_or(self.service.retry_after, Duration::from_secs);
            return CallError::Service(reply.retry_after(after).of_service().decided_by(decided));
        }
        self.function.count(Ended::Refused);
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            self.function.signer.doubt();
        }
        let detail = "The function could not be invoked.";
        at_fault(StatusCode::BAD_GATEWAY, "invocation_refused", detail, decided)
    }

    /// All that was returned.
    async fn payload<C: Client>(&self, mut answer: Answer, (tries, client): (&mut Tries, &mut C)) -> Result<Vec<u8>, CallError> {
        let mut payload = Vec::new();
        if !answer.head.body.is_done() {
            loop {
                match answer.take() {
                    Ok(Some(Piece::Data(data, last))) => {
                        if payload.len() + data.len() > MOST_ANSWER {
                            self.function.count(Ended::Unusable);
                            let detail = "The function has returned more than it may.";
                            return Err(at_fault(StatusCode::BAD_GATEWAY, "function_answer_too_large", detail, String::new()));
                        }
                        client.pays(data.len()).map_err(CallError::Client)?;
                        payload.extend_from_slice(&data);
                        if last {
                            break;
                        }
                    }
                    Ok(Some(Piece::End | Piece::Trailers(_))) => break,
                    Ok(None) => {
                        if let Err(broken) = answer.more(client, self.service, false).await {
                            if broken.outcome().is_some() {
                                self.function.count(Ended::Broken);
                            }
                            tries.broke(self.service, &broken);
                            return Err(call_error(broken, self.service));
                        }
                    }
                    Err(broken) => {
                        self.function.count(Ended::Broken);
                        tries.failed(self.service, AttemptOutcome::Broken);
                        return Err(call_error(broken, self.service));
                    }
                }
            }
        }
        self.caller.keep(answer, self.service);
        Ok(payload)
    }

    fn made(&self, told: Told) -> Result<Answer, CallError> {
        let Told { status, mut fields, mut body } = told;
        if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            body.clear();
        }
        if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
            fields.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let end = body.is_empty() || self.is_head;
        let body = if end { Bytes::new() } else { body.into() };
        let head = built(status, &fields, end, &self.service.limits).map_err(|bad| CallError::Service(bad.reply()))?;
        Ok(Answer { head, connection: Connection::Made(Box::new(Made::Whole(body, false))), key: None })
    }
}

fn first<'a>(answer: &'a Answer, name: &'a str) -> Option<&'a [u8]> {
    answer.head.header_all(name).next()
}

/// A word of the service's, for the log.
fn word(value: &[u8]) -> String {
    let plain = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    value.iter().take_while(plain).take(64).copied().map(char::from).collect()
}

fn at_fault(status: StatusCode, reason: &'static str, detail: &'static str, decided: String) -> CallError {
    CallError::Service(Reply::new(status, NAME, reason, detail).of_service().decided_by(decided))
}
