//! Waiting with a limit, where mostly there is nothing to wait for.
//!
//! The futures here are written out: an `async fn` that is given a future holds it twice, once as it came and once where it is polled,
//! and what waits for one that waits for another doubles again. A request's own future is made anew for each request.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

/// [`Box::pin`] for a large future that every request makes. `Box::pin` makes it on the stack, asks for memory, and copies it there, every
/// byte of it; where the memory is asked for first, what it is given is written there, and nothing where it has no value yet.
#[inline(always)]
pub fn pinned<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, make()))
}

/// The time was over before the work was done.
#[derive(Debug, PartialEq, Eq)]
pub struct Late;

/// [`tokio::time::timeout`], but the clock is read and a timer made only if the work is not done at once: on the way of an ordinary
/// request nearly every read and write is. [`Duration::MAX`] is no limit.
///
/// Yields [`Late`] if the work took longer than `limit`.
pub fn within<F: Future>(limit: Duration, work: F) -> Within<F> {
    Within { due: Due::After(limit), timer: None, work }
}

pin_project! {
    /// See [`within`].
    #[must_use = "futures do nothing unless they are polled"]
    pub struct Within<F> {
        due: Due,
        // Boxed: what is mostly not needed must not make what waits larger.
        timer: Option<Pin<Box<Sleep>>>,
        #[pin]
        work: F,
    }
}

impl<F: Future> Future for Within<F> {
    type Output = Result<F::Output, Late>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(done) = this.work.poll(cx) {
            return Poll::Ready(Ok(done));
        }
        let Some(due) = this.due.get() else { return Poll::Pending };
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        timer.as_mut().poll(cx).map(|()| Err(Late))
    }
}

/// How a body has to come.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The longest silence.
    pub silence: Duration,
    /// How long may be waited in all before the rate counts.
    pub grace: Duration,
    /// The least bytes for each second of waiting after that; 0 for any.
    pub rate: u64,
}

impl Pace {
    /// How long more may be waited, where `bytes` came while it was waited for so long.
    pub fn left(&self, waited: Duration, bytes: u64) -> Duration {
        let Some(seconds) = bytes.checked_div(self.rate) else { return self.silence };
        let allowed = self.grace.saturating_add(Duration::from_secs(seconds));
        self.silence.min(allowed.saturating_sub(waited))
    }
}

/// Does the work, and adds the time it had to be waited for to `total`, if there is one, even if it is dropped before it is done. Work that is
/// done at once costs no look at the clock.
pub fn counted<'a, F: Future>(total: impl Into<Option<&'a mut Duration>>, work: F) -> Counted<'a, F> {
    Counted { waiting: Waiting { since: None, total: total.into() }, work }
}

struct Waiting<'a> {
    since: Option<Instant>,
    total: Option<&'a mut Duration>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let (Some(since), Some(total)) = (self.since, &mut self.total) {
            **total += since.elapsed();
        }
    }
}

pin_project! {
    /// See [`counted`].
    #[must_use = "futures do nothing unless they are polled"]
    pub struct Counted<'a, F> {
        waiting: Waiting<'a>,
        #[pin]
        work: F,
    }
}

impl<F: Future> Future for Counted<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let polled = this.work.poll(cx);
        if polled.is_pending() && this.waiting.total.is_some() {
            this.waiting.since.get_or_insert_with(Instant::now);
        }
        polled
    }
}

/// A timer that serves one wait after another.
///
/// Nearly every wait is over long before its limit, and to set a timer of the runtime's and to clear it again costs more than many of
/// the things that are waited for. So the timer stays as it is when a wait ends. It is moved only if the next wait must end sooner, or
/// if it goes off and nothing is due yet: once in a limit's time instead of once for every wait.
#[derive(Default)]
pub struct Alarm {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Does the work for at most `limit`, counted from the first time that it has to wait. Yields [`Late`] otherwise.
    pub fn within<F: Future>(&mut self, limit: Duration, work: F) -> Timed<'_, F> {
        Timed { alarm: self, due: Due::After(limit), work }
    }

    /// Does the work until `due`; without an end if that is `None`. Yields [`Late`] otherwise, and the work can be taken up again.
    pub fn until<'a, F: Future>(&'a mut self, due: Option<Instant>, work: Pin<&'a mut F>) -> Timed<'a, Pin<&'a mut F>> {
        Timed { alarm: self, due: Due::At(due), work }
    }

    fn poll(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<Late> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= due {
                return Poll::Ready(Late);
            }
            // It was set for an earlier wait, which has ended since.
            timer.as_mut().reset(due);
        }
    }
}

