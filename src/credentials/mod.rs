//! What the gateway shows to services to say who it is: passwords, tokens, signatures.
//!
//! Tokens and keys that expire are fetched in the background, before they do ([`fresh`]). Nothing of them is ever logged or shown.
//! Deliberately not in here: how a request is sent ([`crate::upstream`]), and what clients show to the gateway (`authn`).

pub mod aws;
pub mod config;
pub mod fresh;
mod token;

use std::sync::Arc;

use http::{HeaderName, HeaderValue, header};

use self::aws::{Held, Signer};
use self::config::{Payload, UpstreamAuthConfig};
use self::token::Token;
use crate::context::Context;
use crate::head::{HeaderEdit, TRAVEL_FIELDS};
use crate::oidc::introspection::basic;
use crate::problem::Problem;
use crate::value::Spanned;

/// The largest body that is read to be signed, unless the file says.
const MOST_SIGNED: usize = 1 << 20;

/// [`UpstreamAuthConfig`], compiled.
pub struct UpstreamAuth {
    pub kind: Kind,
    /// The client's own `Authorization` does not go on.
    drops_authorization: bool,
}

pub enum Kind {
    /// The same for every request.
    Fixed(HeaderName, HeaderValue),
    Token(HeaderName, Token),
    Aws(Box<Aws>),
}

/// How requests are signed.
pub struct Aws {
    pub signer: Signer,
    /// The largest body that is signed. `None`: none is.
    pub body: Option<usize>,
    /// The client's own fields that go along, in lower case.
    client_fields: Vec<Box<str>>,
}

impl Aws {
    /// Whether a field of the client's is one of AWS's own, by which it could have done in the gateway's name what it may not.
    pub fn drops(&self, name: &[u8]) -> bool {
        let begins = |start: &str| name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start.as_bytes()));
        let goes = |field: &str| match field.strip_suffix('*') {
            Some(start) => begins(start),
            None => name.eq_ignore_ascii_case(field.as_bytes()),
        };
        begins("x-amz-") && !self.client_fields.iter().any(|field| goes(field))
    }
}

impl UpstreamAuth {
    /// `None` only if there was a problem.
    pub fn compile(config: &Spanned<UpstreamAuthConfig>, cx: &mut Context<'_>) -> Option<Arc<Self>> {
        let UpstreamAuthConfig { basic, bearer, oauth2_client_credentials, google_id_token, aws_sigv4, .. } = &config.value;
        let given = [
            ("basic", basic.is_some()),
            ("bearer", bearer.is_some()),
            ("oauth2_client_credentials", oauth2_client_credentials.is_some()),
            ("google_id_token", google_id_token.is_some()),
            ("aws_sigv4", aws_sigv4.is_some()),
        ];
        let read = given.iter().filter(|(_, given)| *given).count();
        // One that is written and could not be read has been told of.
        let lost = given.iter().filter(|(kind, given)| !given && cx.problems.has_lost(config.place, kind)).count();
        if read == 0 && lost == 1 {
            return None;
        }
        if read + lost != 1 {
            let problem = Problem::error(config.place, "`upstream_auth` is exactly one of its kinds");
            let hint = "basic, bearer, oauth2_client_credentials, google_id_token or aws_sigv4";
            cx.problems.push(problem.hint(hint));
            return None;
        }
        let field = field(config, cx);
        let kind = if let Some(basic) = basic {
            password(basic, cx).map(|value| Kind::Fixed(header::AUTHORIZATION, value))
        } else if let Some(secret) = bearer {
            match secret.value.read(cx.base).and_then(|token| token::bearer(&token)) {
                Err(why) => {
                    cx.problems.push(Problem::error(secret.place, why));
                    None
                }
                Ok(_) if secret.value.file(cx.base).is_some() => {
                    Some(Kind::Token(header::AUTHORIZATION, token::in_file(&secret.value, cx)))
                }
                Ok(value) => Some(Kind::Fixed(header::AUTHORIZATION, value)),
            }
        } else if let Some(client) = oauth2_client_credentials {
            token::client_credentials(client, cx).map(|token| Kind::Token(header::AUTHORIZATION, token))
        } else if let Some(google) = google_id_token {
            token::google(google, cx).map(|token| Kind::Token(header::AUTHORIZATION, token))
        } else {
            aws_sigv4.as_ref().and_then(|aws| signer(aws, cx))
        };
        let (field, mut kind) = (field?, kind?);
        if let Kind::Fixed(name, _) | Kind::Token(name, _) = &mut kind {
            name.clone_from(&field);
        }
        Some(Arc::new(UpstreamAuth { kind, drops_authorization: !config.keep_authorization }))
    }

