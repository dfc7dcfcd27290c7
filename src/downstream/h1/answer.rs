//! Writing answers to an HTTP/1.x client.

use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;

use super::io::put;
use super::{H1, Io};
use crate::exchange::RequestId;
use crate::head::HeaderEdits;
use crate::reply::{Reply, Worded};
use crate::wire::answer::AnswerHead;
use crate::wire::encode::{self, AnswerFraming};
use crate::wire::trailers;

/// Bodies up to this size are copied behind the head and leave with it in one system call.
const COALESCE: usize = 16 * 1024;

impl H1 {
    /// Whether the next answer is the connection's last, whatever the client thinks.
    fn is_last(&self) -> bool {
        !self.knows_its_end() || self.draining.load(Ordering::Relaxed)
    }

    /// Queues the head of an answer, and sends it if nothing follows that it could leave with.
    pub async fn write_head(&mut self, answer: &mut ResponseHeader, method: &Method, end: bool) -> Result<()> {
        let framing = encode::framing(answer, method, self.version)
            .map_err(|_| Error::explain(ErrorType::InvalidHTTPHeader, "the backend's Content-Length is ambiguous"))?;
        encode::strip(answer);
        if framing == AnswerFraming::UntilClose {
            self.keep_alive = false;
        }
        if self.is_last() {
            // Whether the client now sends its body or not is its choice (RFC 9110, section 10.1.1): the framing is in doubt.
            self.keep_alive = false;
        }
        self.framing = if end && framing == AnswerFraming::Chunked {
            // Nothing follows: say so instead of framing an empty body.
            answer.insert_header(header::CONTENT_LENGTH, 0)?;
            AnswerFraming::Length(0)
        } else {
            framing
        };
        encode::head(&mut self.write, answer, self.framing, self.keep_alive, self.version);
        self.answered = true;
        if end { self.flush().await } else { Ok(()) }
    }

