//! What there is to ask for: the types of a schema, and those by which it is described.

use std::collections::{BTreeMap, HashMap};

use apollo_parser::cst;

use super::Wrong;
use super::ast::{self, Directive, Type, Value, at, directives, string_of, text, tree, ty};

/// The most tokens of a schema.
const MOST_TOKENS: usize = 1_000_000;

/// How deep defaults may stand in each other: they are followed for whatever is left out, which takes stack.
const DEEPEST: usize = 64;
/// The most that one default takes, with those in it, in bytes: two in each of forty types are more than there is of memory.
const LARGEST_DEFAULT: usize = 1 << 20;

/// What every schema has.
const BUILT_IN: &str = r#"
scalar Int scalar Float scalar String scalar Boolean scalar ID
directive @skip(if: Boolean!) on FIELD | FRAGMENT_SPREAD | INLINE_FRAGMENT
directive @include(if: Boolean!) on FIELD | FRAGMENT_SPREAD | INLINE_FRAGMENT
directive @deprecated(reason: String = "No longer supported") on FIELD_DEFINITION | ARGUMENT_DEFINITION | INPUT_FIELD_DEFINITION | ENUM_VALUE
directive @specifiedBy(url: String!) on SCALAR
type __Schema { description: String types: [__Type!]! queryType: __Type! mutationType: __Type subscriptionType: __Type directives: [__Directive!]! }
type __Type {
  kind: __TypeKind! name: String description: String specifiedByURL: String
  fields(includeDeprecated: Boolean = false): [__Field!] interfaces: [__Type!] possibleTypes: [__Type!]
  enumValues(includeDeprecated: Boolean = false): [__EnumValue!] inputFields(includeDeprecated: Boolean = false): [__InputValue!]
  ofType: __Type isOneOf: Boolean
}
enum __TypeKind { SCALAR OBJECT INTERFACE UNION ENUM INPUT_OBJECT LIST NON_NULL }
type __Field { name: String! description: String args(includeDeprecated: Boolean = false): [__InputValue!]! type: __Type! isDeprecated: Boolean! deprecationReason: String }
type __InputValue { name: String! description: String type: __Type! defaultValue: String isDeprecated: Boolean! deprecationReason: String }
type __EnumValue { name: String! description: String isDeprecated: Boolean! deprecationReason: String }
type __Directive { name: String! description: String isRepeatable: Boolean! locations: [__DirectiveLocation!]! args(includeDeprecated: Boolean = false): [__InputValue!]! }
enum __DirectiveLocation {
  QUERY MUTATION SUBSCRIPTION FIELD FRAGMENT_DEFINITION FRAGMENT_SPREAD INLINE_FRAGMENT VARIABLE_DEFINITION SCHEMA SCALAR OBJECT
  FIELD_DEFINITION ARGUMENT_DEFINITION INTERFACE UNION ENUM ENUM_VALUE INPUT_OBJECT INPUT_FIELD_DEFINITION
}
"#;

/// The scalars of the language.
pub const SCALARS: [&str; 5] = ["Int", "Float", "String", "Boolean", "ID"];

/// A schema.
#[derive(Debug)]
pub struct Schema {
    pub description: Option<Box<str>>,
    pub query: Box<str>,
    pub mutation: Option<Box<str>>,
    pub types: BTreeMap<Box<str>, TypeDef>,
    /// Their names, as they were written.
    pub order: Vec<Box<str>>,
    pub directives: BTreeMap<Box<str>, DirectiveDef>,
    /// `__schema`, `__type` and `__typename`.
    meta: [FieldDef; 3],
}

#[derive(Debug)]
pub struct TypeDef {
    pub description: Option<Box<str>>,
    pub kind: Kind,
    pub at: u32,
}

#[derive(Debug)]
pub enum Kind {
    Scalar { specified_by: Option<Box<str>> },
    Object { fields: Vec<FieldDef>, interfaces: Vec<Box<str>> },
    Interface { fields: Vec<FieldDef>, interfaces: Vec<Box<str>> },
    Union { members: Vec<Box<str>> },
    Enum { values: Vec<EnumValue> },
    Input { fields: Vec<InputValue> },
}

