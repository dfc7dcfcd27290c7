//! The time of day, where somebody sets it back: an answer is not younger for that.
//!
//! What is stored is good until a time of day, because it outlives the process on disk and is shared through Redis. Whoever looks at it asks
//! here what time it is for that answer: the time of day, and as much later as the clock was set back since its service was asked for it.
//! That is found out by holding the clock against one that nobody sets. A clock that jumps ahead is believed: a machine that has slept does
//! the same, and the worst that comes of it is that what is fresh is fetched anew.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::moment::Moment;

/// By less than this the clock is not said to be set: it is about as long as a reading of both clocks may be held up.
const SLIGHT: u64 = 500_000_000;
/// How closely one reading has to follow another to be believed.
const CLOSE: Duration = Duration::from_millis(20);
/// So many times the clock is remembered to be set back; before that, each counts for what came after it as well.
const MOST: usize = 16;

static CLOCK: Clock = Clock::new();

/// What time it is for an answer whose service was asked for it then.
#[inline]
pub(super) fn now_for(asked: u64) -> SystemTime {
    let (now, moment) = read();
    CLOCK.look(now, moment);
    let last = CLOCK.last.load(Ordering::Acquire);
    if last == 0 || last < asked { now } else { CLOCK.later(now, asked) }
}

/// What time it is for all that this process has stored: this goes on whatever the clock does, and tells what was stored before from what was
/// stored after.
pub(super) fn onward() -> SystemTime {
    now_for(0)
}

/// In this order: whoever is held up between the two takes the clock to be ahead, and never to be set back.
#[inline]
fn read() -> (SystemTime, u64) {
    let moment = Moment::now().get();
    (SystemTime::now(), moment)
}

struct Clock {
    /// How far the time of day is ahead of the moments, in nanoseconds.
    ahead: AtomicI64,
    /// When the clock was last found to be set back; 0 for never.
    last: AtomicU64,
    steps: Mutex<VecDeque<Step>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    /// When it was found out.
    at: u64,
    /// How far it was set back, in nanoseconds.
    by: u64,
}

impl Clock {
    const fn new() -> Self {
        Clock { ahead: AtomicI64::new(0), last: AtomicU64::new(0), steps: Mutex::new(VecDeque::new()) }
    }

    /// Whether both clocks still say the same.
    #[inline]
    fn look(&self, now: SystemTime, moment: u64) {
        if ahead(now, moment).abs_diff(self.ahead.load(Ordering::Relaxed)) > SLIGHT {
            self.look_closely();
        }
    }

    #[cold]
    fn look_closely(&self) {
        let mut steps = self.steps.lock();
        for _ in 0..8 {
            let before = Instant::now();
            let (now, moment) = read();
            if before.elapsed() < CLOSE {
                return self.note(&mut steps, ahead(now, moment), moment);
            }
        }
    }

    fn note(&self, steps: &mut VecDeque<Step>, ahead: i64, at: u64) {
        let known = self.ahead.load(Ordering::Relaxed);
        let by = ahead.abs_diff(known);
        if by <= SLIGHT {
            // Somebody else has found it out meanwhile, or it was none.
            return;
        }
        if ahead < known {
            steps.push_back(Step { at, by });
            if steps.len() > MOST
                && let Some(first) = steps.pop_front()
                && let Some(second) = steps.front_mut()
            {
                second.by = second.by.saturating_add(first.by);
            }
            self.last.store(at, Ordering::Release);
        }
        self.ahead.store(ahead, Ordering::Release);
    }

    #[cold]
    fn later(&self, now: SystemTime, asked: u64) -> SystemTime {
        let steps = self.steps.lock();
        let by = steps.iter().filter(|step| step.at >= asked).fold(0_u64, |all, step| all.saturating_add(step.by));
        now.checked_add(Duration::from_nanos(by)).unwrap_or(now)
    }
}

/// In nanoseconds; good for some hundred years.
fn ahead(now: SystemTime, moment: u64) -> i64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = since.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(since.subsec_nanos()));
    now.wrapping_sub(moment.wrapping_sub(Moment::FIRST)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn later(clock: &Clock, asked: u64) -> u64 {
        let epoch = SystemTime::UNIX_EPOCH;
        clock.later(epoch, asked).duration_since(epoch).unwrap().as_secs()
    }

    #[test]
    fn what_was_asked_for_before_the_clock_was_set_back_is_so_much_older() {
        let clock = Clock::new();
        let note = |ahead: u64, at| clock.note(&mut clock.steps.lock(), (ahead * SECOND).cast_signed(), at);
        note(10_000, 1);
        assert_eq!((later(&clock, 0), clock.last.load(Ordering::Relaxed)), (0, 0));
        note(9_000, 10);
        // It is set again, and counts for nothing: nobody knows that it is right now.
        note(9_500, 15);
        note(9_400, 20);
        assert_eq!([0, 10, 11, 20, 21].map(|asked| later(&clock, asked)), [1_100, 1_100, 100, 100, 0]);
        // What is slight is not lost where more of it comes.
        let slight = |ahead: u64| clock.note(&mut clock.steps.lock(), (ahead * SECOND / 10).cast_signed(), 30);
        slight(93_996);
        assert_eq!(clock.last.load(Ordering::Relaxed), 20);
        slight(93_990);
        assert_eq!(later(&clock, 21), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_makes_nothing_younger() {
        let clock = Clock::new();
        let first = 1_000;
        for number in 0..first {
            clock.note(&mut clock.steps.lock(), ((2 * first - number) * SECOND).cast_signed(), number + 1);
        }
        assert_eq!(clock.steps.lock().len(), MOST);
        assert_eq!(later(&clock, 0), first - 1);
        assert!((1..=first).all(|asked| later(&clock, asked) >= first - asked));
    }

    #[test]
    fn it_goes_on() {
        let before = onward();
        assert!(onward() >= before && now_for(Moment::now().get()).elapsed().is_ok());
    }
}
