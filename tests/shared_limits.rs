//! Limits that several gateways count together, in a real Redis: alone, behind TLS, as a Cluster; paused, killed, empty again, failed over.

use std::time::{Duration, Instant};

use crate::harness::*;

/// A deadline for tests of what is counted: a busy machine must not make Redis look dead.
const PATIENT: &str = "deadline: 2s";

fn yaml(redis: &str, routes: &str) -> String {
    let head = format!("redis: {{ {redis} }}\nlisteners: [ {{ bind: 127.0.0.1:$PORT }} ]\n");
    format!("{head}services: {{ a: {{ endpoints: [ '127.0.0.1:$BACKEND' ] }} }}\nroutes:\n{routes}")
}

fn route(path: &str, limit: &str) -> String {
    format!("  - {{ path: {path}, service: a, policies: {{ rate_limit: {limit} }} }}\n")
}

fn at(redis: &Redis, more: &str) -> String {
    format!("nodes: '127.0.0.1:{}', {more}", redis.port())
}

/// Gateways with the same configuration.
#[track_caller]
fn gateways<const N: usize>(backend: u16, yaml: &str) -> [Gateway; N] {
    std::array::from_fn(|_| Gateway::start(&filled(yaml, &[("$BACKEND", backend)])))
}

#[track_caller]
fn statuses(client: &mut Client, path: &str, count: usize) -> Vec<u16> {
    (0..count).map(|_| client.get(path).status).collect()
}

#[test]
fn two_gateways_admit_what_one_would() {
    let (redis, backend) = (Redis::start(), Backend::http());
    let routes = route("/exact", "{ limit: 20/hour, shared: exact }")
        + &route("/window", "{ limit: 10/hour, algorithm: sliding_window, shared: exact }")
        + &route("/leased", "{ limit: 40/hour, shared: { mode: leased, lease: 8 } }")
        + &route("/single", "{ limit: 3600/hour, burst: 0, shared: exact }")
        + &route("/costly", "{ limit: 10/hour, cost: 3, shared: exact }");
    let both: [Gateway; 2] = gateways(backend.port(), &yaml(&at(&redis, PATIENT), &routes));
    let mut clients = both.each_ref().map(|gateway| Client::connect(gateway.port()));
    let mut left = Vec::new();
    let mut passes = |path: &str, count: usize| {
        let mut passed = 0;
        for round in 0..count {
            let answer = clients[round % 2].get(path);
            assert!([200, 429].contains(&answer.status), "{answer:?}");
            passed += usize::from(answer.status == 200);
            left.push(answer.header("ratelimit").unwrap().to_owned());
        }
        passed
    };
    assert_eq!(passes("/exact", 30), 20);
    assert_eq!(passes("/window", 15), 10);
    // What one gateway has taken ahead is missing to the other until it is given back.
    let leased = passes("/leased", 60);
    assert!((40 - 8..=40).contains(&leased), "{leased}");
    assert_eq!(passes("/costly", 6), 3);
    let told: Vec<_> = left.iter().take(30).map(|told| told.split(';').nth(1).unwrap()).collect();
    let expected: Vec<_> = (0..20).rev().map(|left| format!("r={left}")).chain((0..10).map(|_| "r=0".to_owned())).collect();
    assert_eq!(told, expected);
    for gateway in &both {
        assert_eq!(gateway.metric("portcullis_redis_up"), 1.0);
        assert_eq!(gateway.metric("portcullis_lease_over_admission_bound{limit=\"client_address\"}"), 8.0);
        assert_eq!(gateway.metric("portcullis_redis_calls_total{result=\"timeout\"}"), 0.0);
    }
    // Keys go away by themselves.
    let keys = redis.cli(&["KEYS", "portcullis:limit:*"]);
    assert!(keys.lines().count() == 4, "{keys}");
    for key in keys.lines() {
        let ttl: i64 = redis.cli(&["PTTL", key]).parse().unwrap();
        assert!((1..=2 * 3_600_000 + 1).contains(&ttl), "{key}: {ttl}");
    }
    let answer = clients[1].get("/single");
    assert_eq!(answer.status, 200);
}

