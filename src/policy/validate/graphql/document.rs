//! What a document of GraphQL asks for, without a schema: how deep, how much, and what that costs. A fragment counts wherever it is spread.
//!
//! Each fragment is looked at twice at most, however often and in however many operations it is spread, and every number is bounded by the document's tokens, or saturates: what a
//! client writes takes time and memory in the measure of its length.

use std::collections::HashMap;

use apollo_parser::cst::{
    CstNode, Definition, Document, Field, FragmentDefinition, OperationDefinition, Selection, SelectionSet, Value,
};
use apollo_parser::{Lexer, Parser, TokenKind};
use serde_json::Map;

/// How deep a document may be nested, fragments in fragments included, whatever the route allows: it takes stack.
pub const DEEPEST: usize = 200;
/// The longest token but a comment, in bytes: the parser copies the one at which it fails for every level that it comes up from.
const LONGEST_TOKEN: usize = 16 * 1024;
/// The longest name of an operation that is told, in bytes.
const LONGEST_NAME: usize = 64;

/// What a document does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Query,
    Mutation,
    Subscription,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Query, Kind::Mutation, Kind::Subscription];

    pub fn word(self) -> &'static str {
        match self {
            Kind::Query => "query",
            Kind::Mutation => "mutation",
            Kind::Subscription => "subscription",
        }
    }
}

/// What fields cost.
#[derive(Debug, Default)]
pub struct Weights {
    /// What a field costs that has fields of its own.
    pub default: u64,
    /// What fields of these names cost.
    pub fields: HashMap<Box<str>, u64>,
    /// Arguments that say how many there will be.
    pub lists: Box<[Box<str>]>,
    /// The most that they are believed, and what is taken for a number that cannot be told.
    pub longest: u64,
}

/// Of one document.
#[derive(Debug, PartialEq, Eq)]
pub struct Measured {
    /// Of the operation that is asked for.
    pub kind: Kind,
    pub name: Option<String>,
    pub cost: u64,
    /// The most of any operation in it, but for the cost, which is that of the one.
    pub sum: Sum,
}

/// Of a set of fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    pub depth: u32,
    pub aliases: u32,
    /// Those of the set itself.
    pub fields: u32,
    pub directives: u32,
    pub cost: u64,
    /// It asks for the schema.
    pub introspects: bool,
}

/// Why a document is refused whatever the route allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    Syntax,
    TooManyTokens,
    TooDeep,
    /// It defines types.
    Schema,
    /// A fragment spreads itself, by whatever way.
    Circle,
    /// A fragment is there twice, or not at all.
    Fragment,
    /// There is no such operation, or nobody says which.
    Operation,
}

/// Reads a document of so many tokens at most.
///
/// # Errors
/// What is wrong with it.
pub fn measure(
    text: &str,
    tokens: usize,
    operation: Option<&str>,
    variables: Option<&Map<String, serde_json::Value>>,
    weights: &Weights,
) -> Result<Measured, Wrong> {
    for token in Lexer::new(text).with_limit(tokens) {
        match token {
            Ok(token) if token.data().len() <= LONGEST_TOKEN => {}
            // The parser steps over these.
            Ok(token) if matches!(token.kind(), TokenKind::Comment | TokenKind::Whitespace | TokenKind::Comma) => {}
            Ok(_) => return Err(Wrong::TooManyTokens),
            Err(error) if error.is_limit() => return Err(Wrong::TooManyTokens),
            Err(_) => return Err(Wrong::Syntax),
        }
    }
    let tree = Parser::new(text).recursion_limit(DEEPEST).token_limit(tokens).parse();
    if let Some(error) = tree.errors().next() {
        let limit = tree.token_limit();
        return Err(match error.is_limit() {
            true if limit.high > limit.limit => Wrong::TooManyTokens,
            true => Wrong::TooDeep,
            false => Wrong::Syntax,
        });
    }
    read(&tree.document(), operation, variables, weights)
}

