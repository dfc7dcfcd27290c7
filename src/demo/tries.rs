//! The lines to paste. The same table is printed, and pasted by `demo --verify`.
//!
//! A line stands for itself: it needs no other before it, and gives the same however often and in whichever order it is pasted. Where
//! a limit is shown, the line itself uses it up.

use std::path::Path;

use super::stage::{PASSWORD, Stage};

/// One line to paste.
pub struct Try {
    pub group: &'static str,
    pub title: &'static str,
    pub command: String,
    /// Every status in its output, in order; empty if it shows none.
    pub expect: Vec<u16>,
    /// What must stand in its output, too.
    pub shows: &'static [&'static str],
}

/// All of them, in the order in which they are printed.
pub fn all(stage: &Stage) -> Vec<Try> {
    let mut list = List { group: "", tries: Vec::new() };
    let words = Words::new(stage);
    routing(&mut list, &words);
    refusals(&mut list, &words);
    identity(&mut list, &words);
    limits(&mut list, &words);
    answers(&mut list, &words);
    doors(&mut list, &words);
    operator(&mut list, &words);
    list.tries
}

struct List {
    group: &'static str,
    tries: Vec<Try>,
}

impl List {
    fn add(&mut self, expect: &[u16], title: &'static str, command: String, shows: &'static [&'static str]) {
        self.tries.push(Try { group: self.group, title, command, expect: expect.to_vec(), shows });
    }
}

/// What lines are made of.
struct Words {
    /// `curl -si`
    curl: String,
    /// What keeps curl from asking a proxy.
    direct: &'static str,
    /// `curl -so /dev/null`, for a request of which nothing is to be seen.
    quiet: String,
    http: String,
    https: String,
    balanced: String,
    tcp: u16,
    admin: String,
    api_key: String,
    /// The key alone.
    key: String,
    authorities: String,
    alice: String,
    /// The file behind `alice`.
    token_file: String,
    bob: String,
    carol: String,
    /// Her key is published by its issuer.
    dora: String,
    /// The same token.
    cookie: String,
    /// The client's certificate, for curl.
    client: String,
    signing_secret: String,
    log: String,
    https_port: u16,
}

impl Words {
    fn new(stage: &Stage) -> Self {
        // A proxy for the outside world cannot reach this host's loopback interface.
        let variables = ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
        let proxied = variables.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
        let direct = if proxied { " --noproxy '*'" } else { "" };
        let file = |name: &str| quoted(&stage.file(name));
        Words {
            direct,
            curl: format!("curl -si{direct}"),
            quiet: format!("curl -so /dev/null{direct}"),
            http: format!("http://127.0.0.1:{}", stage.http.number),
            https: format!("https://127.0.0.1:{}", stage.https.number),
            balanced: format!("http://127.0.0.1:{}", stage.balanced.number),
            tcp: stage.tcp.number,
            admin: format!("http://127.0.0.1:{}", stage.admin.number),
            api_key: format!("-H 'X-API-Key: {}'", stage.api_key),
            key: stage.api_key.clone(),
            authorities: format!("--cacert {}", file("ca.pem")),
            alice: format!("-H @{}", file("alice.jwt")),
            token_file: file("alice.jwt"),
            bob: format!("-H @{}", file("bob-readonly.jwt")),
            carol: format!("-H @{}", file("carol-expired.jwt")),
            dora: format!("-H @{}", file("dora.jwt")),
            cookie: format!("-b {}", file("dora.cookies")),
            client: format!("--cert {} --key {}", file("client.pem"), file("client.key")),
            signing_secret: file("signing.secret"),
            log: file("access.log"),
            https_port: stage.https.number,
        }
    }
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

const CATALOG: &[&str] = &[r#""service": "catalog-service""#];
const CANARY: &[&str] = &[r#""service": "catalog-canary""#];

fn routing(list: &mut List, w: &Words) {
    let Words { curl, http, .. } = w;
    list.group = "Routing: the answer says which service saw what";
    list.add(&[200], "a parameter in the path", format!("{curl} {http}/products/42"), &[r#""x-sku": "42""#]);
    list.add(
        &[200],
        "spread over three endpoints, one with twice the weight",
        format!("for i in $(seq 20); do {curl} {http}/products/42; done | grep -oE 'HTTP/.*200|catalog [123]' | sort | uniq -c"),
        &["20 HTTP/1.1 200", "catalog 3"],
    );
    list.add(&[200], "a prefix, stripped", format!("{curl} {http}/catalog/shoes/red"), &[r#""path": "/shoes/red""#]);
    list.add(
        &[200],
        "path and host rewritten",
        format!("{curl} {http}/p/42"),
        &[r#""path": "/products/42""#, r#""host": "catalog.internal""#],
    );
    list.add(&[200], "an answer from the file", format!("{curl} {http}/hello"), &[r#"{"hello":"world"}"#]);
    list.add(&[308], "sent elsewhere", format!("{curl} {http}/old/path"), &["location: /catalog/shoes"]);
    list.add(&[503], "closed for a while", format!("{curl} {http}/closed"), &[r#""reason":"maintenance""#]);
    list.add(
        &[503],
        "the same for a browser",
        format!("{curl} -H 'Accept: text/html' {http}/closed"),
        &["<h1>503 Service Unavailable</h1>"],
    );
    list.add(&[200], "by host", format!("{curl} -H 'Host: shop.example.com' {http}/any/path"), CATALOG);
    list.add(&[200], "by wildcard host", format!("{curl} -H 'Host: beta.example.com' {http}/any/path"), CANARY);
    list.add(
        &[200],
        "REST to a service that speaks gRPC",
        format!("{curl} -H 'Host: rest.example.com' {http}/products/SKU-789"),
        &[r#"{"sku":"SKU-789","name":"Wireless Headphones","price":79.99}"#],
    );
    list.add(
        &[404],
        "the status that its call ended with",
        format!("{curl} -H 'Host: rest.example.com' {http}/products/SKU-0"),
        &[r#""grpc_code":"NOT_FOUND""#],
    );
    let called = format!("-H 'Host: rest.example.com' {http}/catalogService/getProduct");
    list.add(
        &[200],
        "the same service called by Connect: by GET, for the method says that it changes nothing",
        format!(r#"{curl} -G -d connect=v1 -d encoding=json --data-urlencode 'message={{"sku":"SKU-789"}}' {called}"#),
        &[r#"{"sku":"SKU-789","name":"Wireless Headphones","price":79.99}"#],
    );
    list.add(
        &[404],
        "by POST, and Connect's error",
        format!(r#"{curl} -H 'Content-Type: application/json' -H 'Connect-Protocol-Version: 1' -d '{{"sku":"SKU-0"}}' {called}"#),
        &[r#""code":"not_found""#],
    );
    list.add(&[200], "version 2 of the API, by header", format!("{curl} -H 'API-Version: 2' {http}/items/7"), CANARY);
    list.add(&[200], "version 2 of the API, by path", format!("{curl} {http}/v2/items/7"), CANARY);
    list.add(&[200], "by a header's presence", format!("{curl} -H 'X-Beta: yes' {http}/search"), CANARY);
    list.add(&[200], "by a query parameter", format!("{curl} '{http}/find?explain=1'"), &[r#""path": "/find/explained""#]);
    list.add(
        &[200],
        "by class of device: a phone",
        format!("{curl} -A 'Mozilla/5.0 (iPhone) Mobile' {http}/home"),
        &["/home/mobile"],
    );
    list.add(&[200], "by class of device: a crawler", format!("{curl} -A 'examplebot/1.0' {http}/home"), &["/home/bot"]);
    list.add(
        &[200],
        "a canary gets a tenth of the requests",
        format!("for i in $(seq 40); do {curl} {http}/recommendations; done | grep -oE 'HTTP/.*200|catalog-(service|canary)' | sort | uniq -c"),
        &["40 HTTP/1.1 200", "catalog-service"],
    );
    list.add(
        &[200],
        "an A/B test: a visitor stays where it is",
        format!("for i in $(seq 10); do {curl} -b visitor=ann {http}/experiment; done | grep -oE 'HTTP/.*200|\"catalog-(service|canary)' | sort | uniq -c"),
        &["10 HTTP/1.1 200", "10 \"catalog-"],
    );
    list.add(&[404], "no such route", format!("{curl} {http}/nowhere"), &[r#""reason":"no_route""#]);
    list.add(
        &[405],
        "the path is right, the method is not",
        format!("{curl} -X DELETE {http}/products/42"),
        &["allow: GET, HEAD"],
    );
}

fn refusals(list: &mut List, w: &Words) {
    let Words { curl, http, api_key, .. } = w;
    let json = "-H 'Content-Type: application/json'";
    let once = "-H 'Idempotency-Key: 7'";
    list.group = "Browsers: pages of other origins";
    let page = "-H 'Origin: https://app.example.com'";
    let asks = "-X OPTIONS -H 'Access-Control-Request-Method: GET' -H 'Access-Control-Request-Headers: x-api-key'";
    list.add(
        &[204],
        "a browser asks before a page may ask, and needs no key for that",
        format!("{curl} {page} {asks} {http}/products/42"),
        &["access-control-allow-origin: https://app.example.com", "access-control-allow-headers: x-api-key"],
    );
    list.add(
        &[403],
        "what another site has a browser send",
        format!("{curl} -H 'Sec-Fetch-Site: cross-site' -d x {http}/cart/checkout"),
        &["cross_origin"],
    );
    list.group = "Malformed and oversized: refused before anybody asks who it is, and before a backend hears of it";
    list.add(&[400], "an escape that is none", format!("{curl} {http}/products/%zz"), &["application/problem+json"]);
    list.add(
        &[400],
        "a path that leaves the root",
        format!("{curl} --path-as-is {http}/../etc/passwd"),
        &["application/problem+json"],
    );
    list.add(
        &[400],
        "a required header is missing",
        format!("{curl} {json} -d '{{\"sku\":1}}' {http}/cart/items"),
        &["header_missing"],
    );
    list.add(
        &[400],
        "the body is not JSON",
        format!("{curl} {once} {json} {api_key} -d '{{\"sku\":' {http}/cart/items"),
        &["json_malformed"],
    );
    list.add(
        &[400],
        "the body is not what its schema says, and all of it is told at once",
        format!("{curl} {once} {json} {api_key} -d '{{\"amount\":0}}' {http}/cart/items"),
        &["contract_broken", "\"pointer\":\"/amount\"", "must have the member `sku`"],
    );
    list.add(
        &[400],
        "a request that is not as the API's document of OpenAPI says",
        format!("{curl} {once} '{http}/v1/products?limit=500&filter%5Bcolour%5D=green'"),
        &["\"name\":\"limit\"", "must be at most 100", "\"pointer\":\"/colour\""],
    );
    list.add(
        &[200],
        "an answer made from the document, before there is a service",
        format!("{curl} {http}/mock/products/7"),
        &["\"colour\":\"red\""],
    );
    list.add(
        &[405],
        "a method that the document does not have",
        format!("{curl} -X DELETE {http}/v1/products/7"),
        &["allow: GET, HEAD"],
    );
    list.add(
        &[200],
        "a query of GraphQL, within its bounds",
        format!("{curl} {json} -d '{{\"query\":\"query Shoes {{ search {{ sku price }} }}\"}}' {http}/graphql"),
        &["\"path\": \"/graphql\""],
    );
    list.add(
        &[400],
        "one that costs too much: sixty times a search",
        format!("{curl} {json} -d '{{\"query\":\"{{ search(first: 60) {{ sku }} }}\"}}' {http}/graphql"),
        &["query_too_costly"],
    );
    list.add(
        &[415],
        "a content type that is not taken",
        format!("{curl} {once} -d sku=1 {http}/cart/items"),
        &["accept: application/json"],
    );
    list.add(
        &[413],
        "a body over the bound",
        format!("printf %05000d 0 | {curl} {once} {json} -d @- {http}/cart/items"),
        &["body_too_large"],
    );
    list.add(&[414], "a target over the bound", format!("{curl} {http}/products/$(printf %03000d 0)"), &["uri_too_long"]);
    list.add(
        &[431],
        "header fields over the bound",
        format!("{curl} -H X-Big:$(printf %09000d 0) {http}/products/42"),
        &["headers_too_large"],
    );
    list.add(
        &[200],
        "all as it should be",
        format!("{curl} {api_key} {once} {json} -d '{{\"sku\":1}}' {http}/cart/items"),
        &[r#""body_bytes": 9"#],
    );
}

fn identity(list: &mut List, w: &Words) {
    let Words { curl, http, admin, api_key, key, alice, bob, carol, dora, cookie, signing_secret, .. } = w;
    list.group = "Who is it, and may it: the backend sees the proved identity, never the credential";
    list.add(&[200], "an API key", format!("{curl} {api_key} {http}/cart/"), &[r#""consumer": "acme-mobile""#]);
    list.add(&[401], "no credentials", format!("{curl} {http}/cart/"), &["www-authenticate:"]);
    list.add(&[401], "an unknown API key", format!("{curl} -H 'X-API-Key: guess' {http}/cart/"), &["unknown_api_key"]);
    list.add(
        &[200],
        "a token (JWT)",
        format!("{curl} {alice} {http}/checkout/pay"),
        &[r#""subject": "alice""#, r#""x-tenant": "north""#],
    );
    list.add(&[401], "no token", format!("{curl} {http}/checkout/pay"), &["www-authenticate: Bearer realm=\"checkout\""]);
    list.add(&[401], "an expired token", format!("{curl} {carol} {http}/checkout/pay"), &["error=\"invalid_token\""]);
    list.add(
        &[401],
        "a token that somebody made up",
        format!("{curl} -H 'Authorization: Bearer e30.e30.e30' {http}/checkout/pay"),
        &["invalid_token"],
    );
    list.add(&[403], "a token without the scope", format!("{curl} {bob} {http}/checkout/pay"), &["insufficient_scope"]);
    list.add(&[200], "either will do: a token", format!("{curl} {bob} {http}/orders/1"), &[r#""consumer": "web-shop""#]);
    list.add(
        &[200],
        "or a key in the query, which is taken out",
        format!("{curl} '{http}/orders/1?page=2&api_key={key}'"),
        &[r#""query": "page=2""#],
    );
    let host = http.trim_start_matches("http://");
    list.add(
        &[200],
        "a request that its sender has signed",
        format!(
            "p='(\"@method\" \"@authority\" \"@path\");created='$(date +%s)';keyid=\"partner-key\";nonce=\"'$(date +%s%N)'\"'; \
             s=$(printf '\"@method\": GET\\n\"@authority\": {host}\\n\"@path\": /vault\\n\"@signature-params\": %s' \"$p\" | \
             openssl dgst -sha256 -hmac \"$(cat {signing_secret})\" -binary | base64); \
             {curl} -H \"Signature-Input: sig=$p\" -H \"Signature: sig=:$s:\" {http}/vault"
        ),
        &[r#""consumer": "partner""#],
    );
    list.add(
        &[200],
        "the same in the way of AWS, which curl knows",
        format!("{curl} --aws-sigv4 aws:amz:demo:shop --user \"PARTNER1:$(cat {signing_secret})\" {http}/warehouse"),
        &[r#""consumer": "partner""#],
    );
    list.add(
        &[200],
        "a token whose key its issuer publishes",
        format!("{curl} {dora} {http}/lounge/"),
        &[r#""subject": "dora""#],
    );
    list.add(&[200], "the same in a browser's cookie", format!("{curl} {cookie} {http}/lounge/"), &[r#""subject": "dora""#]);
    list.add(&[200], "and without one: a guest", format!("{curl} {http}/lounge/"), &[r#""consumer": "guest""#]);
    list.add(
        &[200, 204, 401],
        "a key that the admin API issues, and revokes",
        format!(
            "k=$({curl} -X POST {admin}/consumers/acme-mobile/keys | sed -n 's/.*\"key\":\"\\([^\"]*\\)\".*/\\1/p'); {curl} -H \"X-API-Key: $k\" {http}/cart/; \
             i=${{k#demo_}}; {curl} -X DELETE {admin}/consumers/acme-mobile/keys/${{i%%_*}}; {curl} -H \"X-API-Key: $k\" {http}/cart/"
        ),
        &[r#""consumer": "acme-mobile""#, "unknown_api_key"],
    );
    list.add(
        &[200],
        "a password, checked once and then remembered",
        format!("{curl} -u 'olga:{PASSWORD}' {http}/back-office/orders"),
        &[r#""consumer": "back-office""#],
    );
    list.add(&[401], "a wrong password", format!("{curl} -u olga:guess {http}/back-office/orders"), &["charset=\"UTF-8\""]);
    list.add(&[403], "not a member of the group", format!("{curl} {alice} {http}/partners/prices"), &["group_not_allowed"]);
    list.add(&[200], "a member", format!("{curl} {api_key} {http}/partners/prices"), &[r#""consumer": "acme-mobile""#]);
    list.add(&[200], "a rule: one's own account", format!("{curl} {alice} {http}/accounts/alice"), &[r#""subject": "alice""#]);
    list.add(&[403], "and nobody else's", format!("{curl} {bob} {http}/accounts/alice"), &["rule_not_allowed"]);
    list.add(
        &[200],
        "another service says yes, and what the backend should know",
        format!("{curl} -H 'X-Ticket: valid' -H 'X-Seat: box' {http}/tickets/7"),
        &[r#""x-seat": "row 7""#],
    );
    list.add(&[403], "or no", format!("{curl} -H 'X-Ticket: copied' {http}/tickets/7"), &["external_auth_denied"]);
}

fn limits(list: &mut List, w: &Words) {
    let Words { curl, quiet, http, api_key, admin, direct, .. } = w;
    list.group = "Limits";
    list.add(
        &[200, 200, 200, 429, 429],
        "3 a minute for each device",
        format!("d=$(date +%s%N); for i in 1 2 3 4 5; do {curl} -H \"X-Device-Id: $d\" {http}/bursts; done | grep -i -E '^HTTP|^ratelimit:'"),
        &["\"per-device\";r=0"],
    );
    list.add(
        &[429],
        "1 an hour for each consumer: the second",
        format!("{quiet} {api_key} {http}/quota; {curl} {api_key} {http}/quota"),
        &["retry-after:", "\"per-hour\""],
    );
    list.add(
        &[200, 429],
        "10 units a minute, of which this request costs 6: the second",
        format!("d=$(date +%s%N); for i in 1 2; do {curl} -H \"X-Device-Id: $d\" '{http}/export?all'; done | grep -i -E '^HTTP|^ratelimit:'"),
        &["\"units\";r=4"],
    );
    list.add(
        &[429],
        "1 a month for each consumer: the second, over restarts too",
        format!("{quiet} {api_key} {http}/monthly; {curl} {api_key} {http}/monthly"),
        &["quota_exceeded", "\"consumer-month\""],
    );
    list.add(
        &[429],
        "1 a minute for each address, before authentication: the second",
        format!("{quiet} {http}/login; {curl} {http}/login"),
        &["address_limited"],
    );
    list.add(
        &[200, 200, 200],
        "4 a second, and none refused: three at once take half a second",
        format!("for i in 1 2 3; do {curl} -w 'after %{{time_total}}s\\n' {http}/calm & done | grep -E '^HTTP|^after'; wait"),
        &["after 0."],
    );
    list.add(
        &[200],
        "a limit shared with other gateways; its Redis is down, so this one counts alone",
        format!("{curl} {http}/fleet; curl -s{direct} {admin}/metrics | grep ^portcullis_rate_limit_unanswered"),
        &["\"fleet\";r=", "fail=\"local\""],
    );
}

fn answers(list: &mut List, w: &Words) {
    let Words { curl, direct, quiet, http, admin, api_key, .. } = w;
    list.group = "Answers: from memory, as a stream, and when a backend fails";
    list.add(
        &[200],
        "the second time from the cache",
        format!("{quiet} {http}/prices/42; {curl} {http}/prices/42"),
        &["cache-status: ", "hit", "age:"],
    );
    list.add(
        &[200],
        "and so where only what nobody looks at is another",
        format!("{quiet} {http}/prices/42; {curl} '{http}/prices/42?utm_source=mail'"),
        &["cache-status: ", "hit"],
    );
    list.add(
        &[200],
        "until an operator takes it out",
        format!("{quiet} -d '{{\"everything\":true}}' {admin}/cache/purge; {curl} {http}/prices/42"),
        &["cache-status: ", "fwd=miss"],
    );
    list.add(&[200], "credentials bypass the cache", format!("{curl} -b session=1 {http}/prices/42"), &["cache-status: "]);
    list.add(
        &[200],
        "a field that goes on as a header, and no internal ones in the answer",
        format!("{curl} -H 'Content-Type: application/json' -d '{{\"customerId\": 7.10}}' {http}/public/42"),
        &[r#""x-customer": "7.10""#],
    );
    list.add(
        &[200],
        "what a service says in JSON, in XML for who likes it better",
        format!("{curl} -H 'Accept: application/xml' {http}/forms/42"),
        &["<product><method>GET</method>"],
    );
    list.add(&[200], "server-sent events, as they come", format!("{curl} -N {http}/events"), &["\"number\":3"]);
    list.add(
        &[503],
        "the only endpoint is down, and the health check knows",
        format!("{curl} {http}/reports"),
        &["retry-after: 5"],
    );
    list.add(
        &[200],
        "the same, with a fallback",
        format!("{curl} {http}/reports/latest"),
        &["x-portcullis-fallback: static", "reports"],
    );
    list.add(
        &[200],
        "one answer of five services, one of them down",
        format!("{curl} {api_key} {http}/api/dashboard"),
        &[
            "x-portcullis-parts: profile=ok, orders=ok, feed=ok, notifications=ok, ads=fallback",
            "/users/acme-mobile",
            r#""ads":[]"#,
        ],
    );
    list.add(
        &[200],
        "GraphQL in front of services that speak REST",
        format!(
            "{curl} -H 'Content-Type: application/json' -d '{{\"query\":\"{{ product(sku: 7) {{ path reviews {{ path query }} }} }}\"}}' {http}/shop/graphql"
        ),
        &["{\"data\":{\"product\":{\"path\":\"/products/7\",\"reviews\":{\"path\":\"/reviews/catalog-service\",\"query\":\"first=3\"}}}}"],
    );
    list.add(
        &[200, 200],
        "phones, and TVs, get payloads of their own of one URL",
        format!("{curl} -A 'Mozilla/5.0 (iPhone) Mobile' {http}/api/screen; echo; {curl} '{http}/api/screen?view=tv'"),
        &["catalog-service", "{\"posters\":{\"path\":\"/posters\"},\"trailers\":{\"path\":\"/trailers\"}}"],
    );
    list.add(
        &[200],
        "a copy goes to the next version, and its answer is compared",
        format!("{curl} {http}/mirrored; sleep 1; curl -s{direct} {admin}/metrics | grep ^portcullis_mirror"),
        &["portcullis_mirrored_requests_total", "portcullis_mirror_compared_total"],
    );
    list.add(
        &[503],
        "a fault on purpose, for who asks for it",
        format!("{curl} -H 'X-Fault: yes' {http}/fragile"),
        &["fault_injected"],
    );
    list.add(&[502], "an endpoint that refuses the connection", format!("{curl} {http}/legacy"), &["connect_failure"]);
    list.add(
        &[504],
        "a backend that takes longer than the route allows",
        format!("{curl} {http}/slow"),
        &["application/problem+json"],
    );
    list.add(
        &[200],
        "header fields set on the way, both ways",
        format!("{curl} -H 'X-Debug: 1' {http}/items/7"),
        &["x-gateway: portcullis-demo", r#""x-client-address": "127.0.0.1""#],
    );
    list.add(
        &[200],
        "a trace goes on",
        format!("{curl} -H 'traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01' {http}/items/7"),
        &["00-4bf92f3577b34da6a3ce929d0e0e4736-"],
    );
}

fn doors(list: &mut List, w: &Words) {
    let Words { curl, quiet, http, https, balanced, tcp, authorities, https_port, client, log, .. } = w;
    list.group = "Doors: TLS, HTTP/2, PROXY protocol, TCP";
    list.add(
        &[200],
        "a client's certificate says who it is",
        format!("{curl} {authorities} {client} {https}/vault"),
        &[r#""consumer": "partner""#],
    );
    list.add(
        &[200],
        "HTTP/2 over TLS",
        format!("{curl} {authorities} {https}/products/42"),
        &["HTTP/2 200", r#""x-forwarded-proto": "https""#],
    );
    list.add(&[200], "HTTP/1.1 over TLS", format!("{curl} --http1.1 {authorities} {https}/products/42"), &["HTTP/1.1 200"]);
    list.add(
        &[200],
        "another server name, another certificate",
        format!("{curl} {authorities} --connect-to ::127.0.0.1:{https_port} https://shop.example.com/"),
        &[r#""host": "shop.example.com""#],
    );
    list.add(&[200], "HTTP/2 without TLS", format!("{curl} --http2-prior-knowledge {http}/products/42"), &["HTTP/2 200"]);
    list.add(
        &[200],
        "a forged X-Forwarded-For is replaced",
        format!("{curl} -H 'X-Forwarded-For: 203.0.113.7' {http}/items/7"),
        &[r#""x-forwarded-for": "127.0.0.1""#],
    );
    list.add(
        &[200],
        "a trusted proxy's is believed; this listener wants a PROXY header first",
        format!("{curl} --haproxy-protocol -H 'X-Forwarded-For: 203.0.113.7' {balanced}/items/7"),
        &[r#""x-client-address": "203.0.113.7""#],
    );
    list.add(
        &[403],
        "an address that may not come here",
        format!("{curl} --haproxy-protocol -H 'X-Forwarded-For: 203.0.113.77' {balanced}/office"),
        &["ip_denied"],
    );
    list.add(
        &[200],
        "TCP: bytes go to a service as they are",
        format!("{curl} http://127.0.0.1:{tcp}/products/42"),
        &[r#""service": "catalog-service""#],
    );
    list.add(
        &[200],
        "TLS goes on unopened, by its server name: the certificate is the service's own",
        format!("{curl} {authorities} --connect-to ::127.0.0.1:{tcp} https://shop.example.com/"),
        &[r#""host": "shop.example.com""#],
    );
    list.add(
        &[],
        "what the access log says of a connection",
        format!("{quiet} http://127.0.0.1:{tcp}/; sleep 2; grep '\"listener\":\"anything\"' {log} | tail -n 1"),
        &[r#""protocol":"tcp""#, r#""reason":"client_closed""#],
    );
}

fn operator(list: &mut List, w: &Words) {
    let Words { curl, quiet, http, admin, log, key, .. } = w;
    list.group = "For the operator";
    list.add(
        &[200],
        "load the configuration again, after you have changed it",
        format!("{curl} -X POST {admin}/reload"),
        &["\"generation\":"],
    );
    list.add(
        &[200],
        "the routes, with their policies in the order of execution",
        format!("{curl} {admin}/routes"),
        &["\"policies\":"],
    );
    list.add(&[200], "the services, and how their endpoints are", format!("{curl} {admin}/upstreams"), &["reports-service"]);
    list.add(&[200], "the configuration, secrets left out", format!("{curl} {admin}/config"), &["\"config\":"]);
    list.add(
        &[200],
        "the metrics, for Prometheus",
        format!("{curl} {admin}/metrics | grep -E '^HTTP|^portcullis_(refusals|upstream_healthy)'"),
        &["portcullis_upstream_healthy"],
    );
    list.add(&[200], "what was used of quotas", format!("{curl} {admin}/quotas"), &["\"quotas\":"]);
    list.add(&[200], "ready to serve?", format!("{curl} {admin}/readyz"), &["\"ready\""]);
    list.add(
        &[],
        "for the scripts under loadtest/",
        format!("export BASE_URL={http} API_KEY={key} TOKEN=$(cut -d' ' -f3 {})", w.token_file),
        &[],
    );
    list.add(
        &[],
        "what the access log says of a request",
        format!("{quiet} {http}/products/42; sleep 1; tail -n 1 {log}"),
        &["\"request_id\":"],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word() {
        assert_eq!(quoted(Path::new("/tmp/portcullis-demo-aB3/ca.pem")), "/tmp/portcullis-demo-aB3/ca.pem");
        assert_eq!(quoted(Path::new("/tmp/it's here")), r"'/tmp/it'\''s here'");
    }
}
