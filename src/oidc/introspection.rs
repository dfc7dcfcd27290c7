//! Asking an authorization server about tokens.
//!
//! One call is under way for a token, however many requests wait for it, and it goes on when they leave. Only a token that is not
//! active is remembered here, for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use reqwest::Url;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::provider::{Provider, ProviderConfig, Trouble};
use crate::context::Context;
use crate::fingerprint::feed;
use crate::jose::json;
use crate::problem::Problem;
use crate::tally::Counter;
use crate::value::{Period, Secret, Spanned, up_to_an_hour};

/// The most calls that are under way at once. Beyond it tokens are answered as if the server were away.
const MAX_CALLS: usize = 256;
/// How many inactive tokens are remembered.
const MAX_INACTIVE: usize = 10_000;
/// After so many outages in a row the server is left alone for a moment.
const TOLERATED: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is said that a single token could not be judged.
const SILENCE: Duration = Duration::from_secs(60);

/// What the server said.
#[derive(Clone)]
pub enum Word {
    Active(Arc<Map<String, Value>>),
    Inactive,
    /// Nothing that could be believed.
    None,
}

type Digest = [u8; 32];

fn digest(token: &[u8]) -> Digest {
    blake3::derive_key("portcullis authn introspected token", token)
}

/// How the gateway says to an authorization server who it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    #[default]
    Basic,
    Post,
}

/// What people wrote of an authorization server.
#[derive(Clone, Copy)]
pub struct ServerConfig<'a> {
    pub url: &'a Spanned<String>,
    pub client_id: &'a Spanned<String>,
    pub client_secret: &'a Spanned<Secret>,
    pub client_auth: ClientAuth,
    pub provider: &'a ProviderConfig,
    pub inactive_cache: Option<&'a Spanned<Period>>,
}

/// One authorization server, as it is asked. Lives in the ledger.
pub struct Server {
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
    /// When the last answer was told that was of no use.
    told: Option<Instant>,
}

struct Counts {
    active: Arc<Counter>,
    inactive: Arc<Counter>,
    failed: Arc<Counter>,
    shared: Arc<Counter>,
}

impl Server {
    pub fn compile(config: ServerConfig<'_>, cx: &mut Context<'_>) -> Option<Arc<Self>> {
        let mut reached = config.provider.clone();
        reached.timeout.get_or_insert(Spanned::nowhere(Period(Duration::from_secs(2))));
        let provider = Provider::compile(&reached, cx)?;
        let url = provider.address(config.url, cx);
        let inactive_for = up_to_an_hour(config.inactive_cache, 10, "inactive_cache", cx.problems);
        let secret = config.client_secret.value.read(cx.base);
        let secret = secret.map_err(|message| cx.problems.push(Problem::error(config.client_secret.place, message))).ok();
        let (url, inactive_for, secret) = (url?, inactive_for?, secret?);
        let (id, secret) = (form(config.client_id.value.as_bytes()), form(&secret));
        let mut print = blake3::Hasher::new();
        feed(&mut print, url.as_str().as_bytes());
        feed(&mut print, id.as_bytes());
        feed(&mut print, secret.as_bytes());
        feed(&mut print, &[config.client_auth as u8]);
        feed(&mut print, &provider.trust);
        feed(&mut print, &provider.timeout.as_nanos().to_be_bytes());
        feed(&mut print, &inactive_for.as_nanos().to_be_bytes());
        let print = *print.finalize().as_bytes();
        let (authorization, credentials) = match config.client_auth {
            // RFC 6749, section 2.3.1: both are encoded as in a form before they are joined.
            ClientAuth::Basic => (Some(basic(&id, &secret)?), String::new()),
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

    /// What tells this one apart from any other in the ledger.
    pub fn print(&self) -> &[u8; 32] {
        &self.print
    }

    /// Whether the token was found inactive a moment ago.
    pub fn is_inactive(&self, token: &[u8]) -> bool {
        self.was_inactive(&digest(token))
    }

    fn was_inactive(&self, token: &Digest) -> bool {
        self.inactive.get(token).is_some_and(|until| Instant::now() < until)
    }

    /// Asks about a token, or joins those who do, for as long as one call may take.
    pub async fn ask(self: &Arc<Self>, token: &[u8]) -> Word {
        let digest = digest(token);
        if self.was_inactive(&digest) {
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

    /// What a client can choose must not shut the others out: an answer that may be about its token alone does not count.
    fn failed(&self, trouble: &Trouble) {
        let mut desk = self.server.desk.lock();
        if !trouble.is_outage() {
            if desk.told.is_none_or(|told| told.elapsed() >= SILENCE) {
                desk.told = Some(Instant::now());
                log::warn!("{} did not judge a token: {trouble}", self.server.label());
            }
            return;
        }
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
    fn new(url: &str, cx: &Context<'_>) -> Self {
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

/// A whole `Authorization` field (RFC 7617), which nothing shows.
pub fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `application/x-www-form-urlencoded`, with every byte escaped that is not surely plain.
pub fn form(text: &[u8]) -> String {
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
