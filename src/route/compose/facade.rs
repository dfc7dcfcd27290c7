//! `routes[].graphql`: a schema whose fields are what services answer to calls. Here is what is known when the configuration is loaded: the
//! schema, and the call for each field that has one.

use std::collections::BTreeMap;
use std::path::Path;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::FieldNames;
use super::config::{CallConfig, ComposeConfig, ComposedAnswerConfig, PartFallbackConfig};
use super::text::{Steps, steps};
use crate::graphql::{Schema, location};
use crate::problem::{Place, Problem, Problems, did_you_mean};
use crate::retry::config::RetriesConfig;
use crate::route::fallback::JsonBody;
use crate::route::ordered::InOrder;
use crate::value::{Period, Raw, Size, Spanned, count_within};

/// The longest schema in a file, in bytes.
const LONGEST_SCHEMA: u64 = 4 << 20;

/// GraphQL in front of services that do not speak it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FacadeConfig {
    /// The schema, in the schema definition language; or `schema_file`.
    #[serde(default)]
    pub schema: Option<Spanned<String>>,
    /// The file that it stands in.
    #[serde(default)]
    pub schema_file: Option<Spanned<String>>,
    /// What fields are, by `Type.field`. Every field of the types for queries and mutations has a call; any other one without an entry is what
    /// stands under its name in the object that a call has answered.
    pub fields: InOrder<FieldConfig>,
    /// For interfaces and unions: the field of an object that names its type. Default: `__typename`.
    #[serde(default)]
    pub type_names: BTreeMap<String, Spanned<String>>,
    /// The most calls that one request may make, 1 to 10000; the fields beyond are null, with an error. Default: 100.
    #[serde(default)]
    pub max_calls: Option<Spanned<u32>>,
    /// How many are made at once, 1 to 64. Default: 16.
    #[serde(default)]
    pub at_once: Option<Spanned<u32>>,
    /// The most values in one answer, 1 to 1000000. Default: 100000.
    #[serde(default)]
    pub max_values: Option<Spanned<u32>>,
}

/// What a field is: `from`, or a call, written like one of `compose`. Its texts may also hold `{arg.NAME}` (an argument of the field),
/// `{parent.FIELD}` (of the object that has the field) and, with `batch`, `{keys}`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldConfig {
    /// No call: the field of the object that it is, as in `meta.title`.
    #[serde(default)]
    pub from: Option<Spanned<String>>,
    /// The service, written like a route's `service`.
    #[serde(default)]
    pub service: Option<Spanned<String>>,
    /// The port, where `service` is a host name. 1 to 65535.
    #[serde(default)]
    pub port: Option<u16>,
    /// GET, POST, PUT, PATCH or DELETE. Default: GET.
    #[serde(default)]
    pub method: Option<Spanned<String>>,
    /// The path, a text with placeholders, without a query.
    #[serde(default)]
    pub path: Option<Spanned<String>>,
    /// Query parameters: texts with placeholders. One whose value is missing is left out.
    #[serde(default)]
    pub query: BTreeMap<String, Spanned<String>>,
    /// Header fields: texts with placeholders.
    #[serde(default)]
    pub headers: BTreeMap<String, Spanned<String>>,
    /// The client's fields that the service sees, by name.
    #[serde(default)]
    pub client_headers: Option<Vec<Spanned<String>>>,
    /// The request's body as JSON, whose texts may hold placeholders. Not for GET.
    #[serde(default)]
    pub body: Option<Spanned<JsonBody>>,
    /// How long it may take with all its tries, 1ms to 1h. Default: what the request has.
    #[serde(default)]
    pub timeout: Option<Spanned<Period>>,
    /// What is tried again of this call, in place of what its service says.
    #[serde(default)]
    pub retries: Option<Box<Spanned<RetriesConfig>>>,
    /// The longest answer: 1 byte to 16MiB. Default: 1MiB.
    #[serde(default)]
    pub max_body: Option<Spanned<Size>>,
    /// Keeps the answers to this call, as a call of `compose` does.
    #[serde(default)]
    pub cache: Option<Raw>,
    /// Tells the service nothing of who asks. Default: false.
    #[serde(default)]
    pub anonymous: bool,
    /// What stands in for an answer that cannot be had.
    #[serde(default)]
    pub fallback: Option<Box<Spanned<PartFallbackConfig>>>,
    /// The field of the service's answer that is taken, as in `data.items`. Default: the whole.
    #[serde(default)]
    pub target: Option<Spanned<String>>,
    /// Statuses of the service's, 400 to 599, that mean that there is nothing: null, without an error. Default: `[404]`.
    #[serde(default)]
    pub null_statuses: Option<Vec<Spanned<u16>>>,
    /// One call for all objects of one level, whose keys are `{keys}`: with commas between them in a path, a query or a field, a list in a
    /// `body`.
    #[serde(default)]
    pub batch: Option<Spanned<BatchConfig>>,
}

