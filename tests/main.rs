//! The journey through the real binary, over real sockets, with real peers. One module for each part of the promise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod answers;
mod authn;
mod caching;
mod cli;
mod config;
mod demo;
mod harness;
mod hostile;
mod limits;
mod observability;
mod packaging;
mod peers;
mod protocols;
mod reload;
mod routing;
mod stop;
mod upgrade;
mod upstreams;
mod validation;
