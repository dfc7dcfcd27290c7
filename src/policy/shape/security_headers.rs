//! `security_headers`: what browsers are told about a site, on every answer of it.
//!
//! What is written here replaces what the service says. What stands here by default fills in where the service says nothing. The gateway's own
//! answers have all of them.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, header};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::exchange::Exchange;
use crate::head::{HeaderEdit, RequestHead};
use crate::policy::{Compile, OnResponse, Outgoing, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::reply::Flow;
use crate::value::Spanned;

/// Each is the field's value, or `off`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SecurityHeadersConfig {
    /// `Strict-Transport-Security`, on answers over TLS. Default: `max-age=31536000`, a year, without subdomains.
    pub hsts: Option<Spanned<String>>,
    /// `X-Content-Type-Options`. Default: `nosniff`.
    pub content_type_options: Option<Spanned<String>>,
    /// `X-Frame-Options`: `DENY` or `SAMEORIGIN`. Default: `SAMEORIGIN`.
    pub frame_options: Option<Spanned<String>>,
    /// `Referrer-Policy`. Default: `strict-origin-when-cross-origin`.
    pub referrer_policy: Option<Spanned<String>>,
    /// `Content-Security-Policy`. Default: none, for nobody else can know what a page loads.
    pub content_security_policy: Option<Spanned<String>>,
    /// `Content-Security-Policy-Report-Only`. Default: none.
    pub content_security_policy_report_only: Option<Spanned<String>>,
    /// `Permissions-Policy`, such as `camera=(), microphone=()`. Default: none.
    pub permissions_policy: Option<Spanned<String>>,
    /// `Cross-Origin-Opener-Policy`. Default: none.
    pub cross_origin_opener_policy: Option<Spanned<String>>,
    /// `Cross-Origin-Embedder-Policy`. Default: none.
    pub cross_origin_embedder_policy: Option<Spanned<String>>,
    /// `Cross-Origin-Resource-Policy`. Default: none.
    pub cross_origin_resource_policy: Option<Spanned<String>>,
}

struct Field {
    name: HeaderName,
    value: HeaderValue,
    /// Replaces what the service says.
    written: bool,
}

/// The compiled policy.
pub struct SecurityHeaders(Vec<Field>);

impl SecurityHeaders {
    /// Browsers take `Strict-Transport-Security` over TLS alone, and RFC 6797 (section 7.2) has it sent there alone.
    fn of<'a>(&'a self, exchange: &Exchange) -> impl Iterator<Item = &'a Field> {
        let secure = exchange.scheme() == "https";
        self.0.iter().filter(move |field| secure || field.name != header::STRICT_TRANSPORT_SECURITY)
    }
}

impl OnResponse for SecurityHeaders {
    fn on_response(&self, answer: &mut Outgoing<'_>) -> Flow {
        for field in self.of(answer.exchange) {
            if field.written || answer.all(&field.name).is_empty() {
                answer.set(field.name.clone(), field.value.clone());
            }
        }
        Flow::Continue(())
    }

    fn on_refusal(&self, _: &RequestHead, exchange: &mut Exchange) {
        let edits: Vec<_> = self.of(exchange).map(|field| HeaderEdit::Set(field.name.clone(), field.value.clone())).collect();
        exchange.to_client.extend(edits);
    }
}

