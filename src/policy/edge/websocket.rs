//! `websocket`: what WebSockets of a route may do, from which pages they are opened, and how long they may be silent.
//!
//! The handshake is a request like any other, which every policy judges; here is what comes after it. The tunnel obeys
//! ([`crate::forward`]): frames are looked at by their heads, and payloads pass as they came.
//!
//! Deliberately not here: how many there may be at once (`concurrency_limit`), and how long a service may take to accept one
//! (`timeouts.response`).

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::origin::{self, Origins};
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::policy::{Compile, OnRequest, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::value::{OneOrMany, Period, Rate, Size, Spanned, period_within};
use crate::wire::websocket::{Law, Speaker};

const SECOND: u64 = 1000;
const HOUR: u64 = 3_600_000;
const PONG: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WebSocketConfig {
    /// The origins whose pages may open WebSockets, written as the `origins` of `cors`. A handshake from any other is refused with 403. Clients
    /// that send no `Origin` are no browsers, and are not held to this. Default: any; `csrf` refuses what comes from elsewhere than the
    /// gateway's own pages.
    pub origins: Option<OneOrMany<Spanned<String>>>,
    /// The longest message that a client may send, all its fragments together, as it is on the wire: compressed where the two ends have
    /// agreed on that. Both ends are closed with 1009 for a longer one, of which nothing more is passed on. Default: any.
    pub max_message: Option<Spanned<Size>>,
    /// The same for messages of the service.
    pub max_service_message: Option<Spanned<Size>>,
    /// How many messages a client may send, such as `100/s`; so many at once if it was silent for that long. Pings count, and so do empty
    /// fragments, but not the fragments of a message. Both ends are closed with 1008 for more. Default: any.
    pub messages: Option<Spanned<Rate>>,
    /// How long there may be no message either way, 1s to 1d, pings aside. Both ends are then closed with 1001. Default: the service's
    /// `timeouts.stream` alone, which any byte satisfies.
    pub idle: Option<Spanned<Period>>,
    /// Asks each end that has said nothing for so long whether it is there, 1s to 1h: quiet connections stay known to the networks between,
    /// and the dead are found. The answer is not passed on. Default: nobody is asked.
    pub ping: Option<Spanned<Period>>,
    /// How long an answer to a ping may take, 1s to 1h. After that the end is given up, and the other one is closed with 1001. Default: 20s.
    pub pong: Option<Spanned<Period>>,
}

/// The compiled policy.
pub struct WebSocket {
    origins: Option<Origins>,
    max_message: Option<u64>,
    max_service_message: Option<u64>,
    messages: Option<Rate>,
    pub idle: Option<Duration>,
    pub ping: Option<Duration>,
    pub pong: Duration,
}

impl WebSocket {
    /// What holds for the frames of one end.
    pub fn law(&self, from: Speaker, extensions: bool) -> Law {
        match from {
            Speaker::Client => {
                let rate = self.messages.map(|rate| (rate.count, rate.per));
                Law::new(from, extensions, self.max_message, rate)
            }
            Speaker::Service => Law::new(from, extensions, self.max_service_message, None),
        }
    }
}

impl OnRequest for WebSocket {
    fn on_request(&self, head: &RequestHead, _: &mut Exchange) -> Flow {
        let Some(origins) = self.origins.as_ref().filter(|_| head.upgrade && head.header("origin").is_some()) else {
            return Flow::Continue(());
        };
        if !origin::of(head).is_some_and(|origin| origins.contain(origin)) {
            let detail = "Pages of this origin may not open WebSockets here.";
            return Reply::new(StatusCode::FORBIDDEN, Self::NAME, "origin", detail).refuse();
        }
        Flow::Continue(())
    }
}

impl Policy for WebSocket {
    const NAME: &'static str = "websocket";
    const STAGE: Stage = Stage::Edge;
    const SUMMARY: &'static str = "Bounds WebSockets: origins (403), messages and their rate, silence; pings, and checks frames (closes with 1001, 1002, 1008, 1009).";
    type Config = WebSocketConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let before = cx.problems.len();
        let origins = config.origins.as_ref().map(|origins| Origins::compile(origins, &[], cx.problems));
        if config.origins.as_ref().is_some_and(|origins| origins.is_empty()) {
            cx.problems.push(Problem::error(cx.place, "an empty list of origins would refuse every browser"));
        }
        let mut size = |size: &Option<Spanned<Size>>, name: &str| {
            let size = size.as_ref()?;
            if size.value.0 == 0 {
                cx.problems.push(Problem::error(size.place, format!("`{name}` of 0 would refuse every message")));
            }
            Some(size.value.0)
        };
        let max_message = size(&config.max_message, "max_message");
        let max_service_message = size(&config.max_service_message, "max_service_message");
        let mut period = |period: &Option<Spanned<Period>>, name: &str, most: u64| {
            period.as_ref().and_then(|period| period_within(name, period, SECOND, most, cx.problems))
        };
        let idle = period(&config.idle, "idle", 24 * HOUR);
        let ping = period(&config.ping, "ping", HOUR);
        let pong = period(&config.pong, "pong", HOUR);
        if let (Some(pong), None) = (&config.pong, &config.ping) {
            cx.problems.push(Problem::error(pong.place, "`pong` without `ping`: nobody is asked").hint("add `ping: 30s`"));
        }
        let messages = config.messages.as_ref().map(|rate| rate.value);
        let policy = WebSocket { origins, max_message, max_service_message, messages, idle, ping, pong: pong.unwrap_or(PONG) };
        (cx.problems.len() == before).then_some(policy)
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.options().websocket = Some(self.clone());
        if self.origins.is_some() {
            plan.on_request(self);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::testing::{compile, complaint};

    fn asks(policy: &WebSocket, origins: &[&str], upgrade: bool) -> Option<u16> {
        let fields: Vec<_> = [("Host", "a")].into_iter().chain(origins.iter().map(|origin| ("Origin", *origin))).collect();
        let mut head = RequestHead::build("GET", "/", &fields);
        head.upgrade = upgrade;
        policy.on_request(&head, &mut Exchange::for_tests()).break_value().map(|reply| reply.status.as_u16())
    }

    #[test]
    fn pages_of_other_origins_open_no_websockets() {
        let policy = compile::<WebSocket>(json!({ "origins": ["https://shop.example.com", "http://*.test:8080"] })).unwrap();
        for origin in ["https://shop.example.com", "http://a.test:8080", "http://a.b.test:8080"] {
            assert_eq!(asks(&policy, &[origin], true), None, "{origin}");
        }
        for origin in [
            "http://shop.example.com",
            "https://example.com",
            "https://evil-shop.example.com",
            "https://shop.example.com.evil.test",
            "https://shop.example.com:8443",
            "http://test:8080",
            "http://a.test",
            "null",
            "",
            "https://",
        ] {
            assert_eq!(asks(&policy, &[origin], true), Some(403), "{origin}");
        }
        assert_eq!(asks(&policy, &["https://shop.example.com", "https://evil.test"], true), Some(403));
        assert_eq!(asks(&policy, &[], true), None, "no browser");
        assert_eq!(asks(&policy, &["https://evil.test"], false), None, "no WebSocket");
        assert_eq!(asks(&compile::<WebSocket>(json!({})).unwrap(), &["https://evil.test"], true), None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(complaint::<WebSocket>(json!({ "origins": [] })).contains("empty"));
        for origin in ["shop.example.com", "https://shop.example.com/", "https://", "https://*"] {
            assert!(complaint::<WebSocket>(json!({ "origins": [origin] })).contains("origin"), "{origin}");
        }
        assert!(complaint::<WebSocket>(json!({ "max_message": 0 })).contains("max_message"));
        assert!(complaint::<WebSocket>(json!({ "ping": "10ms" })).contains("ping"));
        assert!(complaint::<WebSocket>(json!({ "pong": "10s" })).contains("nobody is asked"));
        assert!(complaint::<WebSocket>(json!({ "max_messages": 1 })).contains("unknown field"));
    }
}
