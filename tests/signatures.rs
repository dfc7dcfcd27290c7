//! Who is it, by a signature over the request: HTTP Message Signatures, made by a client that knows nothing of the gateway's code.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::authn::now;
use crate::harness::*;

/// Signs with Python's own library, and sends what it is told.
const CLIENT: &str = r#"
import base64, gzip, hashlib, hmac, http.client, json, sys, time
port, target, body, sent, nonce, key = int(sys.argv[1]), sys.argv[2], sys.argv[3].encode(), sys.argv[4].encode(), sys.argv[5], b"k" * 32
coded = {"Content-Type": "application/json", "Content-Encoding": "gzip"} if "/coded" in target else {}
if "twice" in target: body, sent = gzip.compress(body, mtime=0) + gzip.compress(b" ", mtime=0), gzip.compress(sent, mtime=0) + gzip.compress(b" ", mtime=0)
elif coded: body, sent = gzip.compress(body, mtime=0), gzip.compress(sent, mtime=0)
digest = "sha-256=:%s:" % base64.b64encode(hashlib.sha256(body).digest()).decode()
path, _, query = target.partition("?")
covered = [("@method", "POST"), ("@authority", "127.0.0.1:%d" % port), ("@path", path), ("@query", "?" + query), ("content-digest", digest)]
params = "(%s);created=%d;keyid=\"k1\";alg=\"hmac-sha256\";nonce=\"%s\"" % (" ".join('"%s"' % n for n, _ in covered), time.time(), nonce)
base = "".join('"%s": %s\n' % pair for pair in covered) + '"@signature-params": ' + params
signature = base64.b64encode(hmac.new(key, base.encode(), hashlib.sha256).digest()).decode()
connection = http.client.HTTPConnection("127.0.0.1", port)
connection.request("POST", target, sent, {"Content-Digest": digest, "Signature-Input": "sig=" + params, "Signature": "sig=:%s:" % signature, **coded})
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

