//! `compose`: one answer made of those of several services. Here is what is known when the configuration is loaded: the calls, which of them
//! wait for which, and where their answers stand. Who makes the calls is `forward::compose`.
//!
//! Deliberately not here: loops and functions in the texts (a call's condition is CEL), and calls that follow redirects.

mod config;
pub mod facade;
pub mod merge;
pub mod request;
pub mod state;
pub mod text;

use std::collections::BTreeSet;
use std::time::Duration;

use http::{HeaderName, StatusCode};

use crate::cel::{Expression, Kind};
use crate::json::Exact;
use crate::problem::{Place, Problem, Problems, did_you_mean};
use crate::retry::config::RetriesConfig;
use crate::value::{Raw, Spanned, count_within, period_within};
pub use config::{CallConfig, Calls, ComposeConfig, ComposedAnswerConfig, ForEachConfig, PartFallbackConfig};
use merge::Standing;
use request::Request;
use text::Source;

/// The most calls of one answer.
const MOST_CALLS: usize = 32;
/// The most fields of a schema that calls are made for.
const MOST_FIELDS: usize = 512;
/// The longest name of one, in bytes.
const LONGEST_NAME: usize = 32;
/// How long a part may be unless its call says otherwise, and at most, in bytes.
const COMMON_BODY: u64 = 1024 * 1024;
const LARGEST_BODY: u64 = 16 * 1024 * 1024;
const LONGEST_WAIT: u64 = 3_600_000;
/// How old the last good answer of a service may be, in milliseconds.
const OLDEST: u64 = 30 * 24 * 3_600_000;

/// What a text may name.
pub struct Names<'a> {
    /// The route's path.
    pub pattern: &'a str,
    pub calls: &'a [&'a str],
    /// Whether there is an element to speak of.
    pub each: bool,
    /// Of a field of GraphQL that the call is made for.
    pub field: Option<FieldNames<'a>>,
}

/// What a call for a field of GraphQL may name.
#[derive(Clone, Copy)]
pub struct FieldNames<'a> {
    pub arguments: &'a [&'a str],
    /// It is the field of an object that another call has answered.
    pub is_within: bool,
    pub is_batch: bool,
}

/// A compiled composition.
#[derive(Debug)]
pub struct Composition {
    pub parts: Box<[Part]>,
    pub meta: bool,
    /// The numbers of the parts whose cookies go to the client.
    pub set_cookie: Box<[usize]>,
    pub failed: Option<StatusCode>,
    /// Whether any call has something of the request's body.
    pub reads_body: bool,
    /// Whether it depends on who asks, whatever the services say: what they are asked for may name him, and what the client asks for does not.
    pub private: bool,
    /// The client's fields that calls are made of.
    pub varies: Box<[Box<str>]>,
}

/// A compiled call.
#[derive(Debug)]
pub struct Part {
    pub name: Box<str>,
    /// The number of its service among the composition's.
    pub service: usize,
    pub request: Request,
    /// The numbers of the parts that it waits for.
    pub after: Box<[usize]>,
    pub optional: bool,
    pub timeout: Option<Duration>,
    pub max_body: usize,
    /// The only fields of the client's that its service sees.
    pub client_fields: Option<Box<[Box<str>]>>,
    /// Its service is told nothing of who asks.
    pub anonymous: bool,
    pub when: Option<Expression>,
    pub fallback: Option<Fallback>,
    /// For how long after it has expired a stored answer stands in for it.
    pub last_good: Option<Duration>,
    pub each: Option<Each>,
    /// Statuses that are the whole answer's.
    pub pass: Box<[StatusCode]>,
    /// Another call, or its condition, looks into the answer.
    pub read: bool,
    /// Another call's condition does.
    pub judged: bool,
    pub standing: Standing,
}

/// What stands in for a part.
#[derive(Debug)]
pub enum Fallback {
    Json(Exact),
    Call(Box<OtherCall>),
}

