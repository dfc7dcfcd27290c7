//! Tokens that only their authorization server can judge (RFC 7662): what is asked, and what the answer must say.
//!
//! One call is under way for a token, however many requests wait for it, and it goes on when they leave. A token that is not active
//! is remembered for a while; one that is goes into the route's token cache.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use reqwest::Url;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::claims::{Accepted, ClaimRules, ClaimsConfig};
use super::failure::Failure;
use super::provider::{Provider, ProviderConfig, Trouble};
use super::sources::TokenSourceConfig;
use super::{Consumers, feed, json};
use crate::policy::Compile;
use crate::problem::Problem;
use crate::tally::Counter;
use crate::value::{OneOrMany, Period, Secret, Spanned};

/// What `Identity::method` says.
pub const METHOD: &str = "introspection";

/// The most calls that are under way at once. Beyond it tokens are answered as if the server were away.
const MAX_CALLS: usize = 256;
/// How many inactive tokens are remembered.
const MAX_INACTIVE: usize = 10_000;
/// After so many failures in a row the server is left alone for a moment.
const TOLERATED: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// An authorization server that is asked about tokens. While it cannot be, such tokens are answered 503 `introspection_unavailable`
/// with `Retry-After`: nothing is let through unseen.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionConfig {
    /// Where tokens may stand. Default: `Authorization: Bearer`.
    #[serde(default)]
    pub from: Vec<TokenSourceConfig>,
    /// The introspection endpoint: `https`, or `http` on this machine.
    pub url: Spanned<String>,
    /// Who the gateway is to that server.
    pub client_id: Spanned<String>,
    pub client_secret: Spanned<Secret>,
    /// How the gateway says so: `basic` (HTTP Basic, the default), or `post` (in the form).
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// How the server is reached. The `timeout` is the longest that a request waits for its answer; default 2s here.
    #[serde(default)]
    pub provider: ProviderConfig,
    /// How long an active token is taken for active without asking again, and never beyond its `exp`: how long a revoked one may
    /// still be used. 0s to 1h, default 30s.
    #[serde(default)]
    pub cache: Option<Spanned<Period>>,
    /// How long an inactive token is refused without asking again. 0s to 1h, default 10s.
    #[serde(default)]
    pub inactive_cache: Option<Spanned<Period>>,
    /// The issuers of which `iss` must be one. Default: any, and `iss` may be missing.
    #[serde(default)]
    pub issuer: Option<OneOrMany<Spanned<String>>>,
    /// The audiences of which `aud` must hold one. Default: any.
    #[serde(default)]
    pub audience: Option<OneOrMany<Spanned<String>>>,
    /// How far the server's clock may be off, for `exp` and `nbf`. Default 60s, at most 10m.
    #[serde(default)]
    pub leeway: Option<Spanned<Period>>,
    /// Members that the answer must have, and not null.
    #[serde(default)]
    pub require: Vec<Spanned<String>>,
    /// Members that go upstream, as `claims_to_headers` of `jwt` does.
    #[serde(default)]
    pub claims_to_headers: BTreeMap<String, Spanned<String>>,
    /// The member that says which consumer a token belongs to, such as `client_id`: its value is one of a consumer's `subjects`, or
    /// a consumer's name. Default: `sub`, which is looked for among the `subjects` only.
    #[serde(default)]
    pub consumer_claim: Option<Spanned<String>>,
    /// The member with the scopes. Default: `scope`.
    #[serde(default)]
    pub scope_claim: Option<Spanned<String>>,
    /// The members with the names of groups or roles. Default: none.
    #[serde(default)]
    pub groups_claim: Option<OneOrMany<Spanned<String>>>,
    /// The member with the name of the plan. Default: none.
    #[serde(default)]
    pub plan_claim: Option<Spanned<String>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    #[default]
    Basic,
    Post,
}

/// [`IntrospectionConfig`], compiled.
pub struct Introspection {
    server: Arc<Server>,
    rules: ClaimRules,
    /// Seconds.
    cache: u64,
}

impl Introspection {
    pub fn compile(config: &IntrospectionConfig, cx: &mut Compile<'_>) -> Option<Self> {
        let rules = ClaimsConfig {
            issuer: config.issuer.as_ref(),
            audience: config.audience.as_ref(),
            leeway: config.leeway.as_ref(),
            require: &config.require,
            claims_to_headers: &config.claims_to_headers,
            consumer_claim: config.consumer_claim.as_ref(),
            scope_claim: config.scope_claim.as_ref(),
            groups_claim: config.groups_claim.as_ref(),
            plan_claim: config.plan_claim.as_ref(),
            // RFC 7662, section 2.2: only `active` is sure to be there.
            endless: true,
            client_is_subject: true,
        };
        let rules = ClaimRules::compile(METHOD, &rules, cx);
        let cache = up_to_an_hour(config.cache.as_ref(), 30, "cache", cx);
        let server = Server::compile(config, cx);
        Some(Introspection { server: server?, rules: rules?, cache: cache?.as_secs() })
    }

