//! Memory of a server's ended sessions back to the system; and memory that is used again at once,
//! not.
#![allow(unsafe_code, reason = "the C library's allocator")]

use std::time::Duration;

use bowline_io::serve::Sessions;
use tokio::time::{MissedTickBehavior, interval};

/// Longer than a burst of sessions; shorter than anybody waits who looks at a server's memory.
const EVERY: Duration = Duration::from_secs(10);

/// Keeps what was freed: through a copy's buffers flow all of its bytes, and to give their memory
/// back each time and to get it anew costs a fifth of the copy.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_what_flows() {
    const KEPT_BYTES: libc::c_int = 32 * 1024 * 1024;
    for setting in [libc::M_TRIM_THRESHOLD, libc::M_MMAP_THRESHOLD] {
        // SAFETY: it sets a number of the allocator's, which takes any.
        unsafe { libc::mallopt(setting, KEPT_BYTES) };
    }
}

/// Other allocators have their own ways.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_what_flows() {}

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
            #[expect(clippy::disallowed_methods, reason = "it is waited for")]
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
