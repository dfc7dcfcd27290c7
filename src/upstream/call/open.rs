//! A connection to a service for bytes of any kind: no request is sent on it, and it is never used again.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::StatusCode;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::tls::ALPN;
use pingora_core::upstreams::peer::{HttpPeer, Peer, PeerOptions};
use pingora_error::{Error, ErrorType};
use socket2::{SockRef, TcpKeepalive};

use super::race::{Beside, Dialling, race};
use super::transport::Tls;
use super::{CLIENT_GONE, CallError, Caller, Transport, Tries, reply};
use crate::address::EndpointAddress;
use crate::upstream::gate::Entered;
use crate::upstream::{Endpoint, Service, TlsConnector, connect_failure};

/// A connection that is idle for long is asked now and then whether its other end is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

impl Caller {
    /// Connects to an endpoint of the service; to another one where that fails and the service allows it. `first` is sent before
    /// anything else, before TLS, too: what tells the service who its client is.
    ///
    /// The endpoint counts as busy for as long as `tries` is there, and where it has room for so many only, a place there is taken as long. It is
    /// waited for until `left` says that the client has gone; that is asked only while there is something to wait for.
    ///
    /// # Errors
    /// No connection can be had, and what that means; or nobody wants it any more.
    pub async fn open(
        &self,
        service: &Service,
        tries: &mut Tries,
        first: &Arc<[u8]>,
        tls: &TlsConnector,
        left: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<Transport, CallError> {
        let (transport, took) = self.opened(service, tries, first, tls, left).await?;
        tries.connected(service, took);
        Ok(transport)
    }

    /// The same, and how long it took; nothing is noted of that yet.
    async fn opened(
        &self,
        service: &Service,
        tries: &mut Tries,
        first: &Arc<[u8]>,
        tls: &TlsConnector,
        mut left: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<(Transport, Duration), CallError> {
        loop {
            tries.begin(service);
            if let Some(queue) = service.queue {
                // No idle connection is of use here, but the oldest one is closed where it has the last place.
                let entered = tokio::select! {
                    biased;
                    entered = self.place(service, queue, tries, None) => entered.map_err(CallError::Service)?,
                    () = left.as_mut() => return Err(gone(tries)),
                };
                if let Some(Entered::Place(place)) = entered {
                    tries.hold(place);
                }
            }
            let Some(flight) = tries.flight() else { return Err(CallError::Service(tries.unavailable(service))) };
            let (endpoint, started) = (flight.held(), Instant::now());
            let dialling: Dialling<'_, _> = Box::pin(async move {
                let transport = match service.is_tls() {
                    true => over_tls(&endpoint, service, first, tls).await?,
                    false => plain(endpoint.address(), service, first).await?,
                };
                Ok((transport, started.elapsed()))
            });
            let connected = match service.may_race() {
                true => race(service, tries, dialling, |other| self.open_beside(service, other, first, tls)).await,
                false => dialling.await,
            };
            match connected {
                Ok(opened) => return Ok(opened),
                Err(_) if tries.connect_failed(service) => {}
                Err(error) => match tries.connect_again(service) {
                    Some(wait) => tokio::select! {
                        biased;
                        () = tokio::time::sleep(wait) => {}
                        () = left.as_mut() => return Err(gone(tries)),
                    },
                    None => {
                        let failed = || reply(StatusCode::BAD_GATEWAY, "connect_failure", "The backend could not be reached.");
                        return Err(CallError::Service(connect_failure(&error).unwrap_or_else(failed)));
                    }
                },
            }
        }
    }
}

impl Caller {
    /// For [`race`].
    fn open_beside<'a>(
        &'a self,
        service: &'a Service,
        mut tries: Box<Tries>,
        first: &'a Arc<[u8]>,
        tls: &'a TlsConnector,
    ) -> Beside<'a, (Transport, Duration)> {
        Box::pin(async move {
            let made = self.opened(service, &mut tries, first, tls, pin!(std::future::pending())).await;
            (tries, made.ok())
        })
    }
}

/// The client is not there any more, and gives back what it waited for.
fn gone(tries: &mut Tries) -> CallError {
    tries.end();
    CallError::Client(Error::new(CLIENT_GONE))
}

async fn plain(address: EndpointAddress, service: &Service, first: &[u8]) -> Result<Transport, ErrorType> {
    let connecting = async {
        let mut transport = Transport::plain(address).await?;
        if let Transport::Plain(stream) = &transport {
            let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 6).with_retries(3);
            let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
        }
        transport.write(&mut &*first).await?;
        Ok::<_, std::io::Error>(transport)
    };
    match tokio::time::timeout(service.timeouts.connect, connecting).await {
        Ok(Ok(transport)) => Ok(transport),
        Ok(Err(_)) => Err(ErrorType::ConnectError),
        Err(_) => Err(ErrorType::ConnectTimedout),
    }
}

async fn over_tls(endpoint: &Endpoint, service: &Service, first: &Arc<[u8]>, tls: &TlsConnector) -> Result<Transport, ErrorType> {
    let mut peer = service.peer(endpoint, None);
    if !first.is_empty() {
        let limit = service.timeouts.connect;
        peer.options.custom_l4 = Some(Arc::new(Announced { address: endpoint.address(), first: first.clone(), limit }));
    }
    match tls.connect(&Bare(peer)).await {
        Ok(stream) => Ok(Transport::Tls(Tls::new(stream))),
        Err(error) => {
            log::debug!("{error}");
            Err(error.etype)
        }
    }
}

/// A peer to which no protocol is offered: what is spoken inside of TLS is the client's affair.
#[derive(Clone)]
struct Bare(Box<HttpPeer>);

impl fmt::Display for Bare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Peer for Bare {
    fn address(&self) -> &SocketAddr {
        self.0.address()
    }

    fn tls(&self) -> bool {
        self.0.tls()
    }

    fn sni(&self) -> &str {
        self.0.sni()
    }

    fn reuse_hash(&self) -> u64 {
        self.0.reuse_hash()
    }

    fn get_peer_options(&self) -> Option<&PeerOptions> {
        Some(&self.0.options)
    }

    fn get_mut_peer_options(&mut self) -> Option<&mut PeerOptions> {
        Some(&mut self.0.options)
    }

    fn get_alpn(&self) -> Option<&ALPN> {
        None
    }
}

/// Connects, and says first what comes before TLS.
#[derive(Debug)]
struct Announced {
    address: EndpointAddress,
    first: Arc<[u8]>,
    limit: Duration,
}

#[async_trait]
impl Connect for Announced {
    async fn connect(&self, _address: &SocketAddr) -> pingora_error::Result<L4Stream> {
        let connecting = async {
            let mut transport = Transport::plain(self.address).await?;
            transport.write(&mut &*self.first).await?;
            Ok::<_, std::io::Error>(transport)
        };
        match tokio::time::timeout(self.limit, connecting).await {
            Ok(Ok(Transport::Plain(stream))) => Ok(stream.into()),
            Ok(Ok(Transport::Unix(stream))) => Ok(stream.into()),
            Ok(Ok(Transport::Tls(_))) => Error::e_explain(ErrorType::InternalError, "TLS where there is none yet"),
            Ok(Err(error)) => Err(Error::because(ErrorType::ConnectError, "an announced connection", error)),
            Err(_) => Error::e_explain(ErrorType::ConnectTimedout, "an announced connection"),
        }
    }
}
