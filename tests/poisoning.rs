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
