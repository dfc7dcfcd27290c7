//! Fingerprints: what tells two configurations apart that could decide differently, whatever they are made of.

/// With its length, so that no two sequences of fields run together into the same bytes.
pub fn feed(print: &mut blake3::Hasher, field: &[u8]) {
    print.update(&(field.len() as u64).to_be_bytes()).update(field);
}

/// A list: every item is announced, and so is its end.
pub fn feed_all<'a>(print: &mut blake3::Hasher, items: impl Iterator<Item = &'a [u8]>) {
    for item in items {
        print.update(&[1]);
        feed(print, item);
    }
    print.update(&[0]);
}
