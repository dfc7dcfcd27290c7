//! Nobody gets what was made for somebody else: not by fields that the key does not know, not by tricks with paths, not by requests that a
//! service reads in another way.

use crate::harness::{Gateway, raw, request};
use crate::peers::{Act, Asked, Origin, answer};

/// Says what it was asked, with every field that services are known to build links, hosts, paths or methods from.
fn origin() -> Origin {
    Origin::start(|asked| Act::Send(behave(asked)))
}

const REFLECTED: [&str; 24] = [
    "forwarded",
    "front-end-https",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-path",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-host",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-uri",
    "x-original-url",
    "x-override-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-scheme",
    "x-url-scheme",
];

fn behave(asked: &Asked) -> Vec<u8> {
    let mut told = format!("{} ", asked.target);
    for name in REFLECTED {
        told.push_str(&format!("{name}={} ", asked.header(name).unwrap_or("-")));
    }
    let size: usize = asked.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > 6000 {
        // As servers with a smaller limit than the gateway's do.
        return answer(400, &[], "too large");
    }
    // A service that decodes more than it should, and whose account page depends on who asks.
    let read = asked.target.to_lowercase().replace("%2f", "/").replace("%5c", "/").replace('\\', "/");
    if read.contains("account") {
        let number = asked.number + 1000 * asked.connection;
        return answer(200, &[("Cache-Control", "private")], format!("secret {number}"));
    }
    told.push_str(&String::from_utf8_lossy(&asked.body));
    answer(200, &[("Cache-Control", "max-age=60")], told)
}

