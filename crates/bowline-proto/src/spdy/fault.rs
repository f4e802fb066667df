//! The rules of SPDY/3.1 that a peer can break.

use thiserror::Error;

/// A rule that the peer has broken, which ends the connection. Sections are those of the SPDY/3.1
/// draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fault {
    /// A control frame must be of version 3 (§2.2.1).
    #[error("control frame of version {0}")]
    Version(u16),
    /// A control frame has a type that SPDY/3.1 does not have, or that nobody sends (§2.6).
    #[error("unknown control frame type {0}")]
    Type(u16),
    /// A control frame must be as long as its type requires (§2.6).
    #[error("a control frame of type {0} has a wrong length")]
    Length(u16),
    /// A control frame exceeds our limit,
    /// [`limits::SPDY_CONTROL_BYTES`](crate::limits::SPDY_CONTROL_BYTES).
    #[error("a control frame of {0} bytes is too long")]
    LongControl(u32),
    /// A PING must have an id and no flags (§2.6.5).
    #[error("a bad PING")]
    Ping,
    /// A RST_STREAM must name a stream and a status, neither of which is 0 (§2.6.3).
    #[error("a bad RST_STREAM")]
    Reset,
    /// Streams are numbered from 1 (§2.2.2, §2.3.2).
    #[error("a frame of stream 0")]
    StreamZero,
    /// The zlib stream of the headers is broken, or does not end with its frame (§2.6.10.1).
    #[error("a header block cannot be inflated")]
    Inflate,
    /// A header block exceeds our limits, whatever it declares.
    #[error("a header block is too large")]
    LargeHeaders,
    /// Lengths must fit, names be lower-case, unique and not empty, and all be UTF-8 (§2.6.10).
    #[error("a header block is malformed")]
    Headers,
}
