//! One route's hosts, path and conditions, checked and canonical.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};

use super::Device;
use super::config::{RouteConfig, ValueMatch, VersionMatch};
use super::pattern::{HostPattern, PathPattern};
use super::predicate::{Conditions, DeviceSet, MethodSet, Predicate};
use crate::problem::{Place, Problem, Problems};
use crate::value::{OneOrMany, Spanned};

const LONGEST_ID: usize = 512;

/// Which requests one route takes.
#[derive(Debug, Clone)]
pub struct Matcher {
    id: Arc<str>,
    /// Whether somebody chose the id.
    pub(super) named: bool,
    pub(super) id_place: Place,
    pub(super) path_place: Place,
    /// Sorted, without repetition, not empty.
    pub(super) hosts: Vec<HostPattern>,
    pub(super) path: PathPattern,
    pub(super) conditions: Conditions,
    /// The names of the listeners that serve it, sorted. `None`: all of them.
    pub(super) listeners: Option<Vec<Arc<str>>>,
}

impl Matcher {
    /// Checks what a route asks of requests. Everything that is wrong goes to `problems`; `None` only if something is.
    pub fn compile(config: &RouteConfig, problems: &mut Problems) -> Option<Matcher> {
        let path = PathPattern::parse(&config.path).map_err(|why| {
            problems.push(Problem::error(config.path.place, format!("`{}` is no path pattern: {why}", config.path.value)));
        });
        if let Some(name) = config.path.split('/').find_map(|segment| segment.strip_prefix(':').filter(|name| !name.is_empty())) {
            let problem = Problem::warning(config.path.place, format!("`:{name}` is taken as it stands, colon included"));
            problems.push(problem.hint(format!("a parameter is written `{{{name}}}`")));
        }
        let hosts = hosts(config, problems);
        let methods = methods(config, problems);
        let RouteConfig { headers, query, version, device, .. } = config;
        let asked =
            Asked { headers, query: Some(query), version: version.as_ref(), device: device.as_ref(), place: config.path.place };
        let predicates = predicates(&asked, problems);
        let id = config.id.as_ref().map(|id| check_id(id, id.place, problems).map(|()| Arc::<str>::from(&***id)));
        let listeners = listeners(config, problems);
        let (path, hosts, methods, (mut labels, predicates)) = (path.ok()?, hosts?, methods?, predicates?);
        let listeners = listeners?;
        labels.extend(listeners.as_ref().map(|names| format!("listener={}", names.join("|"))));
        let id = match id {
            Some(id) => id?,
            None => default_id(methods.as_ref(), &hosts, &path, &labels).into(),
        };
        Some(Matcher {
            id,
            named: config.id.is_some(),
            id_place: config.id.as_ref().map_or(config.path.place, |id| id.place),
            path_place: config.path.place,
            hosts,
            path,
            conditions: Conditions { methods, predicates },
            listeners,
        })
    }

    /// Whether a listener serves it.
    pub fn is_on(&self, listener: &str) -> bool {
        self.listeners.as_ref().is_none_or(|names| names.iter().any(|name| **name == *listener))
    }

    /// Whether it says which listeners serve it.
    pub fn names_listeners(&self) -> bool {
        self.listeners.is_some()
    }

    /// Whether every host that it serves is one of which this holds. Never where it serves any host, or a family of them.
    pub fn hosts_all(&self, holds: impl Fn(&str) -> bool) -> bool {
        self.hosts.iter().all(|host| matches!(host, HostPattern::Exact(name) if holds(name)))
    }

    /// The route's id: the one that was written, or its methods, hosts, path and predicates.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The path as it is matched: `/products/{sku}`. For metrics and traces (`http.route`).
    pub fn template(&self) -> String {
        self.path.to_string()
    }
}

/// Says whether a route may have this name.
pub fn check_id(id: &str, place: Place, problems: &mut Problems) -> Option<()> {
    let good = (1..=LONGEST_ID).contains(&id.len()) && !id.chars().any(char::is_control);
    if !good {
        problems.push(Problem::error(place, format!("an id has 1 to {LONGEST_ID} printable characters")));
    }
    good.then_some(())
}

fn default_id(methods: Option<&MethodSet>, hosts: &[HostPattern], path: &PathPattern, labels: &[String]) -> String {
    let methods = methods.map(|methods| format!("{} ", methods.id())).unwrap_or_default();
    let hosts = match hosts {
        [HostPattern::Any] => String::new(),
        hosts => hosts.iter().map(HostPattern::to_string).collect::<Vec<_>>().join("|"),
    };
    let labels = if labels.is_empty() { String::new() } else { format!(" [{}]", labels.join(", ")) };
    format!("{methods}{hosts}{path}{labels}")
}

