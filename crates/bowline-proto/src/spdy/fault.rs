//! What a peer can do wrong in SPDY/3.1.

use thiserror::Error;

/// A broken rule. It ends the connection. Sections are those of the SPDY/3.1 draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// §2.2.1.
    #[error("control frame of version {0}")]
    Version(u16),
    /// §2.6: a type that SPDY/3.1 does not have, or that nobody sends.
    #[error("unknown control frame type {0}")]
    Type(u16),
    /// A frame of fixed size has another one.
    #[error("a control frame of type {0} has a wrong length")]
    Length(u16),
    /// A limit of ours, see [`limits::SPDY_CONTROL_BYTES`](crate::limits::SPDY_CONTROL_BYTES).
    #[error("a control frame of {0} bytes is too long")]
    LongControl(u32),
    /// §2.6.5: a PING has an id and no flags.
    #[error("a bad PING")]
    Ping,
    /// §2.6.3: neither stream 0 nor status 0 exist.
    #[error("a bad RST_STREAM")]
    Reset,
    /// §2.2.2, §2.3.2: streams are numbered from 1.
    #[error("a frame of stream 0")]
    StreamZero,
    /// §2.6.10.1: the zlib stream is broken, or goes on behind its frame.
    #[error("a header block cannot be inflated")]
    Inflate,
    /// A limit of ours; what a peer declares is never allocated.
    #[error("a header block is too large")]
    LargeHeaders,
    /// §2.6.10: lengths that do not fit, upper case, empty or repeated names, no text.
    #[error("a header block is malformed")]
    Headers,
}
