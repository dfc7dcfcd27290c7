//! What is in the cache, for operators: what is stored of a URL and why a request would or would not get it, and what takes the room.
//!
//! It walks over all that is stored, off the event loops and one shard after the other: for a look now and then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{self, HeaderName};
use pingora_cache::key::HashBinary;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::entry::{Entry, Index};
use super::fetch::{Why, Worth};
use super::hit::{self, Hit};
use super::key::{self, Parts};
use super::rules::{self, Bypass, Use, Wishes};
use super::{Cache, CachePolicy, Credentials, Outcome, Purge, accept, setback};
use crate::exchange::Exchange;
use crate::head::{HeaderEdit, HeaderEdits, RequestHead};

/// Of one URL.
const MOST_STORED: usize = 200;

const UNSTORABLE: &str = "nothing that fits is fresh, and the last answer could not be stored: each asks for itself";

/// The request that is thought of.
pub struct Asking<'a> {
    pub head: &'a RequestHead,
    /// The route that it would take.
    pub route: Option<&'a str>,
    /// The services of which one would answer it.
    pub services: &'a [&'a str],
    pub policy: Option<&'a CachePolicy>,
    pub credentials: &'a Credentials,
    /// Whoever the route lets pass has proved who he is, or is taken for somebody.
    pub identified: bool,
    /// Fields with credentials that the route judges itself.
    pub own: &'a [HeaderName],
    /// One that nobody is known of.
    pub exchange: &'a Exchange,
}

impl Cache {
    /// What is stored of a URL, on every route, and what such a request would get. What policies make of a request for each client, and a
    /// proved identity, are not known here.
    pub fn explain(&self, url: &Purge, asking: &Asking<'_>) -> Value {
        let Purge::Target { host, path, query } = url else { return Value::Null };
        // As it is stored, and as it is stored where the query is no part of the key, or only some of it.
        let targets = [key::target(host, path, query.as_deref()), key::target(host, path, None)];
        let (mut stored, mut fitting) = (Vec::new(), Vec::new());
        let mut edits = HeaderEdits::new();
        if let Some(extra) = asking.policy.and_then(|policy| policy.extra.as_deref()) {
            accept::ask(extra, asking.head, &mut edits);
        }
        let of_url = |entry: &Entry| targets.iter().any(|target| target == key::read(&entry.primary).target);
        // At a port that is not said: only what stands beside it tells of what could not be stored.
        let mut predicted = false;
        for entry in self.storage.all().filter(|entry| of_url(entry)).take(MOST_STORED) {
            let mut told = self.describe(&entry);
            let variance = asking.variance(&entry, &edits);
            let fits = variance == Some(entry.meta.variance);
            predicted |= variance.is_some_and(|variance| self.is_predicted(&self.place_of(&entry, variance)));
            if let Some(told) = told.as_object_mut() {
                told.insert("fits".to_owned(), fits.into());
            }
            if fits && asking.is_whole_in(&entry, &edits) {
                fitting.push(self.storage.as_found(entry));
            }
            stored.push(told);
        }
        let told = |entry: Entry, fitting: &mut Vec<Arc<Entry>>| {
            let mut told = self.describe(&entry);
            let fits = asking.fits(&entry, &edits);
            if let Some(told) = told.as_object_mut() {
                told.insert("fits".to_owned(), fits.into());
            }
            if fits {
                fitting.push(Arc::new(entry));
            }
            told
        };
        let on_disk = self.disk().map(|disk| {
            let entries = asking.keys(&edits).into_iter().flat_map(|key| disk.all_of(&key));
            entries.map(|entry| told(entry, &mut fitting)).collect::<Vec<_>>()
        });
        let in_redis = self.storage.redis.get().zip(Handle::try_current().ok()).and_then(|(redis, here)| {
            let answers = asking.keys(&edits).into_iter().map(|key| here.block_on(redis.all_of(&key)));
            let entries = answers.collect::<Option<Vec<_>>>()?;
            Some(entries.into_iter().flatten().map(|entry| told(entry, &mut fitting)).collect::<Vec<_>>())
        });
        // Nor is anything known of it at another port than its scheme's own, if nothing is stored.
        predicted |= asking.keys(&edits).iter().any(|key| self.is_predicted(&Index { primary: key::hash(key), variance: None }));
        let (verdict, why) = asking.verdict(&fitting, predicted);
        let url = url_of(host, path, query.as_deref());
        json!({
            "url": url, "route": asking.route, "would": verdict, "why": why, "stored": stored, "on_disk": on_disk, "in_redis": in_redis,
        })
    }

