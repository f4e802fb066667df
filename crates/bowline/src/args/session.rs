//! The flags and words of `session`.

use std::path::PathBuf;

use super::exec::{self, HOLD_PROGRAM};
use super::global::{self, Global};
use super::pflag::Values;
use super::table::{Command, Flag, Words};
use super::{BadUsage, HELP};
use crate::detach;

/// What is done with sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// With which.
    pub action: Action,
    /// `--read-only`.
    pub read_only: bool,
    /// `--from-start`.
    pub from_start: bool,
    /// `-q`.
    pub quiet: bool,
    /// What leaves a session with a terminal.
    pub detach_keys: Vec<u8>,
    /// The program for the container.
    pub program: Option<PathBuf>,
    /// Which cluster, as whom.
    pub global: Global,
}

/// One of the command's actions, with what names the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Show those that were started from here.
    List,
    /// Go on with one.
    Resume(String),
    /// Wait for one, and end as its command did.
    Result(String),
    /// End one's command.
    End(String),
}

/// Its table.
pub static COMMAND: Command = Command {
    name: "session",
    about: "Come back to commands that were started with exec --keep or --detach.",
    text: "list shows the sessions that were started from here. resume goes on with one, in place \
           of any other client: what was not shown yet comes first. result waits for the end, \
           prints what is kept of the output, and exits as the command did. end hangs the command \
           up.\n\n\
           SESSION is what exec --detach has printed, from any machine; here, a beginning of its \
           name or of its id will do. Whoever has the id, and may exec into the container, can go \
           on with the session.",
    usage: "list | (resume | result | end) SESSION [flags]",
    examples: &[
        ("See the sessions that were started from here", "{bowline} session list"),
        ("Go on with one", "{bowline} session resume 3f9a"),
        ("Look at one beside its client", "{bowline} session resume 3f9a --read-only"),
        ("Wait for a job, and exit as it did", "{bowline} session result 3f9a"),
    ],
    flags: &[
        Flag::text(
            "detach-keys",
            "KEYS",
            "What leaves a session with a terminal, one after the other: characters, ctrl- and a \
             character, or DEL.",
        )
        .default(detach::DEFAULT),
        Flag::switch(
            "from-start",
            "Begin with everything that is kept, also with what was shown already.",
        ),
        HOLD_PROGRAM,
        Flag::switch("quiet", "Print only what the command prints, and errors.").short('q'),
        Flag::switch("read-only", "Look, beside another client, and send nothing."),
        HELP,
    ],
    shared: global::FLAGS,
    words: Words::Some,
};

/// Reads it.
///
/// # Errors
/// [`BadUsage`] for the first rule that is broken.
pub fn read(values: &Values) -> Result<Session, BadUsage> {
    let words: Vec<String> =
        values.words().iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let action = match &words[..] {
        ["list"] => Action::List,
        ["resume", session] => Action::Resume((*session).to_owned()),
        ["result", session] => Action::Result((*session).to_owned()),
        ["end", session] => Action::End((*session).to_owned()),
        _ => return Err(BadUsage::SessionWords),
    };
    Ok(Session {
        action,
        read_only: values.is_on("read-only"),
        from_start: values.is_on("from-start"),
        quiet: values.is_on("quiet"),
        detach_keys: detach::keys(&values.text("detach-keys").unwrap_or_default())?,
        program: exec::hold_program(values),
        global: global::read(values)?,
    })
}
