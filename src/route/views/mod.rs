//! `views`: one route, and for each kind of client an answer of its own (a backend for each frontend).
//!
//! Which view a request gets is found out once it is known who asks and that he may. What a client only claims (device, fields) may be
//! overruled by what it asks for (`?view=`); what it has to have proved (consumer, group, plan, scope) may not: a view that is for some is
//! to everybody else as if it were not there.
//!
//! Here is who gets which. What the views answer is compiled as routes are, for each is one behind this route: `snapshot::compile`.

mod config;
mod tags;

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::matcher::{Asked, predicates};
use super::predicate::{Conditions, Facts, Predicate, listed};
use crate::carrier::{query_values, strip_query_param};
use crate::exchange::Identity;
use crate::head::RequestHead;
use crate::problem::{Place, Problem, Problems};
use crate::tally::Counter;
use crate::value::{OneOrMany, Spanned};
pub use config::{Unknown, ViewConfig, ViewParameterConfig, ViewsConfig};
pub use tags::Tags;

const MOST: usize = 32;
const LONGEST_NAME: usize = 32;

/// A route's views, compiled.
pub struct Views {
    parameter: Option<ViewParameterConfig>,
    list: Box<[View]>,
    /// The fields that tell clients apart, where nobody has chosen; and where somebody has.
    varies: Option<HeaderValue>,
    varies_asked: Option<HeaderValue>,
    /// Whether who it is tells views apart.
    pub by_who: bool,
}

/// One view.
pub struct View {
    pub name: Arc<str>,
    conditions: Conditions,
    who: Who,
    only_asked: bool,
    /// The number of the route that answers it.
    pub route: u32,
    pub count: Arc<Counter>,
}

/// Whom it is for. Empty lists are for everybody.
#[derive(Default)]
struct Who {
    consumers: Box<[Box<str>]>,
    groups: Box<[Box<str>]>,
    plans: Box<[Box<str>]>,
    scopes: Box<[Box<str>]>,
}

/// Who gets a view, as far as the file says it.
pub struct Sketch {
    pub name: Arc<str>,
    conditions: Conditions,
    who: Who,
    only_asked: bool,
}

/// What a request gets.
pub struct Chosen<'a> {
    pub view: &'a View,
    pub varies: Option<&'a HeaderValue>,
}

impl Who {
    fn is_everybody(&self) -> bool {
        [&self.consumers, &self.groups, &self.plans, &self.scopes].into_iter().all(|list| list.is_empty())
    }

    fn holds(&self, identity: Option<&Identity>) -> bool {
        if self.is_everybody() {
            return true;
        }
        let Some(identity) = identity else { return false };
        let is_one = |list: &[Box<str>], name: &str| list.iter().any(|known| **known == *name);
        let one = |list: &[Box<str>], name: Option<&str>| list.is_empty() || name.is_some_and(|name| is_one(list, name));
        let any = |list: &[Box<str>], names: &[Arc<str>]| list.is_empty() || names.iter().any(|name| is_one(list, name));
        one(&self.consumers, identity.consumer.as_deref())
            && one(&self.plans, identity.plan.as_deref())
            && any(&self.groups, &identity.groups)
            && any(&self.scopes, &identity.scopes)
    }
}

