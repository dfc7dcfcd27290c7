//! Writing an answer to a client, whatever its protocol: the one place that every answer passes, the services', the cache's and the
//! gateway's own.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use pingora_error::{Error, Result};
use pingora_http::ResponseHeader;

use super::endless::{is_endless, streams};
use super::{CLIENT_GONE, Downstream, UNREAD, Wire};
use crate::exchange::{RequestId, X_REQUEST_ID};
use crate::head::{HeaderEdit, HeaderEdits};
use crate::reply::{Reply, Wording};
use crate::wait::pinned;
use crate::wire::answer::AnswerHead;
use crate::wire::{encode, h2};

impl Downstream {
    /// Writes an answer of the gateway's own, a refusal or an error, in the client's `wording`. `edits` are the fields that every
    /// answer carries.
    ///
    /// # Errors
    /// Only if the client cannot be written to.
    pub async fn reply(
        &mut self,
        reply: &Reply,
        wording: Wording<'_>,
        edits: &HeaderEdits,
        request_id: &RequestId,
    ) -> Result<()> {
        self.stages = None;
        if let Some(Wire::H1(wire)) = &mut self.wire
            && (reply.close || wire.is_left_over(UNREAD))
        {
            wire.close_after();
        }
        if let Some(Wire::H1(wire)) = &mut self.wire {
            let worded = reply.worded(wording, request_id);
            self.answered = true;
            if self.method != Method::HEAD {
                self.body_sent += worded.body.len() as u64;
            }
            wire.write_own(reply, &worded, request_id, edits, &self.method).await?;
            self.finished = true;
            return Ok(());
        }
        Box::pin(self.reply_to_stream(reply, wording, edits, request_id)).await
    }

    async fn reply_to_stream(
        &mut self,
        reply: &Reply,
        wording: Wording<'_>,
        edits: &HeaderEdits,
        request_id: &RequestId,
    ) -> Result<()> {
        let (answer, body) = reply_parts(reply, wording, edits, request_id)?;
        // A call's status in the head is the whole of the answer: one HEADERS frame that ends the stream.
        let bodiless = self.method == Method::HEAD || body.is_empty();
        self.write_head(Box::new(answer), bodiless).await?;
        if !bodiless {
            self.write_body(Bytes::from(body), true).await?;
        }
        self.finish().await
    }

