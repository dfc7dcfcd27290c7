//! To come.
pub fn run(_verify: bool) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
