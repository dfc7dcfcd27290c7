//! Whether fields that have one name in the answer can be one (section 5.3.2). Bounded: a document can be written so that it takes for ever.

use std::collections::BTreeSet;

use super::Wrong;
use super::ast::{Document, Field, Selection, Type};
use super::schema::Schema;

/// How many fields are looked at, all ways to them counted.
const MOST: usize = 50_000;
/// How deep they may stand in each other: it takes stack.
const DEEPEST: usize = 200;

fn too_complex() -> Wrong {
    Wrong { message: "The document is too complex.".to_owned(), at: Vec::new() }
}

pub(super) struct Merging<'a> {
    pub schema: &'a Schema,
    pub document: &'a Document,
    pub left: usize,
    level: usize,
}

/// A field, and the type whose field it is.
type Found<'a> = (&'a str, &'a Field);

impl<'a> Merging<'a> {
    pub(super) fn new(schema: &'a Schema, document: &'a Document) -> Self {
        Merging { schema, document, left: MOST, level: 0 }
    }

    /// Holds those in these sets against each other, and those within them.
    pub(super) fn check(&mut self, sets: &[(&'a str, &'a [Selection])]) -> Result<(), Wrong> {
        self.level += 1;
        if self.level > DEEPEST {
            return Err(too_complex());
        }
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        for (parent, set) in sets {
            self.collect(parent, set, &mut found, &mut seen)?;
        }
        let mut groups: Vec<(&str, Vec<Found<'a>>)> = Vec::new();
        let mut places = std::collections::HashMap::new();
        for (parent, field) in found {
            let place = *places.entry(field.key()).or_insert_with(|| {
                groups.push((field.key(), Vec::new()));
                groups.len() - 1
            });
            groups.get_mut(place).into_iter().for_each(|(_, group)| group.push((parent, field)));
        }
        for (key, group) in groups {
            for (number, (parent, field)) in group.iter().enumerate() {
                // Each is held against the first of its own type, and in its shape against the first of all.
                let objects = |one: &str, other: &str| one != other && self.schema.is_object(one) && self.schema.is_object(other);
                let earlier = group.iter().take(number);
                if let Some((_, other)) = earlier.clone().find(|(other, _)| !objects(parent, other))
                    && (other.name != field.name || !same_arguments(other, field))
                {
                    let message = format!(
                        "Two values would be called \"{key}\": they are not the same field with the same arguments. Give one of them an alias."
                    );
                    return Err(Wrong { message, at: vec![other.at, field.at] });
                }
                if let Some((other_parent, other)) = earlier.clone().next() {
                    let ty = |parent: &str, field: &Field| self.schema.field(parent, &field.name).map(|def| &def.ty);
                    if let (Some(one), Some(other_ty)) = (ty(parent, field), ty(other_parent, other))
                        && !self.same_shape(one, other_ty)
                    {
                        let message = format!(
                            "Two values would be called \"{key}\": one is `{one}`, the other `{other_ty}`. Give one of them an alias."
                        );
                        return Err(Wrong { message, at: vec![other.at, field.at] });
                    }
                }
            }
            let inner = |(parent, field): &Found<'a>| {
                let def = self.schema.field(parent, &field.name)?;
                (!field.set.is_empty()).then_some((def.ty.name(), field.set.as_slice()))
            };
            let sets: Vec<_> = group.iter().filter_map(inner).collect();
            if !sets.is_empty() {
                self.check(&sets)?;
            }
        }
        self.level -= 1;
        Ok(())
    }

    fn collect(
        &mut self,
        parent: &'a str,
        set: &'a [Selection],
        found: &mut Vec<Found<'a>>,
        seen: &mut BTreeSet<(&'a str, &'a str)>,
    ) -> Result<(), Wrong> {
        for selection in set {
            self.left = self.left.checked_sub(1).ok_or_else(too_complex)?;
            match selection {
                Selection::Field(field) => found.push((parent, field)),
                Selection::Inline { on, set, .. } => self.collect(on.as_deref().unwrap_or(parent), set, found, seen)?,
                Selection::Spread { name, .. } => {
                    let Some(fragment) = self.document.fragments.get(name) else { continue };
                    if seen.insert((name, &fragment.on)) {
                        self.collect(&fragment.on, &fragment.set, found, seen)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn same_shape(&self, one: &Type, other: &Type) -> bool {
        match (one, other) {
            (Type::NonNull(one), Type::NonNull(other)) | (Type::List(one), Type::List(other)) => self.same_shape(one, other),
            (Type::Named(one), Type::Named(other)) => {
                one == other || self.schema.is_composite(one) && self.schema.is_composite(other)
            }
            _ => false,
        }
    }
}

fn same_arguments(one: &Field, other: &Field) -> bool {
    let has = |name: &str| other.arguments.iter().find(|argument| *argument.name == *name).map(|argument| &argument.value);
    one.arguments.len() == other.arguments.len()
        && one.arguments.iter().all(|argument| has(&argument.name) == Some(&argument.value))
}
