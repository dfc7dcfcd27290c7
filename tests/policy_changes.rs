//! Reloads that change what a route wants of the cache while an answer is being fetched by the old one: who has asked gets what he asked
//! for, and nobody gets what was fetched for another question than his own.

use std::sync::{Arc, Condvar, Mutex};

use crate::harness::*;
use crate::peers::{Act, Asked, Origin, answer};
use crate::tiers::{ANN, BOB, HOST, keyed};

/// Says what it was asked, and by which name; keeps the first one waiting until it is let go.
struct Held {
    origin: Origin,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Held {
    fn start(name: &'static str) -> Held {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let (lets, first) = (gate.clone(), std::sync::atomic::AtomicBool::new(true));
        let origin = Origin::start(move |asked: &Asked| {
            if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
                drop(lets.1.wait_while(lets.0.lock().unwrap(), |open| !*open).unwrap());
            }
            let of = |name| asked.header(name).unwrap_or("-");
            let body = format!("{name} {} {} {} {}", asked.target, of("x-a"), of("cookie"), of("x-consumer-name"));
            Act::Send(answer(200, &[("Cache-Control", "public")], body))
        });
        Held { origin, gate }
    }

    fn let_go(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }

    fn yaml(&self, route: &str) -> String {
        self.yaml_beside(route, self.origin.port())
    }

