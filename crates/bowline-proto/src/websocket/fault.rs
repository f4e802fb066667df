//! The rules of RFC 6455 that a peer can break, and the close code for each.

use thiserror::Error;

/// A rule that the peer has broken, which ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fault {
    /// No extension was negotiated that would use the reserved bits (RFC 6455 §5.2).
    #[error("reserved bits are set")]
    ReservedBits,
    /// The opcode has no meaning (RFC 6455 §5.2).
    #[error("reserved opcode {0:#x}")]
    Opcode(u8),
    /// A client must mask its frames (RFC 6455 §5.1).
    #[error("a frame of a client is not masked")]
    Unmasked,
    /// A server must not mask its frames (RFC 6455 §5.1).
    #[error("a frame of a server is masked")]
    Masked,
    /// A length must use as few bytes as possible, and have no more than 63 bits (RFC 6455 §5.2).
    #[error("a length is not in its shortest form")]
    Length,
    /// A control frame may have 125 bytes of payload (RFC 6455 §5.5).
    #[error("a control frame is longer than 125 bytes")]
    LongControl,
    /// A control frame must be a single frame (RFC 6455 §5.5).
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// A continuation must follow a frame that begins a message (RFC 6455 §5.4).
    #[error("a continuation without a beginning")]
    StrayContinuation,
    /// A message must end before the next one begins (RFC 6455 §5.4).
    #[error("a new message inside a fragmented one")]
    Interleaved,
    /// Text, and the reason of a Close, must be UTF-8 (RFC 6455 §8.1).
    #[error("text is not UTF-8")]
    Utf8,
    /// The code of a Close has two bytes (RFC 6455 §5.5.1).
    #[error("a close has a body of one byte")]
    ShortClose,
    /// The code of a Close must be one that may be sent (RFC 6455 §7.4).
    #[error("close code {0} may not be sent")]
    CloseCode(u16),
    /// The bytes of a tunnel must be in binary messages (docs/protocols/port-forward.md, 2.11).
    #[error("invalid message type received")]
    TextInTunnel,
}

impl Fault {
    /// The code of the Close that answers this fault (RFC 6455 §7.4.1).
    #[must_use]
    pub fn close_code(self) -> u16 {
        match self {
            Fault::Utf8 => 1007,
            Fault::TextInTunnel => 1003,
            _ => 1002,
        }
    }
}
