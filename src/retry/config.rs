//! `retries`, of a service or of a route.

use std::fmt;
use std::time::Duration;

use http::{HeaderName, Method};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use super::budget::Allowance;
use super::{Limits, On, Speaks};
use crate::grpc;
use crate::problem::{Place, Problem, Problems, foreign};
use crate::value::{Period, Share, Size, Spanned, StatusRange, count_within, period_within};
use crate::wire::encode::is_hop_by_hop;

const MOST_BUFFER: u64 = 16 << 20;
const MOST_LISTED: usize = 64;

/// When a request is sent a second time, and how often. Whatever fails before anything was sent (`connect`, `refused`) may be repeated with
/// any method; the rest only with `methods`, or where the request carries `idempotency_key`. A request whose body is no longer at hand
/// from its beginning, and one of which the client has had a part of an answer, is never sent again. An upgrade (WebSocket) is repeated
/// for `connect` alone.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetriesConfig {
    /// How many more attempts are made, 0 to 10; each at another endpoint while there is one. Default: 1.
    pub attempts: Spanned<u32>,
    /// For what: `connect` (no connection could be made), `refused` (an HTTP/2 endpoint has said that it did nothing about the request:
    /// `REFUSED_STREAM`, `GOAWAY`), `reset` (the connection or stream ended before an answer), `timeout` (no answer's head within
    /// `timeouts.try` or `timeouts.response`), `gateway_error` (502, 503, 504), statuses (`503`, `5xx`, `502-504`), `retriable_headers`,
    /// and statuses of gRPC that stand in an answer's head: `cancelled`, `unknown`, `deadline_exceeded`, `resource_exhausted`, `aborted`,
    /// `internal`, `unavailable`, `data_loss`. Default: `[connect, refused]`.
    pub on: Spanned<Vec<Spanned<Condition>>>,
    /// Fields of an answer, any of which asks for another attempt. Needs `retriable_headers` in `on`.
    pub retriable_headers: Spanned<Vec<Spanned<String>>>,
    /// The methods that may be repeated after something was sent. Default: those that are idempotent (RFC 9110, section 9.2.2): GET, HEAD,
    /// OPTIONS, TRACE, PUT, DELETE. gRPC calls are `POST`.
    pub methods: Option<Spanned<Vec<Spanned<String>>>>,
    /// A request that carries this field may be repeated whatever its method: its service does the same thing once only for each value.
    /// For example `Idempotency-Key`.
    pub idempotency_key: Option<Spanned<String>>,
    /// How long is waited before an attempt that is not for `connect` or `refused`.
    pub backoff: BackoffConfig,
    /// Where an answer says when to try again (`Retry-After` in seconds, `grpc-retry-pushback-ms`), that long is waited if it is no longer
    /// than this, 0s to 1m; else the answer is passed on. Default: `1s`.
    pub max_retry_after: Spanned<Period>,
    /// How much of a request's body is kept to be sent again, 0 to `16MiB`. Beyond 4 KiB the memory is that of `server.buffered_bytes`.
    /// Default: `64KiB`.
    pub buffer: Spanned<Size>,
    /// The most that retries may add to what the service has to do; without a bound they make a storm of a failure. What is beyond is not
    /// made, and counted. Those for `connect` are free, for they reach nobody.
    pub budget: BudgetConfig,
}

impl Default for RetriesConfig {
    fn default() -> Self {
        let on = [Condition::Connect, Condition::Refused].map(Spanned::nowhere);
        RetriesConfig {
            attempts: Spanned::nowhere(1),
            on: Spanned::nowhere(on.into()),
            retriable_headers: Spanned::nowhere(Vec::new()),
            methods: None,
            idempotency_key: None,
            backoff: BackoffConfig::default(),
            max_retry_after: Spanned::nowhere(Period(Duration::from_secs(1))),
            buffer: Spanned::nowhere(Size(64 << 10)),
            budget: BudgetConfig::default(),
        }
    }
}

/// A random time up to `base`, up to twice `base` before the next attempt, and so on, up to `max` ("full jitter").
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BackoffConfig {
    /// Up to this before the first retry, `0s` to `10s`. Default: `25ms`.
    pub base: Spanned<Period>,
    /// Up to this before any, `base` to `1m`. Default: `250ms`.
    pub max: Spanned<Period>,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        let period = |millis| Spanned::nowhere(Period(Duration::from_millis(millis)));
        BackoffConfig { base: period(25), max: period(250) }
    }
}

