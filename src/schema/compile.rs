//! From a document to a table of nodes.

use ahash::AHashMap;
use regex::Regex;
use serde_json::{Map, Number, Value};

use super::format::Format;
use super::{
    Arrays, BadSchema, Choice, Contains, Dialect, Draft, Logic, Node, Numbers, Objects, Options, Parts, Schema, Strings, Types,
    pattern, uri,
};

/// The most subschemas of one document.
const MOST_NODES: usize = 200_000;
/// The most of a document that has many schemas in it.
const MOST_NODES_OF_MANY: usize = 1_000_000;
/// So many faults are told.
const MOST_FAULTS: usize = 20;
const MOST_FAULTS_OF_MANY: usize = 200;

/// Keywords with one schema, with a list of them, and with a table of them.
const ONE: [&str; 12] = [
    "not",
    "if",
    "then",
    "else",
    "items",
    "additionalItems",
    "contains",
    "additionalProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
];
const LISTS: [&str; 5] = ["allOf", "anyOf", "oneOf", "prefixItems", "items"];
const TABLES: [&str; 6] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];

/// A part of the document that has a name of its own (`$id`).
struct Resource<'v> {
    uri: String,
    root: &'v Value,
}

struct Compiler<'v> {
    draft: Draft,
    formats: bool,
    /// See [`Dialect`].
    openapi: bool,
    openapi_30: bool,
    lenient: bool,
    most_faults: usize,
    left_out: Vec<BadSchema>,
    one_way: bool,
    resources: Vec<Resource<'v>>,
    by_uri: AHashMap<String, u32>,
    anchors: AHashMap<(u32, String), &'v Value>,
    dynamic: Vec<(u32, String, &'v Value)>,
    /// The resource in which a schema stands, by the schema's address in the document, which does not move meanwhile.
    home: AHashMap<usize, u32>,
    nodes: Vec<Node>,
    known: AHashMap<usize, u32>,
    /// Nodes that are still to be made.
    open: Vec<(u32, &'v Value, String)>,
    faults: Vec<BadSchema>,
}

pub fn compile(document: &Value, formats: bool, default: Option<Draft>) -> Result<Schema, Vec<BadSchema>> {
    let said = document.get("$schema").and_then(Value::as_str);
    let draft = match said.map(|said| Draft::of(said).ok_or(said)) {
        Some(Ok(draft)) => draft,
        Some(Err(said)) => {
            let message =
                format!("`$schema` names an edition that is not known: `{}`", said.chars().take(80).collect::<String>());
            return Err(vec![BadSchema { pointer: "/$schema".to_owned(), message }]);
        }
        None => default.unwrap_or(Draft::Draft202012),
    };
    let dialect = Dialect { draft, openapi: false, openapi_30: false, formats, lenient: false };
    let mut compiler = Compiler::new(document, dialect, MOST_FAULTS);
    compiler.index(document, 0, true);
    let root = compiler.node(document, String::new());
    compiler.finish(root, MOST_NODES).map(|(schema, _)| schema)
}

/// The schemas at these places of a document.
pub fn compile_parts(document: &Value, dialect: Dialect, roots: &[(&Value, String)]) -> Result<Parts, Vec<BadSchema>> {
    let mut compiler = Compiler::new(document, dialect, MOST_FAULTS_OF_MANY);
    for (value, _) in roots {
        compiler.index(value, 0, false);
    }
    let roots = roots.iter().map(|(value, pointer)| compiler.node(value, pointer.clone())).collect();
    let (schema, left_out) = compiler.finish(0, MOST_NODES_OF_MANY)?;
    Ok(Parts { schema, roots, left_out })
}

fn address(value: &Value) -> usize {
    std::ptr::from_ref(value) as usize
}

/// A name as a JSON Pointer has it (RFC 6901, section 3).
pub fn escaped(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

/// A whole number, also one that is written with a fraction of zero.
fn count(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let number = value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..1e15).contains(number))?;
        Some(number as u64)
    })
}

