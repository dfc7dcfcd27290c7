//! What every way of proving an identity has in common.
//!
//! A method looks for its own kind of credential, and says who it proves. Which methods a route takes, whether one suffices or all are
//! needed, and what the backend is told, is the policy's business ([`super::Authn`]).

use std::pin::Pin;
use std::sync::Arc;

use super::failure::Failure;
use super::identity::IdentityHeaders;
use crate::exchange::{Exchange, Identity};
use crate::head::{HeaderEdit, RequestHead};

/// Who a credential proves its bearer to be, and what the backend hears of it, prepared once for each credential.
#[derive(Debug)]
pub struct Proved {
    pub identity: Arc<Identity>,
    pub headers: IdentityHeaders,
    /// Fields that the method itself sets or removes, such as those from a token's claims.
    pub extra: Vec<HeaderEdit>,
}

impl Proved {
    pub fn new(identity: Identity) -> Self {
        Proved { headers: IdentityHeaders::of(&identity), identity: Arc::new(identity), extra: Vec::new() }
    }
}

/// What a method says of a request.
pub enum Verdict {
    /// There is no credential of this kind.
    Absent,
    Proved(Arc<Proved>),
    Failed(Failure),
    /// Somebody else has to be asked: [`Method::wait`].
    Waits,
}

/// The future of [`Method::wait`].
pub type Proving<'a> = Pin<Box<dyn Future<Output = Result<Arc<Proved>, Failure>> + Send + 'a>>;

/// One way to prove who one is.
pub trait Method: Send + Sync {
    /// As it is written under `authn`, and as the backend is told: `jwt`, `api_key`, `basic` ...
    fn name(&self) -> &'static str;

    /// Looks for the credential and judges it, if that can be done at once. `now` in seconds since 1970.
    fn check(&self, head: &RequestHead, exchange: &Exchange, now: u64) -> Verdict;

    /// Called where [`Method::check`] said [`Verdict::Waits`]. Bounded in time by the method itself.
    fn wait<'a>(&'a self, _head: &'a RequestHead, _exchange: &'a Exchange, _now: u64) -> Proving<'a> {
        Box::pin(std::future::ready(Err(Failure::MissingCredentials)))
    }
}
