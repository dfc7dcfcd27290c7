//! The commands.

mod cache;
mod keys;
mod openapi;
mod status;

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{self, Source};
use crate::consumers::password;
use crate::embed::engine;
use crate::policy::Plan;
use crate::policy::registry::REGISTRY;
use crate::serve::{self, Options};
use crate::snapshot::{self, Answer, Route, Snapshot, Surroundings};
use crate::{demo, successor};

/// An API gateway in one binary: the single front door for every service behind it.
///
/// Try `portcullis demo` first: it starts sample backends and a gateway in front of them, and prints curl lines to paste.
/// Then write a file with `listeners` and `routes`, `portcullis check` it, and `portcullis run -c` it.
#[derive(Parser)]
#[command(name = "portcullis", version, propagate_version = true, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Either way, whatever the command.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct ConfigFile {
    /// The configuration file.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    /// One of them is there: the command line is refused otherwise.
    fn path(self) -> PathBuf {
        self.file.or(self.config).unwrap_or_default()
    }
}

#[derive(Subcommand)]
enum Command {
    /// Serve a configuration.
    ///
    /// Signals: HUP loads the configuration and the certificates again and reopens the access log; QUIT starts the binary anew and
    /// hands it the listening sockets; TERM finishes what is under way, then ends; INT ends at once.
    Run {
        #[command(flatten)]
        file: ConfigFile,
        /// Write the process id here once every listener accepts.
        #[arg(long, value_name = "FILE")]
        pid_file: Option<PathBuf>,
        /// With `server.engine: pingora`: take the listening sockets over from the process that serves now, once it gets QUIT.
        #[arg(long)]
        take_over: bool,
    },
    /// Report everything that is wrong with a configuration, and exit 0 or 1.
    ///
    /// Certificates, keys and secrets are read as `run` would read them, so run it with the same user and environment.
    Check(ConfigFile),
    /// Print the routing table, one route a line, with its policies in the order of execution.
    Routes(ConfigFile),
    /// Print every policy there is, in the order of execution.
    Policies,
    /// Print the JSON Schema of the configuration file, for an editor's completion.
    Schema,
    /// Issue, list, rotate and revoke API keys, through the admin API of a running gateway with a `key_store`.
    Keys(keys::Keys),
    /// Take answers out of a running gateway's cache.
    Cache(cache::Cache),
    /// Print how a running gateway stands: services, endpoints and why they get no requests, splits, quotas that run out, the last reload.
    Status(status::Status),
    /// Say what can be served of a document of OpenAPI.
    Openapi(openapi::Openapi),
    /// Read a password from standard input and print its hash, for `consumers[].passwords`.
    HashPassword,
    /// Start sample backends and a gateway in front of them, and print curl lines to try. Nothing else is needed.
    Demo {
        /// Paste every curl line, compare each status, and exit 0 or 1.
        #[arg(long)]
        verify: bool,
    },
    /// Replace a running gateway by a new process of the (new) binary without losing a connection.
    ///
    /// Sends QUIT to the process and waits until its successor serves. If the successor does not come up, the old process goes on
    /// serving, and this command says so and exits 1.
    Upgrade {
        /// The file that `run --pid-file` wrote.
        #[arg(long, value_name = "FILE", conflicts_with = "pid", required_unless_present = "pid")]
        pid_file: Option<PathBuf>,
        /// The process id. The successor's is then not known, so the command waits for the old process to end.
        #[arg(long)]
        pid: Option<i32>,
        /// How long to wait for the successor, in seconds.
        #[arg(long, default_value_t = 90)]
        timeout: u64,
    },
    /// Print a completion script: `portcullis completions bash > /etc/bash_completion.d/portcullis`.
    Completions { shell: clap_complete::Shell },
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    successor::remember_binary();
    env_logger::Builder::from_env(
        env_logger::Env::default().default_filter_or("info,pingora=error,pingora_core=error,pingora_proxy=error"),
    )
    .format_target(false)
    .init();
    match Arguments::parse().command {
        Command::Run { file, pid_file, take_over } => run(Options { config: file.path(), pid_file }, take_over),
        Command::Check(file) => check(&file.path()),
        Command::Routes(file) => routes(&file.path()),
        Command::Policies => policies(),
        Command::Schema => print(&format!("{:#}\n", config::schema::schema())),
        Command::Keys(command) => keys::run(&command),
        Command::Cache(command) => cache::run(&command),
        Command::Status(command) => status::run(&command),
        Command::Openapi(command) => openapi::run(&command),
        Command::HashPassword => hash_password(),
        Command::Demo { verify } => demo::run(verify),
        Command::Upgrade { pid_file, pid, timeout } => upgrade(pid_file.as_deref(), pid, Duration::from_secs(timeout)),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "portcullis", &mut text);
            print(&String::from_utf8_lossy(&text))
        }
    }
}

