//! Real handshakes through real sockets.

use std::time::Duration;

use parking_lot::Mutex;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::tls::ssl::{Ssl, SslContextBuilder, SslSession, SslSessionCacheMode, SslVerifyMode};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        Files { folder: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.folder.path().join(name), content).unwrap();
    }

    /// `<name>.pem` and `<name>.key`.
    fn certificate(&self, name: &str, dns: &[&str], change: impl FnOnce(&mut CertificateParams)) {
        let mut params = CertificateParams::new(dns.iter().map(|name| name.to_string()).collect::<Vec<_>>()).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        self.write(&format!("{name}.pem"), params.self_signed(&key).unwrap().pem());
        self.write(&format!("{name}.key"), key.serialize_pem());
    }

    fn compile(&self, yaml: &str) -> (Option<TlsAcceptor>, Problems) {
        let config: TlsConfig = serde_yaml::from_str(yaml).unwrap();
        let mut problems = Problems::default();
        let acceptor = TlsAcceptor::compile(&config, ListenerProtocol::Http, Place::NOWHERE, self.folder.path(), &mut problems);
        (acceptor, problems)
    }

    /// One acceptor for the certificates of these names.
    fn acceptor(&self, names: &[&str], more: &str) -> TlsAcceptor {
        let list: Vec<String> = names.iter().map(|name| format!("{{ cert: {name}.pem, key: {name}.key }}")).collect();
        let (acceptor, problems) = self.compile(&format!("{{ certificates: [ {} ], {more} }}", list.join(", ")));
        assert!(problems.is_empty(), "{problems:?}");
        acceptor.unwrap()
    }
}

#[derive(Default)]
struct Client {
    server_name: Option<&'static str>,
    alpn: Option<&'static [u8]>,
    most: Option<SslVersion>,
    session: Option<SslSession>,
}

/// What the client saw: the certificate's DNS names, and the session if there is one to resume.
struct Seen {
    names: Vec<String>,
    resumed: bool,
    session: Option<SslSession>,
}

impl Client {
    #[allow(unsafe_code)]
    async fn connect(self, address: std::net::SocketAddr) -> Result<Seen, String> {
        let mut context = SslContextBuilder::new(SslMethod::tls()).unwrap();
        context.set_verify(SslVerifyMode::NONE);
        context.set_max_proto_version(self.most).unwrap();
        // In TLS 1.3 a session that can be resumed comes after the handshake, in a ticket.
        context.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
        let tickets = Arc::new(Mutex::new(None));
        let kept = tickets.clone();
        context.set_new_session_callback(move |_, session| *kept.lock() = Some(session));
        let mut ssl = Ssl::new(&context.build()).unwrap();
        if let Some(name) = self.server_name {
            ssl.set_hostname(name).unwrap();
        }
        if let Some(alpn) = self.alpn {
            ssl.set_alpn_protos(alpn).unwrap();
        }
        if let Some(session) = &self.session {
            // SAFETY: a session may be set if its context is of the same kind; both are plain TLS clients.
            unsafe { ssl.set_session(session) }.unwrap();
        }
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = SslStream::new(ssl, stream).unwrap();
        stream.connect().await.map_err(|error| error.to_string())?;
        // The echo proves that both directions work, and brings TLS 1.3's tickets along.
        stream.write_all(b"ping").await.map_err(|error| error.to_string())?;
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).await.map_err(|error| error.to_string())?;
        assert_eq!(&echo, b"ping");
        let ssl = stream.ssl();
        let names = ssl.peer_certificate().and_then(|certificate| certificate.subject_alt_names());
        let seen = Seen {
            names: names.iter().flatten().filter_map(|name| name.dnsname().map(str::to_owned)).collect(),
            resumed: ssl.session_reused(),
            session: tickets.lock().take(),
        };
        // The library forgets the session of a connection that was not closed properly.
        stream.shutdown().await.map_err(|error| error.to_string())?;
        Ok(seen)
    }
}

/// One connection: what the server made of it, and what the client saw.
async fn meet(acceptor: &TlsAcceptor, client: Client) -> (Result<(TlsFacts, Protocol), HandshakeError>, Result<Seen, String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let Secured { stream, facts, protocol } = acceptor.accept(L4Stream::from(stream), deadline).await?;
        // As Pingora takes it.
        let mut stream: pingora_core::protocols::Stream = Box::new(stream);
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.flush().await.unwrap();
        let _ = stream.read(&mut bytes).await;
        Ok((facts, protocol))
    };
    tokio::join!(server, client.connect(address))
}

