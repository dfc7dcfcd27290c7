//! Requests that end at the gateway itself, although nothing about them is wrong.

use std::ops::ControlFlow;

use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use super::Journey;
use crate::head::HeaderEdit;
use crate::reply::{Flow, Reply};

impl Journey {
    /// What is asked of the gateway as a whole, and what went out here and came in again, has no route.
    pub(super) fn check_first(&self) -> Flow {
        self.check_loop()?;
        if self.head.path == "*" { options(None) } else { ControlFlow::Continue(()) }
    }

    /// A request that went out here and came in again, time after time.
    fn check_loop(&self) -> Flow {
        let via = self.exchange.told.as_ref().and_then(|told| told.via.as_ref());
        if !via.is_some_and(|via| via.is_loop(&self.head)) {
            return ControlFlow::Continue(());
        }
        let detail = "This request has passed this gateway many times: a service's address is the gateway's own.";
        Reply::new(StatusCode::LOOP_DETECTED, "door", "loop", detail).refuse()
    }

    /// What is left to be decided before a road is taken: whether the gateway is where this request ends (RFC 9110, section 7.6.2). Of
    /// the two methods for which the field counts, TRACE is refused while it is read.
    pub fn check_last_hop(&mut self) -> Flow {
        if self.head.method != Method::OPTIONS {
            return ControlFlow::Continue(());
        }
        let mut fields = self.head.header_all("max-forwards");
        let (Some(field), second) = (fields.next(), fields.next()) else { return ControlFlow::Continue(()) };
        let is_number = second.is_none() && !field.is_empty() && field.iter().all(u8::is_ascii_digit);
        let text = std::str::from_utf8(field).ok().filter(|_| is_number);
        let Some(text) = text else {
            let detail = "Max-Forwards is one field with one decimal number.";
            return Reply::new(StatusCode::BAD_REQUEST, "door", "max_forwards", detail).refuse();
        };
        // A larger number than that is as good as the largest.
        match text.parse::<u32>().unwrap_or(u32::MAX).checked_sub(1) {
            Some(left) => {
                let name = HeaderName::from_static("max-forwards");
                self.exchange.to_upstream.push(HeaderEdit::Set(name, HeaderValue::from(left)));
                ControlFlow::Continue(())
            }
            None => options(self.view.snapshot.tables.of(&self.exchange.connection.listener).allowed(&self.head)),
        }
    }
}

/// Answers OPTIONS for the gateway itself: what may be asked of it, or of a path.
fn options(allowed: Option<HeaderValue>) -> Flow {
    let allow = allowed.unwrap_or_else(|| HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    Reply::new(StatusCode::NO_CONTENT, "door", "options", "").header(header::ALLOW, allow).refuse()
}