#[test]
fn a_signed_request_passes_once_and_unchanged() {
    let backend = Backend::http();
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        consumers:
          - { name: acme, signing_keys: [ { id: k1, secret: '${KEY}' } ] }
        policies: { authn: { signature: { max_body: 64KiB } } }
        routes:
          - { path: /*, service: 127.0.0.1, port: $BACKEND }
          - { path: /coded/*, service: 127.0.0.1, port: $BACKEND, policies: { validate: { json: true } } }
        ";
    let key = "k".repeat(32);
    let gateway = Gateway::start_with(&filled(yaml, &[("$BACKEND", backend.port())]), &[("KEY", &key)]);
    assert_eq!(ask(&gateway, "/pay?to=a%20b", "amount=1", "amount=1", "1"), "200");
    let seen = backend.last();
    assert_eq!((seen.header("x-consumer-name"), seen.header("x-auth-method")), (Some("acme"), Some("signature")));
    assert_eq!((&*seen.body, seen.header("signature"), seen.header("signature-input")), (&b"amount=1"[..], None, None));
    assert_eq!(ask(&gateway, "/pay?to=a%20b", "amount=1", "amount=1", "1"), "401 replayed_signature");
    assert_eq!(ask(&gateway, "/pay", "amount=1", "amount=9", "2"), "401 content_digest_mismatch");
    let long = "x".repeat(70_000);
    assert_eq!(ask(&gateway, "/pay", &long, &long, "3"), "413 body_too_large");
    get(gateway.port(), "/pay").assert_problem(401, "authn", "missing_credentials");
    // A digest is of the body as it comes, coding and all; a contract is about what is behind it.
    assert_eq!(ask(&gateway, "/coded", "{}", "{}", "4"), "200");
    assert_eq!(ask(&gateway, "/coded", "{}", "{ }", "5"), "401 content_digest_mismatch");
    assert_eq!(ask(&gateway, "/coded", "{", "{", "6"), "400 json_malformed");
    assert_eq!(backend.requests().len(), 2);
    // Also of one that goes on in another form.
    assert_eq!(ask(&gateway, "/coded/twice", "{}", "{}", "7"), "200");
    assert_eq!((backend.last().body, backend.last().header("content-encoding")), (b"{} ".to_vec(), None));
    assert!(!gateway.log_text().contains("kkkk") && !gateway.admin_get("/config").1.contains("kkkk"));
}

/// A client with an ECDSA key, and a gateway that knows it.
struct Lab {
    key: EcdsaKeyPair,
    gateway: Gateway,
    backend: Backend,
    files: Files,
}

const SIGNED: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
    consumers: [ { name: acme, signing_keys: [ { id: k1, public_key: { file: key.pem } } ] } ]
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
";
const EVERYWHERE: &str = "
    policies: { authn: { signature: {} } }
    routes: [ { path: /*, service: a } ]
";

/// A signature: its parameters, its bytes.
type Made = (String, Vec<u8>);

impl Lab {
    fn start() -> Lab {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der()).unwrap();
        let (files, backend) = (Files::new(), Backend::http());
        files.write("key.pem", pair.public_key_pem());
        let gateway = Gateway::start_in(&files, &yaml(&backend, EVERYWHERE));
        Lab { key, gateway, backend, files }
    }

    fn reload(&self, policies: &str) {
        self.gateway.rewrite(&yaml(&self.backend, policies));
        let (status, said) = self.gateway.reload();
        assert_eq!(status, 200, "{said}");
    }

    fn sign(&self, method: &str, created: u64, body: Option<&[u8]>) -> Made {
        let mut covered = vec![("@method", method.to_owned()), ("@path", "/pay".to_owned())];
        covered.push(("@authority", format!("127.0.0.1:{}", self.gateway.port())));
        covered.extend(body.map(|body| ("content-digest", announced(body))));
        let names: Vec<String> = covered.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let params = format!("({});created={created};keyid=\"k1\"", names.join(" "));
        let lines: String = covered.iter().map(|(name, value)| format!("\"{name}\": {value}\n")).collect();
        let base = format!("{lines}\"@signature-params\": {params}");
        (params, self.key.sign(&SystemRandom::new(), base.as_bytes()).unwrap().as_ref().to_vec())
    }

    /// The status, and the reason of a refusal.
    fn send(&self, args: &[&str], made: &Made, body: Option<&[u8]>) -> String {
        let (url, (params, signature)) = (self.gateway.url("/pay"), made);
        let mut fields = vec![format!("Signature-Input: s={params}"), format!("Signature: s=:{}:", STANDARD.encode(signature))];
        fields.extend(body.map(|body| format!("Content-Digest: {}", announced(body))));
        let all: Vec<&str> = args.iter().copied().chain(fields.iter().flat_map(|field| ["-H", field])).chain([&*url]).collect();
        let answer = curl(&all);
        if answer.status == 200 {
            "200".to_owned()
        } else {
            format!("{} {}", answer.status, answer.json()["reason"].as_str().unwrap())
        }
    }
}

fn yaml(backend: &Backend, policies: &str) -> String {
    filled(&format!("{SIGNED}{policies}"), &[("$BACKEND", backend.port())])
}

fn announced(body: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(digest(&SHA256, body)))
}

/// The same signature with n - s, which everybody can make and is as good.
fn turned(signature: &[u8]) -> Vec<u8> {
    let order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let (r, s) = signature.split_at(32);
    let mut borrow = 0;
    let mut turned: Vec<u8> = (0..32)
        .rev()
        .map(|at| {
            let digit = i32::from(u8::from_str_radix(&order[2 * at..2 * at + 2], 16).unwrap()) - i32::from(s[at]) - borrow;
            borrow = i32::from(digit < 0);
            u8::try_from(digit.rem_euclid(256)).unwrap()
        })
        .collect();
    turned.reverse();
    [r, &turned].concat()
}

const PROTOCOLS: [&str; 2] = ["--http1.1", "--http2-prior-knowledge"];

#[test]
fn what_was_signed_is_taken_once_however_it_is_signed() {
    let lab = Lab::start();
    for protocol in PROTOCOLS {
        let made = lab.sign("GET", now() + u64::from(protocol == PROTOCOLS[1]), None);
        assert_eq!(lab.send(&[protocol], &made, None), "200");
        let other = (made.0.clone(), turned(&made.1));
        assert_ne!(made.1, other.1);
        assert_eq!(lab.send(&[protocol], &other, None), "401 replayed_signature");
        let signed_anew = lab.sign("GET", made.0.split(['=', ';']).nth(2).unwrap().parse().unwrap(), None);
        assert_eq!((&made.0, lab.send(&[protocol], &signed_anew, None)), (&signed_anew.0, "401 replayed_signature".to_owned()));
    }
    assert_eq!(lab.backend.requests().len(), 2);
}

#[test]
fn a_digest_is_compared_also_where_no_body_comes() {
    let lab = Lab::start();
    let mut age = 0;
    let mut made = |method: &str, body: &[u8]| {
        age += 1;
        lab.sign(method, now() + age, Some(body))
    };
    for protocol in PROTOCOLS {
        for (method, args) in [
            ("GET", &[][..]),
            ("POST", &["-X", "POST"]),
            ("POST", &["-X", "POST", "-H", "Content-Length: 0"]),
            // Chunked, and an HTTP/2 stream that goes on after its head: both without a byte.
            ("PUT", &["-T", "/dev/null"]),
        ] {
            let args: Vec<&str> = [protocol].into_iter().chain(args.iter().copied()).collect();
            let body: &[u8] = b"amount=1";
            assert_eq!(lab.send(&args, &made(method, body), Some(body)), "401 content_digest_mismatch", "{args:?}");
            assert_eq!(lab.send(&args, &made(method, b""), Some(b"")), "200", "{args:?}");
        }
    }
    assert!(lab.backend.requests().iter().all(|request| request.header("content-digest") == Some(&*announced(b""))));
}

#[test]
fn a_reload_forgets_no_signature() {
    let lab = Lab::start();
    let made = lab.sign("GET", now(), None);
    assert_eq!(lab.send(&[], &made, None), "200");
    for policies in [
        "
    policies: { authn: { signature: { max_age: 1h, max_remembered: 5 } } }
    routes: [ { path: /*, service: a } ]
",
        "
    routes: [ { path: /*, service: a, policies: { authn: { signature: {} } } } ]
",
        "
    routes: [ { path: '/{any}', service: a, policies: { authn: { signature: { clock_skew: 1m } } } } ]
",
        EVERYWHERE,
    ] {
        lab.reload(policies);
        assert_eq!(lab.send(&[], &made, None), "401 replayed_signature", "{policies}");
    }
    assert_eq!(lab.backend.requests().len(), 1);
    assert!(lab.files.dir().exists());
}

#[test]
fn a_signature_from_before_the_start_is_refused() {
    let lab = Lab::start();
    let early = lab.sign("GET", now() - 60, None);
    assert_eq!(lab.send(&[], &early, None), "401 signature_before_start");
    assert_eq!(lab.send(&[], &lab.sign("GET", now(), None), None), "200");
    let stale = lab.sign("GET", now() - 600, None);
    assert_eq!(lab.send(&[], &stale, None), "401 stale_signature");
}

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
