//! `redis:`, as people write it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::redis::cluster::ClusterClient;
use ::redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use ::redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisError, TlsCertificates,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Redis;
use super::counts::Counts;
use super::link::{Target, TargetClient};
use crate::ledger::Ledger;
use crate::problem::{Place, Problem, Problems};
use crate::tally::Tallies;
use crate::value::{OneOrMany, Period, Secret, Spanned};

/// How long a peer may leave what was sent to it without a sign of life before the connection counts as broken: a host that vanished
/// says nothing.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a connection is idle before the peer is asked for a sign of life.
const IDLE: Duration = Duration::from_secs(15);
/// Times that a Cluster's client sends a command anew, after it was redirected or a node went away.
const CLUSTER_RETRIES: u32 = 3;
/// How long a Cluster's client waits for one node. Callers have deadlines of their own.
const CLUSTER_PATIENCE: Duration = Duration::from_millis(500);

/// The Redis (5 or later, or Valkey) that several gateways share.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// `host:port` of the server; of a Cluster, of some of its nodes: the others are found.
    pub nodes: OneOrMany<Spanned<String>>,
    /// The nodes form a Redis Cluster. Default: false.
    #[serde(default)]
    pub cluster: bool,
    /// TLS to the nodes. Default: plain TCP.
    #[serde(default)]
    pub tls: Option<Spanned<RedisTlsConfig>>,
    /// The ACL user. Default: Redis's `default` user.
    #[serde(default)]
    pub username: Option<Spanned<String>>,
    /// The user's password.
    #[serde(default)]
    pub password: Option<Spanned<Secret>>,
    /// The database's number; a Cluster has but 0. Default: 0.
    #[serde(default)]
    pub database: Spanned<u32>,
    /// The longest that a request waits for Redis, `1ms` to `10s`. Default: `10ms`.
    #[serde(default = "deadline")]
    pub deadline: Spanned<Period>,
    /// The longest that opening a connection takes, with TLS and authentication, `10ms` to `1m`. Requests do not wait that long.
    /// Default: `1s`.
    #[serde(default = "connect_timeout")]
    pub connect_timeout: Spanned<Period>,
    /// What every key begins with: gateways that share limits have the same. Up to 64 printable characters other than `{` and `}`.
    /// Default: `portcullis:`.
    #[serde(default = "prefix")]
    pub prefix: Spanned<String>,
}

/// TLS to Redis. The node's certificate must be valid and made out to the name or address under `nodes`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RedisTlsConfig {
    /// A PEM file with the certificate authorities to trust. Default: the system's.
    pub ca: Option<Spanned<String>>,
    /// A PEM file with this gateway's own certificate chain, where Redis asks for one.
    pub cert: Option<Spanned<String>>,
    /// A PEM file with the certificate's key.
    pub key: Option<Spanned<String>>,
}

fn deadline() -> Spanned<Period> {
    Period(Duration::from_millis(10)).into()
}

fn connect_timeout() -> Spanned<Period> {
    Period(Duration::from_secs(1)).into()
}

fn prefix() -> Spanned<String> {
    "portcullis:".to_owned().into()
}

impl RedisConfig {
    /// The client, the one of the last generation if nothing has changed. Connects to nobody yet. What is wrong goes to `problems`;
    /// `None` only if something did.
    pub fn compile(&self, base: &Path, problems: &mut Problems, ledger: &Ledger, tallies: &Tallies) -> Option<Arc<Redis>> {
        let mut own = Problems::default();
        let redis = self.compile_alone(base, &mut own, ledger, tallies);
        own.iter().for_each(|problem| problems.push(problem.clone()));
        redis
    }

    fn compile_alone(&self, base: &Path, problems: &mut Problems, ledger: &Ledger, tallies: &Tallies) -> Option<Arc<Redis>> {
        let nodes = self.addresses(problems);
        self.check(problems);
        let tls = match &self.tls {
            Some(tls) => Some(tls.certificates(tls.place, base, problems)?),
            None => None,
        };
        let read = |secret: &Spanned<Secret>| {
            let password = secret.read(base)?;
            String::from_utf8(password).map_err(|_| "the password is not UTF-8".to_owned())
        };
        let password = self.password.as_ref().map(read);
        if let (Some(Err(error)), Some(secret)) = (&password, &self.password) {
            problems.push(Problem::error(secret.place, error.clone()));
        }
        if problems.has_errors() {
            return None;
        }
        let password = password.and_then(Result::ok);
        let key = self.key(tls.as_ref(), password.as_deref());
        let client = match self.client(nodes?, tls, password) {
            Ok(client) => client,
            Err(error) => {
                let place = self.tls.as_ref().map_or(Place::NOWHERE, |tls| tls.place);
                problems.push(Problem::error(place, format!("no connection to Redis can be made like this: {error}")));
                return None;
            }
        };
        let target = Target { name: self.names().into(), client, connect_timeout: self.connect_timeout.0 };
        Some(ledger.keep(&key, || Redis::new(target, self.deadline.0, &self.prefix, Counts::new(tallies))))
    }

