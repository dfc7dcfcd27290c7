//! Where descriptors come from: compiled sets, or `.proto` files that are compiled here. Within bounds, from the folders that are named and
//! from nowhere else.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

use prost_reflect::prost::Message;
use prost_reflect::prost_types::{FileDescriptorProto, FileDescriptorSet};
use prost_reflect::{DescriptorPool, MessageDescriptor};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

use super::config::TranscodeConfig;
use crate::problem::{Place, Problem, Problems};
use crate::value::Spanned;

/// The most bytes of all sources together.
const MOST_BYTES: u64 = 32 * 1024 * 1024;
pub const MOST_FILES: usize = 2000;
/// The most ways from file to file over `import public`, which the library follows one by one.
const MOST_WAYS: u64 = 1_000_000;

/// What nearly all APIs import, and what errors are made of.
const KNOWN: [(&str, &str); 7] = [
    ("google/api/annotations.proto", include_str!("protos/google/api/annotations.proto")),
    ("google/api/http.proto", include_str!("protos/google/api/http.proto")),
    ("google/api/httpbody.proto", include_str!("protos/google/api/httpbody.proto")),
    ("google/api/field_behavior.proto", include_str!("protos/google/api/field_behavior.proto")),
    ("google/rpc/status.proto", include_str!("protos/google/rpc/status.proto")),
    ("google/rpc/code.proto", include_str!("protos/google/rpc/code.proto")),
    ("google/rpc/error_details.proto", include_str!("protos/google/rpc/error_details.proto")),
];

/// Descriptors, and which services of theirs can be called where nobody names any.
pub struct Source {
    pub pool: DescriptorPool,
    pub named: Named,
    pub place: Place,
}

pub enum Named {
    /// All that these files declare.
    Files(HashSet<String>),
    /// These.
    Services(HashSet<String>),
}

impl Source {
    /// `None` only if there was a problem.
    pub fn read(config: &Spanned<TranscodeConfig>, base: &Path, problems: &mut Problems) -> Option<Source> {
        let (sets, protos) = (config.descriptors.first(), config.protos.first());
        let (place, read) = match (sets, protos) {
            (Some(first), None) => (first.place, sets_of(config, base)),
            (None, Some(first)) => (first.place, compiled(config, base)),
            (None, None) => {
                let problem = Problem::error(config.place, "`transcode` needs to know the service's methods");
                problems.push(problem.hint("descriptors: FILE, protos: [ FILE ] with imports: [ FOLDER ], or reflection: true"));
                return None;
            }
            (Some(_), Some(second)) => {
                problems.push(Problem::error(second.place, "`transcode` has one of `descriptors` and `protos`"));
                return None;
            }
        };
        if let (Some(folder), true) = (config.imports.first(), protos.is_none()) {
            problems.push(Problem::error(folder.place, "`imports` are for `protos`: a set of descriptors has all that it needs"));
            return None;
        }
        match read {
            Ok((mut pool, named)) => {
                complete(&mut pool);
                Some(Source { pool, named: Named::Files(named), place })
            }
            Err(problem) => {
                problems.push(*problem);
                None
            }
        }
    }
}

impl Source {
    /// Of what a server says.
    ///
    /// # Errors
    /// It is no set that could be used.
    pub fn of_server(set: &[u8], services: &[String], place: Place) -> Result<Source, String> {
        let mut pool = DescriptorPool::new();
        decode(&mut pool, set)?;
        complete(&mut pool);
        Ok(Source { pool, named: Named::Services(services.iter().cloned().collect()), place })
    }
}

/// Puts the files of a set into the pool, with what they import and everybody knows. Says which they are.
fn decode(pool: &mut DescriptorPool, set: &[u8]) -> Result<HashSet<String>, String> {
    let files = FileDescriptorSet::decode(set).map_err(|_| "it is no set of descriptors".to_owned())?.file;
    if files.len() > MOST_FILES {
        return Err(format!("it has more than {MOST_FILES} files"));
    }
    check_imports(&files)?;
    let own: HashSet<String> = files.iter().map(|file| file.name().to_owned()).collect();
    for import in files.iter().flat_map(|file| &file.dependency) {
        if !own.contains(import) {
            add_known(pool, import);
        }
    }
    pool.decode_file_descriptor_set(set).map_err(|error| error.to_string())?;
    Ok(own)
}

