//! A real DNS server.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Port, eventually};

/// Distributions keep it where the path of users who are not root may not lead.
fn dnsmasq() -> &'static str {
    let elsewhere = "/usr/sbin/dnsmasq";
    if Path::new(elsewhere).exists() { elsewhere } else { "dnsmasq" }
}

/// A DNS server with these records, from apt's `dnsmasq-base`.
pub struct Dns {
    port: Port,
    child: Child,
    folder: tempfile::TempDir,
}

impl Dns {
    pub fn start(records: &[&str]) -> Dns {
        let mut dns =
            Dns { port: Port::lease(), child: Command::new("true").spawn().unwrap(), folder: tempfile::tempdir().unwrap() };
        dns.restart(records);
        dns
    }

    pub fn restart(&mut self, records: &[&str]) {
        self.stop();
        let configuration: PathBuf = self.folder.path().join("dnsmasq.conf");
        std::fs::write(&configuration, records.join("\n")).unwrap();
        let mut command = Command::new(dnsmasq());
        command.args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1"]);
        command.args(["--local-ttl=1", "--auth-ttl=1", "--pid-file=", "--user=", "--local=/test/"]);
        command.arg(format!("--log-facility={}", self.folder.path().join("log").display()));
        command.arg(format!("--port={}", self.port.number())).arg(format!("--conf-file={}", configuration.display()));
        self.child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("dnsmasq is there (apt: dnsmasq-base)");
        let port = self.port.number();
        eventually("the DNS server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// What it was asked, with `log-queries` among its records.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// As `servers` lists it.
    pub fn server(&self) -> String {
        format!("'127.0.0.1:{}'", self.port.number())
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop();
    }
}
