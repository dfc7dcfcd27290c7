//! What people write as an endpoint's address: `host:port`, where the host is an IP address or a name, or `unix:/path`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::address::{EndpointAddress, LONGEST_SOCKET_NAME, SocketName};

/// An endpoint's address as configured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and a port, or a Unix socket: nothing to resolve.
    Fixed(EndpointAddress),
    /// A host name (lower case, without the trailing dot of a root-anchored name) and a port.
    Named(Box<str>, u16),
}

/// Why an address was refused, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadAddress {
    pub message: String,
    pub hint: String,
}

impl BadAddress {
    fn new(message: String, hint: impl Into<String>) -> Self {
        BadAddress { message, hint: hint.into() }
    }
}

const SHAPE: &str = "write `host:port`, for example `10.0.0.1:9001`, `[::1]:9001` or `catalog:9001`, or `unix:/run/app.sock`";

impl Address {
    /// Reads `host:port`, or `http://host:port`. An IPv6 address stands in brackets; the port is 1 to 65535.
    pub fn parse(text: &str) -> Result<Self, BadAddress> {
        Self::parse_of(text, false)
    }

    /// The same for a service that speaks TLS or not: `https://host:port` is for one that does.
    pub fn parse_of(text: &str, tls: bool) -> Result<Self, BadAddress> {
        if let Some(name) = text.strip_prefix("unix:") {
            return Self::of_socket(text, name);
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return Self::of_url(text, scheme, rest, tls);
        }
        if let Ok(fixed) = text.parse::<SocketAddr>() {
            return if fixed.port() == 0 { Err(port_zero(text)) } else { Ok(Address::Fixed(fixed.into())) };
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(BadAddress::new(format!("`{text}` has no port"), SHAPE));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(BadAddress::new(format!("`{text}` has no port"), SHAPE));
        };
        // `u16::from_str` would also take a leading plus sign.
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = match port.parse::<u16>() {
            Ok(0) => return Err(port_zero(text)),
            Ok(port) if digits => port,
            _ => {
                return Err(BadAddress::new(
                    format!("`{port}` is not a port, in `{text}`"),
                    "a port is a number from 1 to 65535",
                ));
            }
        };
        Self::named(host, port)
    }

    /// `http://host:port`, as other gateways write it. Whether TLS is spoken is the service's word, so that a URL which says so itself is
    /// told where.
    fn of_url(text: &str, scheme: &str, rest: &str, tls: bool) -> Result<Self, BadAddress> {
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let bare = match scheme {
            _ if has_port => host.to_owned(),
            "https" => format!("{host}:443"),
            _ => format!("{host}:80"),
        };
        let (why, hint) = match scheme {
            _ if host.contains('@') => ("it has a user in it", "write the address alone, `host:port`".to_owned()),
            _ if !path.is_empty() || host.contains(['?', '#']) => {
                ("it has a path", format!("write `{bare}`; a route's `rewrite` says which path is asked for"))
            }
            "https" if !tls => ("the service does not speak TLS", format!("write `tls: true` at the service, and `{bare}` here")),
            "http" if tls => ("the service speaks TLS", format!("write `{bare}`, or `tls: false` at the service")),
            "http" | "https" => return Self::parse(&bare),
            _ => ("its scheme is not spoken here", format!("write `{bare}`")),
        };
        // With a user in it, it may have a password in it.
        let shown = if host.contains('@') { "this" } else { text };
        Err(BadAddress::new(format!("`{shown}` is no endpoint: {why}"), hint))
    }

    /// `unix:/run/app.sock`, `unix:///run/app.sock`, or `unix:@app` for a name in the abstract namespace. Whether the socket exists is
    /// seen when it is connected to.
    fn of_socket(text: &str, name: &str) -> Result<Self, BadAddress> {
        let name = name.strip_prefix("//").unwrap_or(name);
        if let Some(socket) = SocketName::new(name) {
            return Ok(Address::Fixed(EndpointAddress::Unix(socket)));
        }
        let (why, hint) = if name.len() > LONGEST_SOCKET_NAME {
            let why = format!("its name is longer than {LONGEST_SOCKET_NAME} bytes");
            (why, "the system allows no longer ones; a shorter path can be a symbolic link to the socket's folder")
        } else {
            ("its path does not begin with `/`".to_owned(), "write `unix:/run/app.sock`, or `unix:@app` for an abstract name")
        };
        Err(BadAddress::new(format!("`{text}` is no endpoint: {why}"), hint))
    }

