//! `GET /quotas`: what was used. `DELETE /quotas?key=acme`: give a client its quotas back.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, problem};
use crate::limits::book::{Book, Line};

/// Lines of one answer, if it is not asked for fewer.
const MOST: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    /// The client, as a line's `key` says it: for a quota by consumer, the consumer's name.
    key: Option<String>,
    /// The quota, as a line's `quota` says it. Default: all.
    quota: Option<String>,
    limit: Option<usize>,
}

pub(super) fn router() -> Router<Admin> {
    Router::new().route("/quotas", get(list).delete(reset))
}

async fn list(State(admin): State<Admin>, which: Result<Query<Which>, QueryRejection>) -> Response {
    let Ok(Query(which)) = which else { return unfit() };
    let book = Book::of(&admin.core.ledger);
    let most = which.limit.unwrap_or(MOST).min(MOST);
    let lines = book.lines(which.key.as_deref(), usize::MAX);
    let wanted = lines.iter().filter(|line| which.quota.as_deref().is_none_or(|quota| *line.quota == *quota));
    let lines: Vec<_> = wanted.take(most).map(describe).collect();
    Json(json!({ "quotas": lines })).into_response()
}

fn describe(line: &Line) -> Value {
    let limit = (line.limit > 0).then_some(line.limit);
    json!({
        "quota": &*line.quota,
        "key": line.key,
        "used": line.used,
        "limit": limit,
        "remaining": limit.map(|limit| limit.saturating_sub(line.used)),
        "resets_at": Timestamp::from_second(line.resets_at).ok().map(|at| at.to_string()),
    })
}

async fn reset(State(admin): State<Admin>, which: Result<Query<Which>, QueryRejection>) -> Response {
    let Ok(Query(Which { key: Some(key), quota, limit: None })) = which else { return unfit() };
    let book = Book::of(&admin.core.ledger);
    let count = book.reset(&key, quota.as_deref());
    if count == 0 {
        return problem(StatusCode::NOT_FOUND, "nothing of that quota was used under that key", json!({}));
    }
    log::info!("audit: gave {key:?} {count} quotas back");
    let saved = tokio::task::spawn_blocking(move || book.save()).await;
    Json(json!({ "reset": count, "saved": matches!(saved, Ok(Ok(()))) })).into_response()
}

fn unfit() -> Response {
    problem(
        StatusCode::BAD_REQUEST,
        "the parameters are `key` (which `DELETE` needs), `quota` and, for `GET`, `limit`",
        json!({}),
    )
}
