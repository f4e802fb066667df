//! The words after the program's name to what is asked for.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use bowline_proto::limits::KEPT_REPLAY_BYTES;

use crate::error::HoldError;

/// What `help` prints.
pub(crate) const HELP: &str = "\
Usage: bowline-hold COMMAND

Commands:
  connect DIR   carries one connection to the holder of DIR through stdin and stdout, and begins a
                holder if there is none
  list DIR      the sessions that are held there
  version       name, version, and the sum of this program

Flags of connect, for a holder that it begins:
  --replay-bytes N   how much of each output is kept for a client that is away, at least 1
                     (1048576)
  --sessions N       how many commands may run; as many that have ended are remembered (256)
  --linger S         how many seconds it stays without a session (10)
  --grace S          how many seconds after SIGHUP comes SIGKILL (10)
  --drain S          after a command has ended, how many seconds to wait for processes that still
                     hold its output; 0 is for as long as they do (0)
";

/// The most bytes that are kept of each output, whatever is asked for.
const REPLAY_BYTES_AT_MOST: u64 = 1 << 30;
/// The most sessions that run, whatever is asked for.
const SESSIONS_AT_MOST: u64 = 4096;

/// How a holder behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// How much of each output is kept for a client that has not acknowledged it.
    pub replay_bytes: u64,
    /// How many sessions may run, and how many that have ended are remembered.
    pub sessions: u64,
    /// How many seconds the holder stays without a session.
    pub linger: u64,
    /// How many seconds there are from SIGHUP to SIGKILL.
    pub grace: u64,
    /// How many seconds others may hold an output after its command has ended; zero is no limit.
    pub drain: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        let replay_bytes = KEPT_REPLAY_BYTES as u64;
        Settings { replay_bytes, sessions: 256, linger: 10, grace: 10, drain: 0 }
    }
}

impl Settings {
    /// How long others may hold an output after its command has ended.
    pub(crate) fn patience(&self) -> Option<Duration> {
        (self.drain > 0).then(|| Duration::from_secs(self.drain))
    }

    /// The flags that give these settings.
    pub(crate) fn words(&self) -> Vec<String> {
        let flags = [
            ("--replay-bytes", self.replay_bytes),
            ("--sessions", self.sessions),
            ("--linger", self.linger),
            ("--grace", self.grace),
            ("--drain", self.drain),
        ];
        flags.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_string()]).collect()
    }

    fn set(&mut self, name: &str, value: u64) -> Result<(), &'static str> {
        match name {
            // No output would ever be read.
            "--replay-bytes" if value == 0 => return Err("there has to be room for one byte"),
            "--replay-bytes" => self.replay_bytes = value.min(REPLAY_BYTES_AT_MOST),
            "--sessions" => self.sessions = value.min(SESSIONS_AT_MOST),
            "--linger" => self.linger = value,
            "--grace" => self.grace = value,
            "--drain" => self.drain = value,
            _ => return Err("there is no such flag"),
        }
        Ok(())
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Carry a connection to the holder of a directory.
    Connect(PathBuf, Settings),
    /// Begin a holder, on the way to [`Serve`](Self::Serve).
    Begin(PathBuf, Settings),
    /// Be the holder; stdin is its listening socket.
    Serve(PathBuf, Settings),
    /// Print the sessions of a directory.
    List(PathBuf),
    /// Print what this program is.
    Version,
    /// Print how it is used.
    Help,
}

impl Asked {
    /// Reads the words.
    ///
    /// # Errors
    /// [`HoldError::Usage`] with the first that makes no sense.
    pub(crate) fn read(args: Vec<OsString>) -> Result<Asked, HoldError> {
        let usage = |why: String| HoldError::Usage(why);
        let mut args = args.into_iter();
        let command = args.next().unwrap_or_else(|| "help".into());
        let (mut directory, mut settings) = (None, Settings::default());
        while let Some(arg) = args.next() {
            let name = arg.to_string_lossy().into_owned();
            if !name.starts_with('-') && directory.is_none() {
                directory = Some(PathBuf::from(arg));
                continue;
            }
            let value = args.next().and_then(|value| value.to_str()?.parse().ok());
            let set =
                value.ok_or("no number is behind it").and_then(|value| settings.set(&name, value));
            set.map_err(|why| usage(format!("{name}: {why}")))?;
        }
        let command = command.to_string_lossy();
        let there = || directory.ok_or_else(|| usage(format!("{command} of which directory?")));
        Ok(match &*command {
            "connect" => Asked::Connect(there()?, settings),
            "begin" => Asked::Begin(there()?, settings),
            "serve" => Asked::Serve(there()?, settings),
            "list" => Asked::List(there()?),
            "version" | "--version" => Asked::Version,
            "help" | "--help" | "-h" => Asked::Help,
            other => return Err(usage(format!("there is no command {other:?}"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Asked, HoldError> {
        Asked::read(words.iter().map(OsString::from).collect())
    }

    #[test]
    fn what_is_written_is_read() {
        let settings = Settings { replay_bytes: 5, sessions: 4, linger: 3, grace: 2, drain: 1 };
        let words = settings.words();
        let words: Vec<&str> =
            ["serve", "/d"].into_iter().chain(words.iter().map(|w| &**w)).collect();
        assert_eq!(read(&words).unwrap(), Asked::Serve("/d".into(), settings));
    }

    #[test]
    fn words_without_sense_are_refused() {
        for words in [
            &["connect"][..],
            &["connect", "/d", "--grace"],
            &["connect", "/d", "--grace", "x"],
            &["connect", "/d", "--other", "1"],
            &["connect", "/d", "--replay-bytes", "0"],
            &["connect", "/d", "/e"],
            &["other", "/d"],
        ] {
            assert!(matches!(read(words), Err(HoldError::Usage(_))), "{words:?}");
        }
    }
}
