//! A backend that speaks HTTP/1.1 or HTTP/2 by hand, and that refuses or dies where it is told to.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::harness::find;
use crate::harness::frames::{ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE};

/// What it does about a request instead of answering it. `Part` is once so many bytes of the body have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    CloseAtAccept,
    /// Reads nothing else once it has the head, and gives no room to send more.
    Stall,
    /// Takes the whole request, and never answers.
    Silent,
    CloseAfterHead,
    ResetAfterHead,
    CloseAfterPart,
    ResetAfterPart,
    /// Takes the whole request, and breaks off in its answer.
    HalfAnswer,
    /// RST_STREAM with REFUSED_STREAM.
    RefuseAfterHead,
    RefuseAfterPart,
    /// GOAWAY with a last stream below this one.
    GoAwayAfterHead,
    GoAwayAfterPart,
}

impl Fault {
    pub const HTTP1: [Fault; 6] = [
        Fault::CloseAtAccept,
        Fault::CloseAfterHead,
        Fault::ResetAfterHead,
        Fault::CloseAfterPart,
        Fault::ResetAfterPart,
        Fault::HalfAnswer,
    ];
    pub const REFUSALS: [Fault; 4] =
        [Fault::RefuseAfterHead, Fault::RefuseAfterPart, Fault::GoAwayAfterHead, Fault::GoAwayAfterPart];

    pub fn is_refusal(self) -> bool {
        Fault::REFUSALS.contains(&self)
    }

    pub fn comes_after_part(self) -> bool {
        matches!(self, Fault::CloseAfterPart | Fault::ResetAfterPart | Fault::RefuseAfterPart | Fault::GoAwayAfterPart)
    }

    fn comes_after_head(self) -> bool {
        matches!(self, Fault::CloseAfterHead | Fault::ResetAfterHead | Fault::RefuseAfterHead | Fault::GoAwayAfterHead)
    }
}

/// What reached it since it was armed.
#[derive(Default)]
pub struct Seen {
    pub connections: usize,
    pub heads: usize,
    /// The bodies of the requests that came whole.
    pub whole: Vec<Vec<u8>>,
    /// The codes of the RST_STREAMs that came.
    pub resets: Vec<u32>,
    /// How many HTTP/1.1 connections were closed on which it was silent.
    pub closed: usize,
    /// How many requests are still to meet the fault, and after how much of their body.
    left: usize,
    part: usize,
}

pub struct Faulty {
    port: u16,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    accepting: Option<JoinHandle<()>>,
}

