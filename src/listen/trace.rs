//! The names a request goes by: its request id, and its place in a distributed trace (W3C Trace Context, level 1).
//!
//! Spans are not recorded or exported here.

use std::cell::Cell;

use http::HeaderName;

use crate::exchange::RequestId;
use crate::head::{HeaderEdit, HeaderEdits, RequestHead};

static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The request id that came along, if whoever sent it is `trusted` and it is one word of 1 to 128 characters of `A-Za-z0-9._-`:
/// it is going to stand in logs and headers.
pub fn kept_request_id(head: &RequestHead, trusted: bool) -> Option<&str> {
    if !trusted {
        return None;
    }
    let id = only(head, "x-request-id")?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    ((1..=128).contains(&id.len()) && id.iter().all(plain)).then(|| std::str::from_utf8(id).ok())?
}

/// The request's id: the one that came, or a new one of 32 hexadecimal digits.
pub fn request_id(head: &RequestHead, trusted: bool) -> RequestId {
    kept_request_id(head, trusted).map_or_else(new_request_id, RequestId::from)
}

/// A new request id. Unlike any other for all practical purposes, but predictable to someone who has seen enough of them: it is a
/// name, never a credential.
pub fn new_request_id() -> RequestId {
    let mut text = [0; 32];
    let (high, low) = text.split_at_mut(16);
    high.copy_from_slice(&hex(random()));
    low.copy_from_slice(&hex(random()));
    text.into()
}

/// Where a request stands in its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// `00-<trace>-<span>-<flags>` with the gateway's own span, as it goes to the backend.
    pub traceparent: [u8; 55],
    /// The client's span, if the trace is the client's.
    pub parent: Option<[u8; 16]>,
    pub sampled: bool,
}

impl Trace {
    /// Continues the client's trace if its `traceparent` is valid, else begins one, sampled if `sample` says so. The trace id is
    /// the client's word: good for finding log lines, not for telling clients apart.
    pub fn of(head: &RequestHead, sample: bool) -> Trace {
        let known = only(head, "traceparent").and_then(parse_traceparent);
        let sampled = known.map_or(sample, |known| known.sampled);
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let mut put = |at: usize, digits: &[u8]| {
            if let Some(target) = text.get_mut(at..at + digits.len()) {
                target.copy_from_slice(digits);
            }
        };
        match known {
            Some(known) => put(3, &known.trace),
            None => {
                put(3, &hex(random_but_zero()));
                put(19, &hex(random()));
            }
        }
        put(36, &hex(random_but_zero()));
        put(54, if sampled { b"1" } else { b"0" });
        Trace { traceparent: text, parent: known.map(|known| known.span), sampled }
    }

    /// `tracestate` belongs to a trace, so it passes to the backend only along with its trace.
    pub fn edits(&self, head: &RequestHead, edits: &mut HeaderEdits) {
        if self.parent.is_none() && head.header("tracestate").is_some() {
            edits.push(HeaderEdit::Remove(TRACESTATE.clone()));
        }
    }
}

#[derive(Clone, Copy)]
struct Parent {
    trace: [u8; 32],
    span: [u8; 16],
    sampled: bool,
}

