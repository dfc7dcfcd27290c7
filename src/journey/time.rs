//! How long a request may take: its route's time, its listener's, and the deadline that a gRPC client brings.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode};

use super::Journey;
use super::refusals::out_of_time;
use crate::grpc::{self, GRPC_TIMEOUT};
use crate::head::HeaderEdit;
use crate::reply::{Flow, Reply};

/// When a request's time is over.
#[derive(Clone, Copy)]
pub struct TimeLimit {
    /// An answer has ended by then, or has begun if it is a stream.
    pub answer: Option<tokio::time::Instant>,
    /// A stream, too, has ended by then: its client's own deadline.
    pub call: Option<tokio::time::Instant>,
}

impl Journey {
    /// Takes the deadline that a gRPC client sends along. It counts from the head's arrival, for the client cannot know more.
    pub fn take_call_deadline(&mut self) -> Flow {
        if !self.dialect.is_grpc() {
            return ControlFlow::Continue(());
        }
        let mut said = self.head.header_all("grpc-timeout");
        let Some(timeout) = said.next() else { return ControlFlow::Continue(()) };
        let Some(timeout) = grpc::read_timeout(timeout).filter(|_| said.next().is_none()) else {
            let detail = "The field grpc-timeout is malformed.";
            return Reply::new(StatusCode::BAD_REQUEST, "door", "malformed_grpc_timeout", detail).refuse();
        };
        // One that no clock reaches is none.
        self.call_due = self.exchange.started.checked_add(timeout);
        if timeout.is_zero() { self.out_of_time().refuse() } else { ControlFlow::Continue(()) }
    }

    /// What is left of the client's own deadline, as the backend of a gRPC call is told. `None` where a policy has its own word on it.
    pub fn call_time_left(&self) -> Option<HeaderEdit> {
        let left = self.call_due?.saturating_duration_since(Instant::now());
        let said = self.exchange.to_upstream.iter().any(|edit| *edit.name() == GRPC_TIMEOUT);
        let left = HeaderValue::try_from(grpc::write_timeout(left)).ok().filter(|_| !said)?;
        Some(HeaderEdit::Set(GRPC_TIMEOUT, left))
    }

    /// Whether the client's own time for this call (gRPC) is over, give or take so much.
    pub fn is_late(&self, leeway: Duration) -> bool {
        self.call_due.is_some_and(|due| due.saturating_duration_since(Instant::now()) <= leeway)
    }

    /// The answer once the request's time is over.
    pub fn out_of_time(&self) -> Box<Reply> {
        out_of_time(self.call_due.is_some_and(|due| due <= Instant::now()))
    }

    /// How long the request may take, counted from its head's last byte. A gRPC call has a limit only where its route says so: it may
    /// stream for hours before it is answered, and brings a deadline of its client's.
    pub(super) fn limit(&self) -> Option<Duration> {
        let own = self.route().and_then(|route| route.timeout);
        if self.is_grpc() { own } else { own.or(self.bounds.time) }
    }

    /// When the request's time is over.
    pub fn due(&self) -> TimeLimit {
        let answer = self.limit().and_then(|limit| self.exchange.started.checked_add(limit));
        let instant = tokio::time::Instant::from_std;
        TimeLimit { answer: answer.map(instant), call: self.call_due.map(instant) }
    }

    /// What is left of the request's time.
    pub fn deadline(&self) -> Option<Duration> {
        let left = self.limit().map(|limit| limit.saturating_sub(self.exchange.started.elapsed()));
        let call = self.call_due.map(|due| due.saturating_duration_since(Instant::now()));
        match (left, call) {
            (Some(left), Some(call)) => Some(left.min(call)),
            (left, call) => left.or(call),
        }
    }
}
