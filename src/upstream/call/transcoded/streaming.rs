//! The messages of a call as they come, each written as soon as it is there. One is held at a time, and what has come of the next.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode};
use std::sync::Arc;

use super::super::{Answer, Broken, Call, CallError, Client, Piece, Tries, call_error, said};
use super::fields::filter_trailers;
use super::uploading::{self, Uploading, Uploads};
use super::{NAME, bad_frame, problem, unfit_answer};
use crate::exchange::RequestId;
use crate::grpc::GRPC_STATUS;
use crate::reply::Reply;
use crate::transcode::frames::Frames;
use crate::transcode::{Answering, Transcoder};
use crate::upstream::{AttemptOutcome, Service};
use crate::wire::media::{essence, is_lines};

/// How messages are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One array of JSON.
    Array,
    /// A line each.
    Lines,
    /// Server-sent events.
    Events,
    /// Bodies that the service has made, one behind the other.
    Raw,
}

impl Form {
    /// What the client would rather have: the first that it names. A policy that says what is to be accepted says it for the client.
    pub fn wanted(answering: &Answering, call: &Call<'_>) -> Form {
        if answering.is_raw() {
            return Form::Raw;
        }
        let accepted = call.lines("accept").into_iter().flat_map(|accept| accept.split(|&byte| byte == b','));
        let form = |range: &[u8]| match &*essence(range) {
            b"application/json" => Some(Form::Array),
            b"text/event-stream" => Some(Form::Events),
            _ => is_lines(range).then_some(Form::Lines),
        };
        accepted.filter(|range| !is_refused(range)).filter_map(form).next().unwrap_or(Form::Array)
    }

    pub fn kind(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Form::Array => "application/json",
            Form::Lines => "application/x-ndjson",
            Form::Events => "text/event-stream",
            Form::Raw => "application/octet-stream",
        })
    }

    /// What no message at all is.
    pub fn empty(self) -> &'static [u8] {
        if self == Form::Array { b"[]" } else { b"" }
    }

    fn message(self, is_first: bool, body: &[u8], out: &mut BytesMut) {
        let (before, after): (&[u8], &[u8]) = match self {
            Form::Array => (if is_first { b"[" } else { b"," }, b""),
            Form::Lines => (b"", b"\n"),
            Form::Events => (b"data: ", b"\n\n"),
            Form::Raw => (b"", b""),
        };
        for part in [before, body, after] {
            out.extend_from_slice(part);
        }
    }

    /// What a client is told of a call that fails in the middle. An array is left open, so that nobody takes it for the whole.
    fn failure(self, is_first: bool, problem: &[u8], out: &mut BytesMut) {
        let problem = [b"{\"error\":", problem.trim_ascii(), b"}"].concat();
        match self {
            Form::Events => {
                out.extend_from_slice(b"event: error\n");
                self.message(is_first, &problem, out);
            }
            Form::Raw => {}
            Form::Array | Form::Lines => self.message(is_first, &problem, out),
        }
    }

    /// Whether a failure that was told ends the answer as it would end anyway.
    pub fn ends_well(self) -> bool {
        matches!(self, Form::Lines | Form::Events)
    }
}

/// Whether a media range is there to say that it is not wanted (`q=0`).
fn is_refused(range: &[u8]) -> bool {
    range.split(|&byte| byte == b';').skip(1).any(|parameter| {
        let weight = parameter.trim_ascii();
        let weight = weight.strip_prefix(b"q=").or_else(|| weight.strip_prefix(b"Q="));
        let zero = |weight: &[u8]| weight.iter().all(|byte| matches!(byte, b'0' | b'.')) && !weight.is_empty();
        weight.is_some_and(zero)
    })
}

/// What is known with the first message of a raw answer.
pub enum First {
    /// Of what kind it is.
    Kind(HeaderValue),
    /// The call has failed before there was one.
    Failed(u32, HeaderMap),
}

