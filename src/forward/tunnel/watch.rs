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
        if std::mem::take(&mut from.heard) {
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
