//! Calls that need what others have answered: their order, their conditions, one for each element, and each question once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::{ok, yaml};
use crate::harness::*;

/// Orders, prices by SKU, and whatever else is asked.
fn shop() -> Backend {
    Backend::answering(|request| match request.target.as_str() {
        "/me" => ok(r#"{"id":7,"tier":"gold","tags":["a b","c?d"],"shop":{"city":"Köln"}}"#),
        "/orders/7" => ok(r#"{"items":[{"sku":"SKU-1"},{"sku":"SKU-2"},{"sku":"SKU-1"}]}"#),
        target => ok(&format!("{{\"asked\":{}}}", serde_json::json!(target))),
    })
}

#[test]
fn calls_name_what_others_have_answered() {
    let shop = shop();
    let compose = "
      calls:
        city: { service: shop, path: '/city/{parts.me.shop.city}/{parts.me.tags.1}' }
        prices: { service: shop, path: '/prices/{item.sku}', for_each: { in: parts.orders.items, max: 10, at_once: 2 }, target: asked }
        orders: { service: shop, path: '/orders/{parts.me.id}', keep: [nothing] }
        me: { service: shop, path: /me, keep: [id, shop.city] }
        gold: { service: shop, path: /gold, when: 'parts.me.tier == \"gold\"' }
        silver: { service: shop, path: /silver, when: 'parts.me.tier == \"silver\"' }
        after_silver: { service: shop, path: /after, when: 'parts.silver == null' }
        broken: { service: shop, path: /broken, when: 'parts.me.nothing.at == 1', optional: true }";
    let gateway = Gateway::start(&yaml(&[("shop", &shop)], compose));
    let answer = get(gateway.port(), "/api/dashboard");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let expected = serde_json::json!({
        "city": { "asked": "/city/K%C3%B6ln/c%3Fd" },
        "prices": ["/prices/SKU-1", "/prices/SKU-2", "/prices/SKU-1"],
        "orders": {},
        "me": { "id": 7, "shop": { "city": "Köln" } },
        "gold": { "asked": "/gold" },
        "after_silver": { "asked": "/after" },
    });
    assert_eq!(answer.json(), expected);
    let parts = "city=ok, prices=ok, orders=ok, me=ok, gold=ok, silver=skipped, after_silver=ok, broken=condition";
    assert_eq!(answer.header("x-portcullis-parts"), Some(parts));
    let asked = |target: &str| shop.requests().iter().filter(|request| request.target == target).count();
    assert_eq!(
        (asked("/prices/SKU-1"), asked("/prices/SKU-2"), asked("/silver"), asked("/me")),
        (1, 1, 0, 1),
        "each question once"
    );
}

#[test]
fn a_list_is_bounded_and_so_is_how_much_of_it_is_asked_for_at_once() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (now.clone(), most.clone());
    let items = Backend::answering(move |request| {
        if let Some(count) = request.target.strip_prefix("/list/") {
            let items: Vec<usize> = (0..count.parse().unwrap()).collect();
            return ok(&serde_json::json!(items).to_string());
        }
        let under_way = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
        counts.1.fetch_max(under_way, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(10));
        counts.0.fetch_sub(1, Ordering::SeqCst);
        match request.target.as_str() {
            "/each/3" => b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n".to_vec(),
            target => ok(&serde_json::json!(target).to_string()),
        }
    });
    let compose = "
      calls:
        list: { service: items, path: '/list/{query.count}', group: none }
        each: { service: items, path: '/each/{item}', for_each: { in: parts.list, max: 30, at_once: 3 }, optional: true }";
    let gateway = Gateway::start(&yaml(&[("items", &items)], compose));
    let answer = get(gateway.port(), "/api/dashboard?count=30");
    let each = &answer.json()["each"];
    assert_eq!(
        (each.as_array().unwrap().len(), &each[2], &each[3], &each[29]),
        (30, &"/each/2".into(), &().into(), &"/each/29".into())
    );
    assert_eq!(answer.header("x-portcullis-parts"), Some("list=ok, each=status;code=500"));
    assert!((2..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    for count in ["31", "10000"] {
        let before = items.requests().len();
        let answer = get(gateway.port(), &format!("/api/dashboard?count={count}"));
        assert_eq!(answer.header("x-portcullis-parts"), Some("list=ok, each=too_many"));
        assert_eq!(items.requests().len(), before + 1, "none is asked for");
    }
    assert_eq!(get(gateway.port(), "/api/dashboard?count=0").json()["each"], serde_json::json!([]));
}

#[test]
fn a_request_of_json_becomes_calls() {
    let shop = Backend::answering(|request| match request.method.as_str() {
        "POST" => ok(&String::from_utf8_lossy(&request.body)),
        _ => ok("{\"id\":9007199254740993}"),
    });
    let compose = "
      calls:
        cart: { service: shop, path: /cart }
        order:
          service: shop
          method: POST
          path: '/orders/{body.kind}'
          headers: { X-Kind: '{body.kind}' }
          body: { cart: '{parts.cart.id}', items: '{body.items}', note: 'for {body.name}, \"quoted\"', fixed: [1, true], none: '{body.nothing}' }";
    let gateway = Gateway::start(&yaml(&[("shop", &shop)], compose));
    let body = br#"{"kind":"a?b","items":[{"sku":"x"}],"name":"Ada \",\"admin\":true,\"x\":\""}"#;
    let answer = request(gateway.port(), "POST", "/api/dashboard", &[("Content-Type", "application/json")], body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let order = &answer.json()["order"];
    let expected = serde_json::json!({
        "cart": 9_007_199_254_740_993_u64, "items": [{ "sku": "x" }], "note": "for Ada \",\"admin\":true,\"x\":\", \"quoted\"", "fixed": [1, true], "none": null
    });
    assert_eq!(order, &expected);
    let seen = shop.requests().into_iter().find(|request| request.method == "POST").unwrap();
    assert_eq!((seen.target.as_str(), seen.header("x-kind")), ("/orders/a%3Fb", Some("a?b")));
    assert_eq!((seen.header("content-type"), seen.all("content-length").len()), (Some("application/json"), 1));
    let port = gateway.port();
    let json = ("Content-Type", "application/json");
    request(port, "POST", "/api/dashboard", &[json], b"{").assert_problem(400, "compose", "malformed_json");
    let large = vec![b' '; 2 << 20];
    assert_eq!(request(port, "POST", "/api/dashboard", &[json], &large).status, 413);
    // What the client has left out is the client's to mend.
    for (method, body) in [
        ("GET", &b""[..]),
        ("POST", b"{}"),
        ("POST", br#"{"kind":"a"}"#),
        ("POST", br#"{"kind":"a/b","name":"x"}"#),
        ("POST", br#"{"kind":["a"],"name":"x"}"#),
    ] {
        let answer = request(port, method, "/api/dashboard", &[json], body);
        answer.assert_problem(400, "compose", "body_lacks_value");
        assert_eq!((&answer.json()["part"], &answer.json()["why"]), (&"order".into(), &"no_value".into()));
    }
}

/// A page of another site may send these without being asked for leave.
#[test]
fn calls_are_made_of_nothing_that_does_not_say_it_is_json() {
    let shop = Backend::answering(|_| ok("{}"));
    let compose = "\n      calls: { pay: { service: shop, method: POST, path: /pay, body: { to: '{body.to}' } } }";
    let gateway = Gateway::start(&yaml(&[("shop", &shop)], compose));
    let post = |kinds: &[&str]| {
        let fields: Vec<_> = kinds.iter().map(|kind| ("Content-Type", *kind)).collect();
        request(gateway.port(), "POST", "/api/dashboard", &fields, br#"{"to":"x"}"#)
    };
    for kinds in [
        &[][..],
        &["text/plain"],
        &["application/x-www-form-urlencoded"],
        &["multipart/form-data; boundary=x"],
        &["text/plain; application/json"],
        &["application/json; charset=utf-16"],
        &["application/x-ndjson"],
        &["application/json", "application/json"],
        &["application/json", "text/plain"],
    ] {
        let refused = post(kinds);
        refused.assert_problem(415, "compose", "body_not_json");
        assert_eq!(refused.header("accept"), Some("application/json"), "{kinds:?}");
    }
    assert_eq!(shop.requests().len(), 0);
    for kind in ["application/json", "application/json; charset=UTF-8", "application/merge-patch+json"] {
        assert_eq!(post(&[kind]).status, 200, "{kind}");
        assert_eq!(shop.last().body, br#"{"to":"x"}"#);
    }
    assert_eq!(request(gateway.port(), "POST", "/api/dashboard", &[("Content-Length", "0")], b"").status, 200);
}

/// Numbers are what was written, wherever they go: a long id is no other one, and an amount keeps its zeros.
#[test]
fn numbers_come_through_as_they_are_written() {
    for id in
        ["7", "-0", "0.5", "1.10", "18446744073709551616", "12345678901234567890123", "0.1234567890123456789012345", "1e400"]
    {
        let shop = Backend::answering(move |request| match request.target.as_str() {
            "/me" => ok(&format!("{{ \"id\" : {id}, \"more\": [{{\"id\":{id},\"x\":1}}] }}")),
            _ => ok("[]"),
        });
        let compose = "
      calls:
        me: { service: shop, path: /me, group: . }
        kept: { service: shop, path: /me, keep: [id], rename: { id: number } }
        more: { service: shop, path: /me, target: more, keep: [id] }
        list: { service: shop, path: /me, target: more.0.id, group: list, append: true }
        orders: { service: shop, path: '/orders/{parts.kept.id}', query: { user: '{parts.kept.id}' }, headers: { X-User: '{parts.kept.id}' }, group: none.a }
        each: { service: shop, path: '/each/{item.id}', for_each: { in: parts.kept.more }, group: none.b }
        sent: { service: shop, path: /sent, method: POST, body: { id: '{parts.kept.id}', all: '{parts.kept}', said: 'no. {body.id}', own: '{body}' }, group: none.c }";
        let gateway = Gateway::start(&yaml(&[("shop", &shop)], compose));
        let body = format!("{{\"id\":{id}}}");
        let answer = request(gateway.port(), "POST", "/api/dashboard", &[("Content-Type", "application/json")], body.as_bytes());
        assert_eq!(
            answer.text(),
            format!(
                "{{\"id\":{id},\"more\":[{{\"id\":{id}}}],\"kept\":{{\"number\":{id}}},\"list\":[{id}],\"none\":{{\"a\":[],\"b\":[[]],\"c\":[]}}}}"
            )
        );
        let asked = shop.requests();
        let orders = asked.iter().find(|asked| asked.target.starts_with("/orders/")).unwrap();
        assert_eq!((orders.target.clone(), orders.header("x-user")), (format!("/orders/{id}?user={id}"), Some(id)));
        assert!(asked.iter().any(|asked| asked.target == format!("/each/{id}")));
        let sent = asked.iter().find(|asked| asked.method == "POST").unwrap();
        assert_eq!(
            String::from_utf8_lossy(&sent.body),
            format!(
                "{{\"id\":{id},\"all\":{{\"id\":{id},\"more\":[{{\"id\":{id},\"x\":1}}]}},\"said\":\"no. {id}\",\"own\":{{\"id\":{id}}}}}"
            )
        );
    }
    // A condition reckons with what 64 bits have.
    let shop = Backend::answering(|request| match request.target.as_str() {
        "/me" => ok("{\"id\":12345678901234567890123,\"beyond\":1e400}"),
        _ => ok("[]"),
    });
    let compose = "
      calls:
        me: { service: shop, path: /me, keep: [id] }
        near: { service: shop, path: /1, when: 'parts.me.id > 1e22' }
        none: { service: shop, path: /2, when: 'parts.me.beyond == null' }";
    let gateway = Gateway::start(&yaml(&[("shop", &shop)], compose));
    let answer = get(gateway.port(), "/api/dashboard");
    assert_eq!(answer.text(), "{\"me\":{\"id\":12345678901234567890123},\"near\":[],\"none\":[]}");
}

/// An element for which there is no question is like one that was not answered.
#[test]
fn an_element_without_a_value_is_that_element_alone() {
    let shop = Backend::answering(|request| match request.target.as_str() {
        "/list" => ok(r#"[{"id":1},{"id":"a/b"},{},{"id":4}]"#),
        target => ok(&serde_json::json!(target).to_string()),
    });
    let ask = |more: &str| {
        let compose = format!(
            "
      calls:
        list: {{ service: shop, path: /list, group: none }}
        each: {{ service: shop, path: '/u/{{item.id}}', for_each: {{ in: parts.list }}{more} }}"
        );
        let before = shop.requests().len();
        let answer = get(Gateway::start(&yaml(&[("shop", &shop)], &compose)).port(), "/api/dashboard");
        (answer, shop.requests().len() - before)
    };
    let (answer, asked) = ask(", optional: true");
    assert_eq!((&answer.json()["each"], asked), (&serde_json::json!(["/u/1", null, null, "/u/4"]), 3));
    assert_eq!(answer.header("x-portcullis-parts"), Some("list=ok, each=no_value"));
    let (answer, asked) = ask(", fallback: { json: none }");
    assert_eq!((&answer.json()["each"], asked), (&serde_json::json!(["/u/1", "none", "none", "/u/4"]), 3));
    assert_eq!(answer.header("x-portcullis-parts"), Some("list=ok, each=fallback"));
    let (answer, asked) = ask(", fallback: { path: /anybody }");
    assert_eq!((&answer.json()["each"], asked), (&serde_json::json!(["/u/1", "/anybody", "/anybody", "/u/4"]), 4));
    // The answer cannot be given: nobody is asked.
    let (answer, asked) = ask("");
    answer.assert_problem(502, "compose", "part_failed");
    assert_eq!((&answer.json()["part"], &answer.json()["why"], asked), (&"each".into(), &"no_value".into(), 1));
}

/// Without what is there and cannot be said, something else would be asked for: the owner's orders, or those of all.
#[test]
fn what_cannot_stand_in_a_query_or_a_field_is_not_left_out() {
    let shop = Backend::answering(|_| ok("[]"));
    for (place, breaks) in [("query: { owner: '{body.owner}' }", false), ("headers: { X-Owner: 'of {body.owner}' }", true)] {
        let compose = format!("\n      calls: {{ one: {{ service: shop, path: /orders, {place} }} }}");
        let gateway = Gateway::start(&yaml(&[("shop", &shop)], &compose));
        let ask = |owner: &str| {
            let body = format!("{{\"owner\":{owner}}}");
            request(gateway.port(), "POST", "/api/dashboard", &[("Content-Type", "application/json")], body.as_bytes())
        };
        let (long, digits) = (format!("\"{}\"", "x".repeat(9000)), "7".repeat(9000));
        let before = shop.requests().len();
        for owner in [long.as_str(), &digits, "{}", "[]", "[1]", "{\"a\":1}"] {
            ask(owner).assert_problem(400, "compose", "body_lacks_value");
        }
        if breaks {
            ask("\"a\\nb\"").assert_problem(400, "compose", "body_lacks_value");
        }
        assert_eq!(shop.requests().len(), before, "{place}");
        for owner in ["null", "\"me\"", "7", "true"] {
            assert_eq!(ask(owner).status, 200, "{owner}");
        }
        assert_eq!(shop.requests().len(), before + 4, "{place}");
    }
}

/// What a body alone makes of a target is the client's to mend: no service has failed.
#[test]
fn a_target_that_a_body_spoils_is_no_services_failure() {
    let shop = Backend::answering(|_| ok("{}"));
    let compose = "
      calls:
        first: { service: shop, path: /first }
        path: { service: shop, path: '/orders/{body.id}', optional: true }
        both: { service: shop, path: '/of/{header.x-of}/{body.id}', query: { a: '{body.a}', b: '{body.b}', c: c, d: '{parts.first.none}' } }";
    let gateway = Gateway::start(&yaml(&[("shop", &shop)], compose));
    let ask = |of: &str, body: Value| {
        let fields = [("Content-Type", "application/json"), ("X-Of", of)];
        request(gateway.port(), "POST", "/api/dashboard", &fields, body.to_string().as_bytes())
    };
    let (long, half, signs) = ("x".repeat(9000), "x".repeat(5000), "\u{e9}".repeat(2000));
    for body in [
        json!({ "id": ".." }),
        json!({ "id": "." }),
        json!({ "id": "a/b" }),
        json!({ "id": "" }),
        json!({ "id": long }),
        json!({ "id": signs }),
        json!({ "id": half, "a": half }),
        json!({ "id": 1, "a": half, "b": half }),
        json!({ "id": 1, "a": signs }),
    ] {
        let answer = ask("me", body);
        answer.assert_problem(400, "compose", "body_lacks_value");
        assert_eq!(answer.json()["part"], "both");
    }
    assert!(shop.requests().iter().all(|request| !request.target.starts_with("/of/")));
    assert_eq!(ask("me", json!({ "id": half, "a": 1 })).status, 200);
    assert!(shop.requests().iter().any(|request| request.target.ends_with("?a=1&c=c")));
    // What the others make of it is not the body's.
    ask("..", json!({ "id": 1 })).assert_problem(502, "compose", "part_failed");
    ask(&half, json!({ "id": half })).assert_problem(502, "compose", "part_failed");
}

/// What bounds targets and fields bounds no text in a body.
#[test]
fn a_text_in_a_body_may_be_long() {
    let shop = Backend::answering(|request| ok(&request.body.len().to_string()));
    let compose = "\n      calls: { one: { service: shop, path: /, method: POST, body: { text: 'pre {body.text}' } } }";
    let gateway = Gateway::start(&yaml(&[("shop", &shop)], compose));
    let body = serde_json::json!({ "text": "x".repeat(100_000) }).to_string();
    let answer = request(gateway.port(), "POST", "/api/dashboard", &[("Content-Type", "application/json")], body.as_bytes());
    assert_eq!(answer.text(), format!("{{\"one\":{}}}", body.len() + 4));
}

#[test]
fn collections_are_appended_and_fields_lifted() {
    let shop = Backend::answering(|request| match request.target.as_str() {
        "/one" => ok(r#"{"items":[1,2],"name":"one","id":1}"#),
        "/two" => ok(r#"{"items":3,"name":"two"}"#),
        _ => ok("[4]"),
    });
    let compose = "
      calls:
        one: { service: shop, path: /one, target: items, group: all.items, append: true }
        two: { service: shop, path: /two, target: items, group: all.items, append: true }
        three: { service: shop, path: /three, group: all.items, append: true }
        lifted: { service: shop, path: /one, group: ., keep: [name, id] }
        over: { service: shop, path: /two, group: ., keep: [name] }
        deep: { service: shop, path: /two, group: all.deep, rename: { name: title } }";
    let gateway = Gateway::start(&yaml(&[("shop", &shop)], compose));
    let expected =
        serde_json::json!({ "all": { "items": [1, 2, 3, 4], "deep": { "items": 3, "title": "two" } }, "name": "two", "id": 1 });
    assert_eq!(get(gateway.port(), "/api/dashboard").json(), expected);
    assert_eq!(shop.requests().len(), 3, "each question once");
}

/// Services of HTTP/2 and gRPC's neighbours are parts as any others are.
#[test]
fn parts_come_over_http2_as_well() {
    let inner = Backend::answering(|request| ok(&serde_json::json!(request.target).to_string()));
    let service = Gateway::start(&format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT, h2c: true }} ]\nservices: {{ a: {{ endpoints: [ '127.0.0.1:{}' ] }} }}\nroutes: [ {{ path: /*, service: a }} ]",
        inner.port()
    ));
    let compose = "
      calls:
        a: { service: shop, path: /a, query: { q: '{query.q}' } }
        b: { service: shop, path: /b }";
    let config = yaml(&[("shop", &inner)], compose)
        .replace(&format!("'127.0.0.1:{}' ]", inner.port()), &format!("'127.0.0.1:{}' ], protocol: http2", service.port()));
    let gateway = Gateway::start(&config);
    for _ in 0..3 {
        let answer = get(gateway.port(), "/api/dashboard?q=1%262");
        assert_eq!(answer.text(), r#"{"a":"/a?q=1%262","b":"/b"}"#);
    }
    assert!(service.log().iter().all(|line| line["protocol"] == "h2"));
}

#[test]
fn calls_are_made_of_what_everybody_else_sees_in_a_body() {
    let shop = Backend::answering(|_| ok(r#"{"id":{"$serde_json::private::RawValue":"\"admin\""}}"#));
    let compose = "
      calls:
        first: { service: shop, path: '/{body.kind}', keep: [ id ] }
        second: { service: shop, path: '/of/{parts.first.id}', optional: true }";
    let gateway = Gateway::start(&yaml(&[("shop", &shop)], compose));
    let post =
        |body: &str| request(gateway.port(), "POST", "/api/dashboard", &[("Content-Type", "application/json")], body.as_bytes());
    post(r#"{"kind":"a","kind":"b"}"#).assert_problem(400, "compose", "malformed_json");
    // A name of serde_json's own is a name: an object is no segment of a path.
    let named = post(r#"{"kind":{"$serde_json::private::RawValue":"\"admin\""}}"#);
    assert_ne!(named.status, 200, "{}", named.text());
    assert_eq!(shop.requests().len(), 0);
    let answer = post(r#"{"kind":"a"}"#);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains(r#""id":{"$serde_json::private::RawValue":"#), "{}", answer.text());
    assert!(shop.requests().iter().all(|request| request.target == "/a"));
}
