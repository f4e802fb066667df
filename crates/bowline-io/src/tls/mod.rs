//! Makes TLS configurations of PEM, and reads identities from certificates.

#[cfg(feature = "server")]
mod files;
mod go_compat;
pub(crate) mod go_errors;
mod parse;
mod pem;
mod trust;
mod verifiers;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs as backend;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
use rustls::crypto::ring as backend;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;

#[cfg(feature = "server")]
use self::files::Changing;
#[cfg(feature = "server")]
pub use self::files::{Client, ClientFiles, OwnIdentity, ServerFiles};
use self::trust::{Purpose, Roots};
use self::verifiers::{ClientVerifier, ServerVerifier};

/// The only protocol of most servers: streams are upgrades, which HTTP/2 does not have.
const HTTP1: &[u8] = b"http/1.1";
/// What servers in front of requests that are no streams have as well.
pub(crate) const HTTP2: &[u8] = b"h2";

/// Why a TLS configuration cannot be made.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: std::io::Error,
    },
    /// The PEM text for this purpose holds no certificate.
    #[error("{0} holds no certificate")]
    Empty(&'static str),
    /// The PEM text of the key holds no private key.
    #[error("the key's file holds no private key")]
    NoKey,
    /// The private key is encrypted.
    #[error("the private key is encrypted, which is not supported: decrypt it with openssl pkey")]
    Encrypted,
    /// The private key cannot be parsed, for this reason.
    #[error("failed to parse the private key: {0}")]
    BadKey(String),
    /// The private key is not that of the certificate.
    #[error("private key does not match public key")]
    Mismatch,
    /// The certificate cannot be parsed, for this reason.
    #[error("failed to parse the certificate: {0}")]
    BadCertificate(String),
    /// rustls refuses the configuration.
    #[error("{what}: {error}")]
    Refused {
        /// What the configuration is for.
        what: &'static str,
        /// rustls' error.
        #[source]
        error: rustls::Error,
    },
}

/// A certificate chain and its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, then its intermediates.
    pub certificate: Vec<u8>,
    /// The certificate's private key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads an identity from two PEM files.
    ///
    /// # Errors
    /// [`TlsError::File`] if one of them cannot be read.
    pub fn read(certificate: &Path, key: &Path) -> Result<Identity, TlsError> {
        Ok(Identity { certificate: read(certificate)?, key: read(key)? })
    }

    /// Parses the identity as Go's `tls.X509KeyPair` does: all certificates of one text, and the
    /// first private key of the other, whatever its form and its label. Both texts may be the same.
    fn parse(&self, provider: &CryptoProvider) -> Result<Arc<SingleCertAndKey>, TlsError> {
        let chain = certificates(&self.certificate);
        let leaf = chain.first().ok_or(TlsError::Empty("certificate"))?;
        let (_, leaf) = X509Certificate::from_der(leaf)
            .map_err(|error| TlsError::BadCertificate(error.to_string()))?;
        let key = provider
            .key_provider
            .load_private_key(private_key(&self.key)?)
            .map_err(|error| TlsError::BadKey(error.to_string()))?;
        if !key_matches(&leaf, &*key) {
            return Err(TlsError::Mismatch);
        }
        Ok(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))))
    }
}

fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    let is_key =
        |block: &pem::Block| block.label == "PRIVATE KEY" || block.label.ends_with(" PRIVATE KEY");
    let block = pem::blocks(text).into_iter().find(is_key).ok_or(TlsError::NoKey)?;
    if block.label == "ENCRYPTED PRIVATE KEY" || block.has_headers {
        return Err(TlsError::Encrypted);
    }
    // The data decides what kind of key it is, not the label.
    PrivateKeyDer::try_from(block.der).map_err(|why| TlsError::BadKey(why.to_owned()))
}

/// Whether the key is that of the certificate; true if the key does not tell its public key.
fn key_matches(certificate: &X509Certificate<'_>, key: &dyn SigningKey) -> bool {
    let Some(public) = key.public_key() else { return true };
    let Ok((_, public)) = SubjectPublicKeyInfo::from_der(&public) else { return true };
    public.subject_public_key.data == certificate.public_key().subject_public_key.data
}