#[tokio::test]
async fn the_server_name_chooses_the_certificate() {
    let files = Files::new();
    files.certificate("first", &["default.example"], |_| {});
    files.certificate("exact", &["api.example.com", "API2.example.com"], |_| {});
    files.certificate("wild", &["*.example.com"], |_| {});
    let acceptor = files.acceptor(&["first", "wild", "exact"], "");
    for (name, expected) in [
        (Some("api.example.com"), "api.example.com"),
        (Some("API.Example.COM"), "api.example.com"),
        (Some("api2.example.com"), "api.example.com"),
        (Some("shop.example.com"), "*.example.com"),
        (Some("a.shop.example.com"), "default.example"),
        (Some("example.com"), "default.example"),
        (Some("unknown.test"), "default.example"),
        (None, "default.example"),
    ] {
        let (server, client) = meet(&acceptor, Client { server_name: name, ..Client::default() }).await;
        assert_eq!(client.unwrap().names[0], expected, "{name:?}");
        let (facts, protocol) = server.unwrap();
        assert_eq!(facts.server_name.as_deref(), name.map(str::to_ascii_lowercase).as_deref());
        assert_eq!((facts.version, protocol), ("TLSv1.3", Protocol::H1));
        assert!(!facts.cipher.is_empty());
    }
    assert_eq!(acceptor.certificates().len(), 3);
    assert!(acceptor.certificates()[0].not_after.is_some());
}

#[tokio::test]
async fn alpn_prefers_h2_and_refuses_what_is_not_spoken() {
    let files = Files::new();
    files.certificate("a", &["a.example"], |_| {});
    files.certificate("b", &["b.example"], |_| {});
    let both = files.acceptor(&["a", "b"], "");
    let only_h1 = files.acceptor(&["a", "b"], "h2: false");
    // The second certificate's context has to follow the same rules as the first's.
    for server_name in [None, Some("b.example")] {
        let client = |alpn| Client { server_name, alpn: Some(alpn), ..Client::default() };
        let (server, _) = meet(&both, client(b"\x08http/1.1\x02h2")).await;
        assert_eq!(server.unwrap().1, Protocol::H2);
        let (server, _) = meet(&both, client(b"\x08http/1.0\x08http/1.1")).await;
        assert_eq!(server.unwrap().1, Protocol::H1);
        let (server, _) = meet(&only_h1, client(b"\x02h2\x08http/1.1")).await;
        assert_eq!(server.unwrap().1, Protocol::H1);
        for (acceptor, alpn) in [(&both, b"\x03ftp".as_slice()), (&only_h1, b"\x02h2")] {
            let (server, seen) = meet(acceptor, client(alpn)).await;
            assert_eq!(server.unwrap_err().reason(), "no_common_protocol");
            assert!(seen.err().unwrap().to_ascii_lowercase().replace('_', " ").contains("no application protocol"));
        }
    }
}

#[tokio::test]
async fn old_versions_are_refused() {
    let files = Files::new();
    files.certificate("a", &["a.example"], |_| {});
    let usual = files.acceptor(&["a"], "");
    let modern = files.acceptor(&["a"], "min_version: 1.3");
    let at_most = |version| Client { most: Some(version), ..Client::default() };
    assert_eq!(meet(&usual, at_most(SslVersion::TLS1_2)).await.0.unwrap().0.version, "TLSv1.2");
    assert!(meet(&usual, at_most(SslVersion::TLS1_1)).await.0.is_err());
    assert!(meet(&modern, at_most(SslVersion::TLS1_2)).await.0.is_err());
    assert_eq!(meet(&modern, Client::default()).await.0.unwrap().0.version, "TLSv1.3");
}

#[tokio::test]
async fn a_returning_client_resumes_its_session() {
    let files = Files::new();
    files.certificate("a", &["a.example"], |_| {});
    files.certificate("b", &["b.example"], |_| {});
    let acceptor = files.acceptor(&["a", "b"], "");
    for most in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        for server_name in [None, Some("a.example"), Some("b.example")] {
            let client = |session| Client { server_name, most: Some(most), session, ..Client::default() };
            let first = meet(&acceptor, client(None)).await.1.unwrap();
            assert!(!first.resumed);
            assert!(meet(&acceptor, client(first.session)).await.1.unwrap().resumed, "{most:?} {server_name:?}");
        }
    }
}

#[tokio::test]
async fn a_silent_or_talking_nonsense_client_ends_in_an_error() {
    let files = Files::new();
    files.certificate("a", &["a.example"], |_| {});
    let acceptor = files.acceptor(&["a"], "");
    for (bytes, reason) in [
        (&b""[..], "handshake_timeout"),
        (b"\x16\x03\x01", "handshake_timeout"),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "handshake_failed"),
        (&[0xff; 600], "handshake_failed"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let deadline = Instant::now() + Duration::from_millis(100);
        let error = acceptor.accept(L4Stream::from(stream), deadline).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    }
}

