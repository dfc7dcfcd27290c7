//! Signed tokens and the keys that check them: JWT (RFC 7519), JWK sets (RFC 7517), and which algorithm a key is for.
//!
//! Not in here: where a token stands in a request, what its claims must say, and where keys come from.

pub mod json;
pub mod jwk;
pub mod key;
pub mod token;
#[cfg(test)]
mod vectors;

pub use key::{JwtKeyConfig, VerifyKey};
pub use token::Token;

/// Why a token is not believed, in the order of how far it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    TooLarge,
    Malformed,
    /// Its header asks for something that this gateway never does: critical extensions, or keys that the token brings along.
    UnsupportedHeader,
    UnsupportedType,
    UnknownKey,
    UnsupportedAlgorithm,
    BadSignature,
    /// Signed well, but a claim has the wrong JSON type.
    MalformedClaim,
}
