//! Parses certificates, and refuses those that Go's `x509.ParseCertificate` refuses.
//!
//! Go parses every certificate that the other side sends, even those that no path needs, and ends
//! the handshake if it cannot parse one, even where any server is trusted. webpki reads only what
//! it needs. The faults that are refused here are those that OpenSSL's programs send without
//! complaint; each was tried with kubectl.

use std::collections::HashSet;

use webpki::Error;
use x509_parser::asn1_rs::Any;
use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::extensions::{GeneralName, NameConstraints, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate, X509Extension, X509Version};
use x509_parser::x509::X509Name;

/// `id-pe-authorityInfoAccess`.
const AUTHORITY_INFO_ACCESS: &str = "1.3.6.1.5.5.7.1.1";
/// The extensions that Go knows and that may be critical: key usage, names, constraints, revocation
/// lists, policies, extended key usage.
const KNOWN: [&str; 10] = [
    "2.5.29.15",
    "2.5.29.17",
    "2.5.29.19",
    "2.5.29.30",
    "2.5.29.31",
    "2.5.29.32",
    "2.5.29.33",
    "2.5.29.36",
    "2.5.29.37",
    "2.5.29.54",
];
/// The extensions that Go knows and that must not be critical: key identifiers and access to
/// information.
const NEVER_CRITICAL: [&str; 3] = ["2.5.29.14", "2.5.29.35", AUTHORITY_INFO_ACCESS];
/// The extensions whose faults make Go refuse the certificate.
const PARSED: [&str; 9] = [
    "2.5.29.14",
    "2.5.29.15",
    "2.5.29.17",
    "2.5.29.19",
    "2.5.29.30",
    "2.5.29.32",
    "2.5.29.33",
    "2.5.29.36",
    AUTHORITY_INFO_ACCESS,
];

/// Parses a certificate.
///
/// # Errors
/// [`Error::UnsupportedCertVersion`] if the version is none of v1 to v3, and [`Error::BadDer`] for
/// all else that Go refuses.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Error> {
    let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| Error::BadDer)?;
    if !matches!(parsed.version(), X509Version::V1 | X509Version::V2 | X509Version::V3) {
        return Err(Error::UnsupportedCertVersion);
    }
    let is_negative = parsed.raw_serial().first().is_some_and(|&first| first & 0x80 != 0);
    let mut seen = HashSet::new();
    let is_good = rest.is_empty()
        && !is_negative
        && parsed.extensions().iter().all(|one| seen.insert(&one.oid) && is_readable(one))
        && [parsed.subject(), parsed.issuer()].into_iter().all(is_name);
    if is_good { Ok(parsed) } else { Err(Error::BadDer) }
}

/// Checks that all critical extensions of a certificate are handled.
///
/// # Errors
/// [`Error::UnsupportedCriticalExtension`] if one is not.
pub(crate) fn check_critical_extensions(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    let handled = |one: &X509Extension<'_>| match one.parsed_extension() {
        _ if !KNOWN.contains(&&*one.oid.to_id_string()) => false,
        // Names of other kinds are not compared, so that these extensions are not handled.
        ParsedExtension::NameConstraints(constraints) => subtrees(constraints).all(is_compared),
        ParsedExtension::SubjectAlternativeName(names) => {
            names.general_names.iter().any(is_compared)
        }
        _ => true,
    };
    let all = certificate.extensions().iter().all(|one| !one.critical || handled(one));
    if all { Ok(()) } else { Err(Error::UnsupportedCriticalExtension) }
}

/// Whether a certificate allows only paths with policies, which are not supported here.
pub(crate) fn demands_policies(certificate: &X509Certificate<'_>) -> bool {
    certificate.extensions().iter().any(|one| match one.parsed_extension() {
        ParsedExtension::PolicyConstraints(these) => these.require_explicit_policy.is_some(),
        _ => false,
    })
}

fn is_readable(extension: &X509Extension<'_>) -> bool {
    let id = extension.oid.to_id_string();
    if extension.critical && NEVER_CRITICAL.contains(&&*id) {
        return false;
    }
    match extension.parsed_extension() {
        ParsedExtension::ParseError { .. } => !PARSED.contains(&&*id),
        ParsedExtension::SubjectAlternativeName(names) => {
            names.general_names.iter().all(is_alternative_name)
        }
        ParsedExtension::NameConstraints(constraints) => {
            subtrees(constraints).next().is_some() && subtrees(constraints).all(is_constraint)
        }
        ParsedExtension::CertificatePolicies(policies) => {
            let mut seen = HashSet::new();
            policies.iter().all(|policy| seen.insert(&policy.policy_id))
        }
        _ => true,
    }
}

