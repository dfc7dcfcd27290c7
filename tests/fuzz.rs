//! The short form of `make fuzz`: every seed, and a few thousand changes of each, always the same ones.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::panic::catch_unwind;
use std::path::Path;

use targets::TARGETS;

use crate::harness::Dice;

/// For each seed.
const CHANGES: u64 = 5000;

/// What means something to one reader or another.
const WORDS: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b"%",
    b"%2e%2e",
    b"//",
    b"\x7f",
    b"\xff",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"HTTP/1.1",
    b"ffffffffffffffff",
    b"\"",
    b"*",
    b"&a ",
    b"${A}",
    b"- ",
];

fn changed(seed: &[u8], other: &[u8], number: u64) -> Vec<u8> {
    let mut dice = Dice::new(number);
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(bytes.len() + 1);
        let until = (at + dice.roll(8)).min(bytes.len());
        match dice.roll(6) {
            0 => drop(bytes.drain(at..until)),
            1 => drop(bytes.splice(at..at, WORDS[dice.roll(WORDS.len())].iter().copied())),
            2 => drop(bytes.splice(at..until, WORDS[dice.roll(WORDS.len())].iter().copied())),
            3 if at < bytes.len() => bytes[at] ^= 1 << dice.roll(8),
            4 => {
                let part = bytes[at..].to_vec();
                bytes.extend(part);
            }
            _ => {
                let from = dice.roll(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}

#[test]
fn no_bytes_from_outside_break_a_promise() {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
        let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let seeds: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
        assert!(seeds.len() >= 4, "{name}");
        for (at, seed) in seeds.iter().enumerate() {
            let other = &seeds[(at + 1) % seeds.len()];
            let changes = if seed.len() > 1000 { CHANGES / 10 } else { CHANGES };
            let inputs = std::iter::once(seed.clone()).chain((0..changes).map(|number| changed(seed, other, number)));
            for input in inputs {
                if let Err(broken) = catch_unwind(|| target(&input)) {
                    panic!("{name}, {}: \"{}\": {broken:?}", files[at].display(), input.escape_ascii());
                }
            }
        }
    }
}
