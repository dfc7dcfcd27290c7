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
    let (told, mut edits) = told_to(headers, peer, trusted);
    edits.splice(0..0, told.edits().iter().cloned());
    edits
        .iter()
        .map(|edit| match edit {
            HeaderEdit::Set(name, value) => (name.to_string(), Some(String::from_utf8_lossy(value.as_bytes()).into_owned())),
            HeaderEdit::Remove(name) => (name.to_string(), None),
            HeaderEdit::Add(name, _) => panic!("{name} is added"),
        })
        .collect()
}

fn told_to(headers: &[(&str, &str)], peer: &str, believed: bool) -> (ForwardedHeaders, HeaderEdits) {
    let (peer, set, mut head) = (peer.parse().unwrap(), trusted(), RequestHead::build("GET", "/", headers));
    let proxies = believed.then_some(&set);
    let scheme = scheme(peer, true, &head, proxies);
    head.drop_default_port(scheme);
    let reserved = [HeaderName::from_static("x-auth-roles")];
    let hop = Hop {
        peer,
        client: "192.0.2.77".parse().unwrap(),
        local: "198.51.100.1:8443".parse().unwrap(),
        secure: true,
        scheme,
        proxies,
        reserved: &reserved,
        via: None,
    };
    let mut edits = HeaderEdits::new();
    remove_forgeries(&head, &hop, &mut edits);
    (tell(&head, &hop), edits)
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

/// What an HTTP/1.1 service is told, and what any other is.
#[test]
fn all_forms_of_it_say_the_same() {
    type Fields = &'static [(&'static str, &'static str)];
    let cases: [(Fields, &str, bool); 5] = [
        (CLAIMS, "192.0.2.9", false),
        (CLAIMS, "2001:db8:aaaa::1", true),
        (&[], "192.0.2.77", false),
        (&[("Host", "a"), ("X-Forwarded-For", "1.1.1.1, x\x7fy")], "10.0.0.1", true),
        (&[("Host", "a"), ("Forwarded", "for=1.1.1.1;by=\"\x01\"")], "10.0.0.1", true),
    ];
    for (headers, peer, trusted) in cases {
        let (told, _) = told_to(headers, peer, trusted);
        let same = ForwardedHeaders::new(told.edits().clone());
        assert_eq!(told.wire.escape_ascii().to_string(), same.wire.escape_ascii().to_string());
        let removed = told.edits().iter().filter(|edit| matches!(edit, HeaderEdit::Remove(_))).count();
        assert_eq!(told.map().len() + removed, told.fields.len());
        assert!(told.wire.iter().all(|byte| *byte >= b' ' && *byte != 0x7f || b"\r\n".contains(byte)));
    }
    // What cannot be told takes nothing else along.
    let (told, _) = told_to(&[("Host", "a"), ("X-Forwarded-For", "1.1.1.1, x\x7fy")], "10.0.0.1", true);
    let text = String::from_utf8(told.wire).unwrap();
    assert!(
        text.starts_with("x-forwarded-proto: https\r\n") && text.contains("for=10.0.0.1;proto=https;host=\"a\"\r\n"),
        "{text}"
    );
}

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
    assert_eq!(field("x-forwarded-port"), Some("80"), "443 is not where http is");
    // The client's own `Forwarded`, for all that is known: the list is made of the other one.
    let hops = "for=6.6.6.6;proto=http;host=\"shop.example.com\", for=7.7.7.7, ";
    let last = "for=\"[2001:db8:aaaa::1]\";proto=https;host=\"api.example.com:8443\"";
    assert_eq!(field("forwarded"), Some(&*format!("{hops}{last}")));
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
    assert_eq!(fields["x-forwarded-port"].as_deref(), Some("443"));
    let no_host = forwarded(&[("X-Forwarded-Host", "evil.example")], "192.0.2.1", false);
    assert_eq!(no_host["x-forwarded-host"], None);
    assert_eq!(no_host["forwarded"].as_deref(), Some("for=192.0.2.1;proto=https"));
    assert_eq!(no_host["x-forwarded-port"].as_deref(), Some("8443"), "there is no host to contradict");
}

