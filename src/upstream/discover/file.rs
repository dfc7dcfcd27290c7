//! Endpoints from a file that somebody else writes. It is looked at twice a second, and read when it is another one or was changed; a writer
//! replaces it whole, by renaming. One that cannot be read, or that has something wrong in it, changes nothing.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;

use super::{Announced, Discovery, Finding, Found, Said};
use crate::problem::Problems;
use crate::upstream::address::Address;
use crate::upstream::config::EndpointConfig;
use crate::upstream::service::{MOST_ENDPOINTS, read_address};

const LOOK: Duration = Duration::from_millis(500);
const LARGEST: u64 = 8 << 20;

pub struct File {
    what: String,
    path: PathBuf,
    tls: bool,
    /// Of the file that was read last.
    seen: Mutex<Option<Print>>,
}

/// What tells one version of a file from another.
type Print = (u64, u64, u64, i64, i64);

/// A list, or a map with one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    List(Vec<EndpointConfig>),
    Map { endpoints: Vec<EndpointConfig> },
}

impl File {
    pub fn new(path: PathBuf, tls: bool) -> Self {
        File { what: path.display().to_string(), path, tls, seen: Mutex::new(None) }
    }
}

impl Discovery for File {
    fn what(&self) -> &str {
        &self.what
    }

    fn kind(&self) -> &'static str {
        "file"
    }

    fn find(&self) -> Finding<'_> {
        let (path, tls, seen) = (self.path.clone(), self.tls, *self.seen.lock());
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || read(&path, tls, seen)).await;
            let (endpoints, print) = read.map_err(|error| error.to_string())??;
            *self.seen.lock() = Some(print);
            // An empty list means what it says.
            Ok(Found { endpoints, again: Some(LOOK), may_be_none: true })
        })
    }
}

/// The endpoints of another file than the one that was `seen`.
fn read(path: &Path, tls: bool, seen: Option<Print>) -> Result<(Option<Vec<Announced>>, Print), String> {
    let facts = std::fs::metadata(path).map_err(|error| error.to_string())?;
    let print = (facts.dev(), facts.ino(), facts.len(), facts.mtime(), facts.mtime_nsec());
    if seen == Some(print) {
        return Ok((None, print));
    }
    if facts.len() > LARGEST || !facts.is_file() {
        return Err("it is no file of at most 8 MiB".to_owned());
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    parse(&text, tls).map(|endpoints| (Some(endpoints), print))
}

fn parse(text: &str, tls: bool) -> Result<Vec<Announced>, String> {
    let written = match serde_yaml::from_str::<Content>(text) {
        Ok(Content::List(list) | Content::Map { endpoints: list }) => list,
        Err(error) => return Err(format!("it is no list of endpoints: {error}")),
    };
    if written.len() > MOST_ENDPOINTS {
        return Err(format!("it lists more than {MOST_ENDPOINTS} endpoints"));
    }
    let (mut known, mut problems) = (HashSet::new(), Problems::default());
    let mut found = Vec::with_capacity(written.len());
    for config in &written {
        let listed = read_address(config, tls, &mut known, &mut problems);
        let Some(listed) = listed else {
            let why = problems.iter().next().map(|problem| problem.message.clone());
            return Err(why.unwrap_or_else(|| "an endpoint in it cannot be used".to_owned()));
        };
        let Address::Fixed(address) = listed.address else {
            return Err(format!("`{}` is a host name; a file lists IP addresses and Unix sockets", config.address.value));
        };
        let said = Said { weight: listed.weight, priority: listed.priority, zone: listed.zone, most: listed.most };
        found.push(Announced { address, said: Some(said), authority: address.to_string(), host: None });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_a_list_or_a_map_with_one() {
        for text in [
            "[ '10.0.0.1:1', { address: '10.0.0.2:2', weight: 3 } ]",
            "endpoints:\n  - 10.0.0.1:1\n  - { address: 10.0.0.2:2, weight: 3 }\n",
            "{\"endpoints\": [\"10.0.0.1:1\", {\"address\": \"10.0.0.2:2\", \"weight\": 3}]}",
        ] {
            let found = parse(text, false).unwrap();
            let seen: Vec<_> =
                found.iter().map(|one| (one.authority.as_str(), one.said.as_ref().map(|said| said.weight))).collect();
            assert_eq!(seen, [("10.0.0.1:1", Some(1)), ("10.0.0.2:2", Some(3))], "{text}");
        }
        assert_eq!(parse("[]", false), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_with_it_is_told() {
        for (text, why) in [
            ("", "no list"),
            ("[ 'a", "no list"),
            ("{ endpoints: 1 }", "no list"),
            ("[ 'catalog:80' ]", "is a host name"),
            ("[ '10.0.0.1' ]", "has no port"),
            ("[ '10.0.0.1:1', '10.0.0.1:1' ]", "listed twice"),
            ("[ { address: '10.0.0.1:1', weight: 99999 } ]", "weight"),
        ] {
            let said = parse(text, false).unwrap_err();
            assert!(said.contains(why), "{text:?}: {said}");
        }
    }
}
