//! `routes[].compose`, as it is written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::retry::config::RetriesConfig;
use crate::route::fallback::JsonBody;
use crate::route::ordered::InOrder;
use crate::value::{Period, Raw, Size, Spanned};

/// One answer made of those of several services.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ComposeConfig {
    /// The calls, by name (`[a-z][a-z0-9_]*`), 1 to 32 of them. They begin at once, but for those that need something of another one's answer,
    /// which wait for that one.
    pub calls: Calls,
    /// What becomes of the parts.
    #[serde(default)]
    pub answer: ComposedAnswerConfig,
}

/// The calls in the order in which they are written, which is that of the answer's fields.
pub type Calls = InOrder<CallConfig>;

/// One call, and where its answer stands. Texts may hold `{param.NAME}` (what the route's path took), `{query.NAME}`, `{header.NAME}`,
/// `{claim.NAME}`, `{subject}`, `{consumer}`, `{client_address}`, `{host}`, `{request_id}`, `{body.FIELD}` of the request's JSON,
/// `{parts.CALL.FIELD}` of another call's answer and, with `for_each`, `{item.FIELD}`. A value is encoded for where it stands, and never
/// becomes more than one segment of a path, one value of the query, one field or one JSON string.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallConfig {
    /// The service, written like a route's `service`.
    pub service: Spanned<String>,
    /// The port, where `service` is a host name. 1 to 65535.
    #[serde(default)]
    pub port: Option<u16>,
    /// GET, POST, PUT, PATCH or DELETE. Default: GET.
    #[serde(default)]
    pub method: Option<Spanned<String>>,
    /// The path, a text with placeholders, without a query. Where a value is missing, or could be read as more than one segment
    /// (`a/b`), the call is not made, and its part fails (`no_value`).
    pub path: Spanned<String>,
    /// Query parameters: texts with placeholders. One whose value is missing is left out.
    #[serde(default)]
    pub query: BTreeMap<String, Spanned<String>>,
    /// Header fields: texts with placeholders. One whose value is missing is left out, and so is the client's of that name.
    #[serde(default)]
    pub headers: BTreeMap<String, Spanned<String>>,
    /// The client's fields that the service sees, by name; `[]` for none. Default: those that a service of a plain route would see, but for
    /// what is about a body, a condition, a range or a coding.
    #[serde(default)]
    pub client_headers: Option<Vec<Spanned<String>>>,
    /// The request's body as JSON, whose texts may hold placeholders. A text that is one placeholder and nothing else becomes what it stands
    /// for, whatever that is: a number, an object. Missing values are null. Not for GET.
    #[serde(default)]
    pub body: Option<Spanned<JsonBody>>,
    /// How long it may take with all its tries, 1ms to 1h. Default: what the request has, which is the route's `timeout`.
    #[serde(default)]
    pub timeout: Option<Spanned<Period>>,
    /// What is tried again of this call, in place of what its service says. Default: the service's `retries`.
    #[serde(default)]
    pub retries: Option<Box<Spanned<RetriesConfig>>>,
    /// The longest answer: 1 byte to 16MiB. A longer one fails the part (`too_large`). Default: 1MiB.
    #[serde(default)]
    pub max_body: Option<Spanned<Size>>,
    /// Whether the answer is given without it, where it fails. Default: false, and the request fails with it.
    #[serde(default)]
    pub optional: bool,
    /// A condition in CEL over the request, and over `parts.CALL`, what other calls have answered (null for what is not there). Where it does
    /// not hold the call is not made, and its part left out. One that cannot be evaluated fails the part (`condition`).
    #[serde(default)]
    pub when: Option<Spanned<String>>,
    /// Keeps the answers to this call, as a route's `cache` keeps its; `false` for not at all. Only a GET is kept, and what tells the service
    /// who asks keeps it from the cache, unless it is `per: consumer`, or the call is `anonymous`. Default: the route's `cache`, else the
    /// service's.
    #[serde(default)]
    pub cache: Option<Raw>,
    /// Tells the service nothing of who asks: no credentials, no cookies, nothing of what `authn` and other policies make for each client, and
    /// no fields of the client's but those of `client_headers`. What it answers is then for everybody, and may be kept for all of them.
    /// Default: false.
    #[serde(default)]
    pub anonymous: bool,
    /// What stands in for an answer that cannot be had.
    #[serde(default)]
    pub fallback: Option<Box<Spanned<PartFallbackConfig>>>,
    /// Makes the call once for each element of a list that another call has answered.
    #[serde(default)]
    pub for_each: Option<Box<Spanned<ForEachConfig>>>,
    /// Statuses of the service's, 400 to 599, that are the whole answer's if this required part fails with them: `[404]` for what is not
    /// there. Default: none, and the client is told 502.
    #[serde(default)]
    pub pass_statuses: Vec<Spanned<u16>>,
    /// The field of the service's answer that is taken, as in `data.items`. Default: the whole.
    #[serde(default)]
    pub target: Option<Spanned<String>>,
    /// The fields of it that are kept, as in `[id, address.city]`; of each element, where it is a list. Default: all.
    #[serde(default)]
    pub keep: Vec<Spanned<String>>,
    /// Fields that are called something else in the answer, old name to new; after `keep`.
    #[serde(default)]
    pub rename: BTreeMap<String, Spanned<String>>,
    /// Where it stands in the answer, as in `user` or `user.orders`. `.` for the answer itself: its fields are the answer's, and where two
    /// have the same the later call's stands. Default: the call's name.
    #[serde(default)]
    pub group: Option<Spanned<String>>,
    /// Adds to a list at `group`, which several calls may share: the elements of a list, or what is none as one element. Default: false.
    #[serde(default)]
    pub append: bool,
}

