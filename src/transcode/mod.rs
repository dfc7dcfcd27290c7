//! gRPC methods for clients that speak REST and JSON: which method a request means, the message that it is made into, and the JSON that the
//! answer is made into. After [`google.api.http`](https://github.com/googleapis/googleapis/blob/master/google/api/http.proto) and
//! [proto3's JSON mapping](https://protobuf.dev/programming-guides/json/).
//!
//! - [`source`], [`reflection`]: descriptors, from files and from the server itself.
//! - [`template`], [`table`], [`annotation`], [`compile`]: the rules.
//! - [`bind`], [`field`]: path, query and body into a message.
//! - [`called`]: a body into the message of a method that is called by its own name.
//! - [`upload`], [`values`]: a body into many.
//! - [`rest`]: the other way, messages into requests.
//! - [`read`], [`write`], [`scalar`], [`wkt`]: JSON and messages.
//! - [`encoding`]: messages as bytes, and how much they take.
//! - [`bill`]: who pays for that while they are made.
//! - [`frames`], [`status`]: what gRPC puts around messages, and how a call ends.
//!
//! Nothing here waits or talks to anybody: the calls are made where all calls are, in [`crate::upstream::call`].

mod annotation;
mod bill;
mod bind;
mod called;
mod compile;
pub mod config;
mod encoding;
mod field;
pub mod frames;
mod read;
pub mod reflection;
pub mod rest;
mod scalar;
mod source;
pub mod status;
mod table;
mod template;
pub mod upload;
mod values;
mod wkt;
pub mod write;

use std::collections::HashMap;
use std::sync::Arc;

use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor, Value};

pub use bind::too_large;
pub use compile::{USUAL_MESSAGE, message_size};
use config::Unknown;
use encoding::Unread;
use field::{FieldPath, Spelling};
use table::Table;
use template::Variable;
use write::{Style, Unwritable, Writer};

use crate::tally::{Counter, Tallies};

/// How long the prefix of a message is.
const PREFIX: usize = 5;

/// How much longer than the longest message its JSON may be.
const JSON_LONGER: usize = 4;

/// What a service's methods are to clients that speak REST.
pub struct Transcoder {
    table: Table,
    rules: Vec<Rule>,
    /// Where clients speak gRPC, and the service REST.
    backwards: Option<Box<rest::Backwards>>,
    methods: Vec<Method>,
    /// Their numbers by their paths.
    by_path: HashMap<Box<str>, usize, ahash::RandomState>,
    unknown_fields: Unknown,
    spelling: Spelling,
    style: Style,
    unknown_query: Unknown,
    /// The longest message, in bytes.
    pub max_message: usize,
    /// How calls ended, by their code.
    counts: Vec<Arc<Counter>>,
    /// Errors are written in what the service's own descriptors know.
    near: Option<MessageDescriptor>,
}

impl std::fmt::Debug for Transcoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transcoder").field("methods", &self.methods.len()).field("rules", &self.rules.len()).finish()
    }
}

/// A method of gRPC's.
#[derive(Debug)]
pub struct Method {
    /// `/package.Service/Method`.
    pub path: Box<str>,
    input: MessageDescriptor,
    output: MessageDescriptor,
    /// It answers with any number of messages.
    pub streams: bool,
    /// It takes any number of messages.
    pub takes_stream: bool,
    /// It says of itself that it changes nothing (`idempotency_level = NO_SIDE_EFFECTS`).
    pub is_safe: bool,
}

/// Requests that mean a method.
#[derive(Debug)]
struct Rule {
    method: usize,
    body: Body,
    /// The field of the answer that is the whole answer.
    answer: Option<FieldDescriptor>,
    variables: Vec<(FieldPath, Variable)>,
}

#[derive(Debug)]
enum Body {
    None,
    Whole,
    Field(FieldDescriptor),
}

/// The method that a request means, and what its path says.
pub struct Meant<'t, 'p> {
    transcoder: &'t Transcoder,
    number: usize,
    rule: &'t Rule,
    pub method: &'t Method,
    segments: Vec<&'p str>,
}

/// An answer's body.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// `None`: it is JSON.
    pub content_type: Option<String>,
    pub body: Vec<u8>,
}

impl Transcoder {
    /// The same, with its calls counted for a service of this name.
    pub fn counted(mut self, service: &str, tallies: &Tallies) -> Self {
        let help = "Calls of gRPC's that requests were made into, by the code that they ended with.";
        let count = |code: u8| {
            let code = if code == 0 { "OK".to_owned() } else { status::name(code) };
            tallies.counter("portcullis_transcoded_calls_total", help, &[("service", service), ("code", code.as_str())])
        };
        self.counts = (0..=16).map(count).collect();
        self
    }

    /// How many methods can be called.
    pub fn methods(&self) -> usize {
        self.methods.len()
    }

    /// Notes how a call ended.
    pub fn count(&self, code: u32) {
        if let Some(count) = usize::try_from(code).ok().and_then(|code| self.counts.get(code)) {
            count.add(1);
        }
    }

    /// How answers of a method are written, or one field of theirs.
    fn answering(&self, method: &Method, field: Option<FieldDescriptor>) -> Answering {
        let heaviest = encoding::heaviest(self.max_message);
        let (output, most) = (method.output.clone(), self.max_json());
        Answering { output, field, style: self.style, most, heaviest, json_only: false }
    }

