//! All steps of one request up to the question which backend to ask, in their order, whoever serves the client.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use pingora_error::Result;

use super::{Journey, Pause};
use crate::downstream::Downstream;
use crate::head::BodyFraming;
use crate::listen::in_flight::{self, InFlight};
use crate::reply::{Flow, Reply};
use crate::upstream::call::Caller;

/// The client's side of an exchange, as far as a route's steps have to do with it.
pub trait Client: Send {
    /// Waits until the client goes away.
    fn gone(&mut self) -> impl Future<Output = ()> + Send;

    /// Bounds the body that is read from now on, in bytes.
    fn limit_body(&mut self, most: u64);

    /// Reads the whole body into memory, and keeps it for whoever reads the body later.
    ///
    /// # Errors
    /// As [`Downstream::buffer_body`].
    fn buffer_body(&mut self, bound: usize) -> impl Future<Output = Result<Bytes>> + Send;

    /// The same, but nothing is lost of a body that is longer, or that could not be given back if it were: `None`, and it goes on as if nobody
    /// had looked.
    ///
    /// # Errors
    /// As [`Downstream::buffer_body`], but for that.
    fn try_body(&mut self, bound: usize) -> impl Future<Output = Result<Option<Bytes>>> + Send;

    /// Puts another body in the place of one that was read whole.
    ///
    /// # Errors
    /// As [`Downstream::replace_body`].
    fn replace_body(&mut self, body: Bytes) -> Result<()>;

    /// Takes so much of the memory for bodies, for as long as the request lasts.
    ///
    /// # Errors
    /// As [`Downstream::charge`].
    fn charge(&mut self, bytes: usize) -> Result<()>;

    /// Whether nothing of a body came or will come, as far as that is known.
    fn body_is_empty(&self) -> bool;

    /// Waits for the beginning of a body of this framing.
    ///
    /// # Errors
    /// As [`Downstream::await_body`].
    fn await_body(&mut self, framing: BodyFraming) -> impl Future<Output = Result<()>> + Send;
}

impl Client for Downstream {
    fn gone(&mut self) -> impl Future<Output = ()> + Send {
        Downstream::gone(self)
    }

    fn limit_body(&mut self, most: u64) {
        Downstream::limit_body(self, most);
    }

    fn buffer_body(&mut self, bound: usize) -> impl Future<Output = Result<Bytes>> + Send {
        Downstream::buffer_body(self, bound)
    }

    fn try_body(&mut self, bound: usize) -> impl Future<Output = Result<Option<Bytes>>> + Send {
        Downstream::try_body(self, bound)
    }

    fn replace_body(&mut self, body: Bytes) -> Result<()> {
        Downstream::replace_body(self, body)
    }

    fn charge(&mut self, bytes: usize) -> Result<()> {
        Downstream::charge(self, bytes)
    }

    fn body_is_empty(&self) -> bool {
        Downstream::body_is_empty(self)
    }

    fn await_body(&mut self, framing: BodyFraming) -> impl Future<Output = Result<()>> + Send {
        Downstream::await_body(self, framing)
    }
}

/// The request's place among all that are in flight. It is taken late, once all that is known at once is known, and not held while the
/// client takes its time: a client that sends nothing must not keep others out.
pub struct Places<'a> {
    in_flight: &'a InFlight,
    most: usize,
    taken: Option<in_flight::Permit<'a>>,
}

impl<'a> Places<'a> {
    /// For one request, where so many may be in flight.
    pub fn new(in_flight: &'a InFlight, most: usize) -> Self {
        Places { in_flight, most, taken: None }
    }

    fn take(&mut self) -> Flow {
        if self.taken.is_none() {
            self.taken = self.in_flight.try_enter(self.most);
        }
        if self.taken.is_some() {
            return ControlFlow::Continue(());
        }
        let detail = "The gateway has too many requests in flight.";
        let reply = Reply::new(StatusCode::SERVICE_UNAVAILABLE, "door", "overloaded", detail);
        reply.retry_after(Duration::from_secs(1)).refuse()
    }

    fn give_back(&mut self) {
        self.taken = None;
    }
}

impl Journey {
    /// Everything from the choice of the route to the last policy. `caller` is for policies that ask services.
    pub async fn run_gauntlet(&mut self, client: &mut impl Client, place: &mut Places<'_>, caller: &Caller) -> Flow {
        self.choose_route()?;
        self.take_deadline()?;
        self.check_announced_length()?;
        let (mut from, mut unsettled) = (0, self.is_unsettled());
        loop {
            // Boxed: what most requests never do must not make every request's future larger.
            let (next, flow) = match self.run(from, unsettled) {
                Pause::Done(flow) => {
                    flow?;
                    break;
                }
                Pause::Wait(number) => {
                    place.take()?;
                    (number + 1, Box::pin(self.wait(number, client, caller)).await)
                }
                Pause::Settle(number) => {
                    place.give_back();
                    unsettled = false;
                    (number, Box::pin(self.settle_body(client)).await)
                }
                Pause::Body(number) => {
                    place.give_back();
                    (number + 1, Box::pin(self.body(number, client)).await)
                }
                Pause::View => (0, self.choose_view()),
            };
            flow?;
            from = next;
        }
        self.check_last_hop()?;
        if self.head.body != BodyFraming::None {
            self.let_go_of_content();
            client.limit_body(self.max_body());
            if self.buffers_request() {
                place.give_back();
                Box::pin(self.buffer_request(client)).await?;
            } else if self.awaits_body() {
                place.give_back();
                Box::pin(self.await_body(client)).await?;
            }
        }
        place.take()
    }
}

/// The answer to a client whose address has as many requests in flight as it may have.
pub fn too_many_in_flight() -> Box<Reply> {
    let detail = "This address has too many requests in flight.";
    Reply::new(StatusCode::TOO_MANY_REQUESTS, "door", "too_many_in_flight", detail).retry_after(Duration::from_secs(1))
}
