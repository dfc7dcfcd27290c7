//! Before anything costs anything: bounds on the request's size and shape, lists of client addresses, the coarse limit by client address,
//! and which pages may open WebSockets.

pub mod address_limit;
pub mod cors;
pub mod ip_restriction;
// An example of docs/develop/add-a-policy.md, as it stands there.
#[cfg(test)]
#[path = "../../../docs/develop/examples/maintenance.rs"]
pub mod maintenance;
pub mod origin;
pub mod size;
pub mod websocket;