pin_project! {
    /// Work that an [`Alarm`] bounds.
    #[must_use = "futures do nothing unless they are polled"]
    pub struct Timed<'a, F> {
        alarm: &'a mut Alarm,
        due: Due,
        #[pin]
        work: F,
    }
}

/// When a wait is over: so long after it began, which it has not yet; or then, if ever.
enum Due {
    After(Duration),
    At(Option<Instant>),
}

impl Due {
    /// When, counted from the first time that this is asked.
    fn get(&mut self) -> Option<Instant> {
        if let Due::After(limit) = *self {
            *self = Due::At(Instant::now().checked_add(limit));
        }
        match *self {
            Due::At(due) => due,
            Due::After(_) => None,
        }
    }
}

impl<F: Future> Future for Timed<'_, F> {
    type Output = Result<F::Output, Late>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(done) = this.work.poll(cx) {
            return Poll::Ready(Ok(done));
        }
        match this.due.get() {
            Some(due) => this.alarm.poll(due, cx).map(Err),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_done_at_once_needs_no_time() {
        assert_eq!(within(Duration::ZERO, async { 1 }).await.ok(), Some(1));
        assert!(within(Duration::from_secs(1), std::future::pending::<()>()).await.is_err());
        let soon = tokio::time::sleep(Duration::from_millis(10));
        assert_eq!(within(Duration::MAX, soon).await, Ok(()));
        let soon = tokio::time::sleep(Duration::from_millis(10));
        assert!(within(Duration::from_secs(1), soon).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pace_bounds_what_is_waited_for_in_all() {
        let second = Duration::from_secs(1);
        let pace = Pace { silence: 60 * second, grace: 20 * second, rate: 500 };
        assert_eq!(pace.left(Duration::ZERO, 0), 20 * second);
        assert_eq!(pace.left(15 * second, 1000), 7 * second);
        assert_eq!(pace.left(30 * second, 1000), Duration::ZERO);
        assert_eq!(pace.left(second, u64::MAX), 60 * second, "silence has a bound of its own");
        assert_eq!(Pace { rate: 0, ..pace }.left(1000 * second, 1), 60 * second);
        let mut total = Duration::ZERO;
        counted(&mut total, std::future::ready(())).await;
        counted(&mut total, tokio::time::sleep(second)).await;
        assert!(within(second, counted(&mut total, std::future::pending::<()>())).await.is_err());
        assert_eq!(total.as_millis().div_ceil(100), 20, "what was given up counts as well");
    }

    #[tokio::test(start_paused = true)]
    async fn one_alarm_serves_many_waits() {
        let mut alarm = Alarm::default();
        let second = Duration::from_secs(1);
        let begun = Instant::now();
        assert_eq!(alarm.within(Duration::ZERO, async { 1 }).await, Ok(1));
        assert_eq!(alarm.within(60 * second, tokio::time::sleep(second)).await, Ok(()));
        assert_eq!(alarm.within(second, std::future::pending::<()>()).await, Err(Late), "sooner than the alarm was set");
        assert_eq!(begun.elapsed().as_secs(), 2);
        assert_eq!(alarm.within(second, tokio::time::sleep(second / 2)).await, Ok(()));
        assert_eq!(alarm.within(3 * second, std::future::pending::<()>()).await, Err(Late), "later than the alarm was set");
        assert_eq!(begun.elapsed().as_millis().div_ceil(100), 55);
        assert_eq!(alarm.within(Duration::MAX, tokio::time::sleep(100 * second)).await, Ok(()));
        let mut work = pin!(tokio::time::sleep(second));
        assert_eq!(alarm.until(Some(Instant::now()), work.as_mut()).await, Err(Late), "over already");
        assert_eq!(alarm.until(None, work.as_mut()).await, Ok(()));
    }
}
