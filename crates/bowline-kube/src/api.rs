//! Plain requests to an API server, with kubectl's words for what goes wrong.

use std::sync::Arc;
use std::time::Duration;

use bowline_io::access::{Access, AccessError, Source};
use bowline_io::dial::{DialError, dial};
use bowline_io::http::{HttpError, explanation, head as http_head, open, request};
use bowline_io::observe::Observer;
use bowline_io::stream::Stream;
use bowline_io::text::{redacted, sanitized};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use crate::exchange::{Exchange, ExchangeError};
use crate::web::{REDIRECTS, redirect};

/// The longest object that is read: etcd takes none over 1.5 MiB, and discovery of a server with
/// thousands of kinds is below this.
const OBJECT_BYTES: usize = 16 * 1024 * 1024;
/// The longest page of a list: 500 pods of 128 KiB each. Most have a tenth of that.
const LIST_BYTES: usize = 64 * 1024 * 1024;
/// How many bytes of a server's message are shown.
const MESSAGE_BYTES: usize = 4096;
/// How long a server may take to accept a connection.
const DIAL_PATIENCE: Duration = Duration::from_secs(30);
/// How many times a request is tried again: client-go's number.
const TRIES: u32 = 10;
/// The pause before the next try, where the server has not named one.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause that a server may ask for. client-go has no such limit.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The media type of Kubernetes' objects.
const JSON: &str = "application/json";

/// An API server and who asks it.
#[derive(Clone)]
pub struct Api {
    /// How to reach it and as whom, asked for each connection.
    pub access: Arc<dyn Source>,
    /// Its URL; a path in it is kept in front of every request's.
    pub server: Url,
    /// The headers of every request, `User-Agent` among them.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long one request may take.
    pub patience: Duration,
    /// Who is told of every request and answer.
    pub observer: Option<Arc<dyn Observer>>,
    /// What sends plain requests over connections that are kept, to the same server and as the same
    /// user; `None` makes one for each.
    pub kept: Option<Arc<dyn Exchange>>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("server", &self.server.as_str()).finish_non_exhaustive()
    }
}

/// Why there is no answer. The text is a whole line, as kubectl prints it.
#[derive(Debug, Error)]
pub enum ApiError {
    /// There are no credentials.
    #[error("Unable to connect to the server: {0}")]
    Access(#[from] AccessError),
    /// The connection was refused.
    #[error(
        "The connection to the server {0} was refused - did you specify the right host or port?"
    )]
    Closed(String),
    /// The server is not reached for another reason.
    #[error("Unable to connect to the server: {0}")]
    Dial(#[source] DialError),
    /// The server was reached, and did not answer in HTTP.
    #[error("Unable to connect to the server: {0}")]
    Http(#[source] HttpError),
    /// There is no answer over a connection that is kept.
    #[error("Unable to connect to the server: {0}")]
    Exchange(#[from] ExchangeError),
    /// The server refuses.
    #[error("{}", status_line(reason, message))]
    Status {
        /// The HTTP status code.
        code: u16,
        /// Such as `NotFound`; may be empty.
        reason: String,
        /// The server's message.
        message: String,
    },
    /// The server sends the request to another one, credentials and all.
    #[error("error: the server redirects the request to {0}, which is not followed")]
    Redirected(String),
    /// The answer is no JSON, or not of the form that was expected.
    #[error("error: the server's answer to {path} is not understood: {error}")]
    Body {
        /// The path that was asked for.
        path: String,
        /// What is wrong with it.
        #[source]
        error: serde_json::Error,
    },
    /// The request cannot be built.
    #[error("error: the request cannot be built: {0}")]
    Request(#[from] http::Error),
    /// The object that is to be sent cannot be written as JSON.
    #[error("error: the request cannot be built: {0}")]
    Object(#[source] serde_json::Error),
}

impl ApiError {
    /// Returns whether the server says that there is no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, ApiError::Status { code: 404, .. })
    }

    /// Returns whether the same request may have an answer a moment later: the server is busy, or
    /// is being restarted.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            ApiError::Closed(_) => true,
            ApiError::Dial(error) => error.is_cut(),
            ApiError::Http(error) => error.is_cut(),
            ApiError::Exchange(error) => error.may_pass,
            ApiError::Status { code, .. } => matches!(code, 429 | 500 | 503 | 504),
            _ => false,
        }
    }
}

/// A request, but for who asks.
struct Question<'a> {
    method: &'static str,
    url: &'a Url,
    accept: &'static str,
    /// An object in JSON, or nothing.
    object: Bytes,
    reading: Reading,
}

