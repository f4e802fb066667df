//! Finds out that a peer has gone while its socket is not read for want of room. Reading would
//! tell; without it the socket has to be checked.

use std::time::Duration;

use bowline_proto::Time;

use crate::drive::Socket;
use crate::stream::Connection;

/// How often a socket is checked. A check is one system call.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The checks of one peer.
#[derive(Debug, Default)]
pub struct Liveness {
    /// Since when its direction is found ended with so many of its bytes waiting.
    gone: Option<(Time, usize)>,
    told: bool,
}

/// Why a socket is not read.
#[derive(Clone, Copy, Debug)]
pub struct Blocked {
    /// How many bytes of the peer wait. While they grow fewer, the peer still counts as there.
    pub waiting: usize,
    /// How long none of them may be taken before a peer that has ended its direction counts as
    /// gone. Zero where that end can only mean that it has gone.
    pub grace: Duration,
}

/// Whether a peer is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// It is there, as far as can be seen. Check again at this time, if there is one.
    Present(Option<Time>),
    /// It has gone. Given once.
    Gone,
}

impl Liveness {
    /// Checks the peer of a socket, if that is `blocked`.
    pub fn check<S: Connection>(
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
            return PeerState::Present(Some(now + CHECK_EVERY));
        }
        let (since, before) = self.gone.unwrap_or((now, waiting));
        let since = if waiting == before { since } else { now };
        self.gone = Some((since, waiting));
        self.told = now >= since + grace;
        if self.told { PeerState::Gone } else { PeerState::Present(Some(now + CHECK_EVERY)) }
    }
}
