//! Text of a peer to text that may be shown: no terminal takes orders from it, and it ends.
//! Above: everything that prints or logs what a peer said. Below: nothing.

use std::borrow::Cow;
use std::io;

/// `text` with control characters replaced by U+FFFD and cut to at most `bytes` bytes, at a
/// character. Line ends and tabs become blanks.
#[must_use]
pub fn harmless(text: &str, bytes: usize) -> Cow<'_, str> {
    if text.len() <= bytes && !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len().min(bytes));
    for character in text.chars() {
        let character = match character {
            '\n' | '\r' | '\t' => ' ',
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

/// An error of the system as Go's programs put it: `no such file or directory`.
#[must_use]
pub fn of_system(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// Controls (C0, DEL, C1), and the characters that turn the direction of what is written.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_lose_their_teeth() {
        assert_eq!(harmless("a\x1b[2Jb\nc\u{202e}", 100), "a\u{fffd}[2Jb c\u{fffd}");
        assert_eq!(harmless("plain", 5), "plain");
        assert_eq!(harmless("too long", 6), "too…");
    }

    proptest! {
        #[test]
        fn nothing_harmful_is_left(text: String, bytes in 3usize..100) {
            let shown = harmless(&text, bytes);
            prop_assert!(shown.len() <= bytes);
            prop_assert!(!shown.chars().any(is_harmful));
        }
    }
}
