//! Portcullis.
pub mod admin;
pub mod cache;
pub mod exchange;
pub mod head;
pub mod ledger;
pub mod listen;
pub mod node;
pub mod observe;
pub mod path;
pub mod policy;
pub mod problem;
pub mod reply;
pub mod report;
pub mod route;
pub mod upgrade;
pub mod upstream;
pub mod value;