fn hosts(config: &RouteConfig, problems: &mut Problems) -> Option<Vec<HostPattern>> {
    let Some(list) = &config.host else { return Some(vec![HostPattern::Any]) };
    if list.0.is_empty() {
        let problem = Problem::error(config.path.place, "this route's list of hosts is empty: it would serve nobody");
        problems.push(problem.hint("leave `host` out to serve any host"));
        return None;
    }
    let mut hosts = Vec::new();
    for host in &list.0 {
        match HostPattern::parse(host) {
            Ok(pattern) => hosts.push(pattern),
            Err(why) => problems.push(Problem::error(host.place, format!("`{}` is no host: {why}", host.value))),
        }
    }
    let complete = hosts.len() == list.0.len();
    hosts.sort_unstable();
    hosts.dedup();
    complete.then_some(hosts)
}

fn listeners(config: &RouteConfig, problems: &mut Problems) -> Option<Option<Vec<Arc<str>>>> {
    let Some(list) = &config.listeners else { return Some(None) };
    if list.0.is_empty() {
        let problem = Problem::error(config.path.place, "this route's list of listeners is empty: nobody would reach it");
        problems.push(problem.hint("leave `listeners` out to serve it on all of them"));
        return None;
    }
    let mut names: Vec<Arc<str>> = list.0.iter().map(|name| name.value.as_str().into()).collect();
    names.sort_unstable();
    names.dedup();
    Some(Some(names))
}

fn methods(config: &RouteConfig, problems: &mut Problems) -> Option<Option<MethodSet>> {
    let Some(list) = &config.methods else { return Some(None) };
    if list.0.is_empty() {
        let problem = Problem::error(config.path.place, "this route's list of methods is empty: it would take no request");
        problems.push(problem.hint("leave `methods` out to take any method"));
        return None;
    }
    let mut set = MethodSet::default();
    let mut complete = true;
    for name in &list.0 {
        match Method::from_bytes(name.as_bytes()) {
            Ok(method) if !name.bytes().any(|byte| byte.is_ascii_lowercase()) => {
                if ["CONNECT", "TRACE", "TRACK"].contains(&method.as_str()) {
                    let message = format!("`{method}` never reaches a route: such requests are answered 405");
                    problems.push(Problem::warning(name.place, message));
                }
                set.insert(method);
            }
            _ => {
                complete = false;
                let problem = Problem::error(name.place, format!("`{}` is no method", name.value));
                problems.push(problem.hint(format!("methods are case-sensitive words such as {}", hint_method(name))));
            }
        }
    }
    complete.then_some(Some(set))
}

fn hint_method(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    if Method::from_bytes(upper.as_bytes()).is_ok() { upper } else { "GET".to_owned() }
}

/// What is asked of a request's head, as it is written at `place`.
pub(super) struct Asked<'a> {
    pub headers: &'a BTreeMap<String, Spanned<ValueMatch>>,
    pub query: Option<&'a BTreeMap<String, Spanned<ValueMatch>>>,
    pub version: Option<&'a Spanned<VersionMatch>>,
    pub device: Option<&'a OneOrMany<Device>>,
    pub place: Place,
}

/// The predicates, sorted, and how an id writes each.
pub(super) fn predicates(asked: &Asked<'_>, problems: &mut Problems) -> Option<(Vec<String>, Vec<Predicate>)> {
    let before = problems.len();
    let mut list: Vec<(String, Predicate)> = Vec::new();
    let version = asked.version.map(|version| {
        let wanted = ValueMatch::Exact(version.is.clone());
        (&version.value.header, version.place, wanted, true)
    });
    let headers = asked.headers.iter().map(|(name, wanted)| (name, wanted.place, wanted.value.clone(), false));
    let mut spelled: Vec<(HeaderName, &str)> = Vec::new();
    for (name, place, wanted, open) in headers.chain(version) {
        let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
            problems.push(Problem::error(place, format!("`{name}` is no header name")));
            continue;
        };
        check_value(&wanted, true, place, problems);
        // Only the first field of a name counts: two wishes for it would be one wish too many.
        match spelled.iter().find(|(known, _)| *known == header) {
            Some((_, first)) if !open => {
                let message = format!("`{name}` is the same header as `{first}`: names of headers differ by case in nothing");
                problems.push(Problem::error(place, message).hint("write it once"));
            }
            _ => spelled.push((header.clone(), name)),
        }
        let predicate = Predicate::Header(header, wanted);
        list.push((predicate.label(name, open), predicate));
    }
    for (name, wanted) in asked.query.into_iter().flatten() {
        check_value(wanted, false, wanted.place, problems);
        let predicate = Predicate::Query(name.as_str().into(), wanted.value.clone());
        list.push((predicate.label(name, false), predicate));
    }
    if let Some(devices) = asked.device {
        if devices.0.is_empty() {
            problems.push(Problem::error(asked.place, "this list of devices is empty: it would serve nobody"));
        }
        let mut set = DeviceSet::default();
        devices.0.iter().for_each(|device| set.insert(*device));
        let predicate = Predicate::Device(set);
        list.push((predicate.label("", true), predicate));
    }
    list.sort_by_cached_key(|(_, predicate)| format!("{predicate:?}"));
    // `version: "2"` beside the same header under `headers` is one condition, said twice.
    list.dedup_by(|one, other| one.1 == other.1);
    (problems.len() == before).then(|| list.into_iter().unzip())
}