fn subtrees<'a>(constraints: &'a NameConstraints<'a>) -> impl Iterator<Item = &'a GeneralName<'a>> {
    let both = [&constraints.permitted_subtrees, &constraints.excluded_subtrees];
    both.into_iter().flatten().flatten().map(|subtree| &subtree.base)
}

/// Whether a name is of a kind that is compared.
fn is_compared(name: &GeneralName<'_>) -> bool {
    matches!(
        name,
        GeneralName::DNSName(_)
            | GeneralName::RFC822Name(_)
            | GeneralName::URI(_)
            | GeneralName::IPAddress(_)
    )
}

/// Whether a name of one of these kinds is not even text.
fn is_invalid(name: &GeneralName<'_>) -> bool {
    matches!(name, GeneralName::Invalid(Tag(1 | 2 | 6 | 7), _))
}

fn is_alternative_name(name: &GeneralName<'_>) -> bool {
    match name {
        GeneralName::DNSName(text) | GeneralName::RFC822Name(text) => text.is_ascii(),
        GeneralName::URI(text) => is_uri(text),
        GeneralName::IPAddress(bytes) => matches!(bytes.len(), 4 | 16),
        name => !is_invalid(name),
    }
}

fn is_constraint(name: &GeneralName<'_>) -> bool {
    match name {
        GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
            text.is_ascii()
        }
        GeneralName::IPAddress(bytes) => matches!(bytes.len(), 8 | 32),
        name => !is_invalid(name),
    }
}

/// Whether Go's `url.Parse` takes the text, as far as that does not depend on the scheme.
fn is_uri(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let mut is_hex = || bytes.next().is_some_and(|digit| digit.is_ascii_hexdigit());
        if !byte.is_ascii_graphic() || byte == b'%' && !(is_hex() && is_hex()) {
            return false;
        }
    }
    true
}

fn is_name(name: &X509Name<'_>) -> bool {
    name.iter_attributes().all(|one| is_text(one.attr_value()))
}

