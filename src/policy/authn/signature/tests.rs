//! The vectors of RFC 9421, appendix B, and what an attacker would try.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::ledger::Ledger;
use crate::policy::testing::context;
use crate::policy::{OnBody, authn::signature::digest::ContentDigest};
use crate::problem::Problems;

const CREATED: u64 = 1_618_884_473;

/// Appendix B.1.4.
const ED25519: &str =
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=\n-----END PUBLIC KEY-----\n";
/// Appendix B.1.5.
const SHARED: &str = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";
/// Appendix B.2, the request.
const REQUEST: [(&str, &str); 5] = [
    ("Host", "example.com"),
    ("Date", "Tue, 20 Apr 2021 02:07:55 GMT"),
    ("Content-Type", "application/json"),
    ("Content-Digest", "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:"),
    ("Content-Length", "18"),
];

struct Lab {
    folder: tempfile::TempDir,
    ledger: Ledger,
    /// These tests have a time of their own.
    _window: Arc<replay::Window>,
    own: Ed25519KeyPair,
}

impl Lab {
    fn new() -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let own = Ed25519KeyPair::generate().unwrap();
        // RFC 8410, section 4: the fixed beginning of an Ed25519 public key.
        let mut der = STANDARD.decode("MCowBQYDK2VwAyEA").unwrap();
        der.extend_from_slice(own.public_key().as_ref());
        let pem = |der: &[u8]| format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der));
        std::fs::write(folder.path().join("own.pem"), pem(&der)).unwrap();
        std::fs::write(folder.path().join("rfc.pem"), ED25519).unwrap();
        std::fs::write(folder.path().join("shared"), STANDARD.decode(SHARED).unwrap()).unwrap();
        let ledger = Ledger::default();
        let window = ledger.keep(WINDOW, || replay::Window::new(0));
        Lab { folder, ledger, _window: window, own }
    }

    fn method(&self, config: Value) -> SignatureMethod {
        let consumers: Vec<crate::consumers::ConsumerConfig> = serde_json::from_value(json!([
            { "name": "acme", "scopes": ["read"], "signing_keys": [{ "id": "own", "public_key": { "file": "own.pem" } }] },
            { "name": "rfc", "signing_keys": [
                { "id": "test-key-ed25519", "algorithm": "ed25519", "public_key": { "file": "rfc.pem" } },
                { "id": "test-shared-secret", "secret": { "file": "shared" } },
            ] },
        ]))
        .unwrap();
        let mut problems = Problems::default();
        let consumers =
            Arc::new(Consumers::compile(&consumers, crate::policy::authn::METHODS, self.folder.path(), &mut problems));
        let mut cx = context(&mut problems, "test", &self.ledger, &consumers, self.folder.path());
        let method = SignatureMethod::compile(&serde_json::from_value(config).unwrap(), &mut cx);
        assert!(problems.is_empty(), "{problems:?}");
        method.unwrap()
    }

    /// A request that was signed with the own key.
    fn signed(&self, target: &str, headers: &[(&str, &str)], input: &str) -> RequestHead {
        let mut all = vec![("Host", "shop.example")];
        all.extend(headers);
        let head = RequestHead::build("GET", target, &all);
        let ListEntry::InnerList(covered) = Parser::parse_dictionary(input.as_bytes()).unwrap().get("s").unwrap().clone() else {
            panic!()
        };
        let text = base::base(&covered, &base::components(&covered).unwrap(), &head, &head.path, &Exchange::for_tests()).unwrap();
        let signature = format!("s=:{}:", STANDARD.encode(self.own.sign(&text)));
        all.extend([("Signature-Input", input), ("Signature", &signature)]);
        RequestHead::build("GET", target, &all)
    }
}

fn judged(method: &SignatureMethod, head: &RequestHead, now: u64) -> Result<Option<Arc<Proved>>, Failure> {
    match method.check(head, &Exchange::for_tests(), now) {
        Verdict::Absent => Ok(None),
        Verdict::Proved(proved) => Ok(Some(proved)),
        Verdict::Failed(failure) => Err(failure),
        Verdict::Waits => panic!(),
    }
}

