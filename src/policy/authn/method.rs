//! What every way of proving an identity has in common.
//!
//! A method looks for its own kind of credential, and says who it proves. Which methods a route takes, whether one suffices or all are
//! needed, and what the backend is told, is the policy's business ([`super::Authn`]).

use std::pin::Pin;
use std::sync::Arc;

use http::HeaderName;

use super::failure::Failure;
use crate::consumers::Proved;
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::policy::OnBody;

/// What a method says of a request.
pub enum Verdict {
    /// There is no credential of this kind.
    Absent,
    Proved(Arc<Proved>),
    Failed(Failure),
    /// Somebody else has to be asked: [`Method::wait`].
    Waits,
}

impl From<Result<Arc<Proved>, Failure>> for Verdict {
    fn from(result: Result<Arc<Proved>, Failure>) -> Self {
        result.map_or_else(Verdict::Failed, Verdict::Proved)
    }
}

/// The future of [`Method::wait`].
pub type Proving<'a> = Pin<Box<dyn Future<Output = Result<Arc<Proved>, Failure>> + Send + 'a>>;

/// What credentials come in. It goes neither to the backend, unless the route says so, nor into a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carriers {
    pub headers: Vec<HeaderName>,
    /// Names of query parameters.
    pub queries: Vec<Arc<str>>,
    pub cookies: Vec<Arc<str>>,
}

impl Carriers {
    /// Adds those of another method. Each is named once.
    pub fn merge(&mut self, other: Carriers) {
        fn add<T: PartialEq>(all: &mut Vec<T>, more: Vec<T>) {
            for item in more {
                if !all.contains(&item) {
                    all.push(item);
                }
            }
        }
        add(&mut self.headers, other.headers);
        add(&mut self.queries, other.queries);
        add(&mut self.cookies, other.cookies);
    }
}

/// One way to prove who one is.
pub trait Method: Send + Sync {
    /// Looks for the credential and judges it, if that can be done at once. `now` in seconds since 1970.
    fn check(&self, head: &RequestHead, exchange: &Exchange, now: u64) -> Verdict;

    /// Called where [`Method::check`] said [`Verdict::Waits`]. Bounded in time by the method itself, and dropped where it stands when
    /// the client goes away.
    fn wait<'a>(&'a self, _head: &'a RequestHead, _exchange: &'a Exchange, _now: u64) -> Proving<'a> {
        Box::pin(std::future::ready(Err(Failure::MissingCredentials)))
    }

    /// Which credential a refused request came with, as far as it is known and no secret: for the log.
    fn refused(&self, _head: &RequestHead) -> Option<Box<str>> {
        None
    }

    /// The scheme that a 401 asks for (RFC 9110, section 11.6.1). `None` where a client cannot be asked for such a credential.
    fn scheme(&self) -> Option<&'static str>;

    /// Where the credentials come in.
    fn carriers(&self) -> Carriers {
        Carriers::default()
    }

    /// What looks at the body once the method has said its word of the head.
    fn body(&self) -> Option<Arc<dyn OnBody>> {
        None
    }

    /// What keeps the body ([`Exchange::body`]) for a method whose proof is made of it. It has to want as few as can be: nobody has proved
    /// anything yet.
    fn proving_body(&self) -> Option<Arc<dyn OnBody>> {
        None
    }

    /// The fields that [`Proved::extra`] may set. A client's own fields of these names never go upstream.
    fn sets(&self) -> Vec<HeaderName> {
        Vec::new()
    }
}
