//! `shout`: plain text in capital letters.

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::policy::{Compile, OnResponse, Outgoing, PlanBuilder, Policy, Stage};
use crate::reply::Flow;
use crate::wire::stages::{Changed, Pieces, Validator};

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShoutConfig {
    /// What every answer ends with.
    pub end: String,
}

/// The compiled policy.
pub struct Shout(Bytes);

/// What it does with one body.
struct Shouting(Bytes);

impl Pieces for Shouting {
    fn piece(&mut self, data: Bytes) -> Changed {
        Ok(data.to_ascii_uppercase().into())
    }

    fn end(&mut self) -> Changed {
        Ok(self.0.clone())
    }
}

impl OnResponse for Shout {
    fn on_response(&self, answer: &mut Outgoing<'_>) -> Flow {
        if answer.first(&header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with(b"text/plain")) {
            answer.pieces(Validator::Drop, Box::new(Shouting(self.0.clone())));
        }
        Flow::Continue(())
    }
}

impl Policy for Shout {
    const NAME: &'static str = "shout";
    const STAGE: Stage = Stage::Shape;
    const SUMMARY: &'static str = "Writes plain text in capital letters.";
    type Config = ShoutConfig;

    fn compile(config: &Self::Config, _: &mut Compile<'_>) -> Option<Self> {
        Some(Shout(config.end.clone().into()))
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.on_response(self);
    }
}