/// See the module.
pub struct Streaming {
    answer: Answer,
    form: Form,
    answering: Answering,
    transcoder: Arc<Transcoder>,
    request_id: RequestId,
    frames: Frames,
    /// A message was told.
    begun: bool,
    /// What is to be told next.
    ready: BytesMut,
    /// How much the heaviest message took while it was told.
    heaviest: usize,
    /// How much memory was paid for.
    paid: usize,
    /// What is left of a request that is a stream itself.
    pub uploads: Option<Box<Uploads>>,
    end: End,
}

enum End {
    /// More comes.
    Open,
    Trailers(HeaderMap),
    /// It has failed, and the form has no other way to say that what came is not the whole.
    Broken(Broken),
    Over,
}

impl Streaming {
    pub fn new(answer: Answer, form: Form, answering: Answering, transcoder: Arc<Transcoder>, request_id: RequestId) -> Self {
        let frames = Frames::new(transcoder.max_message);
        Streaming {
            answer,
            form,
            answering,
            transcoder,
            request_id,
            frames,
            begun: false,
            ready: BytesMut::new(),
            heaviest: 0,
            paid: 0,
            uploads: None,
            end: End::Open,
        }
    }

    /// How much more memory it has taken than was paid for.
    pub fn owes(&mut self) -> usize {
        let held = self.frames.held() + self.ready.capacity() + self.heaviest;
        let more = held.saturating_sub(self.paid);
        self.paid += more;
        more
    }

    /// The call's own answer.
    pub fn answer(&mut self) -> &mut Answer {
        &mut self.answer
    }

    pub fn into_answer(self) -> Answer {
        self.answer
    }

    /// Waits for more of the call's answer, and sends what is left of the request meanwhile. It may be silent for as long as a stream may.
    pub async fn more<C: Client>(&mut self, client: &mut C, service: &Service) -> Result<(), Broken> {
        let Some(uploads) = &mut self.uploads else {
            let more = self.answer.more_of_service(client, service, true).await;
            return self.came(more);
        };
        let more = self.answer.more_of_service(&mut Uploading { client, uploads }, service, true).await;
        let Some(reply) = uploads.refused.take() else { return self.came(more) };
        // The client has sent what cannot be made into a message. What was answered so far stands, and the call ends here.
        self.fails(&reply, Broken::Ended(Box::new(uploading::trailers(&reply))));
        Ok(())
    }

    /// Where the service's side has failed in the middle, the client is told so.
    fn came(&mut self, more: Result<(), Broken>) -> Result<(), Broken> {
        match more {
            Err(broken) if !matches!(broken, Broken::Client(_)) => self.fails(&said(&broken), broken),
            more => return more,
        }
        Ok(())
    }

    /// Whether the service has answered, whole, before it had the whole request.
    pub fn is_early(&self) -> bool {
        self.answer.is_early()
    }

    /// Waits for the first message, and says what it is.
    pub async fn first<C: Client>(
        &mut self,
        service: &Service,
        (tries, client): (&mut Tries, &mut C),
    ) -> Result<First, CallError> {
        let octets = First::Kind(HeaderValue::from_static("application/octet-stream"));
        loop {
            client.pays(self.owes()).map_err(CallError::Client)?;
            let message = self.frames.message().map_err(|bad| {
                tries.failed(service, AttemptOutcome::Broken);
                CallError::Service(bad_frame(bad))
            })?;
            if let Some(message) = message {
                let told = super::told(&self.answering, &message, client)?;
                self.begun = true;
                self.ready.extend_from_slice(&told.body);
                return Ok(told.content_type.and_then(|kind| HeaderValue::try_from(kind).ok()).map_or(octets, First::Kind));
            }
            match self.answer.take() {
                Ok(Some(Piece::Data(data, _))) => {
                    tries.body_came(service);
                    self.frames.add(&data);
                }
                Ok(Some(Piece::Trailers(fields))) => {
                    tries.ended_with(service, &fields);
                    let code = fields.get(GRPC_STATUS).map_or(2, |code| super::code_of(code.as_bytes()));
                    if code != 0 {
                        return Ok(First::Failed(code, fields));
                    }
                    self.ends(fields);
                    return Ok(octets);
                }
                Ok(Some(Piece::End)) => {
                    self.end = End::Broken(Broken::MidAnswer);
                    return Ok(octets);
                }
                Ok(None) => {
                    if let Err(broken) = self.answer.more(client, service, true).await {
                        tries.broke(service, &broken);
                        return Err(call_error(broken, service));
                    }
                }
                Err(broken) => {
                    tries.failed(service, AttemptOutcome::Broken);
                    return Err(call_error(broken, service));
                }
            }
        }
    }

