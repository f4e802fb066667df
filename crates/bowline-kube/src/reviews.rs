//! Credentials and attributes to what an API server says of them: TokenReview and
//! SubjectAccessReview, with the kubelet's rules (docs/protocols/kubelet.md, 7.7).
//!
//! Answers are kept for a time (`answers.rs`), errors never. Whatever is not clearly a yes is none.

mod access;
mod answers;
mod token;

use std::time::Duration;

use bowline_io::auth::Unavailable;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;
use tokio::time::sleep;

pub use self::access::{AccessReviews, self_review};
pub use self::token::TokenReviews;
use crate::api::{Api, ApiError};

/// The longest answer that is read. A user in ten thousand groups is below this.
const ANSWER_BYTES: usize = 1024 * 1024;
/// How often a question is asked at most, as by the kubelet.
const TRIES: u32 = 5;
/// The pause before the second try; each further one is half as long again.
const PAUSE: Duration = Duration::from_millis(500);

/// An answer that is none.
#[derive(Debug, Error)]
enum BadAnswer {
    /// It is an object of another kind.
    #[error("the API server answers a {0} with another kind of object")]
    Kind(&'static str),
    /// A token is somebody's, whose name is not said.
    #[error("the API server knows a token, and does not say whose it is")]
    NoName,
    /// The token is nobody's, for this reason.
    #[error("{0}")]
    Token(String),
}

/// A review, as it is sent.
#[derive(Serialize)]
struct Question<'a, S> {
    #[serde(rename = "apiVersion")]
    version: &'static str,
    kind: &'static str,
    spec: &'a S,
}

/// A review, as it comes back.
#[derive(Deserialize)]
struct Reviewed<T> {
    #[serde(default)]
    kind: String,
    status: T,
}

/// A kind of review.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
}

/// Asks for one review, and again after errors that may pass.
async fn review<S: Serialize, T: DeserializeOwned>(
    api: &Api,
    kind: &Kind,
    spec: &S,
) -> Result<T, Unavailable> {
    let question = Question { version: kind.version, kind: kind.name, spec };
    let path = ["apis", kind.group, "v1", kind.resource];
    let reviewed = until_final(|| api.post(&path, &question, ANSWER_BYTES)).await;
    let reviewed: Reviewed<T> = reviewed.map_err(Unavailable::new)?;
    if reviewed.kind == kind.name {
        Ok(reviewed.status)
    } else {
        Err(Unavailable::new(BadAnswer::Kind(kind.name)))
    }
}

async fn until_final<T, F>(mut ask: impl FnMut() -> F) -> Result<T, ApiError>
where
    F: Future<Output = Result<T, ApiError>>,
{
    let (mut tries, mut pause) = (1, PAUSE);
    loop {
        match ask().await {
            Err(error) if tries < TRIES && error.may_pass() => {}
            last => return last,
        }
        // At a random time, so that not all who wait ask at once.
        sleep(pause.mul_f64(rand::random_range(1.0..1.2))).await;
        (tries, pause) = (tries + 1, pause + pause / 2);
    }
}

/// Reads a value that Go may write as `null`.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
