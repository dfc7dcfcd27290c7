//! `rewrite_back`: what a service says of its own addresses, in the words of those who cannot see them.
//!
//! A service behind `strip_prefix`, `rewrite` or `rewrite_host` knows neither the path nor the host under which it is known. What it writes
//! into header fields (`Location`, a cookie's `Path`) is mapped back here; bodies are not looked into. Whatever is not plainly an address of
//! the service's own stays as it is.

mod config;
mod fields;
mod reference;

pub use config::{Back, RewriteBackConfig};
pub use fields::{cookie, link, link_targets, refresh};
pub use reference::{Own, Sides};
