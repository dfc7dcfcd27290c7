//! What the clients of one address may take of what all clients share: places for requests, memory for bodies, connections that linger.
//!
//! Nobody has proved who he is when he takes them, and the address is all that is known of him. An address is an account here, for as
//! long as somebody is connected from it: accounts are looked up once for a connection, and for each request only behind a proxy that
//! speaks for many clients.
//!
//! A connection keeps the place that its last request gave back, so that one request after another touches nothing that other cores
//! write. An account that has run out calls those places in, so that the bound is exact: none is refused while a place of his is free.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::BytesMut;
use parking_lot::Mutex;

use super::guard::take_one;
use crate::cidr::Occupant;
use crate::tally::{Gauge, Tallies};

/// As in the guard: the cores should seldom meet at one lock.
const SHARDS: usize = 64;

/// Room for so many addresses a shard is kept while nobody is connected.
const KEPT: usize = 8;

type Shard = Mutex<HashMap<Occupant, Arc<Account>, ahash::RandomState>>;

/// The accounts of all addresses that are connected, and what all of them have taken together. There is one for the process.
pub struct Shares {
    /// Bytes of bodies that are held in memory.
    bytes: Arc<Gauge>,
    /// Connections that only wait for their client to read its answer.
    lingering: Arc<Gauge>,
    // Keyed with a random seed: a client must not be able to choose addresses that share a bucket.
    hasher: ahash::RandomState,
    shards: [Shard; SHARDS],
}

impl Default for Shares {
    fn default() -> Self {
        let hasher = ahash::RandomState::new();
        Shares {
            bytes: Arc::default(),
            lingering: Arc::default(),
            shards: std::array::from_fn(|_| Mutex::new(HashMap::with_hasher(hasher.clone()))),
            hasher,
        }
    }
}

impl Shares {
    /// For the life of the process. What is taken can be read in its metrics.
    pub fn new(tallies: &Tallies) -> &'static Self {
        const BYTES: &str = "Bytes of bodies, of requests and answers, that are held in memory.";
        const LINGERING: &str = "Connections that are over but for their clients, which have not read their answer yet.";
        Box::leak(Box::new(Shares {
            bytes: tallies.gauge("portcullis_buffered_bytes", BYTES, &[]),
            lingering: tallies.gauge("portcullis_lingering_connections", LINGERING, &[]),
            ..Shares::default()
        }))
    }

    /// Lets one more connection linger, until the value is dropped, if fewer do than may: in all, and of its address.
    pub fn linger(&'static self, address: Option<&Address>, most: usize, of_one: usize) -> Option<Lingering> {
        if !self.lingering.add_within(1, most as u64) {
            return None;
        }
        // From here on dropping it gives back what was taken.
        let mut lingering = Lingering { shares: self, address: None };
        if let Some(address) = address {
            if !take_one(&address.account.lingering, of_one) {
                return None;
            }
            lingering.address = Some(address.clone());
        }
        Some(lingering)
    }

    /// The account of an address. An IPv6 /64 is one.
    pub fn of(&'static self, address: IpAddr) -> Address {
        let occupant = Occupant::from(address);
        let mut shard = self.shard(occupant).lock();
        let account = shard.entry(occupant).or_insert_with(|| Arc::new(Account::new(occupant)));
        account.holders.fetch_add(1, Ordering::Relaxed);
        Address { account: account.clone(), shares: self }
    }

    /// How many addresses have an account.
    pub fn addresses(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn shard(&self, occupant: Occupant) -> &Shard {
        let [first, ..] = &self.shards;
        self.shards.get(self.hasher.hash_one(occupant) as usize % SHARDS).unwrap_or(first)
    }
}

struct Account {
    occupant: Occupant,
    /// The [`Address`]es that stand for it.
    holders: AtomicUsize,
    /// Places that are handed out: those that are taken, and those that connections keep.
    places: AtomicUsize,
    /// Bytes of bodies that are held in memory.
    bytes: AtomicUsize,
    /// Connections that only wait for their client to read its answer.
    lingering: AtomicUsize,
    /// By connection: whether it keeps a place.
    seats: Mutex<Vec<Arc<AtomicBool>>>,
}