fn failure(method: &SignatureMethod, head: &RequestHead, now: u64) -> Failure {
    judged(method, head, now).unwrap_err()
}

const INPUT: &str = "s=(\"@method\" \"@authority\" \"@path\");created=1000;keyid=\"own\"";

#[test]
fn verifies_the_vectors_of_the_rfc() {
    let lab = Lab::new();
    let method = lab.method(json!({ "components": ["date"], "body_digest": false }));
    let vectors = [
        (
            "sig-b25=(\"date\" \"@authority\" \"content-type\");created=1618884473;keyid=\"test-shared-secret\"",
            "sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:",
        ),
        (
            "sig-b26=(\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \"content-length\");created=1618884473;keyid=\"test-key-ed25519\"",
            "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:",
        ),
    ];
    for (input, signature) in vectors {
        let with = |signature: &str| {
            let mut headers = REQUEST.to_vec();
            headers.extend([("Signature-Input", input), ("Signature", signature)]);
            RequestHead::build("POST", "/foo?param=Value&Pet=dog", &headers)
        };
        let proved = judged(&method, &with(signature), CREATED + 1).unwrap().unwrap();
        assert_eq!((proved.identity.consumer.as_deref(), proved.identity.method), (Some("rfc"), "signature"));
        let broken = signature.replace('w', "x");
        assert_eq!(failure(&method, &with(&broken), CREATED + 1), Failure::BadRequestSignature);
    }
    let body = ContentDigest { bound: 1 << 20 };
    let head = RequestHead::build("POST", "/", &REQUEST);
    assert!(body.on_body(&head, &b"{\"hello\": \"world\"}"[..].into(), &mut Exchange::for_tests()).is_continue());
    assert!(body.on_body(&head, &b"{\"hello\": \"w0rld\"}"[..].into(), &mut Exchange::for_tests()).is_break());
}

/// What is signed is the host that is matched, keyed and forwarded, in whatever spelling it came; a signature of the field itself is over what
/// the client wrote.
#[test]
fn every_spelling_of_a_host_is_one_signed_authority() {
    for name in ["shop.example", "SHOP.example", "Shop.Example."] {
        for port in ["", ":", ":80", ":080"] {
            let written = format!("{name}{port}");
            let mut head = RequestHead::build("GET", "/a", &[("Host", &written)]);
            head.drop_default_port("http");
            let dictionary = Parser::parse_dictionary(b"s=(\"@authority\" \"@target-uri\" \"host\")").unwrap();
            let ListEntry::InnerList(list) = dictionary.get("s").unwrap() else { panic!() };
            let parts = base::components(list).unwrap();
            let text = String::from_utf8(base::base(list, &parts, &head, &head.path, &Exchange::for_tests()).unwrap()).unwrap();
            let signed = format!(
                "\"@authority\": {}\n\"@target-uri\": http://{}/a\n\"host\": {written}\n",
                String::from_utf8_lossy(head.authority()),
                head.host
            );
            assert!(text.starts_with(&signed), "{written}: {text}");
            assert_eq!((head.authority(), &*head.host), (&b"shop.example"[..], "shop.example"), "{written}");
        }
    }
}

