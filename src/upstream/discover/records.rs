//! Endpoints from DNS records: the addresses of a name, or the services that SRV records name (RFC 2782). They are asked for again when
//! their lifetime is over, within bounds.
//!
//! Priorities and weights of SRV records are those of the endpoints. Host names in them are no names for TLS to verify: whoever can change the records could name any host that has a certificate.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use tokio::task::JoinSet;

use super::family::Family;
use super::message::{A, AAAA, Answer, Data, SRV};
use super::stub::Stub;
use super::{Announced, Discovery, Finding, Found, Said};

/// The most steps from one alias to the next.
const MOST_ALIASES: usize = 16;
/// The most targets whose addresses are asked for.
const MOST_TARGETS: usize = 1000;
/// And of how many at a time.
const AT_ONCE: usize = 16;
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
    pub family: Family,
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
                    let (addresses, ttl) = addresses_of(&self.stub, host, self.family).await?;
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

/// What a host name stands for, and for how long.
type Addresses = (Vec<IpAddr>, Option<Duration>);

/// Both families at once, as far as they are of use: there are servers that never answer for one of them. One of them may fail where the other
/// has something.
async fn addresses_of(stub: &Stub, host: &str, family: Family) -> Result<Addresses, String> {
    let ask = async |wanted: bool, kind| if wanted { Some(stub.ask(host, kind).await) } else { None };
    let (four, six) = tokio::join!(ask(family.has_ipv4(), A), ask(family.has_ipv6(), AAAA));
    let (mut addresses, mut ttl, mut failure) = (Vec::new(), None, None);
    for answer in [four, six].into_iter().flatten() {
        match answer {
            Ok(answer) => gather(&answer, host, family, &mut addresses, &mut ttl),
            Err(why) => failure = Some(why),
        }
    }
    match failure {
        Some(why) if addresses.is_empty() => Err(why),
        _ => Ok((addresses, ttl)),
    }
}

/// The same of several, some at a time.
async fn addresses_of_all(stub: &Stub, hosts: BTreeSet<String>, family: Family) -> Result<HashMap<String, Addresses>, String> {
    let (mut known, mut asking, mut hosts) = (HashMap::new(), JoinSet::new(), hosts.into_iter());
    loop {
        for host in hosts.by_ref().take(AT_ONCE - asking.len().min(AT_ONCE)) {
            let stub = stub.clone();
            asking.spawn(async move {
                let found = addresses_of(&stub, &host, family).await;
                (host, found)
            });
        }
        let Some(found) = asking.join_next().await else { return Ok(known) };
        let (host, found) = found.map_err(|error| error.to_string())?;
        known.insert(host, found?);
    }
}

impl Records {
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
        let (mut found, mut told, mut untold) = (Vec::new(), HashMap::new(), BTreeSet::new());
        for (_, _, port, target, lives) in named.iter().take(MOST_TARGETS) {
            ttl = shorter(ttl, *lives);
            // `.`: there decidedly is no such service.
            if target.is_empty() || *port == 0 || told.contains_key(target.as_str()) || untold.contains(*target) {
                continue;
            }
            let mut addresses = Vec::new();
            gather(&answer, target, self.family, &mut addresses, &mut ttl);
            match addresses.is_empty() {
                true => drop(untold.insert((*target).clone())),
                false => drop(told.insert(target.to_string(), addresses)),
            }
        }
        for (target, (addresses, lives)) in addresses_of_all(&self.stub, untold, self.family).await? {
            ttl = lives.map_or(ttl, |lives| shorter(ttl, lives));
            told.insert(target, addresses);
        }
        for (priority, weight, port, target, _) in named.into_iter().take(MOST_TARGETS).filter(|(_, _, port, ..)| *port != 0) {
            let addresses = told.get(target.as_str()).into_iter().flatten().copied();
            found.extend(addresses.map(|ip| Announced {
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

fn gather(answer: &Answer, host: &str, family: Family, addresses: &mut Vec<IpAddr>, ttl: &mut Option<Duration>) {
    let (owner, alias) = canonical(answer, host);
    for record in answer.records.iter().filter(|record| record.owner == owner) {
        if let Data::Address(ip) = record.data
            && family.takes(ip)
        {
            addresses.push(ip);
            *ttl = shorter(*ttl, alias.map_or(record.ttl, |alias| alias.min(record.ttl)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::Arc;

    use super::*;

    /// Answers questions for SRV records with so many targets, and those for their addresses after a while.
    fn server(targets: u8, delay: Duration) -> std::net::SocketAddr {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                let (question, socket) = (packet[..length].to_vec(), socket.clone());
                std::thread::spawn(move || {
                    // Behind the question stands the additional record.
                    let mut answer = question[..length - 11].to_vec();
                    let kind = u16::from_be_bytes([answer[answer.len() - 4], answer[answer.len() - 3]]);
                    let mut record = |data: &[u8]| {
                        answer.extend_from_slice(&[0xc0, 12]);
                        for word in [kind, 1, 0, 30, data.len() as u16] {
                            answer.extend_from_slice(&word.to_be_bytes());
                        }
                        answer.extend_from_slice(data);
                    };
                    let records = match kind {
                        SRV => {
                            (0..targets)
                                .for_each(|number| record(&[0, 1, 0, 1, 0, 80, 2, b'a' + number / 10, b'a' + number % 10, 0]));
                            targets
                        }
                        _ => {
                            std::thread::sleep(delay);
                            (kind == A).then(|| record(&[10, 0, 0, question[14]])).map_or(0, |()| 1)
                        }
                    };
                    answer[2..4].copy_from_slice(&0x8180u16.to_be_bytes());
                    answer[6..8].copy_from_slice(&u16::from(records).to_be_bytes());
                    answer[10..12].copy_from_slice(&[0, 0]);
                    let _ = socket.send_to(&answer, from);
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn targets_are_asked_for_together() {
        let (delay, targets) = (Duration::from_millis(200), 32);
        let records = Records {
            wanted: Wanted::Services { name: "_http._tcp.test".into() },
            stub: Stub(vec![server(targets, delay)]),
            family: Family::Any,
            least: Duration::from_secs(1),
            most: Duration::from_secs(60),
            believes_none: false,
        };
        let began = std::time::Instant::now();
        let found = records.find().await.unwrap();
        assert_eq!(found.endpoints.unwrap().len(), usize::from(targets));
        assert_eq!(found.again, Some(Duration::from_secs(30)));
        assert!(began.elapsed() < delay * u32::from(targets) / 2, "{:?}", began.elapsed());
    }
}
