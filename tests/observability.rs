//! What a request leaves behind: its log line and its counts. And the admin API's guard.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::{Client, Gateway, Port, eventually, get, raw, request};
use crate::peers::{Act, Origin, Wrk, answer};

fn yaml(origin: &Origin, more: &str) -> String {
    format!(
        "listeners:\n  - name: door\n    bind: 127.0.0.1:$PORT\nserver:\n  workers: 2\nservices:\n  origin:\n    endpoints: \
         [127.0.0.1:{}]\nroutes:\n  - id: plain\n    path: /plain/*\n    service: origin\n  - id: limited\n    path: /limited\n    \
         service: origin\n    policies:\n      rate_limit: {{ limit: 1/hour }}\n  - id: small\n    path: /small\n    service: origin\n    \
         methods: POST\n    policies:\n      bounds: {{ max_body: 8 }}\n{more}",
        origin.port()
    )
}

fn origin() -> Origin {
    Origin::start(|asked| {
        if asked.target.starts_with("/plain/slow") {
            std::thread::sleep(Duration::from_millis(120));
        }
        Act::Send(answer(200, &[], "hello, world"))
    })
}

/// Every series of a scrape, after a look at whether Prometheus could read it.
fn scrape(gateway: &Gateway) -> BTreeMap<String, f64> {
    let (status, text) = gateway.admin_get("/metrics");
    assert_eq!(status, 200);
    let mut series = BTreeMap::new();
    let (mut helped, mut typed) = (Vec::new(), Vec::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            helped.push(rest.split(' ').next().unwrap().to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            typed.push(name.to_owned());
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no series: {line}"));
            let bare = name.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| bare.strip_suffix(end)).unwrap_or(bare);
            assert!(typed.iter().any(|known| known == family || known == bare), "{line}: of no family");
            assert!(name.contains('{') == name.ends_with('}'), "{line}");
            let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap() };
            assert!(series.insert(name.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    assert_eq!(helped, typed);
    series
}

/// The sum over the series of a family whose labels contain all of `labels`.
fn sum(series: &BTreeMap<String, f64>, family: &str, labels: &[&str]) -> f64 {
    let of = |name: &str| name.split('{').next() == Some(family) && labels.iter().all(|label| name.contains(label));
    series.iter().filter(|(name, _)| of(name)).map(|(_, value)| value).sum()
}

#[test]
fn a_proxied_request_leaves_a_whole_line() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin, ""));
    let headers = [
        ("Host", "Shop.Example:8080"),
        ("User-Agent", "tester \"1\"\t\u{e9}"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ];
    let answer = request(gateway.port(), "POST", "/plain/slow?token=secret", &headers, b"12345");
    assert_eq!(answer.status, 200);
    let line = gateway.wait_log(|line| line["method"] == "POST");
    for (field, expected) in [
        ("client", "127.0.0.1"),
        ("listener", "door"),
        ("protocol", "h1"),
        ("host", "shop.example"),
        ("path", "/plain/slow"),
        ("route", "plain"),
        ("service", "origin"),
        ("answered_by", "upstream"),
        ("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736"),
    ] {
        assert_eq!(line[field], expected, "{field} in {line}");
    }
    assert_eq!(line["endpoint"], format!("127.0.0.1:{}", origin.port()));
    assert_eq!(line["request_id"], answer.header("x-request-id").unwrap());
    assert_eq!((&line["status"], &line["bytes_in"], &line["bytes_out"]), (&200.into(), &5.into(), &12.into()));
    assert_eq!(line["generation"], 1);
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(line["user_agent"].as_str().unwrap().starts_with("tester \"1\""));
    let (total, upstream) = (line["duration_us"].as_u64().unwrap(), line["upstream_us"].as_u64().unwrap());
    assert!(120_000 <= upstream && upstream <= total && total < 5_000_000, "{line}");
    assert!(line.get("reason").is_none() && line.get("retries").is_none() && line.get("cache").is_none(), "{line}");
    assert!(!line.to_string().contains("secret"), "queries carry credentials: {line}");
    let time = line["time"].as_str().unwrap();
    let age = jiff::Timestamp::now().duration_since(time.parse().unwrap());
    assert!(age.as_secs_f64() < 30.0 && age.as_secs_f64() > 0.1, "{time}");
}

