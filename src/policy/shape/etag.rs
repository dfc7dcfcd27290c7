//! `etag`: a tag made of the body, for answers whose service gives none, so that clients that have them are told so (304) instead of getting
//! them again. The service still makes each answer; what is saved is the way to the client.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use pingora_core::protocols::http::conditional_filter::{to_304, weak_validate_etag};
use pingora_http::ResponseHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::policy::{Compile, OnResponse, Outgoing, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::reply::Flow;
use crate::value::{Size, Spanned};
use crate::wire::stages::{Beyond, BodyStage, Changed, Validator, Whole};

/// The longest body that may be held back, in bytes.
const MOST: u64 = 16 * 1024 * 1024;

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EtagConfig {
    /// The longest body that gets a tag: it is held back until it is whole. Longer ones and streams go out as they come. Up to 16MiB.
    pub up_to: Spanned<Size>,
}

/// The compiled policy.
pub struct Etag {
    up_to: usize,
}

/// One body's.
struct Tagging {
    /// The tags that the client has.
    had: Option<Vec<u8>>,
}

impl Whole for Tagging {
    fn whole(self: Box<Self>, head: &mut ResponseHeader, body: &Bytes) -> Changed<Option<Bytes>> {
        let hash = blake3::hash(body).to_hex();
        // A weak one: what is the same here may be coded for one client and not for another.
        let tag = format!("W/\"{}\"", hash.get(..32).unwrap_or_default());
        let unchanged = self.had.is_some_and(|had| weak_validate_etag(&had, tag.as_bytes()));
        if let Ok(tag) = HeaderValue::try_from(tag) {
            // One more field: only an absurd number could be too many, and the answer then goes without.
            let _ = head.insert_header(header::ETAG, tag);
        }
        if unchanged {
            to_304(head);
            return Ok(Some(Bytes::new()));
        }
        Ok(None)
    }
}

impl OnResponse for Etag {
    fn on_response(&self, answer: &mut Outgoing<'_>) -> Flow {
        let plain = answer.head.method == Method::GET && answer.status() == StatusCode::OK;
        let too_long = answer.length().is_some_and(|length| length > self.up_to as u64);
        if plain && !too_long && answer.first(&header::ETAG).is_none() {
            let said: Vec<&[u8]> = answer.head.header_all("if-none-match").collect();
            let had = (!said.is_empty()).then(|| said.join(&b", "[..]));
            let (bound, beyond, validator) = (self.up_to, Beyond::Pass, Validator::Weaken);
            answer.whole(|| BodyStage::Whole { bound, beyond, validator, run: Box::new(Tagging { had }) });
        }
        Flow::Continue(())
    }
}

impl Policy for Etag {
    const NAME: &'static str = "etag";
    const STAGE: Stage = Stage::Shape;
    const SUMMARY: &'static str = "Gives answers without a tag one of their own, and 304 to clients that have them.";
    type Config = EtagConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let up_to = config.up_to.value.0;
        if !(1..=MOST).contains(&up_to) {
            cx.problems.push(Problem::error(config.up_to.place, "`up_to` is from 1 to 16MiB"));
            return None;
        }
        Some(Etag { up_to: usize::try_from(up_to).ok()? })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.holds_answers();
        plan.on_response(self);
    }
}