impl FieldConfig {
    /// The keys that are written and are about a call.
    fn keys_of_calls(&self) -> impl Iterator<Item = &'static str> {
        let written = [
            ("service", self.service.is_some()),
            ("port", self.port.is_some()),
            ("method", self.method.is_some()),
            ("path", self.path.is_some()),
            ("query", !self.query.is_empty()),
            ("headers", !self.headers.is_empty()),
            ("client_headers", self.client_headers.is_some()),
            ("body", self.body.is_some()),
            ("timeout", self.timeout.is_some()),
            ("retries", self.retries.is_some()),
            ("max_body", self.max_body.is_some()),
            ("cache", self.cache.is_some()),
            ("anonymous", self.anonymous),
            ("fallback", self.fallback.is_some()),
            ("target", self.target.is_some()),
            ("null_statuses", self.null_statuses.is_some()),
            ("batch", self.batch.is_some()),
        ];
        written.into_iter().filter_map(|(key, is_written)| is_written.then_some(key))
    }
}

/// How the objects of one level are asked for at once.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchConfig {
    /// The field of the object that its key is, a text or a number.
    pub key: Spanned<String>,
    /// The field of each element of the answer, which is a list, that says whose it is. A field that is a list has all that are of one
    /// object. Default: the answer is an object whose members are named by the keys.
    #[serde(default)]
    pub by: Option<Spanned<String>>,
    /// The most keys of one call, 1 to 1000; more are asked for with several. Default: 100.
    #[serde(default)]
    pub max: Option<Spanned<u32>>,
}

/// A compiled facade.
#[derive(Debug)]
pub struct Facade {
    pub schema: Schema,
    /// By the numbers that fields have, which are those of the composition's parts.
    pub calls: Box<[FieldCall]>,
    /// By the names of interfaces and unions.
    pub type_names: BTreeMap<Box<str>, Steps>,
    pub max_calls: usize,
    pub at_once: usize,
    pub max_values: usize,
}

/// The call for a field.
#[derive(Debug)]
pub struct FieldCall {
    pub nothing: Box<[StatusCode]>,
    pub batch: Option<Batch>,
}

#[derive(Debug)]
pub struct Batch {
    pub key: Steps,
    pub by: Option<Steps>,
    pub most: usize,
}

/// What calls may name, as it is known of each field.
pub struct Named {
    arguments: Vec<Box<str>>,
    is_within: bool,
    is_batch: bool,
}

