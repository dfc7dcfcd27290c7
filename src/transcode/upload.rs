//! A request's body that is a stream of messages: each is made as soon as it is there.

use std::sync::Arc;

use http::StatusCode;

use super::values::{Bad, Form, Values};
use super::{Body, Meant, Pay, Transcoder, is_http_body};
use crate::reply::Reply;

/// See the module. It goes on when the request itself is not at hand any more.
pub struct Upload {
    transcoder: Arc<Transcoder>,
    rule: usize,
    segments: Box<[Box<str>]>,
    query: Option<Box<str>>,
    content_type: Option<Box<[u8]>>,
    values: Values,
    /// How many messages were made.
    made: u64,
    ended: bool,
    raw: bool,
}

impl Upload {
    /// Of a request that means a method with a stream of messages.
    ///
    /// # Errors
    /// The answer to one whose body is none.
    pub fn new(
        transcoder: &Arc<Transcoder>,
        meant: &Meant<'_, '_>,
        query: Option<&str>,
        content_type: Option<&[u8]>,
    ) -> Result<Upload, Box<Reply>> {
        let raw = match &meant.rule.body {
            Body::None => false,
            Body::Whole => is_http_body(&meant.method.input),
            Body::Field(field) => field.kind().as_message().is_some_and(is_http_body) && !field.is_list(),
        };
        let form = if raw { Some(Form::Raw) } else { Form::of(content_type) };
        let form = form.ok_or_else(|| {
            let detail = "The body has to be lines of JSON (application/x-ndjson) here, or an array of it (application/json).";
            super::bind::refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "json_needed", detail)
        })?;
        // Of what is no JSON the message is as long as the piece.
        let most = if raw { transcoder.max_message } else { transcoder.max_json() };
        Ok(Upload {
            transcoder: transcoder.clone(),
            rule: meant.number,
            segments: meant.segments.iter().map(|segment| (*segment).into()).collect(),
            query: query.map(Into::into),
            content_type: content_type.map(Into::into),
            values: Values::new(form, most),
            made: 0,
            ended: false,
            raw,
        })
    }

    /// A piece of the body has come.
    pub fn add(&mut self, piece: &[u8]) {
        self.values.add(piece);
    }

    /// The body has come to its end.
    pub fn end(&mut self) {
        self.values.end();
        self.ended = true;
    }

    /// Whether it is no JSON. Then no body at all is a message nevertheless.
    pub fn is_raw(&self) -> bool {
        self.raw
    }

    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// How much is held.
    pub fn held(&self) -> usize {
        self.values.held()
    }

    /// The next value.
    ///
    /// # Errors
    /// The answer to a body that cannot be made into messages.
    pub fn next_message(&mut self) -> Result<Option<bytes::Bytes>, Box<Reply>> {
        let value = self.values.next().map_err(|bad| match bad {
            Bad::TooLarge => self.too_large(),
            Bad::NoArray => {
                let detail = "The body is no array of JSON. Lines of JSON are sent as application/x-ndjson.";
                super::bind::refused(StatusCode::BAD_REQUEST, "malformed_json", detail)
            }
        })?;
        // What the path and the query say is said, be the body empty.
        Ok(value.or_else(|| (self.raw && self.ended && self.made == 0).then(bytes::Bytes::new)))
    }

    /// Its message, behind its prefix. `pay`: for the memory that it takes.
    ///
    /// # Errors
    /// The answer to one that cannot be made.
    pub fn frame<'p>(&mut self, value: &[u8], pay: &'p mut Pay<'p>) -> Result<Vec<u8>, Box<Reply>> {
        let bound = self.meant().and_then(|meant| meant.bind(self.query.as_deref(), self.content_type(), value, pay));
        let frame = bound.map_err(|reply| self.placed(reply))?;
        self.made += 1;
        Ok(frame)
    }

    /// Each line is JSON, whatever they are together.
    fn content_type(&self) -> Option<&[u8]> {
        if self.raw { self.content_type.as_deref() } else { Some(b"application/json") }
    }

    fn meant(&self) -> Result<Meant<'_, '_>, Box<Reply>> {
        let segments = self.segments.iter().map(|segment| &**segment).collect();
        self.transcoder.meant(self.rule, segments)
    }

    /// The answer where there is not that much memory, ever.
    pub fn too_large(&self) -> Box<Reply> {
        self.placed(super::bind::too_large())
    }

    /// Says which message is meant.
    fn placed(&self, mut reply: Box<Reply>) -> Box<Reply> {
        reply.detail = format!("Message {} of the stream: {}", self.made + 1, reply.detail).into();
        reply
    }
}
