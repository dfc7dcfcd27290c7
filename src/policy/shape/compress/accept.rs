//! Which coding a client takes: `Accept-Encoding` (RFC 9110, section 12.5.3).

use super::Coding;
use crate::head::weighed;

/// A weight in thousandths.
type Weight = u16;

/// The coding of `offered` that a client likes best, in the order of `offered` where it likes several alike. `None`: none of them, or nothing
/// at all more than the answer as it is.
pub fn choose<'a>(fields: impl Iterator<Item = &'a [u8]>, offered: &[Coding]) -> Option<Coding> {
    let mut said: [Option<Weight>; Coding::ALL.len()] = Default::default();
    let (mut any, mut identity) = (None, None);
    for member in fields.flat_map(|field| field.split(|&byte| byte == b',')) {
        // What is no weight counts as none: the client then gets the answer as it is.
        let (name, weight) = weighed(member);
        if name == b"*" {
            any = Some(weight);
        } else if name.eq_ignore_ascii_case(b"identity") {
            identity = Some(weight);
        } else if let Some(slot) = Coding::of(name).and_then(|coding| said.get_mut(coding as usize)) {
            *slot = Some(weight);
        }
    }
    let liked = |coding: &Coding| said.get(*coding as usize).copied().flatten().or(any).unwrap_or(0);
    let mut best = None;
    for coding in offered {
        let weight = liked(coding);
        if weight > best.map_or(0, |(_, weight)| weight) {
            best = Some((*coding, weight));
        }
    }
    best.filter(|(_, weight)| identity.is_none_or(|identity| *weight >= identity)).map(|(coding, _)| coding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_has_the_choice() {
        use Coding::{Gzip, Zstd};
        for (said, chosen) in [
            ("gzip", Some(Gzip)),
            ("x-gzip", Some(Gzip)),
            ("GZIP, deflate, br, zstd", Some(Zstd)),
            ("gzip;q=1.0, zstd;q=0.5", Some(Gzip)),
            ("gzip; q=0.2 ,zstd ;q=0.1", Some(Gzip)),
            ("*", Some(Zstd)),
            ("zstd;q=0, *;q=0.1", Some(Gzip)),
            ("gzip;q=0", None),
            ("*;q=0", None),
            ("identity", None),
            ("identity;q=0", None),
            ("gzip;q=0.5, identity;q=0.6", None),
            ("gzip;q=0.5, identity;q=0.5", Some(Gzip)),
            ("identity;q=0, gzip;q=0.001", Some(Gzip)),
            ("gzip;q=nonsense", None),
            ("gzip;q=1.5", None),
            ("br, deflate", None),
            ("", None),
        ] {
            assert_eq!(choose([said.as_bytes()].into_iter(), &[Zstd, Gzip]), chosen, "{said}");
        }
        assert_eq!(choose(std::iter::empty(), &[Gzip]), None);
        assert_eq!(choose([&b"gzip"[..], b"zstd"].into_iter(), &[Gzip, Zstd]), Some(Gzip));
    }
}
