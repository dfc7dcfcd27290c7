//! Every protocol that the gateway speaks, with real clients and real backends.

mod auto;
mod events;
mod frames;
mod grpc;
mod grpc_clients;
mod grpc_metadata;
mod grpc_refusals;
mod grpc_web;
mod h2_services;
mod http2;
pub mod peer;
mod proxy_protocol;
mod timeouts;
mod tls;
mod upstream;
mod upstream_tls;
mod websocket;
mod websocket_h2;
mod websocket_limits;

/// The `server` section that these tests are for.
const SERVER: &str = "server: { workers: 2 }";

/// Bytes in which a lost, doubled or misplaced piece shows: no two aligned blocks are the same.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Starts a tool and gives back all that it prints, standard error included, and whether it succeeded.
#[track_caller]
fn tool(program: &str, args: &[&str], input: &[u8]) -> (bool, String) {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("these tests need {program}: {error}"));
    // A tool that ends without reading its input is judged by its answer.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}