/// What the library would go round and round in, or walk for hours.
fn check_imports(files: &[FileDescriptorProto]) -> Result<(), String> {
    let numbers: HashMap<&str, usize> = files.iter().enumerate().map(|(number, file)| (file.name(), number)).collect();
    let imports = |file: &FileDescriptorProto| -> Vec<(usize, bool)> {
        let is_public = |at: usize| file.public_dependency.iter().any(|public| usize::try_from(*public) == Ok(at));
        let known = file.dependency.iter().enumerate();
        known.filter_map(|(at, name)| Some((*numbers.get(name.as_str())?, is_public(at)))).collect()
    };
    let imports: Vec<_> = files.iter().map(imports).collect();
    // How many of a file's imports are not done yet, and who waits for it.
    let mut missing: Vec<usize> = imports.iter().map(Vec::len).collect();
    let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); files.len()];
    for (number, imports) in imports.iter().enumerate() {
        for (import, _) in imports {
            waiting.get_mut(*import).into_iter().for_each(|waiting| waiting.push(number));
        }
    }
    let mut ready: Vec<usize> =
        missing.iter().enumerate().filter(|(_, missing)| **missing == 0).map(|(number, _)| number).collect();
    let mut ways = vec![0u64; files.len()];
    let (mut done, mut all) = (0, 0u64);
    while let Some(number) = ready.pop() {
        done += 1;
        let of = |import: usize| ways.get(import).copied().unwrap_or_default();
        let imports = imports.get(number).map(Vec::as_slice).unwrap_or_default();
        let public = imports.iter().filter(|(_, public)| *public);
        let own = public.fold(1u64, |sum, (import, _)| sum.saturating_add(of(*import)));
        all = imports.iter().fold(all, |sum, (import, _)| sum.saturating_add(of(*import)));
        if all > MOST_WAYS {
            return Err("its files import each other in too many ways".to_owned());
        }
        ways.get_mut(number).into_iter().for_each(|ways| *ways = own);
        for waiting in waiting.get(number).into_iter().flatten() {
            if let Some(left) = missing.get_mut(*waiting) {
                *left -= 1;
                if *left == 0 {
                    ready.push(*waiting);
                }
            }
        }
    }
    if done < files.len() {
        let round = files.iter().zip(&missing).find(|(_, missing)| **missing > 0).map_or("", |(file, _)| file.name());
        return Err(format!("`{round}` imports itself, or what imports itself"));
    }
    Ok(())
}

type Sourced = Result<(DescriptorPool, HashSet<String>), Box<Problem>>;

/// A problem and what to do about it.
fn wrong(place: Place, message: String) -> Box<Problem> {
    Box::new(Problem::error(place, message))
}

fn sets_of(config: &TranscodeConfig, base: &Path) -> Sourced {
    let mut left = MOST_BYTES;
    let (mut pool, mut named) = (DescriptorPool::new(), HashSet::new());
    for set in config.descriptors.iter() {
        let failed = |why: String| wrong(set.place, format!("`{}` cannot be used: {why}", set.value));
        let bytes = read(&base.join(&set.value), &mut left).map_err(&failed)?;
        let hint = "protoc --include_imports --descriptor_set_out=FILE ...";
        let own = decode(&mut pool, &bytes).map_err(|why| {
            let problem = *failed(why);
            Box::new(problem.hint(hint))
        })?;
        named.extend(own);
    }
    Ok((pool, named))
}

fn compiled(config: &TranscodeConfig, base: &Path) -> Sourced {
    let mut roots: Vec<PathBuf> = config.imports.iter().map(|folder| base.join(&folder.value)).collect();
    for (folder, root) in config.imports.iter().zip(&roots) {
        if !root.is_dir() {
            return Err(wrong(folder.place, format!("`{}` is no folder", folder.value)));
        }
    }
    if roots.is_empty() {
        roots.push(base.to_owned());
    }
    let mut chain = ChainFileResolver::new();
    chain.add(Folders { roots, files: Cell::new(0), left: Cell::new(MOST_BYTES) });
    chain.add(Known);
    chain.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(chain);
    let mut named = HashSet::new();
    for proto in config.protos.iter() {
        compiler.open_file(&proto.value).map_err(|error| {
            let missing = error.is_file_not_found();
            let problem = Problem::error(proto.place, format!("`{}` cannot be compiled: {}", proto.value, told(&error)));
            Box::new(match missing {
                true => problem.hint("name files as they are imported, and their folders in `imports`"),
                false => problem,
            })
        })?;
        named.insert(proto.value.trim_start_matches("./").to_owned());
    }
    Ok((compiler.descriptor_pool(), named))
}

/// What the compiler says, with the file and the line where it knows them.
fn told(error: &protox::Error) -> String {
    let mut said = format!("{error:?}");
    if said.lines().count() > 1 || said.len() > 400 {
        said = error.to_string();
        if let Some(file) = error.file().filter(|file| !said.contains(*file)) {
            said = format!("{file}: {said}");
        }
    }
    said
}

/// What errors are made of, if the service's own descriptors do not have it; where they have something of the same name, that stays.
fn complete(pool: &mut DescriptorPool) {
    for (name, _) in KNOWN {
        add_known(pool, name);
    }
}

