//! Rules, made of annotations, of what the file says, and of the methods' own paths.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use prost_reflect::prost_types::method_options::IdempotencyLevel;
use prost_reflect::{FieldDescriptor, MethodDescriptor, ServiceDescriptor};

use super::annotation::{self, HttpRule};
use super::config::{Names, RuleConfig, Serve, TranscodeConfig};
use super::field::{self, FieldPath, Spelling};
use super::reflection::Learned;
use super::rest::Backwards;
use super::source::{Named, Source};
use super::table::{Table, Verb};
use super::template::{Template, Variable};
use super::write::Style;
use super::{Body, Method, Rule, Transcoder, is_http_body, wkt};
use crate::problem::{Place, Problem, Problems, did_you_mean};
use crate::value::{Size, Spanned};

const MOST_METHODS: usize = 10_000;
const MOST_RULES: usize = 30_000;
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// The longest message where nobody has written another, in bytes.
pub const USUAL_MESSAGE: usize = 4 << 20;

/// One rule as it is written, in an annotation or in the file.
struct Written<'a> {
    place: Place,
    verb: &'a str,
    template: &'a str,
    body: &'a str,
    answer: &'a str,
    /// It stands in the file, and not in a descriptor.
    own: bool,
}

impl Transcoder {
    /// Compiles what a service says. Files are read relative to `base`. `None` only if there was a problem.
    pub fn compile(config: &Spanned<TranscodeConfig>, base: &Path, problems: &mut Problems) -> Option<Transcoder> {
        max_message(config, problems)?;
        let source = Source::read(config, base, problems)?;
        Self::of(config, &source, problems)
    }

    /// Compiles what a service says for what its server has said.
    ///
    /// # Errors
    /// What does not fit, for people.
    pub fn reflected(config: &Spanned<TranscodeConfig>, learned: &Learned) -> Result<Transcoder, String> {
        let source = Source::of_server(&learned.set, &learned.services, config.place)?;
        let mut problems = Problems::default();
        let made = Self::of(config, &source, &mut problems);
        made.ok_or_else(|| problems.iter().next().map_or_else(String::new, |problem| problem.message.clone()))
    }

    /// Looks at what can be known of a service before its server was asked. `None` only if there was a problem.
    pub fn check(config: &Spanned<TranscodeConfig>, problems: &mut Problems) -> Option<()> {
        let before = problems.error_count();
        max_message(config, problems)?;
        if config.serve == Serve::Grpc {
            let problem = Problem::error(config.place, "`reflection` asks a service of gRPC's, and this one speaks REST");
            problems.push(problem.hint("write `protos` or `descriptors`"));
        }
        for (key, other) in [("descriptors", &config.descriptors), ("protos", &config.protos), ("imports", &config.imports)] {
            if let Some(other) = other.first() {
                problems
                    .push(Problem::error(other.place, format!("`{key}` has no place beside `reflection`: the server is asked")));
            }
        }
        for rule in &config.rules {
            match bindings(rule).as_slice() {
                [(_, path)] => {
                    if let Err(why) = Template::parse(&path.value) {
                        problems.push(Problem::error(path.place, format!("`{}`: {why}", path.value)));
                    }
                }
                _ => problems.push(not_one(rule)),
            }
        }
        (problems.error_count() == before).then_some(())
    }