/// Prints to standard output; a reader that stops early (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn fail(text: &str) -> ExitCode {
    // Nothing is left to be done about a standard error that cannot be written to.
    let _ = writeln!(anstream::stderr().lock(), "{}", text.trim_end());
    ExitCode::FAILURE
}

fn run(options: Options, take_over: bool) -> ExitCode {
    let ready = |snapshot: &Snapshot| {
        for door in &snapshot.doors {
            log::info!("listening on {}{}", door.bind, if door.tls.is_some() { " (TLS)" } else { "" });
        }
    };
    let served = if engine::is_wanted(&options.config) {
        engine::run(&options, take_over, ready)
    } else if take_over {
        return fail("`--take-over` is for `server.engine: pingora`: our own engine starts its successor itself, on QUIT");
    } else {
        serve::run(options, |core| ready(&core.snapshot.load()))
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure.to_string()),
    }
}

/// Reads and compiles a file as `run` would.
fn load(path: &Path) -> (Source, Option<Snapshot>) {
    let (mut source, document) = Source::read(path);
    let around = Surroundings::detached();
    let snapshot = document.and_then(|document| snapshot::compile(&document, &mut source, &around, 1));
    (source, snapshot)
}

fn check(path: &Path) -> ExitCode {
    let (source, snapshot) = load(path);
    let report = source.report(color());
    match snapshot {
        Some(snapshot) => {
            if !source.problems.is_empty() {
                let _ = writeln!(anstream::stderr().lock(), "{}", report.trim_end());
            }
            print(&format!(
                "{}: ok ({} listeners, {} services, {} routes{})\n",
                path.display(),
                snapshot.doors.len(),
                snapshot.services.len(),
                snapshot.routes.iter().filter(|route| route.view.is_none()).count(),
                match snapshot.tcp_routes.len() {
                    0 => String::new(),
                    count => format!(", {count} TCP routes"),
                }
            ))
        }
        None => fail(&report),
    }
}

