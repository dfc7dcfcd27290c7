//! The demo's folder: certificates, credentials and the configuration, made anew for each run.

use std::error::Error;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::backends::Backends;
use super::ports::Port;
use crate::consumers::password;

/// The service that the health check is to find down.
pub const DOWN: &str = "reports-service";
/// The configuration, with `@NAME@` where a port or a hash belongs.
const TEMPLATE: &str = include_str!("gateway.yaml");
const OPENAPI: &str = include_str!("openapi.yaml");
/// The password of the demo's one user, which its lines show.
pub const PASSWORD: &str = "correct horse battery staple";
const HOUR: u64 = 3600;

/// Everything that a run is made of, but for the services.
pub struct Stage {
    folder: TempDir,
    pub http: Port,
    pub https: Port,
    /// The listener that wants a PROXY header.
    pub balanced: Port,
    /// The listener that knows no HTTP.
    pub tcp: Port,
    pub admin: Port,
    _dead: [Port; 3],
    /// The key itself: the configuration has only its hash.
    pub api_key: String,
}

impl Stage {
    /// Makes the folder and all that is in it.
    ///
    /// # Errors
    /// The folder or a file cannot be written, or there is no port left.
    pub fn set(backends: &Backends) -> Result<Stage, Box<dyn Error>> {
        let (reports, legacy, redis) = (Port::dead()?, Port::dead()?, Port::dead()?);
        let mut ports = backends.ports.clone();
        ports.extend([("reports", reports.number), ("legacy", legacy.number), ("redis", redis.number)]);
        let stage = Stage {
            // It holds keys: nobody else looks into it.
            folder: tempfile::Builder::new().prefix("portcullis-demo-").permissions(Permissions::from_mode(0o700)).tempdir()?,
            http: Port::claim(8080)?,
            https: Port::claim(8443)?,
            balanced: Port::claim(8081)?,
            tcp: Port::claim(8082)?,
            admin: Port::claim(9901)?,
            _dead: [reports, legacy, redis],
            api_key: format!("demo_{}", URL_SAFE_NO_PAD.encode(random::<32>()?)),
        };
        ports.extend([
            ("http", stage.http.number),
            ("https", stage.https.number),
            ("balanced", stage.balanced.number),
            ("tcp", stage.tcp.number),
            ("admin", stage.admin.number),
        ]);
        stage.write_certificates()?;
        stage.write_tokens()?;
        stage.write_published_token(&backends.issuer_key)?;
        let mut config = TEMPLATE.replace("@api_key_sha256@", &hex(&Sha256::digest(&stage.api_key)));
        config = config.replace("@password_hash@", &password::hash(PASSWORD.as_bytes())?);
        for (name, port) in ports {
            config = config.replace(&format!("@{name}@"), &port.to_string());
        }
        std::fs::write(stage.config(), config)?;
        std::fs::write(stage.file("openapi.yaml"), OPENAPI)?;
        std::fs::write(stage.file("catalog.proto"), super::grpc::PROTO)?;
        Ok(stage)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn config(&self) -> PathBuf {
        self.file("gateway.yaml")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// What is where, for people.
    pub fn places(&self) -> Vec<(&'static str, String)> {
        let file = |name| self.file(name).display().to_string();
        vec![
            ("configuration", file("gateway.yaml")),
            ("access log", file("access.log")),
            ("gateway", format!("http://127.0.0.1:{}  https://127.0.0.1:{}", self.http.number, self.https.number)),
            ("TCP, as it is", format!("127.0.0.1:{}", self.tcp.number)),
            ("admin API", format!("http://127.0.0.1:{}", self.admin.number)),
        ]
    }

    /// Removes the folder.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub fn remove(self) -> io::Result<()> {
        self.folder.close()
    }

    /// Two, to choose from by server name. They sign themselves, so that they are their own authorities.
    fn write_certificates(&self) -> Result<(), Box<dyn Error>> {
        let mut authorities = String::new();
        for (name, hosts) in [("edge", &["localhost", "127.0.0.1"][..]), ("shop", &["shop.example.com"])] {
            let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
            let made = rcgen::generate_simple_self_signed(hosts)?;
            let pem = made.cert.pem();
            std::fs::write(self.file(&format!("{name}.pem")), &pem)?;
            std::fs::write(self.file(&format!("{name}.key")), made.signing_key.serialize_pem())?;
            authorities.push_str(&pem);
        }
        // A client's, which the gateway trusts for what it is.
        let client = rcgen::generate_simple_self_signed(vec!["partner.demo.example".to_owned()])?;
        std::fs::write(self.file("client.pem"), client.cert.pem())?;
        std::fs::write(self.file("client.key"), client.signing_key.serialize_pem())?;
        std::fs::write(self.file("signing.secret"), hex(&random::<32>()?))?;
        Ok(std::fs::write(self.file("ca.pem"), authorities)?)
    }

    /// Each token in a file of its own, as the header field that curl reads with `-H @FILE`.
    fn write_tokens(&self) -> Result<(), Box<dyn Error>> {
        let secret = hex(&random::<32>()?);
        std::fs::write(self.file("jwt.secret"), &secret)?;
        let key = EncodingKey::from_secret(secret.as_bytes());
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        for (file, subject, scope, expires) in [
            ("alice.jwt", "alice", "orders:read orders:write", now + 30 * 24 * HOUR),
            ("bob-readonly.jwt", "bob", "orders:read", now + 30 * 24 * HOUR),
            ("carol-expired.jwt", "carol", "orders:read orders:write", now - HOUR),
        ] {
            let claims = json!({
                "iss": "https://id.demo.example",
                "aud": "shop",
                "sub": subject,
                "scope": scope,
                "tenant": "north",
                "exp": expires,
            });
            let token = jsonwebtoken::encode(&Header::default(), &claims, &key)?;
            std::fs::write(self.file(file), format!("Authorization: Bearer {token}\n"))?;
        }
        Ok(())
    }

    /// A token of the issuer that publishes its key: as a header field, and as a browser's cookie in Netscape's format, which curl reads with `-b FILE`.
    fn write_published_token(&self, key: &[u8]) -> Result<(), Box<dyn Error>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let header = Header { kid: Some("demo-1".to_owned()), ..Header::new(Algorithm::ES256) };
        let claims = json!({ "iss": "https://issuer.demo.example", "aud": "shop", "sub": "dora", "exp": now + 30 * 24 * HOUR });
        let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_der(key))?;
        std::fs::write(self.file("dora.jwt"), format!("Authorization: Bearer {token}\n"))?;
        // Domain, its subdomains, path, https only, expiry (0: never), name, value.
        let cookie = format!("127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\t{token}\n");
        Ok(std::fs::write(self.file("dora.cookies"), cookie)?)
    }
}

