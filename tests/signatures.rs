//! Who is it, by a signature over the request: HTTP Message Signatures, made by a client that knows nothing of the gateway's code.

use crate::harness::*;

/// Signs with Python's own library, and sends what it is told.
const CLIENT: &str = r#"
import base64, hashlib, hmac, http.client, json, sys, time
port, target, body, sent, nonce, key = int(sys.argv[1]), sys.argv[2], sys.argv[3].encode(), sys.argv[4].encode(), sys.argv[5], b"k" * 32
digest = "sha-256=:%s:" % base64.b64encode(hashlib.sha256(body).digest()).decode()
path, _, query = target.partition("?")
covered = [("@method", "POST"), ("@authority", "127.0.0.1:%d" % port), ("@path", path), ("@query", "?" + query), ("content-digest", digest)]
params = "(%s);created=%d;keyid=\"k1\";alg=\"hmac-sha256\";nonce=\"%s\"" % (" ".join('"%s"' % n for n, _ in covered), time.time(), nonce)
base = "".join('"%s": %s\n' % pair for pair in covered) + '"@signature-params": ' + params
signature = base64.b64encode(hmac.new(key, base.encode(), hashlib.sha256).digest()).decode()
connection = http.client.HTTPConnection("127.0.0.1", port)
connection.request("POST", target, sent, {"Content-Digest": digest, "Signature-Input": "sig=" + params, "Signature": "sig=:%s:" % signature})
answer = connection.getresponse()
text = answer.read().decode()
print(answer.status, json.loads(text)["reason"] if answer.status >= 400 else "")
"#;

fn ask(gateway: &Gateway, target: &str, body: &str, sent: &str, nonce: &str) -> String {
    let port = gateway.port().to_string();
    let output =
        std::process::Command::new("/usr/bin/python3").args(["-c", CLIENT, &port, target, body, sent, nonce]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn a_signed_request_passes_once_and_unchanged(lane: bool) {
    let backend = Backend::http();
    let yaml = format!(
        "
        listeners: [ {{ bind: 127.0.0.1:$PORT }} ]
        server: {{ fast_lane: {lane} }}
        consumers:
          - {{ name: acme, signing_keys: [ {{ id: k1, secret: '${{KEY}}' }} ] }}
        policies: {{ authn: {{ signature: {{ max_body: 64KiB }} }} }}
        routes: [ {{ path: /*, service: 127.0.0.1, port: $BACKEND }} ]
        "
    );
    let key = "k".repeat(32);
    let gateway = Gateway::start_with(&filled(&yaml, &[("$BACKEND", backend.port())]), &[("KEY", &key)]);
    assert_eq!(ask(&gateway, "/pay?to=a%20b", "amount=1", "amount=1", "1"), "200");
    let seen = backend.last();
    assert_eq!((seen.header("x-consumer-name"), seen.header("x-auth-method")), (Some("acme"), Some("signature")));
    assert_eq!((&*seen.body, seen.header("signature"), seen.header("signature-input")), (&b"amount=1"[..], None, None));
    assert_eq!(ask(&gateway, "/pay?to=a%20b", "amount=1", "amount=1", "1"), "401 replayed_signature");
    assert_eq!(ask(&gateway, "/pay", "amount=1", "amount=9", "2"), "401 content_digest_mismatch");
    let long = "x".repeat(70_000);
    assert_eq!(ask(&gateway, "/pay", &long, &long, "3"), "413 body_too_large");
    get(gateway.port(), "/pay").assert_problem(401, "authn", "missing_credentials");
    assert_eq!(backend.requests().len(), 1);
    assert!(!gateway.log_text().contains("kkkk") && !gateway.admin_get("/config").1.contains("kkkk"));
}

each_on_both_roads!(a_signed_request_passes_once_and_unchanged);

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let files = Files::new();
    let yaml = "
listeners: [ { bind: 127.0.0.1:1 } ]
consumers:
  - { name: a, signing_keys: [ { id: k, secret: { file: short } }, { id: l, algorithm: rot13, secret: { file: short } } ] }
policies: { authn: { signature: { components: [ '@status', X-Upper ], max_age: 2d, max_remembered: 0 } } }
routes: [ { path: /*, service: 127.0.0.1, port: 1 } ]
";
    files.write("short", "abc");
    files.write("gateway.yaml", yaml);
    let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
    assert_eq!(ran.code, 1);
    let said = ran.stdout + &ran.stderr;
    for expected in ["rot13", "`@status` is no component", "`X-Upper` is no component", "`max_age`", "`max_remembered`"] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
}
