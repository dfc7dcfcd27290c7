//! Consumers: who uses the APIs, and by which credentials they are known.
//!
//! Compiled once per load into tables that cost the same to ask whether they hold ten keys or a hundred thousand. Not in here: how a
//! credential is read from a request (the sibling modules), and what a consumer may do (`authz`).

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use aws_lc_rs::digest;
use schemars::JsonSchema;
use serde::Deserialize;
use smallvec::SmallVec;
use subtle::ConstantTimeEq;

use super::identity::IdentityHeaders;
use super::method::Proved;
use crate::exchange::Identity;
use crate::problem::{Problem, Problems};
use crate::value::Spanned;

/// One consumer of the APIs: a person, a team, an application.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsumerConfig {
    /// What policies, limits and logs call this consumer. Unique, not empty.
    pub name: Spanned<String>,
    /// The API keys that belong to it, as hashes.
    #[serde(default)]
    pub api_keys: Vec<ApiKeyConfig>,
    /// The `sub` claims whose tokens belong to it.
    #[serde(default)]
    pub subjects: Vec<Spanned<String>>,
    /// The `iss` claim that a token must have for `subjects` to apply. Default: any issuer that the `authn` policy accepts; set it
    /// when that is more than one, because two issuers may use one subject for different people.
    #[serde(default)]
    pub issuer: Option<Spanned<String>>,
    /// What its API keys may do. A token brings its own scopes; these apply only to a token that has no scope claim at all.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The groups it belongs to.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The plan that it has subscribed to, such as `free` or `pro`: limits may differ by it.
    #[serde(default)]
    pub plan: Option<Spanned<String>>,
}

/// An API key, as it is stored: never the key itself.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyConfig {
    /// What logs call this key. Default: `sha256:` and the first 8 digits of its hash.
    #[serde(default)]
    pub id: Option<Spanned<String>>,
    /// `sha256:` and the 64 hexadecimal digits of the key's SHA-256. The key must be 256 random bits, in any text form.
    pub hash: Spanned<String>,
}

/// What is known of a consumer, whatever credential it came with.
#[derive(Debug)]
pub struct Consumer {
    pub name: Arc<str>,
    pub scopes: Vec<Arc<str>>,
    pub groups: Vec<Arc<str>>,
    pub plan: Option<Arc<str>>,
    /// What the backend hears of it when nothing but its name is known.
    headers: IdentityHeaders,
}

/// The SHA-256 of an API key.
///
/// One round of a fast hash is enough here, unlike for passwords: a key is 256 random bits, so there is no list of likely keys to
/// try, and slowing each try down adds nothing to 2^256 of them. It also lets a digest be looked up instead of compared in turn.
#[derive(Clone, Copy)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    pub fn of(key: &[u8]) -> Self {
        let mut bytes = [0; 32];
        // SHA-256's digest is 32 bytes long, so that the zip covers it.
        bytes.iter_mut().zip(digest::digest(&digest::SHA256, key).as_ref()).for_each(|(to, from)| *to = *from);
        KeyDigest(bytes)
    }

    /// `sha256:` and 64 hexadecimal digits of either case.
    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:")?.as_bytes();
        let (pairs, rest) = digits.as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return None;
        }
        let mut bytes = [0; 32];
        for (to, [high, low]) in bytes.iter_mut().zip(pairs) {
            let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            *to = digit(*high)? << 4 | digit(*low)?;
        }
        Some(KeyDigest(bytes))
    }
}

/// In constant time. The attacker cannot choose a digest's bytes, only keys, so that a plain comparison would leak little; but this
/// costs nothing and needs no argument.
impl PartialEq for KeyDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyDigest {}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[digest]")
    }
}

impl Hash for KeyDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

/// Subjects are few per text: one entry for each issuer it was written for.
type SubjectEntries = SmallVec<[(Option<Arc<str>>, usize); 1]>;

/// Every consumer, ready to be asked.
#[derive(Debug, Default)]
pub struct Consumers {
    list: Vec<Consumer>,
    names: HashMap<Arc<str>, usize, ahash::RandomState>,
    keys: HashMap<KeyDigest, Arc<Proved>, ahash::RandomState>,
    subjects: HashMap<Arc<str>, SubjectEntries, ahash::RandomState>,
    fingerprint: [u8; 32],
}

impl Consumers {
    /// Builds the tables. What is wrong goes to `problems`, and is left out.
    pub fn compile(configs: &[ConsumerConfig], problems: &mut Problems) -> Self {
        let mut consumers = Consumers::default();
        consumers.names.reserve(configs.len());
        consumers.keys.reserve(configs.iter().map(|config| config.api_keys.len()).sum());
        let mut print = blake3::Hasher::new();
        for config in configs {
            if let Some(at) = consumers.add(config, problems) {
                config.api_keys.iter().for_each(|key| consumers.add_key(at, key, problems));
                config.subjects.iter().for_each(|subject| consumers.add_subject(at, subject, config, problems));
                fingerprint(config, &mut print);
            }
        }
        consumers.fingerprint = *print.finalize().as_bytes();
        consumers
    }

