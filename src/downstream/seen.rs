//! One field of a request as its backend sees it.

use http::{HeaderName, header};
use smallvec::SmallVec;

use super::TRACEPARENT;
use crate::exchange::{Exchange, X_REQUEST_ID, is_gateways};
use crate::head::{HeaderEdit, RequestHead};
use crate::upstream::call::passes;

/// The values of the field of that name in [`upstream_request`](super::upstream_request), without making the whole of it. A cache
/// that a backend tells what its answer varies by must look at the request that the backend got.
pub fn seen_upstream<'a>(head: &'a RequestHead, exchange: &'a Exchange, name: &HeaderName) -> SmallVec<[&'a [u8]; 2]> {
    let mut values = sent(head, exchange, name);
    let told = exchange.told.iter().flat_map(|told| told.edits());
    for edit in told.chain(&exchange.to_upstream).filter(|edit| edit.name() == name) {
        if !matches!(edit, HeaderEdit::Add(..)) {
            values.clear();
        }
        if let HeaderEdit::Set(_, value) | HeaderEdit::Add(_, value) = edit {
            values.push(value.as_bytes());
        }
    }
    values
}

/// Whether [`seen_upstream`] may have values of any of these names, which are none that the gateway itself tells services: most requests have
/// none of what few ask for.
#[inline]
pub fn may_see_upstream(head: &RequestHead, exchange: &Exchange, names: &[HeaderName]) -> bool {
    // A bit for each length: nearly all that there is has another one.
    let bit = |name: &[u8]| 1u64 << (name.len() & 63);
    let lengths = names.iter().fold(0, |lengths, name| lengths | bit(name.as_str().as_bytes()));
    let is_one =
        |known: &[u8]| lengths & bit(known) != 0 && names.iter().any(|name| known.eq_ignore_ascii_case(name.as_str().as_bytes()));
    head.headers().any(|(name, _)| is_one(name))
        || exchange.to_upstream.iter().any(|edit| is_one(edit.name().as_str().as_bytes()))
}

/// Before what the gateway tells, and before the policies' changes.
fn sent<'a>(head: &'a RequestHead, exchange: &'a Exchange, name: &HeaderName) -> SmallVec<[&'a [u8]; 2]> {
    let is_h2 = head.version == http::Version::HTTP_2;
    let written: Option<&[u8]> = match *name {
        header::HOST => Some(exchange.upstream_host.as_deref().map_or_else(|| head.authority(), str::as_bytes)),
        _ if *name == TRACEPARENT => Some(exchange.traceparent.as_slice()),
        _ if *name == X_REQUEST_ID => Some(exchange.request_id.as_bytes()),
        header::TE => {
            head.header("te").filter(|te| is_h2 && te.eq_ignore_ascii_case(b"trailers")).map(|_| b"trailers".as_slice())
        }
        header::CONNECTION => head.header("upgrade").filter(|_| head.upgrade).map(|_| b"Upgrade".as_slice()),
        header::UPGRADE => head.header("upgrade").filter(|_| head.upgrade),
        _ => None,
    };
    if let Some(value) = written {
        return SmallVec::from_slice(&[value]);
    }
    let name = name.as_str().as_bytes();
    let came = |(known, value): (&[u8], &'a [u8])| known.eq_ignore_ascii_case(name).then_some(value);
    let values: SmallVec<[&[u8]; 2]> = head.headers().filter_map(came).collect();
    if values.is_empty() || passes(name, exchange.trusted_identity) && !is_gateways(name) {
        return values;
    }
    SmallVec::new()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderValue;

    use super::*;
    use crate::downstream::upstream_request;
    use crate::exchange::ForwardedHeaders;

    fn edit(kind: fn(HeaderName, HeaderValue) -> HeaderEdit, name: &'static str, value: &'static str) -> HeaderEdit {
        kind(HeaderName::from_static(name), HeaderValue::from_static(value))
    }

    /// Every field is the one that the whole request has, whatever the client sends and the policies change.
    #[test]
    fn is_what_the_request_has() {
        let fields = [
            ("Host", "h:80"),
            ("Accept", "a"),
            ("ACCEPT", "b"),
            ("Accept-Language", "de"),
            ("Connection", "close"),
            ("X-Forwarded-For", "forged"),
            ("X-Request-Id", "forged"),
            ("Traceparent", "forged"),
            ("X-Auth-Subject", "root"),
            ("X_Under", "1"),
            ("Keep-Alive", "5"),
            ("TE", "Trailers"),
            ("Upgrade", "websocket"),
            ("Expect", "100-continue"),
            ("Via", "1.0 fred"),
            ("Range", "bytes=0-1"),
            ("If-None-Match", ""),
        ];
        let names = fields.iter().map(|(name, _)| *name).chain(["x-set", "x-added", "x-real-ip", "forwarded", "user-agent"]);
        let names: Vec<HeaderName> = names.map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap()).collect();
        let edits = [
            edit(HeaderEdit::Set, "x-set", "1"),
            edit(HeaderEdit::Add, "x-set", "2"),
            edit(HeaderEdit::Add, "accept", "c"),
            edit(HeaderEdit::Set, "accept-language", "en"),
            edit(HeaderEdit::Add, "x-added", "1"),
            HeaderEdit::Remove(header::IF_NONE_MATCH),
            edit(HeaderEdit::Add, "if-none-match", "late"),
        ];
        let told = [
            edit(HeaderEdit::Set, "x-real-ip", "10.0.0.1"),
            HeaderEdit::Remove(header::FORWARDED),
            edit(HeaderEdit::Add, "via", "1.1 g"),
        ];
        let mut compared = 0;
        for case in 0..64 {
            let on = |bit: u32| case & (1 << bit) != 0;
            let mut head = RequestHead::build("GET", "/a", if on(0) { &fields } else { &fields[..4] });
            head.upgrade = on(1);
            head.version = if on(2) { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
            let mut exchange = Exchange::for_tests();
            exchange.trusted_identity = on(3);
            exchange.upstream_host = on(4).then(|| "inner".to_owned());
            if on(5) {
                exchange.to_upstream.extend(edits.clone());
                exchange.told = Some(Arc::new(ForwardedHeaders::new(told.clone().into_iter().collect())));
            }
            let request = upstream_request(&head, None, &exchange).unwrap();
            for name in &names {
                let whole: Vec<&[u8]> = request.headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
                let seen = seen_upstream(&head, &exchange, name);
                assert_eq!(seen.to_vec(), whole, "{name} in case {case}");
                let real_ip = HeaderName::from_static("x-real-ip");
                let written_here = [header::HOST, TRACEPARENT, X_REQUEST_ID, header::VIA, real_ip].contains(name);
                assert!(
                    seen.is_empty() || written_here || may_see_upstream(&head, &exchange, std::slice::from_ref(name)),
                    "{name}"
                );
                compared += whole.len();
            }
        }
        assert!(compared > 300, "{compared}");
    }
}
