//! A method that is called by its own name, and whose messages are JSON in the mapping of proto3 and nothing else: what a client of Connect's
//! calls. No rule is asked, and a `google.api.HttpBody` is a message like any other.

use http::StatusCode;

use super::bill::Bill;
use super::bind::{read_whole, refused, too_large};
use super::{Answering, Method, Pay, Transcoder, encoding, framed};
use crate::reply::Reply;

/// See the module.
#[derive(Clone, Copy)]
pub struct Called<'t> {
    transcoder: &'t Transcoder,
    pub method: &'t Method,
}

impl Transcoder {
    /// The method of this path (`/package.Service/Method`), if it is one.
    pub fn called(&self, path: &str) -> Option<Called<'_>> {
        let method = self.methods.get(*self.by_path.get(path)?)?;
        Some(Called { transcoder: self, method })
    }

    /// The paths of all methods.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.methods.iter().map(|method| &*method.path)
    }

    /// The answer to a call of what there is not.
    pub fn no_method() -> Box<Reply> {
        refused(StatusCode::NOT_FOUND, "no_method", "The service has no method of this name.")
    }
}

impl Called<'_> {
    /// The message as gRPC sends it, behind its prefix.
    ///
    /// # Errors
    /// The answer to what cannot be made into one.
    ///
    /// `pay`: for the memory that it takes. Where nobody does, the answer says nothing.
    pub fn frame<'p>(&self, json: &[u8], pay: &'p mut Pay<'p>) -> Result<Vec<u8>, Box<Reply>> {
        let bill = Bill::new(self.transcoder.max_message, pay);
        let message = read_whole(self.transcoder, &self.method.input, Some(b"application/json"), json, bill)?;
        framed(&message, self.transcoder.max_message).map_err(|encoding::TooLong| too_large())
    }

    /// For when the request is gone.
    pub fn answering(&self) -> Answering {
        Answering { json_only: true, ..self.transcoder.answering(self.method, None) }
    }
}