    fn names(&self) -> String {
        self.nodes.iter().map(|node| node.value.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Where the client stands in the ledger: a digest of all that makes it, for the password is part of that.
    fn key(&self, tls: Option<&TlsCertificates>, password: Option<&str>) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut add = |part: &[u8]| {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        };
        let plain =
            (self.names(), self.cluster, &self.username, &self.database, &self.deadline, &self.connect_timeout, &self.prefix);
        add(format!("{plain:?}").as_bytes());
        add(password.unwrap_or_default().as_bytes());
        if let Some(tls) = tls {
            add(tls.root_cert.as_deref().unwrap_or(b"the system's"));
            let client = tls.client_tls.as_ref();
            add(client.map_or(b"", |client| &client.client_cert));
            add(client.map_or(b"", |client| &client.client_key));
        }
        format!("redis:{}", hasher.finalize().to_hex())
    }

    fn addresses(&self, problems: &mut Problems) -> Option<Vec<(String, u16)>> {
        if self.nodes.is_empty() {
            problems
                .push(Problem::error(Place::NOWHERE, "`redis` has no `nodes`").hint("write `redis: { nodes: 10.0.0.5:6379 }`"));
        }
        if let (false, [_, second, ..]) = (self.cluster, &*self.nodes) {
            let problem = Problem::error(second.place, "a standalone Redis is one node");
            problems.push(problem.hint("write `cluster: true` if these are nodes of one Redis Cluster"));
        }
        self.nodes
            .iter()
            .map(|node| {
                let address = address(node);
                if address.is_none() {
                    let problem = Problem::error(node.place, format!("`{}` is no address such as 10.0.0.5:6379", node.value));
                    problems.push(problem.hint("write `host:port`; TLS, user and database have keys of their own"));
                }
                address
            })
            .collect()
    }

    fn check(&self, problems: &mut Problems) {
        let mut within = |place: Place, good: bool, message: &str| {
            if !good {
                problems.push(Problem::error(place, message));
            }
        };
        let (deadline, connect) = (self.deadline.0, self.connect_timeout.0);
        let second = Duration::from_secs(1);
        within(self.deadline.place, (second / 1000..=10 * second).contains(&deadline), "`deadline` is from 1ms to 10s");
        within(
            self.connect_timeout.place,
            (second / 100..=60 * second).contains(&connect),
            "`connect_timeout` is from 10ms to 1m",
        );
        within(self.database.place, !self.cluster || *self.database == 0, "a Redis Cluster has only database 0");
        let legal = |byte: u8| byte.is_ascii_graphic() && byte != b'{' && byte != b'}';
        let good = self.prefix.len() <= 64 && self.prefix.bytes().all(legal);
        within(self.prefix.place, good, "`prefix` is up to 64 printable characters other than `{` and `}`");
        if let (Some(username), None) = (&self.username, &self.password) {
            within(username.place, false, "a Redis user without a password: write `password` as well");
        }
    }

    fn client(
        &self,
        nodes: Vec<(String, u16)>,
        tls: Option<TlsCertificates>,
        password: Option<String>,
    ) -> Result<TargetClient, RedisError> {
        let mut login = RedisConnectionInfo::default().set_db(i64::from(*self.database)).set_skip_set_lib_name();
        if let Some(username) = &self.username {
            login = login.set_username(&username.value);
        }
        if let Some(password) = &password {
            login = login.set_password(password);
        }
        let keepalive = TcpKeepalive::new().with_time(IDLE).with_interval(SILENCE);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(SILENCE);
        let infos = nodes
            .into_iter()
            .map(|(host, port)| {
                let address = match tls {
                    Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
                    None => ConnectionAddr::Tcp(host, port),
                };
                Ok(address.into_connection_info()?.set_redis_settings(login.clone()).set_tcp_settings(tcp.clone()))
            })
            .collect::<Result<Vec<ConnectionInfo>, RedisError>>()?;
        if self.cluster {
            let mut builder = ClusterClient::builder(infos)
                .tcp_settings(tcp)
                .retries(CLUSTER_RETRIES)
                .min_retry_wait(1)
                .max_retry_wait(100)
                .connection_timeout(self.connect_timeout.0)
                .response_timeout(CLUSTER_PATIENCE.max(2 * self.deadline.0));
            if let Some(tls) = tls {
                builder = builder.certs(tls);
            }
            return Ok(TargetClient::Cluster(Box::new(builder.build()?)));
        }
        let info =
            infos.into_iter().next().ok_or_else(|| RedisError::from((::redis::ErrorKind::InvalidClientConfig, "no node")))?;
        Ok(match tls {
            Some(tls) => TargetClient::Alone { client: Box::new(Client::build_with_tls(info, tls)?), tls: true },
            None => TargetClient::Alone { client: Box::new(Client::open(info)?), tls: false },
        })
    }
}

impl RedisTlsConfig {
    fn certificates(&self, place: Place, base: &Path, problems: &mut Problems) -> Option<TlsCertificates> {
        if self.cert.is_some() != self.key.is_some() {
            problems.push(Problem::error(place, "`cert` and `key` belong together"));
        }
        let mut read = |file: &Option<Spanned<String>>| {
            let file = file.as_ref()?;
            let content = std::fs::read(base.join(&file.value));
            content
                .map_err(|error| problems.push(Problem::error(file.place, format!("cannot read {}: {error}", file.value))))
                .ok()
        };
        let (ca, cert, key) = (read(&self.ca), read(&self.cert), read(&self.key));
        let client = cert.zip(key).map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
        (!problems.has_errors()).then_some(TlsCertificates { client_tls: client, root_cert: ca })
    }
}

/// `host:port`, an IPv6 address in brackets.
fn address(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').filter(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())?,
        None => host,
    };
    let named =
        host != bare || (!host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)));
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|port| digits && *port != 0)?;
    named.then(|| (bare.to_owned(), port))
}