#[derive(Debug)]
pub struct OtherCall {
    pub service: usize,
    pub request: Request,
    pub timeout: Option<Duration>,
}

/// See [`ForEachConfig`].
#[derive(Debug)]
pub struct Each {
    pub list: Source,
    pub most: usize,
    pub at_once: usize,
}

/// What of a request a call is made of.
struct Needs {
    body: bool,
    /// Anything that tells one client from another.
    client: bool,
    fields: Vec<Box<str>>,
}

/// A service that a call names, for whoever knows them, in the order of their numbers.
pub struct Wanted<'a> {
    pub service: &'a Spanned<String>,
    pub port: Option<u16>,
    /// Where the map stands that names it.
    pub of: Place,
    /// The call's own word on retries.
    pub retries: Option<&'a Spanned<RetriesConfig>>,
    /// The call's own word on what is kept of its answers, and its name.
    pub cache: Option<(&'a str, &'a Raw)>,
    /// The fields that the call sets itself, and whether each is made of placeholders.
    pub fields: Vec<(HeaderName, bool)>,
}

impl Composition {
    /// Compiles what a route says, whose path is `pattern`. `fields`: each call is for a field of GraphQL, and may name what these have. `None` if something is wrong, which then is in `problems`.
    pub fn compile<'a>(
        config: &'a Spanned<ComposeConfig>,
        pattern: &str,
        fields: Option<&[FieldNames<'_>]>,
        problems: &mut Problems,
    ) -> Option<(Composition, Vec<Wanted<'a>>)> {
        let before = problems.len();
        let calls = &config.calls.0;
        let most = if fields.is_some() { MOST_FIELDS } else { MOST_CALLS };
        if !(1..=most).contains(&calls.len()) {
            problems.push(Problem::error(config.place, format!("there are 1 to {most} calls, and here are {}", calls.len())));
            return None;
        }
        if fields.is_none() {
            calls.iter().for_each(|(name, call)| check_name(name, call.place, problems));
        }
        let all: Vec<&str> = calls.iter().map(|(name, _)| name.as_str()).collect();
        // Fields do not name each other.
        let names: Vec<&str> = if fields.is_some() { Vec::new() } else { all };
        let mut wanted = Vec::new();
        let mut compiler = Compiler { pattern, calls: &names, field: None, wanted: &mut wanted, problems };
        let compile = |(number, (name, call)): (usize, &'a (String, Spanned<CallConfig>))| {
            compiler.field = fields.and_then(|fields| fields.get(number).copied());
            compiler.part(name, call)
        };
        let parts: Vec<Option<(Part, Needs)>> = calls.iter().enumerate().map(compile).collect();
        let number = |name: &Spanned<String>, problems: &mut Problems| {
            let known = names.iter().position(|known| *known == name.value);
            if known.is_none() {
                let problem = Problem::error(name.place, format!("there is no call `{}`", name.value));
                problems.push(match did_you_mean(&name.value, names.iter().copied()) {
                    Some(near) => problem.hint(format!("did you mean `{near}`?")),
                    None => problem,
                });
            }
            known
        };
        let answer = &config.answer;
        let set_cookie = answer.set_cookie.iter().filter_map(|name| number(name, problems)).collect();
        let failed = answer.failed_status.as_ref().and_then(|status| error_status(status, "failed_status", problems));
        let standings = parts.iter().zip(calls).filter_map(|(part, (_, call))| Some((&part.as_ref()?.0.standing, call.place)));
        if fields.is_none() {
            merge::check_standings(&standings.collect::<Vec<_>>(), problems);
        }
        if problems.len() > before {
            return None;
        }
        let mut parts: Vec<(Part, Needs)> = parts.into_iter().collect::<Option<_>>()?;
        let afters: Vec<Box<[usize]>> = parts.iter().map(|(part, _)| part.after.clone()).collect();
        if let Some(circle) = circle(&afters) {
            let told = circle.iter().filter_map(|number| names.get(*number)).map(|name| format!("`{name}`"));
            let place = circle.first().and_then(|number| calls.get(*number)).map_or(config.place, |(_, call)| call.place);
            let message = format!("these calls wait for each other: {}", told.collect::<Vec<_>>().join(" -> "));
            problems.push(
                Problem::error(place, message).hint("what a call needs has to be had before it, so no call can need itself"),
            );
            return None;
        }
        for number in afters.iter().flatten() {
            if let Some((part, _)) = parts.get_mut(*number) {
                part.read = true;
            }
        }
        if let Some((_, (_, call))) = parts.iter().zip(calls).find(|((part, _), _)| answer.meta && part.standing.is_at("_meta")) {
            problems.push(
                Problem::error(call.place, "`_meta` is what the answer says of its parts").hint("give `group` another name"),
            );
            return None;
        }
        let conditions = parts.iter().filter_map(|(part, _)| part.when.as_ref()).flat_map(|when| when.parts());
        let judged: BTreeSet<String> = conditions.cloned().collect();
        for (part, _) in &mut parts {
            part.judged = judged.contains(&*part.name);
        }
        let reads_body = parts.iter().any(|(_, needs)| needs.body);
        let private = parts.iter().any(|(_, needs)| needs.client);
        let varies: BTreeSet<&str> = parts.iter().flat_map(|(_, needs)| needs.fields.iter().map(|name| &**name)).collect();
        let varies = varies.into_iter().map(Box::from).collect();
        let parts = parts.into_iter().map(|(part, _)| part).collect();
        Some((Composition { parts, meta: answer.meta, set_cookie, failed, reads_body, private, varies }, wanted))
    }
}

