//! Routes that answer by themselves, without a service: an answer from the file, a redirect, or word of maintenance. What a request has to
//! pass before a service hears of it, it has to pass here too.

mod config;

use std::path::Path;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use pingora_http::ResponseHeader;

use super::RouteConfig;
use crate::authority;
use crate::head::{RequestHead, TRAVEL_FIELDS};
use crate::problem::{Place, Problem, Problems};
use crate::reply::Reply;
use crate::value::{Spanned, period_within};
use crate::wire::encode::is_bodiless;
pub use config::{MaintenanceConfig, MockConfig, Query, RedirectConfig, RespondConfig};

/// The longest body that stands in the file, or in one that it names, in bytes.
const LONGEST: u64 = 1024 * 1024;

/// A compiled answer of a route's own.
#[derive(Debug)]
pub enum OwnAnswer {
    Respond(Respond),
    Redirect(Redirect),
    Maintenance(Box<Reply>),
    Mock(Box<dyn Mock>),
}

/// Answers from a document, which others read.
pub trait Mock: std::fmt::Debug + Send + Sync {
    /// # Errors
    /// A refusal.
    fn give(&self, head: &RequestHead) -> Result<pingora_error::Result<(ResponseHeader, Bytes)>, Box<Reply>>;
}

/// An answer from the file.
#[derive(Debug)]
pub struct Respond {
    status: StatusCode,
    fields: Vec<(HeaderName, HeaderValue)>,
    /// Of the body, where clients may ask whether theirs still holds.
    tag: Option<HeaderValue>,
    body: Bytes,
}

/// See [`RedirectConfig`].
#[derive(Debug)]
pub struct Redirect {
    status: StatusCode,
    to: To,
    query: Query,
}

#[derive(Debug)]
enum To {
    /// The same host, over TLS.
    Https,
    /// Another origin, the same path.
    Origin(Box<str>),
    /// All but the query, and the fragment that comes behind it; whether it has a query of its own.
    Fixed { url: Box<str>, fragment: Box<str>, own_query: bool },
}

impl OwnAnswer {
    /// Compiles what a route answers by itself. `None` if a service answers it, or if something is wrong, which then is in `problems`.
    pub fn compile(config: &RouteConfig, base: &Path, problems: &mut Problems) -> Option<OwnAnswer> {
        if let Some(respond) = &config.respond {
            return Respond::compile(respond, base, problems).map(OwnAnswer::Respond);
        }
        if let Some(redirect) = &config.redirect {
            return Redirect::compile(redirect, problems).map(OwnAnswer::Redirect);
        }
        config.maintenance.as_ref().and_then(|maintenance| self::maintenance(maintenance, problems)).map(OwnAnswer::Maintenance)
    }

    /// What it is called in the log.
    pub fn name(&self) -> &'static str {
        match self {
            OwnAnswer::Respond(_) => "respond",
            OwnAnswer::Redirect(_) => "redirect",
            OwnAnswer::Maintenance(_) => "maintenance",
            OwnAnswer::Mock(_) => "mock",
        }
    }

    /// The answer to a request. `target` is its path and query as a service would see them, `scheme` how it came, and `authority` to whom, as
    /// the outermost proxy that is trusted says.
    ///
    /// # Errors
    /// A refusal.
    pub fn give(
        &self,
        head: &RequestHead,
        target: &str,
        scheme: &str,
        authority: impl FnOnce() -> String,
    ) -> Result<(ResponseHeader, Bytes), Box<Reply>> {
        let made = match self {
            OwnAnswer::Respond(respond) => respond.give(head),
            OwnAnswer::Redirect(redirect) => redirect.give(target, scheme, authority)?,
            OwnAnswer::Maintenance(reply) => return Err(reply.clone()),
            OwnAnswer::Mock(mock) => mock.give(head)?,
        };
        made.map_err(|_| Reply::new(StatusCode::INTERNAL_SERVER_ERROR, "route", "answer_failed", "The answer cannot be made."))
    }
}

