//! The configuration people write: the [`Document`], made of the rooms' own configuration types, and how it is read from a file.
//!
//! Reading collects every problem; nothing here decides what a value means (that is compiling, in `snapshot`).

mod document;
pub mod schema;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use document::{AdminConfig, Document, Engine, MetricsConfig, ServerConfig};

use crate::node::{self, Node};
use crate::problem::{Place, Problem, Problems};
use crate::report;

/// A configuration file of more than this is refused: it is some other file.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// A configuration as it was read, with all that a report about it needs.
pub struct Source {
    pub path: PathBuf,
    pub text: String,
    pub root: Option<Arc<Node>>,
    pub problems: Problems,
}

impl Source {
    /// Reads and decodes a file. `None` beside the source means that its problems say why.
    pub fn read(path: &Path) -> (Source, Option<Document>) {
        let mut source = Source { path: path.to_owned(), text: String::new(), root: None, problems: Problems::default() };
        match std::fs::metadata(path).and_then(|facts| match facts.len() {
            length if length > MAX_FILE => Err(std::io::Error::other("the file is larger than 256 MiB")),
            _ => std::fs::read_to_string(path),
        }) {
            Ok(text) => source.text = text,
            Err(error) => {
                let problem = Problem::error(Place::NOWHERE, format!("cannot read {}: {error}", path.display()));
                source.problems.push(problem);
                return (source, None);
            }
        }
        let document = source.decode();
        (source, document)
    }

    /// Decodes a text that came from elsewhere; `path` names it in reports and is where relative file names count from.
    pub fn from_text(path: &Path, text: String) -> (Source, Option<Document>) {
        let mut source = Source { path: path.to_owned(), text, root: None, problems: Problems::default() };
        let document = source.decode();
        (source, document)
    }

    fn decode(&mut self) -> Option<Document> {
        let environment = |name: &str| std::env::var(name).ok();
        self.root = node::parse(&self.text, &environment, &mut self.problems);
        let root = self.root.clone()?;
        node::decode::<Document>(&root, &mut self.problems)
    }

    /// The folder that relative file names count from.
    pub fn base(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// Every problem for a person to read, with the places underlined.
    pub fn report(&self, color: bool) -> String {
        report::render(&self.problems, &self.path.display().to_string(), &self.text, self.root.as_deref(), color)
    }

    /// Every problem on a line of its own, for logs and the admin API.
    pub fn lines(&self) -> Vec<String> {
        report::lines(&self.problems, &self.path.display().to_string(), self.root.as_deref())
    }
}
