//! The transport of an HTTP/2 connection, read in turns, and watched for streams that the library resets on its own.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pingora_core::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::observe::seldom::{Seldom, and_more};
use crate::snapshot::ActiveListener;
use crate::wire::frames::Frames;
use crate::wire::turn::InTurns;

pub struct Watched {
    stream: InTurns<Stream>,
    frames: Frames,
    door: Arc<ActiveListener>,
    client: SocketAddr,
}

impl Watched {
    pub fn new(stream: Stream, door: Arc<ActiveListener>, client: SocketAddr) -> Self {
        Watched { stream: InTurns::new(stream), frames: Frames::default(), door, client }
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let Watched { frames, door, client, .. } = self;
        frames.wrote(bytes, |code| {
            if let Some(reason) = refusal(code) {
                refused(door, *client, reason);
            }
        });
    }
}

/// What a reset says of the request that was refused with it; `None` for those that refuse none (RFC 9113, section 7).
fn refusal(code: u32) -> Option<&'static str> {
    match code {
        1 => Some("h2_malformed_request"),
        3 => Some("h2_flow_control"),
        5 => Some("h2_stream_closed"),
        7 => Some("h2_too_many_streams"),
        11 => Some("h2_too_much"),
        _ => None,
    }
}

/// Counts what the HTTP/2 layer refused before there was a request, and tells of it.
pub fn refused(door: &ActiveListener, client: SocketAddr, reason: &'static str) {
    static LINES: Seldom = Seldom::every(1);
    door.metrics.refused(reason);
    if let Some(held_back) = LINES.allow() {
        log::warn!("listener {}: HTTP/2 of {client} refused: {reason}{}", door.name, and_more(held_back));
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let watched = self.get_mut();
        let written = Pin::new(&mut watched.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = written {
            watched.wrote(bytes.get(..count).unwrap_or_default());
        }
        written
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let watched = self.get_mut();
        let written = Pin::new(&mut watched.stream).poll_write_vectored(cx, parts);
        if let Poll::Ready(Ok(mut left)) = written {
            for part in parts {
                let count = left.min(part.len());
                watched.wrote(part.get(..count).unwrap_or_default());
                left -= count;
            }
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
