//! The cases, made from a seed: the same seed gives the same cases.

use std::time::Duration;

use super::case::{Act, Case, Piece, Script, When};
use super::words::*;

/// Services that belong to one case at a time, so that what their kept connections do is no accident.
pub const SOLO: usize = 120;
/// The first half of them serve cases that keep their connections, the others those whose backends close them.
const HALF: usize = SOLO / 2;

/// SplitMix64: every case has dice of its own, so that one can be repeated without those before it.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64, case: usize) -> Dice {
        let mut dice = Dice(seed ^ (case as u64).wrapping_mul(0xd134_2543_de82_ef95));
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        (self.next() % sides as u64) as usize
    }

    /// True in so many of a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }

    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.roll(from.len())]
    }
}

pub fn case(seed: u64, number: usize) -> Case {
    let mut dice = Dice::new(seed, number);
    let maker = Maker { dice: &mut dice, number };
    match maker.dice.roll(100) {
        0..32 => maker.plain(),
        32..36 => maker.silence(),
        36..50 => maker.framing(),
        50..64 => maker.mutated(),
        64..86 => maker.odd_answer(),
        86..91 => maker.expectation(),
        91..95 => maker.abort(),
        95..98 => maker.early(),
        _ => maker.kept(),
    }
}

struct Maker<'a> {
    dice: &'a mut Dice,
    number: usize,
}

struct Request {
    bytes: Vec<u8>,
    is_head: bool,
}

