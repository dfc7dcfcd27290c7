use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Instant, SystemTime};

use ::bytes::Bytes;
use pingora_http::ResponseHeader;

use super::*;
use crate::cache::Cache;
use crate::cache::entry::Meta;
use crate::cache::key::Key;
use crate::cache::stored::StoredHead;
use crate::cache::tests::{policy, seen};
use crate::exchange::Exchange;
use crate::head::RequestHead;

const SIZE: u64 = 64 << 20;

/// A process that has the folder.
fn process(path: &Path, max_size: u64) -> (&'static Cache, &'static Disk) {
    let cache = Cache::new(8 << 20);
    let settings = Settings { path: path.to_owned(), max_size, deadline: Duration::from_secs(2) };
    cache.add_disk(settings, &Tallies::default()).unwrap();
    let disk = cache.disk().unwrap();
    (cache, disk)
}

#[track_caller]
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn opened(path: &Path, max_size: u64) -> (&'static Cache, &'static Disk) {
    let (cache, disk) = process(path, max_size);
    eventually("it is open", || disk.stats().is_open && !disk.stats().is_searching);
    (cache, disk)
}

fn key_of(path: &str) -> Key {
    let head = RequestHead::build("GET", path, &[("host", "shop.example")]);
    key::key(&head, &Exchange::for_tests(), seen(&head), ("r", "s"), &policy())
}

fn stored(path: &str, body: &[u8]) -> Arc<Entry> {
    let mut answer = ResponseHeader::build(200, None).unwrap();
    answer.append_header("content-type", "text/plain").unwrap();
    answer.append_header("x-path", path).unwrap();
    let now = SystemTime::now();
    let meta = Meta {
        fresh_until: now + Duration::from_secs(3600),
        created: now,
        epoch: now,
        variance: None,
        stale_while_revalidate: 7,
        stale_if_error: 8,
        asked: Moment::now().get(),
        tags: tags::of_text("a\nb"),
        fallback: 0,
        on_disk: true,
        in_redis: true,
        head: StoredHead::of(&answer).unwrap(),
    };
    Arc::new(Entry::new(&key_of(path).primary, "", meta, Bytes::copy_from_slice(body)))
}

mod tags {
    pub fn of_text(text: &str) -> Option<crate::cache::tags::Tags> {
        crate::cache::tags::Tags::of_text(text)
    }
}

fn index(path: &str) -> Index {
    Index::primary(&key_of(path))
}

/// Writes them, and waits until they are there.
fn write(disk: &Disk, names: impl IntoIterator<Item = String>, length: usize) {
    for name in names {
        let waiting = || disk.keep(index(&name), &stored(&name, &body(&name, length)));
        waiting();
        eventually("it is written", || disk.may_have(&index(&name)) || disk.writes.is_idle());
    }
    eventually("all is written", || disk.writes.is_idle());
}

fn body(name: &str, length: usize) -> Vec<u8> {
    name.bytes().cycle().take(length).collect()
}

async fn find(disk: &'static Disk, name: &str) -> Option<Vec<u8>> {
    let entry = disk.load(index(name), &key_of(name).primary).await?;
    assert_eq!(entry.meta.head.header(&http::HeaderName::from_static("x-path")), Some(name.as_bytes()));
    Some(entry.body.to_vec())
}

fn names(count: usize) -> impl Iterator<Item = String> + Clone {
    (0..count).map(|number| format!("/item/{number}"))
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("disk");
    (place, path)
}

