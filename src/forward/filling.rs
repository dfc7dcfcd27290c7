//! An answer on its way to its client, and into the cache: as fast as the service gives it, up to what is stored, however slowly the client
//! reads. It reads the rest from what is stored, as any other client does ([`super::paid`]).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;
use pingora_error::{Error, ErrorType};

use super::judge::Judge;
use super::paid::Reading;
use super::{Failed, broke_off, client_failed, shared};
use crate::cache::{Cache, Flow, Flown, Keeping};
use crate::downstream::Downstream;
use crate::journey::Journey;
use crate::listen::share::Purse;
use crate::observe::Fetched;
use crate::upstream::Service;
use crate::upstream::call::{Answer, Broken, Caller, Own, Piece, Tries};
use crate::wire::answer::AnswerHead;
use crate::wire::trailers;

type Written = pingora_error::Result<()>;

/// A fill, where it stays when the request ends that has begun it.
pub struct UnderWay {
    pub filling: Filling,
    pub answer: Answer,
}

impl UnderWay {
    /// The client's time is over. What others want of the answer, and what is to be stored, is for the service alone to end.
    pub fn go_on(self, caller: &Arc<Caller>, journey: &mut Journey, service: &Service) {
        let UnderWay { filling: Filling { cache, mut keeping, ended, broken, .. }, answer } = self;
        if ended || !keeping.is_storing() {
            return;
        }
        if broken.is_some() {
            return keeping.give_up();
        }
        let (Some(service), Some(route)) = (shared(journey, service), journey.route()) else { return };
        let metrics = route.metrics.clone();
        let (caller, mut tries) = (caller.clone(), journey.tries.leave());
        tokio::spawn(async move {
            let fetched = store(cache, (keeping, &Judge::Route(None)), answer, &caller, &service, &mut tries).await;
            tries.end();
            metrics.fetched(&service.key, &fetched);
        });
    }

    /// It is over.
    pub fn end(self, caller: &Caller, service: &Service) {
        if self.filling.ended {
            caller.keep(self.answer, service);
        }
    }
}

/// Stores an answer that no client waits for, if it turns out to be one to keep.
pub async fn store(
    cache: &'static Cache,
    (mut keeping, judge): (Keeping, &Judge),
    mut answer: Answer,
    caller: &Caller,
    service: &Service,
    tries: &mut Tries,
) -> Fetched {
    let mut ended = answer.head.body.is_done();
    while !ended {
        if !keeping.is_storing() {
            return Fetched::NotStored;
        }
        let more = match answer.take() {
            Ok(Some(Piece::Data(data, last))) => {
                keeping.add(cache, &data);
                keeping.room().await;
                ended = last;
                Ok(())
            }
            Ok(Some(Piece::Trailers(_) | Piece::End)) => {
                ended = true;
                Ok(())
            }
            Ok(None) => {
                keeping.flows(&answer.head);
                answer.more(&mut Own(Bytes::new()), service, false).await
            }
            Err(broken) => Err(broken),
        };
        if let Err(broken) = more {
            keeping.give_up();
            tries.broke(service, &broken);
            return Fetched::Failed("its answer broke off".into());
        }
    }
    let stored = if judge.keeps(&answer.head, &mut keeping) {
        keeping.done(cache, &answer.head)
    } else {
        keeping.give_up();
        None
    };
    caller.keep(answer, service);
    if stored.is_some() { Fetched::Stored } else { Fetched::NotStored }
}

/// See the module.
pub struct Filling {
    cache: &'static Cache,
    pub keeping: Keeping,
    /// All of the body has come.
    ended: bool,
    /// What is stored of it, by its number.
    pub stored: Option<u64>,
    /// What came behind it.
    fields: Option<HeaderMap>,
    /// The service broke off.
    broken: Option<Broken>,
    /// What the client lags behind by, beyond what is in the flow.
    tail: VecDeque<Bytes>,
    purse: Option<Purse>,
    /// What it lags behind by is of its share, once nobody else has it.
    reading: Option<Reading>,
}

impl Filling {
    pub fn new(cache: &'static Cache, keeping: Keeping) -> Self {
        let tail = VecDeque::new();
        Filling { cache, keeping, ended: false, stored: None, fields: None, broken: None, tail, purse: None, reading: None }
    }

