//! Portcullis in a Pingora server of one's own, beside another service.
//!
//!     embedded gateway.yaml 127.0.0.1:8080 127.0.0.1:8081
//!
//! serves the gateway's configuration on the first address, and a small service of its own on the second. The file is the one that
//! `portcullis run` takes; `kill -HUP` loads it again. See docs/embed.md for what a stock server can do and what it cannot.

use std::process::ExitCode;
use std::time::Duration;

use async_trait::async_trait;
use http::Response;
use pingora::apps::http_app::ServeHttp;
use pingora::prelude::{Server, background_service, http_proxy_service};
use pingora::protocols::http::ServerSession;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, ShutdownWatch};
use pingora::services::background::BackgroundService;
use pingora::services::listening::Service;
use portcullis::embed::Gateway;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    env_logger::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, gateway, status] = arguments.as_slice() else {
        eprintln!("usage: embedded FILE GATEWAY_ADDRESS STATUS_ADDRESS");
        return ExitCode::FAILURE;
    };
    serve(file, gateway, status)
}

pub fn serve(file: &str, address: &str, status: &str) -> ExitCode {
    let gateway = match Gateway::from_file(file) {
        Ok(gateway) => gateway,
        Err(failure) => {
            // Every problem in the file, with its place and a hint.
            eprintln!("{failure}");
            return ExitCode::FAILURE;
        }
    };
    let conf = ServerConf { threads: 2, grace_period_seconds: Some(1), ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();

    // The gateway is a `ProxyHttp` like any other.
    let mut proxy = http_proxy_service(&server.configuration, gateway.clone());
    proxy.add_tcp(address);
    server.add_service(proxy);

    // And this is a service like any other.
    let mut own = Service::new("status".to_owned(), Status);
    own.add_tcp(status);
    server.add_service(own);

    server.add_service(background_service("reload", Reload(gateway.clone())));
    server.run(RunArgs::default());
    // TERM was obeyed: what waits to be written to the access log shall not be lost.
    gateway.flush(Duration::from_secs(5));
    ExitCode::SUCCESS
}

struct Status;

#[async_trait]
impl ServeHttp for Status {
    async fn response(&self, _session: &mut ServerSession) -> Response<Vec<u8>> {
        Response::new(b"a service of its own\n".to_vec())
    }
}

/// Loads the file again on SIGHUP, which Pingora leaves to others. What came of it is in the log.
struct Reload(Gateway);

#[async_trait]
impl BackgroundService for Reload {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
        loop {
            tokio::select! {
                _ = hangups.recv() => {
                    let gateway = self.0.clone();
                    // It reads files, so not on a thread that serves.
                    let _ = tokio::task::spawn_blocking(move || gateway.reload()).await;
                }
                _ = shutdown.changed() => return,
            }
        }
    }
}
