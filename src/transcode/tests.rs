use std::path::Path;

use http::Method;
use prost_reflect::prost::Message;
use serde_json::json;

use super::config::TranscodeConfig;
use super::*;
use crate::problem::Problems;
use crate::value::Spanned;

/// What the tests through sockets call, too.
fn transcoder() -> Transcoder {
    let config = json!({ "protos": ["shop/catalog.proto"], "imports": ["tests/transcode/protos"], "names": "both" });
    let config: TranscodeConfig = serde_json::from_value(config).unwrap();
    let mut problems = Problems::default();
    let made = Transcoder::compile(&Spanned::nowhere(config), Path::new(env!("CARGO_MANIFEST_DIR")), &mut problems);
    made.unwrap_or_else(|| panic!("{:?}", problems.iter().collect::<Vec<_>>()))
}

/// The message of `POST /v1/echo`, or why there is none.
fn echo(transcoder: &Transcoder, body: &str) -> Result<Vec<u8>, &'static str> {
    let meant = transcoder.find(&Method::POST, "/v1/echo", true).unwrap();
    let bound = meant.bind(None, Some(b"application/json"), body.as_bytes(), &mut |_| true);
    bound.map(|frame| frame[5..].to_vec()).map_err(|reply| reply.reason)
}

#[test]
fn messages_are_written_as_the_library_would() {
    let transcoder = transcoder();
    let long = "x".repeat(300);
    let all = json!({
        "aDouble": 1.5, "aFloat": -0.5, "anInt32": -7, "anInt64": "-9007199254740993", "aUint32": 7, "aUint64": "18446744073709551615",
        "aSint32": -2147483648i64, "aSint64": "-9223372036854775808", "aFixed32": 4294967295u32, "aFixed64": "1", "aSfixed32": -1,
        "aSfixed64": "-1", "aBool": true, "text": long, "data": "AP8=", "colour": "GREEN", "maybe": 0, "chosenText": "",
        "inside": { "name": long, "number": "1", "deeper": { "deeper": { "many": [{}, { "name": "n" }] } } },
        "numbers": [1, -2, 3], "texts": ["a", ""], "colours": ["RED", "GREEN"], "doubles": [1, 2.5], "byName": { "k": "1" },
        "byNumber": { "-5": { "name": "m" } }, "byTruth": { "true": long }, "structure": { "a": { "b": [null, 1, "x", false] } },
        "any": { "@type": "type.googleapis.com/shop.v1.Inside", "name": "in" }, "wrappedBool": false, "wrappedMany": [1, 0],
        "time": "2026-01-31T12:00:00.5Z", "mask": "a,b"
    });
    let ours = echo(&transcoder, &all.to_string()).unwrap();
    let output = transcoder.find(&Method::POST, "/v1/echo", true).unwrap().method.output.clone();
    let read = DynamicMessage::decode(output, &*ours).unwrap();
    assert_eq!(read.encode_to_vec(), ours);
    assert_eq!((read.fields().count(), read.encoded_len()), (all.as_object().unwrap().len(), ours.len()));
    assert_eq!(echo(&transcoder, "{}"), Ok(Vec::new()));
}