    /// How long the JSON of a message may be.
    pub fn max_json(&self) -> usize {
        self.max_message.saturating_mul(JSON_LONGER)
    }
}

/// Who makes a message asks whoever it is for for so many bytes of memory more, before it takes them, and stops where there are none.
pub type Pay<'p> = dyn FnMut(usize) -> bool + 'p;

/// How one answer of a method is written.
#[derive(Clone)]
pub struct Answering {
    output: MessageDescriptor,
    field: Option<FieldDescriptor>,
    style: Style,
    most: usize,
    heaviest: usize,
    /// Nothing is a raw body.
    json_only: bool,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It is no message of the type that the method answers with.
    Undecodable,
    Unwritable(Unwritable),
}

impl Unfit {
    pub fn why(self) -> &'static str {
        match self {
            Unfit::Undecodable => "of another type",
            Unfit::Unwritable(why) => why.why(),
        }
    }
}

impl Meant<'_, '_> {
    /// For when the request is gone.
    pub fn answering(&self) -> Answering {
        self.transcoder.answering(self.method, self.rule.answer.clone())
    }
}

impl Answering {
    /// Whether answers are raw bodies, and not JSON.
    pub fn is_raw(&self) -> bool {
        match &self.field {
            _ if self.json_only => false,
            Some(field) => !field.is_list() && field.kind().as_message().is_some_and(is_http_body),
            None => is_http_body(&self.output),
        }
    }

    /// About what a message takes in memory while it is told.
    ///
    /// # Errors
    /// See [`Unfit`].
    pub fn takes(&self, message: &[u8]) -> Result<usize, Unfit> {
        encoding::weigh(&self.output, message, self.heaviest).map_err(|unread| match unread {
            Unread::Malformed => Unfit::Undecodable,
            Unread::TooDeep => Unfit::Unwritable(Unwritable::TooDeep),
            Unread::TooHeavy => Unfit::Unwritable(Unwritable::TooLarge),
        })
    }

    /// What a client is told of a message.
    ///
    /// # Errors
    /// See [`Unfit`].
    pub fn told(&self, message: &[u8]) -> Result<Told, Unfit> {
        self.takes(message)?;
        self.written(message)
    }

    /// The same of one that was weighed.
    ///
    /// # Errors
    /// See [`Unfit`].
    pub fn written(&self, message: &[u8]) -> Result<Told, Unfit> {
        let message = DynamicMessage::decode(self.output.clone(), message).map_err(|_| Unfit::Undecodable)?;
        if self.is_raw() {
            let raw = match &self.field {
                Some(field) => message.get_field(field).as_message().cloned(),
                None => Some(message),
            };
            return Ok(raw.map_or(Told { content_type: None, body: Vec::new() }, raw_body));
        }
        let mut body = Vec::with_capacity(256);
        let mut writer = Writer::new(self.style, &mut body, self.most);
        let written = match &self.field {
            Some(field) => writer.field(field, &message.get_field(field)),
            None => writer.message(&message),
        };
        written.map_err(Unfit::Unwritable)?;
        if body.len() > self.most {
            return Err(Unfit::Unwritable(Unwritable::TooLarge));
        }
        Ok(Told { content_type: None, body })
    }
}

/// A body that is passed on as it is.
fn is_http_body(message: &MessageDescriptor) -> bool {
    message.full_name() == "google.api.HttpBody"
}

fn http_body(kind: &MessageDescriptor, content_type: Option<&[u8]>, body: &[u8]) -> Result<DynamicMessage, String> {
    let content_type = content_type.map(String::from_utf8_lossy).unwrap_or_default().into_owned();
    let mut message = DynamicMessage::new(kind.clone());
    wkt::set(&mut message, "content_type", Value::String(content_type))?;
    wkt::set(&mut message, "data", Value::Bytes(body.to_vec().into()))?;
    Ok(message)
}

fn raw_body(body: DynamicMessage) -> Told {
    let kind = body.get_field_by_name("content_type").and_then(|kind| kind.as_str().map(str::to_owned));
    let data = body.get_field_by_name("data").and_then(|data| data.as_bytes().map(|data| data.to_vec()));
    let kind = kind.filter(|kind| !kind.is_empty()).unwrap_or_else(|| "application/octet-stream".to_owned());
    Told { content_type: Some(kind), body: data.unwrap_or_default() }
}

/// The type's name in the URL of an `Any`.
fn type_name(url: &str) -> Option<&str> {
    url.rsplit_once('/').map(|(_, name)| name).filter(|name| !name.is_empty())
}

/// A message of up to so many bytes behind its prefix, as gRPC sends it.
fn framed(message: &DynamicMessage, most: usize) -> Result<Vec<u8>, encoding::TooLong> {
    let mut frame = vec![0; PREFIX];
    encoding::write(message, &mut frame, most.saturating_add(PREFIX))?;
    let length = u32::try_from(frame.len() - PREFIX).map_err(|_| encoding::TooLong)?;
    if let Some(prefix) = frame.get_mut(1..PREFIX) {
        prefix.copy_from_slice(&length.to_be_bytes());
    }
    Ok(frame)
}

#[cfg(test)]
mod tests;
