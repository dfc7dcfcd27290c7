//! What the answers of a route's views are told apart by (`routes[].views`). No policy that anybody writes: each view has it.

use http::{HeaderName, HeaderValue, header};

use super::reshape::answer::private;
use crate::policy::{OnResponse, Outgoing};
use crate::reply::Flow;
use crate::route::views::Tags;

/// Marks tags with their view, and keeps what is for some from the caches of all.
pub struct OfView {
    pub tags: Tags,
    /// Who it is tells views apart.
    pub by_who: bool,
}

impl OnResponse for OfView {
    fn on_response(&self, answer: &mut Outgoing<'_>) -> Flow {
        let marked = answer.first(&header::ETAG).and_then(|tag| self.tags.marked(tag));
        if let Some(marked) = marked {
            answer.set(header::ETAG, marked);
        }
        if self.by_who {
            for name in ["cdn-cache-control", "surrogate-control", "portcullis-cache-control"] {
                if answer.first(&HeaderName::from_static(name)).is_some() {
                    answer.remove(HeaderName::from_static(name));
                }
            }
            let said = answer.all(&header::CACHE_CONTROL).join(&b", "[..]);
            if let Ok(private) = HeaderValue::try_from(private(&said)) {
                answer.set(header::CACHE_CONTROL, private);
            }
        }
        Flow::Continue(())
    }
}
