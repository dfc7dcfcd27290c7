//! What cannot be meant.

use super::*;

fn checked(service: &str, env: &[(&str, &str)]) -> (i32, String) {
    let files = Files::new();
    files.write("secret", "hunter2");
    files.write("key.json", "{\"client_email\":\"a@b\",\"private_key\":\"hunter2\",\"token_uri\":\"https://t/\"}");
    let yaml = format!(
        "listeners: [ {{ bind: '127.0.0.1:8080' }} ]\nservices:\n  it: {{ {service} }}\nroutes: [ {{ path: '/*', service: it }} ]\n"
    );
    files.write("gateway.yaml", yaml);
    let ran = portcullis_with(files.dir(), &["check", "gateway.yaml"], env);
    (ran.code, format!("{}{}", ran.stdout, ran.stderr))
}

#[test]
fn what_cannot_be_meant_is_told() {
    for (service, said) in [
        ("lambda: { function: f }, endpoints: ['127.0.0.1:1']", "`endpoints` cannot be had beside `lambda`"),
        ("lambda: { function: f }, protocol: http2", "`protocol` cannot be had beside `lambda`"),
        ("lambda: { function: f }, health_check: { path: / }", "`health_check` cannot be had beside `lambda`"),
        ("lambda: { function: f }, upstream_auth: { bearer: { file: secret } }", "`upstream_auth` cannot be had beside `lambda`"),
        ("lambda: { function: 'a b' }", "is no function's name"),
        ("lambda: { function: f, qualifier: 'a/b' }", "is no version and no alias"),
        ("lambda: { function: f, event: v3 }", "v3"),
        ("lambda: { function: f, multi_value: true }", "`multi_value` is for `event: alb`"),
        ("lambda: { function: f, endpoint: 'ftp://x' }", "endpoint"),
        ("lambda: { function: f, endpoint: 'http://x/path' }", "more than where the service is"),
        ("lambda: { function: f, endpoint: 'http://u:p@x' }", "more than where the service is"),
        ("lambda: { function: f, endpoint: 'http://x' }, tls: true", "`tls` has no effect"),
        ("lambda: { function: f, region: 'a b' }", "is no region"),
        ("lambda: { function: f, credentials: { access_key_id: A } }", "an `access_key_id` and a `secret_access_key`"),
        (
            "lambda: { function: f, credentials: { access_key_id: A, secret_access_key: { file: secret }, from: profile } }",
            "leave one out",
        ),
        ("lambda: { function: f, credentials: { from: web_identity } }", "AWS_WEB_IDENTITY_TOKEN_FILE"),
        ("lambda: { function: f, credentials: { from: container } }", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        ("endpoints: ['127.0.0.1:1'], upstream_auth: {}", "exactly one of its kinds"),
        (
            "endpoints: ['127.0.0.1:1'], upstream_auth: { bearer: { file: secret }, basic: { username: a, password: { file: secret } } }",
            "exactly one of its kinds",
        ),
        ("endpoints: ['127.0.0.1:1'], upstream_auth: { bearer: { file: absent } }", "absent"),
        ("endpoints: ['127.0.0.1:1'], upstream_auth: { bearer: hunter2 }", "secret"),
        (
            "endpoints: ['127.0.0.1:1'], upstream_auth: { bearer: { file: secret }, keep_authorization: true }",
            "`keep_authorization` has no effect",
        ),
        ("endpoints: ['127.0.0.1:1'], upstream_auth: { bearer: { file: secret }, header: Host }", "no field that can be set"),
        ("endpoints: ['127.0.0.1:1'], upstream_auth: { basic: { username: 'a:b', password: { file: secret } } }", "without `:`"),
        ("endpoints: ['127.0.0.1:1'], upstream_auth: { aws_sigv4: { service: S3 } }", "is no service of AWS"),
        (
            "endpoints: ['127.0.0.1:1'], upstream_auth: { aws_sigv4: { service: s3, payload: unsigned, max_body: 1MiB } }",
            "`max_body` has no effect",
        ),
        (
            "endpoints: ['127.0.0.1:1'], upstream_auth: { google_id_token: { audience: a, service_account: { file: key.json } } }",
            "no RSA key",
        ),
        (
            "endpoints: ['127.0.0.1:1'], upstream_auth: { oauth2_client_credentials: { token_url: 'http://id.example.com/', client_id: a, client_secret: { file: secret } } }",
            "could vouch for anyone",
        ),
    ] {
        let (code, out) = checked(service, &ENV);
        assert!(code == 1 && out.contains(said), "{service}: {code} {out}");
        assert!(!out.contains("hunter2") || service.contains("bearer: hunter2"), "{out}");
    }
    let (code, out) = checked("lambda: { function: f }", &[("AWS_REGION", ""), ("AWS_DEFAULT_REGION", "")]);
    assert!(code == 1 && out.contains("no region is known"), "{out}");
    let arn = "lambda: { function: 'arn:aws:lambda:eu-west-1:123456789012:function:f' }";
    let (code, out) = checked(arn, &[("AWS_REGION", ""), ("AWS_DEFAULT_REGION", "")]);
    assert_eq!(code, 0, "{out}");
}

#[test]
fn the_stock_engine_says_that_it_cannot() {
    let files = Files::new();
    files.write("secret", "s");
    files.write(
        "gateway.yaml",
        "server: { engine: pingora }\nlisteners: [ { bind: '127.0.0.1:8080' } ]\nservices:\n  f: { lambda: { function: f } }\n  \
         b: { endpoints: ['127.0.0.1:1'], upstream_auth: { bearer: { file: secret } } }\nroutes: [ { path: /f, service: f }, { path: /b, service: b } ]\n",
    );
    let ran = portcullis_with(files.dir(), &["check", "gateway.yaml"], &ENV);
    let out = format!("{}{}", ran.stdout, ran.stderr);
    for key in ["`lambda` cannot be had with `engine: pingora`", "`upstream_auth` cannot be had with `engine: pingora`"] {
        assert!(ran.code == 1 && out.contains(key), "{out}");
    }
}
