//! What is known of a session, from its request to its end.
//!
//! A server's sessions begin with `Sessions::admit`, a client's with [`Pending::by`]: each
//! [`Admission`] is asked, and may refuse, and what it gives is told of the session until its end.
//! The log is one of them.

mod admission;
#[cfg(feature = "server")]
mod body;
#[cfg(feature = "server")]
mod caps;
mod log;
#[cfg(feature = "server")]
mod refusals;
mod running;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bowline_proto::relay::Ending;
use bowline_proto::session::Outcome;

pub use self::admission::{Admission, Denied, Hook, Pending};
#[cfg(feature = "server")]
pub use self::caps::Caps;
pub use self::log::{ClientLog, Log};
#[cfg(feature = "server")]
pub use self::refusals::Refusals;
pub use self::running::Running;
use crate::random;

/// Who is at the other end of a session, or sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requester {
    /// Its address: at a server where the request came from, at a client where it went.
    pub peer: SocketAddr,
    /// Who it is, where that was found out; at a client nobody.
    pub user: Option<Subject>,
    /// Tells the credentials of requests apart where only another server knows whose they are. It
    /// is the same for the same ones as long as this process runs, and nothing can be made of it.
    pub credential: Option<u64>,
}

/// A user, as a log names one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The user's name.
    pub name: String,
    /// The groups.
    pub groups: Vec<String>,
    /// Who acts as this user, where it is another one.
    pub by: Option<String>,
}

/// A session, as far as its request and the handshakes tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// By this a log's lines are found again.
    pub id: String,
    /// Who asked.
    pub requester: Requester,
    /// `exec`, `attach`, `portforward`, `log`.
    pub verb: &'static str,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container; empty where there is none.
    pub container: String,
    /// The words of the command, where there is one.
    pub command: Vec<String>,
    /// What is spoken with the client.
    pub near: String,
    /// What is spoken with the node; empty where this is the node.
    pub far: String,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With the command's outcome.
    Outcome(Outcome),
    /// Both sides have ended, and there is no outcome to know.
    Over,
    /// The client went away first.
    ClientGone(String),
    /// Without an outcome, and why.
    Lost(String),
    /// This server ended.
    Shutdown,
}

impl From<Option<Ending>> for End {
    /// Of a relay; without an ending it was this server that ended.
    fn from(ending: Option<Ending>) -> End {
        match ending {
            Some(Ending::Status(outcome)) => End::Outcome(outcome),
            Some(Ending::ClientGone(loss)) => End::ClientGone(loss.to_string()),
            Some(Ending::Lost(loss)) => End::Lost(loss.to_string()),
            None => End::Shutdown,
        }
    }
}

/// Bytes that were read from either side, with all that carried them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the client.
    pub from_client: u64,
    /// From the command, or from the node.
    pub to_client: u64,
}

impl Traffic {
    /// The same as the other end has it: who reads and who writes change places.
    #[must_use]
    pub fn turned(self) -> Traffic {
        Traffic { from_client: self.to_client, to_client: self.from_client }
    }

    /// Adds what was read from the client, or from the other side.
    pub fn count(&mut self, from_client: bool, bytes: usize) {
        let side = if from_client { &mut self.from_client } else { &mut self.to_client };
        *side = side.saturating_add(bytes as u64);
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Outcome(Outcome::Success) => f.write_str("exit code 0"),
            End::Outcome(Outcome::Exited(code)) => write!(f, "exit code {code}"),
            End::Outcome(Outcome::Failed { message, .. }) => write!(f, "failed: {message}"),
            End::Over => f.write_str("over"),
            End::ClientGone(why) => write!(f, "the client went away: {why}"),
            End::Lost(why) => write!(f, "lost: {why}"),
            End::Shutdown => f.write_str("this server shut down"),
        }
    }
}

/// A session that has ended, as one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What it was.
    pub record: Record,
    /// How it ended.
    pub end: End,
    /// How many bytes were read, where they were counted.
    pub traffic: Option<Traffic>,
    /// How long it took, from its beginning on.
    pub lasted: Duration,
}

impl Requester {
    /// Somebody at this address of whom nothing else is known yet.
    #[must_use]
    pub fn at(peer: SocketAddr) -> Requester {
        Requester { peer, user: None, credential: None }
    }

    /// A session that this one asks for.
    #[must_use]
    pub fn record(&self, verb: &'static str, namespace: &str, pod: &str) -> Record {
        Record {
            id: random::hex::<4>(),
            requester: self.clone(),
            verb,
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: String::new(),
            command: Vec::new(),
            near: String::new(),
            far: String::new(),
        }
    }
}

#[cfg(test)]
mod tests;
