//! Answers of routes that answer by themselves.

use http::Method;

use super::{Failed, client_failed};
use crate::downstream::Downstream;
use crate::journey::Journey;
use crate::wire::encode::is_bodiless;

/// Gives what the route answers by itself.
///
/// # Errors
/// [`Failed::Answer`] with a refusal, [`Failed::ClientGone`] or [`Failed::ClientStopped`].
pub async fn answer(journey: &mut Journey, down: &mut Downstream) -> Result<(), Failed> {
    let given = journey.give_own().map_err(Failed::Answer)?;
    down.give_up_body();
    down.stage(given.stages);
    let bodiless = given.body.is_empty() || journey.head.method == Method::HEAD || is_bodiless(given.head.status);
    let written = async {
        down.write_head(given.head, bodiless).await?;
        if !bodiless {
            down.write_body(given.body, true).await?;
        }
        down.finish().await
    };
    written.await.map_err(|error| client_failed(&error))
}
