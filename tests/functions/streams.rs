//! Functions that write their answers bit by bit.

use std::io::Read as _;

use super::*;

#[test]
fn what_a_function_writes_is_passed_on_as_it_comes() {
    let cloud = Cloud::start();
    let functions = ["streams", "raw", "whole"].map(|name| (name, ", invoke: stream")).to_vec();
    let gateway = lab(&cloud, &functions);
    let answer = get(gateway.port(), "/streams/");
    assert_eq!(
        (answer.status, answer.header("content-type"), answer.header("x-streamed")),
        (201, Some("text/event-stream"), Some("yes"))
    );
    assert_eq!(
        (&*answer.text(), answer.header("set-cookie"), answer.header("content-length")),
        ("data: 1\n\ndata: 2\n\ndata: 3\n\n", Some("a=1"), None)
    );
    let raw = get(gateway.port(), "/raw/");
    assert_eq!((raw.status, raw.header("content-type"), &*raw.body), (200, Some("application/octet-stream"), &[0, 1, 2][..]));
    let whole = get(gateway.port(), "/whole/");
    assert_eq!((whole.status, &*whole.text(), whole.header("content-length")), (202, "whole", Some("5")));
    gateway.wait_metric("portcullis_function_invocations_total{service=\"streams\",result=\"ok\"}", 1.0);
    gateway.wait_metric("portcullis_function_billed_milliseconds_total{service=\"streams\"}", 7.0);
    // The first piece is there before the last one was written.
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/streams/", &[], b"");
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !seen.windows(7).any(|part| part == b"data: 1") {
        let count = client.stream().read(&mut buffer).unwrap();
        assert!(count > 0);
        seen.extend_from_slice(&buffer[..count]);
    }
    assert!(!seen.windows(7).any(|part| part == b"data: 3"), "all at once");
    let head = request(gateway.port(), "HEAD", "/streams/", &[], b"");
    assert_eq!((head.status, head.body.len()), (201, 0));
}

#[test]
fn one_that_fails_in_the_middle_is_not_taken_for_the_whole() {
    let cloud = Cloud::start();
    let functions = ["dies", "fails", "bad", "unlike", "cut"].map(|name| (name, ", invoke: stream")).to_vec();
    let gateway = lab(&cloud, &functions);
    for name in ["dies", "cut"] {
        let mut client = Client::connect(gateway.port());
        client.send_request("GET", &format!("/{name}/"), &[], b"");
        let told = client.try_answer_to("GET");
        assert!(told.is_err(), "{name}: {told:?}");
    }
    get(gateway.port(), "/fails/").assert_problem(502, "lambda", "function_error");
    for name in ["bad", "unlike"] {
        get(gateway.port(), &format!("/{name}/")).assert_problem(502, "lambda", "bad_function_answer");
    }
    // Each is counted once, as what it was.
    let results = ["ok", "failed", "unusable", "broken", "throttled", "refused"];
    for (name, how) in [("dies", "failed"), ("fails", "failed"), ("bad", "unusable"), ("unlike", "unusable"), ("cut", "broken")] {
        let counter = |result: &str| format!("portcullis_function_invocations_total{{service=\"{name}\",result=\"{result}\"}}");
        gateway.wait_metric(&counter(how), 1.0);
        let others: f64 =
            results.into_iter().filter(|result| *result != how).map(|result| gateway.metric(&counter(result))).sum();
        assert_eq!(others, 0.0, "{name}");
    }
    assert!(!gateway.log_text().contains("secret detail"));
}
