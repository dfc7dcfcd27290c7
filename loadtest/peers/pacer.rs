//! Sends one HTTP/1.1 request over and over at a fixed rate and says how long the answers took.
//!
//!     pacer 127.0.0.1:8080 /path RATE SECONDS WARM_UP_SECONDS CONNECTIONS
//!
//! Request number k is due at k / RATE, whatever became of those before it. It goes out on whichever of the connections is free, and
//! if none is, it waits. Its latency counts from the moment when it was due, not from when it could be sent, so a server that stalls
//! is charged for every request that the stall delayed (no coordinated omission). How late this program itself was, with a
//! connection free, is reported beside it. One thread; standard library only, with the three calls of epoll declared by hand.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const EPOLLIN: u32 = 1;
const EPOLL_CTL_ADD: i32 = 1;

#[derive(Clone, Copy)]
#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
struct Event {
    events: u32,
    data: u64,
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn epoll_create1(flags: i32) -> i32;
    fn epoll_ctl(epoll: i32, operation: i32, fd: i32, event: *mut Event) -> i32;
    fn epoll_pwait2(epoll: i32, events: *mut Event, most: i32, timeout: *const Timespec, mask: *const u8) -> i32;
}

struct Connection {
    stream: TcpStream,
    due: Instant,
    buffer: Vec<u8>,
    filled: usize,
}

/// The length of head and body together, once the head is there.
fn length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&bytes[..head]).expect("a head in ASCII");
    if !text.starts_with("HTTP/1.1 200 ") {
        fail(&format!("wanted 200, got {}", text.lines().next().unwrap_or("")));
    }
    for line in text.lines() {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            return Some(head + 4 + value.trim().parse::<usize>().expect("a length"));
        }
    }
    fail("an answer without Content-Length");
}

fn fail(why: &str) -> ! {
    println!("FAILED {why}");
    std::process::exit(1);
}

fn percentile(sorted: &[u64], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).map_or(0.0, |nanoseconds| *nanoseconds as f64 / 1000.0)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, path, rate, seconds, warm_up, connections] = arguments.as_slice() else {
        fail("usage: pacer ADDRESS PATH RATE SECONDS WARM_UP_SECONDS CONNECTIONS");
    };
    let address: SocketAddr = address.parse().expect("an address");
    assert!(address.ip().is_loopback(), "only this machine is a target");
    let rate: f64 = rate.parse().expect("a rate");
    let number = |text: &String| text.parse::<f64>().expect("a number");
    let (seconds, warm_up, count) = (number(seconds), number(warm_up), number(connections) as usize);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes();

    // SAFETY: a call without pointers.
    let epoll = unsafe { epoll_create1(0) };
    let mut all: Vec<Connection> = Vec::new();
    for index in 0..count {
        let stream = TcpStream::connect(address).unwrap_or_else(|error| fail(&format!("connect: {error}")));
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_nonblocking(true).expect("O_NONBLOCK");
        let mut event = Event { events: EPOLLIN, data: index as u64 };
        // SAFETY: `event` outlives the call, and both descriptors are open.
        if unsafe { epoll_ctl(epoll, EPOLL_CTL_ADD, stream.as_raw_fd(), &mut event) } != 0 {
            fail("epoll_ctl");
        }
        all.push(Connection { stream, due: Instant::now(), buffer: vec![0; 64 << 10], filled: 0 });
    }

    let total = ((warm_up + seconds) * rate) as u64;
    let skipped = (warm_up * rate) as u64;
    let start = Instant::now() + Duration::from_millis(20);
    let due_at = |number: u64| start + Duration::from_secs_f64(number as f64 / rate);
    let give_up = start + Duration::from_secs_f64(warm_up + seconds + 10.0);
    let measured_from = due_at(skipped);

    let mut free: VecDeque<usize> = (0..count).collect();
    let mut latencies: Vec<u64> = Vec::with_capacity((total - skipped) as usize);
    let mut late: Vec<u64> = Vec::with_capacity((total - skipped) as usize);
    let (mut next, mut answered, mut waited) = (0u64, 0u64, 0u64);
    let mut starved = false;
    let mut events = [Event { events: 0, data: 0 }; 256];
    while answered < total {
        let mut now = Instant::now();
        if now > give_up {
            fail(&format!("{} of {total} requests were not answered in time", total - answered));
        }
        while next < total && due_at(next) <= now {
            let Some(index) = free.pop_front() else {
                starved = true;
                break;
            };
            let due = due_at(next);
            let connection = &mut all[index];
            connection.due = due;
            match connection.stream.write(&request) {
                Ok(written) if written == request.len() => {}
                other => fail(&format!("write: {other:?}")),
            }
            if next >= skipped {
                if starved {
                    waited += 1;
                } else {
                    late.push((now - due).as_nanos() as u64);
                }
            }
            next += 1;
            now = Instant::now();
            if due_at(next) > now {
                starved = false;
            }
        }
        let wait = if next < total && !free.is_empty() {
            due_at(next).saturating_duration_since(Instant::now())
        } else {
            Duration::from_millis(100)
        };
        let timeout = Timespec { seconds: wait.as_secs() as i64, nanoseconds: i64::from(wait.subsec_nanos()) };
        // SAFETY: `events` and `timeout` outlive the call, and the count is that of `events`.
        let ready = unsafe { epoll_pwait2(epoll, events.as_mut_ptr(), 256, &timeout, std::ptr::null()) };
        for event in events.iter().take(ready.max(0) as usize) {
            let index = event.data as usize;
            let connection = &mut all[index];
            match connection.stream.read(&mut connection.buffer[connection.filled..]) {
                Ok(0) => fail("the connection was closed"),
                Ok(got) => connection.filled += got,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => fail(&format!("read: {error}")),
            }
            match length(&connection.buffer[..connection.filled]) {
                Some(length) if length == connection.filled => {}
                Some(length) if length < connection.filled => fail("more bytes than the answer has"),
                _ => continue,
            }
            connection.filled = 0;
            if connection.due >= measured_from {
                latencies.push(connection.due.elapsed().as_nanos() as u64);
            }
            answered += 1;
            free.push_back(index);
        }
    }
    latencies.sort_unstable();
    late.sort_unstable();
    println!(
        "REPORT {{\"requests\":{},\"all\":{total},\"p50\":{:.1},\"p99\":{:.1},\"p999\":{:.1},\"late_p99\":{:.1},\"waited\":{waited}}}",
        latencies.len(),
        percentile(&latencies, 0.5),
        percentile(&latencies, 0.99),
        percentile(&latencies, 0.999),
        percentile(&late, 0.99),
    );
}