#[tokio::test]
async fn what_was_written_is_there_for_the_next_process() {
    let (_place, path) = folder();
    let (_, disk) = opened(&path, SIZE);
    write(disk, names(50), 5_000);
    assert_eq!(find(disk, "/item/7").await.unwrap(), body("/item/7", 5_000));
    assert!(find(disk, "/other").await.is_none());
    // One that is given up, and one that is another one now.
    disk.forget(index("/item/8"));
    write(disk, ["/item/9".to_owned()], 100);
    disk.close();
    assert!(find(disk, "/item/7").await.is_none(), "it is another's now");
    let (_, disk) = opened(&path, SIZE);
    assert_eq!(disk.stats().entries, 49);
    for name in names(50) {
        let length = if name == "/item/9" { 100 } else { 5_000 };
        let expected = (name != "/item/8").then(|| body(&name, length));
        assert_eq!(find(disk, &name).await, expected, "{name}");
    }
    let entry = disk.load(index("/item/1"), &key_of("/item/1").primary).await.unwrap();
    let tags: Vec<&str> = entry.meta.tags.iter().flat_map(|tags| tags.iter()).collect();
    assert_eq!((tags, entry.meta.stale_while_revalidate, entry.meta.stale_if_error), (vec!["a", "b"], 7, 8));
    assert!(entry.meta.asked < Moment::FIRST);
    let mode = |name: &str| std::fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("."), mode("key"), mode("notes"), mode("state"), mode("00000001.seg")), (0o700, 0o600, 0o600, 0o600, 0o600));
    disk.close();
}

#[tokio::test]
async fn what_was_purged_or_changed_stays_so_for_ever() {
    let (_place, path) = folder();
    let (cache, disk) = opened(&path, SIZE);
    write(disk, names(8), 1_000);
    let changed =
        |path: &str| cache.changed(&RequestHead::build("POST", path, &[("host", "shop.example")]), "http", std::iter::empty());
    assert!(cache.purge(&Purge::url("shop.example/item/1").unwrap(), false).unwrap().written().await);
    assert!(cache.purge(&Purge::url("shop.example/item/2").unwrap(), true).unwrap().written().await);
    assert!(changed("/item/3").unwrap().written().await);
    // From after that.
    write(disk, ["/item/4".to_owned()], 10);
    for round in 0..3 {
        // Without a word, as by `kill -9`, but for the lock.
        disk.store.load_full().unwrap().folder.unlock();
        let (_, next) = opened(&path, SIZE);
        assert_eq!(find(next, "/item/1").await, None, "{round}");
        assert_eq!(find(next, "/item/3").await, None, "{round}");
        assert_eq!(find(next, "/item/0").await, Some(body("/item/0", 1_000)), "{round}");
        assert_eq!(find(next, "/item/4").await, Some(body("/item/4", 10)));
        let soft = next.load(index("/item/2"), &key_of("/item/2").primary).await.unwrap();
        let soft = next.tier.still(&index("/item/2"), &key_of("/item/2").primary, "", soft).unwrap();
        assert!(soft.meta.fresh_until <= SystemTime::now());
        next.close();
    }
    let (cache, next) = opened(&path, SIZE);
    assert!(cache.purge(&Purge::Everything, false).unwrap().written().await);
    write(next, ["/new".to_owned()], 10);
    next.close();
    let (_, next) = opened(&path, SIZE);
    assert_eq!(find(next, "/item/0").await, None);
    assert_eq!(find(next, "/new").await, Some(body("/new", 10)));
    next.close();
}

