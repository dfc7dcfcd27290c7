//! What a sequence of bytes is answered with never depends on how packets cut it: the reader of requests, fed with the whole hostile corpus
//! in every way to cut it in two, and byte by byte.

use std::future::Future;
use std::io::Write;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use portcullis::downstream::h1::{H1, Io, NextHead};
use portcullis::wait::Alarm;
use portcullis::wire::head::HeadLimits;
use tokio::io::AsyncWriteExt;

use super::smuggling::{bad_heads, broken_bodies, good_requests};
use super::wire::*;

const LIMITS: HeadLimits = HeadLimits { head: 2048, fields: 20, target: 256 };

/// Everything that a connection was found to carry, to its first fault or its end.
async fn read(mut h1: H1) -> Vec<String> {
    let (long, mut alarm) = (Duration::from_secs(600), Alarm::default());
    let mut found = Vec::new();
    loop {
        match h1.next_head(&LIMITS, long, long, &mut alarm).await {
            NextHead::Head(head) => {
                let fields: Vec<_> = head.headers().map(|(name, value)| [name, b"=", value].concat()).collect();
                let fields = fields.join(&b"&"[..]).escape_ascii().to_string();
                found.push(format!("{} {} {:?} {fields}", head.method, head.path, head.body));
                let mut body = Vec::new();
                loop {
                    match h1.read_body().await {
                        Ok(Some(piece)) => body.extend_from_slice(&piece),
                        Ok(None) => break found.push(body.escape_ascii().to_string()),
                        Err(error) => {
                            found.push(format!("{} {:?}", body.escape_ascii(), error.etype));
                            return found;
                        }
                    }
                }
            }
            NextHead::Bad(refused) => {
                found.push(format!("{} {}", refused.bad.status, refused.bad.reason));
                return found;
            }
            NextHead::Closed => {
                found.push("closed".to_owned());
                return found;
            }
        }
    }
}

/// What is found if the bytes come in these pieces, each of them read before the next comes.
fn fed(runtime: &tokio::runtime::Runtime, pieces: &[&[u8]]) -> Vec<String> {
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut reading = pin!(tokio::task::unconstrained(read(H1::new(Io::Boxed(Box::new(server)), &[]))));
        for piece in pieces {
            // Nobody listens any more once a fault is found.
            let _ = client.write_all(piece).await;
            if let std::task::Poll::Ready(found) = reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return found;
            }
        }
        drop(client);
        reading.await
    })
}

/// Whether a cut there is next to where the size of the line or of the head is too much.
fn near_a_bound(at: usize) -> bool {
    [LIMITS.target, LIMITS.target + 64, LIMITS.head].iter().any(|bound| at.abs_diff(*bound) < 8)
}

fn corpus() -> Vec<Vec<u8>> {
    let behind = b"GET /ok/behind HTTP/1.1\r\nHost: a\r\n\r\n";
    let chunked = "POST /ok/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut all: Vec<Vec<u8>> = bad_heads().into_iter().map(|(attack, ..)| attack).collect();
    all.extend(broken_bodies().into_iter().map(|body| format!("{chunked}{body}").into_bytes()));
    all.extend(good_requests());
    // At and beyond each bound, in every order.
    for size in [180, 240, 250, 255, 256, 257, 300, 319, 320, 321, 330, 1900, 2048, 2100, 4000] {
        for end in [" HTTP/1.1\r\nHost: a\r\n\r\n", " HTTP/1.1\nHost: a\n\n", " HTTP/2.0\r\n\r\n", " HTTP/1.1\r\nbad\r\n\r\n", ""]
        {
            all.push(format!("GET /{}{end}", "a".repeat(size)).into_bytes());
        }
    }
    for size in (1990..2010).chain([1000, 3000]) {
        for end in ["\r\n\r\n", "\n\n", "\r\nbad\r\n\r\n", "\r\n\n", ""] {
            all.push(format!("GET /ok HTTP/1.1\r\nHost: a\r\nX: {}{end}", "a".repeat(size)).into_bytes());
        }
    }
    for fields in [17, 18, 19, 20, 30, 500] {
        all.push(format!("GET /ok HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(fields)).into_bytes());
    }
    for blank in [
        "\r\n",
        "\r\n\r\n",
        "\r\n\r\n\r\n",
        "\r\n\r\n\r\n\r\n",
        "\n",
        "\r",
        "\r\r\n",
        "\r\n\n",
        "\r\n\r",
        "\n\r\n",
        "\r\nG\r\n\r\n",
    ] {
        all.push([blank.as_bytes(), behind].concat());
        all.push([&behind[..], blank.as_bytes(), behind].concat());
    }
    all.into_iter().map(|attack| [&attack[..], behind].concat()).collect()
}

#[test]
fn what_is_found_does_not_depend_on_where_packets_are_cut() {
    each(&corpus(), |bytes| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let whole = fed(&runtime, &[bytes]);
        let single: Vec<_> = bytes.chunks(1).collect();
        // Within long runs of one letter one place is like the next.
        let dull = |at: usize| bytes.len() > 700 && !at.is_multiple_of(17) && bytes[at - 1] == bytes[at] && !near_a_bound(at);
        let places = (1..bytes.len()).filter(|&at| !dull(at));
        let ways = places.map(|at| vec![&bytes[..at], &bytes[at..]]).chain([single, bytes.chunks(7).collect()]);
        for pieces in ways {
            let found = fed(&runtime, &pieces);
            if found != whole {
                let cuts: Vec<_> = pieces.iter().map(|piece| piece.len()).take(3).collect();
                return Err(format!("{}\n  in one: {whole:?}\n  {cuts:?}: {found:?}", bytes.escape_ascii()));
            }
        }
        Ok(())
    });
}

/// The same through a real socket, with the answer as a client sees it.
#[test]
fn answers_do_not_depend_on_where_packets_are_cut() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let all: Vec<_> = bad_heads().into_iter().step_by(5).collect();
    each(&all, |(attack, status, reason)| {
        for size in [1, 3, 17] {
            let mut stream = connect(gateway.port());
            for piece in attack.chunks(size) {
                // A gateway that has heard enough answers and closes.
                if stream.write_all(piece).is_err() {
                    break;
                }
            }
            let talk = listen(&mut stream, SOON);
            match talk.replies().as_deref() {
                Ok([one]) if (one.status, one.reason().as_str()) == (*status, *reason) && talk.closed => {}
                _ => return Err(format!("{} by {size}\n  {}", attack.escape_ascii(), talk.show())),
            }
        }
        Ok(())
    });
    assert!(backend.is_untouched());
    still_well(&gateway);
}
