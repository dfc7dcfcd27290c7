//! Clients that sign their requests to the gateway as AWS has it: curl, and AWS's own library.

use std::process::Command;

use super::cloud::python;
use super::*;

/// Signs with AWS's own library, changes what it is told to, and sends it.
const CLIENT: &str = r#"
import datetime, http.client, json, sys
from botocore.auth import SigV4Auth, SigV4QueryAuth, S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
import botocore.compat
how = json.loads(sys.argv[1])
port, body = how["port"], how.get("body", "").encode()
url = "http://127.0.0.1:%d%s" % (port, how.get("target", "/x"))
request = AWSRequest(how.get("method", "GET"), url, data=body or None, headers=how.get("fields", {}))
kind = {"": SigV4Auth, "s3": S3SigV4Auth, "query": SigV4QueryAuth, "s3query": S3SigV4QueryAuth}[how.get("kind", "")]
ago = how.get("ago", 0)
if ago:
    now = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=ago)
    import botocore.auth
    botocore.auth.get_current_datetime = lambda *a, **k: now.replace(tzinfo=None)
more = {"expires": how["expires"]} if "expires" in how else {}
signer = kind(Credentials(how.get("key", "WAREHOUSE1"), how.get("secret", "a secret of some length"), how.get("token")), how.get("service", "execute-api"), how.get("region", "eu-central-1"), **more)
signer.add_auth(request)
fields = dict(request.headers.items())
fields.update(how.get("change", {}))
fields = {name: value for name, value in fields.items() if value is not None}
target = how.get("sent_target") or request.url.split(str(port), 1)[1]
connection = http.client.HTTPConnection("127.0.0.1", port)
connection.request(how.get("sent_method") or how.get("method", "GET"), target, how.get("sent", how.get("body", "")).encode() or None, fields)
answer = connection.getresponse()
text = answer.read().decode()
print(answer.status, json.loads(text).get("reason", "") if answer.status >= 400 else "")
"#;

fn yaml(aws: &str, backend: &Backend) -> String {
    format!(
        "
        listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]
        consumers: [ {{ name: warehouse, aws_keys: [ {{ access_key_id: WAREHOUSE1, secret_access_key: '${{KEY}}' }} ] }} ]
        services: {{ a: {{ endpoints: [ '127.0.0.1:{}' ] }} }}
        policies: {{ authn: {{ aws_sigv4: {{ service: execute-api, region: eu-central-1{aws} }} }} }}
        routes: [ {{ path: '/*', service: a }} ]
        ",
        backend.port()
    )
}

struct Lab {
    gateway: Gateway,
    backend: Backend,
}

impl Lab {
    fn start(aws: &str) -> Lab {
        let backend = Backend::http();
        let gateway = Gateway::start_with(&yaml(aws, &backend), &[("KEY", "a secret of some length")]);
        Lab { gateway, backend }
    }

