use super::*;
use std::time::Instant;

use crate::observe::Record;

const PATIENCE: Duration = Duration::from_secs(10);

fn settings(target: Target) -> Settings {
    Settings { target, queue: 1 << 20, query: false, refusals: None }
}

fn to_file(path: &Path) -> Arc<AccessLog> {
    let log = AccessLog::start().unwrap();
    log.apply(&settings(Target::File(path.to_owned()))).unwrap();
    log
}

fn record(path: &[u8]) -> Record<'_> {
    Record { path, status: 200, ..Record::default() }
}

fn paths(file: &Path) -> Vec<String> {
    let read = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["path"].as_str().unwrap().to_owned();
    std::fs::read_to_string(file).unwrap().lines().map(read).collect()
}

/// Waits for what happens on the writer's thread.
fn eventually(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_line_arrives_soon_though_traffic_stops() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let log = to_file(&file);
    for path in ["/1", "/2", "/3"] {
        let began = Instant::now();
        log.write(&record(path.as_bytes()));
        eventually("the line", || paths(&file).last().is_some_and(|last| last == path));
        assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
        // Once while the writer lingers, once while it sleeps.
        std::thread::sleep(Duration::from_millis(if path == "/1" { 0 } else { 120 }));
    }
}

#[test]
fn many_threads_lose_and_tear_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let log = to_file(&file);
    let threads: Vec<_> = (0..slots() + 3)
        .map(|thread| {
            let log = log.clone();
            std::thread::spawn(move || {
                for n in 0..2_000 {
                    log.write(&record(format!("/{thread}/{n}").as_bytes()));
                    if n % 200 == 0 {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(log.flush(PATIENCE));
    let mut found = paths(&file);
    let total = (slots() + 3) * 2_000;
    assert_eq!(found.len(), total);
    found.sort();
    found.dedup();
    assert_eq!(found.len(), total);
    assert_eq!((log.stats().written(), log.stats().dropped()), (total as u64, 0));
}

#[test]
fn a_full_queue_drops_and_counts() {
    let log = AccessLog::start().unwrap();
    // Every write to this device fails with "no space left".
    let full = Settings { queue: 64, ..settings(Target::File("/dev/full".into())) };
    log.apply(&full).unwrap();
    log.write(&record(b"/first"));
    eventually("an error", || log.stats().errors() > 0);
    let began = Instant::now();
    (0..1_000).for_each(|n| log.write(&record(format!("/{n}").as_bytes())));
    assert!(began.elapsed() < Duration::from_secs(1), "it waited");
    assert!(log.stats().dropped() >= 1_000 - 64);
    assert!(!log.flush(Duration::from_millis(300)), "nothing was written");
    assert_eq!(log.stats().written(), 0);
    // With room again, what was kept is written.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    log.apply(&Settings { queue: 64, ..settings(Target::File(file.clone())) }).unwrap();
    assert!(log.flush(PATIENCE));
    let found = paths(&file);
    assert_eq!(found.first().unwrap(), "/first");
    assert_eq!(found.len() as u64 + log.stats().dropped(), 1_001);
}

#[test]
fn a_renamed_file_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (file, old) = (folder.path().join("log"), folder.path().join("log.1"));
    let log = to_file(&file);
    log.write(&record(b"/before"));
    assert!(log.flush(PATIENCE));
    std::fs::rename(&file, &old).unwrap();
    log.write(&record(b"/between"));
    assert!(log.flush(PATIENCE));
    log.reopen();
    eventually("the new file", || file.exists());
    log.write(&record(b"/after"));
    assert!(log.flush(PATIENCE));
    assert_eq!(paths(&old), ["/before", "/between"]);
    assert_eq!(paths(&file), ["/after"]);
}

#[test]
fn a_reopen_that_fails_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let (inner, moved) = (folder.path().join("logs"), folder.path().join("moved"));
    std::fs::create_dir(&inner).unwrap();
    let log = to_file(&inner.join("log"));
    std::fs::rename(&inner, &moved).unwrap();
    log.reopen();
    eventually("the error", || log.stats().errors() > 0);
    log.write(&record(b"/kept"));
    assert!(log.flush(PATIENCE));
    assert_eq!(paths(&moved.join("log")), ["/kept"]);
    std::fs::create_dir(&inner).unwrap();
    eventually("the new file", || inner.join("log").exists());
}

#[test]
fn an_output_that_cannot_be_opened_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let log = to_file(&file);
    assert!(log.apply(&settings(Target::File(folder.path().join("no/such/log")))).is_err());
    log.write(&record(b"/still"));
    assert!(log.flush(PATIENCE));
    assert_eq!(paths(&file), ["/still"]);
    log.apply(&settings(Target::Off)).unwrap();
    assert!(!log.is_on());
    log.write(&record(b"/nowhere"));
    assert!(log.flush(PATIENCE));
    assert_eq!(paths(&file), ["/still"]);
}

#[test]
fn dropping_the_log_writes_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let log = to_file(&file);
    (0..100).for_each(|_| log.write(&record(b"/last")));
    drop(log);
    eventually("the last round", || paths(&file).len() == 100);
}

#[test]
fn the_query_is_logged_only_if_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let log = to_file(&file);
    let asked = Record { query: b"token=1", ..record(b"/a") };
    log.write(&asked);
    log.apply(&Settings { query: true, ..settings(Target::File(file.clone())) }).unwrap();
    log.write(&asked);
    assert!(log.flush(PATIENCE));
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("token").count(), 1);
}

fn config(yaml: &str) -> Result<AccessLogConfig, String> {
    serde_yaml::from_str(yaml).map_err(|error| error.to_string())
}

#[test]
fn outputs_are_read() {
    let output = |yaml: &str| config(yaml).map(|config| config.output.value);
    assert_eq!(output("{}"), Ok(Output::Stdout));
    assert_eq!(output("output: stderr"), Ok(Output::Stderr));
    assert_eq!(output("output: false"), Ok(Output::Off));
    assert_eq!(output("output: { file: logs/a }"), Ok(Output::File("logs/a".into())));
    for wrong in
        ["output: true", "output: syslog", "output: {}", "output: { file: a, mode: 1 }", "output: [stdout]", "output: 1", "to: x"]
    {
        assert!(output(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_cannot_work_is_a_problem() {
    let folder = tempfile::tempdir().unwrap();
    let problems = |yaml: &str| {
        let mut problems = Problems::default();
        config(yaml).unwrap().compile(folder.path(), &mut problems);
        problems.len()
    };
    assert_eq!(problems("output: { file: a.log }"), 0);
    assert_eq!(problems("output: { file: /dev/null }"), 0);
    assert_eq!(problems("output: { file: none/a.log }"), 1);
    assert_eq!(problems("output: { file: . }"), 1);
    assert_eq!(problems("queue: 1"), 1);
    assert_eq!(problems("queue: 100000000"), 1);
}