/// Reads a PEM file.
///
/// # Errors
/// [`TlsError::File`] if it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::File { path: path.to_owned(), error })
}

/// Returns the certificates among the blocks. As in Go, those with headers are ignored.
fn certificates(text: &[u8]) -> Vec<CertificateDer<'static>> {
    let blocks = pem::blocks(text).into_iter();
    let certificates = blocks.filter(|block| block.label == "CERTIFICATE" && !block.has_headers);
    certificates.map(|block| block.der.into()).collect()
}

fn roots(what: &'static str, text: &[u8], provider: &CryptoProvider) -> Result<Roots, TlsError> {
    let roots = Roots::new(certificates(text), provider.signature_verification_algorithms);
    if roots.is_empty() { Err(TlsError::Empty(what)) } else { Ok(roots) }
}

/// Returns the cryptography, with AES-128-GCM preferred: it is a third less work than AES-256 for
/// every byte.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = backend::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        let name = format!("{:?}", suite.suite());
        !name.contains("AES_128_GCM")
    });
    Arc::new(provider)
}

fn no_version(what: &'static str) -> impl Fn(rustls::Error) -> TlsError {
    move |error| TlsError::Refused { what, error }
}

/// The TLS configuration of a server.
#[derive(Clone, Debug)]
pub struct Server {
    /// rustls' part of it, for handshakes.
    pub config: Arc<ServerConfig>,
    /// The same, for a server that speaks HTTP/2 with those who can.
    pub with_http2: Arc<ServerConfig>,
    clients: Option<Arc<ClientVerifier>>,
    #[cfg(feature = "server")]
    changing: Option<Arc<Changing<ServerFiles>>>,
}

impl Server {
    /// Returns the configuration for a connection that is made now.
    #[cfg(feature = "server")]
    pub async fn current(&self) -> Server {
        match &self.changing {
            None => self.clone(),
            Some(changing) => {
                Server { changing: self.changing.clone(), ..changing.current().await }
            }
        }
    }

    /// Returns the CAs of clients, as they were read last.
    fn known_clients(&self) -> Option<Arc<ClientVerifier>> {
        #[cfg(feature = "server")]
        if let Some(changing) = &self.changing {
            return changing.known().clients;
        }
        self.clients.clone()
    }

    /// Returns the certificate that a client has sent, if it has.
    #[must_use]
    pub fn client_certificate(
        &self,
        certificates: Option<&[CertificateDer<'static>]>,
    ) -> Option<ClientCertificate> {
        let chain = certificates?.to_vec();
        self.clients.is_some().then(|| ClientCertificate { server: self.clone(), chain })
    }
}

/// The certificate that a client sent when it connected, with its intermediates. All of them may
/// expire before the connection ends, and CAs may go, so they are judged for each request.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    server: Server,
    chain: Vec<CertificateDer<'static>>,
}

impl ClientCertificate {
    /// Returns the client's identity; `None` once the certificate, or one above it, is no longer
    /// valid.
    #[must_use]
    pub fn identity(&self) -> Option<PeerIdentity> {
        let now = self.server.config.time_provider.current_time()?;
        let (leaf, intermediates) = self.chain.split_first()?;
        self.server
            .known_clients()?
            .roots()
            .judge(Purpose::Client, leaf, intermediates, now)
            .ok()?;
        PeerIdentity::of(leaf)
    }
}

/// Makes the configuration of a server that has `identity` and, with a CA, asks clients for
/// certificates. `required` refuses those that have none. With a CA no session is resumed, as a
/// resumed one would skip the client's certificate.
///
/// # Errors
/// [`TlsError`] if certificate or key cannot be parsed or do not match, or there is no CA in
/// `client_ca`.
pub fn server(
    identity: &Identity,
    client_ca: Option<&[u8]>,
    required: bool,
) -> Result<Server, TlsError> {
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(no_version("server"))?;
    let clients = match client_ca {
        None => None,
        Some(pem) => {
            Some(ClientVerifier::new(roots("client CA", pem, &provider)?, required, &provider))
        }
    };
    let builder = match &clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(clients.clone()),
    };
    let mut config = builder.with_cert_resolver(identity.parse(&provider)?);
    if clients.is_some() {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    // Our order decides, not the client's.
    config.ignore_client_order = true;
    config.alpn_protocols = vec![HTTP1.to_vec()];
    let mut with_http2 = config.clone();
    with_http2.alpn_protocols.insert(0, HTTP2.to_vec());
    Ok(Server {
        config: Arc::new(config),
        with_http2: Arc::new(with_http2),
        clients,
        #[cfg(feature = "server")]
        changing: None,
    })
}

