//! What a peer can do wrong in RFC 6455, and the close code that answers it.

use thiserror::Error;

/// A broken rule. It ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// RFC 6455 §5.2: no extension was negotiated that would give them a meaning.
    #[error("reserved bits are set")]
    ReservedBits,
    /// RFC 6455 §5.2.
    #[error("reserved opcode {0:#x}")]
    Opcode(u8),
    /// RFC 6455 §5.1: a server closes on an unmasked frame.
    #[error("a frame of a client is not masked")]
    Unmasked,
    /// RFC 6455 §5.1: a client closes on a masked one.
    #[error("a frame of a server is masked")]
    Masked,
    /// RFC 6455 §5.2: the minimal number of bytes must be used, and the top bit of eight be 0.
    #[error("a length is not in its shortest form")]
    Length,
    /// RFC 6455 §5.5.
    #[error("a control frame is longer than 125 bytes")]
    LongControl,
    /// RFC 6455 §5.5.
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// RFC 6455 §5.4.
    #[error("a continuation without a beginning")]
    StrayContinuation,
    /// RFC 6455 §5.4.
    #[error("a new message inside a fragmented one")]
    Interleaved,
    /// RFC 6455 §8.1.
    #[error("text is not UTF-8")]
    Utf8,
    /// RFC 6455 §5.5.1: a code has two bytes.
    #[error("a close has a body of one byte")]
    ShortClose,
    /// RFC 6455 §7.4.
    #[error("close code {0} may not be sent")]
    CloseCode(u16),
    /// docs/protocols/port-forward.md, 2.11: a tunnel's bytes are in binary messages.
    #[error("invalid message type received")]
    TextInTunnel,
}

impl Fault {
    /// The code of the Close that answers it (RFC 6455 §7.4.1).
    #[must_use]
    pub fn close_code(self) -> u16 {
        match self {
            Fault::Utf8 => 1007,
            Fault::TextInTunnel => 1003,
            _ => 1002,
        }
    }
}
