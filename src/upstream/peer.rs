//! How to connect to an endpoint: everything but the address is prepared when a service is compiled, and cloned per request.
//!
//! Host names never get here: a peer is made from a socket address, because `HttpPeer::new` would resolve a name by blocking.

use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::TcpKeepalive;
use pingora_core::protocols::tls::{CaType, SslDigest, TlsRef};
use pingora_core::tls::x509::X509;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy, PeerOptions, Scheme};

use super::address::Address;
use super::config::{Protocol, UpstreamTlsConfig};
use super::endpoint::Endpoint;
use super::unix;
use crate::address::EndpointAddress;
use crate::problem::{Problem, Problems};
use crate::value::Spanned;

/// How many requests share one HTTP/2 connection.
const H2_STREAMS: usize = 128;
/// How often an HTTP/2 connection is pinged: a dead one is noticed before a request is lost on it.
const H2_PING: Duration = Duration::from_secs(30);

/// The time limits towards endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, with its TLS handshake.
    pub connect: Duration,
    /// For the head of the answer, and between two reads of its body.
    pub response: Duration,
    /// For the head of an answer, however it comes, from the request's last byte on; a shorter limit than `response`.
    pub attempt: Option<Duration>,
    /// Between two reads of a stream.
    pub stream: Duration,
    /// For one write.
    pub write: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
}

impl Timeouts {
    /// The same limit for everything.
    pub fn all(limit: Duration) -> Self {
        Timeouts { connect: limit, response: limit, attempt: None, stream: limit, write: limit, idle: limit }
    }
}

/// TLS towards endpoints.
#[derive(Clone)]
pub struct Tls {
    pub verify: bool,
    /// `None`: the system's authorities.
    pub ca: Option<Arc<CaType>>,
    pub server_name: Option<Arc<str>>,
    /// A certificate without a `subjectAltName` is judged by its common name.
    pub allow_common_name: bool,
}

/// Marks a connection whose endpoint showed a certificate without a DNS name in its `subjectAltName`. The TLS library would then take
/// the subject's common name, which nobody has been allowed to do since RFC 9525 (section 2).
struct Nameless;

fn look_for_names(connection: &TlsRef) -> Option<Arc<dyn Any + Send + Sync>> {
    let names = connection.peer_certificate().and_then(|certificate| certificate.subject_alt_names());
    let named = names.is_some_and(|names| names.iter().any(|name| name.dnsname().is_some()));
    (!named).then(|| Arc::new(Nameless) as Arc<dyn Any + Send + Sync>)
}

/// Refuses a connection to an endpoint whose certificate does not say, in the way that is asked for, whose it is.
///
/// # Errors
/// `InvalidCert`, for [`super::connect_failure`] to explain.
pub fn check_names(digest: Option<&SslDigest>) -> pingora_error::Result<()> {
    match digest.and_then(|digest| digest.extension.get::<Nameless>()) {
        Some(Nameless) => {
            let why = "the endpoint's certificate has no DNS name in a subjectAltName";
            pingora_error::Error::e_explain(pingora_error::ErrorType::InvalidCert, why)
        }
        None => Ok(()),
    }
}

impl Tls {
    /// Reads the authorities' file, if one is named. `None` only if there was a problem.
    pub fn compile(config: &Spanned<UpstreamTlsConfig>, base: &Path, problems: &mut Problems) -> Option<Self> {
        let mut fine = true;
        let ca = match &config.ca {
            Some(file) => match read_authorities(&base.join(&file.value)) {
                Ok(authorities) => Some(Arc::new(authorities)),
                Err(why) => {
                    problems.push(Problem::error(file.place, format!("the CA file `{}` {why}", file.value)));
                    fine = false;
                    None
                }
            },
            None => None,
        };
        if let Some(name) = &config.server_name
            && !matches!(Address::of_host(name, 443), Ok(Address::Named(..)))
        {
            let message = format!("`{}` is not a host name", name.value);
            problems.push(Problem::error(name.place, message).hint("write the name that the endpoints' certificates carry"));
            fine = false;
        }
        let verify = config.verify.value;
        if !verify {
            let message = "the endpoints' certificates are not verified: anyone in between can read and change the traffic";
            problems
                .push(Problem::warning(config.verify.place, message).hint("set `ca` to the authority that signed them instead"));
        }
        let server_name = config.server_name.as_ref().map(|name| name.value.as_str().into());
        fine.then_some(Tls { verify, ca, server_name, allow_common_name: config.allow_common_name })
    }
}