    pub fn sets(&self) -> impl Iterator<Item = &HeaderName> {
        self.rules.sets()
    }

    /// Mixes in everything that a verdict, or what follows from it, depends on.
    pub fn feed(&self, print: &mut blake3::Hasher) {
        self.rules.feed(print);
        feed(print, &self.cache.to_be_bytes());
        feed(print, &self.server.print);
    }

    /// What can be said of a token without asking.
    pub fn known(&self, token: &[u8]) -> Option<Failure> {
        self.server.is_inactive(&digest(token)).then_some(Failure::InactiveToken)
    }

    /// Asks, or joins those who do. The second is when to ask again.
    pub async fn ask(&self, token: &[u8], now: u64, consumers: &Consumers) -> Result<(Accepted, u64), Failure> {
        match self.server.ask(token).await {
            Word::Active(claims) => {
                let accepted = self.rules.accept(Map::clone(&claims), now, consumers)?;
                let until = ClaimRules::expiry(&claims).min(now.saturating_add(self.cache));
                Ok((accepted, until))
            }
            Word::Inactive => Err(Failure::InactiveToken),
            Word::None => Err(Failure::IntrospectionUnavailable),
        }
    }
}

/// What the server said.
#[derive(Clone)]
enum Word {
    Active(Arc<Map<String, Value>>),
    Inactive,
    /// Nothing that could be believed.
    None,
}

type Digest = [u8; 32];

fn digest(token: &[u8]) -> Digest {
    blake3::derive_key("portcullis authn introspected token", token)
}

/// One authorization server, as it is asked. Lives in the ledger.
struct Server {
    provider: Arc<Provider>,
    url: Url,
    /// With `basic`.
    authorization: Option<HeaderValue>,
    /// With `post`: what follows the token in the form.
    credentials: String,
    /// Tells apart any two that could answer differently.
    print: [u8; 32],
    background: Option<Handle>,
    desk: Mutex<Desk>,
    /// Until when each token that is not active need not be asked about.
    inactive: Cache<Digest, Instant>,
    inactive_for: Duration,
    counts: Counts,
}

#[derive(Default)]
struct Desk {
    calls: HashMap<Digest, watch::Receiver<Option<Word>>, ahash::RandomState>,
    failures: u32,
    /// The server is left alone until then.
    closed: Option<Instant>,
}

struct Counts {
    active: Arc<Counter>,
    inactive: Arc<Counter>,
    failed: Arc<Counter>,
    shared: Arc<Counter>,
}

impl Server {
    fn compile(config: &IntrospectionConfig, cx: &mut Compile<'_>) -> Option<Arc<Self>> {
        let mut reached = config.provider.clone();
        reached.timeout.get_or_insert(Spanned::nowhere(Period(Duration::from_secs(2))));
        let provider = Provider::compile(&reached, cx)?;
        let url = provider.address(&config.url, cx);
        let inactive_for = up_to_an_hour(config.inactive_cache.as_ref(), 10, "inactive_cache", cx);
        let secret = config.client_secret.value.read(cx.base);
        let secret = secret.map_err(|message| cx.problems.push(Problem::error(config.client_secret.place, message))).ok();
        let (url, inactive_for, secret) = (url?, inactive_for?, secret?);
        let (id, secret) = (form(config.client_id.value.as_bytes()), form(&secret));
        let mut print = blake3::Hasher::new();
        feed(&mut print, url.as_str().as_bytes());
        feed(&mut print, id.as_bytes());
        feed(&mut print, secret.as_bytes());
        feed(&mut print, &[config.client_auth as u8]);
        feed(&mut print, &provider.print);
        feed(&mut print, &inactive_for.as_nanos().to_be_bytes());
        let print = *print.finalize().as_bytes();
        let (authorization, credentials) = match config.client_auth {
            // RFC 6749, section 2.3.1: both are encoded as in a form before they are joined.
            ClientAuth::Basic => {
                let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))).ok()?;
                value.set_sensitive(true);
                (Some(value), String::new())
            }
            ClientAuth::Post => (None, format!("&client_id={id}&client_secret={secret}")),
        };
        let counts = Counts::new(url.as_str(), cx);
        let background = cx.background.cloned();
        Some(cx.ledger.keep(&format!("authn/introspection/{}", blake3::Hash::from(print).to_hex()), || Server {
            provider,
            url,
            authorization,
            credentials,
            print,
            background,
            desk: Mutex::default(),
            inactive: Cache::new(MAX_INACTIVE),
            inactive_for,
            counts,
        }))
    }

    fn is_inactive(&self, token: &Digest) -> bool {
        self.inactive.get(token).is_some_and(|until| Instant::now() < until)
    }

    async fn ask(self: &Arc<Self>, token: &[u8]) -> Word {
        let digest = digest(token);
        if self.is_inactive(&digest) {
            return Word::Inactive;
        }
        let Some(mut answer) = self.call(digest, token) else { return Word::None };
        match tokio::time::timeout(self.provider.timeout, answer.wait_for(Option::is_some)).await {
            Ok(Ok(word)) => word.clone().unwrap_or(Word::None),
            _ => Word::None,
        }
    }

    /// The call about this token: the one that is under way, or a new one. `None` if there can be none now.
    fn call(self: &Arc<Self>, digest: Digest, token: &[u8]) -> Option<watch::Receiver<Option<Word>>> {
        let mut desk = self.desk.lock();
        if let Some(under_way) = desk.calls.get(&digest) {
            self.counts.shared.add(1);
            return Some(under_way.clone());
        }
        let background = self.background.as_ref()?;
        if desk.calls.len() >= MAX_CALLS || desk.closed.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let (sender, receiver) = watch::channel(None);
        desk.calls.insert(digest, receiver.clone());
        let call = Call { server: self.clone(), digest, sender };
        background.spawn(call.run(token.to_vec()));
        Some(receiver)
    }

    async fn introspect(&self, token: &[u8]) -> Result<Option<Map<String, Value>>, Trouble> {
        let form = format!("token={}&token_type_hint=access_token{}", form(token), self.credentials);
        let answer = self.provider.post(&self.url, form, self.authorization.as_ref()).await?;
        let members = json::object(&answer.body).ok_or(Trouble::Unusable("it is no JSON object, or has a member twice"))?;
        match members.get("active") {
            Some(Value::Bool(active)) => Ok(active.then_some(members)),
            _ => Err(Trouble::Unusable("it has no boolean `active`")),
        }
    }
}

