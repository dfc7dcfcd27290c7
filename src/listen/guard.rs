//! How much one listener, and one client address, may occupy at once.
//!
//! Counts are exact and their memory is bounded by the number of live connections: an address is forgotten when its last
//! connection ends. The counters live in the ledger, the caps in the snapshot, so a reload changes the caps without losing count.
//! Rates (so many *per second*) are not counted here, but by [`HeavyHitters`](crate::limits::heavy_hitters::HeavyHitters).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::cidr::Occupant;

/// Enough that the cores seldom meet at one lock, few enough to cost nothing.
const SHARDS: usize = 64;

/// The most connections at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    pub connections: usize,
    pub per_address: usize,
}

/// Why a connection was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// `max_connections` or `max_connections_per_address`.
    pub reason: &'static str,
}

impl Refused {
    const TOTAL: Refused = Refused { reason: "max_connections" };
    const ADDRESS: Refused = Refused { reason: "max_connections_per_address" };
}

type Shard = Mutex<HashMap<Occupant, usize, ahash::RandomState>>;

/// The live connections of one listener.
pub struct Guard {
    total: AtomicUsize,
    // Keyed with a random seed: a client must not be able to choose addresses that share a bucket.
    hasher: ahash::RandomState,
    shards: [Shard; SHARDS],
}

impl Default for Guard {
    fn default() -> Self {
        let hasher = ahash::RandomState::new();
        Guard {
            total: AtomicUsize::new(0),
            shards: std::array::from_fn(|_| Mutex::new(HashMap::with_hasher(hasher.clone()))),
            hasher,
        }
    }
}

impl Guard {
    pub fn new() -> Self {
        Guard::default()
    }

    /// Lets one connection in. `address` is `None` where it says nothing about the client: a trusted proxy in front carries many
    /// clients on one address.
    pub fn try_enter(self: &Arc<Self>, address: Option<IpAddr>, caps: Caps) -> Result<Permit, Refused> {
        if !take_one(&self.total, caps.connections) {
            return Err(Refused::TOTAL);
        }
        let mut permit = Permit { guard: self.clone(), occupant: None };
        if let Some(address) = address {
            permit.count_as(address, caps)?;
        }
        Ok(permit)
    }

    /// The live connections.
    pub fn connections(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// How many addresses are being counted.
    pub fn addresses(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn shard(&self, occupant: Occupant) -> Option<&Shard> {
        self.shards.get(self.hasher.hash_one(occupant) as usize % SHARDS)
    }

    fn enter_address(&self, occupant: Occupant, most: usize) -> bool {
        let Some(shard) = self.shard(occupant) else { return false };
        let mut shard = shard.lock();
        let known = shard.get(&occupant).copied().unwrap_or(0);
        if known >= most {
            return false;
        }
        shard.insert(occupant, known + 1);
        true
    }

    fn leave_address(&self, occupant: Occupant) {
        let Some(shard) = self.shard(occupant) else { return };
        let mut shard = shard.lock();
        match shard.get_mut(&occupant) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                shard.remove(&occupant);
            }
        }
    }
}

/// One connection's place. Dropping it gives the place back.
#[must_use = "dropping the permit gives the place back at once"]
pub struct Permit {
    guard: Arc<Guard>,
    occupant: Option<Occupant>,
}

impl Permit {
    /// Counts this connection under `address` instead of the one that it was counted under: the PROXY protocol has told who the
    /// client is. Refused, it stays counted where it was until it is dropped.
    pub fn count_as(&mut self, address: IpAddr, caps: Caps) -> Result<(), Refused> {
        let occupant = Occupant::from(address);
        if self.occupant == Some(occupant) {
            return Ok(());
        }
        if !self.guard.enter_address(occupant, caps.per_address) {
            return Err(Refused::ADDRESS);
        }
        if let Some(before) = self.occupant.replace(occupant) {
            self.guard.leave_address(before);
        }
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(occupant) = self.occupant {
            self.guard.leave_address(occupant);
        }
        self.guard.total.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds one unless that would pass `most`. Adding first and looking afterwards needs no loop; a loser takes its one back, so the
/// count may read too high for a moment and refuse a neighbour, never let one in too many.
pub(super) fn take_one(counter: &AtomicUsize, most: usize) -> bool {
    let before = counter.fetch_add(1, Ordering::Relaxed);
    if before >= most {
        counter.fetch_sub(1, Ordering::Relaxed);
    }
    before < most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(connections: usize, per_address: usize) -> Caps {
        Caps { connections, per_address }
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn each_cap_refuses_with_its_own_reason_and_leaks_nothing() {
        let guard = Arc::new(Guard::new());
        let first = guard.try_enter(ip("192.0.2.1"), caps(2, 1)).unwrap();
        assert_eq!(guard.try_enter(ip("192.0.2.1"), caps(2, 1)).err(), Some(Refused::ADDRESS));
        assert_eq!(guard.connections(), 1, "a refused connection gives back its share of the total");
        let second = guard.try_enter(ip("192.0.2.2"), caps(2, 1)).unwrap();
        assert_eq!(guard.try_enter(ip("192.0.2.3"), caps(2, 1)).err(), Some(Refused::TOTAL));
        drop((first, second));
        assert_eq!((guard.connections(), guard.addresses()), (0, 0));
    }

    #[test]
    fn a_slash_64_is_one_client_and_a_mapped_address_is_ipv4() {
        let guard = Arc::new(Guard::new());
        let _first = guard.try_enter(ip("2001:db8:0:1::1"), caps(9, 1)).unwrap();
        assert!(guard.try_enter(ip("2001:db8:0:1:ffff::2"), caps(9, 1)).is_err());
        let _other = guard.try_enter(ip("2001:db8:0:2::1"), caps(9, 1)).unwrap();
        let _v4 = guard.try_enter(ip("::ffff:192.0.2.1"), caps(9, 1)).unwrap();
        assert!(guard.try_enter(ip("192.0.2.1"), caps(9, 1)).is_err());
        assert!(guard.try_enter(ip("192.0.2.2"), caps(9, 1)).is_ok());
    }

    #[test]
    fn behind_a_proxy_the_client_is_counted_once_it_is_known() {
        let guard = Arc::new(Guard::new());
        let mut first = guard.try_enter(None, caps(9, 1)).unwrap();
        let mut second = guard.try_enter(None, caps(9, 1)).unwrap();
        let client = "192.0.2.1".parse().unwrap();
        first.count_as(client, caps(9, 1)).unwrap();
        first.count_as(client, caps(9, 1)).unwrap();
        assert_eq!(second.count_as(client, caps(9, 1)), Err(Refused::ADDRESS));
        first.count_as("192.0.2.2".parse().unwrap(), caps(9, 1)).unwrap();
        second.count_as(client, caps(9, 1)).unwrap();
        drop((first, second));
        assert_eq!((guard.connections(), guard.addresses()), (0, 0));
    }

    #[test]
    fn many_threads_never_exceed_the_caps_and_end_at_zero() {
        let guard = Arc::new(Guard::new());
        std::thread::scope(|scope| {
            for thread in 0..8u8 {
                let guard = guard.clone();
                scope.spawn(move || {
                    for round in 0..2000u32 {
                        let address = IpAddr::from([192, 0, 2, (round % 4) as u8 + thread % 2]);
                        let entered = guard.try_enter(Some(address), caps(5, 2));
                        assert!(guard.addresses() <= 5 + 8);
                        drop(entered);
                    }
                });
            }
        });
        assert_eq!((guard.connections(), guard.addresses()), (0, 0));
    }
}
