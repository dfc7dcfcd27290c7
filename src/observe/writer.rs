//! The access log's writer thread: takes away what waits in the request threads' buffers, and writes it in large pieces.
//!
//! It comes by every [`LINGER`] while there is traffic, sooner where much is waiting, and sleeps when there is none. A failed
//! write is counted, said on the diagnostic log at most once per [`SAY`], and tried again; meanwhile the request threads' buffers
//! fill up to their bound and then drop, so that memory stays bounded. Lines are never torn by a change of output.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::access_log::{Shared, Target, open};
use crate::tally::shard::Padded;

/// How long lines gather before they are written.
const LINGER: Duration = Duration::from_millis(50);
/// The longest sleep, though nobody wakes it.
const NAP: Duration = Duration::from_secs(1);
/// How long to wait after a failed write.
const RETRY: Duration = Duration::from_millis(200);
/// Troubles are said at most so often.
const SAY: Duration = Duration::from_secs(10);
/// How much goes into one write to a file.
const BATCH: usize = 64 * 1024;
/// How much goes into one write to a pipe: what the kernel does not mix with another process's lines (`PIPE_BUF`), while two
/// processes share the pipe during an upgrade.
const PIPE_BATCH: usize = 4096;
/// A buffer that grew larger is given back to the allocator when it is empty.
const KEEP: usize = 256 * 1024;

/// What the writer thread is asked to do.
#[derive(Debug, Default)]
struct Orders {
    switch: Option<(Target, Option<File>)>,
    reopen: bool,
    /// The number of flushes asked for.
    flush: u64,
    /// Of those, how many are done.
    flushed: u64,
}

#[derive(Debug, Default)]
struct Desk {
    orders: Mutex<Orders>,
    flushed: Condvar,
    stop: AtomicBool,
}

/// The request path's hold on the writer thread, which ends, after a last round, when this is dropped.
#[derive(Debug)]
pub(super) struct Handle {
    desk: Arc<Desk>,
    thread: Thread,
}

impl Handle {
    pub fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let mut writer = Writer::new(shared, desk.clone());
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run())?;
        Ok(Handle { desk, thread: thread.thread().clone() })
    }

    pub fn wake(&self) {
        self.thread.unpark();
    }

    pub fn switch(&self, target: Target, file: Option<File>) {
        let mut orders = self.desk.orders.lock();
        orders.switch = Some((target, file));
        // The file was opened just now, later than whatever made someone ask.
        orders.reopen = false;
        drop(orders);
        self.wake();
    }

    pub fn reopen(&self) {
        self.desk.orders.lock().reopen = true;
        self.wake();
    }

    pub fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout.min(Duration::from_secs(24 * 3600));
        let mut orders = self.desk.orders.lock();
        orders.flush += 1;
        let ticket = orders.flush;
        self.wake();
        while orders.flushed < ticket {
            if self.desk.flushed.wait_until(&mut orders, deadline).timed_out() {
                return orders.flushed >= ticket;
            }
        }
        true
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.desk.stop.store(true, Ordering::Release);
        self.wake();
    }
}

/// Says something now and then.
#[derive(Default)]
struct Said(Option<Instant>);

impl Said {
    fn is_due(&mut self) -> bool {
        let due = self.0.is_none_or(|last| last.elapsed() >= SAY);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}

struct Writer {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    target: Target,
    file: Option<File>,
    batch: usize,
    /// Whole lines that were taken from the threads, and how much of them is written.
    pending: Vec<u8>,
    written: usize,
    /// An empty buffer to exchange for a thread's full one.
    spare: Vec<u8>,
    /// A file could not be opened anew yet.
    reopen: bool,
    error_said: Said,
    drops_said: Said,
    drops_seen: u64,
}

impl Writer {
    fn new(shared: Arc<Shared>, desk: Arc<Desk>) -> Self {
        Writer {
            shared,
            desk,
            target: Target::Off,
            file: None,
            batch: BATCH,
            pending: Vec::new(),
            written: 0,
            spare: Vec::new(),
            reopen: false,
            error_said: Said::default(),
            drops_said: Said::default(),
            drops_seen: 0,
        }
    }

    fn run(&mut self) {
        loop {
            let stop = self.desk.stop.load(Ordering::Acquire);
            let flush = self.desk.orders.lock().flush;
            let (busy, written) = self.round();
            self.obey();
            if written {
                let mut orders = self.desk.orders.lock();
                orders.flushed = flush;
                self.desk.flushed.notify_all();
            }
            if stop {
                return;
            }
            self.say_drops();
            match (written, busy) {
                (false, _) => thread::park_timeout(RETRY),
                (true, true) => thread::park_timeout(LINGER),
                (true, false) => self.sleep(flush),
            }
        }
    }