#[test]
fn builds_every_component() {
    let head = RequestHead::build(
        "POST",
        "/path?param=value&foo=bar&baz=batman&qux=%C3%A9%20x",
        &[
            ("Host", "WWW.Example.com:80"),
            ("X-OWS", "  leading and trailing   "),
            ("Cache-Control", "max-age=60"),
            ("Cache-Control", "   must-revalidate"),
            ("Example-Dict", "  a=1,    b=2;x=1;y=2,   c=(a   b   c)"),
        ],
    );
    let base = |covered: &str| {
        let dictionary = Parser::parse_dictionary(format!("s=({covered})").as_bytes()).unwrap();
        let ListEntry::InnerList(list) = dictionary.get("s").unwrap() else { panic!() };
        base::components(list)
            .and_then(|parts| base::base(list, &parts, &head, &head.path, &Exchange::for_tests()))
            .map(|text| String::from_utf8(text).unwrap())
    };
    let expected = [
        ("\"@method\"", "POST"),
        ("\"@target-uri\"", "http://www.example.com/path?param=value&foo=bar&baz=batman&qux=%C3%A9%20x"),
        ("\"@authority\"", "www.example.com"),
        ("\"@scheme\"", "http"),
        ("\"@request-target\"", "/path?param=value&foo=bar&baz=batman&qux=%C3%A9%20x"),
        ("\"@path\"", "/path"),
        ("\"@query\"", "?param=value&foo=bar&baz=batman&qux=%C3%A9%20x"),
        ("\"@query-param\";name=\"baz\"", "batman"),
        ("\"@query-param\";name=\"qux\"", "%C3%A9%20x"),
        ("\"x-ows\"", "leading and trailing"),
        ("\"cache-control\"", "max-age=60, must-revalidate"),
        ("\"cache-control\";bs", ":bWF4LWFnZT02MA==:, :bXVzdC1yZXZhbGlkYXRl:"),
        ("\"example-dict\";key=\"a\"", "1"),
        ("\"example-dict\";key=\"b\"", "2;x=1;y=2"),
        ("\"example-dict\";key=\"c\"", "(a b c)"),
    ];
    for (component, value) in expected {
        let text = base(component).unwrap();
        assert_eq!(text.lines().next().unwrap(), format!("{component}: {value}"));
    }
    for missing in ["\"x-other\"", "\"example-dict\";key=\"d\"", "\"@query-param\";name=\"d\""] {
        assert_eq!(base(missing).unwrap_err(), Failure::MissingComponent, "{missing}");
    }
    for odd in [
        "\"@status\"",
        "\"@method\";req",
        "\"X-Upper\"",
        "a",
        "\"@method\" \"@method\"",
        "\"example-dict\";sf",
        "\"@query-param\"",
        "\"x-ows\";tr",
    ] {
        assert_eq!(base(odd).unwrap_err(), Failure::MalformedSignature, "{odd}");
    }
}

#[test]
fn a_good_signature_is_taken_once() {
    let lab = Lab::new();
    let method = lab.method(json!({}));
    let head = lab.signed("/a", &[], INPUT);
    assert_eq!(judged(&method, &head, 1000).unwrap().unwrap().identity.consumer.as_deref(), Some("acme"));
    assert_eq!(failure(&method, &head, 1001), Failure::ReplayedSignature);
    // A reload keeps what it knows.
    assert_eq!(failure(&lab.method(json!({})), &head, 1001), Failure::ReplayedSignature);
    let nonce = |nonce: &str| lab.signed("/a", &[], &format!("{INPUT};nonce=\"{nonce}\""));
    assert!(judged(&method, &nonce("1"), 1001).is_ok());
    assert!(judged(&method, &nonce("2"), 1001).is_ok());
    assert_eq!(failure(&method, &nonce("1"), 1001), Failure::ReplayedSignature);
    let small = lab.method(json!({ "max_remembered": 4 }));
    assert!(judged(&small, &nonce("3"), 1001).is_ok());
    assert_eq!(failure(&small, &nonce("4"), 1001), Failure::ReplayWindowFull);
}

#[test]
fn time_bounds_a_signature() {
    let lab = Lab::new();
    let method = lab.method(json!({ "max_age": "60s", "clock_skew": "5s" }));
    assert_eq!(failure(&method, &lab.signed("/a", &[], INPUT), 994), Failure::SignatureFromTheFuture);
    assert_eq!(failure(&method, &lab.signed("/a", &[], INPUT), 1061), Failure::StaleSignature);
    let expires = lab.signed("/a", &[], &format!("{INPUT};expires=1010"));
    assert_eq!(failure(&method, &expires, 1011), Failure::StaleSignature);
    assert!(judged(&method, &expires, 1010).is_ok());
    let undated = lab.signed("/a", &[], "s=(\"@method\" \"@authority\" \"@path\");keyid=\"own\"");
    assert_eq!(failure(&method, &undated, 1000), Failure::MalformedSignature);
}

