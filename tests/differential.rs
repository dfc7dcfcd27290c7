//! Thousands of requests, honest and hostile, each to two gateways alike: neither the client nor the backend may see a difference, nothing
//! may hang, and nothing may reach a backend that belongs to no request. What differs is decided by luck, which a gateway must not be.
//!
//! Each gateway has a backend of its own that follows the case's script and writes down every byte. Cases are made from a seed: always the
//! same one, so that a failure is about a change and not about luck, unless another is named:
//!
//! ```sh
//! PORTCULLIS_SEED=42 make test TESTS=differential                          # other cases
//! PORTCULLIS_SEED=42 PORTCULLIS_CASE=17 make test TESTS=differential       # one of them
//! PORTCULLIS_CASES=100000 make test TESTS=differential                     # a long hunt
//! ```

mod backend;
mod case;
mod client;
mod compare;
mod generate;
#[rustfmt::skip]
mod words;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use backend::{Backend, Scripts};
use case::Case;
use compare::{Behaviour, excused};

use pingora_core::tls::ssl::{SslAcceptor, SslFiletype, SslMethod};

use crate::harness::{Files, Gateway};

const CASES: usize = 3200;
/// So many of them also to a gateway with features that must make no difference.
const CROSSED: usize = 1200;
/// And to one that reaches its services over TLS.
const SECURED: usize = 1200;
/// Most of a case is waiting.
const AT_ONCE: usize = 48;
/// A machine that stalls may make one of the gateway's limits strike on one of them alone; it does not do so again and again.
const REPEATS: usize = 3;

const YAML: &str = "
listeners:
  - bind: 127.0.0.1:$PORT
    timeouts: { header: 1s, body: 1s, keep_alive: 1s, write: 1s }
    ambiguous_paths: SPELLING
server: { workers: 2 }
services:
  backend: { endpoints: [ '127.0.0.1:BACKEND'MORE ], timeouts: { connect: 5s, response: 1500ms, write: 1500ms } SECURED }
SOLO_SERVICES
consumers:
  - { name: known, api_keys: [ { hash: 'sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08' } ] }
policies:
  response_headers: { set: { X-Frame-Options: DENY }, remove: [ X-Removed ] }
