//! A client that does what a case says and keeps what it heard.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use super::backend::{Backend, values};
use super::case::{Act, Case};
use crate::harness::find;

/// The gateway's own limits are much shorter: a connection that is still open then hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The gateway closed it.
    Closed,
    Reset,
    /// The client did.
    Left,
    Hung,
}

#[derive(Debug, Clone)]
pub struct Answer {
    /// Up to and with the empty line.
    pub head: Vec<u8>,
    /// Without the transfer coding.
    pub content: Vec<u8>,
    pub is_whole: bool,
}

#[derive(Debug)]
pub struct Heard {
    pub answers: Vec<Answer>,
    /// Bytes that are no answer.
    pub rest: Vec<u8>,
    pub end: End,
}

struct Client<'a> {
    stream: TcpStream,
    bytes: Vec<u8>,
    end: Option<End>,
    case: &'a Case,
}

/// Plays a case to a gateway.
pub fn play(case: &Case, port: u16, backend: &Backend) -> Heard {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_nodelay(true).unwrap();
    if case.acts.iter().any(|act| matches!(act, Act::Stop(_))) {
        // What it does not read must not wait in its own socket.
        socket2::SockRef::from(&stream).set_recv_buffer_size(64 * 1024).unwrap();
    }
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut client = Client { stream, bytes: Vec::new(), end: None, case };
    for act in &case.acts {
        match act {
            Act::Send(bytes) => {
                // A write would swallow a reset, and what follows would look like an orderly end.
                if !client.bytes.is_empty() {
                    client.hear(Duration::from_millis(1));
                }
                // A gateway that has heard enough may close before everything is sent.
                if client.end.is_none() {
                    let _ = client.stream.write_all(bytes);
                }
            }
            Act::AwaitHeads(count) => {
                backend.await_heads(case.number, *count, || {
                    client.hear(Duration::from_millis(1)).is_some() || !client.bytes.is_empty()
                });
            }
            Act::AwaitAnswers(count) => client.until(|client| client.parsed().0.len() >= *count),
            Act::Stop(time) => std::thread::sleep(*time),
            Act::Leave => client.end = Some(End::Left),
        }
    }
    client.until(|_| false);
    let end = client.end.unwrap_or(End::Hung);
    let (answers, rest) = client.parsed();
    Heard { answers, rest, end }
}

impl Client<'_> {
    fn until(&mut self, enough: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while self.end.is_none() && Instant::now() < until && !enough(self) {
            self.hear(Duration::from_millis(50));
        }
    }

    fn hear(&mut self, wait: Duration) -> Option<End> {
        let mut buffer = [0; 16 * 1024];
        self.stream.set_read_timeout(Some(wait)).unwrap();
        match self.stream.read(&mut buffer) {
            Ok(0) => self.end = Some(End::Closed),
            Ok(count) => self.bytes.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => self.end = Some(End::Reset),
        }
        self.end
    }

    /// The answers so far, an unfinished last one included, and what is none.
    fn parsed(&self) -> (Vec<Answer>, Vec<u8>) {
        let (mut answers, mut rest) = (Vec::new(), &self.bytes[..]);
        while let Some(end) = find(rest, b"\r\n\r\n") {
            let (head, after) = rest.split_at(end + 4);
            let status = head.strip_prefix(b"HTTP/1.1 ").and_then(|line| std::str::from_utf8(line.get(..3)?).ok()?.parse().ok());
            let Some(status): Option<u16> = status else { break };
            // Nobody says which answer is the one to HEAD. It is the one that another answer, or nothing, follows.
            let bodiless = status < 200
                || matches!(status, 204 | 304)
                || self.case.asks_head() && (after.is_empty() || after.starts_with(b"HTTP/1.1 "));
            let (content, taken, is_whole) = if bodiless { (Vec::new(), 0, true) } else { self.content(head, after) };
            answers.push(Answer { head: head.to_vec(), content, is_whole });
            rest = &after[taken..];
            if !is_whole {
                break;
            }
        }
        (answers, rest.to_vec())
    }

    /// The body, how many bytes it took, and whether it is whole.
    fn content(&self, head: &[u8], bytes: &[u8]) -> (Vec<u8>, usize, bool) {
        match (&values(head, "content-length")[..], &values(head, "transfer-encoding")[..]) {
            ([length], []) => {
                let length = std::str::from_utf8(length).ok().and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
                let there = length.min(bytes.len());
                (bytes[..there].to_vec(), there, there == length)
            }
            ([], [b"chunked"]) => chunks(bytes),
            ([], []) => (bytes.to_vec(), bytes.len(), self.end == Some(End::Closed)),
            _ => (b"(ambiguous)".to_vec(), 0, false),
        }
    }
}

fn chunks(bytes: &[u8]) -> (Vec<u8>, usize, bool) {
    let (mut content, mut at) = (Vec::new(), 0);
    while let Some(end) = find(&bytes[at..], b"\r\n") {
        let size = std::str::from_utf8(&bytes[at..at + end]).ok().and_then(|line| usize::from_str_radix(line, 16).ok());
        let start = at + end + 2;
        let Some(size) = size else { return (b"(malformed)".to_vec(), bytes.len(), false) };
        if bytes.len() < start + size + 2 {
            // As far as it came.
            content.extend_from_slice(&bytes[start..bytes.len().min(start + size)]);
            return (content, bytes.len(), false);
        }
        content.extend_from_slice(&bytes[start..start + size]);
        at = start + size + 2;
        if size == 0 {
            return (content, at, true);
        }
    }
    (content, bytes.len(), false)
}
