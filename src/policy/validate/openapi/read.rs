//! From a document to operations. What is wrong with one is said of it, and the others are read on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ahash::AHashSet;
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Map, Value};
use smallvec::SmallVec;

use super::super::media::{MediaType, Pattern};
use super::super::report::Part;
use super::body::{Encoding, Media};
use super::document::{Body, Document, Fault, Loaded, Needs, Operation, Options, Scheme, Status};
use super::params::{Param, Style};
use crate::carrier::{decode_escapes, lossy};
use crate::route::templates::{Template, Templates};
use crate::schema::{BadSchema, Dialect, Draft, Parts, Schema, escaped};

/// The most operations of one document.
const MOST_OPERATIONS: usize = 20_000;
/// The most references in a row.
const MOST_HOPS: usize = 16;
/// So often schemas are compiled again without those that are at fault.
const MOST_ROUNDS: usize = 5;

const METHODS: [(&str, Method); 8] = [
    ("get", Method::GET),
    ("put", Method::PUT),
    ("post", Method::POST),
    ("delete", Method::DELETE),
    ("options", Method::OPTIONS),
    ("head", Method::HEAD),
    ("patch", Method::PATCH),
    ("trace", Method::TRACE),
];

type Table = Map<String, Value>;

struct Reader<'v> {
    document: &'v Value,
    options: Options,
    schemes: BTreeMap<Box<str>, Scheme>,
    /// The schemas that are needed, each with its pointer.
    roots: Vec<(&'v Value, String)>,
    faults: Vec<Fault>,
    /// The one whose parts are being read; empty where it is none.
    id: Box<str>,
    lost: bool,
}

/// Where each operation stands.
struct Source<'v> {
    pointer: String,
    value: &'v Value,
    /// What it has in common with others of its path.
    shared: Option<&'v Value>,
    /// Its schemas are these.
    roots: std::ops::Range<usize>,
}

pub fn read(document: &Value, options: Options) -> Loaded {
    let dialect = match edition(document, options) {
        Ok(found) => found,
        Err(fault) => return Loaded { document: None, faults: vec![fault] },
    };
    let Some(paths) = document.get("paths").and_then(Value::as_object) else {
        let fault = Fault::whole("has no table `paths`", None);
        return Loaded { document: None, faults: vec![fault] };
    };
    let mut reader = Reader {
        document,
        options,
        schemes: BTreeMap::new(),
        roots: Vec::new(),
        faults: Vec::new(),
        id: Box::default(),
        lost: false,
    };
    reader.read_schemes();
    let (mut operations, mut sources, mut templates, mut by_template) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut known: HashMap<String, Vec<&Method>> = HashMap::new();
    let mut ids: BTreeSet<Box<str>> = BTreeSet::new();
    for (path, item) in paths.iter().filter(|(path, _)| !path.starts_with("x-")) {
        let pointer = format!("/paths/{}", escaped(path));
        let before = reader.faults.len();
        reader.id = Box::default();
        let Some((item, below)) = reader.table(item, pointer.clone()) else {
            // Nobody knows which of them there would be.
            reader.faults.iter_mut().skip(before).for_each(|fault| fault.operations = vec![path.as_str().into()]);
            continue;
        };
        let template = match Template::parse(path) {
            Ok(template) => template,
            Err(why) => {
                let all = METHODS.iter().filter_map(|(key, method)| Some(named(item.get(*key)?, method, path)));
                let operations = all.collect();
                reader.faults.push(Fault { operations, ..fault(&pointer, format!("the path cannot be served: {why}")) });
                continue;
            }
        };
        let mut here: SmallVec<[(Method, u32); 4]> = SmallVec::new();
        // The same path with other names is the same path.
        let twins = known.entry(template.shape()).or_default();
        for (key, method) in &METHODS {
            let Some(value) = item.get(*key) else { continue };
            let pointer = format!("{below}/{key}");
            if operations.len() >= MOST_OPERATIONS {
                let message = format!("there are more than {MOST_OPERATIONS} operations");
                return Loaded { document: None, faults: vec![fault(&pointer, message)] };
            }
            let from = reader.roots.len();
            let shared = item.get("parameters");
            let mut operation = reader.operation(value, shared, &pointer, path, method, &template.names, &mut ids);
            if twins.contains(&method) {
                reader.fault(&pointer, format!("{method} {path} stands here twice, under other names"));
                operation.lost = true;
            }
            here.push((method.clone(), operations.len() as u32));
            operations.push(operation);
            sources.push(Source { pointer, value, shared, roots: from..reader.roots.len() });
        }
        twins.extend(METHODS.iter().map(|(_, method)| method).filter(|method| here.iter().any(|(known, _)| known == *method)));
        templates.push(template);
        by_template.push(here);
    }
    let parts = reader.compile(dialect, &mut operations, &sources);
    let Reader { faults, schemes, .. } = reader;
    let Some(Parts { schema, roots, .. }) = parts else { return Loaded { document: None, faults } };
    let node = |number: &mut Option<u32>| *number = number.and_then(|number| roots.get(number as usize).copied());
    for operation in &mut operations {
        operation.params.iter_mut().for_each(|param| node(&mut param.node));
        let answers = operation.answers.iter_mut().flat_map(|(_, content)| content);
        let body = operation.body.iter_mut().flat_map(|body| &mut body.content);
        answers.chain(body).for_each(|media| node(&mut media.node));
    }
    let templates = Templates::new(templates);
    let document = Document { operations, templates, by_template, schema, schemes };
    Loaded { document: Some(Arc::new(document)), faults }
}

