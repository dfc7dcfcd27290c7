//! The addresses of a process: bound, and nobody else's.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use super::pid_file::PidFile;
use super::process::{Failure, io_failure, second};
use super::sockets::{Inherited, Sockets};
use crate::snapshot::Snapshot;

/// For so long whoever is in the way is waited for: a process that was told to stop lets go of its addresses within moments.
const FAREWELL: Duration = Duration::from_secs(1);

/// Makes sure that no process but the one `before`, from which this one takes over, serves where this one shall. One that was told to
/// stop lets go of its addresses within moments, and is waited for.
async fn refuse_second(
    snapshot: &Snapshot,
    inherited: &Inherited,
    pid_file: Option<&Path>,
    before: Option<u32>,
) -> Result<(), Failure> {
    let until = Instant::now() + FAREWELL;
    let none = Sockets::default();
    let binds = || snapshot.doors.iter().map(|door| door.bind).chain(snapshot.admin);
    loop {
        let taken = binds().find_map(|bind| none.check_free(bind, inherited, before).err().map(|error| (bind, error)));
        match taken {
            None => break,
            Some((bind, error)) if Instant::now() > until => {
                return Err(Failure::Io(format!("cannot listen on {bind}"), error));
            }
            Some(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    match pid_file.map(|path| PidFile::check(path, before)) {
        Some(Err(error)) if error.kind() == io::ErrorKind::AlreadyExists => Err(second(error)),
        _ => Ok(()),
    }
}

/// What a process listens with.
pub struct Claimed {
    /// All of it, to be handed over.
    pub sockets: Sockets,
    /// The workers' copies.
    pub to_listen: Vec<(SocketAddr, Vec<TcpListener>)>,
    pub admin: Option<TcpListener>,
}

impl Claimed {
    /// Of processes that start at once, the older one serves; the others end. Two do not see each other before both have bound, and then
    /// the younger one lets go of everything: the older one must find all of it free, whatever each of them had bound first. It ends only
    /// when it has seen for a while that the other one stays: who is in the way may itself be ending.
    pub async fn alone(
        snapshot: &Snapshot,
        workers: usize,
        inherited: &mut Inherited,
        pid_file: Option<&Path>,
        before: Option<u32>,
    ) -> Result<Self, Failure> {
        loop {
            refuse_second(snapshot, inherited, pid_file, before).await?;
            let claimed = Self::bind(snapshot, workers, inherited).await?;
            match claimed.judge(before).await {
                Verdict::Ours => return Ok(claimed),
                // What was handed over would be lost, and there is a process that goes on serving.
                Verdict::Older(_) if before.is_none() => drop(claimed),
                Verdict::Older(failure) | Verdict::Stays(failure) => return Err(failure),
            }
        }
    }

    /// An address that is taken is tried again for a while: whoever looks whether it is free has it for a moment.
    async fn bind(snapshot: &Snapshot, workers: usize, inherited: &mut Inherited) -> Result<Self, Failure> {
        let until = Instant::now() + FAREWELL;
        let mut sockets = Sockets::default();
        let mut to_listen = Vec::new();
        let mut admin = None;
        let doors = snapshot.doors.iter().map(|door| (door.bind, workers, ""));
        for (bind, count, of) in doors.chain(snapshot.admin.map(|bind| (bind, 1, " (admin)"))) {
            let opened = loop {
                match sockets.open(bind, count, inherited) {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    result => break result.map_err(io_failure(format!("cannot listen on {bind}{of}")))?,
                }
            };
            if of.is_empty() {
                to_listen.push((bind, opened));
            } else {
                admin = opened.into_iter().next();
            }
        }
        Ok(Claimed { sockets, to_listen, admin })
    }

    async fn judge(&self, before: Option<u32>) -> Verdict {
        let until = Instant::now() + FAREWELL;
        while let Some((address, rival, older)) = self.sockets.rival(before) {
            let error = || io::Error::new(io::ErrorKind::AddrInUse, format!("the address is in use by {rival}"));
            let failure = || Failure::Io(format!("cannot listen on {address}"), error());
            if older {
                return Verdict::Older(failure());
            }
            if Instant::now() > until {
                return Verdict::Stays(failure());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Verdict::Ours
    }
}

/// What comes of a look at who else has bound an address of this process.
enum Verdict {
    Ours,
    /// An older process has, so this one is to stand aside.
    Older(Failure),
    /// A younger one has, and does not go.
    Stays(Failure),
}
