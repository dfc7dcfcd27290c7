//! A value, held against a compiled schema.

use std::cmp::Ordering;
use std::hash::{BuildHasher, Hash, Hasher};

use ahash::{AHashMap, AHashSet};
use serde_json::{Map, Number, Value};
use smallvec::SmallVec;

use super::compile::escaped;
use super::{Broken, Direction, Logic, Node, Schema, Types, Violation, number};

/// The most schemas within one another that look at one value and what is in it: what is nested deeper is taken for broken.
const DEEPEST: u32 = 700;

/// The longest pointer that is told.
const LONGEST_POINTER: usize = 512;

/// Where a value stands.
enum Place<'a> {
    Root,
    Key(&'a Place<'a>, &'a str),
    /// A member whose name the schema does not have.
    Other(&'a Place<'a>, &'a str),
    Index(&'a Place<'a>, usize),
}

impl Place<'_> {
    fn write(&self, out: &mut String) {
        match self {
            Place::Root => {}
            Place::Key(above, key) | Place::Other(above, key) => {
                above.write(out);
                out.push('/');
                out.push_str(&escaped(key));
            }
            Place::Index(above, at) => {
                above.write(out);
                out.push('/');
                out.push_str(&at.to_string());
            }
        }
    }

    /// See [`Violation::place`].
    fn write_place(&self, out: &mut String) {
        match self {
            Place::Root => {}
            Place::Key(above, key) => {
                above.write_place(out);
                out.push('/');
                out.push_str(&escaped(key));
            }
            Place::Other(above, _) | Place::Index(above, _) => {
                above.write_place(out);
                out.push_str("/*");
            }
        }
    }
}

/// The resources that were entered, the last one first.
struct Scope<'a> {
    resource: u32,
    outer: Option<&'a Scope<'a>>,
}

/// What the schemas that a value was found to be as have looked at.
#[derive(Default)]
struct Seen<'v> {
    all_properties: bool,
    properties: AHashSet<&'v str>,
    all_items: bool,
    /// So many from the first on.
    items: usize,
    others: AHashSet<usize>,
}

impl<'v> Seen<'v> {
    fn merge(&mut self, other: Seen<'v>) {
        self.all_properties |= other.all_properties;
        self.properties.extend(other.properties);
        self.all_items |= other.all_items;
        self.items = self.items.max(other.items);
        self.others.extend(other.others);
    }

    fn item(&self, at: usize) -> bool {
        self.all_items || at < self.items || self.others.contains(&at)
    }
}

/// What came of a `discriminator`.
enum Chosen {
    Node(u32),
    /// None of them, which was said.
    None,
    /// The alternatives have to say it themselves.
    Open,
}

pub struct Check<'s> {
    schema: &'s Schema,
    /// What is left of them.
    steps: u64,
    most: usize,
    /// How many questions within one another are asked whose answer tells nothing but yes or no.
    quiet: u32,
    depth: u32,
    exhausted: bool,
    direction: Direction,
    broken: Broken,
}

impl<'s> Check<'s> {
    /// With no violation to tell, the answer is yes or no.
    pub fn new(schema: &'s Schema, steps: u64, most: usize) -> Self {
        let quiet = u32::from(most == 0);
        Check { schema, steps, most, quiet, depth: 0, exhausted: false, direction: Direction::Neither, broken: Broken::default() }
    }

    /// Holds what goes one way only against the way that this value goes.
    pub fn going(mut self, direction: Direction) -> Self {
        self.direction = if self.schema.one_way { direction } else { Direction::Neither };
        self
    }

    pub fn run(self, value: &Value) -> Option<Broken> {
        let root = self.schema.root;
        self.run_at(root, value)
    }

    pub fn run_at(mut self, root: u32, value: &Value) -> Option<Broken> {
        let valid = self.node(root, value, &Place::Root, None, None);
        if self.exhausted {
            let detail = "is more than is looked at: it takes too many steps to check".to_owned();
            self.broken.more = true;
            self.broken.violations.truncate(self.most.saturating_sub(1));
            self.broken.violations.push(Violation { keyword: "complexity", detail, ..Violation::default() });
        }
        (!valid || self.exhausted).then_some(self.broken)
    }

