use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicUsize};
use std::sync::mpsc;

use super::*;
use crate::address::EndpointAddress;
use crate::ledger::Ledger;
use crate::problem::{Place, Problems};
use crate::upstream::Kept;

/// A backend that answers every request with a status that can be changed; 0 stands for an answer that never comes.
struct Backend {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
}

impl Backend {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (status, asked) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicUsize::new(0)));
        let backend = Backend { address: listener.local_addr().unwrap(), status: status.clone(), asked: asked.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                asked.fetch_add(1, Ordering::SeqCst);
                let status = status.load(Ordering::SeqCst);
                std::thread::spawn(move || answer(stream, status));
            }
        });
        backend
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn answer(mut stream: TcpStream, status: u16) {
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => head.extend_from_slice(&buffer[..read]),
        }
    }
    let text = String::from_utf8(head).unwrap();
    let right = text.starts_with("GET /healthz HTTP/1.1\r\n") && text.to_lowercase().contains("\r\nhost: ");
    match status {
        0 => std::thread::sleep(Duration::from_secs(5)),
        // An interim answer first, and a body that never ends: neither may confuse a check.
        _ if right => {
            let _ = write!(stream, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 {status} X\r\nContent-Length: 9999999\r\n\r\nhalf");
            std::thread::sleep(Duration::from_millis(200));
        }
        _ => drop(write!(stream, "HTTP/1.1 400 X\r\nContent-Length: 0\r\n\r\n")),
    }
}

const CHECK: &str = "health_check: { path: /healthz, interval: 100ms, timeout: 150ms, healthy_after: 2, unhealthy_after: 2 }";

fn service(yaml: &str, ledger: &Ledger) -> Arc<Service> {
    let mut problems = Problems::default();
    let config = serde_yaml::from_str(yaml).unwrap();
    let service = Service::compile(
        "catalog",
        Place::NOWHERE,
        &config,
        Path::new(""),
        &mut problems,
        Kept { ledger, tallies: &Arc::default(), background: None },
    );
    service.unwrap_or_else(|| panic!("{problems:?}"))
}

fn checked(addresses: &[SocketAddr], ledger: &Ledger) -> Arc<Service> {
    let addresses: Vec<String> = addresses.iter().map(|address| format!("'{address}'")).collect();
    service(&format!("{{ endpoints: [{}], {CHECK} }}", addresses.join(", ")), ledger)
}

fn listening() -> (Watchers, mpsc::Receiver<(EndpointAddress, bool, Option<String>)>) {
    let (sender, changes) = mpsc::channel();
    let sender = Mutex::new(sender);
    let watchers = Watchers::observed(Box::new(move |change| {
        let _ = sender.lock().send((change.address, change.healthy, change.reason.map(str::to_owned)));
    }));
    (watchers.unwrap(), changes)
}

const SOON: Duration = Duration::from_secs(8);

#[test]
fn an_endpoint_leaves_and_comes_back_with_its_health() {
    let (well, ill, ledger) = (Backend::start(), Backend::start(), Ledger::default());
    let service = checked(&[well.address, ill.address], &ledger);
    let (watchers, changes) = listening();
    watchers.sync(std::slice::from_ref(&service));
    assert_eq!(service.cluster.available(), 2);
    for (status, reason) in [(500, "answered 500"), (0, "no answer within 150ms")] {
        ill.status.store(status, Ordering::SeqCst);
        let (address, healthy, said) = changes.recv_timeout(SOON).unwrap();
        let said = said.unwrap();
        // The connection's own limit is as long as the check's, and may be over first.
        assert!(said == reason || (status == 0 && said.contains("ReadTimedout")), "{said}");
        assert_eq!((address, healthy), (EndpointAddress::Inet(ill.address), false));
        assert!((0..10).all(|_| service.pick(&[]).unwrap().addr == well.address));
        ill.status.store(204, Ordering::SeqCst);
        assert_eq!(changes.recv_timeout(SOON).unwrap(), (EndpointAddress::Inet(ill.address), true, None));
        assert_eq!(service.cluster.available(), 2);
    }
    let view = serde_json::to_value(service.view()).unwrap();
    assert_eq!(view["endpoints"][0]["last_check"]["ok"], true, "{view}");
    assert!(changes.try_recv().is_err());
}

#[test]
fn a_refused_connection_is_noticed_by_both_kinds_of_check() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    for check in [CHECK, "health_check: { tcp: true, interval: 100ms, unhealthy_after: 2 }"] {
        let yaml = format!("{{ endpoints: ['{gone}', '{}'], {check} }}", there.local_addr().unwrap());
        let service = service(&yaml, &Ledger::default());
        let (watchers, changes) = listening();
        watchers.sync(std::slice::from_ref(&service));
        loop {
            let (address, healthy, _) = changes.recv_timeout(SOON).unwrap();
            assert!(!healthy);
            if address == gone {
                break;
            }
        }
    }
}

