//! Connections that are made before a request wants them.

use crate::harness::{Backend, Client, Gateway, Port, eventually, get};

fn start(services: &str) -> Gateway {
    Gateway::start(&format!(
        "listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]\nserver: {{ workers: 2 }}\nservices: {{ app: {{ {services} }} }}\n\
         routes: [ {{ path: /*, service: app }} ]\n"
    ))
}

#[test]
fn each_core_connects_after_the_start_and_to_endpoints_that_a_reload_adds() {
    let (one, two) = (Backend::http(), Backend::http());
    let gateway = start(&format!("endpoints: ['127.0.0.1:{}'], warm: 3", one.port()));
    eventually("both cores have connected", || one.connections() == 6);
    let mut client = Client::connect(gateway.port());
    for _ in 0..5 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!((one.connections(), one.requests().len()), (6, 5), "requests use what is there");
    let yaml = std::fs::read_to_string(gateway.config_path()).unwrap();
    gateway.rewrite(&yaml.replace("endpoints: [", &format!("endpoints: ['127.0.0.1:{}', ", two.port())));
    assert_eq!(gateway.reload().0, 200);
    eventually("the new one is connected to as well", || two.connections() == 6);
    assert_eq!(one.connections(), 6, "and nobody a second time");
}

#[test]
fn an_endpoint_that_is_away_is_tried_again_and_harms_nobody() {
    let (well, away) = (Backend::http(), Port::lease());
    let gateway = start(&format!(
        "endpoints: ['127.0.0.1:{}', '127.0.0.1:{}'], warm: 1, keep_alive: 1, outlier_detection: false",
        well.port(),
        away.number()
    ));
    eventually("the other one is connected to", || well.connections() == 2);
    for _ in 0..4 {
        assert_eq!(get(gateway.port(), "/").status, 200);
    }
    let view: serde_json::Value = serde_json::from_str(&gateway.admin_get("/upstreams").1).unwrap();
    assert!(view["services"][0]["endpoints"][1]["failures"].as_u64() >= Some(2), "{view}");
    let back = Backend::http_on(away.number());
    eventually("it is back", || back.connections() >= 2);
}
