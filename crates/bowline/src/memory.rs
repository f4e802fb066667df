//! Memory that is no longer used, back to the system: of a server's ended sessions, of a client's
//! start. And memory that is used again at once, not.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use bowline_io::serve::Sessions;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Longer than a burst of sessions; shorter than anybody waits who looks at a server's memory.
const EVERY: Duration = Duration::from_secs(10);

/// A client that lives so long is likely to wait for somebody, with many others beside it.
const STARTED: Duration = Duration::from_secs(1);

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

/// Unmaps what a client has read of its program to get to its session: arguments, kubeconfig, TLS
/// handshake. It is most of its memory, and none of it runs again before the end. What does is
/// mapped again by itself.
pub async fn forget_the_start() -> Infallible {
    sleep(STARTED).await;
    unmap_code();
    pending().await
}

#[cfg(target_os = "linux")]
fn unmap_code() {
    // SAFETY: `unmap_object` may be called with any object that is loaded, and unwinds never.
    unsafe { libc::dl_iterate_phdr(Some(unmap_object), std::ptr::null_mut()) };
}

/// Unmaps what is not writable of one loaded object, so that nothing there differs from its file.
#[cfg(target_os = "linux")]
unsafe extern "C" fn unmap_object(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: this has no precondition.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(1 << 16);
    // SAFETY: the loader gives a pointer to what it knows of the object, and to all its segments.
    let (base, segments) = unsafe {
        let object = &*object;
        let count = usize::from(object.dlpi_phnum);
        (object.dlpi_addr as usize, std::slice::from_raw_parts(object.dlpi_phdr, count))
    };
    for segment in segments {
        if segment.p_type != libc::PT_LOAD || segment.p_flags & libc::PF_W != 0 {
            continue;
        }
        // A page that is only partly this segment's is left alone.
        let begin = (base + segment.p_vaddr as usize).next_multiple_of(page);
        let end = (base + segment.p_vaddr as usize + segment.p_memsz as usize) / page * page;
        if begin < end {
            // SAFETY: these pages are a private mapping of a file that was never written to, and
            // are read from that file again when they are touched.
            unsafe { libc::madvise(begin as *mut _, end - begin, libc::MADV_DONTNEED) };
        }
    }
    0
}

/// Elsewhere it is left to the system.
#[cfg(not(target_os = "linux"))]
fn unmap_code() {}

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
