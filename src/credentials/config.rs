//! What people write under `services: NAME: upstream_auth:`, and of AWS credentials wherever they are wanted.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::oidc::introspection::ClientAuth;
use crate::oidc::provider::ProviderConfig;
use crate::value::{Secret, Size, Spanned};

/// What the gateway shows to a service to say who it is. Exactly one of `basic`, `bearer`, `oauth2_client_credentials`, `google_id_token`
/// and `aws_sigv4`.
///
/// A client's own `Authorization` does not go to the service beside it, unless `keep_authorization` says so.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "UpstreamAuth")]
pub struct UpstreamAuthConfig {
    /// A user name and a password (RFC 7617).
    pub basic: Option<Spanned<UpstreamBasicConfig>>,
    /// A token. One in a file is read again every ten seconds, as it may be renewed by somebody else.
    pub bearer: Option<Spanned<Secret>>,
    /// A token that an authorization server issues to the gateway (RFC 6749, section 4.4).
    pub oauth2_client_credentials: Option<Spanned<ClientCredentialsConfig>>,
    /// An identity token of Google's, for Cloud Run, Cloud Functions and what stands behind Identity-Aware Proxy.
    pub google_id_token: Option<Spanned<GoogleIdTokenConfig>>,
    /// Signatures of AWS (Signature Version 4), for API Gateway, function URLs, S3 and others.
    pub aws_sigv4: Option<Spanned<UpstreamSigV4Config>>,
    /// The field that the password or the token goes in, such as `X-Serverless-Authorization`. Default: `Authorization`.
    pub header: Option<Spanned<String>>,
    /// Whether the client's own `Authorization` goes to the service, too, where `header` is another field. Default: false.
    pub keep_authorization: bool,
}

/// A user name and a password.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamBasicConfig {
    /// The user name, without `:`.
    pub username: Spanned<String>,
    /// The password.
    pub password: Spanned<Secret>,
}

/// How the gateway asks for a token of its own.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ClientCredentials")]
pub struct ClientCredentialsConfig {
    /// The token endpoint.
    pub token_url: Spanned<String>,
    /// The gateway's name there.
    pub client_id: Spanned<String>,
    /// Its secret there.
    pub client_secret: Spanned<Secret>,
    /// How it says who it is: `basic` or `post`. Default: `basic`.
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// The scopes that it asks for. Default: those that the server gives.
    #[serde(default)]
    pub scopes: Vec<Spanned<String>>,
    /// The `audience` that it asks for, where the server wants one. Default: none.
    #[serde(default)]
    pub audience: Option<Spanned<String>>,
    /// How the server is reached.
    #[serde(default)]
    pub provider: ProviderConfig,
}

/// How the gateway comes by identity tokens of Google's.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GoogleIdToken")]
pub struct GoogleIdTokenConfig {
    /// Whom the token is for: mostly the URL of the function, `https://name-hash.a.run.app`.
    pub audience: Spanned<String>,
    /// The key of a service account, as Google's console gives it out (JSON). Default: the account that the machine runs as, by the metadata
    /// server.
    #[serde(default)]
    pub service_account: Option<Spanned<Secret>>,
    /// How Google is reached.
    #[serde(default)]
    pub provider: ProviderConfig,
}

/// How requests to a service are signed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "UpstreamSigV4")]
pub struct UpstreamSigV4Config {
    /// The name of the service in AWS's words: `execute-api`, `lambda` (for function URLs), `s3`, `es` and so on.
    pub service: Spanned<String>,
    /// The region. Default: the one in `AWS_REGION` or `AWS_DEFAULT_REGION`.
    #[serde(default)]
    pub region: Option<Spanned<String>>,
    /// Whether bodies are `signed`, for which they are read whole first, or `unsigned`, which S3 and few others take. Default: `signed`.
    #[serde(default)]
    pub payload: Payload,
    /// The largest body that is read to be signed, `1KiB` to `64MiB`; more is 413. Default: `1MiB`.
    #[serde(default)]
    pub max_body: Option<Spanned<Size>>,
    /// Which of the client's own `X-Amz-*` fields go to the service, and are signed in the gateway's name: names, or beginnings of names with
    /// a `*` (`x-amz-meta-*`). Default: none of them. Those that policies set always go.
    #[serde(default)]
    pub client_fields: Vec<Spanned<String>>,
    /// Where the keys come from. Default: wherever AWS's own programs find them.
    #[serde(default)]
    pub credentials: Option<Spanned<AwsCredentialsConfig>>,
}

/// Whether a body is part of what is signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    #[default]
    Signed,
    Unsigned,
}

/// Where keys of AWS come from: `from`, or the keys themselves. Without either they are looked for as AWS's own programs do: in the
/// environment, by a web identity (`AWS_WEB_IDENTITY_TOKEN_FILE`), in the credentials file, from the container's endpoint, from the
/// instance's metadata; the first of these that is there is taken.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "AwsCredentials")]
pub struct AwsCredentialsConfig {
    /// `environment`, `web_identity`, `profile`, `container` or `instance`. Default: the first that is there.
    pub from: Option<Spanned<AwsFrom>>,
    /// The profile in the credentials file (`AWS_SHARED_CREDENTIALS_FILE`, else `~/.aws/credentials`). Default: `AWS_PROFILE`, else
    /// `default`.
    pub profile: Option<Spanned<String>>,
    /// A key's id.
    pub access_key_id: Option<Spanned<String>>,
    /// The key.
    pub secret_access_key: Option<Spanned<Secret>>,
    /// The token of a temporary key.
    pub session_token: Option<Spanned<Secret>>,
}

/// One place where keys may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AwsFrom {
    Environment,
    WebIdentity,
    Profile,
    Container,
    Instance,
}
