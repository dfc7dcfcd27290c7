//! What no client of Connect's would send, and what no service of gRPC's should answer.

use super::*;

const FIND: &str = "/shop/shop.v1.Catalog/Find";

#[test]
fn what_is_no_unary_call_is_refused_clearly() {
    let shop = shop(BOTH);
    let target = format!("/plain{GET_PRODUCT}");
    for kind in ["application/connect+proto", "application/connect+json", "Application/Connect+thing"] {
        let answer = shop.call(&target, &[("Content-Type", kind)], b"\0\0\0\0\0");
        assert_refused(&answer, 415, "invalid_argument", "connect_rpc: streaming_unsupported");
    }
    for kind in ["application/xml", "text/plain", "application/protobuf"] {
        let answer = shop.call(&target, &[("Content-Type", kind), VERSION], of_sku("a"));
        assert_refused(&answer, 415, "invalid_argument", "connect_rpc: codec_unsupported");
        assert_eq!(answer.header("accept"), Some("application/proto, application/json"), "{answer:?}");
    }
    assert_refused(&shop.call(&target, &[JSON, VERSION], "{}"), 415, "invalid_argument", "connect_rpc: codec_unsupported");
    for versions in [&["2"][..], &[""], &["1", "1"], &["1", "2"], &["1, 1"]] {
        let fields: Vec<_> = std::iter::once(PROTO).chain(versions.iter().map(|version| (VERSION.0, *version))).collect();
        let answer = shop.call(&target, &fields, of_sku("a"));
        assert_refused(&answer, 400, "invalid_argument", "connect_rpc: unsupported_version");
    }
    for timeout in ["", "soon", "-1", "1.5", "10000000000", "1S"] {
        let answer = shop.call(&target, &[PROTO, ("Connect-Timeout-Ms", timeout)], of_sku("a"));
        assert_refused(&answer, 400, "invalid_argument", "door: malformed_connect_timeout");
    }
    let twice = [PROTO, ("Connect-Timeout-Ms", "9000"), ("Connect-Timeout-Ms", "9000")];
    assert_refused(&shop.call(&target, &twice, of_sku("a")), 400, "invalid_argument", "door: malformed_connect_timeout");
    let answer = shop.call(&target, &[PROTO, ("Connect-Timeout-Ms", "0")], of_sku("a"));
    assert_refused(&answer, 504, "deadline_exceeded", "door: deadline_exceeded");
    assert_eq!(shop.call(&target, &[PROTO, ("Connect-Timeout-Ms", "9999999999")], of_sku("a")).status, 200);
    // Methods that stream: of which that is known, and of which it shows.
    let streams = |answer: &Answer| assert_refused(answer, 501, "unimplemented", "connect_rpc: streaming_method");
    streams(&shop.call("/shop/shop.v1.Catalog/Watch", &[JSON, VERSION], "{}"));
    streams(&shop.call("/shop/shop.v1.Catalog/Collect", &[PROTO], ""));
    streams(&shop.call("/plain/shop.v1.Catalog/Watch", &[PROTO], b"\x08\x02"));
    assert_eq!(shop.call("/plain/shop.v1.Catalog/Watch", &[PROTO], b"\x08\x01").status, 200);
    // The client's own words for gRPC are none of Connect's, and reach nobody.
    let fields =
        [JSON, VERSION, ("grpc-timeout", "1n"), ("Connect-Anything", "1"), ("grpc-encoding", "gzip"), ("TE", "trailers")];
    let answer = shop.call("/shop/shop.v1.Catalog/Metadata", &fields, "{}");
    let seen = answer.json()["fields"].as_object().unwrap_or_else(|| panic!("{answer:?}")).clone();
    assert!(seen.keys().all(|name| !name.starts_with("connect-") && name != "grpc-encoding"), "{seen:?}");
    eventually("nothing is in flight", || shop.gateway.metric("portcullis_in_flight") == 0.0);
}

