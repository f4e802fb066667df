//! The flags of `node` for sessions that outlive their connections.

use std::path::PathBuf;

use bowline_node::kept::Limits;

use super::pflag::{BadFlag, Values};
use super::table::Flag;

/// What a node keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// How many sessions, how much of each, and for how long.
    pub limits: Limits,
    /// Where it is written down how sessions ended.
    pub file: Option<PathBuf>,
}

/// `--kept-sessions-file`.
pub const FILE: Flag = Flag::text(
    "kept-sessions-file",
    "FILE",
    "Write down there which sessions of `exec --keep` there were and how they ended, so that their \
     clients are told also after this node has been started again.",
);

/// `--max-kept-sessions`.
pub const PER_NODE: Flag = Flag::number(
    "max-kept-sessions",
    "NUMBER",
    "How many sessions of `exec --keep` may run at once; as many that have ended are remembered. 0 \
     keeps none.",
)
.default("1024");

/// `--max-kept-sessions-per-container`.
pub const PER_CONTAINER: Flag = Flag::number(
    "max-kept-sessions-per-container",
    "NUMBER",
    "How many of them may run in one container at once. 0 keeps none.",
)
.default("256");

/// `--kept-replay-bytes`.
pub const REPLAY: Flag = Flag::number(
    "kept-replay-bytes",
    "BYTES",
    "How much of each output is kept for a client that is away; with that much the command waits. \
     0 keeps no sessions.",
)
.default("1048576");

/// `--max-keep-for`.
pub const LONGEST: Flag = Flag::duration(
    "max-keep-for",
    "The longest time for which a session is kept without a client, and its result after its end. \
     0 keeps none.",
)
.default("24h0m0s");

/// Reads them.
///
/// # Errors
/// [`BadFlag`] for a number or a time below zero.
pub fn read(values: &Values) -> Result<Kept, BadFlag> {
    let or = Limits::default();
    let limits = Limits {
        per_container: values.count(&PER_CONTAINER, or.per_container)?,
        per_node: values.count(&PER_NODE, or.per_node)?,
        replay_bytes: values.count(&REPLAY, or.replay_bytes)?,
        longest: values.not_negative(&LONGEST, or.longest)?,
    };
    Ok(Kept { limits, file: values.path(FILE.long) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_help_says_is_what_is_done() {
        let Limits { per_container, per_node, replay_bytes, longest } = Limits::default();
        let numbers =
            [(PER_CONTAINER, per_container), (PER_NODE, per_node), (REPLAY, replay_bytes)];
        for (flag, number) in numbers {
            assert_eq!(flag.default, number.to_string(), "{}", flag.long);
        }
        assert_eq!(longest, Duration::from_secs(24 * 60 * 60));
    }
}
