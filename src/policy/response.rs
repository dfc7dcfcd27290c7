//! The way back: what policies do with an answer before the client gets it.
//!
//! Every answer of a service, of the cache and of a route that answers by itself passes the steps of its route, in the registry's order. What
//! the cache stores, it stores before them: each hit passes them anew, so that what one client may see is not kept for another. Refusals
//! and errors of the gateway's own pass [`OnResponse::on_refusal`] alone. Interim answers (1xx) are passed on as they come; of an upgrade, fields alone can be changed.
//!
//! A step sees the head as the steps before it have left it. It may change fields and the status, give another answer instead, and put a
//! stage in the body's way. What is said of the body (`Content-Length`, `ETag`, digests, `Accept-Ranges`) stays true by itself.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use smallvec::SmallVec;

use crate::exchange::Exchange;
use crate::head::{HeaderEdit, HeaderEdits, RequestHead};
use crate::reply::Flow;
use crate::wire::encode::is_bodiless;
use crate::wire::stages::{BodyStage, Changed, Pieces, Stages, Validator, untrue, weak};
use crate::wire::streams::is_stream;
use crate::wire::view::AnswerView;

/// Works on an answer that comes from a service, the cache, or the route itself.
pub trait OnResponse: Send + Sync {
    /// `Break` gives that answer instead; the service's is let go of.
    fn on_response(&self, answer: &mut Outgoing<'_>) -> Flow;

    /// Works on an answer of the gateway's own: a refusal, or what a client is told where a backend failed.
    fn on_refusal(&self, head: &RequestHead, exchange: &mut Exchange) {
        let _ = (head, exchange);
    }
}

/// What follows an answer's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// Nothing: the request was HEAD, or the status says so.
    Nothing,
    /// A part of a body (206). It can be read, but no stage works on it: only the whole means something.
    Part,
    /// A body that ends when its parties say so. It is never held back.
    Stream,
    Body,
}

/// An answer on its way out, before its head is written.
pub struct Outgoing<'a> {
    /// The request.
    pub head: &'a RequestHead,
    pub exchange: &'a Exchange,
    came: AnswerView<'a>,
    status: StatusCode,
    /// Whatever it says of itself, it is a stream.
    streams: bool,
    /// See [`Outgoing::is_made`].
    made: bool,
    edits: &'a mut HeaderEdits,
    stages: Stages,
}

impl<'a> Outgoing<'a> {
    /// `edits` are changes to the answer that were made before, and to which those are added that are made now.
    pub fn new(
        head: &'a RequestHead,
        exchange: &'a Exchange,
        came: AnswerView<'a>,
        streams: bool,
        edits: &'a mut HeaderEdits,
    ) -> Self {
        Outgoing { head, exchange, came, status: came.status, streams, made: false, edits, stages: Stages::default() }
    }

    /// Says that the gateway has made it, of how a call of gRPC's ended, in the form that the client has asked for.
    pub fn made_of_call(mut self, made: bool) -> Self {
        self.made = made;
        self
    }

    /// Whether it is that: a problem document is the gateway's own then, and a stream the client's choice.
    pub fn is_made(&self) -> bool {
        self.made
    }