#[test]
fn a_refused_request_leaves_one_too() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin, ""));
    let port = gateway.port();
    assert_eq!(get(port, "/limited").status, 200);
    assert_eq!(get(port, "/limited").status, 429);
    assert_eq!(get(port, "/nowhere").status, 404);
    assert_eq!(get(port, "/small").status, 405);
    let long = request(port, "POST", "/small", &[], b"123456789");
    assert_eq!(long.status, 413);
    raw(port, b"GET /plain/x HTTP/1.1\r\nHost : a\r\n\r\n");
    for (status, policy, reason, route) in [
        (429, "rate_limit", "rate_limited", Some("limited")),
        (404, "route", "no_route", None),
        (405, "route", "method_not_allowed", None),
        (413, "bounds", "body_too_large", Some("small")),
    ] {
        let line = gateway.wait_log(|line| line["status"] == status);
        assert_eq!((&line["answered_by"], &line["reason"]), (&policy.into(), &reason.into()), "{line}");
        assert_eq!(line.get("route").and_then(|route| route.as_str()), route, "{line}");
        assert!(line.get("endpoint").is_none() && line.get("upstream_us").is_none(), "{line}");
        assert!(line["bytes_out"].as_u64().unwrap() > 50, "a problem body was sent: {line}");
        assert!(line["duration_us"].as_u64().unwrap() < 2_000_000, "{line}");
        let series = scrape(&gateway);
        let (policy, reason) = (format!("policy=\"{policy}\""), format!("reason=\"{reason}\""));
        assert_eq!(sum(&series, "portcullis_refusals_total", &[&policy, &reason]), 1.0);
    }
    let malformed = gateway.wait_log(|line| line["status"] == 400);
    assert_eq!(malformed["answered_by"], "door");
    assert!(malformed["reason"].is_string() && malformed["client"] == "127.0.0.1", "{malformed}");
    let series = scrape(&gateway);
    assert_eq!(sum(&series, "portcullis_refusals_total", &[]), 5.0);
    assert_eq!(sum(&series, "portcullis_requests_total", &["status_class=\"4xx\""]), 5.0);
    assert_eq!(sum(&series, "portcullis_requests_total", &["route=\"-\""]), 3.0);
    assert_eq!(origin.asked().len(), 1, "what is refused never touches a backend");
    assert_eq!(gateway.log().len(), 6);
}

#[test]
fn stages_and_who_it_was_are_logged() {
    let origin = origin();
    let secret = "0123456789abcdef0123456789abcdef0123456789abcdef";
    let more = "  - id: mine\n    path: /mine\n    service: origin\n    policies:\n      authn: { jwt: { algorithms: [HS256], \
                keys: [{ secret: \"${JWT_SECRET}\" }] } }\nconsumers:\n  - name: shop\n    subjects: [alice]\n";
    let gateway = Gateway::start_with(&yaml(&origin, more), &[("JWT_SECRET", secret)]);
    let claims = serde_json::json!({ "sub": "alice", "exp": 4_000_000_000u64 });
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
    let bearer = format!("Bearer {token}");
    assert_eq!(request(gateway.port(), "GET", "/mine", &[("Authorization", &bearer)], b"").status, 200);
    let line = gateway.wait_log(|line| line["route"] == "mine");
    assert_eq!((&line["consumer"], &line["subject"]), (&"shop".into(), &"alice".into()), "{line}");
    let authn = line["stages_us"]["authn"].as_u64().expect("a signature takes more than a microsecond");
    assert!(authn <= line["duration_us"].as_u64().unwrap(), "{line}");
    assert!(!line.to_string().contains(&token), "{line}");
    assert!(!gateway.stderr().contains(&token));
    let (_, config) = gateway.admin_get("/config");
    assert!(!config.contains(secret), "{config}");
}

#[test]
fn a_client_that_goes_away_is_logged_as_such() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin, ""));
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/plain/slow", &[], b"");
    eventually("the backend was asked", || origin.count("/plain/slow") == 1);
    client.reset();
    let line = gateway.wait_log(|line| line["path"] == "/plain/slow");
    assert_eq!((&line["status"], &line["answered_by"]), (&499.into(), &"client".into()), "{line}");
}

