//! Handing the listening sockets to the next process: the primitives.
//!
//! The old process sends its listeners over a connected Unix socket and goes on serving; the new one adopts them, starts to accept,
//! and acknowledges; only then does the old one stop accepting. A socket that both processes hold keeps its queue of connections,
//! so that none is refused in between. On any failure the old process has lost nothing.
//!
//! On the wire, numbers being big-endian `u32`: a preamble (version byte, number of descriptors, bytes of names), then batches of
//! at most [`BATCH`] descriptors: a head (number of descriptors, bytes of names) whose message carries the descriptors
//! (`SCM_RIGHTS`), then for each its name's length and its name. At the end one byte comes back.
//!
//! Not here: signals, starting the process, and deciding when it is ready.

use std::collections::HashSet;
use std::fs::{DirBuilder, Permissions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg, sockopt,
};

/// Of the protocol. A process refuses another version, and the old process goes on serving.
const VERSION: u8 = 1;
/// Descriptors in one message; the kernel takes 253.
const BATCH: usize = 64;
/// Descriptors in all.
const MOST_DESCRIPTORS: usize = 4096;
/// Bytes of all names together.
const MOST_NAMES: usize = 64 * 1024;
/// How long a transfer may take as a whole.
const TRANSFER: Duration = Duration::from_secs(10);
const ACKNOWLEDGED: u8 = 6;

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Sends listeners, each with a key that is its own (`listener#n`: a listener may have several sockets). Leaves the stream
/// blocking.
///
/// # Errors
/// More than 4,096 descriptors, more than 64 KiB of names, a key that is there twice; the peer does not read within 10 seconds
/// (`TimedOut`) or is gone.
pub fn send_listeners(stream: &UnixStream, listeners: &[(String, BorrowedFd<'_>)]) -> io::Result<()> {
    let names: usize = listeners.iter().map(|(name, _)| name.len()).sum();
    check_bounds(listeners.len(), names)?;
    check_keys(listeners.iter().map(|(name, _)| &**name))?;
    let wire = Wire::new(stream, TRANSFER)?;
    let mut preamble = vec![VERSION];
    push_number(&mut preamble, listeners.len())?;
    push_number(&mut preamble, names)?;
    wire.send(&preamble)?;
    for batch in listeners.chunks(BATCH) {
        let mut head = Vec::with_capacity(8);
        push_number(&mut head, batch.len())?;
        push_number(&mut head, batch.iter().map(|(name, _)| name.len()).sum())?;
        let descriptors: Vec<BorrowedFd<'_>> = batch.iter().map(|(_, descriptor)| *descriptor).collect();
        wire.send_with(&head, &descriptors)?;
        let mut keys = Vec::new();
        for (name, _) in batch {
            push_number(&mut keys, name.len())?;
            keys.extend_from_slice(name.as_bytes());
        }
        wire.send(&keys)?;
    }
    Ok(())
}

/// Receives what [`send_listeners`] sent, in its order. The descriptors are closed on exec. Leaves the stream blocking.
///
/// # Errors
/// Anything that is not as announced (`InvalidData`, `UnexpectedEof`), a descriptor that is no listening socket, or more than 10
/// seconds in all (`TimedOut`). What was received until then is closed.
pub fn receive_listeners(stream: &UnixStream) -> io::Result<Vec<(String, OwnedFd)>> {
    let wire = Wire::new(stream, TRANSFER)?;
    let [version] = wire.receive()?;
    if version != VERSION {
        return Err(invalid(format!("the other process speaks version {version} of the hand-over, this one version {VERSION}")));
    }
    let (total, names) = (wire.number()?, wire.number()?);
    check_bounds(total, names)?;
    let mut listeners: Vec<(String, OwnedFd)> = Vec::with_capacity(total);
    let mut names_left = names;
    while listeners.len() < total {
        receive_batch(&wire, total - listeners.len(), &mut names_left, &mut listeners)?;
    }
    if names_left > 0 {
        return Err(invalid("fewer bytes of names than announced"));
    }
    check_keys(listeners.iter().map(|(name, _)| &**name))?;
    Ok(listeners)
}

fn receive_batch(wire: &Wire<'_>, most: usize, names_left: &mut usize, listeners: &mut Vec<(String, OwnedFd)>) -> io::Result<()> {
    let (head, descriptors) = wire.receive_with::<8>()?;
    let (count, names) = head.split_at(4);
    let (count, names) = (read_number(count), read_number(names));
    if count == 0 || count > most.min(BATCH) {
        return Err(invalid(format!("a batch of {count} descriptors where at most {} were due", most.min(BATCH))));
    }
    if count != descriptors.len() {
        return Err(invalid(format!("{} descriptors arrived where {count} were announced", descriptors.len())));
    }
    *names_left = names_left.checked_sub(names).ok_or_else(|| invalid("more bytes of names than announced"))?;
    let mut batch_left = names;
    for descriptor in descriptors {
        let length = wire.number()?;
        batch_left = batch_left.checked_sub(length).ok_or_else(|| invalid("a name is longer than announced"))?;
        let mut name = vec![0; length];
        wire.receive_into(&mut name)?;
        let name = String::from_utf8(name).map_err(|_| invalid("a name is not UTF-8"))?;
        if !sockopt::socket_acceptconn(&descriptor).unwrap_or(false) {
            return Err(invalid(format!("`{}` is not a listening socket", name.escape_debug())));
        }
        listeners.push((name, descriptor));
    }
    if batch_left > 0 {
        return Err(invalid("names are shorter than announced"));
    }
    Ok(())
}

fn check_bounds(descriptors: usize, names: usize) -> io::Result<()> {
    if descriptors > MOST_DESCRIPTORS || names > MOST_NAMES {
        return Err(invalid(format!(
            "{descriptors} descriptors with {names} bytes of names; at most {MOST_DESCRIPTORS} with {MOST_NAMES} can be handed over"
        )));
    }
    Ok(())
}

fn check_keys<'a>(mut keys: impl Iterator<Item = &'a str>) -> io::Result<()> {
    let mut known = HashSet::new();
    match keys.find(|key| !known.insert(*key)) {
        Some(key) => Err(invalid(format!("two sockets are named `{}`", key.escape_debug()))),
        None => Ok(()),
    }
}

/// The new process serves: the old one may stop accepting.
///
/// # Errors
/// The other end is gone.
pub fn acknowledge(stream: &UnixStream) -> io::Result<()> {
    Wire::new(stream, TRANSFER)?.send(&[ACKNOWLEDGED])
}

/// Waits for the other end's [`acknowledge`].
///
/// # Errors
/// It took longer than `timeout` (`TimedOut`), the other process is gone (`UnexpectedEof`), or said something else
/// (`InvalidData`). In each case this process must go on serving.
pub fn await_acknowledgement(stream: &UnixStream, timeout: Duration) -> io::Result<()> {
    match Wire::new(stream, timeout)?.receive()? {
        [ACKNOWLEDGED] => Ok(()),
        [other] => Err(invalid(format!("byte {other} instead of an acknowledgement"))),
    }
}

/// Makes sure that the other end runs as the same user, or as root.
///
/// # Errors
/// `PermissionDenied` if it does not.
pub fn check_peer(stream: &UnixStream) -> io::Result<()> {
    let peer = sockopt::socket_peercred(stream)?;
    let own = rustix::process::geteuid();
    if peer.uid == own || peer.uid.is_root() {
        return Ok(());
    }
    let message = format!("the other end runs as user {}, this process as {}", peer.uid.as_raw(), own.as_raw());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

/// The process at the other end.
///
/// # Errors
/// The kernel does not tell.
pub fn peer(stream: &UnixStream) -> io::Result<Option<u32>> {
    let pid = sockopt::socket_peercred(stream)?.pid;
    Ok(u32::try_from(pid.as_raw_nonzero().get()).ok())
}

/// Binds the socket over which listeners are handed on. Its folder is made with mode 0700 if it is missing; one that others may
/// enter is refused rather than changed, for it may be `/tmp` or `/run`. A socket that is left from another process is replaced.
///
/// # Errors
/// The folder is not this user's own, or open to others (`PermissionDenied`); there is something else than a socket at `path`.
pub fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.ok_or_else(|| invalid(format!("`{}` is not in a folder of its own", path.display())))?;
    own_folder(folder)?;
    match path.symlink_metadata() {
        Ok(known) if known.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("`{}` is not a socket", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn own_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let known = folder.symlink_metadata()?;
    let is_own = known.is_dir() && known.uid() == rustix::process::geteuid().as_raw();
    if is_own && known.mode() & 0o077 == 0 {
        return Ok(());
    }
    let message = format!(
        "the folder `{}` must be this user's own with mode 0700 (systemd: RuntimeDirectoryMode=0700), it is user {}'s with mode {:04o}",
        folder.display(),
        known.uid(),
        known.mode() & 0o7777
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

fn push_number(out: &mut Vec<u8>, number: usize) -> io::Result<()> {
    let number = u32::try_from(number).map_err(|_| invalid("a number beyond 32 bits"))?;
    out.extend_from_slice(&number.to_be_bytes());
    Ok(())
}

fn read_number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// A stream with a deadline over all that is read and written, so that a peer that sends a byte now and then gains nothing.
struct Wire<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl<'a> Wire<'a> {
    fn new(stream: &'a UnixStream, timeout: Duration) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Wire { stream, deadline: Instant::now() + timeout.min(Duration::from_secs(24 * 3600)) })
    }

    /// Runs a step with the time that is left, and again if a signal interrupted it.
    fn step<T>(&self, mut step: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            self.stream.set_write_timeout(Some(left))?;
            match step() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                done => return done,
            }
        }
    }

    fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut stream = self.stream;
            let count = self.step(|| stream.write(bytes))?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = bytes.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends bytes, at least one, whose first carries the descriptors.
    fn send_with(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let count = self.step(|| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(invalid("too many descriptors for one message"));
            }
            Ok(sendmsg(self.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
        })?;
        self.send(bytes.get(count..).unwrap_or_default())
    }

    fn receive_into(&self, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut stream = self.stream;
            let count = self.step(|| stream.read(bytes))?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes = bytes.get_mut(count..).unwrap_or_default();
        }
        Ok(())
    }

    fn receive<const N: usize>(&self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.receive_into(&mut bytes)?;
        Ok(bytes)
    }

    fn number(&self) -> io::Result<usize> {
        Ok(read_number(&self.receive::<4>()?))
    }

    /// Receives `N` bytes and the descriptors that came with them, at most [`BATCH`].
    fn receive_with<const N: usize>(&self) -> io::Result<([u8; N], Vec<OwnedFd>)> {
        let (mut bytes, mut filled, mut descriptors) = ([0; N], 0, Vec::new());
        while filled < N {
            let room = bytes.get_mut(filled..).unwrap_or_default();
            let (count, truncated) = self.step(|| {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let got = recvmsg(self.stream, &mut [IoSliceMut::new(room)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(received) = message {
                        descriptors.extend(received);
                    }
                }
                Ok((got.bytes, got.flags.contains(ReturnFlags::CTRUNC)))
            })?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if truncated || descriptors.len() > BATCH {
                return Err(invalid(format!("more than {BATCH} descriptors in one message")));
            }
            filled += count;
        }
        Ok((bytes, descriptors))
    }
}

#[cfg(test)]
mod tests;
