//! Makes text of peers safe to show on a terminal, and texts of errors like those of Go.

use std::borrow::Cow;
use std::io;
use std::path::Path;

/// Returns `text` in one line of at most `bytes` bytes that cannot control a terminal: line ends
/// and tabs become blanks, other control characters U+FFFD.
#[must_use]
pub fn sanitized(text: &str, bytes: usize) -> Cow<'_, str> {
    if text.len() <= bytes && !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len().min(bytes));
    for character in text.chars() {
        let character = match character {
            '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
            character if is_harmful(character) => char::REPLACEMENT_CHARACTER,
            character => character,
        };
        if shown.len() + character.len_utf8() + "…".len() > bytes {
            shown.push('…');
            break;
        }
        shown.push(character);
    }
    Cow::Owned(shown)
}

/// Returns the text of a system's error as Go has it: `no such file or directory`.
#[must_use]
pub fn go_error(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// Returns the text of an error of reading a file, as Go has it. Go opens directories as well, and
/// cannot read them.
#[must_use]
pub fn go_file_error(path: &Path, error: &io::Error) -> String {
    let call = if error.kind() == io::ErrorKind::IsADirectory { "read" } else { "open" };
    format!("{call} {}: {}", path.display(), go_error(error))
}

/// Returns a URL with `xxxxx` for its password, as Go does. In a text that is no URL, whatever
/// could be a password is replaced.
#[must_use]
pub fn redacted(url: &str) -> Cow<'_, str> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A slash may be in a password that nobody has escaped.
    let Some(at) = rest[..authority].rfind('@').or_else(|| rest.rfind('@')) else {
        return Cow::Borrowed(url);
    };
    let Some(colon) = rest[..at].find(':') else { return Cow::Borrowed(url) };
    let (user, host) = (&rest[..colon], &rest[at..]);
    let head = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
    Cow::Owned(format!("{head}{user}:xxxxx{host}"))
}

/// Whether a character must not be shown: a control (C0, DEL, C1), or one that ends a line or
/// changes the direction of writing in Unicode.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_lose_their_teeth() {
        assert_eq!(sanitized("a\x1b[2Jb\nc\u{202e}", 100), "a\u{fffd}[2Jb c\u{fffd}");
        assert_eq!(sanitized("a\u{2028}b\u{2029}c", 100), "a b c");
        assert_eq!(sanitized("plain", 5), "plain");
        assert_eq!(sanitized("too long", 6), "too…");
    }

    #[test]
    fn passwords_of_urls_are_not_shown() {
        for (url, shown) in [
            ("https://me:SECRET@host:1/a?b", "https://me:xxxxx@host:1/a?b"),
            ("https://:SECRET@host", "https://:xxxxx@host"),
            ("https://me@host", "https://me@host"),
            ("https://host/a:b", "https://host/a:b"),
            ("me:SECRET@host:3128", "me:xxxxx@host:3128"),
            ("http://me:SEC/RET@host", "http://me:xxxxx@host"),
            ("http://me:SEC@RET@host", "http://me:xxxxx@host"),
            ("//me:SECRET@", "//me:xxxxx@"),
            ("https://[::1]:1/", "https://[::1]:1/"),
            ("", ""),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }

    proptest! {
        #[test]
        fn nothing_harmful_is_left(text: String, bytes in 3usize..100) {
            let shown = sanitized(&text, bytes);
            prop_assert!(shown.len() <= bytes);
            prop_assert!(!shown.chars().any(is_harmful));
        }
    }
}
