//! `portcullis demo`: the product in one command. Sample backends, a gateway in front of them with a configuration that shows every
//! policy, and curl lines to paste.
//!
//! Everything runs in this process, and whatever is written is written to one temporary folder, which is removed at the end.
//! [`backends`] are the services, [`ports`] where everything listens, [`stage`] the folder with its credentials and configuration,
//! [`tries`] the curl lines, and [`verify`] what pastes them. The gateway itself is the one that `portcullis run` serves.

mod backends;
mod grpc;
mod ports;
mod signals;
mod stage;
mod tries;
mod verify;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use self::backends::Backends;
use self::signals::EarlySignals;
use self::stage::{DOWN, Stage};
use self::tries::Try;
use crate::serve::{self, Options};
use crate::snapshot::Snapshot;
use crate::successor;

/// How long the health checks may take to find out which backend is down.
const SETTLE: Duration = Duration::from_secs(10);

/// Runs the demo until a signal ends it; with `verify` only until every line has been pasted.
pub fn run(verify: bool) -> ExitCode {
    if successor::takes_over() {
        // The demo before got QUIT, which it takes for an order to end: it must not go on in another one.
        return ExitCode::FAILURE;
    }
    if std::env::var_os("RUST_LOG").is_none() {
        // Between the lines to paste, only what is really wrong.
        log::set_max_level(log::LevelFilter::Error);
    }
    match perform(verify) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(&why),
    }
}

fn fail(why: &str) -> ExitCode {
    // Nothing is left to be done about a standard error that cannot be written to.
    let _ = writeln!(anstream::stderr().lock(), "{}", why.trim_end());
    ExitCode::FAILURE
}

fn print(text: &str) {
    let mut out = anstream::stdout().lock();
    // A reader that stops early (`| head`) has seen enough; the demo goes on.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn perform(verify: bool) -> Result<(), String> {
    // Before there is a folder: from here on a signal is a request to clean up.
    let early = EarlySignals::catch().map_err(|error| format!("cannot catch signals: {error}"))?;
    let backends = Backends::start().map_err(|error| format!("cannot start the sample backends: {error}"))?;
    let stage = Stage::set(&backends).map_err(|error| format!("cannot prepare the demo: {error}"))?;
    let tries = tries::all(&stage);
    let page = page(&stage, &tries);
    let folder = stage.folder().to_owned();
    let options = Options { config: stage.config(), pid_file: None };
    let mut guide = None;
    let served = serve::run(options, |core| {
        let snapshot = core.snapshot.load_full();
        let show = move || {
            settle(&snapshot, &early);
            drop(snapshot);
            let shown = if early.stopped() {
                false
            } else if verify {
                verify::paste_all(&tries, &folder, &early)
            } else {
                print(&page);
                return true;
            };
            signals::stop();
            shown
        };
        guide = std::thread::Builder::new().name("guide".to_owned()).spawn(show).map_err(|_| signals::stop()).ok();
    });
    let shown = match guide {
        // It stops soon after the gateway has.
        Some(guide) if verify => guide.join().unwrap_or(false),
        Some(_) => true,
        None => false,
    };
    // Explicitly, because it is promised: nothing is left.
    stage.remove().map_err(|error| format!("cannot remove the demo's folder: {error}"))?;
    served.map_err(|failure| failure.to_string())?;
    if shown { Ok(()) } else { Err("not every line gave what it says".to_owned()) }
}

/// Waits until the health checks have found the backend that is down, so that every line holds from the first moment on.
fn settle(snapshot: &Snapshot, early: &EarlySignals) {
    let until = Instant::now() + SETTLE;
    let up = || snapshot.services.get(DOWN).is_some_and(|service| service.cluster.available() > 0);
    while up() && !early.stopped() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
}

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Statuses in the colour of their class.
fn statuses(expect: &[u16]) -> String {
    let one = |status: &u16| {
        let color = match status / 100 {
            2 => "\x1b[32m",
            4 => "\x1b[33m",
            5 => "\x1b[31m",
            _ => PLAIN,
        };
        format!("{color}{status}{PLAIN}")
    };
    expect.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// What the demo prints: where everything is, and the lines to paste. Pasting all of it works too: titles are comments.
fn page(stage: &Stage, tries: &[Try]) -> String {
    let mut text = format!(
        "{BOLD}Portcullis demo{PLAIN}: a gateway in front of five sample services. Ctrl-C ends it and leaves nothing behind.\n\n"
    );
    for (what, place) in stage.places() {
        text.push_str(&format!("  {what:<15} {place}\n"));
    }
    text.push_str(
        "\nPaste these lines into another terminal, in any order and as often as you like. Each says which status it gives.\n",
    );
    let mut group = "";
    for line in tries {
        if line.group != group {
            group = line.group;
            text.push_str(&format!("\n{BOLD}# {group}{PLAIN}\n"));
        }
        let gap = if line.expect.is_empty() { "" } else { "  " };
        text.push_str(&format!("\n{DIM}#{PLAIN} {}{gap}{DIM}{}{PLAIN}\n{}\n", statuses(&line.expect), line.title, line.command));
    }
    text
}
