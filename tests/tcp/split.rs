//! Several services behind one route of connections.

use super::bounds::connect_from;
use super::*;

fn named(name: &'static str) -> u16 {
    listening(move |mut stream| {
        let _ = stream.write_all(name.as_bytes());
        let _ = rest(&mut stream);
    })
}

fn yaml(split: &str, more: &str) -> String {
    format!(
        "
        listeners: [ {{ name: front, bind: '127.0.0.1:$PORT', protocol: tcp, max_connections_per_address: 4000 }} ]
        services:
          stable: {{ endpoints: [ '127.0.0.1:{}' ] }}
          canary: {{ endpoints: [ '127.0.0.1:{}' ]{more} }}
        tcp_routes: [ {{ listeners: front, {split} }} ]
        server: {{ workers: 2 }}
        ",
        named("s"),
        named("c")
    )
}

fn whom(mut client: TcpStream) -> char {
    let mut name = [b'-'];
    let _ = client.read_exact(&mut name);
    char::from(name[0])
}

#[test]
fn connections_are_shared_by_weight() {
    let gateway = Gateway::start(&yaml("split: [ { service: stable, weight: 75% }, { service: canary, weight: 25% } ]", ""));
    let went = |to: char| (0..200).filter(|_| whom(connect(gateway.port())) == to).count();
    let (stable, canary) = (went('s'), went('c'));
    // Four standard deviations.
    assert!((125..=175).contains(&stable) && (25..=75).contains(&canary), "{stable} and {canary} of 200 each");
    gateway.wait_log(|line| line["service"] == "canary" && line["route"] == "front");
    gateway.wait_log(|line| line["service"] == "stable");
    let routes: serde_json::Value = serde_json::from_str(&gateway.admin_get("/routes").1).unwrap();
    let split = &routes["tcp_routes"][0]["split"];
    assert_eq!((&split[1]["service"], &split[1]["weight"]), (&json!("canary"), &json!(25)), "{routes}");
    let listed = portcullis(gateway.dir(), &["routes", "-c", "gateway.yaml"]);
    assert_eq!(listed.stdout, "tcp front  ->  stable | canary  [no policies]\n");
}

#[test]
fn a_client_stays_with_its_target_where_that_is_wanted() {
    let even = "split: [ { service: stable, weight: 1 }, { service: canary, weight: 1 } ], sticky: client_address";
    let file = yaml(even, "");
    let gateway = Gateway::start(&file);
    let port = gateway.port();
    let first: String = (1..=40).map(|last| whom(connect_from(last, port))).collect();
    assert!(first.contains('s') && first.contains('c'), "{first}");
    let again = || (1..=40).map(|last| whom(connect_from(last, port))).collect::<String>();
    assert_eq!(again(), first);
    // Whoever was with the canary stays there when it grows; a stable one may move.
    gateway.rewrite(&file.replace("canary, weight: 1", "canary, weight: 3"));
    assert_eq!(gateway.reload().0, 200);
    let grown = again();
    assert!(first.chars().zip(grown.chars()).all(|(before, now)| now == 'c' || before == 's'), "{first} then {grown}");
}

#[test]
fn each_target_keeps_its_own_rules_and_a_dead_one_is_seen() {
    let closed = ", policies: { ip_restriction: { deny: [ 127.0.0.0/8 ] } }";
    let even = "split: [ { service: stable, weight: 1 }, { service: canary, weight: 1 } ]";
    let gateway = Gateway::start(&yaml(even, closed));
    let went: String = (0..60).map(|_| whom(connect(gateway.port()))).collect();
    assert!(went.contains('s') && went.contains('-') && !went.contains('c'), "{went}");
    let line = gateway.wait_log(|line| line["reason"] == "ip_denied");
    assert_eq!((&line["service"], &line["decided_by"]), (&json!("canary"), &json!("service:canary")));
    // With all of it, there is nobody else: it is no balance.
    let nobody = Port::lease();
    let file = yaml("split: [ { service: stable, weight: 0 }, { service: gone, weight: 1 } ]", "")
        .replace("services:", &format!("services:\n          gone: {{ endpoints: [ '127.0.0.1:{}' ] }}", nobody.number()));
    let gateway = Gateway::start(&file);
    assert_eq!(whom(connect(gateway.port())), '-');
    assert_eq!(gateway.wait_log(|_| true)["service"], "gone");
}
