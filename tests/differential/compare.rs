//! What both gateways did, side by side: everything that may differ taken out, everything else held against each other.

use super::backend::{Body, Seen};
use super::case::{Case, Piece, When, shortened};
use super::client::{End, Heard};
use crate::harness::find;

const BROKEN_OFF: &str = " BROKEN OFF";
const HALF_A_BODY: &str = "  BrokeOff ";

/// What one gateway did, as text: equal texts are the same behaviour.
#[derive(PartialEq)]
pub struct Behaviour {
    pub client: Vec<String>,
    pub backend: Vec<String>,
    pub hung: bool,
}

impl Behaviour {
    pub fn of(case: &Case, port: u16, heard: &Heard, seen: &[Seen]) -> Behaviour {
        let mut client: Vec<String> = heard
            .answers
            .iter()
            .map(|answer| {
                let (head, id) = head(&answer.head, port, true);
                let content = replaced(&answer.content, &id, b"ID");
                let whole = if answer.is_whole { "" } else { BROKEN_OFF };
                // A client that left heard what it happened to hear, and so did one that stopped reading.
                let some = heard.end == End::Left || case.kind == "silence" && !answer.is_whole;
                let content = if some { String::new() } else { shortened(&content) };
                format!("{head}  {content}{whole}")
            })
            .collect();
        if !heard.rest.is_empty() {
            client.push(format!("and {}", shortened(&heard.rest)));
        }
        if heard.end != End::Left {
            client.push("closed".to_owned());
        }
        let early = case.scripts.iter().any(|script| script.when != When::Whole);
        let backend = seen.iter().map(|seen| {
            // How much of a body came before it broke off, or was of no use any more, is an accident.
            let content = if early || seen.body == Body::BrokeOff { String::new() } else { shortened(&seen.content) };
            let body = if early { String::new() } else { format!("{:?}", seen.body) };
            format!("{}  {body} {content}", head(&seen.head, port, false).0)
        });
        Behaviour { client, backend: backend.collect(), hung: heard.end == End::Hung }
    }

    /// Whether the first final answer begins so.
    pub fn answers(&self, begin: &str) -> bool {
        let interim = |answer: &&String| answer.starts_with("HTTP/1.1 1");
        self.client.iter().find(|answer| !interim(answer)).is_some_and(|answer| answer.starts_with(begin))
    }

    fn lines(&self) -> Vec<String> {
        let label = |from: &'static str, all: &[String]| -> Vec<String> {
            let numbered = all.iter().enumerate();
            numbered
                .flat_map(|(at, one)| one.lines().map(move |line| format!("{from} {}: {line}", at + 1)).collect::<Vec<_>>())
                .collect()
        };
        [label("answer", &self.client), label("request", &self.backend)].concat()
    }

    /// What there is here and not there, then what there is there and not here.
    pub fn difference(&self, other: &Behaviour) -> String {
        let (mine, theirs) = (self.lines(), other.lines());
        let only = |these: &[String], those: &[String]| -> String {
            these.iter().filter(|line| !those.contains(line)).map(|line| format!("    {line}\n")).collect()
        };
        format!("  the first alone:\n{}  the second alone:\n{}", only(&mine, &theirs), only(&theirs, &mine))
    }

    pub fn show(&self) -> String {
        self.lines().into_iter().map(|line| format!("    {line}\n")).collect()
    }
}

/// A head with its fields in order of their names (those of one name keep theirs: it means something), and its request's id. Names
/// mean the same in lower and upper case, but backends were known to take it seriously.
fn head(bytes: &[u8], port: u16, is_answer: bool) -> (String, Vec<u8>) {
    let mut lines =
        bytes[..bytes.len().saturating_sub(4)].split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().unwrap_or_default().escape_ascii().to_string();
    let mut id = Vec::new();
    let mut fields: Vec<(String, String)> = lines
        .map(|line| {
            let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
            let (mut name, value) = (line[..colon].escape_ascii().to_string(), line.get(colon + 2..).unwrap_or_default());
            if is_answer {
                name.make_ascii_lowercase();
            }
            let value = match name.to_ascii_lowercase().as_str() {
                // Made by the gateway, unless they are known to be the client's or the backend's.
                "x-request-id" if !value.starts_with(b"of-the-") => {
                    id = value.to_vec();
                    "ID".to_owned()
                }
                "date" if !value.starts_with(b"Sun, 06 Nov 1994") && value != b"nonsense" => "NOW".to_owned(),
                "traceparent" => trace(value),
                _ => replaced(value, port.to_string().as_bytes(), b"PORT").escape_ascii().to_string(),
            };
            (name, value)
        })
        .collect();
    // What the cache says of itself where there is one.
    fields.retain(|(name, value)| name != "cache-status" || !value.starts_with("portcullis"));
    fields.sort_by_key(|(name, _)| name.to_ascii_lowercase());
    let named = String::from_utf8_lossy(&id);
    let fields = fields.iter().map(|(name, value)| match named.is_empty() {
        true => format!("\n  {name}: {value}"),
        false => format!("\n  {name}: {}", value.replace(&*named, "ID")),
    });
    let fields: String = fields.collect();
    (format!("{first}{fields}\n"), id)
}

