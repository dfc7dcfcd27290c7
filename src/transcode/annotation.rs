//! `google.api.http`, as far as it stands in the descriptor of a method: read off the bytes, so that it does not matter which version of
//! the annotation's own file, if any, is among the descriptors.

use prost_reflect::MethodDescriptor;
use prost_reflect::prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Options {
    #[prost(message, optional, tag = "72295728")]
    http: Option<HttpRule>,
}

/// One rule, and those that are bound beside it.
#[derive(Clone, PartialEq, Message)]
pub struct HttpRule {
    #[prost(string, optional, tag = "2")]
    pub get: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub put: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub post: Option<String>,
    #[prost(string, optional, tag = "5")]
    pub delete: Option<String>,
    #[prost(string, optional, tag = "6")]
    pub patch: Option<String>,
    #[prost(string, tag = "7")]
    pub body: String,
    #[prost(message, optional, tag = "8")]
    pub custom: Option<Custom>,
    #[prost(message, repeated, tag = "11")]
    pub additional_bindings: Vec<HttpRule>,
    #[prost(string, tag = "12")]
    pub response_body: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Custom {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, tag = "2")]
    pub path: String,
}

/// What a method's annotation says. `None`: it has none that can be read.
pub fn of(method: &MethodDescriptor) -> Option<HttpRule> {
    Options::decode(&*method.options().encode_to_vec()).ok()?.http
}