#[derive(Debug)]
pub struct FieldDef {
    pub name: Box<str>,
    pub description: Option<Box<str>>,
    pub arguments: Vec<InputValue>,
    pub ty: Type,
    pub deprecated: Option<Box<str>>,
    /// The number of the call that is made for it.
    pub call: Option<usize>,
    /// Where it stands in the object that it is a field of. Empty: under its own name.
    pub from: Box<[Box<str>]>,
}

#[derive(Debug)]
pub struct InputValue {
    pub name: Box<str>,
    pub description: Option<Box<str>>,
    pub ty: Type,
    pub default: Option<Value>,
    pub deprecated: Option<Box<str>>,
}

#[derive(Debug)]
pub struct EnumValue {
    pub name: Box<str>,
    pub description: Option<Box<str>>,
    pub deprecated: Option<Box<str>>,
}

#[derive(Debug)]
pub struct DirectiveDef {
    pub description: Option<Box<str>>,
    pub arguments: Vec<InputValue>,
    pub locations: Vec<Box<str>>,
    pub repeatable: bool,
}

impl InputValue {
    /// Nobody may leave it out.
    pub fn is_required(&self) -> bool {
        self.ty.is_non_null() && self.default.is_none()
    }
}

impl Schema {
    /// Reads a schema in the schema definition language.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(source: &str) -> Result<Schema, Wrong> {
        let field = |name: &str, ty: &str, arguments: Vec<InputValue>| FieldDef {
            name: name.into(),
            description: None,
            arguments,
            ty: Type::parse(ty).unwrap_or(Type::Named("__Schema".into())),
            deprecated: None,
            call: None,
            from: Box::default(),
        };
        let of_type = InputValue {
            name: "name".into(),
            description: None,
            ty: Type::NonNull(Box::new(Type::Named("String".into()))),
            default: None,
            deprecated: None,
        };
        let mut schema = Schema {
            description: None,
            query: "Query".into(),
            mutation: None,
            types: BTreeMap::new(),
            order: Vec::new(),
            directives: BTreeMap::new(),
            meta: [
                field("__schema", "__Schema!", Vec::new()),
                field("__type", "__Type", vec![of_type]),
                field("__typename", "String!", Vec::new()),
            ],
        };
        let mut roots = None;
        schema.read(source, &mut roots, true)?;
        schema.read(BUILT_IN, &mut None, false)?;
        match roots {
            Some((query, mutation)) => (schema.query, schema.mutation) = (query, mutation),
            None => schema.mutation = schema.types.contains_key("Mutation").then(|| "Mutation".into()),
        }
        schema.check()?;
        Ok(schema)
    }

    fn read(&mut self, source: &str, roots: &mut Option<(Box<str>, Option<Box<str>>)>, is_own: bool) -> Result<(), Wrong> {
        for definition in tree(source, MOST_TOKENS)?.document().definitions() {
            let place = at(&definition);
            let gap = || Wrong::new("Syntax error.", place);
            let name = text(definition.name());
            if let Some(name) = name.as_deref().filter(|name| is_own && name.starts_with("__")) {
                return Err(Wrong::new(format!("`{name}`: names that begin with two underscores are the language's own"), place));
            }
            let (description, kind) = match definition {
                cst::Definition::SchemaDefinition(node) => {
                    self.description = said(node.description());
                    *roots = Some(roots_of(&node, place)?);
                    continue;
                }
                cst::Definition::DirectiveDefinition(node) => {
                    let locations = node.directive_locations().into_iter().flat_map(|all| all.directive_locations());
                    let directive = DirectiveDef {
                        description: said(node.description()),
                        arguments: arguments(node.arguments_definition())?,
                        locations: locations.filter_map(|one| Some(one.text()?.as_ref().into())).collect(),
                        repeatable: node.repeatable_token().is_some(),
                    };
                    self.directives.entry(name.ok_or_else(gap)?).or_insert(directive);
                    continue;
                }
                cst::Definition::ScalarTypeDefinition(node) => {
                    let written = directives(node.directives())?;
                    (said(node.description()), Kind::Scalar { specified_by: argument_of(&written, "specifiedBy", "url") })
                }
                cst::Definition::ObjectTypeDefinition(node) => (
                    said(node.description()),
                    Kind::Object {
                        fields: fields(node.fields_definition())?,
                        interfaces: names(node.implements_interfaces().map(|all| all.named_types())),
                    },
                ),
                cst::Definition::InterfaceTypeDefinition(node) => (
                    said(node.description()),
                    Kind::Interface {
                        fields: fields(node.fields_definition())?,
                        interfaces: names(node.implements_interfaces().map(|all| all.named_types())),
                    },
                ),
                cst::Definition::UnionTypeDefinition(node) => (
                    said(node.description()),
                    Kind::Union { members: names(node.union_member_types().map(|all| all.named_types())) },
                ),
                cst::Definition::EnumTypeDefinition(node) => {
                    let values = node.enum_values_definition().into_iter().flat_map(|all| all.enum_value_definitions());
                    let value = |one: cst::EnumValueDefinition| {
                        let name = text(one.enum_value().and_then(|value| value.name())).ok_or_else(gap)?;
                        Ok(EnumValue { name, description: said(one.description()), deprecated: deprecated(one.directives())? })
                    };
                    (said(node.description()), Kind::Enum { values: values.map(value).collect::<Result<_, Wrong>>()? })
                }
                cst::Definition::InputObjectTypeDefinition(node) => {
                    let all = node.input_fields_definition().into_iter().flat_map(|all| all.input_value_definitions());
                    (said(node.description()), Kind::Input { fields: all.map(input).collect::<Result<_, _>>()? })
                }
                _ => return Err(Wrong::new("a schema has definitions of types and of directives, and nothing else", place)),
            };
            let name = name.ok_or_else(gap)?;
            let is_built_in = SCALARS.contains(&&*name);
            if is_own && is_built_in && matches!(kind, Kind::Scalar { .. }) {
                continue;
            }
            if self.types.insert(name.clone(), TypeDef { description, kind, at: if is_own { place } else { 0 } }).is_some() {
                return Err(Wrong::new(format!("the type `{name}` is there twice"), place));
            }
            self.order.push(name);
        }
        Ok(())
    }

    /// Whether everything that is named is there, and is of a kind that can stand there.
    fn check(&self) -> Result<(), Wrong> {
        for root in std::iter::once(&self.query).chain(&self.mutation) {
            if !matches!(self.types.get(root).map(|ty| &ty.kind), Some(Kind::Object { .. })) {
                return Err(Wrong::new(format!("there is no object type `{root}` for operations to begin with"), 0));
            }
        }
        // Before any of them is followed.
        self.check_defaults_end()?;
        for (name, def) in &self.types {
            let wrong = |why: String| Err(Wrong::new(format!("`{name}`: {why}"), def.at));
            match &def.kind {
                Kind::Object { fields, interfaces } | Kind::Interface { fields, interfaces } => {
                    if fields.is_empty() {
                        return wrong("a type without fields cannot be asked for anything".to_owned());
                    }
                    for (number, field) in fields.iter().enumerate() {
                        if fields.iter().take(number).any(|other| other.name == field.name) {
                            return wrong(format!("the field `{}` is there twice", field.name));
                        }
                        if !self.is_output(field.ty.name()) {
                            return wrong(format!("`{}` is of the type `{}`, which no answer has", field.name, field.ty));
                        }
                        self.check_inputs(&field.arguments).or_else(wrong)?;
                    }
                    for interface in interfaces {
                        let Some(Kind::Interface { fields: needed, .. }) = self.kind(interface) else {
                            return wrong(format!("there is no interface `{interface}`"));
                        };
                        for needed in needed {
                            let Some(field) = fields.iter().find(|field| field.name == needed.name) else {
                                return wrong(format!("`{interface}` has a field `{}` that is missing here", needed.name));
                            };
                            if !self.is_covariant(&field.ty, &needed.ty) {
                                let (own, theirs) = (&field.ty, &needed.ty);
                                return wrong(format!("`{}` is `{own}`, and `{theirs}` in `{interface}`", field.name));
                            }
                        }
                    }
                }
                Kind::Union { members } => {
                    if let Some(member) = members.iter().find(|member| !matches!(self.kind(member), Some(Kind::Object { .. }))) {
                        return wrong(format!("there is no object type `{member}`"));
                    }
                    if members.is_empty() {
                        return wrong("a union has members".to_owned());
                    }
                }
                Kind::Input { fields } => self.check_inputs(fields).or_else(wrong)?,
                Kind::Enum { values } if values.is_empty() => return wrong("an enum has values".to_owned()),
                Kind::Scalar { .. } | Kind::Enum { .. } => {}
            }
        }
        for (name, directive) in &self.directives {
            self.check_inputs(&directive.arguments).map_err(|why| Wrong::new(format!("`@{name}`: {why}"), 0))?;
        }
        self.check_inputs_end()
    }

    fn check_inputs(&self, inputs: &[InputValue]) -> Result<(), String> {
        for (number, input) in inputs.iter().enumerate() {
            if inputs.iter().take(number).any(|other| other.name == input.name) {
                return Err(format!("`{}` is there twice", input.name));
            }
            if !self.is_input(input.ty.name()) {
                return Err(format!("`{}` is of the type `{}`, which no value has that is given", input.name, input.ty));
            }
            if let Some(default) = &input.default
                && let Err(why) = super::coerce::constant(self, &input.ty, default, LARGEST_DEFAULT)
            {
                return Err(format!("the default of `{}`: {why}", input.name));
            }
        }
        Ok(())
    }

    /// A default that has itself in it, by what stands in for fields that it leaves out, has no end (section 3.10).
    fn check_defaults_end(&self) -> Result<(), Wrong> {
        let mut defaults = Defaults { schema: self, known: HashMap::new() };
        for (name, def) in &self.types {
            let Kind::Input { fields } = &def.kind else { continue };
            for field in fields {
                let wrong = |why: &str| Wrong::new(format!("the default of `{name}.{}`: {why}", field.name), def.at);
                defaults.of(field, 0).map_err(wrong)?;
            }
        }
        Ok(())
    }

    /// An input object that needs itself can never be given.
    fn check_inputs_end(&self) -> Result<(), Wrong> {
        for start in self.types.keys() {
            let (mut way, mut seen) = (vec![&**start], Vec::new());
            while let Some(name) = way.pop() {
                let Some(Kind::Input { fields }) = self.kind(name) else { continue };
                for field in fields {
                    let Type::NonNull(within) = &field.ty else { continue };
                    let Type::Named(next) = &**within else { continue };
                    if **next == **start {
                        let place = self.types.get(start).map_or(0, |def| def.at);
                        return Err(Wrong::new(format!("`{start}` needs itself, so that nobody can give one"), place));
                    }
                    if !seen.contains(&&**next) {
                        seen.push(next);
                        way.push(next);
                    }
                }
            }
        }
        Ok(())
    }

    pub fn kind(&self, name: &str) -> Option<&Kind> {
        self.types.get(name).map(|def| &def.kind)
    }

    /// The fields of an object or an interface.
    pub fn fields(&self, name: &str) -> Option<&[FieldDef]> {
        match self.kind(name)? {
            Kind::Object { fields, .. } | Kind::Interface { fields, .. } => Some(fields),
            _ => None,
        }
    }

    /// A field of a type, be it one that types have by themselves.
    pub fn field(&self, parent: &str, name: &str) -> Option<&FieldDef> {
        let [schema, ty, typename] = &self.meta;
        match name {
            "__schema" if *parent == *self.query => Some(schema),
            "__type" if *parent == *self.query => Some(ty),
            "__typename" if self.is_composite(parent) => Some(typename),
            _ => self.fields(parent)?.iter().find(|field| *field.name == *name),
        }
    }

    pub fn fields_mut(&mut self, parent: &str) -> Option<&mut Vec<FieldDef>> {
        match &mut self.types.get_mut(parent)?.kind {
            Kind::Object { fields, .. } => Some(fields),
            _ => None,
        }
    }

    /// Whether it has fields.
    pub fn is_composite(&self, name: &str) -> bool {
        matches!(self.kind(name), Some(Kind::Object { .. } | Kind::Interface { .. } | Kind::Union { .. }))
    }

    pub fn is_object(&self, name: &str) -> bool {
        matches!(self.kind(name), Some(Kind::Object { .. }))
    }

    fn is_output(&self, name: &str) -> bool {
        self.kind(name).is_some_and(|kind| !matches!(kind, Kind::Input { .. }))
    }

    pub fn is_input(&self, name: &str) -> bool {
        matches!(self.kind(name), Some(Kind::Scalar { .. } | Kind::Enum { .. } | Kind::Input { .. }))
    }

    /// The object types that something of this type may be.
    pub fn possible<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        match self.kind(name) {
            Some(Kind::Object { .. }) => vec![name],
            Some(Kind::Union { members }) => members.iter().map(|member| &**member).collect(),
            Some(Kind::Interface { .. }) => self
                .order
                .iter()
                .map(|known| &**known)
                .filter(|known| self.is_object(known) && self.implements(known, name))
                .collect(),
            _ => Vec::new(),
        }
    }

    fn implements(&self, name: &str, interface: &str) -> bool {
        match self.kind(name) {
            Some(Kind::Object { interfaces, .. } | Kind::Interface { interfaces, .. }) => {
                interfaces.iter().any(|known| **known == *interface)
            }
            _ => false,
        }
    }

    /// Whether whatever is of the one type is of the other.
    pub fn is_sub(&self, name: &str, of: &str) -> bool {
        name == of
            || self.implements(name, of)
            || matches!(self.kind(of), Some(Kind::Union { members }) if members.iter().any(|member| **member == *name))
    }

    fn is_covariant(&self, own: &Type, needed: &Type) -> bool {
        match (own, needed) {
            (Type::NonNull(own), Type::NonNull(needed)) => self.is_covariant(own, needed),
            (Type::NonNull(own), needed) => self.is_covariant(own, needed),
            (Type::List(own), Type::List(needed)) => self.is_covariant(own, needed),
            (Type::Named(own), Type::Named(needed)) => self.is_sub(own, needed),
            _ => false,
        }
    }
}