/// Per service, over ten seconds, and for all its routes together.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetConfig {
    /// So many retries for the requests that there are, `0%` to `100%`. Default: `20%`.
    pub share: Spanned<Share>,
    /// So many a second beside that, for services with few requests, 0 to 100000. Default: 10.
    pub min_per_second: Spanned<u32>,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        BudgetConfig { share: Spanned::nowhere(Share::percent(20)), min_per_second: Spanned::nowhere(10) }
    }
}

impl BudgetConfig {
    /// Where it is written, if it is.
    pub fn place(&self) -> Option<Place> {
        [self.share.place, self.min_per_second.place].into_iter().find(Place::is_known)
    }

    pub fn compile(&self, problems: &mut Problems) -> Option<Allowance> {
        let floor = count_within("min_per_second", &self.min_per_second, 0, 100_000, problems)?;
        Some(Allowance { share: self.share.fraction(), floor: floor.into() })
    }
}

/// What a request is repeated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Connect,
    Refused,
    Reset,
    Timeout,
    RetriableHeaders,
    Statuses(StatusRange),
    /// A status of gRPC.
    Grpc(u8),
}

/// The statuses of gRPC that may be over the next time.
fn codes() -> impl Iterator<Item = (&'static str, u8)> {
    grpc::CODES.into_iter().filter(|(_, code)| matches!(code, 1 | 2 | 4 | 8 | 10 | 13 | 14 | 15))
}

const WORDS: [(&str, Condition); 6] = [
    ("connect", Condition::Connect),
    ("refused", Condition::Refused),
    ("reset", Condition::Reset),
    ("timeout", Condition::Timeout),
    ("gateway_error", Condition::Statuses(StatusRange { first: 502, last: 504 })),
    ("retriable_headers", Condition::RetriableHeaders),
];

/// What others say for them.
const FOREIGN: [(&str, &str); 22] = [
    ("connect-failure", "connect"),
    ("conn-failure", "connect"),
    ("error", "connect"),
    ("refused-stream", "refused"),
    ("refused_stream", "refused"),
    ("gateway-error", "gateway_error"),
    ("per_try_timeout", "timeout"),
    ("response-timeout", "timeout"),
    ("reset-before-request", "connect"),
    ("empty-response", "reset"),
    ("junk-response", "reset"),
    ("disconnect", "reset"),
    ("http_500", "500"),
    ("http_502", "502"),
    ("http_503", "503"),
    ("http_504", "504"),
    ("http_429", "429"),
    ("retriable-headers", "retriable_headers"),
    ("retriable-4xx", "409"),
    ("deadline-exceeded", "deadline_exceeded"),
    ("resource-exhausted", "resource_exhausted"),
    ("retriable-status-codes", "503"),
];

impl Condition {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some((_, known)) = WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*known);
        }
        if let Some((_, code)) = codes().find(|(word, _)| *word == text) {
            return Ok(Condition::Grpc(code));
        }
        if let Some(range) = StatusRange::parse(text) {
            return Ok(Condition::Statuses(range));
        }
        let known: Vec<&str> = WORDS.iter().map(|(word, _)| *word).chain(codes().map(|(word, _)| word)).collect();
        let lower = text.to_ascii_lowercase();
        let near =
            FOREIGN.iter().find(|(word, _)| *word == lower).map(|(_, here)| *here).or_else(|| foreign::word(&lower, &known));
        Err(match near {
            Some(near) => format!("unknown condition `{text}`; did you mean `{near}`?"),
            None => format!("unknown condition `{text}`; known: {}, and statuses such as `503` or `5xx`", known.join(", ")),
        })
    }

    /// Nothing was sent: it is safe with every method.
    fn is_harmless(self) -> bool {
        matches!(self, Condition::Connect | Condition::Refused)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl Visitor<'_> for Word {
            type Value = Condition;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a condition such as `connect`, `gateway_error`, `503` or `unavailable`")
            }

            fn visit_u64<E: Error>(self, status: u64) -> Result<Condition, E> {
                self.visit_str(&status.to_string())
            }

            fn visit_i64<E: Error>(self, status: i64) -> Result<Condition, E> {
                self.visit_str(&status.to_string())
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Condition, E> {
                Condition::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Word)
    }
}

impl JsonSchema for Condition {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RetryCondition".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let words: Vec<&str> = WORDS.iter().map(|(word, _)| *word).chain(codes().map(|(word, _)| word)).collect();
        let statuses = generator.subschema_for::<StatusRange>();
        json_schema!({ "anyOf": [{ "type": "string", "enum": words }, statuses] })
    }
}

