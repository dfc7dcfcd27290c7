//! What makes two requests the same for the cache: the primary key, and the variance that a backend's `Vary` asks for.

use std::borrow::Cow;
use std::hash::Hash;
use std::sync::LazyLock;

use http::header::{self, HeaderName};
use pingora_cache::key::HashBinary;
use pingora_cache::{CacheKey, VarianceBuilder};

use super::changed::Place;
use super::credentials;
use super::policy::{CachePolicy, Extra, QueryKey};
use crate::authority;
use crate::carrier;
use crate::exchange::{Exchange, origin_of};
use crate::grpc::connect;
use crate::head::{HeaderEdit, RequestHead};

/// Keyed anew by every process, so that nobody can choose keys that share a hash. Whoever finds something by it compares the whole key.
static HASHERS: LazyLock<[ahash::RandomState; 2]> = LazyLock::new(Default::default);

/// The same for every process of this program: what it makes is part of keys that are written to disk. Nobody but the operator has a part in
/// what goes in.
static MARKS: LazyLock<ahash::RandomState> = LazyLock::new(|| ahash::RandomState::with_seeds(1, 2, 3, 4));

pub(super) fn hash(bytes: &[u8]) -> HashBinary {
    let [one, two] = &*HASHERS;
    ((u128::from(one.hash_one(bytes)) << 64) | u128::from(two.hash_one(bytes))).to_le_bytes()
}

pub(super) fn halves(hash: HashBinary) -> (u64, u64) {
    let number = u128::from_le_bytes(hash);
    ((number >> 64) as u64, number as u64)
}

/// A number for a target: the same for as long as the process lives.
pub(super) fn number(target: &[u8]) -> u64 {
    let [one, _] = &*HASHERS;
    one.hash_one(target)
}

/// Where an answer may be besides memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beside {
    pub(super) disk: bool,
    pub(super) redis: bool,
}

impl Beside {
    /// As Pingora's form of a key says it. The storage is told nothing else of a request's policy.
    fn tag(self) -> &'static str {
        match (self.disk, self.redis) {
            (true, true) => "",
            (true, false) => "disk",
            (false, true) => "redis",
            (false, false) => "memory",
        }
    }

    /// What such a tag says. `None` of another one.
    pub(super) fn of(tag: &str) -> Option<Self> {
        let all = [(true, true), (true, false), (false, true), (false, false)].map(|(disk, redis)| Beside { disk, redis });
        all.into_iter().find(|beside| beside.tag() == tag)
    }
}

/// A primary key.
#[derive(Debug, Clone)]
pub struct Key {
    pub(super) primary: Vec<u8>,
    pub(super) hash: HashBinary,
    /// Where the target ends that it begins with.
    end: u32,
}

impl Key {
    fn new(primary: Vec<u8>, end: usize) -> Self {
        Key { hash: hash(&primary), primary, end: u32::try_from(end).unwrap_or(u32::MAX) }
    }

    /// Where it is noted that its target was changed.
    pub(super) fn place(&self) -> Place {
        Place::of(self.primary.get(..self.end as usize).unwrap_or(&self.primary))
    }

    /// Two numbers that have nothing to do with each other.
    pub(super) fn halves(&self) -> (u64, u64) {
        halves(self.hash)
    }

    /// As Pingora's state machine has it, for a request on a route with this policy.
    pub fn to_pingora(&self, policy: &CachePolicy) -> CacheKey {
        let beside = Beside { disk: policy.on_disk, redis: policy.in_redis };
        let mut key = CacheKey::new(&*self.primary, beside.tag());
        // Storage, lock and predictor all ask for this hash; without the override each of them would compute one.
        key.set_primary_bin_override(self.hash);
        key
    }
}

