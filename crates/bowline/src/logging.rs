//! `-v` of the servers to what they log, on stderr.
//! Above: `node`, `gateway`, `dev`. Below: tracing.

use tracing::level_filters::LevelFilter;

use crate::say;

/// Logs warnings, from `-v=2` on sessions, from 4 on requests, from 6 on everything.
pub fn start(verbosity: i32) {
    let level = match verbosity {
        ..2 => LevelFilter::WARN,
        2..4 => LevelFilter::INFO,
        4..6 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    // A second call finds the first one's subscriber in place, and leaves it.
    let _ = tracing_subscriber::fmt()
        .with_writer(|| say::Log)
        .with_max_level(level)
        .with_target(false)
        .try_init();
}
