//! Calls that take many messages.

use super::*;

const LINES: &str = "application/x-ndjson";

fn sends(shop: &Shop, target: &str, kind: &str, body: &str) -> Answer {
    request(shop.gateway.port(), "POST", target, &[("Content-Type", kind), ("Accept", LINES)], body.as_bytes())
}

/// A request whose body is not there yet.
fn begun(shop: &Shop, target: &str) -> Client {
    let mut client = Client::connect(shop.gateway.port());
    client.send(format!(
        "POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: {LINES}\r\nAccept: {LINES}\r\nTransfer-Encoding: chunked\r\n\r\n"
    ));
    client
}

fn says(client: &mut Client, text: &str) {
    client.send(format!("{:x}\r\n{text}\r\n", text.len()));
}

/// Reads until this has come.
fn hears(client: &mut Client, seen: &mut Vec<u8>, text: &str) {
    while find(seen, text.as_bytes()).is_none() {
        seen.extend(client.take(1));
    }
}

#[test]
fn lines_and_arrays_become_many_messages() {
    let shop = shop();
    let lines = "{\"sku\":\"a\"}\n\r\n{\"sku\":\"b\"}\r\n{\"sku\":\"c\"}";
    let array = " [ {\"sku\":\"a\"},{\"sku\":\"b\"} , {\"sku\":\"c\"} ]\n";
    for (kind, body) in [(LINES, lines), ("application/jsonl", lines), ("application/json", array)] {
        let answer = sends(&shop, "/v1/collect", kind, body);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{}", answer.text());
        assert_eq!(answer.json(), json!({ "name": "a,b,c", "unitPrice": 3 }), "{kind}");
        let answer = sends(&shop, "/v1/converse", kind, body);
        assert_eq!(answer.text(), "{\"sku\":\"A\"}\n{\"sku\":\"B\"}\n{\"sku\":\"C\"}\n", "{kind}");
    }
    for (kind, body) in [(LINES, ""), (LINES, "\n"), ("application/json", "[]"), ("application/json", "")] {
        assert_eq!(sends(&shop, "/v1/collect", kind, body).json(), json!({}), "{kind} {body}");
        assert_eq!(sends(&shop, "/v1/converse", kind, body).text(), "");
    }
    // What the path says, it says of each.
    let answer = sends(&shop, "/v1/rooms/r%201/converse", LINES, "{\"sku\":\"a\"}\n{\"sku\":\"b\",\"name\":\"mine\"}\n");
    assert_eq!(answer.text(), "{\"sku\":\"A\",\"name\":\"r 1\"}\n{\"sku\":\"B\",\"name\":\"r 1\"}\n");
    let answer = request(shop.gateway.port(), "POST", "/v1/converse", &[("Content-Type", LINES)], lines.as_bytes());
    assert_eq!(answer.text(), r#"[{"sku":"A"},{"sku":"B"},{"sku":"C"}]"#);
    let line = shop.gateway.wait_log(|line| line["path"] == "/v1/collect");
    assert_eq!((&line["grpc_method"], &line["grpc_status"]), (&json!("/shop.v1.Catalog/Collect"), &json!(0)), "{line}");
}

#[test]
fn over_http2_it_is_the_same() {
    let shop = shop();
    let lines: String = (0..1000).map(|number| format!("{{\"sku\":\"s{number}\"}}\n")).collect();
    let files = Files::new();
    let body = files.write("lines", &lines);
    let body = format!("@{}", body.display());
    let url = shop.gateway.url("/v1/converse");
    let kind = format!("Content-Type: {LINES}");
    let accept = format!("Accept: {LINES}");
    for length in ["Transfer-Encoding: chunked", "X-Plain: 1"] {
        for version in ["--http2-prior-knowledge", "--http1.1"] {
            let told = curl(&[version, "-H", &kind, "-H", &accept, "-H", length, "--data-binary", &body, &url]).text();
            // Behind the body, curl prints what came behind it.
            let lines: Vec<&str> = told.lines().filter(|line| line.starts_with('{')).collect();
            assert_eq!((lines.len(), lines.last().copied()), (1000, Some("{\"sku\":\"S999\"}")), "{version} {length}");
        }
    }
}

#[test]
fn each_message_is_sent_when_it_is_there_and_answered_when_it_comes() {
    conversation(&shop());
    // Nor does a cache of what is asked for by a body wait for the end of lines.
    conversation(&shop_with("", "      - { path: '/*', service: shop, policies: { cache: { methods: [POST], ttl: 1m } } }"));
}

fn conversation(shop: &Shop) {
    let mut client = begun(shop, "/v1/converse");
    let mut seen = Vec::new();
    for round in 0..3 {
        says(&mut client, &format!("{{\"sku\":\"a{round}\"}}\n{{\"sku\":\"b"));
        hears(&mut client, &mut seen, &format!("{{\"sku\":\"A{round}\"}}"));
        assert!(find(&seen, format!("\"B{round}\"").as_bytes()).is_none());
        says(&mut client, &format!("{round}\"}}\n"));
        hears(&mut client, &mut seen, &format!("{{\"sku\":\"B{round}\"}}"));
    }
    client.send("0\r\n\r\n");
    hears(&mut client, &mut seen, "\r\n0\r\n\r\n");
    assert!(String::from_utf8_lossy(&seen).starts_with("HTTP/1.1 200"));
    // The connection is as good as before.
    client.send("GET /v1/products/a HTTP/1.1\r\nHost: x\r\n\r\n");
    hears(&mut client, &mut Vec::new(), "\"sku\":\"a\"");
}

#[test]
fn what_is_no_message_is_told_with_its_number() {
    let shop = shop();
    for target in ["/v1/collect", "/v1/rooms/1/converse"] {
        let answer = sends(&shop, target, LINES, "{\"sku\":7}\n");
        answer.assert_problem(400, "transcode", "unfit_message");
        assert_eq!(answer.json()["errors"][0]["pointer"], "/sku");
        assert!(answer.json()["detail"].as_str().unwrap().starts_with("Message 1 of the stream: "), "{}", answer.text());
        sends(&shop, target, LINES, "{\n").assert_problem(400, "transcode", "malformed_json");
        sends(&shop, target, "application/json", "{}").assert_problem(400, "transcode", "malformed_json");
        sends(&shop, target, "text/plain", "{}").assert_problem(415, "transcode", "json_needed");
    }
    let answer = sends(&shop, "/v1/collect", LINES, "{\"sku\":\"a\"}\n{\"sku\":7}\n{\"sku\":\"c\"}\n");
    answer.assert_problem(400, "transcode", "unfit_message");
    assert!(answer.json()["detail"].as_str().unwrap().starts_with("Message 2 of the stream: "), "{}", answer.text());
    sends(&shop, "/v1/collect", "application/json", "[{\"sku\":\"a\"}").assert_problem(400, "transcode", "malformed_json");
    // In the middle of an answer it is its end.
    let mut client = begun(&shop, "/v1/converse");
    let mut seen = Vec::new();
    says(&mut client, "{\"sku\":\"a\"}\n");
    hears(&mut client, &mut seen, "{\"sku\":\"A\"}\n");
    says(&mut client, "{\"sku\":\"b\"}\n{\"sk\":\"c\"}\n{\"sku\":\"d\"}\n");
    hears(&mut client, &mut seen, "\r\n0\r\n");
    let text = String::from_utf8_lossy(&seen).into_owned();
    let error = text.lines().find(|line| line.starts_with("{\"error\":")).unwrap_or_else(|| panic!("{text}"));
    let error: Value = serde_json::from_str(error).unwrap();
    assert_eq!((&error["error"]["status"], &error["error"]["reason"]), (&json!(400), &json!("unfit_message")), "{text}");
    assert!(!text.contains("\"D\""), "{text}");
    let line = shop.gateway.wait_log(|line| line["path"] == "/v1/converse");
    assert_eq!((&line["status"], &line["grpc_status"]), (&json!(200), &json!(3)), "{line}");
    // No endpoint is to blame.
    assert_eq!(shop.json("GET", "/v1/products/a", "")["sku"], "a");
}

#[test]
fn a_message_is_bounded_and_the_stream_is_not() {
    let shop = shop_with(", max_message: 1KiB", "      - { path: '/*', service: shop }");
    let long = format!("{{\"sku\":\"{}\"}}\n", "x".repeat(5000));
    sends(&shop, "/v1/collect", LINES, &long).assert_problem(413, "transcode", "message_too_large");
    // Before it has come.
    let mut client = begun(&shop, "/v1/collect");
    says(&mut client, &long[..4500]);
    hears(&mut client, &mut Vec::new(), "message_too_large");
    let many = "{\"sku\":\"a\"}\n".repeat(2000);
    assert_eq!(sends(&shop, "/v1/converse", LINES, &many).text().lines().count(), 2000);
}

#[test]
fn raw_bodies_go_as_they_come() {
    let shop = shop();
    let answer = sends(&shop, "/v1/store", "image/png", "abc");
    assert_eq!(answer.json(), json!({ "sku": "image/png", "name": "abc" }));
    assert_eq!(sends(&shop, "/v1/store", "text/csv", "").json(), json!({ "sku": "text/csv" }));
}

#[test]
fn a_service_may_end_the_call_first() {
    let shop = shop();
    for target in ["/v1/converse", "/v1/collect"] {
        let mut client = begun(&shop, target);
        says(&mut client, "{\"sku\":\"a\"}\n{\"sku\":\"stop\"}\n");
        let mut seen = Vec::new();
        hears(&mut client, &mut seen, if target == "/v1/collect" { "a,stop" } else { "\r\n0\r\n" });
        assert!(String::from_utf8_lossy(&seen).starts_with("HTTP/1.1 200"));
    }
    let answer = sends(&shop, "/v1/converse", LINES, "{\"sku\":\"fail\"}\n");
    answer.assert_problem(400, "transcode", "call_failed");
    let answer = sends(&shop, "/v1/converse", LINES, "{\"sku\":\"a\"}\n{\"sku\":\"fail\"}\n");
    let last: Value = serde_json::from_str(answer.text().lines().last().unwrap()).unwrap();
    assert_eq!(last["error"]["grpc_code"], "OUT_OF_RANGE", "{}", answer.text());
}

#[test]
fn who_leaves_takes_the_call_along() {
    let shop = shop();
    for target in ["/v1/converse", "/v1/collect"] {
        let mut client = begun(&shop, target);
        says(&mut client, "{\"sku\":\"a\"}\n");
        eventually("it is in flight", || shop.gateway.metric("portcullis_in_flight") == 1.0);
        client.reset();
        eventually("nothing is in flight", || shop.gateway.metric("portcullis_in_flight") == 0.0);
        let line = shop.gateway.wait_log(|line| line["path"] == target);
        // It depends on whether something was answered by then.
        assert!(line["status"] == 499 || target == "/v1/converse" && line["client_closed"] == true, "{line}");
    }
}

#[test]
fn what_cannot_be_repeated_is_not() {
    let retries =
        "      - { path: '/*', service: shop, timeout: 1s, retries: { attempts: 3, on: [unavailable], methods: [POST, GET] } }";
    let shop = shop_with("", retries);
    let answer = sends(&shop, "/v1/collect", LINES, "{\"sku\":\"flaky\"}\n");
    answer.assert_problem(503, "transcode", "call_failed");
    let line = shop.gateway.wait_log(|line| line["path"] == "/v1/collect");
    // More than one would be told.
    assert_eq!(line["attempts"], Value::Null, "{line}");
    // The route's time is that of the whole.
    let mut client = begun(&shop, "/v1/collect");
    says(&mut client, "{\"sku\":\"a\"}\n");
    let mut seen = Vec::new();
    hears(&mut client, &mut seen, "\r\n\r\n");
    assert!(String::from_utf8_lossy(&seen).starts_with("HTTP/1.1 504"), "{}", String::from_utf8_lossy(&seen));
}