    /// What has to be changed of a request, where nothing of it is signed. `None`: there is no token now.
    pub async fn edits(&self) -> Option<Vec<HeaderEdit>> {
        let mut edits = Vec::with_capacity(2);
        if self.drops_authorization {
            edits.push(HeaderEdit::Remove(header::AUTHORIZATION));
        }
        match &self.kind {
            Kind::Fixed(name, value) => edits.push(HeaderEdit::Set(name.clone(), value.clone())),
            Kind::Token(name, token) => {
                let value = match token.with(HeaderValue::clone) {
                    Some(value) => value,
                    None => {
                        token.wait().await;
                        token.with(HeaderValue::clone)?
                    }
                };
                edits.push(HeaderEdit::Set(name.clone(), value));
            }
            Kind::Aws(_) => {}
        }
        Some(edits)
    }

    /// The service does not take it.
    pub fn doubt(&self) {
        match &self.kind {
            Kind::Fixed(..) => {}
            Kind::Token(_, token) => token.doubt(),
            Kind::Aws(aws) => aws.signer.doubt(),
        }
    }
}

/// The field that it goes in.
fn field(config: &Spanned<UpstreamAuthConfig>, cx: &mut Context<'_>) -> Option<HeaderName> {
    let field = match &config.header {
        None => header::AUTHORIZATION,
        Some(written) => {
            let name = HeaderName::from_bytes(written.value.as_bytes()).ok();
            let name = name.filter(|name| !TRAVEL_FIELDS.contains(&name.as_str()));
            if config.aws_sigv4.is_some() || name.is_none() {
                let message = match name {
                    None => format!("`{}` is no field that can be set", written.value),
                    Some(_) => "signatures of AWS go in `Authorization`".to_owned(),
                };
                cx.problems.push(Problem::error(written.place, message).hint("leave `header` out"));
                return None;
            }
            name?
        }
    };
    if config.keep_authorization && field == header::AUTHORIZATION {
        let problem = Problem::error(config.place, "`keep_authorization` has no effect: the field is the gateway's own");
        cx.problems.push(problem.hint("header: X-Serverless-Authorization"));
        return None;
    }
    Some(field)
}

fn password(config: &Spanned<config::UpstreamBasicConfig>, cx: &mut Context<'_>) -> Option<HeaderValue> {
    let username = &config.username;
    if username.value.contains(':') || username.value.chars().any(char::is_control) {
        cx.problems.push(Problem::error(username.place, "a user name is some text without `:` and control characters"));
        return None;
    }
    let password = config
        .password
        .value
        .read(cx.base)
        .and_then(|password| String::from_utf8(password).map_err(|_| "the password is no UTF-8".to_owned()));
    match password {
        Ok(password) => basic(&username.value, &password),
        Err(why) => {
            cx.problems.push(Problem::error(config.password.place, why));
            None
        }
    }
}

fn signer(config: &Spanned<config::UpstreamSigV4Config>, cx: &mut Context<'_>) -> Option<Kind> {
    let name = &config.service;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let named = !name.value.is_empty() && name.value.bytes().all(plain);
    if !named {
        let problem = Problem::error(name.place, format!("`{}` is no service of AWS", name.value));
        cx.problems.push(problem.hint("execute-api, lambda, s3, es ..."));
    }
    let most = match &config.max_body {
        Some(most) if config.payload == Payload::Unsigned => {
            cx.problems.push(Problem::error(most.place, "`max_body` has no effect: bodies are not signed"));
            None
        }
        Some(most) if !(1 << 10..=64 << 20).contains(&most.value.0) => {
            cx.problems.push(Problem::error(most.place, "`max_body` is from 1KiB to 64MiB"));
            None
        }
        most => Some(most.as_ref().map_or(MOST_SIGNED, |most| usize::try_from(most.value.0).unwrap_or(MOST_SIGNED))),
    };
    for field in &config.client_fields {
        let name = field.value.strip_suffix('*').unwrap_or(&field.value).to_ascii_lowercase();
        if !name.starts_with("x-amz-") || HeaderName::from_bytes(name.as_bytes()).is_err() {
            let problem = Problem::error(field.place, format!("`{}` names no field of AWS's", field.value));
            cx.problems.push(problem.hint("`x-amz-meta-*`; all other fields go along anyway"));
            return None;
        }
    }
    let client_fields = config.client_fields.iter().map(|field| field.value.to_ascii_lowercase().into()).collect();
    let region = aws::region(config.region.as_ref(), cx);
    let held: Option<Held> = aws::held(config.credentials.as_ref(), cx);
    let (most, region, held) = (most?, region?, held?);
    let signer = Signer { held, region, service: Some(name.value.as_str()).filter(|_| named)?.into() };
    Some(Kind::Aws(Box::new(Aws { signer, body: (config.payload == Payload::Signed).then_some(most), client_fields })))
}
