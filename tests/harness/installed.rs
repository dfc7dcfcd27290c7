//! What tests stand on that comes from a registry, in a folder below `target`.

use std::path::PathBuf;
use std::process::Command;

/// The folder of this name with what a script of the tests has installed there: `script` is called with the folder as its last argument.
/// It does nothing where `make test` was first.
#[track_caller]
pub fn installed(folder: &str, script: &[&str]) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = target.join(folder);
    let (script, args) = script.split_first().expect("a script");
    let done = Command::new(root.join(script)).args(args).arg(&folder).current_dir(&root).status();
    let done = done.unwrap_or_else(|error| panic!("{script}: {error}"));
    assert!(
        done.success(),
        "{script} {args:?} failed: these tests need its registry, and node (20 or later) with npm or python3 with pip"
    );
    folder
}
