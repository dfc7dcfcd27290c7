//! A request as a function is told it.
//!
//! Three forms, each with the members that AWS documents for it. What only AWS could say (account, API, stage variables) is empty or
//! `null` there. Bodies are text where their media type says so and they are UTF-8, else base64.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Version;
use serde_json::{Map, Value, json};

use super::config::EventFormat;
use crate::carrier;
use crate::exchange::Params;
use crate::reply::push_json;
use crate::wire::coding::is_coded;
use crate::wire::media::{essence, is_json, is_lines};

/// A request, as it would have been sent to any service.
pub struct Asked<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub host: &'a str,
    /// All but `Host`.
    pub fields: &'a [(String, String)],
    pub body: &'a [u8],
    pub version: Version,
    pub client: IpAddr,
    pub request_id: &'a str,
    pub route: &'a str,
    pub params: &'a Params,
    /// In seconds since 1970.
    pub at: u64,
}

/// Groups the values that have one name, in the order in which names come first.
fn grouped<'p>(pairs: impl Iterator<Item = (&'p str, &'p str)>) -> Vec<(&'p str, Vec<&'p str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut known: std::collections::HashMap<&str, usize, ahash::RandomState> = Default::default();
    for (name, value) in pairs {
        let at = *known.entry(name).or_insert(groups.len());
        match groups.get_mut(at) {
            Some((_, values)) => values.push(value),
            None => groups.push((name, vec![value])),
        }
    }
    groups
}

fn object<'p>(groups: &[(&'p str, Vec<&'p str>)], value: impl Fn(&[&'p str]) -> Value) -> Value {
    Value::Object(groups.iter().map(|(name, values)| ((*name).to_owned(), value(values))).collect::<Map<_, _>>())
}

fn last(values: &[&str]) -> Value {
    values.last().copied().unwrap_or_default().into()
}

fn all(values: &[&str]) -> Value {
    values.iter().copied().map(Value::from).collect()
}

/// `null` where there is nothing.
fn or_null(object: Value) -> Value {
    if object.as_object().is_some_and(Map::is_empty) { Value::Null } else { object }
}

