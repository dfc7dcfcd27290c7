//! What bounds a connection: places, silence, how fast it may be, and what its client has of them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

use super::*;

/// A connection of another client on this host.
pub fn connect_from(last: u8, port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0).into()).unwrap();
    socket.connect(&SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port).into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Says everything that it hears.
pub fn echo() -> u16 {
    listening(|mut stream| {
        let mut writes = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut stream, &mut writes);
    })
}

fn echoes(stream: &mut TcpStream) -> bool {
    ask(stream, b"x", 1).is_ok()
}

#[test]
fn who_leaves_while_it_waits_gives_its_place_back_at_once() {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["example.org"]);
    let back = echo();
    let yaml = format!(
        "
        listeners:
          - {{ name: front, bind: '127.0.0.1:$PORT', protocol: tcp }}
          - {{ name: over_tls, bind: '127.0.0.1:$PORT2', protocol: tcp, tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ] }} }}
        services: {{ back: {{ endpoints: [ '127.0.0.1:{back}' ], max_connections: 1, max_pending: 1, timeouts: {{ queue: 1m }} }} }}
        tcp_routes: [ {{ id: front, listeners: [ front, over_tls ], service: back }} ]
        server: {{ workers: 2 }}
        ",
        cert.display(),
        key.display()
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let mut first = connect(gateway.port());
    assert!(echoes(&mut first));
    let open = |count: f64| gateway.wait_metric("portcullis_tcp_connections_open{route=\"front\"}", count);
    // With something said or without, with an end or a break, and inside of TLS.
    for number in 0..4 {
        let began = Instant::now();
        let mut waits = connect(if number == 3 { gateway.port2() } else { gateway.port() });
        if number == 1 {
            waits.write_all(b"something").unwrap();
        }
        match number {
            2 => {
                open(2.0);
                reset(waits);
            }
            3 => {
                let mut builder =
                    pingora_core::tls::ssl::SslContextBuilder::new(pingora_core::tls::ssl::SslMethod::tls()).unwrap();
                builder.set_verify(pingora_core::tls::ssl::SslVerifyMode::NONE);
                let ssl = pingora_core::tls::ssl::Ssl::new(&builder.build()).unwrap();
                let mut stream = pingora_core::tls::ssl::SslStream::new(ssl, waits).unwrap();
                stream.connect().unwrap();
                stream.write_all(b"something").unwrap();
                open(2.0);
                stream.shutdown().unwrap();
            }
            _ => {
                open(2.0);
                drop(waits);
            }
        }
        open(1.0);
        gateway.wait_metric("portcullis_tcp_connections_total{route=\"front\",reason=\"client_left\"}", f64::from(number) + 1.0);
        assert!(began.elapsed() < Duration::from_secs(20), "long before `timeouts.queue`");
    }
    // The place in the queue is free, and what is said while it waits is the service's later, however much.
    let mut patient = connect(gateway.port());
    let much: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
    let mut writes = patient.try_clone().unwrap();
    let said = much.clone();
    let writing = std::thread::spawn(move || writes.write_all(&said).unwrap());
    open(2.0);
    let mut one_too_many = connect(gateway.port());
    assert!(rest(&mut one_too_many).map_or(true, |all| all.is_empty()));
    gateway.wait_log(|line| line["reason"] == "queue_full");
    drop(first);
    let mut heard = vec![0; much.len()];
    patient.read_exact(&mut heard).unwrap();
    writing.join().unwrap();
    assert!(heard == much, "in order and whole");
    let line = gateway.wait_log(|line| line["reason"] == "client_left");
    assert_eq!((&line["service"], &line["bytes_out"]), (&json!("back"), &json!(0)));
}

