//! How many requests are worked on at once.
//!
//! The bound is one for the whole process, and exact: never is one request more let in, and none is refused while a place is free. But
//! every request takes a place and gives it back, and if all cores counted in one place they would wait for each other there. So places
//! are handed out to the threads in small batches, from which each serves its own requests; only a thread that has none left asks the
//! common stock, and if that is empty, calls in what the other threads have left.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::stripe::Striped;

/// The most places that a thread takes at once.
const LARGEST_BATCH: usize = 64;

/// The requests being worked on, so that an overloaded gateway answers 503 at once instead of slowly.
pub struct InFlight {
    /// Places that are handed out: those that are taken, and those that wait in the threads' shares. At most the bound.
    handed_out: AtomicUsize,
    shares: Striped<Share>,
}

#[derive(Default)]
struct Share {
    /// Places that this thread can give to requests without asking.
    free: AtomicUsize,
    /// The bound under which they were handed out.
    bound: AtomicUsize,
}

impl Default for InFlight {
    fn default() -> Self {
        InFlight { handed_out: AtomicUsize::new(0), shares: Striped::new(|_| Share::default()) }
    }
}

impl InFlight {
    /// A place for one more request, if fewer than `most` are taken.
    pub fn try_enter(&self, most: usize) -> Option<Permit<'_>> {
        let share = self.shares.mine()?;
        if share.bound.load(Ordering::Relaxed) != most {
            // The bound was changed: what was handed out under the old one goes back.
            share.bound.store(most, Ordering::Relaxed);
            self.take_back(share.free.swap(0, Ordering::Relaxed));
        }
        let entered = take_one(&share.free) || self.take_batch(share, most) || self.call_in() && self.take_batch(share, most);
        // Not `then_some`: a permit that is made and dropped gives a place back that was never taken.
        entered.then(|| Permit(self))
    }

    /// How many requests are being worked on.
    pub fn requests(&self) -> usize {
        let free: usize = self.shares.iter().map(|share| share.free.load(Ordering::Relaxed)).sum();
        self.handed_out.load(Ordering::Relaxed).saturating_sub(free)
    }

    /// An eighth of the places, at most, waits in the shares of all threads together, unless that would be less than one each.
    fn batch(&self, most: usize) -> usize {
        (most / (8 * self.shares.count())).clamp(1, LARGEST_BATCH)
    }

    /// One place for now, and some for later.
    fn take_batch(&self, share: &Share, most: usize) -> bool {
        let room = |handed_out: usize| {
            let count = self.batch(most).min(most.saturating_sub(handed_out));
            (count > 0).then_some(count)
        };
        let more = |handed_out| Some(handed_out + room(handed_out)?);
        let Ok(before) = self.handed_out.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) else { return false };
        let Some(count) = room(before) else { return false };
        share.free.fetch_add(count - 1, Ordering::Relaxed);
        true
    }

    /// Takes back every place that waits in a thread's share. Whether there were any.
    fn call_in(&self) -> bool {
        // A look first: without one, who finds nothing would still have written to all the other threads' cache lines.
        let waiting = self.shares.iter().filter(|share| share.free.load(Ordering::Relaxed) > 0);
        let count = waiting.map(|share| share.free.swap(0, Ordering::Relaxed)).sum();
        self.take_back(count);
        count > 0
    }

    fn leave(&self) {
        let Some(share) = self.shares.mine() else { return };
        let bound = share.bound.load(Ordering::Relaxed);
        if self.handed_out.load(Ordering::Relaxed) > bound {
            return self.take_back(1);
        }
        let free = share.free.fetch_add(1, Ordering::Relaxed) + 1;
        let batch = self.batch(bound);
        if free >= 2 * batch {
            let less = |free: usize| free.checked_sub(batch);
            if share.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
                self.take_back(batch);
            }
        }
    }

    fn take_back(&self, count: usize) {
        if count > 0 {
            self.handed_out.fetch_sub(count, Ordering::Relaxed);
        }
    }
}

fn take_one(free: &AtomicUsize) -> bool {
    free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(1)).is_ok()
}

/// One request's place. Dropping it gives the place back.
#[must_use = "dropping the permit gives the place back at once"]
pub struct Permit<'a>(&'a InFlight);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn the_bound_is_exact() {
        for most in [0, 1, 2, 3, 100, 5000] {
            let in_flight = InFlight::default();
            let mut permits: Vec<_> = (0..most).filter_map(|_| in_flight.try_enter(most)).collect();
            assert_eq!((permits.len(), in_flight.requests()), (most, most));
            assert!(in_flight.try_enter(most).is_none());
            if permits.pop().is_some() {
                assert!(in_flight.try_enter(most).is_some(), "a place that is given back can be had");
            }
            drop(permits);
            assert_eq!(in_flight.requests(), 0);
        }
    }

    #[test]
    fn a_lower_bound_holds_from_the_next_request_on() {
        let in_flight = InFlight::default();
        let many: Vec<_> = (0..500).filter_map(|_| in_flight.try_enter(1000)).collect();
        assert!(in_flight.try_enter(3).is_none());
        drop(many);
        let few: Vec<_> = (0..9).filter_map(|_| in_flight.try_enter(3)).collect();
        assert_eq!(few.len(), 3);
        assert!(in_flight.try_enter(4).is_some(), "and a higher one too");
    }

    /// Places that wait in the share of a thread that has nothing to do are there for the others.
    #[test]
    fn every_free_place_can_be_had_by_any_thread() {
        let in_flight = InFlight::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| drop(in_flight.try_enter(100)));
            }
        });
        let permits: Vec<_> = (0..101).filter_map(|_| in_flight.try_enter(100)).collect();
        assert_eq!(permits.len(), 100);
    }

    #[test]
    fn many_threads_never_pass_the_bound_and_end_at_zero() {
        let (in_flight, inside, start) = (InFlight::default(), AtomicUsize::new(0), Barrier::new(8));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..20_000 {
                        let Some(permit) = in_flight.try_enter(5) else { continue };
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 5);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(in_flight.requests(), 0);
        let permits: Vec<_> = (0..9).filter_map(|_| in_flight.try_enter(5)).collect();
        assert_eq!(permits.len(), 5, "no place was lost");
    }
}
