//! The open connections of all workers, as the admin API shows them.

use serde_json::Value;

use crate::harness::{Backend, Client, Gateway, eventually, filled};

const YAML: &str = "
    listeners:
      - { name: public, bind: '127.0.0.1:$PORT' }
      - { name: second, bind: '127.0.0.1:$PORT2', h2c: true }
    services: { backend: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    routes: [ { path: /a/*, service: backend }, { path: /b/*, service: backend } ]
";

fn start(backend: &Backend) -> Gateway {
    Gateway::start(&filled(YAML, &[("$BACKEND", backend.port())]))
}

fn ask(gateway: &Gateway, query: &str) -> Value {
    let (status, text) = gateway.admin_get(&format!("/connections{query}"));
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn sum(all: &Value, what: &str) -> u64 {
    all["workers"].as_array().unwrap().iter().map(|worker| worker[what].as_u64().unwrap()).sum()
}

#[test]
fn who_is_connected_can_be_seen_and_chosen() {
    let backend = Backend::http();
    let gateway = start(&backend);
    let mut clients: Vec<Client> = (0..6).map(|_| Client::connect(gateway.port())).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        for _ in 0..=number {
            assert_eq!(client.request("GET", "/a/x", &[], b"").status, 200);
        }
    }
    let mut second = Client::connect(gateway.port2());
    assert_eq!(second.request("GET", "/b/y", &[], b"").status, 200);
    eventually("every connection is idle", || sum(&ask(&gateway, ""), "idle") == 7);
    let all = ask(&gateway, "");
    assert_eq!((sum(&all, "open"), sum(&all, "active"), sum(&all, "accepted")), (7, 0, 7), "{all}");
    assert_eq!((all["workers"].as_array().unwrap().len(), all["matched"].as_u64()), (2, Some(7)), "{all}");
    let only = ask(&gateway, "?listener=second&protocol=h1&state=idle&client=127.0.0.0/8");
    let one = &only["connections"][0];
    assert_eq!(only["matched"], 1, "{only}");
    assert_eq!(
        (one["listener"].as_str(), one["route"].as_str(), one["requests"].as_u64()),
        (Some("second"), Some("/b/*"), Some(1)),
        "{one}"
    );
    assert!(one["client"].as_str().unwrap().starts_with("127.0.0.1:") && one["age_ms"].is_u64(), "{one}");
    let mut requests: Vec<u64> = ask(&gateway, "?listener=public")["connections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["requests"].as_u64().unwrap())
        .collect();
    requests.sort_unstable();
    assert_eq!(requests, [1, 2, 3, 4, 5, 6]);
    let few = ask(&gateway, "?limit=2");
    assert_eq!((few["matched"].as_u64(), few["connections"].as_array().unwrap().len()), (Some(7), 2));
    assert_eq!(ask(&gateway, "?client=192.0.2.1")["matched"], 0);
    for bad in ["?limit=0", "?limit=1001", "?state=asleep", "?protocol=h3", "?client=nobody", "?colour=red", "?limit=x"] {
        let (status, text) = gateway.admin_get(&format!("/connections{bad}"));
        assert_eq!(status, 400, "{bad}: {text}");
    }
    drop(clients);
    eventually("closed connections are gone", || sum(&ask(&gateway, ""), "open") == 1);
}

#[test]
fn a_request_under_way_is_active() {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::answering(move |_| {
        let _ = wait.lock().unwrap().recv();
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()
    });
    let gateway = start(&backend);
    let mut client = Client::connect(gateway.port());
    client.send("GET /a/slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request is under way", || {
        let active = ask(&gateway, "?state=active");
        active["matched"] == 1 && active["connections"][0]["route"] == "/a/*"
    });
    release.send(()).unwrap();
    assert_eq!(client.answer_to("GET").status, 200);
    eventually("it is idle again", || ask(&gateway, "?state=idle")["matched"] == 1);
}

#[test]
fn the_kernel_deals_connections_out_fairly() {
    let backend = Backend::http();
    let gateway = start(&backend);
    let clients: Vec<Client> = (0..200).map(|_| Client::connect(gateway.port())).collect();
    eventually("all are accepted", || gateway.metric("portcullis_connections_accepted_total") == 200.0);
    for worker in 0..2 {
        let accepted = gateway.metric(&format!("portcullis_connections_accepted_total{{worker=\"{worker}\"}}"));
        // Were it one coin per connection, less than a quarter would happen once in 10^13 runs.
        assert!((50.0..=150.0).contains(&accepted), "worker {worker} accepted {accepted} of 200");
    }
    drop(clients);
}
