//! Checks that a message is UTF-8, however it is cut into pieces.

/// A check in progress. It keeps at most three bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8 {
    partial: [u8; 4],
    len: usize,
}

impl Utf8 {
    /// Checks the next bytes; false as soon as the message cannot be UTF-8 any more.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> bool {
        while self.len > 0 && !bytes.is_empty() {
            self.partial[self.len] = bytes[0];
            (self.len, bytes) = (self.len + 1, &bytes[1..]);
            match core::str::from_utf8(&self.partial[..self.len]) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_some() => return false,
                Err(_) => {}
            }
        }
        let Err(error) = core::str::from_utf8(bytes) else { return true };
        if error.error_len().is_some() {
            return false;
        }
        let rest = &bytes[error.valid_up_to()..];
        self.partial[..rest.len()].copy_from_slice(rest);
        self.len = rest.len();
        true
    }

    /// Whether the message may end here, with no character incomplete.
    pub(super) fn is_whole(self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn verdict(bytes: &[u8], cut: usize) -> bool {
        let mut utf8 = Utf8::default();
        bytes.chunks(cut).all(|piece| utf8.push(piece)) && utf8.is_whole()
    }

    proptest! {
        #[test]
        fn agrees_with_the_library(bytes: Vec<u8>, text: String, cut in 1usize..6) {
            let mixed = [text.as_bytes(), &bytes].concat();
            for bytes in [&bytes[..], text.as_bytes(), &mixed] {
                prop_assert_eq!(verdict(bytes, cut), core::str::from_utf8(bytes).is_ok());
            }
        }
    }

    #[test]
    fn fails_at_the_first_byte_that_cannot_be() {
        let mut utf8 = Utf8::default();
        assert!(utf8.push(&[0xf4]));
        assert!(!utf8.push(&[0x90]), "above U+10FFFF");
    }
}