    /// Before something that the client may take its time with while more comes: of a body that is here nobody has more than is stored.
    fn take_purse(&mut self, down: &Downstream) {
        if self.purse.is_none() && self.reading.is_none() && self.keeping.is_storing() {
            self.purse = down.purse_beside();
        }
    }

    /// The body, to the cache and to the client. A client that goes away in the middle does not end what others may want.
    #[allow(clippy::too_many_arguments, reason = "the ends of one pipe")]
    pub async fn pass_on(
        &mut self,
        journey: &mut Journey,
        down: &mut Downstream,
        service: &Service,
        answer: &mut Answer,
        bodiless: bool,
        mut told: Result<(), Failed>,
    ) -> Result<(), Failed> {
        self.ended = answer.head.body.is_done();
        // How much of the body the client has been given.
        let mut sent = 0;
        while !self.ended {
            if !self.keeping.is_storing() && (told.is_err() || bodiless) {
                // Nobody wants the rest.
                told?;
                return down.finish().await.map_err(|error| client_failed(&error));
            }
            let piece = match self.broken.take().map_or_else(|| answer.take(), Err) {
                Ok(piece) => piece,
                Err(broken) => {
                    self.keeping.give_up();
                    if bodiless || told.is_err() {
                        // The client has had all that it gets.
                        return broke_alone(&broken, journey, told);
                    }
                    // What waits for its first piece is all that there will be.
                    let _ = down.flush().await;
                    return Err(broke_off(broken, journey, down));
                }
            };
            match piece {
                Some(Piece::Data(data, last)) => {
                    self.ended = last;
                    self.keeping.add(self.cache, &data);
                    if self.keeping.is_full() {
                        Box::pin(self.keeping.room()).await;
                    }
                    if last {
                        // Before the client has all of it, and may ask again.
                        self.done(&answer.head);
                    }
                    if told.is_err() || bodiless {
                        continue;
                    }
                    if !last {
                        self.take_purse(down);
                    }
                    sent += data.len();
                    let (written, flow) = self.give(pin!(down.write_body(data, last)), answer, service).await;
                    told = written.map_err(|error| broke_off(Broken::Client(error), journey, down));
                    if let (Some(flow), Ok(())) = (flow, &told) {
                        let caught_up = Box::pin(self.catch_up(&flow, &mut sent, down, answer, service)).await;
                        told = caught_up.map_err(|error| broke_off(Broken::Client(error), journey, down));
                    }
                }
                Some(Piece::Trailers(section)) => (self.ended, self.fields) = (true, Some(section)),
                Some(Piece::End) => self.ended = true,
                None => {
                    self.keeping.flows(&answer.head);
                    if told.is_ok() {
                        self.take_purse(down);
                        let (flushed, flow) = self.give(pin!(down.flush()), answer, service).await;
                        told = flushed.map_err(|error| client_failed(&error));
                        if let (Some(flow), Ok(()), false) = (&flow, &told, bodiless) {
                            let caught_up = Box::pin(self.catch_up(flow, &mut sent, down, answer, service)).await;
                            told = caught_up.map_err(|error| broke_off(Broken::Client(error), journey, down));
                        }
                        if flow.is_some() {
                            // Its end may have come meanwhile.
                            continue;
                        }
                    }
                    if matches!(told, Err(Failed::Answer(_))) || told.is_err() && down.is_endless() {
                        // A refusal does not wait for the rest, and of what has no end the rest is for nobody.
                        self.keeping.give_up();
                        return told;
                    }
                    let endless = down.is_endless();
                    let more = match told {
                        Ok(()) => answer.more(down, service, endless).await,
                        Err(_) => answer.more(&mut Own(Bytes::new()), service, endless).await,
                    };
                    match more {
                        Ok(()) => {}
                        Err(Broken::Client(error)) if self.keeping.is_storing() => told = Err(client_failed(&error)),
                        Err(broken) => {
                            if !matches!(broken, Broken::Client(_)) {
                                // So would it for those who wait, one after the other.
                                self.keeping.give_up();
                            }
                            return match bodiless || told.is_err() {
                                true => broke_alone(&broken, journey, told),
                                false => Err(broke_off(broken, journey, down)),
                            };
                        }
                    }
                }
            }
        }
        self.done(&answer.head);
        told?;
        let finished = match self.fields.take() {
            Some(mut fields) if !bodiless => {
                trailers::filter(&mut fields, &journey.exchange.to_client);
                down.finish_with(fields, trailers::wanted(&journey.head)).await
            }
            _ => down.finish().await,
        };
        finished.map_err(|error| broke_off(Broken::Client(error), journey, down))
    }

