//! The real PostgreSQL.

use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::files::Files;
use super::port::Port;

/// How long it may take to make a database, and to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// It does not run as root; nobody does as well as anybody.
const NOBODY: u32 = 65534;

/// A PostgreSQL with TLS, the user `test` and no password. It ends with this value.
pub struct Postgres {
    process: Child,
    port: Port,
    folder: TempDir,
}

impl Postgres {
    /// With a certificate for this name, and where that is.
    #[track_caller]
    pub fn start(files: &Files, name: &str) -> (Postgres, PathBuf) {
        let (cert, key, _) = files.certificate(&[name]);
        let folder = tempfile::Builder::new().prefix("portcullis-test-").tempdir().unwrap();
        let port = Port::lease();
        let (data, key_of_its_own) = (folder.path().join("data"), folder.path().join("key.pem"));
        std::fs::copy(&key, &key_of_its_own).unwrap();
        std::fs::set_permissions(&key_of_its_own, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::copy(&cert, folder.path().join("cert.pem")).unwrap();
        if rustix::process::geteuid().is_root() {
            for path in [folder.path(), &key_of_its_own, &folder.path().join("cert.pem")] {
                std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        let made = tool("initdb", folder.path())
            .args(["--no-sync", "--no-instructions", "--auth=trust", "--username=test", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data)
            .output()
            .unwrap_or_else(|error| panic!("these tests need PostgreSQL (Debian's package postgresql): {error}"));
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let process = tool("postgres", folder.path())
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.number().to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(["-c", "fsync=off", "-c", "ssl=on", "-c", "max_connections=20"])
            .args(["-c", &format!("ssl_cert_file={}", folder.path().join("cert.pem").display())])
            .args(["-c", &format!("ssl_key_file={}", key_of_its_own.display())])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let postgres = Postgres { process, port, folder };
        let until = Instant::now() + PATIENCE;
        while psql(postgres.port(), "sslmode=disable", "select 1").is_err() {
            let log = || std::fs::read_to_string(postgres.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "PostgreSQL did not start: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        (postgres, cert)
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, and with all that it has forked.
        let _ = kill_process(Pid::from_child(&self.process), Signal::QUIT);
        let until = Instant::now() + Duration::from_secs(10);
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What `psql` says to this, on that port; `how` is more of its connection string.
pub fn psql(port: u16, how: &str, sql: &str) -> Result<String, String> {
    let to = format!("host=127.0.0.1 port={port} user=test dbname=postgres connect_timeout=10 {how}");
    let output = Command::new("psql")
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, &to])
        .stdin(Stdio::null())
        .output();
    let output = output.unwrap_or_else(|error| panic!("these tests need psql (Debian's package postgresql): {error}"));
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The major version of `psql`, and of the server that comes with it.
pub fn psql_version() -> u32 {
    let output = Command::new("psql").arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("{text}"))
}

/// A tool of the newest PostgreSQL that is installed; Debian has them on nobody's path.
fn tool(name: &str, folder: &Path) -> Command {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = installed.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    let mut command = match newest {
        Some(version) => Command::new(format!("/usr/lib/postgresql/{version}/bin/{name}")),
        None => Command::new(name),
    };
    command.current_dir(folder);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}
