//! The other way: a call of gRPC's into the request of REST that it means, and the answer to that into the call's. The rules are the same, read
//! backwards: what stands in a path comes out of the message, the body is what `body` says, and the query is the rest.

use std::collections::HashMap;

use http::{Method as Verb, StatusCode};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind};
use serde_json::{Map, Value as Json};

use super::bill::Bill;
use super::bind::{refused, too_large};
use super::config::Unknown;
use super::encoding::Unread;
use super::field::{FieldPath, Spelling};
use super::read::Reader;
use super::template::{Segment, Template};
use super::write::Writer;
use super::{Body, Method, Pay, Rule, Told, Transcoder, encoding, framed, http_body, is_http_body, raw_body};
use crate::carrier::decode_escapes;
use crate::jose::json;
use crate::path::{Made, push_value};
use crate::reply::Reply;
use crate::wire::media::is_json;

/// Why an answer is not made into a message, however often it is asked for.
pub const TOO_MUCH: &str = "it takes too much memory";

/// The most bytes of a target.
const LONGEST: usize = 8 * 1024;

/// How methods become requests, where that is what the service wants.
#[derive(Debug, Default)]
pub struct Backwards {
    /// By `/package.Service/Method`.
    methods: HashMap<Box<str>, Backward, ahash::RandomState>,
}

/// The first rule of a method, which is the one that it is called by.
#[derive(Debug)]
struct Backward {
    method: usize,
    rule: usize,
    verb: Verb,
    template: Template,
}

impl Backwards {
    /// The first one of a method stays.
    pub fn add(&mut self, path: &str, (method, rule): (usize, usize), verb: Verb, template: &Template) {
        let new = || Backward { method, rule, verb, template: template.clone() };
        self.methods.entry(path.into()).or_insert_with(new);
    }
}

/// A method, and the request that it means.
#[derive(Clone, Copy)]
pub struct Rest<'t> {
    pub transcoder: &'t Transcoder,
    pub method: &'t Method,
    rule: &'t Rule,
    back: &'t Backward,
}

/// A request of REST.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    pub verb: Verb,
    /// The path, and the query if there is one.
    pub target: String,
    /// With its type, which is JSON if it has none.
    pub body: Option<Told>,
}

/// Says why a call cannot be made into a request.
fn unfit(detail: impl Into<String>) -> Box<Reply> {
    let mut reply = refused(StatusCode::BAD_REQUEST, "unfit_message", "The message cannot be made into a request.");
    let detail: String = detail.into();
    reply.detail = detail.into();
    reply
}

impl Transcoder {
    /// The request that a call of this path means.
    ///
    /// # Errors
    /// The answer to one that means none.
    pub fn rest(&self, path: &str) -> Result<Rest<'_>, Box<Reply>> {
        let lacking = || refused(StatusCode::NOT_IMPLEMENTED, "no_rule", "No request of the service means this method.");
        let back = self.backwards.as_ref().and_then(|all| all.methods.get(path)).ok_or_else(lacking)?;
        let (method, rule) = self.methods.get(back.method).zip(self.rules.get(back.rule)).ok_or_else(lacking)?;
        if method.streams || method.takes_stream {
            let detail = "The service answers requests of REST, and this method is a stream of messages.";
            return Err(refused(StatusCode::NOT_IMPLEMENTED, "stream_needed", detail));
        }
        Ok(Rest { transcoder: self, method, rule, back })
    }

    /// Whether clients speak gRPC, and the service REST.
    pub fn serves_grpc(&self) -> bool {
        self.backwards.is_some()
    }
}

