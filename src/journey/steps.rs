//! The steps of a request's route, and the body that some of them look into.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::content::{self, Shown};
use super::refusals::{BOUNDS, body_refusal, client_gone, no_route, too_large_for};
use super::{Client, Journey};
use crate::downstream::{BODY_TIMEOUT, BODY_TOO_LARGE};
use crate::exchange::Stage;
use crate::head::{BodyFraming, RequestHead, WITH_BODY};
use crate::policy::{Step, Work};
use crate::reply::{Flow, Reply};
use crate::upstream::call::{Caller, Engine};

/// Where a run of the steps came to rest.
pub enum Pause {
    Done(Flow),
    /// The step of this number has to wait.
    Wait(usize),
    /// The step of this number has to know whether there is a body.
    Settle(usize),
    /// The step of this number wants the body.
    Body(usize),
    /// What follows is for one of the route's views to say.
    View,
}

/// Whether any of these steps looks for who it is, or whether he may.
fn asks_who(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step.stage, Stage::Authn | Stage::Authz))
}

impl Journey {
    /// Runs the route's steps from number `from` on, up to the first that cannot be done at once. `unsettled`: whether there is a body is not
    /// known yet.
    pub fn run(&mut self, from: usize, unsettled: bool) -> Pause {
        let Journey { view, routed, head, exchange, outcome, share, .. } = self;
        let Some(route) = view.route(*routed) else { return Pause::Done(Flow::Continue(())) };
        let steps = route.plan.steps.get(from..).unwrap_or_default();
        let Some(mut stage) = steps.first().map(|step| step.stage) else { return Pause::Done(Flow::Continue(())) };
        let mut since = Instant::now();
        let mut pause = Pause::Done(Flow::Continue(()));
        let steps_behind = |number| route.plan.steps.get(number..).unwrap_or_default();
        for (number, step) in (from..).zip(steps) {
            if let Some(service) = step.service {
                let chosen = *share.get_or_insert_with(|| route.answer.choose(head, exchange.client));
                outcome.service = Some(chosen);
                if chosen != service {
                    continue;
                }
            }
            if step.stage != stage {
                let now = Instant::now();
                exchange.spent(stage, now - since);
                (stage, since) = (step.stage, now);
            }
            let flow = match &step.work {
                // A body that is to be expected is waited for once it is known whose it is, as it is read then.
                Work::Head(run)
                    if unsettled
                        && run.asks_for_body()
                        && !(WITH_BODY.contains(&head.method) && asks_who(steps_behind(number))) =>
                {
                    pause = Pause::Settle(number);
                    break;
                }
                Work::Head(run) => run.on_request(head, exchange),
                Work::Wait(run) => match run.at_once(head, exchange) {
                    Some(flow) => flow,
                    None => {
                        pause = Pause::Wait(number);
                        break;
                    }
                },
                Work::Body(run) if !run.wants(head) => continue,
                Work::Body(_) => {
                    pause = Pause::Body(number);
                    break;
                }
                Work::View => {
                    pause = Pause::View;
                    break;
                }
            };
            if flow.is_break() {
                pause = Pause::Done(flow);
                break;
            }
        }
        exchange.spent(stage, since.elapsed());
        pause
    }

    /// Waits with the step of that number, for as long as the client and the request's time last.
    pub async fn wait(&mut self, number: usize, client: &mut impl Client, caller: &Caller) -> Flow {
        let limit = self.deadline().unwrap_or(Duration::MAX);
        let since = Instant::now();
        let Journey { view, routed, head, exchange, .. } = self;
        let step = view.route(*routed).and_then(|route| route.plan.steps.get(number));
        let Some((Work::Wait(run), stage)) = step.map(|step| (&step.work, step.stage)) else { return Flow::Continue(()) };
        let engine = Engine { caller, tls: &view.tls, services: &view.snapshot.services };
        let flow = tokio::select! {
            biased;
            flow = tokio::time::timeout(limit, run.wait(head, exchange, engine)) => flow.map_err(|_| ()),
            _ = client.gone() => Ok(client_gone()),
        };
        exchange.spent(stage, since.elapsed());
        flow.unwrap_or_else(|()| self.out_of_time().refuse())
    }

