//! The order of the rooms: `src/lib.rs` says which room may use which, and what the sources import is held against it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The line that each room is on in the list under "Dependencies", counted from the top.
fn order(lib: &str) -> BTreeMap<String, usize> {
    let docs = lib.lines().filter_map(|line| line.strip_prefix("//! "));
    let listed = docs.skip_while(|line| *line != "# Dependencies").filter(|line| line.starts_with("- "));
    let mut order = BTreeMap::new();
    for (at, line) in listed.enumerate() {
        for room in line.split('`').skip(1).step_by(2) {
            assert_eq!(order.insert(room.to_owned(), at), None, "`{room}` is listed twice");
        }
    }
    order
}

/// The rooms in the first column of the map's table. Each has one row.
fn on_the_map(lib: &str) -> BTreeSet<&str> {
    let mut rooms = BTreeSet::new();
    for row in lib.lines().filter_map(|line| line.strip_prefix("//! | [`")) {
        let named = row.split(" | ").next().unwrap_or_default();
        for room in named.split(", ").map(|room| room.trim_start_matches("[`").trim_end_matches("`]")) {
            assert!(rooms.insert(room), "`{room}` is on the map twice");
        }
    }
    rooms
}

/// The text with blanks for what is no code: comments, strings, characters. Every byte stays where it is.
fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    let find = |from: usize, end: &str| text[from..].find(end).map_or(bytes.len(), |found| from + found + end.len());
    while at < bytes.len() {
        let rest = &bytes[at..];
        let word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let end = match rest {
            [b'/', b'/', ..] => find(at, "\n") - 1,
            [b'/', b'*', ..] => find(at + 2, "*/"),
            [b'r', b'"' | b'#', ..] if !word || bytes[at - 1] == b'b' => {
                let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
                match rest.get(1 + hashes) {
                    Some(b'"') => find(at + 2 + hashes, &format!("\"{}", "#".repeat(hashes))),
                    _ => at,
                }
            }
            [b'"', ..] => {
                let mut end = at + 1;
                while end < bytes.len() && bytes[end] != b'"' {
                    end += if bytes[end] == b'\\' { 2 } else { 1 };
                }
                end + 1
            }
            [b'\'', b'\\', ..] => find(at + 3, "'"),
            // A lifetime is no character.
            [b'\'', ..] => {
                let one = text[at + 1..].chars().next().map_or(0, char::len_utf8);
                if bytes.get(at + 1 + one) == Some(&b'\'') { at + 2 + one } else { at }
            }
            _ => at,
        };
        let end = end.min(bytes.len());
        out[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        at = end.max(at + 1);
    }
    String::from_utf8(out).unwrap()
}

/// Where the item that begins at `from` ends: at its `;`, or with its braces. An element of a list ends at its `,`, or with the list.
fn item_end(code: &str, from: usize) -> usize {
    let first = code[from..].trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
    let is_item =
        ["pub", "fn", "mod", "use", "impl", "static", "const", "struct", "enum", "type", "trait", "async", "unsafe", "let"]
            .contains(&first);
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' if depth == 0 => return at,
            b')' | b']' => depth -= 1,
            b'}' if depth == 1 => return at + 1,
            b'}' => depth -= 1,
            b';' if depth == 0 => return at + 1,
            b',' if depth == 0 && !is_item => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// One source file without what is there for tests only, and the files that are there for tests only.
fn production(file: &Path, text: &str) -> (String, Vec<PathBuf>) {
    let mut code = code(text);
    let mut tests = Vec::new();
    while let Some(from) = code.find("#[cfg(test)]") {
        let mut item = from + "#[cfg(test)]".len();
        let mut named = None;
        while code[item..].trim_start().starts_with("#[") {
            let end = item + code[item..].find(']').unwrap() + 1;
            named = text[item..end].contains("path").then(|| text[item..end].split('"').nth(1).unwrap().to_owned());
            item = end;
        }
        let end = item_end(&code, item);
        let declared = code[item..end].trim_start().trim_start_matches("pub ").strip_prefix("mod ");
        if let Some(name) = declared.and_then(|rest| rest.strip_suffix(';')) {
            let folder = match file.file_stem().unwrap().to_str().unwrap() {
                "mod" | "lib" | "main" => file.parent().unwrap().to_owned(),
                stem => file.parent().unwrap().join(stem),
            };
            match named {
                Some(path) => tests.push(file.parent().unwrap().join(path)),
                None => tests.extend([folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")]),
            }
        }
        let blank: String = code[from..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        code.replace_range(from..end, &blank);
    }
    (code, tests)
}

/// Every room that the code names, and on which line.
fn rooms_named(code: &str) -> Vec<(usize, String)> {
    let ident = |text: &str| text.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned();
    let mut named = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            named.push((line, ident(rest)));
            continue;
        };
        let mut depth = 1;
        let mut start = true;
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => start |= depth == 1,
                c if c.is_whitespace() => {}
                _ if start && depth == 1 => {
                    named.push((line, ident(&list[at..])));
                    start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    named
}

/// What a file says that its room must not say. `room` may name what is on lines above its own.
fn faults(order: &BTreeMap<String, usize>, room: &str, shown: &str, code: &str) -> Vec<String> {
    let own = order.get(room).copied();
    let wrong = rooms_named(code).into_iter().filter(|(_, named)| {
        // A macro or a constant of the crate's root is no room.
        *named != room && order.get(named).is_some_and(|other| own.is_none_or(|own| *other >= own))
    });
    wrong
        .map(|(line, named)| format!("{shown}:{line}: `{room}` uses `{named}`, which src/lib.rs does not list above it"))
        .collect()
}

fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, all),
            false if path.extension().is_some_and(|end| end == "rs") => all.push(path),
            false => {}
        }
    }
}

