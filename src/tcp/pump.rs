//! Bytes both ways between two ends, each half by itself, until both are over.
//!
//! What one end has sent is in the other's socket before more is read of it, so that whoever reads slowly slows its peer down and nothing
//! piles up here: at most [`SIZE`] bytes a direction, and none while nothing waits. An end that closes its half is heard by the other,
//! which may go on for as long as it says something; one that breaks off breaks the other off, and so does one whose TLS ends without the
//! word that belongs to its end. Where there is a rate, what is over it is not read ([`Pace`]).

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::tls::SslStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::pace::{Bandwidth, Pace};
use crate::upstream::call::{Transport, is_cut_off};

/// The most that is read at once, and held of one direction.
pub const SIZE: usize = 32 * 1024;

/// So often one direction is served before it is the other's turn, and that of other connections.
const TURN: usize = 16;
/// How long the end that is left may take to read what it was sent, once the other one is gone.
const LINGER: Duration = Duration::from_secs(5);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SIZE].into_boxed_slice());
}

/// How long it may go on.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// While nothing moves.
    pub idle: Duration,
    /// The same, once one end has ended and only the other one may still speak.
    pub half_closed: Duration,
    /// Until then, whatever moves.
    pub until: Option<Instant>,
}

/// One of the two ends.
pub trait Side: AsyncRead + AsyncWrite + Unpin {
    /// Whether it was cut off, once there is nothing more to read: anybody on the way can end a TCP connection, and only in TLS does an end
    /// have a word of its own.
    fn is_cut_off(&self) -> bool;
}

impl Side for TcpStream {
    fn is_cut_off(&self) -> bool {
        false
    }
}

impl Side for SslStream<L4Stream> {
    fn is_cut_off(&self) -> bool {
        is_cut_off(self.ssl())
    }
}

impl Side for Transport {
    fn is_cut_off(&self) -> bool {
        Transport::is_cut_off(self)
    }
}

/// Why it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both ends have ended, the client first.
    ClientClosed,
    /// Both ends have ended, the service first.
    ServiceClosed,
    ClientReset,
    ServiceReset,
    /// The client's TLS ended without `close_notify`.
    ClientCutOff,
    /// The service's did.
    ServiceCutOff,
    Idle,
    /// One end had ended, and the other one said nothing more and did not end.
    HalfClosed,
    Lifetime,
    /// The service's endpoint is not well.
    Unhealthy,
    /// The process ends.
    Cut,
}

impl End {
    /// A stable word for the log and the metrics.
    pub fn reason(self) -> &'static str {
        match self {
            End::ClientClosed => "client_closed",
            End::ServiceClosed => "service_closed",
            End::ClientReset => "client_reset",
            End::ServiceReset => "service_reset",
            End::ClientCutOff => "client_cut_off",
            End::ServiceCutOff => "service_cut_off",
            End::Idle => "idle_timeout",
            End::HalfClosed => "half_closed_timeout",
            End::Lifetime => "lifetime",
            End::Unhealthy => "endpoint_unhealthy",
            End::Cut => "shutdown",
        }
    }

    /// Whether both ends have said all that they wanted to.
    pub fn is_whole(self) -> bool {
        matches!(self, End::ClientClosed | End::ServiceClosed)
    }
}

/// Carries bytes until it is over. `first` was read of the client already. `moved` hears of every progress how many bytes more came of the
/// client and how many went to it; `cut` ends it, and says why.
pub async fn carry(
    client: &mut impl Side,
    service: &mut impl Side,
    first: &[u8],
    bounds: Bounds,
    bandwidth: Bandwidth,
    cut: impl Future<Output = End>,
    mut moved: impl FnMut(u64, u64),
) -> End {
    let mut since = Instant::now();
    let mut inbound = Half { held: BytesMut::from(first), pace: Pace::of(bandwidth.upload, since), ..Half::default() };
    let mut outbound = Half { pace: Pace::of(bandwidth.download, since), ..Half::default() };
    if let Some(pace) = &mut inbound.pace {
        pace.took(first.len());
    }
    let mut lingers_until = None;
    let mut silence = bounds.idle;
    let mut timer = pin!(tokio::time::sleep_until(bounds.due(since + silence, None)));
    let mut cut = pin!(cut);
    let mut first_to_end = None;
    poll_fn(|cx| {
        let (before, state) = ((inbound.moved, outbound.moved), (inbound.state(), outbound.state()));
        let failed = match inbound.poll(client, service, cx) {
            Poll::Ready(Err(Failing::Speaker)) => Some(End::ClientReset),
            Poll::Ready(Err(Failing::CutOff)) => Some(End::ClientCutOff),
            _ => None,
        };
        if inbound.ended {
            first_to_end.get_or_insert(End::ClientClosed);
        }
        let failed = failed.or_else(|| match outbound.poll(service, client, cx) {
            Poll::Ready(Err(Failing::Speaker)) => Some(End::ServiceReset),
            Poll::Ready(Err(Failing::CutOff)) => Some(End::ServiceCutOff),
            _ => None,
        });
        if outbound.ended {
            first_to_end.get_or_insert(End::ServiceClosed);
        }
        let progress = (inbound.moved - before.0, outbound.moved - before.1);
        if progress != (0, 0) {
            moved(progress.0, progress.1);
        }
        if let Some(end) = failed {
            return Poll::Ready(end);
        }
        if inbound.shut && outbound.shut {
            return Poll::Ready(first_to_end.unwrap_or(End::ClientClosed));
        }
        if let Poll::Ready(end) = cut.as_mut().poll(cx) {
            return Poll::Ready(end);
        }
        if progress != (0, 0) || (inbound.state(), outbound.state()) != state {
            since = Instant::now();
            // Less patience than before: the timer may be set too late for it.
            if (inbound.ended || outbound.ended) && silence != bounds.half_closed {
                silence = bounds.half_closed;
                timer.as_mut().reset(bounds.due(since + silence, lingers_until));
            }
            // One end has said all, and hears nothing more: the other one is only waited for so that it can read what it was sent.
            if lingers_until.is_none() && (inbound.deaf && outbound.shut || outbound.deaf && inbound.shut) {
                lingers_until = Some(since + LINGER);
                timer.as_mut().reset(bounds.due(since + silence, lingers_until));
            }
        }
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if lingers_until.is_some_and(|until| until <= now) {
                return Poll::Ready(first_to_end.unwrap_or(End::ClientClosed));
            }
            if bounds.until.is_some_and(|until| until <= now) {
                return Poll::Ready(End::Lifetime);
            }
            if since + silence <= now {
                return Poll::Ready(if inbound.ended || outbound.ended { End::HalfClosed } else { End::Idle });
            }
            // One timer for as long as the connection lasts, and not one for each movement.
            timer.as_mut().reset(bounds.due(since + silence, lingers_until));
        }
        Poll::Pending
    })
    .await
}

