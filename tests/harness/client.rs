//! A small HTTP/1.1 client that sends exactly what it is told and believes nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::Gateway;

/// Longer than anything takes; a test that waits so long fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// `HTTP/1.1`, `HTTP/1.0`, `HTTP/2`.
    pub version: String,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// Without the transfer coding.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// Every field of this name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| &**value).collect()
    }

    /// What the cache says of it (RFC 9211); `-` if nothing.
    pub fn cache_status(&self) -> &str {
        self.header("cache-status").unwrap_or("-")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}, body {}", self.text()))
    }

    /// Fails unless this is the gateway's refusal: an RFC 9457 body that names who refused and why.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, policy: &str, reason: &str) {
        assert_eq!(self.status, status, "{self:?}, body {}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!((problem["policy"].as_str(), problem["reason"].as_str()), (Some(policy), Some(reason)), "{problem}");
        for field in ["title", "detail", "request_id"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "no {field}: {problem}");
        }
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"), "the body and the header name one request");
    }

    fn head(text: &str) -> Answer {
        let mut lines = text.split("\r\n");
        let status_line = lines.next().unwrap();
        let mut words = status_line.splitn(3, ' ');
        let version = words.next().unwrap().to_owned();
        let status = words.next().and_then(|word| word.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {status_line:?}"));
        let headers = lines.filter(|line| !line.is_empty()).map(|line| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no field: {line:?}"));
            (name.to_owned(), value.trim().to_owned())
        });
        Answer { version, status, headers: headers.collect(), body: Vec::new() }
    }

    /// Reads an answer that curl printed whole: interim heads first, the body decoded already.
    pub(super) fn printed(mut bytes: &[u8]) -> Option<Answer> {
        loop {
            let end = find(bytes, b"\r\n\r\n")?;
            let answer = Answer::head(&String::from_utf8_lossy(&bytes[..end]));
            bytes = &bytes[end + 4..];
            if answer.status >= 200 {
                return Some(Answer { body: bytes.to_vec(), ..answer });
            }
        }
    }
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    port: u16,
    read: Vec<u8>,
    /// The interim answers (1xx) that came before the last answer.
    pub interim: Vec<Answer>,
}

