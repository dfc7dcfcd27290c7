//! Services behind Unix sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::harness::{Answer, Backend, Client, Files, Gateway, eventually, get, portcullis};
use crate::protocols::peer::{Peer, play};

/// Serves on `listener` what the backend on `port` answers: whatever speaks TCP is then behind a Unix socket.
fn relay(listener: UnixListener, port: u16) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(near) = stream else { return };
            let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            let (mut near_in, mut far_out) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || {
                copy(&mut near_in, &mut far_out);
                let _ = far_out.shutdown(Shutdown::Write);
            });
            let (mut far_in, mut near_out) = (far, near);
            std::thread::spawn(move || {
                copy(&mut far_in, &mut near_out);
                let _ = near_out.shutdown(Shutdown::Both);
            });
        }
    });
}

fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

fn socket_to(files: &Files, name: &str, port: u16) -> String {
    let path = files.dir().join(name);
    let _ = std::fs::remove_file(&path);
    relay(UnixListener::bind(&path).unwrap(), port);
    path.display().to_string()
}

fn start(files: &Files, service: &str) -> Gateway {
    let yaml = format!(
        "listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]\nserver: {{ workers: 1 }}\nservices: {{ app: {{ {service} }} }}\n\
         routes: [ {{ path: /*, service: app }} ]\n"
    );
    Gateway::start_in(files, &yaml)
}

#[test]
fn a_service_behind_a_socket_is_a_service_like_any_other() {
    let (files, backend) = (Files::new(), Backend::http());
    let path = socket_to(&files, "app.sock", backend.port());
    let gateway = start(&files, &format!("endpoints: ['unix:{path}'], health_check: {{ path: /healthz, interval: 100ms }}"));
    let address = format!("unix:{path}");
    let mut client = Client::connect(gateway.port());
    for body in [&b""[..], &[b'x'; 300_000]] {
        let answer = client.request("POST", "/orders", &[], body);
        assert_eq!(answer.status, 200, "{answer:?}");
        let asked = backend.requests().into_iter().rfind(|asked| asked.target == "/orders").unwrap();
        assert_eq!((asked.body.len(), asked.header("host")), (body.len(), Some(&*format!("127.0.0.1:{}", gateway.port()))));
    }
    eventually("it was checked", || backend.requests().iter().any(|asked| asked.target == "/healthz"));
    let check = backend.requests().into_iter().find(|asked| asked.target == "/healthz").unwrap();
    assert_eq!(check.header("host"), Some("localhost"));
    assert_eq!(gateway.wait_log(|line| line["path"] == "/orders")["endpoint"], address);
    gateway.wait_metric(&format!("portcullis_upstream_healthy{{service=\"app\",endpoint=\"{address}\"}}"), 1.0);
    let (_, text) = gateway.admin_get("/upstreams");
    let view: serde_json::Value = serde_json::from_str(&text).unwrap();
    let endpoint = &view["services"][0]["endpoints"][0];
    assert_eq!((&endpoint["address"], &endpoint["healthy"]), (&json!(address), &json!(true)), "{view}");
    // One connection for both requests: it is kept like any other.
    let checks = backend.requests().iter().filter(|asked| asked.target == "/healthz").count();
    assert!(backend.connections() <= checks + 2, "{} connections, {checks} checks", backend.connections());
}

#[test]
fn a_socket_that_is_not_there_yet_cannot_be_connected_to() {
    let (files, backend) = (Files::new(), Backend::http());
    let path = files.dir().join("late.sock");
    let gateway = start(&files, &format!("endpoints: ['unix:{}']", path.display()));
    get(gateway.port(), "/").assert_problem(502, "upstream", "connect_failure");
    // Left behind by a service that has died: it is there, and nobody listens.
    drop(UnixListener::bind(&path).unwrap());
    get(gateway.port(), "/").assert_problem(502, "upstream", "connect_failure");
    socket_to(&files, "late.sock", backend.port());
    assert_eq!(get(gateway.port(), "/").status, 200);
    let both = format!("endpoints: ['unix:{}', 'unix:{}/gone']", path.display(), files.dir().display());
    gateway.rewrite(&std::fs::read_to_string(gateway.config_path()).unwrap().replacen(
        &format!("endpoints: ['unix:{}']", path.display()),
        &both,
        1,
    ));
    assert_eq!(gateway.reload().0, 200);
    // The other endpoint takes over, as it would for an address that refuses.
    assert!((0..6).all(|_| get(gateway.port(), "/").status == 200));
}

