//! User names with a meaning in Kubernetes, and text as Go quotes it.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// What stands as it is in a path, and in the name of a header: letters, digits, and these. All
/// else is escaped, also what two servers could read in two ways.
pub(crate) const UNESCAPED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Returns the namespace and the name of a service account by its user name; `None` for others.
#[must_use]
pub(crate) fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (is_label(namespace) && is_subdomain(name)).then_some((namespace, name))
}

/// Returns the name of a node by its user name; `None` for others.
#[must_use]
pub(crate) fn node(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|name| is_subdomain(name))
}

/// Returns whether a key is `example.com/path` in lower case, as a key of a user's extra has to be.
#[must_use]
pub(crate) fn is_prefixed_path(key: &str) -> bool {
    let of_path = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    key.split_once('/').is_some_and(|(domain, path)| {
        is_subdomain(domain)
            && !path.is_empty()
            && path.bytes().all(|byte| of_path(byte) && !byte.is_ascii_uppercase())
    })
}

/// Returns whether a text is a label of RFC 1123.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Returns whether a text is a subdomain of RFC 1123. Kubernetes bounds its length, not its
/// labels'.
fn is_subdomain(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

/// Quotes text as Go's `%q` does.
#[must_use]
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\0'..='\x1f' | '\x7f' => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(letter));
            }
            // Rust's own escape knows what cannot be printed.
            _ if letter.escape_debug().len() > 1 && !matches!(letter, '\'') => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(letter));
            }
            _ => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_meaning() {
        let account = service_account;
        assert_eq!(account("system:serviceaccount:ns:a.b-c"), Some(("ns", "a.b-c")));
        for other in [
            "system:serviceaccount:ns",
            "system:serviceaccount::a",
            "system:serviceaccount:ns:",
            "system:serviceaccount:n.s:a",
            "system:serviceaccount:ns:a:b",
            "system:serviceaccount:ns:A",
            "system:serviceaccount:-ns:a",
            "System:serviceaccount:ns:a",
            "x:system:serviceaccount:ns:a",
        ] {
            assert_eq!(account(other), None, "{other}");
        }
        assert_eq!(node("system:node:n.example"), Some("n.example"));
        assert_eq!(node("system:node:"), None);
        assert_eq!(node("system:nodes"), None);
        assert!(is_prefixed_path("acme.example/scopes") && is_prefixed_path("a/b/c"));
        for bad in ["scopes", "/a", "a/", "a/B", "A/b", "", "a b/c"] {
            assert!(!is_prefixed_path(bad), "{bad}");
        }
    }

    #[test]
    fn quotes_are_gos() {
        assert_eq!(quoted("jürgen o'x"), "\"jürgen o'x\"");
        assert_eq!(quoted("a\"b\\c\n\t\x1b\u{202e}"), r#""a\"b\\c\n\t\x1b\u202e""#);
    }
}
