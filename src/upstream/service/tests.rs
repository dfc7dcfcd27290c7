use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;

use http::StatusCode;

use super::*;
use crate::address::EndpointAddress;
use crate::problem::{Place, Problems};
use crate::upstream::ServiceConfig;
use crate::upstream::aim::Aim;
use crate::upstream::dns;
use crate::upstream::endpoint::Thresholds;

fn compile_with(yaml: &str, ledger: &Ledger) -> (Option<Arc<Service>>, Problems) {
    let mut problems = Problems::default();
    let config: ServiceConfig = serde_yaml::from_str(yaml).unwrap();
    let service = Service::compile(
        "catalog",
        Place::NOWHERE,
        &config,
        Path::new(""),
        &mut problems,
        Kept { ledger, tallies: &Arc::default(), background: None },
    );
    assert_eq!(service.is_none(), problems.has_errors(), "{yaml}: {problems:?}");
    (service, problems)
}

fn service(yaml: &str, ledger: &Ledger) -> Arc<Service> {
    let (service, problems) = compile_with(yaml, ledger);
    service.unwrap_or_else(|| panic!("{problems:?}"))
}

fn counts(service: &Service, picks: usize) -> HashMap<u16, usize> {
    let mut counts = HashMap::new();
    for _ in 0..picks {
        *counts.entry(port(service.pick(&[]).unwrap().addr)).or_default() += 1;
    }
    counts
}

fn port(address: EndpointAddress) -> u16 {
    address.inet().unwrap().port()
}

fn set_health(service: &Service, port: u16, healthy: bool) {
    let once = Thresholds { healthy_after: 1, unhealthy_after: 1 };
    for (_, endpoint) in service.cluster.endpoints() {
        if self::port(endpoint.address()) == port {
            endpoint.observe(healthy.then_some(()).ok_or_else(String::new), Duration::ZERO, once);
        }
    }
    service.cluster.board().publish();
}

const THREE: &str =
    "{ endpoints: ['10.0.0.1:1', '10.0.0.1:2', { address: '10.0.0.1:3', weight: 2 }], health_check: { tcp: true } }";

#[test]
fn weights_are_honoured_and_the_unhealthy_are_left_out() {
    let service = service(THREE, &Ledger::default());
    assert_eq!(counts(&service, 400), HashMap::from([(1, 100), (2, 100), (3, 200)]));
    set_health(&service, 2, false);
    assert_eq!(counts(&service, 300), HashMap::from([(1, 100), (3, 200)]));
    set_health(&service, 1, false);
    set_health(&service, 3, false);
    assert!(service.pick(&[]).is_none());
    assert_eq!(service.cluster.available(), 0);
    set_health(&service, 2, true);
    assert_eq!(counts(&service, 10), HashMap::from([(2, 10)]));
}

#[test]
fn threads_together_keep_to_the_weights() {
    let service = service(THREE, &Ledger::default());
    let mut sums: HashMap<u16, usize> = HashMap::new();
    let parts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| counts(&service, 401))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (port, count) in parts.into_iter().flatten() {
        *sums.entry(port).or_default() += count;
    }
    for (port, share) in [(1, 401), (2, 401), (3, 802)] {
        assert!(sums[&port].abs_diff(share) <= 4, "{sums:?}");
    }
}

#[test]
fn retries_go_elsewhere() {
    let service = service(THREE, &Ledger::default());
    let tried: Vec<EndpointAddress> = ["10.0.0.1:1", "10.0.0.1:3"].map(|text| text.parse::<SocketAddr>().unwrap().into()).into();
    for _ in 0..20 {
        assert_eq!(port(service.pick(&tried).unwrap().addr), 2);
    }
    let all: Vec<EndpointAddress> = service.cluster.endpoints().iter().map(|(_, endpoint)| endpoint.address()).collect();
    assert!(service.pick(&all).is_none());
}

