//! A client as those see it who call services for it.

use bytes::Bytes;
use http::HeaderMap;
use pingora_error::{Error, Result};

use super::{BODY_BUDGET, Downstream, Wire};
use crate::transcode::Pay;
use crate::upstream::call::{Client, NoMemory};
use crate::wire::answer::AnswerHead;

impl Client for Downstream {
    fn buffered(&self) -> Option<&Bytes> {
        Downstream::buffered(self)
    }

    fn body_is_empty(&self) -> bool {
        Downstream::body_is_empty(self)
    }

    fn is_continue_owed(&self) -> bool {
        Downstream::is_continue_owed(self)
    }

    fn keep_for_replay(&mut self, most: usize) {
        Downstream::keep_for_replay(self, most);
    }

    fn replay(&self) -> Option<Bytes> {
        Downstream::replay(self)
    }

    fn can_replay(&self) -> bool {
        Downstream::can_replay(self)
    }

    fn uploaded(&self) -> Option<std::time::Instant> {
        Downstream::uploaded(self)
    }

    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        Downstream::read_body(self).await
    }

    /// Of streams only: the section behind an HTTP/1.1 client's chunks is held to the rules of fields, and dropped.
    fn trailers(&self) -> Option<HeaderMap> {
        match &self.wire {
            Some(Wire::H2(stream)) => stream.trailers().cloned(),
            _ => None,
        }
    }

    async fn unasked(&mut self) {
        Downstream::unasked(self).await;
    }

    async fn say_continue(&mut self) -> Result<()> {
        Downstream::say_continue(self).await
    }

    async fn write_interim(&mut self, answer: &AnswerHead) -> Result<()> {
        Downstream::write_interim(self, answer).await
    }

    async fn whole(&mut self, most: usize) -> Result<Bytes> {
        Downstream::buffer_body(self, most).await
    }

    fn pays(&mut self, bytes: usize) -> Result<()> {
        self.charge(bytes)
    }

    fn most_memory(&self) -> usize {
        Downstream::most_memory(self)
    }

    fn pays_meanwhile<T>(&mut self, work: impl FnOnce(&mut Pay<'_>) -> T) -> std::result::Result<T, NoMemory> {
        let mut beside = self.purse_beside();
        let (mut asked, mut is_short) = (0, false);
        let done = work(&mut |bytes| {
            asked += bytes;
            is_short = is_short || !beside.as_mut().is_none_or(|purse| purse.charge(bytes));
            !is_short
        });
        match is_short {
            false => Ok(done),
            true => Err(NoMemory { error: Error::new(BODY_BUDGET), ever: asked > Downstream::most_memory(self) }),
        }
    }

    async fn gone(&mut self) {
        Downstream::gone(self).await;
    }

    async fn reset(&mut self) {
        Downstream::reset(self).await;
    }
}
