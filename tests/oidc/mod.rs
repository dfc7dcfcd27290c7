//! Tokens of a real OpenID provider: keys that are discovered, rotated and out of reach, and tokens that must be asked about.

mod provider;

use std::time::{Duration, Instant};

use serde_json::json;

use self::provider::Provider;
use crate::harness::*;

const SECRET: &str = "gate:way&s3cret+%";

/// `$ISSUER` and `$BACKEND` are filled in. Keys are fetched as often as is allowed, so that nothing waits long.
const SIGNED: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT } ]
    consumers:
      - { name: mobile, subjects: [ app ], plan: pro }
    policies:
      authn:
        jwt:
          issuer: $ISSUER
          audience: shop
          discovery: true
          algorithms: [ ES256, RS256 ]
          groups_claim: realm_access.roles
          claims_to_headers: { X-Tenant: tenant }
          jwks: { cooldown: 100ms, wait: 10s }
          provider: { timeout: 5s }
    routes:
      - { path: /any/*, service: 127.0.0.1, port: $BACKEND }
      - path: /buyers
        service: 127.0.0.1
        port: $BACKEND
        policies: { authz: { groups: [ buyer ], scopes: [ 'catalog:read' ] } }
      - path: /url
        service: 127.0.0.1
        port: $BACKEND
        policies: { authn: { jwt: { issuer: $ISSUER, audience: shop, jwks_url: '$ISSUER/jwks', from: [ { cookie: session }, { query: access_token } ] } } }
";

const ASKED: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT } ]
    consumers:
      - { name: app, plan: pro }
    policies:
      authn:
        introspection:
          url: $ISSUER/token/introspection
          client_id: gateway
          client_secret: ${INTROSPECTION_SECRET}
          issuer: $ISSUER
          consumer_claim: client_id
          cache: 1s
          inactive_cache: 1s
          provider: { timeout: 10s }
    routes:
      - { path: /any/*, service: 127.0.0.1, port: $BACKEND }
      - path: /either
        service: 127.0.0.1
        port: $BACKEND
        policies:
          authn:
            jwt: { issuer: $ISSUER, audience: shop, discovery: true }
            introspection: { url: $ISSUER/token/introspection, client_id: gateway-post, client_secret: '${INTROSPECTION_SECRET}', client_auth: post }
      - path: /impatient
        service: 127.0.0.1
        port: $BACKEND
        policies:
          authn:
            introspection:
              url: $ISSUER/token/introspection
              client_id: gateway
              client_secret: ${INTROSPECTION_SECRET}
              provider: { timeout: 200ms }
";

fn start(yaml: &str, provider: &Provider, backend: &Backend) -> Gateway {
    let yaml = yaml.replace("$ISSUER", &provider.issuer());
    Gateway::start_with(&filled(&yaml, &[("$BACKEND", backend.port())]), &[("INTROSPECTION_SECRET", SECRET)])
}

fn ask(gateway: &Gateway, path: &str, token: &str) -> Answer {
    request(gateway.port(), "GET", path, &[("Authorization", &format!("Bearer {token}"))], b"")
}

#[test]
fn keys_are_discovered() {
    let (provider, backend) = (Provider::start(), Backend::http());
    let gateway = start(SIGNED, &provider, &backend);
    for algorithm in ["ES256", "RS256"] {
        let answer = ask(&gateway, "/any/x", &provider.jwt(algorithm));
        assert_eq!(answer.status, 200, "{algorithm}: {}", answer.text());
        let seen = backend.last();
        assert_eq!(seen.all("x-auth-subject"), ["app"]);
        assert_eq!(seen.all("x-consumer-name"), ["mobile"]);
        assert_eq!(seen.all("x-auth-scopes"), ["catalog:read"]);
        assert_eq!(seen.all("x-tenant"), ["north"]);
        assert!(seen.all("authorization").is_empty());
    }
    assert_eq!(ask(&gateway, "/buyers", &provider.jwt("ES256")).status, 200);
    let token = provider.jwt("ES256");
    // The provider is asked once, however many tokens it signed.
    assert_eq!((provider.asked("/.well-known/openid-configuration"), provider.asked("/jwks")), (1, 2));
    // Forged: another subject under a good signature, and a key that the token itself brings.
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = message.split_once('.').unwrap();
    let admin = "eyJzdWIiOiJhZG1pbiIsImV4cCI6OTk5OTk5OTk5OX0";
    ask(&gateway, "/any/x", &format!("{header}.{admin}.{signature}")).assert_problem(401, "authn", "bad_signature");
    ask(&gateway, "/any/x", &format!("{message}.")).assert_problem(401, "authn", "bad_signature");
}

#[test]
fn tokens_in_cookies_and_queries_go_no_further() {
    let (provider, backend) = (Provider::start(), Backend::http());
    let yaml = SIGNED.replace("$ISSUER", &provider.issuer()) + "    access_log: { output: { file: access.log }, query: true }\n";
    served(&filled(&yaml, &[("$BACKEND", backend.port())]), |gateway| {
        let token = provider.jwt("ES256");
        let cookie = format!("a=1; session={token}; b=2");
        let answer = request(gateway.port(), "GET", "/url?x=1", &[("Cookie", &cookie)], b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = backend.last();
        assert_eq!(seen.all("cookie"), ["a=1; b=2"]);
        assert_eq!(get(gateway.port(), &format!("/url?y=2&access_token={token}&z=3")).status, 200);
        let seen = backend.last();
        assert!(seen.head_text().starts_with("GET /url?y=2&z=3 "), "{}", seen.head_text());
        let both = request(gateway.port(), "GET", "/url?access_token=other", &[("Cookie", &cookie)], b"");
        both.assert_problem(401, "authn", "ambiguous_credentials");
        ask(gateway, "/url", &token).assert_problem(401, "authn", "missing_credentials");
        gateway.wait_lines(4);
        assert!(!gateway.log_text().contains(&token) && !gateway.log_text().contains("other"), "{}", gateway.log_text());
    });
}

#[test]
fn keys_are_rotated_and_outlive_an_outage() {
    let (mut provider, backend) = (Provider::absent(), Backend::http());
    let gateway = start(SIGNED, &provider, &backend);
    // It starts without its provider, and says so in place of guessing.
    let nobody = "eyJhbGciOiJFUzI1NiIsImtpZCI6IngifQ.eyJzdWIiOiJhIn0.AAAA";
    let answer = ask(&gateway, "/any/x", nobody);
    answer.assert_problem(503, "authn", "keys_unavailable");
    assert!(answer.header("retry-after").is_some());
    provider.run("first.json");
    let first = provider.jwt("ES256");
    // The last attempt may have failed just before.
    eventually("the keys are there", || ask(&gateway, "/any/x", &first).status == 200);

    // An unknown key makes the set be fetched anew, and the request that brought it waits for that.
    provider.run("second.json");
    let second = provider.jwt("ES256");
    let fetched = format!("portcullis_jwks_fetches_total{{source=\"{}\",result=\"ok\"}}", provider.issuer());
    let before = gateway.metric(&fetched);
    let answer = ask(&gateway, "/any/x", &second);
    assert_eq!((answer.status, gateway.metric(&fetched)), (200, before + 1.0), "{}", answer.text());
    ask(&gateway, "/any/x", &first).assert_problem(401, "authn", "unknown_key");

    // The last good keys stay, for tokens that were seen before and for others.
    let unseen = provider.jwt("ES256");
    let source = provider.issuer();
    let failed = format!("portcullis_jwks_fetches_total{{source=\"{source}\",result=\"failed\"}}");
    let before = gateway.metric(&failed);
    provider.stop();
    assert_eq!(ask(&gateway, "/any/x", &second).status, 200);
    assert_eq!(ask(&gateway, "/any/x", &unseen).status, 200);
    eventually("a failure is counted", || {
        // Each makes the keys be fetched, once the last attempt is long enough ago.
        ask(&gateway, "/any/x", nobody).assert_problem(401, "authn", "unknown_key");
        gateway.metric(&failed) > before
    });
    assert!(gateway.metric(&format!("portcullis_jwks_fetched_timestamp_seconds{{source=\"{source}\"}}")) > 1e9);
    assert!((gateway.metric(&format!("portcullis_jwks_keys{{source=\"{source}\"}}")) - 2.0).abs() < 0.1);

    // A reload keeps them, too, also one that changes how they are fetched.
    let yaml = std::fs::read_to_string(gateway.config_path()).unwrap();
    gateway.rewrite(&yaml.replace("cooldown: 100ms", "cooldown: 200ms"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(ask(&gateway, "/any/x", &unseen).status, 200);
}

#[test]
fn unknown_keys_cannot_make_the_gateway_flood_its_provider() {
    let (provider, backend) = (Provider::start(), Backend::http());
    let gateway = start(&SIGNED.replace("cooldown: 100ms", "cooldown: 1h"), &provider, &backend);
    assert_eq!(ask(&gateway, "/any/x", &provider.jwt("ES256")).status, 200);
    let asked = provider.asked("/jwks");
    for kid in ["../../../../etc/passwd", "http://169.254.169.254/", "' OR 1=1 --", "x", "y", "\u{0}"] {
        let header = base64url(json!({ "alg": "ES256", "kid": kid }).to_string().as_bytes());
        let since = Instant::now();
        ask(&gateway, "/any/x", &format!("{header}.e30.AAAA")).assert_problem(401, "authn", "unknown_key");
        assert!(since.elapsed() < Duration::from_secs(5), "nobody waits for what will not happen");
    }
    assert_eq!(provider.asked("/jwks"), asked);
}

fn base64url(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[test]
fn opaque_tokens_are_asked_about() {
    let (provider, backend) = (Provider::start(), Backend::http());
    let gateway = start(ASKED, &provider, &backend);
    let token = provider.opaque();
    // Many at once make one call.
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let requests: Vec<_> = (0..8).map(|_| scope.spawn(|| ask(&gateway, "/any/x", &token).status)).collect();
        requests.into_iter().map(|request| request.join().unwrap()).collect()
    });
    assert_eq!(answers, [200; 8]);
    // The cache lasts a second, and a slow machine may take longer for eight requests.
    assert!((1..=3).contains(&provider.asked("/token/introspection")), "{}", provider.asked("/token/introspection"));
    let seen = backend.last();
    assert_eq!(seen.all("x-consumer-name"), ["app"]);
    assert_eq!(seen.all("x-auth-method"), ["introspection"]);
    assert_eq!(seen.all("x-auth-scopes"), ["catalog:read"]);
    assert!(seen.all("authorization").is_empty());

    // Nobody's token, and one that is not honoured any more: within the cache's second.
    ask(&gateway, "/any/x", "nobody").assert_problem(401, "authn", "inactive_token");
    let bearer = ask(&gateway, "/any/x", "nobody");
    assert!(bearer.header("www-authenticate").unwrap().contains("invalid_token"));
    provider.revoke(&token);
    eventually("a revoked token is refused", || ask(&gateway, "/any/x", &token).status == 401);

    // Signed and opaque tokens on one route, by a client that authenticates in the form.
    assert_eq!(ask(&gateway, "/either", &provider.jwt("ES256")).status, 200);
    let asked = provider.asked("/token/introspection");
    assert_eq!(ask(&gateway, "/either", &provider.jwt("RS256")).status, 200);
    assert_eq!(provider.asked("/token/introspection"), asked, "a token of the issuer's own needs no question");
    let answer = ask(&gateway, "/either", &provider.opaque());
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(provider.asked("/token/introspection"), asked + 1);
}

#[test]
fn nothing_passes_while_the_server_is_away() {
    let (mut provider, backend) = (Provider::start(), Backend::http());
    let gateway = start(ASKED, &provider, &backend);
    let token = provider.opaque();
    assert_eq!(ask(&gateway, "/any/x", &token).status, 200);

    // Hung: the deadline counts.
    provider.pause();
    let since = Instant::now();
    let answer = ask(&gateway, "/impatient", &provider_token());
    answer.assert_problem(503, "authn", "introspection_unavailable");
    assert!(answer.header("retry-after").is_some() && answer.header("www-authenticate").is_none());
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    provider.resume();
    eventually("it answers again", || ask(&gateway, "/impatient", &token).status == 200);

    // Gone.
    provider.stop();
    eventually("what was known is forgotten", || ask(&gateway, "/any/x", &token).status == 503);
    let before = backend.requests().len();
    for _ in 0..5 {
        ask(&gateway, "/any/x", &token).assert_problem(503, "authn", "introspection_unavailable");
    }
    assert_eq!(backend.requests().len(), before);
    let source = format!("{}/token/introspection", provider.issuer());
    assert!(gateway.metric(&format!("portcullis_introspections_total{{server=\"{source}\",result=\"failed\"}}")) >= 1.0);
}

/// A token that was never asked about.
fn provider_token() -> String {
    "not-seen-before".to_owned()
}