/// What an operation is called: `operationId`, or else its method and path.
fn named(operation: &Value, method: &Method, path: &str) -> Box<str> {
    let said = operation.get("operationId").and_then(Value::as_str).filter(|id| !id.is_empty() && id.len() <= 256);
    said.map_or_else(|| format!("{method} {path}").into(), Into::into)
}

fn fault(pointer: &str, message: impl Into<String>) -> Fault {
    Fault { pointer: pointer.to_owned(), ..Fault::whole(message, None) }
}

/// How its schemas are read, by the edition that it is of.
fn edition(document: &Value, options: Options) -> Result<Dialect, Fault> {
    if document.get("swagger").is_some() {
        let hint = "convert it to OpenAPI 3.0, with swagger2openapi for example";
        return Err(Fault::whole("is of Swagger 2.0, and OpenAPI 3.0 and 3.1 are known", Some(hint)));
    }
    let said = document.get("openapi").map(|said| said.as_str().map_or_else(|| said.to_string(), str::to_owned));
    let dialect = |draft, openapi_30| Dialect { draft, openapi: true, openapi_30, formats: options.formats, lenient: true };
    match said.as_deref() {
        Some("3.0") => Ok(dialect(Draft::Draft4, true)),
        Some("3.1") => Ok(dialect(Draft::Draft202012, false)),
        Some(said) if said.starts_with("3.0.") => Ok(dialect(Draft::Draft4, true)),
        Some(said) if said.starts_with("3.1.") => {
            let draft = match document.get("jsonSchemaDialect").and_then(Value::as_str) {
                None => Draft::Draft202012,
                Some(uri) if uri.starts_with("https://spec.openapis.org/oas/3.1/dialect/") => Draft::Draft202012,
                Some(uri) => Draft::of(uri)
                    .ok_or_else(|| fault("/jsonSchemaDialect", "names an edition of JSON Schema that is not known"))?,
            };
            Ok(dialect(draft, false))
        }
        Some(said) => {
            let said: String = said.chars().take(20).collect();
            Err(fault("/openapi", format!("is of the edition {said}, and OpenAPI 3.0 and 3.1 are known")))
        }
        None => Err(Fault::whole("is no document of OpenAPI: it has no `openapi: 3.0.x` or `3.1.x`", None)),
    }
}

impl<'v> Reader<'v> {
    fn fault(&mut self, pointer: &str, message: impl Into<String>) {
        self.lost = true;
        let operations = if self.id.is_empty() { Vec::new() } else { vec![self.id.clone()] };
        self.faults.push(Fault { operations, ..fault(pointer, message) });
    }

    /// Where a `$ref` leads, and the pointer to it; the value itself if it is none.
    fn followed(&mut self, mut value: &'v Value, mut pointer: String) -> Option<(&'v Value, String)> {
        for _ in 0..MOST_HOPS {
            let Some(reference) = value.get("$ref").and_then(Value::as_str) else { return Some((value, pointer)) };
            let fragment = reference.strip_prefix('#').map(|fragment| lossy(decode_escapes(fragment)).into_owned());
            let found = fragment.as_deref().and_then(|fragment| self.document.pointer(fragment));
            let (Some(found), Some(fragment)) = (found, fragment) else {
                let shown: String = reference.chars().take(120).collect();
                self.fault(&pointer, format!("`{shown}` leads nowhere in this document, and nothing is fetched"));
                return None;
            };
            (value, pointer) = (found, fragment);
        }
        self.fault(&pointer, "a reference leads to another one without end");
        None
    }

