//! Who may call the admin API: nothing that a web page could send, and, where `admin.token` is set, only its bearer may change things.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::json;

use super::{Admin, problem};

/// Refuses what a web page could make an operator's browser send: an `Origin`, or a `Host` that is a name other than `localhost` (DNS
/// rebinding).
pub async fn no_browsers(request: Request, next: Next) -> Response {
    if request.headers().contains_key(header::ORIGIN) || !names_an_address(request.headers()) {
        return problem(StatusCode::FORBIDDEN, "the admin API is not for web pages; call it by its address", json!({}));
    }
    next.run(request).await
}

fn names_an_address(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    host.parse::<SocketAddr>().is_ok() || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() || name == "localhost" || {
        name.parse::<IpAddr>().is_ok()
    }
}

/// Lets reads pass, and writes with the token, if one is configured.
pub async fn writes_need_the_token(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return next.run(request).await;
    }
    let token = admin.core.snapshot.load().admin_token;
    // Hashes compare in constant time.
    let allowed = token.is_none_or(|token| bearer(request.headers()).is_some_and(|presented| blake3::hash(presented) == token));
    if allowed {
        return next.run(request).await;
    }
    log::warn!("audit: refused {} {} without the admin token{}", request.method(), request.uri().path(), super::by(&request));
    let mut response = problem(StatusCode::UNAUTHORIZED, "this needs the token that `admin.token` names", json!({}));
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"admin\""));
    response
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let (scheme, token) = fields.next()?.as_bytes().split_at_checked("Bearer ".len())?;
    (scheme.eq_ignore_ascii_case(b"Bearer ") && fields.next().is_none()).then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_are_hosts() {
        let with = |host: &str| HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
        for good in ["127.0.0.1:9901", "127.0.0.1", "[::1]:9901", "[::1]", "localhost:9901", "localhost"] {
            assert!(names_an_address(&with(good)), "{good}");
        }
        for bad in ["evil.example:9901", "evil.example", "127.0.0.1.evil.example"] {
            assert!(!names_an_address(&with(bad)), "{bad}");
        }
        assert!(!names_an_address(&HeaderMap::new()));
    }

    #[test]
    fn a_token_comes_in_one_field() {
        let with = |fields: &[&str]| {
            HeaderMap::from_iter(fields.iter().map(|field| (header::AUTHORIZATION, HeaderValue::from_str(field).unwrap())))
        };
        assert_eq!(bearer(&with(&["bearer  abc"])), Some(&b"abc"[..]));
        for none in [&[][..], &["Basic abc"], &["Bearer"], &["Bearer a", "Bearer a"]] {
            assert_eq!(bearer(&with(none)), None, "{none:?}");
        }
    }
}