#[test]
fn under_load_every_request_is_logged_and_counted() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin, ""));
    let load = Wrk::start(gateway.port(), "/plain/a", 3, 16).finish();
    assert!(load.failures.is_empty(), "{load:?}");
    assert!(load.requests > 100, "{load:?}");
    eventually("nothing is in flight, and everything is counted and logged", || {
        let counted = gateway.metric("portcullis_requests_total");
        gateway.metric("portcullis_in_flight") == 0.0 && counted > 0.0 && gateway.log().len() as f64 == counted
    });
    let series = scrape(&gateway);
    let counted = sum(&series, "portcullis_requests_total", &["route=\"plain\""]);
    // wrk does not count those that it cuts off at its end.
    assert!(counted >= load.requests as f64 && counted <= load.requests as f64 + 16.0, "{counted} of {load:?}");
    assert_eq!(sum(&series, "portcullis_access_log_dropped_total", &[]), 0.0);
    let log = gateway.log();
    assert_eq!(log.len() as f64, counted);
    let mut ids: Vec<_> = log.iter().map(|line| line["request_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), log.len(), "request ids are unique");
    let ok = sum(&series, "portcullis_requests_total", &["route=\"plain\"", "status_class=\"2xx\""]);
    assert_eq!(log.iter().filter(|line| line["status"] == 200).count() as f64, ok);

    // The histogram counts what the counter counts, and its buckets only grow.
    let name = "portcullis_request_duration_seconds";
    assert_eq!(series[&format!("{name}_count{{route=\"plain\"}}")], counted);
    let prefix = format!("{name}_bucket{{");
    let (_, text) = gateway.admin_get("/metrics");
    let buckets: Vec<f64> = text
        .lines()
        .filter(|line| line.starts_with(&prefix) && line.contains("route=\"plain\""))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
        .collect();
    assert!(buckets.len() > 20, "too coarse for a p99: {} buckets", buckets.len());
    assert!(buckets.is_sorted());
    assert_eq!(*buckets.last().unwrap(), counted);
    let spent = series[&format!("{name}_sum{{route=\"plain\"}}")];
    let logged = log.iter().map(|line| line["duration_us"].as_u64().unwrap() as f64 / 1e6).sum::<f64>();
    assert!((spent - logged).abs() <= spent * 0.02 + 0.01, "{spent} s counted, {logged} s logged");
    assert_eq!(series["portcullis_upstream_duration_seconds_count{service=\"origin\"}"], ok);
    let bytes = log.iter().map(|line| line["bytes_out"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(series["portcullis_sent_bytes_total{route=\"plain\"}"], bytes as f64);
}

/// What a service costs is seen where it fails, too: a service that times out must not look quick because only its good answers count.
#[test]
fn failures_enter_the_histogram_of_a_service() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Gateway::start(&format!(
        "
        server: {{ workers: 1 }}
        listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
        services: {{ silent: {{ endpoints: ['{}'], timeouts: {{ response: 300ms }} }} }}
        routes: [ {{ path: /*, service: silent }} ]
        ",
        silent.local_addr().unwrap()
    ));
    assert_eq!(get(gateway.port(), "/").status, 504);
    let line = gateway.wait_log(|line| line["status"] == 504);
    assert!(line["upstream_us"].as_u64().unwrap() >= 300_000, "{line}");
    gateway.wait_metric("portcullis_upstream_duration_seconds_count{service=\"silent\"}", 1.0);
    let seconds = gateway.metric("portcullis_upstream_duration_seconds_sum{service=\"silent\"}");
    assert!((0.3..5.0).contains(&seconds), "{seconds}");
}

#[test]
fn clients_cannot_make_series() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin, ""));
    // One of each first, so that the series that there may be are there.
    get(gateway.port(), "/plain/x");
    get(gateway.port(), "/nowhere");
    request(gateway.port(), "BREW", "/plain/x", &[], b"");
    request(gateway.port(), "BREW", "/nowhere", &[], b"");
    // A request is counted after it was answered.
    eventually("they are counted", || gateway.metric("portcullis_requests_total") == 4.0);
    let before = scrape(&gateway);
    for number in 0..250 {
        let (path, method, host) = (format!("/random/{number}"), format!("M{number}"), format!("h{number}.example"));
        get(gateway.port(), &path);
        get(gateway.port(), &format!("/plain/{number}"));
        request(gateway.port(), &method, &format!("/plain/{number}"), &[("Host", &host)], b"");
        request(gateway.port(), &method, &path, &[("Host", &host), ("User-Agent", &host)], b"");
    }
    eventually("they are counted, too", || gateway.metric("portcullis_requests_total") == 1004.0);
    let after = scrape(&gateway);
    let (before, after): (Vec<_>, Vec<_>) = (before.into_keys().collect(), after.into_keys().collect());
    let new: Vec<_> = after.iter().filter(|name| !before.contains(name)).collect();
    assert!(new.is_empty(), "{new:?}");
    assert!(after.len() < 1000, "{} series", after.len());
}

#[test]
fn the_process_tells_what_it_is() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin, ""));
    let series = scrape(&gateway);
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(sum(&series, "portcullis_build_info", &[&version]), 1.0);
    assert_eq!(series["portcullis_config_generation"], 1.0);
    assert_eq!(series["portcullis_reloads_total{result=\"applied\"}"], 1.0);
    let kept = Client::connect(gateway.port());
    eventually("an open connection is counted", || gateway.metric("portcullis_connections{listener=\"door\"}") == 1.0);
    drop(kept);
    eventually("and no longer", || gateway.metric("portcullis_connections{listener=\"door\"}") == 0.0);
    assert_eq!(gateway.admin_get("/healthz").0, 200);
    assert_eq!(gateway.admin_get("/readyz").0, 200);
    let (status, routes) = gateway.admin_get("/routes");
    assert_eq!(status, 200);
    let routes: serde_json::Value = serde_json::from_str(&routes).unwrap();
    assert_eq!(routes["routes"].as_array().unwrap().len(), 3);
    assert_eq!(gateway.admin_get("/nothing").0, 404);
}

#[test]
fn the_log_can_be_rotated() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin, ""));
    let (file, old) = (gateway.dir().join("access.log"), gateway.dir().join("access.log.1"));
    for _ in 0..5 {
        get(gateway.port(), "/plain/before");
    }
    eventually("the first lines are written", || {
        gateway.log().iter().filter(|line| line["path"] == "/plain/before").count() == 5
    });
    std::fs::rename(&file, &old).unwrap();
    get(gateway.port(), "/plain/between");
    gateway.signal("HUP");
    eventually("the log is opened anew", || file.exists());
    for _ in 0..5 {
        get(gateway.port(), "/plain/after");
    }
    let lines = |path: &std::path::Path, what: &str| {
        std::fs::read_to_string(path).unwrap_or_default().lines().filter(|line| line.contains(what)).count()
    };
    eventually("what came after is in the new file", || lines(&file, "/plain/after") == 5);
    assert_eq!(lines(&old, "/plain/before"), 5);
    assert_eq!(lines(&old, "/plain/between") + lines(&file, "/plain/between"), 1);
    assert_eq!(lines(&old, "/plain/after") + lines(&file, "/plain/before"), 0);
}

#[test]
fn a_full_disk_hurts_nobody_but_the_log() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin, "access_log:\n  output: { file: /dev/full }\n  queue: 64\n"));
    for _ in 0..400 {
        assert_eq!(get(gateway.port(), "/plain/a").status, 200);
    }
    eventually("errors are counted", || gateway.metric("portcullis_access_log_errors_total") > 0.0);
    assert!(gateway.metric("portcullis_access_log_dropped_total") > 0.0, "the queue is bounded");
    assert_eq!(gateway.metric("portcullis_access_log_lines_total"), 0.0);
    let counted = "portcullis_requests_total{method=\"GET\",route=\"plain\",status_class=\"2xx\"}";
    eventually("all are counted", || gateway.metric(counted) == 400.0);
    assert!(gateway.stderr().contains("access log"), "it is said, too: {}", gateway.stderr());
    // And a configuration with a log that works puts it right.
    gateway.rewrite(&yaml(&origin, "access_log:\n  output: { file: access.log }\n"));
    assert_eq!(gateway.reload().0, 200);
    get(gateway.port(), "/plain/later");
    gateway.wait_log(|line| line["path"] == "/plain/later");
}

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    // A pipe is full after 64 KiB. What waits then is bounded, and the rest is dropped and counted.
    let (origin, port, admin) = (origin(), Port::lease(), Port::lease());
    let folder = tempfile::tempdir().unwrap();
    let more = format!("access_log:\n  output: stdout\n  queue: 64\nadmin:\n  bind: 127.0.0.1:{}\n", admin.number());
    let file = folder.path().join("gateway.yaml");
    std::fs::write(&file, yaml(&origin, &more).replace("$PORT", &port.number().to_string())).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["run", "-c"]).arg(file).stdout(Stdio::piped()).stderr(Stdio::null());
    let gateway = Running(command.spawn().unwrap());
    eventually("it serves", || TcpStream::connect(("127.0.0.1", port.number())).is_ok());
    for _ in 0..600 {
        assert_eq!(get(port.number(), "/plain/a").status, 200);
    }
    eventually("drops are counted", || {
        let text = get(admin.number(), "/metrics").text();
        let dropped = text.lines().find_map(|line| line.strip_prefix("portcullis_access_log_dropped_total "));
        dropped.unwrap().parse::<f64>().unwrap() > 0.0
    });
    drop(gateway);
}

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_admin_api_is_not_for_web_pages() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin, ""));
    let admin = gateway.admin();
    let address = format!("127.0.0.1:{admin}");
    let ask = |method: &str, path: &str, headers: &[(&str, &str)]| request(admin, method, path, headers, b"").status;
    assert_eq!(ask("GET", "/config", &[("Host", &address)]), 200);
    assert_eq!(ask("GET", "/config", &[("Host", "localhost")]), 200);
    assert_eq!(ask("GET", "/config", &[("Host", "evil.example")]), 403);
    assert_eq!(ask("GET", "/config", &[("Host", &format!("evil.example:{admin}"))]), 403);
    for origin in ["http://evil.example", "null", &format!("http://{address}")] {
        assert_eq!(ask("POST", "/reload", &[("Host", &address), ("Origin", origin)]), 403, "{origin}");
    }
    assert_eq!(gateway.metric("portcullis_reloads_total{result=\"applied\"}"), 1.0, "no page made it reload");
    assert_eq!(ask("GET", "/reload", &[("Host", &address)]), 405);
    assert_eq!(ask("POST", "/reload", &[("Host", &address)]), 200);
}
