//! A command's result to the last lines on stderr and the exit code. All exit codes are here.

use std::fmt::Display;

use bowline_client::{Cause, EndError, Ended, Error, Outcome};
use bowline_kube::target::TargetError;

use bowline_io::text::{go_error, sanitized};

use crate::args::suggestions::suggestions;
use crate::args::{BadUsage, COMMANDS, Hint, Refusal};
use crate::remote::Failure;

/// The exit code of refusals and usage errors: kubectl's for all that is not the command's own.
pub const REFUSED: u8 = 1;
/// The exit code when the outcome is not known.
pub const LOST: u8 = 255;

/// The most bytes of a runtime's message that are shown: more than any runtime sends.
const MESSAGE_BYTES: usize = 8192;

/// How the program exits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code.
    pub code: u8,
    /// The last lines on stderr; none on success.
    pub lines: Vec<String>,
}

impl Exit {
    /// Returns the exit of a success.
    pub fn success() -> Exit {
        Exit::silent(0)
    }

    /// Returns an exit with a code and without a line.
    pub fn silent(code: u8) -> Exit {
        Exit { code, lines: Vec::new() }
    }

    /// Returns the exit of a refusal, with the line `error: ` and the text.
    pub fn refused(error: impl Display) -> Exit {
        Exit { code: REFUSED, lines: vec![format!("error: {error}")] }
    }

    /// Returns the exit of a refusal whose text is the whole line.
    pub fn line(error: impl Display) -> Exit {
        Exit { code: REFUSED, lines: vec![error.to_string()] }
    }

    /// Splits texts with line ends into lines. Only for texts that are the program's own.
    #[must_use]
    pub fn with_its_lines(self) -> Exit {
        let lines = self.lines.iter().flat_map(|text| text.lines()).map(ToOwned::to_owned);
        Exit { code: self.code, lines: lines.collect() }
    }
}

impl From<TargetError> for Exit {
    fn from(error: TargetError) -> Exit {
        match error {
            TargetError::Api(error) => Exit::line(error),
            error => Exit::refused(error),
        }
    }
}

/// Returns the exit of a usage error. `program` is the name that the program was called by.
pub fn of_usage(refusal: &Refusal, program: &str) -> Exit {
    let called = format!("{program} {}", refusal.command.name);
    let called = called.trim_end();
    let error = &refusal.usage;
    let hint = match error.hint() {
        Hint::None => None,
        Hint::Commands => return of_command(error, program),
        Hint::Usage => Some(format!("See '{called} --help' for usage.")),
        Hint::HelpAndExamples => Some(format!("See '{called} -h' for help and examples")),
    };
    let mut end = Exit::refused(error);
    end.lines.extend(hint);
    end
}

fn of_command(error: &BadUsage, program: &str) -> Exit {
    let mut end = Exit::refused(format_args!("{error} for {program:?}"));
    let BadUsage::Command(word) = error else { return end };
    let suggested = suggestions(word, COMMANDS.iter().map(|command| command.name));
    if !suggested.is_empty() {
        end.lines.extend([String::new(), "Did you mean this?".to_owned()]);
        end.lines.extend(suggested.iter().map(|name| format!("  {name}")));
    }
    end
}

/// Returns the exit of an exec. `server` is the API server's address.
pub fn of_exec(result: Result<Ended, Failure>, server: &str) -> Exit {
    of_session(result, server, lost_command)
}

/// Returns the exit of an attach. `server` is the API server's address.
pub fn of_attach(result: Result<Ended, Failure>, server: &str) -> Exit {
    of_session(result, server, lost_session)
}

/// A function from the reason of a loss to the text about it.
type Lost = fn(&dyn Display) -> String;

fn of_session(result: Result<Ended, Failure>, server: &str, words: Lost) -> Exit {
    let result = match result {
        Ok(ended) => ended.known(),
        Err(Failure::Local(end)) => return end,
        Err(Failure::Session(error)) => Err(error),
    };
    match result {
        Ok(Outcome::Success) => Exit::success(),
        Ok(Outcome::Exited(code)) => {
            Exit { code, lines: vec![format!("command terminated with exit code {code}")] }
        }
        Ok(Outcome::Failed { message, .. }) => Exit::refused(sanitized(&message, MESSAGE_BYTES)),
        Err(Error::Lost { loss, received_bytes, .. }) => {
            let hop = match loss.cause {
                Cause::Cut | Cause::Silent => "on the way to",
                _ => "at or behind",
            };
            lost(
                words,
                format_args!("{loss} ({hop} {server}) after {received_bytes} bytes of output"),
            )
        }
        Err(Error::End(EndError::Write(name, error))) => {
            lost(words, format_args!("write {name}: {}", go_error(&error)))
        }
        Err(Error::End(EndError::Read(error))) => {
            lost(words, format_args!("read stdin: {}", go_error(&error)))
        }
        Err(error) => Exit::refused(error),
    }
}

/// Returns the text about a lost exec, whose command's outcome is unknown.
fn lost_command(what: &dyn Display) -> String {
    format!("the command's outcome is unknown: {what}; the command may still be running")
}

/// Returns the text about a lost attach, whose container goes on.
fn lost_session(what: &dyn Display) -> String {
    format!("the session was lost: {what}; the container goes on without it")
}

fn lost(words: Lost, what: impl Display) -> Exit {
    Exit { code: LOST, lines: vec![format!("error: {}", words(&what))] }
}

#[cfg(test)]
mod tests {
    use bowline_client::{Loss, Refused, UpgradeError};

    use super::*;

    #[test]
    fn ends_of_an_exec() {
        let failed = Outcome::Failed {
            message: "container not found".into(),
            code: Some(500),
            reason: "InternalError".into(),
        };
        let loss = Loss::new(Cause::Closed, "going away");
        let refused =
            Refused { code: 403, reason: "Forbidden".into(), message: "pods is forbidden".into() };
        let broken = std::io::Error::from_raw_os_error(28);
        let cases = [
            Ok(Ended::Known(Outcome::Success)),
            Ok(Ended::Known(Outcome::Exited(42))),
            Ok(Ended::Known(failed)),
            Ok(Ended::Lost { loss, received_bytes: 7 }),
            Ok(Ended::Lost { loss: Loss::new(Cause::Cut, ""), received_bytes: 0 }),
            Err(UpgradeError::Refused(refused).into()),
            Err(UpgradeError::Redirected("https://elsewhere/".into()).into()),
            Err(Error::End(EndError::Write("stdout", broken))),
        ];
        let mut text = String::new();
        for case in cases {
            let end = of_exec(case.map_err(Failure::Session), "10.0.0.1:6443");
            text.push_str(&format!("{}: {}\n", end.code, end.lines.join("\n")));
        }
        insta::assert_snapshot!(text);
    }
}
