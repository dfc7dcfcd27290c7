//! A backend that records raw bytes, a client that sends them, and one strict reader for each side.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::{self, Gateway};

/// No route serves it: whatever asks a backend for it was smuggled.
pub const MARK: &str = "/smuggled";
/// The silence after which an open connection counts as one that says no more.
pub const QUIET: Duration = Duration::from_millis(400);
/// How long anything that has to happen may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// A request as a backend saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body came whole.
    pub whole: bool,
}

impl Seen {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn names(&self) -> Vec<String> {
        self.fields.iter().map(|(name, _)| name.to_ascii_lowercase()).collect()
    }
}

/// Reads what one connection carried, request by request. `Err` at the first byte that two parsers could disagree about. The second
/// value is how many bytes the whole requests took.
pub fn strict(bytes: &[u8]) -> Result<(Vec<Seen>, usize), String> {
    let mut seen = Vec::new();
    let mut at = 0;
    while let Some(head) = find(&bytes[at..], b"\r\n\r\n") {
        let text = &bytes[at..at + head];
        let show = || text.escape_ascii().to_string();
        let text = String::from_utf8(text.iter().map(|&byte| if byte < 128 { byte } else { b'?' }).collect()).unwrap();
        let mut lines = text.split("\r\n");
        if text.replace("\r\n", "").contains(['\r', '\n', '\0']) {
            return Err(format!("a lone CR, LF or NUL in {}", show()));
        }
        let first: Vec<_> = lines.next().unwrap().split(' ').collect();
        let [method, target, "HTTP/1.1"] = first[..] else { return Err(format!("the request line of {}", show())) };
        if !method.bytes().all(is_token) || !(target.starts_with('/') || target == "*") {
            return Err(format!("the method or target of {}", show()));
        }
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| format!("a line without colon in {}", show()))?;
            if name.is_empty() || !name.bytes().all(is_token) || value.bytes().any(|byte| byte < 32 && byte != b'\t') {
                return Err(format!("the field {name:?} of {}", show()));
            }
            fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
        let all = |wanted: &str| -> Vec<&str> {
            fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.as_str()).collect()
        };
        if all("host").len() != 1 {
            return Err(format!("the hosts of {}", show()));
        }
        let (body, whole, taken) = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
            ([], []) => (Vec::new(), true, 0),
            ([], ["chunked"]) => unchunk(&bytes[at + head + 4..])?,
            ([length], []) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
                if length.len() > 1 && length.starts_with('0') {
                    return Err(format!("a length that could be octal in {}", show()));
                }
                let length: usize = length.parse().map_err(|_| format!("the length of {}", show()))?;
                let rest = &bytes[at + head + 4..];
                let there = length.min(rest.len());
                (rest[..there].to_vec(), there == length, there)
            }
            _ => return Err(format!("the framing of {}", show())),
        };
        at += head + 4 + taken;
        let (method, target) = (method.to_owned(), target.to_owned());
        seen.push(Seen { method, target, fields, body, whole });
        if !whole {
            return Ok((seen, at));
        }
    }
    Ok((seen, at))
}

fn unchunk(bytes: &[u8]) -> Result<(Vec<u8>, bool, usize), String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else { return Ok((body, false, bytes.len())) };
        let line = std::str::from_utf8(&bytes[at..at + end]).map_err(|_| "a chunk size that is no text".to_owned())?;
        if line.is_empty() || line.len() > 15 || !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("the chunk size {line:?}"));
        }
        let size = usize::from_str_radix(line, 16).unwrap();
        let start = at + end + 2;
        if bytes.len() < start + size + 2 {
            return Ok((body, false, bytes.len()));
        }
        if &bytes[start + size..start + size + 2] != b"\r\n" {
            return Err("a chunk (or trailer section) that does not end with CR LF".to_owned());
        }
        body.extend_from_slice(&bytes[start..start + size]);
        at = start + size + 2;
        if size == 0 {
            return Ok((body, true, at));
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

type Log = Arc<Mutex<Vec<Arc<Mutex<Vec<u8>>>>>>;

/// A keep-alive backend that answers every whole request with 200 and its target, and keeps every byte it was sent.
pub struct Recorder {
    port: u16,
    connections: Log,
}

impl Recorder {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Log::default();
        let log = connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let record = Arc::new(Mutex::new(Vec::new()));
                log.lock().unwrap().push(record.clone());
                std::thread::spawn(move || answer(stream, &record));
            }
        });
        Recorder { port, connections }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Every byte of every connection.
    pub fn raw(&self) -> Vec<Vec<u8>> {
        self.connections.lock().unwrap().iter().map(|record| record.lock().unwrap().clone()).collect()
    }

    pub fn is_untouched(&self) -> bool {
        self.raw().iter().all(Vec::is_empty)
    }

    /// The requests so far. `Err` if anything was ambiguous, or somebody asked for [`MARK`].
    pub fn seen(&self) -> Result<Vec<Seen>, String> {
        let mut all = Vec::new();
        for bytes in self.raw() {
            let (seen, taken) = strict(&bytes)?;
            let rest = &bytes[taken..];
            if !rest.is_empty() && !rest.first().is_some_and(u8::is_ascii_uppercase) {
                return Err(format!("stray bytes behind a request: {}", rest.escape_ascii()));
            }
            all.extend(seen);
        }
        match all.iter().find(|seen| seen.target.contains(MARK)) {
            Some(seen) => Err(format!("smuggled: {seen:?}")),
            None => Ok(all),
        }
    }
}