struct Compiler<'c, 'a> {
    pattern: &'c str,
    calls: &'c [&'c str],
    field: Option<FieldNames<'c>>,
    wanted: &'c mut Vec<Wanted<'a>>,
    problems: &'c mut Problems,
}

impl<'a> Compiler<'_, 'a> {
    /// One call, and what it is made of.
    fn part(&mut self, name: &'a str, config: &'a Spanned<CallConfig>) -> Option<(Part, Needs)> {
        let before = self.problems.len();
        let names = Names { pattern: self.pattern, calls: self.calls, each: config.for_each.is_some(), field: self.field };
        let service = self.wanted.len();
        let retries = config.retries.as_deref();
        let cache = config.cache.as_ref().map(|raw| (name, raw));
        let request = Request::compile(config, &names, self.problems);
        let fields = request.as_ref().map(Request::field_names).unwrap_or_default();
        self.wanted.push(Wanted { service: &config.service, port: config.port, of: config.place, retries, cache, fields });
        let when = config
            .when
            .as_ref()
            .map(|when| Expression::compile_among(&when.value, when.place, self.problems, Kind::Bool, self.calls));
        let each = config.for_each.as_ref().map(|each| self.each(each));
        let timeout = self.timeout(config.timeout.as_ref());
        let max_body = match &config.max_body {
            Some(size) if !(1..=LARGEST_BODY).contains(&size.value.0) => {
                self.problems.push(Problem::error(size.place, "`max_body` is from 1 to 16MiB"));
                COMMON_BODY
            }
            Some(size) => size.value.0,
            None => COMMON_BODY,
        };
        let pass =
            config.pass_statuses.iter().filter_map(|status| error_status(status, "pass_statuses", self.problems)).collect();
        if let Some(status) = config.pass_statuses.first().filter(|_| config.optional) {
            let problem = Problem::error(status.place, "an optional part does not decide what the whole answer is");
            self.problems.push(problem.hint("leave out `pass_statuses`, or `optional`"));
        }
        let last_good = config.fallback.as_ref().and_then(|written| written.cached.as_ref());
        let last_good = last_good.and_then(|cached| period_within("cached", cached, 1000, OLDEST, self.problems));
        let fallback = match (&config.fallback, &request) {
            (Some(written), Some(_)) if written.cached.is_some() && written.is_cached_alone() => Some(None),
            (Some(written), Some(request)) => self.fallback(written, (name, config), request, &names).map(Some),
            _ => Some(None),
        };
        let standing = Standing::compile(name, config, self.problems);
        let client_fields = config.client_headers.as_ref();
        let client_fields =
            client_fields.map(|fields| fields.iter().map(|name| name.value.to_ascii_lowercase().into()).collect());
        let client_fields: Option<Box<[Box<str>]>> = match client_fields {
            None if config.anonymous => Some(Box::default()),
            listed => listed,
        };
        if self.problems.len() > before {
            return None;
        }
        let (when, each) = (when.flatten(), each.flatten());
        let (request, fallback) = (request?, fallback?);
        let mut sources: Vec<&Source> = request.sources();
        if let Some(Fallback::Call(other)) = &fallback {
            sources.extend(other.request.sources());
        }
        sources.extend(each.as_ref().map(|each| &each.list));
        let named = sources.iter().filter_map(|source| if let Source::Part(call, _) = source { Some(&**call) } else { None });
        let named: Vec<&str> = named.chain(when.iter().flat_map(|when| when.parts().iter().map(String::as_str))).collect();
        let by_client = |source: &&Source| {
            matches!(source, Source::Claim(..) | Source::Subject | Source::Consumer | Source::ClientAddress | Source::RequestId)
        };
        let names_client =
            |source: &&Source| matches!(source, Source::Claim(..) | Source::Subject | Source::Consumer | Source::ClientAddress);
        if config.anonymous && sources.iter().any(names_client) {
            let message = "this call is `anonymous`, and is made of who asks";
            let hint = "take out `{subject}`, `{consumer}`, `{claim.x}` and `{client_address}`, or `anonymous`";
            self.problems.push(Problem::error(config.place, message).hint(hint));
            return None;
        }
        let needs = Needs {
            body: sources.iter().any(|source| matches!(source, Source::Body(_))),
            client: sources.iter().any(by_client) || when.as_ref().is_some_and(Expression::looks_at_request),
            fields: sources
                .iter()
                .filter_map(|source| if let Source::Header(name) = source { Some(name.clone()) } else { None })
                .collect(),
        };
        let after = self.calls.iter().enumerate().filter(|(_, call)| named.contains(call)).map(|(number, _)| number).collect();
        let part = Part {
            name: name.into(),
            service,
            after,
            optional: config.optional,
            timeout: timeout?,
            max_body: usize::try_from(max_body).unwrap_or(usize::MAX),
            client_fields,
            anonymous: config.anonymous,
            when,
            fallback,
            last_good,
            each,
            pass,
            read: false,
            judged: false,
            standing: standing?,
            request,
        };
        Some((part, needs))
    }

    /// `None` only if there was a problem.
    fn timeout(&mut self, written: Option<&Spanned<crate::value::Period>>) -> Option<Option<Duration>> {
        let Some(written) = written else { return Some(None) };
        period_within("timeout", written, 1, LONGEST_WAIT, self.problems).map(Some)
    }

    fn fallback(
        &mut self,
        written: &'a Spanned<PartFallbackConfig>,
        (name, config): (&'a str, &'a Spanned<CallConfig>),
        request: &Request,
        names: &Names<'_>,
    ) -> Option<Fallback> {
        let call = [
            ("service", written.service.as_ref().map(|service| service.place)),
            ("path", written.path.as_ref().map(|path| path.place)),
            ("timeout", written.timeout.as_ref().map(|timeout| timeout.place)),
        ];
        let first = call.into_iter().find_map(|(key, place)| Some((key, place?)));
        match (&written.json, first) {
            (Some(json), None) => Some(Fallback::Json(json.value.0.clone().into())),
            (Some(_), Some((key, place))) => {
                self.problems
                    .push(Problem::error(place, format!("a fallback is `json` or another call: `{key}` is of the other kind")));
                None
            }
            (None, _) if written.service.is_none() && written.path.is_none() => {
                let problem = Problem::error(
                    written.place,
                    "a fallback needs `json`, `cached`, or the `service` or the `path` of another call",
                );
                self.problems.push(problem.hint("for example `fallback: { json: [] }`"));
                None
            }
            (None, _) => {
                let (named, port) =
                    written.service.as_ref().map_or((&config.service, config.port), |named| (named, written.port));
                let service = self.wanted.len();
                let cache = config.cache.as_ref().map(|raw| (name, raw));
                let fields = request.field_names();
                self.wanted.push(Wanted { service: named, port, of: written.place, retries: None, cache, fields });
                let request = match &written.path {
                    Some(path) => request.with_path(path, names, self.problems)?,
                    None => request.clone(),
                };
                let timeout = self.timeout(written.timeout.as_ref().or(config.timeout.as_ref()))?;
                Some(Fallback::Call(Box::new(OtherCall { service, request, timeout })))
            }
        }
    }

    fn each(&mut self, config: &Spanned<ForEachConfig>) -> Option<Each> {
        let names = Names { pattern: self.pattern, calls: self.calls, each: false, field: None };
        let written = config.list.value.as_str();
        let bare = written.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(written);
        let list = match Source::parse(bare, &names) {
            Ok(list @ (Source::Part(..) | Source::Body(_))) => Ok(list),
            Ok(_) => {
                Err("`in` is a list of another call's answer, as in `parts.orders.items`, or of the request's `body`".to_owned())
            }
            Err(why) => Err(why),
        };
        let list = list.map_err(|why| self.problems.push(Problem::error(config.list.place, why))).ok();
        let most = config.max.as_ref().map_or(Some(100), |max| count_within("max", max, 1, 1000, self.problems));
        let at_once = config.at_once.as_ref().map_or(Some(8), |count| count_within("at_once", count, 1, 64, self.problems));
        Some(Each { list: list?, most: most? as usize, at_once: at_once? as usize })
    }
}

