//! Mutual TLS: the client's certificate, which the listener has verified, says who it is.
//!
//! What the listener trusts is its own affair ([`crate::listen`]); here a verified certificate becomes an identity, once for each
//! certificate, and may go upstream in the fields of RFC 9440. A client's own fields of these names never do.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use quick_cache::sync::Cache;
use schemars::JsonSchema;
use serde::Deserialize;
use sfv::{BareItem, Item, List, ListEntry, SerializeValue};

use super::failure::Failure;
use super::method::{Method, Verdict};
use crate::consumers::Proved;
use crate::consumers::{Consumers, certificate_names};
use crate::exchange::{ClientCertificate, Exchange, Identity};
use crate::head::{HeaderEdit, RequestHead};
use crate::policy::Compile;
use crate::problem::Problem;
use crate::value::Spanned;

/// What `Identity::method` says.
pub const METHOD: &str = "mtls";

static CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
static CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
/// Certificates whose identities are kept ready.
const REMEMBERED: usize = 4096;

/// Identity from the client's certificate. The listener has to ask for one: `tls: { client_auth: ... }`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MtlsConfig {
    /// Which of the certificate's names is the subject: the first of these that it has. Default: `uri`, `dns`, `email`, `subject`.
    pub subject_from: Option<Spanned<Vec<NameKind>>>,
    /// Whether the backend gets the certificate: `certificate` in `Client-Cert`, `chain` also the intermediate ones in
    /// `Client-Cert-Chain` (RFC 9440). Default: none.
    pub forward: Option<Forward>,
}

/// A kind of name in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NameKind {
    /// The first URI among the alternative names, such as a SPIFFE ID.
    Uri,
    /// The first DNS name among them.
    Dns,
    /// The first email address among them.
    Email,
    /// The subject's common name.
    CommonName,
    /// The whole of the subject, as RFC 4514 writes it: `CN=client,O=Example`.
    Subject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Forward {
    Certificate,
    Chain,
}

/// [`MtlsConfig`], compiled.
pub struct MtlsMethod {
    subject_from: Vec<NameKind>,
    forward: Option<Forward>,
    consumers: Arc<Consumers>,
    /// By fingerprint. It is this generation's: the consumers are part of what is remembered.
    proved: Cache<[u8; 32], Arc<Proved>>,
}

impl MtlsMethod {
    pub fn compile(config: &MtlsConfig, cx: &mut Compile<'_>) -> Option<Self> {
        use NameKind::*;
        let subject_from = match &config.subject_from {
            Some(kinds) if kinds.value.is_empty() => {
                cx.problems.push(Problem::error(kinds.place, "`subject_from` names no kind of name"));
                return None;
            }
            Some(kinds) => kinds.value.clone(),
            None => vec![Uri, Dns, Email, Subject],
        };
        let proved = Cache::new(REMEMBERED);
        Some(MtlsMethod { subject_from, forward: config.forward, consumers: cx.consumers.clone(), proved })
    }

    fn prove(&self, certificate: &ClientCertificate) -> Result<Arc<Proved>, Failure> {
        let of = |kind: &NameKind| match kind {
            NameKind::Uri => certificate.uris.first(),
            NameKind::Dns => certificate.dns.first(),
            NameKind::Email => certificate.emails.first(),
            NameKind::CommonName => certificate.common_name.as_ref(),
            NameKind::Subject => Some(&certificate.subject).filter(|subject| !subject.is_empty()),
        };
        let subject = self.subject_from.iter().find_map(of).ok_or(Failure::NamelessCertificate)?;
        let mut owners = certificate_names(certificate).filter_map(|name| self.consumers.by_certificate(&name));
        let consumer = owners.next();
        if let Some(consumer) = consumer
            && owners.any(|other| other.name != consumer.name)
        {
            return Err(Failure::AmbiguousCredentials);
        }
        let identity = Identity {
            consumer: consumer.map(|consumer| consumer.name.clone()),
            credential: format!("sha256:{:.16}", certificate.fingerprint_digits()).into(),
            method: METHOD,
            subject: subject.as_str().into(),
            scopes: consumer.map(|consumer| consumer.scopes.clone()).unwrap_or_default(),
            groups: consumer.map(|consumer| consumer.groups.clone()).unwrap_or_default(),
            plan: consumer.and_then(|consumer| consumer.plan.clone()),
            claims: None,
        };
        let mut proved = Proved::new(identity);
        if self.forward.is_some() {
            let leaf = byte_sequences(std::iter::once(&certificate.der));
            proved.extra.push(HeaderEdit::Set(CLIENT_CERT.clone(), leaf.ok_or(Failure::NamelessCertificate)?));
        }
        if self.forward == Some(Forward::Chain) && !certificate.chain.is_empty() {
            let chain = byte_sequences(certificate.chain.iter());
            proved.extra.extend(chain.map(|value| HeaderEdit::Set(CLIENT_CERT_CHAIN.clone(), value)));
        }
        Ok(Arc::new(proved))
    }
}

impl Method for MtlsMethod {
    fn check(&self, _: &RequestHead, exchange: &Exchange, now: u64) -> Verdict {
        let Some(certificate) = exchange.connection.tls.as_ref().and_then(|tls| tls.client.as_ref()) else {
            return Verdict::Absent;
        };
        // It was valid during the handshake; connections can be older than that.
        if now > certificate.not_after {
            return Verdict::Failed(Failure::ExpiredCertificate);
        }
        if let Some(proved) = self.proved.get(&certificate.fingerprint) {
            return Verdict::Proved(proved);
        }
        let proved = self.prove(certificate);
        if let Ok(proved) = &proved {
            self.proved.insert(certificate.fingerprint, proved.clone());
        }
        proved.into()
    }