fn random<const N: usize>() -> Result<[u8; N], Box<dyn Error>> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "the system has no random bytes")?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;
    use crate::policy::registry::{EXAMPLES, REGISTRY};
    use crate::snapshot::{self, Surroundings};

    #[test]
    fn the_configuration_is_sound_and_uses_every_policy() {
        let stage = Stage::set(&Backends::start().unwrap()).unwrap();
        let (mut source, document) = Source::read(&stage.config());
        let snapshot = snapshot::compile(&document.unwrap(), &mut source, &Surroundings::detached(), 1);
        assert!(source.problems.is_empty(), "{}", source.report(false));
        assert!(!source.text.contains('@'), "a placeholder was left");
        assert!(!source.text.contains(&stage.api_key));
        let snapshot = snapshot.unwrap();
        for entry in REGISTRY.iter().filter(|entry| !EXAMPLES.contains(&entry.name)) {
            let used = snapshot.routes.iter().any(|route| route.plan.names.iter().any(|(_, name)| *name == entry.name));
            assert!(used, "the demo does not show `{}`", entry.name);
        }
        assert!(snapshot.services.contains_key(DOWN));
    }

    #[test]
    fn the_folder_is_removed() {
        let stage = Stage::set(&Backends::start().unwrap()).unwrap();
        let folder = stage.folder().to_owned();
        assert!(folder.is_dir());
        stage.remove().unwrap();
        assert!(!folder.exists());
    }
}
