//! Clusters: the services behind the gateway, which of their endpoints answers next, and how to connect to it.
//!
//! [`Service::compile`] turns one entry under `services:` into what runs; [`Service::pick`] chooses a healthy endpoint, in
//! the way that [`balance`] says; [`Service::peer`] says how to reach it. [`Watchers`] keeps health and resolved names fresh on a thread of
//! its own, so that no event loop ever waits for a resolver or a health check. [`adaptive`] finds out how much a service can do at once.
//!
//! [`call`] is the one way to a service. What comes of an attempt is noted by its [`InFlightGuard`], for [`outlier`] detection and circuit
//! breakers ([`guard`]).

pub mod adaptive;
pub mod address;
pub mod aim;
pub mod balance;
pub mod call;
pub mod cluster;
pub mod config;
pub mod connect;
pub mod connect_calls;
pub mod discover;
pub mod dns;
mod eligible;
pub mod endpoint;
pub mod gate;
pub mod guard;
pub mod health;
pub mod health_config;
pub mod occurrences;
pub mod outlier;
pub mod peer;
pub mod reflection;
pub mod service;
pub mod sticky;
pub mod unix;
pub mod watch;

pub use config::{Protocol, ServiceConfig};
pub use connect::{TlsConnector, connect_failure};
pub use endpoint::{Endpoint, InFlightGuard};
pub use outlier::AttemptOutcome;
pub use peer::{Trust, check_names};
pub use service::{Kept, Picked, Service, ServiceView, Site};
pub use watch::{HealthChange, Watchers};
