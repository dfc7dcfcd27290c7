//! What requests are held to by JSON Schema.

use std::path::PathBuf;

use portcullis::schema::{Draft, Schema};
use serde_json::{Value, json};

use crate::harness::*;

/// The JSON Schema Test Suite: every case of every required file, in every draft, but for documents that refer to others, which are never
/// fetched, and for meta-schemas that leave vocabularies out. Whatever is compiled has to be right.
#[test]
fn the_json_schema_test_suite_passes() {
    let suite = installed("json-schema-suite", &["tests/contracts/install.sh"]);
    for (name, draft, least, left_out) in [
        ("draft4", Draft::Draft4, 580, 10),
        ("draft6", Draft::Draft6, 800, 13),
        ("draft7", Draft::Draft7, 880, 13),
        ("draft2019-09", Draft::Draft201909, 1180, 19),
        ("draft2020-12", Draft::Draft202012, 1200, 24),
    ] {
        let (mut passed, mut skipped) = (0, Vec::new());
        let tests = suite.join("json/tests").join(name);
        // Of the optional ones, the formats that are asserted and the patterns.
        let mut files: Vec<(PathBuf, bool)> = std::fs::read_dir(&tests)
            .unwrap()
            .map(|file| (file.unwrap().path(), false))
            .filter(|(path, _)| path.is_file())
            .collect();
        if name == "draft2020-12" {
            let formats = ["date-time", "date", "time", "email", "hostname", "ipv4", "ipv6", "uri", "uuid", "json-pointer"];
            files.extend(formats.map(|format| (tests.join(format!("optional/format/{format}.json")), true)));
            files.push((tests.join("optional/ecmascript-regex.json"), true));
        }
        for (file, formats) in files {
            let groups: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            for group in groups.as_array().unwrap() {
                let what = format!("{name} {}: {}", file.display(), group["description"]);
                let schema = match Schema::compile_as(&group["schema"], formats, draft) {
                    Ok(schema) => schema,
                    Err(faults) => {
                        let known = ["nothing is fetched", "not known", "lookaround", "backreference"];
                        assert!(
                            faults.iter().all(|fault| known.iter().any(|known| fault.message.contains(known))),
                            "{what}: {faults:?}"
                        );
                        skipped.push(what);
                        continue;
                    }
                };
                for test in group["tests"].as_array().unwrap() {
                    let valid = test["valid"].as_bool().unwrap();
                    let told = schema.broken(&test["data"], 1_000_000, 20);
                    assert_eq!(told.is_none(), valid, "{what}: {}: {told:?}", test["description"]);
                    assert_eq!(schema.is_valid(&test["data"], 1_000_000), valid, "{what}: {}", test["description"]);
                    passed += 1;
                }
            }
        }
        assert!(passed >= least && skipped.len() <= left_out + 3, "{name}: {passed} passed, left out: {skipped:#?}");
    }
}

const ORDER: &str = r##"{
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "required": ["sku", "amount"],
    "properties": {
        "sku": { "type": "string", "pattern": "^[A-Z]{2}-[0-9]+$" },
        "amount": { "type": "integer", "minimum": 1 },
        "note": { "type": ["string", "null"] },
        "parts": { "type": "array", "items": { "$ref": "#" } }
    },
    "additionalProperties": false
}"##;

const SHOP: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    routes:
      - path: /orders
        service: a
        policies: { validate: { body: { schema: { file: order.json } } } }
      - path: /trial
        service: a
        policies: { validate: { body: { schema: { file: order.json } }, mode: report } }
      - path: '/items/{id}'
        service: a
        policies:
          validate:
            path: { id: { type: integer, minimum: 1 } }
            query:
              limit: { type: integer, maximum: 100 }
              sort: { enum: [ name, price ], required: true }
              tag: { type: array, items: { type: string, maxLength: 3 }, maxItems: 2 }
            headers: { X-Tenant: { type: string, pattern: '^t-[0-9]+$', required: true } }
      - path: /json
        service: a
        policies: { validate: { json: true, max_json_members: 3, max_json_elements: 4, max_json_string: 8B } }
";

