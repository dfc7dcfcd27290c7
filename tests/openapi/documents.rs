//! Big public documents, as packages of npm carry them: they compile, and their own values pass.

use std::path::PathBuf;
use std::time::Instant;

use portcullis::policy::validate::openapi::document::{Document, Options};
use portcullis::policy::validate::openapi::sample::Sampler;
use portcullis::schema::Direction;
use serde_json::{Value, json};

use crate::harness::*;

fn documents() -> PathBuf {
    installed("openapi-documents", &["tests/openapi/install.sh"])
}

/// How many operations there are, and what of them cannot be served.
#[test]
fn big_public_documents_compile() {
    let folder = documents();
    for (file, operations, lost) in [
        ("api.github.com.json", 1000, 0),
        ("github.com/api.github.com.json", 845, 0),
        ("stripe.com.json", 452, 0),
        ("kubernetes.io.json", 833, 0),
        // One media type is none.
        ("zoom.us.json", 373, 1),
        ("googleapis.com/compute.json", 758, 0),
        ("digitalocean.com.json", 290, 0),
        ("asana.com.json", 167, 0),
        // Paths with a `#` in them, by which it tells operations apart that are one.
        ("box.com.json", 258, 19),
    ] {
        let begun = Instant::now();
        let loaded = Document::load(&folder.join(file), Options { formats: true, answers: true });
        let took = begun.elapsed();
        let said: Vec<String> = loaded.faults.iter().map(|fault| fault.said(file)).take(30).collect();
        let document = loaded.document.unwrap_or_else(|| panic!("{file}: {said:#?}"));
        let closed = document.operations.iter().filter(|operation| operation.lost).count();
        println!(
            "{file}: {} operations, {closed} closed, {} schemas, {took:?}\n{said:#?}",
            document.operations.len(),
            document.schema.len()
        );
        let unserved =
            loaded.faults.iter().filter(|fault| !fault.only_pattern).map(|fault| fault.operations.len()).sum::<usize>();
        assert!(document.operations.len() + unserved >= operations && unserved <= lost, "{file}: {said:#?}");
    }
}

/// Values that break one keyword each, with the pointer to the place: of members that are there whatever the alternatives.
fn broken(root: &Value, schema: &Value, value: &Value, at: &str, depth: usize, out: &mut Vec<(String, &'static str, Value)>) {
    let sampler = Sampler::new(root, Direction::ToService);
    let schema = sampler.followed(schema);
    let mut add = |keyword: &'static str, wrong: Value| out.push((at.to_owned(), keyword, wrong));
    let number = |key: &str| schema[key].as_f64();
    let plain = !["allOf", "anyOf", "oneOf", "not"].iter().any(|key| schema.get(*key).is_some());
    if schema["type"].is_string() && plain {
        add("type", if schema["type"] == "boolean" { json!("x") } else { json!(true) });
    }
    match value {
        Value::String(text) => {
            if schema["enum"].is_array() {
                add("enum", json!("none of these"));
            }
            if let Some(least) = schema["minLength"].as_u64().filter(|least| *least > 0) {
                add("minLength", json!(text.chars().take(least as usize - 1).collect::<String>()));
            }
            if let Some(most) = schema["maxLength"].as_u64().filter(|most| *most < 10_000) {
                add("maxLength", json!("x".repeat(most as usize + 1)));
            }
            if schema["pattern"].is_string() {
                add("pattern", json!("\u{1}"));
            }
        }
        Value::Number(_) => {
            if let Some(least) = number("minimum") {
                add("minimum", json!(least - 1.0));
            }
            if let Some(most) = number("maximum") {
                add("maximum", json!(most + 1.0));
            }
        }
        Value::Array(items) => {
            if let Some(most) = schema["maxItems"].as_u64().filter(|most| *most < 2000) {
                add("maxItems", Value::Array(vec![items.first().cloned().unwrap_or_default(); most as usize + 1]));
            }
            if schema["minItems"].as_u64().is_some_and(|least| least > 0) {
                add("minItems", json!([]));
            }
        }
        Value::Object(members) => {
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                let mut without = members.clone();
                if without.shift_remove(name).is_some() {
                    add("required", Value::Object(without));
                }
            }
            for (name, member) in members.iter().filter(|_| depth < 3) {
                let Some(property) = schema["properties"].get(name) else { continue };
                let mut below = Vec::new();
                let escaped = name.replace('~', "~0").replace('/', "~1");
                broken(root, property, member, &format!("{at}/{escaped}"), depth + 1, &mut below);
                out.extend(below.into_iter().map(|(pointer, keyword, wrong)| {
                    let mut with = members.clone();
                    with.insert(name.clone(), wrong);
                    (pointer, keyword, Value::Object(with))
                }));
            }
        }
        _ => {}
    }
}

