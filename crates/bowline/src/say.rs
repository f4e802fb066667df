//! Lines to this program's own stderr and stdout. All that it says goes through here, and nothing
//! in it gives orders to a terminal, whoever wrote it: names, phases, reasons, whole answers.
//!
//! What is not said but passed on is not here: the output of a remote command, a shell's completion
//! script, the progress bar. `crates/clippy.toml` forbids every other way to stderr and stdout.

use std::fmt::Display;
use std::io::{self, Write};

use bowline_io::text::sanitized;

/// The longest line: a message of 32 KiB with all that is said around it.
const LINE_BYTES: usize = 64 * 1024;

/// One line on stderr. Line ends inside become blanks; if nobody reads there, so be it.
#[expect(clippy::disallowed_methods, reason = "the one way to stderr")]
pub fn line(text: impl Display) {
    let _ = io::stderr().write_all(shown(text, LINE_BYTES).as_bytes());
}

/// One line on stderr, of any length: what somebody asked to see all of.
#[expect(clippy::disallowed_methods, reason = "the one way to stderr")]
pub fn long_line(text: impl Display) {
    let _ = io::stderr().write_all(shown(text, usize::MAX).as_bytes());
}

/// One line on stdout, for those who read it; if nobody does, the rest is of use without.
#[expect(clippy::disallowed_methods, reason = "the one way to stdout")]
pub fn notice(text: impl Display) {
    let _ = io::stdout().write_all(shown(text, LINE_BYTES).as_bytes());
}

/// Text of our own on stdout, as it is: help, a version, a script.
///
/// # Errors
/// What the system says.
#[expect(clippy::disallowed_methods, reason = "the one way to stdout")]
pub fn own(text: &[u8]) -> io::Result<()> {
    io::stdout().write_all(text)
}

fn shown(text: impl Display, bytes: usize) -> String {
    let text = text.to_string();
    format!("{}\n", sanitized(text.strip_suffix('\n').unwrap_or(&text), bytes))
}

/// The log's way to stderr: each write is one event.
#[derive(Debug)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        line(String::from_utf8_lossy(event));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_and_gives_no_orders() {
        assert_eq!(shown("plain", 100), "plain\n");
        assert_eq!(shown("plain\n", 100), "plain\n");
        let forged = "a\n\u{1b}]0;title\u{7}error: forged\r\u{9b}2J\u{202e}";
        let sanitized = "a \u{fffd}]0;title\u{fffd}error: forged \u{fffd}2J\u{fffd}\n";
        assert_eq!(shown(forged, 100), sanitized);
        assert_eq!(shown("too long", 6), "too…\n");
    }
}
