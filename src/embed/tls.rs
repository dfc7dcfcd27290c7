//! Pingora's TLS, with our listeners' settings: certificates by server name from the generation in force, client certificates as
//! the file wants them, and all that policies and the log want to know of a handshake.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::listeners::TlsAccept;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::protocols::tls::TlsRef;
use pingora_core::tls::ssl::NameType;

use super::Gateway;
use crate::config::Source;
use crate::listen::tls::{TlsAcceptor, facts};
use crate::serve::Failure;

impl Gateway {
    /// The TLS of the listener of this name, for Pingora's `add_tls_with_settings`. A reload changes its certificates, authorities and
    /// revocation lists; whether clients are asked for a certificate, the versions and HTTP/2 stay as they are. `None` for a listener
    /// without TLS.
    ///
    /// # Errors
    /// There is no such listener, or its files cannot be read any more.
    pub fn tls_settings(&self, listener: &str) -> Result<Option<TlsSettings>, Failure> {
        let (mut source, document) = Source::read(&self.0.path);
        let refused = |source: &Source| Failure::Config(source.report(false));
        let Some(document) = document else { return Err(refused(&source)) };
        let Some(config) = document.listener(listener) else {
            return Err(Failure::Config(format!("there is no listener `{listener}`")));
        };
        let (Some(tls), Some(bind)) = (&config.tls, self.bind_of(listener)) else { return Ok(None) };
        let base = source.base().to_owned();
        let mut builder = match TlsAcceptor::builder(tls, config.bind.place, &base, &mut source.problems) {
            Some(builder) => builder,
            None => return Err(refused(&source)),
        };
        let gateway = self.clone();
        builder.set_servername_callback(move |ssl, _| {
            let snapshot = gateway.core().snapshot.load();
            if let Some(acceptor) = snapshot.door(&bind).and_then(|door| door.tls.as_ref()) {
                let name = ssl.servername(NameType::HOST_NAME).map(str::to_owned);
                // Fails only without memory; the certificate of the beginning is then as good an answer as any.
                let _ = ssl.set_ssl_context(acceptor.context_for(name.as_deref()));
            }
            Ok(())
        });
        let failed = |error: Box<pingora_error::Error>| Failure::Config(format!("TLS cannot be set up: {error}"));
        let mut settings = TlsSettings::with_callbacks(Box::new(Facts)).map_err(failed)?;
        *settings = builder;
        Ok(Some(settings))
    }

    fn bind_of(&self, listener: &str) -> Option<SocketAddr> {
        self.core().snapshot.load().doors.iter().find(|door| *door.name == *listener).map(|door| door.bind)
    }
}

/// Notes what a handshake proved.
struct Facts;

#[async_trait]
impl TlsAccept for Facts {
    async fn handshake_complete_callback(&self, ssl: &TlsRef) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::new(facts(ssl)))
    }
}
