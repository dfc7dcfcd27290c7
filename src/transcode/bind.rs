//! A request into the message that it means: the body, what the query adds to it, and what the path says.

use std::borrow::Cow;

use http::{HeaderValue, Method as HttpMethod, StatusCode, header};
use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor, Value};

use super::bill::Bill;
use super::config::Unknown;
use super::field::{FieldPath, Lost, Spelling, one_of_its_kind};
use super::read::{Reader, Wrong};
use super::table::Found;
use super::{Body, Meant, Pay, Transcoder, encoding, framed, http_body, is_http_body};
use crate::carrier::{decode, decode_escapes};
use crate::jose::json;
use crate::reply::{Reply, push_json};
use crate::wire::media::is_json;

/// The most parameters of a query that are looked at.
const MOST_PARAMETERS: usize = 1000;

const NAME: &str = "transcode";

/// The request is at fault.
pub fn refused(status: StatusCode, reason: &'static str, detail: &'static str) -> Box<Reply> {
    Reply::new(status, NAME, reason, detail)
}

pub fn too_large() -> Box<Reply> {
    refused(StatusCode::PAYLOAD_TOO_LARGE, "message_too_large", "The message is larger than the service takes.")
}

/// The body cannot be read.
fn unread(reader: &Reader, why: &Wrong) -> Box<Reply> {
    if reader.is_over() { too_large() } else { wrong("body", "pointer", &why.at, &why.must) }
}

/// The same, and where.
fn wrong(part: &str, key: &str, at: &str, must: &str) -> Box<Reply> {
    let mut members = b",\"errors\":[{\"in\":".to_vec();
    push_json(&mut members, part);
    for (key, text) in [(key, at), ("detail", must)] {
        members.push(b',');
        push_json(&mut members, key);
        members.push(b':');
        push_json(&mut members, text);
    }
    members.extend_from_slice(b"}]");
    let mut reply =
        refused(StatusCode::BAD_REQUEST, "unfit_message", "The request cannot be made into a message: `errors` says where.");
    reply.members = String::from_utf8(members).ok().map(Into::into);
    reply
}

impl Transcoder {
    /// The answer to a request that means no method.
    pub fn no_rule() -> Box<Reply> {
        refused(StatusCode::NOT_FOUND, "no_rule", "No method of the service is at this path.")
    }

    /// Which method a request means. `path` is canonical; `verbs`: what stands behind its last colon may be a word of a rule.
    ///
    /// # Errors
    /// The answer to one that means none.
    pub fn find<'t, 'p>(&'t self, method: &HttpMethod, path: &'p str, verbs: bool) -> Result<Meant<'t, 'p>, Box<Reply>> {
        let (number, segments) = match self.table.find(method, path, verbs) {
            Found::Rule(number, segments) => (number, segments),
            Found::Others(methods) => {
                let mut names: Vec<&str> = methods.iter().map(HttpMethod::as_str).collect();
                if methods.contains(&HttpMethod::GET) && !methods.contains(&HttpMethod::HEAD) {
                    names.push("HEAD");
                }
                names.sort_unstable();
                let reply = refused(StatusCode::METHOD_NOT_ALLOWED, "method_not_bound", "This path does not take this method.");
                // They are tokens.
                let allow = HeaderValue::try_from(names.join(", ")).unwrap_or(HeaderValue::from_static(""));
                return Err(reply.header(header::ALLOW, allow));
            }
            Found::Nothing => return Err(Self::no_rule()),
        };
        let meant = self.meant(number, segments)?;
        if meant.method.takes_stream && matches!(meant.rule.body, Body::None) {
            let detail = "This method takes a stream of messages, and no body says here what they are.";
            return Err(refused(StatusCode::NOT_IMPLEMENTED, "stream_needed", detail));
        }
        Ok(meant)
    }

    fn reader<'p>(&self, bill: Bill<'p>) -> Reader<'p> {
        Reader::new(self.unknown_fields, self.spelling, bill)
    }

    /// What a rule means, with these segments.
    pub(super) fn meant<'t, 'p>(&'t self, number: usize, segments: Vec<&'p str>) -> Result<Meant<'t, 'p>, Box<Reply>> {
        let rule = self.rules.get(number).ok_or_else(Self::no_rule)?;
        let method = self.methods.get(rule.method).ok_or_else(Self::no_rule)?;
        Ok(Meant { transcoder: self, number, rule, method, segments })
    }
}

