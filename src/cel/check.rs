//! What is refused when an expression is loaded, and what is prepared there.
//!
//! The parser knows grammar only. Here every name and function is looked up, so that a misspelt one is a problem of the configuration
//! and not of a request; `a.b` becomes one name; literal patterns and networks are compiled; and every turn of a macro is made to count.

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};
use cel::common::types::CelBool;
use cel::{Env, add_member_overload, extensions};

use super::values::{Network, Pattern, contains_ip, matches};
use super::variables::{PARTS, Shape, VARIABLES};
use super::{ENV, Expression, Kind, MAX_DEPTH, MAX_SOURCE};
use crate::cidr::CidrSet;
use crate::problem::{Place, Problem, Problems, did_you_mean};
use crate::value::Spanned;

/// What a macro asks for before each of its turns. None of these names can be written.
pub const TURN: &str = "@turn";
pub const PATTERN_PREFIX: &str = "@pattern";
pub const CIDR_PREFIX: &str = "@cidr";

/// The most memory that one pattern may take, in bytes.
const MAX_PATTERN: usize = 1 << 20;

/// What may be called, beside the operators and the macros.
pub const FUNCTIONS: &[&str] = &[
    "bool",
    "cidr",
    "contains",
    "containsIP",
    "double",
    "duration",
    "endsWith",
    "getDate",
    "getDayOfWeek",
    "getFullYear",
    "getHours",
    "getMinutes",
    "getMonth",
    "int",
    "join",
    "lowerAscii",
    "matches",
    "size",
    "split",
    "startsWith",
    "string",
    "substring",
    "timestamp",
    "trim",
    "uint",
    "upperAscii",
];

/// The macros, for what is said of a misspelt one.
const MACROS: &[&str] = &["all", "exists", "exists_one", "filter", "has", "map"];

/// The standard library, `lowerAscii` and the like, and what is prepared here.
pub fn environment() -> Env {
    let mut env = Env::stdlib().with_optional_support(false);
    let declared = env.add_extension(extensions::strings).is_ok()
        && add_member_overload!(&mut env, fn matches: (CelText, Pattern) -> CelBool).is_ok()
        && add_member_overload!(&mut env, fn contains_ip: (Network, CelText) -> Result<CelBool>, name = "containsIP").is_ok();
    debug_assert!(declared, "these names are taken by nobody else");
    env
}

use cel::common::types::CelString as CelText;

pub fn compile(source: &str, place: Place, problems: &mut Problems, kind: Kind, parts: &[&str]) -> Option<Expression> {
    let mut refuse = |message: String| {
        problems.push(Problem::error(place, message));
        None
    };
    if source.trim().is_empty() {
        return refuse("an expression cannot be empty".to_owned());
    }
    if source.len() > MAX_SOURCE {
        return refuse(format!("an expression is at most {MAX_SOURCE} bytes long; this one has {}", source.len()));
    }
    let parser = || ENV.parser().max_recursion_depth(MAX_DEPTH as u16);
    // The parser is a library's too: whatever it thinks of a text, `check` goes on.
    let Ok(parsed) = std::panic::catch_unwind(|| parser().parse_with_source_info(source)) else {
        return refuse("this expression cannot be read".to_owned());
    };
    let (mut root, info) = match parsed {
        Ok(parsed) => parsed,
        Err(errors) => {
            let first = errors.errors.first();
            let at = first.map(|error| error.pos).filter(|(line, _)| *line > 0);
            let at = at.map(|(line, column)| format!(" (line {line}, column {column} of the expression)"));
            let said = first.map_or("it cannot be read", |error| error.msg.as_str());
            return refuse(format!("this is no CEL expression: {said}{}", at.unwrap_or_default()));
        }
    };
    let mut checker = Checker {
        place,
        problems,
        info: &info,
        source,
        scope: Vec::new(),
        parts,
        named: Vec::new(),
        patterns: Vec::new(),
        networks: Vec::new(),
        by_path: false,
        by_request: false,
        by_headers: 0,
        read: Vec::new(),
        asked: Vec::new(),
        misspelt: Vec::new(),
        sound: true,
    };
    checker.expr(&mut root, 0);
    if checker.sound {
        checker.result(&root, kind);
    }
    let Checker { sound, patterns, networks, by_path, by_request, by_headers, read, asked, misspelt, problems, named, .. } =
        checker;
    for (text, canonical) in misspelt.into_iter().filter(|_| by_path) {
        let problem = Problem::warning(place, format!("no request's path holds `{text}`: paths are compared in one spelling"));
        problems.push(problem.hint(format!("write `{canonical}`")));
    }
    let named_headers = read.iter().chain(&asked).filter_map(|member| member.strip_prefix("request.headers."));
    let mut headers: Vec<Box<str>> = named_headers.map(Into::into).collect();
    if headers.len() < by_headers {
        // As a whole, or by a name that is not known before.
        headers.push("*".into());
    }
    headers.sort_unstable();
    headers.dedup();
    let headers = headers.into_boxed_slice();
    // What a route's path has is there.
    let unsure = |member: &String| !asked.contains(member) && !member.starts_with("route.params.");
    let unsure = read.into_iter().find(unsure).map(String::into_boxed_str);
    sound.then_some(Expression { root, patterns, networks, by_path, by_request, parts: named, unsure, headers })
}

