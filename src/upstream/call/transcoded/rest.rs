//! Calls of gRPC's to a service that speaks REST ([`crate::transcode::rest`]): the call becomes a request, and the answer to it what a service of
//! gRPC's would have said. That it is asked, retried and counted for is as for any request.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::super::client::Client;
use super::super::{Answer, Broken, Call, CallError, Caller, Connection, Piece, Tries, call_error};
use super::fields::Metadata;
use super::{Framed, Made, NAME, Transcoded, fields, unpaid};
use crate::exchange::{Deadline, Exchange};
use crate::grpc::{self, Dialect, GRPC_MESSAGE, GRPC_RETRY_PUSHBACK, GRPC_STATUS};
use crate::head::{BodyFraming, HeaderEdit, RequestHead};
use crate::reply::Reply;
use crate::transcode::frames::{Bad, Frames};
use crate::transcode::rest::{self, Rest};
use crate::transcode::{Told, Transcoder};
use crate::upstream::{Service, TlsConnector};
use crate::wire::coding::is_coded;
use crate::wire::media::is_json;

/// The most of a failed answer that is read for what it says.
const MOST_SAID: usize = 64 * 1024;
const INTERNAL: u8 = 13;

/// Makes the request that a call means.
///
/// # Errors
/// See [`CallError`]. A call that means none is refused.
pub async fn send<C: Client>(
    caller: &Caller,
    transcoder: &Arc<Transcoder>,
    service: &Service,
    call: &Call<'_>,
    (tries, client): (&mut Tries, &mut C),
    tls: &Arc<TlsConnector>,
) -> Result<Answer, CallError> {
    // A call that means no request need not be read.
    let rest = transcoder.rest(call.target().0).map_err(CallError::Service)?;
    let body = client.whole(transcoder.max_message.saturating_add(5)).await.map_err(CallError::Client)?;
    ask(caller, rest, service, call, body, (tries, client), tls).await
}

/// The same with the call's body at hand, and what it means.
///
/// # Errors
/// As [`send`].
pub async fn ask<C: Client>(
    caller: &Caller,
    rest: Rest<'_>,
    service: &Service,
    call: &Call<'_>,
    body: Bytes,
    (tries, client): (&mut Tries, &mut C),
    tls: &Arc<TlsConnector>,
) -> Result<Answer, CallError> {
    let transcoder = rest.transcoder;
    let message = only(&body, transcoder.max_message).map_err(CallError::Service)?;
    let takes = rest.takes(&message).map_err(CallError::Service)?;
    let asked = client.pays_while(takes, || rest.request(&message)).map_err(unpaid)?.map_err(CallError::Service)?;
    drop((body, message));
    let (kind, body) = match asked.body {
        None => (None, Bytes::new()),
        Some(Told { content_type, body }) => {
            let json = HeaderValue::from_static("application/json");
            let kind = content_type.map_or(Some(json), |kind| HeaderValue::try_from(kind).ok());
            (kind, Bytes::from(body))
        }
    };
    client.pays(body.len()).map_err(CallError::Client)?;
    let head = request(call, &asked.verb, &asked.target, kind.is_some().then_some(body.len()));
    let exchange = exchange(call.exchange, kind);
    tries.callers_deadline = exchange.deadline.is_some_and(Deadline::is_callers);
    tries.transcoded = Some(Box::new(Transcoded { method: rest.method.path.clone(), status: None }));
    let inner = Call { head: &head, exchange: &exchange, target: Some(&asked.target), fill: None, stands_for: None };
    let mut framed = Framed { client, frame: body };
    let mut answer = caller.authorised(service, &inner, tries, &mut framed, tls).await?;
    let status = answer.head.status;
    let most = if status.is_success() { transcoder.max_json() } else { MOST_SAID };
    let body = whole(&mut answer, most, service, (tries, &mut framed)).await?;
    let metadata = Metadata::of(&answer.head);
    // What is left of one that is too long is not waited for.
    if body.is_some() {
        caller.keep(answer, service);
    }
    let head = &metadata.fields();
    let told = match (status.is_success(), body) {
        (false, body) => Err(failure(status, head, &body.unwrap_or_default())),
        (true, None) => Err((INTERNAL, "The service's answer is larger than it may be.".to_owned())),
        (true, Some(body)) => message_of(&rest, head, &body, framed.client)?,
    };
    let code = told.as_ref().map_or_else(|(code, _)| *code, |_| 0);
    transcoder.count(code.into());
    if let Some(transcoded) = &mut tries.transcoded {
        transcoded.status = Some(code.into());
    }
    let pushback = head.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    made(told, pushback, metadata, service)
}

/// The one message of a call that is none of streams.
fn only(body: &[u8], most: usize) -> Result<Bytes, Box<Reply>> {
    let refused = |status, reason, detail| Err(Reply::new(status, NAME, reason, detail));
    let mut frames = Frames::new(most);
    frames.add(body);
    match frames.message() {
        Ok(Some(message)) if !frames.is_cut() => Ok(message),
        Ok(_) => refused(StatusCode::BAD_REQUEST, "unfit_message", "The call has not one whole message."),
        Err(Bad::TooLarge) => {
            refused(StatusCode::PAYLOAD_TOO_LARGE, "message_too_large", "The message is larger than the service takes.")
        }
        Err(Bad::Compressed) => {
            let detail = "Messages are taken uncompressed here.";
            refused(StatusCode::NOT_IMPLEMENTED, "content_encoding_unsupported", detail)
        }
    }
}