fn answer(mut stream: TcpStream, record: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 65536];
    let mut answered = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => record.lock().unwrap().extend_from_slice(&buffer[..count]),
        }
        let Ok((seen, _)) = strict(&record.lock().unwrap()) else { return };
        for seen in seen.iter().filter(|seen| seen.whole).skip(answered) {
            answered += 1;
            let body = if seen.method == "HEAD" { "" } else { &seen.target };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", seen.target.len());
            if stream.write_all(head.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// An answer as a client sees it.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub whole: bool,
}

impl Reply {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The reason in the problem body, empty if it has none.
    pub fn reason(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        match self.field("content-type") {
            Some("application/problem+json") if body["status"] == self.status => {
                body["reason"].as_str().unwrap_or_default().to_owned()
            }
            _ => String::new(),
        }
    }
}

/// What a connection said, and whether it was closed.
#[derive(Debug)]
pub struct Talk {
    pub bytes: Vec<u8>,
    pub closed: bool,
}

impl Talk {
    /// The answers, in order; none of them to a HEAD.
    pub fn replies(&self) -> Result<Vec<Reply>, String> {
        replies(&self.bytes, false)
    }

    pub fn show(&self) -> String {
        let end = self.bytes.len().min(1500);
        format!("closed: {}, {}", self.closed, self.bytes[..end].escape_ascii())
    }
}

pub fn replies(bytes: &[u8], to_head: bool) -> Result<Vec<Reply>, String> {
    let mut all = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let head = find(rest, b"\r\n\r\n").ok_or_else(|| format!("half an answer: {}", rest.escape_ascii()))?;
        let text = String::from_utf8_lossy(&rest[..head]).into_owned();
        if text.replace("\r\n", "").contains(['\r', '\n', '\0']) {
            return Err(format!("a lone CR, LF or NUL in {text:?}"));
        }
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap();
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse::<u16>().ok());
        let status = status.ok_or_else(|| format!("the status line {line:?}"))?;
        let mut fields = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| format!("the field line {line:?}"))?;
            if !name.bytes().all(is_token) {
                return Err(format!("the field line {line:?}"));
            }
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
        let all_of = |wanted: &str| -> Vec<String> {
            fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.clone()).collect()
        };
        let rest = &rest[head + 4..];
        let (body, whole, taken) = if to_head || status < 200 || status == 204 || status == 304 {
            (Vec::new(), true, 0)
        } else {
            match (&all_of("content-length")[..], &all_of("transfer-encoding")[..]) {
                ([length], []) => {
                    let length: usize = length.parse().map_err(|_| format!("the length {length:?}"))?;
                    let there = length.min(rest.len());
                    (rest[..there].to_vec(), there == length, there)
                }
                ([], [coding]) if coding == "chunked" => unchunk(rest)?,
                ([], []) => (rest.to_vec(), false, rest.len()),
                _ => return Err(format!("the framing of {text:?}")),
            }
        };
        at += head + 4 + taken;
        all.push(Reply { status, fields, body, whole });
    }
    Ok(all)
}

pub fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads until the connection closes, or is silent for so long.
pub fn listen(stream: &mut TcpStream, quiet: Duration) -> Talk {
    let mut bytes = Vec::new();
    let mut buffer = [0; 65536];
    stream.set_read_timeout(Some(quiet)).unwrap();
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Talk { bytes, closed: true },
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return Talk { bytes, closed: false };
            }
            Err(_) => return Talk { bytes, closed: true },
        }
    }
}