#[test]
fn a_reload_leaves_running_checks_alone_and_ends_those_of_what_is_gone() {
    let (one, two, ledger) = (Backend::start(), Backend::start(), Ledger::default());
    one.status.store(500, Ordering::SeqCst);
    let (watchers, changes) = listening();
    let old = checked(&[one.address], &ledger);
    watchers.sync(std::slice::from_ref(&old));
    assert!(!changes.recv_timeout(SOON).unwrap().1);
    let new = checked(&[one.address, two.address], &ledger);
    drop(old);
    watchers.sync(std::slice::from_ref(&new));
    assert!((0..10).all(|_| new.pick(&[]).unwrap().addr == two.address));
    let reached = std::time::Instant::now();
    while two.asked() == 0 && reached.elapsed() < SOON {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(two.asked() > 0);
    // Nothing is left to check: the endpoint counts as healthy again, and is not asked any more.
    let unchecked = service(&format!("endpoints: ['{}']", one.address), &ledger);
    watchers.sync(std::slice::from_ref(&unchecked));
    assert!(unchecked.pick(&[]).is_some());
    std::thread::sleep(Duration::from_millis(300));
    let asked = one.asked();
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(one.asked(), asked);
    watchers.sync(&[]);
    drop((new, unchecked));
    std::thread::sleep(Duration::from_millis(100));
    ledger.sweep();
    assert!(ledger.is_empty());
}

#[test]
fn names_are_resolved_in_the_background_and_their_endpoints_checked() {
    let (backend, ledger) = (Backend::start(), Ledger::default());
    let port = backend.address.port();
    let service = service(&format!("{{ endpoints: ['localhost:{port}', 'no-such-host.invalid:1'], {CHECK} }}"), &ledger);
    assert!(service.pick(&[]).is_none());
    let (watchers, _changes) = listening();
    watchers.sync(std::slice::from_ref(&service));
    let started = std::time::Instant::now();
    while (service.cluster.available() == 0 || backend.asked() == 0) && started.elapsed() < SOON {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(service.pick(&[]).unwrap().addr.inet().unwrap().ip().is_loopback());
    assert!(backend.asked() > 0);
}

#[test]
fn variation_stays_within_its_bounds() {
    let all: Vec<Duration> = (0..1000).map(|_| varied(Duration::from_secs(1), 0.9, 1.1)).collect();
    assert!(all.iter().all(|period| (900..=1100).contains(&period.as_millis())));
    assert!(all.iter().max().unwrap().as_millis() > 1080 && all.iter().min().unwrap().as_millis() < 920);
}

/// What watches turns for many reasons, and begins to wait anew each time.
#[tokio::test]
async fn shares_grow_however_often_the_watcher_turns() {
    let (start, mut next) = (Instant::now(), Instant::now());
    // In steps of 100 ms.
    let window = Some(Duration::from_secs(2));
    for _ in 0..30 {
        let waited = tokio::time::timeout(Duration::from_millis(20), warm_up(Weak::new(), window, &mut next)).await;
        assert!(waited.is_err());
    }
    assert!(next - start > Duration::from_millis(500), "{:?}", next - start);
}

#[test]
fn who_does_not_answer_for_a_name_holds_up_nobody() {
    let silent: Vec<_> = (0..3).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let servers: Vec<_> = silent.iter().map(|socket| format!("'{}'", socket.local_addr().unwrap())).collect();
    let yaml = format!(
        "{{ endpoints: ['10.0.0.1:1', '10.0.0.1:2'], discover: {{ dns: 'catalog.test:80', servers: [{}] }} }}",
        servers.join(", ")
    );
    let service = service(&yaml, &Ledger::default());
    let (watchers, _changes) = listening();
    watchers.sync(std::slice::from_ref(&service));
    let mut packet = [0; 512];
    silent[0].set_read_timeout(Some(SOON)).unwrap();
    silent[0].recv(&mut packet).expect("it is asked");
    let began = std::time::Instant::now();
    let picked = service.pick(&[]).unwrap();
    for _ in 0..3 {
        let mut flight = picked.begin(&service).unwrap();
        flight.note(&service, crate::upstream::AttemptOutcome::Unreachable, None);
    }
    while !picked.endpoint.is_ejected() {
        // All of them together have nine seconds.
        assert!(began.elapsed() < Duration::from_secs(4), "nobody looks");
        std::thread::sleep(Duration::from_millis(10));
    }
}