    /// Gives something to the client; where that takes its time, it is behind from then on.
    async fn give(
        &mut self,
        mut writing: Pin<&mut impl Future<Output = Written>>,
        answer: &mut Answer,
        service: &Service,
    ) -> (Written, Option<Arc<Flow>>) {
        match poll_fn(|cx| Poll::Ready(writing.as_mut().poll(cx))).await {
            Poll::Ready(written) => (written, None),
            Poll::Pending => Box::pin(self.lag(writing, answer, service)).await,
        }
    }

    /// The client takes its time: what it is behind by goes into a flow, if it is stored.
    async fn lag(
        &mut self,
        writing: Pin<&mut impl Future<Output = Written>>,
        answer: &mut Answer,
        service: &Service,
    ) -> (Written, Option<Arc<Flow>>) {
        let Some((flow, lent)) = self.keeping.share() else { return (answer.meanwhile(writing).await, None) };
        let (cache, purse) = (self.cache, &mut self.purse);
        self.reading.get_or_insert_with(|| Reading::new(cache, lent, purse.take()));
        (self.beside(writing, answer, service).await, Some(flow))
    }

    /// Takes in what the service gives, while the client takes its time with what it is given.
    async fn beside(
        &mut self,
        mut writing: Pin<&mut impl Future<Output = Written>>,
        answer: &mut Answer,
        service: &Service,
    ) -> Written {
        self.keeping.flows(&answer.head);
        loop {
            while self.goes_on() && !self.keeping.is_full() {
                match answer.take() {
                    Ok(Some(Piece::Data(data, last))) => {
                        self.ended = last;
                        self.keeping.add(self.cache, &data);
                        if !self.keeping.is_storing() {
                            self.tail.push_back(data);
                        }
                    }
                    Ok(Some(Piece::Trailers(section))) => (self.ended, self.fields) = (true, Some(section)),
                    Ok(Some(Piece::End)) => self.ended = true,
                    Ok(None) => break,
                    Err(broken) => self.broken = Some(broken),
                }
            }
            if self.ended {
                self.done(&answer.head);
            }
            if !self.goes_on() {
                return match &mut self.reading {
                    Some(reading) => answer.meanwhile(pin!(reading.during(writing))).await,
                    None => answer.meanwhile(writing).await,
                };
            }
            if self.keeping.is_full() {
                tokio::select! {
                    biased;
                    written = &mut writing => return written,
                    () = self.keeping.room() => continue,
                }
            }
            let mut nobody = Own(Bytes::new());
            tokio::select! {
                biased;
                written = &mut writing => return written,
                more = answer.more(&mut nobody, service, false) => {
                    self.broken = more.err();
                }
            }
        }
    }

    /// Whether there is anything to take in that is to be stored.
    fn goes_on(&self) -> bool {
        !self.ended && self.broken.is_none() && self.keeping.is_storing()
    }

    /// Gives the client what has come meanwhile, until it has all that is here.
    async fn catch_up(
        &mut self,
        flow: &Arc<Flow>,
        sent: &mut usize,
        down: &mut Downstream,
        answer: &mut Answer,
        service: &Service,
    ) -> Written {
        loop {
            let mut next = flow.at(*sent);
            if matches!(next, Flown::OnDisk) {
                next = flow.next(*sent).await;
                if matches!(next, Flown::Broken) {
                    return Error::e_explain(ErrorType::FileReadError, "what the client is behind by cannot be read from disk");
                }
            }
            let piece = match next {
                Flown::Some(piece, _) if !piece.is_empty() => piece,
                _ => match self.tail.pop_front() {
                    Some(piece) => piece,
                    None => return Ok(()),
                },
            };
            *sent += piece.len();
            let writing = pin!(down.write_body(piece, false));
            self.beside(writing, answer, service).await?;
        }
    }

    /// The body is whole.
    pub fn done(&mut self, answer: &AnswerHead) {
        self.stored = self.keeping.done(self.cache, answer).or(self.stored);
    }
}

/// The service failed while only the cache was still being filled.
fn broke_alone(broken: &Broken, journey: &mut Journey, told: Result<(), Failed>) -> Result<(), Failed> {
    if let Some(outcome) = broken.outcome() {
        journey.service_failed(outcome);
    }
    told
}