/// The key of a request on a route. The bytes are those that were matched and that go to the backend.
///
/// All that the backend is told of where the client went is part of the key: the scheme, because a backend that answers plain HTTP with a
/// redirect to HTTPS would otherwise redirect the HTTPS clients to themselves; the host and the port, behind a trusted proxy those that it
/// names, because backends put them into absolute links, and any client may write any port into `Host`. The method is not: HEAD is
/// answered from what GET stored. Of methods that ask by their body, both are. `seen` are the values of a field as the backend sees them.
/// `route` is under which name the route's answers are kept, and `service` whose they are: a canary's are not the other share's, and a
/// reload may give the route to another service.
pub fn key<'v, V>(
    head: &RequestHead,
    exchange: &Exchange,
    seen: impl Fn(&HeaderName) -> V,
    (route, service): (&str, &str),
    policy: &CachePolicy,
) -> Key
where
    V: IntoIterator<Item = &'v [u8]>,
{
    let origin = exchange.told.as_ref().map_or(&[][..], |told| &told.origin);
    let mut bytes = Framed(Vec::with_capacity(128 + route.len() + origin.len() + 2 * head.host.len() + head.path.len()));
    // First, so that it can be told from the rest: `target_of`.
    bytes.target(&head.host, &head.path, head.query_bytes().filter(|_| policy.query == QueryKey::All));
    let end = bytes.0.len();
    bytes.put(route.as_bytes());
    bytes.put(exchange.scheme().as_bytes());
    bytes.put(origin);
    // Host and port; the host is there already.
    let authority = head.authority();
    bytes.put(authority.strip_prefix(head.host.as_bytes()).unwrap_or(authority));
    bytes.put(exchange.upstream_host.as_deref().unwrap_or_default().as_bytes());
    bytes.put(service.as_bytes());
    for name in &policy.key_headers {
        bytes.put(name.as_str().as_bytes());
        for value in seen(name) {
            bytes.flag(true);
            bytes.put(value);
        }
        bytes.flag(false);
    }
    if policy.query != QueryKey::All {
        // Also where none counts: what was asked for with one is no answer without, once the route says that it does.
        bytes.mark(&policy.query);
    }
    if policy.query != QueryKey::All && (policy.query != QueryKey::None || is_call(head)) {
        for pair in parameters(head, &policy.query) {
            bytes.flag(true);
            bytes.put(pair.as_bytes());
        }
        bytes.flag(false);
    }
    if let Some(extra) = &policy.extra {
        bytes.extra(extra, head, exchange);
    }
    if let Some(digest) = &exchange.body_digest {
        // What it asks for is in its body, and in how that is to be read.
        bytes.put(head.method.as_str().as_bytes());
        bytes.put(&digest[..]);
        bytes.put(exchange.made_of_body.as_deref().unwrap_or_default().as_bytes());
        for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE] {
            for value in seen(&name) {
                bytes.flag(true);
                bytes.put(value);
            }
            bytes.flag(false);
        }
        // By this alone a call of Connect's is told from a request with the same body: its answers have another form. What policies do to the
        // field does not count, for it is looked for in what the client has sent.
        bytes.flag(head.header(connect::VERSION).is_some());
    }
    // What goes to the backend as it came may be told apart there: `/a//b` and `/a/b`, `%2f` and `%2F`.
    if let Some(sent) = head.spelling.as_ref().map(|spelling| spelling.sent(false)).filter(|sent| **sent != *head.path) {
        bytes.put(sent.as_bytes());
    }
    Key::new(bytes.0, end)
}

/// What of a request's query is part of its key: as it is written, or parameters in the order of their names.
pub fn query<'h>(head: &'h RequestHead, policy: &CachePolicy) -> Option<Cow<'h, str>> {
    let kept: Vec<&str> = match &policy.query {
        QueryKey::All => return head.query().map(Cow::Borrowed),
        QueryKey::None if !is_call(head) => return None,
        some => parameters(head, some).collect(),
    };
    (!kept.is_empty()).then(|| Cow::Owned(kept.join("&")))
}

