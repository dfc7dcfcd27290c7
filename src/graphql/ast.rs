//! A document, as it is executed: what the parser's tree says, without its tokens.

use std::collections::BTreeMap;

use apollo_parser::cst::{self, CstNode};
use apollo_parser::{Parser, SyntaxTree};

use super::Wrong;

/// How deep a document may be nested.
const DEEPEST: usize = 200;

/// What was asked.
#[derive(Debug, Default)]
pub struct Document {
    pub operations: Vec<Operation>,
    pub fragments: BTreeMap<Box<str>, Fragment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Query,
    Mutation,
    Subscription,
}

#[derive(Debug)]
pub struct Operation {
    pub kind: Kind,
    pub name: Option<Box<str>>,
    pub variables: Vec<Variable>,
    pub directives: Vec<Directive>,
    pub set: Vec<Selection>,
    pub at: u32,
}

#[derive(Debug)]
pub struct Variable {
    pub name: Box<str>,
    pub ty: Type,
    pub default: Option<Value>,
    pub directives: Vec<Directive>,
    pub at: u32,
}

#[derive(Debug)]
pub struct Fragment {
    pub on: Box<str>,
    pub directives: Vec<Directive>,
    pub set: Vec<Selection>,
    pub at: u32,
}

#[derive(Debug)]
pub enum Selection {
    Field(Field),
    Spread { name: Box<str>, directives: Vec<Directive>, at: u32 },
    Inline { on: Option<Box<str>>, directives: Vec<Directive>, set: Vec<Selection>, at: u32 },
}

#[derive(Debug)]
pub struct Field {
    pub alias: Option<Box<str>>,
    pub name: Box<str>,
    pub arguments: Vec<Argument>,
    pub directives: Vec<Directive>,
    pub set: Vec<Selection>,
    pub at: u32,
}

impl Field {
    /// What it is called in the answer.
    pub fn key(&self) -> &str {
        self.alias.as_deref().unwrap_or(&self.name)
    }
}

#[derive(Debug)]
pub struct Directive {
    pub name: Box<str>,
    pub arguments: Vec<Argument>,
    pub at: u32,
}

#[derive(Debug)]
pub struct Argument {
    pub name: Box<str>,
    pub value: Value,
    pub at: u32,
}

/// A value as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Variable(Box<str>),
    Int(Box<str>),
    Float(Box<str>),
    String(Box<str>),
    Boolean(bool),
    Null,
    Enum(Box<str>),
    List(Vec<Value>),
    Object(Vec<(Box<str>, Value)>),
}

/// A type as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    Named(Box<str>),
    List(Box<Type>),
    NonNull(Box<Type>),
}

impl Type {
    /// What it is of, whatever is around that.
    pub fn name(&self) -> &str {
        match self {
            Type::Named(name) => name,
            Type::List(within) | Type::NonNull(within) => within.name(),
        }
    }

    pub fn is_non_null(&self) -> bool {
        matches!(self, Type::NonNull(_))
    }

    /// Without what says that it is never null.
    pub fn nullable(&self) -> &Type {
        if let Type::NonNull(within) = self { within } else { self }
    }

    /// As [`Type`]'s `Display` writes it.
    pub fn parse(text: &str) -> Option<Type> {
        if let Some(within) = text.strip_suffix('!') {
            return Some(Type::NonNull(Box::new(Type::parse(within)?)));
        }
        if let Some(within) = text.strip_prefix('[') {
            return Some(Type::List(Box::new(Type::parse(within.strip_suffix(']')?)?)));
        }
        Some(Type::Named(text.into()))
    }
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Type::Named(name) => f.write_str(name),
            Type::List(within) => write!(f, "[{within}]"),
            Type::NonNull(within) => write!(f, "{within}!"),
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Variable(name) => write!(f, "${name}"),
            Value::Int(text) | Value::Float(text) | Value::Enum(text) => f.write_str(text),
            Value::String(text) => f.write_str(&serde_json::Value::from(&**text).to_string()),
            Value::Boolean(value) => write!(f, "{value}"),
            Value::Null => f.write_str("null"),
            Value::List(items) => {
                f.write_str("[")?;
                for (number, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if number > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
            Value::Object(members) => {
                f.write_str("{")?;
                for (number, (name, member)) in members.iter().enumerate() {
                    write!(f, "{}{name}: {member}", if number > 0 { ", " } else { "" })?;
                }
                f.write_str("}")
            }
        }
    }
}