const TOO_DEEP: &str = "defaults stand in each other too deeply";

/// How deep the defaults of fields of input objects are.
struct Defaults<'a> {
    schema: &'a Schema,
    /// By where they are. `None` as long as one is being followed.
    known: HashMap<*const InputValue, Option<usize>>,
}

impl<'a> Defaults<'a> {
    /// The default of a field that is left out, so deep in others.
    fn of(&mut self, field: &'a InputValue, level: usize) -> Result<usize, &'static str> {
        let Some(default) = &field.default else { return Ok(0) };
        match self.known.insert(field, None) {
            Some(None) => Err("it has itself in it, and no end"),
            Some(Some(depth)) if level + depth > DEEPEST => Err(TOO_DEEP),
            Some(Some(depth)) => {
                self.known.insert(field, Some(depth));
                Ok(depth)
            }
            None => {
                let depth = self.within(field.ty.name(), default, level)?;
                self.known.insert(field, Some(depth));
                Ok(depth)
            }
        }
    }

    fn within(&mut self, ty: &'a str, value: &'a Value, level: usize) -> Result<usize, &'static str> {
        if level > DEEPEST {
            return Err(TOO_DEEP);
        }
        let (schema, mut deepest) = (self.schema, 0);
        match (value, schema.kind(ty)) {
            (Value::List(items), _) => {
                for item in items {
                    deepest = deepest.max(self.within(ty, item, level + 1)?);
                }
            }
            (Value::Object(members), Some(Kind::Input { fields })) => {
                for field in fields {
                    let depth = match members.iter().find(|(name, _)| *name == field.name) {
                        Some((_, given)) => self.within(field.ty.name(), given, level + 1)?,
                        None => self.of(field, level + 1)?,
                    };
                    deepest = deepest.max(depth);
                }
            }
            // What has no fields that could be left out is as deep as it is written.
            _ => {}
        }
        Ok(deepest + 1)
    }
}