#[test]
fn what_is_nested_deeply_is_refused_before_it_is_made() {
    let transcoder = transcoder();
    let nested = |depth: usize| format!(r#"{{"value":{}1{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert!(echo(&transcoder, &nested(48)).is_ok());
    assert_eq!(echo(&transcoder, &nested(60)), Err("unfit_message"));
    assert_eq!(echo(&transcoder, &nested(120)), Err("unfit_message"));
}

#[test]
fn what_would_take_much_more_memory_than_it_has_bytes_is_refused() {
    let transcoder = transcoder();
    let many = |before: &str, count: usize| format!("{{{before}:[{}1]}}", "1,".repeat(count));
    assert!(echo(&transcoder, &many(r#""numbers""#, 500_000)).is_ok());
    assert!(echo(&transcoder, &many(r#""value""#, 50_000)).is_ok());
    // Each is a message of its own; and of numbers even the tree is too large in the end.
    assert_eq!(echo(&transcoder, &many(r#""value""#, 200_000)), Err("message_too_large"));
    assert_eq!(echo(&transcoder, &many(r#""numbers""#, 2_000_000)), Err("message_too_large"));
    let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(4 << 20));
    assert_eq!(echo(&transcoder, &long), Err("message_too_large"));
    // The same for answers: the list of `values` is field 34, and each of them is four bytes.
    let answering = transcoder.find(&Method::POST, "/v1/echo", true).unwrap().answering();
    let list = |count: usize| {
        let mut list = Vec::new();
        let inner = b"\x0a\x02\x08\x00".repeat(count);
        prost_reflect::prost::encoding::bytes::encode(34, &inner, &mut list);
        list
    };
    assert!(answering.told(&list(10_000)).is_ok());
    assert!(answering.takes(&list(10_000)).unwrap() > 10_000 * 700);
    assert_eq!(answering.told(&list(1 << 20)).unwrap_err(), Unfit::Unwritable(Unwritable::TooLarge));
    // Nor behind the name of a type.
    let mut any = Vec::new();
    prost_reflect::prost::encoding::string::encode(1, &"t/google.protobuf.ListValue".to_owned(), &mut any);
    prost_reflect::prost::encoding::bytes::encode(2, &b"\x0a\x02\x08\x00".repeat(1 << 20), &mut any);
    let mut message = Vec::new();
    prost_reflect::prost::encoding::bytes::encode(35, &any, &mut message);
    assert_eq!(answering.told(&message).unwrap_err(), Unfit::Unwritable(Unwritable::TooLarge));
}

#[test]
fn integers_that_a_float_cannot_hold_are_not_guessed() {
    let transcoder = transcoder();
    for (number, taken) in [
        ("9223372036854775807", true),
        ("-9223372036854775808", true),
        ("-9223372036854775809", false),
        ("9223372036854775808", false),
        ("9007199254740991.0", true),
        ("9007199254740993.0", false),
        ("1e15", true),
    ] {
        assert_eq!(echo(&transcoder, &format!(r#"{{"anInt64":{number}}}"#)).is_ok(), taken, "{number}");
    }
}

/// What the process has of memory now, and the most that it ever had, in bytes.
fn resident() -> (usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}

/// Bodies of which a message takes much memory: what they are for, and the body.
fn heavy() -> Vec<(&'static str, String)> {
    let many = |before: &str, one: &str, count: usize| format!("{{\"{before}\":[{}{one}]}}", format!("{one},").repeat(count - 1));
    let entries = |count: usize| (0..count).map(|number| format!("\"{number}\":{{}}")).collect::<Vec<_>>().join(",");
    vec![
        ("small messages", many("insides", r#"{"name":"a product","number":"7"}"#, 16_000)),
        ("empty messages", many("insides", "{}", 40_000)),
        ("nested messages", many("insides", r#"{"deeper":{"deeper":{"deeper":{}}}}"#, 8000)),
        ("numbers", many("numbers", "1", 500_000)),
        ("texts", many("texts", "\"a text\"", 200_000)),
        ("long texts", many("texts", &format!("\"{}\"", "x".repeat(10_000)), 300)),
        ("wrappers", many("wrappedMany", "1", 40_000)),
        ("times", many("times", "\"2026-01-31T12:00:00Z\"", 30_000)),
        ("values", many("values", "1", 40_000)),
        ("a map", format!("{{\"byNumber\":{{{}}}}}", entries(30_000))),
        ("a structure", format!("{{\"structure\":{{{}}}}}", entries(15_000))),
    ]
}

/// Each in a process of its own, for what one leaves behind the next one takes again.
#[test]
fn what_is_paid_for_is_about_what_is_taken() {
    const WHICH: &str = "PORTCULLIS_HEAVY";
    let Some(which) = std::env::var(WHICH).ok().and_then(|which| which.parse::<usize>().ok()) else {
        let own = std::env::current_exe().unwrap();
        let name = "transcode::tests::what_is_paid_for_is_about_what_is_taken";
        for which in 0..heavy().len() {
            let mut command = std::process::Command::new(&own);
            let done = command.args([name, "--exact", "--nocapture"]).env(WHICH, which.to_string()).output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success() && said.contains("is paid for"), "{said}{}", String::from_utf8_lossy(&done.stdout));
            eprint!("{said}");
        }
        return;
    };
    let transcoder = transcoder();
    let meant = transcoder.find(&Method::POST, "/v1/echo", true).unwrap();
    let (what, body) = heavy().swap_remove(which);
    // The most that there was is now what there is.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, _) = resident();
    let mut paid = 0;
    let frame = meant.bind(None, Some(b"application/json"), body.as_bytes(), &mut |bytes| {
        paid += bytes;
        true
    });
    let frame = frame.unwrap_or_else(|reply| panic!("{what}: {reply:?}"));
    // What is sent is paid for where it is sent.
    let taken = resident().1.saturating_sub(before + frame.len());
    eprintln!("{what}: a body of {} takes {taken}, and {paid} is paid for", body.len());
    assert!(paid >= taken / 5 * 4, "{what}");
    // What is empty takes next to nothing, and is paid for as if it were not.
    let most = if body.contains("{}") { 24 } else { 4 };
    assert!(paid <= taken * most, "{what}");
}
