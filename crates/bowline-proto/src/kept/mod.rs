//! Sessions that survive: a command whose client may lose its connection and come back, as two
//! machines. The end that has the process is the [`Host`]; it keeps what the [`Client`] has not
//! acknowledged, and tells each client that comes where the streams go on.
//!
//! Both outlive their connections. What travels is a byte stream, in WebSocket messages or in stdin
//! and stdout of an ordinary exec, and ends with the connection; the [frames](Frame) in it are in
//! docs/protocols/kept-session.md, 11.2.
//!
//! - Offsets count the bytes of a stream since the session began, and are the only means of going
//!   on: nothing is numbered by connections.
//! - What was sent stays until it is acknowledged, and only so much is sent
//!   ahead; so neither end ever has to stop reading, and silence is silence.
//! - A client asks for the start of a command again until it has an answer, but only at the same
//!   host: there the id tells that it is the same command.

mod arrivals;
mod carrier;
mod client;
mod escape;
mod frame;
mod greeting;
mod host;
mod link;
mod modes;
mod pen;
mod replay;
mod screen;
mod sum;
#[cfg(test)]
mod tests;

use alloc::format;
use alloc::string::String;
use core::fmt;

use sha1::{Digest, Sha1};

pub use carrier::{Carried, Carrier};
pub use client::{Client, Connected, Event as ClientEvent, Gap, Retry};
pub use frame::{Flow, Frame, Leave, Mode, Reader, Refused, Resume, Start, refused};
pub use greeting::{Asked, Greeting};
pub use host::{Bounds, Entry, Event as HostEvent, Host, Left};
pub use screen::TerminalModes;
pub use sum::sum_of;

/// The first word of what asks for kept sessions, and not for a command.
pub const WORD: &str = "@bowline";

/// Whether a request's words ask for sessions that there are.
#[must_use]
pub fn is_question(command: &[String]) -> bool {
    command.first().is_some_and(|first| first == WORD)
}

/// Which words of a request may be written down: all of a command's, but of a question only what is
/// asked, since a session's id may follow.
#[must_use]
pub fn shown(command: &[String]) -> &[String] {
    let most = if is_question(command) { command.len().min(2) } else { command.len() };
    command.get(..most).unwrap_or_default()
}

/// The secret of a session: whoever has it can go on with it. Shown and logged as its
/// [name](Self::name) only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(pub [u8; 16]);

impl Id {
    /// What may be shown: four bytes of a hash, as hexadecimal digits. Not unique, and of no use to
    /// anybody who does not know the id.
    #[must_use]
    pub fn name(&self) -> String {
        let digest = Sha1::digest(self.0);
        digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What can be written down to know the id again. Nothing can be made of it.
    #[must_use]
    pub fn mark(&self) -> String {
        Sha1::digest(self.0).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The whole of it as 32 hexadecimal digits, for its owner.
    #[must_use]
    pub fn secret(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads what [`secret`](Self::secret) gives.
    #[must_use]
    pub fn parse(text: &str) -> Option<Id> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut id = [0; 16];
        for (at, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Id(id))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({})", self.name())
    }
}

/// Which host this is: random, and another one after each restart, so that a client can tell a
/// session that is gone from one that never began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instance(pub [u8; 16]);

/// A stream of bytes of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// From the client to the process.
    Stdin,
    /// From the process; with a terminal, all of its output.
    Stdout,
    /// From the process, never with a terminal.
    Stderr,
}

impl Stream {
    /// All of them, in the order of their numbers.
    pub const ALL: [Stream; 3] = [Stream::Stdin, Stream::Stdout, Stream::Stderr];

    /// Its number in a frame.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The stream with this number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Stream> {
        Stream::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Whether its bytes go to the client.
    #[must_use]
    pub const fn is_output(self) -> bool {
        !matches!(self, Stream::Stdin)
    }

    /// Its place among the outputs.
    const fn output(self) -> usize {
        matches!(self, Stream::Stderr) as usize
    }
}

/// How many bytes a stream had, and a sum of them (XXH3, 64 bits, seed 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// How many bytes.
    pub bytes: u64,
    /// Their sum.
    pub sum: u64,
}