    fn table(&mut self, value: &'v Value, pointer: String) -> Option<(&'v Table, String)> {
        let (value, pointer) = self.followed(value, pointer)?;
        match value.as_object() {
            Some(table) => Some((table, pointer)),
            None => {
                self.fault(&pointer, "this is a table");
                None
            }
        }
    }

    fn read_schemes(&mut self) {
        let Some(all) = self.document.pointer("/components/securitySchemes").and_then(Value::as_object) else { return };
        for (name, value) in all {
            let pointer = format!("/components/securitySchemes/{}", escaped(name));
            let Some((table, _)) = self.table(value, pointer) else { continue };
            let text = |key: &str| table.get(key).and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
            let scheme = match (text("type").as_str(), text("scheme").as_str()) {
                ("apikey", _) => Scheme::ApiKey,
                ("http", "basic") => Scheme::Basic,
                ("http", "bearer") => Scheme::Bearer,
                ("http", other) => Scheme::Other(other.into()),
                ("oauth2" | "openidconnect", _) => Scheme::Scoped,
                ("mutualtls", _) => Scheme::MutualTls,
                (other, _) => Scheme::Other(other.into()),
            };
            self.schemes.insert(name.as_str().into(), scheme);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what an operation is made of")]
    fn operation(
        &mut self,
        value: &'v Value,
        shared: Option<&'v Value>,
        pointer: &str,
        path: &str,
        method: &Method,
        names: &[Box<str>],
        ids: &mut BTreeSet<Box<str>>,
    ) -> Operation {
        self.id = named(value, method, path);
        self.lost = false;
        if !ids.insert(self.id.clone()) {
            let message = format!("another operation has the operationId `{}`", self.id);
            self.fault(pointer, message);
            self.id = format!("{method} {path}").into();
            ids.insert(self.id.clone());
        }
        let mut params = Vec::new();
        if let Some(table) = value.as_object() {
            let shared =
                shared.map(|all| (all, format!("{}/parameters", pointer.rsplit_once('/').map_or("", |(above, _)| above))));
            let own = table.get("parameters").map(|all| (all, format!("{pointer}/parameters")));
            for (all, pointer) in own.into_iter().chain(shared) {
                let Some(list) = all.as_array() else {
                    self.fault(&pointer, "`parameters` is a list");
                    continue;
                };
                let from = params.len();
                for (at, one) in list.iter().enumerate() {
                    let Some(param) = self.param(one, format!("{pointer}/{at}"), names) else { continue };
                    // The operation's own word counts, which was read first.
                    let is_known = |known: &Param| known.part == param.part && known.name == param.name;
                    if !params.iter().take(from).any(is_known) {
                        params.push(param);
                    }
                }
            }
        } else {
            self.fault(pointer, "an operation is a table");
        }
        let body = value.get("requestBody").and_then(|body| self.body(body, format!("{pointer}/requestBody")));
        let answers = if self.options.answers { self.answers(value, pointer) } else { Vec::new() };
        let security = self.security(value, pointer);
        Operation {
            id: self.id.clone(),
            method: method.clone(),
            path: path.into(),
            params,
            body,
            answers,
            security,
            lost: self.lost,
            deprecated: value.get("deprecated") == Some(&Value::Bool(true)),
        }
    }

    fn root(&mut self, value: &'v Value, pointer: String) -> Option<u32> {
        self.roots.push((value, pointer));
        u32::try_from(self.roots.len() - 1).ok()
    }

    fn param(&mut self, value: &'v Value, pointer: String, names: &[Box<str>]) -> Option<Param> {
        let (table, pointer) = self.table(value, pointer)?;
        let text = |key: &str| table.get(key).and_then(Value::as_str);
        let (Some(name), Some(place)) = (text("name"), text("in")) else {
            self.fault(&pointer, "a parameter has a `name`, and says where it stands (`in`)");
            return None;
        };
        let part = match place {
            "query" => Part::Query,
            "path" => Part::Path,
            "header" => Part::Header,
            "cookie" => Part::Cookie,
            _ => {
                self.fault(&pointer, "`in` is `query`, `path`, `header` or `cookie`");
                return None;
            }
        };
        // What these say is said elsewhere in a document.
        if part == Part::Header
            && ["accept", "content-type", "authorization"].iter().any(|known| name.eq_ignore_ascii_case(known))
        {
            return None;
        }
        let field = match (part == Part::Header).then(|| HeaderName::from_bytes(name.as_bytes())) {
            Some(Err(_)) => {
                self.fault(&pointer, format!("`{name}` is not a header name"));
                return None;
            }
            field => field.and_then(Result::ok),
        };
        let mut place = 0;
        if part == Part::Path {
            match names.iter().position(|known| **known == *name) {
                Some(at) => place = at,
                None => {
                    self.fault(&pointer, format!("the path has no `{{{name}}}`"));
                    return None;
                }
            }
        }
        let default = if matches!(part, Part::Query | Part::Cookie) { Style::Form } else { Style::Simple };
        let style = match table.get("style").map(|style| style.as_str().and_then(Style::parse)) {
            None => default,
            Some(Some(style)) if style.suits(part) => style,
            Some(_) => {
                self.fault(&format!("{pointer}/style"), "there is no such `style` for a parameter that stands there");
                return None;
            }
        };
        let flag = |key: &str, default: bool| table.get(key).and_then(Value::as_bool).unwrap_or(default);
        let mut json = false;
        let node = match (table.get("schema"), table.get("content")) {
            (Some(schema), _) => self.root(schema, format!("{pointer}/schema")),
            (None, Some(content)) => {
                let first = content.as_object().and_then(|content| content.iter().next());
                let Some((media, inner)) = first else {
                    self.fault(&format!("{pointer}/content"), "`content` has one media type");
                    return None;
                };
                json = MediaType::parse(media.as_bytes()).is_some_and(|media| media.is_json());
                let at = format!("{pointer}/content/{}/schema", escaped(media));
                inner.get("schema").and_then(|schema| self.root(schema, at))
            }
            (None, None) => None,
        };
        Some(Param {
            part,
            name: name.into(),
            field,
            place,
            required: part == Part::Path || flag("required", false),
            style,
            explode: flag("explode", style == Style::Form),
            allow_empty: flag("allowEmptyValue", false),
            json,
            node,
        })
    }

    fn body(&mut self, value: &'v Value, pointer: String) -> Option<Body> {
        let (table, pointer) = self.table(value, pointer)?;
        let content = self.content(table, &pointer)?;
        let types: Vec<&str> =
            table.get("content").and_then(Value::as_object).into_iter().flat_map(Map::keys).map(String::as_str).collect();
        let accept = HeaderValue::try_from(types.join(", ")).unwrap_or(HeaderValue::from_static("*/*"));
        let required = table.get("required") == Some(&Value::Bool(true));
        Some(Body { required, content, accept })
    }

    /// The media types of a body or of an answer. `None` if there is none.
    fn content(&mut self, table: &'v Table, pointer: &str) -> Option<Vec<Media>> {
        let mut all = Vec::new();
        for (name, value) in table.get("content")?.as_object()? {
            let pointer = format!("{pointer}/content/{}", escaped(name));
            let Some(pattern) = Pattern::of(name) else {
                let shown: String = name.chars().take(80).collect();
                self.fault(&pointer, format!("`{shown}` is not a media type"));
                continue;
            };
            let node = value.get("schema").and_then(|schema| self.root(schema, format!("{pointer}/schema")));
            let mut encodings = Vec::new();
            for (property, encoding) in value.get("encoding").and_then(Value::as_object).into_iter().flatten() {
                let text = |key: &str| encoding.get(key).and_then(Value::as_str);
                let style = text("style").and_then(Style::parse);
                let types = text("contentType").into_iter().flat_map(|types| types.split(','));
                let types = types.filter_map(Pattern::of);
                let explode = encoding.get("explode").and_then(Value::as_bool);
                let explode = explode.unwrap_or(style.is_none_or(|style| style == Style::Form));
                encodings.push((property.as_str().into(), Encoding { types: types.collect(), style, explode }));
            }
            all.push(Media { pattern, node, encodings });
        }
        all.sort_by_key(|media| std::cmp::Reverse(media.pattern.rank()));
        Some(all)
    }

    fn answers(&mut self, operation: &'v Value, pointer: &str) -> Vec<(Status, Vec<Media>)> {
        let mut all = Vec::new();
        for (status, value) in operation.get("responses").and_then(Value::as_object).into_iter().flatten() {
            let Some(status) = Status::parse(status) else { continue };
            let Some((table, pointer)) = self.table(value, format!("{pointer}/responses/{}", escaped(&status.key()))) else {
                continue;
            };
            all.push((status, self.content(table, &pointer).unwrap_or_default()));
        }
        all.sort_by_key(|(status, _)| *status);
        all
    }

    fn security(&mut self, operation: &'v Value, pointer: &str) -> Option<Vec<Needs>> {
        let (all, pointer) = match operation.get("security") {
            Some(own) => (own, format!("{pointer}/security")),
            None => (self.document.get("security")?, "/security".to_owned()),
        };
        let mut alternatives = Vec::new();
        for (at, needs) in all.as_array()?.iter().enumerate() {
            let mut together = Needs::new();
            for (name, scopes) in needs.as_object().into_iter().flatten() {
                if !self.schemes.contains_key(name.as_str()) {
                    self.fault(&format!("{pointer}/{at}"), format!("there is no security scheme `{name}`"));
                }
                let scopes = scopes.as_array().into_iter().flatten().filter_map(Value::as_str);
                together.push((name.as_str().into(), scopes.map(Into::into).collect()));
            }
            alternatives.push(together);
        }
        Some(alternatives)
    }

    /// Compiles the schemas of all operations, without those that cannot be had.
    fn compile(&mut self, dialect: Dialect, operations: &mut [Operation], sources: &[Source<'v>]) -> Option<Parts> {
        let roots = std::mem::take(&mut self.roots);
        for _ in 0..MOST_ROUNDS {
            let mut numbers = Vec::new();
            let mut wanted: Vec<(&Value, String)> = Vec::new();
            for (_, source) in operations.iter().zip(sources).filter(|(operation, _)| !operation.lost) {
                for number in source.roots.clone() {
                    numbers.push(number);
                    wanted.extend(roots.get(number).cloned());
                }
            }
            match Schema::compile_parts(self.document, dialect, &wanted) {
                Ok(parts) => {
                    self.blame(&parts.left_out, true, operations, sources);
                    let mut all = vec![u32::MAX; roots.len()];
                    for (number, node) in numbers.iter().zip(&parts.roots) {
                        if let Some(slot) = all.get_mut(*number) {
                            *slot = *node;
                        }
                    }
                    return Some(Parts { roots: all, ..parts });
                }
                Err(faults) => {
                    if !self.blame(&faults, false, operations, sources) {
                        return None;
                    }
                }
            }
        }
        self.faults.push(Fault::whole("has too many faults to be served without what they are in", None));
        None
    }

    /// Says which operations a fault of a schema is one of. Whether any is, that was not lost already.
    fn blame(&mut self, faults: &[BadSchema], only_pattern: bool, operations: &mut [Operation], sources: &[Source<'v>]) -> bool {
        if faults.is_empty() {
            return false;
        }
        let faults: Vec<(String, &BadSchema)> = faults
            .iter()
            .map(|fault| match fault.pointer.strip_prefix('#') {
                Some(fragment) => (lossy(decode_escapes(fragment)).into_owned(), fault),
                None => (fault.pointer.clone(), fault),
            })
            .collect();
        let mut told: Vec<Fault> =
            faults.iter().map(|(pointer, one)| Fault { only_pattern, ..fault(pointer, one.message.clone()) }).collect();
        let mut any = false;
        for (operation, source) in operations.iter_mut().zip(sources) {
            let reached = self.reached(source);
            let is_below = |pointer: &str, above: &str| {
                pointer.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            for ((pointer, _), told) in faults.iter().zip(&mut told) {
                if pointer.is_empty()
                    || is_below(pointer, &source.pointer)
                    || reached.iter().any(|above| is_below(pointer, above))
                {
                    told.operations.push(operation.id.clone());
                    any |= !operation.lost && !only_pattern;
                    operation.lost |= !only_pattern;
                }
            }
        }
        self.faults.extend(told);
        any
    }

    /// Where the references of an operation lead, and those of what is there.
    fn reached(&self, source: &Source<'v>) -> AHashSet<String> {
        let mut reached = AHashSet::new();
        let mut open: Vec<&Value> = vec![source.value];
        open.extend(source.shared);
        while let Some(value) = open.pop() {
            match value {
                Value::Array(list) => open.extend(list),
                Value::Object(table) => {
                    if let Some(fragment) = table.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#')) {
                        let fragment = lossy(decode_escapes(fragment)).into_owned();
                        if let Some(target) = self.document.pointer(&fragment).filter(|_| !reached.contains(&fragment)) {
                            reached.insert(fragment);
                            open.push(target);
                        }
                    }
                    open.extend(table.values());
                }
                _ => {}
            }
        }
        reached
    }
}

impl Status {
    fn key(self) -> String {
        match self {
            Status::Exact(status) => status.to_string(),
            Status::Class(class) => format!("{class}XX"),
            Status::Default => "default".to_owned(),
        }
    }
}
