//! `/proc` to what it tells of processes; and many questions about them, to few snapshots of it.
//!
//! A snapshot costs as much as there are processes. If each of the sessions that end together took
//! its own, the cost would grow with the square of their number.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Pid, RawPid, getpid};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

/// The snapshots that all sessions of this program share.
static SHARED: Snapshots = Snapshots::new();

/// Returns whether any process of `group` has not ended, as of a moment after this was called.
pub(crate) async fn is_alive(group: Pid) -> bool {
    SHARED.is_alive(group).await
}

/// Returns the processes of a moment after this was called; `None` if they cannot be told.
pub(crate) async fn snapshot() -> Option<Arc<[ProcessStat]>> {
    SHARED.take().await
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
    /// `None` before the first.
    processes: Option<Arc<[ProcessStat]>>,
}

impl Snapshots {
    const fn new() -> Snapshots {
        let latest = Snapshot { number: 0, processes: None };
        Snapshots { begun: AtomicU64::new(0), latest: Mutex::const_new(latest) }
    }

    async fn take(&self) -> Option<Arc<[ProcessStat]>> {
        // Only a snapshot that begins after the question answers it.
        let asked = self.begun.load(Ordering::SeqCst);
        let mut latest = self.latest.lock().await;
        if latest.number <= asked {
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            #[expect(clippy::disallowed_methods, reason = "it is waited for")]
            let processes = spawn_blocking(|| processes().collect()).await.ok()?;
            *latest = Snapshot { number, processes: Some(processes) };
        }
        latest.processes.clone()
    }

    async fn is_alive(&self, group: Pid) -> bool {
        // A snapshot that fails tells nothing: all count as alive, until the next.
        let Some(processes) = self.take().await else { return true };
        let group = group.as_raw_nonzero().get();
        processes.iter().any(|process| process.group == group && !process.has_ended)
    }
}

/// What `/proc` tells of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    /// Its id.
    pub pid: RawPid,
    /// The id of its parent.
    pub parent: RawPid,
    group: RawPid,
    /// The id of its session's first process.
    pub session: RawPid,
    /// Whether it has a controlling terminal.
    pub has_terminal: bool,
    /// When it was started, in ticks since the system was.
    pub started_ticks: u64,
    /// Whether it has ended, and was not waited for yet.
    pub has_ended: bool,
}

/// A process, also once its id is given to another one: that happens only after all other ids were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pub pid: RawPid,
    pub started_ticks: u64,
}

impl ProcessStat {
    /// Returns which process it is.
    pub(crate) fn id(&self) -> Process {
        Process { pid: self.pid, started_ticks: self.started_ticks }
    }
}

/// Returns the session of this program, as `/proc` tells it: 0 if its leader is outside of the PID
/// namespace. (rustix's `getsid` ends the program in that case.)
pub(crate) fn own_session() -> Option<RawPid> {
    let own = getpid().as_raw_nonzero().get();
    parse(own, &fs::read("/proc/self/stat").ok()?).map(|own| own.session)
}

/// Lists the children of this program. Their ids stay theirs until somebody waits for them.
pub(crate) fn children() -> impl Iterator<Item = ProcessStat> {
    let own = getpid().as_raw_nonzero().get();
    processes().filter(move |process| process.parent == own)
}

/// Returns what is told of one process; `None` if there is none with this id.
pub(crate) fn process(pid: RawPid) -> Option<ProcessStat> {
    parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
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
    let (parent, group, session) = (number()?, number()?, number()?);
    let has_terminal = number()? != 0;
    // The 22nd field; the 7th was the last.
    let started_ticks = fields.nth(14)?.parse().ok()?;
    Some(ProcessStat { pid, parent, group, session, has_terminal, started_ticks, has_ended })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use tokio::task::JoinSet;

    use super::*;

    /// A process that was made up.
    pub(crate) fn stat(pid: RawPid, parent: RawPid, session: RawPid) -> ProcessStat {
        let (has_terminal, has_ended) = (false, false);
        let started_ticks = 7;
        ProcessStat { pid, parent, group: pid, session, has_terminal, started_ticks, has_ended }
    }

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
        let rest = "-1 4194304 7 0 0 0 1 2 0 0 20 0 1 0";
        let stat = format!("12 (a) Z 1 (b)) S 3 4 5 0 {rest} 789 4096 1");
        let expected = ProcessStat {
            pid: 12,
            parent: 3,
            group: 4,
            session: 5,
            has_terminal: false,
            started_ticks: 789,
            has_ended: false,
        };
        assert_eq!(parse(12, stat.as_bytes()), Some(expected));
        let ended = format!("1 (x) Z 0 1 1 34816 {rest} 0");
        assert!(parse(1, ended.as_bytes()).is_some_and(|stat| stat.has_ended && stat.has_terminal));
        for short in [
            "1 (x S 0".to_owned(),
            "1 (x) S zero 1 1".to_owned(),
            format!("1 (x) S 0 1 1 0 {rest}"),
        ] {
            assert_eq!(parse(1, short.as_bytes()), None);
        }
    }

    #[test]
    fn this_process_is_found() {
        let own = getpid().as_raw_nonzero().get();
        assert!(processes().any(|process| process.pid == own && !process.has_ended));
    }
}