impl Meant<'_, '_> {
    /// The request as gRPC sends it: one message, behind its prefix.
    ///
    /// # Errors
    /// The answer to a request that cannot be made into one.
    ///
    /// `pay`: for the memory that it takes. Where nobody does, the answer says nothing.
    pub fn bind<'p>(
        &self,
        query: Option<&str>,
        content_type: Option<&[u8]>,
        body: &[u8],
        pay: &'p mut Pay<'p>,
    ) -> Result<Vec<u8>, Box<Reply>> {
        let mut message = self.body(content_type, body, Bill::new(self.transcoder.max_message, pay))?;
        self.query(&mut message, query.unwrap_or_default())?;
        self.path(&mut message)?;
        framed(&message, self.transcoder.max_message).map_err(|encoding::TooLong| too_large())
    }

    fn body(&self, content_type: Option<&[u8]>, body: &[u8], bill: Bill<'_>) -> Result<DynamicMessage, Box<Reply>> {
        let input = &self.method.input;
        let mut message = DynamicMessage::new(input.clone());
        match &self.rule.body {
            Body::None if body.is_empty() => {}
            Body::None => {
                let detail = "This method takes no body: what it wants to know stands in the path and the query.";
                return Err(refused(StatusCode::BAD_REQUEST, "unexpected_body", detail));
            }
            Body::Whole if is_http_body(input) => message = raw(input, content_type, body, &bill)?,
            Body::Whole if body.is_empty() => {}
            Body::Whole => message = read_whole(self.transcoder, input, content_type, body, bill)?,
            Body::Field(field) => {
                let value = match field.kind().as_message() {
                    Some(kind) if is_http_body(kind) && !field.is_list() => {
                        Some(Value::Message(raw(kind, content_type, body, &bill)?))
                    }
                    _ if body.is_empty() => None,
                    _ => {
                        let json = tree(content_type, body, &bill)?;
                        let reader = self.transcoder.reader(bill);
                        reader.whole(|reader| reader.field(field, &json)).map_err(|why| unread(&reader, &why))?
                    }
                };
                if let Some(value) = value {
                    set(&mut message, field, value).map_err(|must| wrong("body", "pointer", "", &must))?;
                }
            }
        }
        Ok(message)
    }

    /// What the body does not say, nor the path.
    fn query(&self, message: &mut DynamicMessage, query: &str) -> Result<(), Box<Reply>> {
        let mut given: Vec<FieldPath> = Vec::new();
        for (number, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
            if number == MOST_PARAMETERS {
                return Err(refused(StatusCode::BAD_REQUEST, "too_many_parameters", "The query has too many parameters."));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = utf8(decode(name)).ok_or_else(|| wrong("query", "name", "", "must be UTF-8"))?;
            let wrong = |must: &str| wrong("query", "name", &name, must);
            let (input, spelling) = (&self.method.input, self.transcoder.spelling);
            let path = match FieldPath::find(input, &name, spelling) {
                Ok(path) if self.leaves(&path) => path,
                // One that is known by another name is not overlooked: whoever has written it means it.
                Err(Lost::Unknown) if FieldPath::find(input, &name, Spelling::Both).is_ok() => {
                    return Err(wrong("must name fields as answers do"));
                }
                _ if self.transcoder.unknown_query == Unknown::Ignore => continue,
                Ok(_) if matches!(self.rule.body, Body::Whole) => return Err(wrong("must stand in the body")),
                Ok(_) => return Err(wrong("must not stand in the query, for the body or the path says it")),
                Err(lost) => return Err(wrong(lost.must())),
            };
            let value = utf8(decode(value)).ok_or_else(|| wrong("must be UTF-8"))?;
            if !path.is_list() {
                if given.iter().any(|other| other.meets(&path)) {
                    return Err(wrong("must not be there twice"));
                }
                given.push(path.clone());
            }
            path.put(message, &value).map_err(|must| wrong(&must))?;
        }
        Ok(())
    }

    /// Whether a field is for the query to say.
    fn leaves(&self, path: &FieldPath) -> bool {
        let of_body = match &self.rule.body {
            Body::None => false,
            Body::Whole => true,
            Body::Field(field) => path.first() == Some(field),
        };
        !of_body && !self.rule.variables.iter().any(|(other, _)| other.meets(path))
    }

    /// What the path says goes before what the body says.
    fn path(&self, message: &mut DynamicMessage) -> Result<(), Box<Reply>> {
        for (path, variable) in &self.rule.variables {
            let wrong = |must: &str| wrong("path", "name", &variable.field, must);
            let to = variable.to.unwrap_or(self.segments.len());
            let segments = self.segments.get(variable.from..to).unwrap_or_default();
            let read = |segment: &&str| utf8(if variable.several { unescaped(segment) } else { decode_escapes(segment) });
            let segments: Option<Vec<_>> = segments.iter().map(read).collect();
            let value = segments.ok_or_else(|| wrong("must be UTF-8"))?.join("/");
            path.clear(message);
            path.put(message, &value).map_err(|must| wrong(&must))?;
        }
        Ok(())
    }
}

