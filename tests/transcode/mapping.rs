//! proto3's JSON mapping, both ways.

use super::*;

#[test]
fn every_kind_comes_back_as_the_mapping_says() {
    let shop = shop();
    let echo = |body: &str| shop.json("POST", "/v1/echo", body);
    for (body, wanted) in [
        (
            r#"{"an_int64":"9223372036854775807","aUint64":18446744073709551615}"#,
            r#"{"anInt64":"9223372036854775807","aUint64":"18446744073709551615"}"#,
        ),
        (
            r#"{"anInt64":-9223372036854775808,"aSint64":"-1","aFixed64":"1e3"}"#,
            r#"{"anInt64":"-9223372036854775808","aSint64":"-1","aFixed64":"1000"}"#,
        ),
        (
            r#"{"an_int32":1e3,"aUint32":100.0,"aSint32":"-2147483648"}"#,
            r#"{"anInt32":1000,"aUint32":100,"aSint32":-2147483648}"#,
        ),
        (r#"{"aDouble":"NaN","aFloat":"-Infinity"}"#, r#"{"aDouble":"NaN","aFloat":"-Infinity"}"#),
        (r#"{"aDouble":0.1,"aFloat":0.1}"#, r#"{"aDouble":0.1,"aFloat":0.1}"#),
        (r#"{"aDouble":79.99,"aFloat":3}"#, r#"{"aDouble":79.99,"aFloat":3}"#),
        (r#"{"data":"-_8"}"#, r#"{"data":"+/8="}"#),
        (r#"{"data":"+/8="}"#, r#"{"data":"+/8="}"#),
        (r#"{"colour":"RED","colours":[0,"GREEN",77]}"#, r#"{"colour":"RED","colours":["COLOUR_UNSPECIFIED","GREEN",77]}"#),
        (
            r#"{"text":"\u00e9\ud83e\udd80\u0000\"\\\n","inside":{}}"#,
            "{\"text\":\"\u{e9}\u{1f980}\\u0000\\\"\\\\\\n\",\"inside\":{}}",
        ),
        (r#"{"text":null,"inside":null,"numbers":null,"byName":null,"time":null,"maybe":null}"#, "{}"),
        (r#"{"text":"","an_int32":0,"a_bool":false,"numbers":[],"colour":0}"#, "{}"),
        (r#"{"maybe":0,"chosen_text":""}"#, r#"{"maybe":0,"chosenText":""}"#),
        (r#"{"chosenNothing":null}"#, r#"{"chosenNothing":null}"#),
        (
            r#"{"byName":{"b":"2","a":1},"byNumber":{"10":{"name":"x"},"-1":{}},"byTruth":{"true":"t","false":"f"}}"#,
            r#"{"byName":{"a":"1","b":"2"},"byNumber":{"-1":{},"10":{"name":"x"}},"byTruth":{"false":"f","true":"t"}}"#,
        ),
        (
            r#"{"time":"1969-12-31T23:59:59.999999999-00:30","span":"-0.5s","mask":""}"#,
            r#"{"time":"1970-01-01T00:29:59.999999999Z","span":"-0.500s","mask":""}"#,
        ),
        (
            r#"{"times":["0001-01-01T00:00:00Z","9999-12-31T23:59:59.123Z"]}"#,
            r#"{"times":["0001-01-01T00:00:00Z","9999-12-31T23:59:59.123Z"]}"#,
        ),
        (
            r#"{"structure":{"b":[1,null,{"c":true}],"a":"x"},"value":null,"list":[1.5,[]]}"#,
            r#"{"structure":{"a":"x","b":[1,null,{"c":true}]},"value":null,"list":[1.5,[]]}"#,
        ),
        (r#"{"value":{"a":1e10},"values":[null,1,"x",[],{}]}"#, r#"{"value":{"a":10000000000},"values":[null,1,"x",[],{}]}"#),
        (
            r#"{"wrappedDouble":"Infinity","wrappedInt64":1,"wrappedBool":false,"wrappedBytes":"AA"}"#,
            r#"{"wrappedDouble":"Infinity","wrappedInt64":"1","wrappedBool":false,"wrappedBytes":"AA=="}"#,
        ),
        (
            r#"{"any":{"name":"n","@type":"type.googleapis.com/shop.v1.Inside","number":"3"}}"#,
            r#"{"any":{"@type":"type.googleapis.com/shop.v1.Inside","name":"n","number":"3"}}"#,
        ),
        (
            r#"{"any":{"@type":"type.googleapis.com/google.protobuf.Duration","value":"1s"}}"#,
            r#"{"any":{"@type":"type.googleapis.com/google.protobuf.Duration","value":"1s"}}"#,
        ),
        (r#"{"any":{}}"#, r#"{"any":{}}"#),
        (r#"{"other":"x"}"#, r#"{"other":"x"}"#),
        (r#"{"odd_Name_2x":"x"}"#, r#"{"other":"x"}"#),
        ("{}", "{}"),
    ] {
        let answer = shop.send("POST", "/v1/echo", body);
        assert_eq!((answer.status, answer.text().as_str()), (200, wanted), "{body}");
    }
    assert_eq!(
        echo(r#"{"by_number":{"1":{"deeper":{"many":[{"name":"x"}]}}}}"#),
        json!({ "byNumber": { "1": { "deeper": { "many": [{ "name": "x" }] } } } })
    );
}

#[test]
fn what_is_not_the_mapping_is_refused_with_its_place() {
    let shop = shop();
    for (body, pointer) in [
        (r#"{"nothing":1}"#, "/nothing"),
        (r#"{"inside":{"deeper":{"nothing":1}}}"#, "/inside/deeper/nothing"),
        (r#"{"insides":[{},{"number":"x"}]}"#, "/insides/1/number"),
        (r#"{"an_int32":1,"anInt32":2}"#, "/anInt32"),
        (r#"{"an_int32":null,"anInt32":2}"#, "/anInt32"),
        (r#"{"an_int32":2147483648}"#, "/an_int32"),
        (r#"{"an_int32":1.5}"#, "/an_int32"),
        (r#"{"an_int32":true}"#, "/an_int32"),
        (r#"{"an_int32":" 1"}"#, "/an_int32"),
        (r#"{"an_int64":9223372036854775808}"#, "/an_int64"),
        (r#"{"an_int64":9.3e18}"#, "/an_int64"),
        (r#"{"a_uint64":18446744073709551616}"#, "/a_uint64"),
        (r#"{"a_float":3.5e38}"#, "/a_float"),
        (r#"{"a_double":"inf"}"#, "/a_double"),
        (r#"{"a_bool":"true"}"#, "/a_bool"),
        (r#"{"a_bool":1}"#, "/a_bool"),
        (r#"{"text":1}"#, "/text"),
        (r#"{"data":"a*"}"#, "/data"),
        (r#"{"colour":"BLUE"}"#, "/colour"),
        (r#"{"colour":1.5}"#, "/colour"),
        (r#"{"numbers":[1,null]}"#, "/numbers/1"),
        (r#"{"numbers":1}"#, "/numbers"),
        (r#"{"inside":[]}"#, "/inside"),
        (r#"{"by_name":{"a":null}}"#, "/by_name/a"),
        (r#"{"by_number":{"x":{}}}"#, "/by_number/x"),
        (r#"{"by_number":{"1":{},"01":{}}}"#, "/by_number/01"),
        (r#"{"by_truth":{"yes":""}}"#, "/by_truth/yes"),
        (r#"{"chosen_text":"a","chosen_number":1}"#, "/chosen_number"),
        (r#"{"time":"2026-01-31"}"#, "/time"),
        (r#"{"time":0}"#, "/time"),
        (r#"{"span":"1"}"#, "/span"),
        (r#"{"mask":"a_b"}"#, "/mask"),
        (r#"{"structure":[]}"#, "/structure"),
        (r#"{"wrapped_int32":{"value":1}}"#, "/wrapped_int32"),
        (r#"{"any":{"name":"x"}}"#, "/any/@type"),
        (r#"{"any":{"@type":"type.googleapis.com/no.Such"}}"#, "/any/@type"),
        (r#"{"any":{"@type":"shop.v1.Inside"}}"#, "/any/@type"),
        (r#"{"any":{"@type":"type.googleapis.com/google.protobuf.Duration","value":"1"}}"#, "/any/value"),
        (r#"{"any":{"@type":"type.googleapis.com/shop.v1.Inside","no~such/":1}}"#, "/any/no~0such~1"),
        (r#"[]"#, ""),
        (r#"null"#, ""),
    ] {
        let answer = shop.send("POST", "/v1/echo", body);
        answer.assert_problem(400, "transcode", "unfit_message");
        let error = answer.json()["errors"][0].clone();
        assert_eq!((&error["in"], &error["pointer"]), (&json!("body"), &json!(pointer)), "{body}: {error}");
        assert!(error["detail"].as_str().unwrap().starts_with("must "), "{error}");
    }
    let deep = format!("{}{}{}", r#"{"inside":"#, r#"{"deeper":"#.repeat(200), "}".repeat(201));
    let wide = format!(r#"{{"value":{}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
    for body in [
        "{",
        "",
        " ",
        r#"{"text":"a","text":"b"}"#,
        r#"{"inside":{"name":"a","n\u0061me":"b"}}"#,
        "{\"text\":\"\u{0}\"}",
        "{} {}",
        "{\"a_double\":1e999}",
        &deep,
        &wide,
    ] {
        let answer = shop.send("POST", "/v1/echo", body);
        match body {
            "" => assert_eq!(answer.status, 200),
            _ => answer.assert_problem(400, "transcode", "malformed_json"),
        }
    }
    let answer =
        request(shop.gateway.port(), "POST", "/v1/echo", &[("Content-Type", "application/x-www-form-urlencoded")], b"text=a");
    answer.assert_problem(415, "transcode", "json_needed");
    let answer =
        request(shop.gateway.port(), "POST", "/v1/echo", &[("Content-Type", "application/json")], b"{\"text\":\"\xff\"}");
    answer.assert_problem(400, "transcode", "malformed_json");
}

#[test]
fn answers_are_written_as_the_service_says() {
    let routes = "      - { path: '/*', service: shop }";
    let shop = shop_with(", always_print: true, proto_names: true, enum_numbers: true", routes);
    let answer = shop.get("/v1/products/a?shelf=s");
    assert_eq!(answer.text(), r#"{"sku":"a","name":"s","unit_price":79.99}"#);
    let echo = shop.json("POST", "/v1/echo", r#"{"colour":"RED","inside":{}}"#);
    assert_eq!(
        (&echo["colour"], &echo["an_int32"], &echo["numbers"], &echo["by_name"]),
        (&json!(1), &json!(0), &json!([]), &json!({}))
    );
    // What has a presence is told where it is present.
    assert_eq!(echo["inside"], json!({ "name": "", "number": "0", "many": [] }));
    assert_eq!(
        (echo.get("maybe"), echo.get("time"), echo.get("chosen_text"), &echo["an_int64"]),
        (None, None, None, &json!("0"))
    );
}

#[test]
fn messages_are_bounded_both_ways() {
    let shop = shop_with(", max_message: 1KiB", "      - { path: '/*', service: shop }");
    let body = format!(r#"{{"text":"{}"}}"#, "x".repeat(1200));
    shop.send("POST", "/v1/echo", &body).assert_problem(413, "transcode", "message_too_large");
    let body = format!(r#"{{"text":"{}"}}"#, "x".repeat(5000));
    assert_eq!(shop.send("POST", "/v1/echo", &body).status, 413);
    shop.get("/v1/products/a?shelf=ok");
    let mut client = Client::connect(shop.gateway.port());
    client.send("GET /v1/watch?count=2&size=2000 HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n");
    let rest = String::from_utf8(client.rest()).unwrap();
    assert!(rest.contains(r#"{"error":{"#) && rest.contains("answer_too_large"), "{rest}");
    // What is short as a message and long as JSON.
    let numbers = format!(r#"{{"numbers":[{}]}}"#, ["1"; 900].join(","));
    assert_eq!(shop.send("POST", "/v1/echo", &numbers).status, 200);
}