fn read_authorities(file: &Path) -> Result<CaType, String> {
    let pem = std::fs::read(file).map_err(|error| format!("cannot be read: {error}"))?;
    let mut authorities = X509::stack_from_pem(&pem).map_err(|_| "holds something that is not a PEM certificate".to_owned())?;
    // The TLS library may refuse to take the same certificate twice, and the connector does not expect that.
    let mut seen = Vec::new();
    authorities.retain(|authority| match authority.to_der() {
        Ok(der) if !seen.contains(&der) => {
            seen.push(der);
            true
        }
        _ => false,
    });
    if authorities.is_empty() { Err("holds no PEM certificate".to_owned()) } else { Ok(authorities.into_boxed_slice()) }
}

/// What an endpoint is held to before a connection over TLS to it may be used. Connections under different trust are never
/// interchangeable, even to one address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Trust {
    /// Whether its certificate is verified, and by which authorities.
    group_key: u64,
    /// The name that is asked for, and that the certificate must carry.
    name: Arc<str>,
}

/// Everything about a connection but its address.
#[derive(Clone)]
pub struct PeerTemplate {
    options: PeerOptions,
    scheme: Scheme,
    server_name: Option<Arc<str>>,
    /// Pingora's own reuse key covers neither the protocol nor the authorities: without this, a service that trusts one authority
    /// could be handed a connection that was verified against another.
    group_key: u64,
}

impl PeerTemplate {
    pub fn new(timeouts: Timeouts, protocol: Protocol, tls: Option<&Tls>) -> Self {
        let mut options = PeerOptions::new();
        options.connection_timeout = Some(timeouts.connect);
        options.total_connection_timeout = Some(timeouts.connect);
        options.read_timeout = Some(timeouts.response);
        options.write_timeout = Some(timeouts.write);
        options.idle_timeout = Some(timeouts.idle);
        options.tcp_keepalive = Some(keepalive());
        // The door builds the backend's request from scratch and leaves out what belongs to the client's connection (see
        // `downstream::upstream_request`); a second pass here would only take away the `te: trailers` that gRPC needs.
        options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
        match protocol {
            Protocol::Http1 | Protocol::Auto => options.set_http_version(1, 1),
            Protocol::Http2 | Protocol::Grpc => {
                options.set_http_version(2, 2);
                options.max_h2_streams = H2_STREAMS;
                options.h2_ping_interval = Some(H2_PING);
            }
        }
        if let Some(tls) = tls {
            options.verify_cert = tls.verify;
            options.verify_hostname = tls.verify;
            options.ca = tls.ca.clone();
            if tls.verify && !tls.allow_common_name {
                options.upstream_tls_handshake_complete_hook = Some(Arc::new(look_for_names));
            }
        }
        PeerTemplate {
            options,
            scheme: Scheme::from_tls_bool(tls.is_some()),
            server_name: tls.and_then(|tls| tls.server_name.clone()),
            group_key: group_key(protocol, tls),
        }
    }

    /// For one question only: the connection is not shared.
    pub fn unshared(mut self) -> Self {
        self.options.max_h2_streams = 1;
        self.options.h2_ping_interval = None;
        self
    }

    /// What distinguishes two templates apart from their time limits.
    pub fn identity(&self) -> (u64, bool, Option<&str>) {
        (self.group_key, self.is_tls(), self.server_name.as_deref())
    }

