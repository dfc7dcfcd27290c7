//! What a route gives when its service answers nothing, compiled.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use crate::head::AnswerLimits;
use crate::problem::{Place, Problem, Problems};
use crate::route::{Cause, Condition, FallbackConfig};
use crate::tally::{Counter, Tallies};
use crate::upstream::Service;
use crate::value::{StatusRange, period_within};
use crate::wire::answer::{self, AnswerHead};

/// The word for an answer of the gateway's own.
pub const STATIC: &str = "static";

pub struct Fallback {
    on: Vec<Cause>,
    /// Answers of these statuses are none.
    statuses: Vec<StatusRange>,
    /// Nor are calls that fail at once with one of these statuses of gRPC, a bit each.
    codes: u32,
    /// How long ago what the cache has may have expired, where that is given.
    pub cached: Option<Duration>,
    /// What is given where it has nothing.
    pub how: Option<How>,
    counts: [Arc<Counter>; 4],
    counts_of_cached: [Arc<Counter>; 4],
}

/// The word for an answer of the cache's.
pub const CACHED: &str = "cached";
const LONGEST_CACHED: u64 = 30 * 24 * 3_600_000;

pub enum How {
    /// A head, and a body.
    Own {
        head: Box<AnswerHead>,
        body: Bytes,
    },
    Service(Arc<Service>),
}

impl How {
    /// The word for the field, the log and the metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            How::Own { .. } => STATIC,
            How::Service(_) => "service",
        }
    }
}

impl Fallback {
    pub fn new(config: &FallbackConfig, cached: Option<Duration>, how: Option<How>, route: &str, tallies: &Tallies) -> Self {
        let (mut on, mut statuses, mut codes) = (Vec::new(), Vec::new(), 0);
        for condition in &config.on {
            match condition.value {
                Condition::Cause(cause) => on.push(cause),
                Condition::Statuses(range) => statuses.push(range),
                Condition::Grpc(code) => codes |= 1 << code,
            }
        }
        if config.on.is_empty() {
            on.extend(Cause::NAMED);
        }
        let help = "Requests that got a route's fallback, by what it is and why.";
        let count = |kind: &str, cause: Cause| {
            let labels = [("route", route), ("kind", kind), ("cause", cause.as_str())];
            tallies.counter("portcullis_fallbacks_total", help, &labels)
        };
        let kind = how.as_ref().map_or(CACHED, How::as_str);
        let (counts, counts_of_cached) =
            (Cause::ALL.map(|cause| count(kind, cause)), Cause::ALL.map(|cause| count(CACHED, cause)));
        Fallback { on, statuses, codes, cached, how, counts, counts_of_cached }
    }

    pub fn is_for(&self, cause: Cause) -> bool {
        self.on.contains(&cause)
    }

    /// Those of the answers that are replaced.
    pub fn statuses(&self) -> &[StatusRange] {
        &self.statuses
    }

    /// Whether an answer of that status is replaced.
    pub fn replaces(&self, status: StatusCode) -> bool {
        self.statuses.iter().any(|range| range.contains(status.as_u16()))
    }

    /// Whether that of a call that has failed at once is. `code`: see [`grpc::read_status`](crate::grpc::read_status).
    pub fn replaces_call(&self, code: u8) -> bool {
        self.codes & 1 << code != 0
    }

    pub fn count(&self, cause: Cause, cached: bool) {
        let counts = if cached { &self.counts_of_cached } else { &self.counts };
        if let Some(count) = counts.get(cause as usize) {
            count.add(1);
        }
    }
}

/// How long ago what the cache has may have expired. `None` only if there was a problem.
pub fn cached(config: &FallbackConfig, problems: &mut Problems) -> Option<Option<Duration>> {
    let Some(written) = &config.cached else { return Some(None) };
    period_within("cached", written, 1000, LONGEST_CACHED, problems).map(Some)
}

/// An answer of the gateway's own. `None` only if there was a problem.
pub fn own(config: &FallbackConfig, place: Place, problems: &mut Problems) -> Option<How> {
    let status = config.status.as_ref().map_or(Some(StatusCode::OK), |status| {
        let known = u16::try_from(status.value).ok().filter(|status| (200..600).contains(status));
        if known.is_none() {
            problems
                .push(Problem::error(status.place, format!("`status` is {}, which is not between 200 and 599", status.value)));
        }
        known.and_then(|status| StatusCode::from_u16(status).ok())
    });
    let (body, media_type) = match (&config.json, &config.body) {
        (Some(json), Some(_)) => {
            problems.push(Problem::error(json.place, "a fallback has `json` or `body`, not both"));
            return None;
        }
        (Some(json), None) => (Bytes::from(json.value.0.to_string()), Some("application/json")),
        (None, Some(body)) => (Bytes::from(body.value.clone()), Some("text/plain; charset=utf-8")),
        (None, None) if config.status.is_none() => {
            let problem = Problem::error(place, "a fallback needs a `service`, or a `status`, `json` or `body`");
            problems.push(problem.hint("for example `json: { items: [] }`"));
            return None;
        }
        (None, None) => (Bytes::new(), None),
    };
    let gateways =
        [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE, header::TRAILER, header::TE];
    let (mut fields, mut fine) = (Vec::new(), true);
    for (name, value) in &config.headers {
        let name = HeaderName::try_from(name.as_str()).ok().filter(|name| !gateways.contains(name));
        match name.zip(HeaderValue::from_str(value).ok()) {
            Some(field) => fields.push(field),
            None => {
                fine = false;
                problems.push(Problem::error(value.place, "this is no header field that a fallback could set"));
            }
        }
    }
    if let Some(media_type) = media_type
        && !fields.iter().any(|(name, _)| *name == header::CONTENT_TYPE)
    {
        fields.push((header::CONTENT_TYPE, HeaderValue::from_static(media_type)));
    }
    let status = status.filter(|_| fine)?;
    if !body.is_empty() && matches!(status.as_u16(), 204 | 205 | 304) {
        problems.push(Problem::error(place, format!("an answer with the status {} has no body", status.as_u16())));
        return None;
    }
    let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default()).into_bytes();
    for (name, value) in &fields {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    if !matches!(status.as_u16(), 204 | 304) {
        head.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    // In the form that all writers take.
    let Some(head) = answer::take(&mut BytesMut::from(&*head), &Method::GET, &AnswerLimits::default()).ok().flatten() else {
        problems.push(Problem::error(place, "this answer's header is larger than one may be"));
        return None;
    };
    Some(How::Own { head, body })
}
