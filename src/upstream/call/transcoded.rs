//! Calls to a service that speaks gRPC for who speaks REST ([`crate::transcode`]): the request becomes a call, and the call's answer becomes
//! one as any service of HTTP's would have given, so that nobody else has to know. What a call is refused, retried and counted for is
//! what it is for all.

mod collect;
pub mod connect;
mod fields;
pub mod rest;
mod streaming;
mod uploading;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use pingora_error::Result;
use std::task::Context;

use super::client::{Client, NoMemory};
use super::h2;
use super::invoked::Streamed;
use super::{Answer, Broken, Call, CallError, Caller, Connection, Piece};
use crate::exchange::{Deadline, RequestId};
use crate::grpc::{GRPC_MESSAGE, GRPC_RETRY_PUSHBACK};
use crate::head::AnswerLimits;
use crate::path;
use crate::reply::Reply;
use crate::transcode::frames::Bad;
use crate::transcode::upload::Upload;
use crate::transcode::write::Unwritable;
use crate::transcode::{Answering, Pay, Told, Transcoder, Unfit, status, too_large};
use crate::upstream::{Service, TlsConnector};
use crate::wire::answer::AnswerHead;
use crate::wire::coding::is_coded;
use collect::{Collected, Collecting};
use fields::Metadata;
use std::sync::Arc;
use streaming::{First, Form, Streaming};
use uploading::{Uploading, Uploads};

const NAME: &str = "transcode";
const DETAILS: &str = "grpc-status-details-bin";
/// What problem documents are.
const PROBLEM: &str = "application/problem+json";

/// For the log.
#[derive(Debug)]
pub struct Transcoded {
    /// `/package.Service/Method`.
    pub method: Box<str>,
    /// How the call ended. `None` as long as that is not known.
    pub status: Option<u32>,
}

/// The body of an answer that was made of a call's.
pub enum Made {
    /// It is whole, and this is left of it; and whether it was there before the whole request was.
    Whole(Bytes, bool),
    Streaming(Box<Streaming>),
    /// What a function writes.
    Streamed(Box<Streamed>),
    /// What is left of a call's: its message, and how it ended.
    Call(Option<Bytes>, Option<HeaderMap>),
}

/// The client, with what is made of its request in place of its body.
pub struct Framed<'a, C> {
    pub(super) client: &'a mut C,
    pub(super) frame: Bytes,
}