POLICIES
routes:
  - { path: /s/*, service: backend CACHED }
  - path: /edit/*
    service: backend
    strip_prefix: /edit
    policies:
      request_headers: { set: { X-Set: '{client_address} {host}' }, add: { X-Added: '{request_id}', Cookie: gate=1 }, remove: [ X-Removed, User-Agent ] }
      response_headers: { set: { X-R: gate, Set-Cookie: gate=1 }, add: { X-Added: a, Vary: Origin }, remove: [ Server, Date ] }
  - { path: /rewritten/*, service: backend, strip_prefix: /rewritten, rewrite_host: inner.example }
  - { path: /small/*, service: backend, strip_prefix: /small, policies: { bounds: { max_body: 1KiB } } }
  - { path: /json/*, service: backend, strip_prefix: /json, policies: { validate: { json: true } } }
  - { path: /key/*, service: backend, strip_prefix: /key, policies: { authn: { api_key: { query: key } } } }
  - { path: /get/*, methods: [GET], service: backend }
SOLO_ROUTES
";

struct Subject {
    gateway: Gateway,
    backend: Backend,
    /// Lets everybody in.
    _doorman: crate::harness::Backend,
    _files: Files,
}

/// What a gateway has beside what the cases are about.
#[derive(Clone, Copy, PartialEq)]
enum Beside {
    Nothing,
    /// Features that must make no difference to a request that they let pass: somebody else is asked first, a second endpoint takes every
    /// other request, and what the cache looks for and does not store goes the way of its fills.
    AllowedSplitAndNotStored,
    /// TLS on the way to the services.
    Secured,
}

impl Subject {
    fn start(scripts: &Arc<Scripts>, beside: Beside, spelling: &str) -> Subject {
        let files = Files::new();
        let (cert, key, _) = files.certificate(&["inner.example"]);
        let tls = (beside == Beside::Secured).then(|| {
            let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
            acceptor.set_certificate_chain_file(&cert).unwrap();
            acceptor.set_private_key_file(&key, SslFiletype::PEM).unwrap();
            acceptor.build()
        });
        let backend = Backend::start(scripts.clone(), generate::SOLO + 1, tls.as_ref());
        let secured = tls.map_or(String::new(), |_| format!(", tls: {{ ca: '{}', server_name: inner.example }}", cert.display()));
        let doorman = crate::harness::Backend::http();
        let (mut services, mut routes) = (String::new(), String::new());
        for number in 0..generate::SOLO {
            let endpoint = format!("127.0.1.{}:{}", number + 1, backend.port());
            let timeouts = "timeouts: { connect: 5s, response: 1500ms, write: 1500ms }";
            let _ = writeln!(services, "  solo{number}: {{ endpoints: [ '{endpoint}' ], {timeouts} SECURED }}");
            let _ = writeln!(routes, "  - {{ path: /solo{number}/*, service: solo{number} }}");
        }
        let (mut policies, mut more, mut cached) = (String::new(), String::new(), "");
        if beside == Beside::AllowedSplitAndNotStored {
            policies = format!("  external_auth: {{ url: 'http://127.0.0.1:{}/' }}\n", doorman.port());
            more = format!(", '127.0.1.{}:BACKEND'", generate::SOLO + 1);
            // No answer has this status.
            cached = ", policies: { cache: { ttl: 1s, statuses: [ 299 ] } }";
        }
        let yaml = YAML
            .replace("SPELLING", spelling)
            .replace("POLICIES\n", &policies)
            .replace("MORE", &more)
            .replace("CACHED", cached)
            .replace("SOLO_SERVICES\n", &services)
            .replace("SOLO_ROUTES\n", &routes)
            .replace(" SECURED", &secured)
            .replace("BACKEND", &backend.port().to_string());
        Subject { gateway: Gateway::start(&yaml), backend, _doorman: doorman, _files: files }
    }

    fn behaviour(&self, case: &Case) -> Behaviour {
        let port = self.gateway.port();
        let heard = client::play(case, port, &self.backend);
        Behaviour::of(case, port, &heard, &self.backend.settled(case.number))
    }
}

fn number(name: &str) -> Option<usize> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text}, which is no number")))
}

#[test]
fn the_same_requests_meet_the_same_behaviour() {
    compared(CASES, Beside::Nothing);
}

#[test]
fn what_lets_a_request_pass_makes_no_difference_to_it() {
    compared(CROSSED, Beside::AllowedSplitAndNotStored);
}

#[test]
fn tls_to_services_makes_no_difference_to_a_request() {
    compared(SECURED, Beside::Secured);
}

fn compared(cases: usize, beside: Beside) {
    let seed = number("PORTCULLIS_SEED").unwrap_or(1);
    eprintln!("PORTCULLIS_SEED={seed}");
    let numbers: Vec<usize> = match number("PORTCULLIS_CASE") {
        Some(one) => vec![one],
        None => (0..number("PORTCULLIS_CASES").unwrap_or(cases)).collect(),
    };
    // What could judge another spelling of a path otherwise refuses it, and somebody else who is asked could.
    let spelling = if beside == Beside::AllowedSplitAndNotStored { "keep" } else { "auto" };
    let cases: Vec<Case> = numbers.iter().map(|&number| generate::case(seed as u64, number)).collect();
    let scripts: Arc<Scripts> = Arc::new(cases.iter().map(|case| (case.number, case.scripts.clone())).collect());
    let (one, other) = (Subject::start(&scripts, Beside::Nothing, spelling), Subject::start(&scripts, beside, spelling));
    let tally = run(&cases, &one, &other);
    // By target, so that what was never meant to get anywhere is at least the same at both.
    let strays = |subject: &Subject| {
        let mut all: Vec<_> = subject.backend.strays().into_iter().map(|seen| seen.head.escape_ascii().to_string()).collect();
        all.sort();
        all
    };
    eprintln!("{} cases, {:?}", cases.len(), tally.kinds);
    for (reason, count) in &tally.excused {
        eprintln!("{count} excused: {reason}");
    }
    for subject in [&one, &other] {
        assert!(!subject.gateway.stderr().contains("panicked"), "{}", subject.gateway.stderr());
        assert_eq!(subject.gateway.admin_get("/healthz").0, 200);
    }
    let shown: Vec<String> = tally.failures.iter().take(40).cloned().collect();
    assert!(
        shown.is_empty(),
        "PORTCULLIS_SEED={seed}: {} of {} differ\n\n{}",
        tally.failures.len(),
        cases.len(),
        shown.join("\n")
    );
    assert_eq!(strays(&one).len(), strays(&other).len(), "requests that belong to no case");
}

#[derive(Default)]
struct Tally {
    /// Cases, and how many of them reached a backend, by kind.
    kinds: BTreeMap<&'static str, (usize, usize)>,
    excused: BTreeMap<&'static str, usize>,
    failures: Vec<String>,
}

fn run(cases: &[Case], one: &Subject, other: &Subject) -> Tally {
    let tally = Mutex::new(Tally::default());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(case, one, other, &tally);
                }
            });
        }
    });
    tally.into_inner().unwrap()
}

fn check(case: &Case, one: &Subject, other: &Subject, tally: &Mutex<Tally>) {
    for repeat in 1.. {
        let (first, second) = (one.behaviour(case), other.behaviour(case));
        let mut tally = tally.lock().unwrap();
        if repeat == 1 {
            let kind = tally.kinds.entry(case.kind).or_default();
            kind.0 += 1;
            kind.1 += usize::from(!first.backend.is_empty());
        }
        let as_it_must = case.must.is_none_or(|begin| first.answers(begin));
        if first == second && !first.hung && as_it_must {
            return;
        }
        if as_it_must && let Some(reason) = excused(case, &first, &second) {
            *tally.excused.entry(reason).or_default() += 1;
            return;
        }
        if repeat == REPEATS {
            let both = format!("  by the first\n{}  by the second\n{}", first.show(), second.show());
            let alone = number("PORTCULLIS_CASE").is_some() || first == second;
            let what = if alone { both } else { first.difference(&second) };
            tally.failures.push(format!("{}{what}", case.describe()));
            return;
        }
    }
}
