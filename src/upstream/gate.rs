//! How many may be at an endpoint at once, over all cores, and who waits until one has left.
//!
//! Over HTTP/1.1 what counts is connections, in use or idle; over HTTP/2 the requests under way. An idle connection stays with the core that
//! has made it, whose event loop it is registered with; one that needs a place where only others have idle ones closes the oldest of those.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::call::{Key, Line};

/// The bounds of one generation, for each endpoint of a service.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    /// How many may be there.
    pub most: usize,
    /// How many may wait.
    pub pending: usize,
    /// For how long.
    pub wait: Duration,
}

/// One endpoint's. Lives with it, over reloads.
#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    most: usize,
    /// Those that are there, the idle among them.
    there: usize,
    idle: Vec<Idle>,
    waiting: VecDeque<oneshot::Sender<Place>>,
}

struct Idle {
    owner: usize,
    key: Key,
    line: Box<Line>,
    until: Instant,
}

/// A place at an endpoint, until it is dropped.
pub struct Place {
    /// `None` once it is somebody else's.
    gate: Option<Arc<Gate>>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shut {
    /// As many wait as may.
    Full,
    /// It took too long.
    TimedOut,
}

/// What one may go on with.
pub enum Entered {
    /// An idle connection, with its place.
    Line(Box<Line>),
    Place(Place),
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.leave();
        }
    }
}

impl Gate {
    /// Whether nobody could enter at once.
    pub fn is_full(&self, most: usize) -> bool {
        let state = self.state.lock();
        state.there >= most && state.idle.is_empty()
    }

    /// Whether there is room in the queue.
    pub fn has_room(&self, pending: usize) -> bool {
        self.waiting() < pending
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        let mut state = self.state.lock();
        state.forget_gone();
        state.waiting.len()
    }

    /// How many are there.
    pub fn there(&self) -> usize {
        self.state.lock().there
    }

    /// Waits for a place. `owner`: who asks, so that he gets what is his. `kept`: an idle connection of this kind will do.
    ///
    /// # Errors
    /// There is none.
    pub async fn enter(self: &Arc<Self>, owner: usize, kept: Option<&Key>, queue: Queue) -> Result<Entered, Shut> {
        let turn = {
            // Closed once nobody is kept waiting by it.
            let mut closed = Vec::new();
            let mut state = self.state.lock();
            state.most = queue.most;
            state.forget_gone();
            state.admit(self);
            if state.waiting.is_empty()
                && let Some(entered) = state.at_once(self, owner, kept, &mut closed)
            {
                drop(state);
                return Ok(entered);
            }
            if state.waiting.len() >= queue.pending {
                return Err(Shut::Full);
            }
            let (admit, turn) = oneshot::channel();
            state.waiting.push_back(admit);
            turn
        };
        match tokio::time::timeout(queue.wait, turn).await {
            Ok(Ok(place)) => Ok(Entered::Place(place)),
            _ => Err(Shut::TimedOut),
        }
    }

    /// Keeps an idle connection for its owner, or closes it where somebody waits for its place.
    pub fn keep(mut place: Place, line: Box<Line>, key: Key, owner: usize, until: Instant) {
        let Some(gate) = place.gate.take() else { return };
        let mut state = gate.state.lock();
        state.forget_gone();
        if state.waiting.is_empty() && state.there <= state.most {
            state.idle.push(Idle { owner, key, line, until });
            return;
        }
        drop(state);
        drop(line);
        gate.leave();
    }

    /// Closes what has been idle too long.
    pub fn sweep(self: &Arc<Self>, now: Instant) {
        let mut state = self.state.lock();
        let (stay, go) = std::mem::take(&mut state.idle).into_iter().partition(|idle| idle.until > now);
        state.idle = stay;
        let go: Vec<Idle> = go;
        state.there -= go.len().min(state.there);
        state.admit(self);
        drop(state);
        drop(go);
    }

    fn leave(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.there = state.there.saturating_sub(1);
        state.admit(self);
    }
}

impl State {
    /// Who has gone away waits no longer.
    fn forget_gone(&mut self) {
        self.waiting.retain(|waiting| !waiting.is_closed());
    }

    /// Lets in who waits, as far as there are places.
    fn admit(&mut self, gate: &Arc<Gate>) {
        while self.there < self.most
            && let Some(next) = self.waiting.pop_front()
        {
            match next.send(Place { gate: Some(gate.clone()) }) {
                Ok(()) => self.there += 1,
                // Gone meanwhile. It was never taken.
                Err(mut place) => place.gate = None,
            }
        }
    }

    fn at_once(&mut self, gate: &Arc<Gate>, owner: usize, kept: Option<&Key>, closed: &mut Vec<Idle>) -> Option<Entered> {
        let place = || Place { gate: Some(gate.clone()) };
        while let Some(at) = kept.and_then(|key| self.idle.iter().rposition(|idle| idle.owner == owner && idle.key == *key)) {
            let mut idle = self.idle.remove(at);
            if idle.line.is_silent() {
                idle.line.hold(place());
                return Some(Entered::Line(idle.line));
            }
            self.there = self.there.saturating_sub(1);
            closed.push(idle);
        }
        if self.there < self.most {
            self.there += 1;
        } else if self.there == self.most && !self.idle.is_empty() {
            closed.push(self.idle.remove(0));
        } else {
            return None;
        }
        Some(Entered::Place(place()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(most: usize, pending: usize) -> Queue {
        Queue { most, pending, wait: Duration::from_secs(5) }
    }

    async fn enter(gate: &Arc<Gate>, queue: Queue) -> Result<Place, Shut> {
        match gate.enter(1, None, queue).await? {
            Entered::Place(place) => Ok(place),
            Entered::Line(_) => panic!("there are no connections here"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_left_is_the_next_ones_in_their_order() {
        let gate = Arc::new(Gate::default());
        let first = enter(&gate, queue(1, 2)).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..2)
            .map(|number| {
                let (gate, order) = (gate.clone(), order.clone());
                tokio::spawn(async move {
                    let _place = enter(&gate, queue(1, 2)).await.unwrap();
                    order.lock().push(number);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!((gate.waiting(), enter(&gate, queue(1, 2)).await.err()), (2, Some(Shut::Full)));
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!((order.lock().clone(), gate.there(), gate.waiting()), (vec![0, 1], 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_or_leaves_gives_his_turn_back() {
        let gate = Arc::new(Gate::default());
        let first = enter(&gate, queue(1, 1)).await.unwrap();
        assert_eq!(enter(&gate, queue(1, 1)).await.err(), Some(Shut::TimedOut));
        let waits = gate.clone();
        let leaves = tokio::spawn(async move { enter(&waits, queue(1, 1)).await.map(drop) });
        tokio::task::yield_now().await;
        leaves.abort();
        assert!(leaves.await.is_err());
        assert!(gate.has_room(1) && gate.is_full(1));
        drop(first);
        assert_eq!(gate.there(), 0);
        // A larger bound lets in who waits already; a smaller one lets nobody in until enough have left.
        let places = [enter(&gate, queue(2, 1)).await.unwrap(), enter(&gate, queue(2, 1)).await.unwrap()];
        assert_eq!(enter(&gate, queue(1, 0)).await.err(), Some(Shut::Full));
        let [one, other] = places;
        drop(one);
        assert_eq!(enter(&gate, queue(1, 0)).await.err(), Some(Shut::Full));
        drop(other);
        assert!(enter(&gate, queue(1, 0)).await.is_ok());
    }
}