impl<'v> Compiler<'v> {
    fn new(document: &'v Value, dialect: Dialect, most_faults: usize) -> Self {
        Compiler {
            draft: dialect.draft,
            formats: dialect.formats,
            openapi: dialect.openapi,
            openapi_30: dialect.openapi_30,
            lenient: dialect.lenient,
            most_faults,
            left_out: Vec::new(),
            one_way: false,
            resources: vec![Resource { uri: String::new(), root: document }],
            by_uri: AHashMap::new(),
            anchors: AHashMap::new(),
            dynamic: Vec::new(),
            home: AHashMap::new(),
            nodes: Vec::new(),
            known: AHashMap::new(),
            open: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Makes all nodes that are still open.
    fn finish(mut self, root: u32, most: usize) -> Result<(Schema, Vec<BadSchema>), Vec<BadSchema>> {
        let mut anchors = Vec::new();
        for (resource, name, value) in self.dynamic.clone() {
            let node = self.node(value, String::new());
            anchors.push((resource, name.into(), node));
        }
        while let Some((number, value, pointer)) = self.open.pop() {
            self.build(number, value, &pointer);
            if self.nodes.len() > most || self.faults.len() >= self.most_faults {
                break;
            }
        }
        if self.nodes.len() > most {
            self.fault("", format!("it has more than {most} parts"));
        }
        if self.faults.is_empty() && circles(&self.nodes) {
            self.fault("", "a reference leads back to itself, whatever the value");
        }
        if !self.faults.is_empty() {
            return Err(self.faults);
        }
        self.nodes.shrink_to_fit();
        let objects = self.nodes.iter().filter_map(|node| node.objects.as_ref());
        let names = objects.flat_map(|objects| objects.properties.keys().chain(&objects.required));
        let mut names: ahash::AHashSet<Box<str>> = names.cloned().collect();
        names.shrink_to_fit();
        Ok((Schema { nodes: self.nodes, root, dynamic: anchors, one_way: self.one_way, names }, self.left_out))
    }

    fn fault(&mut self, pointer: &str, message: impl Into<String>) {
        if self.faults.len() < self.most_faults {
            self.faults.push(BadSchema { pointer: pointer.to_owned(), message: message.into() });
        }
    }

    /// Whether the keywords beside a `$ref` count.
    fn refs_have_company(&self) -> bool {
        self.draft >= Draft::Draft201909
    }

    /// Finds the names in a schema and below it: what is a schema stands where a keyword says so, and nowhere else.
    fn index(&mut self, value: &'v Value, mut resource: u32, is_root: bool) {
        if self.home.contains_key(&address(value)) {
            return;
        }
        let Some(map) = value.as_object() else {
            self.home.insert(address(value), resource);
            return;
        };
        let lonely_ref = map.contains_key("$ref") && !self.refs_have_company();
        let word = if self.draft == Draft::Draft4 { "id" } else { "$id" };
        if let Some(id) = map.get(word).and_then(Value::as_str).filter(|_| !lonely_ref && !self.openapi_30) {
            let base = self.resources.get(resource as usize).map_or("", |resource| &resource.uri);
            match id.strip_prefix('#').filter(|anchor| !anchor.is_empty() && self.draft < Draft::Draft201909) {
                Some(anchor) => drop(self.anchors.insert((resource, anchor.to_owned()), value)),
                None => {
                    let joined = uri::join(base, id);
                    // Before 2019-09, the fragment of a name is an anchor.
                    let (name, anchor) = joined.split_once('#').unwrap_or((&joined, ""));
                    if is_root {
                        if let Some(root) = self.resources.first_mut() {
                            root.uri = name.to_owned();
                        }
                    } else {
                        resource = self.resources.len() as u32;
                        self.resources.push(Resource { uri: name.to_owned(), root: value });
                    }
                    self.by_uri.insert(name.to_owned(), resource);
                    if !anchor.is_empty() {
                        self.anchors.insert((resource, anchor.to_owned()), value);
                    }
                }
            }
        }
        self.home.insert(address(value), resource);
        if self.draft >= Draft::Draft201909
            && let Some(anchor) = map.get("$anchor").and_then(Value::as_str)
        {
            self.anchors.insert((resource, anchor.to_owned()), value);
        }
        if self.draft == Draft::Draft202012
            && let Some(anchor) = map.get("$dynamicAnchor").and_then(Value::as_str)
        {
            self.anchors.insert((resource, anchor.to_owned()), value);
            self.dynamic.push((resource, anchor.to_owned(), value));
        }
        if self.draft == Draft::Draft201909 && map.get("$recursiveAnchor") == Some(&Value::Bool(true)) {
            self.dynamic.push((resource, String::new(), value));
        }
        for (key, below) in map {
            let key = key.as_str();
            match below {
                Value::Array(list) if LISTS.contains(&key) => list.iter().for_each(|one| self.index(one, resource, false)),
                Value::Object(table) if TABLES.contains(&key) => {
                    table.values().filter(|one| !one.is_array()).for_each(|one| self.index(one, resource, false));
                }
                Value::Object(_) | Value::Bool(_) if ONE.contains(&key) => self.index(below, resource, false),
                _ => {}
            }
        }
    }

    fn home(&self, value: &Value) -> u32 {
        self.home.get(&address(value)).copied().unwrap_or_default()
    }

    /// The number of a schema's node, which is made if there is none.
    fn node(&mut self, value: &'v Value, pointer: String) -> u32 {
        if let Some(known) = self.known.get(&address(value)) {
            return *known;
        }
        let number = self.nodes.len() as u32;
        self.nodes.push(Node { resource: self.home(value), ..Node::default() });
        self.known.insert(address(value), number);
        self.open.push((number, value, pointer));
        number
    }

    /// The schema that a reference leads to.
    fn resolve(&mut self, reference: &str, from: u32) -> Option<&'v Value> {
        let (target, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let base = self.resources.get(from as usize).map_or("", |resource| &resource.uri);
        let resource = if target.is_empty() { from } else { *self.by_uri.get(&uri::join(base, target))? };
        let root = self.resources.get(resource as usize)?.root;
        let fragment = uri::decoded(fragment);
        if !fragment.is_empty() && !fragment.starts_with('/') {
            return self.anchors.get(&(resource, fragment)).copied();
        }
        let mut value = root;
        let mut within = resource;
        for token in fragment.split('/').skip(1) {
            let token = token.replace("~1", "/").replace("~0", "~");
            value = match value {
                Value::Object(map) => map.get(&token)?,
                Value::Array(list) => list.get(token.parse::<usize>().ok()?)?,
                _ => return None,
            };
            within = self.home.get(&address(value)).copied().unwrap_or(within);
        }
        // It may stand where nobody looked for schemas.
        self.index(value, within, false);
        Some(value)
    }

    fn referred(&mut self, value: &Value, from: u32, pointer: &str) -> Option<&'v Value> {
        let Some(reference) = value.as_str() else {
            self.fault(pointer, "a reference is a text");
            return None;
        };
        let found = self.resolve(reference, from);
        if found.is_none() {
            let shown: String = reference.chars().take(120).collect();
            self.fault(pointer, format!("`{shown}` leads nowhere in this document, and nothing is fetched"));
        }
        found
    }

    fn build(&mut self, number: u32, value: &'v Value, pointer: &str) {
        let mut node = Node { resource: self.home(value), ..Node::default() };
        match value {
            Value::Bool(valid) => node.never = !valid,
            Value::Object(map) => self.fill(&mut node, map, pointer),
            _ => self.fault(pointer, "a schema is a table, `true` or `false`"),
        }
        if let Some(slot) = self.nodes.get_mut(number as usize) {
            *slot = node;
        }
    }

    fn fill(&mut self, node: &mut Node, map: &'v Map<String, Value>, pointer: &str) {
        let below = |key: &str| format!("{pointer}/{}", escaped(key));
        if let Some(reference) = map.get("$ref") {
            if let Some(target) = self.referred(reference, node.resource, &below("$ref")) {
                node.reference = Some(self.node(target, reference.as_str().unwrap_or_default().to_owned()));
            }
            if !self.refs_have_company() {
                return;
            }
        }
        self.fill_dynamic(node, map, pointer);
        node.strict_integers = self.draft == Draft::Draft4 && !self.openapi_30;
        node.read_only = map.get("readOnly") == Some(&Value::Bool(true));
        node.write_only = map.get("writeOnly") == Some(&Value::Bool(true));
        self.one_way |= node.read_only || node.write_only;
        match map.get("type") {
            None => {}
            Some(Value::String(name)) if node.types.add(name) => {}
            Some(Value::Array(names)) if names.iter().all(|name| name.as_str().is_some_and(|name| node.types.add(name))) => {}
            // What OpenAPI 3.0 has for the bytes of a file, as documents that were once of version 2 still write it.
            Some(Value::String(name)) if name == "file" && self.openapi_30 => {}
            Some(_) => self.fault(&below("type"), format!("`type` is one of {}, or a list of them", Types::NAMES.join(", "))),
        }
        if self.openapi_30 && !node.types.is_any() && map.get("nullable") == Some(&Value::Bool(true)) {
            node.types.add("null");
        }
        match map.get("enum") {
            None => {}
            Some(Value::Array(options)) => {
                let mut all = Options::default();
                for option in options {
                    match option {
                        Value::String(text) => drop(all.strings.insert(text.as_str().into())),
                        other => all.others.push(other.clone()),
                    }
                }
                node.options = Some(Box::new(all));
            }
            Some(_) => self.fault(&below("enum"), "`enum` is a list"),
        }
        if self.draft > Draft::Draft4 {
            node.constant = map.get("const").cloned().map(Box::new);
        }
        node.numbers = self.numbers(map, pointer);
        node.strings = self.strings(map, pointer);
        node.arrays = self.arrays(map, pointer);
        node.objects = self.objects(map, pointer);
        let mut logic = Logic {
            all: self.list(map, "allOf", pointer),
            any: self.list(map, "anyOf", pointer),
            one: self.list(map, "oneOf", pointer),
            not: self.one(map, "not", pointer),
            ..Logic::default()
        };
        if self.draft >= Draft::Draft7 {
            logic.condition = self.one(map, "if", pointer);
            logic.then = self.one(map, "then", pointer).filter(|_| logic.condition.is_some());
            logic.otherwise = self.one(map, "else", pointer).filter(|_| logic.condition.is_some());
        }
        logic.choice = self.choice(map, pointer).map(Box::new);
        let has_logic = !logic.all.is_empty() || !logic.any.is_empty() || !logic.one.is_empty();
        node.logic = (has_logic || logic.not.is_some() || logic.condition.is_some()).then(|| Box::new(logic));
        if self.draft >= Draft::Draft201909 {
            node.unevaluated_items = self.one(map, "unevaluatedItems", pointer);
            node.unevaluated_properties = self.one(map, "unevaluatedProperties", pointer);
        }
    }

    /// OpenAPI's `discriminator`, where it chooses among alternatives that have names.
    fn choice(&mut self, map: &'v Map<String, Value>, pointer: &str) -> Option<Choice> {
        // In a plain JSON Schema it is a word like any other, and says nothing.
        let said = map.get("discriminator").filter(|_| self.openapi)?.as_object()?;
        let property: Box<str> = said.get("propertyName")?.as_str()?.into();
        let of_one = map.contains_key("oneOf");
        let alternatives = map.get(if of_one { "oneOf" } else { "anyOf" })?.as_array()?;
        let (mut by, mut complete) = (AHashMap::new(), true);
        for alternative in alternatives {
            let name = alternative.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
            match name {
                Some(name) => drop(by.insert(name.into(), self.node(alternative, pointer.to_owned()))),
                // A null says nothing of itself, and needs not to.
                None => complete &= alternative.get("type").and_then(Value::as_str) == Some("null"),
            }
        }
        for (value, target) in said.get("mapping").and_then(Value::as_object).into_iter().flatten() {
            let target = target.as_str().unwrap_or_default();
            let path = match target.contains(['#', '/', '.']) {
                true => target.to_owned(),
                false => format!("#/components/schemas/{target}"),
            };
            match self.resolve(&path, 0) {
                Some(found) => {
                    let node = self.node(found, path);
                    by.insert(value.as_str().into(), node);
                }
                // It says nothing of what is valid: the alternatives do then.
                None => complete = false,
            }
        }
        Some(Choice { property, of_one, by, complete })
    }

    fn fill_dynamic(&mut self, node: &mut Node, map: &'v Map<String, Value>, pointer: &str) {
        let word = match self.draft {
            Draft::Draft202012 => "$dynamicRef",
            Draft::Draft201909 => "$recursiveRef",
            _ => return,
        };
        let Some(reference) = map.get(word) else { return };
        let Some(target) = self.referred(reference, node.resource, &format!("{pointer}/{word}")) else { return };
        let number = self.node(target, String::new());
        let anchor = match self.draft {
            Draft::Draft202012 => target.get("$dynamicAnchor").and_then(Value::as_str).filter(|anchor| {
                let fragment = reference.as_str().and_then(|text| text.split_once('#')).map_or("", |(_, fragment)| fragment);
                fragment == *anchor
            }),
            _ => (target.get("$recursiveAnchor") == Some(&Value::Bool(true))).then_some(""),
        };
        match anchor {
            Some(anchor) => node.dynamic = Some((number, anchor.into())),
            None if node.reference.is_none() => node.reference = Some(number),
            None => node.dynamic = Some((number, "\u{0}".into())),
        }
    }

    fn one(&mut self, map: &'v Map<String, Value>, key: &str, pointer: &str) -> Option<u32> {
        let value = map.get(key)?;
        Some(self.node(value, format!("{pointer}/{key}")))
    }

    fn list(&mut self, map: &'v Map<String, Value>, key: &str, pointer: &str) -> Vec<u32> {
        match map.get(key) {
            None => Vec::new(),
            Some(Value::Array(list)) if !list.is_empty() || key == "prefixItems" => {
                list.iter().enumerate().map(|(at, one)| self.node(one, format!("{pointer}/{key}/{at}"))).collect()
            }
            Some(_) => {
                self.fault(&format!("{pointer}/{key}"), format!("`{key}` is a list of schemas"));
                Vec::new()
            }
        }
    }

    fn table(&mut self, map: &'v Map<String, Value>, key: &str, pointer: &str) -> Vec<(&'v str, &'v Value, String)> {
        match map.get(key) {
            None => Vec::new(),
            Some(Value::Object(table)) => {
                table.iter().map(|(name, value)| (name.as_str(), value, format!("{pointer}/{key}/{}", escaped(name)))).collect()
            }
            Some(_) => {
                self.fault(&format!("{pointer}/{key}"), format!("`{key}` is a table"));
                Vec::new()
            }
        }
    }

    fn count(&mut self, map: &Map<String, Value>, key: &str, pointer: &str) -> Option<u64> {
        let value = map.get(key)?;
        let found = count(value);
        if found.is_none() {
            self.fault(&format!("{pointer}/{key}"), format!("`{key}` is a whole number, 0 or more"));
        }
        found
    }

    fn number(&mut self, map: &Map<String, Value>, key: &str, pointer: &str) -> Option<Number> {
        match map.get(key)? {
            Value::Number(number) => Some(number.clone()),
            _ => {
                self.fault(&format!("{pointer}/{key}"), format!("`{key}` is a number"));
                None
            }
        }
    }

    fn numbers(&mut self, map: &Map<String, Value>, pointer: &str) -> Option<Box<Numbers>> {
        const KEYS: [&str; 5] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];
        if !KEYS.iter().any(|key| map.contains_key(*key)) {
            return None;
        }
        let mut numbers = Numbers {
            least: self.number(map, "minimum", pointer),
            most: self.number(map, "maximum", pointer),
            multiple_of: self.number(map, "multipleOf", pointer),
            ..Numbers::default()
        };
        if numbers.multiple_of.as_ref().is_some_and(|number| number.as_f64().is_none_or(|number| number <= 0.0)) {
            self.fault(&format!("{pointer}/multipleOf"), "`multipleOf` is more than 0");
        }
        if self.draft == Draft::Draft4 {
            if map.get("exclusiveMinimum") == Some(&Value::Bool(true)) {
                numbers.above = numbers.least.take();
            }
            if map.get("exclusiveMaximum") == Some(&Value::Bool(true)) {
                numbers.below = numbers.most.take();
            }
        } else {
            numbers.above = self.number(map, "exclusiveMinimum", pointer);
            numbers.below = self.number(map, "exclusiveMaximum", pointer);
        }
        Some(Box::new(numbers))
    }

