//! Host names as the system resolves them: `/etc/hosts`, search domains and whatever else it was set up with count. It tells no lifetimes.

use super::family::Family;
use super::{Announced, Discovery, Finding, Found};
use crate::upstream::dns::LOOKUP_TIMEOUT;

/// A host name with a port.
pub struct System {
    host: Box<str>,
    port: u16,
    family: Family,
}

impl System {
    pub fn new(host: &str, port: u16, family: Family) -> Self {
        System { host: host.into(), port, family }
    }
}

impl Discovery for System {
    fn what(&self) -> &str {
        &self.host
    }

    fn kind(&self) -> &'static str {
        "host"
    }

    /// The question runs on the runtime's blocking threads.
    fn find(&self) -> Finding<'_> {
        Box::pin(async {
            let lookup = tokio::net::lookup_host((&*self.host, self.port));
            let addresses = match tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await {
                Ok(Ok(addresses)) => addresses,
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err(format!("no answer within {LOOKUP_TIMEOUT:?}")),
            };
            let mut others = false;
            let taken = addresses.filter(|address| {
                let takes = self.family.takes(address.ip());
                others |= !takes;
                takes
            });
            let announced = taken.map(|address| Announced {
                address: address.into(),
                said: None,
                authority: format!("{}:{}", self.host, self.port),
                host: Some(self.host.to_string()),
            });
            let announced: Vec<_> = announced.collect();
            if announced.is_empty() && others {
                return Err(self.family.none_of());
            }
            Ok(Found::new(announced))
        })
    }
}
