//! How long a request may take: its route's time, its listener's, and the deadline that its caller brings.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::Journey;
use super::refusals::out_of_time;
use crate::exchange::Deadline;
use crate::grpc::{self, Dialect, GRPC_TIMEOUT, connect};
use crate::head::HeaderEdit;
use crate::reply::{Flow, Reply};

/// The most digits of a deadline in milliseconds: 31 years.
const MOST_DIGITS: usize = 12;

/// When a request's time is over.
#[derive(Clone, Copy)]
pub struct TimeLimit {
    /// An answer has ended by then, or has begun if it is a stream.
    pub answer: Option<tokio::time::Instant>,
    /// A stream, too, has ended by then: the deadline of a gRPC call.
    pub call: Option<tokio::time::Instant>,
}

impl TimeLimit {
    /// What comes first.
    pub fn first(self) -> Option<tokio::time::Instant> {
        self.answer.into_iter().chain(self.call).min()
    }

    /// Whether it is too late already to ask anybody.
    pub fn is_over(self) -> bool {
        self.first().is_some_and(|due| due <= tokio::time::Instant::now())
    }
}

impl Journey {
    /// Takes the deadline that the caller sends along: `grpc-timeout` of whoever makes a gRPC call, `Connect-Timeout-Ms` of whoever makes one
    /// of Connect's, and `X-Request-Deadline` of a trusted proxy. It counts from the head's arrival, for the caller cannot know more.
    pub fn take_deadline(&mut self) -> Flow {
        if self.exchange.trusted {
            self.take_plain_deadline()?;
        }
        if self.dialect == Dialect::Connect {
            return self.take_connects_deadline();
        }
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
        let due = self.exchange.started.checked_add(timeout);
        self.call_due = due.into_iter().chain(self.call_due).min();
        if timeout.is_zero() { self.out_of_time().refuse() } else { ControlFlow::Continue(()) }
    }

    /// One of Connect's is answered whole, and so within the time of any request.
    #[cold]
    fn take_connects_deadline(&mut self) -> Flow {
        let mut said = self.head.header_all(connect::TIMEOUT);
        let Some(timeout) = said.next() else { return ControlFlow::Continue(()) };
        let Some(timeout) = connect::read_timeout(timeout).filter(|_| said.next().is_none()) else {
            let detail = "The field Connect-Timeout-Ms is malformed: it is a number of milliseconds of at most 10 digits.";
            return Reply::new(StatusCode::BAD_REQUEST, "door", "malformed_connect_timeout", detail).refuse();
        };
        let due = self.exchange.started.checked_add(timeout);
        self.asked_due = due.into_iter().chain(self.asked_due).min();
        if timeout.is_zero() { out_of_time(true).refuse() } else { ControlFlow::Continue(()) }
    }

    fn take_plain_deadline(&mut self) -> Flow {
        let mut said = self.head.header_all("x-request-deadline");
        let Some(text) = said.next() else { return ControlFlow::Continue(()) };
        let Some(left) = read_millis(text).filter(|_| said.next().is_none()) else {
            let detail = "The field X-Request-Deadline is malformed: it is a number of milliseconds.";
            return Reply::new(StatusCode::BAD_REQUEST, "door", "malformed_deadline", detail).refuse();
        };
        let due = self.exchange.started.checked_add(left);
        // A call's is one on its stream, too, as gRPC has it.
        if self.dialect.is_grpc() {
            self.call_due = due
        } else {
            self.asked_due = due
        }
        if left.is_zero() { out_of_time(true).refuse() } else { ControlFlow::Continue(()) }
    }

    /// What the service is told of how long it has: what is left of the caller's own deadline and, where the answer is not expected to
    /// outlive it as a stream, of the route's or the listener's. `None` where a policy has its own word on it.
    pub fn told_deadline(&self) -> Option<Deadline> {
        let deadline = match self.call_due {
            Some(at) => Deadline { at, grpc: true, asked: Some(at) },
            None => {
                let own = self.own_due().filter(|_| !self.asks_for_stream());
                Deadline { at: own.into_iter().chain(self.asked_due).min()?, grpc: false, asked: self.asked_due }
            }
        };
        let said = self.exchange.to_upstream.iter().any(|edit| edit.name() == deadline.name());
        (!said).then_some(deadline)
    }

    /// Lets the service be told.
    pub fn hand_deadline_on(&mut self) {
        self.exchange.deadline = self.told_deadline();
        if self.exchange.deadline.is_some_and(|deadline| deadline.grpc) {
            // What the client has said is more than what is left.
            self.exchange.to_upstream.push(HeaderEdit::Remove(GRPC_TIMEOUT));
        }
    }

    /// The deadline that the caller brought.
    fn callers_due(&self) -> Option<Instant> {
        self.call_due.into_iter().chain(self.asked_due).min()
    }

    /// Whether the time that the caller gave itself is over before that which the gateway gives.
    pub fn has_own_deadline(&self) -> bool {
        self.callers_due().is_some_and(|due| self.own_due().is_none_or(|own| due < own))
    }

    /// Whether the time that the caller gave itself is over, give or take so much.
    pub fn is_late(&self, leeway: Duration) -> bool {
        self.callers_due().is_some_and(|due| due.saturating_duration_since(Instant::now()) <= leeway)
    }

    /// The answer once the request's time is over.
    pub fn out_of_time(&self) -> Box<Reply> {
        out_of_time(self.is_late(Duration::ZERO))
    }

    /// How long the request may take, counted from its head's last byte. A gRPC call has a limit only where its route says so: it may
    /// stream for hours before it is answered, and brings a deadline of its client's.
    pub(super) fn limit(&self) -> Option<Duration> {
        let own = self.route().and_then(|route| route.timeout);
        if self.is_grpc() { own } else { own.or(self.bounds.time) }
    }

    /// When the request's time is over.
    pub fn due(&self) -> TimeLimit {
        let own = self.own_due();
        let instant = tokio::time::Instant::from_std;
        let answer = own.into_iter().chain(self.asked_due).min();
        TimeLimit { answer: answer.map(instant), call: self.call_due.map(instant) }
    }

    /// When the time is over that the gateway itself gives the request. Never, if no clock reaches that.
    fn own_due(&self) -> Option<Instant> {
        self.exchange.started.checked_add(self.limit()?)
    }

    /// What is left of the request's time.
    pub fn deadline(&self) -> Option<Duration> {
        let due = self.due().first()?;
        Some(due.saturating_duration_since(tokio::time::Instant::now()))
    }
}

fn read_millis(text: &[u8]) -> Option<Duration> {
    if !(1..=MOST_DIGITS).contains(&text.len()) || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(Duration::from_millis(text.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_a_number_of_milliseconds() {
        for (text, millis) in [("0", Some(0)), ("1500", Some(1500)), ("999999999999", Some(999_999_999_999))] {
            assert_eq!(read_millis(text.as_bytes()), millis.map(Duration::from_millis), "{text}");
        }
        for bad in ["", "1500ms", "-1", "+1", "1.5", " 1", "1000000000000", "\u{661}"] {
            assert_eq!(read_millis(bad.as_bytes()), None, "{bad}");
        }
    }
}
