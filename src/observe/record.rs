//! What a request leaves in the access log.
//!
//! A record borrows everything, for it is written out on the spot: nothing is allocated, and no reference count that other
//! cores use as well is touched. Headers and bodies are deliberately not in it, nor is the query unless it was asked for: they
//! carry credentials.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::json::{Member, Object, STAMP, member};
use crate::address::EndpointAddress;
use crate::exchange::Stage;

/// The most bytes of each text that are logged. What is longer is cut, which an ellipsis shows.
const METHOD: usize = 32;
const HOST: usize = 256;
const PATH: usize = 2 * 1024;
const USER_AGENT: usize = 256;
/// Identifiers: request and trace ids, names from the configuration, a token's subject.
pub(super) const NAME: usize = 256;
/// The states of 32 parts.
const PARTS: usize = 2 * 1024;
/// How long a line commonly is at most.
const COMMON: usize = 1024;

/// One request, refused or not. Texts that are empty and options that are `None` are left out of the line.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// When the request's first byte arrived.
    pub time: SystemTime,
    pub request_id: &'a [u8],
    /// The 32 digits of the trace; see [`trace_id`].
    pub trace_id: &'a [u8],
    /// The real client.
    pub client: Option<IpAddr>,
    /// The other end of the socket.
    pub peer: Option<SocketAddr>,
    pub listener: &'a str,
    /// `h1` or `h2`.
    pub protocol: &'static str,
    /// `TLSv1.3`; empty without TLS.
    pub tls: &'static str,
    pub host: &'a [u8],
    pub method: &'a [u8],
    pub path: &'a [u8],
    /// Without the `?`. Logged only if the configuration says so, whatever is given here.
    pub query: &'a [u8],
    pub route: &'a str,
    /// The operation of a document of OpenAPI.
    pub operation: &'a str,
    pub service: &'a str,
    pub endpoint: Option<EndpointAddress>,
    pub consumer: &'a str,
    /// A token's `sub`.
    pub subject: &'a str,
    /// Which credential it was, never the secret: an API key's id, a token's issuer, a certificate's fingerprint.
    pub credential: &'a str,
    /// 0: the client was gone before there was one.
    pub status: u16,
    /// The method of gRPC's that a request was made into.
    pub grpc_method: &'a str,
    /// How a gRPC call ended, if it came to that.
    pub grpc_status: Option<u32>,
    /// `upstream`, `cache`, a policy's name, `door` ...
    pub answered_by: &'static str,
    /// Why it was refused, as a stable word.
    pub reason: &'static str,
    /// Which rule, limit, scope ... refused it, in the configuration's words.
    pub decided_by: &'a str,
    /// Lines of this client's refusals that were left out before this one.
    pub suppressed: u64,
    /// The client went away in the middle of its answer.
    pub client_closed: bool,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// From the first byte in to the last byte out.
    pub duration: Duration,
    /// From the request's last byte sent to the backend to its answer's head.
    pub upstream: Option<Duration>,
    /// From the first byte in to the last byte of the request's body.
    pub upload: Option<Duration>,
    /// Time in each stage, indexed by `Stage as usize`.
    pub stages: [Duration; 6],
    /// Attempts beyond the first.
    pub retries: u32,
    /// Why, one after the other.
    pub retried_for: &'a str,
    /// What came of a second copy: `won` or `lost`.
    pub hedge: &'static str,
    /// `hit`, `miss`, `stale` ...
    pub cache: &'static str,
    /// `memory`, `disk` or `redis`, of what was stored.
    pub cache_tier: &'static str,
    /// What stood in for the service's answer: `static` or `service`.
    pub fallback: &'static str,
    /// Which view of the route.
    pub view: &'a str,
    /// What became of the parts of a composed answer.
    pub parts: &'a str,
    /// `delay`, `abort`: what was injected on purpose.
    pub fault: &'static str,
    /// A WebSocket's messages from the client and to it, the code that it was closed with, and who closed it.
    pub tunnelled: Option<(u64, u64, Option<u16>, &'static str)>,
    pub user_agent: &'a [u8],
    /// The configuration's generation that served it.
    pub generation: u64,
}

impl Default for Record<'_> {
    fn default() -> Self {
        Record {
            time: UNIX_EPOCH,
            request_id: b"",
            trace_id: b"",
            client: None,
            peer: None,
            listener: "",
            protocol: "",
            tls: "",
            host: b"",
            method: b"",
            path: b"",
            query: b"",
            route: "",
            operation: "",
            service: "",
            endpoint: None,
            consumer: "",
            subject: "",
            credential: "",
            status: 0,
            grpc_method: "",
            grpc_status: None,
            answered_by: "",
            reason: "",
            decided_by: "",
            suppressed: 0,
            client_closed: false,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            upstream: None,
            upload: None,
            stages: [Duration::ZERO; 6],
            retries: 0,
            retried_for: "",
            hedge: "",
            cache: "",
            cache_tier: "",
            fallback: "",
            view: "",
            parts: "",
            fault: "",
            tunnelled: None,
            user_agent: b"",
            generation: 0,
        }
    }
}