#[test]
fn a_reload_keeps_health_and_reaches_the_generations_still_in_use() {
    let ledger = Ledger::default();
    let old = service(THREE, &ledger);
    set_health(&old, 1, false);
    let new = service("{ endpoints: ['10.0.0.1:1', '10.0.0.1:4'], health_check: { tcp: true } }", &ledger);
    assert_eq!(counts(&new, 10), HashMap::from([(4, 10)]));
    set_health(&new, 1, true);
    assert_eq!(counts(&new, 10), HashMap::from([(1, 5), (4, 5)]));
    assert_eq!(counts(&old, 4), HashMap::from([(1, 1), (2, 1), (3, 2)]));
    drop((old, new));
    ledger.sweep();
    assert!(ledger.is_empty());
}

#[test]
fn what_checks_said_is_void_once_there_are_none() {
    let ledger = Ledger::default();
    let old = service(THREE, &ledger);
    set_health(&old, 1, false);
    let new = service("endpoints: ['10.0.0.1:1']", &ledger);
    assert!(new.pick(&[]).is_some());
}

#[test]
fn host_names_become_endpoints_when_they_resolve() {
    let ledger = Ledger::default();
    let named = service("endpoints: [{ address: 'localhost:81', weight: 3 }, 'no-such-host.invalid:82']", &ledger);
    assert!(named.pick(&[]).is_none());
    assert_eq!(named.view().unresolved.len(), 2);
    let mut problems = Problems::default();
    dns::resolve(std::slice::from_ref(&named), Duration::from_secs(3), &mut problems);
    assert!(!problems.has_errors());
    let said: Vec<_> = problems.iter().map(|problem| problem.message.clone()).collect();
    assert_eq!(said, ["the host `no-such-host.invalid` of the service `catalog` does not resolve"]);
    let picked = named.pick(&[]).unwrap();
    assert!(picked.addr.inet().unwrap().ip().is_loopback() && port(picked.addr) == 81);
    assert_eq!(picked.endpoint.authority(), "localhost:81");
    // The next generation starts with what is known.
    assert!(service("endpoints: ['localhost:81']", &ledger).pick(&[]).is_some());
}

#[test]
fn an_implied_service_is_told_apart_by_its_port() {
    let (ledger, tallies, mut problems) = (Ledger::default(), Arc::default(), Problems::default());
    let kept = Kept { ledger: &ledger, tallies: &tallies, background: None };
    let one = Service::implied("127.0.0.1", 9001, Place::NOWHERE, &mut problems, kept).unwrap();
    let two = Service::implied("127.0.0.1", 9002, Place::NOWHERE, &mut problems, kept).unwrap();
    assert_eq!((&*one.name, &*one.key, &*two.key), ("127.0.0.1", "127.0.0.1:9001", "127.0.0.1:9002"));
    assert_eq!(port(one.pick(&[]).unwrap().addr), 9001);
    assert!(Service::implied("not a host", 1, Place::NOWHERE, &mut problems, kept).is_none());
    assert!(Service::implied("host", 0, Place::NOWHERE, &mut problems, kept).is_none());
    assert_eq!(problems.len(), 2);
}

#[test]
fn every_problem_is_told_at_once() {
    let (_, problems) = compile_with(
        "{ endpoints: ['10.0.0.1', { address: 'a:1', weight: 1002 }, 'b:1', 'B:1'], retries: { attempts: 11 }, keep_alive: 99999,
           retry_after: 10ms, dns_refresh: 2h, timeouts: { connect: 2m, response: 0s, write: 0s, idle: 1ms },
           health_check: { path: healthz, interval: 99ms, timeout: 2m, healthy_after: 0, unhealthy_after: 101, host: 'a b' } }",
        &Ledger::default(),
    );
    assert_eq!(problems.len(), 17, "{problems:#?}");
    for wrong in [
        "{}",
        "endpoints: []",
        "{ endpoints: ['a:1'], health_check: {} }",
        "{ endpoints: ['a:1'], health_check: { path: /, tcp: true } }",
        "{ endpoints: ['a:1'], health_check: { path: /, status: [] } }",
        "{ endpoints: ['a:1'], health_check: { path: 'http://a/' } }",
        "{ endpoints: ['10.0.0.1:1'], tls: true }",
        "{ endpoints: ['a:1'], tls: { server_name: 10.0.0.1 } }",
        "{ endpoints: ['a:1'], tls: { ca: /no/such/file } }",
    ] {
        assert!(compile_with(wrong, &Ledger::default()).1.has_errors(), "{wrong}");
    }
    for right in ["{ endpoints: ['a:1'], tls: true }", "{ endpoints: ['10.0.0.1:1'], tls: { server_name: a } }"] {
        assert!(compile_with(right, &Ledger::default()).1.is_empty(), "{right}");
    }
    let (_, problems) = compile_with("{ endpoints: ['10.0.0.1:1'], tls: { verify: false } }", &Ledger::default());
    assert!(problems.len() == 1 && !problems.has_errors());
}

