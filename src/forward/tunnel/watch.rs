//! Who is asked whether it is there, and how long nobody may speak.

use std::time::Duration;

use tokio::time::Instant;

use super::half::Half;
use crate::exchange::Verdict;
use crate::policy::edge::websocket::WebSocket;
use crate::wire::websocket::{Speaker, ping};

/// How soon an end is asked that could not be asked in the middle of a frame.
const AGAIN: Duration = Duration::from_secs(1);

/// What a route's policy says of silence, and since when there is some.
pub struct Care {
    idle: Option<Duration>,
    ping: Option<Duration>,
    pong: Duration,
    /// When there was a message last.
    spoke: Instant,
    client: Pulse,
    service: Pulse,
}

/// When an end was heard last, and since when its answer is awaited.
struct Pulse {
    heard: Instant,
    asked: Option<Instant>,
}

/// What is to be done about it.
pub enum Watch {
    /// Nothing, for so long.
    For(Duration),
    /// The tunnel is over, for this reason.
    End(Verdict),
}

impl Pulse {
    /// What was heard is an answer, whatever it is. How long to wait before this is to be looked at again; `None` if the time for an answer
    /// is over.
    fn look(
        &mut self,
        now: Instant,
        often: Duration,
        pong: Duration,
        from: &mut Half,
        to: &mut Half,
        as_whom: Speaker,
    ) -> Option<Duration> {
        // An end whose words the other one does not take is not read, and its answer could not be heard: how long that may last is for the
        // bound of writing.
        if std::mem::take(&mut from.heard) | from.waits() {
            (self.heard, self.asked) = (now, None);
        }
        if from.ended {
            // It has said that it will say nothing more.
            return Some(Duration::MAX);
        }
        if let Some(asked) = self.asked {
            return Some(pong.saturating_sub(now.duration_since(asked))).filter(|left| !left.is_zero());
        }
        let left = often.saturating_sub(now.duration_since(self.heard));
        if !left.is_zero() {
            return Some(left);
        }
        if !to.say(&ping(as_whom)) {
            return Some(AGAIN);
        }
        from.pongs += 1;
        self.asked = Some(now);
        Some(pong)
    }
}

impl Care {
    pub fn new(rules: &WebSocket) -> Self {
        let now = Instant::now();
        let pulse = || Pulse { heard: now, asked: None };
        Care { idle: rules.idle, ping: rules.ping, pong: rules.pong, spoke: now, client: pulse(), service: pulse() }
    }

    /// Looks after both ends, and asks who is due to be asked.
    pub fn look(&mut self, now: Instant, inbound: &mut Half, outbound: &mut Half) -> Watch {
        if std::mem::take(&mut inbound.spoke) | std::mem::take(&mut outbound.spoke) {
            self.spoke = now;
        }
        let mut time = Duration::MAX;
        if let Some(idle) = self.idle {
            let left = idle.saturating_sub(now.duration_since(self.spoke));
            if left.is_zero() {
                return Watch::End(Verdict { policy: "websocket", reason: "idle" });
            }
            time = left;
        }
        if let Some(often) = self.ping {
            let Care { client, service, pong, .. } = self;
            match client.look(now, often, *pong, inbound, outbound, Speaker::Service) {
                Some(left) => time = time.min(left),
                None => return Watch::End(Verdict { policy: "websocket", reason: "client_silent" }),
            }
            match service.look(now, often, *pong, outbound, inbound, Speaker::Client) {
                Some(left) => time = time.min(left),
                None => return Watch::End(Verdict { policy: "websocket", reason: "service_silent" }),
            }
        }
        Watch::For(time)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use bytes::BytesMut;
    use tokio::io::AsyncWrite;

    use super::*;
    use crate::wire::websocket::Law;

    /// Takes nothing, until it is `true`.
    struct Listener(bool);

    impl AsyncWrite for Listener {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
            if self.0 { Poll::Ready(Ok(bytes.len())) } else { Poll::Pending }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn an_end_that_is_not_read_is_not_called_silent() {
        const OFTEN: Duration = Duration::from_secs(10);
        const PONG: Duration = Duration::from_secs(5);
        let half = |from| Half::new(BytesMut::new(), Some(Law::new(from, false, None, None)));
        let (mut inbound, mut outbound) = (half(Speaker::Client), half(Speaker::Service));
        let began = Instant::now();
        let mut pulse = Pulse { heard: began, asked: None };
        let mut look =
            |after, inbound: &mut Half| pulse.look(began + after, OFTEN, PONG, inbound, &mut outbound, Speaker::Service);
        assert_eq!(look(OFTEN, &mut inbound), Some(PONG), "it is asked");
        // Its answer stands behind what the other end does not take.
        let mut cx = Context::from_waker(Waker::noop());
        let (mut said, mut to) = (&[0x81, 0x80, 0, 0, 0, 0][..], Listener(false));
        let _ = inbound.poll(&mut said, &mut to, &mut cx);
        assert!(inbound.waits());
        assert_eq!(look(OFTEN * 2, &mut inbound), Some(OFTEN));
        assert_eq!(look(OFTEN * 3, &mut inbound), Some(OFTEN));
        assert_eq!(look(OFTEN * 4, &mut inbound), Some(OFTEN));
        // It is read again: from now on its silence counts.
        to.0 = true;
        let _ = inbound.poll(&mut tokio::io::repeat(0), &mut to, &mut cx);
        assert!(!inbound.waits() && inbound.heard);
        assert_eq!(look(OFTEN * 5, &mut inbound), Some(OFTEN));
        assert_eq!(look(OFTEN * 6, &mut inbound), Some(PONG));
        assert_eq!(look(OFTEN * 6 + PONG, &mut inbound), None);
    }
}
