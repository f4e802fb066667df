//! A URL of anybody's to what is there: no credential of a cluster goes along.

use std::time::Duration;

use bowline_io::dial::{DialError, Endpoint, Tls, dial};
use bowline_io::http::{HttpError, head, request};
use bowline_io::proxy::{self, ProxyError};
use bowline_io::text::{redacted, sanitized};
use bowline_io::tls::{self, TlsError, Trust};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::response::Parts;
use http::{HeaderMap, HeaderValue};
use thiserror::Error;
use url::Url;

/// How often another place is asked: Go's own limit.
pub(crate) const REDIRECTS: u32 = 10;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of a foreign URL is shown.
const URL_BYTES: usize = 1024;

/// Why there is nothing.
#[derive(Debug, Error)]
pub enum WebError {
    /// The server cannot be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server did not answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The environment's proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The URL cannot be asked for.
    #[error(transparent)]
    Request(#[from] http::Error),
    /// It leads elsewhere, and on.
    #[error("stopped after {REDIRECTS} redirects")]
    Redirects,
    /// It leads nowhere.
    #[error("redirected to {0:?}, which is no URL")]
    Nowhere(String),
}

/// How a client of the web asks.
#[derive(Clone, Copy)]
pub(crate) struct Web<'a> {
    /// Whom it trusts.
    pub trust: &'a Trust,
    /// Reads the environment, for its proxy.
    pub env: &'a (dyn Fn(&str) -> Option<String> + Send + Sync),
    /// The longest answer that it reads.
    pub bytes: usize,
}

impl Web<'_> {
    /// Gets a document, wherever it is now.
    ///
    /// # Errors
    /// [`WebError`].
    pub(crate) async fn get(&self, url: &Url) -> Result<(Parts, Bytes), WebError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let (head, body) = self.exchange("GET", &url, HeaderMap::new(), Bytes::new()).await?;
            match redirect(&url, &head) {
                None => return Ok((head, body)),
                Some(to) => url = to.map_err(WebError::Nowhere)?,
            }
        }
        Err(WebError::Redirects)
    }

    /// Posts a form, to this place alone.
    ///
    /// # Errors
    /// [`WebError`].
    pub(crate) async fn post(
        &self,
        url: &Url,
        authorization: Option<HeaderValue>,
        form: String,
    ) -> Result<(Parts, Bytes), WebError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.extend(authorization.map(|value| (AUTHORIZATION, value)));
        self.exchange("POST", url, headers, form.into()).await
    }

    async fn exchange(
        &self,
        method: &str,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(Parts, Bytes), WebError> {
        let tls = match url.scheme() {
            "https" => Some(Tls { config: tls::client(self.trust, None)?, server_name: None }),
            _ => None,
        };
        let endpoint = Endpoint::of(url, tls, proxy::from_env(url, self.env)?);
        let stream = dial(&endpoint, PATIENCE).await?;
        let mut head = head(method, url, body)?;
        head.headers_mut().extend(headers);
        Ok(request(stream, head, self.bytes, PATIENCE).await?)
    }
}

/// Where an answer to `url` sends its reader; `None` if it is the answer. An error is what cannot
/// be followed, sanitized.
pub(crate) fn redirect(url: &Url, head: &Parts) -> Option<Result<Url, String>> {
    if !matches!(head.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let to = head.headers.get(LOCATION)?;
    let text = String::from_utf8_lossy(to.as_bytes());
    let next = url.join(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    Some(next.ok_or_else(|| sanitized(&redacted(&text), URL_BYTES).into_owned()))
}