    /// Shows the body to the step of that number. It is read whole by the first step that wants it; 413 beyond the smallest bound of
    /// all that will.
    pub async fn body(&mut self, number: usize, client: &mut impl Client) -> Flow {
        let limit = self.deadline().unwrap_or(Duration::MAX);
        let since = Instant::now();
        let Some(route) = self.route() else { return no_route() };
        let wanting = route.plan.steps.iter().skip(number).filter_map(|step| match &step.work {
            Work::Body(run) if run.wants(&self.head) => Some((run, step.name)),
            _ => None,
        });
        // Those that let longer ones pass do not bound it, but for themselves.
        let bounding = wanting.filter(|(run, _)| !run.passes_longer()).map(|(run, name)| (run.bound(), name));
        let (mut bound, mut by) = bounding.min().unwrap_or((usize::MAX, BOUNDS));
        // Of a call each message is bounded, and not the whole.
        if let Ok(most) = usize::try_from(self.max_body())
            && most <= bound
            && !self.is_call()
        {
            (bound, by) = (most, BOUNDS);
        }
        self.check_length(bound as u64, by)?;
        let own = match route.plan.steps.get(number).map(|step| &step.work) {
            Some(Work::Body(run)) if run.passes_longer() => Some(run.bound()).filter(|own| *own < bound),
            _ => None,
        };
        let reading = async {
            match own {
                Some(own) => client.try_body(own).await,
                None => client.buffer_body(bound).await.map(Some),
            }
        };
        let body = match tokio::time::timeout(limit, reading).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) if error.etype == BODY_TOO_LARGE => return too_large_for(by).closing().refuse(),
            Ok(Err(error)) => return body_refusal(&error.etype).map_or_else(client_gone, Reply::refuse),
            Err(_) => return body_refusal(&BODY_TIMEOUT).map_or_else(client_gone, Reply::refuse),
        };
        let whole = usize::try_from(self.max_body()).ok().filter(|_| !self.is_call()).unwrap_or(usize::MAX);
        let Journey { view, routed, head, exchange, content, .. } = self;
        let step = view.route(*routed).and_then(|route| route.plan.steps.get(number));
        let Some(step) = step else { return Flow::Continue(()) };
        let Work::Body(run) = &step.work else { return Flow::Continue(()) };
        let shown = match &body {
            None => None,
            Some(body) if !run.reads_content() => Some(Shown { content: body.clone(), several: false }),
            Some(body) => match content::behind(content, head, body, run.bound().min(whole), client) {
                Ok(shown) => Some(shown),
                Err(hidden) if !hidden.is_unreadable() && run.passes_longer() => None,
                Err(hidden) => {
                    exchange.spent(step.stage, since.elapsed());
                    let known = if hidden.is_unreadable() { run.on_unreadable(head, exchange) } else { None };
                    return known.unwrap_or_else(|| hidden.reply(step.name).refuse());
                }
            },
        };
        let flow = match &shown {
            Some(shown) => run.on_body(head, &shown.content, exchange),
            None => {
                run.on_longer(exchange);
                Flow::Continue(())
            }
        };
        exchange.spent(step.stage, since.elapsed());
        let in_parts = shown.filter(|shown| shown.several).map(|shown| shown.content);
        let Some(other) = exchange.new_body.take().or(in_parts) else { return flow };
        drop(body);
        content::replaced(content, head, exchange);
        head.body = BodyFraming::Length(other.len() as u64);
        match client.replace_body(other) {
            Ok(()) => flow,
            Err(error) => body_refusal(&error.etype).map_or_else(client_gone, Reply::refuse),
        }
    }

    /// Whether nobody knows yet if there is a body, and it can be found out: who waits for a word before he sends one has one, and a call's
    /// first message may come after the service's.
    pub fn is_unsettled(&self) -> bool {
        let RequestHead { body, expects_continue, upgrade, .. } = &*self.head;
        *body == BodyFraming::Streamed && !expects_continue && !upgrade && !self.is_call()
    }

    /// Finds out whether a body of unknown length is one, for as long as the request's time lasts: where nothing came but its end, nothing was sent
    /// (RFC 9113, section 8.1).
    pub async fn settle_body(&mut self, client: &mut impl Client) -> Flow {
        client.limit_body(self.max_body());
        self.await_body(client).await?;
        if client.body_is_empty() {
            self.head.body = BodyFraming::None;
        }
        Flow::Continue(())
    }

    /// Whether the route wants the whole body before it asks a backend.
    pub fn buffers_request(&self) -> bool {
        self.route().is_some_and(|route| route.buffer_request && !route.answer.services().is_empty())
            && !self.head.upgrade
            && !self.is_grpc()
    }

    /// Reads the whole body, for as long as the request's time lasts.
    pub async fn buffer_request(&self, client: &mut impl Client) -> Flow {
        let bound = usize::try_from(self.max_body()).unwrap_or(usize::MAX);
        self.in_time(async { client.buffer_body(bound).await.map(drop) }).await
    }

    /// Whether the body has to have begun before a backend is asked. Not where the backend's word comes first, or may.
    pub fn awaits_body(&self) -> bool {
        // Where nobody is asked, nobody needs it.
        let asks = self.route().is_some_and(|route| !route.answer.services().is_empty());
        let interactive = !asks || self.head.expects_continue || self.head.upgrade || self.is_call() || self.expects_stream();
        !interactive && self.head.body.is_some()
    }

    /// Waits for the beginning of the body, for as long as the request's time lasts.
    pub async fn await_body(&self, client: &mut impl Client) -> Flow {
        self.in_time(client.await_body(self.head.body)).await
    }

    async fn in_time(&self, reading: impl Future<Output = pingora_error::Result<()>>) -> Flow {
        match tokio::time::timeout(self.deadline().unwrap_or(Duration::MAX), reading).await {
            Ok(Ok(())) => Flow::Continue(()),
            Ok(Err(error)) => body_refusal(&error.etype).map_or_else(client_gone, Reply::refuse),
            Err(_) => self.out_of_time().closing().refuse(),
        }
    }

    /// The longest body this request may have.
    pub fn max_body(&self) -> u64 {
        self.route().and_then(|route| route.plan.options.max_body).unwrap_or(self.bounds.body)
    }

    /// A body that is announced as too long for this route is refused before anything else is done.
    pub fn check_announced_length(&self) -> Flow {
        self.check_length(self.max_body(), BOUNDS)
    }

    /// A declared length can be refused before a byte of it is read.
    fn check_length(&self, bound: u64, by: &'static str) -> Flow {
        match self.head.body {
            // Of a browser's call each message is bounded, and it may be in base64.
            BodyFraming::Length(length) if length > bound && !self.is_web_call() => too_large_for(by).refuse(),
            _ => ControlFlow::Continue(()),
        }
    }
}
