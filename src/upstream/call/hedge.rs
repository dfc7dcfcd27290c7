//! Two copies of one request at two endpoints: the second once the first takes unusually long, and whose good head comes first wins. The
//! other one is cancelled: its connection is closed, or its stream reset.
//!
//! What a cancelled copy would have come to nobody knows, so that neither circuit breakers nor outlier detection hear of it. The balance
//! learns that it took at least as long as it was waited for.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::client::{Ear, Overheard};
use super::pool::Key;
use super::{Broken, Call, Caller, Client, Connection, Own, Tries, field_of, gone};
use crate::retry::hedge::Hedging;
use crate::upstream::{Service, TlsConnector};
use crate::wire::answer::AnswerHead;

/// How often it is looked whether a body that is still being sent is there.
const LOOK: Duration = Duration::from_millis(10);

/// What came of the request, and the connection that it came over.
pub(super) type Ended = (Result<Box<AnswerHead>, Broken>, Connection, Key);

/// What is needed to send the request once more, as far as it is known while the first copy is under way.
#[derive(Default)]
struct Seen {
    /// The body, and when all of it was there.
    whole: OnceLock<(Bytes, Instant)>,
    /// The client was told something of an answer.
    spoiled: AtomicBool,
}

impl Seen {
    fn of(client: &impl Client) -> Self {
        let seen = Seen::default();
        let body = client.buffered().cloned().or_else(|| client.body_is_empty().then(Bytes::new));
        if let Some(body) = body {
            let _ = seen.whole.set((body, Instant::now()));
        }
        seen
    }

    fn body(&self) -> Option<Bytes> {
        let whole = self.whole.get().filter(|_| !self.spoiled.load(Ordering::Relaxed));
        whole.map(|(body, _)| body.clone())
    }

    /// How long the answer has been waited for, the whole request having been sent.
    fn waited(&self, started: Instant) -> Duration {
        self.whole.get().map_or(started, |(_, at)| started.max(*at)).elapsed()
    }

    /// Waits until the answer has been waited for so long.
    async fn overdue(&self, after: Duration) {
        loop {
            let whole = self.whole.get().map(|(_, at)| *at + after);
            let until = whole.unwrap_or_else(|| Instant::now() + after.max(LOOK));
            tokio::time::sleep_until(until.into()).await;
            if whole.is_some() {
                return;
            }
        }
    }
}

impl Ear for &Seen {
    fn piece(&mut self, client: &impl Client, piece: Option<&Bytes>) {
        // A copy has no trailers.
        let plain = || client.trailers().is_none_or(|fields| fields.is_empty());
        if piece.is_none() && client.can_replay() && plain() {
            let _ = self.whole.set((client.replay().unwrap_or_default(), Instant::now()));
        }
    }

    fn interim(&mut self) {
        self.spoiled.store(true, Ordering::Relaxed);
    }
}

/// A second copy that has come to its end.
struct Copied {
    tries: Box<Tries>,
    /// `None` if nothing good came of it.
    answer: Option<(Box<AnswerHead>, Connection, Key)>,
}

type Copying<'a> = Pin<Box<dyn Future<Output = Copied> + Send + 'a>>;

/// Which one came first.
enum Raced<'a> {
    /// There was no other one.
    Alone(Result<Box<AnswerHead>, Broken>),
    First(Result<Box<AnswerHead>, Broken>, Option<Copying<'a>>),
    Second(Copied),
}