    /// Writes the head of an answer that is given as a header map.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn write_head(&mut self, answer: Box<ResponseHeader>, end: bool) -> Result<()> {
        if self.stages.is_some() { Box::pin(self.begin_staged(answer, end)).await } else { self.put_head(answer, end).await }
    }

    pub(super) async fn put_head(&mut self, mut answer: Box<ResponseHeader>, end: bool) -> Result<()> {
        if self.answered {
            return Ok(());
        }
        if self.streams || is_endless(&answer) {
            self.control.set_endless();
        }
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.write_head(&mut answer, &self.method, end).await?,
            Some(Wire::H2(stream)) => {
                encode::strip(&mut answer);
                stream.write_head(*answer, end)?;
            }
            None => return Err(Error::new(CLIENT_GONE)),
        }
        self.finished |= end;
        self.answered = true;
        Ok(())
    }

    /// Writes a piece of the answer's body.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        // Boxed, here and below: what few answers need must not make every answer's future larger.
        if self.stages.is_some() { Box::pin(self.write_staged(data, end)).await } else { self.put_body(data, end).await }
    }

    pub(super) async fn put_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.body_sent += data.len() as u64;
        self.control.note_sent(self.body_sent);
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.write_body(data, end).await?,
            Some(Wire::H2(_)) if data.is_empty() && !end => {}
            // Boxed: with the timers in it, it is larger than all that HTTP/1.1 may have to wait for.
            Some(Wire::H2(stream)) => pinned(|| stream.write_body(data, end)).await?,
            None => return Err(Error::new(CLIENT_GONE)),
        }
        self.finished |= end;
        Ok(())
    }

    /// Passes on an interim answer (103 and the like).
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn write_interim(&mut self, answer: &AnswerHead) -> Result<()> {
        self.told = true;
        let other = self.interim.as_ref().and_then(|map| map(answer));
        let answer = other.as_ref().unwrap_or(answer);
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.write_interim(answer).await,
            Some(Wire::H2(stream)) => {
                stream.write_interim(answer.status, h2::interim(answer)?);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Writes the head of a backend's answer, with the gateway's own changes. On HTTP/1.1 it may wait for the first piece of body.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn write_answer(
        &mut self,
        answer: &AnswerHead,
        request_id: &RequestId,
        edits: &HeaderEdits,
        via: Option<&HeaderValue>,
        end: bool,
    ) -> Result<()> {
        let switches = answer.status == http::StatusCode::SWITCHING_PROTOCOLS;
        if switches || self.streams || streams(answer, edits) {
            self.control.set_endless();
        }
        if self.stages.is_some() {
            return Box::pin(self.begin_staged(Box::new(h2::answer(answer, request_id, edits, via)?), end)).await;
        }
        match &mut self.wire {
            Some(Wire::H1(wire)) => {
                self.answered = true;
                wire.write_answer(answer, request_id, edits, via, &self.method, end).await
            }
            Some(Wire::H2(stream)) => {
                let mut head = h2::answer(answer, request_id, edits, via)?;
                if switches {
                    stream.switch(&mut head);
                }
                stream.write_head(head, end && !switches)?;
                self.answered = true;
                Ok(())
            }
            None => Err(Error::new(CLIENT_GONE)),
        }
    }

    /// Ends an answer that has begun with a call's status (gRPC): the one thing that its client can still be told.
    pub fn end_call(&mut self, fields: HeaderMap) {
        if let Some(Wire::H2(stream)) = &mut self.wire {
            // A stream that is over needs no end.
            let _ = stream.write_trailers(fields);
        }
    }

    /// The service has broken its stream off in the middle of the answer, for this reason. The client of a stream is told so; what the
    /// service says of the gateway (ENHANCE_YOUR_CALM and the like) is not about the client.
    pub fn pass_reset(&mut self, reason: ::h2::Reason) {
        use ::h2::Reason;
        if let Some(Wire::H2(stream)) = &mut self.wire {
            stream.reset(if reason == Reason::CANCEL { reason } else { Reason::INTERNAL_ERROR });
        }
    }

    /// Sends what still waits to be sent with something else.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn flush(&mut self) -> Result<()> {
        if self.stages.is_some() { Box::pin(self.flush_staged()).await } else { self.put_flush().await }
    }

    pub(super) async fn put_flush(&mut self) -> Result<()> {
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.flush().await,
            _ => Ok(()),
        }
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// The client cannot be written to, or got less than was announced.
    pub async fn finish(&mut self) -> Result<()> {
        if self.stages.is_some() { Box::pin(self.end_staged(None)).await } else { self.put_end().await }
    }

    pub(super) async fn put_end(&mut self) -> Result<()> {
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.finish().await?,
            Some(Wire::H2(stream)) => stream.finish()?,
            None => return Err(Error::new(CLIENT_GONE)),
        }
        self.finished = true;
        Ok(())
    }

    /// Ends the answer with these trailer fields: behind chunks only if the client `wants` them. On HTTP/2 everybody can take them.
    ///
    /// # Errors
    /// As [`Downstream::finish`].
    pub async fn finish_with(&mut self, fields: HeaderMap, wants: bool) -> Result<()> {
        if self.stages.is_some() {
            return Box::pin(self.end_staged(Some((fields, wants)))).await;
        }
        self.put_end_with(fields, wants).await
    }

    pub(super) async fn put_end_with(&mut self, fields: HeaderMap, wants: bool) -> Result<()> {
        match &mut self.wire {
            Some(Wire::H1(wire)) if wants => wire.finish_with(&fields).await?,
            Some(Wire::H2(stream)) if !fields.is_empty() => stream.write_trailers(fields)?,
            _ => return self.put_end().await,
        }
        self.finished = true;
        Ok(())
    }
}

/// An answer of the gateway's own, ready to be written.
///
/// # Errors
/// Never in practice: every name and value was checked when it was made.
pub fn reply_parts(
    reply: &Reply,
    wording: Wording<'_>,
    edits: &HeaderEdits,
    request_id: &RequestId,
) -> Result<(ResponseHeader, Vec<u8>)> {
    let worded = reply.worded(wording, request_id);
    let mut answer = ResponseHeader::build(worded.status, Some(8))?;
    if !encode::is_bodiless(worded.status) {
        answer.insert_header(header::CONTENT_TYPE, worded.media_type)?;
        if !wording.dialect.is_grpc() {
            answer.insert_header(header::CONTENT_LENGTH, worded.body.len())?;
        }
        answer.insert_header(header::CACHE_CONTROL, "no-store")?;
    }
    for (name, value) in reply.headers.iter().chain(&worded.fields) {
        answer.append_header(name.clone(), value.clone())?;
    }
    apply_to_response(&mut answer, request_id, edits);
    Ok((answer, worded.body))
}

/// Gives an answer the request's id, then applies changes to it, in their order.
pub fn apply_to_response(answer: &mut ResponseHeader, request_id: &RequestId, edits: &HeaderEdits) {
    // As below: it cannot fail in practice.
    let _ = answer.insert_header(X_REQUEST_ID, request_id.as_bytes());
    for edit in edits {
        // Names and values were checked when they were made, so only an absurd number of fields could fail here; the answer then
        // goes out without that one.
        let _ = match edit {
            HeaderEdit::Set(name, value) => answer.insert_header(name.clone(), value.clone()),
            HeaderEdit::Add(name, value) => answer.append_header(name.clone(), value.clone()).map(drop),
            HeaderEdit::Remove(name) => {
                answer.remove_header(name);
                Ok(())
            }
        };
    }
}
