//! `portcullis cache`: what a running gateway has stored, through its admin API.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::keys::{Access, text};
use crate::path;

/// Things of one order.
const TOGETHER: usize = 1000;
/// Bytes that they have in it: half of what the gateway reads.
const TOGETHER_BYTES: usize = 512 << 10;

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
    /// Say what is stored of a URL, and what a request for it would get, and why.
    Explain {
        url: String,
        /// The request's method.
        #[arg(long, default_value = "GET")]
        method: String,
        /// A field of the request, such as 'Accept-Language: de'. Several times for several fields.
        #[arg(long = "header", value_name = "FIELD")]
        headers: Vec<String>,
    },
    /// List what each route has stored, and the entries that take the most room.
    Top {
        /// How many entries, up to 1000.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
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
    let done = match &cache.action {
        Action::Purge(purge) => perform(purge, &cache.access),
        Action::Explain { url, method, headers } => {
            let fields = headers.iter().map(|field| format!("&header={}", path::value(field.as_bytes()))).collect::<String>();
            look(
                &cache.access,
                &format!("/cache/explain?url={}&method={}{fields}", path::value(url.as_bytes()), path::value(method.as_bytes())),
            )
        }
        Action::Top { limit } => look(&cache.access, &format!("/cache/top?limit={limit}")),
    };
    match done {
        Ok(text) => super::print(&text),
        Err(why) => super::fail(&why),
    }
}

/// What the gateway says, as it says it.
fn look(access: &Access, path: &str) -> Result<String, String> {
    let told = access.asker()?("GET", path, &Value::Null)?;
    Ok(format!("{told:#}\n"))
}

fn perform(purge: &Purge, access: &Access) -> Result<String, String> {
    let mut urls = purge.urls.clone();
    if urls.iter().any(|url| url == "-") {
        let lines = std::io::read_to_string(std::io::stdin()).map_err(|error| format!("cannot read standard input: {error}"))?;
        urls.retain(|url| url != "-");
        urls.extend(lines.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    let mut orders: Vec<Value> = pieces(&urls).map(|some| json!({ "urls": some, "soft": purge.soft })).collect();
    let many = [("prefixes", &purge.prefixes), ("hosts", &purge.hosts)];
    for (kind, names) in many {
        orders.extend(pieces(names).map(|some| json!({ kind: some, "soft": purge.soft })));
    }
    orders.extend(pieces(&purge.tags).map(|some| {
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

/// As many of them at once as one order takes.
fn pieces(names: &[String]) -> impl Iterator<Item = &[String]> {
    let mut rest = names;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |name: &&String| {
            bytes += json!(name).to_string().len() + 1;
            bytes <= TOGETHER_BYTES
        };
        // At least one: too long by itself, it is for the gateway to refuse.
        let count = rest.iter().take(TOGETHER).take_while(fits).count().max(1);
        let (piece, others) = rest.split_at(count.min(rest.len()));
        rest = others;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_no_more_things_and_bytes_than_the_gateway_takes() {
        let url = |number: usize, length: usize| format!("https://shop.example/{number}/{}", "\"".repeat(length));
        for (count, length, orders) in [(0, 1, 0), (1, 1, 1), (1000, 1, 1), (1001, 1, 2), (200, 4000, 4), (3, 600_000, 3)] {
            let urls: Vec<_> = (0..count).map(|number| url(number, length)).collect();
            let pieces: Vec<_> = pieces(&urls).collect();
            assert_eq!((pieces.len(), &pieces.concat()), (orders, &urls), "{count} {length}");
            let short = |piece: &&[String]| piece.len() == 1 || json!(piece).to_string().len() <= TOGETHER_BYTES + 2;
            assert!(pieces.iter().all(short), "{count} {length}");
        }
    }
}