#[test]
fn what_one_limit_refuses_no_other_counts() {
    let (redis, backend) = (Redis::start(), Backend::http());
    let limits = "[ { name: wide, limit: 10/hour, shared: exact }, { name: narrow, limit: 3/hour, shared: exact } ]";
    let mixed = "[ { name: wide, limit: 10/hour, shared: exact }, { name: own, limit: 2/hour },
        { name: ahead, limit: 9/hour, shared: { mode: leased, lease: 4 } } ]";
    let routes = route("/two", limits) + &route("/mixed", mixed);
    let [gateway] = gateways(backend.port(), &yaml(&at(&redis, PATIENT), &routes));
    let mut client = Client::connect(gateway.port());
    assert_eq!(statuses(&mut client, "/two", 8), [200, 200, 200, 429, 429, 429, 429, 429]);
    assert_eq!(statuses(&mut client, "/mixed", 5), [200, 200, 429, 429, 429]);
    let all = gateway.log().len();
    assert!(all <= 13);
    // The levels are the first number of what is stored.
    for (name, least, most) in [("wide", 1.9, 3.0), ("narrow", 2.9, 3.0)] {
        for key in redis.cli(&["KEYS", &format!("portcullis:limit:{name}:*")]).lines() {
            let level = redis.cli(&["EVAL", "return tostring((struct.unpack('<dd', redis.call('GET', KEYS[1]))))", "1", key]);
            let level: f64 = level.parse().unwrap();
            assert!((least..=most).contains(&level), "{key}: {level}");
        }
    }
}