    /// Whether a value is valid against one of the schemas, and how many steps are left then; none where they did not suffice.
    pub fn asked(mut self, rule: u32, value: &Value) -> (bool, u64) {
        let valid = self.node(rule, value, &Place::Root, None, None);
        (valid, if self.exhausted { 0 } else { self.steps })
    }

    /// Whether nothing more has to be looked at, now that something was found to be wrong.
    fn is_done(&self) -> bool {
        self.quiet > 0 || self.exhausted || self.broken.violations.len() >= self.most
    }

    fn fail(&mut self, keyword: &'static str, at: &Place<'_>, detail: impl FnOnce() -> String) -> bool {
        if self.quiet == 0 {
            let (mut pointer, mut place) = (String::new(), String::new());
            at.write(&mut pointer);
            at.write_place(&mut place);
            for text in [&mut pointer, &mut place].into_iter().filter(|text| text.len() > LONGEST_POINTER) {
                let end = (0..=LONGEST_POINTER).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
                text.truncate(end);
            }
            self.broken.violations.push(Violation { pointer, place, keyword, detail: detail() });
            self.broken.more = self.broken.violations.len() >= self.most;
        }
        false
    }

    fn quietly(&mut self, ask: impl FnOnce(&mut Self) -> bool) -> bool {
        self.quiet += 1;
        let answer = ask(self);
        self.quiet -= 1;
        answer
    }

