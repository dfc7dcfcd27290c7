//! A request's body on its way to the service.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

use super::config::Otherwise;
use super::steps::{Beside, Settled, Way};
use super::xml::Form;
use super::{Inner, Outcome, Reshape, is_json, is_xml};
use crate::carrier::{decode, strip_query_param};
use crate::exchange::Exchange;
use crate::head::{BodyFraming, HeaderEdit, RequestHead};
use crate::json::Fault;
use crate::path;
use crate::policy::validate::media::MediaType;
use crate::policy::{OnBody, OnRequest, Policy};
use crate::reply::{Flow, Reply};
use crate::wire::coding;

/// See the module.
pub struct Requests(pub std::sync::Arc<Inner>);

/// What a request's body is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// There is none, or it is no HTTP body at all.
    None,
    Json,
    Form,
    Xml,
    Other,
}

impl Inner {
    fn content(&self, head: &RequestHead) -> Content {
        if head.upgrade || !head.body.is_some() {
            return Content::None;
        }
        let mut kinds = head.header_all("content-type");
        let (Some(kind), None) = (kinds.next(), kinds.next()) else { return Content::Other };
        if coding::is_unknown(head) {
            return Content::Other;
        }
        let is_form = |media: MediaType<'_>| {
            let form =
                media.kind.eq_ignore_ascii_case("application") && media.subtype.eq_ignore_ascii_case("x-www-form-urlencoded");
            form && media.is_utf8()
        };
        match () {
            () if is_json(kind) => Content::Json,
            () if self.request_form().is_some() && is_xml(kind) => Content::Xml,
            () if self.forms && MediaType::parse(kind).is_some_and(is_form) => Content::Form,
            () => Content::Other,
        }
    }

    /// What bodies become, where XML is taken.
    fn request_form(&self) -> Option<Form> {
        self.xml.as_ref()?.request()
    }

    /// The types that are taken.
    fn taken(&self) -> HeaderValue {
        HeaderValue::from_static(match (self.forms, self.request_form().is_some()) {
            (false, false) => "application/json",
            (true, false) => "application/json, application/x-www-form-urlencoded",
            (false, true) => "application/json, application/xml, text/xml",
            (true, true) => "application/json, application/xml, text/xml, application/x-www-form-urlencoded",
        })
    }

    /// The body is none that the path could be made of, where it is to be.
    fn lacking(&self, settled: &Settled) -> Flow {
        if self.request.makes_path(settled) { refuse(Fault::Absent) } else { Flow::Continue(()) }
    }

    fn is_beyond(&self, head: &RequestHead) -> bool {
        matches!(head.body, BodyFraming::Length(length) if length > self.up_to as u64)
    }
}

impl OnRequest for Requests {
    fn asks_for_body(&self) -> bool {
        true
    }

    fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        let inner = &self.0;
        // Whatever comes of the body, or without one: what the client sent under these names is not what the gateway says under them.
        tell(inner.request.without(), head, exchange);
        let lacking = |exchange: &Exchange| match inner.request.may_make_path() {
            true => inner.lacking(&inner.request.settle(head, exchange)),
            // Nothing has to be asked where no step makes one.
            false => Flow::Continue(()),
        };
        match inner.content(head) {
            Content::Other if inner.other_types == Otherwise::Refuse => {
                inner.counts.count(Way::Request, Outcome::Refused);
                let detail = "A body of this type, or in this coding, is not taken here.";
                let reply = Reply::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Reshape::NAME, "body_not_json", detail);
                // RFC 9110, section 15.5.16.
                let reply = reply.header(header::ACCEPT, inner.taken());
                reply.header(header::ACCEPT_ENCODING, coding::TAKEN).refuse()
            }
            Content::Json | Content::Form | Content::Xml if inner.is_beyond(head) && inner.beyond == Otherwise::Pass => {
                inner.counts.count(Way::Request, Outcome::Passed);
                lacking(exchange)
            }
            Content::None | Content::Other => lacking(exchange),
            Content::Json | Content::Form | Content::Xml => Flow::Continue(()),
        }
    }
}

impl OnBody for Requests {
    fn bound(&self) -> usize {
        self.0.up_to
    }

    fn wants(&self, head: &RequestHead) -> bool {
        matches!(self.0.content(head), Content::Json | Content::Form | Content::Xml)
            && !(self.0.beyond == Otherwise::Pass && self.0.is_beyond(head))
    }

    fn passes_longer(&self) -> bool {
        self.0.beyond == Otherwise::Pass && !self.0.request.may_make_path()
    }

    fn on_longer(&self, _: &mut Exchange) {
        self.0.counts.count(Way::Request, Outcome::Passed);
    }

    fn reads_content(&self) -> bool {
        true
    }

    fn on_unreadable(&self, head: &RequestHead, exchange: &mut Exchange) -> Option<Flow> {
        let inner = &self.0;
        // Nobody knows what it is.
        if inner.other_types == Otherwise::Refuse {
            inner.counts.count(Way::Request, Outcome::Refused);
            return None;
        }
        inner.counts.count(Way::Request, Outcome::Passed);
        Some(inner.lacking(&inner.request.settle(head, exchange)))
    }

