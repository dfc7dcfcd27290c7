//! The real nginx as a backend.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::files::Files;
use super::port::Port;

/// An nginx in the foreground, with one server.
pub struct Nginx {
    process: Child,
    port: Port,
    files: Files,
}

impl Nginx {
    /// `server_conf` is the inside of a `server` block. `$PORT` becomes the port; a `listen` line is added unless it has its own.
    #[track_caller]
    pub fn start(server_conf: &str) -> Nginx {
        Nginx::start_in(&Files::new(), server_conf)
    }

    /// In a folder with files of the test's: relative paths begin there.
    #[track_caller]
    pub fn start_in(files: &Files, server_conf: &str) -> Nginx {
        let port = Port::lease();
        let listen = if server_conf.contains("listen ") { "" } else { "listen 127.0.0.1:$PORT;" };
        let folder = files.dir().display().to_string();
        let conf = format!(
            "daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log notice;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log {folder}/nginx-access.log; default_type text/plain; keepalive_requests 1000000;\n\
             client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;\n\
             uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n\
             server {{ {listen}\n{server_conf}\n}} }}\n"
        );
        files.write("nginx.conf", conf.replace("$PORT", &port.number().to_string()));
        let mut nginx = Nginx { process: spawn(files), port, files: files.clone() };
        nginx.await_ready();
        nginx
    }

    fn await_ready(&mut self) {
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", self.port())).is_err() {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "nginx did not start ({ended:?}): {}", self.error_log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGKILL: its connections are reset, and nobody listens any more.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again on the same port.
    pub fn back(&mut self) {
        self.process = spawn(&self.files);
        self.await_ready();
    }

    /// A signal such as `STOP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.process.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn access_log(&self) -> String {
        std::fs::read_to_string(self.files.dir().join("nginx-access.log")).unwrap_or_default()
    }

    pub fn error_log(&self) -> String {
        std::fs::read_to_string(self.files.dir().join("nginx-error.log")).unwrap_or_default()
    }
}

fn spawn(files: &Files) -> Child {
    Command::new("nginx")
        .arg("-p")
        .arg(files.dir())
        .arg("-c")
        .arg(files.dir().join("nginx.conf"))
        .arg("-e")
        .arg(files.dir().join("nginx-error.log"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("these tests need nginx: {error}"))
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
