//! Plain GET requests to an API server, with kubectl's words for what goes wrong.
//! Above: [`resources`](crate::resources), [`target`](crate::target). Below: `bowline_io`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_io::dial::{DialError, dial};
use bowline_io::http::{HttpError, head as http_head, request};
use bowline_io::observe::Observer;
use bowline_io::text::harmless;
use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use url::Url;

use crate::credentials::Access;

/// The longest answer that is read: a list of pods of a large namespace fits.
const BODY_BYTES: usize = 64 * 1024 * 1024;
/// How much of a server's message is shown.
const MESSAGE_BYTES: usize = 4096;
/// How long a server may take to accept a connection.
const DIAL_PATIENCE: Duration = Duration::from_secs(30);

/// An API server and who asks it.
#[derive(Clone)]
pub struct Api {
    /// How to reach it, as whom.
    pub access: Access,
    /// Its URL; a path in it is kept in front of every request's.
    pub server: Url,
    /// `User-Agent` and what else every request carries.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long one request may take.
    pub patience: Duration,
    /// Is told of every request.
    pub observer: Option<Arc<dyn Observer>>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("server", &self.server.as_str()).finish_non_exhaustive()
    }
}

/// Why there is no answer. The text is a whole line, as kubectl prints it.
#[derive(Debug, Error)]
pub enum ApiError {
    /// Nobody listens there.
    #[error(
        "The connection to the server {0} was refused - did you specify the right host or port?"
    )]
    Closed(String),
    /// Not reached for another reason.
    #[error("Unable to connect to the server: {0}")]
    Dial(DialError),
    /// Reached, and did not answer in HTTP.
    #[error("Unable to connect to the server: {0}")]
    Http(HttpError),
    /// The server's refusal.
    #[error("{}", status_line(reason, message))]
    Status {
        /// The HTTP status code.
        code: u16,
        /// Such as `NotFound`; may be empty.
        reason: String,
        /// What the server says.
        message: String,
    },
    /// The answer is not what it should be.
    #[error("error: the server's answer to {path} is not understood: {error}")]
    Body {
        /// What was asked for.
        path: String,
        /// Why.
        error: String,
    },
    /// The request cannot be written down.
    #[error("error: the request cannot be built: {0}")]
    Request(#[from] http::Error),
}

impl ApiError {
    /// Whether there is no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, ApiError::Status { code: 404, .. })
    }
}

fn status_line(reason: &str, message: &str) -> String {
    match reason {
        "Unauthorized" => format!("error: You must be logged in to the server ({message})"),
        "" => format!("Error from server: {message}"),
        _ => format!("Error from server ({reason}): {message}"),
    }
}

#[derive(Deserialize)]
struct Status {
    kind: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
}

impl Api {
    /// Gets a JSON document. `segments` are the path behind the server's own; they are escaped
    /// here.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
        accept: &'static str,
    ) -> Result<Value, ApiError> {
        let mut url = self.server.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let (status, body) = self.exchange(&url, accept).await?;
        if !status.is_success() {
            return Err(refusal(status, &body));
        }
        serde_json::from_slice(&body).map_err(|error| ApiError::Body {
            path: url.path().to_owned(),
            error: error.to_string(),
        })
    }

    /// The server's host and port, as a message names it.
    #[must_use]
    pub fn authority(&self) -> String {
        let port = self.server.port_or_known_default().unwrap_or_default();
        format!("{}:{port}", self.server.host_str().unwrap_or_default())
    }

    async fn exchange(
        &self,
        url: &Url,
        accept: &'static str,
    ) -> Result<(StatusCode, Bytes), ApiError> {
        let head = self.head(url, accept)?;
        self.observe(|observer| observer.request("GET", url.as_str(), head.headers()));
        let begun = Instant::now();
        let patience = self.patience.min(DIAL_PATIENCE);
        let endpoint = &self.access.endpoint;
        let stream = dial(endpoint, patience).await.map_err(|error| {
            if error.is_refused() {
                ApiError::Closed(self.authority())
            } else {
                ApiError::Dial(error)
            }
        })?;
        let answer = request(stream, head, BODY_BYTES, self.patience).await;
        let (head, body) = answer.map_err(ApiError::Http)?;
        self.observe(|observer| {
            observer.response("GET", url.as_str(), head.status, &head.headers, begun.elapsed());
            observer.body(&body);
        });
        Ok((head.status, body))
    }

    fn head(&self, url: &Url, accept: &'static str) -> Result<Request<Bytes>, http::Error> {
        let mut head = http_head("GET", url, Bytes::new())?;
        let headers: &mut HeaderMap = head.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        for (name, value) in self.headers.iter().chain(&self.access.headers) {
            if name == USER_AGENT {
                headers.insert(name, value.clone());
            } else {
                headers.append(name, value.clone());
            }
        }
        Ok(head)
    }

    fn observe(&self, tell: impl FnOnce(&dyn Observer)) {
        if let Some(observer) = &self.observer {
            tell(&**observer);
        }
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> ApiError {
    let code = status.as_u16();
    let said = serde_json::from_slice::<Status>(body).ok().filter(|said| said.kind == "Status");
    let (reason, message) = match said {
        Some(said) => (said.reason, said.message),
        None => unexplained(status, body),
    };
    ApiError::Status {
        code,
        reason: harmless(&reason, 64).into(),
        message: harmless(&message, MESSAGE_BYTES).into(),
    }
}

/// client-go's words for an answer that is no Status.
fn unexplained(status: StatusCode, body: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    let (reason, message) = match status.as_u16() {
        401 => {
            ("Unauthorized", "the server has asked for the client to provide credentials".into())
        }
        403 => ("Forbidden", if text.is_empty() { "unknown".into() } else { text.to_owned() }),
        404 => ("NotFound", "the server could not find the requested resource".into()),
        429 | 500.. => (
            "InternalError",
            format!("an error on the server ({text:?}) has prevented the request from succeeding"),
        ),
        code => ("", format!("the server answered {code} {text}")),
    };
    (reason.to_owned(), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_kubectls_words() {
        let line = |code: u16, body: &str| {
            refusal(StatusCode::from_u16(code).unwrap(), body.as_bytes()).to_string()
        };
        let body = r#"{"kind":"Status","reason":"NotFound","message":"pods \"x\" not found"}"#;
        assert_eq!(line(404, body), "Error from server (NotFound): pods \"x\" not found");
        let body = r#"{"kind":"Status","reason":"Unauthorized","message":"Unauthorized"}"#;
        assert_eq!(line(401, body), "error: You must be logged in to the server (Unauthorized)");
        let body = r#"{"kind":"Status","message":"boom \u001b[2J"}"#;
        assert!(!line(500, body).contains('\u{1b}'));
        assert_eq!(line(403, ""), "Error from server (Forbidden): unknown");
        assert!(line(502, "<html>").contains("an error on the server (\"<html>\")"));
    }
}
