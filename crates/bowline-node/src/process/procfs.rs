//! `/proc` to what it tells of processes; and many questions whether a process group lives, to few
//! snapshots of it.
//!
//! A snapshot costs as much as there are processes. If each of the sessions that end together took
//! its own, the cost would grow with the square of their number.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Pid, RawPid, getpid};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

/// The snapshots that all process groups of this program share.
static SHARED: Snapshots = Snapshots::new();

/// Returns whether any process of `group` has not ended, as of a moment after this was called.
pub(super) async fn is_alive(group: Pid) -> bool {
    SHARED.is_alive(group).await
}

#[derive(Debug)]
struct Snapshots {
    /// How many snapshots were begun.
    begun: AtomicU64,
    latest: Mutex<Snapshot>,
}

#[derive(Debug)]
struct Snapshot {
    /// Its number, from 1.
    number: u64,
    living: BTreeSet<RawPid>,
}

impl Snapshots {
    const fn new() -> Snapshots {
        let latest = Snapshot { number: 0, living: BTreeSet::new() };
        Snapshots { begun: AtomicU64::new(0), latest: Mutex::const_new(latest) }
    }

    async fn is_alive(&self, group: Pid) -> bool {
        // Only a snapshot that begins after the question answers it.
        let asked = self.begun.load(Ordering::SeqCst);
        let mut latest = self.latest.lock().await;
        if latest.number <= asked {
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            // A snapshot that fails tells nothing: all count as alive, until the next.
            #[expect(clippy::disallowed_methods, reason = "it is waited for")]
            let Ok(living) = spawn_blocking(living_groups).await else { return true };
            *latest = Snapshot { number, living };
        }
        latest.living.contains(&group.as_raw_nonzero().get())
    }
}

/// What `/proc` tells of a process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProcessStat {
    /// Its id.
    pub pid: RawPid,
    parent: RawPid,
    group: RawPid,
    /// The id of its session's first process.
    pub session: RawPid,
    /// Whether it has ended, and was not waited for yet.
    pub has_ended: bool,
}

/// Returns the session of this program, as `/proc` tells it: 0 if its leader is outside of the PID
/// namespace. (rustix's `getsid` ends the program in that case.)
pub(super) fn own_session() -> Option<RawPid> {
    let own = getpid().as_raw_nonzero().get();
    parse(own, &fs::read("/proc/self/stat").ok()?).map(|own| own.session)
}

/// Lists the children of this program. Their ids stay theirs until somebody waits for them.
pub(super) fn children() -> impl Iterator<Item = ProcessStat> {
    let own = getpid().as_raw_nonzero().get();
    processes().filter(move |process| process.parent == own)
}

/// Returns the groups with a process that has not ended.
fn living_groups() -> BTreeSet<RawPid> {
    processes().filter(|process| !process.has_ended).map(|process| process.group).collect()
}

fn processes() -> impl Iterator<Item = ProcessStat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid: RawPid = entry.file_name().to_str()?.parse().ok()?;
        // It may have ended since the directory was read.
        let stat = fs::read(entry.path().join("stat")).ok()?;
        parse(pid, &stat)
    })
}

/// Reads a line of proc_pid_stat(5): the name is in parentheses, and may hold parentheses itself.
fn parse(pid: RawPid, stat: &[u8]) -> Option<ProcessStat> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X");
    let mut number = || fields.next()?.parse().ok();
    Some(ProcessStat { pid, parent: number()?, group: number()?, session: number()?, has_ended })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use tokio::task::JoinSet;

    use super::*;

    /// A process with a group of its own; this one's may have no name in its namespace.
    struct Living(Child);

    impl Living {
        fn start() -> Living {
            let mut cat = Command::new("cat");
            Living(cat.stdin(Stdio::piped()).process_group(0).spawn().unwrap())
        }

        fn group(&self) -> Pid {
            Pid::from_child(&self.0)
        }
    }

    impl Drop for Living {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[tokio::test]
    async fn those_who_ask_together_share_a_snapshot() {
        static SHARED: Snapshots = Snapshots::new();
        let living = Living::start();
        let mut asking = JoinSet::new();
        for _ in 0..100 {
            asking.spawn(SHARED.is_alive(living.group()));
        }
        assert!(asking.join_all().await.into_iter().all(|alive| alive));
        let begun = SHARED.begun.load(Ordering::SeqCst);
        assert!(begun <= 2, "{begun} snapshots");
    }

    #[tokio::test]
    async fn who_asks_later_gets_a_later_snapshot() {
        let snapshots = Snapshots::new();
        let living = Living::start();
        let group = living.group();
        for number in 1..=3 {
            assert!(snapshots.is_alive(group).await);
            assert_eq!(snapshots.begun.load(Ordering::SeqCst), number);
        }
        drop(living);
        assert!(!snapshots.is_alive(group).await);
    }

    #[test]
    fn a_name_may_look_like_the_end() {
        let stat = b"12 (a) Z 1 (b)) S 3 4 5 0 -1 4194304";
        let expected = ProcessStat { pid: 12, parent: 3, group: 4, session: 5, has_ended: false };
        assert_eq!(parse(12, stat), Some(expected));
        assert!(parse(1, b"1 (x) Z 0 1 1 0").is_some_and(|stat| stat.has_ended));
        assert_eq!(parse(1, b"1 (x S 0"), None);
        assert_eq!(parse(1, b"1 (x) S zero 1 1"), None);
    }

    #[test]
    fn this_process_is_found() {
        let own = getpid().as_raw_nonzero().get();
        assert!(processes().any(|process| process.pid == own && !process.has_ended));
    }
}
