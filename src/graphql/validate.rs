//! Whether a document asks for what the schema has, in ways that the language allows (section 5).

use std::collections::{BTreeMap, BTreeSet};

use super::ast::{Argument, Directive, Document, Field, Kind as OperationKind, Operation, Selection, Type, Value, Variable};
use super::merge::Merging;
use super::schema::{InputValue, Kind, Schema};
use super::{Wrong, coerce};

/// The most that is said about one document.
const MOST_TOLD: usize = 20;

/// The most that one value of a document takes, with the defaults for what is left out in it, in bytes.
const LARGEST: usize = 16 << 20;

/// Says what is wrong with a document, every rule held against it, up to so many sentences.
pub fn validate(schema: &Schema, document: &Document) -> Vec<Wrong> {
    let mut checking = Checking { schema, document, wrong: Vec::new() };
    checking.document();
    if checking.wrong.is_empty() {
        let mut merging = Merging::new(schema, document);
        for operation in &document.operations {
            let Some(root) = root_of(schema, operation.kind) else { continue };
            checking.wrong.extend(merging.check(&[(root, &operation.set)]).err());
        }
    }
    checking.wrong.truncate(MOST_TOLD);
    checking.wrong
}

/// The type that an operation begins with.
pub fn root_of(schema: &Schema, kind: OperationKind) -> Option<&str> {
    match kind {
        OperationKind::Query => Some(&schema.query),
        OperationKind::Mutation => schema.mutation.as_deref(),
        OperationKind::Subscription => None,
    }
}

struct Checking<'a> {
    schema: &'a Schema,
    document: &'a Document,
    wrong: Vec<Wrong>,
}

/// A variable in use: its name, where, the type of the place, and whether that has a default.
struct Used<'a> {
    name: &'a str,
    at: u32,
    ty: Option<&'a Type>,
    has_default: bool,
}

/// What one set of selections, and all below it, uses.
#[derive(Default)]
struct Uses<'a> {
    variables: Vec<Used<'a>>,
    fragments: BTreeSet<&'a str>,
}

impl<'a> Checking<'a> {
    fn say(&mut self, message: impl Into<String>, at: u32) {
        if self.wrong.len() < MOST_TOLD {
            self.wrong.push(Wrong::new(message, at));
        }
    }

    fn document(&mut self) {
        let Checking { schema, document, .. } = *self;
        let mut names = BTreeSet::new();
        for operation in &document.operations {
            match &operation.name {
                Some(name) if !names.insert(name) => {
                    self.say(format!("Several operations are named \"{name}\"."), operation.at);
                }
                None if document.operations.len() > 1 => {
                    self.say("An operation without a name has to be the only one.", operation.at);
                }
                _ => {}
            }
        }
        let mut of_fragments = BTreeMap::new();
        for (name, fragment) in &document.fragments {
            let mut uses = Uses::default();
            if !schema.is_composite(&fragment.on) {
                self.say(format!("Fragment \"{name}\" is on \"{}\", which has no fields.", fragment.on), fragment.at);
            } else {
                self.directives(&fragment.directives, "FRAGMENT_DEFINITION", &mut uses);
                self.set(&fragment.on, &fragment.set, &mut uses);
            }
            of_fragments.insert(&**name, uses);
        }
        self.circles(&of_fragments);
        let mut spread = BTreeSet::new();
        for operation in &document.operations {
            let uses = self.operation(operation);
            // All that it comes to by way of fragments.
            let mut way: Vec<&str> = uses.fragments.iter().copied().collect();
            let mut reached = BTreeSet::new();
            while let Some(name) = way.pop() {
                if reached.insert(name) {
                    way.extend(of_fragments.get(name).into_iter().flat_map(|uses| uses.fragments.iter().copied()));
                }
            }
            spread.extend(reached.iter().copied());
            let within = reached.iter().filter_map(|name| of_fragments.get(name)).flat_map(|uses| &uses.variables);
            let used: Vec<&Used<'_>> = uses.variables.iter().chain(within).collect();
            self.variables(operation, &used);
        }
        for (name, fragment) in &document.fragments {
            if !spread.contains(&**name) {
                self.say(format!("Nothing uses the fragment \"{name}\"."), fragment.at);
            }
        }
    }

