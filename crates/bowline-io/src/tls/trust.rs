//! Decides whether a certificate is trusted, with the verdicts of Go's `crypto/x509`.
//!
//! webpki builds and checks the path. Each path that it finds is then checked for what Go requires
//! beyond that: Go checks the validity, key usage and path length of a root, which webpki takes as
//! it is. A certificate that is itself among the roots needs no path. Certificates that Go cannot
//! parse are refused before, see [`parse`](super::parse).

use std::sync::Arc;

use rustls::CertificateError as Bad;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, KeyUsage,
    RequiredEkuNotFoundContext, VerifiedPath, anchor_from_trusted_cert,
};
use x509_parser::certificate::Validity;
use x509_parser::extensions::ExtendedKeyUsage;
use x509_parser::prelude::{X509Certificate, X509Version};

use super::go_compat::WebpkiForm;
use super::parse::{check_critical_extensions, demands_policies, parse};

/// `anyExtendedKeyUsage`, 2.5.29.37.0.
const ANY_PURPOSE: KeyPurposeId<'static> = KeyPurposeId::new(&[0x55, 0x1d, 0x25, 0]);

/// What a certificate is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A server sends it.
    Server,
    /// A client sends it.
    Client,
}

impl Purpose {
    fn usage(self) -> KeyUsage {
        match self {
            Purpose::Server => KeyUsage::server_auth(),
            Purpose::Client => KeyUsage::client_auth(),
        }
    }

    fn id(self) -> KeyPurposeId<'static> {
        match self {
            Purpose::Server => KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 1]),
            Purpose::Client => KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 2]),
        }
    }

    fn is_in(self, usage: &ExtendedKeyUsage<'_>) -> bool {
        usage.any
            || match self {
                Purpose::Server => usage.server_auth,
                Purpose::Client => usage.client_auth,
            }
    }
}

/// A certificate without an extended key usage may be used for anything.
impl ExtendedKeyUsageValidator for Purpose {
    fn validate(&self, iter: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let mut present = Vec::new();
        for id in iter {
            let id = id?;
            if id == self.id() || id == ANY_PURPOSE {
                return Ok(());
            }
            present.push(id.to_decoded_oid());
        }
        if present.is_empty() {
            return Ok(());
        }
        let required = self.usage();
        Err(webpki::Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext {
            required,
            present,
        }))
    }
}

