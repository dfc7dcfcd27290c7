//! `portcullis keys`: consumers' API keys, through the admin API of a running gateway.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// The variable with the admin token.
const TOKEN: &str = "PORTCULLIS_ADMIN_TOKEN";
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest answer that is read, in bytes: a page of a thousand keys has a tenth of that.
const LONGEST: u64 = 4 << 20;

#[derive(Args)]
pub struct Keys {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    access: Access,
}

/// Where the admin API is, and what it wants to see.
#[derive(Args)]
pub(super) struct Access {
    /// The gateway's admin API (`admin.bind`).
    #[arg(long, global = true, default_value = "127.0.0.1:9901", value_name = "ADDRESS")]
    admin: SocketAddr,
    /// A file with the token that `admin.token` names. Default: the variable PORTCULLIS_ADMIN_TOKEN, if it is set.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Action {
    /// Issue a key, and print it. It is shown this once.
    Create {
        consumer: String,
        /// What to call it, for people.
        #[arg(long)]
        label: Option<String>,
        /// What it may do, in place of what the consumer may. Several times for several scopes.
        #[arg(long = "scope")]
        scopes: Vec<String>,
        /// How long it works, such as 90d. Default: until it is revoked.
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<String>,
    },
    /// List a consumer's keys, without the keys themselves.
    List { consumer: String },
    /// Issue a key in place of another one, and print it. Both work for a while.
    Rotate {
        consumer: String,
        id: String,
        /// How long the old key goes on working. Default: 24h.
        #[arg(long, value_name = "DURATION")]
        overlap: Option<String>,
    },
    /// Revoke a key: at once here, within a second on every gateway that shares the store.
    Revoke { consumer: String, id: String },
}

pub fn run(keys: &Keys) -> ExitCode {
    match perform(keys) {
        Ok(text) => super::print(&text),
        Err(why) => super::fail(&why),
    }
}

impl Access {
    /// Asks with the operator's token, if there is one.
    pub(super) fn asker(&self) -> Result<impl Fn(&str, &str, &Value) -> Result<Value, String>, String> {
        let token = match &self.token_file {
            Some(file) => {
                let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
                Some(text.trim_end().to_owned())
            }
            None => std::env::var(TOKEN).ok().filter(|token| !token.is_empty()),
        };
        if token.as_deref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err("the admin token is printable ASCII without spaces".to_owned());
        }
        let admin = self.admin;
        Ok(move |method: &str, path: &str, body: &Value| ask(admin, token.as_deref(), method, path, body))
    }
}

fn perform(keys: &Keys) -> Result<String, String> {
    let asker = keys.access.asker()?;
    let ask = |method: &str, path: &str, body: Value| asker(method, path, &body);
    match &keys.action {
        Action::Create { consumer, label, scopes, expires_in } => {
            let scopes = (!scopes.is_empty()).then_some(scopes);
            let body = json!({ "label": label, "scopes": scopes, "expires_in": expires_in });
            let made = ask("POST", &path(consumer, None), body)?;
            Ok(format!("{}\n", text(&made, "key")))
        }
        Action::List { consumer } => list(|query| ask("GET", &format!("{}{query}", path(consumer, None)), Value::Null)),
        Action::Rotate { consumer, id, overlap } => {
            let made = ask("POST", &format!("{}/rotate", path(consumer, Some(id))), json!({ "overlap": overlap }))?;
            Ok(format!("{}\n", text(&made, "key")))
        }
        Action::Revoke { consumer, id } => {
            ask("DELETE", &path(consumer, Some(id)), Value::Null)?;
            Ok(format!("revoked {id}\n"))
        }
    }
}

/// Page by page.
fn list(ask: impl Fn(String) -> Result<Value, String>) -> Result<String, String> {
    let mut lines = String::new();
    let mut query = "?limit=1000".to_owned();
    loop {
        let page = ask(query)?;
        for key in page.get("keys").and_then(Value::as_array).into_iter().flatten() {
            let expires = key.get("expires_at").and_then(Value::as_str).unwrap_or("never");
            lines.push_str(&format!(
                "{:<10} {:<9} expires {expires:<21} {}\n",
                text(key, "id"),
                text(key, "state"),
                text(key, "label")
            ));
        }
        match page.get("next").and_then(Value::as_str) {
            Some(next) => query = format!("?limit=1000&after={}", segment(next)),
            None => return Ok(lines),
        }
    }
}

pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn path(consumer: &str, id: Option<&str>) -> String {
    match id {
        Some(id) => format!("/consumers/{}/keys/{}", segment(consumer), segment(id)),
        None => format!("/consumers/{}/keys", segment(consumer)),
    }
}

/// A name as a segment of a path.
fn segment(name: &str) -> String {
    crate::path::value(name.as_bytes())
}

/// One request on a connection of its own. What the gateway says against it is the error.
pub(super) fn ask(admin: SocketAddr, token: Option<&str>, method: &str, path: &str, body: &Value) -> Result<Value, String> {
    let cannot = |error: std::io::Error| format!("cannot ask the gateway at {admin}: {error}");
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE).map_err(cannot)?;
    stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE))).map_err(cannot)?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\nContent-Length: {length}\r\n{authorization}\r\n"
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).map_err(cannot)?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).map_err(cannot)?;
    understand(&answer).unwrap_or_else(|| Err(format!("what listens on {admin} is no admin API")))
}

/// The answer's body, or what it says is wrong. The admin API gives each answer a length.
fn understand(answer: &[u8]) -> Option<Result<Value, String>> {
    let end = memchr::memmem::find(answer, b"\r\n\r\n")?;
    let (head, body) = answer.split_at_checked(end)?;
    let status: u16 = std::str::from_utf8(head.get(9..12)?).ok()?.parse().ok()?;
    let body = body.get(4..)?;
    if status == 204 {
        return Some(Ok(Value::Null));
    }
    let body: Value = serde_json::from_slice(body).ok()?;
    if (200..300).contains(&status) {
        return Some(Ok(body));
    }
    Some(Err(format!("{status}: {}", body.get("detail").and_then(Value::as_str)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood() {
        assert_eq!(understand(b"HTTP/1.1 204 No Content\r\n\r\n"), Some(Ok(Value::Null)));
        assert_eq!(understand(b"HTTP/1.1 201 Created\r\na: b\r\n\r\n{\"key\":\"k\"}"), Some(Ok(json!({ "key": "k" }))));
        assert_eq!(understand(b"HTTP/1.1 404 Not Found\r\n\r\n{\"detail\":\"no\"}"), Some(Err("404: no".to_owned())));
        for strange in [&b""[..], b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n<html>", b"\r\n\r\n"] {
            assert_eq!(understand(strange), None);
        }
    }
}
