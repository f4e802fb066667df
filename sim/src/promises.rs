//! The promises, and what became of them.

use std::fmt;

/// What every session is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Promise {
    /// Each channel's bytes arrive once and in order.
    OnceAndInOrder,
    /// What is reported as an outcome is the process's own, and all of its output came before.
    TrueOutcome,
    /// Where nothing went wrong, the outcome arrives, and all input.
    Delivered,
    /// Ending one lane does not end another: the process sees the end of its input only after all
    /// of it, and only where the client's input has ended.
    LanesApart,
    /// A dead peer is found, and what it leaves behind is cleared up, within a patience.
    FoundInTime,
    /// No queue grows past its limit.
    Bounded,
    /// After the end nothing is held: no task, no connection, no process.
    NothingHeld,
    /// Where nothing blocks, the session goes on without waiting for a timer.
    Awake,
    /// The same seed gives the same trace.
    Repeatable,
    /// The command of a kept session is started at most once.
    OneStart,
    /// A kept session's id is shown nowhere.
    Secret,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Promise::OnceAndInOrder => "bytes arrive once and in order",
            Promise::TrueOutcome => "an outcome is true and comes after all output",
            Promise::Delivered => "where nothing went wrong, all of it is delivered",
            Promise::LanesApart => "the end of one lane does not end another",
            Promise::FoundInTime => "the end of a peer is found in time",
            Promise::Bounded => "no queue grows past its limit",
            Promise::NothingHeld => "after the end nothing is held",
            Promise::Awake => "nothing waits for a timer where nothing blocks",
            Promise::Repeatable => "the same seed gives the same trace",
            Promise::OneStart => "a command is started at most once",
            Promise::Secret => "an id is shown nowhere",
        })
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The promise.
    pub promise: Promise,
    /// How it was broken, for a person.
    pub how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.how)
    }
}
