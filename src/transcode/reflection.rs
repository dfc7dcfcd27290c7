//! What a server says of its own methods: gRPC's [server reflection](https://github.com/grpc/grpc/blob/master/doc/server-reflection.md), which
//! is the same in `v1` and `v1alpha`. What is asked and what the answers come to; the asking itself is not done here.
//!
//! All on one stream, so that one server has said it all: first which services there are, then the files that declare them, then what those
//! import, until nothing is missing. A server is no friend: what it says is bounded before it is read, and judged before it is compiled.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use bytes::Bytes;
use prost_reflect::prost::Message;

use super::encoding::{self, read_varint, take};
use super::source::{self, MOST_FILES};

/// The method's path, the newer one first.
pub const PATHS: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// The most bytes of all files together.
pub const MOST_BYTES: usize = 16 * 1024 * 1024;
const MOST_SERVICES: usize = 1000;
/// The most bytes that a server may say, files that are known already among them.
const MOST_SAID: usize = 4 * MOST_BYTES;
/// About the most memory that the files may take once they are read.
const HEAVIEST: usize = 256 * 1024 * 1024;
/// The most files and services of one answer.
const MOST_ENTRIES: usize = 4000;

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, optional, tag = "3")]
    file_by_filename: Option<String>,
    #[prost(string, optional, tag = "4")]
    file_containing_symbol: Option<String>,
    #[prost(string, optional, tag = "7")]
    list_services: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "4")]
    files: Option<Files>,
    #[prost(message, optional, tag = "6")]
    services: Option<Services>,
    #[prost(message, optional, tag = "7")]
    error: Option<Failure>,
}

#[derive(Clone, PartialEq, Message)]
struct Files {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    files: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct Services {
    #[prost(message, repeated, tag = "1")]
    services: Vec<Named>,
}

#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Failure {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// What a file says of others.
#[derive(Clone, PartialEq, Message)]
struct Imports {
    #[prost(string, repeated, tag = "3")]
    dependency: Vec<String>,
}

/// A set of files, as bytes: decoded and encoded again they would lose their annotations.
#[derive(Clone, PartialEq, Message)]
struct Set {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    files: Vec<Bytes>,
}

enum Asked {
    Services,
    Symbol(String),
    File(String),
}

/// What a server has said.
#[derive(Debug, PartialEq, Eq)]
pub struct Learned {
    /// A set of descriptors. The same files make the same bytes.
    pub set: Vec<u8>,
    /// The services that it has, in order.
    pub services: Vec<String>,
}

/// The conversation, from our side.
pub struct Learning {
    /// The services that are of interest. None: all.
    wanted: Vec<String>,
    services: BTreeSet<String>,
    files: BTreeMap<String, Bytes>,
    imported: BTreeSet<String>,
    asked: HashSet<String>,
    waiting: VecDeque<Asked>,
    to_send: VecDeque<Bytes>,
    left: usize,
    said: usize,
    /// How much memory what is to come may take.
    weight: usize,
}

impl Learning {
    pub fn new(wanted: Vec<String>) -> Self {
        let mut learning = Learning {
            wanted,
            services: BTreeSet::new(),
            files: BTreeMap::new(),
            imported: BTreeSet::new(),
            asked: HashSet::new(),
            waiting: VecDeque::new(),
            to_send: VecDeque::new(),
            left: MOST_BYTES,
            said: 0,
            weight: HEAVIEST,
        };
        learning.ask(Asked::Services);
        learning
    }

    /// The next message for the server, behind its prefix.
    pub fn next_frame(&mut self) -> Option<Bytes> {
        self.to_send.pop_front()
    }

    /// Whether nothing more is to be asked.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }

    fn ask(&mut self, asked: Asked) {
        let mut request = Request { file_by_filename: None, file_containing_symbol: None, list_services: None };
        match &asked {
            Asked::Services => request.list_services = Some(String::new()),
            Asked::Symbol(name) => request.file_containing_symbol = Some(name.clone()),
            Asked::File(name) => request.file_by_filename = Some(name.clone()),
        }
        let message = request.encode_to_vec();
        let mut frame = vec![0];
        // Names are bounded by the messages that they came in.
        frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or_default().to_be_bytes());
        frame.extend_from_slice(&message);
        self.waiting.push_back(asked);
        self.to_send.push_back(frame.into());
    }

    /// Takes a message of the server's in.
    ///
    /// # Errors
    /// Why nothing can be made of it, for people.
    pub fn takes(&mut self, message: &[u8]) -> Result<(), String> {
        let asked = self.waiting.pop_front().ok_or("it says what it was not asked")?;
        self.said = self.said.saturating_add(message.len());
        if self.said > MOST_SAID {
            return Err("it says too much".to_owned());
        }
        // A few bytes may be read into many entries.
        match entries(message, true) {
            Some(count) if count <= MOST_ENTRIES => {}
            Some(_) => return Err(format!("it has more than {MOST_FILES} files, or {MOST_SERVICES} services")),
            None => return Err("its answer is of another type".to_owned()),
        }
        let response = Response::decode(message).map_err(|_| "its answer is of another type")?;
        match (&asked, response) {
            (Asked::Services, Response { services: Some(services), .. }) => self.takes_services(services)?,
            (Asked::Symbol(_) | Asked::File(_), Response { files: Some(files), .. }) => self.takes_files(files)?,
            // Some have only what is their own; what everybody knows need not come from them.
            (Asked::File(name), Response { error: Some(_), .. }) if source::is_known(name) => {}
            (asked, Response { error: Some(failure), .. }) => {
                let what = match asked {
                    Asked::Services => "which services there are",
                    Asked::Symbol(name) | Asked::File(name) => name,
                };
                return Err(format!("asked for `{what}`, it says: {} (code {})", failure.message, failure.code));
            }
            _ => return Err("its answer is none to what it was asked".to_owned()),
        }
        if self.waiting.is_empty() {
            let missing = |name: &&String| !self.files.contains_key(*name) && !self.asked.contains(*name);
            let missing: Vec<String> = self.imported.iter().filter(missing).cloned().collect();
            if self.asked.len() + missing.len() > MOST_FILES {
                return Err(format!("there are more than {MOST_FILES} files"));
            }
            for name in missing {
                self.asked.insert(name.clone());
                self.ask(Asked::File(name));
            }
        }
        Ok(())
    }

    fn takes_services(&mut self, said: Services) -> Result<(), String> {
        if said.services.len() > MOST_SERVICES {
            return Err(format!("it has more than {MOST_SERVICES} services"));
        }
        let all: BTreeSet<String> = said.services.into_iter().map(|service| service.name).collect();
        // The infrastructure is nobody's API, unless somebody says so.
        let own = |name: &&String| !name.starts_with("grpc.");
        self.services = match self.wanted.as_slice() {
            [] => all.iter().filter(own).cloned().collect(),
            wanted => wanted.iter().cloned().collect(),
        };
        if let Some(lacking) = self.services.iter().find(|name| !all.contains(*name)) {
            return Err(format!("it has no service `{lacking}`"));
        }
        if self.services.is_empty() {
            return Err("it has no service but those of gRPC's own".to_owned());
        }
        for name in self.services.clone() {
            self.ask(Asked::Symbol(name));
        }
        Ok(())
    }

    fn takes_files(&mut self, said: Files) -> Result<(), String> {
        for bytes in said.files {
            let Named { name } = Named::decode(&*bytes).map_err(|_| "a file of its is no descriptor")?;
            if self.files.contains_key(&name) {
                continue;
            }
            self.left = self.left.checked_sub(bytes.len()).ok_or("there is more than 16 MiB of descriptors")?;
            if self.files.len() == MOST_FILES {
                return Err(format!("there are more than {MOST_FILES} files"));
            }
            let description = source::description().ok_or("no file can be described")?;
            // Before it is read: what is nothing but empty messages takes hundreds of times its bytes.
            let weight = encoding::weigh(&description, &bytes, self.weight).map_err(|unread| match unread {
                encoding::Unread::TooHeavy => "its files take too much memory",
                _ => "a file of its is no descriptor",
            })?;
            self.weight = self.weight.saturating_sub(weight);
            let Imports { dependency } = Imports::decode(&*bytes).map_err(|_| "a file of its is no descriptor")?;
            self.imported.extend(dependency);
            self.files.insert(name, bytes);
        }
        Ok(())
    }