    fn add(&mut self, config: &ConsumerConfig, problems: &mut Problems) -> Option<usize> {
        if config.name.value.is_empty() {
            problems.push(Problem::error(config.name.place, "a consumer needs a name"));
            return None;
        }
        let name: Arc<str> = config.name.value.as_str().into();
        if self.names.contains_key(&name) {
            problems.push(Problem::error(config.name.place, format!("there is already a consumer `{name}`")));
            return None;
        }
        let at = self.list.len();
        self.names.insert(name.clone(), at);
        let shared = |list: &[String]| list.iter().map(|item| Arc::from(item.as_str())).collect::<Vec<Arc<str>>>();
        let mut consumer = Consumer {
            name,
            scopes: shared(&config.scopes),
            groups: shared(&config.groups),
            plan: config.plan.as_ref().map(|plan| plan.value.as_str().into()),
            headers: IdentityHeaders::default(),
        };
        consumer.headers = IdentityHeaders::of(&consumer.identity("".into(), ""));
        self.list.push(consumer);
        Some(at)
    }

    fn add_key(&mut self, at: usize, config: &ApiKeyConfig, problems: &mut Problems) {
        let Some(digest) = KeyDigest::parse(&config.hash.value) else {
            problems.push(
                Problem::error(config.hash.place, "an API key's hash is `sha256:` and 64 hexadecimal digits")
                    .hint("printf %s \"$KEY\" | sha256sum"),
            );
            return;
        };
        let Some(consumer) = self.list.get(at) else { return };
        if let Some(known) = self.keys.get(&digest) {
            let other = known.identity.consumer.as_deref().unwrap_or_default();
            problems.push(Problem::error(config.hash.place, format!("consumer `{other}` already has an API key with this hash")));
            return;
        }
        let id: Arc<str> = match &config.id {
            Some(id) => id.value.as_str().into(),
            None => config.hash.value.chars().take("sha256:".len() + 8).collect::<String>().into(),
        };
        let proved = consumer.proved(id, super::api_key::METHOD);
        self.keys.insert(digest, Arc::new(proved));
    }

    fn add_subject(&mut self, at: usize, subject: &Spanned<String>, config: &ConsumerConfig, problems: &mut Problems) {
        let issuer = config.issuer.as_ref().map(|issuer| Arc::<str>::from(issuer.value.as_str()));
        let entries = self.subjects.entry(subject.value.as_str().into()).or_default();
        if subject.value.is_empty() {
            problems.push(Problem::error(subject.place, "a subject cannot be empty"));
        } else if let Some((_, known)) = entries.iter().find(|(known, _)| *known == issuer) {
            let other = self.list.get(*known).map_or("", |consumer| &consumer.name);
            problems.push(Problem::error(
                subject.place,
                format!("subject `{}` already belongs to consumer `{other}`", subject.value),
            ));
        } else {
            entries.push((issuer, at));
        }
    }

    /// Whom an API key belongs to.
    pub fn by_key(&self, key: &[u8]) -> Option<&Arc<Proved>> {
        self.keys.get(&KeyDigest::of(key))
    }

    /// Whom a token's subject belongs to: an entry for exactly this issuer before one for any.
    pub fn by_subject(&self, issuer: Option<&str>, subject: &str) -> Option<&Consumer> {
        let entries = self.subjects.get(subject)?;
        let find = |wanted: Option<&str>| entries.iter().find(|(known, _)| known.as_deref() == wanted);
        let (_, at) = issuer.and_then(|issuer| find(Some(issuer))).or_else(|| find(None))?;
        self.list.get(*at)
    }

    pub fn by_name(&self, name: &str) -> Option<&Consumer> {
        self.names.get(name).and_then(|at| self.list.get(*at))
    }

    /// Every name, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|consumer| &*consumer.name)
    }

    /// The plan of every consumer that has one.
    pub fn plans(&self) -> impl Iterator<Item = &str> {
        self.list.iter().filter_map(|consumer| consumer.plan.as_deref())
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether there is any API key to be found.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Tells apart any two sets of consumers that map tokens differently: what was concluded under another one is worth nothing.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}

impl Consumer {
    /// Who bears one of this consumer's own credentials, such as an API key or a password: it may do all that the consumer may.
    /// `credential` is its id, no secret.
    pub fn proved(&self, credential: Arc<str>, method: &'static str) -> Proved {
        let identity = Arc::new(self.identity(credential, method));
        Proved { identity, headers: self.headers.clone(), extra: Vec::new() }
    }

    fn identity(&self, credential: Arc<str>, method: &'static str) -> Identity {
        Identity {
            consumer: Some(self.name.clone()),
            credential,
            method,
            subject: self.name.clone(),
            scopes: self.scopes.clone(),
            groups: self.groups.clone(),
            plan: self.plan.clone(),
            claims: None,
        }
    }
}

