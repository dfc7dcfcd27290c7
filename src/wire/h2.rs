//! What HTTP/2 needs beside Pingora's own server session: nothing yet but its options.

use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};

/// Streams at once on one connection. More wait for a free one at the client (RFC 9113, section 5.1.2).
pub const MAX_STREAMS: u32 = 128;

/// Bounded options for a downstream connection: `head` is the bound of a request head in bytes.
pub fn options(head: usize) -> H2Options {
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(head).unwrap_or(u32::MAX))
        // One stream may fill a quarter of the connection's window, so that a slow upload does not stop its neighbours.
        .initial_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buffer_size(256 * 1024)
        // Rapid reset (CVE-2023-44487): streams that were reset but not yet accepted are bounded too.
        .max_pending_accept_reset_streams(32)
        .max_concurrent_reset_streams(32);
    options
}
