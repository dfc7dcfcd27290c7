//! Why credentials were refused, as the client, the log and RFC 6750 hear it.
//!
//! Deliberately no data in here: a refusal never repeats what the client sent, and says nothing that helps guessing.

use http::StatusCode;

use crate::consumers::KeyFault;
use crate::jose::Fault;

/// The variants are ordered by how far a credential got: of several methods that refused a token, the one that came furthest has
/// the most useful thing to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Nothing was presented, or (where every method is wanted) not everything.
    MissingCredentials,
    /// An API key came more than once, or two credentials name different consumers.
    AmbiguousCredentials,
    /// More than one `Authorization` field: which of them a backend would believe is anyone's guess.
    RepeatedAuthorization,
    UnknownApiKey,
    ExpiredApiKey,
    /// The store of API keys could not be read since the process started: nobody knows whether the key is good.
    KeyStoreUnavailable,
    MalformedBasic,
    /// Or no such user: guessing does not tell which.
    WrongPassword,
    /// As many passwords are being checked as may be.
    PasswordChecksBusy,
    /// A client certificate that was valid when the connection began, and is not any more.
    ExpiredCertificate,
    /// A client certificate without any of the names that could be a subject.
    NamelessCertificate,
    MalformedSignature,
    UnknownSigningKey,
    /// It does not cover all that it has to.
    UncoveredComponent,
    /// It covers something that the request does not have.
    MissingComponent,
    SignatureFromTheFuture,
    StaleSignature,
    BadRequestSignature,
    /// The signature is good, and covers the digest of another body.
    ContentDigestMismatch,
    ReplayedSignature,
    /// It was made before anybody remembered which were used.
    SignatureBeforeStart,
    /// The key's signature is for another region or service.
    WrongSigningScope,
    /// The body is not part of what is signed, and has to be.
    UnsignedPayload,
    /// The body is signed piece by piece.
    StreamingSignature,
    /// The signature is good, and covers another body.
    PayloadMismatch,
    /// More signatures came than can be remembered: nobody knows whether one comes again.
    ReplayWindowFull,
    TokenTooLarge,
    MalformedToken,
    /// The token's header asks for something that this gateway never does: critical extensions, or keys that the token brings along.
    UnsupportedHeader,
    UnsupportedType,
    UnknownKey,
    UnsupportedAlgorithm,
    BadSignature,
    /// The issuer's keys could not be fetched yet.
    KeysUnavailable,
    /// Signed well, but a claim has the wrong JSON type.
    MalformedClaim,
    WrongIssuer,
    WrongAudience,
    MissingClaim,
    NotYetValid,
    Expired,
    /// The authorization server does not know the token, or no longer honours it.
    InactiveToken,
    /// The authorization server could not be asked.
    IntrospectionUnavailable,
}