/// Version 00 to the letter: `00-`, 32 and 16 lower-case digits that are not all zero, and two of flags, of which only the lowest
/// bit means anything yet.
fn parse_traceparent(value: &[u8]) -> Option<Parent> {
    let (trace, rest) = value.strip_prefix(b"00-")?.split_first_chunk::<32>()?;
    let (span, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<16>()?;
    let flags: &[u8; 2] = rest.strip_prefix(b"-")?.try_into().ok()?;
    let lower_hex = |digits: &[u8]| digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let some = |digits: &[u8]| digits.iter().any(|digit| *digit != b'0');
    let valid = lower_hex(trace) && lower_hex(span) && lower_hex(flags) && some(trace) && some(span);
    let sampled = u8::from_str_radix(std::str::from_utf8(flags).ok()?, 16).ok()? & 1 == 1;
    valid.then_some(Parent { trace: *trace, span: *span, sampled })
}

/// The field's value if it came exactly once: of two, one may be an attacker's.
fn only<'a>(head: &'a RequestHead, name: &'a str) -> Option<&'a [u8]> {
    let mut all = head.header_all(name);
    let first = all.next()?;
    all.next().is_none().then_some(first)
}

/// 64 random bits from a generator of this thread's own, seeded by the system (SplitMix64 over a counter; Steele, Lea and Flood,
/// "Fast splittable pseudorandom number generators", 2014). No lock and no system call, and not for secrets.
pub fn random() -> u64 {
    thread_local! {
        static STATE: Cell<(u64, u64)> = Cell::new(seed());
    }
    STATE.with(|state| {
        // A second seed word as the increment, odd so that the counter passes all its values, keeps threads' sequences apart
        // even where their counters meet.
        let (counter, increment) = state.get();
        let counter = counter.wrapping_add(increment);
        state.set((counter, increment));
        let mixed = (counter ^ (counter >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

/// Ids of all zeros are invalid.
fn random_but_zero() -> u64 {
    random().max(1)
}

fn seed() -> (u64, u64) {
    let mut bytes = [0; 16];
    // Asked of the kernel, and not of the crypto library, whose first answer takes 40 ms of gathering entropy: a process's first request
    // waited for that.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) != Ok(bytes.len()) {
        // Without the system's randomness, std's per-process keys and the thread's stack address are unlike enough for a name.
        use std::hash::BuildHasher;
        let hasher = std::hash::RandomState::new();
        return (hasher.hash_one(0), hasher.hash_one(bytes.as_ptr() as usize) | 1);
    }
    let seed = u128::from_le_bytes(bytes);
    (seed as u64, (seed >> 64) as u64 | 1)
}

/// The sixteen hexadecimal digits of a number, eight at a time.
fn hex(value: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    let (high, low) = digits.split_at_mut(8);
    high.copy_from_slice(&hex_half((value >> 32) as u32));
    low.copy_from_slice(&hex_half(value as u32));
    digits
}

fn hex_half(value: u32) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Half a byte to each byte.
    let wide = u64::from(value);
    let wide = (wide << 16 | wide) & 0x0000_ffff_0000_ffff;
    let wide = (wide << 8 | wide) & 0x00ff_00ff_00ff_00ff;
    let wide = (wide << 4 | wide) & (ONES * 0x0f);
    // Adding 6 carries into the upper half where a letter is due, which stands 39 characters above where the digits would go on.
    let letters = (wide + ONES * 6) >> 4 & ONES;
    (wide + ONES * u64::from(b'0') + letters * 39).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn head(headers: &[(&str, &str)]) -> RequestHead {
        RequestHead::build("GET", "/", headers)
    }

    #[test]
    fn a_request_id_is_kept_only_from_the_trusted_and_only_if_plain() {
        assert_eq!(kept_request_id(&head(&[("X-Request-Id", "a.B_9-z")]), true), Some("a.B_9-z"));
        assert_eq!(kept_request_id(&head(&[("X-Request-Id", "abc")]), false), None);
        let long = "x".repeat(129);
        for bad in ["", "a b", "a\"b", "a\u{e9}", "<script>", "a,b", "a/b", &long] {
            assert_eq!(kept_request_id(&head(&[("X-Request-Id", bad)]), true), None, "{bad}");
        }
        assert!(kept_request_id(&head(&[("X-Request-Id", &long[1..])]), true).is_some());
        assert_eq!(kept_request_id(&head(&[("x-request-id", "a"), ("x-request-id", "b")]), true), None);
        assert_eq!(request_id(&head(&[("x-request-id", "abc")]), false).len(), 32);
    }

    #[test]
    fn digits_are_those_of_the_number() {
        for number in [0, 1, 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, u64::MAX, 0x9a9a_a9a9_0909_a0a0] {
            assert_eq!(hex(number).as_slice(), format!("{number:016x}").as_bytes());
        }
    }

    #[test]
    fn new_ids_differ_across_threads_and_calls() {
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(|| (0..5000).map(|_| new_request_id()).collect::<Vec<_>>())).collect();
        let ids: HashSet<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ids.len(), 20_000);
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
    }

    #[test]
    fn a_valid_trace_goes_on_with_a_new_span() {
        let head = head(&[("traceparent", VALID), ("tracestate", "a=1")]);
        let trace = Trace::of(&head, false);
        assert_eq!(&trace.traceparent[3..35], b"4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(&trace.traceparent[36..52], b"00f067aa0ba902b7");
        assert_eq!(trace.parent.as_ref(), Some(b"00f067aa0ba902b7"));
        assert!(trace.sampled && trace.traceparent.ends_with(b"-01"));
        let mut edits = HeaderEdits::new();
        trace.edits(&head, &mut edits);
        assert_eq!(edits.len(), 0, "tracestate passes");
    }

    #[test]
    fn an_invalid_trace_is_replaced_and_takes_its_state_along() {
        for bad in [
            "",
            "00",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0A",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        ] {
            let head = head(&[("traceparent", bad), ("tracestate", "a=1")]);
            let trace = Trace::of(&head, false);
            assert_eq!(trace.parent, None, "{bad}");
            assert!(parse_traceparent(&trace.traceparent).is_some_and(|own| !own.sampled), "{trace:?}");
            let mut edits = HeaderEdits::new();
            trace.edits(&head, &mut edits);
            assert!(matches!(&edits[0], HeaderEdit::Remove(name) if name == "tracestate"));
        }
        assert_eq!(Trace::of(&head(&[("traceparent", VALID), ("traceparent", VALID)]), true).parent, None);
    }

    #[test]
    fn a_new_trace_is_sampled_if_asked() {
        let trace = Trace::of(&head(&[]), true);
        assert!(trace.sampled && parse_traceparent(&trace.traceparent).is_some_and(|own| own.sampled));
    }

    #[test]
    fn unknown_flags_are_not_passed_on() {
        let head = head(&[("traceparent", &format!("{}fe", &VALID[..53]))]);
        assert!(Trace::of(&head, true).traceparent.ends_with(b"-00"));
    }
}
