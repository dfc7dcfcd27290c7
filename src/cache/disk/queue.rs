//! Work that waits for a thread: bounded, and what finds it full is told so at once.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

struct Waiting<T> {
    items: VecDeque<(T, usize)>,
    weight: usize,
    /// Somebody works on what he took last.
    busy: usize,
}

/// See the module.
pub(super) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    come: Condvar,
    most: usize,
}

impl<T> Queue<T> {
    pub(super) fn new(most: usize) -> Self {
        Queue { waiting: Mutex::new(Waiting { items: VecDeque::new(), weight: 0, busy: 0 }), come: Condvar::new(), most }
    }

    /// Whether it was taken.
    pub(super) fn push(&self, item: T, weight: usize) -> bool {
        let mut waiting = self.waiting.lock();
        // What alone is more than that is taken by itself.
        if waiting.weight > 0 && waiting.weight.saturating_add(weight) > self.most {
            return false;
        }
        waiting.weight += weight;
        waiting.items.push_back((item, weight));
        drop(waiting);
        self.come.notify_one();
        true
    }

    /// The next piece of work, for which it waits so long. [`Queue::done`] is to be called once it is done.
    pub(super) fn take(&self, patience: Duration) -> Option<T> {
        let mut waiting = self.waiting.lock();
        if waiting.items.is_empty() {
            self.come.wait_for(&mut waiting, patience);
        }
        let (item, weight) = waiting.items.pop_front()?;
        waiting.weight -= weight;
        waiting.busy += 1;
        Some(item)
    }

    pub(super) fn done(&self) {
        let mut waiting = self.waiting.lock();
        waiting.busy = waiting.busy.saturating_sub(1);
    }

    /// All there is, for which it waits so long.
    pub(super) fn take_all(&self, patience: Duration) -> Vec<T> {
        let mut waiting = self.waiting.lock();
        if waiting.items.is_empty() {
            self.come.wait_for(&mut waiting, patience);
        }
        waiting.weight = 0;
        waiting.items.drain(..).map(|(item, _)| item).collect()
    }

    /// Whether nothing waits, and nobody works.
    pub(super) fn is_idle(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.items.is_empty() && waiting.busy == 0
    }

    /// For whoever waits for work to look at what else there is.
    pub(super) fn wake(&self) {
        self.come.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_takes_by_itself_what_is_longer() {
        let queue = Queue::new(10);
        assert!(queue.push('a', 6) && queue.push('b', 4) && !queue.push('c', 1));
        assert_eq!(queue.take_all(Duration::ZERO), ['a', 'b']);
        assert!(queue.push('d', 20) && !queue.push('e', 1));
        assert_eq!(queue.take(Duration::ZERO), Some('d'));
        assert!(queue.push('e', 1) && !queue.push('d', 20) && !queue.is_idle());
    }
}