#[test]
fn an_end_that_is_left_alone_has_a_minute_or_what_is_written() {
    // Hears all, and then says nothing, or says something now and then.
    let back = listening(|mut stream| {
        let all = rest(&mut stream).unwrap();
        if all == b"talk" {
            for _ in 0..6 {
                std::thread::sleep(Duration::from_millis(400));
                stream.write_all(b".").unwrap();
            }
            return;
        }
        std::thread::sleep(Duration::from_secs(30));
    });
    let gateway = Gateway::start(&plain(&[back], ", timeouts: { half_closed: 1s }", ""));
    let began = Instant::now();
    let mut silent: Vec<_> = (0..100).map(|_| connect(gateway.port())).collect();
    for client in &mut silent {
        client.write_all(b"hush").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    let mut talks = connect(gateway.port());
    talks.write_all(b"talk").unwrap();
    talks.shutdown(Shutdown::Write).unwrap();
    for client in &mut silent {
        assert_eq!(rest(client).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    }
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(rest(&mut talks).unwrap(), b"......", "what is said is not silence");
    gateway.wait_metric("portcullis_tcp_connections_total{route=\"front\",reason=\"half_closed_timeout\"}", 100.0);
    gateway.wait_metric("portcullis_tcp_connections_open{route=\"front\"}", 0.0);
    assert_eq!(gateway.wait_log(|line| line["bytes_out"] == 6)["reason"], "client_closed");
    // The other way round: the service has ended, and its client stays; what is open both ways has its hour.
    let back = listening(|mut stream| {
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        if first == *b"e" {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        let _ = rest(&mut stream);
    });
    let gateway = Gateway::start(&plain(&[back], ", timeouts: { half_closed: 1s }", ""));
    let (mut stays, mut waits) = (connect(gateway.port()), connect(gateway.port()));
    waits.write_all(b"w").unwrap();
    stays.write_all(b"e").unwrap();
    assert_eq!(rest(&mut stays).unwrap(), b"");
    let line = gateway.wait_log(|line| line["reason"] == "half_closed_timeout");
    assert!(line["duration_us"].as_u64() < Some(10_000_000), "{line}");
    assert_eq!(gateway.metric("portcullis_tcp_connections_open{route=\"front\"}"), 1.0);
}

#[test]
fn one_address_has_so_many_connections_of_a_route() {
    let back = echo();
    let yaml = plain(&[back], ", max_connections_per_address: 2", "");
    let gateway = Gateway::start(&yaml);
    let (mut one, mut two) = (connect(gateway.port()), connect(gateway.port()));
    assert!(echoes(&mut one) && echoes(&mut two));
    let closed = || rest(&mut connect(gateway.port())).map_or(true, |all| all.is_empty());
    assert!(closed());
    assert_eq!(gateway.wait_log(|_| true)["reason"], "max_connections_per_address");
    assert!(echoes(&mut connect_from(2, gateway.port())), "another client is not concerned");
    // Nobody forgets what is there when something else changes.
    gateway.rewrite(&yaml.replace("max_connections_per_address: 2", "max_connections_per_address: 2, timeouts: { idle: 1h }"));
    assert_eq!(gateway.reload().0, 200);
    assert!(closed() && echoes(&mut one));
    gateway.rewrite(&yaml.replace("max_connections_per_address: 2", "max_connections_per_address: 3"));
    assert_eq!(gateway.reload().0, 200);
    let mut three = connect(gateway.port());
    assert!(echoes(&mut three) && closed());
    drop((one, two, three));
    gateway.wait_metric("portcullis_tcp_connections_open{route=\"front\"}", 0.0);
    eventually("the places are free", || echoes(&mut connect(gateway.port())));
}

#[test]
fn a_connection_is_as_fast_as_it_may_be_each_way() {
    const MUCH: usize = 3 << 20;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    // Sends without being asked, and hears whatever comes.
    let back = listening(move |mut stream| {
        let mut reads = stream.try_clone().unwrap();
        let hearing = std::thread::spawn(move || std::io::copy(&mut reads, &mut std::io::sink()));
        let block = [b'd'; 64 << 10];
        for _ in 0..MUCH / block.len() {
            if stream.write_all(&block).is_err() {
                return;
            }
            count.fetch_add(block.len(), Ordering::SeqCst);
        }
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = hearing.join();
    });
    let gateway = Gateway::start(&plain(&[back], ", bandwidth: { upload: 2MiB, download: 1MiB }", ""));
    let mut client = connect(gateway.port());
    let mut writes = client.try_clone().unwrap();
    let began = Instant::now();
    let uploading = std::thread::spawn(move || {
        writes.write_all(&vec![b'u'; MUCH]).unwrap();
        writes.shutdown(Shutdown::Write).unwrap();
        // The rest of it is in the sockets.
        began.elapsed()
    });
    let mut first = vec![0; MUCH / 4];
    client.read_exact(&mut first).unwrap();
    assert_eq!(rest(&mut client).unwrap().len(), MUCH - first.len());
    let took = began.elapsed();
    assert!((2.6..8.0).contains(&took.as_secs_f64()), "3 MiB at 1 MiB/s: {took:?}");
    uploading.join().unwrap();
    let line = gateway.wait_log(|_| true);
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&json!(MUCH), &json!(MUCH)), "{line}");
    assert_eq!(sent.load(Ordering::SeqCst), MUCH);
    // What is small is not held up by it.
    let back = echo();
    let gateway = Gateway::start(&plain(&[back], ", bandwidth: { upload: 64KiB, download: 64KiB }", ""));
    let mut client = connect(gateway.port());
    let began = Instant::now();
    assert!((0..20).all(|_| echoes(&mut client)));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn what_is_sent_to_a_slow_service_waits_with_its_client() {
    let heard = Arc::new(AtomicUsize::new(0));
    let (count, go) = (heard.clone(), Arc::new(AtomicUsize::new(0)));
    let may = go.clone();
    let back = listening(move |mut stream| {
        while may.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut block = vec![0; 1 << 16];
        while let Ok(length @ 1..) = stream.read(&mut block) {
            count.fetch_add(length, Ordering::SeqCst);
        }
    });
    let gateway = Gateway::start(&plain(&[back], "", ""));
    let memory = || gateway.resident() >> 20;
    let before = memory();
    let mut clients: Vec<_> = (0..50).map(|_| connect(gateway.port())).collect();
    let block = vec![b'u'; 1 << 20];
    let mut sent = 0;
    for client in &mut clients {
        client.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
        while let Ok(length) = client.write(&block) {
            sent += length;
            assert!(sent < 4 << 30, "nobody hears it");
        }
    }
    let after = memory();
    assert!(after < before + 24, "{before} MiB before, {after} MiB with 50 stalled connections");
    go.store(1, Ordering::SeqCst);
    drop(clients);
    eventually("all of it arrives", || heard.load(Ordering::SeqCst) == sent);
}

#[test]
fn an_old_process_gives_connections_their_time_and_then_ends_them() {
    let back = echo();
    let mut gateway = Gateway::start(&plain(&[back], "", "").replace("workers: 2", "workers: 2, grace: 2s"));
    let mut old = connect(gateway.port());
    assert!(echoes(&mut old));
    let ran = portcullis(gateway.dir(), &["upgrade", "--pid-file", "gateway.pid", "--timeout", "60"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let mut new = connect(gateway.port());
    assert!(echoes(&mut new));
    assert_eq!(rest(&mut old).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    assert_eq!(gateway.wait_exit(Duration::from_secs(20)).code(), Some(0));
    gateway.wait_log(|line| line["reason"] == "shutdown" && line["bytes_in"] == 1);
    assert!(echoes(&mut new), "the new process has its own");
}
