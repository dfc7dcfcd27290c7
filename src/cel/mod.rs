//! Expressions in the Common Expression Language (CEL, <https://cel.dev>) over a request, who sent it and its route.
//!
//! An expression is compiled when the configuration is loaded: its syntax, every name and function in it, and the kind of its result
//! where that can be told. What a request then costs is bounded by [`WORK`], whatever the client sends: an expression that runs out
//! of it fails, as does one that reads what is not there. What a failure means is the caller's choice, and [`RuleError`] says nothing of
//! what the client sent.
//!
//! A comparison of a variable with a text takes about 1,000 instructions (0.2 us), a rule of five conditions with a claim and a network
//! 12,000 (2.6 us), `exists` over two groups 16,000: `benches/authz.rs` has them. The worst that a client can make of a careless rule
//! (a macro within a macro over everything it sends) ends after tens of milliseconds.
//!
//! - [`variables`]: the names an expression may use. Only those that it does use are looked up, when it gets there.
//! - [`check`]: what is refused at load, and what is prepared there so that a request does not pay for it.
//! - [`values`]: headers, parameters and claims as CEL sees them, without copies.
//!
//! Deliberately absent: functions that make long values of short ones (`replace`, `format`), and patterns or networks that come from a
//! request: `matches` and `cidr` take literals, which are compiled once.

mod check;
#[cfg(test)]
mod tests;
mod values;
pub mod variables;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use cel::common::ast::IdedExpr;
use cel::common::types::{CelBool, CelInt, CelUInt};
use cel::{Context, Env, ExecutionError, Value};
use serde_json::{Map, Value as JsonValue};

use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::problem::{Place, Problems};
use values::{Network, Pattern};
use variables::Facts;

/// The longest expression, in bytes.
pub const MAX_SOURCE: usize = 4096;

/// The deepest nesting of one expression in another.
pub const MAX_DEPTH: usize = 64;

/// How deep the lists of a value may be nested.
const DEEPEST_VALUE: usize = 16;

/// What one evaluation may cost: the turns of its macros (`all`, `exists`, `map`, `filter`), each weighed with the size of the
/// request's head and 1 KiB, come to no more than this many bytes. A request of 1 KiB may turn 2,048 times, one of 31 KiB 128 times.
pub const WORK: usize = 4 << 20;

/// What an expression has to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int,
    /// A text, a number, a boolean, `null`, or a list of such: what can be written as JSON.
    Any,
}

/// A compiled expression.
#[derive(Debug)]
pub struct Expression {
    root: IdedExpr,
    patterns: Vec<Pattern>,
    networks: Vec<Network>,
    by_path: bool,
    by_request: bool,
    /// Which of the parts that there may be it looks at.
    parts: Vec<String>,
    /// See [`Expression::unsure`].
    unsure: Option<Box<str>>,
    /// See [`Expression::headers`].
    headers: Box<[Box<str>]>,
}

/// What an expression may look at beside the request, by name: what the services of a composed answer have said so far.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    pub values: &'a Map<String, JsonValue>,
    /// What they take, in bytes: every turn of a macro is weighed with it.
    pub weight: usize,
}

/// Why an expression came to nothing. Carries nothing of the request's, so that it may be logged and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleError {
    /// It reads a header, parameter, claim or element that is not there.
    Missing,
    /// It applies a function or operator to something of another kind, such as a claim that is a number where text was expected.
    Type,
    /// A number overflows, or is divided by zero.
    Arithmetic,
    /// A conversion is given what it cannot read, such as `int("x")`.
    Conversion,
    /// It would take more than [`WORK`].
    Work,
    /// Its result is of another kind than was asked for.
    Result,
    /// The evaluator itself failed.
    Internal,
}

impl RuleError {
    pub const ALL: [RuleError; 7] = [
        RuleError::Missing,
        RuleError::Type,
        RuleError::Arithmetic,
        RuleError::Conversion,
        RuleError::Work,
        RuleError::Result,
        RuleError::Internal,
    ];

    /// A stable word for metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            RuleError::Missing => "missing",
            RuleError::Type => "type",
            RuleError::Arithmetic => "arithmetic",
            RuleError::Conversion => "conversion",
            RuleError::Work => "work",
            RuleError::Result => "result",
            RuleError::Internal => "internal",
        }
    }
}

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(check::environment()));

impl Expression {
    /// Compiles `source`, which was written at `place`. Everything that is wrong with it goes to `problems`; `None` only if something
    /// is.
    pub fn compile(source: &str, place: Place, problems: &mut Problems, kind: Kind) -> Option<Expression> {
        check::compile(source, place, problems, kind, &[])
    }

