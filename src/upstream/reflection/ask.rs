//! The conversation itself: a call like any other, through the engine that makes all calls, with requests that depend on answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use pingora_error::{Error, ErrorType, Result as Read};

use crate::exchange::Exchange;
use crate::grpc::{GRPC_MESSAGE, GRPC_STATUS, read_status};
use crate::head::{BodyFraming, HeaderEdit, RequestHead};
use crate::transcode::frames::{Bad, Frames};
use crate::transcode::reflection::{Learned, Learning, MOST_BYTES, PATHS};
use crate::transcode::status;
use crate::upstream::call::{Answer, Call, CallError, Caller, Client, Piece, Tries};
use crate::upstream::{AttemptOutcome, Service, TlsConnector};
use crate::wire::answer::AnswerHead;

/// How long the whole conversation may take.
const LONGEST: Duration = Duration::from_secs(10);
/// A method that the server does not have.
const UNIMPLEMENTED: u8 = 12;

enum Unlearned {
    /// It does not speak this version.
    Lacking,
    Failed(String),
}

impl From<&str> for Unlearned {
    fn from(why: &str) -> Self {
        Unlearned::Failed(why.to_owned())
    }
}

/// Asks a service for its methods.
///
/// # Errors
/// Why nothing was learned, for people.
pub async fn ask(service: &Service, caller: &Caller, tls: &Arc<TlsConnector>, wanted: Vec<String>) -> Result<Learned, String> {
    for path in PATHS {
        let mut tries = Tries::default();
        let asking = converse(service, (caller, tls, &mut tries), path, wanted.clone());
        let said = tokio::time::timeout(LONGEST, asking).await;
        if said.is_err() {
            tries.failed(service, AttemptOutcome::TimedOut);
        }
        tries.end();
        match said {
            Ok(Ok(learned)) => return Ok(learned),
            Ok(Err(Unlearned::Lacking)) => {}
            Ok(Err(Unlearned::Failed(why))) => return Err(why),
            Err(_) => return Err(format!("it has not said all within {} seconds", LONGEST.as_secs())),
        }
    }
    Err("it has no reflection, neither v1 nor v1alpha".to_owned())
}

