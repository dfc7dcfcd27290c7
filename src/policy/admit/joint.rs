//! Several limits on one request, wherever they count: it is admitted by all of them or counted by none.
//!
//! In the order of what they cost to ask: first what this process knows, then leases, then Redis, once for all exact limits; what was
//! taken is given back when a later one refuses. What is given back to Redis is given back in the background; for that moment a limit may refuse what it would
//! have admitted. None ever admits too much.

use std::time::Instant;

use smallvec::SmallVec;

use super::limit::{Counter, Demand};
use crate::limits::all::{Ask, Outcome, decide, is_nearer};
use crate::limits::shared::lease::Leases;
use crate::limits::shared::{Claim, Fail, Shared, take_all};
use crate::limits::store::Reading;

/// What became of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Decided(Outcome),
    /// There was nobody to ask, or nobody answered and that admits.
    Unlimited,
    /// Redis did not answer, and a limit refuses then.
    Unavailable,
}

/// Who took for a request.
#[derive(Clone, Copy)]
enum Taken<'a> {
    Lease(&'a std::sync::Arc<Leases>),
    Exact(&'a Shared),
    /// This gateway's share, without Redis.
    Alone,
}

/// One request's demands, and what was taken for them so far.
pub struct Joint<'a> {
    demands: &'a [Demand<'a>],
    taken: SmallVec<[(usize, Reading, Taken<'a>); 2]>,
}

impl<'a> Joint<'a> {
    pub fn new(demands: &'a [Demand<'a>]) -> Self {
        Joint { demands, taken: SmallVec::new() }
    }

    /// Decides, if nobody has to be asked for it.
    pub fn at_once(mut self) -> Option<Answer> {
        if self.exact().next().is_some() {
            return None;
        }
        if let Some(refusal) = self.refusal_here() {
            return Some(refusal);
        }
        for (index, demand, leases) in self.leased() {
            let Some(reading) = leases.at_once(demand.key, demand.cost, demand.now) else {
                self.undo();
                return None;
            };
            if let Some(refusal) = self.took(index, reading, Taken::Lease(leases)) {
                return Some(refusal);
            }
        }
        Some(self.take_here())
    }

    /// Decides, within Redis's deadline for all limits together.
    pub async fn wait(mut self) -> Answer {
        let deadline = self.demands.iter().find_map(|demand| match &demand.tier.counter {
            Counter::Shared(shared) => Some(shared.deadline()),
            Counter::Local(_) => None,
        });
        let until = Instant::now() + deadline.unwrap_or_default();
        if let Some(refusal) = self.refusal_here() {
            return refusal;
        }
        for (index, demand, leases) in self.leased() {
            let over =
                match leases.take(demand.key, demand.cost, demand.now, until.saturating_duration_since(Instant::now())).await {
                    Ok(reading) => self.took(index, reading, Taken::Lease(leases)),
                    Err(_) => self.unanswered(index),
                };
            if let Some(answer) = over {
                return answer;
            }
        }
        let exact: SmallVec<[_; 2]> = self.exact().collect();
        let claims: SmallVec<[Claim<'a>; 2]> =
            exact.iter().map(|(_, demand, shared)| Claim { shared, key: demand.key, cost: demand.cost }).collect();
        match take_all(&claims, until).await {
            Ok(readings) => {
                let told = exact.iter().zip(&readings);
                if let Some(((limit, ..), reading)) =
                    told.clone().filter(|(_, reading)| !reading.admitted).max_by_key(|(_, reading)| reading.quota.next)
                {
                    let outcome = Outcome { limit: *limit, reading: *reading };
                    self.undo();
                    return Answer::Decided(outcome);
                }
                let told = told.map(|((index, _, shared), reading)| (*index, *reading, Taken::Exact(shared)));
                self.taken.extend(told);
            }
            Err(_) => {
                for (index, ..) in exact {
                    if let Some(answer) = self.unanswered(index) {
                        return answer;
                    }
                }
            }
        }
        self.take_here()
    }

    fn leased(&self) -> impl Iterator<Item = (usize, &'a Demand<'a>, &'a std::sync::Arc<Leases>)> + use<'a> {
        self.demands.iter().enumerate().filter_map(|(index, demand)| match &demand.tier.counter {
            Counter::Shared(shared) => Some((index, demand, shared.leases()?)),
            Counter::Local(_) => None,
        })
    }

    fn exact(&self) -> impl Iterator<Item = (usize, &'a Demand<'a>, &'a Shared)> + use<'a> {
        self.demands.iter().enumerate().filter_map(|(index, demand)| match &demand.tier.counter {
            Counter::Shared(shared) if shared.leases().is_none() => Some((index, demand, &**shared)),
            _ => None,
        })
    }

    fn here(&self) -> impl Iterator<Item = (usize, &'a Demand<'a>)> + use<'a> {
        self.demands.iter().enumerate().filter(|(_, demand)| matches!(demand.tier.counter, Counter::Local(_)))
    }

    /// What this process knows to refuse.
    fn refusal_here(&self) -> Option<Answer> {
        let asked = self.here().map(|(limit, demand)| Outcome { limit, reading: demand.peek() });
        asked.filter(|outcome| !outcome.reading.admitted).max_by_key(|outcome| outcome.reading.quota.next).map(Answer::Decided)
    }

    fn took(&mut self, index: usize, reading: Reading, by: Taken<'a>) -> Option<Answer> {
        if reading.admitted {
            self.taken.push((index, reading, by));
            return None;
        }
        self.undo();
        Some(Answer::Decided(Outcome { limit: index, reading }))
    }

    /// Does what the limit does without Redis.
    fn unanswered(&mut self, index: usize) -> Option<Answer> {
        let demand = self.demands.get(index)?;
        let Counter::Shared(shared) = &demand.tier.counter else { return None };
        shared.count_unanswered();
        match shared.fail {
            Fail::Open => None,
            Fail::Local => self.took(index, demand.take(), Taken::Alone),
            Fail::Closed => {
                self.undo();
                Some(Answer::Unavailable)
            }
        }
    }

    /// Takes from what counts in this process, last of all.
    fn take_here(&mut self) -> Answer {
        let (indices, here): (SmallVec<[usize; 2]>, SmallVec<[&Demand<'a>; 2]>) = self.here().unzip();
        let mut nearest = None;
        if let Some(outcome) = decide(&here) {
            let outcome = Outcome { limit: indices.get(outcome.limit).copied().unwrap_or_default(), ..outcome };
            if !outcome.reading.admitted {
                // Another request took the last one since we asked.
                self.undo();
                return Answer::Decided(outcome);
            }
            nearest = Some(outcome);
        }
        for (limit, reading, _) in &self.taken {
            if nearest.is_none_or(|nearest: Outcome| is_nearer(&reading.quota, &nearest.reading.quota)) {
                nearest = Some(Outcome { limit: *limit, reading: *reading });
            }
        }
        nearest.map_or(Answer::Unlimited, Answer::Decided)
    }

    fn undo(&mut self) {
        for (index, _, by) in self.taken.drain(..) {
            let Some(demand) = self.demands.get(index) else { continue };
            match by {
                Taken::Lease(leases) => leases.refund(demand.key, demand.cost),
                Taken::Exact(shared) => shared.give_back(demand.key, demand.cost),
                Taken::Alone => demand.refund(),
            }
        }
    }
}
