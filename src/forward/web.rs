//! gRPC-Web to a service of gRPC: the call is made in gRPC's words, and the answer told in the client's.

use http::{HeaderValue, header};
use pingora_error::Error;

use crate::downstream::Downstream;
use crate::grpc::Dialect;
use crate::grpc::web::{Web, as_grpc};
use crate::head::{BodyFraming, HeaderEdit};
use crate::journey::{Journey, body_refusal, too_large};
use crate::reply::Reply;
use crate::upstream::call::Answer;
use crate::upstream::reflection::Transcoding;
use crate::upstream::{Protocol, Service};

/// Makes a call of gRPC of what a browser asks, where the service takes nothing else.
///
/// # Errors
/// The refusal of a body that is no base64, where the client said that it would be.
pub fn begin(journey: &mut Journey, down: &mut Downstream, service: &Service) -> Result<(), Box<Reply>> {
    if service.protocol != Protocol::Grpc && !service.transcoding().is_some_and(Transcoding::serves_grpc) {
        return Ok(());
    }
    let asked = journey.head.header("content-type").unwrap_or_default();
    let dialect = Dialect::of(asked);
    let (Some(web), Some(kind)) = (Web::wanted(dialect, journey.head.header("accept")), as_grpc(asked)) else { return Ok(()) };
    if dialect == Dialect::WebText {
        down.read_text().map_err(|error| refused(&error))?;
        // What is sent has another length.
        journey.head.body = BodyFraming::Streamed;
    }
    down.bound_messages().map_err(|error| refused(&error))?;
    let edits = &mut journey.exchange.to_upstream;
    edits.push(HeaderEdit::Set(header::CONTENT_TYPE, kind));
    // Servers of gRPC insist on it.
    edits.push(HeaderEdit::Set(header::TE, HeaderValue::from_static("trailers")));
    journey.dialect = web.dialect();
    journey.web = Some(web);
    Ok(())
}

fn refused(error: &Error) -> Box<Reply> {
    body_refusal(&error.etype).unwrap_or_else(too_large)
}

/// Tells the client of the answer's form. What is no gRPC, as from something before the service, goes on as it came.
pub fn dress(answer: &mut Answer, journey: &mut Journey) {
    let Some(web) = journey.web else { return };
    let Some(kind) = answer.head.header_all("content-type").next().and_then(|kind| web.content_type(kind)) else {
        journey.web = None;
        return;
    };
    let edits = &mut journey.exchange.to_client;
    edits.push(HeaderEdit::Set(header::CONTENT_TYPE, kind));
    // The trailers come on top.
    if answer.head.length.take().is_some() {
        edits.push(HeaderEdit::Remove(header::CONTENT_LENGTH));
    }
}
