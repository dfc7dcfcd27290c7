//! A request as Pingora read it, made the one that policies see: held to the same rules as one that our own door reads.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::BytesMut;
use pingora_core::protocols::Digest;
use pingora_core::protocols::tls::SslDigest;
use pingora_proxy::Session;

use crate::exchange::{Connection, TlsFacts};
use crate::head::RequestHead;
use crate::listen::socket::canonical;
use crate::wire::head::{self, HeadLimits, Refused};

/// The request's head. Over HTTP/1.x it is read once more, strictly, from the bytes that Pingora has read: what two parsers could
/// take for two different requests is refused here, though Pingora took it.
///
/// # Errors
/// Whatever our own door refuses.
pub fn read_head(session: &mut Session, limits: &HeadLimits) -> Result<Box<RequestHead>, Box<Refused>> {
    if session.is_http2() {
        let empty = session.is_body_empty();
        return head::from_h2(session.req_header().as_ref(), empty, limits);
    }
    head::take(&mut BytesMut::from(&*session.to_h1_raw()), limits)
}

/// What is known of the connection. A client on a Unix socket has no address: it is taken for `0.0.0.0`, which no trusted range holds
/// that does not hold everybody.
pub fn connection(session: &Session, listener: Arc<str>) -> Arc<Connection> {
    const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let inet = |address: Option<&pingora_core::protocols::l4::socket::SocketAddr>| {
        address.and_then(|address| address.as_inet()).map_or(NOWHERE, |address| canonical(*address))
    };
    let peer = inet(session.client_addr());
    let tls = session.digest().and_then(ssl).map(facts);
    Arc::new(Connection { peer, local: inet(session.server_addr()), client: peer, listener, tls, told: Default::default() })
}

/// Where the connection came in.
pub fn local(session: &Session) -> Option<SocketAddr> {
    session.server_addr().and_then(|address| address.as_inet()).map(|address| canonical(*address))
}

fn ssl(digest: &Digest) -> Option<&SslDigest> {
    digest.ssl_digest.as_deref()
}

/// All there is to know where the handshake was [`super::tls`]'s. Of somebody else's TLS: the version alone, and no certificate, so that
/// a route that wants one refuses.
fn facts(digest: &SslDigest) -> TlsFacts {
    if let Some(known) = digest.extension.get::<TlsFacts>() {
        return known.clone();
    }
    let version = ["TLSv1.3", "TLSv1.2", "TLSv1.1", "TLSv1"].into_iter().find(|known| *known == digest.version).unwrap_or("TLS");
    TlsFacts { version, cipher: "", server_name: None, client: None }
}
