//! A real MQTT broker behind the gateway, and its own clients in front.

use std::process::{Child, Command, Stdio};

use super::*;

/// Mosquitto on two ports, the second with TLS. It ends with this value.
struct Broker {
    process: Child,
    config: std::path::PathBuf,
    ports: [Port; 2],
}

impl Broker {
    /// With a certificate for `localhost`; and where that is.
    #[track_caller]
    fn start(files: &Files) -> (Broker, String) {
        let (cert, key, _) = files.certificate(&["localhost"]);
        let ports = [Port::lease(), Port::lease()];
        // As root it becomes somebody who may not read the files of this test.
        let user = if rustix::process::geteuid().is_root() { "user root\n" } else { "" };
        let config = files.write(
            "mosquitto.conf",
            format!(
                "{user}allow_anonymous true\nlistener {} 127.0.0.1\nlistener {} 127.0.0.1\ncertfile {}\nkeyfile {}\n",
                ports[0].number(),
                ports[1].number(),
                cert.display(),
                key.display()
            ),
        );
        let mut broker = Broker { process: spawned(&config), config, ports };
        broker.listens();
        (broker, cert.display().to_string())
    }

    /// Ends it without a word to anybody.
    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn restart(&mut self) {
        self.process = spawned(&self.config);
        self.listens();
    }

    fn listens(&mut self) {
        for port in &self.ports {
            let number = port.number();
            eventually("the broker listens", || TcpStream::connect(("127.0.0.1", number)).is_ok());
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawned(config: &std::path::Path) -> Child {
    let mut command = Command::new("mosquitto");
    command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap())).arg("-c").arg(config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("these tests need mosquitto (Debian's package of that name): {error}"))
}

/// One of its clients, as `localhost`, which is the name that it asks TLS for.
fn client(name: &str, port: u16, words: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(["-h", "localhost", "-p", &port.to_string()]).args(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Leaves this text under a topic, exactly once, for whoever asks for it later.
#[track_caller]
fn publish(port: u16, how: &[&str], topic: &str, text: &str) {
    let output = client("mosquitto_pub", port, &["-q", "2", "-r", "-t", topic, "-m", text]).args(how).output();
    let output = output.unwrap_or_else(|error| panic!("these tests need mosquitto_pub (mosquitto-clients): {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Waits for one message under a topic.
#[track_caller]
fn one(port: u16, how: &[&str], topic: &str) -> String {
    let output = client("mosquitto_sub", port, &["-q", "2", "-C", "1", "-W", "20", "-t", topic]).args(how).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn a_broker_is_used_in_clear_by_its_name_and_behind_the_gateways_own_tls() {
    let files = Files::new();
    let (broker, ca) = Broker::start(&files);
    let own = files.certificate(&["localhost"]);
    let yaml = format!(
        "
        listeners:
          - {{ name: clear, bind: '127.0.0.1:$PORT', protocol: tcp }}
          - {{ name: named, bind: '127.0.0.1:$PORT2', protocol: tcp }}
          - name: opened
            bind: '127.0.0.1:$PORT3'
            protocol: tcp
            tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ] }}
        services:
          mqtt: {{ endpoints: [ '127.0.0.1:{}' ], health_check: {{ tcp: true, interval: 1s }} }}
          mqtts: {{ endpoints: [ '127.0.0.1:{}' ] }}
        tcp_routes:
          - {{ listeners: clear, service: mqtt }}
          - {{ listeners: named, sni: localhost, service: mqtts }}
          - {{ listeners: opened, service: mqtt }}
        server: {{ workers: 2 }}
        ",
        own.0.display(),
        own.1.display(),
        broker.ports[0].number(),
        broker.ports[1].number()
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let own_ca = own.0.display().to_string();
    let ways = [
        ("clear", gateway.port(), vec![]),
        ("named", gateway.port2(), vec!["--cafile", &ca]),
        ("opened", gateway.port3(), vec!["--cafile", &own_ca]),
    ];
    // Each door's word is heard at every other: it is one broker.
    let long = "x".repeat(100_000);
    for (name, port, how) in &ways {
        publish(*port, how, "news", name);
        publish(*port, how, "long", &long);
        for (_, other, how) in &ways {
            assert_eq!(one(*other, how, "news"), *name);
            assert_eq!(one(*other, how, "long").len(), long.len());
        }
        let line = gateway.wait_log(|line| line["listener"] == *name && line["bytes_in"].as_u64() > Some(100_000));
        assert_eq!(line["protocol"], "tcp", "{line}");
    }
    // What a broker's certificate says is the broker's own: who trusts another one notices.
    let stranger = client("mosquitto_pub", gateway.port2(), &["-t", "news", "-m", "x", "--cafile", &own_ca]).output().unwrap();
    assert!(!stranger.status.success());
}

#[test]
fn a_subscriber_hears_at_once_that_its_broker_died_and_comes_back_by_itself() {
    let files = Files::new();
    let (mut broker, _) = Broker::start(&files);
    let gateway = Gateway::start(&plain(&[broker.ports[0].number()], "", ""));
    let mut subscriber =
        client("mosquitto_sub", gateway.port(), &["-q", "1", "-C", "2", "-W", "60", "-t", "news"]).spawn().unwrap();
    publish(gateway.port(), &[], "news", "before");
    let mut out = subscriber.stdout.take().unwrap();
    let mut heard = [0; 7];
    out.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"before\n");
    broker.kill();
    // Nothing was sent to it: the end of the broker's half, or its reset, was passed on.
    gateway.wait_log(|line| line["reason"] == "service_closed" || line["reason"] == "service_reset");
    broker.restart();
    publish(gateway.port(), &[], "news", "after");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "after\n");
    assert!(subscriber.wait().unwrap().success());
}
