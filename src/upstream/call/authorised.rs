//! Calls to a service that wants to be shown who the gateway is ([`crate::credentials`]): the request goes as it would, with a password, a
//! token or a signature in place of what the client has shown.

use std::sync::Arc;

use http::{HeaderName, StatusCode};

use super::client::Client;
use super::request::{self, Parts};
use super::{Answer, Call, CallError, Caller, Tries};
use crate::credentials::aws::Outgoing;
use crate::credentials::{Aws, Kind, UpstreamAuth};
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
    if let Kind::Aws(aws) = &auth.kind {
        let payload = match aws.body {
            // What follows a handshake is no body.
            Some(_) if call.head.upgrade => sigv4::digest_of(b""),
            Some(most) => sigv4::digest_of(&client.whole(most).await.map_err(CallError::Client)?),
            None => sigv4::UNSIGNED.to_owned(),
        };
        let edits = signed(aws, call, &exchange, &payload).await.ok_or_else(|| unavailable(service))?;
        exchange.to_upstream.extend(edits);
    }
    let inner = Call { head: call.head, exchange: &exchange, target: call.target, fill: call.fill, stands_for: call.stands_for };
    let answer = caller.dispatch(service, &inner, tries, client, tls).await?;
    if matches!(answer.head.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        auth.doubt();
    }
    Ok(answer)
}

/// The fields that sign the call as it will be sent.
async fn signed(aws: &Aws, call: &Call<'_>, exchange: &Exchange, payload: &str) -> Option<Vec<HeaderEdit>> {
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
    // All of AWS's own have to be signed that are sent.
    let fields = request::listed(&parts).into_iter().filter_map(|(name, value)| {
        let name = String::from_utf8(name).ok()?.to_ascii_lowercase();
        name.starts_with("x-amz-").then_some((name, value))
    });
    let fields: Vec<_> = fields.collect();
    let own;
    let target = match call.target {
        Some(target) => target,
        None => {
            own = request::target(call.head);
            &own
        }
    };
    let host = request::authority(call.head, exchange);
    aws.signer.sign(&Outgoing { method: call.method(), target, host, fields: &fields, payload }).await
}
