//! Several things that are waited for at once, on the task of whoever waits: dropped with it, all of them end.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Futures that are under way, each with a number.
pub struct Crowd<F: Future>(Vec<(usize, Pin<Box<F>>)>);

impl<F: Future> Default for Crowd<F> {
    fn default() -> Self {
        Crowd(Vec::new())
    }
}

impl<F: Future> Crowd<F> {
    pub fn add(&mut self, number: usize, future: F) {
        self.0.push((number, Box::pin(future)));
    }

    /// What ends next. `None` if nothing is under way.
    pub async fn next(&mut self) -> Option<(usize, F::Output)> {
        poll_fn(|cx| {
            if self.0.is_empty() {
                return Poll::Ready(None);
            }
            for at in 0..self.0.len() {
                let Some((number, future)) = self.0.get_mut(at) else { break };
                let number = *number;
                if let Poll::Ready(output) = future.as_mut().poll(cx) {
                    drop(self.0.swap_remove(at));
                    return Poll::Ready(Some((number, output)));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Runs all of them, so many at once, and gives what they came to in their order. Stops early where `ends` says so of one.
pub async fn all<F: Future>(
    mut futures: impl Iterator<Item = F>,
    at_once: usize,
    ends: impl Fn(&F::Output) -> bool,
) -> Vec<Option<F::Output>> {
    let (mut crowd, mut outputs) = (Crowd::default(), Vec::new());
    for future in futures.by_ref().take(at_once) {
        crowd.add(outputs.len(), future);
        outputs.push(None);
    }
    while let Some((number, output)) = crowd.next().await {
        let over = ends(&output);
        if let Some(slot) = outputs.get_mut(number) {
            *slot = Some(output);
        }
        if over {
            break;
        }
        if let Some(future) = futures.next() {
            crowd.add(outputs.len(), future);
            outputs.push(None);
        }
    }
    outputs
}
