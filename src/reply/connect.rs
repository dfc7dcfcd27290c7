//! Errors as the [Connect protocol](https://connectrpc.com/docs/protocol) has them: a code, a text, and details that are messages of their own.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::push_json;
use crate::grpc::connect;

/// A message that says more of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// `google.rpc.ErrorInfo` and the like.
    pub kind: String,
    pub value: Vec<u8>,
}

/// The JSON that a failed call is answered with. `code`: gRPC's.
pub fn connect_error(code: u8, message: &str, details: &[Detail]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"{\"code\":");
    push_json(&mut out, connect::name(code));
    if !message.is_empty() {
        out.extend_from_slice(b",\"message\":");
        push_json(&mut out, message);
    }
    for (number, detail) in details.iter().enumerate() {
        out.extend_from_slice(if number == 0 { b",\"details\":[" } else { b"," });
        out.extend_from_slice(b"{\"type\":");
        push_json(&mut out, &detail.kind);
        out.extend_from_slice(b",\"value\":");
        push_json(&mut out, &STANDARD_NO_PAD.encode(&detail.value));
        out.push(b'}');
    }
    if !details.is_empty() {
        out.push(b']');
    }
    out.extend_from_slice(b"}\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_json_whatever_it_says() {
        let detail = |kind: &str, value: &[u8]| Detail { kind: kind.to_owned(), value: value.to_vec() };
        let details = [detail("google.rpc.RetryInfo", b"\x0a\x02\x08\x3c"), detail("x.\"Y\"", b"")];
        let read = |text: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&text).unwrap();
        let error = read(connect_error(1, "said \"no\"\n\u{e9}", &details));
        assert_eq!((&error["code"], &error["message"]), (&"canceled".into(), &"said \"no\"\n\u{e9}".into()));
        assert_eq!(
            error["details"],
            serde_json::json!([
                { "type": "google.rpc.RetryInfo", "value": "CgIIPA" },
                { "type": "x.\"Y\"", "value": "" },
            ])
        );
        assert_eq!(read(connect_error(14, "", &[])), serde_json::json!({ "code": "unavailable" }));
    }
}