/// How an answer is read.
#[derive(Clone, Copy)]
enum Reading {
    /// To its end, which comes before so many bytes.
    Whole(usize),
    /// Its head alone; the body of a good answer is whoever asks to read.
    AsItComes,
}

/// What is behind the head of an answer.
enum Content {
    /// The whole body, or the beginning of a refusal's.
    Read(Bytes),
    /// A body that comes.
    Comes(Incoming),
}

type Answer = (Parts, Content);

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
    /// Gets one JSON document. `segments` are the path behind the server's own; they are escaped
    /// here. What may succeed at another try is tried again, as by client-go.
    ///
    /// # Errors
    /// [`ApiError`] if there are no credentials, no answer, or an answer that is refused or
    /// unreadable.
    pub async fn get<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
        accept: &'static str,
    ) -> Result<T, ApiError> {
        self.document(segments, query, accept, OBJECT_BYTES).await
    }

    /// Gets a list, or a page of one, as [`get`](Self::get) does, with a larger bound for the
    /// answer.
    ///
    /// # Errors
    /// [`ApiError`] as with [`get`](Self::get).
    pub async fn list<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
        accept: &'static str,
    ) -> Result<T, ApiError> {
        self.document(segments, query, accept, LIST_BYTES).await
    }

    async fn document<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
        accept: &'static str,
        bytes: usize,
    ) -> Result<T, ApiError> {
        let mut url = self.url(segments);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let answer = self.exchange_until_final(&url, accept, Reading::Whole(bytes)).await?;
        read(&url, &answer)
    }

    /// Gets what is written as it happens, such as a watch: the body of a good answer, which nobody
    /// has read anything of, and whose length has no bound. Until its head is there, it is tried
    /// again as with [`get`](Self::get).
    ///
    /// # Errors
    /// [`ApiError`] as with [`get`](Self::get).
    pub async fn open(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
        accept: &'static str,
    ) -> Result<Incoming, ApiError> {
        let mut url = self.url(segments);
        url.query_pairs_mut().extend_pairs(query);
        match self.exchange_until_final(&url, accept, Reading::AsItComes).await? {
            (_, Content::Comes(body)) => Ok(body),
            (head, Content::Read(body)) => Err(refusal(head.status, &body)),
        }
    }

    /// Posts one object, and reads the object that is the answer, which may have `bytes`. After a
    /// 401 it is asked once more with other credentials, if there are any; nothing else is tried
    /// again.
    ///
    /// # Errors
    /// [`ApiError`] as with [`get`](Self::get).
    pub async fn post<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        object: &impl Serialize,
        bytes: usize,
    ) -> Result<T, ApiError> {
        let object = serde_json::to_vec(object).map_err(ApiError::Object)?.into();
        let url = self.url(segments);
        let reading = Reading::Whole(bytes);
        let question = Question { method: "POST", url: &url, accept: JSON, object, reading };
        let mut access = self.access.access().await?;
        let mut answer = self.exchange(&access, &question).await?;
        if answer.0.status == StatusCode::UNAUTHORIZED && self.renew(&access).await {
            access = self.access.access().await?;
            answer = self.exchange(&access, &question).await?;
        }
        if let Some(to) = redirect(&url, &answer.0) {
            // Whatever it is: an object is sent to nobody else.
            return Err(ApiError::Redirected(to.map_or_else(|text| text, |to| shown(&to))));
        }
        read(&url, &answer)
    }

    /// Makes the URL of what is behind the server's own path.
    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.server.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// Asks until there is a final answer: follows redirects, renews credentials, and tries again.
    async fn exchange_until_final(
        &self,
        url: &Url,
        accept: &'static str,
        reading: Reading,
    ) -> Result<Answer, ApiError> {
        let mut url = url.clone();
        let (mut tries, mut redirects, mut renewed) = (0, 0, false);
        loop {
            let access = self.access.access().await?;
            let question =
                Question { method: "GET", url: &url, accept, object: Bytes::new(), reading };
            let result = self.exchange(&access, &question).await;
            if let Ok((head, _)) = &result {
                if let Some(to) = redirect(&url, head) {
                    redirects += 1;
                    url = next_url(&url, to, redirects)?;
                    continue;
                }
                if head.status == StatusCode::UNAUTHORIZED && !renewed {
                    renewed = true;
                    if self.renew(&access).await {
                        continue;
                    }
                }
            }
            match retry_pause(&result).filter(|_| tries < TRIES) {
                None => return result,
                Some(pause) => {
                    tries += 1;
                    self.observe(|observer| {
                        let text = format!("trying again in {} s ({tries})", pause.as_secs());
                        observer.note(4, &text);
                    });
                    sleep(pause).await;
                }
            }
        }
    }

    async fn renew(&self, refused: &Access) -> bool {
        self.access.renew(refused).await.unwrap_or_else(|error| {
            let text = format!("refreshing credentials: {error}");
            self.observe(|observer| observer.note(0, &text));
            false
        })
    }

    /// Returns the server's host and port, for messages.
    #[must_use]
    pub fn authority(&self) -> String {
        let port = self.server.port_or_known_default().unwrap_or_default();
        format!("{}:{port}", self.server.host_str().unwrap_or_default())
    }

    async fn exchange(&self, access: &Access, question: &Question<'_>) -> Result<Answer, ApiError> {
        let Question { method, url, .. } = question;
        if let (Some(kept), Reading::Whole(bytes)) = (&self.kept, question.reading) {
            // They add the credentials themselves.
            let head = self.head(&[], question)?;
            let answer = timeout(self.patience, kept.exchange(head, bytes)).await;
            let late = |_| ApiError::Http(HttpError::Timeout(self.patience));
            let (head, body) = answer.map_err(late)??;
            return Ok((head, Content::Read(body)));
        }
        let head = self.head(&access.headers, question)?;
        self.observe(|observer| observer.request(method, url.as_str(), head.headers()));
        let begun = Instant::now();
        let patience = self.patience.min(DIAL_PATIENCE);
        let stream = dial(&access.endpoint, patience).await.map_err(|error| {
            if error.is_refused() {
                ApiError::Closed(self.authority())
            } else {
                ApiError::Dial(error)
            }
        })?;
        let answer = match question.reading {
            Reading::Whole(bytes) => {
                let answer = request(stream, head, bytes, self.patience).await;
                answer.map(|(head, body)| (head, Content::Read(body)))
            }
            Reading::AsItComes => opened(stream, head.map(drop), self.patience).await,
        };
        let (head, content) = answer.map_err(ApiError::Http)?;
        self.observe(|observer| {
            observer.response(method, url.as_str(), head.status, &head.headers, begun.elapsed());
            if let Content::Read(body) = &content {
                observer.body(body);
            }
        });
        Ok((head, content))
    }

    fn head(
        &self,
        credentials: &[(HeaderName, HeaderValue)],
        question: &Question<'_>,
    ) -> Result<Request<Bytes>, http::Error> {
        let mut head = http_head(question.method, question.url, question.object.clone())?;
        let is_object = !question.object.is_empty();
        let headers: &mut HeaderMap = head.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static(question.accept));
        if is_object {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        }
        for (name, value) in self.headers.iter().chain(credentials) {
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

/// Sends a request, and reads no more than the head of a good answer.
async fn opened(
    stream: Stream,
    head: Request<()>,
    patience: Duration,
) -> Result<Answer, HttpError> {
    let (head, body) = open(stream, head, patience).await?.into_parts();
    let content = if head.status.is_success() {
        Content::Comes(body)
    } else {
        Content::Read(explanation(body).await)
    };
    Ok((head, content))
}

/// Reads the object in an answer.
fn read<T: DeserializeOwned>(url: &Url, (head, content): &Answer) -> Result<T, ApiError> {
    let body: &[u8] = match content {
        Content::Read(body) => body,
        Content::Comes(_) => &[],
    };
    if !head.status.is_success() {
        return Err(refusal(head.status, body));
    }
    serde_json::from_slice(body)
        .map_err(|error| ApiError::Body { path: url.path().to_owned(), error })
}

/// Returns a URL as it is shown, without a password.
fn shown(url: &Url) -> String {
    sanitized(&redacted(url.as_str()), MESSAGE_BYTES).into_owned()
}

/// Returns the next URL to ask. It is of the same server: credentials go to no other.
fn next_url(from: &Url, to: Result<Url, String>, redirects: u32) -> Result<Url, ApiError> {
    let to = to.map_err(ApiError::Redirected)?;
    if to.origin() != from.origin() || redirects > REDIRECTS {
        return Err(ApiError::Redirected(shown(&to)));
    }
    Ok(to)
}

/// Returns how long to wait before a request is sent again; `None` if its answer is final. By
/// client-go's rules for GET: a busy server says how long; after a cut connection it is [`PAUSE`].
fn retry_pause(result: &Result<Answer, ApiError>) -> Option<Duration> {
    match result {
        Ok((head, _)) => {
            let status = head.status.as_u16();
            let seconds = head.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
            let pause = Duration::from_secs(seconds);
            ((status == 429 || status >= 500) && pause <= LONGEST_PAUSE).then_some(pause)
        }
        Err(ApiError::Http(error)) => error.is_cut().then_some(PAUSE),
        Err(ApiError::Dial(error)) => error.is_cut().then_some(PAUSE),
        Err(_) => None,
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
        reason: sanitized(&reason, 64).into(),
        message: sanitized(&message, MESSAGE_BYTES).into(),
    }
}

/// Returns client-go's reason and message for an answer that is no Status.
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

    #[test]
    fn what_is_tried_again() {
        let answer = |code: u16, retry_after: Option<&str>| {
            let mut response = http::Response::builder().status(code);
            if let Some(value) = retry_after {
                response = response.header(RETRY_AFTER, value);
            }
            let (head, ()) = response.body(()).unwrap().into_parts();
            retry_pause(&Ok((head, Content::Read(Bytes::new())))).map(|pause| pause.as_secs())
        };
        for (code, retry_after, expected) in [
            (429, Some("1"), Some(1)),
            (503, Some("0"), Some(0)),
            (500, Some("60"), Some(60)),
            (503, Some("61"), None),
            (503, Some("-1"), None),
            (503, Some("Sun, 06 Nov 1994 08:49:37 GMT"), None),
            (503, None, None),
            (429, None, None),
            (404, Some("1"), None),
            (200, Some("1"), None),
        ] {
            assert_eq!(answer(code, retry_after), expected, "{code} {retry_after:?}");
        }
        assert_eq!(retry_pause(&Err(ApiError::Http(HttpError::Cut))), Some(PAUSE));
        assert_eq!(retry_pause(&Err(ApiError::Http(HttpError::TooLong(1)))), None);
        assert_eq!(retry_pause(&Err(ApiError::Closed(String::new()))), None);
    }

    #[test]
    fn redirects_stay_at_their_server() {
        let from = Url::parse("https://a:1/b").unwrap();
        let to = |url: &str, redirects| {
            let result = next_url(&from, Ok(Url::parse(url).unwrap()), redirects);
            result.map(|url| url.to_string()).map_err(|error| error.to_string())
        };
        assert_eq!(to("https://a:1/c", 10).unwrap(), "https://a:1/c");
        assert!(to("https://a:1/c", 11).is_err());
        for other in ["http://a:1/c", "https://a:2/c", "https://b:1/c"] {
            assert!(to(other, 1).unwrap_err().contains("is not followed"), "{other}");
        }
        assert!(!to("https://me:SECRET@b:1/", 1).unwrap_err().contains("SECRET"));
    }
}
