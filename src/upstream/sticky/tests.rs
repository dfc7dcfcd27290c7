use std::net::SocketAddr;
use std::path::Path;

use super::config::StickyConfig;
use super::*;
use crate::ledger::Ledger;
use crate::problem::{Place, Problems};
use crate::value::Spanned;

fn compile(yaml: &str, ledger: &Ledger) -> Result<Sticky, String> {
    let value: StickyConfig = serde_yaml::from_str(yaml).map_err(|error| error.to_string())?;
    let mut problems = Problems::default();
    let config = Spanned { value, place: Place::NOWHERE };
    let sticky = Sticky::compile(&config, "shop", "shop", Path::new(""), &mut problems, ledger);
    sticky.ok_or_else(|| problems.iter().map(|problem| problem.message.clone()).collect())
}

fn sticky(yaml: &str) -> Sticky {
    compile(yaml, &Ledger::default()).unwrap()
}

fn at(port: u16) -> EndpointAddress {
    SocketAddr::from(([10, 0, 0, 1], port)).into()
}

fn session(sticky: &Sticky, fields: &[(&str, &str)]) -> Session {
    sticky.session(&RequestHead::build("GET", "/", fields), &Exchange::for_tests())
}

fn answered(sticky: &Sticky, session: &Session, port: u16, status: u16, set: &[&str]) -> Option<String> {
    let set = set.iter().map(|field| field.as_bytes());
    let given = sticky.answered(session, at(port), StatusCode::from_u16(status).unwrap(), set, true);
    given.map(|value| value.to_str().unwrap().to_owned())
}

#[test]
fn our_cookie_comes_back_as_it_went() {
    let sticky = sticky("cookie");
    let new = session(&sticky, &[]);
    assert_eq!(new.bound, None);
    let given = answered(&sticky, &new, 1, 200, &[]).unwrap();
    assert!(given.starts_with("sticky-shop=") && given.ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"), "{given}");
    assert!(!given.contains("10.0.0.1"));
    let pair = given.split(';').next().unwrap();
    let known = session(&sticky, &[("Cookie", &format!("a=1; {pair}"))]);
    assert_eq!(known.bound, Some(sticky.id(at(1))));
    assert_eq!(answered(&sticky, &known, 1, 200, &[]), None, "it is not given twice");
    assert_ne!(answered(&sticky, &known, 2, 200, &[]), None, "it is bound anew where it had to go elsewhere");
    assert_eq!(answered(&sticky, &new, 1, 503, &[]), None, "who cannot answer gets no sessions");
    for forged in ["", "x", "127.0.0.1:80", "AAAAAAAAAAAAAAAAAAAAAA=", "ÄÖÜ"] {
        assert_eq!(session(&sticky, &[("Cookie", &format!("sticky-shop={forged}"))]).bound, None, "{forged}");
    }
}

#[test]
fn ids_are_the_gateways_and_the_services_own() {
    let (ledger, other) = (Ledger::default(), Ledger::default());
    let one = compile("cookie", &ledger).unwrap();
    assert_eq!(one.id(at(1)), compile("cookie", &ledger).unwrap().id(at(1)), "a reload keeps them");
    assert_ne!(one.id(at(1)), compile("cookie", &other).unwrap().id(at(1)));
    assert_ne!(one.id(at(1)), one.id(at(2)));
}

#[test]
fn attributes_can_be_set() {
    let sticky = sticky("cookie: { name: N, path: /shop, max_age: 1h, secure: never, http_only: false, same_site: strict }");
    let given = answered(&sticky, &session(&sticky, &[]), 1, 200, &[]).unwrap();
    assert!(given.starts_with("N=") && given.ends_with("; Path=/shop; Max-Age=3600; SameSite=Strict"), "{given}");
}

#[test]
fn what_requests_carry_is_remembered() {
    let sticky = sticky("by: { header: X-User }");
    assert_eq!(answered(&sticky, &session(&sticky, &[("X-User", "ada")]), 1, 200, &[]), None);
    assert_eq!(session(&sticky, &[("X-User", "ada")]).bound, Some(sticky.id(at(1))));
    assert_eq!(session(&sticky, &[("X-User", "bob")]).bound, None);
    answered(&sticky, &session(&sticky, &[]), 1, 200, &[]);
    assert_eq!(sticky.sessions(), Some(1), "without the header there is no session");
    answered(&sticky, &session(&sticky, &[("X-User", "ada")]), 2, 200, &[]);
    assert_eq!(session(&sticky, &[("X-User", "ada")]).bound, Some(sticky.id(at(2))));
}

#[test]
fn the_services_own_cookie_is_learned() {
    let sticky = sticky("backend_cookie: JSESSIONID");
    let set = ["other=1; Path=/", "JSESSIONID=abc; Path=/; HttpOnly"];
    answered(&sticky, &session(&sticky, &[]), 1, 200, &set);
    assert_eq!(session(&sticky, &[("Cookie", "JSESSIONID=abc")]).bound, Some(sticky.id(at(1))));
    assert_eq!(session(&sticky, &[("Cookie", "JSESSIONID=abcd")]).bound, None);
    assert_eq!(session(&sticky, &[("Cookie", "other=1")]).bound, None);
    answered(
        &sticky,
        &session(&sticky, &[]),
        1,
        200,
        &["JSESSIONID=; Max-Age=0", "JSESSIONID=gone; max-age=0", "JSESSIONIDX=no"],
    );
    assert_eq!(sticky.sessions(), Some(1));
    // A session that its endpoint ends is forgotten, as PHP says it.
    let ended = ["JSESSIONID=deleted; expires=Thu, 01-Jan-1970 00:00:01 GMT; Max-Age=0; path=/"];
    answered(&sticky, &session(&sticky, &[("Cookie", "JSESSIONID=abc")]), 1, 200, &ended);
    assert_eq!(sticky.sessions(), Some(0));
}

#[test]
fn what_cannot_be_is_told() {
    for (yaml, why) in [
        ("kookie", "did you mean `cookie`?"),
        ("{}", "what are the sessions known by?"),
        ("{ cookie: {}, by: consumer }", "what are the sessions known by?"),
        ("by: route", "one session"),
        ("cookie: { name: 'a b' }", "cannot be a cookie's name"),
        ("cookie: { path: 'x' }", "cannot be a cookie's path"),
        ("cookie: { path: '/;Domain=x' }", "cannot be a cookie's path"),
        ("cookie: { same_site: none, secure: never }", "browsers take no cookie"),
        ("cookie: { max_age: 10ms }", "max_age"),
        ("{ cookie: {}, idle: 1h }", "`idle` and `sessions`"),
        ("{ by: consumer, sessions: 0 }", "sessions"),
        ("backend_cookie: 'a=b'", "cannot be a cookie's name"),
    ] {
        match compile(yaml, &Ledger::default()) {
            Err(said) => assert!(said.contains(why), "{yaml}: {said}"),
            Ok(_) => panic!("{yaml}"),
        }
    }
}
