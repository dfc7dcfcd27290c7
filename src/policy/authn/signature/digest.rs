//! `Content-Digest` (RFC 9530): what ties a signature, which covers this field, to the body itself.

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{HeaderValue, header};
use sfv::{BareItem, ListEntry, Parser};
use subtle::ConstantTimeEq;

use crate::exchange::Exchange;
use crate::head::{BodyFraming, RequestHead};
use crate::policy::authn::Authn;
use crate::policy::authn::failure::Failure;
use crate::policy::{OnBody, Policy};
use crate::reply::{Flow, Reply};

/// Compares the body of a signed request with the digest that it announces.
pub struct ContentDigest {
    pub bound: usize,
}

/// Whether the value names at least one algorithm that is known, and all that are known are right.
fn agrees(value: &[u8], body: &[u8]) -> bool {
    let Ok(dictionary) = Parser::parse_dictionary(value) else { return false };
    let mut agreed = false;
    for (name, entry) in &dictionary {
        let algorithm = match name.as_str() {
            "sha-256" => &digest::SHA256,
            "sha-512" => &digest::SHA512,
            // Others are insecure or unknown, and say nothing (RFC 9530, section 5).
            _ => continue,
        };
        let ListEntry::Item(item) = entry else { return false };
        let BareItem::ByteSeq(announced) = &item.bare_item else { return false };
        if !bool::from(digest::digest(algorithm, body).as_ref().ct_eq(announced)) {
            return false;
        }
        agreed = true;
    }
    agreed
}

/// Whether the body is the one that the request's `Content-Digest` announces.
pub fn agrees_with(head: &RequestHead, body: &[u8]) -> bool {
    let lines: Vec<&[u8]> = head.header_all("content-digest").collect();
    agrees(&lines.join(&b", "[..]), body)
}

impl OnBody for ContentDigest {
    fn bound(&self) -> usize {
        self.bound
    }

    /// The signature was checked just before: it is good, or there is none, and then another method has proved who it is.
    fn wants(&self, head: &RequestHead) -> bool {
        head.body != BodyFraming::None && head.header("content-digest").is_some() && head.header("signature-input").is_some()
    }

    fn on_body(&self, head: &RequestHead, body: &Bytes, _: &mut Exchange) -> Flow {
        if agrees_with(head, body) {
            return Flow::Continue(());
        }
        let failure = Failure::ContentDigestMismatch;
        let reply = Reply::new(failure.status(), Authn::NAME, failure.reason(), failure.detail());
        reply.header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Signature")).refuse()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn field(body: &[u8]) -> String {
        format!("sha-256=:{}:", STANDARD.encode(digest::digest(&digest::SHA256, body)))
    }

    #[test]
    fn every_known_digest_has_to_agree() {
        let good = field(b"hello");
        assert!(agrees(good.as_bytes(), b"hello"));
        assert!(!agrees(good.as_bytes(), b"hell0"));
        assert!(agrees(format!("md5=:AAAA:, {good}").as_bytes(), b"hello"));
        assert!(!agrees(b"md5=:AAAA:", b"hello"), "nothing that could be trusted");
        assert!(!agrees(format!("{good}, sha-512=:AAAA:").as_bytes(), b"hello"));
        assert!(!agrees(b"sha-256=\"x\"", b"hello") && !agrees(b"", b"") && !agrees(b"\xff", b""));
    }

    /// RFC 9530, appendix D: of `{"hello": "world"}` with a line feed.
    #[test]
    fn agrees_with_the_example_of_the_rfc() {
        assert!(agrees(b"sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:", b"{\"hello\": \"world\"}\n"));
    }
}
