//! What a request says of its call: how the message is written, and where it stands.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};

use super::{Call, CallError, Client, NAME};
use crate::carrier::decode;
use crate::grpc::connect::{Codec, Kind, VERSION};
use crate::reply::Reply;
use crate::wire::coding::{Coded, Fault, TAKEN};

/// RFC 4648, section 5, padded or not.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&URL_SAFE, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// See the module.
pub struct Asked<'q> {
    pub codec: Codec,
    query: Option<Query<'q>>,
}

/// What stands in the query of a GET.
struct Query<'q> {
    message: &'q str,
    base64: bool,
    compression: Option<&'q str>,
}

impl<'q> Asked<'q> {
    /// # Errors
    /// The answer to what is no call, or is one of a kind that is not served.
    pub fn of(call: &Call<'_>, query: Option<&'q str>) -> Result<Asked<'q>, Box<Reply>> {
        let mut versions = call.head.header_all(VERSION);
        if !matches!((versions.next(), versions.next()), (None | Some(b"1"), None)) {
            return Err(refused("unsupported_version", "The field Connect-Protocol-Version is 1."));
        }
        if *call.method() != Method::POST {
            return Self::of_query(query.unwrap_or_default());
        }
        match call.content_type().and_then(Kind::of) {
            Some(Kind::Unary(codec)) => Ok(Asked { codec, query: None }),
            Some(Kind::Streaming) => {
                let detail = "Calls that stream are not taken by the Connect protocol here, but by gRPC and gRPC-Web.";
                Err(Reply::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, NAME, "streaming_unsupported", detail))
            }
            None => Err(unknown_codec()),
        }
    }

    fn of_query(query: &'q str) -> Result<Asked<'q>, Box<Reply>> {
        let [mut encoding, mut message, mut base64, mut compression, mut connect] = [None; 5];
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let known = match name {
                "encoding" => &mut encoding,
                "message" => &mut message,
                "base64" => &mut base64,
                "compression" => &mut compression,
                "connect" => &mut connect,
                _ => continue,
            };
            if known.replace(value).is_some() {
                // Whoever looked at it before may have seen the other one.
                return Err(refused("malformed_query", "A parameter of the call stands in the query twice."));
            }
        }
        let (Some(encoding), Some(message)) = (encoding, message) else {
            return Err(refused("malformed_query", "The query has to say `encoding` and `message`."));
        };
        let codec = Codec::named(encoding.as_bytes()).ok_or_else(unknown_codec)?;
        Ok(Asked { codec, query: Some(Query { message, base64: base64 == Some("1"), compression }) })
    }

    pub fn is_get(&self) -> bool {
        self.query.is_some()
    }

    /// The message as its codec has it, of up to `most` bytes.
    pub async fn message<C: Client>(&self, call: &Call<'_>, most: usize, client: &mut C) -> Result<Bytes, CallError> {
        let body = client.whole(most).await.map_err(CallError::Client)?;
        let (coded, body) = match &self.query {
            None => (Coded::by(call.lines("content-encoding")), body),
            Some(_) if !body.is_empty() => {
                let detail = "The message of a GET stands in its query, and it has no body.";
                return Err(CallError::Service(refused("unexpected_body", detail)));
            }
            Some(query) => {
                let message = query.read().map_err(CallError::Service)?;
                client.pays(message.len()).map_err(CallError::Client)?;
                (query.compression.map_or(Coded::No, |name| Coded::by([name.as_bytes()])), message)
            }
        };
        let message = undone(&coded, body, most, client)?;
        if message.len() > most {
            return Err(CallError::Service(too_large()));
        }
        Ok(message)
    }
}

impl Query<'_> {
    fn read(&self) -> Result<Bytes, Box<Reply>> {
        let text = decode(self.message);
        if self.base64 {
            let bytes = BASE64.decode(&text).map_err(|_| refused("malformed_message", "The message is no base64 for URLs."))?;
            return Ok(bytes.into());
        }
        if std::str::from_utf8(&text).is_err() {
            return Err(refused("malformed_message", "A message that is no UTF-8 stands in base64 in the query (`base64=1`)."));
        }
        Ok(text.into_owned().into())
    }
}

/// What is behind a coding. Of nothing at all nothing is undone.
fn undone<C: Client>(coded: &Coded, body: Bytes, most: usize, client: &mut C) -> Result<Bytes, CallError> {
    let codings = match coded {
        Coded::No => return Ok(body),
        Coded::With(_) if body.is_empty() => return Ok(body),
        Coded::With(codings) => codings,
        Coded::Unknown => {
            let detail = "Messages are taken in these codings, and in no others: identity, gzip, deflate, br, zstd.";
            let reply = Reply::new(StatusCode::NOT_IMPLEMENTED, NAME, "content_encoding_unsupported", detail);
            return Err(CallError::Service(reply.header(header::ACCEPT_ENCODING, TAKEN)));
        }
    };
    let mut lacking = None;
    let pay = |bytes| client.pays(bytes).map_err(|error| lacking = Some(error)).is_ok();
    let fault = match codings.undo(&body, most, pay) {
        Ok(undone) => return Ok(undone.content.into()),
        Err(fault) => fault,
    };
    Err(match (fault, lacking) {
        (_, Some(error)) => CallError::Client(error),
        (Fault::TooLarge | Fault::Ratio | Fault::NoMemory, None) => CallError::Service(too_large()),
        (Fault::Malformed, None) => {
            CallError::Service(refused("content_encoding_malformed", "The message is not coded as the request says."))
        }
    })
}

fn refused(reason: &'static str, detail: &'static str) -> Box<Reply> {
    Reply::new(StatusCode::BAD_REQUEST, NAME, reason, detail)
}

fn too_large() -> Box<Reply> {
    Reply::new(StatusCode::PAYLOAD_TOO_LARGE, NAME, "message_too_large", "The message is larger than the service takes.")
}

fn unknown_codec() -> Box<Reply> {
    let detail = "Messages are taken as application/proto and as application/json.";
    let reply = Reply::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, NAME, "codec_unsupported", detail);
    // RFC 9110, section 15.5.16.
    reply.header(header::ACCEPT, HeaderValue::from_static("application/proto, application/json"))
}
