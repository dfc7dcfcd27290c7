//! What a function writes, passed on as it comes.

use std::sync::Arc;
use std::task::Context;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::super::client::Client;
use super::super::transcoded::{Made, built};
use super::super::{Answer, Broken, CallError, Connection, Piece, Tries, call_error};
use super::{Invoked, at_fault};
use crate::function::answer::Told;
use crate::function::stream::{Begun, Event, Messages, begun};
use crate::function::{Ended, Function, Report};
use crate::upstream::{AttemptOutcome, Service};

/// See the module.
pub struct Streamed {
    answer: Answer,
    messages: Messages,
    function: Arc<Function>,
    /// What is to be told next.
    ready: Bytes,
    /// The function has ended.
    over: bool,
    /// What it wrote is an answer, or the beginning of one.
    is_answer: bool,
    /// How it ended was counted.
    counted: bool,
    /// How much memory was paid for.
    paid: usize,
}

impl Streamed {
    /// How much more memory it has taken than was paid for.
    fn owes(&mut self) -> usize {
        let more = self.messages.held().saturating_sub(self.paid);
        self.paid += more;
        more
    }

    pub fn into_answer(self) -> Answer {
        self.answer
    }

    pub fn absorb(&mut self, cx: &mut Context<'_>) {
        self.answer.absorb(cx);
    }

    /// What there is without waiting.
    pub fn take(&mut self) -> Result<Option<Piece>, Broken> {
        loop {
            if !self.ready.is_empty() {
                return Ok(Some(Piece::Data(std::mem::take(&mut self.ready), false)));
            }
            if !self.over {
                match self.messages.message() {
                    Ok(Some(Event::Chunk(chunk))) => {
                        self.ready = chunk;
                        continue;
                    }
                    Ok(Some(Event::Complete { error, log })) => {
                        self.ended(error.is_some(), log.as_deref());
                        if error.is_some() {
                            // Nobody may take what came for the whole.
                            return Err(Broken::MidAnswer);
                        }
                        continue;
                    }
                    Ok(Some(Event::Exception(_))) => {
                        self.count(Ended::Refused);
                        return Err(Broken::MidAnswer);
                    }
                    Err(_) => {
                        self.count(Ended::Broken);
                        return Err(Broken::MidAnswer);
                    }
                    Ok(None) => {}
                }
            }
            match self.answer.take().inspect_err(|_| self.count(Ended::Broken))? {
                None => return Ok(None),
                Some(Piece::Data(data, _)) if !self.over => self.messages.add(&data),
                Some(Piece::Data(..)) => {}
                Some(Piece::End | Piece::Trailers(_)) if self.over => return Ok(Some(Piece::End)),
                Some(Piece::End | Piece::Trailers(_)) => {
                    self.count(Ended::Broken);
                    return Err(Broken::MidAnswer);
                }
            }
        }
    }

    pub async fn more<C: Client>(&mut self, client: &mut C, service: &Service) -> Result<(), Broken> {
        client.pays(self.owes()).map_err(Broken::Client)?;
        let more = self.answer.more(client, service, true).await;
        if let Err(broken) = &more {
            self.broke(broken);
        }
        more
    }

    /// Counts how it ended, once.
    fn count(&mut self, ended: Ended) {
        if !std::mem::replace(&mut self.counted, true) {
            self.function.count(ended);
        }
    }

    /// The client's leaving is no end of the function's.
    fn broke(&mut self, broken: &Broken) {
        if broken.outcome().is_some() {
            self.count(Ended::Broken);
        }
    }

    fn ended(&mut self, failed: bool, log: Option<&str>) {
        self.over = true;
        if failed {
            self.count(Ended::Failed);
        } else if self.is_answer {
            self.count(Ended::Well);
        }
        if let Some(report) = log.and_then(|log| Report::read(log.as_bytes())) {
            self.function.count_report(&report);
        }
    }
}

impl Invoked<'_> {
    /// Waits until it is known what the answer is to be.
    pub(super) async fn stream<C: Client>(
        self,
        answer: Answer,
        (tries, client): (&mut Tries, &mut C),
    ) -> Result<Answer, CallError> {
        let function = self.function.clone();
        let (messages, ready) = (Messages::default(), Bytes::new());
        let (over, is_answer, counted) = (false, false, false);
        let mut streamed = Streamed { answer, messages, function, ready, over, is_answer, counted, paid: 0 };
        let mut written = BytesMut::new();
        loop {
            match streamed.take() {
                Ok(Some(Piece::Data(data, _))) => {
                    client.pays(data.len()).map_err(CallError::Client)?;
                    written.extend_from_slice(&data);
                    let so_far = written.split().freeze();
                    match begun(&so_far) {
                        Begun::No => written = BytesMut::from(&*so_far),
                        Begun::Head(Ok(told), body) => {
                            if told.status.is_server_error() {
                                tries.failed(self.service, AttemptOutcome::Status(told.status));
                            }
                            streamed.ready = body;
                            return self.streaming(told.status, told.fields, streamed);
                        }
                        Begun::Head(Err(bad), _) => {
                            streamed.count(Ended::Unusable);
                            return Err(self.unusable(tries, bad));
                        }
                        Begun::Raw => {
                            streamed.ready = so_far;
                            let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
                            return self.streaming(StatusCode::OK, HeaderMap::from_iter([kind]), streamed);
                        }
                    }
                }
                Ok(Some(Piece::End | Piece::Trailers(_))) => {
                    // It was no stream, and is told as what it returned.
                    self.caller.keep(streamed.into_answer(), self.service);
                    if written.is_empty() {
                        self.function.count(Ended::Well);
                        return self.made(Told { status: StatusCode::OK, fields: HeaderMap::new(), body: Vec::new() });
                    }
                    return self.returned(&written, (tries, client));
                }
                Ok(None) => {
                    client.pays(streamed.owes()).map_err(CallError::Client)?;
                    if let Err(broken) = streamed.answer.more(client, self.service, false).await {
                        streamed.broke(&broken);
                        tries.broke(self.service, &broken);
                        return Err(call_error(broken, self.service));
                    }
                }
                Err(_) if streamed.over => {
                    tries.failed(self.service, AttemptOutcome::Status(StatusCode::BAD_GATEWAY));
                    let detail = "The function has failed.";
                    return Err(at_fault(StatusCode::BAD_GATEWAY, "function_error", detail, String::new()));
                }
                Err(broken) => {
                    tries.failed(self.service, AttemptOutcome::Broken);
                    return Err(call_error(broken, self.service));
                }
            }
        }
    }

    fn streaming(&self, status: StatusCode, fields: HeaderMap, mut streamed: Streamed) -> Result<Answer, CallError> {
        streamed.is_answer = true;
        let head = built(status, &fields, self.is_head, &self.service.limits);
        let head = head.map_err(|bad| CallError::Service(bad.reply()))?;
        Ok(Answer { head, connection: Connection::Made(Box::new(Made::Streamed(Box::new(streamed)))), key: None })
    }
}
