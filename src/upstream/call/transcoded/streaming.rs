//! The messages of a call as they come, each written as soon as it is there. One is held at a time, and what has come of the next.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode};
use std::sync::Arc;

use super::super::{Answer, Broken, CallError, Client, Piece, Tries, call_error};
use super::{NAME, problem};
use crate::exchange::RequestId;
use crate::grpc::GRPC_STATUS;
use crate::head::RequestHead;
use crate::reply::Reply;
use crate::transcode::frames::{Bad, Frames};
use crate::transcode::{Answering, Transcoder};
use crate::upstream::{AttemptOutcome, Service};

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
    /// What the client would rather have: the first that it names.
    pub fn wanted(answering: &Answering, head: &RequestHead) -> Form {
        if answering.is_raw() {
            return Form::Raw;
        }
        let accepted = head.header_all("accept").flat_map(|accept| accept.split(|&byte| byte == b','));
        let form = |range: &[u8]| {
            let essence = range.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
            match &*essence {
                b"application/json" => Some(Form::Array),
                b"text/event-stream" => Some(Form::Events),
                b"application/x-ndjson" | b"application/ndjson" | b"application/jsonl" | b"application/x-jsonlines" => {
                    Some(Form::Lines)
                }
                _ => None,
            }
        };
        accepted.filter_map(form).next().unwrap_or(Form::Array)
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
    fn ends_well(self) -> bool {
        matches!(self, Form::Lines | Form::Events)
    }
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
    /// How much memory was paid for.
    paid: usize,
    end: End,
}

enum End {
    /// More comes.
    Open,
    Trailers(HeaderMap),
    Broken,
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
            paid: 0,
            end: End::Open,
        }
    }

    /// How much more memory it has taken than was paid for.
    pub fn owes(&mut self) -> usize {
        let held = self.frames.held() + self.ready.capacity();
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

    /// Waits for the first message, and says what it is.
    pub async fn first<C: Client>(
        &mut self,
        service: &Service,
        (tries, client): (&mut Tries, &mut C),
    ) -> Result<HeaderValue, CallError> {
        let octets = HeaderValue::from_static("application/octet-stream");
        loop {
            let message = match self.frames.message() {
                Ok(message) => message,
                Err(bad) => {
                    tries.failed(service, AttemptOutcome::Broken);
                    let (reason, detail) = bad_frame(bad);
                    return Err(CallError::Service(Reply::new(StatusCode::BAD_GATEWAY, NAME, reason, detail)));
                }
            };
            if let Some(message) = message {
                let Ok(told) = self.answering.told(&message) else { return Ok(octets) };
                self.begun = true;
                self.ready.extend_from_slice(&told.body);
                return Ok(told.content_type.and_then(|kind| HeaderValue::try_from(kind).ok()).unwrap_or(octets));
            }
            match self.answer.take() {
                Ok(Some(Piece::Data(data, _))) => self.frames.add(&data),
                Ok(Some(Piece::Trailers(fields))) => {
                    tries.ended_with(service, &fields);
                    let code = fields.get(GRPC_STATUS).map_or(2, |code| super::code_of(code.as_bytes()));
                    self.transcoder.count(code);
                    if code != 0 {
                        return Err(CallError::Service(problem(&self.transcoder, code, &fields)));
                    }
                    self.end = End::Trailers(fields);
                    return Ok(octets);
                }
                Ok(Some(Piece::End)) => {
                    self.end = End::Broken;
                    return Ok(octets);
                }
                Ok(None) => self.answer.more(client, service, true).await.map_err(|broken| call_error(broken, service))?,
                Err(broken) => return Err(call_error(broken, service)),
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
                End::Broken => return Err(Broken::MidAnswer),
                End::Over => return Ok(Some(Piece::End)),
            }
            match self.frames.message() {
                Ok(Some(message)) => {
                    self.told(&message);
                    continue;
                }
                Ok(None) => {}
                Err(bad) => {
                    let (reason, detail) = bad_frame(bad);
                    self.fails(&Reply::new(StatusCode::BAD_GATEWAY, NAME, reason, detail));
                    continue;
                }
            }
            match self.answer.take()? {
                None => return Ok(None),
                Some(Piece::Data(data, _)) => self.frames.add(&data),
                Some(Piece::Trailers(fields)) => self.ends(fields),
                Some(Piece::End) => {
                    let detail = "The backend has broken off before it said how the call ended.";
                    self.fails(&Reply::new(StatusCode::BAD_GATEWAY, NAME, "no_grpc_status", detail));
                }
            }
        }
    }

    fn told(&mut self, message: &Bytes) {
        match self.answering.told(message) {
            Ok(told) => {
                self.form.message(!self.begun, &told.body, &mut self.ready);
                self.begun = true;
            }
            Err(unfit) => {
                let detail = "The backend's message cannot be written as JSON.";
                self.fails(&Reply::new(StatusCode::BAD_GATEWAY, NAME, "unfit_answer", detail).decided_by(unfit.why()));
            }
        }
    }

    fn ends(&mut self, fields: HeaderMap) {
        let code = fields.get(GRPC_STATUS).map_or(2, |code| super::code_of(code.as_bytes()));
        self.transcoder.count(code);
        if code != 0 {
            let problem = problem(&self.transcoder, code, &fields);
            self.failure(&problem);
            // The service has said it, and so does the end where it can.
            self.end = if self.form.ends_well() { End::Trailers(fields) } else { End::Broken };
            return;
        }
        if self.form == Form::Array {
            self.ready.extend_from_slice(if self.begun { b"]" } else { b"[]" });
        }
        self.end = End::Trailers(fields);
    }

    /// The answer ends here, for it cannot go on.
    fn fails(&mut self, reply: &Reply) {
        self.failure(reply);
        self.end = End::Broken;
    }

    fn failure(&mut self, reply: &Reply) {
        self.form.failure(!self.begun, &reply.body(&self.request_id), &mut self.ready);
    }
}

fn bad_frame(bad: Bad) -> (&'static str, &'static str) {
    match bad {
        Bad::TooLarge => ("answer_too_large", "The backend's message is larger than `max_message`."),
        Bad::Compressed => ("bad_answer", "The backend's message is compressed, which nobody has asked for."),
    }
}
