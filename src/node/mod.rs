//! To come.
#[derive(Debug, Clone)]
pub struct Node;
