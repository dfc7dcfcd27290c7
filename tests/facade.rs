//! GraphQL in front of services that do not speak it.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::*;

const SCHEMA: &str = "tests/facade/schema.graphql";
const RESPONSE: &str = "application/graphql-response+json";

fn answer(status: u16, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nCache-Control: max-age=60\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A shop's services in one: products, vendors by their keys, reviews.
fn shop() -> Backend {
    Backend::answering(|asked| {
        let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        let product = |sku: &str| json!({ "sku": sku, "title": format!("Product {sku}"), "cost": { "price": 79.99 }, "vendorId": 1 + sku.len() % 3, "secret": "s" });
        match path {
            "/products" => {
                let count = query.split('&').find_map(|pair| pair.strip_prefix("limit=")).unwrap().parse::<usize>().unwrap();
                answer(200, &json!({ "items": (0..count).map(|n| product(&"x".repeat(n + 1))).collect::<Vec<_>>() }).to_string())
            }
            "/products/missing" => answer(404, "{\"internal\":\"trace\"}"),
            "/products/broken" => answer(500, "{\"internal\":\"trace at 10.0.0.1\"}"),
            "/products/nameless" => answer(200, &json!({ "sku": "nameless", "vendorId": 9 }).to_string()),
            "/vendors" => {
                let ids = query.strip_prefix("ids=").unwrap();
                let ids = ids.split("%2C").flat_map(|ids| ids.split(',')).filter(|id| *id != "9");
                answer(
                    200,
                    &Value::from(
                        ids.map(|id| json!({ "id": id.parse::<u32>().unwrap(), "name": format!("Vendor {id}") }))
                            .collect::<Vec<_>>(),
                    )
                    .to_string(),
                )
            }
            "/found" => answer(
                200,
                &json!([{ "kind": "Product", "sku": "a", "title": "A" }, { "kind": "Vendor", "id": 4, "name": "V" }]).to_string(),
            ),
            "/rename" => {
                let body: Value = serde_json::from_slice(&asked.body).unwrap();
                answer(200, &json!({ "sku": body["sku"], "title": body["to"]["name"] }).to_string())
            }
            _ if path.ends_with("/reviews") => {
                answer(200, &json!([{ "text": format!("of {path}"), "stars": 5, "sku": "back" }]).to_string())
            }
            _ => answer(200, &product(path.strip_prefix("/products/").unwrap_or("none")).to_string()),
        }
    })
}

fn yaml(shop: &Backend, more: &str) -> String {
    let schema = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(SCHEMA);
    format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT, h2c: true }} ]\nserver: {{ workers: 1 }}\n\
         services: {{ shop: {{ endpoints: [ '127.0.0.1:{port}' ] }} }}
routes:
  - path: /graphql
    graphql:
      schema_file: {schema}
      type_names: {{ Found: kind }}
      fields:
        Query.product: {{ service: shop, path: '/products/{{arg.sku}}' }}
        Query.products: {{ service: shop, path: /products, query: {{ limit: '{{arg.first}}', order: '{{arg.order}}', min: '{{arg.filter.min}}' }}, target: items }}
        Query.found: {{ service: shop, path: /found, query: {{ q: '{{arg.text}}' }} }}
        Mutation.rename: {{ service: shop, method: POST, path: /rename, body: {{ sku: '{{arg.sku}}', to: {{ name: '{{arg.name}}' }} }} }}
        Product.name: {{ from: title }}
        Product.price: {{ from: cost.price }}
        Product.vendor: {{ service: shop, path: /vendors, query: {{ ids: '{{keys}}' }}, batch: {{ key: vendorId, by: id }} }}
        Product.reviews: {{ service: shop, path: '/products/{{parent.sku}}/reviews', query: {{ first: '{{arg.first}}' }} }}
        Review.product: {{ service: shop, path: '/products/{{parent.sku}}' }}
        Vendor.products: {{ service: shop, path: /products, query: {{ limit: '1', vendor: '{{parent.id}}' }}, target: items }}\n{more}",
        port = shop.port(),
        schema = schema.display()
    )
}

