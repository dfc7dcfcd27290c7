//! Numbers and strings in a row, as they stand in the files.

/// What is written.
#[derive(Default)]
pub(in crate::cache) struct Out(pub(in crate::cache) Vec<u8>);

impl Out {
    pub(in crate::cache) fn u16(&mut self, number: u16) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(in crate::cache) fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(in crate::cache) fn u64(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// With its length.
    pub(in crate::cache) fn text(&mut self, text: &[u8]) {
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(text);
    }
}

/// What is left to read.
pub(in crate::cache) struct In<'a>(pub(in crate::cache) &'a [u8]);

impl<'a> In<'a> {
    pub(in crate::cache) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (these, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(these)
    }

    pub(in crate::cache) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (these, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*these)
    }

    pub(in crate::cache) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(in crate::cache) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(in crate::cache) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(in crate::cache) fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.bytes(length as usize)
    }
}

/// The length of a code that nobody can make who has not the folder's key.
pub(super) const CODE: usize = 16;

/// The code of these bytes, one part after the other.
pub(super) fn code(key: &[u8; 32], parts: &[&[u8]]) -> [u8; CODE] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    for part in parts {
        hasher.update(part);
    }
    let mut code = [0; CODE];
    hasher.finalize_xof().fill(&mut code);
    code
}
