//! `csrf`: refuses what a page of another site has a browser send in its user's name.
//!
//! Browsers say where a request comes from, in `Sec-Fetch-Site` (Fetch Metadata) and in `Origin`; no page can make them say otherwise, and
//! no token has to be handed out and kept. The rules are those of Go's `CrossOriginProtection` (1.25): what changes nothing passes, what
//! no browser sent passes, what comes from the same origin passes, and what comes from elsewhere does if its origin is trusted. The opening
//! of a WebSocket counts as a change, for browsers ask no server whether another origin may.
//!
//! Deliberately not here: whether a page may read an answer, which is `cors`.

use std::sync::Arc;

use http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::policy::edge::origin::{self, Origins, Parts};
use crate::policy::{Compile, OnRequest, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::value::{OneOrMany, Spanned};

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CsrfConfig {
    /// Other origins whose pages may send what changes something, written as the `origins` of `cors`: `https://app.example.com`,
    /// `https://*.example.com`. Not `"*"`.
    pub trusted_origins: OneOrMany<Spanned<String>>,
    /// More of them, as regular expressions for the whole origin.
    pub trusted_patterns: OneOrMany<Spanned<String>>,
}

/// The compiled policy.
pub struct Csrf {
    trusted: Origins,
}

impl OnRequest for Csrf {
    fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        let changes_nothing = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
        if changes_nothing && !head.upgrade {
            return Flow::Continue(());
        }
        let is_here = match head.header("sec-fetch-site") {
            Some(site) => site == b"same-origin" || site == b"none",
            None => head.header("origin").is_none() || is_same(head, exchange.scheme()),
        };
        if is_here || origin::of(head).is_some_and(|origin| self.trusted.contain(origin)) {
            return Flow::Continue(());
        }
        let detail = "A page of another origin may not send this.";
        Reply::new(StatusCode::FORBIDDEN, Self::NAME, "cross_origin", detail).refuse()
    }
}

/// Whether the page is of the host and port that it asks. What came over TLS is not of a page that did not; the other way round, TLS may have
/// ended before the gateway.
fn is_same(head: &RequestHead, scheme: &str) -> bool {
    let Some((theirs, authority)) = origin::of(head).and_then(Parts::authority) else { return false };
    authority == head.authority() && !(scheme == "https" && theirs == "http")
}

impl Policy for Csrf {
    const NAME: &'static str = "csrf";
    const STAGE: Stage = Stage::Validate;
    const SUMMARY: &'static str = "Refuses what pages of other origins have browsers send (403).";
    type Config = CsrfConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let before = cx.problems.len();
        let trusted = Origins::compile(&config.trusted_origins, &config.trusted_patterns, cx.problems);
        if trusted.is_everyone() || trusted.has_null() {
            let place = config.trusted_origins.iter().find(|text| ["*", "null"].contains(&&*text.value));
            let place = place.map_or(cx.place, |text| text.place);
            let problem = Problem::error(place, "every page can be of this origin");
            cx.problems.push(problem.hint("name the origins; `csrf: false` turns the policy off"));
        }
        (cx.problems.len() == before).then_some(Csrf { trusted })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.on_request(self);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::testing::{compile, complaint};

    #[test]
    fn what_comes_from_elsewhere_changes_nothing() {
        let config = json!({ "trusted_origins": ["https://partner.test", "https://*.shop.test"] });
        let policy = compile::<Csrf>(config).unwrap();
        let site = |text| ("sec-fetch-site", text);
        let origin = |text| ("origin", text);
        for (method, fields, passes) in [
            ("POST", &[][..], true),
            ("POST", &[site("same-origin")], true),
            ("POST", &[site("none")], true),
            ("POST", &[site("same-site")], false),
            ("POST", &[site("cross-site")], false),
            ("POST", &[site("")], false),
            ("GET", &[site("cross-site"), origin("https://evil.test")], true),
            ("HEAD", &[site("cross-site")], true),
            ("OPTIONS", &[origin("https://evil.test")], true),
            ("DELETE", &[origin("https://evil.test")], false),
            ("DELETE", &[origin("http://a.test")], true),
            ("DELETE", &[origin("https://a.test")], true),
            ("DELETE", &[origin("https://a.test:8443")], false),
            ("DELETE", &[origin("https://a.test.evil.test")], false),
            ("DELETE", &[origin("null")], false),
            ("DELETE", &[origin("http://a.test"), origin("https://evil.test")], false),
            // What the browser says of itself counts before what can be concluded from the origin.
            ("PUT", &[site("cross-site"), origin("http://a.test")], false),
            ("PUT", &[site("cross-site"), origin("https://partner.test")], true),
            ("PUT", &[site("same-site"), origin("https://www.shop.test")], true),
            ("PUT", &[site("cross-site"), origin("https://partner.test"), origin("https://evil.test")], false),
        ] {
            let mut all = vec![("host", "a.test")];
            all.extend(fields);
            let head = RequestHead::build(method, "/", &all);
            let flow = policy.on_request(&head, &mut Exchange::for_tests());
            assert_eq!(flow.is_continue(), passes, "{method} {fields:?}");
        }
    }

    #[test]
    fn the_opening_of_a_websocket_is_a_change() {
        let policy = compile::<Csrf>(json!({})).unwrap();
        let mut head = RequestHead::build("GET", "/", &[("host", "a.test"), ("origin", "https://evil.test")]);
        head.upgrade = true;
        assert!(policy.on_request(&head, &mut Exchange::for_tests()).is_break());
    }

    #[test]
    fn nobody_is_trusted_whom_everybody_can_be() {
        for origin in ["*", "null"] {
            assert!(complaint::<Csrf>(json!({ "trusted_origins": origin })).contains("every page"));
        }
    }
}