impl Respond {
    fn compile(config: &RespondConfig, base: &Path, problems: &mut Problems) -> Option<Respond> {
        let before = problems.len();
        let status = status(config.status.as_ref(), 200..=599, "`status` is from 200 to 599", StatusCode::OK, problems);
        let mut fields = Vec::new();
        for (name, value) in &config.headers {
            fields.extend(field(name, value, problems));
        }
        let sources = [place(&config.body), place(&config.json), place(&config.file)];
        let mut sources = sources.into_iter().flatten();
        if let (Some(_), Some(second)) = (sources.next(), sources.next()) {
            problems.push(Problem::error(second, "an answer has one of `body`, `json` and `file`"));
        }
        let (kind, body) = match config {
            RespondConfig { body: Some(text), .. } => (Some("text/plain; charset=utf-8"), Bytes::from(text.value.clone())),
            RespondConfig { json: Some(json), .. } => (Some("application/json"), format!("{}\n", json.value.0).into()),
            RespondConfig { file: Some(file), .. } => match read(&base.join(&file.value)) {
                Ok(body) => (Some(kind_of(&file.value)), body),
                Err(why) => {
                    problems.push(Problem::error(file.place, format!("cannot read `{}`: {why}", file.value)));
                    return None;
                }
            },
            _ => (None, Bytes::new()),
        };
        let first = place(&config.body).or(place(&config.json)).or(place(&config.file));
        if let (Some(place), true) = (first, is_bodiless(status) || status == StatusCode::RESET_CONTENT) {
            problems.push(Problem::error(place, format!("an answer with the status {status} has no body")));
        }
        if body.len() as u64 > LONGEST {
            problems.push(Problem::error(first.unwrap_or(Place::NOWHERE), "a body is at most 1 MiB here"));
        }
        let kind = match &config.content_type {
            Some(kind) => field("content-type", kind, problems).map(|(_, kind)| kind),
            None => kind.map(HeaderValue::from_static),
        };
        if let Some(kind) = kind
            && !fields.iter().any(|(name, _)| *name == header::CONTENT_TYPE)
        {
            fields.push((header::CONTENT_TYPE, kind));
        }
        let said = fields.iter().position(|(name, _)| *name == header::ETAG).map(|at| fields.swap_remove(at).1);
        let tag = said.or_else(|| {
            let hash = blake3::hash(&body).to_hex();
            let tag = format!("\"{}\"", hash.get(..32).unwrap_or_default());
            HeaderValue::try_from(tag).ok().filter(|_| status == StatusCode::OK && !body.is_empty())
        });
        (problems.len() == before).then_some(Respond { status, fields, tag, body })
    }

    fn give(&self, head: &RequestHead) -> pingora_error::Result<(ResponseHeader, Bytes)> {
        let safe = matches!(head.method, Method::GET | Method::HEAD);
        let unchanged = safe
            && self.status == StatusCode::OK
            && self.tag.as_ref().is_some_and(|tag| head.header_all("if-none-match").any(|asked| matches(asked, tag.as_bytes())));
        let status = if unchanged { StatusCode::NOT_MODIFIED } else { self.status };
        let mut answer = ResponseHeader::build(status, Some(self.fields.len() + 4))?;
        for (name, value) in self.fields.iter().filter(|(name, _)| !unchanged || *name != header::CONTENT_TYPE) {
            answer.append_header(name.clone(), value.clone())?;
        }
        if let Some(tag) = &self.tag {
            answer.insert_header(header::ETAG, tag.clone())?;
        }
        if !is_bodiless(status) {
            answer.insert_header(header::CONTENT_LENGTH, self.body.len())?;
        }
        let body = if unchanged { Bytes::new() } else { self.body.clone() };
        Ok((answer, body))
    }
}

/// Whether one of the tags of an `If-None-Match` is this one, in the weak comparison (RFC 9110, section 8.8.3.2).
fn matches(asked: &[u8], tag: &[u8]) -> bool {
    asked.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).any(|one| one == b"*" || opaque(one) == opaque(tag))
}

fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

impl Redirect {
    fn compile(config: &Spanned<RedirectConfig>, problems: &mut Problems) -> Option<Redirect> {
        const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];
        let place = place(&config.to).unwrap_or(config.place);
        if let Some(status) = config.status.as_ref().filter(|status| !STATUSES.contains(&status.value)) {
            problems.push(Problem::error(status.place, "`status` is 301, 302, 303, 307 or 308"));
            return None;
        }
        let status = status(config.status.as_ref(), 301..=308, "", StatusCode::FOUND, problems);
        let to = match (&config.to, config.https) {
            (None, true) => Ok(To::Https),
            (Some(to), false) => destination(to),
            _ => Err("a redirect has one of `to` and `https: true`".to_owned()),
        };
        let to = to.map_err(|why| problems.push(Problem::error(place, why))).ok()?;
        Some(Redirect { status, to, query: config.query })
    }

    fn give(
        &self,
        target: &str,
        scheme: &str,
        authority: impl FnOnce() -> String,
    ) -> Result<pingora_error::Result<(ResponseHeader, Bytes)>, Box<Reply>> {
        let refuse = |status, reason, detail| Err(Reply::new(status, "route", reason, detail));
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let (mut location, fragment, own_query) = match &self.to {
            To::Https if scheme == "https" => {
                return refuse(StatusCode::NOT_FOUND, "redirected", "This is served elsewhere, and the request came from there.");
            }
            To::Https => match authority::canonical(authority().as_bytes()) {
                Some(host) => (format!("https://{}{path}", host.host()), "", false),
                None => return refuse(StatusCode::BAD_REQUEST, "host_needed", "The request names no host to be sent to."),
            },
            To::Origin(origin) => (format!("{origin}{path}"), "", false),
            To::Fixed { url, fragment, own_query } => (url.to_string(), &**fragment, *own_query),
        };
        if let Some(query) = query.filter(|_| self.query == Query::Keep && !own_query) {
            location.push('?');
            location.push_str(query);
        }
        location.push_str(fragment);
        let Ok(location) = HeaderValue::try_from(location) else {
            return refuse(StatusCode::BAD_REQUEST, "malformed_target", "The target cannot be part of a URL.");
        };
        let made = || {
            let mut answer = ResponseHeader::build(self.status, Some(4))?;
            answer.insert_header(header::LOCATION, location)?;
            answer.insert_header(header::CONTENT_LENGTH, 0)?;
            Ok((answer, Bytes::new()))
        };
        Ok(made())
    }
}