#[test]
fn an_abstract_name_and_tls_are_spoken_to() {
    let files = Files::new();
    let backend = Backend::http();
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let name = format!("portcullis-test-{}-{stamp}", std::process::id());
    relay(UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(), backend.port());
    let check = "health_check: { tcp: true, interval: 100ms, unhealthy_after: 1 }";
    let gateway = start(&files, &format!("endpoints: ['unix:@{name}'], {check}"));
    eventually("it was checked", || gateway.admin_get("/upstreams").1.contains("\"ok\":true"));
    assert_eq!(get(gateway.port(), "/").status, 200);
    assert_eq!(gateway.wait_log(|line| line["status"] == 200)["endpoint"], format!("unix:@{name}"));
}

#[test]
fn a_service_speaks_tls_and_http2_over_a_socket() {
    let certificates = Files::new();
    let (cert, key, _) = certificates.certificate(&["grpc.example.com"]);
    for (args, tls) in [
        (vec![], String::new()),
        (
            vec![cert.to_str().unwrap(), key.to_str().unwrap()],
            format!("tls: {{ ca: '{}', server_name: grpc.example.com }}", cert.display()),
        ),
    ] {
        let (files, server) = (Files::new(), Peer::start("grpc_server.py", &args));
        let path = socket_to(&files, "grpc.sock", server.port());
        let gateway = start(&files, &format!("endpoints: ['unix:{path}'], protocol: grpc, {tls}"));
        let target = format!("127.0.0.1:{}", gateway.port());
        assert_eq!(play("grpc_client.py", &["unary", &target])["answer"], "hello", "{tls}");
        assert_eq!(play("grpc_client.py", &["bidi", &target])["code"], "OK", "{tls}");
    }
}

#[test]
fn a_websocket_goes_through_a_socket() {
    let (files, server) = (Files::new(), Peer::start("ws_server.py", &[]));
    let path = socket_to(&files, "ws.sock", server.port());
    let gateway = start(&files, &format!("endpoints: ['unix:{path}']"));
    let facts = play("ws_client.py", &["echo", &format!("ws://127.0.0.1:{}", gateway.port())]);
    assert_eq!((&facts["large"], &facts["closed"]), (&json!(true), &json!(1000)), "{facts}");
}

/// A listener whose queue is full makes a client of a Unix socket try again, where TCP would make it wait.
#[test]
fn a_queue_that_is_full_is_waited_for() {
    use socket2::{Domain, SockAddr, Socket, Type};
    let (files, backend) = (Files::new(), Backend::http());
    let path = files.dir().join("busy.sock");
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let first = UnixStream::connect(&path).unwrap();
    let gateway = start(&files, &format!("endpoints: ['unix:{}'], timeouts: {{ connect: 10s }}", path.display()));
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/", &[], b"");
    let in_flight = || gateway.metric("portcullis_in_flight") == 1.0;
    eventually("the request waits", in_flight);
    relay(UnixListener::from(std::os::fd::OwnedFd::from(socket)), backend.port());
    let answer: Answer = client.answer_to("GET");
    assert_eq!(answer.status, 200, "{answer:?}");
    drop(first);
}

#[test]
fn what_names_no_socket_is_a_problem_with_its_place() {
    let files = Files::new();
    let long = format!("unix:/{}", "a".repeat(120));
    for (endpoint, more, said) in [
        ("unix:app.sock", "", "its path does not begin with `/`"),
        (&*long, "", "longer than 107 bytes"),
        ("unix:/run/app.sock", "tls: true", "no name to verify the certificate of `unix:/run/app.sock` against"),
    ] {
        let yaml = format!(
            "listeners: [ {{ bind: '127.0.0.1:0' }} ]\nservices: {{ app: {{ endpoints: ['{endpoint}'], {more} }} }}\n\
             routes: [ {{ path: /*, service: app }} ]\n"
        );
        files.write("bad.yaml", yaml);
        let ran = portcullis(files.dir(), &["check", "bad.yaml"]);
        assert!(ran.code != 0 && ran.stderr.contains(said), "{endpoint}: {} {}", ran.stdout, ran.stderr);
    }
}
