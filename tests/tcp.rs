//! Connections that are carried as they are, with real servers behind them and real clients in front.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::SockRef;

use crate::harness::*;

#[path = "tcp/attacks.rs"]
mod attacks;
#[path = "tcp/bounds.rs"]
mod bounds;
#[path = "tcp/databases.rs"]
mod databases;
#[path = "tcp/haproxy.rs"]
mod haproxy;
#[path = "tcp/mqtt.rs"]
mod mqtt;
#[path = "tcp/names.rs"]
mod names;
#[path = "tcp/split.rs"]
mod split;
#[path = "tcp/written.rs"]
mod written;

/// A connection to this port, on which nobody waits for ever.
fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends this and reads as much as that.
fn ask(stream: &mut TcpStream, bytes: &[u8], length: usize) -> std::io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn pings(stream: &mut TcpStream) -> bool {
    ask(stream, b"PING\r\n", 7).is_ok_and(|answer| answer == b"+PONG\r\n")
}

/// Everything up to the end; an error if it breaks off.
fn rest(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).map(|_| all)
}

/// One listener, one route, these endpoints. `route` and `service` say more of them.
fn plain(ports: &[u16], route: &str, service: &str) -> String {
    let endpoints: Vec<_> = ports.iter().map(|port| format!("'127.0.0.1:{port}'")).collect();
    format!(
        "
        listeners: [ {{ name: front, bind: '127.0.0.1:$PORT', protocol: tcp }} ]
        services: {{ back: {{ endpoints: [ {} ]{service} }} }}
        tcp_routes: [ {{ listeners: front, service: back{route} }} ]
        server: {{ workers: 2 }}
        ",
        endpoints.join(", ")
    )
}

/// Answers every connection by `script`, on a thread for each; when that returns the connection is closed, as it left it.
fn listening(script: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, script) = (listener.local_addr().unwrap().port(), Arc::new(script));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let script = script.clone();
            std::thread::spawn(move || script(stream));
        }
    });
    port
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_redis_is_used_and_the_connection_leaves_a_line() {
    let redis = Redis::start();
    let gateway = Gateway::start(&plain(&[redis.port()], "", ""));
    let mut client = connect(gateway.port());
    assert!(pings(&mut client) && pings(&mut client));
    let (_, listed) = gateway.admin_get("/connections?protocol=tcp");
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed["matched"], &listed["connections"][0]["route"]), (&json!(1), &json!("front")));
    gateway.wait_metric("portcullis_tcp_connections_open{route=\"front\"}", 1.0);
    let upstreams: serde_json::Value = serde_json::from_str(&gateway.admin_get("/upstreams").1).unwrap();
    assert_eq!(upstreams["services"][0]["endpoints"][0]["in_flight"], 1, "{upstreams}");
    drop(client);
    let line = gateway.wait_log(|line| line["protocol"] == "tcp");
    let said = |name: &str| line[name].clone();
    assert_eq!(
        [said("listener"), said("route"), said("service"), said("reason")],
        ["front", "front", "back", "client_closed"].map(|word| json!(word))
    );
    assert_eq!([said("bytes_in"), said("bytes_out")], [json!(12), json!(14)]);
    assert_eq!(said("endpoint"), json!(format!("127.0.0.1:{}", redis.port())));
    assert!(line["duration_us"].as_u64() >= line["connect_us"].as_u64() && line["connect_us"].is_u64(), "{line}");
    gateway.wait_metric("portcullis_tcp_connections_open{route=\"front\"}", 0.0);
    gateway.wait_metric("portcullis_tcp_connections_total{route=\"front\",reason=\"client_closed\"}", 1.0);
    gateway.wait_metric("portcullis_tcp_bytes_total{route=\"front\",direction=\"in\"}", 12.0);
    gateway.wait_metric("portcullis_tcp_bytes_total{route=\"front\",direction=\"out\"}", 14.0);
}

