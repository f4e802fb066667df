//! Decodes the base64 text of one message, as its pieces come.

use alloc::vec::Vec;
use core::mem;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// The decoder of one message. Between two pieces it keeps fewer than four characters.
#[derive(Debug, Default)]
pub(crate) struct Base64Pieces {
    partial: Vec<u8>,
    padded: bool,
}

impl Base64Pieces {
    /// Decodes the next characters; `None` if the message is not padded standard base64. Line ends
    /// are ignored, as by Go's decoder.
    pub(crate) fn push(&mut self, text: &[u8], last: bool) -> Option<Bytes> {
        let is_line_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
        if text.iter().any(is_line_end) {
            let text: Vec<u8> = text.iter().copied().filter(|byte| !is_line_end(byte)).collect();
            return self.decode(&text, last);
        }
        self.decode(text, last)
    }

    fn decode(&mut self, mut text: &[u8], last: bool) -> Option<Bytes> {
        let characters = self.partial.len() + text.len();
        let whole = characters / 4 * 4;
        if last && whole != characters {
            return None;
        }
        let mut bytes = Vec::with_capacity(whole / 4 * 3);
        if !self.partial.is_empty() && whole > 0 {
            let (first, rest) = text.split_at(4 - self.partial.len());
            self.partial.extend_from_slice(first);
            let group = mem::take(&mut self.partial);
            self.groups(&group, &mut bytes)?;
            text = rest;
        }
        let (groups, rest) = text.split_at(text.len() / 4 * 4);
        self.groups(groups, &mut bytes)?;
        self.partial.extend_from_slice(rest);
        (!self.padded || self.partial.is_empty()).then(|| bytes.into())
    }

    fn groups(&mut self, groups: &[u8], bytes: &mut Vec<u8>) -> Option<()> {
        if self.padded && !groups.is_empty() {
            return None;
        }
        self.padded |= groups.ends_with(b"=");
        STANDARD.decode_vec(groups, bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_may_follow_the_padding() {
        let mut pieces = Base64Pieces::default();
        assert_eq!(pieces.push(b"YQ==", false).as_deref(), Some(&b"a"[..]));
        assert_eq!(pieces.push(b"", true).as_deref(), Some(&b""[..]));
        assert_eq!(pieces.push(b"YQ==", true), None);
        assert_eq!(Base64Pieces::default().push(b"YQ", true), None);
        assert_eq!(Base64Pieces::default().push(b"YQ==YQ==", true), None);
        assert_eq!(Base64Pieces::default().push(b"Y!==", false), None);
        assert_eq!(Base64Pieces::default().push(b"YQ==Y", false), None);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_bytes(bytes: Vec<u8>, cut in 1usize..9) {
            let text = STANDARD.encode(&bytes).into_bytes();
            let (mut pieces, mut got) = (Base64Pieces::default(), Vec::new());
            for piece in text.chunks(cut) {
                got.extend(pieces.push(piece, false).unwrap());
            }
            got.extend(pieces.push(b"", true).unwrap());
            prop_assert_eq!(got, bytes);
        }
    }
}
