//! Turns the JSON of a Kubernetes Status into an outcome, and an outcome into JSON.

use alloc::borrow::{Cow, ToOwned};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::REASON_BYTES;

/// How a remote command ended: the JSON that the server sent, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    json: Bytes,
    outcome: Outcome,
}

/// What a Status means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command ran and exited with 0.
    Success,
    /// The command ran and exited with this code, never 0. Death by signal N gives 128 + N.
    Exited(u8),
    /// The command could not be run, or its end not be found out.
    Failed {
        /// The server's explanation; never empty.
        message: String,
        /// The HTTP-like code, where the server gave one.
        code: Option<u16>,
        /// Kubernetes' machine-readable reason, such as `NotFound`; may be empty.
        reason: String,
    },
}

impl Outcome {
    /// Returns whether the command exited with 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        *self == Outcome::Success
    }

    /// Returns the command's exit code, 0 included; none if it could not be run.
    #[must_use]
    pub fn code(&self) -> Option<u8> {
        match self {
            Outcome::Success => Some(0),
            Outcome::Exited(code) => Some(*code),
            Outcome::Failed { .. } => None,
        }
    }
}

/// Why some bytes are not a Status that says how a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadStatus {
    /// They are not JSON, or not of a Status' shape.
    #[error("{error} in {text:?}")]
    Json {
        /// What the parser said.
        error: String,
        /// The beginning of the bytes.
        text: String,
    },
    /// Their `status` is neither `Success` nor `Failure`.
    #[error("unknown status {0:?}")]
    Unknown(String),
    /// They say that the command failed, without details.
    #[error("details must be set")]
    NoDetails,
    /// They say that the command failed, and their details do not name its code.
    #[error("no ExitCode cause given")]
    NoExitCode,
    /// They say that the command failed with a code that is not a number from 1 to 255.
    #[error("invalid exit code value {0:?}")]
    ExitCode(String),
    /// They say that whoever wrote them could not read the Status that it got itself. This is why.
    #[error("{0}")]
    Unread(String),
}

/// The JSON's shape. Order and omissions are those of the API server's encoder.
#[derive(Serialize, Deserialize)]
struct StatusJson<'a> {
    #[serde(skip_deserializing)]
    metadata: Empty,
    #[serde(borrow, default)]
    status: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    message: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    reason: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    details: Option<Details<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<i32>,
}

#[derive(Default, Serialize)]
struct Empty {}

#[derive(Serialize, Deserialize)]
struct Details<'a> {
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    causes: Vec<CauseOfStatus<'a>>,
}

#[derive(Serialize, Deserialize)]
struct CauseOfStatus<'a> {
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    reason: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    message: Cow<'a, str>,
}

const NON_ZERO: &str = "NonZeroExitCode";
const EXIT_CODE: &str = "ExitCode";
const INTERNAL: &str = "InternalError";
/// What API servers and kubelets that translate between carriers make of a Status that is none, or
/// of the reason of a loss in its place (docs/protocols, remote-command.md, 2.6; gateway.md, 4.3).
const UNREAD: &str = "Internal error occurred: error stream protocol error: ";

impl Status {
    /// The Status of a command that exited with 0.
    #[must_use]
    pub fn success() -> Status {
        Status::build(&fields("Success", "", "", None, None), Outcome::Success)
    }

    /// The Status of a command that exited with `code`, where 0 is success. `why` is the runtime's
    /// explanation.
    #[must_use]
    pub fn exited(code: u8, why: &str) -> Status {
        if code == 0 {
            return Status::success();
        }
        let message = format!("command terminated with non-zero exit code: {why}");
        let cause = CauseOfStatus { reason: EXIT_CODE.into(), message: code.to_string().into() };
        let details = Details { causes: alloc::vec![cause] };
        let fields = fields("Failure", &message, NON_ZERO, Some(details), None);
        Status::build(&fields, Outcome::Exited(code))
    }

    /// The Status of a command that could not be run, as an internal error with this reason.
    #[must_use]
    pub fn failed(why: &str) -> Status {
        let message = format!("Internal error occurred: {why}");
        let cause = CauseOfStatus { reason: "".into(), message: why.into() };
        let details = Details { causes: alloc::vec![cause] };
        let fields = fields("Failure", &message, INTERNAL, Some(details), Some(500));
        let (code, reason) = (Some(500), INTERNAL.to_owned());
        Status::build(&fields, Outcome::Failed { message: message.clone(), code, reason })
    }

