//! A backend that writes down every byte of what reaches it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use super::client::find;

/// What reached a backend.
#[derive(Debug, Clone)]
pub struct RecordedRequest {
    /// The head as it came, with the empty line.
    pub head: Vec<u8>,
    pub method: String,
    pub target: String,
    pub version: String,
    /// In the order and the spelling in which they came.
    pub headers: Vec<(String, String)>,
    /// Without the transfer coding.
    pub body: Vec<u8>,
    /// Whether all of the body came.
    pub complete: bool,
    /// Which of the backend's connections it came on, counted from 0.
    pub connection: usize,
}

impl RecordedRequest {
    /// The first field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// Every field of this name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| &**value).collect()
    }

    pub fn head_text(&self) -> String {
        String::from_utf8_lossy(&self.head).into_owned()
    }
}

/// A TCP server on a thread, with one more thread for each connection.
pub struct Backend {
    address: SocketAddr,
    seen: Arc<Seen>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    connections: AtomicUsize,
    requests: Mutex<Vec<RecordedRequest>>,
    open: Mutex<Vec<TcpStream>>,
}

impl Backend {
    /// Answers 200 with a JSON echo: `method`, `target`, `headers` (an object with names in lower case; several fields of a name
    /// joined by `, `) and `body` (as text). Keeps connections alive.
    pub fn http() -> Backend {
        Backend::answering(echo)
    }

    /// Like [`Backend::http`], with `name` in the echo.
    pub fn named(name: &str) -> Backend {
        let name = name.to_owned();
        Backend::answering(move |request| {
            let mut body = described(request);
            body["name"] = json!(name);
            json_answer(request, &body)
        })
    }

    /// Answers each request with the bytes that the function makes. Closes if they say `Connection: close`.
    pub fn answering(answer: impl Fn(&RecordedRequest) -> Vec<u8> + Send + Sync + 'static) -> Backend {
        Backend::answering_on(listener(0), answer)
    }

    /// Like [`Backend::http`], on a port that is known beforehand.
    pub fn http_on(port: u16) -> Backend {
        Backend::answering_on(listener(port), echo)
    }

    /// The same behind a listener of the test's own.
    pub fn answering_on(listener: TcpListener, answer: impl Fn(&RecordedRequest) -> Vec<u8> + Send + Sync + 'static) -> Backend {
        Backend::serve(listener, move |stream, number, seen| {
            let mut reader = Reader { stream, read: Vec::new() };
            while let Some(request) = reader.request(number) {
                let complete = request.complete;
                seen.requests.lock().unwrap().push(request.clone());
                let bytes = if complete { answer(&request) } else { Vec::new() };
                let head = &bytes[..find(&bytes, b"\r\n\r\n").unwrap_or(bytes.len())];
                let close = String::from_utf8_lossy(head).to_ascii_lowercase().contains("\r\nconnection: close");
                if reader.stream.write_all(&bytes).is_err() || !complete || close {
                    break;
                }
            }
            let _ = reader.stream.shutdown(Shutdown::Both);
        })
    }

    /// Runs the function on each connection, on a thread of its own. The connection closes when it returns.
    pub fn scripted(script: impl Fn(TcpStream) + Send + Sync + 'static) -> Backend {
        Backend::serve(listener(0), move |stream, _, _| script(stream))
    }

    fn serve(listener: TcpListener, connection: impl Fn(TcpStream, usize, &Seen) + Send + Sync + 'static) -> Backend {
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let (shared, connection) = (seen.clone(), Arc::new(connection));
        let accepting = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                let _ = stream.set_nodelay(true);
                let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
                if let Ok(copy) = stream.try_clone() {
                    shared.open.lock().unwrap().push(copy);
                }
                let (shared, connection) = (shared.clone(), connection.clone());
                std::thread::spawn(move || {
                    let closing = stream.try_clone();
                    connection(stream, number, &shared);
                    if let Ok(stream) = closing {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                });
            }
        });
        Backend { address, seen, accepting: Some(accepting) }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Every request so far, whole or not, in the order of their ends.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// The latest request.
    #[track_caller]
    pub fn last(&self) -> RecordedRequest {
        self.requests().pop().expect("a request reached the backend")
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then drops the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for stream in self.seen.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn listener(port: u16) -> TcpListener {
    TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|error| panic!("cannot listen on {port}: {error}"))
}

fn described(request: &RecordedRequest) -> serde_json::Value {
    let mut headers = serde_json::Map::new();
    for (name, value) in &request.headers {
        let name = name.to_ascii_lowercase();
        let joined = match headers.get(&name).and_then(|known| known.as_str()) {
            Some(known) => format!("{known}, {value}"),
            None => value.clone(),
        };
        headers.insert(name, json!(joined));
    }
    json!({
        "method": request.method,
        "target": request.target,
        "headers": headers,
        "body": String::from_utf8_lossy(&request.body),
    })
}

fn echo(request: &RecordedRequest) -> Vec<u8> {
    json_answer(request, &described(request))
}

fn json_answer(request: &RecordedRequest, body: &serde_json::Value) -> Vec<u8> {
    let body = body.to_string();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    if request.method == "HEAD" { head.into_bytes() } else { (head + &body).into_bytes() }
}

struct Reader {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Reader {
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(count) if count > 0 => {
                self.read.extend_from_slice(&buffer[..count]);
                true
            }
            _ => false,
        }
    }

    fn take(&mut self, enough: impl Fn(&[u8]) -> Option<usize>) -> Option<Vec<u8>> {
        loop {
            if let Some(count) = enough(&self.read) {
                let rest = self.read.split_off(count);
                return Some(std::mem::replace(&mut self.read, rest));
            }
            if !self.fill() {
                return None;
            }
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        self.take(|read| find(read, b"\r\n").map(|end| end + 2))
    }

    fn request(&mut self, connection: usize) -> Option<RecordedRequest> {
        let head = self.take(|read| find(read, b"\r\n\r\n").map(|end| end + 4))?;
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.trim_end().split("\r\n");
        let mut words = lines.next()?.splitn(3, ' ').map(str::to_owned);
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            (name.to_owned(), value.trim().to_owned())
        });
        let headers = headers.collect();
        let mut request =
            RecordedRequest { head, method, target, version, headers, body: Vec::new(), complete: false, connection };
        if request.header("expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue")) {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
        }
        request.complete = self.body(&mut request).is_some();
        Some(request)
    }

    fn body(&mut self, request: &mut RecordedRequest) -> Option<()> {
        if request.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            loop {
                let line = String::from_utf8_lossy(&self.line()?).trim().to_owned();
                let size = usize::from_str_radix(line.split(';').next()?, 16).ok()?;
                if size == 0 {
                    while self.line()? != b"\r\n" {}
                    return Some(());
                }
                let chunk = self.take(|read| (read.len() >= size + 2).then_some(size + 2))?;
                request.body.extend_from_slice(&chunk[..size]);
            }
        }
        let length = request.header("content-length").map_or(Some(0), |length| length.parse::<usize>().ok())?;
        match self.take(|read| (read.len() >= length).then_some(length)) {
            Some(body) => request.body = body,
            None => {
                request.body = std::mem::take(&mut self.read);
                return None;
            }
        }
        Some(())
    }
}
