//! Connections that are carried as they are: plain TCP, TLS that is passed on without being opened, and what is inside of TLS that the
//! gateway ends.
//!
//! A connection finds its route by the listener that it came through and by the name that it asks for in TLS ([`names`]), which
//! [`hello`] reads without taking part in the handshake. [`pump`] carries the bytes, [`announce`] tells the service who the client is.
//!
//! Deliberately not here: how a service is connected to, which is for [`crate::upstream::call`] as for every request, and what a
//! connection leaves in the log, which is for whoever serves it.

pub mod announce;
pub mod config;
pub mod counts;
pub mod hello;
pub mod names;
pub mod pace;
pub mod pump;

pub use config::{BandwidthConfig, ProxyVersion, TcpRouteConfig};
pub use names::Names;

/// The policies that hold for connections as they do for requests: those that look at nothing but the client's address.
pub const POLICIES: [&str; 2] = ["ip_restriction", "address_limit"];
