//! PEM to TLS configurations, certificates to identities.

mod go_compat;
mod parse;
mod pem;
mod trust;
mod verifiers;
pub(crate) mod words;

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

use self::trust::{Purpose, Roots};
use self::verifiers::{Clients, Servers};

/// Streams are upgrades of HTTP/1.1; HTTP/2 has none.
const ALPN: &[u8] = b"http/1.1";

/// Why a TLS configuration cannot be made.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// There is no certificate in it.
    #[error("{0} holds no certificate")]
    Empty(&'static str),
    /// There is no private key where one must be.
    #[error("the key's file holds no private key")]
    NoKey,
    /// There is one, and a password would be needed.
    #[error("the private key is encrypted, which is not supported: decrypt it with openssl pkey")]
    Encrypted,
    /// There is one that cannot be read.
    #[error("failed to parse the private key: {0}")]
    BadKey(String),
    /// They do not belong together.
    #[error("private key does not match public key")]
    Mismatch,
    /// A certificate cannot be read.
    #[error("failed to parse the certificate: {0}")]
    BadCertificate(String),
    /// rustls refuses it.
    #[error("{what}: {error}")]
    Refused {
        /// What it was to be.
        what: &'static str,
        /// What the TLS library said.
        error: rustls::Error,
    },
}

/// A certificate chain and its key, in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, then those between it and the CA.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads both files.
    ///
    /// # Errors
    /// [`TlsError::File`].
    pub fn read(certificate: &Path, key: &Path) -> Result<Identity, TlsError> {
        Ok(Identity { certificate: read(certificate)?, key: read(key)? })
    }

    /// Go's `tls.X509KeyPair`: the first private key of any form below any name, and all
    /// certificates; both may be in one file.
    fn parse(&self, provider: &CryptoProvider) -> Result<Arc<SingleCertAndKey>, TlsError> {
        let chain = certificates(&self.certificate);
        let leaf = chain.first().ok_or(TlsError::Empty("certificate"))?;
        let (_, leaf) = X509Certificate::from_der(leaf)
            .map_err(|error| TlsError::BadCertificate(error.to_string()))?;
        let key = provider
            .key_provider
            .load_private_key(private_key(&self.key)?)
            .map_err(|error| TlsError::BadKey(error.to_string()))?;
        if !belongs(&leaf, &*key) {
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
    // What it is says the data, not the label.
    PrivateKeyDer::try_from(block.der).map_err(|why| TlsError::BadKey(why.to_owned()))
}

/// Whether the key is that of the certificate, if it says which one it is.
fn belongs(certificate: &X509Certificate<'_>, key: &dyn SigningKey) -> bool {
    let Some(public) = key.public_key() else { return true };
    let Ok((_, public)) = SubjectPublicKeyInfo::from_der(&public) else { return true };
    public.subject_public_key.data == certificate.public_key().subject_public_key.data
}

/// Reads a PEM file.
///
/// # Errors
/// [`TlsError::File`].
pub fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::File { path: path.to_owned(), error })
}

/// The certificates among the blocks; Go passes over those that have headers.
fn certificates(text: &[u8]) -> Vec<CertificateDer<'static>> {
    let blocks = pem::blocks(text).into_iter();
    let certificates = blocks.filter(|block| block.label == "CERTIFICATE" && !block.has_headers);
    certificates.map(|block| block.der.into()).collect()
}

fn roots(what: &'static str, text: &[u8], provider: &CryptoProvider) -> Result<Roots, TlsError> {
    let roots = Roots::new(certificates(text), provider.signature_verification_algorithms);
    if roots.is_empty() { Err(TlsError::Empty(what)) } else { Ok(roots) }
}

/// AES-128-GCM first: a third less work than AES-256 for every byte that we relay.
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

/// A server's side of TLS.
#[derive(Clone, Debug)]
pub struct Server {
    /// For the handshake.
    pub config: Arc<ServerConfig>,
    clients: Option<Arc<Clients>>,
}