    /// The status that the client will see, and what works on the body.
    pub fn into_parts(self) -> (StatusCode, Stages) {
        (self.status, self.stages)
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Changes the status, where what follows stays what it is: 200 does not become 204, for that another answer is given instead.
    pub fn set_status(&mut self, status: StatusCode) {
        if is_bodiless(status) == is_bodiless(self.status) {
            self.status = status;
        }
    }

    /// The values of every field of that name, as they stand now.
    pub fn all<'s>(&'s self, name: &HeaderName) -> SmallVec<[&'s [u8]; 2]> {
        let mut values: SmallVec<[&'s [u8]; 2]> = SmallVec::new();
        values.extend(self.came.all(name.as_str()));
        for edit in self.edits.iter().filter(|edit| edit.name() == name) {
            if !matches!(edit, HeaderEdit::Add(..)) {
                values.clear();
            }
            if let HeaderEdit::Set(_, value) | HeaderEdit::Add(_, value) = edit {
                values.push(value.as_bytes());
            }
        }
        values
    }

    /// The value of the first field of that name, as it stands now.
    pub fn first<'s>(&'s self, name: &HeaderName) -> Option<&'s [u8]> {
        self.all(name).into_iter().next()
    }

    /// Whether a field that is a list has that member, whatever its case and its parameters.
    pub fn lists(&self, name: &HeaderName, member: &str) -> bool {
        let values = self.all(name);
        let mut members = values.iter().flat_map(|value| value.split(|&byte| byte == b','));
        members.any(|one| {
            let word = one.split(|&byte| matches!(byte, b';' | b'=')).next().unwrap_or_default();
            word.trim_ascii().eq_ignore_ascii_case(member.as_bytes())
        })
    }

    /// The announced length of the body, as far as one is.
    pub fn length(&self) -> Option<u64> {
        std::str::from_utf8(self.first(&header::CONTENT_LENGTH)?).ok()?.parse().ok()
    }

    /// The changes, for those who have many.
    pub fn edits(&mut self) -> &mut HeaderEdits {
        self.edits
    }

    /// Puts one field in place of all of that name.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.edits.push(HeaderEdit::Set(name, value));
    }

    pub fn add(&mut self, name: HeaderName, value: HeaderValue) {
        self.edits.push(HeaderEdit::Add(name, value));
    }

    pub fn remove(&mut self, name: HeaderName) {
        self.edits.push(HeaderEdit::Remove(name));
    }

    /// Puts another value in the place of each that the service has said and `map` has one for. What the gateway itself says stays.
    pub fn mend(&mut self, name: &HeaderName, map: impl Fn(&[u8]) -> Option<Vec<u8>>) {
        let mut changed = false;
        let mut values: SmallVec<[HeaderValue; 2]> = SmallVec::new();
        for value in self.came.all(name.as_str()) {
            let mapped = map(value).and_then(|mapped| HeaderValue::try_from(mapped).ok());
            changed |= mapped.is_some();
            values.extend(mapped.or_else(|| HeaderValue::from_bytes(value).ok()));
        }
        if !changed {
            return;
        }
        for edit in self.edits.iter().filter(|edit| edit.name() == name) {
            match edit {
                HeaderEdit::Add(_, value) => values.push(value.clone()),
                // It is the gateway's alone already.
                HeaderEdit::Set(..) | HeaderEdit::Remove(_) => return,
            }
        }
        self.remove(name.clone());
        values.into_iter().for_each(|value| self.add(name.clone(), value));
    }

    /// Says that the answer depends on a field of the request.
    pub fn vary(&mut self, by: &'static str) {
        if !self.lists(&header::VARY, by) && !self.lists(&header::VARY, "*") {
            self.add(header::VARY, HeaderValue::from_static(by));
        }
    }

    /// What follows the head.
    pub fn follows(&self) -> Follows {
        match self.follows_as_said() {
            Follows::Part | Follows::Body if self.streams => Follows::Stream,
            follows => follows,
        }
    }

    /// The same as the answer says it itself: that its route is a stream, or that its client claims to call by gRPC, makes no stream of a
    /// document. For those whose word holds whatever a client or a route says.
    pub fn follows_as_said(&self) -> Follows {
        if self.head.method == Method::HEAD || is_bodiless(self.status) {
            Follows::Nothing
        } else if self.all(&header::CONTENT_TYPE).iter().any(|kind| is_stream(kind)) {
            Follows::Stream
        } else if self.status == StatusCode::PARTIAL_CONTENT || !self.all(&header::CONTENT_RANGE).is_empty() {
            Follows::Part
        } else {
            Follows::Body
        }
    }

    /// Whether it says two media types that are not the same, in two fields or in one: each reader may take another one.
    pub fn is_of_several_types(&self) -> bool {
        let all = self.all(&header::CONTENT_TYPE);
        let lists = |value: &&[u8]| value.split(|&byte| byte == b',').skip(1).any(|more| more.contains(&b'/'));
        all.iter().any(lists) || all.windows(2).any(|two| matches!(two, [one, other] if !one.eq_ignore_ascii_case(other)))
    }

    /// Makes the tag a weak one, where there is one.
    pub fn weaken_etag(&mut self) {
        let tag = self.first(&header::ETAG).filter(|tag| !tag.starts_with(b"W/"));
        if let Some(tag) = tag.and_then(|tag| HeaderValue::from_bytes(tag).ok()) {
            self.set(header::ETAG, weak(&tag));
        }
    }

    /// Has every piece of the body pass a stage, where a body follows. For HEAD, the fields alone become what they would be. Nothing happens to
    /// a part of a body.
    pub fn pieces(&mut self, validator: Validator, stage: Box<dyn Pieces>) {
        let follows = self.follows();
        if follows == Follows::Part {
            return;
        }
        self.changes_body(validator);
        if follows != Follows::Nothing {
            self.stages.push(BodyStage::Pieces(stage));
        }
    }

    /// Leaves nothing of the body, whatever follows.
    pub fn without_body(&mut self) {
        self.changes_body(Validator::Drop);
        if self.follows() != Follows::Nothing {
            self.stages.push(BodyStage::Pieces(Box::new(Nothing)));
        }
    }

    /// Takes away what would not be true of another body: for the answer to a HEAD that would have one, and for a 304 that speaks of one.
    pub fn changes_body(&mut self, validator: Validator) {
        for name in untrue(validator) {
            if !self.all(&name).is_empty() {
                self.remove(name);
            }
        }
        if validator == Validator::Weaken {
            self.weaken_etag();
        }
    }

    /// Has a stage work on the whole body ([`BodyStage::Whole`]). `false` where it does not: nothing follows, or a part, or a stream, which
    /// is never held back. A policy that does so says that it may: [`PlanBuilder::holds_answers`](super::PlanBuilder::holds_answers).
    pub fn whole(&mut self, stage: impl FnOnce() -> BodyStage) -> bool {
        let works = self.follows() == Follows::Body;
        if works {
            self.stages.push(stage());
        }
        works
    }

    /// The same of an answer that says itself that it is no stream ([`Outgoing::follows_as_said`]).
    pub fn whole_as_said(&mut self, stage: impl FnOnce() -> BodyStage) {
        if self.follows_as_said() == Follows::Body {
            self.stages.push(stage());
        }
    }
}

