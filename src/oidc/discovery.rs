//! Asking an issuer where its keys are: OpenID Connect Discovery 1.0, section 4, or else RFC 8414, section 3.

use reqwest::Url;
use serde_json::Value;

use super::provider::{Provider, Trouble};
use crate::jose::json;

/// The address of the issuer's keys.
///
/// # Errors
///
/// Neither document is there, or the one that is names another issuer: what it says is then about somebody else's keys.
pub async fn jwks_uri(provider: &Provider, issuer: &str, url: &Url) -> Result<Url, Trouble> {
    let openid = Url::parse(&openid_metadata(issuer)).map_err(|_| Trouble::Unusable("the issuer is no URL"))?;
    let body = match provider.get(&openid).await {
        Ok(answer) => answer.body,
        Err(Trouble::Status(status)) if status.is_client_error() => provider.get(&oauth_metadata(url)).await?.body,
        Err(trouble) => return Err(trouble),
    };
    let metadata = json::object(&body).ok_or(Trouble::Unusable("the metadata is no JSON object"))?;
    if metadata.get("issuer").and_then(Value::as_str) != Some(issuer) {
        return Err(Trouble::Unusable("the metadata is another issuer's"));
    }
    let keys = metadata.get("jwks_uri").and_then(Value::as_str).ok_or(Trouble::Unusable("the metadata has no `jwks_uri`"))?;
    provider.follow(url, keys)
}

/// Appended to the issuer.
fn openid_metadata(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer))
}

/// Put between the issuer's host and its path.
fn oauth_metadata(issuer: &Url) -> Url {
    let mut url = issuer.clone();
    let path = issuer.path();
    url.set_path(&format!("/.well-known/oauth-authorization-server{}", path.strip_suffix('/').unwrap_or(path)));
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_where_the_standards_say() {
        for (issuer, openid, oauth) in [
            (
                "https://id.example.com",
                "https://id.example.com/.well-known/openid-configuration",
                "https://id.example.com/.well-known/oauth-authorization-server",
            ),
            (
                "https://id.example.com/",
                "https://id.example.com/.well-known/openid-configuration",
                "https://id.example.com/.well-known/oauth-authorization-server",
            ),
            (
                "https://id.example.com/realms/shop",
                "https://id.example.com/realms/shop/.well-known/openid-configuration",
                "https://id.example.com/.well-known/oauth-authorization-server/realms/shop",
            ),
        ] {
            assert_eq!(openid_metadata(issuer), openid);
            assert_eq!(oauth_metadata(&Url::parse(issuer).unwrap()).as_str(), oauth);
        }
    }
}