    fn pattern(&mut self, text: &str, pointer: &str) -> Option<Regex> {
        match pattern::compile(text) {
            Ok(pattern) => Some(pattern),
            Err(why) => {
                let message = format!("the pattern cannot be used: {why}");
                if !self.lenient {
                    self.fault(pointer, message);
                } else if self.left_out.len() < self.most_faults {
                    self.left_out.push(BadSchema { pointer: pointer.to_owned(), message });
                }
                None
            }
        }
    }

    fn strings(&mut self, map: &Map<String, Value>, pointer: &str) -> Option<Box<Strings>> {
        if !["minLength", "maxLength", "pattern", "format"].iter().any(|key| map.contains_key(*key)) {
            return None;
        }
        let pattern = match map.get("pattern") {
            None => None,
            Some(Value::String(text)) => self.pattern(text, &format!("{pointer}/pattern")),
            Some(_) => {
                self.fault(&format!("{pointer}/pattern"), "`pattern` is a text");
                None
            }
        };
        let format = map.get("format").and_then(Value::as_str).filter(|_| self.formats).and_then(Format::of);
        let (least, most) = (self.count(map, "minLength", pointer), self.count(map, "maxLength", pointer));
        Some(Box::new(Strings { least: least.unwrap_or(0), most, pattern, format }))
    }

