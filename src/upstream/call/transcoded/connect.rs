//! Unary calls of the Connect protocol ([`crate::grpc::connect`]) to a service of gRPC's: the request becomes a call, and the call's answer what a
//! server of Connect's would have answered. That is a plain answer of HTTP's, so that nobody else has to know: a cache, a mirror, a policy.

mod asked;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::super::client::Client;
use super::super::{Call, CallError, Caller, Tries};
use super::collect::{Collected, Collecting};
use super::{
    Answered, DETAILS, Framed, Transcoded, failure_fields, fields, pushback, rest, said, told, unfit_metadata, unknown, unpaid,
    whole,
};
use crate::exchange::Deadline;
use crate::grpc::connect::{self, Codec};
use crate::grpc::{self, metadata};
use crate::head::{Field, HeaderEdit, RequestHead, Span};
use crate::reply::{Reply, connect_error, in_seconds};
use crate::transcode::{Answering, Transcoder, status};
use crate::upstream::connect_calls::ConnectCalls;
use crate::upstream::reflection::Transcoding;
use crate::upstream::{Service, TlsConnector};
use asked::Asked;

const NAME: &str = "connect_rpc";

/// What is taken of these calls, where a request that is none of gRPC's is one, and the service is to be sent it as a call of gRPC's.
pub fn meant<'s>(service: &'s Service, call: &Call<'_>) -> Option<&'s Arc<ConnectCalls>> {
    let calls = service.connect.as_ref()?;
    if call.head.upgrade {
        return None;
    }
    let (path, query) = call.target();
    let says_version = || call.head.header(connect::VERSION).is_some();
    if !connect::is_call(call.method(), call.content_type(), says_version, query.map(str::as_bytes)) {
        return None;
    }
    // Where requests mean something by their paths, a type alone says less: it may be that of a raw body.
    match service.transcoding().and_then(Transcoding::now) {
        Some(transcoder) if transcoder.serves_grpc() || !says_version() => transcoder.called(path).map(|_| calls),
        _ => Some(calls),
    }
}

