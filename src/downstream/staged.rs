//! Answers whose body is worked on before the client gets it: the writer's way around, which nobody else pays for.

use bytes::Bytes;
use http::{HeaderMap, header};
use pingora_error::Result;
use pingora_http::ResponseHeader;

use super::Downstream;
use crate::reply::Reply;
use crate::wire::encode::is_bodiless;
use crate::wire::stages::{Stages, Validator, refused, untrue};

/// What is worked on at once. Of a body that is there whole, other requests have their turn in between.
const AT_ONCE: usize = 64 * 1024;

impl Downstream {
    /// What works on the body of the answer whose head is written next, in the place of what was to work on one that came to nothing.
    pub fn stage(&mut self, stages: Option<Box<Stages>>) {
        self.stages = stages;
    }

    /// Takes the head of an answer that stages work on. It is written once none of them can change it any more.
    pub(super) async fn begin_staged(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        let Some(stages) = &mut self.stages else { return Ok(()) };
        stages.begin(head);
        if end { self.end_staged(None).await } else { self.give(Bytes::new()).await }
    }

    pub(super) async fn write_staged(&mut self, mut data: Bytes, end: bool) -> Result<()> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(AT_ONCE));
            let Some(stages) = &mut self.stages else { return Ok(()) };
            let before = stages.held();
            let changed = stages.piece(piece);
            let more = stages.held().saturating_sub(before);
            let changed = changed.map_err(|reply| self.gave_up(reply))?;
            self.charge(more)?;
            self.give(changed).await?;
            if !data.is_empty() {
                tokio::task::yield_now().await;
            }
        }
        if end { self.end_staged(None).await } else { Ok(()) }
    }

    /// Nothing else is there for now: what stages keep back goes on.
    pub(super) async fn flush_staged(&mut self) -> Result<()> {
        let Some(stages) = &mut self.stages else { return Ok(()) };
        let changed = stages.flush().map_err(|reply| self.gave_up(reply))?;
        self.give(changed).await?;
        self.put_flush().await
    }

    /// The body has ended, with these fields behind it.
    pub(super) async fn end_staged(&mut self, fields: Option<(HeaderMap, bool)>) -> Result<()> {
        let Some(mut stages) = self.stages.take() else { return Ok(()) };
        let rest = stages.end().map_err(refused)?;
        if let Some(mut head) = stages.take_head() {
            // All of the body is known, and so is its length.
            let bodiless = is_bodiless(head.status);
            if !bodiless {
                head.insert_header(header::CONTENT_LENGTH, rest.len())?;
            }
            let end = bodiless || rest.is_empty();
            self.put_head(head, end).await?;
            return if end { self.put_end().await } else { self.put_body(rest, true).await };
        }
        match fields {
            Some((mut fields, wants)) => {
                for name in untrue(Validator::Drop) {
                    fields.remove(name);
                }
                self.put_body(rest, false).await?;
                self.put_end_with(fields, wants).await
            }
            None if rest.is_empty() => self.put_end().await,
            None => self.put_body(rest, true).await,
        }
    }

    /// Writes what has come out of the stages, behind the head if that has not gone before.
    async fn give(&mut self, changed: Bytes) -> Result<()> {
        if let Some(head) = self.stages.as_mut().and_then(|stages| stages.take_head()) {
            self.put_head(head, false).await?;
        }
        if changed.is_empty() { Ok(()) } else { self.put_body(changed, false).await }
    }

    /// A stage has refused the answer. Nothing else of it is worked on.
    fn gave_up(&mut self, reply: Box<Reply>) -> Box<pingora_error::Error> {
        self.stages = None;
        refused(reply)
    }
}
