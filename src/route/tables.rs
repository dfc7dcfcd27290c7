//! The routes of each listener. Most configurations have one table for all of them.

use std::sync::Arc;

use ahash::AHashMap;

use super::matcher::Matcher;
use super::table::RouteTable;
use super::tie;
use crate::problem::Problems;

/// A table for each listener, where the routes tell listeners apart.
pub struct RouteTables {
    /// For whom there is none of its own: the routes that name no listener.
    common: Arc<RouteTable>,
    /// By the listener's name. Empty where no route names any.
    own: AHashMap<Arc<str>, Arc<RouteTable>>,
}

impl RouteTables {
    /// As [`RouteTable::build`], for the listeners of these names. Routes that no listener shares are not in each other's way.
    pub fn build(routes: Vec<(usize, Matcher)>, listeners: &[Arc<str>], problems: &mut Problems) -> RouteTables {
        if routes.iter().all(|(_, matcher)| matcher.listeners.is_none()) {
            return RouteTables { common: Arc::new(RouteTable::build(routes, problems)), own: AHashMap::new() };
        }
        // A table sees its own routes only, and ids are everybody's.
        tie::check_ids(routes.iter().map(|(_, matcher)| matcher), problems);
        let mut built: AHashMap<Vec<usize>, Arc<RouteTable>> = AHashMap::new();
        let mut table = |serves: &dyn Fn(&Matcher) -> bool| {
            let here: Vec<(usize, Matcher)> = routes.iter().filter(|(_, matcher)| serves(matcher)).cloned().collect();
            let numbers = here.iter().map(|(number, _)| *number).collect();
            built.entry(numbers).or_insert_with(|| Arc::new(RouteTable::build(here, problems))).clone()
        };
        RouteTables {
            common: table(&|matcher| matcher.listeners.is_none()),
            own: listeners.iter().map(|listener| (listener.clone(), table(&|matcher| matcher.is_on(listener)))).collect(),
        }
    }

    /// The routes that a listener serves.
    pub fn of(&self, listener: &str) -> &RouteTable {
        // Nobody pays for a hash whose routes name no listener.
        let own = if self.own.is_empty() { None } else { self.own.get(listener) };
        own.unwrap_or(&self.common)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::RequestHead;
    use crate::route::Found;

    fn build(routes: &[&str]) -> (RouteTables, Problems) {
        let mut problems = Problems::default();
        let compile = |yaml: &&str| Matcher::compile(&serde_yaml::from_str(yaml).unwrap(), &mut Problems::default()).unwrap();
        let routes = routes.iter().map(compile).enumerate().collect();
        let listeners = ["public".into(), "inner".into()];
        (RouteTables::build(routes, &listeners, &mut problems), problems)
    }

    fn ask(tables: &RouteTables, listener: &str, path: &str, host: &str) -> Option<u32> {
        match tables.of(listener).find(&RequestHead::build("GET", path, &[("host", host)])) {
            Found::Route { index, .. } => Some(index),
            _ => None,
        }
    }

    #[test]
    fn a_route_is_not_there_for_listeners_that_it_does_not_name() {
        let (tables, problems) = build(&[
            "path: /*",
            "path: /metrics\nlisteners: inner",
            "path: /metrics\nlisteners: [public]",
            "path: /*\nhost: inner.test\nlisteners: [inner]",
        ]);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(ask(&tables, "inner", "/metrics", "x"), Some(1));
        assert_eq!(ask(&tables, "public", "/metrics", "x"), Some(2));
        assert_eq!(ask(&tables, "gone", "/metrics", "x"), Some(0));
        // The host is not there either, so that others may serve it.
        assert_eq!(ask(&tables, "inner", "/", "inner.test"), Some(3));
        assert_eq!(ask(&tables, "public", "/", "inner.test"), Some(0));
    }

    #[test]
    fn routes_that_share_a_listener_are_in_each_others_way() {
        let (_, problems) = build(&["path: /a\nlisteners: [public, inner]\nid: one", "path: /a\nlisteners: inner\nid: two"]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems.has_errors());
        let (_, problems) = build(&["path: /a\nlisteners: public\nid: same", "path: /a\nlisteners: inner\nid: same"]);
        assert!(problems.has_errors(), "ids are everybody's");
    }
}
