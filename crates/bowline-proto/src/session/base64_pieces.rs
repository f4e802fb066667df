//! Base64 text of one message to bytes, as its pieces come.
//! Above: `over_websocket`. Below: `base64`.

use alloc::vec::Vec;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// What is left of a message between two pieces: fewer than four characters.
#[derive(Debug, Default)]
pub(super) struct Base64Pieces {
    partial: Vec<u8>,
    padded: bool,
}

impl Base64Pieces {
    /// Takes the next characters; `None` if the message is not padded standard base64. Line ends
    /// are passed over, as Go's decoder does.
    pub(super) fn push(&mut self, text: &[u8], last: bool) -> Option<Bytes> {
        self.partial.extend(text.iter().filter(|byte| !matches!(byte, b'\r' | b'\n')));
        let whole = self.partial.len() / 4 * 4;
        if last && whole != self.partial.len() || self.padded && whole > 0 {
            return None;
        }
        let bytes = STANDARD.decode(&self.partial[..whole]).ok()?;
        self.padded |= self.partial[..whole].ends_with(b"=");
        self.partial.drain(..whole);
        (!self.padded || self.partial.is_empty()).then(|| bytes.into())
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