impl Maker<'_> {
    fn done(self, kind: &'static str, acts: Vec<Act>, scripts: Vec<Script>) -> Case {
        Case { number: self.number, kind, acts, scripts, must: None }
    }

    /// The last request of most cases: its answer shows where the gateway takes the one before it to have ended.
    fn last(&self) -> Vec<u8> {
        format!("GET /s/{}/last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", self.number).into_bytes()
    }

    fn target(&mut self, prefix: &str) -> Vec<u8> {
        let mut target = format!("{prefix}/s/{}", self.number).into_bytes();
        for _ in 0..self.dice.roll(4) {
            target.push(b'/');
            let segment = if self.dice.chance(88) { self.dice.pick(SEGMENTS) } else { self.dice.pick(ODD_SEGMENTS) };
            target.extend_from_slice(segment);
        }
        if self.dice.chance(2) {
            target.push(b'/');
            let length = [200, 4000, 8100, 8300][self.dice.roll(4)];
            target.extend(std::iter::repeat_n(b'l', length));
        }
        if self.dice.chance(30) {
            target.push(b'?');
            target.extend_from_slice(self.dice.pick(QUERIES));
        }
        match self.dice.roll(60) {
            0 => [b"http://h", &target[..]].concat(),
            1 => [b"HTTP://h:80", &target[..]].concat(),
            2 => [b"https://other", &target[..]].concat(),
            3 => [b"//h", &target[..]].concat(),
            4 => [b"/..", &target[..]].concat(),
            5 => self.dice.pick(&["*", "h:80", "http://h", "", "ftp://h/s/", "http://u@h/s/", "http:///s/"]).into(),
            _ => target,
        }
    }

    fn prefix(&mut self) -> &'static str {
        self.dice.pick(&["", "", "", "/edit", "/edit", "/rewritten", "/small", "/json", "/key", "/get", "/nowhere"])
    }

    /// A request's head up to its fields of framing, with the client's fields.
    fn head(&mut self, method: &str, prefix: &str) -> Vec<u8> {
        let version = if self.dice.chance(92) { "HTTP/1.1" } else { self.dice.pick(VERSIONS) };
        let mut head = [method.as_bytes(), b" ", &self.target(prefix), b" ", version.as_bytes(), b"\r\n"].concat();
        let host: &[u8] = if self.dice.chance(93) { b"Host: h\r\n" } else { self.dice.pick(HOSTS) };
        let count = if self.dice.chance(3) { [60, 95, 98, 101, 130, 257][self.dice.roll(6)] } else { self.dice.roll(8) };
        let place = self.dice.roll(count + 1);
        for at in 0..=count {
            if at == place {
                head.extend_from_slice(host);
            } else {
                let field: &[u8] = match self.dice.chance(98) {
                    _ if count > 8 => b"X-Many: m",
                    true => self.dice.pick(FIELDS),
                    false => self.dice.pick(ODD_FIELDS),
                };
                head.extend_from_slice(field);
                head.extend_from_slice(b"\r\n");
            }
        }
        if self.dice.chance(2) {
            let length = [2000, 30_000, 33_000][self.dice.roll(3)];
            head.extend_from_slice(b"X-Long: ");
            head.extend(std::iter::repeat_n(b'v', length));
            head.extend_from_slice(b"\r\n");
        }
        head
    }

    fn content(&mut self) -> Vec<u8> {
        match self.dice.roll(10) {
            0 => b"{\"a\": [1, 2, {\"b\": null}]}".to_vec(),
            1 => format!("GET /s/{}/hidden HTTP/1.1\r\nHost: h\r\n\r\n", self.number).into_bytes(),
            2 => vec![b'b'; [1024, 1025, 16 * 1024, 70_000, 200_000][self.dice.roll(5)]],
            3 => b"\0\r\n\r\n\xff".to_vec(),
            length => vec![b'a'; length * 3],
        }
    }

    /// The end of a head, and a body that is framed as it should be.
    fn body(&mut self, out: &mut Vec<u8>) {
        let content = self.content();
        if self.dice.chance(60) {
            out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", content.len()).as_bytes());
            out.extend_from_slice(&content);
            return;
        }
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        let mut rest = &content[..];
        while !rest.is_empty() {
            let length = (1 + self.dice.roll(rest.len())).max(rest.len() / 8);
            let (piece, more) = rest.split_at(length);
            let extension = if self.dice.chance(15) { self.dice.pick(&[";x", ";x=y", ";x=\"y;z\"", " ;x", ";"]) } else { "" };
            let size = if self.dice.chance(50) { format!("{length:x}") } else { format!("0{length:X}") };
            out.extend_from_slice(format!("{size}{extension}\r\n").as_bytes());
            out.extend_from_slice(piece);
            out.extend_from_slice(b"\r\n");
            rest = more;
        }
        out.extend_from_slice(b"0\r\n");
        if self.dice.chance(20) {
            out.extend_from_slice(self.dice.pick(&[&b"X-T: 1\r\n"[..], b"Host: evil\r\nContent-Length: 5\r\n", b" folded\r\n"]));
        }
        out.extend_from_slice(b"\r\n");
    }

    fn request(&mut self, prefix: &str) -> Request {
        let method = if self.dice.chance(92) { self.dice.pick(METHODS) } else { self.dice.pick(ODD_METHODS) };
        let mut bytes = self.head(method, prefix);
        let bodiless = matches!(method, "GET" | "HEAD" | "DELETE" | "OPTIONS" | "TRACE");
        if self.dice.chance(if bodiless { 8 } else { 92 }) {
            self.body(&mut bytes);
        } else {
            if self.dice.chance(10) {
                bytes.extend_from_slice(b"Content-Length: 0\r\n");
            }
            bytes.extend_from_slice(b"\r\n");
        }
        Request { bytes, is_head: method == "HEAD" }
    }

    /// An honest answer.
    fn answer(&mut self, to_head: bool) -> Script {
        let status = self.dice.pick(&[
            "200 OK",
            "200 OK",
            "200 OK",
            "201 Created",
            "204 No Content",
            "304 Not Modified",
            "404 Nope",
            "503 ",
        ]);
        let mut bytes = format!("HTTP/1.1 {status}\r\n").into_bytes();
        for _ in 0..self.dice.roll(4) {
            bytes.extend_from_slice(self.dice.pick(ANSWER_FIELDS));
            bytes.extend_from_slice(b"\r\n");
        }
        let sizes: &[usize] = if self.dice.chance(10) { &[20_000, 150_000] } else { &[0, 1, 100] };
        let body = vec![b'r'; sizes[self.dice.roll(sizes.len())]];
        let bodiless = to_head || status.starts_with("204") || status.starts_with("304");
        if status.starts_with("204") {
            bytes.extend_from_slice(b"\r\n");
            return Script::whole(bytes);
        }
        match self.dice.roll(3) {
            0 if !bodiless => {
                bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for piece in body.chunks(1 + body.len() / 3) {
                    bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    bytes.extend_from_slice(piece);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
            _ => {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                if !bodiless {
                    bytes.extend_from_slice(&body);
                }
            }
        }
        Script::whole(bytes)
    }

    /// Requests as clients send them, odd ones among them; pipelined, or one after the other.
    fn plain(mut self) -> Case {
        let (mut acts, mut scripts, mut together) = (Vec::new(), Vec::new(), Vec::new());
        let pipelined = self.dice.chance(50);
        for at in 1..=1 + self.dice.roll(3) {
            let prefix = self.prefix();
            let request = self.request(prefix);
            scripts.push(self.answer(request.is_head));
            if pipelined {
                together.extend_from_slice(&request.bytes);
            } else {
                acts.extend(self.split(request.bytes));
                acts.push(Act::AwaitAnswers(at));
            }
        }
        together.extend_from_slice(&self.last());
        acts.push(Act::Send(together));
        let mut case = self.done("plain", acts, scripts);
        if case.scripts.len() > 1 && case.asks_head() {
            // Which of them reach the backend is the gateway's decision, and the answer to a HEAD has no body: all alike, then.
            case.scripts.clear();
        }
        case
    }

    /// The bytes in one piece, or in two.
    fn split(&mut self, mut bytes: Vec<u8>) -> Vec<Act> {
        if self.dice.chance(80) || bytes.len() < 2 {
            return vec![Act::Send(bytes)];
        }
        let rest = bytes.split_off(1 + self.dice.roll(bytes.len() - 1));
        vec![Act::Send(bytes), Act::Send(rest)]
    }

    /// Framing that two parsers could read in two ways.
    fn framing(mut self) -> Case {
        let bytes = self.ambiguous();
        let acts = vec![Act::Send([bytes, self.last()].concat())];
        self.done("framing", acts, Vec::new())
    }

    fn ambiguous(&mut self) -> Vec<u8> {
        let hidden = format!("GET /s/{}/hidden HTTP/1.1\r\nHost: h\r\nX: y\r\n\r\n", self.number);
        let size = hidden.len();
        let body = match self.dice.roll(7) {
            0 => hidden,
            1 => format!("0\r\n\r\n{hidden}"),
            2 => format!("{size:x}\r\n{hidden}\r\n0\r\n\r\n"),
            3 => format!("{size:x};x=y\r\n{hidden}\r\n0\r\nX: y\r\n\r\n{hidden}"),
            4 => format!("4\r\nabcd\r\n{hidden}\r\n0\r\n\r\n"),
            5 => format!("{:x}\r\n{hidden}", size + 9),
            _ => {
                let line = self.dice.pick(CHUNK_SIZES);
                format!("{line}abcd\r\n0\r\n\r\n{hidden}")
            }
        };
        let method = self.dice.pick(&["POST", "POST", "PUT", "GET", "OPTIONS", "DELETE"]);
        let prefix = self.prefix();
        let mut head = format!("{method} {prefix}/s/{}/f HTTP/1.{}\r\n", self.number, u8::from(!self.dice.chance(10)));
        let mut fields = vec!["Host: h".to_owned()];
        for _ in 0..1 + self.dice.roll(3) {
            let field = self.dice.pick(FRAMING).replace("LENGTH", &body.len().to_string());
            fields.insert(self.dice.roll(fields.len() + 1), field);
        }
        head += &fields.join("\r\n");
        head += "\r\n\r\n";
        [head, body].concat().into_bytes()
    }

    /// A request with some bytes wrong, mostly at the ends of lines and around colons.
    fn mutated(mut self) -> Case {
        let prefix = self.prefix();
        let mut bytes = match self.dice.chance(50) {
            true => self.request(prefix).bytes,
            false => self.ambiguous(),
        };
        for _ in 0..1 + self.dice.roll(3) {
            let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(bytes.len(), |end| end + 4);
            let ends: Vec<usize> = (0..head).filter(|&at| b"\r\n: ".contains(&bytes[at])).collect();
            let at =
                if self.dice.chance(70) && !ends.is_empty() { ends[self.dice.roll(ends.len())] } else { self.dice.roll(head) };
            let byte = BYTES[self.dice.roll(BYTES.len())];
            match self.dice.roll(4) {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, byte),
                2 => bytes[at] = byte,
                _ => bytes.insert(at, bytes[at]),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let acts = vec![Act::Send([bytes, self.last()].concat())];
        self.done("mutated", acts, Vec::new())
    }

    /// Requests like any other, and a backend that answers them in a way that it should not.
    fn odd_answer(mut self) -> Case {
        let prefix = format!("/solo{}", HALF + self.number % HALF);
        let method = self.dice.pick(&["GET", "GET", "GET", "POST", "HEAD", "PUT"]);
        let version = if self.dice.chance(85) { "HTTP/1.1" } else { "HTTP/1.0" };
        let stay = if version == "HTTP/1.0" && self.dice.chance(50) { "Connection: keep-alive\r\n" } else { "" };
        let body = if matches!(method, "POST" | "PUT") { "Content-Length: 3\r\n\r\nabc" } else { "\r\n" };
        let request = format!("{method} {prefix}/s/{}/odd {version}\r\nHost: h\r\n{stay}{body}", self.number);
        let mut bytes = self.odd_head();
        let content = self.odd_body(&mut bytes);
        if method != "HEAD" || self.dice.chance(10) {
            bytes.extend_from_slice(&content);
        }
        let endless = [&b"event-stream"[..], b"/grpc"].iter().any(|kind| bytes.windows(kind.len()).any(|window| window == *kind));
        let mut pieces = Vec::new();
        if self.dice.chance(25) {
            let rest = bytes.split_off(self.dice.roll(bytes.len()));
            pieces.push(Piece::Bytes(bytes));
            // Mostly a packet's end; now and then longer than the gateway waits.
            pieces.push(Piece::Pause(Duration::from_millis(if self.dice.chance(5) { 2500 } else { 15 })));
            bytes = rest;
        }
        if bytes.len() < 60_000 && self.dice.chance(5) {
            bytes.truncate(self.dice.roll(bytes.len().max(1)));
        }
        pieces.push(Piece::Bytes(bytes));
        // Otherwise the gateway would wait for what its backend never says: mostly as long as for an answer, for a stream much longer.
        if endless || self.dice.chance(96) {
            pieces.push(Piece::Pause(Duration::from_millis(15)));
            pieces.push(Piece::End);
        }
        let script = Script { when: When::Whole, pieces };
        let acts = vec![Act::Send(request.into_bytes()), Act::AwaitAnswers(1), Act::Send(self.last())];
        self.done("odd answer", acts, vec![script])
    }

    fn odd_head(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..if self.dice.chance(15) { 1 + self.dice.roll(3) } else { 0 } {
            bytes.extend_from_slice(self.dice.pick(INTERIMS));
        }
        let line = if self.dice.chance(70) { b"HTTP/1.1 200 OK\r\n" } else { self.dice.pick(STATUS_LINES) };
        bytes.extend_from_slice(line);
        let count = if self.dice.chance(2) { [100, 127, 128, 129, 255, 300][self.dice.roll(6)] } else { self.dice.roll(4) };
        for _ in 0..count {
            let field: &[u8] = match self.dice.chance(60) {
                _ if count > 4 => b"X-Many: m",
                true => self.dice.pick(ANSWER_FIELDS),
                false => self.dice.pick(ODD_ANSWER_FIELDS),
            };
            bytes.extend_from_slice(field);
            bytes.extend_from_slice(b"\r\n");
        }
        if self.dice.chance(2) {
            bytes.extend_from_slice(b"X-Long: ");
            bytes.extend(std::iter::repeat_n(b'v', [30_000, 60_000, 70_000, 200_000][self.dice.roll(4)]));
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    /// Ends the head, and gives the body.
    fn odd_body(&mut self, head: &mut Vec<u8>) -> Vec<u8> {
        let (fields, body): (&str, &str) = ODD_BODIES[self.dice.roll(ODD_BODIES.len())];
        head.extend_from_slice(fields.as_bytes());
        head.extend_from_slice(b"\r\n");
        body.as_bytes().to_vec()
    }

    /// A client that waits for `100 Continue`, or says so and does not.
    fn expectation(mut self) -> Case {
        let content = self.content();
        let prefix = self.prefix();
        let version = if self.dice.chance(90) { "1.1" } else { "1.0" };
        let framing = match self.dice.roll(3) {
            0 => "Transfer-Encoding: chunked".to_owned(),
            _ => format!("Content-Length: {}", content.len()),
        };
        let expects = self.dice.pick(&["Expect: 100-continue", "expect: 100-Continue", "Expect: 100-continue", "Expect: 200-ok"]);
        let head = format!("POST {prefix}/s/{}/expect HTTP/{version}\r\nHost: h\r\n{expects}\r\n{framing}\r\n\r\n", self.number);
        let body = match framing.starts_with('T') {
            true => [format!("{:x}\r\n", content.len()).as_bytes(), &content, b"\r\n0\r\n\r\n"].concat(),
            false => content,
        };
        let waits = self.dice.chance(70);
        let mut acts = vec![Act::Send(head.into_bytes())];
        if waits && version == "1.1" {
            acts.push(Act::AwaitAnswers(1));
        }
        acts.push(Act::Send(body));
        acts.push(Act::Send(self.last()));
        let scripts = match self.dice.roll(3) {
            0 => vec![Script::whole(&b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..])],
            _ => Vec::new(),
        };
        self.done("expectation", acts, scripts)
    }

    /// A client that goes away in the middle.
    fn abort(self) -> Case {
        let head = format!("POST /solo{}/s/{}/abort HTTP/1.1\r\nHost: h\r\n", self.number % HALF, self.number);
        let bytes = match self.dice.roll(3) {
            0 => format!("{head}Content-Length: 1000\r\n\r\n{}", "a".repeat(self.dice.roll(1000))),
            1 => format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n{}",
                self.dice.pick(&["", "5", "5\r\n", "5\r\nab", "5\r\nabcde", "5\r\nabcde\r\n0\r\n"])
            ),
            _ => {
                let whole = format!("{head}Content-Length: 3\r\n\r\nabc");
                whole[..self.dice.roll(whole.len())].to_owned()
            }
        };
        let reaches = bytes.contains("\r\n\r\n");
        let mut acts = vec![Act::Send(bytes.into_bytes())];
        if reaches {
            acts.push(Act::AwaitHeads(1));
        }
        acts.push(Act::Leave);
        self.done("abort", acts, Vec::new())
    }

    /// Somebody says nothing any more, and nobody else ends it: the gateway has to.
    fn silence(self) -> Case {
        let solo = if self.dice.chance(50) { self.number % HALF } else { HALF + self.number % HALF };
        let target = format!("/solo{solo}/s/{}/silence", self.number);
        match self.dice.roll(9) {
            0..4 => self.silent_client(&target),
            4..8 => self.silent_backend(&target),
            _ => self.stopped_reader(&target),
        }
    }

    fn silent_client(self, target: &str) -> Case {
        let head = format!("POST {target} HTTP/1.1\r\nHost: h\r\n");
        let some_chunks = ["", "5", "5\r\nab", "5\r\nabcde\r\n", "5\r\nabcde\r\n0\r\n"];
        let (bytes, must) = match self.dice.roll(6) {
            0 => (String::new(), None),
            1 => (head[..1 + self.dice.roll(head.len() - 1)].to_owned(), Some("HTTP/1.1 408")),
            2 => (format!("{head}Content-Length: 10\r\n\r\n{}", "a".repeat(self.dice.roll(10))), Some("HTTP/1.1 408")),
            3 => (format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", self.dice.pick(&some_chunks)), Some("HTTP/1.1 408")),
            4 => (format!("{head}Expect: 100-continue\r\nContent-Length: 10\r\n\r\n"), Some("HTTP/1.1 408")),
            // Between two requests.
            _ => (format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"), Some("HTTP/1.1 200")),
        };
        let acts = vec![Act::Send(bytes.into_bytes())];
        Case { must, ..self.done("silence", acts, Vec::new()) }
    }

    fn silent_backend(self, target: &str) -> Case {
        let request = match self.dice.roll(3) {
            0 => format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"),
            1 => format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"),
            _ => format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n{}", "a".repeat(200_000)),
        };
        let late = Some("HTTP/1.1 504");
        let (said, must) = match self.dice.roll(8) {
            0 | 1 => ("", late),
            2 => ("HTTP/1.1 2", late),
            3 => ("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", late),
            4 => ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", None),
            5 => ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabcde", None),
            6 => ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n5\r\nab", None),
            _ => ("HTTP/1.1 200 OK\r\n\r\nto the end", None),
        };
        let pieces = vec![Piece::Bytes(said.into()), Piece::Pause(Duration::from_millis(3500)), Piece::End];
        // It may not even read the body.
        let when = if self.dice.chance(30) { When::Early } else { When::Whole };
        let acts = vec![Act::Send(request.into_bytes())];
        Case { must, ..self.done("silence", acts, vec![Script { when, pieces }]) }
    }

    /// A client that does not take its answer for longer than the gateway waits for it.
    fn stopped_reader(self, target: &str) -> Case {
        const LONG: usize = 24 << 20;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n");
        let script = Script { when: When::Whole, pieces: vec![Piece::Bytes(head.into_bytes()), Piece::Filler(LONG)] };
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        let acts = vec![Act::Send(request.into_bytes()), Act::Stop(Duration::from_millis(3500))];
        Case { must: Some("HTTP/1.1 200"), ..self.done("silence", acts, vec![script]) }
    }

    /// A backend that answers before it has the body, and a client that sends the rest afterwards.
    fn early(self) -> Case {
        let hidden = format!("GET /s/{}/hidden HTTP/1.1\r\nHost: h\r\n\r\n", self.number);
        let body = match self.dice.roll(3) {
            0 => hidden.clone(),
            1 => hidden.repeat(800),
            _ => hidden.repeat(4000),
        };
        let prefix = format!("/solo{}", self.number % HALF);
        let head = format!("POST {prefix}/s/{}/early HTTP/1.1\r\nHost: h\r\n", self.number);
        let (head, body) = match self.dice.chance(50) {
            true => (format!("{head}Content-Length: {}\r\n\r\n", body.len()), body),
            false => (format!("{head}Transfer-Encoding: chunked\r\n\r\n"), format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())),
        };
        let next = format!("GET {prefix}/s/{}/next HTTP/1.1\r\nHost: h\r\n\r\n", self.number);
        let answer = self.dice.pick(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nearl",
            "HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nearl\r\n0\r\n\r\n",
        ]);
        let when = if self.dice.chance(50) { When::Early } else { When::Deaf };
        let mut script = Script::whole(answer).when(when);
        if self.dice.chance(20) {
            script = script.then_end();
        }
        let acts = vec![
            Act::Send(head.into_bytes()),
            Act::AwaitAnswers(1),
            Act::Send([body, next].concat().into_bytes()),
            Act::AwaitAnswers(2),
            Act::Send(self.last()),
        ];
        self.done("early", acts, vec![script])
    }

    /// A backend that closes a kept connection instead of answering: asked again only if that does no harm.
    fn kept(self) -> Case {
        let prefix = format!("/solo{}/s/{}", self.number % HALF, self.number);
        let first = format!("GET {prefix}/first HTTP/1.1\r\nHost: h\r\n\r\n");
        let method = self.dice.pick(&["GET", "HEAD", "POST", "PUT", "DELETE"]);
        let body = match self.dice.roll(3) {
            0 => "Content-Length: 3\r\n\r\nabc".to_owned(),
            1 => format!("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n{:x}\r\n{}\r\n0\r\n\r\n", 3000, "d".repeat(3000)),
            _ => "\r\n".to_owned(),
        };
        let second = format!("{method} {prefix}/second HTTP/1.1\r\nHost: h\r\n{body}");
        let said: &[u8] = self.dice.pick(&[&b""[..], b"", b"HTTP/1.1 2", b"HTTP/1.1 100 Continue\r\n\r\n"]);
        let scripts = vec![
            Script::whole(&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"[..]),
            Script::whole(said).then_end(),
            Script::whole(&b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Again: 1\r\n\r\n"[..]),
        ];
        let acts = vec![
            Act::Send(first.into_bytes()),
            Act::AwaitAnswers(1),
            Act::Send(second.into_bytes()),
            Act::AwaitAnswers(2),
            Act::Send(self.last()),
        ];
        self.done("kept", acts, scripts)
    }
}