fn read(
    document: &Document,
    operation: Option<&str>,
    variables: Option<&Map<String, serde_json::Value>>,
    weights: &Weights,
) -> Result<Measured, Wrong> {
    let mut fragments = HashMap::new();
    let mut operations = Vec::new();
    for definition in document.definitions() {
        match definition {
            Definition::OperationDefinition(definition) => operations.push(definition),
            Definition::FragmentDefinition(definition) => {
                let name = definition.fragment_name().and_then(|name| name.name()).ok_or(Wrong::Syntax)?;
                let name: String = name.text().as_ref().to_owned();
                if fragments.insert(name, definition).is_some() {
                    return Err(Wrong::Fragment);
                }
            }
            _ => return Err(Wrong::Schema),
        }
    }
    let asked = match operation {
        None => None,
        Some(asked) => {
            let mut named = (0..).zip(&operations).filter(|(_, known)| name_of(known).as_deref() == Some(asked));
            let (number, _) = named.next().ok_or(Wrong::Operation)?;
            if named.next().is_some() {
                return Err(Wrong::Operation);
            }
            Some(number)
        }
    };
    if asked.is_none() && operations.len() != 1 {
        return Err(Wrong::Operation);
    }
    let asked = asked.unwrap_or(0);
    let mut measured = None;
    let mut most = Sum::default();
    // What a fragment costs may be another for each operation's variables, and all else of it may not: what the one costs that is asked for
    // is told, and whatever else is in the document is looked at together, so that each fragment is looked at twice at most.
    let others = Known { fragments: &fragments, variables, defaults: HashMap::new(), weights };
    let mut others = Counting { known: &others, done: HashMap::new(), level: 0 };
    for (number, operation) in operations.iter().enumerate() {
        let set = operation.selection_set().ok_or(Wrong::Syntax)?;
        let mut sum = if number == asked {
            let known = Known { fragments: &fragments, variables, defaults: defaults_of(operation), weights };
            Counting { known: &known, done: HashMap::new(), level: 0 }.set(&set)?
        } else {
            others.set(&set)?
        };
        sum.directives = sum.directives.saturating_add(directives(operation.directives()));
        let defined = operation.variable_definitions().into_iter().flat_map(|all| all.variable_definitions());
        sum.directives = defined.fold(sum.directives, |sum, one| sum.saturating_add(directives(one.directives())));
        if number == asked {
            measured = Some((kind_of(operation), name_of(operation), sum.cost));
        }
        most = Sum {
            depth: most.depth.max(sum.depth),
            aliases: most.aliases.max(sum.aliases),
            fields: most.fields.max(sum.fields),
            directives: most.directives.max(sum.directives),
            cost: if number == asked { sum.cost } else { most.cost },
            introspects: most.introspects || sum.introspects,
        };
    }
    // What nobody spreads is read by the service all the same.
    for name in fragments.keys() {
        others.fragment(name)?;
    }
    let (kind, mut name, cost) = measured.ok_or(Wrong::Operation)?;
    // Names are ASCII.
    name.iter_mut().for_each(|name| name.truncate(LONGEST_NAME));
    Ok(Measured { kind, name, cost, sum: most })
}

fn kind_of(operation: &OperationDefinition) -> Kind {
    match operation.operation_type() {
        Some(kind) if kind.mutation_token().is_some() => Kind::Mutation,
        Some(kind) if kind.subscription_token().is_some() => Kind::Subscription,
        _ => Kind::Query,
    }
}

fn name_of(operation: &OperationDefinition) -> Option<String> {
    operation.name().map(|name| name.text().as_ref().to_owned())
}

fn directives(all: Option<apollo_parser::cst::Directives>) -> u32 {
    all.map_or(0, |all| u32::try_from(all.directives().count()).unwrap_or(u32::MAX))
}