    /// The Status of a failure that a protocol without JSON sent as plain `text`.
    #[must_use]
    pub fn from_text(text: &str) -> Status {
        let text = failure_text(text, "");
        let fields = fields("Failure", text, INTERNAL, None, Some(500));
        let (code, reason) = (Some(500), INTERNAL.to_owned());
        Status::build(&fields, Outcome::Failed { message: text.to_owned(), code, reason })
    }

    /// Parses the bytes of an error channel.
    ///
    /// # Errors
    /// [`BadStatus`] if they do not say how the command ended: the outcome is unknown then.
    pub fn parse(json: Bytes) -> Result<Status, BadStatus> {
        let bad = |error: String| {
            let text = String::from_utf8_lossy(&json[..json.len().min(200)]).into_owned();
            BadStatus::Json { error, text }
        };
        // serde_json would take a list for an object, with its values in the order of our fields.
        if json.trim_ascii_start().first().is_some_and(|&first| first != b'{') {
            return Err(bad("not an object".to_owned()));
        }
        let fields: StatusJson<'_> =
            serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))?;
        let outcome = outcome(&fields)?;
        Ok(Status { json, outcome })
    }

    /// The JSON, as the error channel of v4 and v5 carries it.
    #[must_use]
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// What the Status means.
    #[must_use]
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// The text that protocols without JSON send: nothing on success, the message otherwise.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.outcome {
            Outcome::Success => String::new(),
            Outcome::Failed { message, .. } => message.clone(),
            Outcome::Exited(code) => {
                let fields: Result<StatusJson<'_>, _> = serde_json::from_slice(&self.json);
                let message = fields.map(|fields| fields.message.into_owned()).unwrap_or_default();
                if message.is_empty() {
                    format!("command terminated with exit code {code}")
                } else {
                    message
                }
            }
        }
    }

    fn build(fields: &StatusJson<'_>, outcome: Outcome) -> Status {
        // A value of strings and numbers always has a JSON form.
        let json = serde_json::to_vec(fields).unwrap_or_default();
        Status { json: json.into(), outcome }
    }
}

fn fields<'a>(
    status: &'a str,
    message: &'a str,
    reason: &'a str,
    details: Option<Details<'a>>,
    code: Option<i32>,
) -> StatusJson<'a> {
    let (status, message, reason) = (status.into(), message.into(), reason.into());
    StatusJson { metadata: Empty {}, status, message, reason, details, code }
}

fn outcome(fields: &StatusJson<'_>) -> Result<Outcome, BadStatus> {
    match &*fields.status {
        "Success" => Ok(Outcome::Success),
        "Failure" if fields.reason == NON_ZERO => exit_code(fields).map(Outcome::Exited),
        "Failure" if fields.reason == INTERNAL && fields.message.starts_with(UNREAD) => {
            let why = fields.message[UNREAD.len()..].chars().take(REASON_BYTES).collect();
            Err(BadStatus::Unread(why))
        }
        "Failure" => Ok(Outcome::Failed {
            message: failure_text(&fields.message, &fields.reason).to_owned(),
            code: fields.code.and_then(|code| u16::try_from(code).ok()),
            reason: fields.reason.clone().into_owned(),
        }),
        other => Err(BadStatus::Unknown(other.to_owned())),
    }
}

/// Returns the text of a failure, which is never empty: where there is no JSON, an empty text would
/// be success.
fn failure_text<'a>(message: &'a str, reason: &'a str) -> &'a str {
    let said = [message, reason].into_iter().find(|text| !text.trim().is_empty());
    said.unwrap_or("the command failed, and the server does not say why")
}

