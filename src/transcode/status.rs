//! How a call ends, as HTTP has it: the status, and what stands in the problem document.

use base64::Engine;
use http::StatusCode;
use prost_reflect::prost::Message;

use super::Transcoder;
use super::write::{Style, Writer};
use crate::grpc::CODES;
use crate::grpc::metadata::BASE64;
use crate::reply::{Detail, push_json};

/// The most details that are told.
const MOST_DETAILS: usize = 32;
/// The longest that all of them may be, in JSON.
const LONGEST: usize = 64 * 1024;

/// `google.rpc.Status`
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// The status of HTTP that a failed call's has (`google.rpc.Code`).
pub fn http(code: u8) -> StatusCode {
    let status = match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    };
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// `NOT_FOUND` and the like.
pub fn name(code: u8) -> String {
    let known = CODES.iter().find(|(_, number)| *number == code);
    known.map_or("UNKNOWN", |(name, _)| *name).to_ascii_uppercase()
}

/// A `grpc-message`, which is UTF-8 in percent escapes. What is none is replaced.
pub fn message(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    String::from_utf8_lossy(&crate::carrier::decode_escapes(&text)).into_owned()
}

/// What a `google.rpc.Status` came with, in base64.
fn read(value: &[u8]) -> Option<RpcStatus> {
    RpcStatus::decode(&*BASE64.decode(value).ok()?).ok()
}

/// The details that came along (`grpc-status-details-bin`), as they are.
pub fn details(value: &[u8]) -> Vec<Detail> {
    let all = read(value).map(|status| status.details).unwrap_or_default();
    let named = |any: Any| {
        let kind = any.type_url.rsplit('/').next().unwrap_or_default().to_owned();
        Detail { kind, value: any.value }
    };
    all.into_iter().take(MOST_DETAILS).map(named).collect()
}

impl Transcoder {
    /// Members of the problem document, each with its comma before it: the code, and the details that came along. Of those of a type that is
    /// not known only its name is told.
    pub fn members(&self, code: u8, details: Option<&[u8]>) -> String {
        let mut out = format!(",\"grpc_status\":{code},\"grpc_code\":\"{}\"", name(code)).into_bytes();
        let status = details.and_then(read);
        if let (Some(status), Some(near)) = (status.filter(|status| !status.details.is_empty()), &self.near) {
            out.extend_from_slice(b",\"details\":[");
            let start = out.len();
            for (number, any) in status.details.iter().take(MOST_DETAILS).enumerate() {
                if number > 0 {
                    out.push(b',');
                }
                let before = out.len();
                let style = Style { always_print: false, ..self.style };
                if Writer::new(style, &mut out, start + LONGEST).typed(near, &any.type_url, &any.value).is_err() {
                    out.truncate(before);
                    out.extend_from_slice(b"{\"@type\":");
                    push_json(&mut out, &any.type_url);
                    out.push(b'}');
                }
                if out.len() > start + LONGEST {
                    out.truncate(before);
                    out.extend_from_slice(b"{}");
                    break;
                }
            }
            out.push(b']');
        }
        String::from_utf8(out).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc;

    #[test]
    fn statuses_are_those_of_the_table() {
        let all: Vec<u16> = (0..=17).map(|code| http(code).as_u16()).collect();
        assert_eq!(all, [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401, 500]);
        assert_eq!((name(5), name(16), name(99)), ("NOT_FOUND".to_owned(), "UNAUTHENTICATED".to_owned(), "UNKNOWN".to_owned()));
    }

    #[test]
    fn messages_are_read_back() {
        for text in ["plain", "50 % \u{e9}\n", ""] {
            assert_eq!(message(grpc::message(text).as_bytes()), text);
        }
        assert_eq!(message(b"%zz%"), "%zz%");
        assert_eq!(message(b"%ff"), "\u{fffd}");
    }
}
