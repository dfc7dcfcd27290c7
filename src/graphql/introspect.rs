//! What a schema says of itself (section 4). What stands for a type, a field and so on is a value of JSON that names it, so that whoever
//! executes a document needs to know nothing of it: it asks for the fields of these values here.

use serde_json::{Map, Value as Json, json};

use super::ast::Type;
use super::schema::{DirectiveDef, EnumValue, FieldDef, InputValue, Kind, Schema};

/// A field of the root of queries: `__schema`, or `__type`.
pub fn root(schema: &Schema, field: &str, arguments: &Map<String, Json>) -> Json {
    match field {
        "__schema" => json!({}),
        _ => {
            let name = arguments.get("name").and_then(Json::as_str).unwrap_or_default();
            if schema.types.contains_key(name) { name.into() } else { Json::Null }
        }
    }
}

/// A field of something that describes the schema; `of` is what stands for it, `parent` its type (`__Type` ...).
pub fn field(schema: &Schema, parent: &str, of: &Json, field: &str, arguments: &Map<String, Json>) -> Json {
    let all = arguments.get("includeDeprecated").and_then(Json::as_bool).unwrap_or(false);
    let found = match parent {
        "__Schema" => of_schema(schema, field),
        "__Type" => of.as_str().and_then(Type::parse).and_then(|ty| of_type(schema, &ty, field, all)),
        "__Field" => named(schema, of).and_then(|found| found.tell(of, field, all)),
        "__InputValue" => named(schema, of).and_then(|found| found.tell(of, field, all)),
        "__EnumValue" => named(schema, of).and_then(|found| found.tell(of, field, all)),
        _ => of.as_str().and_then(|name| of_directive(schema.directives.get(name)?, name, field, all)),
    };
    found.unwrap_or_default()
}

fn text(text: Option<&str>) -> Json {
    text.map_or(Json::Null, Json::from)
}

fn of_schema(schema: &Schema, field: &str) -> Option<Json> {
    Some(match field {
        "description" => text(schema.description.as_deref()),
        "types" => schema.order.iter().map(|name| Json::from(&**name)).collect(),
        "queryType" => (&*schema.query).into(),
        "mutationType" => text(schema.mutation.as_deref()),
        "directives" => schema.directives.keys().map(|name| Json::from(&**name)).collect(),
        _ => return None,
    })
}

fn of_type(schema: &Schema, ty: &Type, field: &str, all: bool) -> Option<Json> {
    let name = match ty {
        Type::List(within) | Type::NonNull(within) => {
            let kind = if ty.is_non_null() { "NON_NULL" } else { "LIST" };
            return match field {
                "kind" => Some(kind.into()),
                "ofType" => Some(within.to_string().into()),
                _ => None,
            };
        }
        Type::Named(name) => name,
    };
    let def = schema.types.get(name)?;
    let names = |names: &[Box<str>]| names.iter().map(|name| Json::from(&**name)).collect::<Json>();
    let inside = |what: &str, member: &str| json!({ "type": name, what: member });
    match (field, &def.kind) {
        ("name", _) => Some((&**name).into()),
        ("description", _) => Some(text(def.description.as_deref())),
        ("kind", kind) => Some(
            match kind {
                Kind::Scalar { .. } => "SCALAR",
                Kind::Object { .. } => "OBJECT",
                Kind::Interface { .. } => "INTERFACE",
                Kind::Union { .. } => "UNION",
                Kind::Enum { .. } => "ENUM",
                Kind::Input { .. } => "INPUT_OBJECT",
            }
            .into(),
        ),
        ("specifiedByURL", Kind::Scalar { specified_by }) => Some(text(specified_by.as_deref())),
        ("fields", Kind::Object { fields, .. } | Kind::Interface { fields, .. }) => Some(
            fields.iter().filter(|field| all || field.deprecated.is_none()).map(|field| inside("field", &field.name)).collect(),
        ),
        ("interfaces", Kind::Object { interfaces, .. } | Kind::Interface { interfaces, .. }) => Some(names(interfaces)),
        ("possibleTypes", Kind::Interface { .. } | Kind::Union { .. }) => {
            Some(schema.possible(name).into_iter().map(Json::from).collect())
        }
        ("enumValues", Kind::Enum { values }) => Some(
            values.iter().filter(|value| all || value.deprecated.is_none()).map(|value| inside("value", &value.name)).collect(),
        ),
        ("inputFields", Kind::Input { fields }) => Some(
            fields.iter().filter(|field| all || field.deprecated.is_none()).map(|field| inside("input", &field.name)).collect(),
        ),
        ("isOneOf", Kind::Input { .. }) => Some(false.into()),
        _ => None,
    }
}

/// What a value of JSON names.
enum Found<'a> {
    Field(&'a FieldDef),
    Input(&'a InputValue),
    Value(&'a EnumValue),
}

fn named<'a>(schema: &'a Schema, of: &Json) -> Option<Found<'a>> {
    let of = |key: &str| of.get(key).and_then(Json::as_str);
    let input = |list: &'a [InputValue], name: &str| list.iter().find(|input| *input.name == *name).map(Found::Input);
    if let Some(directive) = of("directive") {
        return input(&schema.directives.get(directive)?.arguments, of("argument")?);
    }
    let name = of("type")?;
    match schema.kind(name)? {
        Kind::Enum { values } => values.iter().find(|value| Some(&*value.name) == of("value")).map(Found::Value),
        Kind::Input { fields } => input(fields, of("input")?),
        _ => {
            let field = schema.fields(name)?.iter().find(|field| Some(&*field.name) == of("field"))?;
            match of("argument") {
                Some(argument) => input(&field.arguments, argument),
                None => Some(Found::Field(field)),
            }
        }
    }
}

impl Found<'_> {
    fn tell(&self, of: &Json, field: &str, all: bool) -> Option<Json> {
        let (name, description, deprecated) = match self {
            Found::Field(FieldDef { name, description, deprecated, .. })
            | Found::Input(InputValue { name, description, deprecated, .. })
            | Found::Value(EnumValue { name, description, deprecated }) => (name, description, deprecated),
        };
        Some(match (field, self) {
            ("name", _) => (&**name).into(),
            ("description", _) => text(description.as_deref()),
            ("isDeprecated", _) => deprecated.is_some().into(),
            ("deprecationReason", _) => text(deprecated.as_deref()),
            ("type", Found::Field(def)) => def.ty.to_string().into(),
            ("type", Found::Input(def)) => def.ty.to_string().into(),
            ("defaultValue", Found::Input(def)) => def.default.as_ref().map_or(Json::Null, |default| default.to_string().into()),
            ("args", Found::Field(def)) => arguments(&def.arguments, of, all),
            _ => return None,
        })
    }
}

/// Arguments of what `of` names.
fn arguments(list: &[InputValue], of: &Json, all: bool) -> Json {
    let one = |argument: &InputValue| {
        let mut of = of.clone();
        if let Some(of) = of.as_object_mut() {
            of.insert("argument".to_owned(), (&*argument.name).into());
        }
        of
    };
    list.iter().filter(|argument| all || argument.deprecated.is_none()).map(one).collect()
}

fn of_directive(def: &DirectiveDef, name: &str, field: &str, all: bool) -> Option<Json> {
    Some(match field {
        "name" => name.into(),
        "description" => text(def.description.as_deref()),
        "isRepeatable" => def.repeatable.into(),
        "locations" => def.locations.iter().map(|location| Json::from(&**location)).collect(),
        "args" => arguments(&def.arguments, &json!({ "directive": name }), all),
        _ => return None,
    })
}
