//! The yardstick for the road through Pingora: its proxy with no policies, no routes, no log and no metrics, on one thread.
//!
//!     bare_pingora LISTEN BACKEND [CERTIFICATE KEY]
//!
//! Not a thing to deploy: it says what the engine alone costs, so that what Portcullis adds can be told apart from it. The allocator,
//! the profile and the TLS library are Portcullis's. `make bench-peers` and `make bench-instructions` build and measure it. It ends at
//! once on SIGINT.

use std::net::SocketAddr;
use std::process::ExitCode;

use async_trait::async_trait;
use pingora::listeners::tls::TlsSettings;
use pingora::prelude::{HttpPeer, ProxyHttp, Result, Server, Session, http_proxy_service};
use pingora::server::configuration::ServerConf;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare {
    backend: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.backend, false, String::new())))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (listen, backend, pair) = match arguments.as_slice() {
        [listen, backend] => (listen, backend, None),
        [listen, backend, certificate, key] => (listen, backend, Some((certificate, key))),
        _ => {
            eprintln!("usage: bare_pingora LISTEN BACKEND [CERTIFICATE KEY]");
            return ExitCode::FAILURE;
        }
    };
    let Ok(backend) = backend.parse() else {
        eprintln!("`{backend}` is not an address and a port");
        return ExitCode::FAILURE;
    };
    // As Portcullis sets Pingora up: connections to the backend are kept, and one thread does everything.
    let conf = ServerConf { threads: 1, work_stealing: false, upstream_keepalive_pool_size: 1024, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare { backend });
    match pair {
        None => service.add_tcp(listen),
        Some((certificate, key)) => match TlsSettings::intermediate(certificate, key) {
            Ok(mut tls) => {
                tls.enable_h2();
                service.add_tls_with_settings(listen, None, tls);
            }
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        },
    }
    server.add_service(service);
    server.run_forever()
}