    /// As [`Expression::compile`], of one that may name these parts of a composed answer as `parts.NAME`.
    pub fn compile_among(source: &str, place: Place, problems: &mut Problems, kind: Kind, parts: &[&str]) -> Option<Expression> {
        check::compile(source, place, problems, kind, parts)
    }

    /// Whether it looks at anything of the request, or at who has sent it.
    pub fn looks_at_request(&self) -> bool {
        self.by_request
    }

    /// The parts that it names.
    pub fn parts(&self) -> &[String] {
        &self.parts
    }

    /// Whether it looks at the path, or at what a route's parameters took of it.
    pub fn looks_at_path(&self) -> bool {
        self.by_path
    }

    /// The header fields of the request that it looks at, in lower case; one of them is `*` if they may be any.
    pub fn headers(&self) -> &[Box<str>] {
        &self.headers
    }

    /// A header, parameter or claim that it reads and nowhere asks whether it is there: where it is not, the expression may come to nothing.
    pub fn unsure(&self) -> Option<&str> {
        self.unsure.as_deref()
    }

    /// What a condition comes to.
    pub fn bool(&self, head: &RequestHead, exchange: &Exchange) -> Result<bool, RuleError> {
        self.evaluate(head, exchange, None, |value| value.downcast_ref::<CelBool>().map(|value| *value.inner()))
    }

    /// What a condition comes to that looks at parts of an answer as well. One that is not there is null.
    pub fn bool_among(&self, head: &RequestHead, exchange: &Exchange, parts: Parts<'_>) -> Result<bool, RuleError> {
        self.evaluate(head, exchange, Some(parts), |value| value.downcast_ref::<CelBool>().map(|value| *value.inner()))
    }

    /// What a number comes to. An unsigned one beyond the signed is an error.
    pub fn int(&self, head: &RequestHead, exchange: &Exchange) -> Result<i64, RuleError> {
        self.evaluate(head, exchange, None, |value| match value.downcast_ref::<CelInt>() {
            Some(value) => Some(*value.inner()),
            None => value.downcast_ref::<CelUInt>().and_then(|value| i64::try_from(*value.inner()).ok()),
        })
    }

    /// What a value comes to, as JSON. Maps are no values: their members are.
    pub fn json(&self, head: &RequestHead, exchange: &Exchange) -> Result<serde_json::Value, RuleError> {
        self.evaluate(head, exchange, None, |value| values::written(value, DEEPEST_VALUE))
    }

    fn evaluate<T>(
        &self,
        head: &RequestHead,
        exchange: &Exchange,
        parts: Option<Parts<'_>>,
        read: impl Fn(&dyn cel::common::value::Val) -> Option<T>,
    ) -> Result<T, RuleError> {
        let turns = turns(head, parts.map_or(0, |parts| parts.weight));
        let facts =
            Facts { head, exchange, expression: self, parts: parts.map(|parts| parts.values), turns: AtomicU32::new(turns) };
        // The evaluator is a library's, and holds a few assertions of its own: whatever a client finds, it costs this rule only.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::with_env(ENV.clone());
            context.set_variable_resolver(&facts);
            let value = Value::resolve_val(&self.root, &context)?;
            Ok(read(&*value))
        }));
        // An exhausted evaluation may still have come to something: `||` makes do with one side.
        if facts.turns.load(Ordering::Relaxed) == 0 {
            return Err(RuleError::Work);
        }
        match result {
            Ok(Ok(value)) => value.ok_or(RuleError::Result),
            Ok(Err(error)) => Err(RuleError::of(&error)),
            Err(_) => Err(RuleError::Internal),
        }
    }
}

impl RuleError {
    fn of(error: &ExecutionError) -> Self {
        match error {
            ExecutionError::NoSuchKey(_) | ExecutionError::UndeclaredReference(_) | ExecutionError::IndexOutOfBounds(_) => {
                RuleError::Missing
            }
            ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) | ExecutionError::Overflow(..) => {
                RuleError::Arithmetic
            }
            ExecutionError::FunctionError { .. } => RuleError::Conversion,
            ExecutionError::InternalError(_) => RuleError::Internal,
            _ => RuleError::Type,
        }
    }
}

/// How many turns a request may take; never 0, which stands for exhausted.
fn turns(head: &RequestHead, more: usize) -> u32 {
    u32::try_from(WORK / (1024 + head.buffer.len() + head.path.len() + more)).unwrap_or(u32::MAX).max(1) + 1
}
