//! What the tests of the cache's tiers share: an origin whose answers can be told apart, and what an answer says of where it was found.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::*;
use crate::peers::{Act, Asked, Origin, answer};

/// The same whatever port a gateway has.
pub const HOST: (&str, &str) = ("Host", "shop.example");

pub const ANN: &str = "annannannannannannannannannannannannannann";
pub const BOB: &str = "bobbobbobbobbobbobbobbobbobbobbobbobbobbob";

/// The keys of the two, beside the ports of a configuration.
pub fn keyed(yaml: &str, origin: &Origin) -> String {
    filled(yaml, &[("$BACKEND", origin.port())]).replace("$ANN", &sha256(ANN)).replace("$BOB", &sha256(BOB))
}

/// A body that is another one each time, and says so itself.
pub fn body(path: &str, number: usize) -> Vec<u8> {
    let length = path.split("size-").nth(1).map_or(2_000, |size| size.split(['/', '?']).next().unwrap().parse().unwrap());
    format!("{path} {number} ").into_bytes().into_iter().cycle().take(length).collect()
}

pub fn origin() -> Origin {
    let count = AtomicUsize::new(0);
    Origin::start(move |asked: &Asked| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let path = asked.target.split('?').next().unwrap();
        if path.starts_with("/slow") {
            std::thread::sleep(Duration::from_millis(1_500));
        }
        if path.starts_with("/vary") {
            let language = asked.header("accept-language").unwrap_or("-");
            return Act::Send(answer(200, &[("Vary", "Accept-Language")], language));
        }
        if path.starts_with("/mine") {
            return Act::Send(answer(200, &[], asked.header("x-consumer-name").unwrap_or("nobody's")));
        }
        let body = body(path, number);
        let tag = path.rsplit('/').next().unwrap();
        let fields = [("Digest", &*sha256(&body)), ("ETag", &*format!("\"{number}\"")), ("Cache-Tag", tag)];
        Act::Send(answer(200, &fields, &body))
    })
}

pub fn ask(gateway: &Gateway, path: &str, fields: &[(&str, &str)]) -> Answer {
    let fields: Vec<_> = [HOST].iter().chain(fields).copied().collect();
    request(gateway.port(), "GET", path, &fields, b"")
}

#[track_caller]
fn assert_in(answer: &Answer, tier: &str) {
    let status = answer.cache_status();
    assert!(status.contains("hit; ttl=") && status.ends_with(&format!("; detail={tier}")), "{:?}", answer.headers);
}

#[track_caller]
pub fn assert_disk(answer: &Answer) {
    assert_in(answer, "disk");
}

#[track_caller]
pub fn assert_redis(answer: &Answer) {
    assert_in(answer, "redis");
}

#[track_caller]
pub fn assert_memory(answer: &Answer) {
    let status = answer.cache_status();
    assert!(status.contains("hit; ttl=") && !status.contains("detail"), "{:?}", answer.headers);
}

#[track_caller]
pub fn assert_miss(answer: &Answer) {
    assert!(answer.cache_status().contains("fwd="), "{:?}", answer.headers);
}

/// Of an answer of [`origin`]'s.
#[track_caller]
pub fn assert_whole(answer: &Answer) {
    assert_eq!(answer.header("digest"), Some(&*sha256(&answer.body)), "{:?}", answer.headers);
}

/// The route of `/a`, which is stored in that tier, is told to do without it: it is not looked for there.
#[track_caller]
pub fn does_without(gateway: &Gateway, yaml: &str, tier: &str) {
    gateway.rewrite(&yaml.replace("ttl: 1h, max_body", &format!("ttl: 1h, {tier}: false, max_body")));
    assert_eq!(gateway.reload().0, 200);
    assert_miss(&ask(gateway, "/a", &[]));
    assert_memory(&ask(gateway, "/a", &[]));
}
