//! Connections to hosts that have addresses of both families (RFC 8305, "happy eyeballs"): where one to an address is long in the making, one
//! to an address of the other family is made beside it, and whichever stands first is used.
//!
//! The one that was overtaken counts as one that could not be made, so that an address that always loses is left out after three of them, as
//! one is that nobody can connect to. Until then, and where most addresses are such that not all can be left out, the loser has no head
//! start for a while, and nobody waits for it. To lose without one says nothing of it: the other address may have had a connection at hand.

use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora_error::ErrorType;

use super::pool::Key;
use super::{Caller, Connection, Own, Tries};
use crate::upstream::{InFlightGuard, Protocol, Service, TlsConnector};

/// How long the first one is alone: RFC 8305's Connection Attempt Delay.
const HEAD_START: Duration = Duration::from_millis(250);

/// How long the one that was overtaken has none.
const MEMORY: Duration = Duration::from_secs(10);

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
    let Some(endpoint) = tries.flight().map(InFlightGuard::held) else { return first.await };
    let lost_lately = endpoint.overtaken().is_some_and(|at| at.elapsed() < MEMORY);
    let head_start = if lost_lately { Duration::ZERO } else { HEAD_START };
    if let Ok(made) = tokio::time::timeout(head_start, first.as_mut()).await {
        if made.is_ok() {
            endpoint.note_overtaken(None);
        }
        return made;
    }
    let Some(other) = tries.to_other_family(service) else { return first.await };
    let mut second = second(other);
    let (error, (other, made)) = tokio::select! {
        biased;
        made = first.as_mut() => match made {
            Ok(made) => {
                endpoint.note_overtaken(None);
                return Ok(made);
            }
            Err(error) => (Some(error), second.await),
        },
        ended = second.as_mut() => (None, ended),
    };
    match (made, error) {
        (Some(made), _) => {
            if !lost_lately {
                endpoint.note_overtaken(Some(Instant::now()));
                tries.outpaced(service);
            }
            tries.go_over_to(service, *other);
            Ok(made)
        }
        (None, error) => {
            tries.shun(service, *other);
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
