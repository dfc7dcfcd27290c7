//! Requests whose bodies are coded, where somebody has to see what is behind that: what is looked at, what the service gets, and what a bomb costs.

use std::io::Write;

use crate::harness::*;

const JSON: (&str, &str) = ("Content-Type", "application/json");
const CODINGS: [&str; 4] = ["gzip", "deflate", "br", "zstd"];

/// Whether they are coded with the library or tool of somebody else does not matter here: what is to be undone is the format.
pub fn coded(coding: &str, plain: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" => {
            let mut run = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            run.write_all(plain).unwrap();
            run.finish().unwrap()
        }
        "deflate" => {
            let mut run = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
            run.write_all(plain).unwrap();
            run.finish().unwrap()
        }
        "zstd" => zstd::stream::encode_all(plain, 19).unwrap(),
        "br" => {
            let mut run = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
            run.write_all(plain).unwrap();
            run.into_inner()
        }
        other => panic!("{other}"),
    }
}

const PETS: &str = "
openapi: 3.0.3
info: { title: pets, version: '1' }
paths:
  /pets:
    post:
      operationId: createPet
      requestBody:
        required: true
        content:
          application/json: { schema: { type: object, required: [ name ], properties: { name: { type: string } } } }
          application/x-www-form-urlencoded: { schema: { type: object, required: [ name ], properties: { name: { type: string } } } }
      responses: { '200': { description: ok } }
";