    /// A host, IP address or name, with its port given apart.
    pub fn of_host(host: &str, port: u16) -> Result<Self, BadAddress> {
        if port == 0 {
            return Err(port_zero(host));
        }
        let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(ip) => Ok(Address::Fixed(SocketAddr::new(ip, port).into())),
            Err(_) => Self::named(host, port),
        }
    }

    fn named(host: &str, port: u16) -> Result<Self, BadAddress> {
        let host = host.strip_suffix('.').unwrap_or(host);
        check_host_name(host)?;
        Ok(Address::Named(host.to_ascii_lowercase().into(), port))
    }

    /// The host name, if it is not an IP address.
    pub fn host_name(&self) -> Option<&str> {
        match self {
            Address::Fixed(_) => None,
            Address::Named(host, _) => Some(host),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Fixed(fixed) => fixed.fmt(f),
            Address::Named(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

fn port_zero(text: &str) -> BadAddress {
    BadAddress::new(format!("port 0 cannot be connected to, in `{text}`"), "a port is a number from 1 to 65535")
}

/// A host name in the resolver's sense: labels of 1 to 63 letters, digits, `-` and `_`, 253 characters in all (RFC 1123, section
/// 2.1, and the underscore that container networks use).
fn check_host_name(host: &str) -> Result<(), BadAddress> {
    let refuse = |why: &str| Err(BadAddress::new(format!("`{host}` is not a host name: {why}"), SHAPE));
    if host.is_empty() {
        return refuse("it is empty");
    }
    if host.len() > 253 {
        return refuse("it is longer than 253 characters");
    }
    for label in host.split('.') {
        if label.is_empty() || label.len() > 63 {
            return refuse("each label between dots has 1 to 63 characters");
        }
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return refuse("only letters, digits, `-`, `_` and dots are allowed");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return refuse("a label neither starts nor ends with `-`");
        }
    }
    // The system resolver reads `10.1` or `127.1` as old-style IPv4 shorthands, which nobody means.
    if host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return refuse("it looks like an IPv4 address but is none");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, want) in
            [("10.0.0.1:9001", "10.0.0.1:9001"), ("[::1]:80", "[::1]:80"), ("Catalog_1.svc.:80", "catalog_1.svc:80")]
        {
            assert_eq!(Address::parse(text).unwrap().to_string(), want);
        }
        for (text, want) in [
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("unix:///run/app.sock", "unix:/run/app.sock"),
            ("unix:@app", "unix:@app"),
        ] {
            let read = Address::parse_of(text, true).unwrap();
            assert_eq!((read.to_string().as_str(), read.host_name()), (want, None));
        }
        assert_eq!(Address::parse("Catalog:80").unwrap().host_name(), Some("catalog"));
        assert_eq!(Address::of_host("::1", 80).unwrap().to_string(), "[::1]:80");
        assert_eq!(Address::of_host("[::1]", 80).unwrap().to_string(), "[::1]:80");
    }

    #[test]
    fn refuses_what_cannot_be_connected_to() {
        let long = format!("unix:/{}", "a".repeat(LONGEST_SOCKET_NAME));
        for text in [
            "unix:",
            "unix:app.sock",
            "unix:///",
            "unix:/a\0b",
            &long,
            "",
            ":",
            ":80",
            "catalog",
            "catalog:",
            "catalog:0",
            "catalog:65536",
            "catalog:+80",
            "catalog: 80",
            "10.0.0.1:0",
            "10.0.0.1",
            "::1",
            "10.0.0.300:80",
            "127.1:80",
            "a..b:80",
            "-a:80",
            "a b:80",
            "a/b:80",
            "user@host:80",
            "h\u{e9}:80",
            "https://catalog:80",
            "ftp://catalog:80",
            "http://user:secret@catalog:80",
            "http://catalog:80?x",
            "http://",
        ] {
            assert!(Address::parse(text).is_err(), "{text:?}");
        }
        assert!(!Address::parse("http://user:secret@catalog:80").unwrap_err().message.contains("secret"));
        assert_eq!(Address::parse("http://Catalog").unwrap().to_string(), "catalog:80");
        assert_eq!(Address::parse("http://[::1]:81/").unwrap().to_string(), "[::1]:81");
        assert_eq!(Address::parse_of("https://catalog", true).unwrap().to_string(), "catalog:443");
        assert!(Address::parse_of("http://catalog:80", true).is_err());
        assert!(Address::parse(&format!("{}:80", "a".repeat(64))).is_err());
        assert!(Address::parse("http://catalog:80/x").unwrap_err().hint.contains("`catalog:80`"));
    }
}
