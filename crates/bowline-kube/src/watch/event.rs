//! A line of a watch to what happened.

use std::borrow::Cow;

use serde::Deserialize;
use thiserror::Error;

use super::Watchable;
use crate::objects::or_default;

/// The code of a version of which the server no longer knows what happened since.
pub(super) const GONE: u16 = 410;

/// What happened.
#[derive(Debug)]
pub(super) enum Event<T> {
    /// An object is there, or is another one now.
    Is(T),
    /// An object is no longer there.
    IsNot(T),
    /// Nothing, up to this version.
    Bookmark(String),
    /// The server can tell no more.
    Failed {
        /// Its code; 0 if it has none.
        code: u16,
        /// Its words.
        message: String,
    },
}

/// Why a line is no event.
#[derive(Debug, Error)]
pub(super) enum BadEvent {
    /// It is not of an event's form.
    #[error("an event is not understood: {0}")]
    Form(#[from] serde_json::Error),
    /// It is an event of a kind that there is not.
    #[error("an event is of no known kind")]
    Kind,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Of<T> {
    object: T,
}

#[derive(Deserialize)]
struct Mark {
    metadata: MarkMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MarkMetadata {
    resource_version: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Failure {
    #[serde(deserialize_with = "or_default")]
    code: u16,
    #[serde(deserialize_with = "or_default")]
    message: String,
}

/// Reads a line. Its kind may stand behind the object, so it is read twice.
pub(super) fn read<T: Watchable>(line: &[u8]) -> Result<Event<T>, BadEvent> {
    let Kind { kind } = serde_json::from_slice(line)?;
    Ok(match &*kind {
        "ADDED" | "MODIFIED" => Event::Is(serde_json::from_slice::<Of<T>>(line)?.object),
        "DELETED" => Event::IsNot(serde_json::from_slice::<Of<T>>(line)?.object),
        "BOOKMARK" => {
            let Of::<Mark> { object } = serde_json::from_slice(line)?;
            Event::Bookmark(object.metadata.resource_version)
        }
        "ERROR" => {
            let Of::<Failure> { object } = serde_json::from_slice(line)?;
            Event::Failed { code: object.code, message: object.message }
        }
        _ => return Err(BadEvent::Kind),
    })
}