impl Policy for SecurityHeaders {
    const NAME: &'static str = "security_headers";
    const STAGE: Stage = Stage::Shape;
    const SUMMARY: &'static str = "Tells browsers what they may do with a site's answers: HSTS, nosniff, frames, referrers, CSP.";
    type Config = SecurityHeadersConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let name = HeaderName::from_static;
        let all = [
            (header::STRICT_TRANSPORT_SECURITY, &config.hsts, "max-age=31536000"),
            (header::X_CONTENT_TYPE_OPTIONS, &config.content_type_options, "nosniff"),
            (header::X_FRAME_OPTIONS, &config.frame_options, "SAMEORIGIN"),
            (header::REFERRER_POLICY, &config.referrer_policy, "strict-origin-when-cross-origin"),
            (header::CONTENT_SECURITY_POLICY, &config.content_security_policy, ""),
            (header::CONTENT_SECURITY_POLICY_REPORT_ONLY, &config.content_security_policy_report_only, ""),
            (name("permissions-policy"), &config.permissions_policy, ""),
            (name("cross-origin-opener-policy"), &config.cross_origin_opener_policy, ""),
            (name("cross-origin-embedder-policy"), &config.cross_origin_embedder_policy, ""),
            (name("cross-origin-resource-policy"), &config.cross_origin_resource_policy, ""),
        ];
        let before = cx.problems.len();
        let mut fields = Vec::new();
        for (name, written, default) in all {
            match written {
                None if default.is_empty() => {}
                None => fields.push(Field { name, value: HeaderValue::from_static(default), written: false }),
                Some(text) if text.value == "off" => {}
                Some(text) => match said(&name, &text.value) {
                    Ok(value) => fields.push(Field { name, value, written: true }),
                    Err(why) => cx.problems.push(Problem::error(text.place, format!("this is no `{name}`: {why}"))),
                },
            }
        }
        (cx.problems.len() == before).then_some(SecurityHeaders(fields))
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        if !self.0.is_empty() {
            plan.on_response(self);
        }
    }
}

/// A field's value, unless a browser would take no notice of it.
fn said(name: &HeaderName, text: &str) -> Result<HeaderValue, &'static str> {
    let one_of = |words: &[&str], why| if words.iter().any(|word| word.eq_ignore_ascii_case(text)) { Ok(()) } else { Err(why) };
    match *name {
        header::STRICT_TRANSPORT_SECURITY => {
            let age = text.split(';').find_map(|part| part.trim().strip_prefix("max-age="));
            let is_age = age.is_some_and(|age| !age.is_empty() && age.bytes().all(|byte| byte.is_ascii_digit()));
            if !is_age {
                return Err("it has a `max-age=` in seconds");
            }
        }
        header::X_CONTENT_TYPE_OPTIONS => one_of(&["nosniff"], "it is `nosniff`")?,
        header::X_FRAME_OPTIONS => one_of(&["DENY", "SAMEORIGIN"], "it is `DENY` or `SAMEORIGIN`")?,
        _ if text.trim().is_empty() => return Err("it is empty; write `off` to send none"),
        _ => {}
    }
    HeaderValue::from_str(text).map_err(|_| "it is printable ASCII")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::testing::{answered, compile, complaint};

    fn names(policy: &SecurityHeaders, fields: &str) -> Vec<String> {
        let head = RequestHead::build("GET", "/", &[]);
        let edits = answered(policy, &head, &format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).unwrap();
        edits.iter().map(|edit| edit.name().to_string()).collect()
    }

    #[test]
    fn defaults_fill_in_and_what_is_written_replaces() {
        let policy = compile::<SecurityHeaders>(json!({})).unwrap();
        assert_eq!(names(&policy, ""), ["x-content-type-options", "x-frame-options", "referrer-policy"]);
        assert_eq!(names(&policy, "X-Frame-Options: DENY\r\n"), ["x-content-type-options", "referrer-policy"]);
        let config = json!({ "frame_options": "DENY", "referrer_policy": "off", "content_type_options": "off" });
        let policy = compile::<SecurityHeaders>(config).unwrap();
        assert_eq!(names(&policy, "X-Frame-Options: SAMEORIGIN\r\nReferrer-Policy: origin\r\n"), ["x-frame-options"]);
        let mut exchange = Exchange::for_tests();
        policy.on_refusal(&RequestHead::build("GET", "/", &[]), &mut exchange);
        assert_eq!(exchange.to_client.len(), 1);
    }

    #[test]
    fn what_no_browser_takes_is_refused() {
        for (key, value) in [
            ("hsts", "31536000"),
            ("hsts", "max-age=1y"),
            ("frame_options", "ALLOW-FROM https://a"),
            ("content_type_options", "sniff"),
            ("content_security_policy", ""),
            ("permissions_policy", "a\nb"),
        ] {
            assert!(complaint::<SecurityHeaders>(json!({ key: value })).contains("this is no"), "{key}: {value}");
        }
    }
}
