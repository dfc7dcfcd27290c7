//! Trailer fields: what comes behind an answer's body and may go on to the client (RFC 9110, section 6.5).
//!
//! One rule for every protocol: an answer's trailers pass to whoever can take them, and stay trailers. That is every HTTP/2 client, and an
//! HTTP/1.1 client that says `TE: trailers` to an answer in chunks. What a recipient acts on before the body is here (framing, routing,
//! identity, caching, cookies, the format) never passes, nor does a field that a policy has changed: it would come back behind
//! the policy's back. The trailers of a request are read, held to the rules of fields, and dropped, for backends that merge them into the
//! head would see what no policy has seen.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::encode::is_hop_by_hop;
use crate::exchange::is_gateways;
use crate::head::{Edited, HeaderEdits, RequestHead, TRAVEL_FIELDS};

/// The fields of a trailer section that the decoder found well-formed.
pub fn read(section: &Bytes) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in section.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end) {
        let Some((name, value)) = memchr::memchr(b':', line).and_then(|colon| line.split_at_checked(colon)) else { continue };
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            // Only a number of fields that no section has room for could be too many.
            let _ = fields.try_append(name, value);
        }
    }
    fields
}

/// Leaves the fields that may go on. `edits` are the policies' changes to the answer's head.
pub fn filter(fields: &mut HeaderMap, edits: &HeaderEdits) {
    let edited = Edited::new(edits);
    let names: Vec<HeaderName> =
        fields.keys().filter(|name| !passes(name.as_str()) || edited.replaces(name.as_str().as_bytes())).cloned().collect();
    for name in names {
        fields.remove(name);
    }
}

fn passes(name: &str) -> bool {
    /// Beside what says how a message travels: whose it is, who may see it, how it is kept and read (RFC 9110, section 6.5.1).
    const NEVER: [&str; 30] = [
        "age",
        "allow",
        "authorization",
        "cache-control",
        "clear-site-data",
        "client-cert",
        "client-cert-chain",
        "content-disposition",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expires",
        "location",
        "max-forwards",
        "pragma",
        "range",
        "refresh",
        "retry-after",
        "set-cookie",
        "strict-transport-security",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "x-consumer-name",
        "x-content-type-options",
        "x-frame-options",
        "x-real-ip",
    ];
    const FAMILIES: [&str; 6] = ["access-control-", "content-security-policy", "if-", "proxy-", "x-auth-", "x-forwarded-"];
    let travels = TRAVEL_FIELDS.contains(&name) || is_hop_by_hop(name.as_bytes()) || is_gateways(name.as_bytes());
    !travels && NEVER.binary_search(&name).is_err() && !FAMILIES.iter().any(|family| name.starts_with(family))
}

/// Whether an HTTP/1.1 client asks for trailers.
pub fn wanted(head: &RequestHead) -> bool {
    let names =
        |value: &[u8]| value.split(|&byte| byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"));
    head.header_all("te").any(names)
}

/// How many bytes these fields take.
pub fn size(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// Appends the end of a body in chunks, with these trailers.
pub fn last_chunk(out: &mut Vec<u8>, fields: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in fields {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::HeaderEdit;

    #[test]
    fn only_what_may_come_late_goes_on() {
        let section = "Grpc-Status: 0\r\nX-Checksum:  abc \r\nX-Checksum: d\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: a\r\n\
            Set-Cookie: a=b\r\nX-Consumer-Name: root\r\nX-Auth-Scopes: all\r\nX-Forwarded-For: 1.1.1.1\r\nConnection: close\r\nX_Y: z\r\n\
            Content-Type: a/b\r\nTrailer: x\r\nCache-Control: public\r\nX-Old: 1\r\nVary: *\r\nX-Request-Id: 1\r\nIf-Match: 1\r\n\
            Proxy-Authenticate: x\r\nETag: \"e\"\r\n\r\n";
        let mut fields = read(&Bytes::from_static(section.as_bytes()));
        filter(&mut fields, &vec![HeaderEdit::Remove(HeaderName::from_static("x-old"))]);
        let mut out = Vec::new();
        last_chunk(&mut out, &fields);
        let mut lines: Vec<_> = std::str::from_utf8(&out).unwrap().split("\r\n").collect();
        lines.sort_unstable();
        assert_eq!(lines, ["", "", "0", "etag: \"e\"", "grpc-status: 0", "x-checksum: abc", "x-checksum: d", "x_y: z"]);
    }

    #[test]
    fn a_client_asks_for_them_by_te() {
        let asks = |te: &[(&str, &str)]| wanted(&RequestHead::build("GET", "/", te));
        assert!(
            asks(&[("TE", "trailers")])
                && asks(&[("te", "deflate;q=0.5, Trailers")])
                && asks(&[("TE", "gzip"), ("TE", "trailers")])
        );
        assert!(!asks(&[]) && !asks(&[("TE", "trailersx")]) && !asks(&[("Trailer", "trailers")]));
    }
}