fn start(origin: &Origin) -> Gateway {
    Gateway::start(&format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nservices: {{ origin: {{ endpoints: [ 127.0.0.1:{} ] }} }}\nroutes:\n  - {{ path: /*, service: \
         origin, policies: {{ cache: {{ default_ttl: 1h }} }} }}\n  - {{ path: /account/*, service: origin }}",
        origin.port()
    ))
}

#[test]
fn fields_that_no_key_knows_reach_nobody_else() {
    let origin = origin();
    let gateway = start(&origin);
    for (number, name) in REFLECTED.into_iter().enumerate() {
        let path = format!("/{number}");
        for value in ["evil.example", "/evil", "EVIL"] {
            let poisoned = request(gateway.port(), "GET", &path, &[(name, value)], b"");
            assert_eq!(poisoned.status, 200, "{name}: {value}");
            let plain = request(gateway.port(), "GET", &path, &[], b"");
            assert!(!plain.text().to_lowercase().contains("evil"), "{name}: {}", plain.text());
        }
        let again = request(gateway.port(), "GET", &path, &[], b"");
        assert!(again.cache_status().starts_with("portcullis; hit"), "{name}: {:?}", again.headers);
        // Nor is what everybody gets given to who asks for something else.
        let other = request(gateway.port(), "GET", &path, &[(name, "evil.example")], b"");
        let overrides = other.text().contains("evil");
        assert_eq!(overrides, other.cache_status() == "portcullis; fwd=bypass; detail=overriding", "{name}: {:?}", other.headers);
    }
}

#[test]
fn a_request_that_a_service_refuses_for_its_size_takes_nothing_away() {
    let origin = origin();
    let gateway = start(&origin);
    let long = "x".repeat(7000);
    let refused = request(gateway.port(), "GET", "/a", &[("X-Long", &long)], b"");
    assert_eq!(refused.status, 400);
    assert!(!refused.cache_status().contains("stored"), "{:?}", refused.headers);
    assert_eq!(request(gateway.port(), "GET", "/a", &[], b"").status, 200);
}

#[test]
fn a_get_with_a_body_is_for_its_client_alone() {
    let origin = origin();
    let gateway = start(&origin);
    for _ in 0..2 {
        let fat = request(gateway.port(), "GET", "/a", &[], b"evil");
        assert!(!fat.cache_status().contains("stored") && fat.text().contains("evil"), "{:?}", fat.headers);
        assert!(!request(gateway.port(), "GET", "/a", &[], b"").text().contains("evil"));
    }
    for body in ["Content-Length: 4\r\n\r\nevil", "Transfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n"] {
        let told = raw(gateway.port(), format!("GET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{body}").as_bytes());
        assert!(!String::from_utf8_lossy(&told).contains("stored"), "{body}");
    }
    assert!(!request(gateway.port(), "GET", "/b", &[], b"").text().contains("evil"));
}

/// Whatever a path looks like, one client's page is never given to another.
#[test]
fn no_path_makes_a_private_page_a_public_one() {
    let origin = origin();
    let gateway = start(&origin);
    let tricks = [
        "/account/a.css",
        "/account;.css",
        "/account/;/a.css",
        "/account%2fa.css",
        "/account%2Fa.css",
        "/account%5ca.css",
        "/account/..%2fstatic/a.css",
        "/static/..%2faccount/a.css",
        "/static/%2e%2e/account/a.css",
        "/static/../account/a.css",
        "/static/.%2e/account/a.css",
        "//account/a.css",
        "/static//../account/a.css",
        "/account/a.css?x=.css",
        "/account/a.css%3f.css",
        "/account/a.css%23.css",
        "/account/a.css%00.css",
        "/account%0a/a.css",
        "/account%09/a.css",
        "/account/%252e%252e/a.css",
        "/account/a.css/",
        "/ACCOUNT/a.css",
    ];
    for path in tricks {
        let seen: Vec<String> = (0..3)
            .map(|_| {
                let told = raw(gateway.port(), format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes());
                String::from_utf8_lossy(&told).into_owned()
            })
            .collect();
        let secrets: Vec<&str> = seen.iter().filter_map(|answer| answer.split("secret ").nth(1)).collect();
        let mut distinct = secrets.clone();
        distinct.dedup();
        assert_eq!(distinct, secrets, "{path}");
        assert!(seen.iter().all(|answer| !answer.contains("; hit")), "{path}: {seen:?}");
        assert!(secrets.len() == 3 || seen.iter().all(|answer| answer.starts_with("HTTP/1.1 400")), "{path}: {seen:?}");
    }
}

/// What is one resource to the router is one to the cache, and what is two is two.
#[test]
fn keys_are_normalised_as_routes_are() {
    let origin = origin();
    let gateway = start(&origin);
    let get = |path: &str| {
        let told = raw(gateway.port(), format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes());
        String::from_utf8_lossy(&told).to_lowercase()
    };
    assert!(get("/a/b").contains("fwd=miss; stored"));
    for same in ["/a/b", "/%61/b", "/a/./b", "/x/../a/b", "/a/%62"] {
        assert!(get(same).contains("portcullis; hit"), "{same}");
    }
    for other in ["/a/B", "/a/b/", "/a/b?", "/a/b?x", "/a/b?X", "/a/b%20"] {
        assert!(get(other).contains("fwd=miss; stored"), "{other}");
    }
}

/// What a service makes of a client's escapes: a careless one ends its own head by them, and says another answer behind it.
fn careless(asked: &Asked) -> Vec<u8> {
    let decoded =
        |text: &str| text.replace("%0d", "\r").replace("%0D", "\r").replace("%0a", "\n").replace("%0A", "\n").replace('+', " ");
    let query = asked.target.split_once('?').map_or("", |(_, query)| query);
    if !asked.target.starts_with("/to") {
        return answer(200, &[("Cache-Control", "max-age=60")], &asked.target);
    }
    let told = [query, asked.header("x-reflected").unwrap_or("")].map(decoded).concat();
    answer(302, &[("Location", &format!("/{told}"))], "")
}

#[test]
fn an_answer_that_is_split_is_nobodys_next_one() {
    let origin = Origin::start(|asked| Act::Send(careless(asked)));
    let gateway = start(&origin);
    let ends = ["%0d%0a", "%0D%0A", "%0a"];
    for (number, end) in ends.into_iter().enumerate() {
        let second = ["HTTP/1.1+200+OK", "Cache-Control:+max-age=600", "Content-Length:+4", "", "evil"].join(end);
        let split = ["x", "Content-Length:+0", "", &second].join(end);
        let by_query = format!("/to/{number}?{split}");
        let by_field = format!("/to/{number}");
        for attack in [(&*by_query, None), (&*by_field, Some(("X-Reflected", &*split)))] {
            for round in 0..4 {
                let fields: Vec<_> = attack.1.into_iter().collect();
                let seen = request(gateway.port(), "GET", attack.0, &fields, b"");
                assert!(seen.status != 200 && !seen.text().contains("evil"), "{end}: {seen:?}");
                // Whoever asks next, and whoever asks for the same.
                for path in [format!("/plain/{number}/{round}"), format!("/plain/{number}")] {
                    for _ in 0..2 {
                        let plain = request(gateway.port(), "GET", &path, &[], b"");
                        assert_eq!((plain.status, plain.text()), (200, path.clone()), "{end}");
                    }
                    assert!(request(gateway.port(), "GET", &path, &[], b"").cache_status().starts_with("portcullis; hit"));
                }
            }
        }
        // What carries line ends into a path does not get as far as any service.
        let refused = raw(gateway.port(), format!("GET /to{end}/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes());
        let told = String::from_utf8_lossy(&refused).to_lowercase();
        assert!(told.starts_with("http/1.1 400") || !told.contains("; hit") && !told.contains("stored"), "{end}: {told}");
    }
}

#[test]
fn line_ends_in_a_request_get_to_no_service_and_into_no_answer() {
    let origin = origin();
    let gateway = start(&origin);
    for (number, value) in ["b\rX-Forwarded-Host: evil", "b\nX-Forwarded-Host: evil", "b\0evil", "b\r\n X-Forwarded-Host: evil"]
        .into_iter()
        .enumerate()
    {
        let path = format!("/{number}");
        let asked = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-A: {value}\r\nConnection: close\r\n\r\n");
        let told = String::from_utf8_lossy(&raw(gateway.port(), asked.as_bytes())).into_owned();
        assert!(told.starts_with("HTTP/1.1 400 "), "{value:?}: {told}");
        assert_eq!(origin.count(&path), 0, "{value:?}");
        let plain = request(gateway.port(), "GET", &path, &[], b"");
        assert_eq!((plain.status, plain.cache_status()), (200, "portcullis; fwd=miss; stored"), "{value:?}");
    }
}

/// What some read as the end of a line, and some do not, is given to nobody. (A line feed by itself ends one; RFC 9112, section 2.2.)
#[test]
fn an_answer_with_a_bare_carriage_return_or_a_nul_is_not_stored() {
    let bad: [&[u8]; 5] = [b"X-A: b\rX-Evil: c\r\n", b"X-A: b\0X-Evil: c\r\n", b"X-A\r: b\r\n", b"X-A\0: b\r\n", b"X-A: b\r\r\n"];
    let origin = Origin::start(move |asked| {
        let well = [("Cache-Control", "max-age=60"), ("X-Well", "yes")];
        let number = asked.target.rsplit('/').next().and_then(|last| last.parse::<usize>().ok());
        let field = number.and_then(|number| bad.get(number)).copied();
        Act::Send(match field.filter(|_| asked.header("x-now") == Some("bad")) {
            None => answer(200, &well, "well"),
            Some(field) => {
                [b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n", field, b"Content-Length: 4\r\n\r\nevil"].concat()
            }
        })
    });
    let gateway = start(&origin);
    for (number, field) in bad.into_iter().enumerate() {
        let (path, field) = (format!("/{number}"), String::from_utf8_lossy(field).into_owned());
        for _ in 0..2 {
            let told = request(gateway.port(), "GET", &path, &[("X-Now", "bad")], b"");
            assert_eq!(told.status, 502, "{field:?}: {told:?}");
            assert!(told.header("x-evil").is_none() && !told.cache_status().contains("stored"), "{field:?}: {told:?}");
        }
        let well = request(gateway.port(), "GET", &path, &[], b"");
        assert_eq!((&*well.text(), well.cache_status()), ("well", "portcullis; fwd=miss; stored"), "{field:?}");
        // Nor does it take what is there.
        let given = request(gateway.port(), "GET", &path, &[("X-Now", "bad")], b"");
        assert!(given.text() == "well" && given.cache_status().starts_with("portcullis; hit"), "{field:?}: {given:?}");
    }
}

/// What the gateway itself refuses, as no service would see it.
#[test]
fn a_request_that_is_refused_for_its_size_leaves_nothing() {
    let origin = origin();
    let gateway = start(&origin);
    let long = "x".repeat(64 << 10);
    let refused = || {
        let asked = format!("GET /a HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\nConnection: close\r\n\r\n");
        String::from_utf8_lossy(&raw(gateway.port(), asked.as_bytes())).into_owned()
    };
    for _ in 0..2 {
        let told = refused();
        assert!(told.starts_with("HTTP/1.1 431 ") && !told.contains("stored"), "{told}");
    }
    assert_eq!(origin.count("/a"), 0);
    let get = || request(gateway.port(), "GET", "/a", &[("Host", "a")], b"");
    assert_eq!((get().status, get().cache_status().contains("; hit")), (200, true));
    assert!(refused().starts_with("HTTP/1.1 431 "));
    assert!(get().cache_status().contains("; hit"));
}

/// One that answers for another target, or with another method, because a field says so: its other clients see nothing of that.
#[test]
fn a_service_that_obeys_fields_is_asked_by_each_client() {
    let origin = Origin::start(|asked| {
        let said = |names: [&str; 3]| names.into_iter().find_map(|name| asked.header(name)).map(str::to_owned);
        let target = said(["x-original-url", "x-rewrite-url", "x-override-url"]).unwrap_or_else(|| asked.target.clone());
        let method =
            said(["x-http-method-override", "x-http-method", "x-method-override"]).unwrap_or_else(|| asked.method.clone());
        Act::Send(answer(200, &[("Cache-Control", "max-age=60")], format!("{method} {target}")))
    });
    let gateway = start(&origin);
    let get = |path: &str, fields: &[(&str, &str)]| request(gateway.port(), "GET", path, fields, b"");
    let overrides = [
        ("X-Original-URL", "/other", "GET /other"),
        ("X-Rewrite-URL", "/other", "GET /other"),
        ("X-HTTP-Method-Override", "DELETE", "DELETE"),
        ("X-HTTP-Method", "PURGE", "PURGE"),
        ("X-Method-Override", "HEAD", "HEAD"),
    ];
    for (number, (name, value, wanted)) in overrides.into_iter().enumerate() {
        for warm in [false, true] {
            let path = format!("/{number}/{warm}");
            let own = format!("GET {path}");
            if warm {
                assert_eq!(get(&path, &[]).text(), own, "{name}");
            }
            for _ in 0..2 {
                let told = get(&path, &[(name, value)]);
                assert!(told.text().starts_with(wanted), "{name}: {}", told.text());
                assert_eq!(told.cache_status(), "portcullis; fwd=bypass; detail=overriding", "{name}");
            }
            for _ in 0..2 {
                assert_eq!(get(&path, &[]).text(), own, "{name}");
            }
            assert!(get(&path, &[]).cache_status().starts_with("portcullis; hit"), "{name}");
        }
        assert_eq!(get("/other", &[]).text(), "GET /other", "{name}");
    }
}
