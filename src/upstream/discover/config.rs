//! What people write about where endpoints are found.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Discovery;
use super::family::Family;
use super::file::File;
use super::records::{Records, Wanted};
use super::stub::Stub;
use crate::problem::{Problem, Problems};
use crate::upstream::address::Address;
use crate::value::{Period, Spanned, period_within};

const HOUR: u64 = 3_600_000;
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(300);

/// Where endpoints are found, beside those that are listed: exactly one of `file`, `dns` and `srv`. What is found replaces what was found
/// before, without a reload; endpoints that leave get no new requests, and finish those they have.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiscoverConfig {
    /// A YAML or JSON file with a list like `endpoints`, of IP addresses and Unix sockets, relative to this file. It is looked at twice a
    /// second; replace it by renaming. One that is broken changes nothing.
    pub file: Option<Spanned<PathBuf>>,
    /// A host name and a port, whose A and AAAA records are asked of `servers` and kept for their lifetime. (A host name among `endpoints`
    /// is resolved by the system.)
    pub dns: Option<Spanned<String>>,
    /// A name with SRV records: `_http._tcp.example.internal`. They become endpoints, with their priorities and weights.
    pub srv: Option<Spanned<String>>,
    /// The DNS servers to ask, `10.0.0.2` or `10.0.0.2:5353`. Default: those of `/etc/resolv.conf`.
    pub servers: Vec<Spanned<String>>,
    /// The shortest lifetime of records that is obeyed, `100ms` to `1h`. Default: `1s`.
    pub min_ttl: Option<Spanned<Period>>,
    /// The longest, `1s` to `24h`. Default: `5m`.
    pub max_ttl: Option<Spanned<Period>>,
    /// What it means that DNS knows no such name or no record of it: `keep` the last endpoints, or `drop` them. Default: `keep`.
    pub missing: Missing,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    #[default]
    Keep,
    Drop,
}

/// A way to find endpoints, and what its state is kept under.
pub struct Compiled {
    pub key: String,
    /// Its endpoints have a host name that TLS may verify.
    pub named: bool,
    pub discovery: Box<dyn Discovery>,
}

impl DiscoverConfig {
    /// `None` only if there was a problem.
    pub fn compile(config: &Spanned<Self>, tls: bool, family: Family, base: &Path, problems: &mut Problems) -> Option<Compiled> {
        let servers: Option<Vec<_>> = config.servers.iter().map(|server| read_server(server, problems)).collect();
        let least = config.min_ttl.as_ref().map_or(Some(LEAST), |ttl| period_within("min_ttl", ttl, 100, HOUR, problems));
        let most = config.max_ttl.as_ref().map_or(Some(MOST), |ttl| period_within("max_ttl", ttl, 1000, 24 * HOUR, problems));
        let (servers, least, most) = (servers?, least?, most?);
        if least > most {
            let place = config.min_ttl.as_ref().or(config.max_ttl.as_ref()).map_or(config.place, |ttl| ttl.place);
            problems.push(Problem::error(place, "`min_ttl` is longer than `max_ttl`"));
            return None;
        }
        let wanted = match (&config.file, &config.dns, &config.srv) {
            (Some(file), None, None) => {
                let of_dns = !servers.is_empty() || config.min_ttl.is_some() || config.max_ttl.is_some();
                if of_dns || config.missing != Missing::Keep {
                    let message = "`servers`, `min_ttl`, `max_ttl` and `missing` are for `dns` and `srv`";
                    problems.push(Problem::error(config.place, message));
                    return None;
                }
                let path = base.join(&file.value);
                let key = format!("file:{}:{tls}", path.display());
                return Some(Compiled { key, named: false, discovery: Box::new(File::new(path, tls)) });
            }
            (None, Some(name), None) => match Address::parse_of(name, tls) {
                Ok(Address::Named(host, port)) => Wanted::Addresses { host, port },
                Ok(Address::Fixed(_)) => {
                    let problem = Problem::error(name.place, format!("`{}` is no host name", name.value));
                    problems.push(problem.hint("write it under `endpoints`"));
                    return None;
                }
                Err(bad) => {
                    problems.push(Problem::error(name.place, bad.message).hint(bad.hint));
                    return None;
                }
            },
            (None, None, Some(name)) => {
                let bare = name.trim_end_matches('.');
                // Its shape is that of a host name, with any port.
                if Address::of_host(bare, 1).is_err() || !bare.starts_with('_') {
                    let problem = Problem::error(name.place, format!("`{}` is no name of SRV records", name.value));
                    problems.push(problem.hint("for example `srv: _http._tcp.example.internal`"));
                    return None;
                }
                Wanted::Services { name: bare.to_ascii_lowercase().into() }
            }
            _ => {
                let problem = Problem::error(config.place, "`discover` needs exactly one of `file`, `dns` and `srv`");
                problems.push(problem.hint("for example `discover: { file: endpoints.yaml }`"));
                return None;
            }
        };
        let what = match &wanted {
            Wanted::Addresses { host, port } => format!("dns:{host}:{port}"),
            Wanted::Services { name } => format!("srv:{name}"),
        };
        let believes_none = config.missing == Missing::Drop;
        let key = format!("{what}:{servers:?}:{least:?}:{most:?}:{believes_none}{}", family.key());
        let named = matches!(wanted, Wanted::Addresses { .. });
        Some(Compiled {
            key,
            named,
            discovery: Box::new(Records { wanted, stub: Stub(servers), family, least, most, believes_none }),
        })
    }
}

fn read_server(text: &Spanned<String>, problems: &mut Problems) -> Option<SocketAddr> {
    let ip = || text.trim_matches(['[', ']']).parse().ok().map(|ip| SocketAddr::new(ip, 53));
    let server = text.parse::<SocketAddr>().ok().or_else(ip).filter(|server| server.port() != 0);
    if server.is_none() {
        let problem = Problem::error(text.place, format!("`{}` is no address of a DNS server", text.value));
        problems.push(problem.hint("for example `10.0.0.2` or `10.0.0.2:5353`"));
    }
    server
}
