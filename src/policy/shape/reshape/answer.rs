//! An answer's body on its way to the client.
//!
//! What was meant not to leave does not leave by another way either. On a route whose answers are reshaped the service and the cache are asked for
//! whole answers (no ranges), without conditions (no 304 for what the client has of another shape) and uncoded; a part that comes all the
//! same is refused, and so is what cannot be read, unless somebody wrote otherwise. The service's `ETag` and `Last-Modified` are not the
//! client's: `etag` gives a tag that is. Where the shape depends on who asks, caches between here and the client are told to keep the answer
//! for nobody else.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora_http::ResponseHeader;

use super::config::{Format, Otherwise};
use super::steps::{Settled, Way};
use super::xml::Form;
use super::{Inner, Outcome, Reshape, is_json, is_xml};
use crate::exchange::Exchange;
use crate::head::{HeaderEdit, RequestHead};
use crate::json::{Fault, Filter, Program};
use crate::policy::validate::media::UNCODED;
use crate::policy::{Follows, OnRequest, OnResponse, Outgoing, Policy};
use crate::reply::{Flow, Reply};
use crate::wire::coding::is_coded;
use crate::wire::stages::{Beyond, BodyStage, Changed, Pieces, Validator, Whole};

/// See the module.
pub struct Answers {
    inner: Arc<Inner>,
    /// Two clients that ask for the same may get different shapes.
    differs: bool,
    /// The fields that tell clients apart: those with credentials, and those that steps look at.
    fields: Vec<HeaderValue>,
}

impl Answers {
    pub fn new(inner: Arc<Inner>, credentials: Vec<HeaderName>) -> Self {
        let mut names: Vec<HeaderValue> = credentials.into_iter().map(HeaderValue::from).collect();
        if names.is_empty() {
            names.push(HeaderValue::from_static("authorization"));
        }
        let differs = inner.response.differ();
        let looked_at = inner.response.fields();
        match looked_at.contains(&"*") {
            true => names = vec![HeaderValue::from_static("*")],
            // Those that can be no field's name are nobody's.
            false => names.extend(looked_at.iter().filter_map(|name| HeaderName::try_from(*name).ok()).map(HeaderValue::from)),
        }
        Answers { inner, differs, fields: names }
    }

    /// Tells caches what this answer is worth.
    fn tell(&self, answer: &mut Outgoing<'_>) {
        if answer.status() == StatusCode::NOT_MODIFIED {
            // Nobody was asked for it, and what it speaks of is not what the client has.
            answer.changes_body(Validator::Drop);
        }
        for name in [header::ETAG, header::LAST_MODIFIED] {
            if answer.first(&name).is_some() {
                answer.remove(name);
            }
        }
        if self.inner.answer_form().is_some_and(|xml| xml.response == Some(Format::Accept))
            && !answer.lists(&header::VARY, "accept")
            && !answer.lists(&header::VARY, "*")
        {
            answer.add(header::VARY, HeaderValue::from_static("accept"));
        }
        if !self.differs {
            return;
        }
        // What the service says to caches on the way, this one among them, it says of another answer.
        for name in ["cdn-cache-control", "surrogate-control", "portcullis-cache-control"] {
            answer.remove(HeaderName::from_static(name));
        }
        let said = answer.all(&header::CACHE_CONTROL).join(&b", "[..]);
        if let Ok(private) = HeaderValue::try_from(private(&said)) {
            answer.set(header::CACHE_CONTROL, private);
        }
        for name in &self.fields {
            let known = name.to_str().is_ok_and(|name| answer.lists(&header::VARY, name));
            if !known && !answer.lists(&header::VARY, "*") {
                answer.add(header::VARY, name.clone());
            }
        }
    }

    /// The answer is of a kind that cannot be reshaped.
    fn other(&self, answer: &mut Outgoing<'_>) -> Flow {
        let counts = &self.inner.counts;
        if self.inner.other_types == Otherwise::Pass {
            counts.count(Way::Response, Outcome::Passed);
            return Flow::Continue(());
        }
        counts.count(Way::Response, Outcome::Refused);
        if answer.status().is_success() {
            let detail = "The service's answer cannot be reshaped: it is not JSON, or coded.";
            return Reply::new(StatusCode::BAD_GATEWAY, Reshape::NAME, "answer_not_json", detail).refuse();
        }
        // Its status and fields are what matters: where to go instead, who may not, when to come back.
        answer.remove(header::CONTENT_TYPE);
        answer.remove(header::CONTENT_ENCODING);
        answer.without_body();
        Flow::Continue(())
    }
}

