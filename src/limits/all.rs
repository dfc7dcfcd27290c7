//! Several limits on one request: it is admitted by all of them or counted by none.
//!
//! All are asked first, then all are taken from. When another request of the same client comes in between and takes the last of
//! one limit, what was already taken from the others is given back; for that moment, some microseconds, they may refuse a request
//! that they would have admitted. They never admit too many.

use super::rule::Quota;
use super::store::Reading;

/// One limit, as far as one request is concerned.
pub trait Ask {
    /// What [`Ask::take`] would say, without taking.
    fn peek(&self) -> Reading;
    fn take(&self) -> Reading;
    /// Undoes [`Ask::take`].
    fn refund(&self);
}

impl<A: Ask> Ask for &A {
    fn peek(&self) -> Reading {
        (**self).peek()
    }

    fn take(&self) -> Reading {
        (**self).take()
    }

    fn refund(&self) {
        (**self).refund();
    }
}

/// What they said together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Index of the limit to tell of: the one that refused and has to be waited for longest, or of all that admitted the one with
    /// the least left.
    pub limit: usize,
    pub reading: Reading,
}

/// `None` if there was nobody to ask.
pub fn decide<A: Ask>(asks: &[A]) -> Option<Outcome> {
    if let [ask] = asks {
        return Some(Outcome { limit: 0, reading: ask.take() });
    }
    let refusals = asks.iter().map(Ask::peek).enumerate().filter(|(_, reading)| !reading.admitted);
    if let Some((limit, reading)) = refusals.max_by_key(|(_, reading)| reading.quota.next) {
        return Some(Outcome { limit, reading });
    }
    let mut nearest: Option<Outcome> = None;
    for (limit, ask) in asks.iter().enumerate() {
        let reading = ask.take();
        if !reading.admitted {
            // Another request took the last one since we asked.
            asks.iter().take(limit).for_each(Ask::refund);
            return Some(Outcome { limit, reading });
        }
        if nearest.is_none_or(|nearest| is_nearer(&reading.quota, &nearest.reading.quota)) {
            nearest = Some(Outcome { limit, reading });
        }
    }
    nearest
}

/// Whether a limit will bite before another one.
pub fn is_nearer(one: &Quota, other: &Quota) -> bool {
    one.remaining < other.remaining
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    struct Fake<'a> {
        left: &'a Cell<u64>,
        /// Taken by somebody else between asking and taking.
        stolen: bool,
        log: &'a RefCell<Vec<&'static str>>,
    }

    impl Ask for Fake<'_> {
        fn peek(&self) -> Reading {
            self.log.borrow_mut().push("peek");
            Reading { admitted: self.left.get() > 0, quota: Quota { remaining: self.left.get(), next: 5, full: 9 } }
        }

        fn take(&self) -> Reading {
            self.log.borrow_mut().push("take");
            if self.stolen {
                self.left.set(0);
            }
            let reading =
                Reading { admitted: self.left.get() > 0, quota: Quota { remaining: self.left.get(), next: 5, full: 9 } };
            self.left.set(self.left.get().saturating_sub(1));
            reading
        }

        fn refund(&self) {
            self.log.borrow_mut().push("refund");
            self.left.set(self.left.get() + 1);
        }
    }

    #[test]
    fn what_one_refuses_none_counts() {
        let log = RefCell::default();
        let (wide, narrow, none) = (Cell::new(9), Cell::new(2), Cell::new(0));
        let ask = |left, stolen| Fake { left, stolen, log: &log };
        assert_eq!(decide::<Fake>(&[]), None);
        assert_eq!(decide(&[ask(&wide, false), ask(&narrow, false)]).unwrap().limit, 1);
        assert_eq!((wide.get(), narrow.get()), (8, 1));
        let refused = decide(&[ask(&wide, false), ask(&none, false), ask(&narrow, false)]).unwrap();
        assert_eq!((refused.limit, refused.reading.admitted, wide.get(), narrow.get()), (1, false, 8, 1));
        log.borrow_mut().clear();
        let refused = decide(&[ask(&wide, false), ask(&narrow, true)]).unwrap();
        assert_eq!((refused.limit, refused.reading.admitted, wide.get()), (1, false, 8));
        assert_eq!(*log.borrow(), ["peek", "peek", "take", "take", "refund"]);
    }
}
