//! The real curl.

use std::process::Command;

use super::client::Answer;

/// Runs curl with these arguments and reads what it prints. Panics if curl fails.
#[track_caller]
pub fn curl(args: &[&str]) -> Answer {
    try_curl(args).unwrap_or_else(|why| panic!("curl {}: {why}", args.join(" ")))
}

/// Runs curl; what it says on standard error if it fails.
#[track_caller]
pub fn try_curl(args: &[&str]) -> Result<Answer, String> {
    let output = Command::new("curl")
        .args(["-q", "-sS", "-i", "--max-time", "30", "--noproxy", "*"])
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("these tests need curl: {error}"));
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    Answer::printed(&output.stdout).ok_or_else(|| format!("no answer: {:?}", String::from_utf8_lossy(&output.stdout)))
}
