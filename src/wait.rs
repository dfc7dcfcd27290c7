//! Waiting with a limit, where mostly there is nothing to wait for.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, Sleep};

/// [`tokio::time::timeout`], but the clock is read and a timer made only if the work is not done at once: on the way of an ordinary
/// request nearly every read and write is.
///
/// # Errors
/// The work took longer than `limit`. It is dropped then.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut work = pin!(work);
    let at_once = poll_fn(|cx| {
        Poll::Ready(match work.as_mut().poll(cx) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        })
    });
    match at_once.await {
        Some(done) => Ok(done),
        None => tokio::time::timeout(limit, work).await,
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

/// The time was over before the work was done.
#[derive(Debug, PartialEq, Eq)]
pub struct Late;

impl Alarm {
    /// Does the work for at most `limit`, counted from the first time that it has to wait.
    ///
    /// # Errors
    /// [`Late`]; the work is dropped then.
    pub async fn within<T>(&mut self, limit: Duration, work: impl Future<Output = T>) -> Result<T, Late> {
        self.run(pin!(work), || Instant::now().checked_add(limit)).await
    }

    /// Does the work until `due`; without an end if that is `None`.
    ///
    /// # Errors
    /// [`Late`]; the work can be taken up again.
    pub async fn until<T>(&mut self, due: Option<Instant>, work: Pin<&mut impl Future<Output = T>>) -> Result<T, Late> {
        self.run(work, || due).await
    }

    async fn run<T>(
        &mut self,
        mut work: Pin<&mut impl Future<Output = T>>,
        due: impl Fn() -> Option<Instant>,
    ) -> Result<T, Late> {
        let mut known: Option<Option<Instant>> = None;
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            match *known.get_or_insert_with(&due) {
                Some(due) => self.poll(due, cx).map(Err),
                None => Poll::Pending,
            }
        })
        .await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_done_at_once_needs_no_time() {
        assert_eq!(within(Duration::ZERO, async { 1 }).await.ok(), Some(1));
        assert!(within(Duration::from_secs(1), std::future::pending::<()>()).await.is_err());
        let soon = tokio::time::sleep(Duration::from_millis(10));
        assert!(within(Duration::from_secs(1), soon).await.is_ok());
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
