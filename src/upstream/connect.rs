//! Connections to endpoints over TLS, and what is said when no connection can be made, be it with TLS or without.

use std::sync::{Arc, OnceLock};

use http::StatusCode;
use pingora_core::connectors::TransportConnector;
use pingora_core::protocols::Stream;
use pingora_core::upstreams::peer::Peer;
use pingora_error::{ErrorType, Result};
use tokio::sync::Mutex;

use super::peer::check_names;
use super::service::Service;
use crate::reply::Reply;

/// Makes connections over TLS: Pingora's connector, without its pool. One serves the whole process, for it keeps nothing of a
/// connection that it has made.
#[derive(Default)]
pub struct TlsConnector {
    built: Arc<OnceLock<TransportConnector>>,
    /// Whoever holds it waits for the building of it.
    building: Mutex<()>,
}

impl TlsConnector {
    /// A new connection to `peer`, verified as the peer's options say, within their time limits.
    ///
    /// # Errors
    /// For [`connect_failure`] to explain.
    pub async fn connect<P: Peer + Send + Sync + 'static>(&self, peer: &P) -> Result<Stream> {
        let stream = self.warm().await.new_stream(peer).await?;
        check_names(stream.get_ssl_digest().as_deref())?;
        Ok(stream)
    }

    /// Gets ready, once. Takes a tenth of a second, in which the system's certificate authorities are parsed: on another thread, so
    /// that the event loop goes on.
    pub async fn warm(&self) -> &TransportConnector {
        if self.built.get().is_none() {
            let _one_at_a_time = self.building.lock().await;
            let built = self.built.clone();
            // Goes on even if this request is given up meanwhile.
            let _ = tokio::task::spawn_blocking(move || {
                built.get_or_init(build);
            })
            .await;
        }
        self.built.get_or_init(build)
    }
}

/// Trusts the system's authorities. A service's own come with each peer.
fn build() -> TransportConnector {
    TransportConnector::new(None)
}

/// What the client is told when a connection to a backend could not be made; `None` for what is no failure to connect.
pub fn connect_failure(error: &ErrorType) -> Option<Box<Reply>> {
    use ErrorType::*;
    let (status, reason, detail) = match error {
        ConnectTimedout => (StatusCode::GATEWAY_TIMEOUT, "connect_timeout", "The backend could not be reached in time."),
        TLSHandshakeTimedout => (StatusCode::GATEWAY_TIMEOUT, "tls_timeout", "The backend's TLS handshake took too long."),
        TLSHandshakeFailure | InvalidCert | TLSWantX509Lookup => {
            (StatusCode::BAD_GATEWAY, "tls_failure", "The backend's TLS handshake failed.")
        }
        ConnectRefused | ConnectNoRoute | ConnectError | BindError | SocketError | ConnectProxyFailure => {
            (StatusCode::BAD_GATEWAY, "connect_failure", "The backend could not be reached.")
        }
        _ => return None,
    };
    Some(Reply::new(status, Service::NAME, reason, detail))
}
