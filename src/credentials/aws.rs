//! Keys of AWS: where they come from, and requests that are signed with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use reqwest::Url;
use serde::Deserialize;

use super::config::{AwsCredentialsConfig, AwsFrom};
use super::fresh::{Fetched, Fetching, Fresh, Origin};
use crate::clock::unix_seconds;
use crate::context::Context;
use crate::fingerprint::feed;
use crate::head::HeaderEdit;
use crate::oidc::provider::{Provider, ProviderConfig};
use crate::problem::Problem;
use crate::sigv4::{self, Scope, Signed};
use crate::value::{Period, Spanned};

static DATE: HeaderName = HeaderName::from_static("x-amz-date");
static CONTENT: HeaderName = HeaderName::from_static("x-amz-content-sha256");
static TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// The instance's metadata, and that of containers, where nothing else is said.
const INSTANCE: &str = "http://169.254.169.254";
const CONTAINER: &str = "http://169.254.170.2";

/// A key. Nothing shows it.
pub struct Keys {
    id: String,
    secret: Vec<u8>,
    token: Option<HeaderValue>,
}

/// Where the keys are.
#[derive(Clone)]
pub enum Held {
    Fixed(Arc<Keys>),
    Fresh(Arc<Fresh<Keys>>),
}

/// Signs requests for one service of AWS in one region.
#[derive(Clone)]
pub struct Signer {
    pub held: Held,
    pub region: Arc<str>,
    pub service: Arc<str>,
}

/// What is signed of a request beside what the signer adds.
pub struct Outgoing<'a> {
    pub method: &'a Method,
    /// With the query, as they are sent.
    pub target: &'a str,
    pub host: &'a [u8],
    /// The fields whose names begin with `x-amz-`, in lower case.
    pub fields: &'a [(String, Vec<u8>)],
    /// The digest of the body, or what stands in its place.
    pub payload: &'a str,
}

impl Keys {
    fn new(id: String, secret: Vec<u8>, token: Option<&[u8]>) -> Result<Keys, String> {
        let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',' && byte != b'/');
        if !is_id || secret.is_empty() {
            return Err("a key's id or its secret is empty, or is none".to_owned());
        }
        let token = token.filter(|token| !token.is_empty()).map(HeaderValue::from_bytes).transpose();
        let mut token = token.map_err(|_| "the session token has characters that no field can have".to_owned())?;
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        Ok(Keys { id, secret, token })
    }
}

impl Held {
    fn with<R>(&self, make: impl FnOnce(&Keys) -> R) -> Option<R> {
        match self {
            Held::Fixed(keys) => Some(make(keys)),
            Held::Fresh(fresh) => fresh.with(make),
        }
    }
}

impl Signer {
    /// The fields that sign a request. `None` if there are no keys.
    pub async fn sign(&self, outgoing: &Outgoing<'_>) -> Option<Vec<HeaderEdit>> {
        if let Some(signed) = self.held.with(|keys| self.signed(keys, outgoing)) {
            return signed;
        }
        let Held::Fresh(fresh) = &self.held else { return None };
        fresh.wait().await;
        fresh.with(|keys| self.signed(keys, outgoing)).flatten()
    }

    /// The service does not take the keys.
    pub fn doubt(&self) {
        if let Held::Fresh(fresh) = &self.held {
            fresh.doubt();
        }
    }

