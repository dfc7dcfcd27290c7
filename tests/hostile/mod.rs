//! The attacker's view: bytes that no honest client or backend sends. What reaches a backend is read there by a parser that forgives
//! nothing, and the target `/smuggled`, which no route serves, must never be among what it saw.

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
