//! `dns_family`: which of a host name's addresses are asked.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::address::EndpointAddress;
use crate::upstream::config::word;

/// Which of a host name's addresses are asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Family {
    #[default]
    Any,
    Ipv4,
    Ipv6,
    PreferIpv4,
    PreferIpv6,
}

word!(
    Family, "family",
    "any" => Any, "ipv4" => Ipv4, "ipv6" => Ipv6, "prefer_ipv4" => PreferIpv4, "prefer_ipv6" => PreferIpv6
);

impl Family {
    /// Whether addresses of IPv4 are of use.
    pub fn has_ipv4(self) -> bool {
        self != Family::Ipv6
    }

    /// Whether those of IPv6 are.
    pub fn has_ipv6(self) -> bool {
        self != Family::Ipv4
    }

    /// Whether this address is of use.
    pub fn takes(self, ip: std::net::IpAddr) -> bool {
        if ip.is_ipv4() { self.has_ipv4() } else { self.has_ipv6() }
    }

    /// Whether this address is asked only as far as those of the other family are not well.
    pub fn stands_by(self, address: EndpointAddress) -> bool {
        let second = |ipv4: bool| address.inet().is_some_and(|inet| inet.is_ipv4() == ipv4);
        match self {
            Family::PreferIpv4 => second(false),
            Family::PreferIpv6 => second(true),
            Family::Any | Family::Ipv4 | Family::Ipv6 => false,
        }
    }

    /// What the addresses that are found for it are kept under, beside the name's own key: a preference is not the finding's.
    pub(in crate::upstream) fn key(self) -> &'static str {
        match self {
            Family::Ipv4 => ":ipv4",
            Family::Ipv6 => ":ipv6",
            Family::Any | Family::PreferIpv4 | Family::PreferIpv6 => "",
        }
    }

    /// Why there are no addresses, where the name has some of the other family.
    pub(super) fn none_of(self) -> String {
        let family = if self.has_ipv4() { "IPv4" } else { "IPv6" };
        format!("it has no {family} address")
    }
}
