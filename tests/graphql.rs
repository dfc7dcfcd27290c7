//! What a route that carries GraphQL lets clients ask for, over real sockets.

use serde_json::{Value, json};

use crate::harness::*;

fn yaml(backend: &Backend, policies: &str) -> String {
    format!(
        "
listeners: [ {{ bind: 127.0.0.1:$PORT, h2c: true }} ]
services: {{ a: {{ endpoints: [ '127.0.0.1:{}' ] }} }}
routes:
  - {{ id: api, path: /graphql, service: a, policies: {{ {policies} }} }}
",
        backend.port()
    )
}

fn service() -> Backend {
    Backend::answering(|_| {
        let body = r#"{"data":{"a":1}}"#;
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn post(gateway: &Gateway, body: &Value) -> Answer {
    request(gateway.port(), "POST", "/graphql", &[JSON], body.to_string().as_bytes())
}

fn ask(gateway: &Gateway, query: &str) -> Answer {
    post(gateway, &json!({ "query": query }))
}

#[test]
fn what_is_too_much_never_reaches_the_service() {
    let backend = service();
    let graphql = "graphql: { max_depth: 3, max_aliases: 2, max_root_fields: 3, max_directives: 2, max_tokens: 200, batch: 2, introspection: false, \
                   cost: { max: 100, fields: { search: 10 } } }";
    served(&yaml(&backend, graphql), |gateway| {
        let before = backend.requests().len();
        for (query, reason) in [
            ("{ a { b { c { d } } } }", "query_too_deep"),
            ("{ ...f } fragment f on Q { a { b { ...g } } } fragment g on T { c { d } }", "query_too_deep"),
            ("{ x: a y: a z: a }", "too_many_aliases"),
            ("{ a b c d }", "too_many_root_fields"),
            ("{ a @x @y @z }", "too_many_directives"),
            ("{ __schema { types { name } } }", "introspection"),
            ("{ x: __type(name: \"T\") { name } }", "introspection"),
            ("{ ...f } fragment f on Q { __schema { types { name } } }", "introspection"),
            ("{ search { search { a } } users(first: 90) { a } }", "query_too_costly"),
            ("{ ...f } fragment f on Q { ...f }", "fragment_circle"),
            ("{ ...f }", "unknown_fragment"),
            ("query A { a } query B { b }", "unknown_operation"),
            ("{ a", "graphql_syntax"),
            ("type T { a: Int }", "graphql_syntax"),
        ] {
            ask(gateway, query).assert_problem(400, "graphql", reason);
        }
        ask(gateway, &format!("{{ {} }}", "a ".repeat(300))).assert_problem(400, "graphql", "too_many_tokens");
        let one = json!({ "query": "{ a }" });
        post(gateway, &json!([one, one, one])).assert_problem(400, "graphql", "batch_too_large");
        post(gateway, &json!([])).assert_problem(400, "graphql", "no_query");
        post(gateway, &json!([{ "query": "{ users(first: 60) { a } }" }, { "query": "{ users(first: 60) { a } }" }]))
            .assert_problem(400, "graphql", "query_too_costly");
        let variables = json!({ "query": "query ($n: Int) { users(first: $n) { a } }", "variables": { "n": 101 } });
        post(gateway, &variables).assert_problem(400, "graphql", "query_too_costly");
        assert_eq!(backend.requests().len(), before);
        // What is not is passed on as it came, byte for byte.
        let body = r#"{ "query": "query Users($n: Int) { users(first: $n) { a } }", "variables": { "n": 100, "x": 1.0000000000000000001 }, "own": 1 }"#;
        assert_eq!(request(gateway.port(), "POST", "/graphql", &[JSON], body.as_bytes()).status, 200);
        assert_eq!(backend.last().body, body.as_bytes());
        assert_eq!(post(gateway, &json!([one, { "query": "mutation M { b { c } }" }])).status, 200);
        let line = gateway.wait_log(|line| line["status"] == 200 && line["operation"] == "query Users");
        assert_eq!(line["route"], "api");
        gateway.wait_log(|line| line["status"] == 200 && line["operation"] == "query +1");
        let count = |kind: &str| format!("portcullis_graphql_operations_total{{scope=\"route:api\",type=\"{kind}\"}}");
        gateway.wait_metric(&count("mutation"), 1.0);
    });
}

/// What a service could read in another way than the gateway does is not passed on.
#[test]
fn nothing_hides_beside_what_was_looked_at() {
    let backend = service();
    served(&yaml(&backend, "graphql: { max_depth: 2 }"), |gateway| {
        let before = backend.requests().len();
        let (good, deep) = (r#"{"query":"{ a }"}"#, "%7Ba%7Bb%7Bc%7Bd%7D%7D%7D%7D");
        let send = |method: &str, target: &str, fields: &[(&str, &str)], body: &str| {
            request(gateway.port(), method, target, fields, body.as_bytes())
        };
        send("POST", &format!("/graphql?query={deep}"), &[JSON], good).assert_problem(400, "graphql", "query_in_url");
        send("POST", &format!("/graphql?%71uery={deep}"), &[JSON], good).assert_problem(400, "graphql", "query_in_url");
        send("POST", "/graphql?operationName=x", &[JSON], good).assert_problem(400, "graphql", "query_in_url");
        send("POST", "/graphql", &[JSON], r#"{"query":"{ a }","que\u0072y":"{ a { b { c } } }"}"#).assert_problem(
            400,
            "graphql",
            "malformed_request",
        );
        send("POST", "/graphql", &[JSON], r#"{"query":"{ a }","Query":"{ a { b { c } } }"}"#).assert_problem(
            400,
            "graphql",
            "malformed_request",
        );
        for name in ["documentId", "doc_id", "id", "QueryId"] {
            let beside = json!({ "query": "{ a }", name: "1" }).to_string();
            send("POST", "/graphql", &[JSON], &beside).assert_problem(400, "graphql", "malformed_request");
            let alone = json!({ name: "1" }).to_string();
            send("POST", "/graphql", &[JSON], &alone).assert_problem(400, "graphql", "malformed_request");
            send("POST", &format!("/graphql?{name}=1"), &[JSON], good).assert_problem(400, "graphql", "query_in_url");
            send("GET", &format!("/graphql?query=%7Ba%7D&{name}=1"), &[], "").assert_problem(400, "graphql", "malformed_request");
        }
        send("POST", &format!("/graphql?x=1;query={deep}"), &[JSON], good).assert_problem(400, "graphql", "query_in_url");
        send("POST", "/graphql", &[("Content-Type", "application/graphql")], "{ a { b { c } } }")
            .assert_problem(415, "graphql", "not_json");
        send("POST", "/graphql", &[("Content-Type", "multipart/form-data; boundary=x")], "--x--")
            .assert_problem(415, "graphql", "not_json");
        send("POST", "/graphql", &[("Content-Type", "application/json; charset=utf-16")], good)
            .assert_problem(415, "graphql", "not_json");
        send("POST", "/graphql", &[JSON, JSON], good).assert_problem(415, "graphql", "not_json");
        send("POST", "/graphql", &[JSON, ("Content-Encoding", "gzip")], good).assert_problem(
            400,
            "graphql",
            "content_encoding_malformed",
        );
        send("POST", "/graphql", &[], "").assert_problem(415, "graphql", "not_json");
        send("POST", "/graphql", &[JSON], "").assert_problem(400, "graphql", "no_query");
        send("POST", "/graphql", &[JSON], "{}").assert_problem(400, "graphql", "no_query");
        send("GET", &format!("/graphql?query={deep}"), &[], "").assert_problem(400, "graphql", "query_too_deep");
        send("GET", "/graphql?query=%7Ba%7D&query=%7Bb%7D", &[], "").assert_problem(400, "graphql", "malformed_request");
        send("GET", "/graphql?query[]=%7Ba%7D", &[], "").assert_problem(400, "graphql", "malformed_request");
        send("GET", "/graphql?query=%7Ba%7D;query=x", &[], "").assert_problem(400, "graphql", "malformed_request");
        send("GET", "/graphql", &[], "").assert_problem(400, "graphql", "no_query");
        send("GET", "/graphql?query=%7Ba%7D", &[JSON], good).assert_problem(400, "graphql", "body_with_get");
        let mutation = send("GET", "/graphql?query=mutation%7Ba%7D", &[], "");
        mutation.assert_problem(405, "graphql", "mutation_with_get");
        assert_eq!(mutation.header("allow"), Some("POST"));
        send("PUT", "/graphql", &[JSON], good).assert_problem(405, "graphql", "not_graphql");
        let upgrade = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        send("GET", "/graphql?query=%7Ba%7D", &upgrade, "").assert_problem(400, "graphql", "not_looked_at");
        assert_eq!(backend.requests().len(), before);
        assert_eq!(send("GET", "/graphql?query=query+Q%7Ba%7D&x=1", &[], "").status, 200);
        assert_eq!(backend.last().target, "/graphql?query=query+Q%7Ba%7D&x=1");
        assert_eq!(send("HEAD", "/graphql?query=%7Ba%7D", &[], "").status, 200);
        let h2 = curl(&["--http2-prior-knowledge", "--json", r#"{"query":"{ a { b { c } } }"}"#, &gateway.url("/graphql")]);
        assert_eq!(h2.status, 400, "{}", h2.text());
        let h2 = curl(&["--http2-prior-knowledge", "--json", good, &gateway.url("/graphql")]);
        assert_eq!(h2.status, 200, "{}", h2.text());
    });
}

#[test]
fn clients_of_graphql_are_refused_in_their_own_form() {
    let backend = service();
    let policies = "graphql: {}, rate_limit: { by: route, limit: 1/hour }";
    served(&yaml(&backend, policies), |gateway| {
        let own = ("Accept", "application/json;q=0.9, application/graphql-response+json; charset=utf-8");
        let send = |query: &str| {
            request(gateway.port(), "POST", "/graphql", &[JSON, own], json!({ "query": query }).to_string().as_bytes())
        };
        let refused = send("{ a \"\n");
        assert_eq!((refused.status, refused.header("content-type")), (400, Some("application/graphql-response+json")));
        let error = &refused.json()["errors"][0];
        assert_eq!((&error["extensions"]["code"], &error["extensions"]["policy"]), (&"graphql_syntax".into(), &"graphql".into()));
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()) && refused.json().get("data").is_none());
        assert_eq!(send("{ a }").status, 200);
        let limited = send("{ a }");
        assert_eq!((limited.status, &limited.json()["errors"][0]["extensions"]["policy"]), (429, &"rate_limit".into()));
        assert!(limited.header("retry-after").is_some());
        ask(gateway, "{ a }").assert_problem(429, "rate_limit", "rate_limited");
    });
}

#[test]
fn a_limit_counts_what_operations_cost() {
    let backend = service();
    let policies = "graphql: { cost: { max: 50 } }, rate_limit: { by: route, limit: 100/hour, cost: graphql }";
    let gateway = Gateway::start(&yaml(&backend, policies));
    let costly = "{ users(first: 40) { a } }";
    assert_eq!((ask(&gateway, costly).status, ask(&gateway, costly).status), (200, 200));
    assert_eq!(ask(&gateway, costly).status, 429);
    assert_eq!(ask(&gateway, "{ users(first: 20) { a } }").status, 200);
    // Nothing is left, and no request is free: a login may be one field without fields.
    assert_eq!((ask(&gateway, "{ users { a } }").status, ask(&gateway, "mutation { login }").status), (429, 429));
    // Each of a batch is done, though a leaf costs nothing.
    let yaml =
        yaml(&backend, "graphql: { batch: 10, cost: { max: 50 } }, rate_limit: { by: route, limit: 25/hour, cost: graphql }");
    let gateway = Gateway::start(&yaml);
    let batch: Vec<Value> = (0..10).map(|_| json!({ "query": "mutation { login }" })).collect();
    let statuses: Vec<u16> = (0..3).map(|_| post(&gateway, &json!(batch)).status).collect();
    assert_eq!(statuses, [200, 200, 429]);
}

#[test]
fn only_what_is_known_is_passed_on_and_by_its_hash() {
    let (backend, files) = (service(), Files::new());
    let known = "query Known($n: Int) { users(first: $n) { a } }";
    let manifest = json!({ "format": "apollo-persisted-query-manifest", "version": 1, "operations": [
        { "id": sha256(known), "name": "Known", "type": "query", "body": known },
        { "id": "x", "body": "mutation Change { a }" },
    ] });
    files.write("operations.json", manifest.to_string());
    let hashed = |hash: String| json!({ "extensions": { "persistedQuery": { "version": 1, "sha256Hash": hash } }, "variables": { "n": 7 } });
    let gateway = Gateway::start_in(&files, &yaml(&backend, "graphql: { persisted: { file: operations.json } }"));
    assert_eq!(post(&gateway, &hashed(sha256(known))).status, 200);
    let sent: Value = serde_json::from_slice(&backend.last().body).unwrap();
    assert_eq!((&sent["query"], &sent["variables"]["n"]), (&known.into(), &7.into()));
    assert_eq!(backend.last().header("content-length"), Some(backend.last().body.len().to_string().as_str()));
    gateway.wait_log(|line| line["operation"] == "query Known");
    assert_eq!(ask(&gateway, known).status, 200);
    ask(&gateway, "{ other }").assert_problem(400, "graphql", "not_persisted");
    ask(&gateway, &format!("{known} ")).assert_problem(400, "graphql", "not_persisted");
    post(&gateway, &hashed(sha256("{ other }"))).assert_problem(400, "graphql", "not_persisted");
    let mut lying = hashed(sha256(known));
    lying["query"] = "{ other }".into();
    post(&gateway, &lying).assert_problem(400, "graphql", "hash_mismatch");
    let mut null = hashed(sha256(known));
    null["query"] = Value::Null;
    post(&gateway, &null).assert_problem(400, "graphql", "no_query");
    let extensions = format!("%7B%22persistedQuery%22:%7B%22version%22:1,%22sha256Hash%22:%22{}%22%7D%7D", sha256(known));
    assert_eq!(get(gateway.port(), &format!("/graphql?extensions={extensions}")).status, 200);
    let target = backend.last().target;
    assert!(target.starts_with(&format!("/graphql?extensions={extensions}&query=query%20Known")), "{target}");
    get(gateway.port(), &format!("/graphql?query=&extensions={extensions}")).assert_problem(400, "graphql", "no_query");
    let change = extensions.replace(&sha256(known), &sha256("mutation Change { a }"));
    get(gateway.port(), &format!("/graphql?extensions={change}")).assert_problem(405, "graphql", "mutation_with_get");
    // Where others may be asked for, a hash that nobody knows is answered as Apollo's clients expect.
    drop(gateway);
    let files = Files::new();
    files.write("operations.json", manifest.to_string());
    let gateway = Gateway::start_in(&files, &yaml(&backend, "graphql: { persisted: { file: operations.json, only: false } }"));
    assert_eq!(ask(&gateway, "{ other }").status, 200);
    let unknown = post(&gateway, &hashed(sha256("{ other }")));
    unknown.assert_problem(400, "graphql", "persisted_query_not_found");
    assert_eq!(unknown.json()["detail"], "PersistedQueryNotFound");
}

#[test]
fn bodies_are_read_for_those_who_have_proved_who_they_are() {
    let backend = service();
    let gateway = Gateway::start(&yaml(&backend, "graphql: {}, authn: { api_key: {} }"));
    let answer = ask(&gateway, "{ a");
    assert_eq!((answer.status, &answer.json()["policy"]), (401, &"authn".into()));
}

#[test]
fn mistakes_are_said_when_the_file_is_loaded() {
    let backend = service();
    for (policies, words) in [
        ("graphql: { max_depth: 0 }", "not between 1 and 200"),
        ("graphql: { batch: 1000 }", "not between 1 and 100"),
        ("graphql: { cost: {} }", "max"),
        ("graphql: { persisted: { file: nowhere.json } }", "cannot be used"),
        ("graphql: { persisted: { file: bad.json } }", "it is not JSON"),
        ("graphql: { persisted: { file: wrong.json } }", "1 of its documents cannot be read"),
        ("graphql: { max_dept: 1 }", "max_dept"),
        ("graphql: { cost: { max: } }", "nothing"),
    ] {
        let files = Files::new();
        files.write("bad.json", "{");
        files.write("wrong.json", json!({ "a": "{ a }", "b": "{ a" }).to_string());
        files.write("gateway.yaml", yaml(&backend, policies).replace("$PORT", "8080"));
        let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
        let said = ran.stdout + &ran.stderr;
        assert!(said.contains(words) && said.contains("error"), "{policies}\n{said}");
    }
}

/// A known query by GET is an answer for everybody, as any other is; and a file that has changed counts with the next reload.
#[test]
fn known_queries_are_kept_and_known_anew_after_a_reload() {
    let (backend, files) = (service(), Files::new());
    let known = |documents: &[&str]| {
        let all: serde_json::Map<String, Value> = documents.iter().map(|text| (sha256(text), (*text).into())).collect();
        files.write("operations.json", Value::Object(all).to_string());
    };
    let by_hash = |text: &str| {
        let hash = sha256(text);
        format!("/graphql?extensions=%7B%22persistedQuery%22:%7B%22version%22:1,%22sha256Hash%22:%22{hash}%22%7D%7D")
    };
    known(&["{ one }"]);
    let gateway =
        Gateway::start_in(&files, &yaml(&backend, "graphql: { persisted: { file: operations.json } }, cache: { ttl: 1h }"));
    for _ in 0..3 {
        assert_eq!(get(gateway.port(), &by_hash("{ one }")).status, 200);
    }
    assert_eq!(backend.requests().len(), 1, "the next ones had it from memory");
    get(gateway.port(), &by_hash("{ two }")).assert_problem(400, "graphql", "not_persisted");
    known(&["{ two }"]);
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(get(gateway.port(), &by_hash("{ two }")).status, 200);
    // What is kept of it is not given either: it is not known any more.
    get(gateway.port(), &by_hash("{ one }")).assert_problem(400, "graphql", "not_persisted");
    files.write("operations.json", "{");
    assert_ne!(gateway.reload().0, 200, "a file that cannot be read leaves everything as it is");
    assert_eq!(get(gateway.port(), &by_hash("{ two }")).status, 200);
}

/// What is known to change something is done each time, though answers to POST are kept.
#[test]
fn only_queries_are_kept_by_their_body() {
    let backend = service();
    let gateway = Gateway::start(&yaml(&backend, "graphql: { batch: 2 }, cache: { ttl: 1h, methods: [ POST ] }"));
    let asked = |body: &Value| {
        let before = backend.requests().len();
        assert_eq!((post(&gateway, body).status, post(&gateway, body).status), (200, 200));
        backend.requests().len() - before
    };
    assert_eq!(asked(&json!({ "query": "{ a }" })), 1);
    assert_eq!(asked(&json!({ "query": "mutation { add(id: 1) }" })), 2);
    assert_eq!(asked(&json!({ "query": "query A { a } mutation B { add(id: 1) }", "operationName": "B" })), 2);
    assert_eq!(asked(&json!([{ "query": "{ a }" }, { "query": "mutation { add(id: 1) }" }])), 2);
    assert_eq!(asked(&json!([{ "query": "{ a }" }, { "query": "{ b }" }])), 1);
}

/// What browsers ask before they send a query, `cors` answers; what is no such question is no request of GraphQL's either.
#[test]
fn questions_of_browsers_are_for_cors() {
    let backend = service();
    let policies = "graphql: { max_depth: 3 }, cors: { origins: https://app.test, headers: [ Content-Type ] }";
    served(&yaml(&backend, policies), |gateway| {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let url = gateway.url("/graphql");
            let asks = ["-X", "OPTIONS", "-H", "Origin: https://app.test", "-H", "Access-Control-Request-Headers: content-type"];
            let preflight = |method: &str| {
                let method = format!("Access-Control-Request-Method: {method}");
                curl(&[&[version][..], &asks, &["-H", &method, &url]].concat())
            };
            for method in ["POST", "GET"] {
                let answer = preflight(method);
                assert_eq!(answer.status / 100, 2, "{version} {method}: {answer:?}");
                assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.test"));
            }
            let plain = curl(&[version, "-X", "OPTIONS", "-H", "Origin: https://app.test", &url]);
            assert_eq!((plain.status, plain.header("access-control-allow-origin")), (405, Some("https://app.test")));
        }
        assert!(backend.requests().is_empty());
    });
}