#[test]
fn a_half_that_is_closed_is_heard_and_the_other_goes_on() {
    let back = Backend::scripted(|mut stream| {
        // Speaks first, then hears all before it answers.
        stream.write_all(b"hello ").unwrap();
        let all = rest(&mut stream).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        stream.write_all(&all).unwrap();
    });
    let gateway = Gateway::start(&plain(&[back.port()], "", ""));
    let mut client = connect(gateway.port());
    let sent = vec![b'x'; 3_000_000];
    client.write_all(&sent).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let got = rest(&mut client).unwrap();
    assert!(got.starts_with(b"hello ") && got.len() == sent.len() + 6);
    let line = gateway.wait_log(|_| true);
    assert_eq!(
        (&line["reason"], &line["bytes_in"], &line["bytes_out"]),
        (&json!("client_closed"), &json!(3_000_000), &json!(3_000_006))
    );
    // The other way round.
    let back = Backend::scripted(|mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&mut stream).unwrap(), b"still here");
    });
    let gateway = Gateway::start(&plain(&[back.port()], "", ""));
    let mut client = connect(gateway.port());
    assert_eq!(rest(&mut client).unwrap(), b"bye");
    client.write_all(b"still here").unwrap();
    drop(client);
    let line = gateway.wait_log(|_| true);
    assert_eq!((&line["reason"], &line["bytes_in"]), (&json!("service_closed"), &json!(10)));
}

#[test]
fn whoever_breaks_off_breaks_the_other_off() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let writes = seen.clone();
    let back = listening(move |mut stream| {
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        match first {
            [b'r'] => reset(stream),
            _ => writes.lock().unwrap().push(rest(&mut stream).map_err(|error| error.kind())),
        }
    });
    let gateway = Gateway::start(&plain(&[back], "", ""));
    let mut client = connect(gateway.port());
    client.write_all(b"r").unwrap();
    assert_eq!(rest(&mut client).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    assert_eq!(gateway.wait_log(|_| true)["reason"], "service_reset");
    let mut client = connect(gateway.port());
    client.write_all(b"k").unwrap();
    gateway.wait_metric("portcullis_tcp_bytes_total{route=\"front\",direction=\"in\"}", 2.0);
    reset(client);
    eventually("the service hears of it", || *seen.lock().unwrap() == [Err(ErrorKind::ConnectionReset)]);
    gateway.wait_log(|line| line["reason"] == "client_reset");
}

