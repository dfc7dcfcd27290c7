//! Consumers' API keys: `/consumers/{name}/keys`.
//!
//! | | |
//! |---|---|
//! | `GET /consumers/{name}/keys?after=ID&limit=N` | the keys, without the keys themselves |
//! | `POST /consumers/{name}/keys` | issues one; the answer holds it, and no other ever will |
//! | `GET /consumers/{name}/keys/{id}` | one of them |
//! | `POST /consumers/{name}/keys/{id}/rotate` | issues one in its place, and lets both work for a while |
//! | `DELETE /consumers/{name}/keys/{id}` | revokes it |

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Admin, Peer, problem};
use crate::clock::unix_seconds as now;
use crate::keys::{KeyError, KeyStore, Minted, Order, Record};
use crate::value::Period;

/// The longest request body, in bytes.
const LONGEST_BODY: usize = 16 * 1024;
/// The longest label, in characters.
const LONGEST_LABEL: usize = 200;
const MOST_SCOPES: usize = 100;
const LONGEST_SCOPE: usize = 200;
/// Keys in one answer.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;
/// How long a rotated key goes on working.
const OVERLAP: u64 = 24 * 3600;
const LONGEST_OVERLAP: u64 = 90 * 24 * 3600;
/// Ten years.
const LONGEST_LIFE: u64 = 3650 * 24 * 3600;

pub(super) fn router() -> Router<Admin> {
    Router::new()
        .route("/consumers/{name}/keys", get(list).post(create))
        .route("/consumers/{name}/keys/{id}", get(show).delete(revoke))
        .route("/consumers/{name}/keys/{id}/rotate", post(rotate))
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    after: Option<String>,
    limit: Option<usize>,
}

/// What a new key is to be; all of it may be left out.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct NewKey {
    label: Option<String>,
    scopes: Option<Vec<String>>,
    expires_in: Option<String>,
    expires_at: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Rotation {
    overlap: Option<String>,
    expires_in: Option<String>,
    expires_at: Option<String>,
}

/// The store of the generation that serves, and what else of that generation matters here.
struct Desk {
    keys: Arc<KeyStore>,
    prefix: Arc<str>,
    admin: Admin,
}

impl FromRequestParts<Admin> for Desk {
    type Rejection = Refusal;

    async fn from_request_parts(_: &mut Parts, admin: &Admin) -> Result<Self, Refusal> {
        let snapshot = admin.core.snapshot.load();
        match &snapshot.keys {
            Some((keys, prefix)) => Ok(Desk { keys: keys.clone(), prefix: prefix.clone(), admin: admin.clone() }),
            None => Err(Refusal::new(StatusCode::NOT_FOUND, "no `key_store` is configured, so that no keys can be issued")),
        }
    }
}

impl Desk {
    /// New keys are for consumers that the configuration has.
    fn knows(&self, consumer: &str) -> Result<(), Refusal> {
        match self.admin.core.snapshot.load().consumers.by_name(consumer) {
            Some(_) => Ok(()),
            None => Err(Refusal::new(StatusCode::NOT_FOUND, "the configuration has no such consumer")),
        }
    }
}

async fn list(desk: Desk, Path(name): Path<String>, page: Result<Query<Page>, QueryRejection>) -> Result<Response, Refusal> {
    let Query(page) = page.map_err(|_| unfit("the query takes `after`, an id, and `limit`, a number"))?;
    let limit = page.limit.unwrap_or(PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return Err(unfit("`limit` is from 1 to 1000"));
    }
    let (records, more) = desk.keys.list(&name, page.after.as_deref(), limit);
    // The keys of a consumer that left the configuration can be seen and revoked.
    if records.is_empty() {
        desk.knows(&name)?;
    }
    let next = more.then(|| records.last().map(|record| record.id.clone())).flatten();
    let now = now();
    let keys: Vec<Value> = records.iter().map(|record| describe(record, now)).collect();
    Ok(axum::Json(json!({ "consumer": name, "keys": keys, "next": next })).into_response())
}