/// The message that a body is as a whole.
pub(super) fn read_whole(
    transcoder: &Transcoder,
    input: &MessageDescriptor,
    content_type: Option<&[u8]>,
    body: &[u8],
    bill: Bill<'_>,
) -> Result<DynamicMessage, Box<Reply>> {
    let json = tree(content_type, body, &bill)?;
    let reader = transcoder.reader(bill);
    reader.whole(|reader| reader.message(input, &json)).map_err(|why| unread(&reader, &why))
}

fn set(message: &mut DynamicMessage, field: &FieldDescriptor, value: Value) -> Result<(), String> {
    one_of_its_kind(message, field)?;
    message.try_set_field(field, value).map_err(|_| "must be of the field's type".to_owned())
}

/// A body that is passed on as it is.
fn raw(
    kind: &MessageDescriptor,
    content_type: Option<&[u8]>,
    body: &[u8],
    bill: &Bill<'_>,
) -> Result<DynamicMessage, Box<Reply>> {
    if !(bill.takes(body.len()) && bill.settle()) {
        return Err(too_large());
    }
    http_body(kind, content_type, body).map_err(|must| wrong("body", "pointer", "", &must))
}

/// The JSON that a body is.
fn tree(content_type: Option<&[u8]>, body: &[u8], bill: &Bill<'_>) -> Result<serde_json::Value, Box<Reply>> {
    if !content_type.is_some_and(is_json) {
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "json_needed", "The body has to be JSON here."));
    }
    if !bill.takes_tree(body) {
        return Err(too_large());
    }
    let read = json::unique(body).map(|mut json| {
        exact(&mut json, &mut numbers(body));
        json
    });
    read.ok_or_else(|| {
        let detail =
            "The body is no JSON that has one meaning: it is malformed, nested too deeply, or has a name twice in an object.";
        refused(StatusCode::BAD_REQUEST, "malformed_json", detail)
    })
}

/// The numbers of a text that is JSON, in order.
fn numbers(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut left = body;
    std::iter::from_fn(move || {
        loop {
            let (&byte, rest) = left.split_first()?;
            if byte == b'"' {
                left = behind_text(rest);
            } else if byte == b'-' || byte.is_ascii_digit() {
                let in_number = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                let length = left.iter().take_while(in_number).count();
                let (number, rest) = left.split_at_checked(length)?;
                left = rest;
                return Some(number);
            } else {
                left = rest;
            }
        }
    })
}

/// What follows the end of a text that has begun.
fn behind_text(mut left: &[u8]) -> &[u8] {
    loop {
        match left {
            [b'\\', _, rest @ ..] => left = rest,
            [b'"', rest @ ..] => return rest,
            [_, rest @ ..] => left = rest,
            [] => return left,
        }
    }
}

/// Reads numbers with a fraction or an exponent anew: the library's reading of them may be off in the last digit. `numbers`: as they are
/// written, in the order of the tree, which keeps that of the text.
fn exact<'b>(json: &mut serde_json::Value, numbers: &mut impl Iterator<Item = &'b [u8]>) {
    use serde_json::Value as Json;
    match json {
        Json::Number(number) => {
            let written =
                numbers.next().and_then(|text| std::str::from_utf8(text).ok()).and_then(|text| text.parse::<f64>().ok());
            if let Some(read) = written.filter(|_| number.is_f64()).and_then(serde_json::Number::from_f64) {
                *number = read;
            }
        }
        Json::Array(list) => list.iter_mut().for_each(|json| exact(json, numbers)),
        Json::Object(members) => members.values_mut().for_each(|json| exact(json, numbers)),
        Json::Null | Json::Bool(_) | Json::String(_) => {}
    }
}

fn utf8(bytes: Cow<'_, [u8]>) -> Option<String> {
    String::from_utf8(bytes.into_owned()).ok()
}

/// A segment of several, without its escapes, but for slashes that are part of it.
fn unescaped(segment: &str) -> Cow<'_, [u8]> {
    if !segment.contains("%2F") {
        return decode_escapes(segment);
    }
    let parts: Vec<_> = segment.split("%2F").map(decode_escapes).collect();
    Cow::Owned(parts.join(&b"%2F"[..]))
}
