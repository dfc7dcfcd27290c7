//! Consumers: who uses the APIs, and by which credentials they are known.
//!
//! Compiled once per load into tables that cost the same to ask whether they hold ten keys or a hundred thousand. Not in here: how a
//! credential is read from a request, and what a consumer may do: policies say that (`authn`, `authz`).

pub mod config;
mod digest;
pub mod identity;
pub mod issued;
pub mod password;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jsonwebtoken::Algorithm;
use smallvec::SmallVec;

pub use self::config::{
    ApiKeyConfig, AwsKeyConfig, CertificateName, ConsumerConfig, PasswordConfig, SIGNING_ALGORITHMS, SigningKeyConfig,
    certificate_names,
};
pub use self::digest::KeyDigest;
use self::identity::IdentityHeaders;
pub use self::identity::Proved;
use self::issued::{ByDigest, IssuedKeys};
use self::password::Hashed;
use crate::exchange::Identity;
use crate::jose::{JwtKeyConfig, VerifyKey};
use crate::problem::{Problem, Problems};
use crate::value::Spanned;

/// A user name, and what goes with it.
#[derive(Debug)]
pub struct Login {
    pub hashed: Hashed,
    pub proved: Arc<Proved>,
}

/// The secret of a key of AWS's kind, and whose it is.
pub struct AwsKey {
    pub secret: Vec<u8>,
    pub proved: Arc<Proved>,
}

/// The secret is nobody's business.
impl std::fmt::Debug for AwsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsKey").field("proved", &self.proved).finish_non_exhaustive()
    }
}

/// Why an API key proves nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFault {
    Unknown,
    Expired,
    /// The store of keys could not be read since the process started: nobody knows whether the key is good.
    StoreUnavailable,
}

/// What [`Identity::method`] says of who came with such a credential: the words of who reads them from requests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Methods {
    pub api_key: &'static str,
    pub password: &'static str,
    pub signing_key: &'static str,
    pub aws_key: &'static str,
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

/// Subjects are few per text: one entry for each issuer it was written for.
type SubjectEntries = SmallVec<[(Option<Arc<str>>, usize); 1]>;

/// Every consumer, ready to be asked.
#[derive(Debug, Default)]
pub struct Consumers {
    list: Vec<Consumer>,
    names: HashMap<Arc<str>, usize, ahash::RandomState>,
    keys: ByDigest<Arc<Proved>>,
    /// The keys that the admin API issued.
    issued: Option<Arc<IssuedKeys>>,
    logins: HashMap<Arc<str>, Login, ahash::RandomState>,
    subjects: HashMap<Arc<str>, SubjectEntries, ahash::RandomState>,
    certificates: HashMap<CertificateName, usize, ahash::RandomState>,
    signing_keys: HashMap<Box<str>, (VerifyKey, Arc<Proved>), ahash::RandomState>,
    aws_keys: HashMap<Box<str>, AwsKey, ahash::RandomState>,
    methods: Methods,
    number: Number,
}

/// No two sets of consumers have the same one.
#[derive(Debug)]
struct Number(u64);

