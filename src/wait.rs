//! Waiting with a limit, where mostly there is nothing to wait for.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::error::Elapsed;

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
}
