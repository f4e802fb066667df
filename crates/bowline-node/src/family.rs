//! The node's children and what they leave behind: all are waited for, none outlives its container.
//!
//! A command may leave processes in its background. In a container they would become children of
//! its first process; here they become children of the node, which is a subreaper. They live on, as
//! they would there, until their container ends. Who belongs to which container is told by the
//! session that every command begins; an orphan that began a session of its own lives as long as
//! any container does.
//!
//! Adoption is a property of the whole program. So that children of other parts of it stay theirs,
//! nothing here touches a child that shares the program's own session, as those that
//! `std::process` starts do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use rustix::process::{
    Pid, RawPid, Signal, WaitOptions, getpid, kill_process, kill_process_group,
    set_child_subreaper, waitpid,
};
use tracing::warn;

/// Held for reading from fork until the child is known here, and for writing by who looks for
/// orphans: a child that is not known yet looks like one.
static FORKS: RwLock<()> = RwLock::new(());
static KNOWN: Mutex<Known> =
    Mutex::new(Known { homes: BTreeSet::new(), sessions: BTreeMap::new() });
static NEXT_HOME: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
struct Known {
    /// The containers that live.
    homes: BTreeSet<u64>,
    /// Sessions that commands began, by the id of their leader.
    sessions: BTreeMap<RawPid, Session>,
}

#[derive(Debug)]
struct Session {
    home: u64,
    /// Its leader was not waited for: its id names nothing else, and it is not an orphan.
    led: bool,
}

impl Known {
    fn lock() -> MutexGuard<'static, Known> {
        KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_led(&self, process: RawPid) -> bool {
        self.sessions.get(&process).is_some_and(|session| session.led)
    }

    fn is_homeless(&self, session: RawPid) -> bool {
        match self.sessions.get(&session) {
            Some(session) => !self.homes.contains(&session.home),
            None => self.homes.is_empty(),
        }
    }

    fn is_at(&self, session: RawPid, home: u64) -> bool {
        self.sessions.get(&session).is_some_and(|session| session.home == home)
    }
}

/// Where processes belong: one for each container that lives.
#[derive(Debug)]
pub struct Home(u64);

impl Home {
    /// A new one.
    pub fn new() -> Home {
        let id = NEXT_HOME.fetch_add(1, Ordering::Relaxed);
        Known::lock().homes.insert(id);
        Home(id)
    }

    /// Starts a command that begins a session of its own. What is started after the end is killed
    /// at once.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let _forking = FORKS.read().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        let mut known = Known::lock();
        if let Some(pid) = pid(&child) {
            known.sessions.insert(pid.as_raw_nonzero().get(), Session { home: self.0, led: true });
            if !known.homes.contains(&self.0) {
                let _ = kill_process_group(pid, Signal::KILL);
            }
        }
        Ok(child)
    }

    /// Asks all orphans of this home to end.
    pub fn ask_orphans(&self) {
        let known = Known::lock();
        for child in children() {
            let orphan = !known.is_led(child.pid) && known.is_at(child.session, self.0);
            if orphan && let Some(pid) = Pid::from_raw(child.pid) {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
    }

    /// Ends all that belong here, as the end of a container's first process does.
    pub fn end(&self) {
        let mut known = Known::lock();
        known.homes.remove(&self.0);
        for (leader, session) in &known.sessions {
            if session.home == self.0
                && session.led
                && let Some(group) = Pid::from_raw(*leader)
            {
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
        drop(known);
        tend();
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        Known::lock().homes.remove(&self.0);
    }
}

/// Makes orphans of this program's children its own children.
pub fn adopt_orphans() {
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        warn!("background processes of commands cannot be followed: {error}");
    }
}

/// Waits for a leader that has ended.
pub fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    // Under the lock, so that nobody else's child of the same id is forgotten here.
    let mut known = Known::lock();
    let status = child.wait();
    if let Some(pid) = pid(child)
        && let Some(session) = known.sessions.get_mut(&pid.as_raw_nonzero().get())
    {
        session.led = false;
    }
    status
}

/// The id of a child.
pub fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// Waits for orphans that have ended and kills those whose container has. Gives the number of those
/// that still have to end.
pub fn tend() -> usize {
    let _no_forks = FORKS.write().unwrap_or_else(PoisonError::into_inner);
    let mut known = Known::lock();
    // Without it nobody can tell whose a child is.
    let Some(own) = own_session() else { return 0 };
    let mut inhabited = BTreeSet::new();
    let mut ending = 0;
    for child in children() {
        inhabited.insert(child.session);
        let Some(pid) = Pid::from_raw(child.pid) else { continue };
        if child.session == own || known.is_led(child.pid) {
            continue;
        }
        if child.has_ended {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        } else if known.is_homeless(child.session) {
            ending += 1;
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    known.sessions.retain(|id, session| session.led || inhabited.contains(id));
    ending
}

/// What `/proc` tells of a process.
#[derive(Debug, PartialEq, Eq)]
pub struct Kin {
    pid: RawPid,
    parent: RawPid,
    group: RawPid,
    session: RawPid,
    has_ended: bool,
}

/// The session of this program, as `/proc` tells it: 0 if its leader is outside of the PID
/// namespace. (rustix's `getsid` ends the program in that case.)
fn own_session() -> Option<RawPid> {
    let own = getpid().as_raw_nonzero().get();
    kin(own, &fs::read("/proc/self/stat").ok()?).map(|own| own.session)
}

/// The children of this program. They are what the list says until somebody waits for them.
fn children() -> impl Iterator<Item = Kin> {
    let own = getpid().as_raw_nonzero().get();
    processes().filter(move |process| process.parent == own)
}

/// The groups with a process that has not ended.
pub fn living_groups() -> BTreeSet<RawPid> {
    processes().filter(|process| !process.has_ended).map(|process| process.group).collect()
}

fn processes() -> impl Iterator<Item = Kin> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid: RawPid = entry.file_name().to_str()?.parse().ok()?;
        // It may have ended since the directory was read.
        let stat = fs::read(entry.path().join("stat")).ok()?;
        kin(pid, &stat)
    })
}

/// proc_pid_stat(5): the name is in parentheses, and may hold any.
fn kin(pid: RawPid, stat: &[u8]) -> Option<Kin> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X");
    let mut number = || fields.next()?.parse().ok();
    Some(Kin { pid, parent: number()?, group: number()?, session: number()?, has_ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_the_end() {
        let stat = b"12 (a) Z 1 (b)) S 3 4 5 0 -1 4194304";
        let expected = Kin { pid: 12, parent: 3, group: 4, session: 5, has_ended: false };
        assert_eq!(kin(12, stat), Some(expected));
        assert!(kin(1, b"1 (x) Z 0 1 1 0").is_some_and(|kin| kin.has_ended));
        assert_eq!(kin(1, b"1 (x S 0"), None);
        assert_eq!(kin(1, b"1 (x) S zero 1 1"), None);
    }

    #[test]
    fn this_process_is_found() {
        let own = getpid().as_raw_nonzero().get();
        assert!(processes().any(|process| process.pid == own && !process.has_ended));
    }
}