    fn node<'v>(
        &mut self,
        number: u32,
        value: &'v Value,
        at: &Place<'_>,
        scope: Option<&Scope<'_>>,
        seen: Option<&mut Seen<'v>>,
    ) -> bool {
        let Some(left) = self.steps.checked_sub(1).filter(|_| self.depth < DEEPEST) else {
            self.exhausted = true;
            return false;
        };
        self.steps = left;
        let schema = self.schema;
        let Some(node) = schema.nodes.get(number as usize) else { return true };
        if node.never {
            return self.fail("false", at, || "must not be there".to_owned());
        }
        self.depth += 1;
        let entered = Scope { resource: node.resource, outer: scope };
        let scope = match scope {
            _ if schema.dynamic.is_empty() => None,
            Some(outer) if outer.resource == node.resource => Some(outer),
            _ => Some(&entered),
        };
        let tracks = seen.is_some() || node.unevaluated_items.is_some() || node.unevaluated_properties.is_some();
        let mut own = tracks.then(Seen::default);
        let mut valid = self.plain(node, value, at);
        if valid || !self.is_done() {
            valid &= self.references(node, value, at, scope, own.as_mut());
        }
        if valid || !self.is_done() {
            valid &= self.parts(node, value, at, scope, own.as_mut());
        }
        if valid || !self.is_done() {
            valid &= self.logic(node, value, at, scope, own.as_mut());
        }
        if valid || !self.is_done() {
            valid &= self.unevaluated(node, value, at, scope, own.as_mut());
        }
        self.depth -= 1;
        if let (true, Some(seen), Some(own)) = (valid, seen, own) {
            seen.merge(own);
        }
        valid
    }

    /// What is said of the value alone, and not of what is in it.
    fn plain(&mut self, node: &Node, value: &Value, at: &Place<'_>) -> bool {
        let mut valid = true;
        if !node.types.is_any() && !is_of(node.types, value, node.strict_integers) {
            valid = self.fail("type", at, || format!("must be of the type {}", node.types.names()));
        }
        if let Some(options) = &node.options {
            let found = match value {
                Value::String(text) => options.strings.contains(text.as_str()),
                other => options.others.iter().any(|option| equal(option, other)),
            };
            if !found {
                valid = self.fail("enum", at, || {
                    let mut known: Vec<&str> = options.strings.iter().map(|text| &**text).collect();
                    known.sort_unstable();
                    let list = known.join(", ");
                    let short = options.others.is_empty() && list.len() <= 200;
                    if short { format!("must be one of: {list}") } else { "must be one of the values that are listed".to_owned() }
                });
            }
        }
        if let Some(constant) = &node.constant
            && !equal(constant, value)
        {
            valid = self.fail("const", at, || "must be the one value that is taken here".to_owned());
        }
        match value {
            Value::Number(number) if node.numbers.is_some() => valid &= self.numbers(node, number, at),
            Value::String(text) if node.strings.is_some() => valid &= self.strings(node, text, at),
            _ => {}
        }
        valid
    }

    fn numbers(&mut self, node: &Node, value: &Number, at: &Place<'_>) -> bool {
        let Some(rules) = &node.numbers else { return true };
        let mut valid = true;
        let out = |limit: &Option<Number>, wrong: &[Ordering]| {
            limit.clone().filter(|limit| wrong.contains(&number::compare(value, limit)))
        };
        if let Some(limit) = out(&rules.least, &[Ordering::Less]) {
            valid = self.fail("minimum", at, || format!("must be at least {limit}"));
        }
        if let Some(limit) = out(&rules.above, &[Ordering::Less, Ordering::Equal]) {
            valid = self.fail("exclusiveMinimum", at, || format!("must be more than {limit}"));
        }
        if let Some(limit) = out(&rules.most, &[Ordering::Greater]) {
            valid = self.fail("maximum", at, || format!("must be at most {limit}"));
        }
        if let Some(limit) = out(&rules.below, &[Ordering::Greater, Ordering::Equal]) {
            valid = self.fail("exclusiveMaximum", at, || format!("must be less than {limit}"));
        }
        if let Some(of) = rules.multiple_of.as_ref().filter(|of| !number::is_multiple(value, of)) {
            valid = self.fail("multipleOf", at, || format!("must be a multiple of {of}"));
        }
        valid
    }

    fn strings(&mut self, node: &Node, text: &str, at: &Place<'_>) -> bool {
        let Some(rules) = &node.strings else { return true };
        let mut valid = true;
        if rules.least > 0 || rules.most.is_some() {
            let length = text.chars().count() as u64;
            if length < rules.least {
                valid = self.fail("minLength", at, || format!("must have at least {} characters", rules.least));
            }
            if let Some(most) = rules.most.filter(|most| length > *most) {
                valid = self.fail("maxLength", at, || format!("must have at most {most} characters"));
            }
        }
        if rules.pattern.as_ref().is_some_and(|pattern| !pattern.is_match(text)) {
            valid = self.fail("pattern", at, || "must match the pattern".to_owned());
        }
        if let Some(format) = rules.format.filter(|format| !format.takes(text)) {
            valid = self.fail("format", at, || format!("must be in the format {}", format.name()));
        }
        valid
    }

    #[inline(never)]
    fn references<'v>(
        &mut self,
        node: &Node,
        value: &'v Value,
        at: &Place<'_>,
        scope: Option<&Scope<'_>>,
        mut seen: Option<&mut Seen<'v>>,
    ) -> bool {
        let mut valid = true;
        if let Some(target) = node.reference {
            valid = self.node(target, value, at, scope, seen.as_deref_mut());
        }
        if let Some((target, anchor)) = &node.dynamic
            && (valid || !self.is_done())
        {
            let mut target = *target;
            let mut outer = scope;
            while let Some(here) = outer {
                let found = self.schema.dynamic.iter().find(|(resource, name, _)| *resource == here.resource && name == anchor);
                target = found.map_or(target, |(.., node)| *node);
                outer = here.outer;
            }
            valid &= self.node(target, value, at, scope, seen);
        }
        valid
    }

    #[inline(never)]
    fn parts<'v>(
        &mut self,
        node: &Node,
        value: &'v Value,
        at: &Place<'_>,
        scope: Option<&Scope<'_>>,
        seen: Option<&mut Seen<'v>>,
    ) -> bool {
        match value {
            Value::Array(items) if node.arrays.is_some() => self.array(node, items, at, scope, seen),
            Value::Object(map) if node.objects.is_some() => self.object(node, value, map, at, scope, seen),
            _ => true,
        }
    }

    fn array<'v>(
        &mut self,
        node: &Node,
        items: &'v [Value],
        at: &Place<'_>,
        scope: Option<&Scope<'_>>,
        mut seen: Option<&mut Seen<'v>>,
    ) -> bool {
        let Some(rules) = &node.arrays else { return true };
        let mut valid = true;
        let length = items.len() as u64;
        if length < rules.least {
            valid = self.fail("minItems", at, || format!("must have at least {} elements", rules.least));
        }
        if let Some(most) = rules.most.filter(|most| length > *most) {
            valid = self.fail("maxItems", at, || format!("must have at most {most} elements"));
        }
        // Not of an array that is too long already: it is the dearest of all.
        if rules.unique && valid && !self.are_unique(items) {
            valid = self.fail("uniqueItems", at, || "must not have an element twice".to_owned());
        }
        let each = rules.prefix.iter().copied().map(Some).chain(std::iter::repeat(rules.items));
        for (number, (item, rule)) in items.iter().zip(each).enumerate() {
            if !valid && self.is_done() {
                return false;
            }
            let Some(rule) = rule else { break };
            valid &= self.node(rule, item, &Place::Index(at, number), scope, None);
        }
        if let Some(seen) = seen.as_deref_mut() {
            seen.items = seen.items.max(rules.prefix.len());
            seen.all_items |= rules.items.is_some();
        }
        if let Some(contains) = &rules.contains
            && (valid || !self.is_done())
        {
            let mut found = 0;
            for (number, item) in items.iter().enumerate() {
                if self.quietly(|check| check.node(contains.node, item, at, scope, None)) {
                    found += 1;
                    if let Some(seen) = seen.as_deref_mut().filter(|_| contains.evaluates) {
                        seen.others.insert(number);
                    }
                }
            }
            if found < contains.least {
                valid = self.fail("contains", at, || format!("must have at least {} elements of one kind", contains.least));
            }
            if let Some(most) = contains.most.filter(|most| found > *most) {
                valid = self.fail("maxContains", at, || format!("must have at most {most} elements of one kind"));
            }
        }
        valid
    }

    /// Whether no two are the same. Every value that is hashed is a step, and so is each that is compared.
    fn are_unique(&mut self, items: &[Value]) -> bool {
        if items.len() < 2 {
            return true;
        }
        let state = ahash::RandomState::new();
        let mut known: AHashMap<u64, SmallVec<[&Value; 1]>> = AHashMap::with_capacity(items.len());
        for item in items {
            let mut hasher = state.build_hasher();
            let values = hash(item, &state, &mut hasher);
            let like = known.entry(hasher.finish()).or_default();
            let cost = values.saturating_mul(1 + like.len() as u64);
            let Some(left) = self.steps.checked_sub(cost) else {
                // That is what is told then, and nothing of elements.
                self.steps = 0;
                self.exhausted = true;
                return true;
            };
            self.steps = left;
            if like.iter().any(|other| equal(item, other)) {
                return false;
            }
            like.push(item);
        }
        true
    }

    fn object<'v>(
        &mut self,
        node: &Node,
        value: &'v Value,
        map: &'v Map<String, Value>,
        at: &Place<'_>,
        scope: Option<&Scope<'_>>,
        mut seen: Option<&mut Seen<'v>>,
    ) -> bool {
        let Some(rules) = &node.objects else { return true };
        let mut valid = true;
        for name in rules.required.iter().filter(|name| !map.contains_key(&***name)) {
            if self.other_way(rules.properties.get(&**name).copied()).is_some() {
                continue;
            }
            valid = self.fail("required", at, || format!("must have the member `{name}`"));
        }
        let length = map.len() as u64;
        if length < rules.least {
            valid = self.fail("minProperties", at, || format!("must have at least {} members", rules.least));
        }
        if let Some(most) = rules.most.filter(|most| length > *most) {
            valid = self.fail("maxProperties", at, || format!("must have at most {most} members"));
        }
        for (name, needs) in rules.dependent_required.iter().filter(|(name, _)| map.contains_key(&**name)) {
            for need in needs.iter().filter(|need| !map.contains_key(&***need)) {
                valid = self.fail("dependentRequired", at, || format!("must have the member `{need}` beside `{name}`"));
            }
        }
        for (name, member) in map {
            if !valid && self.is_done() {
                return false;
            }
            let has_name = rules.properties.contains_key(name.as_str());
            let here = if has_name { Place::Key(at, name) } else { Place::Other(at, name) };
            let mut known = false;
            if let Some(rule) = rules.properties.get(name.as_str()) {
                known = true;
                valid &= match self.other_way(Some(*rule)) {
                    None => self.node(*rule, member, &here, scope, None),
                    Some("readOnly") => self.fail("readOnly", &here, || "is not taken from clients".to_owned()),
                    Some(keyword) => self.fail(keyword, &here, || "is not told to clients".to_owned()),
                };
            }
            for (pattern, rule) in &rules.patterns {
                if pattern.is_match(name) {
                    known = true;
                    valid &= self.node(*rule, member, &here, scope, None);
                }
            }
            if let Some(rule) = rules.additional.filter(|_| !known) {
                known = true;
                valid &= self.other("additionalProperties", rule, member, &here, scope);
            }
            if let Some(rule) = rules.names {
                let name = Value::String(name.clone());
                if !self.quietly(|check| check.node(rule, &name, at, scope, None)) {
                    valid = self.fail("propertyNames", &here, || "has a name that is not taken here".to_owned());
                }
            }
            if let Some(seen) = seen.as_deref_mut().filter(|_| known) {
                seen.properties.insert(name);
            }
        }
        for (_, rule) in rules.dependent_schemas.iter().filter(|(name, _)| map.contains_key(&**name)) {
            if !valid && self.is_done() {
                return false;
            }
            valid &= self.node(*rule, value, at, scope, seen.as_deref_mut());
        }
        valid
    }

    /// The keyword by which a member goes the other way than this value, if one does.
    fn other_way(&self, rule: Option<u32>) -> Option<&'static str> {
        match self.direction {
            Direction::Neither => None,
            Direction::ToService => self.schema.is_one_way(rule?, |node| node.read_only).then_some("readOnly"),
            Direction::ToClient => self.schema.is_one_way(rule?, |node| node.write_only).then_some("writeOnly"),
        }
    }

    /// Of what no other keyword has looked at. Where nothing of the kind is taken, the keyword says so.
    fn other(&mut self, keyword: &'static str, rule: u32, value: &Value, at: &Place<'_>, scope: Option<&Scope<'_>>) -> bool {
        if self.schema.nodes.get(rule as usize).is_some_and(|node| node.never) {
            return self.fail(keyword, at, || "is not taken here".to_owned());
        }
        self.node(rule, value, at, scope, None)
    }

    #[inline(never)]
    fn logic<'v>(
        &mut self,
        node: &Node,
        value: &'v Value,
        at: &Place<'_>,
        scope: Option<&Scope<'_>>,
        mut seen: Option<&mut Seen<'v>>,
    ) -> bool {
        let Some(logic) = &node.logic else { return true };
        let mut valid = true;
        for rule in &logic.all {
            valid &= self.node(*rule, value, at, scope, seen.as_deref_mut());
            if !valid && self.is_done() {
                return false;
            }
        }
        let chosen = self.chosen(logic, value, at);
        match chosen {
            Chosen::Node(rule) => valid &= self.node(rule, value, at, scope, seen.as_deref_mut()),
            Chosen::None => valid = false,
            Chosen::Open => {}
        }
        if !valid && self.is_done() {
            return false;
        }
        // The list that it is chosen of has been asked then, the other one has not.
        let asked = logic.choice.as_ref().filter(|_| !matches!(chosen, Chosen::Open)).map(|choice| choice.of_one);
        if !logic.any.is_empty() && asked != Some(false) {
            let mut found = false;
            for rule in &logic.any {
                found |= self.quietly(|check| check.node(*rule, value, at, scope, seen.as_deref_mut()));
                // The others may have looked at more.
                if found && seen.is_none() {
                    break;
                }
            }
            if !found {
                valid = self.fail("anyOf", at, || "must be as one of the alternatives".to_owned());
            }
        }
        if !logic.one.is_empty() && asked != Some(true) {
            let mut found = 0;
            for rule in &logic.one {
                found += u32::from(self.quietly(|check| check.node(*rule, value, at, scope, seen.as_deref_mut())));
                if found > 1 {
                    break;
                }
            }
            if found != 1 {
                let which = if found == 0 { "one" } else { "only one" };
                valid = self.fail("oneOf", at, || format!("must be as {which} of the alternatives"));
            }
        }
        if let Some(rule) = logic.not
            && self.quietly(|check| check.node(rule, value, at, scope, None))
        {
            valid = self.fail("not", at, || "must not be as it is".to_owned());
        }
        if let Some(condition) = logic.condition {
            let holds = self.quietly(|check| check.node(condition, value, at, scope, seen.as_deref_mut()));
            if let Some(rule) = if holds { logic.then } else { logic.otherwise }
                && (valid || !self.is_done())
            {
                valid &= self.node(rule, value, at, scope, seen);
            }
        }
        valid
    }

    /// Which of the alternatives a value says that it is.
    fn chosen(&mut self, logic: &Logic, value: &Value, at: &Place<'_>) -> Chosen {
        let (Some(choice), Value::Object(map)) = (&logic.choice, value) else { return Chosen::Open };
        match map.get(&*choice.property) {
            Some(said) => match said.as_str().and_then(|said| choice.by.get(said)) {
                Some(node) => Chosen::Node(*node),
                None if !choice.complete => Chosen::Open,
                None => {
                    self.fail("discriminator", &Place::Key(at, &choice.property), || {
                        let mut known: Vec<&str> = choice.by.keys().map(|name| &**name).collect();
                        known.sort_unstable();
                        let list = known.join(", ");
                        if list.len() <= 200 {
                            format!("must be one of: {list}")
                        } else {
                            "must name one of the kinds".to_owned()
                        }
                    });
                    Chosen::None
                }
            },
            None if !choice.complete => Chosen::Open,
            None => {
                self.fail("discriminator", at, || format!("must have the member `{}`", choice.property));
                Chosen::None
            }
        }
    }

    #[inline(never)]
    fn unevaluated<'v>(
        &mut self,
        node: &Node,
        value: &'v Value,
        at: &Place<'_>,
        scope: Option<&Scope<'_>>,
        seen: Option<&mut Seen<'v>>,
    ) -> bool {
        let Some(seen) = seen else { return true };
        let mut valid = true;
        if let (Some(rule), Value::Array(items)) = (node.unevaluated_items, value) {
            for (number, item) in items.iter().enumerate().filter(|(number, _)| !seen.item(*number)) {
                valid &= self.other("unevaluatedItems", rule, item, &Place::Index(at, number), scope);
                if !valid && self.is_done() {
                    return false;
                }
            }
            seen.all_items = true;
        }
        if let (Some(rule), Value::Object(map)) = (node.unevaluated_properties, value) {
            for (name, member) in map.iter().filter(|(name, _)| !seen.all_properties && !seen.properties.contains(name.as_str()))
            {
                valid &= self.other("unevaluatedProperties", rule, member, &Place::Other(at, name), scope);
                if !valid && self.is_done() {
                    return false;
                }
            }
            seen.all_properties = true;
        }
        valid
    }
}

