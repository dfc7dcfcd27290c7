//! Structure: is this a request that the backend could understand at all? Before authentication, because it is cheaper to say no to.
//!
//! [`json`] and [`media`] are grammar; [`request`] is the policy.

pub mod csrf;
pub mod json;
pub mod media;
pub mod request;