/// An origin, a URL, or a path.
fn destination(to: &Spanned<String>) -> Result<To, String> {
    let text = to.value.as_str();
    let wrong = |why: &str| Err(format!("`{text}` is no place to be sent to: {why}"));
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return wrong("write what is not printable ASCII with percent signs");
    }
    let (url, fragment) = text.split_at(text.find('#').unwrap_or(text.len()));
    let fixed = || To::Fixed { url: url.into(), fragment: fragment.into(), own_query: url.contains('?') };
    if text.starts_with('/') {
        if text.starts_with("//") || text.contains('\\') {
            return wrong("browsers take it for another host");
        }
        return Ok(fixed());
    }
    let Some(rest) = text.strip_prefix("https://").or(text.strip_prefix("http://")) else {
        return wrong("it begins with `https://`, `http://` or `/`");
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    if authority::canonical(host.as_bytes()).is_none() {
        return wrong("its host is none");
    }
    match path {
        "" | "/" => Ok(To::Origin(text.trim_end_matches('/').into())),
        _ => Ok(fixed()),
    }
}

fn maintenance(config: &Spanned<MaintenanceConfig>, problems: &mut Problems) -> Option<Box<Reply>> {
    let after = match &config.retry_after {
        Some(period) => period_within("retry_after", period, 1000, 86_400_000, problems)?,
        None => std::time::Duration::from_secs(60),
    };
    let detail = match &config.detail {
        Some(detail) if detail.value.len() > 1000 || detail.value.chars().any(char::is_control) => {
            problems.push(Problem::error(detail.place, "`detail` is one line of up to 1000 bytes"));
            return None;
        }
        Some(detail) => detail.value.clone(),
        None => "This is being worked on.".to_owned(),
    };
    Some(Reply::new(StatusCode::SERVICE_UNAVAILABLE, "route", "maintenance", detail).retry_after(after))
}

fn place<T>(written: &Option<Spanned<T>>) -> Option<Place> {
    written.as_ref().map(|written| written.place)
}

fn status(
    written: Option<&Spanned<u16>>,
    range: std::ops::RangeInclusive<u16>,
    message: &str,
    default: StatusCode,
    problems: &mut Problems,
) -> StatusCode {
    let Some(written) = written else { return default };
    match StatusCode::from_u16(written.value) {
        Ok(status) if range.contains(&written.value) => status,
        _ => {
            problems.push(Problem::error(written.place, message));
            default
        }
    }
}

fn field(name: &str, value: &Spanned<String>, problems: &mut Problems) -> Option<(HeaderName, HeaderValue)> {
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
        problems.push(Problem::error(value.place, format!("`{name}` is not a header name")));
        return None;
    };
    if TRAVEL_FIELDS.contains(&name.as_str()) {
        problems.push(Problem::error(value.place, format!("`{name}` says how a message travels: the gateway writes it")));
        return None;
    }
    let Ok(value) = HeaderValue::from_str(&value.value) else {
        problems.push(Problem::error(value.place, "this cannot be a header's value"));
        return None;
    };
    Some((name, value))
}

/// A file that the configuration names, up to [`LONGEST`].
///
/// # Errors
/// Why it cannot be read.
pub fn read(path: &Path) -> Result<Bytes, String> {
    use std::io::Read;
    let mut body = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(LONGEST + 1).read_to_end(&mut body).map_err(|error| error.to_string())?;
    if body.len() as u64 > LONGEST { Err("it is larger than 1 MiB".to_owned()) } else { Ok(body.into()) }
}

fn kind_of(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, end)| end).to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "txt" | "md" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "json" | "map" => "application/json",
        "xml" => "application/xml",
        "yaml" | "yml" => "application/yaml",
        "pdf" => "application/pdf",
        "wasm" => "application/wasm",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}
