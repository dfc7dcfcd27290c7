//! Databases behind the gateway, with their own clients in front of it.

use super::*;

#[test]
fn a_postgresql_is_used_with_and_without_tls() {
    let files = Files::new();
    let (postgres, ca) = Postgres::start(&files, "db.example.org");
    let (other, _) = Postgres::start(&files, "other.example.org");
    let yaml = format!(
        "
        listeners:
          - {{ name: plain, bind: '127.0.0.1:$PORT', protocol: tcp }}
          - {{ name: by_name, bind: '127.0.0.1:$PORT2', protocol: tcp }}
        services:
          db: {{ endpoints: [ '127.0.0.1:{}' ], max_connections: 10, health_check: {{ tcp: true, interval: 1s }} }}
          other: {{ endpoints: [ '127.0.0.1:{}' ] }}
        tcp_routes:
          - {{ listeners: plain, service: db }}
          - {{ listeners: by_name, sni: db.example.org, service: db }}
          - {{ listeners: by_name, sni: other.example.org, service: other }}
        server: {{ workers: 2 }}
        ",
        postgres.port(),
        other.port()
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let ask = |how: &str, sql: &str| psql(gateway.port(), how, sql);
    // Much of it each way, and several words in one connection.
    assert_eq!(
        ask("sslmode=disable", "create table t (n int); insert into t select generate_series(1, 1000); select sum(n) from t")
            .unwrap(),
        "500500"
    );
    assert_eq!(ask("sslmode=disable", "select repeat('x', 5000000)").unwrap().len(), 5_000_000);
    let long = format!("select length('{}')", "y".repeat(100_000));
    assert_eq!(ask("sslmode=disable", &long).unwrap(), "100000");
    assert!(ask("sslmode=disable", "select 1 / 0").unwrap_err().contains("division by zero"), "what it refuses, it says");
    // Its own TLS, which it begins by asking for it in clear: the name in the certificate is that of the server.
    let secure = format!("sslmode=verify-full sslrootcert={} host=db.example.org hostaddr=127.0.0.1", ca.display());
    assert_eq!(ask(&secure, "select ssl from pg_stat_ssl where pid = pg_backend_pid()").unwrap(), "t");
    let line = gateway.wait_log(|line| line["bytes_out"].as_u64() > Some(5_000_000));
    assert_eq!((&line["route"], &line["service"], &line["reason"]), (&json!("plain"), &json!("db"), &json!("client_closed")));
    // TLS from the first byte, by the name: since PostgreSQL 17.
    let direct = format!("{secure} sslnegotiation=direct");
    if psql_version() >= 17 {
        assert_eq!(psql(gateway.port2(), &direct, "select 1").unwrap(), "1");
        assert_eq!(gateway.wait_log(|line| line["tls"] == "passthrough")["server_name"], "db.example.org");
    } else {
        // Before it, nobody can tell by a name that comes after the server's word.
        assert!(psql(gateway.port2(), &secure, "select 1").is_err());
        gateway.wait_log(|line| line["listener"] == "by_name" && line["reason"] == "not_tls");
    }
}

#[test]
fn a_redis_with_tls_is_found_by_its_name() {
    let files = Files::new();
    let mut ports = Vec::new();
    let mut servers = Vec::new();
    for name in ["one.example.org", "two.example.org"] {
        let (cert, key, _) = files.certificate(&[name]);
        let (cert, key) = (cert.display().to_string(), key.display().to_string());
        let redis = Redis::start_with(
            &files,
            &["--port", "0", "--tls-port", "$PORT", "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-auth-clients", "no"],
        );
        ports.push(redis.port());
        servers.push((redis, name, cert));
    }
    let yaml = format!(
        "
        listeners: [ {{ name: redis, bind: '127.0.0.1:$PORT', protocol: tcp }} ]
        services: {{ one: {{ endpoints: [ '127.0.0.1:{}' ] }}, two: {{ endpoints: [ '127.0.0.1:{}' ] }} }}
        tcp_routes:
          - {{ listeners: redis, sni: one.example.org, service: one }}
          - {{ listeners: redis, sni: two.example.org, service: two }}
        server: {{ workers: 2 }}
        ",
        ports[0], ports[1]
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let cli = |name: &str, ca: &str, words: &[&str]| {
        let port = gateway.port().to_string();
        let output = std::process::Command::new("redis-cli")
            .args(["-h", "127.0.0.1", "-p", &port, "--tls", "--sni", name, "--cacert", ca])
            .args(words)
            .output()
            .unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned()
    };
    for (_, name, ca) in &servers {
        assert_eq!(cli(name, ca, &["SET", "whose", name]), "OK");
    }
    for (_, name, ca) in &servers {
        assert_eq!(cli(name, ca, &["GET", "whose"]), *name);
        let line = gateway.wait_log(|line| line["server_name"] == *name && line["bytes_out"].as_u64() > Some(0));
        assert_eq!((&line["tls"], &line["reason"]), (&json!("passthrough"), &json!("client_closed")), "{line}");
    }
    // The certificate is the server's own: whoever trusts another one notices.
    assert!(cli("one.example.org", &servers[1].2, &["PING"]).contains("certificate verify failed"));
    assert!(!cli("three.example.org", &servers[0].2, &["PING"]).contains("PONG"));
    gateway.wait_log(|line| line["server_name"] == "three.example.org" && line["reason"] == "no_route");
}