/// Whether it is a call of Connect's that stands in its query: its parameters are what is asked for, whatever a route says of queries.
fn is_call(head: &RequestHead) -> bool {
    connect::is_got(&head.method, head.query_bytes())
}

/// Some of the query's parameters, by their names. Those of one name stay in their order, and each is taken as it is written.
fn parameters<'h>(head: &'h RequestHead, wanted: &QueryKey) -> impl Iterator<Item = &'h str> + use<'h> {
    let pairs = head.query().into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty());
    let name = |pair: &str| carrier::decode(pair.split_once('=').map_or(pair, |(name, _)| name)).into_owned();
    let is_call = is_call(head);
    // Where a semicolon separates as well, another parameter stands behind it.
    let counts = |name: &[u8], pair: &str| wanted.has(name) || pair.contains(';') || is_call && connect::is_parameter(name);
    let mut pairs: Vec<_> = pairs.map(|pair| (name(pair), pair)).filter(|(name, pair)| counts(name, pair)).collect();
    pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
    pairs.into_iter().map(|(_, pair)| pair)
}

/// What is asked for, as keys begin with it.
pub(super) fn target(host: &str, path: &str, query: Option<&str>) -> Vec<u8> {
    let mut bytes = Framed(Vec::with_capacity(64 + host.len() + path.len()));
    bytes.target(host, path, query.map(str::as_bytes));
    bytes.0
}

/// What a key says of where its answer is stored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    /// All before the route's name.
    pub(super) target: &'a [u8],
    pub(super) host: &'a [u8],
    pub(super) path: &'a [u8],
    pub(super) query: Option<&'a [u8]>,
    pub(super) route: &'a [u8],
    pub(super) scheme: &'a [u8],
    /// All behind what says where the client went, and whom the service is asked as.
    pub(super) rest: &'a [u8],
}

/// The part that begins there, and where the next one does.
fn part(primary: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let length = primary.get(at..)?.first_chunk().map(|length| u32::from_le_bytes(*length))?;
    let from = at.checked_add(LENGTH)?;
    let end = from.checked_add(usize::try_from(length).ok()?)?;
    Some((primary.get(from..end)?, end))
}

/// Reads a key's beginning.
pub(super) fn read(primary: &[u8]) -> Parts<'_> {
    let all = || {
        let (host, end) = part(primary, 0)?;
        let (path, flag) = part(primary, end)?;
        let (query, end) = part(primary, flag.checked_add(1)?)?;
        let (route, behind) = part(primary, end)?;
        let (scheme, end_of_scheme) = part(primary, behind).unwrap_or((&b""[..], behind));
        // The origin, the port and the service's host.
        let rest = (0..3).try_fold(end_of_scheme, |at, _| Some(part(primary, at)?.1)).and_then(|at| primary.get(at..));
        let rest = rest.unwrap_or_default();
        let query = (primary.get(flag) == Some(&1)).then_some(query);
        Some(Parts { target: primary.get(..end)?, host, path, query, route, scheme, rest })
    };
    all().unwrap_or_else(|| Parts { target: primary, ..Parts::default() })
}

/// The same key, asked for by this scheme, and by nobody's word but the client's own.
pub(super) fn of_scheme(primary: &[u8], scheme: &str) -> Option<Vec<u8>> {
    let Parts { target, route, host, .. } = read(primary);
    let at = target.len() + LENGTH + route.len();
    let (_, origin) = part(primary, at)?;
    let (_, rest) = part(primary, origin)?;
    let (port, _) = part(primary, rest)?;
    let authority = [host, port].concat();
    let authority = authority::without_default_port(&authority, scheme);
    let port = authority::port(authority).unwrap_or(authority::default_port(scheme).as_bytes());
    let mut bytes = Framed(primary.get(..at)?.to_vec());
    bytes.put(scheme.as_bytes());
    bytes.put(&origin_of(scheme, authority, authority::number(port)?));
    bytes.0.extend_from_slice(primary.get(rest..)?);
    Some(bytes.0)
}