    /// A certificate cannot be asked for on a connection that stands.
    fn scheme(&self) -> Option<&'static str> {
        None
    }

    fn sets(&self) -> Vec<HeaderName> {
        vec![CLIENT_CERT.clone(), CLIENT_CERT_CHAIN.clone()]
    }
}

/// Byte Sequences, one or a list of them (RFC 9651, sections 3.1 and 3.3.5).
fn byte_sequences<'a>(list: impl Iterator<Item = &'a Vec<u8>>) -> Option<HeaderValue> {
    let item = |der: &Vec<u8>| ListEntry::Item(Item::new(BareItem::ByteSeq(der.clone())));
    let list: List = list.map(item).collect();
    list.serialize_value().ok().and_then(|text| HeaderValue::try_from(text).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::exchange::{Connection, TlsFacts};
    use crate::ledger::Ledger;
    use crate::policy::testing::context;
    use crate::problem::Problems;

    fn method(config: serde_json::Value) -> MtlsMethod {
        let (consumers, problems) = crate::consumers::tests::compile(json!([
            { "name": "acme", "scopes": ["read"], "certificates": [{ "uri": "spiffe://example.com/acme" }, { "subject": "CN=acme,O=Acme" }] },
            { "name": "globex", "certificates": [{ "dns": "client.globex.example" }, { "fingerprint": format!("sha256:{}", "07".repeat(32)) }] },
        ]));
        assert!(problems.is_empty(), "{problems:?}");
        let (mut problems, ledger, consumers) = (Problems::default(), Ledger::default(), Arc::new(consumers));
        let mut cx = context(&mut problems, "test", &ledger, &consumers, std::path::Path::new("."));
        MtlsMethod::compile(&serde_json::from_value(config).unwrap(), &mut cx).unwrap()
    }

    fn judged(method: &MtlsMethod, certificate: Option<ClientCertificate>) -> Result<Option<Arc<Proved>>, Failure> {
        let plain = Exchange::for_tests();
        let tls = TlsFacts { version: "", cipher: "", server_name: None, client: certificate.map(Arc::new) };
        let (peer, local) = (plain.connection.peer, plain.connection.local);
        let connection =
            Connection { peer, local, client: peer, listener: "test".into(), tls: Some(tls), told: Default::default() };
        let exchange = Exchange::new(Arc::new(connection), "r".into());
        match method.check(&RequestHead::build("GET", "/", &[]), &exchange, 1000) {
            Verdict::Absent => Ok(None),
            Verdict::Proved(proved) => Ok(Some(proved)),
            Verdict::Failed(failure) => Err(failure),
            Verdict::Waits => panic!(),
        }
    }

    fn certificate() -> ClientCertificate {
        ClientCertificate { der: vec![1, 2, 3], not_after: 2000, fingerprint: [1; 32], ..ClientCertificate::default() }
    }

    #[test]
    fn names_map_to_consumers() {
        let method = method(json!({}));
        assert!(judged(&method, None).unwrap().is_none());
        let spiffe = ClientCertificate { uris: vec!["spiffe://example.com/acme".into()], ..certificate() };
        let proved = judged(&method, Some(spiffe)).unwrap().unwrap();
        assert_eq!(proved.identity.consumer.as_deref(), Some("acme"));
        assert_eq!((&*proved.identity.subject, proved.identity.scopes.len()), ("spiffe://example.com/acme", 1));
        let by_fingerprint = ClientCertificate { fingerprint: [7; 32], subject: "CN=x".into(), ..certificate() };
        assert_eq!(judged(&method, Some(by_fingerprint)).unwrap().unwrap().identity.consumer.as_deref(), Some("globex"));
        let stranger = ClientCertificate { fingerprint: [2; 32], subject: "CN=acme".into(), ..certificate() };
        let proved = judged(&method, Some(stranger)).unwrap().unwrap();
        assert_eq!((proved.identity.consumer.as_deref(), &*proved.identity.subject), (None, "CN=acme"));
    }

    #[test]
    fn what_is_unclear_or_over_proves_nobody() {
        let method = method(json!({}));
        assert_eq!(judged(&method, Some(certificate())).unwrap_err(), Failure::NamelessCertificate);
        let two = ClientCertificate {
            uris: vec!["spiffe://example.com/acme".into()],
            dns: vec!["client.globex.example".into()],
            ..certificate()
        };
        assert_eq!(judged(&method, Some(two)).unwrap_err(), Failure::AmbiguousCredentials);
        let over = ClientCertificate { subject: "CN=x".into(), not_after: 999, ..certificate() };
        assert_eq!(judged(&method, Some(over)).unwrap_err(), Failure::ExpiredCertificate);
    }

    #[test]
    fn the_certificate_goes_upstream_if_it_shall() {
        let of = |config| {
            let certificate = ClientCertificate { subject: "CN=x".into(), chain: vec![vec![4], vec![5]], ..certificate() };
            judged(&method(config), Some(certificate)).unwrap().unwrap().extra.clone()
        };
        assert!(of(json!({})).is_empty());
        let shown = |config| of(config).iter().map(|edit| format!("{edit:?}")).collect::<Vec<_>>().join(" ");
        let one = shown(json!({ "forward": "certificate" }));
        assert!(one.contains(":AQID:") && !one.contains("chain"), "{one}");
        assert!(shown(json!({ "forward": "chain" })).contains(":BA==:, :BQ==:"));
    }
}
