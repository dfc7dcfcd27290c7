//! The same request in every way in which a client can send it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::harness::Client;

/// How a request comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Length,
    Chunked,
    H2Length,
    H2Streamed,
    Grpc,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Length, Kind::Chunked, Kind::H2Length, Kind::H2Streamed];
}

/// What a client was told.
#[derive(Debug)]
pub struct Told {
    /// 0: nothing.
    pub status: u16,
    pub grpc: Option<String>,
    /// The answer's body, if it came whole.
    pub body: Result<Vec<u8>, String>,
}

impl Told {
    fn nothing(why: impl ToString) -> Told {
        Told { status: 0, grpc: None, body: Err(why.to_string()) }
    }

    /// Whether the gateway has said that it failed.
    pub fn is_failure(&self) -> bool {
        matches!(self.status, 502..=504) || self.grpc.as_deref().is_some_and(|status| status != "0")
    }
}

pub fn ask(port: u16, kind: Kind, method: &str, path: &str, body: &[u8]) -> Told {
    match kind {
        Kind::Length | Kind::Chunked => by_h1(port, kind, method, path, body),
        _ => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let asked = runtime
                .block_on(async { tokio::time::timeout(Duration::from_secs(30), by_h2(port, kind, method, path, body)).await });
            asked.expect("an answer in time").unwrap_or_else(Told::nothing)
        }
    }
}

fn by_h1(port: u16, kind: Kind, method: &str, path: &str, body: &[u8]) -> Told {
    let mut client = Client::connect(port);
    if kind == Kind::Length {
        client.send_request(method, path, &[], body);
    } else {
        let mut chunks = Vec::new();
        for piece in body.chunks(10_000) {
            chunks.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            chunks.extend_from_slice(piece);
            chunks.extend_from_slice(b"\r\n");
        }
        chunks.extend_from_slice(b"0\r\n\r\n");
        client.send_request(method, path, &[("Transfer-Encoding", "chunked")], &chunks);
    }
    match client.try_answer_to(method) {
        Ok(answer) => Told { status: answer.status, grpc: None, body: Ok(answer.body) },
        Err(why) => Told::nothing(why),
    }
}

async fn by_h2(port: u16, kind: Kind, method: &str, path: &str, body: &[u8]) -> Result<Told, h2::Error> {
    let socket = tokio::net::TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap();
    let (mut send, connection) = h2::client::handshake(socket).await?;
    tokio::spawn(connection);
    let mut request = http::Request::builder().method(method).uri(format!("http://a{path}"));
    match kind {
        Kind::H2Length => request = request.header("content-length", body.len()),
        Kind::Grpc => request = request.header("content-type", "application/grpc").header("te", "trailers"),
        _ => {}
    }
    let (answer, mut stream) = send.send_request(request.body(()).unwrap(), false)?;
    // The frames wait for the window. Where the stream is over before, the answer counts.
    let _ = stream.send_data(Bytes::copy_from_slice(body), true);
    let answer = answer.await?;
    let (status, grpc) = (answer.status().as_u16(), answer.headers().get("grpc-status").cloned());
    let grpc = grpc.map(|status| status.to_str().unwrap().to_owned());
    let (mut whole, mut from) = (Vec::new(), answer.into_body());
    while let Some(piece) = from.data().await {
        match piece {
            Ok(piece) => {
                let _ = from.flow_control().release_capacity(piece.len());
                whole.extend_from_slice(&piece);
            }
            Err(error) => return Ok(Told { status, grpc, body: Err(error.to_string()) }),
        }
    }
    match from.trailers().await {
        Ok(trailers) => {
            let last =
                trailers.and_then(|trailers| trailers.get("grpc-status").map(|status| status.to_str().unwrap().to_owned()));
            Ok(Told { status, grpc: grpc.or(last), body: Ok(whole) })
        }
        Err(error) => Ok(Told { status, grpc, body: Err(error.to_string()) }),
    }
}
