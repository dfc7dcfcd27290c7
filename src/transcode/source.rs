//! Where descriptors come from: compiled sets, or `.proto` files that are compiled here. Within bounds, from the folders that are named and
//! from nowhere else.

use std::cell::Cell;
use std::collections::HashSet;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

use prost_reflect::DescriptorPool;
use prost_reflect::prost::Message;
use prost_reflect::prost_types::FileDescriptorSet;
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

use super::config::TranscodeConfig;
use crate::problem::{Place, Problem, Problems};
use crate::value::Spanned;

/// The most bytes of all sources together.
const MOST_BYTES: u64 = 32 * 1024 * 1024;
const MOST_FILES: usize = 2000;

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

/// Descriptors, and which files of theirs were asked for by name.
pub struct Source {
    pub pool: DescriptorPool,
    pub named: HashSet<String>,
    pub place: Place,
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
                problems.push(problem.hint("descriptors: FILE, or protos: [ FILE ] with imports: [ FOLDER ]"));
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
                Some(Source { pool, named, place })
            }
            Err(problem) => {
                problems.push(*problem);
                None
            }
        }
    }
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
        let files = FileDescriptorSet::decode(&*bytes).map_err(|_| {
            let problem = *failed("it is no set of descriptors".to_owned());
            Box::new(problem.hint(hint))
        })?;
        if files.file.len() > MOST_FILES {
            return Err(failed(format!("it has more than {MOST_FILES} files")));
        }
        let own: HashSet<String> = files.file.iter().map(|file| file.name().to_owned()).collect();
        for import in files.file.iter().flat_map(|file| &file.dependency) {
            if !own.contains(import) {
                add_known(&mut pool, import);
            }
        }
        pool.decode_file_descriptor_set(&*bytes).map_err(|error| {
            let problem = *failed(error.to_string());
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

/// Adds a file that is known without being given, with what it imports.
fn add_known(pool: &mut DescriptorPool, name: &str) {
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
}
