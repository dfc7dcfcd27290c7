//! What a health check asks, from what was written.

use std::fmt;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, header};
use regex::bytes::{Regex, RegexBuilder};

use super::{Kind, Question};
use crate::problem::{Place, Problem, Problems};
use crate::upstream::health_config::{BodyMatch, GrpcCheck, HealthCheckConfig};

/// The size of a compiled expression, in bytes.
const LARGEST_REGEX: usize = 1 << 20;

/// What a body has to have in it.
#[derive(Debug)]
pub(super) enum Expected {
    Text(Box<str>),
    Regex(Regex),
}

impl Expected {
    pub fn is_in(&self, body: &[u8]) -> bool {
        match self {
            Expected::Text(text) => memchr::memmem::find(body, text.as_bytes()).is_some(),
            Expected::Regex(regex) => regex.is_match(body),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Text(text) => write!(f, "{text:?}"),
            Expected::Regex(regex) => write!(f, "a match of {:?}", regex.as_str()),
        }
    }
}

/// `None` only if there was a problem.
pub(super) fn kind(config: &HealthCheckConfig, place: Place, problems: &mut Problems) -> Option<Kind> {
    let tcp = config.tcp.as_ref().filter(|tcp| tcp.value);
    let grpc = config.grpc.as_ref().filter(|grpc| grpc.value != GrpcCheck::Off);
    let named = [config.path.as_ref().map(|path| path.place), tcp.map(|tcp| tcp.place), grpc.map(|grpc| grpc.place)];
    let mut named = named.into_iter().flatten();
    let (first, second) = (named.next(), named.next());
    if let Some(second) = second {
        problems.push(Problem::error(second, "a health check has one of `path`, `tcp: true` and `grpc`"));
        return None;
    }
    if first.is_none() {
        let problem = Problem::error(place, "a health check needs `path`, `tcp: true` or `grpc`");
        problems.push(problem.hint("for example `path: /healthz`"));
        return None;
    }
    let Some(path) = &config.path else {
        refuse_http_only(config, problems)?;
        return match grpc.map(|grpc| &grpc.value) {
            Some(GrpcCheck::Service(name)) if name.len() > 127 || !name.bytes().all(|byte| byte.is_ascii_graphic()) => {
                let message = "a service of gRPC is named with up to 127 letters, digits, `.`, `/` and the like";
                problems.push(Problem::error(first.unwrap_or(place), message));
                None
            }
            Some(GrpcCheck::Service(name)) => Some(Kind::Grpc(name.as_str().into())),
            _ => Some(Kind::Tcp),
        };
    };
    let parsed = PathAndQuery::try_from(path.as_str()).ok().filter(|_| path.starts_with('/') && !path.contains('#'));
    if parsed.is_none() {
        let message = format!("`{}` is not a path that can be requested", path.value);
        problems.push(Problem::error(path.place, message).hint("it starts with `/` and has neither spaces nor `#`"));
    }
    let mut fine = true;
    let host = config.host.as_ref().and_then(|host| {
        // What is a valid authority is a valid field value, too.
        let valid = http::uri::Authority::try_from(host.as_str()).is_ok() && !host.contains('@');
        let value = HeaderValue::from_str(host).ok().filter(|_| valid);
        if value.is_none() {
            problems.push(Problem::error(host.place, format!("`{}` is not a host", host.value)));
            fine = false;
        }
        value
    });
    if config.status.is_empty() {
        problems.push(Problem::error(config.status.place, "`status` is empty: no answer could ever count as well"));
        fine = false;
    }
    let method = method(config, problems);
    let fields = fields(config, problems);
    let body = config.body.as_ref().map(|body| expected(&body.value, body.place, problems));
    // An inner `None` is a problem that has been told.
    let (method, fields, body) = (method?, fields?, body.map_or(Some(None), |body| body.map(Some))?);
    if body.is_some() && method == Method::HEAD {
        problems.push(Problem::error(config.body.as_ref().map_or(place, |body| body.place), "an answer to HEAD has no body"));
        return None;
    }
    let path = parsed.filter(|_| fine)?;
    Some(Kind::Http(Question { method, path, host, fields, status: config.status.value.clone(), body }))
}

/// What is about HTTP means nothing to other checks.
fn refuse_http_only(config: &HealthCheckConfig, problems: &mut Problems) -> Option<()> {
    let written = [
        ("host", config.host.as_ref().map(|host| host.place)),
        ("method", config.method.as_ref().map(|method| method.place)),
        ("body", config.body.as_ref().map(|body| body.place)),
        ("headers", config.headers.values().next().map(|value| value.place)),
        ("status", Some(config.status.place).filter(|place| place.is_known())),
    ];
    let mut fine = Some(());
    for (key, place) in written.into_iter().filter_map(|(key, place)| Some((key, place?))) {
        problems.push(Problem::error(place, format!("`{key}` is for checks by `path`")));
        fine = None;
    }
    fine
}

fn method(config: &HealthCheckConfig, problems: &mut Problems) -> Option<Method> {
    let Some(written) = &config.method else { return Some(Method::GET) };
    let known = [Method::GET, Method::HEAD, Method::OPTIONS, Method::POST];
    let method = known.into_iter().find(|method| method.as_str() == written.as_str());
    if method.is_none() {
        problems.push(Problem::error(written.place, "the `method` of a health check is GET, HEAD, OPTIONS or POST"));
    }
    method
}

fn fields(config: &HealthCheckConfig, problems: &mut Problems) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let gateways =
        [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE, header::TE];
    let mut fields = Vec::with_capacity(config.headers.len());
    let mut fine = true;
    for (name, value) in &config.headers {
        let name = HeaderName::try_from(name.as_str()).ok().filter(|name| !gateways.contains(name));
        match (name, HeaderValue::from_str(value)) {
            (Some(name), Ok(value)) => fields.push((name, value)),
            (None, _) => {
                fine = false;
                problems.push(Problem::error(value.place, "this is no header field that a health check could set"));
            }
            (_, Err(_)) => {
                fine = false;
                problems.push(Problem::error(value.place, "this is no value of a header field"));
            }
        }
    }
    fine.then_some(fields)
}

fn expected(body: &BodyMatch, place: Place, problems: &mut Problems) -> Option<Expected> {
    match body {
        BodyMatch::Text(text) if text.is_empty() => {
            problems.push(Problem::error(place, "`body` is empty, which is in every body"));
            None
        }
        BodyMatch::Text(text) => Some(Expected::Text(text.as_str().into())),
        BodyMatch::Regex(regex) => match RegexBuilder::new(regex).size_limit(LARGEST_REGEX).build() {
            Ok(regex) => Some(Expected::Regex(regex)),
            Err(error) => {
                problems.push(Problem::error(place, format!("the expression cannot be used: {error}")));
                None
            }
        },
    }
}