/// `Cache-Control` for answers that are for one client alone.
pub fn private(said: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let (mut quoted, mut from) = (false, 0);
    for (at, byte) in said.iter().chain(b",").enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted || at == said.len() => {
                kept.extend(said.get(from..at).map(<[u8]>::trim_ascii));
                from = at + 1;
            }
            _ => {}
        }
    }
    kept.retain(|directive| {
        let name = directive.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        let is = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes());
        !name.is_empty() && !["public", "private", "s-maxage", "proxy-revalidate"].iter().any(is)
    });
    kept.push(b"private");
    kept.join(&b", "[..])
}

impl OnRequest for Answers {
    fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        // Also of who asks for an upgrade: he may get an ordinary answer.
        exchange.to_upstream.push(HeaderEdit::Set(header::ACCEPT_ENCODING, UNCODED));
        if head.method == Method::GET || head.method == Method::HEAD {
            let whole = [header::RANGE, header::IF_RANGE, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE];
            exchange.to_upstream.extend(whole.map(HeaderEdit::Remove));
        }
        Flow::Continue(())
    }
}

impl OnResponse for Answers {
    fn on_response(&self, answer: &mut Outgoing<'_>) -> Flow {
        let (inner, status) = (&self.inner, answer.status());
        if status.is_informational() {
            return Flow::Continue(());
        }
        self.tell(answer);
        let statuses = &inner.statuses;
        let follows = answer.follows();
        let bodiless = follows == Follows::Nothing && answer.head.method != Method::HEAD || answer.length() == Some(0);
        if bodiless || !statuses.is_empty() && !statuses.iter().any(|range| range.contains(status.as_u16())) {
            return Flow::Continue(());
        }
        let settled = inner.response.settle(answer.head, answer.exchange);
        let kind = answer.first(&header::CONTENT_TYPE);
        if answer.is_made() && kind.is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/problem+json")) {
            // Nothing of the service's.
            return Flow::Continue(());
        }
        let forms = self.forms(answer, kind);
        let other_type = forms.filter(|(is, becomes)| is != becomes);
        if other_type.is_none() && !inner.response.work(&settled) {
            return Flow::Continue(());
        }
        if follows == Follows::Nothing && kind.is_none() {
            // HEAD is not always told.
            answer.changes_body(Validator::Drop);
            return Flow::Continue(());
        }
        if forms.is_none() && !kind.is_some_and(is_json)
            || answer.all(&header::CONTENT_ENCODING).iter().any(|coding| is_coded(coding))
        {
            return self.other(answer);
        }
        match follows {
            Follows::Nothing => {
                // As GET would be told.
                if let Some(((_, becomes), xml)) = other_type.zip(inner.xml.as_ref()) {
                    answer.set(header::CONTENT_TYPE, xml.media_type(becomes));
                }
                answer.changes_body(Validator::Drop);
            }
            Follows::Part if !status.is_success() => {
                answer.remove(header::CONTENT_TYPE);
                answer.without_body();
            }
            Follows::Part => return self.cannot("The service's answer cannot be reshaped: it is a part of one."),
            _ if inner.streams() => {
                inner.counts.count(Way::Response, Outcome::Changed);
                for program in inner.response.filters(&settled) {
                    answer.pieces(Validator::Drop, Box::new(Filtering::new(program, inner)));
                }
                if answer.head.version == Version::HTTP_10 {
                    // Its end is the connection's, whether it is whole or not.
                    answer
                        .pieces(Validator::Drop, Box::new(Holding { body: BytesMut::new(), inner: inner.clone(), ended: false }));
                }
            }
            Follows::Stream => return self.cannot("The service's answer cannot be reshaped: its route is a stream."),
            Follows::Body => {
                let beyond = if inner.beyond == Otherwise::Refuse { Beyond::Refuse(Reshape::NAME) } else { Beyond::Pass };
                let run = Box::new(Reshaping { inner: inner.clone(), settled, forms });
                answer.whole(|| BodyStage::Whole { bound: inner.up_to, beyond, validator: Validator::Drop, run });
            }
        }
        Flow::Continue(())
    }
}

impl Answers {
    /// What the body is and becomes, where it may be XML.
    fn forms(&self, answer: &Outgoing<'_>, kind: Option<&[u8]>) -> Option<(Form, Form)> {
        let is = match kind? {
            kind if is_json(kind) => Form::Json,
            kind if is_xml(kind) => Form::Xml,
            _ => return None,
        };
        Some((is, self.inner.answer_form()?.answer(is, answer.head)?))
    }

