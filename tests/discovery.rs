//! Endpoints that are found: in a file, and in the records of a real DNS server.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Backend, Client, Dns, Files, Gateway, eventually, get, portcullis};

fn start(files: &Files, service: &str) -> Gateway {
    let yaml = format!(
        "listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]\nserver: {{ workers: 1 }}\nservices: {{ app: {{ {service} }} }}\n\
         routes: [ {{ path: /*, service: app }} ]\n"
    );
    Gateway::start_in(files, &yaml)
}

/// The addresses of the endpoints with their weights.
fn endpoints(gateway: &Gateway) -> Vec<(String, u64)> {
    let view: Value = serde_json::from_str(&gateway.admin_get("/upstreams").1).unwrap();
    let listed = view["services"][0]["endpoints"].as_array().unwrap().clone();
    listed.iter().map(|one| (one["address"].as_str().unwrap().to_owned(), one["weight"].as_u64().unwrap())).collect()
}

/// As one that replaces a file should.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[test]
fn a_file_is_followed_without_a_reload() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let files = Files::new();
    let path = files.write("endpoints.yaml", format!("- 127.0.0.1:{}\n", one.port()));
    let gateway = start(&files, "discover: { file: endpoints.yaml }");
    assert_eq!(get(gateway.port(), "/").status, 200);
    assert_eq!(endpoints(&gateway), [(format!("127.0.0.1:{}", one.port()), 1)]);
    replace(&path, &format!("endpoints: [ {{ address: '127.0.0.1:{}', weight: 3 }}, '127.0.0.1:{}' ]", two.port(), one.port()));
    eventually("both are there", || endpoints(&gateway).len() == 2);
    let before = (one.requests().len(), two.requests().len());
    let mut client = Client::connect(gateway.port());
    assert!((0..40).all(|_| client.get("/").status == 200));
    assert_eq!((one.requests().len() - before.0, two.requests().len() - before.1), (10, 30));
    // Broken: nothing changes, and it is told.
    for broken in ["- catalog", "[ 'a", "- { address: '127.0.0.1:1', weight: -1 }"] {
        replace(&path, broken);
        eventually("it is told", || gateway.stderr().contains("endpoints.yaml` does not resolve, its last addresses stay"));
        assert_eq!((endpoints(&gateway).len(), client.get("/").status), (2, 200), "{broken}");
    }
    std::fs::remove_file(&path).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(endpoints(&gateway).len(), 2);
    // None: that is an answer, too.
    replace(&path, "[]");
    eventually("there are none", || endpoints(&gateway).is_empty());
    get(gateway.port(), "/").assert_problem(503, "upstream", "no_healthy_endpoint");
    replace(&path, &format!("- 127.0.0.1:{}\n", two.port()));
    eventually("it serves again", || get(gateway.port(), "/").status == 200);
    // The generation is still the first.
    assert_eq!(gateway.wait_log(|line| line["status"] == 503)["generation"], 1);
}

/// A request that is under way at an endpoint that leaves is answered by it.
#[test]
fn who_leaves_finishes_what_it_has() {
    let (stays, files) = (Backend::named("stays"), Files::new());
    let slow = Backend::answering(|_| {
        std::thread::sleep(Duration::from_millis(1500));
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow".to_vec()
    });
    let path = files.write("endpoints.yaml", format!("- 127.0.0.1:{}\n", slow.port()));
    let gateway = start(&files, "discover: { file: endpoints.yaml }");
    let mut waiting = Client::connect(gateway.port());
    waiting.send_request("GET", "/", &[], b"");
    eventually("it is asked", || slow.requests().len() == 1);
    replace(&path, &format!("- 127.0.0.1:{}\n", stays.port()));
    eventually("it has left", || endpoints(&gateway) == [(format!("127.0.0.1:{}", stays.port()), 1)]);
    assert_eq!(get(gateway.port(), "/").json()["name"], "stays");
    assert_eq!(waiting.answer_to("GET").text(), "slow");
}

/// A thousand endpoints that change all the time: no request fails, and a reload keeps what is known.
#[test]
fn many_endpoints_that_change_all_the_time_harm_no_request() {
    let (backend, files) = (Backend::http(), Files::new());
    let list = |round: usize| {
        let others = (0..999).map(|number| format!("- {{ address: 'unix:/nowhere/{round}-{number}', weight: 0 }}\n"));
        format!("- 127.0.0.1:{}\n{}", backend.port(), others.collect::<String>())
    };
    let path = files.write("endpoints.yaml", list(0));
    let gateway = start(&files, "discover: { file: endpoints.yaml }");
    assert_eq!(endpoints(&gateway).len(), 1000);
    let until = Instant::now() + Duration::from_secs(3);
    let mut client = Client::connect(gateway.port());
    let mut rounds = 0;
    while Instant::now() < until {
        rounds += 1;
        replace(&path, &list(rounds));
        let turn = Instant::now() + Duration::from_millis(100);
        while Instant::now() < turn {
            assert_eq!(client.get("/").status, 200);
        }
    }
    eventually("the last one is there", || {
        endpoints(&gateway).iter().any(|(address, _)| address == &format!("unix:/nowhere/{rounds}-0"))
    });
    assert_eq!(gateway.reload().0, 200);
    assert_eq!((endpoints(&gateway).len(), client.get("/").status), (1000, 200));
}

