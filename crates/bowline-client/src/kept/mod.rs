//! Commands that outlive the connections to them: an end of the caller's to a process, over as many
//! connections as it takes.
//!
//! A session is kept by the node, if that is Bowline's, or by a program that is put into the
//! container; either knows it by a secret [`Id`], with which [any client](Client::resume) can go on
//! with it.

mod connect;
mod place;
mod pod;
mod running;
mod screens;

use std::fmt;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use bowline_io::random;
use bowline_proto::Time;
use bowline_proto::kept::{Client as Session, Mode, Retry, Start};
use bowline_proto::session::Loss;
use bytes::Bytes;

pub use bowline_proto::kept::{Id, Instance, Refused, Stream, TerminalModes, refused};

use crate::client::Client;
use crate::command::RemoteCommand;
use crate::error::Error;
use crate::request::{Options, Verb};
use crate::session::{Ended, Ends};
use connect::Connector;
#[cfg(feature = "copy")]
pub(crate) use connect::Found;
#[cfg(not(feature = "copy"))]
use connect::Found;
use running::Running;

/// The default of [`KeptCommand::keep_for`].
const KEEP_FOR: Duration = Duration::from_secs(600);

/// A command that is to survive its connections. Made by [`RemoteCommand::keep`], or for a session
/// that is there by [`Client::resume`].
pub struct KeptCommand {
    client: Client,
    options: Options,
    ends: Ends,
    what: What,
    keep_for: Duration,
    program: Option<Bytes>,
    tell: Arc<dyn Fn(Change) + Send + Sync>,
    leaves: Option<Goodbye>,
    is_shown: bool,
    found: Found,
}

/// What becomes of the session.
#[derive(Clone, Copy, Debug)]
enum What {
    Start(Id),
    Resume { id: Id, mode: Mode, have: Option<[u64; 2]> },
}

/// What happens to a session, for the user to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// It is there: the command was started, or goes on from these offsets of stdout and stderr.
    Up {
        /// The command was started now.
        started: bool,
        /// Where stdout and stderr go on.
        outputs: [u64; 2],
        /// Whether the command has a terminal.
        tty: bool,
        /// Whether it has input.
        stdin: bool,
    },
    /// The connection was lost. Others are made.
    Lost(Loss),
    /// There is none yet, for another reason than before.
    StillLost(String),
    /// It is there again, after so long.
    Restored(Duration),
    /// So many bytes of an output are gone.
    Gap(Stream, u64),
}

/// How a client leaves a session that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// The command goes on without a client.
    Detach,
    /// The command is hung up.
    HangUp,
}

/// How a kept session ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptEnd {
    /// How the command ended.
    pub ended: Ended,
    /// How many bytes of output did not come, because they were not kept. Where the caller began
    /// later than the session, what was before is not counted.
    pub missed_bytes: u64,
    /// How many of these have come to no other client either.
    pub untaken_bytes: u64,
    /// Whether the command had a terminal, of whose output only the last is kept. `false` if the
    /// session was lost before it was there.
    pub tty: bool,
}

impl fmt::Debug for KeptCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptCommand").field("options", &self.options).finish_non_exhaustive()
    }
}

impl RemoteCommand {
    /// Makes it a command that survives its connections. Of its ends, all are as before; its
    /// input is read once the session is there.
    #[must_use]
    pub fn keep(self) -> KeptCommand {
        KeptCommand::of(self, What::Start(Id(random::bytes())))
    }
}

impl Client {
    /// Returns a session that is there, to be gone on with in place of any other client. Set its
    /// [ends](KeptCommand::ends); what was not acknowledged by earlier clients comes first.
    pub fn resume(&self, pod: impl Into<String>, id: Id) -> KeptCommand {
        let command = self.exec(pod, [""; 0]);
        KeptCommand::of(command, What::Resume { id, mode: Mode::Take, have: None })
    }
}

impl KeptCommand {
    fn of(command: RemoteCommand, what: What) -> KeptCommand {
        let RemoteCommand { client, options, ends, .. } = command;
        let (program, tell) = (None, Arc::new(|_| {}));
        let (keep_for, leaves, is_shown) = (KEEP_FOR, None, false);
        let found = Found::default();
        KeptCommand {
            client,
            options,
            ends,
            what,
            keep_for,
            program,
            tell,
            leaves,
            is_shown,
            found,
        }
    }

    /// The session's id, which is its secret.
    #[must_use]
    pub fn id(&self) -> Id {
        match self.what {
            What::Start(id) | What::Resume { id, .. } => id,
        }
    }

    /// Sets the container.
    #[must_use]
    pub fn container(mut self, name: impl Into<String>) -> Self {
        self.options.container = Some(name.into());
        self
    }

    /// Sets how long the session is kept while no client is there, and after its end; 10 minutes by
    /// default. As long, connections are made again.
    #[must_use]
    pub fn keep_for(mut self, keep_for: Duration) -> Self {
        self.keep_for = keep_for;
        self
    }