#[test]
fn an_answer_is_whole_for_a_client_that_still_speaks() {
    // The service answers, and closes without having read what comes after: its reset must not take the answer with it.
    let back = listening(|mut stream| {
        let mut first = [0; 4];
        stream.read_exact(&mut first).unwrap();
        stream.write_all(&vec![b'a'; 500_000]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    });
    let gateway = Gateway::start(&plain(&[back], "", ""));
    for _ in 0..20 {
        let mut client = connect(gateway.port());
        client.write_all(b"ask.").unwrap();
        std::thread::sleep(Duration::from_millis(80));
        let _ = client.write_all(&[b'm'; 50_000]);
        std::thread::sleep(Duration::from_millis(5));
        let _ = client.write_all(&[b'm'; 50_000]);
        assert_eq!(rest(&mut client).map(|all| all.len()).map_err(|error| error.kind()), Ok(500_000));
    }
}

#[test]
fn a_killed_server_costs_the_connections_that_it_had_and_no_other() {
    let (mut one, two) = (Redis::start(), Redis::start());
    let gateway = Gateway::start(&plain(&[one.port(), two.port()], "", ", balance: round_robin"));
    let mut clients: Vec<_> = (0..20).map(|_| connect(gateway.port())).collect();
    assert!(clients.iter_mut().all(pings));
    one.kill();
    let mut alive = 0;
    for client in &mut clients {
        alive += usize::from(pings(client));
    }
    assert!((5..=15).contains(&alive), "{alive}");
    // Whoever comes now goes to the other one, before and after the dead one is left out.
    for _ in 0..50 {
        assert!(pings(&mut connect(gateway.port())));
    }
    let retried = gateway.wait_log(|line| line["retries"] == 1);
    assert_eq!((&retried["retried_for"], &retried["endpoint"]), (&json!("connect"), &json!(format!("127.0.0.1:{}", two.port()))));
    let ejected = gateway.metric("portcullis_upstream_ejections_total{service=\"back\"}");
    assert!(ejected >= 1.0, "three connections in a row could not be made");
}

#[test]
fn without_any_server_a_connection_is_closed_and_says_why_in_the_log() {
    let nobody = Port::lease();
    let gateway = Gateway::start(&plain(&[nobody.number()], "", ", outlier_detection: false"));
    let got = rest(&mut connect(gateway.port()));
    assert!(got.as_ref().is_ok_and(Vec::is_empty) || got.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    let line = gateway.wait_log(|_| true);
    assert_eq!((&line["reason"], &line["bytes_out"]), (&json!("connect_failure"), &json!(0)));
    assert!(gateway.stderr().contains("no connection to service `back`: connect_failure"), "{}", gateway.stderr());
}

#[test]
fn a_service_has_no_more_connections_than_it_may() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (now.clone(), most.clone());
    let back = listening(move |mut stream| {
        let there = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
        counts.1.fetch_max(there, Ordering::SeqCst);
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            stream.write_all(&byte).unwrap();
        }
        counts.0.fetch_sub(1, Ordering::SeqCst);
    });
    let gateway = Gateway::start(&plain(&[back], "", ", max_connections: 2, max_pending: 1, timeouts: { queue: 2s }"));
    let echoes = |stream: &mut TcpStream| ask(stream, b"x", 1).is_ok();
    let (mut first, mut second) = (connect(gateway.port()), connect(gateway.port()));
    assert!(echoes(&mut first) && echoes(&mut second));
    let mut third = connect(gateway.port());
    gateway.wait_metric("portcullis_tcp_connections_open{route=\"front\"}", 3.0);
    let closed = |mut stream: TcpStream| rest(&mut stream).map_or(true, |all| all.is_empty());
    std::thread::sleep(Duration::from_millis(100));
    assert!(closed(connect(gateway.port())), "one waits already");
    gateway.wait_log(|line| line["reason"] == "queue_full");
    assert_eq!(now.load(Ordering::SeqCst), 2);
    // A place that is left is the next one's.
    drop(first);
    assert!(echoes(&mut third) && echoes(&mut second));
    assert!(closed(connect(gateway.port())), "nobody leaves in time");
    let line = gateway.wait_log(|line| line["reason"] == "queue_timeout");
    assert!(line["duration_us"].as_u64() >= Some(1_900_000), "{line}");
    drop((second, third));
    eventually("all places are free", || now.load(Ordering::SeqCst) == 0);
    assert!(most.load(Ordering::SeqCst) <= 3, "two, and one that has not heard yet that it is over");
    assert!(echoes(&mut connect(gateway.port())));
}

#[test]
fn whoever_does_not_read_slows_the_other_down_and_nothing_piles_up() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let back = listening(move |mut stream| {
        let block = [b'x'; 65536];
        while stream.write_all(&block).is_ok() {
            count.fetch_add(block.len(), Ordering::SeqCst);
        }
    });
    let gateway = Gateway::start(&plain(&[back], "", ""));
    let memory = || gateway.resident() >> 20;
    let before = memory();
    let clients: Vec<_> = (0..50).map(|_| connect(gateway.port())).collect();
    let mut last = 0;
    let mut still = Instant::now();
    eventually("everybody waits", || {
        let now = sent.load(Ordering::SeqCst);
        if now != last {
            (last, still) = (now, Instant::now());
        }
        now > 0 && still.elapsed() > Duration::from_millis(500)
    });
    // What the kernel holds, and 32 KiB of each.
    let after = memory();
    assert!(after < before + 24, "{before} MiB before, {after} MiB with 50 stalled connections");
    // Once it is read, it goes on.
    let mut first = clients.into_iter().next().unwrap();
    let mut all = vec![0; 20_000_000];
    first.read_exact(&mut all).unwrap();
    assert!(sent.load(Ordering::SeqCst) > last);
}