#[test]
fn names_are_plain() {
    let mut problems = Problems::default();
    assert!(check_name("catalog-service_2.eu", Place::NOWHERE, &mut problems));
    for wrong in ["", "a b", "a:b", "a/b", "\u{e9}", &"a".repeat(65)] {
        assert!(!check_name(wrong, Place::NOWHERE, &mut problems), "{wrong}");
    }
}

#[test]
fn nobody_home_is_503_with_a_retry_after() {
    let reply = service("{ endpoints: ['10.0.0.1:1'], retry_after: 7s }", &Ledger::default()).unavailable();
    assert_eq!((reply.status, reply.headers[0].1.to_str().unwrap()), (StatusCode::SERVICE_UNAVAILABLE, "7"));
}

#[test]
fn a_thousand_endpoints_are_picked_from_as_quickly_as_one() {
    let many: Vec<String> = (1..=1000).map(|port| format!("{{ address: '10.0.0.1:{port}', weight: {port} }}")).collect();
    let many = service(&format!("endpoints: [{}]", many.join(", ")), &Ledger::default());
    let one = service("endpoints: ['10.0.0.1:1']", &Ledger::default());
    let nanos = |service: &Service| {
        let started = std::time::Instant::now();
        (0..200_000).for_each(|_| drop(service.pick(&[])));
        started.elapsed().as_nanos() / 200_000
    };
    // The least of several runs, against whatever else the machine does. A cost that grew with the endpoints would be hundreds of
    // times as high; the allowance is for a build without optimisation.
    let least = |service: &Service| (0..5).map(|_| nanos(service)).min().unwrap();
    let (few, lots) = (least(&one), least(&many));
    assert!(lots < 4 * few + 200, "{few} ns with one, {lots} ns with a thousand");
}

fn endpoint(service: &Service, port: u16) -> Arc<Endpoint> {
    let mut endpoints = service.cluster.endpoints().into_iter().map(|(_, endpoint)| endpoint);
    endpoints.find(|endpoint| self::port(endpoint.address()) == port).unwrap()
}

#[test]
fn a_weight_is_set_while_the_gateway_runs_and_outlives_a_reload() {
    let ledger = Ledger::default();
    let old = service(THREE, &ledger);
    endpoint(&old, 3).set_weight(Some(6));
    endpoint(&old, 1).set_weight(Some(0));
    old.cluster.board().publish();
    assert_eq!(counts(&old, 70), HashMap::from([(2, 10), (3, 60)]));
    let new = service(THREE, &ledger);
    assert_eq!(counts(&new, 70), HashMap::from([(2, 10), (3, 60)]));
    let view = serde_json::to_value(new.view()).unwrap();
    assert_eq!((&view["endpoints"][0]["weight"], &view["endpoints"][0]["configured_weight"]), (&0.into(), &1.into()));
    endpoint(&new, 3).set_weight(None);
    endpoint(&new, 1).set_weight(None);
    new.cluster.board().publish();
    assert_eq!(counts(&new, 400), HashMap::from([(1, 100), (2, 100), (3, 200)]));
}