const SHOP: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
    services:
      a: { endpoints: [ '127.0.0.1:$BACKEND' ] }
      judge: { endpoints: [ '127.0.0.1:$JUDGE' ] }
    routes:
      - { path: /json, service: a, policies: { validate: { json: true, form: true, xml: true, multipart: true } } }
      - { path: /schema, service: a, policies: { validate: { body: { schema: { type: object, required: [ name ] } } } } }
      - { path: /trial, service: a, policies: { validate: { body: { schema: { type: object, required: [ name ] } }, mode: report, max_body: 64KiB } } }
      - { path: /api/*, service: a, policies: { openapi: { file: pets.yaml } } }
      - { path: /reshaped, service: a, policies: { reshape: { request: [ { rename: { /name: title } } ] } } }
      - { path: /lenient, service: a, policies: { reshape: { request: [ { rename: { /name: title } } ], on_unparsable: pass, other_types: pass } } }
      - { path: /graphql, service: a, policies: { graphql: { max_depth: 2 } } }
      - { path: /asked, service: a, policies: { external_auth: { service: judge, path: /check, body: 256KiB } } }
      - { path: /large, service: a, policies: { bounds: { max_body: 64MiB }, validate: { json: true, max_body: 64MiB } } }
      - path: /both
        service: a
        policies:
          validate: { body: { schema: { type: object, required: [ name ] } } }
          reshape: { request: [ { set: { /seen: true } } ] }
          external_auth: { service: judge, path: /check, body: 64KiB }
      - { path: /composed, compose: { calls: { a: { service: a, method: POST, path: /x, body: { to: '{body.name}' } } } } }
      - { path: /plain, service: a }
";

fn shop(backend: &Backend, judge: &Backend) -> (Files, String) {
    let files = Files::new();
    files.write("pets.yaml", PETS);
    (files, filled(SHOP, &[("$BACKEND", backend.port()), ("$JUDGE", judge.port())]))
}

#[test]
fn what_is_behind_a_coding_is_looked_at_and_goes_on_as_it_came() {
    let (backend, judge) = (Backend::http(), Backend::http());
    let (files, yaml) = shop(&backend, &judge);
    let gateway = Gateway::start_in(&files, &yaml);
    let good = br#"{"name":"rex","query":"{ a }"}"#;
    for coding in ["gzip", "deflate", "br", "zstd", "x-gzip", "GZIP"] {
        let known = if coding.ends_with("gzip") { "gzip" } else { &coding.to_ascii_lowercase() };
        let post = |path: &str, kind: &str, body: &[u8]| {
            let fields = [("Content-Type", kind), ("Content-Encoding", coding), ("Content-Digest", "sha-256=:AAAA:")];
            request(gateway.port(), "POST", path, &fields, &coded(known, body))
        };
        for path in ["/json", "/schema", "/trial", "/api/pets", "/graphql", "/asked", "/large"] {
            let answer = post(path, JSON.1, good);
            assert_eq!(answer.status, 200, "{path} {coding}: {}", answer.text());
            let seen = backend.last();
            assert_eq!((seen.header("content-encoding"), seen.header("content-digest")), (Some(coding), Some("sha-256=:AAAA:")));
            assert_eq!(seen.body, coded(known, good), "{path} {coding}: as it came");
        }
        assert_eq!(
            (judge.last().body, judge.last().header("content-encoding")),
            (good.to_vec(), None),
            "what it is told is plain"
        );
        post("/json", JSON.1, b"{\"a\":").assert_problem(400, "validate", "json_malformed");
        post("/json", JSON.1, b"").assert_problem(400, "validate", "json_empty");
        post("/json", "text/xml", b"<a><b></a>").assert_problem(400, "validate", "xml_malformed");
        post("/json", "application/x-www-form-urlencoded", b"a=%zz").assert_problem(400, "validate", "form_malformed");
        post("/json", "multipart/form-data; boundary=x", b"--y").assert_problem(400, "validate", "multipart_malformed");
        post("/schema", JSON.1, b"{}").assert_problem(400, "validate", "contract_broken");
        post("/api/pets", JSON.1, b"{}").assert_problem(400, "openapi", "contract_broken");
        post("/api/pets", "application/x-www-form-urlencoded", b"nom=rex").assert_problem(400, "openapi", "contract_broken");
        post("/graphql", JSON.1, br#"{"query":"{ a { b { c } } }"}"#).assert_problem(400, "graphql", "query_too_deep");
        assert_eq!(post("/json", "application/x-www-form-urlencoded", b"a=b").status, 200);
        // What is changed goes on plain, and nothing is said of what it was.
        for path in ["/reshaped", "/lenient"] {
            assert_eq!(post(path, JSON.1, good).status, 200, "{path}");
            let seen = backend.last();
            assert_eq!(seen.body, br#"{"title":"rex","query":"{ a }"}"#, "{path} {coding}");
            assert_eq!((seen.header("content-encoding"), seen.header("content-digest")), (None, None), "{path} {coding}");
        }
        assert_eq!(post("/both", JSON.1, good).status, 200);
        assert_eq!(judge.last().body, good, "asked before it is reshaped");
        assert_eq!(backend.last().body, br#"{"name":"rex","query":"{ a }","seen":true}"#);
        post("/composed", JSON.1, good);
        assert_eq!(backend.last().body, br#"{"to":"rex"}"#, "{coding}");
        post("/composed", JSON.1, b"{").assert_problem(400, "compose", "malformed_json");
        // Where nothing looks, nothing is undone.
        assert_eq!(post("/plain", JSON.1, b"{").status, 200);
        assert_eq!(backend.last().body, coded(known, b"{"));
    }
    // The last coding is undone first.
    let twice = coded("br", &coded("gzip", good));
    assert_eq!(
        request(gateway.port(), "POST", "/schema", &[JSON, ("Content-Encoding", "gzip, identity, br")], &twice).status,
        200
    );
    let lines = [JSON, ("Content-Encoding", "gzip"), ("Content-Encoding", "br")];
    assert_eq!(request(gateway.port(), "POST", "/reshaped", &lines, &twice).status, 200);
    assert_eq!(backend.last().body, br#"{"title":"rex","query":"{ a }"}"#);
    let wrong = request(gateway.port(), "POST", "/schema", &[JSON, ("Content-Encoding", "br, gzip")], &twice);
    wrong.assert_problem(400, "validate", "content_encoding_malformed");
}

#[test]
fn what_nobody_can_undo_is_refused_where_it_has_to_be_seen() {
    let (backend, judge) = (Backend::http(), Backend::http());
    let (files, yaml) = shop(&backend, &judge);
    let gateway = Gateway::start_in(&files, &yaml);
    let before = backend.requests().len();
    for coding in ["compress", "aes128gcm", "gzip, dcz", "gzip;q=1", "gzip, gzip, gzip, gzip"] {
        for (path, policy) in [
            ("/json", "validate"),
            ("/schema", "validate"),
            ("/api/pets", "openapi"),
            ("/graphql", "graphql"),
            ("/asked", "external_auth"),
        ] {
            let refused = request(gateway.port(), "POST", path, &[JSON, ("Content-Encoding", coding)], b"{}");
            refused.assert_problem(415, policy, "content_encoding_unsupported");
            assert_eq!(refused.header("accept-encoding"), Some("gzip, deflate, br, zstd"), "{path} {coding}");
        }
        let refused = request(gateway.port(), "POST", "/reshaped", &[JSON, ("Content-Encoding", coding)], b"{}");
        refused.assert_problem(415, "reshape", "body_not_json");
        assert_eq!(refused.header("accept-encoding"), Some("gzip, deflate, br, zstd"));
    }
    assert_eq!((backend.requests().len(), judge.requests().len()), (before, 0), "nothing of it arrives");
    for (path, fields) in [
        ("/trial", [JSON, ("Content-Encoding", "compress")]),
        ("/plain", [JSON, ("Content-Encoding", "compress")]),
        ("/json", [("Content-Type", "image/png"), ("Content-Encoding", "compress")]),
    ] {
        assert_eq!(request(gateway.port(), "POST", path, &fields, b"{}").status, 200, "{path}");
    }
    for coding in CODINGS {
        let whole = coded(coding, br#"{"name":"rex","n":[1,2,3,4,5,6,7,8,9]}"#);
        let fields = [JSON, ("Content-Encoding", coding)];
        let post = |path: &str, body: &[u8]| request(gateway.port(), "POST", path, &fields, body);
        let cut = &whole[..whole.len() - 3];
        let more = [&whole[..], b"{}"].concat();
        for body in [&b"{\"name\":\"rex\"}"[..], cut, &more] {
            for (path, policy) in [
                ("/json", "validate"),
                ("/schema", "validate"),
                ("/api/pets", "openapi"),
                ("/reshaped", "reshape"),
                ("/graphql", "graphql"),
                ("/asked", "external_auth"),
            ] {
                post(path, body).assert_problem(400, policy, "content_encoding_malformed");
            }
            // A contract on trial refuses nobody, and whoever lets pass what does not parse gets it as it came.
            for path in ["/trial", "/lenient"] {
                assert_eq!(post(path, body).status, 200, "{path} {coding}");
                assert_eq!((backend.last().body.as_slice(), backend.last().header("content-encoding")), (body, Some(coding)));
            }
        }
        // Of several members some would read the first alone: the service gets what was looked at.
        if matches!(coding, "gzip" | "zstd") {
            let both = [coded(coding, b"{\"name\":\"rex\"}"), coded(coding, b" \n")].concat();
            for path in ["/schema", "/trial"] {
                assert_eq!(post(path, &both).status, 200, "{coding}");
                let seen = backend.last();
                assert_eq!((seen.body.as_slice(), seen.header("content-encoding")), (&b"{\"name\":\"rex\"} \n"[..], None));
            }
            let hidden = [coded(coding, b"{\"name\":\"rex\"}"), coded(coding, b"{}")].concat();
            post("/schema", &hidden).assert_problem(400, "validate", "json_malformed");
        }
    }
    let told = gateway.admin_get("/contracts").1;
    assert!(told.contains("contentEncoding"), "{told}");
}

#[test]
fn a_bomb_is_refused_in_constant_memory() {
    let (backend, judge) = (Backend::http(), Backend::http());
    let (files, yaml) = shop(&backend, &judge);
    let gateway = Gateway::start_in(&files, &yaml);
    let reached = backend.requests().len();
    let plain = vec![b'['; 192 << 20];
    let before = gateway.resident();
    for coding in CODINGS {
        let bomb = coded(coding, &plain);
        assert!(bomb.len() * 1000 <= plain.len() + (plain.len() >> 5), "{coding}: {}", bomb.len());
        // What its ratio gives away in the bounds that a route has for large bodies.
        let smaller = coded(coding, &plain[..48 << 20]);
        let send = |path: &str, body: &[u8]| request(gateway.port(), "POST", path, &[JSON, ("Content-Encoding", coding)], body);
        let post = |path: &str| send(path, &bomb);
        for _ in 0..6 {
            post("/json").assert_problem(413, "validate", "decoded_body_too_large");
            post("/api/pets").assert_problem(413, "openapi", "decoded_body_too_large");
            post("/reshaped").assert_problem(413, "reshape", "decoded_body_too_large");
            post("/graphql").assert_problem(413, "graphql", "decoded_body_too_large");
            post("/asked").assert_problem(413, "external_auth", "decoded_body_too_large");
            send("/large", &smaller).assert_problem(413, "validate", "compression_ratio");
        }
        // What the allocator keeps differs from run to run, and is far less than one of them would take, at any time.
        let grown = gateway.most_resident().saturating_sub(before);
        assert!(grown < 96 << 20, "{coding}: {grown} bytes more");
        assert_eq!(post("/trial").status, 200, "on trial it is told, and passes unseen");
        assert_eq!(backend.last().body, bomb);
    }
    assert_eq!(backend.requests().len(), reached + CODINGS.len());
    gateway.wait_metric("portcullis_buffered_bytes", 0.0);
    assert!(gateway.admin_get("/contracts").1.contains("max_body"));
}

#[test]
fn coded_bodies_come_in_every_framing() {
    let (backend, judge) = (Backend::http(), Backend::http());
    let (files, yaml) = shop(&backend, &judge);
    let gateway = Gateway::start_in(&files, &yaml);
    for coding in CODINGS {
        let (good, bad) = (coded(coding, br#"{"name":"rex"}"#), coded(coding, b"[]"));
        let (fine, wrong) = (files.write("good", &good), files.write("bad", &bad));
        let data = |file: &std::path::Path| format!("@{}", file.display());
        let field = format!("Content-Encoding: {coding}");
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            for more in [&[][..], &["-H", "Transfer-Encoding: chunked"], &["-H", "Expect: 100-continue"]] {
                if version != "--http1.1" && more.iter().any(|word| word.contains("chunked")) {
                    continue;
                }
                let send = |path: &str, file| {
                    let data = data(file);
                    let url = gateway.url(path);
                    let fields = [version, "-H", "Content-Type: application/json", "-H", &field, "--data-binary", &data, &url];
                    curl(&[more, &fields].concat())
                };
                assert_eq!(send("/schema", &fine).status, 200, "{coding} {version} {more:?}");
                assert_eq!(backend.last().body, good);
                assert_eq!(send("/schema", &wrong).status, 400, "{coding} {version} {more:?}");
                assert_eq!(send("/reshaped", &fine).status, 200);
                assert_eq!(backend.last().body, br#"{"title":"rex"}"#, "{coding} {version} {more:?}");
            }
        }
        // Byte by byte, with fields behind it.
        let mut client = Client::connect(gateway.port());
        client.send(format!("POST /reshaped HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{field}\r\nTransfer-Encoding: chunked\r\n\r\n"));
        for byte in &good {
            client.send([b"1\r\n", std::slice::from_ref(byte), b"\r\n"].concat());
        }
        client.send("0\r\nX-End: 1\r\n\r\n");
        assert_eq!(client.answer_to("POST").status, 200, "{coding}");
        assert_eq!(backend.last().body, br#"{"title":"rex"}"#);
        // Nothing at all is nothing, however it is coded.
        let none = |path: &str| request(gateway.port(), "POST", path, &[JSON, ("Content-Encoding", coding)], b"");
        none("/json").assert_problem(400, "validate", "json_empty");
        assert_eq!((none("/reshaped").status, none("/plain").status), (200, 200));
        // It breaks off.
        let before = backend.requests().len();
        let mut cut = Client::connect(gateway.port());
        let head = format!(
            "POST /schema HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{field}\r\nContent-Length: 500\r\n\r\n"
        );
        cut.send([head.as_bytes(), &good].concat());
        drop(cut);
        assert_eq!(get(gateway.port(), "/plain").status, 200);
        assert_eq!(backend.requests().len(), before + 1, "what was cut off reached nobody");
    }
    // A reload changes nothing of it.
    gateway.rewrite(&yaml.replace("max_depth: 2", "max_depth: 3"));
    assert_eq!(gateway.reload().0, 200);
    let again = request(gateway.port(), "POST", "/schema", &[JSON, ("Content-Encoding", "gzip")], &coded("gzip", b"{}"));
    again.assert_problem(400, "validate", "contract_broken");
}