#[test]
fn rooms_use_only_those_above_them() {
    let root = source();
    let lib = std::fs::read_to_string(root.join("lib.rs")).unwrap();
    let order = order(&lib);
    let modules: BTreeSet<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(modules, order.keys().map(String::as_str).collect(), "the modules, and the list of them in src/lib.rs");
    assert_eq!(modules, on_the_map(&lib), "the modules, and the map in src/lib.rs");

    let mut all = Vec::new();
    files(&root, &mut all);
    assert!(all.len() > 200, "{}", all.len());
    let read: Vec<_> = all.iter().map(|file| (file, std::fs::read_to_string(file).unwrap())).collect();
    let production: Vec<_> = read.iter().map(|(file, text)| (file, production(file, text))).collect();
    let tests: BTreeSet<&PathBuf> = production.iter().flat_map(|(_, (_, tests))| tests).collect();
    let mut found = Vec::new();
    for (file, (code, _)) in &production {
        let inside = file.strip_prefix(&root).unwrap();
        let room = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let of_tests = tests.iter().any(|test| {
            *file == test || test.file_stem().is_some_and(|stem| stem != "mod") && file.starts_with(test.with_extension(""))
        });
        if !of_tests && !["lib", "main"].contains(&room) {
            found.extend(faults(&order, room, &format!("src/{}", inside.display()), code));
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The checker itself: what it must see, and what it must not.
#[test]
fn a_wrong_import_is_found() {
    let lib = "//! # Dependencies\n//!\n//! - leaves: [`low`], [`flat`]\n//! - [`middle`], [`beside`]\n//! - [`high`]\n";
    let order = order(lib);
    assert_eq!(order.len(), 5);
    let check = |room: &str, text: &str| {
        let (code, _) = production(Path::new("src/room/mod.rs"), text);
        faults(&order, room, "x.rs", &code).len()
    };
    for wrong in [
        "use crate::high::Thing;",
        "fn f() { crate::high::call() }",
        "use crate::{low, high::{self, Thing}};",
        "use crate::{\n    low::{A, B},\n    beside,\n};",
        "pub use crate::beside;",
        "const C: char = '\"'; use crate::high; const D: char = '\"';",
        "#[cfg(test)]\nmod tests { fn f() { let brace = '}'; let more = \"}}\"; } }\nuse crate::high;",
        "#[cfg(test)]\nuse crate::low;\nuse crate::high;",
        "static ALL: [u8; 2] = [\n    #[cfg(test)]\n    crate::low::<A>(b, c),\n    crate::high::d(),\n];",
        "fn f<'a>(x: &'a str) {} use crate::high;",
        "const R: &str = r#\"\"{\"#; use crate::high;",
    ] {
        assert_eq!(check("middle", wrong), 1, "{wrong}");
    }
    for right in [
        "use crate::low::Thing;",
        "use crate::middle::own;",
        "use crate::{flat, low::{high, beside}};",
        "/// [`crate::high`] is told.\n// use crate::high;\n/* crate::high */",
        "const S: &str = \"crate::high\";",
        "#[cfg(test)]\nmod tests { use crate::high; fn f() { let brace = '{'; } }",
        "#[cfg(test)]\nuse crate::high;\nuse crate::low;",
        "#[cfg(test)]\nimpl Plan { fn f() { crate::high::call() } }",
        "crate::some_macro!()",
    ] {
        assert_eq!(check("middle", right), 0, "{right}");
    }
    assert_eq!(check("low", "use crate::middle;"), 1);
    assert_eq!(check("high", "use crate::middle; use crate::low;"), 0);
    assert_eq!(check("unlisted", "use crate::low;"), 1, "a room that is not listed may use none");
}

#[test]
fn the_map_is_read() {
    let lib =
        "//! | module | what it is for |\n//! |---|---|\n//! | [`a`] | see [`x`] |\n//! | [`b`], [`c`] | more |\n//! - [`d`]\n";
    assert_eq!(on_the_map(lib), BTreeSet::from(["a", "b", "c"]));
}

#[test]
fn what_is_there_for_tests_only_is_told_apart() {
    let text = "#[cfg(test)]\nmod tests;\n#[cfg(test)]\n#[path = \"other_tests.rs\"]\nmod more;\nmod real;\n";
    let (code, tests) = production(Path::new("src/room/thing.rs"), text);
    assert_eq!(code.trim(), "mod real;");
    let wanted = ["src/room/thing/tests.rs", "src/room/thing/tests/mod.rs", "src/room/other_tests.rs"];
    assert_eq!(tests, wanted.map(PathBuf::from));
}

/// docs/develop/architecture.md says who they are, and why.
#[test]
fn only_those_that_are_named_call_by_themselves() {
    fn files(folder: &std::path::Path, all: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() { files(&entry.path(), all) } else { all.push(entry.path()) }
        }
    }
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&source, &mut all);
    let clients = [
        "reqwest::Client",
        "Client::builder()",
        "connectors::http::",
        "h2::client",
        "hyper::client",
        "hyper_util::client",
        "TransportConnector::new",
    ];
    let mut found: Vec<String> = Vec::new();
    for file in all {
        let text = std::fs::read_to_string(&file).unwrap();
        if clients.iter().any(|client| text.contains(client)) {
            found.push(file.strip_prefix(&source).unwrap().display().to_string());
        }
    }
    found.sort();
    let named = [
        "oidc/provider.rs",
        "policy/authz/external/mod.rs",
        "upstream/call/h2.rs",
        "upstream/call/lines.rs",
        "upstream/connect.rs",
        "upstream/health/mod.rs",
    ];
    assert_eq!(found, named);
}
