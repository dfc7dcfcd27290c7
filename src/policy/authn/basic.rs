//! HTTP Basic (RFC 7617): a user name and a password in every request.
//!
//! Names and passwords are UTF-8, as the challenge says; they are compared as they come, without Unicode normalisation. What is slow
//! about it, and how that is kept from slowing everything else down, is [`crate::consumers::password`]'s.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header;
use schemars::JsonSchema;
use serde::Deserialize;

use super::challenge::BASIC;
use super::failure::Failure;
use super::method::{Carriers, Method, Proving, Verdict};
use crate::consumers::Consumers;
use crate::consumers::Proved;
use crate::consumers::password::{Checks, Digest, Hashed};
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::policy::Compile;
use crate::problem::Problem;
use crate::value::{Period, Spanned};

/// What `Identity::method` says.
pub const METHOD: &str = "basic";

/// The longest that is looked at, in bytes: both together, decoded.
const LONGEST: usize = 1024;
const LONGEST_MEMORY: Duration = Duration::from_secs(3600);

/// User names and passwords of the `consumers`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BasicConfig {
    /// How long a right password is remembered, so that it is not checked for every request. It is forgotten at once when its hash
    /// changes. 0s to 1h, default 5m.
    pub remember: Spanned<Period>,
    /// How many passwords are checked at once, each on a core of its own. 1 to 64. Default: half of the cores.
    pub at_once: Option<Spanned<u16>>,
    /// How many more may wait for their turn; beyond that a request is answered 503 with `Retry-After`. 0 to 10000, default 256.
    pub queue: Spanned<u16>,
}

impl Default for BasicConfig {
    fn default() -> Self {
        BasicConfig { remember: Spanned::nowhere(Period(Duration::from_secs(300))), at_once: None, queue: Spanned::nowhere(256) }
    }
}

/// [`BasicConfig`], compiled.
pub struct BasicMethod {
    consumers: Arc<Consumers>,
    checks: Arc<Checks>,
    remember: Duration,
    /// What is checked where there is no such user, so that this takes as long.
    decoy: Option<Hashed>,
}

/// A presented name and password, and what there is to check.
struct Presented<'a> {
    password: Vec<u8>,
    /// `None`: nobody has this name.
    proved: Option<&'a Arc<Proved>>,
    hashed: &'a Hashed,
    digest: Digest,
}

impl BasicMethod {
    pub fn compile(config: &BasicConfig, cx: &mut Compile<'_>) -> Option<Self> {
        let mut within = |place, good: bool, message: &str| {
            if !good {
                cx.problems.push(Problem::error(place, message));
            }
            good
        };
        let remember = within(config.remember.place, config.remember.0 <= LONGEST_MEMORY, "`remember` is at most 1h");
        let queue = within(config.queue.place, config.queue.value <= 10_000, "`queue` is at most 10000");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let at_once = config.at_once.as_ref().map_or((cores / 2).clamp(1, 64), |at_once| usize::from(at_once.value));
        let place = config.at_once.as_ref().map_or(cx.place, |at_once| at_once.place);
        let some = within(place, (1..=64).contains(&at_once), "`at_once` is from 1 to 64");
        if !(remember && queue && some) {
            return None;
        }
        let Some(strongest) = cx.consumers.strongest_password() else {
            cx.problems
                .push(Problem::warning(cx.place, "no consumer has a password, so that none can be right").hint("consumers"));
            return Some(Self::assemble(config, at_once, None, cx));
        };
        let decoy = strongest.decoy();
        Some(Self::assemble(config, at_once, decoy, cx))
    }

    fn assemble(config: &BasicConfig, at_once: usize, decoy: Option<Hashed>, cx: &Compile<'_>) -> Self {
        let waiting = usize::from(config.queue.value);
        BasicMethod {
            consumers: cx.consumers.clone(),
            // One for all routes: the cores that it spends are the same.
            checks: cx.ledger.keep(&format!("authn/passwords/{at_once}/{waiting}"), || Checks::new(at_once, waiting)),
            remember: config.remember.0,
            decoy,
        }
    }

