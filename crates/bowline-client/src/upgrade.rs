//! A request to an upgraded connection, over the carrier that is offered first or the one behind
//! it.

use std::time::Duration;

use bowline_io::access::{Access, AccessError};
use bowline_io::dial::{DialError, dial};
use bowline_io::http::{HttpError, UpgradeAnswer, head as http_head, lines, upgrade};
use bowline_io::observe::Observer;
use bowline_io::record::Denied;
use bowline_io::stream::Upgraded;
use bowline_io::text::{redacted, sanitized};
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::{Lines, NotUpgraded, Offer};
use bowline_proto::session::Protocol;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use thiserror::Error;
use tokio::time::Instant;

use crate::client::Client;

/// How long a server may take to answer the upgrade. Admission webhooks may take 30 s of it.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(60);

/// Why no session came about.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// One of the client's [admissions](crate::Client::admission) has no room for the session.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There are no credentials.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Nothing was reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server was reached and did not speak HTTP to the end.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The server answered with something else than the upgrade.
    #[error("unable to upgrade connection: {0}")]
    Refused(Refused),
    /// The server said yes and its words do not fit.
    #[error("unable to upgrade connection: {0}")]
    NotUpgraded(NotUpgraded),
    /// The server wants the stream to go elsewhere, credentials and all.
    #[error("the server redirects the stream to {0}, which is not followed")]
    Redirected(String),
    /// A header or the URL cannot be sent.
    #[error("the request cannot be built: {0}")]
    Request(#[from] http::Error),
}

impl UpgradeError {
    /// Whether another carrier may do better.
    fn falls_back(&self) -> bool {
        match self {
            UpgradeError::Refused(_)
            | UpgradeError::NotUpgraded(_)
            | UpgradeError::Redirected(_) => true,
            // A box that drops what it does not know, before any answer.
            UpgradeError::Http(error) => error.is_cut(),
            _ => false,
        }
    }

    /// Whether other credentials may do better.
    fn is_unauthorized(&self) -> bool {
        matches!(self, UpgradeError::Refused(Refused { code: 401, .. }))
    }
}

/// A refusal, as far as the server explained it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status code.
    pub code: u16,
    /// The Status' reason, such as `Forbidden`; empty if there was no Status.
    pub reason: String,
    /// The Status' message or the body's text; sanitized and bounded.
    pub message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.message.is_empty() { "empty server response" } else { &self.message })
    }
}

/// A connection that was upgraded.
pub(crate) struct Switched {
    pub connection: Upgraded,
    /// What is spoken on it.
    pub protocol: &'static Protocol,
    /// Of the 101.
    pub headers: HeaderMap,
}

/// Where to ask, as whom, and for what.
pub(crate) struct Asking<'a> {
    pub client: &'a Client,
    pub url: &'a url::Url,
}

impl Asking<'_> {
    /// Asks for `first`, and for `second` where that is refused in a way that the carrier may have
    /// to do with. `what` names the fallback to the observer.
    pub async fn either(
        &self,
        first: Option<Offer>,
        second: Offer,
        what: &str,
    ) -> Result<Switched, UpgradeError> {
        let mut may_renew = true;
        if let Some(first) = first {
            match self.authorized(&first, true).await {
                Err(error) if error.falls_back() => {
                    self.note(4, &format!("{what}: {error}"));
                    may_renew = !error.is_unauthorized();
                }
                result => return result,
            }
        }
        self.authorized(&second, may_renew).await
    }

    /// Asks once, and once more with other credentials if the first were refused.
    async fn authorized(&self, offer: &Offer, may_renew: bool) -> Result<Switched, UpgradeError> {
        let access = self.client.access.access().await?;
        let refused = match self.attempt(offer, &access).await {
            Err(error) if error.is_unauthorized() && may_renew => error,
            result => return result,
        };
        match self.client.access.renew(&access).await {
            Ok(true) => self.attempt(offer, &self.client.access.access().await?).await,
            Ok(false) => Err(refused),
            Err(error) => {
                self.note(0, &format!("refreshing credentials: {error}"));
                Err(refused)
            }
        }
    }

    fn observe(&self, tell: impl FnOnce(&dyn Observer)) {
        if let Some(observer) = &self.client.observer {
            tell(&**observer);
        }
    }

    pub fn note(&self, level: u8, text: &str) {
        self.observe(|observer| observer.note(level, text));
    }

    async fn attempt(&self, offer: &Offer, access: &Access) -> Result<Switched, UpgradeError> {
        let head = self.head(offer, access)?;
        self.observe(|observer| {
            observer.request(offer.method(), self.url.as_str(), head.headers());
        });
        let begun = Instant::now();
        let stream = dial(&access.endpoint, self.client.connect_timeout).await?;
        let answer = upgrade(stream, head, UPGRADE_PATIENCE).await?;
        let response = match &answer {
            UpgradeAnswer::Switched { head, .. } | UpgradeAnswer::Refused { head, .. } => head,
        };
        self.observe(|observer| {
            let (method, url) = (offer.method(), self.url.as_str());
            observer.response(method, url, response.status, &response.headers, begun.elapsed());
            if let UpgradeAnswer::Refused { body, .. } = &answer {
                observer.body(body);
            }
        });
        match answer {
            UpgradeAnswer::Refused { head, body } => Err(refused(&head, &body)),
            UpgradeAnswer::Switched { head, connection } => {
                let lines = lines(&head.headers);
                let protocol = offer
                    .check(head.status.as_u16(), Lines(&lines))
                    .map_err(UpgradeError::NotUpgraded)?;
                Ok(Switched { connection, protocol, headers: head.headers })
            }
        }
    }

    fn head(&self, offer: &Offer, access: &Access) -> Result<Request<()>, http::Error> {
        let mut head = http_head(offer.method(), self.url, ())?;
        let headers = head.headers_mut();
        for (name, value) in self.client.headers.iter().chain(&access.headers) {
            headers.append(name, value.clone());
        }
        for (name, value) in offer.headers() {
            headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        if offer.method() == "POST" {
            headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Ok(head)
    }
}

/// The parts of a Status that a refusal is made of.
#[derive(serde::Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
}

fn refused(head: &http::response::Parts, body: &[u8]) -> UpgradeError {
    if head.status.is_redirection() {
        let to = head.headers.get(http::header::LOCATION).and_then(|to| to.to_str().ok());
        return UpgradeError::Redirected(
            sanitized(&redacted(to.unwrap_or("nowhere")), REASON_BYTES).into(),
        );
    }
    let text = String::from_utf8_lossy(body);
    let status = serde_json::from_slice::<Status>(body).ok().filter(|s| !s.message.is_empty());
    let (reason, message) = match status {
        Some(status) => (status.reason, status.message),
        None => (String::new(), text.trim().to_owned()),
    };
    UpgradeError::Refused(Refused {
        code: head.status.as_u16(),
        reason: sanitized(&reason, 64).into(),
        message: sanitized(&message, REASON_BYTES).into(),
    })
}
