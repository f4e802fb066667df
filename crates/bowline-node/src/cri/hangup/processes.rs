//! A process to its end, and to that of all that belong to it: SIGHUP, and SIGKILL after the grace.
//!
//! What belongs to it are the processes of its session, those whose parent does, and those who did
//! when they were first seen; as a terminal's hang-up has it. What has begun a session of its own
//! and left its parents lives on, as a service that was started on purpose.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::cgroup;
use crate::procfs::{self, Process, ProcessStat};

/// The first pause between two looks at the processes; it doubles.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// How long killed processes may take to go. One that the system waits for cannot.
const KILLED_PATIENCE: Duration = Duration::from_secs(2);

/// The processes that belong to one.
struct Tree<'a> {
    leader: Process,
    container: &'a str,
    known: BTreeSet<Process>,
}

/// How processes were ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cri) enum Ended {
    /// By themselves, or by SIGHUP.
    Asked,
    /// By SIGKILL.
    Killed,
    /// Some are still there.
    NotAll,
}

/// Ends a process of a container and all that belong to it.
pub(in crate::cri) async fn end(
    leader: Process,
    container: &str,
    grace: Duration,
    kill_now: &CancellationToken,
) -> Ended {
    let mut tree = Tree { leader, container, known: BTreeSet::new() };
    let asked = Instant::now() + grace;
    let ended = tree.signal_until_gone(Signal::HUP, asked);
    let is_gone = tokio::select! {
        is_gone = ended => is_gone,
        () = kill_now.cancelled() => false,
    };
    if is_gone {
        return Ended::Asked;
    }
    let killed = Instant::now() + KILLED_PATIENCE;
    if tree.signal_until_gone(Signal::KILL, killed).await { Ended::Killed } else { Ended::NotAll }
}

impl Tree<'_> {
    /// Sends a signal to all processes that belong to it, once to each, and waits until they have
    /// gone, or until `deadline`.
    async fn signal_until_gone(&mut self, signal: Signal, deadline: Instant) -> bool {
        let mut signalled = BTreeSet::new();
        let mut pause = SHORTEST_PAUSE;
        loop {
            let is_last = Instant::now() >= deadline;
            // What cannot be looked at may still be there.
            if let Some(processes) = procfs::snapshot().await {
                let living = self.living(&processes);
                if living.is_empty() {
                    return true;
                }
                for process in living {
                    if signalled.insert(process) {
                        send(process, signal);
                    }
                }
            }
            if is_last {
                return false;
            }
            sleep_until(deadline.min(Instant::now() + pause)).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Finds the processes that belong to it and have not ended. None is of another container.
    fn living(&mut self, processes: &[ProcessStat]) -> Vec<Process> {
        let mut found = self.family(processes);
        let is_inside = |process: &Process| {
            self.known.contains(process) || cgroup::is_in(process.pid, self.container)
        };
        found.retain(is_inside);
        self.known = found.clone();
        found.into_iter().collect()
    }

    fn family(&self, processes: &[ProcessStat]) -> BTreeSet<Process> {
        let leader = self.leader.pid;
        // The id of a session is not given again while it has processes. If a process has it that
        // is not the leader, the session had none any more.
        let is_other = |stat: &&ProcessStat| stat.pid == leader && stat.id() != self.leader;
        let has_session = !processes.iter().any(|stat| is_other(&stat));
        let living = || processes.iter().filter(|stat| !stat.has_ended);
        let mut found = BTreeSet::new();
        for stat in living() {
            let is_in_session = has_session && stat.session == leader;
            if stat.id() == self.leader || is_in_session || self.known.contains(&stat.id()) {
                found.insert(stat.id());
            }
        }
        // Children of those, and theirs.
        loop {
            let parents: BTreeSet<_> = found.iter().map(|process| process.pid).collect();
            let children = living().filter(|stat| parents.contains(&stat.parent));
            let before = found.len();
            found.extend(children.map(ProcessStat::id));
            if found.len() == before {
                break;
            }
        }
        found
    }
}

/// Sends a signal to this process, and to no other that has got its id.
fn send(process: Process, signal: Signal) {
    let Some(pid) = Pid::from_raw(process.pid) else { return };
    let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    // The descriptor names one process; is it still this one?
    if procfs::process(process.pid).is_some_and(|stat| stat.id() == process) {
        let _ = pidfd_send_signal(held, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(pid: i32, parent: i32, session: i32) -> ProcessStat {
        procfs::tests::stat(pid, parent, session)
    }

    #[test]
    fn its_session_its_descendants_and_no_others_belong_to_it() {
        let mut processes = vec![
            stat(10, 1, 10),
            stat(11, 10, 10),
            // It has begun a session, but its parent is there.
            stat(12, 11, 12),
            stat(13, 12, 12),
            // Its parent has gone, but it is in the session.
            stat(14, 1, 10),
            // A service that has left both.
            stat(15, 1, 15),
            stat(16, 1, 1),
        ];
        let leader = processes[0].id();
        let mut tree = Tree { leader, container: "", known: BTreeSet::new() };
        let pids = |found: &BTreeSet<Process>| found.iter().map(|one| one.pid).collect::<Vec<_>>();
        assert_eq!(pids(&tree.family(&processes)), [10, 11, 12, 13, 14]);
        // One that was known stays, wherever it goes.
        tree.known = tree.family(&processes);
        processes.retain(|stat| !matches!(stat.pid, 10..=12));
        assert_eq!(pids(&tree.family(&processes)), [13, 14]);
        // Another process with the leader's id has begun a session of its own.
        tree.known.clear();
        let mut other = stat(10, 1, 10);
        other.started_ticks = 8;
        processes.push(other);
        processes.push(stat(17, 10, 10));
        assert!(tree.family(&processes).is_empty());
    }
}