impl Bounds {
    /// When to look at the clock next.
    fn due(&self, silent_until: Instant, lingers_until: Option<Instant>) -> Instant {
        [self.until, lingers_until].into_iter().flatten().fold(silent_until, Instant::min)
    }
}

/// One direction.
#[derive(Default)]
struct Half {
    /// What was read and could not be written at once.
    held: BytesMut,
    /// Bytes were written and may still be held back below.
    unflushed: bool,
    /// Whoever speaks here has ended.
    ended: bool,
    /// And whoever listens was told.
    shut: bool,
    /// Whoever listens takes nothing more.
    deaf: bool,
    moved: u64,
    pace: Option<Pace>,
}

/// Whose end failed.
enum Failing {
    Speaker,
    /// The speaker's, which looks like an end and is none.
    CutOff,
    Listener,
}

impl Half {
    fn state(&self) -> (bool, bool, bool) {
        (self.ended, self.shut, self.deaf)
    }

    /// Moves what can be moved at once. Where whoever listens takes nothing more, what comes is read and dropped: a connection that is
    /// closed with something unread is reset, and takes with it what its other end has not read yet.
    fn poll(&mut self, from: &mut impl Side, to: &mut impl Side, cx: &mut Context<'_>) -> Poll<Result<(), Failing>> {
        if self.shut {
            return Poll::Ready(Ok(()));
        }
        if !self.deaf {
            let polled = self.move_on(from, to, cx);
            if !matches!(polled, Poll::Ready(Err(Failing::Listener))) {
                return polled;
            }
            self.deaf = true;
            self.held = BytesMut::new();
        }
        while !self.ended {
            self.ended = ready!(SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer)).map_err(|_| Failing::Speaker)?;
                Poll::Ready(Ok::<_, Failing>(buffer.filled().is_empty()))
            }))?;
        }
        self.shut = true;
        Poll::Ready(Ok(()))
    }

    fn move_on(&mut self, from: &mut impl Side, to: &mut impl Side, cx: &mut Context<'_>) -> Poll<Result<(), Failing>> {
        for _ in 0..TURN {
            while !self.held.is_empty() {
                let count = ready!(self.write(to, None, cx))?;
                self.held.advance(count);
            }
            // A connection on which nothing waits holds no buffer.
            if self.held.capacity() > 0 {
                self.held = BytesMut::new();
            }
            if self.unflushed {
                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| Failing::Listener)?;
                self.unflushed = false;
            }
            if self.ended {
                // Whoever listens may be gone, and has nothing left to hear.
                let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                self.shut = true;
                return Poll::Ready(Ok(()));
            }
            let most = match &mut self.pace {
                Some(pace) => ready!(pace.poll(cx)),
                None => SIZE,
            };
            ready!(SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch.get_mut(..most).unwrap_or_default());
                ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer)).map_err(|_| Failing::Speaker)?;
                let mut read = buffer.filled();
                if let Some(pace) = &mut self.pace {
                    pace.took(read.len());
                }
                if read.is_empty() && from.is_cut_off() {
                    return Poll::Ready(Err(Failing::CutOff));
                }
                self.ended = read.is_empty();
                while !read.is_empty() {
                    match self.write(to, Some(read), cx) {
                        Poll::Ready(count) => read = read.get(count?..).unwrap_or_default(),
                        Poll::Pending => {
                            self.held.extend_from_slice(read);
                            break;
                        }
                    }
                }
                Poll::Ready(Ok::<_, Failing>(()))
            }))?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes some of these bytes, or else of those that are held.
    fn write(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        bytes: Option<&[u8]>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Failing>> {
        let bytes = bytes.unwrap_or(&self.held);
        let written = ready!(Pin::new(&mut *to).poll_write(cx, bytes)).and_then(some);
        let count = written.map_err(|_| Failing::Listener)?;
        self.unflushed = true;
        self.moved += count as u64;
        Poll::Ready(Ok(count))
    }
}

fn some(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
}