struct Checker<'a> {
    place: Place,
    problems: &'a mut Problems,
    info: &'a SourceInfo,
    source: &'a str,
    /// The variables of the macros around.
    scope: Vec<String>,
    /// The parts of a composed answer that it may name, and those that it does.
    parts: &'a [&'a str],
    named: Vec<String>,
    patterns: Vec<Pattern>,
    networks: Vec<Network>,
    by_path: bool,
    by_request: bool,
    /// How often it names `request.headers`.
    by_headers: usize,
    /// The members of maps that it reads, and those of which it asks whether they are there.
    read: Vec<String>,
    asked: Vec<String>,
    /// Paths that are not canonical, and what they are then.
    misspelt: Vec<(String, String)>,
    sound: bool,
}

impl Checker<'_> {
    fn refuse(&mut self, id: u64, message: String, hint: Option<String>) {
        self.sound = false;
        let at = self.info.offset_for(id).and_then(|(start, _)| self.source.get(start as usize..));
        // Where it is, by what stands there: an expression is short, and a column in it is not one of the file.
        let near: Option<String> = at.map(|rest| rest.chars().take_while(|it| *it != '\n').take(24).collect());
        let message = match near.filter(|near| !near.is_empty() && near.len() < self.source.trim().len()) {
            Some(near) => format!("{message} (near `{near}`)"),
            None => message,
        };
        let mut problem = Problem::error(self.place, message);
        problem.hint = hint;
        self.problems.push(problem);
    }

    fn is_local(&self, name: &str) -> bool {
        self.scope.iter().any(|known| known == name)
    }

    fn expr(&mut self, node: &mut IdedExpr, depth: usize) {
        if depth > MAX_DEPTH {
            if self.sound {
                self.refuse(node.id, format!("an expression is nested at most {MAX_DEPTH} deep"), None);
            }
            return;
        }
        let id = node.id;
        match &mut node.expr {
            Expr::Literal(LiteralValue::String(text)) => self.spelled(text.inner()),
            Expr::Literal(_) => {}
            Expr::Ident(name) => {
                let name = std::mem::take(name);
                self.name(id, &name);
                node.expr = Expr::Ident(name);
            }
            Expr::Select(select) => {
                if let Expr::Ident(root) = &select.operand.expr
                    && !self.is_local(root)
                {
                    let full = format!("{root}.{}", select.field);
                    if root == PARTS && !self.parts.is_empty() {
                        if select.test {
                            let hint = format!("compare it: {full} != null");
                            self.refuse(id, format!("`{full}` is always there, if only as null"), Some(hint));
                        }
                        self.part(select.operand.id, &select.field);
                        node.expr = Expr::Ident(full);
                        return;
                    }
                    if select.test && VARIABLES.iter().any(|variable| variable.name == full) {
                        let hint = "`has` asks for a member: has(request.headers.cookie); what is not known is empty";
                        self.refuse(id, format!("`{full}` is always there"), Some(hint.to_owned()));
                    } else {
                        self.variable(select.operand.id, &full);
                    }
                    node.expr = Expr::Ident(full);
                    return;
                }
                self.expr(&mut select.operand, depth + 1);
                match member(&select.operand.expr, &select.field) {
                    Some(member) if select.test => self.asked.push(member),
                    Some(member) => {
                        self.read.push(member.clone());
                        node.expr = Expr::Ident(member);
                    }
                    None => {}
                }
            }
            Expr::Call(_) => self.call(node, depth),
            Expr::Comprehension(macro_) => self.comprehension(macro_, depth),
            Expr::List(list) => list.elements.iter_mut().for_each(|item| self.expr(item, depth + 1)),
            Expr::Map(map) => {
                for entry in &mut map.entries {
                    if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                        self.expr(&mut entry.key, depth + 1);
                        self.expr(&mut entry.value, depth + 1);
                    }
                }
            }
            Expr::Struct(made) => {
                let name = made.type_name.clone();
                self.refuse(id, format!("there is no type `{name}`"), None);
            }
            Expr::Unspecified => self.refuse(id, "this expression cannot be read".to_owned(), None),
        }
    }

    /// Notes a path that no request's is equal to, for it is spelled otherwise.
    fn spelled(&mut self, text: &str) {
        if text.starts_with('/') && text.contains('%') {
            let canonical = crate::path::normalise(text.as_bytes());
            self.misspelt.extend(
                canonical.ok().filter(|canonical| *canonical != text).map(|canonical| (text.to_owned(), canonical.into_owned())),
            );
        }
    }

    /// A name that stands alone.
    fn name(&mut self, id: u64, name: &str) {
        if self.is_local(name) || name == TURN {
            return;
        }
        if is_root(name) {
            let fields: Vec<_> = VARIABLES.iter().filter_map(|known| known.name.strip_prefix(name)?.strip_prefix('.')).collect();
            let hint = format!("its members are {}", fields.join(", "));
            self.refuse(id, format!("`{name}` is not a value of its own"), Some(hint));
        } else {
            self.variable(id, name);
        }
    }

    fn part(&mut self, id: u64, name: &str) {
        if self.parts.contains(&name) {
            if !self.named.iter().any(|known| known == name) {
                self.named.push(name.to_owned());
            }
            return;
        }
        let hint = did_you_mean(name, self.parts.iter().copied()).map(|near| format!("did you mean `{PARTS}.{near}`?"));
        self.refuse(id, format!("there is no call `{name}`"), hint);
    }

    fn variable(&mut self, id: u64, name: &str) {
        self.by_request = true;
        self.by_headers += usize::from(name == "request.headers");
        self.by_path |= matches!(name, "request.path" | "route.params" | "route.id");
        if VARIABLES.iter().any(|variable| variable.name == name) {
            return;
        }
        let near = did_you_mean(name, VARIABLES.iter().map(|variable| variable.name));
        let near = near.or_else(|| VARIABLES.iter().map(|known| known.name).find(|known| known.ends_with(&format!(".{name}"))));
        let hint = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => "the variables are those of request, identity and route".to_owned(),
        };
        self.refuse(id, format!("unknown variable `{name}`"), Some(hint));
    }

    fn call(&mut self, node: &mut IdedExpr, depth: usize) {
        let id = node.id;
        let Expr::Call(call) = &mut node.expr else { return };
        let name = call.func_name.clone();
        if !is_operator(&name) && !FUNCTIONS.contains(&name.as_str()) {
            let known = FUNCTIONS.iter().chain(MACROS).copied();
            let hint = match did_you_mean(&name, known.clone()) {
                Some(near) if near == name => format!("`{name}` is a macro, called as list.{name}(item, condition)"),
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the functions are {}", known.collect::<Vec<_>>().join(", ")),
            };
            self.refuse(id, format!("unknown function `{name}`"), Some(hint));
        }
        if let Some(target) = &mut call.target {
            self.expr(target, depth + 1);
        }
        match (name.as_str(), call.target.is_some(), call.args.as_mut_slice()) {
            ("matches", true, [pattern]) => return self.pattern(pattern),
            ("matches", false, _) => self.refuse(id, "`matches` is called on a text".into(), Some("text.matches(\"^a\")".into())),
            ("cidr", false, [network]) => {
                if let Some(prepared) = self.network(network) {
                    node.expr = Expr::Ident(prepared);
                }
                return;
            }
            _ => call.args.iter_mut().for_each(|argument| self.expr(argument, depth + 1)),
        }
        if !self.sound {
            return;
        }
        self.operands(id, call_of(node));
        let Expr::Call(call) = &node.expr else { return };
        let (asks, [one, other]) = (call.func_name == operators::IN, call.args.as_slice()) else { return };
        let (map, key) = if asks { (other, one) } else { (one, other) };
        if let Expr::Literal(LiteralValue::String(key)) = &key.expr
            && let Some(member) = member(&map.expr, key.inner())
        {
            if asks {
                self.asked.push(member);
            } else if call.func_name == operators::INDEX {
                self.read.push(member.clone());
                node.expr = Expr::Ident(member);
            }
        }
    }

    /// Operators whose operands are known to be of the wrong kind.
    fn operands(&mut self, id: u64, call: Option<&CallExpr>) {
        let Some(call) = call else { return };
        let wrong = match call.func_name.as_str() {
            operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT => {
                call.args.iter().find_map(|argument| other_than(argument, Shape::Bool))
            }
            operators::CONDITIONAL => call.args.first().and_then(|condition| other_than(condition, Shape::Bool)),
            "startsWith" | "endsWith" | "contains" | "matches" | "lowerAscii" | "upperAscii" | "trim" | "split" | "substring" => {
                call.target.as_deref().and_then(|target| other_than(target, Shape::Text))
            }
            _ => None,
        };
        if let Some(shape) = wrong {
            let name = call.func_name.trim_matches('_').to_owned();
            self.refuse(id, format!("`{name}` cannot take {}", described(shape)), None);
        }
    }

    fn pattern(&mut self, argument: &mut IdedExpr) {
        let Expr::Literal(LiteralValue::String(pattern)) = &argument.expr else {
            let hint = "a pattern is compiled when the configuration is loaded";
            return self.refuse(argument.id, "the pattern of `matches` is a literal text".to_owned(), Some(hint.to_owned()));
        };
        match regex::RegexBuilder::new(pattern.inner()).size_limit(MAX_PATTERN).build() {
            Ok(regex) => {
                argument.expr = Expr::Ident(format!("{PATTERN_PREFIX}{}", self.patterns.len()));
                self.patterns.push(Pattern(regex.into()));
            }
            Err(error) => {
                let said = error.to_string();
                let said = said.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                self.refuse(argument.id, format!("this pattern is no regular expression: {said}"), None);
            }
        }
    }

    fn network(&mut self, argument: &IdedExpr) -> Option<String> {
        let Expr::Literal(LiteralValue::String(network)) = &argument.expr else {
            self.refuse(argument.id, "the network of `cidr` is a literal text".into(), Some("cidr(\"10.0.0.0/8\")".into()));
            return None;
        };
        let before = self.problems.len();
        let set = CidrSet::compile(&[Spanned::new(network.inner().to_owned(), self.place)], self.problems);
        if self.problems.len() > before {
            self.sound &= !self.problems.has_errors();
        }
        self.networks.push(Network(set.into()));
        Some(format!("{CIDR_PREFIX}{}", self.networks.len() - 1))
    }

    fn comprehension(&mut self, macro_: &mut ComprehensionExpr, depth: usize) {
        self.expr(&mut macro_.iter_range, depth + 1);
        self.expr(&mut macro_.accu_init, depth + 1);
        let outside = self.scope.len();
        self.scope.push(macro_.iter_var.clone());
        self.scope.extend(macro_.iter_var2.clone());
        self.scope.push(macro_.accu_var.clone());
        self.expr(&mut macro_.loop_cond, depth + 1);
        self.expr(&mut macro_.loop_step, depth + 1);
        self.expr(&mut macro_.result, depth + 1);
        self.scope.truncate(outside);
        count_turns(macro_);
    }

    /// What the whole comes to, where it can be told.
    fn result(&mut self, root: &IdedExpr, kind: Kind) {
        let (wanted, name) = match kind {
            Kind::Bool => (Shape::Bool, "true or false"),
            Kind::Int => (Shape::Int, "a whole number"),
            Kind::Any => {
                if matches!(known(root), Some(Known::Shape(Shape::Map) | Known::Bytes)) {
                    self.refuse(root.id, "this expression comes to no value that JSON has a form for here".to_owned(), None);
                }
                return;
            }
        };
        if let Some(shape) = other_than(root, wanted) {
            self.refuse(root.id, format!("this expression comes to {}, and has to come to {name}", described(shape)), None);
        }
    }
}

