//! `first`: the first one listed that may be asked; the others stand by.

use super::{Ask, Balancer, NoSettings, Seat};

pub struct First;

impl Balancer for First {
    const NAME: &'static str = "first";
    const SUMMARY: &'static str =
        "asks the first one listed that is well, and the others only in its stead; weights do not matter.";
    type Settings = NoSettings;

    fn build(_: &[Seat], _: &NoSettings) -> Self {
        First
    }

    fn pick(&self, seats: &[Seat], ask: &Ask<'_>) -> Option<usize> {
        seats.iter().position(|seat| ask.takes(seat))
    }
}