#[tokio::test]
async fn nothing_that_is_damaged_is_given() {
    let (place, path) = folder();
    let (_, disk) = opened(&path, SIZE);
    write(disk, names(4), 300);
    disk.close();
    let files = ["00000001.seg", "notes", "state", "key"];
    let lengths = files.map(|name| std::fs::metadata(path.join(name)).unwrap().len() as usize);
    let whole = place.path().join("whole");
    std::fs::rename(&path, &whole).unwrap();
    for (name, length) in files.into_iter().zip(lengths) {
        for at in (0..length).step_by(37) {
            for cut in [false, true] {
                std::fs::create_dir(&path).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
                for file in files {
                    std::fs::copy(whole.join(file), path.join(file)).unwrap();
                }
                let mut bytes = std::fs::read(path.join(name)).unwrap();
                if cut {
                    bytes.truncate(at)
                } else {
                    bytes[at] ^= 0x55
                }
                std::fs::write(path.join(name), bytes).unwrap();
                let (_, disk) = opened(&path, SIZE);
                let mut found = 0;
                for item in names(4) {
                    let body_there = find(disk, &item).await;
                    found += usize::from(body_there.is_some());
                    assert!(body_there.is_none_or(|there| there == body(&item, 300)), "{name} {at} {cut}");
                }
                assert!(found < 4, "{name} {at} {cut}");
                disk.close();
                std::fs::remove_dir_all(&path).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn it_stays_within_its_bound_and_keeps_what_is_asked_for() {
    let (_place, path) = folder();
    let (_, disk) = opened(&path, SIZE);
    let count = 2_400;
    write(disk, names(3), 40_000);
    for (number, name) in names(count).enumerate().skip(3) {
        disk.keep(index(&name), &stored(&name, &body(&name, 40_000)));
        if number % 100 == 0 {
            eventually("it keeps up", || disk.writes.is_idle());
            assert!(find(disk, "/item/1").await.is_some(), "{number}");
            assert!(disk.stats().bytes <= SIZE);
        }
    }
    eventually("it keeps up", || disk.writes.is_idle());
    let stats = disk.stats();
    assert!(stats.evicted > 500 && stats.bytes <= SIZE && stats.dropped == 0 && stats.errors == 0, "{stats:?}");
    assert!(find(disk, "/item/2").await.is_none() && find(disk, &format!("/item/{}", count - 1)).await.is_some());
    let size: u64 = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(size <= SIZE);
    disk.close();
    // A bound that is lower takes the oldest away.
    let (_, disk) = opened(&path, SIZE);
    let before = disk.stats().entries;
    disk.close();
    let (_, disk) = opened(&path, SIZE / 2);
    write(disk, ["/last".to_owned()], 10);
    eventually("it has shrunk", || disk.stats().bytes <= SIZE / 2 && disk.stats().entries < before);
    assert!(find(disk, "/last").await.is_some());
    disk.close();
}

#[tokio::test]
async fn one_process_has_it_at_a_time() {
    let (_place, path) = folder();
    let (_, first) = opened(&path, SIZE);
    write(first, names(3), 100);
    let (cache, second) = process(&path, SIZE);
    // What it is told meanwhile counts once it has it.
    second.forget(index("/item/1"));
    let noted = cache.purge(&Purge::url("shop.example/item/2").unwrap(), false).unwrap();
    assert!(!noted.written().await, "nobody knows when it will be");
    second.keep(index("/item/0"), &stored("/item/0", b"newer"));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!second.stats().is_open && find(second, "/item/0").await.is_none());
    first.close();
    eventually("it is open", || second.stats().is_open && !second.stats().is_searching);
    for name in names(3) {
        assert!(find(second, &name).await.is_none(), "{name}");
    }
    second.close();
}

#[tokio::test]
async fn a_folder_that_is_not_its_own_is_not_used() {
    let (place, path) = folder();
    std::fs::create_dir(&path).unwrap();
    let refused = |path: &Path| {
        let (_, disk) = process(path, SIZE);
        eventually("it is refused", || disk.stats().errors == 1);
        assert!(!disk.stats().is_open);
        disk.close();
    };
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    refused(&path);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&path, place.path().join("link")).unwrap();
    refused(&place.path().join("link"));
    // Nor is anything written through a link in it.
    let precious = place.path().join("precious");
    std::fs::write(&precious, "precious").unwrap();
    for name in ["notes", "state", "lock", "key"] {
        let _ = std::fs::remove_file(path.join(name));
        symlink(&precious, path.join(name)).unwrap();
        refused(&path);
        std::fs::remove_file(path.join(name)).unwrap();
    }
    // What is no state is no store, and what is in the way goes.
    symlink(&precious, path.join("00000001.seg")).unwrap();
    let (_, disk) = opened(&path, SIZE);
    write(disk, ["/a".to_owned()], 10);
    assert!(!std::fs::symlink_metadata(path.join("00000001.seg")).unwrap().is_symlink());
    disk.close();
    assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
}

#[tokio::test]
async fn the_clock_may_be_set_back() {
    let (_place, path) = folder();
    let (_, disk) = opened(&path, SIZE);
    let store = disk.store.load_full().unwrap();
    let mut end = store::End::default();
    let entry = stored("/a", b"a");
    let place = store.append(&mut end, Kind { variance: None }, &entry, &mut store::Written::default()).unwrap();
    let bytes = store.read(place, false).unwrap().unwrap();
    assert!(store.decode(place, &bytes).is_ok());
    let later = record::encode_at(&store.secret, (place.segment, place.offset), Kind { variance: None }, &entry, 1, 0, {
        SystemTime::now() + Duration::from_secs(60)
    });
    let place = Place { length: later.len() as u32, ..place };
    assert_eq!(store.decode(place, &later).err(), Some(Unfit::Later));
    // It is there for when the clock is right, and no damage.
    store.index.found(Slot::of(&index("/a")), place);
    assert!(disk.take_in(&store, index("/a"), place, &later).is_none());
    assert!(disk.may_have(&index("/a")) && disk.stats().damaged == 0);
    disk.close();
}

#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "the disk hangs as long as it is held")]
async fn a_disk_that_hangs_is_waited_for_no_longer_than_the_deadline() {
    let (_place, path) = folder();
    let cache = Cache::new(8 << 20);
    let deadline = Duration::from_millis(50);
    cache.add_disk(Settings { path, max_size: SIZE, deadline }, &Tallies::default()).unwrap();
    let disk = cache.disk().unwrap();
    eventually("it is open", || disk.stats().is_open && !disk.stats().is_searching);
    // Too long to be read at once.
    write(disk, names(2), 100_000);
    let store = disk.store.load_full().unwrap();
    let hangs = store.hangs.lock();
    let began = Instant::now();
    let all = (0..100).map(|_| tokio::spawn(find(disk, "/item/0")));
    for found in all.collect::<Vec<_>>() {
        assert_eq!(found.await.unwrap(), None);
    }
    assert!(began.elapsed() < deadline * 20, "{:?}", began.elapsed());
    assert_eq!(disk.figures.late.sum(), 100);
    // Nor do those who have gone pile up.
    for _ in 0..4 {
        for found in (0..100).map(|_| tokio::spawn(find(disk, "/item/0"))).collect::<Vec<_>>() {
            assert_eq!(found.await.unwrap(), None);
        }
    }
    assert!(disk.loads.lock().values().all(|waiting| waiting.len() <= 200));
    // What is to be written waits, up to a bound, and nobody waits for it.
    let began = Instant::now();
    for number in 0..1_000 {
        let name = format!("/waits/{number}");
        disk.keep(index(&name), &stored(&name, &body(&name, 50_000)));
    }
    assert!(disk.stats().dropped > 500, "{:?}", disk.stats());
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(hangs);
    eventually("it goes on", || disk.writes.is_idle() && disk.reads.is_idle());
    // One read was enough for all of them, and what came late is in memory.
    assert!(disk.tier.find(&index("/item/0"), &key_of("/item/0").primary, "").is_some());
    assert_eq!(find(disk, "/waits/3").await, Some(body("/waits/3", 50_000)));
    assert_eq!(find(disk, "/waits/999").await, None);
    disk.close();
}

#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "the disk hangs as long as it is held")]
async fn nobody_waits_while_a_segment_is_begun() {
    let (_place, path) = folder();
    let (_, disk) = opened(&path, SIZE);
    write(disk, names(2), 100);
    let store = disk.store.load_full().unwrap();
    let hangs = store.hangs.lock();
    // More than the segment has room for.
    let length = store.segment_size as usize / 2 - 4096;
    (0..3).for_each(|number| disk.keep(index(&format!("/long/{number}")), &stored("/long", &body("x", length))));
    let (tell, told) = std::sync::mpsc::channel();
    for _ in 0..200 {
        let tell = tell.clone();
        std::thread::spawn(move || tell.send((disk.stats().bytes, store_has(disk))));
        let (bytes, has) = told.recv_timeout(Duration::from_secs(10)).expect("nobody hangs");
        assert!(bytes > 0 && has);
    }
    drop(hangs);
    eventually("all is written", || disk.writes.is_idle());
    disk.close();
}

fn store_has(disk: &Disk) -> bool {
    let store = disk.store.load_full().unwrap();
    let place = store.index.peek(Slot::of(&index("/item/0"))).unwrap();
    store.read(place, true).unwrap().is_some()
}

#[tokio::test]
async fn what_goes_for_want_of_room_is_forgotten() {
    let (_place, path) = folder();
    let (_, disk) = opened(&path, SIZE);
    write(disk, names(100), 40_000);
    let store = disk.store.load_full().unwrap();
    let evicted = store.yield_room().unwrap();
    assert!(evicted > 40 && disk.stats().entries == 100 - evicted, "{evicted} {:?}", disk.stats());
    assert!(!disk.may_have(&index("/item/0")) && disk.may_have(&index("/item/99")));
    assert_eq!(find(disk, "/item/99").await, Some(body("/item/99", 40_000)));
    disk.close();
}

#[tokio::test]
async fn of_short_answers_no_more_are_kept_than_the_index_may_have() {
    let (_place, path) = folder();
    let (_, disk) = opened(&path, SIZE);
    let most = SIZE / 4096;
    for (number, name) in names(2 * most as usize).enumerate() {
        disk.keep(index(&name), &stored(&name, b""));
        if number % 1000 == 0 {
            eventually("it keeps up", || disk.writes.is_idle());
            assert!(disk.stats().entries <= most);
        }
    }
    eventually("it keeps up", || disk.writes.is_idle());
    let stats = disk.stats();
    assert!(stats.entries > most / 2 && stats.entries <= most && stats.evicted > 0 && stats.dropped == 0, "{stats:?}");
    assert_eq!(stats.entries + stats.evicted, 2 * most);
    assert_eq!(find(disk, &format!("/item/{}", 2 * most - 1)).await, Some(Vec::new()));
    disk.close();
}

#[tokio::test]
async fn notes_that_wait_are_bounded_in_bytes_and_beyond_that_all_is_forgotten() {
    let (_place, path) = folder();
    let (_, first) = opened(&path, SIZE);
    write(first, names(2), 100);
    let (_, second) = process(&path, SIZE);
    // They are not written before the first one has gone.
    for number in 0..200_u32 {
        let target = [&number.to_le_bytes()[..], &[b'x'; 8192]].concat();
        assert!(second.changed(Moment::now().get(), vec![target.into()]).is_none());
    }
    assert!(!second.overflowed.load(Ordering::Relaxed));
    for number in 0..200_u32 {
        second.changed(Moment::now().get(), vec![[&number.to_le_bytes()[..], &[b'y'; 8192]].concat().into()]);
    }
    assert!(second.overflowed.load(Ordering::Relaxed));
    first.close();
    eventually("it is open", || second.stats().is_open && !second.stats().is_searching && second.orders.is_idle());
    assert_eq!(find(second, "/item/0").await, None);
    second.close();
    let (_, third) = opened(&path, SIZE);
    assert_eq!(find(third, "/item/0").await, None);
    third.close();
}

#[tokio::test]
async fn a_validation_that_shortens_a_life_reaches_the_disk() {
    let (_place, path) = folder();
    let (cache, disk) = opened(&path, SIZE);
    for (name, is_found) in [("/short", false), ("/long", true)] {
        let (entry, key) = (stored(name, b"body"), key_of(name));
        write(disk, [name.to_owned()], 10);
        cache.storage.promote(index(name), &entry);
        let mut meta = entry.meta.clone();
        if !is_found {
            (meta.fresh_until, meta.stale_while_revalidate, meta.stale_if_error) = (SystemTime::now(), 0, 0);
        }
        assert!(cache.storage.refresh(index(name), &key.primary, "", meta, Some(entry.number)));
        eventually("it is written", || disk.writes.is_idle());
        assert_eq!(disk.may_have(&index(name)), is_found, "{name}");
    }
    disk.close();
    let (_, disk) = opened(&path, SIZE);
    assert_eq!((find(disk, "/short").await, find(disk, "/long").await), (None, Some(b"body".to_vec())));
    disk.close();
}

#[tokio::test]
async fn what_was_stored_early_is_known_when_opening_fails_at_first() {
    let (_place, path) = folder();
    let (_, first) = opened(&path, SIZE);
    write(first, names(2), 100);
    first.close();
    // A state cannot be written.
    std::fs::create_dir(path.join("state.new")).unwrap();
    let (_, second) = process(&path, SIZE);
    second.keep(index("/item/0"), &stored("/item/0", b"newer"));
    eventually("it fails", || second.stats().errors == 1);
    second.forget(index("/item/7"));
    std::fs::remove_dir(path.join("state.new")).unwrap();
    eventually("it is open", || second.stats().is_open && !second.stats().is_searching);
    assert_eq!((find(second, "/item/0").await, find(second, "/item/1").await), (None, Some(body("/item/1", 100))));
    second.close();
}

#[tokio::test]
async fn what_could_not_be_made_to_count_for_nothing_is_not_believed() {
    let (_place, path) = folder();
    let (_, first) = opened(&path, SIZE);
    write(first, names(2), 100);
    let (_, second) = process(&path, SIZE);
    second.is_doubted.store(true, Ordering::Relaxed);
    first.close();
    eventually("it is open", || second.stats().is_open && !second.stats().is_searching);
    assert_eq!((find(second, "/item/0").await, second.is_doubted.load(Ordering::Relaxed)), (None, false));
    write(second, names(1), 100);
    second.close();
    let (_, third) = opened(&path, SIZE);
    assert!(find(third, "/item/0").await.is_some());
    third.close();
}

/// One that is written to, and read by somebody; what its files claim of the bound.
async fn growing(disk: &'static Disk, blocks: usize) -> (Arc<Long>, reader::Reader) {
    let long = disk.begin_long().unwrap();
    let reader = reader::Reader::new(long.clone());
    long.add(&vec![7; blocks * long::BLOCK]);
    eventually("it is written", || long.state.lock().written == blocks * long::BLOCK);
    (long, reader)
}

#[tokio::test]
async fn what_cannot_be_cut_off_gives_its_room_back_all_the_same() {
    let (_place, path) = folder();
    let (_, disk) = opened(&path, SIZE);
    let store = disk.store.load_full().unwrap();
    let (long, reader) = growing(disk, 3).await;
    let name = std::fs::read_dir(&path)
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|file| file.extension().is_some_and(|end| end == "new"));
    let name = name.unwrap();
    assert_eq!(store.bytes(), 3 * long::STEP);
    // There is no room for what is removed and read, so that it has to be cut; and that fails: by this handle nobody may write.
    disk.removed.store(disk.settings.max_size / 4, Ordering::Relaxed);
    let only_read = Arc::new(File::open(&name).unwrap());
    assert!(only_read.set_len(0).is_err());
    long.state.lock().file = Some(only_read);
    long.fail();
    eventually("its room is given back", || store.bytes() == 0);
    eventually("it is gone", || !name.exists());
    assert_eq!(disk.figures.errors.sum(), 1);
    assert!(matches!(reader.next(0).await, super::super::flow::Piece::Broken), "nobody is given the rest of it");
    disk.close();
}

#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "the disk hangs as long as it is held")]
async fn a_disk_that_takes_nothing_is_offered_nothing_long_for_a_while() {
    let (_place, path) = folder();
    let (_, disk) = opened(&path, SIZE);
    let (long, _reader) = growing(disk, 1).await;
    let store = disk.store.load_full().unwrap();
    let (hangs, before) = (store.hangs.lock(), Moment::now().get());
    long.add(&vec![7; 20 * long::BLOCK]);
    eventually("it hangs", || disk.long_busy_since.load(Ordering::Relaxed) >= before);
    assert!(long.is_full() && disk.begin_long().is_some());
    tokio::time::pause();
    long.room().await;
    assert!(long.is_gone() && disk.begin_long().is_none());
    // Nor for as long as it is at the same piece of work.
    disk.long_rests_until.store(0, Ordering::Relaxed);
    assert!(disk.begin_long().is_some());
    disk.long_busy_since.fetch_sub(6_000_000_000, Ordering::Relaxed);
    assert!(disk.begin_long().is_none());
    drop(hangs);
    eventually("it goes on", || disk.begin_long().is_some());
    disk.close();
}

#[tokio::test(start_paused = true)]
#[allow(clippy::await_holding_lock, reason = "the disk hangs as long as it is held")]
async fn a_slow_disk_may_take_its_time_for_a_long_body() {
    let (_place, path) = folder();
    let (_, disk) = opened(&path, SIZE);
    let store = disk.store.load_full().unwrap();
    let hangs = store.hangs.lock();
    let long = disk.begin_long().unwrap();
    long.add(&vec![7; 20 * long::BLOCK]);
    let slow = async {
        // A block every four seconds, until there is room.
        while long.is_full() {
            tokio::time::sleep(Duration::from_secs(4)).await;
            long.state.lock().flying.pop_front();
            long.changed.notify_waiters();
        }
    };
    tokio::join!(long.room(), slow);
    assert!(!long.is_gone());
    drop(hangs);
    disk.close();
}

#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "the disk hangs as long as it is held")]
async fn who_finds_no_reader_does_not_wait() {
    let (_place, path) = folder();
    let cache = Cache::new(8 << 20);
    cache.add_disk(Settings { path, max_size: SIZE, deadline: Duration::from_secs(3600) }, &Tallies::default()).unwrap();
    let disk = cache.disk().unwrap();
    eventually("it is open", || disk.stats().is_open && !disk.stats().is_searching);
    // Too long to be read at once, and more than readers and queue take.
    let all = READS + 40;
    write(disk, names(all), AT_ONCE as usize);
    let store = disk.store.load_full().unwrap();
    let hangs = store.hangs.lock();
    let mut asking = Vec::new();
    for name in names(all) {
        asking.push(tokio::spawn(async move { find(disk, &name).await }));
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }
    let turned_away = asking.iter().filter(|asking| asking.is_finished()).count();
    assert!((1..=40).contains(&turned_away), "{turned_away}");
    drop(hangs);
    for asked in asking {
        asked.await.unwrap();
    }
    disk.close();
}

#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "the disk hangs as long as it is held")]
async fn what_is_given_up_gives_its_room_back_however_much_waits() {
    let (_place, path) = folder();
    let (_, disk) = opened(&path, SIZE);
    let store = disk.store.load_full().unwrap();
    let (long, reader) = growing(disk, 3).await;
    drop(reader);
    let hangs = store.hangs.lock();
    // One is taken, and hangs; the others fill the queue to the last byte.
    let other = disk.begin_long().unwrap();
    other.add(&vec![7; long::BLOCK]);
    eventually("it is taken", || disk.long_busy_since.load(Ordering::Relaxed) > 0);
    while disk.long_writes.push(LongWrite::Block(other.clone()), long::BLOCK) {}
    long.fail();
    drop((hangs, long));
    other.fail();
    drop(other);
    eventually("all is given back", || disk.long_writes.is_idle() && store.bytes() == 0);
    let left = std::fs::read_dir(&path)
        .unwrap()
        .filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "new"));
    assert_eq!(left.count(), 0);
    disk.close();
}
