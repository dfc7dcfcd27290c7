//! What people write about a service that is asked, and what is wrong with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, StatusCode};
use reqwest::Url;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::authority;
use crate::head::TRAVEL_FIELDS;
use crate::policy::Compile;
use crate::problem::{Place, Problem};
use crate::value::{Period, Size, Spanned};

pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(200);
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_BODY: u64 = 1 << 20;
const MAX_TTL: Duration = Duration::from_secs(3600);
const DEFAULT_ENTRIES: u32 = 10_000;
const MAX_ENTRIES: u32 = 1_000_000;

/// A service that says whether a request may pass. It gets a request of its own, with `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri` and
/// `-For`, `X-Request-Id`, `traceparent`, the proved identity and chosen fields of the client's; 2xx lets the request pass.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExternalAuthConfig {
    /// Where to ask: `http://127.0.0.1:9191/check`. With `GET`, or with `POST` where `body` is set. Either this or `service`.
    #[serde(default)]
    pub url: Option<Spanned<String>>,
    /// The service to ask, by its name under `services`: with its balance, health checks, timeouts, TLS and connections. `timeout` holds
    /// over all of it.
    #[serde(default)]
    pub service: Option<Spanned<String>>,
    /// With `service`: the path to ask for, with a query if there is one. Default: `/`.
    #[serde(default)]
    pub path: Option<Spanned<String>>,
    /// With `service`: the `Host` that it sees. Default: the service's name.
    #[serde(default)]
    pub host: Option<Spanned<String>>,
    /// The client's header fields that the service sees. Default: `Authorization` and `Cookie`.
    #[serde(default)]
    pub request_headers: Option<Vec<Spanned<String>>>,
    /// Fields of an answer that lets the request pass which the request takes along to its backend. A client that sends these fields itself
    /// has them removed. Naming one of the identity's (`X-Auth-Subject`) lets the service replace it. Default: none.
    #[serde(default)]
    pub upstream_headers: Vec<Spanned<String>>,
    /// Fields of an answer that lets the request pass which the client's answer gets. Default: none.
    #[serde(default)]
    pub client_headers: Vec<Spanned<String>>,
    /// Fields of an answer that refuses which the client gets. Default: `WWW-Authenticate`.
    #[serde(default)]
    pub deny_headers: Option<Vec<Spanned<String>>>,
    /// The statuses that refuse, 300 to 499; the client gets the same one. Any other than these and 2xx is a failure of the service. Default:
    /// 401 and 403; with a login page 302 as well, and `Location` among `deny_headers`.
    #[serde(default)]
    pub deny_statuses: Option<Vec<Spanned<u16>>>,
    /// How long the service may take, connecting included, up to 30s. Default: 200ms.
    #[serde(default)]
    pub timeout: Option<Spanned<Period>>,
    /// What becomes of requests while the service fails or takes too long: `closed` refuses them with 503, `open` lets them pass. Default:
    /// `closed`.
    #[serde(default)]
    pub fail: Fail,
    /// Sends the request's body along, without its content coding, up to this size, at most 1MiB; a longer one is refused with 413. Default: not sent.
    #[serde(default)]
    pub body: Option<Spanned<Size>>,
    /// Remembers answers. Default: every request asks.
    #[serde(default)]
    pub cache: Option<CacheConfig>,
    /// With `url`: a file with the certificates (PEM) to trust for `https`, in place of the system's.
    #[serde(default)]
    pub ca: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fail {
    #[default]
    Closed,
    Open,
}

/// How answers are remembered: by everything that the service sees, but for what is to be ignored. A failure is not remembered, nor an answer
/// with `Cache-Control: no-store`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    /// How long an answer holds, up to 1h. A permission that is taken back lasts that long.
    pub ttl: Spanned<Period>,
    /// How many answers of up to 1 KiB are remembered. Default: 10000.
    #[serde(default)]
    pub max_entries: Option<Spanned<u32>>,
    /// What the service sees and does not decide by: `method`, `path` (with the query), `query`, `host`, `client`.
    #[serde(default)]
    pub ignore: Vec<Ignore>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ignore {
    Method,
    Path,
    Query,
    Host,
    Client,
}

/// Who is asked.
#[derive(Clone)]
pub enum Whom {
    Url(Url),
    Service { name: Arc<str>, target: Box<str>, host: Box<str> },
}