/// Returns the code of the first `ExitCode` cause, as client-go does. A 0 is refused: it would
/// report a failure as success.
fn exit_code(fields: &StatusJson<'_>) -> Result<u8, BadStatus> {
    let details = fields.details.as_ref().ok_or(BadStatus::NoDetails)?;
    let cause = details.causes.iter().find(|cause| cause.reason == EXIT_CODE);
    let text = &*cause.ok_or(BadStatus::NoExitCode)?.message;
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let code = text.parse::<u8>().ok().filter(|code| digits && *code != 0);
    code.ok_or_else(|| BadStatus::ExitCode(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(json: &str) -> Result<Outcome, BadStatus> {
        Status::parse(Bytes::copy_from_slice(json.as_bytes())).map(|status| status.outcome)
    }

    /// The exact JSON of the API server's translator.
    #[test]
    fn what_is_sent_is_what_the_api_server_sends() {
        assert_eq!(&Status::success().json()[..], br#"{"metadata":{},"status":"Success"}"#);
        let exited = Status::exited(1, "command terminated with exit code 1");
        let expected = concat!(
            r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero "#,
            r#"exit code: command terminated with exit code 1","reason":"NonZeroExitCode","#,
            r#""details":{"causes":[{"reason":"ExitCode","message":"1"}]}}"#
        );
        assert_eq!(core::str::from_utf8(exited.json()), Ok(expected));
        let expected = concat!(
            r#"{"metadata":{},"status":"Failure","message":"Internal error occurred: X","reason":"#,
            r#""InternalError","details":{"causes":[{"message":"X"}]},"code":500}"#
        );
        assert_eq!(core::str::from_utf8(Status::failed("X").json()), Ok(expected));
    }

    #[test]
    fn both_forms_of_success_are_understood() {
        assert_eq!(parse(r#"{"status":"Success"}"#), Ok(Outcome::Success));
        assert_eq!(parse(r#"{"metadata":{},"status":"Success","x":[1]}"#), Ok(Outcome::Success));
    }

    #[test]
    fn a_failure_without_words_has_some_where_words_are_all_there_is() {
        for (json, expected) in [
            (r#"{"status":"Failure"}"#, "the command failed, and the server does not say why"),
            (r#"{"status":"Failure","message":" ","reason":"Timeout"}"#, "Timeout"),
            (r#"{"status":"Failure","message":"why","reason":"Timeout"}"#, "why"),
        ] {
            let status = Status::parse(Bytes::from_static(json.as_bytes())).unwrap();
            assert_eq!(status.text(), expected);
            let Outcome::Failed { message, .. } = status.outcome() else { panic!("{json}") };
            assert_eq!(message, expected);
        }
        assert!(!Status::from_text("").text().is_empty());
    }

    #[test]
    fn nothing_doubtful_is_taken_for_an_outcome() {
        assert!(matches!(parse("{"), Err(BadStatus::Json { .. })));
        assert!(matches!(parse(""), Err(BadStatus::Json { .. })));
        for bare in [r#"["Success"]"#, r#" ["Success"]"#, "[]", "null", r#""Success""#, "0"] {
            let bad = parse(bare).unwrap_err().to_string();
            assert!(bad.starts_with("not an object in "), "{bad}");
        }
        assert!(matches!(parse(r#"{"status":"Success"}{}"#), Err(BadStatus::Json { .. })));
        assert_eq!(parse("{}"), Err(BadStatus::Unknown(String::new())));
        let failure = |details: &str| {
            parse(&format!(r#"{{"status":"Failure","reason":"NonZeroExitCode"{details}}}"#))
        };
        assert_eq!(failure(""), Err(BadStatus::NoDetails));
        assert_eq!(failure(r#","details":{}"#), Err(BadStatus::NoExitCode));
        for code in ["", "0", "256", "-1", "+1", "x", "1.0"] {
            let details =
                format!(r#","details":{{"causes":[{{"reason":"ExitCode","message":"{code}"}}]}}"#);
            assert_eq!(failure(&details), Err(BadStatus::ExitCode(code.into())));
        }
    }

    #[test]
    fn what_a_hop_could_not_read_is_no_outcome() {
        let json = concat!(
            r#"{"status":"Failure","message":"Internal error occurred: error stream protocol "#,
            r#"error: invalid character 's' in \"session lost: x\"","reason":"InternalError"}"#
        );
        let expected = "invalid character 's' in \"session lost: x\"";
        assert_eq!(parse(json), Err(BadStatus::Unread(expected.into())));
        let other = json.replace("InternalError", "Other");
        assert!(matches!(parse(&other), Ok(Outcome::Failed { .. })));
    }

    proptest! {
        #[test]
        fn what_is_sent_is_understood(code: u8, why: String) {
            let sent = Status::exited(code, &why);
            prop_assert_eq!(Status::parse(sent.json().clone()), Ok(sent.clone()));
            prop_assert_eq!(sent.text().is_empty(), code == 0);
            let sent = Status::failed(&why);
            prop_assert_eq!(Status::parse(sent.json().clone()), Ok(sent));
        }

        #[test]
        fn no_bytes_make_it_panic(json: Vec<u8>) {
            let _ = Status::parse(json.into());
        }
    }
}