#[test]
fn srv_records_become_endpoints_with_their_weights() {
    let (one, two, spare) = (Backend::named("one"), Backend::named("two"), Backend::named("spare"));
    let srv = |backend: &Backend, priority: u16, weight: u16| {
        format!("srv-host=_http._tcp.app.test,host.test,{},{priority},{weight}", backend.port())
    };
    let host = "host-record=host.test,127.0.0.1";
    let (first, second, third) = (srv(&one, 10, 1), srv(&two, 10, 3), srv(&spare, 20, 1));
    let mut dns = Dns::start(&[host, &first, &second, &third]);
    let files = Files::new();
    let gateway = start(&files, &format!("discover: {{ srv: _http._tcp.app.test, servers: [ {} ] }}", dns.server()));
    let mut client = Client::connect(gateway.port());
    assert!((0..40).all(|_| client.get("/").status == 200));
    assert_eq!(
        (one.requests().len(), two.requests().len(), spare.requests().len()),
        (10, 30, 0),
        "the lowest priority, by weight"
    );
    // The records' lifetime of a second is obeyed.
    dns.restart(&[host, &third]);
    eventually("others are found", || endpoints(&gateway) == [(format!("127.0.0.1:{}", spare.port()), 1)]);
    // A worker hears of it a moment later than the admin API.
    eventually("they are asked", || client.get("/").json()["name"] == "spare");
    // Away, and then without such a name: the last good ones stay.
    dns.stop();
    eventually("it is told", || gateway.stderr().contains("does not resolve, its last addresses stay"));
    assert_eq!(client.get("/").json()["name"], "spare");
    dns.restart(&[host]);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(client.get("/").json()["name"], "spare");
}

#[test]
fn a_name_that_is_gone_may_mean_that_there_is_nothing() {
    let backend = Backend::named("here");
    let mut dns = Dns::start(&["host-record=app.test,127.0.0.1"]);
    let files = Files::new();
    let gateway = start(
        &files,
        &format!("discover: {{ dns: 'app.test:{}', servers: [ {} ], missing: drop }}", backend.port(), dns.server()),
    );
    assert_eq!(get(gateway.port(), "/").json()["name"], "here");
    dns.stop();
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(get(gateway.port(), "/").json()["name"], "here", "a server that is away says nothing");
    dns.restart(&["host-record=other.test,127.0.0.1"]);
    eventually("there are none", || get(gateway.port(), "/").status == 503);
    dns.restart(&["host-record=app.test,127.0.0.1"]);
    eventually("it is back", || get(gateway.port(), "/").status == 200);
}

/// More than a packet holds, asked for again over TCP; by an alias; over both families.
#[test]
fn long_answers_aliases_and_both_families_are_read() {
    let backend = Backend::named("here");
    let mut records: Vec<String> = (1..=120).map(|last| format!("host-record=many.test,127.0.1.{last}")).collect();
    records.push("cname=alias.test,many.test".to_owned());
    records.push("host-record=both.test,127.0.0.1,::1".to_owned());
    let dns = Dns::start(&records.iter().map(String::as_str).collect::<Vec<_>>());
    for (name, count) in [("many.test", 120), ("alias.test", 120), ("both.test", 2)] {
        let files = Files::new();
        let port = backend.port();
        let gateway = start(&files, &format!("discover: {{ dns: '{name}:{port}', servers: [ {} ] }}", dns.server()));
        assert_eq!(endpoints(&gateway).len(), count, "{name}");
    }
}

#[test]
fn what_cannot_be_is_said() {
    for (service, code, said) in [
        ("discover: {}", 1, "needs exactly one of `file`, `dns` and `srv`"),
        ("discover: { file: a, srv: _http._tcp.a }", 1, "needs exactly one of"),
        ("discover: { file: a, servers: ['127.0.0.1'] }", 1, "are for `dns` and `srv`"),
        ("discover: { srv: app.test }", 1, "is no name of SRV records"),
        ("discover: { dns: '10.0.0.1:80' }", 1, "write it under `endpoints`"),
        ("discover: { dns: 'app.test' }", 1, "has no port"),
        ("discover: { dns: 'app.test:80', servers: [ ns.test ] }", 1, "is no address of a DNS server"),
        ("discover: { dns: 'app.test:80', min_ttl: 10m }", 1, "longer than `max_ttl`"),
        ("discover: { file: a }, tls: true", 1, "no name to verify the certificates"),
        ("discover: { file: nowhere.yaml }", 0, "does not resolve: No such file"),
    ] {
        let files = Files::new();
        files.write(
            "bad.yaml",
            format!(
                "listeners: [ {{ bind: '127.0.0.1:8123' }} ]\nservices: {{ app: {{ {service} }} }}\nroutes: [ {{ path: /*, service: app }} ]\n"
            ),
        );
        let ran = portcullis(files.dir(), &["check", "bad.yaml"]);
        assert!(
            ran.code == code && format!("{}{}", ran.stdout, ran.stderr).contains(said),
            "{service}: {} {}",
            ran.stdout,
            ran.stderr
        );
    }
}
