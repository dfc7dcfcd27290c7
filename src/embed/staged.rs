//! Stages that work on an answer's body, in Pingora's phases.

use bytes::Bytes;
use http::header;
use pingora_http::ResponseHeader;

use crate::reply::Reply;
use crate::wire::stages::{Stages, join};

/// See the module. The head has gone before: stages that change it once the body is whole are refused while the file is compiled.
pub struct Staged {
    stages: Box<Stages>,
    /// What is left of a body of known length: of one that comes from the cache, Pingora does not say which piece is the last.
    left: Option<u64>,
    ended: bool,
}

impl Staged {
    /// `answer` has the length that was announced.
    pub fn new(stages: Box<Stages>, answer: &ResponseHeader) -> Self {
        let length = answer.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Staged { stages, left: length, ended: false }
    }

    /// What goes on in place of a piece of the body.
    ///
    /// # Errors
    /// The answer is not to go on.
    pub fn piece(&mut self, data: Bytes, last: bool) -> Result<Bytes, Box<Reply>> {
        if self.ended {
            return Ok(Bytes::new());
        }
        self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
        let first = if data.is_empty() { data } else { self.stages.piece(data)? };
        self.ended = last || self.left == Some(0);
        let then = if self.ended { self.stages.end()? } else { self.stages.flush()? };
        Ok(join(first, then))
    }
}
