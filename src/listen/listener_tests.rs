use super::*;
use crate::listen::tls::config::{TlsConfig, TlsVersion};

fn read(yaml: &str) -> ListenerConfig {
    serde_yaml::from_str(yaml).unwrap()
}

fn compile(yaml: &str) -> (Option<Listener>, Vec<String>) {
    let mut problems = Problems::default();
    let listener = Listener::compile(&read(yaml), Path::new("/nowhere"), &mut problems);
    (listener, problems.iter().map(|problem| problem.message.clone()).collect())
}

#[test]
fn a_bind_address_is_enough() {
    let (listener, problems) = compile("bind: 0.0.0.0:8080");
    let listener = listener.unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(&*listener.name, "0.0.0.0:8080");
    assert_eq!(listener.caps, Caps { connections: 65_536, per_address: 1024 });
    assert_eq!(listener.limits, Limits { head: 32 << 10, headers: 100, uri: 8 << 10, body: 10 << 20, body_rate: 500 });
    assert_eq!(listener.timeouts.request, None, "what makes headway goes on");
    assert_eq!(listener.timeouts.keep_alive, Duration::from_secs(75));
    assert_eq!(listener.opening([192, 0, 2, 1].into()), Opening::Plain);
}

#[test]
fn addresses_are_read_the_way_people_write_them() {
    for (bind, expected) in [("':8080'", "[::]:8080"), ("'[::]:443'", "[::]:443"), ("127.0.0.1:1", "127.0.0.1:1")] {
        assert_eq!(compile(&format!("bind: {bind}")).0.unwrap().bind, expected.parse().unwrap());
    }
    for bind in ["localhost:80", "0.0.0.0", "'8080'", "':x'", "':70000'", "'::1:80'", "''", "':'"] {
        let (listener, problems) = compile(&format!("bind: {bind}"));
        assert!(listener.is_none() && problems.len() == 1, "{bind}: {problems:?}");
    }
}

#[test]
fn a_partial_block_keeps_the_other_defaults() {
    let (listener, _) = compile("{ bind: ':80', timeouts: { header: 3s }, limits: { head: 4KiB, body: 1 } }");
    let listener = listener.unwrap();
    assert_eq!(listener.timeouts.header, Duration::from_secs(3));
    assert_eq!(listener.timeouts.body, Duration::from_secs(60));
    assert_eq!((listener.limits.head, listener.limits.uri, listener.limits.body), (4096, 4096, 1));
}

#[test]
fn every_problem_is_found_at_once() {
    let (listener, problems) = compile(
        "{ name: 'two words', bind: nonsense, max_connections: 0, max_connections_per_address: 0,
           max_new_connections_per_address: 100/hour,
           trusted_proxies: [ everywhere ], proxy_protocol: { trusted: [] },
           timeouts: { handshake: 0s, request: 48h }, limits: { head: 1MiB, headers: 0, body: 0 } }",
    );
    assert!(listener.is_none());
    assert_eq!(problems.len(), 12, "{problems:#?}");
}

#[test]
fn no_more_header_fields_are_promised_than_can_be_read() {
    let most = |count: usize| compile(&format!("{{ bind: ':80', limits: {{ headers: {count} }} }}"));
    assert_eq!(most(crate::wire::head::MAX_FIELDS).0.unwrap().limits.headers, 256);
    assert!(most(257).0.is_none());
}

#[test]
fn unknown_keys_are_refused_at_every_level() {
    for yaml in [
        "{ bind: ':80', binds: ':81' }",
        "{ bind: ':80', timeouts: { headers: 1s } }",
        "{ bind: ':80', limits: { header: 1 } }",
        "{ bind: ':80', proxy_protocol: { trusted: [10.0.0.1], version: 2 } }",
        "{ bind: ':80', tls: { certificates: [], ciphers: all } }",
        "{ bind: ':80', tls: { certificates: [ { cert: a, key: b, ca: c } ] } }",
        "{ tls: { certificates: [] } }",
    ] {
        assert!(serde_yaml::from_str::<ListenerConfig>(yaml).is_err(), "{yaml}");
    }
}

#[test]
fn a_tls_version_may_forget_its_quotes() {
    for (written, expected) in [("1.2", TlsVersion::V1_2), ("'1.3'", TlsVersion::V1_3), ("1.3", TlsVersion::V1_3)] {
        let yaml = format!("{{ certificates: [], min_version: {written} }}");
        assert_eq!(serde_yaml::from_str::<TlsConfig>(&yaml).unwrap().min_version, expected);
    }
    for written in ["1.1", "'1.0'", "2", "TLS", "[]"] {
        assert!(serde_yaml::from_str::<TlsConfig>(&format!("{{ certificates: [], min_version: {written} }}")).is_err());
    }
}

#[test]
fn tls_that_does_not_compile_is_never_plain_text() {
    let (listener, problems) = compile("{ bind: ':443', tls: { certificates: [] } }");
    assert!(listener.is_none());
    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[test]
fn the_proxy_protocol_decides_by_the_peer() {
    let (strict, _) = compile("{ bind: ':80', proxy_protocol: { trusted: [10.0.0.0/8] } }");
    let (lenient, _) = compile("{ bind: ':80', proxy_protocol: { trusted: [10.0.0.0/8], required: false } }");
    let (inside, outside): (IpAddr, IpAddr) = ([10, 1, 1, 1].into(), [192, 0, 2, 1].into());
    let (strict, lenient) = (strict.unwrap(), lenient.unwrap());
    assert_eq!((strict.opening(inside), strict.opening(outside)), (Opening::Header, Opening::Refuse));
    assert_eq!((lenient.opening(inside), lenient.opening(outside)), (Opening::MaybeHeader, Opening::Plain));
    assert_eq!((strict.counted_address(inside), strict.counted_address(outside)), (None, Some(outside)));
}

#[test]
fn trusting_everyone_and_h2c_over_tls_are_warned_of() {
    let (listener, problems) = compile("{ bind: ':80', trusted_proxies: [0.0.0.0/0] }");
    assert!(listener.is_some());
    assert!(problems[0].contains("every address"), "{problems:?}");
}

#[test]
fn the_schema_describes_every_key() {
    let schema = serde_json::to_value(schemars::schema_for!(ListenerConfig)).unwrap();
    for (key, property) in schema["properties"].as_object().unwrap() {
        assert!(property["description"].is_string(), "{key} has no description");
    }
}
