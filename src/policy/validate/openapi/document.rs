//! A document of OpenAPI, compiled: its operations, how they are found, and what each of them takes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use http::{HeaderValue, Method};
use serde_json::Value;
use smallvec::SmallVec;

use super::body::Media;
use super::params::Param;
use super::{place, read};
use crate::exchange::OperationNames;
use crate::route::templates::{Taken, Templates};
use crate::schema::Schema;

/// The longest file, in bytes.
pub const LARGEST_FILE: u64 = 32 << 20;

/// What a document is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    /// `format` asserts.
    pub formats: bool,
    /// The schemas of answers are wanted as well.
    pub answers: bool,
}

/// What cannot be served of a document, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// A JSON Pointer into the document.
    pub pointer: String,
    /// Line and column, where they are known.
    pub place: Option<(u32, u32)>,
    pub message: String,
    pub hint: Option<&'static str>,
    /// The operations that are not served for it; none if it is about the document as a whole.
    pub operations: Vec<Box<str>>,
    /// Nothing is lost but this pattern.
    pub only_pattern: bool,
}

/// What came of a file.
pub struct Loaded {
    /// `None` if nothing of it can be served.
    pub document: Option<Arc<Document>>,
    pub faults: Vec<Fault>,
}

pub struct Document {
    pub operations: Vec<Operation>,
    pub(super) templates: Templates,
    /// The operations of each template.
    pub(super) by_template: Vec<SmallVec<[(Method, u32); 4]>>,
    pub schema: Schema,
    pub schemes: BTreeMap<Box<str>, Scheme>,
}

pub struct Operation {
    /// `operationId`, or else the method and the path.
    pub id: Box<str>,
    pub method: Method,
    pub path: Box<str>,
    pub params: Vec<Param>,
    pub body: Option<Body>,
    pub answers: Vec<(Status, Vec<Media>)>,
    /// One of these is needed; `None` if nothing is said.
    pub security: Option<Vec<Needs>>,
    /// It cannot be served.
    pub lost: bool,
    pub deprecated: bool,
}

/// Schemes that are needed together, each with the scopes that it has to have.
pub type Needs = Vec<(Box<str>, Vec<Box<str>>)>;

/// A security scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheme {
    ApiKey,
    Basic,
    Bearer,
    /// OAuth 2.0 and OpenID Connect: a bearer token with scopes.
    Scoped,
    MutualTls,
    /// HTTP authentication of another kind.
    Other(Box<str>),
}

pub struct Body {
    pub required: bool,
    /// The most specific first.
    pub content: Vec<Media>,
    /// What a 415 says it would take.
    pub accept: HeaderValue,
}

/// Which answers are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Exact(u16),
    Class(u16),
    Default,
}

impl Status {
    pub fn parse(text: &str) -> Option<Status> {
        match text {
            "default" => Some(Status::Default),
            _ => match text.strip_suffix("XX").or(text.strip_suffix("xx")) {
                Some(class) => class.parse().ok().filter(|class| (1..=5).contains(class)).map(Status::Class),
                None => text.parse().ok().filter(|status| (100..=599).contains(status)).map(Status::Exact),
            },
        }
    }

    pub fn takes(self, status: u16) -> bool {
        match self {
            Status::Exact(exact) => exact == status,
            Status::Class(class) => status / 100 == class,
            Status::Default => true,
        }
    }
}

/// What a path and a method lead to.
pub enum Met<'a> {
    Operation(u32, Taken<'a>),
    /// There are operations, by other methods.
    OtherMethod(HeaderValue),
    Nothing,
}

impl Document {
    /// Reads and compiles a file.
    pub fn load(path: &Path, options: Options) -> Loaded {
        match text(path) {
            Ok(text) => Document::compile(&text, is_yaml(path), options),
            Err(why) => Loaded { document: None, faults: vec![Fault::whole(why, None)] },
        }
    }

    /// Compiles a document.
    pub fn compile(text: &str, yaml: bool, options: Options) -> Loaded {
        Document::compile_and_keep(text, yaml, options).0
    }

