//! How much may it? By any key and any cost, by plan, by the calendar, and on trial.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::harness::*;

fn hash(key: &str) -> String {
    let digits: String = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

/// Every key of these is its consumer's name.
fn consumers(plans: &[(&str, &str)]) -> String {
    let entry = |(name, plan): &(&str, &str)| {
        let plan = if plan.is_empty() { String::new() } else { format!(", plan: {plan}") };
        format!("\n      - {{ name: {name}{plan}, api_keys: [ {{ hash: '{}' }} ] }}", hash(name))
    };
    plans.iter().map(entry).collect()
}

fn yaml(backend: &Backend, routes: &str, more: &str) -> String {
    let yaml = format!(
        "
    listeners: [ {{ bind: 127.0.0.1:$PORT }} ]
    services: {{ a: {{ endpoints: [ '127.0.0.1:$BACKEND' ] }} }}
    consumers:{}
    routes:
{routes}
{more}
",
        consumers(&[("basic", ""), ("frank", "free"), ("petra", "pro"), ("ian", "internal")])
    );
    filled(&yaml, &[("$BACKEND", backend.port())])
}

#[test]
fn a_sliding_window_gives_nothing_twice() {
    let backend = Backend::http();
    let routes = "
      - { path: /long, service: a, policies: { rate_limit: { limit: 6/hour, algorithm: sliding_window } } }
      - { path: /short, service: a, policies: { rate_limit: { limit: 4/2s, algorithm: sliding_window } } }";
    let gateway = Gateway::start(&yaml(&backend, routes, ""));
    assert_eq!(passes(&gateway, "/long", &[], 20), 6);
    let refused = get(gateway.port(), "/long");
    refused.assert_problem(429, "rate_limit", "rate_limited");
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((4_150..=4_200).contains(&after), "the rest of the hour, and a sixth of the next: {after}");
    assert_eq!(refused.header("ratelimit-policy"), Some("\"client_address\";q=6;w=3600"));
    // Over several periods, in no window of one period twice as many.
    let mut client = Client::connect(gateway.port());
    let (begin, mut admitted) = (std::time::Instant::now(), Vec::new());
    while begin.elapsed() < Duration::from_secs(7) {
        let at = begin.elapsed();
        if client.get("/short").status == 200 {
            admitted.push(at);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    for (index, start) in admitted.iter().enumerate() {
        let window = admitted[index..].iter().take_while(|at| **at < *start + Duration::from_millis(1_900)).count();
        assert!(window < 8, "{window} within one period: {admitted:?}");
    }
    // A client that never stops asking has not much more than the limit in the long run.
    assert!((7..=17).contains(&admitted.len()), "{admitted:?}");
}

#[test]
fn clients_are_told_apart_by_anything() {
    let backend = Backend::http();
    let routes = "
      - { path: '/param/{tenant}', service: a, policies: { rate_limit: { by: { param: tenant }, limit: 2/hour } } }
      - { path: /cookie, service: a, policies: { rate_limit: { by: { cookie: sid }, limit: 2/hour } } }
      - { path: /credential, service: a, policies: { authn: { api_key: {} }, rate_limit: { by: credential, limit: 2/hour } } }
      - { path: /both, service: a, policies: { authn: { api_key: {} }, rate_limit: { by: [consumer, { header: X-Tenant }], limit: 2/hour } } }";
    let gateway = Gateway::start(&yaml(&backend, routes, ""));
    assert_eq!(passes(&gateway, "/param/a", &[], 3), 2);
    assert_eq!(passes(&gateway, "/param/b", &[], 3), 2);
    assert_eq!(passes(&gateway, "/cookie", &[("Cookie", "x=1; sid=one")], 3), 2);
    assert_eq!(passes(&gateway, "/cookie", &[("Cookie", "sid=two; x=1")], 3), 2);
    for key in ["frank", "petra"] {
        assert_eq!(passes(&gateway, "/credential", &[("X-API-Key", key)], 3), 2, "{key}");
        for tenant in ["a", "b"] {
            assert_eq!(passes(&gateway, "/both", &[("X-API-Key", key), ("X-Tenant", tenant)], 3), 2, "{key} {tenant}");
        }
    }
    // Without the header it is the address in its place, still apart by consumer.
    assert_eq!(passes(&gateway, "/both", &[("X-API-Key", "frank")], 3), 2);
    assert_eq!(passes(&gateway, "/both", &[("X-API-Key", "petra")], 3), 2);
}

#[test]
fn a_request_costs_what_it_costs() {
    let backend = Backend::http();
    let routes = "
      - { path: /fixed, service: a, policies: { rate_limit: { limit: 10/hour, cost: 3 } } }
      - { path: /header, service: a, policies: { rate_limit: { limit: 10/hour, cost: { header: X-Cost, max: 20 } } } }
      - { path: /cel, service: a, policies: { rate_limit: { limit: 10/hour, cost: { cel: \"'heavy' in request.query ? 4 : 1\", max: 20 } } } }
      - { path: /fails, service: a, policies: { rate_limit: { limit: 10/hour, name: fails, cost: { cel: \"int(request.headers['x-cost'])\", max: 5 } } } }";
    let gateway = Gateway::start(&yaml(&backend, routes, ""));
    assert_eq!(passes(&gateway, "/fixed", &[], 5), 3);
    assert!(get(gateway.port(), "/fixed").header("ratelimit").unwrap().starts_with("\"client_address\";r=1;t="));
    let cost = |path: &str, cost: &str| request(gateway.port(), "GET", path, &[("X-Cost", cost)], b"");
    // Free, as often as one likes; too dear, for which no wait would help; and neither is in the others' way.
    assert!((0..30).all(|_| cost("/header", "0").status == 200));
    let refused = cost("/header", "11");
    refused.assert_problem(429, "rate_limit", "cost_exceeds_limit");
    assert_eq!((refused.header("retry-after"), refused.header("ratelimit")), (None, Some("\"client_address\";r=10")));
    cost("/header", "999999999999999999999").assert_problem(429, "rate_limit", "cost_exceeds_limit");
    assert_eq!(cost("/header", "7").status, 200);
    let refused = cost("/header", "4");
    refused.assert_problem(429, "rate_limit", "rate_limited");
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((300..=360).contains(&after), "a tenth of an hour: {after}");
    assert_eq!(passes(&gateway, "/header", &[], 9), 3);
    assert_eq!((passes(&gateway, "/cel?heavy=1", &[], 9), passes(&gateway, "/cel", &[], 9)), (2, 2));
    assert_eq!(passes(&gateway, "/fails", &[("X-Cost", "many")], 5), 2);
    gateway.wait_metric("portcullis_rate_limit_cost_errors_total{limit=\"fails\",scope=\"route:/fails\"}", 5.0);
}

#[test]
fn plans_have_limits_of_their_own() {
    let backend = Backend::http();
    let routes = "
      - path: /plans
        service: a
        policies:
          authn: { api_key: {} }
          rate_limit: { by: consumer, limit: 3/hour, plans: { free: 1/hour, pro: { limit: 100/hour, burst: 6 }, internal: unlimited } }";
    let gateway = Gateway::start(&yaml(&backend, routes, ""));
    let count = |key: &str| passes(&gateway, "/plans", &[("X-API-Key", key)], 12);
    assert_eq!((count("basic"), count("frank"), count("petra"), count("ian")), (3, 1, 6, 12));
    let policy = |key: &str| {
        let answer = request(gateway.port(), "GET", "/plans", &[("X-API-Key", key)], b"");
        answer.header("ratelimit-policy").map(str::to_owned)
    };
    assert_eq!(policy("frank").as_deref(), Some("\"consumer\";q=1;w=3600"));
    assert_eq!(policy("petra").as_deref(), Some("\"consumer\";q=100;w=3600"));
    assert_eq!(policy("ian"), None);
}

#[test]
fn a_plan_that_nobody_has_is_told() {
    let backend = Backend::http();
    let routes = "
      - { path: /, service: a, policies: { rate_limit: { limit: 3/hour, plans: { fre: 1/hour } } } }";
    let files = Files::new();
    files.write("gateway.yaml", yaml(&backend, routes, "").replace("$PORT", "8080"));
    let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("no consumer has the plan `fre`") && said.contains("did you mean `free`?"), "{said}");
}

#[test]
fn a_limit_on_trial_counts_and_says_nothing() {
    let backend = Backend::http();
    let routes = "
      - path: /trial
        service: a
        policies:
          rate_limit:
            - { name: firm, limit: 7/hour }
            - { name: trial, limit: 2/hour, dry_run: true }
          quota: { name: quota-trial, by: client_address, limit: 3/day, dry_run: true }
      - { path: /alone, service: a, policies: { rate_limit: { name: alone, limit: 1/hour, dry_run: true } } }";
    let gateway = Gateway::start(&yaml(&backend, routes, ""));
    assert_eq!(passes(&gateway, "/trial", &[], 10), 7);
    let answer = get(gateway.port(), "/trial");
    assert_eq!(answer.all("ratelimit-policy"), ["\"firm\";q=7;w=3600"]);
    assert!(answer.header("ratelimit").unwrap().starts_with("\"firm\";r=0;"));
    // Of what the firm one admitted: 7 - 2 and 7 - 3.
    let refused =
        |limit: &str, scope: &str| format!("portcullis_rate_limit_dry_run_total{{limit=\"{limit}\",scope=\"route:{scope}\"}}");
    gateway.wait_metric(&refused("trial", "/trial"), 5.0);
    gateway.wait_metric(&refused("quota-trial", "/trial"), 4.0);
    assert_eq!(passes(&gateway, "/alone", &[], 5), 5);
    assert_eq!(get(gateway.port(), "/alone").header("ratelimit-policy"), None);
    gateway.wait_metric(&refused("alone", "/alone"), 5.0);
}

#[test]
fn keys_without_number_stay_within_bounds() {
    let backend = Backend::http();
    let routes = "
      - { path: /flood, service: a, policies: { rate_limit: { name: flood, by: { header: X-Id }, limit: 1/day, max_keys: 500 } } }";
    let gateway = Gateway::start(&yaml(&backend, routes, ""));
    let mut client = Client::connect(gateway.port());
    let long = "x".repeat(6_000);
    for n in 0..3_000 {
        let value = if n % 3 == 0 { format!("{n}{long}") } else { format!("\u{e9}{n}") };
        assert_eq!(client.request("GET", "/flood", &[("X-Id", &value)], b"").status, 200, "{n}");
    }
    gateway.wait_metric("portcullis_rate_limit_evicted_total{limit=\"flood\",scope=\"route:/flood\"}", 2_500.0);
    // Two values that differ in their last byte only are two clients.
    for end in ["a", "b"] {
        assert_eq!(passes(&gateway, "/flood", &[("X-Id", &format!("{long}{end}"))], 3), 1, "{end}");
    }
}

const QUOTAS: &str = "
      - path: /q
        service: a
        policies:
          authn: { api_key: {} }
          rate_limit: { by: consumer, limit: 1000/hour }
          quota: { limit: 40/month, time_zone: Europe/Berlin, plans: { free: 10/month, internal: unlimited } }";

fn with_log(backend: &Backend, files: &Files) -> String {
    let log = files.dir().join("kept/quotas.log");
    yaml(backend, QUOTAS, &format!("    server: {{ workers: 2, quota_log: '{}' }}", log.display()))
}

#[track_caller]
fn used(gateway: &Gateway, key: &str) -> u64 {
    let (status, body) = gateway.admin_get(&format!("/quotas?key={key}"));
    assert_eq!(status, 200, "{body}");
    let lines: serde_json::Value = serde_json::from_str(&body).unwrap();
    lines["quotas"][0]["used"].as_u64().unwrap_or(0)
}

fn spend(gateway: &Gateway, key: &str, count: usize) -> usize {
    passes(gateway, "/q", &[("X-API-Key", key)], count)
}

/// What the file says was used.
fn kept(files: &Files, key: &str) -> i64 {
    let text = std::fs::read_to_string(files.dir().join("kept/quotas.log")).unwrap();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.filter(|line| line["key"] == key).map(|line| line["n"].as_i64().unwrap()).sum()
}

#[test]
fn a_quota_is_told_beside_the_other_limits() {
    let backend = Backend::http();
    let files = Files::new();
    let gateway = Gateway::start(&with_log(&backend, &files));
    let ask = |key: &str| request(gateway.port(), "GET", "/q", &[("X-API-Key", key)], b"");
    let answer = ask("frank");
    assert_eq!(answer.all("ratelimit-policy"), ["\"consumer\";q=1000;w=3600, \"consumer-month\";q=10"]);
    let told = answer.all("ratelimit");
    assert!(told.len() == 1 && told[0].starts_with("\"consumer-month\";r=9;t="), "{told:?}");
    assert_eq!(spend(&gateway, "frank", 20), 9);
    let refused = ask("frank");
    refused.assert_problem(429, "quota", "quota_exceeded");
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=31 * 86_400 + 3_600).contains(&after), "{after}");
    assert_eq!(refused.all("ratelimit"), [format!("\"consumer-month\";r=0;t={after}")]);
    assert_eq!(ask("ian").all("ratelimit-policy"), ["\"consumer\";q=1000;w=3600"]);
    assert_eq!(backend.requests().len(), 11);
    // The operator sees it, and gives it back.
    let (status, body) = gateway.admin_get("/quotas");
    let lines: serde_json::Value = serde_json::from_str(&body).unwrap();
    let line = &lines["quotas"][0];
    assert_eq!(
        (status, line["key"].as_str(), line["used"].as_u64(), line["limit"].as_u64()),
        (200, Some("frank"), Some(10), Some(10))
    );
    assert_eq!((line["quota"].as_str(), line["remaining"].as_u64()), (Some("route:/q/consumer-month/consumer/month"), Some(0)));
    assert!(line["resets_at"].as_str().unwrap().ends_with(":00:00Z"), "{line}");
    let reset =
        |query: &str| request(gateway.admin(), "DELETE", &format!("/quotas{query}"), &[("Host", "127.0.0.1")], b"").status;
    assert_eq!((reset(""), reset("?key=nobody"), reset("?key=frank&x=1"), reset("?key=frank")), (400, 404, 400, 200));
    assert_eq!(spend(&gateway, "frank", 20), 10);
}

#[test]
fn a_quota_survives_a_restart() {
    let backend = Backend::http();
    let files = Files::new();
    let yaml = with_log(&backend, &files);
    let mut first = Gateway::start(&yaml);
    assert_eq!((spend(&first, "frank", 7), spend(&first, "petra", 5)), (7, 5));
    // At once: nothing waits for the next write.
    first.signal("TERM");
    assert_eq!(first.wait_exit(Duration::from_secs(20)).code(), Some(0));
    let mut second = Gateway::start(&yaml);
    assert_eq!((used(&second, "frank"), used(&second, "petra")), (7, 5));
    assert_eq!(spend(&second, "frank", 7), 3);
    // Killed: what was counted a good second ago is still known.
    eventually("it is written", || kept(&files, "frank") == 10);
    second.signal("KILL");
    second.wait_exit(Duration::from_secs(20));
    let third = Gateway::start(&yaml);
    assert_eq!((spend(&third, "frank", 7), spend(&third, "petra", 40)), (0, 35));
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(files.dir().join("kept/quotas.log")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_quota_survives_an_upgrade_and_a_reload() {
    let backend = Backend::http();
    let files = Files::new();
    let yaml = with_log(&backend, &files);
    let gateway = Gateway::start(&yaml);
    assert_eq!(spend(&gateway, "frank", 6), 6);
    gateway.rewrite(&yaml.replace("limit: 1000/hour", "limit: 2000/hour").replace("free: 10/month", "free: 12/month"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(used(&gateway, "frank"), 6);
    assert_eq!(spend(&gateway, "frank", 2), 2);
    let ran = portcullis(gateway.dir(), &["upgrade", "--pid-file", "gateway.pid", "--timeout", "60"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let url = format!("http://127.0.0.1:{}/quotas?key=frank", gateway.admin());
    // The process before may still close a connection or two.
    eventually("the successor knows what was used", || {
        try_curl(&[&url]).is_ok_and(|answer| answer.status == 200 && answer.json()["quotas"][0]["used"] == 8)
    });
    assert_eq!(spend(&gateway, "frank", 9), 4);
}

#[test]
fn a_quota_that_cannot_be_kept_is_refused() {
    let backend = Backend::http();
    let files = Files::new();
    files.write("kept", "a file where a folder should be");
    let yaml = with_log(&backend, &files);
    let folder = Files::new();
    let listening = Port::lease();
    folder.write(
        "gateway.yaml",
        yaml.replace("$PORT", &listening.number().to_string())
            .replace("    server:", "    admin: { enabled: false }\n    server:"),
    );
    let ran = portcullis(folder.dir(), &["run", "--config", "gateway.yaml"]);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(ran.code != 0 && said.contains("cannot keep quotas in"), "{ran:?}");
}