#[test]
fn two_thousand_connections_at_once() {
    // As many may come before it takes any.
    let redis = Redis::start_with(&Files::new(), &["--tcp-backlog", "4096"]);
    let gateway = Gateway::start(
        &plain(&[redis.port()], "", "").replace("protocol: tcp", "protocol: tcp, max_connections_per_address: 4000"),
    );
    let mut clients: Vec<_> = (0..2000).map(|_| connect(gateway.port())).collect();
    assert!(clients.iter_mut().all(pings));
    assert_eq!(gateway.metric("portcullis_tcp_connections_open{route=\"front\"}"), 2000.0);
    assert!(clients.iter_mut().rev().all(pings));
    drop(clients);
    gateway.wait_metric("portcullis_tcp_connections_total{route=\"front\",reason=\"client_closed\"}", 2000.0);
    gateway.wait_lines(2000);
}

#[test]
fn connections_are_bounded_by_route_by_address_and_in_number() {
    let redis = Redis::start();
    let closed = |gateway: &Gateway, reason: &str, count: f64| {
        let got = rest(&mut connect(gateway.port()));
        assert!(got.as_ref().is_ok_and(Vec::is_empty) || got.is_err(), "{reason}");
        gateway.wait_metric(&format!("portcullis_tcp_connections_total{{route=\"front\",reason=\"{reason}\"}}"), count);
        assert_eq!(gateway.wait_log(|line| line["reason"] == *reason)["bytes_in"], 0);
    };
    let gateway = Gateway::start(&plain(&[redis.port()], ", max_connections: 2", ""));
    let mut held = [connect(gateway.port()), connect(gateway.port())];
    assert!(held.iter_mut().all(pings));
    closed(&gateway, "max_connections", 1.0);
    let [one, _two] = held;
    drop(one);
    gateway.wait_metric("portcullis_tcp_connections_open{route=\"front\"}", 1.0);
    assert!(pings(&mut connect(gateway.port())), "there is room again");
    let denied = ", policies: { ip_restriction: { deny: [ 127.0.0.0/8 ] } }";
    let gateway = Gateway::start(&plain(&[redis.port()], denied, ""));
    closed(&gateway, "ip_denied", 1.0);
    assert_eq!(gateway.wait_log(|_| true)["decided_by"], "tcp_route:front");
    // The global ones hold unless the route has its own.
    let global = "policies: { ip_restriction: { deny: [ 127.0.0.0/8 ] }, rate_limit: { limit: 1/hour } }\n";
    let yaml = plain(&[redis.port()], "", "").replace("        server:", &format!("        {global}        server:"));
    closed(&Gateway::start(&yaml), "ip_denied", 1.0);
    let gateway = Gateway::start(&yaml.replace("service: back", "service: back, policies: { ip_restriction: false }"));
    assert!(pings(&mut connect(gateway.port())));
    let gateway = Gateway::start(&plain(&[redis.port()], ", policies: { address_limit: { limit: 3/hour } }", ""));
    for _ in 0..3 {
        assert!(pings(&mut connect(gateway.port())));
    }
    closed(&gateway, "address_limited", 1.0);
    let gateway = Gateway::start(&plain(&[redis.port()], "", ", max_requests: 1"));
    let mut held = connect(gateway.port());
    assert!(pings(&mut held));
    closed(&gateway, "endpoints_full", 1.0);
}

