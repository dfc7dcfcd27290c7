//! The attacker's view: bytes that no honest client or backend sends. What reaches a backend is read there by a parser that forgives
//! nothing, and the target `/smuggled`, which no route serves, must never be among what it saw.

/// Tests that must not be able to tell the two roads apart.
macro_rules! on_both_roads {
    ($($name:ident),* $(,)?) => {
        mod by_lane {
            $(#[test] fn $name() { super::$name(true) })*
        }
        mod by_proxy {
            $(#[test] fn $name() { super::$name(false) })*
        }
    };
}

mod answers;
mod crowd;
mod cuts;
mod greetings;
mod http2;
mod mutations;
mod noise;
mod proxy_protocol;
mod slow;
mod smuggling;
mod wire;
