//! A path that was not written as it is matched: whether it may pass, and what of it the backend is sent.
//!
//! Asked only where the head's reader found a spelling, which few requests have.

use crate::core::WorkerState;
use crate::exchange::{Exchange, Reading, Written};
use crate::head::RequestHead;
use crate::path::{self, AmbiguousPaths, Handling, Spelling};
use crate::reply::Reply;
use crate::route::{Found, Params, RouteTable};
use crate::snapshot::Route;

pub struct Judge<'a> {
    pub view: &'a WorkerState,
    /// The listener's.
    pub table: &'a RouteTable,
    pub head: &'a RequestHead,
    pub spelling: &'a Spelling,
    /// What the listener says, where the route says nothing.
    pub listener: Handling,
}

impl Judge<'_> {
    /// `index`, `route` and `params`: what the path as it is matched takes.
    ///
    /// # Errors
    /// 400, where a backend could take the path for one that other rules are about.
    pub fn judge(&self, index: u32, route: &Route, params: &Params<'_>) -> Result<Box<Written>, Box<Reply>> {
        let Judge { head, spelling, listener, .. } = *self;
        let ambiguous = route.ambiguous_paths.unwrap_or(listener.ambiguous);
        let merge = route.merge_slashes.unwrap_or(listener.merge_slashes);
        // The gateway resolves the dots, and cannot know which of two segments the client meant.
        let lost = !merge && spelling.climbs_over_nothing;
        let strict = ambiguous == AmbiguousPaths::Refuse && (spelling.ambiguous || spelling.empty_segments);
        if lost || strict {
            return Err(Reply::ambiguous_path());
        }
        let readings = match ambiguous {
            AmbiguousPaths::Auto if spelling.ambiguous => self.readings(index, route, params)?,
            _ => Vec::new(),
        };
        let sent = spelling.sent(merge);
        Ok(Box::new(Written { sent: (*sent != *head.path).then(|| sent.into_owned()), readings }))
    }

    /// The other readings of the path, if none of them takes another route or meets another rule.
    fn readings(&self, index: u32, route: &Route, params: &Params<'_>) -> Result<Vec<Reading>, Box<Reply>> {
        let options = &route.plan.options;
        let readings = path::readings(&self.head.path).map_err(|_| Reply::ambiguous_path())?;
        let mut kept = Vec::new();
        for path in readings {
            // One that no route serves, or none by this method, is not open either: a route's path says all that it opens.
            let Found::Route { index: other, params: theirs, .. } = self.table.find_as(self.head, &path) else {
                return Err(Reply::ambiguous_path());
            };
            // A rule may know the routes apart by their names.
            let alike = other == index
                || !options.by_readings && self.view.route(Some(other)).is_some_and(|other| protects_alike(route, other));
            let same_params =
                theirs.iter().map(|(name, value)| (&***name, *value)).eq(params.iter().map(|(name, value)| (&***name, *value)));
            let by_params = options.by_params && (other != index || !same_params);
            if !alike || options.by_path || by_params {
                return Err(Reply::ambiguous_path());
            }
            if options.by_readings {
                let params = theirs.into_iter().map(|(name, value)| (name.clone(), value.into())).collect();
                kept.push(Reading { params, path, destination: false });
            }
        }
        Ok(kept)
    }
}

/// Whether it makes no difference which of two routes is taken: the same policies, those with their state, before the same service.
fn protects_alike(one: &Route, other: &Route) -> bool {
    let services = |route: &Route| route.answer.services().iter().map(std::sync::Arc::as_ptr).collect::<Vec<_>>();
    std::sync::Arc::ptr_eq(&one.plan, &other.plan) && services(one) == services(other)
}

/// The target to ask the backend for, where only the path's spelling makes it another than the canonical one.
pub fn target(exchange: &Exchange, head: &RequestHead) -> Option<String> {
    let sent = exchange.written.as_ref()?.sent.as_deref()?;
    Some(head.query().map_or_else(|| sent.to_owned(), |query| format!("{sent}?{query}")))
}