/// A trace that a client began keeps its id; every span has one of its own.
fn trace(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let parts: Vec<&str> = text.split('-').collect();
    match parts[..] {
        [version, trace, span, flags] if trace.len() == 32 && span.len() == 16 => {
            let known = if trace == "0af7651916cd43dd8448eb211c80319c" { trace } else { "TRACE" };
            format!("{version}-{known}-SPAN-{flags}")
        }
        _ => format!("odd: {text}"),
    }
}

fn replaced(bytes: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    if what.is_empty() {
        return bytes.to_vec();
    }
    let (mut out, mut rest) = (Vec::new(), bytes);
    while let Some(at) = find(rest, what) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(with);
        rest = &rest[at + what.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// A field that asks for a part, or for nothing where nothing has changed.
fn is_for_less(line: &str) -> bool {
    let line = line.trim_start().to_ascii_lowercase();
    ["if-none-match:", "if-modified-since:", "if-range:", "range:"].iter().any(|name| line.starts_with(name))
}

/// Trailers that are none, and a size with whitespace behind it. Both end the body at the same place.
const FORGIVEN: [&str; 3] = ["\n folded\r\n", "\nno colon\r\n", "4 \r\n"];

/// The bound of an answer's head, in bytes.
const LARGEST_HEAD: usize = 16 * 1024;

/// Why a difference is no fault. The only place for such reasons.
pub fn excused(case: &Case, lane: &Behaviour, proxy: &Behaviour) -> Option<&'static str> {
    if lane.hung || proxy.hung {
        return None;
    }
    let unbroken = |behaviour: &Behaviour| -> Vec<String> {
        behaviour.backend.iter().filter(|request| !request.contains(HALF_A_BODY)).cloned().collect()
    };
    if lane.client == proxy.client && unbroken(lane) == unbroken(proxy) {
        return Some("a request whose body is found to be malformed: whether its head was on the way by then is an accident");
    }
    let asked = |behaviour: &Behaviour| -> Vec<String> {
        let lines = |request: &String| request.lines().filter(|line| !is_for_less(line)).collect::<Vec<_>>().join("\n");
        behaviour.backend.iter().map(lines).collect()
    };
    if lane.client == proxy.client && asked(lane) == asked(proxy) {
        return Some("what fills the cache asks for the whole, whatever its client has already");
    }
    let is_continue = |answer: &&String| !answer.starts_with("HTTP/1.1 100");
    if case.kind == "expectation"
        && lane.backend == proxy.backend
        && lane.client.iter().filter(is_continue).eq(proxy.client.iter().filter(is_continue))
    {
        return Some("whether a body comes before the gateway is asked to wait for it is an accident, and then no 100 is needed");
    }
    if case.kind != "odd answer" {
        return None;
    }
    let same = |passes: fn(&String) -> bool| {
        lane.client.iter().filter(|one| passes(one)).eq(proxy.client.iter().filter(|one| passes(one)))
    };
    let pieces = case.scripts.iter().flat_map(|script| &script.pieces);
    let said: Vec<u8> = pieces
        .filter_map(|piece| if let Piece::Bytes(bytes) = piece { Some(&bytes[..]) } else { None })
        .flatten()
        .copied()
        .collect();
    if FORGIVEN.into_iter().any(|what| find(&said, what.as_bytes()).is_some()) {
        return Some(
            "a backend's chunks that are not framed as the RFC says: how much of one has been passed on by then is an accident",
        );
    }
    let refused = |answer: &String| answer.starts_with("HTTP/1.1 502");
    let alike = |(one, other): (&String, &String)| one == other || refused(one) && refused(other);
    let in_pairs = lane.client.len() == proxy.client.len() && lane.client.iter().zip(&proxy.client).all(alike);
    if in_pairs && find(&said, b"X-Long").is_some() {
        return Some("an answer's head that is too large and malformed: which of both is found first is an accident");
    }
    if said.len() > LARGEST_HEAD && find(&said, b"X-Long").is_some() {
        return Some(
            "a head that is too large on a kept connection: a reset behind it may come first, and then the request is repeated",
        );
    }
    if same(|answer| !answer.ends_with(BROKEN_OFF)) {
        return Some("an answer that breaks off: how much of it comes first, if anything, is an accident");
    }
    if same(|answer| !answer.starts_with("HTTP/1.1 1")) {
        return Some("interim answers right before a failure: whether they went out before it is an accident");
    }
    None
}
