//! A thousand clients that want the same at the same time, which the cache has not got: one of them asks, and nobody waits any longer than
//! that takes.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::{JoinHandle, JoinSet};

use crate::harness::*;
use crate::peers::{Act, Asked, Origin, answer};

const CROWD: usize = 1000;
/// How long the service takes.
const SECOND: Duration = Duration::from_secs(1);

fn gateway(origin: &Origin) -> Gateway {
    Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true, max_connections_per_address: 5000 } ]
        server: { workers: 2, max_in_flight_per_address: 5000 }
        routes: [ { path: /*, service: 127.0.0.1, port: $BACKEND, policies: { cache: {} } } ]
        ",
        &[("$BACKEND", origin.port())],
    ))
}

/// It takes a second for what is cold.
fn slow() -> Origin {
    Origin::start(|asked: &Asked| {
        if asked.target.starts_with("/cold") {
            std::thread::sleep(SECOND);
        }
        Act::Send(answer(200, &[("Cache-Control", "max-age=60")], "ok"))
    })
}

#[derive(Clone, Copy, Debug)]
enum Over {
    Http1,
    Http2,
}

impl Over {
    /// Requests under way on each connection.
    fn streams(self) -> usize {
        match self {
            Over::Http1 => 1,
            Over::Http2 => 50,
        }
    }
}

/// All of them ask at once, on connections that are open already. How long each has waited for the first byte of its answer, and what `Cache-Status`
/// said to it.
async fn crowd(port: u16, over: Over, path: &'static str) -> Vec<(Duration, String)> {
    let connections = CROWD / over.streams();
    let begin = Arc::new(Barrier::new(connections));
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let begin = begin.clone();
        clients.spawn(async move {
            let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            match over {
                Over::Http1 => vec![ask(socket, &begin, path).await],
                Over::Http2 => ask_often(socket, &begin, path, over.streams()).await,
            }
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

async fn ask(mut socket: TcpStream, begin: &Barrier, path: &str) -> (Duration, String) {
    begin.wait().await;
    let begun = Instant::now();
    socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
    let (mut read, mut piece) = (Vec::new(), [0; 1024]);
    let mut waited = None;
    while !read.ends_with(b"\r\n\r\nok") {
        let count = socket.read(&mut piece).await.unwrap();
        assert!(count > 0, "{}", read.escape_ascii());
        waited.get_or_insert_with(|| begun.elapsed());
        read.extend_from_slice(&piece[..count]);
    }
    let text = String::from_utf8(read).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    let said = text.lines().find_map(|line| line.strip_prefix("cache-status: ")).unwrap_or_default();
    (waited.unwrap(), said.to_owned())
}

async fn ask_often(socket: TcpStream, begin: &Barrier, path: &str, streams: usize) -> Vec<(Duration, String)> {
    let (requests, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let mut requests = requests.ready().await.unwrap();
    begin.wait().await;
    let begun = Instant::now();
    let mut answers = JoinSet::new();
    for _ in 0..streams {
        let request = http::Request::get(format!("http://a{path}")).body(()).unwrap();
        let (answer, _) = requests.send_request(request, true).unwrap();
        answers.spawn(async move {
            let answer = answer.await.unwrap();
            let waited = begun.elapsed();
            assert_eq!(answer.status(), 200);
            let said = answer.headers().get("cache-status").map(|said| said.to_str().unwrap().to_owned()).unwrap_or_default();
            let (mut body, mut read) = (answer.into_body(), Vec::new());
            while let Some(piece) = body.data().await {
                read.extend_from_slice(&piece.unwrap());
            }
            assert_eq!(read, b"ok");
            (waited, said)
        });
    }
    answers.join_all().await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The last of a crowd has its first byte a tenth of a second after the service has answered, and as long as it takes such a machine, with
/// what else it does, to answer as many from what is stored.
#[track_caller]
fn assert_soon(waited: &[(Duration, String)], hits: &[(Duration, String)], what: &str) {
    let last = |waited: &[(Duration, String)]| waited.iter().map(|(waited, _)| *waited).max().unwrap();
    println!("{what}: the last first byte after {:?}, of what is stored after {:?}", last(waited), last(hits));
    assert_eq!(waited.len(), CROWD);
    let most = SECOND + SECOND / 10 + 2 * last(hits);
    assert!(last(waited) < most, "{what}: {:?} of {most:?}", last(waited));
}

/// Who has asked before the others, and may still be there.
enum First {
    Http1(Client),
    Http2(SendRequest<Bytes>, ResponseFuture),
}

type Driver = Option<JoinHandle<Result<(), h2::Error>>>;
type Leave = fn(First, Driver);

fn close(first: First, driver: Driver) {
    driver.into_iter().for_each(|driver| driver.abort());
    drop(first);
}

fn reset(first: First, driver: Driver) {
    match first {
        First::Http1(client) => client.reset(),
        First::Http2(requests, answer) => {
            drop(answer);
            // The connection goes on.
            std::mem::forget((requests, driver));
        }
    }
}

#[test]
fn a_thousand_on_a_cold_key_ask_once_and_wait_no_longer_than_one() {
    let (origin, runtime) = (slow(), runtime());
    let gateway = gateway(&origin);
    for over in [Over::Http1, Over::Http2] {
        let (warm, cold, lefts): (_, _, Vec<(&'static str, Leave)>) = match over {
            Over::Http1 => ("/warm/1", "/cold/1", vec![("/cold/1/closed", close), ("/cold/1/reset", reset)]),
            Over::Http2 => ("/warm/2", "/cold/2", vec![("/cold/2/closed", close), ("/cold/2/reset", reset)]),
        };
        assert_eq!(get(gateway.port(), warm).status, 200);
        let hits = runtime.block_on(crowd(gateway.port(), over, warm));
        let waited = runtime.block_on(crowd(gateway.port(), over, cold));
        assert_soon(&waited, &hits, &format!("{over:?}"));
        assert_eq!(origin.count(cold), 1, "{over:?}");
        // Whoever asks for all goes away while they wait: with his connection, and, over HTTP/2, with his stream alone.
        for (path, leave) in lefts {
            let (first, connection) = match over {
                Over::Http1 => {
                    let mut first = Client::connect(gateway.port());
                    first.send_request("GET", path, &[("Host", "a")], b"");
                    (First::Http1(first), None)
                }
                Over::Http2 => runtime.block_on(async {
                    let socket = TcpStream::connect(("127.0.0.1", gateway.port())).await.unwrap();
                    let (requests, connection) = h2::client::handshake(socket).await.unwrap();
                    let connection = tokio::spawn(connection);
                    let mut requests = requests.ready().await.unwrap();
                    let request = http::Request::get(format!("http://a{path}")).body(()).unwrap();
                    let (answer, _) = requests.send_request(request, true).unwrap();
                    (First::Http2(requests, answer), Some(connection))
                }),
            };
            eventually("the service is asked", || origin.count(path) == 1);
            let waited = runtime.block_on(async {
                let others = crowd(gateway.port(), over, path);
                let leaving = async {
                    let (admin, half) = (gateway.admin(), CROWD as f64 / 2.0);
                    tokio::task::spawn_blocking(move || eventually("many wait", || in_flight(admin) > half)).await.unwrap();
                    leave(first, connection);
                };
                tokio::join!(others, leaving).0
            });
            let what = format!("{over:?}, and the first one leaves ({path})");
            assert_soon(&waited, &hits, &what);
            assert_eq!(origin.count(path), 1, "{what}");
        }
    }
    // Who is alone takes his request along.
    let mut alone = Client::connect(gateway.port());
    alone.send_request("GET", "/cold/alone", &[], b"");
    eventually("the service is asked", || origin.count("/cold/alone") == 1);
    alone.reset();
    let line = gateway.wait_log(|line| line["path"] == "/cold/alone");
    assert!(line["duration_us"].as_u64().unwrap() < 900_000, "{line}");
}

fn in_flight(admin: u16) -> f64 {
    let text = request(admin, "GET", "/metrics", &[], b"").text();
    text.lines().find_map(|line| line.strip_prefix("portcullis_in_flight ")?.parse().ok()).unwrap_or_default()
}

/// What nobody can be given but the one who has asked: after the first answer each asks at once, and none after the other.
#[test]
fn a_crowd_on_what_is_not_stored_is_not_lined_up() {
    // Fewer than the connections that the service has in its backlog.
    const MANY: usize = 100;
    // How many are at the service, or were; the first one once it is let go.
    let here = Arc::new((Mutex::new(0), Condvar::new()));
    let (meet, asked) = (here.clone(), AtomicUsize::new(0));
    let origin = Origin::start(move |_: &Asked| {
        let number = asked.fetch_add(1, Ordering::SeqCst);
        let mut here = meet.0.lock().unwrap();
        if number > 0 {
            *here += 1;
            meet.1.notify_all();
        }
        // Nobody is answered before all others are here. Who is alone for long would be so for ever.
        let all = 1 + number.div_ceil(MANY) * MANY;
        let (here, alone) = meet.1.wait_timeout_while(here, Duration::from_secs(20), |here| *here < all).unwrap();
        drop(here);
        Act::Send(if alone.timed_out() {
            answer(500, &[], "alone")
        } else {
            answer(200, &[("Cache-Control", "no-store")], "own")
        })
    });
    let gateway = gateway(&origin);
    let open = |count: usize| -> Vec<Client> {
        (0..count)
            .map(|_| {
                let mut client = Client::connect(gateway.port());
                client.send_request("GET", "/a", &[], b"");
                client
            })
            .collect()
    };
    let mut first = open(1);
    eventually("the service is asked", || origin.asked().len() == 1);
    let waiting = open(MANY);
    eventually("all wait", || gateway.metric("portcullis_in_flight") == (MANY + 1) as f64);
    *here.0.lock().unwrap() += 1;
    here.1.notify_all();
    assert_eq!(first[0].answer_to("GET").text(), "own");
    // Those who have waited, and then those who come when it is known.
    for mut clients in [waiting, open(MANY)] {
        let answers: Vec<Answer> = clients.iter_mut().map(|client| client.answer_to("GET")).collect();
        let said: HashSet<&str> = answers.iter().map(Answer::cache_status).collect();
        assert!(answers.iter().all(|answer| answer.status == 200 && answer.text() == "own"), "{said:?}");
        assert!(said.iter().all(|said| said.contains("fwd=") && !said.contains("stored")), "{said:?}");
    }
    assert_eq!(origin.asked().len(), 1 + 2 * MANY);
}
