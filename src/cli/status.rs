//! `portcullis status`: how a running gateway stands, from its admin API.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::keys::{ask, text};

/// A quota of which so much was used is nearly exhausted, in percent.
const NEARLY: u64 = 80;

#[derive(Args)]
pub struct Status {
    /// The gateway's admin API (`admin.bind`).
    #[arg(long, default_value = "127.0.0.1:9901", value_name = "ADDRESS")]
    admin: SocketAddr,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

pub fn run(status: &Status) -> ExitCode {
    match gather(status.admin) {
        Ok(all) if status.json => super::print(&format!("{all:#}\n")),
        Ok(all) => super::print(&tables(&all)),
        Err(why) => super::fail(&why),
    }
}

fn gather(admin: SocketAddr) -> Result<Value, String> {
    let get = |path: &str| ask(admin, None, "GET", path, &Value::Null);
    let upstreams = get("/upstreams")?;
    let (routes, process, quotas) = (get("/routes")?, get("/status")?, get("/quotas")?);
    let member = |of: &Value, name: &str| of.get(name).cloned().unwrap_or_default();
    let splits: Vec<_> = array(&routes, "routes").filter(|route| route.get("split").is_some()).collect();
    let splits: Vec<_> =
        splits.into_iter().map(|route| json!({ "route": member(route, "id"), "split": member(route, "split") })).collect();
    let nearly: Vec<_> = array(&quotas, "quotas").filter(|line| is_nearly_used_up(line)).cloned().collect();
    let mut all = process;
    if let Some(all) = all.as_object_mut() {
        all.insert("services".to_owned(), member(&upstreams, "services"));
        all.insert("route_circuit_breakers".to_owned(), member(&upstreams, "route_circuit_breakers"));
        all.insert("splits".to_owned(), splits.into());
        all.insert("quotas_nearly_used_up".to_owned(), nearly.into());
    }
    Ok(all)
}

fn array<'a>(of: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    of.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn number(of: &Value, name: &str) -> u64 {
    of.get(name).and_then(Value::as_u64).unwrap_or_default()
}

fn is_nearly_used_up(line: &Value) -> bool {
    let limit = number(line, "limit");
    limit > 0 && number(line, "used").saturating_mul(100) >= limit.saturating_mul(NEARLY)
}

fn tables(all: &Value) -> String {
    let mut out = String::new();
    let applied = i64::try_from(number(all, "last_reload_applied_at")).ok().and_then(|at| Timestamp::from_second(at).ok());
    let applied = applied.map_or_else(|| "at its start".to_owned(), |at| at.to_string());
    let refused = all.get("last_reload_succeeded").and_then(Value::as_bool) == Some(false);
    out.push_str(&format!("version {}, generation {}, applied {applied}", text(all, "version"), number(all, "generation")));
    out.push_str(if refused { "; THE LAST RELOAD WAS REFUSED\n" } else { "\n" });
    let draining = if all.get("draining").and_then(Value::as_bool) == Some(true) { ", draining" } else { "" };
    out.push_str(&format!(
        "{} requests in flight, {} connections{draining}\n",
        number(all, "in_flight"),
        number(all, "connections")
    ));
    let services: Vec<_> = array(all, "services").collect();
    let rows = services.iter().map(|service| {
        let endpoints = array(service, "endpoints").count();
        let panics = if service.get("panics").and_then(Value::as_bool) == Some(true) { " (panic)" } else { "" };
        vec![
            text(service, "name").to_owned(),
            text(service, "protocol").to_owned(),
            text(service, "balance").to_owned(),
            format!("{} of {endpoints}{panics}", number(service, "available")),
            breaker(service.get("circuit_breaker")),
        ]
    });
    table(&mut out, &["SERVICE", "PROTOCOL", "BALANCE", "AVAILABLE", "CIRCUIT"], rows);
    let rows = services.iter().flat_map(|service| {
        array(service, "endpoints").map(|endpoint| {
            vec![
                text(service, "name").to_owned(),
                text(endpoint, "address").to_owned(),
                text(endpoint, "state").to_owned(),
                number(endpoint, "weight").to_string(),
                number(endpoint, "in_flight").to_string(),
                endpoint.get("idle_connections").map(Value::to_string).unwrap_or_default(),
                endpoint.get("ewma_ms").map(Value::to_string).unwrap_or_default(),
                number(endpoint, "requests").to_string(),
                number(endpoint, "failures").to_string(),
                text(endpoint, "why").to_owned(),
            ]
        })
    });
    table(
        &mut out,
        &["SERVICE", "ENDPOINT", "STATE", "WEIGHT", "IN FLIGHT", "IDLE", "EWMA MS", "REQUESTS", "FAILURES", "WHY"],
        rows,
    );
    let rows = services.iter().flat_map(|service| {
        array(service, "failing").map(|one| {
            vec![
                text(service, "name").to_owned(),
                text(one, "kind").to_owned(),
                text(one, "name").to_owned(),
                text(one, "why").to_owned(),
            ]
        })
    });
    table(&mut out, &["SERVICE", "NOT FOUND", "NAME", "WHY"], rows);
    let rows = array(all, "route_circuit_breakers")
        .map(|one| vec![text(one, "route").to_owned(), text(one, "service").to_owned(), breaker(Some(one))]);
    table(&mut out, &["ROUTE", "SERVICE", "CIRCUIT"], rows);
    let rows = array(all, "splits").flat_map(|route| {
        array(route, "split").map(|target| {
            vec![text(route, "route").to_owned(), text(target, "service").to_owned(), number(target, "weight").to_string()]
        })
    });
    table(&mut out, &["SPLIT", "SERVICE", "WEIGHT"], rows);
    let rows = array(all, "quotas_nearly_used_up").map(|line| {
        let used = format!("{} of {}", number(line, "used"), number(line, "limit"));
        vec![text(line, "quota").to_owned(), text(line, "key").to_owned(), used, text(line, "resets_at").to_owned()]
    });
    table(&mut out, &["QUOTA", "KEY", "USED", "RESETS AT"], rows);
    out
}