async fn show(desk: Desk, Path((name, id)): Path<(String, String)>) -> Result<Response, Refusal> {
    let record = desk.keys.get(&name, &id).ok_or(KeyError::Unknown)?;
    Ok(axum::Json(describe(&record, now())).into_response())
}

async fn create(
    desk: Desk,
    Peer(peer): Peer,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    desk.knows(&name)?;
    let wanted: NewKey = read(body)?;
    let expires = expiry(wanted.expires_in.as_deref(), wanted.expires_at.as_deref())?;
    let order = Order { consumer: name.clone(), label: label(wanted.label)?, scopes: scopes(wanted.scopes)?, expires };
    let minted = desk.keys.create(order, &desk.prefix).await?;
    log::info!("audit: issued the API key {} of consumer {name:?}{}{peer}", minted.record.id, until(&minted.record));
    Ok(created(&name, minted, json!({})))
}

async fn rotate(
    desk: Desk,
    Peer(peer): Peer,
    Path((name, id)): Path<(String, String)>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    desk.knows(&name)?;
    let wanted: Rotation = read(body)?;
    let overlap = wanted.overlap.as_deref().map(|text| period("overlap", text)).transpose()?.unwrap_or(OVERLAP);
    if overlap > LONGEST_OVERLAP {
        return Err(unfit("`overlap` is at most 90d"));
    }
    let expires = expiry(wanted.expires_in.as_deref(), wanted.expires_at.as_deref())?;
    let rotated = desk.keys.rotate(&name, &id, overlap, expires, &desk.prefix).await;
    let (minted, retired) = rotated?;
    let new = &minted.record.id;
    log::info!("audit: rotated the API key {id} of consumer {name:?}: {new} follows, {id} works{}{peer}", until(&retired));
    Ok(created(&name, minted, json!({ "replaces": describe(&retired, now()) })))
}

async fn revoke(desk: Desk, Peer(peer): Peer, Path((name, id)): Path<(String, String)>) -> Result<Response, Refusal> {
    let record = desk.keys.revoke(&name, &id).await?;
    log::info!("audit: revoked the API key {} of consumer {name:?}{peer}", record.id);
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The one answer that holds a key: nobody on the way may keep it.
fn created(consumer: &str, minted: Minted, more: Value) -> Response {
    let mut body = describe(&minted.record, now());
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.insert("key".to_owned(), minted.key.reveal().into());
        body.extend(more);
    }
    let mut response = (StatusCode::CREATED, axum::Json(body)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let place = format!("/consumers/{}/keys/{}", crate::path::value(consumer.as_bytes()), minted.record.id);
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

fn describe(record: &Record, now: u64) -> Value {
    let state = match record {
        record if record.is_expired(now) => "expired",
        record if record.replaced_by.is_some() => "retiring",
        _ => "active",
    };
    json!({
        "id": record.id,
        "consumer": record.consumer,
        "state": state,
        "label": record.label,
        "scopes": record.scopes,
        "created_at": timestamp(record.created),
        "expires_at": record.expires.map(timestamp),
        "replaced_by": record.replaced_by,
    })
}

pub(super) fn timestamp(seconds: u64) -> Option<String> {
    let seconds = i64::try_from(seconds).ok()?;
    Some(jiff::Timestamp::from_second(seconds).ok()?.to_string())
}

fn until(record: &Record) -> String {
    match record.expires.and_then(timestamp) {
        Some(expires) => format!(" until {expires}"),
        None => String::new(),
    }
}

/// Why nothing was done.
struct Refusal {
    status: StatusCode,
    detail: Cow<'static, str>,
}

impl Refusal {
    fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Refusal { status, detail: detail.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = problem(self.status, &self.detail, json!({}));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Unknown => Refusal::new(StatusCode::NOT_FOUND, "the consumer has no such key"),
            KeyError::Over(why) => Refusal::new(StatusCode::CONFLICT, why),
            KeyError::Conflict => Refusal::new(StatusCode::CONFLICT, "somebody else changed the key at the same time"),
            KeyError::Full => Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "there are 1000000 keys, and no more may be"),
            KeyError::Unavailable(why) => {
                log::error!("the key store did not take a change: {why}");
                let detail = "the key store does not answer; look whether the change was made before you try again";
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, detail)
            }
        }
    }
}