/// Which servers a client trusts.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those with a certificate of a CA of the operating system.
    System,
    /// Those with a certificate of one of these CAs, in PEM.
    Ca(Vec<u8>),
    /// Any. Only for kubectl's `--insecure-skip-tls-verify`.
    Anybody,
}

/// Makes the configuration of a client that trusts these servers and sends `identity` where it is
/// asked for a certificate.
///
/// # Errors
/// [`TlsError`] if certificate or key cannot be parsed or do not match, or there is no CA in
/// `trust`.
pub fn client(trust: &Trust, identity: Option<&Identity>) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(no_version("client"))?;
    let builder = match trust {
        Trust::System => with_system_roots(builder, &provider)?,
        Trust::Ca(pem) => {
            let roots = roots("certificate authority", pem, &provider)?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(ServerVerifier::new(Some(roots), &provider))
        }
        Trust::Anybody => builder
            .dangerous()
            .with_custom_certificate_verifier(ServerVerifier::new(None, &provider)),
    };
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(identity.parse(&provider)?),
    };
    // As kubectl's streams: no ALPN at all, so that no server can choose HTTP/2.
    Ok(Arc::new(config))
}

/// Returns the configuration for a proxy on the way to a server: with the same trust, but without
/// the client's certificate, which is for the server. No session is resumed, since they are found
/// by a name alone.
pub(crate) fn without_identity(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.client_auth_cert_resolver = Arc::new(NoIdentity);
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Sends no certificate.
#[derive(Debug)]
struct NoIdentity;

impl ResolvesClientCert for NoIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

type Untrusting = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;
type Trusting = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

#[cfg(all(unix, not(any(target_vendor = "apple", target_os = "android"))))]
fn with_system_roots(builder: Untrusting, provider: &CryptoProvider) -> Result<Trusting, TlsError> {
    // Without any, no server is trusted, which the errors of connections will say.
    let found = rustls_native_certs::load_native_certs().certs;
    let roots = Roots::new(found, provider.signature_verification_algorithms);
    let servers = ServerVerifier::new(Some(roots), provider);
    Ok(builder.dangerous().with_custom_certificate_verifier(servers))
}

#[cfg(not(all(unix, not(any(target_vendor = "apple", target_os = "android")))))]
fn with_system_roots(builder: Untrusting, _: &CryptoProvider) -> Result<Trusting, TlsError> {
    use rustls_platform_verifier::BuilderVerifierExt;
    builder.with_platform_verifier().map_err(no_version("the system's CAs"))
}

/// The identity in a verified client certificate, as Kubernetes reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The subject's common name.
    pub user: String,
    /// The subject's organizations.
    pub groups: Vec<String>,
}