impl Default for Number {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Number(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Consumers {
    /// Builds the tables. What is wrong goes to `problems`, and is left out.
    pub fn compile(configs: &[ConsumerConfig], methods: Methods, base: &Path, problems: &mut Problems) -> Self {
        let mut consumers = Consumers { methods, ..Consumers::default() };
        consumers.names.reserve(configs.len());
        consumers.keys.reserve(configs.iter().map(|config| config.api_keys.len()).sum());
        for config in configs {
            if let Some(at) = consumers.add(config, problems) {
                config.api_keys.iter().for_each(|key| consumers.add_key(at, key, problems));
                config.passwords.iter().for_each(|password| consumers.add_password(at, password, problems));
                config.certificates.iter().for_each(|name| consumers.add_certificate(at, name, problems));
                config.signing_keys.iter().for_each(|key| consumers.add_signing_key(at, key, base, problems));
                config.aws_keys.iter().for_each(|key| consumers.add_aws_key(at, key, base, problems));
                config.subjects.iter().for_each(|subject| consumers.add_subject(at, subject, config, problems));
            }
        }
        consumers
    }

    /// With the keys that the admin API issues.
    pub fn with_issued(self, issued: Option<Arc<IssuedKeys>>) -> Self {
        Consumers { issued, ..self }
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
        let proved = consumer.proved(id, self.methods.api_key);
        self.keys.insert(digest, Arc::new(proved));
    }

    fn add_password(&mut self, at: usize, config: &PasswordConfig, problems: &mut Problems) {
        let Some(consumer) = self.list.get(at) else { return };
        let hashed = match Hashed::parse(&config.hash.value) {
            Ok(hashed) => hashed,
            Err(why) => return problems.push(Problem::error(config.hash.place, why).hint("portcullis hash-password")),
        };
        if hashed.is_weak() {
            let message = "this password's hash is cheap to guess against, should it ever be stolen";
            problems.push(Problem::warning(config.hash.place, message).hint("portcullis hash-password"));
        }
        let (username, place) = match &config.username {
            Some(username) => (username.value.as_str(), username.place),
            None => (&*consumer.name, config.hash.place),
        };
        if username.is_empty() || username.contains(':') || username.chars().any(char::is_control) {
            problems.push(Problem::error(place, "a user name is some text without `:` and control characters (RFC 7617)"));
            return;
        }
        if self.logins.contains_key(username) {
            problems.push(Problem::error(place, format!("there is already a password for the user name `{username}`")));
            return;
        }
        let username: Arc<str> = username.into();
        let proved = Arc::new(consumer.proved(username.clone(), self.methods.password));
        self.logins.insert(username, Login { hashed, proved });
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

    /// Whom an API key belongs to, be it written in the configuration or issued by the admin API. `now` in seconds since 1970.
    ///
    /// # Errors
    /// Nobody's, or one whose time is over; or the store of issued keys could not be read yet.
    pub fn by_key(&self, key: &[u8], now: u64) -> Result<Arc<Proved>, KeyFault> {
        let digest = KeyDigest::of(key);
        match (self.keys.get(&digest), &self.issued) {
            (Some(proved), _) => Ok(proved.clone()),
            (None, Some(issued)) => issued.prove(&digest, now, self),
            (None, None) => Err(KeyFault::Unknown),
        }
    }

    /// The id of an issued key, also of one whose time is over.
    pub fn issued_key(&self, key: &[u8]) -> Option<Arc<str>> {
        self.issued.as_ref()?.id(&KeyDigest::of(key))
    }

    /// What there is to check a password with.
    pub fn by_login(&self, username: &str) -> Option<&Login> {
        self.logins.get(username)
    }

    /// The password that takes longest to check.
    pub fn strongest_password(&self) -> Option<&Hashed> {
        self.logins.values().map(|login| &login.hashed).max_by_key(|hashed| hashed.work())
    }

    /// No other set of consumers has this number.
    pub fn number(&self) -> u64 {
        self.number.0
    }

    fn add_certificate(&mut self, at: usize, name: &Spanned<CertificateName>, problems: &mut Problems) {
        let written = match &name.value {
            CertificateName::Fingerprint(text) if KeyDigest::parse(text).is_none() => {
                let message = "a certificate's fingerprint is `sha256:` and 64 hexadecimal digits";
                problems.push(Problem::error(name.place, message).hint("openssl x509 -in client.pem -outform der | sha256sum"));
                return;
            }
            CertificateName::Fingerprint(text) => CertificateName::Fingerprint(text.to_ascii_lowercase()),
            CertificateName::Dns(text) => CertificateName::Dns(text.to_ascii_lowercase()),
            other => other.clone(),
        };
        if let Some(other) = self.certificates.insert(written, at) {
            let other = self.list.get(other).map_or("", |consumer| &consumer.name);
            problems.push(Problem::error(name.place, format!("this certificate already belongs to consumer `{other}`")));
        }
    }

    fn add_signing_key(&mut self, at: usize, config: &SigningKeyConfig, base: &Path, problems: &mut Problems) {
        let algorithm = match &config.algorithm {
            None => None,
            Some(name) => {
                let Some((_, known)) = SIGNING_ALGORITHMS.iter().find(|(known, _)| *known == name.value) else {
                    let problem =
                        Problem::error(name.place, format!("`{}` is no signature algorithm that is supported", name.value));
                    problems.push(problem.hint(SIGNING_ALGORITHMS.map(|(name, _)| name).join(", ")));
                    return;
                };
                Some(Spanned { value: format!("{known:?}"), place: name.place })
            }
        };
        let suited: Vec<Algorithm> = SIGNING_ALGORITHMS.iter().map(|(_, known)| *known).collect();
        // Without a word an RSA key signs with PSS.
        let allowed: Vec<_> = suited.into_iter().filter(|known| algorithm.is_some() || *known != Algorithm::RS256).collect();
        let key = JwtKeyConfig {
            id: Some(config.id.clone()),
            secret: config.secret.clone(),
            public_key: config.public_key.clone(),
            algorithm,
        };
        let Some(key) = VerifyKey::compile(&key, &allowed, base, config.id.place, problems) else { return };
        let Some(consumer) = self.list.get(at) else { return };
        let proved = Arc::new(consumer.proved(config.id.value.as_str().into(), self.methods.signing_key));
        if let Some((_, other)) = self.signing_keys.insert(config.id.value.as_str().into(), (key, proved)) {
            let other = other.identity.consumer.as_deref().unwrap_or_default();
            problems.push(Problem::error(config.id.place, format!("consumer `{other}` already has a signing key of this id")));
        }
    }

    /// The key of that id, and who signs with it.
    pub fn by_signing_key(&self, id: &str) -> Option<&(VerifyKey, Arc<Proved>)> {
        self.signing_keys.get(id)
    }

    pub fn has_signing_keys(&self) -> bool {
        !self.signing_keys.is_empty()
    }

    fn add_aws_key(&mut self, at: usize, config: &AwsKeyConfig, base: &Path, problems: &mut Problems) {
        let id = &config.access_key_id;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if !(1..=128).contains(&id.value.len()) || !id.value.bytes().all(plain) {
            problems.push(Problem::error(id.place, "an access key's id has 1 to 128 letters, digits, `.`, `_` and `-`"));
            return;
        }
        let secret = match config.secret_access_key.value.read(base) {
            Ok(secret) if secret.len() >= 16 => secret,
            Ok(_) => {
                let problem = Problem::error(config.secret_access_key.place, "a secret of less than 16 bytes can be guessed");
                return problems.push(problem.hint("openssl rand -base64 30"));
            }
            Err(why) => return problems.push(Problem::error(config.secret_access_key.place, why)),
        };
        let Some(consumer) = self.list.get(at) else { return };
        let proved = Arc::new(consumer.proved(id.value.as_str().into(), self.methods.aws_key));
        if let Some(other) = self.aws_keys.insert(id.value.as_str().into(), AwsKey { secret, proved }) {
            let other = other.proved.identity.consumer.as_deref().unwrap_or_default();
            problems.push(Problem::error(id.place, format!("consumer `{other}` already has an access key of this id")));
        }
    }

    /// The key of AWS's kind with this id.
    pub fn by_aws_key(&self, id: &str) -> Option<&AwsKey> {
        self.aws_keys.get(id)
    }

    pub fn has_aws_keys(&self) -> bool {
        !self.aws_keys.is_empty()
    }

    /// Whom a client certificate of this name belongs to.
    pub fn by_certificate(&self, name: &CertificateName) -> Option<&Consumer> {
        self.certificates.get(name).and_then(|at| self.list.get(*at))
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

    /// Whether there is, or may be, any API key to be found.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty() || self.issued.is_some()
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

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The hash under which a key is configured.
    pub fn hash_of(key: &str) -> String {
        KeyDigest::of(key.as_bytes()).to_string()
    }

    pub fn compile(json: serde_json::Value) -> (Consumers, Problems) {
        let configs: Vec<ConsumerConfig> = serde_json::from_value(json).unwrap();
        let mut problems = Problems::default();
        (Consumers::compile(&configs, crate::policy::authn::METHODS, Path::new("."), &mut problems), problems)
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
        let one = consumers.by_key(b"one", 0).unwrap();
        assert_eq!((&*one.identity.credential, &*one.identity.subject), ("k1", "acme"));
        assert_eq!(consumers.by_key(b"two", 0).unwrap().identity.credential.len(), 15);
        assert!(consumers.by_key(b"three", 0).is_err() && consumers.by_key(b"", 0).is_err());
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
        assert_eq!(&*consumers.by_key(b"k", 0).unwrap().identity.subject, "a");
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
                    passwords: vec![],
                    subjects: vec![],
                    issuer: None,
                    scopes: vec![],
                    groups: vec![],
                    plan: None,
                    certificates: vec![],
                    signing_keys: vec![],
                    aws_keys: vec![],
                }
            })
            .collect();
        let mut problems = Problems::default();
        let consumers = Consumers::compile(&configs, crate::policy::authn::METHODS, Path::new("."), &mut problems);
        assert!(problems.is_empty());
        for n in (0..100_000).step_by(997) {
            assert_eq!(&*consumers.by_key(format!("key-{n}").as_bytes(), 0).unwrap().identity.subject, format!("c{n}"));
            assert!(consumers.by_key(format!("nokey-{n}").as_bytes(), 0).is_err());
        }
    }
}
