//! The access log's front: its configuration, and the request path's side of it.
//!
//! A request writes its line straight into a buffer of its own thread, under a lock that nobody else wants but for the instant in
//! which the writer thread takes the buffer away (`writer`). There is no channel, and no copy of the line; the request path
//! never waits for a disk. What finds its thread's buffer full is dropped and counted.
//!
//! The log belongs to the process and outlives generations. Not here: rotation (an operator's tool renames the file and sends
//! SIGHUP, upon which [`AccessLog::reopen`] is called) and durability (nothing is synced to the disk).

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::record::{Clock, Line};
use super::writer;
use crate::cidr::Occupant;
use crate::limits::heavy_hitters::{Allowance, HeavyHitters, LONGEST};
use crate::problem::{Place, Problem, Problems};
use crate::tally::shard::{Counter, Padded, slot, slots};
use crate::value::{Period, Rate, Spanned};

/// How many lines a thread may have waiting, by default.
const QUEUE: usize = 8192;
/// And how many bytes of them, however long the lines are.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// How many lines of refusals a client may cause, by default.
const REFUSALS: Rate = Rate { count: 100, per: Duration::from_secs(1) };
/// With so many bytes waiting, the writer thread is woken instead of left to come by itself.
const WAKE_BYTES: usize = 64 * 1024;

/// The access log: one JSON line per request, refused or not.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLogConfig {
    /// Where the lines go: `stdout` (the default), `stderr`, `{ file: PATH }`, or `false` for no log.
    pub output: Spanned<Output>,
    /// How many lines each worker thread may have waiting for a slow output, 64 to 1048576; beyond that lines are dropped and
    /// counted. At most 4 MiB per thread whatever it says. 8192 by default.
    pub queue: Spanned<usize>,
    /// Logs the query string as well. Off by default, because queries carry credentials.
    pub query: bool,
    /// How many lines one client may cause with requests that the gateway refuses (4xx), in a time of 1 second to 1 minute, so that a flood
    /// does not push the others' lines out of the log: `100/s` by default, `false` for all of them. A client is one IPv4 address or one
    /// IPv6 /64. The lines beyond are counted, and `suppressed` in the next one says how many there were. What a service answers is
    /// always logged.
    pub refusals_per_client: Spanned<Sampling>,
}

/// How many lines of refusals one client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    All,
    Most(Rate),
}

impl<'de> Deserialize<'de> for Sampling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SamplingVisitor;

        impl Visitor<'_> for SamplingVisitor {
            type Value = Sampling;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate such as `100/s`, or `false`")
            }

            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<Sampling, E> {
                if on { Err(E::invalid_value(serde::de::Unexpected::Bool(on), &self)) } else { Ok(Sampling::All) }
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Sampling, E> {
                text.parse().map(Sampling::Most).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(SamplingVisitor)
    }
}

impl JsonSchema for Sampling {
    fn schema_name() -> Cow<'static, str> {
        "AccessLogSampling".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rate = generator.subschema_for::<Rate>();
        json_schema!({ "oneOf": [rate, { "const": false }] })
    }
}

impl Default for AccessLogConfig {
    fn default() -> Self {
        AccessLogConfig {
            output: Spanned { value: Output::Stdout, place: Place::NOWHERE },
            queue: Spanned { value: QUEUE, place: Place::NOWHERE },
            query: false,
            refusals_per_client: Spanned { value: Sampling::Most(REFUSALS), place: Place::NOWHERE },
        }
    }
}

/// Where lines go, as written in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
    File(PathBuf),
    Off,
}

impl<'de> Deserialize<'de> for Output {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OutputVisitor)
    }
}

struct OutputVisitor;