impl Client {
    #[track_caller]
    pub fn connect(port: u16) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap_or_else(|error| panic!("cannot connect to {port}: {error}"));
        Client::over(stream, port)
    }

    /// One whose socket holds next to nothing that it has not read.
    #[track_caller]
    pub fn narrow(port: u16) -> Client {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
        Client::over(socket.into(), port)
    }

    fn over(stream: TcpStream, port: u16) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, port, read: Vec::new(), interim: Vec::new() }
    }

    /// The socket, for whatever is not here.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends a request, with `Host` and (where there is a body, or the method has one) `Content-Length` unless the headers say so.
    #[track_caller]
    pub fn send_request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) {
        let given = |name: &str| headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let mut bytes = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
        if !given("host") {
            bytes.extend_from_slice(format!("Host: 127.0.0.1:{}\r\n", self.port).as_bytes());
        }
        for (name, value) in headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        let has_body = !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH");
        if has_body && !given("content-length") && !given("transfer-encoding") {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        // A gateway that refuses a large body early may close before all of it is written. Its answer counts, not the write.
        if let Err(error) = self.stream.write_all(&bytes) {
            assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "cannot send: {error}");
        }
    }

    /// The next answer, to a request of this method.
    #[track_caller]
    pub fn answer_to(&mut self, method: &str) -> Answer {
        match self.try_answer_to(method) {
            Ok(answer) => answer,
            Err(why) => panic!("no answer: {why}; read so far: {:?}", String::from_utf8_lossy(&self.read)),
        }
    }

    /// The next answer, or why there is none.
    pub fn try_answer_to(&mut self, method: &str) -> Result<Answer, String> {
        self.interim.clear();
        loop {
            let mut answer = self.read_head()?;
            if answer.status < 200 && answer.status != 101 {
                self.interim.push(answer);
                continue;
            }
            answer.body = self.read_body(method, &answer)?;
            return Ok(answer);
        }
    }

    #[track_caller]
    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.send_request(method, target, headers, body);
        self.answer_to(method)
    }

    #[track_caller]
    pub fn get(&mut self, target: &str) -> Answer {
        self.request("GET", target, &[], b"")
    }

    /// Whether the other side closes without another byte.
    pub fn is_closed(&mut self) -> bool {
        self.read.is_empty() && matches!(self.fill(), Ok(false))
    }

    /// The next so many bytes.
    #[track_caller]
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        self.need(|read| (read.len() >= count).then_some(count)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Bytes that came and were not consumed, and everything up to the close.
    pub fn rest(&mut self) -> Vec<u8> {
        while matches!(self.fill(), Ok(true)) {}
        std::mem::take(&mut self.read)
    }

    /// Goes away: the other side learns of it at once, whatever it has not read or sent yet.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Says that nothing else will be sent.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Reads more. `false` at the end.
    fn fill(&mut self) -> Result<bool, String> {
        let mut buffer = [0; 64 * 1024];
        loop {
            return match self.stream.read(&mut buffer) {
                Ok(0) => Ok(false),
                Ok(count) => {
                    self.read.extend_from_slice(&buffer[..count]);
                    Ok(true)
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(format!("cannot read: {error}")),
            };
        }
    }

    fn need(&mut self, enough: impl Fn(&[u8]) -> Option<usize>) -> Result<Vec<u8>, String> {
        loop {
            if let Some(count) = enough(&self.read) {
                let rest = self.read.split_off(count);
                return Ok(std::mem::replace(&mut self.read, rest));
            }
            if !self.fill()? {
                return Err(format!("closed after {} bytes", self.read.len()));
            }
        }
    }

    fn read_head(&mut self) -> Result<Answer, String> {
        let bytes = self.need(|read| find(read, b"\r\n\r\n").map(|end| end + 4))?;
        let text = String::from_utf8_lossy(&bytes[..bytes.len() - 4]);
        assert!(!text.contains('\0') && !text.replace("\r\n", "").contains(['\r', '\n']), "a malformed head: {text:?}");
        Ok(Answer::head(&text))
    }

    fn read_body(&mut self, method: &str, head: &Answer) -> Result<Vec<u8>, String> {
        if method == "HEAD" || matches!(head.status, 101 | 204 | 304) {
            return Ok(Vec::new());
        }
        if head.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            assert_eq!(head.header("content-length"), None, "both framings: {head:?}");
            return self.read_chunks();
        }
        if let Some(length) = head.header("content-length") {
            assert_eq!(head.all("content-length").len(), 1, "{head:?}");
            let length: usize = length.parse().map_err(|_| format!("no length: {length}"))?;
            return self.need(|read| (read.len() >= length).then_some(length));
        }
        while self.fill()? {}
        Ok(std::mem::take(&mut self.read))
    }

    fn read_chunks(&mut self) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        loop {
            let line = self.need(|read| find(read, b"\r\n").map(|end| end + 2))?;
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            let size = usize::from_str_radix(line.split(';').next().unwrap_or(""), 16).map_err(|_| format!("no size: {line}"))?;
            if size == 0 {
                // Trailer fields, up to the empty line.
                while self.need(|read| find(read, b"\r\n").map(|end| end + 2))? != b"\r\n" {}
                return Ok(body);
            }
            let chunk = self.need(|read| (read.len() >= size + 2).then_some(size + 2))?;
            body.extend_from_slice(&chunk[..size]);
        }
    }
}

/// A GET on a connection of its own.
#[track_caller]
pub fn get(port: u16, path: &str) -> Answer {
    request(port, "GET", path, &[], b"")
}

/// A request on a connection of its own.
#[track_caller]
pub fn request(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    Client::connect(port).request(method, path, headers, body)
}

/// How many of so many requests pass; the others are 429.
#[track_caller]
pub fn passes(gateway: &Gateway, path: &str, headers: &[(&str, &str)], count: usize) -> usize {
    let mut client = Client::connect(gateway.port());
    let mut passed = 0;
    for _ in 0..count {
        let answer = client.request("GET", path, headers, b"");
        assert!([200, 429].contains(&answer.status), "{answer:?}");
        passed += usize::from(answer.status == 200);
    }
    passed
}

/// Sends these bytes and gives back all that comes until the other side closes or says nothing for 2 seconds.
#[track_caller]
pub fn raw(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut client = Client::connect(port);
    client.stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    // What is refused may be closed before all is sent.
    let _ = client.stream.write_all(bytes);
    client.rest()
}
