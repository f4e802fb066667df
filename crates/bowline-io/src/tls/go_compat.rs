//! Changes certificates that Go takes and webpki does not into ones that webpki can judge: a leaf
//! that says it is a CA into one that says it is none, and X.509 v1 into v3 without extensions.
//!
//! `openssl req -x509` makes CAs of servers, and `openssl x509 -req` made clients of v1 for twenty
//! years. webpki has no option to accept them, and a second path builder would be a second place
//! for mistakes. So webpki judges a changed certificate, in which all else is the original's. The
//! issuer's signature is verified over the original: an algorithm that gets the changed bytes
//! replaces them.

use std::borrow::Cow;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
};
use x509_parser::oid_registry::OID_X509_EXT_BASIC_CONSTRAINTS;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

const SEQUENCE: u8 = 0x30;
/// The version v3: `[0] EXPLICIT INTEGER 2`.
const V3: [u8; 5] = [0xa0, 3, 2, 1, 2];
/// Tag and length of a `BOOLEAN`.
const BOOLEAN: [u8; 2] = [1, 1];

/// A certificate in a form that webpki can judge.
pub(crate) struct WebpkiForm<'a> {
    der: Cow<'a, CertificateDer<'a>>,
    /// If it was changed: the signed part, changed and original.
    signed: Option<(Vec<u8>, Vec<u8>)>,
}

impl<'a> WebpkiForm<'a> {
    /// Returns a certificate in that form. Most need no change.
    pub(crate) fn of(der: &'a CertificateDer<'a>) -> WebpkiForm<'a> {
        let changed = X509Certificate::from_der(der).ok().and_then(|(rest, parsed)| {
            let whole = rest.is_empty();
            match parsed.version() {
                X509Version::V1 if whole => as_v3(der, &parsed),
                X509Version::V3 if whole => as_leaf(der, &parsed),
                _ => None,
            }
        });
        match changed {
            None => WebpkiForm { der: Cow::Borrowed(der), signed: None },
            Some((changed, signed)) => {
                WebpkiForm { der: Cow::Owned(changed.into()), signed: Some(signed) }
            }
        }
    }

    /// The certificate for webpki.
    pub(crate) fn der(&self) -> &CertificateDer<'a> {
        &self.der
    }

    /// Returns the algorithms that verify the issuer's signature, over the original.
    pub(crate) fn algorithms(
        &self,
        supported: &WebPkiSupportedAlgorithms,
    ) -> Vec<OriginalSigned<'_>> {
        let signed = self.signed.as_ref();
        supported.all.iter().map(|&algorithm| OriginalSigned { algorithm, signed }).collect()
    }
}

/// The changed certificate, and its signed part, changed and original.
type Changed = (Vec<u8>, (Vec<u8>, Vec<u8>));

fn as_v3(der: &[u8], parsed: &X509Certificate<'_>) -> Option<Changed> {
    let original = parsed.tbs_certificate.as_ref();
    let behind = place(der, original)? + original.len();
    let tbs = sequence(&[&V3, contents(original)?]);
    let changed = sequence(&[&tbs, der.get(behind..)?]);
    Some((changed, (tbs, original.to_owned())))
}

fn as_leaf(der: &[u8], parsed: &X509Certificate<'_>) -> Option<Changed> {
    let constraints = parsed.basic_constraints().ok()??;
    if !constraints.value.ca {
        return None;
    }
    let extension = parsed.get_extension_unique(&OID_X509_EXT_BASIC_CONSTRAINTS).ok()??;
    // The value is SEQUENCE { BOOLEAN cA, .. }.
    let [SEQUENCE, _, tag, length, 0xff, ..] = *extension.value else { return None };
    if [tag, length] != BOOLEAN {
        return None;
    }
    let at = place(der, extension.value)? + 4;
    let mut changed = der.to_owned();
    *changed.get_mut(at)? = 0;
    let original = parsed.tbs_certificate.as_ref();
    let begin = place(der, original)?;
    let tbs = changed.get(begin..begin + original.len())?.to_owned();
    Some((changed, (tbs, original.to_owned())))
}