#[test]
fn codings_are_undone_within_bounds() {
    let told = "      - { path: '/told/*', strip_prefix: /told, service: shop, policies: { request_headers: { set: { Content-Encoding: gzip } } } }\n";
    let shop = shop(&format!("{BOTH}{told}"));
    let target = format!("/shop{GET_PRODUCT}");
    let coded = |coding: &str, body: &[u8]| shop.call(&target, &[JSON, VERSION, ("Content-Encoding", coding)], body);
    let text = br#"{"sku":"a"}"#;
    assert_eq!(coded("gzip", &gzip(text)).json()["sku"], "a");
    assert_eq!(coded("identity", text).json()["sku"], "a");
    // What a policy says of the body holds, whatever the client says.
    for said in ["identity", "gzip"] {
        let fields = [JSON, VERSION, ("Content-Encoding", said)];
        let answer = shop.call(&format!("/told{GET_PRODUCT}"), &fields, gzip(text));
        assert_eq!(answer.json()["sku"], "a", "{said}: {answer:?}");
    }
    let zero = [PROTO, ("Content-Encoding", "gzip")];
    assert_eq!(shop.call(&format!("/plain{GET_PRODUCT}"), &zero, "").status, 200, "nothing is not undone");
    let answer = coded("compress", text);
    assert_refused(&answer, 501, "unimplemented", "connect_rpc: content_encoding_unsupported");
    assert!(answer.header("accept-encoding").unwrap().contains("gzip") && answer.text().contains("gzip"), "{answer:?}");
    for bad in [&text[..], &gzip(text)[..10], &[&gzip(text)[..], b"more"].concat()] {
        assert_refused(&coded("gzip", bad), 400, "invalid_argument", "connect_rpc: content_encoding_malformed");
    }
    // 64 MiB of nothing in 64 KiB.
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 100_000);
    let before = shop.gateway.resident();
    for _ in 0..20 {
        assert_refused(&coded("gzip", &bomb), 413, "resource_exhausted", "connect_rpc: message_too_large");
    }
    let most = shop.gateway.most_resident();
    assert!(most < before + (64 << 20), "{most} {before}");
    let fields = [PROTO, ("Content-Encoding", "gzip")];
    let answer = shop.call(&format!("/plain{GET_PRODUCT}"), &fields, &bomb);
    assert_refused(&answer, 413, "resource_exhausted", "connect_rpc: message_too_large");
}