    /// Queues the head of a backend's answer, straight from its bytes.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn write_answer(
        &mut self,
        answer: &AnswerHead,
        request_id: &RequestId,
        edits: &HeaderEdits,
        via: Option<&HeaderValue>,
        method: &Method,
        end: bool,
    ) -> Result<()> {
        let bodiless = *method == Method::HEAD || encode::is_bodiless(answer.status);
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            (self.answered, self.keep_alive, self.framing) = (true, false, AnswerFraming::Tunnel);
            encode::relayed(&mut self.write, answer, request_id, edits, via, self.framing, false, self.version);
            return self.flush().await;
        }
        self.framing = match (bodiless, answer.length, self.version) {
            (true, ..) => AnswerFraming::None,
            (false, Some(length), _) => AnswerFraming::Length(length),
            (false, None, Version::HTTP_11) => AnswerFraming::Chunked,
            (false, None, _) => AnswerFraming::UntilClose,
        };
        self.keep_alive &= self.framing != AnswerFraming::UntilClose && !self.is_last();
        encode::relayed(&mut self.write, answer, request_id, edits, via, self.framing, self.keep_alive, self.version);
        self.answered = true;
        if end { self.finish().await } else { Ok(()) }
    }

    /// Sends a whole answer of the gateway's own: head and body in one write.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn write_own(
        &mut self,
        reply: &Reply,
        worded: &Worded<'_>,
        request_id: &RequestId,
        edits: &HeaderEdits,
        method: &Method,
    ) -> Result<()> {
        self.keep_alive &= !self.is_last();
        let mut length = itoa::Buffer::new();
        let always: [(&[u8], &[u8]); 3] = [
            (b"Content-Type", worded.media_type.as_bytes()),
            (b"Content-Length", length.format(worded.body.len()).as_bytes()),
            (b"Cache-Control", b"no-store"),
        ];
        let said = reply.headers.iter().chain(&worded.fields).map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
        let fields = always.into_iter().filter(|_| !encode::is_bodiless(worded.status)).chain(said);
        self.framing = AnswerFraming::None;
        encode::own(&mut self.write, worded.status, fields, request_id, edits, self.framing, self.keep_alive, self.version);
        if *method != Method::HEAD {
            self.write.extend_from_slice(&worded.body);
        }
        self.answered = true;
        self.flush().await
    }

    /// Whether the client waits for `100 Continue`, and has sent nothing of its body yet.
    pub fn is_continue_owed(&self) -> bool {
        self.continue_owed && self.read.is_empty() && !self.answered
    }

    /// Tells a client that waits for it to send its body. Once.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn say_continue(&mut self) -> Result<()> {
        if std::mem::take(&mut self.continue_owed) && !self.answered {
            self.write.extend_from_slice(encode::CONTINUE);
            self.flush().await?;
        }
        Ok(())
    }

    /// Passes on an interim answer, to a client that can take one.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn write_interim(&mut self, answer: &AnswerHead) -> Result<()> {
        if self.version == Version::HTTP_11 {
            encode::interim(&mut self.write, answer);
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends the head alone, if it still waits for a first piece of body that does not come.
    pub async fn flush(&mut self) -> Result<()> {
        if self.write.is_empty() {
            return Ok(());
        }
        let mut rest = self.write.as_slice();
        if let Io::Plain(stream) = &self.io
            && let Ok(count) = stream.try_write(rest)
        {
            // Nearly always all of it.
            rest = rest.get(count..).unwrap_or_default();
        }
        // Boxed: this is the way over TLS, and to clients that do not keep up.
        let sent = if rest.is_empty() { Ok(()) } else { Box::pin(put(&mut self.io, &mut rest, self.patience)).await };
        self.write.clear();
        self.failed |= sent.is_err();
        sent
    }

    /// Writes a piece of the answer's body.
    ///
    /// # Errors
    /// The client is gone, or the backend sends more than it announced.
    pub async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        if !data.is_empty() {
            match &mut self.framing {
                AnswerFraming::None => {}
                AnswerFraming::Length(left) => {
                    let Some(rest) = left.checked_sub(data.len() as u64) else {
                        self.failed = true;
                        return Error::e_explain(
                            ErrorType::InvalidHTTPHeader,
                            "the backend's body is longer than its Content-Length",
                        );
                    };
                    *left = rest;
                    self.send(data, b"").await?;
                }
                AnswerFraming::Chunked => {
                    encode::chunk_head(&mut self.write, data.len());
                    // The last chunk leaves with the one before it.
                    let after = if end { &b"\r\n0\r\n\r\n"[..] } else { b"\r\n" };
                    self.send(data, after).await?;
                    if end {
                        self.framing = AnswerFraming::None;
                    }
                }
                AnswerFraming::UntilClose | AnswerFraming::Tunnel => self.send(data, b"").await?,
            }
        }
        if end { self.finish().await } else { Ok(()) }
    }

    /// Small pieces are gathered into one write; large ones go out from where they are.
    async fn send(&mut self, data: Bytes, after: &[u8]) -> Result<()> {
        if data.len() <= COALESCE {
            self.write.extend_from_slice(&data);
            self.write.extend_from_slice(after);
            return self.flush().await;
        }
        let mut whole = Buf::chain(Buf::chain(self.write.as_slice(), data), after);
        let sent = Box::pin(put(&mut self.io, &mut whole, self.patience)).await;
        self.write.clear();
        self.failed |= sent.is_err();
        sent
    }

    /// Ends the answer with these trailer fields, if they can follow it.
    ///
    /// # Errors
    /// As [`H1::finish`].
    pub async fn finish_with(&mut self, fields: &HeaderMap) -> Result<()> {
        if self.framing == AnswerFraming::Chunked && !fields.is_empty() {
            self.framing = AnswerFraming::None;
            trailers::last_chunk(&mut self.write, fields);
        }
        self.finish().await
    }

    /// Ends the answer. Harmless if it has ended.
    ///
    /// # Errors
    /// The client is gone, or the backend sent less than it announced.
    pub async fn finish(&mut self) -> Result<()> {
        match self.framing {
            AnswerFraming::Chunked => {
                self.framing = AnswerFraming::None;
                self.write.extend_from_slice(encode::LAST_CHUNK);
            }
            AnswerFraming::Length(left) if left > 0 => {
                self.failed = true;
                return Error::e_explain(ErrorType::ConnectionClosed, "the backend's body is shorter than its Content-Length");
            }
            AnswerFraming::UntilClose => self.framing = AnswerFraming::None,
            _ => {}
        }
        self.flush().await
    }
}