/// Parses any document of so many tokens at most.
pub(super) fn tree(text: &str, tokens: usize) -> Result<SyntaxTree, Wrong> {
    let tree = Parser::new(text).recursion_limit(DEEPEST).token_limit(tokens).parse();
    match tree.errors().next() {
        None => Ok(tree),
        Some(error) => {
            let at = u32::try_from(error.index()).unwrap_or_default();
            // Not in the parser's words: they quote what was sent, however long that is.
            Err(Wrong::new(
                if error.is_limit() { "The document is too long, or nested too deeply." } else { "Syntax error." },
                at,
            ))
        }
    }
}

pub(super) fn at(node: &impl CstNode) -> u32 {
    // (Blanks before it are no part of it.)
    node.syntax().text_range().start().into()
}

/// What the parser has let through is complete.
fn gap(node: &impl CstNode) -> Wrong {
    Wrong::new("Syntax error.", at(node))
}

pub(super) fn text(name: Option<cst::Name>) -> Option<Box<str>> {
    name.map(|name| name.text().as_ref().into())
}

impl Document {
    /// Reads a document of so many tokens at most.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, tokens: usize) -> Result<Document, Wrong> {
        let mut document = Document::default();
        for definition in tree(text, tokens)?.document().definitions() {
            match definition {
                cst::Definition::OperationDefinition(definition) => document.operations.push(operation(&definition)?),
                cst::Definition::FragmentDefinition(definition) => {
                    let place = at(&definition);
                    let (name, fragment) = fragment(&definition).ok_or_else(|| gap(&definition))?;
                    let fragment = fragment?;
                    if document.fragments.contains_key(&name) {
                        return Err(Wrong::new(format!("Several fragments are named \"{name}\"."), place));
                    }
                    document.fragments.insert(name, fragment);
                }
                other => {
                    return Err(Wrong::new("The document defines types, and is no request.", at(&other)));
                }
            }
        }
        Ok(document)
    }

    /// The operation that is asked for.
    ///
    /// # Errors
    /// There is none of that name, or nobody says which.
    pub fn operation(&self, name: Option<&str>) -> Result<&Operation, &'static str> {
        match name {
            Some(name) => {
                let mut named = self.operations.iter().filter(|operation| operation.name.as_deref() == Some(name));
                named.next().ok_or("There is no operation of that name.")
            }
            None => match self.operations.as_slice() {
                [one] => Ok(one),
                [] => Err("There is no operation in the document."),
                _ => Err("The document has several operations: say which with `operationName`."),
            },
        }
    }
}

fn operation(node: &cst::OperationDefinition) -> Result<Operation, Wrong> {
    let kind = match node.operation_type() {
        Some(kind) if kind.mutation_token().is_some() => Kind::Mutation,
        Some(kind) if kind.subscription_token().is_some() => Kind::Subscription,
        _ => Kind::Query,
    };
    let defined = node.variable_definitions().into_iter().flat_map(|all| all.variable_definitions());
    Ok(Operation {
        kind,
        name: text(node.name()),
        variables: defined.map(|one| variable(&one).ok_or_else(|| gap(&one))).collect::<Result<_, _>>()?,
        directives: directives(node.directives())?,
        set: set(node.selection_set().ok_or_else(|| gap(node))?)?,
        at: at(node),
    })
}

fn variable(node: &cst::VariableDefinition) -> Option<Variable> {
    Some(Variable {
        name: text(node.variable()?.name())?,
        ty: ty(&node.ty()?)?,
        default: match node.default_value() {
            Some(default) => Some(value(&default.value()?)?),
            None => None,
        },
        directives: directives(node.directives()).ok()?,
        at: at(node),
    })
}

fn fragment(node: &cst::FragmentDefinition) -> Option<(Box<str>, Result<Fragment, Wrong>)> {
    let name = text(node.fragment_name()?.name())?;
    let on = text(node.type_condition()?.named_type()?.name())?;
    let fragment = || {
        Ok(Fragment {
            on,
            directives: directives(node.directives())?,
            set: set(node.selection_set().ok_or_else(|| gap(node))?)?,
            at: at(node),
        })
    };
    Some((name, fragment()))
}

fn set(node: cst::SelectionSet) -> Result<Vec<Selection>, Wrong> {
    node.selections().map(|selection| self::selection(&selection)).collect()
}

