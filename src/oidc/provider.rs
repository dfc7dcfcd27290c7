//! Requests to identity providers: their keys, their metadata, and what they know of a token.
//!
//! They are few, and made on the background runtime, never on a worker. Every answer is bounded in time and size, and only the host
//! that was asked is believed: redirects to others are not followed.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{StatusCode, header};
use reqwest::{Certificate, Client, RequestBuilder, Response, Url, redirect};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::context::Context;
use crate::fingerprint::feed;
use crate::problem::Problem;
use crate::value::{Period, Spanned};

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 512 * 1024;
const MAX_REDIRECTS: usize = 3;
/// How long a connection is kept for the next request.
const IDLE: Duration = Duration::from_secs(30);

/// How an identity provider is reached.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderConfig {
    /// A file with the certificates (PEM) of which one must have issued the provider's. Default: those that the system trusts.
    pub ca: Option<Spanned<PathBuf>>,
    /// How long one request may take, from the connection to the last byte. 10ms to 1m, default 5s.
    pub timeout: Option<Spanned<Period>>,
    /// Takes `http` addresses beyond this machine: whoever is on the way can then vouch for anyone. Default `false`.
    pub insecure: bool,
}

/// [`ProviderConfig`], compiled.
pub struct Provider {
    client: Client,
    pub timeout: Duration,
    insecure: bool,
    /// Tells apart any two providers that are believed on different grounds: by another authority, or over an open network.
    pub trust: [u8; 32],
}

/// Why a provider did not help. A sentence for the log, without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    Unreachable(String),
    Status(StatusCode),
    TooLong,
    /// It answered, but not with what was asked for.
    Unusable(&'static str),
}

impl Trouble {
    /// Whether the server itself is at fault, whatever it was asked: it cannot be reached, or says that it is not up to it. Any other
    /// answer may be about the one question, which may be a client's to choose.
    pub fn is_outage(&self) -> bool {
        match self {
            Trouble::Unreachable(_) => true,
            Trouble::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Trouble::TooLong | Trouble::Unusable(_) => false,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Unreachable(why) => write!(f, "it cannot be reached: {why}"),
            Trouble::Status(status) => write!(f, "it answered {status}"),
            Trouble::TooLong => write!(f, "its answer is longer than {MAX_ANSWER} bytes"),
            Trouble::Unusable(why) => write!(f, "its answer is of no use: {why}"),
        }
    }
}

/// A good answer.
pub struct Answer {
    pub body: Vec<u8>,
    /// For how long its `Cache-Control` says that it is fresh.
    pub max_age: Option<Duration>,
}