    fn cannot(&self, detail: &'static str) -> Flow {
        // Whatever else may pass: a client could have brought this about.
        self.inner.counts.count(Way::Response, Outcome::Refused);
        Reply::new(StatusCode::BAD_GATEWAY, Reshape::NAME, "answer_partial", detail).refuse()
    }
}

fn malformed(fault: Fault, inner: &Inner) -> Box<Reply> {
    inner.counts.count(Way::Response, Outcome::Refused);
    let detail = "The service's answer cannot be reshaped: it is not what it says it is.";
    // For the operator, not for the client: it is about the service.
    Reply::new(StatusCode::BAD_GATEWAY, Reshape::NAME, "answer_malformed", detail).decided_by(fault.word())
}

/// Takes out of a body what is to go, as it comes.
struct Filtering {
    filter: Filter,
    inner: Arc<Inner>,
    /// Something has come out of it, or its end.
    began: bool,
}

impl Filtering {
    fn new(program: Arc<Program>, inner: &Arc<Inner>) -> Self {
        Filtering { filter: Filter::new(program), inner: inner.clone(), began: false }
    }

    fn gives(&mut self, filtered: Result<Vec<u8>, Fault>, ended: bool) -> Changed {
        let given = filtered.map_err(|fault| malformed(fault, &self.inner))?;
        self.began |= ended || !given.is_empty();
        Ok(given.into())
    }
}

impl Pieces for Filtering {
    fn piece(&mut self, data: Bytes) -> Changed {
        let filtered = self.filter.piece(&data);
        self.gives(filtered, false)
    }

    fn end(&mut self) -> Changed {
        let filtered = self.filter.end();
        self.gives(filtered, true)
    }

    fn holds_head(&self) -> bool {
        !self.began
    }
}

/// Gives a body when it is whole, and not before.
struct Holding {
    body: BytesMut,
    inner: Arc<Inner>,
    ended: bool,
}

impl Pieces for Holding {
    fn piece(&mut self, data: Bytes) -> Changed {
        if self.body.len() + data.len() > self.inner.up_to {
            return Err(malformed(Fault::TooLarge, &self.inner));
        }
        self.body.extend_from_slice(&data);
        Ok(Bytes::new())
    }

    fn end(&mut self) -> Changed {
        self.ended = true;
        Ok(std::mem::take(&mut self.body).freeze())
    }

    fn holds_head(&self) -> bool {
        !self.ended
    }

    fn held(&self) -> usize {
        self.body.len()
    }
}

/// Works on a body that is whole.
struct Reshaping {
    inner: Arc<Inner>,
    settled: Settled,
    forms: Option<(Form, Form)>,
}

impl Reshaping {
    fn reshape(&self, head: &mut ResponseHeader, body: &[u8]) -> Result<Vec<u8>, Fault> {
        let steps = &self.inner.response;
        if steps.filter_only() && self.forms.is_none() {
            let mut programs = steps.filters(&self.settled).into_iter();
            let first = programs.next().map_or_else(|| Ok(body.to_vec()), |program| Filter::whole(program, body))?;
            return programs.try_fold(first, |body, program: Arc<Program>| Filter::whole(program, &body));
        }
        let (other, beside) = self.inner.made(steps, &self.settled, body, self.forms)?;
        if let Some(((is, becomes), xml)) = self.forms.zip(self.inner.xml.as_ref())
            && is != becomes
        {
            // One field in place of another: it cannot fail in practice.
            drop(head.insert_header(header::CONTENT_TYPE, xml.media_type(becomes)));
        }
        for (name, value) in beside.headers {
            match value {
                // One more field: only an absurd number could be too many, and then the answer goes without.
                Some(value) => drop(head.insert_header(name, value)),
                None => drop(head.remove_header(&name)),
            }
        }
        Ok(other)
    }
}

impl Whole for Reshaping {
    fn whole(self: Box<Self>, head: &mut ResponseHeader, body: &Bytes) -> Changed<Option<Bytes>> {
        if body.is_empty() {
            return Ok(None);
        }
        match self.reshape(head, body) {
            Ok(other) => {
                self.inner.counts.count(Way::Response, Outcome::Changed);
                Ok(Some(other.into()))
            }
            Err(fault) if self.inner.on_unparsable == Otherwise::Pass && fault.is_of_text() => {
                self.inner.counts.count(Way::Response, Outcome::Passed);
                Ok(None)
            }
            Err(fault) => Err(malformed(fault, &self.inner)),
        }
    }
}