/// The trace id within a `traceparent` (`00-<trace>-<span>-<flags>`).
pub fn trace_id(traceparent: &[u8; 55]) -> &[u8] {
    traceparent.get(3..35).unwrap_or_default()
}

/// What can be logged.
pub trait Line {
    /// Appends the line, its newline included. `query`: whether queries are to be in it.
    fn write(&self, out: &mut Vec<u8>, clock: &mut Clock, query: bool);
}

impl Line for Record<'_> {
    /// At most 48 KiB where a client aims for it, and commonly 500 bytes.
    fn write(&self, out: &mut Vec<u8>, clock: &mut Clock, query: bool) {
        out.reserve(COMMON);
        let mut line = Object::open(out);
        line.stamp(member!("time"), clock.stamp(self.time));
        line.text(member!("request_id"), self.request_id, NAME);
        line.text(member!("trace_id"), self.trace_id, NAME);
        self.write_connection(&mut line);
        self.write_request(&mut line, query);
        self.write_answer(&mut line);
        self.write_times(&mut line);
        line.text(member!("user_agent"), self.user_agent, USER_AGENT);
        line.number(member!("generation"), self.generation);
        line.close();
        out.push(b'\n');
    }
}

impl Record<'_> {
    fn write_connection(&self, line: &mut Object<'_>) {
        if let Some(client) = self.client {
            line.ip(member!("client"), client);
        }
        if let Some(peer) = self.peer {
            line.address(member!("peer"), peer);
        }
        line.text(member!("listener"), self.listener.as_bytes(), NAME);
        line.word(member!("protocol"), self.protocol);
        line.word(member!("tls"), self.tls);
    }

    fn write_request(&self, line: &mut Object<'_>, query: bool) {
        line.text(member!("host"), self.host, HOST);
        line.text(member!("method"), self.method, METHOD);
        line.text(member!("path"), self.path, PATH);
        if query {
            line.text(member!("query"), self.query, PATH);
        }
        line.text(member!("route"), self.route.as_bytes(), NAME);
        line.text(member!("operation"), self.operation.as_bytes(), NAME);
        line.text(member!("service"), self.service.as_bytes(), NAME);
        write_endpoint(line, self.endpoint);
        line.text(member!("consumer"), self.consumer.as_bytes(), NAME);
        line.text(member!("subject"), self.subject.as_bytes(), NAME);
        line.text(member!("credential"), self.credential.as_bytes(), NAME);
    }

    fn write_answer(&self, line: &mut Object<'_>) {
        line.number(member!("status"), self.status.into());
        line.text(member!("grpc_method"), self.grpc_method.as_bytes(), NAME);
        if let Some(status) = self.grpc_status {
            line.number(member!("grpc_status"), status.into());
        }
        line.word(member!("answered_by"), self.answered_by);
        line.word(member!("reason"), self.reason);
        line.text(member!("decided_by"), self.decided_by.as_bytes(), NAME);
        if self.suppressed > 0 {
            line.number(member!("suppressed"), self.suppressed);
        }
        if self.client_closed {
            line.flag(member!("client_closed"));
        }
        line.word(member!("hedge"), self.hedge);
        if !self.cache.is_empty() {
            line.word(member!("cache"), self.cache);
            line.word(member!("cache_tier"), self.cache_tier);
        }
        line.word(member!("fallback"), self.fallback);
        line.text(member!("view"), self.view.as_bytes(), NAME);
        line.text(member!("parts"), self.parts.as_bytes(), PARTS);
        line.word(member!("fault"), self.fault);
        line.number(member!("bytes_in"), self.bytes_in);
        line.number(member!("bytes_out"), self.bytes_out);
        if let Some((messages_in, messages_out, code, closed_by)) = self.tunnelled {
            line.number(member!("messages_in"), messages_in);
            line.number(member!("messages_out"), messages_out);
            if let Some(code) = code {
                line.number(member!("close_code"), code.into());
            }
            line.word(member!("closed_by"), closed_by);
        }
        if self.retries > 0 {
            line.number(member!("retries"), self.retries.into());
            line.text(member!("retried_for"), self.retried_for.as_bytes(), NAME);
        }
    }

    fn write_times(&self, line: &mut Object<'_>) {
        line.number(member!("duration_us"), micros(self.duration));
        if let Some(upstream) = self.upstream {
            line.number(member!("upstream_us"), micros(upstream));
        }
        if let Some(upload) = self.upload {
            line.number(member!("upload_us"), micros(upload));
        }
        let spent = self.stages.map(micros);
        if spent == [0; 6] {
            return;
        }
        let mut stages = line.object(member!("stages_us"));
        for (stage, spent) in Stage::ALL.into_iter().zip(spent).filter(|(_, spent)| *spent > 0) {
            stages.number(stage_member(stage), spent);
        }
        stages.close();
    }
}

fn stage_member(stage: Stage) -> Member {
    match stage {
        Stage::Edge => member!("edge"),
        Stage::Validate => member!("validate"),
        Stage::Authn => member!("authn"),
        Stage::Authz => member!("authz"),
        Stage::Admit => member!("admit"),
        Stage::Shape => member!("shape"),
    }
}

