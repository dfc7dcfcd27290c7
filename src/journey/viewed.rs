//! Routes with views: which of them a request gets, once it is known who asks and that he may. From here on it is on the view's own route.

use http::{StatusCode, header};

use super::Journey;
use super::refusals::no_route;
use crate::head::HeaderEdit;
use crate::reply::{Flow, Reply};

impl Journey {
    /// Goes on to the view's route. 400 for one that there is not, or not for this client.
    #[cold]
    pub(super) fn choose_view(&mut self) -> Flow {
        let view = self.view.clone();
        let Some(views) = view.route(self.routed).and_then(|route| route.views.as_ref()) else { return no_route() };
        let Journey { head, exchange, .. } = self;
        let Some(chosen) = views.choose(head, exchange.identity.as_deref()) else {
            let detail = "There is no such view of this, or it is not for this client.";
            return Reply::new(StatusCode::BAD_REQUEST, "views", "unknown_view", detail).refuse();
        };
        chosen.view.count.add(1);
        exchange.to_client.extend(chosen.varies.map(|names| HeaderEdit::Add(header::VARY, names.clone())));
        if let Some(query) = head.query().and_then(|query| views.without_parameter(query)) {
            let query = Some(query.as_str()).filter(|query| !query.is_empty());
            if let Some(target) = exchange.upstream_target.as_mut().filter(|target| target.contains('?')) {
                let path = target.split('?').next().unwrap_or_default();
                let sent = target.split_once('?').and_then(|(_, query)| views.without_parameter(query));
                let sent = sent.filter(|query| !query.is_empty()).map(|query| format!("?{query}")).unwrap_or_default();
                *target = format!("{path}{sent}");
            }
            head.set_query(query);
        }
        let number = chosen.view.route;
        self.routed = Some(number);
        let Some(route) = view.route(self.routed) else { return no_route() };
        if let Some(of) = &route.view {
            of.tags.on_request(&self.head, &mut self.exchange);
        }
        Flow::Continue(())
    }
}