impl Caller {
    /// Sends a request over this connection, and a copy of it to another endpoint if it takes too long.
    #[allow(clippy::too_many_arguments, reason = "all that a call is made of")]
    pub(super) async fn ask_hedged<C: Client>(
        &self,
        service: &Service,
        hedging: &Hedging,
        call: &Call<'_>,
        tries: &mut Tries,
        client: &mut C,
        tls: &Arc<TlsConnector>,
        (mut connection, key): (Connection, Key),
    ) -> Ended {
        hedging.earn();
        let (attempt, started, seen) = (tries.attempts, Instant::now(), Seen::of(client));
        let mut watched = Overheard { client, by: &seen };
        let raced = {
            let mut asking = pin!(connection.ask(call, attempt, &mut watched, service));
            let early = match hedging.after() {
                None => Some(asking.as_mut().await),
                Some(after) => tokio::select! {
                    biased;
                    asked = asking.as_mut() => Some(asked),
                    () = seen.overdue(after) => None,
                },
            };
            match early {
                Some(asked) => Raced::Alone(asked),
                None => match self.second(service, hedging, call, tries, seen.body(), tls) {
                    None => Raced::Alone(asking.await),
                    Some(mut copying) => {
                        let first = tokio::select! {
                            biased;
                            asked = asking.as_mut() => Ok(asked),
                            copied = copying.as_mut() => Err(copied),
                        };
                        match first {
                            Ok(asked) => Raced::First(asked, Some(copying)),
                            Err(copied) if copied.answer.is_some() => Raced::Second(copied),
                            Err(_) => Raced::First(asking.await, None),
                        }
                    }
                },
            }
        };
        let waited = seen.waited(started);
        let asked = match raced {
            Raced::Alone(asked) => {
                if is_good(&asked, service) {
                    hedging.observe(waited);
                }
                return (asked, connection, key);
            }
            Raced::First(asked, copying) => {
                let settled = is_good(&asked, service) || matches!(asked, Err(Broken::Client(_)));
                let copied = match copying.filter(|_| !settled) {
                    None => None,
                    Some(copying) => tokio::select! {
                        biased;
                        copied = copying => Some(copied),
                        () = watched.gone() => return (Err(gone()), connection, key),
                    },
                };
                match copied.filter(|copied| copied.answer.is_some()) {
                    Some(copied) => (Some(asked), copied),
                    None => {
                        if settled {
                            hedging.observe(waited);
                        }
                        hedging.ended(false);
                        return (asked, connection, key);
                    }
                }
            }
            Raced::Second(copied) => (None, copied),
        };
        let (first, Copied { tries: other, answer }) = asked;
        let uploaded = watched.uploaded();
        match &first {
            Some(Ok(head)) => tries.answered(service, call.head, head.status, field_of(head), uploaded),
            Some(Err(broken)) => tries.broke(service, broken),
            None => tries.overtaken(service, waited),
        }
        hedging.observe(waited);
        if let Some(started) = other.started {
            hedging.observe(started.elapsed());
        }
        hedging.ended(true);
        tries.go_on_as(*other);
        match answer {
            Some((head, connection, key)) => (Ok(head), connection, key),
            // Asked for above.
            None => (Err(gone()), connection, key),
        }
    }

    /// A second copy, if there is somebody to send it to, and something left to pay for it with.
    fn second<'a>(
        &'a self,
        service: &'a Service,
        hedging: &Hedging,
        call: &'a Call<'_>,
        tries: &mut Tries,
        body: Option<Bytes>,
        tls: &'a Arc<TlsConnector>,
    ) -> Option<Copying<'a>> {
        let body = body?;
        let other = tries.aside(service)?;
        if !hedging.spend(|| service.retries.spend(|| service.new_requests())) {
            return None;
        }
        tries.attempts += 1;
        tries.hedge = "lost";
        Some(Box::pin(self.copy(service, call, other, Own(body), tls)))
    }

    async fn copy(
        &self,
        service: &Service,
        call: &Call<'_>,
        mut tries: Box<Tries>,
        mut client: Own,
        tls: &Arc<TlsConnector>,
    ) -> Copied {
        let mut fresh = false;
        loop {
            let connected =
                self.connect(service, service.protocol.spoken(|| call.is_grpc()), &mut tries, &mut client, tls, fresh).await;
            let Ok((mut connection, key)) = connected else { return Copied { tries, answer: None } };
            tries.sends();
            let kept = connection.is_kept();
            let asked = connection.ask(call, tries.attempts, &mut client, service).await;
            let good = is_good(&asked, service);
            match asked {
                Ok(head) if good => return Copied { tries, answer: Some((head, connection, key)) },
                Ok(head) => tries.answered(service, call.head, head.status, field_of(&head), None),
                Err(broken) if broken.is_stale() && kept && tries.replay() => {
                    tries.again(service);
                    fresh = true;
                    continue;
                }
                Err(broken) => tries.broke(service, &broken),
            }
            return Copied { tries, answer: None };
        }
    }
}

/// Whether it is an answer that nothing better need be waited for.
fn is_good(asked: &Result<Box<AnswerHead>, Broken>, service: &Service) -> bool {
    let Ok(head) = asked else { return false };
    let failed = head.status.is_server_error() || super::tries::is_failed_call(field_of(head));
    !failed && service.retries.of_answer(head.status.as_u16(), field_of(head)).is_none()
}
