//! All routes of a generation, arranged so that finding one costs the same however many there are.

use std::ops::ControlFlow;
use std::sync::Arc;

use ahash::AHashMap;
use http::{HeaderValue, Method};
use smallvec::SmallVec;

use super::matcher::Matcher;
use super::pattern::{HostPattern, LONGEST_HOST};
use super::predicate::{self, Conditions, Facts, MethodSet};
use super::tie;
use super::trie::{Captured, Leaf, Trie, TrieBuilder};
use crate::head::RequestHead;
use crate::problem::Problems;

/// What the route's `{name}` segments took, undecoded. Borrowed from the table and the head: nothing is counted or copied until
/// somebody keeps it.
pub type Params<'a> = SmallVec<[(&'a Arc<str>, &'a str); 4]>;

/// The outcome of a lookup.
#[derive(Debug, Clone, PartialEq)]
pub enum Found<'a> {
    Route {
        /// The number under which the route was given to [`RouteTable::build`].
        index: u32,
        params: Params<'a>,
        /// What a prefix's `*` took, with its leading slash; empty if there was nothing, or the route's path is no prefix.
        rest: &'a str,
    },
    /// Some route matches but for the method. `allow` is the value of the answer's `Allow` (RFC 9110, section 15.5.6).
    MethodNotAllowed {
        allow: HeaderValue,
    },
    NotFound,
}

struct Entry {
    index: u32,
    conditions: Conditions,
    params: Box<[Arc<str>]>,
}

/// One host's routes. Paths without parameter or prefix, the most of them in large configurations, take one hash.
struct HostRoutes {
    exact: AHashMap<Box<str>, Leaf>,
    trie: Trie,
}

/// Maps a request to a route.
pub struct RouteTable {
    entries: Box<[Entry]>,
    hosts: Box<[HostRoutes]>,
    exact_hosts: AHashMap<Box<str>, u32>,
    /// By what follows `*.`.
    wildcards: AHashMap<Box<str>, u32>,
    any_host: Option<u32>,
}

impl RouteTable {
    /// Arranges `routes`, given in the order of the file with the number that [`Found::Route`] will tell. Reports routes that are
    /// never reached and ids that are taken (errors), and ties that only the file's order decides (warnings).
    pub fn build(routes: impl IntoIterator<Item = (usize, Matcher)>, problems: &mut Problems) -> RouteTable {
        let mut routes: Vec<(usize, Matcher)> = routes.into_iter().collect();
        tie::check_ids(routes.iter().map(|(_, matcher)| matcher), problems);
        // A stable sort: among equals the file's order stands. Every list of candidates inherits the order.
        routes.sort_by_key(|(_, matcher)| std::cmp::Reverse(matcher.conditions.count()));

        let mut by_host: AHashMap<&HostPattern, Draft<'_>> = AHashMap::new();
        for (at, (_, matcher)) in routes.iter().enumerate() {
            for host in &matcher.hosts {
                by_host.entry(host).or_default().insert(matcher, at as u32);
            }
        }
        let mut table = RouteTable {
            entries: Box::default(),
            hosts: Box::default(),
            exact_hosts: AHashMap::new(),
            wildcards: AHashMap::new(),
            any_host: None,
        };
        let mut hosts = Vec::with_capacity(by_host.len());
        for (host, draft) in by_host {
            let at = hosts.len() as u32;
            match host {
                HostPattern::Exact(name) => drop(table.exact_hosts.insert(name.clone(), at)),
                HostPattern::Wildcard(suffix) => drop(table.wildcards.insert(suffix.clone(), at)),
                HostPattern::Any => table.any_host = Some(at),
            }
            hosts.push(draft.finish());
        }
        for leaf in hosts.iter_mut().flat_map(HostRoutes::leaves) {
            let candidates = leaf.candidates.iter().filter_map(|at| routes.get(*at as usize));
            let rivals: Vec<&Matcher> = candidates.map(|(_, rival)| rival).collect();
            leaf.varies = predicate::varies(rivals.iter().map(|rival| &rival.conditions)).map(Box::new);
            if rivals.len() > 1 {
                tie::check(&rivals, problems);
            }
        }
        table.hosts = hosts.into();
        table.entries = routes.into_iter().map(Entry::from).collect();
        table
    }

    /// The route that answers this request. Allocates nothing unless a route has more than four parameters or the method is refused.
    pub fn find<'a>(&'a self, head: &'a RequestHead) -> Found<'a> {
        self.find_as(head, &head.path)
    }

    /// The same. `varies` is told the fields that this was found out by, as `Vary` lists them (RFC 9110, section 12.5.5), once for each pattern
    /// that was tried: whatever the outcome, a request of the same URL with others of them may have another one.
    pub fn find_telling<'a>(&'a self, head: &'a RequestHead, varies: impl FnMut(&HeaderValue)) -> Found<'a> {
        self.find_by(&Facts::new(head), &head.path, varies)
    }

