//! The header of a frame (RFC 6455 §5.2).

use super::fault::Fault;
use crate::limits::{WEBSOCKET_CONTROL_BYTES, WEBSOCKET_HEADER_BYTES};

/// What a frame is (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    const ALL: [(u8, Opcode); 6] = [
        (0x0, Opcode::Continuation),
        (0x1, Opcode::Text),
        (0x2, Opcode::Binary),
        (0x8, Opcode::Close),
        (0x9, Opcode::Ping),
        (0xa, Opcode::Pong),
    ];

    fn from_bits(bits: u8) -> Result<Opcode, Fault> {
        let row = Opcode::ALL.iter().find(|row| row.0 == bits);
        row.map(|row| row.1).ok_or(Fault::Opcode(bits))
    }

    fn bits(self) -> u8 {
        Opcode::ALL.iter().find(|row| row.1 == self).map_or(0, |row| row.0)
    }

    pub(super) fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) fin: bool,
    pub(super) opcode: Opcode,
    pub(super) mask: Option<[u8; 4]>,
    pub(super) len: u64,
}

impl Header {
    /// Parses the header at the beginning of `bytes`; returns it and its length, or `None` if it is
    /// not complete yet.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Fault::ReservedBits);
        }
        let (fin, opcode) = (first & 0x80 != 0, Opcode::from_bits(first & 0x0f)?);
        let short = second & 0x7f;
        if opcode.is_control() {
            if !fin {
                return Err(Fault::FragmentedControl);
            }
            if usize::from(short) > WEBSOCKET_CONTROL_BYTES {
                return Err(Fault::LongControl);
            }
        }
        let (len, rest) = match (short, rest) {
            (126, [a, b, rest @ ..]) => match u16::from_be_bytes([*a, *b]) {
                ..126 => return Err(Fault::Length),
                len => (u64::from(len), rest),
            },
            (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
                match u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]) {
                    ..0x1_0000 | 0x8000_0000_0000_0000.. => return Err(Fault::Length),
                    len => (len, rest),
                }
            }
            (126 | 127, _) => return Ok(None),
            (len, rest) => (u64::from(len), rest),
        };
        let (mask, rest) = match (second & 0x80 != 0, rest) {
            (false, rest) => (None, rest),
            (true, [a, b, c, d, rest @ ..]) => (Some([*a, *b, *c, *d]), rest),
            (true, _) => return Ok(None),
        };
        Ok(Some((Header { fin, opcode, mask, len }, bytes.len() - rest.len())))
    }

    /// Returns the header as bytes, in the shortest form, and their number.
    pub(super) fn emit(self) -> ([u8; WEBSOCKET_HEADER_BYTES], usize) {
        let mut bytes = [0; WEBSOCKET_HEADER_BYTES];
        bytes[0] = u8::from(self.fin) << 7 | self.opcode.bits();
        let masked = u8::from(self.mask.is_some()) << 7;
        let mut end = 2;
        match self.len {
            len @ ..126 => bytes[1] = masked | len as u8,
            len @ 126..0x1_0000 => {
                bytes[1] = masked | 126;
                bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                end = 4;
            }
            len => {
                bytes[1] = masked | 127;
                bytes[2..10].copy_from_slice(&len.to_be_bytes());
                end = 10;
            }
        }
        if let Some(mask) = self.mask {
            bytes[end..end + 4].copy_from_slice(&mask);
            end += 4;
        }
        (bytes, end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_emitted_is_parsed(
            fin: bool,
            opcode in 0usize..6,
            mask: Option<[u8; 4]>,
            len in prop_oneof![0u64..200, 0u64..0x2_0000, 0u64..0x8000_0000_0000_0000],
        ) {
            let opcode = Opcode::ALL[opcode].1;
            let (fin, len) = if opcode.is_control() { (true, len % 126) } else { (fin, len) };
            let header = Header { fin, opcode, mask, len };
            let (bytes, end) = header.emit();
            prop_assert_eq!(Header::parse(&bytes[..end]), Ok(Some((header, end))));
            for cut in 0..end {
                prop_assert_eq!(Header::parse(&bytes[..cut]), Ok(None));
            }
        }

        #[test]
        fn only_the_shortest_form_is_parsed(bytes: [u8; 14]) {
            if let Ok(Some((header, len))) = Header::parse(&bytes) {
                let (emitted, end) = header.emit();
                prop_assert_eq!(&emitted[..end], &bytes[..len]);
            }
        }
    }
}