/// Returns the offset of `part`, a slice of `whole`.
fn place(whole: &[u8], part: &[u8]) -> Option<usize> {
    let at = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    (at + part.len() <= whole.len()).then_some(at)
}

/// Returns the contents of a DER element that is all of `der`.
fn contents(der: &[u8]) -> Option<&[u8]> {
    match *der.get(1)? {
        short @ 0..0x80 => der.get(2..).filter(|inner| inner.len() == usize::from(short)),
        // The number of bytes of the length, which was parsed before.
        long => der.get(2 + usize::from(long & 0x7f)..),
    }
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    let inner = parts.concat();
    let length = inner.len().to_be_bytes();
    let length = &length[length.iter().take_while(|&&byte| byte == 0).count()..];
    let mut der = vec![SEQUENCE];
    match length {
        [] => der.push(0),
        [short @ 0..0x80] => der.push(*short),
        long => {
            // There are at most eight bytes.
            der.push(0x80 | long.len() as u8);
            der.extend(long);
        }
    }
    der.extend(inner);
    der
}

/// An algorithm that verifies the original's signature when it is given the changed certificate.
#[derive(Debug)]
pub(crate) struct OriginalSigned<'a> {
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    signed: Option<&'a (Vec<u8>, Vec<u8>)>,
}

impl SignatureVerificationAlgorithm for OriginalSigned<'_> {
    fn verify_signature(
        &self,
        key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let message = match self.signed {
            Some((changed, original)) if message == changed => original,
            _ => message,
        };
        self.algorithm.verify_signature(key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, SigningKey};

    use super::*;

    /// The same certificate as X.509 v1, signed by this key.
    pub(crate) fn v1(der: &[u8], issuer: &KeyPair) -> CertificateDer<'static> {
        let (_, parsed) = X509Certificate::from_der(der).unwrap();
        let tbs = parsed.tbs_certificate.as_ref();
        let inner = contents(tbs).unwrap();
        let (_, key) = (parsed.tbs_certificate.subject.as_raw(), parsed.public_key().raw);
        let behind_key = place(inner, key).unwrap() + key.len();
        let tbs = sequence(&[&inner[V3.len()..behind_key]]);
        let algorithm = {
            let original = parsed.tbs_certificate.as_ref();
            let rest = &der[place(der, original).unwrap() + original.len()..];
            rest[..2 + usize::from(rest[1])].to_owned()
        };
        let signature = issuer.sign(&tbs).unwrap();
        let length = u8::try_from(signature.len() + 1).unwrap();
        let bits = [&[3, length, 0], &*signature].concat();
        sequence(&[&tbs, &algorithm, &bits]).into()
    }

    #[test]
    fn lengths_of_sequences() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let inner = vec![7; length];
            let der = sequence(&[&inner]);
            assert_eq!(contents(&der), Some(&*inner), "{length}");
        }
    }

    #[test]
    fn one_that_webpki_reads_stays_as_it_is() {
        let key = KeyPair::generate().unwrap();
        let plain = CertificateParams::new(vec!["a".into()]).unwrap().self_signed(&key).unwrap();
        let der = plain.der().clone();
        let form = WebpkiForm::of(&der);
        assert!(form.signed.is_none() && *form.der() == der);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail(bytes: Vec<u8>) {
            let _ = WebpkiForm::of(&bytes.into());
        }

        /// Whatever is changed in a CA's certificate: at most that one byte is read differently.
        #[test]
        fn at_most_one_byte_is_read_differently(at: prop::sample::Index, byte: u8) {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["a".into()]).unwrap();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let mut der = params.self_signed(&key).unwrap().der().to_vec();
            let at = at.index(der.len());
            der[at] = byte;
            let der = CertificateDer::from(der);
            let form = WebpkiForm::of(&der);
            if form.der().len() == der.len() {
                let differ = form.der().iter().zip(der.iter()).filter(|(a, b)| a != b).count();
                prop_assert!(differ <= 1);
            }
        }
    }
}