impl Failure {
    /// The stable word for logs and metrics.
    pub fn reason(self) -> &'static str {
        self.told().0
    }

    /// The sentence for the client. Holds no `"` and no `\`, so that it can stand in a quoted string as it is.
    pub fn detail(self) -> &'static str {
        self.told().1
    }

    /// The `error` of a Bearer challenge (RFC 6750, section 3.1). `None` where no token was presented: then the challenge must not
    /// say more than that one is wanted.
    pub fn bearer_error(self) -> Option<&'static str> {
        match self.told().2 {
            Kind::Token => Some("invalid_token"),
            Kind::Request => Some("invalid_request"),
            Kind::Other | Kind::Unavailable => None,
        }
    }

    /// 401, or 503 where the gateway could not find out.
    pub fn status(self) -> StatusCode {
        if self.told().2 == Kind::Unavailable { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::UNAUTHORIZED }
    }

    /// Everything there is to say about a failure, in one line each.
    fn told(self) -> (&'static str, &'static str, Kind) {
        use Kind::*;
        match self {
            Failure::MissingCredentials => ("missing_credentials", "This resource needs credentials.", Other),
            Failure::AmbiguousCredentials => {
                ("ambiguous_credentials", "The request carries credentials that contradict or repeat each other.", Other)
            }
            Failure::RepeatedAuthorization => {
                ("ambiguous_credentials", "The request has more than one Authorization field.", Request)
            }
            Failure::UnknownApiKey => ("unknown_api_key", "The API key is not known.", Other),
            Failure::ExpiredApiKey => ("expired_api_key", "The API key has expired.", Other),
            Failure::KeyStoreUnavailable => {
                ("key_store_unavailable", "Whether the API key is good cannot be found out now.", Unavailable)
            }
            Failure::MalformedBasic => ("malformed_basic", "The user name and password are not well-formed.", Other),
            Failure::WrongPassword => ("wrong_password", "The user name or the password is wrong.", Other),
            Failure::PasswordChecksBusy => ("password_checks_busy", "Too many passwords are being checked at once.", Unavailable),
            Failure::ExpiredCertificate => ("certificate_expired", "The client certificate has expired.", Other),
            Failure::NamelessCertificate => ("certificate_nameless", "The client certificate names no subject.", Other),
            Failure::MalformedSignature => ("malformed_signature", "The message signature is not well-formed.", Other),
            Failure::UnknownSigningKey => ("unknown_signing_key", "No signature is of a key that is known.", Other),
            Failure::UncoveredComponent => {
                ("uncovered_component", "The signature does not cover all that it has to cover.", Other)
            }
            Failure::MissingComponent => ("missing_component", "The signature covers what the request does not have.", Other),
            Failure::SignatureFromTheFuture => ("signature_from_future", "The signature was made in the future.", Other),
            Failure::StaleSignature => ("stale_signature", "The signature is too old.", Other),
            Failure::BadRequestSignature => ("bad_request_signature", "The signature is not this request's.", Other),
            Failure::ContentDigestMismatch => ("content_digest_mismatch", "The body is not the one that was signed.", Other),
            Failure::WrongSigningScope => {
                ("wrong_signing_scope", "The signature is for another region or another service.", Other)
            }
            Failure::UnsignedPayload => ("unsigned_payload", "The body has to be part of what is signed.", Other),
            Failure::StreamingSignature => {
                ("streaming_signature", "A body that is signed piece by piece is not taken: sign it as a whole.", Other)
            }
            Failure::PayloadMismatch => ("payload_mismatch", "The body is not the one that was signed.", Other),
            Failure::SignatureBeforeStart => {
                ("signature_before_start", "The signature was made before the gateway started: sign the request anew.", Other)
            }
            Failure::ReplayedSignature => ("replayed_signature", "The signature was used before.", Other),
            Failure::ReplayWindowFull => {
                ("replay_window_full", "Whether the signature was used before cannot be found out now.", Unavailable)
            }
            Failure::TokenTooLarge => ("token_too_large", "The token is too large.", Token),
            Failure::MalformedToken => ("malformed_token", "The token is not a well-formed signed JWT.", Token),
            Failure::UnsupportedHeader => ("unsupported_header", "The token's header has a member that is not accepted.", Token),
            Failure::UnsupportedType => ("unsupported_type", "The token's type is not accepted.", Token),
            Failure::UnknownKey => ("unknown_key", "The token was signed with a key that is not known.", Token),
            Failure::UnsupportedAlgorithm => ("unsupported_algorithm", "The token's algorithm is not accepted.", Token),
            Failure::BadSignature => ("bad_signature", "The token's signature is wrong.", Token),
            Failure::KeysUnavailable => (
                "keys_unavailable",
                "The issuer's keys are not available at the moment, so that no token can be checked.",
                Unavailable,
            ),
            Failure::MalformedClaim => ("malformed_claim", "A claim of the token has the wrong type.", Token),
            Failure::WrongIssuer => ("wrong_issuer", "The token's issuer is not accepted.", Token),
            Failure::WrongAudience => ("wrong_audience", "The token is meant for another audience.", Token),
            Failure::MissingClaim => ("missing_claim", "The token lacks a claim that is required.", Token),
            Failure::NotYetValid => ("not_yet_valid", "The token is not valid yet.", Token),
            Failure::Expired => ("expired", "The token has expired.", Token),
            Failure::InactiveToken => ("inactive_token", "The token is not active.", Token),
            Failure::IntrospectionUnavailable => {
                ("introspection_unavailable", "Tokens cannot be checked at the moment.", Unavailable)
            }
        }
    }
}

impl From<KeyFault> for Failure {
    fn from(fault: KeyFault) -> Self {
        match fault {
            KeyFault::Unknown => Failure::UnknownApiKey,
            KeyFault::Expired => Failure::ExpiredApiKey,
            KeyFault::StoreUnavailable => Failure::KeyStoreUnavailable,
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TooLarge => Failure::TokenTooLarge,
            Fault::Malformed => Failure::MalformedToken,
            Fault::UnsupportedHeader => Failure::UnsupportedHeader,
            Fault::UnsupportedType => Failure::UnsupportedType,
            Fault::UnknownKey => Failure::UnknownKey,
            Fault::UnsupportedAlgorithm => Failure::UnsupportedAlgorithm,
            Fault::BadSignature => Failure::BadSignature,
            Fault::MalformedClaim => Failure::MalformedClaim,
        }
    }
}

/// What a failure is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A bearer token that was presented.
    Token,
    /// How a token was presented.
    Request,
    /// Any other credential, or none.
    Other,
    /// Nothing that the client did.
    Unavailable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_fit_into_a_quoted_string() {
        for failure in [Failure::MissingCredentials, Failure::UnsupportedHeader, Failure::Expired, Failure::RepeatedAuthorization]
        {
            assert!(!failure.detail().contains(['"', '\\']));
        }
    }

    #[test]
    fn later_checks_rank_higher() {
        assert!(Failure::Expired > Failure::BadSignature && Failure::BadSignature > Failure::UnknownKey);
    }
}
