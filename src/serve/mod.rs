//! The running process: it puts the parts together, obeys signals, reloads, and hands over to its successor.
//!
//! The main thread serves no traffic. It alone publishes generations, so a reload, a second reload and an upgrade never overlap.

mod carried;
mod claim;
mod connection;
mod naming;
mod one;
mod opening;
mod pid_file;
mod process;
mod signals;
mod sockets;
mod watched;
mod worker;

pub use pid_file::PidFile;
pub use process::{Failure, Options, run};
