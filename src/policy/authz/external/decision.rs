//! What the service said, and the memory of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::config::{Checked, Ignore};
use crate::exchange::Exchange;
use crate::head::RequestHead;

/// The most bytes of an answer's fields that are taken over. An answer with more is a failure.
const MAX_FIELDS: usize = 16 * 1024;

pub type Fields = Vec<(HeaderName, HeaderValue)>;

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    Allowed { upstream: Fields, client: Fields },
    Denied { status: StatusCode, headers: Fields },
}

impl Decision {
    /// What an answer's head says; `None` if it is a failure of the service's.
    pub fn read(status: StatusCode, answer: &HeaderMap, rules: &Checked) -> Option<Decision> {
        if status.is_success() {
            return Some(Decision::Allowed {
                upstream: chosen(answer, &rules.upstream_headers)?,
                client: chosen(answer, &rules.client_headers)?,
            });
        }
        let denies = rules.deny_statuses.contains(&status);
        denies.then(|| chosen(answer, &rules.deny_headers)).flatten().map(|headers| Decision::Denied { status, headers })
    }

    fn bytes(&self) -> usize {
        let size = |fields: &Fields| fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        match self {
            Decision::Allowed { upstream, client } => size(upstream) + size(client),
            Decision::Denied { headers, .. } => size(headers),
        }
    }
}

fn chosen(answer: &HeaderMap, names: &[HeaderName]) -> Option<Fields> {
    let fields: Fields =
        names.iter().flat_map(|name| answer.get_all(name).iter().map(|value| (name.clone(), value.clone()))).collect();
    (fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>() <= MAX_FIELDS).then_some(fields)
}

/// Whether an answer asks not to be remembered (RFC 9111, section 5.2.2.5).
pub fn forbids_storing(answer: &HeaderMap) -> bool {
    let lines = answer.get_all(header::CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|word| {
        let word = word.trim();
        word.eq_ignore_ascii_case("no-store") || word.eq_ignore_ascii_case("no-cache") || word.eq_ignore_ascii_case("max-age=0")
    })
}

/// 256 bits: two requests with one key would be one decision.
pub type Key = [u8; 32];

#[derive(Clone)]
struct Entry {
    until: Instant,
    decision: Arc<Decision>,
}

#[derive(Clone)]
struct BySize;

const UNIT: usize = 1024;

impl Weighter<Key, Entry> for BySize {
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        entry.decision.bytes().div_ceil(UNIT).max(1) as u64
    }
}

/// Decisions, for as long as they hold. When it is full, those that are asked for least go first.
pub struct Memory {
    ttl: Duration,
    ignore: Vec<Ignore>,
    entries: Cache<Key, Entry, BySize>,
}

impl Memory {
    pub fn new(ttl: Duration, max_entries: usize, ignore: Vec<Ignore>) -> Self {
        Memory { ttl, ignore, entries: Cache::with_weighter(max_entries, max_entries as u64, BySize) }
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Decision>> {
        let entry = self.entries.get(key)?;
        if entry.until <= Instant::now() {
            self.entries.remove(key);
            return None;
        }
        Some(entry.decision)
    }

    pub fn put(&self, key: Key, decision: Arc<Decision>) {
        self.entries.insert(key, Entry { until: Instant::now() + self.ttl, decision });
    }

    /// Everything that the service sees of a request, but for what is to be ignored, and for what differs with every request.
    pub fn key(&self, head: &RequestHead, exchange: &Exchange, headers: &[HeaderName]) -> Key {
        let mut print = blake3::Hasher::new();
        let mut feed = |part: &[u8]| {
            print.update(&(part.len() as u64).to_le_bytes());
            print.update(part);
        };
        let sees = |what| !self.ignore.contains(&what);
        feed(if sees(Ignore::Method) { head.method.as_str().as_bytes() } else { b"" });
        feed(if sees(Ignore::Path) { head.path.as_bytes() } else { b"" });
        let query = head.query().filter(|_| sees(Ignore::Path) && sees(Ignore::Query));
        feed(&[u8::from(query.is_some())]);
        feed(query.unwrap_or_default().as_bytes());
        feed(if sees(Ignore::Host) { head.authority() } else { b"" });
        feed(exchange.scheme().as_bytes());
        feed(&[u8::from(exchange.trusted_identity)]);
        match exchange.client.to_canonical() {
            _ if !sees(Ignore::Client) => feed(b""),
            std::net::IpAddr::V4(address) => feed(&address.octets()),
            std::net::IpAddr::V6(address) => feed(&address.octets()),
        }
        feed(&[u8::from(exchange.identity.is_some())]);
        if let Some(identity) = &exchange.identity {
            feed(&(identity.scopes.len() as u64).to_le_bytes());
            feed(identity.method.as_bytes());
            feed(identity.consumer.as_deref().unwrap_or_default().as_bytes());
            feed(identity.credential.as_bytes());
            feed(identity.subject.as_bytes());
            identity.scopes.iter().for_each(|scope| feed(scope.as_bytes()));
        }
        for name in headers {
            for value in head.header_all(name.as_str()) {
                feed(name.as_str().as_bytes());
                feed(value);
            }
            feed(b"");
        }
        *print.finalize().as_bytes()
    }
}
