//! What a request's body says, where it is coded and a step has to know it ([`crate::wire::coding`]).
//!
//! The service gets the body as it came, unless a step puts another one in its place: that is uncoded, and says so. So does one that
//! was coded in several parts, of which some readers would see the first alone.

use bytes::Bytes;
use http::{StatusCode, header};

use super::refusals::no_memory;
use super::{Client, Journey};
use crate::exchange::Exchange;
use crate::head::{HeaderEdit, RequestHead};
use crate::reply::Reply;
use crate::wire::coding::{Coded, Fault, TAKEN};
use crate::wire::stages::describing;

/// What is known of a body that is not what it was.
pub enum Content {
    /// This is behind its codings.
    Behind(Bytes),
    /// Another one is in its place, and uncoded.
    Replaced,
}

/// What a step is shown.
pub struct Shown {
    pub content: Bytes,
    /// It has to go on in this form, for in the other one it could be read in two ways.
    pub several: bool,
}

/// Why a step cannot be shown anything.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hidden {
    Unknown,
    Because(Fault),
}

impl Hidden {
    /// Whether it is not coded in a way that can be undone; else there is too much of it, or no memory.
    pub fn is_unreadable(self) -> bool {
        matches!(self, Hidden::Unknown | Hidden::Because(Fault::Malformed))
    }

    /// What is said of it in the name of this policy.
    pub fn reply(self, policy: &'static str) -> Box<Reply> {
        match self {
            Hidden::Unknown => {
                let detail = "Bodies are taken in the codings that Accept-Encoding names, and in no more than three of them.";
                let reply = Reply::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, policy, "content_encoding_unsupported", detail);
                reply.header(header::ACCEPT_ENCODING, TAKEN)
            }
            Hidden::Because(Fault::Malformed) => {
                let detail = "The body is not coded as its Content-Encoding says.";
                Reply::new(StatusCode::BAD_REQUEST, policy, "content_encoding_malformed", detail)
            }
            Hidden::Because(Fault::TooLarge) => {
                let detail = "The body is larger than what is looked into here, once its coding is undone.";
                Reply::new(StatusCode::PAYLOAD_TOO_LARGE, policy, "decoded_body_too_large", detail)
            }
            Hidden::Because(Fault::Ratio) => {
                let detail = "The body becomes more than 200 times larger once its coding is undone.";
                Reply::new(StatusCode::PAYLOAD_TOO_LARGE, policy, "compression_ratio", detail)
            }
            Hidden::Because(Fault::NoMemory) => no_memory(),
        }
    }
}

/// What is behind the codings of a body, up to `most` bytes. It is found out once.
pub fn behind(
    known: &mut Option<Box<Content>>,
    head: &RequestHead,
    body: &Bytes,
    most: usize,
    client: &mut impl Client,
) -> Result<Shown, Hidden> {
    let as_it_is = |content: &Bytes| Ok(Shown { content: content.clone(), several: false });
    match known.as_deref() {
        Some(Content::Replaced) => return as_it_is(body),
        Some(Content::Behind(content)) if content.len() <= most => return as_it_is(content),
        Some(Content::Behind(_)) => return Err(Hidden::Because(Fault::TooLarge)),
        None => {}
    }
    let codings = match Coded::of(head) {
        Coded::No => return as_it_is(body),
        // Nothing at all is nothing, however it is coded.
        Coded::With(_) if body.is_empty() => return as_it_is(body),
        Coded::With(codings) => codings,
        Coded::Unknown => return Err(Hidden::Unknown),
    };
    let undone = codings.undo(body, most, |bytes| client.charge(bytes).is_ok()).map_err(Hidden::Because)?;
    let content = Bytes::from(undone.content);
    *known = Some(Box::new(Content::Behind(content.clone())));
    Ok(Shown { content, several: undone.several })
}

impl Journey {
    /// No step has to know any more what is behind the codings: the service's answer may take long.
    pub(super) fn let_go_of_content(&mut self) {
        if let Some(Content::Behind(_)) = self.content.as_deref() {
            self.content = None;
        }
    }

    /// What is behind the codings of a body, for who is no step; it is refused in this name.
    ///
    /// # Errors
    /// The answer to give instead.
    pub fn content_of(
        &mut self,
        body: &Bytes,
        most: usize,
        client: &mut impl Client,
        name: &'static str,
    ) -> Result<Bytes, Box<Reply>> {
        let shown = behind(&mut self.content, &self.head, body, most, client);
        shown.map(|shown| shown.content).map_err(|hidden| hidden.reply(name))
    }
}

/// Another body goes on: what is said of the one that came is not true of it.
pub fn replaced(known: &mut Option<Box<Content>>, head: &RequestHead, exchange: &mut Exchange) {
    let framing = |name: &http::HeaderName| *name == header::CONTENT_LENGTH || *name == header::ACCEPT_RANGES;
    exchange.to_upstream.extend(describing().into_iter().filter(|name| !framing(name)).map(HeaderEdit::Remove));
    if head.header("content-encoding").is_some() {
        exchange.to_upstream.push(HeaderEdit::Remove(header::CONTENT_ENCODING));
    }
    *known = Some(Box::new(Content::Replaced));
}
