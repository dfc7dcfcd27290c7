//! Unary calls of the Connect protocol to a service of gRPC's ([`crate::grpc::connect`]): what people write under `services: NAME: connect:`, and
//! what a service takes of them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};

use super::Protocol;
use super::reflection::Transcoding;
use crate::problem::{Problem, Problems, did_you_mean};
use crate::tally::{Counter, Tallies};
use crate::transcode::{Method, Transcoder, USUAL_MESSAGE, message_size, status};
use crate::value::{OneOrMany, Size, Spanned, switched, switched_schema};

/// `false`, `true` or a map.
#[derive(Debug, Clone)]
pub enum ConnectChoice {
    Off,
    On(ConnectConfig),
}

/// What is taken of calls of the Connect protocol.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Connect")]
pub struct ConnectConfig {
    /// The methods that may be called with GET, such as `shop.v1.Catalog.GetProduct`: those that change nothing. A link in somebody else's
    /// page calls them with your users' cookies. Default: those that say so in the descriptors of `transcode`
    /// (`idempotency_level = NO_SIDE_EFFECTS`), and no others.
    pub get: OneOrMany<Spanned<String>>,
    /// The service takes messages in JSON by itself: they are sent to it as `application/grpc+json`, and not translated. Default: false: JSON
    /// is made into messages where `transcode` says what the methods are, and is refused (415) where it does not.
    pub json: bool,
    /// The largest message either way, `1KiB` to `64MiB`. Default: that of `transcode`, or `4MiB`.
    pub max_message: Option<Spanned<Size>>,
}

impl<'de> Deserialize<'de> for ConnectChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let config = switched(deserializer, "`true`, `false` or `{ get: [ shop.v1.Catalog.GetProduct ] }`")?;
        Ok(config.map_or(ConnectChoice::Off, ConnectChoice::On))
    }
}

impl JsonSchema for ConnectChoice {
    fn schema_name() -> Cow<'static, str> {
        "ConnectChoice".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        switched_schema::<ConnectConfig>(generator)
    }
}

/// What a service takes.
pub struct ConnectCalls {
    /// `/package.Service/Method`
    get: HashSet<Box<str>, ahash::RandomState>,
    pub json: bool,
    /// The largest message, where the descriptors' owner has no word on it.
    max_message: Option<usize>,
    service: Box<str>,
    tallies: Arc<Tallies>,
    /// How calls ended, by their code. Most services have none.
    counts: [OnceLock<Arc<Counter>>; 17],
}

impl fmt::Debug for ConnectCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectCalls").field("get", &self.get).field("json", &self.json).finish_non_exhaustive()
    }
}

impl ConnectCalls {
    /// Compiles what a service says, or what holds where it says nothing. The inner `None`: it takes none. The outer one only if there was a
    /// problem.
    #[allow(clippy::option_option, reason = "off, and a bad one")]
    pub fn compile(
        choice: Option<&Spanned<ConnectChoice>>,
        service: &str,
        protocol: Protocol,
        transcoding: Option<&Transcoding>,
        tallies: &Arc<Tallies>,
        problems: &mut Problems,
    ) -> Option<Option<Arc<ConnectCalls>>> {
        // Where requests mean something by themselves, one of Connect's may be meant for the service itself.
        let serves = protocol == Protocol::Grpc || transcoding.is_some();
        let config = match choice.map(|choice| (&choice.value, choice.place)) {
            None if serves => &ConnectConfig::default(),
            None | Some((ConnectChoice::Off, _)) => return Some(None),
            Some((ConnectChoice::On(config), _)) if serves => config,
            Some((ConnectChoice::On(_), place)) => {
                let problem =
                    Problem::error(place, "`connect` makes calls of gRPC's, and the service is sent requests as they are");
                problems.push(problem.hint("protocol: grpc; a service that speaks Connect itself needs no key for it"));
                return None;
            }
        };
        let before = problems.error_count();
        let known = match transcoding {
            Some(Transcoding::Fixed(transcoder)) => Some(&**transcoder),
            _ => None,
        };
        let get = config.get.iter().filter_map(|name| path_of(name, known, problems)).collect();
        let max_message = config.max_message.as_ref().and_then(|size| message_size(size, problems));
        (problems.error_count() == before).then(|| {
            let counts = [const { OnceLock::new() }; 17];
            let (service, tallies) = (service.into(), tallies.clone());
            Some(Arc::new(ConnectCalls { get, json: config.json, max_message, service, tallies, counts }))
        })
    }

    /// Whether the method of this path may be called with GET. `method`: what is known of it.
    pub fn may_get(&self, path: &str, method: Option<&Method>) -> bool {
        self.get.contains(path) || method.is_some_and(|method| method.is_safe)
    }

    /// The largest message, in bytes.
    pub fn max_message(&self, transcoder: Option<&Transcoder>) -> usize {
        self.max_message.or(transcoder.map(|known| known.max_message)).unwrap_or(USUAL_MESSAGE)
    }

    /// Notes how a call ended.
    pub fn count(&self, code: u8) {
        let help = "Unary calls of the Connect protocol that were made into calls of gRPC's, by the code that they ended with.";
        let Some(count) = self.counts.get(usize::from(code)) else { return };
        let counter = count.get_or_init(|| {
            let code = if code == 0 { "OK".to_owned() } else { status::name(code) };
            self.tallies.counter("portcullis_connect_calls_total", help, &[("service", &self.service), ("code", code.as_str())])
        });
        counter.add(1);
    }
}

/// The path of a method that is named with dots, or with a slash before its own name.
fn path_of(name: &Spanned<String>, known: Option<&Transcoder>, problems: &mut Problems) -> Option<Box<str>> {
    let is_word = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !part.starts_with(|first: char| first.is_ascii_digit())
    };
    let dotted = name.value.trim_start_matches('/').replace('/', ".");
    let path = dotted.rsplit_once('.').filter(|_| dotted.split('.').all(is_word));
    let Some(path) = path.map(|(service, method)| format!("/{service}/{method}")) else {
        let problem = Problem::error(name.place, format!("`{}` is no method's name", name.value));
        problems.push(problem.hint("with its package and service: shop.v1.Catalog.GetProduct"));
        return None;
    };
    let Some(known) = known else { return Some(path.into()) };
    match known.called(&path) {
        Some(called) if called.method.streams || called.method.takes_stream => {
            problems.push(Problem::error(name.place, format!("`{}` streams, and GET is for one message", name.value)));
            None
        }
        Some(_) => Some(path.into()),
        None => {
            let problem = Problem::error(name.place, format!("there is no method `{}`", name.value));
            let near = did_you_mean(&path, known.paths()).map(|near| near.trim_start_matches('/').replace('/', "."));
            problems.push(match near {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None => problem.hint("`transcode` has to know it"),
            });
            None
        }
    }
}
