//! Routes that stand in each other's way: reported while loading, so that nobody has to find out from traffic.

use std::collections::HashMap;

use super::matcher::Matcher;
use crate::problem::{Place, Problem, Problems};

/// How many earlier routes of the same path each one is compared with. Thousands of routes on one path are told apart by a value
/// each; comparing all pairs would make loading quadratic, and a mistake is most often made beside its like.
const WINDOW: usize = 256;

/// Checks the routes of one host and one path shape, sorted in the order in which they are tried.
pub(super) fn check(rivals: &[&Matcher], problems: &mut Problems) {
    for equals in rivals.chunk_by(|one, other| one.conditions.count() == other.conditions.count()) {
        let mut seen: HashMap<String, &Matcher> = HashMap::new();
        for (at, later) in equals.iter().enumerate() {
            if equals.len() == 1 {
                break;
            }
            if let Some(earlier) = seen.get(&format!("{:?}", later.conditions)) {
                problems.push(never_reached(earlier, later));
                continue;
            }
            seen.insert(format!("{:?}", later.conditions), later);
            let earlier = equals.get(at.saturating_sub(WINDOW)..at).unwrap_or_default();
            if let Some(earlier) = earlier.iter().find(|earlier| earlier.conditions.overlap(&later.conditions)) {
                problems.push(order_decides(earlier, later));
            }
        }
    }
}

fn never_reached(earlier: &Matcher, later: &Matcher) -> Problem {
    let message = format!("this route is never reached: route `{}` matches the same host, path and predicates", earlier.id());
    Problem::error(later.path_place, message).hint("remove one of them, or tell them apart by host, path, methods or headers")
}

fn order_decides(earlier: &Matcher, later: &Matcher) -> Problem {
    let message = format!(
        "this route and `{}` can both match one request and neither is more specific: the one that stands first in the file answers",
        earlier.id()
    );
    Problem::warning(later.path_place, message).hint("give one of them another predicate, or values that exclude each other")
}

/// Checks that ids are unique. `routes` in the order of the file.
pub(super) fn check_ids<'m>(routes: impl Iterator<Item = &'m Matcher>, problems: &mut Problems) {
    let mut seen: HashMap<&str, &Matcher> = HashMap::new();
    for route in routes {
        let Some(earlier) = seen.insert(route.id(), route) else { continue };
        // Two routes alike in everything have been told so already.
        let alike = !route.named && !earlier.named && route.hosts == earlier.hosts && route.conditions == earlier.conditions;
        if !alike {
            problems.push(id_taken(route, earlier.id_place));
        }
    }
}

fn id_taken(route: &Matcher, first: Place) -> Problem {
    let at = if first.is_known() { format!(", on line {}", first.line) } else { String::new() };
    Problem::error(route.id_place, format!("the id `{}` belongs to an earlier route{at}", route.id()))
        .hint("give each route an `id` of its own")
}