    fn of(config: &Spanned<TranscodeConfig>, source: &Source, problems: &mut Problems) -> Option<Transcoder> {
        let before = problems.error_count();
        let max_message = max_message(config, problems)?;
        for message in source.pool.all_messages().filter(|message| !wkt::is_usual(message)) {
            let why = format!("`{}` is declared there otherwise than everybody knows it", message.full_name());
            problems.push(Problem::error(source.place, why).hint("leave it out: it is known without being given"));
        }
        let mut compiling = Compiling {
            place: source.place,
            problems,
            table: Table::default(),
            rules: Vec::new(),
            methods: Vec::new(),
            backwards: (config.serve == Serve::Grpc).then(Box::default),
        };
        let services = compiling.services(config, source)?;
        let mut by_name = HashMap::new();
        for method in services.iter().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            by_name.insert(method.full_name().to_owned(), compiling.methods.len());
            compiling.methods.push(Method {
                path: format!("/{}/{}", method.parent_service().full_name(), method.name()).into(),
                input: method.input(),
                output: method.output(),
                streams: method.is_server_streaming(),
                takes_stream: method.is_client_streaming(),
                is_safe: is_safe(&method),
            });
            if compiling.methods.len() > MOST_METHODS {
                let problem = Problem::error(source.place, format!("there are more than {MOST_METHODS} methods"));
                compiling.problems.push(problem.hint("name those that clients want in `services`"));
                return None;
            }
        }
        let mut ruled = HashSet::new();
        for rule in &config.rules {
            let name = rule.method.value.replace('/', ".");
            let Some(number) = by_name.get(name.trim_start_matches('.')) else {
                compiling.unknown_method(&rule.method, by_name.keys());
                continue;
            };
            ruled.insert(*number);
            compiling.of_file(rule, *number);
        }
        for method in services.iter().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            if let Some(number) = by_name.get(method.full_name()).filter(|number| !ruled.contains(number)) {
                compiling.of_annotation(&method, *number);
            }
        }
        if config.default_paths {
            compiling.defaults();
        }
        if compiling.rules.is_empty() && compiling.problems.error_count() == before {
            let problem =
                Problem::error(config.place, "no request means any method: there are no rules, and `default_paths` is off");
            compiling.problems.push(problem.hint("write `rules`, or annotate the methods with `google.api.http`"));
        }
        let Compiling { table, rules, methods, problems, backwards, .. } = compiling;
        (problems.error_count() == before).then(|| Transcoder {
            counts: Vec::new(),
            near: source.pool.get_message_by_name("google.rpc.Status"),
            table,
            rules,
            backwards,
            by_path: methods.iter().enumerate().map(|(number, method)| (method.path.clone(), number)).collect(),
            methods,
            unknown_fields: config.unknown_fields,
            spelling: match (config.names, config.proto_names) {
                (Names::Both, _) => Spelling::Both,
                (Names::Written, false) => Spelling::Json,
                (Names::Written, true) => Spelling::Proto,
            },
            style: Style {
                always_print: config.always_print,
                proto_names: config.proto_names,
                enum_numbers: config.enum_numbers,
            },
            unknown_query: config.unknown_query,
            max_message,
        })
    }
}

fn is_safe(method: &MethodDescriptor) -> bool {
    let options = method.method_descriptor_proto().options.as_ref();
    options.is_some_and(|options| options.idempotency_level() == IdempotencyLevel::NoSideEffects)
}

fn max_message(config: &TranscodeConfig, problems: &mut Problems) -> Option<usize> {
    config.max_message.as_ref().map_or(Some(USUAL_MESSAGE), |size| message_size(size, problems))
}

/// What somebody has written as the longest message, in bytes.
pub fn message_size(size: &Spanned<Size>, problems: &mut Problems) -> Option<usize> {
    if (KIB..=64 * MIB).contains(&size.value.0) {
        return usize::try_from(size.value.0).ok();
    }
    problems.push(Problem::error(size.place, "`max_message` is from 1KiB to 64MiB"));
    None
}

/// The methods of HTTP that a rule of the file has a template for.
fn bindings(rule: &RuleConfig) -> Vec<(&str, &Spanned<String>)> {
    let custom = rule.custom.as_ref().map(|custom| (&*custom.kind.value, &custom.path));
    let written =
        [("GET", &rule.get), ("PUT", &rule.put), ("POST", &rule.post), ("DELETE", &rule.delete), ("PATCH", &rule.patch)];
    written.into_iter().filter_map(|(verb, path)| Some((verb, path.as_ref()?))).chain(custom).collect()
}

fn not_one(rule: &Spanned<RuleConfig>) -> Problem {
    let message = "a rule has one of `get`, `put`, `post`, `delete`, `patch` and `custom`";
    Problem::error(rule.place, message).hint("write two rules for one method where it has two paths")
}

struct Compiling<'a> {
    /// Where the descriptors are named.
    place: Place,
    problems: &'a mut Problems,
    table: Table,
    rules: Vec<Rule>,
    methods: Vec<Method>,
    backwards: Option<Box<Backwards>>,
}

