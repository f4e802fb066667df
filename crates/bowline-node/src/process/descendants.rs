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
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use rustix::process::{
    Pid, RawPid, Signal, WaitOptions, getpid, kill_process, kill_process_group,
    set_child_subreaper, waitpid,
};
use tracing::warn;

use crate::procfs::{children, own_session};

/// Held for reading from fork until the child is known here, and for writing by who looks for
/// orphans: a child that is not known yet looks like one.
static FORKS: RwLock<()> = RwLock::new(());
static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { containers: BTreeSet::new(), sessions: BTreeMap::new() });
static NEXT_CONTAINER: AtomicU64 = AtomicU64::new(0);

/// Whose children are whose.
#[derive(Debug)]
struct Registry {
    /// The containers that live.
    containers: BTreeSet<u64>,
    /// Sessions that commands began, by the id of their leader.
    sessions: BTreeMap<RawPid, Session>,
}

#[derive(Debug)]
struct Session {
    container: u64,
    /// Its leader was not waited for: the id names no other process yet, and the leader is no
    /// orphan.
    has_leader: bool,
}

impl Registry {
    fn lock() -> MutexGuard<'static, Registry> {
        REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_leader(&self, process: RawPid) -> bool {
        self.sessions.get(&process).is_some_and(|session| session.has_leader)
    }

    fn is_orphaned(&self, session: RawPid) -> bool {
        match self.sessions.get(&session) {
            Some(session) => !self.containers.contains(&session.container),
            None => self.containers.is_empty(),
        }
    }

    fn belongs_to(&self, session: RawPid, container: u64) -> bool {
        self.sessions.get(&session).is_some_and(|session| session.container == container)
    }
}

/// The processes of a container that lives.
#[derive(Debug)]
pub(super) struct ContainerProcesses(u64);

impl ContainerProcesses {
    /// Registers a new container.
    pub(super) fn new() -> ContainerProcesses {
        let id = NEXT_CONTAINER.fetch_add(1, Ordering::Relaxed);
        Registry::lock().containers.insert(id);
        ContainerProcesses(id)
    }

    /// Starts a command that begins a session of its own. One that is started after [`Self::end`]
    /// is killed at once.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let _forking = FORKS.read().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        let mut registry = Registry::lock();
        if let Some(pid) = pid(&child) {
            registry.sessions.insert(
                pid.as_raw_nonzero().get(),
                Session { container: self.0, has_leader: true },
            );
            if !registry.containers.contains(&self.0) {
                let _ = kill_process_group(pid, Signal::KILL);
            }
        }
        Ok(child)
    }

    /// Sends SIGTERM to all orphans of this container.
    pub(super) fn terminate_orphans(&self) {
        let registry = Registry::lock();
        for child in children() {
            let orphan =
                !registry.is_leader(child.pid) && registry.belongs_to(child.session, self.0);
            if orphan && let Some(pid) = Pid::from_raw(child.pid) {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
    }

    /// Kills all processes of this container, as the end of a container's first process does.
    pub(super) fn end(&self) {
        let mut registry = Registry::lock();
        registry.containers.remove(&self.0);
        for (leader, session) in &registry.sessions {
            if session.container == self.0
                && session.has_leader
                && let Some(group) = Pid::from_raw(*leader)
            {
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
        drop(registry);
        reap_orphans();
    }
}

impl Drop for ContainerProcesses {
    fn drop(&mut self) {
        Registry::lock().containers.remove(&self.0);
    }
}

/// Makes orphans of this program's children its own children.
pub(super) fn adopt_orphans() {
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        warn!("background processes of commands cannot be followed: {error}");
    }
}

/// Waits for the leader of a session, which has ended.
pub(super) fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    // Under the lock, so that nobody else's child of the same id is forgotten here.
    let mut registry = Registry::lock();
    let status = child.wait();
    if let Some(pid) = pid(child)
        && let Some(session) = registry.sessions.get_mut(&pid.as_raw_nonzero().get())
    {
        session.has_leader = false;
    }
    status
}

/// Returns the id of a child.
pub(super) fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// Waits for orphans that have ended and kills those whose container has ended. Returns how many
/// still have to end.
pub(super) fn reap_orphans() -> usize {
    let _no_forks = FORKS.write().unwrap_or_else(PoisonError::into_inner);
    let mut registry = Registry::lock();
    // Without it nobody can tell whose a child is.
    let Some(own) = own_session() else { return 0 };
    let mut living = BTreeSet::new();
    let mut ending = 0;
    for child in children() {
        living.insert(child.session);
        let Some(pid) = Pid::from_raw(child.pid) else { continue };
        if child.session == own || registry.is_leader(child.pid) {
            continue;
        }
        if child.has_ended {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        } else if registry.is_orphaned(child.session) {
            ending += 1;
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    registry.sessions.retain(|id, session| session.has_leader || living.contains(id));
    ending
}