#[test]
fn the_drained_keep_their_sessions_and_get_nothing_else() {
    let service =
        service("{ endpoints: ['10.0.0.1:1', { address: '10.0.0.1:2', weight: 0 }], sticky: cookie }", &Ledger::default());
    assert_eq!(counts(&service, 10), HashMap::from([(1, 10)]));
    let aim = |port| {
        let mut aim = Aim::default();
        aim.session.bound = Some(service.sticky.as_ref().unwrap().id(endpoint(&service, port).address()));
        aim
    };
    for at in [1, 2] {
        assert_eq!(port(service.pick_for(&[], Some(&aim(at))).unwrap().addr), at);
    }
    // One that was tried in vain is left.
    let tried = [endpoint(&service, 2).address()];
    assert_eq!(port(service.pick_for(&tried, Some(&aim(2))).unwrap().addr), 1);
}

#[test]
fn priorities_and_zones_come_first_while_they_are_well() {
    let yaml = "{ endpoints: [{ address: '10.0.0.1:1', zone: a }, { address: '10.0.0.1:2', zone: b }, { address: '10.0.0.1:3', \
                priority: 1 }], health_check: { tcp: true } }";
    let ledger = Ledger::default();
    let config: ServiceConfig = serde_yaml::from_str(yaml).unwrap();
    let site = Site { zone: Some("b".into()), number: None };
    let mut problems = Problems::default();
    let compile = |site: &Site, problems: &mut Problems| {
        let kept = Kept { ledger: &ledger, tallies: &Arc::default(), background: None };
        Service::compile_at(site, "catalog", Place::NOWHERE, &config, Path::new(""), problems, kept).unwrap()
    };
    let local = compile(&site, &mut problems);
    assert_eq!(counts(&local, 20), HashMap::from([(2, 20)]));
    set_health(&local, 2, false);
    assert_eq!(counts(&local, 20), HashMap::from([(1, 20)]));
    set_health(&local, 1, false);
    assert_eq!(counts(&local, 20), HashMap::from([(3, 20)]));
    set_health(&local, 2, true);
    assert_eq!(counts(&local, 20), HashMap::from([(2, 20)]));
    // What was tried in vain is left for the next level.
    let tried = [endpoint(&local, 2).address()];
    assert_eq!(port(local.pick(&tried).unwrap().addr), 3);
    set_health(&local, 1, true);
    let anywhere = compile(&Site::default(), &mut problems);
    assert_eq!(counts(&anywhere, 20), HashMap::from([(1, 10), (2, 10)]));
}

#[test]
fn half_of_a_priority_takes_seven_tenths() {
    let endpoints = "[{ address: '10.0.0.1:1' }, { address: '10.0.0.1:2' }, { address: '10.0.0.1:3', priority: 1 }]";
    let service = service(&format!("{{ endpoints: {endpoints}, health_check: {{ tcp: true }} }}"), &Ledger::default());
    set_health(&service, 1, false);
    let counts = counts(&service, 10_000);
    assert!((counts[&2] as f64 / 10_000.0 - 0.7).abs() < 0.02, "{counts:?}");
}

#[test]
fn who_recovers_starts_slowly() {
    let yaml = "{ endpoints: ['10.0.0.1:1', '10.0.0.1:2'], slow_start: 400ms, health_check: { tcp: true } }";
    let service = service(yaml, &Ledger::default());
    std::thread::sleep(Duration::from_millis(450));
    service.cluster.warm_up();
    assert_eq!(counts(&service, 100), HashMap::from([(1, 50), (2, 50)]));
    set_health(&service, 2, false);
    set_health(&service, 2, true);
    let early = counts(&service, 1000)[&2];
    assert!(early < 350, "{early} of 1000");
    std::thread::sleep(Duration::from_millis(450));
    service.cluster.warm_up();
    assert_eq!(counts(&service, 100), HashMap::from([(1, 50), (2, 50)]));
}

