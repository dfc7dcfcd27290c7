//! State that outlives generations: rate windows, health, balancer counters. Keyed by identity, so that a reload which does not
//! touch a thing does not reset it.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

type Shelf = HashMap<String, Weak<dyn Any + Send + Sync>>;

/// Hands out the state kept under a key, for as long as anyone holds it. What no generation holds any more is forgotten.
#[derive(Default)]
pub struct Ledger {
    shelf: Mutex<Shelf>,
}

impl Ledger {
    /// The state kept under `key`, or a new one. A key that was last used with another type counts as new.
    pub fn keep<T: Any + Send + Sync>(&self, key: &str, new: impl FnOnce() -> T) -> Arc<T> {
        let mut shelf = self.shelf.lock();
        if let Some(known) = shelf.get(key).and_then(Weak::upgrade).and_then(|known| known.downcast::<T>().ok()) {
            return known;
        }
        let fresh: Arc<T> = Arc::new(new());
        let erased: Arc<dyn Any + Send + Sync> = fresh.clone();
        shelf.insert(key.to_owned(), Arc::downgrade(&erased));
        fresh
    }

    /// Drops the keys whose state is gone. Called after a generation was swapped.
    pub fn sweep(&self) {
        self.shelf.lock().retain(|_, state| state.strong_count() > 0);
    }

    pub fn len(&self) -> usize {
        self.shelf.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_lives_as_long_as_someone_holds_it() {
        let ledger = Ledger::default();
        let first = ledger.keep("a", || 1u32);
        assert_eq!(*ledger.keep("a", || 2u32), 1);
        drop(first);
        ledger.sweep();
        assert!(ledger.is_empty());
        assert_eq!(*ledger.keep("a", || 3u32), 3);
    }
}
