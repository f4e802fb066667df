//! A copy's progress to a bar, to lines, or to problems alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bowline_archive::Problem;
use bowline_client::copy::Watcher;
use bowline_io::text::sanitized;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::termios::isatty;
use tokio::time::Instant;

use crate::args::cp::Progress;
use crate::print;

/// The time between two lines of `--progress plain`.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// The most bytes of a name that are shown beside a bar.
const NAME_BYTES: usize = 40;
/// The most bytes of one text from a container that are shown.
const TEXT_BYTES: usize = 4096;

/// Displays the progress of a copy.
pub struct ProgressDisplay {
    bar: Option<ProgressBar>,
    plain: bool,
    bytes: AtomicU64,
    state: Mutex<State>,
}

struct State {
    total: Option<u64>,
    name: String,
    latest: Instant,
}

impl ProgressDisplay {
    /// Creates a display of the requested kind.
    pub fn new(how: Progress) -> ProgressDisplay {
        let bar = (how == Progress::Auto && isatty(rustix::stdio::stderr())).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style(false));
            bar
        });
        let state = State { total: None, name: String::new(), latest: Instant::now() };
        ProgressDisplay {
            bar,
            plain: how == Progress::Plain,
            bytes: AtomicU64::new(0),
            state: Mutex::new(state),
        }
    }

    /// Removes the bar, or prints the last line.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.plain {
            self.line();
        }
    }

    fn line(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = HumanBytes(self.bytes.load(Ordering::Relaxed));
        let of = state.total.map_or(String::new(), |total| format!(" of {}", HumanBytes(total)));
        print::line(format_args!("{bytes}{of} {}", state.name));
    }

    /// Prints a line, above the bar if there is one.
    fn tell(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| print::line(line)),
            None => print::line(line),
        }
    }
}

fn style(total: bool) -> ProgressStyle {
    let template = if total {
        "{bar:24} {bytes:>10} of {total_bytes}  {binary_bytes_per_sec}  {eta} left  {wide_msg}"
    } else {
        "{spinner} {bytes:>10}  {binary_bytes_per_sec}  {elapsed}  {wide_msg}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Watcher for ProgressDisplay {
    fn total(&self, bytes: Option<u64>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).total = bytes;
        if let Some(bar) = &self.bar {
            bar.set_style(style(bytes.is_some()));
            match bytes {
                Some(bytes) => bar.set_length(bytes),
                None => bar.unset_length(),
            }
        }
    }

    fn file(&self, name: &[u8]) {
        if self.bar.is_none() && !self.plain {
            return;
        }
        let name = String::from_utf8_lossy(name);
        let name = sanitized(&name, NAME_BYTES).into_owned();
        if let Some(bar) = &self.bar {
            bar.set_message(name.clone());
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).name = name;
    }

    fn bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.inc(count);
        }
        if self.plain {
            let due = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let due = state.latest.elapsed() >= LINE_EVERY;
                if due {
                    state.latest = Instant::now();
                }
                due
            };
            if due {
                self.line();
            }
        }
    }

    fn position(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    fn problem(&self, problem: &Problem) {
        let kind = if problem.is_failure { "error" } else { "warning" };
        self.tell(&format!("{kind}: {}", sanitized(&problem.text, TEXT_BYTES)));
    }

    fn stderr_line(&self, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        for line in text.lines().filter(|line| !line.is_empty()) {
            self.tell(&sanitized(line, TEXT_BYTES));
        }
    }

    fn resumes(&self, bytes: u64, retry: u64, why: &str) {
        let why = sanitized(why, TEXT_BYTES);
        self.tell(&format!("Resuming copy at {bytes} bytes, retry {retry}: {why}"));
    }

    fn note(&self, text: &str) {
        self.tell(&sanitized(text, TEXT_BYTES));
    }
}
