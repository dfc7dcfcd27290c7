//! Routes that are held to a document of OpenAPI.

mod documents;

use serde_json::{Value, json};

use crate::harness::*;

const PETSTORE: &str = include_str!("openapi/petstore.yaml");

const SHOP: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    consumers: [ { name: acme, api_keys: [ { hash: 'sha256:$HASH' } ] } ]
    routes:
      - { path: /v1/*, service: a, ambiguous_paths: keep, policies: { openapi: { file: petstore.yaml } } }
      - { path: '/strict/{tenant}/*', service: a, policies: { openapi: { file: petstore.yaml, unknown_query: refuse, max_body: 200B } } }
      - path: /trial/*
        service: a
        policies:
          authn: { api_key: { header: X-Key }, optional: true }
          openapi: { file: petstore.yaml, mode: report }
      - { path: /cached/*, service: a, policies: { cache: { ttl: 60s }, openapi: { file: petstore.yaml } } }
";

fn shop(backend: &Backend) -> (Files, String) {
    let files = Files::new();
    files.write("petstore.yaml", PETSTORE);
    // SHA-256 of `acme-key-0123456789`.
    let hash = sha256("acme-key-0123456789");
    (files, filled(SHOP, &[("$BACKEND", backend.port())]).replace("$HASH", &hash))
}

/// `query limit/0: type`
fn errors(answer: &Answer) -> Vec<String> {
    let json = answer.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = json["errors"].as_array().unwrap_or_else(|| panic!("{answer:?}")).clone();
    let one = |error: &Value| {
        format!("{} {}{}: {}", text(&error["in"]), text(&error["name"]), text(&error["pointer"]), text(&error["keyword"]))
    };
    let mut all: Vec<_> = list.iter().map(one).collect();
    all.sort();
    all
}

#[test]
fn operations_are_all_that_there_is() {
    let backend = Backend::http();
    let (files, yaml) = shop(&backend);
    let gateway = Gateway::start_in(&files, &yaml);
    let ask = |method: &str, path: &str| request(gateway.port(), method, path, &[], b"");
    let asked = [
        ("GET", "/v1/pets", "listPets"),
        ("HEAD", "/v1/pets", "listPets"),
        ("GET", "/v1/pets/mine", "myPets"),
        ("GET", "/v1/pets/7", "getPet"),
        ("GET", "/v1/pets/7.json", "petFile"),
        ("GET", "/v1/p%65ts/%37", "getPet"),
        ("DELETE", "/strict/x/pets/7", "deletePet"),
    ];
    for (number, (method, path, operation)) in asked.into_iter().enumerate() {
        assert_eq!(ask(method, path).status, 200, "{method} {path}");
        let line = gateway.wait_lines(number + 1).pop().unwrap();
        assert_eq!(line["operation"], operation, "{method} {path}");
    }
    for (path, allow) in
        [("/v1/pets", "GET, HEAD, POST"), ("/v1/pets/7", "GET, HEAD, DELETE"), ("/v1/pets/mine", "GET, HEAD, DELETE")]
    {
        let refused = ask("OPTIONS", path);
        assert_eq!((refused.status, refused.header("allow")), (405, Some(allow)), "{path}");
        refused.assert_problem(405, "openapi", "method_not_allowed");
    }
    for path in ["/v1", "/v1/", "/v1/none", "/v1/pets/", "/v1/pets/7/x", "/strict/pets", "/v1/v9/pets"] {
        ask("GET", path).assert_problem(404, "openapi", "no_operation");
    }
    assert_eq!(backend.requests().len(), 7, "what is refused reaches nobody");
    gateway.wait_metric("portcullis_openapi_requests_total{scope=\"route:/v1/*\",operation=\"listPets\"}", 2.0);
}

#[test]
fn parameters_are_read_as_their_style_says() {
    let backend = Backend::http();
    let (files, yaml) = shop(&backend);
    let gateway = Gateway::start_in(&files, &yaml);
    let get = |target: &str, fields: &[(&str, &str)]| request(gateway.port(), "GET", target, fields, b"");
    for (query, wrong) in [
        ("limit=10", vec![]),
        ("limit=1%30", vec![]),
        ("l%69mit=10", vec![]),
        ("limit=", vec!["query limit: type"]),
        ("limit", vec!["query limit: type"]),
        ("limit=0", vec!["query limit: minimum"]),
        ("limit=+5", vec!["query limit: type"]),
        ("limit=1e9", vec!["query limit: maximum"]),
        ("limit=1&limit=2", vec!["query limit: type"]),
        ("other=x&&", vec![]),
        ("tags=a&tags=b%2Cc", vec![]),
        ("tags=a", vec![]),
        ("tags=a&tags=long", vec!["query tags/1: maxLength"]),
        ("tags=a&tags=a&tags=a&tags=a", vec!["query tags: maxItems"]),
        ("ids=1,2,3", vec![]),
        ("ids=1%2C2", vec!["query ids/0: type"]),
        ("ids=1&ids=2", vec!["query ids: style"]),
        ("ids=", vec![]),
        ("spaced=1%202+3", vec![]),
        ("spaced=1,2", vec!["query spaced/0: type"]),
        ("piped=1|2%7C3", vec![]),
        ("piped=1|x", vec!["query piped/1: type"]),
        ("filter[age]=3&filter%5Bcolour%5D=red&filter[colour]=blue&filter[owner][vip]=true", vec![]),
        ("filter[colour][0]=red&filter[colour][1]=blue", vec![]),
        ("filter[colour][]=red", vec![]),
        ("filter[age]=x", vec!["query filter/age: type"]),
        ("filter[colour]=green", vec!["query filter/colour/0: enum"]),
        ("filter[owner][x]=1", vec!["query filter/owner/x: additionalProperties"]),
        ("filter[none]=1", vec!["query filter/none: additionalProperties"]),
        ("filter[a][b][c][d][e][f][g][h][i]=1", vec!["query filter: style"]),
        ("from=1&to=2", vec![]),
        ("from=1&to=x", vec!["query window/to: type"]),
        ("box=w,3", vec![]),
        ("box=w,x", vec!["query box/w: type"]),
        ("box=h,3", vec!["query box/h: additionalProperties"]),
        ("flag", vec![]),
        ("flag=", vec![]),
        ("flag=yes", vec!["query flag: type"]),
        ("flag=&flag=yes", vec!["query flag: type"]),
        ("limit=1&limit[$gt]=1", vec!["query limit: style"]),
        ("limit[]=10", vec![]),
        ("limit[]=1000", vec!["query limit: maximum"]),
        ("limit%5B%5D=1&limit[]=2", vec!["query limit: type"]),
        ("tags[]=a&tags[]=b", vec![]),
        ("tags[]=a&tags[]=long", vec!["query tags/1: maxLength"]),
        ("filter[age]=1&filter=x", vec!["query filter: style"]),
        ("filter[age=x", vec!["query filter: style"]),
        ("filter[age]x=1", vec!["query filter: style"]),
        ("filter[age]=1&filter[age][x]=1", vec!["query filter: style"]),
        ("q=%7B%22a%22:1%7D", vec![]),
        ("q=%7B%7D", vec!["query q: required"]),
        ("q=%7B", vec!["query q: style"]),
        ("url=a/b?c=d", vec![]),
        ("url=a%2Fb%3Fc%3Dd", vec![]),
        ("url=a,b", vec![]),
        ("url=a+b", vec![]),
        ("url=a%2Bb", vec!["query url: enum"]),
    ] {
        let answer = get(&format!("/v1/pets?{query}"), &[]);
        if wrong.is_empty() {
            assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        } else {
            answer.assert_problem(400, "openapi", "contract_broken");
            assert_eq!(errors(&answer), wrong, "{query}");
        }
    }
    for (name, value, wrong) in [
        ("X-List", "1, 2,3", ""),
        ("X-List", "1, x", "header X-List/1: type"),
        ("X-Point", "x=1", ""),
        ("X-Point", "y=1", "header X-Point/y: additionalProperties"),
        ("X-Tenant", "t-1", ""),
        ("X-Tenant", "1", "header X-Tenant: pattern"),
        ("Cookie", "a=b; session=abc", ""),
        ("Cookie", "session=ab", "cookie session: minLength"),
    ] {
        let answer = get("/v1/pets", &[(name, value)]);
        match wrong {
            "" => assert_eq!(answer.status, 200, "{name}: {value}: {}", answer.text()),
            wrong => assert_eq!(errors(&answer), [wrong], "{name}: {value}"),
        }
    }
    for (path, wrong) in [
        ("/v1/pets/0", "path id: exclusiveMinimum"),
        ("/v1/pets/x", "path id: type"),
        ("/v1/label/.1.2", ""),
        ("/v1/label/1.2", "path v: style"),
        ("/v1/label/.1.x", "path v/1: type"),
        ("/v1/matrix/;v=1;v=2", ""),
        ("/v1/matrix/;w=1", "path v: style"),
        ("/v1/simple/r=1", ""),
        ("/v1/simple/r=x", "path v/r: type"),
        ("/v1/simple/g=1", "path v/g: additionalProperties"),
    ] {
        let answer = get(path, &[]);
        match wrong {
            "" => assert_eq!(answer.status, 200, "{path}: {}", answer.text()),
            wrong => assert_eq!(errors(&answer), [wrong], "{path}"),
        }
    }
    assert_eq!(errors(&get("/strict/x/pets?limit=1&evil=1", &[])), ["query : unknown"]);
    assert_eq!(errors(&get("/strict/x/pets?limit[$gt]=", &[])), ["query : unknown"]);
    assert_eq!(get("/strict/x/pets?limit=1&from=1&filter[age]=1", &[]).status, 200);
    let many = "a=1&".repeat(1001);
    assert_eq!(errors(&get(&format!("/v1/pets?{many}"), &[])), ["query : maxProperties"]);
    let all = get("/v1/pets?limit=x&tags=long&ids=x", &[("X-Tenant", "hunter2")]);
    assert_eq!(errors(&all), ["header X-Tenant: pattern", "query ids/0: type", "query limit: type", "query tags/0: maxLength"]);
    assert!(!all.text().contains("hunter2"), "{}", all.text());
}

#[test]
fn bodies_are_what_they_claim_to_be() {
    let backend = Backend::http();
    let (files, yaml) = shop(&backend);
    let gateway = Gateway::start_in(&files, &yaml);
    let post = |kind: &str, body: &[u8]| request(gateway.port(), "POST", "/v1/pets", &[("Content-Type", kind)], body);
    let judge = |kind: &str, body: &[u8], wrong: &[&str]| {
        let answer = post(kind, body);
        match wrong {
            [] => assert_eq!(answer.status, 200, "{}: {}", String::from_utf8_lossy(body), answer.text()),
            wrong => assert_eq!(
                (answer.status, errors(&answer)),
                (400, wrong.iter().map(|one| (*one).to_owned()).collect()),
                "{}",
                String::from_utf8_lossy(body)
            ),
        }
    };
    let json = "application/json";
    judge(json, br#"{"name":"rex","nick":null,"secret":"abcd","kind":{"is":"dog","barks":true}}"#, &[]);
    judge("application/vnd.pet+json", b"{}", &[]);
    for (body, wrong) in [
        (r#"{"name":"x","id":1}"#, &["body /id: readOnly", "body /name: minLength"][..]),
        (r#"{}"#, &["body : required"]),
        (r#"{"name":"rex","nick":1}"#, &["body /nick: type"]),
        (r#"{"name":null}"#, &["body /name: type"]),
        (r#"{"name":"rex","secret":"hunter2"}"#, &["body /secret: maxLength"]),
        (r#"{"name":"rex","kind":{"is":"cat","lives":10}}"#, &["body /kind/lives: maximum"]),
        (r#"{"name":"rex","kind":{"is":"cow"}}"#, &["body /kind/is: discriminator"]),
        (r#"{"name":"rex","kind":{}}"#, &["body /kind: discriminator"]),
        (r#"{"name":"rex","parent":{"name":"a"}}"#, &["body /parent/name: minLength"]),
        (r#"{"name":"rex","name":"max"}"#, &["body : json"]),
        ("{", &["body : json"]),
        ("\u{feff}{\"name\":\"rex\"}", &["body : json"]),
    ] {
        judge(json, body.as_bytes(), wrong);
    }
    assert!(!post(json, br#"{"name":"rex","secret":"hunter2"}"#).text().contains("hunter2"));
    let form = "application/x-www-form-urlencoded";
    judge(form, b"name=re+x&codes=1|2%7C3&kind=%7B%22is%22:%22dog%22%7D", &[]);
    judge(form, b"name=rex&kind[is]=dog&kind[barks]=true", &[]);
    judge(form, b"name=x&codes=1|x", &["body /codes/1: type", "body /name: minLength"]);
    judge(form, b"name=rex&name=max", &["body /name: type"]);
    judge(form, b"name=rex&other=1", &["body /other: additionalProperties"]);
    judge(form, b"name=rex&kind=%7B", &["body /kind: json"]);
    judge(form, b"name=rex&kind=%7B%22is%22:%22dog%22,%22is%22:%22cow%22%7D", &["body /kind: json"]);
    judge(form, b"name=rex&name[]=max", &["body /name: form"]);
    judge(form, b"kind[is]=dog&name=rex&kind=x", &["body /kind: form"]);
    judge(form, b"name=rex&kind[is]=dog&kind[is][x]=1", &["body : form"]);
    judge(form, b"name=rex&kind[is=dog", &["body : form"]);
    let multipart = "multipart/form-data; boundary=xx";
    let part = |fields: &str, body: &str| format!("--xx\r\nContent-Disposition: form-data; {fields}\r\n\r\n{body}\r\n");
    let photo =
        "--xx\r\nContent-Type: image/png\r\nContent-Disposition: form-data; name=photo; filename=a.png\r\n\r\n\u{1}\u{2}\r\n";
    let whole = |parts: &[&str]| format!("{}--xx--\r\n", parts.concat());
    let (name, code) = (part("name=\"name\"", "rex"), part("name=codes", "1"));
    judge(multipart, whole(&[&name, photo, &code, &code, &part("name=meta", "{\"a\":1}")]).as_bytes(), &[]);
    judge(multipart, whole(&[&name]).as_bytes(), &["body : required"]);
    judge(multipart, whole(&[&name, photo, &part("name=meta", "{}")]).as_bytes(), &["body /meta: required"]);
    judge(multipart, whole(&[&name, &photo.replace("image/png", "text/html")]).as_bytes(), &["body /photo: encoding"]);
    judge(multipart, whole(&[&name, &name, photo]).as_bytes(), &["body /name: type"]);
    judge(multipart, whole(&[&name, photo, &part("name=x", "1")]).as_bytes(), &["body /x: additionalProperties"]);
    judge(multipart, whole(&[&name, photo, &part("name=\"name[]\"", "1")]).as_bytes(), &["body : multipart"]);
    // To many services `a[]` is an element of `a`.
    judge(multipart, whole(&[&name, photo, &part("name=\"codes[]\"", "1")]).as_bytes(), &[]);
    judge(multipart, whole(&[&name, photo, &part("name=\"codes[]\"", "x")]).as_bytes(), &["body /codes/0: type"]);
    judge(multipart, whole(&[photo, &part("name=\"name[]\"", "rex")]).as_bytes(), &["body /name: multipart"]);
    judge("multipart/form-data; boundary=xx; boundary=yy", whole(&[&name, photo]).as_bytes(), &["body : multipart"]);
    judge(multipart, b"--xx\r\nbroken", &["body : multipart"]);
    judge("multipart/form-data", b"--xx--", &["body : multipart"]);
    judge("application/xml", b"<a b='1'>x</a>", &[]);
    judge("application/xml", b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a>&x;</a>", &["body : xml"]);
    for (fields, reason) in [
        (&[][..], "content_type_missing"),
        (&[("Content-Type", "text/csv")], "content_type_unsupported"),
        (&[("Content-Type", "application/json; charset=latin1")], "charset_unsupported"),
        (&[("Content-Type", "multipart/form-data; boundary=x; charset=utf-7")], "charset_unsupported"),
        (&[("Content-Type", json), ("Content-Encoding", "compress")], "content_encoding_unsupported"),
    ] {
        request(gateway.port(), "POST", "/v1/pets", fields, b"{}").assert_problem(415, "openapi", reason);
    }
    let none = request(gateway.port(), "POST", "/v1/pets", &[("Content-Type", json)], b"");
    assert_eq!(errors(&none), ["body : required"]);
    let chunked = |body: &str| {
        let head = "POST /v1/pets HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        String::from_utf8(raw(gateway.port(), format!("{head}{body}").as_bytes())).unwrap()
    };
    assert!(chunked("0\r\n\r\n").contains("\"keyword\":\"required\""));
    assert!(chunked("7\r\n{\"name\"\r\n7\r\n:\"rex\"}\r\n0\r\n\r\n").starts_with("HTTP/1.1 200"));
    let unwanted = request(gateway.port(), "DELETE", "/v1/pets/7", &[("Content-Type", json)], b"{}");
    assert_eq!(errors(&unwanted), ["body : requestBody"]);
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(300));
    assert_eq!(request(gateway.port(), "POST", "/strict/a/pets", &[("Content-Type", json)], large.as_bytes()).status, 413);
    let before = backend.requests().len();
    let mut cut = Client::connect(gateway.port());
    cut.send("POST /v1/pets HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{\"name\"");
    drop(cut);
    assert_eq!(get(gateway.port(), "/v1/pets").status, 200);
    assert_eq!(backend.requests().len(), before + 1, "what was cut off reached nobody");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = curl(&[version, "-H", "Content-Type: application/json", "-d", "{}", &gateway.url("/v1/pets")]);
        assert_eq!((answer.status, errors(&answer)), (400, vec!["body : required".to_owned()]), "{version}");
        let fine = curl(&[version, "-H", "Content-Type: application/json", "-d", "{\"name\":\"rex\"}", &gateway.url("/v1/pets")]);
        assert_eq!(fine.status, 200, "{version}");
    }
}

#[test]
fn a_document_on_trial_refuses_nobody_and_tells_whom_it_would() {
    let backend = Backend::http();
    let (files, yaml) = shop(&backend);
    let gateway = Gateway::start_in(&files, &yaml);
    let ask = |method: &str, path: &str, body: &str| {
        let fields = [("X-Key", "acme-key-0123456789"), ("Content-Type", "application/json")];
        request(gateway.port(), method, path, &fields, body.as_bytes()).status
    };
    assert_eq!(ask("GET", "/trial/pets?limit=x", ""), 200);
    assert_eq!(ask("GET", "/trial/pets?limit=x", ""), 200);
    assert_eq!(ask("POST", "/trial/pets", "{}"), 200);
    assert_eq!(ask("GET", "/trial/none", ""), 200);
    assert_eq!(ask("PUT", "/trial/pets", "{}"), 200);
    let scope = "scope=\"route:/trial/*\"";
    // Whoever gives no length is not refused for it either.
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(1 << 20));
    assert_eq!(ask("POST", "/trial/pets", &long), 200);
    let mut client = Client::connect(gateway.port());
    client.send("POST /trial/pets HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len()));
    assert_eq!(client.answer_to("POST").status, 200);
    gateway.wait_metric(&format!("portcullis_openapi_broken_total{{{scope},operation=\"createPet\",outcome=\"reported\"}}"), 3.0);
    gateway.wait_metric(&format!("portcullis_openapi_broken_total{{{scope},operation=\"listPets\",outcome=\"reported\"}}"), 2.0);
    gateway.rewrite(&yaml.replace("max_body: 200B", "max_body: 300B"));
    assert_eq!(gateway.reload().0, 200);
    let told: Value = serde_json::from_str(&gateway.admin_get("/contracts").1).unwrap();
    let trial = told["contracts"].as_array().unwrap().iter().find(|one| one["scope"] == "route:/trial/*").unwrap();
    let kinds: Vec<_> = trial["broken"].as_array().unwrap().iter().collect();
    let first = kinds[0];
    assert_eq!((&first["operation"], &first["in"], &first["name"]), (&json!("listPets"), &json!("query"), &json!("limit")));
    assert_eq!((&first["count"], &first["consumers"]), (&json!(2), &json!([{ "consumer": "acme", "count": 2 }])));
    for keyword in ["required", "paths", "method", "max_body"] {
        assert!(kinds.iter().any(|kind| kind["keyword"] == keyword), "{keyword}: {trial}");
    }
    assert_eq!(ask("GET", "/trial/pets?limit=x", ""), 200);
    gateway.wait_metric(&format!("portcullis_openapi_broken_total{{{scope},operation=\"listPets\",outcome=\"reported\"}}"), 3.0);
}

#[test]
fn a_cached_route_is_held_to_its_document_too() {
    let backend = Backend::http();
    let (files, yaml) = shop(&backend);
    let gateway = Gateway::start_in(&files, &yaml);
    for _ in 0..3 {
        assert_eq!(get(gateway.port(), "/cached/pets?limit=5").status, 200);
        assert_eq!(errors(&get(gateway.port(), "/cached/pets?limit=500")), ["query limit: maximum"]);
    }
    // A changed document holds from the reload on, for hits as well.
    files.write("petstore.yaml", PETSTORE.replace("maximum: 100", "maximum: 4"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(errors(&get(gateway.port(), "/cached/pets?limit=5")), ["query limit: maximum"]);
    files.write("petstore.yaml", "openapi: 4");
    assert_ne!(gateway.reload().0, 200);
    assert_eq!(errors(&get(gateway.port(), "/cached/pets?limit=5")), ["query limit: maximum"], "the last good one goes on");
}

#[test]
fn the_stock_engine_holds_routes_to_documents_too() {
    let backend = Backend::http();
    let (files, yaml) = shop(&backend);
    let gateway = Gateway::start_in(&files, &format!("{yaml}    server: {{ engine: pingora }}\n").replace(", h2c: true", ""));
    assert_eq!(get(gateway.port(), "/v1/pets?limit=5").status, 200);
    assert_eq!(errors(&get(gateway.port(), "/v1/pets?limit=x")), ["query limit: type"]);
    let body = request(gateway.port(), "POST", "/v1/pets", &[("Content-Type", "application/json")], b"{}");
    assert_eq!(errors(&body), ["body : required"]);
    get(gateway.port(), "/v1/none").assert_problem(404, "openapi", "no_operation");
}

#[test]
fn answers_are_held_to_their_operation() {
    let backend = Backend::answering(|request| {
        let answer = |status: &str, kind: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        };
        match request.header("x-case").unwrap_or_default() {
            "good" => answer("200 OK", "application/json", r#"[{"id":1,"name":"rex"}]"#),
            "secret" => answer("200 OK", "application/json", r#"[{"id":1,"name":"rex","secret":"abc"}]"#),
            "html" => answer("200 OK", "text/html", "<p>"),
            "status" => answer("202 Accepted", "application/json", "[]"),
            "failed" => answer("500 Internal Server Error", "text/plain", "x"),
            "part" => answer("200 OK", "application/json\r\nContent-Range: bytes 0-1/9", "[]"),
            "range" if request.header("range").is_some() => answer("206 Partial Content", "application/json", "[]"),
            _ => answer("200 OK", "application/json", r#"[{"name":"rex"}]"#),
        }
    });
    let files = Files::new();
    files.write("petstore.yaml", PETSTORE);
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - { path: /v1/*, service: a, policies: { openapi: { file: petstore.yaml, answers: enforce } } }
          - { path: /trial/*, service: a, policies: { openapi: { file: petstore.yaml, mode: off, answers: report } } }
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let ask = |path: &str, case: &str| request(gateway.port(), "GET", path, &[("X-Case", case)], b"").status;
    for (case, status) in [("good", 200), ("secret", 502), ("html", 502), ("status", 502), ("failed", 500), ("lacks", 502)] {
        assert_eq!(ask("/v1/pets", case), status, "{case}");
        assert_eq!(
            ask("/trial/pets?limit=x", case),
            if case == "failed" {
                500
            } else if case == "status" {
                202
            } else {
                200
            },
            "{case}"
        );
    }
    // Nobody gets out of it by asking for a part, or by saying that he calls by gRPC.
    assert_eq!(ask("/v1/pets", "part"), 502);
    for field in [("Range", "bytes=0-1"), ("Content-Type", "application/grpc")] {
        let answer = request(gateway.port(), "GET", "/v1/pets", &[("X-Case", "range"), field], b"");
        assert!(answer.status != 206 && !answer.text().contains("rex"), "{field:?}: {answer:?}");
    }
    gateway.wait_log(|line| line["decided_by"] == "json" && line["reason"] == "answer_breaks_contract");
    let part = request(gateway.port(), "GET", "/trial/pets", &[("X-Case", "range"), ("Range", "bytes=0-1")], b"");
    assert_eq!(part.status, 206, "with `answers: report` parts pass");
    assert_eq!(ask("/trial/none", "good"), 200, "with `mode: off` requests are not looked at");
    gateway.wait_log(|line| line["decided_by"] == "writeOnly /0/secret");
}

/// Neither by what a route, an answer or a path says does anything get out that was not agreed on.
#[test]
fn no_answer_gets_around_its_document() {
    let backend = Backend::answering(|request| {
        let answer = |status: &str, kind: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        };
        let pets = r#"[{"id":1,"name":"rex"}]"#;
        match request.header("x-case").unwrap_or_default() {
            "good" => answer("200 OK", "application/json", pets),
            "twice" => answer("200 OK", "application/json\r\nContent-Type: application/json", pets),
            "plain" => answer("200 OK", "application/json\r\nContent-Encoding: identity", pets),
            "events" => answer("200 OK", "text/event-stream", "data: secret\n\n"),
            "two" => answer("200 OK", "text/event-stream\r\nContent-Type: application/json", "[{\"secret\":1}]"),
            "listed" => answer("200 OK", "application/json, text/event-stream", "[{\"secret\":1}]"),
            "gone" => answer("404 Not Found", "text/plain", "x"),
            _ => answer("200 OK", "application/json", r#"[{"id":1,"name":"rex","secret":"abc"}]"#),
        }
    });
    let files = Files::new();
    files.write("petstore.yaml", PETSTORE);
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - { path: /v1/*, service: a, policies: { openapi: { file: petstore.yaml, answers: enforce } } }
          - { path: /cached/*, service: a, policies: { cache: { ttl: 60s }, openapi: { file: petstore.yaml, answers: enforce } } }
          - { path: /stream/*, service: a, stream: true, policies: { openapi: { file: petstore.yaml, answers: enforce } } }
          - { path: /off/*, service: a, policies: { openapi: { file: petstore.yaml, mode: off, answers: enforce } } }
          - { path: /trial/*, service: a, policies: { openapi: { file: petstore.yaml, mode: report, answers: enforce } } }
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let ask = |method: &str, path: &str, case: &str| request(gateway.port(), method, path, &[("X-Case", case)], b"").status;
    for path in ["/v1/pets", "/cached/pets", "/stream/pets", "/off/pets", "/trial/pets"] {
        for (case, status) in
            [("good", 200), ("twice", 200), ("plain", 200), ("events", 502), ("two", 502), ("listed", 502), ("secret", 502)]
        {
            let path = format!("{path}?{case}");
            assert_eq!(ask("GET", &path, case), status, "{path}");
            assert_eq!(ask("GET", &path, case), status, "{path} again");
        }
    }
    // What the service answers to who asks by what the document does not have was never agreed on, whatever it is.
    for (method, path) in [("GET", "/off/pets/"), ("DELETE", "/off/pets"), ("GET", "/trial/none"), ("PUT", "/trial/pets")] {
        assert_eq!((ask(method, path, "good"), ask(method, path, "gone")), (502, 404), "{method} {path}");
    }
    gateway.wait_log(|line| line["decided_by"] == "paths" && line["reason"] == "answer_breaks_contract");
    assert!(backend.requests().iter().all(|request| request.header("accept-encoding") != Some("gzip")));
}

#[test]
fn what_cannot_be_served_is_said_with_its_place() {
    let files = Files::new();
    files.write(
        "bad.yaml",
        "openapi: 3.1.0
info: { title: Bad, version: '1' }
paths:
  /good: { get: { operationId: good, responses: {} } }
  /a{b}{c}: { get: { operationId: merged, responses: {} } }
  /ref:
    post:
      operationId: far
      requestBody: { content: { application/json: { schema: { $ref: 'other.yaml#/X' } } } }
  /twins/{a}: { get: { operationId: twin, parameters: [ { name: a, in: path, required: true, schema: {} } ], responses: {} } }
  /twins/{b}: { post: { operationId: other, responses: {} } }
  /twins/{c}: { post: { operationId: third, responses: {} } }
  /far: { $ref: 'far.yaml' }
  /lookahead:
    post:
      operationId: ahead
      requestBody:
        content:
          application/json:
            schema: { $ref: '#/components/schemas/A' }
  /style:
    get:
      operationId: odd
      parameters:
        - { name: a, in: header, style: form, schema: {} }
        - { name: b, in: path, required: true, schema: {} }
components:
  schemas:
    A:
      type: object
      properties:
        x: { type: string, pattern: '^(?!b)' }
",
    );
    let gateway = |more: &str| {
        files.write(
            "gateway.yaml",
            format!(
                "
listeners: [ {{ bind: 127.0.0.1:8080 }} ]
services: {{ a: {{ endpoints: [ '127.0.0.1:1' ] }} }}
routes:
  - path: /*
    service: a
    policies: {{ openapi: {{ file: bad.yaml{more} }} }}
"
            ),
        );
        let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
        (ran.code == 0, format!("{}{}", ran.stdout, ran.stderr))
    };
    let expected: [&str; 7] = [
        "bad.yaml:5:3: the path cannot be served: nothing tells where one value ends and the next begins (merged)",
        "bad.yaml:9:63: `other.yaml#/X` leads nowhere in this document, and nothing is fetched (far)",
        "bad.yaml:32:28: the pattern cannot be used: lookaround",
        "bad.yaml:25:34: there is no such `style` for a parameter that stands there (odd)",
        "bad.yaml:26:11: the path has no `{b}` (odd)",
        "POST /twins/{c} stands here twice, under other names (third)",
        "`far.yaml` leads nowhere in this document, and nothing is fetched (/far)",
    ];
    let (fine, said) = gateway("");
    assert!(!fine && said.contains("gateway.yaml:7:"), "{said}");
    for what in expected {
        assert!(said.contains(what), "{what} is not in:\n{said}");
    }
    let (fine, said) = gateway(", unsupported: skip");
    assert!(fine && expected.iter().all(|what| said.contains(what)), "{said}");

    let ran = portcullis(files.dir(), &["openapi", "check", "bad.yaml"]);
    assert!(ran.code != 0 && expected.iter().all(|what| ran.stderr.contains(what)), "{}", ran.stderr);
    assert!(ran.stderr.contains("4 of 7 operations can be served; 1 patterns"), "{}", ran.stderr);
    let ran = portcullis(files.dir(), &["openapi", "routes", "bad.yaml"]);
    assert!(ran.code == 0 && ran.stdout.contains("GET     /good"), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("not served: bad.yaml:9:63"), "{}", ran.stdout);
    files.write("petstore.yaml", PETSTORE);
    let ran = portcullis(files.dir(), &["openapi", "check", "petstore.yaml"]);
    assert!(ran.code == 0 && ran.stdout.contains("petstore.yaml: ok (9 operations"), "{}{}", ran.stdout, ran.stderr);
    let ran = portcullis(files.dir(), &["openapi", "routes", "petstore.yaml"]);
    assert!(ran.stdout.contains("body: application/json, application/x-www-form-urlencoded"), "{}", ran.stdout);
    for (text, what) in [
        ("swagger: '2.0'", "is of Swagger 2.0"),
        ("openapi: 3.2.0\npaths: {}", "is of the edition 3.2.0"),
        ("openapi: 3.0.0", "has no table `paths`"),
        ("{", "is not YAML"),
        ("a: 1", "is no document of OpenAPI"),
    ] {
        files.write("bad.yaml", text);
        let ran = portcullis(files.dir(), &["openapi", "check", "bad.yaml"]);
        assert!(ran.code != 0 && ran.stderr.contains(what), "{what} is not in:\n{}", ran.stderr);
        assert_ne!(portcullis(files.dir(), &["openapi", "routes", "bad.yaml"]).code, 0);
    }
    assert_ne!(portcullis(files.dir(), &["openapi", "check", "none.yaml"]).code, 0);
}

#[test]
fn what_stands_before_a_documents_paths_is_in_one_spelling() {
    let backend = Backend::http();
    let files = Files::new();
    files.write("menu.yaml", "openapi: 3.0.0\npaths: { /menu: { get: { responses: {} } } }\n");
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - { path: '/café/*', service: a, policies: { openapi: { file: menu.yaml } } }
          - { path: '/b/*', service: a, policies: { openapi: { file: menu.yaml, base: '/%62/{any}' } } }
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start_in(&files, &yaml);
    for path in ["/caf%C3%A9/menu", "/caf%c3%a9/menu", "/b/x/menu"] {
        assert_eq!(get(gateway.port(), path).status, 200, "{path}");
    }
    get(gateway.port(), "/caf%C3%A9/other").assert_problem(404, "openapi", "no_operation");
}

#[test]
fn what_was_skipped_is_closed() {
    let backend = Backend::http();
    let files = Files::new();
    files.write(
        "part.yaml",
        "openapi: 3.0.0\npaths:\n  /a: { get: { responses: {} } }\n  /b: { get: { parameters: [ { $ref: 'x.yaml' } ], responses: {} } }\n",
    );
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes: [ { path: /*, service: a, policies: { openapi: { file: part.yaml, unsupported: skip } } } ]
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start_in(&files, &yaml);
    assert_eq!(get(gateway.port(), "/a").status, 200);
    get(gateway.port(), "/b").assert_problem(501, "openapi", "operation_unsupported");
}

/// What the document says of an operation counts whatever another policy calls it.
#[test]
fn an_operation_stays_closed_beside_a_guard_that_has_a_name_for_it_too() {
    let backend = Backend::http();
    let files = Files::new();
    files.write(
        "api.yaml",
        "openapi: 3.0.0\ninfo: { title: a, version: '1' }\ncomponents: { securitySchemes: { key: { type: apiKey, in: header, name: X-Key } } }\n\
         paths:\n  /a: { get: { operationId: open, responses: {} } }\n  \
         /graphql: { get: { operationId: closed, security: [ { key: [] } ], responses: {} } }\n",
    );
    let yaml = filled(
        "
    listeners: [ { bind: 127.0.0.1:$PORT } ]
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    consumers: [ { name: acme, api_keys: [ { hash: '$HASH' } ] } ]
    routes:
      - path: /*
        service: a
        policies: { authn: { api_key: { header: X-Key }, optional: true }, openapi: { file: api.yaml }, graphql: {} }
",
        &[("$BACKEND", backend.port())],
    );
    let key = "acme-key-0123456789";
    let gateway = Gateway::start_in(&files, &yaml.replace("$HASH", &key_hash(key)));
    let ask = |fields: &[(&str, &str)]| request(gateway.port(), "GET", "/graphql?query=%7Ba%7D", fields, b"");
    ask(&[]).assert_problem(401, "openapi", "credentials_needed");
    assert_eq!(backend.requests().len(), 0);
    assert_eq!(ask(&[("X-Key", key)]).status, 200);
    assert_eq!(gateway.wait_lines(2).pop().unwrap()["operation"], "query");
}

const SECURED: &str = "
openapi: 3.0.0
info: { title: Secured, version: '1' }
security: [ { key: [] } ]
paths:
  /open: { get: { operationId: open, security: [], responses: {} } }
  /either: { get: { operationId: either, security: [ {}, { key: [] } ], responses: {} } }
  /keyed: { get: { operationId: keyed, responses: {} } }
  /scoped: { get: { operationId: scoped, security: [ { oauth: [ 'pets:write' ] } ], responses: {} } }
components:
  securitySchemes:
    key: { type: apiKey, in: header, name: X-Key }
    oauth: { type: oauth2, flows: {} }
";

#[test]
fn operations_are_closed_to_whoever_has_not_proved_what_they_need() {
    let backend = Backend::http();
    let files = Files::new();
    files.write("secured.yaml", SECURED);
    let keys: String = ["writer", "reader"]
        .map(|name| {
            let scopes = if name == "writer" { "[ 'pets:write' ]" } else { "[ 'pets:read' ]" };
            format!(
                "\n      - {{ name: {name}, scopes: {scopes}, api_keys: [ {{ hash: 'sha256:{}' }} ] }}",
                sha256(format!("{name}-key-0123456789"))
            )
        })
        .concat();
    let yaml = filled(
        "
    listeners: [ { bind: 127.0.0.1:$PORT } ]
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    consumers:$KEYS
    policies:
      authn: { api_key: { header: X-Key }, optional: true }
    routes:
      - path: /v1/*
        service: a
        policies: { openapi: { file: secured.yaml, schemes: { oauth: api_key } } }
      - path: /trial/*
        service: a
        policies: { openapi: { file: secured.yaml, schemes: { oauth: api_key }, mode: report } }
      - path: /off/*
        service: a
        policies: { authn: false, openapi: { file: secured.yaml, security: off } }
",
        &[("$BACKEND", backend.port())],
    )
    .replace("$KEYS", &keys);
    let gateway = Gateway::start_in(&files, &yaml);
    // A document on trial closes nothing, and whoever switches it on hears of it.
    let checked = portcullis(gateway.dir(), &["check", &gateway.config_path().display().to_string()]);
    let said = format!("{}{}", checked.stdout, checked.stderr);
    assert!(said.contains("`mode: report` refuses nobody") && said.contains("can be asked for without credentials"), "{said}");
    let ask = |path: &str, key: &str| {
        let key = format!("{key}-key-0123456789");
        let fields: Vec<(&str, &str)> = if key.starts_with('-') { Vec::new() } else { vec![("X-Key", &key)] };
        request(gateway.port(), "GET", path, &fields, b"")
    };
    for (path, nobody, reader, writer) in
        [("/v1/open", 200, 200, 200), ("/v1/either", 200, 200, 200), ("/v1/keyed", 401, 200, 200), ("/v1/scoped", 401, 403, 200)]
    {
        assert_eq!(
            [ask(path, "").status, ask(path, "reader").status, ask(path, "writer").status],
            [nobody, reader, writer],
            "{path}"
        );
        assert_eq!(ask(&path.replace("/v1", "/trial"), "").status, 200);
        assert_eq!(ask(&path.replace("/v1", "/off"), "").status, 200);
    }
    let refused = ask("/v1/keyed", "");
    refused.assert_problem(401, "openapi", "credentials_needed");
    assert_eq!(refused.header("www-authenticate"), Some("ApiKey realm=\"api\""));
    ask("/v1/scoped", "reader").assert_problem(403, "openapi", "operation_scope_missing");
    gateway.wait_log(|line| line["decided_by"] == "pets:write" && line["operation"] == "scoped");
    assert_eq!(ask("/v1/keyed", "wrong").status, 401);

    let files = Files::new();
    files.write("secured.yaml", SECURED);
    let check = |policies: &str| {
        let yaml = format!(
            "listeners: [ {{ bind: 127.0.0.1:8080 }} ]\nservices: {{ a: {{ endpoints: [ '127.0.0.1:1' ] }} }}\nroutes:\n  - path: /*\n    service: a\n    policies: {{ {policies} }}\n"
        );
        files.write("gateway.yaml", yaml);
        let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
        (ran.code, format!("{}{}", ran.stdout, ran.stderr))
    };
    let (code, said) = check("openapi: { file: secured.yaml }");
    assert!(code == 1 && said.contains("the operation keyed needs `key`, and nothing here proves it"), "{said}");
    assert!(said.contains("the operation scoped needs `oauth`") && said.contains("gateway.yaml:6:"), "{said}");
    let (code, said) =
        check("authn: { api_key: { header: X-Key } }, openapi: { file: secured.yaml, schemes: { oauth: api_key } }");
    assert_eq!(code, 0, "{said}");
    let (code, said) = check("openapi: { file: secured.yaml, schemes: { ouath: jwt }, security: off }");
    assert_eq!(code, 0, "with `security: off` nothing is needed: {said}");
    let (code, said) = check("authn: { api_key: {} }, openapi: { file: secured.yaml, schemes: { ouath: jwt } }");
    assert!(code == 1 && said.contains("no security scheme `ouath`"), "{said}");
}

const MOCKED: &str = r##"
openapi: 3.1.0
info: { title: Mocked, version: '1' }
paths:
  /pets/{id}:
    get:
      operationId: getPet
      responses:
        "404": { content: { application/problem+json: { example: { title: gone } } } }
        "200":
          content:
            application/json:
              examples:
                cat: { value: { name: tom } }
                dog: { $ref: "#/components/examples/dog" }
            text/plain: { example: a pet }
        default: { content: { application/json: { schema: { $ref: "#/components/schemas/Tree" } } } }
    delete: { responses: { "204": { description: gone } } }
  /trees:
    post:
      requestBody: { content: { application/json: { schema: { $ref: "#/components/schemas/Tree" } } } }
      responses: { "201": { content: { application/json: { schema: { $ref: "#/components/schemas/Tree" } } } } }
components:
  examples: { dog: { value: { name: rex } } }
  schemas:
    Tree:
      type: object
      required: [ name, code, secret ]
      properties:
        name: { type: string, minLength: 3, maxLength: 6 }
        code: { type: string, pattern: "^[A-Z]{2}-[0-9]+$" }
        amount: { type: integer, exclusiveMinimum: 4, multipleOf: 3 }
        secret: { type: string, writeOnly: true }
        below: { type: array, items: { $ref: "#/components/schemas/Tree" }, minItems: 1 }
"##;

#[test]
fn mocks_answer_from_the_document() {
    let files = Files::new();
    files.write("mocked.yaml", MOCKED);
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        policies: { cors: { origins: https://app.test } }
        routes:
          - { path: /v1/*, mock: { openapi: mocked.yaml }, policies: { openapi: { file: mocked.yaml } } }
          - { path: /fixed/*, mock: { openapi: mocked.yaml, prefer: false } }
    ";
    let gateway = Gateway::start_in(&files, yaml);
    let ask = |path: &str, fields: &[(&str, &str)]| request(gateway.port(), "GET", path, fields, b"");
    let first = ask("/v1/pets/7", &[("Origin", "https://app.test")]);
    assert_eq!((first.status, first.json()), (200, json!({ "name": "tom" })));
    assert_eq!(first.header("access-control-allow-origin"), Some("https://app.test"), "answers pass the route's policies");
    assert!(first.all("vary").contains(&"Prefer, Accept"), "{first:?}");
    assert_eq!(ask("/fixed/pets/7", &[]).header("vary"), Some("Accept"));
    for (prefer, status, body) in [
        ("example=dog", 200, json!({ "name": "rex" })),
        ("code=404", 404, json!({ "title": "gone" })),
        ("Code=\"200\" , example=cat", 200, json!({ "name": "tom" })),
        ("respond-async", 200, json!({ "name": "tom" })),
    ] {
        let answer = ask("/v1/pets/7", &[("Prefer", prefer)]);
        assert_eq!((answer.status, answer.json()), (status, body), "{prefer}");
    }
    assert_eq!(ask("/v1/pets/7", &[("Prefer", "code=404")]).header("content-type"), Some("application/problem+json"));
    let made = ask("/v1/pets/7", &[("Prefer", "code=418")]);
    assert_eq!((made.status, &made.json()["code"]), (418, &json!("AA-0")), "`default` stands for any: {}", made.text());
    ask("/v1/pets/7", &[("Prefer", "example=cow")]).assert_problem(404, "route", "no_example");
    for accept in ["text/plain", "application/json;q=0.5, text/plain;q=0.9", "*/*;q=0.1, TEXT/*"] {
        let plain = ask("/v1/pets/7", &[("Accept", accept)]);
        assert_eq!((plain.text().as_str(), plain.header("content-type")), ("a pet", Some("text/plain")), "{accept}");
    }
    assert_eq!(ask("/fixed/pets/7", &[("Prefer", "code=404")]).status, 200);
    ask("/v1/none", &[]).assert_problem(404, "openapi", "no_operation");
    ask("/fixed/none", &[]).assert_problem(404, "route", "no_operation");
    let head = request(gateway.port(), "HEAD", "/v1/pets/7", &[], b"");
    assert_eq!((head.status, head.header("content-length")), (200, Some("14")));
    let gone = request(gateway.port(), "DELETE", "/v1/pets/7", &[], b"");
    assert_eq!((gone.status, gone.header("content-length")), (204, None));
    let put = request(gateway.port(), "PUT", "/fixed/pets/7", &[], b"");
    assert_eq!((put.status, put.header("allow")), (405, Some("GET, HEAD, DELETE")));

    let post =
        |body: &str| request(gateway.port(), "POST", "/v1/trees", &[("Content-Type", "application/json")], body.as_bytes());
    let made = post(r#"{"name":"oak","code":"AB-1","secret":"x"}"#);
    assert_eq!(made.status, 201, "{}", made.text());
    let tree = made.json();
    let name = tree["name"].as_str().unwrap().len();
    assert!((3..=6).contains(&name) && tree["code"] == "AA-0" && tree["amount"] == 6, "{tree}");
    assert!(tree.get("secret").is_none() && tree["below"][0].is_object(), "{tree}");
    assert!(made.text().len() < 10_000, "what is within itself ends somewhere");
    assert_eq!(
        errors(&post(r#"{"name":"oak"}"#)),
        ["body : required", "body : required"],
        "a mocked route can be held to the document too"
    );
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        assert_eq!(curl(&[version, &gateway.url("/v1/pets/7")]).json(), json!({ "name": "tom" }), "{version}");
    }
    let line = gateway.wait_log(|line| line["path"] == "/v1/trees" && line["status"] == 201);
    assert_eq!((&line["answered_by"], &line["operation"]), (&json!("mock"), &json!("POST /trees")));
    files.write("mocked.yaml", MOCKED.replace("name: tom", "name: kitty"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(ask("/v1/pets/7", &[]).json(), json!({ "name": "kitty" }));
}

/// A document need not say more of an answer than its media type.
#[test]
fn a_mock_without_an_example_says_what_it_is() {
    let files = Files::new();
    files.write(
        "bare.yaml",
        r##"
openapi: 3.1.0
info: { title: t, version: "1" }
paths:
  /events: { get: { responses: { "200": { description: d, content: { text/event-stream: {} } } } } }
  /made: { get: { responses: { "200": { description: d, content: { text/event-stream: { schema: { type: object, required: [id], properties: { id: { const: 7 } } } } } } } } }
  /written: { get: { responses: { "200": { description: d, content: { text/event-stream: { example: "event: a\ndata: 1\n\n" } } } } } }
  /text: { get: { responses: { "200": { description: d, content: { text/csv: {} } } } } }
  /json: { get: { responses: { "200": { description: d, content: { application/json: {} } } } } }
"##,
    );
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        routes: [ { path: /*, mock: { openapi: bare.yaml } } ]
    ";
    let gateway = Gateway::start_in(&files, yaml);
    for (path, kind, body) in [
        ("/events", "text/event-stream", ""),
        ("/made", "text/event-stream", "data: {\"id\":7}\n\n"),
        ("/written", "text/event-stream", "event: a\ndata: 1\n\n"),
        ("/text", "text/csv", ""),
        ("/json", "application/json", "null"),
    ] {
        let answer = get(gateway.port(), path);
        assert_eq!((answer.status, answer.header("content-type"), answer.text().as_str()), (200, Some(kind), body), "{path}");
    }
}

#[test]
fn bodies_are_what_they_claim_to_be_without_a_document_too() {
    let backend = Backend::http();
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - { path: /*, service: a, policies: { validate: { form: true, multipart: true, xml: true, max_body: 100B } } }
        ",
        &[("$BACKEND", backend.port())],
    );
    served(&yaml, |gateway| {
        let post = |kind: &str, body: &str| request(gateway.port(), "POST", "/", &[("Content-Type", kind)], body.as_bytes());
        let (form, multipart) = ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x");
        for (kind, good, bad, reason) in [
            (form, "a=%20&b", "a=%zz", "form_malformed"),
            (multipart, "--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--x--", "--x\r\n", "multipart_malformed"),
            ("multipart/form-data", "", "--x--", "multipart_malformed"),
            ("text/xml; charset=utf-8", "<a/>", "<!DOCTYPE a><a/>", "xml_malformed"),
            ("image/svg+xml", "<a/>", "<a>", "xml_malformed"),
        ] {
            assert_eq!(post(kind, good).status, 200, "{kind}");
            post(kind, bad).assert_problem(400, "validate", reason);
        }
        for kind in [form, multipart, "text/xml"] {
            post(&format!("{kind}; charset=utf-7"), "+ADw-a+AD4-").assert_problem(415, "validate", "charset_unsupported");
            let twice = [("Content-Type", "text/plain"), ("Content-Type", kind)];
            request(gateway.port(), "POST", "/", &twice, b"<").assert_problem(400, "validate", "ambiguous_content_type");
        }
        assert_eq!(post("application/octet-stream", "\u{1}").status, 200);
        assert_eq!(post(form, &"a".repeat(101)).status, 413);
        let h2 = curl(&["--http2-prior-knowledge", "-H", "Content-Type: text/xml", "-d", "<a>", &gateway.url("/")]);
        h2.assert_problem(400, "validate", "xml_malformed");
    });
}

/// What clients get is what the document says, whatever the service has sent and `reshape` has made of it.
#[test]
fn answers_are_judged_as_clients_get_them() {
    let backend = Backend::answering(|request| {
        let body = match request.target.as_str() {
            "/v1/pets?other" => r#"[{"ident":1,"name":"rex"}]"#,
            _ => r#"[{"id":1,"name":"rex"}]"#,
        };
        let kind = if request.target.ends_with("html") { "text/html" } else { "application/json" };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
        if request.method == "HEAD" { head.into_bytes() } else { format!("{head}{body}").into_bytes() }
    });
    let files = Files::new();
    files.write("petstore.yaml", PETSTORE);
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        policies: { compress: { min_size: 1B } }
        routes:
          - path: /v1/*
            service: a
            policies: { openapi: { file: petstore.yaml, answers: enforce }, reshape: { response: [ { rename: { '/*/ident': id } } ] } }
          - path: /broken/*
            service: a
            policies: { openapi: { file: petstore.yaml, answers: enforce }, reshape: { response: [ { rename: { '/*/id': ident } } ] } }
          - { path: /plain/*, service: a, policies: { openapi: { file: petstore.yaml, answers: enforce } } }
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start_in(&files, &yaml);
    assert_eq!(get(gateway.port(), "/v1/pets?other").text(), r#"[{"id":1,"name":"rex"}]"#);
    let coded = request(gateway.port(), "GET", "/v1/pets?other", &[("Accept-Encoding", "gzip")], b"");
    assert_eq!((coded.status, coded.header("content-encoding")), (200, Some("gzip")), "it is coded behind that");
    get(gateway.port(), "/broken/pets").assert_problem(502, "openapi", "answer_breaks_contract");
    for method in ["GET", "HEAD"] {
        assert_eq!(request(gateway.port(), method, "/plain/pets?html", &[], b"").status, 502, "{method}");
        assert_eq!(request(gateway.port(), method, "/plain/pets", &[], b"").status, 200, "{method}");
    }
    let printed = portcullis(gateway.dir(), &["routes", "-c", "gateway.yaml"]);
    let back = printed.stdout.lines().find(|line| line.contains("reshape") && line.contains("openapi"));
    assert!(
        back.is_some_and(|line| line.rfind("reshape") < line.rfind("openapi") && line.rfind("openapi") < line.rfind("compress")),
        "{}",
        printed.stdout
    );
}
