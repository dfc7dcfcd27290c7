//! To come.
#[derive(Debug)]
pub struct CachePolicy;
