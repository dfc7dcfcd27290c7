//! `error_pages`: what refusals and errors of the gateway's own look like, by the media type that a client prefers.
//!
//! Deliberately not here: answers of services, errors included. They pass as they are; `fallback: { on: ... }` is for those.

use std::sync::Arc;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::head::RequestHead;
use crate::policy::validate::media::{preference, ranges};
use crate::policy::{Compile, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::reply::Page;
use crate::route;
use crate::value::{OneOrMany, Spanned, StatusRange};

const MOST_PAGES: usize = 64;
/// Problem documents are of this kind, too.
const JSON: &str = "application/json";

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorPagesConfig {
    /// In the order in which they are offered. The first of a media type that fits the status is taken.
    pub pages: Vec<Spanned<PageConfig>>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PageConfig {
    /// `text/html`, `text/plain`, `application/json`, `application/xml` and what ends in `+xml` or `+json`. What `{{ ... }}` stands for is escaped
    /// as it has to be there.
    #[serde(rename = "type")]
    pub media_type: Spanned<String>,
    /// For these statuses alone, such as `404` or `5xx`. Default: all from 400 on.
    #[serde(default)]
    pub status: OneOrMany<StatusRange>,
    /// The text, with `{{ status }}`, `{{ title }}`, `{{ detail }}`, `{{ policy }}`, `{{ reason }}`, `{{ request_id }}`, `{{ retry_after }}`
    /// (seconds, or nothing) and `{{ problem }}` (the whole problem document). One of `text` and `file`.
    #[serde(default)]
    pub text: Option<Spanned<String>>,
    /// The text is this file's, up to 1 MiB, read when the configuration is loaded. A relative name counts from the configuration's folder.
    #[serde(default)]
    pub file: Option<Spanned<String>>,
}

struct Offered {
    media_type: Box<str>,
    statuses: Box<[StatusRange]>,
    page: Arc<Page>,
}

/// The compiled policy.
pub struct ErrorPages(Vec<Offered>);

impl ErrorPages {
    /// The page for this client, or `None` where a problem document pleases it as well.
    #[cold]
    pub fn choose(&self, head: &RequestHead, status: StatusCode) -> Option<Arc<Page>> {
        if !(status.is_client_error() || status.is_server_error()) {
            return None;
        }
        let of_json = named(head, JSON);
        let mut best = (preference(head, "application/problem+json").max(of_json), None);
        let fits = |offered: &&Offered| {
            offered.statuses.is_empty() || offered.statuses.iter().any(|range| range.contains(status.as_u16()))
        };
        for offered in self.0.iter().filter(fits) {
            let liked = preference(head, &offered.media_type);
            // A client that asks for JSON by that name gets the operator's, if there is one.
            let is_meant = best.1.is_none() && *offered.media_type == *JSON && of_json > 0 && of_json == best.0;
            if liked > best.0 || is_meant {
                best = (liked, Some(&offered.page));
            }
        }
        best.1.cloned()
    }
}

/// How much a client likes a media type of which it says so by that name.
fn named(head: &RequestHead, media_type: &str) -> u16 {
    let found = ranges(head).find(|(range, _)| range.eq_ignore_ascii_case(media_type.as_bytes()));
    found.map_or(0, |(_, weight)| weight)
}

impl Policy for ErrorPages {
    const NAME: &'static str = "error_pages";
    const STAGE: Stage = Stage::Shape;
    const SUMMARY: &'static str =
        "Tells clients of refusals and errors in HTML, text, XML or JSON of your own, by what they accept.";
    type Config = ErrorPagesConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let before = cx.problems.len();
        if config.pages.is_empty() || config.pages.len() > MOST_PAGES {
            cx.problems.push(Problem::error(cx.place, format!("there are 1 to {MOST_PAGES} pages")));
        }
        let mut pages = Vec::new();
        for Spanned { value: page, place } in &config.pages {
            let text = match (&page.text, &page.file) {
                (Some(text), None) => Ok((text.place, text.value.clone())),
                (None, Some(file)) => route::read(&cx.base.join(&file.value))
                    .and_then(|text| String::from_utf8(text.into()).map_err(|_| "it is not UTF-8".to_owned()))
                    .map(|text| (file.place, text))
                    .map_err(|why| (file.place, format!("cannot read `{}`: {why}", file.value))),
                _ => Err((*place, "a page has one of `text` and `file`".to_owned())),
            };
            if let Some(range) = page.status.iter().find(|range| range.first < 400) {
                let problem = Problem::error(*place, format!("pages are for statuses from 400 on, not for {}", range.first));
                cx.problems.push(problem);
            }
            let parsed = text.and_then(|(place, text)| Page::parse(&page.media_type.value, &text).map_err(|why| (place, why)));
            match parsed {
                Ok(parsed) => pages.push(Offered {
                    media_type: parsed.bare_type().into(),
                    statuses: page.status.to_vec().into(),
                    page: Arc::new(parsed),
                }),
                Err((place, why)) => cx.problems.push(Problem::error(place, why)),
            }
        }
        (cx.problems.len() == before).then_some(ErrorPages(pages))
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.options().error_pages = Some(self);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::testing::{compile, complaint};

    fn chosen(pages: &ErrorPages, accept: &[&str], status: u16) -> Option<String> {
        let fields: Vec<_> = accept.iter().map(|value| ("accept", *value)).collect();
        let head = RequestHead::build("GET", "/", &fields);
        pages.choose(&head, StatusCode::from_u16(status).unwrap()).map(|page| page.media_type().to_owned())
    }

    #[test]
    fn the_client_has_the_choice() {
        let pages = compile::<ErrorPages>(json!({ "pages": [
            { "type": "text/html", "text": "{{status}}" },
            { "type": "application/json", "text": "{}", "status": ["404", "5xx"] },
            { "type": "text/plain", "text": "x" },
        ] }))
        .unwrap();
        let (html, plain, json) = (Some("text/html; charset=utf-8"), Some("text/plain; charset=utf-8"), Some("application/json"));
        for (accept, status, wanted) in [
            (&[][..], 404, None),
            (&["*/*"], 404, None),
            (&["text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"], 404, html),
            (&["text/html;q=0.3, */*;q=0.8"], 404, None),
            (&["text/*"], 404, html),
            (&["text/*, text/html;q=0.1"], 404, plain),
            (&["TEXT/PLAIN"], 500, plain),
            (&["image/png", "text/plain"], 500, plain),
            (&["application/json"], 404, json),
            (&["application/json"], 401, None),
            (&["application/json, text/html"], 401, None),
            (&["application/problem+json, application/json;q=0.5"], 404, None),
            (&["text/html;q=0"], 404, None),
            (&["text/html;q=nonsense, */*;q=0"], 404, None),
            (&["image/png"], 404, None),
            (&["text/html"], 302, None),
            (&["text/html"], 204, None),
        ] {
            assert_eq!(chosen(&pages, accept, status).as_deref(), wanted, "{accept:?} {status}");
        }
    }

    #[test]
    fn what_cannot_be_right_is_told() {
        for (config, wanted) in [
            (json!({ "pages": [] }), "1 to 64 pages"),
            (json!({ "pages": [{ "type": "text/html" }] }), "one of `text` and `file`"),
            (json!({ "pages": [{ "type": "text/html", "text": "", "file": "x" }] }), "one of `text` and `file`"),
            (json!({ "pages": [{ "type": "text/html", "file": "not-there.html" }] }), "cannot read"),
            (json!({ "pages": [{ "type": "text/html", "text": "{{ who }}" }] }), "there is no `{{ who }}`"),
            (json!({ "pages": [{ "type": "text/html", "text": "", "status": "200" }] }), "from 400 on"),
        ] {
            let said = complaint::<ErrorPages>(config.clone());
            assert!(said.contains(wanted), "{config}: {said}");
        }
    }
}