    fn presented(&self, head: &RequestHead) -> Result<Option<Presented<'_>>, Failure> {
        let Some(decoded) = credentials(head)? else { return Ok(None) };
        // A name has no colon, a password may have (RFC 7617, section 2).
        let colon = memchr::memchr(b':', &decoded).ok_or(Failure::MalformedBasic)?;
        let (name, password) = decoded.split_at_checked(colon).ok_or(Failure::MalformedBasic)?;
        let password = password.get(1..).unwrap_or_default();
        let text = std::str::from_utf8(&decoded).map_err(|_| Failure::MalformedBasic)?;
        if text.chars().any(char::is_control) {
            return Err(Failure::MalformedBasic);
        }
        let login = std::str::from_utf8(name).ok().and_then(|name| self.consumers.by_login(name));
        let hashed = login.map(|login| &login.hashed).or(self.decoy.as_ref()).ok_or(Failure::WrongPassword)?;
        let digest = self.checks.digest(hashed, name, password);
        Ok(Some(Presented { password: password.to_vec(), proved: login.map(|login| &login.proved), hashed, digest }))
    }
}

/// What an `Authorization: Basic` field holds, decoded. `None` if there is none, or one of another scheme.
fn credentials(head: &RequestHead) -> Result<Option<Vec<u8>>, Failure> {
    let mut fields = head.header_all("authorization");
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(Failure::RepeatedAuthorization);
    }
    let at = memchr::memchr(b' ', field).unwrap_or(field.len());
    let (scheme, rest) = field.split_at_checked(at).unwrap_or((field, b""));
    if !scheme.eq_ignore_ascii_case(BASIC.as_bytes()) {
        return Ok(None);
    }
    let text = rest.trim_ascii();
    if text.len() > LONGEST.div_ceil(3) * 4 {
        return Err(Failure::MalformedBasic);
    }
    STANDARD.decode(text).map(Some).map_err(|_| Failure::MalformedBasic)
}

impl Method for BasicMethod {
    fn check(&self, head: &RequestHead, _: &Exchange, _: u64) -> Verdict {
        match self.presented(head) {
            Ok(None) => Verdict::Absent,
            Ok(Some(Presented { proved: Some(proved), digest, .. })) if self.checks.knows(&digest, self.remember) => {
                Verdict::Proved(proved.clone())
            }
            Ok(Some(_)) => Verdict::Waits,
            Err(failure) => Verdict::Failed(failure),
        }
    }