    pub fn is_tls(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// The peer for a request to `endpoint`. `sni` replaces the name that TLS asks for and verifies; without it, that is
    /// `tls.server_name` or else the endpoint's host name.
    pub fn peer(&self, endpoint: &Endpoint, sni: Option<&str>) -> HttpPeer {
        let mut peer = HttpPeer {
            _address: unix::pingora_address(endpoint.address()),
            scheme: self.scheme.clone(),
            sni: self.sni(endpoint, sni),
            proxy: None,
            client_cert_key: None,
            group_key: self.group_key,
            options: self.options.clone(),
        };
        if let EndpointAddress::Unix(name) = endpoint.address() {
            let limit = peer.options.connection_timeout.unwrap_or(Duration::MAX);
            peer.options.custom_l4 = Some(Arc::new(unix::Dial { name, limit }));
        }
        peer
    }

    /// What `endpoint` is held to; `None` without TLS.
    pub fn trust(&self, endpoint: &Endpoint) -> Option<Trust> {
        self.is_tls().then(|| Trust { group_key: self.group_key, name: self.name(endpoint).cloned().unwrap_or_default() })
    }

    fn name<'a>(&'a self, endpoint: &'a Endpoint) -> Option<&'a Arc<str>> {
        self.server_name.as_ref().or_else(|| endpoint.host())
    }

    fn sni(&self, endpoint: &Endpoint, sni: Option<&str>) -> String {
        if !self.is_tls() {
            return String::new();
        }
        // An empty name would switch verification off, and one with a NUL would panic in the TLS library.
        let given = sni.filter(|sni| !sni.is_empty() && !sni.contains('\0'));
        given.or_else(|| self.name(endpoint).map(|name| &**name)).unwrap_or_default().to_owned()
    }
}

fn keepalive() -> TcpKeepalive {
    TcpKeepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(10),
        count: 3,
        #[cfg(target_os = "linux")]
        user_timeout: Duration::ZERO,
    }
}

