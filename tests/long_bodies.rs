//! Bodies that are too long for memory: on disk as they come, and given from there.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::disk::Full;
use crate::fills::Slow;
use crate::harness::*;
use crate::peers::{Act, Asked, Origin, answer};
use crate::tiers::{self, HOST};

/// Longer than what memory has for one, and no whole number of blocks.
const LENGTH: usize = 6_000_001;

fn body(path: &str) -> Vec<u8> {
    let seed = path.bytes().fold(7_u32, |seed, byte| seed.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let length = path.split("size-").nth(1).map_or(LENGTH, |size| size.parse().unwrap());
    (0..length as u32).map(|at| (at / 5).wrapping_mul(2_654_435_761).wrapping_add(seed).to_be_bytes()[at as usize % 4]).collect()
}

fn origin() -> Origin {
    let count = AtomicUsize::new(0);
    Origin::start(move |asked: &Asked| {
        let path = asked.target.split('?').next().unwrap();
        if path.contains("/tagged") && asked.header("if-none-match").is_some() {
            return Act::Send(answer(304, &[("ETag", "\"a\""), ("X-Number", "again"), ("Cache-Control", "max-age=600")], ""));
        }
        if path.starts_with("/small") {
            return Act::Send(answer(200, &[("Cache-Control", "max-age=600")], "small"));
        }
        let number = count.fetch_add(1, Ordering::Relaxed).to_string();
        let control = if path.contains("/tagged") { "max-age=1, stale-if-error=600" } else { "max-age=600" };
        let fields = [("Cache-Control", control), ("ETag", "\"a\""), ("X-Number", &number), ("Cache-Tag", "long")];
        let body = body(path);
        if path.starts_with("/chunked") {
            let mut bytes =
                format!("HTTP/1.1 200 OK\r\nCache-Control: {control}\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
            for chunk in body.chunks(100_000) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            return Act::Send(bytes);
        }
        let bytes = answer(200, &fields, &body);
        if path.starts_with("/cut") { Act::Last(bytes[..bytes.len() / 2].to_vec()) } else { Act::Send(bytes) }
    })
}

struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Disk {
        Disk(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("cache")
    }

    fn files(&self, end: &str) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.path()).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.to_str().unwrap().ends_with(end)).collect()
    }

    #[track_caller]
    fn start(&self, port: u16) -> Gateway {
        self.start_beside(port, port)
    }

    #[track_caller]
    fn start_beside(&self, port: u16, shadow: u16) -> Gateway {
        self.start_of("64MiB", port, shadow)
    }

    #[track_caller]
    fn start_of(&self, size: &str, port: u16, shadow: u16) -> Gateway {
        let gateway = Gateway::start(&format!(
            "
listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]
server: {{ workers: 2, cache_memory: 16MiB, cache_disk: {{ path: {}, max_size: {size} }} }}
services: {{ a: {{ endpoints: [ '127.0.0.1:{port}' ] }}, shadow: {{ endpoints: [ '127.0.0.1:{shadow}' ] }} }}
routes:
  - {{ path: /memory/*, service: a, policies: {{ cache: {{ max_body: 20MiB, disk: false }} }} }}
  - {{ path: /copied/*, service: a, policies: {{ cache: {{ max_body: 20MiB }}, mirror: {{ service: shadow }} }} }}
  - {{ path: /fallen/*, service: a, fallback: {{ cached: 1h, json: {{ items: [] }} }}, policies: {{ cache: {{ max_body: 20MiB }} }} }}
  - {{ path: /*, service: a, policies: {{ cache: {{ max_body: 20MiB }} }} }}
",
            self.path().to_str().unwrap()
        ));
        eventually("it has looked through its folder", || {
            let told: serde_json::Value = serde_json::from_str(&gateway.admin_get("/cache/top").1).unwrap();
            told["disk"]["complete"] == true
        });
        gateway
    }
}

fn ask(port: u16, method: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
    let fields: Vec<_> = [HOST].iter().chain(fields).copied().collect();
    request(port, method, path, &fields, b"")
}

fn get(port: u16, path: &str) -> Answer {
    ask(port, "GET", path, &[])
}

#[track_caller]
fn assert_disk(answer: &Answer, path: &str) {
    tiers::assert_disk(answer);
    assert!(answer.status == 200 && answer.body == body(path), "{} bytes", answer.body.len());
}

#[track_caller]
fn warm(gateway: &Gateway, path: &str) {
    let before = gateway.metric("portcullis_cache_disk_stored_total");
    let answer = get(gateway.port(), path);
    assert!(answer.cache_status().contains("fwd=") && answer.body == body(path), "{:?}", answer.headers);
    eventually("it is written", || gateway.metric("portcullis_cache_disk_stored_total") > before);
}

/// The file of the body that was written last.
fn newest(disk: &Disk) -> PathBuf {
    // Numbers go up.
    disk.files(".big").into_iter().max().unwrap()
}

fn part(gateway: &Gateway, path: &str, range: &str, fields: &[(&str, &str)]) -> Answer {
    let fields: Vec<_> = [("Range", range)].into_iter().chain(fields.iter().copied()).collect();
    ask(gateway.port(), "GET", path, &fields)
}

/// Several parts in one body (RFC 9110, section 14.6).
#[track_caller]
fn assert_parts(answer: &Answer, path: &str, parts: &[std::ops::Range<usize>]) {
    let boundary = answer.header("content-type").and_then(|kind| kind.strip_prefix("multipart/byteranges; boundary="));
    let (boundary, whole) = (boundary.unwrap_or_else(|| panic!("{} {:?}", answer.status, answer.headers)), body(path));
    assert_eq!((answer.status, answer.header("content-length")), (206, Some(&*answer.body.len().to_string())));
    let mut rest = &answer.body[..];
    for part in parts {
        let begins = format!("\r\n--{boundary}\r\n");
        rest = rest.strip_prefix(begins.as_bytes()).expect("a part begins");
        let head = find(rest, b"\r\n\r\n").unwrap() + 4;
        let said = std::str::from_utf8(&rest[..head]).unwrap();
        assert!(said.ends_with(&format!("Content-Range: bytes {}-{}/{LENGTH}\r\n\r\n", part.start, part.end - 1)), "{said}");
        let (bytes, left) = rest[head..].split_at(part.len());
        assert!(bytes == &whole[part.clone()], "{part:?}");
        rest = left;
    }
    assert_eq!(rest, format!("\r\n--{boundary}--\r\n").as_bytes());
}

fn restarted(mut gateway: Gateway, disk: &Disk, port: u16, signal: &str) -> Gateway {
    gateway.signal(signal);
    gateway.wait_exit(Duration::from_secs(20));
    drop(gateway);
    disk.start(port)
}

#[test]
fn what_is_too_long_for_memory_is_given_from_disk() {
    let (disk, origin) = (Disk::new(), origin());
    let mut gateway = disk.start(origin.port());
    for path in ["/a", "/chunked/b"] {
        warm(&gateway, path);
        for _ in 0..2 {
            assert_disk(&get(gateway.port(), path), path);
        }
        // Each of them is a hit of the disk's, whose head memory has by now.
        assert!(gateway.metric("portcullis_cache_disk_hits_total") >= 2.0);
        // Parts of it, over the ends of blocks.
        for (first, last) in [(0, 0), (65_535, 65_536), (65_536, 200_000), (LENGTH - 1, LENGTH - 1), (5_000_000, LENGTH - 1)] {
            let answer = part(&gateway, path, &format!("bytes={first}-{last}"), &[]);
            assert_eq!((answer.status, answer.header("content-range")), (206, Some(&*format!("bytes {first}-{last}/{LENGTH}"))));
            assert!(answer.body == body(path)[first..=last], "{first}-{last}: {} bytes", answer.body.len());
            assert!(answer.cache_status().contains("; hit"), "{:?}", answer.headers);
        }
        for none in ["bytes=6000001-", "bytes=18446744073709551616-", "bytes=18446744073709551616-5"] {
            assert_eq!(part(&gateway, path, none, &[]).status, 416, "{none}");
        }
        // Numbers that are longer than any body are as good as its length.
        for all in ["bytes=-18446744073709551616", "bytes=0-99999999999999999999999"] {
            let answer = part(&gateway, path, all, &[]);
            assert_eq!((answer.status, answer.header("content-range")), (206, Some("bytes 0-6000000/6000001")), "{all}");
            assert!(answer.body == body(path), "{all}: {} bytes", answer.body.len());
        }
        let several = part(&gateway, path, "bytes=0-1,65530-200000,-3", &[]);
        assert_parts(&several, path, &[0..2, 65_530..200_001, LENGTH - 3..LENGTH]);
        // Of parts that overlap, or are out of order, the whole is given.
        for odd in ["bytes=0-9,5-20", "bytes=100-200,0-9"] {
            let answer = part(&gateway, path, odd, &[]);
            assert!(answer.status == 200 && answer.body == body(path), "{odd}: {:?}", answer.headers);
        }
        let head = ask(gateway.port(), "HEAD", path, &[]);
        assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("6000001"), 0));
        assert_eq!(origin.count(path), 1);
    }
    let tagged = [("If-None-Match", "\"a\"")];
    assert_eq!(ask(gateway.port(), "GET", "/a", &tagged).status, 304);
    assert_eq!(part(&gateway, "/a", "bytes=0-1,5-6", &tagged).status, 304);
    gateway.wait_log(|line| line["path"] == "/a" && line["cache"] == "hit" && line["status"] == 304);
    for line in gateway.log().iter().filter(|line| line["path"] == "/a" && line["cache"] == "hit") {
        assert_eq!(line["cache_tier"], "disk", "{line}");
    }
    assert_eq!(part(&gateway, "/a", "bytes=0-1", &[("If-Range", "\"b\"")]).body.len(), LENGTH);
    for signal in ["TERM", "KILL"] {
        gateway = restarted(gateway, &disk, origin.port(), signal);
        for path in ["/a", "/chunked/b"] {
            eventually("it is found", || get(gateway.port(), path).cache_status().ends_with("detail=disk"));
            assert_disk(&get(gateway.port(), path), path);
            assert_eq!(part(&gateway, path, "bytes=70000-70009", &[]).body, body(path)[70_000..70_010]);
        }
    }
    assert_eq!((origin.count("/a"), origin.count("/chunked/b")), (1, 1));
    assert_eq!(gateway.metric("portcullis_cache_disk_damaged_total"), 0.0);
    // Who changes it takes it out, and what it took.
    ask(gateway.port(), "DELETE", "/a", &[]);
    assert!(get(gateway.port(), "/a").cache_status().contains("fwd="));
    let order = br#"{"tags": ["long"], "everywhere": true}"#;
    request(gateway.admin(), "POST", "/cache/purge", &[("Content-Type", "application/json")], order);
    assert!(get(gateway.port(), "/a").cache_status().contains("fwd="));
    eventually("one is there", || disk.files(".big").len() == 2);
    // Not where the route says no.
    for _ in 0..2 {
        assert!(get(gateway.port(), "/memory/a").cache_status().contains("fwd="));
    }
}

#[test]
fn it_takes_no_more_memory_than_a_few_blocks() {
    let (disk, origin) = (Disk::new(), origin());
    let gateway = disk.start(origin.port());
    warm(&gateway, "/first");
    get(gateway.port(), "/first");
    let before = gateway.resident();
    for number in 0..30 {
        // Of half of them it is not known how long they will be.
        let path = if number % 2 == 0 { format!("/{number}") } else { format!("/chunked/{number}") };
        warm(&gateway, &path);
        assert_disk(&get(gateway.port(), &path), &path);
    }
    let after = gateway.resident();
    assert!(after < before + (16 << 20), "{before} {after}");
    // Nor more room than there is.
    assert!(gateway.metric("portcullis_cache_disk_bytes") <= f64::from(64 << 20));
    let held: u64 = disk.files("").iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(held <= 64 << 20, "{held}");
    assert!(gateway.metric("portcullis_cache_disk_evicted_total") > 10.0);
    // The oldest have gone.
    assert!(get(gateway.port(), "/0").cache_status().contains("fwd="));
    // What is short goes on being written.
    get(gateway.port(), "/small/a");
    assert!(get(gateway.port(), "/small/a").cache_status().contains("; hit"));
}

#[test]
fn what_is_damaged_or_half_written_is_never_given_for_whole() {
    let (disk, origin) = (Disk::new(), origin());
    let gateway = disk.start(origin.port());
    warm(&gateway, "/a");
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(&disk.files(".big")[0]).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(3_000_000)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(3_000_000)).unwrap();
    file.write_all(&[!byte[0]]).unwrap();
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/a", &[HOST], b"");
    assert!(client.try_answer_to("GET").is_err(), "it breaks off");
    assert_eq!(gateway.metric("portcullis_cache_disk_damaged_total"), 1.0);
    let answer = get(gateway.port(), "/a");
    assert!(answer.cache_status().contains("fwd=") && answer.body == body("/a"), "{:?}", answer.headers);
    eventually("it is written", || disk.files(".big").len() == 1);
    // Its record, too.
    let file = std::fs::OpenOptions::new().write(true).open(&disk.files(".big")[0]).unwrap();
    file.set_len(file.metadata().unwrap().len() - 3).unwrap();
    let gateway = restarted(gateway, &disk, origin.port(), "KILL");
    assert!(get(gateway.port(), "/a").cache_status().contains("fwd="));
    // A service that breaks off has given nothing that is kept.
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/cut/a", &[HOST], b"");
    assert!(client.try_answer_to("GET").is_err());
    eventually("nothing is left of it", || disk.files(".new").is_empty());
    assert_eq!(disk.files(".big").len(), 1);
}

#[test]
fn it_is_validated_and_stands_in_for_errors() {
    let (disk, mut origin) = (Disk::new(), origin());
    let gateway = disk.start(origin.port());
    warm(&gateway, "/tagged/a");
    eventually("it is validated", || {
        let answer = get(gateway.port(), "/tagged/a");
        assert!(answer.body == body("/tagged/a"));
        answer.header("x-number") == Some("again")
    });
    eventually("it is written", || gateway.metric("portcullis_cache_disk_stored_total") == 2.0);
    let gateway = restarted(gateway, &disk, origin.port(), "KILL");
    eventually("it is found", || get(gateway.port(), "/tagged/a").cache_status().ends_with("detail=disk"));
    let again = get(gateway.port(), "/tagged/a");
    assert_eq!(again.header("x-number"), Some("again"), "as it was validated");
    assert!(again.body == body("/tagged/a"));
    warm(&gateway, "/tagged/b");
    origin.stop();
    eventually("it is stale", || get(gateway.port(), "/tagged/b").cache_status().contains("stale-if-error"));
    assert!(get(gateway.port(), "/tagged/b").body == body("/tagged/b"));
}

/// A body that comes in two pieces, whose service gives them one by one, and a folder for it.
fn in_two() -> (Vec<u8>, Slow, Disk) {
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 6000001\r\n\r\n";
    let body = body("/a");
    let slow = Slow::start(head, vec![body[..3_000_000].to_vec(), body[3_000_000..].to_vec()]);
    (body, slow, Disk::new())
}

/// Who has asked for it, and has read nothing yet.
fn asks(gateway: &Gateway) -> Client {
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/a", &[HOST], b"");
    client
}

#[test]
fn those_who_wait_get_it_as_it_comes_and_nobody_waits_for_the_slow() {
    let (body, slow, disk) = in_two();
    let gateway = disk.start(slow.port());
    let ask = || asks(&gateway);
    // It asks first, and does not read.
    let mut idle = ask();
    eventually("the backend is asked", || slow.asked() == 1);
    slow.let_through(1);
    let mut others: Vec<Client> = (0..4).map(|_| ask()).collect();
    // The head, and most of what has come.
    let begun: Vec<Vec<u8>> = others.iter_mut().map(|other| other.take(2_000_000)).collect();
    slow.let_through(2);
    let last = get(gateway.port(), "/a");
    assert!(last.body == body, "{} bytes", last.body.len());
    for (other, mut had) in others.iter_mut().zip(begun) {
        let head = find(&had, b"\r\n\r\n").unwrap() + 4;
        had.extend(other.take(4_000_001 + head));
        assert!(had[head..] == body);
    }
    assert!(idle.answer_to("GET").body == body);
    assert_eq!((idle.request("GET", "/a", &[HOST], b"").body == body, slow.asked()), (true, 1));
}

/// What can be told of a file before it is given is a miss, and not an answer that breaks off.
#[test]
fn what_cannot_be_read_from_its_beginning_is_a_miss() {
    let (disk, origin) = (Disk::new(), origin());
    let gateway = disk.start(origin.port());
    let overwrite = |file: &mut File, at: u64| {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(b"something else").unwrap();
    };
    let part = [("Range", "bytes=70000-70009,-5")];
    type Damage<'d> = (&'d str, &'d dyn Fn(&mut File), &'d [(&'d str, &'d str)]);
    let damages: [Damage<'_>; 4] = [
        ("/a", &|file| overwrite(file, 0), &[]),
        ("/b", &|file| file.set_len(4_000_000).unwrap(), &[]),
        ("/c", &|file| overwrite(file, 70_000), &part),
        ("/d", &|file| file.set_len(4_000_000).unwrap(), &part),
    ];
    for (number, (path, damage, fields)) in damages.into_iter().enumerate() {
        warm(&gateway, path);
        damage(&mut File::options().write(true).open(newest(&disk)).unwrap());
        let answer = ask(gateway.port(), "GET", path, fields);
        // The service knows of no parts.
        assert!(answer.cache_status().contains("fwd=") && answer.status == 200, "{path}: {:?}", answer.headers);
        assert!(answer.body == body(path), "{path}: {} bytes", answer.body.len());
        eventually("it is there again, and whole", || get(gateway.port(), path).cache_status().ends_with("detail=disk"));
        assert_disk(&get(gateway.port(), path), path);
        eventually("the damaged one is gone", || disk.files(".big").len() == number + 1);
    }
}

#[test]
fn a_fallback_that_cannot_be_read_is_none() {
    let (disk, mut origin) = (Disk::new(), origin());
    let gateway = disk.start(origin.port());
    ["/fallen/a", "/fallen/b"].into_iter().for_each(|path| warm(&gateway, path));
    File::options().write(true).open(newest(&disk)).unwrap().write_all(b"something else").unwrap();
    origin.stop();
    for (path, kind) in [("/fallen/a", "cached"), ("/fallen/b", "static")] {
        let answer = ask(gateway.port(), "GET", path, &[("Cache-Control", "no-cache")]);
        assert_eq!((answer.status, answer.header("x-portcullis-fallback")), (200, Some(kind)), "{path}");
        assert!(answer.body == if kind == "cached" { body(path) } else { b"{\"items\":[]}".to_vec() }, "{path}");
        let line = gateway.wait_log(|line| line["path"] == path && line["fallback"] == kind);
        assert_eq!(line["status"], 200, "{line}");
    }
    assert_eq!(gateway.metric("portcullis_fallbacks_total{cause=\"error\",kind=\"cached\"}"), 1.0);
}

/// Nothing stands in for an error that cannot be read: the error is the answer, and the service is not asked once more for that.
#[test]
fn what_cannot_be_read_is_no_excuse() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let origin = Origin::start(move |_: &Asked| {
        Act::Send(match count.fetch_add(1, Ordering::Relaxed) {
            0 => answer(200, &[("Cache-Control", "max-age=1, stale-if-error=600")], body("/a")),
            _ => answer(503, &[("X-Number", "failed")], "down"),
        })
    });
    let disk = Disk::new();
    let gateway = disk.start(origin.port());
    warm(&gateway, "/a");
    eventually("it is stale", || get(gateway.port(), "/a").cache_status().contains("stale-if-error"));
    let damaged = disk.files(".big").pop().unwrap();
    File::options().write(true).open(damaged).unwrap().write_all(b"something else").unwrap();
    let before = asked.load(Ordering::Relaxed);
    let failed = get(gateway.port(), "/a");
    assert_eq!((failed.status, failed.header("x-number"), failed.text().as_str()), (503, Some("failed"), "down"));
    assert_eq!(asked.load(Ordering::Relaxed) - before, 1);
}

/// Bytes on the device of files that have no name any more, but are open.
fn held(gateway: &Gateway) -> u64 {
    let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap();
    let is_removed =
        |path: &PathBuf| std::fs::read_link(path).is_ok_and(|name| name.to_string_lossy().ends_with(".big (deleted)"));
    let sizes = open.filter_map(|file| Some(file.ok()?.path())).filter(is_removed).filter_map(|path| path.metadata().ok());
    sizes.map(|file| (file.ino(), file.blocks() * 512)).collect::<std::collections::HashMap<_, _>>().values().sum()
}

/// Clients that do not read what they have asked for keep no more room than a quarter of what there is.
#[test]
fn slow_clients_hold_no_more_of_what_has_gone_than_they_may() {
    let (disk, origin) = (Disk::new(), origin());
    let gateway = disk.start(origin.port());
    let mut slow: Vec<(String, Client)> = Vec::new();
    for number in 0..6 {
        let path = format!("/slow/{number}");
        warm(&gateway, &path);
        let mut client = Client::narrow(gateway.port());
        client.send_request("GET", &path, &[HOST], b"");
        // It has begun.
        client.stream().peek(&mut [0]).unwrap();
        slow.push((path, client));
    }
    let removed = || gateway.metric("portcullis_cache_disk_removed_bytes");
    assert_eq!((removed(), held(&gateway)), (0.0, 0));
    for number in 0..12 {
        warm(&gateway, &format!("/more/{number}"));
    }
    const MOST: u32 = (64 << 20) / 4;
    assert!(removed() > 0.0 && removed() <= f64::from(MOST), "{}", removed());
    eventually("no more is held", || held(&gateway) <= u64::from(MOST));
    assert!(held(&gateway) > 0);
    let answers = slow.into_iter().map(|(path, mut client)| (body(&path), client.try_answer_to("GET")));
    let (mut whole, mut cut) = (0, 0);
    for (body, answer) in answers {
        match answer {
            Ok(answer) if answer.body == body => whole += 1,
            Ok(answer) => panic!("{} bytes", answer.body.len()),
            Err(_) => cut += 1,
        }
    }
    assert!(whole >= 2 && cut >= 2, "{whole} {cut}");
    eventually("nothing is held any more", || removed() == 0.0 && held(&gateway) == 0);
}

#[test]
fn a_full_device_takes_no_long_body_and_holds_up_nobody() {
    let (disk, origin) = (Disk::new(), origin());
    let Some(_full) = Full::mount(disk.path(), "8m") else { return eprintln!("left out: it takes the right to mount a tmpfs") };
    let gateway = disk.start(origin.port());
    for number in 0..4 {
        let path = format!("/chunked/{number}");
        let answer = get(gateway.port(), &path);
        assert!(answer.status == 200 && answer.body == body(&path), "{path}: {:?}", answer.headers);
    }
    eventually("it is counted", || gateway.metric("portcullis_cache_disk_errors_total") > 0.0);
    let told = gateway.stderr();
    assert!(told.contains("a long body cannot be written to the disk cache"), "{told}");
    eventually("nothing is left half-written", || disk.files(".new").is_empty());
    // What is short is still kept, in memory at the least.
    get(gateway.port(), "/small/a");
    assert!(get(gateway.port(), "/small/a").cache_status().contains("; hit"));
}

/// Where the body ends with a block, a byte before or a byte behind it.
#[test]
fn its_last_block_is_given_whole_and_in_parts() {
    const BLOCK: usize = 64 << 10;
    let (disk, origin) = (Disk::new(), origin());
    let mut gateway = disk.start(origin.port());
    let lengths = [40 * BLOCK - 1, 40 * BLOCK, 40 * BLOCK + 1];
    let paths = lengths.map(|length| [format!("/size-{length}"), format!("/chunked/size-{length}")]);
    for _ in 0..2 {
        for (length, path) in lengths.iter().zip(&paths).flat_map(|(length, two)| two.iter().map(|path| (*length, path))) {
            if origin.count(path) == 0 {
                warm(&gateway, path);
            }
            assert_disk(&get(gateway.port(), path), path);
            let whole = body(path);
            for first in [39 * BLOCK - 1, 39 * BLOCK, 39 * BLOCK + 1, 40 * BLOCK - 2, 40 * BLOCK - 1, 40 * BLOCK, length - 1] {
                for (range, end) in [(format!("{first}-"), length), (format!("{first}-{}", length - 1), length)] {
                    let answer = part(&gateway, path, &format!("bytes={range}"), &[]);
                    if first >= end {
                        // Behind its end, or backwards, which is no range.
                        assert_ne!(answer.status, 206, "{path} {range}");
                        continue;
                    }
                    let said = format!("bytes {first}-{}/{length}", length - 1);
                    assert_eq!((answer.status, answer.header("content-range")), (206, Some(&*said)), "{path} {range}");
                    assert!(answer.body == whole[first..end], "{path} {range}: {} bytes", answer.body.len());
                }
            }
            let last = part(&gateway, path, "bytes=-1", &[]);
            assert_eq!((last.status, &*last.body), (206, &whole[length - 1..]), "{path}");
            let over = part(&gateway, path, &format!("bytes={}-{},-1", 39 * BLOCK - 1, 39 * BLOCK), &[]);
            assert_eq!(over.status, 206, "{path}");
            assert!(find(&over.body, &whole[39 * BLOCK - 1..=39 * BLOCK]).is_some(), "{path}");
            assert_eq!(part(&gateway, path, &format!("bytes={length}-"), &[]).status, 416, "{path}");
            assert_eq!(origin.count(path), 1);
        }
        // And so it is for the next process.
        gateway = restarted(gateway, &disk, origin.port(), "KILL");
    }
    // Small parts of one block are cut from one read of it.
    let (path, read) = (&paths[1][0], || gateway.metric("portcullis_cache_disk_read_bytes_total"));
    assert_disk(&get(gateway.port(), path), path);
    let before = read();
    let parts: Vec<String> = (0..20).map(|number| format!("{0}-{0}", 39 * BLOCK + 2 * number)).collect();
    assert_eq!(part(&gateway, path, &format!("bytes={}", parts.join(",")), &[]).status, 206);
    assert_eq!(read() - before, (BLOCK + 16) as f64);
}

/// A gateway, with what is on a device that hangs, of one path.
fn hanging(path: &str, shadow: u16, origin: &Origin) -> Option<(Disk, Gateway, SlowFile)> {
    let disk = Disk::new();
    let gateway = disk.start_beside(origin.port(), shadow);
    warm(&gateway, path);
    let Some(slow) = SlowFile::over(&newest(&disk)) else {
        eprintln!("left out: it takes the right to mount a file system");
        return None;
    };
    Some((disk, gateway, slow))
}

/// The longest that a block in the middle of a body is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn a_disk_that_hangs_is_waited_for_no_longer_than_for_what_is_short() {
    let origin = origin();
    let Some((_disk, gateway, slow)) = hanging("/a", origin.port(), &origin) else { return };
    let late = || gateway.metric("portcullis_cache_disk_late_total");
    let asked = origin.count("/a");
    for (number, fields) in [&[][..], &[("Range", "bytes=70000-70009")], &[("Range", "bytes=0-1,5-6")]].into_iter().enumerate() {
        let begun = Instant::now();
        let answer = ask(gateway.port(), "GET", "/a", fields);
        assert!(answer.status == 200 && answer.body == body("/a"), "{} {:?}", answer.status, answer.headers);
        assert!(answer.cache_status().contains("fwd=bypass"), "{:?}", answer.headers);
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        assert_eq!((late(), origin.count("/a")), ((number + 1) as f64, asked + number + 1));
    }
    assert!(slow.is_awaited());
    // Who wants nothing but what is stored is sent to no service, and what takes no body waits for none.
    let none = ask(gateway.port(), "GET", "/a", &[("Cache-Control", "only-if-cached")]);
    assert_eq!((none.status, none.header("content-type")), (504, Some("application/problem+json")));
    assert_eq!(ask(gateway.port(), "HEAD", "/a", &[]).cache_status().split(';').nth(1), Some(" hit"));
    assert_eq!(origin.count("/a"), asked + 3);
    // That was no damage.
    slow.go_on();
    eventually("it is given again", || ask(gateway.port(), "GET", "/a", &[("Range", "bytes=0-0")]).status == 206);
    assert_disk(&get(gateway.port(), "/a"), "/a");
    assert_eq!(gateway.metric("portcullis_cache_disk_damaged_total"), 0.0);
}

#[test]
fn what_is_late_is_copied_to_a_mirror_once() {
    let (origin, shadow) = (origin(), Backend::http());
    let path = "/copied/tagged/a";
    let Some((_disk, gateway, _slow)) = hanging(path, shadow.port(), &origin) else { return };
    eventually("the first was copied", || shadow.requests().len() == 1);
    // It is validated, and copied meanwhile; then what is stored does not come, and the service is asked for the whole.
    let answer = ask(gateway.port(), "GET", path, &[("Cache-Control", "no-cache"), ("X-Own", "late")]);
    assert!(answer.cache_status().contains("fwd=bypass") && answer.body == body(path), "{:?}", answer.headers);
    let copies = || gateway.metric("portcullis_mirrored_requests_total{outcome=\"answered\"}");
    eventually("it was copied", || copies() == 2.0);
    // One more, so that a second copy of the last one would have come by now.
    ask(gateway.port(), "GET", path, &[("X-Own", "after")]);
    eventually("the next one was copied", || copies() >= 3.0);
    let copied: Vec<_> = shadow.requests().iter().map(|copy| copy.header("x-own").unwrap_or("").to_owned()).collect();
    assert_eq!(copied, ["", "late", "after"]);
}

/// There is nothing better than what stands in for an error.
#[test]
fn a_slow_disk_is_waited_for_where_its_service_fails() {
    let mut origin = origin();
    for fields in [&[][..], &[("Range", "bytes=70000-70009")]] {
        let Some((_disk, gateway, slow)) = hanging("/tagged/a", origin.port(), &origin) else { return };
        let only = [("Cache-Control", "only-if-cached")];
        eventually("it has expired", || ask(gateway.port(), "HEAD", "/tagged/a", &only).status == 504);
        origin.stop();
        let late = gateway.metric("portcullis_cache_disk_late_total");
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| ask(gateway.port(), "GET", "/tagged/a", fields));
            eventually("it waits for the disk", || slow.is_awaited());
            // Longer than other requests would.
            let waits = Instant::now();
            eventually("the deadline has passed", || waits.elapsed() > Duration::from_millis(300));
            slow.go_on();
            let answer = asked.join().unwrap();
            assert!(answer.cache_status().contains("detail=stale-if-error"), "{} {:?}", answer.status, answer.headers);
            let (status, wanted) =
                if fields.is_empty() { (200, body("/tagged/a")) } else { (206, body("/tagged/a")[70_000..70_010].to_vec()) };
            assert!(answer.status == status && answer.body == wanted, "{} bytes", answer.body.len());
        });
        assert_eq!(gateway.metric("portcullis_cache_disk_late_total"), late);
        origin.back();
    }
}

/// Who waits for a long body is not cut off when another process takes the folder over in the middle of it.
#[test]
fn an_upgrade_cuts_off_nobody_who_waits_for_one_that_still_comes() {
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 6000001\r\n\r\n";
    let body = body("/a");
    // Of the one the most is there by then, of the other not a block.
    for first in [3_000_000, 10_000] {
        let slow = Slow::start(head, vec![body[..first].to_vec(), body[first..].to_vec()]);
        let disk = Disk::new();
        let gateway = disk.start(slow.port());
        let ask = || {
            let mut client = Client::connect(gateway.port());
            client.send_request("GET", "/a", &[HOST], b"");
            client
        };
        let mut fills = ask();
        eventually("the backend is asked", || slow.asked() == 1);
        slow.let_through(1);
        let begins = fills.take(5_000);
        let mut waits: Vec<Client> = (0..3).map(|_| ask()).collect();
        let mut begun: Vec<Vec<u8>> = waits.iter_mut().map(|client| client.take(first / 2)).collect();
        let before = gateway.pid();
        let ran = portcullis(gateway.dir(), &["upgrade", "--pid-file", "gateway.pid", "--timeout", "60"]);
        assert!(ran.code == 0 && gateway.pid() != before, "{ran:?}");
        eventually("the new one has the folder", || gateway.metric("portcullis_cache_disk_open") == 1.0);
        slow.let_through(2);
        waits.push(fills);
        begun.push(begins);
        for (client, mut had) in waits.iter_mut().zip(begun) {
            let head = find(&had, b"\r\n\r\n").unwrap() + 4;
            had.extend(client.take(LENGTH + head - had.len()));
            assert!(had[head..] == body, "{first}");
        }
        assert_eq!(slow.asked(), 1);
        // It is none of the folder's.
        eventually("nothing is left of it", || disk.files(".new").is_empty());
        assert_eq!(disk.files(".big").len(), 0);
    }
}

/// The process gets no more descriptors, or as many as before.
fn starve(gateway: &Gateway, starves: bool) {
    let most = if starves { "--nofile=1:" } else { "--nofile=1000:" };
    let done = std::process::Command::new("prlimit").args(["--pid", &gateway.pid().to_string(), most]).status().unwrap();
    assert!(done.success());
}

/// Long once, and then short and soon stale.
fn shrinking() -> Origin {
    let count = AtomicUsize::new(0);
    Origin::start(move |asked: &Asked| {
        if asked.target == "/small" {
            return Act::Send(answer(200, &[("Cache-Control", "no-store")], "small"));
        }
        Act::Send(match count.fetch_add(1, Ordering::Relaxed) {
            0 => answer(200, &[("Cache-Control", "max-age=600")], body("/a")),
            _ => answer(200, &[("Cache-Control", "max-age=2")], "short"),
        })
    })
}

/// What the process has run out of for a moment says nothing of what is stored.
#[test]
fn what_cannot_be_opened_for_now_is_a_miss_for_now() {
    let (disk, origin) = (Disk::new(), origin());
    let gateway = disk.start(origin.port());
    warm(&gateway, "/a");
    let gateway = restarted(gateway, &disk, origin.port(), "TERM");
    let mut client = Client::connect(gateway.port());
    // It has a connection to the service.
    client.request("GET", "/memory/a", &[HOST], b"");
    starve(&gateway, true);
    // Not fetched anew: that would take its place.
    let missed = client.request("GET", "/a", &[HOST, ("Cache-Control", "only-if-cached")], b"");
    assert_eq!(missed.status, 504, "{:?}", missed.headers);
    starve(&gateway, false);
    assert!(gateway.metric("portcullis_cache_disk_errors_total") >= 1.0);
    // It is counted twice a second.
    gateway.wait_metric("portcullis_cache_disk_entries", 1.0);
    let kept = get(gateway.port(), "/a");
    assert_eq!(kept.header("x-number"), Some("0"), "{:?}", kept.headers);
    assert_disk(&kept, "/a");
    // The head is in memory by now, and the body cannot be opened.
    starve(&gateway, true);
    let missed = client.request("GET", "/a", &[HOST], b"");
    assert!(missed.cache_status().contains("detail=unusable") && missed.body == body("/a"), "{:?}", missed.headers);
    starve(&gateway, false);
    assert_disk(&get(gateway.port(), "/a"), "/a");
    assert_eq!(gateway.metric("portcullis_cache_disk_damaged_total"), 0.0);
}

/// What could not be read, and was replaced by what stays in memory, is not there after the next start.
#[test]
fn what_was_replaced_after_it_could_not_be_read_does_not_come_back() {
    let (disk, origin) = (Disk::new(), shrinking());
    let gateway = disk.start(origin.port());
    warm(&gateway, "/a");
    let gateway = restarted(gateway, &disk, origin.port(), "TERM");
    let mut client = Client::connect(gateway.port());
    client.request("GET", "/small", &[HOST], b"");
    starve(&gateway, true);
    let newer = client.request("GET", "/a", &[HOST], b"");
    assert!(newer.cache_status().contains("fwd=miss; stored") && newer.text() == "short", "{:?}", newer.headers);
    starve(&gateway, false);
    eventually("the one before is gone", || disk.files(".big").is_empty());
    let gateway = restarted(gateway, &disk, origin.port(), "TERM");
    let stored = ask(gateway.port(), "GET", "/a", &[("Cache-Control", "only-if-cached")]);
    assert_eq!((stored.status, stored.body.len() == LENGTH), (504, false), "{:?}", stored.headers);
}

/// Before somebody who waits for one that still comes is told anything, its first block is read.
#[test]
fn one_that_still_comes_and_cannot_be_read_is_asked_for_once_more() {
    let (body, slow, disk) = in_two();
    let gateway = disk.start(slow.port());
    let ask = || asks(&gateway);
    let mut fills = ask();
    eventually("the backend is asked", || slow.asked() == 1);
    slow.let_through(1);
    eventually("its first blocks are written", || {
        disk.files(".new").first().is_some_and(|file| file.metadata().is_ok_and(|file| file.len() > 1_000_000))
    });
    let file = disk.files(".new").pop().unwrap();
    File::options().write(true).open(file).unwrap().write_all(b"something else").unwrap();
    let mut waits = ask();
    eventually("the backend is asked for it", || slow.asked() == 2);
    slow.let_through(2);
    let answer = waits.answer_to("GET");
    assert!(answer.cache_status().ends_with("fwd=bypass; detail=unusable") && answer.body == body, "{:?}", answer.headers);
    assert!(fills.answer_to("GET").body == body);
}

/// A folder that was larger is made smaller when it is opened, whether anything is written or not.
#[test]
fn a_smaller_folder_is_made_smaller_at_the_start() {
    let (disk, origin) = (Disk::new(), origin());
    let mut gateway = disk.start_of("128MiB", origin.port(), origin.port());
    (0..13).for_each(|number| warm(&gateway, &format!("/{number}")));
    gateway.signal("TERM");
    gateway.wait_exit(Duration::from_secs(20));
    let held = || disk.files("").iter().map(|file| file.metadata().map_or(0, |file| file.len())).sum::<u64>();
    assert!(held() > 64 << 20);
    let gateway = disk.start(origin.port());
    eventually("it is smaller", || held() <= 64 << 20);
    eventually("it is known", || gateway.metric("portcullis_cache_disk_bytes") <= f64::from(64 << 20));
    assert_disk(&get(gateway.port(), "/12"), "/12");
    assert_eq!(origin.count("/12"), 1);
}