/// Whole numbers that variables have where the request does not say them.
fn defaults_of(operation: &OperationDefinition) -> HashMap<String, Option<u64>> {
    let defined = operation.variable_definitions().into_iter().flat_map(|all| all.variable_definitions());
    let default = |one: apollo_parser::cst::VariableDefinition| {
        let name = one.variable()?.name()?.text().as_ref().to_owned();
        Some((name, one.default_value()?.value().and_then(|value| literal(&value))))
    };
    defined.filter_map(default).collect()
}

/// A whole number that is written out.
fn literal(value: &Value) -> Option<u64> {
    match value {
        Value::IntValue(number) => number.syntax().text().to_string().trim().parse().ok(),
        _ => None,
    }
}

struct Known<'a> {
    fragments: &'a HashMap<String, FragmentDefinition>,
    variables: Option<&'a Map<String, serde_json::Value>>,
    defaults: HashMap<String, Option<u64>>,
    weights: &'a Weights,
}

struct Counting<'a> {
    known: &'a Known<'a>,
    /// What fragments come to; nothing yet of those that are being looked at.
    done: HashMap<String, Option<Sum>>,
    level: usize,
}

impl Counting<'_> {
    fn set(&mut self, set: &SelectionSet) -> Result<Sum, Wrong> {
        self.level += 1;
        if self.level > DEEPEST {
            return Err(Wrong::TooDeep);
        }
        let mut sum = Sum::default();
        for selection in set.selections() {
            match selection {
                Selection::Field(field) => sum.beside(self.field(&field)?),
                Selection::FragmentSpread(spread) => {
                    let name = spread.fragment_name().and_then(|name| name.name()).ok_or(Wrong::Syntax)?;
                    sum.beside(self.fragment(name.text().as_ref())?);
                    sum.directives = sum.directives.saturating_add(directives(spread.directives()));
                }
                Selection::InlineFragment(inline) => {
                    sum.beside(self.set(&inline.selection_set().ok_or(Wrong::Syntax)?)?);
                    sum.directives = sum.directives.saturating_add(directives(inline.directives()));
                }
            }
        }
        self.level -= 1;
        Ok(sum)
    }

    fn field(&mut self, field: &Field) -> Result<Sum, Wrong> {
        let name = field.name().ok_or(Wrong::Syntax)?;
        let name = name.text();
        let name: &str = name.as_ref();
        let within = field.selection_set().map(|set| self.set(&set)).transpose()?;
        let weights = self.known.weights;
        let weight = weights.fields.get(name).copied().unwrap_or(if within.is_some() { weights.default } else { 0 });
        let within = within.unwrap_or_default();
        let many = if weights.lists.is_empty() { 1 } else { self.known.many(field) };
        Ok(Sum {
            depth: within.depth.saturating_add(1),
            aliases: within.aliases.saturating_add(u32::from(field.alias().is_some())),
            fields: 1,
            directives: within.directives.saturating_add(directives(field.directives())),
            cost: weight.saturating_add(within.cost).saturating_mul(many),
            introspects: within.introspects || matches!(name, "__schema" | "__type"),
        })
    }

    fn fragment(&mut self, name: &str) -> Result<Sum, Wrong> {
        match self.done.get(name) {
            Some(Some(sum)) => return Ok(*sum),
            Some(None) => return Err(Wrong::Circle),
            None => {}
        }
        let definition = self.known.fragments.get(name).ok_or(Wrong::Fragment)?;
        self.done.insert(name.to_owned(), None);
        let mut sum = self.set(&definition.selection_set().ok_or(Wrong::Syntax)?)?;
        sum.directives = sum.directives.saturating_add(directives(definition.directives()));
        self.done.insert(name.to_owned(), Some(sum));
        Ok(sum)
    }
}

