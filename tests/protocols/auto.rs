//! Services whose one port speaks both versions of HTTP: calls of gRPC's go over HTTP/2, everything else over HTTP/1.1.

use super::peer::Peer;
use crate::harness::*;

const YAML: &str = "
    listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
    server: { workers: 1 }
    services:
      both: { endpoints: [ '127.0.0.1:$BOTH' ], protocol: auto, warm: 1, health_check: { path: /health, initial: unhealthy, interval: 1s } $TLS }
    routes:
      - { path: /told/*, service: both, policies: { request_headers: { set: { Content-Type: application/grpc } } } }
      - { path: /*, service: both }
";

fn spoken(gateway: &Gateway, path: &str, version: &str, kind: &str) -> String {
    let kind = format!("Content-Type: {kind}");
    // One message of five bytes.
    let message = gateway.files().write("message", b"\0\0\0\0\x05hello");
    let body = format!("@{}", message.display());
    let answer = curl(&[version, "-H", &kind, "-H", "TE: trailers", "--data-binary", &body, &gateway.url(path)]);
    // Curl prints trailers behind the body.
    assert!(answer.status == 200 && answer.text().starts_with("10"), "{path} {version} {kind}: {answer:?} {}", answer.text());
    let spoken = answer.header("x-spoken").unwrap().to_owned();
    let is_call = kind.ends_with("/grpc") && spoken == "2.0";
    assert!(!is_call || answer.text().contains("grpc-status: 0"), "{}", answer.text());
    spoken
}

fn each_way(gateway: &Gateway) {
    eventually("the endpoint is well", || get(gateway.port(), "/health").status == 200);
    for (path, version, kind, expected) in [
        ("/health", "--http1.1", "application/json", "1.1"),
        ("/health", "--http2-prior-knowledge", "application/json", "1.1"),
        ("/pkg.Svc/Call", "--http2-prior-knowledge", "application/grpc", "2.0"),
        ("/pkg.Svc/Call", "--http2-prior-knowledge", "application/grpc+proto", "2.0"),
        ("/pkg.Svc/Call", "--http2-prior-knowledge", "application/grpcx", "1.1"),
        // What the service is told is what counts.
        ("/told/Call", "--http1.1", "text/plain", "2.0"),
        ("/health", "--http1.1", "application/json", "1.1"),
    ] {
        assert_eq!(spoken(gateway, path, version, kind), expected, "{path} {version} {kind}");
    }
}

#[test]
fn one_port_is_asked_in_the_version_that_fits() {
    let both = Peer::start("both.js", &[]);
    let gateway = Gateway::start(&filled(&YAML.replace("$TLS", ""), &[("$BOTH", both.port())]));
    each_way(&gateway);
    // A reload leaves it as it is, and turns it off.
    let yaml = std::fs::read_to_string(gateway.config_path()).unwrap();
    gateway.rewrite(&yaml.replace("path: /told/*", "path: /hold/*"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(spoken(&gateway, "/a.B/C", "--http2-prior-knowledge", "application/grpc"), "2.0");
    gateway.rewrite(&yaml.replace("protocol: auto", "protocol: http1"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(spoken(&gateway, "/a.B/C", "--http2-prior-knowledge", "application/grpc"), "1.1");
    let (_, upstreams) = gateway.admin_get("/upstreams");
    assert!(upstreams.contains("http1"), "{upstreams}");
}

#[test]
fn so_is_one_over_tls() {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["both.internal"]);
    let both = Peer::start("both.js", &[cert.to_str().unwrap(), key.to_str().unwrap()]);
    let tls = format!(", tls: {{ ca: '{}', server_name: both.internal }}", cert.display());
    each_way(&Gateway::start(&filled(&YAML.replace("$TLS", &tls), &[("$BOTH", both.port())])));
}

#[test]
fn the_stock_engine_says_that_it_cannot() {
    let files = Files::new();
    let yaml =
        YAML.replace("workers: 1", "engine: pingora").replace(", h2c: true", "").replace(", warm: 1", "").replace("$TLS", "");
    files.write("auto.yaml", filled(&yaml, &[("$PORT", 1), ("$BOTH", 2)]).replace("\n    ", "\n"));
    let ran = portcullis(files.dir(), &["check", "-c", "auto.yaml"]);
    assert!(ran.stderr.contains("`protocol: auto` cannot be had"), "{} {}", ran.stdout, ran.stderr);
}
