//! Answers of the gateway's own, and what a client is told about a failure.

use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};
use pingora_core::protocols::http::HttpTask;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::Session;

use super::body::{DRAIN_TIME, broken_on_its_way};
use super::staged::Staged;
use crate::downstream::{CLIENT_GONE, UNREAD, reply_parts};
use crate::head::BodyFraming;
use crate::journey::{Given, Journey, body_refusal};
use crate::reply::Reply;
use crate::upstream::connect_failure;
use crate::wire::answer::BadAnswer;
use crate::wire::encode::is_bodiless;

/// How long a client may go on sending that has its answer: as long as nginx waits (`lingering_time`, `lingering_timeout`).
const LINGERING: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(5);
/// The same for an answered stream.
const MOMENT: Duration = Duration::from_secs(1);
/// Clients that may do so at once.
pub const MOST_LINGERING: usize = 4096;

/// The request's time was over in the middle of its answer.
pub const LATE: ErrorType = ErrorType::Custom("RequestTimeout");

/// Notes a refusal and gives it to the client. The connection stays open where HTTP allows it.
///
/// # Errors
/// The client cannot be written to.
pub async fn refuse(session: &mut Session, journey: &mut Journey, reply: &Reply) -> Result<()> {
    journey.refused(reply);
    keep_or_close(session, journey, reply.close);
    send(session, reply, journey).await
}

/// Reads and drops what a client goes on to send that has its answer. Many write their whole request before they look, and a connection
/// that is closed meanwhile is reset, which takes the answer with it (RFC 9112, section 9.6).
pub async fn linger(session: &mut Session) {
    if let Some(closed) = session.watch_h2_stream_close() {
        // Leaving it resets the stream, and clients that are still sending (curl 7.88 is one) forget the answer over the reset.
        let _ = tokio::time::timeout(MOMENT, closed).await;
        return;
    }
    if session.get_keepalive().is_some() {
        return;
    }
    session.set_read_timeout(Some(SILENCE));
    let reading = async { while let Ok(Some(_)) = session.read_request_body().await {} };
    // What comes of it makes no difference any more.
    let _ = tokio::time::timeout(LINGERING, reading).await;
}

/// A body that is short and on its way is read and dropped, so that the connection can be kept; for any other one it is closed.
fn keep_or_close(session: &mut Session, journey: &Journey, close: bool) {
    let short = match journey.head.body {
        BodyFraming::Length(length) => length <= UNREAD,
        BodyFraming::None | BodyFraming::Streamed => true,
    };
    let short = short && !journey.head.expects_continue;
    if close || !(short || session.is_body_done()) {
        session.set_keepalive(None);
    } else if !session.is_body_done() {
        session.set_close_on_response_before_downstream_finish(false);
        session.set_total_drain_timeout(Some(DRAIN_TIME));
    }
}

/// Writes an answer of the gateway's own, whole.
///
/// # Errors
/// The client cannot be written to.
pub async fn send(session: &mut Session, reply: &Reply, journey: &Journey) -> Result<()> {
    let (mut answer, body) = reply_parts(reply, journey.wording(), &journey.exchange.to_client, &journey.exchange.request_id)?;
    if !session.is_http2() && !is_bodiless(answer.status) && !answer.headers.contains_key(header::CONTENT_LENGTH) {
        // A call's refusal ends with its head over HTTP/2. Over HTTP/1.1 it would end with the connection, which stays.
        answer.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    if journey.head.method == http::Method::HEAD || body.is_empty() {
        // The head is all there is, and says so: a call's status that came before an end of its own would be no status.
        return session.write_response_tasks(vec![HttpTask::Header(Box::new(answer), true)]).await.map(drop);
    }
    session.write_response_header(Box::new(answer), false).await?;
    session.write_response_body(Some(Bytes::from(body)), true).await?;
    // Pingora does not finish an exchange that failed; unfinished, the client's connection would be closed without a word.
    session.as_downstream_mut().finish_body().await
}

/// Gives what a route answers by itself.
///
/// # Errors
/// The client cannot be written to.
pub async fn give(session: &mut Session, journey: &Journey, given: Given) -> Result<()> {
    let Given { mut head, mut body, stages } = given;
    keep_or_close(session, journey, false);
    if let Some(stages) = stages {
        body = Staged::new(stages, &head).piece(body, true).unwrap_or_default();
    }
    let bodiless = is_bodiless(head.status);
    if !bodiless && journey.head.method != http::Method::HEAD {
        // Stages may have changed it.
        head.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    if bodiless || body.is_empty() || journey.head.method == http::Method::HEAD {
        return session.write_response_tasks(vec![HttpTask::Header(head, true)]).await.map(drop);
    }
    session.write_response_header(head, false).await?;
    session.write_response_body(Some(body), true).await?;
    session.as_downstream_mut().finish_body().await
}

/// What the client is told about a failure; `None` if the client itself is the one that went away.
pub fn explain(error: &Error, journey: &Journey) -> Option<Box<Reply>> {
    use ErrorType::*;
    let kind = broken_on_its_way(error);
    if let Some(reply) = body_refusal(kind.as_ref().unwrap_or(&error.etype)) {
        return Some(reply);
    }
    if error.etype == CLIENT_GONE || *error.esource() == ErrorSource::Downstream {
        return None;
    }
    if error.etype == LATE || journey.deadline().is_some_and(|left| left.is_zero()) {
        return Some(journey.out_of_time().closing());
    }
    if let Some(reply) = connect_failure(&error.etype) {
        return Some(reply);
    }
    if was_refused(error) {
        let wait = journey.service().map_or(Duration::from_secs(1), |service| service.retry_after);
        let detail = "The backend refused the request before it did anything about it.";
        let reply = Reply::new(StatusCode::SERVICE_UNAVAILABLE, "upstream", "upstream_refused", detail);
        return Some(reply.retry_after(wait));
    }
    let (status, reason, detail) = match &error.etype {
        _ if h2_cause(error).is_some_and(|cause| cause.is_reset() && cause.is_remote()) => {
            (StatusCode::BAD_GATEWAY, "upstream_reset", "The backend broke the request off.")
        }
        ReadTimedout | WriteTimedout => (StatusCode::GATEWAY_TIMEOUT, "response_timeout", "The backend did not answer in time."),
        InvalidHTTPHeader if is_beyond_pingora(error) => return Some(BadAnswer::TooLarge.reply()),
        InvalidHTTPHeader | H1Error | H2Error | InvalidH2 => return Some(BadAnswer::Malformed.reply()),
        ConnectionClosed | ReadError | WriteError => {
            (StatusCode::BAD_GATEWAY, "connection_lost", "The connection to the backend was lost.")
        }
        _ => (StatusCode::BAD_GATEWAY, "upstream_error", "The backend could not answer."),
    };
    Some(Reply::new(status, "upstream", reason, detail))
}

/// Whether the backend has said that it did nothing about the request: it may be asked for again then, whatever the method (RFC 9113,
/// section 8.7). Streams above the last one that a GOAWAY names are the only ones that it ends.
pub fn was_refused(error: &Error) -> bool {
    h2_cause(error).is_some_and(|cause| {
        let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        cause.is_remote() && (refused || cause.is_go_away())
    })
}

fn h2_cause(error: &Error) -> Option<&h2::Error> {
    error.root_cause().downcast_ref()
}

/// Whether Pingora's reader gave up on the size of an answer's head, which it bounds on its own as well.
fn is_beyond_pingora(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<httparse::Error>();
    cause.is_some_and(|cause| *cause == httparse::Error::TooManyHeaders)
        || error.to_string().contains("Response header larger than")
}