/// Trusted certificates: CAs, and others that are trusted themselves.
#[derive(Debug)]
pub(crate) struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Roots {
    /// Those of the certificates that can be parsed, as by Go's `AppendCertsFromPEM`.
    pub(crate) fn new(
        all: impl IntoIterator<Item = CertificateDer<'static>>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Roots {
        let mut roots = Roots { certificates: Vec::new(), anchors: Vec::new(), algorithms };
        for certificate in all {
            let anchor = anchor_from_trusted_cert(&certificate).map(|anchor| anchor.to_owned());
            if let (Ok(anchor), Ok(_)) = (anchor, parse(&certificate)) {
                roots.certificates.push(certificate);
                roots.anchors.push(anchor);
            }
        }
        roots
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// The subjects, for a server that tells clients which CAs it trusts.
    pub(crate) fn subjects(&self) -> impl Iterator<Item = &[u8]> {
        self.anchors.iter().map(|anchor| anchor.subject.as_ref())
    }

    /// Checks that `leaf` is trusted at `now`. Its name is not checked.
    ///
    /// # Errors
    /// The reason if it is not trusted.
    pub(crate) fn judge(
        &self,
        purpose: Purpose,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let parsed = parse(leaf).map_err(error)?;
        intermediates.iter().try_for_each(|one| parse(one).map(drop)).map_err(error)?;
        check_critical_extensions(&parsed).map_err(error)?;
        let form = WebpkiForm::of(leaf);
        // This also refuses critical extensions that webpki does not know.
        let certificate = EndEntityCert::try_from(form.der()).map_err(error)?;
        if self.certificates.iter().any(|root| **root == **leaf) {
            return check_trusted_leaf(purpose, &parsed, now).map_err(error);
        }
        if demands_policies(&parsed) {
            return Err(error(webpki::Error::UnsupportedCriticalExtension));
        }
        let algorithms = form.algorithms(&self.algorithms);
        let algorithms: Vec<&dyn SignatureVerificationAlgorithm> =
            algorithms.iter().map(|one| one as _).collect();
        let check = |path: &VerifiedPath<'_>| self.check(purpose, path, now);
        let path = certificate.verify_for_usage(
            &algorithms,
            &self.anchors,
            intermediates,
            now,
            purpose,
            None,
            Some(&check),
        );
        path.map(|_| ()).map_err(error)
    }

    /// Checks a path for what Go requires of issuers and webpki does not.
    fn check(
        &self,
        purpose: Purpose,
        path: &VerifiedPath<'_>,
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let mut below = 0;
        for intermediate in path.intermediate_certificates() {
            let der = intermediate.der();
            let parsed = parse(&der)?;
            check_may_sign(&parsed)?;
            check_critical_extensions(&parsed)?;
            if demands_policies(&parsed) {
                return Err(webpki::Error::UnsupportedCriticalExtension);
            }
            below += 1;
        }
        let anchor = path.anchor();
        let mut why = webpki::Error::UnknownIssuer;
        for (der, one) in self.certificates.iter().zip(&self.anchors) {
            // Compares all that webpki has used, so that no other root's constraints are checked.
            if one != anchor {
                continue;
            }
            let root = parse(der)?;
            match check_root_may_sign(&root, purpose, below, now) {
                Ok(()) => return Ok(()),
                Err(error) => why = error,
            }
        }
        Err(why)
    }
}

/// Checks a leaf that is among the roots, as Go checks a chain of one.
fn check_trusted_leaf(
    purpose: Purpose,
    leaf: &X509Certificate<'_>,
    now: UnixTime,
) -> Result<(), webpki::Error> {
    check_validity(leaf.validity(), now)?;
    check_purpose(leaf, purpose)
}

fn check_root_may_sign(
    root: &X509Certificate<'_>,
    purpose: Purpose,
    below: u32,
    now: UnixTime,
) -> Result<(), webpki::Error> {
    check_validity(root.validity(), now)?;
    check_purpose(root, purpose)?;
    check_may_sign(root)?;
    check_critical_extensions(root)?;
    let constraints = root.basic_constraints().map_err(|_| webpki::Error::BadDer)?;
    match constraints.and_then(|constraints| constraints.value.path_len_constraint) {
        Some(most) if below > most => Err(webpki::Error::PathLenConstraintViolated),
        _ => Ok(()),
    }
}

/// Checks that a certificate may sign others, as Go's `CheckSignatureFrom`. One of v1 cannot say
/// that it is a CA, and may.
fn check_may_sign(certificate: &X509Certificate<'_>) -> Result<(), webpki::Error> {
    let constraints = certificate.basic_constraints().map_err(|_| webpki::Error::BadDer)?;
    let is_ca = match constraints {
        Some(constraints) => constraints.value.ca,
        None => certificate.version() != X509Version::V3,
    };
    let usage = certificate.key_usage().map_err(|_| webpki::Error::BadDer)?;
    let signs = usage.is_none_or(|usage| usage.value.flags == 0 || usage.value.key_cert_sign());
    if is_ca && signs { Ok(()) } else { Err(webpki::Error::UnknownIssuer) }
}

fn check_validity(validity: &Validity, now: UnixTime) -> Result<(), webpki::Error> {
    let time = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let unix = |seconds: i64| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.try_into().unwrap_or(0)))
    };
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    if time < from {
        return Err(webpki::Error::CertNotValidYet { time: now, not_before: unix(from) });
    }
    if time > until {
        return Err(webpki::Error::CertExpired { time: now, not_after: unix(until) });
    }
    Ok(())
}

