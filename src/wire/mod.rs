//! HTTP on the wire, as strict as the gateway needs it: heads, body framing, and the writing of answers. No sockets here: bytes in,
//! values out, so that every rule can be tested with a slice.
//!
//! The rules exist to leave no room for request smuggling: a message that two parsers could read in two ways (RFC 9112, section
//! 11.2) is refused, never repaired.

pub mod answer;
mod bad_head;
pub mod body;
mod chunk;
pub mod coding;
pub mod duplex;
pub mod encode;
pub mod frames;
pub mod h2;
pub mod head;
pub mod line;
pub mod media;
mod nominated;
mod scan;
pub mod scratch;
pub mod small;
pub mod stages;
pub mod streams;
pub mod trailers;
pub mod turn;
pub mod upgraded;
pub mod view;
pub mod websocket;