/// [`ExternalAuthConfig`], checked.
pub struct Checked {
    pub whom: Whom,
    pub request_headers: Vec<HeaderName>,
    pub upstream_headers: Vec<HeaderName>,
    pub client_headers: Vec<HeaderName>,
    pub deny_headers: Vec<HeaderName>,
    pub deny_statuses: Vec<StatusCode>,
    pub timeout: Duration,
    pub fail: Fail,
    pub body: Option<usize>,
    pub cache: Option<(Duration, usize, Vec<Ignore>)>,
    pub ca: Option<Vec<u8>>,
}

/// Fields that say what a body is: the answer's own body is not passed on, and the request's stays as it was.
const BODY: [&str; 2] = ["content-encoding", "content-type"];

/// Fields that the gateway itself tells the service and the backend.
const OWN: [&str; 10] = [
    "forwarded",
    "traceparent",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-method",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-uri",
    "x-real-ip",
    "x-request-id",
];

impl ExternalAuthConfig {
    /// Says everything that is wrong before it gives up.
    pub fn check(&self, cx: &mut Compile<'_>) -> Option<Checked> {
        let whom = self.whom(cx);
        let credentials = || vec![http::header::AUTHORIZATION, http::header::COOKIE];
        let request_headers = self.request_headers.as_ref().map_or_else(|| Some(credentials()), |list| names(list, cx));
        let upstream_headers = names(&self.upstream_headers, cx);
        let client_headers = names(&self.client_headers, cx);
        let challenge = || vec![http::header::WWW_AUTHENTICATE];
        let deny_headers = self.deny_headers.as_ref().map_or_else(|| Some(challenge()), |list| names(list, cx));
        let deny_statuses = self.statuses(cx);
        let timeout = self.timeout.as_ref().map_or(Some(DEFAULT_TIMEOUT), |timeout| {
            let good = (Duration::from_millis(1)..=MAX_TIMEOUT).contains(&timeout.value.0);
            within(good, timeout.place, "`timeout` is from 1ms to 30s", cx).then_some(timeout.value.0)
        });
        let body = self.body.as_ref().map_or(Some(None), |size| {
            let good = (1..=MAX_BODY).contains(&size.value.0);
            within(good, size.place, "`body` is from 1 byte to 1MiB", cx).then_some(usize::try_from(size.value.0).ok())
        });
        if let (Some(cache), Some(_)) = (&self.cache, &self.body) {
            let problem = Problem::error(cache.ttl.place, "answers about bodies cannot be remembered");
            cx.problems.push(problem.hint("leave `cache` or `body` out"));
            return None;
        }
        let cache = self.cache.as_ref().map_or(Some(None), |cache| cache.check(cx).map(Some));
        let ca = self.ca.as_ref().map_or(Some(None), |file| match std::fs::read(cx.base.join(&file.value)) {
            Ok(pem) => Some(Some(pem)),
            Err(error) => {
                cx.problems.push(Problem::error(file.place, format!("cannot read `{}`: {error}", file.value.display())));
                None
            }
        });
        Some(Checked {
            whom: whom?,
            request_headers: request_headers?,
            upstream_headers: upstream_headers?,
            client_headers: client_headers?,
            deny_headers: deny_headers?,
            deny_statuses: deny_statuses?,
            timeout: timeout?,
            fail: self.fail,
            body: body?,
            cache: cache?,
            ca: ca?,
        })
    }

    fn whom(&self, cx: &mut Compile<'_>) -> Option<Whom> {
        let for_service = [("path", &self.path), ("host", &self.host)];
        match (&self.url, &self.service) {
            (Some(written), None) => {
                if let Some((key, of)) = for_service.iter().find_map(|(key, value)| Some((key, value.as_ref()?))) {
                    let problem = Problem::error(of.place, format!("`{key}` goes with `service`"));
                    cx.problems.push(problem.hint("`url` says all of it"));
                    return None;
                }
                url(written, cx).map(Whom::Url)
            }
            (None, Some(service)) => {
                if let Some(ca) = &self.ca {
                    let problem = Problem::error(ca.place, "`ca` goes with `url`");
                    cx.problems.push(problem.hint("write `tls: { ca: FILE }` at the service"));
                }
                let name = cx.service(service);
                let target = self.path.as_ref().map_or(Some("/"), |path| target(path, cx));
                let host = self.host.as_ref().map_or(Some(service.value.as_str()), |host| self::host(host, cx));
                Some(Whom::Service { name: name?, target: target?.into(), host: host?.into() }).filter(|_| self.ca.is_none())
            }
            (Some(_), Some(service)) => {
                cx.problems.push(Problem::error(service.place, "either `url` or `service` says whom to ask, not both"));
                None
            }
            (None, None) => {
                let problem = Problem::error(cx.place, "`external_auth` needs `url` or `service`");
                cx.problems.push(problem.hint("for example `url: http://127.0.0.1:9191/check`"));
                None
            }
        }
    }

