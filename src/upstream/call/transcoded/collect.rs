//! The whole answer to a call with one message: what came before it, the message, and how the call ended.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::super::client::Client;
use super::super::{Answer, CallError, Caller, Piece, Tries, call_error};
use super::fields::{self, Metadata};
use super::{at_fault, bad_frame, code_of};
use crate::grpc::GRPC_STATUS;
use crate::reply::Reply;
use crate::transcode::frames::{Bad, Frames};
use crate::upstream::{AttemptOutcome, Service};

/// See the module.
pub struct Collected {
    pub leading: Metadata,
    /// What came behind the message. Nothing, where all that there is stands in the head.
    pub trailing: HeaderMap,
    pub code: u32,
    /// `None`: there was none, or not all of it.
    pub message: Option<Bytes>,
}

/// Whose answer is waited for, and how.
#[derive(Clone, Copy)]
pub struct Collecting<'a> {
    pub caller: &'a Caller,
    pub service: &'a Service,
    /// The longest message, in bytes.
    pub most: usize,
    /// The request is a stream of messages, which may take as long as its client likes.
    pub uploads: bool,
    /// What is said of a second message, where nobody knows that there is only one.
    pub streams: Option<fn() -> Box<Reply>>,
}

impl Collecting<'_> {
    /// What is no gRPC, or is not what the method answers with.
    pub fn bad(&self, tries: &mut Tries, reason: &'static str, detail: &'static str) -> CallError {
        tries.failed(self.service, AttemptOutcome::Broken);
        CallError::Service(at_fault(StatusCode::BAD_GATEWAY, reason, detail))
    }

    /// Looks at the head. Something: the call has ended with it.
    pub async fn head(&self, answer: Answer, tries: &mut Tries) -> Result<(Answer, Option<u32>), CallError> {
        if fields::is_grpc(&answer.head) {
            let code = fields::first(&answer.head, GRPC_STATUS.as_str()).map(code_of);
            return Ok((answer, code));
        }
        let status = answer.head.status;
        self.caller.put_away(answer, self.service).await;
        if status.is_success() {
            return Err(self.bad(tries, "no_grpc", "The backend has answered with something else than gRPC."));
        }
        // Somebody before it has answered, and was counted as its answer.
        let detail = "The backend's place was taken by somebody who does not speak gRPC.";
        let shown = match status.as_u16() {
            429 | 503 | 504 => status,
            _ => StatusCode::BAD_GATEWAY,
        };
        Err(CallError::Service(at_fault(shown, "no_grpc", detail)))
    }

    /// Waits for all of it.
    pub async fn collect<C: Client>(&self, answer: Answer, tries: &mut Tries, client: &mut C) -> Result<Collected, CallError> {
        let (mut answer, ended) = self.head(answer, tries).await?;
        let leading = Metadata::of(&answer.head);
        let mut trailing = HeaderMap::new();
        let mut frames = Frames::new(self.most);
        let mut message = None;
        let mut paid = 0;
        let code = match ended {
            Some(code) => Some(code),
            None if answer.head.body.is_done() => None,
            None => loop {
                match answer.take() {
                    Ok(Some(Piece::Data(data, last))) => {
                        tries.body_came(self.service);
                        frames.add(&data);
                        let held = frames.held();
                        client.pays(held.saturating_sub(paid)).map_err(CallError::Client)?;
                        paid = paid.max(held);
                        while let Some(one) = frames.message().map_err(|bad| self.bad_frame(tries, bad))? {
                            if message.replace(one).is_some() {
                                return Err(self.answered_twice(tries));
                            }
                        }
                        if last {
                            break None;
                        }
                    }
                    Ok(Some(Piece::Trailers(fields))) => {
                        tries.ended_with(self.service, &fields);
                        let code = fields.get(GRPC_STATUS).map(|code| code_of(code.as_bytes()));
                        trailing = fields;
                        break code;
                    }
                    Ok(Some(Piece::End)) => break None,
                    Ok(None) => {
                        let endless = self.uploads && !answer.connection.has_all_of_the_request();
                        if let Err(broken) = answer.more(client, self.service, endless).await {
                            tries.broke(self.service, &broken);
                            return Err(call_error(broken, self.service));
                        }
                    }
                    Err(broken) => {
                        tries.failed(self.service, AttemptOutcome::Broken);
                        return Err(call_error(broken, self.service));
                    }
                }
            },
        };
        self.caller.keep(answer, self.service);
        let Some(code) = code else {
            return Err(self.bad(tries, "no_grpc_status", "The backend has broken off before it said how the call ended."));
        };
        Ok(Collected { leading, trailing, code, message: message.filter(|_| !frames.is_cut()) })
    }

    /// The message of a call that has not failed.
    pub fn message(&self, message: Option<Bytes>, tries: &mut Tries) -> Result<Bytes, CallError> {
        message.ok_or_else(|| self.bad(tries, "bad_answer", "The backend has answered without a whole message."))
    }

    fn answered_twice(&self, tries: &mut Tries) -> CallError {
        match self.streams {
            Some(reply) => CallError::Service(reply()),
            None => self.bad(tries, "bad_answer", "The backend has answered one call twice."),
        }
    }

    fn bad_frame(&self, tries: &mut Tries, bad: Bad) -> CallError {
        tries.failed(self.service, AttemptOutcome::Broken);
        CallError::Service(bad_frame(bad))
    }
}
