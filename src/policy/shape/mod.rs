//! The last stage before the backend: what the request, and later the answer, is made to look like.
//!
//! [`template`] compiles values with placeholders, [`headers`] is the policies `request_headers` and `response_headers`, [`cache`] what
//! a route wants of the cache, [`mirror`] who else gets the request, [`security_headers`] what browsers are told, [`compress`] answers in
//! fewer bytes, [`etag`] tags for answers that have none, [`answer_contract`] what answers have to be,
//! [`error_pages`] what refusals look like, [`reshape`] bodies in other shapes; [`view`] is what each of a route's views has.

pub mod answer_contract;
pub mod cache;
pub mod compress;
pub mod error_pages;
pub mod etag;
pub mod headers;
pub mod mirror;
pub mod reshape;
pub mod security_headers;
// Examples of docs/develop/add-a-policy.md, as they stand there.
#[cfg(test)]
#[path = "../../../docs/develop/examples/served_by.rs"]
pub mod served_by;
#[cfg(test)]
#[path = "../../../docs/develop/examples/shout.rs"]
pub mod shout;
pub mod template;
pub mod view;
