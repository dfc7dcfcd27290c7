//! The sample service that speaks gRPC: `catalogService` of [`PROTO`], whose one method knows one product. It knows nothing of REST.

use std::io;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use prost_reflect::prost::Message;
use tokio::runtime::Runtime;

use super::backends::listening;
use crate::grpc::{GRPC_MESSAGE, GRPC_STATUS};

/// What it has to say for itself; the configuration reads it.
pub const PROTO: &str = include_str!("catalog.proto");
/// The longest request that it reads, in bytes.
const LONGEST: usize = 4096;

#[derive(Clone, PartialEq, Message)]
struct ProductRequest {
    #[prost(string, tag = "1")]
    sku: String,
}

#[derive(Clone, PartialEq, Message)]
struct Product {
    #[prost(string, tag = "1")]
    sku: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(double, tag = "3")]
    price: f64,
}

/// Starts it on this runtime. Its port.
///
/// # Errors
/// The system gives no port.
pub fn start(runtime: &Runtime) -> io::Result<u16> {
    let (socket, port) = listening(runtime)?;
    runtime.spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        // A client that is gone wants no answer.
                        let _ = answer(request, respond).await;
                    });
                }
            });
        }
    });
    Ok(port)
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let known = request.uri().path() == "/catalogService/getProduct";
    let mut body = request.into_body();
    let mut message = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        if message.len() + piece.len() > LONGEST {
            break;
        }
        message.extend_from_slice(&piece);
    }
    let asked = message.get(5..).and_then(|message| ProductRequest::decode(message).ok()).unwrap_or_default();
    let head = Response::builder().header("content-type", "application/grpc");
    let product = Product { sku: asked.sku, name: "Wireless Headphones".to_owned(), price: 79.99 };
    if !known || product.sku != "SKU-789" {
        let (code, why) = if known { (5, "There is no such product.") } else { (12, "There is no such method.") };
        let head = head.header(GRPC_STATUS, code).header(GRPC_MESSAGE, why).body(());
        respond.send_response(head.unwrap_or_default(), true)?;
        return Ok(());
    }
    let encoded = product.encode_to_vec();
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(encoded.len()).unwrap_or_default().to_be_bytes());
    frame.extend_from_slice(&encoded);
    let mut stream = respond.send_response(head.body(()).unwrap_or_default(), false)?;
    stream.send_data(frame.into(), false)?;
    stream.send_trailers(HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]))
}
