//! The other ends that these tests need beyond the harness: a backend that is told what to answer and can go away and come back,
//! and wrk.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::harness::{Port, eventually};

/// A request as a backend saw it.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Which of the backend's connections it came on, and as which request on it; both count from 0.
    pub connection: u64,
    pub number: u64,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What a backend does about a request.
pub enum Act {
    /// Sends these bytes and waits for the next request.
    Send(Vec<u8>),
    /// Sends these bytes and closes the connection.
    Last(Vec<u8>),
}

/// `HTTP/1.1 STATUS`, the fields, a length and the body.
pub fn answer(status: u16, fields: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut text = format!("HTTP/1.1 {status} X\r\n");
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if status != 304 && status != 204 {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

type Behaviour = dyn Fn(&Asked) -> Act + Send + Sync;

/// A backend on a port that it keeps for itself even while it is down.
pub struct Origin {
    port: Port,
    behaviour: Arc<Behaviour>,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicU64>,
    up: Option<Up>,
}

struct Up {
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    thread: JoinHandle<()>,
}

impl Origin {
    pub fn start(behaviour: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Origin {
        let port = Port::lease();
        let mut origin =
            Origin { port, behaviour: Arc::new(behaviour), asked: Arc::default(), connections: Arc::default(), up: None };
        origin.back();
        origin
    }

    /// Answers 200 with its own name.
    pub fn named(name: &'static str) -> Origin {
        Origin::start(move |_| Act::Send(answer(200, &[], name)))
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Everything it was asked but health checks (`/health`).
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|asked| asked.target != "/health").cloned().collect()
    }

    /// How often it was asked for a target.
    pub fn count(&self, target: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.target == target).count()
    }

    /// Closes its listener and every connection.
    pub fn stop(&mut self) {
        let Some(up) = self.up.take() else { return };
        up.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop; if that fails it is awake already.
        let _ = TcpStream::connect(("127.0.0.1", self.port()));
        let _ = up.thread.join();
        for stream in up.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Comes back on its port.
    pub fn back(&mut self) {
        assert!(self.up.is_none());
        let port = self.port();
        let mut listener = None;
        eventually("the origin has its port again", || {
            listener = TcpListener::bind(("127.0.0.1", port)).ok();
            listener.is_some()
        });
        self.serve(listener.unwrap());
    }

    fn serve(&mut self, listener: TcpListener) {
        let (stop, open) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, kept) = (stop.clone(), open.clone());
        let (behaviour, asked, connections) = (self.behaviour.clone(), self.asked.clone(), self.connections.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                kept.lock().unwrap().push(stream.try_clone().unwrap());
                let number = connections.fetch_add(1, Ordering::SeqCst);
                let (behaviour, asked) = (behaviour.clone(), asked.clone());
                std::thread::spawn(move || converse(stream, number, &*behaviour, &asked));
            }
        });
        self.up = Some(Up { stop, open, thread });
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop();
    }
}

fn converse(stream: TcpStream, connection: u64, behaviour: &Behaviour, log: &Mutex<Vec<Asked>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for number in 0.. {
        let Some(mut asked) = read_request(&mut reader) else { return };
        (asked.connection, asked.number) = (connection, number);
        log.lock().unwrap().push(asked.clone());
        let (bytes, last) = match behaviour(&asked) {
            Act::Send(bytes) => (bytes, false),
            Act::Last(bytes) => (bytes, true),
        };
        if (&stream).write_all(&bytes).is_err() || last {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Asked> {
    let first = line(reader)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut asked = Asked { method, target, headers: fields(reader)?, ..Asked::default() };
    asked.body = if asked.header("transfer-encoding").is_some() {
        chunks(reader)?
    } else {
        exactly(reader, asked.header("content-length").map_or(Ok(0), str::parse).ok()?)?
    };
    Some(asked)
}

fn line(reader: &mut impl BufRead) -> Option<String> {
    let mut text = String::new();
    (reader.read_line(&mut text).ok()? > 0).then(|| text.trim_end().to_owned())
}

fn fields(reader: &mut impl BufRead) -> Option<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let text = line(reader)?;
        if text.is_empty() {
            return Some(fields);
        }
        let (name, value) = text.split_once(':')?;
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn exactly(reader: &mut impl BufRead, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn chunks(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(reader)?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            while !line(reader)?.is_empty() {}
            return Some(body);
        }
        body.extend(exactly(reader, size)?);
        line(reader)?;
    }
}

/// wrk while it runs; ended when dropped.
pub struct Wrk(Child);

/// What wrk saw.
#[derive(Debug)]
pub struct Load {
    pub requests: u64,
    /// The lines that tell of failures; empty if there were none.
    pub failures: Vec<String>,
}

impl Wrk {
    pub fn start(port: u16, path: &str, seconds: u64, connections: u32) -> Wrk {
        let child = Command::new("wrk")
            .args(["-t", "2", "-c", &connections.to_string(), "-d", &format!("{seconds}s"), "--timeout", "10s"])
            .arg(format!("http://127.0.0.1:{port}{path}"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("these tests need wrk (Debian's package `wrk`)");
        Wrk(child)
    }

    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Load {
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(self.0.wait().unwrap().success(), "wrk failed: {text}");
        let requests = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
        let failures = text.lines().filter(|line| line.contains("Socket errors") || line.contains("Non-2xx"));
        Load {
            requests: requests.unwrap_or_else(|| panic!("wrk said nothing of requests: {text}")),
            failures: failures.map(|line| line.trim().to_owned()).collect(),
        }
    }
}

impl Drop for Wrk {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
