//! `-v` of the servers to what they log, on stderr.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::print;

/// The libraries that speak HTTP. What they log of each frame is for whoever works on them.
const HTTP: [&str; 4] = ["h2", "hyper", "hyper_util", "tower"];

/// Logs sessions and refusals; from `-v=4` on requests and the words of commands, from 6 on
/// everything of this program. Below 0 warnings alone, refusals among them.
pub fn start(verbosity: i32) {
    let level = match verbosity {
        ..0 => LevelFilter::WARN,
        0..4 => LevelFilter::INFO,
        4..6 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let quiet = HTTP.map(|library| (library, LevelFilter::WARN));
    let which = Targets::new().with_default(level).with_targets(quiet);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| print::LogWriter)
        .with_target(false)
        .with_ansi(false)
        .with_filter(which);
    // A second call finds the first one's subscriber in place, and leaves it.
    let _ = tracing_subscriber::registry().with(lines).try_init();
}
