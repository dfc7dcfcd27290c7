//! The JSON mapping beside Python's own (`json_format`), over thousands of messages that nobody chose, and texts that somebody did.

use portcullis::problem::Problems;
use portcullis::transcode::Transcoder;
use portcullis::transcode::config::TranscodeConfig;
use portcullis::value::Spanned;

use super::*;
use crate::protocols::peer::play;

const MESSAGES: usize = 3000;

fn transcoder(files: &Files) -> Transcoder {
    let config: TranscodeConfig =
        serde_json::from_value(json!({ "descriptors": ["shop.pb"], "services": ["shop.v1.Catalog"], "names": "both" })).unwrap();
    let mut problems = Problems::default();
    let made = Transcoder::compile(&Spanned::nowhere(config), files.dir(), &mut problems);
    made.unwrap_or_else(|| panic!("{:?}", problems.iter().collect::<Vec<_>>()))
}

/// Numbers are the same if they are worth the same.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(name, one)| other.get(name).is_some_and(|other| same(one, other)))
        }
        _ => one == other,
    }
}

/// Texts, and why the two may see them differently, if they do.
const TEXTS: &[(&str, &str)] = &[
    (r#"{"anInt32":1}"#, ""),
    (r#"{"an_int32":"1"}"#, ""),
    (r#"{"anInt32":1.0}"#, ""),
    (r#"{"anInt32":1e2}"#, ""),
    (r#"{"anInt32":1.5}"#, ""),
    (r#"{"anInt32":"1.5"}"#, ""),
    (r#"{"anInt32":" 1"}"#, ""),
    (r#"{"anInt32":"0x1"}"#, ""),
    (r#"{"anInt32":2147483648}"#, ""),
    (r#"{"anInt32":-2147483649}"#, ""),
    (r#"{"anInt32":true}"#, ""),
    (r#"{"anInt32":""}"#, ""),
    (r#"{"anInt64":"9223372036854775807"}"#, ""),
    (r#"{"anInt64":9223372036854775807}"#, ""),
    (r#"{"anInt64":9223372036854775808}"#, ""),
    (r#"{"aUint64":"18446744073709551615"}"#, ""),
    (r#"{"aUint64":-1}"#, ""),
    (r#"{"anInt32":"1e2"}"#, "the mapping's conformance tests want it read, and Python does not"),
    (r#"{"aDouble":"1.5"}"#, ""),
    (r#"{"aDouble":"NaN"}"#, ""),
    (r#"{"aDouble":"nan"}"#, ""),
    (r#"{"aDouble":"-Infinity"}"#, ""),
    (r#"{"aDouble":"inf"}"#, "Python takes it for infinity, which the mapping does not know"),
    (r#"{"aDouble":""}"#, ""),
    (r#"{"aFloat":3.4028234e38}"#, ""),
    (r#"{"aFloat":3.5e38}"#, ""),
    (r#"{"aBool":true}"#, ""),
    (r#"{"aBool":"true"}"#, ""),
    (r#"{"aBool":1}"#, ""),
    (r#"{"text":1}"#, ""),
    (r#"{"text":null}"#, ""),
    (r#"{"data":"-_8="}"#, ""),
    (r#"{"data":"+/8"}"#, ""),
    (r#"{"data":"a"}"#, ""),
    (r#"{"colour":"RED"}"#, ""),
    (r#"{"colour":"red"}"#, ""),
    (r#"{"colour":2}"#, ""),
    (r#"{"colour":77}"#, ""),
    (r#"{"colour":1.0}"#, ""),
    (r#"{"inside":{"deeper":{"name":"x"}}}"#, ""),
    (r#"{"inside":[1]}"#, ""),
    (r#"{"numbers":[1,"2",3.0]}"#, ""),
    (r#"{"numbers":[null]}"#, ""),
    (r#"{"numbers":{}}"#, ""),
    (r#"{"byName":{"a":1}}"#, ""),
    (r#"{"byNumber":{"1":{}}}"#, ""),
    (r#"{"byNumber":{"x":{}}}"#, ""),
    (r#"{"byTruth":{"true":"a"}}"#, ""),
    (r#"{"byTruth":{"1":"a"}}"#, ""),
    (r#"{"byName":{"a":null}}"#, ""),
    (r#"{"time":"2026-01-31T12:00:00.123456789+01:30"}"#, ""),
    (r#"{"time":"2026-01-31T12:00:00"}"#, ""),
    (r#"{"time":"2026-02-30T12:00:00Z"}"#, ""),
    (r#"{"time":"10000-01-01T00:00:00Z"}"#, ""),
    (r#"{"span":"-1.5s"}"#, ""),
    (r#"{"span":"1"}"#, ""),
    (r#"{"chosenText":"a","chosenNumber":1}"#, ""),
    (r#"{"wrappedInt32":null}"#, ""),
    (r#"{"value":[1,{"a":null}],"list":[null],"structure":{"a":{}}}"#, ""),
    (r#"{"nothing":1}"#, ""),
];

#[test]
fn messages_are_the_same_json_as_pythons() {
    let files = Files::new();
    let set = files.write("shop.pb", descriptors());
    let texts: Vec<&str> = TEXTS.iter().map(|(text, _)| *text).collect();
    let texts = files.write("texts.json", json!(texts).to_string());
    let args = [set.to_str().unwrap(), "20261128", &MESSAGES.to_string(), texts.to_str().unwrap()];
    let told = play("json_mapping.py", &args);
    let transcoder = transcoder(&files);
    let meant = transcoder.find(&http::Method::POST, "/v1/echo", true).unwrap();
    let answering = meant.answering();
    let written = |message: &[u8]| answering.told(message).map(|told| String::from_utf8(told.body).unwrap());
    let made = told["made"].as_array().unwrap();
    assert_eq!(made.len(), MESSAGES);
    for one in made {
        let hex = one["bytes"].as_str().unwrap();
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let theirs = one["json"].as_str().unwrap();
        let ours = written(&bytes).unwrap_or_else(|error| panic!("{error:?}: {theirs}"));
        let (left, right): (Value, Value) = (serde_json::from_str(&ours).unwrap(), serde_json::from_str(theirs).unwrap());
        assert!(same(&left, &right), "ours\n{ours}\ntheirs\n{theirs}");
        // Theirs as a request, and back.
        let frame = meant
            .bind(None, Some(b"application/json"), theirs.as_bytes(), &mut |_| true)
            .unwrap_or_else(|reply| panic!("{reply:?}: {theirs}"));
        assert_eq!(written(&frame[5..]).unwrap(), ours, "{theirs}");
    }
    for ((text, why), theirs) in TEXTS.iter().zip(told["read"].as_array().unwrap()) {
        let ours = meant
            .bind(None, Some(b"application/json"), text.as_bytes(), &mut |_| true)
            .ok()
            .map(|frame| written(&frame[5..]).unwrap());
        let ours: Option<Value> = ours.map(|ours| serde_json::from_str(&ours).unwrap());
        let theirs: Option<Value> = theirs.as_str().map(|theirs| serde_json::from_str(theirs).unwrap());
        let agree = match (&ours, &theirs) {
            (Some(ours), Some(theirs)) => same(ours, theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        };
        assert_eq!(agree, why.is_empty(), "{text}: ours {ours:?}, theirs {theirs:?}");
    }
}
