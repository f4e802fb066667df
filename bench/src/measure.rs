//! What the kernel says that a process has used.
//! Above: the benchmarks. Below: `/proc`.

use std::fs;
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