    /// What was learned, once all of it is known.
    pub fn learned(self) -> Learned {
        let set = Set { files: self.files.into_values().collect() }.encode_to_vec();
        Learned { set, services: self.services.into_iter().collect() }
    }
}

/// How many entries an answer has: its fields, and those of its lists. `None`: it is none.
fn entries(mut bytes: &[u8], is_answer: bool) -> Option<usize> {
    let mut count = 0;
    while !bytes.is_empty() && count <= MOST_ENTRIES {
        let key = read_varint(&mut bytes).ok()?;
        count += 1;
        match key & 7 {
            0 => drop(read_varint(&mut bytes).ok()?),
            1 => drop(take(&mut bytes, 8).ok()?),
            5 => drop(take(&mut bytes, 4).ok()?),
            2 => {
                let length = usize::try_from(read_varint(&mut bytes).ok()?).ok()?;
                let inside = take(&mut bytes, length).ok()?;
                if is_answer && matches!(key >> 3, 4 | 6) {
                    count += entries(inside, false)?;
                }
            }
            _ => return None,
        }
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use prost_reflect::prost_types::FileDescriptorProto;

    use super::*;

    fn file(name: &str, imports: &[&str]) -> Bytes {
        let dependency = imports.iter().map(|name| (*name).to_owned()).collect();
        FileDescriptorProto { name: Some(name.to_owned()), dependency, ..FileDescriptorProto::default() }.encode_to_vec().into()
    }

    fn services(names: &[&str]) -> Vec<u8> {
        let services = names.iter().map(|name| Named { name: (*name).to_owned() }).collect();
        Response { services: Some(Services { services }), files: None, error: None }.encode_to_vec()
    }

    fn files(files: &[Bytes]) -> Vec<u8> {
        Response { files: Some(Files { files: files.to_vec() }), services: None, error: None }.encode_to_vec()
    }

    fn error() -> Vec<u8> {
        let error = Some(Failure { code: 5, message: "not here".to_owned() });
        Response { error, services: None, files: None }.encode_to_vec()
    }

    /// What is asked next, without its prefix.
    fn asked(learning: &mut Learning) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(frame) = learning.next_frame() {
            let request = Request::decode(&frame[5..]).unwrap();
            all.extend(request.file_by_filename.or(request.file_containing_symbol).or(request.list_services));
        }
        all
    }

    #[test]
    fn it_asks_until_nothing_is_missing() {
        let mut learning = Learning::new(Vec::new());
        assert_eq!(asked(&mut learning), [""]);
        learning.takes(&services(&["b.B", "grpc.reflection.v1.ServerReflection", "a.A"])).unwrap();
        assert_eq!(asked(&mut learning), ["a.A", "b.B"]);
        // What the one answer lacks may be in the other.
        learning.takes(&files(&[file("a.proto", &["b.proto", "c.proto", "google/protobuf/any.proto"])])).unwrap();
        assert_eq!((asked(&mut learning), learning.is_done()), (vec![], false));
        learning.takes(&files(&[file("b.proto", &["c.proto"])])).unwrap();
        assert_eq!(asked(&mut learning), ["c.proto", "google/protobuf/any.proto"]);
        learning.takes(&files(&[file("c.proto", &[])])).unwrap();
        learning.takes(&error()).unwrap();
        assert!(learning.is_done());
        let learned = learning.learned();
        assert_eq!(
            (learned.services, Set::decode(&*learned.set).unwrap().files.len()),
            (vec!["a.A".to_owned(), "b.B".to_owned()], 3)
        );
    }

    #[test]
    fn what_a_server_says_is_judged() {
        let begun = |wanted: &[&str]| Learning::new(wanted.iter().map(|name| (*name).to_owned()).collect());
        let fails = |learning: &mut Learning, message: &[u8], why: &str| {
            let said = learning.takes(message).unwrap_err();
            assert!(said.contains(why), "{said}");
        };
        fails(&mut begun(&[]), b"\xff", "another type");
        fails(&mut begun(&[]), &files(&[]), "none to what it was asked");
        fails(&mut begun(&[]), &error(), "not here");
        fails(&mut begun(&[]), &services(&["grpc.health.v1.Health"]), "no service but");
        fails(&mut begun(&["a.A"]), &services(&["b.B"]), "no service `a.A`");
        let many: Vec<String> = (0..1001).map(|number| format!("s{number}")).collect();
        fails(&mut begun(&[]), &services(&many.iter().map(String::as_str).collect::<Vec<_>>()), "more than 1000 services");
        let knows = || {
            let mut learning = begun(&["a.A"]);
            learning.takes(&services(&["a.A"])).unwrap();
            learning
        };
        fails(&mut knows(), &files(&[Bytes::from_static(b"\xff")]), "no descriptor");
        let all: Vec<Bytes> = (0..=MOST_FILES).map(|number| file(&format!("{number}.proto"), &[])).collect();
        fails(&mut knows(), &files(&all), "more than 2000 files");
        let imports: Vec<String> = (0..=MOST_FILES).map(|number| format!("{number}.proto")).collect();
        let imports: Vec<&str> = imports.iter().map(String::as_str).collect();
        fails(&mut knows(), &files(&[file("a.proto", &imports)]), "more than 2000 files");
        let large = file(&"x".repeat(MOST_BYTES), &[]);
        fails(&mut knows(), &files(&[large]), "16 MiB");
        // A few bytes that would be much.
        let empty: Bytes = [&b"\x0a\x01a"[..], b"\x22\x00".repeat(1 << 20).as_slice()].concat().into();
        fails(&mut knows(), &files(&[empty]), "too much memory");
        let many: Bytes = [&b"\x0a\x01a"[..], b"\x1a\x00".repeat(7 << 20).as_slice()].concat().into();
        fails(&mut knows(), &files(&[many]), "too much memory");
        let lots = [&b"\x22"[..], &[0x80, 0x80, 0x40], b"\x0a\x00".repeat(1 << 19).as_slice()].concat();
        fails(&mut knows(), &lots, "more than 2000 files");
        // What is known already counts as what is said.
        let mut learning = knows();
        let same = files(&[file("a.proto", &["x".repeat(10 << 20).as_str()])]);
        let asked = |learning: &mut Learning| learning.ask(Asked::Symbol("a.A".to_owned()));
        (0..7).for_each(|_| asked(&mut learning));
        let said: Result<Vec<()>, String> = (0..7).map(|_| learning.takes(&same)).collect();
        assert_eq!(said, Err("it says too much".to_owned()));
        let mut learning = knows();
        learning.takes(&files(&[file("a.proto", &["mine.proto"])])).unwrap();
        fails(&mut learning, &error(), "mine.proto");
        // It does not say when it has ended.
        let mut learning = knows();
        learning.takes(&files(&[file("a.proto", &[])])).unwrap();
        fails(&mut learning, &files(&[]), "not asked");
    }

    #[test]
    fn a_server_that_imports_in_a_circle_is_asked_no_further() {
        let mut learning = Learning::new(vec!["a.A".to_owned()]);
        learning.takes(&services(&["a.A"])).unwrap();
        learning.takes(&files(&[file("a.proto", &["b.proto"])])).unwrap();
        learning.takes(&files(&[file("b.proto", &["a.proto", "b.proto"])])).unwrap();
        assert!(learning.is_done());
    }
}