impl Asked<'_> {
    /// How long the body will be in the event. What JSON escapes makes a text six times as long.
    pub fn body_length(&self) -> usize {
        let escaped = |byte: &u8| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
            0..=0x1f | 0x7f => 6,
            _ => 1,
        };
        let text = self.text().map(|text| text.bytes().map(|byte| escaped(&byte)).sum());
        text.unwrap_or_else(|| self.body.len().div_ceil(3) * 4)
    }

    /// The body, where it is told as text.
    fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.body).ok().filter(|_| self.is_text())
    }

    /// The event, as JSON.
    pub fn event(&self, format: EventFormat, multi_value: bool) -> Vec<u8> {
        let head = match format {
            EventFormat::V2 => self.v2(),
            EventFormat::V1 => self.v1(),
            EventFormat::Alb => self.alb(multi_value),
        };
        let text = self.text();
        let mut out = serde_json::to_vec(&head).unwrap_or_default();
        out.pop();
        out.reserve(self.body_length() + 64);
        match (self.body.is_empty(), format) {
            (true, EventFormat::V2) => {}
            (true, EventFormat::V1) => out.extend_from_slice(b",\"body\":null"),
            (true, EventFormat::Alb) => out.extend_from_slice(b",\"body\":\"\""),
            (false, _) => {
                out.extend_from_slice(b",\"body\":");
                match text {
                    Some(text) => push_json(&mut out, text),
                    None => {
                        out.push(b'"');
                        out.extend_from_slice(STANDARD.encode(self.body).as_bytes());
                        out.push(b'"');
                    }
                }
            }
        }
        let coded = text.is_none() && !self.body.is_empty();
        out.extend_from_slice(if coded { b",\"isBase64Encoded\":true}" } else { b",\"isBase64Encoded\":false}" });
        out
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether the body is text by its media type, and in no coding.
    fn is_text(&self) -> bool {
        let mut codings = self.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-encoding"));
        if codings.any(|(_, line)| is_coded(line.as_bytes())) {
            return false;
        }
        let Some(kind) = self.field("content-type") else { return false };
        let kind = essence(kind.as_bytes());
        let known: [&[u8]; 4] =
            [b"application/xml", b"application/javascript", b"application/x-www-form-urlencoded", b"application/graphql"];
        is_json(&kind) || is_lines(&kind) || kind.starts_with(b"text/") || kind.ends_with(b"+xml") || known.contains(&&*kind)
    }

    /// The fields in lower case, `Host` among them.
    fn lower(&self) -> Vec<(String, &str)> {
        let mut fields = vec![("host".to_owned(), self.host)];
        fields.extend(self.fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.as_str())));
        fields
    }

    /// The parameters, decoded as those of a form.
    fn parameters(&self) -> Vec<(String, String)> {
        let decoded = |text| carrier::lossy(carrier::decode(text)).into_owned();
        self.pairs().map(|(name, value)| (decoded(name), decoded(value))).collect()
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    fn protocol(&self) -> &'static str {
        match self.version {
            Version::HTTP_2 => "HTTP/2.0",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
    }

    /// As it stands in logs: `28/Nov/2026:21:00:00 +0000`.
    fn time(&self) -> String {
        let at = jiff::Timestamp::from_second(i64::try_from(self.at).unwrap_or_default()).unwrap_or_default();
        at.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string()
    }

    fn path_parameters(&self) -> Value {
        let decoded = |text| carrier::lossy(carrier::decode_escapes(text)).into_owned();
        let params = self.params.iter().map(|(name, value)| (name.to_string(), Value::from(decoded(value))));
        Value::Object(params.collect())
    }

    fn v2(&self) -> Value {
        let fields = self.lower();
        let named = || fields.iter().map(|(name, value)| (name.as_str(), *value));
        let cookies: Vec<&str> = named()
            .filter(|(name, _)| *name == "cookie")
            .flat_map(|(_, value)| value.split(';'))
            .map(str::trim)
            .filter(|cookie| !cookie.is_empty())
            .collect();
        let headers = grouped(named().filter(|(name, _)| *name != "cookie"));
        let parameters = self.parameters();
        let parameters = grouped(parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let joined = |values: &[&str]| Value::from(values.join(","));
        let mut event = json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": self.path,
            "rawQueryString": self.query.unwrap_or_default(),
            "headers": object(&headers, joined),
            "requestContext": {
                "accountId": "anonymous",
                "apiId": self.route,
                "domainName": self.host,
                "domainPrefix": self.host.split('.').next().unwrap_or_default(),
                "http": {
                    "method": self.method,
                    "path": self.path,
                    "protocol": self.protocol(),
                    "sourceIp": self.client.to_string(),
                    "userAgent": self.field("user-agent").unwrap_or_default(),
                },
                "requestId": self.request_id,
                "routeKey": "$default",
                "stage": "$default",
                "time": self.time(),
                "timeEpoch": self.at.saturating_mul(1000),
            },
        });
        if let Some(members) = event.as_object_mut() {
            // Left out where there is nothing, as AWS does.
            let mut put = |name: &str, value: Value| drop(members.insert(name.to_owned(), value));
            if !cookies.is_empty() {
                put("cookies", all(&cookies));
            }
            if !parameters.is_empty() {
                put("queryStringParameters", object(&parameters, joined));
            }
            if !self.params.is_empty() {
                put("pathParameters", self.path_parameters());
            }
        }
        event
    }

    fn v1(&self) -> Value {
        let host = [("Host", self.host)];
        let fields = || host.into_iter().chain(self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let headers = grouped(fields());
        let parameters = self.parameters();
        let parameters = grouped(parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        json!({
            "version": "1.0",
            "resource": self.path,
            "path": self.path,
            "httpMethod": self.method,
            "headers": object(&headers, last),
            "multiValueHeaders": object(&headers, all),
            "queryStringParameters": or_null(object(&parameters, last)),
            "multiValueQueryStringParameters": or_null(object(&parameters, all)),
            "requestContext": {
                "accountId": "anonymous",
                "apiId": self.route,
                "domainName": self.host,
                "domainPrefix": self.host.split('.').next().unwrap_or_default(),
                "extendedRequestId": self.request_id,
                "httpMethod": self.method,
                "identity": {
                    "sourceIp": self.client.to_string(),
                    "userAgent": self.field("user-agent"),
                },
                "path": self.path,
                "protocol": self.protocol(),
                "requestId": self.request_id,
                "requestTime": self.time(),
                "requestTimeEpoch": self.at.saturating_mul(1000),
                "resourceId": null,
                "resourcePath": self.path,
                "stage": "$default",
            },
            "pathParameters": or_null(self.path_parameters()),
            "stageVariables": null,
        })
    }

    /// Load balancers tell parameters as they are written.
    fn alb(&self, multi_value: bool) -> Value {
        let fields = self.lower();
        let headers = grouped(fields.iter().map(|(name, value)| (name.as_str(), *value)));
        let parameters = grouped(self.pairs());
        let (of_fields, of_parameters, value): (_, _, fn(&[&str]) -> Value) = match multi_value {
            true => ("multiValueHeaders", "multiValueQueryStringParameters", all),
            false => ("headers", "queryStringParameters", last),
        };
        json!({
            "requestContext": { "elb": { "targetGroupArn": self.route } },
            "httpMethod": self.method,
            "path": self.path,
            (of_parameters): object(&parameters, value),
            (of_fields): object(&headers, value),
        })
    }
}