    /// Takes and writes what waits. Returns whether there was anything, and whether all of it is written.
    fn round(&mut self) -> (bool, bool) {
        let mut busy = !self.pending.is_empty();
        // What failed comes first. The threads keep theirs until it is gone, so that no more than the bound is ever held.
        if !self.write_pending() {
            return (busy, false);
        }
        let shared = self.shared.clone();
        for Padded(waiting) in &shared.waiting {
            let mut waiting = waiting.lock();
            if waiting.lines == 0 {
                continue;
            }
            std::mem::swap(&mut waiting.bytes, &mut self.spare);
            waiting.lines = 0;
            drop(waiting);
            busy = true;
            if self.pending.is_empty() {
                // Mostly: the buffers change places, and no line is copied.
                std::mem::swap(&mut self.pending, &mut self.spare);
            } else {
                self.pending.append(&mut self.spare);
            }
            if self.spare.capacity() > KEEP {
                self.spare = Vec::new();
            }
            if self.pending.len() >= BATCH && !self.write_pending() {
                return (true, false);
            }
        }
        (busy, self.write_pending())
    }

    /// Whether nothing is left to write.
    fn write_pending(&mut self) -> bool {
        while self.written < self.pending.len() {
            if self.file.is_none() {
                // A line may overtake the order that tells where it goes.
                self.obey();
            }
            let Some(file) = &mut self.file else { break };
            let end = batch_end(&self.pending, self.written, self.batch);
            match file.write(self.pending.get(self.written..end).unwrap_or_default()) {
                Ok(0) => return self.failed(&io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    let done = self.pending.get(self.written..self.written + count).unwrap_or_default();
                    self.shared.stats.written.add(memchr::memchr_iter(b'\n', done).count() as u64);
                    self.written += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A standard stream that someone made non-blocking, and whose reader is slow.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => return self.failed(&error),
            }
        }
        self.written = 0;
        self.pending.clear();
        if self.pending.capacity() > KEEP {
            self.pending = Vec::new();
        }
        true
    }

    fn failed(&mut self, error: &io::Error) -> bool {
        self.shared.stats.errors.add(1);
        if self.error_said.is_due() {
            log::error!("the access log cannot be written to {}: {error}; trying again", name(&self.target));
        }
        false
    }

    /// Changes the output, if asked to.
    fn obey(&mut self) {
        let mut orders = self.desk.orders.lock();
        let switch = orders.switch.take();
        let reopen = std::mem::take(&mut orders.reopen);
        drop(orders);
        if let Some((target, file)) = switch {
            self.target = target;
            self.take_file(file);
            self.reopen = false;
        }
        self.reopen |= reopen;
        if self.reopen {
            self.open_again();
        }
    }

    fn open_again(&mut self) {
        match &self.target {
            Target::File(_) => match open(&self.target) {
                Ok(file) => {
                    self.reopen = false;
                    self.take_file(file);
                }
                // Goes on with the renamed file meanwhile.
                Err(error) => {
                    self.failed(&error);
                }
            },
            _ => self.reopen = false,
        }
    }

    fn take_file(&mut self, file: Option<File>) {
        let regular = file.as_ref().and_then(|file| file.metadata().ok()).is_some_and(|known| known.is_file());
        self.batch = if regular { BATCH } else { PIPE_BATCH };
        self.file = file;
        // A line of which the former output got only a part is written whole to the new one.
        let done = self.pending.get(..self.written).unwrap_or_default();
        self.written = memchr::memrchr(b'\n', done).map_or(0, |at| at + 1);
    }

    /// Sleeps until something is to be done.
    fn sleep(&self, flushed: u64) {
        self.shared.idle.store(true, Ordering::SeqCst);
        let waits = self.shared.waiting.iter().any(|Padded(waiting)| waiting.lock().lines > 0);
        let ordered = {
            let orders = self.desk.orders.lock();
            orders.switch.is_some() || orders.reopen || orders.flush > flushed
        };
        if !waits && !ordered && !self.desk.stop.load(Ordering::Acquire) {
            thread::park_timeout(NAP);
        }
        self.shared.idle.store(false, Ordering::SeqCst);
    }

    fn say_drops(&mut self) {
        let dropped = self.shared.stats.dropped();
        if dropped != self.drops_seen && self.drops_said.is_due() {
            log::warn!("{} access log lines were dropped: {} does not keep up", dropped - self.drops_seen, name(&self.target));
            self.drops_seen = dropped;
        }
    }
}

/// Where the next write ends: with the last line that ends within `batch` bytes, or with the first one if it is longer.
fn batch_end(pending: &[u8], from: usize, batch: usize) -> usize {
    let rest = pending.get(from..).unwrap_or_default();
    let Some(window) = rest.get(..batch) else { return pending.len() };
    let end = memchr::memrchr(b'\n', window).or_else(|| memchr::memchr(b'\n', rest));
    end.map_or(pending.len(), |at| from + at + 1)
}

fn name(target: &Target) -> std::borrow::Cow<'_, str> {
    match target {
        Target::Off => "nowhere".into(),
        Target::Stdout => "stdout".into(),
        Target::Stderr => "stderr".into(),
        Target::File(path) => path.to_string_lossy(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_whole_lines() {
        let text = b"aaa\nbb\ncccccccccc\nd";
        assert_eq!(batch_end(text, 0, 8), 7);
        assert_eq!(batch_end(text, 0, 4), 4);
        assert_eq!(batch_end(text, 7, 4), 18, "a long line goes alone");
        assert_eq!(batch_end(text, 7, 11), 18);
        assert_eq!(batch_end(text, 18, 4), 19);
        assert_eq!(batch_end(text, 0, 100), 19);
        assert_eq!(batch_end(b"", 0, 4), 0);
    }
}
