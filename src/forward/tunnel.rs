//! An upgraded connection: bytes both ways, for as long as its ends like, each half by itself.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{Failed, broke_off};
use crate::downstream::Downstream;
use crate::journey::Journey;
use crate::upstream::Service;
use crate::upstream::call::{Answer, Broken};
use crate::wire::scratch;
use crate::wire::view::AnswerView;
use crate::wire::websocket::{CLOSE_FROM_CLIENT, CLOSE_FROM_SERVER, Frames};

/// How long one end may be silent once the other has ended its half.
const HALF_CLOSED: Duration = Duration::from_secs(5);

/// Tells the client that the service has switched, and carries what both say from then on.
///
/// # Errors
/// [`Failed::BrokeOff`], [`Failed::ClientGone`] or [`Failed::ClientStopped`].
pub async fn run(answer: Answer, journey: &mut Journey, down: &mut Downstream, service: &Service) -> Result<(), Failed> {
    journey.answered(AnswerView::from(&*answer.head)).map_err(Failed::Answer)?;
    let exchange = &journey.exchange;
    let via = exchange.via(answer.head.version);
    let written = down.write_answer(&answer.head, &exchange.request_id, &exchange.to_client, via, true).await;
    written.map_err(|error| broke_off(Broken::Client(error), journey, down))?;
    let speaks_frames = journey.head.header("upgrade").is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
    let Some((mut backend, said, mut alarm)) = answer.into_tunnel() else { return Err(Failed::BrokeOff) };
    let Some((mut client, asked, patience)) = down.into_tunnel() else { return Err(Failed::ClientGone) };
    let mut inbound = Half::new(asked, speaks_frames);
    let mut outbound = Half::new(said, speaks_frames);
    let drain = journey.view.drain.clone();
    let mut over = pin!(drain.ends());
    let mut told = false;
    let mut silent = false;
    // The last time that anything moved.
    let mut since = Instant::now();
    let end = loop {
        let began = inbound.moved + outbound.moved;
        let silence = match inbound.shut || outbound.shut {
            true => HALF_CLOSED,
            false => service.timeouts.stream,
        };
        if outbound.stalls(patience) {
            break Err(Failed::ClientStopped);
        }
        if inbound.stalls(service.timeouts.write) {
            break Err(Failed::BrokeOff);
        }
        let tick = silence.min(patience).min(service.timeouts.write);
        let first = async {
            tokio::select! {
                biased;
                turned = poll_fn(|cx| turn(&mut inbound, &mut outbound, &mut client, &mut backend, began, cx)) => Some(turned),
                () = &mut over, if !told => None,
            }
        };
        // One timer for as long as the tunnel lasts, and not one for each message.
        let Ok(turned) = alarm.within(tick, first).await else {
            if since.elapsed() >= silence {
                silent = true;
                // Of one whose other end has ended its half nothing more is expected, sooner or later.
                break if inbound.shut || outbound.shut { Ok(()) } else { Err(Failed::BrokeOff) };
            }
            continue;
        };
        since = Instant::now();
        down.tunnelled(inbound.moved, outbound.moved);
        match turned {
            Some(Ok(true)) => break Ok(()),
            Some(Ok(false)) => {}
            Some(Err(Side::Client)) => break Err(Failed::ClientGone),
            Some(Err(Side::Backend)) => break Err(Failed::BrokeOff),
            // The process ends: a WebSocket's ends are told so, each if no frame is under way to it.
            None => {
                told = true;
                down.control().cut();
                let to_client = outbound.bid_farewell(&CLOSE_FROM_SERVER);
                let to_backend = inbound.bid_farewell(&CLOSE_FROM_CLIENT);
                if !to_client && !to_backend {
                    break Ok(());
                }
            }
        }
    };
    down.tunnelled(inbound.moved, outbound.moved);
    // Both ends were: no fault of the endpoint's.
    if !silent && matches!(end, Err(Failed::BrokeOff)) {
        journey.tries.failed_for_the_client();
    }
    end
}

/// Whose end failed.
enum Side {
    Client,
    Backend,
}

