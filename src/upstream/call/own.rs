//! What the gateway asks a service of its own accord: a question about a client's request, for instance. No client is at the other end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::{Answer, Broken, Call, CallError, Caller, Own, Piece, Tries};
use crate::exchange::Exchange;
use crate::head::{BodyFraming, HeaderEdit, RequestHead};
use crate::upstream::{AttemptOutcome, Service, TlsConnector};

/// A body up to this length is read to its end, so that the connection can be used again.
const MOST_DRAINED: usize = 64 * 1024;
/// For as long as this: whoever asked waits for it.
const DRAIN: Duration = Duration::from_millis(10);

/// What services are called with: a worker's caller, and the services of a request's generation.
#[derive(Clone, Copy)]
pub struct Engine<'a> {
    pub caller: &'a Caller,
    pub tls: &'a Arc<TlsConnector>,
    pub services: &'a BTreeMap<Arc<str>, Arc<Service>>,
}

/// A request of the gateway's own.
pub struct Question<'a> {
    pub method: Method,
    /// The path, and the query if there is one.
    pub target: &'a str,
    pub host: &'a str,
    pub fields: HeaderMap,
    /// `None`: there is none, and no length is told.
    pub body: Option<Bytes>,
}

/// The head of an answer to one.
pub struct Told {
    pub status: StatusCode,
    pub fields: HeaderMap,
}

impl Engine<'_> {
    /// Asks a service about an exchange, under the exchange's request id and trace. Not having answered within `limit` is the
    /// endpoint's failure. `None` if no answer can be had. The answer's body is not for anybody.
    pub async fn ask(&self, service: &Service, question: Question<'_>, about: &Exchange, limit: Duration) -> Option<Told> {
        let Question { method, target, host, fields, body } = question;
        let mut head = RequestHead::build(method.as_str(), target, &[("Host", host)]);
        if let Some(body) = &body {
            head.body = BodyFraming::Length(body.len() as u64);
        }
        let mut exchange = Exchange::begun(about.connection.clone(), about.request_id.clone(), Instant::now());
        exchange.traceparent = about.traceparent;
        let mut last: Option<HeaderName> = None;
        for (name, value) in fields {
            // Set, so that it takes the place of what every request is given (the id, the trace).
            let first = name.is_some();
            last = name.or(last);
            exchange.to_upstream.extend(last.clone().map(|name| match first {
                true => HeaderEdit::Set(name, value),
                false => HeaderEdit::Add(name, value),
            }));
        }
        let call = Call { head: &head, exchange: &exchange, target: None, fill: None, stands_for: None };
        let (mut tries, mut client) = (Tries::default(), Own(body.unwrap_or_default()));
        let asked = async {
            let mut asked = self.caller.send(service, &call, &mut tries, &mut client, self.tls).await;
            // A question changes nothing: it may be asked twice, whatever its method, where a kept connection had ended.
            if let Err(CallError::Service(reply)) = &asked
                && reply.reason == "connection_lost"
                && !method.is_idempotent()
            {
                asked = self.caller.send(service, &call, &mut tries, &mut client, self.tls).await;
            }
            asked
        };
        let answer = match tokio::time::timeout(limit, asked).await {
            Ok(answer) => answer.ok()?,
            Err(_) => {
                tries.failed(service, AttemptOutcome::TimedOut);
                return None;
            }
        };
        let told = Told { status: answer.head.status, fields: fields_of(&answer) };
        self.caller.put_away(answer, service).await;
        Some(told)
    }
}

impl Caller {
    /// Reads what is left of an answer that nobody wants, if it is little, so that its connection can be used again.
    pub async fn put_away(&self, answer: Answer, service: &Service) {
        if let Ok(Ok(Some(answer))) = tokio::time::timeout(DRAIN, drained(answer, service, MOST_DRAINED, |_| ())).await {
            self.keep(answer, service);
        }
    }
}

fn fields_of(answer: &Answer) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(answer.head.fields.len());
    for (name, value) in answer.head.headers() {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            fields.append(name, value);
        }
    }
    fields
}

/// Reads an answer's body to its end, or up to `most` bytes of it, and shows it to `see`. Gives the answer back, for [`Caller::keep`], if
/// that was the whole.
///
/// # Errors
/// See [`Answer::more`].
pub async fn drained(
    mut answer: Answer,
    service: &Service,
    most: usize,
    mut see: impl FnMut(&[u8]),
) -> Result<Option<Answer>, Broken> {
    if answer.head.body.is_done() {
        return Ok(Some(answer));
    }
    let mut left = most;
    loop {
        match answer.take()? {
            Some(Piece::End | Piece::Trailers(_)) => return Ok(Some(answer)),
            Some(Piece::Data(data, _)) => {
                see(&data);
                match left.checked_sub(data.len()) {
                    Some(rest) => left = rest,
                    None => return Ok(None),
                }
            }
            None => answer.more(&mut Own(Bytes::new()), service, false).await?,
        }
    }
}
