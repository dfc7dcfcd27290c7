//! Connections to hosts that have addresses of both families (RFC 8305, "happy eyeballs"): where one to an address is long in the making, one
//! to an address of the other family is made beside it, and whichever stands first is used.
//!
//! The one that was overtaken counts as one that could not be made. So an address that always loses is left out for a while after three of
//! them, as one is that nobody can connect to, and requests do not even wait for the head start.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use pingora_error::ErrorType;

use super::pool::Key;
use super::{Caller, Connection, Own, Tries};
use crate::upstream::{Protocol, Service, TlsConnector};

/// How long the first one is alone: RFC 8305's Connection Attempt Delay.
pub(super) const HEAD_START: Duration = Duration::from_millis(250);

/// A connection in the making.
pub(super) type Dialling<'a, T> = Pin<Box<dyn Future<Output = Result<T, ErrorType>> + Send + 'a>>;

/// One beside another, and what was tried for it.
pub(super) type Beside<'a, T> = Pin<Box<dyn Future<Output = (Box<Tries>, Option<T>)> + Send + 'a>>;

/// What comes first: `first`, to the endpoint whose turn it is, or what `second` makes of an address of the other family, if there is one.
pub(super) async fn race<'a, T>(
    service: &Service,
    tries: &mut Tries,
    mut first: Dialling<'_, T>,
    second: impl FnOnce(Box<Tries>) -> Beside<'a, T>,
) -> Result<T, ErrorType> {
    if let Ok(made) = tokio::time::timeout(HEAD_START, first.as_mut()).await {
        return made;
    }
    let Some(other) = tries.to_other_family(service) else { return first.await };
    let mut second = second(other);
    let (error, (other, made)) = tokio::select! {
        biased;
        made = first.as_mut() => match made {
            Ok(made) => return Ok(made),
            Err(error) => (Some(error), second.await),
        },
        ended = second.as_mut() => (None, ended),
    };
    match (made, error) {
        (Some(made), _) => {
            tries.go_over_to(service, *other);
            Ok(made)
        }
        (None, error) => {
            tries.shun(*other);
            match error {
                Some(error) => Err(error),
                None => first.await,
            }
        }
    }
}

impl Caller {
    /// For [`race`].
    pub(super) fn connect_beside<'a>(
        &'a self,
        service: &'a Service,
        spoken: Protocol,
        mut tries: Box<Tries>,
        tls: &'a std::sync::Arc<TlsConnector>,
    ) -> Beside<'a, (Connection, Key)> {
        Box::pin(async move {
            let made = self.connect(service, spoken, &mut tries, &mut Own(Bytes::new()), tls, false).await;
            (tries, made.ok())
        })
    }
}
