//! Tokens that go in a field: from a file, from an authorization server, from Google.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Url;
use serde_json::json;

use super::config::{ClientCredentialsConfig, GoogleIdTokenConfig};
use super::fresh::{Fetched, Fetching, Fresh, Origin};
use crate::clock::unix_seconds;
use crate::context::Context;
use crate::fingerprint::feed;
use crate::jose::json::object;
use crate::oidc::introspection::{ClientAuth, basic, form};
use crate::oidc::provider::Provider;
use crate::problem::Problem;
use crate::value::{Secret, Spanned};

/// How often a file is read again.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// How long a token is used of which nobody says how long it is good.
const USUAL: Duration = Duration::from_secs(300);
/// Google's metadata server, where nothing else is said.
const METADATA: &str = "metadata.google.internal";

pub type Token = Arc<Fresh<HeaderValue>>;

/// A field that says `Bearer`, and that nothing shows.
pub fn bearer(token: &[u8]) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", token].concat());
    if let Ok(value) = &mut value {
        value.set_sensitive(true);
    }
    value.map_err(|_| "the token has characters that no field can have".to_owned())
}

fn keep(origin: impl Origin<Item = HeaderValue>, print: blake3::Hasher, cx: &Context<'_>) -> Token {
    let key = format!("service:{}:token:{}", cx.scope, print.finalize().to_hex());
    let token = cx.ledger.keep(&key, || Fresh::new(cx.scope, Box::new(origin), cx.background.is_some(), cx.tallies));
    if let Some(background) = cx.background {
        token.start(background);
    }
    token
}

struct FromFile {
    secret: Secret,
    base: PathBuf,
}

impl Origin for FromFile {
    type Item = HeaderValue;

    fn fetch(&self) -> Fetching<'_, HeaderValue> {
        let read = || Ok(Fetched { item: bearer(&self.secret.read(&self.base)?)?, expires: None });
        Box::pin(std::future::ready(read()))
    }

    fn again(&self) -> Duration {
        READ_AGAIN
    }
}

/// A token in a file, which somebody else may renew.
pub fn in_file(secret: &Secret, cx: &Context<'_>) -> Token {
    let mut print = blake3::Hasher::new();
    feed(&mut print, b"file");
    feed(&mut print, secret.file(cx.base).unwrap_or_default().as_os_str().as_encoded_bytes());
    keep(FromFile { secret: secret.clone(), base: cx.base.to_owned() }, print, cx)
}

struct ClientCredentials {
    provider: Arc<Provider>,
    url: Url,
    authorization: Option<HeaderValue>,
    form: String,
}

impl Origin for ClientCredentials {
    type Item = HeaderValue;

    fn fetch(&self) -> Fetching<'_, HeaderValue> {
        Box::pin(async move {
            let answer = self.provider.post(&self.url, self.form.clone(), self.authorization.as_ref()).await;
            let answer = answer.map_err(|trouble| trouble.to_string())?;
            let members = object(&answer.body).ok_or("its answer is no JSON object, or has a member twice")?;
            let text = |name: &str| members.get(name).and_then(serde_json::Value::as_str);
            if text("token_type").is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
                return Err("its token is no bearer token".to_owned());
            }
            let token = text("access_token").filter(|token| !token.is_empty()).ok_or("its answer has no `access_token`")?;
            // Some servers write the number as a text.
            let lasts = members.get("expires_in");
            let lasts = lasts.and_then(|lasts| lasts.as_u64().or_else(|| lasts.as_str()?.parse().ok()));
            let expires = lasts.map(|lasts| unix_seconds().saturating_add(lasts));
            Ok(Fetched { item: bearer(token.as_bytes())?, expires })
        })
    }

    fn again(&self) -> Duration {
        USUAL
    }
}

/// A token that an authorization server issues.
pub fn client_credentials(config: &Spanned<ClientCredentialsConfig>, cx: &mut Context<'_>) -> Option<Token> {
    let provider = Provider::compile(&config.provider, cx)?;
    let url = provider.address(&config.token_url, cx);
    let secret = config.client_secret.value.read(cx.base);
    let secret = secret.map_err(|why| cx.problems.push(Problem::error(config.client_secret.place, why))).ok();
    for scope in &config.scopes {
        let plain = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        if scope.value.is_empty() || !scope.value.bytes().all(plain) {
            cx.problems.push(Problem::error(scope.place, format!("`{}` is no scope (RFC 6749, section 3.3)", scope.value)));
            return None;
        }
    }
    let (url, secret) = (url?, secret?);
    let scopes: Vec<&str> = config.scopes.iter().map(|scope| scope.value.as_str()).collect();
    let mut body = "grant_type=client_credentials".to_owned();
    if !scopes.is_empty() {
        body.push_str(&format!("&scope={}", form(scopes.join(" ").as_bytes())));
    }
    if let Some(audience) = &config.audience {
        body.push_str(&format!("&audience={}", form(audience.value.as_bytes())));
    }
    let (id, secret) = (form(config.client_id.value.as_bytes()), form(&secret));
    let authorization = match config.client_auth {
        ClientAuth::Basic => Some(basic(&id, &secret)?),
        ClientAuth::Post => {
            body.push_str(&format!("&client_id={id}&client_secret={secret}"));
            None
        }
    };
    let mut print = blake3::Hasher::new();
    feed(&mut print, b"client credentials");
    feed(&mut print, url.as_str().as_bytes());
    feed(&mut print, body.as_bytes());
    feed(&mut print, authorization.as_ref().map(HeaderValue::as_bytes).unwrap_or_default());
    feed(&mut print, &provider.trust);
    feed(&mut print, &provider.timeout.as_nanos().to_be_bytes());
    Some(keep(ClientCredentials { provider, url, authorization, form: body }, print, cx))
}

