//! Frames that are passed on unread: where one ends, so that one of ours can go in between.

use super::frame::{Header, Opcode};
use crate::limits::WEBSOCKET_HEADER_BYTES;

/// The frames of one direction, as they go by.
#[derive(Debug, Default)]
pub(crate) struct Passing {
    /// What has come of a header.
    header: [u8; WEBSOCKET_HEADER_BYTES],
    header_bytes: usize,
    /// How much of the payload has yet to come.
    payload_bytes: u64,
    /// Nothing may follow: a Close has gone by, or what is no frame.
    is_over: bool,
}

impl Passing {
    /// Looks at bytes that are passed on.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while !self.is_over
            && let [first, rest @ ..] = bytes
        {
            if self.payload_bytes > 0 {
                let passed = usize::try_from(self.payload_bytes).unwrap_or(usize::MAX);
                let passed = passed.min(bytes.len());
                self.payload_bytes -= passed as u64;
                bytes = &bytes[passed..];
                continue;
            }
            self.header[self.header_bytes] = *first;
            (self.header_bytes, bytes) = (self.header_bytes + 1, rest);
            match Header::parse(&self.header[..self.header_bytes]) {
                // As long as a header is at most, it is one or none.
                Ok(None) => {}
                Ok(Some((header, _))) => {
                    (self.header_bytes, self.payload_bytes) = (0, header.len);
                    self.is_over = header.opcode == Opcode::Close;
                }
                Err(_) => self.is_over = true,
            }
        }
    }

    /// Whether a frame may go between what has passed and what follows.
    pub(crate) fn is_between(&self) -> bool {
        !self.is_over && self.header_bytes == 0 && self.payload_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: Opcode, mask: Option<[u8; 4]>, len: usize) -> Vec<u8> {
        let (header, end) = Header { fin: true, opcode, mask, len: len as u64 }.emit();
        [&header[..end], &vec![0x88; len]].concat()
    }

    proptest! {
        #[test]
        fn only_ends_of_frames_are_in_between(
            frames in prop::collection::vec((any::<Option<[u8; 4]>>(), 0..70_000_usize), 1..6),
            step in 1..90_000_usize,
        ) {
            let (mut all, mut ends) = (Vec::new(), vec![0]);
            for (mask, len) in frames {
                all.extend(frame(Opcode::Binary, mask, len));
                ends.push(all.len());
            }
            let mut passing = Passing::default();
            for (number, piece) in all.chunks(step).enumerate() {
                passing.pass(piece);
                let passed = number * step + piece.len();
                prop_assert_eq!(passing.is_between(), ends.contains(&passed));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            Passing::default().pass(&bytes);
        }
    }

    #[test]
    fn nothing_follows_a_close_or_what_is_no_frame() {
        for bytes in [frame(Opcode::Close, None, 2), vec![0x8f, 0], vec![0xc2, 0]] {
            let mut passing = Passing::default();
            passing.pass(&frame(Opcode::Binary, None, 3));
            assert!(passing.is_between());
            passing.pass(&bytes);
            assert!(!passing.is_between());
            passing.pass(&frame(Opcode::Binary, None, 3));
            assert!(!passing.is_between());
        }
    }
}