/// What two services must have in common to share connections to an address, beyond what Pingora compares.
fn group_key(protocol: Protocol, tls: Option<&Tls>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(protocol.as_str().as_bytes());
    if let Some(tls) = tls {
        hasher.update(match (tls.verify, tls.allow_common_name) {
            (true, false) => b"/verify",
            (true, true) => b"/common",
            (false, _) => b"/trusts",
        });
        for authority in tls.ca.iter().flat_map(|ca| ca.iter()) {
            hasher.update(&authority.to_der().unwrap_or_default());
        }
    }
    let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use pingora_core::upstreams::peer::{ALPN, Peer};

    use super::*;
    use crate::problem::Place;

    fn endpoint(host: Option<&str>) -> Endpoint {
        Endpoint::new(([127, 0, 0, 1], 80).into(), "catalog:80", host)
    }

    fn pem() -> String {
        rcgen::generate_simple_self_signed(vec!["catalog".to_owned()]).unwrap().cert.pem()
    }

    fn tls(ca: Option<CaType>, verify: bool) -> Tls {
        Tls { verify, ca: ca.map(Arc::new), server_name: None, allow_common_name: false }
    }

    fn reuse(protocol: Protocol, tls: Option<&Tls>) -> u64 {
        let template = PeerTemplate::new(Timeouts::all(Duration::from_secs(1)), protocol, tls);
        template.peer(&endpoint(Some("catalog")), None).reuse_hash()
    }

    #[test]
    fn every_wait_has_a_limit() {
        let timeouts = Timeouts {
            connect: Duration::from_secs(1),
            response: Duration::from_secs(2),
            attempt: None,
            stream: Duration::from_secs(5),
            write: Duration::from_secs(3),
            idle: Duration::from_secs(4),
        };
        let peer = PeerTemplate::new(timeouts, Protocol::Http1, None).peer(&endpoint(None), Some("ignored"));
        assert_eq!(peer.options.connection_timeout, Some(timeouts.connect));
        assert_eq!(peer.options.total_connection_timeout, Some(timeouts.connect));
        assert_eq!(peer.options.read_timeout, Some(timeouts.response));
        assert_eq!(peer.options.write_timeout, Some(timeouts.write));
        assert_eq!(peer.options.idle_timeout, Some(timeouts.idle));
        assert_eq!((peer.sni.as_str(), peer.is_tls(), peer.options.alpn.clone()), ("", false, ALPN::H1));
    }

    #[test]
    fn http2_is_spoken_without_falling_back() {
        let peer = PeerTemplate::new(Timeouts::all(Duration::from_secs(1)), Protocol::Http2, None).peer(&endpoint(None), None);
        assert_eq!((peer.options.alpn.get_min_http_version(), peer.options.max_h2_streams), (2, H2_STREAMS));
    }

    #[test]
    fn the_verified_name_is_the_nearest_one_given() {
        let mut tls = tls(None, true);
        let sni = |tls: &Tls, host, sni| {
            PeerTemplate::new(Timeouts::all(Duration::from_secs(1)), Protocol::Http1, Some(tls)).peer(&endpoint(host), sni).sni
        };
        assert_eq!(sni(&tls, Some("catalog"), None), "catalog");
        assert_eq!(sni(&tls, Some("catalog"), Some("")), "catalog");
        assert_eq!(sni(&tls, Some("catalog"), Some("a\0b")), "catalog");
        tls.server_name = Some("inner.example".into());
        assert_eq!(sni(&tls, Some("catalog"), None), "inner.example");
        assert_eq!(sni(&tls, None, Some("asked.example")), "asked.example");
    }

    #[test]
    fn connections_are_shared_only_between_services_that_trust_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let authorities = |name: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, pem()).unwrap();
            read_authorities(&file).unwrap()
        };
        let one = tls(Some(authorities("one.pem")), true);
        let keys = [
            reuse(Protocol::Http1, None),
            reuse(Protocol::Http2, None),
            reuse(Protocol::Http1, Some(&tls(None, true))),
            reuse(Protocol::Http1, Some(&tls(None, false))),
            reuse(Protocol::Http1, Some(&one)),
            reuse(Protocol::Http1, Some(&tls(Some(authorities("two.pem")), true))),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys.iter().skip(i + 1).all(|b| a != b), "{i}");
        }
        assert_eq!(reuse(Protocol::Http1, Some(&one)), reuse(Protocol::Http1, Some(&one.clone())));

        let trust = |tls: Option<&Tls>, host| {
            PeerTemplate::new(Timeouts::all(Duration::from_secs(1)), Protocol::Http1, tls).trust(&endpoint(host))
        };
        let renamed = Tls { server_name: Some("inner.example".into()), ..one.clone() };
        let trusts = [
            trust(None, Some("catalog")),
            trust(Some(&tls(None, true)), Some("catalog")),
            trust(Some(&tls(None, false)), Some("catalog")),
            trust(Some(&one), Some("catalog")),
            trust(Some(&one), Some("orders")),
            trust(Some(&renamed), Some("catalog")),
        ];
        assert!(trusts.iter().enumerate().all(|(at, trust)| trusts.iter().position(|it| it == trust) == Some(at)), "{trusts:?}");
        assert_eq!(
            trust(Some(&renamed), Some("catalog")),
            trust(Some(&renamed), Some("orders")),
            "the name is the service's own"
        );
    }

    #[test]
    fn a_bad_authority_file_is_a_problem() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("empty.pem"), "").unwrap();
        std::fs::write(folder.path().join("bad.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        let one = pem();
        std::fs::write(folder.path().join("twice.pem"), format!("{one}{one}")).unwrap();
        for (file, errors) in [("missing.pem", true), ("empty.pem", true), ("bad.pem", true), ("twice.pem", false)] {
            let ca = Some(Spanned { value: file.to_owned(), place: Place::NOWHERE });
            let config = Spanned { value: UpstreamTlsConfig { ca, ..Default::default() }, place: Place::NOWHERE };
            let mut problems = Problems::default();
            let tls = Tls::compile(&config, folder.path(), &mut problems);
            assert_eq!((tls.is_none(), problems.has_errors()), (errors, errors), "{file}");
            assert!(tls.is_none_or(|tls| tls.ca.is_some_and(|ca| ca.len() == 1)));
        }
    }
}