    fn wait<'a>(&'a self, head: &'a RequestHead, _: &'a Exchange, _: u64) -> Proving<'a> {
        Box::pin(async move {
            let presented = self.presented(head)?.ok_or(Failure::MissingCredentials)?;
            let Presented { password, proved, hashed, digest } = presented;
            let right = self.checks.check(digest, hashed, &password, self.remember).await;
            match (right, proved) {
                (Ok(true), Some(proved)) => Ok(proved.clone()),
                (Ok(_), _) => Err(Failure::WrongPassword),
                (Err(_), _) => Err(Failure::PasswordChecksBusy),
            }
        })
    }

    fn scheme(&self) -> Option<&'static str> {
        Some(BASIC)
    }

    fn carriers(&self) -> Carriers {
        Carriers { headers: vec![header::AUTHORIZATION], ..Carriers::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Lab;
    use super::*;
    use crate::consumers::password::tests::quick;

    fn lab() -> Lab {
        let mut lab = Lab::new();
        lab.consume(serde_json::json!([
            { "name": "acme", "passwords": [{ "username": "ada", "hash": quick("pass:wört") }, { "hash": quick("second") }], "plan": "pro" },
        ]));
        lab
    }

    fn method(lab: &Lab, config: serde_json::Value) -> Option<BasicMethod> {
        let mut problems = Default::default();
        let mut cx = crate::policy::testing::context(&mut problems, "t", &lab.ledger, &lab.consumers, lab.folder.path());
        BasicMethod::compile(&serde_json::from_value(config).unwrap(), &mut cx)
    }

    fn header_of(text: &[u8]) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    async fn ask(method: &BasicMethod, field: &str) -> Result<Arc<Proved>, Failure> {
        let head = RequestHead::build("GET", "/", &[("authorization", field)]);
        let exchange = Exchange::for_tests();
        match method.check(&head, &exchange, 0) {
            Verdict::Proved(proved) => Ok(proved),
            Verdict::Failed(failure) => Err(failure),
            Verdict::Absent => Err(Failure::MissingCredentials),
            Verdict::Waits => method.wait(&head, &exchange, 0).await,
        }
    }

    #[tokio::test]
    async fn a_password_proves_its_consumer() {
        let lab = lab();
        let method = method(&lab, serde_json::json!({})).unwrap();
        let right = header_of("ada:pass:wört".as_bytes());
        for _ in 0..2 {
            let proved = ask(&method, &right).await.unwrap();
            let identity = &proved.identity;
            assert_eq!((identity.consumer.as_deref(), &*identity.credential, identity.method), (Some("acme"), "ada", "basic"));
            assert_eq!(identity.plan.as_deref(), Some("pro"));
        }
        let head = RequestHead::build("GET", "/", &[("authorization", &right)]);
        assert!(matches!(method.check(&head, &Exchange::for_tests(), 0), Verdict::Proved(_)), "remembered");
        assert!(ask(&method, &header_of(b"acme:second").to_lowercase().replacen("basic", "bAsIc", 1)).await.is_err());
        assert!(ask(&method, &header_of(b"acme:second").replacen("Basic", "bAsIc", 1)).await.is_ok(), "named like its consumer");
        for (wrong, failure) in [
            (header_of(b"ada:pass"), Failure::WrongPassword),
            (header_of(b"ADA:pass"), Failure::WrongPassword),
            (header_of(b"nobody:x"), Failure::WrongPassword),
            (header_of(b"ada:"), Failure::WrongPassword),
            (header_of(b":"), Failure::WrongPassword),
            (header_of(b"ada"), Failure::MalformedBasic),
            (header_of(b""), Failure::MalformedBasic),
            (header_of(b"ada:\xff"), Failure::MalformedBasic),
            (header_of(b"ada:a\nb"), Failure::MalformedBasic),
            (header_of(&[b'a'; 2000]), Failure::MalformedBasic),
            ("Basic".to_owned(), Failure::MalformedBasic),
            ("Basic !!!".to_owned(), Failure::MalformedBasic),
            ("Bearer abc".to_owned(), Failure::MissingCredentials),
        ] {
            assert_eq!(ask(&method, &wrong).await.unwrap_err(), failure, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_changed_hash_forgets_the_old_password() {
        let mut lab = lab();
        let right = header_of(b"acme:second");
        assert!(ask(&method(&lab, serde_json::json!({})).unwrap(), &right).await.is_ok());
        assert!(ask(&method(&lab, serde_json::json!({})).unwrap(), &right).await.is_ok(), "a reload keeps what is known");
        lab.consume(serde_json::json!([{ "name": "acme", "passwords": [{ "hash": quick("third") }] }]));
        assert_eq!(ask(&method(&lab, serde_json::json!({})).unwrap(), &right).await.unwrap_err(), Failure::WrongPassword);
    }

    #[test]
    fn bounds_are_kept() {
        for json in
            [serde_json::json!({ "remember": "2h" }), serde_json::json!({ "at_once": 0 }), serde_json::json!({ "queue": 10_001 })]
        {
            assert!(method(&lab(), json.clone()).is_none(), "{json}");
        }
    }
}