/// Makes the call.
///
/// # Errors
/// See [`CallError`]. What is none is refused.
pub async fn send<C: Client>(
    caller: &Caller,
    calls: &ConnectCalls,
    service: &Service,
    call: &Call<'_>,
    (tries, client): (&mut Tries, &mut C),
    tls: &Arc<TlsConnector>,
) -> Answered {
    let refuse = CallError::Service;
    let (path, query) = call.target();
    let transcoder = service.transcoding().and_then(Transcoding::now);
    let known = transcoder.as_deref();
    let most = calls.max_message(known);
    let asked = Asked::of(call, query).map_err(refuse)?;
    let called = known.and_then(|known| known.called(path));
    if called.is_some_and(|called| called.method.streams || called.method.takes_stream) {
        return Err(refuse(streams()));
    }
    if asked.is_get() && !calls.may_get(path, called.map(|called| called.method)) {
        if known.is_none() && service.transcodes() {
            return Err(refuse(unknown(service)));
        }
        let detail = "This method may change something, and is called by POST.";
        let reply = Reply::new(StatusCode::METHOD_NOT_ALLOWED, NAME, "get_not_allowed", detail);
        return Err(refuse(reply.header(header::ALLOW, HeaderValue::from_static("POST"))));
    }
    let own = binary_apart(call.head);
    let call = &Call { head: &own, ..*call };
    if !call.is_fit() {
        return Err(refuse(unfit_metadata()));
    }
    let translated = asked.codec == Codec::Json && !calls.json;
    let longest = match (translated, known) {
        (true, Some(known)) => known.max_json().min(client.most_memory()),
        _ => most,
    };
    // What cannot be translated need not be read.
    let called = match (translated, known, called) {
        (false, ..) => None,
        (true, None, _) if service.transcodes() => return Err(refuse(unknown(service))),
        (true, None, _) => return Err(refuse(no_json())),
        (true, Some(_), None) => return Err(refuse(Transcoder::no_method())),
        (true, Some(_), called) => called,
    };
    let message = asked.message(call, longest, client).await?;
    let frame: Bytes = match &called {
        Some(called) => {
            let framed = client.pays_meanwhile(|pay| called.frame(&message, pay)).map_err(unpaid)?;
            framed.map_err(refuse)?.into()
        }
        None => grpc::framed(0, &message),
    };
    drop(message);
    client.pays(frame.len()).map_err(CallError::Client)?;
    let mut head = fields::request(call, path, Some(frame.len()));
    head.remove_fields(is_reserved);
    let mut exchange = fields::exchange(call.exchange, false);
    if asked.codec == Codec::Json && !translated {
        exchange.to_upstream.push(HeaderEdit::Set(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc+json")));
    }
    tries.callers_deadline = exchange.deadline.is_some_and(Deadline::is_callers);
    tries.transcoded = Some(Box::new(Transcoded { method: path.into(), status: None }));
    let inner = Call { head: &head, exchange: &exchange, target: None, fill: None, stands_for: Some(call.method()) };
    let answer = match &transcoder {
        Some(transcoder) if transcoder.serves_grpc() => {
            let rest = transcoder.rest(path).map_err(refuse)?;
            rest::ask(caller, rest, service, &inner, frame.clone(), (tries, client), tls).await?
        }
        _ => caller.authorised(service, &inner, tries, &mut Framed { client, frame: frame.clone() }, tls).await?,
    };
    let mut framed = Framed { client, frame };
    let collecting = Collecting { caller, service, most, uploads: false, streams: Some(streams) };
    let collected = collecting.collect(answer, tries, &mut framed).await?;
    let code = u8::try_from(collected.code).unwrap_or(2);
    calls.count(code);
    if let Some(transcoded) = &mut tries.transcoded {
        transcoded.status = Some(code.into());
    }
    let is_head = call.fill.is_none() && call.head.method == Method::HEAD;
    if code != 0 {
        return failed(code, collected, is_head, service);
    }
    let Collected { leading, trailing, message, .. } = collected;
    let message = collecting.message(message, tries)?;
    let body = match called.map(|called| called.answering()) {
        None => message,
        Some(answering) => json(&answering, &message, &mut framed)?,
    };
    let mut fields = leading.into_fields(HeaderValue::from_static(asked.codec.media_type()), false);
    add_trailing(&mut fields, trailing);
    whole(StatusCode::OK, fields, body, is_head, service)
}

fn json<C: Client>(answering: &Answering, message: &[u8], client: &mut C) -> Result<Bytes, CallError> {
    let told = told(answering, message, client)?;
    client.pays(told.body.len()).map_err(CallError::Client)?;
    Ok(told.body.into())
}

/// A call that has failed, as Connect's error.
fn failed(code: u8, collected: Collected, is_head: bool, service: &Service) -> Answered {
    let Collected { leading, trailing, .. } = collected;
    let head = leading.fields();
    let end = if trailing.is_empty() { &head } else { &trailing };
    let details = end.get(DETAILS).map(|details| status::details(details.as_bytes())).unwrap_or_default();
    let body = connect_error(code, &said(end).unwrap_or_default(), &details);
    let wait = pushback(end);
    let status = status::http(code);
    let mut fields = leading.into_fields(HeaderValue::from_static(Codec::Json.media_type()), false);
    add_trailing(&mut fields, trailing);
    if let Some(wait) = wait {
        fields.insert(header::RETRY_AFTER, in_seconds(wait));
    }
    failure_fields(status, &mut fields);
    whole(status, fields, body.into(), is_head, service)
}

/// What came behind the message, by names that say so.
fn add_trailing(fields: &mut HeaderMap, trailing: HeaderMap) {
    fields::remove(fields, |name| is_reserved(name.as_str().as_bytes()));
    for (name, value) in &trailing {
        let is_metadata = !fields::is_own(name.as_str().as_bytes()) && !is_reserved(name.as_str().as_bytes());
        let prefixed = HeaderName::try_from(format!("{}{name}", connect::TRAILER));
        if let Ok(prefixed) = prefixed
            && is_metadata
        {
            // Only an absurd number of fields could be too many.
            let _ = fields.try_append(prefixed, value.clone());
        }
    }
}

/// Whether a field is for Connect alone.
fn is_reserved(name: &[u8]) -> bool {
    fields::begins(name, connect::RESERVED.as_bytes())
}

/// The head with each binary value in a field of its own: clients join those of one name with commas, and many a server of gRPC's takes no list.
fn binary_apart(head: &RequestHead) -> Cow<'_, RequestHead> {
    let is_list = |field: &Field| {
        let (name, value) = (field.name.of(&head.buffer), field.value.of(&head.buffer));
        metadata::is_binary(name) && value.contains(&b',')
    };
    if !head.fields.iter().any(is_list) {
        return Cow::Borrowed(head);
    }
    let mut apart = head.clone();
    apart.fields.clear();
    for field in &head.fields {
        if !is_list(field) {
            apart.fields.push(*field);
            continue;
        }
        let mut start = field.value.start;
        for value in field.value.of(&head.buffer).split(|&byte| byte == b',') {
            let trimmed = value.trim_ascii();
            let before = value.len() - value.trim_ascii_start().len();
            // A head is shorter than 4 GiB.
            let from = start + u32::try_from(before).unwrap_or_default();
            let to = from + u32::try_from(trimmed.len()).unwrap_or_default();
            apart.fields.push(Field { name: field.name, value: Span { start: from, end: to } });
            start += u32::try_from(value.len() + 1).unwrap_or_default();
        }
    }
    Cow::Owned(apart)
}

fn no_json() -> Box<Reply> {
    let detail = "Messages in JSON are not taken here: what the service's methods are is not known.";
    Reply::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, NAME, "codec_unsupported", detail)
}

fn streams() -> Box<Reply> {
    let detail = "This method is a stream of messages, and is called by gRPC, or by gRPC-Web.";
    Reply::new(StatusCode::NOT_IMPLEMENTED, NAME, "streaming_method", detail)
}
