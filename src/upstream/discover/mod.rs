//! Where a service's endpoints are found that the configuration does not list: host names, DNS records, a file.
//!
//! A way to find them is a [`Discovery`]. It is asked again and again by the watchers, on a thread of their own; what it says replaces what
//! it said before, so that addresses that leave get no new requests and those under way finish. What it cannot say changes nothing. For
//! another registry (etcd, Consul ...) there is a file to add here, and a key in [`config`].

pub mod config;
pub mod family;
mod file;
pub mod message;
mod records;
mod stub;
mod system;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::address::EndpointAddress;

pub use system::System;

/// A way to find endpoints.
pub trait Discovery: Send + Sync {
    /// What is asked, for people: a host name, a record, a file.
    fn what(&self) -> &str;

    /// What that is.
    fn kind(&self) -> &'static str;

    /// Asks. Ends within some seconds, and never blocks the event loop.
    fn find(&self) -> Finding<'_>;
}

/// The future of [`Discovery::find`]. It fails with what to tell people.
pub type Finding<'a> = Pin<Box<dyn Future<Output = Result<Found, String>> + Send + 'a>>;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// `None`: what it was the last time.
    pub endpoints: Option<Vec<Announced>>,
    /// When to ask again. `None`: when the service says so.
    pub again: Option<Duration>,
    /// That there are none is to be believed.
    pub may_be_none: bool,
}

/// One endpoint that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    pub address: EndpointAddress,
    /// `None`: as the service says.
    pub said: Option<Said>,
    /// What it is called, for people and for the `Host` of health checks.
    pub authority: String,
    /// The host whose name TLS verifies, if that is to be believed.
    pub host: Option<String>,
}

/// What is said of one endpoint among others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub weight: u32,
    pub priority: u32,
    pub zone: Option<Arc<str>>,
    pub most: Option<u32>,
}

impl Found {
    pub fn new(endpoints: Vec<Announced>) -> Self {
        Found { endpoints: Some(endpoints), again: None, may_be_none: false }
    }
}