    fn operation(&mut self, operation: &'a Operation) -> Uses<'a> {
        let mut uses = Uses::default();
        let location = match operation.kind {
            OperationKind::Query => "QUERY",
            OperationKind::Mutation => "MUTATION",
            OperationKind::Subscription => "SUBSCRIPTION",
        };
        self.directives(&operation.directives, location, &mut uses);
        match root_of(self.schema, operation.kind) {
            Some(root) => self.set(root, &operation.set, &mut uses),
            None if operation.kind == OperationKind::Subscription => {
                self.say("Subscriptions cannot be had here.", operation.at);
            }
            None => self.say("The schema has no mutations.", operation.at),
        }
        uses
    }

    /// Says of a fragment that spreads itself, by whatever way. Each is looked at once.
    fn circles(&mut self, of: &BTreeMap<&'a str, Uses<'a>>) {
        let next = |name: &str| of.get(name).map(|uses| uses.fragments.iter().copied().collect::<Vec<_>>()).unwrap_or_default();
        let (mut done, mut open): (BTreeSet<&str>, BTreeSet<&str>) = Default::default();
        for start in of.keys().copied() {
            if done.contains(start) {
                continue;
            }
            open.insert(start);
            let mut way = vec![(start, next(start))];
            while let Some((name, rest)) = way.last_mut() {
                let Some(to) = rest.pop() else {
                    open.remove(name);
                    done.insert(name);
                    way.pop();
                    continue;
                };
                if open.contains(to) {
                    let at = self.document.fragments.get(to).map_or(0, |fragment| fragment.at);
                    return self.say(format!("Fragment \"{to}\" spreads itself."), at);
                }
                if !done.contains(to) {
                    open.insert(to);
                    way.push((to, next(to)));
                }
            }
        }
    }

    fn set(&mut self, parent: &'a str, set: &'a [Selection], uses: &mut Uses<'a>) {
        for selection in set {
            match selection {
                Selection::Field(field) => self.field(parent, field, uses),
                Selection::Inline { on, directives, set, at } => {
                    self.directives(directives, "INLINE_FRAGMENT", uses);
                    let on = on.as_deref().unwrap_or(parent);
                    if !self.schema.is_composite(on) {
                        self.say(format!("There is no type \"{on}\" that a fragment could be on."), *at);
                    } else {
                        self.can_be(parent, on, *at);
                        self.set(on, set, uses);
                    }
                }
                Selection::Spread { name, directives, at } => {
                    self.directives(directives, "FRAGMENT_SPREAD", uses);
                    match self.document.fragments.get(name) {
                        None => self.say(format!("There is no fragment \"{name}\"."), *at),
                        Some(fragment) => {
                            uses.fragments.insert(name);
                            self.can_be(parent, &fragment.on, *at);
                        }
                    }
                }
            }
        }
    }

    fn can_be(&mut self, parent: &str, on: &str, at: u32) {
        let (mine, theirs) = (self.schema.possible(parent), self.schema.possible(on));
        if !theirs.is_empty() && !mine.iter().any(|one| theirs.contains(one)) {
            self.say(format!("Nothing of the type \"{parent}\" can ever be of \"{on}\"."), at);
        }
    }

    fn field(&mut self, parent: &'a str, field: &'a Field, uses: &mut Uses<'a>) {
        self.directives(&field.directives, "FIELD", uses);
        let Some(def) = self.schema.field(parent, &field.name) else {
            self.say(format!("The type \"{parent}\" has no field \"{}\".", field.name), field.at);
            return;
        };
        self.arguments(&def.arguments, &field.arguments, &format!("field \"{}\"", field.name), field.at, uses);
        let within = def.ty.name();
        match (self.schema.is_composite(within), field.set.is_empty()) {
            (true, true) => {
                let message = format!("\"{}\" is of type \"{}\": say which of its fields are wanted.", field.name, def.ty);
                self.say(message, field.at);
            }
            (false, false) => {
                let message = format!("\"{}\" is of type \"{}\", which has no fields to choose from.", field.name, def.ty);
                self.say(message, field.at);
            }
            (true, false) => self.set(within, &field.set, uses),
            (false, true) => {}
        }
    }

    fn directives(&mut self, all: &'a [Directive], location: &str, uses: &mut Uses<'a>) {
        for (number, directive) in all.iter().enumerate() {
            let Some(def) = self.schema.directives.get(&directive.name) else {
                self.say(format!("There is no directive \"@{}\".", directive.name), directive.at);
                continue;
            };
            if !def.locations.iter().any(|known| **known == *location) {
                self.say(format!("Directive \"@{}\" cannot stand there.", directive.name), directive.at);
            }
            if !def.repeatable && all.iter().take(number).any(|other| other.name == directive.name) {
                self.say(format!("The directive \"@{}\" may stand there once.", directive.name), directive.at);
            }
            self.arguments(
                &def.arguments,
                &directive.arguments,
                &format!("directive \"@{}\"", directive.name),
                directive.at,
                uses,
            );
        }
    }

    fn arguments(&mut self, defined: &'a [InputValue], written: &'a [Argument], of: &str, at: u32, uses: &mut Uses<'a>) {
        for (number, argument) in written.iter().enumerate() {
            if written.iter().take(number).any(|other| other.name == argument.name) {
                self.say(format!("The argument \"{}\" is given more than once.", argument.name), argument.at);
            }
            match defined.iter().find(|input| input.name == argument.name) {
                None => self.say(format!("The {of} takes no argument \"{}\".", argument.name), argument.at),
                Some(input) => self.value(&input.ty, input.default.is_some(), &argument.value, argument.at, uses),
            }
        }
        for input in defined.iter().filter(|input| input.is_required()) {
            if !written.iter().any(|argument| argument.name == input.name) {
                self.say(format!("The {of} needs the argument \"{}\" of type \"{}\".", input.name, input.ty), at);
            }
        }
    }

    /// A value, and the variables in it.
    fn value(&mut self, ty: &'a Type, has_default: bool, value: &'a Value, at: u32, uses: &mut Uses<'a>) {
        let known = uses.variables.len();
        self.variables_in(Some(ty), has_default, value, at, uses);
        // What has variables in it is judged part by part.
        if uses.variables.len() == known
            && let Err(why) = coerce::constant(self.schema, ty, value, LARGEST)
        {
            self.say(format!("{}{why}.", if why.starts_with('`') { "" } else { "Value: " }), at);
        }
    }

    fn variables_in(&mut self, ty: Option<&'a Type>, has_default: bool, value: &'a Value, at: u32, uses: &mut Uses<'a>) {
        match value {
            Value::Variable(name) => uses.variables.push(Used { name, at, ty, has_default }),
            Value::List(items) => {
                let within = match ty.map(Type::nullable) {
                    Some(Type::List(within)) => Some(&**within),
                    _ => None,
                };
                items.iter().for_each(|item| self.variables_in(within, false, item, at, uses));
            }
            Value::Object(members) => {
                let fields = match ty.map(Type::nullable) {
                    Some(Type::Named(name)) => match self.schema.kind(name) {
                        Some(Kind::Input { fields }) => Some(fields.as_slice()),
                        _ => None,
                    },
                    // One is a list of one.
                    Some(Type::List(within)) => return self.variables_in(Some(within), false, value, at, uses),
                    _ => None,
                };
                for (name, member) in members {
                    let field = fields.and_then(|fields| fields.iter().find(|field| field.name == *name));
                    if fields.is_some() && field.is_none() {
                        self.say(format!("There is no field \"{name}\" there."), at);
                    }
                    self.variables_in(
                        field.map(|field| &field.ty),
                        field.is_some_and(|field| field.default.is_some()),
                        member,
                        at,
                        uses,
                    );
                }
            }
            _ => {}
        }
    }

    fn variables(&mut self, operation: &'a Operation, used: &[&Used<'a>]) {
        let mut defined: BTreeMap<&str, &Variable> = BTreeMap::new();
        for variable in &operation.variables {
            if defined.insert(&variable.name, variable).is_some() {
                self.say(format!("The variable \"${}\" is declared more than once.", variable.name), variable.at);
            }
            let mut uses = Uses::default();
            self.directives(&variable.directives, "VARIABLE_DEFINITION", &mut uses);
            if !self.schema.is_input(variable.ty.name()) {
                self.say(format!("Variable \"${}\" cannot be of the type \"{}\".", variable.name, variable.ty), variable.at);
            } else if let Some(default) = &variable.default
                && let Err(why) = coerce::constant(self.schema, &variable.ty, default, LARGEST)
            {
                self.say(format!("Variable \"${}\": {why}.", variable.name), variable.at);
            }
            if !used.iter().any(|used| *used.name == *variable.name) {
                self.say(format!("Nothing uses the variable \"${}\".", variable.name), variable.at);
            }
        }
        for used in used {
            let Some(variable) = defined.get(used.name) else {
                self.say(format!("The variable \"${}\" is not declared.", used.name), used.at);
                continue;
            };
            let Some(ty) = used.ty else { continue };
            let has_default = variable.default.as_ref().is_some_and(|default| *default != Value::Null) || used.has_default;
            let wanted = if has_default && !variable.ty.is_non_null() { ty.nullable() } else { ty };
            if !fits(&variable.ty, wanted) {
                let message = format!(
                    "The variable \"${}\" is of type \"{}\", and stands where \"{ty}\" is needed.",
                    used.name, variable.ty
                );
                self.say(message, used.at);
            }
        }
    }
}

/// Whether a variable of one type can stand where another is wanted.
fn fits(variable: &Type, wanted: &Type) -> bool {
    match (variable, wanted) {
        (Type::NonNull(variable), Type::NonNull(wanted)) => fits(variable, wanted),
        (_, Type::NonNull(_)) => false,
        (Type::NonNull(variable), wanted) => fits(variable, wanted),
        (Type::List(variable), Type::List(wanted)) => fits(variable, wanted),
        (Type::Named(variable), Type::Named(wanted)) => variable == wanted,
        _ => false,
    }
}
