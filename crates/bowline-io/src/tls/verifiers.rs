//! Verifies certificates for rustls, with the verdicts of [`trust`].

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, PeerMisbehaved, SignatureScheme};
use webpki::RawPublicKeyEntity;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::go_compat::WebpkiForm;
use super::parse::parse;
use super::trust::{self, Purpose, Roots};

/// Verifies servers' certificates; without roots it trusts any.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    roots: Option<Roots>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    /// A verifier with these CAs, or one that trusts any server.
    pub(crate) fn new(roots: Option<Roots>, provider: &CryptoProvider) -> Arc<ServerVerifier> {
        Arc::new(ServerVerifier { roots, algorithms: provider.signature_verification_algorithms })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(roots) = &self.roots else {
            // Any is trusted, but Go ends the handshake if it cannot parse one of them.
            let mut all = std::iter::once(leaf).chain(intermediates);
            let parsed = all.try_for_each(|one| parse(one).map(drop));
            return parsed.map(|()| ServerCertVerified::assertion()).map_err(trust::error);
        };
        // As in Go, a name that does not fit is reported first.
        let form = WebpkiForm::of(leaf);
        let named = verify_server_name(&ParsedCertificate::try_from(form.der())?, name);
        named.or_else(|error| if is_wildcard_of(leaf, name) { Ok(()) } else { Err(error) })?;
        roots.judge(Purpose::Server, leaf, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        by: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.roots.is_none() {
            return by_key_alone(message, certificate, by, &self.algorithms);
        }
        let form = WebpkiForm::of(certificate);
        verify_tls12_signature(message, form.der(), by, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        by: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.roots.is_none() {
            let key = key_of(certificate)?;
            return verify_tls13_signature_with_raw_key(message, &key, by, &self.algorithms);
        }
        let form = WebpkiForm::of(certificate);
        verify_tls13_signature(message, form.der(), by, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Returns the key of a certificate without judging that, as webpki would.
fn key_of(certificate: &[u8]) -> Result<SubjectPublicKeyInfoDer<'_>, rustls::Error> {
    let parsed = parse(certificate).map_err(trust::error)?;
    Ok(SubjectPublicKeyInfoDer::from(parsed.tbs_certificate.subject_pki.raw))
}

/// Verifies a signature as rustls' `verify_tls12_signature` does, without judging the certificate.
fn by_key_alone(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    by: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let key = key_of(certificate)?;
    let key = RawPublicKeyEntity::try_from(&key).map_err(trust::error)?;
    let known = algorithms.mapping.iter().find(|known| known.0 == by.scheme);
    let mut why = PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into();
    for &algorithm in known.map_or(&[][..], |known| known.1) {
        match key.verify_signature(algorithm, message, by.signature()) {
            Ok(()) => return Ok(HandshakeSignatureValid::assertion()),
            Err(error) => why = trust::error(error),
        }
    }
    Err(why)
}

/// Whether a wildcard in the certificate matches the name, by Go's rules: it stands for the first
/// label, however few follow. webpki wants two more, which keeps public CAs from `*.com`; but names
/// inside of a cluster are often shorter.
fn is_wildcard_of(leaf: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let ServerName::DnsName(name) = name else { return false };
    let Some((_, behind)) = name.as_ref().split_once('.') else { return false };
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else { return false };
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|one| match one {
        GeneralName::DNSName(pattern) => {
            let rest = pattern.strip_prefix("*.").filter(|rest| !rest.contains('*'));
            rest.is_some_and(|rest| !rest.is_empty() && rest.eq_ignore_ascii_case(behind))
        }
        _ => false,
    })
}

/// Verifies clients' certificates.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    roots: Roots,
    hints: Vec<DistinguishedName>,
    required: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    /// A verifier with these CAs; `required` refuses clients without a certificate.
    pub(crate) fn new(
        roots: Roots,
        required: bool,
        provider: &CryptoProvider,
    ) -> Arc<ClientVerifier> {
        let hints = roots.subjects().map(DistinguishedName::in_sequence).collect();
        let algorithms = provider.signature_verification_algorithms;
        Arc::new(ClientVerifier { roots, hints, required, algorithms })
    }

    /// The CAs.
    pub(crate) fn roots(&self) -> &Roots {
        &self.roots
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.roots.judge(Purpose::Client, leaf, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        by: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let form = WebpkiForm::of(certificate);
        verify_tls12_signature(message, form.der(), by, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        by: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let form = WebpkiForm::of(certificate);
        verify_tls13_signature(message, form.der(), by, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_wildcard_is_one_label() {
        let matches = |pattern: &str, name: &str| {
            let params = CertificateParams::new(vec![pattern.to_owned()]).unwrap();
            let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
            is_wildcard_of(&der, &ServerName::try_from(name.to_owned()).unwrap())
        };
        assert!(matches("*.local", "box.local"));
        assert!(matches("*.LOCAL", "box.local"));
        assert!(matches("*.a.b", "box.a.b"));
        for (pattern, name) in [
            ("*.local", "a.box.local"),
            ("*.local", "local"),
            ("*.local", "box.locally"),
            ("*.*", "box.local"),
            ("box.*", "box.local"),
            ("b*.local", "box.local"),
            ("*.0.0.1", "127.0.0.1"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
