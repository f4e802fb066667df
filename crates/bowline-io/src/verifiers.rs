//! What rustls asks about the other side's certificate to what `trust` says.
//! Above: `tls`. Below: `trust`, `readable`.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};

use crate::readable::Readable;
use crate::trust::{Purpose, Roots};

/// Judges servers; without roots it trusts anybody.
#[derive(Debug)]
pub(crate) struct Servers {
    roots: Option<Roots>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Servers {
    /// With these CAs, or with none at all.
    pub(crate) fn new(roots: Option<Roots>, provider: &CryptoProvider) -> Arc<Servers> {
        Arc::new(Servers { roots, algorithms: provider.signature_verification_algorithms })
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            // In Go's order: a name that does not fit is told first.
            let readable = Readable::of(leaf);
            verify_server_name(&ParsedCertificate::try_from(readable.der())?, name)?;
            roots.judge(Purpose::Server, leaf, between, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        by: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let readable = Readable::of(certificate);
        verify_tls12_signature(message, readable.der(), by, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        by: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let readable = Readable::of(certificate);
        verify_tls13_signature(message, readable.der(), by, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Judges clients.
#[derive(Debug)]
pub(crate) struct Clients {
    roots: Roots,
    hints: Vec<DistinguishedName>,
    required: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Clients {
    /// With these CAs; `required` turns away those who show nothing.
    pub(crate) fn new(roots: Roots, required: bool, provider: &CryptoProvider) -> Arc<Clients> {
        let hints = roots.subjects().map(DistinguishedName::in_sequence).collect();
        let algorithms = provider.signature_verification_algorithms;
        Arc::new(Clients { roots, hints, required, algorithms })
    }

    /// The CAs.
    pub(crate) fn roots(&self) -> &Roots {
        &self.roots
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.roots.judge(Purpose::Client, leaf, between, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        by: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let readable = Readable::of(certificate);
        verify_tls12_signature(message, readable.der(), by, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        by: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let readable = Readable::of(certificate);
        verify_tls13_signature(message, readable.der(), by, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