    fn arrays(&mut self, map: &'v Map<String, Value>, pointer: &str) -> Option<Box<Arrays>> {
        const KEYS: [&str; 6] = ["items", "prefixItems", "contains", "minItems", "maxItems", "uniqueItems"];
        if !KEYS.iter().any(|key| map.contains_key(*key)) {
            return None;
        }
        let least = self.count(map, "minItems", pointer).unwrap_or(0);
        let mut arrays = Arrays { least, most: self.count(map, "maxItems", pointer), ..Arrays::default() };
        arrays.unique = map.get("uniqueItems") == Some(&Value::Bool(true));
        if self.draft == Draft::Draft202012 {
            arrays.prefix = self.list(map, "prefixItems", pointer);
            arrays.items = self.one(map, "items", pointer);
        } else if let Some(Value::Array(list)) = map.get("items") {
            arrays.prefix = list.iter().enumerate().map(|(at, one)| self.node(one, format!("{pointer}/items/{at}"))).collect();
            arrays.items = self.one(map, "additionalItems", pointer);
        } else {
            arrays.items = self.one(map, "items", pointer);
        }
        if self.draft > Draft::Draft4
            && let Some(node) = self.one(map, "contains", pointer)
        {
            let counted = self.draft >= Draft::Draft201909;
            let least = if counted { self.count(map, "minContains", pointer) } else { None };
            let most = if counted { self.count(map, "maxContains", pointer) } else { None };
            let evaluates = self.draft == Draft::Draft202012;
            arrays.contains = Some(Contains { node, least: least.unwrap_or(1), most, evaluates });
        }
        Some(Box::new(arrays))
    }

