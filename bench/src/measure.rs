//! What the kernel says that a process has used; medians; progress.
#![expect(unsafe_code, reason = "the kernel's account of children that have ended")]

use std::fs;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time of all its threads that live, to the nanosecond. Threads that ended in between are
/// missing, which the parts that are measured here have none of.
pub fn cpu(process: u32) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        // Fields: time on a CPU, time waiting for one, slices.
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let first = text.split_whitespace().next().and_then(|field| field.parse().ok());
        total += Duration::from_nanos(first.context("schedstat begins with a number")?);
    }
    Ok(total)
}

/// The middle one; of an even number, the upper of both.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// CPU time of all children that have ended and were waited for.
pub fn cpu_of_ended() -> Duration {
    // SAFETY: a struct of integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a struct of ours.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    let of = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs())
            + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// A field of `/proc/PROCESS/status` in KiB, as `VmRSS`.
pub fn kib(process: u32, field: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{field} of process {process}"))
}

/// Says on a terminal how far it is.
pub fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K{text}");
    }
}