fn unfit(detail: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, detail)
}

/// The body as JSON; no body at all asks for nothing in particular. What is wrong is told without repeating what was sent.
fn read<T: DeserializeOwned + Default>(body: Result<Bytes, BytesRejection>) -> Result<T, Refusal> {
    let body = body.map_err(|_| Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 16 KiB"))?;
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&body).map_err(|error| unfit(format!("the body does not fit: {error}")))
}

fn label(label: Option<String>) -> Result<Option<String>, Refusal> {
    match &label {
        Some(text) if text.chars().count() > LONGEST_LABEL || text.chars().any(char::is_control) => {
            Err(unfit("a label has up to 200 characters, and none that controls a terminal"))
        }
        _ => Ok(label),
    }
}

/// Scopes are written with spaces between them (RFC 6749, section 3.3).
fn scopes(scopes: Option<Vec<String>>) -> Result<Option<Vec<String>>, Refusal> {
    let token = |scope: &String| {
        (1..=LONGEST_SCOPE).contains(&scope.len())
            && scope.bytes().all(|byte| matches!(byte, 0x21..=0x7e if byte != b'"' && byte != b'\\'))
    };
    match &scopes {
        Some(list) if list.len() > MOST_SCOPES || !list.iter().all(token) => {
            Err(unfit("`scopes` are up to 100 words of printable ASCII without spaces, `\"` and `\\`"))
        }
        _ => Ok(scopes),
    }
}

fn period(name: &str, text: &str) -> Result<u64, Refusal> {
    match Period::parse(text) {
        Ok(period) => Ok(period.as_secs()),
        Err(why) => Err(unfit(format!("`{name}` is no duration such as 24h or 90d {why}").trim_end().to_owned())),
    }
}

fn expiry(within: Option<&str>, at: Option<&str>) -> Result<Option<u64>, Refusal> {
    let now = now();
    let expires = match (within, at) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(unfit("`expires_in` or `expires_at`, not both")),
        (Some(text), None) => now.saturating_add(period("expires_in", text)?),
        (None, Some(text)) => text
            .parse::<jiff::Timestamp>()
            .ok()
            .and_then(|time| u64::try_from(time.as_second()).ok())
            .ok_or_else(|| unfit("`expires_at` is no time such as 2030-01-31T00:00:00Z"))?,
    };
    if expires <= now || expires > now.saturating_add(LONGEST_LIFE) {
        return Err(unfit("a key expires in the future, and within ten years"));
    }
    Ok(Some(expires))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_the_future() {
        for bad in
            [(Some("1h"), Some("2030-01-01T00:00:00Z")), (Some("0s"), None), (Some("soon"), None), (None, Some("tomorrow"))]
        {
            assert!(expiry(bad.0, bad.1).is_err(), "{bad:?}");
        }
        assert!(expiry(None, Some("2001-01-01T00:00:00Z")).is_err() && expiry(None, Some("2999-01-01T00:00:00Z")).is_err());
        assert!(matches!(expiry(None, None), Ok(None)));
        assert!(matches!(expiry(Some("90d"), None), Ok(Some(expires)) if expires > now()));
    }

    #[test]
    fn what_goes_into_headers_and_terminals_is_harmless() {
        assert!(label(Some("ci \u{1b}[31m".into())).is_err() && label(Some("x".repeat(201))).is_err());
        assert!(label(Some("für die CI".into())).is_ok());
        for bad in ["", "a b", "a\"", "é"] {
            assert!(scopes(Some(vec![bad.into()])).is_err(), "{bad}");
        }
        assert!(scopes(Some(vec!["catalog:read".into()])).is_ok() && scopes(Some(vec![])).is_ok());
    }
}