impl Rest<'_> {
    /// What the call's message asks, if it takes no more memory than it may.
    ///
    /// # Errors
    /// The answer to one that cannot be asked.
    pub fn request(&self, message: &[u8]) -> Result<Asked, Box<Reply>> {
        let input = &self.method.input;
        let read = DynamicMessage::decode(input.clone(), message).map_err(|_| unfit("The message is of another type."))?;
        let verb = self.back.verb.clone();
        if is_http_body(input) && matches!(self.rule.body, Body::Whole) {
            return Ok(Asked { verb, target: self.path(&mut Map::new())?, body: Some(raw_body(read)) });
        }
        let mut text = Vec::with_capacity(256);
        let written = Writer::new(self.transcoder.style, &mut text, self.transcoder.max_json()).message(&read);
        written.map_err(|why| unfit(format!("The message cannot be written as JSON: {}.", why.why())))?;
        let Ok(Json::Object(mut tree)) = serde_json::from_slice(&text) else {
            return Err(unfit("The message is no object in JSON."));
        };
        let mut target = self.path(&mut tree)?;
        let body = match &self.rule.body {
            Body::None => None,
            Body::Whole => Some(Json::Object(std::mem::take(&mut tree))),
            Body::Field(field) => Some(tree.shift_remove(self.name(field)).unwrap_or(match field.kind() {
                _ if field.is_list() => Json::Array(Vec::new()),
                Kind::Message(_) => Json::Object(Map::new()),
                _ => Json::Null,
            })),
        };
        let mut mark = '?';
        query(&tree, "", &mut mark, &mut target)?;
        if target.len() > LONGEST {
            return Err(unfit("The message is too large for a path and a query."));
        }
        let body = body.map(|json| Told { content_type: None, body: json.to_string().into_bytes() });
        Ok(Asked { verb, target, body })
    }

    /// About what it takes in memory to make the request of a message.
    ///
    /// # Errors
    /// The answer to one that would take too much.
    pub fn takes(&self, message: &[u8]) -> Result<usize, Box<Reply>> {
        let heaviest = encoding::heaviest(self.transcoder.max_message);
        encoding::weigh(&self.method.input, message, heaviest).map_err(|unread| match unread {
            Unread::TooHeavy => too_large(),
            Unread::Malformed | Unread::TooDeep => unfit("The message is of another type."),
        })
    }

    fn name<'f>(&self, field: &'f FieldDescriptor) -> &'f str {
        if self.transcoder.style.proto_names { field.name() } else { field.json_name() }
    }

    /// The path, out of the tree, which is left without what stands there.
    fn path(&self, tree: &mut Map<String, Json>) -> Result<String, Box<Reply>> {
        let template = &self.back.template;
        // What stands at each place: one segment, or all that is left.
        let mut places: Vec<Option<Vec<String>>> = vec![None; template.segments.len()];
        for (path, variable) in &self.rule.variables {
            let wrong = || unfit(format!("`{}` is not what the path has there.", variable.field));
            let value = self.taken(path, tree).ok_or_else(wrong)?;
            let (from, to) = (variable.from, variable.to.unwrap_or(template.segments.len()));
            let parts: Vec<&str> = if variable.several { value.split('/').collect() } else { vec![&value] };
            let mut parts = parts.into_iter();
            for (at, place) in places.iter_mut().enumerate().take(to).skip(from) {
                match template.segments.get(at) {
                    Some(Segment::Rest) => *place = Some(parts.by_ref().map(str::to_owned).collect()),
                    Some(Segment::One) => *place = Some(vec![parts.next().ok_or_else(wrong)?.to_owned()]),
                    Some(Segment::Literal(word))
                        if parts.next().is_some_and(|part| *decode_escapes(word) == *part.as_bytes()) => {}
                    _ => return Err(wrong()),
                }
            }
            if parts.next().is_some() {
                return Err(wrong());
            }
        }
        let mut made = Made::default();
        for (segment, values) in template.segments.iter().zip(places) {
            match (segment, values) {
                (Segment::Literal(word), _) => made.text(&format!("/{word}")),
                (_, Some(values)) => {
                    for value in values {
                        made.text("/");
                        let fits = made.value(value.as_bytes()).filter(|()| !value.is_empty());
                        fits.ok_or_else(|| unfit(format!("`{value}` can be no segment of a path.")))?;
                    }
                }
                _ => return Err(unfit("The path of the rule has a place for which no field says what stands there.")),
            }
        }
        match (&template.verb, template.segments.is_empty()) {
            (Some(verb), _) => made.text(&format!(":{verb}")),
            (None, true) => made.text("/"),
            (None, false) => {}
        }
        made.path().ok_or_else(|| unfit("The message makes no path that has one meaning."))
    }

    /// A field's value as text, which the tree is left without.
    fn taken(&self, path: &FieldPath, tree: &mut Map<String, Json>) -> Option<String> {
        let (last, through) = path.steps().split_last()?;
        let mut at = Some(&mut *tree);
        for field in through {
            let name = self.name(field);
            at = at.and_then(|tree| tree.get_mut(name)).and_then(Json::as_object_mut);
        }
        let value = at.and_then(|tree| tree.shift_remove(self.name(last)));
        match value {
            Some(value) => text(&value),
            // What has its default is not written.
            None => match last.kind() {
                Kind::Bool => Some("false".to_owned()),
                Kind::Enum(kind) => kind.values().next().map(|value| value.name().to_owned()),
                Kind::Message(_) | Kind::String | Kind::Bytes => None,
                _ => Some("0".to_owned()),
            },
        }
    }

    /// The call's message, behind its prefix, of the body of an answer. `pay`: for the memory that it takes.
    ///
    /// # Errors
    /// Why it is none, for people.
    pub fn answer<'p>(&self, content_type: Option<&[u8]>, body: &[u8], pay: &'p mut Pay<'p>) -> Result<Vec<u8>, &'static str> {
        let output = &self.method.output;
        let most = self.transcoder.max_message;
        let whole = |message: &DynamicMessage| framed(message, most).map_err(|_| "it is larger than `max_message`");
        let mut message = DynamicMessage::new(output.clone());
        let bill = Bill::new(most, pay);
        if is_http_body(output) && self.rule.answer.is_none() {
            if !(bill.takes(body.len()) && bill.settle()) {
                return Err(TOO_MUCH);
            }
            return http_body(output, content_type, body).map_err(|_| "it is no body").and_then(|message| whole(&message));
        }
        if body.is_empty() {
            return whole(&message);
        }
        if !content_type.is_some_and(is_json) {
            return Err("it is no JSON");
        }
        if !bill.takes_tree(body) {
            return Err(TOO_MUCH);
        }
        let tree = json::unique(body).ok_or("it is no JSON that has one meaning")?;
        let reader = Reader::new(Unknown::Ignore, Spelling::Both, bill);
        let unread = |_| if reader.is_over() { TOO_MUCH } else { "its JSON is of another type" };
        match &self.rule.answer {
            None => message = reader.whole(|reader| reader.message(output, &tree)).map_err(unread)?,
            Some(field) => {
                let value = reader.whole(|reader| reader.field(field, &tree)).map_err(unread)?;
                if let Some(value) = value {
                    message.try_set_field(field, value).map_err(|_| "its JSON is of another type")?;
                }
            }
        }
        whole(&message)
    }
}