#[test]
fn without_redis_each_limit_does_what_it_says() {
    let (mut redis, backend) = (Redis::start(), Backend::http());
    let routes = route("/open", "{ limit: 4/hour, shared: { mode: exact, fail: open } }")
        + &route("/closed", "{ limit: 4/hour, shared: { mode: exact, fail: closed } }")
        + &route("/local", "{ limit: 8/hour, shared: { mode: exact, fail: local, gateways: 2 } }")
        + &route("/leased", "{ limit: 8/hour, shared: { mode: leased, lease: 1, fail: closed } }");
    let [gateway] = gateways(backend.port(), &yaml(&at(&redis, "deadline: 50ms"), &routes));
    let mut client = Client::connect(gateway.port());
    for path in ["/open", "/closed", "/local", "/leased"] {
        assert_eq!(client.get(path).status, 200);
    }
    redis.kill();
    assert_eq!(statuses(&mut client, "/open", 10), [200; 10]);
    assert_eq!(statuses(&mut client, "/local", 6), [200, 200, 200, 200, 429, 429], "half of it for this gateway");
    for path in ["/closed", "/leased"] {
        let answer = client.get(path);
        answer.assert_problem(503, "rate_limit", "limit_store_unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(gateway.metric("portcullis_redis_up"), 0.0);
    assert_eq!(gateway.metric("portcullis_redis_breakers_open"), 1.0);
    assert!(gateway.metric("portcullis_rate_limit_unanswered_total{fail=\"open\"}") == 10.0);
    // Empty again: the limits begin anew.
    redis.restart();
    eventually("it asks Redis again", || client.get("/closed").status == 200);
    assert_eq!(statuses(&mut client, "/closed", 5), [200, 200, 200, 429, 429]);
    gateway.wait_metric("portcullis_redis_breakers_open", 0.0);
    assert_eq!(gateway.metric("portcullis_redis_up"), 1.0);
}

#[test]
fn a_gateway_starts_without_redis_and_finds_it_later() {
    let (port, backend) = (Port::lease(), Backend::http());
    let redis = format!("nodes: '127.0.0.1:{}'", port.number());
    let routes = route("/closed", "{ limit: 4/hour, shared: { mode: exact, fail: closed } }");
    let [gateway] = gateways(backend.port(), &yaml(&redis, &routes));
    let mut client = Client::connect(gateway.port());
    assert_eq!(statuses(&mut client, "/closed", 10), [503; 10]);
    let _redis = Redis::start_on(port, &Files::new(), &[]);
    eventually("it finds Redis", || client.get("/closed").status == 200);
}

#[test]
fn a_redis_that_forgot_the_script_is_told_again() {
    let (redis, backend) = (Redis::start(), Backend::http());
    let routes = route("/exact", "{ limit: 6/hour, shared: { mode: exact, fail: closed } }");
    let [gateway] = gateways(backend.port(), &yaml(&at(&redis, PATIENT), &routes));
    let mut client = Client::connect(gateway.port());
    assert_eq!(statuses(&mut client, "/exact", 2), [200, 200]);
    assert_eq!(redis.cli(&["SCRIPT", "FLUSH"]), "OK");
    assert_eq!(statuses(&mut client, "/exact", 2), [200, 200]);
    // Connections that Redis closed are opened again, and nobody notices.
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(statuses(&mut client, "/exact", 3), [200, 200, 429]);
}

#[test]
fn over_tls_as_a_user_that_may_do_little() {
    let (files, backend) = (Files::new(), Backend::http());
    let (cert, key, pem) = files.certificate(&["127.0.0.1", "localhost"]);
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let acl = "gate on >s3cret ~gate:* -@all +eval +evalsha +get +set +time";
    let acl = files.write("users.acl", format!("user default off\nuser {acl}\n")).display().to_string();
    let tls = ["--port", "0", "--tls-port", "$PORT", "--tls-cert-file", &cert, "--tls-key-file", &key];
    let more = ["--tls-ca-cert-file", &cert, "--tls-auth-clients", "no", "--aclfile", &acl];
    let redis = Redis::start_with(&files, &[&tls[..], &more[..]].concat());
    let gateway = |files: &Files, password: &str, ca: &str| {
        let settings = format!(
            "{}, tls: {{ ca: {ca} }}, username: gate, password: \"${{REDIS_PASSWORD}}\", prefix: 'gate:', connect_timeout: 5s",
            at(&redis, PATIENT)
        );
        let routes = route("/exact", "{ limit: 3/hour, shared: { mode: exact, fail: closed } }");
        let yaml = filled(&yaml(&settings, &routes), &[("$BACKEND", backend.port())]);
        Gateway::start_in_with(files, &yaml, &[("REDIS_PASSWORD", password)])
    };
    let (right, wrong, untrusted) = (Files::new(), Files::new(), Files::new());
    right.write("ca.pem", &pem);
    wrong.write("ca.pem", &pem);
    let other = untrusted.certificate(&["127.0.0.1"]).2;
    untrusted.write("ca.pem", other);
    let good = gateway(&right, "s3cret", "ca.pem");
    let mut client = Client::connect(good.port());
    eventually("it is connected", || client.get("/exact").status == 200);
    assert_eq!(statuses(&mut client, "/exact", 3), [200, 200, 429]);
    for (files, password, said) in [(&wrong, "wr0ng", "authentication failed"), (&untrusted, "s3cret", "certificate")] {
        let gateway = gateway(files, password, "ca.pem");
        assert_eq!(get(gateway.port(), "/exact").status, 503);
        eventually("it says why", || gateway.stderr().contains(said));
        let (_, config) = gateway.admin_get("/config");
        let (_, metrics) = gateway.admin_get("/metrics");
        for text in [gateway.stderr(), gateway.log_text(), config, metrics] {
            assert!(!text.contains(password), "{text}");
        }
    }
}

/// Requests from so many connections to each gateway, one after the other on each, until the time is over. What came of each, and how long it took.
fn load(gateways: &[&Gateway], path: &str, connections: usize, time: Duration) -> (Vec<(u16, Duration)>, Duration) {
    let start = Instant::now();
    let answers = std::thread::scope(|scope| {
        let ports = gateways.iter().flat_map(|gateway| std::iter::repeat_n(gateway.port(), connections));
        let clients: Vec<_> = ports
            .map(|port| {
                scope.spawn(move || {
                    let mut client = Client::connect(port);
                    let mut answers = Vec::new();
                    while start.elapsed() < time {
                        let sent = Instant::now();
                        answers.push((client.get(path).status, sent.elapsed()));
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    answers
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    (answers, start.elapsed())
}

fn admitted(answers: &[(u16, Duration)]) -> f64 {
    assert!(answers.iter().all(|(status, _)| [200, 429].contains(status)));
    answers.iter().filter(|(status, _)| *status == 200).count() as f64
}

#[test]
fn under_load_exact_is_exact_and_leased_is_within_its_bound() {
    let (redis, backend) = (Redis::start(), Backend::http());
    let routes = route("/exact", "{ limit: 200/s, burst: 40, shared: { mode: exact, fail: closed } }")
        + &route("/leased", "{ limit: 200/s, burst: 40, shared: { mode: leased, lease: 10, fail: closed } }");
    let both: [Gateway; 2] = gateways(backend.port(), &yaml(&at(&redis, PATIENT), &routes));
    let both = both.each_ref();
    // The first waits for its connection.
    both.iter().for_each(|gateway| assert_eq!(get(gateway.port(), "/leased").status, 200));
    std::thread::sleep(Duration::from_secs(1));
    let (answers, took) = load(&both, "/exact", 3, Duration::from_secs(5));
    let (exact, expected) = (admitted(&answers), 200.0 * took.as_secs_f64() + 40.0);
    eprintln!("exact: {exact} of {} admitted, expected {expected:.0}", answers.len());
    assert!(answers.len() as f64 > 1.2 * expected, "this was no load: {}", answers.len());
    assert!((exact - expected).abs() <= expected / 100.0, "{exact} instead of {expected}");
    let (answers, took) = load(&both, "/leased", 3, Duration::from_secs(5));
    let (leased, expected) = (admitted(&answers), 200.0 * took.as_secs_f64() + 40.0);
    let bound: f64 = both.iter().map(|gateway| gateway.metric("portcullis_lease_over_admission_bound{}")).sum();
    eprintln!("leased: {leased} of {} admitted, expected {expected:.0}, bound {bound}", answers.len());
    assert_eq!(bound, 20.0);
    assert!((expected - 2.0 * bound..=expected + bound).contains(&leased), "{leased}, {expected}");
}

fn p99(answers: &[(u16, Duration)]) -> Duration {
    let mut times: Vec<_> = answers.iter().map(|(_, time)| *time).collect();
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// By how much the 99th percentile may grow beside the deadline: this machine does other things as well.
const TOLERANCE: Duration = Duration::from_millis(40);

#[test]
fn a_redis_that_is_paused_under_load_costs_no_request_more_than_the_deadline() {
    let seconds = std::env::var("PORTCULLIS_REDIS_PAUSE").map_or(2, |seconds| seconds.parse().unwrap());
    let pause = Duration::from_secs(seconds);
    let (redis, backend) = (Redis::start(), Backend::http());
    let deadline = Duration::from_millis(10);
    let routes = route("/open", "{ limit: 100000/s, shared: { mode: exact, fail: open } }")
        + &route("/local", "{ limit: 100000/s, shared: { mode: exact, fail: local, gateways: 2 } }")
        + &route("/leased", "{ limit: 100000/s, shared: { mode: leased, lease: 50, fail: local } }");
    let both: [Gateway; 2] = gateways(backend.port(), &yaml(&at(&redis, ""), &routes));
    let both = both.each_ref();
    for path in ["/open", "/local", "/leased"] {
        let (steady, _) = load(&both, path, 2, pause + Duration::from_secs(1));
        let (paused, _) = std::thread::scope(|scope| {
            let loaded = scope.spawn(|| load(&both, path, 2, pause + Duration::from_secs(1)));
            std::thread::sleep(Duration::from_millis(500));
            redis.pause();
            std::thread::sleep(pause);
            redis.resume();
            loaded.join().unwrap()
        });
        eprintln!("{path}: p99 {:?} steady, {:?} paused, {} requests", p99(&steady), p99(&paused), paused.len());
        assert!(paused.iter().all(|(status, _)| *status == 200), "{path}");
        assert!(p99(&paused) <= p99(&steady) + deadline + TOLERANCE, "{path}");
        eventually("it asks Redis again", || {
            get(both[0].port(), path);
            get(both[1].port(), path);
            both.iter().all(|gateway| gateway.metric("portcullis_redis_breakers_open") == 0.0)
        });
    }
    // Only a few calls found out.
    let timeouts = both[0].metric("portcullis_redis_calls_total{result=\"timeout\"}");
    let spared = both[0].metric("portcullis_redis_calls_total{result=\"breaker_open\"}");
    assert!(timeouts > 0.0 && spared > timeouts, "{timeouts} waited, {spared} did not");
}

#[test]
fn a_redis_that_is_killed_under_load_costs_no_request() {
    let (mut redis, backend) = (Redis::start(), Backend::http());
    let routes = route("/local", "{ limit: 100000/s, shared: { mode: exact, fail: local } }");
    let [gateway] = gateways(backend.port(), &yaml(&at(&redis, ""), &routes));
    let (answers, _) = std::thread::scope(|scope| {
        let loaded = scope.spawn(|| load(&[&gateway], "/local", 4, Duration::from_millis(1500)));
        std::thread::sleep(Duration::from_millis(400));
        redis.kill();
        std::thread::sleep(Duration::from_millis(400));
        redis.restart();
        loaded.join().unwrap()
    });
    assert!(answers.iter().all(|(status, _)| *status == 200));
    eventually("it asks Redis again", || {
        get(gateway.port(), "/local");
        gateway.metric("portcullis_redis_up") == 1.0
    });
}

#[test]
fn a_cluster_counts_and_survives_the_loss_of_a_node() {
    let (mut cluster, backend) = (Cluster::start(), Backend::http());
    let by = "by: { header: X-Tenant }";
    let routes = route("/tenant", &format!("{{ {by}, limit: 3/hour, shared: {{ mode: exact, fail: closed }} }}"))
        + &route("/leased", &format!("{{ {by}, limit: 6/hour, shared: {{ mode: leased, lease: 2, fail: closed }} }}"))
        + &route(
            "/both",
            &format!(
                "[ {{ name: tenants, {by}, limit: 2/hour, shared: {{ mode: exact, fail: closed }} }},
                   {{ name: all, by: route, limit: 20/hour, shared: {{ mode: exact, fail: closed }} }} ]"
            ),
        );
    let redis = format!("nodes: [ {} ], cluster: true, {PATIENT}, connect_timeout: 5s", cluster.addresses());
    let both: [Gateway; 2] = gateways(backend.port(), &yaml(&redis, &routes));
    let mut clients = both.each_ref().map(|gateway| Client::connect(gateway.port()));
    let mut ask = |path: &str, tenant: usize, round: usize| {
        clients[round % 2].request("GET", path, &[("x-tenant", &format!("tenant-{tenant}"))], b"").status
    };
    eventually("both are connected", || ask("/tenant", 999, 0) != 503 && ask("/tenant", 999, 1) != 503);
    // On all nodes.
    for tenant in 0..12 {
        let answers: Vec<_> = (0..5).map(|round| ask("/tenant", tenant, round)).collect();
        assert_eq!(answers, [200, 200, 200, 429, 429], "{tenant}");
        let leased = (0..10).filter(|round| ask("/leased", tenant, *round) == 200).count();
        assert!((4..=6).contains(&leased), "{leased}");
    }
    // In two slots: what the second limit refuses is given back to the first.
    let passed = (0..40).filter(|tenant| ask("/both", *tenant, *tenant) == 200).count();
    assert_eq!(passed, 20);
    for node in &cluster.nodes {
        assert!(node.cli(&["DBSIZE"]) != "0");
    }
    // A node goes away; its replica takes over, and knows what was counted.
    cluster.nodes[0].kill();
    let until = Instant::now() + Duration::from_secs(60);
    while (0..12).any(|tenant| ask("/tenant", tenant, tenant) != 429) {
        assert!(Instant::now() < until, "no failover in a minute");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(cluster.replica.cli(&["INFO", "replication"]).contains("role:master"));
    for gateway in &both {
        gateway.wait_metric("portcullis_redis_breakers_open", 0.0);
    }
}

#[test]
fn what_cannot_be_shared_is_said_at_load() {
    let files = Files::new();
    for (redis, limit, said) in [
        ("", "{ limit: 1/s, shared: exact }", "this needs a Redis"),
        ("redis: { nodes: 'localhost:6379' }", "{ limit: 1/s, shared: always }", "always"),
        ("redis: { nodes: 'localhost:6379' }", "{ limit: 10/s, shared: { mode: exact, lease: 2 } }", "needs `mode: leased`"),
        ("redis: { nodes: 'localhost:6379' }", "{ limit: 10/s, shared: { mode: leased, lease: 11 } }", "between 1 and"),
        ("redis: { nodes: 'localhost:6379' }", "{ limit: 10/s, shared: { mode: exact, gateways: 0 } }", "from 1 to 10000"),
        ("redis: { nodes: 'localhost' }", "{ limit: 10/s, shared: exact }", "no address such as"),
    ] {
        let routes = route("/x", limit).replace("service: a", "service: localhost, port: 9");
        files.write("bad.yaml", format!("{redis}\nlisteners: [ {{ bind: 127.0.0.1:1 }} ]\nroutes:\n{routes}"));
        let checked = portcullis(files.dir(), &["check", "bad.yaml"]);
        let text = checked.stdout + &checked.stderr;
        assert!(checked.code == 1 && text.contains(said), "{limit}: {text}");
        assert!(!text.contains("this needs a Redis") || redis.is_empty(), "{text}");
    }
}
