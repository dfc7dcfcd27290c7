//! A file on a device that is slow, or hangs: whoever opens it, or reads it, is answered once the test lets him be.
//!
//! It is a file system of one file (FUSE), mounted over the one that was there. What is asked of it is read from `/dev/fuse`; how requests
//! and answers are laid out is in the kernel's `include/uapi/linux/fuse.h`.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};

const GETATTR: u32 = 3;
const FORGET: u32 = 2;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
/// Of the kernel, below 0.
const NO_SUCH_CALL: i32 = -38;
/// In front of all that is asked.
const HEAD: usize = 40;
/// What is read is asked of the test each time.
const DIRECT: u32 = 1;

pub struct SlowFile {
    path: PathBuf,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    hangs: bool,
    /// Those who wait.
    waiting: usize,
}

impl SlowFile {
    /// Takes the place of a file whose bytes it has, and hangs. `None` where this user may not mount one.
    pub fn over(path: &Path) -> Option<SlowFile> {
        let bytes = std::fs::read(path).unwrap();
        let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        let options = format!("fd=0,rootmode=100600,user_id={0},group_id={0}", rustix::process::geteuid().as_raw());
        let stdin = Stdio::from(device.try_clone().unwrap());
        let done = Command::new("mount").args(["-i", "-t", "fuse", "-o", &options, "none"]).arg(path).stdin(stdin).status();
        done.ok().filter(|status| status.success())?;
        let gate = Arc::new(Gate { state: Mutex::new(State { hangs: true, waiting: 0 }), changed: Condvar::new() });
        let lets = gate.clone();
        std::thread::spawn(move || serve(device, &bytes, &lets));
        Some(SlowFile { path: path.to_owned(), gate })
    }

    pub fn hang(&self) {
        self.gate.state.lock().unwrap().hangs = true;
    }

    pub fn go_on(&self) {
        self.gate.state.lock().unwrap().hangs = false;
        self.gate.changed.notify_all();
    }

    /// Whether somebody waits for it.
    pub fn is_awaited(&self) -> bool {
        self.gate.state.lock().unwrap().waiting > 0
    }
}

impl Drop for SlowFile {
    fn drop(&mut self) {
        // All that is asked of it fails from here on.
        let _ = Command::new("umount").args(["-f", "-l"]).arg(&self.path).status();
        self.go_on();
    }
}

/// Until it is taken away.
fn serve(mut device: File, bytes: &[u8], gate: &Gate) {
    let mut asked = vec![0; 1 << 18];
    while let Ok(length) = device.read(&mut asked) {
        let asked = &asked[..length];
        let (call, which) = (number(asked, 4), &asked[8..16]);
        let (error, said) = match call {
            FORGET | INTERRUPT => continue,
            // The version that is spoken, and nothing besides.
            INIT => (0, [&words(&[7, 31])[..], &[0; 56]].concat()),
            GETATTR => (0, facts(bytes.len() as u64)),
            OPEN | READ => {
                gate.pass();
                match call {
                    OPEN => (0, words(&[1, 0, DIRECT, 0])),
                    _ => (0, part(bytes, number(asked, HEAD + 8) as usize, number(asked, HEAD + 16) as usize)),
                }
            }
            FLUSH | RELEASE => (0, Vec::new()),
            _ => (NO_SUCH_CALL, Vec::new()),
        };
        let length = u32::try_from(16 + said.len()).unwrap();
        let answer = [&length.to_le_bytes(), &error.to_le_bytes()[..], which, &said].concat();
        // Whoever has asked may be gone.
        let _ = device.write_all(&answer);
    }
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        let mut state = self.changed.wait_while(state, |state| state.hangs).unwrap();
        state.waiting -= 1;
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn part(bytes: &[u8], from: usize, length: usize) -> Vec<u8> {
    let from = from.min(bytes.len());
    bytes[from..bytes.len().min(from + length)].to_vec()
}

/// Of a plain file that is this user's: known for an hour.
fn facts(size: u64) -> Vec<u8> {
    let user = rustix::process::geteuid().as_raw();
    let mut said = words(&[3600, 0, 0, 0, 1, 0]);
    said.extend_from_slice(&size.to_le_bytes());
    // Its blocks, and three times.
    said.extend_from_slice(&[0; 8 * 4 + 3 * 4]);
    said.extend(words(&[0o100_600, 1, user, user, 0, 4096, 0]));
    said
}