/// A value as it stands in a path or a query.
fn text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(_) | Json::Bool(_) => Some(value.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// Writes what is left into the query.
fn query(tree: &Map<String, Json>, before: &str, mark: &mut char, out: &mut String) -> Result<(), Box<Reply>> {
    for (name, value) in tree {
        let name = format!("{before}{name}");
        let values = match value {
            Json::Object(inside) => {
                query(inside, &format!("{name}."), mark, out)?;
                continue;
            }
            Json::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        for value in values {
            let value = text(value).ok_or_else(|| unfit(format!("`{name}` cannot stand in a query.")))?;
            out.push(std::mem::replace(mark, '&'));
            push_value(name.as_bytes(), out);
            out.push('=');
            push_value(value.as_bytes(), out);
            if out.len() > LONGEST {
                return Err(unfit("The message is too large for a path and a query."));
            }
        }
    }
    Ok(())
}

/// What gRPC calls an answer of HTTP's that is none (`google.rpc.Code`).
pub fn code(status: StatusCode) -> u8 {
    match status.as_u16() {
        200..=299 => 0,
        400 | 422 => 3,
        401 => 16,
        403 => 7,
        404 | 410 => 5,
        409 => 10,
        412 | 428 => 9,
        416 => 11,
        413 | 429 | 431 => 8,
        499 => 1,
        501 | 405 => 12,
        502 | 503 => 14,
        408 | 504 => 4,
        400..=499 => 9,
        500..=599 => 13,
        _ => 2,
    }
}

/// What a failed answer says to people: of a problem document, or what looks like an error.
pub fn said(body: &[u8]) -> Option<String> {
    let json: Json = serde_json::from_slice(body).ok()?;
    let of = |json: &Json| {
        let known = ["detail", "message", "title", "error_description"];
        known.iter().find_map(|name| json.get(name)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned))
    };
    of(&json).or_else(|| json.get("error").and_then(|error| error.as_str().map(str::to_owned).or_else(|| of(error))))
}

/// The code that a problem document of another gateway's names itself.
pub fn named(body: &[u8]) -> Option<u8> {
    let json: Json = serde_json::from_slice(body).ok()?;
    json.get("grpc_status")?.as_u64().and_then(|code| u8::try_from(code).ok()).filter(|code| (1..=16).contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_become_codes_and_back() {
        for code_ in [1, 3, 4, 5, 7, 8, 12, 14, 16] {
            assert_eq!(code(super::super::status::http(code_)), code_, "{code_}");
        }
        let all = [(200, 0), (204, 0), (418, 9), (500, 13), (409, 10), (302, 2), (599, 13), (422, 3)];
        for (status, expected) in all {
            assert_eq!(code(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
    }

    #[test]
    fn what_an_error_says_is_found() {
        for (body, text) in [
            (r#"{"title":"T","detail":"D"}"#, Some("D")),
            (r#"{"title":"T"}"#, Some("T")),
            (r#"{"error":"E"}"#, Some("E")),
            (r#"{"error":{"message":"M"}}"#, Some("M")),
            ("<html>", None),
            ("[]", None),
        ] {
            assert_eq!(said(body.as_bytes()).as_deref(), text, "{body}");
        }
    }
}
