//! `-v` of the servers to what they log, on stderr.

use tracing::level_filters::LevelFilter;

use crate::print;

/// Logs sessions and refusals; from `-v=4` on requests and the words of commands, from 6 on
/// everything. Below 0 warnings alone, refusals among them.
pub fn start(verbosity: i32) {
    let level = match verbosity {
        ..0 => LevelFilter::WARN,
        0..4 => LevelFilter::INFO,
        4..6 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    // A second call finds the first one's subscriber in place, and leaves it.
    let _ = tracing_subscriber::fmt()
        .with_writer(|| print::LogWriter)
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        .try_init();
}