impl RetriesConfig {
    /// `None` only if there was a problem.
    pub(super) fn compile(&self, speaks: Speaks, problems: &mut Problems) -> Option<(On, Limits, Allowance)> {
        let before = problems.len();
        let attempts = count_within("attempts", &self.attempts, 0, 10, problems);
        let base = period_within("base", &self.backoff.base, 0, 10_000, problems);
        let max = period_within("max", &self.backoff.max, 0, 60_000, problems);
        if let (Some(base), Some(max)) = (base, max)
            && base > max
        {
            problems.push(Problem::error(self.backoff.max.place, "`backoff.max` is shorter than `backoff.base`"));
        }
        let max_retry_after = period_within("max_retry_after", &self.max_retry_after, 0, 60_000, problems);
        if self.buffer.value.0 > MOST_BUFFER {
            problems.push(Problem::error(self.buffer.place, "`buffer` must be at most 16MiB"));
        }
        let allowance = self.budget.compile(problems);
        let on = self.on(problems);
        self.check_safety(speaks, problems);
        let limits = Limits {
            attempts: attempts?,
            base: base?,
            max: max?,
            max_retry_after: max_retry_after?,
            buffer: usize::try_from(self.buffer.value.0).ok()?,
        };
        (before == problems.len()).then_some((on, limits, allowance?))
    }

    fn on(&self, problems: &mut Problems) -> On {
        let mut on = On { explicit: self.on.place.is_known(), ..On::default() };
        for condition in self.on.iter() {
            match condition.value {
                Condition::Connect => on.connect = true,
                Condition::Refused => on.refused = true,
                Condition::Reset => on.reset = true,
                Condition::Timeout => on.timeout = true,
                Condition::RetriableHeaders => {}
                Condition::Statuses(range) => {
                    if range.first < 400 {
                        let problem = Problem::error(condition.place, "an answer below 400 is not a failure to be tried again");
                        problems.push(problem.hint("name statuses from 400 to 599"));
                    }
                    on.statuses.push(range);
                }
                Condition::Grpc(code) => on.codes |= 1 << code,
            }
        }
        for name in self.retriable_headers.iter().take(MOST_LISTED) {
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => on.headers.push(name),
                Err(_) => problems.push(Problem::error(name.place, format!("`{}` is no field's name", name.value))),
            }
        }
        for method in self.methods.iter().flat_map(|methods| methods.iter()).take(MOST_LISTED) {
            match Method::from_bytes(method.as_bytes()) {
                Ok(known) if known.as_str() == known.as_str().to_ascii_uppercase() => {
                    on.methods.get_or_insert_default().push(known)
                }
                _ => {
                    let problem = Problem::error(method.place, format!("`{}` is no method", method.value));
                    problems.push(problem.hint(format!("methods are written in capitals: `{}`", method.to_ascii_uppercase())));
                }
            }
        }
        if let Some(key) = &self.idempotency_key {
            match HeaderName::from_bytes(key.as_bytes()).ok().filter(reaches) {
                Some(name) => on.key = Some(name),
                None => {
                    let problem = Problem::error(key.place, format!("`{}` is no field that reaches the service", key.value));
                    problems.push(problem.hint("for example `idempotency_key: Idempotency-Key`"));
                }
            }
        }
        on
    }

    /// What is written must be able to take effect, and what is dangerous must be meant.
    fn check_safety(&self, speaks: Speaks, problems: &mut Problems) {
        let wants = |wanted: fn(Condition) -> bool| self.on.iter().find(|condition| wanted(condition.value));
        let headers = wants(|condition| condition == Condition::RetriableHeaders);
        match headers {
            Some(condition) if self.retriable_headers.is_empty() => {
                let problem = Problem::error(condition.place, "`retriable_headers` in `on`, but none are listed");
                problems.push(problem.hint("for example `retriable_headers: [ X-Retry ]`"));
            }
            None if !self.retriable_headers.is_empty() => {
                let problem =
                    Problem::error(self.retriable_headers.place, "`retriable_headers` is not among the conditions of `on`");
                problems.push(problem.hint("add it: `on: [ ..., retriable_headers ]`"));
            }
            _ => {}
        }
        if self.attempts.value == 0 && self.on.place.is_known() {
            problems.push(Problem::error(self.on.place, "`on` has no effect with `attempts: 0`").hint("leave one of them out"));
        }
        let Some(risky) = self.on.iter().find(|condition| !condition.is_harmless()) else {
            if speaks.hedged {
                return;
            }
            for place in
                [self.methods.as_ref().map(|it| it.place), self.idempotency_key.as_ref().map(|it| it.place)].into_iter().flatten()
            {
                let message = "what is retried here is safe with every method: this has no effect";
                problems.push(Problem::error(place, message).hint("add conditions to `on`, for example `gateway_error`"));
            }
            return;
        };
        let post = self.methods.as_ref().is_some_and(|methods| methods.iter().any(|method| method.value == "POST"));
        let is_call = matches!(risky.value, Condition::Grpc(_)) && !speaks.transcodes || speaks.calls_only;
        if is_call && !post && self.idempotency_key.is_none() {
            let message = "gRPC calls are POST, which is not repeated once it was sent, for it may have been done";
            let problem = Problem::error(risky.place, message);
            problems.push(problem.hint("if this service's calls may be done twice, say so: `methods: [ POST ]`"));
        }
    }
}

