//! To come.
#[derive(Debug, Default)]
pub struct Consumers;
