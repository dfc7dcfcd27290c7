//! Calls to a service that wants to be shown who the gateway is ([`crate::credentials`]): the request goes as it would, with a password, a
//! token or a signature in place of what the client has shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderName, Method, StatusCode};

use super::client::Client;
use super::request::{self, Parts};
use super::{Answer, Call, CallError, Caller, Tries};
use crate::clock::unix_seconds;
use crate::credentials::aws::{Outgoing, Signer};
use crate::credentials::{Kind, UpstreamAuth};
use crate::exchange::Exchange;
use crate::head::HeaderEdit;
use crate::reply::Reply;
use crate::sigv4;
use crate::upstream::{Service, TlsConnector};

/// What is said where there is nothing to show.
pub(super) fn unavailable(service: &Service) -> CallError {
    let detail = "The gateway has no credentials for the backend at the moment.";
    let reply = Reply::new(StatusCode::SERVICE_UNAVAILABLE, Service::NAME, "credentials_unavailable", detail);
    CallError::Service(reply.retry_after(service.retry_after))
}

/// What signs one call, as often as it is sent: a signature says when it was made, and is taken for some minutes only.
pub(super) struct Signing<'a> {
    signer: &'a Signer,
    method: &'a Method,
    target: &'a str,
    host: &'a [u8],
    /// See [`Outgoing::fields`].
    fields: Vec<(String, Vec<u8>)>,
    payload: String,
    /// When it was last signed, in seconds of Unix time.
    signed: AtomicU64,
}

impl<'a> Signing<'a> {
    pub(super) fn new(signer: &'a Signer, method: &'a Method, target: &'a str, host: &'a [u8]) -> Self {
        Signing { signer, method, target, host, fields: Vec::new(), payload: String::new(), signed: AtomicU64::new(0) }
    }

    pub(super) fn over(self, fields: Vec<(String, Vec<u8>)>, payload: String) -> Self {
        Signing { fields, payload, ..self }
    }

    /// The fields that sign the call as it is sent now. `None` if there are no keys.
    pub(super) async fn sign(&self) -> Option<Vec<HeaderEdit>> {
        let Signing { signer, method, target, host, fields, payload, signed } = self;
        signed.store(unix_seconds(), Ordering::Relaxed);
        signer.sign(&Outgoing { method, target, host, fields, payload }).await
    }

    /// The exchange of the call with another signature than it has. `Ok(None)` if it would be the same.
    ///
    /// # Errors
    /// There are no keys any more.
    pub(super) async fn renewed(&self, call: &Call<'_>, service: &Service) -> Result<Option<Box<Exchange>>, CallError> {
        if self.signed.load(Ordering::Relaxed) == unix_seconds() {
            return Ok(None);
        }
        let edits = self.sign().await.ok_or_else(|| unavailable(service))?;
        let mut exchange = Box::new(call.exchange.retold());
        exchange.deadline = call.exchange.deadline;
        exchange.to_upstream.extend(edits);
        Ok(Some(exchange))
    }
}

/// Sends the call with what is shown.
///
/// # Errors
/// See [`CallError`].
pub async fn send<C: Client>(
    caller: &Caller,
    auth: &Arc<UpstreamAuth>,
    service: &Service,
    call: &Call<'_>,
    (tries, client): (&mut Tries, &mut C),
    tls: &Arc<TlsConnector>,
) -> Result<Answer, CallError> {
    let edits = auth.edits().await.ok_or_else(|| unavailable(service))?;
    let mut exchange = call.exchange.retold();
    exchange.deadline = call.exchange.deadline;
    if let Kind::Aws(aws) = &auth.kind {
        // Before what policies set, which stays.
        let dropped = call.head.headers().filter(|(name, _)| aws.drops(name));
        let dropped = dropped.filter_map(|(name, _)| HeaderName::from_bytes(name).ok()).map(HeaderEdit::Remove);
        let told = std::mem::take(&mut exchange.to_upstream);
        exchange.to_upstream = dropped.chain(told).collect();
    }
    exchange.to_upstream.extend(edits);
    let own;
    let mut signing = None;
    if let Kind::Aws(aws) = &auth.kind {
        let payload = match aws.body {
            // What follows a handshake is no body.
            Some(_) if call.head.upgrade => sigv4::digest_of(b""),
            Some(most) => sigv4::digest_of(&client.whole(most).await.map_err(CallError::Client)?),
            None => sigv4::UNSIGNED.to_owned(),
        };
        let target = match call.target {
            Some(target) => target,
            None => {
                own = request::target(call.head);
                &own
            }
        };
        let host = request::authority(call.head, call.exchange);
        let made = Signing::new(&aws.signer, call.method(), target, host).over(signed_fields(call, &exchange), payload);
        exchange.to_upstream.extend(made.sign().await.ok_or_else(|| unavailable(service))?);
        signing = Some(made);
    }
    let inner = Call { head: call.head, exchange: &exchange, target: call.target, fill: call.fill, stands_for: call.stands_for };
    let answer = caller.dispatch_signed(service, &inner, tries, client, tls, signing.as_ref()).await?;
    if matches!(answer.head.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        auth.doubt();
    }
    Ok(answer)
}

/// The fields of AWS's own that the call has, in lower case: all of them have to be signed.
fn signed_fields(call: &Call<'_>, exchange: &Exchange) -> Vec<(String, Vec<u8>)> {
    let parts = Parts {
        head: call.head,
        target: call.target,
        exchange,
        buffered: None,
        empty: false,
        expects: false,
        attempt: 1,
        fill: call.fill,
    };
    let fields = request::listed(&parts).into_iter().filter_map(|(name, value)| {
        let name = String::from_utf8(name).ok()?.to_ascii_lowercase();
        name.starts_with("x-amz-").then_some((name, value))
    });
    fields.collect()
}