/// Makes the call that a request means.
///
/// # Errors
/// See [`CallError`]. A request that means none is refused.
pub async fn send<C: Client>(
    caller: &Caller,
    transcoder: &Arc<Transcoder>,
    service: &Service,
    call: &Call<'_>,
    (tries, client): (&mut super::Tries, &mut C),
    tls: &Arc<TlsConnector>,
) -> std::result::Result<Answer, CallError> {
    let (path, query) = call.target();
    if call.head.upgrade && call.head.version == Version::HTTP_2 {
        // There is no answer to an extended CONNECT but that of who switches (RFC 8441).
        let detail = "This service's methods are called by requests, and by no other protocol.";
        return Err(CallError::Service(Reply::new(StatusCode::NOT_IMPLEMENTED, NAME, "no_upgrade", detail)));
    }
    if call.lines("content-encoding").into_iter().any(is_coded) && !client.body_is_empty() {
        let detail = "The body has to be uncoded here: it is made into a message.";
        return Err(CallError::Service(Reply::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            NAME,
            "content_encoding_unsupported",
            detail,
        )));
    }
    // What the service would be sent may be spelled as the client has spelled it.
    let path = path::normalise(path.as_bytes()).map_err(|_| CallError::Service(Transcoder::no_rule()))?;
    let meant = transcoder.find(call.method(), &path, may_have_verb(call)).map_err(CallError::Service)?;
    let content_type = call.content_type();
    let (answering, streams) = (meant.answering(), meant.method.streams);
    let method: Box<str> = meant.method.path.clone();
    // Of many messages each is made when it is there, and of one all is known before anybody is asked.
    let (mut uploads, frame) = match meant.method.takes_stream {
        true => {
            let upload = Upload::new(transcoder, &meant, query, content_type).map_err(CallError::Service)?;
            (Some(Uploads::new(upload, client)), Bytes::new())
        }
        false => {
            let most = transcoder.max_json().min(client.most_memory());
            let body = client.whole(most).await.map_err(CallError::Client)?;
            let bound = client.pays_meanwhile(|pay| meant.bind(query, content_type, &body, pay)).map_err(unpaid)?;
            let frame = bound.map_err(CallError::Service)?;
            drop(body);
            client.pays(frame.len()).map_err(CallError::Client)?;
            (None, frame.into())
        }
    };
    let head = fields::request(call, &method, uploads.is_none().then_some(frame.len()));
    let form = Form::wanted(&answering, call);
    let exchange = fields::exchange(call.exchange, streams && form.ends_well());
    tries.callers_deadline = exchange.deadline.is_some_and(Deadline::is_callers);
    tries.transcoded = Some(Box::new(Transcoded { method, status: None }));
    let inner = Call { head: &head, exchange: &exchange, target: None, fill: None, stands_for: Some(call.method()) };
    let receiving = Receiving {
        caller,
        transcoder,
        service,
        answering,
        request_id: &call.exchange.request_id,
        is_head: call.fill.is_none() && call.head.method == Method::HEAD,
        is_fill: call.fill.is_some(),
        uploads: uploads.is_some(),
    };
    let form = streams.then_some(form);
    let Some(own) = &mut uploads else {
        let mut framed = Framed { client, frame };
        let answer = caller.authorised(service, &inner, tries, &mut framed, tls).await?;
        return receiving.answer(answer, form, (tries, &mut framed)).await;
    };
    let mut uploading = Uploading { client, uploads: own };
    let answered = async {
        let answer = caller.authorised(service, &inner, tries, &mut uploading, tls).await?;
        receiving.answer(answer, form, (tries, &mut uploading)).await
    };
    let mut answer = match (answered.await, own.refused.take()) {
        (Err(CallError::Client(_)), Some(reply)) => return Err(CallError::Service(reply)),
        (answered, _) => answered?,
    };
    if let Connection::Made(made) = &mut answer.connection {
        match &mut **made {
            Made::Whole(_, early) => *early = !own.is_over(),
            Made::Call(..) => {}
            Made::Streaming(streaming) => streaming.uploads = uploads.map(Box::new),
            Made::Streamed(_) => {}
        }
    }
    Ok(answer)
}

/// Whether what stands behind the path's last colon may be a word of a rule. A value that came from somewhere must not choose the method, and a
/// colon that its client has escaped is a letter like any other.
fn may_have_verb(call: &Call<'_>) -> bool {
    let escaped = |raw: &str| {
        let last = raw.rsplit('/').next().unwrap_or_default().to_ascii_uppercase();
        last.rfind("%3A") > last.rfind(':')
    };
    !call.exchange.ends_in_value && !call.head.spelling.as_ref().is_some_and(|spelling| escaped(&spelling.raw))
}

/// The answer to a call whose fields cannot be metadata.
#[cold]
pub fn unfit_metadata() -> Box<Reply> {
    let detail = "A field of the call cannot be metadata: its name, or what stands in one in `-bin` and is no base64.";
    Reply::new(StatusCode::BAD_REQUEST, Service::NAME, "unfit_metadata", detail)
}

/// The answer as long as nothing is known of the service's methods.
#[cold]
pub fn unknown(service: &Service) -> Box<Reply> {
    let detail = "The service has not said yet which methods it has.";
    Reply::new(StatusCode::SERVICE_UNAVAILABLE, NAME, "methods_unknown", detail).retry_after(service.retry_after)
}

/// One call's answer on its way.
struct Receiving<'a> {
    caller: &'a Caller,
    transcoder: &'a Arc<Transcoder>,
    service: &'a Service,
    answering: Answering,
    request_id: &'a RequestId,
    is_head: bool,
    /// The cache may keep the answer for others.
    is_fill: bool,
    /// The request is a stream of messages, which may take as long as its client likes.
    uploads: bool,
}

type Answered = std::result::Result<Answer, CallError>;