fn post(gateway: &Gateway, query: &str, variables: Value) -> Answer {
    let body = json!({ "query": query, "variables": variables }).to_string();
    let headers = [("Content-Type", "application/json"), ("Accept", RESPONSE)];
    request(gateway.port(), "POST", "/graphql", &headers, body.as_bytes())
}

fn targets(shop: &Backend) -> Vec<String> {
    shop.requests().iter().map(|asked| asked.target.clone()).collect()
}

#[test]
fn a_level_is_asked_for_at_once_and_nothing_twice() {
    let shop = shop();
    let gateway = Gateway::start(&yaml(&shop, ""));
    let query = "query Page($n: Int!, $with: Boolean = false) {
        products(first: $n) { ...card vendor { id name } }
        again: products(first: $n) { sku }
        one: product(sku: \"x\") { ...card reviews { text product { title: name } } upc @include(if: $with) }
    } fragment card on Product { __typename sku name price }";
    let answer = post(&gateway, query, json!({ "n": 4 }));
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(RESPONSE)), "{}", answer.text());
    let data = &answer.json()["data"];
    assert_eq!(answer.json().get("errors"), None);
    assert_eq!(
        data["products"][1],
        json!({ "__typename": "Product", "sku": "xx", "name": "Product xx", "price": 79.99, "vendor": { "id": "3", "name": "Vendor 3" } })
    );
    assert_eq!(
        (data["again"].as_array().unwrap().len(), &data["one"]["reviews"][0]["product"]["title"]),
        (4, &"Product back".into())
    );
    assert!(answer.text().starts_with("{\"data\":{\"products\":["), "in the order of the document: {}", answer.text());
    assert!(data["one"].get("upc").is_none() && !answer.text().contains("secret"));
    let mut asked = targets(&shop);
    asked[..2].sort();
    asked[2..4].sort();
    let first = ["/products/x", "/products?limit=4&order=NAME"];
    assert_eq!(asked[..2], first, "the same call twice is one: {asked:?}");
    assert_eq!(asked[2..], ["/products/x/reviews", "/vendors?ids=2%2C3%2C1", "/products/back"].map(str::to_owned), "{asked:?}");
    let line = gateway.wait_log(|line| line["operation"] == "query Page");
    assert_eq!(line["answered_by"], "graphql");
    let parts = line["parts"].as_str().unwrap();
    assert!(
        parts.contains("Query.products=ok;ms=") && parts.contains("Product.vendor=ok") && !parts.contains("rename"),
        "{parts}"
    );
    gateway.wait_metric("portcullis_composed_parts_total{route=\"/graphql\",part=\"Product.vendor\",outcome=\"ok\"}", 1.0);
}

#[test]
fn the_guard_stays_where_views_answer() {
    let shop = shop();
    let views = "    views: { other: { headers: { X-Other: '1' }, policies: { response_headers: { set: { X-View: other } } } }, web: {} }\n";
    let gateway = Gateway::start(&yaml(&shop, views));
    let post = |query: &str, fields: &[(&str, &str)]| {
        let fields = [&[("Content-Type", "application/json"), ("Accept", RESPONSE)][..], fields].concat();
        request(gateway.port(), "POST", "/graphql", &fields, json!({ "query": query }).to_string().as_bytes())
    };
    let aliases: String = (0..40).map(|number| format!("a{number}: name ")).collect();
    for fields in [&[][..], &[("X-Other", "1")]] {
        let answer = post("{ product(sku: 1) { name } }", fields);
        assert_eq!((answer.status, answer.header("x-view").is_some()), (200, !fields.is_empty()), "{}", answer.text());
        assert_eq!(answer.json()["data"]["product"]["name"], "Product 1");
        let before = shop.requests().len();
        let refused = post(&format!("{{ product(sku: 1) {{ name {aliases} }} }}"), fields);
        assert_eq!(refused.status, 400, "{}", refused.text());
        assert!(refused.text().contains("alias"), "{}", refused.text());
        assert_eq!(shop.requests().len(), before);
    }
}

