//! Sticky sessions: the requests of one session go to the same endpoint for as long as it can take them.
//!
//! What a session is known by is the service's choice: a cookie of the gateway's own, which names the endpoint by an [`Id`] that means
//! nothing to anybody else; something that requests carry anyway, a consumer's name for instance; or a cookie that the endpoint itself
//! sets, which is learned from its answers. The last two are remembered in a [`table`].
//!
//! A session whose endpoint is gone, is ill, was tried in vain or is full goes where the balancer sends it, and stays there. An endpoint
//! that is drained (of weight 0) keeps the sessions it has.

pub mod config;
mod cookie;
mod table;

use std::sync::Arc;

use http::{HeaderValue, StatusCode};

use self::cookie::{Change, OwnCookie};
use self::table::Table;
use crate::address::EndpointAddress;
use crate::by::By;
use crate::carrier::cookie_values;
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::limits::key::Piece;

/// An endpoint, as clients and the table know it: a digest of its address under a key that nobody else has, so that nobody can tell an
/// address by it or make one up that they were not given.
pub type Id = u128;

/// The sticky sessions of one service.
pub struct Sticky {
    by: Means,
    /// For the digests of addresses.
    key: [u8; 32],
    /// What that was made of: held, for the next generation to find it in the ledger.
    _root: Arc<[u8; 32]>,
}

/// What sessions are known by.
enum Means {
    Cookie(OwnCookie),
    /// What requests carry anyway.
    Key(By, Arc<Table>),
    /// A cookie of the service's own.
    Learned(Box<str>, Arc<Table>),
}

/// A request's session, as far as the request tells.
#[derive(Debug, Default)]
pub struct Session {
    /// Where it goes.
    pub bound: Option<Id>,
    /// What the table knows it by.
    known_by: Option<u64>,
}

impl Sticky {
    /// What the endpoint of that address is called.
    pub fn id(&self, address: EndpointAddress) -> Id {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        match address {
            EndpointAddress::Inet(address) => {
                let ip = address.ip().to_canonical();
                match ip {
                    std::net::IpAddr::V4(ip) => hasher.update(&ip.octets()),
                    std::net::IpAddr::V6(ip) => hasher.update(&ip.octets()),
                };
                hasher.update(&address.port().to_be_bytes());
            }
            EndpointAddress::Unix(name) => {
                hasher.update(b"unix:").update(name.as_str().as_bytes());
            }
        }
        let mut digest = [0; 16];
        hasher.finalize_xof().fill(&mut digest);
        Id::from_le_bytes(digest)
    }

    /// What a request tells of its session.
    pub fn session(&self, head: &RequestHead, exchange: &Exchange) -> Session {
        match &self.by {
            Means::Cookie(cookie) => Session { bound: cookie.read(head), known_by: None },
            Means::Key(by, table) => {
                let known_by = by.all_pieces(head, exchange).map(|pieces| {
                    table.name(|hasher| {
                        for piece in &pieces {
                            match piece {
                                Piece::Text(text) => hasher.text(text),
                                Piece::Address(address) => hasher.text(address.to_canonical().to_string().as_bytes()),
                            }
                        }
                    })
                });
                Session { bound: known_by.and_then(|name| table.find(name)), known_by }
            }
            Means::Learned(cookie, table) => {
                let value = cookie_values(head, cookie).find(|value| !value.is_empty());
                let known_by = value.map(|value| table.name(|hasher| hasher.text(value)));
                Session { bound: known_by.and_then(|name| table.find(name)), known_by }
            }
        }
    }

    /// Takes in that the endpoint of that address has answered, and tells the cookie that the client is to be given.
    ///
    /// An endpoint that could not answer (502, 503, 504) gets no new sessions by it.
    pub fn answered<'a>(
        &self,
        session: &Session,
        address: EndpointAddress,
        status: StatusCode,
        set_cookies: impl Iterator<Item = &'a [u8]>,
        secure: bool,
    ) -> Option<HeaderValue> {
        let id = self.id(address);
        let fails = matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT);
        let moved = session.bound != Some(id);
        match &self.by {
            Means::Cookie(cookie) => (moved && !fails).then(|| cookie.write(id, secure)).flatten(),
            Means::Key(_, table) => {
                if let Some(name) = session.known_by.filter(|_| moved && !fails) {
                    table.bind(name, id);
                }
                None
            }
            Means::Learned(cookie, table) => {
                // A session that is known goes on where it was answered.
                if let Some(name) = session.known_by.filter(|_| moved && !fails) {
                    table.bind(name, id);
                }
                for change in set_cookies.filter_map(|field| cookie::change(field, cookie)) {
                    match (change, session.known_by) {
                        (Change::Set(value), _) => table.bind(table.name(|hasher| hasher.text(value)), id),
                        // The session that the client had is over.
                        (Change::Unset, Some(name)) => table.forget(name),
                        (Change::Unset, None) => {}
                    }
                }
                None
            }
        }
    }

    /// How many sessions the table knows, where there is one.
    pub fn sessions(&self) -> Option<usize> {
        match &self.by {
            Means::Cookie(_) => None,
            Means::Key(_, table) | Means::Learned(_, table) => Some(table.len()),
        }
    }
}

#[cfg(test)]
mod tests;
