//! What a part of the gateway may ask of its surroundings while it is compiled, whichever room it is in.

use std::path::Path;

use crate::ledger::Ledger;
use crate::problem::{Place, Problems};
use crate::tally::Tallies;

pub struct Context<'a> {
    pub problems: &'a mut Problems,
    /// Where it was written.
    pub place: Place,
    /// What its state is kept under.
    pub scope: &'a str,
    /// The folder that relative file names count from.
    pub base: &'a Path,
    /// State that outlives generations.
    pub ledger: &'a Ledger,
    /// Where it counts what is its own.
    pub tallies: &'a Tallies,
    /// Where state may run tasks of its own. `None` where nothing is served.
    pub background: Option<&'a tokio::runtime::Handle>,
}
