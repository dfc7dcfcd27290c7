//! Before anything costs anything: bounds on the request's size and shape, lists of client addresses, and the
//! coarse limit by client address.

pub mod address_limit;
pub mod ip_restriction;
pub mod size;