#[tokio::test]
async fn bytes_put_back_in_front_of_the_handshake_are_read_first() {
    let files = Files::new();
    files.certificate("a", &["a.example"], |_| {});
    let acceptor = files.acceptor(&["a"], "");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        let mut stream = L4Stream::from(stream);
        stream.rewind(&first);
        let mut secured = acceptor.accept(stream, Instant::now() + Duration::from_secs(5)).await.unwrap();
        let mut bytes = [0; 4];
        secured.stream.read_exact(&mut bytes).await.unwrap();
        secured.stream.write_all(&bytes).await.unwrap();
        secured.stream.flush().await.unwrap();
        let _ = secured.stream.read(&mut bytes).await;
    };
    let (_, seen) = tokio::join!(server, Client::default().connect(address));
    assert_eq!(seen.unwrap().names, ["a.example"]);
}

#[test]
fn what_is_wrong_with_the_files_is_said_without_quoting_them() {
    let files = Files::new();
    files.certificate("a", &["a.example"], |_| {});
    files.certificate("b", &["b.example"], |_| {});
    files.write("empty", "");
    files.write("text", "SECRET-CONTENT, no PEM at all");
    files.write("damaged.pem", "-----BEGIN CERTIFICATE-----\nU0VDUkVU\n-----END CERTIFICATE-----\n");
    files.write("damaged.key", "-----BEGIN PRIVATE KEY-----\nU0VDUkVU\n-----END PRIVATE KEY-----\n");
    files.write("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nU0VDUkVU\n-----END ENCRYPTED PRIVATE KEY-----\n");
    std::fs::create_dir(files.folder.path().join("folder")).unwrap();
    for (cert, key, expected) in [
        ("missing.pem", "a.key", "missing.pem cannot be read: No such file"),
        ("a.pem", "missing.key", "missing.key cannot be read"),
        ("folder", "a.key", "folder cannot be read"),
        ("empty", "a.key", "empty holds no certificate"),
        ("text", "a.key", "text holds no certificate"),
        ("a.key", "a.key", "a.key holds no certificate"),
        ("damaged.pem", "a.key", "damaged"),
        ("a.pem", "text", "text holds no private key"),
        ("a.pem", "a.pem", "a.pem holds no private key"),
        ("a.pem", "damaged.key", "damaged.key holds no private key"),
        ("a.pem", "locked.key", "locked.key is encrypted"),
        ("a.pem", "b.key", "b.key does not belong to the first certificate in a.pem"),
    ] {
        let (acceptor, problems) = files.compile(&format!("certificates: [ {{ cert: {cert}, key: {key} }} ]"));
        assert!(acceptor.is_none() && problems.has_errors());
        let texts: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
        assert!(texts.len() == 1 && texts[0].contains(expected), "{cert} {key}: {texts:?}");
        assert!(!texts[0].contains("SECRET") && !texts[0].contains("U0VD"), "{texts:?}");
    }
    let (_, problems) = files.compile("certificates: [ { cert: no.pem, key: no.key }, { cert: nor.pem, key: a.key } ]");
    assert_eq!(problems.len(), 3, "every problem of every file: {problems:?}");
}

#[test]
fn dates_and_doubles_are_warned_of() {
    let files = Files::new();
    files.certificate("old", &["a.example"], |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    files.certificate("early", &["a.example"], |params| params.not_before = date_time_ymd(2900, 1, 1));
    let (acceptor, problems) =
        files.compile("certificates: [ { cert: old.pem, key: old.key }, { cert: early.pem, key: early.key } ]");
    assert!(acceptor.is_some() && !problems.has_errors());
    let texts: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
    assert!(texts[0].contains("has expired on 2021-01-01"), "{texts:?}");
    assert!(texts[1].contains("valid only from 2900"), "{texts:?}");
    assert!(texts[2].contains("already serves `a.example`"), "{texts:?}");
}

#[test]
fn intermediates_follow_their_certificate() {
    let files = Files::new();
    files.certificate("leaf", &["a.example"], |_| {});
    files.certificate("other", &["b.example"], |_| {});
    let read = |name| std::fs::read_to_string(files.folder.path().join(name)).unwrap();
    files.write("leaf.pem", read("leaf.pem") + &read("other.pem"));
    let acceptor = files.acceptor(&["leaf"], "");
    assert_eq!(acceptor.certificates()[0].names, [Arc::<str>::from("a.example")]);
    files.write("wrong-order.pem", read("other.pem") + &read("leaf.pem"));
    assert!(files.compile("certificates: [ { cert: wrong-order.pem, key: leaf.key } ]").0.is_none());
}

#[test]
fn only_host_names_are_looked_up_or_logged() {
    for bad in ["", ".", "a b", "a\"b", "a\n", "a/b", "\u{e9}", &"a".repeat(256)] {
        assert!(NameText::new(bad).is_none(), "{bad:?}");
    }
    assert_eq!(NameText::new("A.Example.").unwrap().as_str(), "a.example");
    assert_eq!(NameText::new(&"a".repeat(255)).unwrap().as_str().len(), 255);
}
