//! What people write under `services: NAME: lambda:`.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::credentials::config::AwsCredentialsConfig;
use crate::value::Spanned;

/// A function of AWS Lambda that answers the requests: each becomes an event, and what the function returns becomes the answer. Takes the
/// place of `endpoints`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Lambda")]
pub struct LambdaConfig {
    /// The function's name or its ARN.
    pub function: Spanned<String>,
    /// The version or the alias. Default: the latest one, `$LATEST`.
    #[serde(default)]
    pub qualifier: Option<Spanned<String>>,
    /// The region. Default: the one in the ARN, else in `AWS_REGION` or `AWS_DEFAULT_REGION`.
    #[serde(default)]
    pub region: Option<Spanned<String>>,
    /// Where the service is, such as a VPC's endpoint or an emulator: `https://HOST`, `http://HOST:PORT`. Default: AWS's own address of the
    /// region.
    #[serde(default)]
    pub endpoint: Option<Spanned<String>>,
    /// What the function is told a request in, and answers in: `v2` (payload format 2.0 of API Gateway and of function URLs), `v1` (format
    /// 1.0) or `alb` (of load balancers). Default: `v2`.
    #[serde(default)]
    pub event: EventFormat,
    /// Tells all values of fields and parameters that are there more than once, as load balancers do if they are told to. With `event: alb`
    /// alone. Default: false.
    #[serde(default)]
    pub multi_value: bool,
    /// `buffered`: the answer is what the function returns, up to 6 MiB. `stream`: what it writes is passed on as it comes. `async`: the event is left with the service, and the answer is
    /// 202. Default: `buffered`.
    #[serde(default)]
    pub invoke: Invoke,
    /// Reads the end of the function's log for what it says of itself: whether the start was a cold one, and what was billed. Default: true.
    #[serde(default = "on")]
    pub report: bool,
    /// Where the keys come from. Default: wherever AWS's own programs find them.
    #[serde(default)]
    pub credentials: Option<Spanned<AwsCredentialsConfig>>,
}

fn on() -> bool {
    true
}

/// What a function is told a request in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventFormat {
    #[default]
    V2,
    V1,
    Alb,
}

/// How a function is invoked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Invoke {
    #[default]
    Buffered,
    Stream,
    Async,
}
