//! Functions beside all that a route can have: what holds of any service holds of them.

use super::*;

#[test]
fn a_request_that_may_not_be_repeated_is_not() {
    let cloud = Cloud::start();
    let port = cloud.port();
    let yaml = format!(
        "
        listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
        server: {{ workers: 1 }}
        services:
          flaky:
            lambda: {{ function: flaky, endpoint: 'http://127.0.0.1:{port}' }}
            retries: {{ attempts: 2, on: [ 503 ], backoff: {{ base: 0s }} }}
        routes: [ {{ path: '/*', service: flaky }} ]
        "
    );
    let gateway = Gateway::start_with(&yaml, &ENV);
    let asked = || cloud.asked("/2015-03-31/functions/flaky/").len();
    assert_eq!((get(gateway.port(), "/").text(), asked()), ("at last".to_owned(), 2));
    // An invocation is a POST, whatever it is made of; what counts is what it is made of.
    let answer = request(gateway.port(), "POST", "/", &[], b"pay");
    answer.assert_problem(502, "lambda", "invocation_refused");
    assert_eq!(asked(), 3);
}

#[test]
fn functions_are_cached_split_mirrored_and_composed_as_any_service() {
    let cloud = Cloud::start();
    let backend = Backend::http();
    let routes = format!(
        "  - {{ path: /c, service: cached, policies: {{ cache: {{ ttl: 1m }} }} }}
  - {{ path: /s, split: [ {{ service: echo, weight: 100% }}, {{ service: plain, weight: 0% }} ] }}
  - {{ path: /m, service: 127.0.0.1, port: {}, policies: {{ mirror: {{ service: echo }} }} }}
  - path: /both
    compose:
      calls:
        one: {{ service: echo, path: /one }}
        two: {{ service: plain, path: /two }}
",
        backend.port()
    );
    let routes = routes.replace("weight: 100% }, { service: plain, weight: 0% }", "weight: 1 }, { service: plain, weight: 0 }");
    let gateway = lab_with(&cloud, &[("echo", ""), ("plain", ""), ("cached", "")], &routes, &ENV);
    let counts: Vec<String> = (0..3).map(|_| get(gateway.port(), "/c").text()).collect();
    assert_eq!(counts, ["1", "1", "1"]);
    assert_eq!(get(gateway.port(), "/s").json()["rawPath"], "/s");
    assert_eq!(get(gateway.port(), "/m").status, 200);
    eventually("the copy", || {
        cloud.asked("/2015-03-31/functions/echo/").iter().any(|asked| asked.body.contains("\"rawPath\":\"/m\""))
    });
    // Over HTTP/2, too.
    let answer = curl(&["--http2-prior-knowledge", "-d", "x", &gateway.url("/echo/h2")]);
    assert_eq!(answer.json()["requestContext"]["http"]["protocol"], "HTTP/2.0");
    let both = get(gateway.port(), "/both");
    assert_eq!(
        (both.status, &both.json()["one"]["rawPath"], &both.json()["two"]),
        (200, &json!("/one"), &json!({ "hello": "/two" })),
        "{}",
        both.text()
    );
}

#[test]
fn one_that_takes_long_is_given_up_and_one_whose_client_left_too() {
    let cloud = Cloud::start();
    let port = cloud.port();
    let yaml = format!(
        "
        listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
        server: {{ workers: 1 }}
        services:
          slow: {{ lambda: {{ function: slow, endpoint: 'http://127.0.0.1:{port}' }}, timeouts: {{ response: 300ms }} }}
          patient: {{ lambda: {{ function: slow, endpoint: 'http://127.0.0.1:{port}' }} }}
        routes: [ {{ path: /slow, service: slow }}, {{ path: /patient, service: patient }} ]
        "
    );
    let gateway = Gateway::start_with(&yaml, &ENV);
    get(gateway.port(), "/slow").assert_problem(504, "upstream", "response_timeout");
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/patient", &[], b"");
    eventually("the invocation", || {
        cloud.asked("/2015-03-31/functions/slow/").iter().any(|asked| asked.body.contains("/patient"))
    });
    client.reset();
    let line = gateway.wait_log(|line| line["path"] == "/patient");
    assert_eq!(line["status"], 499, "{line}");
}