impl Provider {
    pub fn compile(config: &ProviderConfig, cx: &mut Context<'_>) -> Option<Arc<Self>> {
        let timeout = match &config.timeout {
            None => Duration::from_secs(5),
            Some(timeout) if (Duration::from_millis(10)..=Duration::from_secs(60)).contains(&timeout.value.0) => timeout.value.0,
            Some(timeout) => {
                cx.problems.push(Problem::error(timeout.place, "a provider's `timeout` is from 10ms to 1m"));
                return None;
            }
        };
        let mut trust = blake3::Hasher::new();
        feed(&mut trust, &[u8::from(config.insecure)]);
        let mut builder = Client::builder()
            .user_agent(concat!("portcullis/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            .pool_idle_timeout(IDLE)
            .referer(false)
            .no_proxy()
            .redirect(redirect::Policy::custom(same_origin));
        if let Some(ca) = &config.ca {
            let (pem, roots) = certificates(ca, cx)?;
            feed(&mut trust, &pem);
            builder = builder.tls_certs_only(roots);
        }
        let client = match builder.build() {
            Ok(client) => client,
            Err(error) => {
                let place = config.ca.as_ref().map_or(cx.place, |ca| ca.place);
                cx.problems.push(Problem::error(place, format!("no TLS client for the identity provider: {}", causes(&error))));
                return None;
            }
        };
        Some(Arc::new(Provider { client, timeout, insecure: config.insecure, trust: *trust.finalize().as_bytes() }))
    }

    /// The address, if this provider may be asked there.
    pub fn address(&self, text: &Spanned<String>, cx: &mut Context<'_>) -> Option<Url> {
        let mut wrong = |message: String, hint: &str| {
            cx.problems.push(Problem::error(text.place, message).hint(hint));
            None
        };
        let Ok(url) = Url::parse(&text.value) else {
            return wrong(format!("`{}` is no URL", text.value), "https://id.example.com/...");
        };
        if !url.username().is_empty() || url.password().is_some() {
            return wrong("a URL with a password in it ends up in logs".to_owned(), "leave `user:password@` out");
        }
        match url.scheme() {
            "https" => Some(url),
            "http" if self.insecure || is_loopback(&url) => Some(url),
            "http" => wrong(
                format!("whoever is on the way to `{}` could vouch for anyone", text.value),
                "use https, or say `provider: { insecure: true }`",
            ),
            scheme => wrong(format!("`{scheme}` is not a way to reach a provider"), "https"),
        }
    }

    /// An address that another answer of this provider named: not less safe than where that came from.
    pub fn follow(&self, from: &Url, text: &str) -> Result<Url, Trouble> {
        let url = Url::parse(text).map_err(|_| Trouble::Unusable("the address in it is no URL"))?;
        if url.scheme() == "https" || (url.scheme() == "http" && from.scheme() == "http") {
            return Ok(url);
        }
        Err(Trouble::Unusable("the address in it is not https"))
    }

    pub async fn get(&self, url: &Url) -> Result<Answer, Trouble> {
        let request = self.client.get(url.clone()).header(header::ACCEPT, "application/json, application/jwk-set+json");
        self.send(request).await
    }

    /// Sends a form (RFC 7662, section 2.1). `authorization` is the whole field.
    pub async fn post(&self, url: &Url, form: String, authorization: Option<&http::HeaderValue>) -> Result<Answer, Trouble> {
        let mut request = self
            .client
            .post(url.clone())
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        self.send(request).await
    }

    /// Asks in any other way, with fields that may be secret.
    pub async fn ask(&self, method: http::Method, url: &Url, fields: http::HeaderMap) -> Result<Answer, Trouble> {
        self.send(self.client.request(method, url.clone()).headers(fields)).await
    }

    async fn send(&self, request: RequestBuilder) -> Result<Answer, Trouble> {
        let response = request.send().await.map_err(unreachable)?;
        if response.status() != StatusCode::OK {
            return Err(Trouble::Status(response.status()));
        }
        let max_age = response.headers().get(header::CACHE_CONTROL).and_then(|value| max_age(value.to_str().ok()?));
        Ok(Answer { body: read(response).await?, max_age })
    }
}

async fn read(mut response: Response) -> Result<Vec<u8>, Trouble> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(Trouble::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn same_origin(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let stays = attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
    // Stopping makes the redirect itself the answer, which is then refused for its status.
    if stays && attempt.previous().len() <= MAX_REDIRECTS { attempt.follow() } else { attempt.stop() }
}

/// Without the address: it may hold what should not be logged.
fn unreachable(error: reqwest::Error) -> Trouble {
    Trouble::Unreachable(causes(&error.without_url()))
}

/// An error and everything that led to it: the outermost one says little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn certificates(ca: &Spanned<PathBuf>, cx: &mut Context<'_>) -> Option<(Vec<u8>, Vec<Certificate>)> {
    let path = cx.base.join(&ca.value);
    let read = std::fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    let parsed = read.and_then(|pem| match Certificate::from_pem_bundle(&pem) {
        Ok(roots) if !roots.is_empty() => Ok((pem, roots)),
        _ => Err(format!("{} holds no certificate in PEM", path.display())),
    });
    parsed.map_err(|message| cx.problems.push(Problem::error(ca.place, message))).ok()
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// RFC 9111, section 5.2.2. What must not be kept at all is as good as stale.
fn max_age(value: &str) -> Option<Duration> {
    let mut age = None;
    for directive in value.split(',') {
        let (name, argument) = directive.trim().split_once('=').unwrap_or((directive.trim(), ""));
        match name.to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return Some(Duration::ZERO),
            "max-age" => age = argument.trim_matches('"').parse().ok().map(Duration::from_secs),
            _ => {}
        }
    }
    age
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Place;

    #[test]
    fn freshness_is_what_cache_control_says() {
        for (value, seconds) in [
            ("max-age=60", Some(60)),
            ("public, Max-Age=\"5\"", Some(5)),
            ("no-cache, max-age=60", Some(0)),
            ("max-age=60, no-store", Some(0)),
            ("public", None),
            ("max-age=x", None),
            ("s-maxage=9", None),
        ] {
            assert_eq!(max_age(value), seconds.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn only_what_is_wrong_with_the_server_is_an_outage() {
        let status = |code| Trouble::Status(StatusCode::from_u16(code).unwrap());
        assert!(Trouble::Unreachable(String::new()).is_outage());
        assert!([429, 502, 503, 504].into_iter().all(|code| status(code).is_outage()));
        assert!(![204, 302, 400, 401, 403, 413, 500].into_iter().any(|code| status(code).is_outage()));
        assert!(!Trouble::TooLong.is_outage() && !Trouble::Unusable("x").is_outage());
    }

    #[test]
    fn addresses_must_be_safe() {
        let (mut problems, ledger, consumers) = Default::default();
        let mut cx = crate::policy::testing::context(&mut problems, "test", &ledger, &consumers, std::path::Path::new("."));
        let provider = Provider::compile(&ProviderConfig::default(), &mut cx.context()).unwrap();
        let mut good = |text: &str| provider.address(&Spanned::new(text.to_owned(), Place::NOWHERE), &mut cx.context()).is_some();
        for text in ["https://id.example.com/keys", "http://127.0.0.1:1/k", "http://localhost/k", "http://[::1]/k"] {
            assert!(good(text), "{text}");
        }
        for text in [
            "http://id.example.com/",
            "http://127.0.0.1.example.com/",
            "ftp://a/",
            "keys",
            "https://a:b@id/",
            "file:///etc/passwd",
        ] {
            assert!(!good(text), "{text}");
        }
        let https = Url::parse("https://id.example.com/").unwrap();
        let http = Url::parse("http://127.0.0.1/").unwrap();
        assert!(provider.follow(&https, "https://other.example.com/k").is_ok());
        assert!(provider.follow(&https, "http://127.0.0.1:80/k").is_err());
        assert!(provider.follow(&http, "http://127.0.0.1:80/k").is_ok());
        assert!(provider.follow(&http, "file:///etc/passwd").is_err());
    }
}
