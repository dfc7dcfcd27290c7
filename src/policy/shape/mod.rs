//! The last stage before the backend: what the request, and later the answer, is made to look like.
//!
//! [`template`] compiles values with placeholders, [`headers`] is the policies `request_headers` and `response_headers`, [`cache`] what
//! a route wants of the cache, [`mirror`] who else gets the request.

pub mod cache;
pub mod headers;
pub mod mirror;
pub mod template;
