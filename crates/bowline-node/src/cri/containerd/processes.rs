//! The processes of a command, as this host's `/proc` has them.
//!
//! runc begins a session for each command, so that they are those of one session, until one of them
//! begins another on purpose. A session's id names no other one as long as any of its processes
//! lives; where none does, only one in the same container could be mistaken for it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;

use crate::cri::endpoint::Endpoint;

/// Returns whether the process at the other end of a socket has the same PID namespace as this
/// program and its `/proc`.
pub(super) async fn has_same_ids(endpoint: &Endpoint) -> bool {
    let Ok(stream) = UnixStream::connect(endpoint.path()).await else { return false };
    let Some(peer) = stream.peer_cred().ok().and_then(|peer| peer.pid()) else { return false };
    // A `/proc` of another namespace has other names for this program as well.
    let own = fs::read_link("/proc/self").is_ok_and(|own| own.as_os_str() == id(getpid()).as_str());
    own && namespace("self").is_some_and(|own| namespace(&peer.to_string()) == Some(own))
}

fn namespace(process: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/pid")).ok()
}

fn id(pid: Pid) -> String {
    pid.as_raw_nonzero().to_string()
}

/// The processes of one command.
#[derive(Clone, Debug)]
pub(super) struct Processes {
    /// The session's id: that of its first process.
    session: i32,
    /// Where they are: whatever else may come to have that id is elsewhere.
    place: Place,
}

/// What `/proc` says of where a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    namespace: PathBuf,
    cgroup: Vec<u8>,
}

impl Place {
    fn of(process: &str) -> Option<Place> {
        let cgroup = fs::read(format!("/proc/{process}/cgroup")).ok()?;
        Some(Place { namespace: namespace(process)?, cgroup })
    }
}

impl Processes {
    /// Finds them by the first one, which may have ended, and the container's main one.
    pub(super) fn of(first: u32, main: u32) -> Option<Processes> {
        let place = Place::of(&main.to_string())?;
        Some(Processes { session: i32::try_from(first).ok()?, place })
    }

    /// Sends a signal to all that live; returns how many there are.
    pub(super) async fn signal(&self, signal: Option<Signal>) -> usize {
        let processes = self.clone();
        #[expect(clippy::disallowed_methods, reason = "it is waited for")]
        let signalled = spawn_blocking(move || processes.signal_all(signal)).await;
        signalled.unwrap_or_default()
    }

    fn signal_all(&self, signal: Option<Signal>) -> usize {
        let mut found = BTreeSet::new();
        // One that was started meanwhile is found by another look.
        loop {
            let before = found.len();
            for name in names() {
                if found.contains(&name) || !self.contains(&name) {
                    continue;
                }
                if let Some(signal) = signal {
                    self.signal_one(&name, signal);
                }
                found.insert(name);
            }
            if signal.is_none() || found.len() == before {
                return found.len();
            }
        }
    }

    fn signal_one(&self, name: &str, signal: Signal) {
        let pid = name.parse().ok().and_then(Pid::from_raw);
        let Some(pidfd) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
            return;
        };
        // What the descriptor is of cannot become another one from here on.
        if self.contains(name) {
            let _ = pidfd_send_signal(&pidfd, signal);
        }
    }

    fn contains(&self, name: &str) -> bool {
        stat(name).is_some_and(|stat| stat.session == self.session && !stat.has_ended)
            && Place::of(name).as_ref() == Some(&self.place)
    }
}

fn names() -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.starts_with(|first: char| first.is_ascii_digit()).then_some(name)
    })
}

struct Stat {
    session: i32,
    has_ended: bool,
}

/// Reads a line of proc_pid_stat(5): the name is in parentheses, and may hold parentheses itself.
fn stat(name: &str) -> Option<Stat> {
    let stat = fs::read(format!("/proc/{name}/stat")).ok()?;
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X");
    // The parent's id and the group's stand before the session's.
    Some(Stat { session: fields.nth(2)?.parse().ok()?, has_ended })
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell in a session of its own, with a child, both of which live.
    fn session() -> Child {
        let mut command = Command::new("setsid");
        // It says something once it has a child.
        command.args(["sh", "-c", "sleep 1000 & echo; wait"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
        child
    }

    #[tokio::test]
    async fn all_of_a_session_are_signalled_and_no_others() {
        let (mut one, mut other) = (session(), session());
        let main = std::process::id();
        let [ours, others] = [&one, &other].map(|child| Processes::of(child.id(), main).unwrap());
        assert_eq!((ours.signal(None).await, others.signal(None).await), (2, 2));
        ours.signal(Some(Signal::KILL)).await;
        one.wait().unwrap();
        // The child is another's to wait for, and may take a moment to be gone.
        while ours.signal(None).await > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(others.signal(None).await, 2);
        others.signal(Some(Signal::KILL)).await;
        other.wait().unwrap();
    }

    #[tokio::test]
    async fn a_process_that_is_elsewhere_is_none_of_a_containers() {
        let mut child = session();
        let mut elsewhere = Processes::of(child.id(), std::process::id()).unwrap();
        elsewhere.place.cgroup.extend(b"x");
        assert_eq!(elsewhere.signal(Some(Signal::KILL)).await, 0);
        let here = Processes::of(child.id(), std::process::id()).unwrap();
        assert_eq!(here.signal(Some(Signal::KILL)).await, 2);
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn ids_are_the_same_for_a_socket_of_this_program() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let endpoint = Endpoint::parse(path.to_str().unwrap()).unwrap();
        assert!(!has_same_ids(&endpoint).await);
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(has_same_ids(&endpoint).await);
    }
}
