//! `portcullis cache`: what a running gateway has stored, through its admin API.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::keys::{Access, text};

/// Things of one order.
const TOGETHER: usize = 1000;

#[derive(Args)]
pub struct Cache {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    access: Access,
}

#[derive(Subcommand)]
enum Action {
    /// Take answers out of the cache: at once here, within a second on every gateway that shares the Redis.
    Purge(Purge),
}

#[derive(Args)]
struct Purge {
    /// URLs, such as https://shop.example/items/1. The scheme and the port make no difference. With `-`, one a line from standard input.
    urls: Vec<String>,
    /// All URLs that begin so, up to their queries: https://shop.example/items/
    #[arg(long = "prefix", value_name = "URL")]
    prefixes: Vec<String>,
    /// All of a host.
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// All answers that bear this tag (`Surrogate-Key`, `Cache-Tag`); say whose with --of-host, --of-route or --everywhere.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// The tags of this host's answers.
    #[arg(long, value_name = "HOST", conflicts_with_all = ["of_route", "everywhere"])]
    of_host: Option<String>,
    /// The tags of this route's answers.
    #[arg(long, value_name = "ROUTE", conflicts_with = "everywhere")]
    of_route: Option<String>,
    /// The tags of all answers, whosever.
    #[arg(long)]
    everywhere: bool,
    /// All there is.
    #[arg(long)]
    everything: bool,
    /// Mark it stale: it may be given once more where stale answers may be, while a new one is fetched.
    #[arg(long)]
    soft: bool,
}

pub fn run(cache: &Cache) -> ExitCode {
    let Action::Purge(purge) = &cache.action;
    match perform(purge, &cache.access) {
        Ok(text) => super::print(&text),
        Err(why) => super::fail(&why),
    }
}

fn perform(purge: &Purge, access: &Access) -> Result<String, String> {
    let mut urls = purge.urls.clone();
    if urls.iter().any(|url| url == "-") {
        let lines = std::io::read_to_string(std::io::stdin()).map_err(|error| format!("cannot read standard input: {error}"))?;
        urls.retain(|url| url != "-");
        urls.extend(lines.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    let mut orders: Vec<Value> = urls.chunks(TOGETHER).map(|some| json!({ "urls": some, "soft": purge.soft })).collect();
    let many = [("prefixes", &purge.prefixes), ("hosts", &purge.hosts)];
    for (kind, names) in many {
        orders.extend(names.chunks(TOGETHER).map(|some| json!({ kind: some, "soft": purge.soft })));
    }
    orders.extend(purge.tags.chunks(TOGETHER).map(|some| {
        json!({ "tags": some, "soft": purge.soft, "host": purge.of_host, "route": purge.of_route, "everywhere": purge.everywhere })
    }));
    if purge.everything {
        orders.push(json!({ "everything": true, "soft": purge.soft }));
    }
    if orders.is_empty() {
        return Err("nothing to purge: name URLs, --prefix, --host, --tag or --everything".to_owned());
    }
    let ask = access.asker()?;
    let (mut count, mut told, mut untold) = (0, false, None);
    for order in &orders {
        let answer = ask("POST", "/cache/purge", order)?;
        count += answer.get("purged").and_then(Value::as_u64).unwrap_or_default();
        match text(&answer, "others") {
            "told" => told = true,
            "not_told" => untold = Some(text(&answer, "detail").to_owned()),
            _ => {}
        }
    }
    if let Some(why) = untold {
        return Err(why);
    }
    let everywhere = if told { ", here and on the gateways that share the Redis" } else { "" };
    let done = if purge.soft { "marked stale" } else { "purged" };
    Ok(format!("{done}: {count}{everywhere}\n"))
}
