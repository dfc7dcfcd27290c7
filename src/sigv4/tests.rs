use super::*;

/// The key of the test vectors.
const SECRET: &[u8] = b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const AT: &str = "20150830T123600Z";
const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn signed<'a>(method: &'a str, path: &'a str, query: Option<&'a str>, fields: &'a [(&'a str, &'a [u8])]) -> Signed<'a> {
    Signed { method, path, query, fields, payload: NOTHING }
}

/// Test vectors of the "AWS Signature Version 4 test suite" (`get-vanilla`, `post-vanilla`, `get-vanilla-query-order-key-case`), key included:
/// the signatures were computed elsewhere.
#[test]
fn signs_as_the_test_vectors_do() {
    let scope = Scope { at: AT, region: "us-east-1", service: "service" };
    let fields: [(&str, &[u8]); 2] = [("host", b"example.amazonaws.com"), ("x-amz-date", AT.as_bytes())];
    for (method, path, query, wanted) in [
        ("GET", "/", None, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "/", None, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ("GET", "/", Some("Param2=value2&Param1=value1"), "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
    ] {
        assert_eq!(hex(&signature(SECRET, &scope, &signed(method, path, query, &fields))), wanted, "{method} {path} {query:?}");
    }
    assert_eq!(
        authorization("AKIDEXAMPLE", SECRET, &scope, &signed("GET", "/", None, &fields)),
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, \
         Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
    );
}

#[test]
fn there_is_one_spelling_of_what_is_signed() {
    let scope = Scope { at: AT, region: "r", service: "x" };
    let fields: [(&str, &[u8]); 4] = [("host", b"h"), ("my", b"  a   b\t c "), ("my", b"d"), ("x-amz-date", b"")];
    let text = String::from_utf8(canonical(&scope, &signed("PUT", "/a//b/../c%20d/", Some("b=2&a=%7e+%2f&a&b=1"), &fields)));
    let wanted =
        format!("PUT\n/a/c%2520d/\na=&a=~%20%2F&b=1&b=2\nhost:h\nmy:a b c,d\nx-amz-date:\n\nhost;my;x-amz-date\n{NOTHING}");
    assert_eq!(text.unwrap(), wanted);
    let s3 = Scope { service: "s3", ..scope };
    let text = String::from_utf8(canonical(&s3, &signed("PUT", "/a//b/../c%20d/", None, &fields))).unwrap();
    assert!(text.starts_with("PUT\n/a//b/../c%20d/\n\n"), "{text}");
    assert_eq!(object("/data/dt=2026-11-28/a(1)+b%20%7e//%2F"), "/data/dt%3D2026-11-28/a%281%29%2Bb%20~//%2F");
    for (sent, wanted) in
        [("/", "/"), ("", "/"), ("/.", "/"), ("/a/..", "/"), ("/a/.", "/a/"), ("/~a", "/~a"), ("/a%2Fb", "/a%252Fb")]
    {
        assert_eq!(path(sent), wanted, "{sent}");
    }
}

#[test]
fn times_are_read_as_they_are_written() {
    assert_eq!(stamp(1_440_938_160).as_deref(), Some(AT));
    assert_eq!(read_stamp(AT), Some(1_440_938_160));
    for bad in [
        "",
        "20150830T123600",
        "20150830T123600+",
        "20151330T123600Z",
        "2015083 T123600Z",
        "20150830T126000Z",
        "-2015083T123600Z",
    ] {
        assert_eq!(read_stamp(bad), None, "{bad}");
    }
}

#[test]
fn claims_are_read_strictly() {
    let signature = "5f".repeat(32);
    let whole = |credential: &str, fields: &str| {
        Claim::read(&format!("{ALGORITHM} Credential={credential}, SignedHeaders={fields},Signature={signature}"))
    };
    let claim = whole("A/B/20150830/eu-west-1/execute-api/aws4_request", "host;x-amz-date").unwrap();
    assert_eq!((&*claim.key_id, &*claim.region, &*claim.service), ("A/B", "eu-west-1", "execute-api"));
    assert!(claim.scope(AT).is_some() && claim.scope("20150831T000000Z").is_none());
    for (credential, fields) in [
        ("A/20150830/r/s", "host"),
        ("A/20150830/r/s/aws5_request", "host"),
        ("A/2015083x/r/s/aws4_request", "host"),
        ("/20150830/r/s/aws4_request", "host"),
        ("A/20150830//s/aws4_request", "host"),
        ("A/20150830/r/s/aws4_request", "Host"),
        ("A/20150830/r/s/aws4_request", "x-amz-date;host"),
        ("A/20150830/r/s/aws4_request", "host;host"),
        ("A/20150830/r/s/aws4_request", ""),
    ] {
        assert_eq!(whole(credential, fields), None, "{credential} {fields}");
    }
    let good = "Credential=A/20150830/r/s/aws4_request, SignedHeaders=host, Signature=";
    for bad in [
        format!("{ALGORITHM} {good}{}", "5F".repeat(32)),
        format!("{ALGORITHM} {good}{}", "5f".repeat(31)),
        format!("{ALGORITHM}{good}{signature}"),
        format!("{ALGORITHM} {good}{signature}, Signature={signature}"),
        format!("{ALGORITHM} {good}{signature}, More=1"),
        format!("AWS4-ECDSA-P256-SHA256 {good}{signature}"),
    ] {
        assert_eq!(Claim::read(&bad), None, "{bad}");
    }
}

#[test]
fn a_presigned_query_is_taken_apart() {
    let signature = "5f".repeat(32);
    let query = |expires: &str, more: &str| {
        format!(
            "a=1&X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential=A%2F20150830%2Fr%2Fs%2Faws4_request&X-Amz-Date={AT}\
             &X-Amz-Expires={expires}&X-Amz-SignedHeaders=host&X-Amz-Signature={signature}{more}"
        )
    };
    let read = Presigned::read(&query("60", "&b=2")).unwrap();
    assert_eq!((read.expires, &*read.at, &*read.claim.key_id, read.token), (60, AT, "A", None));
    assert!(read.signed.starts_with("a=1&X-Amz-Algorithm") && read.signed.ends_with("&X-Amz-SignedHeaders=host&b=2"));
    assert!(is_presigned(&query("60", "")) && is_presigned("%58-Amz-Signature=1") && !is_presigned("x-amz-signature=1"));
    for bad in [
        query("0", ""),
        query("604801", ""),
        query("+1", ""),
        query("60", "&X-Amz-Date=20150830T123600Z"),
        "X-Amz-Signature=".into(),
    ] {
        assert_eq!(Presigned::read(&bad), None, "{bad}");
    }
}
