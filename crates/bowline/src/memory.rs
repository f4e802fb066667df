//! Settings of the C library's allocator: a server returns the memory of ended sessions to the
//! system, and a copy keeps its buffers' memory.
#![allow(unsafe_code, reason = "the C library's allocator")]

use std::time::Duration;

use bowline_io::serve::Sessions;
use tokio::time::{MissedTickBehavior, interval};

/// The time between two trims: longer than a burst of sessions, and short for an operator.
const EVERY: Duration = Duration::from_secs(10);

/// Makes the allocator keep freed memory. All bytes of a copy pass through short-lived buffers, and
/// to return and request their memory each time costs a fifth of the copy's time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn retain_freed() {
    const KEPT_BYTES: libc::c_int = 32 * 1024 * 1024;
    for setting in [libc::M_TRIM_THRESHOLD, libc::M_MMAP_THRESHOLD] {
        // SAFETY: it sets a number of the allocator's, which takes any.
        unsafe { libc::mallopt(setting, KEPT_BYTES) };
    }
}

/// Does nothing: only glibc has these settings.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn retain_freed() {}

/// Trims the heap after sessions have ended, for as long as the server runs. The C library returns
/// only memory from the top of a heap, where one live object holds what thousands of ended sessions
/// have used.
pub async fn trim_after_sessions(sessions: &Sessions) {
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

/// Does nothing: only glibc can be told to trim its heap.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}
