//! What the gateway shows to services to say who it is.

use super::*;

/// A gateway before the cloud under `/x`, with `auth` as what it shows.
fn shows(cloud: &Cloud, files: &Files, auth: &str, env: &[(&str, &str)]) -> Gateway {
    let auth = auth.replace("$CLOUD", &format!("http://127.0.0.1:{}", cloud.port()));
    let yaml = format!(
        "
        listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
        server: {{ workers: 1 }}
        services: {{ it: {{ endpoints: ['127.0.0.1:{}'], upstream_auth: {{ {auth} }} }} }}
        routes: [ {{ path: '/x/*', service: it }} ]
        ",
        cloud.port()
    );
    Gateway::start_in_with(files, &yaml, env)
}

/// What was shown for a request with a client's own credentials.
fn shown(cloud: &Cloud, gateway: &Gateway, name: &str) -> Vec<String> {
    let answer = request(gateway.port(), "GET", "/x/a", &[("Authorization", "Bearer clients-own")], b"");
    assert!(matches!(answer.status, 200 | 403), "{}", answer.text());
    assert!(!gateway.log_text().contains("hunter2") && !gateway.admin_get("/config").1.contains("hunter2"));
    cloud.asked("/x/").pop().unwrap().all(name).into_iter().map(str::to_owned).collect()
}

#[test]
fn passwords_and_tokens_take_the_place_of_the_clients_own() {
    let cloud = Cloud::start();
    let files = Files::new();
    files.write("secret", "hunter2\n");
    let basic = shows(&cloud, &files, "basic: { username: gate, password: { file: secret } }", &[]);
    assert_eq!(shown(&cloud, &basic, "authorization"), ["Basic Z2F0ZTpodW50ZXIy"]);
    let files = Files::new();
    files.write("token", "hunter2-1");
    let bearer =
        shows(&cloud, &files, "bearer: { file: token }, header: X-Serverless-Authorization, keep_authorization: true", &[]);
    assert_eq!(shown(&cloud, &bearer, "x-serverless-authorization"), ["Bearer hunter2-1"]);
    assert_eq!(shown(&cloud, &bearer, "authorization"), ["Bearer clients-own"]);
    let files = Files::new();
    let other = shows(&cloud, &files, "bearer: '${TOKEN}', header: X-Token", &[("TOKEN", "hunter2-2")]);
    assert_eq!(shown(&cloud, &other, "x-token"), ["Bearer hunter2-2"]);
    assert!(shown(&cloud, &other, "authorization").is_empty());
}

#[test]
fn a_token_that_is_issued_is_fetched_once_and_again_when_it_is_not_taken() {
    let cloud = Cloud::start();
    let files = Files::new();
    files.write("secret", "hunter2");
    cloud.fails("token");
    let auth = "oauth2_client_credentials: { token_url: '$CLOUD/token', client_id: gate, client_secret: { file: secret }, scopes: [a, b], audience: it }";
    let gateway = shows(&cloud, &files, auth, &[]);
    let before = cloud.asked("/x/").len();
    get(gateway.port(), "/x/").assert_problem(503, "upstream", "credentials_unavailable");
    assert_eq!(cloud.asked("/x/").len(), before);
    cloud.fails("token");
    // 403: this service wants a signature, and is asked nevertheless.
    eventually("a token", || get(gateway.port(), "/x/").status == 403);
    let fetched = cloud.asked("/token");
    let good = fetched.last().unwrap();
    assert_eq!(
        (&*good.body, good.header("authorization")),
        ("grant_type=client_credentials&scope=a%20b&audience=it", Some("Basic Z2F0ZTpodW50ZXIy"))
    );
    let threads: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn({
                let port = gateway.port();
                move || get(port, "/x/").status
            })
        })
        .collect();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap() == 403));
    assert_eq!(shown(&cloud, &gateway, "authorization"), ["Bearer token-1"]);
    assert_eq!(cloud.asked("/token").len(), fetched.len(), "it is young");
    gateway.reload();
    assert_eq!(shown(&cloud, &gateway, "authorization"), ["Bearer token-1"]);
    gateway.wait_metric("portcullis_upstream_credentials_fetches_total{service=\"it\",result=\"ok\"}", 1.0);
}

