//! Structure: is this a request that the backend could understand at all? Before authentication, because it is cheaper to say no to.
//!
//! [`json`] and [`media`] are grammar; [`request`] is the policy, [`contract`] what it does with JSON Schema, [`report`] what became of that.
//! [`openapi`] takes all of it from a document, and [`graphql`] looks into those that clients write. [`form`], [`multipart`] and [`xml`] are grammar as well, which [`content`] asks for
//! without any contract.

pub mod content;
pub mod contract;
pub mod csrf;
pub mod form;
pub mod graphql;
pub mod json;
pub mod media;
pub mod multipart;
pub mod openapi;
pub mod report;
pub mod request;
pub mod xml;
