//! A client whose body is a stream of messages: the engine reads one at a time, as gRPC sends it, when the service has room for it.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use pingora_error::Result;

use super::super::client::{Client, NoMemory};
use super::NAME;
use crate::grpc::{self, GRPC_MESSAGE, GRPC_STATUS};
use crate::reply::Reply;
use crate::transcode::Pay;
use crate::transcode::upload::Upload;
use crate::wire::answer::AnswerHead;
use crate::wire::stages::refused;

/// What outlives a request's head of such a body.
pub struct Uploads {
    upload: Upload,
    /// How much memory was paid for.
    paid: usize,
    /// Of the longest message.
    longest: usize,
    /// Something of the body was taken: it cannot be had again.
    begun: bool,
    /// Why it went no further.
    pub refused: Option<Box<Reply>>,
}

impl Uploads {
    pub fn new<C: Client>(mut upload: Upload, client: &C) -> Uploads {
        // Whoever has read it already has it whole.
        if let Some(body) = client.buffered() {
            upload.add(body);
            upload.end();
        }
        Uploads { upload, paid: 0, longest: 0, begun: false, refused: None }
    }

    /// Whether all of the body was taken in.
    pub fn is_over(&self) -> bool {
        self.upload.is_ended()
    }

    /// The next message that there is without waiting.
    fn next<C: Client>(&mut self, client: &mut C) -> Result<Option<Bytes>> {
        let more = self.upload.held().saturating_sub(self.paid);
        client.pays(more)?;
        self.paid += more;
        let made = match self.upload.next_message() {
            Ok(None) => return Ok(None),
            Ok(Some(value)) => match client.pays_meanwhile(|pay| self.upload.frame(&value, pay)) {
                Ok(made) => made,
                Err(none) if none.ever => Err(self.upload.too_large()),
                Err(none) => return Err(none.error),
            },
            Err(reply) => Err(reply),
        };
        match made {
            Ok(frame) => {
                // It is held for as long as the service does not take it; of them one at a time.
                client.pays(frame.len().saturating_sub(self.longest))?;
                self.longest = self.longest.max(frame.len());
                Ok(Some(frame.into()))
            }
            Err(reply) => {
                self.refused = Some(reply.clone());
                Err(refused(reply))
            }
        }
    }
}

/// What ends a call whose messages cannot be made, for who reads trailers.
pub fn trailers(reply: &Reply) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(GRPC_STATUS, HeaderValue::from(u16::from(grpc::status(reply.status))));
    if let Ok(message) = HeaderValue::try_from(grpc::message(&reply.detail)) {
        fields.insert(GRPC_MESSAGE, message);
    }
    fields
}

/// See the module.
pub struct Uploading<'a, C> {
    pub client: &'a mut C,
    pub uploads: &'a mut Uploads,
}

impl<C: Client> Client for Uploading<'_, C> {
    fn buffered(&self) -> Option<&Bytes> {
        None
    }

    fn body_is_empty(&self) -> bool {
        self.client.buffered().is_none() && self.client.body_is_empty() && !self.uploads.upload.is_raw()
    }

    /// It is asked for when it is read.
    fn is_continue_owed(&self) -> bool {
        false
    }

    fn keep_for_replay(&mut self, _most: usize) {}

    fn replay(&self) -> Option<Bytes> {
        None
    }

    /// What was sent is not kept, and so is not sent twice.
    fn can_replay(&self) -> bool {
        !self.uploads.begun
    }

    fn uploaded(&self) -> Option<std::time::Instant> {
        self.client.uploaded()
    }

    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(frame) = self.uploads.next(self.client)? {
                self.uploads.begun = true;
                return Ok(Some(frame));
            }
            if self.uploads.is_over() {
                return Ok(None);
            }
            match self.client.read_body().await? {
                Some(piece) => {
                    self.uploads.begun = true;
                    self.uploads.upload.add(&piece);
                }
                None => self.uploads.upload.end(),
            }
        }
    }

    /// gRPC has none behind a request.
    fn trailers(&self) -> Option<HeaderMap> {
        None
    }

    async fn unasked(&mut self) {
        self.client.unasked().await;
    }

    async fn say_continue(&mut self) -> Result<()> {
        self.client.say_continue().await
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

    /// Whoever signs what is sent wants it.
    async fn whole(&mut self, _most: usize) -> Result<Bytes> {
        let detail = "A stream of messages cannot be signed as a whole.";
        let reply = Reply::new(StatusCode::NOT_IMPLEMENTED, NAME, "stream_unsigned", detail);
        self.uploads.refused = Some(reply.clone());
        Err(refused(reply))
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
