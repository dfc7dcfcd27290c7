//! Services that are functions of a cloud, or want to be shown who the gateway is: before a server that checks signatures with AWS's own
//! library, and before an emulator that runs functions.

mod bad;
mod cloud;
mod crossings;
mod emulated;
mod incoming;
mod keys;
mod shown;
mod streams;

use serde_json::{Value, json};

use crate::harness::*;
pub use cloud::Cloud;

/// Keys that the cloud knows.
const ENV: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "AKIDTEST"), ("AWS_SECRET_ACCESS_KEY", "test/secret+key"), ("AWS_REGION", "eu-central-1")];

/// One service for each function: its name, and what else is said of it.
fn services(cloud: &Cloud, functions: &[(&str, &str)]) -> String {
    let mut services = String::new();
    for (name, more) in functions {
        let port = cloud.port();
        services
            .push_str(&format!("  {name}: {{ lambda: {{ function: {name}, endpoint: 'http://127.0.0.1:{port}'{more} }} }}\n"));
    }
    services
}

/// A gateway before the cloud: `/NAME/*` leads to each function.
fn lab_with(cloud: &Cloud, functions: &[(&str, &str)], routes: &str, env: &[(&str, &str)]) -> Gateway {
    let mut all = String::new();
    for (name, _) in functions {
        all.push_str(&format!("  - {{ path: '/{name}/*', service: {name} }}\n"));
    }
    let services = services(cloud, functions);
    let yaml = format!(
        "listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]\nserver: {{ workers: 1 }}\nservices:\n{services}routes:\n{all}{routes}"
    );
    Gateway::start_with(&yaml, env)
}

fn lab(cloud: &Cloud, functions: &[(&str, &str)]) -> Gateway {
    lab_with(cloud, functions, "", &ENV)
}

