//! An upgraded connection, which is a WebSocket: bytes both ways, for as long as its ends like, each half by itself.
//!
//! Frames are counted by their heads, whoever speaks. Where the route has a `websocket` policy they are also judged, and who is silent is
//! asked whether it is there.

mod half;
mod watch;

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::Reason;
use http::{HeaderName, HeaderValue, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{Failed, broke_off};
use crate::downstream::Downstream;
use crate::exchange::Verdict;
use crate::head::HeaderEdit;
use crate::journey::{Journey, Tunnelled};
use crate::upstream::Service;
use crate::upstream::call::request::handshake_key;
use crate::upstream::call::{Answer, Broken};
use crate::wire::answer::BadAnswer;
use crate::wire::duplex::Absorb;
use crate::wire::view::AnswerView;
use crate::wire::websocket::{Fault, GOING_AWAY, Speaker, close, handshake};
use half::{Failing, Half};
use watch::{Care, Watch};

/// How long one end may be silent once the other has ended its half.
const HALF_CLOSED: Duration = Duration::from_secs(5);
/// How long the ends have to take their close frame, and to answer it.
const CLOSING: Duration = Duration::from_secs(5);

/// The end of a tunnel, once it is in sight.
struct Closing {
    until: Instant,
    /// What is said of it; nothing where the ends close by themselves.
    end: Result<(), Failed>,
    /// What both were told, if the gateway closes.
    code: Option<u16>,
}

/// Tells the client that the service has switched, and carries what both say from then on.
///
/// # Errors
/// [`Failed::BrokeOff`], [`Failed::ClientGone`], [`Failed::ClientStopped`] or [`Failed::Closed`].
pub async fn run(answer: Answer, journey: &mut Journey, down: &mut Downstream, service: &Service) -> Result<(), Failed> {
    settle_handshake(&answer, journey)?;
    journey.answered(AnswerView::from(&*answer.head)).map_err(Failed::Answer)?;
    let exchange = &journey.exchange;
    let via = exchange.via(answer.head.version);
    let written = down.write_answer(&answer.head, &exchange.request_id, &exchange.to_client, via, true).await;
    written.map_err(|error| broke_off(Broken::Client(error), journey, down))?;
    let rules = journey.route().and_then(|route| route.plan.options.websocket.clone());
    let extended = answer.head.header_all("sec-websocket-extensions").next().is_some();
    let law = |from| rules.as_ref().map(|rules| rules.law(from, extended));
    let Some((mut backend, said, mut alarm, _place)) = answer.into_tunnel() else { return Err(Failed::BrokeOff) };
    let Some((mut client, asked, patience)) = down.into_tunnel() else { return Err(Failed::ClientGone) };
    let mut ends = Ends {
        inbound: Half::new(asked, law(Speaker::Client)),
        outbound: Half::new(said, law(Speaker::Service)),
        closing: None,
        closed_by: "",
        judged: rules.is_some(),
    };
    let metrics = journey.route().map(|route| route.metrics.clone());
    let metrics = metrics.as_ref().map(|metrics| metrics.websockets(journey.view.metrics.tallies()));
    let open = metrics.map(|metrics| metrics.opened());
    let mut counted = (0, 0);
    let mut care = rules.as_deref().map(|rules| Box::new(Care::new(rules)));
    let drain = journey.view.drain.clone();
    let mut seen = drain.news();
    let mut news = pin!(drain.hears(seen));
    // A reload may have come while the service was asked.
    let mut look = true;
    let mut silent = false;
    // The last time that anything moved, and now.
    let mut since = Instant::now();
    let mut now = since;
    let end = loop {
        if std::mem::take(&mut look)
            && ends.closing.is_none()
            && let Some(end) = called_off(journey, down)
        {
            ends.close(GOING_AWAY, "", now, end);
        }
        ends.settle(now);
        let began = ends.moved();
        let silence = if ends.is_half_closed() { HALF_CLOSED } else { service.timeouts.stream };
        if ends.outbound.stalls(patience) {
            break Err(Failed::ClientStopped);
        }
        if ends.inbound.stalls(service.timeouts.write) {
            break Err(Failed::BrokeOff);
        }
        let mut tick = silence.min(patience).min(service.timeouts.write);
        if ends.closing.is_none()
            && let Some(care) = &mut care
        {
            match care.look(now, &mut ends.inbound, &mut ends.outbound) {
                Watch::For(time) => tick = tick.min(time),
                Watch::End(verdict) => {
                    ends.close(GOING_AWAY, verdict.reason, now, Err(Failed::Closed(verdict)));
                    ends.settle(now);
                }
            }
        }
        if let Some(closing) = &ends.closing {
            tick = tick.min(closing.until.saturating_duration_since(now));
            if tick.is_zero() {
                break Ok(());
            }
        }
        let first = async {
            tokio::select! {
                biased;
                turned = poll_fn(|cx| ends.turn(&mut client, &mut backend, began, cx)) => Some(turned),
                () = &mut news => None,
            }
        };
        // One timer for as long as the tunnel lasts, and not one for each message.
        let Ok(turned) = alarm.within(tick, first).await else {
            now = Instant::now();
            if now.duration_since(since) >= silence && ends.closing.is_none() {
                silent = true;
                // Of one whose other end has ended its half nothing more is expected, sooner or later.
                if ends.is_half_closed() {
                    break Ok(());
                }
                ends.close(GOING_AWAY, "", now, Err(Failed::BrokeOff));
            }
            continue;
        };
        since = Instant::now();
        now = since;
        down.tunnelled(ends.inbound.moved, ends.outbound.moved);
        if let Some(metrics) = metrics {
            let messages = (ends.inbound.messages, ends.outbound.messages);
            metrics.passed(messages.0 - counted.0, messages.1 - counted.1);
            counted = messages;
        }
        match turned {
            Some(Ok(true)) => break Ok(()),
            // Other connections have their turn, too.
            Some(Ok(false)) if ends.inbound.busy || ends.outbound.busy => tokio::task::yield_now().await,
            Some(Ok(false)) => {}
            Some(Err(_)) if ends.closing.is_some() => break Ok(()),
            Some(Err(Side::Client(reason))) => {
                backend.reset(passed_on(reason));
                break Err(Failed::ClientGone);
            }
            Some(Err(Side::Backend(reason))) => {
                client.reset(passed_on(reason));
                break Err(Failed::BrokeOff);
            }
            None => {
                seen = drain.news();
                news.set(drain.hears(seen));
                look = true;
            }
        }
    };
    down.tunnelled(ends.inbound.moved, ends.outbound.moved);
    drop(open);
    let facts = ends.facts(&end);
    if let Some(metrics) = metrics {
        metrics.closed(facts.closed_by, facts.code);
    }
    journey.outcome.tunnelled = Some(Box::new(facts));
    // What it was closed for is what is told of it, whatever came of that.
    let end = ends.closing.map_or(end, |closing| closing.end);
    // Both ends were: no fault of the endpoint's.
    if !silent && matches!(end, Err(Failed::BrokeOff)) {
        journey.tries.failed_for_the_client();
    }
    end
}

/// Between HTTP/2, which knows no keys of handshakes, and HTTP/1.1 the gateway stands in for the end that knows none.
fn settle_handshake(answer: &Answer, journey: &mut Journey) -> Result<(), Failed> {
    match (journey.head.version, answer.head.version) {
        (Version::HTTP_2, Version::HTTP_2) => {}
        (Version::HTTP_2, _) => {
            let wanted = handshake::accept(handshake_key(&journey.exchange).as_bytes());
            if answer.head.header_all(handshake::ACCEPT).next() != Some(wanted.as_bytes()) {
                return Err(Failed::Answer(BadAnswer::Malformed.reply()));
            }
        }
        (_, Version::HTTP_2) => {
            let accept = journey.head.header(handshake::KEY).and_then(|key| HeaderValue::try_from(handshake::accept(key)).ok());
            if let Some(accept) = accept {
                journey.exchange.to_client.push(HeaderEdit::Set(HeaderName::from_static(handshake::ACCEPT), accept));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Whether the tunnel has to end because its route is there no more, or the process will not be; and what is said of that.
fn called_off(journey: &Journey, down: &Downstream) -> Option<Result<(), Failed>> {
    let view = &journey.view;
    if view.drain.is_over() {
        down.control().cut();
        return Some(Ok(()));
    }
    let newest = view.newest.load();
    let id = &journey.route()?.id;
    if newest.generation == view.snapshot.generation || newest.has_route(id) {
        return None;
    }
    Some(Err(Failed::Closed(Verdict { policy: "route", reason: "route_removed" })))
}

/// Whose end failed, and for which reason it has broken its stream off, if it has.
enum Side {
    Client(Option<Reason>),
    Backend(Option<Reason>),
}

/// A stream that one end has broken off is broken off for the other one, too: as cancelled, unless there was an error. What the ends of two
/// connections say of each other's use of HTTP/2 (ENHANCE_YOUR_CALM and the like) is between them.
fn passed_on(reason: Option<Reason>) -> Reason {
    match reason {
        None | Some(Reason::CANCEL | Reason::NO_ERROR) => Reason::CANCEL,
        Some(_) => Reason::INTERNAL_ERROR,
    }
}

/// Both directions, and how they end.
struct Ends {
    inbound: Half,
    outbound: Half,
    closing: Option<Closing>,
    closed_by: &'static str,
    /// Frames are held to a law, so that it is known to be frames that are passed on.
    judged: bool,
}

impl Ends {
    fn moved(&self) -> u64 {
        self.inbound.moved + self.outbound.moved
    }

    fn is_half_closed(&self) -> bool {
        self.inbound.shut || self.outbound.shut
    }

    /// Tells both ends that the gateway closes the connection.
    fn close(&mut self, code: u16, why: &str, now: Instant, end: Result<(), Failed>) {
        self.inbound.part(close(Speaker::Client, code, why));
        self.outbound.part(close(Speaker::Service, code, why));
        self.closing = Some(Closing { until: now + CLOSING, end, code: Some(code) });
        if self.closed_by.is_empty() {
            self.closed_by = "gateway";
        }
    }

    /// Draws the conclusions from what has come.
    fn settle(&mut self, now: Instant) {
        let fault: Option<Fault> = self.inbound.fault.take().or_else(|| self.outbound.fault.take());
        if let Some(fault) = fault
            && self.closing.as_ref().is_none_or(|closing| closing.code.is_none())
        {
            let verdict = fault.verdict();
            self.close(fault.code(), verdict.reason, now, Err(Failed::Closed(verdict)));
        }
        if self.closed_by.is_empty() {
            self.closed_by = match (self.inbound.closed(), self.outbound.closed()) {
                (Some(_), _) => "client",
                (None, Some(_)) => "service",
                (None, None) => "",
            };
        }
        match &self.closing {
            Some(_) => {
                // Who has had its close frame, and has sent one, has no more to hear.
                self.inbound.finish |= self.inbound.has_parted() && self.outbound.is_over();
                self.outbound.finish |= self.outbound.has_parted() && self.inbound.is_over();
            }
            // Both have said that they are done: the service ends the connection now, or it is ended for it.
            None if self.judged && self.inbound.closed().is_some() && self.outbound.closed().is_some() => {
                self.closing = Some(Closing { until: now + CLOSING, end: Ok(()), code: None });
            }
            None => {}
        }
    }

    /// What there is to be told of it.
    fn facts(&self, end: &Result<(), Failed>) -> Tunnelled {
        let closed_by = match (self.closed_by, end) {
            ("", Err(Failed::ClientGone | Failed::ClientStopped)) => "client",
            ("", Err(_)) => "service",
            ("", Ok(())) if self.inbound.ended => "client",
            ("", Ok(())) => "service",
            (known, _) => known,
        };
        let code = match (closed_by, &self.closing) {
            (_, Some(Closing { code: Some(code), .. })) => Some(*code),
            ("client", _) => self.inbound.closed(),
            ("service", _) => self.outbound.closed(),
            _ => None,
        };
        Tunnelled { messages_in: self.inbound.messages, messages_out: self.outbound.messages, code, closed_by }
    }

    /// Moves both halves on. Ready with `true` once both are over, with `false` once something was moved, a half has ended, or a frame broke
    /// the law.
    fn turn(
        &mut self,
        client: &mut (impl AsyncRead + AsyncWrite + Absorb + Unpin),
        backend: &mut (impl AsyncRead + AsyncWrite + Absorb + Unpin),
        began: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, Side>> {
        let before = self.marks();
        if let Poll::Ready(Err(failing)) = self.inbound.poll(client, backend, cx) {
            return Poll::Ready(Err(match failing {
                Failing::Speaker(reason) => Side::Client(reason),
                Failing::Listener(reason) => Side::Backend(reason),
            }));
        }
        if let Poll::Ready(Err(failing)) = self.outbound.poll(backend, client, cx) {
            return Poll::Ready(Err(match failing {
                Failing::Speaker(reason) => Side::Backend(reason),
                Failing::Listener(reason) => Side::Client(reason),
            }));
        }
        if self.inbound.shut && self.outbound.shut {
            return Poll::Ready(Ok(true));
        }
        let moved = self.moved() > began || self.marks() != before;
        if moved { Poll::Ready(Ok(false)) } else { Poll::Pending }
    }

    /// What else than moved bytes is to be looked at: a half that has ended, a frame that broke the law, a close frame that was heard, an
    /// answer to a ping that goes no further.
    fn marks(&self) -> [[bool; 5]; 2] {
        let of = |half: &Half| [half.shut, half.ended, half.heard, half.fault.is_some(), half.closed().is_some()];
        [of(&self.inbound), of(&self.outbound)]
    }
}