impl PeerIdentity {
    /// Reads the identity from a certificate that TLS has verified; `None` if it has no user, or
    /// its names cannot be read. Of several common names the last counts, as in Go.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<PeerIdentity> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let subject = certificate.subject();
        let text = |part: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            part.as_str().ok().map(ToOwned::to_owned)
        };
        let user = subject.iter_common_name().last().and_then(text);
        let user = user.filter(|user| !user.is_empty())?;
        let groups: Option<Vec<String>> = subject.iter_organization().map(text).collect();
        Some(PeerIdentity { user, groups: groups? })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use rcgen::{
        CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P384_SHA384,
        PKCS_RSA_SHA256,
    };
    use x509_parser::der_parser::der::parse_der_sequence;

    use super::*;

    fn block(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    }

    /// What is in the `OCTET STRING` of PKCS#8: PKCS#1, or SEC1.
    fn inner(pkcs8: &[u8]) -> Vec<u8> {
        let (_, sequence) = parse_der_sequence(pkcs8).unwrap();
        sequence.as_sequence().unwrap()[2].as_slice().unwrap().to_vec()
    }

    fn parse(certificate: &str, key: &str) -> Result<(), TlsError> {
        let identity = Identity { certificate: certificate.into(), key: key.into() };
        identity.parse(&provider()).map(|_| ())
    }

    #[test]
    fn a_key_is_what_its_bytes_are_whatever_is_above_them() {
        let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let ec = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let other = KeyPair::generate().unwrap();
        let others = block("PRIVATE KEY", other.serialized_der());
        for key in [rsa, ec] {
            let certificate = CertificateParams::new(vec!["a".into()]).unwrap();
            let certificate = certificate.self_signed(&key).unwrap().pem();
            let pkcs8 = key.serialized_der();
            for der in [pkcs8, &inner(pkcs8)] {
                for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ANY PRIVATE KEY"]
                {
                    let key = block(label, der);
                    parse(&certificate, &key).unwrap();
                    let parameters = block("EC PARAMETERS", &[6, 5, 0x2b, 0x81, 4, 0, 0x22]);
                    parse(&certificate, &format!("{parameters}{key}")).unwrap();
                    parse(&certificate, &format!("some text\n{key}{others}")).unwrap();
                    let both = format!("{key}{certificate}").replace('\n', "\r\n");
                    parse(&both, &both).unwrap();
                }
            }
            assert!(matches!(parse(&certificate, &others), Err(TlsError::Mismatch)));
            let broken = block("PRIVATE KEY", &pkcs8[..pkcs8.len() / 2]);
            assert!(matches!(parse(&certificate, &broken), Err(TlsError::BadKey(_))));
            assert!(matches!(parse(&certificate, &certificate), Err(TlsError::NoKey)));
            assert!(matches!(parse(&others, &others), Err(TlsError::Empty(_))));
            let encrypted = block("ENCRYPTED PRIVATE KEY", pkcs8);
            assert!(matches!(parse(&certificate, &encrypted), Err(TlsError::Encrypted)));
            let label = "-----BEGIN RSA PRIVATE KEY-----\n";
            let old = format!("{label}Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n");
            let old = block("RSA PRIVATE KEY", pkcs8).replace(label, &old);
            assert!(matches!(parse(&certificate, &old), Err(TlsError::Encrypted)));
        }
    }

    #[test]
    fn a_bundle_is_what_can_be_read_of_it() {
        let key = KeyPair::generate().unwrap();
        let good = CertificateParams::new(vec!["a".into()]).unwrap();
        let good = good.self_signed(&key).unwrap().pem();
        let bad = block("CERTIFICATE", b"none");
        let bundle = |text: &str| client(&Trust::Ca(text.into()), None).map(|_| ());
        bundle(&format!("# Some CA\n{bad}{good}{}", block("X509 CRL", b"x"))).unwrap();
        for none in ["", "text", &bad] {
            let error = bundle(none).unwrap_err();
            assert_eq!(error.to_string(), "certificate authority holds no certificate");
        }
    }

    #[test]
    fn a_name_that_cannot_be_read_is_nobodys() {
        let identity = |names: &[(DnType, rcgen::DnValue)]| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name = DistinguishedName::new();
            for (kind, value) in names {
                params.distinguished_name.push(kind.clone(), value.clone());
            }
            let key = KeyPair::generate().unwrap();
            PeerIdentity::of(params.self_signed(&key).unwrap().der())
        };
        let text = |text: &str| rcgen::DnValue::Utf8String(text.to_owned());
        let found = identity(&[
            (DnType::CommonName, text("jürgen")),
            (DnType::OrganizationName, text("users")),
        ]);
        let jürgen = PeerIdentity { user: "jürgen".into(), groups: vec!["users".into()] };
        assert_eq!(found, Some(jürgen));
        assert_eq!(identity(&[(DnType::OrganizationName, text("users"))]), None);
        assert_eq!(identity(&[(DnType::CommonName, text(""))]), None);
        let strange = rcgen::DnValue::BmpString("a".try_into().unwrap());
        assert_eq!(identity(&[(DnType::CommonName, strange.clone())]), None);
        let group = (DnType::OrganizationName, strange);
        assert_eq!(identity(&[(DnType::CommonName, text("a")), group]), None);
    }
}
