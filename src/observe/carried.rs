//! What a connection leaves in the access log that was carried as it is.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use super::json::{Object, member};
use super::record::{Clock, Line, NAME, micros, write_endpoint};
use crate::address::EndpointAddress;

/// One connection, refused or not. Texts that are empty and options that are `None` are left out of the line.
#[derive(Debug, Clone)]
pub struct CarriedRecord<'a> {
    /// When it was accepted.
    pub time: SystemTime,
    pub client: IpAddr,
    /// The other end of the socket.
    pub peer: SocketAddr,
    pub listener: &'a str,
    /// `TLSv1.3`, or `passthrough`; empty without TLS.
    pub tls: &'static str,
    /// The name that the client asked for in TLS.
    pub server_name: &'a str,
    pub route: &'a str,
    pub service: &'a str,
    pub endpoint: Option<EndpointAddress>,
    /// Why it ended, as a stable word.
    pub reason: &'static str,
    pub decided_by: &'a str,
    /// Lines of this client's refusals that were left out before this one.
    pub suppressed: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    pub duration: Duration,
    /// From its beginning to the connection to the service.
    pub connect: Option<Duration>,
    /// Attempts to connect beyond the first.
    pub retries: u32,
    pub retried_for: &'a str,
    pub generation: u64,
}

impl Line for CarriedRecord<'_> {
    fn write(&self, out: &mut Vec<u8>, clock: &mut Clock, _: bool) {
        let mut line = Object::open(out);
        line.stamp(member!("time"), clock.stamp(self.time));
        line.ip(member!("client"), self.client);
        line.address(member!("peer"), self.peer);
        line.text(member!("listener"), self.listener.as_bytes(), NAME);
        line.word(member!("protocol"), "tcp");
        line.word(member!("tls"), self.tls);
        line.text(member!("server_name"), self.server_name.as_bytes(), NAME);
        line.text(member!("route"), self.route.as_bytes(), NAME);
        line.text(member!("service"), self.service.as_bytes(), NAME);
        write_endpoint(&mut line, self.endpoint);
        line.word(member!("reason"), self.reason);
        line.text(member!("decided_by"), self.decided_by.as_bytes(), NAME);
        if self.suppressed > 0 {
            line.number(member!("suppressed"), self.suppressed);
        }
        line.number(member!("bytes_in"), self.bytes_in);
        line.number(member!("bytes_out"), self.bytes_out);
        if self.retries > 0 {
            line.number(member!("retries"), self.retries.into());
            line.text(member!("retried_for"), self.retried_for.as_bytes(), NAME);
        }
        line.number(member!("duration_us"), micros(self.duration));
        if let Some(connect) = self.connect {
            line.number(member!("connect_us"), micros(connect));
        }
        line.number(member!("generation"), self.generation);
        line.close();
        out.push(b'\n');
    }
}
