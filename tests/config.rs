//! What people write, and what they are told about it.

use serde_json::{Value, json};

use crate::harness::*;

const BAD: &str = "\
listeners:
  - bind: 127.0.0.1:8080
  - bind: 127.0.0.1:8080
  - bind: nowhere
services:
  catalog: { endpoints: [ \"127.0.0.1:9001\" ], balanse: round_robin }
consumers:
  - name: acme
    api_keys: [ { hash: \"sha256:12\" } ]
policies:
  rate_limits: { limit: 10/s }
  authn: { jwt: { audience: a, keys: [ { secret: \"${PORTCULLIS_TEST_MISSING}\" } ] } }
routes:
  - path: /a
    service: catalogue
  - path: b/c
    service: catalog
    timeout: 5 parsecs
  - path: /d
    service: catalog
    policies: { rate_limit: { limit: ten } }
  - path: /d
    service: catalog
    timeout: 0s
server: { workers: 0 }
";

/// Line and column, and what is said of it.
const FAULTS: [(&str, &str, &str); 13] = [
    ("3:11", "listeners[1].bind", "two listeners have the same address"),
    ("4:11", "listeners[2].bind", "`nowhere` is no address to listen on"),
    ("6:47", "services.catalog.balanse", "unknown key `balanse`"),
    ("9:25", "consumers[0].api_keys[0].hash", "64 hexadecimal digits"),
    ("11:3", "policies.rate_limits", "unknown policy `rate_limits`"),
    ("12:50", "policies.authn.jwt.keys[0].secret", "`PORTCULLIS_TEST_MISSING` is not set"),
    ("15:14", "routes[0].service", "unknown service `catalogue`"),
    ("16:11", "routes[1].path", "`b/c` is no path pattern"),
    ("18:14", "routes[1].timeout", "`5 parsecs`"),
    ("21:38", "routes[2].policies.rate_limit.limit", "`ten`"),
    ("22:11", "routes[3].path", "never reached"),
    ("24:14", "routes[3].timeout", "more than 0"),
    ("25:20", "server.workers", "from 1 to 512"),
];

#[test]
fn check_reports_everything_at_once() {
    let files = Files::new();
    files.write("bad.yaml", BAD);
    let ran = portcullis(files.dir(), &["check", "bad.yaml"]);
    assert_eq!((ran.code, &*ran.stdout), (1, ""), "{}", ran.stderr);
    let lines: Vec<&str> = BAD.lines().collect();
    for (at, path, message) in FAULTS {
        let arrow = format!("--> bad.yaml:{at}  ({path})");
        let blocks: Vec<&str> = ran.stderr.split("\n\n").filter(|block| block.contains(&arrow)).collect();
        let block =
            blocks.iter().find(|block| block.contains(message)).unwrap_or_else(|| panic!("{at} {message} in\n{}", ran.stderr));
        assert!(block.starts_with("error: "), "{block}");
        let (line, column) = at.split_once(':').unwrap();
        let (line, column): (usize, usize) = (line.parse().unwrap(), column.parse().unwrap());
        if path.ends_with("hash") {
            // A line that may hold a secret is not shown.
            assert!(block.contains("not shown") && !block.contains("sha256:12"), "{block}");
            continue;
        }
        // The line itself, and a caret under the place.
        let shown = block.lines().find(|shown| shown.starts_with(&format!("{line} | "))).unwrap();
        assert!(shown.ends_with(lines[line - 1]), "{block}");
        let caret = block.lines().find(|line| line.trim_start_matches([' ', '|']).starts_with('^')).unwrap();
        assert_eq!(caret.find('^').unwrap(), format!("{line} | ").len() + column - 1, "{block}");
    }
    for hint in ["did you mean `balance`?", "did you mean `rate_limit`?", "did you mean `catalog`?", "set it, or give a default"]
    {
        assert!(ran.stderr.contains(hint), "{hint} in {}", ran.stderr);
    }
    // Nor is a key without its secret told of twice.
    assert!(!ran.stderr.contains("either a `secret`"), "{}", ran.stderr);
    assert!(ran.stderr.trim_end().lines().last().unwrap().contains("errors"), "{}", ran.stderr);
    // A start says the same, and does not start.
    let started = portcullis(files.dir(), &["run", "-c", "bad.yaml"]);
    assert_eq!((started.code, started.stderr), (1, ran.stderr));
}

#[test]
fn good_files_and_bad_ones_by_their_exit_codes() {
    let files = Files::new();
    let check = |yaml: &str| {
        files.write("one.yaml", yaml);
        portcullis_with(files.dir(), &["check", "one.yaml"], &[("TOKEN", "x")])
    };
    let good = "listeners: [ { bind: ':8080' } ]\nroutes: [ { path: /, service: 127.0.0.1, port: 80 } ]\n";
    let ran = check(good);
    assert_eq!((ran.code, &*ran.stdout, &*ran.stderr), (0, "one.yaml: ok (1 listeners, 1 services, 1 routes)\n", ""));
    // A warning is shown, and is no failure.
    let ran = check("listeners: [ { bind: ':8080' } ]\nadmin: { bind: '0.0.0.0:9901' }\n");
    assert_eq!(ran.code, 0);
    assert!(
        ran.stderr.contains("warning: the admin API can be read without authentication") && ran.stderr.contains("one.yaml:2:16"),
        "{ran:?}"
    );
    for (bad, said) in [
        ("", "listeners"),
        ("listeners: []\n", "there is no listener"),
        ("listeners: [\n", "one.yaml:2:1"),
        ("- a\n- b\n", "error"),
        ("listeners: [ { bind: ':8080' } ]\nlisteners: []\n", "one.yaml:2:1"),
        ("listeners: [ { bind: ':8080', tls: { certificates: [ { cert: no.pem, key: no.key } ] } } ]\n", "no.pem"),
        ("listeners: [ { bind: ':8080' } ]\nroutes: [ { path: /, service: a } ]\n", "define it under `services`"),
        ("listeners: [ { bind: ':8080' } ]\npolicies: { authn: { jwt: { keys: [ { secret: { file: none } } ] } } }\n", "none"),
        ("listeners: [ { bind: ':8080' } ]\npolicies: { authn: { jwt: { keys: [ { secret: '${TOKEN}' } ] } } }\n", "32"),
        (
            "listeners: [ { bind: ':8080' } ]\nroutes: [ { path: /a, service: x, port: 80 }, { path: /a, service: x, port: 80 } ]\n",
            "never reached",
        ),
    ] {
        let ran = check(bad);
        assert_eq!(ran.code, 1, "{bad}");
        assert!(ran.stderr.contains(said) && ran.stdout.is_empty(), "{said} in {}", ran.stderr);
    }
    let ran = portcullis(files.dir(), &["check", "none.yaml"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("cannot read none.yaml"), "{ran:?}");
}

#[test]
fn the_environment_and_files_fill_in_secrets() {
    let files = Files::new();
    files.write("secret", "another-secret-of-at-least-32-bytes-0815\n");
    let yaml = "listeners: [ { bind: '127.0.0.1:${TEST_PORT:-8080}' } ]
policies: { authn: { jwt: { audience: a, keys: [ { secret: '${TEST_SECRET}' }, { secret: { file: secret } } ] } } }
";
    files.write("env.yaml", yaml);
    let secret = ("TEST_SECRET", "a-shared-secret-of-at-least-32-bytes-4711");
    let ran = portcullis_with(files.dir(), &["check", "env.yaml"], &[secret]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let ran = portcullis_with(files.dir(), &["check", "env.yaml"], &[secret, ("TEST_PORT", "x")]);
    assert!(ran.code == 1 && ran.stderr.contains("env.yaml:1:22"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("4711"), "{}", ran.stderr);
}

/// What lacks a value only because a variable is not set has been said, and what else is wrong is said beside it.
#[test]
fn a_secret_that_is_not_there_is_told_of_once() {
    let files = Files::new();
    for part in [
        "services: { a: { endpoints: [ '${NOT_SET}' ] } }",
        "services: { a: { endpoints: [ '127.0.0.1:1' ], upstream_auth: { basic: { username: u, password: '${NOT_SET}' } } } }",
        "services: { a: { endpoints: [ '127.0.0.1:1' ], upstream_auth: { bearer: '${NOT_SET}' } } }",
        "services: { a: { lambda: { function: f, region: eu-west-1, credentials: { access_key_id: A, secret_access_key: '${NOT_SET}' } } } }",
        "services: { a: { endpoints: [ '127.0.0.1:1' ] } }\nconsumers: [ { name: c, api_keys: [ { hash: '${NOT_SET}' } ] } ]",
        "services: { a: { endpoints: [ '127.0.0.1:1' ] } }\npolicies: { authn: { jwt: { audience: a, keys: [ { secret: '${NOT_SET}' } ] } } }",
    ] {
        let yaml = format!(
            "listeners: [ {{ bind: 127.0.0.1:8080 }} ]\n{part}\nroutes: [ {{ path: /x, service: a, timeout: never }} ]\n"
        );
        let lost = files.write("lost.yaml", yaml);
        let ran = portcullis(files.dir(), &["check", "lost.yaml"]);
        let said = ran.stderr.matches("error").count();
        assert!(ran.code == 1 && ran.stderr.contains("NOT_SET"), "{part}: {}", ran.stderr);
        assert!(ran.stderr.contains("timeout"), "the other problem is hidden: {part}: {}", ran.stderr);
        assert_eq!(said, 2, "{part}: {}", ran.stderr);
        if !["password", "bearer", "secret"].iter().any(|key| part.contains(key)) {
            continue;
        }
        // Nor is a secret that is written in the file told of twice.
        files.write("lost.yaml", std::fs::read_to_string(&lost).unwrap().replace("${NOT_SET}", "hunter2"));
        let ran = portcullis(files.dir(), &["check", "lost.yaml"]);
        assert!(ran.code == 1 && ran.stderr.contains("a secret must not be written"), "{part}: {}", ran.stderr);
        assert!(!ran.stderr.contains("hunter2"), "{part}: {}", ran.stderr);
        assert_eq!(ran.stderr.matches("error").count(), 2, "{part}: {}", ran.stderr);
    }
}

const GOOD: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT } ]
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    routes: [ { path: /one, service: a } ]
";

#[test]
fn a_bad_reload_changes_nothing_and_says_why() {
    let backend = Backend::http();
    let good = filled(GOOD, &[("$BACKEND", backend.port())]);
    let gateway = Gateway::start(&good);
    gateway.rewrite(
        &good.replace("path: /one, service: a", "path: /two, servise: a, timeout: never").replace("/two,", "/two, methods: get,"),
    );
    let (status, answer) = gateway.reload();
    assert_eq!(status, 422, "{answer}");
    assert_eq!((&answer["status"], answer["title"].is_string()), (&json!(422), true));
    let problems: Vec<&str> = answer["problems"].as_array().unwrap().iter().map(|problem| problem.as_str().unwrap()).collect();
    for said in ["unknown key `servise`", "never", "did you mean `service`?"] {
        assert!(
            problems.iter().any(|problem| problem.contains(said) && problem.contains("gateway.yaml:4:")),
            "{said} in {problems:?}"
        );
    }
    assert_eq!(get(gateway.port(), "/one").status, 200);
    assert_eq!(get(gateway.port(), "/two").status, 404);
    assert_eq!(gateway.metric("portcullis_reloads_total{result=\"refused\"}"), 1.0);
    assert_eq!(gateway.metric("portcullis_config_generation"), 1.0);
    // By signal the log says why.
    gateway.signal("HUP");
    eventually("the log says why", || {
        let said = gateway.stderr();
        said.contains("unknown key `servise`") && said.contains("the old one goes on serving")
    });
    assert_eq!(get(gateway.port(), "/one").status, 200);
    // A file that is gone is a bad file.
    std::fs::remove_file(gateway.config_path()).unwrap();
    assert_eq!(gateway.reload().0, 422);
    assert_eq!(get(gateway.port(), "/one").status, 200);
    // And a good one is taken up again, by either way.
    gateway.rewrite(&good.replace("/one", "/two"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!((get(gateway.port(), "/one").status, get(gateway.port(), "/two").status), (404, 200));
    gateway.rewrite(&good.replace("/one", "/three"));
    gateway.signal("HUP");
    eventually("the signal is obeyed", || get(gateway.port(), "/three").status == 200);
    assert_eq!(gateway.wait_log(|line| line["path"] == "/three" && line["status"] == 200)["generation"], 3);
}

#[test]
fn a_reload_opens_and_closes_listeners_or_is_refused_whole() {
    let backend = Backend::http();
    let good = filled(GOOD, &[("$BACKEND", backend.port())]);
    let gateway = Gateway::start(&good);
    gateway.rewrite(&good.replace("bind: 127.0.0.1:$PORT }", "bind: 127.0.0.1:$PORT }, { bind: 127.0.0.1:$PORT2 }"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!((get(gateway.port(), "/one").status, get(gateway.port2(), "/one").status), (200, 200));
    // An address that cannot be had: nothing of it takes effect.
    let taken = std::net::TcpListener::bind(("127.0.0.1", gateway.port3())).unwrap();
    let grown = good.replace("bind: 127.0.0.1:$PORT }", "bind: 127.0.0.1:$PORT }, { bind: 127.0.0.1:$PORT3 }");
    gateway.rewrite(&grown.replace("/one", "/two"));
    let (status, answer) = gateway.reload();
    assert_eq!(status, 422, "{answer}");
    assert!(answer["problems"][0].as_str().unwrap().contains(&gateway.port3().to_string()), "{answer}");
    assert_eq!((get(gateway.port2(), "/one").status, get(gateway.port(), "/two").status), (200, 404));
    drop(taken);
    assert_eq!(gateway.reload().0, 200);
    assert_eq!((get(gateway.port3(), "/two").status, get(gateway.port(), "/two").status), (200, 200));
    eventually("the listener that is gone is closed", || std::net::TcpStream::connect(("127.0.0.1", gateway.port2())).is_err());
}

#[test]
fn a_request_under_way_ends_on_the_generation_it_began_with() {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let (arrived, arrivals) = std::sync::mpsc::channel();
    let arrived = std::sync::Mutex::new(arrived);
    let backend = Backend::answering(move |_| {
        arrived.lock().unwrap().send(()).unwrap();
        held.lock().unwrap().recv().unwrap();
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
    });
    let policy = "path: /one, service: a, policies: { response_headers: { set: { X-Generation: 'NUMBER' } } }";
    let good = filled(GOOD, &[("$BACKEND", backend.port())]).replace("path: /one, service: a", policy);
    let gateway = Gateway::start(&good.replace("NUMBER", "first"));
    let mut client = Client::connect(gateway.port());
    client.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    arrivals.recv().unwrap();
    gateway.rewrite(&good.replace("NUMBER", "second"));
    assert_eq!(gateway.reload().0, 200);
    hold.send(()).unwrap();
    assert_eq!(client.answer_to("GET").header("x-generation"), Some("first"));
    hold.send(()).unwrap();
    assert_eq!(client.get("/one").header("x-generation"), Some("second"));
    let generations: Vec<Value> = gateway.wait_lines(2).iter().map(|line| line["generation"].clone()).collect();
    assert_eq!(generations, [1, 2]);
}

#[test]
fn the_schema_knows_good_from_bad() {
    let files = Files::new();
    let ran = portcullis(files.dir(), &["schema"]);
    assert_eq!(ran.code, 0);
    let schema: Value = serde_json::from_str(&ran.stdout).unwrap();
    for key in ["listeners", "services", "consumers", "policies", "routes", "admin", "access_log", "server"] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
    assert_eq!(schema["additionalProperties"], false);
    // Every reference leads somewhere, and everything a person writes is described.
    let mut stack = vec![&schema];
    while let Some(value) = stack.pop() {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').expect(reference);
            assert!(schema.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
        match value {
            Value::Array(items) => stack.extend(items),
            Value::Object(map) => stack.extend(map.values()),
            _ => {}
        }
    }
    let policies = portcullis(files.dir(), &["policies"]).stdout;
    let names: Vec<&str> = policies.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert!(names.len() >= 9, "{policies}");
    let text = schema.to_string();
    assert!(names.iter().all(|name| text.contains(&format!("\"{name}\""))), "{names:?}");
}

/// What is wrong with a file, all of it and nothing else: each line is where, and the beginning of what is said.
#[test]
fn wrong_files_and_exactly_what_is_said_of_them() {
    const LISTENERS: &str = "listeners: [ { bind: ':8080' } ]\n";
    let cases: &[(&str, &[&str])] = &[
        (
            "routes:
  - path: x/y
    method: GET
    service: catalog
    port: 80
    policies:
      jwt: {}
      cors: {}
      timeout: 5s
      rate_limit: 5/minute
",
            &[
                "3:11 `x/y` is no path pattern",
                "4:5 unknown key `method`; did you mean `methods`?",
                "8:7 unknown policy `jwt`; write `authn: { jwt: ... }`",
                "9:7 `cors` without an origin lets nobody in",
                "10:7 unknown policy `timeout`; a route's `timeout` stands beside `policies`",
                "11:19 `rate_limit` is a table; write `rate_limit: { limit: 5/minute }`",
            ],
        ),
        (
            "routes: [ { path: /, plugins: [], service: a, port: 80 } ]\n",
            &["2:22 unknown key `plugins`; did you mean `policies`?"],
        ),
        ("routes: [ { path: /, upstream: a } ]\n", &["2:22 unknown key `upstream`; did you mean `service`?"]),
        (
            "routes: [ { path: /, service: 'a:9001' } ]\n",
            &["2:31 unknown service `a:9001`; write `service: \"a\"` and `port: 9001`"],
        ),
        (
            "routes: [ { path: /, service: 'http://a/x' } ]\n",
            &["2:31 unknown service `http://a/x`; write `service: \"a\"` and `port: 80`"],
        ),
        ("routes: [ { path: /, service: a, port: 70000 } ]\n", &["2:40 expected a whole number from 0 to 65535"]),
        (
            "routes: [ { path: /x/**, service: a, port: 80 } ]\n",
            &["2:19 `/x/**` is no path pattern: a prefix is written with one star: /x/*"],
        ),
        (
            "routes: [ { path: /, split: [ { service: a, port: 80, weight: most }, { service: b, port: 81, weight: 10% } ] } ]\n",
            &["2:63 expected a weight such as 90 or 90%"],
        ),
        ("services: { a: { url: 'http://b:80' } }\n", &["2:18 unknown key `url`; did you mean `endpoints`?"]),
        (
            "services: { a: { endpoints: [ 'https://b' ] } }\n",
            &["2:31 `https://b` is no endpoint: the service does not speak TLS"],
        ),
        ("services: { a: nothing }\nroutes: [ { path: /, service: a } ]\n", &["2:16 expected a map, found `nothing`"]),
        ("services: { a: { endpoints: ['b:1'], balance: rr } }\n", &["2:47 unknown balance `rr`; did you mean `round_robin`?"]),
        ("policies: { rate_limit: { by: ip, limit: 100/min } }\n", &["2:31 expected one of"]),
        ("policies: { authz: { rules: [] } }\n", &["2:29 an empty list says nothing here"]),
        ("policies: { authn: { jwt: } }\n", &["2:26 expected a map, found nothing"]),
        (
            "routes: [ { service: a, port: 80, policies: { rate_limits: {} } } ]\n",
            &["2:11 missing required key `path`", "2:47 unknown policy `rate_limits`"],
        ),
        ("consumers: [ { name: a } ]\npolicies: { authz: { consumers: [ b ] } }\n", &["3:35 there is no consumer `b`"]),
        (
            "routes: [ { path: /, service: a, port: 80, headers: { X-A: '1', x-a: '2' } } ]\n",
            &["2:70 `x-a` is the same header as `X-A`"],
        ),
    ];
    let files = Files::new();
    for (yaml, wanted) in cases {
        files.write("one.yaml", format!("{LISTENERS}{yaml}"));
        let ran = portcullis(files.dir(), &["check", "-c", "one.yaml"]);
        assert_eq!(ran.code, 1, "{yaml}: {}", ran.stderr);
        // `error: MESSAGE`, then `--> FILE:LINE:COLUMN`, then `= hint: HINT`.
        let mut said: Vec<String> = Vec::new();
        for block in ran.stderr.split("\n\n").filter(|block| block.contains("error: ") && block.contains("--> ")) {
            let after = |mark: &str| block.split(mark).nth(1).map(|rest| rest.lines().next().unwrap_or_default().to_owned());
            let place = after("--> one.yaml:").unwrap_or_default();
            let place = place.split(' ').next().unwrap_or_default().to_owned();
            let hint = after("hint: ").map(|hint| format!("; {hint}")).unwrap_or_default();
            said.push(format!("{place} {}{hint}", after("error: ").unwrap_or_default()));
        }
        let fits = said.len() == wanted.len() && wanted.iter().zip(&said).all(|(wanted, said)| said.starts_with(wanted));
        assert!(fits, "{yaml}\nwanted {wanted:#?}\nsaid {said:#?}\n{}", ran.stderr);
    }
}

#[test]
fn usual_units_and_spellings_are_taken() {
    let files = Files::new();
    files.write(
        "one.yaml",
        "
listeners: [ { bind: ':8080', timeouts: { request: 2min } } ]
access_log: false
admin: false
services:
  a: { endpoints: [ 'http://10.0.0.1:9001', 'http://b.invalid' ], timeouts: { response: 30 seconds } }
  s: { endpoints: [ 'https://c.invalid' ], tls: true }
policies: { bounds: { max_body: 2m }, rate_limit: { limit: 100/min } }
routes: [ { path: /*, split: [ { service: a, weight: 90% }, { service: s, weight: 10% } ] } ]
",
    );
    for arguments in [&["check", "one.yaml"][..], &["check", "-c", "one.yaml"], &["check", "--config", "one.yaml"]] {
        let ran = portcullis(files.dir(), arguments);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }
    // Scopes of nobody.
    files.write("two.yaml", "listeners: [ { bind: ':8080' } ]\nroutes: [ { path: /, service: 127.0.0.1, port: 80, policies: { authz: { scopes: [ a ] } } } ]\n");
    let ran = portcullis(files.dir(), &["check", "two.yaml"]);
    assert!(
        ran.code == 0 && ran.stderr.contains("warning: `scopes` refuses everybody") && ran.stderr.contains("two.yaml:2:"),
        "{ran:?}"
    );
    // Limits by who nobody is, and what has no effect any more.
    let by = "listeners: [ { bind: ':8080' } ]\nserver: { fast_lane: true }\nroutes: [ { path: /, service: 127.0.0.1, port: 80, \
              policies: { rate_limit: [ { by: [consumer, client_address], limit: 1/s }, { name: a, by: { header: X }, limit: 1/s } ] AUTHN } } ]\n";
    for (authn, told) in [("", true), (", authn: { api_key: {} }", false)] {
        files.write("by.yaml", by.replace(" AUTHN", authn));
        let ran = portcullis(files.dir(), &["check", "by.yaml"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.stderr.contains("warning: `rate_limit` tells nobody apart by who they are"), told, "{ran:?}");
        assert!(ran.stderr.contains("warning: `fast_lane` has no effect") && ran.stderr.contains("by.yaml:2:22"), "{ran:?}");
    }
    // A colon is no parameter.
    files.write(
        "three.yaml",
        "listeners: [ { bind: ':8080' } ]\nroutes: [ { path: '/users/:id', service: 127.0.0.1, port: 80 } ]\n",
    );
    let ran = portcullis(files.dir(), &["check", "three.yaml"]);
    assert!(ran.code == 0 && ran.stderr.contains("a parameter is written `{id}`"), "{ran:?}");
}

#[test]
fn no_access_log_is_written_where_it_is_false() {
    let backend = Backend::http();
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        access_log: false
        routes: [ { path: /*, service: 127.0.0.1, port: $BACKEND } ]
        ",
        &[("$BACKEND", backend.port())],
    ));
    assert_eq!(get(gateway.port(), "/").status, 200);
    gateway.wait_metric("portcullis_requests_total", 1.0);
    assert_eq!((gateway.log_text().as_str(), gateway.stdout().as_str()), ("", ""));
}

/// A listener that serves in clear text what another serves over TLS is pointed out, but where the text stays on the host.
#[test]
fn clear_text_beside_tls_is_a_warning() {
    let files = Files::new();
    files.certificate(&["shop.example"]);
    let (cert, key, _) = files.certificate(&["shop.example"]);
    let check = |plain: &str| {
        let tls = format!(
            "{{ bind: ':8443', tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ] }} }}",
            cert.display(),
            key.display()
        );
        files.write(
            "one.yaml",
            format!("listeners:\n  - {tls}\n  - {plain}\nroutes: [ {{ path: /, service: 127.0.0.1, port: 80 }} ]\n"),
        );
        let ran = portcullis(files.dir(), &["check", "one.yaml"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stderr.contains("serves in clear text what `:8443` serves over TLS")
    };
    assert!(check("{ bind: ':8080' }"));
    for quiet in [
        "{ bind: ':8080', redirect: https }",
        "{ bind: '127.0.0.1:8080' }",
        "{ bind: ':8080', trusted_proxies: [ 10.0.0.0/8 ] }",
        "{ bind: ':8080', proxy_protocol: { trusted: [ 10.0.0.0/8 ] } }",
    ] {
        assert!(!check(quiet), "{quiet}");
    }
}

/// Header values may be secrets whatever their names; so may what header fields are compared with.
#[test]
fn the_admin_api_shows_no_header_value_that_may_be_a_secret() {
    let gateway = Gateway::start(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        policies:
          request_headers: { set: { X-Backend-Pass: canary-4711, X-Env: 'v-${CANARY:-canary-4711}' }, add: { X-More: canary-4711 } }
          response_headers: { set: { X-Told: canary-4711, Strict-Transport-Security: max-age=1 } }
          authz: { rules: [ { deny: \"request.headers['x-edge'] == 'canary-4711'\" } ] }
        routes:
          - path: /*
            headers: { X-Origin-Verify: canary-4711, X-Other: { prefix: canary-4711 } }
            query: { p: canary-4711 }
            service: 127.0.0.1
            port: 9
        ",
    );
    assert_eq!(get(gateway.port(), "/").status, 404);
    gateway.wait_lines(1);
    let (_, config) = gateway.admin_get("/config");
    assert!(config.contains("max-age=1") && config.contains("X-Origin-Verify"), "{config}");
    for path in ["/config", "/routes", "/metrics", "/upstreams"] {
        let shown = gateway.admin_get(path).1.replace("?p=canary-4711", "");
        assert!(!shown.contains("canary-4711"), "{path}: {shown}");
    }
    assert!(!gateway.stderr().contains("canary-4711"));
}

/// Bodies that are read whole come out of a memory of which one client has a share.
#[test]
fn a_body_that_no_client_could_send_is_a_warning() {
    let files = Files::new();
    let check = |server: &str, route: &str| {
        let yaml = format!(
            "listeners: [ {{ bind: 127.0.0.1:8080 }} ]\nserver: {{ {server} }}\nroutes: [ {{ path: /*, service: 127.0.0.1, port: 9, {route} }} ]\n"
        );
        files.write("gateway.yaml", yaml);
        let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        (ran.stdout + &ran.stderr).contains("larger ones are answered 503")
    };
    assert!(check("buffered_bytes: 16MiB", "buffer_request: true"), "the listener takes 10MiB, and a quarter is less");
    assert!(!check("buffered_bytes: 16MiB", "buffer_request: true, policies: { bounds: { max_body: 4MiB } }"));
    assert!(!check("buffered_bytes: 16MiB, buffered_bytes_per_address: 10MiB", "buffer_request: true"));
    assert!(check("buffered_bytes: 2MiB", "policies: { validate: { json: true } }"));
    assert!(!check("buffered_bytes: 2MiB", "buffer_request: false"));
}