impl<'de> Visitor<'de> for OutputVisitor {
    type Value = Output;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`stdout`, `stderr`, `{ file: PATH }` or `false`")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Output, E> {
        match text {
            "stdout" => Ok(Output::Stdout),
            "stderr" => Ok(Output::Stderr),
            _ => Err(E::custom(format_args!("`{text}` is no output: write `stdout`, `stderr`, `{{ file: PATH }}` or `false`"))),
        }
    }

    fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<Output, E> {
        if on {
            Err(E::custom("`true` does not say where: write `stdout`, `stderr` or `{ file: PATH }`"))
        } else {
            Ok(Output::Off)
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Output, A::Error> {
        let mut path: Option<PathBuf> = None;
        while let Some(key) = map.next_key::<String>()? {
            match &*key {
                "file" if path.is_some() => return Err(A::Error::duplicate_field("file")),
                "file" => path = Some(map.next_value()?),
                _ => return Err(A::Error::unknown_field(&key, &["file"])),
            }
        }
        path.map(Output::File).ok_or_else(|| A::Error::missing_field("file"))
    }
}

impl JsonSchema for Output {
    fn schema_name() -> Cow<'static, str> {
        "AccessLogOutput".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                { "enum": ["stdout", "stderr", false] },
                {
                    "type": "object",
                    "properties": { "file": { "type": "string", "description": "Appended to; created with mode 0640." } },
                    "required": ["file"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

/// Where lines go, with the path resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Off,
    Stdout,
    Stderr,
    File(PathBuf),
}

/// The compiled configuration; hand it to [`AccessLog::apply`] when its generation is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub target: Target,
    /// Lines per thread.
    pub queue: usize,
    pub query: bool,
    /// How many refusals of one client are logged. `None`: all.
    pub refusals: Option<Allowance>,
}

impl AccessLogConfig {
    /// Checks what can be checked without touching anything. Relative paths count from `base`.
    pub fn compile(&self, base: &Path, problems: &mut Problems) -> Settings {
        let target = match &self.output.value {
            Output::Off => Target::Off,
            Output::Stdout => Target::Stdout,
            Output::Stderr => Target::Stderr,
            Output::File(path) => {
                let path = base.join(path);
                check_file(&path, self.output.place, problems);
                Target::File(path)
            }
        };
        if !(64..=1024 * 1024).contains(&self.queue.value) {
            let message = format!("a queue of {} lines is not within 64 and 1048576", self.queue.value);
            problems.push(Problem::error(self.queue.place, message).hint(format!("leave it out for {QUEUE}")));
        }
        let refusals = match self.refusals_per_client.value {
            Sampling::All => None,
            Sampling::Most(rate) => {
                let allowance = Allowance::new(rate);
                if allowance.is_none() {
                    let message = format!("`refusals_per_client` counts over at most {}", Period(LONGEST));
                    let problem = Problem::error(self.refusals_per_client.place, message);
                    problems.push(problem.hint("write `100/s` or `1000/minute`, or `false` for every line"));
                }
                allowance
            }
        };
        Settings { target, queue: self.queue.value, query: self.query, refusals }
    }
}

fn check_file(path: &Path, place: Place, problems: &mut Problems) {
    use std::os::unix::fs::FileTypeExt;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let wrong = match path.metadata() {
        // Opening a pipe would wait for a reader.
        Ok(known) if !known.is_file() && !known.file_type().is_char_device() => "is not a file",
        Ok(_) => return,
        Err(_) if folder.is_some_and(|folder| !folder.is_dir()) => "is in a folder that does not exist",
        Err(_) => return,
    };
    problems.push(Problem::error(place, format!("the access log `{}` {wrong}", path.display())));
}

/// What became of the lines.
#[derive(Debug, Default)]
pub struct Stats {
    pub(super) written: Counter,
    pub(super) dropped: Counter,
    pub(super) errors: Counter,
    suppressed: Counter,
}

impl Stats {
    /// Lines that reached the output.
    pub fn written(&self) -> u64 {
        self.written.sum()
    }

    /// Lines that did not, because too many waited.
    pub fn dropped(&self) -> u64 {
        self.dropped.sum()
    }

    /// Lines that were left out because their client had caused more than its share.
    pub fn suppressed(&self) -> u64 {
        self.suppressed.sum()
    }

    /// Failures to write or to open the output. A line whose writing failed is not lost; it is tried again.
    pub fn errors(&self) -> u64 {
        self.errors.sum()
    }
}

/// A thread's waiting lines.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub bytes: Vec<u8>,
    pub lines: usize,
    clock: Clock,
}

/// What the request path and the writer thread share.
#[derive(Debug)]
pub(super) struct Shared {
    /// One for each slot, and one for the threads without.
    pub waiting: Box<[Padded<Mutex<Waiting>>]>,
    /// The writer thread sleeps until it is woken.
    pub idle: AtomicBool,
    pub stats: Arc<Stats>,
    on: AtomicBool,
    query: AtomicBool,
    queue: AtomicUsize,
    refusals: ArcSwapOption<Allowance>,
    refused: HeavyHitters,
}

/// The process's access log.
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    writer: writer::Handle,
    applied: Mutex<Option<Settings>>,
}

