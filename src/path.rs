//! To come.
use std::borrow::Cow;
#[derive(Debug)]
pub struct PathProblem;
impl PathProblem { pub fn reason(&self) -> &'static str {""} pub fn detail(&self) -> &'static str {""} }
pub fn normalise(raw: &[u8]) -> Result<Cow<'_, str>, PathProblem> { std::str::from_utf8(raw).map(Cow::Borrowed).map_err(|_| PathProblem) }
pub fn check_query(_raw: &[u8]) -> Result<(), PathProblem> { Ok(()) }
