//! `served_by`: tells the client which gateway answered.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::policy::{Compile, OnResponse, Outgoing, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::reply::Flow;
use crate::value::Spanned;

static X_SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServedByConfig {
    /// The value of `X-Served-By`.
    pub name: Spanned<String>,
}

/// The compiled policy.
pub struct ServedBy(HeaderValue);

impl OnResponse for ServedBy {
    fn on_response(&self, answer: &mut Outgoing<'_>) -> Flow {
        answer.set(X_SERVED_BY.clone(), self.0.clone());
        Flow::Continue(())
    }
}

impl Policy for ServedBy {
    const NAME: &'static str = "served_by";
    const STAGE: Stage = Stage::Shape;
    const SUMMARY: &'static str = "Tells the client which gateway answered.";
    type Config = ServedByConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let value = HeaderValue::from_str(&config.name.value).ok();
        if value.is_none() {
            cx.problems.push(Problem::error(config.name.place, "this cannot be a header's value"));
        }
        value.map(ServedBy)
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.on_response(self);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::head::RequestHead;
    use crate::policy::testing::{answered, compile};

    #[test]
    fn the_client_is_told() {
        let policy = compile::<ServedBy>(json!({ "name": "edge-1" })).unwrap();
        let changes = answered(&policy, &RequestHead::build("GET", "/", &[]), "HTTP/1.1 200 OK\r\n\r\n").unwrap();
        assert_eq!(changes.len(), 1);
    }
}
