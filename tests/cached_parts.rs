//! Parts that a service gives (206): kept, put together, and never taken for the whole (RFC 9111, sections 3.3 and 3.4).

use std::time::Duration;

use crate::harness::*;
use crate::peers::{Act, Asked, Origin, answer};

const LENGTH: usize = 1000;

/// Bytes by which one tells where they stand, and of which version they are.
fn whole(version: u8) -> Vec<u8> {
    (0..LENGTH).map(|at| b'a' + version + (at % 17) as u8).collect()
}

fn range_of(asked: &Asked) -> Option<(usize, usize)> {
    let (first, last) = asked.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        return Some((LENGTH - last.parse::<usize>().ok()?, LENGTH - 1));
    }
    Some((first.parse().ok()?, last.parse().unwrap_or(LENGTH - 1).min(LENGTH - 1)))
}

/// What the path says: `/v1/...` has the tag `"1"`, `/weak/...` a weak one, `/none/...` none; `/by-version` what the field says.
fn behave(asked: &Asked) -> Vec<u8> {
    let path = asked.target.split('?').next().unwrap();
    let version = asked.header("x-version").unwrap_or("0").parse::<u8>().unwrap();
    let tag = match path.split('/').nth(1).unwrap() {
        "weak" => Some("W/\"1\"".to_owned()),
        "none" => None,
        _ => Some(format!("\"{version}\"")),
    };
    let control = if path.starts_with("/short") { "max-age=1" } else { "max-age=600" };
    let mut fields = vec![("Cache-Control", control.to_owned()), ("Content-Type", "text/x".to_owned())];
    fields.extend(tag.clone().map(|tag| ("ETag", tag)));
    if path.starts_with("/vary") {
        fields.push(("Vary", "Accept-Language".to_owned()));
    }
    if path.starts_with("/tagged") {
        fields.push(("Cache-Tag", "red".to_owned()));
    }
    if path.starts_with("/mine") {
        fields.push(("Set-Cookie", "a=b".to_owned()));
    }
    let body = match (path.starts_with("/vary"), asked.header("accept-language")) {
        (true, Some("de")) => whole(5),
        _ => whole(version),
    };
    let send = |status, fields: &[(&'static str, String)], body: &[u8]| {
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        answer(status, &fields, body)
    };
    let differs = asked.header("if-range").is_some_and(|tagged| Some(tagged) != tag.as_deref());
    let Some((first, last)) = range_of(asked).filter(|_| asked.method == "GET" && !differs && !path.starts_with("/all")) else {
        let all = send(200, &fields, &body);
        return if asked.method == "HEAD" { all[..all.len() - LENGTH].to_vec() } else { all };
    };
    let said = match path.split('/').nth(1).unwrap() {
        // What it does not give.
        "lying" => format!("bytes {first}-{}/{LENGTH}", last + 1),
        "unknown" => format!("bytes {first}-{last}/*"),
        "units" => format!("items {first}-{last}/{LENGTH}"),
        _ => format!("bytes {first}-{last}/{LENGTH}"),
    };
    fields.push(("Content-Range", said));
    send(206, &fields, &body[first..=last])
}

fn start(origin: &Origin) -> Gateway {
    Gateway::start(&format!(
        "
listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]
server: {{ workers: 2 }}
services: {{ a: {{ endpoints: [ '127.0.0.1:{}' ] }} }}
routes:
  - {{ path: /few/*, service: a, policies: {{ cache: {{ ranges: parts, max_body: 300 }} }} }}
  - {{ path: /pass/*, service: a, policies: {{ cache: {{}} }} }}
  - {{ path: /unkept/*, service: a, policies: {{ cache: {{ ranges: parts, no_store: 'true' }} }} }}
  - {{ path: /*, service: a, policies: {{ cache: {{ ranges: parts }} }} }}
",
        origin.port()
    ))
}

fn origin() -> Origin {
    Origin::start(|asked: &Asked| {
        if asked.target.starts_with("/cut") {
            // It breaks off in the middle of the part.
            let bytes = behave(asked);
            return Act::Last(bytes[..bytes.len() - 10].to_vec());
        }
        if asked.target.starts_with("/late") {
            std::thread::sleep(Duration::from_millis(300));
        }
        Act::Send(behave(asked))
    })
}

fn is_hit(answer: &Answer) -> bool {
    answer.header("cache-status").is_some_and(|said| said.contains("; hit"))
}

fn part(gateway: &Gateway, path: &str, range: &str, fields: &[(&str, &str)]) -> Answer {
    let range = format!("bytes={range}");
    let fields: Vec<_> = [("Range", range.as_str())].into_iter().chain(fields.iter().copied()).collect();
    request(gateway.port(), "GET", path, &fields, b"")
}

#[track_caller]
fn assert_part(answer: &Answer, hit: bool, range: std::ops::Range<usize>, version: u8) {
    let said = format!("bytes {}-{}/{LENGTH}", range.start, range.end - 1);
    assert_eq!((answer.status, is_hit(answer)), (206, hit), "{:?}", answer.headers);
    assert_eq!(answer.header("content-range"), Some(&*said), "{:?}", answer.headers);
    assert_eq!(answer.header("content-length"), Some(&*range.len().to_string()));
    assert_eq!(answer.body, whole(version)[range]);
}

#[test]
fn a_part_is_given_again_and_smaller_ones_are_cut_from_it() {
    let origin = origin();
    let gateway = start(&origin);
    assert_part(&part(&gateway, "/a", "100-199", &[]), false, 100..200, 0);
    for (range, cut) in [("100-199", 100..200), ("150-150", 150..151), ("120-180", 120..181)] {
        let given = part(&gateway, "/a", range, &[]);
        assert_part(&given, true, cut, 0);
        assert_eq!((given.header("etag"), given.header("age").is_some()), (Some("\"0\""), true), "{:?}", given.headers);
    }
    assert_eq!(origin.count("/a"), 1);
    // What is not all there is asked for as it came, and so is the whole.
    assert_part(&part(&gateway, "/a", "150-250", &[]), false, 150..251, 0);
    assert_part(&part(&gateway, "/a", "100-250", &[]), true, 100..251, 0);
    assert_part(&part(&gateway, "/a", "-10", &[]), false, 990..1000, 0);
    for (range, cut) in [("-5", 995..1000), ("995-", 995..1000), ("995-5000", 995..1000)] {
        assert_part(&part(&gateway, "/a", range, &[]), true, cut, 0);
    }
    let asked: Vec<_> = origin.asked().iter().map(|asked| asked.header("range").map(str::to_owned)).collect();
    assert_eq!(asked, [Some("bytes=100-199".into()), Some("bytes=150-250".into()), Some("bytes=-10".into())]);
    // How long it is, is known.
    let beyond = part(&gateway, "/a", "1000-", &[]);
    assert_eq!((beyond.status, beyond.header("content-range"), is_hit(&beyond)), (416, Some("bytes */1000"), true));
    assert_eq!(gateway.wait_log(|line| line["status"] == 416)["cache"], "hit");
    let all = get(gateway.port(), "/a");
    assert_eq!((all.status, is_hit(&all), all.body), (200, false, whole(0)));
    // From here on it is cut from the whole.
    assert_part(&part(&gateway, "/a", "300-400", &[]), true, 300..401, 0);
    assert_eq!(origin.count("/a"), 4);
    // Nothing is kept where the route does not say so, or says no.
    for path in ["/pass/a", "/unkept/a"] {
        for _ in 0..2 {
            assert_part(&part(&gateway, path, "0-9", &[]), false, 0..10, 0);
        }
    }
}

#[test]
fn parts_become_the_whole() {
    let origin = origin();
    let gateway = start(&origin);
    for range in ["600-", "0-299", "200-650"] {
        assert!(!is_hit(&part(&gateway, "/a", range, &[])));
    }
    let all = get(gateway.port(), "/a");
    assert_eq!((all.status, is_hit(&all), all.header("content-range")), (200, true, None), "{:?}", all.headers);
    assert_eq!((all.header("content-length"), &*all.body), (Some("1000"), &*whole(0)));
    assert_part(&part(&gateway, "/a", "1-998", &[]), true, 1..999, 0);
    let head = request(gateway.port(), "HEAD", "/a", &[], b"");
    assert_eq!((head.status, head.header("content-length"), is_hit(&head)), (200, Some("1000"), true));
    assert_eq!(origin.count("/a"), 3);
    // Several parts at once, in one answer.
    for range in ["0-99", "200-299"] {
        part(&gateway, "/b", range, &[]);
    }
    let several = part(&gateway, "/b", "10-19,210-219", &[]);
    assert_eq!((several.status, is_hit(&several)), (206, true), "{:?}", several.headers);
    assert!(several.header("content-type").unwrap().starts_with("multipart/byteranges"));
    let text = several.text();
    assert!(text.contains("Content-Range: bytes 10-19/1000") && text.contains("Content-Range: bytes 210-219/1000"), "{text}");
    let is_in = |range: std::ops::Range<usize>| find(&several.body, &whole(0)[range]).is_some();
    assert!(is_in(10..20) && is_in(210..220));
    assert!(!is_hit(&part(&gateway, "/b", "10-19,100-110", &[])), "one of them is not there");
}

#[test]
fn nothing_is_put_together_that_may_not_belong_together() {
    let origin = origin();
    let gateway = start(&origin);
    // The service has another version by now: what was there goes.
    part(&gateway, "/a", "0-99", &[]);
    assert_part(&part(&gateway, "/a", "100-199", &[("X-Version", "1")]), false, 100..200, 1);
    assert_part(&part(&gateway, "/a", "100-199", &[]), true, 100..200, 1);
    assert_part(&part(&gateway, "/a", "0-99", &[("X-Version", "1")]), false, 0..100, 1);
    assert_part(&part(&gateway, "/a", "50-150", &[]), true, 50..151, 1);
    // Without a strong tag each stands for itself.
    for path in ["/weak/a", "/none/a"] {
        part(&gateway, path, "0-499", &[]);
        assert_part(&part(&gateway, path, "10-20", &[]), true, 10..21, 0);
        part(&gateway, path, "500-", &[]);
        assert_part(&part(&gateway, path, "510-520", &[]), true, 510..521, 0);
        let all = get(gateway.port(), path);
        assert!(!is_hit(&all) && all.body == whole(0), "{path}");
    }
    // What contradicts itself, or does not say of what it is a part, is passed on.
    for path in ["/lying/a", "/unknown/a", "/units/a", "/mine/a"] {
        for _ in 0..2 {
            let given = part(&gateway, path, "0-9", &[]);
            assert!(given.status == 206 && !is_hit(&given) && given.body == whole(0)[..10], "{path}: {given:?}");
        }
    }
    // Nor is what breaks off a part.
    for _ in 0..2 {
        let mut client = Client::connect(gateway.port());
        client.send_request("GET", "/cut/a", &[("Range", "bytes=0-99")], b"");
        assert!(client.try_answer_to("GET").is_err());
    }
    assert_eq!(origin.count("/cut/a"), 2);
    // The whole, although a part was asked for.
    let all = part(&gateway, "/all/a", "0-9", &[]);
    assert_eq!((all.status, all.body.len(), is_hit(&all)), (200, LENGTH, false));
    assert_part(&part(&gateway, "/all/a", "20-29", &[]), true, 20..30, 0);
    assert!(is_hit(&get(gateway.port(), "/all/a")));
}

#[test]
fn conditions_of_a_part_are_held_against_what_is_kept() {
    let origin = origin();
    let gateway = start(&origin);
    part(&gateway, "/a", "0-99", &[]);
    assert_part(&part(&gateway, "/a", "0-9", &[("If-Range", "\"0\"")]), true, 0..10, 0);
    // Another one is the service's to answer, here with the whole.
    let other = part(&gateway, "/a", "0-9", &[("If-Range", "\"9\"")]);
    assert_eq!((other.status, other.body.len(), is_hit(&other)), (200, LENGTH, false), "{:?}", other.headers);
    part(&gateway, "/b", "0-99", &[]);
    let unchanged = part(&gateway, "/b", "0-9", &[("If-None-Match", "\"0\"")]);
    assert_eq!((unchanged.status, unchanged.body.len(), is_hit(&unchanged)), (304, 0, true));
    // A HEAD asks for no part, and says that there is another one.
    let head = request(gateway.port(), "HEAD", "/b", &[("Range", "bytes=0-9")], b"");
    assert_eq!((head.status, is_hit(&head)), (200, false), "{:?}", head.headers);
    assert_part(&part(&gateway, "/b", "0-9", &[]), true, 0..10, 0);
    request(gateway.port(), "HEAD", "/b", &[("X-Version", "3")], b"");
    assert_part(&part(&gateway, "/b", "0-9", &[("X-Version", "3")]), false, 0..10, 3);
    // The client would have it anew, or not at all.
    assert_part(&part(&gateway, "/b", "0-9", &[("Cache-Control", "no-cache"), ("X-Version", "4")]), false, 0..10, 4);
    assert_part(&part(&gateway, "/b", "0-9", &[("Cache-Control", "only-if-cached")]), true, 0..10, 4);
    assert_eq!(part(&gateway, "/b", "0-10", &[("Cache-Control", "only-if-cached")]).status, 504);
}

#[test]
fn parts_vary_expire_and_are_purged() {
    let origin = origin();
    let gateway = start(&origin);
    for (language, version) in [("en", 0), ("de", 5)] {
        assert_part(&part(&gateway, "/vary/a", "0-99", &[("Accept-Language", language)]), false, 0..100, version);
    }
    for (language, version) in [("de", 5), ("en", 0)] {
        assert_part(&part(&gateway, "/vary/a", "5-9", &[("Accept-Language", language)]), true, 5..10, version);
    }
    part(&gateway, "/short/a", "0-9", &[]);
    eventually("it has expired", || !is_hit(&part(&gateway, "/short/a", "0-9", &[])));
    part(&gateway, "/tagged/a", "0-499", &[]);
    assert_part(&part(&gateway, "/tagged/a", "0-9", &[]), true, 0..10, 0);
    let order = br#"{"tags": ["red"], "everywhere": true}"#;
    let told = request(gateway.admin(), "POST", "/cache/purge", &[("Content-Type", "application/json")], order);
    assert_eq!(told.status, 200, "{told:?}");
    // What comes after a purge is not put together with what was there before.
    assert_part(&part(&gateway, "/tagged/a", "500-", &[]), false, 500..1000, 0);
    assert_part(&part(&gateway, "/tagged/a", "0-9", &[]), false, 0..10, 0);
    part(&gateway, "/b", "0-9", &[]);
    request(gateway.port(), "DELETE", "/b", &[], b"");
    assert_part(&part(&gateway, "/b", "0-9", &[]), false, 0..10, 0);
    // Operators see what there is of it, and that it is no hit.
    let (_, told) = gateway.admin_get(&format!("/cache/explain?url=http://127.0.0.1:{}/b", gateway.port()));
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (&told["would"], &told["stored"][0]["held"], &told["stored"][0]["body"]),
        (&"miss".into(), &10.into(), &1000.into())
    );
    for (range, would) in [("0-9", "hit"), ("5-19", "miss")] {
        let asked = format!("/cache/explain?url=http://127.0.0.1:{}/b&header=Range:%20bytes={range}", gateway.port());
        let told: serde_json::Value = serde_json::from_str(&gateway.admin_get(&asked).1).unwrap();
        assert_eq!(told["would"], would, "{told}");
    }
}

#[test]
fn what_is_kept_of_one_answer_is_bounded() {
    let origin = origin();
    let gateway = start(&origin);
    for range in ["0-99", "100-199", "200-299", "300-399"] {
        assert!(!is_hit(&part(&gateway, "/few/a", range, &[])));
    }
    let kept =
        ["0-99", "100-199", "200-299", "300-399"].iter().filter(|range| is_hit(&part(&gateway, "/few/a", range, &[]))).count();
    assert!(kept == 3 || kept == 2, "{kept}");
    // One that is longer than all of that is passed on.
    for _ in 0..2 {
        assert_part(&part(&gateway, "/few/a", "400-799", &[]), false, 400..800, 0);
    }
    let bytes = || {
        serde_json::from_str::<serde_json::Value>(&gateway.admin_get("/cache/top").1).unwrap()["memory"]["bytes"]
            .as_u64()
            .unwrap()
    };
    let before = bytes();
    for at in 0..300 {
        part(&gateway, "/many", &format!("{}-{}", at * 3, at * 3), &[]);
    }
    assert!(bytes() < before + 20_000, "{}", bytes());
}

#[test]
fn a_part_is_kept_although_its_client_has_left() {
    let origin = origin();
    let gateway = start(&origin);
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/late/a", &[("Range", "bytes=0-99")], b"");
    eventually("it is asked for", || origin.count("/late/a") == 1);
    client.reset();
    // Before its answer has come, nobody else wants it: it is the next one's turn.
    assert_part(&part(&gateway, "/late/a", "0-99", &[]), false, 0..100, 0);
    assert_part(&part(&gateway, "/late/a", "0-99", &[]), true, 0..100, 0);
    assert_eq!(gateway.reload().0, 200);
    assert_part(&part(&gateway, "/late/a", "5-9", &[]), true, 5..10, 0);
}

fn start_on(server: &str, origin: &Origin, cache: &str) -> Gateway {
    Gateway::start(&format!(
        "listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]\nserver: {{ {server} }}\nservices: {{ a: {{ endpoints: [ '127.0.0.1:{}' ] }} }}\n\
         routes: [ {{ path: /*, service: a, policies: {{ cache: {cache} }} }} ]",
        origin.port()
    ))
}

/// As its query says, with a digest of what it sends, and one of the whole.
fn digesting(asked: &Asked) -> Vec<u8> {
    let part = range_of(asked).filter(|_| asked.method == "GET");
    let of_part = part.map(|(first, last)| format!("sha-256=:{first}-{last}:"));
    let sent = of_part.unwrap_or_else(|| "sha-256=:whole:".to_owned());
    let about = part.map(|(first, last)| format!("bytes {first}-{last}/{LENGTH}"));
    let mut fields = vec![("Cache-Control", "max-age=600"), ("ETag", "\"1\""), ("Repr-Digest", "sha-256=:whole:")];
    fields.extend([("Content-Digest", sent.as_str()), ("Content-MD5", "bWQ1")]);
    fields.extend(about.as_deref().map(|about| ("Content-Range", about)));
    let (first, last) = part.unwrap_or((0, LENGTH - 1));
    answer(if part.is_some() { 206 } else { 200 }, &fields, &whole(0)[first..=last])
}

fn digests(answer: &Answer) -> (u16, Option<&str>, bool, Option<&str>) {
    let of_content = answer.header("content-digest");
    (answer.status, of_content, answer.header("content-md5").is_some(), answer.header("repr-digest"))
}

#[test]
fn a_digest_is_of_what_is_sent_with_it() {
    let whole = Some("sha-256=:whole:");
    for engine in ["workers: 1", "engine: pingora"] {
        let origin = Origin::start(|asked| Act::Send(digesting(asked)));
        let gateway = start_on(engine, &origin, "{}");
        let part = |range: &str| request(gateway.port(), "GET", "/a", &[("Range", range)], b"");
        // The service's own word of what it sends is passed on.
        assert_eq!(digests(&part("bytes=0-3")), (206, Some("sha-256=:0-3:"), true, whole), "{engine}");
        assert_eq!(digests(&get(gateway.port(), "/a")), (200, whole, true, whole));
        assert_eq!(digests(&get(gateway.port(), "/a")), (200, whole, true, whole));
        for (range, status) in [("bytes=0-3", 206), ("bytes=0-3,6-8", 206), ("bytes=5000-", 416)] {
            let answer = part(range);
            assert_eq!((answer.status, digests(&answer).1, digests(&answer).2), (status, None, false), "{engine} {range}");
        }
        assert_eq!(digests(&part("bytes=0-3")).3, whole);
        // Of what is no range at all the whole is sent.
        assert_eq!(digests(&part("lines=1-2")), (200, whole, true, whole));
        assert_eq!(origin.asked().len(), 2, "{engine}");
    }
    // And of a whole that is put together of parts nobody has said any.
    let origin = Origin::start(|asked| Act::Send(digesting(asked)));
    let gateway = start_on("workers: 2", &origin, "{ ranges: parts }");
    for range in ["bytes=0-499", "bytes=500-999"] {
        request(gateway.port(), "GET", "/a", &[("Range", range)], b"");
    }
    assert_eq!(digests(&get(gateway.port(), "/a")), (200, None, false, whole));
    assert_eq!(digests(&request(gateway.port(), "GET", "/a", &[("Range", "bytes=0-1")], b"")), (206, None, false, whole));
    assert_eq!(origin.asked().len(), 2);
}

#[test]
fn a_head_has_no_parts() {
    for engine in ["workers: 1", "engine: pingora"] {
        let origin = Origin::start(|asked| Act::Send(behave(asked)));
        let gateway = start_on(engine, &origin, "{}");
        get(gateway.port(), "/v/a");
        for range in ["bytes=0-1", "bytes=0-1,4-5", "bytes=5000-"] {
            let answer = request(gateway.port(), "HEAD", "/v/a", &[("Range", range)], b"");
            let told = (answer.status, answer.header("content-length"), answer.header("content-range"));
            assert_eq!(told, (200, Some("1000"), None), "{engine} {range}");
            assert!(answer.header("cache-status").unwrap().contains("; hit"), "{answer:?}");
        }
        assert_eq!(origin.asked().len(), 1);
    }
}
