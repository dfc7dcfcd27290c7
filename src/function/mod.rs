//! Functions of AWS Lambda as services: a request becomes an event ([`event`]), what the function returns an answer ([`answer`]).
//!
//! Deliberately not in here: how the function is reached, which is as any service is ([`crate::upstream`]).

pub mod answer;
pub mod config;
pub mod event;
pub mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;

use self::config::{EventFormat, Invoke, LambdaConfig};
use crate::context::Context;
use crate::credentials::aws::{self, Signer};
use crate::problem::Problem;
use crate::sigv4::encode;
use crate::tally::Counter;
use crate::value::Spanned;

/// The largest event: AWS takes no larger ones. With `async` a sixth.
const MOST_EVENT: usize = 6 << 20;
const MOST_ASYNC: usize = 1 << 20;
/// The largest thing that a function returns: AWS lets no larger one through, but for some bytes about it.
pub const MOST_ANSWER: usize = (6 << 20) + (64 << 10);

/// [`LambdaConfig`], compiled.
pub struct Function {
    pub signer: Signer,
    /// Of every invocation.
    pub target: String,
    pub host: String,
    pub format: EventFormat,
    pub multi_value: bool,
    pub invoke: Invoke,
    pub report: bool,
    counts: Counts,
}

/// Where it is invoked.
pub struct Address {
    /// `host:port`.
    pub endpoint: String,
    pub tls: bool,
}

/// How an invocation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Well,
    /// The function has failed.
    Failed,
    /// What it returned is no answer.
    Unusable,
    /// What it returned broke off before its end.
    Broken,
    /// There are too many of them.
    Throttled,
    /// The service has not invoked it.
    Refused,
}

struct Counts {
    ended: [Arc<Counter>; 6],
    cold: Arc<Counter>,
    start: Arc<Counter>,
    billed: Arc<Counter>,
}

/// What the end of a log says of an invocation, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Report {
    pub billed: u64,
    /// How long it took to start, where that was needed.
    pub start: Option<f64>,
}

impl Function {
    /// `None` only if there was a problem. The service is `cx.scope`.
    pub fn compile(config: &Spanned<LambdaConfig>, cx: &mut Context<'_>) -> Option<(Arc<Self>, Address)> {
        let name = &config.function;
        let is_name = |text: &str, more: &[u8]| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
            (1..=170).contains(&text.len()) && text.bytes().all(plain)
        };
        if !is_name(&name.value, b"-_:$") {
            let problem = Problem::error(name.place, format!("`{}` is no function's name", name.value));
            cx.problems.push(problem.hint("its name, or its ARN"));
            return None;
        }
        let qualifier = config.qualifier.as_ref();
        if let Some(qualifier) = qualifier.filter(|qualifier| !is_name(&qualifier.value, b"-_$")) {
            let problem = Problem::error(qualifier.place, format!("`{}` is no version and no alias", qualifier.value));
            cx.problems.push(problem.hint("`7`, `live` or `$LATEST`"));
            return None;
        }
        if config.multi_value && config.event != EventFormat::Alb {
            let problem =
                Problem::error(config.place, "`multi_value` is for `event: alb`: the other formats tell all values anyway");
            cx.problems.push(problem.hint("leave it out"));
            return None;
        }
        let in_arn = name.value.starts_with("arn:").then(|| name.value.split(':').nth(3)).flatten();
        let in_arn = in_arn.map(|region| Spanned::new(region.to_owned(), name.place));
        let region = aws::region(config.region.as_ref().or(in_arn.as_ref()), cx);
        let held = aws::held(config.credentials.as_ref(), cx);
        let (region, held) = (region?, held?);
        let (address, host) = address(config, &region, cx)?;
        let (version, end) = match config.invoke {
            Invoke::Stream => ("2021-11-15", "response-streaming-invocations"),
            Invoke::Buffered | Invoke::Async => ("2015-03-31", "invocations"),
        };
        let mut target = format!("/{version}/functions/");
        encode(&mut target, name.value.as_bytes());
        target.push('/');
        target.push_str(end);
        if let Some(qualifier) = qualifier {
            target.push_str("?Qualifier=");
            encode(&mut target, qualifier.value.as_bytes());
        }
        let function = Function {
            signer: Signer { held, region, service: "lambda".into() },
            target,
            host,
            format: config.event,
            multi_value: config.multi_value,
            invoke: config.invoke,
            report: config.report && config.invoke != Invoke::Async,
            counts: Counts::new(cx),
        };
        Some((Arc::new(function), address))
    }

    /// The largest event that there may be.
    pub fn most_event(&self) -> usize {
        match self.invoke {
            Invoke::Buffered | Invoke::Stream => MOST_EVENT,
            Invoke::Async => MOST_ASYNC,
        }
    }

    pub fn count(&self, ended: Ended) {
        if let Some(counter) = self.counts.ended.get(ended as usize) {
            counter.add(1);
        }
    }

    /// Counts what the end of a log says.
    pub fn count_report(&self, report: &Report) {
        self.counts.billed.add(report.billed);
        if let Some(start) = report.start {
            self.counts.cold.add(1);
            self.counts.start.add(start.round() as u64);
        }
    }
}

