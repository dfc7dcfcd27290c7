//! What one process that had the folder leaves to the next one.

use std::io::{self, Read};

use super::bytes::{CODE, In, Out, code};
use super::folder::Folder;

pub(super) const NAME: &str = "state";
const MAGIC: [u8; 8] = *b"pcstate1";

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    /// It was closed, and nothing was written after this.
    pub(super) is_clean: bool,
    /// Which run of the machine it was. 0: it is not known.
    pub(super) boot: u128,
    /// All moments of the disk's clock that were ever written are before this.
    pub(super) ceiling: u64,
    /// How many notes there are at least.
    pub(super) notes: u64,
}

impl State {
    /// `None` if there is none that can be believed.
    pub(super) fn read(folder: &Folder, secret: &[u8; 32]) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        match folder.open_file(NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?.take(1024).read_to_end(&mut bytes)?,
        };
        let Some((said, known)) = bytes.len().checked_sub(CODE).and_then(|at| bytes.split_at_checked(at)) else {
            return Ok(None);
        };
        if code(secret, &[said]) != known {
            return Ok(None);
        }
        let read = || {
            let mut from = In(said);
            if from.array()? != MAGIC {
                return None;
            }
            let is_clean = from.bytes(1)? == [1];
            let boot = u128::from_le_bytes(from.array()?);
            Some(State { is_clean, boot, ceiling: from.u64()?, notes: from.u64()? })
        };
        Ok(read())
    }

    pub(super) fn write(&self, folder: &Folder, secret: &[u8; 32]) -> io::Result<()> {
        let mut out = Out(MAGIC.to_vec());
        out.0.push(u8::from(self.is_clean));
        out.0.extend_from_slice(&self.boot.to_le_bytes());
        out.u64(self.ceiling);
        out.u64(self.notes);
        let code = code(secret, &[&out.0]);
        out.0.extend_from_slice(&code);
        folder.replace(NAME, &out.0)
    }
}

/// Which run of the machine this is; 0 if the system does not say.
pub(super) fn boot() -> u128 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}