    /// The same, and the document as it is written, where it can be read.
    pub fn compile_and_keep(text: &str, yaml: bool, options: Options) -> (Loaded, Option<Value>) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let value = match parse(text, yaml) {
            Ok(value) => value,
            Err((message, place)) => {
                let mut fault = Fault::whole(message, None);
                fault.place = place;
                return (Loaded { document: None, faults: vec![fault] }, None);
            }
        };
        let mut loaded = read::read(&value, options);
        let pointers: Vec<&str> = loaded.faults.iter().map(|fault| fault.pointer.as_str()).collect();
        if !pointers.is_empty() {
            let places = place::places(text, &pointers);
            loaded.faults.iter_mut().zip(places).for_each(|(fault, place)| fault.place = place);
        }
        (loaded, Some(value))
    }

    /// The operation of a path, as it stands in the document. GET answers HEAD where nothing else does.
    pub fn meet<'a>(&'a self, method: &Method, path: &'a str) -> Met<'a> {
        let mut others: SmallVec<[&Method; 8]> = SmallVec::new();
        let path = if path.is_empty() { "/" } else { path };
        let found = self.templates.find(path, |number, taken| {
            let all = self.by_template.get(number as usize)?;
            let of = |method: &Method| all.iter().find(|(known, _)| known == method).map(|(_, number)| *number);
            let found = of(method).or_else(|| of(&Method::GET).filter(|_| *method == Method::HEAD));
            if found.is_none() {
                others.extend(all.iter().map(|(method, _)| method));
            }
            Some((found?, taken))
        });
        match found {
            Some((number, taken)) => Met::Operation(number, taken),
            None if others.is_empty() => Met::Nothing,
            None => Met::OtherMethod(allow(&others)),
        }
    }
}

/// `GET, HEAD, POST`.
fn allow(methods: &[&Method]) -> HeaderValue {
    const ORDER: [Method; 8] =
        [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS, Method::TRACE];
    let has = |method: &Method| methods.contains(&method) || *method == Method::HEAD && methods.contains(&&Method::GET);
    let list: Vec<&str> = ORDER.iter().filter(|method| has(method)).map(Method::as_str).collect();
    HeaderValue::try_from(list.join(", ")).unwrap_or(HeaderValue::from_static("GET"))
}

impl OperationNames for Document {
    fn operation_name(&self, number: u32) -> &str {
        self.operations.get(number as usize).map_or("", |operation| &operation.id)
    }
}

impl Fault {
    pub fn whole(message: impl Into<String>, hint: Option<&'static str>) -> Fault {
        Fault { pointer: String::new(), place: None, message: message.into(), hint, operations: Vec::new(), only_pattern: false }
    }

    /// `petstore.yaml:12:5: the pattern cannot be used (createPet, updatePet)`
    pub fn said(&self, file: &str) -> String {
        let place = self.place.map_or_else(String::new, |(line, column)| format!(":{line}:{column}"));
        let shown: Vec<&str> = self.operations.iter().take(3).map(|name| &**name).collect();
        let operations = match self.operations.len() {
            0 => String::new(),
            count if count > shown.len() => format!(" ({} and {} more operations)", shown.join(", "), count - shown.len()),
            _ => format!(" ({})", shown.join(", ")),
        };
        format!("{file}{place}: {}{operations}", self.message)
    }
}

pub fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("yaml") || end.eq_ignore_ascii_case("yml"))
}

/// A file's text, within the bound.
pub fn text(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    file.take(LARGEST_FILE + 1).read_to_string(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > LARGEST_FILE { Err("is longer than 32MiB".to_owned()) } else { Ok(text) }
}

/// What went wrong, and where.
type Unread = (String, Option<(u32, u32)>);

pub fn parse(text: &str, yaml: bool) -> Result<Value, Unread> {
    let place = |line: usize, column: usize| Some((u32::try_from(line).ok()?, u32::try_from(column).ok()?));
    match yaml {
        true => serde_yaml::from_str(text).map_err(|error| {
            let at = error.location().and_then(|at| place(at.line(), at.column()));
            (format!("is not YAML: {error}"), at)
        }),
        false => serde_json::from_str(text)
            .map_err(|error| (format!("is not JSON: {error}"), place(error.line(), error.column().max(1)))),
    }
}
