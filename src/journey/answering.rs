//! What a route's policies make of an answer.

use http::{StatusCode, Version};

use super::Journey;
use crate::exchange::Verdict;
use crate::grpc;
use crate::policy::Outgoing;
use crate::reply::{Flow, Reply, Wording};
use crate::snapshot::fallback::STATIC;
use crate::upstream::Service;
use crate::wire::stages::Stages;
use crate::wire::view::AnswerView;

/// An answer that the policies have seen.
pub struct Answered {
    /// The status that the client shall see.
    pub status: StatusCode,
    /// What works on its body, if anything does.
    pub stages: Option<Box<Stages>>,
}

impl Journey {
    /// The policies' word on an answer that came from a service or the cache, or that the route gives by itself. Their changes to its
    /// fields are behind those that were there before.
    ///
    /// # Errors
    /// The answer to give instead.
    #[inline]
    pub fn answered(&mut self, came: AnswerView<'_>) -> Result<Answered, Box<Reply>> {
        if let Some(reply) = self.not_switched(came.status) {
            return Err(reply);
        }
        self.answer_begins();
        self.outcome.status = came.status.as_u16();
        match self.view.route(self.routed) {
            Some(route) if !route.plan.response.is_empty() || route.back.is_some() => self.shape(came),
            _ => Ok(Answered { status: came.status, stages: None }),
        }
    }

    /// What a client of HTTP/2's that asks for a WebSocket gets instead of an answer of 2xx that is no switch: it would be the tunnel.
    #[inline]
    pub fn not_switched(&self, status: StatusCode) -> Option<Box<Reply>> {
        let is_one = self.head.upgrade && self.head.version == Version::HTTP_2 && status.is_success();
        is_one.then(|| {
            let detail = "The handshake of a WebSocket was answered, but not with a switch to it.";
            Reply::new(StatusCode::BAD_GATEWAY, Service::NAME, "not_switched", detail)
        })
    }

    #[inline(never)]
    fn shape(&mut self, came: AnswerView<'_>) -> Result<Answered, Box<Reply>> {
        let streams = self.expects_stream() || self.dialect.is_grpc();
        let mut edits = std::mem::take(&mut self.exchange.to_client);
        let mut answer = Outgoing::new(&self.head, &self.exchange, came, streams, &mut edits);
        answer = answer.made_of_call(self.tries.transcoded.is_some());
        // The gateway's own answers need no mending.
        if self.outcome.fallback != STATIC {
            self.mend(&mut answer);
        }
        let plan = self.view.route(self.routed).map(|route| &route.plan);
        let mut flow = Flow::Continue(());
        for step in plan.iter().flat_map(|plan| &plan.response) {
            flow = step.on_response(&mut answer);
            if flow.is_break() {
                break;
            }
        }
        let (status, stages) = answer.into_parts();
        self.exchange.to_client = edits;
        if let Flow::Break(reply) = flow {
            return Err(reply);
        }
        if let Some(reply) = self.not_switched(status) {
            return Err(reply);
        }
        self.outcome.status = status.as_u16();
        Ok(Answered { status, stages: (!stages.is_empty()).then(|| Box::new(stages)) })
    }

    /// From here on, changes to the answer are about one that came from somewhere: none of them is for a refusal that takes its place.
    pub fn answer_begins(&mut self) {
        let before = u32::try_from(self.exchange.to_client.len()).unwrap_or(u32::MAX);
        self.edits_before.get_or_insert(before);
    }

    /// Takes back what the client was to be told of an answer that it does not get after all. Whether there was one.
    pub fn answer_dropped(&mut self) -> bool {
        let before = self.edits_before.take();
        if let Some(before) = before {
            self.exchange.to_client.truncate(before as usize);
        }
        before.is_some()
    }

    /// How the client is told what was noted last with [`Journey::refused`].
    pub fn wording(&self) -> Wording<'_> {
        Wording { dialect: self.dialect, page: self.page.as_deref() }
    }

    /// Notes an answer of the gateway's own.
    pub fn refused(&mut self, reply: &Reply) {
        let replaced = self.answer_dropped();
        // An answer that has begun already, and cannot be given, has had its fields.
        if self.outcome.status == 0 || replaced {
            let Journey { view, routed, head, exchange, .. } = self;
            let plan = view.route(*routed).map_or(&view.snapshot.unrouted, |route| &route.plan);
            plan.response.iter().for_each(|step| step.on_refusal(head, exchange));
        }
        let Journey { view, routed, head, .. } = &*self;
        let plan = view.route(*routed).map_or(&view.snapshot.unrouted, |route| &route.plan);
        let chosen = plan.options.error_pages.as_ref().and_then(|pages| pages.choose(head, reply.status));
        self.page = chosen.or_else(|| {
            let always = view.route(*routed).is_some_and(|route| route.answer.composed().is_some_and(|of| of.graphql.is_some()));
            plan.options.graphql.as_ref()?.page(head, reply.status, always)
        });
        if reply.status.is_success() {
            // It was what the client wanted to know.
            self.outcome.own = Some(reply.policy);
        }
        self.outcome.status = reply.status.as_u16();
        self.outcome.verdict = Some(Verdict { policy: reply.policy, reason: reply.reason });
        self.outcome.decided_by.clone_from(&reply.decided_by);
        if self.dialect.has_code() {
            self.outcome.grpc_status = Some(grpc::status(reply.status).into());
        }
    }
}
