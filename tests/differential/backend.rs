//! A backend that follows a script and writes down what reached it, byte by byte.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use pingora_core::tls::ssl::{SslAcceptor, SslStream};

use super::case::{Piece, Script, When};
use crate::harness::find;

/// Longer than any case takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// It still comes.
    Coming,
    Whole,
    /// The connection ended within it.
    BrokeOff,
    /// It was not framed as HTTP/1.1 says.
    Malformed,
    /// The backend did not look.
    Ignored,
}

#[derive(Debug, Clone)]
pub struct Seen {
    /// Up to and with the empty line.
    pub head: Vec<u8>,
    /// Without the transfer coding.
    pub content: Vec<u8>,
    pub body: Body,
}

/// By case; what belongs to none is under `usize::MAX`.
type Record = BTreeMap<usize, Vec<Seen>>;
pub type Scripts = HashMap<usize, Vec<Script>>;

#[derive(Default)]
struct Shared {
    record: Mutex<Record>,
    changed: Condvar,
}

/// What a connection's bytes go over.
trait Channel: Read + Write {
    /// Says that this end is one, where that is not said by closing the socket.
    fn end(&mut self) {}
}

impl Channel for TcpStream {}

impl Channel for SslStream<TcpStream> {
    fn end(&mut self) {
        let _ = self.shutdown();
    }
}

/// It listens on many addresses of loopback: each of them is an endpoint, and a pool, of its own.
pub struct Backend {
    port: u16,
    shared: Arc<Shared>,
}

impl Backend {
    /// On 127.0.0.1, and on 127.0.1.1 and so many after it; behind TLS, or not.
    pub fn start(scripts: Arc<Scripts>, more: usize, tls: Option<&SslAcceptor>) -> Backend {
        let (port, listeners) = listeners(more);
        let shared = Arc::new(Shared::default());
        for listener in listeners {
            let (shared, scripts, tls) = (shared.clone(), scripts.clone(), tls.cloned());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (shared, scripts, tls) = (shared.clone(), scripts.clone(), tls.clone());
                    std::thread::spawn(move || {
                        let _ = stream.set_nodelay(true);
                        let mut channel: Box<dyn Channel> = match tls.map(|tls| tls.accept(stream.try_clone().unwrap())) {
                            None => Box::new(stream),
                            Some(Ok(secured)) => Box::new(secured),
                            Some(Err(_)) => return,
                        };
                        Connection { stream: &mut *channel, read: Vec::new(), shared: &shared, scripts: &scripts }.serve();
                        channel.end();
                    });
                }
            });
        }
        Backend { port, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until so many heads of a case have come, or until it makes no sense to wait any more.
    pub fn await_heads(&self, case: usize, count: usize, mut give_up: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && self.seen(case).len() < count && !give_up() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn seen(&self, case: usize) -> Vec<Seen> {
        self.shared.record.lock().unwrap().get(&case).cloned().unwrap_or_default()
    }

    /// Everything that a case's requests brought, once no body is under way any more.
    pub fn settled(&self, case: usize) -> Vec<Seen> {
        let under_way =
            |record: &mut Record| record.get(&case).is_some_and(|all| all.iter().any(|seen| seen.body == Body::Coming));
        let record = self.shared.record.lock().unwrap();
        let (mut record, _) = self.shared.changed.wait_timeout_while(record, PATIENCE, under_way).unwrap();
        record.remove(&case).unwrap_or_default()
    }

    /// What came with a target that names no case.
    pub fn strays(&self) -> Vec<Seen> {
        self.seen(usize::MAX)
    }
}

/// One port on every one of the addresses.
fn listeners(more: usize) -> (u16, Vec<TcpListener>) {
    for _ in 0..20 {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        let others = (1..=more).map(|number| TcpListener::bind((Ipv4Addr::new(127, 0, 1, number as u8), port)));
        if let Ok(others) = others.collect::<Result<Vec<_>, _>>() {
            return (port, std::iter::once(first).chain(others).collect());
        }
    }
    panic!("no port is free on {more} addresses");
}

/// The number behind the first `/s/` of a request's target.
fn case_of(head: &[u8]) -> usize {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let digits = find(line, b"/s/").map(|at| line[at + 3..].iter().take_while(|byte| byte.is_ascii_digit()));
    let number: String = digits.into_iter().flatten().map(|&byte| char::from(byte)).collect();
    number.parse().unwrap_or(usize::MAX)
}

/// Every value of a field, surrounding whitespace aside.
pub fn values<'a>(head: &'a [u8], name: &str) -> Vec<&'a [u8]> {
    let fields = head.split(|&byte| byte == b'\n').skip(1).filter_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    });
    fields.filter(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value).collect()
}