impl Faulty {
    pub fn start(http2: bool, fault: Fault) -> Faulty {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, stop, open) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (kept, stopped, all) = (seen.clone(), stop.clone(), open.clone());
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                all.lock().unwrap().push(stream.try_clone().unwrap());
                let seen = kept.clone();
                seen.lock().unwrap().connections += 1;
                std::thread::spawn(move || {
                    let mut peer = Peer { stream, read: Vec::new(), fault, seen };
                    if fault == Fault::CloseAtAccept && peer.meets_fault() {
                        return peer.close();
                    }
                    let _ = if http2 { peer.http2() } else { peer.http1() };
                    peer.close();
                });
            }
        });
        Faulty { port, seen, stop, open, accepting: Some(accepting) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next so many requests meet the fault, if it is one in a body after so many bytes.
    pub fn arm(&self, times: usize, part: usize) {
        *self.seen.lock().unwrap() = Seen { left: times, part, ..Seen::default() };
    }

    pub fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

struct Peer {
    stream: TcpStream,
    read: Vec<u8>,
    fault: Fault,
    seen: Arc<Mutex<Seen>>,
}

/// A stream that is not answered yet.
struct Stream {
    number: u32,
    body: Vec<u8>,
    faulty: bool,
    over: bool,
}

impl Peer {
    /// Whether this request is one that meets the fault.
    fn meets_fault(&self) -> bool {
        let mut seen = self.seen.lock().unwrap();
        let meets = seen.left > 0;
        seen.left = seen.left.saturating_sub(1);
        meets
    }

    fn part(&self) -> usize {
        self.seen.lock().unwrap().part
    }

    fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn reset(&self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn fill(&mut self) -> Option<()> {
        let mut buffer = [0; 64 * 1024];
        let count = self.stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        self.read.extend_from_slice(&buffer[..count]);
        Some(())
    }

    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.read.len() < count {
            self.fill()?;
        }
        let rest = self.read.split_off(count);
        Some(std::mem::replace(&mut self.read, rest))
    }

    fn http1(&mut self) -> Option<()> {
        loop {
            let end = loop {
                match find(&self.read, b"\r\n\r\n") {
                    Some(end) => break end + 4,
                    None => self.fill()?,
                }
            };
            let head = String::from_utf8(self.take(end)?).unwrap().to_ascii_lowercase();
            self.seen.lock().unwrap().heads += 1;
            let faulty = self.fault != Fault::CloseAtAccept && self.meets_fault();
            if faulty && self.fault == Fault::Stall {
                // Until the test is over.
                while socket2::SockRef::from(&self.stream).peer_addr().is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
                return None;
            }
            if faulty && self.fault.comes_after_head() {
                return self.die();
            }
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(|text| text.parse().unwrap());
            let chunked = head.contains("transfer-encoding: chunked");
            let part = self.part();
            let mut body = Vec::new();
            loop {
                // Chunk by chunk, or whatever there is of a length.
                let size = if chunked {
                    let end = loop {
                        match find(&self.read, b"\r\n") {
                            Some(end) => break end,
                            None => self.fill()?,
                        }
                    };
                    let line = self.take(end + 2)?;
                    usize::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16).unwrap()
                } else {
                    let left = length.unwrap_or(0) - body.len();
                    if left > 0 && self.read.is_empty() {
                        self.fill()?;
                    }
                    left.min(self.read.len())
                };
                body.extend(self.take(size)?);
                if chunked {
                    self.take(2)?;
                }
                if faulty && self.fault.comes_after_part() && body.len() >= part {
                    return self.die();
                }
                if size == 0 || !chunked && body.len() == length.unwrap_or(0) {
                    break;
                }
            }
            let said = body.len().to_string();
            self.seen.lock().unwrap().whole.push(body);
            if faulty && self.fault == Fault::Silent {
                while self.fill().is_some() {}
                self.seen.lock().unwrap().closed += 1;
                return None;
            }
            if faulty && self.fault == Fault::HalfAnswer {
                self.stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").ok()?;
                return None;
            }
            self.stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len()).as_bytes()).ok()?;
        }
    }

    fn die(&self) -> Option<()> {
        if matches!(self.fault, Fault::ResetAfterHead | Fault::ResetAfterPart) {
            self.reset();
        }
        None
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Option<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        self.stream.write_all(&frame).ok()
    }

    fn http2(&mut self) -> Option<()> {
        assert_eq!(self.take(24)?, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        self.send(SETTINGS, 0, 0, b"")?;
        let mut streams: Vec<Stream> = Vec::new();
        loop {
            let head = self.take(9)?;
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, flags, number) = (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
            let payload = self.take(length)?;
            match kind {
                RST_STREAM => self.seen.lock().unwrap().resets.push(u32::from_be_bytes(payload.try_into().ok()?)),
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, b"")?,
                PING if flags & ACK == 0 => self.send(PING, ACK, 0, &payload)?,
                HEADERS if !streams.iter().any(|stream| stream.number == number) => {
                    self.seen.lock().unwrap().heads += 1;
                    let faulty = self.fault != Fault::CloseAtAccept && self.meets_fault();
                    let mut stream = Stream { number, body: Vec::new(), faulty, over: false };
                    if faulty && self.fault.comes_after_head() {
                        self.refuse_or_die(&mut stream)?;
                    }
                    if flags & END_STREAM != 0 && !stream.over {
                        self.answer(&mut stream)?;
                    }
                    streams.push(stream);
                }
                DATA => {
                    if length > 0 {
                        // What is not taken of one stream must not stop the others.
                        self.send(WINDOW_UPDATE, 0, 0, &u32::try_from(length).unwrap().to_be_bytes())?;
                    }
                    let Some(stream) = streams.iter_mut().find(|stream| stream.number == number && !stream.over) else {
                        continue;
                    };
                    stream.body.extend_from_slice(&payload);
                    if stream.faulty && self.fault.comes_after_part() && stream.body.len() >= self.part() {
                        self.refuse_or_die(stream)?;
                        continue;
                    }
                    if flags & END_STREAM != 0 {
                        self.answer(stream)?;
                    } else if length > 0 && !(stream.faulty && self.fault == Fault::Stall) {
                        self.send(WINDOW_UPDATE, 0, number, &u32::try_from(length).unwrap().to_be_bytes())?;
                    }
                }
                _ => {}
            }
        }
    }

    fn refuse_or_die(&mut self, stream: &mut Stream) -> Option<()> {
        stream.over = true;
        match self.fault {
            Fault::RefuseAfterHead | Fault::RefuseAfterPart => self.send(RST_STREAM, 0, stream.number, &7u32.to_be_bytes()),
            Fault::GoAwayAfterHead | Fault::GoAwayAfterPart => {
                let last = stream.number.saturating_sub(2).to_be_bytes();
                self.send(GOAWAY, 0, 0, &[last, [0; 4]].concat())
            }
            _ => self.die(),
        }
    }

    fn answer(&mut self, stream: &mut Stream) -> Option<()> {
        stream.over = true;
        let body = std::mem::take(&mut stream.body);
        let said = body.len().to_string();
        self.seen.lock().unwrap().whole.push(body);
        if stream.faulty && self.fault == Fault::Silent {
            return Some(());
        }
        // `:status: 200` is the eighth entry of the static table (RFC 7541, appendix A).
        self.send(HEADERS, END_HEADERS, stream.number, &[0x88])?;
        if stream.faulty && self.fault == Fault::HalfAnswer {
            self.send(DATA, 0, stream.number, b"abc")?;
            return None;
        }
        self.send(DATA, END_STREAM, stream.number, said.as_bytes())
    }
}
