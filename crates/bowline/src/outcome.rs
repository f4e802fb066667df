//! What became of a command to the last line on stderr and the exit code. All of them are here.

use std::fmt::Display;

use bowline_client::{Cause, EndError, Ended, Error, Outcome};
use bowline_kube::target::TargetError;

use bowline_io::text::{go_error, sanitized};

use crate::args::suggestions::suggestions;
use crate::args::{BadUsage, COMMANDS, Hint, Refusal};
use crate::remote::Failure;

/// Refusals and usage: kubectl's code for everything that is not the command's own.
pub const REFUSED: u8 = 1;
/// The outcome is not known.
pub const LOST: u8 = 255;

/// How much of what a runtime says is shown: more than any of them says.
const MESSAGE_BYTES: usize = 8192;

/// The end of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The exit code.
    pub code: u8,
    /// For stderr, line by line; none where all went well.
    pub lines: Vec<String>,
}

impl End {
    /// The end of what went well.
    pub fn success() -> End {
        End::silent(0)
    }

    /// The end of which nothing is to be said.
    pub fn silent(code: u8) -> End {
        End { code, lines: Vec::new() }
    }

    /// A refusal: `error: ` and what it says, unless that is a whole line already.
    pub fn refused(error: impl Display) -> End {
        End { code: REFUSED, lines: vec![format!("error: {error}")] }
    }

    /// A refusal with a line of its own.
    pub fn line(error: impl Display) -> End {
        End { code: REFUSED, lines: vec![error.to_string()] }
    }

    /// Each line of its texts as a line: for texts of this program's own.
    #[must_use]
    pub fn with_its_lines(self) -> End {
        let lines = self.lines.iter().flat_map(|text| text.lines()).map(ToOwned::to_owned);
        End { code: self.code, lines: lines.collect() }
    }
}

impl From<TargetError> for End {
    fn from(error: TargetError) -> End {
        match error {
            TargetError::Api(error) => End::line(error),
            error => End::refused(error),
        }
    }
}

/// The end of a command line that cannot be followed. `program` is how it was called.
pub fn of_usage(refusal: &Refusal, program: &str) -> End {
    let called = format!("{program} {}", refusal.command.name);
    let called = called.trim_end();
    let error = &refusal.usage;
    let hint = match error.hint() {
        Hint::None => None,
        Hint::Commands => return of_command(error, program),
        Hint::Usage => Some(format!("See '{called} --help' for usage.")),
        Hint::HelpAndExamples => Some(format!("See '{called} -h' for help and examples")),
    };
    let mut end = End::refused(error);
    end.lines.extend(hint);
    end
}

fn of_command(error: &BadUsage, program: &str) -> End {
    let mut end = End::refused(format_args!("{error} for {program:?}"));
    let BadUsage::Command(word) = error else { return end };
    let suggested = suggestions(word, COMMANDS.iter().map(|command| command.name));
    if !suggested.is_empty() {
        end.lines.extend([String::new(), "Did you mean this?".to_owned()]);
        end.lines.extend(suggested.iter().map(|name| format!("  {name}")));
    }
    end
}

/// The end of an exec. `server` is who was asked.
pub fn of_exec(result: Result<Ended, Failure>, server: &str) -> End {
    of_session(result, server, lost_command)
}

/// The end of an attach.
pub fn of_attach(result: Result<Ended, Failure>, server: &str) -> End {
    of_session(result, server, lost_session)
}

/// What it means that a session was lost.
type Lost = fn(&dyn Display) -> String;

fn of_session(result: Result<Ended, Failure>, server: &str, words: Lost) -> End {
    let result = match result {
        Ok(ended) => ended.known(),
        Err(Failure::Here(end)) => return end,
        Err(Failure::Session(error)) => Err(error),
    };
    match result {
        Ok(Outcome::Success) => End::success(),
        Ok(Outcome::Exited(code)) => {
            End { code, lines: vec![format!("command terminated with exit code {code}")] }
        }
        Ok(Outcome::Failed { message, .. }) => End::refused(sanitized(&message, MESSAGE_BYTES)),
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
        Err(error) => End::refused(error),
    }
}

/// A command's fate is not known.
fn lost_command(what: &dyn Display) -> String {
    format!("the command's outcome is unknown: {what}; the command may still be running")
}

/// A process goes on without those who look at it.
fn lost_session(what: &dyn Display) -> String {
    format!("the session was lost: {what}; the container goes on without it")
}

fn lost(words: Lost, what: impl Display) -> End {
    End { code: LOST, lines: vec![format!("error: {}", words(&what))] }
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