    fn yaml_beside(&self, route: &str, other: u16) -> String {
        let yaml = "
            listeners: [ { bind: 127.0.0.1:$PORT } ]
            server: { workers: 2 }
            services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] }, b: { endpoints: [ '127.0.0.1:$OTHER' ] } }
            consumers:
              - { name: ann, api_keys: [ { hash: 'sha256:$ANN' } ] }
              - { name: bob, api_keys: [ { hash: 'sha256:$BOB' } ] }
            routes: [ { id: it, path: /*, ROUTE } ]
        ";
        keyed(&filled(&yaml.replace("ROUTE", route), &[("$OTHER", other)]), &self.origin)
    }
}

type Question<'q> = (&'q str, &'q [(&'q str, &'q str)]);

fn ask(gateway: &Gateway, (path, fields): Question<'_>) -> Client {
    let fields: Vec<_> = [HOST].iter().chain(fields).copied().collect();
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", path, &fields, b"");
    client
}

/// One asks by the first route, and another one waits for his answer; then the second route is loaded, and somebody asks by that before the
/// first answer has come. He is no part of it.
#[track_caller]
fn apart(before: &str, first: Question<'_>, after: &str, later: Question<'_>) {
    let held = Held::start("it");
    let gateway = Gateway::start(&held.yaml(before));
    let mut old = vec![ask(&gateway, first)];
    eventually("the service is asked", || held.origin.asked().len() == 1);
    old.push(ask(&gateway, first));
    eventually("another one waits", || gateway.metric("portcullis_in_flight") == 2.0);
    gateway.rewrite(&held.yaml(after));
    assert_eq!(gateway.reload().0, 200);
    let own = ask(&gateway, later).answer_to("GET");
    assert_eq!((own.status, held.origin.asked().len()), (200, 2), "{after}");
    held.let_go();
    let old: Vec<String> = old.iter_mut().map(|client| client.answer_to("GET").text()).collect();
    assert!(old[0] == old[1] && old[0] != own.text(), "{old:?} {}", own.text());
    assert_eq!(held.origin.asked().len(), 2);
    // Nor once it is stored.
    assert_eq!(ask(&gateway, later).answer_to("GET").text(), own.text(), "{after}");
}

#[test]
fn what_was_fetched_by_another_reading_of_the_query_is_not_given() {
    let on = |query: &str| format!("service: a, policies: {{ cache: {{ ttl: 1h, query: {query} }} }}");
    for (before, after) in
        [("none", "all"), ("none", "{ only: [ x ] }"), ("{ ignore: [ x ] }", "all"), ("{ only: [ y ] }", "all")]
    {
        apart(&on(before), ("/a?x=1", &[]), &on(after), ("/a", &[]));
    }
    apart(&on("{ ignore: [ x ] }"), ("/a?x=1", &[]), &on("none"), ("/a", &[]));
}

#[test]
fn what_was_fetched_by_other_parts_of_the_key_is_not_given() {
    let on = |cache: &str| format!("service: a, policies: {{ cache: {{ ttl: 1h, {cache} }} }}");
    let (one, cookie) = ([("X-A", "1")], [("Cookie", "lang=de")]);
    apart(&on(""), ("/a", &one), &on("key_headers: [ X-A ]"), ("/a", &[]));
    apart(&on("key_headers: [ X-A ]"), ("/a", &one), &on(""), ("/a", &[]));
    apart(&on("cookies: { drop: [ x ], key: [ lang ] }"), ("/a", &cookie), &on(""), ("/a", &[]));
    apart(&on("vary: { accept_language: [ de ] }"), ("/a", &one), &on("vary: { accept_language: [ en ] }"), ("/a", &[]));
}

#[test]
fn what_was_fetched_for_a_consumer_is_not_given_to_others_and_the_other_way_round() {
    let on =
        |cache: &str| format!("service: a, policies: {{ authn: {{ api_key: {{}} }}, cache: {{ default_ttl: 1h, {cache} }} }}");
    let (shared, own) = (on("shared_with_auth: true"), on("per: consumer"));
    let (ann, bob) = ([("X-API-Key", ANN)], [("X-API-Key", BOB)]);
    apart(&shared, ("/a", &ann), &own, ("/a", &bob));
    apart(&own, ("/a", &ann), &shared, ("/a", &bob));
}

#[test]
fn another_service_is_asked_for_itself() {
    let on = |service: &str| format!("service: {service}, policies: {{ cache: {{ ttl: 1h }} }}");
    let held = Held::start("it");
    let other = Origin::named("other");
    let yaml = |service: &str| held.yaml_beside(&on(service), other.port());
    let gateway = Gateway::start(&yaml("a"));
    let mut first = ask(&gateway, ("/a", &[]));
    eventually("the service is asked", || held.origin.asked().len() == 1);
    gateway.rewrite(&yaml("b"));
    assert_eq!(gateway.reload().0, 200);
    for _ in 0..2 {
        assert_eq!(ask(&gateway, ("/a", &[])).answer_to("GET").text(), "other");
    }
    held.let_go();
    assert_eq!(first.answer_to("GET").text(), "it /a - - -");
    assert_eq!(ask(&gateway, ("/a", &[])).answer_to("GET").text(), "other");
    // What was fetched is there again with its service.
    gateway.rewrite(&yaml("a"));
    assert_eq!(gateway.reload().0, 200);
    let again = ask(&gateway, ("/a", &[])).answer_to("GET");
    assert!(again.text().starts_with("it ") && again.cache_status().contains("; hit"), "{:?}", again.headers);
    assert_eq!((held.origin.asked().len(), other.asked().len()), (1, 1));
}

#[test]
fn a_route_without_a_cache_asks_for_each_and_lets_those_who_wait_have_theirs() {
    let held = Held::start("it");
    let with = held.yaml("service: a, policies: { cache: { ttl: 1h } }");
    let gateway = Gateway::start(&with);
    let mut old = vec![ask(&gateway, ("/a", &[]))];
    eventually("the service is asked", || held.origin.asked().len() == 1);
    old.push(ask(&gateway, ("/a", &[])));
    eventually("another one waits", || gateway.metric("portcullis_in_flight") == 2.0);
    gateway.rewrite(&held.yaml("service: a"));
    assert_eq!(gateway.reload().0, 200);
    for number in 2..4 {
        let own = ask(&gateway, ("/a", &[])).answer_to("GET");
        assert_eq!((own.header("cache-status"), held.origin.asked().len()), (None, number));
    }
    held.let_go();
    for client in &mut old {
        assert_eq!(client.answer_to("GET").text(), "it /a - - -");
    }
    // A change counts on whatever route it is made: what was stored before is not there when the cache is again.
    assert_eq!(request(gateway.port(), "POST", "/a", &[HOST], b"").status, 200);
    gateway.rewrite(&with);
    assert_eq!(gateway.reload().0, 200);
    let again = ask(&gateway, ("/a", &[])).answer_to("GET");
    assert!(again.cache_status().contains("fwd=miss; stored"), "{:?}", again.headers);
}

/// How long an answer is good is said when it is stored, by the policy that it was asked for by.
#[test]
fn a_lifetime_is_that_of_the_policy_that_it_was_asked_for_by() {
    let on = |ttl: &str| format!("service: a, policies: {{ cache: {{ ttl: {ttl} }} }}");
    let held = Held::start("it");
    let gateway = Gateway::start(&held.yaml(&on("1h")));
    let mut old = vec![ask(&gateway, ("/a", &[]))];
    eventually("the service is asked", || held.origin.asked().len() == 1);
    gateway.rewrite(&held.yaml(&on("10m")));
    assert_eq!(gateway.reload().0, 200);
    // The key is the same, so that who comes later waits as well.
    old.push(ask(&gateway, ("/a", &[])));
    eventually("he waits", || gateway.metric("portcullis_in_flight") == 2.0);
    held.let_go();
    let said: Vec<String> = old.iter_mut().map(|client| client.answer_to("GET").cache_status().to_owned()).collect();
    assert!(said[0].contains("fwd=miss; stored") && !said[1].contains("stored"), "{said:?}");
    let ttl = |path: &str| {
        let answer = ask(&gateway, (path, &[])).answer_to("GET");
        let said = answer.cache_status().split("ttl=").nth(1).unwrap_or_else(|| panic!("{:?}", answer.headers)).to_owned();
        said.split(';').next().unwrap().trim().parse::<u32>().unwrap()
    };
    assert!((3500..=3600).contains(&ttl("/a")));
    ask(&gateway, ("/b", &[])).answer_to("GET");
    assert!((500..=600).contains(&ttl("/b")));
    assert_eq!(held.origin.asked().len(), 2);
}
