//! Endpoints from DNS records: the addresses of a name, or the services that SRV records name (RFC 2782). They are asked for again when
//! their lifetime is over, within bounds.
//!
//! Priorities and weights of SRV records are those of the endpoints. Host names in them are no names for TLS to verify: whoever can change the records could name any host that has a certificate.

use std::net::IpAddr;
use std::time::Duration;

use super::message::{A, AAAA, Answer, Data, SRV};
use super::stub::Stub;
use super::{Announced, Discovery, Finding, Found, Said};

/// The most steps from one alias to the next.
const MOST_ALIASES: usize = 16;
/// The most targets whose addresses are asked for.
const MOST_TARGETS: usize = 1000;
const MOST_WEIGHT: u32 = 1000;
const MOST_RANK: usize = 100;

/// What to ask for.
pub enum Wanted {
    /// A and AAAA records; the port is known.
    Addresses {
        host: Box<str>,
        port: u16,
    },
    Services {
        name: Box<str>,
    },
}

pub struct Records {
    pub wanted: Wanted,
    pub stub: Stub,
    /// Within which lifetimes are obeyed.
    pub least: Duration,
    pub most: Duration,
    /// That there is no such name, or no record of it, means that there are no endpoints.
    pub believes_none: bool,
}

impl Discovery for Records {
    fn what(&self) -> &str {
        match &self.wanted {
            Wanted::Addresses { host, .. } => host,
            Wanted::Services { name } => name,
        }
    }

    fn kind(&self) -> &'static str {
        match &self.wanted {
            Wanted::Addresses { .. } => "host",
            Wanted::Services { .. } => "record",
        }
    }

    fn find(&self) -> Finding<'_> {
        Box::pin(async {
            let (endpoints, ttl) = match &self.wanted {
                Wanted::Addresses { host, port } => {
                    let (addresses, ttl) = self.addresses(host).await?;
                    let announce = |ip: IpAddr| Announced {
                        address: std::net::SocketAddr::new(ip, *port).into(),
                        said: None,
                        authority: format!("{host}:{port}"),
                        host: Some(host.to_string()),
                    };
                    (addresses.into_iter().map(announce).collect(), ttl)
                }
                Wanted::Services { name } => self.services(name).await?,
            };
            // An answer of nothing has no lifetime here: it is asked again as soon as may be.
            let again = ttl.unwrap_or_default().clamp(self.least, self.most);
            Ok(Found { endpoints: Some(endpoints), again: Some(again), may_be_none: self.believes_none })
        })
    }
}

impl Records {
    /// Both families at once. One of them may fail where the other has something.
    async fn addresses(&self, host: &str) -> Result<(Vec<IpAddr>, Option<Duration>), String> {
        let (four, six) = tokio::join!(self.stub.ask(host, A), self.stub.ask(host, AAAA));
        let (mut addresses, mut ttl, mut failure) = (Vec::new(), None, None);
        for answer in [four, six] {
            match answer {
                Ok(answer) => gather(&answer, host, &mut addresses, &mut ttl),
                Err(why) => failure = Some(why),
            }
        }
        match failure {
            Some(why) if addresses.is_empty() => Err(why),
            _ => Ok((addresses, ttl)),
        }
    }

    async fn services(&self, name: &str) -> Result<(Vec<Announced>, Option<Duration>), String> {
        let answer = self.stub.ask(name, SRV).await?;
        let (owner, mut ttl) = canonical(&answer, name);
        let named = answer.records.iter().filter(|record| record.owner == owner).filter_map(|record| match &record.data {
            Data::Service { priority, weight, port, target } => Some((*priority, *weight, *port, target, record.ttl)),
            _ => None,
        });
        let named: Vec<_> = named.collect();
        let mut priorities: Vec<u16> = named.iter().map(|(priority, ..)| *priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        // Only their order counts.
        let rank = |priority| priorities.iter().position(|known| *known == priority).map_or(0, |rank| rank.min(MOST_RANK) as u32);
        let heaviest = named.iter().map(|(_, weight, ..)| u32::from(*weight)).max().unwrap_or(0);
        let mut found = Vec::new();
        for (priority, weight, port, target, lives) in named.into_iter().take(MOST_TARGETS) {
            ttl = shorter(ttl, lives);
            // `.`: there decidedly is no such service.
            if target.is_empty() || port == 0 {
                continue;
            }
            let mut addresses = Vec::new();
            gather(&answer, target, &mut addresses, &mut ttl);
            if addresses.is_empty() {
                let (asked, lives) = self.addresses(target).await?;
                addresses = asked;
                ttl = lives.map_or(ttl, |lives| shorter(ttl, lives));
            }
            found.extend(addresses.into_iter().map(|ip| Announced {
                address: std::net::SocketAddr::new(ip, port).into(),
                said: Some(Said { weight: scaled(weight.into(), heaviest), priority: rank(priority), zone: None, most: None }),
                authority: format!("{target}:{port}"),
                host: None,
            }));
        }
        Ok((found, ttl))
    }
}

/// Weights here go to a thousand. No weight is a small one.
fn scaled(weight: u32, heaviest: u32) -> u32 {
    let scaled = if heaviest > MOST_WEIGHT { weight * MOST_WEIGHT / heaviest } else { weight };
    scaled.max(1)
}

fn shorter(ttl: Option<Duration>, other: Duration) -> Option<Duration> {
    Some(ttl.map_or(other, |ttl| ttl.min(other)))
}

/// What a name comes to, from alias to alias, and for how long.
fn canonical(answer: &Answer, name: &str) -> (String, Option<Duration>) {
    let (mut name, mut ttl) = (name.trim_end_matches('.').to_ascii_lowercase(), None);
    for _ in 0..MOST_ALIASES {
        let alias = answer.records.iter().find_map(|record| match &record.data {
            Data::Alias(to) if record.owner == name => Some((to.clone(), record.ttl)),
            _ => None,
        });
        let Some((to, lives)) = alias else { break };
        ttl = shorter(ttl, lives);
        name = to;
    }
    (name, ttl)
}

fn gather(answer: &Answer, host: &str, addresses: &mut Vec<IpAddr>, ttl: &mut Option<Duration>) {
    let (owner, alias) = canonical(answer, host);
    for record in answer.records.iter().filter(|record| record.owner == owner) {
        if let Data::Address(ip) = record.data {
            addresses.push(ip);
            *ttl = shorter(*ttl, alias.map_or(record.ttl, |alias| alias.min(record.ttl)));
        }
    }
}
