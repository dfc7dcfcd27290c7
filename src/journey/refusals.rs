//! What a request is refused with on its way, and how those end who get no answer.

use std::time::Duration;

use http::StatusCode;

use crate::downstream::{BODY_BUDGET, BODY_MALFORMED, BODY_TIMEOUT, BODY_TOO_LARGE};
use crate::exchange::Verdict;
use crate::reply::{Flow, Reply};

pub(super) fn no_route() -> Flow {
    Reply::new(StatusCode::NOT_FOUND, "route", "no_route", "No route matches this request.").refuse()
}

pub(super) fn misdirected() -> Box<Reply> {
    let detail = "This host is served on another connection than this one.";
    Reply::new(StatusCode::MISDIRECTED_REQUEST, "route", "misdirected", detail)
}

/// Who bounds bodies that no policy looks into: the server's bound is the one that a route has where it says nothing.
pub(super) const BOUNDS: &str = "bounds";

/// What [`too_large`] says, in the name of the policy that takes no more.
pub(super) fn too_large_for(policy: &'static str) -> Box<Reply> {
    let mut reply = too_large();
    reply.policy = policy;
    reply
}

pub fn too_large() -> Box<Reply> {
    Reply::new(StatusCode::PAYLOAD_TOO_LARGE, "bounds", "body_too_large", "The body is larger than this route accepts.")
}

/// The answer once the request's time is over; whether it is the caller's own time.
pub fn out_of_time(clients_own: bool) -> Box<Reply> {
    let (reason, detail) = match clients_own {
        true => ("deadline_exceeded", "The deadline that the caller has set has passed."),
        false => ("request_timeout", "The request took longer than it may."),
    };
    Reply::new(StatusCode::GATEWAY_TIMEOUT, "door", reason, detail)
}

pub(super) fn client_gone() -> Flow {
    Reply::new(CLIENT_CLOSED, "client", "client_closed", "The client closed the connection.").closing().refuse()
}

/// 499, as NGINX logs a client that went away before it had its answer. It is never sent.
pub const CLIENT_CLOSED: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

/// A client that took nothing of its answer until `timeouts.write` was over.
pub const CLIENT_STOPPED: Verdict = Verdict { policy: "client", reason: "client_write_timeout" };

/// A client that reads so slowly what the cache has no room for any more that its share of the memory for bodies was used up.
pub const ANSWER_BUDGET: Verdict = Verdict { policy: "client", reason: "answer_budget" };

/// What there would be no memory for is refused before it is read.
pub fn no_memory() -> Box<Reply> {
    let detail = "The gateway has no memory left for another body.";
    Reply::new(StatusCode::SERVICE_UNAVAILABLE, "door", "body_budget", detail).retry_after(Duration::from_secs(1))
}

/// The answer to a body that did not come as it should have; `None` if nobody is left to be answered.
pub fn body_refusal(kind: &pingora_error::ErrorType) -> Option<Box<Reply>> {
    if *kind == BODY_TOO_LARGE {
        Some(too_large().closing())
    } else if *kind == BODY_BUDGET {
        Some(no_memory().closing())
    } else if *kind == BODY_TIMEOUT {
        let detail = "The request's body did not come in time.";
        Some(Reply::new(StatusCode::REQUEST_TIMEOUT, "door", "body_timeout", detail).closing())
    } else if *kind == BODY_MALFORMED {
        let detail = "The request's body is not framed as HTTP/1.1 says.";
        Some(Reply::new(StatusCode::BAD_REQUEST, "door", "malformed_body", detail).closing())
    } else {
        None
    }
}