/// Refuses a value that no request could have.
fn check_value(wanted: &ValueMatch, header: bool, place: Place, problems: &mut Problems) {
    let (ValueMatch::Exact(text) | ValueMatch::Prefix(text)) = wanted else { return };
    if text.is_empty() && matches!(wanted, ValueMatch::Prefix(_)) {
        problems.push(Problem::error(place, "an empty prefix is met by every value").hint("{ present: true }"));
    }
    let front_is_bad = text.starts_with([' ', '\t']);
    let end_is_bad = text.ends_with([' ', '\t']) && matches!(wanted, ValueMatch::Exact(_));
    if header && (HeaderValue::from_str(text).is_err() || front_is_bad || end_is_bad) {
        // Not the value itself: it may be a secret.
        let hint = "no control characters, nothing but ASCII, no blanks around it";
        problems.push(Problem::error(place, "no header field can have this value").hint(hint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(yaml: &str) -> (Option<Matcher>, Problems) {
        let mut problems = Problems::default();
        let config = serde_yaml::from_str(yaml).unwrap();
        (Matcher::compile(&config, &mut problems), problems)
    }

    #[test]
    fn ids_say_what_is_matched() {
        for (yaml, id) in [
            ("path: /cart/*", "/cart/*"),
            (
                "path: /products/{sku}\nhost: Example.com\nmethods: [POST, GET]\nversion: '2'",
                "GET|POST example.com/products/{sku} [API-Version=2]",
            ),
            ("path: /\nhost: [b.example, '*.a.example', b.example]", "b.example|*.a.example/"),
            (
                "path: /\nquery: { q: { prefix: x } }\nheaders: { B: { present: false } }\ndevice: [bot, mobile]",
                "/ [device=mobile|bot, !B, ?q=x*]",
            ),
            ("path: /\nversion: '2'\nheaders: { api-version: '2' }", "/ [api-version=2]"),
            ("path: /\nheaders: { Accept: text/html }", "/ [Accept=text/html]"),
            ("path: /%7ea", "/~a"),
            ("path: /\nlisteners: [b, a, b]\nversion: '2'", "/ [API-Version=2, listener=a|b]"),
            ("id: mine\npath: /", "mine"),
        ] {
            let (matcher, problems) = compile(yaml);
            assert!(problems.is_empty(), "{yaml}: {problems:?}");
            assert_eq!(&**matcher.unwrap().id(), id, "{yaml}");
        }
    }

    #[test]
    fn an_id_does_not_tell_what_a_header_has_to_be() {
        let id = |yaml: &str| compile(yaml).0.unwrap().id().to_string();
        let secret = "path: /\nheaders: { X-Origin: hunter2, X-Edge: { prefix: hunter2 } }\nquery: { token: hunter2 }";
        let (one, other) = (id(secret), id(&secret.replace("X-Origin: hunter2", "X-Origin: hunter3")));
        assert!(!one.contains("hunter") && one.contains("X-Origin=#") && one.contains("?token=#"), "{one}");
        assert_ne!(one, other, "routes that differ in it have different ids");
        let (_, problems) = compile("path: /\nheaders: { X-Origin: \"hunter2\\n\" }");
        assert!(problems.iter().all(|problem| !problem.message.contains("hunter")), "{problems:?}");
    }

    #[test]
    fn two_spellings_of_one_header_are_a_problem() {
        let (matcher, problems) = compile("path: /\nheaders: { X-A: '1', x-a: '2' }");
        assert!(matcher.is_none() && problems.len() == 1, "{problems:?}");
        assert!(problems.iter().all(|problem| problem.message.contains("`x-a` is the same header as `X-A`")), "{problems:?}");
        assert!(compile("path: /\nheaders: { X-A: '1', x-a: '1' }").0.is_none(), "also where they agree");
        assert!(compile("path: /\nquery: { a: '1', A: '2' }").1.is_empty(), "parameters differ by case");
    }

    #[test]
    fn collects_every_problem() {
        let (matcher, problems) = compile("path: a\nhost: ['a:80', b]\nmethods: [get]\nheaders: { 'a b': x, c: ' x' }\nid: ''");
        assert!(matcher.is_none());
        assert_eq!(problems.len(), 6, "{problems:?}");
    }

    #[test]
    fn refuses_routes_that_nothing_meets() {
        for yaml in [
            "path: /\nhost: []",
            "path: /\nmethods: []",
            "path: /\nlisteners: []",
            "path: /\ndevice: []",
            "path: /\nmethods: ['A B']",
            "path: /\nquery: { q: { prefix: '' } }",
            "path: /\nversion: { header: '', is: 1 }",
        ] {
            let (matcher, problems) = compile(yaml);
            assert!(matcher.is_none() && problems.has_errors(), "{yaml}");
        }
    }
}
