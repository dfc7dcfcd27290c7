use http::Version;
use serde_json::{Value, json};

use super::answer::{Bad, read};
use super::config::EventFormat::{self, Alb, V1, V2};
use super::event::Asked;
use super::*;
use crate::exchange::Params;

fn event(format: EventFormat, multi_value: bool, fields: &[(&str, &str)], query: Option<&str>, body: &[u8]) -> Value {
    let fields: Vec<(String, String)> = fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let params: Params = [("id".into(), "a%20b+c".into())].into_iter().collect();
    let asked = Asked {
        method: "POST",
        path: "/things/a%20b+c",
        query,
        host: "api.example.com",
        fields: &fields,
        body,
        version: Version::HTTP_11,
        client: [192, 0, 2, 7].into(),
        request_id: "r1",
        route: "things",
        params: &params,
        at: 1_795_899_600,
    };
    serde_json::from_slice(&asked.event(format, multi_value)).unwrap()
}

#[test]
fn format_2_joins_what_is_there_more_than_once() {
    let fields = [("X-A", "1"), ("x-a", "2"), ("Cookie", "a=1; b=2"), ("Content-Type", "application/json"), ("User-Agent", "u")];
    let event = event(V2, false, &fields, Some("q=a%20b&q=c&e"), b"{\"a\":\"\\u0001\"}");
    assert_eq!(event["version"], "2.0");
    assert_eq!((&event["rawPath"], &event["rawQueryString"]), (&json!("/things/a%20b+c"), &json!("q=a%20b&q=c&e")));
    assert_eq!(event["headers"]["x-a"], "1,2");
    assert_eq!((&event["headers"]["host"], &event["headers"]["cookie"]), (&json!("api.example.com"), &Value::Null));
    assert_eq!(event["cookies"], json!(["a=1", "b=2"]));
    assert_eq!(event["queryStringParameters"], json!({ "q": "a b,c", "e": "" }));
    assert_eq!(event["pathParameters"], json!({ "id": "a b+c" }));
    let http =
        json!({ "method": "POST", "path": "/things/a%20b+c", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.7", "userAgent": "u" });
    assert_eq!(event["requestContext"]["http"], http);
    assert_eq!(event["requestContext"]["time"], "28/Nov/2026:21:00:00 +0000");
    assert_eq!((&event["body"], &event["isBase64Encoded"]), (&json!("{\"a\":\"\\u0001\"}"), &json!(false)));
}

#[test]
fn bodies_are_text_only_where_they_say_so() {
    for (kind, coding, body, text) in [
        (Some("text/html; charset=utf-8"), None, &b"<p>"[..], true),
        (Some("application/problem+json"), None, b"{}", true),
        (Some("application/json"), Some("gzip"), b"{}", false),
        (Some("application/json"), None, b"\xff", false),
        (Some("image/png"), None, b"a", false),
        (None, None, b"a", false),
    ] {
        let fields: Vec<(&str, &str)> =
            kind.map(|kind| ("content-type", kind)).into_iter().chain(coding.map(|c| ("Content-Encoding", c))).collect();
        let event = event(V2, false, &fields, None, body);
        let wanted = if text { String::from_utf8(body.to_vec()).unwrap() } else { STANDARD.encode(body) };
        assert_eq!((&event["body"], &event["isBase64Encoded"]), (&json!(wanted), &json!(!text)), "{kind:?} {coding:?}");
        assert!(event.get("queryStringParameters").is_none() && event.get("cookies").is_none());
    }
    for (format, wanted) in [(V2, None), (V1, Some(Value::Null)), (Alb, Some(json!("")))] {
        let event = event(format, false, &[], None, b"");
        assert_eq!((event.get("body").cloned(), &event["isBase64Encoded"]), (wanted, &json!(false)), "{format:?}");
    }
}

#[test]
fn how_long_an_event_becomes_is_known_before_it_is_written() {
    let params = Params::new();
    for (kind, body) in [
        ("text/plain", "plain".repeat(99)),
        ("text/plain", "\"\\\n\r\t\u{1}\u{7f}\u{e9}".repeat(99)),
        ("image/png", "a".repeat(100)),
    ] {
        let fields = [("content-type".to_owned(), kind.to_owned())];
        let asked = |body| Asked {
            method: "POST",
            path: "/",
            query: None,
            host: "h",
            fields: &fields,
            body,
            version: Version::HTTP_2,
            client: [192, 0, 2, 7].into(),
            request_id: "r",
            route: "x",
            params: &params,
            at: 0,
        };
        let (with, short) = (asked(body.as_bytes()), asked(b"aaa"));
        let grown = with.event(V1, false).len() - short.event(V1, false).len();
        assert_eq!(grown, with.body_length() - short.body_length(), "{kind}");
    }
}

#[test]
fn the_older_formats_tell_one_value_or_all() {
    let fields = [("X-A", "1"), ("X-A", "2")];
    let old = event(V1, false, &fields, Some("q=a%20b&q=c"), b"");
    assert_eq!((&old["headers"]["X-A"], &old["multiValueHeaders"]["X-A"]), (&json!("2"), &json!(["1", "2"])));
    assert_eq!(
        (&old["queryStringParameters"]["q"], &old["multiValueQueryStringParameters"]["q"]),
        (&json!("c"), &json!(["a b", "c"]))
    );
    assert_eq!((&old["httpMethod"], &old["requestContext"]["identity"]["sourceIp"]), (&json!("POST"), &json!("192.0.2.7")));
    assert_eq!(event(V1, false, &fields, None, b"")["queryStringParameters"], Value::Null);
    let balancer = event(Alb, false, &fields, Some("q=a%20b&q=c"), b"");
    assert_eq!((&balancer["headers"]["x-a"], &balancer["queryStringParameters"]["q"]), (&json!("2"), &json!("c")));
    assert!(balancer.get("multiValueHeaders").is_none() && balancer["requestContext"]["elb"].is_object());
    let all = event(Alb, true, &fields, Some("q=a%20b&q=c"), b"");
    assert_eq!(all["multiValueHeaders"]["x-a"], json!(["1", "2"]));
    // As they are written.
    assert_eq!(all["multiValueQueryStringParameters"]["q"], json!(["a%20b", "c"]));
    assert!(all.get("headers").is_none());
}

#[test]
fn answers_are_what_api_gateway_makes_of_them() {
    let told = |format, payload: &str| {
        let told = read(format, payload.as_bytes()).unwrap();
        let kind = told.fields.get("content-type").map(|kind| kind.to_str().unwrap().to_owned()).unwrap_or_default();
        (told.status.as_u16(), kind, String::from_utf8(told.body).unwrap())
    };
    let json_of = |status, body: &str| (status, "application/json".to_owned(), body.to_owned());
    assert_eq!(told(V2, r#"{"a":1}"#), json_of(200, r#"{"a":1}"#));
    assert_eq!(told(V2, r#""Hello""#), json_of(200, "Hello"));
    assert_eq!(told(V2, "[1]"), json_of(200, "[1]"));
    assert_eq!(told(V2, r#"{"statusCode":201,"body":"x"}"#), (201, "text/plain;charset=utf-8".into(), "x".into()));
    assert_eq!(told(V1, r#"{"statusCode":"404","body":"x"}"#), json_of(404, "x"));
    assert_eq!(told(Alb, r#"{"statusCode":204,"headers":null,"body":null}"#), (204, String::new(), String::new()));
    assert_eq!(told(V2, r#"{"statusCode":200,"isBase64Encoded":true,"body":"aMOp"}"#).2, "h\u{e9}");
    let payload = r#"{"statusCode":200,"headers":{"X-N":1,"x-t":true,"X-Null":null,"Content-Length":"7","Connection":"close","X-Both":"1"},
        "multiValueHeaders":{"Set-Cookie":["a=1","b=2"],"x-both":["2","3"]},"cookies":["c=3"]}"#;
    let fields = read(V2, payload.as_bytes()).unwrap().fields;
    let all = |name: &str| fields.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!((all("x-n"), all("x-t"), all("x-both")), (vec!["1"], vec!["true"], vec!["2", "3"]));
    assert_eq!(all("set-cookie"), ["a=1", "b=2", "c=3"]);
    assert!(["x-null", "content-length", "connection"].into_iter().all(|name| all(name).is_empty()));
    let many = (0..24_576).map(|n| format!("\"h{n}\":1")).collect::<Vec<_>>().join(",");
    let many = format!("{{\"statusCode\":200,\"headers\":{{{many}}}}}");
    for (format, payload, bad) in [
        (V2, many.as_str(), Bad::Fields),
        (V2, "", Bad::Json),
        (V2, "{", Bad::Json),
        (V1, "{}", Bad::NoStatus),
        (Alb, "\"x\"", Bad::NoStatus),
        (V2, r#"{"statusCode":"abc"}"#, Bad::Status),
        (V2, r#"{"statusCode":null}"#, Bad::Status),
        (V2, r#"{"statusCode":101}"#, Bad::Status),
        (V2, r#"{"statusCode":600}"#, Bad::Status),
        (V2, r#"{"statusCode":200.5}"#, Bad::Status),
        (V2, r#"{"statusCode":200,"headers":[]}"#, Bad::Fields),
        (V2, r#"{"statusCode":200,"headers":{"a":["b"]}}"#, Bad::Fields),
        (V2, r#"{"statusCode":200,"headers":{"a b":"c"}}"#, Bad::Fields),
        (V2, r#"{"statusCode":200,"headers":{"a":"b\r\nc: d"}}"#, Bad::Fields),
        (V2, r#"{"statusCode":200,"multiValueHeaders":{"a":"b"}}"#, Bad::Fields),
        (V2, r#"{"statusCode":200,"cookies":"a"}"#, Bad::Fields),
        (V2, r#"{"statusCode":200,"body":{}}"#, Bad::Body),
        (V2, r#"{"statusCode":200,"body":"x","isBase64Encoded":"true"}"#, Bad::Body),
        (V2, r#"{"statusCode":200,"body":"!","isBase64Encoded":true}"#, Bad::Base64),
    ] {
        assert_eq!(read(format, payload.as_bytes()).err(), Some(bad), "{payload}");
    }
}

#[test]
fn the_end_of_a_log_tells_a_cold_start() {
    let report = |line: &str| Report::read(STANDARD.encode(format!("START RequestId: a\nEND RequestId: a\n{line}\n")).as_bytes());
    let warm = "REPORT RequestId: a\tDuration: 3.21 ms\tBilled Duration: 4 ms\tMemory Size: 128 MB\tMax Memory Used: 36 MB\t";
    assert_eq!(report(warm), Some(Report { billed: 4, start: None }));
    assert_eq!(report(&format!("{warm}Init Duration: 118.63 ms\t")), Some(Report { billed: 4, start: Some(118.63) }));
    for bad in ["", "REPORT", "REPORT RequestId: a", "REPORT x\tBilled Duration: much ms", "REPORT x\tBilled Duration: 1e99 ms"] {
        assert_eq!(report(bad), None, "{bad}");
    }
    assert_eq!(Report::read(b"!"), None);
}