#[test]
fn a_token_is_fetched_before_it_expires() {
    let cloud = Cloud::start();
    let files = Files::new();
    files.write("secret", "s");
    let gateway = shows(
        &cloud,
        &files,
        "oauth2_client_credentials: { token_url: '$CLOUD/token?3', client_id: gate, client_secret: { file: secret }, client_auth: post }",
        &[],
    );
    assert_eq!(shown(&cloud, &gateway, "authorization"), ["Bearer token-1"]);
    assert!(cloud.asked("/token")[0].body.ends_with("&client_id=gate&client_secret=s"));
    // Nobody asks meanwhile.
    eventually("another token", || cloud.asked("/token").len() > 1);
    eventually("its use", || shown(&cloud, &gateway, "authorization") != ["Bearer token-1"]);
}

#[test]
fn google_is_asked_for_a_token_that_says_who_the_gateway_is() {
    let cloud = Cloud::start();
    let host = format!("127.0.0.1:{}", cloud.port());
    let gateway =
        shows(&cloud, &Files::new(), "google_id_token: { audience: 'https://f.run.app' }", &[("GCE_METADATA_HOST", &host)]);
    assert!(shown(&cloud, &gateway, "authorization")[0].starts_with("Bearer ey"));
    let asked = cloud.asked("/computeMetadata/v1/instance/service-accounts/default/identity").pop().unwrap();
    assert!(asked.target.ends_with("?audience=https%3A%2F%2Ff.run.app&format=full"), "{}", asked.target);
    let files = Files::new();
    let made = std::process::Command::new("openssl").args(["genrsa", "2048"]).output().unwrap();
    let pem = String::from_utf8(made.stdout).unwrap();
    let account = json!({ "client_email": "gate@p.iam", "private_key": pem, "private_key_id": "k1", "token_uri": format!("http://{host}/exchange") });
    files.write("account.json", account.to_string());
    let gateway = shows(&cloud, &files, "google_id_token: { audience: it, service_account: { file: account.json } }", &[]);
    assert!(shown(&cloud, &gateway, "authorization")[0].starts_with("Bearer ey"));
    let form = cloud.asked("/exchange").pop().unwrap().body;
    let assertion = form.strip_prefix("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=").unwrap();
    use base64::Engine;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(assertion.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!((&claims["iss"], &claims["target_audience"]), (&json!("gate@p.iam"), &json!("it")));
}

#[test]
fn requests_are_signed_as_they_are_sent() {
    let cloud = Cloud::start();
    let gateway = shows(&cloud, &Files::new(), "aws_sigv4: { service: execute-api, max_body: 64KiB }", &ENV);
    let fields = [
        ("Authorization", "Bearer clients-own"),
        ("X-Amz-Meta", "  a   b "),
        ("X-Amz-Date", "19700101T000000Z"),
        ("X-Amz-Security-Token", "theirs"),
    ];
    for (method, target, body) in [
        ("GET", "/x/a%20b/c?z=1&a=%2F&q=a%20b", &b""[..]),
        ("POST", "/x/caf%C3%A9", b"signed"),
        ("PUT", "/x/?empty=&none", b"\x00\xff"),
        ("DELETE", "/x/~tilde", b""),
    ] {
        let answer = request(gateway.port(), method, target, &fields, body);
        assert_eq!(answer.status, 200, "{method} {target}: {}", answer.text());
    }
    let field = |name: &str| cloud.asked("/x/").pop().unwrap().header(name).map(str::to_owned);
    assert_eq!(field("x-amz-meta"), None, "a client's own words are not signed in the gateway's name");
    let asked = cloud.asked("/x/").pop().unwrap();
    assert_eq!(
        (asked.all("authorization").len(), asked.all("x-amz-date").len(), asked.header("x-amz-security-token")),
        (1, 1, None)
    );
    request(gateway.port(), "POST", "/x/", &[], &vec![0; 70_000]).assert_problem(413, "bounds", "body_too_large");
    let unsigned = shows(
        &cloud,
        &Files::new(),
        "aws_sigv4: { service: s3, region: eu-west-1, payload: unsigned, client_fields: [x-amz-meta-*] }",
        &ENV,
    );
    let answer = curl(&[
        "-H",
        "Transfer-Encoding: chunked",
        "-H",
        "X-Amz-Meta-A:   a   b ",
        "-H",
        "X-Amz-Acl: public-read",
        "-d",
        "streamed",
        &unsigned.url("/x/a%20b//c"),
    ]);
    assert_eq!((answer.status, &answer.json()["body"]), (200, &json!("streamed")), "{}", answer.text());
    assert_eq!(field("x-amz-content-sha256").as_deref(), Some("UNSIGNED-PAYLOAD"));
    assert_eq!((field("x-amz-meta-a").as_deref(), field("x-amz-acl")), (Some("a   b"), None));
}
