//! Many questions whether a process group lives, to few readings of `/proc`.
//!
//! A reading costs as much as there are processes. If each of the sessions that end together made
//! its own, the cost would grow with the square of their number.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Pid, RawPid};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use crate::family;

/// The one that all leaders of this program ask.
static CENSUS: Census = Census::new();

/// Whether any process of `group` has not ended, as of a moment after this was called.
pub async fn is_alive(group: Pid) -> bool {
    CENSUS.is_alive(group).await
}

#[derive(Debug)]
struct Census {
    /// Readings that were begun.
    begun: AtomicU64,
    latest: Mutex<Reading>,
}

#[derive(Debug)]
struct Reading {
    /// Which it was, from 1.
    number: u64,
    living: BTreeSet<RawPid>,
}

impl Census {
    const fn new() -> Census {
        let latest = Reading { number: 0, living: BTreeSet::new() };
        Census { begun: AtomicU64::new(0), latest: Mutex::const_new(latest) }
    }

    async fn is_alive(&self, group: Pid) -> bool {
        // Only a reading that begins after the question answers it.
        let asked = self.begun.load(Ordering::SeqCst);
        let mut latest = self.latest.lock().await;
        if latest.number <= asked {
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            // A reading that fails tells nothing: all count as alive, until the next.
            #[expect(clippy::disallowed_methods, reason = "it is waited for")]
            let Ok(living) = spawn_blocking(family::living_groups).await else { return true };
            *latest = Reading { number, living };
        }
        latest.living.contains(&group.as_raw_nonzero().get())
    }
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
    async fn those_who_ask_together_share_a_reading() {
        static SHARED: Census = Census::new();
        let living = Living::start();
        let mut asking = JoinSet::new();
        for _ in 0..100 {
            asking.spawn(SHARED.is_alive(living.group()));
        }
        assert!(asking.join_all().await.into_iter().all(|alive| alive));
        let readings = SHARED.begun.load(Ordering::SeqCst);
        assert!(readings <= 2, "{readings} readings");
    }

    #[tokio::test]
    async fn who_asks_later_gets_a_later_reading() {
        let census = Census::new();
        let living = Living::start();
        let group = living.group();
        for number in 1..=3 {
            assert!(census.is_alive(group).await);
            assert_eq!(census.begun.load(Ordering::SeqCst), number);
        }
        drop(living);
        assert!(!census.is_alive(group).await);
    }
}
