//! A real browser: Chromium without a window.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Backend, Files};

/// A browser that looks at one page. It ends with this value.
pub struct Browser {
    process: Child,
    _files: Files,
}

impl Browser {
    #[track_caller]
    fn open(url: &str) -> Browser {
        let files = Files::new();
        let process = Command::new("chromium-headless-shell")
            .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"])
            .arg(format!("--user-data-dir={}", files.dir().display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A script starts it, and it starts others: they end together.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("these tests need chromium-headless-shell: {error}"));
        Browser { process, _files: files }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.process.wait();
    }
}

/// Has a page of its own origin run this, and gives back what it returns: the body of an asynchronous function in JavaScript. `$PAGE` is
/// the page's origin. In it, `read(url, options)` fetches, and says what the page got to see of it: `{ status, type, headers, body }`, or
/// `"refused"`.
#[track_caller]
pub fn in_browser(script: impl FnOnce(&str) -> String) -> serde_json::Value {
    const PAGE: &str = r#"<!doctype html><meta charset=utf-8><script>
        const read = async (url, options) => {
            try {
                const answer = await fetch(url, options);
                const headers = Object.fromEntries(answer.headers.entries());
                return { status: answer.status, type: answer.type, headers, body: await answer.text() };
            } catch (error) { return "refused"; }
        };
        const work = async () => { $SCRIPT };
        work().catch(error => ({ failed: String(error) })).then(result =>
            fetch("/report", { method: "POST", body: JSON.stringify(result) }));
    </script>"#;
    let shared = Arc::new(Mutex::new(String::new()));
    let page = shared.clone();
    let site = Backend::answering(move |_| {
        let page = page.lock().unwrap();
        let length = page.len();
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nSet-Cookie: who=olga\r\nContent-Length: {length}\r\n\r\n{page}")
            .into_bytes()
    });
    let origin = format!("http://127.0.0.1:{}", site.port());
    *shared.lock().unwrap() = PAGE.replace("$SCRIPT", &script(&origin));
    let browser = Browser::open(&format!("{origin}/"));
    let until = Instant::now() + Duration::from_secs(50);
    let report = loop {
        if let Some(report) = site.requests().into_iter().find(|request| request.target == "/report" && request.complete) {
            break report;
        }
        assert!(Instant::now() < until, "the page did not come to its end");
        std::thread::sleep(Duration::from_millis(20));
    };
    drop(browser);
    let result: serde_json::Value = serde_json::from_slice(&report.body).unwrap();
    assert!(result.get("failed").is_none(), "{result}");
    result
}