/// The head of the request.
fn request(call: &Call<'_>, verb: &Method, target: &str, length: Option<usize>) -> RequestHead {
    let mut head = call.head.clone();
    head.remove_fields(fields::is_about_the_message);
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    path.clone_into(&mut head.path);
    (head.method, head.query, head.spelling) = (verb.clone(), None, None);
    head.set_query(query);
    head.body = length.map_or(BodyFraming::None, |length| BodyFraming::Length(length as u64));
    (head.expects_continue, head.upgrade) = (false, false);
    head
}

fn exchange(exchange: &Exchange, kind: Option<HeaderValue>) -> Exchange {
    let mut call = exchange.retold();
    call.to_upstream.retain(|edit| !fields::is_about_the_message(edit.name().as_str().as_bytes()));
    call.to_upstream.extend(kind.map(|kind| HeaderEdit::Set(header::CONTENT_TYPE, kind)));
    call.to_upstream.push(HeaderEdit::Set(header::ACCEPT, HeaderValue::from_static("application/json")));
    call.to_upstream.push(HeaderEdit::Set(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    call.deadline = exchange.deadline.map(|deadline| Deadline { grpc: false, ..deadline });
    call
}

/// An answer's body. `None`: it is longer.
async fn whole<C: Client>(
    answer: &mut Answer,
    most: usize,
    service: &Service,
    (tries, client): (&mut Tries, &mut C),
) -> Result<Option<Bytes>, CallError> {
    if answer.head.body.is_done() {
        return Ok(Some(Bytes::new()));
    }
    let mut body = bytes::BytesMut::new();
    let lost = |tries: &mut Tries, broken: Broken| {
        tries.broke(service, &broken);
        call_error(broken, service)
    };
    loop {
        match answer.take() {
            Ok(Some(Piece::Data(data, last))) => {
                tries.body_came(service);
                if data.len() > most.saturating_sub(body.len()) {
                    return Ok(None);
                }
                client.pays(data.len()).map_err(CallError::Client)?;
                body.extend_from_slice(&data);
                if last {
                    return Ok(Some(body.freeze()));
                }
            }
            Ok(Some(Piece::Trailers(_) | Piece::End)) => return Ok(Some(body.freeze())),
            Ok(None) => {
                if let Err(broken) = answer.more(client, service, false).await {
                    return Err(lost(tries, broken));
                }
            }
            Err(broken) => return Err(lost(tries, broken)),
        }
    }
}

/// A call's message, or its code and what is said of it.
type Ended = Result<Bytes, (u8, String)>;

fn message_of<C: Client>(rest: &Rest<'_>, fields: &HeaderMap, body: &[u8], client: &mut C) -> Result<Ended, CallError> {
    let kind = fields.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if fields.get_all(header::CONTENT_ENCODING).iter().any(|line| is_coded(line.as_bytes())) {
        return Ok(Err((INTERNAL, "The service's answer has a coding, which nobody has asked for.".to_owned())));
    }
    let made = match client.pays_meanwhile(|pay| rest.answer(kind, body, pay)) {
        Ok(made) => made,
        Err(none) if none.ever => Err(rest::TOO_MUCH),
        Err(none) => return Err(CallError::Client(none.error)),
    };
    Ok(match made {
        Ok(frame) => {
            client.pays(frame.len()).map_err(CallError::Client)?;
            Ok(frame.into())
        }
        Err(why) => Err((INTERNAL, format!("The service's answer cannot be made into a message: {why}."))),
    })
}

fn failure(status: StatusCode, fields: &HeaderMap, body: &[u8]) -> (u8, String) {
    let json = fields.get(header::CONTENT_TYPE).is_some_and(|kind| is_json(kind.as_bytes()));
    let named = if json { rest::named(body) } else { None };
    let said = if json { rest::said(body) } else { None };
    (named.unwrap_or_else(|| rest::code(status)), said.unwrap_or_else(|| format!("The service answers {status}.")))
}

/// What the client gets. `pushback`: in how many seconds it may come again.
fn made(ended: Ended, pushback: Option<u64>, from: Metadata, service: &Service) -> Result<Answer, CallError> {
    let mut fields = from.fitting().into_fields(HeaderValue::from_static(Dialect::Grpc.media_type()), false);
    for name in [header::CONTENT_LENGTH, header::WWW_AUTHENTICATE, header::TRAILER] {
        fields.remove(name);
    }
    let mut trailers = HeaderMap::new();
    let (code, said) = ended.as_ref().map_or_else(|(code, said)| (*code, said.as_str()), |_| (0, ""));
    trailers.insert(GRPC_STATUS, HeaderValue::from(u16::from(code)));
    if let Some(message) = HeaderValue::try_from(grpc::message(said)).ok().filter(|_| code != 0) {
        trailers.insert(GRPC_MESSAGE, message);
    }
    if let Some(seconds) = pushback.filter(|_| code != 0) {
        trailers.insert(GRPC_RETRY_PUSHBACK, HeaderValue::from(seconds.saturating_mul(1000)));
    }
    let told = match ended {
        Ok(frame) => Made::Call(Some(frame), Some(trailers)),
        // All there is stands in the head.
        Err(_) => {
            fields.extend(trailers);
            Made::Call(None, None)
        }
    };
    let end = matches!(told, Made::Call(None, None));
    let head = super::built(StatusCode::OK, &fields, end, &service.limits);
    let head = head.map_err(|bad| CallError::Service(bad.reply()))?;
    Ok(Answer { head, connection: Connection::Made(Box::new(told)), key: None })
}