pub(super) fn write_endpoint(line: &mut Object<'_>, endpoint: Option<EndpointAddress>) {
    match endpoint {
        Some(EndpointAddress::Inet(address)) => line.address(member!("endpoint"), address),
        Some(EndpointAddress::Unix(name)) => line.text(member!("endpoint"), name.to_string().as_bytes(), NAME),
        None => {}
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Writes times in RFC 3339, and remembers how the last second looks.
#[derive(Debug)]
pub struct Clock {
    /// `None` before the first call.
    second: Option<u64>,
    /// `2026-11-22T03:12:20.123456Z`, of the last call.
    text: [u8; STAMP],
}

impl Default for Clock {
    fn default() -> Self {
        Clock { second: None, text: *b"1970-01-01T00:00:00.000000Z" }
    }
}

impl Clock {
    /// `2026-11-22T03:12:20.123456Z`. Times before 1970 count as 1970.
    pub(super) fn stamp(&mut self, time: SystemTime) -> &[u8; STAMP] {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            let second = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
            let stamp = jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::MAX);
            for (to, from) in self.text.iter_mut().zip(stamp.strftime("%Y-%m-%dT%H:%M:%S.").to_string().bytes()) {
                *to = from;
            }
        }
        let mut rest = since.subsec_micros();
        // The six digits before the Z, from the last.
        for digit in self.text.iter_mut().rev().skip(1).take(6) {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(record: &Record<'_>, query: bool) -> serde_json::Value {
        let mut out = Vec::new();
        record.write(&mut out, &mut Clock::default(), query);
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(out.last(), Some(&b'\n'));
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_whole_record() {
        let record = Record {
            time: UNIX_EPOCH + Duration::from_micros(1_795_317_140_000_042),
            request_id: b"r-1",
            trace_id: trace_id(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            client: Some([203, 0, 113, 9].into()),
            peer: Some(([192, 0, 2, 1], 4711).into()),
            protocol: "h2",
            host: b"shop.example",
            method: b"GET",
            path: b"/products/\xff\"",
            query: b"token=secret",
            status: 429,
            answered_by: "rate_limit",
            reason: "limited",
            duration: Duration::from_micros(1234),
            upstream: Some(Duration::from_micros(1000)),
            stages: [
                Duration::from_micros(3),
                Duration::ZERO,
                Duration::from_nanos(900),
                Duration::ZERO,
                Duration::ZERO,
                Duration::ZERO,
            ],
            user_agent: &[b'x'; 300],
            generation: 7,
            ..Record::default()
        };
        let read = line(&record, false);
        assert_eq!(read["time"], "2026-11-22T03:12:20.000042Z");
        assert_eq!(read["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(read["client"], "203.0.113.9");
        assert_eq!(read["peer"], "192.0.2.1:4711");
        assert_eq!(read["path"], "/products/\u{fffd}\"");
        assert_eq!(read["status"], 429);
        assert_eq!(read["duration_us"], 1234);
        assert_eq!(read["stages_us"], serde_json::json!({ "edge": 3 }));
        assert_eq!(read["user_agent"].as_str().unwrap().chars().count(), 257);
        for absent in ["query", "service", "retries", "cache", "tls", "endpoint"] {
            assert!(read.get(absent).is_none(), "{absent}");
        }
        assert!(!read.to_string().contains("secret"));
        assert_eq!(line(&record, true)["query"], "token=secret");
    }

    #[test]
    fn an_empty_record_is_a_line() {
        let read = line(&Record::default(), true);
        assert_eq!(read["time"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(read["status"], 0);
    }

    #[test]
    fn the_longest_line_is_bounded() {
        let hostile = vec![1u8; 100_000];
        let name = "\u{1}".repeat(100_000);
        let record = Record {
            request_id: &hostile,
            trace_id: &hostile,
            listener: &name,
            host: &hostile,
            method: &hostile,
            path: &hostile,
            query: &hostile,
            subject: &name,
            credential: &name,
            decided_by: &name,
            user_agent: &hostile,
            ..Record::default()
        };
        let mut out = Vec::new();
        record.write(&mut out, &mut Clock::default(), true);
        assert!(out.len() < 48 * 1024, "{}", out.len());
    }

    #[test]
    fn the_clock_follows_the_second() {
        let mut clock = Clock::default();
        let at = |micros| UNIX_EPOCH + Duration::from_micros(micros);
        assert_eq!(clock.stamp(at(1_999_999)), b"1970-01-01T00:00:01.999999Z");
        assert_eq!(clock.stamp(at(2_000_000)), b"1970-01-01T00:00:02.000000Z");
        assert_eq!(clock.stamp(at(1_000_001)), b"1970-01-01T00:00:01.000001Z");
        assert_eq!(clock.stamp(UNIX_EPOCH - Duration::from_secs(1)), b"1970-01-01T00:00:00.000000Z");
        let _ = clock.stamp(UNIX_EPOCH + Duration::from_secs(u64::MAX >> 2));
    }
}