impl Receiving<'_> {
    /// `form`: how many messages are told, where there may be many.
    async fn answer<C: Client>(
        self,
        answer: Answer,
        form: Option<Form>,
        (tries, client): (&mut super::Tries, &mut C),
    ) -> Answered {
        match form {
            Some(form) => self.stream(answer, form, (tries, client)).await,
            None => self.unary(answer, tries, client).await,
        }
    }

    /// Notes how the call ended.
    fn note(&self, tries: &mut super::Tries, code: u32) {
        self.transcoder.count(code);
        if let Some(transcoded) = &mut tries.transcoded {
            transcoded.status = Some(code);
        }
    }

    fn collecting(&self) -> Collecting<'_> {
        let Receiving { caller, service, uploads, .. } = *self;
        Collecting { caller, service, most: self.transcoder.max_message, uploads, streams: None }
    }

    async fn unary<C: Client>(self, answer: Answer, tries: &mut super::Tries, client: &mut C) -> Answered {
        let Collected { leading: mut metadata, trailing, code, message } =
            self.collecting().collect(answer, tries, client).await?;
        // All of it is known before anything is told.
        metadata.add(trailing);
        self.note(tries, code);
        if code != 0 {
            return self.failed(code, &metadata);
        }
        let message = self.collecting().message(message, tries)?;
        let told = told(&self.answering, &message, client)?;
        client.pays(told.body.len()).map_err(CallError::Client)?;
        let kind = match &told.content_type {
            None => "application/json",
            Some(kind) if HeaderValue::try_from(kind).is_ok() => kind,
            Some(_) => "application/octet-stream",
        };
        let end = told.body.is_empty() || self.is_head;
        let kind = (kind.as_bytes(), told.content_type.is_some());
        let head = metadata.head(kind, told.body.len(), end, &self.service.limits);
        let head = head.map_err(|bad| CallError::Service(bad.reply()))?;
        let body = if end { Bytes::new() } else { told.body.into() };
        Ok(Answer { head, connection: Connection::Made(Box::new(Made::Whole(body, false))), key: None })
    }

    /// An answer that is known as a whole.
    fn whole(&self, status: StatusCode, fields: HeaderMap, body: Vec<u8>) -> Answered {
        whole(status, fields, body.into(), self.is_head, self.service)
    }

    fn made(&self, status: StatusCode, fields: HeaderMap, end: bool, told: Made) -> Answered {
        made(status, fields, end, told, self.service)
    }

    /// A call that has failed, as a problem document.
    fn failed(&self, code: u32, metadata: &Metadata) -> Answered {
        let problem = problem(self.transcoder, code, &metadata.fields());
        let body = problem.body(if self.is_fill { "" } else { self.request_id });
        let mut fields = metadata.clone().into_fields(HeaderValue::from_static(PROBLEM), false);
        for (name, value) in &problem.headers {
            fields.insert(name.clone(), value.clone());
        }
        failure_fields(problem.status, &mut fields);
        self.whole(problem.status, fields, body)
    }

    async fn stream<C: Client>(self, answer: Answer, form: Form, (tries, client): (&mut super::Tries, &mut C)) -> Answered {
        let (answer, ended) = self.collecting().head(answer, tries).await?;
        let mut metadata = Metadata::of(&answer.head);
        if let Some(code) = ended {
            self.caller.keep(answer, self.service);
            self.note(tries, code);
            if code != 0 {
                return self.failed(code, &metadata);
            }
            let mut fields = metadata.into_fields(form.kind(), false);
            fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            return self.whole(StatusCode::OK, fields, form.empty().to_vec());
        }
        let mut streaming =
            Streaming::new(answer, form, self.answering.clone(), self.transcoder.clone(), self.request_id.clone());
        let mut kind = form.kind();
        let is_raw = form == Form::Raw;
        if is_raw {
            // What it is, is known with the first of it.
            kind = match streaming.first(self.service, (tries, client)).await? {
                First::Kind(kind) => kind,
                First::Failed(code, trailers) => {
                    self.caller.keep(streaming.into_answer(), self.service);
                    self.note(tries, code);
                    metadata.add(trailers);
                    return self.failed(code, &metadata);
                }
            };
        }
        let mut fields = metadata.into_fields(kind, is_raw);
        fields.remove(header::CONTENT_LENGTH);
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if !is_raw {
            fields.append(header::VARY, HeaderValue::from_static("accept"));
        }
        self.made(StatusCode::OK, fields, self.is_head, Made::Streaming(Box::new(streaming)))
    }
}