fn selection(node: &cst::Selection) -> Result<Selection, Wrong> {
    Ok(match node {
        cst::Selection::Field(field) => Selection::Field(Field {
            alias: field.alias().and_then(|alias| text(alias.name())),
            name: text(field.name()).ok_or_else(|| gap(field))?,
            arguments: arguments(field.arguments())?,
            directives: directives(field.directives())?,
            set: field.selection_set().map(set).transpose()?.unwrap_or_default(),
            at: at(field),
        }),
        cst::Selection::FragmentSpread(spread) => Selection::Spread {
            name: spread.fragment_name().and_then(|name| text(name.name())).ok_or_else(|| gap(spread))?,
            directives: directives(spread.directives())?,
            at: at(spread),
        },
        cst::Selection::InlineFragment(inline) => Selection::Inline {
            on: inline.type_condition().and_then(|on| text(on.named_type()?.name())),
            directives: directives(inline.directives())?,
            set: set(inline.selection_set().ok_or_else(|| gap(inline))?)?,
            at: at(inline),
        },
    })
}

pub(super) fn directives(node: Option<cst::Directives>) -> Result<Vec<Directive>, Wrong> {
    let all = node.into_iter().flat_map(|all| all.directives());
    all.map(|one| {
        let name = text(one.name()).ok_or_else(|| gap(&one))?;
        Ok(Directive { name, arguments: arguments(one.arguments())?, at: at(&one) })
    })
    .collect()
}

fn arguments(node: Option<cst::Arguments>) -> Result<Vec<Argument>, Wrong> {
    let all = node.into_iter().flat_map(|all| all.arguments());
    all.map(|one| {
        let read = || Some(Argument { name: text(one.name())?, value: value(&one.value()?)?, at: at(&one) });
        read().ok_or_else(|| gap(&one))
    })
    .collect()
}

pub(super) fn ty(node: &cst::Type) -> Option<Type> {
    let list = |list: cst::ListType| Some(Type::List(Box::new(ty(&list.ty()?)?)));
    Some(match node {
        cst::Type::NamedType(named) => Type::Named(text(named.name())?),
        cst::Type::ListType(of) => list(of.clone())?,
        cst::Type::NonNullType(of) => Type::NonNull(Box::new(match (of.named_type(), of.list_type()) {
            (Some(named), _) => Type::Named(text(named.name())?),
            (None, of) => list(of?)?,
        })),
    })
}

pub(super) fn value(node: &cst::Value) -> Option<Value> {
    let source = |node: &dyn Fn() -> String| node().trim().into();
    Some(match node {
        cst::Value::Variable(variable) => Value::Variable(text(variable.name())?),
        cst::Value::IntValue(number) => Value::Int(source(&|| number.syntax().text().to_string())),
        cst::Value::FloatValue(number) => Value::Float(source(&|| number.syntax().text().to_string())),
        cst::Value::StringValue(string) => Value::String(string_of(string)?),
        cst::Value::BooleanValue(value) => Value::Boolean(value.true_token().is_some()),
        cst::Value::NullValue(_) => Value::Null,
        cst::Value::EnumValue(value) => Value::Enum(text(value.name())?),
        cst::Value::ListValue(list) => Value::List(list.values().map(|item| value(&item)).collect::<Option<_>>()?),
        cst::Value::ObjectValue(object) => {
            let member = |member: cst::ObjectField| Some((text(member.name())?, value(&member.value()?)?));
            Value::Object(object.object_fields().map(member).collect::<Option<_>>()?)
        }
    })
}

/// What a string says. `None` where an escape is none: the parser's own reader breaks on those.
pub(super) fn string_of(node: &cst::StringValue) -> Option<Box<str>> {
    let written = node.syntax().text().to_string();
    let written = written.trim();
    if written.starts_with("\"\"\"") {
        return Some(String::from(node).into());
    }
    let inner = written.strip_prefix('"')?.strip_suffix('"')?;
    let mut out = String::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        match letters.next()? {
            plain @ ('"' | '\\' | '/') => out.push(plain),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'u' => {
                let first = escaped(&mut letters)?;
                let code = if (0xd800..0xdc00).contains(&first) {
                    if (letters.next()?, letters.next()?) != ('\\', 'u') {
                        return None;
                    }
                    let second = escaped(&mut letters).filter(|second| (0xdc00..0xe000).contains(second))?;
                    0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                } else {
                    first
                };
                out.push(char::from_u32(code)?);
            }
            _ => return None,
        }
    }
    Some(out.into())
}

/// `0041`, or `{1F600}`.
fn escaped(letters: &mut std::str::Chars<'_>) -> Option<u32> {
    let mut digits = String::new();
    let mut ahead = letters.clone();
    if ahead.next()? == '{' {
        *letters = ahead;
        loop {
            match letters.next()? {
                '}' => break,
                digit if digits.len() < 8 => digits.push(digit),
                _ => return None,
            }
        }
    } else {
        digits.extend(letters.by_ref().take(4));
        (digits.len() == 4).then_some(())?;
    }
    (!digits.starts_with('+')).then(|| u32::from_str_radix(&digits, 16).ok())?
}
