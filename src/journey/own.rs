//! What a route answers by itself.

use bytes::Bytes;
use http::StatusCode;
use pingora_http::ResponseHeader;

use super::Journey;
use crate::downstream::apply_to_response;
use crate::reply::Reply;
use crate::snapshot::{ActiveListener, Answer, Composed};
use crate::upstream::Service;
use crate::wire::stages::Stages;
use crate::wire::view::AnswerView;

/// An answer that nobody was asked for, as the policies have left its head.
pub struct Given {
    pub head: Box<ResponseHeader>,
    pub body: Bytes,
    /// What works on the body, if anything does.
    pub stages: Option<Box<Stages>>,
}

impl Journey {
    /// Whether nobody is asked on this route.
    pub fn answers_by_itself(&self) -> bool {
        self.route().is_some_and(|route| matches!(route.answer, Answer::Own(_) | Answer::Compose(_)))
    }

    /// What the answer is made of, where it is made of those of several services.
    pub fn composed(&self) -> Option<&Composed> {
        self.route()?.answer.composed()
    }

    /// What a client gets that came in clear to a listener which sends everybody to TLS.
    pub fn sent_to_tls(&self, door: &ActiveListener) -> Option<Box<Reply>> {
        door.redirect?.answer(&self.head, self.exchange.scheme(), || self.public_authority())
    }

    /// What the route answers by itself.
    ///
    /// # Errors
    /// The refusal to give instead.
    pub fn give_own(&mut self) -> Result<Given, Box<Reply>> {
        let view = self.view.clone();
        let answer = view.route(self.routed).map(|route| &route.answer);
        if let Some(Answer::Compose(_)) = answer {
            let detail = "This gateway stands on a server that cannot make one answer of several.";
            return Err(Reply::new(StatusCode::NOT_IMPLEMENTED, "compose", "not_here", detail));
        }
        let Some(Answer::Own(own)) = answer else {
            // Every other route has a service; if not, it is the gateway's own fault.
            let detail = "The backend could not answer.";
            return Err(Reply::new(StatusCode::BAD_GATEWAY, Service::NAME, "upstream_error", detail));
        };
        let target = self.upstream_target().unwrap_or_else(|| match self.head.query() {
            Some(query) => format!("{}?{query}", self.exchange.sent_path(&self.head)),
            None => self.exchange.sent_path(&self.head).to_owned(),
        });
        let (head, body) = own.give(&self.head, &target, self.exchange.scheme(), || self.public_authority())?;
        self.dress(Box::new(head), body, own.name())
    }

    /// An answer of the gateway's own on its way to the client, as the policies leave it. `name`: what it is called in the log.
    ///
    /// # Errors
    /// The refusal to give instead.
    pub fn dress(&mut self, mut head: Box<ResponseHeader>, body: Bytes, name: &'static str) -> Result<Given, Box<Reply>> {
        self.outcome.own = Some(name);
        let answered = self.answered(AnswerView::from(&*head))?;
        // It is one that exists.
        let _ = head.set_status(answered.status);
        apply_to_response(&mut head, &self.exchange.request_id, &self.exchange.to_client);
        Ok(Given { head, body, stages: answered.stages })
    }
}