/// Puts the count before a turn's work: into the condition of the loop, or, where the evaluator appends to a list in place as long as
/// that condition is a literal, into what is appended or the condition to append.
fn count_turns(macro_: &mut ComprehensionExpr) {
    if !matches!(macro_.loop_cond.expr, Expr::Literal(_)) {
        return counted(&mut macro_.loop_cond);
    }
    let Expr::Call(step) = &mut macro_.loop_step.expr else { return counted(&mut macro_.loop_cond) };
    match (step.func_name.as_str(), step.args.as_mut_slice()) {
        (operators::CONDITIONAL, [condition, ..]) => counted(condition),
        (operators::ADD, [_, IdedExpr { expr: Expr::List(list), .. }]) if !list.elements.is_empty() => {
            list.elements.iter_mut().for_each(counted);
        }
        _ => counted(&mut macro_.loop_cond),
    }
}

/// `@turn ? expr : false`: the conditional hands an error on, where `&&` might make do without.
fn counted(node: &mut IdedExpr) {
    let part = |expr| IdedExpr { id: node.id, expr };
    let turn = part(Expr::Ident(TURN.to_owned()));
    let never = part(Expr::Literal(LiteralValue::Boolean(CelBool::from(false))));
    let work = std::mem::take(node);
    node.id = work.id;
    node.expr =
        Expr::Call(CallExpr { func_name: operators::CONDITIONAL.to_owned(), target: None, args: vec![turn, work, never] });
}