    /// Sets the program that is put into the container where the node does not keep sessions:
    /// `bowline-hold`, static, for the container's architecture. Without one, such a session is not
    /// begun.
    #[must_use]
    pub fn program(mut self, program: impl Into<Bytes>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Sets who is told of changes.
    #[must_use]
    pub fn on_change(mut self, tell: impl Fn(Change) + Send + Sync + 'static) -> Self {
        self.tell = Arc::new(tell);
        self
    }

    /// Sets all ends. Sizes in them request a terminal, as [`RemoteCommand::terminal`] does.
    #[must_use]
    pub fn ends(mut self, ends: Ends) -> Self {
        self.options.tty |= ends.sizes.is_some();
        self.ends = ends;
        self
    }

    /// Says that stdout is a terminal. What it has not seen of the command's terminal is then made
    /// up for, as far as that is known: modes, and the last of the output, which count for none of
    /// the stream's bytes.
    #[must_use]
    pub fn shown(mut self) -> Self {
        self.is_shown = true;
        self
    }

    /// Goes to the container's sessions as others went before, and lets others know.
    #[cfg(feature = "copy")]
    pub(crate) fn found(mut self, found: Found) -> Self {
        self.found = found;
        self
    }

    /// Only looks at a session beside another client: it sends nothing.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        if let What::Resume { mode, .. } = &mut self.what {
            *mode = Mode::Look;
        }
        self
    }

    /// Goes on behind so many bytes of stdout and stderr, and not behind what was acknowledged. 0
    /// is everything that is still kept.
    #[must_use]
    pub fn from(mut self, outputs: [u64; 2]) -> Self {
        if let What::Resume { have, .. } = &mut self.what {
            *have = Some(outputs);
        }
        self
    }

    /// Leaves the session once it is there, for its command to go on without a client.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::Lost`] if it is not known whether it is there.
    pub async fn detach(self) -> Result<(), Error> {
        self.leave(Goodbye::Detach).await
    }

    /// Hangs its command up, and does not wait for the end.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::Lost`] if nobody could be told.
    pub async fn hang_up(self) -> Result<(), Error> {
        self.leave(Goodbye::HangUp).await
    }

    async fn leave(mut self, how: Goodbye) -> Result<(), Error> {
        self.leaves = Some(how);
        match self.run_until(pending()).await? {
            Some(KeptEnd { ended: lost @ Ended::Lost { .. }, .. }) => lost.known().map(drop),
            // One that has ended in between needs no goodbye.
            Some(_) | None => Ok(()),
        }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// [`Error::Upgrade`] if no connection could be made at all, [`Error::NoProgram`] or
    /// [`Error::NoPlace`] if there is nobody to keep the session: then nothing was begun.
    /// [`Error::NotKept`] if whoever keeps it refuses, or another client has gone on with it.
    /// [`Error::End`] if an end of the caller's fails; the command is hung up then.
    pub async fn run(self) -> Result<KeptEnd, Error> {
        let ended = self.run_until(pending()).await?;
        ended.ok_or_else(|| Error::NotKept(Refused { code: 0, text: "it was left".into() }))
    }

    /// Runs it to its end, or leaves it as `stop` says once that resolves, and returns `None`.
    /// Without a connection nobody can be told: the session then ends once its time without a
    /// client is over.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::NotKept`] if the command was to go on, and whoever keeps
    /// it could not be told so.
    pub async fn run_until(
        self,
        stop: impl Future<Output = Goodbye>,
    ) -> Result<Option<KeptEnd>, Error> {
        let wants = self.options.wants(self.ends.stdin.is_some());
        let machine = self.machine();
        let pending = self.client.admit(self.options.record(&self.client))?;
        let (client, options) = (self.client.inside(), self.options.clone());
        let (program, found) = (self.program.clone(), self.found.clone());
        let connector = Connector::new(client, options, wants, program, found);
        let mut running =
            Running::new(machine, self.keep_for, self.ends, self.tell, self.leaves, pending);
        running.is_shown = self.is_shown;
        running.run(connector, stop).await
    }

    /// What makes the session's machine.
    fn machine(&self) -> impl FnOnce(Time, Retry) -> Session + use<> {
        let what = self.what;
        let start = Start {
            id: self.id(),
            // Whichever answers.
            instance: Instance([0; 16]),
            wants: self.options.wants(self.ends.stdin.is_some()),
            keep_for: self.keep_for.as_secs(),
            size: self.ends.sizes.as_ref().map(|sizes| *sizes.borrow()),
            command: match &self.options.verb {
                Verb::Exec(command) => command.clone(),
                Verb::Attach(_) => Vec::new(),
            },
            env: self.options.env.clone(),
        };
        move |now, retry| match what {
            What::Start(_) => Session::start(now, start, retry),
            What::Resume { id, mode, have } => Session::resume(now, id, mode, have, retry),
        }
    }
}