#[test]
fn the_port_says_what_the_host_and_the_scheme_say() {
    for (headers, port) in [
        (&[("Host", "a")][..], "443"),
        (&[("Host", "a:8443")], "8443"),
        (&[("Host", "a:443")], "443"),
        (&[("Host", "a:80")], "80"),
        (&[("Host", "a"), ("X-Forwarded-Proto", "http")], "80"),
        (&[("Host", "a:80"), ("X-Forwarded-Proto", "http")], "80"),
        (&[("Host", "a"), ("X-Forwarded-Proto", "wss")], "443"),
        (&[("Host", "a:8080"), ("X-Forwarded-Host", "b")], "443"),
        (&[("Host", "a"), ("X-Forwarded-Host", "b:9000"), ("X-Forwarded-Port", "443")], "9000"),
        (&[("Host", "a"), ("X-Forwarded-Port", "8443")], "8443"),
        (&[("Host", "a"), ("X-Forwarded-Port", "08443")], "8443"),
        // A proxy behind another one, that knows how it was asked itself.
        (&[("Host", "a"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Port", "80")], "443"),
        (&[("Host", "a"), ("X-Forwarded-Proto", "http"), ("X-Forwarded-Port", "443")], "80"),
        (&[("Host", "a"), ("X-Forwarded-Port", "0")], "443"),
        (&[("Host", "a"), ("X-Forwarded-Port", "1"), ("X-Forwarded-Port", "2")], "443"),
        (&[("Host", "a"), ("X-Forwarded-Port", "70000")], "443"),
    ] {
        let fields = forwarded(headers, "10.0.0.1", true);
        assert_eq!(fields["x-forwarded-port"].as_deref(), Some(port), "{headers:?}");
    }
    assert_eq!(
        forwarded(&[("Host", "a"), ("X-Forwarded-Port", "1")], "192.0.2.1", false)["x-forwarded-port"].as_deref(),
        Some("443")
    );
}

#[test]
fn what_is_told_of_the_host_has_one_spelling() {
    for (host, wanted) in [("SHOP.example.:443", "shop.example"), ("[0::1]:", "[::1]"), ("Shop.Example:080", "shop.example:80")] {
        for headers in [&[("Host", host)][..], &[("Host", "inner"), ("X-Forwarded-Host", host)]] {
            let fields = forwarded(headers, "10.0.0.1", true);
            assert_eq!(fields["x-forwarded-host"].as_deref(), Some(wanted), "{headers:?}");
        }
    }
    let twice = [("Host", "a"), ("X-Forwarded-Host", "b"), ("X-Forwarded-Host", "c")];
    assert_eq!(forwarded(&twice, "10.0.0.1", true)["x-forwarded-host"].as_deref(), Some("a"), "nobody knows which");
}

#[test]
fn empty_members_are_not_passed_on() {
    let lists = [
        ("Host", "a"),
        ("X-Forwarded-For", ",192.0.2.1 ,, 10.0.0.2,"),
        ("X-Forwarded-For", " "),
        ("X-Forwarded-For", "10.0.0.3"),
    ];
    let fields = forwarded(&lists, "10.0.0.1", true);
    assert_eq!(fields["x-forwarded-for"].as_deref(), Some("192.0.2.1, 10.0.0.2, 10.0.0.3, 10.0.0.1"));
    let elements = [("Host", "a"), ("Forwarded", ", for=192.0.2.1;host=\"x,y\" ,,for=\"_hidden\""), ("Forwarded", ",")];
    let fields = forwarded(&elements, "10.0.0.1", true);
    let last = "for=10.0.0.1;proto=https;host=\"a\"";
    assert_eq!(fields["forwarded"].as_deref(), Some(&*format!("for=192.0.2.1;host=\"x,y\", for=\"_hidden\", {last}")));
    assert_eq!(fields["x-forwarded-for"].as_deref(), Some("192.0.2.1, unknown, 10.0.0.1"), "made of the other list");
    // Its end would swallow the next hop.
    let endless = forwarded(&[("Host", "a"), ("Forwarded", "for=192.0.2.1;host=\"never ends")], "10.0.0.1", true);
    assert_eq!(endless["forwarded"].as_deref(), Some(last));
}

#[test]
fn the_outermost_trusted_element_says_how_the_client_came() {
    for (forwarded_field, proto, host) in [
        ("for=192.0.2.1;proto=http;host=Shop.example", "http", "shop.example"),
        (
            "for=6.6.6.6;proto=http;host=evil, for=192.0.2.1;proto=https;host=\"shop.example:8443\", for=10.0.0.9;proto=http;host=inner",
            "https",
            "shop.example:8443",
        ),
        ("for=192.0.2.1", "https", "a"),
        ("for=192.0.2.1;proto=gopher;host=\"x y\"", "https", "a"),
        ("for=192.0.2.1;proto=http;proto=http", "https", "a"),
        ("for=192.0.2.1;proto=http;host=\"open", "https", "a"),
    ] {
        let fields = forwarded(&[("Host", "a"), ("Forwarded", forwarded_field)], "10.0.0.1", true);
        let told = (fields["x-forwarded-proto"].as_deref(), fields["x-forwarded-host"].as_deref());
        assert_eq!(told, (Some(proto), Some(host)), "{forwarded_field}");
        let beside = [("Host", "a"), ("Forwarded", forwarded_field), ("X-Forwarded-For", "192.0.2.1")];
        let fields = forwarded(&beside, "10.0.0.1", true);
        let told = (fields["x-forwarded-proto"].as_deref(), fields["x-forwarded-host"].as_deref());
        assert_eq!(told, (Some("https"), Some("a")), "not beside the other list: {forwarded_field}");
    }
}

#[test]
fn whatever_a_backend_may_make_links_of_tells_origins_apart() {
    let heads: [&[(&str, &str)]; 9] = [
        &[("Host", "a")],
        &[("Host", "a:444")],
        &[("Host", "b")],
        &[("Host", "a"), ("X-Forwarded-Proto", "http")],
        &[("Host", "a"), ("X-Forwarded-Host", "c")],
        &[("Host", "a"), ("X-Forwarded-Port", "445")],
        &[("Host", "a"), ("X-Forwarded-Prefix", "/x")],
        &[("Host", "a"), ("X-Forwarded-Prefix", "/y")],
        &[("Host", "a"), ("Forwarded", "for=6.6.6.6;host=evil, for=192.0.2.1")],
    ];
    let mut origins: Vec<_> = heads.iter().map(|headers| told_to(headers, "10.0.0.1", true).0.origin).collect();
    origins.sort();
    origins.dedup();
    assert_eq!(origins.len(), heads.len());
    // Who the client is makes no difference.
    let by = |client: &str| told_to(&[("Host", "a"), ("X-Forwarded-For", client)], "10.0.0.1", true).0.origin;
    assert_eq!(by("192.0.2.1"), by("192.0.2.2"));
    // What is not believed is not told, and makes none either.
    let strange = |headers| told_to(headers, "192.0.2.9", false).0.origin;
    assert_eq!(
        strange(&[("Host", "a"), ("X-Forwarded-Prefix", "/x"), ("X-Forwarded-Host", "c")]),
        strange(&[("Host", "A.:443")])
    );
}

#[test]
fn reserved_fields_come_from_nobody() {
    for believed in [false, true] {
        let fields = forwarded(&[("Host", "a"), ("X-AUTH-Roles", "admin"), ("X-Auth-Token", "t")], "10.0.0.1", believed);
        assert_eq!(fields.get("x-auth-roles"), Some(&None));
        assert!(!fields.contains_key("x-auth-token"), "a credential of the client's own");
    }
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