#[test]
fn what_is_idle_or_old_is_broken_off() {
    let redis = Redis::start();
    let gateway = Gateway::start(&plain(&[redis.port()], ", timeouts: { idle: 1s }", ""));
    let mut client = connect(gateway.port());
    let began = Instant::now();
    // What moves is not idle.
    while began.elapsed() < Duration::from_millis(1500) {
        assert!(pings(&mut client));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(rest(&mut client).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    assert_eq!(gateway.wait_log(|_| true)["reason"], "idle_timeout");
    let gateway = Gateway::start(&plain(&[redis.port()], ", timeouts: { lifetime: 1s }", ""));
    let mut client = connect(gateway.port());
    let began = Instant::now();
    while pings(&mut client) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(gateway.wait_log(|_| true)["reason"], "lifetime");
}

#[test]
fn a_service_is_told_who_its_client_is() {
    let nginx = Nginx::start(
        "listen 127.0.0.1:$PORT proxy_protocol; location / { return 200 \"$proxy_protocol_addr $proxy_protocol_server_port\"; }",
    );
    for version in ["v1", "v2"] {
        let announce = format!(", send_proxy_protocol: {version}");
        let gateway = Gateway::start(&plain(&[nginx.port()], &announce, ""));
        assert_eq!(get(gateway.port(), "/").text(), format!("127.0.0.1 {}", gateway.port()));
        // What a trusted balancer said goes on.
        let yaml = plain(&[nginx.port()], &announce, "");
        let yaml = yaml.replace("protocol: tcp", "protocol: tcp, proxy_protocol: { trusted: [ 127.0.0.1 ] }");
        let gateway = Gateway::start(&yaml);
        let mut client = Client::connect(gateway.port());
        client.send("PROXY TCP4 192.0.2.7 198.51.100.1 4000 6432\r\n");
        assert_eq!(client.get("/").text(), "192.0.2.7 6432");
        drop(client);
        assert_eq!(gateway.wait_log(|_| true)["client"], "192.0.2.7");
    }
}

#[test]
fn a_reload_changes_where_new_connections_go() {
    let named = |name: &'static str| {
        Backend::scripted(move |mut stream| {
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(name.as_bytes()).is_ok() {}
        })
    };
    let (one, two) = (named("1"), named("2"));
    let gateway = Gateway::start(&plain(&[one.port()], "", ""));
    let mut old = connect(gateway.port());
    assert_eq!(ask(&mut old, b"?", 1).unwrap(), b"1");
    gateway.rewrite(&plain(&[two.port()], "", ""));
    assert_eq!(gateway.reload().0, 200);
    let mut new = connect(gateway.port());
    assert_eq!((ask(&mut new, b"?", 1).unwrap(), ask(&mut old, b"?", 1).unwrap()), (b"2".to_vec(), b"1".to_vec()));
    assert_eq!(gateway.metric("portcullis_tcp_connections_open{route=\"front\"}"), 2.0, "the count is one over reloads");
    // A listener that speaks something else from now on.
    let http = plain(&[two.port()], "", "")
        .replace("protocol: tcp", "h2c: false")
        .replace("tcp_routes: [ { listeners: front, service: back } ]", "routes: [ { path: /a, respond: { status: 204 } } ]");
    gateway.rewrite(&http);
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(get(gateway.port(), "/a").status, 204);
    assert_eq!(ask(&mut old, b"?", 1).unwrap(), b"1");
}

#[test]
fn when_the_process_ends_connections_have_the_time_of_grace() {
    let redis = Redis::start();
    let mut gateway = Gateway::start(&plain(&[redis.port()], "", "").replace("workers: 2", "workers: 2, grace: 2s"));
    let (mut short, mut long) = (connect(gateway.port()), connect(gateway.port()));
    assert!(pings(&mut short) && pings(&mut long));
    let began = Instant::now();
    gateway.signal("TERM");
    eventually("it takes no more", || TcpStream::connect(("127.0.0.1", gateway.port())).is_err());
    assert!(pings(&mut short) && pings(&mut long));
    drop(short);
    gateway.wait_log(|line| line["reason"] == "client_closed");
    assert_eq!(rest(&mut long).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    assert!(began.elapsed() > Duration::from_millis(1800), "{:?}", began.elapsed());
    gateway.wait_exit(Duration::from_secs(10));
    assert_eq!(gateway.wait_log(|line| line["reason"] == "shutdown")["bytes_in"], 12);
}

#[test]
fn an_upgrade_refuses_nobody_and_leaves_connections_their_time() {
    let redis = Redis::start();
    let mut gateway = Gateway::start(&plain(&[redis.port()], "", ""));
    let mut old = connect(gateway.port());
    assert!(pings(&mut old));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load = {
        let (stop, port) = (stop.clone(), gateway.port());
        std::thread::spawn(move || {
            let mut served = 0;
            while !stop.load(Ordering::SeqCst) {
                assert!(pings(&mut connect(port)));
                served += 1;
            }
            served
        })
    };
    let ran = portcullis(gateway.dir(), &["upgrade", "--pid-file", "gateway.pid", "--timeout", "60"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(pings(&mut connect(gateway.port())) && pings(&mut old), "both processes serve");
    stop.store(true, Ordering::SeqCst);
    assert!(load.join().unwrap() > 0);
    drop(old);
    assert_eq!(gateway.wait_exit(Duration::from_secs(25)).code(), Some(0));
}

#[test]
fn the_header_comes_before_tls_and_through_a_unix_socket() {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["a.example.org"]);
    let nginx = Nginx::start(&format!(
        "listen 127.0.0.1:$PORT ssl proxy_protocol; ssl_certificate {}; ssl_certificate_key {}; location / {{ return 200 $proxy_protocol_addr; }}",
        cert.display(),
        key.display()
    ));
    let service = format!(", tls: {{ ca: '{}', server_name: a.example.org }}", cert.display());
    let gateway = Gateway::start(&plain(&[nginx.port()], ", send_proxy_protocol: v2", &service));
    assert_eq!(get(gateway.port(), "/").text(), "127.0.0.1");
    let socket = std::os::unix::net::UnixListener::bind(files.dir().join("back.sock")).unwrap();
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = socket.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        String::from_utf8(all).unwrap()
    });
    let path = files.dir().join("back.sock").display().to_string();
    let yaml = plain(&[], ", send_proxy_protocol: v1", "").replace("endpoints: [  ]", &format!("endpoints: [ 'unix:{path}' ]"));
    let gateway = Gateway::start(&yaml);
    let mut client = connect(gateway.port());
    client.write_all(b"and the rest").unwrap();
    let from = client.local_addr().unwrap().port();
    drop(client);
    assert_eq!(heard.join().unwrap(), format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {}\r\nand the rest", gateway.port()));
}

#[test]
fn a_services_own_rules_hold_for_connections() {
    let named = |name: &'static str| {
        Backend::scripted(move |mut stream| {
            let _ = stream.write_all(name.as_bytes());
            let _ = rest(&mut stream);
        })
    };
    let (one, two, three) = (named("1"), named("2"), named("3"));
    let ports = [one.port(), two.port(), three.port()];
    let whom = |gateway: &Gateway| {
        let mut client = connect(gateway.port());
        ask(&mut client, b"", 1).map(|name| name[0] as char).unwrap_or('-')
    };
    // One address, one endpoint.
    let gateway = Gateway::start(&plain(&ports, "", ", balance: consistent_hash"));
    let first = whom(&gateway);
    assert!((0..20).all(|_| whom(&gateway) == first) && first != '-');
    // By connections that are open.
    let gateway = Gateway::start(
        &plain(&ports, "", ", balance: { least_requests: { full_scan: true } }").replace("workers: 2", "workers: 1"),
    );
    let mut held: Vec<_> = (0..9).map(|_| connect(gateway.port())).collect();
    let mut names: Vec<_> = held.iter_mut().map(|client| ask(client, b"", 1).unwrap()[0]).collect();
    names.sort_unstable();
    assert_eq!(names, b"111222333");
    // Whoever fails its checks gets nothing, and with nobody left a connection is closed.
    drop(held);
    let check = ", health_check: { tcp: true, interval: 100ms, unhealthy_after: 1, healthy_after: 1 }";
    let gateway = Gateway::start(&plain(&ports, "", check));
    assert_ne!(whom(&gateway), '-');
    drop((one, two));
    eventually("the third has them all", || (0..6).all(|_| whom(&gateway) == '3'));
    let (_, routes) = gateway.admin_get("/routes");
    let routes: serde_json::Value = serde_json::from_str(&routes).unwrap();
    assert_eq!((&routes["tcp_routes"][0]["id"], &routes["tcp_routes"][0]["service"]), (&json!("front"), &json!("back")));
    drop(three);
    eventually("nobody is left", || {
        assert!(matches!(whom(&gateway), '-' | '3'));
        gateway.log().iter().any(|line| line["reason"] == "no_healthy_endpoint")
    });
    let listed = portcullis(gateway.dir(), &["routes", "-c", "gateway.yaml"]);
    assert_eq!(listed.stdout, "tcp front  ->  back  [no policies]\n");
    let nobody = Port::lease();
    let breaker = ", outlier_detection: false, circuit_breaker: { consecutive_failures: 2 }";
    let gateway = Gateway::start(&plain(&[nobody.number()], "", breaker));
    eventually("it is not asked any more", || {
        whom(&gateway);
        gateway.log().iter().any(|line| line["reason"] == "circuit_open")
    });
}

#[test]
fn both_directions_have_their_turn() {
    const MUCH: usize = 200_000_000;
    let back = listening(|mut stream| {
        let mut reads = stream.try_clone().unwrap();
        let reading = std::thread::spawn(move || std::io::copy(&mut reads, &mut std::io::sink()).unwrap());
        let block = vec![b'd'; 1 << 20];
        (0..MUCH / block.len()).for_each(|_| stream.write_all(&block).unwrap());
        stream.shutdown(Shutdown::Write).unwrap();
        reading.join().unwrap();
    });
    let gateway = Gateway::start(&plain(&[back], "", "").replace("workers: 2", "workers: 1"));
    let mut client = connect(gateway.port());
    let mut writes = client.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        let block = vec![b'u'; 1 << 20];
        (0..MUCH / block.len()).for_each(|_| writes.write_all(&block).unwrap());
        writes.shutdown(Shutdown::Write).unwrap();
    });
    // Meanwhile another connection of the same worker is served.
    let other = connect(gateway.port());
    let mut some = vec![0; 1 << 20];
    (&other).read_exact(&mut some).unwrap();
    drop(other);
    assert_eq!(rest(&mut client).unwrap().len(), MUCH / (1 << 20) * (1 << 20));
    writing.join().unwrap();
    let line = gateway.wait_log(|line| line["bytes_in"].as_u64() > Some(0));
    assert_eq!(line["bytes_in"], line["bytes_out"], "{line}");
}