impl Known<'_> {
    /// How many there will be of a field, as far as its arguments say.
    fn many(&self, field: &Field) -> u64 {
        let arguments = field.arguments().into_iter().flat_map(|all| all.arguments());
        let said = arguments.filter_map(|argument| {
            let name = argument.name()?;
            let name = name.text();
            let name: &str = name.as_ref();
            self.weights.lists.iter().any(|known| **known == *name).then(|| argument.value())?
        });
        let number = |value: Value| match &value {
            Value::Variable(variable) => {
                let name = variable.name()?;
                let name = name.text();
                let name: &str = name.as_ref();
                match self.variables.and_then(|all| all.get(name)) {
                    // Some give all there is for null.
                    Some(value) => Some(value.as_u64().unwrap_or(u64::MAX)),
                    // One that nobody gives is not there.
                    None => self.defaults.get(name).map(|default| default.unwrap_or(u64::MAX)),
                }
            }
            value => Some(literal(value).unwrap_or(u64::MAX)),
        };
        said.filter_map(number).max().unwrap_or(1).min(self.weights.longest).max(1)
    }
}

impl Sum {
    fn beside(&mut self, other: Sum) {
        self.depth = self.depth.max(other.depth);
        self.aliases = self.aliases.saturating_add(other.aliases);
        self.fields = self.fields.saturating_add(other.fields);
        self.directives = self.directives.saturating_add(other.directives);
        self.cost = self.cost.saturating_add(other.cost);
        self.introspects |= other.introspects;
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn weights() -> Weights {
        let fields = [("search".into(), 10), ("price".into(), 2)].into_iter().collect();
        Weights { default: 1, fields, lists: Box::new(["first".into(), "last".into()]), longest: 100 }
    }

    fn of(text: &str, operation: Option<&str>, variables: serde_json::Value) -> Result<Measured, Wrong> {
        measure(text, 10_000, operation, variables.as_object(), &weights())
    }

    fn sum(text: &str) -> Sum {
        of(text, None, serde_json::Value::Null).unwrap_or_else(|wrong| panic!("{wrong:?}: {text}")).sum
    }

    #[test]
    fn what_is_asked_for_is_counted_where_it_is_spread() {
        let all = sum("{ a b: a @x { c { d } ...f ... on T @y { e: d } } ...f } fragment f on T @z { g h: g { i } }");
        assert_eq!((all.depth, all.aliases, all.fields, all.directives), (3, 4, 4, 4));
        assert_eq!(sum("query ($a: Int = 1 @x) @y { a }").directives, 2);
        assert!(sum("{ ...f } fragment f on Query { __schema { types { name } } }").introspects);
        assert!(sum("{ x: __type(name: \"T\") { name } }").introspects && !sum("{ a { __typename } }").introspects);
    }

    #[test]
    fn lists_are_multiplied_and_nothing_overflows() {
        let cost =
            |text: &str| of(text, None, serde_json::json!({ "n": 7, "big": 1_000_000, "bad": -1, "no": null })).unwrap().cost;
        for (text, expected) in [
            ("{ a }", 0),
            ("{ a { b } }", 1),
            ("{ search { price } }", 12),
            ("{ a(first: 5) { b { c } price } }", 5 * (1 + 1 + 2)),
            ("query ($n: Int) { a(first: $n) { b } }", 7),
            ("query ($n: Int, $m: Int = 3) { a(first: $m) { b } }", 3),
            ("query ($m: Int) { a(first: $m) { b } }", 1),
            ("query ($no: Int) { a(first: $no) { b } }", 100),
            ("query ($big: Int) { a(last: $big) { b } }", 100),
            ("query ($bad: Int) { a(last: $bad) { b } }", 100),
            ("{ a(first: -1) { b } }", 100),
            ("{ a(first: 0) { b } }", 1),
            ("{ a(first: 2, last: 9) { b } }", 9),
            ("{ ...f ...f } fragment f on Q { a(first: 2) { b } }", 4),
        ] {
            assert_eq!(cost(text), expected, "{text}");
        }
        let deep = (0..60).fold("x".to_owned(), |inner, _| format!("a(first: 100) {{ {inner} }}"));
        assert_eq!(cost(&format!("{{ {deep} }}")), u64::MAX);
        // Each spreads the next one twice: what it comes to is more than anybody can count one by one.
        let mut bomb = "{ ...f0 }".to_owned();
        for number in 0..100 {
            let _ = write!(bomb, " fragment f{number} on T {{ ...f{next} ...f{next} }}", next = number + 1);
        }
        let all = sum(&(bomb + " fragment f100 on T { x: a { b } }"));
        assert_eq!((all.fields, all.aliases, all.cost), (u32::MAX, u32::MAX, u64::MAX));
    }

    #[test]
    fn the_operation_that_is_asked_for_is_told() {
        let text = "query A { a } mutation Be { b { c } } subscription { d }";
        let told = |operation| of(text, operation, serde_json::Value::Null).map(|all| (all.kind, all.name, all.cost));
        assert_eq!(told(Some("Be")), Ok((Kind::Mutation, Some("Be".to_owned()), 1)));
        assert_eq!(told(Some("A")), Ok((Kind::Query, Some("A".to_owned()), 0)));
        assert_eq!((told(None), told(Some("C"))), (Err(Wrong::Operation), Err(Wrong::Operation)));
        assert_eq!(of("query A { a } query A { b }", Some("A"), serde_json::Value::Null), Err(Wrong::Operation));
        let long = format!("query {} {{ a }}", "x".repeat(500));
        assert_eq!(of(&long, None, serde_json::Value::Null).unwrap().name.unwrap().len(), LONGEST_NAME);
    }

    #[test]
    fn an_operation_costs_what_its_own_variables_say() {
        let text = "query A($n: Int = 3) { ...f } query B($n: Int = 50) { ...f } fragment f on Q { a(first: $n) { b } }";
        let cost = |operation| of(text, Some(operation), serde_json::Value::Null).unwrap().cost;
        assert_eq!((cost("A"), cost("B")), (3, 50));
        // What the others do is counted all the same.
        let deep = of("query A { a } query B { b { c { d } } }", Some("A"), serde_json::Value::Null).unwrap();
        assert_eq!((deep.sum.depth, deep.cost), (3, 0));
    }

    #[test]
    fn what_nobody_should_read_is_refused() {
        for (text, wrong) in [
            ("", Wrong::Syntax),
            ("{", Wrong::Syntax),
            ("{ a", Wrong::Syntax),
            ("{}", Wrong::Syntax),
            ("query", Wrong::Syntax),
            ("{ a } garbage", Wrong::Syntax),
            ("{ a(x: ) }", Wrong::Syntax),
            ("{ a(x: \"open) }", Wrong::Syntax),
            ("fragment f on T { a }", Wrong::Operation),
            ("{ a } type T { a: Int }", Wrong::Schema),
            ("{ a } extend schema { query: Q }", Wrong::Schema),
            ("{ ...f } fragment f on T { ...f }", Wrong::Circle),
            ("{ ...f } fragment f on T { a { ...g } } fragment g on T { b { ...f } }", Wrong::Circle),
            ("{ a } fragment f on T { ...g } fragment g on T { ...f }", Wrong::Circle),
            ("{ ...f }", Wrong::Fragment),
            ("{ ...f } fragment f on T { a } fragment f on T { b }", Wrong::Fragment),
        ] {
            assert_eq!(of(text, None, serde_json::Value::Null), Err(wrong), "{text}");
        }
    }

    /// Documents that are made to take time, stack or memory are refused, or read, at once.
    #[test]
    fn documents_that_are_meant_as_attacks_are_cheap() {
        let began = std::time::Instant::now();
        let (many, deep) = (100_000, 10_000);
        let chain: String = (0..3000).map(|number| format!("fragment f{number} on T {{ ...f{} }} ", number + 1)).collect();
        for text in [
            "{ a ".repeat(deep),
            "{ a ".repeat(deep) + &"}".repeat(deep),
            format!("{{ a(x: {}1{}) }}", "[".repeat(deep), "]".repeat(deep)),
            format!("{{ a(x: {}1{}) }}", "{a:".repeat(deep), "}".repeat(deep)),
            format!("query ($a: {}Int{}) {{ a }}", "[".repeat(deep), "]".repeat(deep)),
            format!("{{ {} }}", "a ".repeat(many)),
            format!("{{ a {} }}", "@x ".repeat(many)),
            format!("{{ a({}) }}", "x: 1 ".repeat(many)),
            format!("{{ a(x: [{}]) }}", "1 ".repeat(many)),
            format!("{{ a(x: {{{}}}) }}", "a: 1 ".repeat(many)),
            format!("query ({}) {{ a }}", "$a: Int ".repeat(many)),
            "query A { a } ".repeat(many),
            format!("{{ {} a }}", "#\n".repeat(many)),
            format!("{{ {} a }}", ",".repeat(many)),
            format!("{{ a(x: \"{}\") }}", "\\u0041".repeat(many)),
            format!("{{ {} }}", "...f ".repeat(many)),
            format!("{{ ...f0 }} {chain} fragment f3000 on T {{ a }}"),
            "}".repeat(many),
            "\u{feff}{ a }".to_owned(),
            "{ a \0 }".to_owned(),
            "...".repeat(many),
            "\"\"\"".repeat(many),
        ] {
            for tokens in [2_000, 10_000, 50_000] {
                let _ = measure(&text, tokens, None, None, &weights());
            }
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "{:?}", began.elapsed());
        assert_eq!(of(&format!("{{ {} }}", "a ".repeat(many)), None, serde_json::Value::Null), Err(Wrong::TooManyTokens));
        // Every operation spreads the same long fragment.
        let operations: String = (0..10_000).map(|number| format!("query A{number} {{ ...f }} ")).collect();
        let shared = format!("{operations} fragment f on T {{ {} }}", "a ".repeat(20_000));
        let began = std::time::Instant::now();
        let all = measure(&shared, 200_000, Some("A7"), None, &weights()).unwrap();
        assert_eq!((all.name.as_deref(), all.sum.fields), (Some("A7"), 20_000));
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
        // A long token is not copied for every level that is open.
        let long = "x".repeat(900_000);
        for text in [
            format!("{}\"{long}\"", "{ a ".repeat(150)),
            format!("{}{long}", "{ a ".repeat(150)),
            format!("{{ a(x: \"{long}\") }}"),
        ] {
            assert_eq!(of(&text, None, serde_json::Value::Null), Err(Wrong::TooManyTokens));
        }
        assert!(of(&format!("#{long}\n{{ a }}"), None, serde_json::Value::Null).is_ok());
        let deep = "{ a ".repeat(300) + &"}".repeat(300);
        assert_eq!(of(&deep, None, serde_json::Value::Null), Err(Wrong::TooDeep));
        let chain: String = (0..300).map(|number| format!("fragment f{number} on T {{ ...f{} }} ", number + 1)).collect();
        let chain = format!("{{ ...f0 }} {chain} fragment f300 on T {{ a }}");
        assert_eq!(measure(&chain, 50_000, None, None, &weights()), Err(Wrong::TooDeep));
    }

    /// Whatever comes of words of the language in any order, nothing breaks.
    #[test]
    fn no_soup_of_words_breaks_it() {
        const WORDS: [&str; 26] = [
            "{",
            "}",
            "(",
            ")",
            "[",
            "]",
            ":",
            "=",
            "!",
            "$",
            "@",
            "...",
            "|",
            "&",
            "query",
            "mutation",
            "fragment",
            "on",
            "a",
            "1",
            "1.5e3",
            "\"s\"",
            "\"\"\"b\"\"\"",
            "null",
            "type",
            "#c\n",
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..4000 {
            let length = next() % 40;
            let text: Vec<&str> = (0..length).map(|_| WORDS[(next() % WORDS.len() as u64) as usize]).collect();
            let _ = measure(&text.join(" "), 1000, None, None, &weights());
        }
    }
}