    fn signed(&self, keys: &Keys, outgoing: &Outgoing<'_>) -> Option<Vec<HeaderEdit>> {
        let Outgoing { method, target, host, fields, payload } = *outgoing;
        let at = sigv4::stamp(unix_seconds())?;
        let own = [&DATE, &CONTENT, &TOKEN];
        let mut covered: Vec<(&str, &[u8])> = Vec::with_capacity(fields.len() + 4);
        covered.extend([("host", host), (DATE.as_str(), at.as_bytes()), (CONTENT.as_str(), payload.as_bytes())]);
        covered.extend(keys.token.iter().map(|token| (TOKEN.as_str(), token.as_bytes())));
        let others = fields.iter().filter(|(name, _)| own.iter().all(|own| own.as_str() != name));
        covered.extend(others.map(|(name, value)| (name.as_str(), value.as_slice())));
        // Those of one name stay in their order.
        covered.sort_by_key(|(name, _)| *name);
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let signed = Signed { method: method.as_str(), path, query, fields: &covered, payload };
        let scope = Scope { at: &at, region: &self.region, service: &self.service };
        let mut authorization = HeaderValue::try_from(sigv4::authorization(&keys.id, &keys.secret, &scope, &signed)).ok()?;
        authorization.set_sensitive(true);
        Some(vec![
            HeaderEdit::Set(DATE.clone(), HeaderValue::try_from(&at).ok()?),
            HeaderEdit::Set(CONTENT.clone(), HeaderValue::try_from(payload).ok()?),
            keys.token
                .as_ref()
                .map_or_else(|| HeaderEdit::Remove(TOKEN.clone()), |token| HeaderEdit::Set(TOKEN.clone(), token.clone())),
            HeaderEdit::Set(header::AUTHORIZATION, authorization),
        ])
    }
}

/// The region that was written, or that the environment has.
pub fn region(written: Option<&Spanned<String>>, cx: &mut Context<'_>) -> Option<Arc<str>> {
    let region = match written {
        Some(written) => Some(written.value.clone()),
        None => variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")),
    };
    let place = written.map_or(cx.place, |written| written.place);
    let Some(region) = region else {
        cx.problems.push(Problem::error(place, "no region is known").hint("region: eu-central-1"));
        return None;
    };
    if region.is_empty() || region.len() > 64 || !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        cx.problems.push(Problem::error(place, format!("`{region}` is no region of AWS")).hint("region: eu-central-1"));
        return None;
    }
    Some(region.into())
}

/// The keys that were written, or the first place where there are any.
pub fn held(config: Option<&Spanned<AwsCredentialsConfig>>, cx: &mut Context<'_>) -> Option<Held> {
    let nothing = AwsCredentialsConfig::default();
    let place = config.map_or(cx.place, |config| config.place);
    let config = config.map_or(&nothing, |config| &config.value);
    let lost = ["access_key_id", "secret_access_key", "session_token"].into_iter().any(|key| cx.problems.has_lost(place, key));
    if lost {
        // It has been told of.
        return None;
    }
    if config.access_key_id.is_some() || config.secret_access_key.is_some() || config.session_token.is_some() {
        return written(config, place, cx);
    }
    let from = match &config.from {
        Some(from) => from.value,
        None if config.profile.is_some() => AwsFrom::Profile,
        None => first_there(),
    };
    let origin = match from {
        AwsFrom::Environment => {
            let keys = match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
                (Some(id), Some(secret)) => {
                    Keys::new(id, secret.into_bytes(), variable("AWS_SESSION_TOKEN").as_deref().map(str::as_bytes))
                }
                _ => Err("the environment has no AWS_ACCESS_KEY_ID with an AWS_SECRET_ACCESS_KEY".to_owned()),
            };
            return keys.map(|keys| Held::Fixed(Arc::new(keys))).map_err(|why| cx.problems.push(Problem::error(place, why))).ok();
        }
        AwsFrom::Profile => Ok(Place::Profile {
            file: credentials_file(),
            name: config
                .profile
                .as_ref()
                .map(|profile| profile.value.clone())
                .or_else(|| variable("AWS_PROFILE"))
                .unwrap_or_else(|| "default".to_owned()),
        }),
        AwsFrom::WebIdentity => web_identity(),
        AwsFrom::Container => container(),
        AwsFrom::Instance => {
            let base = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| INSTANCE.to_owned());
            url(base.trim_end_matches('/')).map(|_| Place::Instance { base })
        }
    };
    let origin = origin.map_err(|why| cx.problems.push(Problem::error(place, why))).ok()?;
    let config = ProviderConfig { timeout: Some(Spanned::nowhere(Period(Duration::from_secs(5)))), ..ProviderConfig::default() };
    let provider = Provider::compile(&config, cx)?;
    let mut print = blake3::Hasher::new();
    feed(&mut print, origin.name().as_bytes());
    let key = format!("service:{}:aws:{}", cx.scope, print.finalize().to_hex());
    let fresh = cx.ledger.keep(&key, || {
        Fresh::new(cx.scope, Box::new(AwsOrigin { place: origin, provider }), cx.background.is_some(), cx.tallies)
    });
    if let Some(background) = cx.background {
        fresh.start(background);
    }
    Some(Held::Fresh(fresh))
}

