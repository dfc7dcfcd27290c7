//! The last stage before the backend: what the request, and later the answer, is made to look like.
//!
//! [`template`] compiles values with placeholders, [`headers`] is the policies `request_headers` and `response_headers`.

pub mod headers;
pub mod template;
