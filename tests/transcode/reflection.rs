//! Services that say themselves what their methods are, as PyPI's `grpcio-reflection` says it.

use super::*;

/// What a server says: it is read anew whenever it is asked.
struct Saying<'f>(&'f Files);

impl Saying<'_> {
    fn path(&self) -> String {
        self.0.dir().join("said").to_str().unwrap().to_owned()
    }

    /// These services, of this set.
    fn says(&self, services: &str, set: impl AsRef<[u8]>) {
        self.0.write("said.pb", set.as_ref());
        self.0.write("said", services);
    }
}

fn reflecting(files: &Files, mode: &str) -> Peer {
    let packages = installed("grpcio-reflection", &["tests/transcode/install.sh"]);
    let set = files.write("all.pb", descriptors());
    Peer::start("rest_grpc.py", &[set.to_str().unwrap(), mode, packages.to_str().unwrap()])
}

fn yaml(port: u16, transcode: &str) -> String {
    format!(
        "
    listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]
    server: {{ workers: 1 }}
    services:
      shop:
        endpoints: ['127.0.0.1:{port}']
        protocol: grpc
        transcode: {transcode}
    routes:
      - {{ path: '/*', service: shop }}
"
    )
}

fn standing(gateway: &Gateway) -> Value {
    let upstreams: Value = serde_json::from_str(&gateway.admin_get("/upstreams").1).unwrap();
    upstreams["services"][0]["reflection"].clone()
}

#[track_caller]
fn until_known(gateway: &Gateway) {
    eventually("the service has said what its methods are", || standing(gateway)["known"] == true);
}

