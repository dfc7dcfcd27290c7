//! A service that speaks HTTP/2 without TLS, and does with each stream what its test says.

use std::future::Future;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use tokio::sync::oneshot;

pub struct H2Backend {
    port: u16,
    /// The paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

impl H2Backend {
    pub fn start<W>(answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> W + Send + Sync + 'static) -> H2Backend
    where
        W: Future<Output = ()> + Send + 'static,
    {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), answer)
    }

    pub fn on<W>(
        listener: TcpListener,
        answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> W + Send + Sync + 'static,
    ) -> H2Backend
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        let (asked, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let seen = asked.clone();
        let serving = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let serve = async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let (seen, answer) = (seen.clone(), answer.clone());
                    tokio::spawn(async move {
                        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            seen.lock().unwrap().push(request.uri().path().to_owned());
                            tokio::spawn(answer(request, respond));
                        }
                    });
                }
            };
            runtime.block_on(async move {
                tokio::select! {
                    _ = stopped => {}
                    () = serve => {}
                }
            });
        });
        H2Backend { port, asked, stop: Some(stop), serving: Some(serving) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for H2Backend {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.serving.take().map(JoinHandle::join);
    }
}