/// The last good answer that was `cached`, another answer, `json`, or another call: `service` and `path`, with the call's own method, fields
/// and body.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartFallbackConfig {
    /// The last good answer that the call's `cache` has, as long as it expired no longer ago than this, `1s` to `30d`, and its service has not
    /// forbidden it (`must-revalidate`, `no-cache`); not where the service has answered 4xx, but for 408 and 429. Goes before the others.
    #[serde(default)]
    pub cached: Option<Spanned<Period>>,
    /// A value that stands in this file, in place of what the service would have answered.
    #[serde(default)]
    pub json: Option<Spanned<JsonBody>>,
    /// The service that is asked instead, written like the call's.
    #[serde(default)]
    pub service: Option<Spanned<String>>,
    /// The port, where `service` is a host name. 1 to 65535.
    #[serde(default)]
    pub port: Option<u16>,
    /// Default: the call's `path`.
    #[serde(default)]
    pub path: Option<Spanned<String>>,
    /// Default: the call's `timeout`, anew.
    #[serde(default)]
    pub timeout: Option<Spanned<Period>>,
}

impl PartFallbackConfig {
    /// Whether it is the last good answer, and nothing else where there is none.
    pub fn is_cached_alone(&self) -> bool {
        self.json.is_none() && self.service.is_none() && self.port.is_none() && self.path.is_none() && self.timeout.is_none()
    }
}

/// Which list, and how much of it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForEachConfig {
    /// The list: `parts.CALL.FIELD`, or `body.FIELD` of the request's JSON. One that is not there is empty.
    #[serde(rename = "in")]
    pub list: Spanned<String>,
    /// The most elements, 1 to 1000: a longer list fails the part (`too_many`). Default: 100.
    #[serde(default)]
    pub max: Option<Spanned<u32>>,
    /// How many are asked for at once, 1 to 64. Default: 8.
    #[serde(default)]
    pub at_once: Option<Spanned<u32>>,
}

/// What becomes of the parts of a composed answer.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ComposedAnswerConfig {
    /// Adds `_meta`: of each part the state, the service's status, where it came from and how long it took. Default: false.
    pub meta: bool,
    /// The calls whose `Set-Cookie` fields go to the client. Default: none.
    pub set_cookie: Vec<Spanned<String>>,
    /// The status where a required part fails, 400 to 599. Default: 504 for one that took too long, else 502.
    pub failed_status: Option<Spanned<u16>>,
}