/// The target that a key begins with, for those who want nothing else of it.
pub(super) fn target_of(primary: &[u8]) -> &[u8] {
    let end = || {
        let (_, end) = part(primary, 0)?;
        let (_, flag) = part(primary, end)?;
        Some(part(primary, flag.checked_add(1)?)?.1)
    };
    end().and_then(|end| primary.get(..end)).unwrap_or(primary)
}

/// The variance of a stored answer for a request: a hash over what the request has in the fields that the answer's `Vary` names.
/// `None` if the answer does not vary, or only by what is part of the key anyway.
///
/// `vary` are the members of `Vary`, `seen` the values of a field as the backend sees them, for it is the backend that varies.
pub fn variance<'n, 'v, V>(
    policy: &CachePolicy,
    vary: impl Iterator<Item = &'n [u8]>,
    seen: impl Fn(&HeaderName) -> V,
) -> Option<HashBinary>
where
    V: IntoIterator<Item = &'v [u8]>,
{
    let mut variance = VarianceBuilder::new();
    for name in vary {
        let Ok(name) = HeaderName::from_bytes(name) else { continue };
        if policy.key_headers.contains(&name) {
            continue;
        }
        // An absent field must count too, or a request without it would be given whatever variant was stored first.
        let mut value = Framed(Vec::new());
        for line in seen(&name) {
            value.flag(true);
            value.put(line);
        }
        variance.add_owned_name_value(name.as_str().to_owned(), value.0);
    }
    variance.finalize()
}

/// Parts with their lengths, so that no two lists of parts have the same bytes.
struct Framed(Vec<u8>);

/// Of each part's length in bytes. No head is as long as four of them can say.
const LENGTH: usize = 4;

impl Framed {
    fn put(&mut self, part: &[u8]) {
        self.0.extend_from_slice(&(part.len() as u32).to_le_bytes());
        self.0.extend_from_slice(part);
    }

    fn flag(&mut self, flag: bool) {
        self.0.push(u8::from(flag));
    }

    /// The lists by which the rest is made: what was stored by others is not found by these.
    fn mark(&mut self, lists: &impl Hash) {
        self.put(&MARKS.hash_one(lists).to_le_bytes());
    }

    fn extra(&mut self, extra: &Extra, head: &RequestHead, exchange: &Exchange) {
        self.mark(&(&extra.accept_encoding, &extra.accept_language, &extra.key_cookies, &extra.drop_cookies));
        for (_, cookie) in carrier::cookies_of(head).filter(|(name, _)| extra.key_cookies.have(name)) {
            self.flag(true);
            self.put(cookie);
        }
        self.flag(false);
        let identity = exchange.identity.as_ref().filter(|_| extra.per_consumer);
        let consumer = identity.and_then(|identity| identity.consumer.as_deref());
        self.flag(consumer.is_some());
        if let Some(consumer) = consumer {
            self.put(consumer.as_bytes());
            self.shown(head, exchange);
        }
    }

    /// Whatever of somebody the service is told or shown: it may answer by it. What a policy has put in the place of a field, or taken
    /// out, is all that is seen of it.
    fn shown(&mut self, head: &RequestHead, exchange: &Exchange) {
        let told = exchange.told.iter().flat_map(|told| told.edits());
        let edits = || told.clone().chain(&exchange.to_upstream).filter(|edit| credentials::is_usual(edit.name()));
        for edit in edits() {
            let value = match edit {
                HeaderEdit::Set(_, value) | HeaderEdit::Add(_, value) => Some(value.as_bytes()),
                HeaderEdit::Remove(_) => None,
            };
            self.flag(true);
            self.put(edit.name().as_str().as_bytes());
            self.flag(value.is_some());
            self.put(value.unwrap_or_default());
        }
        self.flag(false);
        let replaced = |name: &[u8]| {
            edits().any(|edit| !matches!(edit, HeaderEdit::Add(..)) && edit.name().as_str().as_bytes().eq_ignore_ascii_case(name))
        };
        for (name, value) in head.headers().filter(|(name, _)| credentials::is_usual_name(name) && !replaced(name)) {
            self.flag(true);
            self.put(&name.to_ascii_lowercase());
            self.put(value);
        }
        self.flag(false);
    }