/// The files that are known without being given.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut chain = ChainFileResolver::new();
    chain.add(Known);
    chain.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(chain);
    let names = KNOWN.iter().map(|(name, _)| *name);
    let own = ["any", "api", "duration", "empty", "field_mask", "struct", "timestamp", "type", "wrappers"];
    let own: Vec<String> = own.iter().map(|name| format!("google/protobuf/{name}.proto")).collect();
    // They compile: a test looks.
    for name in names.chain(own.iter().map(String::as_str)) {
        let _ = compiler.open_file(name);
    }
    compiler.descriptor_pool()
});

/// What files are described in.
pub fn description() -> Option<MessageDescriptor> {
    POOL.get_message_by_name("google.protobuf.FileDescriptorProto")
}

/// Whether a file is known without being given.
pub fn is_known(name: &str) -> bool {
    POOL.get_file_by_name(name).is_some()
}

/// Adds a file that is known without being given, with what it imports.
fn add_known(pool: &mut DescriptorPool, name: &str) {
    if pool.get_file_by_name(name).is_some() {
        return;
    }
    let Some(file) = POOL.get_file_by_name(name) else { return };
    for import in file.dependencies() {
        add_known(pool, import.name());
    }
    // It fails where something of its is there under another name of file.
    let before = pool.clone();
    if pool.decode_file_descriptor_proto(&*file.encode_to_vec()).is_err() {
        *pool = before;
    }
}

/// A file as a whole, if so much is `left`.
fn read(path: &Path, left: &mut u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(*left + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    match left.checked_sub(bytes.len() as u64) {
        Some(rest) => *left = rest,
        None => return Err("there is more than 32 MiB of it".to_owned()),
    }
    Ok(bytes)
}

struct Known;

impl FileResolver for Known {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match KNOWN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => File::from_source(name, text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

/// The folders that are named.
struct Folders {
    roots: Vec<PathBuf>,
    files: Cell<usize>,
    left: Cell<u64>,
}

impl FileResolver for Folders {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        let path = self.roots.iter().map(|root| root.join(name)).find(|path| inside && path.is_file());
        let Some(path) = path else { return Err(protox::Error::file_not_found(name)) };
        self.files.set(self.files.get() + 1);
        if self.files.get() > MOST_FILES {
            return Err(protox::Error::new(format!("more than {MOST_FILES} files are imported")));
        }
        let mut left = self.left.get();
        let text = read(&path, &mut left).and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is no UTF-8".to_owned()));
        self.left.set(left);
        let text = text.map_err(|why| protox::Error::new(format!("{name}: {why}")))?;
        File::from_source(name, &text)
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    #[test]
    fn what_is_known_compiles() {
        let mut pool = DescriptorPool::new();
        complete(&mut pool);
        for message in
            ["google.rpc.BadRequest", "google.rpc.Status", "google.api.HttpBody", "google.api.HttpRule", "google.protobuf.Any"]
        {
            assert!(pool.get_message_by_name(message).is_some(), "{message}");
        }
        add_known(&mut pool, "google/protobuf/wrappers.proto");
        assert!(pool.get_message_by_name("google.protobuf.Int64Value").is_some());
        complete(&mut pool);
    }

    #[test]
    fn imports_in_a_circle_are_refused_and_so_is_a_maze() {
        let file = |name: String, public: bool, imports: &[String]| FileDescriptorProto {
            name: Some(name),
            dependency: imports.to_vec(),
            public_dependency: if public { (0..imports.len() as i32).collect() } else { Vec::new() },
            ..FileDescriptorProto::default()
        };
        let set = |file: Vec<FileDescriptorProto>| FileDescriptorSet { file }.encode_to_vec();
        let (a, b, c) = ("a.proto".to_owned(), "b.proto".to_owned(), "c.proto".to_owned());
        for public in [false, true] {
            let circle = vec![
                file(a.clone(), public, slice::from_ref(&b)),
                file(b.clone(), public, slice::from_ref(&a)),
                file(c.clone(), public, slice::from_ref(&a)),
            ];
            assert!(decode(&mut DescriptorPool::new(), &set(circle)).unwrap_err().contains("imports itself"));
            let own = vec![file(a.clone(), public, slice::from_ref(&a))];
            assert!(decode(&mut DescriptorPool::new(), &set(own)).unwrap_err().contains("imports itself"));
        }
        // Every file leads to the next ones in two ways.
        let maze = |depth: usize, public: bool| {
            let layer = |number: usize| [format!("{number}a.proto"), format!("{number}b.proto")];
            let files = (0..depth).flat_map(|number| {
                let next = if number + 1 == depth { Vec::new() } else { layer(number + 1).to_vec() };
                layer(number).map(|name| file(name, public, &next))
            });
            set(files.collect())
        };
        assert!(decode(&mut DescriptorPool::new(), &maze(40, true)).unwrap_err().contains("too many ways"));
        assert_eq!(decode(&mut DescriptorPool::new(), &maze(40, false)).unwrap().len(), 80);
        assert_eq!(decode(&mut DescriptorPool::new(), &maze(8, true)).unwrap().len(), 16);
    }
}