fn is_of(types: Types, value: &Value, strict: bool) -> bool {
    match value {
        Value::Null => types.has(Types::NULL),
        Value::Bool(_) => types.has(Types::BOOLEAN),
        Value::Object(_) => types.has(Types::OBJECT),
        Value::Array(_) => types.has(Types::ARRAY),
        Value::String(_) => types.has(Types::STRING),
        Value::Number(number) => {
            let whole = || if strict { number.is_i64() || number.is_u64() } else { number::is_integer(number) };
            types.has(Types::NUMBER) || types.has(Types::INTEGER) && whole()
        }
    }
}

/// Whether two values are the same: 1 and 1.0 are, and members have no order.
pub fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => number::compare(one, other) == Ordering::Equal,
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| equal(value, other)))
        }
        _ => one == other,
    }
}

/// The same for values that are [`equal`], and for others hardly ever. So many values are in it.
fn hash(value: &Value, state: &ahash::RandomState, hasher: &mut impl Hasher) -> u64 {
    match value {
        Value::Null => {
            0u8.hash(hasher);
            1
        }
        Value::Bool(value) => {
            (1u8, value).hash(hasher);
            1
        }
        Value::Number(value) => {
            2u8.hash(hasher);
            number::hash(value, hasher);
            1
        }
        Value::String(text) => {
            (3u8, text).hash(hasher);
            1
        }
        Value::Array(items) => {
            // Where an array begins and ends is part of it: [[1], 2] is not [1, [2]].
            (4u8, items.len()).hash(hasher);
            items.iter().fold(1, |values, item| values + hash(item, state, hasher))
        }
        Value::Object(map) => {
            (5u8, map.len()).hash(hasher);
            let (mut values, mut members) = (1, 0u64);
            for (key, value) in map {
                let mut member = state.build_hasher();
                key.hash(&mut member);
                values += hash(value, state, &mut member);
                // Members have no order.
                members = members.wrapping_add(member.finish());
            }
            members.hash(hasher);
            values
        }
    }
}
