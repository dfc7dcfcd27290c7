//! Watching the gateway: one access log line per request, and the metrics.
//!
//! What runs on the request path writes only to memory that its own thread owns ([`crate::tally::shard`]); the log's writer thread and the
//! scrape collect it from there. Deliberately not here: diagnostics (the `log` crate's macros, wherever something happens), and who
//! serves `/metrics` (the operator's API).

pub mod access_log;
pub mod answers;
pub mod background;
pub mod carried;
pub mod histogram;
mod json;
pub mod metrics;
pub mod record;
pub mod seldom;

mod collect;
mod consumers;
mod websockets;
mod words;
mod writer;

pub use access_log::{AccessLog, AccessLogConfig, Output, Settings, Target};
pub use answers::AnswerMetrics;
pub use background::Fetched;
pub use carried::CarriedRecord;
pub use metrics::{EndpointMetrics, ListenerMetrics, Metrics, RouteMetrics, ServiceMetrics};
pub use record::Record;