#[test]
fn what_fails_is_null_with_an_error_and_so_is_what_needs_it() {
    let shop = shop();
    let gateway = Gateway::start(&yaml(&shop, ""));
    let told = |query: &str| {
        let answer = post(&gateway, query, json!({}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!answer.text().contains("internal") && !answer.text().contains("10.0.0.1"), "{}", answer.text());
        (answer.json(), answer)
    };
    let (whole, answer) = told(
        "{ good: product(sku: \"a\") { sku }\n  bad: product(sku: \"broken\") { sku } missing: product(sku: \"missing\") { sku } }",
    );
    assert_eq!(whole["data"], json!({ "good": { "sku": "a" }, "bad": null, "missing": null }));
    let errors = json!([{ "message": "It cannot be had.", "locations": [{ "line": 2, "column": 3 }], "path": ["bad"], "extensions": { "code": "status" } }]);
    assert_eq!(whole["errors"], errors);
    assert_eq!(answer.header("cache-control"), None, "a POST says nothing of caching");
    // A name that has to be there is not: the nearest that can be null is.
    let (whole, _) = told("{ product(sku: \"nameless\") { sku name vendor { name } } }");
    assert_eq!(whole["data"], json!({ "product": null }));
    assert_eq!((&whole["errors"][0]["path"], whole["errors"].as_array().unwrap().len()), (&json!(["product", "name"]), 1));
    let (whole, _) = told("{ product(sku: \"nameless\") { sku vendor { name } price } }");
    assert_eq!(whole["data"], json!({ "product": { "sku": "nameless", "vendor": null, "price": null } }), "nobody has that key");
    let (whole, _) = told(
        "{ found(text: \"a\") { __typename ... on Product { sku name } ... on Vendor { id name } ... on Named { both: name } } }",
    );
    assert_eq!(whole["data"]["found"][0], json!({ "__typename": "Product", "sku": "a", "name": "A", "both": "A" }));
    assert_eq!(whole["data"]["found"][1], json!({ "__typename": "Vendor", "id": "4", "name": "V", "both": "V" }));
}

#[test]
fn mutations_follow_each_other_and_change_nothing_over_get() {
    let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let order = std::sync::Arc::new(Mutex::new(Vec::new()));
    let seen = order.clone();
    let shop = Backend::answering(move |asked| {
        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(30));
        let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        seen.lock().unwrap().push(body["to"]["name"].clone());
        running.fetch_sub(1, Ordering::SeqCst);
        answer(200, &json!({ "sku": body["sku"], "title": body["to"]["name"], "most": most.load(Ordering::SeqCst) }).to_string())
    });
    let gateway = Gateway::start(&yaml(&shop, ""));
    let query = "mutation { a: rename(sku: 1, name: \"1\") { name } b: rename(sku: 1, name: \"2\") { name } c: rename(sku: 1, name: \"1\") { name } }";
    let answer = post(&gateway, query, json!({}));
    assert_eq!(
        answer.json()["data"],
        json!({ "a": { "name": "1" }, "b": { "name": "2" }, "c": { "name": "1" } }),
        "{}",
        answer.text()
    );
    assert_eq!(*order.lock().unwrap(), [json!("1"), json!("2"), json!("1")]);
    let target = "/graphql?query=mutation%7Brename(sku:1,name:%22x%22)%7Bname%7D%7D";
    assert_eq!(get(gateway.port(), target).status, 405);
    assert_eq!(order.lock().unwrap().len(), 3);
}

