//! Before anything costs anything: bounds on the request's size and shape, and the coarse limit by client address.

pub mod address_limit;
pub mod size;