impl Account {
    fn new(occupant: Occupant) -> Self {
        Account {
            occupant,
            holders: AtomicUsize::new(0),
            places: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            lingering: AtomicUsize::new(0),
            seats: Mutex::default(),
        }
    }

    /// Takes back the places that connections keep. Whether there were any.
    fn call_in(&self) -> bool {
        let kept = self.seats.lock().iter().filter(|seat| seat.swap(false, Ordering::Relaxed)).count();
        self.places.fetch_sub(kept, Ordering::Relaxed);
        kept > 0
    }
}

/// An address, and what is taken from it. The account ends with the last of these.
pub struct Address {
    account: Arc<Account>,
    shares: &'static Shares,
}

impl Clone for Address {
    fn clone(&self) -> Self {
        self.account.holders.fetch_add(1, Ordering::Relaxed);
        Address { account: self.account.clone(), shares: self.shares }
    }
}

impl Address {
    /// A place for one more request, if fewer than `most` are taken.
    pub fn take(self, most: usize) -> Option<Place<'static>> {
        self.enter(most).then(|| Place(Taken::Account(self)))
    }

    /// A connection's seat at this account.
    pub fn sit(self) -> Seat {
        let kept = Arc::new(AtomicBool::new(false));
        self.account.seats.lock().push(kept.clone());
        Seat(Arc::new(Sitting { address: self, kept }))
    }

    /// The open connections of this address that speak for themselves.
    pub fn connections(&self) -> usize {
        self.account.seats.lock().len()
    }

    fn enter(&self, most: usize) -> bool {
        let places = &self.account.places;
        take_one(places, most) || self.account.call_in() && take_one(places, most)
    }

    fn leave(&self) {
        self.account.places.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        if self.account.holders.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let occupant = self.account.occupant;
        let mut shard = self.shares.shard(occupant).lock();
        // Somebody may have come upon it meanwhile, and somebody else may have put another one in its place since.
        let is_this = shard.get(&occupant).is_some_and(|known| Arc::ptr_eq(known, &self.account));
        if is_this && self.account.holders.load(Ordering::Acquire) == 0 {
            shard.remove(&occupant);
            if shard.is_empty() && shard.capacity() > KEPT {
                // What a flood of addresses needed is not kept for ever.
                shard.shrink_to_fit();
            }
        }
    }
}

/// One connection at the account of its address. The clones are of one connection.
#[derive(Clone)]
pub struct Seat(Arc<Sitting>);

struct Sitting {
    address: Address,
    /// Whether a place is kept here.
    kept: Arc<AtomicBool>,
}

impl Seat {
    pub fn address(&self) -> &Address {
        &self.0.address
    }

    /// A place for one more request, if fewer than `most` are taken at this address.
    pub fn take(&self, most: usize) -> Option<Place<'_>> {
        if self.0.kept.swap(false, Ordering::Relaxed) {
            if self.address().account.places.load(Ordering::Relaxed) <= most {
                return Some(Place(Taken::Seat(self)));
            }
            // The bound was lowered since.
            self.address().leave();
        }
        // Not `then_some`: a place that is made and dropped gives one back that was never taken.
        self.address().enter(most).then(|| Place(Taken::Seat(self)))
    }
}

impl Drop for Sitting {
    fn drop(&mut self) {
        let mut seats = self.address.account.seats.lock();
        if let Some(number) = seats.iter().position(|seat| Arc::ptr_eq(seat, &self.kept)) {
            seats.swap_remove(number);
        }
        drop(seats);
        if self.kept.swap(false, Ordering::Relaxed) {
            self.address.leave();
        }
    }
}

/// One request's place. Dropping it gives the place back.
#[must_use = "dropping the place gives it back at once"]
pub struct Place<'a>(Taken<'a>);

enum Taken<'a> {
    Seat(&'a Seat),
    Account(Address),
    Nobody,
}