/// For the operations of GitHub's document: a request made from it passes, and each that breaks one keyword is refused with the right pointer.
#[test]
fn operations_take_what_they_say_and_nothing_else() {
    let file = documents().join("github.com/api.github.com.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let root: Value = serde_json::from_str(&text).unwrap();
    let backend = Backend::http();
    let files = Files::new();
    files.write("github.json", &text);
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT, limits: { uri: 16KiB } } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes: [ { path: /*, service: a, policies: { openapi: { file: github.json, unsupported: skip, security: off } } } ]
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let sampler = Sampler::new(&root, Direction::ToService);
    let escaped = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.bytes()
            .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect::<String>()
    };
    let mut client = Client::connect(gateway.port());
    let (mut passed, mut refused, mut keywords) = (0, 0, std::collections::BTreeMap::new());
    // Of some schemas no value is made here that they take, and some alternatives take what breaks another one.
    let mut lacking = Vec::new();
    for (path, item) in root["paths"].as_object().unwrap() {
        for method in ["get", "post", "put", "patch", "delete"] {
            let Some(operation) = item.get(method) else { continue };
            let shared = item["parameters"].as_array().cloned().unwrap_or_default();
            let own = operation["parameters"].as_array().cloned().unwrap_or_default();
            let (mut target, mut query) = (path.clone(), Vec::new());
            for parameter in own.iter().chain(&shared) {
                let parameter = match parameter["$ref"].as_str() {
                    Some(path) => root.pointer(&path[1..]).unwrap(),
                    None => parameter,
                };
                let name = parameter["name"].as_str().unwrap();
                let value = parameter.get("example").cloned();
                let made = Sampler::new(&root, Direction::ToService).value(&parameter["schema"]);
                let value = value.filter(|value| !value.is_array()).unwrap_or(made);
                match parameter["in"].as_str() {
                    Some("path") => target = target.replace(&format!("{{{name}}}"), &escaped(&value).replace("%2F", "x")),
                    Some("query") => match &value {
                        Value::Array(all) => query.extend(all.iter().map(|one| format!("{name}={}", escaped(one)))),
                        one => query.push(format!("{name}={}", escaped(one))),
                    },
                    _ => {}
                }
            }
            let target = if query.is_empty() { target } else { format!("{target}?{}", query.join("&")) };
            let content = operation["requestBody"]["content"].as_object();
            let media = content.and_then(|content| content.iter().next());
            let schema = content.and_then(|content| content.get("application/json")).and_then(|media| media.get("schema"));
            let body = schema.map(|schema| sampler.value(schema));
            let (kind, bytes) = match (&body, media) {
                (Some(body), _) => ("application/json", body.to_string()),
                (None, Some((kind, _))) => (kind.split(';').next().unwrap(), "x".to_owned()),
                (None, None) => ("", String::new()),
            };
            let fields: &[(&str, &str)] = if kind.is_empty() { &[] } else { &[("Content-Type", kind)] };
            let method = method.to_uppercase();
            let answer = client.request(&method, &target.replace("//", "/x/"), fields, bytes.as_bytes());
            if answer.status != 200 {
                lacking.push(format!("{method} {target} {bytes}: {}", answer.text()));
                continue;
            }
            passed += 1;
            let (Some(schema), Some(body)) = (schema, &body) else { continue };
            let mut wrongs = Vec::new();
            broken(&root, schema, body, "", 0, &mut wrongs);
            for (pointer, keyword, wrong) in wrongs {
                let answer = client.request(&method, &target.replace("//", "/x/"), fields, wrong.to_string().as_bytes());
                let text = answer.text();
                let json: Value = serde_json::from_str(&text).unwrap_or_default();
                let mut told = json["errors"].as_array().into_iter().flatten();
                let found = told.any(|one| one["pointer"] == *pointer && one["keyword"] == keyword);
                if answer.status != 400 || !found {
                    lacking.push(format!("{method} {target}: {keyword} at {pointer}: {wrong}: {text}"));
                    continue;
                }
                refused += 1;
                *keywords.entry(keyword).or_insert(0) += 1;
            }
        }
    }
    println!("{passed} passed, {refused} refused: {keywords:?}");
    println!("{} lack: {lacking:#?}", lacking.len());
    assert!(lacking.len() <= 20, "{} lack: {lacking:#?}", lacking.len());
    assert!(passed >= 825 && refused > 500 && keywords.len() >= 6, "{passed} passed, {refused} refused: {keywords:?}");
}

/// What a big document takes, and that a hundred reloads of one leave memory where it was.
#[test]
fn reloads_of_a_big_document_leave_memory_where_it_was() {
    let backend = Backend::http();
    let files = Files::new();
    let text = std::fs::read_to_string(documents().join("digitalocean.com.json")).unwrap();
    files.write("big.json", &text);
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes: [ { path: /*, service: a, policies: { openapi: { file: big.json, unsupported: skip, security: off } } } ]
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let resident = || gateway.resident() / 1024;
    let reload = |from: usize, times: usize| {
        for number in from..from + times {
            files.write("big.json", text.replacen("\"openapi\"", &format!("\"x-number\":{number},\"openapi\""), 1));
            assert_eq!(gateway.reload().0, 200);
        }
    };
    reload(0, 15);
    let before = resident();
    reload(15, 100);
    // What was compiled before goes once nobody has it any more, which may be a moment after the next one is there.
    let after = || {
        let after = resident();
        println!("{before} kB became {after} kB");
        after
    };
    eventually("memory is where it was", || after() < before + before / 4 + 8 * 1024);
    // What has not changed is not compiled again.
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(get(gateway.port(), "/v2/account").status, 200);
}
