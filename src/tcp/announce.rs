//! Telling a service whose connection it gets, with a PROXY protocol header
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).

use std::net::{IpAddr, SocketAddr};

use super::config::ProxyVersion;
use crate::listen::proxy_protocol::{V1_PREFIX, V1_TCP4, V1_TCP6, V2_PROXY, V2_SIGNATURE, V2_TCP4, V2_TCP6};

/// The header for a connection of `client`, who had connected to `destination`.
pub fn header(version: ProxyVersion, client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (client, destination) = alike(client, destination);
    match version {
        ProxyVersion::V1 => {
            let family = if client.is_ipv4() { V1_TCP4 } else { V1_TCP6 };
            let (source, target) = (client.ip(), destination.ip());
            format!("{V1_PREFIX}{family} {source} {target} {} {}\r\n", client.port(), destination.port()).into_bytes()
        }
        ProxyVersion::V2 => {
            let mut header = V2_SIGNATURE.to_vec();
            header.push(V2_PROXY);
            let mut addresses = Vec::with_capacity(36);
            for address in [client, destination] {
                match address.ip() {
                    IpAddr::V4(ip) => addresses.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => addresses.extend_from_slice(&ip.octets()),
                }
            }
            addresses.extend_from_slice(&client.port().to_be_bytes());
            addresses.extend_from_slice(&destination.port().to_be_bytes());
            header.push(if client.is_ipv4() { V2_TCP4 } else { V2_TCP6 });
            header.extend_from_slice(&(addresses.len() as u16).to_be_bytes());
            header.extend_from_slice(&addresses);
            header
        }
    }
}

/// Both in one family: a header has but one.
fn alike(one: SocketAddr, other: SocketAddr) -> (SocketAddr, SocketAddr) {
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    if one.is_ipv4() == other.is_ipv4() { (one, other) } else { (mapped(one), mapped(other)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::proxy_protocol::{Parse, parse};

    #[test]
    fn what_is_written_can_be_read() {
        let pairs = [
            ("192.0.2.1:40000", "198.51.100.7:443"),
            ("[2001:db8::1]:40000", "[2001:db8::2]:443"),
            ("192.0.2.1:40000", "[2001:db8::2]:443"),
        ];
        for (client, destination) in pairs {
            let (client, destination) = (client.parse().unwrap(), destination.parse().unwrap());
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let header = header(version, client, destination);
                let (source, target) = alike(client, destination);
                let consumed = header.len();
                assert_eq!(parse(&header), Parse::Done { consumed, source: Some(source), destination: Some(target) });
            }
        }
        let header = header(ProxyVersion::V1, "192.0.2.1:4".parse().unwrap(), "192.0.2.2:5".parse().unwrap());
        assert_eq!(header, b"PROXY TCP4 192.0.2.1 192.0.2.2 4 5\r\n");
    }
}