    fn target(&mut self, host: &str, path: &str, query: Option<&[u8]>) {
        self.put(host.as_bytes());
        self.put(path.as_bytes());
        // `/a` and `/a?` are not the same target.
        self.flag(query.is_some());
        self.put(query.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::control::list_of;
    use crate::cache::entry::Index;
    use crate::cache::tests::{policy, seen};
    use crate::exchange::ForwardedHeaders;
    use http::header;
    use pingora_cache::key::CacheHashKey;
    use std::sync::Arc;

    fn get(target: &str, headers: &[(&str, &str)]) -> RequestHead {
        RequestHead::build("GET", target, headers)
    }

    fn bytes(head: &RequestHead, policy: &CachePolicy) -> Vec<u8> {
        key(head, &Exchange::for_tests(), seen(head), ("r", "s"), policy).primary
    }

    #[test]
    fn a_key_begins_with_its_target() {
        let mut policy = policy();
        for (url, path, query) in [("/a?x=1", "/a", Some("x=1")), ("/a?", "/a", Some("")), ("/a", "/a", None)] {
            let bytes = bytes(&get(url, &[("host", "h")]), &policy);
            assert_eq!(target_of(&bytes), target("h", path, query), "{url}");
        }
        policy.query = QueryKey::None;
        assert_eq!(target_of(&bytes(&get("/a?x=1", &[("host", "h")]), &policy)), target("h", "/a", None));
        assert_eq!(target_of(b"short"), b"short");
        let bytes = bytes(&get("/a?x=1", &[("host", "h")]), &super::super::tests::policy());
        let Parts { host, path, query, route, .. } = read(&bytes);
        assert_eq!((host, path, query, route), (&b"h"[..], &b"/a"[..], Some(&b"x=1"[..]), &b"r"[..]));
    }

    #[test]
    fn the_same_request_has_the_same_key() {
        let policy = policy();
        let (a, b) = (get("/a?x=1", &[("Host", "h")]), get("/a?x=1", &[("host", "H"), ("accept", "x")]));
        assert_eq!(bytes(&a, &policy), bytes(&b, &policy));
        let head = RequestHead::build("HEAD", "/a?x=1", &[("Host", "h")]);
        assert_eq!(bytes(&a, &policy), bytes(&head, &policy));
        let key = |head| key(head, &Exchange::for_tests(), seen(head), ("r", "s"), &policy);
        assert_eq!(key(&a).hash, key(&b).hash);
        assert_eq!(
            (key(&a).to_pingora(&policy).primary_bin(), Index::primary(&key(&a)).hashed().primary_bin()),
            (key(&b).hash, key(&b).hash)
        );
    }

    #[test]
    fn whatever_tells_requests_apart_tells_keys_apart() {
        let mut policy = policy();
        policy.key_headers = Box::new([header::ACCEPT_LANGUAGE, header::HeaderName::from_static("x-b")]);
        let heads = [
            get("/a", &[("host", "h")]),
            get("/a?", &[("host", "h")]),
            get("/a?b", &[("host", "h")]),
            get("/ab", &[("host", "h")]),
            get("/b", &[("host", "ha")]),
            get("/a", &[("host", "h:8080")]),
            get("/a", &[("host", "h:80")]),
            get("/a", &[("host", "h"), ("accept-language", "")]),
            get("/a", &[("host", "h"), ("accept-language", "de")]),
            get("/a", &[("host", "h"), ("accept-language", "d"), ("accept-language", "e")]),
            get("/a", &[("host", "h"), ("x-b", "de")]),
            get("/a", &[("host", "[::1]")]),
            get("/a", &[("host", "[::2]")]),
        ];
        let mut keys: Vec<_> = heads.iter().map(|head| bytes(head, &policy)).collect();
        let mut exchange = Exchange::for_tests();
        keys.push(key(&heads[0], &exchange, seen(&heads[0]), ("s", "s"), &policy).primary);
        exchange.upstream_host = Some("inner".to_owned());
        keys.push(key(&heads[0], &exchange, seen(&heads[0]), ("r", "s"), &policy).primary);
        for (scheme, origin) in [("https", &b""[..]), ("http", b"a"), ("http", b"b")] {
            let told = ForwardedHeaders { scheme, origin: origin.to_vec(), ..ForwardedHeaders::new(Vec::new()) };
            let exchange = Exchange { told: Some(Arc::new(told)), ..Exchange::for_tests() };
            keys.push(key(&heads[0], &exchange, seen(&heads[0]), ("r", "s"), &policy).primary);
        }
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn a_query_can_be_left_out() {
        let mut policy = policy();
        policy.query = QueryKey::None;
        assert_eq!(bytes(&get("/a?x=1", &[]), &policy), bytes(&get("/a?x=2", &[]), &policy));
    }

    #[test]
    fn other_lists_make_other_keys() {
        let names = |name: &str| super::super::policy::Names::new([name.into()]);
        let extra = |extra: Extra| CachePolicy { extra: Some(Arc::new(extra)), ..policy() };
        let list = |word: &str| -> Option<Box<[Box<str>]>> { Some(Box::new([word.into()])) };
        let policies = [
            policy(),
            CachePolicy { query: QueryKey::Only(names("a")), ..policy() },
            CachePolicy { query: QueryKey::Only(names("b")), ..policy() },
            CachePolicy { query: QueryKey::Ignore(names("a")), ..policy() },
            extra(Extra::default()),
            extra(Extra { accept_encoding: list("br"), ..Extra::default() }),
            extra(Extra { accept_language: list("br"), ..Extra::default() }),
            extra(Extra { key_cookies: names("a"), ..Extra::default() }),
            extra(Extra { drop_cookies: names("a"), ..Extra::default() }),
        ];
        let mut keys: Vec<_> = policies.iter().map(|policy| bytes(&get("/a", &[("host", "h")]), policy)).collect();
        assert!(policies.iter().zip(&keys).all(|(policy, key)| bytes(&get("/a", &[("host", "h")]), policy) == *key));
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), policies.len());
    }

    #[test]
    fn variance_sees_absence_order_and_lines() {
        fn vary(policy: &CachePolicy, lines: &[&str], request: &[(&str, &'static str)]) -> Option<HashBinary> {
            variance(policy, lines.iter().flat_map(|line| list_of(line.as_bytes())), |name| {
                let same = |field: &&(&str, &'static str)| field.0 == name.as_str();
                request.iter().filter(same).map(|(_, value)| value.as_bytes()).collect::<Vec<_>>()
            })
        }
        let policy = policy();
        let de = [("accept-language", "de")];
        assert_eq!(vary(&policy, &[], &de), None);
        let absent = vary(&policy, &["Accept-Language"], &[]);
        assert!(absent.is_some());
        assert_ne!(absent, vary(&policy, &["Accept-Language"], &de));
        assert_ne!(absent, vary(&policy, &["Accept-Language"], &[("accept-language", "")]));
        let (one, two) = ([("accept-language", "d, e")], [("accept-language", "d"), ("accept-language", "e")]);
        assert_ne!(vary(&policy, &["Accept-Language"], &one), vary(&policy, &["Accept-Language"], &two));
        assert_eq!(vary(&policy, &["a, Accept-Language"], &de), vary(&policy, &["ACCEPT-LANGUAGE", "a"], &de));
        let mut keyed = policy.clone();
        keyed.key_headers = Box::new([header::ACCEPT_LANGUAGE]);
        assert_eq!(vary(&keyed, &["accept-language"], &de), None);
    }
}
