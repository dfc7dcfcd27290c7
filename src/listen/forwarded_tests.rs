use proptest::prelude::*;

use super::*;

fn trusted() -> CidrSet {
    CidrSet::new(["10.0.0.0/8", "2001:db8:aaaa::/48"].map(|net| net.parse().unwrap()))
}

fn client(peer: &str, headers: &[(&str, &str)]) -> String {
    real_client(peer.parse().unwrap(), &RequestHead::build("GET", "/", headers), &trusted()).to_string()
}

#[test]
fn a_stranger_is_believed_nothing() {
    assert_eq!(client("192.0.2.9", &[("X-Forwarded-For", "1.1.1.1"), ("Forwarded", "for=1.1.1.1")]), "192.0.2.9");
    assert_eq!(client("::ffff:192.0.2.9", &[]), "192.0.2.9");
    let nobody = CidrSet::default();
    let head = RequestHead::build("GET", "/", &[("x-forwarded-for", "1.1.1.1")]);
    assert_eq!(real_client("10.0.0.1".parse().unwrap(), &head, &nobody).to_string(), "10.0.0.1");
}

#[test]
fn the_walk_stops_at_the_first_stranger_from_the_right() {
    for (list, expected) in [
        ("192.0.2.1", "192.0.2.1"),
        ("6.6.6.6, 192.0.2.1", "192.0.2.1"),
        ("6.6.6.6, 192.0.2.1, 10.0.0.2, 10.0.0.3", "192.0.2.1"),
        ("10.9.9.9, 6.6.6.6, 10.0.0.2", "6.6.6.6"),
        ("10.0.0.5, 10.0.0.4", "10.0.0.5"),
        (" 192.0.2.1:4711 ,, ", "192.0.2.1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("\"[2001:db8::1]\"", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("6.6.6.6, 2001:db8:aaaa::7", "6.6.6.6"),
        ("", "10.0.0.1"),
        (",,,", "10.0.0.1"),
    ] {
        assert_eq!(client("10.0.0.1", &[("X-Forwarded-For", list)]), expected, "{list}");
    }
}

#[test]
fn what_cannot_be_read_hides_what_is_left_of_it() {
    for bad in [
        "unknown",
        "_hidden",
        "localhost",
        "999.1.1.1",
        "1.2.3",
        "1.2.3.4:",
        "1.2.3.4:123456",
        "[::1",
        "[::1]x",
        "\"1.1.1.1",
        "1.1.1.1 2.2.2.2",
        "01.1.1.1",
    ] {
        let list = format!("6.6.6.6, {bad}, 10.0.0.2");
        assert_eq!(client("10.0.0.1", &[("X-Forwarded-For", &list)]), "10.0.0.2", "{bad}");
    }
}

#[test]
fn several_fields_are_one_list() {
    let headers = [("X-Forwarded-For", "6.6.6.6"), ("x-forwarded-for", "192.0.2.1, 10.0.0.3"), ("X-FORWARDED-FOR", "10.0.0.2")];
    assert_eq!(client("10.0.0.1", &headers), "192.0.2.1");
    assert_eq!(client("10.0.0.1", &[("Forwarded", "for=6.6.6.6"), ("Forwarded", "for=192.0.2.1, for=10.0.0.2")]), "192.0.2.1");
}

#[test]
fn rfc_7239_is_read_with_its_quotes_ports_and_hidden_names() {
    for (value, expected) in [
        ("for=192.0.2.1", "192.0.2.1"),
        ("For=\"[2001:db8::17]:4711\"", "2001:db8::17"),
        ("for=192.0.2.1;proto=http;by=203.0.113.43", "192.0.2.1"),
        ("proto=http; FOR=\"192.0.2.1:_x\"", "192.0.2.1"),
        ("for=6.6.6.6, for=192.0.2.1, for=10.0.0.2", "192.0.2.1"),
        ("for=6.6.6.6, for=\"_gazonk\", for=10.0.0.2", "10.0.0.2"),
        ("for=6.6.6.6, for=unknown", "10.0.0.1"),
        ("for=6.6.6.6, proto=https", "10.0.0.1"),
        ("host=\"a,for=6.6.6.6\";for=192.0.2.1", "192.0.2.1"),
        ("host=\"\\\",for=6.6.6.6\";for=192.0.2.1", "192.0.2.1"),
        ("for=192.0.2.1, host=\"never ends, for=6.6.6.6", "10.0.0.1"),
        ("for=6.6.6.6;for=7.7.7.7", "10.0.0.1"),
        ("for=\"[10.0.0.1]\"", "10.0.0.1"),
        ("for", "10.0.0.1"),
        ("for=", "10.0.0.1"),
    ] {
        assert_eq!(client("10.0.0.1", &[("Forwarded", value)]), expected, "{value}");
    }
}

#[test]
fn of_both_fields_the_common_one_counts() {
    assert_eq!(client("10.0.0.1", &[("Forwarded", "for=6.6.6.6"), ("X-Forwarded-For", "192.0.2.1")]), "192.0.2.1");
    assert_eq!(client("10.0.0.1", &[("Forwarded", "for=6.6.6.6"), ("X-Forwarded-For", "unknown")]), "10.0.0.1");
}

/// The fields that the backend sees, by name; `None` for a removed one.
fn forwarded(headers: &[(&str, &str)], peer: &str, trusted: bool) -> std::collections::BTreeMap<String, Option<String>> {
    let hop = Hop {
        peer: peer.parse().unwrap(),
        client: "192.0.2.77".parse().unwrap(),
        local: "198.51.100.1:8443".parse().unwrap(),
        scheme: "https",
        trusted,
    };
    let head = RequestHead::build("GET", "/", headers);
    let mut edits = tell(&head, &hop).edits;
    remove_forgeries(&head, trusted, &mut edits);
    edits
        .iter()
        .map(|edit| match edit {
            HeaderEdit::Set(name, value) => (name.to_string(), Some(String::from_utf8_lossy(value.as_bytes()).into_owned())),
            HeaderEdit::Remove(name) => (name.to_string(), None),
            HeaderEdit::Add(name, _) => panic!("{name} is added"),
        })
        .collect()
}

const CLAIMS: &[(&str, &str)] = &[
    ("Host", "api.example.com:8443"),
    ("X-Forwarded-For", "6.6.6.6"),
    ("x-forwarded-for", "7.7.7.7"),
    ("X-Forwarded-Proto", "http"),
    ("X-Forwarded-Host", "shop.example.com"),
    ("X-Forwarded-Port", "443"),
    ("X-Forwarded-Prefix", "/admin"),
    ("X_Forwarded_For", "5.5.5.5"),
    ("Forwarded", "for=6.6.6.6"),
    ("X-Real-IP", "6.6.6.6"),
];

#[test]
fn a_strangers_claims_are_replaced() {
    let fields = forwarded(CLAIMS, "192.0.2.9", false);
    let field = |name: &str| fields[name].as_deref();
    assert_eq!(field("x-forwarded-for"), Some("192.0.2.9"));
    assert_eq!(field("x-forwarded-proto"), Some("https"));
    assert_eq!(field("x-forwarded-host"), Some("api.example.com:8443"));
    assert_eq!(field("x-forwarded-port"), Some("8443"));
    assert_eq!(field("forwarded"), Some("for=192.0.2.9;proto=https;host=\"api.example.com:8443\""));
    assert_eq!(field("x-real-ip"), Some("192.0.2.77"));
    assert_eq!(field("x-forwarded-prefix"), None);
    assert_eq!(field("x_forwarded_for"), None);
}

#[test]
fn a_trusted_proxys_claims_are_extended() {
    let fields = forwarded(CLAIMS, "2001:db8:aaaa::1", true);
    let field = |name: &str| fields[name].as_deref();
    assert_eq!(field("x-forwarded-for"), Some("6.6.6.6, 7.7.7.7, 2001:db8:aaaa::1"));
    assert_eq!(field("x-forwarded-proto"), Some("http"));
    assert_eq!(field("x-forwarded-host"), Some("shop.example.com"));
    assert_eq!(field("x-forwarded-port"), Some("443"));
    assert_eq!(field("forwarded"), Some("for=6.6.6.6, for=\"[2001:db8:aaaa::1]\";proto=https;host=\"api.example.com:8443\""));
    assert_eq!(field("x-real-ip"), Some("192.0.2.77"));
    assert!(!fields.contains_key("x-forwarded-prefix"), "a trusted proxy's other fields pass");
    assert_eq!(field("x_forwarded_for"), None);
}

#[test]
fn nonsense_from_a_trusted_proxy_is_replaced() {
    let fields = forwarded(
        &[("Host", "a"), ("X-Forwarded-Proto", "javascript"), ("X-Forwarded-Host", "a/b"), ("X-Forwarded-Port", "-1")],
        "10.0.0.1",
        true,
    );
    assert_eq!(fields["x-forwarded-proto"].as_deref(), Some("https"));
    assert_eq!(fields["x-forwarded-host"].as_deref(), Some("a"));
    assert_eq!(fields["x-forwarded-port"].as_deref(), Some("8443"));
    let no_host = forwarded(&[("X-Forwarded-Host", "evil.example")], "192.0.2.1", false);
    assert_eq!(no_host["x-forwarded-host"], None);
    assert_eq!(no_host["forwarded"].as_deref(), Some("for=192.0.2.1;proto=https"));
}

proptest! {
    #[test]
    fn no_text_panics_or_moves_a_stranger(text in "[ -~]{0,80}", forwarded in "(for=|FOR=\"|[0-9.,;=\"\\\\:\\[\\]_ ]){0,30}") {
        let headers = [("x-forwarded-for", text.as_str()), ("forwarded", forwarded.as_str())];
        prop_assert_eq!(client("192.0.2.9", &headers), "192.0.2.9");
        client("10.0.0.1", &headers);
        client("10.0.0.1", &headers[1..]);
    }

    /// Whatever a client writes in front, the proxy's own appended hop is what counts.
    #[test]
    fn what_stands_left_of_an_honest_hop_never_matters(text in "[ !-+\\--~]{0,40}(,[ !-+\\--~]{0,40}){0,4}") {
        let list = format!("{text}, 192.0.2.1");
        prop_assert_eq!(client("10.0.0.1", &[("x-forwarded-for", &list)]), "192.0.2.1");
    }
}