fn said(node: Option<cst::Description>) -> Option<Box<str>> {
    string_of(&node?.string_value()?)
}

fn names(all: Option<cst::CstChildren<cst::NamedType>>) -> Vec<Box<str>> {
    all.into_iter().flatten().filter_map(|named| text(named.name())).collect()
}

fn roots_of(node: &cst::SchemaDefinition, place: u32) -> Result<(Box<str>, Option<Box<str>>), Wrong> {
    let (mut query, mut mutation) = (None, None);
    for root in node.root_operation_type_definitions() {
        let Some(kind) = root.operation_type() else { continue };
        let name = root.named_type().and_then(|named| text(named.name()));
        if kind.subscription_token().is_some() {
            return Err(Wrong::new("subscriptions cannot be had", place));
        }
        *(if kind.mutation_token().is_some() { &mut mutation } else { &mut query }) = name;
    }
    Ok((query.ok_or_else(|| Wrong::new("`schema` names a type for `query`", place))?, mutation))
}

fn argument_of(all: &[Directive], directive: &str, name: &str) -> Option<Box<str>> {
    let directive = all.iter().find(|one| *one.name == *directive)?;
    match &directive.arguments.iter().find(|argument| *argument.name == *name)?.value {
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

fn deprecated(node: Option<cst::Directives>) -> Result<Option<Box<str>>, Wrong> {
    let all = directives(node)?;
    let is_one = all.iter().any(|one| *one.name == *"deprecated");
    Ok(is_one.then(|| argument_of(&all, "deprecated", "reason").unwrap_or("No longer supported".into())))
}

fn fields(node: Option<cst::FieldsDefinition>) -> Result<Vec<FieldDef>, Wrong> {
    let all = node.into_iter().flat_map(|all| all.field_definitions());
    all.map(|one| {
        let place = at(&one);
        let gap = || Wrong::new("Syntax error.", place);
        let name = text(one.name()).ok_or_else(gap)?;
        if name.starts_with("__") {
            return Err(Wrong::new(format!("`{name}`: names that begin with two underscores are the language's own"), place));
        }
        Ok(FieldDef {
            name,
            description: said(one.description()),
            arguments: arguments(one.arguments_definition())?,
            ty: one.ty().and_then(|node| ty(&node)).ok_or_else(gap)?,
            deprecated: deprecated(one.directives())?,
            call: None,
            from: Box::default(),
        })
    })
    .collect()
}

fn arguments(node: Option<cst::ArgumentsDefinition>) -> Result<Vec<InputValue>, Wrong> {
    node.into_iter().flat_map(|all| all.input_value_definitions()).map(input).collect()
}

fn input(node: cst::InputValueDefinition) -> Result<InputValue, Wrong> {
    let gap = || Wrong::new("Syntax error.", at(&node));
    Ok(InputValue {
        name: text(node.name()).ok_or_else(gap)?,
        description: said(node.description()),
        ty: node.ty().and_then(|node| ty(&node)).ok_or_else(gap)?,
        default: node
            .default_value()
            .map(|default| default.value().and_then(|value| ast::value(&value)).ok_or_else(gap))
            .transpose()?,
        deprecated: deprecated(node.directives())?,
    })
}
