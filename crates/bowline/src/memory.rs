//! Memory of ended sessions, back to the system.
//! Above: `servers`. Below: the C library's allocator.

use std::time::Duration;

use bowline_io::serve::Sessions;
use tokio::time::{MissedTickBehavior, interval};

/// Longer than a burst of sessions; shorter than anybody waits who looks at a server's memory.
const EVERY: Duration = Duration::from_secs(10);

/// Runs as long as the server. The C library gives free memory back from the top of a heap alone:
/// one living object there keeps what thousands of ended sessions have used.
pub async fn give_back(sessions: &Sessions) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = sessions.ended();
    loop {
        ticks.tick().await;
        let ended = sessions.ended();
        if ended != before {
            before = ended;
            // It walks all that is free, which takes milliseconds after thousands of sessions.
            let _ = tokio::task::spawn_blocking(trim).await;
        }
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn trim() {
    // SAFETY: it has no precondition, and locks what other threads may use.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators decide by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}
