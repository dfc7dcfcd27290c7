//! A client's request as its backend sees it, as a header map.

use http::header;
use pingora_error::Result;
use pingora_http::RequestHeader;

use super::TRACEPARENT;
use crate::exchange::{Exchange, X_REQUEST_ID, is_gateways};
use crate::head::{HeaderEdit, RequestHead};
use crate::upstream::call::passes;

/// The request as the backend shall see it: the client's fields without what belongs to the connection, then what the gateway tells, then
/// the policies' changes.
///
/// # Errors
/// Fields that `http` does not take, which the head reader has refused already.
pub fn upstream_request(head: &RequestHead, target: Option<&str>, exchange: &Exchange) -> Result<Box<RequestHeader>> {
    let query = head.query();
    let built;
    let target = match (target, query) {
        (Some(target), _) => target,
        (None, None) => head.path.as_str(),
        (None, Some(query)) => {
            built = format!("{}?{query}", head.path);
            &built
        }
    };
    let mut request = Box::new(RequestHeader::build(head.method.clone(), target.as_bytes(), Some(head.fields.len() + 8))?);
    request.set_version(head.version);
    for field in &head.fields {
        let name = field.name.of(&head.buffer);
        if passes(name, exchange.trusted_identity) && !is_gateways(name) {
            let name = String::from_utf8_lossy(name).into_owned();
            let value =
                pingora_http::header_value_from_raw(head.buffer.slice(field.value.start as usize..field.value.end as usize));
            request.append_header(name, value)?;
        }
    }
    let authority = exchange.upstream_host.as_deref().map_or_else(|| head.authority(), str::as_bytes);
    request.insert_header(header::HOST, pingora_http::header_value_from_slice(authority))?;
    if head.upgrade
        && let Some(protocol) = head.header("upgrade")
    {
        request.insert_header(header::CONNECTION, "Upgrade")?;
        request.insert_header(header::UPGRADE, pingora_http::header_value_from_slice(protocol))?;
    }
    // gRPC servers insist on it (and HTTP/1.1 backends never see it, for it only comes from HTTP/2 clients).
    if head.header("te").is_some_and(|te| te.eq_ignore_ascii_case(b"trailers")) && head.version == http::Version::HTTP_2 {
        request.insert_header(header::TE, "trailers")?;
    }
    request.insert_header(TRACEPARENT, exchange.traceparent.as_slice())?;
    request.insert_header(X_REQUEST_ID, exchange.request_id.as_bytes())?;
    let told = exchange.told.iter().flat_map(|told| told.edits());
    for edit in told.chain(&exchange.to_upstream) {
        match edit {
            HeaderEdit::Set(name, value) => request.insert_header(name.clone(), value.clone())?,
            HeaderEdit::Add(name, value) => request.append_header(name.clone(), value.clone()).map(drop)?,
            HeaderEdit::Remove(name) => {
                request.remove_header(name);
            }
        }
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backend_sees_no_hop_by_hop_field() {
        let head = RequestHead::build(
            "GET",
            "/a?b",
            &[
                ("Host", "h"),
                ("Connection", "close"),
                ("Keep-Alive", "1"),
                ("X_Auth_Subject", "root"),
                ("X-Auth-Subject", "root"),
                ("X-Consumer-Name", "root"),
                ("Accept", "*/*"),
                ("TE", "trailers"),
            ],
        );
        let request = upstream_request(&head, None, &Exchange::for_tests()).unwrap();
        let mut names: Vec<_> = request.headers.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "host", "traceparent", "x-request-id"]);
        assert_eq!(request.raw_path(), b"/a?b");
    }
}