/// API keys are not part of it: they are looked up afresh for every request.
fn fingerprint(config: &ConsumerConfig, print: &mut blake3::Hasher) {
    if config.subjects.is_empty() {
        return;
    }
    super::feed(print, config.name.value.as_bytes());
    super::feed(print, config.plan.as_ref().map_or("", |plan| &plan.value).as_bytes());
    super::feed(print, config.issuer.as_ref().map_or("", |issuer| &issuer.value).as_bytes());
    super::feed_all(print, config.subjects.iter().map(|subject| subject.value.as_bytes()));
    super::feed_all(print, config.scopes.iter().map(String::as_bytes));
    super::feed_all(print, config.groups.iter().map(String::as_bytes));
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The hash under which a key is configured.
    pub fn hash_of(key: &str) -> String {
        use std::fmt::Write;
        KeyDigest::of(key.as_bytes()).0.iter().fold("sha256:".to_owned(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    pub fn compile(json: serde_json::Value) -> (Consumers, Problems) {
        let configs: Vec<ConsumerConfig> = serde_json::from_value(json).unwrap();
        let mut problems = Problems::default();
        (Consumers::compile(&configs, &mut problems), problems)
    }

    #[test]
    fn finds_consumers_on_every_way() {
        let (consumers, problems) = compile(serde_json::json!([
            { "name": "acme", "api_keys": [{ "id": "k1", "hash": hash_of("one") }, { "hash": hash_of("two").to_uppercase().replace("SHA", "sha") }],
              "scopes": ["read"], "groups": ["gold"] },
            { "name": "ada", "issuer": "https://a", "subjects": ["u1"] },
            { "name": "bob", "subjects": ["u1"] },
        ]));
        assert!(problems.is_empty(), "{problems:?}");
        let one = consumers.by_key(b"one").unwrap();
        assert_eq!((&*one.identity.credential, &*one.identity.subject), ("k1", "acme"));
        assert_eq!(consumers.by_key(b"two").unwrap().identity.credential.len(), 15);
        assert!(consumers.by_key(b"three").is_none() && consumers.by_key(b"").is_none());
        assert_eq!(&*consumers.by_subject(Some("https://a"), "u1").unwrap().name, "ada");
        assert_eq!(&*consumers.by_subject(Some("https://b"), "u1").unwrap().name, "bob");
        assert_eq!(&*consumers.by_subject(None, "u1").unwrap().name, "bob");
        assert!(consumers.by_subject(None, "acme").is_none());
        assert_eq!(consumers.by_name("acme").unwrap().groups.len(), 1);
    }

    #[test]
    fn collects_every_problem() {
        let (consumers, problems) = compile(serde_json::json!([
            { "name": "a", "api_keys": [{ "hash": hash_of("k") }], "subjects": ["s"] },
            { "name": "a" },
            { "name": "" },
            { "name": "b", "api_keys": [{ "hash": hash_of("k") }, { "hash": "sha256:12" }, { "hash": "md5:00" }], "subjects": ["s", ""] },
            { "name": "c", "api_keys": [{ "hash": format!("sha256:{}", "g".repeat(64)) }, { "hash": format!("sha256:{}", "é".repeat(32)) }] },
        ]));
        // The malformed hashes make one problem: without places, equal messages are the same problem.
        let messages: Vec<_> = problems.iter().map(|problem| problem.message.clone()).collect();
        assert_eq!(messages.len(), 6, "{messages:?}");
        assert_eq!(&*consumers.by_key(b"k").unwrap().identity.subject, "a");
        assert!(!format!("{consumers:?}").contains(&hash_of("k")[20..]));
    }

    #[test]
    fn holds_a_hundred_thousand_keys() {
        let configs: Vec<ConsumerConfig> = (0..100_000)
            .map(|n| {
                let nowhere = |value| Spanned { value, place: Default::default() };
                ConsumerConfig {
                    name: nowhere(format!("c{n}")),
                    api_keys: vec![ApiKeyConfig { id: None, hash: nowhere(hash_of(&format!("key-{n}"))) }],
                    subjects: vec![],
                    issuer: None,
                    scopes: vec![],
                    groups: vec![],
                    plan: None,
                }
            })
            .collect();
        let mut problems = Problems::default();
        let consumers = Consumers::compile(&configs, &mut problems);
        assert!(problems.is_empty());
        for n in (0..100_000).step_by(997) {
            assert_eq!(&*consumers.by_key(format!("key-{n}").as_bytes()).unwrap().identity.subject, format!("c{n}"));
            assert!(consumers.by_key(format!("nokey-{n}").as_bytes()).is_none());
        }
    }

    #[test]
    fn the_fingerprint_follows_what_tokens_map_to() {
        let print = |json| *compile(json).0.fingerprint();
        let one = print(serde_json::json!([{ "name": "a", "subjects": ["s"] }]));
        assert_eq!(one, print(serde_json::json!([{ "name": "a", "subjects": ["s"] }, { "name": "b" }])));
        assert_ne!(one, print(serde_json::json!([{ "name": "b", "subjects": ["s"] }])));
        assert_ne!(one, print(serde_json::json!([{ "name": "a", "subjects": ["s"], "scopes": ["x"] }])));
        assert_ne!(
            print(serde_json::json!([{ "name": "a", "subjects": ["s"], "scopes": ["x"] }])),
            print(serde_json::json!([{ "name": "a", "subjects": ["s"], "groups": ["x"] }]))
        );
    }
}