impl Place<'_> {
    /// For a request of a proxy's own, which no address stands for.
    pub fn uncounted() -> Self {
        Place(Taken::Nobody)
    }

    /// Whom the body of this request is charged to, where that is known.
    pub fn payer(&self) -> Option<Payer> {
        match &self.0 {
            // Counted by this connection alone, unlike the account.
            Taken::Seat(seat) => Some(Payer::Seat((*seat).clone())),
            Taken::Account(address) => Some(Payer::Account(address.clone())),
            Taken::Nobody => None,
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        match &self.0 {
            // Kept for the connection's next request, unless one is kept already.
            Taken::Seat(seat) if seat.0.kept.swap(true, Ordering::Relaxed) => seat.address().leave(),
            Taken::Account(address) => address.leave(),
            Taken::Seat(_) | Taken::Nobody => {}
        }
    }
}

/// See [`Place::payer`].
pub enum Payer {
    Seat(Seat),
    Account(Address),
}

impl Payer {
    fn account(&self) -> &Account {
        match self {
            Payer::Seat(seat) => &seat.address().account,
            Payer::Account(address) => &address.account,
        }
    }
}

/// The most bytes of bodies that may be held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyMemory {
    pub all: usize,
    pub per_address: usize,
}

/// What one request's body takes of the memory for all of them. It is given back when this is dropped.
pub struct Purse {
    shares: &'static Shares,
    payer: Option<Payer>,
    bounds: BodyMemory,
    held: usize,
}

/// The least that is taken for a body that is gathered.
const SMALLEST: usize = 1024;

/// What a gathered body is to have room for once there is so much more in it, if that is more than it has. It doubles, up to `most`; what is
/// charged is what is allocated.
pub fn grown(gathered: &BytesMut, more: usize, most: usize) -> Option<usize> {
    let (needed, before) = (gathered.len() + more, gathered.capacity());
    (needed > before).then(|| needed.max((2 * before).min(most)).max(SMALLEST))
}

impl Purse {
    pub fn new(shares: &'static Shares, payer: Option<Payer>, bounds: BodyMemory) -> Self {
        Purse { shares, payer, bounds, held: 0 }
    }

    /// An empty one for what outlives the request, and perhaps its connection.
    pub fn beside(&self) -> Self {
        let address = |payer: &Payer| match payer {
            Payer::Seat(seat) => seat.address().clone(),
            Payer::Account(address) => address.clone(),
        };
        Purse { payer: self.payer.as_ref().map(|payer| Payer::Account(address(payer))), held: 0, ..*self }
    }

    /// The most that it may ever hold, were nobody else there.
    pub fn most(&self) -> usize {
        match self.payer {
            Some(_) => self.bounds.all.min(self.bounds.per_address),
            None => self.bounds.all,
        }
    }

    /// How much it holds.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes so many bytes more, if there are as many for all and for this address.
    pub fn charge(&mut self, bytes: usize) -> bool {
        if !self.shares.bytes.add_within(bytes as u64, self.bounds.all as u64) {
            return false;
        }
        let own = self.payer.as_ref().map(Payer::account);
        if !own.is_none_or(|account| take_many(&account.bytes, bytes, self.bounds.per_address)) {
            self.shares.bytes.sub(bytes as u64);
            return false;
        }
        self.held += bytes;
        true
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        if self.held == 0 {
            return;
        }
        self.shares.bytes.sub(self.held as u64);
        if let Some(payer) = &self.payer {
            payer.account().bytes.fetch_sub(self.held, Ordering::Relaxed);
        }
    }
}

/// A connection that lingers. Dropping it is its end.
pub struct Lingering {
    shares: &'static Shares,
    address: Option<Address>,
}