/// An identity token of Google's.
struct Google {
    provider: Arc<Provider>,
    audience: String,
    account: Account,
}

enum Account {
    /// That of the machine: its metadata server is asked at this address.
    Machine(Url),
    Key(Box<Key>),
}

/// The key of a service account.
struct Key {
    email: String,
    id: Option<String>,
    key: EncodingKey,
    url: Url,
}

impl Google {
    /// Shows that the gateway has the account's key, in exchange for a token (RFC 7523).
    async fn exchange(&self, key: &Key) -> Result<String, String> {
        let now = unix_seconds();
        let claims = json!({
            "iss": key.email, "sub": key.email, "aud": key.url.as_str(), "target_audience": self.audience,
            "iat": now, "exp": now.saturating_add(3600),
        });
        let mut header = Header::new(Algorithm::RS256);
        header.kid.clone_from(&key.id);
        let assertion = jsonwebtoken::encode(&header, &claims, &key.key).map_err(|_| "the key cannot sign".to_owned())?;
        let form = format!("grant_type={}&assertion={assertion}", form(b"urn:ietf:params:oauth:grant-type:jwt-bearer"));
        let answer = self.provider.post(&key.url, form, None).await.map_err(|trouble| trouble.to_string())?;
        let members = object(&answer.body).ok_or("its answer is no JSON object, or has a member twice")?;
        let token = members.get("id_token").and_then(serde_json::Value::as_str);
        token.map(str::to_owned).ok_or_else(|| "its answer has no `id_token`".to_owned())
    }
}

impl Origin for Google {
    type Item = HeaderValue;

    fn fetch(&self) -> Fetching<'_, HeaderValue> {
        Box::pin(async move {
            let token = match &self.account {
                Account::Key(key) => self.exchange(key).await?,
                Account::Machine(url) => {
                    let flavor = (HeaderName::from_static("metadata-flavor"), HeaderValue::from_static("Google"));
                    let asked = self.provider.ask(Method::GET, url, HeaderMap::from_iter([flavor])).await;
                    let answer = asked.map_err(|trouble| trouble.to_string())?;
                    String::from_utf8(answer.body).map_err(|_| "its answer is no text".to_owned())?
                }
            };
            let token = token.trim();
            let expires = expiry(token).ok_or("its answer is no token that says when it expires")?;
            Ok(Fetched { item: bearer(token.as_bytes())?, expires: Some(expires) })
        })
    }

    fn again(&self) -> Duration {
        USUAL
    }
}

/// When a token expires, by its own word: it is checked by whom it is shown to.
fn expiry(token: &str) -> Option<u64> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    object(&payload)?.get("exp")?.as_u64()
}

/// A token that says who the gateway is to a service of Google's.
pub fn google(config: &Spanned<GoogleIdTokenConfig>, cx: &mut Context<'_>) -> Option<Token> {
    let provider = Provider::compile(&config.provider, cx)?;
    let audience = config.audience.value.clone();
    if audience.is_empty() {
        cx.problems.push(Problem::error(config.audience.place, "a token is for somebody: its `audience`"));
        return None;
    }
    let mut print = blake3::Hasher::new();
    feed(&mut print, b"google");
    feed(&mut print, audience.as_bytes());
    feed(&mut print, &provider.trust);
    let account = match &config.service_account {
        Some(secret) => {
            let read = secret.value.read(cx.base);
            let read = read.and_then(|text| {
                feed(&mut print, &text);
                key(&text)
            });
            let key = read.map_err(|why| cx.problems.push(Problem::error(secret.place, why))).ok()?;
            // Where the key goes has to be as safe as any provider.
            provider.address(&Spanned::new(key.url.as_str().to_owned(), secret.place), cx)?;
            Account::Key(Box::new(key))
        }
        None => {
            let host = std::env::var("GCE_METADATA_HOST").ok().filter(|host| !host.is_empty());
            let host = host.unwrap_or_else(|| METADATA.to_owned());
            feed(&mut print, host.as_bytes());
            let identity = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/identity");
            let url = Url::parse_with_params(&identity, [("audience", audience.as_str()), ("format", "full")]);
            let Ok(url) = url else {
                cx.problems.push(Problem::error(config.place, "GCE_METADATA_HOST is no host"));
                return None;
            };
            Account::Machine(url)
        }
    };
    Some(keep(Google { provider, audience, account }, print, cx))
}

/// A service account's key, as Google gives it out. The error repeats nothing of it.
fn key(text: &[u8]) -> Result<Key, String> {
    let members = object(text).ok_or("the service account's key is no JSON object")?;
    let text = |name: &str| {
        let text = members.get(name).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty());
        text.ok_or_else(|| format!("the service account's key has no `{name}`"))
    };
    let key = EncodingKey::from_rsa_pem(text("private_key")?.as_bytes());
    Ok(Key {
        email: text("client_email")?.to_owned(),
        id: text("private_key_id").ok().map(str::to_owned),
        key: key.map_err(|_| "the service account's `private_key` is no RSA key in PEM".to_owned())?,
        url: Url::parse(text("token_uri")?).map_err(|_| "the service account's `token_uri` is no URL".to_owned())?,
    })
}
