//! Certificates that Go takes and webpki does not, as ones that webpki can judge: what says that a
//! leaf is a CA is read as if it said no, and X.509 v1 as v3 without extensions.
//!
//! `openssl req -x509` makes CAs of servers, and `openssl x509 -req` made clients of v1 for twenty
//! years. webpki has no way to be told that this is meant, and a second path builder beside it
//! would be a second place for mistakes. So webpki judges a changed certificate: everything that it
//! looks at is the original's, but for that one word. The issuer's signature is checked over the
//! original: an algorithm that gets the changed bytes puts the others in their place.

use std::borrow::Cow;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
};
use x509_parser::oid_registry::OID_X509_EXT_BASIC_CONSTRAINTS;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

const SEQUENCE: u8 = 0x30;
/// `[0] EXPLICIT INTEGER 2`: the version's place says v3.
const V3: [u8; 5] = [0xa0, 3, 2, 1, 2];
/// `BOOLEAN`, of one byte.
const BOOLEAN: [u8; 2] = [1, 1];

/// A certificate in the form that webpki reads.
pub(crate) struct Readable<'a> {
    der: Cow<'a, CertificateDer<'a>>,
    /// What was signed, in that form and in its own.
    signed: Option<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Readable<'a> {
    /// Of any certificate. Most are as webpki reads them.
    pub(crate) fn of(der: &'a CertificateDer<'a>) -> Readable<'a> {
        let changed = X509Certificate::from_der(der).ok().and_then(|(rest, parsed)| {
            let whole = rest.is_empty();
            match parsed.version() {
                X509Version::V1 if whole => as_v3(der, &parsed),
                X509Version::V3 if whole => as_leaf(der, &parsed),
                _ => None,
            }
        });
        match changed {
            None => Readable { der: Cow::Borrowed(der), signed: None },
            Some((changed, signed)) => {
                Readable { der: Cow::Owned(changed.into()), signed: Some(signed) }
            }
        }
    }

    /// What webpki reads.
    pub(crate) fn der(&self) -> &CertificateDer<'a> {
        &self.der
    }

    /// The algorithms that check its issuer's signature, over what that has signed.
    pub(crate) fn algorithms(&self, supported: &WebPkiSupportedAlgorithms) -> Vec<Over<'_>> {
        let signed = self.signed.as_ref();
        supported.all.iter().map(|&algorithm| Over { algorithm, signed }).collect()
    }
}

/// The certificate, and what of it is signed; the same of the original.
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
    // SEQUENCE { BOOLEAN cA, .. }
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

/// Where in `whole` its `part` is.
fn place(whole: &[u8], part: &[u8]) -> Option<usize> {
    let at = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    (at + part.len() <= whole.len()).then_some(at)
}

/// What is in a DER element that is all of `der`.
fn contents(der: &[u8]) -> Option<&[u8]> {
    match *der.get(1)? {
        short @ 0..0x80 => der.get(2..).filter(|inner| inner.len() == usize::from(short)),
        // As many bytes of length; it was parsed before.
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
            // At most eight.
            der.push(0x80 | long.len() as u8);
            der.extend(long);
        }
    }
    der.extend(inner);
    der
}

/// An algorithm that checks the original where it is given what stands for it.
#[derive(Debug)]
pub(crate) struct Over<'a> {
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    signed: Option<&'a (Vec<u8>, Vec<u8>)>,
}

impl SignatureVerificationAlgorithm for Over<'_> {
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
        let readable = Readable::of(&der);
        assert!(readable.signed.is_none() && *readable.der() == der);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail(bytes: Vec<u8>) {
            let _ = Readable::of(&bytes.into());
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
            let readable = Readable::of(&der);
            if readable.der().len() == der.len() {
                let differ = readable.der().iter().zip(der.iter()).filter(|(a, b)| a != b).count();
                prop_assert!(differ <= 1);
            }
        }
    }
}