    fn on_body(&self, head: &RequestHead, body: &Bytes, exchange: &mut Exchange) -> Flow {
        let inner = &self.0;
        let content = inner.content(head);
        let settled = inner.request.settle(head, exchange);
        if body.is_empty() {
            return inner.lacking(&settled);
        }
        let is = if content == Content::Xml { Form::Xml } else { Form::Json };
        let forms = inner.request_form().map(|becomes| (is, becomes));
        let becomes = forms.map_or(Form::Json, |(_, becomes)| becomes);
        let other_type = content == Content::Form || is != becomes;
        if !other_type && !inner.request.work(&settled) {
            return Flow::Continue(());
        }
        let made = match content {
            Content::Form => form(body).and_then(|json| inner.made(&inner.request, &settled, &json, forms)),
            _ => inner.made(&inner.request, &settled, body, forms),
        };
        let (other, beside) = match made {
            Ok(made) => made,
            Err(fault) if inner.on_unparsable == Otherwise::Pass && fault.is_of_text() => {
                inner.counts.count(Way::Request, Outcome::Passed);
                return inner.lacking(&settled);
            }
            Err(fault) => {
                inner.counts.count(Way::Request, Outcome::Refused);
                return refuse(fault);
            }
        };
        inner.counts.count(Way::Request, Outcome::Changed);
        if other_type {
            let kind = inner.xml.as_ref().map_or(HeaderValue::from_static("application/json"), |xml| xml.media_type(becomes));
            exchange.to_upstream.push(HeaderEdit::Set(header::CONTENT_TYPE, kind));
        }
        tell(beside, head, exchange);
        exchange.new_body = Some(other.into());
        Flow::Continue(())
    }
}

fn refuse(fault: Fault) -> Flow {
    let detail = match fault {
        Fault::DuplicateName => "The body has an object with a name twice.",
        Fault::TooDeep => "The body is nested too deeply.",
        Fault::NoContainer => "The body has a value where an object or array is expected.",
        Fault::TooLarge => "The body would become too large.",
        Fault::Unsayable => "The body has what cannot be said in XML.",
        Fault::Absent => "The body lacks what the path to the service is made of, or has what no path can be made of.",
        _ => "The body is not well-formed.",
    };
    Reply::new(StatusCode::BAD_REQUEST, Reshape::NAME, "body_malformed", detail).decided_by(fault.word()).refuse()
}

/// Fields and query parameters that steps have made.
fn tell(beside: Beside, head: &RequestHead, exchange: &mut Exchange) {
    exchange.to_upstream.extend(beside.headers.into_iter().map(|(name, value)| match value {
        Some(value) => HeaderEdit::Set(name, value),
        None => HeaderEdit::Remove(name),
    }));
    if beside.query.is_empty() && beside.path.is_none() {
        return;
    }
    exchange.ends_in_value |= beside.ends_in_value;
    let said = say(exchange.made_of_body.take(), beside.path.as_deref(), &beside.query);
    exchange.made_of_body = Some(said);
    let target = exchange.upstream_target.take();
    let (path, query) = match &target {
        Some(target) => target.split_once('?').unwrap_or((target, "")),
        None => (head.path.as_str(), head.query().unwrap_or_default()),
    };
    let path = beside.path.as_deref().unwrap_or(path);
    let mut query = query.to_owned();
    for (name, value) in beside.query {
        query = strip_query_param(&query, &name);
        let Some(value) = value else { continue };
        if !query.is_empty() {
            query.push('&');
        }
        path::push_value(name.as_bytes(), &mut query);
        query.push('=');
        path::push_value(value.as_bytes(), &mut query);
    }
    exchange.upstream_target = Some(if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") });
}

/// What was made beside the body, behind what was said before. No two are written alike: nothing has a NUL in it unescaped, and each part begins
/// with one and a letter that says what it is.
fn say(before: Option<Box<str>>, path: Option<&str>, query: &[(Box<str>, Option<String>)]) -> Box<str> {
    let mut said = before.map(String::from).unwrap_or_default();
    if let Some(path) = path {
        said.push_str("\0p");
        said.push_str(path);
    }
    for (name, value) in query {
        said.push_str("\0n");
        path::push_value(name.as_bytes(), &mut said);
        if let Some(value) = value {
            said.push_str("\0v");
            path::push_value(value.as_bytes(), &mut said);
        }
    }
    said.into()
}

/// A form as an object of texts, in its order.
fn form(body: &[u8]) -> Result<Vec<u8>, Fault> {
    let text = std::str::from_utf8(body).map_err(|_| Fault::NotUtf8)?;
    let mut object: Map<String, Value> = Map::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let said = |text: &str| String::from_utf8(decode(text).into_owned()).map_err(|_| Fault::NotUtf8);
        let (name, value) = (said(name)?, Value::String(said(value)?));
        match object.get_mut(&name) {
            Some(Value::Array(list)) => list.push(value),
            Some(known) => *known = Value::Array(vec![known.take(), value]),
            None => drop(object.insert(name, value)),
        }
    }
    serde_json::to_vec(&object).map_err(|_| Fault::Syntax)
}