    /// The route that would answer it if its path were another one.
    pub fn find_as<'a>(&'a self, head: &'a RequestHead, path: &'a str) -> Found<'a> {
        self.find_by(&Facts::new(head), path, |_| ())
    }

    /// The route of a request that a browser asks about beforehand: with this method, and with fields of which these lists have the names.
    pub fn find_announced<'a>(&'a self, head: &'a RequestHead, method: &Method, fields: &[&[u8]]) -> Found<'a> {
        self.find_by(&Facts::announced(head, method, fields), &head.path, |_| ())
    }

    #[inline]
    fn find_by<'a>(&'a self, facts: &Facts<'_>, path: &'a str, mut varies: impl FnMut(&HeaderValue)) -> Found<'a> {
        let Some(routes) = self.host(&facts.head.host) else { return Found::NotFound };
        let mut method_failed = false;
        let mut found = Found::NotFound;
        // The outcome is written here rather than broken with: it would be copied at every level of the tree.
        let walked = routes.walk(path, &mut |leaf, captured, rest| {
            if let Some(names) = &leaf.varies {
                varies(names);
            }
            for entry in leaf.candidates.iter().filter_map(|at| self.entries.get(*at as usize)) {
                if !entry.conditions.method_passes(facts.method) {
                    method_failed = true;
                } else if entry.conditions.predicates_hold(facts) {
                    let mut params = Params::new();
                    if !entry.params.is_empty() {
                        params.extend(entry.params.iter().zip(captured.iter().copied()));
                    }
                    found = Found::Route { index: entry.index, params, rest };
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        });
        // Only where nothing was found is it worth asking what a refused method's other predicates said.
        if walked.is_continue() && method_failed { self.refused_method(routes, facts, path) } else { found }
    }

    fn refused_method<'a>(&'a self, routes: &'a HostRoutes, facts: &Facts<'_>, path: &'a str) -> Found<'a> {
        let mut allowed: Option<MethodSet> = None;
        let _ = routes.walk(path, &mut |leaf, _, _| {
            for entry in leaf.candidates.iter().filter_map(|at| self.entries.get(*at as usize)) {
                if let Some(methods) = &entry.conditions.methods
                    && entry.conditions.predicates_hold(facts)
                {
                    allowed.get_or_insert_default().merge(methods);
                }
            }
            ControlFlow::Continue(())
        });
        match allowed.map(|methods| HeaderValue::try_from(methods.to_string())) {
            Some(Ok(allow)) => Found::MethodNotAllowed { allow },
            _ => Found::NotFound,
        }
    }

    /// The methods that the routes of this request's host and path take; `None` if one of them takes all.
    pub fn allowed(&self, head: &RequestHead) -> Option<HeaderValue> {
        let facts = Facts::new(head);
        let mut allowed = MethodSet::default();
        let walked = self.host(&head.host)?.walk(&head.path, &mut |leaf, _, _| {
            let entries = leaf.candidates.iter().filter_map(|at| self.entries.get(*at as usize));
            for entry in entries.filter(|entry| entry.conditions.predicates_hold(&facts)) {
                match &entry.conditions.methods {
                    Some(methods) => allowed.merge(methods),
                    None => return ControlFlow::Break(()),
                }
            }
            ControlFlow::Continue(())
        });
        if walked.is_break() { None } else { HeaderValue::try_from(allowed.to_string()).ok() }
    }

    /// The routes of the exact host, else of the longest wildcard, else of any host.
    fn host(&self, host: &str) -> Option<&HostRoutes> {
        // No name is longer, and each of a longer one's dots would cost a hash of all that follows.
        let named = if host.len() <= LONGEST_HOST { self.named_host(host) } else { None };
        named.or(self.any_host).and_then(|at| self.hosts.get(at as usize))
    }

    fn named_host(&self, host: &str) -> Option<u32> {
        if !self.exact_hosts.is_empty()
            && let Some(at) = self.exact_hosts.get(host)
        {
            return Some(*at);
        }
        if self.wildcards.is_empty() {
            return None;
        }
        let suffixes = memchr::memchr_iter(b'.', host.as_bytes()).filter(|dot| *dot > 0).filter_map(|dot| host.get(dot + 1..));
        suffixes.filter_map(|suffix| self.wildcards.get(suffix)).next().copied()
    }
}

impl HostRoutes {
    fn walk<'a>(
        &'a self,
        path: &'a str,
        visit: &mut impl FnMut(&'a Leaf, &Captured<'a>, &'a str) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // A path without parameter or prefix is the most specific there is: static at every segment.
        if !self.exact.is_empty()
            && let Some(leaf) = self.exact.get(path)
        {
            visit(leaf, &Captured::new(), "")?;
        }
        self.trie.walk(path, visit)
    }

    fn leaves(&mut self) -> impl Iterator<Item = &mut Leaf> {
        self.exact.values_mut().chain(self.trie.leaves())
    }
}

impl From<(usize, Matcher)> for Entry {
    fn from((index, matcher): (usize, Matcher)) -> Self {
        let params = matcher.path.params().cloned().collect();
        Entry { index: index as u32, conditions: matcher.conditions, params }
    }
}

struct Draft<'p> {
    exact: AHashMap<Box<str>, Leaf>,
    trie: TrieBuilder<'p>,
}

impl Default for Draft<'_> {
    fn default() -> Self {
        Draft { exact: AHashMap::new(), trie: TrieBuilder::new() }
    }
}

impl<'p> Draft<'p> {
    fn insert(&mut self, matcher: &'p Matcher, candidate: u32) {
        match matcher.path.exact() {
            Some(path) => self.exact.entry(path.into()).or_default().candidates.push(candidate),
            None => self.trie.insert(&matcher.path, candidate),
        }
    }

    fn finish(self) -> HostRoutes {
        HostRoutes { exact: self.exact, trie: self.trie.finish() }
    }
}