fn written(config: &AwsCredentialsConfig, place: crate::problem::Place, cx: &mut Context<'_>) -> Option<Held> {
    let (Some(id), Some(secret)) = (&config.access_key_id, &config.secret_access_key) else {
        let problem = Problem::error(place, "a key has an `access_key_id` and a `secret_access_key`");
        cx.problems.push(problem);
        return None;
    };
    if config.from.is_some() || config.profile.is_some() {
        cx.problems.push(Problem::error(place, "keys are either written here, or come from elsewhere").hint("leave one out"));
        return None;
    }
    let mut read = |secret: &Spanned<crate::value::Secret>| {
        secret.value.read(cx.base).map_err(|why| cx.problems.push(Problem::error(secret.place, why))).ok()
    };
    let secret = read(secret);
    let token = config.session_token.as_ref().map(&mut read);
    let token = token.map_or(Some(None), |token| token.map(Some));
    let keys = Keys::new(id.value.clone(), secret?, token?.as_deref());
    keys.map(|keys| Held::Fixed(Arc::new(keys))).map_err(|why| cx.problems.push(Problem::error(id.place, why))).ok()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn first_there() -> AwsFrom {
    if variable("AWS_ACCESS_KEY_ID").is_some() && variable("AWS_SECRET_ACCESS_KEY").is_some() {
        AwsFrom::Environment
    } else if variable("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() && variable("AWS_ROLE_ARN").is_some() {
        AwsFrom::WebIdentity
    } else if credentials_file().exists() {
        AwsFrom::Profile
    } else if ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"]
        .into_iter()
        .any(|name| variable(name).is_some())
    {
        AwsFrom::Container
    } else {
        AwsFrom::Instance
    }
}

fn credentials_file() -> PathBuf {
    let home = || Path::new(&variable("HOME").unwrap_or_default()).join(".aws/credentials");
    variable("AWS_SHARED_CREDENTIALS_FILE").map_or_else(home, PathBuf::from)
}

fn url(text: &str) -> Result<Url, String> {
    Url::parse(text).map_err(|_| format!("`{text}` is no URL"))
}

/// Only where no stranger can stand on the way, as AWS's own programs have it.
fn container() -> Result<Place, String> {
    let address = match (variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), variable("AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
        (Some(path), _) => url(&format!("{CONTAINER}{path}"))?,
        (None, Some(full)) => url(&full)?,
        (None, None) => return Err("the environment has no AWS_CONTAINER_CREDENTIALS_FULL_URI and no relative one".to_owned()),
    };
    let host = address.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let near = host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        || ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"].contains(&host);
    if address.scheme() != "https" && !near {
        return Err("AWS_CONTAINER_CREDENTIALS_FULL_URI is neither https nor on this machine".to_owned());
    }
    let token_file = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from);
    Ok(Place::Container { address, token: variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"), token_file })
}

fn web_identity() -> Result<Place, String> {
    let (Some(file), Some(role)) = (variable("AWS_WEB_IDENTITY_TOKEN_FILE"), variable("AWS_ROLE_ARN")) else {
        return Err("the environment has no AWS_WEB_IDENTITY_TOKEN_FILE with an AWS_ROLE_ARN".to_owned());
    };
    let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
    let end = if region.as_ref().is_some_and(|region| region.starts_with("cn-")) { ".cn" } else { "" };
    let usual =
        || region.map_or("https://sts.amazonaws.com".to_owned(), |region| format!("https://sts.{region}.amazonaws.com{end}"));
    let address = url(&variable("AWS_ENDPOINT_URL_STS").unwrap_or_else(usual))?;
    let session = variable("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "portcullis".to_owned());
    Ok(Place::WebIdentity { file: file.into(), role, session, address })
}

/// A place that keys are fetched from.
enum Place {
    Profile { file: PathBuf, name: String },
    Container { address: Url, token: Option<String>, token_file: Option<PathBuf> },
    Instance { base: String },
    WebIdentity { file: PathBuf, role: String, session: String, address: Url },
}

impl Place {
    /// Tells it from the others.
    fn name(&self) -> String {
        match self {
            Place::Profile { file, name } => format!("profile\n{}\n{name}", file.display()),
            Place::Container { address, token, token_file } => format!("container\n{address}\n{token:?}\n{token_file:?}"),
            Place::Instance { base } => format!("instance\n{base}"),
            Place::WebIdentity { file, role, session, address } => {
                format!("web identity\n{}\n{role}\n{session}\n{address}", file.display())
            }
        }
    }
}

struct AwsOrigin {
    place: Place,
    provider: Arc<Provider>,
}

impl Origin for AwsOrigin {
    type Item = Keys;

    fn fetch(&self) -> Fetching<'_, Keys> {
        Box::pin(async move {
            match &self.place {
                Place::Profile { file, name } => {
                    let text = read(file)?;
                    let keys = profile(&text, name).ok_or_else(|| format!("{} has no keys for `{name}`", file.display()))?;
                    Ok(Fetched { item: keys?, expires: None })
                }
                Place::Container { address, token, token_file } => {
                    let token = match token_file {
                        Some(file) => Some(read(file)?),
                        None => token.clone(),
                    };
                    let mut fields = HeaderMap::new();
                    if let Some(token) = token {
                        fields.insert(header::AUTHORIZATION, secret_field(token.trim())?);
                    }
                    document(&self.ask(Method::GET, address.clone(), fields).await?)
                }
                Place::Instance { base } => self.instance(base).await,
                Place::WebIdentity { file, role, session, address } => {
                    let identity = read(file)?;
                    let mut address = address.clone();
                    address
                        .query_pairs_mut()
                        .append_pair("Action", "AssumeRoleWithWebIdentity")
                        .append_pair("Version", "2011-06-15")
                        .append_pair("RoleArn", role)
                        .append_pair("RoleSessionName", session)
                        .append_pair("WebIdentityToken", identity.trim());
                    assumed(&self.ask(Method::GET, address, HeaderMap::new()).await?)
                }
            }
        })
    }

    fn again(&self) -> Duration {
        Duration::from_secs(60)
    }
}

impl AwsOrigin {
    async fn ask(&self, method: Method, address: Url, fields: HeaderMap) -> Result<String, String> {
        let answer = self.provider.ask(method, &address, fields).await.map_err(|trouble| trouble.to_string())?;
        String::from_utf8(answer.body).map_err(|_| "the answer is no text".to_owned())
    }

    /// In two steps, as version 2 of the service has it. There is no way back to version 1, which whoever can make the gateway ask for an address
    /// could misuse.
    async fn instance(&self, base: &str) -> Result<Fetched<Keys>, String> {
        let base = base.trim_end_matches('/');
        let lifetime = (HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds"), HeaderValue::from_static("300"));
        let token = self.ask(Method::PUT, url(&format!("{base}/latest/api/token"))?, HeaderMap::from_iter([lifetime])).await?;
        let token = (HeaderName::from_static("x-aws-ec2-metadata-token"), secret_field(token.trim())?);
        let fields = HeaderMap::from_iter([token]);
        let list = format!("{base}/latest/meta-data/iam/security-credentials/");
        let roles = self.ask(Method::GET, url(&list)?, fields.clone()).await?;
        let role = roles.lines().next().unwrap_or_default().trim();
        if role.is_empty() || !role.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte)) {
            return Err("the instance has no role".to_owned());
        }
        document(&self.ask(Method::GET, url(&format!("{list}{role}"))?, fields).await?)
    }
}

fn secret_field(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::try_from(text).map_err(|_| "a token has characters that no field can have".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Small, and seldom.
pub(super) fn read(file: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("{} cannot be read: {error}", file.display());
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(file).map_err(cannot)?.take(1 << 20).read_to_string(&mut text).map_err(cannot)?;
    Ok(text)
}

/// What containers and instances are told.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<String>,
}

fn document(text: &str) -> Result<Fetched<Keys>, String> {
    // The error could repeat what is secret.
    let Document { access_key_id, secret_access_key, token, expiration } =
        serde_json::from_str(text).map_err(|_| "the answer has no keys".to_owned())?;
    let keys = Keys::new(access_key_id, secret_access_key.into_bytes(), token.as_deref().map(str::as_bytes))?;
    Ok(Fetched { item: keys, expires: expiration.map(|at| moment(&at)).transpose()? })
}

fn moment(text: &str) -> Result<u64, String> {
    let at = text.parse::<jiff::Timestamp>().map_err(|_| "when the keys expire cannot be read".to_owned())?;
    u64::try_from(at.as_second()).map_err(|_| "when the keys expire cannot be read".to_owned())
}

/// What the token service answers: of its XML, four elements are wanted, and none of them has anything inside.
fn assumed(text: &str) -> Result<Fetched<Keys>, String> {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(value, _)| value.trim())
    };
    let (Some(id), Some(secret), Some(token), Some(at)) =
        (element("AccessKeyId"), element("SecretAccessKey"), element("SessionToken"), element("Expiration"))
    else {
        return Err("the answer has no keys".to_owned());
    };
    let keys = Keys::new(id.to_owned(), secret.as_bytes().to_vec(), Some(token.as_bytes()))?;
    Ok(Fetched { item: keys, expires: Some(moment(at)?) })
}

