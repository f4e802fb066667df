//! The channels of a remote command, and which of them a request asks for.

/// A channel of a remote command. Over WebSocket it is a number, over SPDY a stream of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// Bytes from the client to the process.
    Stdin,
    /// Bytes from the process to the client; with a terminal, all of its output.
    Stdout,
    /// Bytes from the process to the client, never with a terminal.
    Stderr,
    /// How the command ended, from the server to the client.
    Error,
    /// Sizes of the client's terminal, from the client to the server.
    Resize,
}

impl Channel {
    /// All channels in the order of their numbers.
    pub const ALL: [Channel; 5] =
        [Channel::Stdin, Channel::Stdout, Channel::Stderr, Channel::Error, Channel::Resize];

    /// The channel's number in a WebSocket message.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns the channel with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Channel> {
        Channel::ALL.get(usize::from(number)).copied()
    }

    /// The value of the `streamtype` header that opens this channel's SPDY stream.
    #[must_use]
    pub const fn stream_type(self) -> &'static str {
        match self {
            Channel::Stdin => "stdin",
            Channel::Stdout => "stdout",
            Channel::Stderr => "stderr",
            Channel::Error => "error",
            Channel::Resize => "resize",
        }
    }

    /// Returns the channel that a `streamtype` header names, if there is one.
    #[must_use]
    pub fn from_stream_type(name: &str) -> Option<Channel> {
        Channel::ALL.into_iter().find(|channel| channel.stream_type() == name)
    }

    /// Whether the client writes to the channel, rather than the server.
    #[must_use]
    pub const fn is_from_client(self) -> bool {
        matches!(self, Channel::Stdin | Channel::Resize)
    }
}

/// Which channels a request asks for: four booleans in the query of every hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// The client will send input.
    pub stdin: bool,
    /// The client reads output.
    pub stdout: bool,
    /// The client reads errors apart from output. Never together with `tty`.
    pub stderr: bool,
    /// The process gets a terminal.
    pub tty: bool,
}

impl Wants {
    /// Whether a session with these wants has the channel.
    #[must_use]
    pub const fn has(self, channel: Channel) -> bool {
        match channel {
            Channel::Stdin => self.stdin,
            Channel::Stdout => self.stdout,
            Channel::Stderr => self.stderr && !self.tty,
            Channel::Error => true,
            Channel::Resize => self.tty,
        }
    }
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}