/// Where the function is, and what that is called.
fn address(config: &LambdaConfig, region: &str, cx: &mut Context<'_>) -> Option<(Address, String)> {
    let Some(endpoint) = &config.endpoint else {
        let end = if region.starts_with("cn-") { ".cn" } else { "" };
        let host = format!("lambda.{region}.amazonaws.com{end}");
        return Some((Address { endpoint: format!("{host}:443"), tls: true }, host));
    };
    let mut wrong = |message: String| {
        cx.problems.push(Problem::error(endpoint.place, message).hint("`https://HOST` or `http://HOST:PORT`"));
        None
    };
    let Ok(url) = Url::parse(&endpoint.value) else { return wrong(format!("`{}` is no URL", endpoint.value)) };
    let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let is_open = url.username().is_empty() && url.password().is_none();
    let (true, true, Some(host), Some(port)) = (is_bare, is_open, url.host_str(), url.port_or_known_default()) else {
        // Not repeated: there may be a password in it.
        return wrong("the endpoint is more than where the service is".to_owned());
    };
    let tls = match url.scheme() {
        "https" => true,
        "http" => false,
        scheme => return wrong(format!("`{scheme}` is not a way to reach a function")),
    };
    let named = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    Some((Address { endpoint: format!("{host}:{port}"), tls }, named))
}

impl Counts {
    fn new(cx: &Context<'_>) -> Self {
        let service = cx.scope;
        let ended = |result| {
            let help = "Invocations of functions, by how they ended.";
            cx.tallies.counter("portcullis_function_invocations_total", help, &[("service", service), ("result", result)])
        };
        let one = |name, help| cx.tallies.counter(name, help, &[("service", service)]);
        Counts {
            ended: ["ok", "failed", "unusable", "broken", "throttled", "refused"].map(ended),
            cold: one("portcullis_function_cold_starts_total", "Invocations of functions that had to be started first."),
            start: one("portcullis_function_start_milliseconds_total", "How long functions took to be started."),
            billed: one("portcullis_function_billed_milliseconds_total", "How long functions ran, as they are billed."),
        }
    }
}

impl Report {
    /// Reads the end of a log, as it comes in a field: the line that begins with `REPORT`. `None` if there is none.
    pub fn read(field: &[u8]) -> Option<Report> {
        let log = STANDARD.decode(field).ok()?;
        let log = String::from_utf8_lossy(&log);
        let line = log.lines().rev().find(|line| line.starts_with("REPORT "))?;
        let millis = |name: &str| {
            let part = line.split('\t').find_map(|part| part.trim().strip_prefix(name))?;
            part.trim().strip_suffix(" ms")?.parse::<f64>().ok().filter(|millis| (0.0..1e9).contains(millis))
        };
        Some(Report { billed: millis("Billed Duration:")?.ceil() as u64, start: millis("Init Duration:") })
    }
}