/// `open for 3.2 s: 10 of 10 failed`
fn breaker(view: Option<&Value>) -> String {
    let Some(view) = view else { return "-".to_owned() };
    let left = number(view, "open_for_ms");
    let left = if left > 0 { format!(" for {:.1} s", left as f64 / 1000.0) } else { String::new() };
    let why = text(view, "why");
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    format!("{}{left}{why}", text(view, "state"))
}

/// Columns as wide as they need to be; nothing where there is no row.
fn table(out: &mut String, titles: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return;
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(titles.get(column).map(|title| title.len())).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..titles.len()).map(width).collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<_> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(padded.join("  ").trim_end());
        out.push('\n');
    };
    line(&mut std::iter::once(""));
    line(&mut titles.iter().copied());
    for row in &rows {
        line(&mut row.iter().map(String::as_str));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_what_is_not_there_is_left_out() {
        let all = json!({
            "version": "1", "generation": 3, "last_reload_applied_at": 1_700_000_000, "last_reload_succeeded": false,
            "in_flight": 2, "connections": 5,
            "services": [{
                "name": "shop", "protocol": "http1", "balance": "round_robin", "available": 1,
                "circuit_breaker": { "state": "open", "open_for_ms": 1500, "why": "10 of 10 failed" },
                "endpoints": [
                    { "address": "10.0.0.1:80", "state": "up", "weight": 1, "in_flight": 2, "requests": 10, "failures": 0,
                      "idle_connections": 3, "ewma_ms": 1.5 },
                    { "address": "10.0.0.20:80", "state": "unhealthy", "weight": 10, "why": "answered 500" },
                ],
            }],
        });
        let text = tables(&all);
        let expected = "version 1, generation 3, applied 2023-11-14T22:13:20Z; THE LAST RELOAD WAS REFUSED\n\
                        2 requests in flight, 5 connections\n\n\
                        SERVICE  PROTOCOL  BALANCE      AVAILABLE  CIRCUIT\n\
                        shop     http1     round_robin  1 of 2     open for 1.5 s: 10 of 10 failed\n\n\
                        SERVICE  ENDPOINT      STATE      WEIGHT  IN FLIGHT  IDLE  EWMA MS  REQUESTS  FAILURES  WHY\n\
                        shop     10.0.0.1:80   up         1       2          3     1.5      10        0\n\
                        shop     10.0.0.20:80  unhealthy  10      0                         0         0         answered 500\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn quotas_count_from_four_fifths() {
        let line = |used: u64, limit: Value| is_nearly_used_up(&json!({ "used": used, "limit": limit }));
        assert!(line(80, json!(100)) && line(101, json!(100)));
        assert!(!line(79, json!(100)) && !line(5, Value::Null));
    }
}