/// A call under way. However it ends, the desk hears of it.
struct Call {
    server: Arc<Server>,
    digest: Digest,
    sender: watch::Sender<Option<Word>>,
}

impl Call {
    async fn run(self, token: Vec<u8>) {
        let word = match self.server.introspect(&token).await {
            Ok(Some(claims)) => {
                self.server.counts.active.add(1);
                Word::Active(Arc::new(claims))
            }
            Ok(None) => {
                self.server.counts.inactive.add(1);
                self.server.inactive.insert(self.digest, Instant::now() + self.server.inactive_for);
                Word::Inactive
            }
            Err(trouble) => {
                self.server.counts.failed.add(1);
                self.failed(&trouble);
                Word::None
            }
        };
        if !matches!(word, Word::None) {
            let mut desk = self.server.desk.lock();
            if desk.failures > 0 {
                log::info!("{} answers again", self.server.label());
            }
            (desk.failures, desk.closed) = (0, None);
        }
        self.sender.send_replace(Some(word));
    }

    fn failed(&self, trouble: &Trouble) {
        let mut desk = self.server.desk.lock();
        desk.failures = desk.failures.saturating_add(1);
        if desk.failures >= TOLERATED {
            desk.closed = Some(Instant::now() + PAUSE);
        }
        if desk.failures == 1 {
            log::warn!("{} cannot judge tokens: {trouble}", self.server.label());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.server.desk.lock().calls.remove(&self.digest);
    }
}

impl Server {
    /// Without the query, which may hold a secret.
    fn label(&self) -> &str {
        label(self.url.as_str())
    }
}

fn label(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

impl Counts {
    fn new(url: &str, cx: &Compile<'_>) -> Self {
        let server = label(url);
        let calls = |result| {
            let help = "Calls to an authorization server about tokens.";
            cx.tallies.counter("portcullis_introspections_total", help, &[("server", server), ("result", result)])
        };
        let shared = "Requests that joined a call about their token which was under way.";
        Counts {
            active: calls("active"),
            inactive: calls("inactive"),
            failed: calls("failed"),
            shared: cx.tallies.counter("portcullis_introspections_shared_total", shared, &[("server", server)]),
        }
    }
}

fn up_to_an_hour(period: Option<&Spanned<Period>>, default: u64, name: &str, cx: &mut Compile<'_>) -> Option<Duration> {
    let Some(period) = period else { return Some(Duration::from_secs(default)) };
    if period.value.0 > Duration::from_secs(3600) {
        cx.problems.push(Problem::error(period.place, format!("`{name}` is at most 1h")));
        return None;
    }
    Some(period.value.0)
}

/// `application/x-www-form-urlencoded`, with every byte escaped that is not surely plain.
fn form(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for &byte in text {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'*') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_escape_what_could_be_mistaken() {
        assert_eq!(form(b"a-Z_0.9*"), "a-Z_0.9*");
        assert_eq!(form("a&token=b+c %\u{e9}\n".as_bytes()), "a%26token%3Db%2Bc%20%25%C3%A9%0A");
    }
}
