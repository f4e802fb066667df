//! A process right after it was started for an exec, to whether it can be that of a session.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::process::RawPid;

use super::cgroup;
use crate::procfs::{self, Process};

/// The most bytes of a process's words that are read. What is longer has no words.
const WORDS_BYTES: u64 = 128 * 1024;
/// The most words that are looked for in others.
const COMPARED_WORDS: usize = 64;

/// What a session has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The words of its command.
    pub words: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
}

/// A process that was started for an exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Which it is.
    pub process: Process,
    /// Whether it has a terminal.
    pub has_terminal: bool,
    /// Its words, which need not be those of the exec any more: shells replace themselves.
    pub words: Vec<String>,
}

impl Seen {
    /// Looks at a process of a container. This may block for as long as the process wants: reading
    /// its words can wait for its memory.
    pub(super) fn look(pid: RawPid, container: &str) -> Option<Seen> {
        let before = procfs::process(pid)?;
        // The runtime's ids may be of another PID namespace than this program's.
        if !cgroup::is_in(pid, container) {
            return None;
        }
        let words = words(pid)?;
        let after = procfs::process(pid)?;
        let is_one = before.id() == after.id() && !after.has_ended;
        is_one.then_some(Seen { process: after.id(), has_terminal: before.has_terminal, words })
    }

    /// Whether it is still what the runtime's program makes a process of, `runc init`, or in
    /// between that and the command.
    pub(super) fn is_being_made(&self) -> bool {
        match &self.words[..] {
            [] => true,
            [_, word] => word == "init",
            _ => false,
        }
    }

    /// Whether it has the words, and the kind of input, that were asked for.
    pub(super) fn is_same(&self, asked: &Asked) -> bool {
        let has_words = self.words == asked.words || self.is_script(&asked.words);
        has_words && self.has_terminal == asked.tty
    }

    /// Whether it can be what the command that was asked for has made of itself: each of its words
    /// was in the command's.
    pub(super) fn may_be(&self, asked: &Asked) -> bool {
        let is_said = |word: &String| asked.words.iter().any(|said| said.contains(word));
        let is_command = self.words.first().is_some_and(|command| !command.is_empty());
        is_command
            && self.words.len() <= COMPARED_WORDS
            && self.words.iter().all(is_said)
            && self.has_terminal == asked.tty
    }

    /// Whether it is what the system makes of a script: its interpreter's words before it.
    fn is_script(&self, asked: &[String]) -> bool {
        let Some((command, arguments)) = asked.split_first() else { return false };
        // The interpreter, and at most one argument of its own.
        let Some(extra @ 1..=2) = self.words.len().checked_sub(asked.len()) else { return false };
        let script = Path::new(&self.words[extra]);
        let is_command = script == Path::new(command)
            || (!command.contains('/') && script.file_name() == Some(OsStr::new(command)));
        is_command && self.words[extra + 1..] == *arguments
    }
}

/// Reads the words of a process; an empty one if they are too long, or no text.
fn words(pid: RawPid) -> Option<Vec<String>> {
    let mut line = Vec::new();
    let file = File::open(format!("/proc/{pid}/cmdline")).ok()?;
    file.take(WORDS_BYTES + 1).read_to_end(&mut line).ok()?;
    if line.len() as u64 > WORDS_BYTES {
        return Some(vec![String::new()]);
    }
    if line.is_empty() {
        return Some(Vec::new());
    }
    let line = String::from_utf8(line).unwrap_or_default();
    // A zero ends each of them.
    let words = line.strip_suffix('\0').unwrap_or(&line);
    Some(words.split('\0').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().copied().map(str::to_owned).collect()
    }

    fn seen(has_terminal: bool, line: &[&str]) -> Seen {
        let process = Process { pid: 1, started_ticks: 1 };
        Seen { process, has_terminal, words: words(line) }
    }

    fn asked(line: &[&str]) -> Asked {
        Asked { words: words(line), tty: false }
    }

    #[test]
    fn a_command_is_known_by_its_words() {
        let command = asked(&["sh", "-c", "cd /x && exec sleep 1000"]);
        assert!(seen(false, &["sh", "-c", "cd /x && exec sleep 1000"]).is_same(&command));
        assert!(!seen(true, &["sh", "-c", "cd /x && exec sleep 1000"]).is_same(&command));
        let replaced = seen(false, &["sleep", "1000"]);
        assert!(!replaced.is_same(&command) && replaced.may_be(&command));
        for other in [&["cat", "/healthz"][..], &["sleep", "7"], &[], &[""]] {
            assert!(!seen(false, other).may_be(&command), "{other:?}");
        }
        assert!(!seen(true, &["sleep", "1000"]).may_be(&command));
    }

    #[test]
    fn a_script_is_known_behind_its_interpreter() {
        let command = asked(&["backup", "--all"]);
        for same in [
            &["/bin/sh", "/usr/bin/backup", "--all"][..],
            &["/usr/bin/env", "-S", "backup", "--all"],
        ] {
            assert!(seen(false, same).is_same(&command), "{same:?}");
        }
        for other in [
            &["/bin/sh", "/usr/bin/backup"][..],
            &["/bin/sh", "/usr/bin/restore", "--all"],
            &["/bin/sh", "a", "b", "backup", "--all"],
        ] {
            assert!(!seen(false, other).is_same(&command), "{other:?}");
        }
        let by_path = asked(&["/usr/bin/backup"]);
        assert!(seen(false, &["/bin/sh", "/usr/bin/backup"]).is_same(&by_path));
        assert!(!seen(false, &["/bin/sh", "/other/backup"]).is_same(&by_path));
    }

    #[test]
    fn the_words_of_a_process_are_read() {
        let own: Vec<String> = std::env::args().collect();
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        assert_eq!(super::words(pid), Some(own));
    }
}
