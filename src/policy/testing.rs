//! Compiling a policy from a few lines, for the policies' unit tests.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use serde_json::Value;

use crate::consumers::Consumers;
use crate::exchange::Exchange;
use crate::head::{HeaderEdits, RequestHead};
use crate::ledger::Ledger;
use crate::policy::{Compile, OnResponse, Outgoing, Plan, PlanBuilder, Policy};
use crate::problem::{Place, Problem, Problems};
use crate::reply::{Flow, Reply};
use crate::tally::Tallies;
use crate::upstream::call::{Caller, Engine};
use crate::upstream::{Service, TlsConnector};
use crate::wire::answer;
use crate::wire::view::AnswerView;

/// What a policy is compiled in, with nothing behind it that runs.
pub fn context<'a>(
    problems: &'a mut Problems,
    scope: &'a str,
    ledger: &'a Ledger,
    consumers: &'a Arc<Consumers>,
    base: &'a Path,
) -> Compile<'a> {
    static TALLIES: LazyLock<Arc<Tallies>> = LazyLock::new(Default::default);
    Compile {
        problems,
        place: Place::NOWHERE,
        scope,
        ledger,
        consumers,
        base,
        quota_log: Path::new("quotas.log"),
        tallies: &TALLIES,
        prefix: "",
        background: None,
        redis: None,
        services: &[],
        faults: false,
        redis_written: false,
    }
}

/// Calls nobody: there are no services.
pub fn engine() -> Engine<'static> {
    type Alone = (Caller, Arc<TlsConnector>, BTreeMap<Arc<str>, Arc<Service>>);
    static ALONE: LazyLock<Alone> = LazyLock::new(Default::default);
    let (caller, tls, services) = &*ALONE;
    Engine { caller, tls, services }
}

/// The policy, or what is wrong with it.
pub fn compile<P: Policy>(config: Value) -> Result<P, Vec<Problem>> {
    compile_with(&Ledger::default(), "route:/test", config)
}

pub fn compile_with<P: Policy>(ledger: &Ledger, scope: &str, config: Value) -> Result<P, Vec<Problem>> {
    let config: P::Config = match serde_json::from_value(config) {
        Ok(config) => config,
        Err(error) => return Err(vec![Problem::error(Place::NOWHERE, error.to_string())]),
    };
    let mut problems = Problems::default();
    let consumers = Arc::default();
    let mut cx = context(&mut problems, scope, ledger, &consumers, Path::new("."));
    let compiled = P::compile(&config, &mut cx);
    match compiled {
        Some(policy) if !problems.has_errors() => Ok(policy),
        _ => {
            assert!(problems.has_errors(), "a policy that is refused says why");
            Err(problems.iter().cloned().collect())
        }
    }
}

/// The first message of what is wrong.
pub fn complaint<P: Policy>(config: Value) -> String {
    match compile::<P>(config) {
        Ok(_) => panic!("compiled"),
        Err(problems) => problems.first().unwrap().message.clone(),
    }
}

/// A plan with this one policy.
pub fn plan<P: Policy>(policy: P) -> Plan {
    let mut builder = PlanBuilder::new();
    builder.add(Arc::new(policy));
    builder.finish()
}

/// What a step does with the answer to this request that has this head (`HTTP/1.1 200 OK\r\n...\r\n\r\n`): its changes to the fields, or the
/// answer that it gives instead.
pub fn answered(step: &dyn OnResponse, request: &RequestHead, head: &str) -> Result<HeaderEdits, Box<Reply>> {
    let came = answer::take(&mut BytesMut::from(head), &request.method, &Default::default()).unwrap().unwrap();
    let (exchange, mut edits) = (Exchange::for_tests(), HeaderEdits::new());
    let flow = step.on_response(&mut Outgoing::new(request, &exchange, AnswerView::from(&*came), false, &mut edits));
    match flow {
        Flow::Continue(()) => Ok(edits),
        Flow::Break(reply) => Err(reply),
    }
}
