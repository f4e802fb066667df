//! PEM to TLS configurations, certificates to identities.
//! Above: `dial`, `serve`, the mains. Below: rustls with aws-lc-rs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_platform_verifier::BuilderVerifierExt;
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Streams are upgrades of HTTP/1.1; HTTP/2 has none.
const ALPN: &[u8] = b"http/1.1";

/// Why a TLS configuration cannot be made.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Not PEM, or not of the right kind.
    #[error("{what}: {error}")]
    Pem {
        /// What it was to be.
        what: &'static str,
        /// What is wrong.
        error: rustls::pki_types::pem::Error,
    },
    /// There is no certificate in it.
    #[error("{0} holds no certificate")]
    Empty(&'static str),
    /// rustls refuses it.
    #[error("{what}: {error}")]
    Refused {
        /// What it was to be.
        what: &'static str,
        /// Why.
        error: rustls::Error,
    },
    /// A client CA cannot be used.
    #[error("client CA: {0}")]
    ClientCa(#[from] rustls::server::VerifierBuilderError),
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

    fn parse(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let chain = certificates("certificate", &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| TlsError::Pem { what: "private key", error })?;
        Ok((chain, key))
    }
}

/// Reads a PEM file.
///
/// # Errors
/// [`TlsError::File`].
pub fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::File { path: path.to_owned(), error })
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| TlsError::Pem { what, error })?;
    if all.is_empty() { Err(TlsError::Empty(what)) } else { Ok(all) }
}

fn roots(what: &'static str, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(what, pem)? {
        store.add(certificate).map_err(|error| TlsError::Refused { what, error })?;
    }
    Ok(store)
}

/// AES-128-GCM first: a third less work than AES-256 for every byte that we relay.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        let name = format!("{:?}", suite.suite());
        !name.contains("AES_128_GCM")
    });
    Arc::new(provider)
}

fn no_version(what: &'static str) -> impl Fn(rustls::Error) -> TlsError {
    move |error| TlsError::Refused { what, error }
}

/// A server that shows `identity` and, with a CA, asks clients for certificates. `required` turns
/// away those that have none.
///
/// # Errors
/// [`TlsError`] for anything that is not what it should be.
pub fn server(
    identity: &Identity,
    client_ca: Option<&[u8]>,
    required: bool,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(no_version("server"))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let store = Arc::new(roots("client CA", pem)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(store, provider);
            let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    let (chain, key) = identity.parse()?;
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::Refused { what: "certificate and key", error })?;
    // Our order decides, not the client's.
    config.ignore_client_order = true;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
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
        Trust::System => {
            builder.with_platform_verifier().map_err(no_version("the system's CAs"))?
        }
        Trust::Ca(pem) => builder.with_root_certificates(roots("certificate authority", pem)?),
        Trust::Anybody => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustAnybody { provider })),
    };
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = identity.parse()?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| TlsError::Refused { what: "client certificate and key", error })?
        }
    };
    // As kubectl's streams: no ALPN at all, so that no server can choose HTTP/2.
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct TrustAnybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
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
    /// The identity in a certificate that TLS has verified; `None` if it names no user.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<PeerIdentity> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let subject = certificate.subject();
        let text = |part: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            part.as_str().ok().map(ToOwned::to_owned)
        };
        let user = subject.iter_common_name().find_map(text).filter(|user| !user.is_empty())?;
        Some(PeerIdentity { user, groups: subject.iter_organization().filter_map(text).collect() })
    }
}
