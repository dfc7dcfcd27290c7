//! What a client holds of a stored body while it takes its time with it.
//!
//! As long as the body is in the cache it is there for all, and counted there. Once it has had to make room, it is kept for those alone who
//! still read it: it is of the share that one of them has of the memory for bodies, and whoever should pay and has no share left is let go.
//! When he who pays has read it, the next one does. So popular answers may be read as slowly as anybody likes, and nobody can pin what is not
//! there any more.

use std::pin::{Pin, pin};
use std::time::Duration;

use pingora_error::{Error, Result};

use crate::cache::{Cache, Hit, Lent, Paying};
use crate::downstream::{Downstream, UNPAID};
use crate::listen::share::Purse;
use crate::wait::within;

/// Bodies up to this length are nobody's concern: so much waits for any client.
pub const FREE: usize = 64 * 1024;

/// How often it is looked whether a body is still there for others, while a client takes nothing.
const LOOK: Duration = Duration::from_millis(250);

/// A body that a client reads.
pub struct Reading {
    /// Of those who read the same body, it is this one who pays. Before what it reads: once that is dropped, something else may be there.
    paying: Option<Paying>,
    cache: &'static Cache,
    lent: Lent,
    /// `None`: nobody has to pay.
    purse: Option<Purse>,
    paid: usize,
}

impl Reading {
    pub fn new(cache: &'static Cache, lent: Lent, purse: Option<Purse>) -> Self {
        Reading { paying: None, cache, lent, purse, paid: 0 }
    }

    /// Waits for the client to take what it is given.
    ///
    /// # Errors
    /// Those of `writing`; [`UNPAID`].
    pub async fn during<T>(&mut self, mut writing: Pin<&mut impl Future<Output = Result<T>>>) -> Result<T> {
        loop {
            if let Ok(written) = within(LOOK, writing.as_mut()).await {
                return written;
            }
            if !self.keeps_up() {
                self.paying = None;
                return Error::e_explain(UNPAID, "the client reads what there is no memory for");
            }
        }
    }

    /// Pays for what only its readers have, unless another one does; whether it can.
    fn keeps_up(&mut self) -> bool {
        if self.purse.is_none() {
            return true;
        }
        let Some(held) = self.cache.held_by_readers(&self.lent) else { return true };
        if self.paying.is_none() {
            self.paying = self.cache.pay_for(&held);
        }
        if self.paying.is_none() {
            return true;
        }
        let more = held.bytes.saturating_sub(self.paid);
        let pays = self.pays(more);
        if pays {
            self.paid += more;
        }
        pays
    }

    /// Pays for so many bytes that the client alone has; whether it can.
    pub fn pays(&mut self, bytes: usize) -> bool {
        bytes <= FREE || self.purse.as_mut().is_none_or(|purse| purse.charge(bytes))
    }
}

/// Gives a client a stored body.
///
/// # Errors
/// As [`Reading::during`].
pub async fn write(hit: &Hit, cache: &'static Cache, down: &mut Downstream) -> Result<()> {
    let mut reading = Reading::new(cache, hit.lent(), down.purse_beside());
    reading.during(pin!(down.write_body(hit.body().clone(), true))).await
}
