//! Subsets: each gateway of a large fleet keeps connections to a part of a large service's endpoints.
//!
//! Deterministic, so that all endpoints get the same number of gateways without anybody counting: gateways fall into rounds of as many
//! as there are subsets; each round shuffles the endpoints in a way of its own and deals them out (Beyer and others, Site Reliability
//! Engineering, 2016, chapter 20).

use super::mix;

/// Which part of the endpoints is this gateway's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subset {
    pub size: usize,
    /// This gateway's number in its fleet.
    pub gateway: u32,
}

impl Subset {
    /// Leaves the gateway's part of `all`, which is the same list in every gateway.
    pub fn of<T>(self, mut all: Vec<T>) -> Vec<T> {
        let size = self.size.max(1);
        let subsets = all.len() / size;
        if subsets < 2 {
            return all;
        }
        let (round, part) = (self.gateway as usize / subsets, self.gateway as usize % subsets);
        // Fisher and Yates.
        let mut drawn = mix(round as u64);
        for last in (1..all.len()).rev() {
            drawn = mix(drawn);
            all.swap(last, (drawn % (last as u64 + 1)) as usize);
        }
        all.into_iter().skip(part * size).take(size).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_gets_its_gateways() {
        let all: Vec<usize> = (0..300).collect();
        let mut counts = vec![0; 300];
        for gateway in 0..300 {
            let mine = Subset { size: 30, gateway }.of(all.clone());
            assert_eq!(mine.len(), 30);
            mine.iter().for_each(|at| counts[*at] += 1);
            assert_eq!(mine, Subset { size: 30, gateway }.of(all.clone()));
        }
        assert!(counts.iter().all(|count| *count == 30), "{counts:?}");
    }

    #[test]
    fn few_endpoints_are_everybodys() {
        assert_eq!(Subset { size: 20, gateway: 7 }.of((0..39).collect::<Vec<_>>()).len(), 39);
        assert_eq!(Subset { size: 20, gateway: 7 }.of((0..40).collect::<Vec<_>>()).len(), 20);
    }
}