#[test]
fn the_full_are_passed_over_and_all_full_is_told() {
    let service =
        service("{ endpoints: ['10.0.0.1:1', { address: '10.0.0.1:2', max_requests: 1 }], max_requests: 2 }", &Ledger::default());
    let mut busy = Vec::new();
    for _ in 0..3 {
        let picked = service.pick(&[]).unwrap();
        busy.push(picked.begin(&service).unwrap());
    }
    assert_eq!([1, 2].map(|port| endpoint(&service, port).in_flight()), [2, 1]);
    assert!(service.pick(&[]).is_none());
    assert_eq!(service.unavailable().reason, "endpoints_full");
    busy.pop();
    assert!(service.pick(&[]).is_some());
}

#[test]
fn a_reload_keeps_what_was_learned() {
    let ledger = Ledger::default();
    let yaml = "{ endpoints: ['10.0.0.1:1', '10.0.0.1:2'], balance: peak_ewma, sticky: { by: consumer } }";
    let old = service(yaml, &ledger);
    let decay = old.balance_decay.unwrap();
    endpoint(&old, 1).learn(StatusCode::OK, Duration::from_millis(500), decay);
    endpoint(&old, 2).learn(StatusCode::OK, Duration::from_millis(5), decay);
    let new = service(yaml, &ledger);
    drop(old);
    assert_eq!(counts(&new, 100), HashMap::from([(2, 100)]));
    let view = serde_json::to_value(new.view()).unwrap();
    assert!(view["endpoints"][0]["ewma_ms"].as_f64().unwrap() > 400.0, "{view}");
    assert_eq!(view["sessions"], 0);
    // A quick failure does not look quick.
    endpoint(&new, 2).learn(StatusCode::BAD_GATEWAY, Duration::from_millis(1), decay);
    assert_eq!(counts(&new, 100), HashMap::from([(1, 100)]));
}

#[test]
fn a_subset_wants_to_know_which_gateway_it_is() {
    let yaml = "{ endpoints: ['10.0.0.1:1', '10.0.0.1:2', '10.0.0.1:3', '10.0.0.1:4'], subset: 2 }";
    let ledger = Ledger::default();
    let (none, problems) = compile_with(yaml, &ledger);
    assert!(none.is_none() && problems.iter().any(|problem| problem.message.contains("this gateway's")));
    let config: ServiceConfig = serde_yaml::from_str(yaml).unwrap();
    let of = |number| {
        let site = Site { zone: None, number: Some(number) };
        let mut problems = Problems::default();
        let kept = Kept { ledger: &ledger, tallies: &Arc::default(), background: None };
        let service = Service::compile_at(&site, "catalog", Place::NOWHERE, &config, Path::new(""), &mut problems, kept);
        counts(&service.unwrap(), 10).into_keys().collect::<HashSet<_>>()
    };
    let (one, two) = (of(0), of(1));
    assert!(one.len() == 2 && two.len() == 2 && one.is_disjoint(&two), "{one:?} {two:?}");
}

#[test]
fn what_balance_cannot_be_is_told() {
    for (yaml, why) in [
        ("balance: { consistent_hash: { bounded_load: 1 } }", "bounded_load"),
        ("balance: { consistent_hash: { key: route } }", "the same endpoint"),
        ("balance: { least_requests: { choices: 1 } }", "choices"),
        ("balance: { peak_ewma: { decay: 1ms } }", "decay"),
        ("slow_start: 1ms", "slow_start"),
        ("overprovisioning: 0.5", "overprovisioning"),
        ("max_requests: 0", "max_requests"),
    ] {
        let (_, problems) = compile_with(&format!("endpoints: ['10.0.0.1:1']\n{yaml}"), &Ledger::default());
        assert!(problems.iter().any(|problem| problem.message.contains(why)), "{yaml}: {problems:?}");
    }
}

#[test]
fn an_operators_drain_keeps_sessions_but_an_ejection_does_not() {
    let service = service("{ endpoints: ['10.0.0.1:1', '10.0.0.1:2'], sticky: cookie }", &Ledger::default());
    let two = endpoint(&service, 2);
    let mut aim = Aim::default();
    aim.session.bound = Some(service.sticky.as_ref().unwrap().id(two.address()));
    let goes_to = || port(service.pick_for(&[], Some(&aim)).unwrap().addr);
    two.set_drained(true);
    service.cluster.board().publish();
    assert_eq!((counts(&service, 10), goes_to()), (HashMap::from([(1, 10)]), 2));
    two.set_ejected(true);
    service.cluster.board().publish();
    assert_eq!(goes_to(), 1);
}