fn call_of(node: &IdedExpr) -> Option<&CallExpr> {
    if let Expr::Call(call) = &node.expr { Some(call) } else { None }
}

fn is_root(name: &str) -> bool {
    matches!(name, "request" | "identity" | "route")
}

fn is_operator(name: &str) -> bool {
    name.starts_with(['_', '@']) || matches!(name, operators::LOGICAL_NOT | operators::NEGATE)
}

/// The name under which a member of one of the maps is read at once: `request.headers.cookie`.
fn member(map: &Expr, key: &str) -> Option<String> {
    let Expr::Ident(name) = map else { return None };
    let variable = VARIABLES.iter().find(|variable| variable.name == name)?;
    let key = if name == "request.headers" { key.to_ascii_lowercase() } else { key.to_owned() };
    (variable.shape == Shape::Map).then(|| format!("{name}.{key}"))
}

/// What an expression comes to, if that is known and another kind than `wanted`.
fn other_than(node: &IdedExpr, wanted: Shape) -> Option<Known> {
    let known = known(node)?;
    (known != Known::Shape(wanted)).then_some(known)
}

#[derive(Clone, Copy, PartialEq)]
enum Known {
    Shape(Shape),
    Double,
    Uint,
    Null,
    Bytes,
}

fn known(node: &IdedExpr) -> Option<Known> {
    Some(match &node.expr {
        Expr::Literal(literal) => match literal {
            LiteralValue::Boolean(_) => Known::Shape(Shape::Bool),
            LiteralValue::Int(_) => Known::Shape(Shape::Int),
            LiteralValue::String(_) => Known::Shape(Shape::Text),
            LiteralValue::Double(_) => Known::Double,
            LiteralValue::UInt(_) => Known::Uint,
            LiteralValue::Bytes(_) => Known::Bytes,
            LiteralValue::Null => Known::Null,
        },
        Expr::List(_) => Known::Shape(Shape::List),
        Expr::Map(_) => Known::Shape(Shape::Map),
        Expr::Select(select) if select.test => Known::Shape(Shape::Bool),
        Expr::Ident(name) => {
            let whole = VARIABLES.iter().find(|variable| variable.name == name).map(|variable| variable.shape);
            let part = || {
                let texts = ["request.headers.", "route.params."].iter().any(|map| name.starts_with(map));
                let list = name.starts_with("request.query.").then_some(Shape::List);
                texts.then_some(Shape::Text).or(list)
            };
            Known::Shape(whole.or_else(part)?)
        }
        Expr::Call(call) => Known::Shape(match call.func_name.as_str() {
            operators::LOGICAL_AND
            | operators::LOGICAL_OR
            | operators::LOGICAL_NOT
            | operators::EQUALS
            | operators::NOT_EQUALS
            | operators::LESS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::GREATER_EQUALS
            | operators::IN
            | "startsWith"
            | "endsWith"
            | "contains"
            | "matches"
            | "containsIP"
            | "bool" => Shape::Bool,
            "size" | "int" | "getHours" | "getMinutes" | "getDayOfWeek" | "getDate" | "getMonth" | "getFullYear" => Shape::Int,
            "string" | "lowerAscii" | "upperAscii" | "trim" | "substring" | "join" => Shape::Text,
            "split" => Shape::List,
            "double" => return Some(Known::Double),
            operators::CONDITIONAL => {
                let [_, then, otherwise] = call.args.as_slice() else { return None };
                return known(then).filter(|shape| known(otherwise) == Some(*shape));
            }
            operators::ADD | operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO => {
                let [left, right] = call.args.as_slice() else { return None };
                return known(left).filter(|shape| known(right) == Some(*shape));
            }
            _ => return None,
        }),
        _ => return None,
    })
}

fn described(known: Known) -> &'static str {
    match known {
        Known::Shape(Shape::Bool) => "true or false",
        Known::Shape(Shape::Int) => "a whole number",
        Known::Shape(Shape::Text) => "a text",
        Known::Shape(Shape::List) => "a list",
        Known::Shape(Shape::Map) => "a map",
        Known::Double => "a fraction",
        Known::Uint => "an unsigned number",
        Known::Null => "null",
        Known::Bytes => "bytes",
    }
}