impl AccessLog {
    /// Starts the writer thread. Nothing is logged before [`AccessLog::apply`].
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start() -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            waiting: std::iter::repeat_with(Padded::default).take(slots() + 1).collect(),
            idle: AtomicBool::new(false),
            stats: Arc::default(),
            on: AtomicBool::new(false),
            query: AtomicBool::new(false),
            queue: AtomicUsize::new(QUEUE),
            refusals: ArcSwapOption::empty(),
            refused: HeavyHitters::default(),
        });
        let writer = writer::Handle::start(shared.clone())?;
        Ok(Arc::new(AccessLog { shared, writer, applied: Mutex::new(None) }))
    }

    /// Logs by these settings from now on. Lines that wait are still written to the former output. An output that stays the same
    /// is not touched.
    ///
    /// # Errors
    /// The output cannot be opened; everything stays as it was.
    pub fn apply(&self, settings: &Settings) -> io::Result<()> {
        let mut applied = self.applied.lock();
        if applied.as_ref().map(|applied| &applied.target) != Some(&settings.target) {
            self.writer.switch(settings.target.clone(), open(&settings.target)?);
        }
        self.shared.query.store(settings.query, Ordering::Relaxed);
        self.shared.queue.store(settings.queue, Ordering::Relaxed);
        self.shared.refusals.store(settings.refusals.map(Arc::new));
        // After the order to switch: whoever sees this has its line written to the new output.
        self.shared.on.store(settings.target != Target::Off, Ordering::Release);
        *applied = Some(settings.clone());
        Ok(())
    }

    /// Whether lines go anywhere; saves making a record.
    pub fn is_on(&self) -> bool {
        self.shared.on.load(Ordering::Acquire)
    }

    /// Asked before a refusal is logged: `None` if its client has had all the lines that it may cause; else how many of its lines were left
    /// out since the last one.
    pub fn samples(&self, client: IpAddr) -> Option<u64> {
        let allowance = self.shared.refusals.load();
        let Some(allowance) = &*allowance else { return Some(0) };
        let suppressed = self.shared.refused.observe(Occupant::from(client), allowance);
        if suppressed.is_none() {
            self.shared.stats.suppressed.add(1);
        }
        suppressed
    }

    /// Logs a request, or a connection. Never waits for the output; the line reaches it within about 50 ms.
    pub fn write(&self, record: &impl Line) {
        let shared = &*self.shared;
        if !self.is_on() {
            return;
        }
        let own = slot().and_then(|slot| shared.waiting.get(slot)).or(shared.waiting.last());
        let Some(Padded(waiting)) = own else { return };
        let mut waiting = waiting.lock();
        let Waiting { bytes, lines, clock } = &mut *waiting;
        let before = bytes.len();
        if *lines >= shared.queue.load(Ordering::Relaxed) || before >= QUEUE_BYTES {
            shared.stats.dropped.add(1);
            return;
        }
        record.write(bytes, clock, shared.query.load(Ordering::Relaxed));
        *lines += 1;
        let (first, after) = (*lines == 1, bytes.len());
        drop(waiting);
        // Only the line that begins a batch can find the writer asleep: going to sleep, it says so first, and looks at every
        // buffer once more after that.
        if (first && shared.idle.load(Ordering::SeqCst)) || (before < WAKE_BYTES && after >= WAKE_BYTES) {
            self.writer.wake();
        }
    }

    /// Opens a file anew by its name, after it was renamed. What waits still goes to the renamed one.
    pub fn reopen(&self) {
        self.writer.reopen();
    }

    /// Waits until every line that was logged before this call has been written. `false` if that took longer than `timeout`.
    /// Blocks the thread: not for one that serves requests.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.writer.flush(timeout)
    }

    /// For the metrics.
    pub fn stats(&self) -> Arc<Stats> {
        self.shared.stats.clone()
    }
}

/// Opens an output. A standard stream is duplicated, so that it can be handled like a file.
pub(super) fn open(target: &Target) -> io::Result<Option<File>> {
    use std::os::fd::AsFd;
    use std::os::unix::fs::OpenOptionsExt;
    match target {
        Target::Off => Ok(None),
        Target::Stdout => io::stdout().as_fd().try_clone_to_owned().map(|fd| Some(fd.into())),
        Target::Stderr => io::stderr().as_fd().try_clone_to_owned().map(|fd| Some(fd.into())),
        Target::File(path) => File::options().append(true).create(true).mode(0o640).open(path).map(Some),
    }
}

#[cfg(test)]
mod tests;