impl Named {
    /// For as long as `arguments` is there, which is filled with what it names.
    pub fn names<'a>(&self, arguments: &'a [&'a str]) -> FieldNames<'a> {
        FieldNames { arguments, is_within: self.is_within, is_batch: self.is_batch }
    }

    pub fn arguments(&self) -> Vec<&str> {
        self.arguments.iter().map(|name| &**name).collect()
    }
}

impl Facade {
    /// Compiles what a route says: the facade, its calls as if they were those of a `compose`, and what each of them may name. `None` if
    /// something is wrong, which then is in `problems`.
    pub fn compile(
        config: &Spanned<FacadeConfig>,
        base: &Path,
        problems: &mut Problems,
    ) -> Option<(Facade, Spanned<ComposeConfig>, Vec<Named>)> {
        let before = problems.len();
        let mut schema = schema(config, base, problems)?;
        let (mut calls, mut configs, mut named) = (Vec::new(), Vec::new(), Vec::new());
        for (name, field) in &config.fields.0 {
            let Some((parent, of)) = name.split_once('.') else {
                problems.push(Problem::error(field.place, format!("`{name}` is no field: write `Type.field`")));
                continue;
            };
            let is_root = *parent == *schema.query || schema.mutation.as_deref() == Some(parent);
            if let Err(problem) = find(&schema, parent, of, field.place) {
                problems.push(problem);
                continue;
            }
            let call = match &field.from {
                Some(from) => {
                    if is_root {
                        problems.push(Problem::error(from.place, "the fields of operations have calls, and are `from` nothing"));
                    }
                    for key in field.keys_of_calls() {
                        let problem = Problem::error(
                            field.place,
                            format!("`{key}` is about a call, and a field that is `from` another has none"),
                        );
                        problems.push(problem.hint("leave out `from`, or all the others"));
                    }
                    let read = steps(&from.value).map_err(|why| problems.push(Problem::error(from.place, why))).ok();
                    if let Some(def) = def(&mut schema, parent, of) {
                        def.from = read.unwrap_or_default();
                    }
                    continue;
                }
                None => call(field, problems),
            };
            let Some(call) = call else { continue };
            let batch = field.batch.as_ref().map(|batch| compile_batch(batch, is_root, problems));
            let Some(def) = def(&mut schema, parent, of) else { continue };
            def.call = Some(calls.len());
            let arguments = def.arguments.iter().map(|argument| argument.name.clone()).collect();
            // A batch is made for several objects, none of which is the one.
            named.push(Named { arguments, is_within: !is_root && batch.is_none(), is_batch: batch.is_some() });
            let nothing = match &field.null_statuses {
                None => vec![StatusCode::NOT_FOUND],
                Some(list) => list.iter().filter_map(|status| super::error_status(status, "null_statuses", problems)).collect(),
            };
            calls.push(FieldCall { nothing: nothing.into(), batch: batch.flatten() });
            configs.push((name.clone(), Spanned::new(call, field.place)));
        }
        for root in std::iter::once(&schema.query).chain(&schema.mutation) {
            for field in schema.fields(root).into_iter().flatten().filter(|field| field.call.is_none()) {
                if !config.fields.0.iter().any(|(name, _)| *name == format!("{root}.{}", field.name)) {
                    let problem = Problem::error(config.place, format!("nobody answers `{root}.{}`", field.name));
                    problems.push(problem.hint(format!("write a call under `fields`, as `{root}.{}`", field.name)));
                }
            }
        }
        let mut type_names = BTreeMap::new();
        for (name, field) in &config.type_names {
            if schema.fields(name).is_some() && schema.is_object(name) || !schema.is_composite(name) {
                problems.push(Problem::error(field.place, format!("there is no interface or union `{name}`")));
            }
            match steps(&field.value) {
                Ok(steps) => drop(type_names.insert(name.as_str().into(), steps)),
                Err(why) => problems.push(Problem::error(field.place, why)),
            }
        }
        let mut bounded = |key: &str, written: &Option<Spanned<u32>>, most: u32, absent: u32| match written {
            Some(written) => count_within(key, written, 1, most, problems),
            None => Some(absent),
        };
        let max_calls = bounded("max_calls", &config.max_calls, 10_000, 100);
        let at_once = bounded("at_once", &config.at_once, 64, 16);
        let max_values = bounded("max_values", &config.max_values, 1_000_000, 100_000);
        if problems.len() > before {
            return None;
        }
        let composed = ComposeConfig { calls: InOrder(configs), answer: ComposedAnswerConfig::default() };
        let facade = Facade {
            schema,
            calls: calls.into(),
            type_names,
            max_calls: max_calls? as usize,
            at_once: at_once? as usize,
            max_values: max_values? as usize,
        };
        Some((facade, Spanned::new(composed, config.place), named))
    }
}

fn schema(config: &Spanned<FacadeConfig>, base: &Path, problems: &mut Problems) -> Option<Schema> {
    let (text, place, file) = match (&config.schema, &config.schema_file) {
        (Some(schema), None) => (schema.value.clone(), schema.place, None),
        (None, Some(file)) => {
            let path = base.join(&file.value);
            let read = || {
                if std::fs::metadata(&path)?.len() > LONGEST_SCHEMA {
                    return Err(std::io::Error::other("it is longer than 4MiB"));
                }
                std::fs::read_to_string(&path)
            };
            match read() {
                Ok(text) => (text, file.place, Some(&file.value)),
                Err(error) => {
                    problems.push(Problem::error(file.place, format!("`{}` cannot be read: {error}", file.value)));
                    return None;
                }
            }
        }
        _ => {
            let problem = Problem::error(config.place, "`graphql` has a `schema`, or the `schema_file` in which it stands");
            problems.push(problem.hint("schema: \"type Query { product(sku: ID!): Product } ...\""));
            return None;
        }
    };
    let parsed = Schema::parse(&text).map_err(|wrong| {
        let (line, column) = location(&text, wrong.at.first().copied().unwrap_or_default());
        let of = file.map_or_else(|| "the schema".to_owned(), |file| format!("`{file}`"));
        problems.push(Problem::error(place, format!("{of}, line {line}, column {column}: {}", wrong.message)));
    });
    parsed.ok()
}

fn find(schema: &Schema, parent: &str, field: &str, place: Place) -> Result<(), Problem> {
    let near = |wrong: Problem, word: &str, known: &[&str]| match did_you_mean(word, known.iter().copied()) {
        Some(near) => wrong.hint(format!("did you mean `{near}`?")),
        None => wrong,
    };
    let Some(fields) = schema.fields(parent).filter(|_| schema.is_object(parent) && !parent.starts_with("__")) else {
        let known: Vec<&str> = schema.order.iter().map(|name| &**name).filter(|name| schema.is_object(name)).collect();
        return Err(near(Problem::error(place, format!("the schema has no object type `{parent}`")), parent, &known));
    };
    if !fields.iter().any(|known| *known.name == *field) {
        let known: Vec<&str> = fields.iter().map(|field| &*field.name).collect();
        return Err(near(Problem::error(place, format!("`{parent}` has no field `{field}`")), field, &known));
    }
    Ok(())
}

fn def<'a>(schema: &'a mut Schema, parent: &str, field: &str) -> Option<&'a mut crate::graphql::schema::FieldDef> {
    schema.fields_mut(parent)?.iter_mut().find(|known| *known.name == *field)
}