/// An answer that is known as a whole.
fn whole(status: StatusCode, mut fields: HeaderMap, body: Bytes, is_head: bool, service: &Service) -> Answered {
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    let end = body.is_empty() || is_head;
    made(status, fields, end, Made::Whole(if end { Bytes::new() } else { body }, false), service)
}

fn made(status: StatusCode, fields: HeaderMap, end: bool, told: Made, service: &Service) -> Answered {
    let head = built(status, &fields, end, &service.limits);
    let head = head.map_err(|bad| CallError::Service(bad.reply()))?;
    Ok(Answer { head, connection: Connection::Made(Box::new(told)), key: None })
}

/// What a failed call's answer says beside its body.
fn failure_fields(status: StatusCode, fields: &mut HeaderMap) {
    if status == StatusCode::UNAUTHORIZED {
        // There has to be one (RFC 9110, section 15.5.2), and the metadata may have none.
        fields.entry(header::WWW_AUTHENTICATE).or_insert(HeaderValue::from_static("Bearer"));
    }
}

/// How long a client is to wait before it tries again.
fn pushback(fields: &HeaderMap) -> Option<std::time::Duration> {
    let millis = fields.get(GRPC_RETRY_PUSHBACK).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    millis.map(std::time::Duration::from_millis)
}

/// What the service has said of a failed call.
fn said(fields: &HeaderMap) -> Option<String> {
    fields.get(GRPC_MESSAGE).map(|message| status::message(message.as_bytes())).filter(|said| !said.is_empty())
}

/// The service has answered as none should that speaks gRPC.
fn at_fault(status: StatusCode, reason: &'static str, detail: &'static str) -> Box<Reply> {
    Reply::new(status, NAME, reason, detail).of_service()
}

/// What the client is told of a message, which it pays for while that is made.
fn told<C: Client>(answering: &Answering, message: &[u8], client: &mut C) -> std::result::Result<Told, CallError> {
    let unfit = |unfit| CallError::Service(unfit_answer(unfit));
    let takes = answering.takes(message).map_err(unfit)?;
    let written = client.pays_while(takes, || answering.written(message)).map_err(|none| match none.ever {
        true => unfit(Unfit::Unwritable(Unwritable::TooLarge)),
        false => CallError::Client(none.error),
    });
    written?.map_err(unfit)
}

/// Why a request is not made into a call: it takes more memory than there ever is, or than there is now.
fn unpaid(none: NoMemory) -> CallError {
    if none.ever { CallError::Service(too_large()) } else { CallError::Client(none.error) }
}

fn unfit_answer(unfit: Unfit) -> Box<Reply> {
    at_fault(StatusCode::BAD_GATEWAY, "unfit_answer", "The backend's message cannot be written as JSON.").decided_by(unfit.why())
}

fn bad_frame(bad: Bad) -> Box<Reply> {
    let (reason, detail) = match bad {
        Bad::TooLarge => ("answer_too_large", "The backend's message is larger than `max_message`."),
        Bad::Compressed => ("bad_answer", "The backend's message is compressed, which nobody has asked for."),
    };
    at_fault(StatusCode::BAD_GATEWAY, reason, detail)
}

/// What a client is told of a call that has failed.
pub(super) fn problem(transcoder: &Transcoder, code: u32, fields: &HeaderMap) -> Box<Reply> {
    let code = u8::try_from(code).unwrap_or(2);
    let detail = said(fields).unwrap_or_else(|| "The service has failed the call, and does not say why.".to_owned());
    let mut reply = Reply::new(status::http(code), NAME, "call_failed", detail);
    let members = transcoder.members(code, fields.get(DETAILS).map(HeaderValue::as_bytes));
    reply.members = Some(members.into());
    match pushback(fields) {
        Some(wait) => reply.retry_after(wait),
        None => reply,
    }
}