    fn names(&mut self, value: &Value, pointer: &str) -> Vec<Box<str>> {
        let names = value.as_array().map(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        match names {
            Some(Some(names)) => names.into_iter().map(Into::into).collect(),
            _ => {
                self.fault(pointer, "this is a list of names");
                Vec::new()
            }
        }
    }

    fn objects(&mut self, map: &'v Map<String, Value>, pointer: &str) -> Option<Box<Objects>> {
        let least = self.count(map, "minProperties", pointer).unwrap_or(0);
        let mut objects = Objects { least, most: self.count(map, "maxProperties", pointer), ..Objects::default() };
        if let Some(required) = map.get("required") {
            objects.required = self.names(required, &format!("{pointer}/required"));
        }
        for (name, value, at) in self.table(map, "properties", pointer) {
            let node = self.node(value, at);
            objects.properties.insert(name.into(), node);
        }
        for (name, value, at) in self.table(map, "patternProperties", pointer) {
            let node = self.node(value, at.clone());
            if let Some(pattern) = self.pattern(name, &at) {
                objects.patterns.push((pattern, node));
            }
        }
        objects.additional = self.one(map, "additionalProperties", pointer);
        if self.draft > Draft::Draft4 {
            objects.names = self.one(map, "propertyNames", pointer);
        }
        let mut tables = vec!["dependencies"];
        if self.draft >= Draft::Draft201909 {
            tables = vec!["dependentRequired", "dependentSchemas", "dependencies"];
        }
        for key in tables {
            for (name, value, at) in self.table(map, key, pointer) {
                match value {
                    Value::Array(_) => {
                        let names = self.names(value, &at);
                        objects.dependent_required.push((name.into(), names));
                    }
                    _ => {
                        let node = self.node(value, at);
                        objects.dependent_schemas.push((name.into(), node));
                    }
                }
            }
        }
        let says_something = objects.least > 0
            || objects.most.is_some()
            || !objects.required.is_empty()
            || !objects.properties.is_empty()
            || !objects.patterns.is_empty()
            || objects.additional.is_some()
            || objects.names.is_some()
            || !objects.dependent_required.is_empty()
            || !objects.dependent_schemas.is_empty();
        says_something.then(|| Box::new(objects))
    }
}

/// Whether a node leads back to itself by steps that look at the same value.
fn circles(nodes: &[Node]) -> bool {
    #[derive(Clone, Copy, PartialEq)]
    enum Colour {
        White,
        Grey,
        Black,
    }
    let next = |number: u32| -> Vec<u32> {
        let Some(node) = nodes.get(number as usize) else { return Vec::new() };
        let mut all: Vec<u32> = node.reference.into_iter().chain(node.dynamic.as_ref().map(|(node, _)| *node)).collect();
        if let Some(logic) = &node.logic {
            all.extend(logic.all.iter().chain(&logic.any).chain(&logic.one));
            all.extend(logic.not.into_iter().chain(logic.condition).chain(logic.then).chain(logic.otherwise));
            all.extend(logic.choice.iter().flat_map(|choice| choice.by.values()));
        }
        if let Some(objects) = &node.objects {
            all.extend(objects.dependent_schemas.iter().map(|(_, node)| *node));
        }
        all
    };
    let mut colours = vec![Colour::White; nodes.len()];
    for start in 0..nodes.len() as u32 {
        let mut path = vec![(start, None::<Vec<u32>>)];
        while let Some((number, ahead)) = path.last_mut() {
            let number = *number;
            let Some(colour) = colours.get_mut(number as usize) else { break };
            if ahead.is_none() {
                if *colour != Colour::White {
                    path.pop();
                    continue;
                }
                *colour = Colour::Grey;
            }
            match ahead.get_or_insert_with(|| next(number)).pop() {
                Some(child) if colours.get(child as usize) == Some(&Colour::Grey) => return true,
                Some(child) => path.push((child, None)),
                None => {
                    if let Some(colour) = colours.get_mut(number as usize) {
                        *colour = Colour::Black;
                    }
                    path.pop();
                }
            }
        }
    }
    false
}