async fn converse(
    service: &Service,
    (caller, tls, tries): (&Caller, &Arc<TlsConnector>, &mut Tries),
    path: &str,
    wanted: Vec<String>,
) -> Result<Learned, Unlearned> {
    let host =
        service.cluster.endpoints().first().map_or_else(|| service.name.to_string(), |(_, one)| one.host_header().to_owned());
    let mut head =
        RequestHead::build("POST", path, &[("Host", &host), ("te", "trailers"), ("user-agent", "portcullis-reflection")]);
    (head.version, head.body) = (Version::HTTP_2, BodyFraming::Streamed);
    let mut exchange = Exchange::of_nobody("reflection");
    exchange.to_upstream.push(HeaderEdit::Set(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")));
    exchange.to_upstream.push(HeaderEdit::Remove(HeaderName::from_static("traceparent")));
    // To ask twice does no harm.
    let call = Call { head: &head, exchange: &exchange, target: None, fill: None, stands_for: Some(&Method::GET) };
    let mut talk = Talk { learning: Some(Learning::new(wanted)), sent: BytesMut::new(), heard: false };
    let mut answer = caller.send(service, &call, tries, &mut talk, tls).await.map_err(|error| match error {
        CallError::Service(reply) => Unlearned::Failed(reply.detail.to_string()),
        CallError::Client(_) => "the request cannot be made".into(),
    })?;
    talk.heard = true;
    let status = answer.head.status;
    if !status.is_success() {
        return Err(Unlearned::Failed(format!("it answers {status}")));
    }
    let field = |name: &str| answer.head.header_all(name).next().map(<[u8]>::to_vec);
    if let Some(code) = field(GRPC_STATUS.as_str()) {
        return Err(refused(&code, &field(GRPC_MESSAGE.as_str()).unwrap_or_default()));
    }
    let learned = hear(&mut answer, &mut talk, (service, tries)).await?;
    caller.keep(answer, service);
    Ok(learned)
}

/// Listens until nothing more is to be asked, and the end of the call.
async fn hear(answer: &mut Answer, talk: &mut Talk, (service, tries): (&Service, &mut Tries)) -> Result<Learned, Unlearned> {
    let mut frames = Frames::new(MOST_BYTES);
    let mut learned = None;
    loop {
        match answer.take() {
            Ok(Some(Piece::Data(data, _))) => {
                tries.body_came(service);
                frames.add(&data);
                while let Some(message) = frames.message().map_err(|bad| match bad {
                    Bad::TooLarge => "its answer is larger than 16 MiB",
                    Bad::Compressed => "its answer is compressed, which nobody has asked for",
                })? {
                    let Some(learning) = &mut talk.learning else { return Err("it says what it was not asked".into()) };
                    learning.takes(&message).map_err(Unlearned::Failed)?;
                    if learning.is_done() {
                        // With that the requests end, and so will the call.
                        learned = talk.learning.take().map(Learning::learned);
                    }
                }
            }
            Ok(Some(Piece::Trailers(fields))) => {
                tries.ended_with(service, &fields);
                let code = fields.get(GRPC_STATUS).map_or(&b"2"[..], HeaderValue::as_bytes);
                let said = fields.get(GRPC_MESSAGE).map_or(&b""[..], HeaderValue::as_bytes);
                return learned.ok_or_else(|| refused(code, said));
            }
            Ok(Some(Piece::End)) => return learned.ok_or_else(|| "it has broken off".into()),
            Ok(None) => answer.more(talk, service, false).await.map_err(|broken| {
                tries.broke(service, &broken);
                Unlearned::from("the connection to it was lost")
            })?,
            Err(_) => return Err("the connection to it was lost".into()),
        }
    }
}

fn refused(code: &[u8], said: &[u8]) -> Unlearned {
    match read_status(code) {
        Some(UNIMPLEMENTED) => Unlearned::Lacking,
        code => {
            let name = status::name(code.unwrap_or(2));
            Unlearned::Failed(format!("it answers {name}: {}", status::message(said)))
        }
    }
}

/// Who asks, as the engine sees it.
struct Talk {
    /// `None`: nothing more is asked.
    learning: Option<Learning>,
    /// What was sent before anything was answered.
    sent: BytesMut,
    heard: bool,
}

impl Client for Talk {
    fn buffered(&self) -> Option<&Bytes> {
        None
    }

    fn body_is_empty(&self) -> bool {
        false
    }

    fn is_continue_owed(&self) -> bool {
        false
    }

    fn keep_for_replay(&mut self, _most: usize) {}

    fn replay(&self) -> Option<Bytes> {
        Some(self.sent.clone().freeze())
    }

    fn can_replay(&self) -> bool {
        !self.heard
    }

    fn uploaded(&self) -> Option<std::time::Instant> {
        None
    }

    async fn read_body(&mut self) -> Read<Option<Bytes>> {
        let Some(learning) = &mut self.learning else { return Ok(None) };
        match learning.next_frame() {
            Some(frame) => {
                if !self.heard {
                    self.sent.extend_from_slice(&frame);
                }
                Ok(Some(frame))
            }
            // There is more to ask once there was an answer.
            None => std::future::pending().await,
        }
    }

    fn trailers(&self) -> Option<HeaderMap> {
        None
    }

    async fn unasked(&mut self) {}

    async fn say_continue(&mut self) -> Read<()> {
        Ok(())
    }

    async fn write_interim(&mut self, _answer: &AnswerHead) -> Read<()> {
        Ok(())
    }

    async fn whole(&mut self, _most: usize) -> Read<Bytes> {
        Err(Error::new(ErrorType::InternalError))
    }

    fn pays(&mut self, _bytes: usize) -> Read<()> {
        Ok(())
    }

    async fn gone(&mut self) {
        std::future::pending().await
    }

    async fn reset(&mut self) {
        std::future::pending().await
    }
}
