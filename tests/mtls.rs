//! Who is it, by a certificate: mutual TLS through the real binary, with curl and OpenSSL as the clients.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

use crate::harness::*;

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// A certificate authority of one's own, and its files.
pub struct Authority {
    issuer: Issuer,
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Authority {
    pub fn root(files: &Files, name: &str) -> Authority {
        let issuer = Issuer::self_signed(authority_params(name), KeyPair::generate().unwrap()).unwrap();
        files.write(&format!("{name}.pem"), issuer.pem());
        Authority { issuer }
    }

    fn intermediate(&self, name: &str) -> Authority {
        Authority { issuer: Issuer::signed_by(authority_params(name), KeyPair::generate().unwrap(), &self.issuer).unwrap() }
    }

    /// `<name>.pem`, with what comes `after` the certificate, and `<name>.key`.
    pub fn client(&self, files: &Files, name: &str, after: &str, change: impl FnOnce(&mut CertificateParams)) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        files.write(&format!("{name}.pem"), certificate.pem() + after);
        files.write(&format!("{name}.key"), key.serialize_pem());
    }

    /// `<file>`, in which these serial numbers are revoked.
    fn revoke(&self, files: &Files, file: &str, serials: &[u8], until: i32) {
        let revoked = |serial: &u8| RevokedCertParams {
            serial_number: SerialNumber::from(vec![*serial]),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(vec![1]),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        files.write(file, params.signed_by(&self.issuer).unwrap().pem().unwrap());
    }
}

fn uri(params: &mut CertificateParams, uri: &str) {
    params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
}

const YAML: &str = "
listeners:
  - bind: 127.0.0.1:$PORT
    tls:
      certificates: [ { cert: server.pem, key: server.key } ]
      client_auth: { $AUTH }
consumers:
  - { name: billing, groups: [internal], certificates: [ { uri: 'spiffe://example.com/billing' } ] }
policies: { authn: { mtls: { forward: chain } } }
routes:
  - { path: /billing, service: 127.0.0.1, port: $BACKEND, policies: { authz: { consumers: [billing] } } }
  - { path: /*, service: 127.0.0.1, port: $BACKEND }
  - { path: /open, service: 127.0.0.1, port: $BACKEND, policies: { authn: false } }
";

struct Lab {
    files: Files,
    root: Authority,
    backend: Backend,
}

impl Lab {
    fn new() -> Lab {
        let files = Files::new();
        let (cert, key, _) = files.certificate(&["localhost"]);
        std::fs::copy(cert, files.dir().join("server.pem")).unwrap();
        std::fs::copy(key, files.dir().join("server.key")).unwrap();
        let root = Authority::root(&files, "root");
        Lab { files, root, backend: Backend::http() }
    }

    fn start(&self, auth: &str, more: &str) -> Gateway {
        let yaml = YAML.replace("$AUTH", auth) + more;
        Gateway::start_in(&self.files, &filled(&yaml, &[("$BACKEND", self.backend.port())]))
    }

    /// As the client of this name, or as nobody. What went wrong is curl's word for it.
    fn ask(&self, gateway: &Gateway, client: Option<&str>, path: &str, more: &[&str]) -> Result<Answer, String> {
        let url = format!("https://127.0.0.1:{}{path}", gateway.port());
        let (cert, key) = (client.map(|name| self.file(name, "pem")), client.map(|name| self.file(name, "key")));
        let mut args = vec!["-k", &*url];
        if let (Some(cert), Some(key)) = (&cert, &key) {
            args.extend(["--cert", cert, "--key", key]);
        }
        args.extend(more);
        try_curl(&args)
    }

    fn file(&self, name: &str, kind: &str) -> String {
        self.files.dir().join(format!("{name}.{kind}")).to_str().unwrap().to_owned()
    }
}

/// The base64 of a PEM file.
fn inside(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with("-----")).collect()
}

fn refused(gateway: &Gateway, reason: &str, count: f64) {
    let metric = format!("portcullis_connections_refused_total{{listener=\"127.0.0.1:{}\",reason=\"{reason}\"}}", gateway.port());
    gateway.wait_metric(&metric, count);
}

#[test]
fn a_certificate_says_who_it_is() {
    let lab = Lab::new();
    lab.root.client(&lab.files, "billing", "", |params| uri(params, "spiffe://example.com/billing"));
    lab.root.client(&lab.files, "other", "", |_| {});
    let between = lab.root.intermediate("between");
    // What vouches for nobody here comes along, and the root, which the gateway has.
    let stray = Authority::root(&lab.files, "foreign").intermediate("stray");
    let sent = stray.issuer.pem() + &between.issuer.pem() + &lab.root.issuer.pem();
    between.client(&lab.files, "deep", &sent, |params| uri(params, "spiffe://example.com/deep"));
    let gateway = lab.start("ca: root.pem", "");
    for protocol in ["--http1.1", "--http2"] {
        let forged = ["-H", "Client-Cert: :Zm9yZ2Vk:", "-H", "Client-Cert-Chain: :Zm9yZ2Vk:", protocol];
        assert_eq!(lab.ask(&gateway, Some("billing"), "/billing", &forged).unwrap().status, 200);
        let seen = lab.backend.last();
        assert_eq!(seen.header("x-consumer-name"), Some("billing"));
        assert_eq!(seen.header("x-auth-subject"), Some("spiffe://example.com/billing"));
        assert_eq!(seen.header("x-auth-method"), Some("mtls"));
        let certificates = seen.all("client-cert");
        assert!(matches!(certificates.as_slice(), [one] if one.starts_with(":MII") && one.ends_with(':')), "{certificates:?}");
        assert!(seen.all("client-cert-chain").is_empty(), "nothing stands between it and the root");
    }
    lab.ask(&gateway, Some("other"), "/billing", &[]).unwrap().assert_problem(403, "authz", "consumer_not_allowed");
    assert_eq!(lab.ask(&gateway, Some("other"), "/x", &[]).unwrap().status, 200);
    assert_eq!(lab.backend.last().header("x-auth-subject"), Some("CN=other"));
    assert_eq!(lab.ask(&gateway, Some("deep"), "/x", &[]).unwrap().status, 200);
    let chain = lab.backend.last().all("client-cert-chain").join(",");
    assert_eq!(chain, format!(":{}:", inside(&between.issuer.pem())), "what stands between, and nothing else");
    // Where nobody asks who it is, a client cannot say it itself either.
    assert_eq!(lab.ask(&gateway, Some("other"), "/open", &["-H", "Client-Cert: :Zm9yZ2Vk:"]).unwrap().status, 200);
    assert_eq!(lab.backend.last().header("client-cert"), None);
    let line = gateway.wait_log(|line| line["path"] == "/billing" && line["status"] == 200);
    assert_eq!((line["consumer"].as_str(), line["subject"].as_str()), (Some("billing"), Some("spiffe://example.com/billing")));
}

#[test]
fn what_is_not_vouched_for_gets_no_connection() {
    let lab = Lab::new();
    Authority::root(&lab.files, "foreign").client(&lab.files, "stranger", "", |_| {});
    lab.root.client(&lab.files, "old", "", |params| params.not_after = date_time_ymd(2020, 1, 1));
    lab.root.client(&lab.files, "server-only", "", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let (cert, key, _) = lab.files.certificate(&["self-signed"]);
    std::fs::copy(cert, lab.file("self", "pem")).unwrap();
    std::fs::copy(key, lab.file("self", "key")).unwrap();
    let first = lab.root.intermediate("first");
    let second = first.intermediate("second");
    let chain = second.issuer.pem() + &first.issuer.pem();
    second.client(&lab.files, "deep", &chain, |_| {});
    let gateway = lab.start("ca: root.pem, depth: 1", "");
    for client in [None, Some("stranger"), Some("old"), Some("self"), Some("server-only"), Some("deep")] {
        for more in [&[][..], &["--tls-max", "1.2"]] {
            assert!(lab.ask(&gateway, client, "/x", more).is_err(), "{client:?} {more:?}");
        }
    }
    assert!(lab.backend.requests().is_empty());
    refused(&gateway, "client_certificate_missing", 2.0);
    refused(&gateway, "client_certificate_expired", 2.0);
    refused(&gateway, "client_certificate_purpose", 2.0);
    refused(&gateway, "client_chain_too_long", 2.0);
    refused(&gateway, "client_certificate_untrusted", 4.0);
}

#[test]
fn a_client_may_do_without_where_that_is_said() {
    let lab = Lab::new();
    lab.root.client(&lab.files, "billing", "", |params| uri(params, "spiffe://example.com/billing"));
    Authority::root(&lab.files, "foreign").client(&lab.files, "stranger", "", |_| {});
    let gateway = lab.start("ca: [ root.pem ], mode: optional", "");
    lab.ask(&gateway, None, "/x", &[]).unwrap().assert_problem(401, "authn", "missing_credentials");
    assert_eq!(lab.ask(&gateway, None, "/open", &[]).unwrap().status, 200);
    assert_eq!(lab.ask(&gateway, Some("billing"), "/billing", &[]).unwrap().status, 200);
    assert!(lab.ask(&gateway, Some("stranger"), "/open", &[]).is_err(), "a bad one is worse than none");
}

#[test]
fn revoked_certificates_are_refused_and_sessions_do_not_bring_them_back() {
    let lab = Lab::new();
    for (name, serial) in [("one", 1u8), ("two", 2)] {
        lab.root.client(&lab.files, name, "", |params| params.serial_number = Some(SerialNumber::from(vec![serial])));
    }
    lab.root.revoke(&lab.files, "crl.pem", &[1], 2099);
    let gateway = lab.start("ca: root.pem, crl: crl.pem", "");
    assert!(lab.ask(&gateway, Some("one"), "/x", &[]).is_err());
    assert_eq!(lab.ask(&gateway, Some("two"), "/x", &[]).unwrap().status, 200);
    refused(&gateway, "client_certificate_revoked", 1.0);
    // A session that was opened while the certificate was good.
    let session = lab.file("session", "pem");
    let connect = |arguments: &[&str]| {
        let address = format!("127.0.0.1:{}", gateway.port());
        let output = std::process::Command::new("openssl")
            .args([
                "s_client",
                "-connect",
                &address,
                "-cert",
                &lab.file("two", "pem"),
                "-key",
                &lab.file("two", "key"),
                "-tls1_2",
            ])
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    connect(&["-sess_out", &session]);
    let again = connect(&["-sess_in", &session]);
    assert!(!again.contains("Reused"), "never resumed: {again}");
    lab.root.revoke(&lab.files, "crl.pem", &[1, 2], 2099);
    assert_eq!(gateway.reload().0, 200);
    assert!(lab.ask(&gateway, Some("two"), "/x", &[]).is_err());
    connect(&[]);
    refused(&gateway, "client_certificate_revoked", 3.0);
    // A list that nobody renewed: closed, with a name for it.
    lab.root.revoke(&lab.files, "crl.pem", &[], 2025);
    assert_eq!(gateway.reload().0, 200);
    assert!(lab.ask(&gateway, Some("two"), "/x", &[]).is_err());
    refused(&gateway, "client_crl_expired", 1.0);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let lab = Lab::new();
    lab.files.write("empty.pem", "nothing");
    let yaml = "
listeners:
  - bind: 127.0.0.1:1
    tls:
      certificates: [ { cert: server.pem, key: server.key } ]
      client_auth: { ca: [ missing.pem, empty.pem ], crl: root.pem, depth: 99 }
consumers:
  - { name: a, certificates: [ { fingerprint: 'sha256:12' }, { dns: x.example } ] }
  - { name: b, certificates: [ { dns: X.example } ] }
policies: { authn: { mtls: { subject_from: [] } } }
routes: [ { path: /*, service: 127.0.0.1, port: 1 } ]
";
    lab.files.write("gateway.yaml", yaml);
    let ran = portcullis(lab.files.dir(), &["check", "gateway.yaml"]);
    assert_eq!(ran.code, 1);
    let said = ran.stdout + &ran.stderr;
    for expected in [
        "missing.pem cannot be read",
        "empty.pem holds no certificate",
        "root.pem holds no certificate revocation list",
        "`depth` is at most 16",
        "64 hexadecimal digits",
        "already belongs to consumer `a`",
        "an empty list says nothing here",
    ] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
}
