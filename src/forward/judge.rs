//! What of a service's answer may be kept for others: one judgement, whoever has it fetched, and whether a client waits for it. What the
//! answer itself says of caches, and its status, are the cache's to judge.

use std::sync::Arc;

use super::compose::{is_part, may_be_part};
use crate::cache::Keeping;
use crate::grpc::{GRPC_STATUS, read_status};
use crate::journey::Journey;
use crate::snapshot::fallback::Fallback;
use crate::upstream::call::Tries;
use crate::wire::answer::AnswerHead;

/// See the module.
pub(super) enum Judge {
    /// A route's: calls that its fallback takes the place of are for nobody.
    Route(Option<Arc<Fallback>>),
    /// A composed call's: what no part can be made of is for nobody. The longest one, in bytes.
    Part(usize),
}

impl Judge {
    pub fn of(journey: &Journey) -> Self {
        Judge::Route(journey.route().and_then(|route| route.fallback.clone()))
    }

    /// Whether an answer may be kept, by its head.
    pub fn admits(&self, answer: &AnswerHead, tries: &Tries) -> bool {
        match self {
            Judge::Route(None) => true,
            Judge::Route(Some(fallback)) => !code_of(answer, tries).is_some_and(|code| fallback.replaces_call(code)),
            Judge::Part(most) => may_be_part(answer, *most),
        }
    }

    /// Whether it may be now that its body is whole.
    pub fn keeps(&self, answer: &AnswerHead, keeping: &mut Keeping) -> bool {
        match self {
            Judge::Route(_) => true,
            Judge::Part(_) => keeping.is_fit(|body| is_part(answer.status, body)),
        }
    }
}

/// The status of gRPC that an answer's head tells of. Of a call that was made of a request its answer has no such field.
pub(super) fn code_of(answer: &AnswerHead, tries: &Tries) -> Option<u8> {
    let made = || u8::try_from(tries.transcoded.as_ref()?.status?).ok();
    answer.header_all(GRPC_STATUS.as_str()).next().and_then(read_status).or_else(made)
}