#[test]
fn a_request_becomes_an_event_and_what_is_returned_an_answer() {
    let cloud = Cloud::start();
    let gateway = lab(&cloud, &[("echo", ""), ("binary", ""), ("cookies", ""), ("plain", ""), ("empty", "")]);
    let fields = [
        ("Content-Type", "application/json"),
        ("Cookie", "a=1; b=2"),
        ("X-Many", "1"),
        ("X-Many", "2"),
        ("Authorization", "Bearer mine"),
    ];
    let answer = request(gateway.port(), "POST", "/echo/a%20b?q=1&q=2", &fields, b"{\"a\":\"\xc3\xa9\"}");
    assert_eq!(
        (answer.status, answer.header("content-type"), answer.header("x-function")),
        (200, Some("application/json"), Some("echo"))
    );
    let event = answer.json();
    assert_eq!(
        (&event["version"], &event["rawPath"], &event["rawQueryString"]),
        (&json!("2.0"), &json!("/echo/a%20b"), &json!("q=1&q=2"))
    );
    assert_eq!((&event["cookies"], &event["headers"]["x-many"]), (&json!(["a=1", "b=2"]), &json!("1,2")));
    assert_eq!(event["requestContext"]["http"]["sourceIp"], "127.0.0.1");
    assert_eq!(
        (&event["headers"]["x-forwarded-for"], &event["headers"]["authorization"]),
        (&json!("127.0.0.1"), &json!("Bearer mine"))
    );
    assert_eq!((&event["body"], &event["isBase64Encoded"]), (&json!("{\"a\":\"\u{e9}\"}"), &json!(false)));
    assert_eq!(event["requestContext"]["requestId"].as_str(), answer.header("x-request-id"));
    // Nothing of the client's goes along beside the event.
    let asked = cloud.asked("/2015-03-31/functions/echo/invocations").pop().unwrap();
    assert_eq!(
        (&*asked.method, asked.header("x-amz-invocation-type"), asked.header("x-many")),
        ("POST", Some("RequestResponse"), None)
    );
    assert_eq!((asked.header("cookie"), asked.all("authorization").len(), asked.header("x-forwarded-for")), (None, 1, None));
    let line = gateway.wait_log(|line| line["path"] == "/echo/a%20b");
    assert_eq!(
        (&line["status"], &line["service"], &line["answered_by"]),
        (&json!(200), &json!("echo"), &json!("upstream")),
        "{line}"
    );

    let event = request(gateway.port(), "PUT", "/echo/", &[("Content-Type", "image/png")], &[0, 255]).json();
    assert_eq!((&event["body"], &event["isBase64Encoded"]), (&json!("AP8="), &json!(true)));
    let binary = get(gateway.port(), "/binary/");
    assert_eq!((binary.status, binary.body.len(), binary.body[255]), (200, 256, 255));
    let cookies = get(gateway.port(), "/cookies/");
    assert_eq!(
        (cookies.status, cookies.all("set-cookie"), cookies.all("x-many")),
        (201, vec!["a=1; Path=/", "b=2"], vec!["1", "2"])
    );
    let plain = get(gateway.port(), "/plain/x");
    assert_eq!(
        (plain.status, plain.header("content-type"), plain.json()),
        (200, Some("application/json"), json!({ "hello": "/plain/x" }))
    );
    let empty = get(gateway.port(), "/empty/");
    assert_eq!((empty.status, empty.body.len(), empty.header("content-length")), (204, 0, None));
    // The function is asked by HEAD, and what it returns is not sent.
    let head = request(gateway.port(), "HEAD", "/echo/h", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(cloud.asked("/2015-03-31/functions/echo/").pop().unwrap().body.contains("\"method\":\"HEAD\""));
    gateway.wait_metric("portcullis_function_invocations_total{service=\"echo\",result=\"ok\"}", 3.0);
    assert!(!gateway.log_text().contains("test/secret") && !gateway.admin_get("/config").1.contains("test/secret"));
}

#[test]
fn what_is_no_answer_is_told_apart() {
    let cloud = Cloud::start();
    let functions = ["fails", "bad", "big", "missing", "throttled", "nonsense", "cut"].map(|name| (name, ", event: v1")).to_vec();
    let gateway = lab(&cloud, &functions);
    for (name, status, policy, reason, decided) in [
        ("fails", 502, "lambda", "function_error", "Unhandled"),
        ("bad", 502, "lambda", "bad_function_answer", "headers that are none"),
        ("nonsense", 502, "lambda", "bad_function_answer", "no JSON"),
        ("big", 502, "lambda", "function_answer_too_large", ""),
        ("missing", 502, "lambda", "invocation_refused", "404 ResourceNotFoundException"),
        ("throttled", 503, "lambda", "function_throttled", "429 TooManyRequestsException"),
        ("cut", 502, "upstream", "connection_lost", ""),
    ] {
        let answer = get(gateway.port(), &format!("/{name}/"));
        answer.assert_problem(status, policy, reason);
        assert!(!answer.text().contains("secret detail"), "{}", answer.text());
        assert_eq!(answer.header("retry-after").is_some(), name == "throttled");
        let line = gateway.wait_log(|line| line["path"] == format!("/{name}/"));
        assert_eq!(line["decided_by"].as_str().unwrap_or_default(), decided, "{line}");
    }
    gateway.wait_metric("portcullis_function_invocations_total{service=\"fails\",result=\"failed\"}", 1.0);
    gateway.wait_metric("portcullis_function_invocations_total{service=\"bad\",result=\"unusable\"}", 1.0);
    gateway.wait_metric("portcullis_function_invocations_total{service=\"throttled\",result=\"throttled\"}", 1.0);
    // A body that makes too long an event.
    let long = vec![b'"'; 4 << 20];
    let answer = request(gateway.port(), "POST", "/bad/", &[("Content-Type", "text/plain")], &long);
    answer.assert_problem(413, "lambda", "event_too_large");
    let answer = request(gateway.port(), "POST", "/bad/", &[("Content-Type", "text/plain")], &vec![b'a'; 7 << 20]);
    assert_eq!(answer.status, 413);
}

/// A signature says when it was made, and AWS takes it for some minutes: one that has waited is made anew.
#[test]
fn each_try_is_signed_when_it_is_made() {
    let cloud = Cloud::start();
    let port = cloud.port();
    let yaml = format!(
        "listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
services:
  later:
    lambda: {{ function: later, endpoint: 'http://127.0.0.1:{port}' }}
    retries: {{ on: [503], max_retry_after: 5s }}
  again:
    endpoints: ['127.0.0.1:{port}']
    upstream_auth: {{ aws_sigv4: {{ service: execute-api }} }}
    retries: {{ on: [503], max_retry_after: 5s }}
routes: [ {{ path: '/later/*', service: later }}, {{ path: '/again/*', service: again }} ]"
    );
    let gateway = Gateway::start_with(&yaml, &ENV);
    for (path, asked) in [("/later/", "/2015-03-31/functions/later"), ("/again/x", "/again/x")] {
        let answer = get(gateway.port(), path);
        assert_eq!(answer.status, 200, "the cloud checks each signature: {}", answer.text());
        let tries = cloud.asked(asked);
        let dates: Vec<_> = tries.iter().map(|seen| seen.all("x-amz-date")).collect();
        let signatures: Vec<_> = tries.iter().map(|seen| seen.all("authorization")).collect();
        assert!(dates.iter().chain(&signatures).all(|fields| fields.len() == 1), "{tries:?}");
        assert!(dates.len() == 2 && dates[0] < dates[1] && signatures[0] != signatures[1], "{dates:?}");
    }
}

#[test]
fn an_event_that_is_left_with_the_service_is_202() {
    let cloud = Cloud::start();
    let gateway = lab(&cloud, &[("echo", ", invoke: async, qualifier: live, event: alb, multi_value: true")]);
    let answer = request(gateway.port(), "POST", "/echo/", &[("Content-Type", "text/plain")], b"later");
    assert_eq!((answer.status, answer.body.len()), (202, 0));
    let asked = cloud.asked("/2015-03-31/functions/echo/invocations?Qualifier=live").pop().unwrap();
    assert_eq!((asked.header("x-amz-invocation-type"), asked.header("x-amz-log-type")), (Some("Event"), None));
    let event: Value = serde_json::from_str(&asked.body).unwrap();
    assert_eq!((&event["body"], &event["multiValueHeaders"]["content-type"]), (&json!("later"), &json!(["text/plain"])));
    // A sixth of what is taken else.
    let long = request(gateway.port(), "POST", "/echo/", &[("Content-Type", "text/plain")], &vec![b'a'; 2 << 20]);
    assert_eq!(long.status, 413);
}

#[test]
fn cold_starts_are_counted_as_the_log_tells_them() {
    let cloud = Cloud::start();
    let gateway = lab(&cloud, &[("cold", ""), ("echo", ", report: false")]);
    assert_eq!(get(gateway.port(), "/cold/").text(), "cold");
    assert_eq!(get(gateway.port(), "/echo/").status, 200);
    for (name, value) in [("cold_starts", 1.0), ("start_milliseconds", 119.0), ("billed_milliseconds", 4.0)] {
        gateway.wait_metric(&format!("portcullis_function_{name}_total{{service=\"cold\"}}"), value);
    }
    assert_eq!(cloud.asked("/2015-03-31/functions/cold/")[0].header("x-amz-log-type"), Some("Tail"));
    assert_eq!(cloud.asked("/2015-03-31/functions/echo/")[0].header("x-amz-log-type"), None);
}