/// Whether Go's `parseASN1String` takes the value.
fn is_text(value: &Any<'_>) -> bool {
    let data = value.data;
    match value.tag() {
        Tag::T61String => true,
        Tag::Utf8String => str::from_utf8(data).is_ok(),
        Tag::Ia5String => data.is_ascii(),
        Tag::PrintableString => {
            let others = b" '()+,-./:=?*&";
            data.iter().all(|byte| byte.is_ascii_alphanumeric() || others.contains(byte))
        }
        Tag::NumericString => data.iter().all(|byte| byte.is_ascii_digit() || *byte == b' '),
        Tag::BmpString => {
            let (units, rest) = data.as_chunks();
            let is_reserved = |&unit: &[u8; 2]| {
                let unit = u16::from_be_bytes(unit);
                matches!(unit, 0xd800..=0xdfff | 0xfdd0..=0xfdef | 0xfffe..)
            };
            rest.is_empty() && !units.iter().any(is_reserved)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DnType, DnValue, IsCa, KeyPair,
    };

    use super::*;

    fn made(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a".into(), "::1".into()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn with(id: &[u64], value: &[u8], critical: bool) -> Vec<u8> {
        let mut extension = CustomExtension::from_oid_content(id, value.to_vec());
        extension.set_criticality(critical);
        made(|params| {
            params.subject_alt_names.clear();
            params.custom_extensions.push(extension);
        })
    }

    /// A sequence of one element.
    fn sequence(tag: u8, inner: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
        let element = [&[tag, length(inner)], inner].concat();
        [&[0x30, length(&element)], &*element].concat()
    }

    const NAMES: &[u64] = &[2, 5, 29, 17];
    const CONSTRAINTS: &[u64] = &[2, 5, 29, 30];

    #[test]
    fn what_go_reads_is_read() {
        let common = |value: DnValue| {
            made(|params| params.distinguished_name.push(DnType::CommonName, value))
        };
        for good in [
            made(|_| {}),
            with(&[1, 2, 3], &[5, 0], true),
            with(NAMES, &sequence(0x86, b"spiffe://a/ns/b"), false),
            with(NAMES, &sequence(0x88, &[0x2a, 3]), false),
            with(CONSTRAINTS, &sequence(0xa0, &sequence(0x88, &[0x2a, 3])), true),
            common("ä".into()),
            common(DnValue::BmpString("ä".try_into().unwrap())),
        ] {
            parse(&good).unwrap();
        }
    }

    #[test]
    fn what_go_cannot_read_is_refused() {
        let whole = made(|_| {});
        let twice = made(|params| {
            let one = CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
            params.custom_extensions = vec![one.clone(), one];
        });
        // `[0] 2`, then the serial number, `INTEGER`.
        let version = whole.windows(5).position(|bytes| *bytes == [0xa0, 3, 2, 1, 2]).unwrap();
        let changed = |at: usize, byte: u8| {
            let mut der = whole.clone();
            der[at] = byte;
            der
        };
        let policy = sequence(6, &[0x2a, 3]);
        let policies = [&[0x30, 12], &*policy, &policy].concat();
        for (why, bad) in [
            ("the same extension twice", twice),
            ("a serial number below 0", changed(version + 7, 0x80)),
            ("version 4", changed(version + 4, 3)),
            ("bytes behind its end", [&*whole, &[0]].concat()),
            ("its key's identifier is critical", with(&[2, 5, 29, 14], &[4, 1, 7], true)),
            ("its issuer's is", with(&[2, 5, 29, 35], &[0x30, 0], true)),
            ("where more is, is", with(&[1, 3, 6, 1, 5, 5, 7, 1, 1], &[0x30, 0], true)),
            ("where more is, is nothing", with(&[1, 3, 6, 1, 5, 5, 7, 1, 1], b"zz", false)),
            ("an address of five bytes", with(NAMES, &sequence(0x87, b"12345"), false)),
            ("a name that is no text", with(NAMES, &sequence(0x82, b"\xff"), false)),
            ("a name that is not ASCII", with(NAMES, &sequence(0x82, "ä".as_bytes()), false)),
            ("a mailbox that is not", with(NAMES, &sequence(0x81, "ä".as_bytes()), false)),
            ("a URI with a space", with(NAMES, &sequence(0x86, b"http://a b"), false)),
            ("a URI with half an escape", with(NAMES, &sequence(0x86, b"http://a/%2"), false)),
            ("constraints of nothing", with(CONSTRAINTS, &[0x30, 0], true)),
            (
                "a constraint that is no net",
                with(CONSTRAINTS, &sequence(0xa0, &sequence(0x87, b"1234")), false),
            ),
            ("no policies", with(&[2, 5, 29, 32], b"zz", false)),
            ("the same policy twice", with(&[2, 5, 29, 32], &policies, false)),
        ] {
            assert!(parse(&bad).is_err(), "{why}");
        }
    }

    #[test]
    fn names_are_of_the_characters_of_their_kind() {
        let name = |tag: u32, data: &[u8]| {
            let header = x509_parser::asn1_rs::Header::new_simple(Tag(tag));
            is_text(&Any::new(header, data))
        };
        for (tag, good, bad) in [
            (12, "ä".as_bytes(), b"\xff".as_slice()),
            (19, b"a b'()+,-./:=?*&", b"a_b"),
            (22, b"a@b", b"\xe4"),
            (18, b"1 2", b"a"),
            (30, &[0, 0x61], &[0xd8, 0]),
            (30, &[0, 0x61, 0, 0x62], &[0, 0x61, 0]),
        ] {
            assert!(name(tag, good) && !name(tag, bad), "{tag}");
        }
        assert!(name(20, b"\xe4") && !name(4, b"a"));
    }

    #[test]
    fn what_is_critical_is_known() {
        let handled = |der: Vec<u8>| check_critical_extensions(&parse(&der).unwrap()).is_ok();
        let other = sequence(0xa0, &sequence(0x88, &[0x2a, 3]));
        assert!(handled(made(|_| {})));
        assert!(!handled(with(&[1, 2, 3], &[5, 0], true)));
        assert!(handled(with(&[1, 2, 3], &[5, 0], false)));
        assert!(!handled(with(CONSTRAINTS, &other, true)));
        assert!(handled(with(CONSTRAINTS, &other, false)));
        assert!(handled(with(CONSTRAINTS, &sequence(0xa1, &sequence(0x82, b"a")), true)));
        assert!(!handled(with(NAMES, &sequence(0x88, &[0x2a, 3]), true)));
        assert!(handled(with(NAMES, &sequence(0x82, b"a"), true)));
        let demands = |value: &[u8]| {
            let der = with(&[2, 5, 29, 36], value, false);
            demands_policies(&parse(&der).unwrap())
        };
        assert!(demands(&sequence(0x80, &[0])) && !demands(&sequence(0x81, &[0])));
    }
}
