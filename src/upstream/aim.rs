//! What of a request decides where it goes, where its service wants to know: the key of consistent hashing, and its session.

use std::fmt::{self, Write};
use std::net::IpAddr;

use smallvec::SmallVec;

use super::service::Service;
use super::sticky::Session;
use crate::by::By;
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::limits::key::Piece;

/// Read once for a request, however often it is sent.
#[derive(Debug, Default)]
pub struct Aim {
    key: Option<SmallVec<[u8; 40]>>,
    pub session: Session,
}

impl Aim {
    /// `None` for services that do not want to know, which most do not.
    pub fn of(service: &Service, head: &RequestHead, exchange: &Exchange) -> Option<Box<Self>> {
        if !service.is_aimed() {
            return None;
        }
        let key = service.balance.key().map(|by| key(by, head, exchange));
        let session = service.sticky.as_deref().map(|sticky| sticky.session(head, exchange)).unwrap_or_default();
        Some(Box::new(Aim { key, session }))
    }

    pub(super) fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }
}

/// A key of one part is its text, as nginx hashes it; several stand behind their lengths, so that no others make the same.
fn key(by: &By, head: &RequestHead, exchange: &Exchange) -> SmallVec<[u8; 40]> {
    let pieces = by.pieces(head, exchange);
    let alone = pieces.len() == 1;
    let mut key = SmallVec::new();
    for piece in &pieces {
        match piece {
            Piece::Text(text) => {
                if !alone {
                    key.extend_from_slice(&(text.len() as u64).to_le_bytes());
                }
                key.extend_from_slice(text);
            }
            Piece::Address(address) => {
                if !alone {
                    key.extend_from_slice(&[u8::MAX; 8]);
                }
                let mut key = Text(&mut key);
                let _ = match address.to_canonical() {
                    IpAddr::V4(address) => write!(key, "{address}"),
                    // Within it a client picks addresses as it likes.
                    IpAddr::V6(address) => write!(key, "{:x}", address.to_bits() >> 64),
                };
            }
        }
    }
    key
}

/// Text is written behind what is there.
struct Text<'a>(&'a mut SmallVec<[u8; 40]>);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(by: &str, fields: &[(&str, &str)]) -> Vec<u8> {
        let by: By = serde_yaml::from_str(by).unwrap();
        key(&by, &RequestHead::build("GET", "/a?user=u%201", fields), &Exchange::for_tests()).to_vec()
    }

    #[test]
    fn a_key_of_one_part_is_its_text() {
        assert_eq!(of("{ header: X-Id }", &[("X-Id", "abc")]), b"abc");
        assert_eq!(of("{ query: user }", &[]), b"u 1");
        let address = Exchange::for_tests().client.to_string();
        assert_eq!(of("client_address", &[]), address.as_bytes());
        assert_eq!(of("{ header: X-Id }", &[]), address.as_bytes(), "what is missing is the client's address");
    }

    #[test]
    fn keys_of_several_parts_do_not_meet() {
        let by = "[{ header: a }, { header: b }]";
        assert_ne!(of(by, &[("a", "x"), ("b", "yz")]), of(by, &[("a", "xy"), ("b", "z")]));
    }
}