/// The call of a field, as one of `compose` is written.
fn call(field: &Spanned<FieldConfig>, problems: &mut Problems) -> Option<CallConfig> {
    let (Some(service), Some(path)) = (&field.service, &field.path) else {
        let problem =
            Problem::error(field.place, "a field has a call, which needs a `service` and a `path`, or is `from` another");
        problems.push(problem.hint("as in `{ service: catalog, path: \"/products/{arg.sku}\" }`"));
        return None;
    };
    let field = field.value.clone();
    Some(CallConfig {
        service: service.clone(),
        port: field.port,
        method: field.method,
        path: path.clone(),
        query: field.query,
        headers: field.headers,
        client_headers: field.client_headers,
        body: field.body,
        timeout: field.timeout,
        retries: field.retries,
        max_body: field.max_body,
        optional: true,
        when: None,
        cache: field.cache,
        anonymous: field.anonymous,
        fallback: field.fallback,
        for_each: None,
        pass_statuses: Vec::new(),
        target: field.target,
        keep: Vec::new(),
        rename: BTreeMap::new(),
        group: None,
        append: false,
    })
}

fn compile_batch(config: &Spanned<BatchConfig>, is_root: bool, problems: &mut Problems) -> Option<Batch> {
    if is_root {
        problems.push(Problem::error(config.place, "the fields of operations are asked for once: there is nothing to batch"));
    }
    let mut read = |text: &Spanned<String>| steps(&text.value).map_err(|why| problems.push(Problem::error(text.place, why))).ok();
    let key = read(&config.key);
    let by = match &config.by {
        Some(by) => Some(read(by)?),
        None => None,
    };
    let most = config.max.as_ref().map_or(Some(100), |max| count_within("max", max, 1, 1000, problems));
    Some(Batch { key: key?, by, most: most? as usize })
}