impl Drop for Lingering {
    fn drop(&mut self) {
        self.shares.lingering.sub(1);
        if let Some(address) = &self.address {
            address.account.lingering.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Adds so many unless that would pass `most`.
fn take_many(counter: &AtomicUsize, count: usize, most: usize) -> bool {
    let more = |now: usize| now.checked_add(count).filter(|sum| *sum <= most);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_share_and_no_more_however_it_connects() {
        let shares = Shares::new(&Tallies::default());
        let (one, two) = (shares.of(ip("192.0.2.1")).sit(), shares.of(ip("::ffff:192.0.2.1")).sit());
        let stranger = shares.of(ip("192.0.2.2")).sit();
        let held = [one.take(3), one.take(3), two.take(3)];
        assert!(held.iter().all(Option::is_some));
        assert!(one.take(3).is_none() && two.take(3).is_none(), "however many connections it has");
        assert!(shares.of(ip("192.0.2.1")).take(3).is_none(), "nor through a proxy");
        assert!(stranger.take(3).is_some(), "another address has its own");
        drop(held);
        assert!(one.take(3).is_some());
        drop((one, two, stranger));
        assert_eq!(shares.addresses(), 0);
    }

    #[test]
    fn a_place_that_an_idle_connection_keeps_is_there_for_the_others() {
        let shares = Shares::new(&Tallies::default());
        let idle: Vec<_> = (0..3).map(|_| shares.of(ip("192.0.2.1")).sit()).collect();
        idle.iter().for_each(|seat| drop(seat.take(3)));
        let busy = shares.of(ip("192.0.2.1")).sit();
        let held: Vec<_> = (0..4).filter_map(|_| busy.take(3)).collect();
        assert_eq!(held.len(), 3);
        assert!(idle[0].take(3).is_none());
        assert_eq!(busy.address().connections(), 4);
    }

    #[test]
    fn a_lower_bound_holds_from_the_next_request_on() {
        let shares = Shares::new(&Tallies::default());
        let seat = shares.of(ip("192.0.2.1")).sit();
        let held = [seat.take(9), seat.take(9)];
        drop(seat.take(9));
        assert!(seat.take(2).is_none(), "not by the place that was kept either");
        drop(held);
        assert!(seat.take(1).is_some());
    }

    #[test]
    fn bodies_are_bounded_in_all_and_by_address_and_given_back() {
        let shares = Shares::new(&Tallies::default());
        let bounds = BodyMemory { all: 100, per_address: 70 };
        let seat = shares.of(ip("2001:db8::1")).sit();
        let of_one = || Purse::new(shares, Some(Payer::Seat(seat.clone())), bounds);
        let (mut one, mut two) = (of_one(), of_one());
        let mut other = Purse::new(shares, Some(Payer::Account(shares.of(ip("192.0.2.9")))), bounds);
        let mut proxy = Purse::new(shares, None, bounds);
        assert!(one.charge(40) && two.charge(30) && !one.charge(1) && !two.charge(usize::MAX));
        assert!(other.charge(20) && proxy.charge(10) && !proxy.charge(1) && !other.charge(1));
        drop(one);
        assert!(other.charge(40) && !two.charge(1));
        assert_eq!(shares.bytes.get(), 100);
        drop((two, other, proxy));
        assert_eq!(shares.bytes.get(), 0);
        drop(seat);
        assert_eq!(shares.addresses(), 0);
    }

    #[test]
    fn lingering_is_bounded_in_all_and_by_address() {
        let shares = Shares::new(&Tallies::default());
        let (one, other) = (shares.of(ip("192.0.2.1")), shares.of(ip("192.0.2.2")));
        let first = shares.linger(Some(&one), 3, 1);
        assert!(first.is_some() && shares.linger(Some(&one), 3, 1).is_none());
        let rest = [shares.linger(Some(&other), 3, 1), shares.linger(None, 3, 1)];
        assert!(rest.iter().all(Option::is_some) && shares.linger(None, 3, 1).is_none());
        drop(first);
        assert!(shares.linger(Some(&one), 3, 1).is_some());
        drop((rest, one, other));
        assert_eq!((shares.lingering.get(), shares.addresses()), (0, 0));
    }

    #[test]
    fn many_threads_never_pass_the_bound_and_end_at_zero() {
        let shares = Shares::new(&Tallies::default());
        let (inside, start) = (AtomicUsize::new(0), Barrier::new(8));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (inside, start) = (&inside, &start);
                scope.spawn(move || {
                    start.wait();
                    for round in 0..4000 {
                        let seat = shares.of(ip("192.0.2.1")).sit();
                        for _ in 0..5 {
                            let place = match (thread + round) % 3 {
                                0 => shares.of(ip("192.0.2.1")).take(3),
                                _ => seat.take(3),
                            };
                            if place.is_some() {
                                assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                                inside.fetch_sub(1, Ordering::SeqCst);
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(shares.addresses(), 0, "no account is left");
        let seat = shares.of(ip("192.0.2.1")).sit();
        assert_eq!((0..9).filter_map(|_| seat.take(3)).collect::<Vec<_>>().len(), 3, "no place was lost");
    }
}
