//! Who else listens on an address, as far as the kernel tells.
//!
//! With SO_REUSEPORT the kernel lets any process of the same user share an address, and deals the connections out by chance. That is meant
//! for the sockets of one process, and for a process and its successor; everybody else has to be found and named here.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Another process that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// `None` where it is not to be seen: another user's.
    pub pid: Option<u32>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(pid) = self.pid else { return f.write_str("another process") };
        match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => write!(f, "process {pid} ({})", name.trim().escape_debug()),
            Err(_) => write!(f, "process {pid}"),
        }
    }
}

/// Those who take connections to this address, but for the sockets of these inodes. `None` if the kernel does not tell.
pub fn others(address: SocketAddr, own: &HashSet<u64>) -> Option<Vec<Holder>> {
    let foreign: Vec<u64> = listening(address)?.into_iter().filter(|inode| !own.contains(inode)).collect();
    let mut holders: Vec<Holder> = Vec::new();
    for inode in foreign {
        let holder = Holder { pid: owner(inode) };
        if !holders.contains(&holder) {
            holders.push(holder);
        }
    }
    Some(holders)
}

/// When a process began, in the kernel's ticks since it did itself.
pub fn began(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

/// The inodes of the sockets that listen on this address, or on every address with its port.
fn listening(address: SocketAddr) -> Option<Vec<u64>> {
    let mut inodes = Vec::new();
    for (table, must_be) in [("/proc/self/net/tcp", true), ("/proc/self/net/tcp6", false)] {
        let file = match std::fs::File::open(table) {
            Ok(file) => file,
            Err(_) if must_be => return None,
            Err(_) => continue,
        };
        for line in std::io::BufRead::lines(std::io::BufReader::new(file)).map_while(Result::ok).skip(1) {
            let Some(entry) = Entry::read(&line) else { continue };
            // Those that listen come first; behind them there may be a million connections.
            if !entry.listens {
                break;
            }
            if shadows(entry.address, address) {
                inodes.push(entry.inode);
            }
        }
    }
    Some(inodes)
}

fn shadows(one: SocketAddr, other: SocketAddr) -> bool {
    let (one_ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && (one_ip == other_ip || one_ip.is_unspecified() || other_ip.is_unspecified())
}

struct Entry {
    address: SocketAddr,
    listens: bool,
    inode: u64,
}

impl Entry {
    fn read(line: &str) -> Option<Entry> {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?.parse().ok()?;
        let (ip, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        // Words of the machine's own byte order, each written as a number.
        let word = |at: usize| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
        let ip = if ip.len() == 8 {
            IpAddr::V4(Ipv4Addr::from(word(0)?))
        } else {
            let words: Vec<[u8; 4]> = (0..4).map(word).collect::<Option<_>>()?;
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?))
        };
        Some(Entry { address: SocketAddr::new(ip, port), listens: state == "0A", inode })
    }
}

/// The process that has a socket open.
fn owner(inode: u64) -> Option<u32> {
    let wanted = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
        open.is_ok_and(|open| {
            open.flatten().any(|one| std::fs::read_link(one.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()))
        })
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn finds_who_listens() {
        for bind in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let socket = TcpListener::bind(bind).unwrap();
            let address = socket.local_addr().unwrap();
            let here = Holder { pid: Some(std::process::id()) };
            assert_eq!(others(address, &HashSet::new()), Some(vec![here.clone()]), "{bind}");
            assert!(here.to_string().starts_with(&format!("process {} (", std::process::id())), "{here}");
            let inode = rustix::fs::fstat(socket.as_fd()).unwrap().st_ino;
            assert_eq!(others(address, &HashSet::from([inode])), Some(Vec::new()), "{bind}");
            let everywhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            assert_eq!(others(everywhere, &HashSet::new()), Some(vec![here]), "{bind}");
            drop(socket);
            assert_eq!(others(address, &HashSet::new()), Some(Vec::new()), "{bind}");
        }
        assert!(began(std::process::id()).is_some() && began(1) <= began(std::process::id()));
    }
}