#[test]
fn connections_of_an_endpoint_that_is_not_well_are_broken_off_where_that_is_wanted() {
    let (one, two) = (Redis::start(), Redis::start());
    // Their health is told on another port.
    let health = Backend::scripted(|_| ());
    let port = health.port();
    let check = format!(", health_check: {{ tcp: true, port: {port}, interval: 100ms, unhealthy_after: 1, healthy_after: 1 }}");
    let yaml = format!(
        "
        listeners: [ {{ name: front, bind: '127.0.0.1:$PORT', protocol: tcp }}, {{ name: stays, bind: '127.0.0.1:$PORT2', protocol: tcp }} ]
        services:
          back: {{ endpoints: [ '127.0.0.1:{}' ]{check} }}
          same: {{ endpoints: [ '127.0.0.1:{}' ]{check} }}
        tcp_routes: [ {{ listeners: front, service: back, close_on_unhealthy: true }}, {{ listeners: stays, service: same }} ]
        server: {{ workers: 2 }}
        ",
        one.port(),
        two.port()
    );
    let gateway = Gateway::start(&yaml);
    let (mut closes, mut stays) = (connect(gateway.port()), connect(gateway.port2()));
    assert!(pings(&mut closes) && pings(&mut stays));
    drop(health);
    assert_eq!(rest(&mut closes).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    assert_eq!(gateway.wait_log(|_| true)["reason"], "endpoint_unhealthy");
    assert!(pings(&mut stays));
}