/// The keys of a profile in a credentials file. `None` if there are none.
fn profile(text: &str, name: &str) -> Option<Result<Keys, String>> {
    let mut inside = false;
    let (mut id, mut secret, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.split(']').next()) {
            inside = section.trim() == name;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside && !line.starts_with(['#', ';'])) {
            let value = value.trim().to_owned();
            match key.trim() {
                "aws_access_key_id" => id = Some(value),
                "aws_secret_access_key" => secret = Some(value),
                "aws_session_token" => token = Some(value),
                _ => {}
            }
        }
    }
    Some(Keys::new(id?, secret?.into_bytes(), token.as_deref().map(str::as_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_by_its_name() {
        let text = "# keys\n[default]\naws_access_key_id = A\naws_secret_access_key=s=1\n\n[ other ]\naws_access_key_id=B\n\
                    aws_secret_access_key=t\n# aws_session_token = no\naws_session_token = x\n[empty]\nregion = eu\n";
        let found = |name: &str| {
            let keys = profile(text, name)?.ok()?;
            Some((keys.id, String::from_utf8(keys.secret).unwrap(), keys.token.map(|token| token.to_str().unwrap().to_owned())))
        };
        assert_eq!(found("default"), Some(("A".into(), "s=1".into(), None)));
        assert_eq!(found("other"), Some(("B".into(), "t".into(), Some("x".into()))));
        assert_eq!((found("empty"), found("none")), (None, None));
    }

    #[test]
    fn answers_are_read_and_never_repeated() {
        let good =
            r#"{"Code":"Success","AccessKeyId":"A","SecretAccessKey":"s","Token":"t","Expiration":"2026-11-28T21:00:00Z"}"#;
        let fetched = document(good).unwrap();
        assert_eq!((&*fetched.item.id, fetched.expires), ("A", Some(1_795_899_600)));
        for bad in [
            "{}",
            r#"{"AccessKeyId":"","SecretAccessKey":"hunter2"}"#,
            r#"{"AccessKeyId":"A","SecretAccessKey":7}"#,
            r#"{"AccessKeyId":"A","SecretAccessKey":"hunter2","Expiration":"soon"}"#,
            r#"{"AccessKeyId":"A","SecretAccessKey":"hunter2","Token":"a\nb"}"#,
        ] {
            let why = document(bad).err().unwrap();
            assert!(!why.contains("hunter2"), "{why}");
        }
        let xml = "<R><Credentials><AccessKeyId>A</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
                   <SessionToken>t</SessionToken><Expiration>2026-11-28T21:00:00Z</Expiration></Credentials></R>";
        assert_eq!(assumed(xml).unwrap().expires, Some(1_795_899_600));
        assert!(assumed("<Error/>").is_err());
    }
}