#[test]
fn a_generation_that_has_passed_follows_without_a_word() {
    let ledger = Ledger::default();
    let list = "endpoints: ['10.0.0.1:1', '10.0.0.1:2'], health_check: { tcp: true }";
    let old = service(&format!("{{ {list}, panic: {{ below: 100% }} }}"), &ledger);
    let new = service(&format!("{{ {list} }}"), &ledger);
    let board = new.cluster.board();
    set_health(&new, 1, false);
    assert!(!board.panics(), "what the old one would call a panic is none");
    // It asks all of them, as it was told; the new one asks who is well.
    assert_eq!((counts(&old, 10).len(), counts(&new, 10)), (2, HashMap::from([(2, 10)])));
    assert!(!board.panics());
    set_health(&new, 1, true);
    endpoint(&new, 2).set_drained(true);
    board.publish();
    assert_eq!([&old, &new].map(|service| counts(service, 10)), [(); 2].map(|()| HashMap::from([(1, 10)])));
    // One that was compiled and not taken leaves everything as it was.
    board.take(&new.cluster);
    let refused = service(&format!("{{ {list}, panic: {{ below: 100% }} }}"), &ledger);
    endpoint(&new, 2).set_drained(false);
    set_health(&new, 1, false);
    assert!(!board.panics());
    set_health(&new, 1, true);
    drop(refused);
    assert_eq!((counts(&new, 10).len(), new.cluster.available()), (2, 2));
}

#[test]
fn one_of_many_whose_breaker_lets_a_request_through_is_found_at_once() {
    let many: Vec<_> = (0..3000).map(|number| format!("'10.0.{}.{}:1'", number / 250, number % 250)).collect();
    let rules = "circuit_breaker: { scope: endpoint, consecutive_failures: 1, open_for: 1h, probes: 1 }";
    let service = service(&format!("{{ endpoints: [{}], {rules} }}", many.join(", ")), &Ledger::default());
    let well = service.pick(&[]).unwrap();
    let guard = service.breakers[0].clone();
    for (_, endpoint) in service.cluster.endpoints().iter().filter(|(_, endpoint)| endpoint.address() != well.addr) {
        // The judge has not seen it yet, so that it is among those that may be asked.
        guard.note(endpoint, &mut guard.enter(endpoint).unwrap(), outlier::AttemptOutcome::Broken, None);
    }
    let began = Instant::now();
    for _ in 0..20 {
        let mut tries = crate::upstream::call::Tries::default();
        assert!(tries.begin(&service).is_some());
        assert_eq!(tries.endpoint, Some(well.addr));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_call_that_fails_behind_its_answer_is_slow_to_the_balance() {
    let service = service("{ endpoints: ['10.0.0.1:1'], protocol: grpc, balance: peak_ewma }", &Ledger::default());
    let grpc = http::HeaderValue::from_static("application/grpc");
    for (status, least, most) in [("0", 0.0, 1.0), ("14", 4.9, 5.1)] {
        let mut tries = crate::upstream::call::Tries::default();
        tries.begin(&service).unwrap();
        tries.started = Some(Instant::now());
        let field = |name: &http::HeaderName| (name == "content-type").then_some(grpc.as_bytes());
        tries.answered(&service, &crate::head::RequestHead::build("POST", "/a.B/C", &[]), StatusCode::OK, field, None);
        let trailers = [(crate::grpc::GRPC_STATUS, http::HeaderValue::from_static(status))].into_iter().collect();
        tries.ended_with(&service, &trailers);
        let known = endpoint(&service, 1).latency.last().unwrap();
        assert!((least..most).contains(&known), "{status}: {known}");
    }
}
