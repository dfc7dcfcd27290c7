//! Ports that no other test has.

use std::fs::File;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FlockOperation, flock};

/// Below the range from which the kernel takes the local ports of outgoing connections (and of listeners on port 0).
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// A port on loopback that belongs to this test until it is dropped. Nothing listens on it.
///
/// The gateway's listeners share their port (`SO_REUSEPORT`): two gateways with one port would both start and steal each other's
/// connections. So a port is held by a lock on a file, across all test processes of this machine and user.
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    pub fn lease() -> Port {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = std::env::temp_dir().join(format!("portcullis-test-ports-{}", rustix::process::geteuid().as_raw()));
        std::fs::create_dir_all(&folder).unwrap();
        let start = std::process::id().wrapping_mul(97);
        for _ in 0..COUNT {
            let number = FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
            let number = u16::try_from(number).unwrap();
            let lock = File::create(folder.join(number.to_string())).unwrap();
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            // Without SO_REUSEPORT, so this fails if anything listens there, whoever it is.
            if TcpListener::bind(("127.0.0.1", number)).is_ok() && TcpListener::bind(("0.0.0.0", number)).is_ok() {
                return Port { number, _lock: lock };
            }
        }
        panic!("no free port between {FIRST} and {}", FIRST + COUNT);
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}
