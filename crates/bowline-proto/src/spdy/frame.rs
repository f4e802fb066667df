//! The fixed part of every frame (SPDY/3.1 §2.2), and the control frames that are written.

use super::fault::Fault;

/// The length of every frame's fixed part.
pub(super) const HEADER_BYTES: usize = 8;
const VERSION: u16 = 3;
/// The largest length that a header can say.
pub(super) const PAYLOAD_BYTES: usize = 0xff_ffff;
/// The flag that ends a direction, on DATA, SYN_STREAM, SYN_REPLY and HEADERS.
pub(super) const FIN: u8 = 1;
/// The bits of a stream's id.
pub(super) const ID_BITS: u32 = 0x7fff_ffff;

/// The types of control frames (SPDY/3.1 §2.6). Types 5 (NOOP) and 10 (CREDENTIAL) are of older
/// drafts; no peer sends them, and they are a fault for Go's library, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Type {
    SynStream = 1,
    SynReply = 2,
    RstStream = 3,
    Settings = 4,
    Ping = 6,
    Goaway = 7,
    Headers = 8,
    WindowUpdate = 9,
}

impl Type {
    const ALL: [Type; 8] = [
        Type::SynStream,
        Type::SynReply,
        Type::RstStream,
        Type::Settings,
        Type::Ping,
        Type::Goaway,
        Type::Headers,
        Type::WindowUpdate,
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    Control { kind: Type, flags: u8, len: u32 },
    Data { id: u32, fin: bool, len: u32 },
}

impl Header {
    pub(super) fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Header, Fault> {
        let [a, b, c, d, flags, l0, l1, l2] = bytes;
        let len = u32::from_be_bytes([0, l0, l1, l2]);
        if a & 0x80 == 0 {
            let id = u32::from_be_bytes([a, b, c, d]);
            return if id == 0 {
                Err(Fault::StreamZero)
            } else {
                Ok(Header::Data { id, fin: flags & FIN != 0, len })
            };
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != VERSION {
            return Err(Fault::Version(version));
        }
        let number = u16::from_be_bytes([c, d]);
        let kind = Type::ALL.into_iter().find(|kind| *kind as u16 == number);
        Ok(Header::Control { kind: kind.ok_or(Fault::Type(number))?, flags, len })
    }

    pub(super) fn emit(self) -> [u8; HEADER_BYTES] {
        let (front, flags, len) = match self {
            Header::Control { kind, flags, len } => {
                ((0x8000_u32 | u32::from(VERSION)) << 16 | kind as u32, flags, len)
            }
            Header::Data { id, fin, len } => (id & ID_BITS, u8::from(fin), len),
        };
        let ([a, b, c, d], [_, l0, l1, l2]) = (front.to_be_bytes(), len.to_be_bytes());
        [a, b, c, d, flags, l0, l1, l2]
    }
}

/// Returns a control frame of two numbers: RST_STREAM, GOAWAY or WINDOW_UPDATE.
pub(super) fn pair(kind: Type, first: u32, second: u32) -> [u8; HEADER_BYTES + 8] {
    let mut bytes = [0; HEADER_BYTES + 8];
    bytes[..8].copy_from_slice(&Header::Control { kind, flags: 0, len: 8 }.emit());
    bytes[8..12].copy_from_slice(&first.to_be_bytes());
    bytes[12..].copy_from_slice(&second.to_be_bytes());
    bytes
}

/// Returns a PING.
pub(super) fn ping(id: u32) -> [u8; HEADER_BYTES + 4] {
    let mut bytes = [0; HEADER_BYTES + 4];
    bytes[..8].copy_from_slice(&Header::Control { kind: Type::Ping, flags: 0, len: 4 }.emit());
    bytes[8..].copy_from_slice(&id.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_parsed_is_emitted(bytes: [u8; 8]) {
            let mut bytes = bytes;
            if bytes[0] & 0x80 != 0 {
                (bytes[0], bytes[1], bytes[2]) = (0x80, 3, 0);
            } else {
                bytes[4] &= 1;
            }
            if let Ok(header) = Header::parse(bytes) {
                prop_assert_eq!(header.emit(), bytes);
            }
        }
    }

    /// Captured from moby/spdystream 0.5.1.
    #[test]
    fn the_bytes_of_gos_library() {
        assert_eq!(ping(1), [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
        let reset = [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5];
        assert_eq!(pair(Type::RstStream, 1, 5), reset);
        let goaway = [0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(pair(Type::Goaway, 1, 0), goaway);
        let fin = Header::Data { id: 3, fin: true, len: 0 };
        assert_eq!(fin.emit(), [0, 0, 0, 3, 1, 0, 0, 0]);
    }
}
