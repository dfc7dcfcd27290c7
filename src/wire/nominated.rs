//! The fields that a request's `Connection` nominates: they belong to the connection that it came over (RFC 9110, section 7.6.1).
//!
//! They are taken away while the head is read, before anybody looks. Taken away on the way to the backend only, a field would be judged
//! by policies (a tenant, a limit's key, a route's predicate) that the backend never hears of.

use smallvec::SmallVec;

use super::encode::is_hop_by_hop;
use super::head::{BadHead, bad};
use crate::exchange::is_gateways;
use crate::head::RequestHead;

/// The most names that one request may nominate beside the usual ones. Nobody nominates more than one or two, and each is compared with
/// every field.
const MOST: usize = 16;

const PROTECTED: BadHead =
    bad("connection_header", "Connection names a field that says where a request goes, how long it is, or who it came from.");
const TOO_MANY: BadHead = bad("connection_header", "Connection names too many fields.");

/// Whether a connection option names nothing that has to be looked for: those that nearly every client sends.
#[inline]
pub(super) fn is_usual(option: &[u8]) -> bool {
    match option.len() {
        0 => true,
        2 => option.eq_ignore_ascii_case(b"te"),
        5 => option.eq_ignore_ascii_case(b"close"),
        7 => option.eq_ignore_ascii_case(b"upgrade"),
        10 => option.eq_ignore_ascii_case(b"keep-alive"),
        _ => false,
    }
}

/// Takes the nominated fields away.
///
/// # Errors
/// A nomination of what every recipient needs, or of what proxies in front say about the client. No honest client makes one, and a proxy
/// that passes `Connection` on would lend its client the power to take the proxy's own word away.
#[cold]
pub(super) fn remove(head: &mut RequestHead) -> Result<(), BadHead> {
    let buffer = head.buffer.clone();
    let mut names: SmallVec<[&[u8]; 4]> = SmallVec::new();
    let lines = head.fields.iter().filter(|field| field.name.of(&buffer).eq_ignore_ascii_case(b"connection"));
    for line in lines {
        for option in line.value.of(&buffer).split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            if is_usual(option) || is_hop_by_hop(option) {
                continue;
            }
            if is_protected(option) {
                return Err(PROTECTED);
            }
            if names.len() == MOST {
                return Err(TOO_MANY);
            }
            names.push(option);
        }
    }
    head.fields.retain(|field| !names.iter().any(|option| option.eq_ignore_ascii_case(field.name.of(&buffer))));
    Ok(())
}

fn is_protected(name: &[u8]) -> bool {
    let forwarding = name.get(..12).is_some_and(|start| start.eq_ignore_ascii_case(b"x-forwarded-"));
    forwarding || is_gateways(name) || name.eq_ignore_ascii_case(b"host") || name.eq_ignore_ascii_case(b"content-length")
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::wire::head::{HeadLimits, take};

    fn read(fields: &str) -> Result<Box<RequestHead>, BadHead> {
        let text = format!("GET /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
        take(&mut BytesMut::from(text.as_bytes()), &HeadLimits::default()).map_err(|refused| refused.bad)
    }

    fn names(fields: &str) -> Vec<String> {
        let head = read(fields).unwrap();
        head.headers().map(|(name, _)| String::from_utf8_lossy(name).to_ascii_lowercase()).collect()
    }

    #[test]
    fn what_is_nominated_is_not_there() {
        assert_eq!(
            names("X-Tenant: a\r\nConnection: X-Tenant, close\r\nx-tenant: b\r\nX-Tenant-Id: c"),
            ["host", "connection", "x-tenant-id"]
        );
        assert_eq!(
            names("Connection: x-a\r\nConnection: ,, AUTHORIZATION ,\r\nX-A: 1\r\nAuthorization: t"),
            ["host", "connection", "connection"]
        );
        // What belongs to a connection anyway is for whoever asks for it: nobody else sees it.
        assert_eq!(
            names("Connection: Upgrade, TE, trailer\r\nTE: trailers\r\nUpgrade: x"),
            ["host", "connection", "te", "upgrade"]
        );
    }

    #[test]
    fn what_all_recipients_need_cannot_be_nominated() {
        for name in [
            "Host",
            "content-length",
            "X-Forwarded-For",
            "x-forwarded-prefix",
            "Forwarded",
            "X-Real-IP",
            "x-request-id",
            "traceparent",
        ] {
            let refused = read(&format!("Connection: keep-alive, {name}")).expect_err(name);
            assert_eq!((refused.status.as_u16(), refused.reason), (400, "connection_header"), "{name}");
        }
        let many: Vec<String> = (0..=MOST).map(|number| format!("x-{number}")).collect();
        assert_eq!(read(&format!("Connection: {}", many.join(","))).unwrap_err().reason, "connection_header");
        assert!(read(&format!("Connection: {}", many[1..].join(","))).is_ok());
    }
}
