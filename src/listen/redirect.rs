//! A plain listener that sends its clients to TLS: the same host, path and query, and the port that TLS is on.

use std::fmt;

use http::{HeaderValue, Method, StatusCode, header};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use crate::authority;
use crate::head::RequestHead;
use crate::reply::Reply;

/// The port of `https` that no URL names.
const HTTPS: u16 = 443;

/// `https`, or `{ port: 8443 }`.
#[derive(Debug, Clone, Default)]
pub struct RedirectConfig {
    pub port: Option<u16>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RedirectMap {
    /// The port that clients reach TLS on. 1 to 65535.
    port: std::num::NonZeroU16,
}

impl<'de> Deserialize<'de> for RedirectConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;

        impl<'de> Visitor<'de> for Shape {
            type Value = RedirectConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`https` or `{ port: 8443 }`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RedirectConfig, E> {
                match text {
                    "https" => Ok(RedirectConfig::default()),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RedirectConfig, A::Error> {
                let RedirectMap { port } = RedirectMap::deserialize(MapAccessDeserializer::new(map))?;
                Ok(RedirectConfig { port: Some(port.get()) })
            }
        }

        deserializer.deserialize_any(Shape)
    }
}

impl JsonSchema for RedirectConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Redirect".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<RedirectMap>();
        json_schema!({ "anyOf": [{ "type": "string", "enum": ["https"] }, map] })
    }
}

/// [`RedirectConfig`], compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redirect {
    /// For clients that named no port: they see the well-known ones, whatever is bound behind a port mapping.
    port: u16,
    /// For clients that named one.
    beside: u16,
}

impl Redirect {
    /// `tls`: the port of the only listener with TLS, if there is one.
    pub fn compile(config: &RedirectConfig, tls: Option<u16>) -> Redirect {
        let port = config.port.unwrap_or(HTTPS);
        Redirect { port, beside: config.port.or(tls).unwrap_or(HTTPS) }
    }

    /// The answer to a request that named `authority`, or whose outermost trusted proxy did; `None` if it came over TLS as far as such a proxy
    /// (the request's scheme is then `https`), which would otherwise be sent in a circle.
    pub fn answer(&self, head: &RequestHead, scheme: &str, authority: impl FnOnce() -> String) -> Option<Box<Reply>> {
        if scheme == "https" {
            return None;
        }
        Some(self.location(head, &authority()).map_or_else(nowhere, |location| {
            // What is safe to repeat may be remembered by everybody; what is not keeps its method and body (RFC 9110, 15.4.9).
            let safe = matches!(head.method, Method::GET | Method::HEAD);
            let status = if safe { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
            Reply::new(status, "door", "redirect_https", "This is served over TLS.").header(header::LOCATION, location)
        }))
    }

    fn location(&self, head: &RequestHead, authority: &str) -> Option<HeaderValue> {
        let host = authority::host(authority);
        if !is_host(host) {
            return None;
        }
        let port = if authority::port(authority.as_bytes()).is_some() { self.beside } else { self.port };
        let mut location = format!("https://{host}").into_bytes();
        if port != HTTPS {
            location.extend_from_slice(format!(":{port}").as_bytes());
        }
        // `OPTIONS *` is about the server as a whole.
        if head.path.starts_with('/') {
            location.extend_from_slice(head.path.as_bytes());
        }
        if let Some(query) = head.query_bytes() {
            location.push(b'?');
            location.extend_from_slice(query);
        }
        HeaderValue::from_bytes(&location).ok()
    }
}

fn nowhere() -> Box<Reply> {
    Reply::new(
        StatusCode::BAD_REQUEST,
        "door",
        "host_needed",
        "This is served over TLS, and the request names no host to be sent to.",
    )
}

/// A name or an address, and nothing by which a URL would lead elsewhere.
fn is_host(host: &str) -> bool {
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match inside {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(redirect: Redirect, method: &str, target: &str, host: &str) -> (u16, String) {
        let head = RequestHead::build(method, target, &[("host", "inner")]);
        let reply = redirect.answer(&head, "http", || host.to_owned()).unwrap();
        let location = reply.headers.iter().find(|(name, _)| name == header::LOCATION);
        (reply.status.as_u16(), location.map(|(_, value)| value.to_str().unwrap().to_owned()).unwrap_or_default())
    }

    #[test]
    fn keeps_host_path_and_query() {
        let redirect = Redirect::compile(&RedirectConfig::default(), Some(8443));
        assert_eq!(
            asked(redirect, "GET", "/a/b?c=%20d&e", "shop.example"),
            (301, "https://shop.example/a/b?c=%20d&e".to_owned())
        );
        assert_eq!(asked(redirect, "GET", "/", "shop.example:8080"), (301, "https://shop.example:8443/".to_owned()));
        assert_eq!(asked(redirect, "GET", "/", "[2001:db8::1]"), (301, "https://[2001:db8::1]/".to_owned()));
        assert_eq!(asked(redirect, "POST", "/a", "shop.example"), (308, "https://shop.example/a".to_owned()));
        let fixed = Redirect::compile(&RedirectConfig { port: Some(9443) }, Some(8443));
        assert_eq!(asked(fixed, "HEAD", "/", "shop.example"), (301, "https://shop.example:9443/".to_owned()));
    }

    #[test]
    fn leads_nowhere_else() {
        let redirect = Redirect::compile(&RedirectConfig::default(), None);
        for host in ["", "evil.example/", "a@evil.example", "a\\evil", "[::1", "a b", "evil.example%2f"] {
            assert_eq!(asked(redirect, "GET", "//evil.example/", host).0, 400, "{host}");
        }
    }
}