/// Leaves nothing of a body.
struct Nothing;

impl Pieces for Nothing {
    fn piece(&mut self, _: Bytes) -> Changed {
        Ok(Bytes::new())
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::wire::answer::AnswerHead;

    fn answer(raw: &str) -> Box<AnswerHead> {
        crate::wire::answer::take(&mut BytesMut::from(raw), &Method::GET, &Default::default()).unwrap().unwrap()
    }

    fn out(method: &str, raw: &str, work: impl FnOnce(&mut Outgoing<'_>)) -> (StatusCode, bool, Vec<String>) {
        let (head, came) = (RequestHead::build(method, "/", &[]), answer(raw));
        let (exchange, mut edits) = (Exchange::for_tests(), HeaderEdits::new());
        let mut outgoing = Outgoing::new(&head, &exchange, AnswerView::from(&*came), false, &mut edits);
        work(&mut outgoing);
        let (status, stages) = outgoing.into_parts();
        let show = |edit: &HeaderEdit| match edit {
            HeaderEdit::Set(name, value) => format!("={name}: {}", value.to_str().unwrap()),
            HeaderEdit::Add(name, value) => format!("+{name}: {}", value.to_str().unwrap()),
            HeaderEdit::Remove(name) => format!("-{name}"),
        };
        (status, stages.is_empty(), edits.iter().map(show).collect())
    }

    const PLAIN: &str =
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nETag: \"a\"\r\nAccept-Ranges: bytes\r\nContent-Length: 1\r\n\r\n";

    #[test]
    fn a_step_sees_what_the_one_before_it_did() {
        let (status, ..) = out("GET", "HTTP/1.1 200 OK\r\nVary: Accept, Origin;x\r\n\r\n", |answer| {
            assert!(answer.lists(&header::VARY, "origin") && !answer.lists(&header::VARY, "accept-encoding"));
            answer.vary("Accept-Encoding");
            assert!(answer.lists(&header::VARY, "accept-encoding"));
            answer.set(header::VARY, HeaderValue::from_static("*"));
            answer.vary("Accept");
            assert_eq!(answer.all(&header::VARY).to_vec(), [b"*"]);
            answer.remove(header::VARY);
            assert_eq!(answer.first(&header::VARY), None);
            answer.set_status(StatusCode::NO_CONTENT);
            answer.set_status(StatusCode::ACCEPTED);
        });
        assert_eq!(status, StatusCode::ACCEPTED);
    }

    #[test]
    fn what_the_service_says_is_mended_and_what_the_gateway_says_stays() {
        let raw = "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nLink: c\r\n\r\n";
        let (.., edits) = out("GET", raw, |answer| {
            answer.add(header::SET_COOKIE, HeaderValue::from_static("a"));
            answer.set(header::LINK, HeaderValue::from_static("ours"));
            for name in [header::SET_COOKIE, header::LINK, header::LOCATION] {
                answer.mend(&name, |value| (value != b"b").then(|| [value, b"'"].concat()));
            }
            assert_eq!(answer.all(&header::SET_COOKIE).to_vec(), [&b"a'"[..], b"b", b"a"]);
        });
        assert_eq!(
            edits,
            ["+set-cookie: a", "=link: ours", "-set-cookie", "+set-cookie: a'", "+set-cookie: b", "+set-cookie: a"]
        );
    }

    #[test]
    fn what_is_said_of_a_changed_body_is_true_with_head_too() {
        let changed = ["-content-length", "-accept-ranges", "=etag: W/\"a\""];
        let work = |answer: &mut Outgoing<'_>| answer.pieces(Validator::Weaken, Box::new(Nothing));
        for (method, none) in [("GET", false), ("HEAD", true)] {
            let (_, empty, edits) = out(method, PLAIN, work);
            assert_eq!((empty, edits), (none, changed.map(str::to_owned).to_vec()), "{method}");
        }
        let part = PLAIN.replace("200 OK", "206 Partial Content");
        assert_eq!(out("GET", &part, work).2, Vec::<String>::new());
    }

    #[test]
    fn a_stream_is_not_held_back() {
        let stage = || BodyStage::Pieces(Box::new(Nothing));
        for (kind, held) in [("text/plain", true), ("text/event-stream", false), ("application/grpc", false)] {
            let raw = PLAIN.replace("text/plain", kind);
            out("GET", &raw, |answer| assert_eq!(answer.whole(stage), held, "{kind}"));
        }
        out("HEAD", PLAIN, |answer| assert!(!answer.whole(stage)));
    }
}