/// Sends bytes on a connection of their own, and reads until it closes or, after a first answer, is silent for so long.
pub fn talk(port: u16, bytes: &[u8], quiet: Duration) -> Talk {
    let mut stream = connect(port);
    // A gateway that has heard enough may close before everything is sent.
    let _ = stream.write_all(bytes);
    let mut first = [0];
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut talk = match stream.read(&mut first) {
        Ok(1) => listen(&mut stream, quiet),
        Ok(_) => return Talk { bytes: Vec::new(), closed: true },
        Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            return Talk { bytes: Vec::new(), closed: false };
        }
        Err(_) => return Talk { bytes: Vec::new(), closed: true },
    };
    talk.bytes.insert(0, first[0]);
    let _ = stream.shutdown(Shutdown::Both);
    talk
}

/// Sends bytes and hardly listens.
pub fn shout(port: u16, bytes: &[u8]) -> Talk {
    let mut stream = connect(port);
    let _ = stream.write_all(bytes);
    listen(&mut stream, Duration::from_millis(100))
}

/// Sends bytes and reads until `count` answers have come whole (or the connection closed, or nothing came for [`SOON`]).
pub fn ask(stream: &mut TcpStream, bytes: &[u8], count: usize) -> Talk {
    let _ = stream.write_all(bytes);
    let until = Instant::now() + SOON;
    let mut talk = Talk { bytes: Vec::new(), closed: false };
    while Instant::now() < until && !talk.closed {
        let more = listen(stream, Duration::from_millis(20));
        talk.bytes.extend(more.bytes);
        talk.closed = more.closed;
        if replies(&talk.bytes, false)
            .is_ok_and(|all| all.iter().filter(|reply| reply.whole && reply.status >= 200).count() >= count)
        {
            break;
        }
    }
    talk
}

/// The same for an answer to HEAD, which has no body.
pub fn ask_head(stream: &mut TcpStream, bytes: &[u8]) -> Talk {
    let _ = stream.write_all(bytes);
    let until = Instant::now() + SOON;
    let mut talk = Talk { bytes: Vec::new(), closed: false };
    while Instant::now() < until && !talk.closed && find(&talk.bytes, b"\r\n\r\n").is_none() {
        let more = listen(stream, Duration::from_millis(50));
        talk.bytes.extend(more.bytes);
        talk.closed = more.closed;
    }
    talk
}

/// Checks every case, eight at a time, and reports all that failed.
pub fn each<T: Sync>(cases: &[T], check: impl Fn(&T) -> Result<(), String> + Sync) {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = check(case) {
                        failures.lock().unwrap().push(why);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {} failed:\n\n{}", failures.len(), cases.len(), failures.join("\n\n"));
}

/// After an attack: the process still serves, never panicked, and its access log is one JSON object a line.
pub fn still_well(gateway: &Gateway) {
    let (status, _) = gateway.admin_get("/healthz");
    assert_eq!(status, 200);
    assert!(!gateway.stderr().contains("panicked"), "{}", gateway.stderr());
    let log = std::fs::read(gateway.dir().join("access.log")).unwrap_or_default();
    for line in log.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        assert!(serde_json::from_slice::<serde_json::Value>(line).is_ok(), "{}", line.escape_ascii());
        assert!(line.iter().all(|&byte| byte >= 32 && byte != 127), "{}", line.escape_ascii());
    }
}

/// A gateway that serves `/ok/*` from the backend, and more behind other paths.
pub fn gateway(backend: u16) -> Gateway {
    harness::Gateway::start(&YAML.replace("BACKEND", &backend.to_string()))
}

const YAML: &str = "
listeners:
  - bind: 127.0.0.1:$PORT
    h2c: true
    timeouts: { header: 3s, body: 3s, keep_alive: 5s }
services:
  backend: { endpoints: [ '127.0.0.1:BACKEND' ], timeouts: { connect: 2s, response: 3s } }
server: { workers: 2 }
consumers:
  - { name: known, api_keys: [ { hash: 'sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08' } ] }
routes:
  - { path: /ok/*, service: backend }
  - { path: /get/*, methods: [GET], service: backend }
  - { path: /small/*, service: backend, policies: { bounds: { max_body: 1KiB } } }
  - { path: /json/*, service: backend, policies: { validate: { content_types: [application/json], json: true } } }
  - { path: /key/*, service: backend, policies: { authn: { api_key: {} } } }
  - { path: /short/*, service: backend, timeout: 1s }
";