    fn statuses(&self, cx: &mut Compile<'_>) -> Option<Vec<StatusCode>> {
        let Some(list) = &self.deny_statuses else { return Some(vec![StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]) };
        let mut statuses = Vec::with_capacity(list.len());
        for status in list {
            let code = StatusCode::from_u16(status.value).ok().filter(|code| (300..500).contains(&code.as_u16()));
            if !within(code.is_some(), status.place, "a status that refuses is from 300 to 499", cx) {
                return None;
            }
            statuses.extend(code);
        }
        Some(statuses)
    }
}

impl CacheConfig {
    fn check(&self, cx: &mut Compile<'_>) -> Option<(Duration, usize, Vec<Ignore>)> {
        let ttl = self.ttl.value.0;
        let good = (Duration::from_millis(1)..=MAX_TTL).contains(&ttl);
        let mut sound = within(good, self.ttl.place, "`ttl` is from 1ms to 1h", cx);
        let entries = match &self.max_entries {
            Some(entries) => {
                let message = format!("`max_entries` is from 1 to {MAX_ENTRIES}");
                sound &= within((1..=MAX_ENTRIES).contains(&entries.value), entries.place, &message, cx);
                entries.value
            }
            None => DEFAULT_ENTRIES,
        };
        sound.then(|| (ttl, entries as usize, self.ignore.clone()))
    }
}

fn within(good: bool, place: Place, message: &str, cx: &mut Compile<'_>) -> bool {
    if !good {
        cx.problems.push(Problem::error(place, message));
    }
    good
}

fn target<'a>(text: &'a Spanned<String>, cx: &mut Compile<'_>) -> Option<&'a str> {
    let fine = text.starts_with('/') && !text.contains('#') && PathAndQuery::try_from(text.as_str()).is_ok();
    let message = format!("`{}` is not a path that can be requested", text.value);
    within(fine, text.place, &message, cx).then_some(text.as_str())
}

fn host<'a>(text: &'a Spanned<String>, cx: &mut Compile<'_>) -> Option<&'a str> {
    let fine = authority::canonical(text.as_bytes()).is_some();
    within(fine, text.place, &format!("`{}` is not a host", text.value), cx).then_some(text.as_str())
}

fn url(text: &Spanned<String>, cx: &mut Compile<'_>) -> Option<Url> {
    let refused = match Url::parse(&text.value) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") => "is neither http nor https".to_owned(),
        Ok(url) if url.host_str().is_none_or(str::is_empty) => "names no host".to_owned(),
        // It would be in every report of this configuration.
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            "holds credentials, which have no place in it".to_owned()
        }
        Ok(url) if url.fragment().is_some() => "has a fragment, which is never sent".to_owned(),
        Ok(url) => return Some(url),
        Err(error) => format!("cannot be read: {error}"),
    };
    let problem = Problem::error(text.place, format!("this URL {refused}"));
    cx.problems.push(problem.hint("http://127.0.0.1:9191/check"));
    None
}

fn names(list: &[Spanned<String>], cx: &mut Compile<'_>) -> Option<Vec<HeaderName>> {
    let mut names = Vec::with_capacity(list.len());
    for text in list {
        match HeaderName::from_bytes(text.value.as_bytes()) {
            Ok(name) if TRAVEL_FIELDS.contains(&name.as_str()) || BODY.contains(&name.as_str()) => {
                let message = format!("`{}` says how a message travels, and passes nobody", text.value);
                cx.problems.push(Problem::error(text.place, message));
                return None;
            }
            Ok(name) if OWN.contains(&name.as_str()) => {
                cx.problems.push(Problem::error(text.place, format!("`{}` is the gateway's own to say", text.value)));
                return None;
            }
            Ok(name) if names.contains(&name) => {}
            Ok(name) => names.push(name),
            Err(_) => {
                cx.problems.push(Problem::error(text.place, format!("`{}` is no name of a header field", text.value)));
                return None;
            }
        }
    }
    Some(names)
}
