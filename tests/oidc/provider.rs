//! A real OpenID provider: the npm package `oidc-provider`, in a process of its own.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Answer, Files, Port, installed, request};

/// How long it may take to start on a machine that is busy with everything else.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Provider {
    process: Option<Child>,
    port: Port,
    files: Files,
}

impl Provider {
    /// Reserves its port, but does not start it.
    pub fn absent() -> Provider {
        Provider { process: None, port: Port::lease(), files: Files::new() }
    }

    #[track_caller]
    pub fn start() -> Provider {
        let mut provider = Provider::absent();
        provider.run("first.json");
        provider
    }

    /// Starts it with the keys of this name, which are made if there are none yet. What it remembered of tokens is gone.
    #[track_caller]
    pub fn run(&mut self, keys: &str) {
        self.stop();
        let folder = installed("oidc", &["tests/npm.sh", "tests/oidc"]);
        let said = self.files.dir().join("stdout");
        let process = Command::new("node")
            .arg(folder.join("provider.mjs"))
            .env("PORT", self.port().to_string())
            .env("KEYS", self.files.dir().join(keys))
            .env("LOG", self.files.dir().join("requests.log"))
            .stdin(Stdio::null())
            .stdout(File::create(&said).unwrap())
            .stderr(File::create(self.files.dir().join("stderr")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("these tests need node: {error}"));
        let process = self.process.insert(process);
        let until = Instant::now() + PATIENCE;
        while !std::fs::read_to_string(&said).unwrap().contains("ready") {
            let ended = process.try_wait().unwrap();
            let stderr = std::fs::read_to_string(self.files.dir().join("stderr")).unwrap();
            assert!(ended.is_none() && Instant::now() < until, "the OpenID provider did not start ({ended:?}): {stderr}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// It is there, and says nothing any more.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().unwrap();
        kill_process(Pid::from_raw(process.id().cast_signed()).unwrap(), signal).unwrap();
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// How many requests for this path it has answered, in all its lives.
    pub fn asked(&self, path: &str) -> usize {
        let log = std::fs::read_to_string(self.files.dir().join("requests.log")).unwrap_or_default();
        log.lines().filter(|line| line.split(' ').nth(1) == Some(path)).count()
    }

    /// A signed token for the audience `shop`, by the algorithm `ES256` or `RS256`.
    #[track_caller]
    pub fn jwt(&self, algorithm: &str) -> String {
        self.token(&format!("grant_type=client_credentials&scope=catalog:read&resource=urn:shop&alg={algorithm}"))
    }

    /// A token that means nothing to anyone but the provider.
    #[track_caller]
    pub fn opaque(&self) -> String {
        self.token("grant_type=client_credentials&scope=catalog:read")
    }

    #[track_caller]
    fn token(&self, form: &str) -> String {
        let answer = self.post("/token", form);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub fn revoke(&self, token: &str) {
        assert_eq!(self.post("/token/revocation", &format!("token={token}")).status, 200);
    }

    fn post(&self, path: &str, form: &str) -> Answer {
        // app:app-s3cret
        let headers = [("Authorization", "Basic YXBwOmFwcC1zM2NyZXQ="), ("Content-Type", "application/x-www-form-urlencoded")];
        request(self.port(), "POST", path, &headers, form.as_bytes())
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stop();
    }
}
