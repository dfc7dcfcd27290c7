//! Handing the listening sockets to the next process, so that an upgrade loses no connection.
//!
//! The old process starts the new binary with the path of a private socket in its environment, passes every listening socket over
//! it, and goes on serving until the new one says that it serves too. Until that word, any failure leaves the old process as it was.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::upgrade;

/// Names the socket to the successor.
const VARIABLE: &str = "PORTCULLIS_TAKE_OVER";
/// How long the successor may take to start and compile its configuration.
const PATIENCE: Duration = Duration::from_secs(60);

/// The binary's path as it was when the process started: after the file was replaced, the kernel's own answer names a deleted file.
static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Remembers the binary's path. Called first thing in `main`.
pub fn remember_binary() {
    if let Ok(path) = std::env::current_exe() {
        let _ = BINARY.set(path);
    }
}

/// Whether this process was started to take over from another.
pub fn takes_over() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// What the process before handed over, if there was one.
#[derive(Default)]
pub struct Inheritance {
    stream: Option<UnixStream>,
    sockets: Vec<(String, OwnedFd)>,
    before: Option<u32>,
}

impl Inheritance {
    /// Fetches the sockets from the process before. Empty where there is none.
    ///
    /// # Errors
    /// There is one, but what it sent is not whole.
    pub fn receive() -> io::Result<Self> {
        let Some(path) = std::env::var_os(VARIABLE) else { return Ok(Self::default()) };
        let stream = UnixStream::connect(path)?;
        upgrade::check_peer(&stream)?;
        let sockets = upgrade::receive_listeners(&stream)?;
        let before = upgrade::peer(&stream)?;
        Ok(Inheritance { stream: Some(stream), sockets, before })
    }

    /// The process before.
    pub fn before(&self) -> Option<u32> {
        self.before
    }

    pub fn take_sockets(&mut self) -> Vec<(String, OwnedFd)> {
        std::mem::take(&mut self.sockets)
    }

    /// Tells the process before that this one serves.
    pub fn acknowledge(&mut self) {
        if let Some(stream) = self.stream.take()
            && let Err(error) = upgrade::acknowledge(&stream)
        {
            log::error!("the process before was not told that this one serves: {error}");
        }
    }
}

/// Starts the successor and hands it the sockets. Its process id, once it serves.
///
/// # Errors
/// It could not be started, ended early, or did not say within a minute that it serves. It is ended then.
pub async fn hand_over(sockets: &[(String, BorrowedFd<'_>)], path: Option<&str>) -> io::Result<u32> {
    // Only for this user, or the socket in it would be refused: the default is whatever the umask leaves.
    let private = Permissions::from_mode(0o700);
    let folder = tempfile::Builder::new().prefix("portcullis-").permissions(private).tempdir()?;
    let path = path.map_or_else(|| folder.path().join("take-over.sock"), PathBuf::from);
    let meeting = upgrade::bind_socket(&path)?;
    meeting.set_nonblocking(true)?;
    let binary = BINARY.get().ok_or_else(|| io::Error::other("the binary's path is not known"))?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut child = Command::new(binary).args(arguments).env(VARIABLE, &path).spawn()?;
    let met = meet(&meeting, &mut child, sockets).await;
    let _ = std::fs::remove_file(&path);
    match met {
        Ok(()) => Ok(child.id()),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

async fn meet(meeting: &UnixListener, child: &mut Child, sockets: &[(String, BorrowedFd<'_>)]) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    let stream = loop {
        match meeting.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        ended(child)?;
        if Instant::now() > until {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the successor did not ask for the sockets"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    stream.set_nonblocking(false)?;
    upgrade::check_peer(&stream)?;
    upgrade::send_listeners(&stream, sockets)?;
    // Off the main thread, which goes on answering the admin API.
    let left = until.saturating_duration_since(Instant::now());
    let waiting = tokio::task::spawn_blocking(move || upgrade::await_acknowledgement(&stream, left));
    waiting.await.map_err(io::Error::other)??;
    ended(child)
}

fn ended(child: &mut Child) -> io::Result<()> {
    match child.try_wait()? {
        Some(status) => Err(io::Error::other(format!("the successor ended early: {status}"))),
        None => Ok(()),
    }
}