fn check_purpose(certificate: &X509Certificate<'_>, purpose: Purpose) -> Result<(), webpki::Error> {
    let usage = certificate.extended_key_usage().map_err(|_| webpki::Error::BadDer)?;
    if usage.is_none_or(|usage| purpose.is_in(usage.value)) {
        return Ok(());
    }
    let required = purpose.usage();
    let present = Vec::new();
    let context = RequiredEkuNotFoundContext { required, present };
    Err(webpki::Error::RequiredEkuNotFoundContext(context))
}

/// Turns webpki's error into rustls', which decides the alert for the other side.
pub(crate) fn error(error: webpki::Error) -> rustls::Error {
    use webpki::Error as Webpki;
    rustls::Error::InvalidCertificate(match error {
        Webpki::CertNotValidYet { time, not_before } => {
            Bad::NotValidYetContext { time, not_before }
        }
        Webpki::CertExpired { time, not_after } => Bad::ExpiredContext { time, not_after },
        Webpki::UnknownIssuer => Bad::UnknownIssuer,
        Webpki::InvalidSignatureForPublicKey => Bad::BadSignature,
        Webpki::RequiredEkuNotFoundContext(_) => Bad::InvalidPurpose,
        Webpki::BadDer | Webpki::BadDerTime | Webpki::TrailingData(_) => Bad::BadEncoding,
        Webpki::UnsupportedCriticalExtension => Bad::UnhandledCriticalExtension,
        other => Bad::Other(rustls::OtherError(Arc::new(other))),
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DnType,
        ExtendedKeyUsagePurpose as Eku, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
    };

    use super::*;
    use crate::tls::go_compat::tests::v1;

    const CA: IsCa = IsCa::Ca(BasicConstraints::Unconstrained);

    fn params(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        params
    }

    /// Who signs: a certificate and its key.
    struct Signer {
        der: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Signer {
        fn root(change: impl FnOnce(&mut CertificateParams)) -> Signer {
            let params = params("root", |params| {
                params.is_ca = CA;
                change(params);
            });
            let key = KeyPair::generate().unwrap();
            let der = params.self_signed(&key).unwrap().der().clone();
            Signer { der, issuer: Issuer::new(params, key) }
        }

        fn below(&self, change: impl FnOnce(&mut CertificateParams)) -> Signer {
            let params = params("between", |params| {
                params.is_ca = CA;
                change(params);
            });
            let key = KeyPair::generate().unwrap();
            let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
            Signer { der, issuer: Issuer::new(params, key) }
        }

        fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
            let key = KeyPair::generate().unwrap();
            let leaf = params("leaf", change).signed_by(&key, &self.issuer).unwrap();
            leaf.der().clone()
        }
    }

    fn now() -> UnixTime {
        let day = date_time_ymd(2026, 1, 1).unix_timestamp();
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(day.try_into().unwrap()))
    }

    fn judge_as(
        purpose: Purpose,
        roots: &[&CertificateDer<'static>],
        leaf: &CertificateDer<'static>,
        between: &[CertificateDer<'static>],
    ) -> Result<(), rustls::Error> {
        let algorithms =
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let roots = Roots::new(roots.iter().map(|&root| root.clone()), algorithms);
        roots.judge(purpose, leaf, between, now())
    }

    fn judge(
        roots: &[&CertificateDer<'static>],
        leaf: &CertificateDer<'static>,
        between: &[CertificateDer<'static>],
    ) -> Result<(), Bad> {
        judge_as(Purpose::Server, roots, leaf, between).map_err(|error| match error {
            rustls::Error::InvalidCertificate(bad) => bad,
            other => panic!("{other}"),
        })
    }

    fn old(params: &mut CertificateParams) {
        params.not_after = date_time_ymd(2025, 12, 31);
    }

    fn future(params: &mut CertificateParams) {
        params.not_before = date_time_ymd(2026, 1, 2);
    }

    #[track_caller]
    fn is_late(verdict: Result<(), Bad>) {
        let expected =
            matches!(verdict, Err(Bad::ExpiredContext { .. } | Bad::NotValidYetContext { .. }));
        assert!(expected, "{verdict:?}");
    }

    #[test]
    fn a_ca_may_be_a_server() {
        let root = Signer::root(|_| {});
        assert_eq!(judge(&[&root.der], &root.der, &[]), Ok(()), "as its own CA");
        let leaf = root.leaf(|params| params.is_ca = CA);
        assert_eq!(judge(&[&root.der], &leaf, &[]), Ok(()), "below another");
        let constrained =
            root.leaf(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
        assert_eq!(judge(&[&root.der], &constrained, &[]), Ok(()));
        let between = root.below(|_| {});
        let leaf = between.leaf(|params| params.is_ca = CA);
        assert_eq!(
            judge(&[&root.der], &leaf, std::slice::from_ref(&between.der)),
            Ok(()),
            "below two"
        );
        assert_eq!(judge(&[&root.der], &leaf, &[]), Err(Bad::UnknownIssuer));
    }

    /// All that is asked of others is asked of them.
    #[test]
    fn a_ca_is_no_better_a_server_than_others() {
        let (root, other) = (Signer::root(|_| {}), Signer::root(|_| {}));
        let leaf = other.leaf(|params| params.is_ca = CA);
        assert_eq!(judge(&[&root.der], &leaf, &[]), Err(Bad::BadSignature), "a namesake's");
        assert_eq!(judge(&[&root.der], &other.der, &[]), Err(Bad::BadSignature), "a namesake");
        for change in [old, future] {
            let late = root.leaf(|params| {
                params.is_ca = CA;
                change(params);
            });
            is_late(judge(&[&root.der], &late, &[]));
            let late = Signer::root(change);
            is_late(judge(&[&late.der], &late.der, &[]));
        }
        let client = |params: &mut CertificateParams| {
            params.is_ca = CA;
            params.extended_key_usages = vec![Eku::ClientAuth];
        };
        assert_eq!(judge(&[&root.der], &root.leaf(client), &[]), Err(Bad::InvalidPurpose));
        let itself = Signer::root(client);
        assert_eq!(judge(&[&itself.der], &itself.der, &[]), Err(Bad::InvalidPurpose));
        let unknown = |params: &mut CertificateParams| {
            params.is_ca = CA;
            params.custom_extensions = vec![unknown_extension()];
        };
        assert_eq!(
            judge(&[&root.der], &root.leaf(unknown), &[]),
            Err(Bad::UnhandledCriticalExtension)
        );
        let elsewhere = Signer::root(|params| {
            params.name_constraints = Some(rcgen::NameConstraints {
                permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("elsewhere".into())],
                excluded_subtrees: Vec::new(),
            });
        });
        let leaf = elsewhere.leaf(|params| params.is_ca = CA);
        assert!(judge(&[&elsewhere.der], &leaf, &[]).is_err(), "outside of its CA's names");
    }

    /// The word that is not looked at cannot be changed by anybody but the issuer.
    #[test]
    fn what_the_issuer_has_not_signed_is_not_believed() {
        let root = Signer::root(|_| {});
        let leaf = root.leaf(|params| params.is_ca = CA);
        assert_eq!(judge(&[&root.der], &leaf, &[]), Ok(()));
        for at in 0..leaf.len() {
            let mut changed = leaf.to_vec();
            changed[at] ^= 1;
            let verdict = judge(&[&root.der], &changed.into(), &[]);
            assert!(verdict.is_err(), "byte {at} of {}", leaf.len());
        }
    }

    #[test]
    fn one_that_is_trusted_itself_needs_no_issuer() {
        let (root, other) = (Signer::root(|_| {}), Signer::root(|_| {}));
        let leaf = root.leaf(|_| {});
        assert_eq!(judge(&[&leaf], &leaf, &[]), Ok(()));
        assert_eq!(judge(&[&other.der, &leaf], &leaf, &[]), Ok(()));
        is_late(judge(&[&root.leaf(old)], &root.leaf(old), &[]));
        let expired = root.leaf(old);
        is_late(judge(&[&expired], &expired, &[]));
        // It has no say about others.
        let between = root.below(|_| {});
        assert_eq!(judge(&[&between.der], &between.leaf(|_| {}), &[]), Ok(()), "any CA is a root");
        assert_eq!(judge(&[&leaf], &root.leaf(|_| {}), &[]), Err(Bad::UnknownIssuer));
    }

    fn unknown_extension() -> CustomExtension {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(true);
        extension
    }

    #[test]
    fn roots_are_asked_what_go_asks_them() {
        let late = [Signer::root(old), Signer::root(future)];
        for root in late {
            is_late(judge(&[&root.der], &root.leaf(|_| {}), &[]));
        }
        // An expired one beside its successor, as in many bundles.
        let root = Signer::root(|_| {});
        let before = params("root", |params| {
            params.is_ca = CA;
            old(params);
        });
        let before = before.self_signed(root.issuer.key()).unwrap().der().clone();
        let leaf = root.leaf(|_| {});
        assert_eq!(judge(&[&before, &root.der], &leaf, &[]), Ok(()));
        assert_eq!(judge(&[&root.der, &before], &leaf, &[]), Ok(()));

        let no_ca = Signer::root(|params| params.is_ca = IsCa::NoCa);
        assert_eq!(judge(&[&no_ca.der], &no_ca.leaf(|_| {}), &[]), Err(Bad::UnknownIssuer));
        assert_eq!(judge(&[&no_ca.der], &no_ca.der, &[]), Ok(()), "for itself it may speak");
        let no_signer =
            Signer::root(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
        assert_eq!(judge(&[&no_signer.der], &no_signer.leaf(|_| {}), &[]), Err(Bad::UnknownIssuer));
        let for_clients = Signer::root(|params| params.extended_key_usages = vec![Eku::ClientAuth]);
        assert_eq!(
            judge(&[&for_clients.der], &for_clients.leaf(|_| {}), &[]),
            Err(Bad::InvalidPurpose)
        );
        let unknown = Signer::root(|params| params.custom_extensions = vec![unknown_extension()]);
        assert_eq!(
            judge(&[&unknown.der], &unknown.leaf(|_| {}), &[]),
            Err(Bad::UnhandledCriticalExtension)
        );
        let short = Signer::root(|params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        });
        assert_eq!(judge(&[&short.der], &short.leaf(|_| {}), &[]), Ok(()));
        let between = short.below(|_| {});
        assert!(
            judge(&[&short.der], &between.leaf(|_| {}), std::slice::from_ref(&between.der))
                .is_err()
        );
    }

    #[test]
    fn those_between_must_be_allowed_to_sign() {
        let root = Signer::root(|_| {});
        let verdict = |change: fn(&mut CertificateParams)| {
            let between = root.below(change);
            judge(&[&root.der], &between.leaf(|_| {}), std::slice::from_ref(&between.der))
        };
        assert_eq!(verdict(|_| {}), Ok(()));
        assert!(verdict(|params| params.is_ca = IsCa::NoCa).is_err());
        assert!(verdict(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]).is_err());
        assert_eq!(
            verdict(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
            Ok(())
        );
        is_late(verdict(old));
    }

    #[test]
    fn what_cannot_be_read_is_refused_wherever_it_is() {
        let twice = |params: &mut CertificateParams| {
            let one = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            params.custom_extensions = vec![one.clone(), one];
        };
        let (root, strange) = (Signer::root(|_| {}), Signer::root(twice));
        assert_eq!(judge(&[&root.der], &root.leaf(twice), &[]), Err(Bad::BadEncoding));
        let unused = root.below(twice).der;
        assert_eq!(judge(&[&root.der], &root.leaf(|_| {}), &[unused]), Err(Bad::BadEncoding));
        assert_eq!(judge(&[&strange.der], &strange.leaf(|_| {}), &[]), Err(Bad::UnknownIssuer));
    }

    /// An expired root of the same name and key says nothing about what the other one forbids.
    #[test]
    fn each_root_has_its_own_constraints() {
        let root = Signer::root(|params| {
            params.name_constraints = Some(rcgen::NameConstraints {
                permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("elsewhere".into())],
                excluded_subtrees: Vec::new(),
            });
        });
        let free = params("root", |params| {
            params.is_ca = CA;
            old(params);
        });
        let free = free.self_signed(root.issuer.key()).unwrap().der().clone();
        let leaf = root.leaf(|_| {});
        assert!(judge(&[&root.der, &free], &leaf, &[]).is_err());
        assert!(judge(&[&free, &root.der], &leaf, &[]).is_err());
    }

    #[test]
    fn policies_that_are_demanded_are_not_there() {
        let demand = |params: &mut CertificateParams| {
            let inner = vec![0x30, 3, 0x80, 1, 0];
            let demands = CustomExtension::from_oid_content(&[2, 5, 29, 36], inner);
            params.custom_extensions = vec![demands];
        };
        let root = Signer::root(demand);
        assert_eq!(judge(&[&root.der], &root.leaf(|_| {}), &[]), Ok(()), "a root's do not count");
        assert!(judge(&[&root.der], &root.leaf(demand), &[]).is_err());
        let between = root.below(demand);
        let chain = std::slice::from_ref(&between.der);
        assert!(judge(&[&root.der], &between.leaf(|_| {}), chain).is_err());
    }

    #[test]
    fn purposes_are_those_of_the_role_or_any() {
        let root = Signer::root(|_| {});
        for (usages, server, client) in [
            (vec![], true, true),
            (vec![Eku::Any], true, true),
            (vec![Eku::ServerAuth], true, false),
            (vec![Eku::ClientAuth], false, true),
            (vec![Eku::CodeSigning], false, false),
        ] {
            let leaf = root.leaf(|params| params.extended_key_usages = usages.clone());
            for (purpose, expected) in [(Purpose::Server, server), (Purpose::Client, client)] {
                let verdict = judge_as(purpose, &[&root.der], &leaf, &[]);
                assert_eq!(verdict.is_ok(), expected, "{usages:?} {purpose:?}: {verdict:?}");
            }
        }
    }

    #[test]
    fn version_1_will_do() {
        let root = Signer::root(|_| {});
        let leaf = v1(&root.leaf(|_| {}), root.issuer.key());
        assert_eq!(judge_as(Purpose::Client, &[&root.der], &leaf, &[]), Ok(()));
        let other = Signer::root(|_| {});
        let foreign = v1(&other.leaf(|_| {}), other.issuer.key());
        assert!(judge_as(Purpose::Client, &[&root.der], &foreign, &[]).is_err());
        for at in 0..leaf.len() {
            let mut changed = leaf.to_vec();
            changed[at] ^= 1;
            let verdict = judge_as(Purpose::Client, &[&root.der], &changed.into(), &[]);
            assert!(verdict.is_err(), "byte {at} of {}", leaf.len());
        }
        let old_root = v1(&root.der, root.issuer.key());
        assert_eq!(judge(&[&old_root], &root.leaf(|_| {}), &[]), Ok(()), "a CA of version 1");
        // Only a root may be: nothing in it says that it is a CA.
        let between = root.below(|_| {});
        let old_between = v1(&between.der, root.issuer.key());
        assert!(judge(&[&root.der], &between.leaf(|_| {}), &[old_between]).is_err());
    }
}