impl Server {
    /// What a client has shown, if it has.
    #[must_use]
    pub fn shown(&self, certificates: Option<&[CertificateDer<'static>]>) -> Option<Shown> {
        let chain = certificates?.to_vec();
        Some(Shown { config: self.config.clone(), clients: self.clients.clone()?, chain })
    }
}

/// A certificate that a client showed when it connected. A connection may outlive it, and what is
/// between it and the CA as well: who it is, is asked for each request.
#[derive(Clone, Debug)]
pub struct Shown {
    config: Arc<ServerConfig>,
    clients: Arc<Clients>,
    chain: Vec<CertificateDer<'static>>,
}

impl Shown {
    /// Who it is now; nobody once the certificate, or one above it, is no longer valid.
    #[must_use]
    pub fn identity(&self) -> Option<PeerIdentity> {
        let now = self.config.time_provider.current_time()?;
        let (leaf, between) = self.chain.split_first()?;
        self.clients.roots().judge(Purpose::Client, leaf, between, now).ok()?;
        PeerIdentity::of(leaf)
    }
}

/// A server that shows `identity` and, with a CA, asks clients for certificates. `required` turns
/// away those that have none. Where certificates count no session is resumed: that would bring back
/// who was there before, without a look at the certificate.
///
/// # Errors
/// [`TlsError`] for anything that is not what it should be.
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
        Some(pem) => Some(Clients::new(roots("client CA", pem, &provider)?, required, &provider)),
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
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Server { config: Arc::new(config), clients })
}

/// Whom a client trusts.
#[derive(Clone, Debug)]
pub enum Trust {
    /// What the operating system trusts.
    System,
    /// These CAs, in PEM.
    Ca(Vec<u8>),
    /// Anybody. Only because kubectl has `--insecure-skip-tls-verify`.
    Anybody,
}

/// A client that trusts so and shows `identity` where it is asked for one.
///
/// # Errors
/// [`TlsError`] for anything that is not what it should be.
pub fn client(trust: &Trust, identity: Option<&Identity>) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(no_version("client"))?;
    let builder = match trust {
        Trust::System => of_the_system(builder, &provider)?,
        Trust::Ca(pem) => {
            let roots = roots("certificate authority", pem, &provider)?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Servers::new(Some(roots), &provider))
        }
        Trust::Anybody => {
            builder.dangerous().with_custom_certificate_verifier(Servers::new(None, &provider))
        }
    };
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(identity.parse(&provider)?),
    };
    // As kubectl's streams: no ALPN at all, so that no server can choose HTTP/2.
    Ok(Arc::new(config))
}

/// The same trust, for a proxy on the way: the certificate is for the server behind it. Nothing is
/// resumed, since sessions are found by a name alone.
pub(crate) fn without_identity(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.client_auth_cert_resolver = Arc::new(Nobody);
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Shows no certificate.
#[derive(Debug)]
struct Nobody;

impl ResolvesClientCert for Nobody {
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
fn of_the_system(builder: Untrusting, provider: &CryptoProvider) -> Result<Trusting, TlsError> {
    // Where there are none, no server is trusted, which is then said of each.
    let found = rustls_native_certs::load_native_certs().certs;
    let roots = Roots::new(found, provider.signature_verification_algorithms);
    let servers = Servers::new(Some(roots), provider);
    Ok(builder.dangerous().with_custom_certificate_verifier(servers))
}

#[cfg(not(all(unix, not(any(target_vendor = "apple", target_os = "android")))))]
fn of_the_system(builder: Untrusting, _: &CryptoProvider) -> Result<Trusting, TlsError> {
    use rustls_platform_verifier::BuilderVerifierExt;
    builder.with_platform_verifier().map_err(no_version("the system's CAs"))
}

/// Who a verified client certificate says its owner is, in Kubernetes' reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The subject's common name.
    pub user: String,
    /// The subject's organizations.
    pub groups: Vec<String>,
}

impl PeerIdentity {
    /// The identity in a certificate that TLS has verified; `None` if it names no user, or in a way
    /// that cannot be read. Of several common names the last counts, as in Go.
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
