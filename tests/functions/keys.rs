//! Where keys come from: each place that AWS's own programs look in.

use super::*;

/// What the function was signed with, and whether it answered.
fn signed_with(env: &[(&str, &str)], from: &str, cloud: &Cloud) -> (u16, String, Option<String>) {
    let gateway = lab_with(cloud, &[("echo", &format!(", region: eu-west-1, credentials: {{ from: {from} }}"))], "", env);
    let status = get(gateway.port(), "/echo/").status;
    let asked = cloud.asked("/2015-03-31/functions/echo/").pop().unwrap();
    let key = asked.header("authorization").unwrap().split(['=', '/']).nth(1).unwrap().to_owned();
    assert!(!gateway.log_text().contains("session-token") && !gateway.stderr().contains("role-secret"));
    (status, key, asked.header("x-amz-security-token").map(str::to_owned))
}

#[test]
fn keys_are_found_where_aws_puts_them() {
    let cloud = Cloud::start();
    let files = Files::new();
    let at = |path: &str| format!("http://127.0.0.1:{}{path}", cloud.port());
    let role = (200, "AKIDROLE".to_owned(), Some("session-token".to_owned()));
    assert_eq!(signed_with(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &at(""))], "instance", &cloud), role);
    let container = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", at("/container")),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-token".into()),
    ];
    let container = container.each_ref().map(|(name, value)| (*name, &**value));
    assert_eq!(signed_with(&container, "container", &cloud), role);
    let token = files.write("token", "web.identity.token\n");
    let web = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"),
        ("AWS_ENDPOINT_URL_STS", &at("/sts")),
    ];
    assert_eq!(signed_with(&web, "web_identity", &cloud), role);
    let profile = files.write("credentials", "[default]\naws_access_key_id=no\naws_secret_access_key=no\n[it]\naws_access_key_id = AKIDTEST\naws_secret_access_key = test/secret+key\n");
    let profile = [("AWS_SHARED_CREDENTIALS_FILE", profile.to_str().unwrap()), ("AWS_PROFILE", "it")];
    assert_eq!(signed_with(&profile, "profile", &cloud), (200, "AKIDTEST".to_owned(), None));
}

#[test]
fn without_keys_nothing_is_sent_and_with_old_ones_all_goes_on() {
    let cloud = Cloud::start();
    cloud.fails("latest");
    let endpoint = format!("http://127.0.0.1:{}", cloud.port());
    let env = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*endpoint)];
    let gateway = lab_with(&cloud, &[("echo", ", region: eu-west-1, credentials: { from: instance }")], "", &env);
    let answer = get(gateway.port(), "/echo/");
    answer.assert_problem(503, "upstream", "credentials_unavailable");
    assert!(answer.header("retry-after").is_some() && cloud.asked("/2015").is_empty());
    assert!(gateway.metric("portcullis_upstream_credentials_fetches_total{service=\"echo\",result=\"failed\"}") >= 1.0);
    // As soon as there are some, they are used.
    cloud.fails("latest");
    eventually("keys", || get(gateway.port(), "/echo/").status == 200);
    let fetches = cloud.asked("/latest/api/token").len();
    // A reload fetches none again, and what is away does not matter as long as they are good.
    cloud.fails("latest");
    let (status, said) = gateway.reload();
    assert_eq!(status, 200, "{said}");
    assert_eq!((get(gateway.port(), "/echo/").status, cloud.asked("/latest/api/token").len()), (200, fetches));
    let expiry = gateway.metric("portcullis_upstream_credentials_expiry_timestamp_seconds{service=\"echo\"}");
    assert!(expiry > crate::authn::now() as f64, "{expiry}");
}
