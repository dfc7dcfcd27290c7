use super::*;
use crate::problem::Problems;

/// A breaker, its rules, and a clock.
struct Bench {
    breaker: Arc<Breaker>,
    rules: Rules,
    now: Instant,
}

fn bench(yaml: &str) -> Bench {
    let config: config::BreakerConfig = serde_yaml::from_str(yaml).unwrap();
    let rules = config.compile(&mut Problems::default()).unwrap();
    Bench { breaker: Arc::default(), rules, now: Instant::now() }
}

impl Bench {
    fn enter(&self) -> Option<Pass> {
        self.breaker.enter(&self.rules, || self.now).0.ok()
    }

    fn note(&self, pass: &mut Pass, failed: bool, slow: bool) {
        self.breaker.note(&self.rules, pass, failed, slow, self.now);
    }

    /// Attempts and failures within the window.
    fn seen(&self) -> (u64, u64) {
        let (all, failed, _) = self.breaker.sums(&self.rules, self.breaker.part(&self.rules, millis(self.now)));
        (all, failed)
    }

    /// Whether an attempt was let through that ends like this.
    fn attempt(&self, failed: bool) -> bool {
        let Some(mut pass) = self.enter() else { return false };
        self.note(&mut pass, failed, false);
        true
    }

    fn later(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn state(&self) -> State {
        self.breaker.state()
    }
}

const PLAIN: &str = "{ min_requests: 10, open_for: 5s, probes: 3 }";

#[test]
fn a_share_opens_it_only_with_enough_attempts_and_within_the_window() {
    let mut bench = bench(PLAIN);
    assert!((0..9).all(|_| bench.attempt(true)));
    assert_eq!(bench.state(), State::Closed);
    // The window has passed: nine failures of then say nothing now.
    bench.later(11_000);
    assert!((0..6).all(|_| bench.attempt(false)));
    assert!((0..5).all(|_| bench.attempt(true)));
    assert_eq!(bench.state(), State::Closed, "5 of 11");
    assert!(bench.attempt(true));
    assert_eq!(bench.state(), State::Open, "6 of 12");
    assert!(!bench.attempt(false));
    assert_eq!(bench.breaker.open_left(bench.now), Some(Duration::from_secs(5)));
}

#[test]
fn it_closes_after_as_many_good_probes_as_it_lets_through() {
    let mut bench = bench(PLAIN);
    (0..10).for_each(|_| assert!(bench.attempt(true)));
    bench.later(4999);
    assert!(bench.enter().is_none());
    bench.later(1);
    let mut probes: Vec<_> = (0..3).map(|_| bench.enter().expect("a probe")).collect();
    assert!(bench.enter().is_none(), "no fourth");
    assert_eq!(bench.state(), State::HalfOpen);
    // One whose client goes away decides nothing, and leaves its place to another.
    drop(probes.pop());
    probes.push(bench.enter().expect("its place"));
    for pass in &mut probes {
        bench.note(pass, false, false);
    }
    assert_eq!(bench.state(), State::Closed);
    // What was counted before is forgotten.
    bench.later(1001);
    assert!((0..9).all(|_| bench.attempt(true)));
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn one_bad_probe_opens_it_again_and_late_ones_decide_nothing() {
    let mut bench = bench(PLAIN);
    let mut early = bench.enter().unwrap();
    (0..10).for_each(|_| assert!(bench.attempt(true)));
    bench.later(5000);
    let (mut one, mut two) = (bench.enter().unwrap(), bench.enter().unwrap());
    bench.note(&mut early, true, false);
    assert_eq!(bench.state(), State::HalfOpen, "begun before it opened");
    bench.note(&mut one, true, false);
    assert_eq!(bench.state(), State::Open);
    bench.later(5000);
    bench.note(&mut two, true, false);
    assert!(bench.attempt(false));
    assert_eq!(bench.state(), State::HalfOpen);
}

#[test]
fn probes_that_come_to_nothing_do_not_block_it() {
    let mut bench = bench(PLAIN);
    (0..10).for_each(|_| assert!(bench.attempt(true)));
    bench.later(5000);
    let streams: Vec<_> = (0..3).map(|_| bench.enter().unwrap()).collect();
    assert!(bench.enter().is_none());
    bench.later(5000);
    let others: Vec<_> = (0..3).map(|_| bench.enter().expect("another wave")).collect();
    // Those of the wave before have no place to give back.
    drop(streams);
    assert!(bench.enter().is_none());
    drop(others);
    assert!(bench.enter().is_some());
}

#[test]
fn a_probe_that_is_lost_does_not_hold_the_others() {
    let mut bench = bench(PLAIN);
    (0..10).for_each(|_| assert!(bench.attempt(true)));
    bench.later(5000);
    let lost = bench.enter().unwrap();
    assert!((0..3).all(|_| bench.attempt(false)));
    assert_eq!(bench.state(), State::Closed, "three did well");
    drop(lost);
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn probes_that_take_longer_than_it_stays_open_still_count() {
    let mut bench = bench("{ min_requests: 10, open_for: 100ms, probes: 2 }");
    (0..10).for_each(|_| assert!(bench.attempt(true)));
    bench.later(100);
    let mut probes: Vec<_> = (0..2).map(|_| bench.enter().unwrap()).collect();
    for _ in 0..2 {
        bench.later(100);
        probes.extend((0..2).map(|_| bench.enter().expect("another wave")));
        assert!(bench.enter().is_none());
    }
    bench.note(&mut probes[0], false, false);
    assert_eq!(bench.state(), State::HalfOpen);
    bench.note(&mut probes[1], false, false);
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn a_probe_that_breaks_off_has_failed() {
    let mut bench = bench(PLAIN);
    (0..10).for_each(|_| assert!(bench.attempt(true)));
    bench.later(5000);
    let mut probe = bench.enter().unwrap();
    bench.note(&mut probe, false, false);
    bench.note(&mut probe, true, false);
    assert_eq!(bench.state(), State::Open);
}

#[test]
fn a_reload_that_changes_the_window_forgets_nothing_and_blinds_nobody() {
    let mut bench = bench(PLAIN);
    (0..5).for_each(|_| assert!(bench.attempt(true)));
    assert_eq!(bench.seen(), (5, 5));
    for window in ["1m", "10m", "5s"] {
        bench.rules = self::bench(&format!("{{ min_requests: 10, window: {window} }}")).rules;
        assert_eq!(bench.seen(), (5, 5), "{window}");
    }
    (0..5).for_each(|_| assert!(bench.attempt(true)));
    assert_eq!(bench.state(), State::Open);
    bench.later(5000);
    (0..3).for_each(|_| assert!(bench.attempt(false)));
    assert_eq!(bench.state(), State::Closed);
    // What it had counted is forgotten, what comes now is not, whatever the window.
    for window in ["10m", "1s", "5s"] {
        bench.rules = self::bench(&format!("{{ min_requests: 10, window: {window} }}")).rules;
        assert_eq!(bench.seen(), (0, 0), "{window}");
    }
    bench.rules = self::bench("{ min_requests: 10, window: 10m }").rules;
    (0..10).for_each(|_| assert!(bench.attempt(true)));
    assert_eq!(bench.state(), State::Open);
}

#[test]
fn rows_and_slow_answers_open_it_as_well() {
    let row = bench("{ consecutive_failures: 3 }");
    for failed in [true, true, false, true, true] {
        assert!(row.attempt(failed));
    }
    assert_eq!(row.state(), State::Closed);
    assert!(row.attempt(true));
    assert_eq!(row.state(), State::Open);
    let slow = bench("{ slow_after: 1s, slow_rate: 80%, min_requests: 5 }");
    for _ in 0..5 {
        slow.note(&mut slow.enter().unwrap(), false, true);
    }
    assert_eq!(slow.state(), State::Open);
}

#[test]
fn an_answer_that_breaks_off_later_counts_once_and_as_a_failure() {
    let bench = bench("{ min_requests: 4, failure_rate: 100% }");
    for _ in 0..4 {
        let mut pass = bench.enter().unwrap();
        bench.note(&mut pass, false, false);
        bench.note(&mut pass, true, false);
    }
    assert_eq!(bench.state(), State::Open);
}

#[test]
fn answers_that_all_break_off_are_a_row() {
    let bench = bench("{ consecutive_failures: 3 }");
    for state in [State::Closed, State::Closed, State::Open] {
        let mut pass = bench.enter().unwrap();
        bench.note(&mut pass, false, false);
        bench.note(&mut pass, true, false);
        assert_eq!(bench.state(), state);
    }
}

#[test]
fn no_share_is_more_than_the_whole() {
    let mut bench = bench("{ min_requests: 100, consecutive_failures: 3, window: 10s }");
    let mut streams: Vec<_> = (0..2).map(|_| bench.enter().unwrap()).collect();
    streams.iter_mut().for_each(|pass| bench.note(pass, false, false));
    bench.later(30_000);
    // They count when they break off, for what they were counted as is long out of the window.
    streams.iter_mut().for_each(|pass| bench.note(pass, true, false));
    assert_eq!(bench.seen(), (2, 2));
    // One that has failed already has failed once.
    let mut failed = bench.enter().unwrap();
    assert!(bench.attempt(false));
    bench.note(&mut failed, true, false);
    bench.note(&mut failed, true, false);
    bench.note(&mut failed, true, false);
    assert_eq!((bench.seen(), bench.state()), ((4, 3), State::Closed));
}

#[test]
fn what_is_wrong_is_said() {
    for (yaml, key) in [
        ("failure_rate: 0%", "`failure_rate`"),
        ("window: 10ms", "`window`"),
        ("open_for: 0s", "`open_for`"),
        ("probes: 0", "`probes`"),
        ("min_requests: 0", "`min_requests`"),
        ("slow_after: 0ms", "`slow_after`"),
    ] {
        let mut problems = Problems::default();
        let config: config::BreakerConfig = serde_yaml::from_str(&format!("{{ {yaml} }}")).unwrap();
        assert!(config.compile(&mut problems).is_none(), "{yaml}");
        assert!(problems.iter().any(|problem| problem.message.contains(key)), "{yaml}");
    }
    assert!(serde_yaml::from_str::<config::BreakerConfig>("scope: host").is_err());
}