fn check_name(name: &str, place: Place, problems: &mut Problems) {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let fine =
        name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(letters) && name.len() <= LONGEST_NAME;
    if !fine {
        let message =
            format!("`{name}` is no name of a call: small letters, digits and underscores, up to {LONGEST_NAME} of them");
        problems.push(Problem::error(place, message).hint("write what its field in the answer is called as `group`"));
    }
}

fn error_status(status: &Spanned<u16>, key: &str, problems: &mut Problems) -> Option<StatusCode> {
    let known = StatusCode::from_u16(status.value).ok().filter(|status| (400..600).contains(&status.as_u16()));
    if known.is_none() {
        problems.push(Problem::error(status.place, format!("`{key}` is {}, which is not between 400 and 599", status.value)));
    }
    known
}

/// Calls that wait for each other, the first one again at the end.
fn circle(afters: &[Box<[usize]>]) -> Option<Vec<usize>> {
    /// 1: on the way that is gone just now; 2: it leads nowhere.
    fn visit(number: usize, afters: &[Box<[usize]>], marks: &mut [u8], way: &mut Vec<usize>) -> bool {
        match marks.get_mut(number) {
            Some(mark @ 0) => *mark = 1,
            Some(1) => {
                way.push(number);
                return true;
            }
            _ => return false,
        }
        way.push(number);
        if afters.get(number).into_iter().flatten().any(|after| visit(*after, afters, marks, way)) {
            return true;
        }
        way.pop();
        if let Some(mark) = marks.get_mut(number) {
            *mark = 2;
        }
        false
    }
    let mut marks = vec![0; afters.len()];
    for number in 0..afters.len() {
        let mut way = Vec::new();
        if visit(number, afters, &mut marks, &mut way) {
            let last = way.last().copied();
            let begins = way.iter().position(|known| Some(*known) == last).unwrap_or_default();
            return way.get(begins..).map(<[usize]>::to_vec);
        }
    }
    None
}
