//! A real HAProxy, on both sides: what it is told of clients, and what it tells of them.

use std::process::{Child, Command, Stdio};

use super::bounds::connect_from;
use super::*;

/// It ends with this value.
struct HaProxy(Child);

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it with this in its configuration, and waits until it listens on `port`.
#[track_caller]
fn haproxy(files: &Files, port: u16, sections: &str) -> HaProxy {
    let name = format!("haproxy-{port}");
    let config = files.write(
        &format!("{name}.cfg"),
        format!(
            "global\n  maxconn 64\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n{sections}\n"
        ),
    );
    let log = std::fs::File::create(files.dir().join(format!("{name}.log"))).unwrap();
    let mut command = Command::new("haproxy");
    command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap()));
    let process =
        command.arg("-db").arg("-f").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let haproxy = HaProxy(process);
    eventually("haproxy listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    haproxy
}

const ASK: &[u8] = b"GET /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn asked(mut stream: TcpStream) -> String {
    stream.write_all(ASK).unwrap();
    String::from_utf8(rest(&mut stream).unwrap()).unwrap()
}

#[test]
fn one_behind_is_told_who_the_client_is() {
    let (files, port) = (Files::new(), Port::lease());
    let answer = "http-request return status 200 content-type text/plain lf-string \"%[src]:%[src_port] at %[dst_port]\"";
    let number = port.number();
    let _haproxy =
        haproxy(&files, number, &format!("frontend f\n  mode http\n  bind 127.0.0.1:{number} accept-proxy\n  {answer}"));
    for version in ["v1", "v2"] {
        let gateway = Gateway::start(&plain(&[number], &format!(", send_proxy_protocol: {version}"), ""));
        let client = connect_from(5, gateway.port());
        let local = client.local_addr().unwrap();
        let answer = asked(client);
        assert!(answer.ends_with(&format!("{local} at {}", gateway.port())), "{version} {local}: {answer}");
    }
}

#[test]
fn one_in_front_tells_who_the_client_is() {
    let (files, backend) = (Files::new(), Backend::http());
    let gateway = Gateway::start(&format!(
        "
        listeners: [ {{ name: front, bind: '127.0.0.1:$PORT', proxy_protocol: {{ trusted: [ 127.0.0.1 ] }} }} ]
        services: {{ back: {{ endpoints: [ '127.0.0.1:{}' ] }} }}
        routes: [ {{ path: /*, service: back }} ]
        server: {{ workers: 2 }}
        ",
        backend.port()
    ));
    for (round, version) in ["send-proxy", "send-proxy-v2"].into_iter().enumerate() {
        let port = Port::lease();
        let number = port.number();
        let server = format!("server g 127.0.0.1:{} {version}", gateway.port());
        let _haproxy = haproxy(&files, number, &format!("listen l\n  bind 127.0.0.1:{number}\n  {server}"));
        let answer = asked(connect_from(6, number));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{version}: {answer}");
        assert_eq!(backend.last().header("x-forwarded-for"), Some("127.0.0.6"), "{version}");
        let line = gateway.wait_lines(round + 1).pop().unwrap();
        assert_eq!((&line["client"], &line["path"]), (&json!("127.0.0.6"), &json!("/who")), "{version}");
    }
}
