//! The PROXY protocol, versions 1 and 2: how a load balancer in front tells whose connection it carries
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).
//!
//! Who may send such a header is decided elsewhere: it is read only from trusted peers. Type-length-value fields are checked to be
//! well formed and skipped, but for the CRC-32C, which is verified. What is written of it to services is with those who write it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

pub const V1_PREFIX: &str = "PROXY ";
pub const V1_TCP4: &str = "TCP4";
pub const V1_TCP6: &str = "TCP6";
/// The longest version 1 line, CR LF included.
const V1_MAX: usize = 107;
pub const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, a connection that is carried for somebody.
pub const V2_PROXY: u8 = 0x21;
pub const V2_TCP4: u8 = 0x11;
pub const V2_TCP6: u8 = 0x21;
const V2_FIXED: usize = 16;
/// The longest version 2 header that is taken, the fixed 16 bytes included. The format allows 65,551; real ones are under 600.
const V2_MAX: usize = 4096;
const TLV_CRC32C: u8 = 0x03;

/// What a header says: both `None` for a connection of the proxy's own (`LOCAL`, a health check) or of a family that is not IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub source: Option<SocketAddr>,
    pub destination: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parse {
    /// So far it may become a header.
    Incomplete,
    /// It is something else.
    NotProxy,
    /// It began as a header and is none, or is longer than is taken.
    Invalid(&'static str),
    /// A header of `consumed` bytes.
    Done { consumed: usize, source: Option<SocketAddr>, destination: Option<SocketAddr> },
}

/// Reads a header at the start of `bytes`. Never looks beyond its end.
pub fn parse(bytes: &[u8]) -> Parse {
    if starts_like(bytes, V2_SIGNATURE) {
        if bytes.len() < V2_FIXED { Parse::Incomplete } else { parse_v2(bytes) }
    } else if starts_like(bytes, V1_PREFIX.as_bytes()) {
        parse_v1(bytes)
    } else {
        Parse::NotProxy
    }
}

/// Whether one is the beginning of the other.
fn starts_like(bytes: &[u8], whole: &[u8]) -> bool {
    bytes.iter().zip(whole).all(|(byte, expected)| byte == expected)
}

fn parse_v1(bytes: &[u8]) -> Parse {
    let window = bytes.get(..V1_MAX).unwrap_or(bytes);
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() == V1_MAX { Parse::Invalid("the line is too long") } else { Parse::Incomplete };
    };
    let line = window.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    let Some(line) = line.and_then(|line| std::str::from_utf8(line).ok()).and_then(|line| line.strip_prefix(V1_PREFIX)) else {
        return Parse::Invalid("the line is malformed");
    };
    let consumed = end + 1;
    // What follows UNKNOWN means nothing and must be ignored.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Parse::Done { consumed, source: None, destination: None };
    }
    match v1_addresses(line) {
        Some((source, destination)) => Parse::Done { consumed, source: Some(source), destination: Some(destination) },
        None => Parse::Invalid("the addresses are malformed"),
    }
}

/// `TCP4 192.0.2.1 192.0.2.2 56324 443`, one space between each and nothing after.
fn v1_addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut words = line.split(' ');
    let family = words.next()?;
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            V1_TCP4 => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            V1_TCP6 => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let source = address(words.next()?)?;
    let destination = address(words.next()?)?;
    let source_port = v1_port(words.next()?)?;
    let destination_port = v1_port(words.next()?)?;
    words.next().is_none().then(|| (SocketAddr::new(source, source_port), SocketAddr::new(destination, destination_port)))
}

/// Decimal without sign or leading zeros.
fn v1_port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok())?
}

fn parse_v2(bytes: &[u8]) -> Parse {
    let (Some(&version_command), Some(&family), Some(&high), Some(&low)) =
        (bytes.get(12), bytes.get(13), bytes.get(14), bytes.get(15))
    else {
        return Parse::Incomplete;
    };
    if version_command >> 4 != 2 {
        return Parse::Invalid("the version is unknown");
    }
    let local = match version_command & 0x0f {
        0 => true,
        1 => false,
        _ => return Parse::Invalid("the command is unknown"),
    };
    let consumed = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    if consumed > V2_MAX {
        return Parse::Invalid("the header is too long");
    }
    let Some(header) = bytes.get(..consumed) else { return Parse::Incomplete };
    let payload = header.get(V2_FIXED..).unwrap_or_default();
    let addresses = match family {
        V2_TCP4 => 12,
        V2_TCP6 => 36,
        0x31 | 0x32 => 216,
        0x00 => 0,
        // A datagram of the proxy's cannot have come to this socket.
        0x12 | 0x22 if !local => return Parse::Invalid("the transport is no stream"),
        // A LOCAL connection's family means nothing, nor does what follows it.
        _ if local => return Parse::Done { consumed, source: None, destination: None },
        _ => return Parse::Invalid("the address family is unknown"),
    };
    // The family of a LOCAL connection is only a formality: some senders give one and no addresses.
    let Some((block, tlvs)) = payload.split_at_checked(addresses) else {
        return if local {
            Parse::Done { consumed, source: None, destination: None }
        } else {
            Parse::Invalid("the addresses are cut short")
        };
    };
    if let Err(reason) = check_tlvs(header, tlvs) {
        return Parse::Invalid(reason);
    }
    let pair = match (local, family) {
        (false, 0x11) => v2_addresses::<4>(block),
        (false, 0x21) => v2_addresses::<16>(block),
        _ => None,
    };
    Parse::Done { consumed, source: pair.map(|pair| pair.0), destination: pair.map(|pair| pair.1) }
}

