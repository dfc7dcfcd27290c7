//! Text that comes in pieces, which may end within a letter.

use super::Fault;

/// UTF-8 that comes in pieces: the beginning of a letter whose end is still to come.
#[derive(Default)]
pub struct Letter {
    bytes: [u8; 4],
    length: usize,
}

impl Letter {
    /// Whether nothing is still to come.
    pub fn is_whole(&self) -> bool {
        self.length == 0
    }

    /// One more piece.
    ///
    /// # Errors
    /// It is no UTF-8.
    pub fn take(&mut self, mut piece: &[u8]) -> Result<(), Fault> {
        while self.length > 0 {
            let Some((byte, rest)) = piece.split_first() else { return Ok(()) };
            piece = rest;
            let slot = self.bytes.get_mut(self.length).ok_or(Fault::NotUtf8)?;
            *slot = *byte;
            self.length += 1;
            match std::str::from_utf8(self.bytes.get(..self.length).unwrap_or_default()) {
                Ok(_) => self.length = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(Fault::NotUtf8),
            }
        }
        match std::str::from_utf8(piece) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                let begun = piece.get(error.valid_up_to()..).unwrap_or_default();
                self.length = begun.len().min(self.bytes.len());
                for (slot, byte) in self.bytes.iter_mut().zip(begun) {
                    *slot = *byte;
                }
                Ok(())
            }
            Err(_) => Err(Fault::NotUtf8),
        }
    }
}
