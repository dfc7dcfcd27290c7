//! What a service's methods are, where the service itself is asked ([`crate::transcode::reflection`]): by its watcher, in the background, again
//! and again. What was known stays until something better is; nothing waits for an answer.

mod ask;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use log::{error, info, warn};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::call::Caller;
use super::{Kept, Service, TlsConnector};
use crate::problem::{Problem, Problems};
use crate::tally::{Counter, Gauge, Tallies};
use crate::transcode::Transcoder;
use crate::transcode::config::{ReflectionConfig, TranscodeConfig};
use crate::transcode::reflection::Learned;
use crate::value::{Spanned, period_within};

/// How soon a service is asked again that could not be asked, the first time.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The most of a text by others that is told.
const MOST_SAID: usize = 400;
const DAY: u64 = 24 * 3_600_000;

/// What requests mean that are no calls of gRPC's.
#[derive(Debug, Clone)]
pub enum Transcoding {
    Fixed(Arc<Transcoder>),
    Reflected(Arc<Reflection>),
}

impl Transcoding {
    /// Compiles what a service says. `None` only if there was a problem.
    pub fn compile(
        config: &Spanned<TranscodeConfig>,
        (service, base): (&str, &Path),
        problems: &mut Problems,
        kept: Kept<'_>,
    ) -> Option<Transcoding> {
        match &config.reflection.0 {
            None => {
                let transcoder = Transcoder::compile(config, base, problems)?;
                Some(Transcoding::Fixed(Arc::new(transcoder.counted(service, kept.tallies))))
            }
            Some(how) => {
                Reflection::compile(config, how, service, problems, kept).map(|one| Transcoding::Reflected(Arc::new(one)))
            }
        }
    }

    /// `None` as long as nothing is known.
    pub fn now(&self) -> Option<Arc<Transcoder>> {
        match self {
            Transcoding::Fixed(transcoder) => Some(transcoder.clone()),
            Transcoding::Reflected(reflection) => reflection.now.load_full(),
        }
    }

    /// Whether clients speak gRPC, and the service REST.
    pub fn serves_grpc(&self) -> bool {
        matches!(self, Transcoding::Fixed(transcoder) if transcoder.serves_grpc())
    }

    /// How it stands, where that changes.
    pub fn view(&self) -> Option<ReflectionView> {
        match self {
            Transcoding::Fixed(_) => None,
            Transcoding::Reflected(reflection) => Some(reflection.view()),
        }
    }
}

/// That a service is asked, and what for.
pub struct Reflection {
    config: Spanned<TranscodeConfig>,
    /// Tells two configurations apart.
    print: blake3::Hash,
    refresh: Duration,
    service: Box<str>,
    tallies: Arc<Tallies>,
    /// By the rules of this generation, and by no others: what a reload closes is closed with it.
    now: ArcSwapOption<Transcoder>,
    /// It outlives generations: a reload asks anew only where it says something new.
    known: Arc<Known>,
}

impl std::fmt::Debug for Reflection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reflection").field("service", &self.service).field("refresh", &self.refresh).finish_non_exhaustive()
    }
}

/// What is known of a service's methods.
struct Known {
    /// Written by the service's watcher alone.
    state: Mutex<State>,
    learned: Arc<Counter>,
    unchanged: Arc<Counter>,
    failed: Arc<Counter>,
    methods: Arc<Gauge>,
}

#[derive(Default)]
struct State {
    /// What the service said the last time that it could be used.
    learned: Option<Arc<Learned>>,
    /// What that came to, and under which configuration.
    made: Option<(blake3::Hash, Arc<Transcoder>)>,
    /// Why what it said last cannot be used, or why it has said nothing.
    why: Option<String>,
}

/// How it stands, for the admin API.
#[derive(Clone, Debug, Serialize)]
pub struct ReflectionView {
    /// Nothing is known of the service's methods as long as this is false.
    pub known: bool,
    pub methods: usize,
    pub services: Vec<String>,
    /// Why what is known could not be refreshed the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
}

