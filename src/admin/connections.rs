//! `GET /connections`: who is connected, worker by worker.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, problem};
use crate::cidr::CidrSet;
use crate::core::Core;
use crate::listen::connections::{ConnectionTable, Entry};

/// How many connections are listed unless the query says otherwise, and at most.
const USUAL: usize = 100;
const MOST: usize = 1000;

/// Which connections are listed. The counts are of all.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    listener: Option<String>,
    /// `opening`, `h1`, `h2` or `tcp`.
    protocol: Option<String>,
    /// `idle` or `active`.
    state: Option<String>,
    /// An address, or a CIDR range.
    client: Option<String>,
    worker: Option<usize>,
    limit: Option<usize>,
}

struct Filter {
    wanted: Wanted,
    client: Option<CidrSet>,
}

impl Filter {
    fn new(wanted: Wanted) -> Result<Self, String> {
        let one_of = |name: &str, value: &Option<String>, known: &[&str]| match value {
            Some(value) if !known.contains(&&**value) => Err(format!("`{name}` is one of {}", known.join(", "))),
            _ => Ok(()),
        };
        one_of("protocol", &wanted.protocol, &["opening", "h1", "h2", "tcp"])?;
        one_of("state", &wanted.state, &["idle", "active"])?;
        if !(1..=MOST).contains(&wanted.limit.unwrap_or(USUAL)) {
            return Err(format!("`limit` is a number from 1 to {MOST}"));
        }
        let client = match &wanted.client {
            Some(text) => Some(CidrSet::of(text).ok_or("`client` is an address or a CIDR range")?),
            None => None,
        };
        Ok(Filter { wanted, client })
    }

    fn takes(&self, entry: &Entry) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        let address: IpAddr = entry.client().ip();
        is(&self.wanted.listener, &entry.listener)
            && is(&self.wanted.protocol, entry.speaks().name())
            && is(&self.wanted.state, state(entry))
            && self.client.as_ref().is_none_or(|range| range.contains(address))
    }
}

fn state(entry: &Entry) -> &'static str {
    if entry.active() > 0 { "active" } else { "idle" }
}

pub async fn connections(State(admin): State<Admin>, query: Result<Query<Wanted>, QueryRejection>) -> Response {
    let filter = match query {
        Ok(Query(wanted)) => Filter::new(wanted),
        Err(rejection) => Err(rejection.body_text()),
    };
    match filter {
        Ok(filter) => Json(describe(&admin.core.connections, &filter)).into_response(),
        Err(why) => problem(StatusCode::BAD_REQUEST, &why, json!({})),
    }
}

/// How many client connections are open.
pub fn count(core: &Core) -> usize {
    core.connections.iter().map(|table| table.open().len()).sum()
}

fn describe(tables: &[Arc<ConnectionTable>], filter: &Filter) -> Value {
    let limit = filter.wanted.limit.unwrap_or(USUAL);
    let (mut workers, mut listed, mut matched) = (Vec::new(), Vec::new(), 0);
    for (number, table) in tables.iter().enumerate() {
        let open = table.open();
        workers.push(summary(number, table.accepted(), &open));
        if filter.wanted.worker.is_some_and(|wanted| wanted != number) {
            continue;
        }
        for entry in open.iter().filter(|entry| filter.takes(entry)) {
            matched += 1;
            if listed.len() < limit {
                listed.push(one(number, entry));
            }
        }
    }
    json!({ "workers": workers, "matched": matched, "connections": listed })
}

fn summary(number: usize, accepted: u64, open: &[Arc<Entry>]) -> Value {
    let mut groups: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for entry in open {
        let group = groups.entry((&entry.listener, entry.speaks().name())).or_default();
        group.0 += 1;
        group.1 += usize::from(entry.active() > 0);
    }
    let active: usize = groups.values().map(|(_, active)| active).sum();
    let groups: Vec<Value> = groups
        .into_iter()
        .map(|((listener, protocol), (open, active))| {
            json!({ "listener": listener, "protocol": protocol, "open": open, "active": active, "idle": open - active })
        })
        .collect();
    json!({
        "worker": number,
        "accepted": accepted,
        "open": open.len(),
        "active": active,
        "idle": open.len() - active,
        "listeners": groups,
    })
}

fn one(worker: usize, entry: &Entry) -> Value {
    json!({
        "worker": worker,
        "client": entry.client().to_string(),
        "peer": entry.peer.to_string(),
        "listener": &*entry.listener,
        "protocol": entry.speaks().name(),
        "age_ms": u64::try_from(entry.age().as_millis()).unwrap_or(u64::MAX),
        "requests": entry.requests(),
        "state": state(entry),
        "active": entry.active(),
        "route": entry.route().as_deref(),
    })
}