    /// The status, and the reason of a refusal.
    fn send(&self, mut how: Value) -> String {
        how["port"] = json!(self.gateway.port());
        let output = Command::new(python()).args(["-c", CLIENT, &how.to_string()]).output().unwrap();
        assert!(output.status.success(), "{how}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

#[test]
fn awss_own_library_is_understood() {
    let lab = Lab::start("");
    for how in [
        json!({}),
        json!({ "target": "/a%20b/c?z=1&a=%2F&q=a%20b&empty=" }),
        json!({ "target": "/~x/caf%C3%A9", "method": "DELETE" }),
        json!({ "method": "POST", "body": "amount=1" }),
        json!({ "method": "PUT", "body": "{}", "fields": { "Content-Type": "application/json", "X-Amz-Meta": "  a   b " } }),
        json!({ "token": "a-temporary-key's" }),
        json!({ "method": "POST", "body": "with a digest", "fields": { "X-Amz-Content-Sha256": sha256("with a digest") } }),
        json!({ "ago": 200 }),
        json!({ "ago": -200 }),
    ] {
        assert_eq!(lab.send(how.clone()), "200", "{how}");
    }
    lab.send(json!({ "method": "POST", "body": "amount=1", "token": "t" }));
    let seen = lab.backend.last();
    assert_eq!(
        (seen.header("x-consumer-name"), seen.header("x-auth-method"), &*seen.body),
        (Some("warehouse"), Some("aws_sigv4"), &b"amount=1"[..])
    );
    for field in ["authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"] {
        assert_eq!(seen.header(field), None, "{field}");
    }
    let line = lab.gateway.wait_log(|line| line["consumer"] == "warehouse");
    assert_eq!(line["status"], 200, "{line}");
    assert!(!lab.gateway.log_text().contains("a secret of") && !lab.gateway.admin_get("/config").1.contains("a secret of"));
}

#[test]
fn curl_is_understood() {
    let lab = Lab::start("");
    let sigv4 = ["--aws-sigv4", "aws:amz:eu-central-1:execute-api", "--user", "WAREHOUSE1:a secret of some length"];
    let ask = |more: &[&str], path: &str| curl(&[&sigv4[..], more, &[&lab.gateway.url(path)]].concat()).status;
    assert_eq!((ask(&[], "/stock"), ask(&[], "/stock?a=1&b=2"), ask(&["-d", "x=1"], "/stock")), (200, 200, 200));
    assert_eq!(ask(&["--http2-prior-knowledge"], "/stock"), 200);
    assert_eq!(
        curl(&["--aws-sigv4", "aws:amz:eu-central-1:execute-api", "--user", "WAREHOUSE1:another", &lab.gateway.url("/")]).status,
        401
    );
}

#[test]
fn whatever_is_changed_is_noticed() {
    let lab = Lab::start(", max_body: 2KiB");
    for (how, said) in [
        (json!({ "secret": "another" }), "401 bad_request_signature"),
        (json!({ "key": "NOBODY" }), "401 unknown_signing_key"),
        (json!({ "region": "us-east-1" }), "401 wrong_signing_scope"),
        (json!({ "service": "s3" }), "401 wrong_signing_scope"),
        (json!({ "ago": 400 }), "401 stale_signature"),
        (json!({ "ago": -400 }), "401 signature_from_future"),
        (json!({ "sent_target": "/y" }), "401 bad_request_signature"),
        (json!({ "sent_target": "/x?a=1" }), "401 bad_request_signature"),
        (json!({ "sent_method": "DELETE" }), "401 bad_request_signature"),
        (json!({ "change": { "Host": "other.example" } }), "401 bad_request_signature"),
        (json!({ "change": { "X-Amz-Target": "Delete.All" } }), "401 uncovered_component"),
        (json!({ "fields": { "X-A": "1" }, "change": { "X-A": null } }), "401 missing_component"),
        (json!({ "fields": { "X-A": "1" }, "change": { "X-A": "2" } }), "401 bad_request_signature"),
        (json!({ "change": { "Authorization": "AWS4-HMAC-SHA256 Credential=x" } }), "401 malformed_signature"),
        (json!({ "change": { "X-Amz-Date": null } }), "401 malformed_signature"),
        (json!({ "method": "POST", "body": "amount=1", "sent": "amount=9" }), "401 bad_request_signature"),
        (
            json!({ "method": "POST", "body": "a", "fields": { "X-Amz-Content-Sha256": sha256("a") }, "sent": "b" }),
            "401 payload_mismatch",
        ),
        (
            json!({ "method": "POST", "body": "a", "fields": { "X-Amz-Content-Sha256": "UNSIGNED-PAYLOAD" } }),
            "401 unsigned_payload",
        ),
        (
            json!({ "method": "PUT", "body": "a", "fields": { "X-Amz-Content-Sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" } }),
            "401 streaming_signature",
        ),
        (json!({ "method": "POST", "body": "x".repeat(3000) }), "413 body_too_large"),
    ] {
        let shown = how.to_string();
        assert_eq!(lab.send(how), said, "{}", &shown[..shown.len().min(200)]);
    }
    assert!(lab.backend.requests().is_empty());
    let none = get(lab.gateway.port(), "/x");
    none.assert_problem(401, "authn", "missing_credentials");
    assert!(none.header("www-authenticate").unwrap().starts_with("AWS4-HMAC-SHA256 realm="));
}

#[test]
fn an_address_can_be_signed_where_that_is_allowed() {
    let lab = Lab::start(", presigned: true, unsigned_payload: true");
    assert_eq!(lab.send(json!({ "kind": "query", "expires": 600, "target": "/a%20b?x=1" })), "200");
    let seen = lab.backend.last();
    assert_eq!((&*seen.target, seen.header("x-consumer-name")), ("/a%20b?x=1", Some("warehouse")));
    assert!(!lab.gateway.log_text().contains("X-Amz-Signature="));
    for (how, said) in [
        (json!({ "kind": "query", "expires": 600, "ago": 500 }), "200"),
        (json!({ "kind": "query", "expires": 60, "ago": 61 }), "401 stale_signature"),
        (json!({ "kind": "query", "expires": 600, "ago": -400 }), "401 signature_from_future"),
        (json!({ "kind": "query", "expires": 700_000 }), "401 malformed_signature"),
        (json!({ "kind": "query", "expires": 60, "secret": "another" }), "401 bad_request_signature"),
        (json!({ "kind": "query", "expires": 60, "change": { "X-Amz-Target": "x" } }), "401 uncovered_component"),
        (json!({ "method": "POST", "body": "a", "sent": "b", "fields": { "X-Amz-Content-Sha256": "UNSIGNED-PAYLOAD" } }), "200"),
    ] {
        let shown = how.to_string();
        assert_eq!(lab.send(how), said, "{shown}");
    }
    // Where it is not, it is no credential.
    assert_eq!(Lab::start("").send(json!({ "kind": "query", "expires": 600 })), "401 missing_credentials");
}

#[test]
fn what_cannot_be_meant_of_signatures_is_told() {
    let backend = Backend::http();
    let files = Files::new();
    let good = yaml("", &backend).replace("$PORT", "8080");
    for (from, to, said) in [
        ("region: eu-central-1", "region: 'a/b'", "cannot be part of what a signature is for"),
        ("region: eu-central-1", "region: a, clock_skew: 1h", "`clock_skew` is from 1s to 15m"),
        ("access_key_id: WAREHOUSE1", "access_key_id: 'a b'", "an access key's id has"),
        ("'${KEY}'", "'${SHORT}'", "less than 16 bytes"),
        ("'${KEY}'", "literal", "secret"),
        (
            "secret_access_key: '${KEY}' } ]",
            "secret_access_key: '${KEY}' }, { access_key_id: WAREHOUSE1, secret_access_key: '${KEY}' } ]",
            "already has an access key",
        ),
    ] {
        let yaml = good.replace(from, to);
        assert_ne!(yaml, good, "{from}");
        files.write("gateway.yaml", yaml);
        let ran =
            portcullis_with(files.dir(), &["check", "gateway.yaml"], &[("KEY", "a secret of some length"), ("SHORT", "hunter2")]);
        let out = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code == 1 && out.contains(said) && !out.contains("hunter2"), "{to}: {out}");
    }
}
