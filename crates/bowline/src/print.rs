//! Messages to lines on stderr and stdout, without what a terminal would take for a command: names,
//! phases, reasons and whole answers may come from anybody.
//!
//! The output of a remote command and the progress bar do not pass here. `crates/clippy.toml`
//! forbids every other way to stderr and stdout.

use std::fmt::Display;
use std::io::{self, Write};

use bowline_io::text::sanitized;

/// The longest line in bytes: a message of 32 KiB with the text around it.
const LINE_BYTES: usize = 64 * 1024;

/// Prints a line on stderr. Line ends inside become blanks, and errors are ignored.
#[expect(clippy::disallowed_methods, reason = "the one way to stderr")]
pub fn line(text: impl Display) {
    let _ = io::stderr().write_all(shown(text, LINE_BYTES).as_bytes());
}

/// Prints a line of any length on stderr.
#[expect(clippy::disallowed_methods, reason = "the one way to stderr")]
pub fn long_line(text: impl Display) {
    let _ = io::stderr().write_all(shown(text, usize::MAX).as_bytes());
}

/// Prints a line on stdout. Errors are ignored: the command is of use without it.
#[expect(clippy::disallowed_methods, reason = "the one way to stdout")]
pub fn notice(text: impl Display) {
    let _ = io::stdout().write_all(shown(text, LINE_BYTES).as_bytes());
}

/// Prints text of the program's own on stdout, unchanged: help, a version, a script.
///
/// # Errors
/// The system's error, if stdout cannot be written to.
#[expect(clippy::disallowed_methods, reason = "the one way to stdout")]
pub fn raw(text: &[u8]) -> io::Result<()> {
    io::stdout().write_all(text)
}

fn shown(text: impl Display, bytes: usize) -> String {
    let text = text.to_string();
    format!("{}\n", sanitized(text.strip_suffix('\n').unwrap_or(&text), bytes))
}

/// The writer of the log, which prints each write as a line on stderr.
#[derive(Debug)]
pub struct LogWriter;

impl Write for LogWriter {
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
