//! To come.
use crate::problem::Place;
#[derive(Debug, Clone, PartialEq)]
pub struct Spanned<T> { pub value: T, pub place: Place }
