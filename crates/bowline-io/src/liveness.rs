//! A socket that is not read, for want of room, to the news that its peer has gone meanwhile.
//!
//! Whoever reads is told of an end. Whoever does not has to look.

use std::time::Duration;

use bowline_proto::Time;

use crate::drive::Socket;
use crate::stream::Connection;

/// Often enough for a process whose client was killed; a look is one system call.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks whether one peer is still there.
#[derive(Debug, Default)]
pub struct Liveness {
    /// It has ended its direction since then, and meanwhile so much waits of what it said.
    gone: Option<(Time, usize)>,
    told: bool,
}

/// Why a socket is not read.
#[derive(Clone, Copy, Debug)]
pub struct Blocked {
    /// What waits of what its peer said. Where it grows less, that peer is still heard.
    pub waiting: usize,
    /// How long nothing of it may be taken before a peer that has ended its direction counts as
    /// gone. None where that end has only one meaning.
    pub grace: Duration,
}

/// Whether a peer is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// It is there, as far as can be seen. Look again at this moment, if there is one.
    Present(Option<Time>),
    /// It has gone. Told once.
    Gone,
}

impl Liveness {
    /// Looks at a socket, if it is `blocked`.
    pub fn look<S: Connection>(
        &mut self,
        now: Time,
        socket: &Socket<S>,
        blocked: Option<Blocked>,
    ) -> PeerState {
        let Some(Blocked { waiting, grace }) = blocked.filter(|_| !self.told) else {
            self.gone = None;
            return PeerState::Present(None);
        };
        if !socket.is_peer_gone() {
            self.gone = None;
            return PeerState::Present(Some(now + LOOK_EVERY));
        }
        let (since, before) = self.gone.unwrap_or((now, waiting));
        let since = if waiting == before { since } else { now };
        self.gone = Some((since, waiting));
        self.told = now >= since + grace;
        if self.told { PeerState::Gone } else { PeerState::Present(Some(now + LOOK_EVERY)) }
    }
}
