//! Which route answers a request: hosts, paths and predicates, and what the chosen route makes of the target.
//!
//! A request finds its route in this order, which no setting changes:
//!
//! 1. The host: its exact name, else the longest wildcard, else the routes for any host. Once a host is chosen there is no way back:
//!    a host's routes say all that it serves.
//! 2. The path, segment by segment from the left: a static segment before a parameter before a prefix (`/*`).
//! 3. The number of predicates, more before fewer. A list of methods counts as one.
//! 4. The order in the file.
//!
//! A candidate whose predicates fail gives way to the next one. Where a path matched and nothing but the method failed the answer is
//! 405, else 404.
//!
//! Deliberately not here: regular expressions (their cost is a client's to choose, and they have no order of precedence that anybody
//! could predict), and whatever happens after the choice: `policies` are kept as they were written, services are looked up by the
//! snapshot.

pub mod back;
pub mod compose;
mod config;
mod device;
mod fallback;
mod matcher;
pub mod ordered;
mod own;
mod pattern;
mod predicate;
mod rewrite;
mod split;
mod table;
mod tables;
pub mod templates;
#[cfg(test)]
mod tests;
mod tie;
mod trie;
pub mod views;

pub use config::{RouteConfig, SplitTarget, Sticky, ValueMatch, VersionMatch};
pub use device::Device;
pub use fallback::{Cause, Condition, FallbackConfig};
pub use matcher::{Matcher, check_id};
pub use own::{Mock, MockConfig, OwnAnswer, read};
pub use pattern::HostPattern;
pub use rewrite::Rewrite;
pub use split::{Answering, Split};
pub use table::{Found, Params, RouteTable};
pub use tables::RouteTables;
