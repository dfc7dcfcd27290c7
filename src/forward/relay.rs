//! A service's answer on its way to the client.

use std::pin::pin;

use super::web;
use crate::cache::{CACHE_STATUS, Outcome, Use};
use crate::downstream::Downstream;
use crate::head::HeaderEdit;
use crate::journey::Journey;
use crate::upstream::Service;
use crate::upstream::call::{Answer, Broken, Piece};
use crate::wire::stages::refused;
use crate::wire::trailers;
use crate::wire::view::AnswerView;

/// Passes the answer on, and what is left of the request's body meanwhile.
///
/// # Errors
/// The client's side failed, or the service's in the middle of the answer.
pub async fn answer(answer: &mut Answer, journey: &mut Journey, down: &mut Downstream, service: &Service) -> Result<(), Broken> {
    if let Some(noted) = journey.changed(answer.head.status, answer.head.headers()) {
        // Boxed: few routes have a cache on disk.
        Box::pin(noted.written()).await;
    }
    journey.note_call_status(&answer.head);
    if journey.web.is_some() {
        web::dress(answer, journey);
    }
    // A stand-in's answer has tags of its own, and its route's cache may not have been asked not to be used.
    if journey.cache_use.is_some() || journey.stand_in.is_some() {
        journey.hide_tags(&answer.head);
    }
    let answered = journey.answered(AnswerView::from(&*answer.head)).map_err(|reply| Broken::Client(refused(reply)))?;
    if answered.status != answer.head.status {
        *answer.head = answer.head.with_status(answered.status);
    }
    if let Some(Use::Bypass(why)) = journey.cache_use {
        let outcome = Outcome::Bypass(why);
        journey.outcome.cache = outcome.word();
        // What the cache says of an answer comes after the policies' word.
        journey.exchange.to_client.push(HeaderEdit::Add(CACHE_STATUS, outcome.field()));
    }
    if answer.is_early() {
        down.give_up_body();
    }
    down.stage(answered.stages);
    let exchange = &journey.exchange;
    let via = exchange.via(answer.head.version);
    let end = answer.head.body.is_done();
    down.write_answer(&answer.head, &exchange.request_id, &exchange.to_client, via, end).await.map_err(Broken::Client)?;
    if end {
        return down.finish().await.map_err(Broken::Client);
    }
    loop {
        let piece = match answer.take() {
            Ok(piece) => piece,
            Err(broken) => {
                if let Broken::Ended(fields) = &broken {
                    journey.note_grpc_status(fields);
                    journey.tries.ended_with(service, fields);
                }
                // The head may wait for a first piece that does not come. A client that is gone need not be told.
                let _ = down.flush().await;
                return Err(broken);
            }
        };
        match piece {
            Some(Piece::Data(data, last)) => {
                journey.tries.body_came(service);
                if let Some(watch) = &mut journey.compared {
                    watch.see(&data);
                }
                let data = match journey.web {
                    None => data,
                    Some(web) => web.encode(data),
                };
                answer.meanwhile(pin!(down.write_body(data, last))).await.map_err(Broken::Client)?;
            }
            Some(Piece::Trailers(mut fields)) => {
                journey.note_grpc_status(&fields);
                journey.tries.ended_with(service, &fields);
                trailers::filter(&mut fields, &journey.exchange.to_client);
                if let Some(web) = journey.web {
                    down.write_body(web.trailers(&fields), true).await.map_err(Broken::Client)?;
                    return down.finish().await.map_err(Broken::Client);
                }
                return down.finish_with(fields, trailers::wanted(&journey.head)).await.map_err(Broken::Client);
            }
            Some(Piece::End) => return down.finish().await.map_err(Broken::Client),
            None => {
                // What was gathered so far must not wait for what may take a while.
                answer.meanwhile(pin!(down.flush())).await.map_err(Broken::Client)?;
                let endless = down.is_endless();
                answer.more(down, service, endless).await?;
            }
        }
    }
}

/// Whether all that is left of an answer that nobody wants has come already, so that its connection can be kept.
pub fn is_all_here(answer: &mut Answer) -> bool {
    if answer.head.body.is_done() {
        return true;
    }
    loop {
        match answer.take() {
            Ok(Some(Piece::Data(_, last))) if last => return true,
            Ok(Some(Piece::Data(..))) => {}
            Ok(Some(Piece::Trailers(_) | Piece::End)) => return true,
            Ok(None) | Err(_) => return false,
        }
    }
}
