//! The error of a remote command whose outcome is not known.

use bowline_proto::session::Loss;
use thiserror::Error;

use crate::session::EndError;
use crate::upgrade::UpgradeError;

/// Why a command's outcome is not known.
///
/// A server that refuses (403, 404) or cannot be reached is [`Upgrade`](Error::Upgrade). A command
/// that was not found in the container, or has failed, is no error but an
/// [`Outcome`](crate::Outcome).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection was not upgraded, so the command did not run.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// The server does not support [`replay`](crate::RemoteCommand::replay).
    #[error("the server cannot replay: it is not Bowline's")]
    NoReplay,
    /// The server does not support [`env`](crate::RemoteCommand::env). Nothing was begun.
    #[error("the server cannot set the environment of a command: nothing was begun")]
    NoEnv,
    /// Neither the node nor a program in the container can keep the session: the node does not know
    /// how, and there is no program to be put there.
    #[error(
        "the session cannot be kept: the node does not keep sessions, and there is no program to \
         be put into the container"
    )]
    NoProgram,
    /// There is no place in the container for the program that keeps the session.
    #[error("the session cannot be kept: {0}")]
    NoPlace(String),
    /// Whoever keeps the session has refused it, or ended it for this client.
    #[error("{}", .0.text)]
    NotKept(bowline_proto::kept::Refused),
    /// One of the caller's ends failed, so the session was closed.
    #[error(transparent)]
    End(#[from] EndError),
    /// The session ended without a Status. The command may have ended in any way, or still run.
    #[error("{loss} after {received_bytes} bytes of output")]
    Lost {
        /// How the session was lost.
        loss: Loss,
        /// The bytes of output that were received before.
        received_bytes: u64,
        /// The stdout so far, from methods that return it; else empty.
        stdout: Vec<u8>,
        /// The stderr so far, from methods that return it; else empty.
        stderr: Vec<u8>,
    },
}
