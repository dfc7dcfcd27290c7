//! Signals while the demo runs. Ending on one is the gateway's part; here is what it does not do: a signal that comes before it
//! listens must not leave the folder behind, Ctrl-\ must not start a second demo, and nobody ends a demo whose terminal is gone.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// Whether a signal has asked the demo to end.
#[derive(Clone)]
pub struct EarlySignals(Arc<AtomicBool>);

impl EarlySignals {
    /// From now on INT, TERM, QUIT and HUP no longer end the process by themselves.
    ///
    /// # Errors
    /// The system gives no thread or no event queue.
    pub fn catch() -> io::Result<Self> {
        let stopped = EarlySignals(Arc::new(AtomicBool::new(false)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let mut int = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        let mut quit = signal(SignalKind::quit())?;
        let mut hangup = signal(SignalKind::hangup())?;
        drop(inside);
        let (told, had_terminal) = (stopped.clone(), io::stdout().is_terminal());
        let listen = async move {
            loop {
                let end = tokio::select! {
                    _ = int.recv() => true,
                    _ = term.recv() => true,
                    _ = quit.recv() => {
                        // The gateway takes it for an order to upgrade, which fails, as it should.
                        log::set_max_level(log::LevelFilter::Off);
                        stop();
                        true
                    }
                    // Else it is an order to reload, which the gateway obeys.
                    _ = hangup.recv() => {
                        let gone = had_terminal && !io::stdout().is_terminal();
                        if gone {
                            stop();
                        }
                        gone
                    }
                };
                if end {
                    told.0.store(true, Ordering::Release);
                }
            }
        };
        // Ends with the process.
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(listen))?;
        Ok(stopped)
    }

    pub fn stopped(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Asks this process to end as soon as what is under way is done.
pub fn stop() {
    // A process exists as long as it runs, and may signal itself.
    let _ = kill_process(getpid(), Signal::TERM);
}
