use super::*;
use crate::cache::policy::Heuristic;
use crate::cache::tests::policy;

type Fields<'a> = &'a [(&'static str, &'a str)];

const NOW: u64 = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT

fn asked(head: &RequestHead, identified: bool) -> Use {
    request(form(head, &policy(), false), head, identified, &super::Credentials::default(), &policy(), |_| false)
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn ask(method: &str, headers: &[(&str, &str)]) -> Use {
    asked(&RequestHead::build(method, "/a", headers), false)
}

#[test]
fn requests() {
    use Bypass::*;
    let table: &[(&str, Fields, Use)] = &[
        ("GET", &[], Use::Full),
        ("HEAD", &[], Use::ReadOnly),
        ("GET", &[("RANGE", "bytes=0-1")], Use::ReadOnly),
        ("POST", &[], Use::Bypass(Method)),
        ("get", &[], Use::Bypass(Method)),
        ("OPTIONS", &[], Use::Bypass(Method)),
        ("GET", &[("AuthoriZation", "")], Use::Bypass(Credentials)),
        ("GET", &[("cookie", "a=b")], Use::Bypass(Credentials)),
        ("GET", &[("Proxy-Authorization", "x")], Use::Bypass(Credentials)),
        ("GET", &[("cache-control", "no-cache")], Use::Full),
    ];
    for (method, headers, expected) in table {
        assert_eq!(ask(method, headers), *expected, "{method} {headers:?}");
    }
    let mut head = RequestHead::build("GET", "/", &[]);
    assert_eq!(asked(&head, true), Use::Bypass(Credentials));
    head.body = BodyFraming::Length(1);
    assert_eq!(asked(&head, false), Use::Bypass(Content));
    head.body = BodyFraming::None;
    head.upgrade = true;
    assert_eq!(asked(&head, false), Use::Bypass(Content));
}

#[test]
fn wishes() {
    let none = Wishes::default();
    let reload = Wishes { reload: true, ..none };
    let no_store = Wishes { no_store: true, ..none };
    let stale = |most| Wishes { max_stale: Some(most), ..none };
    let table: &[(Fields, Wishes)] = &[
        (&[], none),
        (&[("cache-control", "no-cache")], reload),
        (&[("Cache-Control", "NO-STORE")], no_store),
        (&[("cache-control", "max-age=5"), ("cache-control", " No-Cache ")], Wishes { max_age: Some(5), ..reload }),
        (&[("cache-control", "foo=\"a, b\",no-store")], no_store),
        (&[("cache-control", "foo=\"no-store, no-cache\"")], none),
        (&[("cache-control", "foo=\"no-store, no-cache")], reload),
        (&[("cache-control", "foo=\"a\", b=\"c, d=\"e\", no-store")], no_store),
        (&[("cache-control", "foo=\"\\\"\", no-store")], no_store),
        (&[("cache-control", "max-age=0")], Wishes { max_age: Some(0), ..reload }),
        (&[("cache-control", "max-age=\"0\"")], Wishes { max_age: Some(0), ..reload }),
        (&[("cache-control", "max-age=9, max-age=4")], Wishes { max_age: Some(4), ..none }),
        (&[("cache-control", "max-age=x, min-fresh, max-stale=x, max-age")], none),
        (&[("cache-control", "max-stale")], stale(u32::MAX)),
        (&[("cache-control", "max-stale=7, max-stale")], stale(7)),
        (&[("cache-control", "min-fresh=7, min-fresh=5")], Wishes { min_fresh: Some(7), ..none }),
        (&[("cache-control", "only-if-cached, no-cachex, xno-store")], Wishes { only_if_cached: true, ..none }),
        (&[("cache-control", ", ,")], none),
        (&[("pragma", "No-Cache")], reload),
        (&[("pragma", "no-cache"), ("cache-control", "max-age=9")], Wishes { max_age: Some(9), ..none }),
    ];
    for (headers, expected) in table {
        let head = RequestHead::build("GET", "/a", headers);
        assert_eq!(Wishes::of(&head, &policy()), *expected, "{headers:?}");
        let ignoring = CachePolicy { ignore_requests: true, ..policy() };
        assert_eq!(Wishes::of(&head, &ignoring), none, "{headers:?}");
    }
    let s = Duration::from_secs;
    assert!(none.take(s(100), s(0)) && !none.take_stale(s(0), s(0)) && !reload.take(s(0), s(9)));
    let aged = Wishes { max_age: Some(5), ..none };
    assert!(aged.take(s(5), s(0)) && !aged.take(s(6), s(9)));
    let young = Wishes { min_fresh: Some(5), ..none };
    assert!(young.take(s(9), s(5)) && !young.take(s(0), s(4)));
    assert!(stale(5).take_stale(s(90), s(5)) && !stale(5).take_stale(s(90), s(6)));
    assert!(!Wishes { max_stale: Some(9), ..aged }.take_stale(s(6), s(1)));
}

fn answer(status: u16, headers: &[(&'static str, &str)]) -> ResponseHeader {
    let mut answer = ResponseHeader::build(status, None).unwrap();
    for (name, value) in headers {
        answer.append_header(*name, *value).unwrap();
    }
    answer
}

fn came() -> Came {
    Came { now: now(), after: Duration::ZERO, asked: 1 }
}

fn judge(answer: &ResponseHeader) -> Result<Freshness, Refusal> {
    response(&Said::by_header(answer), &policy(), came())
}

/// What the origin says, and nobody else.
fn origins_word() -> CachePolicy {
    CachePolicy { default_ttl: Duration::ZERO, max_ttl: crate::cache::policy::UNBOUNDED, ..policy() }
}

fn sized(status: u16, headers: &[(&'static str, &str)]) -> ResponseHeader {
    let mut answer = answer(status, headers);
    if !answer.headers.contains_key("content-length") {
        answer.insert_header("content-length", "5").unwrap();
    }
    answer
}

fn decide(headers: &[(&'static str, &str)]) -> Result<u64, Refusal> {
    judge(&sized(200, headers)).map(|fresh| fresh.remaining.as_secs())
}

#[test]
fn answers() {
    use Refusal::*;
    let table: &[(Fields, Result<u64, Refusal>)] = &[
        (&[], Ok(30)),
        (&[("cache-control", "public")], Ok(30)),
        (&[("cache-control", "max-age=10")], Ok(10)),
        (&[("Cache-Control", "MAX-AGE=\"10\"")], Ok(10)),
        (&[("cache-control", "max-age=3600")], Ok(30)),
        (&[("cache-control", "max-age=99999999999999999999999")], Ok(30)),
        (&[("cache-control", "max-age=5, S-MaxAge=12")], Ok(12)),
        (&[("cache-control", "s-maxage=12"), ("cache-control", "max-age=5")], Ok(12)),
        (&[("cache-control", "max-age=9"), ("cache-control", "max-age=4")], Ok(4)),
        (&[("cache-control", "max-age=0")], Err(Stale)),
        (&[("cache-control", "max-age=abc")], Err(Stale)),
        (&[("cache-control", "max-age")], Err(Stale)),
        (&[("cache-control", "max-age=-1")], Err(Stale)),
        (&[("cache-control", "s-maxage=0, max-age=60")], Err(Stale)),
        (&[("cache-control", "max-age=20"), ("age", "15")], Ok(5)),
        (&[("cache-control", "max-age=3600"), ("age", "100")], Ok(30)),
        (&[("cache-control", "max-age=20"), ("age", "20")], Err(Stale)),
        (&[("age", "10")], Ok(20)),
        (&[("age", "10, 25")], Err(Stale)),
        (&[("age", "0"), ("age", "0")], Err(Stale)),
        (&[("age", "x")], Err(Stale)),
        (&[("age", "-1")], Err(Stale)),
        (&[("age", "\"1\"")], Err(Stale)),
        (&[("age", "99999999999999999999")], Err(Stale)),
        (&[("cache-control", "no-store")], Err(Forbidden)),
        (&[("cache-control", "No-Cache")], Err(Forbidden)),
        (&[("cache-control", "max-age=60,PRIVATE")], Err(Forbidden)),
        (&[("cache-control", "private=\"set-cookie, x\"")], Ok(30)),
        (&[("cache-control", "no-cache=\"x\"")], Ok(30)),
        (&[("cache-control", "private=\"\"")], Err(Forbidden)),
        (&[("cache-control", "private=x")], Err(Forbidden)),
        (&[("cache-control", "private=\"a b\"")], Err(Forbidden)),
        (&[("cache-control", "no-cache=1")], Err(Forbidden)),
        (&[("cache-control", "no-cache"), ("etag", "\"v\"")], Ok(0)),
        (&[("cache-control", "max-age=0"), ("last-modified", "x")], Ok(0)),
        (&[("set-cookie", "a=b"), ("cache-control", "private=\"Set-Cookie\"")], Ok(30)),
        (&[("set-cookie", "a=b"), ("cache-control", "private=\"x\"")], Err(SetCookie)),
        (&[("cache-control", "max-age=60"), ("cache-control", "x, no-store")], Err(Forbidden)),
        (
            &[
                ("cache-control", "max-age=7"),
                ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
                ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ],
            Ok(7),
        ),
        (
            &[
                ("cache-control", "max-age=7"),
                ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
                ("date", "Sun, 06 Nov 1994 08:49:36 GMT"),
            ],
            Err(Stale),
        ),
        (&[("cache-control", "ext=\"no-store, private\", max-age=7")], Ok(7)),
        (&[("cache-control", "ext=\"oops, private")], Err(Forbidden)),
        (&[("set-cookie", "a=b"), ("cache-control", "public, max-age=9")], Err(SetCookie)),
        (&[("vary", "*")], Err(Vary)),
        (&[("vary", "accept"), ("vary", "origin, *")], Err(Vary)),
        (&[("vary", "X-Forwarded-For")], Err(Vary)),
        (&[("vary", "a b")], Err(Vary)),
        (&[("vary", "Accept-Encoding, Origin")], Ok(30)),
        (&[("vary", "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p")], Ok(30)),
        (&[("vary", "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q")], Err(Vary)),
        (&[("content-length", "1024")], Ok(30)),
        (&[("content-length", "1025")], Err(TooLarge)),
        (&[("content-length", "99999999999999999999")], Err(TooLarge)),
        (&[("content-length", "a")], Err(Unframed)),
        (&[("expires", "0")], Err(Stale)),
        (&[("expires", "Sun, 06 Nov 1994 08:49:47 GMT")], Ok(10)),
        (&[("expires", "Sun, 06 Nov 1994 08:49:37 GMT")], Err(Stale)),
        (&[("expires", "Sun, 06 Nov 1994 08:49:47 GMT"), ("date", "Sun, 06 Nov 1994 08:49:40 GMT")], Ok(7)),
        (&[("expires", "Sun, 06 Nov 1994 08:49:47 GMT"), ("expires", "Sun, 06 Nov 1994 08:49:48 GMT")], Err(Stale)),
        (&[("expires", "0"), ("cache-control", "max-age=8")], Ok(8)),
    ];
    for (headers, expected) in table {
        assert_eq!(decide(headers), *expected, "{headers:?}");
    }
}

#[test]
fn statuses_and_framing() {
    for (status, kept) in [(200, true), (204, true), (404, true), (500, false), (302, false), (206, false), (304, false)] {
        let answer = answer(status, &[("content-length", "0")]);
        assert_eq!(judge(&answer).is_ok(), kept, "{status}");
    }
    let mut plain = answer(200, &[]);
    assert_eq!(judge(&plain), Err(Refusal::Unframed));
    plain.set_version(Version::HTTP_2);
    assert!(judge(&plain).is_ok());
    assert!(judge(&answer(200, &[("transfer-encoding", "chunked")])).is_ok());
    assert!(judge(&answer(204, &[])).is_ok());
    let events = ("content-type", "text/event-stream");
    assert_eq!(judge(&answer(200, &[("transfer-encoding", "chunked"), events])), Err(Refusal::Stream));
    assert!(judge(&answer(200, &[("content-length", "9"), events])).is_ok());
    let aged = judge(&answer(200, &[("content-length", "1"), ("age", "7")])).unwrap();
    assert_eq!(aged.age, Duration::from_secs(7));
}

#[test]
fn what_belongs_to_the_connection_is_not_stored() {
    let mut answer = answer(
        200,
        &[("connection", "close, X-Hop, content-length"), ("x-hop", "1"), ("keep-alive", "5"), ("age", "3"), ("etag", "e")],
    );
    answer.insert_header("content-length", "5").unwrap();
    strip(&mut answer);
    let mut left: Vec<_> = answer.headers.keys().map(|name| name.as_str()).collect();
    left.sort_unstable();
    assert_eq!(left, ["content-length", "etag"]);
}

#[test]
fn parts_of_no_bytes() {
    for (range, expected) in [
        ("bytes=-0", true),
        ("bytes=0-1, -000", true),
        ("bytes=-5", false),
        ("bytes=-10", false),
        ("bytes=0-0", false),
        ("bytes=-", false),
        ("-0", false),
        ("", false),
    ] {
        assert_eq!(asks_for_no_bytes(range.as_bytes()), expected, "{range}");
    }
}

#[test]
fn the_origin_decides() {
    use Refusal::*;
    let s = |text: &'static str| ("cache-control", text);
    let decide = |status: u16, headers: &[(&'static str, &str)]| {
        let fresh = response(&Said::by_header(&sized(status, headers)), &origins_word(), came());
        fresh.map(|fresh| fresh.remaining.as_secs())
    };
    let table: &[(u16, Fields, Result<u64, Refusal>)] = &[
        (200, &[], Err(Unnamed)),
        (200, &[("etag", "\"v\"")], Ok(0)),
        (200, &[s("max-age=31536000")], Ok(31_536_000)),
        (200, &[s("max-age=99999999999999999999999")], Ok(1 << 31)),
        (200, &[("expires", "Mon, 06 Nov 2034 08:49:37 GMT")], Ok(1_262_304_000)),
        // Whatever the status is.
        (302, &[s("max-age=7")], Ok(7)),
        (500, &[s("s-maxage=7")], Ok(7)),
        (599, &[("expires", "Sun, 06 Nov 1994 08:49:47 GMT")], Ok(10)),
        (302, &[], Err(Status)),
        (302, &[s("public")], Err(Status)),
        (206, &[s("max-age=7")], Err(Status)),
        (304, &[s("max-age=7")], Err(Status)),
        // How old it is already.
        (200, &[s("max-age=60"), ("date", "Sun, 06 Nov 1994 08:49:37 GMT")], Ok(60)),
        (200, &[s("max-age=60"), ("date", "Sun, 06 Nov 1994 08:49:36 GMT")], Ok(60)),
        (200, &[s("max-age=60"), ("date", "Sun, 06 Nov 1994 08:49:17 GMT")], Ok(41)),
        (200, &[s("max-age=60"), ("date", "Sun, 06 Nov 1994 08:49:17 GMT"), ("age", "30")], Ok(30)),
        (200, &[s("max-age=60"), ("date", "Sun, 06 Nov 1994 08:59:17 GMT")], Ok(60)),
        (200, &[s("max-age=60"), ("date", "Sun, 06 Nov 1994 08:49:17 EET")], Ok(60)),
        (200, &[("expires", "Sunday, 06-Nov-94 08:49:47 GMT")], Ok(10)),
        (200, &[("expires", "Sun Nov  6 08:49:47 1994")], Ok(10)),
        (200, &[("expires", "Sun, 06 Nov 1994 08:49:47 EET")], Err(Stale)),
        // Whose word it is.
        (200, &[("cdn-cache-control", "max-age=9"), s("no-store")], Ok(9)),
        (200, &[("cdn-cache-control", "max-age=9"), ("portcullis-cache-control", "max-age=8"), s("max-age=7")], Ok(8)),
        (200, &[("cdn-cache-control", "no-store"), s("max-age=7")], Err(Forbidden)),
        (200, &[("cdn-cache-control", "private=(\"a\")"), s("max-age=7")], Err(Forbidden)),
        (200, &[("cdn-cache-control", "max-age=\"9\", s-maxage=3"), s("max-age=7")], Ok(3)),
        (200, &[("cdn-cache-control", "max-age=9.5, s-maxage=3")], Ok(3)),
        (200, &[("cdn-cache-control", "max-age=9, max-age=4")], Ok(4)),
        (200, &[("cdn-cache-control", "max-age=9;x=1")], Ok(9)),
        (200, &[("cdn-cache-control", "max-age=9"), ("cdn-cache-control", "s-maxage=4")], Ok(4)),
        (200, &[("cdn-cache-control", "Max-Age=9"), s("max-age=7")], Ok(7)),
        (200, &[("cdn-cache-control", "max-age=9,"), s("max-age=7")], Ok(7)),
        (200, &[("cdn-cache-control", ""), s("max-age=7")], Ok(7)),
        (200, &[("cdn-cache-control", "x"), ("expires", "Sun, 06 Nov 1994 08:49:47 GMT"), s("max-age=7")], Err(Unnamed)),
        (200, &[("cdn-cache-control", "max-age=-5")], Err(Stale)),
        // Understanding.
        (200, &[s("must-understand, no-store, max-age=7")], Ok(7)),
        (599, &[s("must-understand, no-store, max-age=7")], Err(Forbidden)),
        (599, &[s("must-understand, max-age=7")], Err(Forbidden)),
        (200, &[s("no-store, max-age=7")], Err(Forbidden)),
        (200, &[s("immutable, max-age=7")], Ok(7)),
    ];
    for (status, headers, expected) in table {
        assert_eq!(decide(*status, headers), *expected, "{status} {headers:?}");
    }
    let slow = Came { after: Duration::from_secs(3), ..came() };
    let answer = sized(200, &[s("max-age=9"), ("age", "2")]);
    let fresh = response(&Said::by_header(&answer), &origins_word(), slow).unwrap();
    assert_eq!((fresh.remaining.as_secs(), fresh.age.as_secs()), (4, 5));
}

#[test]
fn the_route_bounds_what_the_origin_says() {
    let s = Duration::from_secs;
    let decide = |policy: &CachePolicy, headers: &[(&'static str, &str)]| {
        response(&Said::by_header(&sized(200, headers)), policy, came()).map(|fresh| fresh.remaining.as_secs())
    };
    let bounded = CachePolicy { default_ttl: s(20), min_ttl: s(10), max_ttl: s(40), ..policy() };
    for (named, expected) in [("max-age=0", 10), ("max-age=5", 10), ("max-age=15", 15), ("max-age=50", 40), ("public", 20)] {
        assert_eq!(decide(&bounded, &[("cache-control", named)]), Ok(expected), "{named}");
    }
    assert_eq!(decide(&bounded, &[("cache-control", "max-age=5, no-store")]), Err(Refusal::Forbidden));
    assert_eq!(decide(&bounded, &[("cache-control", "max-age=5, no-cache"), ("etag", "\"v\"")]), Ok(0));
    let heuristic = Heuristic { percent: 10, max: s(60), unlisted: true };
    let guessing = CachePolicy { heuristic: Some(heuristic), ..origins_word() };
    for (modified, expected) in [
        ("Sun, 06 Nov 1994 08:48:37 GMT", 6),
        ("Sun, 06 Nov 1994 07:49:37 GMT", 60),
        ("Sun, 06 Nov 1994 09:49:37 GMT", 0),
        ("never", 0),
    ] {
        assert_eq!(decide(&guessing, &[("last-modified", modified)]), Ok(expected), "{modified}");
    }
}

#[test]
fn what_is_guessed_of_statuses_that_are_not_listed() {
    const MODIFIED: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:48:37 GMT");
    let s = Duration::from_secs;
    let decide = |policy: &CachePolicy, status: u16, headers: &[(&'static str, &str)]| {
        response(&Said::by_header(&sized(status, headers)), policy, came()).map(|fresh| fresh.remaining.as_secs())
    };
    let heuristic = |unlisted| Some(Heuristic { percent: 10, max: s(60), unlisted });
    // The route's own lifetime is for what is listed alone.
    let guessing = CachePolicy { heuristic: heuristic(true), default_ttl: s(20), ..origins_word() };
    for status in [405, 414, 501] {
        assert_eq!(decide(&guessing, status, &[MODIFIED]), Ok(6), "{status}");
        assert_eq!(decide(&guessing, status, &[]), Err(Refusal::Status), "{status}");
    }
    for status in [302, 403, 500, 599] {
        assert_eq!(decide(&guessing, status, &[MODIFIED]), Err(Refusal::Status), "{status}");
        assert_eq!(decide(&guessing, status, &[MODIFIED, ("cache-control", "public")]), Ok(6), "{status}");
        assert_eq!(
            decide(&guessing, status, &[("etag", "\"v\""), ("cache-control", "public")]),
            Err(Refusal::Status),
            "{status}"
        );
        assert_eq!(decide(&guessing, status, &[MODIFIED, ("cache-control", "public, no-store")]), Err(Refusal::Forbidden));
    }
    assert_eq!(decide(&guessing, 206, &[MODIFIED, ("cache-control", "public")]), Err(Refusal::Status));
    // A list of one's own is one.
    let listing = CachePolicy { heuristic: heuristic(false), ..guessing };
    assert_eq!(decide(&listing, 405, &[MODIFIED]), Err(Refusal::Status));
    assert_eq!(decide(&listing, 599, &[MODIFIED, ("cache-control", "public")]), Err(Refusal::Status));
    assert_eq!(decide(&origins_word(), 405, &[MODIFIED]), Err(Refusal::Status));
}

#[test]
fn stale_answers() {
    let s = Duration::from_secs;
    let decide = |policy: &CachePolicy, control: &str| {
        let fresh = response(&Said::by_header(&sized(200, &[("cache-control", control)])), policy, came()).unwrap();
        (fresh.while_revalidate, fresh.if_error)
    };
    let silent = origins_word();
    assert_eq!(decide(&silent, "max-age=1"), (0, 0));
    assert_eq!(decide(&silent, "max-age=1, stale-while-revalidate=5, stale-if-error=9"), (5, 9));
    assert_eq!(decide(&silent, "max-age=1, stale-while-revalidate=5, stale-while-revalidate=3"), (3, 0));
    assert_eq!(decide(&silent, "max-age=1, stale-if-error=99999"), (0, 3600));
    assert_eq!(decide(&silent, "s-maxage=1, stale-if-error=9"), (0, 9));
    let generous = CachePolicy { stale_while_revalidate: s(20), stale_if_error: s(60), ..origins_word() };
    assert_eq!(decide(&generous, "max-age=1"), (20, 60));
    assert_eq!(decide(&generous, "max-age=1, stale-while-revalidate=0"), (0, 60));
    for never in ["must-revalidate", "proxy-revalidate"] {
        assert_eq!(decide(&generous, &format!("max-age=1, stale-if-error=9, {never}")), (0, 0), "{never}");
    }
    assert_eq!(decide(&generous, "s-maxage=1"), (0, 0));
    // Nothing of its lifetime is left, but it may be given while another one is fetched.
    assert_eq!(decide(&silent, "max-age=0, stale-while-revalidate=5"), (5, 0));
    let part = Duration::from_millis(900);
    let short = CachePolicy { stale_while_revalidate: part, stale_if_error: s(1) + part, ..origins_word() };
    assert_eq!(decide(&short, "max-age=1"), (1, 2));
    let none = CachePolicy { max_stale: Duration::ZERO, ..generous };
    assert_eq!(decide(&none, "max-age=1, stale-if-error=9"), (0, 0));
}

#[test]
fn tags() {
    for (tag, known, same) in [
        ("\"a\"", "\"a\"", true),
        ("\"a\"", "\"b\"", false),
        ("\"a\"", "W/\"a\"", false),
        ("W/\"a\"", "\"a\"", true),
        ("W/\"a\"", "W/\"a\"", true),
        ("W/\"a\"", "W/\"b\"", false),
    ] {
        assert_eq!(is_same_tag(tag.as_bytes(), known.as_bytes()), same, "{tag} {known}");
    }
}

#[test]
fn quotes_that_are_never_closed_are_read_once() {
    // By a reader that looks for the end of each anew it takes minutes.
    let line = "\\\",".repeat(100_000) + "no-store";
    let begun = std::time::Instant::now();
    assert!(Wishes::of(&RequestHead::build("GET", "/", &[("cache-control", &line)]), &policy()).no_store);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