impl Compiling<'_> {
    fn services(&mut self, config: &TranscodeConfig, source: &Source) -> Option<Vec<ServiceDescriptor>> {
        if config.services.is_empty() {
            let own = |service: &ServiceDescriptor| match &source.named {
                Named::Files(files) => files.contains(service.parent_file().name()),
                Named::Services(services) => services.contains(service.full_name()),
            };
            let services: Vec<_> = source.pool.services().filter(own).collect();
            if services.is_empty() {
                self.problems.push(Problem::error(source.place, "no service is declared there"));
                return None;
            }
            return Some(services);
        }
        let mut services = Vec::new();
        for named in config.services.iter() {
            match source.pool.get_service_by_name(&named.value) {
                Some(service) if services.contains(&service) => {
                    self.problems.push(Problem::error(named.place, format!("`{}` is named twice", named.value)));
                }
                Some(service) => services.push(service),
                None => {
                    let known: Vec<String> = source.pool.services().map(|service| service.full_name().to_owned()).collect();
                    let problem = Problem::error(named.place, format!("there is no service `{}`", named.value));
                    self.problems.push(problem.hint(nearest(&named.value, known.iter())));
                }
            }
        }
        Some(services)
    }

    fn unknown_method<'n>(&mut self, named: &Spanned<String>, known: impl Iterator<Item = &'n String>) {
        let problem = Problem::error(named.place, format!("there is no method `{}`", named.value));
        self.problems.push(problem.hint(nearest(&named.value, known)));
    }

    fn of_file(&mut self, rule: &Spanned<RuleConfig>, method: usize) {
        let written = bindings(rule);
        let [(verb, path)] = written.as_slice() else {
            self.problems.push(not_one(rule));
            return;
        };
        let text = |field: &Option<Spanned<String>>| field.as_ref().map(|field| field.value.clone()).unwrap_or_default();
        let (body, answer) = (text(&rule.body), text(&rule.response_body));
        let place = path.place;
        self.add(&Written { place, verb, template: &path.value, body: &body, answer: &answer, own: true }, method);
    }

    fn of_annotation(&mut self, method: &MethodDescriptor, number: usize) {
        let Some(rule) = annotation::of(method) else { return };
        self.bound(&rule, number);
        // They have none of their own.
        for rule in &rule.additional_bindings {
            self.bound(rule, number);
        }
    }

    fn bound(&mut self, rule: &HttpRule, number: usize) {
        let custom = rule.custom.as_ref().map(|custom| (&*custom.kind, &custom.path));
        let written =
            [("GET", &rule.get), ("PUT", &rule.put), ("POST", &rule.post), ("DELETE", &rule.delete), ("PATCH", &rule.patch)];
        let mut written = written.into_iter().filter_map(|(verb, path)| Some((verb, path.as_ref()?))).chain(custom);
        let Some((verb, template)) = written.next() else { return };
        let place = self.place;
        let written = Written { place, verb, template, body: &rule.body, answer: &rule.response_body, own: false };
        self.add(&written, number);
    }

    /// Says what is wrong with a rule.
    fn wrong(&mut self, written: &Written<'_>, number: usize, why: impl std::fmt::Display) {
        let method = self.methods.get(number).map_or("", |method| &*method.path);
        let message = match written.own {
            true => format!("`{}`: {why}", written.template),
            false => format!("`{method}` is annotated with `{}`: {why}", written.template),
        };
        self.problems.push(Problem::error(written.place, message));
    }

    fn add(&mut self, written: &Written<'_>, number: usize) {
        let mut template = match Template::parse(written.template) {
            Ok(template) => template,
            Err(why) => return self.wrong(written, number, why),
        };
        let rule = match self.rule(written, number, std::mem::take(&mut template.variables)) {
            Ok(rule) => rule,
            Err(why) => return self.wrong(written, number, why),
        };
        let verb = match written.verb {
            "*" => Verb::Any,
            verb => match http::Method::from_bytes(verb.as_bytes()) {
                // No request has it: the door refuses them.
                Ok(verb) if verb.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) => {
                    return self.wrong(written, number, format!("`{verb}` is to be in upper case, as methods of HTTP are"));
                }
                Ok(verb) if verb != http::Method::CONNECT => Verb::Is(verb),
                _ => return self.wrong(written, number, format!("`{verb}` is no method of HTTP that can be bound")),
            },
        };
        if self.rules.len() == MOST_RULES {
            return self.wrong(written, number, format!("there are more than {MOST_RULES} rules"));
        }
        match self.table.add(verb.clone(), &template, self.rules.len()) {
            None => {
                self.backwards(number, &verb, &template);
                self.rules.push(rule);
            }
            Some(known) => {
                let other =
                    self.rules.get(known).and_then(|rule| self.methods.get(rule.method)).map_or("", |method| &*method.path);
                let why = format!("{} requests for this path mean `{other}` already", written.verb);
                self.wrong(written, number, why);
            }
        }
    }

    fn rule(&self, written: &Written<'_>, number: usize, named: Vec<Variable>) -> Result<Rule, String> {
        let method = self.methods.get(number).ok_or("there is no such method")?;
        let input = &method.input;
        let mut variables: Vec<(FieldPath, Variable)> = Vec::new();
        for variable in named {
            let lost = |lost: field::Lost| format!("`{}` in `{}` {}", variable.field, input.full_name(), lost.must());
            let path = FieldPath::find(input, &variable.field, Spelling::Both).map_err(lost)?;
            if path.is_list() {
                return Err(format!("`{}` is a list, and a path has one value", variable.field));
            }
            variables.push((path, variable));
        }
        let body = match written.body {
            "" => Body::None,
            "*" if is_http_body(input) && !variables.is_empty() => {
                return Err("a raw body leaves no field for the path".to_owned());
            }
            "*" => Body::Whole,
            name => {
                let field = top(input.get_field_by_name(name), name, input.full_name(), "body")?;
                // What is inside the body may stand in the path (`/v1/{book.name=books/*}` with `body: book`): the path's goes before.
                if variables.iter().any(|(path, _)| path.steps() == std::slice::from_ref(&field)) {
                    return Err(format!("`{name}` is the body, and stands in the path as well"));
                }
                Body::Field(field)
            }
        };
        if matches!(body, Body::None) && method.takes_stream && written.own {
            return Err("the method takes a stream of messages, and `body` has to say what each of them is".to_owned());
        }
        if !matches!(body, Body::None) && written.verb == "GET" {
            return Err("a GET request has no body".to_owned());
        }
        let answer = match written.answer {
            "" => None,
            name => Some(top(method.output.get_field_by_name(name), name, method.output.full_name(), "response_body")?),
        };
        Ok(Rule { method: number, body, answer, variables })
    }

    /// Notes the rule that is added next as the one that its method is called by, where that is wanted and it has none.
    fn backwards(&mut self, number: usize, verb: &Verb, template: &Template) {
        if let (Some(backwards), Some(method), Verb::Is(verb)) = (&mut self.backwards, self.methods.get(number), verb) {
            backwards.add(&method.path, (number, self.rules.len()), verb.clone(), template);
        }
    }

    /// `POST /package.Service/Method`, where nothing else is said of that.
    fn defaults(&mut self) {
        for number in 0..self.methods.len() {
            let Some(template) = self.methods.get(number).and_then(|method| Template::parse(&method.path).ok()) else { continue };
            let verb = Verb::Is(http::Method::POST);
            if self.table.add(verb.clone(), &template, self.rules.len()).is_none() {
                self.backwards(number, &verb, &template);
                self.rules.push(Rule { method: number, body: Body::Whole, answer: None, variables: Vec::new() });
            }
        }
    }
}

fn top(field: Option<FieldDescriptor>, name: &str, message: &str, key: &str) -> Result<FieldDescriptor, String> {
    field.ok_or_else(|| match name.contains('.') {
        true => format!("`{key}: {name}` names a field of the message itself, not of one inside it"),
        false => format!("`{key}: {name}`: `{message}` has no such field"),
    })
}

fn nearest<'n>(word: &str, known: impl Iterator<Item = &'n String>) -> String {
    let mut known: Vec<&str> = known.map(String::as_str).collect();
    known.sort_unstable();
    match did_you_mean(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "none is declared".to_owned(),
        None => {
            let some: Vec<String> = known.iter().take(8).map(|name| format!("`{name}`")).collect();
            format!("there are {}{}", some.join(", "), if known.len() > 8 { " and others" } else { "" })
        }
    }
}