fn shop(backend: &Backend) -> (Files, String) {
    let files = Files::new();
    files.write("order.json", ORDER);
    (files, filled(SHOP, &[("$BACKEND", backend.port())]))
}

fn errors(answer: &Answer) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let json = answer.json();
    let list = json["errors"].as_array().unwrap_or_else(|| panic!("{answer:?}")).clone();
    let mut all: Vec<_> = list
        .iter()
        .map(|error| {
            (format!("{} {}{}", text(&error["in"]), text(&error["name"]), text(&error["pointer"])), text(&error["keyword"]))
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_body_is_held_to_its_schema() {
    let backend = Backend::http();
    let (files, yaml) = shop(&backend);
    let gateway = Gateway::start_in(&files, &yaml);
    let kind = ("Content-Type", "application/json");
    let post = |path: &str, body: &[u8]| request(gateway.port(), "POST", path, &[kind], body);
    let good = br#"{"sku":"AB-1","amount":2.0,"parts":[{"sku":"CD-2","amount":1}]}"#;
    assert_eq!(post("/orders", good).status, 200);
    assert_eq!(backend.last().body, good, "the body goes on as it came");
    let wrong = post("/orders", br#"{"sku":"hunter2","amount":0,"parts":[{"sku":"CD-2","amount":"many"}],"a/b":1}"#);
    assert_eq!((wrong.status, &wrong.json()["reason"]), (400, &json!("contract_broken")));
    let said = [
        ("body /amount", "minimum"),
        ("body /a~1b", "additionalProperties"),
        ("body /parts/0/amount", "type"),
        ("body /sku", "pattern"),
    ];
    assert_eq!(errors(&wrong), said.map(|(place, keyword)| (place.to_owned(), keyword.to_owned())));
    assert!(!wrong.text().contains("hunter2") && !wrong.text().contains("many"), "no value is repeated: {}", wrong.text());
    let line = gateway.wait_log(|line| line["status"] == 400);
    assert_eq!((&line["answered_by"], &line["reason"]), (&json!("validate"), &json!("contract_broken")));

    for (body, reason) in [
        (&br#"{"sku":"AB-1","sku":"x","amount":1}"#[..], "json_duplicate_name"),
        (br#"{"sku":"AB-1","\u0073ku":"x","amount":1}"#, "json_duplicate_name"),
        (b"{", "json_malformed"),
        (b"", "json_empty"),
    ] {
        let refused = post("/orders", body);
        assert_eq!((refused.status, &refused.json()["reason"]), (400, &json!(reason)), "{refused:?}");
    }
    let form = request(gateway.port(), "POST", "/orders", &[("Content-Type", "application/x-www-form-urlencoded")], b"sku=AB-1");
    assert_eq!((form.status, form.header("accept")), (415, Some("application/json, */*+json")));
    assert_eq!(request(gateway.port(), "GET", "/orders", &[], b"").status, 200, "no body is held to nothing");
    for fields in [&[][..], &[("Content-Length", "0")]] {
        let refused = request(gateway.port(), "POST", "/orders", fields, b"");
        assert_eq!((refused.status, &refused.json()["reason"]), (400, &json!("json_empty")), "{refused:?}");
    }

    // The names that serde_json has for itself are names, and what is nested in texts is text.
    let hidden = post("/orders", br#"{"sku":{"$serde_json::private::RawValue":"\"AB-1\""},"amount":1}"#);
    assert_eq!(errors(&hidden), [("body /sku".to_owned(), "type".to_owned())]);
    let level = |inner: &str| format!("{}{inner}{}", "[".repeat(120), "]".repeat(120));
    let name = "$serde_json::private::RawValue";
    let nested = (0..9).fold(level("0"), |inner, _| level(&json!({ name: inner }).to_string()));
    assert_eq!(errors(&post("/orders", nested.as_bytes())), [("body ".to_owned(), "type".to_owned())]);

    // Many wrong things make no long answer, and something that nests without end takes no time.
    let many = format!("{{\"sku\":\"AB-1\",\"amount\":1,\"parts\":[{}0]}}", "1,".repeat(50_000));
    let refused = post("/orders", many.as_bytes());
    assert_eq!((refused.json()["errors"].as_array().unwrap().len(), &refused.json()["more_errors"]), (20, &json!(true)));
    let deep = format!("{}{}", "{\"sku\":\"AB-1\",\"amount\":1,\"parts\":[".repeat(90), "]}".repeat(90));
    assert_eq!(post("/orders", deep.as_bytes()).json()["reason"], "json_too_deep");

    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = curl(&[version, "-H", "Content-Type: application/json", "-d", "[]", &gateway.url("/orders")]);
        assert_eq!((answer.status, errors(&answer)), (400, vec![("body ".to_owned(), "type".to_owned())]), "{version}");
        let chunked = ["-H", "Transfer-Encoding: chunked"];
        let rest =
            [version, "-H", "Content-Type: application/json", "-d", r#"{"sku":"AB-1","amount":1}"#, &gateway.url("/orders")];
        let args: Vec<&str> = if version == "--http1.1" { [&rest[..], &chunked].concat() } else { rest.to_vec() };
        assert_eq!(curl(&args).status, 200, "{version}");
    }
}

#[test]
fn a_contract_on_trial_refuses_nobody_and_tells_what_it_would() {
    let backend = Backend::http();
    let (files, yaml) = shop(&backend);
    let gateway = Gateway::start_in(&files, &yaml);
    let post = |kind: &str, body: &[u8]| request(gateway.port(), "POST", "/trial", &[("Content-Type", kind)], body).status;
    for _ in 0..3 {
        assert_eq!(post("application/json", br#"{"sku":"AB-1","amount":0}"#), 200);
    }
    assert_eq!(post("application/json", b"{"), 200);
    assert_eq!(post("text/plain", b"x"), 200);
    assert_eq!(request(gateway.port(), "POST", "/trial", &[], b"").status, 200);
    assert_eq!(post("application/json", &vec![b'1'; (1 << 20) + 1]), 200);
    assert_eq!(post("application/json; charset=utf-16", b"\0{\0}"), 200);
    // What says nothing of its length goes on all the same, from its first byte.
    let long: Vec<u8> = (0..3_000_000u32).map(|number| b'0' + (number % 10) as u8).collect();
    let file = files.write("long.json", &long).display().to_string();
    for (version, field) in [("--http1.1", "Transfer-Encoding: chunked"), ("--http2-prior-knowledge", "Content-Length:")] {
        let (data, url) = (format!("@{file}"), gateway.url("/trial"));
        let args = [version, "-H", "Content-Type: application/json", "-H", field, "-H", "Expect:", "--data-binary", &data, &url];
        assert_eq!(curl(&args).status, 200, "{version}");
        assert!(backend.last().body == long, "{version}: {} bytes", backend.last().body.len());
    }
    gateway.wait_metric("portcullis_contract_broken_total{part=\"body\",outcome=\"reported\"}", 10.0);
    // The gateway's own bounds hold.
    gateway.rewrite(&yaml.replace("mode: report } }", "mode: report }, bounds: { max_body: 2MiB } }"));
    assert_eq!(gateway.reload().0, 200);
    let (data, url) = (format!("@{file}"), gateway.url("/trial"));
    let args = ["-H", "Content-Type: application/json", "-H", "Transfer-Encoding: chunked", "-H", "Expect:", "--data-binary"];
    assert_eq!(curl(&[&args[..], &[&data, &url]].concat()).json()["reason"], "body_too_large");
    gateway.rewrite(&yaml);
    assert_eq!(gateway.reload().0, 200);
    let (status, text) = gateway.admin_get("/contracts");
    let told: Value = serde_json::from_str(&text).unwrap();
    let trial =
        told["contracts"].as_array().unwrap().iter().find(|one| one["scope"].as_str().unwrap().contains("/trial")).unwrap();
    let first = trial["broken"].as_array().unwrap().iter().find(|kind| kind["keyword"] == "minimum").unwrap();
    assert_eq!(
        (status, &first["pointer"], &first["keyword"], &first["count"]),
        (200, &json!("/amount"), &json!("minimum"), &json!(3))
    );
    assert_eq!((&first["detail"], &first["in"]), (&json!("must be at least 1"), &json!("body")));
    assert!(first["first"].is_string() && first["last"].is_string(), "{first}");
    assert_eq!(first["example"], "integer", "what was there, and not which");
    let keywords: Vec<_> = trial["broken"].as_array().unwrap().iter().map(|kind| kind["keyword"].as_str().unwrap()).collect();
    assert!(["json", "max_body", "content_type", "charset"].iter().all(|keyword| keywords.contains(keyword)), "{trial}");
    // Names that a client makes up are one kind, and push nothing out that was counted.
    for number in 0..12 {
        let junk: Vec<String> = (0..15).map(|name| format!("\"n{number}_{name}\":1")).collect();
        let body = format!("{{\"sku\":\"AB-1\",\"amount\":1,{}}}", junk.join(","));
        assert_eq!(post("application/json", body.as_bytes()), 200);
    }
    let told: Value = serde_json::from_str(&gateway.admin_get("/contracts").1).unwrap();
    let trial = told["contracts"].as_array().unwrap().iter().find(|one| one["scope"].as_str().unwrap().contains("/trial"));
    let kinds = trial.unwrap()["broken"].as_array().unwrap();
    let count = |keyword: &str| -> Vec<_> {
        let of = kinds.iter().filter(|kind| kind["keyword"] == keyword);
        of.map(|kind| (kind["pointer"].as_str().unwrap(), kind["count"].as_u64().unwrap())).collect()
    };
    assert_eq!((count("minimum"), count("additionalProperties")), (vec![("/amount", 3)], vec![("/*", 180)]));
}

#[test]
fn parameters_and_header_fields_are_held_to_theirs() {
    let backend = Backend::http();
    let (files, yaml) = shop(&backend);
    let gateway = Gateway::start_in(&files, &yaml);
    let get = |target: &str, tenant: Option<&str>| {
        let fields: Vec<(&str, &str)> = tenant.map(|tenant| ("X-Tenant", tenant)).into_iter().collect();
        request(gateway.port(), "GET", target, &fields, b"")
    };
    assert_eq!(get("/items/7?sort=name&limit=10&tag=a&tag=b%63", Some("t-1")).status, 200);
    let wrong = get("/items/x?limit=1e3&sort=a&tag=a&tag=b&tag=long", Some("t-"));
    let said = [
        ("header X-Tenant", "pattern"),
        ("path id", "type"),
        ("query limit", "maximum"),
        ("query sort", "enum"),
        ("query tag", "maxItems"),
        ("query tag/2", "maxLength"),
    ];
    assert_eq!(errors(&wrong), said.map(|(place, keyword)| (place.to_owned(), keyword.to_owned())));
    let missing = get("/items/0", None);
    let said = [("header X-Tenant", "required"), ("path id", "minimum"), ("query sort", "required")];
    assert_eq!(errors(&missing), said.map(|(place, keyword)| (place.to_owned(), keyword.to_owned())));
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn json_has_bounds_beside_its_depth() {
    let backend = Backend::http();
    let (files, yaml) = shop(&backend);
    let gateway = Gateway::start_in(&files, &yaml);
    let post = |body: &[u8]| request(gateway.port(), "POST", "/json", &[("Content-Type", "application/json")], body);
    assert_eq!(post(br#"{"a":[1,2,3,4],"b":"12345678","c":{}}"#).status, 200);
    for (body, reason) in [
        (&br#"{"a":1,"b":1,"c":1,"d":1}"#[..], "json_too_many_members"),
        (b"[1,2,3,4,5]", "json_too_many_elements"),
        (br#"["123456789"]"#, "json_string_too_long"),
        (br#"{"a":1,"a":1}"#, "json_duplicate_name"),
    ] {
        let refused = post(body);
        assert_eq!((refused.status, &refused.json()["reason"]), (400, &json!(reason)));
    }
}

#[test]
fn a_schema_that_cannot_be_held_is_a_problem_with_its_place() {
    let files = Files::new();
    files.write("bad.json", r#"{ "properties": { "a": { "pattern": "(?!x)" }, "b": { "$ref": "other.json" } } }"#);
    files.write(
        "gateway.yaml",
        "
listeners: [ { bind: 127.0.0.1:8080 } ]
services: { a: { endpoints: [ '127.0.0.1:1' ] } }
routes:
  - path: /a
    service: a
    policies:
      validate:
        body: { schema: { file: bad.json } }
        query: { n: { type: number, minimum: none } }
        headers: { X-A: { file: none.json } }
        max_json_depth: 200
",
    );
    let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    for what in [
        "`/properties/a/pattern`: the pattern cannot be used: lookaround",
        "`/properties/b/$ref`: `other.json` leads nowhere in this document, and nothing is fetched",
        "`/minimum`: `minimum` is a number",
        "cannot read the schema in `none.json`",
        "max_json_depth is between 1 and 127, with a schema",
    ] {
        assert!(said.contains(what), "{what} is not in:\n{said}");
    }
    assert!(said.contains("gateway.yaml:9:"), "{said}");
}

/// A schema with 200 patterns, a hundred times.
#[test]
fn reloads_leave_memory_where_it_was() {
    let backend = Backend::http();
    let (files, yaml) = shop(&backend);
    let members: serde_json::Map<String, Value> = (0..200)
        .map(|n| (format!("m{n}"), json!({ "type": "string", "pattern": format!("^a{n}[a-z]*$"), "maxLength": n })))
        .collect();
    files.write("order.json", json!({ "type": "object", "properties": members }).to_string());
    let gateway = Gateway::start_in(&files, &yaml);
    let resident = || gateway.resident() / 1024;
    let reload = |times: usize| {
        for number in 0..times {
            gateway.rewrite(&yaml.replace("max_json_members: 3", &format!("max_json_members: {}", number + 3)));
            assert_eq!(gateway.reload().0, 200);
        }
    };
    reload(20);
    let before = resident();
    reload(100);
    let after = resident();
    assert!(after < before + before / 4 + 8 * 1024, "{before} kB became {after} kB");
}

/// Answers that keep what was agreed on go out as they came; others do not go out.
#[test]
fn answers_are_held_to_theirs() {
    let backend = Backend::answering(|request| {
        let (kind, fields, body) = match request.target.as_str() {
            "/good" => ("application/json", "ETag: \"a\"\r\n", r#"{"name":"x"}"#),
            "/html" => ("text/html", "", "<p>"),
            "/coded" => ("application/json", "Content-Encoding: gzip\r\n", "{}"),
            "/long" => {
                ("application/json", "", r#"{"name":"0123456789012345678901234567890123456789012345678901234567890123456789"}"#)
            }
            "/gone" => return b"HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx".to_vec(),
            "/events" => ("text/event-stream", "", "data: {}\n\n"),
            "/empty" => return b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            _ => ("application/json", "", r#"{"name":"x","secret":"hunter2"}"#),
        };
        let length = body.len();
        let body = if request.method == "HEAD" { "" } else { body };
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{fields}Content-Length: {length}\r\n\r\n{body}").into_bytes()
    });
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        policies:
          cors: { origins: https://app.test }
          answer_contract:
            schema: { type: object, properties: { name: { type: string } }, additionalProperties: false }
            up_to: 64B
        routes:
          - { path: /*, service: a }
          - { path: /cached, service: a, policies: { cache: { ttl: 60s } } }
          - path: /trial
            service: a
            policies: { answer_contract: { schema: { type: object, maxProperties: 1 }, mode: report } }
        ",
        &[("$BACKEND", backend.port())],
    );
    let run = |gateway: &Gateway| {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let get = |path: &str| curl(&[version, "--compressed", "-H", "Origin: https://app.test", &gateway.url(path)]);
            let good = get("/good");
            assert_eq!((good.status, good.text().as_str(), good.header("etag")), (200, r#"{"name":"x"}"#, Some("\"a\"")));
            for path in ["/secret", "/html", "/coded", "/cached", "/cached"] {
                let broken = get(path);
                let said = broken.json();
                assert_eq!((broken.status, &said["reason"]), (502, &json!("answer_breaks_contract")), "{path}");
                assert!(!broken.text().contains("hunter2") && said["errors"].is_null(), "{said}");
                assert_eq!(broken.header("access-control-allow-origin"), Some("https://app.test"));
            }
            let long = get("/long");
            assert_eq!((long.status, &long.json()["reason"]), (502, &json!("answer_too_large")));
            for (path, status) in [("/gone", 404), ("/events", 200), ("/empty", 204), ("/trial", 200)] {
                assert_eq!(get(path).status, status, "{path}");
            }
            assert_eq!(curl(&[version, "-I", &gateway.url("/secret")]).status, 200, "nothing of it is told");
        }
        // Whoever says nothing takes any coding.
        assert!(backend.requests().iter().all(|request| request.header("accept-encoding") == Some("identity")));
        let line = gateway.wait_log(|line| line["path"] == "/secret" && line["status"] == 502);
        let decided = &line["decided_by"];
        assert_eq!((&line["answered_by"], decided), (&json!("answer_contract"), &json!("additionalProperties /secret")));
        gateway.wait_metric("portcullis_contract_broken_total{part=\"answer\",outcome=\"reported\"}", 2.0);
    };
    run(&Gateway::start(&yaml));
}

/// What broke its contract once is not what the next ones get for as long as it would have been fresh.
#[test]
fn what_breaks_its_contract_is_not_kept() {
    let asked = std::sync::Arc::new(std::sync::Mutex::new(std::collections::HashMap::<String, usize>::new()));
    let count = asked.clone();
    let backend = Backend::answering(move |request| {
        let mut all = count.lock().unwrap();
        let times = all.entry(request.target.clone()).or_default();
        *times += 1;
        let (kind, body) = match (request.target.as_str(), *times) {
            ("/body" | "/trial", 1) => ("application/json", r#"{"secret":1}"#),
            ("/head", 1) => ("text/html", "<p>"),
            ("/never", _) => ("application/json", r#"{"secret":1}"#),
            (_, 1) => ("application/json", r#"{"name":"x","more":1}"#),
            _ => ("application/json", r#"{"name":"y"}"#),
        };
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nCache-Control: max-age=60\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    });
    let times = |path: &str| asked.lock().unwrap().get(path).copied().unwrap_or_default();
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        policies:
          cache: {}
          answer_contract: { schema: { type: object, properties: { name: {}, more: {} }, additionalProperties: false } }
        routes:
          - { path: /*, service: a }
          - { path: /trial, service: a, policies: { answer_contract: { schema: { type: object, required: [ name ] }, mode: report } } }
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start(&yaml);
    for path in ["/body", "/head"] {
        get(gateway.port(), path).assert_problem(502, "answer_contract", "answer_breaks_contract");
        for _ in 0..3 {
            assert_eq!(get(gateway.port(), path).text(), r#"{"name":"y"}"#, "{path}");
        }
        assert_eq!(times(path), 2, "{path}: the broken one is asked for anew, and the good one is kept");
    }
    for number in 1..4 {
        get(gateway.port(), "/never").assert_problem(502, "answer_contract", "answer_breaks_contract");
        assert_eq!(times("/never"), number, "once for each");
    }
    // On trial it is told when it comes, and when it is first given again.
    for _ in 0..6 {
        assert_eq!(get(gateway.port(), "/trial").text(), r#"{"secret":1}"#);
    }
    assert_eq!(times("/trial"), 1);
    gateway.wait_metric("portcullis_contract_broken_total{scope=\"route:/trial\",part=\"answer\",outcome=\"reported\"}", 2.0);
    // What was good under another contract is fetched anew where it is not any more, for the one who asks.
    for (path, version) in [("/a", "--http1.1"), ("/b", "--http2-prior-knowledge")] {
        for _ in 0..2 {
            assert_eq!(curl(&[version, &gateway.url(path)]).text(), r#"{"name":"x","more":1}"#);
        }
        assert_eq!(times(path), 1);
    }
    gateway.rewrite(&yaml.replace(", more: {}", ""));
    assert_eq!(gateway.reload().0, 200);
    for (path, version) in [("/a", "--http1.1"), ("/b", "--http2-prior-knowledge")] {
        for _ in 0..3 {
            let answer = curl(&[version, &gateway.url(path)]);
            assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"name":"y"}"#), "{version}");
        }
        assert_eq!(times(path), 2, "once, and then kept");
    }
    let line = gateway.wait_log(|line| line["path"] == "/a" && line["cache"] == "miss" && line["bytes_out"].as_u64() < Some(15));
    assert_eq!(line["status"], 200, "{line}");
}

/// What breaks its contract, and was not stored, takes nothing from those who are given what was.
#[test]
fn what_one_client_has_asked_for_anew_takes_nothing_from_others() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let backend = Backend::answering(move |_| {
        let (control, body) = match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => ("max-age=60", r#"{"name":"x"}"#),
            _ => ("no-store", r#"{"secret":1}"#),
        };
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: {control}\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    });
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        server: { workers: 2 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        policies:
          cache: {}
          answer_contract: { schema: { type: object, required: [ name ] } }
        routes: [ { path: /*, service: a } ]
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    for _ in 0..2 {
        assert_eq!(get(gateway.port(), "/a").text(), r#"{"name":"x"}"#);
        let anew = request(gateway.port(), "GET", "/a", &[("Cache-Control", "no-cache")], b"");
        anew.assert_problem(502, "answer_contract", "answer_breaks_contract");
    }
    assert_eq!(get(gateway.port(), "/a").text(), r#"{"name":"x"}"#);
    assert_eq!(backend.requests().len(), 3);
}

/// That a route is a stream makes none of what its service answers.
#[test]
fn a_route_of_streams_is_held_to_its_contract_too() {
    let backend = Backend::answering(|request| {
        let (kind, body) = match request.target.as_str() {
            "/strip/events" | "/held/events" => ("text/event-stream", "data: {}\n\n"),
            "/strip/two" | "/held/two" => ("text/event-stream\r\nContent-Type: application/json", r#"{"secret":"hunter2"}"#),
            "/strip/plain" | "/held/plain" => ("application/json\r\nContent-Encoding: identity", r#"{"id":1}"#),
            _ => ("application/json\r\nETag: \"a\"", r#"{"id":1,"secret":"hunter2"}"#),
        };
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    });
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - { path: /strip/*, service: a, stream: true, policies: { answer_contract: { mode: strip, schema: { properties: { id: {} } } } } }
          - path: /held/*
            service: a
            stream: true
            policies: { answer_contract: { schema: { properties: { id: {} }, additionalProperties: false } } }
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start(&yaml);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let get = |path: &str| curl(&[version, &gateway.url(path)]);
        let stripped = get("/strip/x");
        assert_eq!((stripped.status, stripped.text().as_str(), stripped.header("etag")), (200, r#"{"id":1}"#, None));
        for (path, status) in [
            ("/held/x", 502),
            ("/held/two", 502),
            ("/strip/two", 502),
            ("/held/plain", 200),
            ("/strip/plain", 200),
            ("/held/events", 200),
            ("/strip/events", 200),
        ] {
            let got = get(path);
            assert_eq!(got.status, status, "{path}");
            assert!(!got.text().contains("hunter2"), "{path}");
        }
    }
}

/// A name that the route's path does not have would be looked at never.
#[test]
fn parameters_that_a_path_does_not_have_are_problems() {
    let files = Files::new();
    let check = |policies: &str| {
        let yaml = format!(
            "listeners: [ {{ bind: 127.0.0.1:0 }} ]\nservices: {{ a: {{ endpoints: [ 127.0.0.1:9 ] }} }}\nroutes:\n  - {{ path: '/items/{{id}}', service: a, policies: {{ {policies} }} }}\n"
        );
        files.write("gateway.yaml", &yaml);
        portcullis(files.dir(), &["check", "gateway.yaml"])
    };
    for policies in [
        "validate: { path: { ID: { type: integer } } }",
        "reshape: { request: [ { set: { /id: { param: idd } } } ] }",
        "request_headers: { set: { X-Item: '{param.ids}' } }",
        "response_headers: { set: { X-Item: '{param.ids}' } }",
    ] {
        let ran = check(policies);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code == 1 && told.contains("the route's path has no parameter {"), "{policies}: {told}");
        let right = policies.replace("ID:", "id:").replace("idd", "id").replace("ids", "id");
        let ran = check(&right);
        assert_eq!(ran.code, 0, "{right}: {}{}", ran.stdout, ran.stderr);
    }
}