struct Connection<'a> {
    stream: &'a mut dyn Channel,
    read: Vec<u8>,
    shared: &'a Shared,
    scripts: &'a Scripts,
}

impl Connection<'_> {
    fn serve(mut self) {
        while let Some(end) = self.until(|read| find(read, b"\r\n\r\n").map(|at| at + 4)) {
            let head: Vec<u8> = self.read.drain(..end).collect();
            let case = case_of(&head);
            let (place, script) = self.note(case, &head);
            let deaf = script.when == When::Deaf;
            if script.when != When::Whole && !self.follow(&script) {
                return self.ended(case, place, Body::Ignored, Vec::new());
            }
            let (body, content) = if deaf { (Body::Ignored, Vec::new()) } else { self.body(&head) };
            self.ended(case, place, body, content);
            if !matches!(body, Body::Whole | Body::Ignored) || script.when == When::Whole && !self.follow(&script) {
                return;
            }
        }
    }

    fn note(&self, case: usize, head: &[u8]) -> (usize, Script) {
        let mut record = self.shared.record.lock().unwrap();
        let all = record.entry(case).or_default();
        let place = all.len();
        all.push(Seen { head: head.to_vec(), content: Vec::new(), body: Body::Coming });
        let script = self.scripts.get(&case).and_then(|scripts| scripts.get(place)).cloned();
        let usual = || match head.starts_with(b"HEAD ") {
            true => Script::whole(&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"[..]),
            false => Script::whole(&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nusual"[..]),
        };
        (place, script.unwrap_or_else(usual))
    }

    fn ended(&self, case: usize, place: usize, body: Body, content: Vec<u8>) {
        if let Some(seen) = self.shared.record.lock().unwrap().get_mut(&case).and_then(|all| all.get_mut(place)) {
            (seen.body, seen.content) = (body, content);
        }
        self.shared.changed.notify_all();
    }

    /// `false`: the connection has ended.
    fn follow(&mut self, script: &Script) -> bool {
        script.pieces.iter().all(|piece| match piece {
            Piece::Bytes(bytes) => self.stream.write_all(bytes).is_ok(),
            Piece::Filler(count) => {
                let filler = [b'f'; 64 * 1024];
                (0..*count).step_by(filler.len()).all(|at| self.stream.write_all(&filler[..filler.len().min(count - at)]).is_ok())
            }
            Piece::Pause(time) => {
                std::thread::sleep(*time);
                true
            }
            Piece::End => false,
        })
    }

    /// Reads until there is enough; `None` at the connection's end.
    fn until(&mut self, enough: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
        let mut buffer = [0; 64 * 1024];
        loop {
            if let Some(count) = enough(&self.read) {
                return Some(count);
            }
            match self.stream.read(&mut buffer) {
                Ok(count) if count > 0 => self.read.extend_from_slice(&buffer[..count]),
                _ => return None,
            }
        }
    }

    fn body(&mut self, head: &[u8]) -> (Body, Vec<u8>) {
        let length = values(head, "content-length");
        match (&length[..], &values(head, "transfer-encoding")[..]) {
            ([], []) => (Body::Whole, Vec::new()),
            ([], [b"chunked"]) => self.chunks(),
            ([length], []) => {
                let number = std::str::from_utf8(length).ok().and_then(|text| text.parse::<usize>().ok());
                let Some(number) = number else { return (Body::Malformed, Vec::new()) };
                let whole = self.until(|read| (read.len() >= number).then_some(number));
                let content = self.read.drain(..number.min(self.read.len())).collect();
                (if whole.is_some() { Body::Whole } else { Body::BrokeOff }, content)
            }
            _ => (Body::Malformed, Vec::new()),
        }
    }

    fn chunks(&mut self) -> (Body, Vec<u8>) {
        let mut content = Vec::new();
        loop {
            let Some(end) = self.until(|read| find(read, b"\r\n")) else { return (Body::BrokeOff, content) };
            let line: Vec<u8> = self.read.drain(..end + 2).take(end).collect();
            let good = (1..=15).contains(&line.len()) && line.iter().all(u8::is_ascii_hexdigit);
            let Some(size) =
                std::str::from_utf8(&line).ok().filter(|_| good).and_then(|text| usize::from_str_radix(text, 16).ok())
            else {
                return (Body::Malformed, content);
            };
            if self.until(|read| (read.len() >= size + 2).then_some(0)).is_none() {
                return (Body::BrokeOff, content);
            }
            content.extend(self.read.drain(..size));
            if self.read.drain(..2).as_slice() != b"\r\n" {
                return (Body::Malformed, content);
            }
            if size == 0 {
                return (Body::Whole, content);
            }
        }
    }
}
