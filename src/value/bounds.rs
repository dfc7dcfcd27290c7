//! What was written, if it is within its bounds; otherwise a problem where it stands.

use std::time::Duration;

use super::{Period, Share, Spanned};
use crate::problem::{Problem, Problems};

/// A period within bounds, in milliseconds.
pub fn period_within(what: &str, period: &Spanned<Period>, least: u64, most: u64, problems: &mut Problems) -> Option<Duration> {
    let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
    let Period(given) = period.value;
    if (least..=most).contains(&given) {
        return Some(given);
    }
    let message = format!("`{what}` is {given:?}, which is not between {least:?} and {most:?}");
    problems.push(Problem::error(period.place, message));
    None
}

/// A number within bounds.
pub fn count_within(what: &str, count: &Spanned<u32>, least: u32, most: u32, problems: &mut Problems) -> Option<u32> {
    if (least..=most).contains(&count.value) {
        return Some(count.value);
    }
    let message = format!("`{what}` is {}, which is not between {least} and {most}", count.value);
    problems.push(Problem::error(count.place, message));
    None
}

/// A share that is not nothing.
pub fn share_within(what: &str, share: &Spanned<Share>, problems: &mut Problems) -> Option<Share> {
    if share.value.is_none() {
        problems.push(Problem::error(share.place, format!("`{what}` is 0%, which is nothing")));
        return None;
    }
    Some(share.value)
}

/// A period of at most an hour; `default` seconds if there is none.
pub fn up_to_an_hour(period: Option<&Spanned<Period>>, default: u64, what: &str, problems: &mut Problems) -> Option<Duration> {
    let Some(period) = period else { return Some(Duration::from_secs(default)) };
    if period.value.0 > Duration::from_secs(3600) {
        problems.push(Problem::error(period.place, format!("`{what}` is at most 1h")));
        return None;
    }
    Some(period.value.0)
}
