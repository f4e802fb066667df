//! The texts of TLS errors as Go has them, which people know and scripts look for.

use std::error::Error;
use std::io;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription as Alert, CertificateError as Bad};

/// Returns the TLS error among an error and its sources, if there is one.
pub(crate) fn find_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref() {
            return Some(tls);
        }
        // An `io::Error` gives the error in it only this way: its source is that error's source.
        next = match error.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as _),
            None => error.source(),
        };
    }
    None
}

/// Returns the text of a TLS error.
pub(crate) fn text(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(bad) => {
            format!("tls: failed to verify certificate: x509: {}", certificate_text(bad))
        }
        rustls::Error::AlertReceived(alert) => format!("remote error: tls: {}", alert_text(*alert)),
        other => format!("tls: {other}"),
    }
}

fn certificate_text(bad: &Bad) -> String {
    match bad {
        // The signature is bad if another CA has the name of a trusted one.
        Bad::UnknownIssuer | Bad::BadSignature => "certificate signed by unknown authority".into(),
        Bad::Expired
        | Bad::ExpiredContext { .. }
        | Bad::NotValidYet
        | Bad::NotValidYetContext { .. } => "certificate has expired or is not yet valid".into(),
        Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => {
            "certificate specifies an incompatible key usage".into()
        }
        Bad::BadEncoding => "the certificate, or one sent with it, is malformed".into(),
        Bad::UnhandledCriticalExtension => "unhandled critical extension".into(),
        Bad::NotValidForNameContext { expected, presented } => names_text(expected, presented),
        Bad::Other(other) => match other.0.downcast_ref() {
            Some(webpki::Error::PathLenConstraintViolated) => {
                "too many intermediates for path length constraint".into()
            }
            Some(webpki::Error::NameConstraintViolation) => {
                "a name in the certificate is not permitted by the constraints of its CA".into()
            }
            Some(webpki::Error::UnsupportedCriticalExtension) => {
                "unhandled critical extension".into()
            }
            Some(other) => format!("{other:?}"),
            None => other.to_string(),
        },
        other => other.to_string(),
    }
}

fn names_text(expected: &ServerName<'_>, presented: &[String]) -> String {
    let expected = expected.to_str();
    // The names are written `DnsName("name")` and `IpAddress(address)`.
    let names = |kind: &str| -> Vec<String> {
        let inner = |name: &String| {
            let name = name.strip_prefix(kind)?.strip_prefix('(')?.strip_suffix(')')?;
            Some(name.trim_matches('"').to_owned())
        };
        presented.iter().filter_map(inner).collect()
    };
    let is_address = expected.parse::<std::net::IpAddr>().is_ok();
    let names = names(if is_address { "IpAddress" } else { "DnsName" });
    match (is_address, names.is_empty()) {
        (true, true) => format!(
            "cannot validate certificate for {expected} because it doesn't contain any IP SANs"
        ),
        (false, true) => {
            format!("certificate is not valid for any names, but wanted to match {expected}")
        }
        (_, false) => format!("certificate is valid for {}, not {expected}", names.join(", ")),
    }
}

/// Returns the text of an alert, from `alertText` in crypto/tls.
fn alert_text(alert: Alert) -> String {
    let text = match alert {
        Alert::CloseNotify => "close notify",
        Alert::UnexpectedMessage => "unexpected message",
        Alert::BadRecordMac => "bad record MAC",
        Alert::DecryptionFailed => "decryption failed",
        Alert::RecordOverflow => "record overflow",
        Alert::DecompressionFailure => "decompression failure",
        Alert::HandshakeFailure => "handshake failure",
        Alert::BadCertificate => "bad certificate",
        Alert::UnsupportedCertificate => "unsupported certificate",
        Alert::CertificateRevoked => "revoked certificate",
        Alert::CertificateExpired => "expired certificate",
        Alert::CertificateUnknown => "unknown certificate",
        Alert::IllegalParameter => "illegal parameter",
        Alert::UnknownCA => "unknown certificate authority",
        Alert::AccessDenied => "access denied",
        Alert::DecodeError => "error decoding message",
        Alert::DecryptError => "error decrypting message",
        Alert::ExportRestriction => "export restriction",
        Alert::ProtocolVersion => "protocol version not supported",
        Alert::InsufficientSecurity => "insufficient security level",
        Alert::InternalError => "internal error",
        Alert::InappropriateFallback => "inappropriate fallback",
        Alert::UserCanceled => "user canceled",
        Alert::NoRenegotiation => "no renegotiation",
        Alert::MissingExtension => "missing extension",
        Alert::UnsupportedExtension => "unsupported extension",
        Alert::CertificateUnobtainable => "certificate unobtainable",
        Alert::UnrecognisedName => "unrecognized name",
        Alert::BadCertificateStatusResponse => "bad certificate status response",
        Alert::BadCertificateHashValue => "bad certificate hash value",
        Alert::UnknownPSKIdentity => "unknown PSK identity",
        Alert::CertificateRequired => "certificate required",
        Alert::NoApplicationProtocol => "no application protocol",
        Alert::EncryptedClientHelloRequired => "encrypted client hello required",
        other => return format!("alert({})", u8::from(other)),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_as_go_tells_them() {
        let name = |text: &str| ServerName::try_from(text.to_owned()).unwrap();
        let dns = ["DnsName(\"a\")".to_owned(), "DnsName(\"*.b\")".to_owned()];
        let both = [dns[0].clone(), "IpAddress(10.0.0.1)".to_owned()];
        for (expected, presented, words) in [
            ("c", &dns[..], "certificate is valid for a, *.b, not c"),
            ("c", &[], "certificate is not valid for any names, but wanted to match c"),
            ("10.0.0.2", &both, "certificate is valid for 10.0.0.1, not 10.0.0.2"),
            (
                "::1",
                &dns,
                "cannot validate certificate for ::1 because it doesn't contain any IP SANs",
            ),
        ] {
            assert_eq!(names_text(&name(expected), presented), words);
        }
    }

    #[test]
    fn an_alert_is_found_below_and_has_gos_words() {
        let alert = rustls::Error::AlertReceived(Alert::CertificateRequired);
        let io = io::Error::new(io::ErrorKind::InvalidData, alert);
        let found = find_tls(&io).map(text);
        assert_eq!(found.as_deref(), Some("remote error: tls: certificate required"));
        let around = io::Error::other(io);
        assert!(find_tls(&around).is_some());
        assert!(find_tls(&io::Error::from(io::ErrorKind::BrokenPipe)).is_none());
        assert_eq!(alert_text(Alert::Unknown(200)), "alert(200)");
    }
}