#[test]
fn what_has_to_be_covered_is() {
    let lab = Lab::new();
    let method = lab.method(json!({}));
    let signed = |target: &str, covered: &str| lab.signed(target, &[], &format!("s=({covered});created=1000;keyid=\"own\""));
    assert_eq!(failure(&method, &signed("/a", "\"@method\" \"@authority\""), 1000), Failure::UncoveredComponent);
    assert_eq!(failure(&method, &signed("/a?b", "\"@method\" \"@authority\" \"@path\""), 1000), Failure::UncoveredComponent);
    assert!(judged(&method, &signed("/a?b", "\"@method\" \"@authority\" \"@path\" \"@query\""), 1000).is_ok());
    assert!(judged(&method, &signed("/a?b", "\"@method\" \"@target-uri\""), 1000).is_ok());
    let mut with_body = signed("/b", "\"@method\" \"@target-uri\"");
    with_body.body = BodyFraming::Length(3);
    assert_eq!(failure(&method, &with_body, 1000), Failure::UncoveredComponent);
}

#[test]
fn an_attackers_requests_prove_nobody() {
    let lab = Lab::new();
    let method = lab.method(json!({}));
    let head = lab.signed("/a", &[], INPUT);
    let (input, signature) = (head.header_str("signature-input").unwrap(), head.header_str("signature").unwrap());
    let other = |method: &str, target: &str, host: &str, input: &str, signature: &str| {
        RequestHead::build(method, target, &[("Host", host), ("Signature-Input", input), ("Signature", signature)])
    };
    for (changed, expected) in [
        (other("POST", "/a", "shop.example", input, signature), Failure::BadRequestSignature),
        (other("GET", "/b", "shop.example", input, signature), Failure::BadRequestSignature),
        (other("GET", "/a", "other.example", input, signature), Failure::BadRequestSignature),
        (other("GET", "/a", "shop.example", &input.replace("own", "none"), signature), Failure::UnknownSigningKey),
        (other("GET", "/a", "shop.example", &input.replace("1000", "1001"), signature), Failure::BadRequestSignature),
        (other("GET", "/a", "shop.example", &format!("{input};alg=\"hmac-sha256\""), signature), Failure::BadRequestSignature),
        (other("GET", "/a", "shop.example", input, "t=:AAAA:"), Failure::MalformedSignature),
        (other("GET", "/a", "shop.example", input, "s=\"text\""), Failure::MalformedSignature),
        (other("GET", "/a", "shop.example", input, ""), Failure::MalformedSignature),
        (other("GET", "/a", "shop.example", "s=1", signature), Failure::MalformedSignature),
        (other("GET", "/a", "shop.example", "s=(", signature), Failure::MalformedSignature),
        (
            other("GET", "/a", "shop.example", &format!("s=({}\"@method\")", "\"a\" ".repeat(65)), signature),
            Failure::UnknownSigningKey,
        ),
    ] {
        assert_eq!(failure(&method, &changed, 1000), expected, "{changed:?}");
    }
    let many: Vec<String> = (0..9).map(|n| format!("s{n}=();created=1000;keyid=\"x\"")).collect();
    assert_eq!(
        failure(&method, &other("GET", "/a", "shop.example", &many.join(", "), signature), 1000),
        Failure::MalformedSignature
    );
    let only_input = RequestHead::build("GET", "/a", &[("Host", "shop.example"), ("Signature-Input", input)]);
    assert_eq!(failure(&method, &only_input, 1000), Failure::MalformedSignature);
    assert!(judged(&method, &RequestHead::build("GET", "/a", &[]), 1000).unwrap().is_none());
    assert!(judged(&method, &head, 1000).is_ok(), "and the client's own passes still");
}

#[test]
fn the_right_tag_is_looked_for() {
    let lab = Lab::new();
    let method = lab.method(json!({ "tag": "gateway" }));
    assert_eq!(failure(&method, &lab.signed("/a", &[], INPUT), 1000), Failure::UnknownSigningKey);
    assert!(judged(&method, &lab.signed("/a", &[], &format!("{INPUT};tag=\"gateway\"")), 1000).is_ok());
}