/// Source, destination, source port, destination port.
fn v2_addresses<const N: usize>(block: &[u8]) -> Option<(SocketAddr, SocketAddr)>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = block.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let (destination_port, _) = rest.split_first_chunk::<2>()?;
    Some((
        SocketAddr::new(IpAddr::from(*source), u16::from_be_bytes(*source_port)),
        SocketAddr::new(IpAddr::from(*destination), u16::from_be_bytes(*destination_port)),
    ))
}

/// Walks the fields behind the addresses, to their exact end.
fn check_tlvs(header: &[u8], mut tlvs: &[u8]) -> Result<(), &'static str> {
    const CUT: &str = "a field is cut short";
    while !tlvs.is_empty() {
        let (&[kind, high, low], rest) = tlvs.split_first_chunk::<3>().ok_or(CUT)?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low]))).ok_or(CUT)?;
        if kind == TLV_CRC32C {
            let expected = <[u8; 4]>::try_from(value).map_err(|_| "the checksum has the wrong length")?;
            // The sum is made over the whole header with its own four bytes as zeros.
            let before = header.len() - rest.len() - 4;
            let (head, tail) = header.split_at_checked(before).ok_or(CUT)?;
            let sum = [head, &[0; 4], tail.get(4..).unwrap_or_default()].into_iter().fold(!0, crc32c);
            if !sum != u32::from_be_bytes(expected) {
                return Err("the checksum is wrong");
            }
        }
        tlvs = rest;
    }
    Ok(())
}

/// CRC-32C (Castagnoli; RFC 3720, appendix B.4), bit by bit: at most 4 KiB once per connection, and only from senders that use it.
fn crc32c(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(sum & 1)))
    })
}

/// What stood at the beginning of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    Header(Header),
    /// No header. The bytes that it took to see that, 12 at most, have to be put back in front of the stream.
    None {
        read: SmallVec<[u8; 12]>,
    },
}

/// Reads a header from the beginning of a connection, and not one byte beyond it: TLS or HTTP follows.
///
/// A stream that has none is told apart by its first bytes, at most 12, which are returned; this cannot be done by peeking alone,
/// because waiting for more than was already peeked would spin. Errors: `InvalidData` for a broken header, `UnexpectedEof`,
/// `ConnectionAborted` for an end without a byte before it, `TimedOut` at `deadline`, and the socket's own.
pub async fn read_header(stream: &mut TcpStream, deadline: Instant) -> io::Result<Received> {
    match tokio::time::timeout_at(deadline, read(stream)).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no PROXY header in time")),
    }
}

/// [`read_header`] with a deadline counted from now.
pub async fn read_header_within(stream: &mut TcpStream, within: Duration) -> io::Result<Received> {
    read_header(stream, Instant::now() + within).await
}

async fn read(stream: &mut TcpStream) -> io::Result<Received> {
    let mut bytes: SmallVec<[u8; 232]> = SmallVec::new();
    loop {
        match parse(&bytes) {
            Parse::Done { source, destination, .. } => return Ok(Received::Header(Header { source, destination })),
            Parse::NotProxy => return Ok(Received::None { read: SmallVec::from_slice(&bytes) }),
            Parse::Invalid(reason) => return Err(io::Error::new(io::ErrorKind::InvalidData, reason)),
            Parse::Incomplete => {}
        }
        // Every wish below is certain to lie within a header, should this be one.
        let wanted = match (bytes.get(14), bytes.get(15)) {
            _ if bytes.len() < V2_SIGNATURE.len() => V2_SIGNATURE.len() - bytes.len(),
            _ if bytes.starts_with(V1_PREFIX.as_bytes()) => v1_available(stream).await?,
            (Some(&high), Some(&low)) => (V2_FIXED + usize::from(u16::from_be_bytes([high, low]))).saturating_sub(bytes.len()),
            _ => V2_FIXED - bytes.len(),
        };
        let before = bytes.len();
        bytes.resize(before + wanted, 0);
        let read = stream.read(bytes.get_mut(before..).unwrap_or_default()).await?;
        if read == 0 {
            let silent = before == 0;
            return Err(if silent { io::ErrorKind::ConnectionAborted } else { io::ErrorKind::UnexpectedEof }.into());
        }
        bytes.truncate(before + read);
    }
}

/// How many bytes of the version 1 line can be read now without reading beyond its LF.
async fn v1_available(stream: &TcpStream) -> io::Result<usize> {
    let mut peeked = [0; V1_MAX];
    let count = stream.peek(&mut peeked).await?;
    let peeked = peeked.get(..count).unwrap_or_default();
    // At the end of the stream 1: the read that follows will say so.
    Ok(memchr::memchr(b'\n', peeked).map_or(count, |end| end + 1).max(1))
}

#[cfg(test)]
#[path = "proxy_protocol_tests.rs"]
mod tests;