/// Whether a field of the client's goes to the service. Names with an underscore do not, nor what belongs to a connection.
fn reaches(name: &HeaderName) -> bool {
    !name.as_str().contains('_') && !is_hop_by_hop(name.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node;

    fn compile(yaml: &str, speaks: Speaks) -> Result<(On, Limits), String> {
        let mut problems = Problems::default();
        // As a file is read: what was written must be told from what is the default.
        let root = node::parse(yaml, &|_| None, &mut problems);
        let config = root.and_then(|root| node::decode::<RetriesConfig>(&root, &mut problems));
        let compiled = config.and_then(|config| config.compile(speaks, &mut problems));
        compiled
            .map(|(on, limits, _)| (on, limits))
            .filter(|_| problems.is_empty())
            .ok_or_else(|| problems.iter().map(|problem| problem.message.to_string()).collect::<Vec<_>>().join("; "))
    }

    const HTTP1: Speaks = Speaks { http2: false, calls_only: false, transcodes: false, hedged: false };
    const GRPC: Speaks = Speaks { http2: true, calls_only: true, transcodes: false, hedged: false };

    #[test]
    fn conditions_are_read() {
        let (on, limits) = compile("{ attempts: 3, on: [connect, reset, timeout, 5xx, 409, gateway_error] }", HTTP1).unwrap();
        assert!(on.connect && on.reset && on.timeout && !on.refused && on.explicit);
        assert!([409, 500, 503, 599].iter().all(|status| on.covers(*status)) && !on.covers(404));
        assert_eq!((limits.attempts, limits.buffer), (3, 64 << 10));
        let (on, _) = compile("{ on: [unavailable, internal], methods: [POST] }", GRPC).unwrap();
        assert_eq!(on.codes, 1 << 14 | 1 << 13);
        let (on, limits) = compile("{}", HTTP1).unwrap();
        assert!(on.connect && on.refused && !on.explicit && !on.looks_at_answers());
        assert_eq!(limits.attempts, 1);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (yaml, speaks, says) in [
            ("{ on: [unavailable] }", GRPC, "gRPC calls are POST"),
            ("{ on: [reset] }", GRPC, "gRPC calls are POST"),
            ("{ on: [200] }", HTTP1, "not a failure"),
            ("{ on: [connect-failure] }", HTTP1, "did you mean `connect`?"),
            ("{ on: [5xxx] }", HTTP1, "unknown condition"),
            ("{ on: [http_503] }", HTTP1, "did you mean `503`?"),
            ("{ attempts: 0, on: [connect] }", HTTP1, "has no effect"),
            ("{ methods: [POST] }", HTTP1, "safe with every method"),
            ("{ on: [5xx], methods: [post] }", HTTP1, "no method"),
            ("{ on: [5xx], idempotency_key: Idempotency_Key }", HTTP1, "reaches the service"),
            ("{ on: [5xx], backoff: { base: 2s } }", HTTP1, "shorter than"),
            ("{ on: [retriable_headers] }", HTTP1, "none are listed"),
            ("{ retriable_headers: [X-Retry] }", HTTP1, "not among the conditions"),
            ("{ buffer: 17MiB }", HTTP1, "16MiB"),
            ("{ attempts: 11 }", HTTP1, "attempts"),
        ] {
            let told = compile(yaml, speaks).expect_err(yaml);
            assert!(told.contains(says), "{yaml}: {told}");
        }
    }
}