    /// The largest entries, without their queries, which may hold what is nobody's business; and what each route has stored.
    pub fn top(&self, limit: usize) -> Value {
        let mut routes: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut largest: BTreeMap<(usize, u64), Arc<Entry>> = BTreeMap::new();
        for entry in self.storage.all() {
            let route = String::from_utf8_lossy(key::read(&entry.primary).route).into_owned();
            let (entries, bytes) = routes.entry(route).or_default();
            *entries += 1;
            *bytes += entry.weight as u64;
            largest.insert((entry.weight, entry.number), entry);
            if largest.len() > limit {
                largest.pop_first();
            }
        }
        let entries: Vec<Value> = largest.values().rev().map(|entry| self.describe(entry)).collect();
        let routes: Vec<Value> = routes
            .into_iter()
            .map(|(route, (entries, bytes))| json!({ "route": route, "entries": entries, "bytes": bytes }))
            .collect();
        let stats = self.stats();
        let memory = stats.memory;
        let totals = json!({
            "entries": memory.entries, "bytes": memory.bytes, "stored": memory.stored, "evicted": memory.evicted,
            "rejected": memory.rejected,
        });
        let disk = stats.disk.map(|disk| {
            json!({
                "open": disk.is_open, "complete": disk.is_open && !disk.is_searching, "entries": disk.entries, "bytes": disk.bytes,
                "max_bytes": disk.max_bytes, "hits": disk.hits, "stored": disk.stored, "dropped": disk.dropped, "evicted": disk.evicted,
                "errors": disk.errors, "damaged": disk.damaged,
            })
        });
        json!({ "memory": totals, "disk": disk, "routes": routes, "largest": entries })
    }

    /// Where an answer of this variance belongs, beside this one or in its place.
    fn place_of(&self, entry: &Entry, variance: Option<HashBinary>) -> Index {
        let mut index = Index { primary: key::hash(&entry.primary), variance: None };
        if variance.is_some() {
            let first = self.storage.find(&index, &entry.primary, "");
            index.variance = variance.filter(|_| first.is_none_or(|first| first.meta.variance != variance));
        }
        index
    }

    /// Seconds that it is fresh for; fewer than 1 where it is not.
    fn left(&self, entry: &Entry, now: SystemTime) -> i64 {
        let until = entry.meta.fresh_until;
        let seconds = |duration: std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        match until.duration_since(now) {
            Ok(_) if self.storage.is_aged(entry) => 0,
            Ok(left) => seconds(left).max(i64::from(!left.is_zero())),
            Err(since) => -seconds(since.duration()),
        }
    }

    fn describe(&self, entry: &Entry) -> Value {
        let Parts { host, path, query, route, scheme, .. } = key::read(&entry.primary);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let meta = &entry.meta;
        let now = setback::now_for(meta.asked);
        json!({
            "host": text(host),
            "path": text(path),
            "query": query.is_some(),
            "route": text(route),
            "scheme": text(scheme),
            "status": meta.head.status.as_u16(),
            "age": now.duration_since(meta.epoch).unwrap_or_default().as_secs(),
            "ttl": self.left(entry, now),
            "stale_while_revalidate": meta.stale_while_revalidate,
            "stale_if_error": meta.stale_if_error,
            "body": entry.length(),
            "held": entry.pieces.as_ref().map_or(entry.body.len(), |pieces| pieces.held()),
            "bytes": entry.weight,
            "vary": meta.head.vary().map(text).collect::<Vec<_>>(),
            "tags": meta.tags.iter().flat_map(|tags| tags.iter()).collect::<Vec<_>>(),
        })
    }
}