fn color() -> bool {
    use std::io::IsTerminal;
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn routes(path: &Path) -> ExitCode {
    let (source, snapshot) = load(path);
    let Some(snapshot) = snapshot else { return fail(&source.report(color())) };
    let mut text = String::new();
    for route in &snapshot.routes {
        text.push_str(&line(route));
        text.push('\n');
    }
    for route in &snapshot.tcp_routes {
        let services: Vec<_> = route.services().collect();
        let mut policies: Vec<_> = route.targets.iter().map(|target| policies_of(&target.plan)).collect();
        policies.dedup();
        text.push_str(&format!("tcp {}  ->  {}  [{}]\n", route.id, services.join(" | "), policies.join(" | ")));
    }
    print(&text)
}

fn policies_of(plan: &Plan) -> String {
    let names: Vec<_> = plan.names.iter().map(|(_, name)| *name).collect();
    if names.is_empty() { "no policies".to_owned() } else { names.join(", ") }
}

/// `GET example.com/a/*  ->  catalog  [bounds, authn, response_headers]  back: [response_headers]`
fn line(route: &Route) -> String {
    let services: Vec<_> = route.answer.services().iter().map(|service| &*service.key).collect();
    let policies = policies_of(&route.plan);
    let answers = match &route.answer {
        Answer::Own(own) => own.name().to_owned(),
        Answer::Compose(composed) => {
            let mut services: Vec<_> = composed.services.iter().map(|service| &*service.key).collect();
            if composed.graphql.is_some() {
                services.sort_unstable();
                services.dedup();
            }
            let what = if composed.graphql.is_some() { "graphql" } else { "compose" };
            format!("{what} of {}", services.join(" + "))
        }
        Answer::Service(_) | Answer::Split(..) => services.join(" | "),
        Answer::Views(_) => "views".to_owned(),
    };
    let view = route.view.as_ref().map(|view| format!(" @{}", view.name)).unwrap_or_default();
    let back = match route.plan.response_names.as_slice() {
        [] => String::new(),
        names => format!("  back: [{}]", names.join(", ")),
    };
    format!("{}{view}  ->  {answers}  [{policies}]{back}", route.id)
}

fn policies() -> ExitCode {
    let mut text = String::new();
    for entry in REGISTRY {
        text.push_str(&format!("{:<9} {:<17} {}\n", entry.stage.name(), entry.name, entry.summary));
    }
    print(&text)
}

/// The longest password that is hashed, in bytes; no request could present a longer one.
const LONGEST_PASSWORD: u64 = 1000;

fn hash_password() -> ExitCode {
    use std::io::{IsTerminal, Read};
    if std::io::stdin().is_terminal() {
        let _ = writeln!(anstream::stderr().lock(), "The password, then Enter and Ctrl-D; it will be seen as you type it:");
    }
    let mut password = Vec::new();
    if let Err(error) = std::io::stdin().lock().take(LONGEST_PASSWORD + 2).read_to_end(&mut password) {
        return fail(&format!("cannot read the password: {error}"));
    }
    // As it was typed, without the line's end.
    let end = password.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line).len());
    password.truncate(end.unwrap_or(password.len()));
    match std::str::from_utf8(&password) {
        _ if password.is_empty() => fail("there is no password on standard input"),
        Ok(text) if text.len() as u64 <= LONGEST_PASSWORD && !text.chars().any(char::is_control) => {
            match password::hash(&password) {
                Ok(hash) => print(&format!("{hash}\n")),
                Err(error) => fail(&error),
            }
        }
        _ => fail("a password is one line of UTF-8, of up to 1000 bytes"),
    }
}

fn upgrade(pid_file: Option<&Path>, pid: Option<i32>, patience: Duration) -> ExitCode {
    let read = || pid_file.and_then(|path| std::fs::read_to_string(path).ok()).and_then(|text| text.trim().parse::<i32>().ok());
    let Some(old) = pid.or_else(read) else { return fail("no running gateway: the pid file cannot be read") };
    // To kill(2), 0 and negative numbers are groups of processes, and -1 is every one of them.
    let Some(process) = Some(old).filter(|old| *old > 0).and_then(rustix::process::Pid::from_raw) else {
        return fail("a process id is a positive number");
    };
    let identity = || pid_file.and_then(|path| std::fs::metadata(path).ok()).map(|facts| (facts.ino(), facts.mtime_nsec()));
    let file = identity();
    if let Err(error) = rustix::process::kill_process(process, rustix::process::Signal::QUIT) {
        return fail(&format!("cannot signal process {old}: {error}"));
    }
    let until = Instant::now() + patience;
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
        // Which file it is before what is in it: it is replaced whole, with the successor's id or, if that failed, with the old one.
        let file_now = identity();
        if let Some(new) = read().filter(|new| *new != old) {
            return print(&format!("process {new} has taken over from {old}\n"));
        }
        if file_now.is_some() && file_now != file {
            break;
        }
        if rustix::process::test_kill_process(process).is_err() {
            return match pid_file {
                Some(_) => fail(&format!("process {old} ended and left no successor")),
                None => print(&format!("process {old} has ended\n")),
            };
        }
    }
    fail(&format!("process {old} still serves: its log says why the successor did not come up"))
}