    /// What there is without waiting: a message, the end, or nothing.
    pub fn take(&mut self) -> Result<Option<Piece>, Broken> {
        loop {
            if !self.ready.is_empty() {
                return Ok(Some(Piece::Data(self.ready.split().freeze(), false)));
            }
            match std::mem::replace(&mut self.end, End::Over) {
                End::Open => self.end = End::Open,
                End::Trailers(fields) => return Ok(Some(Piece::Trailers(fields))),
                End::Broken(broken) => return Err(broken),
                End::Over => return Ok(Some(Piece::End)),
            }
            match self.frames.message() {
                Ok(Some(message)) => {
                    self.told(&message);
                    continue;
                }
                Ok(None) => {}
                Err(bad) => {
                    self.fails(&bad_frame(bad), Broken::MidAnswer);
                    continue;
                }
            }
            match self.answer.take() {
                Ok(None) => return Ok(None),
                Ok(Some(Piece::Data(data, _))) => self.frames.add(&data),
                Ok(Some(Piece::Trailers(fields))) => self.ends(fields),
                Ok(Some(Piece::End)) => {
                    let detail = "The backend has broken off before it said how the call ended.";
                    self.fails(&Reply::new(StatusCode::BAD_GATEWAY, NAME, "no_grpc_status", detail), Broken::MidAnswer);
                }
                Err(broken) => self.came(Err(broken))?,
            }
        }
    }

    fn told(&mut self, message: &Bytes) {
        let told = self.answering.takes(message).and_then(|takes| {
            self.heaviest = self.heaviest.max(takes);
            self.answering.written(message)
        });
        match told {
            Ok(told) => {
                self.form.message(!self.begun, &told.body, &mut self.ready);
                self.begun = true;
            }
            Err(unfit) => self.fails(&unfit_answer(unfit), Broken::MidAnswer),
        }
    }

    fn ends(&mut self, mut fields: HeaderMap) {
        let code = fields.get(GRPC_STATUS).map_or(2, |code| super::code_of(code.as_bytes()));
        self.transcoder.count(code);
        if code != 0 {
            let problem = problem(&self.transcoder, code, &fields);
            self.failure(&problem);
            filter_trailers(&mut fields);
            // The service has said it, and so does the end where it can.
            let ends_well = self.form.ends_well();
            self.end = if ends_well { End::Trailers(fields) } else { End::Broken(Broken::Ended(Box::new(fields))) };
            return;
        }
        if self.form == Form::Array {
            self.ready.extend_from_slice(if self.begun { b"]" } else { b"[]" });
        }
        filter_trailers(&mut fields);
        self.end = End::Trailers(fields);
    }

    /// The answer ends here, for it cannot go on. A form that can say so ends as it would anyway: over HTTP/2, what stands before a broken
    /// end is lost with it.
    fn fails(&mut self, reply: &Reply, broken: Broken) {
        self.failure(reply);
        let fields = uploading::trailers(reply);
        self.transcoder.count(fields.get(GRPC_STATUS).map_or(2, |code| super::code_of(code.as_bytes())));
        self.end = if self.form.ends_well() { End::Trailers(fields) } else { End::Broken(broken) };
    }

    fn failure(&mut self, reply: &Reply) {
        self.form.failure(!self.begun, &reply.body(&self.request_id), &mut self.ready);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_wanted_is_no_wish() {
        for (range, refused) in [
            ("text/event-stream", false),
            (" text/event-stream;q=0.9", false),
            ("text/event-stream; q=0", true),
            ("text/event-stream;charset=utf-8;Q=0.000", true),
            ("text/event-stream;q=", false),
            ("text/event-stream;q=0.001", false),
        ] {
            assert_eq!(is_refused(range.as_bytes()), refused, "{range}");
        }
    }
}
