//! The door: what happens to a connection before a request of it is looked at.

pub mod bound;
pub mod config;
pub mod connections;
pub mod forwarded;
pub mod guard;
pub mod holder;
pub mod in_flight;
pub mod listener;
pub mod proxy_protocol;
pub mod redirect;
pub mod share;
pub mod socket;
pub mod tls;
pub mod trace;
