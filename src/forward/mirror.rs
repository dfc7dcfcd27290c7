//! Copies of requests for another service ([`Mirror`]): on tasks of their own, so that no client waits for them.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue};
use tokio::sync::oneshot;

use crate::downstream::Downstream;
use crate::exchange::Exchange;
use crate::head::{BodyFraming, HeaderEdit, RequestHead};
use crate::journey::Journey;
use crate::listen::share::{Purse, grown};
use crate::policy::shape::mirror::{Digest, MOST_COMPARED, Mirror, Place, Seen, Watch};
use crate::upstream::call::client::Ear;
use crate::upstream::call::{Call, Caller, Client, Own, Tries, drained};
use crate::upstream::{AttemptOutcome, Service, TlsConnector};

const MARK: HeaderName = HeaderName::from_static("x-portcullis-mirror");

/// A copy that waits for the request's body.
pub struct Copy {
    /// `None` once it is on its way, or will never be.
    question: Option<Box<Question>>,
    body: BytesMut,
    /// How long it may become.
    most: usize,
    purse: Option<Purse>,
}

/// All that a copy is but its body.
struct Question {
    mirror: Arc<Mirror>,
    caller: Arc<Caller>,
    tls: Arc<TlsConnector>,
    service: Arc<Service>,
    head: RequestHead,
    exchange: Exchange,
    target: Option<String>,
    /// The client's answer, where it is to be compared.
    seen: Option<oneshot::Receiver<Seen>>,
}

/// Begins a copy of this request, if its route wants one: sends it where the body is known, else gives it back to be fed.
pub fn begin(caller: &Arc<Caller>, journey: &mut Journey, down: &Downstream, compares: bool) -> Option<Copy> {
    let mirror = journey.route()?.plan.options.mirror.clone()?;
    let streams = journey.head.upgrade || journey.dialect.is_grpc() || journey.asks_for_stream();
    if streams || journey.mirrored || !mirror.wants(&journey.head, &journey.exchange) {
        return None;
    }
    let known = down.buffered();
    let length = match (known, journey.head.body) {
        (Some(body), _) => Some(body.len() as u64),
        (None, BodyFraming::Length(length)) => Some(length),
        (None, _) => None,
    };
    if length.is_some_and(|length| length > mirror.body as u64) {
        mirror.counts.too_large.add(1);
        return None;
    }
    let Journey { view, head, exchange, .. } = &*journey;
    let service = view.snapshot.services.get(&mirror.service)?.clone();
    let mut head = RequestHead::clone(head);
    if down.body_is_empty() {
        head.body = BodyFraming::None;
    }
    let empty = head.body == BodyFraming::None;
    let body = known.cloned().or_else(|| empty.then(Bytes::new));
    let mut purse = down.purse_beside();
    if let (Some(body), Some(purse)) = (&body, &mut purse)
        && !purse.charge(body.len())
    {
        mirror.counts.dropped.add(1);
        return None;
    }
    // Whoever sends his body slowly takes no place meanwhile.
    let place = if body.is_some() { Some(mirror.place()?) } else { None };
    let (watch, seen) = (mirror.compare && compares).then(Watch::new).unzip();
    let question = Question {
        caller: caller.clone(),
        tls: view.tls.clone(),
        service,
        head,
        exchange: copied(exchange),
        target: journey.upstream_target(),
        seen,
        mirror,
    };
    // Whatever way the request takes from here on.
    journey.mirrored = true;
    journey.compared = watch.map(Box::new);
    match (body, place) {
        (Some(body), Some(place)) => {
            question.send(body, (place, purse));
            None
        }
        _ => {
            let most = length.map_or(question.mirror.body, |length| length as usize);
            Some(Copy { question: Some(Box::new(question)), body: BytesMut::new(), most, purse })
        }
    }
}

/// What the service is told of an exchange, with the mark of a copy.
fn copied(exchange: &Exchange) -> Exchange {
    let mut copy = exchange.retold();
    copy.to_upstream.push(HeaderEdit::Set(MARK, HeaderValue::from_static("1")));
    copy
}

impl Question {
    /// On its way, on a task of this worker: it ends with the process, and with the time that it may take.
    fn send(self, body: Bytes, taken: (Place, Option<Purse>)) {
        tokio::spawn(async move {
            // Given back last.
            let _taken = taken;
            let Question { mirror, caller, tls, service, mut head, exchange, target, seen } = self;
            if head.body != BodyFraming::None {
                head.body = BodyFraming::Length(body.len() as u64);
            }
            let call = Call { head: &head, exchange: &exchange, target: target.as_deref(), fill: None, stands_for: None };
            let (mut tries, mut client) = (Tries::default(), Own(body));
            let asked = async {
                let answer = caller.send(&service, &call, &mut tries, &mut client, &tls).await.ok()?;
                let (status, mut digest) = (answer.head.status, Digest::default());
                if let Some(whole) = drained(answer, &service, MOST_COMPARED, |piece| digest.see(piece)).await.ok()? {
                    caller.keep(whole, &service);
                }
                Some(digest.seen(status))
            };
            let asked = tokio::time::timeout(mirror.timeout, asked).await;
            if asked.is_err() {
                tries.failed(&service, AttemptOutcome::TimedOut);
            }
            tries.end();
            let Some(copys) = asked.ok().flatten() else { return mirror.counts.failed.add(1) };
            mirror.counts.answered.add(1);
            if let Some(seen) = seen
                && let Ok(Ok(clients)) = tokio::time::timeout(mirror.timeout, seen).await
            {
                let route = exchange.route.as_deref().unwrap_or_default();
                mirror.compare(&clients, &copys, (route, &exchange.request_id));
            }
        });
    }
}

impl Copy {
    fn feed(&mut self, piece: &[u8]) {
        let Some(question) = &self.question else { return };
        let counts = &question.mirror.counts;
        let given_up = if self.body.len() + piece.len() > self.most {
            Some(&counts.too_large)
        } else if let Some(after) = grown(&self.body, piece.len(), self.most) {
            let paid = self.purse.as_mut().is_none_or(|purse| purse.charge(after - self.body.capacity()));
            if paid {
                self.body.reserve(after - self.body.len());
            }
            (!paid).then_some(&counts.dropped)
        } else {
            None
        };
        match given_up {
            None => self.body.extend_from_slice(piece),
            Some(count) => {
                count.add(1);
                (self.question, self.body, self.purse) = (None, BytesMut::new(), None);
            }
        }
    }

    fn end(&mut self) {
        if let Some(question) = self.question.take()
            && let Some(place) = question.mirror.place()
        {
            question.send(std::mem::take(&mut self.body).freeze(), (place, self.purse.take()));
        }
    }
}

impl Drop for Copy {
    /// The answer came before the whole request, or the request never came to its end.
    fn drop(&mut self) {
        if let Some(question) = &self.question {
            question.mirror.counts.unfinished.add(1);
        }
    }
}

/// The client's body goes into the copy as well.
impl Ear for &mut Copy {
    fn piece(&mut self, _client: &impl Client, piece: Option<&Bytes>) {
        match piece {
            Some(piece) => self.feed(piece),
            None => self.end(),
        }
    }
}
