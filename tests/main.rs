//! The journey through the real binary, over real sockets, with real peers. One module for each part of the promise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod ahead;
mod answers;
mod authn;
mod authority;
mod authz;
mod balance;
mod browsers;
mod caching;
mod changes;
mod cli;
mod clients_own;
mod config;
mod connections;
mod deadlines;
mod decisions;
mod demo;
mod differential;
mod discovery;
mod docs;
mod embed;
#[path = "../examples/embedded.rs"]
#[allow(dead_code, reason = "its `main` is the example's own")]
mod embedded;
mod faults;
mod floods;
mod flow;
mod fuzz;
mod harness;
mod health;
mod hits;
mod hostile;
mod issuers;
mod keys;
mod leaving;
mod limits;
mod listeners;
mod memory;
mod mirrors;
mod mtls;
mod observability;
mod oidc;
mod packaging;
mod passwords;
mod paths;
mod peers;
mod privileges;
mod protocols;
mod rates;
mod recovery;
mod refusals;
mod reload;
mod responses;
mod retries;
mod rooms;
mod routing;
mod shared_limits;
mod signatures;
mod single;
mod sockets;
mod stop;
mod trailers;
mod upgrade;
mod upstreams;
mod validation;