#[test]
fn messages_are_bounded_both_ways() {
    let services = SERVICES
        .replace("connect: {", "connect: { max_message: 64KiB,")
        .replace("services: [shop", "max_message: 64KiB, services: [shop");
    let shop = shop_of(&services, BOTH);
    let long = "x".repeat(70_000);
    let proto = shop.call(&format!("/plain{GET_PRODUCT}"), &[PROTO], &long);
    assert_refused(&proto, 413, "resource_exhausted", "bounds: body_too_large");
    let json = shop.call("/shop/shop.v1.Catalog/Echo", &[JSON, VERSION], format!(r#"{{"text":"{long}"}}"#));
    assert_refused(&json, 413, "resource_exhausted", "transcode: message_too_large");
    // One message of 70,000 letters.
    let watch = shop.call("/plain/shop.v1.Catalog/Watch", &[PROTO], b"\x08\x01\x10\xf0\xa2\x04");
    assert_refused(&watch, 502, "unavailable", "transcode: answer_too_large");
    // In the query, too.
    let find = format!("{FIND}?connect=v1&encoding=json&compression=gzip&base64=1&message=");
    let bomb = URL_SAFE_NO_PAD.encode(gzip(&vec![b' '; 2 << 20]));
    assert_refused(&shop.get(&format!("{find}{bomb}")), 413, "resource_exhausted", "connect_rpc: message_too_large");
}

#[test]
fn services_that_answer_otherwise_are_told_of() {
    let (_backend, gateway) = crate::transcode::odd();
    let ask = |how: &str| request(gateway.port(), "POST", GET_PRODUCT, &[PROTO], &of_sku(how));
    let good = ask("good");
    assert_eq!((good.status, &*good.body), (200, &b"\x0a\x01p"[..]), "{good:?}");
    // Whatever it is, it is the client's to read.
    assert_eq!(ask("other_type").body, b"\x0a\xff");
    for (how, status, code, by) in [
        ("truncated", 502, "unavailable", "transcode: bad_answer"),
        ("huge", 502, "unavailable", "transcode: answer_too_large"),
        ("compressed", 502, "unavailable", "transcode: bad_answer"),
        ("twice", 501, "unimplemented", "connect_rpc: streaming_method"),
        ("none", 502, "unavailable", "transcode: bad_answer"),
        ("no_trailers", 502, "unavailable", "transcode: no_grpc_status"),
        ("no_status", 502, "unavailable", "transcode: no_grpc_status"),
        ("html", 502, "unavailable", "transcode: no_grpc"),
        ("html_503", 503, "unavailable", "transcode: no_grpc"),
        ("moved", 502, "unavailable", "transcode: no_grpc"),
        ("reset", 502, "unavailable", "upstream: upstream_reset"),
    ] {
        assert_refused(&ask(how), status, code, by);
    }
    assert_eq!(error(&ask("odd_status")), (500, "unknown".to_owned(), String::new()));
    let json = request(gateway.port(), "POST", GET_PRODUCT, &[JSON, VERSION], br#"{"sku":"other_type"}"#);
    assert_refused(&json, 502, "unavailable", "transcode: unfit_answer");
    // A trailer is one, whatever its name.
    let trailers = ask("trailers");
    assert_eq!((trailers.header("set-cookie"), trailers.header("trailer-set-cookie")), (None, Some("a=b")), "{trailers:?}");
    assert_eq!(
        (trailers.header("trailer-connect-x"), trailers.header("connect-x"), trailers.header("location")),
        (None, None, None)
    );
    eventually("nothing is in flight", || gateway.metric("portcullis_in_flight") == 0.0);
}

#[test]
fn what_cannot_be_meant_is_told_with_its_place() {
    let files = Files::new();
    files.write("shop.pb", descriptors());
    let check = |service: &str| {
        let yaml = format!(
            "listeners: [ {{ bind: '127.0.0.1:1' }} ]\nservices:\n  it:\n    {service}\nroutes: [ {{ path: '/*', service: it }} ]\n"
        );
        files.write("gateway.yaml", yaml);
        portcullis(files.dir(), &["check", "gateway.yaml"]).stderr
    };
    let known = "{ endpoints: ['127.0.0.1:1'], protocol: grpc, transcode: { descriptors: shop.pb, services: [shop.v1.Catalog] }, connect: ";
    let bare = "{ endpoints: ['127.0.0.1:1'], protocol: grpc, connect: ";
    for (service, told) in [
        ("{ endpoints: ['127.0.0.1:1'], connect: true }".to_owned(), "`connect` makes calls of gRPC's"),
        (
            "{ endpoints: ['127.0.0.1:1'], protocol: http2, connect: { json: true } }".to_owned(),
            "`connect` makes calls of gRPC's",
        ),
        (format!("{known}{{ get: shop.v1.Catalog.GetProdukt }} }}"), "did you mean `shop.v1.Catalog.GetProduct`?"),
        (format!("{known}{{ get: shop.v1.Catalog/Watch }} }}"), "`shop.v1.Catalog/Watch` streams"),
        (format!("{bare}{{ get: [ GetProduct ] }} }}"), "`GetProduct` is no method's name"),
        (format!("{bare}{{ get: [ 'a.B/*' ] }} }}"), "`a.B/*` is no method's name"),
        (format!("{bare}{{ max_message: 1 }} }}"), "`max_message` is from 1KiB to 64MiB"),
        (format!("{bare}{{ max_message: 65MiB }} }}"), "`max_message` is from 1KiB to 64MiB"),
        (format!("{bare}yes please }}"), "`true`, `false` or"),
        (format!("{bare}{{ post: [ a.B.C ] }} }}"), "post"),
    ] {
        let said = check(&service);
        assert!(said.contains(told) && said.contains("gateway.yaml:4:"), "{service}: {said}");
    }
    for fine in [format!("{bare}true }}"), format!("{bare}{{ get: [ a.B.C, d.E/F ], json: true, max_message: 1KiB }} }}")] {
        let said = check(&fine);
        assert!(!said.contains("connect"), "{fine}: {said}");
    }
    let yaml = format!(
        "server: {{ engine: pingora }}\nlisteners: [ {{ bind: '127.0.0.1:1' }} ]\nservices: {{ it: {bare}true }} }}\nroutes: [ {{ path: '/*', service: it }} ]\n"
    );
    files.write("gateway.yaml", yaml);
    let said = portcullis(files.dir(), &["check", "gateway.yaml"]).stderr;
    assert!(said.contains("`connect` cannot be had with `engine: pingora`"), "{said}");
}