#[test]
fn over_http_it_is_told_by_what_the_client_understands() {
    let shop = shop();
    let gateway = Gateway::start(&yaml(&shop, ""));
    let ask = |accept: &str, query: &str| {
        let body = json!({ "query": query }).to_string();
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend((!accept.is_empty()).then_some(("Accept", accept)));
        let answer = request(gateway.port(), "POST", "/graphql", &headers, body.as_bytes());
        (answer.status, answer.header("content-type").unwrap_or_default().to_owned(), answer.json()["errors"].is_array())
    };
    let json = "application/json".to_owned();
    let response = RESPONSE.to_owned();
    for (accept, query, expected) in [
        ("", "{ __typename }", (200, response.clone(), false)),
        ("*/*", "{ __typename }", (200, response.clone(), false)),
        ("application/json", "{ __typename }", (200, json.clone(), false)),
        ("application/json, application/graphql-response+json;q=0.5", "{ __typename }", (200, json.clone(), false)),
        ("application/graphql-response+json, application/json;q=0.9", "{ __typename }", (200, response.clone(), false)),
        (RESPONSE, "{ nothing }", (400, response.clone(), true)),
        ("application/json", "{ nothing }", (200, json.clone(), true)),
        (RESPONSE, "{", (400, response.clone(), true)),
        ("application/json", "{", (400, json, true)),
        (RESPONSE, "subscription { a }", (400, response.clone(), true)),
        (RESPONSE, "query A { __typename } query B { __typename }", (400, response, true)),
    ] {
        assert_eq!(ask(accept, query), expected, "{accept} {query}");
    }
    let headers = [("Content-Type", "application/json")];
    let many = request(gateway.port(), "POST", "/graphql", &headers, br#"[{"query":"{ __typename }"}]"#);
    assert_eq!((many.status, &many.json()["errors"][0]["extensions"]["code"]), (400, &"batch_too_large".into()));
    assert_eq!(request(gateway.port(), "POST", "/graphql", &[("Content-Type", "text/plain")], b"{}").status, 415);
    assert_eq!(request(gateway.port(), "PUT", "/graphql", &headers, b"{}").status, 405);
    // A query in the URL has one, that a cache may know it by.
    let target = "/graphql?query=query(%24s:ID!)%7Bproduct(sku:%24s)%7Bname%7D%7D&variables=%7B%22s%22:%22a%22%7D";
    let answer = get(gateway.port(), target);
    assert_eq!(
        (answer.json()["data"]["product"]["name"].as_str(), answer.header("cache-control")),
        (Some("Product a"), Some("max-age=60"))
    );
    assert!(answer.all("vary").join(",").contains("accept"));
    let bad = get(gateway.port(), &target.replace("%22a%22", "%5B1%5D"));
    assert_eq!((bad.status, bad.header("cache-control")), (400, Some("no-store")), "{}", bad.text());
    let h2 = curl(&[
        "--http2-prior-knowledge",
        "-H",
        "Content-Type: application/json",
        "-d",
        r#"{"query":"{ product(sku: \"a\") { sku } }"}"#,
        &gateway.url("/graphql"),
    ]);
    assert_eq!(h2.json()["data"]["product"]["sku"], "a");
}

#[test]
fn what_one_request_may_take_is_bounded() {
    let shop = shop();
    let config = yaml(&shop, "    policies: { graphql: { max_depth: 6, introspection: false, cost: { max: 50 } } }\n");
    let config = config.replace("type_names:", "max_calls: 3\n      max_values: 500\n      type_names:");
    let gateway = Gateway::start(&config);
    let many = post(&gateway, "{ products(first: 4) { reviews { text } } }", json!({}));
    let errors = many.json()["errors"].as_array().unwrap().clone();
    assert_eq!(errors.len(), 2, "one call for the list, and two of four for what is in it: {}", many.text());
    assert_eq!(
        (&errors[0]["extensions"]["code"], &errors[0]["path"]),
        (&"too_many_calls".into(), &json!(["products", 2, "reviews"]))
    );
    assert_eq!(shop.requests().len(), 3);
    let large =
        post(&gateway, "query($n: Int!) { products(first: 500) { sku name } }".replace("($n: Int!)", "").as_str(), json!({}));
    assert!(large.status == 503 || large.status == 400, "{}", large.text());
    for (query, code) in [
        ("{ product(sku: 1) { vendor { products { vendor { products { vendor { name } } } } } } }", "query_too_deep"),
        ("{ __schema { queryType { name } } }", "introspection"),
        ("{ products(first: 60) { vendor { name } } }", "query_too_costly"),
    ] {
        let answer = post(&gateway, query, json!({}));
        assert_eq!((answer.status, &answer.json()["errors"][0]["extensions"]["code"]), (400, &code.into()), "{query}");
    }
}

#[test]
fn a_route_keeps_its_rules_and_its_parts() {
    let shop = shop();
    let hash = key_hash("k");
    let more = format!(
        "    policies: {{ authn: {{ api_key: {{}} }}, rate_limit: {{ limit: 100/hour, cost: graphql }}, graphql: {{}}, cache: {{ per: consumer }} }}\n\
         consumers: [ {{ name: acme, api_keys: [ {{ hash: '{hash}' }} ] }} ]\n"
    );
    let gateway = Gateway::start(&yaml(&shop, &more));
    let refused = post(&gateway, "{ product(sku: 1) { sku } }", json!({}));
    assert_eq!((refused.status, refused.header("content-type")), (401, Some(RESPONSE)), "{}", refused.text());
    assert_eq!(shop.requests().len(), 0);
    let ask = || {
        let headers = [("Content-Type", "application/json"), ("X-API-Key", "k")];
        request(gateway.port(), "POST", "/graphql", &headers, br#"{"query":"{ product(sku: 1) { sku vendor { name } } }"}"#)
    };
    assert_eq!(ask().status, 200);
    let again = ask();
    assert!(again.header("x-portcullis-parts").is_some_and(|parts| parts.contains("query.product=hit")), "{}", again.text());
    assert_eq!(shop.requests().len(), 2);
    // What is named twice in a schema that is loaded again stays as it was.
    gateway.rewrite(&yaml(&shop, &more).replace("path: /found", "path: /finds"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(ask().json()["data"]["product"]["sku"], "1");
    assert_eq!(shop.requests().len(), 2, "what was kept is kept");
}

#[test]
fn clients_of_the_registry_understand_it() {
    let shop = shop();
    let gateway = Gateway::start(&yaml(&shop, ""));
    let folder = installed("facade", &["tests/npm.sh", "tests/facade"]);
    let schema = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(SCHEMA);
    let output = Command::new("node")
        .arg(folder.join("client.mjs"))
        .arg(gateway.url("/graphql"))
        .arg(schema)
        .current_dir(&folder)
        .output()
        .expect("node");
    let (text, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{wrong}");
    let said: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |what: &str| said.iter().find(|one| one["what"] == what).map(|one| one["value"].clone()).unwrap_or_default();
    assert_eq!((of("schema"), of("valid")), (json!(true), json!(0)), "{text}");
    assert_eq!(of("page")["product"]["vendor"]["name"], "Vendor 2", "{text}");
    assert_eq!(
        of("page")["products"][1],
        json!({ "sku": "xx", "title": "Product xx", "price": 79.99, "vendor": { "name": "Vendor 3" } })
    );
    assert_eq!(of("renamed")["rename"]["name"], "Headphones");
    assert_eq!(of("errors")[0]["path"], json!(["product"]));
    assert_eq!(of("get")["product"]["name"], "Product SKU-789");
    assert_eq!(of("differing"), json!([]), "{text}");
    let audits = of("audits");
    let failed: Vec<&Value> = audits.as_array().unwrap().iter().filter(|audit| audit["status"] == "error").collect();
    assert!(failed.is_empty(), "{failed:#?}");
    // What its suite advises against: clients that ask for plain JSON alone are told of a document that cannot be read by 400.
    let advised: Vec<&str> = audits.as_array().unwrap().iter().filter_map(|audit| audit["name"].as_str()).collect();
    assert!(advised.iter().all(|name| name.contains("SHOULD") || name.contains("MAY")), "{advised:#?}");
}

#[test]
fn bad_facades_are_refused_where_they_stand() {
    let shop = shop();
    let good = yaml(&shop, "");
    let files = Files::new();
    for (from, to, said) in [
        ("Query.product:", "Query.produkt:", "did you mean `product`?"),
        ("Query.product:", "Qery.product:", "the schema has no object type `Qery`"),
        ("Query.product:", "product:", "write `Type.field`"),
        ("arg.sku}'", "arg.skuu}'", "the field has no argument `skuu`"),
        ("arg.sku}'", "parent.sku}'", "stands for nothing here"),
        ("ids: '{keys}'", "ids: '{keyz}'", "stands for nothing"),
        ("batch: { key: vendorId, by: id }", "timeout: 1s", "stands for nothing here"),
        ("service: shop, path: /found", "service: shp, path: /found", "unknown service `shp`"),
        ("type_names: { Found: kind }", "type_names: { Product: kind }", "no interface or union `Product`"),
        ("Product.name: { from: title }", "Query.found: { from: title }", ""),
        ("Product.name: { from: title }", "Product.name: { from: title, service: shop }", "`service` is about a call"),
        ("Product.name: { from: title }", "Product.name: { from: title, timeout: 1s }", "`timeout` is about a call"),
        ("Product.name: { from: title }", "Product.name: { from: title, cache: { ttl: 1s } }", "`cache` is about a call"),
        (
            "Product.name: { from: title }",
            "Product.name: { from: title, headers: { a: b }, target: x }",
            "`target` is about a call",
        ),
        ("Product.name: { from: title }", "Product.name: { service: shop }", "which needs a `service` and a `path`"),
        ("        Query.found:", "        Vendor.name:", "nobody answers `Query.found`"),
        ("schema_file: ", "schema_file: /nowhere", "cannot be read"),
        ("schema_file: ", "schema: 'type Query { a: Nothing }' # ", "line 1, column 1: `Query`: `a` is of the type `Nothing`"),
        ("    graphql:\n", "    service: shop\n    graphql:\n", "not both"),
        (
            "  - path: /graphql\n",
            "  - path: /graphql\n    policies: { graphql: false }\n",
            "`graphql: false` would take them away",
        ),
    ] {
        assert!(good.contains(from), "{from}");
        files.write("portcullis.yaml", good.replacen(from, to, 1).replace("$PORT", "1"));
        let ran = portcullis(files.dir(), &["check", "portcullis.yaml"]);
        assert!(ran.code == 1 && ran.stderr.contains(said), "{to}: {}{}", ran.stdout, ran.stderr);
    }
    files.write("portcullis.yaml", good.replace("$PORT", "1"));
    let ran = portcullis(files.dir(), &["routes", "--config", "portcullis.yaml"]);
    assert!(ran.stdout.contains("/graphql  ->  graphql of shop  [graphql]"), "{}{}", ran.stdout, ran.stderr);
}

/// A route of GraphQL with a schema of its own.
fn own(shop: &Backend, schema: &str, fields: &str, more: &str) -> String {
    format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nserver: {{ workers: 1 }}\n\
         services: {{ shop: {{ endpoints: [ '127.0.0.1:{port}' ] }}, other: {{ endpoints: [ '127.0.0.1:{port}' ] }} }}
routes:
  - path: /graphql
    graphql:
      schema: {schema}
{more}      fields:
{fields}",
        port = shop.port(),
        schema = json!(schema)
    )
}

/// A variable that stands in very many places is as many copies of it: they are refused before they are made.
#[test]
fn a_short_document_cannot_have_a_long_variable_copied_at_will() {
    let shop = Backend::answering(|_| answer(200, "[1]"));
    let fields = "        Query.many: { service: shop, path: /many }\n";
    let gateway = Gateway::start(&own(&shop, "type Query { many(skus: [ID!]): [Int] }", fields, ""));
    let query = format!("query($v: ID!) {{ many(skus: [{}]) }}", "$v ".repeat(900));
    let refused = post(&gateway, &query, json!({ "v": "x".repeat(900_000) }));
    assert_eq!(refused.status, 503, "{}", refused.text().chars().take(300).collect::<String>());
    assert_eq!(shop.requests().len(), 0);
    // What was taken for it is given back, and a short one may stand there as often.
    for _ in 0..3 {
        let answer = post(&gateway, &query, json!({ "v": "x" }));
        assert_eq!((answer.status, &answer.json()["data"]["many"]), (200, &json!([1])), "{}", answer.text());
    }
}

/// Two objects whose call is one and whose fallbacks are two have each their own.
#[test]
fn calls_are_one_only_if_their_fallbacks_are() {
    let shop = Backend::answering(|asked| match asked.target.as_str() {
        "/items" => answer(200, r#"[{"sku":"a"},{"sku":"b"},{"sku":"a"}]"#),
        "/price" => answer(500, "{}"),
        target => answer(200, &json!(target).to_string()),
    });
    let fields = "        Query.items: { service: shop, path: /items }
        Item.price: { service: shop, path: /price, fallback: { service: other, path: '/prices/{parent.sku}' } }\n";
    let gateway = Gateway::start(&own(&shop, "type Query { items: [Item] } type Item { sku: ID price: String }", fields, ""));
    let whole = post(&gateway, "{ items { price } }", json!({})).json();
    let prices = json!([{ "price": "/prices/a" }, { "price": "/prices/b" }, { "price": "/prices/a" }]);
    assert_eq!((&whole["data"]["items"], whole.get("errors")), (&prices, None), "{whole}");
    let mut asked = targets(&shop);
    asked.sort();
    assert_eq!(asked, ["/items", "/price", "/prices/a", "/prices/b"]);
}

/// Beyond what may be asked nothing is asked, whichever way it would be.
#[test]
fn calls_that_change_something_are_bounded_as_others_are() {
    let shop = Backend::answering(|asked| match asked.target.as_str() {
        "/items" => answer(200, &json!((0..10).map(|n| json!({ "sku": n })).collect::<Vec<_>>()).to_string()),
        _ => answer(200, "7"),
    });
    let fields = "        Query.items: { service: shop, path: /items }
        Item.price: { service: shop, method: POST, path: /price, body: { sku: '{parent.sku}' } }
        Item.size: { service: shop, path: '/size/{parent.sku}' }\n";
    let schema = "type Query { items: [Item] } type Item { sku: ID price: Int size: Int }";
    let gateway = Gateway::start(&own(&shop, schema, fields, "      max_calls: 4\n"));
    for field in ["price", "size"] {
        let before = shop.requests().len();
        let whole = post(&gateway, &format!("{{ items {{ it: {field} }} }}"), json!({})).json();
        let had = whole["data"]["items"].as_array().unwrap().iter().filter(|item| item["it"] == 7).count();
        let errors = whole["errors"].as_array().unwrap();
        assert_eq!((had, errors.len(), shop.requests().len() - before), (3, 7, 4), "{whole}");
        assert!(errors.iter().all(|error| error["extensions"]["code"] == "too_many_calls"), "{whole}");
    }
}

/// What has been changed is told as that, though its answer is too long: who is refused asks again.
#[test]
fn a_change_whose_answer_is_too_long_is_no_refusal() {
    let shop = Backend::answering(|_| answer(200, "[1,2,3,4,5,6,7,8,9,10]"));
    let fields = "        Query.all: { service: shop, path: /all }
        Mutation.change: { service: shop, method: POST, path: /change }\n";
    let schema = "type Query { all: [Int] } type Mutation { change: [Int] }";
    let gateway = Gateway::start(&own(&shop, schema, fields, "      max_values: 6\n"));
    let refused = post(&gateway, "{ all }", json!({}));
    assert_eq!((refused.status, &refused.json()["errors"][0]["extensions"]["code"]), (400, &"too_many_values".into()));
    // The calls were made nevertheless, and are told of.
    let line = gateway.wait_log(|line| line["status"] == 400);
    assert!(line["parts"].as_str().is_some_and(|parts| parts.contains("Query.all=ok")), "{line}");
    gateway.wait_metric("portcullis_composed_parts_total{route=\"/graphql\",part=\"Query.all\",outcome=\"ok\"}", 1.0);
    let changed = post(&gateway, "mutation Change { change }", json!({}));
    assert_eq!((changed.status, &changed.json()["data"]), (200, &Value::Null), "{}", changed.text());
    assert_eq!(changed.json()["errors"][0]["extensions"]["code"], "too_many_values");
    assert!(changed.json().as_object().unwrap().contains_key("data"));
    let line = gateway.wait_log(|line| line["operation"] == "mutation Change");
    assert!(line["parts"].as_str().is_some_and(|parts| parts.contains("Mutation.change=ok")), "{line}");
    assert_eq!(shop.requests().len(), 2);
}

/// What a service says that cannot be read, or is not what the schema says, is the failure of that field. There is memory, and all else is there.
#[test]
fn an_answer_that_cannot_be_read_is_one_fields() {
    let shop = Backend::answering(|asked| match asked.target.as_str() {
        "/cut" => answer(200, r#""\ud83d""#),
        "/beyond" => answer(200, "1e400"),
        "/rename" => answer(200, r#"{"sku":"\ud83d"}"#),
        "/items" => answer(200, r#"[{"id":12345678901234567890123,"amount":1.10,"raw":{"n":1e400}}]"#),
        target => answer(200, &json!(target).to_string()),
    });
    let fields = "        Query.cut: { service: shop, path: /cut }
        Query.beyond: { service: shop, path: /beyond }
        Query.sure: { service: shop, path: /beyond }
        Query.fine: { service: shop, path: /fine }
        Query.items: { service: shop, path: /items }
        Item.of: { service: shop, path: '/of/{parent.id}' }
        Mutation.rename: { service: shop, method: POST, path: /rename }\n";
    let schema = "type Query { cut: String beyond: Float sure: Float! fine: String items: [Item] } scalar Raw
        type Item { id: ID amount: Float raw: Raw of: String } type Mutation { rename: Item }";
    let gateway = Gateway::start(&own(&shop, schema, fields, ""));
    let told = |query: &str| {
        let answer = post(&gateway, query, json!({}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let whole = answer.json();
        let errors = whole.get("errors").and_then(Value::as_array).cloned().unwrap_or_default();
        let errors: Vec<_> = errors.iter().map(|error| json!([error["path"], error["extensions"]["code"]])).collect();
        (whole["data"].clone(), errors)
    };
    assert_eq!(
        told("{ cut beyond fine }"),
        (
            json!({ "cut": null, "beyond": null, "fine": "/fine" }),
            vec![json!([["cut"], "malformed"]), json!([["beyond"], "unfit"])]
        )
    );
    assert_eq!(
        told("{ fine sure }"),
        (Value::Null, vec![json!([["sure"], "unfit"])]),
        "what is never null takes along what it is in"
    );
    assert_eq!(told("mutation { rename { id } }"), (json!({ "rename": null }), vec![json!([["rename"], "malformed"])]));
    let line = gateway.wait_log(|line| line["parts"].as_str().is_some_and(|parts| parts.contains("Query.cut")));
    assert!(line["parts"].as_str().unwrap().contains("Query.cut=malformed"), "{line}");
    // Numbers are as the service wrote them.
    let whole = post(&gateway, "{ items { id amount raw of } }", json!({})).text();
    let item = r#"{"id":"12345678901234567890123","amount":1.10,"raw":{"n":1e400},"of":"/of/12345678901234567890123"}"#;
    assert_eq!(whole, format!("{{\"data\":{{\"items\":[{item}]}}}}"));
}

/// As in `compose`: neither an argument, nor a field of the object, nor keys are left out that cannot be said.
#[test]
fn no_call_is_made_without_what_it_is_about() {
    let shop = Backend::answering(|asked| match asked.target.as_str() {
        "/items" => answer(
            200,
            &json!((0..300).map(|n| json!({ "id": format!("{n:040}"), "of": { "a": 1 } })).collect::<Vec<_>>()).to_string(),
        ),
        _ => answer(200, "[]"),
    });
    let fields = "        Query.owned: { service: shop, path: /owned, query: { owner: '{arg.owner}' } }
        Query.items: { service: shop, path: /items }
        Item.parts: { service: shop, path: /parts, query: { of: '{parent.of}' } }
        Item.prices: { service: shop, path: /prices, query: { ids: '{keys}' }, batch: { key: id, by: id, max: 500 } }\n";
    let schema = "type Query { owned(owner: String): [Int] items: [Item] } type Item { id: ID parts: [Int] prices: [Int] }";
    let gateway = Gateway::start(&own(&shop, schema, fields, "      max_calls: 1000\n"));
    for (query, variables) in [
        ("query($o: String) { owned(owner: $o) }", json!({ "o": "x".repeat(9000) })),
        ("{ items { parts } }", json!({})),
        ("{ items { prices } }", json!({})),
    ] {
        let whole = post(&gateway, query, variables).json();
        assert_eq!(whole["errors"][0]["extensions"]["code"], "no_value", "{query}");
    }
    assert!(targets(&shop).iter().all(|target| target == "/items"), "{:?}", targets(&shop));
    assert_eq!(post(&gateway, "{ owned }", json!({})).json().get("errors"), None);
    assert_eq!(targets(&shop).last().unwrap(), "/owned");
}
