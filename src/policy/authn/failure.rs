//! Why credentials were refused, as the client, the log and RFC 6750 hear it.
//!
//! Deliberately no data in here: a refusal never repeats what the client sent, and says nothing that helps guessing.

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
    TokenTooLarge,
    MalformedToken,
    /// The token's header asks for something that this gateway never does: critical extensions, or keys that the token brings along.
    UnsupportedHeader,
    UnsupportedType,
    UnknownKey,
    UnsupportedAlgorithm,
    BadSignature,
    /// Signed well, but a claim has the wrong JSON type.
    MalformedClaim,
    WrongIssuer,
    WrongAudience,
    MissingClaim,
    NotYetValid,
    Expired,
}

impl Failure {
    /// The stable word for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Failure::MissingCredentials => "missing_credentials",
            Failure::AmbiguousCredentials | Failure::RepeatedAuthorization => "ambiguous_credentials",
            Failure::UnknownApiKey => "unknown_api_key",
            Failure::TokenTooLarge => "token_too_large",
            Failure::MalformedToken => "malformed_token",
            Failure::UnsupportedHeader => "unsupported_header",
            Failure::UnsupportedType => "unsupported_type",
            Failure::UnknownKey => "unknown_key",
            Failure::UnsupportedAlgorithm => "unsupported_algorithm",
            Failure::BadSignature => "bad_signature",
            Failure::MalformedClaim => "malformed_claim",
            Failure::WrongIssuer => "wrong_issuer",
            Failure::WrongAudience => "wrong_audience",
            Failure::MissingClaim => "missing_claim",
            Failure::NotYetValid => "not_yet_valid",
            Failure::Expired => "expired",
        }
    }

    /// The sentence for the client. Holds no `"` and no `\`, so that it can stand in a quoted string as it is.
    pub fn detail(self) -> &'static str {
        match self {
            Failure::MissingCredentials => "This resource needs credentials.",
            Failure::AmbiguousCredentials => "The request carries credentials that contradict or repeat each other.",
            Failure::RepeatedAuthorization => "The request has more than one Authorization field.",
            Failure::UnknownApiKey => "The API key is not known.",
            Failure::TokenTooLarge => "The token is too large.",
            Failure::MalformedToken => "The token is not a well-formed signed JWT.",
            Failure::UnsupportedHeader => "The token's header has a member that is not accepted.",
            Failure::UnsupportedType => "The token's type is not accepted.",
            Failure::UnknownKey => "The token was signed with a key that is not known.",
            Failure::UnsupportedAlgorithm => "The token's algorithm is not accepted.",
            Failure::BadSignature => "The token's signature is wrong.",
            Failure::MalformedClaim => "A claim of the token has the wrong type.",
            Failure::WrongIssuer => "The token's issuer is not accepted.",
            Failure::WrongAudience => "The token is meant for another audience.",
            Failure::MissingClaim => "The token lacks a claim that is required.",
            Failure::NotYetValid => "The token is not valid yet.",
            Failure::Expired => "The token has expired.",
        }
    }

    /// The `error` of a Bearer challenge (RFC 6750, section 3.1). `None` where no token was presented: then the challenge must not
    /// say more than that one is wanted.
    pub fn bearer_error(self) -> Option<&'static str> {
        match self {
            Failure::MissingCredentials | Failure::AmbiguousCredentials | Failure::UnknownApiKey => None,
            Failure::RepeatedAuthorization => Some("invalid_request"),
            _ => Some("invalid_token"),
        }
    }
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
