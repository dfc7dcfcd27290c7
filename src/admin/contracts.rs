//! `GET /contracts`: what broke the schemas of `validate`, refused or not, by where they are written.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::Admin;
use super::keys::timestamp;
use crate::policy::validate::report::{Kind, Reports};

pub(super) fn router() -> Router<Admin> {
    Router::new().route("/contracts", get(list))
}

async fn list(State(admin): State<Admin>) -> Json<Value> {
    let all = Reports::of(&admin.core.ledger).all();
    let scopes = all.into_iter().map(|(scope, mut kinds)| {
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.count));
        json!({ "scope": scope, "broken": kinds.iter().map(describe).collect::<Vec<_>>() })
    });
    Json(json!({ "contracts": scopes.collect::<Vec<_>>() }))
}

fn describe(kind: &Kind) -> Value {
    let consumers = kind.consumers.iter().map(|(name, count)| json!({ "consumer": name, "count": count }));
    let mut told = json!({
        "in": kind.part.name(),
        "name": kind.name,
        "pointer": kind.pointer,
        "keyword": kind.keyword,
        "detail": kind.detail,
        "count": kind.count,
        "consumers": consumers.collect::<Vec<_>>(),
        "first": timestamp(kind.first),
        "last": timestamp(kind.last),
    });
    if let Some(told) = told.as_object_mut() {
        if !kind.operation.is_empty() {
            told.insert("operation".to_owned(), Value::from(&*kind.operation));
        }
        if let Some(example) = &kind.example {
            told.insert("example".to_owned(), example.clone());
        }
    }
    told
}
