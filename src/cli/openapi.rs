//! `portcullis openapi`: what can be served of a document, before a configuration names it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{fail, print};
use crate::policy::validate::openapi::document::{Document, Fault, Loaded, Operation, Options, Scheme};
use crate::policy::validate::report::Part;

#[derive(Args)]
pub struct Openapi {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Report everything of a document that cannot be served, with its place and the operations that it is about, and exit 0 or 1.
    Check {
        /// The document: OpenAPI 3.0 or 3.1, YAML or JSON.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the operations of a document, one a line: method, path, operationId, what is taken, and what it needs to be let in.
    ///
    /// What cannot be served is marked. Exits 1 if nothing can.
    Routes {
        /// The document: OpenAPI 3.0 or 3.1, YAML or JSON.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

pub fn run(command: &Openapi) -> ExitCode {
    // The schemas of answers are part of a document as well.
    let options = Options { formats: true, answers: true };
    match &command.command {
        Command::Check { file } => check(file, &Document::load(file, options)),
        Command::Routes { file } => routes(file, &Document::load(file, options)),
    }
}

fn said(file: &Path, faults: &[Fault]) -> String {
    let mut text = String::new();
    for fault in faults {
        let kind = if fault.only_pattern { "warning" } else { "error" };
        text.push_str(&format!("{kind}: {}\n", fault.said(&file.display().to_string())));
        if let Some(hint) = fault.hint {
            text.push_str(&format!("  = {hint}\n"));
        }
    }
    text
}

fn check(file: &Path, loaded: &Loaded) -> ExitCode {
    let text = said(file, &loaded.faults);
    let Some(document) = &loaded.document else { return fail(&text) };
    let lost = document.operations.iter().filter(|operation| operation.lost).count();
    let all = document.operations.len();
    if !loaded.faults.is_empty() {
        let patterns = loaded.faults.iter().filter(|fault| fault.only_pattern).count();
        return fail(&format!(
            "{text}{}: {} of {all} operations can be served; {patterns} patterns cannot be looked at\n  = \
             `unsupported: skip` serves it without the rest",
            file.display(),
            all - lost
        ));
    }
    print(&format!("{}: ok ({all} operations, {} schemas)\n", file.display(), document.schema.len()))
}

fn routes(file: &Path, loaded: &Loaded) -> ExitCode {
    let Some(document) = &loaded.document else { return fail(&said(file, &loaded.faults)) };
    let width = |cell: fn(&Operation) -> usize| document.operations.iter().map(cell).max().unwrap_or(0).min(60);
    let (path, id) = (width(|operation| operation.path.len()), width(|operation| operation.id.len()));
    let mut text = String::new();
    for operation in &document.operations {
        let line = format!(
            "{:<7} {:<path$}  {:<id$}  {}",
            operation.method.as_str(),
            operation.path,
            operation.id,
            takes(document, operation)
        );
        text.push_str(line.trim_end());
        text.push('\n');
        let own = |fault: &&Fault| !fault.only_pattern && fault.operations.contains(&operation.id);
        for fault in loaded.faults.iter().filter(own).filter(|_| operation.lost) {
            text.push_str(&format!(
                "        not served: {}\n",
                Fault { operations: Vec::new(), ..fault.clone() }.said(&file.display().to_string())
            ));
        }
    }
    let unknown = loaded.faults.iter().filter(|fault| !document.operations.iter().any(|one| fault.operations.contains(&one.id)));
    for fault in unknown {
        text.push_str(&format!("not served: {}\n", fault.said(&file.display().to_string())));
    }
    let none = document.operations.iter().all(|operation| operation.lost);
    if none { fail(&text) } else { print(&text) }
}

/// `query: limit*, tag  body: application/json*  security: key, oauth(read)`; a star is what has to be there.
fn takes(document: &Document, operation: &Operation) -> String {
    let star = |required: bool| if required { "*" } else { "" };
    let mut said = Vec::new();
    for part in [Part::Query, Part::Header, Part::Cookie] {
        let names = operation.params.iter().filter(|param| param.part == part);
        let names: Vec<String> = names.map(|param| format!("{}{}", param.name, star(param.required))).collect();
        if !names.is_empty() {
            said.push(format!("{}: {}", part.name(), names.join(", ")));
        }
    }
    if let Some(body) = &operation.body {
        let types = body.accept.to_str().unwrap_or_default();
        said.push(format!("body: {types}{}", star(body.required)));
    }
    let needs = operation.security.iter().flatten().filter(|needs| !needs.is_empty()).map(|needs| {
        let each = needs.iter().map(|(name, scopes)| {
            let kind = match document.schemes.get(name) {
                Some(Scheme::Other(kind)) => format!(" [{kind}]"),
                _ => String::new(),
            };
            if scopes.is_empty() { format!("{name}{kind}") } else { format!("{name}({}){kind}", scopes.join(" ")) }
        });
        each.collect::<Vec<_>>().join(" + ")
    });
    let needs: Vec<String> = needs.collect();
    if !needs.is_empty() {
        said.push(format!("security: {}", needs.join(" | ")));
    }
    if operation.deprecated {
        said.push("deprecated".to_owned());
    }
    said.join("  ")
}