impl Known {
    fn new(service: &str, tallies: &Tallies) -> Self {
        let help = "Times that a service was asked for its methods by gRPC's reflection, by what came of it.";
        let count =
            |outcome| tallies.counter("portcullis_reflections_total", help, &[("service", service), ("outcome", outcome)]);
        let help = "Methods that are known of a service that is asked for them by gRPC's reflection.";
        Known {
            state: Mutex::default(),
            learned: count("learned"),
            unchanged: count("unchanged"),
            failed: count("failed"),
            methods: tallies.gauge("portcullis_reflected_methods", help, &[("service", service)]),
        }
    }
}

impl Reflection {
    fn compile(
        config: &Spanned<TranscodeConfig>,
        how: &ReflectionConfig,
        service: &str,
        problems: &mut Problems,
        kept: Kept<'_>,
    ) -> Option<Reflection> {
        let refresh = period_within("refresh", &how.refresh, 1000, DAY, problems);
        Transcoder::check(config, problems)?;
        let print = blake3::hash(format!("{config:?}").as_bytes());
        let known = kept.ledger.keep(&format!("service:{service}:reflection"), || Known::new(service, kept.tallies));
        let (made, learned) = {
            let state = known.state.lock();
            (state.made.clone(), state.learned.clone())
        };
        let now = match (made, learned) {
            (Some((known, transcoder)), _) if known == print => Some(transcoder),
            // Rules that do not fit what is known are a problem of the file, as those for files of descriptors.
            (_, Some(learned)) => match Transcoder::reflected(config, &learned) {
                Ok(transcoder) => Some(Arc::new(transcoder.counted(service, kept.tallies))),
                Err(why) => {
                    let problem =
                        Problem::error(config.place, format!("what the service says of its methods does not fit: {why}"));
                    problems.push(problem.hint("it is asked again after each `refresh`"));
                    return None;
                }
            },
            _ => None,
        };
        Some(Reflection {
            print,
            config: config.clone(),
            refresh: refresh?,
            service: service.into(),
            tallies: kept.tallies.clone(),
            now: ArcSwapOption::new(now),
            known,
        })
    }

    fn view(&self) -> ReflectionView {
        let (now, state) = (self.now.load(), self.known.state.lock());
        ReflectionView {
            known: now.is_some(),
            methods: now.as_ref().map_or(0, |transcoder| transcoder.methods()),
            services: state.learned.as_ref().map(|learned| learned.services.clone()).unwrap_or_default(),
            failing: state.why.clone(),
        }
    }

    /// Takes what another generation of the same rules has learned meanwhile.
    fn catch_up(&self) {
        let made = self.known.state.lock().made.clone();
        if let Some((_, transcoder)) = made.filter(|(print, _)| *print == self.print) {
            self.now.store(Some(transcoder));
        }
    }

