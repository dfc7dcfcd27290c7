use super::*;
use crate::cache::tests::policy;

type Fields<'a> = &'a [(&'static str, &'a str)];

const NOW: u64 = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT

fn asked(head: &RequestHead, identified: bool) -> Use {
    request(head, identified, &super::Credentials::default(), &policy(), |_| false)
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
        ("GET", &[("cache-control", "no-cache")], Use::Bypass(Asked)),
        ("GET", &[("Cache-Control", "NO-STORE")], Use::Bypass(Asked)),
        ("GET", &[("cache-control", "max-age=5"), ("cache-control", " No-Cache ")], Use::Bypass(Asked)),
        ("GET", &[("cache-control", "foo=\"a, b\",no-store")], Use::Bypass(Asked)),
        ("GET", &[("cache-control", "foo=\"no-store, no-cache\"")], Use::Full),
        ("GET", &[("cache-control", "foo=\"no-store, no-cache")], Use::Bypass(Asked)),
        ("GET", &[("cache-control", "foo=\"\\\"\", no-store")], Use::Bypass(Asked)),
        ("GET", &[("cache-control", "max-age=0")], Use::Bypass(Asked)),
        ("GET", &[("cache-control", "max-age=\"0\"")], Use::Bypass(Asked)),
        ("GET", &[("cache-control", "max-age = 00")], Use::Bypass(Asked)),
        ("GET", &[("cache-control", "max-age=1, only-if-cached, max-stale, no-cachex, xno-store")], Use::Full),
        ("GET", &[("cache-control", ", ,")], Use::Full),
        ("GET", &[("pragma", "No-Cache")], Use::Bypass(Asked)),
        ("GET", &[("pragma", "no-cache"), ("cache-control", "max-age=9")], Use::Full),
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

fn answer(status: u16, headers: &[(&'static str, &str)]) -> ResponseHeader {
    let mut answer = ResponseHeader::build(status, None).unwrap();
    for (name, value) in headers {
        answer.append_header(*name, *value).unwrap();
    }
    answer
}

fn judge(answer: &ResponseHeader) -> Result<Freshness, Refusal> {
    response(&Said::by_header(answer), &policy(), now())
}

fn decide(headers: &[(&'static str, &str)]) -> Result<u64, Refusal> {
    let mut answer = answer(200, headers);
    if !answer.headers.contains_key("content-length") {
        answer.insert_header("content-length", "5").unwrap();
    }
    judge(&answer).map(|fresh| fresh.remaining.as_secs())
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
        (&[("age", "10, 25")], Ok(20)),
        (&[("age", "x")], Ok(30)),
        (&[("cache-control", "no-store")], Err(Forbidden)),
        (&[("cache-control", "No-Cache")], Err(Forbidden)),
        (&[("cache-control", "max-age=60,PRIVATE")], Err(Forbidden)),
        (&[("cache-control", "private=\"set-cookie, x\"")], Err(Forbidden)),
        (&[("cache-control", "no-cache=\"x\"")], Err(Forbidden)),
        (&[("cache-control", "max-age=60"), ("cache-control", "x, no-store")], Err(Forbidden)),
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
    for (status, kept) in [(200, true), (204, true), (404, true), (500, false), (302, false), (206, false)] {
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
