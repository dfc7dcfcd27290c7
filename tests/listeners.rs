//! Which listener serves what: routes that name theirs, and hosts that belong to a stricter one.

use crate::harness::*;
use crate::mtls::Authority;

#[test]
fn routes_are_served_by_the_listeners_that_they_name() {
    let [one, two] = [Backend::named("one"), Backend::named("two")];
    let yaml = format!(
        "
        listeners:
          - {{ name: public, bind: '127.0.0.1:$PORT', h2c: true }}
          - {{ name: inner, bind: '127.0.0.1:$PORT2', h2c: true }}
        services:
          one: {{ endpoints: [ '127.0.0.1:{}' ] }}
          two: {{ endpoints: [ '127.0.0.1:{}' ] }}
        routes:
          - {{ path: /*, service: one }}
          - {{ path: /metrics, service: two, listeners: inner }}
          - {{ path: /both, service: one, listeners: [ public ] }}
          - {{ path: /both, service: two, listeners: [ inner ], methods: [ POST ] }}
          - {{ host: inner.test, path: /only, service: two, listeners: [ inner ] }}
        ",
        one.port(),
        two.port()
    );
    let gateway = Gateway::start(&yaml);
    let ask = |port: u16, path: &str, host: &str| {
        let url = format!("http://127.0.0.1:{port}{path}");
        let h1 = curl(&["-H", &format!("Host: {host}"), &url]);
        let h2 = curl(&["--http2-prior-knowledge", "-H", &format!("Host: {host}"), &url]);
        assert_eq!(h1.status, h2.status, "{url}");
        if h1.status == 200 { h1.json()["name"].as_str().unwrap().to_owned() } else { h1.status.to_string() }
    };
    let check = |inner: &str| {
        assert_eq!(ask(gateway.port(), "/metrics", "x"), "one");
        assert_eq!(ask(gateway.port2(), "/metrics", "x"), inner);
        assert_eq!(ask(gateway.port(), "/both", "x"), "one");
        // As if the public one's route were not there.
        assert_eq!(ask(gateway.port2(), "/both", "x"), "one");
        // Nor is a host that has routes elsewhere only.
        assert_eq!(ask(gateway.port(), "/only", "inner.test"), "one");
        assert_eq!(ask(gateway.port2(), "/only", "inner.test"), "two");
        assert_eq!(ask(gateway.port2(), "/other", "inner.test"), "404");
    };
    check("two");
    let (mut public, mut inner) = (Client::connect(gateway.port()), Client::connect(gateway.port2()));
    assert_eq!(
        (public.get("/metrics").json()["name"].clone(), inner.get("/metrics").json()["name"].clone()),
        ("one".into(), "two".into())
    );
    gateway.rewrite(&yaml.replace("service: two, listeners: inner }", "service: two, listeners: public }"));
    assert_eq!(gateway.reload().0, 200);
    // On connections that stand as on new ones.
    assert_eq!(
        (public.get("/metrics").json()["name"].clone(), inner.get("/metrics").json()["name"].clone()),
        ("two".into(), "one".into())
    );
}

/// A listener for partners with certificates, one for everybody, and one without TLS.
fn mutual(files: &Files, backend: &Backend) -> String {
    Authority::root(files, "root").client(files, "partner", "", |_| {});
    let (partners, partners_key, _) = files.certificate(&["partners.test", "*.shared.test"]);
    let (public, public_key, _) = files.certificate(&["www.test", "*.shared.test", "a.shared.test"]);
    format!(
        "
        listeners:
          - {{ name: partners, bind: '127.0.0.1:$PORT', tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ], client_auth: {{ ca: root.pem }} }} }}
          - {{ name: public, bind: '127.0.0.1:$PORT2', tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ] }} }}
          - {{ name: plain, bind: '127.0.0.1:$PORT3', h2c: true }}
        services: {{ a: {{ endpoints: [ '127.0.0.1:{}' ] }} }}
        routes:
          - {{ path: /*, service: a }}
          - {{ path: /health, service: a, listeners: [ plain, partners ] }}
        ",
        partners.display(),
        partners_key.display(),
        public.display(),
        public_key.display(),
        backend.port()
    )
}

#[test]
fn a_host_that_needs_a_certificate_is_not_served_without() {
    let (files, backend) = (Files::new(), Backend::http());
    let gateway = Gateway::start_in(&files, &mutual(&files, &backend));
    let dir = files.dir().display().to_string();
    let (cert, key) = (format!("{dir}/partner.pem"), format!("{dir}/partner.key"));
    for version in ["--http1.1", "--http2"] {
        let tls = |port: u16, name: &str, host: &str, path: &str, more: &[&str]| {
            let (url, resolve, host) =
                (format!("https://{name}:{port}{path}"), format!("{name}:{port}:127.0.0.1"), format!("Host: {host}"));
            curl(&[&["-k", version, "--resolve", &resolve, "-H", &host, &url], more].concat())
        };
        let own = tls(gateway.port(), "partners.test", "partners.test", "/", &["--cert", &cert, "--key", &key]);
        assert_eq!(own.status, 200, "{own:?}");
        assert_eq!(tls(gateway.port2(), "www.test", "www.test", "/", &[]).status, 200);
        // Through the public one's door, under any name.
        let seen = backend.requests().len();
        for (name, host) in
            [("www.test", "partners.test"), ("partners.test", "PARTNERS.test:443"), ("www.test", "partners.test.")]
        {
            tls(gateway.port2(), name, host, "/", &[]).assert_problem(421, "route", "misdirected");
            tls(gateway.port2(), name, host, "/health", &[]).assert_problem(421, "route", "misdirected");
        }
        let plain = if version == "--http2" { "--http2-prior-knowledge" } else { version };
        let url = |path: &str| format!("http://127.0.0.1:{}{path}", gateway.port3());
        curl(&[plain, "-H", "Host: partners.test", &url("/")]).assert_problem(421, "route", "misdirected");
        assert_eq!(backend.requests().len(), seen, "nothing of it reached the backend");
        // Where a route says that this listener serves it, it does.
        assert_eq!(curl(&[plain, "-H", "Host: partners.test", &url("/health")]).status, 200);
        // Both have a certificate for these.
        for host in ["a.shared.test", "b.shared.test", "other.test"] {
            assert_eq!(tls(gateway.port2(), "www.test", host, "/", &[]).status, 200, "{host}");
        }
    }
}

fn check(files: &Files, yaml: &str) -> Ran {
    let yaml = yaml.replace("$PORT2", "18082").replace("$PORT3", "18083").replace("$PORT", "18081");
    let path = files.write("checked.yaml", yaml);
    portcullis(files.dir(), &["check", path.to_str().unwrap()])
}

#[test]
fn check_says_where_a_stricter_listener_is_dodged() {
    let files = Files::new();
    let yaml = mutual(&files, &Backend::http());
    let ran = check(&files, &yaml);
    assert_eq!(ran.code, 0, "{ran:?}");
    for listener in ["public", "plain"] {
        let said =
            format!("listener `{listener}` serves routes without the client certificate that listener `partners` requires");
        assert!(ran.stderr.contains(&said), "{said}: {}", ran.stderr);
    }
    // Each route says whose it is, or each host belongs to the partners' listener.
    for better in [
        yaml.replace("path: /*, service", "path: /*, listeners: partners, service"),
        yaml.replace("path: /*, service", "path: /*, host: partners.test, service"),
    ] {
        let ran = check(&files, &better);
        assert!(ran.code == 0 && !ran.stderr.contains("client certificate"), "{ran:?}");
    }
    let ran = check(&files, &yaml.replace("service: a,", "service: a, policies: { authn: { mtls: {} } },"));
    let said = "listener `plain` asks no client for a certificate, and serves route `/health [listener=partners|plain]`";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    assert!(!ran.stderr.contains("`partners` asks no client"), "{}", ran.stderr);
}

#[test]
fn a_listener_that_does_not_exist_is_named_with_a_hint() {
    let files = Files::new();
    let yaml = "listeners: [ { name: public, bind: '127.0.0.1:18081' }, { bind: '127.0.0.1:18082' } ]\nroutes:\n";
    for (listeners, said) in [
        ("[ pubic ]", "unknown listener `pubic`"),
        ("[ pubic ]", "did you mean `public`?"),
        ("zzz", "the listeners are `public`, `127.0.0.1:18082`"),
        ("[]", "empty"),
    ] {
        let ran = check(&files, &format!("{yaml}  - {{ path: /, service: localhost, port: 1, listeners: {listeners} }}\n"));
        assert!(ran.code == 1 && ran.stderr.contains(said), "{listeners}: {ran:?}");
    }
    let ran = check(&files, &format!("{yaml}  - {{ path: /, service: localhost, port: 1, listeners: '127.0.0.1:18082' }}\n"));
    assert_eq!(ran.code, 0, "a listener without a name has its address: {ran:?}");
}
