//! What identity providers are asked: where their keys are (OpenID Connect Discovery, RFC 8414), the keys themselves (RFC 7517), and
//! what they know of a token (RFC 7662).
//!
//! Not in here: what a request is told of the answer.

pub mod discovery;
pub mod introspection;
pub mod jwks;
pub mod provider;

pub use introspection::ClientAuth;
pub use jwks::{Jwks, JwksConfig};
pub use provider::ProviderConfig;