/// A code that nobody knows is UNKNOWN.
fn code_of(value: &[u8]) -> u32 {
    crate::grpc::read_status(value).unwrap_or(2).into()
}

/// A head as it would have come over HTTP/2.
pub(super) fn built(
    status: StatusCode,
    fields: &HeaderMap,
    end: bool,
    limits: &AnswerLimits,
) -> std::result::Result<Box<AnswerHead>, crate::wire::answer::BadAnswer> {
    h2::assembled(status, || h2::of_map(fields), end, limits)
}

impl Made {
    pub fn take(&mut self) -> std::result::Result<Option<Piece>, Broken> {
        match self {
            Made::Whole(body, _) if body.is_empty() => Ok(Some(Piece::End)),
            Made::Whole(body, _) => Ok(Some(Piece::Data(std::mem::take(body), true))),
            Made::Streaming(streaming) => streaming.take(),
            Made::Streamed(streamed) => streamed.take(),
            Made::Call(message, trailers) => Ok(Some(match (message.take(), trailers.take()) {
                (Some(message), left) => {
                    *trailers = left;
                    Piece::Data(message, false)
                }
                (None, Some(trailers)) => Piece::Trailers(trailers),
                (None, None) => Piece::End,
            })),
        }
    }

    /// Waits for more of the call's own answer. It may be silent for as long as a stream may.
    pub async fn more<C: Client>(&mut self, client: &mut C, service: &Service) -> std::result::Result<(), Broken> {
        match self {
            Made::Whole(..) | Made::Call(..) => Ok(()),
            Made::Streaming(streaming) => {
                client.pays(streaming.owes()).map_err(Broken::Client)?;
                streaming.more(client, service).await
            }
            Made::Streamed(streamed) => streamed.more(client, service).await,
        }
    }

    /// See [`Answer::is_early`].
    pub fn is_early(&self) -> bool {
        match self {
            Made::Whole(_, early) => *early,
            Made::Call(..) => false,
            Made::Streaming(streaming) => streaming.is_early(),
            Made::Streamed(_) => false,
        }
    }

    pub fn absorb(&mut self, cx: &mut Context<'_>) {
        match self {
            Made::Whole(..) | Made::Call(..) => {}
            Made::Streaming(streaming) => streaming.answer().absorb(cx),
            Made::Streamed(streamed) => streamed.absorb(cx),
        }
    }
}

impl<C: Client> Client for Framed<'_, C> {
    fn buffered(&self) -> Option<&Bytes> {
        Some(&self.frame)
    }

    fn body_is_empty(&self) -> bool {
        false
    }

    fn is_continue_owed(&self) -> bool {
        false
    }

    fn keep_for_replay(&mut self, _most: usize) {}

    fn replay(&self) -> Option<Bytes> {
        None
    }

    fn can_replay(&self) -> bool {
        true
    }

    fn uploaded(&self) -> Option<std::time::Instant> {
        self.client.uploaded()
    }

    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        Ok(None)
    }

    fn trailers(&self) -> Option<HeaderMap> {
        None
    }

    async fn unasked(&mut self) {}

    async fn say_continue(&mut self) -> Result<()> {
        Ok(())
    }

    /// gRPC has none that mean anything.
    async fn write_interim(&mut self, _answer: &AnswerHead) -> Result<()> {
        Ok(())
    }

    async fn gone(&mut self) {
        self.client.gone().await;
    }

    async fn reset(&mut self) {
        self.client.reset().await;
    }

    async fn whole(&mut self, _most: usize) -> Result<Bytes> {
        Ok(self.frame.clone())
    }

    fn pays(&mut self, bytes: usize) -> Result<()> {
        self.client.pays(bytes)
    }

    fn most_memory(&self) -> usize {
        self.client.most_memory()
    }

    fn pays_meanwhile<T>(&mut self, work: impl FnOnce(&mut Pay<'_>) -> T) -> std::result::Result<T, NoMemory> {
        self.client.pays_meanwhile(work)
    }
}