/// A catalogue with one method that is bound to this path.
fn bound(path: &str) -> Vec<u8> {
    let files = Files::new();
    let proto = format!(
        "syntax = \"proto3\"; package shop.v1; import \"google/api/annotations.proto\";
        message GetProductRequest {{ string sku = 1; }} message Product {{ string sku = 1; string name = 2; }}
        service Catalog {{ rpc GetProduct(GetProductRequest) returns (Product) {{ option (google.api.http) = {{ get: \"{path}\" }}; }} }}"
    );
    files.write("bound.proto", proto);
    let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/transcode/protos");
    let mut compiler = protox::Compiler::new([files.dir().to_owned(), known]).unwrap();
    compiler.include_imports(true).open_file("bound.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

#[test]
fn a_service_says_itself_which_methods_it_has() {
    for version in ["v1", "v1alpha"] {
        let files = Files::new();
        let saying = Saying(&files);
        saying.says("catalogService shop.v1.Catalog grpc.reflection.v1alpha.ServerReflection", descriptors());
        let server = reflecting(&files, &format!("{version}:{}", saying.path()));
        let rule = "{ reflection: true, rules: [ { method: catalogService.getProduct, get: '/products/{sku}' } ] }";
        let gateway = Gateway::start(&yaml(server.port(), rule));
        until_known(&gateway);
        let answer = get(gateway.port(), "/products/SKU-789");
        assert_eq!(answer.text(), r#"{"sku":"SKU-789","name":"Wireless Headphones","price":79.99}"#, "{version}");
        // The annotations came along, and so did what everybody knows.
        assert_eq!(get(gateway.port(), "/v1/products/a").json()["sku"], "a");
        let echo = r#"{"time":"2026-01-31T12:00:00Z","any":{"@type":"type.googleapis.com/shop.v1.Inside","name":"in"}}"#;
        assert_eq!(
            request(gateway.port(), "POST", "/v1/echo", &[("Content-Type", "application/json")], echo.as_bytes()).text(),
            echo
        );
        let failed = get(gateway.port(), "/v1/fail/5?details=google.rpc.ErrorInfo%3Dreason:OUT");
        failed.assert_problem(404, "transcode", "call_failed");
        assert_eq!(failed.json()["details"][0]["reason"], "OUT");
        assert_eq!(get(gateway.port(), "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo").status, 404);
        let standing = standing(&gateway);
        assert_eq!(standing["services"], json!(["catalogService", "shop.v1.Catalog"]), "{standing}");
        assert_eq!((&standing["methods"], &standing["failing"]), (&json!(12), &Value::Null), "{standing}");
        assert_eq!(gateway.metric("portcullis_reflections_total{service=\"shop\",outcome=\"learned\"}"), 1.0);
        assert_eq!(gateway.metric("portcullis_reflected_methods{service=\"shop\"}"), 12.0);
    }
}

#[test]
fn what_is_named_alone_can_be_called() {
    let files = Files::new();
    let saying = Saying(&files);
    saying.says("catalogService shop.v1.Catalog", descriptors());
    let server = reflecting(&files, &format!("v1alpha:{}", saying.path()));
    let gateway = Gateway::start(&yaml(server.port(), "{ reflection: true, services: shop.v1.Catalog }"));
    until_known(&gateway);
    assert_eq!(get(gateway.port(), "/v1/products/a").status, 200);
    let answer = request(gateway.port(), "POST", "/catalogService/getProduct", &[], b"{}");
    answer.assert_problem(404, "transcode", "no_rule");
}

#[test]
fn as_long_as_nothing_is_known_that_is_said() {
    let files = Files::new();
    let set = files.write("all.pb", descriptors());
    let server = Peer::start("rest_grpc.py", &[set.to_str().unwrap()]);
    let gateway = Gateway::start(&yaml(server.port(), "{ reflection: true }"));
    eventually("it was asked in vain", || {
        let failing = standing(&gateway)["failing"].as_str().unwrap_or_default().to_owned();
        failing.contains("neither v1 nor v1alpha")
    });
    let answer = get(gateway.port(), "/v1/products/a");
    answer.assert_problem(503, "transcode", "methods_unknown");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(gateway.stderr().contains("nothing is known of them yet"), "{}", gateway.stderr());
    let line = gateway.wait_log(|line| line["path"] == "/v1/products/a");
    assert_eq!((&line["reason"], &line["endpoint"]), (&json!("methods_unknown"), &Value::Null), "{line}");
    // Whoever speaks gRPC needs none of that.
    let message = [&[0, 0, 0, 0, 3][..], b"\x0a\x01a"].concat();
    let kind = [("Content-Type", "application/grpc-web")];
    let answer = request(gateway.port(), "POST", "/shop.v1.Catalog/GetProduct", &kind, &message);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/grpc-web")), "{}", answer.text());
    assert!(gateway.metric("portcullis_reflections_total{service=\"shop\",outcome=\"failed\"}") >= 1.0);
}

#[test]
fn what_changes_is_picked_up_and_what_is_worse_is_not() {
    let files = Files::new();
    let saying = Saying(&files);
    saying.says("shop.v1.Catalog", bound("/one/{sku}"));
    let server = reflecting(&files, &format!("v1alpha:{}", saying.path()));
    let yaml = yaml(server.port(), "{ reflection: { refresh: 1s } }");
    let gateway = Gateway::start(&yaml);
    until_known(&gateway);
    assert_eq!(get(gateway.port(), "/one/a").json()["sku"], "a");
    saying.says("shop.v1.Catalog", bound("/two/{sku}"));
    eventually("the new path is there", || get(gateway.port(), "/two/a").status == 200);
    get(gateway.port(), "/one/a").assert_problem(404, "transcode", "no_rule");
    let learned = || gateway.metric("portcullis_reflections_total{service=\"shop\",outcome=\"learned\"}");
    assert_eq!(learned(), 2.0);
    // What cannot be compiled.
    saying.says("shop.v1.Catalog", bound("/three/{none}"));
    eventually("it says why", || standing(&gateway)["failing"].as_str().unwrap_or_default().contains("`none`"));
    assert_eq!(get(gateway.port(), "/two/a").status, 200);
    // A reload that is about something else, and one that is about this: what is known stays.
    for other in [yaml.replace("service: shop }", "service: shop, timeout: 9s }"), yaml.replace("refresh: 1s", "refresh: 2s")] {
        gateway.rewrite(&other);
        assert_eq!(gateway.reload().0, 200);
        assert_eq!(get(gateway.port(), "/two/a").status, 200);
    }
    saying.says("shop.v1.Catalog", bound("/four/{sku}"));
    eventually("it is well again", || get(gateway.port(), "/four/a").status == 200);
    assert_eq!(standing(&gateway)["failing"], Value::Null);
    // A rule that fits is in force at once; one that does not is a problem of the file, and so is a service that there is not.
    gateway.rewrite(&yaml.replace("1s }", "1s }, rules: [ { method: shop.v1.Catalog.GetProduct, get: '/five/{sku}' } ]"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(get(gateway.port(), "/five/a").status, 200);
    get(gateway.port(), "/four/a").assert_problem(404, "transcode", "no_rule");
    for wrong in ["rules: [ { method: shop.v1.Catalog.GetProducts, get: '/six/{sku}' } ]", "services: shop.v1.Catalogue"] {
        gateway.rewrite(&yaml.replace("1s }", &format!("1s }}, {wrong}")));
        let (status, told) = gateway.reload();
        assert!(status != 200 && told.to_string().contains("does not fit"), "{status} {told}");
        assert_eq!(get(gateway.port(), "/five/a").status, 200);
    }
    drop(server);
    eventually("it says why", || standing(&gateway)["failing"].is_string());
    assert_eq!(standing(&gateway)["known"], true);
}

#[test]
fn a_server_that_means_harm_is_given_up() {
    for (how, why) in [
        ("circle", "imports itself"),
        ("endless", "more than 2000 files"),
        ("large", "16 MiB"),
        ("garbage", "no descriptor"),
        ("chatty", "none to what it was asked"),
        ("lines", "one level=ERROR two"),
        ("silent", "within 10 seconds"),
    ] {
        let files = Files::new();
        let server = reflecting(&files, &format!("v1:!{how}"));
        // A start does not wait for it.
        let gateway = Gateway::start(&yaml(server.port(), "{ reflection: true }"));
        get(gateway.port(), "/v1/products/a").assert_problem(503, "transcode", "methods_unknown");
        // It may take its ten seconds, whoever else is busy here.
        let late = "within 10 seconds";
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let failing = standing(&gateway)["failing"].as_str().unwrap_or_default().to_owned();
            if failing.contains(why) || how == "endless" && failing.contains(late) {
                break;
            }
            assert!(std::time::Instant::now() < until, "{how}: {failing}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(standing(&gateway)["failing"].as_str().unwrap().len() < 1000);
        assert!(gateway.resident() < 400 << 20, "{how}: {}", gateway.resident());
    }
}

#[test]
fn what_cannot_be_asked_for_is_told() {
    let files = Files::new();
    for (transcode, said) in [
        ("{ reflection: true, protos: x.proto }", "`protos` has no place beside `reflection`"),
        ("{ reflection: true, descriptors: x.pb }", "`descriptors` has no place beside `reflection`"),
        ("{ reflection: { refresh: 10ms } }", "`refresh`"),
        ("{ reflection: { refesh: 10s } }", "refresh"),
        ("{ reflection: yes-please }", "`true`, `false` or"),
        ("{ reflection: false }", "needs to know the service's methods"),
        ("{ reflection: true, max_message: 1 }", "`max_message`"),
        ("{ reflection: true, rules: [ { method: a.B.C } ] }", "one of `get`, `put`"),
        ("{ reflection: true, rules: [ { method: a.B.C, get: '/{' } ] }", "`/{`"),
    ] {
        let told = bad::checked(&files, transcode);
        assert!(told.contains(said), "{transcode}: {told}");
    }
}