    /// Compiles what the service has said, on a thread where that may take its time.
    async fn uses(self: &Arc<Self>, learned: Arc<Learned>) -> Result<(), String> {
        let of = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            let transcoder = Transcoder::reflected(&of.config, &learned)?;
            Ok::<_, String>((Arc::new(transcoder.counted(&of.service, &of.tallies)), learned))
        });
        let (transcoder, learned) = made.await.map_err(|_| "it cannot be compiled".to_owned())??;
        let methods = transcoder.methods();
        self.now.store(Some(transcoder.clone()));
        self.known.methods.set(methods as u64);
        let mut state = self.known.state.lock();
        (state.learned, state.made) = (Some(learned), Some((self.print, transcoder)));
        Ok(())
    }

    /// Asks the service, and uses what it says.
    async fn refresh(self: Arc<Self>, service: &Service, asker: &Asker) -> bool {
        let said =
            ask::ask(service, &asker.caller, &asker.tls, self.config.services.iter().map(|name| name.value.clone()).collect());
        let outcome = match said.await {
            Ok(learned) => {
                let same = {
                    let state = self.known.state.lock();
                    let under = state.made.as_ref().map(|(print, _)| *print);
                    under == Some(self.print) && state.learned.as_deref() == Some(&learned)
                };
                if same { Ok(false) } else { self.uses(Arc::new(learned)).await.map(|()| true) }
            }
            Err(why) => Err(why),
        };
        self.note(outcome)
    }

    fn note(&self, outcome: Result<bool, String>) -> bool {
        let (name, known) = (&self.service, &self.known);
        let counter = match &outcome {
            Ok(true) => &known.learned,
            Ok(false) => &known.unchanged,
            Err(_) => &known.failed,
        };
        counter.add(1);
        let fine = outcome.is_ok();
        let why = outcome.as_ref().err().map(|why| plain(why));
        let before = std::mem::replace(&mut known.state.lock().why, why.clone());
        match (outcome, why) {
            (Ok(true), _) => info!("service `{name}`: its methods are known by reflection, {} of them", known.methods.get()),
            (Ok(false), _) if before.is_some() => {
                info!("service `{name}`: its methods can be asked for again, and are as they were")
            }
            (_, Some(why)) if before.as_ref() != Some(&why) => {
                let left = match self.now.load().is_some() {
                    true => "what was known stays",
                    false => "nothing is known of them yet, and requests of REST are answered 503",
                };
                warn!("service `{name}`: its methods cannot be had by reflection, {left}: {why}");
            }
            _ => {}
        }
        fine
    }
}

/// What others say, on one line and in bounds.
fn plain(said: &str) -> String {
    let mut text: String =
        said.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|char| !char.is_control()).collect();
    if let Some((end, _)) = text.char_indices().nth(MOST_SAID) {
        text.truncate(end);
    }
    text
}

/// What services are asked with.
#[derive(Default)]
pub struct Asker {
    caller: Caller,
    tls: Arc<TlsConnector>,
}

impl Asker {
    /// Closes connections that have been idle too long.
    pub fn sweep(&self) {
        self.caller.sweep();
    }
}

/// When one service is asked.
#[derive(Default)]
pub struct Reflecting {
    print: Option<blake3::Hash>,
    due: Option<Instant>,
    wait: Duration,
    pub task: JoinSet<bool>,
}

impl Reflecting {
    /// Asks if it is time. Tells when it is time again.
    pub fn turn(&mut self, service: &Arc<Service>, asker: &Arc<Asker>) -> Option<Instant> {
        let Some(Transcoding::Reflected(reflection)) = service.transcoding() else {
            if self.print.take().is_some() {
                self.task.abort_all();
            }
            return None;
        };
        reflection.catch_up();
        let now = Instant::now();
        if self.print != Some(reflection.print) {
            // Whoever is asked already is asked what nobody wants to know any more.
            self.task.abort_all();
            (self.print, self.due, self.wait) = (Some(reflection.print), Some(now), FIRST_WAIT);
        }
        if self.task.is_empty() && self.due.is_some_and(|due| due <= now) {
            self.due = None;
            let (reflection, service, asker) = (reflection.clone(), service.clone(), asker.clone());
            self.task.spawn(async move { reflection.refresh(&service, &asker).await });
        }
        self.due
    }

    /// Takes in that it was asked.
    pub fn ended(&mut self, ended: Result<bool, JoinError>, service: &Service, varied: impl Fn(Duration) -> Duration) {
        let Some(Transcoding::Reflected(reflection)) = service.transcoding() else { return };
        let fine = match ended {
            Ok(fine) => fine,
            // It is due already.
            Err(ended) if ended.is_cancelled() => return,
            Err(ended) => {
                error!("a question for methods ended badly, and is asked again: {ended}");
                false
            }
        };
        let wait = match fine {
            true => {
                self.wait = FIRST_WAIT;
                reflection.refresh
            }
            false => {
                let wait = self.wait;
                self.wait = (wait * 2).min(LONGEST_WAIT);
                wait.min(reflection.refresh)
            }
        };
        self.due = Some(Instant::now() + varied(wait));
    }
}