impl Views {
    /// Who gets which. `None` if something is wrong, which then is in `problems`.
    pub fn sketch(config: &Spanned<ViewsConfig>, problems: &mut Problems) -> Option<Vec<Sketch>> {
        let before = problems.len();
        let list = &config.0;
        if !(1..=MOST).contains(&list.len()) {
            problems.push(Problem::error(config.place, format!("`views` has 1 to {MOST} views, and here are {}", list.len())));
            return None;
        }
        let mut sketches = Vec::new();
        for (number, (name, view)) in list.iter().enumerate() {
            check_name(name, view.place, problems);
            let asked =
                Asked { headers: &view.headers, query: None, version: None, device: view.device.as_ref(), place: view.place };
            let Some((_, predicates)) = predicates(&asked, problems) else { continue };
            let names = |list: &Option<OneOrMany<Spanned<String>>>| {
                list.iter().flat_map(|list| list.iter()).map(|name| name.value.as_str().into()).collect()
            };
            let who = Who {
                consumers: names(&view.consumers),
                groups: names(&view.groups),
                plans: names(&view.plans),
                scopes: names(&view.scopes),
            };
            let for_all = predicates.is_empty() && who.is_everybody() && !view.only_asked;
            let last = number + 1 == list.len();
            if for_all && !last {
                let problem =
                    Problem::error(view.place, format!("`{name}` is for everybody, so that no view behind it is for anybody"));
                problems.push(problem.hint("say whom it is for, write `only_asked: true`, or make it the last"));
            }
            if last && !for_all {
                let problem = Problem::error(view.place, "the last view is for everybody that no other is for");
                problems.push(problem.hint("add one behind it without `device`, `headers`, `consumers` and the like"));
            }
            let conditions = Conditions { methods: None, predicates };
            sketches.push(Sketch { name: name.as_str().into(), conditions, who, only_asked: view.only_asked });
        }
        (problems.len() == before).then_some(sketches)
    }

    /// `routes`: what answers each of them, and how often it did. `credentials`: the fields in which the route takes them.
    pub fn new(
        sketches: Vec<Sketch>,
        routes: impl IntoIterator<Item = (u32, Arc<Counter>)>,
        parameter: Option<&ViewParameterConfig>,
        credentials: &[HeaderName],
    ) -> Views {
        let by_who = sketches.iter().any(|sketch| !sketch.who.is_everybody());
        let mut asked: Vec<&str> = Vec::new();
        if by_who {
            asked.extend(credentials.iter().map(HeaderName::as_str));
            asked.extend(credentials.is_empty().then_some("authorization"));
        }
        let chosen_by = sketches.iter().flat_map(|sketch| &sketch.conditions.predicates).flat_map(Predicate::fields);
        let varies = listed(chosen_by.chain(asked.iter().copied()));
        let varies_asked = listed(asked);
        let list = sketches.into_iter().zip(routes).map(|(sketch, (route, count))| {
            let Sketch { name, conditions, who, only_asked } = sketch;
            View { name, conditions, who, only_asked, route, count }
        });
        Views { parameter: parameter.cloned(), list: list.collect(), varies, varies_asked, by_who }
    }

    pub fn list(&self) -> &[View] {
        &self.list
    }

    /// What this request gets. `None` if it asks for what is not there for it, and the file does not let that pass.
    pub fn choose(&self, head: &RequestHead, identity: Option<&Identity>) -> Option<Chosen<'_>> {
        let wanted = self.parameter.as_ref().and_then(|parameter| {
            let query = head.query()?;
            Some((query_values(query, &parameter.name.value).next()?, parameter.unknown))
        });
        if let Some((wanted, unknown)) = wanted {
            let mut open = self.list.iter().filter(|view| view.who.holds(identity));
            if let Some(view) = open.find(|view| view.name.as_bytes() == &*wanted) {
                return Some(Chosen { view, varies: self.varies_asked.as_ref() });
            }
            if unknown == Unknown::Refuse {
                return None;
            }
        }
        let facts = Facts::new(head);
        let holds = |view: &&View| !view.only_asked && view.who.holds(identity) && view.conditions.predicates_hold(&facts);
        self.list.iter().find(holds).map(|view| Chosen { view, varies: self.varies.as_ref() })
    }

    /// A query without the parameter, where services are not to see it. `None` where nothing changes.
    pub fn without_parameter(&self, query: &str) -> Option<String> {
        let name = &self.parameter.as_ref().filter(|parameter| !parameter.pass_on)?.name.value;
        query_values(query, name).next()?;
        Some(strip_query_param(query, name))
    }
}

fn check_name(name: &str, place: Place, problems: &mut Problems) {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    let fine =
        name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(letters) && name.len() <= LONGEST_NAME;
    if !fine {
        let message = format!("`{name}` is no name of a view: small letters, digits, `_` and `-`, up to {LONGEST_NAME} of them");
        problems.push(Problem::error(place, message));
    }
}