impl Asking<'_> {
    /// Whether an entry is one for this request: it has its key, and varies as it does.
    fn fits(&self, entry: &Entry, edits: &HeaderEdits) -> bool {
        self.variance(entry, edits) == Some(entry.meta.variance)
    }

    /// How this request varies by what an entry varies by, if the entry has its key, whatever scheme and port it was asked for at.
    fn variance(&self, entry: &Entry, edits: &HeaderEdits) -> Option<Option<HashBinary>> {
        let (policy, route) = (self.policy?, self.route?);
        let seen = seen(self.head, edits);
        let variance = key::variance(policy, entry.meta.head.vary(), &seen);
        let is_its_key = |service: &&str| {
            let key = key::key(self.head, self.exchange, &seen, (route, *service), policy);
            let (asked, stored) = (key::read(&key.primary), key::read(&entry.primary));
            (asked.target, asked.route, asked.rest) == (stored.target, stored.route, stored.rest)
        };
        self.services.iter().any(is_its_key).then_some(variance)
    }

    /// Whether what it asks for, if that is a part, is among the parts that are stored.
    fn is_whole_in(&self, entry: &Arc<Entry>, edits: &HeaderEdits) -> bool {
        let asked = || hit::asked(&self.head.method, &[header::RANGE, header::IF_RANGE], seen(self.head, edits));
        entry.pieces.is_none()
            || Hit::fresh(entry, SystemTime::now()).is_some_and(|hit| asked().is_some_and(|asked| hit.has(&asked)))
    }

    /// The keys that it would have over either scheme, at its scheme's own port.
    fn keys(&self, edits: &HeaderEdits) -> Vec<Vec<u8>> {
        let (Some(policy), Some(route)) = (self.policy, self.route) else { return Vec::new() };
        let keys = self.services.iter().map(|service| {
            let key = key::key(self.head, self.exchange, seen(self.head, edits), (route, *service), policy);
            ["http", "https"].into_iter().filter_map(move |scheme| key::of_scheme(&key.primary, scheme))
        });
        keys.flatten().collect()
    }

    /// What it would get of those that fit it. `predicted`: if it were fetched, the answer could not be stored.
    fn verdict(&self, fitting: &[Arc<Entry>], predicted: bool) -> (&'static str, &'static str) {
        let Some(policy) = self.policy else {
            let why = if self.route.is_some() { "its route has no cache" } else { "it has no route" };
            return ("bypass", why);
        };
        let extra = policy.extra.as_deref();
        if policy.is_by_body(&self.head.method) {
            return ("depends", "its body is part of the key, and is not known here");
        }
        let form = rules::form(self.head, policy, false);
        let mut used = rules::request(form, self.head, self.identified, self.credentials, policy, |_| false);
        let mut wishes = Wishes::of(self.head, policy);
        match used {
            Use::Bypass(Bypass::Credentials) if extra.is_some_and(|extra| extra.shared_with_auth && !extra.per_consumer) => {
                used = rules::sharing(form, self.head, self.credentials, policy, self.own, |_| false);
                wishes.for_all = true;
            }
            _ => {}
        }
        match used {
            Use::Bypass(Bypass::Credentials) if extra.is_some_and(|extra| extra.per_consumer) => {
                return ("depends", "it is a consumer's who proves to be one, and each has entries of his own (`per: consumer`)");
            }
            Use::Bypass(why) => return ("bypass", why.reason()),
            Use::Full | Use::ReadOnly | Use::LookOnly => {}
        }
        if extra.is_some_and(|extra| extra.bypasses(self.head, self.exchange)) {
            return ("bypass", Bypass::Rule.reason());
        }
        let unkept = extra.is_some_and(|extra| extra.stores_nothing(self.head, self.exchange));
        if wishes.no_store {
            return ("bypass", Bypass::Asked.reason());
        }
        let none = match unkept {
            true => ("miss", "nothing that fits is stored, nor will be: `no_store`"),
            false if predicted => ("bypass", UNSTORABLE),
            false => ("miss", "nothing that fits is stored"),
        };
        let told = |worth: Worth| match worth {
            Worth::Given(hit) if matches!(hit.outcome(), Outcome::Stale { .. }) => {
                (4, "hit", "it has expired, and the client takes it so")
            }
            Worth::Given(_) => (4, "hit", "it is fresh"),
            Worth::Meanwhile(_) => (3, "stale", "it has expired, and is given while another one is fetched"),
            Worth::Nothing(Why::Asked) if wishes.reload => (2, "miss", "the client wants none that is stored"),
            Worth::Nothing(Why::Asked) => (2, "revalidate", "the client wants one that is fresher than what is stored"),
            Worth::Nothing(Why::Nothing) => (
                0,
                "miss",
                "what is stored is an error that the route's fallback takes the place of, or does not say that it is for requests with credentials",
            ),
            Worth::Nothing(_) if predicted => (1, "bypass", UNSTORABLE),
            Worth::Nothing(_) => (1, "revalidate", "what is stored has expired"),
        };
        if self.services.len() > 1 {
            return (
                "depends",
                "each service of the route's `split` has answers of its own, and which one is drawn is not known here",
            );
        }
        let best = fitting.iter().map(|entry| told(Worth::of(entry, policy, &wishes))).max_by_key(|(rank, ..)| *rank);
        let (would, why) = best.map_or(none, |(_, would, why)| (would, why));
        match wishes.only_if_cached && (matches!(would, "miss" | "revalidate") || why == UNSTORABLE) {
            true => ("refused", "nothing is stored that could be given, and the client wants nothing else"),
            false => (would, why),
        }
    }
}

/// A request's fields as the service would see them.
fn seen<'a>(head: &'a RequestHead, edits: &'a HeaderEdits) -> impl Fn(&HeaderName) -> Vec<&'a [u8]> {
    move |name| match edits.iter().rev().find(|edit| edit.name() == name) {
        Some(HeaderEdit::Set(_, value) | HeaderEdit::Add(_, value)) => vec![value.as_bytes()],
        Some(HeaderEdit::Remove(_)) => Vec::new(),
        None => {
            let is = |known: &[u8]| known.eq_ignore_ascii_case(name.as_str().as_bytes());
            head.headers().filter(|(known, _)| is(known)).map(|(_, value)| value).collect()
        }
    }
}

fn url_of(host: &str, path: &str, query: Option<&str>) -> String {
    format!("{host}{path}{}", query.map(|query| format!("?{query}")).unwrap_or_default())
}