/// One direction.
struct Half {
    /// What was read and is not written yet.
    bytes: BytesMut,
    frames: Option<Frames>,
    /// Whoever speaks here has ended.
    ended: bool,
    /// And whoever listens was told.
    shut: bool,
    flushed: bool,
    moved: u64,
    /// Since when nothing of `bytes` was taken.
    waits: Option<Instant>,
}

impl Half {
    fn new(bytes: BytesMut, speaks_frames: bool) -> Self {
        let mut frames = speaks_frames.then(Frames::default);
        if let Some(frames) = &mut frames {
            frames.pass(&bytes);
        }
        Half { bytes, frames, ended: false, shut: false, flushed: true, moved: 0, waits: None }
    }

    /// Whether whoever listens has taken nothing for too long.
    fn stalls(&self, patience: Duration) -> bool {
        self.waits.is_some_and(|since| since.elapsed() >= patience)
    }

    /// Says `goodbye` where a frame may begin. Whether it could be said.
    fn bid_farewell(&mut self, goodbye: &[u8]) -> bool {
        let may = !self.ended && self.frames.as_ref().is_some_and(Frames::are_whole);
        if may {
            self.bytes.extend_from_slice(goodbye);
        }
        may
    }

    /// Moves what can be moved at once. Ready once this half is over.
    fn poll(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failing>> {
        loop {
            while !self.bytes.is_empty() {
                let count = match Pin::new(&mut *to).poll_write(cx, &self.bytes) {
                    Poll::Ready(count) => count.and_then(some).map_err(|_| Failing::Listener)?,
                    Poll::Pending => {
                        self.waits.get_or_insert_with(Instant::now);
                        return Poll::Pending;
                    }
                };
                self.waits = None;
                self.flushed = false;
                self.bytes.advance(count);
                self.moved += count as u64;
            }
            if !self.flushed {
                // An idle tunnel holds no buffer.
                self.bytes = BytesMut::new();
                match Pin::new(&mut *to).poll_flush(cx) {
                    Poll::Ready(flushed) => flushed.map_err(|_| Failing::Listener)?,
                    Poll::Pending => {
                        self.waits.get_or_insert_with(Instant::now);
                        return Poll::Pending;
                    }
                }
                self.waits = None;
                self.flushed = true;
            }
            if self.ended {
                if !self.shut {
                    // Whoever listens may be gone, and has nothing left to hear.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            match ready!(scratch::poll_read(Pin::new(&mut *from), cx, &mut self.bytes)) {
                Ok(0) => self.ended = true,
                Ok(_) => {
                    if let Some(frames) = &mut self.frames {
                        frames.pass(&self.bytes);
                    }
                }
                Err(_) => return Poll::Ready(Err(Failing::Speaker)),
            }
        }
    }
}

enum Failing {
    Speaker,
    Listener,
}

fn some(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
}

/// Moves both halves on. Ready with `true` once both are over, with `false` once something was moved or a half has ended.
fn turn(
    inbound: &mut Half,
    outbound: &mut Half,
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    backend: &mut (impl AsyncRead + AsyncWrite + Unpin),
    began: u64,
    cx: &mut Context<'_>,
) -> Poll<Result<bool, Side>> {
    let over = (inbound.shut, outbound.shut);
    if let Poll::Ready(Err(failing)) = inbound.poll(client, backend, cx) {
        return Poll::Ready(Err(match failing {
            Failing::Speaker => Side::Client,
            Failing::Listener => Side::Backend,
        }));
    }
    if let Poll::Ready(Err(failing)) = outbound.poll(backend, client, cx) {
        return Poll::Ready(Err(match failing {
            Failing::Speaker => Side::Backend,
            Failing::Listener => Side::Client,
        }));
    }
    if inbound.shut && outbound.shut {
        return Poll::Ready(Ok(true));
    }
    let moved = inbound.moved + outbound.moved > began || (inbound.shut, outbound.shut) != over;
    if moved { Poll::Ready(Ok(false)) } else { Poll::Pending }
}
